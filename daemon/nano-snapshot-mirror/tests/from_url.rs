//! `produce --from-url`, against a small web server that can break off, change and lie.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use common::{AFTER, BEFORE, Said, World, assert_same, run_command};
use ledger_archive::PackOptions;

/// What the server has, and what it was asked.
#[derive(Default)]
struct Site {
    content: Vec<u8>,
    etag: Option<&'static str>,
    /// Breaks the next answer off after so many bytes of content.
    break_after: Option<usize>,
    /// Says that there is more than there is.
    lies: bool,
    /// First line and `range` of each request, and the status of its answer.
    seen: Vec<(String, Option<String>, u16)>,
}

struct Server {
    address: SocketAddr,
    site: Arc<Mutex<Site>>,
}

impl Server {
    fn start(content: Vec<u8>, etag: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let site = Arc::new(Mutex::new(Site {
            content,
            etag,
            ..Site::default()
        }));
        let server = Self {
            address: listener.local_addr().unwrap(),
            site: site.clone(),
        };
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that hangs up is no matter.
                let _ = answer(&stream, &site);
            }
        });
        server
    }

    fn change(&self, change: impl FnOnce(&mut Site)) {
        change(&mut self.site.lock().unwrap());
    }

    fn statuses(&self) -> Vec<u16> {
        let mut site = self.site.lock().unwrap();
        site.seen.drain(..).map(|(_, _, status)| status).collect()
    }
}

/// Answers one request and closes.
fn answer(stream: &TcpStream, site: &Mutex<Site>) -> std::io::Result<()> {
    let mut request = String::new();
    let mut headers = Vec::new();
    let mut reader = BufReader::new(stream);
    reader.read_line(&mut request)?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        let (name, value) = line.split_once(':').unwrap();
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let header = |name: &str| {
        let found = headers.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.clone())
    };
    let mut site = site.lock().unwrap();
    let len = site.content.len();
    let same = |value: Option<String>| site.etag.is_some() && value.as_deref() == site.etag;
    let range = header("range");
    let from = range
        .as_ref()
        .filter(|_| same(header("if-range")))
        .map(|range| {
            range["bytes=".len()..]
                .trim_end_matches('-')
                .parse()
                .unwrap()
        });
    let status = match from {
        _ if request.contains("/none") => 404,
        Some(_) => 206,
        None if same(header("if-none-match")) => 304,
        None => 200,
    };
    let from: usize = from.unwrap_or(0);
    let mut head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\n");
    if let Some(etag) = site.etag {
        head.push_str(&format!("etag: {etag}\r\n"));
    }
    if status == 206 {
        head.push_str(&format!(
            "content-range: bytes {from}-{}/{len}\r\n",
            len - 1
        ));
    }
    let mut body = match status {
        200 | 206 => site.content[from..].to_vec(),
        _ => Vec::new(),
    };
    let said = body.len() + usize::from(site.lies);
    head.push_str(&format!("content-length: {said}\r\n\r\n"));
    if let Some(most) = site.break_after.take() {
        body.truncate(most);
    }
    site.seen.push((request.trim().to_owned(), range, status));
    drop(site);
    let mut stream = stream;
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)
}

fn produce(world: &World, data: &str, server: &Server, path: &str, extra: &[&str]) -> Said {
    let mut command = world.produce_from(data);
    command.arg("--from-url");
    command.arg(format!("http://{}{path}", server.address));
    run_command(command.args(extra))
}

fn packed(ledger: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    let ledger = fs::read(ledger).unwrap();
    let options = PackOptions::default();
    ledger_archive::pack(&ledger[..], ledger.len() as u64, &mut archive, &options).unwrap();
    archive
}

fn only_file(world: &World, data: &str, said: &Said) -> PathBuf {
    let snapshot = world
        .path(data)
        .join("snapshots")
        .join(said.value("snapshot"));
    let mut files = fs::read_dir(snapshot.join("content")).unwrap();
    files.next().unwrap().unwrap().path()
}

#[test]
fn an_archive_is_published_as_it_is_and_once() {
    let world = World::new();
    let archive = packed(BEFORE);
    let server = Server::start(archive.clone(), Some("\"one\""));
    let said = produce(&world, "p", &server, "/a/Nano_64_2026.tar.zst", &[]).succeeded();
    let file = only_file(&world, "p", &said);
    assert_eq!(file.file_name().unwrap(), "Nano_64_2026.tar.zst");
    assert_eq!(fs::read(&file).unwrap(), archive);
    assert_eq!(server.statuses(), [200]);
    // Nothing of the download is kept twice.
    assert_eq!(fs::read_dir(world.path("p/downloads")).unwrap().count(), 0);

    let again = produce(&world, "p", &server, "/a/Nano_64_2026.tar.zst", &[]).succeeded();
    assert_eq!(server.statuses(), [304]);
    assert_eq!(
        ["snapshot", "seq", "state"].map(|key| again.value(key)),
        [said.value("snapshot"), "1".into(), "unchanged".into()]
    );

    server.change(|site| {
        site.content = packed(AFTER);
        site.etag = Some("\"two\"");
    });
    let changed = produce(&world, "p", &server, "/a/Nano_64_2026.tar.zst", &[]).succeeded();
    assert_eq!(changed.value("seq"), "2");
    assert_ne!(changed.value("snapshot"), said.value("snapshot"));

    // A mirror and a fetch take it as any other.
    let seeder = common::Running::start(&mut world.mirror("p"));
    run_command(world.mirror("node").args(["--once", "--extract"])).succeeded();
    assert_same(Path::new(AFTER), &world.path("node/data.ldb"));
    seeder.stop().succeeded();
}

