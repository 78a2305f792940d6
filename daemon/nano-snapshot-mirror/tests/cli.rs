//! What a person meets before anything goes over a network.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;

use common::{BEFORE, World, command, run, run_command};

#[test]
fn wrong_flags_are_named_with_what_to_write() {
    let cases: [(&[&str], &[&str]); 6] = [
        (
            &["--authority", "xyz"],
            &["flag --authority:", "64 hexadecimal digits"],
        ),
        (&["--salt", &"s".repeat(65)], &["flag --salt:", "64"]),
        (
            &["--poll-interval", "10 weeks"],
            &["--poll-interval", "10m"],
        ),
        (
            &["--seed-peer", "seed.example.org"],
            &["--seed-peer", "HOST:PORT"],
        ),
        (&["--once", "--seed-for", "long"], &["--seed-for", "1.5"]),
        (&["produce", "--ledger", "x"], &["--key <FILE>"]),
    ];
    for (args, parts) in cases {
        run(args).failed_with(2, parts);
    }
}

#[test]
fn a_threshold_above_the_number_of_authorities_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().to_str().unwrap();
    run(&["--once", "--threshold", "2", "--data-dir", dir]).failed_with(
        2,
        &[
            "flag --threshold:",
            "between 1 and the number of authorities",
        ],
    );
}

#[test]
fn all_mistakes_are_named_at_once_and_nothing_is_started() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("config.toml");
    fs::write(&file, "poll-interval = \"soon\"\n\n[peers]\nlisten = []\n").unwrap();
    let data = temp.path().join("data");
    let mut mirror = command();
    mirror
        .env("LOG_LEVEL", "loud")
        .env("NANO_SNAPSHOT_MIRROR_DHT__PORT", "-1")
        .arg("--config")
        .arg(&file)
        .arg("--data-dir")
        .arg(&data)
        .args(["--seed-peer", "here"]);
    let place = |line: u8| format!("error: {}:{line}: ", file.display());
    run_command(&mut mirror).failed_with(
        2,
        &[
            &format!("{}poll-interval", place(1)),
            &format!(
                "{}peers: there is no such key; did you mean peer?",
                place(3)
            ),
            "error: variable LOG_LEVEL: log.level = \"loud\"",
            "error: variable NANO_SNAPSHOT_MIRROR_DHT__PORT: dht.port = \"-1\"",
            "error: flag --seed-peer: seed-peers",
        ],
    );
    assert!(!data.exists());
}

#[test]
fn a_tilde_is_the_home_directory_in_every_source() {
    let temp = tempfile::tempdir().unwrap();
    let home = temp.path().join("home");
    let file = temp.path().join("config.toml");
    fs::write(&file, "data-dir = \"~/file\"\n").unwrap();
    let file = file.to_str().unwrap();
    let cases: [(&[&str], Option<&str>, &str); 3] = [
        (&["--config", file], None, "home/file"),
        (&[], Some("~//variable"), "home/variable"),
        (&["--data-dir", "~"], None, "home"),
    ];
    for (flags, variable, place) in cases {
        let mut config = command();
        config.arg("config").args(flags).env("HOME", &home);
        config.envs(variable.map(|value| ("DATA_DIR", value)));
        let said = run_command(&mut config).succeeded().stdout;
        let expected = format!("data-dir = \"{}\"", temp.path().join(place).display());
        assert!(said.contains(&expected), "no {expected} in {said}");
    }
    let mut config = command();
    config.args(["check-config", "--data-dir", "~other/x"]);
    run_command(config.env("HOME", &home)).failed_with(2, &["flag --data-dir", "only `~/`"]);
    config.env_remove("HOME").args(["--control", "~/c"]);
    run_command(&mut config)
        .failed_with(2, &["flag --data-dir", "flag --control", "HOME is not set"]);
}

#[test]
fn streams_keep_the_order_of_the_file() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("config.toml");
    let text = "[stream.weekly]\nsalt = \"weekly\"\n[stream.daily]\n[stream.a]\nsalt = \"a\"\n";
    fs::write(&file, text).unwrap();
    let mut config = command();
    let said = run_command(config.arg("config").arg("--config").arg(&file)).succeeded();
    let order: Vec<_> = said
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("[stream.")?.strip_suffix(']'))
        .collect();
    assert_eq!(order, ["weekly", "daily", "a"]);
}

