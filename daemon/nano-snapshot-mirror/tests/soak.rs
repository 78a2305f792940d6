//! A mirror through many days with peers that come and go: its memory, descriptors and threads stay what
//! they were. How many seconds, says the variable `SOAK`; `checks/soak/run` runs it for a minute or an hour.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::small_disk::MIB;
use common::{Running, World, run_command};
use nano_ledger::synthetic;
use rustix::process::Signal;

const SOAK: &str = "SOAK";
const DEFAULT_SECONDS: u64 = 10;

/// So many days at most: a long run is about time, not about load.
const MOST_DAYS: u32 = 240;

/// Days before anything is compared: buffers, pools and caches have grown by then.
const WARM_UP: usize = 2;

/// And at least so many days after these.
const COMPARED: usize = 2;

/// What may come and go from one look to the next: connections, dials, files of a generation.
const DESCRIPTORS: u64 = 24;

/// What memory may differ by that allocators give back when they like.
const MEMORY: u64 = 24 * MIB;

/// What a process takes.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    resident: u64,
    descriptors: u64,
    threads: u64,
}

impl Taken {
    fn by(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let number = |key: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(key)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        Self {
            resident: number("VmRSS:") * 1024,
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64,
            threads: number("Threads:"),
        }
    }

    fn or_more(self, other: Self) -> Self {
        Self {
            resident: self.resident.max(other.resident),
            descriptors: self.descriptors.max(other.descriptors),
            threads: self.threads.max(other.threads),
        }
    }
}

#[test]
fn memory_and_descriptors_stay_what_they_were() {
    let seconds = std::env::var(SOAK).map_or(DEFAULT_SECONDS, |text| text.parse().unwrap());
    let world = World::new();
    let ledger = world.path("node.ldb");
    let options = synthetic::Options {
        seed: 31,
        target_len: 8 * MIB,
    };
    synthetic::create(&ledger, &options).unwrap();
    let mut mirror = Running::start(&mut world.mirror("mirror"));
    let mut seeder: Option<Running> = None;
    let mut days: Vec<Taken> = Vec::new();
    println!("| day | seconds | resident, MiB | descriptors | threads |");
    println!("|----:|--------:|--------------:|------------:|--------:|");
    let begun = Instant::now();
    let pace = Duration::from_secs(seconds) / MOST_DAYS;
    while begun.elapsed() < Duration::from_secs(seconds) || days.len() < WARM_UP + COMPARED {
        let day = days.len() as u64;
        synthetic::add_day(&ledger, 20 + day % 7, 8).unwrap();
        let newest = run_command(&mut world.produce("producer", &ledger))
            .succeeded()
            .value("snapshot");
        // The other peer is another process each day; the one before stops or is killed.
        match seeder.take() {
            Some(old) if day.is_multiple_of(2) => drop(old.stop().succeeded()),
            Some(old) => assert!(old.kill().is_none(), "it ended by itself"),
            None => {}
        }
        seeder = Some(Running::start(&mut world.mirror("producer")));
        mirror.signal(Signal::HUP);
        mirror.until("the new day", || {
            world.current("mirror") == Some(newest.clone())
        });
        // A peer that comes, takes and goes.
        let taker = format!("taker-{day}");
        run_command(world.mirror(&taker).arg("--once")).succeeded();
        fs::remove_dir_all(world.path(&taker)).unwrap();
        let taken = Taken::by(mirror.pid());
        println!(
            "| {day:3} | {:7.1} | {:13.1} | {:11} | {:7} |",
            begun.elapsed().as_secs_f64(),
            taken.resident as f64 / MIB as f64,
            taken.descriptors,
            taken.threads
        );
        days.push(taken);
        let next = begun + pace * u32::try_from(days.len()).unwrap();
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let compared = &days[WARM_UP..];
    let (early, late) = compared.split_at(compared.len() / 2);
    let most = |days: &[Taken]| days.iter().copied().fold(Taken::default(), Taken::or_more);
    let (early, late) = (most(early), most(late));
    println!("first half at most: {early:?}\nsecond half at most: {late:?}");
    assert!(late.descriptors <= early.descriptors + DESCRIPTORS);
    assert!(late.resident <= early.resident + early.resident / 4 + MEMORY);
    // Blocking work takes threads of a pool, which grows when there is more at once.
    assert!(late.threads <= early.threads + 16);
    mirror.stop().succeeded();
    seeder.unwrap().stop().succeeded();
}
