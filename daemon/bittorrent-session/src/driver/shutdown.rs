//! The end of a session: what is on its way to disk gets there, what is on disk becomes durable,
//! and every task is joined.

use std::sync::Arc;

use bittorrent_engine::Output;
use bittorrent_protocol::InfoHashV2;

use super::{Driver, Inputs};
use crate::status::TorrentError;

/// How a session ended.
#[derive(Debug, Clone, Default)]
pub struct ShutdownReport {
    /// Connections that were open.
    pub connections: usize,
    /// Tasks that were joined: connections, dials, acceptors and the driver.
    pub tasks: usize,
    /// Threads that were joined.
    pub threads: usize,
    /// Torrents whose state was made durable.
    pub torrents: usize,
    /// Torrents that had stopped, or whose state could not be made durable.
    pub failures: Vec<(InfoHashV2, Arc<TorrentError>)>,
}

impl Driver {
    pub(super) async fn end(mut self, mut inputs: Inputs) -> ShutdownReport {
        let mut report = ShutdownReport {
            connections: self.peers.len(),
            tasks: self.connections.len() + self.dials.len(),
            ..ShutdownReport::default()
        };
        self.dials.shutdown().await;
        // Their tokens are cancelled with ours. Nobody waits for a place any more.
        inputs.batches.close();
        while let Some(ended) = self.connections.join_next_with_id().await {
            self.on_connection_ended(ended);
        }
        inputs.commands.close();
        self.drain(&mut inputs).await;
        for torrent in self.torrents.values_mut() {
            torrent.demand_checkpoint();
        }
        self.drain(&mut inputs).await;
        for torrent in self.torrents.values() {
            match torrent.error() {
                Some(error) => report.failures.push((torrent.hashes.v2, error.clone())),
                None => report.torrents += 1,
            }
        }
        report
    }

    /// Waits until the disks have done all there is to do.
    async fn drain(&mut self, inputs: &mut Inputs) {
        loop {
            while let Some(output) = self.engine.poll_output() {
                // Peers are gone and stay gone.
                if !matches!(output, Output::Dial { .. } | Output::Send { .. }) {
                    self.apply_output(output);
                }
            }
            self.submit_jobs();
            if !self.torrents.values().any(|torrent| torrent.is_busy()) {
                return;
            }
            match inputs.done.recv().await {
                Some(done) => self.on_job_done(done),
                None => return,
            }
        }
    }
}
