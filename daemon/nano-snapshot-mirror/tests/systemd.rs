//! Beside a service manager: sockets it hands over, notifications it gets, and a watchdog that has to be
//! earned. The manager is this test: it passes descriptors from 3 on and listens for notifications.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::Command;

use common::{BEFORE, Running, World, copy_ledger, run_command};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use rustix::process::Signal;

/// A shell that makes its process id known as sd_listen_fds(3) wants it, and becomes the program.
const HAND_OVER: &str = "export LISTEN_PID=$$; exec \"$@\"";

/// The manager's side.
struct Manager {
    socket: UnixDatagram,
    dir: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, dir }
    }

    /// `command` as a service with these sockets, by name.
    fn service(&self, command: &Command, sockets: &[(&str, OwnedFd)]) -> Command {
        let names: Vec<&str> = sockets.iter().map(|(name, _)| *name).collect();
        // The shell puts them in their places: `3<&100`.
        let places: String = (3..)
            .zip(sockets)
            .map(|(number, (_, socket))| format!(" {number}<&{}", socket.as_raw_fd()))
            .collect();
        let mut service = Command::new("bash");
        service
            .arg("-c")
            .arg(format!("{HAND_OVER}{places}"))
            .arg("service")
            .arg(command.get_program())
            .args(command.get_args())
            .env("NOTIFY_SOCKET", self.dir.path().join("notify"));
        if !sockets.is_empty() {
            service
                .env("LISTEN_FDS", sockets.len().to_string())
                .env("LISTEN_FDNAMES", names.join(":"));
        }
        service
    }

    /// Notifications since the last time.
    fn heard(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let mut lines = Vec::new();
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            lines.extend(text.lines().map(str::to_owned));
        }
        lines
    }

    /// Waits for a notification, and returns all that came until then.
    #[track_caller]
    fn until(&self, service: &mut Running, wanted: &str) -> Vec<String> {
        let mut all = Vec::new();
        service.until(wanted, || {
            all.extend(self.heard());
            all.iter().any(|line| line == wanted)
        });
        all
    }
}

fn published() -> World {
    let world = World::new();
    copy_ledger(BEFORE, &world.path("node.ldb"));
    run_command(&mut world.produce("data", &world.path("node.ldb"))).succeeded();
    world
}

