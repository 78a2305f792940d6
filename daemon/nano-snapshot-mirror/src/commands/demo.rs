//! `demo`: the complete path from ledger to mirrors on this machine alone, printed step by step.
//!
//! All components are real: LMDB ledgers, a DHT of `mainline` nodes on the loopback interface, and this program as
//! producer, mirrors and fetch. Each of these is a process of its own with its own data directory. No packet leaves
//! the machine.

pub(crate) mod child;
mod compare;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bittorrent_protocol::InfoHashV2;
use child::Child;
use nano_ledger::synthetic;
use service_kit::output::{errln, outln};
use service_kit::signals::Signals;
use snapshot_pointer::loopback::LoopbackDht;
use snapshot_store::{DataDir, StreamName};
use tokio::task::block_in_place;

use crate::cli::DemoArgs;
use crate::commands::outcome::Outcome;

use crate::text::{Bytes, Count, Time};

/// DHT nodes: few enough that each stores every item, and enough that most of them may fail.
const DHT_NODES: usize = 8;

/// The timeout of one step.
const PATIENCE: Duration = Duration::from_secs(120);

/// A day on the network adds this fraction of the blocks (50,000 to 200 million).
const DAY: f64 = 0.000_25;

/// Runs the demonstration. Fails if any step has an unexpected result.
pub(crate) async fn run(args: &DemoArgs, signals: &Signals) -> Result<Outcome> {
    let place = Place::choose(args.keep.as_deref())?;
    let outcome = tokio::select! {
        outcome = Story::tell(&place.dir, args.size) => outcome,
        () = signals.stop.cancelled() => return Ok(Outcome::Interrupted),
    };
    match (&outcome, args.keep.is_some()) {
        (Ok(()), true) => outln!("\nEverything is left in {}.", place.dir.display()),
        (Ok(()), false) => {}
        (Err(_), _) => errln!("the logs are in {}", place.leave().display()),
    }
    outcome.map(|()| Outcome::Done)
}

/// The working directory. It is removed at the end unless `--keep` is given.
struct Place {
    dir: PathBuf,
    temporary: std::cell::Cell<bool>,
}

impl Place {
    fn choose(keep: Option<&Path>) -> Result<Self> {
        let (dir, temporary) = match keep {
            Some(dir) => (
                std::path::absolute(dir).context("--keep is not a path")?,
                false,
            ),
            None => {
                let name = format!("nano-snapshot-mirror-demo.{}", std::process::id());
                (std::env::temp_dir().join(name), true)
            }
        };
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut inside = dir
            .read_dir()
            .with_context(|| format!("cannot list {}", dir.display()))?;
        ensure!(
            inside.next().is_none(),
            "--keep {} is not empty",
            dir.display()
        );
        Ok(Self {
            dir,
            temporary: temporary.into(),
        })
    }

