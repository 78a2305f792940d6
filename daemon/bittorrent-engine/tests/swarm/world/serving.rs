//! What a session would do: serve requests and hash what arrives.

use std::sync::Arc;
use std::time::Duration;

use bittorrent_engine::{BlockVerdict, PeerEvent, PeerKey};
use bittorrent_protocol::wire::{
    ExtendedHandshake, METADATA_PIECE_LEN, OwnedMetadataMessage, Request,
};
use bittorrent_protocol::{BlockIndex, MerkleHash, merkle};

use super::{SimEvent, World};
use crate::node::Answers;

impl World {
    /// Chokes a peer: what it asked for is rejected, or forgotten without the fast extension.
    pub(super) fn choke(&mut self, number: usize, peer: PeerKey) {
        let node = &mut self.nodes[number];
        let Some(link) = node.links.get_mut(&peer) else {
            return;
        };
        let dropped = std::mem::take(&mut link.queue);
        let fast = link.fast;
        let layout = Arc::clone(&node.truth.layout);
        self.message(number, peer, PeerEvent::Choke);
        for block in dropped.into_iter().filter(|_| fast) {
            let request = Request::for_block(&layout, block);
            self.message(number, peer, PeerEvent::Reject(request));
        }
    }

    pub(super) fn answer_metadata(
        &mut self,
        number: usize,
        peer: PeerKey,
        message: &OwnedMetadataMessage,
    ) {
        let OwnedMetadataMessage::Request { piece } = *message else {
            panic!("an engine only asks for metadata");
        };
        let far = &self.nodes[self.nodes[number].links[&peer].node];
        let first = (piece * METADATA_PIECE_LEN) as usize;
        let info = &far.truth.info;
        let end = (first + METADATA_PIECE_LEN as usize).min(info.len());
        let mut payload = info[first..end].to_vec();
        let message = match far.habits.metadata {
            Answers::Not => return,
            Answers::WithReject => OwnedMetadataMessage::Reject { piece },
            answers => {
                if answers == Answers::Falsely {
                    payload[0] ^= 1;
                }
                OwnedMetadataMessage::Data {
                    piece,
                    total_size: info.len() as u32,
                    payload: payload.into(),
                }
            }
        };
        let event = PeerEvent::Metadata(message);
        let wait = self.latency * 2 + far.habits.metadata.delay();
        self.after(wait, number, SimEvent::Message { from: peer, event });
    }

    pub(super) fn extensions(&self, number: usize) -> PeerEvent {
        let node = &self.nodes[number];
        PeerEvent::Extensions(ExtendedHandshake {
            ut_metadata: Some(1),
            ut_pex: node.habits.exchanges.then_some(2),
            metadata_size: node.knows_content.then_some(node.truth.info.len() as u32),
            reqq: Some(node.habits.reqq),
            port: Some(node.addr.port()),
            ..ExtendedHandshake::default()
        })
    }

    pub(super) fn tell_metadata_size(&mut self, number: usize) {
        let keys: Vec<_> = self.nodes[number].links.keys().copied().collect();
        for key in keys {
            let extensions = self.extensions(number);
            self.message(number, key, extensions);
        }
    }

    pub(super) fn asked(&mut self, number: usize, from: PeerKey, blocks: &[BlockIndex]) {
        let node = &mut self.nodes[number];
        let Some(link) = node.links.get_mut(&from) else {
            return;
        };
        let mut rejected = Vec::new();
        for block in blocks {
            if link.chokes || link.moody || !node.proven.contains(block) {
                rejected.push(*block);
            } else {
                link.queue.push_back(*block);
                node.touched.insert(block.piece());
            }
        }
        let fast = link.fast;
        let layout = Arc::clone(&node.truth.layout);
        if fast {
            for block in rejected {
                let request = Request::for_block(&layout, block);
                self.message(number, from, PeerEvent::Reject(request));
            }
        }
        self.send_next(number, from);
    }

