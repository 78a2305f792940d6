//! Failed operations, which are reported as problems and tried again later.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Error, Result};
use bittorrent_protocol::InfoHashV2;
use tokio::time::Instant;
use tracing::{error, warn};

use super::due;
use super::events::Event;
use crate::observe::report::{ProblemCode, Reporter};

/// Time to the next attempt after a lack of disk space.
const SPACE_RETRY: Duration = Duration::from_secs(5);

/// Time to the next attempt after an operation on the data directory failed.
const STORE_RETRY: Duration = Duration::from_secs(5);

/// The same lack of disk space is logged again after this time.
const LOG_AGAIN: Duration = Duration::from_secs(3600);

/// The reporter, with what failed and when it is tried again.
pub(super) struct Problems {
    reporter: Reporter,
    /// Snapshots whose download or verification failed. They are tried again after the next poll.
    failed: HashSet<InfoHashV2>,
    /// Snapshots whose refusal is in the log.
    logged_refusals: HashSet<InfoHashV2>,
    space_retry: Option<Instant>,
    store_retry: Option<Instant>,
    /// The lack of disk space that was logged last, and when.
    logged_space: Option<(String, Instant)>,
}

impl Problems {
    pub(super) fn new(reporter: Reporter) -> Self {
        Self {
            reporter,
            failed: HashSet::new(),
            logged_refusals: HashSet::new(),
            space_retry: None,
            store_retry: None,
            logged_space: None,
        }
    }

    pub(super) fn reporter(&mut self) -> &mut Reporter {
        &mut self.reporter
    }

    pub(super) fn into_reporter(self) -> Reporter {
        self.reporter
    }

    /// Returns the next event: time for a report, or for another attempt.
    pub(super) async fn next_event(&mut self) -> Event {
        tokio::select! {
            () = self.reporter.due() => Event::ReportDue,
            () = due(self.space_retry) => {
                self.space_retry = None;
                Event::SpaceRetryDue
            }
            () = due(self.store_retry) => {
                self.store_retry = None;
                Event::StoreRetryDue
            }
        }
    }

    /// Reports a problem of `subject` (a stream or a snapshot), or with `None` that it is solved.
    pub(super) fn set(&mut self, code: ProblemCode, subject: &str, text: Option<String>) {
        self.reporter.problem(code, subject, text);
    }

    /// Records that a snapshot could not be downloaded or verified.
    pub(super) fn fail(&mut self, id: InfoHashV2) {
        self.failed.insert(id);
    }

    pub(super) fn has_failed(&self, id: InfoHashV2) -> bool {
        self.failed.contains(&id)
    }

    /// Allows another attempt with one snapshot.
    pub(super) fn retry(&mut self, id: InfoHashV2) {
        self.failed.remove(&id);
    }

    /// Allows another attempt with all snapshots.
    pub(super) fn retry_all(&mut self) {
        self.failed.clear();
    }

    /// Returns whether the service waits for disk space.
    pub(super) fn lacks_space(&self) -> bool {
        self.space_retry.is_some()
    }

    /// Reports that something could not be written for lack of disk space. It is tried again soon.
    pub(super) fn out_of_space(&mut self, error: &Error, what: &str) {
        let text = format!("{what}: {error:#}");
        self.set(ProblemCode::DiskFull, "", Some(text.clone()));
        let now = Instant::now();
        let is_known = |(logged, at): &(String, Instant)| *logged == text && now < *at + LOG_AGAIN;
        if !self.logged_space.as_ref().is_some_and(is_known) {
            warn!("paused until there is free disk space; no data is lost: {text}");
            self.logged_space = Some((text, now));
        }
        self.space_retry = Some(now + SPACE_RETRY);
    }

    /// Returns the result of an operation on the data directory. A failure is reported as a problem until
    /// the operation, named by `what`, succeeds. It is tried again soon.
    pub(super) fn check_store<T, E: Into<Error>>(
        &mut self,
        what: &str,
        result: Result<T, E>,
    ) -> Option<T> {
        match result {
            Ok(value) => {
                self.set(ProblemCode::Store, what, None);
                Some(value)
            }
            Err(error) => {
                let text = format!("{:#}; trying again", error.into());
                self.set(ProblemCode::Store, what, Some(text));
                self.store_retry = Some(Instant::now() + STORE_RETRY);
                None
            }
        }
    }

    /// Logs once why the desired snapshot is refused.
    pub(super) fn log_refusal(&mut self, id: InfoHashV2, reasons: impl FnOnce() -> Vec<String>) {
        if self.logged_refusals.insert(id) {
            error!(
                snapshot = %id,
                "refused the snapshot, keeping the current one: {}", reasons().join("; ")
            );
        }
    }
}
