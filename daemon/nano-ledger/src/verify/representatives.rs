//! Whether a representative is a block of the ledger.
//!
//! A legacy receive and a legacy change are hashed alike: Blake2b of the previous block and one more id, which is the
//! received send or the new representative. A receive can therefore be stored as a change whose representative is the
//! hash of the send. Its hash, signature and work stay valid, and everything derived from the blocks fits, but the
//! account never receives the amount. No key is known whose bytes are the hash of a block, so such a change is
//! refused. State blocks are unambiguous and may name any representative.

use std::collections::HashSet;

use crate::blocks::block::{BlockKind, Id, Signed};
use crate::lmdb::error::LedgerError;
use crate::lmdb::file::LedgerFile;
use crate::lmdb::tables::{Table, find};

/// Maximum number of representatives in the cache of those that are no blocks: 2 MiB.
const MOST_KNOWN: usize = 1 << 16;

/// Looks up representatives among the blocks and caches those that are not found.
pub(super) struct Representatives<'a> {
    file: &'a LedgerFile,
    tables: [Option<&'a Table>; 2],
    known: HashSet<Id>,
}

impl<'a> Representatives<'a> {
    pub(super) fn new(file: &'a LedgerFile, tables: &'a [Table]) -> Self {
        Self {
            file,
            tables: ["blocks", "pruned"].map(|name| find(tables, name)),
            known: HashSet::new(),
        }
    }

    /// Whether the ledger has, or had before it was pruned, a block with this hash.
    pub(super) fn is_block(&mut self, id: &Id) -> Result<bool, LedgerError> {
        if self.known.contains(id) {
            return Ok(false);
        }
        for table in self.tables.into_iter().flatten() {
            if self.file.get(table, id)?.is_some() {
                return Ok(true);
            }
        }
        if self.known.len() == MOST_KNOWN {
            self.known.clear();
        }
        self.known.insert(*id);
        Ok(false)
    }

    /// Returns whether the block is a receive that is stored as a change.
    pub(super) fn is_receive_in_disguise(&mut self, signed: &Signed) -> Result<bool, LedgerError> {
        match signed.block.kind {
            BlockKind::Change => self.is_block(&signed.block.representative),
            BlockKind::Send | BlockKind::Receive | BlockKind::Open | BlockKind::State => Ok(false),
        }
    }
}
