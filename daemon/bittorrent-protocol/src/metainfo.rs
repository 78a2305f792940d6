//! Torrents: the info dictionary, the piece layers and the other fields of a `.torrent` file (BEP
//! 3, BEP 52).

mod alias;
mod build;
mod info;
mod layer;
mod names;
mod torrent;
mod tree;
mod urls;
mod v1;

pub use alias::alias_info_hash_without_empty_keys;
pub use build::{BuildError, HashedContent, MetainfoBuilder, v1_pads_tail};
pub use info::{File, Info, InfoError};
pub use layer::{LayerError, PieceLayer};
pub use names::{MAX_NAME_LEN, MAX_PATH_LEN, MAX_PATHS_MEMORY, MAX_RENAMED, PathError};
pub use torrent::{Metainfo, MetainfoError, UnhashedFields};
pub use tree::{MAX_FILE_LEN, TreeError};
pub use v1::{Inconsistency, MAX_V1_PIECE_LEN, V1Error};
