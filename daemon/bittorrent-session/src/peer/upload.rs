//! Serving a peer's requests. Blocks leave in the order they were asked for. Those in the page
//! cache are read into a buffer of the network thread, as many as lie side by side, and leave it
//! at once: what the socket does not take is read again later, so slow peers hold no memory.
//! Others, and those that reach into padding, are read by a disk thread.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use bittorrent_protocol::wire::{PIECE_HEADER_LEN, Request, piece_header};
use bittorrent_protocol::{BLOCK_LEN, FileIndex, Layout};
use bittorrent_store::{PAGE, page_aligned};
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::resident::ResidentReader;
use crate::disk::content::StoredContent;
use crate::disk::{BlockRange, DiskError, MIN_READ_CHARGE, RangesRead};
use crate::transport::stream::PeerStream;

/// Blocks in one order to a disk thread.
const READ_AT_ONCE: usize = 16;

/// Orders to disk threads under way for one peer: while one is sent, the next is read.
const READS_UNDER_WAY: usize = 2;

/// Blocks in one system call. 512 KiB stay in the processor's cache on their way through.
const SENT_AT_ONCE: usize = 32;

/// System calls before the connection looks at its other work.
const SENDS_AT_ONCE: usize = 2;

/// Blocks read for a socket of which it is not known how much it takes.
const FIRST_BATCH: usize = 4;

/// How far into a page the first payload is read: nearer to its start it is slow, see
/// [`page_aligned`]. Each further payload stands 13 bytes further on.
const LEAD: usize = 64;

thread_local! {
    /// Where blocks lie between page cache and socket; nothing in it outlives one call.
    static PASSAGE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A request that was taken on.
#[derive(Debug)]
struct Entry {
    serial: u64,
    request: Request,
    range: BlockRange,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing was done yet.
    Waiting,
    /// Found outside the page cache, or with padding: to be read by a disk thread.
    Cold,
    /// A disk thread reads it.
    Reading,
    /// It was read.
    Read {
        bytes: Bytes,
        /// Held until the bytes are sent.
        _permit: OwnedSemaphorePermit,
    },
}

impl Entry {
    fn header(&self) -> [u8; PIECE_HEADER_LEN] {
        let BlockRange {
            piece,
            begin,
            length,
        } = self.range;
        piece_header(piece.get(), begin, length)
    }

    /// Bytes of the message that answers it.
    const fn message_len(&self) -> usize {
        PIECE_HEADER_LEN + self.range.length as usize
    }

    fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting)
    }
}

/// A disk thread could not read what it was to.
pub(super) struct Unread {
    /// The requests that cannot be answered.
    pub(super) lost: Vec<Request>,
    /// A part of the answer to the first of them was sent: no message can follow it.
    pub(super) torn: bool,
    pub(super) error: DiskError,
}

/// What came of one attempt to send.
enum Sent {
    /// The socket took all of it.
    All,
    /// The socket takes no more.
    Blocked,
    /// It is not in memory.
    Missing,
}

/// Where serving stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing left to send.
    Idle,
    /// The socket takes no more.
    Blocked,
    /// There is more, and the socket takes it; look after other work first.
    More,
    /// The next block is not in memory: see [`Uploads::next_read`].
    Cold,
}

/// The requests of one peer.
#[derive(Debug)]
pub(super) struct Uploads {
    queue: VecDeque<Entry>,
    limit: usize,
    next_serial: u64,
    /// Bytes of the answer to the first request that were sent; nothing else may be sent in between.
    begun: usize,
    reads: usize,
    resident: ResidentReader,
    /// Blocks to read for the next system call: about what the last one took.
    batch: usize,
    /// Payload bytes sent and not yet reported.
    unreported: u64,
    /// Bytes sent and not yet counted against a limit.
    sent: usize,
}

