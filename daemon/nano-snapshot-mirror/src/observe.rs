//! What the running program reports: status, events, progress.

pub(crate) mod events;
pub(crate) mod progress;
pub(crate) mod report;
