//! A small world for the command: a directory, a DHT on the loopback interface, and ways to run
//! the program as a person would.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(dead_code, reason = "every test file uses its own part")]

#[cfg(target_arch = "x86_64")]
pub(crate) mod kills;
pub(crate) mod small_disk;

use std::fs::{self, File};
use std::io::{Seek as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bittorrent_protocol::InfoHashV2;
use bittorrent_session::{Session, SessionConfig};
use bittorrent_store::TorrentStore;
use snapshot_pointer::loopback::LoopbackDht;
use snapshot_pointer::{Dht as _, MainlineDht, Pointer, Salt, Seq, SignedItem, SigningKey};
use tempfile::TempDir;

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Ledgers written by a real node; see the README beside them.
pub(crate) const BEFORE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../nano-ledger/tests/data/before.ldb"
);
pub(crate) const AFTER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../nano-ledger/tests/data/after.ldb"
);

/// A command of the program under test, with nothing of the tester's environment that it reads.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nano-snapshot-mirror"));
    let read = [
        "STATE_DIRECTORY",
        "XDG_DATA_HOME",
        "CREDENTIALS_DIRECTORY",
        "AUTHORITY_PUBKEY",
        "PRODUCER_SIGNING_PUBKEY",
        "DATA_DIR",
        "DHT_SALT",
        "POLL_INTERVAL",
        "SEED_PEERS",
        "LOG_LEVEL",
        "METRICS_ENABLED",
        "METRICS_BIND",
        "METRICS_PORT",
    ];
    for variable in read {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null());
    command
}

/// What a command that ended has said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert!(self.status.success(), "{}: {}", self.status, self.stderr);
        self
    }

    /// Fails with exit code `code` and all of `parts` in what it says.
    #[track_caller]
    pub(crate) fn failed_with(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.status.code(), Some(code), "{}", self.stderr);
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "no {part:?} in: {}",
                self.stderr
            );
        }
        self
    }

    /// The value of a line `key: value`.
    #[track_caller]
    pub(crate) fn value(&self, key: &str) -> String {
        let prefix = format!("{key}:");
        let line = self
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix(&prefix));
        line.unwrap_or_else(|| panic!("no {key} in: {}", self.stdout))
            .trim()
            .to_owned()
    }
}

/// Runs a command to its end.
pub(crate) fn run(args: &[&str]) -> Said {
    run_command(command().args(args))
}

pub(crate) fn run_command(command: &mut Command) -> Said {
    Running::start(command).end()
}

/// A running command; killed when dropped.
pub(crate) struct Running {
    child: Child,
    out: TempDir,
}

impl Running {
    /// Starts it with its output going to files, which never fill up as pipes do.
    pub(crate) fn start(command: &mut Command) -> Self {
        let out = tempfile::tempdir().unwrap();
        let file = |name: &str| File::create(out.path().join(name)).unwrap();
        let child = command
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .unwrap();
        Self { child, out }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(self.stderr_path()).unwrap()
    }

    /// Where what it says goes.
    pub(crate) fn stderr_path(&self) -> PathBuf {
        self.out.path().join("stderr")
    }

    pub(crate) fn stdout(&self) -> String {
        fs::read_to_string(self.out.path().join("stdout")).unwrap()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until `there` is true, while the command runs.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, mut there: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !there() {
            assert!(!self.has_ended(), "ended before {what}: {}", self.stderr());
            assert!(
                Instant::now() < deadline,
                "no {what} in time: {}",
                self.stderr()
            );
            pause();
        }
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(mut self) -> Said {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "does not end: {}", self.stderr());
            pause();
        };
        let read = |name: &str| fs::read_to_string(self.out.path().join(name)).unwrap();
        Said {
            status,
            stdout: read("stdout"),
            stderr: read("stderr"),
        }
    }

    /// Asks it to stop and waits for its end.
    #[track_caller]
    pub(crate) fn stop(self) -> Said {
        self.signal(rustix::process::Signal::TERM);
        self.end()
    }

    /// Kills it as a crash would. Gives back what it said when it came to its own end first.
    pub(crate) fn kill(mut self) -> Option<Said> {
        self.child.kill().unwrap();
        let said = self.end();
        (said.status.signal() != Some(9)).then_some(said)
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended, as it should have.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Between two looks at something that takes its time.
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

/// Waits until `there` gives something.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut there: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = there() {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what} in time");
        pause();
    }
}

