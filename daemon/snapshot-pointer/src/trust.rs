//! What a mirror believes: which items it accepts, what it records, and when enough authorities agree.

mod acceptance;
mod quorum;
mod record;

pub use acceptance::{Acceptance, AuthorityState, ItemKind};
pub use quorum::{Choice, Decision, Freshness, InvalidPolicy, StreamPolicy, Tally, Vote, decide};
pub use record::{Record, RecordDamage, RecordError, RecordStore, UnusableCopy, carried_item};
