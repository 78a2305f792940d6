//! The info dictionary from peers (BEP 9).
//!
//! Peers may disagree about its size, and any of them may lie, answer late or not at all. There is one
//! attempt for each size that is claimed. Attempts that are asked for are bounded by memory: those come
//! first whose hosts left nothing unanswered, and each host has one before any has two. An attempt takes
//! blocks from all its peers. When the whole has the wrong hash, it takes them from each host apart, at
//! the same time: a false whole then came from one peer, which is to blame, and delays no other.
//!
//! A block that is overdue is asked of other hosts as well, of twice as many each time.

mod host_records;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bittorrent_protocol::InfoHashV2;
use bittorrent_protocol::wire::METADATA_PIECE_LEN;

use crate::api::addresses::Host;
use crate::api::keys::PeerKey;
use crate::hedge::AnswerTime;
use host_records::HostRecords;

/// Requests under way to one peer.
const PER_PEER: usize = 2;
/// Bytes of metadata that all attempts together may collect at a time; at least one attempt is followed.
const MOST_BYTES: u64 = 24 << 20;
/// Bytes that one attempt may collect from hosts apart.
const MOST_BYTES_APART: u64 = 16 << 20;
/// Hosts from which one attempt collects apart, at least and at most.
const HOSTS_APART: (u64, u64) = (4, 64);
/// How many hosts are asked for one block at a time, at most, when none answers.
const MOST_ASKED: u32 = 32;

/// What a peer does for the metadata.
#[derive(Debug)]
struct Helper {
    key: PeerKey,
    host: Host,
    size: u32,
    requests: Vec<PendingRequest>,
}

/// A request that is not answered.
#[derive(Debug, Clone, Copy)]
struct PendingRequest {
    piece: u32,
    asked: Instant,
}

/// Blocks of one whole.
#[derive(Debug)]
struct Collection {
    blocks: Vec<Option<(PeerKey, Vec<u8>)>>,
    left: usize,
}

/// Which peers an attempt takes blocks from.
#[derive(Debug)]
enum CollectMode {
    /// From all its peers, for one whole. So many requests timed out.
    Together(Collection, u32),
    /// A false whole was seen: from each of these peers for a whole of its own, one peer a host.
    Apart(Vec<(PeerKey, Collection)>),
}

/// What is done about one size.
#[derive(Debug)]
struct Attempt {
    size: u32,
    mode: CollectMode,
}

/// The download of the info dictionary.
#[derive(Debug)]
pub(crate) struct Metadata {
    hash: InfoHashV2,
    most: u32,
    timeout: Duration,
    hedge_after: Duration,
    answer_time: AnswerTime,
    /// Peers that offered a size; one offer each.
    helpers: Vec<Helper>,
    host_records: HostRecords,
    attempts: Vec<Attempt>,
}

/// What a block led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum MetadataProgress {
    /// More is needed.
    Going,
    /// The bytes are there and have the right hash.
    Complete(Vec<u8>),
    /// The whole came from this peer and is false.
    Liar(PeerKey),
}

impl Metadata {
    pub(crate) fn new(
        hash: InfoHashV2,
        most: u32,
        timeout: Duration,
        hedge_after: Duration,
    ) -> Self {
        Self {
            hash,
            most,
            timeout,
            hedge_after,
            answer_time: AnswerTime::default(),
            helpers: Vec::new(),
            host_records: HostRecords::default(),
            attempts: Vec::new(),
        }
    }

    /// Records that a peer of this host offers the metadata, and its length.
    pub(crate) fn offer(&mut self, key: PeerKey, host: Host, size: u32) {
        if size == 0 || size > self.most || self.helpers.iter().any(|h| h.key == key) {
            return;
        }
        if !self.attempts.iter().any(|attempt| attempt.size == size) {
            self.attempts.push(Attempt::new(size));
        }
        self.helpers.push(Helper {
            key,
            host,
            size,
            requests: Vec::new(),
        });
    }

    /// Returns whether a peer said that it has the metadata.
    pub(crate) fn is_offered_by(&self, key: PeerKey) -> bool {
        self.helpers.iter().any(|helper| helper.key == key)
    }

    /// A peer is gone.
    pub(crate) fn forget(&mut self, key: PeerKey) {
        self.helpers.retain(|helper| helper.key != key);
        let helpers = &self.helpers;
        self.attempts
            .retain(|attempt| helpers.iter().any(|helper| helper.size == attempt.size));
        for attempt in &mut self.attempts {
            attempt.drop_apart(key);
        }
    }

