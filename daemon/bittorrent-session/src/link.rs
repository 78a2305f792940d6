//! The protocol between the driver and one connection, whatever provides the blocks: a peer or a web
//! seed.
//!
//! The driver has a [`PeerHandle`], the connection's task a [`LinkEnd`]. Instructions go to the task
//! through a [`mailbox`], messages come back in batches over a bounded channel.

pub(crate) mod mailbox;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bittorrent_engine::{Command, PeerEvent, PeerKey};
use bittorrent_protocol::MerkleHash;
use bittorrent_protocol::metainfo::Info;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::disk::content::StoredContent;
use crate::disk::{Readers, ReceivedBlock};
use crate::transport::buffers::BufferPool;
use crate::transport::handshake::Encryption;
use crate::transport::rate_limit::Throttles;
use mailbox::MailboxFull;

/// From the driver to a connection.
#[derive(Debug)]
pub(crate) enum Instruction {
    /// Sends this to the peer.
    Send(Command),
    /// The info dictionary is known.
    Info(Arc<Info>),
    /// The files exist.
    Attach(Arc<StoredContent>),
    /// Replaces the rate limits.
    Limit(Box<Throttles>),
}

/// From a connection to the driver.
#[derive(Debug)]
pub(crate) struct PeerBatch {
    pub(crate) peer: PeerKey,
    pub(crate) messages: Vec<PeerMessage>,
}

/// One message of a [`PeerBatch`].
#[derive(Debug)]
pub(crate) enum PeerMessage {
    /// A message for the engine.
    Event(PeerEvent),
    /// A block of the right length, and its hash.
    Block(ReceivedBlock, MerkleHash),
    /// Payload bytes were sent.
    Uploaded(u64),
    /// The peer has requests that are being served.
    HasRequests,
}

/// What all connections of a session share.
#[derive(Debug)]
pub(crate) struct PeerContext {
    pub(crate) client: String,
    /// Port that is announced to peers to which we connected.
    pub(crate) port: Option<u16>,
    pub(crate) peer_exchange: bool,
    pub(crate) request_queue: usize,
    pub(crate) idle_timeout: Duration,
    pub(crate) keep_alive: Duration,
    pub(crate) buffers: Arc<BufferPool>,
    pub(crate) readers: Readers,
    /// One permit for each byte of received blocks.
    pub(crate) write_permits: Arc<Semaphore>,
    pub(crate) batches: mpsc::Sender<PeerBatch>,
}

/// The driver's end of a link.
#[derive(Debug)]
pub(crate) struct PeerHandle {
    mailbox: mailbox::Sender<Instruction>,
    /// Instructions since the last delivery.
    pending: Vec<Instruction>,
    cancel: CancellationToken,
    addr: SocketAddr,
    encryption: Encryption,
}

/// The connection's end of a link.
#[derive(Debug)]
pub(crate) struct LinkEnd {
    pub(crate) key: PeerKey,
    pub(crate) instructions: mailbox::Receiver<Instruction>,
    pub(crate) throttles: Throttles,
    pub(crate) cancel: CancellationToken,
    pub(crate) context: Arc<PeerContext>,
}

impl PeerHandle {
    /// Creates both ends. `cancel` ends the connection.
    pub(crate) fn open(
        key: PeerKey,
        (addr, encryption): (SocketAddr, Encryption),
        throttles: Throttles,
        cancel: CancellationToken,
        context: Arc<PeerContext>,
    ) -> (Self, LinkEnd) {
        let (mailbox, instructions) = mailbox::mailbox();
        let handle = Self {
            mailbox,
            pending: Vec::new(),
            cancel: cancel.clone(),
            addr,
            encryption,
        };
        let end = LinkEnd {
            key,
            instructions,
            throttles,
            cancel,
            context,
        };
        (handle, end)
    }

    /// Adds an instruction to the next delivery. Returns whether it is the first one.
    pub(crate) fn push(&mut self, instruction: Instruction) -> bool {
        let first = self.pending.is_empty();
        self.pending.push(instruction);
        first
    }

    /// Puts the added instructions into the mailbox.
    pub(crate) fn deliver(&mut self) -> Result<(), MailboxFull> {
        self.mailbox.send_all(&mut self.pending)
    }

    /// Ends the connection.
    pub(crate) fn close(self) {
        self.cancel.cancel();
    }

    /// Returns the remote address.
    pub(crate) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns how the connection is encrypted.
    pub(crate) const fn encryption(&self) -> Encryption {
        self.encryption
    }
}
