//! A torrent between the engine and the disk threads.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bittorrent_engine::{PeerKey, TorrentKey};
use bittorrent_protocol::metainfo::{Info, PieceLayer};
use bittorrent_protocol::{BlockIndex, FileIndex, InfoHashes, PieceIndex, SwarmHash};
use bittorrent_store::{ReuseSources, TorrentStore};
use tokio::sync::{oneshot, watch};

use super::TorrentWatch;
use super::web_seeds::WebSeeds;
use crate::config::Tuning;
use crate::disk::content::StoredContent;
use crate::disk::piece_map::BlockOrigins;
use crate::disk::{DiskJob, DiskQueues, DiskWork, Proof, ReceivedBlock, ReuseLookup, WriterId};
use crate::error::Causes;
use crate::status::{Phase, TorrentError, TorrentStatus};

/// Blocks in one write job at most. Blocks that arrive during one job form the next.
const WRITE_AT_ONCE: usize = 256;

/// Write jobs of one torrent at a time: one runs and one waits, while further blocks are gathered.
const WRITES_UNDER_WAY: usize = 2;

/// Look-ups of one torrent at a time. Few, so that writes of received blocks do not wait behind
/// them.
const LOOK_UPS_UNDER_WAY: usize = 2;

/// A checkpoint starts at the latest when the oldest verified bytes are this old.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(30);

/// Progress of a torrent from the first missing block to the seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Completion {
    /// Blocks are missing.
    Missing,
    /// The engine has all blocks; the store is not sealed.
    Unsealed,
    /// The syncer seals the store.
    Sealing,
    Sealed,
}

/// A piece whose proofs are being written. It cannot be served yet, so it is not announced to
/// peers.
#[derive(Debug, Default)]
struct Announcement {
    proofs: usize,
    peers: Vec<PeerKey>,
}

#[derive(Debug)]
pub(super) struct Torrent {
    pub(super) key: TorrentKey,
    pub(super) hashes: InfoHashes,
    /// Its names in the registry.
    pub(super) names: Vec<SwarmHash>,
    pub(super) info: Option<Arc<Info>>,
    pub(super) content: Option<Arc<StoredContent>>,
    pub(super) web_seeds: WebSeeds,
    writer: WriterId,
    unwritten: Vec<ReceivedBlock>,
    writes: usize,
    unproven: Vec<Proof>,
    proving: bool,
    revoked: Vec<BlockIndex>,
    revoking: usize,
    origins: BlockOrigins,
    /// Dropped once the store is sealed, so that older snapshots can be deleted.
    sources: Option<Arc<ReuseSources>>,
    look_ups: VecDeque<ReuseLookup>,
    looking: usize,
    layers: Vec<(FileIndex, Arc<PieceLayer>)>,
    layering: bool,
    announcements: HashMap<PieceIndex, Announcement>,
    completion: Completion,
    checkpoint_due: bool,
    checkpointing: bool,
    /// Time at which the oldest bytes that are not durable were verified.
    dirty_since: Option<Instant>,
    error: Option<Arc<TorrentError>>,
    /// Set once the engine has removed it. Notified after the last disk job.
    removal: Option<oneshot::Sender<()>>,
    status: watch::Sender<TorrentStatus>,
    info_news: watch::Sender<Option<Arc<Info>>>,
}

impl Torrent {
    /// Returns the names that follow from the hashes.
    pub(super) fn names_of(hashes: &InfoHashes) -> Vec<SwarmHash> {
        std::iter::once(hashes.v2.truncated())
            .chain(hashes.v1.map(SwarmHash::from))
            .collect()
    }

