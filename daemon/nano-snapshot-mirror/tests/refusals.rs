//! What must not be followed or begun: each with a reason a person understands, and nothing lost.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use bittorrent_protocol::bencode::{self, Limits};
use bittorrent_protocol::metainfo::{HashedContent, MetainfoBuilder};
use bittorrent_protocol::{InfoHashV2, MerkleHash, PieceLength, PieceSha1, merkle};
use bittorrent_store::{RealIo, TorrentStore};
use common::{AFTER, BEFORE, Running, World, assert_same, copy_ledger, run_command};

/// A world in which `node` has fetched seq 5.
fn fetched() -> (World, String) {
    let mut world = World::new();
    let ledger = world.path("node.ldb");
    copy_ledger(BEFORE, &ledger);
    let produced = run_command(&mut world.produce("producer", &ledger)).succeeded();
    let snapshot = produced.value("snapshot");
    world.forget();
    world.put(5, snapshot.parse().unwrap());
    let seeder = Running::start(&mut world.mirror("producer"));
    run_command(world.mirror("node").arg("--once")).succeeded();
    seeder.stop().succeeded();
    (world, snapshot)
}

#[test]
fn a_lower_seq_and_a_second_word_are_refused() {
    let (mut world, snapshot) = fetched();
    let other = InfoHashV2::from_bytes([9; 32]);

    world.forget();
    world.put(4, other);
    let said = run_command(world.mirror("node").arg("--once")).succeeded();
    assert!(said.stderr.contains("seq 4 is below 5"), "{}", said.stderr);
    assert_eq!(world.current("node"), Some(snapshot.clone()));

    world.forget();
    world.put(5, other);
    run_command(world.mirror("node").arg("--once"))
        .failed_with(1, &["two different snapshots", "proof is kept"]);
    assert_eq!(world.current("node"), Some(snapshot.clone()));
    assert_same(
        &world.content("producer", &snapshot),
        &world.content("node", &snapshot),
    );

    // A greater number ends the doubt.
    world.put(6, snapshot.parse().unwrap());
    run_command(world.mirror("node").arg("--once")).succeeded();
}

#[test]
fn without_a_pointer_the_reason_is_said() {
    let world = World::new();
    run_command(world.mirror("node").arg("--once")).failed_with(
        1,
        &[
            "no pointer was found",
            &world.authority,
            "6 DHT nodes answered",
        ],
    );
}

#[test]
fn a_disk_that_is_too_small_is_noticed_before_starting() {
    let world = World::new();
    // One TiB of nothing: its metadata is genuine, its content exists nowhere.
    let piece_length = PieceLength::MAX;
    let length = 1u64 << 40;
    let pieces = (length / u64::from(piece_length.bytes())) as usize;
    let layer = vec![MerkleHash::from_bytes([1; 32]); pieces];
    let root = merkle::file_root_from_layer(&layer, piece_length);
    let content = HashedContent {
        length,
        root: Some(root),
        layer,
        v1_pieces: vec![PieceSha1::from_bytes([0; 20]); pieces],
        executable: false,
    };
    let meta = MetainfoBuilder::new("data.ldb", piece_length)
        .hybrid(true)
        .single_file(content)
        .build()
        .unwrap();
    let dir = world.path("huge");
    let store = TorrentStore::create(&dir, &meta, Arc::new(RealIo)).unwrap();
    let (_session, peer) = world.seed(store);
    world.put(1, meta.info().hashes().v2);

    let mut fetch = world.mirror("node");
    fetch.args(["--once", "--seed-peer", &peer.to_string()]);
    let said = run_command(&mut fetch);
    said.failed_with(1, &["the disk is too small", "1.00 TiB", "--data-dir"]);
    assert_eq!(world.current("node"), None);
}

