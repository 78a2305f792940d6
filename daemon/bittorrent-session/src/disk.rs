//! The threads that wait for disks, so that no task does.
//!
//! - *Writers* write blocks and their proofs. All writes of one torrent go to one writer: the
//!   kernel lets only one thread at a time write to a file, so more would only spin.
//! - *Readers* read blocks that are not in the page cache and hash lists.
//! - One *syncer* makes torrents durable, which can take seconds and must hold up nobody.
//!
//! All queues are bounded. Who submits never waits: reads need a permit for the memory of their
//! answer and there are fewer permits than places; the driver keeps back writes for which there
//! is no place.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bittorrent_engine::TorrentKey;
use bittorrent_protocol::merkle::HashRequest;
use bittorrent_protocol::{BlockIndex, FileIndex, MerkleHash, PieceIndex, PieceLayer};
use bittorrent_store::{ReuseSources, StoreError, TorrentStore};
use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::vitals::Vitals;

/// Places in the queue of one writer and of the syncer.
const QUEUE: usize = 256;

/// How often a writer without work says that it lives.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// The least a read may be charged for, so that their number is bounded too.
pub(crate) const MIN_READ_CHARGE: u32 = 16 * 1024;

/// Something the disk was to do went wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    #[error("the store failed")]
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

/// What to look for in held generations.
#[derive(Debug)]
pub(crate) struct LookUp {
    pub(crate) piece: PieceIndex,
    pub(crate) sought: Sought,
}

/// By what something is looked for.
#[derive(Debug)]
pub(crate) enum Sought {
    /// The whole piece, by its hash.
    Piece,
    /// Its blocks, by the proven leaf hashes of all of them.
    Blocks(Vec<MerkleHash>),
    /// Leaf hashes alone, by proven nodes above them.
    Leaves(Vec<MerkleHash>),
}

#[derive(Debug)]
pub(crate) enum Work {
    /// Write blocks; the permit stands for their memory.
    Write(Vec<(BlockIndex, Bytes)>, Option<OwnedSemaphorePermit>),
    /// Keep leaf hashes of written blocks and count the blocks as verified.
    Prove(Vec<Proof>),
    /// Count blocks as missing again.
    Revoke(Vec<BlockIndex>),
    /// Take what is held of a piece to its place.
    LookUp(Arc<ReuseSources>, LookUp),
    /// Keep a file's piece layer.
    Layer(FileIndex, Arc<PieceLayer>),
    /// Make everything durable.
    Checkpoint,
    /// Make everything durable and seal the files.
    Finish,
}

#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) torrent: TorrentKey,
    pub(crate) store: Arc<TorrentStore>,
    pub(crate) work: Work,
}

/// What came of a [`Job`].
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) torrent: TorrentKey,
    pub(crate) outcome: Outcome,
}

#[derive(Debug)]
pub(crate) enum Outcome {
    /// These blocks were written, or not all of them were.
    Written(Vec<BlockIndex>, Result<(), DiskError>),
    /// The proofs of these pieces were kept.
    Proven(Vec<PieceIndex>, Result<(), DiskError>),
    Revoked(Result<(), DiskError>),
    /// These blocks of the piece stand at their places now.
    LookedUp(PieceIndex, Result<Vec<(BlockIndex, MerkleHash)>, DiskError>),
    /// These leaf hashes are held of what stood at the piece's place before.
    Recalled(PieceIndex, Result<Vec<(BlockIndex, MerkleHash)>, DiskError>),
    Layer(FileIndex, Result<(), DiskError>),
    Checkpoint(Result<(), DiskError>),
    Finish(Result<(), DiskError>),
}

/// A stretch of a piece that a peer asked for; known to be inside the piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) piece: PieceIndex,
    pub(crate) begin: u32,
    pub(crate) length: u32,
}

#[derive(Debug)]
pub(crate) enum Read {
    /// Read stretches of pieces, zeros past the end of the file. The numbers are the asker's.
    Stretches(Vec<(u64, Stretch)>),
    /// Answer a hash request.
    Hashes(HashRequest),
}

#[derive(Debug)]
pub(crate) enum Answer {
    /// In the order asked.
    Stretches(Stretches),
    /// `None`: the request is to be rejected.
    Hashes(HashRequest, Result<Option<Vec<MerkleHash>>, DiskError>),
}

