//! The task of one connection after its handshakes. It serves requests itself and sends the driver
//! what the engine must know.

mod download;
mod error;
mod message_budget;
mod resident;
mod send;
mod services;
mod upload;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bittorrent_engine::PeerKey;
use bittorrent_engine::{Command, Direction, Link};
use bittorrent_protocol::metainfo::Info;
use bittorrent_protocol::wire::{
    EXTENDED_HANDSHAKE, ExtendedHandshake, Message, Request, UT_METADATA, UT_PEX,
};
use bytes::BytesMut;
use tokio::io::Interest;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::{CancellationToken, PollSemaphore};

use crate::disk::content::StoredContent;
use crate::disk::{ReadReply, ReceivedBlock};
use crate::link::{Instruction, LinkEnd, PeerBatch, PeerContext, PeerMessage, mailbox};
use crate::transport::buffers::ReadBuffer;
use crate::transport::handshake::Established;
use crate::transport::rate_limit::Throttles;
use crate::transport::stream::PeerStream;
pub(crate) use error::PeerError;
use message_budget::MessageBudget;
use services::Services;
use upload::Uploads;

/// Most bytes of messages other than blocks that may wait for the socket. Beyond this the
/// connection is closed.
const MAX_OUTBOX: usize = 8 << 20;

/// While more bytes wait for the socket, no long answers are added.
const FULL_OUTBOX: usize = 160 << 10;

/// Interval of periodic work of a connection.
const TICK: Duration = Duration::from_secs(1);

/// What the driver gives to a new connection.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) link: LinkEnd,
    pub(crate) established: Established,
    pub(crate) info: Option<Arc<Info>>,
    pub(crate) content: Option<Arc<StoredContent>>,
}

/// The state of a connection.
struct Peer {
    key: PeerKey,
    stream: PeerStream,
    addr: SocketAddr,
    direction: Direction,
    link: Link,
    fast: bool,
    extended: bool,
    context: Arc<PeerContext>,

    info: Option<Arc<Info>>,
    content: Option<Arc<StoredContent>>,
    /// The peer's message id for metadata messages, if it has sent one.
    peer_ut_metadata: Option<u8>,
    /// The peer's message id for peer exchange, if it has sent one.
    peer_ut_pex: Option<u8>,
    /// Whether we choke the peer.
    choking: bool,
    /// Requests rejected since the last accepted one.
    turned_down: usize,
    /// The driver knows that the peer has requests.
    reported_requests: bool,
    budget: MessageBudget,

    input: ReadBuffer,
    /// Length of the message at the start of the input, as far as known.
    wanted: usize,
    /// Permits that the next block waits for.
    starved: Option<u32>,
    write_permits: PollSemaphore,
    permit: Option<OwnedSemaphorePermit>,

    messages: Vec<PeerMessage>,
    /// Blocks of the current read that are not hashed yet.
    unhashed: Vec<ReceivedBlock>,
    outbox: BytesMut,
    uploads: Uploads,
    services: Services,
    /// Permits that the next read from disk waits for.
    read_request: Option<u32>,
    read_permits: PollSemaphore,
    answers: mpsc::Receiver<ReadReply>,
    answer_to: mpsc::Sender<ReadReply>,
    throttles: Throttles,

    last_received: Instant,
    last_sent: Instant,
    read_since_tick: bool,
}

