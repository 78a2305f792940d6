//! Records as the node writes them; see `schema` for their byte orders.

use crate::blocks::schema::{Account, SUPPLY};
use crate::bytes::{array_at, u64_at, u128_be_at};
use crate::random::Random;

pub(super) type Id = [u8; 32];

/// Bytes of a state block's row: type 1, block 216, sideband 50.
pub(super) const BLOCK_LEN: usize = 267;
/// Where the successor's hash starts in it.
const SUCCESSOR: usize = 217;

const STATE_BLOCK: u8 = 6;
const OPEN_BLOCK: u8 = 4;
/// Details: bit 7 send, bit 6 receive, low bits the epoch (2 is the one before epoch 1).
const SEND: u8 = 0x80;
const RECEIVE: u8 = 0x40;
const EPOCH_0: u8 = 2;

/// 2026-01-01, in seconds since 1970.
const FIRST_SECOND: u64 = 1_767_225_600;

/// The fields of a block besides random signature and work.
pub(super) struct Block {
    pub(super) account: Id,
    pub(super) previous: Id,
    pub(super) representative: Id,
    pub(super) balance: u128,
    pub(super) link: Id,
    pub(super) successor: Id,
    pub(super) height: u64,
    /// Seconds after the first day.
    pub(super) second: u64,
    pub(super) is_send: bool,
}

impl Block {
    pub(super) fn encode(&self, random: &mut Random) -> [u8; BLOCK_LEN] {
        let mut signature_and_work = [0; 72];
        random.fill(&mut signature_and_work);
        let details = EPOCH_0 | if self.is_send { SEND } else { RECEIVE };
        concat(&[
            &[STATE_BLOCK],
            &self.account,
            &self.previous,
            &self.representative,
            &self.balance.to_be_bytes(),
            &self.link,
            &signature_and_work,
            &self.successor,
            &self.height.to_be_bytes(),
            &(FIRST_SECOND + self.second).to_be_bytes(),
            &[details, EPOCH_0],
        ])
    }
}

/// Bytes of an open block's row: type 1, block 168, sideband 56.
const OPEN_LEN: usize = 225;

impl Block {
    /// As the genesis block, which opens its account by a receive of the account itself.
    pub(super) fn encode_genesis(&self, random: &mut Random) -> [u8; OPEN_LEN] {
        let mut signature_and_work = [0; 72];
        random.fill(&mut signature_and_work);
        concat(&[
            &[OPEN_BLOCK],
            &self.account,
            &self.representative,
            &self.account,
            &signature_and_work,
            &self.successor,
            &SUPPLY.to_be_bytes(),
            &(FIRST_SECOND + self.second).to_be_bytes(),
        ])
    }
}

/// The row of a block that now has a successor; `None` if it is no state block.
pub(super) fn with_successor(row: &[u8], successor: &Id) -> Option<[u8; BLOCK_LEN]> {
    let mut row: [u8; BLOCK_LEN] = row.try_into().ok()?;
    row.get_mut(SUCCESSOR..SUCCESSOR + successor.len())?
        .copy_from_slice(successor);
    Some(row)
}

/// The row of an account.
pub(super) struct AccountRow {
    pub(super) head: Id,
    pub(super) representative: Id,
    pub(super) open: Id,
    pub(super) balance: u128,
    /// Seconds after the first day.
    pub(super) second: u64,
    pub(super) block_count: u64,
    pub(super) epoch: u8,
}

impl AccountRow {
    pub(super) const EPOCH_0: u8 = EPOCH_0;

    pub(super) fn encode(&self) -> [u8; Account::LEN] {
        concat(&[
            &self.head,
            &self.representative,
            &self.open,
            &self.balance.to_be_bytes(),
            &(FIRST_SECOND + self.second).to_le_bytes(),
            &self.block_count.to_le_bytes(),
            &[self.epoch],
        ])
    }

    pub(super) fn parse(row: &[u8]) -> Option<Self> {
        Some(Self {
            head: array_at(row, 0)?,
            representative: array_at(row, 32)?,
            open: array_at(row, 64)?,
            balance: u128_be_at(row, 96)?,
            second: u64_at(row, 112)?.saturating_sub(FIRST_SECOND),
            block_count: u64_at(row, 120)?,
            epoch: *row.get(128)?,
        })
    }
}

pub(super) fn height(height: u64, frontier: &Id) -> [u8; 40] {
    concat(&[&height.to_le_bytes(), frontier])
}

pub(super) fn pending_key(account: &Id, send: &Id) -> [u8; 64] {
    concat(&[account, send])
}

pub(super) fn pending(source: &Id, amount: u128) -> [u8; 49] {
    concat(&[source, &amount.to_be_bytes(), &[EPOCH_0]])
}

/// A number of the `meta` table.
pub(super) fn meta(number: u32) -> [u8; 32] {
    concat(&[&[0; 28], &number.to_be_bytes()])
}

/// A sample of the online weight, at a time after the first day.
pub(super) fn online_weight(second: u64, weight: u128) -> ([u8; 8], [u8; 16]) {
    (
        ((FIRST_SECOND + second) * 1_000_000_000).to_be_bytes(),
        weight.to_be_bytes(),
    )
}

/// Parts one after the other. Their lengths sum up to `N`: all callers list a record's fields.
fn concat<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    debug_assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), N);
    let mut row = [0; N];
    let mut rest = row.as_mut_slice();
    for part in parts {
        let Some((place, behind)) = rest.split_at_mut_checked(part.len()) else {
            break;
        };
        place.copy_from_slice(part);
        rest = behind;
    }
    row
}
