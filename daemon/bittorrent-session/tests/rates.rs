//! Limits on how fast content comes and goes, measured on whole transfers. The tolerance of 5 % is
//! shown under a clock of the tests' own in `limits.rs`; here a busy machine may be slower.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::time::{Duration, Instant};

use bittorrent_session::{RateLimits, Session, SessionConfig, TorrentHandle};
use common::{Sample, addr, config, wait_for, wait_seeding};

const MIB: u64 = 1 << 20;

fn limited(rates: RateLimits) -> SessionConfig {
    SessionConfig { rates, ..config() }
}

fn upload(rate: u64) -> RateLimits {
    RateLimits {
        upload: Some(rate),
        download: None,
    }
}

fn download(rate: u64) -> RateLimits {
    RateLimits {
        upload: None,
        download: Some(rate),
    }
}

/// Seeds and leeches of one torrent, the leeches connected to all seeds.
struct Swarm {
    dir: tempfile::TempDir,
    sample: Sample,
    seeds: Vec<(Session, TorrentHandle)>,
}

impl Swarm {
    async fn new(bytes: u64, seeds: Vec<SessionConfig>) -> Self {
        let sample = Sample::file("limited", bytes as usize, 256 * 1024, false);
        let mut swarm = Self {
            dir: tempfile::tempdir().unwrap(),
            sample,
            seeds: Vec::new(),
        };
        for (n, config) in seeds.into_iter().enumerate() {
            let seed = Session::start(config).await.unwrap();
            let store = swarm
                .sample
                .full_store(&swarm.dir.path().join(format!("s{n}")));
            let torrent = seed.add_store(store).await.unwrap();
            wait_seeding(&torrent).await;
            swarm.seeds.push((seed, torrent));
        }
        swarm
    }

    async fn leech(&self, config: SessionConfig) -> (Session, TorrentHandle) {
        let leech = Session::start(config).await.unwrap();
        let store = self.sample.empty_store(&self.dir.path().join("leech"));
        let torrent = leech.add_store(store).await.unwrap();
        let seeds: Vec<_> = self.seeds.iter().map(|(seed, _)| addr(seed)).collect();
        torrent.add_peers(&seeds).await;
        (leech, torrent)
    }
}

/// Bytes a second as a share of the limit, from the start on.
async fn share_of(limit: u64, bytes: u64, torrent: &TorrentHandle, start: Instant) -> f64 {
    wait_seeding(torrent).await;
    let share = bytes as f64 / start.elapsed().as_secs_f64() / limit as f64;
    println!("{share:.3} of the limit");
    share
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_keeps_to_the_limit_of_the_session() {
    let swarm = Swarm::new(8 * MIB, vec![limited(upload(2 * MIB))]).await;
    let start = Instant::now();
    let (_leech, torrent) = swarm.leech(config()).await;
    let share = share_of(2 * MIB, 8 * MIB, &torrent, start).await;
    assert!((0.5..1.05).contains(&share), "{share}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_received_from_two_keeps_to_the_limit_of_the_session() {
    let swarm = Swarm::new(8 * MIB, vec![config(), config()]).await;
    let start = Instant::now();
    let (_leech, torrent) = swarm.leech(limited(download(2 * MIB))).await;
    let share = share_of(2 * MIB, 8 * MIB, &torrent, start).await;
    assert!((0.5..1.05).contains(&share), "{share}");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_while_content_flows() {
    let swarm = Swarm::new(6 * MIB, vec![limited(upload(100 * MIB))]).await;
    let seed = swarm.seeds[0].0.handle();
    seed.set_rate_limits(upload(0)).await;
    let (_leech, torrent) = swarm.leech(config()).await;
    wait_for(&torrent, "connected", |status| status.peers == 1).await;
    // Six seconds' worth.
    let start = Instant::now();
    seed.set_rate_limits(upload(MIB)).await;
    wait_for(&torrent, "begun", |status| status.downloaded_payload > 0).await;
    let share = {
        let status = wait_for(&torrent, "half", |status| {
            status.downloaded_payload > 2 * MIB
        })
        .await;
        status.downloaded_payload as f64 / start.elapsed().as_secs_f64() / MIB as f64
    };
    assert!((0.4..1.1).contains(&share), "{share}");
    seed.set_rate_limits(RateLimits::default()).await;
    wait_seeding(&torrent).await;
    let rest = start.elapsed();
    println!("{rest:?} instead of 6 s");
    assert!(rest < Duration::from_secs(6), "{rest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_flows_at_rate_zero_and_everybody_stays() {
    let swarm = Swarm::new(MIB, vec![config()]).await;
    let (leech, torrent) = swarm.leech(limited(download(0))).await;
    wait_for(&torrent, "connected", |status| status.peers == 1).await;
    // The seed has said everything and more than once looked at its clock by then.
    let seed = &swarm.seeds[0].1;
    wait_for(seed, "alone", |status| status.peers == 1).await;
    assert_eq!(torrent.status().downloaded_payload, 0);
    leech.handle().set_rate_limits(RateLimits::default()).await;
    wait_seeding(&torrent).await;
}
