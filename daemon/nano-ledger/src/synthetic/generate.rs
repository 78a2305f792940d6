//! A whole ledger at once, with the page filling that years of random inserts leave.

use super::rows::{self, AccountRow, Block, Id};
use super::store::{Db, Store, commit, put};
use super::{Options, SyntheticError};
use crate::blocks::schema::{SUPPLY, VERSION_KEY};
use crate::random::Random;

/// Bytes of file per block, with all rows that belong to it; measured at 8 to 400 MB.
const LEN_PER_BLOCK: u64 = 560;
/// Blocks per account, as on the live network.
const BLOCKS_PER_ACCOUNT: u64 = 5;
const FEWEST_BLOCKS: u64 = 250;
/// Rows inserted in one transaction, neighbours in the order of keys.
const RANGE: usize = 1 << 16;
/// Rounds in which the rows of a range are inserted, so that pages split as by random inserts.
const ROUNDS: usize = 4;

struct Plan {
    key: Id,
    /// Of the hashes of its blocks.
    seed: u64,
    blocks: u64,
    representative: u32,
    balance: u128,
    is_genesis: bool,
}

impl Plan {
    /// The hash of the block at a height from 1; none before it and after the last.
    fn hash(&self, height: u64) -> Id {
        if height == 0 || height > self.blocks {
            return [0; 32];
        }
        Random::new(self.seed ^ height.wrapping_mul(0xD6E8_FEB8_6659_FD93)).id()
    }

    fn second(height: u64) -> u64 {
        height * 60
    }
}

pub(super) fn fill(store: &Store, options: &Options) -> Result<(), SyntheticError> {
    let mut random = Random::new(options.seed);
    let blocks = (options.target_len / LEN_PER_BLOCK).max(FEWEST_BLOCKS);
    let representatives = representatives(blocks, &mut random);
    let (mut plans, pending) = plan(blocks, representatives.len(), &mut random);
    // In the order of their keys, the account that holds the rest of the supply among them.
    plans.sort_unstable_by_key(|plan| plan.key);

    insert_blocks(store, &plans, &representatives, &mut random)?;
    insert_accounts(store, &plans, &representatives)?;
    insert_heights(store, &plans, &mut random)?;
    insert_pending(store, &plans, pending, &mut random)?;
    insert_weights(store, &plans, &representatives)?;

    let mut txn = store.begin()?;
    put(store.meta, &mut txn, &VERSION_KEY, &rows::meta(24))?;
    let (key, value) = rows::online_weight(0, SUPPLY / 3);
    put(store.online_weight, &mut txn, &key, &value)?;
    commit(txn)
}

fn pick<'p>(plans: &'p [Plan], random: &mut Random) -> Option<&'p Plan> {
    plans.get(usize::try_from(random.below(plans.len() as u64)).unwrap_or(0))
}

fn representatives(blocks: u64, random: &mut Random) -> Vec<Id> {
    let count = (blocks / 500).clamp(20, 5000);
    (0..count).map(|_| random.id()).collect()
}

/// A receivable send: the receiver's number among the plans, or none for one without an account.
type Receivable = (Option<usize>, u128);

/// Accounts, and sends to receive, with the whole supply distributed over them.
fn plan(blocks: u64, representatives: usize, random: &mut Random) -> (Vec<Plan>, Vec<Receivable>) {
    let accounts = blocks / BLOCKS_PER_ACCOUNT;
    // No account has fewer than one block, so all shares together stay below the supply.
    let share = SUPPLY / u128::from(8 * accounts);
    let mut rest = SUPPLY;
    let mut left = blocks;
    let mut plans = Vec::new();
    while left > 0 {
        // Most accounts have a few blocks, some have many.
        let most = if random.one_in(20) {
            12 * BLOCKS_PER_ACCOUNT
        } else {
            BLOCKS_PER_ACCOUNT
        };
        // The first one opens with the genesis block, which a day would have to give a successor.
        let fewest = if plans.is_empty() { 2 } else { 1 };
        let blocks = (fewest + random.below(most)).min(left);
        left -= blocks;
        let balance = if random.one_in(10) {
            0
        } else {
            share >> random.below(40) | u128::from(random.next())
        };
        rest -= balance;
        // A few representatives have most of the weight.
        let skewed = random.below(1 << 10) * random.below(1 << 10) * random.below(1 << 10);
        let representative = (skewed * representatives as u64) >> 30;
        plans.push(Plan {
            key: random.id(),
            seed: random.next(),
            blocks,
            representative: u32::try_from(representative).unwrap_or(0),
            balance,
            is_genesis: plans.is_empty(),
        });
    }
    let pending = (0..accounts / 3)
        .map(|_| {
            let amount = u128::from(random.next());
            rest -= amount;
            let receiver = usize::try_from(random.below(plans.len() as u64)).ok();
            (receiver.filter(|_| !random.one_in(5)), amount)
        })
        .collect();
    if let Some(genesis) = plans.first_mut() {
        genesis.balance += rest;
    }
    (plans, pending)
}

