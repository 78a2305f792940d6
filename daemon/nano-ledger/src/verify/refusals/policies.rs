//! Store versions, claims and levels that were asked for.

use super::*;
use crate::blocks::block::Signed;
use crate::blocks::schema::VERSION_KEY;

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
fn of_a_pruned_ledger_less_is_claimed_than_was_asked_for() {
    let genuine = verify(&edited(|_| ()).1, Level::L1, &VerifyOptions::default());
    assert_eq!(genuine.unwrap().reached(), (Level::L1, None));
    let (_whole, path) = edited(|_| ());
    for level in [Level::L0, Level::L2, Level::L3] {
        let report = verify(&path, level, &VerifyOptions::default()).unwrap();
        assert_eq!(report.reached(), (level, None));
    }

    // The second block of the longest chain is removed, as a node prunes it.
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
