//! Copies of a node's live ledger.

use std::fs::File;
use std::path::Path;

use crate::error::{CopyError, OpenError};

/// A node's ledger, opened beside the running node under its lock file.
pub struct LiveLedger {
    _private: (),
}

impl LiveLedger {
    /// Opens the ledger at `path`.
    pub fn open(_path: &Path) -> Result<Self, OpenError> {
        unimplemented!()
    }

    /// Bytes a copy taken now would have.
    pub fn size_hint(&self) -> u64 {
        unimplemented!()
    }

    /// Writes a consistent, uncompacted copy to `out`, which may be the writing end of a pipe.
    pub fn copy_to(&self, _out: &mut File) -> Result<(), CopyError> {
        unimplemented!()
    }

    /// Writes a byte-for-byte copy of the file of a ledger that nobody writes to.
    pub fn copy_exact(&self, _out: &mut File) -> Result<(), CopyError> {
        unimplemented!()
    }
}
