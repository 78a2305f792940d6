//! The manifest of a generation: which segments there are, in one canonical spelling, and what may follow it.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use data_encoding::HEXLOWER_PERMISSIVE;
use serde::Deserialize;
use thiserror::Error;

use crate::head::MAX_BLOCKS;
use crate::proofs::PROOF_LEN;

/// The most bytes of a manifest.
pub const MAX_LEN: usize = 4 << 20;
/// The name of its file in a generation.
pub const FILE: &str = "manifest.toml";
/// Times are multiples of this many seconds.
pub const TIME_GRAIN: u64 = 3600;
const FORMAT: u64 = 1;
const MAX_NETWORK: usize = 32;

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ManifestError {
    /// The bytes are not those that the writer makes of what they say.
    #[error("the manifest is not in canonical spelling: {what}")]
    Spelling {
        /// Where it differs, or what a parser said.
        what: String,
    },
    /// A number or name is outside of what it can be.
    #[error("the manifest's {what} is out of range")]
    OutOfRange {
        /// Which.
        what: &'static str,
    },
    /// Segments leave a gap or overlap.
    #[error("the manifest's segments leave a gap or overlap at position {at}")]
    Tiling {
        /// The position at which one should begin or end.
        at: u64,
    },
    /// It takes back what an earlier manifest said.
    #[error("the manifest does not continue the one before: {what}")]
    NotAppendOnly {
        /// What of it.
        what: &'static str,
    },
    /// The torrent's files are not those that the manifest lists.
    #[error("the torrent's file {name} is missing, not listed or another one")]
    FilesDiffer {
        /// The path in the torrent.
        name: String,
    },
}

/// Whether a segment still changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Never changes and is never merged.
    Sealed,
    /// What one generation added; becomes part of a sealed segment.
    Tail,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sealed => "sealed",
            Self::Tail => "tail",
        })
    }
}

/// A file by its length in bytes and its BEP 52 pieces root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileRoot {
    /// Bytes.
    pub length: u64,
    /// The root of the merkle tree over its blocks of 16 KiB.
    pub root: [u8; 32],
}

/// A segment in a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Sealed or tail.
    pub tier: Tier,
    /// The position before it.
    pub from: u64,
    /// The position after it.
    pub to: u64,
    /// The time that rebuilt rows get, in seconds since 1970, a multiple of [`TIME_GRAIN`]; 0 in the first generation.
    pub as_of: u64,
    /// New keys of the body.
    pub keys: u64,
    /// The body.
    pub blocks: FileRoot,
    /// The proofs.
    pub proofs: FileRoot,
}

impl Entry {
    /// Bytes of both files.
    pub fn length(&self) -> u64 {
        self.blocks.length + self.proofs.length
    }

    /// Path and root of both files in the torrent, body first.
    pub fn files(&self) -> [(String, FileRoot); 2] {
        let name = format!("{}/{:012}-{:012}", self.tier, self.from, self.to);
        [
            (format!("{name}.blocks"), self.blocks),
            (format!("{name}.proofs"), self.proofs),
        ]
    }
}

/// What a generation consists of. Those that were read hold all rules that a manifest must hold by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The network's name: lower-case letters, digits and hyphens, at most 32.
    pub network: String,
    /// The hash of its genesis block.
    pub genesis: [u8; 32],
    /// Counts manifests, from 0.
    pub generation: u64,
    /// When the cut was made, in seconds since 1970, a multiple of [`TIME_GRAIN`].
    pub as_of: u64,
    /// The v2 info-hash of the generation before; `None` in generation 0 alone.
    pub previous: Option<[u8; 32]>,
    /// The position of the cut.
    pub cemented: u64,
    /// The position of the last sealed cut.
    pub sealed: u64,
    /// Accounts of the cut.
    pub accounts: u64,
    /// The digest of accounts and receivables at the cut.
    pub state: [u8; 32],
    /// Sealed ones, then tails, each by position.
    pub segments: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Spelled {
    format: u64,
    network: String,
    genesis: Hash,
    generation: u64,
    as_of: u64,
    previous: Option<Hash>,
    cemented: u64,
    sealed: u64,
    accounts: u64,
    state: Hash,
    #[serde(default, rename = "segment")]
    segments: Vec<SpelledEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct SpelledEntry {
    tier: Tier,
    from: u64,
    to: u64,
    as_of: u64,
    keys: u64,
    blocks_length: u64,
    blocks_root: Hash,
    proofs_length: u64,
    proofs_root: Hash,
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Hash([u8; 32]);

impl TryFrom<String> for Hash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or("not 64 hexadecimal digits")
    }
}

