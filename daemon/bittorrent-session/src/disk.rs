//! Threads that wait for disks, so that no task does.
//!
//! - *Writers* write blocks and their proofs. All writes of one torrent go to one writer: the
//!   kernel lets only one thread at a time write to a file, so more would only spin.
//! - *Readers* read blocks that are not in the page cache and hash lists.
//! - One *syncer* makes torrents durable, which can take seconds and must not delay writes.
//!
//! All queues are bounded, and submitting never waits. Reads need a permit for the memory of their
//! answer, and there are fewer permits than queue slots. The driver keeps writes for which there is
//! no slot.

pub(crate) mod content;
pub(crate) mod piece_map;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bittorrent_engine::TorrentKey;
use bittorrent_protocol::merkle::HashRequest;
use bittorrent_protocol::{BlockIndex, FileIndex, MerkleHash, PieceIndex, PieceLayer};
use bittorrent_store::{ReuseSources, StoreError, TorrentStore};
use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::heartbeat::Heartbeat;

/// Queue slots of one writer and of the syncer.
const QUEUE: usize = 256;

/// How often a writer without work counts its heartbeat.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// How long an operation is retried while no file descriptor is free, and how often. Connections that
/// close free some; the heartbeat of a writer may pause for as long.
const DESCRIPTOR_PATIENCE: Duration = Duration::from_secs(10);
const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(100);

/// Threads that write blocks, and as many again that read and hash.
pub(crate) const DISK_THREADS: usize = 2;

/// Bytes of blocks read from disk that may wait for sockets, over all torrents. Blocks in the page
/// cache need no buffer.
const READ_BUFFER_BYTES: usize = 8 << 20;

/// Least number of permits for one read, so that the number of reads is bounded too.
pub(crate) const MIN_READ_CHARGE: u32 = 16 * 1024;

/// A block of content on its way from a socket to the disk.
#[derive(Debug)]
pub(crate) struct ReceivedBlock {
    pub(crate) block: BlockIndex,
    pub(crate) data: Bytes,
    /// Accounts for the memory of `data` until it is written.
    pub(crate) permit: OwnedSemaphorePermit,
}

/// A disk job failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    #[error("the storage operation failed")]
    Store(#[source] StoreError),
    #[error("a disk thread panicked; the panic message is in the log")]
    Panicked,
}

/// Proven leaves of one run of blocks.
#[derive(Debug)]
pub(crate) struct Proof {
    pub(crate) piece: PieceIndex,
    pub(crate) first_block: u16,
    pub(crate) leaves: Vec<MerkleHash>,
}

/// A search for the content of a piece in local snapshots.
#[derive(Debug)]
pub(crate) struct ReuseLookup {
    pub(crate) piece: PieceIndex,
    pub(crate) by: LookupBy,
}

/// What a search compares.
#[derive(Debug)]
pub(crate) enum LookupBy {
    /// The whole piece, by its hash.
    Piece,
    /// Its blocks, by the proven leaf hashes of all of them.
    Blocks(Vec<MerkleHash>),
    /// Leaf hashes alone, by proven nodes above them.
    Leaves(Vec<MerkleHash>),
}

#[derive(Debug)]
pub(crate) enum DiskWork {
    /// Writes blocks.
    Write(Vec<ReceivedBlock>),
    /// Stores leaf hashes of written blocks and counts the blocks as verified.
    Prove(Vec<Proof>),
    /// Counts blocks as missing again.
    Revoke(Vec<BlockIndex>),
    /// Copies content of a piece from local snapshots.
    ReuseLookup(Arc<ReuseSources>, ReuseLookup),
    /// Stores a file's piece layer.
    Layer(FileIndex, Arc<PieceLayer>),
    /// Makes everything durable.
    Checkpoint,
    /// Makes everything durable and seals the files.
    Finish,
}

#[derive(Debug)]
pub(crate) struct DiskJob {
    pub(crate) torrent: TorrentKey,
    pub(crate) store: Arc<TorrentStore>,
    pub(crate) work: DiskWork,
}

