//! The report of the running mirror: one model for `status`, the control socket, `/status.json`, metrics, the status page and the status line of the
//! service manager.
//!
//! Times are whole seconds since 1970, sizes are bytes, rates are bytes a second. Hashes and keys are lower-case hexadecimal.

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

/// The state of the mirror at one moment. A report is made about once a second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The version of the program.
    pub(crate) version: String,
    /// When the process started.
    pub(crate) started: u64,
    /// When the report was made.
    pub(crate) now: u64,
    pub(crate) data_dir: String,
    pub(crate) phase: ServicePhase,
    /// Whether every stream has a current snapshot that is seeded, and there is no problem.
    pub(crate) ready: bool,
    /// Problems that an operator should look at.
    pub(crate) problems: Vec<Problem>,
    /// Running work with a known end, such as a verification.
    pub(crate) work: Vec<WorkReport>,
    pub(crate) streams: Vec<StreamReport>,
    /// All torrents in the session.
    pub(crate) torrents: Vec<TorrentReport>,
    pub(crate) transfer: TransferTotals,
    pub(crate) month: MonthReport,
    pub(crate) peers: PeerTotals,
    /// `null` when port mapping is off.
    pub(crate) port_mapping: Option<PortMapping>,
    pub(crate) dht: DhtReport,
    pub(crate) disk: DiskReport,
    pub(crate) addresses: Addresses,
    /// Numbers of items that were found and not accepted since the process started, by reason.
    pub(crate) refusals: BTreeMap<String, u64>,
}

named! {
    /// The main activity of the mirror.
    pub(crate) enum ServicePhase {
        /// Opening the store.
        Starting => "starting",
        /// No pointer is known yet.
        Discovering => "discovering",
        /// Downloading the metadata of a snapshot.
        Metadata => "metadata",
        /// Downloading content, or reusing blocks of stored snapshots.
        Fetching => "fetching",
        /// Hashing stored content, or verifying a ledger.
        Verifying => "verifying",
        /// Seeding, with nothing left to download.
        Seeding => "seeding",
        /// There is nothing to seed and nothing to download.
        Idle => "idle",
        /// Writing all data to disk before the exit.
        Stopping => "stopping",
    }
}

impl ServicePhase {
    /// All variants.
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

/// Running work with a known end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkReport {
    pub(crate) name: String,
    pub(crate) done: u64,
    /// 0 when the length is unknown.
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
    /// Whether the ledger of the desired snapshot failed verification.
    #[serde(default)]
    pub(crate) refused: bool,
    /// The snapshot that `current/<name>` points at.
    pub(crate) current: Option<String>,
    /// The greatest sequence number among the authorities that name the desired snapshot.
    pub(crate) seq: Option<i64>,
    /// When enough authorities were first seen to name the desired snapshot.
    pub(crate) since: Option<u64>,
    /// Whether `since` is longer ago than the `max-age` of the stream.
    pub(crate) stale: bool,
    /// When a look-up was last answered.
    pub(crate) answered: Option<u64>,
    /// When the next look-up begins, while none runs.
    pub(crate) next_lookup: Option<u64>,
}

/// The state of one authority of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AuthorityReport {
    pub(crate) authority: String,
    pub(crate) state: VoteState,
    /// The sequence number of the last accepted pointer.
    pub(crate) seq: Option<i64>,
    pub(crate) snapshot: Option<String>,
    /// When the authority was first seen to name this snapshot.
    pub(crate) first_seen: Option<u64>,
    pub(crate) last_seen: Option<u64>,
    /// DHT nodes that answered the last look-up.
    pub(crate) answers: u32,
    /// Why the last look-up found nothing.
    pub(crate) failure: Option<String>,
    /// The latest items that were found and not accepted.
    pub(crate) refused: Vec<RefusedItem>,
}

named! {
    /// The vote of an authority.
    pub(crate) enum VoteState {
        /// No pointer of the authority was ever found.
        Silent => "silent",
        /// The authority names the desired snapshot.
        Agrees => "agrees",
        /// The authority names another snapshot.
        Differs => "differs",
        /// The authority signed two snapshots with one sequence number and has no vote.
        Contested => "contested",
    }
}

/// An item that was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefusedItem {
    pub(crate) seq: i64,
    /// The reason, for programs.
    pub(crate) reason: String,
    /// The reason, for people.
    pub(crate) text: String,
    /// When the item was last found.
    pub(crate) at: u64,
    /// How often the item was found.
    pub(crate) times: u64,
}

