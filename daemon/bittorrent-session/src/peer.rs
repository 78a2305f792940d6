//! One connection, from the end of the handshakes on: a task that reads, answers what it can
//! answer itself and tells the driver the rest.

mod download;
mod error;
mod message_budget;
mod resident;
mod services;
mod upload;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bittorrent_engine::{Command, Direction, Link, PeerEvent, PeerKey};
use bittorrent_protocol::metainfo::Info;
use bittorrent_protocol::wire::{
    EXTENDED_HANDSHAKE, ExtendedHandshake, Message, Request, UT_METADATA, UT_PEX,
};
use bittorrent_protocol::{BlockIndex, MerkleHash, PeerId};
use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::Interest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::{CancellationToken, PollSemaphore};

use crate::buffers::{BufferPool, ReadBuffer};
use crate::content::StoredContent;
use crate::disk::{Read, ReadAnswer, ReadReply, Readers};
use crate::error::Causes;
use crate::handshake::Encryption;
use crate::limits::Throttles;
use crate::mailbox;
use crate::stream::PeerStream;
pub(crate) use error::PeerError;
use message_budget::MessageBudget;
use services::Services;
use upload::{Progress, Uploads};

/// Bytes of messages, blocks apart, that may wait for the socket before we ask the peer to read.
const MAX_OUTBOX: usize = 8 << 20;

/// While more than this waits for the socket, no long answers are added.
const FULL_OUTBOX: usize = 160 << 10;

/// As many bytes of short messages do not wait for their turn when the upload rate is limited; they
/// count all the same. A full queue of requests fits.
const MOST_URGENT: usize = 32 << 10;

/// Payload bytes sent before the driver hears of them, if it does not sooner.
const UPLOAD_REPORT: u64 = 1 << 20;

/// How often a connection looks at its clock.
const TICK: Duration = Duration::from_secs(1);

/// From the driver to a connection.
#[derive(Debug)]
pub(crate) enum Instruction {
    /// Send this.
    Send(Command),
    /// The info dictionary is known.
    Info(Arc<Info>),
    /// The content has a place on disk.
    Attach(Arc<StoredContent>),
    /// These limits hold from now on.
    Limit(Box<Throttles>),
}

/// From a connection to the driver.
#[derive(Debug)]
pub(crate) struct PeerBatch {
    pub(crate) peer: PeerKey,
    pub(crate) news: Vec<PeerMessage>,
}

#[derive(Debug)]
pub(crate) enum PeerMessage {
    /// A message for the engine.
    Event(PeerEvent),
    /// A block; it has the length it must have.
    Block(ReceivedBlock),
    /// Payload bytes were sent.
    Uploaded(u64),
    /// The peer has requests that are being served.
    Asked,
}

/// A block that arrived.
#[derive(Debug)]
pub(crate) struct ReceivedBlock {
    pub(crate) block: BlockIndex,
    pub(crate) leaf: MerkleHash,
    pub(crate) data: Bytes,
    /// Stands for the memory `data` takes until it is written.
    pub(crate) permit: OwnedSemaphorePermit,
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct PeerContext {
    pub(crate) client: String,
    /// Where we listen, if anywhere: told to peers that we dialled.
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

/// A connection whose handshakes are done.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) stream: PeerStream,
    /// What the peer said already after its handshake.
    pub(crate) early: Vec<u8>,
    pub(crate) encryption: Encryption,
    pub(crate) addr: SocketAddr,
    pub(crate) direction: Direction,
    pub(crate) peer_id: PeerId,
    pub(crate) fast: bool,
    pub(crate) extended: bool,
    pub(crate) link: Link,
}

/// What the driver gives a connection to begin with.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) key: PeerKey,
    pub(crate) established: Established,
    pub(crate) info: Option<Arc<Info>>,
    pub(crate) content: Option<Arc<StoredContent>>,
    pub(crate) instructions: mailbox::Receiver<Instruction>,
    pub(crate) throttles: Throttles,
    pub(crate) cancel: CancellationToken,
    pub(crate) context: Arc<PeerContext>,
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
    /// The id under which the peer takes metadata messages, once it told one.
    peer_ut_metadata: Option<u8>,
    /// The same for peer exchange.
    peer_ut_pex: Option<u8>,
    /// We do not serve this peer.
    choking: bool,
    /// Requests turned down since the last one that was not.
    turned_down: usize,
    /// The driver knows that the peer has requests.
    asked: bool,
    budget: MessageBudget,

