//! Bencode, the encoding of torrents and extension messages (BEP 3, "bencoding").
//!
//! [`decode`] borrows from its input and remembers for each value the very bytes it was read from,
//! because a torrent is named by a hash of original bytes. What other decoders forgive
//! (unsorted or repeated keys, leading zeros) it reads as well, but reports as [`Flaw`]s: the caller
//! decides. It uses no recursion, and its [`Limits`] hold before anything is allocated.

mod decode;
mod encode;

use std::ops::Deref;

pub use decode::{decode, decode_saturating};
pub use encode::{DictEncoder, Encoder};

/// What a decoder accepts. A value takes about 64 bytes of memory, a dictionary entry 16 more:
/// `max_tokens` bounds the memory a hostile input can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Lists and dictionaries inside each other, at most 256.
    pub max_depth: usize,
    /// Integers, byte strings (keys too), lists and dictionaries together.
    pub max_tokens: usize,
    /// Length of the input in bytes.
    pub max_len: usize,
}

impl Limits {
    /// For `.torrent` files and info dictionaries: enough for the most pieces and for some 80,000
    /// files.
    pub const TORRENT: Self = Self {
        max_depth: 100,
        max_tokens: 1_000_000,
        max_len: 128 << 20,
    };

    /// For extension messages.
    pub const MESSAGE: Self = Self {
        max_depth: 16,
        max_tokens: 4_096,
        max_len: 1 << 20,
    };
}

/// Why bytes are not bencode that we read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BencodeError {
    /// Longer than [`Limits::max_len`].
    #[error("{len} bytes of bencode, more than {max}")]
    TooLong {
        /// Length of the input.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// Deeper than [`Limits::max_depth`].
    #[error("more than {max} lists and dictionaries inside each other at byte {offset}")]
    TooDeep {
        /// Where the value starts that is too deep.
        offset: usize,
        /// The limit.
        max: usize,
    },
    /// More values than [`Limits::max_tokens`].
    #[error("more than {max} values at byte {offset}")]
    TooManyTokens {
        /// Where the value starts that is too much.
        offset: usize,
        /// The limit.
        max: usize,
    },
    /// The input ends inside a value.
    #[error("the input ends at byte {offset}, inside a value")]
    UnexpectedEnd {
        /// Length of the input.
        offset: usize,
    },
    /// A byte that is invalid here.
    #[error("byte {byte:#04x} at {offset}, expected {expected}")]
    UnexpectedByte {
        /// Its position.
        offset: usize,
        /// The byte found.
        byte: u8,
        /// The bytes that would be valid here.
        expected: &'static str,
    },
    /// An integer that no `i64` holds.
    #[error("the integer at byte {offset} does not fit 64 bits")]
    IntegerOverflow {
        /// Where its digits start.
        offset: usize,
    },
    /// A byte string that ends past the input.
    #[error("the byte string at byte {offset} is longer than the input")]
    StringPastEnd {
        /// Where its length starts.
        offset: usize,
    },
}

/// What a strict reader objects to in a value that can be read all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flaw {
    /// What is wrong.
    pub kind: FlawKind,
    /// Where it was found, in bytes from the start of the input.
    pub offset: usize,
}

/// The kinds of [`Flaw`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FlawKind {
    /// A dictionary key that sorts before the one in front of it.
    #[error("unsorted dictionary key")]
    UnsortedKey,
    /// A dictionary key equal to the one in front of it.
    #[error("repeated dictionary key")]
    RepeatedKey,
    /// An integer or string length with leading zeros, or `-0`.
    #[error("integer with a leading zero")]
    LeadingZero,
}

/// What [`decode`] read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The value at the start of the input.
    pub root: Node<'a>,
    /// The deviations from strict bencode, in order; at most [`Self::MAX_FLAWS`] are listed.
    pub flaws: Vec<Flaw>,
    /// How many bytes the value takes; what follows was not looked at.
    pub consumed: usize,
}

impl Decoded<'_> {
    /// No more flaws than this are listed.
    pub const MAX_FLAWS: usize = 16;
}

/// A value and the bytes it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node<'a> {
    value: Value<'a>,
    raw: &'a [u8],
}

/// A bencoded value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// `i…e`
    Int(i64),
    /// `<length>:…`; rarely text.
    Bytes(&'a [u8]),
    /// `l…e`
    List(Vec<Node<'a>>),
    /// `d…e`
    Dict(Dict<'a>),
}

/// The entries of a dictionary in the order of the input, repeated keys included.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dict<'a>(Vec<(&'a [u8], Node<'a>)>);

impl<'a> Node<'a> {
    /// The value.
    pub const fn value(&self) -> &Value<'a> {
        &self.value
    }

    /// The bytes it was read from.
    pub const fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// The number, if it is one.
    pub const fn as_int(&self) -> Option<i64> {
        match self.value {
            Value::Int(int) => Some(int),
            _ => None,
        }
    }

    /// The byte string, if it is one.
    pub const fn as_bytes(&self) -> Option<&'a [u8]> {
        match self.value {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The list, if it is one.
    pub fn as_list(&self) -> Option<&[Node<'a>]> {
        match &self.value {
            Value::List(list) => Some(list),
            _ => None,
        }
    }

    /// The dictionary, if it is one.
    pub const fn as_dict(&self) -> Option<&Dict<'a>> {
        match &self.value {
            Value::Dict(dict) => Some(dict),
            _ => None,
        }
    }
}

impl<'a> Dict<'a> {
    /// The first value with this key. Looks at every entry in front of it.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<&Node<'a>> {
        let key = key.as_ref();
        self.0
            .iter()
            .find_map(|(found, node)| (*found == key).then_some(node))
    }

    /// The first value with this key, if it is a number.
    pub fn int(&self, key: &str) -> Option<i64> {
        self.get(key)?.as_int()
    }

    /// The first value with this key, if it is a byte string.
    pub fn bytes(&self, key: &str) -> Option<&'a [u8]> {
        self.get(key)?.as_bytes()
    }
}

impl<'a> Deref for Dict<'a> {
    type Target = [(&'a [u8], Node<'a>)];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}
