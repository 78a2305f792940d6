//! Tables and records of the node's store, by store version.
//!
//! Byte orders are mixed inside one record, as the node dumps some structs from memory and writes
//! others as numbers of the protocol (nano-node `nano/store`, versions 21 to 24).

use crate::bytes::{array_at, u64_at, u128_be_at};

/// Bytes of an account, a block hash or a representative.
pub(crate) const ID_LEN: usize = 32;
/// Raw units of all Nano that exist: on every network, the genesis balance.
pub(crate) const SUPPLY: u128 = u128::MAX;

/// Oldest store version a node still upgrades from.
pub(crate) const OLDEST_VERSION: u32 = 21;
/// Newest store version whose tables are known here.
pub(crate) const NEWEST_VERSION: u32 = 24;

/// The first release of the node that opens a ledger of this store version, such as `27.0`; later
/// releases upgrade it. `None` for versions that no release is known to write.
///
/// docs.nano.org, "Node releases": V22 to V24 write 21, V25 and V26 write 22, V27 and V28 write 24
/// (23 was a step on the way there). Nodes refuse a ledger newer than themselves.
pub fn minimum_node_version(store_version: u32) -> Option<&'static str> {
    match store_version {
        21 => Some("22.0"),
        22 => Some("25.0"),
        23 | 24 => Some("27.0"),
        _ => None,
    }
}

/// Tables of every version since [`OLDEST_VERSION`].
const TABLES: [&str; 9] = [
    "accounts",
    "blocks",
    "confirmation_height",
    "final_votes",
    "meta",
    "online_weight",
    "peers",
    "pending",
    "pruned",
];

/// Tables that tell a ledger from another LMDB file.
pub(crate) const TELLTALE_TABLES: [&str; 3] = ["accounts", "blocks", "meta"];

/// Tables a store of `version` must have.
pub(crate) fn required_tables(version: u32) -> Vec<&'static str> {
    let mut tables = TABLES.to_vec();
    if version >= 23 {
        tables.push("rep_weights");
    }
    if version < 24 {
        tables.push("frontiers");
    }
    tables
}

/// Key of the store version in the `meta` table.
pub(crate) const VERSION_KEY: [u8; 32] = {
    let mut key = [0; 32];
    key[31] = 1;
    key
};

/// The store version from its record, a 256-bit big-endian number.
pub(crate) fn parse_version(value: &[u8]) -> Option<u32> {
    let (zeros, number) = value.split_at_checked(28)?;
    let number: [u8; 4] = number.try_into().ok()?;
    zeros
        .iter()
        .all(|byte| *byte == 0)
        .then_some(u32::from_be_bytes(number))
}

/// An account's record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account {
    /// The last block.
    pub(crate) head: [u8; ID_LEN],
    pub(crate) representative: [u8; ID_LEN],
    /// The first block.
    pub(crate) open: [u8; ID_LEN],
    pub(crate) balance: u128,
    pub(crate) block_count: u64,
    /// As stored: 2 is epoch 0.
    pub(crate) epoch: u8,
}

impl Account {
    /// head 32, representative 32, open 32, balance 16 big-endian, modified 8 and block count 8
    /// little-endian, epoch 1.
    pub(crate) const LEN: usize = 129;

    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        if value.len() != Self::LEN {
            return None;
        }
        Some(Self {
            head: array_at(value, 0)?,
            representative: array_at(value, 32)?,
            open: array_at(value, 64)?,
            balance: u128_be_at(value, 96)?,
            block_count: u64_at(value, 120)?,
            epoch: *value.get(128)?,
        })
    }
}

/// How far an account is cemented: height 8 little-endian, frontier 32.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Height {
    pub(crate) height: u64,
    /// The block at that height.
    pub(crate) frontier: [u8; ID_LEN],
}

/// A confirmation height.
pub(crate) fn parse_height(value: &[u8]) -> Option<Height> {
    if value.len() != HEIGHT_LEN {
        return None;
    }
    Some(Height {
        height: u64_at(value, 0)?,
        frontier: array_at(value, 8)?,
    })
}

/// Bytes of a confirmation height's record.
pub(crate) const HEIGHT_LEN: usize = 40;

/// A receivable send: source 32, amount 16 big-endian, epoch 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    /// The account that sent.
    pub(crate) source: [u8; ID_LEN],
    pub(crate) amount: u128,
    /// Of the send, as stored: 2 is epoch 0.
    pub(crate) epoch: u8,
}

/// A receivable send.
pub(crate) fn parse_pending(value: &[u8]) -> Option<Pending> {
    if value.len() != PENDING_LEN {
        return None;
    }
    Some(Pending {
        source: array_at(value, 0)?,
        amount: u128_be_at(value, 32)?,
        epoch: *value.get(48)?,
    })
}

/// Bytes of a receivable send's key: account and hash of the send.
pub(crate) const PENDING_KEY_LEN: usize = 64;
/// Bytes of a receivable send's record.
pub(crate) const PENDING_LEN: usize = 49;

/// The weight of a representative, big-endian.
pub(crate) fn parse_weight(value: &[u8]) -> Option<u128> {
    if value.len() == WEIGHT_LEN {
        u128_be_at(value, 0)
    } else {
        None
    }
}

/// Bytes of a weight's record.
pub(crate) const WEIGHT_LEN: usize = 16;

/// Writes bytes as the block explorers do.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02X}");
            text
        })
}

/// Reads 64 hexadecimal digits at compile time.
pub(crate) const fn hash(digits: &str) -> [u8; 32] {
    const fn digit(byte: u8) -> u8 {
        match byte {
            b'0'..=b'9' => byte - b'0',
            b'A'..=b'F' => byte - b'A' + 10,
            _ => panic!("not a hexadecimal digit"),
        }
    }
    let digits = digits.as_bytes();
    assert!(digits.len() == 64, "a hash has 64 digits");
    let mut hash = [0; 32];
    let mut i = 0;
    while i < 32 {
        hash[i] = digit(digits[2 * i]) << 4 | digit(digits[2 * i + 1]);
        i += 1;
    }
    hash
}
