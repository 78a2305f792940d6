//! The handshake of the extension protocol (BEP 10).

use std::net::IpAddr;

/// The id of the extended handshake within `extended` messages.
pub const EXTENDED_HANDSHAKE: u8 = 0;

/// The id under which we take metadata messages (BEP 9).
pub const UT_METADATA: u8 = 1;

/// The id under which we take peer exchange messages (BEP 11).
pub const UT_PEX: u8 = 2;

/// What a peer tells about itself and the extensions it speaks. It may come again at any time;
/// what a later one leaves out stays as it was.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExtendedHandshake {
    /// The id under which the sender takes metadata messages (BEP 9); 0 when it no longer does.
    pub ut_metadata: Option<u8>,
    /// The id under which the sender takes peer exchange messages (BEP 11); 0 when it no longer
    /// does.
    pub ut_pex: Option<u8>,
    /// Length of the info dictionary in bytes, when the sender has it; at least 1.
    pub metadata_size: Option<u32>,
    /// How many requests the sender queues, at least 1. libtorrent lets it replace its own limit
    /// of outstanding requests, 500, in both directions.
    pub reqq: Option<u32>,
    /// The TCP port where the sender listens; never 0.
    pub port: Option<u16>,
    /// Name and version of the sender's software, short and printable.
    pub client: Option<String>,
    /// The receiver's address as the sender sees it.
    pub yourip: Option<IpAddr>,
    /// Whether the sender will not download anything (BEP 21).
    pub upload_only: Option<bool>,
}
