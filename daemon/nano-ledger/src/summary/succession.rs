//! Whether a ledger may take the place of another: it must be of the same network, and not older.

use std::path::Path;

use crate::blocks::network::Network;
use crate::lmdb::error::LedgerError;
use crate::summary::{LedgerSummary, outline, summarize};

/// What two ledgers are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerPosition {
    /// The network.
    pub network: Network,
    /// Blocks, with those that were pruned.
    pub blocks: u64,
    /// Cemented blocks.
    pub cemented: u64,
}

/// Why a ledger should not take the place of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Regression {
    /// It is of another network.
    OtherNetwork {
        /// The network of the ledger before.
        before: Network,
        /// Its own.
        after: Network,
    },
    /// It is an older state: it has fewer cemented blocks, which never become fewer, or as many and fewer
    /// blocks. (With more cemented blocks it may have fewer others, as a node drops blocks that lose an
    /// election.)
    Older {
        /// What the ledger before has.
        before: LedgerPosition,
        /// What it has itself.
        after: LedgerPosition,
    },
}

impl From<&LedgerSummary> for LedgerPosition {
    fn from(summary: &LedgerSummary) -> Self {
        Self {
            network: summary.network,
            blocks: summary.blocks,
            cemented: summary.cemented,
        }
    }
}

impl LedgerPosition {
    /// Why a ledger with this standing should not follow one with the standing `before`, if so.
    #[must_use]
    pub fn regression_from(&self, before: &Self) -> Option<Regression> {
        let (before, after) = (*before, *self);
        if before.network != after.network {
            return Some(Regression::OtherNetwork {
                before: before.network,
                after: after.network,
            });
        }
        ((after.cemented, after.blocks) < (before.cemented, before.blocks))
            .then_some(Regression::Older { before, after })
    }
}

/// Why the ledger at `after` should not take the place of the one at `before`, if so.
///
/// A ledger that has no fewer blocks takes milliseconds to compare; otherwise the accounts of both are
/// scanned, which takes seconds to minutes on a live-network ledger.
///
/// # Errors
///
/// [`LedgerError`] when one of them is no ledger, is damaged or cannot be read.
pub fn regression(before: &Path, after: &Path) -> Result<Option<Regression>, LedgerError> {
    let outlines = (outline(before)?, outline(after)?);
    if outlines.0.network == outlines.1.network && outlines.1.blocks >= outlines.0.blocks {
        return Ok(None);
    }
    let standing = |path| summarize(path).map(|summary| LedgerPosition::from(&summary));
    Ok(standing(after)?.regression_from(&standing(before)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_ledger_and_one_of_another_network_are_told_apart() {
        let standing = |network, blocks, cemented| LedgerPosition {
            network,
            blocks,
            cemented,
        };
        let before = standing(Network::Live, 5966, 5926);
        for (blocks, cemented, is_older) in [
            (5966, 5926, false),
            (5967, 5926, false),
            // Blocks that lost an election are gone.
            (5950, 5930, false),
            (5965, 5926, true),
            (6000, 5925, true),
            (5460, 5338, true),
        ] {
            let after = standing(Network::Live, blocks, cemented);
            let expected = is_older.then_some(Regression::Older { before, after });
            assert_eq!(
                after.regression_from(&before),
                expected,
                "{blocks} {cemented}"
            );
        }
        for after in [Network::Dev, Network::Unknown] {
            assert_eq!(
                standing(after, 6000, 6000).regression_from(&before),
                Some(Regression::OtherNetwork {
                    before: Network::Live,
                    after
                })
            );
        }
    }

    #[test]
    fn genuine_ledgers_are_compared_on_disk() {
        let data = |name| {
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/data")
                .join(name)
        };
        let (older, newer) = (data("before.ldb"), data("after.ldb"));
        assert_eq!(regression(&older, &newer).unwrap(), None);
        assert_eq!(regression(&newer, &newer).unwrap(), None);
        match regression(&newer, &older).unwrap() {
            Some(Regression::Older { before, after }) => {
                assert_eq!((before.cemented, after.cemented), (5926, 5338));
            }
            other => panic!("{other:?}"),
        }
    }
}
