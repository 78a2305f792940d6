//! Reports of the running program: a model of its state, and the events found by comparing two reports.

pub(crate) mod events;
pub(crate) mod hooks;
pub(crate) mod report;
