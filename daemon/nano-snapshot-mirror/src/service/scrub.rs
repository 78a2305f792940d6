//! Scrubs: slowly hashes the content of seeded snapshots again, one snapshot after the other, to find bit rot.
//!
//! A scrub is a thread with the lowest priority. It reads a slice, compares it with its hashes, and pauses, so that its mean rate stays below the
//! configured one. `scrub.json` in the directory of the snapshot has its position. Damaged blocks are no longer served; the service downloads them
//! again.

mod schedule;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use bittorrent_protocol::{BlockIndex, InfoHashV2};
use bittorrent_store::{Scrub as Slice, ScrubCursor, TorrentStore};
use file_kit::recorded_time::unix_seconds;
use snapshot_store::{ScrubProgress, SnapshotDir};
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use crate::config::{self, Seconds};
use crate::observe::events::message_id;
use crate::text::Causes;

pub(crate) use schedule::{ScrubEvent, Scrubs};

/// Bytes to read at a time; at least a piece is read.
const SLICE: u64 = 4 << 20;

/// The time between two writes of the position.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// The longest time between two checks whether a scrub is due.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// When to scrub, and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The time between two scrubs of a snapshot. `None` means only on request.
    pub(crate) interval: Option<Duration>,
    /// The limit on the read rate, in bytes a second.
    pub(crate) rate: u64,
}

impl From<&config::Scrub> for Settings {
    fn from(keys: &config::Scrub) -> Self {
        Self {
            interval: keys.interval.value().map(Seconds::get),
            rate: keys.rate.get(),
        }
    }
}

impl Settings {
    /// Returns the time between two checks whether a scrub is due.
    pub(crate) fn look_every(&self) -> Duration {
        self.interval.map_or(LOOK_EVERY, |interval| {
            interval.clamp(Duration::from_secs(1), LOOK_EVERY)
        })
    }
}

/// Returns the snapshot in these directories whose scrub has been due for longest; `None` if none is due.
pub(crate) fn due<'a>(
    snapshots: impl Iterator<Item = (InfoHashV2, &'a SnapshotDir)>,
    settings: Settings,
    now: SystemTime,
) -> Option<InfoHashV2> {
    let interval = settings.interval?;
    snapshots
        .map(|(id, dir)| {
            (
                ScrubProgress::load(dir).due(dir.added_at(), interval, now),
                id,
            )
        })
        .filter(|(due, _)| *due <= now)
        .min()
        .map(|(_, id)| id)
}

/// A message from the thread of a scrub.
#[derive(Debug)]
pub(crate) enum ScrubMessage {
    /// These blocks are damaged; the store no longer counts them as verified.
    Damaged(Vec<BlockIndex>),
    /// The scrub is complete, or failed.
    Ended(Result<ScrubSummary>),
}

/// The result of a scrub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ScrubSummary {
    /// Bytes read by this process.
    pub(crate) bytes: u64,
    /// Blocks found damaged by this process.
    pub(crate) damaged: u64,
    /// Stored leaf hashes that were wrong and were corrected.
    pub(crate) leaves_mended: u64,
}

/// A running scrub of one snapshot.
pub(crate) struct Scrub {
    pub(crate) id: InfoHashV2,
    news: mpsc::Receiver<ScrubMessage>,
    /// Nothing is sent on it: dropping it ends the scrub.
    stop: std_mpsc::Sender<Infallible>,
    thread: JoinHandle<()>,
}

impl Scrub {
    /// Starts a scrub of the snapshot in `dir` at the position where the last one was stopped, or at the start.
    pub(crate) fn start(
        id: InfoHashV2,
        store: Arc<TorrentStore>,
        dir: SnapshotDir,
        rate: u64,
        from_start: bool,
    ) -> Result<Self> {
        let mut progress = ScrubProgress::load(&dir);
        if from_start {
            progress.piece = 0;
        }
        let (say, news) = mpsc::channel(4);
        let (stop, stopped) = std_mpsc::channel();
        info!(snapshot = %id, from_piece = progress.piece, rate_bytes = rate, "scrubbing");
        let work = ScrubThread {
            id,
            store,
            dir,
            rate: rate.max(1),
            progress,
            summary: ScrubSummary::default(),
            stopped,
        };
        let thread = std::thread::Builder::new()
            .name("scrub".to_owned())
            .spawn(move || work.run(&say))
            .context("cannot start the thread of a scrub")?;
        Ok(Self {
            id,
            news,
            stop,
            thread,
        })
    }

    /// Waits for the next message. [`ScrubMessage::Ended`] is the last one.
    pub(crate) async fn next(&mut self) -> ScrubMessage {
        let news = self.news.recv().await;
        news.unwrap_or_else(|| ScrubMessage::Ended(Err(anyhow::anyhow!("the scrub thread ended"))))
    }

    /// Stops the scrub. Its position is saved.
    pub(crate) async fn stop(self) {
        drop((self.stop, self.news));
        let thread = self.thread;
        // The thread reads at most one slice before it notices. A panic was logged when it happened.
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }
}