/// Runs a connection until it is cancelled, closed or broken.
pub(crate) async fn run(start: Start) -> Result<(), PeerError> {
    let Start {
        link,
        established,
        info,
        content,
    } = start;
    let LinkEnd {
        key,
        instructions,
        throttles,
        cancel,
        context,
    } = link;
    // As many slots as reads can be under way: uploads and one hash list.
    let (answer_to, answers) = mpsc::channel(8);
    let now = Instant::now();
    let mut peer = Peer {
        key,
        stream: established.stream,
        addr: established.addr,
        direction: established.direction,
        link: established.link,
        fast: established.fast,
        extended: established.extended,
        info,
        content,
        peer_ut_metadata: None,
        peer_ut_pex: None,
        choking: true,
        turned_down: 0,
        reported_requests: false,
        budget: MessageBudget::new(),
        input: ReadBuffer::new(context.buffers.clone()),
        wanted: 0,
        starved: None,
        write_permits: PollSemaphore::new(context.write_permits.clone()),
        permit: None,
        messages: Vec::new(),
        unhashed: Vec::new(),
        outbox: BytesMut::new(),
        uploads: Uploads::new(context.request_queue),
        services: Services::default(),
        read_request: None,
        read_permits: PollSemaphore::new(context.readers.permits().clone()),
        answers,
        answer_to,
        throttles,
        last_received: now,
        last_sent: now,
        read_since_tick: false,
        context,
    };
    peer.input.prefill(&established.early);
    peer.send_extended_handshake();
    let ended = peer.work(&instructions, &cancel).await;
    peer.report_upload();
    let batches = peer.context.batches.clone();
    // Fails at the end of the session, when the counts are no longer used.
    if !peer.messages.is_empty()
        && let Ok(slot) = batches.reserve().await
    {
        slot.send(peer.take_batch());
    }
    ended
}

impl Peer {
    async fn work(
        &mut self,
        instructions: &mailbox::Receiver<Instruction>,
        cancel: &CancellationToken,
    ) -> Result<(), PeerError> {
        let batches = self.context.batches.clone();
        let mut clock = tokio::time::interval(TICK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut inbox = Vec::new();
        loop {
            self.parse()?;
            if !self.messages.is_empty()
                && let Ok(slot) = batches.try_reserve()
            {
                slot.send(self.take_batch());
            }
            self.send()?;
            let interest = self.interest();
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                () = instructions.changed() => {
                    instructions.take_all(&mut inbox);
                    for instruction in inbox.drain(..) {
                        self.follow(instruction)?;
                    }
                }
                slot = batches.reserve(), if !self.messages.is_empty() => match slot {
                    Ok(slot) => slot.send(self.take_batch()),
                    Err(_) => return Ok(()),
                },
                ready = self.stream.ready(interest.unwrap_or(Interest::READABLE)),
                    if interest.is_some() =>
                {
                    let ready = ready.map_err(PeerError::Socket)?;
                    if ready.is_readable() || ready.is_read_closed() {
                        self.receive()?;
                    }
                }
                Some(answered) = self.answers.recv() => self.take_answer(answered)?,
                permit = poll_fn(|cx| {
                    self.write_permits.poll_acquire_many(cx, self.starved.unwrap_or(0))
                }), if self.starved.is_some() => {
                    self.starved = None;
                    self.permit = permit;
                }
                permit = poll_fn(|cx| {
                    self.read_permits.poll_acquire_many(cx, self.read_request.unwrap_or(0))
                }), if self.read_request.is_some() => {
                    self.read_request = None;
                    if let Some(permit) = permit {
                        self.start_read(permit);
                    }
                }
                () = next_turn(self.throttles.next_turn()),
                    if self.throttles.next_turn().is_some() =>
                {
                    self.throttles.wake(Instant::now());
                }
                _ = clock.tick() => self.tick()?,
            }
        }
    }