    pub(super) fn new(key: TorrentKey, hashes: InfoHashes, writer: WriterId) -> Self {
        Self {
            key,
            hashes,
            names: Self::names_of(&hashes),
            info: None,
            content: None,
            web_seeds: WebSeeds::default(),
            writer,
            unwritten: Vec::new(),
            writes: 0,
            unproven: Vec::new(),
            proving: false,
            revoked: Vec::new(),
            revoking: 0,
            origins: BlockOrigins::default(),
            sources: None,
            look_ups: VecDeque::new(),
            looking: 0,
            layers: Vec::new(),
            layering: false,
            announcements: HashMap::new(),
            completion: Completion::Missing,
            checkpoint_due: false,
            checkpointing: false,
            dirty_since: None,
            error: None,
            removal: None,
            status: watch::Sender::default(),
            info_news: watch::Sender::default(),
        }
    }

    pub(super) fn views(&self) -> TorrentWatch {
        TorrentWatch {
            status: self.status.subscribe(),
            info: self.info_news.subscribe(),
        }
    }

    pub(super) fn set_info(&mut self, info: Arc<Info>) {
        self.info = Some(info.clone());
        self.info_news.send_replace(Some(info));
    }

    /// Attaches the store.
    pub(super) fn attach(
        &mut self,
        content: Arc<StoredContent>,
        sources: Option<Arc<ReuseSources>>,
        origins: BlockOrigins,
    ) {
        self.content = Some(content);
        self.origins = origins;
        self.sources = sources;
    }

    /// Stops the torrent permanently. The first error is kept.
    pub(super) fn fail(&mut self, error: TorrentError) {
        if self.error.is_none() {
            tracing::error!(
                torrent = %self.hashes.v2,
                error = %Causes(&error),
                "torrent stopped"
            );
            self.error = Some(Arc::new(error));
            self.unwritten.clear();
            self.unproven.clear();
            self.look_ups.clear();
            // Content that was verified so far is still made durable.
            self.checkpoint_due |= self.dirty_since.is_some();
        }
    }

    pub(super) const fn error(&self) -> Option<&Arc<TorrentError>> {
        self.error.as_ref()
    }

    pub(super) const fn is_failed(&self) -> bool {
        self.error.is_some()
    }

    pub(super) fn write(&mut self, received: ReceivedBlock) {
        if !self.is_failed() {
            self.unwritten.push(received);
        }
    }

    pub(super) fn prove(&mut self, proof: Proof) {
        if !self.is_failed() {
            self.announcements.entry(proof.piece).or_default().proofs += 1;
            self.unproven.push(proof);
            self.dirty_since.get_or_insert_with(Instant::now);
        }
    }

    /// Queues a look-up. The engine bounds their number.
    pub(super) fn enqueue_lookup(&mut self, enqueue_lookup: ReuseLookup) {
        if !self.is_failed() {
            self.look_ups.push_back(enqueue_lookup);
        }
    }

    /// Records the end of a look-up that found `found` blocks.
    pub(super) fn on_lookup_done(&mut self, piece: PieceIndex, found: usize) {
        self.looking -= 1;
        if let Some(content) = &self.content {
            self.origins.reuse(content.layout(), piece, found as u64);
        }
    }

    /// Returns what a piece map needs; `None` before a store is attached.
    pub(super) fn origins(&self) -> Option<(Arc<TorrentStore>, BlockOrigins)> {
        let store = self.content.as_ref()?.store().clone();
        Some((store, self.origins.clone()))
    }

    pub(super) fn keep_layer(&mut self, file: FileIndex, layer: Arc<PieceLayer>) {
        self.layers.push((file, layer));
    }

    pub(super) fn complete(&mut self) {
        if self.completion == Completion::Missing {
            self.completion = Completion::Unsealed;
        }
    }

    /// Defers announcements of pieces that cannot be served yet. Returns the other pieces.
    pub(super) fn defer_unserved(
        &mut self,
        peer: PeerKey,
        pieces: Vec<PieceIndex>,
    ) -> Vec<PieceIndex> {
        pieces
            .into_iter()
            .filter(|piece| match self.announcements.get_mut(piece) {
                Some(announcement) => {
                    announcement.peers.push(peer);
                    false
                }
                None => true,
            })
            .collect()
    }

    pub(super) fn written(&mut self) {
        self.writes -= 1;
    }

