//! What is printed: nothing that others wrote reaches a terminal as a command, and a closed or full stdout or
//! stderr ends no command with a panic.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Output, Stdio};

use common::{BEFORE, command, run};

const HASH: &str = "cdbc9284015e84c225f0e67b891606505a60cf1218b127ac1c1edb6444567e6b";

/// A data directory that holds nothing.
fn empty_store(dir: &Path) {
    for name in ["snapshots", "current", "incoming", "streams"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
}

/// Commands that print, with their exit codes when the reader is gone; `DIR` stands for an empty data directory.
const PRINTING: &[(&[&str], i32)] = &[
    (&["status", "--data-dir", "DIR"], 141),
    (&["status", "--json", "--data-dir", "DIR"], 141),
    (&["status", "--watch", "--data-dir", "DIR"], 141),
    (&["config"], 0),
    (&["config", "--keys"], 0),
    (&["check-config", "--data-dir", "DIR"], 0),
    (&["inspect", "magnet:?xt=urn:btmh:1220HASH"], 0),
    (&["inspect", "--json", "magnet:?xt=urn:btmh:1220HASH"], 0),
    (&["keygen", "DIR/key"], 0),
    (&["verify", BEFORE], 0),
    (&["--help"], 0),
    (&["status", "--help"], 0),
    (&["--version"], 0),
];

fn with_places(args: &[&str], dir: &Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    let put = |arg: &&str| arg.replace("DIR", dir).replace("HASH", HASH);
    args.iter().map(put).collect()
}

fn no_panic(args: &[&str], output: &Output) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    assert_ne!(output.status.code(), Some(101), "{args:?}");
}

#[test]
fn a_reader_that_is_gone_is_no_failure() {
    for (args, code) in PRINTING {
        let temp = tempfile::tempdir().unwrap();
        empty_store(temp.path());
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        drop(reader);
        let mut command = command();
        command.args(with_places(args, temp.path())).stdout(writer);
        let output = command.stderr(Stdio::piped()).output().unwrap();
        no_panic(args, &output);
        assert_eq!(output.status.code(), Some(*code), "{args:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("error"), "{args:?}: {stderr}");
    }
}

#[test]
fn a_full_disk_is_named_in_one_line() {
    for (args, _) in PRINTING {
        let temp = tempfile::tempdir().unwrap();
        empty_store(temp.path());
        let mut command = command();
        command.args(with_places(args, temp.path()));
        command.stdout(File::options().write(true).open("/dev/full").unwrap());
        let output = command.stderr(Stdio::piped()).output().unwrap();
        no_panic(args, &output);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        let errors: Vec<&str> = stderr
            .lines()
            .filter(|line| line.contains("error"))
            .collect();
        let [error] = errors[..] else {
            panic!("{args:?}: {stderr}")
        };
        assert!(
            error.contains("cannot write to stdout: No space left"),
            "{error}"
        );
    }
}

#[test]
fn a_stderr_that_takes_nothing_changes_no_exit_code() {
    let logging: &[(&[&str], i32)] = &[
        (&["inspect", "nofile"], 1),
        (&["--authority", "x"], 2),
        (&["--no-such-flag"], 2),
        (&["verify", BEFORE, "--log-level", "trace"], 0),
        (
            &[
                "verify",
                BEFORE,
                "--log-level",
                "trace",
                "--log-format",
                "json",
            ],
            0,
        ),
        (&["keygen", "DIR/key"], 0),
    ];
    for (args, code) in logging {
        let temp = tempfile::tempdir().unwrap();
        let (reader, closed) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        drop(reader);
        let full = File::options().write(true).open("/dev/full").unwrap();
        for stderr in [Stdio::from(closed), Stdio::from(full)] {
            // Another run must not find what this one made.
            let _ = fs::remove_file(temp.path().join("key"));
            let mut command = command();
            command.args(with_places(args, temp.path())).stderr(stderr);
            let output = command.stdout(Stdio::piped()).output().unwrap();
            assert_eq!(output.status.code(), Some(*code), "{args:?}");
        }
    }
}

/// Control sequences, line breaks and a mark that reverses the direction of writing, percent-encoded.
const HOSTILE: &str = "%1b%5b31mred%0a%0dv2%20info-hash:%20fake%1b%5d0;x%07%c2%9b1m%e2%80%ae";

fn is_clean(text: &str) -> bool {
    text.chars()
        .all(|c| c == '\n' || bittorrent_protocol::is_printable(c))
}

#[test]
fn a_magnet_link_neither_commands_a_terminal_nor_forges_lines() {
    let link = format!(
        "magnet:?xt=urn:btmh:1220{HASH}&dn={HOSTILE}&tr=http%3A%2F%2Fa{HOSTILE}&ws=http%3A%2F%2Fb{HOSTILE}&\
         x.pe=127.0.0.1:1"
    );
    let text = run(&["inspect", &link]).succeeded().stdout;
    assert!(is_clean(&text), "{text:?}");
    assert_eq!(text.matches("\nv2 info-hash:").count(), 0, "{text}");
    assert_eq!(
        text.lines().next().unwrap(),
        format!("v2 info-hash:   {HASH}")
    );
    let json = run(&["inspect", "--json", &link]).succeeded().stdout;
    assert!(is_clean(&json), "{json:?}");
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    // A program gets what there is.
    assert!(
        value["name"]
            .as_str()
            .unwrap()
            .starts_with("\u{1b}[31mred\n\r")
    );
    // Of what is no magnet link, an error shows no more.
    let wrong = run(&["inspect", "magnet:?xt=\u{1b}[31m"]).failed_with(1, &["not a magnet link"]);
    assert!(is_clean(&wrong.stderr), "{:?}", wrong.stderr);
    let missing = run(&["inspect", "no\u{1b}[31m\nsuch"]).failed_with(1, &["cannot read"]);
    assert!(is_clean(&missing.stderr), "{:?}", missing.stderr);
    assert_eq!(missing.stderr.lines().count(), 1, "{:?}", missing.stderr);
}

#[test]
fn a_url_keeps_its_secrets_in_every_message_and_record() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().to_str().unwrap();
    let key = temp.path().join("key");
    run(&["keygen", key.to_str().unwrap()]).succeeded();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Every answer is wrong in another way. One breaks off, so that a record is left, and is asked for again.
    let answers = [
        "HTTP/1.1 302 X\r\nlocation: ftp://u:SECRET@h/SECRET?SECRET\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 X\r\n\r\nno length",
        "HTTP/1.1 200 X\r\ncontent-length: 5\r\n\r\nwrong",
        "HTTP/1.1 200 X\r\netag: \"a\"\r\ncontent-length: 500\r\n\r\n7z",
        "HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n",
    ];
    let serving = std::thread::spawn(move || {
        for answer in answers {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(&stream);
            let mut line = String::new();
            while reader.read_line(&mut line).unwrap() > 2 {
                line.clear();
            }
            // A client that hangs up is no matter.
            let _ = std::io::Write::write_all(&mut &stream, answer.as_bytes());
        }
    });
    let data = temp.path().join("data");
    for _ in 1..answers.len() {
        let mut produce = command();
        produce
            .args([
                "produce",
                "--log-level",
                "trace",
                "--offline",
                "--dht-port",
                "0",
            ])
            .args(["--dht-bootstrap", "127.0.0.1:9", "--data-dir"])
            .arg(&data)
            .arg("--key")
            .arg(&key)
            .arg("--from-url")
            .arg(format!("http://user:SECRET@{address}/x.7z?sig=SECRET"));
        let output = produce.stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_ne!(output.status.code(), Some(0), "{stderr}");
        assert!(stderr.contains(&address.to_string()), "{stderr}");
        assert!(!stderr.contains("SECRET"), "{stderr}");
        assert!(!String::from_utf8_lossy(&output.stdout).contains("SECRET"));
    }
    serving.join().unwrap();
    no_file_has(&data, b"SECRET");
    // Nor does a mistake in the flag itself.
    for wrong in [
        "ftp://user:SECRET@h/x",
        "http://user:SECRET@/x",
        "user:SECRET@h",
    ] {
        let said = run(&[
            "produce",
            "--data-dir",
            dir,
            "--offline",
            "--from-url",
            wrong,
        ]);
        let said = said.failed_with(2, &["--from-url", "not a URL"]);
        assert!(!said.stderr.contains("SECRET"), "{}", said.stderr);
    }
}

