//! What every daemon needs and what knows nothing of snapshots: systemd, logging, hooks, quota.

pub(crate) mod clock;
pub(crate) mod hooks;
pub(crate) mod http_server;
pub(crate) mod listening;
pub(crate) mod logging;
pub(crate) mod quota;
pub(crate) mod signals;
pub(crate) mod systemd;
pub(crate) mod watchdog;
