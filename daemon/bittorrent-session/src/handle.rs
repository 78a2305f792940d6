//! Handles by which callers control a session and its torrents.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use bittorrent_engine::{ConnectionLimits, Content, PieceLeaves, Scope, Source, TorrentKey};
use bittorrent_protocol::metainfo::Info;
use bittorrent_protocol::{BlockIndex, InfoHashes, PieceIndex, merkle};
use bittorrent_store::{ReuseSources, StoreError, TorrentStore};
use tokio::sync::{mpsc, oneshot, watch};

use crate::disk::content::StoredContent;
use crate::disk::piece_map::MapCell;
use crate::driver::{AddedTorrent, PreparedStore, SessionCommand, TorrentWatch};
use crate::error::{AddError, Causes};
use crate::status::{Peer, TorrentStatus};
use crate::transport::rate_limit::RateLimits;
use crate::web_seed::WebSeedUrl;

/// Changes settings of a running [`Session`](crate::Session). Clones control the same session.
#[derive(Debug, Clone)]
pub struct SessionHandle(mpsc::Sender<SessionCommand>);

impl SessionHandle {
    pub(crate) const fn new(commands: mpsc::Sender<SessionCommand>) -> Self {
        Self(commands)
    }

    /// Sets the rate limits over all torrents.
    pub async fn set_rate_limits(&self, rates: RateLimits) {
        // Fails only at the end of the session, when nothing is transferred.
        let _ = self.0.send(SessionCommand::LimitRates(rates)).await;
    }

    /// Sets the limits on connections. Connections above the limits are closed, least useful ones
    /// first.
    pub async fn limit_connections(&self, limits: ConnectionLimits) {
        // Fails only at the end of the session, which closes all connections.
        let _ = self.0.send(SessionCommand::LimitConnections(limits)).await;
    }
}

/// A torrent of a [`Session`](crate::Session). Clones refer to the same torrent; dropping all of
/// them does not remove it.
#[derive(Debug, Clone)]
pub struct TorrentHandle {
    key: TorrentKey,
    hashes: InfoHashes,
    views: TorrentWatch,
    commands: mpsc::Sender<SessionCommand>,
}

impl TorrentHandle {
    pub(crate) fn new(
        hashes: InfoHashes,
        added: AddedTorrent,
        commands: mpsc::Sender<SessionCommand>,
    ) -> Self {
        Self {
            key: added.key,
            hashes,
            views: added.views,
            commands,
        }
    }

    /// Returns the hashes with which the torrent was added.
    pub const fn id(&self) -> InfoHashes {
        self.hashes
    }

    /// Waits for the metadata. Returns `None` if the torrent is removed or stops, or the session
    /// ends, before it is known.
    pub async fn info(&self) -> Option<Arc<Info>> {
        let mut info = self.views.info.clone();
        let mut status = self.views.status.clone();
        tokio::select! {
            found = info.wait_for(Option::is_some) => found.ok().and_then(|info| info.clone()),
            _ = status.wait_for(|status| status.phase.error().is_some()) => None,
        }
    }

    /// Returns the metadata, if it is known.
    pub fn known_info(&self) -> Option<Arc<Info>> {
        self.views.info.borrow().clone()
    }

    /// Attaches a store to a torrent that was added by its hashes.
    pub async fn attach(&self, store: Arc<TorrentStore>) -> Result<(), AddError> {
        self.attach_prepared(prepare(store, None).await?).await
    }

    /// Does the same as [`Self::attach`], but looks for missing blocks in local snapshots before it
    /// requests them from peers.
    pub async fn attach_reusing(
        &self,
        store: Arc<TorrentStore>,
        sources: Arc<ReuseSources>,
    ) -> Result<(), AddError> {
        self.attach_prepared(prepare(store, Some(sources)).await?)
            .await
    }

    async fn attach_prepared(&self, prepared: PreparedStore) -> Result<(), AddError> {
        let store = Box::new(prepared);
        let (reply, answer) = oneshot::channel();
        let command = SessionCommand::Attach {
            torrent: self.key,
            store,
            reply,
        };
        self.commands
            .send(command)
            .await
            .map_err(|_| AddError::Ending)?;
        answer.await.map_err(|_| AddError::Ending)?
    }

    /// Adds peers that are dialled first and never forgotten.
    pub async fn add_peers(&self, addrs: &[SocketAddr]) {
        self.add_peers_from(addrs, Source::Static, Scope::Machine)
            .await;
    }

    /// Adds peers that a source at the given scope named. Addresses of a narrower scope than the
    /// source are ignored ([`Scope::may_name`]).
    pub async fn add_peers_from(&self, addrs: &[SocketAddr], source: Source, scope: Scope) {
        let command = SessionCommand::AddPeers {
            torrent: self.key,
            addrs: addrs.to_vec(),
            source,
            scope,
        };
        // Fails only at the end of the session, which needs no peers.
        let _ = self.commands.send(command).await;
    }

    /// Requests pieces in their order from now on, for a reader that follows the download. The
    /// torrent must have a store. This costs the swarm: all peers that do so want the same pieces.
    pub async fn download_in_order(&self) {
        // Fails only at the end of the session.
        let _ = self
            .commands
            .send(SessionCommand::DownloadInOrder(self.key))
            .await;
    }

    /// Adds web seeds. A few of them are used at a time, while peers send less than
    /// [`Tuning::web_seeds_below`](crate::Tuning::web_seeds_below). Their content is verified like
    /// that of peers. At most 16 are kept.
    pub async fn add_web_seeds(&self, urls: &[WebSeedUrl]) {
        let command = SessionCommand::AddWebSeeds(self.key, urls.to_vec());
        // Fails only at the end of the session, which needs no web seeds.
        let _ = self.commands.send(command).await;
    }