/// The result of a [`DiskJob`].
#[derive(Debug)]
pub(crate) struct FinishedJob {
    pub(crate) torrent: TorrentKey,
    pub(crate) outcome: JobOutcome,
}

#[derive(Debug)]
pub(crate) enum JobOutcome {
    /// These blocks were written; after an error some of them may not be.
    Written(Vec<BlockIndex>, Result<(), DiskError>),
    /// The proofs of these pieces were stored.
    Proven(Vec<PieceIndex>, Result<(), DiskError>),
    Revoked(Result<(), DiskError>),
    /// These blocks of the piece were found and written.
    LookedUp(PieceIndex, Result<Vec<(BlockIndex, MerkleHash)>, DiskError>),
    /// These leaf hashes were found for what the piece replaced.
    Recalled(PieceIndex, Result<Vec<(BlockIndex, MerkleHash)>, DiskError>),
    Layer(FileIndex, Result<(), DiskError>),
    Checkpoint(Result<(), DiskError>),
    Finish(Result<(), DiskError>),
}

/// A requested range of a piece, inside the piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockRange {
    pub(crate) piece: PieceIndex,
    pub(crate) begin: u32,
    pub(crate) length: u32,
}

#[derive(Debug)]
pub(crate) enum Read {
    /// Reads ranges of pieces, with zeros past the end of the file. The numbers are the caller's.
    Ranges(Vec<(u64, BlockRange)>),
    /// Answers a hash request.
    Hashes(HashRequest),
}

#[derive(Debug)]
pub(crate) enum ReadAnswer {
    /// In the order of the request.
    Ranges(RangesRead),
    /// `None`: the request is to be rejected.
    Hashes(HashRequest, Result<Option<Vec<MerkleHash>>, DiskError>),
}

/// The bytes of ranges by their numbers, or the numbers of all of them and the error.
pub(crate) type RangesRead = Result<Vec<(u64, Bytes)>, (Vec<u64>, DiskError)>;

/// The answer to a read, with the permit for its memory.
#[derive(Debug)]
pub(crate) struct ReadReply {
    pub(crate) answer: ReadAnswer,
    pub(crate) permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct ReadJob {
    store: Arc<TorrentStore>,
    read: Read,
    permit: OwnedSemaphorePermit,
    reply: mpsc::Sender<ReadReply>,
}

/// Submits reads to the readers.
#[derive(Debug, Clone)]
pub(crate) struct Readers {
    queue: Sender<ReadJob>,
    permits: Arc<Semaphore>,
}

impl Readers {
    /// Returns the permits for the bytes of answers. Each read needs at least [`MIN_READ_CHARGE`].
    pub(crate) fn permits(&self) -> &Arc<Semaphore> {
        &self.permits
    }

