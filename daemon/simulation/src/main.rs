//! Prints how swarms behave: `cargo run --release -p simulation -- help`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use simulation::{Churn, Outcome, Plan, TorrentError, World};

/// Swarms of real engines under a virtual clock.
#[derive(Debug, Parser)]
#[command(name = "simulation")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// How long one producer and N mirrors need, rarest first and in order.
    Mirrors {
        /// The largest N: 2, 4, 8 and so on up to it.
        #[arg(default_value_t = 256)]
        most: usize,
        /// Worlds for each N, of which the mean is printed.
        #[arg(default_value_t = 3)]
        rounds: u64,
    },
    /// What liars, losses and churn change.
    Trouble {
        /// Mirrors.
        #[arg(default_value_t = 40)]
        mirrors: usize,
        /// Worlds for each trouble, of which the mean is printed.
        #[arg(default_value_t = 3)]
        rounds: u64,
    },
    /// Random worlds, all of which must finish.
    Schedules {
        /// How many.
        #[arg(default_value_t = 1_000)]
        worlds: u64,
        /// The first one's seed.
        #[arg(default_value_t = 0)]
        first: u64,
    },
    /// 1,000 mirrors of 1 GiB.
    Thousand,
    /// 100 GB to 2 mirrors.
    Large,
    /// One world of your own, as a curve.
    World(Own),
}

#[derive(Debug, Args)]
struct Own {
    /// Mirrors.
    #[arg(long, default_value_t = 16)]
    mirrors: usize,
    /// Peers that claim everything and send false blocks.
    #[arg(long, default_value_t = 0)]
    liars: usize,
    /// Content in MiB.
    #[arg(long, default_value_t = 64)]
    mib: u64,
    /// Blocks of 16 KiB in a piece.
    #[arg(long, default_value_t = 16)]
    piece_blocks: u64,
    /// Bytes a second a host sends.
    #[arg(long, default_value_t = 10_000_000)]
    up: u64,
    /// Bytes a second a host receives.
    #[arg(long, default_value_t = 10_000_000)]
    down: u64,
    /// The longest way between two hosts, in milliseconds.
    #[arg(long, default_value_t = 60)]
    latency: u64,
    /// Bursts of payload that are sent again, of a million.
    #[arg(long, default_value_t = 0)]
    losses: u32,
    /// Bursts of payload with which the connection breaks, of a million.
    #[arg(long, default_value_t = 0)]
    breaks: u32,
    /// Seconds a mirror stays on average, before it leaves for a while; 0 means for ever.
    #[arg(long, default_value_t = 0)]
    stays: u64,
    /// Seconds a mirror is away on average.
    #[arg(long, default_value_t = 30)]
    away: u64,
    /// All nodes pick the pieces in the order of the content.
    #[arg(long)]
    in_order: bool,
    /// The world's seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Own {
    fn plan(&self) -> Plan {
        let default = Plan::default();
        let longest = Duration::from_millis(self.latency);
        Plan {
            seed: self.seed,
            mirrors: self.mirrors,
            liars: self.liars,
            files: vec![self.mib << 20],
            piece_blocks: self.piece_blocks,
            up: (self.up, self.up),
            down: self.down,
            latency: (default.latency.0.min(longest), longest),
            losses: self.losses,
            breaks: self.breaks,
            churn: (self.stays > 0).then(|| Churn {
                stays: Duration::from_secs(self.stays),
                away: Duration::from_secs(self.away),
            }),
            in_order: self.in_order,
            ..default
        }
    }
}

