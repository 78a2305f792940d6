//! The DHT of the mirror that uses this data directory, reached over its control socket. A publishing process then
//! needs no DHT node of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bittorrent_protocol::{InfoHashV2, SwarmHash};
use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;
use snapshot_pointer::{
    Authority, Dht, LookupError, LookupResult, PutError, RawItem, Salt, SignedItem, Stored,
};
use tokio::task::spawn_blocking;

use crate::api::control::dht::{Looked, Taken};
use crate::kit::control_client::{self as client, Ask};

/// The timeout of a request to the mirror.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running mirror that accepts requests.
#[derive(Debug, Clone)]
pub(crate) struct Mirror {
    socket: PathBuf,
}

impl Mirror {
    /// Returns the mirror that listens at `socket`, if there is one.
    pub(crate) fn at(socket: PathBuf) -> Option<Self> {
        client::listens(&socket).then_some(Self { socket })
    }

    async fn ask<T: DeserializeOwned + Send + 'static>(
        &self,
        ask: Ask,
    ) -> Result<T, Box<dyn std::error::Error + Send + Sync>> {
        let socket = self.socket.clone();
        let answer = spawn_blocking(move || client::ask(&socket, &ask, PATIENCE)).await?;
        let answer = answer.map_err(|error| format!("{error:#}"))?;
        answer.ok_or_else(|| "the mirror no longer listens".into())
    }

    /// Notifies the mirror of a snapshot in the store, so that it seeds the snapshot at once and not at the next
    /// poll.
    pub(crate) async fn add(&self, id: InfoHashV2) {
        let body = serde_json::json!({ "snapshot": id.to_string() });
        let notified = self
            .ask::<serde_json::Value>(Ask::post("/snapshots", &body))
            .await;
        if let Err(error) = notified {
            tracing::warn!(
                "cannot notify the mirror, which finds the item at its next poll: {error}"
            );
        }
    }
}

impl Dht for Mirror {
    fn get_item<'a>(
        &'a self,
        authority: &'a Authority,
        salt: &'a Salt,
        better: &'a mut (dyn FnMut(&SignedItem) + Send),
    ) -> BoxFuture<'a, Result<LookupResult, LookupError>> {
        Box::pin(async move {
            let path = format!("/dht/item?authority={authority}&salt={}", salt.to_hex());
            let looked: Looked = self
                .ask(Ask::get(path))
                .await
                .map_err(|source| LookupError::Transport { source })?;
            let found = looked
                .found(authority, salt)
                .map_err(|source| LookupError::Transport {
                    source: source.into(),
                })?;
            if let Some(best) = &found.best {
                better(best);
            }
            Ok(found)
        })
    }

    fn put_item<'a>(&'a self, item: &'a SignedItem) -> BoxFuture<'a, Result<Stored, PutError>> {
        Box::pin(async move {
            let taken: Taken = self
                .ask(Ask::post(
                    "/dht/item",
                    &serde_json::json!(RawItem::from(item)),
                ))
                .await
                .map_err(|source| PutError::Lookup {
                    source: LookupError::Transport { source },
                })?;
            Ok(Stored {
                nodes: taken.nodes,
                before: LookupResult::default(),
            })
        })
    }

    // A publishing process seeds nothing, so it neither looks for peers nor announces itself.

    fn get_peers(&self, _: SwarmHash) -> BoxFuture<'_, Result<Vec<SocketAddr>, LookupError>> {
        Box::pin(async { Err(LookupError::NotConnected) })
    }

    fn announce(&self, _: SwarmHash, _: u16) -> BoxFuture<'_, Result<Vec<SocketAddr>, PutError>> {
        Box::pin(async {
            Err(PutError::Lookup {
                source: LookupError::NotConnected,
            })
        })
    }

    fn contacts(&self) -> BoxFuture<'_, Vec<SocketAddr>> {
        Box::pin(async { Vec::new() })
    }

    fn bootstrapped(&self) -> BoxFuture<'_, bool> {
        Box::pin(async { true })
    }
}