    /// Submits a read. `reply` must have a free slot. No reply is sent at the end of the session.
    pub(crate) fn submit(
        &self,
        store: Arc<TorrentStore>,
        read: Read,
        permit: OwnedSemaphorePermit,
        reply: mpsc::Sender<ReadReply>,
    ) {
        let job = ReadJob {
            store,
            read,
            permit,
            reply,
        };
        // There are as many slots as permits, so this fails only at the end of the session.
        let _ = self.queue.try_send(job);
    }
}

/// The driver's queues. Dropping them lets the threads finish their jobs and end.
#[derive(Debug)]
pub(crate) struct DiskQueues {
    writers: Vec<Sender<DiskJob>>,
    syncer: Sender<DiskJob>,
    next_writer: usize,
}

/// The threads. Join them after [`DiskQueues`] and all [`Readers`] are dropped.
#[derive(Debug)]
pub(crate) struct DiskThreads(Vec<thread::JoinHandle<()>>);

impl DiskThreads {
    /// Blocks until all have ended. Returns their number.
    pub(crate) fn join(self) -> usize {
        let count = self.0.len();
        for thread in self.0 {
            // Jobs catch panics, so this cannot fail.
            let _ = thread.join();
        }
        count
    }
}

/// The writer that a torrent is assigned to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WriterId(usize);

/// Starts [`DISK_THREADS`] writers, as many readers, and the syncer. `done` receives the results of the
/// driver's jobs; the driver always empties it. `heartbeat` counts the loops of the writers.
pub(crate) fn start(
    done: &mpsc::Sender<FinishedJob>,
    heartbeat: &Heartbeat,
) -> std::io::Result<(DiskQueues, Readers, DiskThreads)> {
    let mut handles = Vec::new();
    let mut spawn = |name: String, body: Box<dyn FnOnce() + Send>| {
        handles.push(thread::Builder::new().name(name).spawn(body)?);
        Ok::<_, std::io::Error>(())
    };
    let mut writers = Vec::new();
    for n in 0..DISK_THREADS {
        let (queue, jobs) = bounded(QUEUE);
        writers.push(queue);
        let (done, heartbeat) = (done.clone(), heartbeat.clone());
        spawn(
            format!("bt-write-{n}"),
            Box::new(move || write_loop(&jobs, &done, || heartbeat.beat_writer(n))),
        )?;
    }
    let (syncer, jobs) = bounded(QUEUE);
    let synced = done.clone();
    spawn(
        "bt-sync".to_owned(),
        // Making much content durable may take minutes, so the syncer has no heartbeat.
        Box::new(move || write_loop(&jobs, &synced, || ())),
    )?;
    let (queue, jobs) = bounded(READ_BUFFER_BYTES / MIN_READ_CHARGE as usize + 1);
    for n in 0..DISK_THREADS {
        let jobs = jobs.clone();
        spawn(format!("bt-read-{n}"), Box::new(move || read_loop(&jobs)))?;
    }
    let disks = DiskQueues {
        writers,
        syncer,
        next_writer: 0,
    };
    let readers = Readers {
        queue,
        permits: Arc::new(Semaphore::new(READ_BUFFER_BYTES)),
    };
    Ok((disks, readers, DiskThreads(handles)))
}

impl DiskQueues {
    /// Assigns a writer to a new torrent.
    pub(crate) fn assign(&mut self) -> WriterId {
        self.next_writer = (self.next_writer + 1) % self.writers.len();
        WriterId(self.next_writer)
    }

    /// Returns whether the writer's queue has a slot. Only the driver submits, so the answer holds
    /// until it does.
    pub(crate) fn writer_has_capacity(&self, writer: WriterId) -> bool {
        !self.writers[writer.0].is_full()
    }

    /// Returns whether the syncer's queue has a slot.
    pub(crate) fn syncer_has_capacity(&self) -> bool {
        !self.syncer.is_full()
    }

