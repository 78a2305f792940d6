//! The parameters of a simulated world.

use std::time::Duration;

use bittorrent_engine::Config;

use crate::random::Random;

/// The parameters of a simulated world. One producer has everything and stays; mirrors know the info-hash and
/// addresses.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Equal seeds give equal worlds.
    pub seed: u64,
    /// Blocks of 16 KiB in a piece: a power of two.
    pub piece_blocks: u64,
    /// The lengths of the files in bytes.
    pub files: Vec<u64>,
    /// How many mirrors fetch it, besides those that lie.
    pub mirrors: usize,
    /// How many peers claim that they have everything, and lie.
    pub liars: usize,
    /// A liar's blocks are false, one in so many.
    pub lies_in: u64,
    /// Mirrors start at random times from the start until then.
    pub arrivals: Duration,
    /// All nodes pick the pieces in the order of the content.
    pub in_order: bool,
    /// How many random addresses each node gets at its start.
    pub addresses: usize,
    /// Bytes a second a host sends, from the least to the most; the producer sends the least.
    pub up: (u64, u64),
    /// Bytes a second a host receives.
    pub down: u64,
    /// The shortest and the longest way from one host to another.
    pub latency: (Duration, Duration),
    /// Bursts of payload that have to be sent again after a while, of a million.
    pub losses: u32,
    /// Bursts of payload with which the connection breaks, of a million.
    pub breaks: u32,
    /// Mirrors leave and return.
    pub churn: Option<Churn>,
    /// How long a disk takes for a write.
    pub disk: Duration,
    /// The engines' limits and times.
    pub config: Config,
}

/// How mirrors leave and return, whether they have everything or not.
#[derive(Debug, Clone, Copy)]
pub struct Churn {
    /// How long one stays, on average.
    pub stays: Duration,
    /// How long one is away, on average.
    pub away: Duration,
}

impl Default for Plan {
    /// 16 mirrors of 64 MiB in pieces of 256 KiB, all on lines of 80 Mbit/s both ways.
    fn default() -> Self {
        Self {
            seed: 1,
            piece_blocks: 16,
            files: vec![64 << 20],
            mirrors: 16,
            liars: 0,
            lies_in: 4,
            arrivals: Duration::ZERO,
            in_order: false,
            addresses: 40,
            up: (10_000_000, 10_000_000),
            down: 10_000_000,
            latency: (Duration::from_millis(5), Duration::from_millis(60)),
            losses: 0,
            breaks: 0,
            churn: None,
            disk: Duration::from_millis(5),
            config: Config {
                max_peers_per_torrent: 50,
                // Each helps a few at a time, as on a line of its own.
                unchoke_slots: 4,
                optimistic_slots: 1,
                ..Config::default()
            },
        }
    }
}

impl Plan {
    /// 1,000 mirrors of 1 GiB in pieces of 4 MiB, on lines of 100 Mbit/s.
    pub fn thousand() -> Self {
        Self {
            mirrors: 1_000,
            files: vec![1 << 30],
            piece_blocks: 256,
            up: (12_500_000, 12_500_000),
            down: 12_500_000,
            ..Self::default()
        }
    }

    /// 100 GB in pieces of 4 MiB to 2 mirrors, on lines of 1 Gbit/s.
    pub fn large() -> Self {
        Self {
            mirrors: 2,
            files: vec![100_000_000_000],
            piece_blocks: 256,
            up: (125_000_000, 125_000_000),
            down: 125_000_000,
            ..Self::default()
        }
    }

    /// A small world of random shape, in which much goes wrong.
    pub fn random(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let files = (0..=random.below(3))
            .map(|_| 1 + random.below(8 << 20))
            .collect();
        let slow = 50_000 + random.below(1_000_000);
        let churn = (random.below(2) == 0).then(|| Churn {
            stays: Duration::from_secs(10 + random.below(120)),
            away: Duration::from_secs(1 + random.below(60)),
        });
        let slots = 1 + random.below(6) as usize;
        Self {
            seed: random.next(),
            piece_blocks: 1 << random.below(7),
            files,
            mirrors: 1 + random.below(14) as usize,
            liars: random.below(4) as usize,
            lies_in: 1 + random.below(20),
            arrivals: Duration::from_secs(random.below(30)),
            in_order: random.below(4) == 0,
            addresses: 2 + random.below(12) as usize,
            up: (slow, slow * (1 + random.below(20))),
            down: slow * (1 + random.below(20)),
            latency: (
                Duration::from_millis(1 + random.below(20)),
                Duration::from_millis(20 + random.below(300)),
            ),
            losses: random.below(50_000) as u32,
            breaks: random.below(5_000) as u32,
            churn,
            disk: Duration::from_millis(random.below(80)),
            config: Config {
                max_peers_per_torrent: 2 + random.below(20) as usize,
                unchoke_slots: slots,
                optimistic_slots: random.below(slots as u64) as usize,
                ..Config::default()
            },
        }
    }

    /// Bytes of content.
    pub fn length(&self) -> u64 {
        self.files.iter().sum()
    }

    /// How long the producer needs to send everything once.
    pub fn once(&self) -> Duration {
        Duration::from_secs_f64(self.length() as f64 / self.up.0 as f64)
    }
}
