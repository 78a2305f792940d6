//! What the running mirror says about itself: one model for `status`, the control socket,
//! `/status.json`, metrics, the status page and the service manager's status line.
//!
//! Times are whole seconds since 1970, sizes are bytes, rates are bytes a second, hashes and keys are
//! lower-case hexadecimal.

mod names;
mod notes;
mod observer;
mod problem;
mod rates;
mod reach;
mod reporter;
#[cfg(test)]
pub(crate) mod testing;
mod text;

use std::collections::BTreeMap;

use file_kit::recorded_time::unix_seconds;
use port_mapping::PortMappingStatus;
use serde::{Deserialize, Serialize};

use crate::progress::RunningWork;
use crate::transfer::quota::MonthReport;

use names::named;
pub(crate) use problem::{Problem, ProblemCode};
pub(crate) use rates::{POINTS as RATE_POINTS, RateHistory, RatePoint};
pub(crate) use reporter::{FollowedState, ReportWatch, Reporter};

/// The mirror at a moment; made about once a second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Of the program.
    pub(crate) version: String,
    /// When the process started.
    pub(crate) started: u64,
    /// When this was made.
    pub(crate) now: u64,
    pub(crate) data_dir: String,
    pub(crate) phase: ServicePhase,
    /// It does what it is for: what the pointers name is here and seeded, and nothing is wrong.
    pub(crate) ready: bool,
    /// What is wrong; an operator should look.
    pub(crate) problems: Vec<Problem>,
    /// Phases of work with an end, as they run.
    pub(crate) work: Vec<WorkReport>,
    pub(crate) streams: Vec<StreamReport>,
    /// Everything in the session: seeded, or being fetched.
    pub(crate) torrents: Vec<TorrentReport>,
    pub(crate) transfer: TransferTotals,
    pub(crate) month: MonthReport,
    pub(crate) peers: PeerTotals,
    /// `null` where the router is not asked for a port.
    pub(crate) port_mapping: Option<PortMapping>,
    pub(crate) dht: DhtReport,
    pub(crate) disk: DiskReport,
    pub(crate) addresses: Addresses,
    /// Items that were found and not accepted since the process started, by reason.
    pub(crate) refusals: BTreeMap<String, u64>,
}

named! {
    /// What the mirror is doing, the most telling of it.
    pub(crate) enum ServicePhase {
        /// Looking at what is on disk.
        Starting => "starting",
        /// No pointer is known yet.
        Discovering => "discovering",
        /// Asking peers what the snapshot is.
        Metadata => "metadata",
        /// Downloading, or taking from what is held.
        Fetching => "fetching",
        /// Reading again what is there, or looking into the ledger.
        Verifying => "verifying",
        /// What is wanted is stored, and uploaded to every peer that asks.
        Seeding => "seeding",
        /// Nothing to seed, and nothing to fetch.
        Idle => "idle",
        /// Making durable what is there, and ending.
        Stopping => "stopping",
    }
}

impl ServicePhase {
    /// All of them.
    pub(crate) const ALL: [Self; 8] = [
        Self::Starting,
        Self::Discovering,
        Self::Metadata,
        Self::Fetching,
        Self::Verifying,
        Self::Seeding,
        Self::Idle,
        Self::Stopping,
    ];
}

/// A phase of work with an end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkReport {
    pub(crate) name: String,
    pub(crate) done: u64,
    /// 0 where the length is not known.
    pub(crate) total: u64,
}

impl From<RunningWork> for WorkReport {
    fn from(work: RunningWork) -> Self {
        Self {
            name: work.kind.label().to_owned(),
            done: work.done,
            total: work.total,
        }
    }
}

/// A stream that is followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StreamReport {
    pub(crate) name: String,
    pub(crate) salt: String,
    /// How many authorities must agree.
    pub(crate) threshold: usize,
    pub(crate) authorities: Vec<AuthorityReport>,
    /// The snapshot that the authorities name.
    pub(crate) desired: Option<String>,
    /// The snapshot that is being fetched.
    pub(crate) active: Option<String>,
    /// The desired snapshot was looked into and is not used.
    #[serde(default)]
    pub(crate) refused: bool,
    /// The snapshot that `current/<name>` points at.
    pub(crate) current: Option<String>,
    /// The greatest sequence number among the authorities that name the desired snapshot.
    pub(crate) seq: Option<i64>,
    /// When enough authorities were first seen to name the desired snapshot.
    pub(crate) since: Option<u64>,
    /// That is longer ago than the stream's `max-age`.
    pub(crate) stale: bool,
    /// When a look-up last brought an answer.
    pub(crate) answered: Option<u64>,
    /// When the next look-up begins, while none runs.
    pub(crate) next_lookup: Option<u64>,
}

