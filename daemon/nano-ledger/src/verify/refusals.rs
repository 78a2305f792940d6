//! One thing wrong in a genuine ledger, edited through LMDB, and the check that must name it.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, RwTxn};
use tempfile::TempDir;

use super::*;
use crate::block::Signed;
use crate::schema::VERSION_KEY;

type Table = Database<'static, Bytes, Bytes>;

const TABLES: [&str; 7] = [
    "accounts",
    "blocks",
    "confirmation_height",
    "meta",
    "pending",
    "pruned",
    "rep_weights",
];

/// A ledger under edit.
struct Edit<'e> {
    txn: RwTxn<'e>,
    tables: [Table; 7],
}

impl Edit<'_> {
    fn table(&self, name: &str) -> Table {
        let place = TABLES.iter().position(|table| *table == name).unwrap();
        self.tables[place]
    }

    /// All rows of a table.
    fn rows(&self, name: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
        let rows = self.table(name).iter(&self.txn).unwrap();
        rows.map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())))
            .collect::<Result<_, _>>()
            .unwrap()
    }

    fn put(&mut self, name: &str, key: &[u8], value: &[u8]) {
        let table = self.table(name);
        table.put(&mut self.txn, key, value).unwrap();
    }

    fn delete(&mut self, name: &str, key: &[u8]) {
        let table = self.table(name);
        assert!(table.delete(&mut self.txn, key).unwrap());
    }

    /// Changes one byte of the first row that is `wanted`.
    fn flip(&mut self, name: &str, offset: usize, bits: u8, wanted: impl Fn(&[u8]) -> bool) {
        let rows = self.rows(name);
        let (key, mut value) = rows.into_iter().find(|(_, value)| wanted(value)).unwrap();
        value[offset] ^= bits;
        self.put(name, &key, &value);
    }
}

/// An edited copy of a genuine ledger.
fn edited(edit: impl FnOnce(&mut Edit<'_>)) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.ldb");
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/after.ldb");
    std::fs::copy(data, &path).unwrap();
    apply(&path, edit);
    (dir, path)
}

fn apply(path: &Path, edit: impl FnOnce(&mut Edit<'_>)) {
    let env = crate::env::open_for_generating(path, 1 << 30).unwrap();
    let txn = env.write_txn().unwrap();
    let tables = env
        .create_databases_and_commit(txn, |opener, txn| {
            let table = |name| opener.create_database::<Bytes, Bytes>(txn, Some(name));
            let [a, b, c, d, e, f, g] = TABLES.map(table);
            let tables = [a?, b?, c?, d?, e?, f?, g?];
            Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(tables))
        })
        .unwrap()
        .unwrap_commit();
    let mut under_edit = Edit {
        txn: env.write_txn().unwrap(),
        tables,
    };
    edit(&mut under_edit);
    let Edit { txn, .. } = under_edit;
    txn.commit().unwrap();
}

fn failures(path: &Path, level: Level) -> Vec<&'static str> {
    // All accounts to their first blocks.
    let options = VerifyOptions {
        sample: Sample {
            depth: u32::MAX,
            ..Sample::default()
        },
        ..VerifyOptions::default()
    };
    let report = verify(path, level, &options).unwrap();
    report.failures().map(|check| check.name).collect()
}

/// A state block whose account has more behind it: type 6, successor not zero.
fn inner_state(row: &[u8]) -> bool {
    row.len() == 267 && row[217..249] != [0; 32]
}

