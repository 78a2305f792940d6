//! The checks themselves, in the order they run.

use crate::error::LedgerError;
use crate::file::{LedgerFile, Table};
use crate::free_list::{self, FreeList};
use crate::scan::{self, WEIGHT_PASSES, WEIGHT_ROWS, Weights};
use crate::schema::{NEWEST_VERSION, OLDEST_VERSION, SUPPLY, hex, required_tables};
use crate::summary::{self, LedgerSummary, Network, find};
use crate::verify::representatives::Representatives;
use crate::verify::sample::{self, Part, Picked};
use crate::verify::{Check, Level, Outcome, Policy, Report, VerifyError, VerifyOptions, full};

/// Most pages of the free list that [`Level::L0`] reads: 16 MiB at the usual page size.
const QUICK_FREE_PAGES: u64 = 4096;

/// Collects outcomes; a contradiction in the pages becomes the failure of the check that met it,
/// a failure of the system to read ends the verification.
pub(super) struct Checks(Vec<Check>);

impl Checks {
    pub(super) fn add(&mut self, name: &'static str, outcome: Outcome) {
        self.0.push(Check { name, outcome });
    }

    /// Records the outcome and passes the value on.
    pub(super) fn run<T, E: Into<VerifyError>>(
        &mut self,
        name: &'static str,
        result: Result<(Outcome, T), E>,
    ) -> Result<Option<T>, VerifyError> {
        match result.map_err(Into::into) {
            Ok((outcome, value)) => {
                self.add(name, outcome);
                Ok(Some(value))
            }
            Err(VerifyError::Ledger(
                error @ (LedgerError::Damaged { .. } | LedgerError::Record { .. }),
            )) => {
                self.add(name, failed("readable pages and rows", describe(&error)));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

pub(super) fn passed(found: impl Into<String>) -> Outcome {
    Outcome::Passed {
        found: found.into(),
    }
}

pub(super) fn failed(expected: impl Into<String>, found: impl Into<String>) -> Outcome {
    Outcome::Failed {
        expected: expected.into(),
        found: found.into(),
    }
}

pub(super) fn skipped(reason: impl Into<String>) -> Outcome {
    Outcome::Skipped {
        reason: reason.into(),
    }
}

/// Passed with `found` when `fault` is `None`.
pub(super) fn unless(
    fault: Option<String>,
    expected: &str,
    found: impl FnOnce() -> String,
) -> Outcome {
    match fault {
        None => passed(found()),
        Some(fault) => failed(expected, fault),
    }
}

fn describe(error: &LedgerError) -> String {
    match error {
        LedgerError::Damaged { tree, source, .. } => format!("in {tree}: {source}"),
        other => other.to_string(),
    }
}

pub(super) fn run(
    file: &LedgerFile,
    level: Level,
    options: &VerifyOptions<'_>,
) -> Result<Report, VerifyError> {
    let mut checks = Checks(Vec::new());
    checks.add("meta-pages", meta_pages(file));

    let quick = file.meta().free.pages() <= QUICK_FREE_PAGES;
    let short = file.pages() <= file.meta().last_page;
    let free = if quick || short || level >= Level::L1 {
        checks.run(
            "free-list",
            free_list::read(file).map(|list| (free_list(&list), list)),
        )?
    } else {
        checks.add(
            "free-list",
            skipped("the list is long; it is read from level L1"),
        );
        None
    };
    checks.add("file-length", file_length(file, free.as_ref()));

    // An LMDB file of something else is an error; a ledger with damaged tables is a finding.
    let Some(tables) = checks.run(
        "table-list",
        summary::ledger_tables(file).map(|tables| (passed(tables.len().to_string()), tables)),
    )?
    else {
        return Ok(Report {
            level,
            checks: checks.0,
            store_version: None,
            summary: None,
        });
    };
    let version = checks
        .run(
            "store-version",
            summary::store_version(file, &tables).map(|version| (store_version(version), version)),
        )?
        .flatten();
    checks.add("tables", required(&tables, version));
    checks.add("table-flags", table_flags(&tables));
    if let Some(outcome) = policy(version, options.policy) {
        checks.add("policy", outcome);
    }

    let mut summary = None;
    if level >= Level::L1 {
        checks.add(
            "page-accounting",
            page_accounting(file, &tables, free.as_ref()),
        );
        checks.add("counts", counts(&tables));
        let network = checks
            .run("genesis", genesis(file, &tables))?
            .unwrap_or(Network::Unknown);
        if let Some(outcome) = claims(&tables, version, options.policy) {
            checks.add("claims", outcome);
        }
        if level >= Level::L2 {
            let ledger = Ledger {
                file,
                tables: &tables,
                network,
                version,
                options,
            };
            let scan = sums(&ledger, level, &mut checks)?;
            let picked = scan.as_ref().map(|(_, picked)| picked);
            if level == Level::L2 {
                sample::run(&ledger, picked, Part::All, &mut checks)?;
            } else {
                full::run(&ledger, picked, &mut checks)?;
            }
            summary = scan.zip(version).map(|((scan, _), version)| {
                LedgerSummary::new(file, &tables, version, network, &scan)
            });
        }
    }
    Ok(Report {
        level,
        checks: checks.0,
        store_version: version,
        summary,
    })
}

/// A ledger under verification.
pub(super) struct Ledger<'a> {
    pub(super) file: &'a LedgerFile,
    pub(super) tables: &'a [Table],
    pub(super) network: Network,
    pub(super) version: Option<u32>,
    pub(super) options: &'a VerifyOptions<'a>,
}

impl Ledger<'_> {
    /// Why blocks cannot be read, if they cannot.
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

/// What the policy says of the store version; `None` when it says nothing.
fn policy(version: Option<u32>, policy: &Policy) -> Option<Outcome> {
    let accepted = policy.store_versions.as_ref()?;
    let expected = format!("store version {} to {}", accepted.start(), accepted.end());
    Some(match version {
        Some(version) if accepted.contains(&version) => passed(version.to_string()),
        Some(version) => failed(expected, version.to_string()),
        None => failed(expected, "no readable version"),
    })
}

/// Compares with what was claimed, and with what was there before; `None` when that is nothing.
fn claims(tables: &[Table], version: Option<u32>, policy: &Policy) -> Option<Outcome> {
    let blocks = entries(tables, "blocks")
        .unwrap_or(0)
        .saturating_add(entries(tables, "pruned").unwrap_or(0));
    let mut agreed = Vec::new();
    if let Some(claimed) = policy.claimed_version {
        if version != Some(claimed) {
            let found = version.map_or("no readable version".into(), |version| version.to_string());
            return Some(failed(format!("store version {claimed}"), found));
        }
        agreed.push(format!("store version {claimed}"));
    }
    if let Some(claimed) = policy.claimed_blocks {
        if blocks != claimed {
            return Some(failed(format!("{claimed} blocks"), blocks.to_string()));
        }
        agreed.push(format!("{claimed} blocks"));
    }
    if let Some(least) = policy.least_blocks {
        if blocks < least {
            let expected = format!("no fewer blocks than the {least} before");
            return Some(failed(expected, blocks.to_string()));
        }
        agreed.push(format!("no fewer blocks than {least}"));
    }
    (!agreed.is_empty()).then(|| passed(agreed.join(", ")))
}

fn meta_pages(file: &LedgerFile) -> Outcome {
    let expected = "two valid meta pages of one page size";
    match file.metas() {
        [Ok(first), Ok(second)] if first.page_size != second.page_size => failed(
            expected,
            format!("page sizes {} and {}", first.page_size, second.page_size),
        ),
        [Ok(first), Ok(second)] if first.txn.abs_diff(second.txn) > 1 => failed(
            "meta pages of neighbouring transactions",
            format!("transactions {} and {}", first.txn, second.txn),
        ),
        [Ok(_), Ok(_)] => {
            let meta = file.meta();
            passed(format!(
                "page size {}, transaction {}",
                meta.page_size, meta.txn
            ))
        }
        [Err(fault), _] => failed(expected, format!("meta page 0: {fault}")),
        [_, Err(fault)] => failed(expected, format!("meta page 1: {fault}")),
    }
}

fn free_list(list: &FreeList) -> Outcome {
    unless(
        list.fault.clone(),
        "falling lists of given-out pages",
        || format!("{} free pages", list.pages),
    )
}

fn file_length(file: &LedgerFile, free: Option<&FreeList>) -> Outcome {
    let (len, used) = (file.file_len(), file.meta().used_len());
    let missing = (file.meta().last_page + 1).saturating_sub(file.pages());
    if missing == 0 {
        return passed(format!("{len} bytes, {used} in use"));
    }
    match free {
        Some(free) if free.fault.is_none() && free.behind_end == missing => passed(format!(
            "{len} bytes; the {missing} pages up to {used} are free"
        )),
        _ => failed(format!("at least {used} bytes"), format!("{len} bytes")),
    }
}

fn store_version(version: Option<u32>) -> Outcome {
    let expected = format!("a version from {OLDEST_VERSION}");
    match version {
        None => failed(expected, "no readable version in the table meta"),
        Some(version) if version < OLDEST_VERSION => failed(
            expected,
            format!("{version}, too old for any node since V22"),
        ),
        Some(version) if version > NEWEST_VERSION => passed(format!(
            "{version}, newer than the {NEWEST_VERSION} known here"
        )),
        Some(version) => passed(version.to_string()),
    }
}

fn required(tables: &[Table], version: Option<u32>) -> Outcome {
    let Some(version) = version else {
        return skipped("the store version is unknown");
    };
    let required = required_tables(version);
    let missing: Vec<_> = required
        .iter()
        .filter(|name| find(tables, name).is_none())
        .copied()
        .collect();
    if missing.is_empty() {
        let names: Vec<_> = tables.iter().map(|table| table.name.as_str()).collect();
        passed(names.join(" "))
    } else {
        failed(
            required.join(" "),
            format!("no table {}", missing.join(", ")),
        )
    }
}

fn table_flags(tables: &[Table]) -> Outcome {
    match tables.iter().find(|table| table.tree.flags() != 0) {
        None => passed("0 for all tables"),
        Some(table) => failed(
            "0 for all tables",
            format!("{:#06x} for table {}", table.tree.flags(), table.name),
        ),
    }
}

/// Every page given out belongs to one tree or is free.
fn page_accounting(file: &LedgerFile, tables: &[Table], free: Option<&FreeList>) -> Outcome {
    let Some(free) = free else {
        return skipped("the list of free pages is unreadable");
    };
    let meta = file.meta();
    let trees = tables
        .iter()
        .map(|table| &table.tree)
        .chain([&meta.free, &meta.main]);
    let in_trees = trees.fold(0_u64, |sum, tree| sum.saturating_add(tree.pages()));
    let given_out = meta.last_page.saturating_add(1);
    let counted = in_trees.saturating_add(free.pages).saturating_add(2);
    let found = format!(
        "{in_trees} in trees, {} free, 2 meta, of {given_out}",
        free.pages
    );
    if counted == given_out {
        passed(found)
    } else {
        failed("all pages either in a tree, free or meta", found)
    }
}

fn entries(tables: &[Table], name: &str) -> Option<u64> {
    find(tables, name).map(|table| table.tree.entries())
}

/// Relations between the numbers of entries.
fn counts(tables: &[Table]) -> Outcome {
    let blocks = entries(tables, "blocks")
        .map(|blocks| blocks.saturating_add(entries(tables, "pruned").unwrap_or(0)));
    let accounts = entries(tables, "accounts");
    let relations = [
        ("accounts", accounts, "blocks", blocks),
        (
            "confirmation heights",
            entries(tables, "confirmation_height"),
            "accounts",
            accounts,
        ),
        (
            "representatives",
            entries(tables, "rep_weights"),
            "accounts",
            accounts,
        ),
        ("receivables", entries(tables, "pending"), "blocks", blocks),
    ];
    for (small, few, large, many) in relations {
        if let (Some(few), Some(many)) = (few, many)
            && few > many
        {
            return failed(
                format!("no more {small} than {large}"),
                format!("{few} and {many}"),
            );
        }
    }
    if accounts == Some(0) || blocks == Some(0) {
        return failed("at least the genesis account and block", "an empty ledger");
    }
    let named = [
        "blocks",
        "accounts",
        "confirmation_height",
        "pending",
        "rep_weights",
        "pruned",
    ];
    let found: Vec<_> = named
        .iter()
        .filter_map(|name| entries(tables, name).map(|entries| format!("{entries} {name}")))
        .collect();
    passed(found.join(", "))
}

/// Which network's ledger it is. Without its genesis block a ledger is none of any network.
fn genesis(file: &LedgerFile, tables: &[Table]) -> Result<(Outcome, Network), LedgerError> {
    let network = summary::network(file, tables)?;
    let outcome = match network {
        Network::Live | Network::Dev => unless(
            summary::forged_genesis(file, tables, network)?,
            "the genesis block under its hash",
            || format!("the {network} network"),
        ),
        Network::Unknown => match summary::unknown_genesis(file, tables)? {
            Some(block) => passed(format!(
                "a network not known here, with the genesis block {}",
                hex(&block)
            )),
            None => failed(
                "the genesis block of the ledger's network",
                "no genesis block",
            ),
        },
    };
    Ok((outcome, network))
}

/// The scans of the small tables. Gives the sums, and the accounts to look into.
fn sums(
    ledger: &Ledger<'_>,
    level: Level,
    checks: &mut Checks,
) -> Result<Option<(scan::AccountScan, Picked)>, VerifyError> {
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
    let mut picked = Picked::new(&options.sample);
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

fn confirmation_heights(scan: &scan::AccountScan, policy: &Policy) -> Outcome {
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

fn block_count(tables: &[Table], scan: &scan::AccountScan) -> Outcome {
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

fn supply(balances: Option<u128>, pending: Option<u128>) -> Outcome {
    let sum = balances
        .zip(pending)
        .and_then(|(balances, pending)| balances.checked_add(pending));
    match sum {
        Some(SUPPLY) => passed(format!("balances and receivables sum up to {SUPPLY}")),
        Some(sum) => failed(SUPPLY.to_string(), sum.to_string()),
        None => failed(SUPPLY.to_string(), "more than 128 bits hold"),
    }
}
