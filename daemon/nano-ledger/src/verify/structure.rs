//! The checks of L0 and L1: pages, tables and counts, without reading rows.

use crate::blocks::network::Network;
use crate::blocks::schema::{NEWEST_VERSION, OLDEST_VERSION, hex, required_tables};
use crate::lmdb::error::LedgerError;
use crate::lmdb::file::LedgerFile;
use crate::lmdb::free_list::FreeList;
use crate::lmdb::tables::{Table, find};
use crate::summary::genesis::{self, forged_genesis, unknown_genesis};
use crate::verify::options::Policy;
use crate::verify::outcomes::{failed, passed, skipped, unless};
use crate::verify::report::CheckOutcome;

/// Compares the store version with the policy; `None` when the policy has no versions.
pub(super) fn policy(version: Option<u32>, policy: &Policy) -> Option<CheckOutcome> {
    let accepted = policy.store_versions.as_ref()?;
    let expected = format!("store version {} to {}", accepted.start(), accepted.end());
    Some(match version {
        Some(version) if accepted.contains(&version) => passed(version.to_string()),
        Some(version) => failed(expected, version.to_string()),
        None => failed(expected, "no readable version"),
    })
}

/// Compares the ledger with the publisher's claims and the ledger before; `None` when there are none.
pub(super) fn claims(
    tables: &[Table],
    version: Option<u32>,
    policy: &Policy,
) -> Option<CheckOutcome> {
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

pub(super) fn meta_pages(file: &LedgerFile) -> CheckOutcome {
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

pub(super) fn free_list(list: &FreeList) -> CheckOutcome {
    unless(
        list.fault.clone(),
        "falling lists of given-out pages",
        || format!("{} free pages", list.pages),
    )
}

pub(super) fn file_length(file: &LedgerFile, free: Option<&FreeList>) -> CheckOutcome {
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

pub(super) fn store_version(version: Option<u32>) -> CheckOutcome {
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

pub(super) fn required(tables: &[Table], version: Option<u32>) -> CheckOutcome {
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

pub(super) fn table_flags(tables: &[Table]) -> CheckOutcome {
    match tables.iter().find(|table| table.tree.flags() != 0) {
        None => passed("0 for all tables"),
        Some(table) => failed(
            "0 for all tables",
            format!("{:#06x} for table {}", table.tree.flags(), table.name),
        ),
    }
}

/// Every page given out belongs to one tree or is free.
pub(super) fn page_accounting(
    file: &LedgerFile,
    tables: &[Table],
    free: Option<&FreeList>,
) -> CheckOutcome {
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

pub(super) fn entries(tables: &[Table], name: &str) -> Option<u64> {
    find(tables, name).map(|table| table.tree.entries())
}

/// Relations between the numbers of entries.
pub(super) fn counts(tables: &[Table]) -> CheckOutcome {
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

/// Finds the network of the ledger. A ledger without a genesis block belongs to no network.
pub(super) fn genesis(
    file: &LedgerFile,
    tables: &[Table],
) -> Result<(CheckOutcome, Network), LedgerError> {
    let network = genesis::network(file, tables)?;
    let outcome = match network {
        Network::Live | Network::Dev => unless(
            forged_genesis(file, tables, network)?,
            "the genesis block under its hash",
            || format!("the {network} network"),
        ),
        Network::Unknown => match unknown_genesis(file, tables)? {
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
