//! The events that the service waits for, and their handlers.

use anyhow::Result;
use bittorrent_protocol::InfoHashV2;
use service_kit::signals::Signals;

use super::lookups::{KeptAlive, Polled};
use super::scrub::{self, ScrubEvent};
use super::stored::FileCheck;
use super::{POLL_LIMIT, Service};
use crate::api::control::{Denied, Request};

use crate::ledger::policy::Verdict;
use crate::observe::report::ProblemCode;
use crate::transfer::disk_pause::PausedDownloads;
use crate::transfer::download::DownloadOutcome;

/// Something that happened, or that is due.
pub(super) enum Event {
    /// The process was asked to stop.
    Stop,
    /// The process was asked to reload its configuration and rescan the store.
    Rescan,
    /// A request came over the control socket.
    Control(Request),
    /// A poll of the pointers is due.
    PollDue,
    /// A poll ended.
    Polled(Vec<Polled>),
    /// A round that puts all pointers again is due.
    KeepAliveDue,
    /// Pointers were put again.
    KeptAlive(Vec<KeptAlive>),
    /// A download ended.
    DownloadEnded(InfoHashV2, Result<DownloadOutcome>),
    /// The set of downloads that wait for disk space changed.
    DownloadsPaused(PausedDownloads),
    /// The verification of a ledger ended.
    LedgerVerified(InfoHashV2, Result<Option<Verdict>>),
    /// A report is due.
    ReportDue,
    /// Operations that lacked disk space are to be tried again.
    SpaceRetryDue,
    /// Failed operations on the data directory are to be tried again.
    StoreRetryDue,
    /// A check of the files of seeded snapshots is due.
    FileCheckDue,
    /// A check of the files ended.
    FilesChecked(FileCheck),
    /// A scrub is due, found damage, or ended.
    Scrub(ScrubEvent),
}

/// The step after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Decide again for every stream.
    Act,
    /// Nothing that a decision depends on changed.
    Skip,
    /// Shut down.
    Stop,
}

impl Service<'_> {
    /// Waits for the next event.
    pub(super) async fn next_event(&mut self, signals: &Signals) -> Event {
        tokio::select! {
            () = signals.stop.cancelled() => Event::Stop,
            () = signals.rescan.notified() => Event::Rescan,
            Some(request) = self.requests.recv() => Event::Control(request),
            event = self.lookups.next_event() => event,
            event = self.downloads.next_event() => event,
            event = self.ledger_checks.next_event() => event,
            event = self.problems.next_event() => event,
            event = self.stored.next_event() => event,
        }
    }

    /// Handles one event.
    pub(super) async fn handle(&mut self, event: Event) -> Next {
        match event {
            Event::Stop => return Next::Stop,
            Event::ReportDue => return Next::Skip,
            Event::Control(request) => return self.handle_request(request).await,
            Event::Rescan => {
                self.manager.reloading();
                // Mistakes are in the log, and the previous configuration stays in effect.
                let _ = self.reload().await;
                self.retry_all().await;
                self.manager.ready();
                self.lookups.poll_soon();
            }
            Event::PollDue => {
                self.rescan().await;
                self.lookups.start_poll(&self.streams);
                self.life.discovery.renew(POLL_LIMIT);
                return Next::Skip;
            }
            Event::Polled(polled) => {
                let pause = self.take_polled(polled);
                self.life.discovery.renew(pause + POLL_LIMIT);
                self.problems.retry_all();
                self.lookups.ensure_round(&self.streams);
            }
            Event::KeepAliveDue => {
                self.lookups.start_full_round(&self.streams);
                return Next::Skip;
            }
            Event::KeptAlive(kept) => {
                self.take_kept_alive(kept);
                return Next::Skip;
            }
            Event::DownloadEnded(id, result) => self.take_downloaded(id, result),
            Event::DownloadsPaused(paused) => {
                self.free_space(&paused).await;
                return Next::Skip;
            }
            Event::LedgerVerified(id, result) => self.take_verified(id, result).await,
            Event::Scrub(event) => {
                let settings = scrub::Settings::from(&self.live.config().scrub);
                self.stored.take_scrubbed(event, settings).await;
                return Next::Skip;
            }
            Event::FileCheckDue => {
                self.stored.start_file_check();
                return Next::Skip;
            }
            Event::FilesChecked(check) => {
                let wanted = self.wanted();
                if !self
                    .stored
                    .take_checked(check, &wanted, &mut self.problems)
                    .await
                {
                    return Next::Skip;
                }
            }
            Event::StoreRetryDue => self.retry_all().await,
            Event::SpaceRetryDue => {
                self.problems.set(ProblemCode::DiskFull, "", None);
                self.retry_all().await;
            }
        }
        Next::Act
    }

    async fn handle_request(&mut self, request: Request) -> Next {
        // A send fails if the client has disconnected.
        match request {
            Request::AddSnapshot(id, reply) => {
                for followed in &mut self.streams {
                    followed.catch_up();
                }
                let _ = reply.send(self.stored.add(id, &mut self.problems).await);
            }
            Request::Scrub(id, reply) => {
                let seeded = self.stored.request_scrub(id);
                let unknown = || Denied::Unknown(format!("{id} is not seeded here"));
                let _ = reply.send(seeded.then_some(()).ok_or_else(unknown));
                return Next::Skip;
            }
            Request::Reload(reply) => {
                let reloaded = self.reload().await.map_err(|mistakes| {
                    Denied::Unfit(mistakes.lines().collect::<Vec<_>>().join("; "))
                });
                let _ = reply.send(reloaded);
            }
            Request::Refresh(reply) => {
                self.retry_all().await;
                self.lookups.poll_soon();
                let _ = reply.send(Ok(()));
            }
        }
        Next::Act
    }
}
