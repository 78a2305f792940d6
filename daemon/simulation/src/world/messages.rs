//! Carries out the outputs of engines.

use bittorrent_engine::{Command, DialFailure, Output, PeerEvent};
use bittorrent_protocol::merkle::HashRequest;
use bittorrent_protocol::wire::{
    ExtendedHandshake, METADATA_PIECE_LEN, OwnedMetadataMessage, metadata_piece_size,
};

use super::World;
use crate::host::{Node, address, at_address};
use crate::queue::SimEvent;

/// Requests a host lets wait.
const REQUEST_QUEUE: u32 = 500;

impl World {
    /// Carries out the outputs of a node's engine, and records its next time-out.
    pub(super) fn settle(&mut self, number: usize) {
        if !self.nodes[number].online {
            return;
        }
        while let Some(output) = self.nodes[number].engine.poll_output() {
            self.obey(number, output);
        }
        let node = &mut self.nodes[number];
        if let Some(at) = node.engine.poll_timeout() {
            let at = at.duration_since(self.start).max(self.now);
            if node.timeout.is_none_or(|known| at < known) {
                node.timeout = Some(at);
                self.queue.put(at, SimEvent::Timeout { node: number });
            }
        }
    }

    fn obey(&mut self, number: usize, output: Output) {
        let node = &mut self.nodes[number];
        match output {
            Output::Dial { addr, .. } => {
                let from = node.life();
                match at_address(addr).filter(|to| *to < self.nodes.len()) {
                    Some(to) => {
                        // There, back, and there again with the handshake.
                        let wait = 3 * self.latency(number, to);
                        self.after(wait, SimEvent::Dialled { from, to });
                    }
                    None => {
                        let (of, failure) = (from, DialFailure::Unreachable);
                        let wait = self.plan.latency.1;
                        self.after(wait, SimEvent::DialFailed { of, addr, failure });
                    }
                }
            }
            // What is meant for a connection that never came about is left out.
            Output::Send { peer, command } => {
                if let Some(end) = node.ends.get(&peer) {
                    let end = *end;
                    self.command(end, command);
                }
            }
            Output::Disconnect { peer, .. } => {
                if let Some(end) = node.ends.get(&peer) {
                    let end = *end;
                    self.close(end);
                }
            }
            Output::Metadata { info, .. } => {
                assert!(info == self.torrent.info, "false metadata was taken");
                self.give_content(number);
                let ends: Vec<usize> = self.nodes[number].ends.values().copied().collect();
                for end in ends {
                    let event = self.extensions(number);
                    self.send_event(end, event);
                }
            }
            Output::Layer { file, layer, .. } => {
                let truth = self.torrent.layers[file.as_usize()].as_ref();
                assert!(truth == Some(&layer), "a false piece layer was taken");
                node.layers_lacking -= 1;
            }
            Output::Proven {
                piece,
                first_block,
                leaves,
                ..
            } => {
                let blocks = self.torrent.layout.blocks(piece).skip(first_block.into());
                for (block, leaf) in blocks.zip(leaves) {
                    assert!(leaf == self.torrent.leaf(block), "{block} is false");
                    assert!(node.disk.contains(block), "{block} is not on the disk");
                    assert!(node.proven.insert(block), "{block} was proven before");
                }
            }
            Output::Revoke { blocks, .. } => {
                for block in blocks {
                    node.proven.remove(block);
                }
            }
            Output::Banned { .. } => self.counts.bans += 1,
            Output::Complete { .. } => {
                let all = self.torrent.blocks().count() as u64;
                assert_eq!(node.proven.count(), all, "complete without everything");
                node.completed = Some(self.now);
                self.lacking -= 1;
            }
            Output::Stopped { reason, .. } => panic!("an engine stopped: {reason}"),
            Output::Lookup { .. } | Output::LookupLeaves { .. } => {
                panic!("an engine looks up content although none may be reused")
            }
        }
    }

