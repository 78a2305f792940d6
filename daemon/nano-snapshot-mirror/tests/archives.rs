//! Snapshots that are archives: made, mirrored, extracted while they arrive, and refused.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bittorrent_protocol::{InfoHashV2, PieceLength};
use bittorrent_store::create::{Cut, copy_path};
use bittorrent_store::{RealIo, TorrentStore};
use common::{AFTER, BEFORE, Running, World, assert_same, copy_ledger, run_command};
use ledger_archive::PackOptions;

/// `produce --layout tar.zst` of a ledger; the snapshot.
fn produce_packed(world: &World, ledger: &Path) -> String {
    let mut produce = world.produce("producer", ledger);
    produce.args(["--layout", "tar.zst"]);
    run_command(&mut produce).succeeded().value("snapshot")
}

/// The only file of a held snapshot.
fn only_file(world: &World, data: &str, snapshot: &str) -> PathBuf {
    let content = world
        .path(data)
        .join("snapshots")
        .join(snapshot)
        .join("content");
    let mut files = fs::read_dir(content).unwrap();
    let file = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none());
    file
}

/// A snapshot of one file with this content, seeded from inside the test, to which the pointer leads.
fn publish(world: &World, name: &str, seq: i64, content: &[u8]) -> (InfoHashV2, Seeder) {
    let place = world.path(&format!("published-{seq}"));
    fs::create_dir(&place).unwrap();
    fs::write(place.join(name), content).unwrap();
    let cut = Cut {
        piece_length: PieceLength::MIN,
        hybrid: true,
    };
    let dir = place.join("store");
    let store = copy_path(&place.join(name), &dir, cut, Arc::new(RealIo), &mut |_| {
        true
    });
    let store: TorrentStore = store.unwrap();
    let id = store.info().hashes().v2;
    let (session, peer) = world.seed(store);
    world.put(seq, id);
    let seeder = Seeder {
        _session: session,
        peer: peer.to_string(),
    };
    (id, seeder)
}

struct Seeder {
    _session: bittorrent_session::Session,
    peer: String,
}

fn fetch(world: &World, data: &str, peer: &str, extra: &[&str]) -> common::Said {
    let mut fetch = world.mirror(data);
    fetch.args(["--once", "--extract", "--seed-peer", peer]);
    run_command(fetch.args(extra))
}

/// What is beside the ledger: nothing that an extraction leaves.
#[track_caller]
fn nothing_left(data: &Path) {
    for name in ["data.ldb.partial", "data.ldb.journal"] {
        assert!(!data.join(name).exists(), "{name} was left");
    }
}

#[test]
fn a_packed_ledger_reaches_a_node_and_the_next_one_too() {
    let world = World::new();
    let ledger = world.path("node/data.ldb");
    copy_ledger(BEFORE, &ledger);
    let first = produce_packed(&world, &ledger);
    let archive = only_file(&world, "producer", &first);
    assert_eq!(archive.file_name().unwrap(), "data.ldb.tar.zst");
    assert!(archive.metadata().unwrap().len() < Path::new(BEFORE).metadata().unwrap().len());
    // Nothing is left of the copy it was packed from.
    let dir = world.path("producer/snapshots").join(&first);
    assert!(!dir.join("data.ldb").exists());

    let seeder = Running::start(&mut world.mirror("producer"));
    let mut mirror = Running::start(&mut world.mirror("mirror"));
    mirror.until("the first day", || {
        world.current("mirror") == Some(first.clone())
    });
    assert_same(&archive, &only_file(&world, "mirror", &first));

    let said = run_command(world.mirror("node-1").args(["--once", "--extract"])).succeeded();
    for part in ["while it is downloaded", "of disk at most", "peak_disk="] {
        assert!(said.stderr.contains(part), "no {part:?}: {}", said.stderr);
    }
    assert_same(Path::new(BEFORE), &world.path("node-1/data.ldb"));
    assert_eq!(world.current("node-1"), Some(first.clone()));
    nothing_left(&world.path("node-1"));
    // The archive stays, to be seeded and to be reused.
    assert_same(&archive, &only_file(&world, "node-1", &first));

    copy_ledger(AFTER, &ledger);
    let second = produce_packed(&world, &ledger);
    mirror.until("the second day", || {
        world.current("mirror") == Some(second.clone())
    });
    run_command(world.mirror("node-1").args(["--once", "--extract"])).succeeded();
    assert_same(Path::new(AFTER), &world.path("node-1/data.ldb"));
    for daemon in [seeder, mirror] {
        daemon.stop().succeeded();
    }
}

