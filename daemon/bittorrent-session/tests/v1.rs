//! Clients of version 1 in hybrid swarms, and the way from v1 to v2 links.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use bittorrent_protocol::wire::{Handshake, Message, Request, Reserved};
use bittorrent_protocol::{PieceSha1, SwarmHash};
use bittorrent_session::{Link, Session};
use common::wire::{MODERN, PLAIN, RawPeer};
use common::{Sample, addr, session, wait_for, wait_seeding};
use sha1::Digest as _;
use tokio::net::TcpListener;

async fn hybrid_seed() -> (tempfile::TempDir, Sample, Session) {
    let dir = tempfile::tempdir().unwrap();
    let lens = [100_000, 0, 5, 65_536, 200_001];
    let sample = Sample::directory("old and new", &lens, 32 * 1024, true);
    let seed = session().await;
    let store = sample.full_store(&dir.path().join("seed"));
    seed.add_store(store).await.unwrap();
    (dir, sample, seed)
}

/// Downloads everything as v1 clients do, padding included, and checks it by SHA-1.
async fn download_as_v1(sample: &Sample, seed: &Session, swarm: SwarmHash) {
    let (mut peer, answer) = RawPeer::connect(addr(seed), swarm, PLAIN).await;
    assert_eq!(answer.swarm, swarm, "no upgrade without being asked");
    let bits = peer
        .find(|message| match message {
            Message::Bitfield(bits) => Some(bits.to_vec()),
            Message::HaveAll | Message::HaveNone => panic!("the fast extension was not offered"),
            Message::Extended { .. } => panic!("extensions were not offered"),
            _ => None,
        })
        .await
        .unwrap();
    let pieces = sample.layout().piece_count();
    assert_eq!(
        bits.iter().map(|byte| byte.count_ones()).sum::<u32>(),
        pieces
    );
    peer.send(&Message::Interested).await;
    peer.find(|message| (message == Message::Unchoke).then_some(()))
        .await
        .unwrap();
    let info = sample.meta.info();
    for piece in sample.layout().piece_indices() {
        let mut bytes = Vec::new();
        let size = info.v1_piece_size(piece).unwrap();
        while (bytes.len() as u32) < size {
            let begin = bytes.len() as u32;
            let request = Request {
                index: piece.get(),
                begin,
                length: (size - begin).min(16 * 1024),
            };
            peer.send(&Message::Request(request)).await;
            let data = peer
                .find(|message| match message {
                    Message::Piece { data, .. } => Some(data.to_vec()),
                    _ => None,
                })
                .await
                .unwrap();
            assert_eq!(data.len() as u32, request.length);
            bytes.extend(data);
        }
        let hash = PieceSha1::from_bytes(sha1::Sha1::digest(&bytes).into());
        assert_eq!(hash, info.v1_pieces().unwrap()[piece.as_usize()], "{piece}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_client_downloads_a_hybrid() {
    let (_dir, sample, seed) = hybrid_seed().await;
    let v1 = sample.meta.info().hashes().v1.unwrap();
    download_as_v1(&sample, &seed, v1.into()).await;
    seed.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_miscounts_the_hash_downloads_a_hybrid() {
    let (_dir, sample, seed) = hybrid_seed().await;
    let alias = sample.meta.info().aria2_alias().unwrap();
    assert_ne!(Some(alias), sample.meta.info().hashes().v1);
    download_as_v1(&sample, &seed, alias.into()).await;
    seed.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_link_is_upgraded_exactly_when_offered() {
    let (_dir, sample, seed) = hybrid_seed().await;
    let hashes = sample.meta.info().hashes();
    let (v1, v2): (SwarmHash, _) = (hashes.v1.unwrap().into(), hashes.v2.truncated());
    let v2_too = Reserved { v2: true, ..MODERN };
    for (named, reserved, answered) in [
        (v1, MODERN, v1),
        (v1, v2_too, v2),
        (v2, MODERN, v2),
        (v2, v2_too, v2),
    ] {
        let (_peer, answer) = RawPeer::connect(addr(&seed), named, reserved).await;
        assert_eq!(answer.swarm, answered, "{named} {reserved:?}");
        assert!(!answer.reserved.v2);
    }
    seed.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hash_messages_end_a_v1_link() {
    let (_dir, sample, seed) = hybrid_seed().await;
    let v1 = sample.meta.info().hashes().v1.unwrap();
    let (mut peer, _) = RawPeer::connect(addr(&seed), v1.into(), MODERN).await;
    let request = bittorrent_protocol::merkle::HashRequest {
        root: sample.layout().files()[0].root().unwrap(),
        base: 1,
        index: 0,
        count: 4,
        proof_layers: 0,
    };
    peer.send(&Message::HashRequest(request)).await;
    peer.closed().await;
    seed.shutdown().await;
}

/// A peer that knows the torrent by its v1 hash only.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_closes_on_the_v2_hash_is_asked_by_the_v1_hash() {
    let sample = Sample::file("old", 100_000, 32 * 1024, true);
    let v1: SwarmHash = sample.meta.info().hashes().v1.unwrap().into();
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let leech = session().await;
    let store = sample.empty_store(&dir.path().join("leech"));
    let torrent = leech.add_store(store.clone()).await.unwrap();
    torrent.add_peers(&[listener.local_addr().unwrap()]).await;
    let mut peer = loop {
        let (stream, _) = listener.accept().await.unwrap();
        let mut peer = RawPeer::new(stream);
        let Handshake {
            swarm, reserved, ..
        } = peer.handshake().await.unwrap();
        if swarm == v1 {
            assert!(reserved.v2, "the upgrade is offered");
            peer.greet(v1, PLAIN, *b"-XX0001-old-client--").await;
            break peer;
        }
        assert_eq!(swarm, sample.meta.info().hashes().v2.truncated());
    };
    peer.send(&Message::Bitfield(&[0xf0])).await;
    peer.send(&Message::Unchoke).await;
    wait_for(&torrent, "connected", |status| status.peers == 1).await;
    assert_eq!(torrent.peers().await[0].status.link, Link::V1);
    // Its bytes can be verified: the metainfo has the layers.
    let serve = async {
        while let Some(frame) = peer.next().await {
            if let Message::Request(request) = common::wire::message(&frame) {
                let piece = sample.layout().piece(request.index).unwrap();
                let data = sample.stretch(piece, request.begin, request.length);
                let (index, begin) = (request.index, request.begin);
                let block = Message::Piece {
                    index,
                    begin,
                    data: &data,
                };
                peer.send(&block).await;
            }
        }
    };
    // It ends when the session has everything and parts.
    tokio::join!(wait_seeding(&torrent), serve);
    sample.assert_held_by(&store);
    leech.shutdown().await;
}
