//! Runs the checks of a level in order.

use crate::blocks::network::Network;
use crate::lmdb::file::LedgerFile;
use crate::lmdb::free_list;
use crate::summary::{self, LedgerSummary};
use crate::verify::error::VerifyError;
use crate::verify::ledger::Ledger;
use crate::verify::options::VerifyOptions;
use crate::verify::outcomes::{Checks, passed, skipped};
use crate::verify::report::{Level, VerifyReport};
use crate::verify::sample::{self, SampleScope};
use crate::verify::{full, structure, sums};

/// Most pages of the free list that [`Level::L0`] reads: 16 MiB at the usual page size.
const QUICK_FREE_PAGES: u64 = 4096;

pub(super) fn run(
    file: &LedgerFile,
    level: Level,
    options: &VerifyOptions<'_>,
) -> Result<VerifyReport, VerifyError> {
    let mut checks = Checks::default();
    checks.add("meta-pages", structure::meta_pages(file));

    let quick = file.meta().free.pages() <= QUICK_FREE_PAGES;
    let short = file.pages() <= file.meta().last_page;
    let free = if quick || short || level >= Level::L1 {
        checks.run(
            "free-list",
            free_list::read(file).map(|list| (structure::free_list(&list), list)),
        )?
    } else {
        checks.add(
            "free-list",
            skipped("the list is long; it is read from level L1"),
        );
        None
    };
    checks.add("file-length", structure::file_length(file, free.as_ref()));

    // An LMDB file of something else is an error; a ledger with damaged tables is a finding.
    let Some(tables) = checks.run(
        "table-list",
        summary::ledger_tables(file).map(|tables| (passed(tables.len().to_string()), tables)),
    )?
    else {
        return Ok(VerifyReport {
            level,
            checks: checks.into_vec(),
            store_version: None,
            summary: None,
        });
    };
    let version = checks
        .run(
            "store-version",
            summary::store_version(file, &tables)
                .map(|version| (structure::store_version(version), version)),
        )?
        .flatten();
    checks.add("tables", structure::required(&tables, version));
    checks.add("table-flags", structure::table_flags(&tables));
    if let Some(outcome) = structure::policy(version, options.policy) {
        checks.add("policy", outcome);
    }

    let mut summary = None;
    if level >= Level::L1 {
        checks.add(
            "page-accounting",
            structure::page_accounting(file, &tables, free.as_ref()),
        );
        checks.add("counts", structure::counts(&tables));
        let network = checks
            .run("genesis", structure::genesis(file, &tables))?
            .unwrap_or(Network::Unknown);
        if let Some(outcome) = structure::claims(&tables, version, options.policy) {
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
            let scan = sums::run(&ledger, level, &mut checks)?;
            let picked = scan.as_ref().map(|(_, picked)| picked);
            if level == Level::L2 {
                sample::run(&ledger, picked, SampleScope::All, &mut checks)?;
            } else {
                full::run(&ledger, picked, &mut checks)?;
            }
            summary = scan.zip(version).map(|((scan, _), version)| {
                LedgerSummary::new(file, &tables, version, network, &scan)
            });
        }
    }
    Ok(VerifyReport {
        level,
        checks: checks.into_vec(),
        store_version: version,
        summary,
    })
}
