//! The ledger that is being verified.

use crate::blocks::network::Network;
use crate::blocks::schema::{NEWEST_VERSION, OLDEST_VERSION};
use crate::lmdb::file::LedgerFile;
use crate::lmdb::tables::Table;
use crate::verify::options::VerifyOptions;

/// A ledger under verification.
pub(super) struct Ledger<'a> {
    pub(super) file: &'a LedgerFile,
    pub(super) tables: &'a [Table],
    pub(super) network: Network,
    pub(super) version: Option<u32>,
    pub(super) options: &'a VerifyOptions<'a>,
}

impl Ledger<'_> {
    /// Returns the reason why blocks cannot be parsed, if so.
    pub(super) fn unreadable_blocks(&self) -> Option<String> {
        match self.version {
            Some(OLDEST_VERSION..=NEWEST_VERSION) => None,
            Some(version) => Some(format!(
                "the blocks of store version {version} are not known here"
            )),
            None => Some("the store version is unknown".into()),
        }
    }
}
