//! The caller's hold on one torrent.

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

/// What changes a [`Session`](crate::Session) while it runs. Clones mean the same session.
#[derive(Debug, Clone)]
pub struct SessionHandle(mpsc::Sender<SessionCommand>);

impl SessionHandle {
    pub(crate) const fn new(commands: mpsc::Sender<SessionCommand>) -> Self {
        Self(commands)
    }

    /// Limits how fast content comes and goes, over all torrents, from now on.
    pub async fn set_rate_limits(&self, rates: RateLimits) {
        // Fails only when the session ends, and nothing goes then.
        let _ = self.0.send(SessionCommand::LimitRates(rates)).await;
    }

    /// Changes how many connections there may be, from now on. What is above the limits is closed,
    /// the connections that carry least first.
    pub async fn limit_connections(&self, limits: ConnectionLimits) {
        // Fails only when the session ends, and its connections with it.
        let _ = self.0.send(SessionCommand::LimitConnections(limits)).await;
    }
}

/// A torrent of a [`Session`](crate::Session). Clones mean the same torrent; dropping all of them
/// does not remove it.
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

    /// The hashes the torrent was added with.
    pub const fn id(&self) -> InfoHashes {
        self.hashes
    }

    /// Waits for the metadata. `None` when the torrent is removed, stops or the session ends
    /// before it comes.
    pub async fn info(&self) -> Option<Arc<Info>> {
        let mut info = self.views.info.clone();
        let mut status = self.views.status.clone();
        tokio::select! {
            found = info.wait_for(Option::is_some) => found.ok().and_then(|info| info.clone()),
            _ = status.wait_for(|status| status.phase.error().is_some()) => None,
        }
    }

    /// The metadata, if it is known.
    pub fn known_info(&self) -> Option<Arc<Info>> {
        self.views.info.borrow().clone()
    }

    /// Gives a torrent that was added by its hashes its place on disk.
    pub async fn attach(&self, store: Arc<TorrentStore>) -> Result<(), AddError> {
        self.attach_prepared(prepare(store, None).await?).await
    }

    /// [`Self::attach`], with held generations in which the missing blocks are looked for before
    /// peers are asked for them.
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

    /// Names peers: dialled first and never forgotten.
    pub async fn add_peers(&self, addrs: &[SocketAddr]) {
        self.add_peers_from(addrs, Source::Static, Scope::Machine)
            .await;
    }

    /// Names peers that a source at the given scope named. Addresses that are nearer than the source
    /// are left out ([`Scope::may_name`]).
    pub async fn add_peers_from(&self, addrs: &[SocketAddr], source: Source, scope: Scope) {
        let command = SessionCommand::AddPeers {
            torrent: self.key,
            addrs: addrs.to_vec(),
            source,
            scope,
        };
        // Fails only when the session ends, and then there is no use for peers.
        let _ = self.commands.send(command).await;
    }

    /// Asks for the content in its order from now on, for whoever reads along while it comes, once the
    /// torrent has a store. It costs the swarm: all who do so want the same pieces.
    pub async fn download_in_order(&self) {
        // Fails only when the session ends, and then nothing more comes in any order.
        let _ = self
            .commands
            .send(SessionCommand::DownloadInOrder(self.key))
            .await;
    }

    /// Names file servers that have the torrent's files. They are used, at most a few at a time,
    /// while peers give less than
    /// [`Tuning::web_seeds_below`](crate::Tuning::web_seeds_below). What they send is
    /// verified like what peers send. At most 16 are kept.
    pub async fn add_web_seeds(&self, urls: &[WebSeedUrl]) {
        let command = SessionCommand::AddWebSeeds(self.key, urls.to_vec());
        // Fails only when the session ends, and then there is no use for them.
        let _ = self.commands.send(command).await;
    }

    /// What the torrent is doing; at most about a second old.
    pub fn status(&self) -> TorrentStatus {
        self.views.status.borrow().clone()
    }

    /// The status whenever it changes, about once a second. Closed when the torrent is removed
    /// or the session ends.
    pub fn subscribe(&self) -> watch::Receiver<TorrentStatus> {
        self.views.status.clone()
    }

    /// The connections of this torrent; none when the session ends.
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

    /// Where the content stands and came from, in at most
    /// [`MAX_MAP_CELLS`](crate::MAX_MAP_CELLS) cells; `None` before it has a place on disk, and when
    /// the session ends.
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

    /// Tells that blocks are damaged on disk which were verified, and are no longer in the torrent's
    /// `store`: they are fetched again, and nothing else. Afterwards the store is sealed again.
    ///
    /// # Errors
    ///
    /// When what is good beside them cannot be read.
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
        let held = match read.await {
            Ok(Ok(held)) => held,
            Ok(Err(error)) => {
                tracing::error!(torrent = %v2, error = %Causes(&error), "cannot read the store");
                return Err(AddError::Unreadable(v2));
            }
            Err(error) => {
                tracing::error!(torrent = %v2, %error, "reading the store did not come to an end");
                return Err(AddError::Unreadable(v2));
            }
        };
        let command = SessionCommand::Repair {
            torrent: self.key,
            damaged,
            held,
        };
        self.commands
            .send(command)
            .await
            .map_err(|_| AddError::Ending)
    }

    /// Parts with all peers, makes what is there durable and forgets the torrent. Its store stays
    /// as it is.
    pub async fn remove(&self) {
        let (reply, answer) = oneshot::channel();
        let command = SessionCommand::Remove {
            torrent: self.key,
            reply,
        };
        if self.commands.send(command).await.is_ok() {
            // An error says that the session ended, which did the same.
            let _ = answer.await;
        }
    }
}

/// Reads what the engine has to know of a store, on a thread that may wait for the disk.
pub(crate) async fn prepare(
    store: Arc<TorrentStore>,
    sources: Option<Arc<ReuseSources>>,
) -> Result<PreparedStore, AddError> {
    let v2 = store.info().hashes().v2;
    // Where nothing is held, asking for leaf hashes would be in vain.
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
            tracing::error!(torrent = %v2, %error, "reading the store did not come to an end");
            Err(AddError::Unreadable(v2))
        }
    }
}

/// The leaf hashes of the verified blocks of a piece.
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
    // Pieces verified in part are few: those whose leaves were proven one by one and whose
    // download was cut off. Hashing their blocks again costs less than keeping account of them.
    for piece in layout.piece_indices() {
        if verified.piece_is_full(piece) {
            continue;
        }
        let held = held_leaves(store, piece)?;
        if !held.leaves.is_empty() {
            leaves.push(held);
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
