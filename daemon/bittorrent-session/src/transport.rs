//! Connections below the peer protocol: sockets, buffers, rate limits, and the handshakes.

pub(crate) mod buffers;
pub(crate) mod handshake;
pub(crate) mod rate_limit;
pub(crate) mod stream;
