//! Serving a peer's requests. Blocks leave in the order they were asked for: those in the page
//! cache straight from there to the socket, others and those that reach into padding through a
//! buffer that a disk thread fills.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use bittorrent_protocol::wire::{PIECE_HEADER_LEN, Request, piece_header};
use bittorrent_store::Extent;
use bytes::{Buf as _, Bytes};
use rustix::net::SendFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::residency::Probe;
use crate::content::Attached;
use crate::disk::{DiskError, MIN_READ_CHARGE, Stretch, Stretches};

/// Blocks in one order to a disk thread.
const READ_AT_ONCE: usize = 16;

/// Orders to disk threads under way for one peer: while one is sent, the next is read.
const READS_UNDER_WAY: usize = 2;

/// Blocks sent before the connection looks at its other work.
const SENT_AT_ONCE: usize = 32;

/// A request that was taken on.
#[derive(Debug)]
struct Entry {
    serial: u64,
    request: Request,
    stretch: Stretch,
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
    /// It was read; the permit stands for its memory.
    Read(Bytes, OwnedSemaphorePermit),
}

/// The block that is being sent; nothing else may be sent in between.
#[derive(Debug)]
struct Sending {
    header: [u8; PIECE_HEADER_LEN],
    header_sent: usize,
    length: u32,
    payload: Payload,
}

#[derive(Debug)]
enum Payload {
    File {
        extent: Extent,
        sent: u32,
    },
    Memory {
        bytes: Bytes,
        /// Held until the bytes are sent.
        _permit: OwnedSemaphorePermit,
    },
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
    sending: Option<Sending>,
    reads: usize,
    probe: Probe,
    corked: bool,
    /// Payload bytes sent and not yet reported.
    unreported: u64,
}

impl Uploads {
    /// `limit` bounds the requests that may wait.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            limit,
            next_serial: 0,
            sending: None,
            reads: 0,
            probe: Probe::default(),
            corked: false,
            unreported: 0,
        }
    }

    /// Takes a request on, unless it is one we cannot serve or the queue is full.
    pub(super) fn accept(&mut self, request: Request, content: &Attached) -> bool {
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
            stretch: Stretch {
                piece,
                begin: request.begin,
                length: request.length,
            },
            state: State::Waiting,
        });
        self.next_serial += 1;
        true
    }

    /// Forgets a request, if it still waits.
    pub(super) fn cancel(&mut self, request: Request) -> bool {
        let found = self.queue.iter().position(|entry| entry.request == request);
        found.and_then(|at| self.queue.remove(at)).is_some()
    }

    /// Forgets all requests that wait and gives them back, to be rejected.
    pub(super) fn clear(&mut self) -> impl Iterator<Item = Request> + use<> {
        std::mem::take(&mut self.queue)
            .into_iter()
            .map(|entry| entry.request)
    }

    /// Whether a block is half sent, so that nothing else may be.
    pub(super) const fn is_mid_block(&self) -> bool {
        self.sending.is_some()
    }

    /// Whether there is something that a ready socket would take.
    pub(super) fn is_sendable(&self) -> bool {
        self.sending.is_some()
            || self
                .queue
                .front()
                .is_some_and(|entry| matches!(entry.state, State::Waiting | State::Read(..)))
    }

    /// Payload bytes sent since the last call.
    pub(super) fn take_unreported(&mut self) -> u64 {
        std::mem::take(&mut self.unreported)
    }

    /// Payload bytes sent and not yet taken.
    pub(super) const fn unreported(&self) -> u64 {
        self.unreported
    }

    /// The next order for a disk thread, as the memory it needs; `None` when nothing is cold or
    /// enough is under way.
    pub(super) fn next_read(&mut self, content: &Attached) -> Option<u32> {
        if self.reads >= READS_UNDER_WAY {
            return None;
        }
        if self.reads > 0 {
            self.look_ahead(content);
        }
        let cold = self.cold_run();
        (!cold.is_empty()).then(|| {
            cold.iter()
                .map(|at| self.queue[*at].stretch.length.max(MIN_READ_CHARGE))
                .sum()
        })
    }

    /// Finds out whether what follows the blocks being read is cold too.
    fn look_ahead(&mut self, content: &Attached) {
        let next = self
            .queue
            .iter_mut()
            .find(|entry| !matches!(entry.state, State::Read(..) | State::Reading));
        if let Some(entry) = next
            && matches!(entry.state, State::Waiting)
            && extent_at_hand(&mut self.probe, content, entry.stretch).is_none()
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
            .position(|entry| !matches!(entry.state, State::Read(..) | State::Reading))
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
    pub(super) fn start_read(&mut self, permit: &OwnedSemaphorePermit) -> Vec<(u64, Stretch)> {
        let mut room = permit.num_permits();
        let mut order = Vec::new();
        for at in self.cold_run() {
            let entry = &mut self.queue[at];
            let Some(left) = room.checked_sub(entry.stretch.length.max(MIN_READ_CHARGE) as usize)
            else {
                break;
            };
            room = left;
            entry.state = State::Reading;
            order.push((entry.serial, entry.stretch));
        }
        self.reads += usize::from(!order.is_empty());
        order
    }

    /// Takes the answer to an order. Requests cancelled in the meantime are passed over. After a
    /// failure the requests of the order are forgotten and given back.
    pub(super) fn finish_read(
        &mut self,
        answer: Stretches,
        mut permit: OwnedSemaphorePermit,
    ) -> Result<(), (Vec<Request>, DiskError)> {
        self.reads = self.reads.saturating_sub(1);
        let blocks = match answer {
            Ok(blocks) => blocks,
            Err((serials, error)) => {
                let mut lost = Vec::new();
                self.queue.retain(|entry| {
                    let keep = serials.binary_search(&entry.serial).is_err();
                    if !keep {
                        lost.push(entry.request);
                    }
                    keep
                });
                return Err((lost, error));
            }
        };
        for (serial, bytes) in blocks {
            let charge = bytes.len().max(MIN_READ_CHARGE as usize);
            if let Ok(at) = self.queue.binary_search_by_key(&serial, |e| e.serial)
                && let Some(share) = permit.split(charge)
            {
                self.queue[at].state = State::Read(bytes, share);
            }
        }
        Ok(())
    }

    /// Sends as much as the socket takes, but not for long.
    pub(super) fn serve(
        &mut self,
        stream: &TcpStream,
        content: Option<&Arc<Attached>>,
    ) -> io::Result<Progress> {
        if self.sending.is_none() && self.queue.is_empty() && !self.corked {
            return Ok(Progress::Idle);
        }
        if !self.corked && self.queue.len() > 1 {
            // Headers and payloads of many blocks share segments.
            rustix::net::sockopt::set_tcp_cork(stream, true)?;
            self.corked = true;
        }
        let mut progress = Progress::More;
        for _ in 0..SENT_AT_ONCE {
            if self.sending.is_none() {
                progress = match content {
                    Some(content) => self.begin(content),
                    None => Progress::Idle,
                };
            }
            let Some(sending) = &mut self.sending else {
                break;
            };
            match sending.send(stream) {
                Ok(()) => {
                    self.unreported += u64::from(sending.length);
                    self.sending = None;
                    progress = Progress::More;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Progress::Blocked);
                }
                Err(error) => return Err(error),
            }
        }
        if self.corked && matches!(progress, Progress::Idle | Progress::Cold) {
            self.corked = false;
            rustix::net::sockopt::set_tcp_cork(stream, false)?;
        }
        Ok(progress)
    }

    /// Begins with the next block, if it is at hand.
    fn begin(&mut self, content: &Attached) -> Progress {
        let Some(front) = self.queue.front_mut() else {
            return Progress::Idle;
        };
        let stretch = front.stretch;
        let payload = match std::mem::replace(&mut front.state, State::Cold) {
            State::Waiting => match extent_at_hand(&mut self.probe, content, stretch) {
                Some(extent) => Payload::File { extent, sent: 0 },
                None => return Progress::Cold,
            },
            State::Read(bytes, permit) => Payload::Memory {
                bytes,
                _permit: permit,
            },
            State::Reading => {
                front.state = State::Reading;
                return Progress::Cold;
            }
            State::Cold => return Progress::Cold,
        };
        self.queue.pop_front();
        self.sending = Some(Sending {
            header: piece_header(stretch.piece.get(), stretch.begin, stretch.length),
            header_sent: 0,
            length: stretch.length,
            payload,
        });
        Progress::More
    }
}