    /// The next request to send.
    pub(crate) fn ask(&mut self, now: Instant) -> Option<(PeerKey, u32)> {
        let (key, piece) = self
            .followed()
            .into_iter()
            .find_map(|place| self.next_request(place, now))?;
        let helper = self.helpers.iter_mut().find(|helper| helper.key == key)?;
        helper.requests.push(PendingRequest { piece, asked: now });
        Some((key, piece))
    }

    /// Returns the attempts that are followed, the most promising first.
    fn followed(&self) -> Vec<usize> {
        let mut order: Vec<_> = self
            .attempts
            .iter()
            .enumerate()
            .map(|(place, attempt)| {
                let of_size = self.helpers.iter().filter(|one| one.size == attempt.size);
                let failures = of_size
                    .map(|one| self.host_records.failures(one.host))
                    .min();
                let failures = failures.unwrap_or(u32::MAX);
                (failures, !attempt.has_blocks(), attempt.size, place)
            })
            .collect();
        order.sort_unstable();
        let order = order.into_iter().map(|(.., place)| place);
        // Each host has one size before any has two.
        let mut hosts = BTreeSet::new();
        let (mut first, mut rest) = (Vec::new(), Vec::new());
        for place in order {
            let Some(attempt) = self.attempts.get(place) else {
                continue;
            };
            let of_size = self.helpers.iter().filter(|one| one.size == attempt.size);
            let mut news = false;
            for helper in of_size {
                news |= hosts.insert(helper.host);
            }
            if news {
                first.push((place, attempt.cost()));
            } else {
                rest.push((place, attempt.cost()));
            }
        }
        let mut bytes = 0;
        let mut followed: Vec<usize> = Vec::new();
        for (place, cost) in first.into_iter().chain(rest) {
            if followed.is_empty() || bytes + cost <= MOST_BYTES {
                bytes += cost;
                followed.push(place);
            }
        }
        followed
    }

    /// What to ask next for an attempt.
    fn next_request(&mut self, place: usize, now: Instant) -> Option<(PeerKey, u32)> {
        if let CollectMode::Apart(_) = self.attempts.get(place)?.mode {
            self.choose_apart(place, now);
        }
        let attempt = self.attempts.get(place)?;
        match &attempt.mode {
            CollectMode::Together(whole, timeouts) => {
                self.next_together(attempt, whole, *timeouts, now)
            }
            CollectMode::Apart(wholes) => wholes.iter().find_map(|(key, whole)| {
                let helper = self.helpers.iter().find(|helper| helper.key == *key)?;
                if !self.is_free(helper, now) {
                    return None;
                }
                let piece = whole.missing().find(|piece| !helper.is_asked(*piece))?;
                Some((*key, piece))
            }),
        }
    }

    /// Returns a block that too few hosts are asked for, and another peer to ask.
    fn next_together(
        &self,
        attempt: &Attempt,
        whole: &Collection,
        timeouts: u32,
        now: Instant,
    ) -> Option<(PeerKey, u32)> {
        let mut asked: Vec<(u32, Option<Instant>)> = vec![(0, None); whole.blocks.len()];
        let helpers = || self.helpers.iter().filter(|one| one.size == attempt.size);
        for request in helpers().flat_map(|helper| &helper.requests) {
            if let Some((count, first)) = asked.get_mut(request.piece as usize) {
                *count += 1;
                *first = Some(first.map_or(request.asked, |at| at.min(request.asked)));
            }
        }
        let overdue = self.overdue_after();
        whole.missing().find_map(|piece| {
            let (count, first) = asked.get(piece as usize)?;
            let waited = first.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
            let rounds = waited.as_millis() / overdue.as_millis().max(1);
            let doubled = 1_u32 << rounds.min(8);
            // Hosts that let a request time out are asked no more for a while: others make up for them.
            let wanted = doubled.max(1 + timeouts).min(MOST_ASKED);
            if *count >= wanted {
                return None;
            }
            let is_asked =
                |host: Host| helpers().any(|other| other.host == host && other.is_asked(piece));
            let helper = helpers()
                .filter(|helper| self.is_free(helper, now) && !is_asked(helper.host))
                .filter(|helper| *count == 0 || !self.is_late(helper, now))
                .min_by_key(|helper| {
                    let failures = self.host_records.failures(helper.host);
                    (self.is_late(helper, now), failures, helper.requests.len())
                })?;
            Some((helper.key, piece))
        })
    }

