//! Forged rows of the other tables.

use super::*;

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
    // Since there is such a table, every release of the node removes a row whose weight falls to zero.
    expect(
        |edit| edit.put("rep_weights", &[0x66; 32], &[0; 16]),
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
            let genesis = crate::blocks::proof::DEV_GENESIS;
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