/// A directory, a DHT and a key.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) dht: LoopbackDht,
    pub(crate) authority: String,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let dht = runtime.block_on(LoopbackDht::start(6)).unwrap();
        let key = dir.path().join("key");
        let authority = run(&["keygen", key.to_str().unwrap()]).succeeded().stdout;
        Self {
            dir,
            runtime,
            dht,
            authority: authority.trim().to_owned(),
        }
    }

    /// What `status --json` says of a data directory; null while there is nothing to say.
    pub(crate) fn status(&self, data: &str) -> serde_json::Value {
        let mut status = command();
        status.args(["status", "--json", "--data-dir"]);
        let said = run_command(status.arg(self.path(data)));
        serde_json::from_str(&said.stdout).unwrap_or_default()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `produce` into data directory `data`, byte for byte.
    pub(crate) fn produce(&self, data: &str, ledger: &Path) -> Command {
        let mut command = self.produce_default(data, ledger);
        command.args(["--publish", "exact"]);
        command
    }

    /// `produce` into data directory `data`.
    pub(crate) fn produce_default(&self, data: &str, ledger: &Path) -> Command {
        let mut command = self.produce_from(data);
        command.arg("--ledger").arg(ledger);
        command
    }

    /// `produce` into data directory `data`, without saying of what.
    pub(crate) fn produce_from(&self, data: &str) -> Command {
        let mut command = command();
        command.arg("produce").arg("--key").arg(self.path("key"));
        self.add_network(&mut command, data);
        command
    }

    /// A mirror with data directory `data`; with `--once` a fetch.
    pub(crate) fn mirror(&self, data: &str) -> Command {
        self.mirror_polling(data, "1s")
    }

    /// The same with another time between two polls.
    pub(crate) fn mirror_polling(&self, data: &str, interval: &str) -> Command {
        let mut command = command();
        self.add_network(&mut command, data);
        command.args(["--authority", &self.authority, "--listen", "127.0.0.1:0"]);
        command.args(["--http", "127.0.0.1:0"]);
        command.args(["--poll-interval", interval]);
        command
    }

    /// A fetch, by the command that `--once` is another name for.
    pub(crate) fn fetch(&self, data: &str) -> Command {
        let mut command = command();
        command.arg("fetch");
        self.add_network(&mut command, data);
        command.args(["--authority", &self.authority, "--listen", "127.0.0.1:0"]);
        command
    }

    /// The same with the rest in a file.
    pub(crate) fn mirror_configured(&self, data: &str, file: &Path) -> Command {
        let mut command = self.mirror_of_file(data, file);
        command.args(["--authority", &self.authority]);
        command
    }

    /// The same with the streams in a file too.
    pub(crate) fn mirror_of_file(&self, data: &str, file: &Path) -> Command {
        let mut command = command();
        self.add_network(&mut command, data);
        command.args(["--listen", "127.0.0.1:0"]);
        command.arg("--config").arg(file);
        command
    }

    fn add_network(&self, command: &mut Command, data: &str) {
        command
            .arg("--data-dir")
            .arg(self.path(data))
            .args(["--dht-port", "0"]);
        for node in self.dht.bootstrap() {
            command.args(["--dht-bootstrap", &node]);
        }
    }

    /// The current snapshot of the stream in a data directory.
    pub(crate) fn current(&self, data: &str) -> Option<String> {
        let link = fs::read_link(self.path(data).join("current/daily")).ok()?;
        Some(link.file_name()?.to_str()?.to_owned())
    }

    /// The content of a held snapshot.
    pub(crate) fn content(&self, data: &str, snapshot: &str) -> PathBuf {
        self.path(data)
            .join("snapshots")
            .join(snapshot)
            .join("content/data.ldb")
    }
}

