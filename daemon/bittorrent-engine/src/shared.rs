//! What all torrents of an engine have in common.

use std::collections::VecDeque;
use std::time::Instant;

use crate::api::config::Config;
use crate::api::keys::{Keys, PeerKey};
use crate::api::output::{Command, Output};
use crate::hosts::bans::Bans;
use crate::hosts::idle_hosts::IdleHosts;
use crate::rng::Rng;

/// Limits, counters and the way out.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) keys: Keys,
    pub(crate) rng: Rng,
    pub(crate) bans: Bans,
    pub(crate) idle_hosts: IdleHosts,
    /// Our own listening addresses.
    pub(crate) own_addresses: Vec<std::net::SocketAddr>,
    /// Connections over all torrents.
    pub(crate) connected: usize,
    /// Dials under way over all torrents.
    pub(crate) dialling: usize,
    /// A peer gave up an upload slot, or began to want one.
    pub(crate) slots_changed: bool,
    /// A connection or a dial has ended: any torrent may dial.
    pub(crate) room_made: bool,
    /// The latest time any caller passed.
    pub(crate) now: Option<Instant>,
    out: VecDeque<Output>,
}

impl Shared {
    pub(crate) fn new(config: Config, seed: [u8; 32]) -> Self {
        Self {
            config,
            keys: Keys::default(),
            rng: Rng::new(seed),
            bans: Bans::default(),
            idle_hosts: IdleHosts::default(),
            own_addresses: Vec::new(),
            connected: 0,
            dialling: 0,
            slots_changed: false,
            room_made: false,
            now: None,
            out: VecDeque::new(),
        }
    }

    pub(crate) fn emit(&mut self, output: Output) {
        self.out.push_back(output);
    }

    pub(crate) fn send(&mut self, peer: PeerKey, command: Command) {
        self.emit(Output::Send { peer, command });
    }

    pub(crate) fn next_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// Returns the latest time seen: time never goes back.
    pub(crate) fn advance(&mut self, now: Instant) -> Instant {
        let now = self.now.map_or(now, |last| last.max(now));
        self.now = Some(now);
        now
    }
}
