//! The pieces of one torrent: which are verified, open or ready to pick, and what proves them.

pub(crate) mod descent;
pub(crate) mod layers;
pub(crate) mod leaves;
pub(crate) mod open_piece;
pub(crate) mod picker;
pub(crate) mod piece_set;
pub(crate) mod reuse;
pub(crate) mod senders;
pub(crate) mod transfer;