impl World {
    /// Makes a key file; gives the public key.
    pub(crate) fn keygen(&self, name: &str) -> String {
        let said = run(&["keygen", self.path(name).to_str().unwrap()]).succeeded();
        said.stdout.trim().to_owned()
    }

    /// Puts a pointer to `snapshot`, as a producer elsewhere would.
    pub(crate) fn put(&self, seq: i64, snapshot: InfoHashV2) {
        self.put_by("key", seq, snapshot);
    }

    /// The same by the holder of another key.
    pub(crate) fn put_by(&self, key: &str, seq: i64, snapshot: InfoHashV2) {
        let key = SigningKey::read(&self.path(key)).unwrap();
        let salt: Salt = "daily".parse().unwrap();
        let pointer = Pointer {
            snapshot,
            seq: Seq::new(seq).unwrap(),
        };
        let item = SignedItem::sign_pointer(&key, &salt, pointer).unwrap();
        self.runtime.block_on(async {
            let dht = MainlineDht::start(self.dht.client_settings())
                .await
                .unwrap();
            dht.put_item(&item).await.unwrap();
        });
    }

    /// Makes the DHT remember nothing.
    pub(crate) fn forget(&mut self) {
        self.dht = self.runtime.block_on(LoopbackDht::start(6)).unwrap();
    }

    /// Seeds a store from inside the test; gives the session, to keep, and its address.
    pub(crate) fn seed(&self, store: TorrentStore) -> (Session, SocketAddr) {
        self.runtime.block_on(async {
            let listen = vec!["127.0.0.1:0".parse().unwrap()];
            let config = SessionConfig {
                listen,
                ..SessionConfig::default()
            };
            let session = Session::start(config).await.unwrap();
            session.add_store(Arc::new(store)).await.unwrap();
            let address = session.local_addrs()[0];
            (session, address)
        })
    }
}

/// A copy of a ledger where a writer may open it.
pub(crate) fn copy_ledger(from: &str, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap();
    let mut permissions = to.metadata().unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    fs::set_permissions(to, permissions).unwrap();
}

/// Changes content behind the file system's back, as a disk does it: size and times stay.
pub(crate) fn rot(content: &Path, offset: u64) {
    let times = content.metadata().unwrap();
    fs::set_permissions(content, PermissionsExt::from_mode(0o644)).unwrap();
    let mut file = fs::File::options().write(true).open(content).unwrap();
    file.seek(std::io::SeekFrom::Start(offset)).unwrap();
    file.write_all(b"rot").unwrap();
    file.set_modified(times.modified().unwrap()).unwrap();
    drop(file);
    fs::set_permissions(content, PermissionsExt::from_mode(0o444)).unwrap();
}

#[track_caller]
pub(crate) fn assert_same(left: &Path, right: &Path) {
    let [left_bytes, right_bytes] = [left, right].map(|path| fs::read(path).unwrap());
    assert!(
        left_bytes == right_bytes,
        "{} and {} differ",
        left.display(),
        right.display()
    );
}

/// All numbers that follow `key` in a log.
pub(crate) fn numbers(log: &str, key: &str) -> Vec<u64> {
    let digits = |at: usize| log[at..].split(|c: char| !c.is_ascii_digit()).next();
    log.match_indices(key)
        .filter_map(|(at, _)| digits(at + key.len())?.parse().ok())
        .collect()
}

/// The names in a directory, in order.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The processes whose parent is `parent`.
pub(crate) fn children(parent: u32) -> Vec<i32> {
    let dir = std::fs::read_dir("/proc").unwrap();
    let pids = dir.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        // A process that has ended meanwhile has no parent.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit(") ").next().unwrap_or_default();
        after_name.split(' ').nth(1) == Some(&parent.to_string())
    })
    .collect()
}
