//! Decides for every stream and carries the actions out.

use anyhow::Result;
use bittorrent_protocol::InfoHashV2;
use snapshot_store::retention::Retention;
use snapshot_store::{SnapshotInfo, StreamName, is_out_of_space};
use tokio::task::block_in_place;
use tracing::{debug, error, info, warn};

use super::Service;
use super::reconcile::{Action, InSession, Situation, StoredState, decide};
use crate::ledger::policy::Verdict;
use crate::observe::report::ProblemCode;
use crate::transfer::disk_pause::PausedDownloads;
use crate::transfer::download::DownloadOutcome;

impl Service<'_> {
    /// Carries out actions for every stream until all of them wait.
    pub(super) async fn act(&mut self) {
        let mut settled = false;
        for index in 0..self.streams.len() {
            let acted = self.act_for(index).await;
            let Some(followed) = self.streams.get(index) else {
                continue;
            };
            // A stream that fails does not stop the others.
            let name = followed.stream.name.as_str();
            settled |= self.problems.check_store(name, acted).unwrap_or(false);
        }
        if settled {
            let keep = Retention::from(&self.live.config().retention);
            let wanted = self.wanted();
            let retired = self.stored.retire(keep, &wanted, &mut self.problems).await;
            self.problems.check_store("retention", retired);
        }
    }

    /// Carries out actions for one stream until it waits. Returns whether its desired snapshot is current.
    async fn act_for(&mut self, index: usize) -> Result<bool> {
        // The snapshot that was taken up in this round.
        let mut taken_up = None;
        loop {
            let Some(followed) = self.streams.get(index) else {
                return Ok(false);
            };
            let name = followed.stream.name.clone();
            let stream = name.as_str();
            let situation = self.situation(followed.desired, followed.active, &name, taken_up)?;
            let action = decide(situation);
            debug!(stream, ?situation, ?action);
            let refused = matches!(action, Action::Refuse(_));
            let text =
                || format!("stream {stream}: the published snapshot is refused, see the log");
            self.problems
                .set(ProblemCode::LedgerUnsound, stream, refused.then(text));
            if let Some(followed) = self.streams.get_mut(index) {
                followed.refused = refused;
            }
            match action {
                Action::Keep => return Ok(true),
                Action::Wait | Action::Continue | Action::Retry => return Ok(false),
                Action::Join(snapshot) => {
                    info!(stream, %snapshot, "waiting for the download of another stream");
                    self.set_active(index, Some(snapshot));
                    return Ok(false);
                }
                Action::Fetch(snapshot) => {
                    info!(stream, %snapshot, stored = ?situation.stored, "fetching");
                    self.downloads.start(snapshot, self.stored.open_stores());
                    self.set_active(index, Some(snapshot));
                    return Ok(false);
                }
                Action::TakeUp(snapshot) => {
                    taken_up = Some(snapshot);
                    self.stored.take_up(snapshot, &mut self.problems).await;
                }
                Action::Verify(snapshot) => {
                    self.verify(snapshot).await;
                    return Ok(false);
                }
                Action::Switch(snapshot) => match self.switch(&name, snapshot) {
                    Err(error) if is_out_of_space(error.as_ref()) => {
                        let what = "the new snapshot is complete and not yet current";
                        self.problems.out_of_space(&error, what);
                        return Ok(false);
                    }
                    other => other?,
                },
                Action::Abandon(snapshot) => {
                    info!(stream, %snapshot, "abandoning the download: the pointer names another snapshot");
                    self.set_active(index, None);
                    self.stop_unless_awaited(snapshot).await;
                    let wanted = self.wanted();
                    self.stored.remove_unfinished(&wanted)?;
                }
                Action::Refuse(snapshot) => {
                    let stored = &self.stored;
                    let reasons = || stored.refusal(snapshot);
                    self.problems.log_refusal(snapshot, reasons);
                    return Ok(false);
                }
            }
        }
    }

    /// Collects what the decision for one stream depends on.
    fn situation(
        &self,
        desired: Option<InfoHashV2>,
        active: Option<InfoHashV2>,
        stream: &StreamName,
        taken_up: Option<InfoHashV2>,
    ) -> Result<Situation> {
        let downloading = desired.is_some_and(|id| self.downloads.contains(id));
        let stored = match desired {
            // A download locks the directory.
            Some(desired) if !downloading => self.stored.state_of(desired),
            _ => StoredState::Absent,
        };
        let session = match desired {
            Some(desired) if self.stored.contains(desired) => InSession::Open,
            Some(_) if desired == taken_up => InSession::Failed,
            _ => InSession::NotTried,
        };
        Ok(Situation {
            desired,
            active,
            current: self.data.current_of(stream)?,
            stored,
            session,
            downloading,
            failed: desired.is_some_and(|id| self.problems.has_failed(id)),
            no_space: self.problems.lacks_space(),
        })
    }

    fn set_active(&mut self, index: usize, active: Option<InfoHashV2>) {
        if let Some(followed) = self.streams.get_mut(index) {
            followed.active = active;
        }
    }

    /// Returns the snapshots that must not be removed: those that are desired or being downloaded.
    pub(super) fn wanted(&self) -> Vec<InfoHashV2> {
        let desired = self.streams.iter().filter_map(|one| one.desired);
        desired.chain(self.downloads.ids()).collect()
    }

    /// Seeds every complete snapshot in the store that is not seeded yet, as after a start, or after a
    /// producer or a fetch added one. Removes surplus unfinished ones.
    pub(super) async fn rescan(&mut self) {
        let wanted = self.wanted();
        let downloads = &self.downloads;
        let is_busy = |id| downloads.contains(id);
        self.stored
            .rescan(&wanted, is_busy, &mut self.problems)
            .await;
    }

    /// Permits another attempt with every snapshot that failed, and rescans the store.
    pub(super) async fn retry_all(&mut self) {
        self.problems.retry_all();
        self.rescan().await;
    }

    /// Frees disk space for the downloads that wait for it: keeps only what must be kept.
    pub(super) async fn free_space(&mut self, paused: &PausedDownloads) {
        for followed in &self.streams {
            let pause = followed.active.and_then(|id| paused.get(&id));
            let name = followed.stream.name.as_str();
            let text = pause.map(ToString::to_string);
            self.problems.set(ProblemCode::DiskFull, name, text);
        }
        if !paused.is_empty() {
            let emptied = block_in_place(|| self.data.empty_set_aside());
            self.problems.check_store("set-aside", emptied);
            let wanted = self.wanted();
            let stored = &mut self.stored;
            let retired = stored.retire(Retention::LEAST, &wanted, &mut self.problems);
            let retired = retired.await;
            self.problems.check_store("retention", retired);
        }
    }

    /// Takes the result of a download.
    pub(super) fn take_downloaded(&mut self, id: InfoHashV2, result: Result<DownloadOutcome>) {
        let failure = result.as_ref().err();
        let failure = failure.map(|error| format!("snapshot {id}: {error:#}"));
        for followed in &mut self.streams {
            if followed.active == Some(id) {
                followed.active = None;
                let name = followed.stream.name.as_str();
                self.problems
                    .set(ProblemCode::FetchFailed, name, failure.clone());
            }
        }
        match result {
            Ok(DownloadOutcome::Whole(torrent)) => self.stored.insert(*torrent),
            Ok(DownloadOutcome::Stopped) => {}
            Err(error) => {
                error!(snapshot = %id, "cannot fetch the snapshot, trying again after the next poll: {error:#}");
                self.problems.fail(id);
            }
        }
    }

    /// Stops a download that no stream waits for any more.
    pub(super) async fn stop_unless_awaited(&mut self, id: InfoHashV2) {
        if self.streams.iter().all(|one| one.active != Some(id)) {
            self.stop_download(id).await;
        }
    }

    /// Stops a download; what it has stays on disk.
    pub(super) async fn stop_download(&mut self, id: InfoHashV2) {
        match self.downloads.stop(id).await {
            Some(Ok(DownloadOutcome::Whole(torrent))) => self.stored.insert(*torrent),
            Some(Ok(DownloadOutcome::Stopped)) | None => {}
            Some(Err(error)) => {
                warn!(snapshot = %id, "the download failed while it was stopped: {error:#}");
            }
        }
    }

    /// Starts to verify a ledger, unless the verification of a desired snapshot already runs.
    async fn verify(&mut self, id: InfoHashV2) {
        let wanted = |id| self.streams.iter().any(|one| one.desired == Some(id));
        if self.ledger_checks.running().is_some_and(wanted) {
            return;
        }
        self.ledger_checks.stop().await;
        match self.stored.get(id) {
            Some(torrent) => self.ledger_checks.start(torrent),
            // It could not be seeded; the reason is in the log.
            None => self.problems.fail(id),
        }
    }

    /// Takes the result of the verification of a ledger.
    pub(super) async fn take_verified(&mut self, id: InfoHashV2, result: Result<Option<Verdict>>) {
        match result {
            Ok(Some(Verdict::Sound)) => info!(snapshot = %id, "the ledger is sound"),
            Ok(Some(Verdict::Refused(reasons))) => {
                error!(snapshot = %id, faults = ?reasons, "the ledger is refused");
                self.stored.remove(id, &mut self.problems).await;
            }
            Ok(Some(Verdict::Unverified) | None) => self.problems.fail(id),
            Err(error) => {
                if is_out_of_space(error.as_ref()) {
                    let what = "cannot save the findings of the verification";
                    self.problems.out_of_space(&error, what);
                } else {
                    error!(snapshot = %id, "cannot verify the ledger: {error:#}");
                }
                let text = format!("snapshot {id}: cannot verify the ledger: {error:#}");
                for followed in self.streams.iter().filter(|one| one.desired == Some(id)) {
                    let name = followed.stream.name.as_str();
                    self.problems
                        .set(ProblemCode::FetchFailed, name, Some(text.clone()));
                }
                self.problems.fail(id);
            }
        }
    }

    /// Makes a complete snapshot the current one.
    fn switch(&self, stream: &StreamName, id: InfoHashV2) -> Result<()> {
        let before = self.data.current_of(stream)?;
        self.data.switch(stream, id, &self.data.lock()?)?;
        info!(snapshot = %id, stream = stream.as_str(), "now current");
        let claims = |id| SnapshotInfo::parse(self.data.snapshot(id).read_info().ok()?.snapshot()?);
        if let Some((now, before)) = claims(id).zip(before.and_then(claims))
            && let Some(fewer) = now.shrank_from(&before)
        {
            warn!(
                snapshot = %id, stream = stream.as_str(),
                "an authority published a ledger that has fallen behind: it has {fewer}"
            );
        }
        Ok(())
    }
}
