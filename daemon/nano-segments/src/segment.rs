//! The body of a segment: numbering of keys, writing, reading.

use thiserror::Error;

use crate::coder::{Below, CoderError, Decoder, Encoder, Flag, Num, Tree};
use crate::cut;
use crate::dictionary::Dictionary;
use crate::head::{Column, HEAD_LEN, Head, MAX_BLOCKS};
use crate::proofs::PROOF_LEN;
use crate::runs::{Amount, Block, Key, Number, Runs, RunsError, Source};
use crate::unreceived::Unreceived;

/// Exponents of ten that an amount may have, and the one that says: the whole balance.
const GREATEST_EXPONENT: u32 = 38;
const WHOLE: u32 = 63;
/// The code of a block's kind, and the context of the first block of a run.
const KINDS: u32 = 9;
const FIRST: usize = 9;
/// How a receive names its source.
const INSIDE: u32 = 0;
const OUTSIDE: u32 = 1;
const GENESIS: u32 = 2;

/// Why bytes are no segment, or a difference cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SegmentError {
    /// The body is shorter than its head.
    #[error("the segment is shorter than its head")]
    Short,
    /// The body does not begin as a segment of this format.
    #[error("not a segment of format 1")]
    Magic,
    /// The segment belongs to another network.
    #[error("the segment belongs to the network with genesis {}", data_encoding::HEXUPPER.encode(.found))]
    Network {
        /// The genesis hash in the head.
        found: [u8; 32],
    },
    /// Counts in the head contradict each other or exceed what a segment may have.
    #[error("the counts in the segment's head contradict each other")]
    Counts,
    /// The columns are not exactly as long as the head says, or the proofs are not.
    #[error("the segment's length is not what its head says")]
    Length,
    /// A column ends before its last symbol or goes on after it.
    #[error("the column {column} does not end with its last symbol")]
    ColumnEnd {
        /// Which.
        column: Column,
    },
    /// A value is outside of what it can be.
    #[error("the column {column} has a value out of range at {place}")]
    OutOfRange {
        /// Which.
        column: Column,
        /// Which run, representative or block, by index.
        place: usize,
    },
    /// New keys do not ascend.
    #[error("the new keys do not ascend")]
    KeyOrder,
    /// A new key is in the dictionary.
    #[error("a new key is in the dictionary already")]
    KeyKnown,
    /// No block names a new key.
    #[error("no block names one of the new keys")]
    KeyUnused,
    /// The segment needs more of the dictionary than the reader has.
    #[error("the segment needs {known} keys of the dictionary, of which {have} are at hand")]
    Dictionary {
        /// Keys that the segment may name.
        known: u64,
        /// Keys of the dictionary.
        have: u64,
    },
    /// A writer would have written this otherwise.
    #[error("{what} of the block at {place} is not in canonical form")]
    NotCanonical {
        /// The block's index.
        place: usize,
        /// What of it.
        what: &'static str,
    },
    /// A receive names as source what is no send to its account or was received before.
    #[error(
        "the receive at {place} takes what was not sent to its account, or was received before"
    )]
    Source {
        /// The receive's index.
        place: usize,
    },
}

impl SegmentError {
    fn coder(error: CoderError, column: Column, place: usize) -> Self {
        match error {
            CoderError::End => Self::ColumnEnd { column },
            CoderError::Range => Self::OutOfRange { column, place },
        }
    }
}

impl From<RunsError> for SegmentError {
    fn from(error: RunsError) -> Self {
        match error {
            RunsError::Count | RunsError::Empty => Self::Counts,
            RunsError::Order | RunsError::Height => Self::OutOfRange {
                column: Column::Cut,
                place: 0,
            },
        }
    }
}

/// A difference with its keys as numbers: what a body says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    genesis: [u8; 32],
    from: u64,
    known: u64,
    keys: Vec<Key>,
    runs: Runs<Number>,
}

