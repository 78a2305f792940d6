//! Signed pointers to snapshots in the Mainline DHT (BEP 44) and the policy for trusting them.
//!
//! A producer holds a [`SigningKey`]. Its public half, the [`Authority`], is what mirrors are told to
//! follow. The producer signs a [`Pointer`], that is the 32-byte v2 info-hash of its current snapshot
//! with a sequence number, and stores it in the DHT as a [`SignedItem`] under its key and a [`Salt`]
//! (`daily` by default). Mirrors look it up, judge it, remember it, and store it again every half hour,
//! so that it stays when the producer goes.
//!
//! # Trust, from the bottom up
//!
//! 1. A [`SignedItem`] can only be made by signing or by verifying. What follows never sees anything
//!    unverified.
//! 2. [`Found`] makes one result of the answers of many nodes: the greatest `seq`, and whatever
//!    contradicts it.
//! 3. A [`Standing`] judges items of one authority. Its high-water mark never falls; two values of
//!    one `seq` are kept as evidence and suspend the authority until it signs a greater one; each
//!    [`Refusal`] has its reason.
//! 4. A [`Record`] adds when things were first seen, and a [`RecordStore`] keeps it on disk. A
//!    damaged record stops the mirror rather than resetting the mark.
//! 5. [`decide`] counts the votes of several authorities by a [`StreamPolicy`] (k of n).
//! 6. A [`Follower`] does all of this for one stream over a [`Dht`].
//!
//! Everything up to the store is pure; only [`Follower`], [`MainlineDht`] and [`publish`] wait for
//! the network. Nobody here loads a key on its own, sets a timer, or acts on a decision.
//!
//! # What this cannot do
//!
//! The DHT gives availability, not truth: a pointer is as good as the authorities behind it, and an
//! attacker near an item's target can withhold it (see [`StreamPolicy::freshness`]) but not forge
//! it. A mirror that never saw an authority before has no mark to protect it against a rollback.
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
//!     Decision, Dht, Follower, Kind, MainlineDht, Pointer, RecordStore, Salt, SignedItem, SigningKey,
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
//! keep(&records, &item, Kind::Pointer, now)?;
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
mod gather;
mod item;
mod judge;
mod key;
pub mod loopback;
mod mainline_node;
pub mod publish;
mod quorum;
mod record;
mod rotation;
#[cfg(test)]
mod testing;

pub use dht::{Dht, LookupError, MAX_PEERS, PutError, StartError, Stored};
pub use follower::{
    AuthorityPoll, Follower, LookupSummary, Poll, REPUBLISH_INTERVAL, Republished, SuccessionError,
};
pub use gather::{Counts, Found};
pub use item::{InvalidRawItem, Pointer, RawItem, Salt, SaltTooLong, Seq, SignedItem};
pub use judge::{Kind, Refusal, Standing, Verdict};
pub use key::{Authority, InvalidAuthority, KeyError, SigningKey};
pub use mainline_node::{MAX_START_NODES, MainlineDht, NodeSettings, NodeStatus, Role, may_store};
pub use quorum::{Choice, Decision, Freshness, InvalidPolicy, StreamPolicy, Tally, Vote, decide};
pub use record::{Damage, Record, RecordError, RecordStore, UnusableCopy, carried_item};
pub use rotation::Succession;