    /// Chooses the peers that each send a whole of their own: one peer of each host, those with the fewest
    /// unanswered requests first. A late peer is replaced by one that has not been asked.
    fn choose_apart(&mut self, place: usize, now: Instant) {
        let Some(size) = self.attempts.get(place).map(|attempt| attempt.size) else {
            return;
        };
        let mut waiting: Vec<(u32, PeerKey, Host)> = self
            .helpers
            .iter()
            .filter(|helper| helper.size == size && self.is_free(helper, now))
            .filter(|helper| !self.is_late(helper, now))
            .map(|helper| {
                (
                    self.host_records.failures(helper.host),
                    helper.key,
                    helper.host,
                )
            })
            .collect();
        waiting.sort_unstable();
        let late: Vec<PeerKey> = self
            .helpers
            .iter()
            .filter(|helper| self.is_late(helper, now))
            .map(|helper| helper.key)
            .collect();
        let host_of = |key: PeerKey| {
            let helper = self.helpers.iter().find(|helper| helper.key == key);
            helper.map(|helper| helper.host)
        };
        let Some(CollectMode::Apart(wholes)) =
            self.attempts.get_mut(place).map(|one| &mut one.mode)
        else {
            return;
        };
        let (least, most) = HOSTS_APART;
        let most = (MOST_BYTES_APART / u64::from(size)).clamp(least, most) as usize;
        let mut hosts: BTreeSet<Host> =
            wholes.iter().filter_map(|(key, _)| host_of(*key)).collect();
        let mut given_up = Vec::new();
        for (_, key, host) in waiting {
            if hosts.contains(&host) {
                continue;
            }
            if wholes.len() >= most {
                let Some(slow) = wholes.iter().position(|(key, _)| late.contains(key)) else {
                    break;
                };
                given_up.extend(host_of(wholes.swap_remove(slow).0));
            }
            hosts.insert(host);
            wholes.push((key, Collection::new(size)));
        }
        for host in given_up {
            self.host_records.late(host, now);
        }
    }

    /// Returns whether a peer may be asked for one more block.
    fn is_free(&self, helper: &Helper, now: Instant) -> bool {
        helper.requests.len() < PER_PEER && self.host_records.may_be_asked(helper.host, now)
    }

    /// A peer leaves a request unanswered for longer than answers take.
    fn is_late(&self, helper: &Helper, now: Instant) -> bool {
        let after = self.overdue_after();
        let overdue =
            |request: &PendingRequest| now.saturating_duration_since(request.asked) >= after;
        helper.requests.iter().any(overdue)
    }

    /// How long answers take at most, in general. Slow liars cannot stretch it beyond half a time-out.
    fn overdue_after(&self) -> Duration {
        let usual = self.answer_time.overdue_after(self.hedge_after);
        usual.min((self.timeout / 2).max(self.hedge_after))
    }

    /// Who leaves requests unanswered, as far as is known.
    pub(crate) fn silent(&self, now: Instant) -> impl Iterator<Item = PeerKey> {
        let silent = move |helper: &&Helper| {
            self.host_records.failures(helper.host) > 0 || self.is_late(helper, now)
        };
        self.helpers.iter().filter(silent).map(|helper| helper.key)
    }

    /// A peer will not send a block.
    pub(crate) fn reject(&mut self, key: PeerKey, piece: u32, now: Instant) {
        if let Some(helper) = self.helpers.iter_mut().find(|helper| helper.key == key) {
            let before = helper.requests.len();
            helper.requests.retain(|request| request.piece != piece);
            if helper.requests.len() < before {
                self.host_records.rejected(helper.host, now);
                for attempt in &mut self.attempts {
                    attempt.drop_apart(key);
                }
            }
        }
    }

    /// Gives up requests that took too long, and what attempts have that are not followed any more.
    pub(crate) fn tick(&mut self, now: Instant) {
        let timeout = self.timeout;
        let mut silent = Vec::new();
        for helper in &mut self.helpers {
            let before = helper.requests.len();
            helper
                .requests
                .retain(|request| request.asked + timeout > now);
            let expired = before - helper.requests.len();
            if expired > 0 {
                silent.push((helper.key, helper.host, helper.size, expired as u32));
            }
        }
        // Several connections of one host that are silent at once are one failure.
        let hosts: BTreeSet<Host> = silent.iter().map(|(_, host, ..)| *host).collect();
        for host in hosts {
            self.host_records.timed_out(host, now);
        }
        for (key, _, size, expired) in silent {
            let of_size = |attempt: &&mut Attempt| attempt.size == size;
            if let Some(attempt) = self.attempts.iter_mut().find(of_size) {
                attempt.drop_apart(key);
                if let CollectMode::Together(_, timeouts) = &mut attempt.mode {
                    *timeouts = timeouts.saturating_add(expired);
                }
            }
        }
        let followed = self.followed();
        for (place, attempt) in self.attempts.iter_mut().enumerate() {
            if attempt.has_blocks() && !followed.contains(&place) {
                *attempt = Attempt::new(attempt.size);
            }
        }
    }