impl Segment {
    /// Numbers the keys of a difference that follows position `from`: those of the dictionary keep theirs, new ones get the next, in order of their bytes.
    /// A tail has an empty dictionary. Also returns, for each block of the segment, its index in `runs`.
    ///
    /// Fails if the difference is empty or too large, or a receive takes what is no send to its account.
    pub fn number(
        genesis: [u8; 32],
        from: u64,
        runs: &Runs<Key>,
        dictionary: &impl Dictionary,
    ) -> Result<(Self, Vec<u32>), SegmentError> {
        let blocks = runs.blocks().len();
        if blocks == 0 || blocks > MAX_BLOCKS as usize || from.checked_add(blocks as u64).is_none()
        {
            return Err(SegmentError::Counts);
        }
        let mut named = named(runs);
        named.sort_unstable();
        named.dedup();
        let known = dictionary.len();
        let mut keys = Vec::new();
        let numbers: Vec<Number> = named
            .iter()
            .zip(dictionary.numbers(&named))
            .map(|(&key, number)| {
                number.unwrap_or_else(|| {
                    keys.push(key);
                    known + keys.len() as u64 - 1
                })
            })
            .collect();
        // Every key of the difference is in `named`.
        let number = |key: Key| numbers[named.partition_point(|other| *other < key)];
        let mut order: Vec<(Number, usize)> = runs
            .iter()
            .enumerate()
            .map(|(at, run)| (number(run.account), at))
            .collect();
        order.sort_unstable();
        let mut numbered = Runs::default();
        let mut places = Vec::with_capacity(blocks);
        for (account, at) in order {
            let run = runs.run(at);
            numbered.push(
                account,
                run.first_height,
                run.blocks.iter().map(|block| block.map(number)),
            )?;
            places.extend((run.start..run.start + run.blocks.len()).map(|index| index as u32));
        }
        let segment = Self {
            genesis,
            from,
            known,
            keys,
            runs: numbered,
        };
        segment.check_sources()?;
        Ok((segment, places))
    }

    /// The hash of the network's genesis block.
    pub fn genesis(&self) -> [u8; 32] {
        self.genesis
    }

    /// How many blocks are cemented before this segment.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// The position after this segment.
    pub fn to(&self) -> u64 {
        self.from + self.runs.blocks().len() as u64
    }

    /// How many keys of the dictionary the segment may name.
    pub fn known(&self) -> u64 {
        self.known
    }

    /// The new keys; their numbers begin at [`Self::known`].
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The blocks.
    pub fn runs(&self) -> &Runs<Number> {
        &self.runs
    }

    /// Returns the difference with its keys, and for each of its blocks the index in this segment.
    pub fn keyed(&self, dictionary: &impl Dictionary) -> (Runs<Key>, Vec<u32>) {
        let mut old: Vec<Number> = named(&self.runs);
        old.retain(|&number| number < self.known);
        old.sort_unstable();
        old.dedup();
        let found = dictionary.keys(&old);
        let key = |number: Number| match number.checked_sub(self.known) {
            Some(new) => self.keys[new as usize],
            None => found[old.partition_point(|&other| other < number)],
        };
        let mut order: Vec<(Key, usize)> = self
            .runs
            .iter()
            .enumerate()
            .map(|(at, run)| (key(run.account), at))
            .collect();
        order.sort_unstable();
        let mut keyed = Runs::default();
        let mut places = Vec::with_capacity(self.runs.blocks().len());
        for (account, at) in order {
            let run = self.runs.run(at);
            let blocks = run.blocks.iter().map(|block| block.map(key));
            // Accounts are distinct and heights were in range before.
            let added = keyed.push(account, run.first_height, blocks);
            debug_assert_eq!(added, Ok(()));
            places.extend((run.start..run.start + run.blocks.len()).map(|index| index as u32));
        }
        (keyed, places)
    }

    fn check_sources(&self) -> Result<(), SegmentError> {
        let mut unreceived = Unreceived::new(&self.runs);
        for run in self.runs.iter() {
            let group = unreceived.group(run.account);
            for (offset, block) in run.blocks.iter().enumerate() {
                let Some(Source::Send { account, height }) = block.source() else {
                    continue;
                };
                if let Some(index) = self.runs.index(account, height) {
                    let place = run.start + offset;
                    unreceived
                        .take(group, index)
                        .ok_or(SegmentError::Source { place })?;
                }
            }
        }
        Ok(())
    }

