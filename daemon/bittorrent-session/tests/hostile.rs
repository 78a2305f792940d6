//! Peers that lie, talk nonsense or come late.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::sync::Arc;

use bittorrent_protocol::wire::{MAX_MESSAGE_LEN, Message, MessageId, Request};
use bittorrent_protocol::{PeerId, SwarmHash};
use bittorrent_session::{EncryptionPolicy, Session, SessionConfig, Tuning};
use common::wire::{MODERN, RawPeer};
use common::{Sample, addr, config, noise, session, wait_for, wait_seeding};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A peer that has everything and answers each request with what `content` makes of it, until
/// the other side closes. Gives how many blocks it sent.
async fn serve(
    listener: TcpListener,
    sample: Arc<Sample>,
    content: impl Fn(u32, Vec<u8>) -> Vec<u8>,
) -> u32 {
    let (stream, _) = listener.accept().await.unwrap();
    let mut peer = RawPeer::new(stream);
    let swarm = peer.handshake().await.unwrap().swarm;
    peer.greet(swarm, MODERN, *b"-XX0001-a-liar------").await;
    peer.send(&Message::HaveAll).await;
    peer.send(&Message::Unchoke).await;
    let mut sent = 0;
    while let Some(frame) = peer.next().await {
        if let Message::Request(request) = common::wire::message(&frame) {
            let piece = sample.layout().piece(request.index).unwrap();
            let data = sample.stretch(piece, request.begin, request.length);
            let data = content(request.index, data);
            peer.send(&Message::Piece {
                index: request.index,
                begin: request.begin,
                data: &data,
            })
            .await;
            sent += 1;
        }
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_is_banned_and_the_download_completes_from_another() {
    let sample = Arc::new(Sample::file("lied about", 3_000_000, 64 * 1024, false));
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let liar_addr = listener.local_addr().unwrap();
    let liar = tokio::spawn(serve(listener, sample.clone(), |_, mut data| {
        data[0] ^= 1;
        data
    }));
    let leech = session().await;
    let store = sample.empty_store(&dir.path().join("leech"));
    let torrent = leech.add_store(store.clone()).await.unwrap();
    torrent.add_peers(&[liar_addr]).await;
    let status = wait_for(&torrent, "banned", |status| status.banned == 1).await;
    assert_eq!(status.bytes_verified, 0);
    assert!(liar.await.unwrap() > 0);

    let seed = session().await;
    let full = sample.full_store(&dir.path().join("seed"));
    seed.add_store(full).await.unwrap();
    torrent.add_peers(&[addr(&seed)]).await;
    wait_seeding(&torrent).await;
    sample.assert_held_by(&store);
    leech.shutdown().await;
    seed.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_block_changes_nothing() {
    let sample = Arc::new(Sample::file("late", 500_000, 32 * 1024, false));
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer_addr = listener.local_addr().unwrap();
    let leech = session().await;
    let store = sample.empty_store(&dir.path().join("leech"));
    let torrent = leech.add_store(store.clone()).await.unwrap();
    torrent.add_peers(&[peer_addr]).await;

    let (stream, _) = listener.accept().await.unwrap();
    let mut peer = RawPeer::new(stream);
    let swarm = peer.handshake().await.unwrap().swarm;
    peer.greet(swarm, MODERN, *b"-XX0001-comes-late--").await;
    // Everything but the last piece, so that the connection is still of use afterwards.
    let last = sample.layout().piece_count() - 1;
    let mut bits = vec![0xff; sample.layout().piece_count().div_ceil(8) as usize];
    let spare = bits.len() * 8 - last as usize;
    *bits.last_mut().unwrap() = (0xff_u16 << spare) as u8;
    peer.send(&Message::Bitfield(&bits)).await;
    peer.send(&Message::Unchoke).await;
    let mut left: u32 = (0..last)
        .map(|piece| {
            sample
                .layout()
                .block_count(sample.layout().piece(piece).unwrap())
        })
        .sum();
    while left > 0 {
        let request = peer
            .find(|message| match message {
                Message::Request(request) => Some(request),
                _ => None,
            })
            .await
            .unwrap();
        let piece = sample.layout().piece(request.index).unwrap();
        let data = sample.stretch(piece, request.begin, request.length);
        let (index, begin) = (request.index, request.begin);
        peer.send(&Message::Piece {
            index,
            begin,
            data: &data,
        })
        .await;
        left -= 1;
    }
    wait_for(&torrent, "nearly there", |status| {
        status.pieces_verified == last
    })
    .await;
    // The same blocks once more, all wrong.
    let wrong = noise(99, 16 * 1024);
    for index in 0..last {
        peer.send(&Message::Piece {
            index,
            begin: 0,
            data: &wrong,
        })
        .await;
    }
    wait_for(&torrent, "waste counted", |status| {
        status.wasted >= u64::from(last) * 16 * 1024
    })
    .await;

    let seed = session().await;
    let full = sample.full_store(&dir.path().join("seed"));
    seed.add_store(full).await.unwrap();
    torrent.add_peers(&[addr(&seed)]).await;
    wait_seeding(&torrent).await;
    sample.assert_held_by(&store);
    leech.shutdown().await;
    seed.shutdown().await;
}

/// A session that seeds one torrent.
async fn seeding(config: SessionConfig) -> (tempfile::TempDir, Sample, Session) {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::file("seeded", 300_000, 32 * 1024, true);
    let seed = Session::start(config).await.unwrap();
    let store = sample.full_store(&dir.path().join("seed"));
    seed.add_store(store).await.unwrap();
    (dir, sample, seed)
}

/// What comes back for these bytes until the session closes.
async fn answer_to(session: &Session, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr(session)).await.unwrap();
    // It may close before all is sent.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(common::wire::PATIENCE, stream.read_to_end(&mut answer));
    // Closing with unread input resets the connection: as good as an end.
    let _ = read.await.expect("closed in time");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn without_encryption_who_does_not_speak_plainly_is_closed_at_once_and_without_a_word() {
    let slow = SessionConfig {
        encryption: EncryptionPolicy::Off,
        tuning: Tuning {
            handshake_timeout: std::time::Duration::from_secs(600),
            ..Tuning::default()
        },
        ..config()
    };
    let (_dir, _sample, seed) = seeding(slow).await;
    for garbage in [
        &[0x42][..],
        b"\x13BitTorrent protocom",
        b"GET / HTTP/1.1\r\n\r\n",
        &noise(5, 96),
        &[0xff; 100_000],
    ] {
        assert_eq!(answer_to(&seed, garbage).await, b"");
    }
    // A complete handshake for an unknown swarm.
    let mut unknown = b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\x04".to_vec();
    unknown.extend([7; 40]);
    assert_eq!(answer_to(&seed, &unknown).await, b"");
    seed.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_make_room_for_new_ones_at_once() {
    let patient = SessionConfig {
        tuning: Tuning {
            handshake_timeout: std::time::Duration::from_secs(600),
            max_incoming_handshakes: 3,
            ..Tuning::default()
        },
        ..config()
    };
    let (_dir, sample, seed) = seeding(patient).await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(addr(&seed)).await.unwrap());
    }
    let swarm = sample.meta.info().hashes().v2.truncated();
    let (_peer, answer) = RawPeer::connect(addr(&seed), swarm, MODERN).await;
    assert_eq!(answer.swarm, swarm);
    // The newcomer's slot is free again, so at most all three slots are silent connections'.
    for mut stream in silent.drain(..37) {
        let mut byte = [0];
        let read = tokio::time::timeout(common::wire::PATIENCE, stream.read(&mut byte)).await;
        assert!(!matches!(read.expect("closed at once"), Ok(1..)));
    }
    seed.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_closed_in_time_and_makes_room() {
    let hasty = SessionConfig {
        tuning: Tuning {
            handshake_timeout: std::time::Duration::from_millis(200),
            max_incoming_handshakes: 2,
            ..Tuning::default()
        },
        ..config()
    };
    let (_dir, sample, seed) = seeding(hasty).await;
    let mut silent = Vec::new();
    for _ in 0..6 {
        silent.push(TcpStream::connect(addr(&seed)).await.unwrap());
    }
    for mut stream in silent {
        let mut byte = [0];
        let read = tokio::time::timeout(common::wire::PATIENCE, stream.read(&mut byte)).await;
        assert!(!matches!(read.expect("closed in time"), Ok(1..)));
    }
    let swarm = sample.meta.info().hashes().v2.truncated();
    let (_peer, answer) = RawPeer::connect(addr(&seed), swarm, MODERN).await;
    assert_eq!(answer.swarm, swarm);
    seed.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_long_and_misfit_messages_end_the_connection() {
    let (_dir, sample, seed) = seeding(config()).await;
    let swarm = sample.meta.info().hashes().v2.truncated();
    let too_long = (MAX_MESSAGE_LEN + 1).to_be_bytes();
    let mut odd_request = 5_u32.to_be_bytes().to_vec();
    odd_request.push(MessageId::REQUEST.0);
    let unasked_block = {
        let mut bytes = bytes::BytesMut::new();
        let block = Message::Piece {
            index: 0,
            begin: 1,
            data: &[1; 100],
        };
        block.encode(&mut bytes);
        bytes.to_vec()
    };
    let far_have = {
        let mut bytes = bytes::BytesMut::new();
        Message::Have(u32::MAX).encode(&mut bytes);
        bytes.to_vec()
    };
    for bytes in [&too_long[..], &odd_request, &unasked_block, &far_have] {
        let (mut peer, _) = RawPeer::connect(addr(&seed), swarm, MODERN).await;
        peer.raw(bytes).await;
        peer.closed().await;
    }
    seed.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cannot_be_served_are_rejected_one_by_one() {
    let (_dir, sample, seed) = seeding(config()).await;
    let swarm = sample.meta.info().hashes().v2.truncated();
    let (mut peer, _) = RawPeer::connect(addr(&seed), swarm, MODERN).await;
    let unchoked = |message: Message<'_>| (message == Message::Unchoke).then_some(());
    peer.send(&Message::Interested).await;
    peer.find(unchoked).await.unwrap();
    let request = |index, begin, length| Request {
        index,
        begin,
        length,
    };
    for bad in [
        request(0, 0, 0),
        request(0, 0, 16 * 1024 + 1),
        request(0, 32 * 1024, 1),
        request(0, u32::MAX, 16 * 1024),
        request(u32::MAX, 0, 16 * 1024),
        request(10, 0, 1),
        request(0, 20_000, 16 * 1024),
    ] {
        peer.send(&Message::Request(bad)).await;
        let rejected = peer
            .find(|message| match message {
                Message::Reject(request) => Some(request),
                Message::Piece { .. } => panic!("{bad:?} was served"),
                _ => None,
            })
            .await;
        assert_eq!(rejected, Some(bad));
    }
    // The last piece has 5,088 bytes; what is asked for behind them is zeros.
    for good in [
        request(0, 0, 16 * 1024),
        request(3, 1, 16 * 1024),
        request(9, 0, 16 * 1024),
        request(9, 16 * 1024, 16 * 1024),
        request(9, 5_087, 2),
    ] {
        peer.send(&Message::Request(good)).await;
        let data = peer
            .find(|message| match message {
                Message::Piece { index, begin, data } => {
                    assert_eq!((index, begin), (good.index, good.begin));
                    Some(data.to_vec())
                }
                _ => None,
            })
            .await
            .unwrap();
        let piece = sample.layout().piece(good.index).unwrap();
        assert!(
            data == sample.stretch(piece, good.begin, good.length),
            "{good:?}"
        );
    }
    seed.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_request_is_answered_once() {
    let (_dir, sample, seed) = seeding(config()).await;
    let swarm = sample.meta.info().hashes().v2.truncated();
    let (mut peer, _) = RawPeer::connect(addr(&seed), swarm, MODERN).await;
    peer.send(&Message::Interested).await;
    peer.find(|message| (message == Message::Unchoke).then_some(()))
        .await
        .unwrap();
    // In one write, so that requests are still waiting when the cancels are read.
    let mut bytes = bytes::BytesMut::new();
    let requests: Vec<Request> = (0..9)
        .flat_map(|index| {
            [0, 16 * 1024].map(|begin| Request {
                index,
                begin,
                length: 16 * 1024,
            })
        })
        .collect();
    for request in &requests {
        Message::Request(*request).encode(&mut bytes);
    }
    for request in &requests {
        Message::Cancel(*request).encode(&mut bytes);
    }
    peer.raw(&bytes).await;
    let mut open = requests.clone();
    while !open.is_empty() {
        let answered = peer
            .find(|message| match message {
                Message::Reject(request) => Some(request),
                Message::Piece { index, begin, data } => Some(Request {
                    index,
                    begin,
                    length: data.len() as u32,
                }),
                _ => None,
            })
            .await
            .unwrap();
        let at = open.iter().position(|request| *request == answered);
        open.remove(at.expect("one answer to each request"));
    }
    seed.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_talks_to_itself() {
    let (_dir, sample, seed) = seeding(config()).await;
    let swarm: SwarmHash = sample.meta.info().hashes().v2.truncated();
    let stream = TcpStream::connect(addr(&seed)).await.unwrap();
    let mut peer = RawPeer::new(stream);
    let id: PeerId = seed.peer_id();
    peer.greet(swarm, MODERN, *id.as_bytes()).await;
    assert_eq!(peer.handshake().await.unwrap().peer_id, id);
    peer.closed().await;
    seed.shutdown().await;
}
