//! Streams: which authorities are followed and what their pointers name.

pub(crate) mod records;
pub(crate) mod stream;