/// Where a stretch lies, if it can be sent from there: no padding, and in the page cache.
fn extent_at_hand(probe: &mut Probe, content: &Attached, stretch: Stretch) -> Option<Extent> {
    let extent = content
        .store()
        .extent(stretch.piece, stretch.begin, stretch.length)?;
    let whole = extent.zeros == 0;
    (whole && probe.resident(extent.file.as_fd(), extent.offset, extent.content)).then_some(extent)
}

impl Sending {
    /// Sends what is left of the block. `WouldBlock` when the socket takes no more for now.
    fn send(&mut self, stream: &TcpStream) -> io::Result<()> {
        while let Some(rest) = self.header.get(self.header_sent..)
            && !rest.is_empty()
        {
            self.header_sent += stream.try_io(Interest::WRITABLE, || {
                let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
                Ok(rustix::net::send(stream, rest, flags)?)
            })?;
        }
        match &mut self.payload {
            Payload::File { extent, sent } => {
                while *sent < extent.content {
                    let mut offset = extent.offset + u64::from(*sent);
                    let left = (extent.content - *sent) as usize;
                    let now = stream.try_io(Interest::WRITABLE, || {
                        let file = extent.file.as_fd();
                        Ok(rustix::fs::sendfile(stream, file, Some(&mut offset), left)?)
                    })?;
                    if now == 0 {
                        // The file is shorter than it was: somebody cut it.
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    *sent += now as u32;
                }
            }
            Payload::Memory { bytes, .. } => {
                while !bytes.is_empty() {
                    let now = stream.try_io(Interest::WRITABLE, || {
                        Ok(rustix::net::send(stream, bytes, SendFlags::NOSIGNAL)?)
                    })?;
                    bytes.advance(now);
                }
            }
        }
        Ok(())
    }
}
