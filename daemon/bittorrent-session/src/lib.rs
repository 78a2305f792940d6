//! BitTorrent v2 peers over tokio: sockets, timers and disk threads around the
//! [engine](bittorrent_engine), which decides, and the [store](bittorrent_store), which keeps
//! content.
//!
//! - One task, the driver, owns the engine. Connections send it messages in batches over a bounded
//!   channel; it puts instructions into their mailboxes.
//! - The connection's task hashes a block as soon as it has arrived. The block stays a slice of the
//!   buffer into which it was received. It needs a permit for its bytes, so a slow disk makes us
//!   read more slowly and the peer send more slowly.
//! - Disk threads write content, make it durable, and read what is not in the page cache. What is
//!   in the page cache a connection reads and sends without waiting. No task waits for a disk.
//!
//! ```no_run
//! # async fn example(store: std::sync::Arc<bittorrent_store::TorrentStore>, peer: std::net::SocketAddr)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! use bittorrent_session::{Session, SessionConfig};
//!
//! let session = Session::start(SessionConfig::default()).await?;
//! let torrent = session.add_store(store).await?;
//! torrent.add_peers(&[peer]).await;
//! torrent.subscribe().wait_for(|status| status.phase.is_seeding()).await?;
//! session.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod config;
mod descriptors;
mod discovery;
mod disk;
mod driver;
mod error;
mod handle;
mod heartbeat;
mod http;
mod link;
mod peer;
mod session;
mod status;
mod transport;
mod web_seed;

pub use bittorrent_engine::{
    Config as EngineConfig, ConnectionLimits, Direction, Link, PeerStatus, Scope, Source,
    StopReason,
};
pub use config::{SessionConfig, Tuning};
pub use discovery::local_discovery::{
    LocalDiscovery, LocalDiscoveryConfig, LocalRegistration, LocalRegistry,
};
pub use discovery::tracker::{Announcer, InvalidTrackerUrl, TrackerError, TrackerUrl};
pub use disk::piece_map::{MAX_MAP_CELLS, MapCell};
pub use error::{AddError, Causes, SessionError};
pub use handle::{SessionHandle, TorrentHandle};
pub use heartbeat::Heartbeat;
pub use http::{HttpClient, HttpError, HttpUrl, InvalidHttpUrl, next_chunk};
pub use session::Session;
pub use status::{Peer, Phase, ShutdownReport, TorrentError, TorrentStatus};
pub use transport::handshake::{Encryption, EncryptionPolicy};
pub use transport::rate_limit::RateLimits;
pub use web_seed::{InvalidWebSeedUrl, WebSeedUrl};
