//! A libtorrent session in a separate process.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::environment::{Libtorrent, repository};

/// How long any one command may take beyond the timeout it names itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which info dictionaries a torrent has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TorrentKind {
    /// BEP 3 alone.
    V1,
    /// BEP 52 alone.
    V2,
    /// Both over the same content.
    Hybrid,
}

impl TorrentKind {
    const fn word(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
        }
    }
}

/// The libtorrent process was ended by this signal, such as 11 after a memory fault of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crashed(pub i32);

/// A libtorrent session listening on 127.0.0.1, TCP only. The process ends when this is dropped.
#[derive(Debug)]
pub struct LibtorrentPeer {
    child: Child,
    commands: Option<ChildStdin>,
    answers: Receiver<String>,
    address: SocketAddr,
}

impl LibtorrentPeer {
    /// Starts a session on an ephemeral port.
    pub fn start(release: Libtorrent) -> Self {
        Self::start_with(release, "127.0.0.1:0", &json!({}))
    }

    /// Starts a session on `listen` (`ADDRESS:PORT`, 0 for any port) with settings of libtorrent's
    /// settings pack in addition to the harness's own.
    pub fn start_with(release: Libtorrent, listen: &str, settings: &Value) -> Self {
        let mut child = Command::new(release.python())
            .arg(repository().join("checks/interop/libtorrent_peer.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the interpreter just made starts");
        let commands = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let (sender, answers) = sync_channel(16);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let ip = listen.rsplit_once(':').expect("ADDRESS:PORT").0;
        let mut peer = Self {
            child,
            commands,
            answers,
            address: format!("{ip}:0").parse().expect("an IP address"),
        };
        let started = peer.ask(&json!({"do": "start", "listen": listen, "settings": settings}));
        peer.address.set_port(number(&started, "port") as u16);
        peer
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes a torrent file of `content`, a file or a directory, and tells its v2 info-hash.
    pub fn make(
        &mut self,
        content: &Path,
        torrent: &Path,
        piece_length: u32,
        kind: TorrentKind,
    ) -> Option<String> {
        let made = self.ask(&json!({
            "do": "make", "path": content, "out": torrent,
            "piece_length": piece_length, "kind": kind.word(),
        }));
        made["v2"].as_str().map(str::to_owned)
    }

    /// Adds a torrent whose content lies, whole, in `parent`; it is not read before it is served.
    pub fn seed(&mut self, torrent: &Path, parent: &Path) -> u64 {
        let added = self.ask(&json!({
            "do": "add", "torrent": torrent, "save_path": parent, "seed_mode": true,
        }));
        number(&added, "id")
    }

    /// Adds a torrent to be downloaded into `parent`, or checked when its content is there.
    pub fn download(&mut self, torrent: &Path, parent: &Path) -> u64 {
        let added = self.ask(&json!({"do": "add", "torrent": torrent, "save_path": parent}));
        number(&added, "id")
    }

    /// Adds a magnet link to be downloaded into `parent`.
    pub fn download_magnet(&mut self, magnet: &str, parent: &Path) -> u64 {
        let added = self.ask(&json!({"do": "add", "magnet": magnet, "save_path": parent}));
        number(&added, "id")
    }

    /// Dials a peer for a torrent.
    pub fn connect(&mut self, torrent: u64, peer: SocketAddr) {
        self.ask(&json!({
            "do": "connect", "id": torrent, "ip": peer.ip().to_string(), "port": peer.port(),
        }));
    }

    /// Waits until a torrent is whole; panics with libtorrent's own log when it is not in time or crashes.
    pub fn wait_complete(&mut self, torrent: u64, timeout: Duration) -> Value {
        self.completed(torrent, timeout)
            .unwrap_or_else(|Crashed(signal)| panic!("libtorrent was ended by signal {signal}"))
    }

    /// As [`Self::wait_complete`] for transfers in which libtorrent itself may crash.
    pub fn completed(&mut self, torrent: u64, timeout: Duration) -> Result<Value, Crashed> {
        let answer = self.answer(
            &json!({"do": "wait", "id": torrent, "timeout": timeout.as_secs_f64()}),
            timeout + PATIENCE,
        )?;
        assert_eq!(
            answer["reached"], true,
            "libtorrent did not complete within {timeout:?}: {answer:#}"
        );
        Ok(answer)
    }

    /// The state of a torrent in libtorrent: `progress`, `peers`, `downloaded`, `failed`, ….
    pub fn status(&mut self, torrent: u64) -> Value {
        self.ask(&json!({"do": "status", "id": torrent}))
    }

    /// Sends any command of `libtorrent_peer.py` and returns its answer; panics when it failed.
    pub fn ask(&mut self, command: &Value) -> Value {
        self.ask_within(command, PATIENCE)
    }

    /// As [`Self::ask`], for slow commands.
    pub fn ask_within(&mut self, command: &Value, timeout: Duration) -> Value {
        self.answer(command, timeout)
            .unwrap_or_else(|Crashed(signal)| {
                panic!("libtorrent was ended by signal {signal} at {command}")
            })
    }

    fn answer(&mut self, command: &Value, timeout: Duration) -> Result<Value, Crashed> {
        let pipe = self.commands.as_mut().expect("open until dropped");
        writeln!(pipe, "{command}")
            .and_then(|()| pipe.flush())
            .unwrap_or_else(|e| panic!("the libtorrent process is gone: {e}, at {command}"));
        let line = match self.answers.recv_timeout(timeout) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("no answer from libtorrent to {command}"),
            // Its stdout is closed, so it has ended or is about to.
            Err(RecvTimeoutError::Disconnected) => {
                let ended = self.child.wait().expect("a child of this process");
                let signal = ended.signal();
                return Err(Crashed(signal.unwrap_or_else(|| {
                    panic!("libtorrent ended with {ended} at {command}")
                })));
            }
        };
        let answer: Value = serde_json::from_str(&line).expect("answers are JSON");
        assert_eq!(
            answer["ok"], true,
            "libtorrent refused {command}: {answer:#}"
        );
        Ok(answer)
    }
}

impl Drop for LibtorrentPeer {
    fn drop(&mut self) {
        // End of input is the request to stop; the kill is for a process that hangs.
        drop(self.commands.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn number(answer: &Value, key: &str) -> u64 {
    answer[key]
        .as_u64()
        .unwrap_or_else(|| panic!("no number {key:?} in {answer}"))
}
