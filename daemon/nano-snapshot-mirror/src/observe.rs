//! What the running program reports: one model of its state, and the events found by comparing two.

pub(crate) mod events;
pub(crate) mod hooks;
pub(crate) mod report;
