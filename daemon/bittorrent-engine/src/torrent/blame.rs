//! Finding out who sent false data.
//!
//! A piece that does not fold to its hash came from one peer, which is banned, or from several.
//! Then its leaves are asked of peers on v2 links: they name the false blocks, the rest is kept.
//! Where nobody gives leaves, what arrived is remembered by its hash and the piece is downloaded
//! again from one single peer; if it is right now, the difference names the liars, and if it is
//! not, that one peer is one.

use std::net::SocketAddr;
use std::time::Instant;

use bittorrent_protocol::{FileIndex, MerkleHash, PieceIndex, merkle};

use super::Torrent;
use crate::keys::PeerKey;
use crate::layers::piece_range;
use crate::leaves::LeafQuery;
use crate::output::{Blame, DisconnectReason, Output, StopReason};
use crate::partial::{Stage, State, Suspect};
use crate::senders::Sender;
use crate::shared::Shared;

/// How often the pieces of files may fold to the wrong root before the torrent stops.
const MOST_FALSE_FILES: u32 = 3;

impl Torrent {
    /// Bans an address, and its host when others of it are banned as well. Closes their connections.
    pub(super) fn ban(
        &mut self,
        addr: SocketAddr,
        blame: Blame,
        shared: &mut Shared,
        now: Instant,
    ) {
        let listens = self
            .peers
            .values()
            .find(|peer| peer.addr == addr)
            .and_then(|peer| peer.listens);
        if !shared.bans.contains(addr, now) {
            let time = shared.config.ban_time;
            shared.bans.add(addr, time, now);
            if let Some(listens) = listens.filter(|listens| *listens != addr) {
                shared.bans.add(listens, time, now);
            }
            self.banned += 1;
            shared.emit(Output::Banned {
                torrent: self.key,
                addr,
                blame,
            });
        }
        let keys: Vec<_> = self
            .peers
            .values()
            .filter(|peer| shared.bans.contains(peer.addr, now))
            .map(|peer| peer.key)
            .collect();
        for key in keys {
            self.disconnect(key, DisconnectReason::Banned, shared, now);
        }
    }

    pub(super) fn ban_for_metadata(&mut self, key: PeerKey, shared: &mut Shared, now: Instant) {
        if let Some(addr) = self.peers.get(&key).map(|peer| peer.addr) {
            self.ban(addr, Blame::Metadata, shared, now);
        }
    }

    fn ban_sender(&mut self, sender: Sender, blame: Blame, shared: &mut Shared, now: Instant) {
        let addr = self
            .download
            .as_ref()
            .and_then(|download| download.senders.addr(sender));
        if let Some(addr) = addr {
            self.ban(addr, blame, shared, now);
        }
    }

    /// A piece is false, and no write to it is under way.
    pub(super) fn judge_piece(&mut self, piece: PieceIndex, shared: &mut Shared, now: Instant) {
        let Some(download) = &mut self.download else {
            return;
        };
        let Some(partial) = download.partials.get_mut(&piece) else {
            return;
        };
        let held = partial
            .slots()
            .any(|(_, slot)| slot.state == State::Verified);
        if let (false, Some(sender)) = (held, partial.only_sender()) {
            partial.revoke_all();
            partial.stage = Stage::Collecting;
            partial.exclusive = None;
            partial.worker = None;
            download.reopen(piece);
            self.ban_sender(sender, Blame::Piece(piece), shared, now);
            self.wake_starved = true;
            return;
        }
        partial.stage = Stage::Asking(LeafQuery::default());
        self.ask_hashes = true;
    }

    /// The true leaves of a false piece are known.
    pub(super) fn apply_leaves(
        &mut self,
        piece: PieceIndex,
        leaves: &[MerkleHash],
        shared: &mut Shared,
        now: Instant,
    ) {
        let Some(download) = &mut self.download else {
            return;
        };
        let Some(partial) = download.partials.get_mut(&piece) else {
            return;
        };
        let wrong = partial.set_leaves(leaves);
        let held: Vec<_> = wrong
            .iter()
            .map(|suspect| suspect.in_piece)
            .filter(|in_piece| partial.slot(*in_piece).state == State::Verified)
            .collect();
        for suspect in &wrong {
            partial.revoke(suspect.in_piece);
        }
        partial.stage = Stage::Collecting;
        download.disown(self.key, piece, &held, shared);
        download.reopen(piece);
        self.wake_starved = true;
        self.convict(piece, &wrong, shared, now);
        self.convict_suspects(piece, shared, now);
        self.prove(piece, shared, now);
    }

    /// Nobody gives the leaves of a false piece: download it again from one peer.
    pub(super) fn retry_solo(&mut self, piece: PieceIndex, shared: &mut Shared) {
        let Some(download) = &mut self.download else {
            return;
        };
        let Some(partial) = download.partials.get_mut(&piece) else {
            return;
        };
        let arrived: Vec<_> = partial
            .slots()
            .filter(|(_, slot)| slot.state == State::Written)
            .map(|(in_piece, slot)| Suspect {
                in_piece,
                leaf: slot.leaf,
                sender: slot.sender,
            })
            .collect();
        // What the last attempt brought is enough to find one liar, and bounded.
        partial.suspects = arrived;
        let held: Vec<_> = partial
            .slots()
            .filter(|(_, slot)| slot.state == State::Verified)
            .map(|(in_piece, _)| in_piece)
            .collect();
        for in_piece in &held {
            partial.revoke(*in_piece);
        }
        partial.revoke_all();
        partial.stage = Stage::Collecting;
        partial.solo = true;
        partial.exclusive = None;
        partial.worker = None;
        download.disown(self.key, piece, &held, shared);
        download.reopen(piece);
        self.wake_starved = true;
    }

