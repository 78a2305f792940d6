//! Where peers come from: other peers, trackers, the local network.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bittorrent_protocol::wire::{
    EXTENDED_HANDSHAKE, ExtendedHandshake, Message, PexFlags, PexMessage, PexPeer, UT_PEX,
};
use bittorrent_session::{
    LocalDiscovery, LocalDiscoveryConfig, Session, SessionConfig, TorrentHandle,
};
use common::http::{Response, Server};
use common::wire::{MODERN, RawPeer};
use common::{Sample, addr, config, session, wait_for, wait_seeding};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

/// A seed, and a leech that knows no peers.
struct Pair {
    dir: tempfile::TempDir,
    sample: Sample,
    seed: Session,
    seeding: TorrentHandle,
    leech: Session,
    torrent: TorrentHandle,
}

impl Pair {
    async fn new(hybrid: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sample = Sample::file("found", 200_000, 32 * 1024, hybrid);
        let (seed, leech) = (session().await, session().await);
        let store = sample.full_store(&dir.path().join("seed"));
        let seeding = seed.add_store(store).await.unwrap();
        let store = sample.empty_store(&dir.path().join("leech"));
        let torrent = leech.add_store(store).await.unwrap();
        Self {
            dir,
            sample,
            seed,
            seeding,
            leech,
            torrent,
        }
    }