    /// Returns the bytes of the body.
    pub fn write(&self) -> Vec<u8> {
        let (representatives, representative_column) = self.write_representatives();
        let columns = [
            self.keys.iter().flat_map(|key| key.0).collect(),
            cut::write(&self.runs),
            self.write_kinds(),
            representative_column,
            self.write_destinations(),
            self.write_amounts(),
            self.write_references(),
        ];
        let head = Head {
            genesis: self.genesis,
            from: self.from,
            known: self.known,
            keys: self.keys.len() as u32,
            runs: self.runs.run_count() as u32,
            blocks: self.runs.blocks().len() as u32,
            representatives,
            lengths: std::array::from_fn(|column| Vec::len(&columns[column]) as u32),
        };
        let mut body = Vec::with_capacity(HEAD_LEN + columns.iter().map(Vec::len).sum::<usize>());
        head.write(&mut body);
        columns
            .iter()
            .for_each(|column| body.extend_from_slice(column));
        body
    }

    fn write_kinds(&self) -> Vec<u8> {
        let mut to = Encoder::default();
        let mut model = Kinds::new();
        for run in self.runs.iter() {
            let mut before = FIRST;
            for block in run.blocks {
                before = model.put(&mut to, before, block);
            }
        }
        to.finish()
    }

    fn write_representatives(&self) -> (u32, Vec<u8>) {
        let named = || self.runs.blocks().iter().filter_map(Block::representative);
        let mut distinct: Vec<Number> = named().collect();
        distinct.sort_unstable();
        distinct.dedup();
        let mut to = Encoder::default();
        let mut gaps = Num::default();
        let mut next = 0;
        for &number in &distinct {
            gaps.put(&mut to, u128::from(number - next));
            next = number + 1;
        }
        let mut ranks = Below::new(distinct.len() as u64);
        for number in named() {
            ranks.put(
                &mut to,
                distinct.partition_point(|&other| other < number) as u64,
            );
        }
        (distinct.len() as u32, to.finish())
    }

    fn write_destinations(&self) -> Vec<u8> {
        let mut to = Encoder::default();
        let mut model = KeyModel::new(self.known, self.keys.len());
        for (destination, _) in self.runs.blocks().iter().filter_map(Block::send) {
            model.put(&mut to, destination);
        }
        to.finish()
    }

    fn write_amounts(&self) -> Vec<u8> {
        let mut to = Encoder::default();
        let (mut exponents, mut digits) = (Tree::new(6), Num::default());
        for (_, amount) in self.runs.blocks().iter().filter_map(Block::send) {
            match amount {
                Amount::Whole => exponents.put(&mut to, WHOLE),
                Amount::Raw(raw) => {
                    let (exponent, number) = without_zeros(raw);
                    exponents.put(&mut to, exponent);
                    digits.put(&mut to, number);
                }
            }
        }
        to.finish()
    }

    fn write_references(&self) -> Vec<u8> {
        let mut to = Encoder::default();
        let mut model = References::new(self.known, self.keys.len());
        let mut unreceived = Unreceived::new(&self.runs);
        for run in self.runs.iter() {
            let group = unreceived.group(run.account);
            for source in run.blocks.iter().filter_map(Block::source) {
                match source {
                    Source::Genesis => model.form.put(&mut to, GENESIS),
                    Source::Send { account, height } => {
                        let inside = self.runs.index(account, height);
                        // Sources inside were checked to be takeable when the segment was made.
                        match inside.and_then(|index| unreceived.take(group, index)) {
                            Some(rank) => {
                                model.form.put(&mut to, INSIDE);
                                model.ranks.put(&mut to, u128::from(rank));
                            }
                            None => {
                                model.form.put(&mut to, OUTSIDE);
                                model.accounts.put(&mut to, account);
                                model.heights.put(&mut to, u128::from(height - 1));
                            }
                        }
                    }
                }
            }
        }
        to.finish()
    }