fn hex(hash: &[u8; 32]) -> String {
    data_encoding::HEXLOWER.encode(hash)
}

impl Manifest {
    /// Reads a manifest in its one spelling and checks what holds of it by itself.
    pub fn read(bytes: &[u8]) -> Result<Self, ManifestError> {
        let spelling = |what: &dyn fmt::Display| ManifestError::Spelling {
            what: what.to_string(),
        };
        if bytes.len() > MAX_LEN {
            return Err(spelling(&format_args!("longer than {MAX_LEN} bytes")));
        }
        let text = std::str::from_utf8(bytes).map_err(|e| spelling(&e))?;
        let spelled: Spelled = toml::from_str(text).map_err(|e| spelling(&e.message()))?;
        if spelled.format != FORMAT {
            return Err(spelling(&format_args!(
                "format {} instead of {FORMAT}",
                spelled.format
            )));
        }
        let manifest = Self {
            network: spelled.network,
            genesis: spelled.genesis.0,
            generation: spelled.generation,
            as_of: spelled.as_of,
            previous: spelled.previous.map(|hash| hash.0),
            cemented: spelled.cemented,
            sealed: spelled.sealed,
            accounts: spelled.accounts,
            state: spelled.state.0,
            segments: spelled
                .segments
                .into_iter()
                .map(SpelledEntry::entry)
                .collect(),
        };
        manifest.check()?;
        let written = manifest.write();
        if written != text {
            let line = written
                .lines()
                .zip(text.lines())
                .take_while(|(one, other)| one == other)
                .count()
                + 1;
            return Err(spelling(&format_args!("it differs from line {line} on")));
        }
        Ok(manifest)
    }

    /// Returns the one spelling.
    pub fn write(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.spell(&mut text);
        text
    }

    fn spell(&self, to: &mut String) -> fmt::Result {
        writeln!(to, "format = {FORMAT}")?;
        writeln!(to, "network = \"{}\"", self.network)?;
        writeln!(to, "genesis = \"{}\"", hex(&self.genesis))?;
        writeln!(to, "generation = {}", self.generation)?;
        writeln!(to, "as-of = {}", self.as_of)?;
        if let Some(previous) = &self.previous {
            writeln!(to, "previous = \"{}\"", hex(previous))?;
        }
        writeln!(to, "cemented = {}", self.cemented)?;
        writeln!(to, "sealed = {}", self.sealed)?;
        writeln!(to, "accounts = {}", self.accounts)?;
        writeln!(to, "state = \"{}\"", hex(&self.state))?;
        for entry in &self.segments {
            writeln!(to, "\n[[segment]]")?;
            writeln!(to, "tier = \"{}\"", entry.tier)?;
            writeln!(to, "from = {}", entry.from)?;
            writeln!(to, "to = {}", entry.to)?;
            writeln!(to, "as-of = {}", entry.as_of)?;
            writeln!(to, "keys = {}", entry.keys)?;
            writeln!(to, "blocks-length = {}", entry.blocks.length)?;
            writeln!(to, "blocks-root = \"{}\"", hex(&entry.blocks.root))?;
            writeln!(to, "proofs-length = {}", entry.proofs.length)?;
            writeln!(to, "proofs-root = \"{}\"", hex(&entry.proofs.root))?;
        }
        Ok(())
    }