#[test]
fn values_that_do_not_fit_together_or_this_machine_are_found() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("config.toml");
    let check = |text: &str| {
        fs::write(&file, text).unwrap();
        let mut check = command();
        check.current_dir(temp.path());
        run_command(check.args(["check-config", "--config", "config.toml"]))
    };
    let place = "config.toml:";
    for (text, parts) in [
        (
            "[peer]\nlisten = [\"[::]:7000\"]\n[http]\nlisten = \"127.0.0.1:7000\"",
            &["config.toml:4", "http.listen", "the same TCP port"][..],
        ),
        (
            "peer.listen = [\"127.0.0.1:7000\", \"127.0.0.1:7000\"]",
            &[place, "peer.listen", "twice"],
        ),
        (
            "data-dir = \"data\"",
            &["config.toml:1", "data-dir", "is relative"],
        ),
        (
            "data-dir = \"/proc/self/status/x\"",
            &[place, "/proc/self/status is not a directory"],
        ),
    ] {
        check(text).failed_with(2, parts);
        assert!(!temp.path().join("data").exists());
    }
    check(&format!("data-dir = \"{}/new/one\"", temp.path().display())).succeeded();

    // Of another machine, the path alone is looked at.
    fs::write(&file, "data-dir = \"/proc/nothing\"\n").unwrap();
    let mut elsewhere = command();
    elsewhere.args(["check-config", "--elsewhere", "--config"]);
    run_command(elsewhere.arg(&file)).succeeded();

    // Root may write everywhere: another user checks then.
    let sealed = temp.path().join("sealed");
    fs::create_dir(&sealed).unwrap();
    fs::set_permissions(&sealed, fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for dir in [sealed.clone(), sealed.join("new")] {
        let mut check = command();
        if rustix::process::geteuid().is_root() {
            check.uid(65_534).gid(65_534);
        }
        check.arg("check-config").arg("--data-dir").arg(&dir);
        let cannot = format!("cannot write to {}", sealed.display());
        run_command(&mut check).failed_with(2, &["flag --data-dir", &cannot]);
    }
}

#[test]
fn the_configuration_is_checked_and_shown_with_its_places() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("config.toml");
    fs::write(&file, "poll-interval = \"60s\"\n\n[dht]\nport = 5\n").unwrap();
    let about = |what: &str| {
        let mut about = command();
        about.arg(what).arg("--config").arg(&file);
        about.env("NANO_SNAPSHOT_MIRROR_SEED_PEERS", "a.example:1,b.example:2");
        about.args(["--salt", "weekly", "--data-dir", "/data"]);
        about
    };
    let said = run_command(&mut about("check-config")).succeeded();
    assert!(
        said.stdout.contains("config.toml is fine"),
        "{}",
        said.stdout
    );
    let said = run_command(&mut about("config")).succeeded().stdout;
    let place = |line: u8| format!("{}:{line}", file.display());
    for (value, place) in [
        ("poll-interval = \"1m\"", &*place(1)),
        ("port = 5", &place(4)),
        (
            "seed-peers = [\"a.example:1\", \"b.example:2\"]",
            "variable NANO_SNAPSHOT_MIRROR_SEED_PEERS",
        ),
        ("salt = \"weekly\"", "flag --salt"),
        ("data-dir = \"/data\"", "flag --data-dir"),
        ("listen = [\"[::]:6881\"]", "default"),
    ] {
        let line = said.lines().find(|line| line.starts_with(value));
        let line = line.unwrap_or_else(|| panic!("no {value} in {said}"));
        assert_eq!(line.split_once(" # ").unwrap().1, place, "{line}");
    }

    // What is shown is itself a configuration, and means the same.
    let values = |said: &str| -> Vec<String> {
        let value = |line: &str| line.split(" # ").next().unwrap().trim_end().to_owned();
        said.lines().map(value).collect()
    };
    let again = temp.path().join("again.toml");
    fs::write(&again, &said).unwrap();
    let mut about = command();
    about.arg("config").arg("--config").arg(&again);
    let again = run_command(&mut about).succeeded().stdout;
    assert_eq!(values(&again), values(&said));

    fs::write(&file, "[dht]\nprot = 5\n").unwrap();
    let mut check = command();
    check.arg("check-config").arg("--config").arg(&file);
    run_command(&mut check).failed_with(2, &[&place(2), "did you mean dht.port?"]);
}