    /// Reads a body whose proofs are `proofs_len` bytes long, for the network with this genesis hash. Allocates some 200 bytes a block, and nothing
    /// before the lengths of both files agree with the head.
    pub fn read(
        body: &[u8],
        proofs_len: u64,
        genesis: [u8; 32],
        dictionary: &impl Dictionary,
    ) -> Result<Self, SegmentError> {
        let head = Head::read(body)?;
        if head.genesis != genesis {
            return Err(SegmentError::Network {
                found: head.genesis,
            });
        }
        if head.known > dictionary.len() {
            return Err(SegmentError::Dictionary {
                known: head.known,
                have: dictionary.len(),
            });
        }
        let whole: u64 = head.lengths.iter().map(|&length| u64::from(length)).sum();
        if body.len() as u64 != HEAD_LEN as u64 + whole
            || u64::from(head.lengths[0]) != 32 * u64::from(head.keys)
            || proofs_len != PROOF_LEN as u64 * u64::from(head.blocks)
        {
            return Err(SegmentError::Length);
        }
        let mut rest = &body[HEAD_LEN..];
        let [
            keys,
            cut,
            kinds,
            representatives,
            destinations,
            amounts,
            references,
        ] = head.lengths.map(|length| {
            let (column, after) = rest.split_at(length as usize);
            rest = after;
            column
        });
        let keys = read_keys(keys, head.known, dictionary)?;
        let cut = cut::read(cut, &head)?;
        let kinds = read_kinds(kinds, &cut)?;
        let representatives = read_representatives(representatives, &head, &kinds)?;
        let mut places = Blocks {
            kinds: &kinds,
            representatives: representatives.into_iter(),
            sends: read_sends(destinations, amounts, &head, &kinds)?.into_iter(),
        };
        // Receives get their sources when all sends are known.
        let mut runs = Runs::default();
        let mut start = 0;
        for &cut::CutRun {
            account,
            first_height,
            blocks,
        } in &cut
        {
            let end = start + blocks as usize;
            runs.push(
                account,
                first_height,
                (start..end).map(|place| places.block(place)),
            )?;
            start = end;
        }
        let sources = read_references(references, &head, &runs)?;
        runs.set_sources(sources);
        let segment = Self {
            genesis,
            from: head.from,
            known: head.known,
            keys,
            runs,
        };
        segment.check_keys_used()?;
        Ok(segment)
    }

    fn check_keys_used(&self) -> Result<(), SegmentError> {
        let mut used = vec![false; self.keys.len()];
        for number in named(&self.runs) {
            if let Some(new) = number.checked_sub(self.known) {
                used[new as usize] = true;
            }
        }
        if used.contains(&false) {
            Err(SegmentError::KeyUnused)
        } else {
            Ok(())
        }
    }
}

/// The keys that a body names: accounts of runs, destinations, representatives, and senders of sends that are not in the difference.
fn named<K: Copy + Ord>(runs: &Runs<K>) -> Vec<K> {
    let mut named: Vec<K> = runs.iter().map(|run| run.account).collect();
    for block in runs.blocks() {
        named.extend(block.representative());
        named.extend(block.send().map(|(destination, _)| destination));
        if let Some(Source::Send { account, height }) = block.source()
            && runs.index(account, height).is_none()
        {
            named.push(account);
        }
    }
    named
}

/// An amount as a power of ten and what is left.
fn without_zeros(mut raw: u128) -> (u32, u128) {
    let mut exponent = 0;
    while raw != 0 && exponent < GREATEST_EXPONENT && raw.is_multiple_of(10) {
        raw /= 10;
        exponent += 1;
    }
    (exponent, raw)
}

/// Kinds, in the context of the kind before, and whether a representative is named, in the context of the kind.
struct Kinds {
    kinds: Vec<Tree>,
    named: [Flag; KINDS as usize],
}

impl Kinds {
    fn new() -> Self {
        Self {
            kinds: vec![Tree::new(4); FIRST + 1],
            named: [Flag::default(); KINDS as usize],
        }
    }

    /// Writes the kind of a block, and returns its code, the context of the next.
    fn put<K: Copy>(&mut self, to: &mut Encoder, before: usize, block: &Block<K>) -> usize {
        let kind = match block {
            Block::Send { .. } => 0,
            Block::Receive { .. } => 1,
            Block::Open { .. } => 2,
            Block::Change { .. } => 3,
            Block::StateSend { .. } => 4,
            Block::StateReceive { .. } => 5,
            Block::StateChange { .. } => 6,
            Block::Epoch1 => 7,
            Block::Epoch2 => 8,
        };
        self.kinds[before].put(to, kind as u32);
        self.named[kind].put(to, block.representative().is_some());
        kind
    }
}

