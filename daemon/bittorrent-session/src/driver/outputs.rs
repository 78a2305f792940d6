//! Applies the engine's outputs, and reports finished disk jobs to the engine.

use std::sync::Arc;
use std::time::Instant;

use bittorrent_engine::{
    Command, Output, PeerKey, TorrentKey, TorrentPhase, TorrentStatus, WriteFailed,
};
use bittorrent_protocol::bencode::Limits;
use bittorrent_protocol::metainfo::Info;
use bittorrent_store::StoreError;

use super::Driver;
use crate::disk::{DiskError, FinishedJob, JobOutcome, LookupBy, Proof, ReuseLookup};
use crate::link::Instruction;
use crate::status::TorrentError;

impl Driver {
    pub(super) fn apply_output(&mut self, output: Output) {
        match output {
            Output::Dial { torrent, addr } => {
                if let Some(torrent_state) = self.torrents.get(&torrent) {
                    self.dials.start(torrent, addr, torrent_state.hashes);
                }
            }
            Output::Send {
                peer,
                command: Command::Have(pieces),
            } => self.send_have(peer, pieces),
            Output::Send { peer, command } => {
                self.connections.instruct(peer, Instruction::Send(command));
            }
            Output::Disconnect { peer, reason } => {
                if let Some(addr) = self.connections.addr(peer) {
                    tracing::debug!(peer = %addr, %reason, "disconnecting");
                }
                self.connections.disconnect(peer);
            }
            Output::Metadata { torrent, info } => self.on_metadata(torrent, &info),
            Output::Layer {
                torrent,
                file,
                layer,
            } => {
                if let Some(torrent) = self.torrents.get_mut(&torrent) {
                    torrent.keep_layer(file, layer);
                }
            }
            Output::Lookup {
                torrent,
                piece,
                leaves,
            } => {
                if let Some(torrent) = self.torrents.get_mut(&torrent) {
                    let by = leaves.map_or(LookupBy::Piece, LookupBy::Blocks);
                    torrent.enqueue_lookup(ReuseLookup { piece, by });
                }
            }
            Output::LookupLeaves {
                torrent,
                piece,
                nodes,
            } => {
                if let Some(torrent) = self.torrents.get_mut(&torrent) {
                    let by = LookupBy::Leaves(nodes);
                    torrent.enqueue_lookup(ReuseLookup { piece, by });
                }
            }
            Output::Proven {
                torrent,
                piece,
                first_block,
                leaves,
            } => {
                if let Some(torrent) = self.torrents.get_mut(&torrent) {
                    torrent.prove(Proof {
                        piece,
                        first_block,
                        leaves,
                    });
                }
            }
            Output::Revoke { torrent, blocks } => {
                if let Some(torrent) = self.torrents.get_mut(&torrent) {
                    let v2 = torrent.hashes.v2;
                    tracing::warn!(torrent = %v2, ?blocks, "verification of blocks on disk was revoked; fetching them again");
                    torrent.revoke(blocks);
                }
            }
            Output::Banned {
                torrent,
                addr,
                blame,
            } => {
                let Some(torrent) = self.torrents.get_mut(&torrent) else {
                    return;
                };
                let v2 = torrent.hashes.v2;
                match torrent.web_seeds.ban(addr) {
                    Some(url) => {
                        tracing::warn!(torrent = %v2, %url, %blame, "web seed banned");
                    }
                    None => tracing::warn!(torrent = %v2, peer = %addr, %blame, "peer banned"),
                }
            }
            Output::Complete { torrent: key } => {
                if let Some(torrent) = self.torrents.get_mut(&key) {
                    torrent.complete();
                    torrent.publish(self.engine.status(key));
                }
            }
            Output::Stopped { torrent, reason } => self.stop(torrent, TorrentError::Engine(reason)),
        }
    }

    fn send_have(&mut self, peer: PeerKey, pieces: Vec<bittorrent_protocol::PieceIndex>) {
        let Some(torrent) = self.torrents.get_mut(&peer.torrent()) else {
            return;
        };
        let now = torrent.defer_unserved(peer, pieces);
        if !now.is_empty() {
            let have = Instruction::Send(Command::Have(now));
            self.connections.instruct(peer, have);
        }
    }

    fn on_metadata(&mut self, key: TorrentKey, raw: &[u8]) {
        match Info::parse(raw, &Limits::TORRENT) {
            Ok(info) => self.set_info(key, &Arc::new(info)),
            Err(error) => self.stop(key, TorrentError::Metadata(error)),
        }
    }

