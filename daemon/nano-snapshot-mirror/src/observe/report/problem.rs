//! Problems: what an operator should look at.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::names::named;

named! {
    /// The kind of a problem, for programs. `docs/operating.md` lists all codes; they never change.
    #[derive(PartialOrd, Ord)]
    pub(crate) enum ProblemCode {
        /// Content on disk is not what was verified.
        ContentDamaged => "content-damaged",
        /// No DHT node answers.
        DhtSilent => "dht-silent",
        /// There is too little free disk space.
        DiskFull => "disk-full",
        /// An authority signed two snapshots with one sequence number.
        Equivocation => "equivocation",
        /// A snapshot could not be downloaded or verified.
        FetchFailed => "fetch-failed",
        /// An authority names a successor that is not configured.
        KeyRotation => "key-rotation",
        /// The ledger of the published snapshot failed verification.
        LedgerUnsound => "ledger-unsound",
        /// Peers offer metadata that is too long.
        MetadataTooLong => "metadata-too-long",
        /// The DHT answers but has no acceptable pointer.
        NoPointer => "no-pointer",
        /// Records of pointers cannot be read or written.
        PointerMemory => "pointer-memory",
        /// No newer pointer was published for longer than `max-age`.
        PointerStale => "pointer-stale",
        /// The data directory cannot be read or changed.
        Store => "store",
        /// A torrent stopped with an error.
        TorrentStopped => "torrent-stopped",
        /// A code that a mirror of a later version reports.
        #[serde(other)]
        Unknown => "unknown",
    }
}

/// A problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Problem {
    pub(crate) code: ProblemCode,
    /// The problem in words, and what helps.
    pub(crate) text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.text)
    }
}
