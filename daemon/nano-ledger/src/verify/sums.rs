//! The scans of L2 over the small tables: everything but the blocks.

use crate::blocks::schema::SUPPLY;
use crate::lmdb::tables::{Table, find};
use crate::summary::scan::{self, AccountScan};
use crate::summary::weights::{WEIGHT_PASSES, WEIGHT_ROWS, Weights};
use crate::verify::error::VerifyError;
use crate::verify::ledger::Ledger;
use crate::verify::options::Policy;
use crate::verify::outcomes::{Checks, failed, passed, skipped, unless};
use crate::verify::report::{CheckOutcome, Level};
use crate::verify::representatives::Representatives;
use crate::verify::sample::SampledAccounts;
use crate::verify::structure::entries;

/// Scans the small tables. Returns the sums, and the accounts to sample.
pub(super) fn run(
    ledger: &Ledger<'_>,
    level: Level,
    checks: &mut Checks,
) -> Result<Option<(AccountScan, SampledAccounts)>, VerifyError> {
    let &Ledger {
        file,
        tables,
        options,
        ..
    } = ledger;
    let (Some(accounts), Some(heights)) = (
        find(tables, "accounts"),
        find(tables, "confirmation_height"),
    ) else {
        checks.add("accounts", skipped("a table is missing"));
        return Ok(None);
    };
    let mut weights = match find(tables, "rep_weights") {
        None => {
            checks.add(
                "rep-weights",
                skipped("this store version has no such table"),
            );
            None
        }
        Some(table) => match Weights::new(file, table, WEIGHT_ROWS) {
            Ok(weights) => Some(weights),
            Err(error) => {
                checks.run::<(), _>("rep-weights", Err(error))?;
                None
            }
        },
    };
    let mut picked = SampledAccounts::new(&options.sample);
    let mut pace = options.pace("accounts", accounts.tree.entries());
    let mut representatives = Representatives::new(file, tables);
    let scan = scan::scan_accounts(file, accounts, heights, |key, account| {
        if picked.is_wanted() && representatives.is_block(&account.representative)? {
            picked.add_suspect(*key);
        }
        if let Some(weights) = &mut weights {
            weights.take(key, account);
        }
        picked.offer(key, account);
        pace.step()
    });
    let Some(scan) = checks.run(
        "accounts",
        scan.map(|scan| {
            let outcome = unless(
                scan.empty.describe(),
                "at least one block per account",
                || format!("{} accounts", scan.accounts),
            );
            (outcome, scan)
        }),
    )?
    else {
        return Ok(None);
    };
    checks.add("block-count", block_count(tables, &scan));
    checks.add(
        "confirmation-heights",
        confirmation_heights(&scan, options.policy),
    );
    if let Some(weights) = weights {
        picked.add(weights.greatest());
        let mut pace = options.pace("weights", accounts.tree.entries());
        let passes = if level >= Level::L3 {
            u32::MAX
        } else {
            WEIGHT_PASSES
        };
        let outcome = weights
            .finish(accounts, passes, || pace.step())
            .map(|result| match result {
                Ok(findings) => unless(
                    findings.describe(),
                    "the balances by representative",
                    || "the balances by representative".into(),
                ),
                Err(reason) => skipped(reason),
            });
        checks.run("rep-weights", outcome.map(|outcome| (outcome, ())))?;
    }
    match find(tables, "pending") {
        None => checks.add("supply", skipped("the table pending is missing")),
        Some(pending) => {
            let mut pace = options.pace("receivables", pending.tree.entries());
            let outcome = scan::sum_pending(file, pending, || pace.step())
                .map(|pending| supply(scan.balances, pending));
            checks.run("supply", outcome.map(|outcome| (outcome, ())))?;
        }
    }
    Ok(Some((scan, picked)))
}

fn confirmation_heights(scan: &AccountScan, policy: &Policy) -> CheckOutcome {
    let found = format!("{} cemented blocks", scan.cemented);
    if let Some(fault) = scan.heights.describe() {
        return failed("a height within each account's blocks", fault);
    }
    match (policy.claimed_cemented, policy.least_cemented) {
        (Some(claimed), _) if claimed != scan.cemented => {
            failed(format!("{claimed} cemented blocks, as claimed"), found)
        }
        (_, Some(least)) if scan.cemented < least => {
            failed(format!("no fewer than the {least} cemented before"), found)
        }
        _ => passed(found),
    }
}

fn block_count(tables: &[Table], scan: &AccountScan) -> CheckOutcome {
    let stored = entries(tables, "blocks").unwrap_or(0);
    let pruned = entries(tables, "pruned").unwrap_or(0);
    if scan.blocks == stored.saturating_add(pruned) {
        passed(format!("{} blocks", scan.blocks))
    } else {
        failed(
            format!("the {stored} stored and {pruned} pruned blocks"),
            format!("{} blocks by the accounts' counts", scan.blocks),
        )
    }
}

fn supply(balances: Option<u128>, pending: Option<u128>) -> CheckOutcome {
    let sum = balances
        .zip(pending)
        .and_then(|(balances, pending)| balances.checked_add(pending));
    match sum {
        Some(SUPPLY) => passed(format!("balances and receivables sum up to {SUPPLY}")),
        Some(sum) => failed(SUPPLY.to_string(), sum.to_string()),
        None => failed(SUPPLY.to_string(), "more than 128 bits hold"),
    }
}
