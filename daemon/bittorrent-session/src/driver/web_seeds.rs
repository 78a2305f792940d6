//! Decides when web seeds are used: while a download receives too little from its peers.

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use bittorrent_engine::{Connected, Direction, Link, PeerKey, TorrentKey, TorrentPhase};
use bittorrent_protocol::{FileIndex, PeerId};

use super::Driver;
use super::connections::LinkError;
use crate::error::Causes;
use crate::http::HttpError;
use crate::transport::handshake::Encryption;
use crate::web_seed::{self, WebSeedError, WebSeedUrl};

/// Web seeds of one torrent at most; further ones are ignored.
const MAX_WEB_SEEDS: usize = 16;

/// Web seeds of one torrent in use at a time.
const MAX_IN_USE: usize = 4;

/// Pause after a web seed failed. It doubles with each failure.
const FIRST_RETRY: Duration = Duration::from_secs(30);

/// Longest pause, whatever the server requests.
const LAST_RETRY: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Usable from this time on.
    Idle(Instant),
    InUse(PeerKey),
    /// It sent false data, or has no file of the torrent.
    GivenUp,
}

/// A web seed of a torrent.
#[derive(Debug)]
pub(super) struct WebSeed {
    url: WebSeedUrl,
    state: State,
    lacks: BTreeSet<FileIndex>,
    failures: u32,
    /// A documentation address that stands for it in the engine.
    addr: SocketAddr,
}

/// The web seeds of a torrent.
#[derive(Debug, Default)]
pub(super) struct WebSeeds {
    seeds: Vec<WebSeed>,
    /// Time since which peers have sent too little.
    slow_since: Option<Instant>,
}

impl WebSeeds {
    fn in_use(&self) -> usize {
        let used = |seed: &&WebSeed| matches!(seed.state, State::InUse(_));
        self.seeds.iter().filter(used).count()
    }

    /// Returns the next web seed to use, once peers have sent too little for long enough.
    fn next(&mut self, slow: bool, patience: Duration, now: Instant) -> Option<&mut WebSeed> {
        if !slow {
            self.slow_since = None;
            return None;
        }
        let since = *self.slow_since.get_or_insert(now);
        if now < since + patience || self.in_use() >= MAX_IN_USE {
            return None;
        }
        let seed = self
            .seeds
            .iter_mut()
            .filter(|seed| matches!(seed.state, State::Idle(from) if from <= now))
            .min_by_key(|seed| seed.failures)?;
        // Gives this one time to show its rate before the next one is used.
        self.slow_since = Some(now);
        Some(seed)
    }

    fn of(&mut self, peer: PeerKey) -> Option<&mut WebSeed> {
        self.seeds
            .iter_mut()
            .find(|seed| seed.state == State::InUse(peer))
    }

    /// Gives up a web seed that sent false data. Returns its URL.
    pub(super) fn ban(&mut self, addr: SocketAddr) -> Option<&WebSeedUrl> {
        let seed = self.seeds.iter_mut().find(|seed| seed.addr == addr)?;
        seed.state = State::GivenUp;
        Some(&seed.url)
    }
}

impl WebSeed {
    /// Records the end of its use, with the reason if it failed.
    fn ended(&mut self, error: Option<&WebSeedError>, files: usize, now: Instant) {
        let wait = match error {
            None => FIRST_RETRY,
            Some(WebSeedError::NotThere(file) | WebSeedError::OtherFile { file, .. }) => {
                self.lacks.insert(*file);
                if self.lacks.len() >= files {
                    self.state = State::GivenUp;
                    return;
                }
                Duration::ZERO
            }
            Some(WebSeedError::NoRanges) => LAST_RETRY,
            Some(WebSeedError::Http(HttpError::Status(_, Some(wait)))) => *wait,
            Some(WebSeedError::Http(_) | WebSeedError::Short) => {
                let doublings = self.failures.min(8);
                self.failures += 1;
                FIRST_RETRY.saturating_mul(1 << doublings)
            }
        };
        self.state = State::Idle(now + wait.min(LAST_RETRY));
    }
}