    /// Keeps the directory for a person to inspect.
    fn leave(&self) -> &Path {
        self.temporary.set(false);
        &self.dir
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.temporary.get() {
            // A directory that cannot be removed is deleted with the other temporary files.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

struct Story<'a> {
    dir: &'a Path,
    logs: PathBuf,
    ledger: PathBuf,
    key: PathBuf,
    authority: String,
    bootstrap: Vec<String>,
    stream: StreamName,
    started: Instant,
}

/// The values that `produce` printed.
struct Published {
    snapshot: InfoHashV2,
    seq: String,
}

impl Story<'_> {
    async fn tell(dir: &Path, size: u64) -> Result<()> {
        let started = Instant::now();
        let logs = dir.join("logs");
        fs::create_dir(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        // Dropping the DHT stops its nodes, so it lives until the end.
        let dht = LoopbackDht::start(DHT_NODES).await?;
        let mut story = Story {
            dir,
            logs,
            ledger: dir.join("node").join("data.ldb"),
            key: dir.join("key"),
            authority: String::new(),
            bootstrap: dht.bootstrap(),
            stream: StreamName::of_salt(b"daily"),
            started,
        };
        story.say(
            "A DHT",
            format_args!("{DHT_NODES} nodes on the loopback interface"),
        );
        story.first_day(size).await?;
        drop(dht);
        Ok(())
    }

    async fn first_day(&mut self, size: u64) -> Result<()> {
        self.make_ledger(size)?;
        self.authority = self.keygen().await?;
        let first = self.produce("producer-1").await?;

        let mut seeder = self.mirror("producer", "seeder")?;
        self.wait_for(&mut seeder, "producer", first.snapshot)
            .await?;
        let anna = self
            .first_mirror("anna", "Anna", &first, "the producer's seeder")
            .await?;
        let took = seeder.stop().await?;
        self.say(
            "The first seeder",
            format_args!("stopped, in {}", Time(took)),
        );
        let ben = self
            .first_mirror("ben", "Ben", &first, "Anna, who was found by the DHT")
            .await?;
        self.fetch(first.snapshot).await?;
        self.second_day(&first, anna, ben).await
    }

    /// Starts a mirror that has no content and knows no peers.
    async fn first_mirror(
        &self,
        data: &str,
        name: &str,
        published: &Published,
        from: &str,
    ) -> Result<Child> {
        let since = Instant::now();
        let mut mirror = self.mirror(data, data)?;
        self.wait_for(&mut mirror, data, published.snapshot).await?;
        let took = since.elapsed();
        let length = self.compare_held(published.snapshot, &[data])?;
        self.say(
            name,
            format_args!(
                "mirrors {} after {}, byte for byte, from {from}",
                Bytes(length),
                Time(took)
            ),
        );
        Ok(mirror)
    }

    async fn second_day(&self, first: &Published, mut anna: Child, mut ben: Child) -> Result<()> {
        let blocks = self.a_day_passes()?;
        let second = self.produce("producer-2").await?;
        ensure!(
            second.snapshot != first.snapshot,
            "the second snapshot is the same as the first"
        );
        ensure!(second.seq != first.seq, "the sequence number did not rise");
        let difference = block_in_place(|| {
            compare::compare(
                &self.content("producer", first.snapshot),
                &self.content("producer", second.snapshot),
            )
        })?;
        self.say(
            "A day later",
            format_args!(
                "{} new blocks changed {} of {} ({:.1} %) at the grain of 16 KiB",
                Count(blocks),
                Bytes(difference.changed),
                Bytes(difference.length),
                100.0 * difference.changed as f64 / difference.length as f64,
            ),
        );

        let seeder = self.mirror("producer", "seeder")?;
        let since = Instant::now();
        self.wait_for(&mut anna, "anna", second.snapshot).await?;
        self.wait_for(&mut ben, "ben", second.snapshot).await?;
        let took = since.elapsed();
        let length = self.compare_held(second.snapshot, &["anna", "ben"])?;
        for child in [anna, ben, seeder] {
            child.stop().await?;
        }
        for name in ["anna", "ben"] {
            ensure!(
                self.content(name, first.snapshot).exists(),
                "{name} removed the first day's snapshot too early"
            );
        }
        let (anna, ben) = (self.traffic("anna")?, self.traffic("ben")?);
        let (before, after) = (first.snapshot, second.snapshot);
        let [before, after] = [before, after].map(|snapshot| self.content("producer", snapshot));
        let new = block_in_place(|| compare::compare(&before, &after))?.changed;
        self.say(
            "The update",
            format_args!(
                "both mirrors switched to {} after {}, byte for byte, and keep the day before",
                Bytes(length),
                Time(took),
            ),
        );
        for (name, traffic) in [("Anna", &anna), ("Ben", &ben)] {
            let fetched = traffic.fetched.last().copied().unwrap_or_default();
            let twice = traffic.wasted.last().copied().unwrap_or_default();
            ensure!(
                fetched.saturating_sub(twice) <= new + new / 50,
                "{name} fetched {} although only {} is new",
                Bytes(fetched),
                Bytes(new),
            );
            self.say(
                name,
                format_args!(
                    "fetched {} for the update, reused {}, uploaded {} in total",
                    Bytes(fetched),
                    Bytes(length.saturating_sub(fetched)),
                    Bytes(traffic.given),
                ),
            );
        }
        self.say(
            "The end",
            format_args!(
                "all copies were equal; took {}",
                Time(self.started.elapsed())
            ),
        );
        Ok(())
    }

    fn say(&self, title: &str, text: std::fmt::Arguments<'_>) {
        outln!(
            "{:>7}  {title}: {text}",
            format!("{:.1} s", self.started.elapsed().as_secs_f64())
        );
    }

    fn make_ledger(&self, size: u64) -> Result<()> {
        let dir = self.dir.join("node");
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let options = synthetic::Options {
            seed: 1,
            target_len: size,
        };
        block_in_place(|| synthetic::create(&self.ledger, &options))?;
        let summary = block_in_place(|| nano_ledger::summarize(&self.ledger))?;
        self.say(
            "A node's ledger",
            format_args!(
                "{} with {} blocks in {} accounts, as LMDB writes it",
                Bytes(summary.file_len),
                Count(summary.blocks),
                Count(summary.accounts),
            ),
        );
        Ok(())
    }

    fn a_day_passes(&self) -> Result<u64> {
        let before = block_in_place(|| nano_ledger::summarize(&self.ledger))?;
        let blocks = ((before.blocks as f64 * DAY) as u64).max(20);
        block_in_place(|| synthetic::add_day(&self.ledger, blocks, 1))?;
        Ok(blocks)
    }

    async fn keygen(&self) -> Result<String> {
        let args = [OsString::from("keygen"), self.key.clone().into()];
        let (printed, _) = Child::start(&self.logs, "keygen", &args)?
            .output(PATIENCE)
            .await?;
        Ok(printed.trim().to_owned())
    }

    async fn produce(&self, name: &str) -> Result<Published> {
        let mut args: Vec<OsString> = vec!["produce".into(), "--ledger".into()];
        args.extend([
            self.ledger.clone().into(),
            "--key".into(),
            self.key.clone().into(),
        ]);
        args.extend(self.common("producer"));
        let (printed, took) = Child::start(&self.logs, name, &args)?
            .output(PATIENCE)
            .await?;
        let line = |key: &str| {
            let found = printed.lines().find_map(|line| line.strip_prefix(key));
            found
                .map(|value| value.trim().to_owned())
                .with_context(|| format!("produce printed no `{key}`: {printed}"))
        };
        let published = Published {
            snapshot: line("snapshot:")?.parse()?,
            seq: line("seq:")?,
        };
        self.say(
            "The producer",
            format_args!(
                "copied, hashed, signed and published {} as seq {} in {}",
                short(published.snapshot),
                published.seq,
                Time(took),
            ),
        );
        Ok(published)
    }

    /// The arguments of every command that uses the network.
    fn common(&self, data: &str) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["--data-dir".into(), self.dir.join(data).into()];
        // The machine's own configuration must not affect the demonstration.
        args.extend(["--config".into(), "/dev/null".into()]);
        args.extend(["--dht-port".into(), "0".into()]);
        for node in &self.bootstrap {
            args.extend(["--dht-bootstrap".into(), node.into()]);
        }
        args
    }

    fn follower(&self, data: &str) -> Vec<OsString> {
        let mut args = self.common(data);
        args.extend(["--authority".into(), self.authority.clone().into()]);
        args.extend(["--listen".into(), "127.0.0.1:0".into()]);
        args.extend(["--http".into(), "off".into()]);
        args.extend(["--poll-interval".into(), "2s".into()]);
        args
    }

    fn mirror(&self, data: &str, name: &str) -> Result<Child> {
        Child::start(&self.logs, name, &self.follower(data))
    }

    /// Waits until `snapshot` is current in the mirror with this data directory.
    async fn wait_for(&self, mirror: &mut Child, data: &str, snapshot: InfoHashV2) -> Result<()> {
        let dir = DataDir::create(Some(&self.dir.join(data)))?;
        mirror
            .until(PATIENCE, || {
                Ok((dir.current_of(&self.stream)? == Some(snapshot)).then_some(()))
            })
            .await
    }

    async fn fetch(&self, snapshot: InfoHashV2) -> Result<()> {
        let mut args = self.follower("carl");
        args.extend(["--once".into(), "--extract".into()]);
        let (_, took) = Child::start(&self.logs, "carl", &args)?
            .output(PATIENCE)
            .await?;
        let ledger = self.dir.join("carl").join("data.ldb");
        let length = block_in_place(|| compare::same(&self.content("anna", snapshot), &ledger))?;
        let [here, there] = [&ledger, &self.ledger].map(|path| nano_ledger::summarize(path));
        let (here, there) = (here?, there?);
        ensure!(
            (here.blocks, here.cemented, here.accounts, here.pending)
                == (there.blocks, there.cemented, there.accounts, there.pending),
            "the counts of the fetched ledger differ from the node's"
        );
        self.say(
            "A third party",
            format_args!(
                "Carl fetched {} with --once --extract in {}; data.ldb has all {} blocks",
                Bytes(length),
                Time(took),
                Count(here.blocks),
            ),
        );
        Ok(())
    }

    fn content(&self, data: &str, snapshot: InfoHashV2) -> PathBuf {
        let held = self
            .dir
            .join(data)
            .join("snapshots")
            .join(snapshot.to_string());
        held.join("content").join("data.ldb")
    }

    /// Compares the mirrors' content with the produced ledger. Returns its length.
    fn compare_held(&self, snapshot: InfoHashV2, mirrors: &[&str]) -> Result<u64> {
        let original = self.content("producer", snapshot);
        let mut length = 0;
        for mirror in mirrors {
            length = block_in_place(|| compare::same(&original, &self.content(mirror, snapshot)))?;
        }
        Ok(length)
    }

    /// Reads the payload statistics from a mirror's log.
    fn traffic(&self, name: &str) -> Result<Traffic> {
        let path = self.logs.join(format!("{name}.log"));
        let log =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Traffic {
            fetched: numbers(&log, "fetched="),
            wasted: numbers(&log, "wasted="),
            given: numbers(&log, "uploaded=").iter().sum(),
        })
    }
}

/// Payload in bytes.
struct Traffic {
    /// Bytes received for each snapshot, in order.
    fetched: Vec<u64>,
    /// Bytes of them received twice, because the last blocks were requested from two peers.
    wasted: Vec<u64>,
    /// Bytes sent in total.
    given: u64,
}

/// Returns all numbers that follow `key` in a log.
fn numbers(log: &str, key: &str) -> Vec<u64> {
    log.match_indices(key)
        .filter_map(|(at, _)| {
            let digits = log[at + key.len()..]
                .split(|c: char| !c.is_ascii_digit())
                .next()?;
            digits.parse().ok()
        })
        .collect()
}

fn short(snapshot: InfoHashV2) -> String {
    snapshot.to_string().chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_from_logs() {
        let log = "x fetched=12 given=3\nfetched=7, y\nfetched=z given=4";
        assert_eq!(numbers(log, "fetched="), [12, 7]);
        assert_eq!(numbers(log, "given="), [3, 4]);
    }
}
