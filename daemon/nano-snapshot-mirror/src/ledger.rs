//! Ledgers: the policy for using them, and extracting them as files.

pub(crate) mod extract;
pub(crate) mod policy;
pub(crate) mod published;
pub(crate) mod unpack;
pub(crate) mod verify_progress;