fn expect(edit: impl FnOnce(&mut Edit<'_>), sampled: &[&str], all: &[&str]) {
    let (_dir, path) = edited(edit);
    let below = failures(&path, Level::L1);
    assert_eq!(below, Vec::<&str>::new(), "the pages are sound");
    assert_eq!(failures(&path, Level::L2), sampled);
    assert_eq!(failures(&path, Level::L3), all);
}

#[test]
fn an_edit_of_nothing_passes() {
    expect(|_| (), &[], &[]);
}

#[test]
fn forged_blocks_are_named() {
    // Signature, work, and a field that is hashed.
    let signature = 1 + 144;
    expect(
        |edit| edit.flip("blocks", signature, 1, inner_state),
        &["signatures"],
        &["signatures"],
    );
    let scalar = signature + 40;
    expect(
        |edit| edit.flip("blocks", scalar, 1, inner_state),
        &["signatures"],
        &["signatures"],
    );
    let representative = 1 + 64;
    expect(
        |edit| edit.flip("blocks", representative, 1, inner_state),
        &["block-hashes", "receivables"],
        &["block-hashes", "chains", "receivables"],
    );
    expect(
        |edit| edit.flip("blocks", signature + 64 + 7, 1, inner_state),
        &["work"],
        &["work"],
    );
}

#[test]
fn forged_sidebands_are_named() {
    let side = 1 + 216;
    // Successor, height, flags, epoch, epoch of the source.
    expect(
        |edit| edit.flip("blocks", side, 1, inner_state),
        &["chains"],
        &["chains"],
    );
    let is_send = |row: &[u8]| inner_state(row) && row[side + 48] & 0x80 != 0;
    expect(
        |edit| edit.flip("blocks", side + 48, 0xC0, is_send),
        &["chains", "receivables"],
        &["chains", "receivables"],
    );
    expect(
        |edit| edit.flip("blocks", side + 49, 1, is_send),
        &["chains", "receivables"],
        &["chains", "receivables"],
    );
    let is_receive = |row: &[u8]| inner_state(row) && row[side + 48] == 0x42;
    expect(
        |edit| edit.flip("blocks", side + 49, 1, is_receive),
        &["chains"],
        &["chains", "receivables"],
    );
}

#[test]
fn forged_accounts_are_named() {
    let all = |row: &[u8]| row[96..112] != [0; 16];
    for (offset, more) in [(0, &[][..]), (32, &["rep-weights"]), (64, &[]), (128, &[])] {
        let bits = if offset == 128 { 1 } else { 0x40 };
        let mut expected = more.to_vec();
        expected.push("account-heads");
        let (_dir, path) = edited(|edit| edit.flip("accounts", offset, bits, all));
        assert_eq!(failures(&path, Level::L3), expected, "{offset}");
    }
    // Money moves between accounts of one representative: no sum notices.
    let move_money = |edit: &mut Edit<'_>| {
        let rows = edit.rows("accounts");
        let balance = |row: &[u8]| u128::from_be_bytes(row[96..112].try_into().unwrap());
        let (from, to) = rows
            .iter()
            .flat_map(|from| rows.iter().map(move |to| (from, to)))
            .find(|((from, a), (to, b))| {
                from != to && a[32..64] == b[32..64] && balance(a) > 0 && balance(b) > 0
            })
            .unwrap();
        for ((key, row), balance) in [(from, balance(&from.1) - 1), (to, balance(&to.1) + 1)] {
            let mut row = row.clone();
            row[96..112].copy_from_slice(&balance.to_be_bytes());
            edit.put("accounts", key, &row);
        }
    };
    expect(move_money, &["account-heads"], &["account-heads"]);
    expect(
        |edit| edit.flip("accounts", 111, 1, all),
        &["rep-weights", "supply", "account-heads"],
        &["rep-weights", "supply", "account-heads"],
    );
    expect(
        |edit| edit.flip("accounts", 120, 64, all),
        &["block-count", "account-heads"],
        &["block-count", "account-heads"],
    );
}

#[test]
fn forged_receivables_are_named() {
    expect(
        |edit| {
            let (key, _) = edit.rows("pending").swap_remove(0);
            edit.delete("pending", &key);
        },
        &["supply"],
        &["supply", "receivables"],
    );
    // Amounts change places: the sum stays.
    expect(
        |edit| {
            let rows = edit.rows("pending");
            let amount = |row: &[u8]| row[32..48].to_vec();
            let [(a, mut row_a), (b, mut row_b)] = [rows[0].clone(), rows[1].clone()];
            let (of_a, of_b) = (amount(&row_a), amount(&row_b));
            assert_ne!(of_a, of_b);
            row_a[32..48].copy_from_slice(&of_b);
            row_b[32..48].copy_from_slice(&of_a);
            edit.put("pending", &a, &row_a);
            edit.put("pending", &b, &row_b);
        },
        &[],
        &["receivables"],
    );
    for offset in [0, 48] {
        expect(
            |edit| edit.flip("pending", offset, 1, |_| true),
            &[],
            &["receivables"],
        );
    }
    // A row of nothing, for a send that does not exist.
    expect(
        |edit| {
            let (mut key, mut row) = edit.rows("pending").swap_remove(0);
            key[40] ^= 1;
            row[32..48].fill(0);
            edit.put("pending", &key, &row);
        },
        &[],
        &["receivables"],
    );
    let receivables = edited(|edit| {
        let (key, _) = edit.rows("pending").swap_remove(0);
        edit.delete("pending", &key);
    });
    let report = verify(&receivables.1, Level::L3, &VerifyOptions::default()).unwrap();
    let named = format!("{:?}", report.failures().last().unwrap().outcome);
    assert!(
        named.contains("is neither received nor receivable"),
        "{named}"
    );
}

