//! BitTorrent v2 peers over tokio: sockets, timers and disk threads around the
//! [engine](bittorrent_engine) that decides and the [store](bittorrent_store) that keeps.
//!
//! - One task, the driver, owns the engine. Connections tell it what they hear in batches over a
//!   bounded channel and find its instructions in a mailbox.
//! - A block is hashed on its connection's task as soon as it is there and travels as a slice of
//!   the buffer it was received in. Permits for its bytes are got before it is kept, so a slow
//!   disk makes us read more slowly and the peer send more slowly.
//! - Disk threads write, make durable, and read what is not in the page cache. What is, a
//!   connection reads without waiting and sends at once. No task waits for a disk.
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

mod buffers;
mod config;
mod content;
mod descriptors;
mod disk;
mod driver;
mod error;
mod handle;
mod handshake;
mod heartbeat;
mod http;
mod limits;
mod listener;
mod local_discovery;
mod mailbox;
mod peer;
mod piece_map;
mod session;
mod status;
mod stream;
mod tracker;
mod web_seed;

pub use bittorrent_engine::{
    Config as EngineConfig, ConnectionLimits, Direction, Link, PeerStatus, Scope, Source,
    StopReason,
};
pub use config::{SessionConfig, Tuning};
pub use driver::ShutdownReport;
pub use error::{AddError, Causes, SessionError};
pub use handle::{SessionHandle, TorrentHandle};
pub use handshake::{Encryption, EncryptionPolicy};
pub use heartbeat::Heartbeat;
pub use http::{HttpClient, HttpError, HttpUrl, InvalidHttpUrl, next_chunk};
pub use limits::RateLimits;
pub use local_discovery::{LocalDiscovery, LocalDiscoveryConfig, LocalRegistration, LocalRegistry};
pub use piece_map::{MAX_MAP_CELLS, MapCell};
pub use session::Session;
pub use status::{Peer, Phase, TorrentError, TorrentStatus};
pub use tracker::{Announcer, InvalidTrackerUrl, TrackerError, TrackerUrl};
pub use web_seed::{InvalidWebSeedUrl, WebSeedUrl};
