//! What a running mirror tells hooks and the log, and a configuration that changes meanwhile.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use common::{BEFORE, Running, World, copy_ledger, run_command};
use serde_json::Value;

/// A configuration with a hook that appends each event to `events_file`. It needs no program besides the shell.
fn configure(file: &Path, events_file: &Path) {
    let script = format!(
        "read -r event; printf '%s\\n' \"$event\" >> {}",
        events_file.display()
    );
    let text = format!("[hooks]\ncommand = [\"/bin/sh\", \"-c\", \"\"\"{script}\"\"\"]\n")
        .replace('\\', "\\\\");
    fs::write(file, text).unwrap();
}

/// The events so far, each with its facts.
fn events(events_file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(events_file).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn kinds(events_file: &Path) -> Vec<String> {
    let events = events(events_file);
    events
        .iter()
        .map(|event| event["event"].as_str().unwrap().to_owned())
        .collect()
}

fn post(socket: &Path, path: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    let request = format!("POST {path} HTTP/1.0\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn hooks_hear_of_a_day_and_the_log_has_its_fields() {
    let world = World::new();
    let (file, output, later) = (
        world.path("c.toml"),
        world.path("output"),
        world.path("later"),
    );
    configure(&file, &output);
    let mut mirror = world.mirror("mirror");
    mirror
        .arg("--config")
        .arg(&file)
        .args(["--log-format", "json"]);
    let mut mirror = Running::start(&mut mirror);
    // Nothing was ever published.
    mirror.until("the finding", || kinds(&output) == ["problem"]);
    assert_eq!(events(&output)[0]["code"], "no-pointer");

    copy_ledger(BEFORE, &world.path("node.ldb"));
    let said = run_command(&mut world.produce("producer", &world.path("node.ldb"))).succeeded();
    let snapshot = said.value("snapshot");
    let mut seeder = Running::start(&mut world.mirror("producer"));
    mirror.until("the day", || kinds(&output).contains(&"ready".to_owned()));
    let all = events(&output);
    let of = |kind: &str| all.iter().position(|event| event["event"] == kind).unwrap();
    assert!(of("discovered") < of("ready"), "{all:?}");
    assert!(
        all.iter().any(|event| event["event"] == "solved"),
        "{all:?}"
    );
    let ready = &all[of("ready")];
    assert_eq!(ready["snapshot"], *snapshot);
    assert_eq!(
        (ready["stream"].as_str(), ready["seq"].as_i64()),
        (Some("daily"), Some(1))
    );
    let path = Path::new(ready["path"].as_str().unwrap());
    assert!(path.join("content/data.ldb").exists());

    let log = mirror.stderr();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let line = lines.iter().find(|line| {
        line["info_hash"] == *snapshot && line["message"].as_str().unwrap().contains("current")
    });
    let line = line.unwrap();
    assert_eq!(line["snapshot_seq"], 1);
    assert_eq!(line["message_id"].as_str().unwrap().len(), 32);

    // From here on they go elsewhere.
    configure(&file, &later);
    let answer = post(&world.path("mirror/control.sock"), "/reload");
    assert!(
        answer.contains("\"changed\":[\"hooks.command\"]"),
        "{answer}"
    );
    fs::write(&file, "[hooks]\nretries = 1000\n").unwrap();
    let answer = post(&world.path("mirror/control.sock"), "/reload");
    assert!(
        answer.contains("409") && answer.contains("hooks.retries"),
        "{answer}"
    );
    copy_ledger(common::AFTER, &world.path("node.ldb"));
    run_command(&mut world.produce("producer", &world.path("node.ldb"))).succeeded();
    seeder.signal(rustix::process::Signal::HUP);
    seeder.until("the second day", || {
        kinds(&later).contains(&"ready".to_owned())
    });
    for daemon in [mirror, seeder] {
        daemon.stop().succeeded();
    }
}