#[test]
fn produce_says_what_keeps_it_from_publishing() {
    let world = World::new();
    let ledger = world.path("node.ldb");
    copy_ledger(BEFORE, &ledger);

    // No node answers: the number in use is unknown.
    let mut alone = common::command();
    alone
        .arg("produce")
        .arg("--ledger")
        .arg(&ledger)
        .arg("--key")
        .arg(world.path("key"));
    alone
        .arg("--data-dir")
        .arg(world.path("p"))
        .args(["--dht-port", "0"]);
    alone.args(["--dht-bootstrap", "127.0.0.1:9"]);
    run_command(&mut alone)
        .failed_with(1, &["not published", "look-up failed", "run produce again"]);

    // The snapshot is there nevertheless, and the next run publishes it.
    let said = run_command(&mut world.produce("p", &ledger)).succeeded();
    assert_eq!(said.value("seq"), "1");
    let snapshot = said.value("snapshot");

    let mut again = world.produce("p", &ledger);
    run_command(again.arg("--first")).succeeded();
    let said = run_command(&mut world.produce("p", &ledger)).succeeded();
    assert_eq!(
        (said.value("seq"), said.value("state")),
        ("1".into(), "unchanged".into())
    );
    assert_eq!(said.value("snapshot"), snapshot);

    // On another disk, with a network that knows the key: the same is said, and counting goes on.
    let said = run_command(&mut world.produce("q", &ledger)).succeeded();
    assert_eq!(
        (said.value("seq"), said.value("snapshot")),
        ("1".into(), snapshot.clone())
    );
    copy_ledger(AFTER, &ledger);
    let said = run_command(&mut world.produce("q", &ledger)).succeeded();
    assert_eq!(said.value("seq"), "2");
    assert_ne!(said.value("snapshot"), snapshot);
    copy_ledger(BEFORE, &ledger);
    let mut first = world.produce("r", &ledger);
    run_command(first.arg("--first")).failed_with(1, &["not the first publication"]);
}

/// A key and a byte string of a bencoded dictionary.
fn string(reply: &mut Vec<u8>, key: &str, value: &[u8]) {
    reply.extend(format!("{}:{key}{}:", key.len(), value.len()).into_bytes());
    reply.extend(value);
}

/// A DHT node that answers every look-up with an item that the authority did not sign.
fn forger(authority: &str) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let key = data_encoding::HEXLOWER
        .decode(authority.as_bytes())
        .unwrap();
    // Ends with the test's process.
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let decoded = bencode::decode(&buffer[..length], &Limits::MESSAGE);
            let Ok(decoded) = decoded else { continue };
            let query = decoded.root.as_dict().unwrap();
            let Some(transaction) = query.bytes("t") else {
                continue;
            };
            let mut reply = b"d1:rd2:id20:aaaaaaaaaaaaaaaaaaaa".to_vec();
            if query.bytes("q") == Some(b"get") {
                string(&mut reply, "k", &key);
                string(&mut reply, "nodes", b"");
                reply.extend(b"3:seqi7e");
                string(&mut reply, "sig", &[5; 64]);
                string(&mut reply, "token", b"abcd");
                string(&mut reply, "v", &[9; 32]);
            } else {
                string(&mut reply, "nodes", b"");
            }
            reply.extend(format!("e1:t{}:", transaction.len()).into_bytes());
            reply.extend(transaction);
            reply.extend(b"1:y1:re");
            let _ = socket.send_to(&reply, from);
        }
    });
    address
}

#[test]
fn an_item_with_a_wrong_signature_is_never_followed() {
    let world = World::new();
    let node = forger(&world.authority).to_string();
    let mut fetch = common::command();
    fetch
        .arg("--once")
        .arg("--data-dir")
        .arg(world.path("node"));
    fetch.args(["--authority", &world.authority, "--listen", "127.0.0.1:0"]);
    fetch.args(["--dht-port", "0", "--dht-bootstrap", &node]);
    run_command(&mut fetch).failed_with(1, &["there is no snapshot to fetch", "signature"]);
    assert_eq!(world.current("node"), None);
}
