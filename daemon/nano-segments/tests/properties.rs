//! Invented ledgers: what is written is read, tails seal into what a ledger gives, damage is refused or read as what it says.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;

use nano_segments::{
    Amount, Block, Dictionary as _, Key, Keys, Piece, Proofs, Runs, Segment, Signature, Source,
    depths, pieces, seal,
};
use proptest::prelude::*;

const GENESIS: [u8; 32] = [7; 32];

/// What one step of an invented history does; indices are taken modulo what there is.
#[derive(Debug, Clone)]
struct Step {
    kind: u8,
    account: u8,
    other: u8,
    amount: u128,
    representative: Option<u8>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let amount = prop_oneof![
        Just(0_u128),
        1..1000_u128,
        any::<u128>(),
        (0..30_u32).prop_map(|zeros| 10_u128.pow(zeros))
    ];
    let step = (
        0..6_u8,
        any::<u8>(),
        any::<u8>(),
        amount,
        proptest::option::of(any::<u8>()),
    );
    let step = step.prop_map(|(kind, account, other, amount, representative)| Step {
        kind,
        account,
        other,
        amount,
        representative,
    });
    proptest::collection::vec(step, 1..200)
}

fn key(number: u8) -> Key {
    // Not in the order of their numbers.
    let mut bytes = [number.wrapping_mul(167); 32];
    bytes[31] = number;
    Key(bytes)
}

/// A history: blocks in an order in which each comes after what it depends on.
fn history(steps: &[Step]) -> Vec<(Key, Block<Key>)> {
    let mut history = vec![(
        key(0),
        Block::Open {
            source: Source::Genesis,
            representative: key(0),
        },
    )];
    let mut heights = BTreeMap::from([(key(0), 1_u64)]);
    let mut receivable: Vec<(Key, Source<Key>)> = Vec::new();
    for step in steps {
        let open: Vec<Key> = heights.keys().copied().collect();
        let account = open[step.account as usize % open.len()];
        let representative = step.representative.map(key);
        let (account, block) = match step.kind {
            0 | 1 => {
                let destination = key(step.other);
                let raw = Amount::Raw(step.amount);
                let source = Source::Send {
                    account,
                    height: heights[&account] + 1,
                };
                receivable.push((destination, source));
                let block = match (step.kind, step.amount) {
                    (0, _) => Block::Send {
                        destination,
                        amount: raw,
                    },
                    (_, 0) => Block::StateSend {
                        destination,
                        amount: Amount::Whole,
                        representative,
                    },
                    _ => Block::StateSend {
                        destination,
                        amount: raw,
                        representative,
                    },
                };
                (account, block)
            }
            2 | 3 if !receivable.is_empty() => {
                let at = step.other as usize % receivable.len();
                let (account, source) = receivable.remove(at);
                let block = match (heights.contains_key(&account), step.kind) {
                    (false, 2) => Block::Open {
                        source,
                        representative: key(step.other),
                    },
                    (true, 2) => Block::Receive { source },
                    _ => Block::StateReceive {
                        source,
                        representative,
                    },
                };
                (account, block)
            }
            4 => (
                account,
                Block::Change {
                    representative: key(step.other),
                },
            ),
            5 => (account, Block::StateChange { representative }),
            _ if step.other % 2 == 0 => (account, Block::Epoch1),
            _ => (key(step.other), Block::Epoch2),
        };
        *heights.entry(account).or_default() += 1;
        history.push((account, block));
    }
    history
}

/// The first height of an account's blocks, and each with its index in the history.
type Dated = (u64, Vec<(usize, Block<Key>)>);

/// The blocks `from..to` of a history as a difference, with a proof for each that tells which block it is.
fn difference(history: &[(Key, Block<Key>)], from: usize, to: usize) -> (Runs<Key>, Proofs) {
    let mut heights: BTreeMap<Key, u64> = BTreeMap::new();
    let mut accounts: BTreeMap<Key, Dated> = BTreeMap::new();
    for (at, (account, block)) in history[..to].iter().enumerate() {
        let height = heights.entry(*account).or_default();
        *height += 1;
        if at >= from {
            accounts
                .entry(*account)
                .or_insert((*height, Vec::new()))
                .1
                .push((at, *block));
        }
    }
    let (mut runs, mut proofs) = (Runs::default(), Proofs::default());
    for (account, (first_height, blocks)) in accounts {
        runs.push(
            account,
            first_height,
            blocks.iter().map(|(_, block)| *block),
        )
        .unwrap();
        for (at, _) in blocks {
            let mut signature = [at as u8; 64];
            signature[63] = 0;
            proofs.push(at as u64, Signature::new(signature).unwrap());
        }
    }
    (runs, proofs)
}

