//! Serves a peer's requests. Blocks are sent in the order of the requests. Adjacent blocks in the
//! page cache are read into a buffer of the network thread and sent at once. What the socket does
//! not take is read again later, so slow peers use no memory. Other blocks, and those that reach
//! into padding, are read by a disk thread.

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

/// Blocks in one read of a disk thread.
const READ_AT_ONCE: usize = 16;

/// Reads of disk threads for one peer at a time: while one is sent, the next is read.
const READS_UNDER_WAY: usize = 2;

/// Blocks in one system call. 512 KiB stay in the processor's cache on their way through.
const SENT_AT_ONCE: usize = 32;

/// System calls before the connection does its other work.
const SENDS_AT_ONCE: usize = 2;

/// Blocks in the first read for a socket, before it is known how much the socket takes.
const FIRST_BATCH: usize = 4;

/// Offset of the first payload in a page: copies to lower offsets are slow, see [`page_aligned`].
/// Each further payload is 13 bytes further on.
const LEAD: usize = 64;

thread_local! {
    /// The buffer between page cache and socket; nothing in it outlives one call.
    static PASSAGE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// An accepted request.
#[derive(Debug)]
struct Entry {
    serial: u64,
    request: Request,
    range: BlockRange,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Not started.
    Waiting,
    /// Not in the page cache, or with padding: a disk thread must read it.
    Cold,
    /// A disk thread reads it.
    Reading,
    /// A disk thread has read it.
    Read {
        bytes: Bytes,
        /// Released when the bytes are sent.
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

    /// Returns the length of the message that answers it.
    const fn message_len(&self) -> usize {
        PIECE_HEADER_LEN + self.range.length as usize
    }

    fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting)
    }
}

/// A read of a disk thread failed.
pub(super) struct Unread {
    /// The requests that cannot be answered.
    pub(super) lost: Vec<Request>,
    /// A part of the answer to the first of them was sent: no message can follow it.
    pub(super) torn: bool,
    pub(super) error: DiskError,
}

/// The result of one attempt to send.
enum Sent {
    /// The socket took all of it.
    All,
    /// The socket takes no more.
    Blocked,
    /// The block is not in memory.
    Missing,
}

/// What a call of [`Uploads::serve`] left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing left to send.
    Idle,
    /// The socket takes no more.
    Blocked,
    /// The socket would take more; the caller does other work first.
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
    /// Bytes sent of the answer to the first request. Nothing else may be sent in between.
    begun: usize,
    reads: usize,
    resident: ResidentReader,
    /// Blocks to read for the next system call: about as many as the last one took.
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

    /// Accepts a request, unless it cannot be served or the queue is full.
    pub(super) fn accept(&mut self, request: Request, content: &StoredContent) -> bool {
        let Some(piece) = request.servable(content.layout()) else {
            return false;
        };
        let is_verified = content
            .store()
            .is_range_verified(piece, request.begin, request.length);
        if !is_verified || self.queue.len() >= self.limit {
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

    /// Returns whether no request waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Removes a request, if it still waits.
    pub(super) fn cancel(&mut self, request: Request) -> bool {
        let from = usize::from(self.is_mid_block());
        let found = self
            .queue
            .iter()
            .skip(from)
            .position(|entry| entry.request == request);
        found.and_then(|at| self.queue.remove(from + at)).is_some()
    }

    /// Removes all waiting requests and returns them, to be rejected.
    pub(super) fn clear(&mut self) -> impl Iterator<Item = Request> + use<> {
        let kept = usize::from(self.is_mid_block());
        self.queue
            .split_off(kept)
            .into_iter()
            .map(|entry| entry.request)
    }

    /// Returns whether a block is partly sent, so that nothing else may be sent.
    pub(super) const fn is_mid_block(&self) -> bool {
        self.begun > 0
    }

    /// Returns how many bytes of a partly sent block remain.
    pub(super) fn left_of_block(&self) -> usize {
        let begun = self.queue.front().filter(|_| self.is_mid_block());
        begun.map_or(0, |entry| entry.message_len() - self.begun)
    }

    /// Returns whether there is something to send to a ready socket.
    pub(super) fn is_sendable(&self) -> bool {
        self.queue
            .front()
            .is_some_and(|entry| matches!(entry.state, State::Waiting | State::Read { .. }))
    }

    /// Returns the payload bytes sent since the last call.
    pub(super) fn take_unreported(&mut self) -> u64 {
        std::mem::take(&mut self.unreported)
    }

    /// Returns the bytes sent since the last call, headers included.
    pub(super) fn take_sent(&mut self) -> usize {
        std::mem::take(&mut self.sent)
    }

    /// Returns the payload bytes sent and not yet taken by [`Self::take_unreported`].
    pub(super) const fn unreported(&self) -> u64 {
        self.unreported
    }

    /// Returns the memory of the next read by a disk thread; `None` if no block is cold or enough
    /// reads are under way.
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

    /// Checks whether the block after those being read is cold too.
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

    /// Returns the queue positions of the next read: the block known to be cold, and the blocks
    /// right after it, which most likely are cold as well.
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

    /// Assembles the read for which `permit` was acquired. Blocks that do not fit are left for
    /// later.
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

    /// Takes the result of a read. Requests cancelled in the meantime are skipped. After a failure
    /// the requests of the read are removed and returned.
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

    /// Sends as much as the socket takes, in a few system calls, and at most `most` bytes.
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

    /// Sends adjacent blocks at the front of the queue, as far as they are in memory.
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

    /// Returns how many requests at the front can be answered with one read of a file, for at most
    /// `most` bytes to be sent now.
    fn run(&self, layout: &Layout, most: usize) -> usize {
        let mut expected = None;
        self.queue
            .iter()
            .take(self.batch.min(most / BLOCK_LEN as usize + 2))
            .take_while(|entry| {
                let location = location(layout, entry.range).filter(|_| entry.is_waiting());
                let follows = location.is_some() && (expected.is_none() || expected == location);
                expected =
                    location.map(|(file, offset)| (file, offset + u64::from(entry.range.length)));
                follows
            })
            .count()
    }

    /// Sends blocks at the front that disk threads have read.
    fn send_read(&mut self, stream: &mut PeerStream, most: usize) -> io::Result<Sent> {
        let end = self.sent.saturating_add(most);
        loop {
            // Counted from the start of the first message, which may be partly sent.
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

    /// Counts bytes as sent. Returns how many blocks they completed.
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

/// Returns the file and offset of a range, if all of it is in a file, without padding.
fn location(layout: &Layout, range: BlockRange) -> Option<(FileIndex, u64)> {
    let end = range.begin.checked_add(range.length)?;
    (end <= layout.piece_size(range.piece)).then(|| {
        let offset = layout.offset_in_file(range.piece) + u64::from(range.begin);
        (layout.file_of(range.piece), offset)
    })
}

/// Returns whether a range is in memory.
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