#[test]
fn a_scrubbed_ledger_is_packed_without_what_is_private() {
    let world = World::new();
    let ledger = world.path("node.ldb");
    copy_ledger(BEFORE, &ledger);
    let mut produce = world.produce_default("producer", &ledger);
    produce.args(["--layout", "tar.zst", "--piece-length", "16KiB"]);
    let said = run_command(&mut produce).succeeded();
    let archive = only_file(&world, "producer", &said.value("snapshot"));
    let target = world.path("out.ldb");
    let going = |_| std::ops::ControlFlow::Continue(());
    let options = ledger_archive::ExtractOptions::new(1 << 40);
    let extracted = ledger_archive::extract_file(&archive, &target, options, going).unwrap();
    extracted.install().unwrap();
    let summary = nano_ledger::summarize(&target).unwrap();
    assert_eq!(summary.blocks, 5460);
    let peers = summary.tables.iter().find(|table| table.name == "peers");
    assert_eq!(peers.unwrap().entries, 0);
}

#[test]
fn a_discarded_archive_leaves_the_ledger_alone() {
    let world = World::new();
    let ledger = world.path("node/data.ldb");
    copy_ledger(BEFORE, &ledger);
    let snapshot = produce_packed(&world, &ledger);
    let seeder = Running::start(&mut world.mirror("producer"));
    let mut fetch = world.mirror("node-1");
    fetch.args(["--once", "--extract", "--discard-archive"]);
    let said = run_command(&mut fetch).succeeded();
    assert!(
        said.stderr.contains("not seeded any longer"),
        "{}",
        said.stderr
    );
    assert_same(Path::new(BEFORE), &world.path("node-1/data.ldb"));
    assert!(!world.path("node-1/snapshots").join(&snapshot).exists());
    assert_eq!(world.current("node-1"), None);
    nothing_left(&world.path("node-1"));
    // It is known what data.ldb is: nothing is fetched again.
    let said = run_command(&mut fetch).succeeded();
    assert!(
        said.stderr.contains("is this snapshot already"),
        "{}",
        said.stderr
    );
    seeder.stop().succeeded();
}

#[test]
fn a_killed_extraction_goes_on() {
    let world = World::new();
    let ledger = world.path("node.ldb");
    let options = nano_ledger::synthetic::Options {
        seed: 5,
        target_len: 128 << 20,
    };
    nano_ledger::synthetic::create(&ledger, &options).unwrap();
    let mut produce = world.produce("producer", &ledger);
    produce.args(["--layout", "tar.zst"]);
    run_command(&mut produce).succeeded();
    let seeder = Running::start(&mut world.mirror("producer"));

    let partial = world.path("node-1/data.ldb.partial");
    let len = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
    // Killed as soon as it has got anywhere, and behind the first checkpoint.
    for reached in [1, 66 << 20] {
        let mut fetch = world.mirror("node-1");
        let mut running = Running::start(fetch.args(["--once", "--extract"]));
        running.until("some of the ledger", || len(&partial) > reached);
        assert!(running.kill().is_none(), "it ended before it was killed");
    }
    let said = run_command(world.mirror("node-1").args(["--once", "--extract"])).succeeded();
    assert!(said.stderr.contains("in an earlier run"), "{}", said.stderr);
    assert_same(&ledger, &world.path("node-1/data.ldb"));
    nothing_left(&world.path("node-1"));
    seeder.stop().succeeded();
}