/// One snapshot in the session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TorrentReport {
    pub(crate) snapshot: String,
    pub(crate) state: TorrentState,
    /// The error that stopped the torrent.
    pub(crate) failure: Option<String>,
    /// The name of the shared file or directory; `null` before the metadata is complete.
    pub(crate) name: Option<String>,
    /// The name of the file that the producer made the snapshot from, according to the producer.
    pub(crate) original_filename: Option<String>,
    pub(crate) bytes_total: u64,
    pub(crate) bytes_verified: u64,
    /// Bytes reused from stored snapshots since the torrent was added.
    pub(crate) bytes_reused: u64,
    /// Bytes received from peers and verified since the torrent was added.
    pub(crate) bytes_fetched: u64,
    /// Bytes still to be downloaded, as far as is known.
    pub(crate) bytes_to_fetch: u64,
    /// Payload received from peers since the torrent was added, including wasted bytes.
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
    /// Connections to seeds.
    pub(crate) seeds: usize,
    /// Known peer addresses.
    pub(crate) candidates: usize,
    pub(crate) banned: u64,
    /// Estimated seconds until the download is complete, at the present rate.
    pub(crate) seconds_left: Option<u64>,
}

named! {
    /// The state of a torrent.
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

/// Numbers of connections, a few seconds old.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct PeerTotals {
    pub(crate) connections: usize,
    pub(crate) seeds: usize,
    /// Incoming connections.
    pub(crate) incoming: usize,
    /// Connections under the v1 info-hash of a hybrid torrent.
    pub(crate) v1: usize,
    /// Connections to peers on this machine or in this network.
    pub(crate) local: usize,
    /// Fully encrypted connections.
    pub(crate) encrypted: usize,
    /// Connections with only the handshake encrypted.
    pub(crate) encrypted_handshake: usize,
    pub(crate) banned: u64,
    pub(crate) reachable: Reachable,
    /// The evidence for `reachable`, for people.
    pub(crate) reachable_because: String,
}

named! {
    /// Whether peers outside this network can connect to the mirror.
    #[derive(Default)]
    pub(crate) enum Reachable {
        /// There is no evidence either way.
        #[default]
        Unknown => "unknown",
        /// A peer outside this network has connected within the last day.
        Yes => "yes",
        /// No outside peer connected in two hours with outgoing connections, or the mirror listens on loopback only.
        No => "no",
    }
}

impl Reachable {
    /// All variants.
    pub(crate) const ALL: [Self; 3] = [Self::Yes, Self::No, Self::Unknown];
}

/// The port mapping on the router. `protocol` is `null` without a mapping. Then `failure` has the reason, or is `null` while the router has not
/// answered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct PortMapping {
    /// The protocol of the mapping: `pcp`, `nat-pmp` or `upnp`.
    pub(crate) protocol: Option<String>,
    pub(crate) router: Option<String>,
    /// The external port, which the router forwards to the mirror.
    pub(crate) port: Option<u16>,
    /// The external address of the router, if the router reports it.
    pub(crate) address: Option<String>,
    /// When the mapping expires. It is renewed long before. `null` for a mapping without expiry.
    pub(crate) ends: Option<u64>,
    /// Why there is no mapping, for people.
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

/// The state of the DHT node, a few seconds old.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct DhtReport {
    pub(crate) running: bool,
    /// Nodes in the routing table.
    pub(crate) nodes: usize,
    /// The address of this node as other nodes report it.
    pub(crate) public_address: Option<String>,
    /// Whether other nodes seem unable to reach this one.
    pub(crate) firewalled: Option<bool>,
}

/// Space on the file system of the data directory, a few seconds old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct DiskReport {
    pub(crate) free: u64,
    pub(crate) total: u64,
    /// The space for a new snapshot as large as the largest current one, if the file system cannot share blocks between files.
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
    /// Whether the whole connection is encrypted.
    pub(crate) encrypted: bool,
    pub(crate) seed: bool,
    pub(crate) pieces: u32,
    pub(crate) downloaded: u64,
    pub(crate) uploaded: u64,
    pub(crate) down_rate: u64,
    pub(crate) up_rate: u64,
    /// Whether the peer chokes us.
    pub(crate) choking_us: bool,
    /// Whether we choke the peer.
    pub(crate) choked: bool,
}

impl Report {
    /// Returns the progress of the running download, 0 to 100.
    pub(crate) fn percent(&self) -> Option<u64> {
        let fetching = |torrent: &&TorrentReport| torrent.state == TorrentState::Fetching;
        let torrent = self.torrents.iter().find(fetching)?;
        let (done, total) = (torrent.bytes_verified, torrent.bytes_total);
        Some(crate::progress::percent(done, total))
    }

    /// Returns why the mirror is not ready: all problems, and streams without a seeded current snapshot.
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
            return Some(format!("stream {name}: no snapshot is complete yet"));
        };
        let seeded = self
            .torrent(current)
            .is_some_and(|torrent| torrent.state == TorrentState::Seeding);
        (!seeded).then(|| format!("stream {name}: its current snapshot is not seeded"))
    }

    /// Returns the torrent of a snapshot.
    pub(crate) fn torrent(&self, snapshot: &str) -> Option<&TorrentReport> {
        let mut torrents = self.torrents.iter();
        torrents.find(|torrent| torrent.snapshot == snapshot)
    }
}