#[test]
fn a_download_that_breaks_off_goes_on() {
    let world = World::new();
    let archive = packed(BEFORE);
    let len = archive.len();
    let server = Server::start(archive, Some("\"one\""));
    server.change(|site| site.break_after = Some(len / 2));
    let said = produce(
        &world,
        "p",
        &server,
        "/a.zst",
        &["--layout", "plain", "--publish", "exact"],
    );
    let said = said.succeeded();
    assert!(
        said.stderr.contains("resuming the last download"),
        "{}",
        said.stderr
    );
    // Only the rest was sent the second time.
    assert_eq!(server.statuses(), [200, 206]);
    let ledger = only_file(&world, "p", &said);
    assert_eq!(ledger.file_name().unwrap(), "data.ldb");
    assert_same(&ledger, Path::new(BEFORE));

    // What changed meanwhile is not put together with what was there.
    server.change(|site| {
        site.content = packed(AFTER);
        site.etag = None;
        site.break_after = Some(len / 2);
    });
    let said = produce(
        &world,
        "p",
        &server,
        "/a.zst",
        &["--layout", "plain", "--publish", "exact"],
    );
    assert_same(&only_file(&world, "p", &said.succeeded()), Path::new(AFTER));
    assert_eq!(server.statuses(), [200, 200]);
}

#[test]
fn what_is_not_synced_is_downloaded_again() {
    let world = World::new();
    let archive = packed(BEFORE);
    let len = archive.len();
    let server = Server::start(archive.clone(), Some("\"one\""));
    // Breaks off until it is given up.
    server.change(|site| site.lies = true);
    produce(&world, "p", &server, "/a.zst", &[]).failed_with(1, &["kept for the next run"]);
    server.change(|site| site.lies = false);
    drop(server.statuses());

    // As a power failure may leave it: longer than what was on disk, with anything behind that.
    let [part, note] = ["part", "json"].map(|end| world.path(&format!("p/downloads/daily.{end}")));
    let mut noted: serde_json::Value = serde_json::from_slice(&fs::read(&note).unwrap()).unwrap();
    assert_eq!(noted["synced"], len);
    noted["synced"] = (len / 2).into();
    noted["resource"]["length"] = len.into();
    fs::write(&note, noted.to_string()).unwrap();
    let mut torn = archive.clone();
    torn[len / 2..].fill(0);
    fs::write(&part, torn).unwrap();
    let said = produce(&world, "p", &server, "/a.zst", &[]).succeeded();
    assert_eq!(server.statuses(), [206]);
    let content = only_file(&world, "p", &said);
    assert_eq!(fs::read(&content).unwrap(), archive);

    // Ended between the store and forgetting the download: what is in the store is left alone.
    fs::hard_link(&content, &part).unwrap();
    fs::write(&note, noted.to_string()).unwrap();
    let mut other = archive.clone();
    other[len - 1] ^= 1;
    server.change(|site| site.content = other);
    produce(&world, "p", &server, "/a.zst", &[]).succeeded();
    assert_eq!(server.statuses(), [304]);
    assert!(fs::read(&content).unwrap() == archive, "it was written to");
}

#[test]
fn what_is_not_what_it_should_be_is_not_published() {
    let world = World::new();
    let server = Server::start(b"<html>not here any more</html>".repeat(99), None);
    let said = produce(&world, "p", &server, "/x", &[]);
    said.failed_with(1, &["neither a ledger nor a tar.zst nor a 7z"]);
    produce(&world, "p", &server, "/none", &[]).failed_with(1, &["404"]);

    // An archive that mirrors would refuse is no failure of the run: the code is that of nothing published.
    let header_of_zeros = [b"7z\xbc\xaf\x27\x1c".as_slice(), &[0; 1000]].concat();
    server.change(|site| site.content = header_of_zeros);
    let said = produce(&world, "p", &server, "/x.7z", &[]);
    said.failed_with(
        3,
        &["nothing is published: cannot use x.7z", "wrong checksum"],
    );

    let mut half = fs::read(BEFORE).unwrap();
    half.truncate(half.len() / 2);
    server.change(|site| site.content = half);
    let said = produce(&world, "p", &server, "/data.ldb", &["--publish", "exact"]);
    said.failed_with(1, &["the copy is not published", "file-length"]);

    server.change(|site| {
        site.content = packed(BEFORE);
        site.lies = true;
    });
    produce(&world, "p", &server, "/a.zst", &[]).failed_with(1, &["kept for the next run"]);
    assert_eq!(world.current("p"), None);
    assert_eq!(fs::read_dir(world.path("p/snapshots")).unwrap().count(), 0);

    let mut bad = world.produce_from("p");
    run_command(bad.args(["--from-url", "ftp://host/x"])).failed_with(2, &["http://"]);
}