#[test]
fn forged_weights_and_confirmations_are_named() {
    expect(
        |edit| edit.flip("rep_weights", 15, 1, |_| true),
        &["rep-weights"],
        &["rep-weights"],
    );
    expect(
        |edit| {
            let (key, _) = edit.rows("rep_weights").swap_remove(0);
            edit.delete("rep_weights", &key);
        },
        &["rep-weights"],
        &["rep-weights"],
    );
    expect(
        |edit| edit.flip("confirmation_height", 8, 1, |_| true),
        &["confirmed-blocks"],
        &["confirmed-blocks"],
    );
    expect(
        |edit| edit.flip("confirmation_height", 1, 64, |_| true),
        &["confirmation-heights", "confirmed-blocks"],
        &["confirmation-heights", "confirmed-blocks"],
    );
    // The genesis account falls back to its first block, and nothing it sent is cemented.
    expect(
        |edit| {
            let genesis = crate::proof::DEV_GENESIS;
            let row = edit
                .rows("accounts")
                .into_iter()
                .find(|(key, _)| *key == genesis);
            let open = &row.unwrap().1[64..96];
            let value = [&1_u64.to_le_bytes()[..], open].concat();
            edit.put("confirmation_height", &genesis, &value);
        },
        &[],
        &["cementing"],
    );
}

#[test]
fn store_versions_are_held_against_the_node_and_the_policy() {
    let with_version = |version: u8| {
        edited(|edit| {
            let mut value = [0; 32];
            value[31] = version;
            edit.put("meta", &VERSION_KEY, &value);
        })
    };
    let (_dir, path) = with_version(20);
    // Tables of that time are missing as well.
    assert_eq!(failures(&path, Level::L0), ["store-version", "tables"]);
    let (_dir, path) = with_version(27);
    assert_eq!(failures(&path, Level::L0), Vec::<&str>::new());
    let policy = Policy {
        store_versions: Some(21..=24),
        ..Policy::default()
    };
    let options = VerifyOptions {
        policy: &policy,
        ..VerifyOptions::default()
    };
    let report = verify(&path, Level::L0, &options).unwrap();
    assert_eq!(report.store_version, Some(27));
    let names: Vec<_> = report.failures().map(|check| check.name).collect();
    assert_eq!(names, ["policy"]);
}

#[test]
fn claims_are_held_against_the_ledger() {
    let (_dir, path) = edited(|_| ());
    let check = |policy: Policy| {
        let options = VerifyOptions {
            policy: &policy,
            ..VerifyOptions::default()
        };
        let report = verify(&path, Level::L2, &options).unwrap();
        report
            .failures()
            .map(|check| check.name)
            .collect::<Vec<_>>()
    };
    let truth = Policy {
        store_versions: Some(24..=24),
        claimed_version: Some(24),
        claimed_blocks: Some(5966),
        claimed_cemented: Some(5926),
        least_blocks: Some(5966),
        least_cemented: Some(5926),
    };
    assert_eq!(check(truth.clone()), Vec::<&str>::new());
    let lies = [
        (
            Policy {
                claimed_version: Some(23),
                ..truth.clone()
            },
            "claims",
        ),
        (
            Policy {
                claimed_blocks: Some(5965),
                ..truth.clone()
            },
            "claims",
        ),
        (
            Policy {
                least_blocks: Some(5967),
                ..truth.clone()
            },
            "claims",
        ),
        (
            Policy {
                claimed_cemented: Some(5925),
                ..truth.clone()
            },
            "confirmation-heights",
        ),
        (
            Policy {
                claimed_cemented: None,
                least_cemented: Some(5927),
                ..truth
            },
            "confirmation-heights",
        ),
    ];
    for (lie, name) in lies {
        assert_eq!(check(lie.clone()), [name], "{lie:?}");
    }
}

