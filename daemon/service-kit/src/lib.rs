//! The common parts of daemons, independent of Nano: service manager, signals, output, and servers over TCP and Unix sockets.
//!
//! - [`systemd`]: sockets that the service manager opened, and notifications to it.
//! - [`watchdog`]: pings to the service manager while all loops make progress.
//! - [`signals`]: requests to stop and to reload.
//! - [`listening`]: which addresses to bind besides inherited sockets.
//! - [`http_server`]: HTTP/1 with limits on connections and event streams.
//! - [`control_socket`]: the Unix socket for commands.
//! - [`sync`]: locks that a panic does not poison.
//! - [`output`]: stdout and stderr without panics and control characters.

pub mod control_socket;
pub mod http_server;
pub mod listening;
pub mod output;
pub mod signals;
pub mod sync;
pub mod systemd;
pub mod watchdog;
