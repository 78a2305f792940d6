//! Findings on single blocks and on the chains of accounts.

use crate::blocks::block::{self, Block, Id, Signed};
use crate::blocks::chain::{Chain, Effect};
use crate::blocks::network::Network;
use crate::blocks::proof;
use crate::blocks::schema::{Account, hex};
use crate::findings::Findings;
use crate::lmdb::error::LedgerError;
use crate::verify::outcomes::{Checks, skipped, unless};
use crate::verify::representatives::Representatives;

/// Findings on single blocks.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    pub(super) blocks: u64,
    pub(super) hashes: Findings,
    signatures: Findings,
    work: Findings,
    /// Receives stored as changes.
    disguised: Findings,
    /// Blocks whose signer is not known.
    unsigned: u64,
    /// Blocks whose threshold is not known.
    unworked: u64,
}

impl Proofs {
    /// Checks a row of `blocks`; `None` when it is no block or not the one of this hash.
    pub(super) fn check(&mut self, hash: &[u8], row: &[u8], network: Network) -> Option<Signed> {
        self.blocks += 1;
        let Some(signed) = Signed::parse(row) else {
            self.hashes
                .add(|| format!("what is stored for {} is no block", hex(hash)));
            return None;
        };
        if signed.hash != hash {
            self.hashes.add(|| {
                format!(
                    "the block stored for {} has hash {}",
                    hex(hash),
                    hex(&signed.hash)
                )
            });
            return None;
        }
        match proof::is_signed(&signed, network) {
            None => self.unsigned += 1,
            Some(true) => {}
            Some(false) => self
                .signatures
                .add(|| format!("the signature of block {} is false", hex(hash))),
        }
        match proof::is_worked(&signed, network) {
            None => self.unworked += 1,
            Some(true) => {}
            Some(false) => self
                .work
                .add(|| format!("too little work was done for block {}", hex(hash))),
        }
        Some(signed)
    }

    /// Adds a finding if the block is a receive that is stored as a change.
    pub(super) fn representative(
        &mut self,
        signed: &Signed,
        representatives: &mut Representatives<'_>,
    ) -> Result<(), LedgerError> {
        if representatives.is_receive_in_disguise(signed)? {
            self.disguised.add(|| {
                format!(
                    "change {} names block {}, as the receive of it would",
                    hex(&signed.hash),
                    hex(&signed.block.representative)
                )
            });
        }
        Ok(())
    }

    pub(super) fn append(&mut self, later: Self) {
        self.blocks += later.blocks;
        self.disguised.append(later.disguised);
        self.hashes.append(later.hashes);
        self.signatures.append(later.signatures);
        self.work.append(later.work);
        self.unsigned += later.unsigned;
        self.unworked += later.unworked;
    }

    /// Adds the outcomes; `what` describes the blocks they are about.
    pub(super) fn report(&self, what: &str, checks: &mut Checks) {
        let blocks = self.blocks;
        checks.add(
            "block-hashes",
            unless(
                self.hashes.describe(),
                "blocks stored under their hashes",
                || format!("{blocks} blocks{what}"),
            ),
        );
        checks.add(
            "signatures",
            unless(self.signatures.describe(), "blocks signed by their accounts", || {
                match self.unsigned {
                    0 => format!("{blocks} signatures{what}"),
                    unknown => format!(
                        "{} signatures{what}; {unknown} epoch upgrades are signed by a key not known here",
                        blocks - unknown
                    ),
                }
            }),
        );
        let work = if self.unworked == blocks && blocks > 0 {
            skipped("how much work this network asks for is not known here")
        } else {
            unless(self.work.describe(), "enough work for each block", || {
                format!("the work of {blocks} blocks{what}")
            })
        };
        checks.add("work", work);
        checks.add(
            "representatives",
            unless(
                self.disguised.describe(),
                "legacy changes to representatives that are no blocks",
                || format!("the legacy changes among {blocks} blocks{what}"),
            ),
        );
    }
}

/// Findings on the chains of accounts.
#[derive(Debug, Default)]
pub(super) struct Links {
    pub(super) accounts: u64,
    pub(super) chains: Findings,
    pub(super) heads: Findings,
    pub(super) confirmed: Findings,
    pub(super) receivables: Findings,
}

impl Links {
    /// Appends a block to a chain and returns its effect, or [`Effect::None`] if it violates a rule.
    pub(super) fn follow(&mut self, chain: &mut Option<Chain>, hash: &Id, block: &Block) -> Effect {
        let before = chain.as_ref();
        let successor = before.is_none_or(|before| before.successor == *hash);
        let (after, effect) = Chain::follow(before, hash, block);
        *chain = Some(after);
        let breach = match effect {
            Err(breach) => Some(breach),
            Ok(_) if !successor => Some("it is not the successor noted before it"),
            Ok(_) => None,
        };
        if let Some(breach) = breach {
            self.chains.add(|| {
                let (hash, account) = (hex(hash), hex(&block.account));
                format!(
                    "block {hash} at height {} of account {account}: {breach}",
                    block.height
                )
            });
        }
        effect.unwrap_or(Effect::None)
    }

    /// Compares the end of a chain with the account's row.
    pub(super) fn head(&mut self, key: &Id, row: &Account, chain: &Chain) {
        let differs = if row.head != chain.hash {
            Some("head")
        } else if chain.successor != block::NONE {
            Some("head, which has a successor:")
        } else if row.block_count != chain.height {
            Some("block count")
        } else if row.balance != chain.balance {
            Some("balance")
        } else if chain
            .representative
            .is_some_and(|representative| representative != row.representative)
        {
            Some("representative")
        } else if block::epoch(row.epoch) != Some(chain.epoch) {
            Some("epoch")
        } else {
            None
        };
        if let Some(field) = differs {
            self.heads.add(|| {
                format!(
                    "the {field} of account {} is not that of its last block",
                    hex(key)
                )
            });
        }
    }

    pub(super) fn append(&mut self, later: Self) {
        self.accounts += later.accounts;
        self.chains.append(later.chains);
        self.heads.append(later.heads);
        self.confirmed.append(later.confirmed);
        self.receivables.append(later.receivables);
    }

    /// Adds the outcomes except that of receivables; `what` describes the accounts they are about.
    pub(super) fn report(&self, what: &str, checks: &mut Checks) {
        let accounts = self.accounts;
        let found = |of: &str| format!("{of} of {accounts} accounts{what}");
        checks.add(
            "chains",
            unless(
                self.chains.describe(),
                "blocks that follow one another",
                || found("the chains"),
            ),
        );
        checks.add(
            "account-heads",
            unless(
                self.heads.describe(),
                "accounts as their last blocks leave them",
                || found("the rows"),
            ),
        );
        checks.add(
            "confirmed-blocks",
            unless(
                self.confirmed.describe(),
                "the block at each confirmation height",
                || found("the confirmed blocks"),
            ),
        );
    }
}

/// Adds all outcomes of [`Proofs`] and [`Links`] as skipped.
pub(super) fn skip_all(reason: &str, checks: &mut Checks) {
    for name in ["block-hashes", "signatures", "work", "representatives"] {
        checks.add(name, skipped(reason));
    }
    skip_links(reason, checks);
}

/// Adds all outcomes of [`Links`] as skipped.
pub(super) fn skip_links(reason: &str, checks: &mut Checks) {
    for name in ["chains", "account-heads", "confirmed-blocks", "receivables"] {
        checks.add(name, skipped(reason));
    }
}