/// A 7z archive of one file that is not compressed, as its format description has it.
fn seven_z(name: &str, content: &[u8]) -> Vec<u8> {
    let number = |out: &mut Vec<u8>, number: u64| {
        out.push(0xFF);
        out.extend_from_slice(&number.to_le_bytes());
    };
    let len = content.len() as u64;
    // Header, streams, where they are packed.
    let mut header = vec![0x01, 0x04, 0x06, 0x00, 0x01, 0x09];
    number(&mut header, len);
    // Folders: one, here, with one coder that copies.
    header.extend_from_slice(&[0x00, 0x07, 0x0B, 0x01, 0x00, 0x01, 0x01, 0x00, 0x0C]);
    number(&mut header, len);
    header.extend_from_slice(&[0x0A, 0x01]);
    header.extend_from_slice(&crc32fast::hash(content).to_le_bytes());
    // Files: one, with a name.
    header.extend_from_slice(&[0x00, 0x00, 0x05, 0x01, 0x11]);
    let name: Vec<u8> = name
        .encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect();
    number(&mut header, name.len() as u64 + 1);
    header.push(0x00);
    header.extend_from_slice(&name);
    header.extend_from_slice(&[0x00, 0x00]);

    let mut start = Vec::new();
    start.extend_from_slice(&len.to_le_bytes());
    start.extend_from_slice(&(header.len() as u64).to_le_bytes());
    start.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
    let mut archive = vec![b'7', b'z', 0xBC, 0xAF, 0x27, 0x1C, 0x00, 0x04];
    archive.extend_from_slice(&crc32fast::hash(&start).to_le_bytes());
    archive.extend_from_slice(&start);
    archive.extend_from_slice(content);
    archive.extend_from_slice(&header);
    archive
}

#[test]
fn a_7z_archive_as_the_live_stream_has_it_is_extracted() {
    let world = World::new();
    let archive = seven_z("data.ldb", &fs::read(BEFORE).unwrap());
    let (id, seeder) = publish(&world, "Nano_64_2026_04_18.7z", 1, &archive);
    let said = fetch(&world, "node", &seeder.peer, &[]).succeeded();
    assert!(said.stderr.contains("starts over"), "{}", said.stderr);
    assert_same(Path::new(BEFORE), &world.path("node/data.ldb"));
    assert_eq!(world.current("node"), Some(id.to_string()));
    nothing_left(&world.path("node"));
    let status = run_command(
        common::command()
            .args(["status", "--data-dir"])
            .arg(world.path("node")),
    );
    assert_eq!(status.status.code(), Some(5), "no mirror runs there");
    let status = status.stdout;
    assert!(status.contains("store version 24"), "{status}");
    // Its name says nothing: the same under another is the same to a fetch.
    let (_, seeder) = publish(&world, "data.bin", 2, &archive);
    fetch(&world, "other", &seeder.peer, &["--discard-archive"]).succeeded();
    assert_same(Path::new(BEFORE), &world.path("other/data.ldb"));
}

fn packed(content: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    let len = content.len() as u64;
    ledger_archive::pack(content, len, &mut archive, &PackOptions::default()).unwrap();
    archive
}

/// A tar file, in one zstd frame, with one entry of this kind and name.
fn tar_zst(kind: tar::EntryType, name: &[u8], content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    header.set_cksum();
    let mut file = header.as_bytes().to_vec();
    file.extend_from_slice(content);
    file.resize(file.len().next_multiple_of(512) + 1024, 0);
    zstd::bulk::compress(&file, 1).unwrap()
}

