//! What a running mirror says: over its control socket, over HTTP and through `status`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use common::{AFTER, BEFORE, Running, World, command, copy_ledger, run_command};
use serde_json::Value;

/// An answer.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn of(mut stream: impl std::io::Read + std::io::Write, request: &str) -> Self {
        stream.write_all(request.as_bytes()).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        let all = String::from_utf8_lossy(&all).into_owned();
        let (head, body) = all.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self {
            status,
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    #[track_caller]
    fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        serde_json::from_str(&self.body).unwrap()
    }
}

/// A published day and the mirror that seeds it, ready.
struct Mirror {
    world: World,
    snapshot: String,
    running: Running,
}

impl Mirror {
    fn ready() -> Self {
        let world = World::new();
        copy_ledger(BEFORE, &world.path("node.ldb"));
        let said = run_command(&mut world.produce("data", &world.path("node.ldb"))).succeeded();
        let snapshot = said.value("snapshot");
        let mut running = Running::start(&mut world.mirror_polling("data", "1h"));
        let socket = world.path("data/control.sock");
        let ready = || {
            let stream = UnixStream::connect(&socket).ok()?;
            let report = Answer::of(stream, "GET /status HTTP/1.0\r\n\r\n").json(200);
            report["ready"].as_bool().filter(|ready| *ready)
        };
        running.until("readiness", || ready().is_some());
        Self {
            world,
            snapshot,
            running,
        }
    }

    fn socket(&self) -> PathBuf {
        self.world.path("data/control.sock")
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        let stream = UnixStream::connect(self.socket()).unwrap();
        let length = body.len();
        let request = format!("{method} {path} HTTP/1.0\r\ncontent-length: {length}\r\n\r\n{body}");
        Answer::of(stream, &request)
    }

    fn report(&self) -> Value {
        self.ask("GET", "/status", "").json(200)
    }