/// The kind of a block whose fields are in later columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Send,
    Receive,
    Open,
    Change,
    StateSend { named: bool },
    StateReceive { named: bool },
    StateChange { named: bool },
    Epoch1,
    Epoch2,
}

impl Kind {
    fn of(code: u32, named: bool) -> Option<Self> {
        Some(match (code, named) {
            (0, false) => Self::Send,
            (1, false) => Self::Receive,
            (2, true) => Self::Open,
            (3, true) => Self::Change,
            (4, named) => Self::StateSend { named },
            (5, named) => Self::StateReceive { named },
            (6, named) => Self::StateChange { named },
            (7, false) => Self::Epoch1,
            (8, false) => Self::Epoch2,
            _ => return None,
        })
    }

    fn names_representative(self) -> bool {
        match self {
            Self::Open | Self::Change => true,
            Self::StateSend { named }
            | Self::StateReceive { named }
            | Self::StateChange { named } => named,
            Self::Send | Self::Receive | Self::Epoch1 | Self::Epoch2 => false,
        }
    }

    fn is_send(self) -> bool {
        matches!(self, Self::Send | Self::StateSend { .. })
    }
}

fn read_kinds(column: &[u8], cut: &[cut::CutRun]) -> Result<Vec<Kind>, SegmentError> {
    let error = |error, place| SegmentError::coder(error, Column::Kinds, place);
    let mut from = Decoder::new(column).map_err(|e| error(e, 0))?;
    let mut model = Kinds::new();
    let mut kinds = Vec::new();
    for run in cut {
        let mut before = FIRST;
        for _ in 0..run.blocks {
            let place = kinds.len();
            let code = model.kinds[before]
                .get(&mut from)
                .map_err(|e| error(e, place))?;
            if code >= KINDS {
                return Err(error(CoderError::Range, place));
            }
            before = code as usize;
            let named = model.named[before]
                .get(&mut from)
                .map_err(|e| error(e, place))?;
            kinds.push(Kind::of(code, named).ok_or(SegmentError::NotCanonical {
                place,
                what: "the mark of the representative",
            })?);
        }
    }
    from.finish().map_err(|e| error(e, kinds.len()))?;
    Ok(kinds)
}

fn read_keys(
    column: &[u8],
    known: u64,
    dictionary: &impl Dictionary,
) -> Result<Vec<Key>, SegmentError> {
    let (keys, _) = column.as_chunks::<32>();
    let keys: Vec<Key> = keys.iter().map(|&key| Key(key)).collect();
    if !keys.is_sorted_by(|one, next| one < next) {
        return Err(SegmentError::KeyOrder);
    }
    let is_known = |number: Option<u64>| number.is_some_and(|number| number < known);
    if known > 0 && dictionary.numbers(&keys).into_iter().any(is_known) {
        return Err(SegmentError::KeyKnown);
    }
    Ok(keys)
}

/// The representative of each block that names one, in order.
fn read_representatives(
    column: &[u8],
    head: &Head,
    kinds: &[Kind],
) -> Result<Vec<Number>, SegmentError> {
    let error = |error, place| SegmentError::coder(error, Column::Representatives, place);
    let mut from = Decoder::new(column).map_err(|e| error(e, 0))?;
    let total = u128::from(head.known) + u128::from(head.keys);
    let mut gaps = Num::default();
    let mut distinct: Vec<Number> = Vec::new();
    for place in 0..head.representatives as usize {
        let gap = gaps.get(&mut from).map_err(|e| error(e, place))?;
        let next = distinct.last().map_or(0, |&last| u128::from(last) + 1);
        let number = gap.checked_add(next).filter(|&number| number < total);
        // `total` is at most 2^64.
        distinct.push(number.ok_or_else(|| error(CoderError::Range, place))? as Number);
    }
    let mut ranks = Below::new(distinct.len() as u64);
    let mut used = vec![false; distinct.len()];
    let mut named = Vec::new();
    for (place, _) in kinds
        .iter()
        .enumerate()
        .filter(|(_, kind)| kind.names_representative())
    {
        let rank = ranks.get(&mut from).map_err(|e| error(e, place))? as usize;
        // With no representatives the bound is that of one.
        let number = distinct
            .get(rank)
            .ok_or_else(|| error(CoderError::Range, place))?;
        used[rank] = true;
        named.push(*number);
    }
    from.finish().map_err(|e| error(e, kinds.len()))?;
    match used.iter().position(|used| !used) {
        None => Ok(named),
        Some(rank) => Err(error(CoderError::Range, rank)),
    }
}