#[test]
fn hostile_archives_are_refused_and_the_old_ledger_stays() {
    let world = World::new();
    let genuine = fs::read(BEFORE).unwrap();
    let good = packed(&genuine);
    let mut garbage = good.clone();
    garbage.extend_from_slice(&[7; 20_000]);
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let mut bomb = tar::Header::new_gnu();
    bomb.as_old_mut().name[..8].copy_from_slice(b"data.ldb");
    bomb.set_entry_type(tar::EntryType::Regular);
    bomb.set_size(1 << 60);
    bomb.set_cksum();
    let mut half = genuine.clone();
    half.truncate(genuine.len() / 2);
    let mut torn = genuine.clone();
    // Pages that lead to others; some are in use.
    let is_branch = |page: &&mut [u8]| page[10] == 1;
    for page in torn.chunks_exact_mut(4096).skip(2).filter(is_branch) {
        page[16..].fill(0xA5);
    }
    use tar::EntryType::{Char, Regular, Symlink};
    let cases: [(&str, Vec<u8>, &str); 11] = [
        (
            "truncated.tar.zst",
            good[..good.len() / 2].to_vec(),
            "damaged|ends at byte",
        ),
        (
            "garbage.tar.zst",
            garbage,
            "continues after the end of the archive",
        ),
        ("flipped.tar.zst", flipped, "checksum|damaged"),
        (
            "parent.tar.zst",
            tar_zst(Regular, b"../data.ldb", &genuine),
            "leads out",
        ),
        (
            "absolute.tar.zst",
            tar_zst(Regular, b"/tmp/data.ldb", &genuine),
            "absolute path",
        ),
        (
            "link.tar.zst",
            tar_zst(Symlink, b"data.ldb", b""),
            "contains the link",
        ),
        (
            "device.tar.zst",
            tar_zst(Char, b"data.ldb", b""),
            "device or FIFO",
        ),
        (
            "bomb.tar.zst",
            zstd::bulk::compress(bomb.as_bytes(), 1).unwrap(),
            "allowed",
        ),
        ("half.tar.zst", packed(&half), "file-length"),
        ("torn.tar.zst", packed(&torn), "refused"),
        ("junk.tar.zst", packed(&[5; 100_000]), "not a Nano ledger"),
    ];
    let old = world.path("node/data.ldb");
    copy_ledger(AFTER, &old);
    for ((name, content, reason), seq) in cases.into_iter().zip(1..) {
        let (id, seeder) = publish(&world, name, seq, &content);
        let said = fetch(&world, "node", &seeder.peer, &[]).failed_with(1, &[]);
        assert!(
            reason.split('|').any(|reason| said.stderr.contains(reason)),
            "{name}: {}",
            said.stderr
        );
        assert_same(Path::new(AFTER), &old);
        assert_eq!(world.current("node"), None, "{name}");
        nothing_left(&world.path("node"));
        // What is the archive's own fault is not tried again, nor fetched.
        if name != "bomb.tar.zst" {
            let again = fetch(&world, "node", &seeder.peer, &[]);
            again.failed_with(1, &["not a sound ledger", &id.to_string()]);
        }
    }
    // Nor does what is neither of the three become a ledger.
    let (_, seeder) = publish(&world, "junk.bin", 20, &[5; 100_000]);
    let said = fetch(&world, "node", &seeder.peer, &[]);
    said.failed_with(1, &["neither a ledger nor a tar.zst nor a 7z"]);
    assert_same(Path::new(AFTER), &old);
}

#[test]
fn ledgers_of_unwanted_store_versions_are_not_even_fetched() {
    let world = World::new();
    let ledger = world.path("node.ldb");
    copy_ledger(BEFORE, &ledger);
    let snapshot = run_command(&mut world.produce("producer", &ledger))
        .succeeded()
        .value("snapshot");
    let seeder = Running::start(&mut world.mirror("producer"));
    let mut fetch = world.mirror("node");
    fetch.args(["--once", "--store-version", "21-22"]);
    let reason = [
        "refused before its download",
        "store version 24",
        "21 to 22",
    ];
    run_command(&mut fetch).failed_with(1, &reason);
    assert!(
        !world
            .path("node/snapshots")
            .join(&snapshot)
            .join("content")
            .exists()
    );
    run_command(
        world
            .mirror("node")
            .args(["--once", "--store-version", "24"]),
    )
    .succeeded();
    // Held, and not wanted any longer.
    let said = run_command(&mut fetch);
    said.failed_with(1, &["store version 24", "21 to 22"]);
    seeder.stop().succeeded();

    // A producer does not publish what it does not want either.
    let mut produce = world.produce("other", &ledger);
    produce.args(["--store-version", "21-22"]);
    run_command(&mut produce).failed_with(1, &["not published", "store version 24"]);

    // Where the torrent says nothing, the ledger does.
    let (_, seeder) = publish(&world, "data.ldb", 9, &fs::read(BEFORE).unwrap());
    fetch.args(["--seed-peer", &seeder.peer]);
    run_command(&mut fetch).failed_with(1, &["not a sound ledger", "store version 24"]);
    assert_eq!(world.current("node"), Some(snapshot));
}
