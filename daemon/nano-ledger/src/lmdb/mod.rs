//! The LMDB file format, read with positioned reads and without trust in the file.

pub(crate) mod env;
pub(crate) mod error;
pub(crate) mod file;
pub(crate) mod free_list;
pub(crate) mod meta;
pub(crate) mod page;
pub(crate) mod tables;
pub(crate) mod walk;