    /// The segments of a tier, by position.
    pub fn tier(&self, tier: Tier) -> impl Iterator<Item = &Entry> {
        self.segments.iter().filter(move |entry| entry.tier == tier)
    }

    /// Checks what holds of a manifest by itself: ranges, and that segments tile the cut.
    pub fn check(&self) -> Result<(), ManifestError> {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let named =
            (1..=MAX_NETWORK).contains(&self.network.len()) && self.network.bytes().all(plain);
        // Numbers of TOML are signed.
        let countable = |number: u64| i64::try_from(number).is_ok();
        let heads = [
            ("network", named),
            ("genesis", self.genesis != [0; 32]),
            (
                "previous",
                self.previous.is_some_and(|hash| hash != [0; 32]) == (self.generation > 0),
            ),
            ("previous", self.previous.is_none() || self.generation > 0),
            ("generation", countable(self.generation)),
            (
                "as-of",
                countable(self.as_of) && self.as_of.is_multiple_of(TIME_GRAIN),
            ),
            ("cemented", countable(self.cemented) && self.cemented > 0),
            ("sealed", self.sealed <= self.cemented),
            ("accounts", (1..=self.cemented).contains(&self.accounts)),
            (
                "order of segments",
                self.segments
                    .is_sorted_by_key(|entry| (entry.tier, entry.from)),
            ),
        ];
        let entries = self
            .segments
            .iter()
            .flat_map(|entry| entry.ranges(self.as_of));
        if let Some((what, _)) = heads.into_iter().chain(entries).find(|(_, holds)| !holds) {
            return Err(ManifestError::OutOfRange { what });
        }
        self.check_tiling()
    }

    fn check_tiling(&self) -> Result<(), ManifestError> {
        let tiled = |tier, begin: u64| {
            self.tier(tier).try_fold(begin, |at, entry| {
                if entry.from == at {
                    Ok(entry.to)
                } else {
                    Err(ManifestError::Tiling { at })
                }
            })
        };
        let at = tiled(Tier::Sealed, 0)?;
        if at != self.sealed {
            return Err(ManifestError::Tiling { at });
        }
        let first = self
            .tier(Tier::Tail)
            .next()
            .map_or(self.cemented, |tail| tail.from);
        let at = tiled(Tier::Tail, first)?;
        if at != self.cemented {
            return Err(ManifestError::Tiling { at });
        }
        // A reader of the sealed ones continues with tails from there.
        let goes_on = self.sealed == self.cemented
            || self.tier(Tier::Tail).any(|tail| tail.from == self.sealed);
        if goes_on {
            Ok(())
        } else {
            Err(ManifestError::Tiling { at: self.sealed })
        }
    }

    /// Checks that this manifest only adds to `old`, whose generation has the v2 info-hash `hash`.
    pub fn follows(&self, old: &Self, hash: &[u8; 32]) -> Result<(), ManifestError> {
        let refused = |what| Err(ManifestError::NotAppendOnly { what });
        if (&self.network, self.genesis) != (&old.network, old.genesis) {
            return refused("it belongs to another network");
        }
        if self.generation <= old.generation {
            return refused("its generation is not a later one");
        }
        if self.generation == old.generation + 1 && self.previous.as_ref() != Some(hash) {
            return refused("it names another one as previous");
        }
        if self.cemented < old.cemented || self.sealed < old.sealed || self.as_of < old.as_of {
            return refused("it goes back");
        }
        let (mut sealed, mut before) = (self.tier(Tier::Sealed), old.tier(Tier::Sealed));
        if before.any(|entry| sealed.next() != Some(entry)) {
            return refused("a sealed segment changed");
        }
        let tails: BTreeMap<u64, &Entry> = self
            .tier(Tier::Tail)
            .map(|tail| (tail.from, tail))
            .collect();
        for tail in old.tier(Tier::Tail) {
            match tails.get(&tail.from) {
                Some(&same) if same == tail => {}
                Some(_) => return refused("a tail changed"),
                None if tail.to > self.sealed => {
                    return refused("a tail is gone that is not sealed");
                }
                None => {}
            }
        }
        let known: BTreeMap<u64, &Entry> =
            old.tier(Tier::Tail).map(|tail| (tail.from, tail)).collect();
        let added = self
            .tier(Tier::Tail)
            .filter(|tail| !known.contains_key(&tail.from));
        if added.into_iter().any(|tail| tail.from < old.cemented) {
            return refused("it adds a tail before the old cut");
        }
        Ok(())
    }