fn no_file_has(dir: &Path, needle: &[u8]) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            no_file_has(&path, needle);
        } else if path.is_file() {
            let mut content = Vec::new();
            File::open(&path)
                .unwrap()
                .read_to_end(&mut content)
                .unwrap();
            let found = content.windows(needle.len()).any(|part| part == needle);
            assert!(!found, "{}", path.display());
        }
    }
}

/// Fields that programs read are numbers where they count something, and absent where there is nothing.
#[test]
fn log_fields_have_types() {
    let world = common::World::new();
    let ledger = world.path("node.ldb");
    common::copy_ledger(BEFORE, &ledger);
    let said = common::run_command(
        world
            .produce("producer", &ledger)
            .args(["--log-format", "json"]),
    );
    let seeder = common::Running::start(&mut world.mirror("producer"));
    let mut fetch = world.mirror("node");
    let fetched = common::run_command(fetch.args(["--once", "--log-format", "json"])).succeeded();
    let seeded = seeder.stop().succeeded();
    let mut numbers = 0;
    for line in [&said.succeeded().stderr, &fetched.stderr]
        .into_iter()
        .flat_map(|text| text.lines())
    {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        for (name, value) in event.as_object().unwrap() {
            let text = value.as_str().unwrap_or_default();
            let number = text.replace(',', "").parse::<f64>().is_ok();
            let optional = text.starts_with("Some(") || text == "None";
            assert!(!number && !optional, "{name} in {line}");
            numbers += u32::from(value.is_number());
            let unit = ["_bytes", "_ms"].iter().any(|unit| name.ends_with(unit));
            assert!(!unit || value.is_number(), "{name} in {line}");
        }
    }
    assert!(numbers > 10, "{}", fetched.stderr);
    // In text they have units.
    assert!(seeded.stderr.contains("seeding"), "{}", seeded.stderr);
    for wrong in ["Some(", "_bytes=", "_ms="] {
        assert!(
            !seeded.stderr.contains(wrong),
            "{wrong} in {}",
            seeded.stderr
        );
    }
    // Colours are for terminals.
    assert!(!seeded.stderr.contains('\u{1b}'));
}
