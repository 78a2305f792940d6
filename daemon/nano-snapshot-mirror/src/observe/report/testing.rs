//! A report for tests, of a mirror that seeds one snapshot and downloads its successor.

use std::collections::BTreeMap;

use super::{
    Addresses, AuthorityReport, DhtReport, DiskReport, MonthReport, PeerTotals, PortMapping,
    Problem, ProblemCode, Reachable, RefusedItem, Report, ServicePhase, StreamReport,
    TorrentReport, TorrentState, TransferTotals, VoteState, WorkReport,
};

/// The snapshot that is seeded.
pub(crate) const OLD: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// The snapshot that is downloaded.
pub(crate) const NEW: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// Returns a report in which each optional part occurs at least once.
pub(crate) fn report() -> Report {
    let torrent = |snapshot: &str, state, verified| TorrentReport {
        snapshot: snapshot.to_owned(),
        state,
        failure: None,
        name: Some("data.ldb".to_owned()),
        original_filename: Some("Nano_64".to_owned()),
        bytes_total: 4000,
        bytes_verified: verified,
        bytes_reused: verified / 2,
        bytes_fetched: verified - verified / 2,
        bytes_to_fetch: 0,
        downloaded: 700,
        uploaded: 800,
        wasted: 16,
        hash_bytes: 64,
        down_rate: 100,
        up_rate: 50,
        pieces_total: 4,
        pieces_verified: 1,
        peers: 3,
        seeds: 1,
        candidates: 5,
        banned: 0,
        seconds_left: Some(30),
    };
    let authority = |key: &str, state, seq| AuthorityReport {
        authority: key.repeat(64),
        state,
        seq,
        snapshot: seq.map(|_| NEW.to_owned()),
        first_seen: seq.map(|_| 900),
        last_seen: seq.map(|_| 990),
        answers: 8,
        failure: None,
        refused: Vec::new(),
    };
    let mut silent = authority("d", VoteState::Silent, None);
    silent.failure = Some("no DHT node could be reached".to_owned());
    silent.refused.push(RefusedItem {
        seq: 3,
        reason: "lower-seq".to_owned(),
        text: "seq 3 is below 7, which was seen before".to_owned(),
        at: 980,
        times: 2,
    });
    Report {
        version: "1.2.3".to_owned(),
        started: 100,
        now: 1000,
        data_dir: "/var/lib/mirror".to_owned(),
        phase: ServicePhase::Fetching,
        ready: false,
        problems: vec![Problem {
            code: ProblemCode::DhtSilent,
            text: "no DHT node has answered".to_owned(),
        }],
        work: vec![WorkReport {
            name: "Downloading".to_owned(),
            done: 1000,
            total: 4000,
        }],
        streams: vec![StreamReport {
            name: "daily".to_owned(),
            salt: "daily".to_owned(),
            threshold: 1,
            authorities: vec![authority("c", VoteState::Agrees, Some(7)), silent],
            desired: Some(NEW.to_owned()),
            active: Some(NEW.to_owned()),
            refused: false,
            current: Some(OLD.to_owned()),
            seq: Some(7),
            since: Some(900),
            stale: false,
            answered: Some(990),
            next_lookup: None,
        }],
        torrents: vec![
            torrent(OLD, TorrentState::Seeding, 4000),
            torrent(NEW, TorrentState::Fetching, 1000),
        ],
        transfer: TransferTotals {
            downloaded: 1400,
            uploaded: 1600,
            reused: 500,
            wasted: 32,
            hash_bytes: 128,
            down_rate: 200,
            up_rate: 100,
        },
        month: MonthReport {
            month: "2026-11".to_owned(),
            uploaded: 10_000,
            limit: Some(10_000),
            paused: true,
            ends: 2000,
        },
        peers: PeerTotals {
            connections: 6,
            seeds: 2,
            incoming: 1,
            reachable: Reachable::Yes,
            reachable_because: "a peer outside this network is connected to us".to_owned(),
            ..PeerTotals::default()
        },
        port_mapping: Some(PortMapping {
            protocol: Some("upnp".to_owned()),
            router: Some("192.0.2.1".to_owned()),
            port: Some(6881),
            address: Some("203.0.113.9".to_owned()),
            ends: Some(4600),
            failure: None,
        }),
        dht: DhtReport {
            running: true,
            nodes: 42,
            public_address: Some("203.0.113.9:6882".to_owned()),
            firewalled: Some(false),
        },
        disk: DiskReport {
            free: 5 << 30,
            total: 10 << 30,
            next_update: 5000,
        },
        addresses: Addresses {
            peers: vec!["[::]:6881".to_owned()],
            dht: Some("0.0.0.0:6882".to_owned()),
            http: Some("127.0.0.1:9109".to_owned()),
            control: Some("/run/control.sock".to_owned()),
        },
        refusals: BTreeMap::from([("lower-seq".to_owned(), 2)]),
    }
}
