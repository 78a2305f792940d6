//! Collects the parts of the report that need a request: the state of the DHT node, free disk space, and the connections. A separate task does this
//! every few seconds, so that a slow answer does not delay the mirror.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bittorrent_session::{Direction, Encryption, Link, Peer, TorrentHandle};
use service_kit::watchdog::Pulse;
use snapshot_pointer::MainlineDht;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::reach::{Observation, PeerListener, Reachability};
use super::{DhtReport, PeerReport, PeerTotals};

/// The time between two rounds.
const EVERY: Duration = Duration::from_secs(2);

/// The time limit for one answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most connections to list. All connections are counted.
const MAX_LISTED: usize = 1000;

/// The results of the last round.
#[derive(Debug, Clone, Default)]
pub(super) struct Observed {
    pub(super) dht: DhtReport,
    /// The address of the DHT node.
    pub(super) dht_address: Option<String>,
    pub(super) disk_free: u64,
    pub(super) disk_total: u64,
    pub(super) peers: PeerTotals,
    pub(super) listed: Vec<PeerReport>,
}

/// Repeats rounds until `stop` is cancelled. `dht_lives` beats when the DHT node answered.
pub(super) async fn observe(
    dht: Arc<MainlineDht>,
    dir: PathBuf,
    torrents: watch::Receiver<Vec<TorrentHandle>>,
    sender: watch::Sender<Observed>,
    stop: CancellationToken,
    dht_lives: Pulse,
    home: PeerListener,
) {
    let mut clock = interval(EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut observed = Observed::default();
    let mut reach = Reachability::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = clock.tick() => {}
        }
        let round = async {
            if ask_dht(&dht, &mut observed).await {
                dht_lives.beat();
            }
            ask_disk(&dir, &mut observed).await;
            let torrents = torrents.borrow().clone();
            let seen = ask_torrents(&torrents, &mut observed).await;
            let announced = observed.dht.running && observed.dht.nodes > 0;
            let now = Instant::now();
            reach.look(now, Observation { announced, ..seen });
            let verdict = reach.verdict(now, home, observed.dht.public_address.as_deref());
            (observed.peers.reachable, observed.peers.reachable_because) = verdict;
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = round => {}
        }
        sender.send_replace(observed.clone());
    }
}

/// Queries the DHT node. Returns whether an answer came in time; "no node runs" is also an answer.
async fn ask_dht(dht: &MainlineDht, observed: &mut Observed) -> bool {
    let asked = timeout(PATIENCE, dht.status()).await;
    let answered = asked.is_ok();
    observed.dht = match asked.ok().flatten() {
        Some(status) => {
            observed.dht_address = Some(status.local_addr.to_string());
            DhtReport {
                running: true,
                nodes: status.nodes,
                public_address: status.public_addr.map(|addr| addr.to_string()),
                firewalled: Some(status.firewalled),
            }
        }
        None => DhtReport::default(),
    };
    answered
}

/// Reads the free space on a blocking thread, with a time limit: a network file system may hang.
async fn ask_disk(dir: &std::path::Path, observed: &mut Observed) {
    let dir = dir.to_owned();
    let asked = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&dir));
    if let Ok(Ok(Ok(found))) = timeout(PATIENCE, asked).await {
        observed.disk_free = found.f_bavail.saturating_mul(found.f_frsize);
        observed.disk_total = found.f_blocks.saturating_mul(found.f_frsize);
    }
}

async fn ask_torrents(torrents: &[TorrentHandle], observed: &mut Observed) -> Observation {
    let mut seen = Observation::default();
    observed.peers = PeerTotals::default();
    observed.listed.clear();
    for torrent in torrents {
        let snapshot = torrent.id().v2.to_string();
        let peers = timeout(PATIENCE, torrent.peers()).await;
        for peer in peers.unwrap_or_default() {
            count(&peer, &mut observed.peers);
            if !peer.status.local {
                seen.came |= peer.status.direction == Direction::Incoming;
                seen.met |= peer.status.direction == Direction::Outgoing;
            }
            if observed.listed.len() < MAX_LISTED {
                observed.listed.push(listed(&snapshot, peer));
            }
        }
        let banned = &mut observed.peers.banned;
        *banned = banned.saturating_add(torrent.status().banned);
    }
    seen
}

fn count(peer: &Peer, peers: &mut PeerTotals) {
    match peer.encryption {
        Encryption::None => {}
        Encryption::Handshake => peers.encrypted_handshake += 1,
        Encryption::Rc4 => peers.encrypted += 1,
    }
    let peer = &peer.status;
    let incoming = peer.direction == Direction::Incoming;
    peers.connections += 1;
    peers.seeds += usize::from(peer.seed);
    peers.incoming += usize::from(incoming);
    peers.v1 += usize::from(peer.link == Link::V1);
    peers.local += usize::from(peer.local);
}

fn listed(snapshot: &str, peer: Peer) -> PeerReport {
    let Peer {
        status: peer,
        encryption,
    } = peer;
    PeerReport {
        snapshot: snapshot.to_owned(),
        address: peer.addr.to_string(),
        client: peer.client,
        incoming: peer.direction == Direction::Incoming,
        v1: peer.link == Link::V1,
        local: peer.local,
        encrypted: encryption == Encryption::Rc4,
        seed: peer.seed,
        pieces: peer.pieces,
        downloaded: peer.downloaded,
        uploaded: peer.uploaded,
        down_rate: peer.down_rate,
        up_rate: peer.up_rate,
        choking_us: peer.choking_us,
        choked: peer.choked,
    }
}