/// The bytes of stretches by their numbers, or the numbers of all of them and what went wrong.
pub(crate) type Stretches = Result<Vec<(u64, Bytes)>, (Vec<u64>, DiskError)>;

/// An answer, with the permit for the memory it takes.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) answer: Answer,
    pub(crate) permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct ReadJob {
    store: Arc<TorrentStore>,
    read: Read,
    permit: OwnedSemaphorePermit,
    reply: mpsc::Sender<Answered>,
}

/// The way to the readers.
#[derive(Debug, Clone)]
pub(crate) struct Readers {
    queue: Sender<ReadJob>,
    permits: Arc<Semaphore>,
}

impl Readers {
    /// Permits for the bytes of answers, of which each read needs at least [`MIN_READ_CHARGE`].
    pub(crate) fn permits(&self) -> &Arc<Semaphore> {
        &self.permits
    }

    /// Has something read. `reply` must have a place free; nothing comes when the session ends.
    pub(crate) fn submit(
        &self,
        store: Arc<TorrentStore>,
        read: Read,
        permit: OwnedSemaphorePermit,
        reply: mpsc::Sender<Answered>,
    ) {
        let job = ReadJob {
            store,
            read,
            permit,
            reply,
        };
        // There are as many places as permits; only the end of the session makes this fail.
        let _ = self.queue.try_send(job);
    }
}

/// The driver's hold on the threads: dropping it lets them finish their queues and end.
#[derive(Debug)]
pub(crate) struct Disks {
    writers: Vec<Sender<Job>>,
    syncer: Sender<Job>,
    next_writer: usize,
}

/// The threads, to be joined after [`Disks`] and all [`Readers`] are gone.
#[derive(Debug)]
pub(crate) struct DiskThreads(Vec<thread::JoinHandle<()>>);

impl DiskThreads {
    /// Waits for all to end: blocks. Says how many there were.
    pub(crate) fn join(self) -> usize {
        let count = self.0.len();
        for thread in self.0 {
            // Jobs catch panics, so this cannot fail, and there is nobody left to tell.
            let _ = thread.join();
        }
        count
    }
}

/// Names the writer a torrent belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WriterId(usize);

/// Starts `threads` writers, `threads` readers and the syncer. `read_buffer` bounds the bytes of
/// answers to reads; `done` tells the driver what came of its jobs and is always emptied. The writers
/// are those of `vitals`.
pub(crate) fn start(
    threads: usize,
    read_buffer: usize,
    done: &mpsc::Sender<Done>,
    vitals: &Vitals,
) -> std::io::Result<(Disks, Readers, DiskThreads)> {
    let threads = threads.max(1);
    let mut handles = Vec::new();
    let mut spawn = |name: String, body: Box<dyn FnOnce() + Send>| {
        handles.push(thread::Builder::new().name(name).spawn(body)?);
        Ok::<_, std::io::Error>(())
    };
    let mut writers = Vec::new();
    for n in 0..threads {
        let (queue, jobs) = bounded(QUEUE);
        writers.push(queue);
        let (done, vitals) = (done.clone(), vitals.clone());
        spawn(
            format!("bt-write-{n}"),
            Box::new(move || write_loop(&jobs, &done, || vitals.writer_lives(n))),
        )?;
    }
    let (syncer, jobs) = bounded(QUEUE);
    let synced = done.clone();
    spawn(
        "bt-sync".to_owned(),
        // Making much durable may take minutes and holds up nobody: not watched.
        Box::new(move || write_loop(&jobs, &synced, || ())),
    )?;
    let read_buffer = read_buffer.clamp(256 << 10, Semaphore::MAX_PERMITS);
    let (queue, jobs) = bounded(read_buffer / MIN_READ_CHARGE as usize + 1);
    for n in 0..threads {
        let jobs = jobs.clone();
        spawn(format!("bt-read-{n}"), Box::new(move || read_loop(&jobs)))?;
    }
    let disks = Disks {
        writers,
        syncer,
        next_writer: 0,
    };
    let readers = Readers {
        queue,
        permits: Arc::new(Semaphore::new(read_buffer)),
    };
    Ok((disks, readers, DiskThreads(handles)))
}

