//! The commands that run once and exit: one file or directory for each.

pub(crate) mod attest;
pub(crate) mod demo;
pub(crate) mod fetch;
pub(crate) mod inspect;
pub(crate) mod install;
pub(crate) mod key_file;
pub(crate) mod outcome;
pub(crate) mod pin;
pub(crate) mod produce;
pub(crate) mod publishing;
pub(crate) mod rotate;
pub(crate) mod status;
pub(crate) mod verify;