/// How one authority of a stream stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AuthorityReport {
    pub(crate) authority: String,
    pub(crate) state: VoteState,
    /// Of its pointer that was accepted last.
    pub(crate) seq: Option<i64>,
    pub(crate) snapshot: Option<String>,
    /// When it was first seen to name this snapshot.
    pub(crate) first_seen: Option<u64>,
    pub(crate) last_seen: Option<u64>,
    /// DHT nodes that answered the last look-up.
    pub(crate) answers: u32,
    /// Why the last look-up brought nothing.
    pub(crate) failure: Option<String>,
    /// The latest items that were found and not accepted.
    pub(crate) refused: Vec<RefusedItem>,
}

named! {
    /// What the vote of an authority comes to.
    pub(crate) enum VoteState {
        /// Nothing of it was ever found.
        Silent => "silent",
        /// It names the desired snapshot.
        Agrees => "agrees",
        /// It names another snapshot.
        Differs => "differs",
        /// It signed two snapshots with one sequence number, and has no vote.
        Contested => "contested",
    }
}

/// An item that was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefusedItem {
    pub(crate) seq: i64,
    /// Why, for programs.
    pub(crate) reason: String,
    /// Why, for people.
    pub(crate) text: String,
    /// When it was last found.
    pub(crate) at: u64,
    /// How often it was found.
    pub(crate) times: u64,
}

/// One snapshot in the session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TorrentReport {
    pub(crate) snapshot: String,
    pub(crate) state: TorrentState,
    /// Why it stopped.
    pub(crate) failure: Option<String>,
    /// Of the file or directory that is shared; once the metadata is there.
    pub(crate) name: Option<String>,
    /// What the producer made it from, as the producer says.
    pub(crate) original_filename: Option<String>,
    pub(crate) bytes_total: u64,
    pub(crate) bytes_verified: u64,
    /// Found in what was held already, since the torrent was added.
    pub(crate) bytes_reused: u64,
    /// Sent by peers and proven, since the torrent was added.
    pub(crate) bytes_fetched: u64,
    /// What peers still have to send, as far as is known.
    pub(crate) bytes_to_fetch: u64,
    /// Payload from peers since the torrent was added, what was in vain included.
    pub(crate) downloaded: u64,
    pub(crate) uploaded: u64,
    pub(crate) wasted: u64,
    pub(crate) hash_bytes: u64,
    pub(crate) down_rate: u64,
    pub(crate) up_rate: u64,
    pub(crate) pieces_total: u32,
    pub(crate) pieces_verified: u32,
    /// Connections.
    pub(crate) peers: usize,
    /// Connections to those that have everything.
    pub(crate) seeds: usize,
    /// Addresses known.
    pub(crate) candidates: usize,
    pub(crate) banned: u64,
    /// Seconds to the end at the present rate.
    pub(crate) seconds_left: Option<u64>,
}

named! {
    /// What a torrent is doing.
    pub(crate) enum TorrentState {
        Metadata => "metadata",
        Fetching => "fetching",
        Seeding => "seeding",
        Stopped => "stopped",
    }
}

/// Sums over all torrents since the process started; they never fall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct TransferTotals {
    pub(crate) downloaded: u64,
    pub(crate) uploaded: u64,
    pub(crate) reused: u64,
    pub(crate) wasted: u64,
    pub(crate) hash_bytes: u64,
    pub(crate) down_rate: u64,
    pub(crate) up_rate: u64,
}

/// Connections, counted; a few seconds old.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct PeerTotals {
    pub(crate) connections: usize,
    pub(crate) seeds: usize,
    /// Opened by the other side.
    pub(crate) incoming: usize,
    /// Under the v1 info-hash of a hybrid torrent.
    pub(crate) v1: usize,
    /// On this machine or in this network.
    pub(crate) local: usize,
    /// Encrypted to their end.
    pub(crate) encrypted: usize,
    /// Of which only the handshake was encrypted.
    pub(crate) encrypted_handshake: usize,
    pub(crate) banned: u64,
    pub(crate) reachable: Reachable,
    /// How that is known, for people.
    pub(crate) reachable_because: String,
}

named! {
    /// Whether peers elsewhere reach us.
    #[derive(Default)]
    pub(crate) enum Reachable {
        /// Nothing shows it, one way or the other.
        #[default]
        Unknown => "unknown",
        /// A peer from elsewhere has connected to us within a day.
        Yes => "yes",
        /// None did in hours among peers, or we listen on this machine only.
        No => "no",
    }
}

