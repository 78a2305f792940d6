//! The servers of the running mirror: HTTP on TCP, and the control socket.

pub(crate) mod control;
pub(crate) mod http;
pub(crate) mod listeners;
