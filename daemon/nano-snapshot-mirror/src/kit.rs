//! What every daemon needs and what knows nothing of snapshots: systemd, logging, hooks, quota.

pub(crate) mod clock;
pub(crate) mod hooks;
pub(crate) mod logging;
pub(crate) mod quota;
