//! The table of message ids, names and lengths.

use std::fmt;
use std::ops::RangeInclusive;

use crate::merkle::MAX_HASH_COUNT;
use crate::units::{BLOCK_LEN, MAX_PIECES};

/// The longest message, its 4 length bytes not counted, that we and other clients accept: 1 MiB.
pub const MAX_MESSAGE_LEN: u32 = 1 << 20;

/// The most hashes in one `hashes` message: those of the base layer and the uncles of a proof.
pub const MAX_HASHES: u32 = MAX_HASH_COUNT + 64;

/// Bytes of the five fields that all three hash messages begin with, and the id.
const HASH_FIELDS: u32 = 1 + 32 + 4 * 4;

/// The id of a message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub u8);

macro_rules! ids {
    ($($(#[$doc:meta])* $constant:ident = $id:literal, $name:literal, $lengths:expr;)*) => {
        impl MessageId {
            $($(#[$doc])* pub const $constant: Self = Self($id);)*

            /// Every id in the table.
            pub const ALL: &[Self] = &[$(Self::$constant),*];

            /// What the specifications call it; `None` for ids outside the table.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$constant => Some($name),)*
                    _ => None,
                }
            }

            /// How long such a message may be, counting its id but not its 4 length bytes.
            pub(super) const fn lengths(self) -> RangeInclusive<u32> {
                match self {
                    $(Self::$constant => $lengths,)*
                    _ => 1..=u32::MAX,
                }
            }
        }
    };
}

impl MessageId {
    /// Whether a message of this kind may have this length, its 4 length bytes not counted.
    pub(super) fn allows(self, length: u32) -> bool {
        let lengths = self.lengths();
        let whole = self != Self::HASHES || length % 32 == HASH_FIELDS % 32;
        lengths.contains(&length) && whole
    }
}

ids! {
    /// The sender will not serve requests (BEP 3).
    CHOKE = 0, "choke", 1..=1;
    /// The sender will serve requests (BEP 3).
    UNCHOKE = 1, "unchoke", 1..=1;
    /// The sender wants pieces the receiver has (BEP 3).
    INTERESTED = 2, "interested", 1..=1;
    /// The sender wants nothing the receiver has (BEP 3).
    NOT_INTERESTED = 3, "not interested", 1..=1;
    /// The sender completed a piece (BEP 3).
    HAVE = 4, "have", 5..=5;
    /// Which pieces the sender has, one bit each (BEP 3).
    BITFIELD = 5, "bitfield", 1..=1 + MAX_PIECES.div_ceil(8);
    /// Asks for a range of a piece (BEP 3).
    REQUEST = 6, "request", 13..=13;
    /// A request for a range of a piece, at most a block (BEP 3).
    PIECE = 7, "piece", 9..=9 + BLOCK_LEN;
    /// Takes a request back (BEP 3).
    CANCEL = 8, "cancel", 13..=13;
    /// The UDP port of the sender's DHT node (BEP 5).
    PORT = 9, "port", 3..=3;
    /// The sender has this piece at hand (BEP 6).
    SUGGEST = 13, "suggest piece", 5..=5;
    /// The sender has every piece (BEP 6).
    HAVE_ALL = 14, "have all", 1..=1;
    /// The sender has no piece (BEP 6).
    HAVE_NONE = 15, "have none", 1..=1;
    /// The sender will not serve this request (BEP 6).
    REJECT = 16, "reject request", 13..=13;
    /// The sender serves this piece even while choking (BEP 6).
    ALLOWED_FAST = 17, "allowed fast", 5..=5;
    /// A message of the extension protocol (BEP 10).
    EXTENDED = 20, "extended", 2..=MAX_MESSAGE_LEN;
    /// Asks for hashes of a merkle tree (BEP 52).
    HASH_REQUEST = 21, "hash request", HASH_FIELDS..=HASH_FIELDS;
    /// Hashes of a merkle tree with their proof (BEP 52).
    HASHES = 22, "hashes", HASH_FIELDS..=HASH_FIELDS + 32 * MAX_HASHES;
    /// The sender will not serve this hash request (BEP 52).
    HASH_REJECT = 23, "hash reject", HASH_FIELDS..=HASH_FIELDS;
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "message {}", self.0),
        }
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageId({}, {self})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_message_fits_the_message_limit() {
        for id in MessageId::ALL {
            let lengths = id.lengths();
            assert!(*lengths.start() >= 1, "{id}");
            assert!(lengths.start() <= lengths.end(), "{id}");
            assert!(*lengths.end() <= MAX_MESSAGE_LEN, "{id}");
        }
    }

    #[test]
    fn unknown_ids_have_no_name_but_can_be_shown() {
        for id in (0..=u8::MAX).map(MessageId) {
            assert_eq!(id.name().is_some(), MessageId::ALL.contains(&id));
        }
        assert_eq!(MessageId(99).to_string(), "message 99");
        assert_eq!(MessageId::HASH_REJECT.to_string(), "hash reject");
    }
}
