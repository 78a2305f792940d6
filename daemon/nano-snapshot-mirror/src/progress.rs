//! Progress of long work: a bar on a terminal, log lines at intervals elsewhere.

mod terminal;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use service_kit::sync::lock;
use tracing::info;

use crate::text::{Bytes, Time};

/// Time between two log lines about the same work.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// Time between two changes of a bar; faster changes are not visible.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// Weight of the newest measurement in the shown rate; the rest is the previous rate.
const SMOOTHING: f64 = 0.3;

/// A kind of work whose progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkKind {
    /// Look up a pointer in the DHT.
    LookUpPointer,
    /// Ask peers for the metadata of a snapshot.
    FetchMetadata,
    /// Download content, from peers or from a URL.
    Download,
    /// Wait until the file system has enough free space.
    WaitForSpace,
    /// Hash the content of a partial download again.
    VerifyContent,
    /// Hash a file that another program left in the data directory.
    VerifyLeftover,
    /// Hash the content of a snapshot.
    VerifySnapshot,
    /// Check the blocks and tables of a ledger.
    VerifyLedger,
    /// Compare a ledger with the one that the producer published.
    CompareLedger,
    /// Compare a copy with the one that the producer published.
    VerifyCopy,
    /// Compare a ledger with the one that is installed.
    CompareInstalled,
    /// Unpack a ledger from its archive.
    ExtractLedger,
    /// Copy a ledger.
    CopyLedger,
    /// Copy a ledger and hash the copy.
    CopyAndHash,
    /// Remove peers and votes from the copy of a ledger.
    ScrubCopy,
    /// Pack the copy of a ledger into an archive.
    PackCopy,
    /// Hash a new snapshot.
    HashSnapshot,
    /// Seed for a limited time.
    Seed,
}

impl WorkKind {
    /// Returns the text for bars, log lines and the report.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::LookUpPointer => "Looking up the pointer in the DHT",
            Self::FetchMetadata => "Fetching the metadata from peers",
            Self::Download => "Downloading",
            Self::WaitForSpace => "Waiting for free disk space",
            Self::VerifyContent => "Verifying the content on disk",
            Self::VerifyLeftover => "Verifying a file of another program",
            Self::VerifySnapshot => "Verifying",
            Self::VerifyLedger | Self::CompareLedger => "Verifying the ledger",
            Self::VerifyCopy => "Verifying the copy",
            Self::CompareInstalled => "Comparing with the installed ledger",
            Self::ExtractLedger => "Extracting the ledger",
            Self::CopyLedger => "Copying the ledger",
            Self::CopyAndHash => "Copying and hashing the ledger",
            Self::ScrubCopy => "Removing peers and votes from the copy",
            Self::PackCopy => "Packing the copy",
            Self::HashSnapshot => "Hashing the snapshot",
            Self::Seed => "Seeding",
        }
    }

    /// Returns whether the work reads and checks what is on disk.
    pub(crate) const fn is_verification(self) -> bool {
        match self {
            Self::VerifyContent
            | Self::VerifyLeftover
            | Self::VerifySnapshot
            | Self::VerifyLedger
            | Self::CompareLedger
            | Self::VerifyCopy => true,
            Self::LookUpPointer
            | Self::FetchMetadata
            | Self::Download
            | Self::WaitForSpace
            | Self::CompareInstalled
            | Self::ExtractLedger
            | Self::CopyLedger
            | Self::CopyAndHash
            | Self::ScrubCopy
            | Self::PackCopy
            | Self::HashSnapshot
            | Self::Seed => false,
        }
    }
}

/// Work that is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunningWork {
    pub(crate) kind: WorkKind,
    /// Bytes.
    pub(crate) done: u64,
    /// Bytes; 0 if the length is unknown.
    pub(crate) total: u64,
}

/// Shows the progress of work. Clones show it in the same place.
#[derive(Debug, Clone)]
pub(crate) struct ProgressDisplay {
    bars: MultiProgress,
    terminal: bool,
    running: Arc<Mutex<Vec<Weak<Counter>>>>,
}

/// Progress of running work, shared between its meter and the report.
#[derive(Debug)]
struct Counter {
    kind: WorkKind,
    total: u64,
    done: AtomicU64,
}

impl ProgressDisplay {
    /// Shows bars when stderr is a terminal.
    pub(crate) fn new() -> Self {
        let bars = MultiProgress::with_draw_target(terminal::draw_target());
        Self {
            terminal: !bars.is_hidden(),
            bars,
            running: Arc::default(),
        }
    }

    /// Returns the bars. Log lines go through them so that they do not break a bar.
    pub(crate) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Returns the running work, the oldest first.
    pub(crate) fn work(&self) -> Vec<RunningWork> {
        let mut running = lock(&self.running);
        running.retain(|counter| counter.strong_count() > 0);
        let running = running.iter().filter_map(Weak::upgrade);
        running
            .map(|counter| RunningWork {
                kind: counter.kind,
                done: counter.done.load(Ordering::Relaxed),
                total: counter.total,
            })
            .collect()
    }