fn ask(mut stream: impl std::io::Read + std::io::Write, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The same socket under a number that is out of the way, open in children.
fn to_hand_over(socket: impl Into<OwnedFd>) -> OwnedFd {
    let moved = rustix::io::fcntl_dupfd_cloexec(socket.into(), 100).unwrap();
    rustix::io::fcntl_setfd(&moved, rustix::io::FdFlags::empty()).unwrap();
    moved
}

#[test]
fn sockets_are_taken_over_and_keep_connections_while_nobody_runs() {
    let world = published();
    let manager = Manager::new();
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let http = TcpListener::bind("127.0.0.1:0").unwrap();
    let (peer_address, http_address) = (peer.local_addr().unwrap(), http.local_addr().unwrap());
    let path = world.path("by-manager.sock");
    let control = UnixListener::bind(&path).unwrap();
    let sockets = [
        ("control", to_hand_over(control)),
        ("http", to_hand_over(http)),
        ("peer", to_hand_over(peer)),
    ];
    let mirror = world.mirror("data");
    for _ in 0..2 {
        // What comes while no process runs waits in the socket.
        let early = TcpStream::connect(http_address).unwrap();
        let mut service = Running::start(&mut manager.service(&mirror, &sockets));
        manager.until(&mut service, "READY=1");
        assert!(ask(early, "/healthz").ends_with("ok\n"));
        let report = ask(UnixStream::connect(&path).unwrap(), "/status");
        for address in [peer_address, http_address] {
            assert!(report.contains(&address.to_string()), "{report}");
        }
        assert!(!world.path("data/control.sock").exists());
        service.stop().succeeded();
        assert!(path.exists(), "it is the manager's");
    }
}

/// A mirror with its control socket and HTTP where `file` says, and peers also at `listen`.
fn configured(world: &World, file: &str, listen: &[String]) -> Command {
    let path = world.path("config.toml");
    fs::write(&path, file).unwrap();
    let mut mirror = world.mirror_configured("data", &path);
    for address in listen {
        mirror.args(["--listen", address]);
    }
    mirror
}

/// Where the mirror in `data` accepts peers.
fn peer_addresses(world: &World) -> Vec<String> {
    let report = &world.status("data")["mirror"];
    let addresses = report["addresses"]["peers"].as_array().unwrap();
    let mut addresses: Vec<String> = addresses
        .iter()
        .map(|address| address.as_str().unwrap().to_owned())
        .collect();
    addresses.sort();
    addresses
}

#[test]
fn an_inherited_socket_that_covers_an_address_is_that_address() {
    let world = published();
    let manager = Manager::new();
    let peer = TcpListener::bind("[::]:0").unwrap();
    let http = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = world.path("data/control.sock");
    let control = UnixListener::bind(&path).unwrap();
    let (peer_address, http_address) = (peer.local_addr().unwrap(), http.local_addr().unwrap());
    let port = peer_address.port();
    let file = format!(
        "[http]\nlisten = \"{http_address}\"\n[control]\nsocket = \"{}\"\n",
        path.display()
    );
    let covered = ["[::]", "0.0.0.0", "127.0.0.1", "[::1]"].map(|ip| format!("{ip}:{port}"));
    let sockets = [
        ("peer", to_hand_over(peer)),
        ("http", to_hand_over(http)),
        ("control", to_hand_over(control)),
    ];
    let mirror = configured(&world, &file, &covered);
    let mut service = Running::start(&mut manager.service(&mirror, &sockets));
    manager.until(&mut service, "READY=1");
    assert_eq!(peer_addresses(&world), [peer_address.to_string()]);
    let page = ask(TcpStream::connect(http_address).unwrap(), "/healthz");
    assert!(page.ends_with("ok\n"), "{page}");
    service.stop().succeeded();
}

#[test]
fn what_no_inherited_socket_covers_is_bound_besides() {
    let world = published();
    let manager = Manager::new();
    let peer = TcpListener::bind("127.0.0.2:0").unwrap();
    let http = TcpListener::bind("127.0.0.2:0").unwrap();
    let by_manager = world.path("by-manager.sock");
    let control = UnixListener::bind(&by_manager).unwrap();
    let (peer_address, http_address) = (peer.local_addr().unwrap(), http.local_addr().unwrap());
    let also = format!("127.0.0.1:{}", peer_address.port());
    let also_http = format!("127.0.0.1:{}", http_address.port());
    let file = format!(
        "[http]\nlisten = \"{also_http}\"\n[control]\nsocket = \"{}\"\n",
        world.path("data/control.sock").display()
    );
    let sockets = [
        ("peer", to_hand_over(peer)),
        ("http", to_hand_over(http)),
        ("control", to_hand_over(control)),
    ];
    let mirror = configured(&world, &file, std::slice::from_ref(&also));
    let mut service = Running::start(&mut manager.service(&mirror, &sockets));
    manager.until(&mut service, "READY=1");
    let addresses = peer_addresses(&world);
    for address in [also, peer_address.to_string()] {
        assert!(addresses.contains(&address), "{address} in {addresses:?}");
    }
    for address in [also_http, http_address.to_string()] {
        let page = ask(TcpStream::connect(&address).unwrap(), "/healthz");
        assert!(page.ends_with("ok\n"), "{address}: {page}");
    }
    let report = ask(UnixStream::connect(&by_manager).unwrap(), "/status");
    assert!(report.contains(&peer_address.to_string()), "{report}");
    service.stop().succeeded();
}

#[test]
fn a_socket_that_takes_a_part_of_an_address_is_named_with_it() {
    let world = World::new();
    let manager = Manager::new();
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = peer.local_addr().unwrap().to_string();
    let wanted = format!("0.0.0.0:{}", peer.local_addr().unwrap().port());
    let mirror = configured(&world, "", std::slice::from_ref(&wanted));
    let sockets = [("peer", to_hand_over(peer))];
    let mut service = manager.service(&mirror, &sockets);
    let parts = [&*wanted, &*address, "peer.listen", "ListenStream="];
    run_command(&mut service).failed_with(1, &parts);
}

#[test]
fn a_socket_of_another_name_is_refused() {
    let world = World::new();
    let manager = Manager::new();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let sockets = [("mirror.socket", to_hand_over(socket))];
    let mut service = manager.service(&world.mirror("data"), &sockets);
    run_command(&mut service).failed_with(1, &["mirror.socket", "FileDescriptorName="]);
}

#[test]
fn the_manager_is_told_of_start_reload_and_end() {
    let world = published();
    let manager = Manager::new();
    let mut service = Running::start(&mut manager.service(&world.mirror("data"), &[]));
    let mut lines = manager.until(&mut service, "READY=1");
    let first = |prefix: &str| lines.iter().position(|line| line.starts_with(prefix));
    let extended = first("EXTEND_TIMEOUT_USEC=").expect("a start may take its time");
    assert!(Some(extended) < first("READY=1"), "{lines:?}");
    // It is sent when it changes, so it may have come with the other lines.
    service.until("a status line", || {
        lines.extend(manager.heard());
        lines
            .iter()
            .any(|line| line.starts_with("STATUS=seeding") && line.contains("daily seq 1"))
    });
    service.signal(Signal::HUP);
    let lines = manager.until(&mut service, "READY=1");
    let at = lines.iter().position(|line| line == "RELOADING=1").unwrap();
    let clock = lines[at + 1].strip_prefix("MONOTONIC_USEC=").unwrap();
    assert!(clock.parse::<u64>().unwrap() > 0);
    service.stop().succeeded();
    assert!(manager.heard().contains(&"STOPPING=1".to_owned()));
}

/// Threads of a process that are held still, each by itself; until dropped.
struct Held(Vec<Pid>);

impl Held {
    fn new(process: u32, belongs: impl Fn(u32, &str) -> bool) -> Self {
        let mut held = Vec::new();
        for entry in fs::read_dir(format!("/proc/{process}/task")).unwrap() {
            let entry = entry.unwrap();
            let thread: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
            let name = fs::read_to_string(entry.path().join("comm")).unwrap();
            if !belongs(thread.unsigned_abs(), name.trim()) {
                continue;
            }
            let thread = Pid::from_raw(thread);
            ptrace::seize(thread, ptrace::Options::empty()).unwrap();
            ptrace::interrupt(thread).unwrap();
            waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
            held.push(thread);
        }
        assert!(!held.is_empty(), "no such thread");
        Self(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for thread in &self.0 {
            // The process may have ended.
            let _ = ptrace::detach(*thread, None);
        }
    }
}

#[test]
fn each_loop_that_hangs_ends_the_pings() {
    let world = published();
    let manager = Manager::new();
    let mut command = manager.service(&world.mirror("data"), &[]);
    command.env("WATCHDOG_USEC", "6000000");
    let mut service = Running::start(&mut command);
    let ping = "WATCHDOG=1";
    manager.until(&mut service, ping);
    let process = service.pid();
    // The mirror's loop has the main thread, the engine's task one of the runtime's.
    type Belongs = fn(u32, u32, &str) -> bool;
    let cases: [(&str, Belongs); 4] = [
        ("disk writer 0", |_, _, name| name == "bt-write-0"),
        ("dht", |_, _, name| name.starts_with("Mainline")),
        ("mirror", |process, thread, _| process == thread),
        ("engine", |_, _, name| name.starts_with("tokio-")),
    ];
    for (hangs, belongs) in cases {
        let before = service.stderr().len();
        let logged = |part: &str| {
            let log = service.stderr();
            let line = log[before..].lines().find(|line| line.contains(part));
            line.map(str::to_owned)
        };
        let held = Held::new(process, |thread, name| belongs(process, thread, name));
        manager.heard();
        let finding = common::eventually("the finding", || {
            logged("no progress for").filter(|line| line.contains(hangs))
        });
        // One may have been earned before, and sent after we began to listen.
        let pings = manager.heard();
        let pings = pings.iter().filter(|line| *line == ping).count();
        assert!(pings <= 1, "{pings} pings while {hangs} hung: {finding}");
        drop(held);
        common::eventually("the loops again", || logged("make progress again"));
        manager.until(&mut service, ping);
    }
    service.stop().succeeded();
}
