//! Logging, the client of the control socket. Nothing here knows snapshots.

pub(crate) mod control_client;
pub(crate) mod logging;