    /// Starts to show work that processes `total` bytes; 0 if the length is unknown.
    pub(crate) fn start(&self, kind: WorkKind, total: u64) -> Meter {
        let name = kind.label();
        let bar = self.terminal.then(|| {
            let bar = if total == 0 {
                ProgressBar::new_spinner().with_style(style("{spinner} {prefix} {wide_msg}"))
            } else {
                ProgressBar::new(total)
                    .with_style(style("{prefix} {bar:30} {percent:>3} %  {wide_msg}"))
            };
            let bar = self.bars.add(bar).with_prefix(name);
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        if bar.is_none() && total > 0 {
            info!(total_bytes = total, "{name}");
        }
        let counter = Arc::new(Counter {
            kind,
            total,
            done: AtomicU64::new(0),
        });
        lock(&self.running).push(Arc::downgrade(&counter));
        Meter {
            counter,
            bar,
            rate: SmoothedRate::default(),
            logged: Instant::now(),
            drawn: None,
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // Only the two templates above are passed; a wrong one would be seen at the first start.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Shows the progress of one piece of work. Dropping it removes the bar.
#[derive(Debug)]
pub(crate) struct Meter {
    counter: Arc<Counter>,
    bar: Option<ProgressBar>,
    rate: SmoothedRate,
    logged: Instant,
    drawn: Option<Instant>,
}

impl Meter {
    /// Shows that `done` bytes are done and, for transfers, the number of peers.
    pub(crate) fn set(&mut self, done: u64, peers: Option<usize>) {
        self.counter.done.store(done, Ordering::Relaxed);
        let now = Instant::now();
        self.rate.measure(done, now);
        if let Some(bar) = &self.bar {
            if self
                .drawn
                .is_none_or(|drawn| now.duration_since(drawn) >= DRAW_EVERY)
            {
                self.drawn = Some(now);
                bar.set_position(done);
                bar.set_message(self.describe(done, peers));
            }
        } else if now.duration_since(self.logged) >= LOG_EVERY {
            self.logged = now;
            info!(
                "{}: {} %, {}",
                self.counter.kind.label(),
                percent(done, self.counter.total),
                self.describe(done, peers)
            );
        }
    }

    /// Shows a text instead of numbers, for work that only waits.
    pub(crate) fn message(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None if self.logged.elapsed() >= LOG_EVERY => {
                self.logged = Instant::now();
                info!("{}: {text}", self.counter.kind.label());
            }
            None => {}
        }
    }

    fn describe(&self, done: u64, peers: Option<usize>) -> String {
        describe(done, self.counter.total, self.rate.smoothed, peers)
    }
}

fn describe(done: u64, total: u64, rate: Option<f64>, peers: Option<usize>) -> String {
    let mut text = format!("{} of {}", Bytes(done), Bytes(total));
    if let Some(rate) = rate {
        text.push_str(&format!(", {}/s", Bytes(rate as u64)));
        if let Some(left) = eta(total.saturating_sub(done), rate) {
            text.push_str(&format!(", {} left", Time(left)));
        }
    }
    match peers {
        Some(1) => text.push_str(", 1 peer"),
        Some(peers) => text.push_str(&format!(", {peers} peers")),
        None => {}
    }
    text
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Returns whole percent, and never 100 before everything is done.
pub(crate) fn percent(done: u64, total: u64) -> u64 {
    match total {
        0 => 100,
        _ if done >= total => 100,
        // u128: both may be near the top of u64.
        _ => (u128::from(done) * 100 / u128::from(total)) as u64,
    }
}

fn eta(left: u64, bytes_per_second: f64) -> Option<Duration> {
    let seconds = left as f64 / bytes_per_second;
    // An estimate beyond a year is useless.
    (seconds.is_finite() && seconds < 365.0 * 86_400.0).then(|| Duration::from_secs_f64(seconds))
}

/// Bytes per second, smoothed over the last seconds.
#[derive(Debug, Default)]
struct SmoothedRate {
    last: Option<(u64, Instant)>,
    smoothed: Option<f64>,
}

impl SmoothedRate {
    fn measure(&mut self, done: u64, now: Instant) {
        let Some((before, then)) = self.last else {
            self.last = Some((done, now));
            return;
        };
        let seconds = now.duration_since(then).as_secs_f64();
        // A shorter span measures buffers, not the transfer.
        if seconds < 0.5 {
            return;
        }
        let rate = done.saturating_sub(before) as f64 / seconds;
        let before = self.smoothed.unwrap_or(rate);
        self.smoothed = Some(before + SMOOTHING * (rate - before));
        self.last = Some((done, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_reaches_100_only_at_the_end() {
        assert_eq!(percent(0, 10), 0);
        assert_eq!(percent(u64::MAX - 1, u64::MAX), 99);
        assert_eq!(percent(10, 10), 100);
        assert_eq!(percent(0, 0), 100);
    }

    #[test]
    fn rate_follows_what_is_done() {
        let start = Instant::now();
        let mut rate = SmoothedRate::default();
        for second in 0..20 {
            rate.measure(second * 1000, start + Duration::from_secs(second));
        }
        assert!((rate.smoothed.unwrap() - 1000.0).abs() < 1.0);
        for second in 20..60 {
            rate.measure(19_000, start + Duration::from_secs(second));
        }
        assert!(rate.smoothed.unwrap() < 1.0, "a stall shows");
    }

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        let mib = 1 << 20;
        let line = describe(256 * mib, 1024 * mib, Some(mib as f64), Some(3));
        assert_eq!(
            line,
            "256 MiB of 1.00 GiB, 1.00 MiB/s, 12 min 48 s left, 3 peers"
        );
        let stalled = describe(mib, 4 * mib, Some(0.0), Some(1));
        assert_eq!(stalled, "1.00 MiB of 4.00 MiB, 0 B/s, 1 peer");
        assert_eq!(describe(0, mib, None, None), "0 B of 1.00 MiB");
    }

    #[test]
    fn no_rate_no_eta() {
        assert_eq!(eta(100, 0.0), None);
        assert_eq!(eta(100, 50.0), Some(Duration::from_secs(2)));
    }
}