    /// Records that proofs of these pieces were written. Returns deferred announcements: pieces and
    /// the peers to inform.
    pub(super) fn proven(&mut self, pieces: &[PieceIndex]) -> Vec<(PieceIndex, Vec<PeerKey>)> {
        self.proving = false;
        let mut news = Vec::new();
        for piece in pieces {
            let Some(announcement) = self.announcements.get_mut(piece) else {
                continue;
            };
            announcement.proofs = announcement.proofs.saturating_sub(1);
            if announcement.proofs == 0
                && let Some(announcement) = self.announcements.remove(piece)
                && !announcement.peers.is_empty()
            {
                news.push((*piece, announcement.peers));
            }
        }
        news
    }

    pub(super) fn layered(&mut self) {
        self.layering = false;
    }

    pub(super) fn checkpointed(&mut self) {
        self.checkpointing = false;
    }

    /// Records the end of an attempt to seal. `complete` is whether the engine has all blocks.
    pub(super) fn sealed(&mut self, success: bool, complete: bool) {
        let sealed = |content: &Arc<StoredContent>| content.store().is_sealed();
        if success && self.content.as_ref().is_some_and(sealed) {
            self.completion = Completion::Sealed;
            self.dirty_since = None;
            self.sources = None;
            tracing::info!(torrent = %self.hashes.v2, "complete, durable and sealed");
        } else if complete {
            self.completion = Completion::Unsealed;
        } else {
            self.completion = Completion::Missing;
        }
    }

    /// Records that blocks are damaged. The store is sealed again after they are fetched.
    pub(super) fn unseal(&mut self) {
        if self.completion != Completion::Sealing {
            self.completion = Completion::Missing;
        }
    }

    /// Returns whether disk jobs of this torrent are queued or running.
    pub(super) fn is_busy(&self) -> bool {
        self.writes > 0
            || self.proving
            || self.revoking > 0
            || self.looking > 0
            || self.layering
            || self.checkpointing
            || self.completion == Completion::Sealing
    }

    /// Makes verified content durable after the engine has removed the torrent, then notifies
    /// `done`.
    pub(super) fn remove(&mut self, done: oneshot::Sender<()>) {
        self.removal = Some(done);
        self.demand_checkpoint();
    }

    /// Queues the revocation of verified blocks.
    pub(super) fn revoke(&mut self, blocks: Vec<BlockIndex>) {
        self.unproven
            .retain(|proof| blocks.iter().all(|block| block.piece() != proof.piece));
        self.revoked.extend(blocks);
    }

    /// Records that a revocation was written.
    pub(super) fn was_revoked(&mut self) {
        self.revoking -= 1;
    }

    /// Returns whether the torrent was removed and its disk jobs have ended.
    pub(super) fn is_gone(&self) -> bool {
        self.removal.is_some() && !self.is_busy()
    }

    /// Notifies the caller that removed the torrent.
    pub(super) fn notify_removed(self) {
        if let Some(done) = self.removal {
            // A caller that no longer waits needs no reply.
            let _ = done.send(());
        }
    }

    pub(super) fn consider_checkpoint(&mut self, tuning: &Tuning) {
        let age = self.dirty_since.map(|since| since.elapsed());
        let old = age.is_some_and(|age| age >= CHECKPOINT_INTERVAL);
        let rested = age.is_some_and(|age| age >= tuning.checkpoint_pause);
        let much = rested
            && self
                .content
                .as_ref()
                .is_some_and(|content| content.store().dirty_bytes() >= tuning.checkpoint_bytes);
        self.checkpoint_due |= old || much;
    }

    /// Requests a checkpoint if anything is not durable.
    pub(super) fn demand_checkpoint(&mut self) {
        self.checkpoint_due |= self.dirty_since.is_some();
    }

