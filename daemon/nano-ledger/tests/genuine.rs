//! Ledgers written by a real node, held against what the node itself said of them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::data;
use nano_ledger::{CheckOutcome, LedgerFile, Level, Network, VerifyOptions, summarize, verify};
use serde_json::Value;

/// File, blocks, cemented, accounts, pending; as the README in `tests/data` has them.
const GENUINE: [(&str, u64, u64, u64, u64); 2] = [
    ("before", 5460, 5338, 195, 878),
    ("after", 5966, 5926, 232, 944),
];

fn rpc(name: &str) -> Value {
    let text = std::fs::read_to_string(data(&format!("{name}.rpc.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn summaries_say_what_the_node_says() {
    for (name, blocks, cemented, accounts, pending) in GENUINE {
        let path = data(&format!("{name}.ldb"));
        let summary = summarize(&path).unwrap();
        assert_eq!(summary.blocks, blocks);
        assert_eq!(summary.cemented, cemented);
        assert_eq!(summary.accounts, accounts);
        assert_eq!(summary.pending, pending);
        assert_eq!(summary.store_version, 24);
        assert_eq!(summary.network, Network::Dev);
        assert_eq!(summary.page_size, 4096);
        assert_eq!(summary.file_len, path.metadata().unwrap().len());
        assert_eq!(summary.used_len, summary.file_len);
        let rpc = rpc(name);
        assert_eq!(rpc["count"]["count"], blocks.to_string());
        assert_eq!(rpc["count"]["cemented"], cemented.to_string());
        let names: Vec<_> = summary
            .tables
            .iter()
            .map(|table| table.name.as_str())
            .collect();
        let expected = "accounts blocks confirmation_height final_votes meta online_weight peers \
                        pending pruned rep_weights";
        assert_eq!(names.join(" "), expected);
    }
}

#[test]
fn every_check_passes_at_every_level() {
    for (name, ..) in GENUINE {
        let path = data(&format!("{name}.ldb"));
        let mut before = 0;
        for level in [Level::L0, Level::L1, Level::L2, Level::L3] {
            let report = verify(&path, level, &VerifyOptions::default()).unwrap();
            for check in &report.checks {
                assert!(
                    matches!(check.outcome, CheckOutcome::Passed { .. }),
                    "{name} {check:?}"
                );
            }
            assert!(report.checks.len() > before, "{level:?} adds no check");
            before = report.checks.len();
            assert_eq!(report.summary.is_some(), level >= Level::L2);
            assert_eq!(report.store_version, Some(24));
            if let Some(summary) = report.summary {
                assert_eq!(summary, summarize(&path).unwrap());
            }
        }
    }
}

/// Rows by key against the node's `ledger` RPC: every account's balance, block count and head.
#[test]
fn account_rows_are_the_ones_the_node_reports() {
    for (name, _, _, accounts, _) in GENUINE {
        let file = LedgerFile::open(&data(&format!("{name}.ldb"))).unwrap();
        let tables = file.tables().unwrap();
        let table = tables
            .iter()
            .find(|table| table.name == "accounts")
            .unwrap();
        let mut ours: Vec<(String, String, String)> = Vec::new();
        let mut keys = Vec::new();
        let mut entries = file.entries(table);
        while let Some((key, value)) = entries.next().unwrap() {
            let head: String = value[..32]
                .iter()
                .map(|byte| format!("{byte:02X}"))
                .collect();
            let balance = u128::from_be_bytes(value[96..112].try_into().unwrap());
            let count = u64::from_le_bytes(value[120..128].try_into().unwrap());
            ours.push((head, balance.to_string(), count.to_string()));
            keys.push(key.to_vec());
        }
        assert_eq!(ours.len() as u64, accounts);
        let rpc = rpc(name);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut theirs: Vec<_> = rpc["ledger"]["accounts"]
            .as_object()
            .unwrap()
            .values()
            .map(|row| {
                (
                    text(&row["frontier"]),
                    text(&row["balance"]),
                    text(&row["block_count"]),
                )
            })
            .collect();
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs);

        // The same rows by look-up, and none for keys that are not there.
        for key in &mut keys {
            assert!(file.get(table, key).unwrap().is_some());
            key[31] ^= 1;
            assert_eq!(file.get(table, key).unwrap(), None);
        }
    }
}

/// Every block is found by its hash, so look-ups agree with the walk on deep trees too.
#[test]
fn look_ups_agree_with_the_walk() {
    let file = LedgerFile::open(&data("after.ldb")).unwrap();
    for table in &file.tables().unwrap() {
        let mut entries = file.entries(table);
        let mut count = 0;
        while let Some((key, value)) = entries.next().unwrap() {
            assert_eq!(file.get(table, key).unwrap().as_deref(), Some(value));
            count += 1;
        }
        assert_eq!(count, table.tree.entries(), "{}", table.name);
    }
}
