//! The types that callers see: what the engine takes and what it returns.

pub(crate) mod addresses;
pub(crate) mod config;
pub(crate) mod input;
pub(crate) mod keys;
pub(crate) mod output;
pub(crate) mod status;
