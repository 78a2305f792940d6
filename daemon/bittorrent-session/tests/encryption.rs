//! Connections that are hidden from who looks for the protocol, between our own sessions.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::time::Duration;

use bittorrent_protocol::InfoHashes;
use bittorrent_protocol::mse::{
    ENTROPY_LEN, HiddenSwarm, Initiator, MAX_PADDING, MIN_OPENING_LEN, Methods, Step,
};
use bittorrent_session::{
    Encryption, EncryptionPolicy, RateLimits, Session, SessionConfig, TorrentHandle, Tuning,
};
use common::{PATIENCE, Sample, addr, config, wait_for, wait_seeding};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const BOTH: Methods = Methods {
    plain: true,
    rc4: true,
};

async fn session(encryption: EncryptionPolicy) -> Session {
    let config = SessionConfig {
        encryption,
        ..config()
    };
    Session::start(config).await.unwrap()
}

async fn encryption_of(torrent: &TorrentHandle) -> Vec<Encryption> {
    let peers = torrent.peers().await;
    peers.into_iter().map(|peer| peer.encryption).collect()
}

/// A download by one kind of session from another.
async fn download(from: EncryptionPolicy, to: EncryptionPolicy, sample: &Sample) -> Encryption {
    let dir = tempfile::tempdir().unwrap();
    let seed = session(from).await;
    let full = sample.full_store(&dir.path().join("seed"));
    let seeding = seed.add_store(full).await.unwrap();
    let leech = session(to).await;
    let store = sample.empty_store(&dir.path().join("leech"));
    // While nothing comes the connection can be looked at.
    let nothing = RateLimits {
        download: Some(0),
        upload: None,
    };
    leech.handle().set_rate_limits(nothing).await;
    let torrent = leech.add_store(store.clone()).await.unwrap();
    torrent.add_peers(&[addr(&seed)]).await;
    wait_for(&torrent, "connected", |status| status.peers == 1).await;
    wait_for(&seeding, "connected", |status| status.peers == 1).await;
    let found = encryption_of(&torrent).await;
    assert_eq!(found, encryption_of(&seeding).await, "{from:?} {to:?}");
    leech.handle().set_rate_limits(RateLimits::default()).await;
    wait_seeding(&torrent).await;
    sample.assert_held_by(&store);
    leech.shutdown().await;
    seed.shutdown().await;
    found[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_both_sides_want_decides() {
    use EncryptionPolicy::{Off, PreferPlain, Require};
    let sample = Sample::file("snapshot", 3_000_000, 65_536, false);
    for (from, to, expected) in [
        (PreferPlain, PreferPlain, Encryption::None),
        (Off, PreferPlain, Encryption::None),
        (PreferPlain, Off, Encryption::None),
        // Plain text is turned away first.
        (Require, PreferPlain, Encryption::Rc4),
        (PreferPlain, Require, Encryption::Rc4),
        (Require, Require, Encryption::Rc4),
    ] {
        let found = download(from, to, &sample).await;
        assert_eq!(found, expected, "{from:?} {to:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_requires_and_who_refuses_encryption_do_not_meet() {
    use EncryptionPolicy::{Off, Require};
    for (from, to) in [(Off, Require), (Require, Off)] {
        let dir = tempfile::tempdir().unwrap();
        let sample = Sample::file("snapshot", 100_000, 16_384, true);
        let seed = session(from).await;
        let full = sample.full_store(&dir.path().join("seed"));
        seed.add_store(full).await.unwrap();
        let hashes = sample.meta.info().hashes();
        for swarm in [hashes.v2.truncated(), hashes.v1.unwrap().into()] {
            let first: &[u8] = if to == Require {
                &[0x77; MIN_OPENING_LEN]
            } else {
                b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0"
            };
            let mut stream = TcpStream::connect(addr(&seed)).await.unwrap();
            let _ = stream.write_all(first).await;
            let _ = stream.write_all(swarm.as_bytes()).await;
            let mut answer = Vec::new();
            let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
                .await
                .unwrap();
            assert_eq!(answer, b"", "{from:?} {to:?}");
        }
        seed.shutdown().await;
    }
}

/// Says hello to a session as a peer of this swarm would, as far as it is let.
async fn hello(session: &Session, hashes: InfoHashes) -> Result<(), usize> {
    let mut stream = TcpStream::connect(addr(session)).await.unwrap();
    let swarm = hashes.v2.truncated();
    let mut ours = Initiator::new(swarm, BOTH, b"hello".to_vec(), &[5; ENTROPY_LEN]);
    let mut heard = 0;
    loop {
        match ours.step().unwrap() {
            Step::Send(bytes) => stream.write_all(&bytes).await.unwrap(),
            Step::Done(_) => return Ok(()),
            Step::Find(_) => unreachable!("we know the swarm"),
            Step::Receive => {
                let mut bytes = [0; 700];
                let read = tokio::time::timeout(PATIENCE, stream.read(&mut bytes));
                match read.await.unwrap().unwrap_or(0) {
                    0 => return Err(heard),
                    read => {
                        heard += read;
                        ours.receive(&bytes[..read]);
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_knows_a_swarm_gets_through() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::file("snapshot", 100_000, 16_384, false);
    let other = Sample::file("another", 100_000, 16_384, false);
    let seed = session(EncryptionPolicy::PreferPlain).await;
    let full = sample.full_store(&dir.path().join("seed"));
    let torrent = seed.add_store(full).await.unwrap();
    let (known, unknown) = (sample.meta.info().hashes(), other.meta.info().hashes());
    let name = |hashes: InfoHashes| HiddenSwarm::of(hashes.v2.truncated());
    assert_ne!(name(known), name(unknown));
    assert_eq!(hello(&seed, known).await, Ok(()));
    let most = MIN_OPENING_LEN + MAX_PADDING;
    assert!(
        hello(&seed, unknown)
            .await
            .is_err_and(|heard| heard <= most)
    );
    torrent.remove().await;
    assert!(hello(&seed, known).await.is_err());
    seed.shutdown().await;
}

/// A peer that falls silent in the middle, or never ends, is disconnected.
#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_lead_to_nothing_end() {
    let hasty = SessionConfig {
        tuning: Tuning {
            handshake_timeout: Duration::from_millis(300),
            ..Tuning::default()
        },
        ..config()
    };
    let seed = Session::start(hasty).await.unwrap();
    let mut key = [0; MIN_OPENING_LEN];
    key[0] = 1;
    for bytes in [
        vec![0x13, 0x77],
        key.to_vec(),
        [&key[..], &[0xee; 300]].concat(),
        [&key[..], &[0xee; 100_000]].concat(),
        vec![0; 200],
        vec![0xff; 200],
    ] {
        let mut stream = TcpStream::connect(addr(&seed)).await.unwrap();
        // It may be closed before all is written.
        let _ = stream.write_all(&bytes).await;
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "{} bytes", bytes.len());
        assert!(answer.len() <= MIN_OPENING_LEN + MAX_PADDING);
    }
    seed.shutdown().await;
}
