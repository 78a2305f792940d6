//! What a node's engine wants done, with every check that can be made of it at once.

use std::net::SocketAddr;
use std::time::Duration;

use bittorrent_engine::{Command, DialFailure, Output, PeerEvent, PeerKey};
use bittorrent_protocol::merkle;

use super::{SimEvent, World};
use crate::node::{Answers, blocks_below};

impl World {
    pub(super) fn obey(&mut self, number: usize, output: Output) {
        let now = self.now;
        let node = &mut self.nodes[number];
        match output {
            Output::Dial { addr, .. } => {
                let wait = Duration::from_micros(self.random() % self.jitter) + self.latency;
                let target = self.nodes.iter().position(|other| other.addr == addr);
                match target.filter(|n| self.nodes[*n].online) {
                    Some(target) => {
                        let node = &mut self.nodes[number];
                        node.ports += 1;
                        let at = SocketAddr::new(node.addr.ip(), node.ports);
                        self.after(wait, target, SimEvent::Dialled { from: number, at });
                    }
                    None => {
                        let failure = DialFailure::Unreachable;
                        self.after(wait, number, SimEvent::DialFailed { addr, failure });
                    }
                }
            }
            Output::Send { peer, command } => self.command(number, peer, command),
            Output::Disconnect { peer, reason } => {
                node.disconnects.push(reason);
                self.close(number, peer);
            }
            Output::Metadata { info, .. } => {
                assert!(info == node.truth.info && !node.knows_content);
                self.give_content(number, false, |_| false);
                self.tell_metadata_size(number);
            }
            Output::Layer { file, layer, .. } => {
                assert_eq!(node.truth.layers[file.as_usize()].as_ref(), Some(&layer));
                assert!(node.layers.insert(file.get()), "a layer twice");
            }
            Output::Proven {
                piece,
                first_block,
                leaves,
                ..
            } => {
                for (in_piece, leaf) in (u32::from(first_block)..).zip(leaves) {
                    let block = node.truth.layout.block(piece, in_piece).unwrap();
                    assert_eq!(
                        leaf,
                        node.truth.leaf(block),
                        "{block} is not what was proven"
                    );
                    assert_eq!(node.disk.get(&block), Some(&leaf), "{block} is not on disk");
                    assert!(node.proven.insert(block), "{block} was proven before");
                }
            }
            Output::Lookup { piece, leaves, .. } => self.look_up(number, piece, leaves),
            Output::LookupLeaves { piece, nodes, .. } => self.recall(number, piece, &nodes),
            Output::Revoke { blocks, .. } => {
                for block in blocks {
                    assert!(node.proven.remove(&block), "{block} was not proven");
                }
            }
            Output::Banned { addr, blame, .. } => node.banned.push((addr, blame)),
            Output::Complete { .. } => {
                assert!(node.completed.is_none(), "complete twice");
                node.completed = Some(now);
            }
            Output::Stopped { reason, .. } => node.stopped = Some(reason),
        }
    }

    fn command(&mut self, number: usize, peer: PeerKey, command: Command) {
        let node = &mut self.nodes[number];
        let Some(link) = node.links.get_mut(&peer) else {
            let refused = node.refused.contains(&peer);
            assert!(
                refused,
                "a command for a connection that is closed: {command:?}"
            );
            return;
        };
        let message = match command {
            Command::Bitfield(bits) => PeerEvent::Bitfield(bits),
            Command::HaveAll => PeerEvent::HaveAll,
            Command::HaveNone => PeerEvent::HaveNone,
            Command::Interested => PeerEvent::Interested,
            Command::NotInterested => PeerEvent::NotInterested,
            Command::Unchoke => {
                assert!(std::mem::replace(&mut link.chokes, false), "unchoked twice");
                if link.moody {
                    return;
                }
                PeerEvent::Unchoke
            }
            Command::Choke => {
                assert!(!std::mem::replace(&mut link.chokes, true), "choked twice");
                self.choke(number, peer);
                return;
            }
            Command::Have(pieces) => {
                for piece in pieces {
                    let node = &self.nodes[number];
                    let mut blocks = node.truth.layout.blocks(piece);
                    let full = blocks.all(|block| node.proven.contains(&block));
                    assert!(full, "a have for a piece that is not here");
                    self.message(number, peer, PeerEvent::Have(piece.get()));
                }
                return;
            }
            Command::Request(blocks) => {
                for block in &blocks {
                    assert!(
                        !node.proven.contains(block),
                        "{block} is here and requested"
                    );
                    assert!(
                        !node.writing.contains_key(block),
                        "{block} is being written"
                    );
                    assert!(link.asked.insert(*block), "{block} is requested twice");
                }
                assert!(link.asked.len() <= link.limit, "more requests than allowed");
                self.along_link(number, peer, |from| SimEvent::Asked { from, blocks });
                return;
            }
            Command::Cancel(blocks) => {
                for block in &blocks {
                    node.cancels += 1;
                    assert!(link.asked.remove(block), "{block} was not requested");
                }
                self.along_link(number, peer, |from| SimEvent::Unasked { from, blocks });
                return;
            }
            Command::HashRequest(request) => {
                // The answer is made where it is asked.
                node.hash_requests += 1;
                node.blocks_below_requests += blocks_below(&node.truth, &request);
                let far = link.node;
                let far = &self.nodes[far];
                // No peer needs to send nodes between leaves and pieces (BEP 52).
                let layer = far.truth.layout.piece_length().layer();
                let between = (1..u32::from(layer)).contains(&request.base);
                let answer = match far.habits.hashes {
                    Answers::Truly if between && !far.habits.gives_nodes => None,
                    Answers::Not => return,
                    Answers::WithReject => None,
                    Answers::Falsely => far.truth.hashes_for(&request).map(|mut hashes| {
                        hashes[0] = merkle::leaf(b"false");
                        hashes
                    }),
                    Answers::Truly | Answers::Late => far
                        .truth
                        .hashes_for(&request)
                        .filter(|_| request.base >= layer.into() || far.gives_leaves(&request)),
                };
                assert!(
                    far.knows_content,
                    "a hash request to a peer without metadata"
                );
                let event = match answer {
                    Some(hashes) => PeerEvent::Hashes { request, hashes },
                    None => PeerEvent::HashReject(request),
                };
                let wait = self.latency * 2 + far.habits.hashes.delay();
                self.after(wait, number, SimEvent::Message { from: peer, event });
                return;
            }
            Command::Exchange(message) => PeerEvent::Exchange(message),
            Command::Metadata(message) => {
                self.answer_metadata(number, peer, &message);
                return;
            }
        };
        self.message(number, peer, message);
    }
}
