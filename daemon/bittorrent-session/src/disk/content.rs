//! The content of a torrent as connections need it.

use std::sync::Arc;

use bittorrent_protocol::Layout;
use bittorrent_store::TorrentStore;

/// A store and the layout of its torrent.
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