impl Uploads {
    /// `limit` bounds the requests that may wait.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            limit,
            next_serial: 0,
            begun: 0,
            reads: 0,
            resident: ResidentReader::default(),
            batch: FIRST_BATCH,
            unreported: 0,
            sent: 0,
        }
    }

    /// Takes a request on, unless it is one we cannot serve or the queue is full.
    pub(super) fn accept(&mut self, request: Request, content: &StoredContent) -> bool {
        let Some(piece) = request.servable(content.layout()) else {
            return false;
        };
        let held = content
            .store()
            .is_range_verified(piece, request.begin, request.length);
        if !held || self.queue.len() >= self.limit {
            return false;
        }
        self.queue.push_back(Entry {
            serial: self.next_serial,
            request,
            range: BlockRange {
                piece,
                begin: request.begin,
                length: request.length,
            },
            state: State::Waiting,
        });
        self.next_serial += 1;
        true
    }

    /// Whether no request waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Forgets a request, if it still waits.
    pub(super) fn cancel(&mut self, request: Request) -> bool {
        let from = usize::from(self.is_mid_block());
        let found = self
            .queue
            .iter()
            .skip(from)
            .position(|entry| entry.request == request);
        found.and_then(|at| self.queue.remove(from + at)).is_some()
    }

    /// Forgets all requests that wait and gives them back, to be rejected.
    pub(super) fn clear(&mut self) -> impl Iterator<Item = Request> + use<> {
        let kept = usize::from(self.is_mid_block());
        self.queue
            .split_off(kept)
            .into_iter()
            .map(|entry| entry.request)
    }

    /// Whether a block is half sent, so that nothing else may be.
    pub(super) const fn is_mid_block(&self) -> bool {
        self.begun > 0
    }

    /// Bytes of a half sent block that are still to come.
    pub(super) fn left_of_block(&self) -> usize {
        let begun = self.queue.front().filter(|_| self.is_mid_block());
        begun.map_or(0, |entry| entry.message_len() - self.begun)
    }

    /// Whether there is something that a ready socket would take.
    pub(super) fn is_sendable(&self) -> bool {
        self.queue
            .front()
            .is_some_and(|entry| matches!(entry.state, State::Waiting | State::Read { .. }))
    }

    /// Payload bytes sent since the last call.
    pub(super) fn take_unreported(&mut self) -> u64 {
        std::mem::take(&mut self.unreported)
    }

    /// Bytes sent since the last call, headers included.
    pub(super) fn take_sent(&mut self) -> usize {
        std::mem::take(&mut self.sent)
    }

    /// Payload bytes sent and not yet taken.
    pub(super) const fn unreported(&self) -> u64 {
        self.unreported
    }

    /// The next order for a disk thread, as the memory it needs; `None` when nothing is cold or
    /// enough is under way.
    pub(super) fn next_read(&mut self, content: &StoredContent) -> Option<u32> {
        if self.reads >= READS_UNDER_WAY {
            return None;
        }
        if self.reads > 0 {
            self.look_ahead(content);
        }
        let cold = self.cold_run();
        (!cold.is_empty()).then(|| {
            cold.iter()
                .map(|at| self.queue[*at].range.length.max(MIN_READ_CHARGE))
                .sum()
        })
    }

    /// Finds out whether what follows the blocks being read is cold too.
    fn look_ahead(&mut self, content: &StoredContent) {
        let next = self
            .queue
            .iter_mut()
            .find(|entry| !matches!(entry.state, State::Read { .. } | State::Reading));
        if let Some(entry) = next
            && entry.is_waiting()
            && !is_resident(&mut self.resident, content, entry.range)
        {
            entry.state = State::Cold;
        }
    }

    /// Places in the queue of what the next order takes: what is known to be cold, and what
    /// comes right after it, which most likely is as well.
    fn cold_run(&self) -> Vec<usize> {
        let Some(first) = self
            .queue
            .iter()
            .position(|entry| !matches!(entry.state, State::Read { .. } | State::Reading))
            .filter(|first| matches!(self.queue[*first].state, State::Cold))
        else {
            return Vec::new();
        };
        self.queue
            .iter()
            .enumerate()
            .skip(first)
            .take_while(|(_, entry)| matches!(entry.state, State::Cold | State::Waiting))
            .take(READ_AT_ONCE)
            .map(|(at, _)| at)
            .collect()
    }

    /// Makes out the order that `permit` was got for. What does not fit it is left for later.
    pub(super) fn start_read(&mut self, permit: &OwnedSemaphorePermit) -> Vec<(u64, BlockRange)> {
        let mut room = permit.num_permits();
        let mut order = Vec::new();
        for at in self.cold_run() {
            let entry = &mut self.queue[at];
            let Some(left) = room.checked_sub(entry.range.length.max(MIN_READ_CHARGE) as usize)
            else {
                break;
            };
            room = left;
            entry.state = State::Reading;
            order.push((entry.serial, entry.range));
        }
        self.reads += usize::from(!order.is_empty());
        order
    }

    /// Takes the answer to an order. Requests cancelled in the meantime are passed over. After a
    /// failure the requests of the order are forgotten and given back.
    pub(super) fn finish_read(
        &mut self,
        answer: RangesRead,
        mut permit: OwnedSemaphorePermit,
    ) -> Result<(), Unread> {
        self.reads = self.reads.saturating_sub(1);
        let blocks = match answer {
            Ok(blocks) => blocks,
            Err((serials, error)) => {
                let mut lost = Vec::new();
                let first = self.queue.front().map(|entry| entry.serial);
                let torn = self.is_mid_block()
                    && first.is_some_and(|first| serials.binary_search(&first).is_ok());
                self.queue.retain(|entry| {
                    let keep = serials.binary_search(&entry.serial).is_err();
                    if !keep {
                        lost.push(entry.request);
                    }
                    keep
                });
                return Err(Unread { lost, torn, error });
            }
        };
        for (serial, bytes) in blocks {
            let charge = bytes.len().max(MIN_READ_CHARGE as usize);
            if let Ok(at) = self.queue.binary_search_by_key(&serial, |e| e.serial)
                && let Some(share) = permit.split(charge)
            {
                self.queue[at].state = State::Read {
                    bytes,
                    _permit: share,
                };
            }
        }
        Ok(())
    }

    /// Sends as much as the socket takes, but not for long, and at most so many bytes.
    pub(super) fn serve(
        &mut self,
        stream: &mut PeerStream,
        content: Option<&Arc<StoredContent>>,
        most: usize,
    ) -> io::Result<Progress> {
        let Some(content) = content else {
            return Ok(Progress::Idle);
        };
        self.sent = 0;
        for _ in 0..SENDS_AT_ONCE {
            let most = most.saturating_sub(self.sent);
            if most == 0 {
                return Ok(Progress::More);
            }
            let sent = match self.queue.front().map(|entry| &entry.state) {
                None => return Ok(Progress::Idle),
                Some(State::Waiting) => PASSAGE
                    .with_borrow_mut(|buffer| self.send_resident(stream, content, buffer, most))?,
                Some(State::Read { .. }) => self.send_read(stream, most)?,
                Some(State::Cold | State::Reading) => Sent::Missing,
            };
            match sent {
                Sent::All => {}
                Sent::Blocked => return Ok(Progress::Blocked),
                Sent::Missing => return Ok(Progress::Cold),
            }
        }
        Ok(if self.queue.is_empty() {
            Progress::Idle
        } else {
            Progress::More
        })
    }

    /// Sends from the front what lies side by side in a file, as far as it is in memory.
    fn send_resident(
        &mut self,
        stream: &mut PeerStream,
        content: &StoredContent,
        buffer: &mut Vec<u8>,
        most: usize,
    ) -> io::Result<Sent> {
        let run = self.run(content.layout(), most);
        buffer.resize(
            PAGE + LEAD + SENT_AT_ONCE * (PIECE_HEADER_LEN + BLOCK_LEN as usize),
            0,
        );
        let (_, buffer) = page_aligned(buffer).split_at_mut(LEAD - PIECE_HEADER_LEN);
        let mut targets = Vec::with_capacity(run);
        let mut rest = &mut *buffer;
        for entry in self.queue.iter().take(run) {
            let (header, more) = rest.split_at_mut(PIECE_HEADER_LEN);
            let (payload, more) = more.split_at_mut(entry.range.length as usize);
            header.copy_from_slice(&entry.header());
            targets.push(IoSliceMut::new(payload));
            rest = more;
        }
        let front = self.queue.front().filter(|_| run > 0);
        let extent = front.and_then(|front| {
            let BlockRange {
                piece,
                begin,
                length,
            } = front.range;
            content.store().extent(piece, begin, length)
        });
        let mut read = extent.map_or(0, |extent| {
            let file = extent.file.as_fd();
            self.resident.read(file, extent.offset, &mut targets)
        });
        let mut there = 0;
        for entry in self.queue.iter().take(run) {
            let Some(left) = read.checked_sub(entry.range.length as usize) else {
                break;
            };
            read = left;
            there += entry.message_len();
        }
        if there == 0 {
            if let Some(front) = self.queue.front_mut() {
                front.state = State::Cold;
            }
            return Ok(Sent::Missing);
        }
        let begun = self.begun;
        let there = there.min(begun.saturating_add(most));
        let mut bytes = buffer.get(begun..there).unwrap_or_default();
        let sent = loop {
            if bytes.is_empty() {
                break Sent::All;
            }
            match stream.try_send(bytes) {
                Ok(now) => bytes = bytes.get(now..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Sent::Blocked,
                Err(error) => return Err(error),
            }
        };
        let blocks = self.advance(there - begun - bytes.len());
        self.batch = match sent {
            Sent::All => (2 * self.batch).min(SENT_AT_ONCE),
            _ => (blocks + 1).min(SENT_AT_ONCE),
        };
        Ok(sent)
    }

    /// How many requests at the front can be answered with one read of a file, for at most so many
    /// bytes to be sent now.
    fn run(&self, layout: &Layout, most: usize) -> usize {
        let mut expected = None;
        self.queue
            .iter()
            .take(self.batch.min(most / BLOCK_LEN as usize + 2))
            .take_while(|entry| {
                let place = place(layout, entry.range).filter(|_| entry.is_waiting());
                let follows = place.is_some() && (expected.is_none() || expected == place);
                expected =
                    place.map(|(file, offset)| (file, offset + u64::from(entry.range.length)));
                follows
            })
            .count()
    }

    /// Sends from the front what disk threads have read.
    fn send_read(&mut self, stream: &mut PeerStream, most: usize) -> io::Result<Sent> {
        let end = self.sent.saturating_add(most);
        loop {
            // Counted from the start of the first message, of which a part may have gone.
            let mut room = (end - self.sent).saturating_add(self.begun);
            let mut headers = [[0; PIECE_HEADER_LEN]; READ_AT_ONCE];
            let mut slices = Vec::with_capacity(2 * READ_AT_ONCE);
            for (entry, header) in self.queue.iter().zip(&mut headers) {
                let State::Read { bytes, .. } = &entry.state else {
                    break;
                };
                *header = entry.header();
                let header: &[u8] = header;
                for part in [header, bytes] {
                    let part = part.get(..room).unwrap_or(part);
                    room -= part.len();
                    slices.push(IoSlice::new(part));
                }
            }
            if slices.is_empty() || end == self.sent {
                return Ok(Sent::All);
            }
            let mut rest = slices.as_mut_slice();
            IoSlice::advance_slices(&mut rest, self.begun);
            match stream.try_send_vectored(rest) {
                Ok(now) => {
                    self.advance(now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Sent::Blocked);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Counts bytes as sent; says how many blocks they completed.
    fn advance(&mut self, mut bytes: usize) -> usize {
        self.sent += bytes;
        let mut blocks = 0;
        while let Some(front) = self.queue.front() {
            let left = front.message_len() - self.begun;
            let Some(more) = bytes.checked_sub(left) else {
                break;
            };
            bytes = more;
            blocks += 1;
            self.unreported += u64::from(front.range.length);
            self.begun = 0;
            self.queue.pop_front();
        }
        self.begun += bytes;
        blocks
    }
}

/// Where a range lies, if all of it is in a file: no padding.
fn place(layout: &Layout, range: BlockRange) -> Option<(FileIndex, u64)> {
    let end = range.begin.checked_add(range.length)?;
    (end <= layout.piece_size(range.piece)).then(|| {
        let offset = layout.offset_in_file(range.piece) + u64::from(range.begin);
        (layout.file_of(range.piece), offset)
    })
}

/// Whether a range can be sent from memory.
fn is_resident(resident: &mut ResidentReader, content: &StoredContent, range: BlockRange) -> bool {
    let BlockRange {
        piece,
        begin,
        length,
    } = range;
    let extent = content.store().extent(piece, begin, length);
    extent
        .filter(|extent| extent.zeros == 0)
        .is_some_and(|extent| {
            let mut bytes = [0; BLOCK_LEN as usize];
            let (bytes, _) = bytes.split_at_mut(length as usize);
            let mut targets = [IoSliceMut::new(bytes)];
            let file = extent.file.as_fd();
            resident.read(file, extent.offset, &mut targets) == length as usize
        })
}