    fn swarms(&self) -> Vec<bittorrent_protocol::SwarmHash> {
        let hashes = self.sample.meta.info().hashes();
        std::iter::once(hashes.v2.truncated())
            .chain(hashes.v1.map(Into::into))
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_both_know_brings_them_together() {
    let pair = Pair::new(false).await;
    let middle = session().await;
    let store = pair
        .sample
        .store_with(&pair.dir.path().join("middle"), |_| false);
    let torrent = middle.add_store(store).await.unwrap();
    // The leech has nothing from the one in the middle but the address of the seed.
    let nothing = bittorrent_session::RateLimits {
        upload: Some(0),
        download: None,
    };
    middle.handle().set_rate_limits(nothing).await;
    // And it must not leave the seed because both have everything.
    pair.seed.handle().set_rate_limits(nothing).await;
    torrent.add_peers(&[addr(&pair.seed)]).await;
    pair.torrent.add_peers(&[addr(&middle)]).await;
    wait_for(&pair.torrent, "together", |status| status.peers == 2).await;
    pair.seed.handle().set_rate_limits(Default::default()).await;
    wait_seeding(&pair.torrent).await;
    assert_eq!(torrent.status().uploaded_payload, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_exchange_can_be_switched_off_and_broken_messages_end_the_connection() {
    for peer_exchange in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let sample = Sample::file("exchange", 100_000, 32 * 1024, false);
        let session = Session::start(SessionConfig {
            peer_exchange,
            ..config()
        })
        .await
        .unwrap();
        let store = sample.empty_store(&dir.path().join("t"));
        let torrent = session.add_store(store).await.unwrap();
        let swarm = sample.meta.info().hashes().v2.truncated();
        let (mut peer, _) = RawPeer::connect(addr(&session), swarm, MODERN).await;
        let offered = peer
            .find(|message| match message {
                Message::Extended {
                    id: EXTENDED_HANDSHAKE,
                    payload,
                } => Some(ExtendedHandshake::decode(payload).unwrap().ut_pex),
                _ => None,
            })
            .await
            .unwrap();
        assert_eq!(offered, peer_exchange.then_some(UT_PEX));
        let named = PexMessage {
            added: vec![PexPeer {
                addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 9)),
                flags: PexFlags::default(),
            }],
            dropped: Vec::new(),
        };
        let (id, payload) = (UT_PEX, &named.encode());
        peer.send(&Message::Extended { id, payload }).await;
        let payload = b"nonsense";
        peer.send(&Message::Extended { id, payload }).await;
        if peer_exchange {
            peer.closed().await;
            wait_for(&torrent, "a candidate", |status| status.candidates == 1).await;
        } else {
            peer.send(&Message::Interested).await;
            wait_for(&torrent, "connected", |status| status.peers == 1).await;
            assert_eq!(torrent.status().candidates, 0);
        }
    }
}

fn compact(addr: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(addr) = addr else {
        panic!("tests use IPv4");
    };
    [&addr.ip().octets()[..], &addr.port().to_be_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracker_over_http_names_the_seed_and_hears_how_it_goes() {
    let pair = Pair::new(true).await;
    let peers = compact(addr(&pair.seed));
    let server = Server::start(move |_| Response {
        status: 200,
        body: [b"d8:intervali900e5:peers6:", &peers[..], b"e"].concat(),
        ..Response::default()
    })
    .await;
    let url = server.url("/announce?passkey=1").parse().unwrap();
    let announcer = pair.leech.announcer(url, &pair.torrent, pair.swarms());
    let stop = CancellationToken::new();
    let running = tokio::spawn(announcer.run(stop.clone()));
    wait_seeding(&pair.torrent).await;
    // It tells at once that it has everything.
    tokio::time::timeout(common::PATIENCE, async {
        while server.requests().len() < 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    stop.cancel();
    running.await.unwrap();
    let requests = server.requests();
    let port = addr(&pair.leech).port();
    let mut events = Vec::new();
    for (at, request) in requests.iter().enumerate() {
        assert!(
            request.path.starts_with("/announce?passkey=1&info_hash="),
            "{request:?}"
        );
        assert!(
            request.path.contains(&format!("&port={port}&")),
            "{request:?}"
        );
        // By default, encrypted and plain connections are accepted.
        assert!(request.path.contains("&supportcrypto=1"), "{request:?}");
        assert!(!request.path.contains("requirecrypto"), "{request:?}");
        let left = if at < 2 { 200_000 } else { 0 };
        assert!(
            request.path.contains(&format!("&left={left}&")),
            "{request:?}"
        );
        events.push(
            request
                .path
                .rsplit_once("event=")
                .map(|(_, event)| event.to_owned()),
        );
    }
    let said = [
        "started",
        "started",
        "completed",
        "completed",
        "stopped",
        "stopped",
    ];
    assert_eq!(events, said.map(|event| Some(event.to_owned())));
    // Under both hashes.
    assert_ne!(requests[0].path[..90], requests[1].path[..90]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracker_over_udp_names_the_seed() {
    let pair = Pair::new(false).await;
    let peers = compact(addr(&pair.seed));
    let tracker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let url = format!("udp://{}/announce", tracker.local_addr().unwrap());
    let swarm = *pair.swarms()[0].as_bytes();
    let serving = tokio::spawn(async move {
        let mut buffer = [0; 200];
        let mut stopped = false;
        while !stopped {
            let (read, from) = tracker.recv_from(&mut buffer).await.unwrap();
            let request = &buffer[..read];
            let transaction = &request[12..16];
            let reply = if read == 16 {
                assert_eq!(request[..8], 0x0417_2710_1980_u64.to_be_bytes());
                [&[0; 4][..], transaction, b"connected"].concat()
            } else {
                assert_eq!((read, &request[..8]), (98, &b"connecte"[..]));
                assert_eq!(request[16..36], swarm);
                stopped = request[80..84] == [0, 0, 0, 3];
                let interval = 900_u32.to_be_bytes();
                [&[0, 0, 0, 1][..], transaction, &interval, &[0; 8], &peers].concat()
            };
            // Another node's answer comes first.
            let mut strange = reply.clone();
            strange[4] ^= 1;
            tracker.send_to(&strange, from).await.unwrap();
            tracker.send_to(&reply, from).await.unwrap();
        }
    });
    let announcer = pair
        .leech
        .announcer(url.parse().unwrap(), &pair.torrent, pair.swarms());
    let stop = CancellationToken::new();
    let running = tokio::spawn(announcer.run(stop.clone()));
    wait_seeding(&pair.torrent).await;
    stop.cancel();
    running.await.unwrap();
    serving.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_in_one_network_find_each_other() {
    let pair = Pair::new(false).await;
    // Any free port; all members of the group share it.
    let free = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let config = LocalDiscoveryConfig {
        interface: Ipv4Addr::LOCALHOST,
        port: free.local_addr().unwrap().port(),
    };
    drop(free);
    let stop = CancellationToken::new();
    let mut tasks = Vec::new();
    let mut entries = Vec::new();
    for (session, torrent) in [(&pair.seed, &pair.seeding), (&pair.leech, &pair.torrent)] {
        let lan = LocalDiscovery::open(config, session.announce_port()).unwrap();
        entries.push(lan.registry().register(torrent, &pair.swarms()));
        tasks.push(tokio::spawn(lan.run(stop.clone())));
    }
    wait_seeding(&pair.torrent).await;
    stop.cancel();
    for task in tasks {
        task.await.unwrap();
    }
}
