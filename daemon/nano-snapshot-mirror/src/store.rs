//! The data directory on disk.

pub(crate) mod catalogue;
pub(crate) mod data_dir;
pub(crate) mod ledger_record;
pub(crate) mod pins;
pub(crate) mod set_aside;
pub(crate) mod snapshot_info;
pub(crate) mod space;
pub(crate) mod temporary;