    /// Returns the socket events to wait for: only those that could be handled now.
    fn interest(&self) -> Option<Interest> {
        let read = self.starved.is_none()
            && !self.budget.is_spent()
            && self.messages.len() < download::MAX_MESSAGES
            && !self.throttles.download.is_waiting();
        let turn = !self.throttles.upload.is_waiting();
        let messages = !self.outbox.is_empty()
            && !self.uploads.is_mid_block()
            && (turn || self.outbox.len() <= send::MAX_URGENT);
        let write = messages || (turn && self.uploads.is_sendable()) || self.stream.has_unsent();
        match (read, write) {
            (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
            (true, false) => Some(Interest::READABLE),
            (false, true) => Some(Interest::WRITABLE),
            (false, false) => None,
        }
    }

    fn take_batch(&mut self) -> PeerBatch {
        PeerBatch {
            peer: self.key,
            messages: std::mem::take(&mut self.messages),
        }
    }

    fn put(&mut self, message: &Message<'_>) {
        message.encode(&mut self.outbox);
    }

    /// Sends the extended handshake; again when the metadata becomes known.
    fn send_extended_handshake(&mut self) {
        if !self.extended {
            return;
        }
        let metadata_size = self
            .info
            .as_ref()
            .filter(|info| !info.is_private())
            .and_then(|info| u32::try_from(info.raw().len()).ok());
        let outgoing = self.direction == Direction::Outgoing;
        let handshake = ExtendedHandshake {
            ut_metadata: Some(UT_METADATA),
            ut_pex: self.exchanges_peers().then_some(UT_PEX),
            metadata_size,
            reqq: u32::try_from(self.context.request_queue).ok(),
            port: self.context.port.filter(|_| outgoing),
            client: Some(self.context.client.clone()),
            yourip: Some(self.addr.ip()),
            upload_only: self
                .content
                .as_ref()
                .filter(|content| content.store().is_complete())
                .map(|_| true),
        };
        self.put(&Message::Extended {
            id: EXTENDED_HANDSHAKE,
            payload: &handshake.encode(),
        });
    }

    fn follow(&mut self, instruction: Instruction) -> Result<(), PeerError> {
        match instruction {
            Instruction::Send(command) => self.command(command),
            Instruction::Info(info) => {
                self.info = Some(info);
                self.send_extended_handshake();
            }
            Instruction::Attach(content) => self.content = Some(content),
            Instruction::Limit(throttles) => self.throttles = *throttles,
        }
        if self.outbox.len() > MAX_OUTBOX {
            return Err(PeerError::NotReading(self.outbox.len()));
        }
        Ok(())
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Bitfield(bits) => self.put(&Message::Bitfield(&bits)),
            Command::HaveAll => self.put(&Message::HaveAll),
            Command::HaveNone => self.put(&Message::HaveNone),
            Command::Choke => {
                self.choking = true;
                self.put(&Message::Choke);
                for request in self.uploads.clear() {
                    self.reject(request);
                }
            }
            Command::Unchoke => {
                self.choking = false;
                self.put(&Message::Unchoke);
            }
            Command::Interested => self.put(&Message::Interested),
            Command::NotInterested => self.put(&Message::NotInterested),
            Command::Have(pieces) => {
                for piece in pieces {
                    self.put(&Message::Have(piece.get()));
                }
            }
            Command::Request(blocks) => {
                let Some(content) = self.content.clone() else {
                    return;
                };
                self.budget.requested(blocks.len());
                for block in blocks {
                    let request = Request::for_block(content.layout(), block);
                    self.put(&Message::Request(request));
                }
            }
            Command::Cancel(blocks) => {
                let Some(content) = self.content.clone() else {
                    return;
                };
                for block in blocks {
                    let request = Request::for_block(content.layout(), block);
                    self.put(&Message::Cancel(request));
                }
            }
            Command::HashRequest(request) => {
                self.budget.requested_hashes();
                self.put(&Message::HashRequest(request));
            }
            Command::Metadata(message) => self.put_metadata(&message),
            Command::Exchange(message) => self.put_exchange(&message),
        }
    }

    /// Rejects a request, if the peer supports the message.
    fn reject(&mut self, request: Request) {
        if self.fast {
            self.put(&Message::Reject(request));
        }
    }

    fn tick(&mut self) -> Result<(), PeerError> {
        let now = Instant::now();
        self.report_upload();
        self.reported_requests &= !self.uploads.is_empty();
        if self.reported_requests {
            self.messages.push(PeerMessage::HasRequests);
        }
        if !self.uploads.is_sendable() && self.outbox.is_empty() {
            // Gives an unused turn back.
            self.throttles.upload.settle(0);
        }
        if !std::mem::take(&mut self.read_since_tick) {
            self.input.rest();
        }
        let may_read = !self.budget.is_spent();
        self.budget.tick();
        let silent = now.saturating_duration_since(self.last_received);
        // A peer is not silent while we do not read from it.
        let reads = may_read && self.starved.is_none() && !self.throttles.download.is_waiting();
        if reads && silent > self.context.idle_timeout {
            return Err(PeerError::Silent(silent));
        }
        let quiet = now.saturating_duration_since(self.last_sent) > self.context.keep_alive;
        if quiet && self.outbox.is_empty() && !self.uploads.is_mid_block() {
            self.put(&Message::KeepAlive);
        }
        Ok(())
    }
}

/// Waits for the next turn under a rate limit.
async fn next_turn(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}
