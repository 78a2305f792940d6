//! Downloads, at most one for each stream.

use std::future::poll_fn;
use std::task::Poll;

use anyhow::Result;
use bittorrent_protocol::InfoHashV2;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{Running, Service};
use crate::transfer::download::{self, DownloadOutcome, DownloadRequest};

/// A running download.
pub(super) struct Fetching<'a> {
    pub(super) id: InfoHashV2,
    pub(super) stop: CancellationToken,
    pub(super) task: Running<'a, Result<DownloadOutcome>>,
}

impl<'a> Service<'a> {
    pub(super) fn fetch(&mut self, id: InfoHashV2) {
        let stop = CancellationToken::new();
        let (network, data, display, until) = (self.network, self.data, self.display, stop.clone());
        let (policy, told) = (self.policy.clone(), self.paused.clone());
        let open = self.seeding.values();
        let open = open.map(|torrent| (torrent.id, torrent.store.clone()));
        let open = open.collect();
        let task = Box::pin(async move {
            let wanted = DownloadRequest {
                id,
                open,
                policy: &policy,
                reader: None,
                fail_if_no_space: false,
                paused: &told,
            };
            download::download(network, data, wanted, display, &until).await
        });
        self.fetching.push(Fetching { id, stop, task });
    }

    pub(super) fn fetched(&mut self, id: InfoHashV2, result: Result<DownloadOutcome>) {
        let failure = result.as_ref().err();
        let failure = failure.map(|error| format!("snapshot {id}: {error:#}"));
        for followed in &mut self.streams {
            if followed.active == Some(id) {
                followed.active = None;
                let name = followed.stream.name.as_str();
                self.reporter.problem("fetch-failed", name, failure.clone());
            }
        }
        match result {
            Ok(DownloadOutcome::Whole(torrent)) => {
                self.seeding.insert(id, *torrent);
            }
            Ok(DownloadOutcome::Stopped) => {}
            Err(error) => {
                error!(snapshot = %id, "not fetched, trying again at the next poll: {error:#}");
                self.failed.insert(id);
            }
        }
    }

    pub(super) fn is_fetching(&self, id: InfoHashV2) -> bool {
        self.fetching.iter().any(|fetching| fetching.id == id)
    }

    /// Ends a download that no stream waits for any longer.
    pub(super) async fn let_go(&mut self, id: InfoHashV2) {
        if self.streams.iter().any(|one| one.active == Some(id)) {
            return;
        }
        let running = self.fetching.iter().position(|one| one.id == id);
        if let Some(index) = running {
            let fetching = self.fetching.swap_remove(index);
            self.abandon(fetching).await;
        }
    }

    /// Ends a running download; what it has stays on disk.
    pub(super) async fn abandon(&mut self, fetching: Fetching<'a>) {
        fetching.stop.cancel();
        match fetching.task.await {
            Ok(DownloadOutcome::Whole(torrent)) => {
                self.seeding.insert(fetching.id, *torrent);
            }
            Ok(DownloadOutcome::Stopped) => {}
            Err(error) => warn!(snapshot = %fetching.id, "ended with: {error:#}"),
        }
    }
}

/// The first of the downloads to end; never, while there is none.
pub(super) async fn first_fetched(
    fetching: &mut [Fetching<'_>],
) -> (InfoHashV2, Result<DownloadOutcome>) {
    poll_fn(|context| {
        let ended = fetching
            .iter_mut()
            .find_map(|one| match one.task.as_mut().poll(context) {
                Poll::Ready(fetched) => Some((one.id, fetched)),
                Poll::Pending => None,
            });
        ended.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}