impl Driver {
    pub(super) fn add_web_seeds(&mut self, key: TorrentKey, urls: Vec<WebSeedUrl>) {
        let Some(torrent) = self.torrents.get_mut(&key) else {
            return;
        };
        let seeds = &mut torrent.web_seeds.seeds;
        for url in urls {
            if seeds.len() >= MAX_WEB_SEEDS || seeds.iter().any(|seed| seed.url == url) {
                continue;
            }
            self.web_seeds_added += 1;
            seeds.push(WebSeed {
                url,
                state: State::Idle(Instant::now()),
                lacks: BTreeSet::new(),
                failures: 0,
                addr: placeholder_addr(self.web_seeds_added),
            });
        }
    }

    /// Starts to use web seeds where peers send too little.
    pub(super) fn consider_web_seeds(&mut self) {
        let now = Instant::now();
        let keys: Vec<TorrentKey> = self.torrents.keys().copied().collect();
        for key in keys {
            let Some(status) = self.engine.status(key) else {
                continue;
            };
            let Some(torrent) = self.torrents.get_mut(&key) else {
                continue;
            };
            let wants = status.phase == TorrentPhase::Downloading
                && status.bytes_to_fetch > 0
                && torrent.content.is_some()
                && !torrent.is_failed();
            let slow = wants && status.down_rate < self.policy.tuning.web_seeds_below;
            let patience = self.policy.tuning.web_seed_patience;
            let Some(seed) = torrent.web_seeds.next(slow, patience, now) else {
                continue;
            };
            seed.state = State::Idle(now + FIRST_RETRY);
            let (url, addr, lacks) = (seed.url.clone(), seed.addr, seed.lacks.clone());
            if let Some(peer) = self.start_web_seed(key, url, addr, lacks, now)
                && let Some(torrent) = self.torrents.get_mut(&key)
                && let Some(seed) = torrent
                    .web_seeds
                    .seeds
                    .iter_mut()
                    .find(|seed| seed.addr == addr)
            {
                seed.state = State::InUse(peer);
            }
        }
    }

    fn start_web_seed(
        &mut self,
        key: TorrentKey,
        url: WebSeedUrl,
        addr: SocketAddr,
        lacks: BTreeSet<FileIndex>,
        now: Instant,
    ) -> Option<PeerKey> {
        let torrent = self.torrents.get(&key)?;
        let (info, content) = (torrent.info.clone()?, torrent.content.clone()?);
        let connected = Connected {
            addr,
            // A web seed cannot be dialled.
            direction: Direction::Incoming,
            peer_id: placeholder_id(addr),
            fast: true,
            extended: true,
            // A web seed answers no hash requests.
            link: Link::V1,
            local: false,
        };
        let peer = match self.engine.handle_connected(key, connected, now) {
            Ok(peer) => peer,
            Err(refusal) => {
                tracing::debug!(%url, %refusal, "web seed refused");
                return None;
            }
        };
        tracing::info!(%url, "peers send too little: using a web seed");
        let span = tracing::debug_span!("web_seed", %url);
        let http = self.policy.http.client();
        let throttles = self.policy.limits.throttles();
        let remote = (addr, Encryption::None);
        self.connections
            .start(peer, remote, throttles, span, |link| {
                let start = web_seed::Start {
                    link,
                    url,
                    lacks,
                    http,
                    info,
                    content,
                };
                async { web_seed::run(start).await.map_err(LinkError::WebSeed) }
            });
        Some(peer)
    }

    /// Records the end of a web seed's connection. Returns whether it was one.
    pub(super) fn on_web_seed_ended(
        &mut self,
        peer: PeerKey,
        result: Option<&Result<(), LinkError>>,
    ) -> bool {
        let Some(torrent) = self.torrents.get_mut(&peer.torrent()) else {
            return false;
        };
        let files = torrent.info.as_ref().map_or(0, |info| info.files().len());
        let Some(seed) = torrent.web_seeds.of(peer) else {
            return false;
        };
        let error = match result {
            Some(Err(LinkError::WebSeed(error))) => Some(error),
            _ => None,
        };
        if let Some(error) = error {
            tracing::warn!(url = %seed.url, error = %Causes(error), "web seed failed");
        }
        seed.ended(error, files, Instant::now());
        true
    }
}