    input: ReadBuffer,
    /// Bytes the message at the start of the input takes, as far as known.
    wanted: usize,
    /// Bytes that the next block needs permits for and could not get at once.
    starved: Option<u32>,
    write_permits: PollSemaphore,
    permit: Option<OwnedSemaphorePermit>,

    news: Vec<PeerMessage>,
    /// Blocks of the present read.
    unhashed: Vec<(BlockIndex, Bytes, OwnedSemaphorePermit)>,
    outbox: BytesMut,
    uploads: Uploads,
    services: Services,
    /// Memory that the next read needs and could not get at once.
    read_wish: Option<u32>,
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
        key,
        established,
        info,
        content,
        instructions,
        throttles,
        cancel,
        context,
    } = start;
    // As many answers as reads can be under way: uploads and one hash list.
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
        asked: false,
        budget: MessageBudget::new(),
        input: ReadBuffer::new(context.buffers.clone()),
        wanted: 0,
        starved: None,
        write_permits: PollSemaphore::new(context.write_permits.clone()),
        permit: None,
        news: Vec::new(),
        unhashed: Vec::new(),
        outbox: BytesMut::new(),
        uploads: Uploads::new(context.request_queue),
        services: Services::default(),
        read_wish: None,
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
    peer.introduce();
    let ended = peer.work(&instructions, &cancel).await;
    peer.report_upload();
    let batches = peer.context.batches.clone();
    // Fails when the session ends, and then nobody counts any more.
    if !peer.news.is_empty()
        && let Ok(place) = batches.reserve().await
    {
        place.send(peer.report());
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
            if !self.news.is_empty()
                && let Ok(place) = batches.try_reserve()
            {
                place.send(self.report());
            }
            self.send()?;
            let interest = self.interest();
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                () = instructions.news() => {
                    instructions.take_all(&mut inbox);
                    for instruction in inbox.drain(..) {
                        self.follow(instruction)?;
                    }
                }
                place = batches.reserve(), if !self.news.is_empty() => match place {
                    Ok(place) => place.send(self.report()),
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
                    self.read_permits.poll_acquire_many(cx, self.read_wish.unwrap_or(0))
                }), if self.read_wish.is_some() => {
                    self.read_wish = None;
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

    /// What to wait for at the socket: nothing that could not be used now.
    fn interest(&self) -> Option<Interest> {
        let read = self.starved.is_none()
            && !self.budget.is_spent()
            && self.news.len() < download::MAX_NEWS
            && !self.throttles.download.is_waiting();
        let turn = !self.throttles.upload.is_waiting();
        let messages = !self.outbox.is_empty()
            && !self.uploads.is_mid_block()
            && (turn || self.outbox.len() <= MOST_URGENT);
        let write = messages || (turn && self.uploads.is_sendable()) || self.stream.holds_back();
        match (read, write) {
            (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
            (true, false) => Some(Interest::READABLE),
            (false, true) => Some(Interest::WRITABLE),
            (false, false) => None,
        }
    }

    fn report(&mut self) -> PeerBatch {
        PeerBatch {
            peer: self.key,
            news: std::mem::take(&mut self.news),
        }
    }

    fn put(&mut self, message: &Message<'_>) {
        message.encode(&mut self.outbox);
    }

    /// Tells what we speak and have; again when the metadata becomes known.
    fn introduce(&mut self) {
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
                self.introduce();
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

    /// Says that a request will not be served, to those who know the message.
    fn reject(&mut self, request: Request) {
        if self.fast {
            self.put(&Message::Reject(request));
        }
    }

    /// Sends what waits: short messages first, then blocks.
    fn send(&mut self) -> Result<(), PeerError> {
        match self.stream.flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            result => result.map_err(PeerError::Socket)?,
        }
        loop {
            if !self.throttles.upload.is_waiting() {
                self.serve_long_answers();
            }
            if !self.uploads.is_mid_block() && !self.flush().map_err(PeerError::Socket)? {
                return Ok(());
            }
            let limited = self.throttles.upload.is_limited() && self.uploads.is_sendable();
            let mut most = usize::MAX;
            if limited {
                most = self.throttles.upload.allowance(Instant::now());
                if most == 0 {
                    return Ok(());
                }
            }
            if !self.outbox.is_empty() {
                // They come right after the block that is half sent: a busy line must not hold them up
                // until nothing is left to upload.
                most = most.min(self.uploads.left_of_block());
            }
            let progress = self
                .uploads
                .serve(&mut self.stream, self.content.as_ref(), most)
                .map_err(PeerError::Socket)?;
            if limited {
                self.throttles.upload.settle(self.uploads.take_sent());
            }
            if self.uploads.unreported() > 0 {
                self.last_sent = Instant::now();
                if self.uploads.unreported() >= UPLOAD_REPORT {
                    self.report_upload();
                }
            }
            if progress == Progress::Cold {
                self.wish_to_read();
            }
            // A block may have kept messages waiting that can go now.
            let again = !self.outbox.is_empty() && !self.uploads.is_mid_block();
            if !again {
                return Ok(());
            }
        }
    }

    /// Sends short messages; says whether all are gone.
    fn flush(&mut self) -> io::Result<bool> {
        let throttle = &mut self.throttles.upload;
        while !self.outbox.is_empty() {
            // Requests and the like are few bytes and must not stand behind content.
            let patient = throttle.is_limited() && self.outbox.len() > MOST_URGENT;
            let bytes = if patient {
                let most = throttle.allowance(Instant::now());
                self.outbox.get(..most).unwrap_or(&self.outbox)
            } else {
                &self.outbox
            };
            if bytes.is_empty() {
                return Ok(false);
            }
            let written = self.stream.try_send(bytes);
            if throttle.is_limited() {
                let sent = *written.as_ref().unwrap_or(&0);
                if patient {
                    throttle.settle(sent);
                } else {
                    throttle.charge(sent, Instant::now());
                }
            }
            match written {
                Ok(sent) => {
                    self.outbox.advance(sent);
                    self.last_sent = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn report_upload(&mut self) {
        let bytes = self.uploads.take_unreported();
        if bytes > 0 {
            self.news.push(PeerMessage::Uploaded(bytes));
        }
    }

    /// Asks for the memory that the next read takes.
    fn wish_to_read(&mut self) {
        if self.read_wish.is_some() {
            return;
        }
        let hashes = self.services.next_hash_read(self.outbox.len());
        self.read_wish = hashes.or_else(|| {
            let content = self.content.as_ref()?;
            self.uploads.next_read(content)
        });
    }

    fn start_read(&mut self, permit: OwnedSemaphorePermit) {
        let Some(content) = &self.content else {
            return;
        };
        let read = match self.services.start_hash_read() {
            Some(request) => Read::Hashes(request),
            None => Read::Ranges(self.uploads.start_read(&permit)),
        };
        if matches!(&read, Read::Ranges(ranges) if ranges.is_empty()) {
            return;
        }
        let (store, reply) = (content.store().clone(), self.answer_to.clone());
        self.context.readers.submit(store, read, permit, reply);
        self.wish_to_read();
    }

    fn take_answer(&mut self, ReadReply { answer, permit }: ReadReply) -> Result<(), PeerError> {
        match answer {
            ReadAnswer::Ranges(result) => {
                if let Err(unread) = self.uploads.finish_read(result, permit) {
                    if unread.torn {
                        return Err(PeerError::Torn(unread.error));
                    }
                    tracing::error!(
                        peer = %self.addr,
                        error = %Causes(&unread.error),
                        "cannot read blocks to serve them"
                    );
                    for request in unread.lost {
                        self.reject(request);
                    }
                }
            }
            ReadAnswer::Hashes(request, result) => self.send_hashes(request, result),
        }
        self.wish_to_read();
        Ok(())
    }

    fn tick(&mut self) -> Result<(), PeerError> {
        let now = Instant::now();
        self.report_upload();
        self.asked &= !self.uploads.is_empty();
        if self.asked {
            self.news.push(PeerMessage::Asked);
        }
        if !self.uploads.is_sendable() && self.outbox.is_empty() {
            // A turn that was waited for in vain is another's.
            self.throttles.upload.settle(0);
        }
        if !std::mem::take(&mut self.read_since_tick) {
            self.input.rest();
        }
        let hears = !self.budget.is_spent();
        self.budget.tick();
        let silent = now.saturating_duration_since(self.last_received);
        // A peer that we do not read from is not silent.
        let reads = hears && self.starved.is_none() && !self.throttles.download.is_waiting();
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
