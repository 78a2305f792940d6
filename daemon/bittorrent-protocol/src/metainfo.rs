//! Torrents: the info dictionary, piece layers and what a `.torrent` file says around them
//! (BEP 3, BEP 52).

mod layer;

pub use layer::{LayerError, PieceLayer};
