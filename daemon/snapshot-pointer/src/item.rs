//! Signed items: keys, salts, sequence numbers, signatures, and the statements that a value can make.
//!
//! Pure, apart from reading a key file. These modules know nothing of what a mirror has seen
//! before.

mod key;
mod raw;
mod refusal;
mod salt;
mod seq;
mod signed;
mod succession;
#[cfg(test)]
mod tests;

pub use key::{Authority, InvalidAuthority, KeyError, SigningKey};
pub use raw::{InvalidRawItem, RawItem};
pub use refusal::Refusal;
pub use salt::{Salt, SaltTooLong};
pub use seq::Seq;
pub use signed::{Pointer, SignedItem};
pub use succession::Succession;