    /// The one peer that a piece is taken from fails to deliver: another one starts over. With
    /// `only`, just for that piece.
    pub(super) fn lose_exclusive(&mut self, key: PeerKey, only: Option<PieceIndex>) {
        let Some(download) = &mut self.download else {
            return;
        };
        let solo: Vec<_> = download
            .partials
            .values_mut()
            .filter(|partial| {
                partial.exclusive == Some(key)
                    && !partial.is_proven()
                    && matches!(partial.stage, Stage::Collecting)
                    && only.is_none_or(|only| only == partial.piece())
            })
            .map(|partial| {
                partial.exclusive = None;
                partial.worker = None;
                partial.revoke_all();
                partial.piece()
            })
            .collect();
        for piece in solo {
            download.reopen(piece);
            self.wake_starved = true;
        }
    }

    /// A piece that was false before is proven now: whoever sent something else lied.
    pub(super) fn convict_suspects(
        &mut self,
        piece: PieceIndex,
        shared: &mut Shared,
        now: Instant,
    ) {
        let Some(partial) = self
            .download
            .as_mut()
            .and_then(|download| download.partials.get_mut(&piece))
        else {
            return;
        };
        if !partial.is_proven() {
            return;
        }
        let mut wrong = std::mem::take(&mut partial.suspects);
        wrong.retain(|suspect| partial.slot(suspect.in_piece).leaf != suspect.leaf);
        self.convict(piece, &wrong, shared, now);
    }

    fn convict(&mut self, piece: PieceIndex, wrong: &[Suspect], shared: &mut Shared, now: Instant) {
        let mut convicted: Vec<Sender> = Vec::new();
        for suspect in wrong {
            if convicted.contains(&suspect.sender) {
                continue;
            }
            convicted.push(suspect.sender);
            let block = self
                .download
                .as_ref()
                .and_then(|dl| dl.layout.block(piece, u32::from(suspect.in_piece)));
            if let Some(block) = block {
                self.ban_sender(suspect.sender, Blame::Block(block), shared, now);
            }
        }
    }

    /// When everything that lacks of a file waits for hashes that nobody gives, the file's root
    /// decides about all of it.
    pub(super) fn fold_file(&mut self, piece: PieceIndex, shared: &mut Shared, now: Instant) {
        let Some(download) = &mut self.download else {
            return;
        };
        let file = download.layout.file_of(piece);
        if !download.awaits_only_hashes(file) {
            return;
        }
        let span = download.layout.file(file).clone();
        let mut hashes = Vec::with_capacity(span.pieces() as usize);
        let mut waiting = Vec::new();
        for piece in span.piece_indices() {
            if let Some(partial) = download.partials.get(&piece) {
                if !partial.is_settled() {
                    return;
                }
                waiting.push(piece);
                hashes.push(merkle::piece_hash(
                    &partial.leaves(),
                    &download.layout,
                    piece,
                ));
            } else if let Some(hash) = download.layers.piece_hash(&download.layout, piece) {
                hashes.push(hash);
            } else {
                // Verified in a former run, when its hash was known: only peers have it now.
                return;
            }
        }
        let layout = std::sync::Arc::clone(&download.layout);
        match download.layers.complete_by(&layout, file, hashes) {
            Some(layer) => {
                shared.emit(Output::Layer {
                    torrent: self.key,
                    file,
                    layer,
                });
                for piece in waiting {
                    self.collected(piece, shared, now);
                }
            }
            None => self.drop_false_file(file, &waiting, shared, now),
        }
    }

    /// The pieces of a file, none of them proven, do not fold to its root.
    fn drop_false_file(
        &mut self,
        file: FileIndex,
        waiting: &[PieceIndex],
        shared: &mut Shared,
        now: Instant,
    ) {
        let Some(download) = &mut self.download else {
            return;
        };
        let mut senders = std::collections::BTreeSet::new();
        for piece in waiting {
            if let Some(partial) = download.partials.get(piece) {
                senders.extend(partial.slots().map(|(_, slot)| slot.sender));
            }
            download.count_unproven(*piece, false);
            download.put_back(*piece);
        }
        download.false_files += 1;
        let hopeless = download.false_files >= MOST_FALSE_FILES;
        let first = piece_range(download.layout.file(file)).start;
        let first = download.layout.piece(first);
        self.wake_starved = true;
        if let (1, Some(sender), Some(first)) = (senders.len(), senders.first(), first) {
            self.ban_sender(*sender, Blame::Piece(first), shared, now);
        } else if hopeless {
            self.stop(StopReason::FilesFalse, shared);
        }
    }
}
