//! What a person meets before anything goes over a network.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use common::{BEFORE, World, command, run, run_command};

#[test]
fn wrong_flags_are_named_with_what_to_write() {
    let cases: [(&[&str], &[&str]); 6] = [
        (
            &["--authority", "xyz"],
            &["--authority <HEX>", "64 hexadecimal digits"],
        ),
        (&["--salt", &"s".repeat(65)], &["--salt <TEXT>", "64"]),
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
        1,
        &["--threshold", "between 1 and the number of authorities"],
    );
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

    run(&["keygen", key]).failed_with(1, &["is there already", "another PATH"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), content);
}

#[test]
fn status_and_verify_want_a_data_directory() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().to_str().unwrap();
    for command in ["status", "verify"] {
        run(&[command, "--data-dir", dir]).failed_with(1, &["no data directory", "--data-dir"]);
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
    run(&["inspect", "magnet:?xt=urn:btmh:12"]).failed_with(1, &["no magnet link"]);
}

#[test]
fn what_is_no_torrent_is_said_to_be_none() {
    run(&["inspect", BEFORE]).failed_with(1, &["no v2 or hybrid torrent"]);
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
