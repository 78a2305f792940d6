//! Blocks and records as the node stores them: parsing, proofs, chains, sorting.

pub(crate) mod block;
pub(crate) mod chain;
pub(crate) mod network;
pub(crate) mod proof;
pub(crate) mod schema;
pub(crate) mod sort;