    fn command(&mut self, end: usize, command: Command) {
        let event = match command {
            Command::Bitfield(bits) => PeerEvent::Bitfield(bits),
            Command::HaveAll => PeerEvent::HaveAll,
            Command::HaveNone => PeerEvent::HaveNone,
            Command::Interested => PeerEvent::Interested,
            Command::NotInterested => PeerEvent::NotInterested,
            Command::Exchange(message) => PeerEvent::Exchange(message),
            Command::Unchoke => {
                self.ends[end].serves = true;
                PeerEvent::Unchoke
            }
            Command::Choke => {
                let this = &mut self.ends[end];
                this.serves = false;
                let blocks: Vec<_> = std::mem::take(&mut this.queue).into();
                self.send_event(end, PeerEvent::Choke);
                self.send(end, |end| SimEvent::Rejected { end, blocks });
                return;
            }
            Command::Have(pieces) => {
                self.send(end, |end| SimEvent::Haves { end, pieces });
                return;
            }
            Command::Request(blocks) => {
                self.send(end, |end| SimEvent::Asked { end, blocks });
                return;
            }
            Command::Cancel(blocks) => {
                self.send(end, |end| SimEvent::Unasked { end, blocks });
                return;
            }
            Command::HashRequest(request) => {
                let event = match self.hashes(end, &request) {
                    Some(hashes) => PeerEvent::Hashes { request, hashes },
                    None => PeerEvent::HashReject(request),
                };
                self.answer(end, event);
                return;
            }
            Command::Metadata(message) => {
                if let OwnedMetadataMessage::Request { piece } = message {
                    let event = PeerEvent::Metadata(self.metadata(end, piece));
                    self.answer(end, event);
                }
                return;
            }
        };
        self.send_event(end, event);
    }

    /// The far end's answer to a question: it is made where it is asked, and takes the way there and
    /// back, but nothing of the lines.
    fn answer(&mut self, end: usize, event: PeerEvent) {
        let wait = 2 * self.ends[end].latency;
        let event = Box::new(event);
        self.after(wait, SimEvent::Event { end, event });
    }

    fn far(&self, end: usize) -> &Node {
        &self.nodes[self.ends[self.ends[end].far].node]
    }

    /// Peers that have the piece send its leaves; peers that have the layers send nodes above pieces.
    fn hashes(
        &self,
        end: usize,
        request: &HashRequest,
    ) -> Option<Vec<bittorrent_protocol::MerkleHash>> {
        let far = self.far(end);
        let is_low = request.base < self.torrent.layout.piece_length().layer().into();
        let has = |piece: &_| far.proven.piece_is_full(*piece);
        let knows = far.knows_content
            && match is_low {
                true => self.torrent.pieces_of(request).iter().all(has),
                false => far.layers_lacking == 0,
            };
        knows.then(|| self.torrent.hashes_for(request)).flatten()
    }

    fn metadata(&self, end: usize, piece: u32) -> OwnedMetadataMessage {
        let info = &self.torrent.info;
        let total_size = info.len() as u32;
        let size = metadata_piece_size(total_size, piece);
        match size.filter(|_| self.far(end).knows_content) {
            None => OwnedMetadataMessage::Reject { piece },
            Some(size) => {
                let first = (piece * METADATA_PIECE_LEN) as usize;
                let payload = info[first..first + size as usize].to_vec().into();
                OwnedMetadataMessage::Data {
                    piece,
                    total_size,
                    payload,
                }
            }
        }
    }

    pub(super) fn extensions(&self, number: usize) -> PeerEvent {
        let node = &self.nodes[number];
        PeerEvent::Extensions(ExtendedHandshake {
            ut_metadata: Some(1),
            ut_pex: Some(2),
            metadata_size: node.knows_content.then_some(self.torrent.info.len() as u32),
            reqq: Some(REQUEST_QUEUE),
            port: Some(address(number).port()),
            ..ExtendedHandshake::default()
        })
    }
}
