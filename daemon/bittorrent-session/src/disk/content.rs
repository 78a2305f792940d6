//! What connections need to know of a torrent whose content has a place on disk.

use std::sync::Arc;

use bittorrent_protocol::Layout;
use bittorrent_store::TorrentStore;

/// A store and the piece space of its torrent.
#[derive(Debug)]
pub(crate) struct StoredContent {
    store: Arc<TorrentStore>,
    layout: Arc<Layout>,
}

impl StoredContent {
    pub(crate) fn new(store: Arc<TorrentStore>) -> Self {
        let layout = store.layout().clone();
        Self { store, layout }
    }

    pub(crate) const fn store(&self) -> &Arc<TorrentStore> {
        &self.store
    }

    pub(crate) const fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }
}
