//! Peers that send far too many messages: their cost is bounded, and others are served
//! meanwhile.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::time::Duration;

use bittorrent_protocol::merkle::HashRequest;
use bittorrent_protocol::wire::{
    EXTENDED_HANDSHAKE, ExtendedHandshake, Message, MetadataMessage, Request, UT_METADATA,
};
use bittorrent_session::{Session, SessionConfig, Tuning};
use bytes::BytesMut;
use common::wire::{MODERN, RawPeer};
use common::{Sample, addr, config, wait_seeding};
use tokio::io::AsyncWriteExt as _;

/// What a flood may add to the memory of the whole test.
const MOST_MEMORY: u64 = 48 << 20;

struct Seed {
    dir: tempfile::TempDir,
    sample: Sample,
    session: Session,
    memory: u64,
}

impl Seed {
    async fn new(config: SessionConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sample = Sample::file("flooded", 2_000_000, 32 * 1024, false);
        let session = Session::start(config).await.unwrap();
        let store = sample.full_store(&dir.path().join("seed"));
        session.add_store(store).await.unwrap();
        Self {
            dir,
            sample,
            session,
            memory: resident(),
        }
    }

    async fn peer(&self) -> RawPeer {
        let swarm = self.sample.meta.info().hashes().v2.truncated();
        RawPeer::connect(addr(&self.session), swarm, MODERN).await.0
    }

    /// Another peer gets everything all the same, and the flood has cost little.
    async fn still_serves(&self) {
        let leech = common::session().await;
        let store = self.sample.empty_store(&self.dir.path().join("leech"));
        let torrent = leech.add_store(store).await.unwrap();
        torrent.add_peers(&[addr(&self.session)]).await;
        wait_seeding(&torrent).await;
        let grown = resident().saturating_sub(self.memory);
        println!("{} KiB of memory", grown >> 10);
        assert!(grown < MOST_MEMORY, "{grown} bytes");
    }
}

/// Bytes of memory this process holds.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

fn wire(messages: impl Iterator<Item = Message<'static>>) -> BytesMut {
    let mut bytes = BytesMut::new();
    for message in messages {
        message.encode(&mut bytes);
    }
    bytes
}

/// Sends bytes again and again without ever reading; says after how many times it was closed, or not read
/// any further for a while.
async fn pour(peer: &mut RawPeer, bytes: &[u8], most: usize) -> Option<usize> {
    for times in 0..most {
        let sent = tokio::time::timeout(Duration::from_secs(3), peer.stream.write_all(bytes)).await;
        match sent {
            Ok(Ok(())) => {}
            // It takes no more, or has closed.
            Ok(Err(_)) | Err(_) => return Some(times),
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_somebody_who_is_choked_end_the_connection() {
    let seed = Seed::new(SessionConfig {
        tuning: Tuning {
            request_queue: 100,
            ..Tuning::default()
        },
        engine: bittorrent_session::EngineConfig {
            // No peer but the one that is served in the end.
            unchoke_slots: 0,
            optimistic_slots: 0,
            ..Default::default()
        },
        ..config()
    })
    .await;
    let mut peer = seed.peer().await;
    // Out of range, so that they are turned down though a local peer is never choked.
    let request = Request {
        index: 1_000_000,
        begin: 0,
        length: 16_384,
    };
    let flood = wire((0..301).map(|_| Message::Request(request)));
    peer.raw(&flood).await;
    let mut rejects = 0;
    while let Some(frame) = peer.next().await {
        let message = common::wire::message(&frame);
        rejects += usize::from(matches!(message, Message::Reject(_)));
    }
    assert!(rejects <= 300, "{rejects}");
    seed.still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_many_hash_requests_is_answered_and_few_wait() {
    let seed = Seed::new(config()).await;
    let mut peer = seed.peer().await;
    let root = seed.sample.layout().files()[0].root().unwrap();
    let request = |n: u32| HashRequest {
        root,
        base: 0,
        index: n % 60 * 2,
        count: 2,
        proof_layers: 2,
    };
    const ASKED: u32 = 5_000;
    let flood = wire((0..ASKED).map(|n| Message::HashRequest(request(n))));
    peer.raw(&flood).await;
    let (mut given, mut rejected) = (0, 0);
    while given + rejected < ASKED {
        let frame = peer.next().await.expect("an answer to each");
        match common::wire::message(&frame) {
            Message::Hashes(..) => given += 1,
            Message::HashReject(_) => rejected += 1,
            _ => {}
        }
    }
    println!("{given} given, {rejected} rejected");
    assert!(given > 0);
    seed.still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_metadata_and_never_reads_is_not_heard_for_ever() {
    let seed = Seed::new(config()).await;
    let mut peer = seed.peer().await;
    let handshake = ExtendedHandshake {
        ut_metadata: Some(1),
        ..ExtendedHandshake::default()
    };
    peer.send(&Message::Extended {
        id: EXTENDED_HANDSHAKE,
        payload: &handshake.encode(),
    })
    .await;
    let request = MetadataMessage::Request { piece: 0 }.encode();
    let mut flood = BytesMut::new();
    for _ in 0..10_000 {
        let (id, payload) = (UT_METADATA, &request);
        Message::Extended { id, payload }.encode(&mut flood);
    }
    let closed = pour(&mut peer, &flood, 200).await;
    println!("heard {closed:?} times 10,000 requests");
    assert!(closed.is_some());
    seed.still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_have_and_unknown_messages_cost_nothing() {
    let seed = Seed::new(config()).await;
    let mut peer = seed.peer().await;
    peer.send(&Message::HaveNone).await;
    let flood = wire((0..50_000).map(|n| Message::Have(n % 3)));
    peer.raw(&flood).await;
    let unknown = wire((0..50_000).map(|_| Message::Unknown {
        id: 99,
        payload: &[0; 20],
    }));
    peer.raw(&unknown).await;
    // It is still there.
    peer.send(&Message::Interested).await;
    let found = peer.find(|message| matches!(message, Message::Unchoke).then_some(()));
    assert!(found.await.is_some());
    seed.still_serves().await;
}