    /// Publishes the metadata to handles and connections.
    pub(super) fn set_info(&mut self, key: TorrentKey, info: &Arc<Info>) {
        let Some(torrent) = self.torrents.get_mut(&key) else {
            return;
        };
        torrent.set_info(info.clone());
        // A magnet link may name only one of two hashes, and some clients compute their own. Peers
        // may use any of them.
        for name in names(info) {
            if !torrent.names.contains(&name) && self.swarms.register(name, key) == key {
                torrent.names.push(name);
            }
        }
        if torrent.hashes.v1.is_none() {
            torrent.hashes.v1 = info.hashes().v1;
        }
        self.connections
            .instruct_all(Some(key), || Instruction::Info(info.clone()));
    }

    /// Stops a torrent permanently. The engine removes it and disconnects its peers.
    fn stop(&mut self, key: TorrentKey, error: TorrentError) {
        let last = self.engine.status(key).map(|status| TorrentStatus {
            peers: 0,
            seeds: 0,
            dialling: 0,
            down_rate: 0,
            up_rate: 0,
            ..status
        });
        self.engine.remove_torrent(key, Instant::now());
        if let Some(torrent) = self.torrents.get_mut(&key) {
            torrent.fail(error);
            torrent.publish(last);
        }
    }

    pub(super) fn on_job_done(
        &mut self,
        FinishedJob {
            torrent: key,
            outcome,
        }: FinishedJob,
    ) {
        let now = Instant::now();
        let Some(torrent) = self.torrents.get_mut(&key) else {
            return;
        };
        let (doing, result) = match outcome {
            JobOutcome::Written(blocks, result) => {
                torrent.written();
                let written = match &result {
                    Ok(()) => Ok(()),
                    Err(_) => Err(WriteFailed),
                };
                for block in blocks {
                    self.engine.handle_written(key, block, written, now);
                }
                ("writing blocks", result)
            }
            JobOutcome::Proven(pieces, result) => {
                let news = torrent.proven(&pieces);
                torrent.consider_checkpoint(&self.policy.tuning);
                for (piece, peers) in news {
                    for peer in peers {
                        let have = Instruction::Send(Command::Have(vec![piece]));
                        self.connections.instruct(peer, have);
                    }
                }
                ("storing leaf hashes", result)
            }
            JobOutcome::Revoked(result) => {
                torrent.was_revoked();
                ("revoking blocks", result)
            }
            JobOutcome::LookedUp(piece, result) => {
                let found = result.as_deref().unwrap_or_default();
                torrent.on_lookup_done(piece, found.len());
                self.engine.handle_looked_up(key, piece, found, now);
                ("copying blocks from local snapshots", result.map(|_| ()))
            }
            JobOutcome::Recalled(piece, result) => {
                torrent.on_lookup_done(piece, 0);
                let found = result.as_deref().unwrap_or_default();
                self.engine.handle_leaves_looked_up(key, piece, found, now);
                (
                    "looking for leaf hashes in local snapshots",
                    result.map(|_| ()),
                )
            }
            JobOutcome::Layer(file, result) => {
                tracing::debug!(%file, "stored a piece layer");
                torrent.layered();
                ("storing a piece layer", result)
            }
            JobOutcome::Checkpoint(result) => {
                torrent.checkpointed();
                ("making content durable", result)
            }
            JobOutcome::Finish(result) => {
                let status = self.engine.status(key);
                let complete = status
                    .as_ref()
                    .is_some_and(|status| status.phase == TorrentPhase::Seeding);
                torrent.sealed(result.is_ok(), complete);
                torrent.publish(status);
                // Damaged blocks were found in the meantime. The content is sealed after they are
                // fetched.
                let result = match result {
                    Err(DiskError::Store(StoreError::Incomplete { .. })) => Ok(()),
                    other => other,
                };
                ("sealing the content", result)
            }
        };
        if let Err(error) = result {
            if let DiskError::Store(StoreError::SyncFailed { lost, .. }) = &error {
                self.engine.handle_lost(key, lost, now);
            }
            self.stop(key, TorrentError::disk(doing, error));
        }
    }
}

/// Returns all names by which peers may refer to a torrent.
fn names(info: &Info) -> Vec<bittorrent_protocol::SwarmHash> {
    let hashes = info.hashes();
    std::iter::once(hashes.v2.truncated())
        .chain(hashes.v1.map(Into::into))
        .chain(info.aria2_alias().map(Into::into))
        .collect()
}
