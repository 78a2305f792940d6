//! Merkle trees of files (BEP 52).

mod request;

pub use request::HashRequest;
