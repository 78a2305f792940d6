//! An HTTP server with limits: on connections, on event streams, and on the host names that it answers for.

mod answers;
mod connections;
mod event_streams;
mod guard;

pub use answers::{bytes_as, json, refuse};
pub use bittorrent_engine::Host;
pub use connections::serve;
pub use event_streams::{EventStreams, Updates, events};
pub use guard::{HostName, Hosts, pass};