fn main() -> ExitCode {
    let done = match Arguments::parse().what {
        What::Mirrors { most, rounds } => mirrors(most, rounds),
        What::Trouble { mirrors, rounds } => trouble(mirrors, rounds),
        What::Schedules { worlds, first } => schedules(first..first.saturating_add(worlds)),
        What::Thousand => curve(Plan::thousand()),
        What::Large => curve(Plan::large()),
        What::World(own) => curve(own.plan()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// What is not done after two days of virtual time never will be.
const MOST: Duration = Duration::from_secs(2 * 86_400);

/// Means over worlds that differ by their seeds: when half of the mirrors and when all have
/// everything, in onces, and what was wasted.
fn mean(plan: &Plan, rounds: u64) -> Result<(f64, f64, f64, Outcome), TorrentError> {
    let mut sums = (0.0, 0.0, 0.0);
    let mut last = None;
    for seed in 1..=rounds.max(1) {
        let outcome = World::new(Plan {
            seed,
            ..plan.clone()
        })?
        .run(MOST);
        sums.0 += outcome.in_onces(outcome.after(0.5));
        sums.1 += outcome.in_onces(outcome.after(1.0));
        sums.2 += outcome.waste();
        if last.as_ref().is_none_or(|l: &Outcome| l.unfinished == 0) {
            last = Some(outcome);
        }
    }
    let rounds = rounds.max(1) as f64;
    let last = last.unwrap_or_default();
    Ok((sums.0 / rounds, sums.1 / rounds, sums.2 / rounds, last))
}

fn mirrors(most: usize, rounds: u64) -> Result<bool, TorrentError> {
    println!("mirrors | half | all | all more than with half as many | all, in order");
    let (mut count, mut before, mut done) = (1, None, true);
    while count <= most {
        let plan = Plan {
            mirrors: count,
            ..Plan::default()
        };
        let (half, all, _, outcome) = mean(&plan, rounds)?;
        let in_order = Plan {
            in_order: true,
            ..plan
        };
        let (_, all_in_order, _, ordered) = mean(&in_order, rounds)?;
        let more = before.map_or(String::new(), |before| format!("{:.2}", all - before));
        println!("{count:7} | {half:4.2} | {all:4.2} | {more:>4} | {all_in_order:.2}");
        done &= outcome.unfinished + ordered.unfinished == 0;
        before = Some(all);
        count *= 2;
    }
    Ok(done)
}

fn trouble(mirrors: usize, rounds: u64) -> Result<bool, TorrentError> {
    let plain = Plan {
        mirrors,
        ..Plan::default()
    };
    let liars = |one_in: usize| Plan {
        liars: mirrors / one_in,
        ..plain.clone()
    };
    let losses = |share: u32| Plan {
        losses: share,
        breaks: share / 50,
        ..plain.clone()
    };
    let churn = |stays| Plan {
        churn: Some(Churn {
            stays: Duration::from_secs(stays),
            away: Duration::from_secs(5),
        }),
        ..plain.clone()
    };
    let worlds = [
        ("none", plain.clone()),
        ("one liar in twenty", liars(20)),
        ("one liar in ten", liars(10)),
        ("one liar in four", liars(4)),
        (
            "one burst in 100 sent again, one in 5,000 breaks",
            losses(10_000),
        ),
        (
            "one burst in 20 sent again, one in 1,000 breaks",
            losses(50_000),
        ),
        ("mirrors stay 30 s, away for 5 s", churn(30)),
        ("mirrors stay 10 s, away for 5 s", churn(10)),
    ];
    println!("trouble | half | all | was wasted | bans | broken | departures");
    let mut done = true;
    for (name, plan) in worlds {
        let (half, all, waste, outcome) = mean(&plan, rounds)?;
        let counts = outcome.counts;
        println!(
            "{name} | {half:.2} | {all:.2} | {:.1} % | {} | {} | {}",
            waste * 100.0,
            counts.bans,
            counts.breaks,
            counts.departures,
        );
        done &= outcome.unfinished == 0;
    }
    Ok(done)
}

fn schedules(seeds: std::ops::Range<u64>) -> Result<bool, TorrentError> {
    let count = seeds.end - seeds.start;
    let (mut finished, mut events, mut longest) = (0, 0, Duration::ZERO);
    let start = Instant::now();
    for seed in seeds {
        let mut world = World::new(Plan::random(seed))?;
        let outcome = world.run(MOST);
        events += outcome.counts.events;
        longest = longest.max(outcome.lasted);
        if outcome.unfinished == 0 {
            finished += 1;
        } else {
            println!("world {seed} did not finish: {:#?}", world.stuck());
        }
    }
    println!(
        "{finished} of {count} random worlds finished, the longest after {} s; {events} events in {:.1} s",
        longest.as_secs(),
        start.elapsed().as_secs_f64(),
    );
    Ok(finished == count)
}

/// One world, and when which share of its mirrors had everything.
fn curve(plan: Plan) -> Result<bool, TorrentError> {
    let start = Instant::now();
    let mut world = World::new(plan)?;
    let made = start.elapsed();
    let outcome = world.run(MOST);
    let took = (start.elapsed() - made).as_secs_f64();
    println!("mirrors | have everything after, s | in onces");
    for share in [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0] {
        let time = outcome.after(share);
        println!(
            "{:5.0} % | {:.1} | {:.2}",
            share * 100.0,
            time.as_secs_f64(),
            outcome.in_onces(time)
        );
    }
    let counts = outcome.counts;
    println!(
        "{} finished, {} did not; {:.1} % was wasted; {} connections, {} bans, {} departures",
        outcome.times.len(),
        outcome.unfinished,
        outcome.waste() * 100.0,
        counts.connections,
        counts.bans,
        counts.departures,
    );
    println!(
        "hashes made in {:.1} s; then {:.1} s for {:.0} s of the world: {:.2} M blocks and {:.2} M events, {:.0} k blocks/s, {:.0} k events/s",
        made.as_secs_f64(),
        took,
        outcome.lasted.as_secs_f64(),
        counts.blocks as f64 / 1e6,
        counts.events as f64 / 1e6,
        counts.blocks as f64 / took / 1e3,
        counts.events as f64 / took / 1e3,
    );
    Ok(outcome.unfinished == 0)
}
