//! What a generation's directory records of its own content: the claims, and the journal of what was verified after them.

pub(crate) mod claims;
pub(crate) mod journal;