fn segment(
    history: &[(Key, Block<Key>)],
    from: usize,
    to: usize,
    dictionary: &Keys,
) -> (Segment, Proofs) {
    let (runs, proofs) = difference(history, from, to);
    let (segment, order) = Segment::number(GENESIS, from as u64, &runs, dictionary).unwrap();
    let mut ordered = Proofs::default();
    for index in order {
        let (work, signature) = proofs.get(index as usize).unwrap();
        ordered.push(work, *signature);
    }
    (segment, ordered)
}

fn read(
    body: &[u8],
    proofs: &[u8],
    dictionary: &Keys,
) -> Result<Segment, nano_segments::SegmentError> {
    Segment::read(body, proofs.len() as u64, GENESIS, dictionary)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_written_is_read(steps in steps(), cut in any::<prop::sample::Index>()) {
        let history = history(&steps);
        let cut = cut.index(history.len());
        let base = segment(&history, 0, cut.max(1), &Keys::default());
        let mut dictionary = Keys::default();
        dictionary.extend(base.0.keys());
        let mut cases = vec![(base, Keys::default())];
        if cut.max(1) < history.len() {
            cases.push((segment(&history, cut.max(1), history.len(), &Keys::default()), Keys::default()));
            cases.push((segment(&history, cut.max(1), history.len(), &dictionary), dictionary));
        }
        for ((segment, proofs), dictionary) in cases {
            let (body, proof_bytes) = (segment.write(), proofs.write());
            let again = read(&body, &proof_bytes, &dictionary).unwrap();
            prop_assert_eq!(&again, &segment);
            prop_assert_eq!(again.write(), body);
            prop_assert_eq!(Proofs::read(&proof_bytes, segment.runs().blocks().len()).unwrap(), proofs);
            let (keyed, _) = segment.keyed(&dictionary);
            let numbered = Segment::number(GENESIS, segment.from(), &keyed, &dictionary).unwrap().0;
            prop_assert_eq!(numbered, segment);
        }
    }

    #[test]
    fn tails_seal_into_what_the_ledger_gives(steps in steps(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 1..4)) {
        let history = history(&steps);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(history.len()) + 1).chain([history.len()]).collect();
        ends.sort_unstable();
        ends.dedup();
        let first = ends[0];
        let mut dictionary = Keys::default();
        dictionary.extend(segment(&history, 0, first, &Keys::default()).0.keys());
        prop_assume!(first < history.len());
        let tails: Vec<_> = ends.windows(2).map(|cut| segment(&history, cut[0], cut[1], &Keys::default())).collect();
        prop_assert_eq!(seal(&tails, &dictionary).unwrap(), segment(&history, first, history.len(), &dictionary));
    }

    #[test]
    fn every_piece_needs_only_those_before(steps in steps(), count in 1..6_usize) {
        let history = history(&steps);
        let (runs, _) = difference(&history, 0, history.len());
        let depths = depths(&runs).unwrap();
        let mut seen = vec![false; depths.len()];
        for Piece { runs: piece, indices } in pieces(&runs, count).unwrap() {
            prop_assert_eq!(piece.blocks().len(), indices.len());
            for &index in &indices {
                prop_assert!(!std::mem::replace(&mut seen[index as usize], true));
            }
            for &index in &indices {
                if let Some(Source::Send { account, height }) = runs.blocks()[index as usize].source() {
                    prop_assert!(seen[runs.index(account, height).unwrap()], "a receive before its send");
                }
            }
            for run in piece.iter().filter(|run| run.first_height > 1) {
                prop_assert!(seen[runs.index(run.account, run.first_height - 1).unwrap()], "a gap in an account");
            }
        }
        prop_assert!(seen.into_iter().all(|seen| seen));
    }

    #[test]
    fn damage_is_refused_or_read_as_what_it_says(steps in steps(), at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let history = history(&steps);
        let (segment, proofs) = segment(&history, 0, history.len(), &Keys::default());
        let (mut body, proofs) = (segment.write(), proofs.write());
        let at = at.index(body.len());
        body[at] ^= 1 << bit;
        if let Ok(other) = read(&body, &proofs, &Keys::default()) {
            prop_assert_ne!(&other, &segment);
            prop_assert_eq!(other.write(), body);
        }
    }

    #[test]
    fn less_and_more_are_refused(steps in steps(), at in any::<prop::sample::Index>()) {
        let history = history(&steps);
        let (segment, proofs) = segment(&history, 0, history.len(), &Keys::default());
        let (mut body, proofs) = (segment.write(), proofs.write());
        let length = at.index(body.len());
        prop_assert!(read(&body[..length], &proofs, &Keys::default()).is_err());
        prop_assert!(read(&body, &proofs[1..], &Keys::default()).is_err());
        body.push(0);
        prop_assert!(read(&body, &proofs, &Keys::default()).is_err());
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), proofs in 0..1000_u64) {
        let mut body = b"NANOSEG1".to_vec();
        body.extend(GENESIS);
        body.extend(bytes);
        let _ = Segment::read(&body, proofs, GENESIS, &Keys::default());
    }
}