#[test]
fn sorting_on_disk_finds_the_same() {
    let (dir, path) = edited(|edit| {
        let (key, _) = edit.rows("pending").swap_remove(7);
        edit.delete("pending", &key);
        edit.flip("blocks", 1 + 144, 1, inner_state);
    });
    let report = |memory| {
        let options = VerifyOptions {
            memory,
            scratch: Some(dir.path()),
            ..VerifyOptions::default()
        };
        verify(&path, Level::L3, &options).unwrap()
    };
    assert_eq!(report(100_000), report(256 << 20));
    assert_eq!(report(0), report(256 << 20));
    // The lock file and the ledger.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn the_caller_sees_progress_and_can_stop_anywhere() {
    let (_dir, path) = edited(|_| ());
    let stages = Mutex::new(Vec::new());
    let tell = |progress: Progress| {
        assert!(
            progress.total == 0 || progress.done <= progress.total,
            "{progress:?}"
        );
        let mut stages = stages.lock().unwrap();
        if stages.last() != Some(&progress.stage) {
            stages.push(progress.stage);
        }
    };
    let options = VerifyOptions {
        progress: Some(&tell),
        ..VerifyOptions::default()
    };
    verify(&path, Level::L3, &options).unwrap();
    let seen = stages.into_inner().unwrap();
    assert_eq!(
        seen,
        [
            "accounts",
            "receivables",
            "blocks",
            "chains",
            "receivables",
            "matching"
        ]
    );
    for stage in seen {
        let stop = AtomicBool::new(false);
        let tell = |progress: Progress| {
            if progress.stage == stage {
                stop.store(true, Ordering::Relaxed);
            }
        };
        let options = VerifyOptions {
            progress: Some(&tell),
            cancel: Some(&stop),
            ..VerifyOptions::default()
        };
        let error = verify(&path, Level::L3, &options).unwrap_err();
        assert!(
            matches!(error, VerifyError::Cancelled),
            "{stage}: {error:?}"
        );
    }
}

#[test]
fn the_same_seed_takes_the_same_sample() {
    let (_dir, path) = edited(|edit| {
        for (key, mut row) in edit.rows("blocks") {
            if inner_state(&row) && key[0] < 8 {
                row[150] ^= 1;
                edit.put("blocks", &key, &row);
            }
        }
    });
    let report = |seed| {
        let options = VerifyOptions {
            sample: Sample {
                seed,
                accounts: 20,
                depth: 4,
            },
            ..VerifyOptions::default()
        };
        verify(&path, Level::L2, &options).unwrap()
    };
    assert_eq!(report(Some(1)), report(Some(1)));
    assert_ne!(report(Some(1)), report(Some(2)));
    assert_ne!(report(None), report(None));
}

/// The last block of an account is a legacy receive, and is stored as the change that has the same bytes and
/// hash: what was sent stays receivable, and everything else fits.
fn disguise_a_receive(edit: &mut Edit<'_>) {
    const RECEIVE: u8 = 3;
    const CHANGE: u8 = 5;
    let blocks: std::collections::HashMap<_, _> = edit.rows("blocks").into_iter().collect();
    let block = |hash: &[u8]| {
        blocks
            .get(hash)
            .map(|row| Signed::parse(row).unwrap().block)
    };
    let (account, mut row) = edit
        .rows("accounts")
        .into_iter()
        .find(|(_, row)| blocks[&row[..32]][0] == RECEIVE)
        .unwrap();
    let head = row[..32].to_vec();
    let receive = block(&head).unwrap();
    let before = block(&receive.previous).unwrap();
    let send = block(&receive.link).unwrap();

    let mut stored = blocks[&head].clone();
    stored[0] = CHANGE;
    // type 1, hashed fields 64, signature 64, work 8; successor 32, account 32, height 8, then the balance.
    let balance = 1 + 64 + 64 + 8 + 32 + 32 + 8;
    stored[balance..balance + 16].copy_from_slice(&before.balance.to_be_bytes());
    edit.put("blocks", &head, &stored);

    let weights: std::collections::HashMap<_, _> = edit.rows("rep_weights").into_iter().collect();
    let old = row[32..64].to_vec();
    let weight = u128::from_be_bytes(weights[&old][..].try_into().unwrap()) - receive.balance;
    match weight {
        0 => edit.delete("rep_weights", &old),
        weight => edit.put("rep_weights", &old, &weight.to_be_bytes()),
    }
    if before.balance > 0 {
        edit.put("rep_weights", &receive.link, &before.balance.to_be_bytes());
    }
    row[32..64].copy_from_slice(&receive.link);
    row[96..112].copy_from_slice(&before.balance.to_be_bytes());
    edit.put("accounts", &account, &row);

    let amount = receive.balance - before.balance;
    let epoch = crate::block::EPOCH_0;
    assert_eq!(send.details & 0x1F, epoch);
    let receivable = [&send.account[..], &amount.to_be_bytes(), &[epoch]].concat();
    let key = [&account[..], &receive.link].concat();
    edit.put("pending", &key, &receivable);
}