fn insert_blocks(
    store: &Store,
    plans: &[Plan],
    representatives: &[Id],
    random: &mut Random,
) -> Result<(), SyntheticError> {
    // By the start of the hash, which decides the order.
    let mut order: Vec<(u64, u32, u32)> = Vec::new();
    for (number, plan) in (0_u32..).zip(plans) {
        for height in 1..=plan.blocks {
            let [a, b, c, d, e, f, g, h, ..] = plan.hash(height);
            let start = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
            order.push((start, number, u32::try_from(height).unwrap_or(u32::MAX)));
        }
    }
    order.sort_unstable();
    for range in order.chunks(RANGE) {
        let mut txn = store.begin()?;
        for round in 0..ROUNDS {
            // The low bits of the start are as good as random.
            for (start, number, height) in range {
                if usize::try_from(start % ROUNDS as u64).unwrap_or(0) != round {
                    continue;
                }
                let Some(plan) = plans.get(*number as usize) else {
                    continue;
                };
                let height = u64::from(*height);
                let is_head = height == plan.blocks;
                let block = Block {
                    account: plan.key,
                    previous: plan.hash(height - 1),
                    representative: representative(plan, representatives),
                    balance: if is_head {
                        plan.balance
                    } else {
                        u128::from(random.next()) << 32
                    },
                    link: random.id(),
                    successor: plan.hash(height + 1),
                    height,
                    second: Plan::second(height),
                    is_send: height > 1 && random.one_in(2),
                };
                let key = plan.hash(height);
                if plan.is_genesis && height == 1 {
                    put(store.blocks, &mut txn, &key, &block.encode_genesis(random))?;
                } else {
                    put(store.blocks, &mut txn, &key, &block.encode(random))?;
                }
            }
        }
        commit(txn)?;
    }
    Ok(())
}

fn representative(plan: &Plan, representatives: &[Id]) -> Id {
    representatives
        .get(plan.representative as usize)
        .copied()
        .unwrap_or_default()
}

fn insert_accounts(
    store: &Store,
    plans: &[Plan],
    representatives: &[Id],
) -> Result<(), SyntheticError> {
    let rows: Vec<_> = plans
        .iter()
        .map(|plan| {
            let row = AccountRow {
                head: plan.hash(plan.blocks),
                representative: representative(plan, representatives),
                open: plan.hash(1),
                balance: plan.balance,
                second: Plan::second(plan.blocks),
                block_count: plan.blocks,
                epoch: AccountRow::EPOCH_0,
            };
            (plan.key, row.encode())
        })
        .collect();
    insert(store, store.accounts, &rows)
}

fn insert_heights(
    store: &Store,
    plans: &[Plan],
    random: &mut Random,
) -> Result<(), SyntheticError> {
    let mut rows = Vec::new();
    for plan in plans {
        // A few heads are not cemented yet; where the head is all there is, there is no row.
        let height = if random.one_in(50) {
            plan.blocks - 1
        } else {
            plan.blocks
        };
        if height > 0 {
            rows.push((plan.key, rows::height(height, &plan.hash(height))));
        }
    }
    insert(store, store.heights, &rows)
}

fn insert_pending(
    store: &Store,
    plans: &[Plan],
    pending: Vec<Receivable>,
    random: &mut Random,
) -> Result<(), SyntheticError> {
    let mut sends: Vec<_> = pending
        .into_iter()
        .map(|(receiver, amount)| {
            let sender = pick(plans, random);
            let hash = sender.map_or([0; 32], |sender| {
                sender.hash(1 + random.below(sender.blocks))
            });
            let receiver = receiver
                .and_then(|number| plans.get(number))
                .map(|plan| plan.key);
            let key = rows::pending_key(&receiver.unwrap_or_else(|| random.id()), &hash);
            (key, sender.map_or([0; 32], |sender| sender.key), amount)
        })
        .collect();
    sends.sort_unstable();
    // The same block may have been picked twice for the same receiver.
    sends.dedup_by(|later, first| {
        let same = later.0 == first.0;
        if same {
            first.2 += later.2;
        }
        same
    });
    let rows: Vec<_> = sends
        .into_iter()
        .map(|(key, source, amount)| (key, rows::pending(&source, amount)))
        .collect();
    insert(store, store.pending, &rows)
}

fn insert_weights(
    store: &Store,
    plans: &[Plan],
    representatives: &[Id],
) -> Result<(), SyntheticError> {
    let mut weights = vec![0_u128; representatives.len()];
    for plan in plans {
        if let Some(weight) = weights.get_mut(plan.representative as usize) {
            *weight += plan.balance;
        }
    }
    let mut rows: Vec<_> = representatives
        .iter()
        .zip(weights)
        .filter(|(_, weight)| *weight != 0)
        .map(|(key, weight)| (*key, weight.to_be_bytes()))
        .collect();
    rows.sort_unstable();
    insert(store, store.weights, &rows)
}

/// Inserts sorted rows, a range per transaction, in rounds.
fn insert<const K: usize, const V: usize>(
    store: &Store,
    table: Db,
    rows: &[([u8; K], [u8; V])],
) -> Result<(), SyntheticError> {
    for range in rows.chunks(RANGE) {
        let mut txn = store.begin()?;
        for round in 0..ROUNDS {
            for (key, value) in range {
                let last = key.last().copied().unwrap_or(0);
                if usize::from(last) % ROUNDS == round {
                    put(table, &mut txn, key, value)?;
                }
            }
        }
        commit(txn)?;
    }
    Ok(())
}
