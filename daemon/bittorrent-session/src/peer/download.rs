//! Receiving. Messages are parsed where they are in the read buffer; blocks are hashed while they
//! are in the processor's cache.

use std::io;

use bittorrent_engine::{Link, PeerEvent};
use bittorrent_protocol::merkle;
use bittorrent_protocol::wire::{
    EXTENDED_HANDSHAKE, ExtendedHandshake, Header, MAX_MESSAGE_LEN, Message, MetadataMessage,
    PIECE_HEADER_LEN, PexMessage, Request, Step, UT_METADATA, UT_PEX,
};
use tokio::time::Instant;

use super::{Peer, PeerError};
use crate::disk::ReceivedBlock;
use crate::link::PeerMessage;

/// Messages that may wait for the driver before we stop reading.
pub(super) const MAX_MESSAGES: usize = 128;

/// Most bytes of answers that may wait for a peer that keeps requesting. The longest answer is a
/// list of hashes; a peer that reads has only a few of them waiting.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Rejected requests in a row, in request queues, after which the connection is closed. A peer may
/// have sent this many queues before it received our choke.
const MAX_TURNED_DOWN: usize = 3;

impl Peer {
    /// Reads once from the socket.
    pub(super) fn receive(&mut self) -> Result<(), PeerError> {
        if self.starved.is_some() || self.messages.len() >= MAX_MESSAGES {
            return Ok(());
        }
        let stream = &mut self.stream;
        let throttle = &mut self.throttles.download;
        let read = if throttle.is_limited() {
            let most = throttle.allowance(Instant::now());
            if most == 0 {
                return Ok(());
            }
            let read = self
                .input
                .fill(self.wanted, |buffer| stream.try_read(buffer, most));
            throttle.settle(*read.as_ref().unwrap_or(&0));
            read
        } else {
            self.input
                .fill(self.wanted, |buffer| stream.try_read(buffer, usize::MAX))
        };
        match read {
            Ok(0) => Err(PeerError::Closed),
            Ok(_) => {
                self.last_received = Instant::now();
                self.read_since_tick = true;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(PeerError::Socket(error)),
        }
    }

    /// Handles all complete messages in the input, until permits run out or too many messages wait
    /// for the driver.
    pub(super) fn parse(&mut self) -> Result<(), PeerError> {
        if self.starved.is_some() {
            return Ok(());
        }
        let taken = self.take_messages();
        self.hash_blocks();
        taken
    }

    fn take_messages(&mut self) -> Result<(), PeerError> {
        while self.messages.len() + self.unhashed.len() < MAX_MESSAGES && !self.budget.is_spent() {
            let input = self.input.bytes();
            let header = Header::peek(input, MAX_MESSAGE_LEN).map_err(PeerError::Wire)?;
            let total = match header {
                Header::Need(missing) => input.len() + missing,
                Header::Piece { payload, .. } => PIECE_HEADER_LEN + payload as usize,
                Header::Other { total } => total,
            };
            if input.len() < total {
                self.wanted = total;
                return Ok(());
            }
            match header {
                Header::Piece {
                    index,
                    begin,
                    payload,
                } => {
                    if !self.on_block(index, begin, payload)? {
                        return Ok(());
                    }
                }
                Header::Need(_) | Header::Other { .. } => {
                    let frame = self.input.take(total);
                    let step = Message::decode(&frame, MAX_MESSAGE_LEN).map_err(PeerError::Wire)?;
                    if let Step::Message { message, .. } = step {
                        let content = self.content.as_ref();
                        let pieces = content.map_or(0, |content| content.layout().piece_count());
                        self.budget.charge(&message, pieces);
                        self.handle(message)?;
                    }
                    if self.outbox.len() > MAX_ANSWER_BYTES {
                        return Err(PeerError::NotReading(self.outbox.len()));
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes a complete block from the start of the input. Returns `false` if there is no permit
    /// for its bytes yet.
    fn on_block(&mut self, index: u32, begin: u32, length: u32) -> Result<bool, PeerError> {
        let layout = self.content.as_ref().map(|content| content.layout());
        let block = layout.and_then(|layout| {
            let block = layout.block_at(index, begin)?;
            (layout.block_size(block) == length).then_some(block)
        });
        let Some(block) = block else {
            return Err(PeerError::NoBlock {
                index,
                begin,
                length,
            });
        };
        let Some(permit) = self.permit.take().or_else(|| {
            let permits = self.context.write_permits.clone();
            permits.try_acquire_many_owned(length).ok()
        }) else {
            self.starved = Some(length);
            return Ok(false);
        };
        let mut data = self.input.take(PIECE_HEADER_LEN + length as usize);
        bytes::Buf::advance(&mut data, PIECE_HEADER_LEN);
        self.unhashed.push(ReceivedBlock {
            block,
            data,
            permit,
        });
        Ok(true)
    }

    /// Hashes the blocks of one read together, which takes little more than half the time.
    fn hash_blocks(&mut self) {
        if self.unhashed.is_empty() {
            return;
        }
        let blocks: Vec<&[u8]> = self
            .unhashed
            .iter()
            .map(|received| &*received.data)
            .collect();
        let leaves = merkle::leaves(&blocks);
        let hashed = self.unhashed.drain(..).zip(leaves);
        self.messages
            .extend(hashed.map(|(received, leaf)| PeerMessage::Block(received, leaf)));
    }

    fn event(&mut self, event: PeerEvent) {
        // The driver receives all messages in the order of their arrival.
        self.hash_blocks();
        self.messages.push(PeerMessage::Event(event));
    }

    fn handle(&mut self, message: Message<'_>) -> Result<(), PeerError> {
        match message {
            // The session has no DHT node that could use the peer's.
            Message::KeepAlive | Message::Port(_) | Message::Unknown { .. } => {}
            // Parsed before, by their headers.
            Message::Piece { .. } => {}
            Message::Choke => self.event(PeerEvent::Choke),
            Message::Unchoke => self.event(PeerEvent::Unchoke),
            Message::Interested => self.event(PeerEvent::Interested),
            Message::NotInterested => self.event(PeerEvent::NotInterested),
            Message::Have(piece) => self.event(PeerEvent::Have(piece)),
            Message::Bitfield(bits) => self.event(PeerEvent::Bitfield(bits.to_vec())),
            Message::HaveAll => self.event(PeerEvent::HaveAll),
            Message::HaveNone => self.event(PeerEvent::HaveNone),
            Message::Reject(request) => self.event(PeerEvent::Reject(request)),
            Message::Suggest(piece) => self.event(PeerEvent::Suggest(piece)),
            Message::AllowedFast(piece) => self.event(PeerEvent::AllowedFast(piece)),
            Message::Request(request) => self.requested(request)?,
            Message::Cancel(request) => {
                // The peer expects one answer to each request: the block or a reject.
                if self.uploads.cancel(request) {
                    self.budget.cancelled();
                    self.reject(request);
                }
            }
            Message::Extended { id, payload } => self.extended(id, payload)?,
            Message::HashRequest(_) | Message::Hashes(..) | Message::HashReject(_)
                if self.link == Link::V1 =>
            {
                return Err(PeerError::HashesOnV1);
            }
            Message::HashRequest(request) => self.hashes_requested(request),
            Message::Hashes(request, hashes) => self.event(PeerEvent::Hashes {
                request,
                hashes: hashes.to_vec(),
            }),
            Message::HashReject(request) => self.event(PeerEvent::HashReject(request)),
        }
        Ok(())
    }

    fn requested(&mut self, request: Request) -> Result<(), PeerError> {
        let accepted = !self.choking
            && self
                .content
                .as_ref()
                .is_some_and(|content| self.uploads.accept(request, content));
        if accepted {
            self.turned_down = 0;
            if !std::mem::replace(&mut self.reported_requests, true) {
                self.messages.push(PeerMessage::HasRequests);
            }
            return Ok(());
        }
        self.turned_down += 1;
        if self.turned_down > MAX_TURNED_DOWN * self.context.request_queue {
            return Err(PeerError::Requests(self.turned_down));
        }
        self.reject(request);
        Ok(())
    }

    fn extended(&mut self, id: u8, payload: &[u8]) -> Result<(), PeerError> {
        match id {
            EXTENDED_HANDSHAKE => {
                // A malformed extended handshake is ignored, as other clients do.
                if let Ok(handshake) = ExtendedHandshake::decode(payload) {
                    if let Some(id) = handshake.ut_metadata {
                        self.peer_ut_metadata = Some(id).filter(|id| *id != 0);
                    }
                    if let Some(id) = handshake.ut_pex {
                        self.peer_ut_pex = Some(id).filter(|id| *id != 0);
                    }
                    self.event(PeerEvent::Extensions(handshake));
                }
            }
            UT_METADATA => match MetadataMessage::decode(payload).map_err(PeerError::Metadata)? {
                MetadataMessage::Request { piece } => self.metadata_requested(piece),
                message => self.event(PeerEvent::Metadata(message.into_owned())),
            },
            UT_PEX if self.exchanges_peers() => {
                let message = PexMessage::decode(payload).map_err(PeerError::Exchange)?;
                self.event(PeerEvent::Exchange(message));
            }
            // We offered no other extension.
            _ => {}
        }
        Ok(())
    }
}