#[test]
fn many_sends_to_one_account_are_received_in_any_order() {
    // A quadratic search for the rank of a send would take minutes here.
    const COUNT: u64 = 200_000;
    let (sender, receiver) = (key(1), key(2));
    let mut runs = Runs::default();
    let sends = (0..COUNT).map(|number| Block::StateSend {
        destination: receiver,
        amount: Amount::Raw(u128::from(number) + 1),
        representative: None,
    });
    let receives = (0..COUNT).map(|number| Block::StateReceive {
        source: Source::Send {
            account: sender,
            // Odd steps visit every send once.
            height: 2 + number * 77_777 % COUNT,
        },
        representative: None,
    });
    let mut both = [
        (sender, 2, sends.collect::<Vec<_>>()),
        (receiver, 1, receives.collect()),
    ];
    both.sort_unstable_by_key(|run| run.0);
    for (account, height, blocks) in both {
        runs.push(account, height, blocks).unwrap();
    }
    let (segment, _) = Segment::number(GENESIS, 1, &runs, &Keys::default()).unwrap();
    let body = segment.write();
    let again = Segment::read(&body, 72 * 2 * COUNT, GENESIS, &Keys::default()).unwrap();
    assert!(again == segment);
}

#[test]
fn a_send_that_two_receives_take_is_refused() {
    let (sender, receiver) = (key(1), key(2));
    let send = Block::Send {
        destination: receiver,
        amount: Amount::Raw(1),
    };
    let receive = Block::Receive {
        source: Source::Send {
            account: sender,
            height: 5,
        },
    };
    let mut both = [
        (sender, 5, vec![send]),
        (receiver, 9, vec![receive, receive]),
    ];
    both.sort_unstable_by_key(|run| run.0);
    let mut runs = Runs::default();
    for (account, height, blocks) in both {
        runs.push(account, height, blocks).unwrap();
    }
    let refused = Segment::number(GENESIS, 1, &runs, &Keys::default());
    assert!(
        matches!(refused, Err(nano_segments::SegmentError::Source { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_scalar_is_reduced_to_one_of_its_kind() {
    let order = data_encoding::HEXLOWER
        .decode(b"edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")
        .unwrap();
    let mut bytes = [3; 64];
    bytes[32..].copy_from_slice(&order);
    assert_eq!(Signature::new(bytes), None);
    assert_eq!(Signature::reduced(bytes).bytes()[32..], [0; 32]);
    bytes[32] += 5;
    assert_eq!(Signature::reduced(bytes).bytes()[32..34], [5, 0]);
    let all = Signature::reduced([0xff; 64]);
    assert_eq!(Signature::new(*all.bytes()), Some(all));
}

#[test]
fn a_dictionary_numbers_keys_once() {
    let mut keys = Keys::default();
    keys.extend(&[key(3), key(1)]);
    keys.extend(&[key(1), key(2)]);
    assert_eq!(keys.len(), 3);
    assert_eq!(
        keys.numbers(&[key(1), key(2), key(3), key(4)]),
        [Some(1), Some(2), Some(0), None]
    );
}