impl Disks {
    /// Chooses a writer for a new torrent.
    pub(crate) fn assign(&mut self) -> WriterId {
        self.next_writer = (self.next_writer + 1) % self.writers.len();
        WriterId(self.next_writer)
    }

    /// Whether the writer takes another job. Only the driver submits, so the answer stays true
    /// until it does.
    pub(crate) fn has_place(&self, writer: WriterId) -> bool {
        !self.writers[writer.0].is_full()
    }

    /// The same of the syncer.
    pub(crate) fn has_sync_place(&self) -> bool {
        !self.syncer.is_full()
    }

    /// Submits a job for which there is a place.
    pub(crate) fn submit(&self, writer: WriterId, job: Job) {
        let queue = match job.work {
            Work::Checkpoint | Work::Finish => &self.syncer,
            Work::Write(..)
            | Work::Prove(_)
            | Work::Revoke(_)
            | Work::LookUp(..)
            | Work::Layer(..) => &self.writers[writer.0],
        };
        // The threads end only after this end of the queue is dropped.
        let sent = queue.try_send(job);
        debug_assert!(sent.is_ok(), "no place, or no thread");
    }
}

/// Runs `work` and turns both kinds of failure into one.
fn guarded<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, DiskError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(DiskError::Store),
        Err(_) => Err(DiskError::Panicked),
    }
}

fn write_loop(jobs: &Receiver<Job>, done: &mpsc::Sender<Done>, lives: impl Fn()) {
    loop {
        lives();
        let Job {
            torrent,
            store,
            work,
        } = match jobs.recv_timeout(SIGN_OF_LIFE) {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let outcome = match work {
            Work::Write(blocks, permit) => {
                let result = guarded(|| store.write_blocks(&blocks));
                let written = blocks.into_iter().map(|(block, _)| block).collect();
                drop(permit);
                Outcome::Written(written, result)
            }
            Work::Prove(proofs) => {
                let result = guarded(|| {
                    proofs.iter().try_for_each(|proof| {
                        store.mark_verified(proof.piece, proof.first_block, &proof.leaves)
                    })
                });
                let pieces = proofs.iter().map(|proof| proof.piece).collect();
                Outcome::Proven(pieces, result)
            }
            Work::Revoke(blocks) => Outcome::Revoked(guarded(|| store.unverify(&blocks))),
            Work::LookUp(sources, LookUp { piece, sought }) => match sought {
                Sought::Piece => {
                    Outcome::LookedUp(piece, guarded(|| store.adopt(&sources, piece, None)))
                }
                Sought::Blocks(leaves) => {
                    let found = guarded(|| store.adopt(&sources, piece, Some(&leaves)));
                    Outcome::LookedUp(piece, found)
                }
                Sought::Leaves(nodes) => {
                    Outcome::Recalled(piece, guarded(|| Ok(store.recall(&sources, piece, &nodes))))
                }
            },
            Work::Layer(file, layer) => {
                Outcome::Layer(file, guarded(|| store.set_layer(file, layer)))
            }
            Work::Checkpoint => Outcome::Checkpoint(guarded(|| store.checkpoint().map(|_| ()))),
            Work::Finish => Outcome::Finish(guarded(|| store.finish())),
        };
        // The driver may be gone only when the session was dropped; what is queued is then
        // still done, and nobody wants to know.
        let _ = done.blocking_send(Done { torrent, outcome });
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
            Read::Stretches(stretches) => {
                let read = guarded(|| {
                    stretches
                        .iter()
                        .map(|(number, stretch)| Ok((*number, read_stretch(&store, *stretch)?)))
                        .collect()
                });
                Answer::Stretches(read.map_err(|error| {
                    (
                        stretches.into_iter().map(|(number, _)| number).collect(),
                        error,
                    )
                }))
            }
            Read::Hashes(request) => {
                let result = guarded(|| store.hashes(&request));
                Answer::Hashes(request, result)
            }
        };
        let _ = reply.try_send(Answered { answer, permit });
    }
}

fn read_stretch(store: &TorrentStore, stretch: Stretch) -> Result<Bytes, StoreError> {
    let mut bytes = vec![0; stretch.length as usize];
    store.read(stretch.piece, stretch.begin, &mut bytes)?;
    Ok(bytes.into())
}
