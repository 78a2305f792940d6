//! The columns of a body, each with its models, writer and reader.

pub(crate) mod cut;
mod key;
pub(crate) mod kinds;
pub(crate) mod references;
pub(crate) mod representatives;
pub(crate) mod sends;
