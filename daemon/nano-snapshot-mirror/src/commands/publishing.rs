//! Signs an item and publishes it in the DHT. Used by `produce`, `attest` and `rotate`.
//!
//! The order of the steps ensures that no sequence number is ever used for two values: look up the current item, take
//! the next number, sign, save the item on disk, and only then put it into the DHT.

mod by_mirror;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::{Result, bail};
use bittorrent_protocol::InfoHashV2;
use snapshot_pointer::publish::{self, Publication, Seen};
use snapshot_pointer::{
    Authority, Dht, ItemKind, LookupError, LookupResult, Pointer, Record, RecordStore, Salt, Seq,
    SignedItem, SigningKey,
};
use snapshot_store::DataDir;
use tracing::{info, warn};

use crate::commands::key_file;
use crate::config::Config;
use crate::transfer::{dht, network::Role};

pub(crate) use by_mirror::Mirror;

/// Look-ups made before the sequence number counts as unknown. A node that has just started may need a second one, as
/// it knows few other nodes yet.
const LOOKUP_TRIES: usize = 3;

/// A key file. The key is in memory only while it signs.
pub(crate) struct Signer {
    path: PathBuf,
    pub(crate) authority: Authority,
}

impl Signer {
    pub(crate) fn new(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            authority: key_file::read(path)?.authority(),
        })
    }

    /// Reads the key. The caller signs with it at once.
    pub(crate) fn key(&self) -> Result<SigningKey> {
        let key = key_file::read(&self.path)?;
        if key.authority() != self.authority {
            bail!("the key in {} was replaced meanwhile", self.path.display());
        }
        Ok(key)
    }
}

/// An item that is stored in the DHT.
pub(crate) struct Published {
    pub(crate) seq: Seq,
    pub(crate) stored: u32,
    pub(crate) read_back: u32,
}

impl Published {
    /// Formats the number of nodes that store the item, for a person.
    pub(crate) fn nodes(&self) -> String {
        format!("{} store it, {} returned it", self.stored, self.read_back)
    }
}

/// What to publish, and under which key.
pub(crate) struct Publishing<'a> {
    pub(crate) config: &'a Config,
    pub(crate) data: &'a DataDir,
    pub(crate) records: &'a RecordStore,
    pub(crate) authority: Authority,
    /// The salt of the item.
    pub(crate) salt: &'a Salt,
    pub(crate) kind: ItemKind,
    /// `--first`: the user states that nothing was published under this key before.
    pub(crate) first: bool,
}

impl Publishing<'_> {
    /// Publishes `snapshot` as the newest.
    ///
    /// # Errors
    ///
    /// See [`Self::publish`].
    pub(crate) async fn publish_pointer(
        &self,
        signer: &Signer,
        snapshot: InfoHashV2,
    ) -> Result<Published> {
        let says = |item: &SignedItem| item.pointer().is_ok_and(|said| said.snapshot == snapshot);
        let sign = |seq| {
            let pointer = Pointer { snapshot, seq };
            Ok(SignedItem::sign_pointer(
                &signer.key()?,
                self.salt,
                pointer,
            )?)
        };
        self.publish(says, sign).await
    }

    /// Publishes the item that `sign` signs with the next sequence number. If the published item already satisfies
    /// `says`, puts that item again unchanged.
    ///
    /// # Errors
    ///
    /// When the current sequence number is unknown, `sign` fails, or the item cannot be read back from the DHT. It is
    /// safe to repeat the call.
    pub(crate) async fn publish(
        &self,
        says: impl Fn(&SignedItem) -> bool,
        sign: impl FnOnce(Seq) -> Result<SignedItem>,
    ) -> Result<Published> {
        let started = Instant::now();
        let socket = self.config.control.path(self.data.root());
        let mirror = socket.and_then(Mirror::at);
        let dht: Box<dyn Dht> = match &mirror {
            Some(mirror) => {
                info!("using the DHT of the running mirror");
                Box::new(mirror.clone())
            }
            None => {
                let any = Ipv4Addr::UNSPECIFIED;
                let port = dht::dht_port(&self.config.dht, &Role::Once);
                Box::new(dht::start_dht(&self.config.dht, any, self.data, port).await?)
            }
        };
        let lookup = self.look_up(&*dht).await;
        let record = self.records.load(&self.authority, self.salt, self.kind)?;
        let item = match said_already(&record, &lookup, says) {
            Some(item) => item,
            None => sign(self.next_seq(&record, &lookup)?)?,
        };
        // The item is durable on this disk before any other node sees it.
        publish::keep(self.records, &item, self.kind, SystemTime::now())?;
        let stored = publish::put_and_read_back(&*dht, &item).await?;
        self.note_put()?;
        info!(
            seq = item.seq().get(),
            took_ms = started.elapsed().as_millis() as u64,
            "pointer published"
        );
        Ok(Published {
            seq: item.seq(),
            stored: stored.stored,
            read_back: stored.read_back,
        })
    }

    async fn look_up(&self, dht: &dyn Dht) -> Result<LookupResult, LookupError> {
        let mut tries = 1;
        loop {
            let lookup = dht.get_item(&self.authority, self.salt, &mut |_| {}).await;
            if Seen::of(&lookup) != Seen::Unknown || tries == LOOKUP_TRIES {
                return lookup;
            }
            tries += 1;
        }
    }

    /// Returns the sequence number to sign with.
    fn next_seq(&self, record: &Record, lookup: &Result<LookupResult, LookupError>) -> Result<Seq> {
        let on_disk = record.state().high_water();
        let seen = Seen::of(lookup);
        // Neither the network nor the disk has an item, so the numbers start here.
        let first = self.first || (seen == Seen::Nothing && on_disk.is_none());
        let publication = if first {
            Publication::First
        } else {
            Publication::Following
        };
        let seq = match publish::next_seq(seen, on_disk, publication) {
            Ok(seq) => seq,
            Err(refused) => {
                let reason = lookup
                    .as_ref()
                    .err()
                    .map_or(String::new(), |error| format!(" ({error})"));
                bail!("no sequence number to publish with: {refused}{reason}");
            }
        };
        if first {
            warn!(authority = %self.authority, "no earlier pointer of this key: starting at 1");
        }
        Ok(seq)
    }

    fn note_put(&self) -> Result<()> {
        self.records
            .update(&self.authority, self.salt, self.kind, |record| {
                record.note_put(SystemTime::now());
            })?;
        Ok(())
    }
}

/// Returns the signed item that already has the value to publish: the newest of those in the network and on disk. It
/// is put again unchanged, without a new number.
fn said_already(
    record: &Record,
    lookup: &Result<LookupResult, LookupError>,
    says: impl Fn(&SignedItem) -> bool,
) -> Option<SignedItem> {
    let state = record.state();
    let held = state.accepted().filter(|_| !state.is_contested());
    // A failed look-up is not an error here, because putting an item looks up again before it stores.
    let there = match lookup {
        Ok(found) if !found.conflicts.is_empty() => return None,
        Ok(found) => found.best.as_ref(),
        Err(_) => None,
    };
    let newest = match (held, there) {
        (Some(held), Some(there)) if there.seq() == held.seq() && there != held => None,
        (Some(held), Some(there)) if there.seq() <= held.seq() => Some(held),
        (_, Some(there)) => Some(there),
        (held, None) => held,
    };
    newest.filter(|item| says(item)).cloned()
}
