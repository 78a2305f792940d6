//! Why a segment is refused.

use thiserror::Error;

use crate::coder::CoderError;
use crate::head::Column;
use crate::runs::RunsError;

/// Why bytes are no segment, or a difference cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SegmentError {
    /// The body is shorter than its head.
    #[error("the segment is shorter than its head")]
    Short,
    /// The body does not begin as a segment of this format.
    #[error("not a segment of format 1")]
    Magic,
    /// The segment belongs to another network.
    #[error("the segment belongs to the network with genesis {}", data_encoding::HEXUPPER.encode(.found))]
    Network {
        /// The genesis hash in the head.
        found: [u8; 32],
    },
    /// Counts in the head contradict each other or exceed what a segment may have.
    #[error("the counts in the segment's head contradict each other")]
    Counts,
    /// The columns are not exactly as long as the head says, or the proofs are not.
    #[error("the segment's length is not what its head says")]
    Length,
    /// A column ends before its last symbol or goes on after it.
    #[error("the column {column} does not end with its last symbol")]
    ColumnEnd {
        /// Which.
        column: Column,
    },
    /// A value is outside of what it can be.
    #[error("the column {column} has a value out of range at {place}")]
    OutOfRange {
        /// Which.
        column: Column,
        /// Which run, representative or block, by index.
        place: usize,
    },
    /// New keys do not ascend.
    #[error("the new keys do not ascend")]
    KeyOrder,
    /// A new key is in the dictionary.
    #[error("a new key is in the dictionary already")]
    KeyKnown,
    /// No block names a new key.
    #[error("no block names one of the new keys")]
    KeyUnused,
    /// The segment needs more of the dictionary than the reader has.
    #[error("the segment needs {known} keys of the dictionary, of which {have} are at hand")]
    Dictionary {
        /// Keys that the segment may name.
        known: u64,
        /// Keys of the dictionary.
        have: u64,
    },
    /// A writer would have written this otherwise.
    #[error("{what} of the block at {place} is not in canonical form")]
    NotCanonical {
        /// The block's index.
        place: usize,
        /// What of it.
        what: &'static str,
    },
    /// A receive names as source what is no send to its account or was received before.
    #[error(
        "the receive at {place} takes what was not sent to its account, or was received before"
    )]
    Source {
        /// The receive's index.
        place: usize,
    },
}

impl SegmentError {
    pub(crate) fn coder(error: CoderError, column: Column, place: usize) -> Self {
        match error {
            CoderError::End => Self::ColumnEnd { column },
            CoderError::Range => Self::OutOfRange { column, place },
        }
    }
}

impl From<RunsError> for SegmentError {
    fn from(error: RunsError) -> Self {
        match error {
            RunsError::Count | RunsError::Empty => Self::Counts,
            RunsError::Order | RunsError::Height => Self::OutOfRange {
                column: Column::Cut,
                place: 0,
            },
        }
    }
}