/// Destination and amount of each send, in order.
fn read_sends(
    destinations: &[u8],
    amounts: &[u8],
    head: &Head,
    kinds: &[Kind],
) -> Result<Vec<(Number, Amount)>, SegmentError> {
    let sends = || kinds.iter().enumerate().filter(|(_, kind)| kind.is_send());
    let error = |error, place| SegmentError::coder(error, Column::Destinations, place);
    let mut from = Decoder::new(destinations).map_err(|e| error(e, 0))?;
    let mut model = KeyModel::new(head.known, head.keys as usize);
    let mut destinations = Vec::new();
    for (place, _) in sends() {
        destinations.push(model.get(&mut from).map_err(|e| error(e, place))?);
    }
    from.finish().map_err(|e| error(e, kinds.len()))?;

    let error = |error, place| SegmentError::coder(error, Column::Amounts, place);
    let mut from = Decoder::new(amounts).map_err(|e| error(e, 0))?;
    let (mut exponents, mut digits) = (Tree::new(6), Num::default());
    let mut read = Vec::with_capacity(destinations.len());
    for (destination, (place, kind)) in destinations.into_iter().zip(sends()) {
        let exponent = exponents.get(&mut from).map_err(|e| error(e, place))?;
        let amount = if exponent == WHOLE {
            Amount::Whole
        } else {
            let raw = digits.get(&mut from).map_err(|e| error(e, place))?;
            read_amount(exponent, raw, *kind)
                .ok_or_else(|| error(CoderError::Range, place))?
                .ok_or(SegmentError::NotCanonical {
                    place,
                    what: "the amount",
                })?
        };
        read.push((destination, amount));
    }
    from.finish().map_err(|e| error(e, kinds.len()))?;
    Ok(read)
}

/// `None` if the amount is out of range, `Some(None)` if it would be written otherwise.
fn read_amount(exponent: u32, digits: u128, kind: Kind) -> Option<Option<Amount>> {
    if exponent > GREATEST_EXPONENT {
        return None;
    }
    let raw = digits.checked_mul(10_u128.pow(exponent))?;
    let canonical = without_zeros(raw) == (exponent, digits) && (raw > 0 || kind == Kind::Send);
    Some(canonical.then_some(Amount::Raw(raw)))
}

/// The source of each receive, in order.
fn read_references(
    column: &[u8],
    head: &Head,
    runs: &Runs<Number>,
) -> Result<Vec<Source<Number>>, SegmentError> {
    let error = |error, place| SegmentError::coder(error, Column::References, place);
    let mut from = Decoder::new(column).map_err(|e| error(e, 0))?;
    let mut model = References::new(head.known, head.keys as usize);
    let mut unreceived = Unreceived::new(runs);
    let mut sources = Vec::new();
    for run in runs.iter() {
        let group = unreceived.group(run.account);
        for (offset, _) in run
            .blocks
            .iter()
            .enumerate()
            .filter(|(_, block)| block.source().is_some())
        {
            let place = run.start + offset;
            let out_of_range = || error(CoderError::Range, place);
            let source = match model.form.get(&mut from).map_err(|e| error(e, place))? {
                INSIDE => {
                    let rank = model.ranks.get(&mut from).map_err(|e| error(e, place))?;
                    let index = unreceived
                        .take_ranked(group, rank)
                        .ok_or(SegmentError::Source { place })?;
                    source_at(runs, index)
                }
                OUTSIDE => {
                    let account = model.accounts.get(&mut from).map_err(|e| error(e, place))?;
                    let height = model.heights.get(&mut from).map_err(|e| error(e, place))?;
                    let height = u64::try_from(height)
                        .ok()
                        .and_then(|height| height.checked_add(1));
                    let height = height.ok_or_else(out_of_range)?;
                    if runs.index(account, height).is_some() {
                        return Err(SegmentError::NotCanonical {
                            place,
                            what: "the reference to a block of this segment",
                        });
                    }
                    Source::Send { account, height }
                }
                GENESIS => Source::Genesis,
                _ => return Err(out_of_range()),
            };
            sources.push(source);
        }
    }
    from.finish().map_err(|e| error(e, runs.blocks().len()))?;
    Ok(sources)
}

