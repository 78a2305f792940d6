//! `produce` in production: from a timer, interrupted, beside itself, without a network.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use common::{AFTER, BEFORE, World, copy_ledger, run_command};
use rustix::fs::FlockOperation;

#[test]
fn a_ledger_that_did_not_change_is_not_copied_again() {
    let world = World::new();
    let ledger = world.path("node.ldb");
    copy_ledger(BEFORE, &ledger);
    let run =
        |extra: &[&str]| run_command(world.produce_default("p", &ledger).args(extra)).succeeded();
    let first = run(&[]);
    assert!(first.stderr.contains("Copying"), "{}", first.stderr);
    let again = run(&[]);
    let id = first.value("snapshot");
    assert_eq!(
        ["snapshot", "seq", "state"].map(|key| again.value(key)),
        [id.clone(), "1".into(), "unchanged".into()]
    );
    assert!(
        again.stderr.contains("nothing was committed"),
        "{}",
        again.stderr
    );
    assert!(!again.stderr.contains("Copying"), "{}", again.stderr);

    // Made in another way it is something else.
    let other = run(&["--publish", "exact"]);
    assert_ne!(other.value("snapshot"), id);
    assert_eq!(other.value("seq"), "2");

    // So is what has gone from the store.
    let dir = world.path("p/snapshots").join(other.value("snapshot"));
    fs::remove_dir_all(dir).unwrap();
    let made_again = run(&["--publish", "exact"]);
    assert!(
        made_again.stderr.contains("Copying"),
        "{}",
        made_again.stderr
    );

    copy_ledger(AFTER, &ledger);
    assert_eq!(run(&[]).value("seq"), "3");
}

#[test]
fn offline_it_is_made_and_the_next_run_only_signs() {
    let world = World::new();
    let ledger = world.path("node.ldb");
    copy_ledger(BEFORE, &ledger);
    // Neither a key nor a network.
    let mut offline = common::command();
    offline
        .arg("produce")
        .arg("--offline")
        .arg("--ledger")
        .arg(&ledger);
    offline.arg("--data-dir").arg(world.path("p"));
    offline.args(["--publish", "exact"]);
    let made = run_command(&mut offline).failed_with(3, &["not published", "--offline"]);
    let id = made.value("snapshot");
    assert_eq!(world.current("p"), None);

    let signed = run_command(&mut world.produce("p", &ledger)).succeeded();
    assert_eq!(
        ["snapshot", "seq", "state"].map(|key| signed.value(key)),
        [id.clone(), "1".into(), "new".into()]
    );
    assert!(!signed.stderr.contains("Copying"), "{}", signed.stderr);
    assert_eq!(world.current("p"), Some(id));
}

#[test]
fn a_dry_run_only_says_what_it_would_do() {
    let world = World::new();
    let ledger = world.path("node.ldb");
    copy_ledger(BEFORE, &ledger);
    let dry = || {
        let mut produce = world.produce("p", &ledger);
        run_command(produce.arg("--dry-run")).succeeded()
    };
    let said = dry();
    assert!(
        said.value("would").contains("sign and publish"),
        "{}",
        said.stdout
    );
    assert!(
        said.value("content").contains("5,460 blocks"),
        "{}",
        said.stdout
    );
    assert!(said.value("room").contains("free in"), "{}", said.stdout);
    assert_eq!(world.current("p"), None);
    for dir in ["snapshots", "incoming", "streams"] {
        let left = fs::read_dir(world.path("p").join(dir)).unwrap().count();
        assert_eq!(left, 0, "{dir}");
    }
    let id = run_command(&mut world.produce("p", &ledger))
        .succeeded()
        .value("snapshot");
    let said = dry();
    assert_eq!(said.value("snapshot"), id);
    assert!(said.value("would").contains("again"), "{}", said.stdout);
}

#[test]
fn two_at_a_time_do_not_work_in_one_directory() {
    let world = World::new();
    let ledger = world.path("node.ldb");
    copy_ledger(BEFORE, &ledger);
    fs::create_dir_all(world.path("p")).unwrap();
    let lock = world.path("p/produce.lock");
    fs::write(&lock, "4711\n").unwrap();
    let held = File::open(&lock).unwrap();
    rustix::fs::flock(&held, FlockOperation::LockExclusive).unwrap();
    let mut produce = world.produce("p", &ledger);
    run_command(&mut produce).failed_with(1, &["another produce", "4711"]);
    assert!(!Path::new(&world.path("p/produced")).exists());
    drop(held);
    run_command(&mut produce).succeeded();
}

#[test]
fn a_mirror_that_runs_there_lends_its_network() {
    let world = World::new();
    let ledger = world.path("node.ldb");
    copy_ledger(BEFORE, &ledger);
    let mut mirror = common::Running::start(&mut world.mirror("p"));
    let socket = world.path("p/control.sock");
    mirror.until("the socket", || socket.exists());

    // Itself it knows no DHT node that lives.
    let produce = || {
        let mut produce = common::command();
        produce.arg("produce").arg("--ledger").arg(&ledger);
        produce.arg("--key").arg(world.path("key"));
        produce.arg("--data-dir").arg(world.path("p"));
        produce.args(["--dht-port", "0", "--dht-bootstrap", "127.0.0.1:9"]);
        run_command(&mut produce)
    };
    let said = produce().succeeded();
    assert!(
        said.stderr.contains("the DHT of the running mirror"),
        "{}",
        said.stderr
    );
    assert_eq!(said.value("seq"), "1");
    let id = said.value("snapshot");
    // It was notified at once, not at its next poll.
    assert!(mirror.stderr().contains(&id), "{}", mirror.stderr());

    copy_ledger(AFTER, &ledger);
    let said = produce().succeeded();
    assert_eq!(said.value("seq"), "2");
    let other = said.value("snapshot");
    // Another one hears of it through the DHT.
    run_command(world.mirror("node").args(["--once"])).succeeded();
    assert_eq!(world.current("node"), Some(other));
    mirror.stop().succeeded();
    produce().failed_with(1, &["not published", "before storing failed"]);
}