    fn http(&self) -> String {
        self.report()["addresses"]["http"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn get(&self, path: &str) -> Answer {
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        Answer::of(TcpStream::connect(self.http()).unwrap(), &request)
    }

    /// Gives back what it lived in.
    fn stop(self) -> World {
        let socket = self.socket();
        self.running.stop().succeeded();
        assert!(!socket.exists(), "the socket goes with the mirror");
        self.world
    }
}

/// Compares a value with a schema of `docs/openapi.json`; says where it differs.
fn differs(schemas: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap();
        return differs(schemas, &schemas[name], value, at);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let kinds = &schema["type"];
    let allowed = kinds == kind
        || kinds
            .as_array()
            .is_some_and(|all| all.contains(&kind.into()));
    if !allowed {
        return Some(format!("{at}: {kind} where {kinds} is described"));
    }
    match value {
        Value::String(_)
            if schema["enum"]
                .as_array()
                .is_some_and(|all| !all.contains(value)) =>
        {
            Some(format!("{at}: {value} is not described"))
        }
        Value::Array(items) => items
            .iter()
            .find_map(|item| differs(schemas, &schema["items"], item, &format!("{at}[]"))),
        Value::Object(members) => {
            let described = schema["properties"].as_object();
            let required = schema["required"].as_array().into_iter().flatten();
            let missing = required
                .filter_map(Value::as_str)
                .find(|name| !members.contains_key(*name))
                .map(|name| format!("{at}: no {name}"));
            missing.or_else(|| {
                members.iter().find_map(|(name, member)| {
                    let at = format!("{at}.{name}");
                    match described.and_then(|all| all.get(name)) {
                        Some(schema) => differs(schemas, schema, member, &at),
                        None if schema["additionalProperties"].is_object() => {
                            differs(schemas, &schema["additionalProperties"], member, &at)
                        }
                        None if described.is_none() => None,
                        None => Some(format!("{at} is not described")),
                    }
                })
            })
        }
        _ => None,
    }
}

#[test]
fn the_control_socket_answers_as_described() {
    let mirror = Mirror::ready();
    let text = include_str!("../../../docs/openapi.json");
    let description: Value = serde_json::from_str(text).unwrap();
    let schemas = &description["components"]["schemas"];
    for path in ["/status", "/peers", "/snapshots", "/pointers"] {
        let answer = mirror.ask("GET", path, "").json(200);
        let responses = &description["paths"][path]["get"]["responses"];
        let schema = &responses["200"]["content"]["application/json"]["schema"];
        assert_eq!(differs(schemas, schema, &answer, path), None);
    }

    // So does the TCP port.
    let text = include_str!("../../../docs/openapi-http.json");
    let over_tcp: Value = serde_json::from_str(text).unwrap();
    let mut all = schemas.clone();
    all["Ready"] = over_tcp["components"]["schemas"]["Ready"].clone();
    all["phase"] = schemas["Report"]["properties"]["phase"].clone();
    for path in ["/status.json", "/readyz"] {
        let answer = mirror.get(path).json(200);
        let responses = &over_tcp["paths"][path]["get"]["responses"];
        let schema = &responses["200"]["content"]["application/json"]["schema"];
        assert_eq!(differs(&all, schema, &answer, path), None);
    }

    let report = mirror.report();
    assert_eq!(report["phase"], "seeding");
    let stream = &report["streams"][0];
    assert_eq!(stream["desired"], *mirror.snapshot);
    assert_eq!(stream["current"], *mirror.snapshot);
    assert_eq!(stream["authorities"][0]["state"], "agrees");
    assert_eq!(report["torrents"][0]["state"], "seeding");
    let snapshots = mirror.ask("GET", "/snapshots", "").json(200);
    assert_eq!(snapshots[0]["state"], "whole");

    assert_eq!(mirror.ask("GET", "/nothing", "").status, 404);
    assert_eq!(mirror.ask("DELETE", "/status", "").status, 405);
    mirror.stop();
}

#[test]
fn what_a_producer_adds_is_taken_up_at_once() {
    let mirror = Mirror::ready();
    copy_ledger(AFTER, &mirror.world.path("node.ldb"));
    let mut produce = mirror.world.produce("data", &mirror.world.path("node.ldb"));
    // Where it looks for the mirror there is none, so it does not tell it itself.
    produce.env("RUNTIME_DIRECTORY", mirror.world.dir.path());
    let second = run_command(&mut produce).succeeded().value("snapshot");
    let add = |id: &str| mirror.ask("POST", "/snapshots", &format!("{{\"snapshot\":\"{id}\"}}"));
    // A poll may have come first.
    assert!(add(&second).json(200)["before"].is_boolean());
    let torrents = mirror.ask("GET", "/snapshots", "").json(200);
    let torrents = torrents.as_array().unwrap();
    assert!(torrents.iter().any(|one| one["snapshot"] == *second));
    assert_eq!(add(&second).json(200)["before"], true);
    assert_eq!(add(&"0".repeat(64)).status, 404);
    assert_eq!(add("xyz").status, 400);
    let odd = mirror.ask("POST", "/snapshots", "{\"snap\":1}");
    assert!(
        odd.json(400)["error"]
            .as_str()
            .unwrap()
            .contains("snapshot")
    );

    // A poll an hour is none in this test: it is the request that brings the new pointer.
    assert_eq!(mirror.ask("POST", "/refresh", "").status, 202);
    common::eventually("the second day", || {
        let stream = mirror.report()["streams"][0].clone();
        (stream["current"] == *second && stream["desired"] == *second).then_some(())
    });
    mirror.stop();
}

#[test]
fn a_snapshot_is_scrubbed_and_pinned_when_asked() {
    let mirror = Mirror::ready();
    let post = |id: &str, what: &str| mirror.ask("POST", &format!("/snapshots/{id}/{what}"), "");
    post(&mirror.snapshot, "scrub").json(202);
    let record = mirror
        .world
        .path("data")
        .join("snapshots")
        .join(&mirror.snapshot)
        .join("scrub.json");
    common::eventually("a scrub", || {
        let json: Value = serde_json::from_slice(&std::fs::read(&record).ok()?).ok()?;
        json["finished_at"].as_u64()
    });
    let pinned = || mirror.ask("GET", "/snapshots", "").json(200)[0]["pinned"].clone();
    assert_eq!(pinned(), false);
    assert_eq!(post(&mirror.snapshot, "pin").json(200)["changed"], true);
    assert_eq!(post(&mirror.snapshot, "pin").json(200)["changed"], false);
    assert_eq!(pinned(), true);
    assert_eq!(post(&mirror.snapshot, "unpin").json(200)["changed"], true);
    assert_eq!(pinned(), false);
    let other = "00".repeat(32);
    post(&other, "scrub").json(404);
    post(&other, "pin").json(409);
    for what in ["scrub", "pin", "unpin"] {
        post("data.ldb", what).json(400);
    }
}

#[test]
fn events_come_at_once_and_go_on() {
    let mirror = Mirror::ready();
    let mut stream = UnixStream::connect(mirror.socket()).unwrap();
    stream.write_all(b"GET /events HTTP/1.0\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    for _ in 0..2 {
        assert!(lines.by_ref().any(|line| line == "event: report"));
        let data = lines.next().unwrap();
        let report: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(report["streams"][0]["name"], "daily");
    }
    // The end of the mirror ends the stream.
    mirror.running.signal(rustix::process::Signal::TERM);
    assert!(lines.all(|line| !line.contains("error")));
    mirror.running.end().succeeded();
}

#[test]
fn status_tells_by_its_exit_code() {
    let mirror = Mirror::ready();
    let data = mirror.world.path("data");
    let status = |more: &[&str]| {
        let mut command = command();
        run_command(command.args(["status", "--data-dir"]).arg(&data).args(more))
    };
    let said = status(&[]).succeeded();
    for part in ["mirror: ready: seeding", "stream daily", &mirror.snapshot] {
        assert!(said.stdout.contains(part), "{}", said.stdout);
    }
    let json: Value = serde_json::from_str(&status(&["--json"]).succeeded().stdout).unwrap();
    assert_eq!(json["mirror"]["ready"], true);

    let mut watching = command();
    let watching = Running::start(
        watching
            .args(["status", "--watch", "--data-dir"])
            .arg(&data),
    );
    common::eventually("two looks", || {
        (watching.stdout().matches("mirror: ready").count() >= 2).then_some(())
    });
    drop(watching);

    let _world = mirror.stop();
    let said = status(&[]);
    assert_eq!(said.status.code(), Some(5));
    assert_eq!(status(&["--alive"]).status.code(), Some(5));
    assert!(said.stdout.contains("none is running"), "{}", said.stdout);
    let json: Value = serde_json::from_str(&status(&["--json"]).stdout).unwrap();
    assert_eq!(json["mirror"], Value::Null);
}

#[test]
fn what_is_wrong_is_said_and_shown_in_the_exit_code() {
    let world = World::new();
    // Nothing was ever published.
    let mut mirror = Running::start(&mut world.mirror("data"));
    let status = |more: &[&str]| {
        let mut command = command();
        command.args(["status", "--data-dir"]);
        run_command(command.arg(world.path("data")).args(more))
    };
    mirror.until("the finding", || status(&[]).status.code() == Some(3));
    let said = status(&[]);
    assert!(said.stdout.contains("no-pointer"), "{}", said.stdout);
    // It lives all the same.
    status(&["--alive"]).succeeded();
    let other = run_command(
        world
            .mirror("data")
            .arg("--control")
            .arg(world.path("data/control.sock")),
    );
    other.failed_with(1, &["already running"]);
    mirror.stop().succeeded();
}

#[test]
fn http_shows_everything_and_changes_nothing() {
    let mirror = Mirror::ready();
    let snapshot = &mirror.snapshot;
    assert_eq!(mirror.get("/healthz").body, "ok\n");
    assert_eq!(mirror.get("/readyz").json(200)["ready"], true);
    assert_eq!(mirror.get("/status.json").json(200)["phase"], "seeding");
    let metrics = mirror.get("/metrics");
    assert!(
        metrics.head.contains("text/plain; version=0.0.4"),
        "{}",
        metrics.head
    );
    for line in [
        "nano_snapshot_ready 1",
        "nano_snapshot_mirror_phase{phase=\"seeding\"} 1",
    ] {
        assert!(
            metrics.body.lines().any(|one| one == line),
            "{}",
            metrics.body
        );
    }

    let magnet = mirror.get("/latest.magnet").body;
    assert_eq!(mirror.get("/daily/latest.magnet").body, magnet);
    let inspected = run_command(command().args(["inspect", magnet.trim()])).succeeded();
    assert_eq!(inspected.value("v2 info-hash"), *snapshot);
    assert_eq!(inspected.value("name"), "data.ldb");
    let by_hash = format!("/torrents/{snapshot}.torrent");
    for path in ["/latest.torrent", "/daily/latest.torrent", &by_hash] {
        let torrent = mirror.get(path);
        assert_eq!(torrent.status, 200, "{path}");
        assert!(torrent.head.contains("application/x-bittorrent"), "{path}");
    }
    for path in [
        "/weekly/latest.magnet",
        "/torrents/x.torrent",
        "/torrents/..%2f..",
        "/x",
    ] {
        assert_eq!(mirror.get(path).status, 404, "{path}");
    }

    let ask = |request: &str| Answer::of(TcpStream::connect(mirror.http()).unwrap(), request);
    let post = ask("POST /refresh HTTP/1.0\r\n\r\n");
    assert_eq!(post.status, 405);
    assert!(post.head.contains("allow: get, head"));
    // A page elsewhere that resolved its own name to us.
    let rebound =
        ask("GET /status.json HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    assert_eq!(rebound.status, 421);
    let ours = ask("GET /healthz HTTP/1.1\r\nHost: localhost:1\r\nConnection: close\r\n\r\n");
    assert_eq!(ours.status, 200);
    mirror.stop();
}

/// What comes when a client begins with HTTP/2 at once, the beginning in one piece or two.
fn said_to_http2(mut stream: impl std::io::Read + std::io::Write, pieces: usize) -> Vec<u8> {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let (first, second) = preface.split_at(if pieces == 1 { 0 } else { 2 });
    // It may be closed by now.
    let _ = stream
        .write_all(first)
        .and_then(|()| stream.write_all(second));
    let mut said = vec![0; 1024];
    let read = stream.read(&mut said).unwrap_or(0);
    said.truncate(read);
    said
}

#[test]
fn http_2_is_not_spoken() {
    let mirror = Mirror::ready();
    let http = mirror.http();
    for pieces in [1, 2] {
        let tcp = TcpStream::connect(&http).unwrap();
        tcp.set_nodelay(true).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(said_to_http2(tcp, pieces), b"");
        let unix = UnixStream::connect(mirror.socket()).unwrap();
        unix.set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        assert_eq!(said_to_http2(unix, pieces), b"");
    }
    mirror.stop();
}

/// Connects and sends something that is not a whole request, or one that has no end.
fn held(mirror: &Mirror, count: usize, text: &str) -> Vec<TcpStream> {
    let hold = |_| {
        let mut stream = TcpStream::connect(mirror.http()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    (0..count).map(hold).collect()
}

#[test]
fn connections_that_are_held_open_keep_nobody_out() {
    let mirror = Mirror::ready();
    let answers = || {
        for path in ["/healthz", "/metrics", "/"] {
            assert_eq!(mirror.get(path).status, 200, "{path}");
        }
    };
    for text in ["", "GET / HTTP/1.1\r\nX"] {
        let mut held = held(&mirror, 100, text);
        answers();
        // The oldest made room.
        let mut rest = Vec::new();
        let ended = held[0].read_to_end(&mut rest);
        assert!(ended.is_err() || rest.is_empty(), "{rest:?}");
    }
    // Streams without end are refused before they take every place.
    let mut statuses = Vec::new();
    let streams = held(
        &mirror,
        60,
        "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n",
    );
    for stream in &streams {
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        statuses.push(line);
    }
    let refused = statuses
        .iter()
        .filter(|line| line.contains(" 503 "))
        .count();
    assert_eq!(refused, 60 - 32, "{statuses:?}");
    answers();
    drop(streams);
    mirror.stop();
}

#[test]
fn the_page_reads_without_a_script_and_is_redrawn() {
    let mirror = Mirror::ready();
    let page = mirror.get("/");
    assert!(
        page.head
            .contains("content-security-policy: default-src 'none'")
    );
    for part in [
        &mirror.snapshot,
        "seeding",
        "data.ldb",
        "class=\"map\"",
        "1 of 1 authorities",
    ] {
        assert!(page.body.contains(part), "no {part} in {}", page.body);
    }
    let mut stream = TcpStream::connect(mirror.http()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream.write_all(b"GET /events HTTP/1.0\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    for _ in 0..2 {
        assert!(lines.by_ref().any(|line| line == "event: page"));
        assert!(lines.next().unwrap().contains(&mirror.snapshot));
    }
    mirror.stop();
}
