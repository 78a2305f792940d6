//! What a connection answers by itself: metadata, hashes, requests up to its queue, silence.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::time::Duration;

use bittorrent_protocol::merkle::HashRequest;
use bittorrent_protocol::wire::{
    EXTENDED_HANDSHAKE, ExtendedHandshake, Message, MetadataMessage, Request,
};
use bittorrent_session::{Session, SessionConfig, Tuning};
use common::wire::{MODERN, RawPeer};
use common::{Sample, addr, config};

async fn seeding(config: SessionConfig, sample: &Sample) -> (tempfile::TempDir, Session) {
    let dir = tempfile::tempdir().unwrap();
    let seed = Session::start(config).await.unwrap();
    let store = sample.full_store(&dir.path().join("seed"));
    seed.add_store(store).await.unwrap();
    (dir, seed)
}

async fn connect(seed: &Session, sample: &Sample) -> RawPeer {
    let swarm = sample.meta.info().hashes().v2.truncated();
    RawPeer::connect(addr(seed), swarm, MODERN).await.0
}

async fn introduction(peer: &mut RawPeer) -> ExtendedHandshake {
    peer.find(|message| match message {
        Message::Extended {
            id: EXTENDED_HANDSHAKE,
            payload,
        } => Some(ExtendedHandshake::decode(payload).unwrap()),
        _ => None,
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_introduction_is_honest() {
    let sample = Sample::file("introduced", 100_000, 16 * 1024, false);
    let config = SessionConfig {
        client: "a client".to_owned(),
        tuning: Tuning {
            request_queue: 700,
            ..Tuning::default()
        },
        ..config()
    };
    let (_dir, seed) = seeding(config, &sample).await;
    let mut peer = connect(&seed, &sample).await;
    let said = introduction(&mut peer).await;
    assert_eq!(said.client.as_deref(), Some("a client"));
    assert_eq!(said.reqq, Some(700));
    assert_eq!(said.upload_only, Some(true));
    assert_eq!(
        said.metadata_size,
        Some(sample.meta.info().raw().len() as u32)
    );
    assert_eq!(said.yourip, Some(peer.stream.local_addr().unwrap().ip()));
    assert_eq!(said.port, None, "it is known where we connected to");
    seed.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_is_served_to_choked_peers() {
    // 64 files make an info dictionary of more than one block.
    let sample = Sample::directory("long info", &[100; 200], 16 * 1024, true);
    let (_dir, seed) = seeding(config(), &sample).await;
    let mut peer = connect(&seed, &sample).await;
    let ours = ExtendedHandshake {
        ut_metadata: Some(9),
        ..ExtendedHandshake::default()
    };
    let ask = async |peer: &mut RawPeer, id: u8, payload: &[u8]| {
        peer.send(&Message::Extended { id, payload }).await;
    };
    ask(&mut peer, EXTENDED_HANDSHAKE, &ours.encode()).await;
    let their_id = introduction(&mut peer).await.ut_metadata.unwrap();
    let raw = sample.meta.info().raw();
    assert!(raw.len() > 16 * 1024);
    let blocks = raw.len().div_ceil(16 * 1024) as u32;
    let mut got = Vec::new();
    for piece in 0..=blocks {
        let request = MetadataMessage::Request { piece };
        ask(&mut peer, their_id, &request.encode()).await;
        let answer = peer
            .find(|message| match message {
                Message::Extended { id: 9, payload } => {
                    Some(MetadataMessage::decode(payload).unwrap().into_owned())
                }
                _ => None,
            })
            .await
            .unwrap();
        match answer {
            MetadataMessage::Data {
                piece: n,
                total_size,
                payload,
            } => {
                assert_eq!((n, total_size as usize), (piece, raw.len()));
                got.extend_from_slice(&payload);
            }
            other => {
                assert_eq!(other, MetadataMessage::Reject { piece });
                assert_eq!(piece, blocks);
            }
        }
    }
    assert!(got == raw);
    seed.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hashes_are_served_from_the_piece_layer_and_from_the_leaves() {
    let sample = Sample::file("hashed", 40 * 64 * 1024 + 5, 64 * 1024, false);
    let (_dir, seed) = seeding(config(), &sample).await;
    let mut peer = connect(&seed, &sample).await;
    let root = sample.layout().files()[0].root().unwrap();
    let request = |base, index, count, proof_layers| HashRequest {
        root,
        base,
        index,
        count,
        proof_layers,
    };
    let layer = sample.meta.layers()[0].as_ref().unwrap().hashes().to_vec();
    for asked in [
        request(2, 0, 64, 5),
        request(2, 8, 8, 5),
        request(0, 32, 4, 0),
        request(0, 0, 256, 7),
    ] {
        peer.send(&Message::HashRequest(asked)).await;
        let hashes = peer
            .find(|message| match message {
                Message::Hashes(request, hashes) => {
                    assert_eq!(request, asked);
                    Some(hashes.to_vec())
                }
                Message::HashReject(_) => panic!("{asked:?} rejected"),
                _ => None,
            })
            .await
            .unwrap();
        if asked.base == 2 {
            for (n, hash) in (asked.index..asked.index + asked.count).zip(&hashes) {
                assert!(
                    layer
                        .get(n as usize)
                        .is_none_or(|expected| expected == hash)
                );
            }
        } else {
            let first = sample.layout().piece(asked.index / 4).unwrap();
            assert_eq!(hashes[..4], sample.leaves(first)[..]);
        }
    }
    for asked in [
        request(9, 0, 2, 0),
        request(0, 0, 8193, 0),
        request(2, 64, 2, 0),
        request(0, u32::MAX, u32::MAX, u32::MAX),
        HashRequest {
            root: sample.leaves(sample.layout().piece(0).unwrap())[0],
            ..request(2, 0, 64, 5)
        },
    ] {
        peer.send(&Message::HashRequest(asked)).await;
        let rejected = peer
            .find(|message| match message {
                Message::HashReject(request) => Some(request),
                Message::Hashes(..) => panic!("{asked:?} served"),
                _ => None,
            })
            .await;
        assert_eq!(rejected, Some(asked));
    }
    seed.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hashes_do_not_wait_for_the_blocks_that_were_asked_for_before() {
    const ASKED: u32 = 1_900;
    let sample = Sample::file("busy", 4 << 20, 64 * 1024, false);
    let (_dir, seed) = seeding(config(), &sample).await;
    let mut peer = connect(&seed, &sample).await;
    peer.send(&Message::Interested).await;
    peer.find(|message| (message == Message::Unchoke).then_some(()))
        .await
        .unwrap();
    let mut bytes = bytes::BytesMut::new();
    for n in 0..ASKED {
        let request = Request {
            index: n % 64,
            begin: n / 64 % 4 * 16_384,
            length: 16_384,
        };
        Message::Request(request).encode(&mut bytes);
    }
    let hashes = HashRequest {
        root: sample.layout().files()[0].root().unwrap(),
        base: 0,
        index: 0,
        count: 4,
        proof_layers: 0,
    };
    Message::HashRequest(hashes).encode(&mut bytes);
    peer.raw(&bytes).await;
    // Nothing is read here before the seed has every request, so it cannot have sent more than the buffers of both sockets hold.
    peer.until_read_by_other_side().await;
    let mut before = 0;
    peer.find(|message| match message {
        Message::Piece { .. } => {
            before += 1;
            None
        }
        Message::Hashes(..) => Some(()),
        _ => None,
    })
    .await
    .unwrap();
    // The blocks in the kernel's buffers were sent before the seed saw the request for hashes.
    assert!(before < 2 * ASKED / 3, "{before} of {ASKED} blocks");
    seed.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_exceeds_the_queue_is_rejected() {
    let sample = Sample::file("queued", 4 << 20, 64 * 1024, false);
    let short = SessionConfig {
        tuning: Tuning {
            request_queue: 10,
            ..Tuning::default()
        },
        ..config()
    };
    let (_dir, seed) = seeding(short, &sample).await;
    let mut peer = connect(&seed, &sample).await;
    peer.send(&Message::Interested).await;
    peer.find(|message| (message == Message::Unchoke).then_some(()))
        .await
        .unwrap();
    let mut bytes = bytes::BytesMut::new();
    for n in 0..30 {
        let request = Request {
            index: n,
            begin: 0,
            length: 16 * 1024,
        };
        Message::Request(request).encode(&mut bytes);
    }
    peer.raw(&bytes).await;
    let (mut served, mut rejected) = (0, 0);
    while served + rejected < 30 {
        let was_served = peer
            .find(|message| match message {
                Message::Piece { .. } => Some(true),
                Message::Reject(_) => Some(false),
                _ => None,
            })
            .await
            .unwrap();
        if was_served {
            served += 1;
        } else {
            rejected += 1;
        }
    }
    assert!(served >= 10, "{served} served");
    seed.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_broken_by_us_and_not_tolerated_from_others() {
    let sample = Sample::file("silent", 10, 16 * 1024, false);
    let quick = SessionConfig {
        tuning: Tuning {
            keep_alive: Duration::from_millis(100),
            idle_timeout: Duration::from_secs(3),
            ..Tuning::default()
        },
        ..config()
    };
    let (_dir, seed) = seeding(quick, &sample).await;
    let mut peer = connect(&seed, &sample).await;
    peer.find(|message| (message == Message::KeepAlive).then_some(()))
        .await
        .expect("a keep-alive before the end");
    peer.closed().await;
    seed.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_socket_serves_both_families() {
    let sample = Sample::file("both", 10_000, 16 * 1024, false);
    let both = SessionConfig {
        listen: vec!["[::]:0".parse().unwrap()],
        ..config()
    };
    let (_dir, seed) = seeding(both, &sample).await;
    let port = addr(&seed).port();
    let swarm = sample.meta.info().hashes().v2.truncated();
    // An address of its own: at 127.0.0.1 another test may listen at the same port, which then gets the connection.
    let mut hosts = vec!["127.83.0.1"];
    // Not every host that runs tests has IPv6.
    if addr(&seed).is_ipv6() && std::net::TcpListener::bind("[::1]:0").is_ok() {
        hosts.push("[::1]");
    }
    for host in hosts {
        let to = format!("{host}:{port}").parse().unwrap();
        let (mut peer, answer) = RawPeer::connect(to, swarm, MODERN).await;
        assert_eq!(answer.swarm, swarm);
        // Mapped addresses are shown as what they are.
        let said = introduction(&mut peer).await;
        assert_eq!(said.yourip, Some(peer.stream.local_addr().unwrap().ip()));
    }
    seed.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_were_bound_before_are_used() {
    let sample = Sample::file("inherited", 10_000, 16 * 1024, false);
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let bound = socket.local_addr().unwrap();
    let given = SessionConfig {
        listen: Vec::new(),
        listeners: vec![socket],
        ..config()
    };
    let (_dir, seed) = seeding(given, &sample).await;
    assert_eq!(seed.local_addrs(), [bound]);
    let mut peer = connect(&seed, &sample).await;
    introduction(&mut peer).await;
    seed.shutdown().await;
}
