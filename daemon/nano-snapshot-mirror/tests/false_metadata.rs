//! A peer whose metadata is not what the hash names: it costs time, never truth.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bittorrent_protocol::wire::{
    EXTENDED_HANDSHAKE, ExtendedHandshake, HANDSHAKE_LEN, Handshake, MetadataMessage, Reserved,
};
use bittorrent_protocol::{PeerId, SwarmHash};
use common::{BEFORE, Running, World, assert_same, copy_ledger, run_command};

/// The number under which the liar takes metadata messages.
const LIARS_ID: u8 = 5;

/// The id of extension messages (BEP 10).
const EXTENDED: u8 = 20;

/// Seeds metadata that is made up, and counts how often it was asked for.
fn liar(swarm: SwarmHash) -> (SocketAddr, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let count = count.clone();
            // Fails when the other side has had enough, as it should.
            std::thread::spawn(move || lie(stream, swarm, &count).ok());
        }
    });
    (address, asked)
}

fn lie(mut stream: TcpStream, swarm: SwarmHash, asked: &AtomicU32) -> std::io::Result<()> {
    stream.read_exact(&mut [0; HANDSHAKE_LEN])?;
    let reserved = Reserved {
        extended: true,
        ..Reserved::default()
    };
    let peer_id = PeerId::from_bytes(*b"-XX0001-tells-a-lie!");
    stream.write_all(
        &Handshake {
            reserved,
            swarm,
            peer_id,
        }
        .encode(),
    )?;
    let metadata = b"d6:lengthi1e4:name3:liee".to_vec();
    let introduction = ExtendedHandshake {
        ut_metadata: Some(LIARS_ID),
        metadata_size: Some(metadata.len() as u32),
        ..ExtendedHandshake::default()
    };
    say(&mut stream, EXTENDED_HANDSHAKE, &introduction.encode())?;
    let mut their_id = None;
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut message = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut message)?;
        match message.as_slice() {
            [EXTENDED, EXTENDED_HANDSHAKE, payload @ ..] => {
                their_id = ExtendedHandshake::decode(payload)
                    .unwrap()
                    .ut_metadata
                    .or(their_id);
            }
            [EXTENDED, LIARS_ID, ..] => {
                asked.fetch_add(1, Ordering::SeqCst);
                let data = MetadataMessage::Data {
                    piece: 0,
                    total_size: metadata.len() as u32,
                    payload: metadata.clone().into(),
                };
                say(&mut stream, their_id.unwrap(), &data.encode())?;
            }
            _ => {}
        }
    }
}

fn say(stream: &mut TcpStream, id: u8, payload: &[u8]) -> std::io::Result<()> {
    let mut message = (payload.len() as u32 + 2).to_be_bytes().to_vec();
    message.extend([EXTENDED, id]);
    message.extend(payload);
    stream.write_all(&message)
}

#[test]
fn a_liar_keeps_nobody_from_the_truth() {
    let world = World::new();
    let ledger = world.path("node.ldb");
    copy_ledger(BEFORE, &ledger);
    let produced = run_command(&mut world.produce("producer", &ledger)).succeeded();
    let snapshot = produced.value("snapshot");
    let swarm = snapshot
        .parse::<bittorrent_protocol::InfoHashV2>()
        .unwrap()
        .truncated();
    let (address, asked) = liar(swarm);

    // With the liar alone: nothing is believed, nothing is made of it.
    let mut fetch = world.mirror("node");
    fetch.args(["--once", "--seed-peer", &address.to_string()]);
    let fetching = Running::start(&mut fetch);
    common::eventually("the lie", || {
        (asked.load(Ordering::SeqCst) > 0).then_some(())
    });
    let said = fetching.stop();
    said.failed_with(130, &[]);
    let dir = world.path("node/snapshots").join(&snapshot);
    assert!(!dir.join("snapshot.torrent").exists());

    // With an honest peer.
    let seeder = Running::start(&mut world.mirror("producer"));
    run_command(&mut fetch).succeeded();
    assert_same(
        &world.content("producer", &snapshot),
        &world.content("node", &snapshot),
    );
    seeder.stop().succeeded();
}
