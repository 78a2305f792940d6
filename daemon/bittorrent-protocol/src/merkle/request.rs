//! Requests for hashes of a file's merkle tree (BEP 52, "hash request").

use crate::hash::MerkleHash;

/// Asks for `count` hashes of one layer of a file's tree and for the uncles that prove them.
/// Nothing about it has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HashRequest {
    /// The root of the file's tree.
    pub root: MerkleHash,
    /// How many layers the asked hashes stand above the leaves.
    pub base: u32,
    /// The first asked hash, counted in its layer.
    pub index: u32,
    /// How many hashes are asked for.
    pub count: u32,
    /// How many layers of uncles are asked for.
    pub proof_layers: u32,
}