    /// Sends the next block of a link when its line is free.
    pub(super) fn send_next(&mut self, number: usize, to: PeerKey) {
        let node = &mut self.nodes[number];
        let busy = node.links.values().filter(|link| link.sending).count() as u64 + 1;
        let Some(link) = node.links.get_mut(&to) else {
            return;
        };
        let silent = node
            .habits
            .silent_after
            .is_some_and(|most| node.sent >= most);
        if link.sending || silent {
            return;
        }
        if let Some(block) = link.queue.front() {
            link.sending = true;
            let size = u64::from(node.truth.layout.block_size(*block));
            let wait = Duration::from_micros(size * busy * 1_000_000 / node.habits.upload_rate);
            self.after(wait, number, SimEvent::Send { to });
        }
    }

    pub(super) fn send_block(&mut self, number: usize, to: PeerKey) {
        let now = self.now;
        let node = &mut self.nodes[number];
        let Some(link) = node.links.get_mut(&to) else {
            return;
        };
        link.sending = false;
        if let Some(block) = link.queue.pop_front() {
            node.sent += 1;
            let lies = (node.habits.lies)(block);
            let leaf = if lies {
                merkle::leaf(format!("lie of {number}").as_bytes())
            } else {
                node.truth.leaf(block)
            };
            let size = u64::from(node.truth.layout.block_size(block));
            node.engine.handle_uploaded(to, size, now);
            let (sent, habits) = (node.sent, node.habits.clone());
            self.along_link(number, to, |from| SimEvent::Block { from, block, leaf });
            if habits.vanishes_after == Some(sent) {
                self.vanish(number);
                return;
            }
            if habits.chokes_every.is_some_and(|every| sent % every == 0) {
                self.choke_all_for_a_while(number);
            }
        }
        self.send_next(number, to);
    }

    /// Chokes behind the back of the node's engine, which keeps believing it serves.
    pub(super) fn choke_all_for_a_while(&mut self, number: usize) {
        let links = &self.nodes[number].links;
        let keys: Vec<_> = links.keys().copied().collect();
        for key in keys {
            if let Some(link) = self.nodes[number].links.get_mut(&key) {
                link.moody = true;
                self.choke(number, key);
            }
        }
        let wait = Duration::from_millis(300);
        self.after(wait, number, SimEvent::ChokingEnds);
    }

    pub(super) fn block(
        &mut self,
        number: usize,
        from: PeerKey,
        block: BlockIndex,
        leaf: MerkleHash,
    ) {
        let now = self.now;
        let node = &mut self.nodes[number];
        let Some(link) = node.links.get_mut(&from) else {
            return;
        };
        link.asked.remove(&block);
        match node.engine.handle_block(from, block, leaf, now) {
            BlockVerdict::Write => {
                assert!(
                    !node.proven.contains(&block),
                    "{block} is proven and written again"
                );
                let piece = block.piece();
                assert!(
                    !node.looking.contains(&piece),
                    "{piece} is looked for and written"
                );
                let under_way = node.writing.insert(block, leaf);
                assert!(under_way.is_none(), "{block} is being written already");
                let writes = node.writes.entry(block).or_default();
                *writes += 1;
                assert!(!self.strict || *writes == 1, "{block} is written twice");
                let wait = node.habits.write_time;
                self.after(wait, number, SimEvent::Written { block });
            }
            BlockVerdict::Discard(reason) => node.discards.push(reason),
        }
    }

    /// Sends a node a block that was not requested, as if from one of its peers.
    pub(crate) fn push_block(&mut self, number: usize, block: BlockIndex, leaf: MerkleHash) {
        let from = *self.nodes[number].links.keys().next().unwrap();
        self.block(number, from, block, leaf);
        self.drain(number);
    }

    /// Sends a node a message, as if from one of its peers.
    pub(crate) fn push_event(&mut self, number: usize, event: PeerEvent) {
        let from = *self.nodes[number].links.keys().next().unwrap();
        self.apply(number, SimEvent::Message { from, event });
        self.drain(number);
    }
}
