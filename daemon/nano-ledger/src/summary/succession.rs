//! Decides whether a ledger may replace another: it must belong to the same network and not be older.

use std::path::Path;

use crate::blocks::network::Network;
use crate::lmdb::error::LedgerError;
use crate::summary::{LedgerSummary, outline, summarize};

/// The network and size of a ledger, by which two are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerPosition {
    /// The network.
    pub network: Network,
    /// Blocks, with those that were pruned.
    pub blocks: u64,
    /// Cemented blocks.
    pub cemented: u64,
}

/// Why a ledger should not replace another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Regression {
    /// The new ledger is of another network.
    OtherNetwork {
        /// The network of the earlier ledger.
        before: Network,
        /// The network of the new ledger.
        after: Network,
    },
    /// The new ledger is an older state: it has fewer cemented blocks, whose number never falls, or as many and fewer
    /// blocks. (With more cemented blocks it may have fewer blocks, as a node drops blocks that lose an election.)
    Older {
        /// The earlier ledger.
        before: LedgerPosition,
        /// The new ledger.
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
    /// Returns why a ledger at this position should not replace one at the position `before`, if so.
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

/// Returns why the ledger at `after` should not replace the one at `before`, if so.
///
/// A ledger that has no fewer blocks takes milliseconds to compare; otherwise the accounts of both are
/// scanned, which takes seconds to minutes on a live-network ledger.
///
/// # Errors
///
/// [`LedgerError`] when one of them is not a ledger, is damaged or cannot be read.
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