    /// Submits a job for which there is a slot.
    pub(crate) fn submit(&self, writer: WriterId, job: DiskJob) {
        let queue = match job.work {
            DiskWork::Checkpoint | DiskWork::Finish => &self.syncer,
            DiskWork::Write(_)
            | DiskWork::Prove(_)
            | DiskWork::Revoke(_)
            | DiskWork::ReuseLookup(..)
            | DiskWork::Layer(..) => &self.writers[writer.0],
        };
        // The threads end only after this end of the queue is dropped.
        let sent = queue.try_send(job);
        debug_assert!(sent.is_ok(), "no queue slot, or no thread");
    }
}

/// Runs `work` and turns both kinds of failure into one. While the process has no free file
/// descriptor, `work` is retried for [`DESCRIPTOR_PATIENCE`]; it must be repeatable.
fn guarded<T>(work: impl Fn() -> Result<T, StoreError>) -> Result<T, DiskError> {
    let start = Instant::now();
    loop {
        match catch_unwind(AssertUnwindSafe(&work)) {
            Ok(Err(error)) if error.is_busy() && start.elapsed() < DESCRIPTOR_PATIENCE => {
                thread::sleep(DESCRIPTOR_PAUSE);
            }
            Ok(result) => return result.map_err(DiskError::Store),
            Err(_) => return Err(DiskError::Panicked),
        }
    }
}

/// Separates blocks from their permits, which become one.
fn into_writes(
    received: Vec<ReceivedBlock>,
) -> (Vec<(BlockIndex, Bytes)>, Option<OwnedSemaphorePermit>) {
    let mut all: Option<OwnedSemaphorePermit> = None;
    let blocks = received.into_iter().map(|received| {
        match &mut all {
            Some(all) => all.merge(received.permit),
            None => all = Some(received.permit),
        }
        (received.block, received.data)
    });
    (blocks.collect(), all)
}

fn write_loop(jobs: &Receiver<DiskJob>, done: &mpsc::Sender<FinishedJob>, lives: impl Fn()) {
    loop {
        lives();
        let DiskJob {
            torrent,
            store,
            work,
        } = match jobs.recv_timeout(HEARTBEAT_INTERVAL) {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let outcome = match work {
            DiskWork::Write(received) => {
                let (blocks, permit) = into_writes(received);
                let result = guarded(|| store.write_blocks(&blocks));
                let written = blocks.into_iter().map(|(block, _)| block).collect();
                drop(permit);
                JobOutcome::Written(written, result)
            }
            DiskWork::Prove(proofs) => {
                let result = guarded(|| {
                    proofs.iter().try_for_each(|proof| {
                        store.mark_verified(proof.piece, proof.first_block, &proof.leaves)
                    })
                });
                let pieces = proofs.iter().map(|proof| proof.piece).collect();
                JobOutcome::Proven(pieces, result)
            }
            DiskWork::Revoke(blocks) => JobOutcome::Revoked(guarded(|| store.revoke(&blocks))),
            DiskWork::ReuseLookup(sources, ReuseLookup { piece, by }) => match by {
                LookupBy::Piece => JobOutcome::LookedUp(
                    piece,
                    guarded(|| sources.reuse_blocks(&store, piece, None)),
                ),
                LookupBy::Blocks(leaves) => {
                    let found = guarded(|| sources.reuse_blocks(&store, piece, Some(&leaves)));
                    JobOutcome::LookedUp(piece, found)
                }
                LookupBy::Leaves(nodes) => JobOutcome::Recalled(
                    piece,
                    guarded(|| Ok(sources.find_leaves(&store, piece, &nodes))),
                ),
            },
            DiskWork::Layer(file, layer) => {
                JobOutcome::Layer(file, guarded(|| store.set_layer(file, layer.clone())))
            }
            DiskWork::Checkpoint => {
                JobOutcome::Checkpoint(guarded(|| store.checkpoint().map(|_| ())))
            }
            DiskWork::Finish => JobOutcome::Finish(guarded(|| store.finish())),
        };
        // The driver is gone only if the session was dropped. Queued jobs still run, and their
        // results are dropped.
        let _ = done.blocking_send(FinishedJob { torrent, outcome });
    }
}

fn read_loop(jobs: &Receiver<ReadJob>) {
    for ReadJob {
        store,
        read,
        permit,
        reply,
    } in jobs
    {
        if reply.is_closed() {
            continue;
        }
        let answer = match read {
            Read::Ranges(ranges) => {
                let read = guarded(|| {
                    ranges
                        .iter()
                        .map(|(number, range)| Ok((*number, read_range(&store, *range)?)))
                        .collect()
                });
                ReadAnswer::Ranges(read.map_err(|error| {
                    (
                        ranges.into_iter().map(|(number, _)| number).collect(),
                        error,
                    )
                }))
            }
            Read::Hashes(request) => {
                let result = guarded(|| store.hashes(&request));
                ReadAnswer::Hashes(request, result)
            }
        };
        let _ = reply.try_send(ReadReply { answer, permit });
    }
}

fn read_range(store: &TorrentStore, range: BlockRange) -> Result<Bytes, StoreError> {
    let mut bytes = vec![0; range.length as usize];
    store.read(range.piece, range.begin, &mut bytes)?;
    Ok(bytes.into())
}
