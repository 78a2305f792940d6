//! Swarms of real engines under a virtual clock, with seeded delays, losses, churn and liars.
//!
//! The engines are those the program runs, and the hashes are real: every leaf, piece layer and
//! proof is checked as it is in a swarm of machines. Content is not there: a block's leaf hash is that
//! of the block's name, so that a swarm of a thousand mirrors of one GiB fits into a test machine.
//!
//! What is simulated: each host's line out, which serves its connections in turn, and its line in;
//! the way between each two hosts; bursts that are sent again or break the connection; disks;
//! mirrors that start, leave and return with what they had proven; peers that claim everything and
//! send false blocks. What is not: congestion between lines, and the bytes of messages without
//! payload, which take time and no bandwidth.
//!
//! The same [`Plan`] has the same [`Outcome`], to the nanosecond.

mod host;
mod outcome;
mod plan;
mod queue;
mod random;
mod torrent;
mod world;

pub use outcome::{Counts, Outcome};
pub use plan::{Churn, Plan};
pub use torrent::{BLOCK, SyntheticTorrent, TorrentError};
pub use world::World;