#[test]
fn what_may_be_secret_is_not_shown() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("config.toml");
    let secrets = "[trackers]\nurls = [\"https://t.example/PASSKEY/announce\", \"udp://u.example:6/announce\"]\n\
         [web-seeds]\nurls = [\"https://user:PASSWORD@w.example/dir/?TOKEN\"]\n\
         [hooks]\nwebhook = \"http://h.example/HOOK?SECRET\"\ncommand = [\"/bin/tell\", \"ARGUMENT\"]\n";
    fs::write(&file, secrets).unwrap();
    let about = |what: &str| {
        let mut about = command();
        run_command(about.arg(what).arg("--config").arg(&file))
    };
    let said = about("config").succeeded().stdout;
    for shown in [
        "urls = [\"https://t.example/…(hidden)\", \"udp://u.example:6/announce\"]",
        "urls = [\"https://w.example/dir/…(hidden)\"]",
        "webhook = \"http://h.example:80/…(hidden)\"",
        "command = [\"/bin/tell\", \"…(hidden)\"]",
    ] {
        assert!(said.contains(shown), "no {shown} in {said}");
    }
    // Nor is it in what is said of mistakes.
    let wrong = secrets
        .replace("://", ":/")
        .replace("ARGUMENT\"", "ARGUMENT\", 5");
    fs::write(&file, wrong).unwrap();
    let keys = [
        "trackers.urls",
        "web-seeds.urls",
        "hooks.webhook",
        "hooks.command",
    ];
    let wrong = about("check-config").failed_with(2, &keys);
    for secret in ["ARGUMENT", "PASSKEY", "PASSWORD", "TOKEN", "HOOK", "SECRET"] {
        assert!(
            !said.contains(secret) && !wrong.stderr.contains(secret),
            "{secret}"
        );
    }
    // Nor where a section has the value of its key.
    for section in ["trackers", "web-seeds", "hooks"] {
        fs::write(&file, format!("{section} = \"https://user:PASSWORD@h/\"\n")).unwrap();
        let wrong = about("check-config").failed_with(2, &[section, "this is a section"]);
        assert!(!wrong.stderr.contains("PASSWORD"), "{}", wrong.stderr);
    }
}

#[test]
fn keygen_makes_a_private_file_once() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("key");
    let key = path.to_str().unwrap();
    let said = run(&["keygen", key]).succeeded();
    let public = said.stdout.trim();
    assert_eq!(public.len(), 64);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let content = fs::read_to_string(&path).unwrap();
    assert!(!said.stdout.contains(content.trim()) && !said.stderr.contains(content.trim()));

    run(&["keygen", key]).failed_with(1, &["already exists", "another PATH"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), content);
}

#[test]
fn status_and_verify_want_a_data_directory() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().to_str().unwrap();
    for command in ["status", "verify"] {
        run(&[command, "--data-dir", dir])
            .failed_with(1, &["is not a data directory", "--data-dir"]);
    }
}

#[test]
fn the_data_directory_of_the_service_manager_is_used() {
    let temp = tempfile::tempdir().unwrap();
    let said = run_command(
        command()
            .arg("status")
            .env("STATE_DIRECTORY", temp.path().join("state")),
    );
    said.failed_with(1, &[temp.path().join("state").to_str().unwrap()]);
}

#[test]
fn magnet_links_are_read() {
    let v2 = "597b180c1a170a585dfc5e85d834d69013ceda174b8f357d5bb1a0ca509faf0a";
    let link = format!("magnet:?xt=urn:btmh:1220{v2}&dn=a%20name&x.pe=[::1]:5");
    let said = run(&["inspect", &link]).succeeded();
    assert_eq!(said.value("v2 info-hash"), v2);
    assert_eq!(said.value("name"), "a name");
    assert_eq!(said.value("peer"), "[::1]:5");
    let json = run(&["inspect", "--json", &link]).succeeded().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["v2"], v2);
    run(&["inspect", "magnet:?xt=urn:btmh:12"]).failed_with(1, &["not a magnet link"]);
}

#[test]
fn what_is_no_torrent_is_said_to_be_none() {
    run(&["inspect", BEFORE]).failed_with(1, &["not a v2 or hybrid torrent"]);
    run(&["inspect", "/nowhere"]).failed_with(1, &["cannot read /nowhere"]);
}

#[test]
fn produce_refuses_what_is_no_ledger_and_keys_that_others_can_read() {
    let world = World::new();
    let text = world.path("data.ldb");
    fs::write(&text, "not a ledger at all".repeat(1000)).unwrap();
    run_command(&mut world.produce("p", &text)).failed_with(1, &["no ledger", "data.ldb"]);
    run_command(&mut world.produce("p", &world.path("none"))).failed_with(1, &["no ledger at"]);

    fs::set_permissions(world.path("key"), fs::Permissions::from_mode(0o640)).unwrap();
    run_command(&mut world.produce("p", &text)).failed_with(1, &["640", "chmod 600"]);
    fs::remove_file(world.path("key")).unwrap();
    run_command(&mut world.produce("p", &text)).failed_with(1, &["cannot read the signing key"]);
}
