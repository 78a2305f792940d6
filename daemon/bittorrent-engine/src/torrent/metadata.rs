//! The info dictionary of a torrent that is known by its hashes only.

use std::time::Instant;

use bittorrent_protocol::InfoHashV1;
use bittorrent_protocol::wire::OwnedMetadataMessage;

use super::Torrent;
use crate::api::keys::PeerKey;
use crate::api::output::{Command, Output, StopReason};
use crate::metadata::MetadataProgress;
use crate::shared::Shared;

impl Torrent {
    /// Metadata is the torrent's.
    pub(super) fn metadata_complete(&mut self, info: Vec<u8>, shared: &mut Shared, now: Instant) {
        if let Some(v1) = self.hashes.v1
            && InfoHashV1::of_info(&info) != v1
        {
            self.stop(StopReason::HashesContradict, shared);
            return;
        }
        // Whoever is silent about this is asked for hashes last.
        let silent = self.metadata.take();
        for key in silent.iter().flat_map(|metadata| metadata.silent(now)) {
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.hash_failures += 1;
            }
        }
        shared.emit(Output::Metadata {
            torrent: self.key,
            info,
        });
    }

    pub(super) fn ask_metadata(&mut self, shared: &mut Shared, now: Instant) {
        if self.stopped.is_some() {
            return;
        }
        if let Some(metadata) = &mut self.metadata {
            while let Some((peer, piece)) = metadata.ask(now) {
                let request = OwnedMetadataMessage::Request { piece };
                shared.send(peer, Command::Metadata(request));
            }
        }
    }

    pub(super) fn handle_metadata(
        &mut self,
        key: PeerKey,
        message: OwnedMetadataMessage,
        shared: &mut Shared,
        now: Instant,
    ) {
        let Some(metadata) = &mut self.metadata else {
            return;
        };
        match message {
            OwnedMetadataMessage::Reject { piece } => metadata.reject(key, piece, now),
            OwnedMetadataMessage::Data {
                piece,
                total_size,
                payload,
            } => match metadata.data(key, piece, total_size, payload.into_owned(), now) {
                MetadataProgress::Going => {}
                MetadataProgress::Complete(info) => self.metadata_complete(info, shared, now),
                MetadataProgress::Liar(liar) => self.ban_for_metadata(liar, shared, now),
            },
            OwnedMetadataMessage::Request { .. } | OwnedMetadataMessage::Unknown { .. } => {}
        }
    }
}
