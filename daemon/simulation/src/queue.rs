//! The queue of events of a world.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::Duration;

use bittorrent_engine::{DialFailure, PeerEvent};
use bittorrent_protocol::{BlockIndex, PieceIndex};

/// An event of a node, or of one end of a connection.
#[derive(Debug)]
pub(crate) enum SimEvent {
    /// The node's engine wanted to be called.
    Timeout { node: usize },
    /// A dial reaches a node.
    Dialled { from: Life, to: usize },
    /// A dial failed.
    DialFailed {
        of: Life,
        addr: SocketAddr,
        failure: DialFailure,
    },
    /// A message.
    Event { end: usize, event: Box<PeerEvent> },
    /// The far end has these pieces.
    Haves { end: usize, pieces: Vec<PieceIndex> },
    /// The far end asks for these blocks.
    Asked { end: usize, blocks: Vec<BlockIndex> },
    /// The far end does not want these blocks any more.
    Unasked { end: usize, blocks: Vec<BlockIndex> },
    /// The far end will not send these blocks.
    Rejected { end: usize, blocks: Vec<BlockIndex> },
    /// The node's line has taken these blocks.
    Sent {
        of: Life,
        end: usize,
        blocks: Vec<BlockIndex>,
    },
    /// Blocks wait for the receiver's line.
    Arrived { end: usize, blocks: Vec<BlockIndex> },
    /// Blocks are through the receiver's line.
    Received { end: usize, blocks: Vec<BlockIndex> },
    /// Blocks are on the disk.
    Written { of: Life, blocks: Vec<BlockIndex> },
    /// The far end is closed.
    Closed { end: usize },
    /// A node starts, for the first time or again.
    Starts { node: usize },
    /// A node goes away.
    Leaves { of: Life },
}

/// A node from a start to its end: events for a former life are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) node: usize,
    pub(crate) number: u32,
}

/// Events in the order of time; those at one time in the order they were put in.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    order: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    events: Vec<Option<SimEvent>>,
    free: Vec<usize>,
    put: u64,
}

impl Queue {
    pub(crate) fn put(&mut self, at: Duration, event: SimEvent) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.events[slot] = Some(event);
                slot
            }
            None => {
                self.events.push(Some(event));
                self.events.len() - 1
            }
        };
        self.put += 1;
        self.order.push(Reverse((at, self.put, slot)));
    }

    /// Returns the next event, if it is due by `end`.
    pub(crate) fn take(&mut self, end: Duration) -> Option<(Duration, SimEvent)> {
        if self.order.peek()?.0.0 > end {
            return None;
        }
        let Reverse((at, _, slot)) = self.order.pop()?;
        self.free.push(slot);
        Some((at, self.events[slot].take()?))
    }
}
