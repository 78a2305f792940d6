//! The networks of Nano and their genesis blocks.

use std::fmt;

use crate::blocks::schema;

/// The network of a ledger, determined by its genesis block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Network {
    /// The live network.
    Live,
    /// The development network that test nodes run.
    Dev,
    /// One whose genesis block is not known here: beta, test or private.
    Unknown,
}

pub(crate) const GENESIS: [(Network, [u8; 32]); 2] = [
    (
        Network::Live,
        schema::hash("991CF190094C00F0B68E2E5F75F6BEE95A2E0BD93CEAA4A6734DB9F19B728948"),
    ),
    (
        Network::Dev,
        schema::hash("04270D7F11C4B2B472F2854C5A59F2A7E84226CE9ED799DE75744BD7D85FC9D9"),
    ),
];

/// Returns whether this is the genesis block of the network, which receives without a send.
pub(crate) fn is_genesis(network: Network, hash: &[u8; 32]) -> bool {
    GENESIS.contains(&(network, *hash))
}

/// A text is not the name of a [`Network`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("networks are live, dev and unknown")]
pub struct UnknownNetwork;

impl std::str::FromStr for Network {
    type Err = UnknownNetwork;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Live, Self::Dev, Self::Unknown]
            .into_iter()
            .find(|network| network.to_string() == text)
            .ok_or(UnknownNetwork)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "live",
            Self::Dev => "dev",
            Self::Unknown => "unknown",
        })
    }
}
