//! Rate and connection limits that follow the configuration, the schedule and the monthly quota.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bittorrent_session::{ConnectionLimits, EngineConfig, RateLimits, SessionHandle};
use file_kit::recorded_time::unix_seconds;
use tokio::sync::watch;

use crate::config::Config;
use crate::transfer::quota::Allowance;

/// Returns the rate limits for this moment: those of an open schedule window, else the configured ones,
/// bounded by the monthly quota.
pub(super) fn rate_limits(config: &Config, allowance: Allowance) -> RateLimits {
    let limits = &config.limits;
    let now = unix_seconds(SystemTime::now());
    let window = limits.schedule.iter().find(|window| window.is_open(now));
    let (upload, download) = window.map_or((None, None), |w| (w.upload, w.download));
    RateLimits {
        upload: allowance.bound(upload.unwrap_or(limits.upload).get()),
        download: download.unwrap_or(limits.download).get(),
    }
}

pub(super) fn connection_limits(config: &Config) -> ConnectionLimits {
    let peer = &config.peer;
    ConnectionLimits {
        max_peers: peer.max_connections.get() as usize,
        max_peers_per_torrent: peer.max_connections_per_torrent.get() as usize,
        max_peers_per_host: peer.max_connections_per_ip.get() as usize,
        max_half_open: EngineConfig::default().max_half_open,
    }
}

/// Time between two checks whether a window of the schedule opened or closed.
const SCHEDULE_TICK: Duration = Duration::from_secs(15);

/// Applies changed limits to the session.
pub(super) struct LimitUpdater {
    pub(super) session: SessionHandle,
    pub(super) config: watch::Receiver<Arc<Config>>,
    pub(super) allowance: watch::Receiver<Allowance>,
}

impl LimitUpdater {
    /// Applies changes until the future is dropped.
    pub(super) async fn run(mut self) {
        let (mut rates_now, mut connections_now) = (None, None);
        let mut clock = tokio::time::interval(SCHEDULE_TICK);
        loop {
            tokio::select! {
                _ = clock.tick() => {}
                Ok(()) = self.config.changed() => {}
                Ok(()) = self.allowance.changed() => {}
            }
            let config = self.config.borrow_and_update().clone();
            let allowance = *self.allowance.borrow_and_update();
            let (rates, connections) =
                (rate_limits(&config, allowance), connection_limits(&config));
            if rates_now.replace(rates) != Some(rates) {
                self.session.set_rate_limits(rates).await;
            }
            if connections_now.replace(connections) != Some(connections) {
                self.session.limit_connections(connections).await;
            }
        }
    }
}
