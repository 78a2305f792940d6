//! A mirror and a command that runs once, as two processes on one machine: neither takes the other's ports, and a fetch takes the snapshot from that
//! mirror.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::process::Command;

use common::{BEFORE, Running, World, assert_same, copy_ledger, run_command};
use serde_json::Value;

/// A mirror that has a snapshot, in a DHT of its own: no fetch finds it there.
struct Apart {
    world: World,
    snapshot: String,
    mirror: Running,
    _elsewhere: World,
}

impl Apart {
    fn new() -> Self {
        let (world, elsewhere) = (World::new(), World::new());
        copy_ledger(BEFORE, &world.path("node.ldb"));
        let said = run_command(&mut world.produce("mirror", &world.path("node.ldb"))).succeeded();
        let mut command = common::command();
        command.args(["--listen", "127.0.0.1:0", "--dht-port", "0"]);
        command.args(["--http", "127.0.0.1:0", "--authority", &world.authority]);
        command.arg("--data-dir").arg(world.path("mirror"));
        for node in elsewhere.dht.bootstrap() {
            command.args(["--dht-bootstrap", &node]);
        }
        let mut mirror = Running::start(&mut command);
        mirror.until("the mirror's report", || {
            world.status("mirror")["mirror"]["addresses"]["dht"].is_string()
        });
        Self {
            world,
            snapshot: said.value("snapshot"),
            mirror,
            _elsewhere: elsewhere,
        }
    }

    /// Where the mirror is reached, as its report has it.
    fn address(&self, of: &str) -> String {
        let addresses = self.world.status("mirror")["mirror"]["addresses"].clone();
        let first = match &addresses[of] {
            Value::Array(all) => all[0].clone(),
            one => one.clone(),
        };
        first.as_str().unwrap().to_owned()
    }

    /// A fetch into `data` with this configuration file, and no flag for an address.
    fn fetch(&self, data: &str, file: &str) -> Command {
        let path = self.world.path(&format!("{data}.toml"));
        fs::write(&path, file).unwrap();
        let mut command = common::command();
        command.arg("--once").arg("--config").arg(path);
        command.arg("--data-dir").arg(self.world.path(data));
        command.args(["--authority", &self.world.authority]);
        for node in self.world.dht.bootstrap() {
            command.args(["--dht-bootstrap", &node]);
        }
        command
    }

    #[track_caller]
    fn has(&self, data: &str) {
        assert_same(
            &self.world.content("mirror", &self.snapshot),
            &self.world.content(data, &self.snapshot),
        );
    }
}

/// What a file says to keep a fetch on this machine, with every way to the mirror but one closed.
fn file(control: &str, http: &str, listen: &str) -> String {
    format!(
        "[control]\nsocket = \"{control}\"\n[http]\nlisten = \"{http}\"\n[peer]\nlisten = [\"{listen}\"]\n\
         local-discovery = false\n"
    )
}

#[test]
fn a_fetch_takes_the_snapshot_from_the_mirror_beside_it() {
    let apart = Apart::new();
    let socket = apart.world.path("mirror/control.sock");
    let (peers, http) = (apart.address("peers"), apart.address("http"));
    for (data, file) in [
        (
            "by-control",
            file(socket.to_str().unwrap(), "off", "127.0.0.1:0"),
        ),
        ("by-http", file("off", &http, "127.0.0.1:0")),
        ("by-port", file("off", "off", &peers)),
    ] {
        let said = run_command(&mut apart.fetch(data, &file)).succeeded();
        apart.has(data);
        assert!(!said.stderr.contains("ERROR"), "{data}: {}", said.stderr);
    }
    apart.mirror.stop().succeeded();
}

#[test]
fn configured_ports_are_left_to_the_mirror() {
    let apart = Apart::new();
    let dht = apart.address("dht");
    let port = dht.rsplit_once(':').unwrap().1;
    // As a host has it whose mirror and fetch read one file.
    let shared = file("off", "off", &apart.address("peers")) + &format!("[dht]\nport = {port}\n");
    let said = run_command(&mut apart.fetch("fetch", &shared)).succeeded();
    assert!(
        said.stderr.contains("port in use: using another"),
        "{}",
        said.stderr
    );
    apart.has("fetch");
    // A second mirror is another matter: its ports are where others expect it.
    let mut second = common::command();
    second.arg("--config").arg(apart.world.path("fetch.toml"));
    second.arg("--data-dir").arg(apart.world.path("second"));
    let parts = ["cannot listen on", &*apart.address("peers"), "peer.listen"];
    run_command(&mut second).failed_with(1, &parts);
    apart.mirror.stop().succeeded();
}

#[test]
fn a_port_that_a_flag_gives_is_fixed() {
    let apart = Apart::new();
    let (peers, dht) = (apart.address("peers"), apart.address("dht"));
    let port = dht.rsplit_once(':').unwrap().1;
    let closed = file("off", "off", "127.0.0.1:0");
    let mut fetch = apart.fetch("listen", &closed);
    fetch.args(["--listen", &peers]);
    run_command(&mut fetch).failed_with(1, &[&peers, "--listen", "in use"]);
    let mut fetch = apart.fetch("dht", &closed);
    fetch.args(["--dht-port", port]);
    run_command(&mut fetch).failed_with(1, &[port, "--dht-port", "in use"]);
    apart.mirror.stop().succeeded();
}

#[test]
fn a_fetch_into_the_mirror_s_own_directory_has_what_the_mirror_has() {
    let apart = Apart::new();
    let said = run_command(&mut apart.fetch("mirror", "")).succeeded();
    assert!(said.stdout.contains("current/daily"), "{}", said.stdout);
    apart.mirror.stop().succeeded();
}