/// Names the block at an index as a source.
fn source_at(runs: &Runs<Number>, index: usize) -> Source<Number> {
    let run = runs.run(runs.run_of(index));
    Source::Send {
        account: run.account,
        height: run.first_height + (index - run.start) as u64,
    }
}

/// Blocks in order of their places, from columns that were read; sources are still to be set.
struct Blocks<'a, R, S> {
    kinds: &'a [Kind],
    representatives: R,
    sends: S,
}

impl<R: Iterator<Item = Number>, S: Iterator<Item = (Number, Amount)>> Blocks<'_, R, S> {
    fn block(&mut self, place: usize) -> Block<Number> {
        let source = Source::Genesis;
        match self.kinds[place] {
            Kind::Send => {
                let (destination, amount) = self.send();
                Block::Send {
                    destination,
                    amount,
                }
            }
            Kind::Receive => Block::Receive { source },
            Kind::Open => Block::Open {
                source,
                representative: self.representative(),
            },
            Kind::Change => Block::Change {
                representative: self.representative(),
            },
            Kind::StateSend { named } => {
                let (destination, amount) = self.send();
                Block::StateSend {
                    destination,
                    amount,
                    representative: named.then(|| self.representative()),
                }
            }
            Kind::StateReceive { named } => Block::StateReceive {
                source,
                representative: named.then(|| self.representative()),
            },
            Kind::StateChange { named } => Block::StateChange {
                representative: named.then(|| self.representative()),
            },
            Kind::Epoch1 => Block::Epoch1,
            Kind::Epoch2 => Block::Epoch2,
        }
    }

    /// As many were read as there are kinds that name one.
    fn representative(&mut self) -> Number {
        self.representatives.next().unwrap_or_default()
    }

    fn send(&mut self) -> (Number, Amount) {
        self.sends.next().unwrap_or((0, Amount::Whole))
    }
}

/// A key: whether it is new, and its number among the new or the old ones.
struct KeyModel {
    known: u64,
    is_new: Flag,
    new: Below,
    old: Below,
    total: u64,
}

impl KeyModel {
    fn new(known: u64, keys: usize) -> Self {
        Self {
            known,
            is_new: Flag::default(),
            new: Below::new(keys as u64),
            old: Below::new(known),
            total: known + keys as u64,
        }
    }

    fn put(&mut self, to: &mut Encoder, number: Number) {
        self.is_new.put(to, number >= self.known);
        match number.checked_sub(self.known) {
            Some(new) => self.new.put(to, new),
            None => self.old.put(to, number),
        }
    }

    fn get(&mut self, from: &mut Decoder<'_>) -> Result<Number, CoderError> {
        let (new, number) = if self.is_new.get(from)? {
            (true, self.known + self.new.get(from)?)
        } else {
            (false, self.old.get(from)?)
        };
        // Without old or new keys the bound is that of one.
        let within = if new {
            number < self.total
        } else {
            number < self.known
        };
        if within {
            Ok(number)
        } else {
            Err(CoderError::Range)
        }
    }
}

/// The models of the column of references.
struct References {
    form: Tree,
    ranks: Num,
    accounts: KeyModel,
    heights: Num,
}

impl References {
    fn new(known: u64, keys: usize) -> Self {
        Self {
            form: Tree::new(2),
            ranks: Num::default(),
            accounts: KeyModel::new(known, keys),
            heights: Num::default(),
        }
    }
}
