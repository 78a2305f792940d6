//! Logging, the client of the control socket, and the clock. Nothing here knows snapshots.

pub(crate) mod clock;
pub(crate) mod control_client;
pub(crate) mod logging;