    /// A block. One that was not asked for is dropped; one that does not fit the size its sender
    /// claimed counts as no answer.
    pub(crate) fn data(
        &mut self,
        key: PeerKey,
        piece: u32,
        total_size: u32,
        payload: Vec<u8>,
        now: Instant,
    ) -> MetadataProgress {
        let Some(helper) = self.helpers.iter_mut().find(|helper| helper.key == key) else {
            return MetadataProgress::Going;
        };
        let Some(place) = helper.requests.iter().position(|r| r.piece == piece) else {
            return MetadataProgress::Going;
        };
        let took = now.saturating_duration_since(helper.requests.remove(place).asked);
        let (host, size) = (helper.host, helper.size);
        if total_size != size || payload.len() != block_len(size, piece) {
            self.host_records.timed_out(host, now);
            return MetadataProgress::Going;
        }
        if took < self.overdue_after() {
            self.host_records.answered(host);
        }
        self.answer_time.add(took);
        let of_size = |attempt: &&mut Attempt| attempt.size == size;
        let Some(attempt) = self.attempts.iter_mut().find(of_size) else {
            return MetadataProgress::Going;
        };
        let Some(whole) = attempt.whole_for(key) else {
            return MetadataProgress::Going;
        };
        let Some(whole) = whole.put(key, piece, payload) else {
            return MetadataProgress::Going;
        };
        if InfoHashV2::of_info(&whole.bytes) == self.hash {
            return MetadataProgress::Complete(whole.bytes);
        }
        if let CollectMode::Together(..) = attempt.mode {
            attempt.mode = CollectMode::Apart(Vec::new());
        }
        if whole.one_sender {
            self.host_records.timed_out(host, now);
            self.forget(key);
            return MetadataProgress::Liar(key);
        }
        MetadataProgress::Going
    }
}

impl Helper {
    fn is_asked(&self, piece: u32) -> bool {
        self.requests.iter().any(|request| request.piece == piece)
    }
}

impl Attempt {
    fn new(size: u32) -> Self {
        Self {
            size,
            mode: CollectMode::Together(Collection::new(size), 0),
        }
    }

    /// Bytes it may collect.
    fn cost(&self) -> u64 {
        let wholes = match &self.mode {
            CollectMode::Together(..) => 1,
            CollectMode::Apart(wholes) => wholes.len().max(1) as u64,
        };
        u64::from(self.size) * wholes
    }

    fn has_blocks(&self) -> bool {
        match &self.mode {
            CollectMode::Together(whole, _) => whole.left < whole.blocks.len(),
            CollectMode::Apart(wholes) => !wholes.is_empty(),
        }
    }

    /// Where blocks of a peer belong.
    fn whole_for(&mut self, key: PeerKey) -> Option<&mut Collection> {
        match &mut self.mode {
            CollectMode::Together(whole, _) => Some(whole),
            CollectMode::Apart(wholes) => {
                let whole = wholes.iter_mut().find(|(sender, _)| *sender == key);
                whole.map(|(_, whole)| whole)
            }
        }
    }

    /// Takes no whole from this peer any more.
    fn drop_apart(&mut self, key: PeerKey) {
        if let CollectMode::Apart(wholes) = &mut self.mode {
            wholes.retain(|(sender, _)| *sender != key);
        }
    }
}

/// All blocks of a collection.
struct Whole {
    bytes: Vec<u8>,
    one_sender: bool,
}

impl Collection {
    fn new(size: u32) -> Self {
        let blocks = size.div_ceil(METADATA_PIECE_LEN) as usize;
        Self {
            blocks: vec![None; blocks],
            left: blocks,
        }
    }

    fn missing(&self) -> impl Iterator<Item = u32> {
        let missing = (0..).zip(&self.blocks).filter(|(_, block)| block.is_none());
        missing.map(|(piece, _)| piece)
    }

    /// Keeps a block; returns the whole when it was the last one.
    fn put(&mut self, sender: PeerKey, piece: u32, payload: Vec<u8>) -> Option<Whole> {
        let block = self.blocks.get_mut(piece as usize)?;
        if block.is_some() {
            return None;
        }
        *block = Some((sender, payload));
        self.left -= 1;
        if self.left > 0 {
            return None;
        }
        let blocks = || self.blocks.iter().flatten();
        Some(Whole {
            bytes: blocks()
                .flat_map(|(_, bytes)| bytes.iter().copied())
                .collect(),
            one_sender: blocks().all(|(other, _)| *other == sender),
        })
    }
}

/// Length of a block of metadata of this size.
fn block_len(size: u32, piece: u32) -> usize {
    let before = u64::from(piece) * u64::from(METADATA_PIECE_LEN);
    u64::from(size)
        .saturating_sub(before)
        .min(u64::from(METADATA_PIECE_LEN)) as usize
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to start from"
)]
mod tests;
