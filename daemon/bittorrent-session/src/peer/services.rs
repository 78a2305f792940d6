//! Long answers that a connection gives without the engine: blocks of the info dictionary, and
//! hashes.

use std::collections::VecDeque;

use bittorrent_protocol::MerkleHash;
use bittorrent_protocol::merkle::{HashRequest, MAX_HASH_COUNT};
use bittorrent_protocol::wire::{
    METADATA_PIECE_LEN, Message, MetadataMessage, OwnedMetadataMessage, PexMessage,
};

use super::{FULL_OUTBOX, Peer};
use crate::disk::{DiskError, MIN_READ_CHARGE};
use crate::error::Causes;

/// Metadata requests of one peer that may wait: as many as the longest info dictionary has blocks,
/// and libtorrent allows.
const MAX_METADATA_REQUESTS: usize = 1024;

/// Hash requests of one peer that may wait. Other clients send two at a time.
const MAX_HASH_REQUESTS: usize = 64;

/// Requests that wait for an answer.
#[derive(Debug, Default)]
pub(super) struct Services {
    metadata: VecDeque<u32>,
    hashes: VecDeque<HashRequest>,
    /// A disk thread reads an answer.
    hashing: bool,
}

impl Services {
    /// Returns the memory of the next answer with hashes; `None` if none can be started now.
    pub(super) fn next_hash_read(&self, outbox: usize) -> Option<u32> {
        if self.hashing || outbox > FULL_OUTBOX {
            return None;
        }
        let request = self.hashes.front()?;
        // The store rejects requests above the maximum.
        let count = request.count.min(MAX_HASH_COUNT) + request.proof_layers.min(64);
        Some((count * MerkleHash::LEN as u32).clamp(MIN_READ_CHARGE, 256 << 10))
    }

    /// Takes the next hash request, unless one is being answered.
    pub(super) fn start_hash_read(&mut self) -> Option<HashRequest> {
        if self.hashing {
            return None;
        }
        let request = self.hashes.pop_front()?;
        self.hashing = true;
        Some(request)
    }
}

impl Peer {
    pub(super) fn hashes_requested(&mut self, request: HashRequest) {
        if self.content.is_none() || self.services.hashes.len() >= MAX_HASH_REQUESTS {
            self.put(&Message::HashReject(request));
            return;
        }
        self.services.hashes.push_back(request);
        self.request_read();
    }

    pub(super) fn send_hashes(
        &mut self,
        request: HashRequest,
        result: Result<Option<Vec<MerkleHash>>, DiskError>,
    ) {
        self.services.hashing = false;
        match result {
            Ok(Some(hashes)) => self.put(&Message::Hashes(request, hashes.as_slice().into())),
            Ok(None) => self.put(&Message::HashReject(request)),
            Err(error) => {
                tracing::error!(
                    peer = %self.addr,
                    error = %Causes(&error),
                    "cannot read hashes to serve them"
                );
                self.put(&Message::HashReject(request));
            }
        }
    }

    pub(super) fn metadata_requested(&mut self, piece: u32) {
        if self.services.metadata.len() >= MAX_METADATA_REQUESTS {
            self.put_metadata(&MetadataMessage::Reject { piece });
            return;
        }
        self.services.metadata.push_back(piece);
    }

    /// Sends a metadata message, if the peer supports them.
    pub(super) fn put_metadata(&mut self, message: &OwnedMetadataMessage) {
        if let Some(id) = self.peer_ut_metadata {
            let payload = &message.encode();
            self.put(&Message::Extended { id, payload });
        }
    }

    /// Returns whether we exchange peers: not in private torrents (BEP 27).
    pub(super) fn exchanges_peers(&self) -> bool {
        let private = self.info.as_ref().is_some_and(|info| info.is_private());
        self.context.peer_exchange && !private
    }

    /// Sends a peer exchange message, if the peer supports them.
    pub(super) fn put_exchange(&mut self, message: &PexMessage) {
        if let Some(id) = self.peer_ut_pex.filter(|_| self.exchanges_peers()) {
            let payload = &message.encode();
            self.put(&Message::Extended { id, payload });
        }
    }

    /// Adds metadata blocks to the outbox while it is short, and continues with hashes.
    pub(super) fn serve_long_answers(&mut self) {
        while self.outbox.len() <= FULL_OUTBOX {
            let Some(piece) = self.services.metadata.pop_front() else {
                break;
            };
            let block = self.metadata_block(piece);
            self.put_metadata(&block.unwrap_or(MetadataMessage::Reject { piece }));
        }
        if !self.services.hashes.is_empty() {
            self.request_read();
        }
    }

    fn metadata_block(&self, piece: u32) -> Option<OwnedMetadataMessage> {
        let info = self.info.as_ref().filter(|info| !info.is_private())?;
        let raw = info.raw();
        let begin = (piece as usize).checked_mul(METADATA_PIECE_LEN as usize)?;
        let rest = raw.get(begin..).filter(|rest| !rest.is_empty())?;
        let payload = rest.get(..METADATA_PIECE_LEN as usize).unwrap_or(rest);
        Some(MetadataMessage::Data {
            piece,
            total_size: u32::try_from(raw.len()).ok()?,
            payload: payload.to_vec().into(),
        })
    }
}
