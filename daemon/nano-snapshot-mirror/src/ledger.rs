//! Ledgers: what they must be before they are used, and how they become files of their own.

pub(crate) mod extract;
pub(crate) mod policy;
pub(crate) mod published;
pub(crate) mod unpack;
pub(crate) mod verify_progress;
