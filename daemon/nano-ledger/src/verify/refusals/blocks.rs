//! Forged blocks and chains.

use super::*;
use crate::blocks::block::Signed;

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
    let epoch = crate::blocks::block::EPOCH_0;
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
    let genesis = crate::blocks::schema::hash(
        "04270D7F11C4B2B472F2854C5A59F2A7E84226CE9ED799DE75744BD7D85FC9D9",
    );
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