impl Reachable {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Yes, Self::No, Self::Unknown];
}

/// What came of asking the router for a port. Without `protocol` there is none: `failure` says why, or
/// the router has not answered yet.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct PortMapping {
    /// How the port was given: `pcp`, `nat-pmp` or `upnp`.
    pub(crate) protocol: Option<String>,
    pub(crate) router: Option<String>,
    /// Of the router, which leads to us.
    pub(crate) port: Option<u16>,
    /// The router's own to the outside, where it says so.
    pub(crate) address: Option<String>,
    /// When it ends unless it is renewed, as it is long before; `null` too where it holds for ever.
    pub(crate) ends: Option<u64>,
    /// Why there is none, for people.
    pub(crate) failure: Option<String>,
}

impl PortMapping {
    /// Converts the status that the mapper publishes.
    pub(crate) fn of(status: &PortMappingStatus) -> Self {
        match status {
            PortMappingStatus::Requesting => Self::default(),
            PortMappingStatus::Failed(why) => Self {
                failure: Some(why.clone()),
                ..Self::default()
            },
            PortMappingStatus::Mapped(mapped) => Self {
                protocol: Some(mapped.protocol.name().to_owned()),
                router: Some(mapped.router.to_string()),
                port: Some(mapped.port.get()),
                address: mapped.address.map(|address| address.to_string()),
                ends: mapped.expires().map(unix_seconds),
                failure: None,
            },
        }
    }
}

/// The DHT node; a few seconds old.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct DhtReport {
    pub(crate) running: bool,
    /// In the routing table.
    pub(crate) nodes: usize,
    /// Our address as other nodes see it.
    pub(crate) public_address: Option<String>,
    /// Other nodes were not seen to reach us.
    pub(crate) firewalled: Option<bool>,
}

/// The file system of the data directory; a few seconds old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct DiskReport {
    pub(crate) free: u64,
    pub(crate) total: u64,
    /// What a successor as large as the largest current snapshot takes where the file system cannot
    /// share blocks between files.
    pub(crate) next_update: u64,
}

/// Where the mirror listens.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Addresses {
    pub(crate) peers: Vec<String>,
    pub(crate) dht: Option<String>,
    pub(crate) http: Option<String>,
    pub(crate) control: Option<String>,
}

/// One connection, with the peer's full address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PeerReport {
    pub(crate) snapshot: String,
    pub(crate) address: String,
    pub(crate) client: Option<String>,
    pub(crate) incoming: bool,
    pub(crate) v1: bool,
    pub(crate) local: bool,
    /// Encrypted to its end.
    pub(crate) encrypted: bool,
    pub(crate) seed: bool,
    pub(crate) pieces: u32,
    pub(crate) downloaded: u64,
    pub(crate) uploaded: u64,
    pub(crate) down_rate: u64,
    pub(crate) up_rate: u64,
    /// It does not serve us.
    pub(crate) choking_us: bool,
    /// We do not serve it.
    pub(crate) choked: bool,
}

impl Report {
    /// How far the running download is, 0 to 100.
    pub(crate) fn percent(&self) -> Option<u64> {
        let fetching = |torrent: &&TorrentReport| torrent.state == TorrentState::Fetching;
        let torrent = self.torrents.iter().find(fetching)?;
        let (done, total) = (torrent.bytes_verified, torrent.bytes_total);
        Some(crate::progress::percent(done, total))
    }

    /// Why it is not ready: everything that is wrong, and what is still missing.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let mut reasons: Vec<String> = self.problems.iter().map(Problem::to_string).collect();
        reasons.extend(
            self.streams
                .iter()
                .filter_map(|stream| self.missing(stream)),
        );
        reasons
    }

    fn missing(&self, stream: &StreamReport) -> Option<String> {
        let name = &stream.name;
        let Some(current) = &stream.current else {
            return Some(format!("stream {name}: no snapshot is whole yet"));
        };
        let seeded = self
            .torrent(current)
            .is_some_and(|torrent| torrent.state == TorrentState::Seeding);
        (!seeded).then(|| format!("stream {name}: its current snapshot is not seeded"))
    }

    /// The torrent of a snapshot.
    pub(crate) fn torrent(&self, snapshot: &str) -> Option<&TorrentReport> {
        let mut torrents = self.torrents.iter();
        torrents.find(|torrent| torrent.snapshot == snapshot)
    }
}