/// The state of the thread.
struct ScrubThread {
    id: InfoHashV2,
    store: Arc<TorrentStore>,
    dir: SnapshotDir,
    rate: u64,
    progress: ScrubProgress,
    summary: ScrubSummary,
    stopped: std_mpsc::Receiver<Infallible>,
}

impl ScrubThread {
    fn run(mut self, say: &mpsc::Sender<ScrubMessage>) {
        // Lowering the priority is always permitted. If it fails, the scrub only competes more with other work.
        let _ = rustix::process::nice(19);
        let mut cursor = ScrubCursor::at(self.progress.piece);
        let mut saved = Instant::now();
        loop {
            let begun = Instant::now();
            let slice = self.store.scrub_slice(&mut cursor, SLICE);
            self.progress.piece = cursor.piece();
            let slice = match slice {
                Ok(slice) => slice,
                Err(error) => {
                    self.save();
                    let _ = say.blocking_send(ScrubMessage::Ended(Err(error.into())));
                    return;
                }
            };
            let heard = self.take(&slice, say);
            if slice.done {
                self.progress.finished_at = Some(unix_seconds(SystemTime::now()));
                self.save();
                let _ = say.blocking_send(ScrubMessage::Ended(Ok(self.summary)));
                return;
            }
            if saved.elapsed() >= SAVE_EVERY {
                self.save();
                saved = Instant::now();
            }
            let worth = Duration::from_secs_f64(slice.bytes as f64 / self.rate as f64);
            let rest = worth.saturating_sub(begun.elapsed());
            let goes_on = matches!(
                self.stopped.recv_timeout(rest),
                Err(std_mpsc::RecvTimeoutError::Timeout)
            );
            if !goes_on || !heard {
                self.save();
                return;
            }
        }
    }

    /// Logs and sends the findings of a slice. Returns `false` when the receiver is gone.
    fn take(&mut self, slice: &Slice, say: &mpsc::Sender<ScrubMessage>) -> bool {
        self.summary.bytes += slice.bytes;
        self.summary.leaves_mended += slice.leaves_mended;
        for piece in &slice.contradictions {
            error!(
                snapshot = %self.id, %piece,
                "the v1 and v2 hashes of the torrent contradict each other in this piece"
            );
        }
        if slice.damage.is_empty() {
            return true;
        }
        for damage in &slice.damage {
            error!(
                message_id = message_id::DAMAGED,
                info_hash = %self.id, file = %damage.file, offset = damage.offset,
                "block damaged on disk: not serving it, downloading it again"
            );
        }
        let found = slice.damage.len() as u64;
        self.summary.damaged += found;
        self.progress.damaged += found;
        // Saved at once: after a restart the record shows that these blocks existed.
        self.save();
        let blocks = slice.damage.iter().map(|damage| damage.block).collect();
        say.blocking_send(ScrubMessage::Damaged(blocks)).is_ok()
    }

    fn save(&self) {
        if let Err(error) = self.progress.save(&self.dir) {
            warn!(snapshot = %self.id, "cannot save scrub progress: {}", Causes(&error));
        }
    }
}

/// Logs the result of a scrub.
pub(crate) fn log_end(id: InfoHashV2, ended: &Result<ScrubSummary>, took: Duration) {
    match ended {
        Ok(summary) if summary.damaged == 0 => info!(
            snapshot = %id, read_bytes = summary.bytes, took_ms = took.as_millis() as u64,
            leaves_mended = summary.leaves_mended, "scrub complete: no damage"
        ),
        Ok(summary) => warn!(
            snapshot = %id, read_bytes = summary.bytes, took_ms = took.as_millis() as u64,
            damaged = summary.damaged, leaves_mended = summary.leaves_mended,
            "scrub complete: downloading damaged blocks again"
        ),
        Err(error) => error!(snapshot = %id, "the scrub failed: {error:#}"),
    }
    debug!(?ended);
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn id(byte: u8) -> InfoHashV2 {
        InfoHashV2::from_bytes([byte; 32])
    }

    #[test]
    fn the_latest_snapshot_is_first_and_none_when_scrubs_are_off() {
        let temp = tempfile::tempdir().unwrap();
        let dirs: Vec<SnapshotDir> = (0..3)
            .map(|number| {
                let dir = SnapshotDir::at(temp.path().join(number.to_string()));
                std::fs::create_dir(&dir).unwrap();
                let progress = ScrubProgress {
                    finished_at: Some(1_000 - 100 * number),
                    ..ScrubProgress::default()
                };
                progress.save(&dir).unwrap();
                dir
            })
            .collect();
        let all = || (0..3).map(id).zip(dirs.iter());
        let settings = |interval| Settings { interval, rate: 1 };
        let at = |seconds| UNIX_EPOCH + HOUR + Duration::from_secs(seconds);
        let hourly = settings(Some(HOUR));
        assert_eq!(due(all(), hourly, at(799)), None);
        assert_eq!(due(all(), hourly, at(850)), Some(id(2)));
        assert_eq!(due(all(), hourly, at(5_000)), Some(id(2)));
        assert_eq!(due(all().take(2), hourly, at(5_000)), Some(id(1)));
        assert_eq!(due(all(), settings(None), at(5_000)), None);
    }
}