    /// Returns the status, at most about a second old.
    pub fn status(&self) -> TorrentStatus {
        self.views.status.borrow().clone()
    }

    /// Returns a channel with the status, updated about once a second. It is closed when the
    /// torrent is removed or the session ends.
    pub fn subscribe(&self) -> watch::Receiver<TorrentStatus> {
        self.views.status.clone()
    }

    /// Returns the connections of this torrent; none at the end of the session.
    pub async fn peers(&self) -> Vec<Peer> {
        let (reply, answer) = oneshot::channel();
        let command = SessionCommand::Peers {
            torrent: self.key,
            reply,
        };
        if self.commands.send(command).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }

    /// Returns which content is verified and where it came from, in at most
    /// [`MAX_MAP_CELLS`](crate::MAX_MAP_CELLS) cells. Returns `None` before a store is attached and
    /// at the end of the session.
    pub async fn piece_map(&self) -> Option<Vec<MapCell>> {
        let (reply, answer) = oneshot::channel();
        let command = SessionCommand::BlockOrigins {
            torrent: self.key,
            reply,
        };
        self.commands.send(command).await.ok()?;
        let (store, origins) = answer.await.ok()??;
        Some(origins.map(&store.verified()))
    }

    /// Fetches verified blocks again that are damaged on disk and that the `store` no longer counts
    /// as verified. Afterwards the store is sealed again.
    ///
    /// # Errors
    ///
    /// When the intact blocks of the same pieces cannot be read.
    pub async fn repair(
        &self,
        store: Arc<TorrentStore>,
        damaged: Vec<BlockIndex>,
    ) -> Result<(), AddError> {
        let v2 = self.hashes.v2;
        let blocks = damaged.clone();
        let read = tokio::task::spawn_blocking(move || {
            let pieces: BTreeSet<PieceIndex> = blocks.iter().map(|block| block.piece()).collect();
            pieces
                .into_iter()
                .map(|piece| held_leaves(&store, piece))
                .collect::<Result<Vec<_>, _>>()
        });
        let intact = match read.await {
            Ok(Ok(intact)) => intact,
            Ok(Err(error)) => {
                tracing::error!(torrent = %v2, error = %Causes(&error), "cannot read the store");
                return Err(AddError::Unreadable(v2));
            }
            Err(error) => {
                tracing::error!(torrent = %v2, %error, "the thread that reads the store panicked");
                return Err(AddError::Unreadable(v2));
            }
        };
        let command = SessionCommand::Repair {
            torrent: self.key,
            damaged,
            intact,
        };
        self.commands
            .send(command)
            .await
            .map_err(|_| AddError::Ending)
    }

    /// Disconnects all peers, makes verified content durable and removes the torrent. Its store
    /// stays.
    pub async fn remove(&self) {
        let (reply, answer) = oneshot::channel();
        let command = SessionCommand::Remove {
            torrent: self.key,
            reply,
        };
        if self.commands.send(command).await.is_ok() {
            // An error means that the session has ended, which has the same effect.
            let _ = answer.await;
        }
    }
}

/// Reads what the engine needs of a store, on a thread that may wait for the disk.
pub(crate) async fn prepare(
    store: Arc<TorrentStore>,
    sources: Option<Arc<ReuseSources>>,
) -> Result<PreparedStore, AddError> {
    let v2 = store.info().hashes().v2;
    // Without local snapshots, requests for leaf hashes would be wasted.
    let sources = sources.filter(|sources| !sources.generations().is_empty());
    let read = tokio::task::spawn_blocking(move || {
        let content = Content {
            reuse: sources.is_some() && !store.is_complete(),
            ..content_of(&store)?
        };
        Ok::<_, StoreError>(PreparedStore {
            attached: Arc::new(StoredContent::new(store)),
            sources,
            content,
            only_serve: false,
        })
    });
    match read.await {
        Ok(Ok(prepared)) => Ok(prepared),
        Ok(Err(error)) => {
            tracing::error!(torrent = %v2, error = %Causes(&error), "cannot read the store");
            Err(AddError::Unreadable(v2))
        }
        Err(error) => {
            tracing::error!(torrent = %v2, %error, "the thread that reads the store panicked");
            Err(AddError::Unreadable(v2))
        }
    }
}

/// Returns the leaf hashes of the verified blocks of a piece.
fn held_leaves(store: &TorrentStore, piece: PieceIndex) -> Result<PieceLeaves, StoreError> {
    let layout = store.layout();
    let mut leaves = Vec::new();
    for block in layout
        .blocks(piece)
        .filter(|block| store.is_block_verified(*block))
    {
        let mut bytes = vec![0; layout.block_size(block) as usize];
        store.read(piece, block.begin(), &mut bytes)?;
        leaves.push((block.in_piece(), merkle::leaf(&bytes)));
    }
    Ok(PieceLeaves { piece, leaves })
}

fn content_of(store: &TorrentStore) -> Result<Content, StoreError> {
    let (layout, verified) = (store.layout(), store.verified());
    let mut leaves = Vec::new();
    // Few pieces are verified in part: those with proven leaves whose download was interrupted.
    // Hashing their blocks again costs less than keeping a record of them.
    for piece in layout.piece_indices() {
        if verified.piece_is_full(piece) {
            continue;
        }
        let piece_leaves = held_leaves(store, piece)?;
        if !piece_leaves.leaves.is_empty() {
            leaves.push(piece_leaves);
        }
    }
    Ok(Content {
        layout: layout.clone(),
        layers: store.metainfo().layers().to_vec(),
        verified,
        leaves,
        reuse: false,
    })
}
