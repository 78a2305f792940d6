//! Reads and writes segments: files of cemented Nano blocks that follow from the ledger alone. Pure: no I/O, no clock, no keys; knows neither LMDB nor
//! torrents. Readers are total and bound what they allocate by the counts in a file's head.
//!
//! A *cut* says for each account up to which height its blocks are cemented. The blocks of a later cut that an earlier one lacks are a *difference*.
//! A *segment* is a difference as two files: a *body* ([`Segment`]), whose bytes every node derives alike, and *proofs* ([`Proofs`]), the signatures and
//! works, which the publisher chooses and every reader can verify.

pub mod coder;
mod columns;
mod dictionary;
mod error;
mod head;
pub mod manifest;
mod proofs;
mod runs;
mod seal;
mod segment;
mod split;
mod unreceived;

pub use dictionary::{Dictionary, Keys};
pub use error::SegmentError;
pub use head::{Column, HEAD_LEN, Head, MAX_BLOCKS};
pub use proofs::{PROOF_LEN, ProofError, Proofs, Signature};
pub use runs::{Amount, Block, Key, MAX_HEIGHT, Number, Run, Runs, RunsError, Source};
pub use seal::{SealError, seal};
pub use segment::Segment;
pub use split::{Circle, Piece, depths, pieces};