    /// Checks that a torrent has exactly the manifest and the files that it lists, with these lengths and roots. `files` excludes the manifest itself.
    pub fn check_files<'a>(
        &self,
        files: impl IntoIterator<Item = (&'a str, FileRoot)>,
    ) -> Result<(), ManifestError> {
        let mut listed: BTreeMap<String, FileRoot> =
            self.segments.iter().flat_map(Entry::files).collect();
        for (name, file) in files {
            if listed.remove(name) != Some(file) {
                return Err(ManifestError::FilesDiffer {
                    name: name.to_owned(),
                });
            }
        }
        match listed.pop_first() {
            None => Ok(()),
            Some((name, _)) => Err(ManifestError::FilesDiffer { name }),
        }
    }

    /// Returns the segments with the fewest bytes that lead from a position to the cut, or `None` if no segment begins there.
    pub fn cover(&self, from: u64) -> Option<Vec<&Entry>> {
        // Segments lead upwards only, so one pass by position finds the cheapest way to each.
        let mut by_position: Vec<&Entry> = self.segments.iter().collect();
        by_position.sort_by_key(|entry| entry.from);
        let mut cheapest: BTreeMap<u64, (u64, Option<&Entry>)> =
            BTreeMap::from([(from, (0, None))]);
        for entry in by_position {
            let Some(&(bytes, _)) = cheapest.get(&entry.from) else {
                continue;
            };
            let bytes = bytes + entry.length();
            let way = cheapest.entry(entry.to).or_insert((u64::MAX, None));
            if bytes < way.0 {
                *way = (bytes, Some(entry));
            }
        }
        let mut way = Vec::new();
        let mut at = self.cemented;
        while let Some(entry) = cheapest.get(&at)?.1 {
            way.push(entry);
            at = entry.from;
        }
        way.reverse();
        Some(way)
    }
}

impl SpelledEntry {
    fn entry(self) -> Entry {
        Entry {
            tier: self.tier,
            from: self.from,
            to: self.to,
            as_of: self.as_of,
            keys: self.keys,
            blocks: FileRoot {
                length: self.blocks_length,
                root: self.blocks_root.0,
            },
            proofs: FileRoot {
                length: self.proofs_length,
                root: self.proofs_root.0,
            },
        }
    }
}

impl Entry {
    fn ranges(&self, as_of: u64) -> [(&'static str, bool); 5] {
        let blocks = self.to.saturating_sub(self.from);
        [
            (
                "segment's to",
                (1..=u64::from(MAX_BLOCKS)).contains(&blocks),
            ),
            (
                "segment's as-of",
                self.as_of <= as_of && self.as_of.is_multiple_of(TIME_GRAIN),
            ),
            ("segment's keys", self.keys <= 3 * blocks),
            (
                "segment's blocks-length",
                (1..1 << 32).contains(&self.blocks.length),
            ),
            (
                "segment's proofs-length",
                self.proofs.length == PROOF_LEN as u64 * blocks,
            ),
        ]
    }
}

/// Returns the positions below `to` that none of the ranges covers, in order.
pub fn gaps(ranges: impl IntoIterator<Item = (u64, u64)>, to: u64) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = ranges.into_iter().collect();
    ranges.sort_unstable();
    let mut gaps = Vec::new();
    let mut at = 0;
    for (begin, end) in ranges.into_iter().chain([(to, to)]) {
        if begin.min(to) > at {
            gaps.push((at, begin.min(to)));
        }
        at = at.max(end);
    }
    gaps
}
