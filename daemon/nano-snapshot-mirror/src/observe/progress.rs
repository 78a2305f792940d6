//! How far a phase is: a bar on a terminal, log lines at a sane pace elsewhere.

mod terminal;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tracing::info;

use crate::observe::report::Work;
use crate::text::{Bytes, Time};

/// Time between two log lines about the same phase.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// Time between two changes of a bar: an eye follows no more.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// How much of the newest measurement goes into the shown rate; the rest is what was shown before.
const SMOOTHING: f64 = 0.3;

/// Where progress is shown.
#[derive(Debug, Clone)]
pub(crate) struct Display {
    bars: MultiProgress,
    terminal: bool,
    underway: Arc<Mutex<Vec<Weak<Underway>>>>,
}

/// How far a running phase is, for those who look from elsewhere.
#[derive(Debug)]
struct Underway {
    name: &'static str,
    total: u64,
    done: AtomicU64,
}

impl Display {
    /// Shows bars when stderr is a terminal.
    pub(crate) fn new() -> Self {
        let bars = MultiProgress::with_draw_target(terminal::draw_target());
        Self {
            terminal: !bars.is_hidden(),
            bars,
            underway: Arc::default(),
        }
    }

    /// What log lines are written through, so that they do not tear a bar apart.
    pub(crate) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// The phases that run, the oldest first.
    pub(crate) fn work(&self) -> Vec<Work> {
        let underway = self.underway.lock();
        let mut underway = underway.unwrap_or_else(PoisonError::into_inner);
        underway.retain(|phase| phase.strong_count() > 0);
        let running = underway.iter().filter_map(Weak::upgrade);
        running
            .map(|phase| Work {
                name: phase.name.to_owned(),
                done: phase.done.load(Ordering::Relaxed),
                total: phase.total,
            })
            .collect()
    }

    /// Begins a phase that moves `total` bytes; 0 for a phase whose length is unknown. The names of
    /// those that read what is there begin with "Verifying" or "Looking into".
    pub(crate) fn phase(&self, name: &'static str, total: u64) -> Meter {
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
        let underway = Arc::new(Underway {
            name,
            total,
            done: AtomicU64::new(0),
        });
        self.underway
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::downgrade(&underway));
        Meter {
            underway,
            bar,
            rate: Rate::default(),
            logged: Instant::now(),
            drawn: None,
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are the two above; a wrong one would show itself at the first start.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// One phase; the bar goes away when it is dropped.
#[derive(Debug)]
pub(crate) struct Meter {
    underway: Arc<Underway>,
    bar: Option<ProgressBar>,
    rate: Rate,
    logged: Instant,
    drawn: Option<Instant>,
}

impl Meter {
    /// Shows that `done` bytes are done and, where peers take part, how many there are.
    pub(crate) fn set(&mut self, done: u64, peers: Option<usize>) {
        self.underway.done.store(done, Ordering::Relaxed);
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
                self.underway.name,
                percent(done, self.underway.total),
                self.describe(done, peers)
            );
        }
    }

    /// Shows a text instead of numbers, for phases that only wait.
    pub(crate) fn say(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None if self.logged.elapsed() >= LOG_EVERY => {
                self.logged = Instant::now();
                info!("{}: {text}", self.underway.name);
            }
            None => {}
        }
    }

    fn describe(&self, done: u64, peers: Option<usize>) -> String {
        describe(done, self.underway.total, self.rate.smoothed, peers)
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

/// Whole percent, and never 100 before everything is done.
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
    // Beyond a year it is a guess that helps nobody.
    (seconds.is_finite() && seconds < 365.0 * 86_400.0).then(|| Duration::from_secs_f64(seconds))
}

/// Bytes per second, smoothed over the last seconds.
#[derive(Debug, Default)]
struct Rate {
    last: Option<(u64, Instant)>,
    smoothed: Option<f64>,
}

impl Rate {
    fn measure(&mut self, done: u64, now: Instant) {
        let Some((before, then)) = self.last else {
            self.last = Some((done, now));
            return;
        };
        let seconds = now.duration_since(then).as_secs_f64();
        // Shorter spans say more about the buffers on the way than about the way.
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
        let mut rate = Rate::default();
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