    /// Submits as many jobs as the disk threads have room for.
    pub(super) fn submit_jobs(&mut self, disks: &DiskQueues) {
        let Some(content) = self.content.clone() else {
            return;
        };
        let submit = |work| {
            disks.submit(
                self.writer,
                DiskJob {
                    torrent: self.key,
                    store: content.store().clone(),
                    work,
                },
            );
        };
        let writer_has_place = || disks.writer_has_capacity(self.writer);
        // The writer runs its jobs in order, so later writes find the revoked blocks missing.
        if !self.revoked.is_empty() {
            if !writer_has_place() {
                return;
            }
            submit(DiskWork::Revoke(std::mem::take(&mut self.revoked)));
            self.revoking += 1;
        }
        while self.writes < WRITES_UNDER_WAY && !self.unwritten.is_empty() && writer_has_place() {
            submit(next_write(&mut self.unwritten));
            self.writes += 1;
        }
        if !self.proving && !self.unproven.is_empty() && writer_has_place() {
            submit(DiskWork::Prove(std::mem::take(&mut self.unproven)));
            self.proving = true;
        }
        while self.looking < LOOK_UPS_UNDER_WAY
            && writer_has_place()
            && let Some(sources) = &self.sources
            && let Some(enqueue_lookup) = self.look_ups.pop_front()
        {
            submit(DiskWork::ReuseLookup(sources.clone(), enqueue_lookup));
            self.looking += 1;
        }
        if !self.layering
            && writer_has_place()
            && let Some((file, layer)) = self.layers.pop()
        {
            submit(DiskWork::Layer(file, layer));
            self.layering = true;
        }
        if self.checkpointing || !disks.syncer_has_capacity() {
            return;
        }
        let all_kept = !self.proving
            && !self.layering
            && self.writes == 0
            && self.revoking == 0
            && self.looking == 0;
        if self.completion == Completion::Unsealed && all_kept && !self.is_failed() {
            submit(DiskWork::Finish);
            self.completion = Completion::Sealing;
        } else if self.checkpoint_due && self.completion != Completion::Sealing {
            submit(DiskWork::Checkpoint);
            self.checkpoint_due = false;
            self.checkpointing = true;
            // Blocks verified during this checkpoint wait for the next one.
            self.dirty_since = None;
        }
    }

    /// Publishes the status to the handles.
    pub(super) fn publish(&self, status: Option<bittorrent_engine::TorrentStatus>) {
        use bittorrent_engine::TorrentPhase as P;
        let Some(status) = status else {
            return;
        };
        let phase = match (&self.error, status.phase) {
            (Some(error), _) => Phase::Stopped(error.clone()),
            (None, P::Metadata) => Phase::Metadata,
            (None, P::Seeding) if self.completion == Completion::Sealed => Phase::Seeding,
            // The engine reports its reason to stop as an output, which becomes `error`.
            (None, P::Downloading | P::Seeding | P::Stopped(_)) => Phase::Downloading,
        };
        self.status.send_replace(TorrentStatus {
            phase,
            refused_metadata: status.refused_metadata,
            bytes_total: status.bytes_total,
            bytes_verified: status.bytes_verified,
            bytes_reused: status.bytes_reused,
            bytes_fetched: status.bytes_fetched,
            bytes_to_fetch: status.bytes_to_fetch,
            pieces_total: status.pieces_total,
            pieces_verified: status.pieces_verified,
            downloaded_payload: status.downloaded,
            uploaded_payload: status.uploaded,
            wasted: status.wasted,
            hash_bytes: status.hash_bytes,
            down_rate: status.down_rate,
            up_rate: status.up_rate,
            peers: status.peers,
            seeds: status.seeds,
            candidates: status.candidates,
            banned: status.banned,
        });
    }
}

/// Takes the blocks of the next write job in the order in which they arrived.
fn next_write(unwritten: &mut Vec<ReceivedBlock>) -> DiskWork {
    if unwritten.len() <= WRITE_AT_ONCE {
        return DiskWork::Write(std::mem::take(unwritten));
    }
    DiskWork::Write(unwritten.drain(..WRITE_AT_ONCE).collect())
}
