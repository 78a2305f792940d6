//! The body of a segment: numbering of keys, writing, reading.

use crate::columns::kinds::Kind;
use crate::columns::{cut, kinds, references, representatives, sends};
use crate::dictionary::Dictionary;
use crate::error::SegmentError;
use crate::head::{HEAD_LEN, Head, MAX_BLOCKS};
use crate::proofs::PROOF_LEN;
use crate::runs::{Amount, Block, Key, Number, Runs, Source};
use crate::unreceived::Unreceived;

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
        let (known, keys) = (self.known, self.keys.len());
        let (representatives, representative_column) = representatives::write(&self.runs);
        let columns = [
            self.keys.iter().flat_map(|key| key.0).collect(),
            cut::write(&self.runs),
            kinds::write(&self.runs),
            representative_column,
            sends::write_destinations(&self.runs, known, keys),
            sends::write_amounts(&self.runs),
            references::write(&self.runs, known, keys),
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
        let kinds = kinds::read(kinds, &cut)?;
        let representatives = representatives::read(representatives, &head, &kinds)?;
        let mut places = Blocks {
            kinds: &kinds,
            representatives: representatives.into_iter(),
            sends: sends::read(destinations, amounts, &head, &kinds)?.into_iter(),
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
        let sources = references::read(references, &head, &runs)?;
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