#[test]
fn what_waits_to_be_published_is_published_before_another_is_made() {
    let world = World::new();
    let ledger = world.path("node.ldb");
    copy_ledger(BEFORE, &ledger);
    let waiting = run_command(world.produce("p", &ledger).arg("--offline"))
        .failed_with(3, &["not published"])
        .value("snapshot");
    // A node commits all the time.
    nano_ledger::synthetic::add_day(&ledger, 2, 2).unwrap();
    let said = run_command(&mut world.produce("p", &ledger)).succeeded();
    assert_eq!(
        ["snapshot", "seq"].map(|key| said.value(key)),
        [waiting.clone(), "1".into()]
    );
    assert!(!said.stderr.contains("Copying"), "{}", said.stderr);
    let said = run_command(&mut world.produce("p", &ledger)).succeeded();
    assert_ne!(said.value("snapshot"), waiting);
    assert_eq!(said.value("seq"), "2");
}

#[test]
fn a_credential_of_the_service_manager_may_have_group_bits_and_no_other_key() {
    let world = World::new();
    let ledger = world.path("node.ldb");
    copy_ledger(BEFORE, &ledger);
    // As systemd leaves it: the group bits show the mask of an access list.
    let credentials = world.path("credentials");
    fs::create_dir(&credentials).unwrap();
    let key = credentials.join("signing-key");
    fs::copy(world.path("key"), &key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o440)).unwrap();
    let run = |directory: Option<&Path>| {
        let mut produce = common::command();
        produce
            .args(["produce", "--dry-run", "--ledger"])
            .arg(&ledger);
        produce.arg("--key").arg(&key);
        produce.arg("--data-dir").arg(world.path("p"));
        if let Some(directory) = directory {
            produce.env("CREDENTIALS_DIRECTORY", directory);
        }
        run_command(&mut produce)
    };
    run(Some(&credentials)).succeeded();
    let refused = &["may be read by others", "440"];
    run(None).failed_with(1, refused);
    run(Some(Path::new(""))).failed_with(1, refused);
    run(Some(&world.path("other"))).failed_with(1, refused);
    run(Some(&world.path("cred"))).failed_with(1, refused);
}

#[test]
fn an_older_ledger_is_published_only_where_that_is_allowed() {
    let world = World::new();
    let ledger = world.path("node.ldb");
    copy_ledger(AFTER, &ledger);
    let first = run_command(&mut world.produce_default("p", &ledger)).succeeded();
    let id = first.value("snapshot");

    copy_ledger(BEFORE, &ledger);
    run_command(&mut world.produce_default("p", &ledger)).failed_with(
        1,
        &[
            "5,338 cemented of 5,460 blocks",
            "5,926 of 5,966",
            &id,
            "older",
            "--allow-older",
        ],
    );
    assert_eq!(world.current("p"), Some(id));
    let left = fs::read_dir(world.path("p/incoming")).unwrap().count();
    assert_eq!(left, 0);
    let mut allowed = world.produce_default("p", &ledger);
    let said = run_command(allowed.arg("--allow-older")).succeeded();
    assert_eq!(said.value("seq"), "2");
    let older = world.current("p");

    // Nor is one of another network, which no flag allows.
    fs::remove_file(&ledger).unwrap();
    let options = nano_ledger::synthetic::Options {
        seed: 1,
        target_len: 8 << 20,
    };
    nano_ledger::synthetic::create(&ledger, &options).unwrap();
    let mut other = world.produce_default("p", &ledger);
    run_command(other.arg("--allow-older"))
        .failed_with(1, &["unknown network", "dev network", "--salt"]);
    assert_eq!(world.current("p"), older);
}

#[test]
fn pieces_that_nobody_could_fetch_are_refused_before_the_copy() {
    let world = World::new();
    let ledger = world.path("node.ldb");
    copy_ledger(BEFORE, &ledger);
    // As of a ledger with that many pages, most of which the file system need not store: what both meta pages
    // have behind page header 16, magic and version 8, address 8, map size 8 and two trees of 48 bytes each.
    let length = 3_700_000_000_u64 / 4096 * 4096;
    let file = File::options().write(true).open(&ledger).unwrap();
    for page in [0, 4096] {
        let last_page = length / 4096 - 1;
        std::os::unix::fs::FileExt::write_all_at(&file, &last_page.to_le_bytes(), page + 136)
            .unwrap();
    }
    file.set_len(length).unwrap();
    let produce = |how: &[&str]| {
        let mut produce = world.produce_default("p", &ledger);
        run_command(produce.args(["--piece-length", "16KiB"]).args(how))
    };
    let parts = ["--piece-length 32KiB", "225,830 pieces", "4.00 MiB"];
    let said = produce(&[]).failed_with(1, &parts);
    assert!(!said.stderr.contains("Copying"), "{}", said.stderr);
    let planned = produce(&["--dry-run"]).succeeded();
    assert!(
        planned.value("would").contains(parts[0]),
        "{}",
        planned.stdout
    );
}
