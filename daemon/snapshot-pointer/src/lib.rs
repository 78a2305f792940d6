//! Decides which snapshot is current: reads and writes signed pointers in the Mainline DHT (BEP
//! 44), and believes one only if its signature verifies and its sequence number does not fall.
//!
//! A producer has a [`SigningKey`]. Its public half, the [`Authority`], is configured in mirrors.
//! The producer signs a [`Pointer`], that is the 32-byte v2 info-hash of its current snapshot and a
//! sequence number. It stores the pointer in the DHT as a [`SignedItem`] under its key and a
//! [`Salt`] (`daily` by default). Mirrors look the item up, check it, record it, and store it again
//! every half hour. So the item outlives the producer.
//!
//! # Trust, from the bottom up
//!
//! 1. A [`SignedItem`] can only be made by signing or by verifying. All other code handles verified
//!    items only.
//! 2. A [`LookupResult`] combines the answers of many nodes: the item with the greatest `seq`, and
//!    the items that contradict it.
//! 3. An [`AuthorityState`] accepts or refuses items of one authority. Its high-water mark never
//!    falls. Two values with one `seq` are kept as evidence, and the authority has no vote until it
//!    signs a greater `seq`. A [`Refusal`] states the reason.
//! 4. A [`Record`] adds the times at which items were seen, and a [`RecordStore`] keeps it on disk.
//!    A damaged record stops the mirror; it never resets the mark.
//! 5. [`decide`] counts the votes of several authorities by a [`StreamPolicy`] (k of n).
//! 6. A [`Follower`] does all of this for one stream over a [`Dht`].
//!
//! The first three are pure. Only [`Follower`], [`MainlineDht`] and [`publish`] wait for the
//! network. This crate sets no timer and does not act on a decision; it reads a key file only when
//! the caller names one.
//!
//! # What this cannot do
//!
//! The DHT gives availability, not truth: a pointer is as good as the authorities behind it, and an
//! attacker near an item's target can withhold it (see [`StreamPolicy::freshness`]) but not forge
//! it. A mirror that sees an authority for the first time has no mark yet, so nothing protects it
//! from a rollback.
//!
//! # Example
//!
//! ```
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! use std::time::SystemTime;
//!
//! use bittorrent_protocol::InfoHashV2;
//! use snapshot_pointer::loopback::LoopbackDht;
//! use snapshot_pointer::publish::{Publication, Seen, keep, next_seq, put_and_read_back};
//! use snapshot_pointer::{
//!     Decision, Dht, Follower, ItemKind, MainlineDht, Pointer, RecordStore, Salt, SignedItem, SigningKey,
//!     StreamPolicy,
//! };
//!
//! let network = LoopbackDht::start(3).await?;
//! let dht = MainlineDht::start(network.client_settings()).await?;
//! let dir = tempfile::tempdir()?;
//! let records = RecordStore::open(dir.path())?;
//! let (salt, now) = ("daily".parse::<Salt>()?, SystemTime::now());
//!
//! // The producer.
//! let key = SigningKey::generate()?;
//! let authority = key.authority();
//! let seen = Seen::of(&dht.get_item(&authority, &salt, &mut |_| {}).await);
//! let pointer = Pointer {
//!     snapshot: InfoHashV2::from_bytes([7; 32]),
//!     seq: next_seq(seen, None, Publication::First)?,
//! };
//! let item = SignedItem::sign_pointer(&key, &salt, pointer)?;
//! drop(key);
//! keep(&records, &item, ItemKind::Pointer, now)?;
//! put_and_read_back(&dht, &item).await?;
//!
//! // A mirror.
//! let policy = StreamPolicy::new(vec![authority], 1, salt, None)?;
//! let poll = Follower::new(policy, records).poll(&dht, now, &|_| {}).await?;
//! assert!(matches!(poll.decision, Decision::Follow(choice) if choice.snapshot == pointer.snapshot));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod dht;
mod follower;
mod item;
mod lookup_result;
pub mod publish;
#[cfg(test)]
mod testing;
mod trust;

pub use dht::{
    Dht, LookupError, MAX_PEERS, MAX_START_NODES, MainlineDht, NodeSettings, NodeStatus, PutError,
    Role, StartError, Stored, loopback, may_store,
};
pub use follower::{
    AuthorityPoll, Follower, LookupSummary, Poll, REPUBLISH_INTERVAL, Republished, SuccessionError,
};
pub use item::{
    Authority, InvalidAuthority, InvalidRawItem, KeyError, Pointer, RawItem, Refusal, Salt,
    SaltTooLong, Seq, SignedItem, SigningKey, Succession,
};
pub use lookup_result::{AnswerCounts, LookupResult};
pub use trust::{
    Acceptance, AuthorityState, Choice, Decision, Freshness, InvalidPolicy, ItemKind, Record,
    RecordDamage, RecordError, RecordStore, StreamPolicy, Tally, UnusableCopy, Vote, carried_item,
    decide,
};