/// Returns an address that no peer has (RFC 3849), each in a network of its own.
fn placeholder_addr(number: u32) -> SocketAddr {
    let [a, b, c, d] = number.to_be_bytes();
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, high, low, 0, 0, 0, 1), 80))
}

/// Returns a peer id that belongs to the address.
fn placeholder_id(addr: SocketAddr) -> PeerId {
    let mut id = *b"-web-seed-----------";
    if let std::net::IpAddr::V6(ip) = addr.ip() {
        let (_, end) = id.split_at_mut(PeerId::LEN - 8);
        end.copy_from_slice(ip.octets().split_at(8).0);
    }
    PeerId::from_bytes(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeds(count: u32) -> WebSeeds {
        let now = Instant::now();
        let seed = |n| WebSeed {
            url: format!("http://h/{n}").parse().unwrap(),
            state: State::Idle(now),
            lacks: BTreeSet::new(),
            failures: 0,
            addr: placeholder_addr(n),
        };
        WebSeeds {
            seeds: (0..count).map(seed).collect(),
            slow_since: None,
        }
    }

    #[test]
    fn web_seeds_are_used_one_after_the_other_while_peers_are_slow() {
        let mut seeds = seeds(2);
        let mut now = Instant::now() + Duration::from_secs(1);
        let patience = Duration::from_secs(5);
        let mut next = |slow, wait, now: &mut Instant| {
            *now += Duration::from_secs(wait);
            let seed = seeds.next(slow, patience, *now)?;
            seed.state = State::GivenUp;
            Some(seed.url.to_string())
        };
        assert_eq!(next(true, 0, &mut now), None);
        assert_eq!(next(true, 4, &mut now), None);
        assert_eq!(next(false, 1, &mut now), None);
        assert_eq!(next(true, 1, &mut now), None);
        assert_eq!(next(true, 5, &mut now).as_deref(), Some("http://h/0"));
        assert_eq!(next(true, 1, &mut now), None);
        assert_eq!(next(true, 4, &mut now).as_deref(), Some("http://h/1"));
        assert_eq!(next(true, 100, &mut now), None);
    }

    #[test]
    fn failures_wait_longer_each_time_and_missing_files_do_not() {
        let mut all = seeds(1);
        let now = Instant::now();
        let seed = &mut all.seeds[0];
        let mut wait = |error: Option<WebSeedError>| {
            seed.ended(error.as_ref(), 2, now);
            match seed.state {
                State::Idle(from) => Some(from.saturating_duration_since(now).as_secs()),
                _ => None,
            }
        };
        assert_eq!(wait(None), Some(30));
        assert_eq!(wait(Some(WebSeedError::Short)), Some(30));
        assert_eq!(wait(Some(WebSeedError::Http(HttpError::Slow))), Some(60));
        let busy = hyper::StatusCode::SERVICE_UNAVAILABLE;
        let asked = HttpError::Status(busy, Some(Duration::from_secs(7)));
        assert_eq!(wait(Some(WebSeedError::Http(asked))), Some(7));
        assert_eq!(wait(Some(WebSeedError::NoRanges)), Some(3600));
        let layout = bittorrent_protocol::Layout::new(
            bittorrent_protocol::PieceLength::MIN,
            [(1, None), (1, None)],
        )
        .unwrap();
        let file = |n| layout.file_of(layout.piece(n).unwrap());
        assert_eq!(wait(Some(WebSeedError::NotThere(file(0)))), Some(0));
        assert_eq!(wait(Some(WebSeedError::NotThere(file(0)))), Some(0));
        assert_eq!(wait(Some(WebSeedError::NotThere(file(1)))), None);
    }

    #[test]
    fn placeholders_are_all_different() {
        let addrs: BTreeSet<_> = (0..70_000).map(placeholder_addr).collect();
        let ids: BTreeSet<_> = addrs
            .iter()
            .map(|addr| *placeholder_id(*addr).as_bytes())
            .collect();
        assert_eq!((addrs.len(), ids.len()), (70_000, 70_000));
    }
}
