//! Signed pointers to snapshots in the Mainline DHT (BEP 44) and the policy for trusting them.

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
pub use record::{Damage, Record, RecordError, RecordStore};
pub use rotation::Succession;