#[test]
fn a_receive_presented_as_a_change_is_named() {
    expect(
        disguise_a_receive,
        &["representatives"],
        &["representatives"],
    );
    // The sample has the account although it would not be picked by chance.
    let (_dir, path) = edited(disguise_a_receive);
    let options = VerifyOptions {
        sample: Sample {
            seed: Some(1),
            accounts: 1,
            depth: 1,
        },
        ..VerifyOptions::default()
    };
    let report = verify(&path, Level::L2, &options).unwrap();
    let names: Vec<_> = report.failures().map(|check| check.name).collect();
    assert_eq!(names, ["representatives"]);
    // Nor does it help that the send was pruned.
    apply(&path, |edit| {
        let sends: Vec<_> = edit
            .rows("blocks")
            .into_iter()
            .filter(|(_, row)| row[0] == 5)
            .map(|(_, row)| row[33..65].to_vec())
            .collect();
        for send in sends {
            if edit.table("blocks").delete(&mut edit.txn, &send).unwrap() {
                edit.put("pruned", &send, &[]);
            }
        }
    });
    assert!(failures(&path, Level::L3).contains(&"representatives"));
}

#[test]
fn a_ledger_without_its_genesis_block_is_none() {
    let genesis =
        crate::schema::hash("04270D7F11C4B2B472F2854C5A59F2A7E84226CE9ED799DE75744BD7D85FC9D9");
    let (_dir, path) = edited(|edit| edit.delete("blocks", &genesis));
    assert_eq!(failures(&path, Level::L0), Vec::<&str>::new());
    assert_eq!(failures(&path, Level::L1), ["genesis"]);
    // Nor one with another block in its place.
    let (_dir, path) = edited(|edit| {
        let (_, mut row) = edit
            .rows("blocks")
            .into_iter()
            .find(|(key, _)| *key == genesis)
            .unwrap();
        row[40] ^= 1;
        edit.put("blocks", &genesis, &row);
    });
    assert_eq!(failures(&path, Level::L1), ["genesis"]);
}

#[test]
fn of_a_pruned_ledger_less_is_claimed_than_was_asked_for() {
    let genuine = verify(&edited(|_| ()).1, Level::L1, &VerifyOptions::default());
    assert_eq!(genuine.unwrap().reached(), (Level::L1, None));
    let (_whole, path) = edited(|_| ());
    for level in [Level::L0, Level::L2, Level::L3] {
        let report = verify(&path, level, &VerifyOptions::default()).unwrap();
        assert_eq!(report.reached(), (level, None));
    }

    // The second block of the longest chain goes, as a node prunes it.
    apply(&path, |edit| {
        let rows = edit.rows("blocks");
        let parsed = rows
            .iter()
            .map(|(key, row)| (key, Signed::parse(row).unwrap().block));
        let (longest, _) = edit
            .rows("accounts")
            .into_iter()
            .max_by_key(|(_, row)| row[120..128].iter().rev().copied().collect::<Vec<_>>())
            .unwrap();
        let mut in_chain = parsed.filter(|(_, block)| block.account[..] == longest[..]);
        let pruned = in_chain
            .find(|(_, block)| block.height == 2)
            .unwrap()
            .0
            .clone();
        edit.delete("blocks", &pruned);
        edit.put("pruned", &pruned, &[]);
    });
    let options = |accounts| VerifyOptions {
        sample: Sample {
            accounts,
            ..Sample::default()
        },
        ..VerifyOptions::default()
    };
    let report = verify(&path, Level::L3, &options(10_000)).unwrap();
    assert!(report.passed(), "{report:#?}");
    let (level, why) = report.reached();
    assert_eq!(level, Level::L2);
    assert!(why.unwrap().contains("pruned"), "{why:?}");
    // What is said of chains is of a sample.
    let chains = report.checks.iter().find(|check| check.name == "chains");
    let said = format!("{:?}", chains.unwrap().outcome);
    assert!(said.contains("in a sample"), "{said}");
    let nothing_sampled = verify(&path, Level::L3, &options(0)).unwrap();
    assert_eq!(nothing_sampled.reached().0, Level::L1);

    // Nor are blocks looked into whose store version is not known.
    let (_dir, path) = edited(|edit| {
        let mut value = [0; 32];
        value[31] = 27;
        edit.put("meta", &VERSION_KEY, &value);
    });
    let report = verify(&path, Level::L3, &VerifyOptions::default()).unwrap();
    assert_eq!(report.reached().0, Level::L1);
}
