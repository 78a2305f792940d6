//! The info dictionary from peers (BEP 9).
//!
//! Peers may disagree about its size, and any of them may lie. So there is one attempt for each
//! size that is claimed, all at the same time; an attempt takes blocks from all its peers first,
//! and when the whole has the wrong hash, from one peer at a time, which is then to blame.
//!
//! A block that is overdue is asked of another host as well, see [`crate::hedge`].

use std::net::IpAddr;
use std::time::{Duration, Instant};

use bittorrent_protocol::InfoHashV2;
use bittorrent_protocol::wire::METADATA_PIECE_LEN;

use crate::hedge::{AnswerTime, Hedge, MOST_HEDGES};
use crate::keys::PeerKey;

/// Requests under way to one peer.
const PER_PEER: usize = 2;
/// How many different sizes are followed.
const MOST_SIZES: usize = 6;
/// How long a peer that rejects a request is left alone.
const AFTER_REJECT: Duration = Duration::from_secs(60);
/// How long a peer that lets a request time out is left alone, times its time-outs.
const AFTER_TIMEOUT: Duration = Duration::from_secs(4);

/// What a peer does for the metadata.
#[derive(Debug)]
struct Helper {
    key: PeerKey,
    host: IpAddr,
    size: u32,
    requests: Vec<Request>,
    not_before: Instant,
    timeouts: u32,
}

/// A request that is not answered.
#[derive(Debug)]
struct Request {
    piece: u32,
    asked: Instant,
    hedge: Hedge,
}

#[derive(Debug)]
struct Attempt {
    size: u32,
    blocks: Vec<Option<(PeerKey, Vec<u8>)>>,
    left: usize,
    /// After a false whole: the only peer whose blocks are taken.
    only: Option<PeerKey>,
    /// A false whole was seen.
    distrustful: bool,
}

/// The download of the info dictionary.
#[derive(Debug)]
pub(crate) struct Metadata {
    hash: InfoHashV2,
    most: u32,
    timeout: Duration,
    hedge_after: Duration,
    answer_time: AnswerTime,
    helpers: Vec<Helper>,
    attempts: Vec<Attempt>,
}

/// What a block led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
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
            attempts: Vec::new(),
        }
    }

    /// A peer of this host says it has the metadata, and how long it is.
    pub(crate) fn offer(&mut self, key: PeerKey, host: IpAddr, size: u32, now: Instant) {
        if size == 0 || size > self.most || self.helpers.iter().any(|h| h.key == key) {
            return;
        }
        if !self.attempts.iter().any(|attempt| attempt.size == size) {
            if self.attempts.len() >= MOST_SIZES {
                return;
            }
            let blocks = size.div_ceil(METADATA_PIECE_LEN) as usize;
            self.attempts.push(Attempt {
                size,
                blocks: vec![None; blocks],
                left: blocks,
                only: None,
                distrustful: false,
            });
        }
        self.helpers.push(Helper {
            key,
            host,
            size,
            requests: Vec::new(),
            not_before: now,
            timeouts: 0,
        });
    }

    /// Whether a peer said that it has the metadata.
    pub(crate) fn is_offered_by(&self, key: PeerKey) -> bool {
        self.helpers.iter().any(|helper| helper.key == key)
    }

    /// A peer is gone.
    pub(crate) fn forget(&mut self, key: PeerKey) {
        self.helpers.retain(|helper| helper.key != key);
        for attempt in &mut self.attempts {
            if attempt.only == Some(key) {
                attempt.start_over();
            }
        }
        let helpers = &self.helpers;
        self.attempts
            .retain(|attempt| helpers.iter().any(|helper| helper.size == attempt.size));
    }

    /// The next request to send.
    pub(crate) fn ask(&mut self, now: Instant) -> Option<(PeerKey, u32)> {
        let next = self.next_block(now).map(|next| (next, Hedge::None));
        let ((key, piece), hedge) = next.or_else(|| Some((self.next_hedge(now)?, Hedge::Is)))?;
        let helper = self.helpers.iter_mut().find(|helper| helper.key == key)?;
        helper.requests.push(Request {
            piece,
            asked: now,
            hedge,
        });
        Some((key, piece))
    }

    /// A block that nobody is asked for, and whom to ask.
    fn next_block(&mut self, now: Instant) -> Option<(PeerKey, u32)> {
        let helpers = &self.helpers;
        self.attempts.iter_mut().find_map(|attempt| {
            let size = attempt.size;
            // The least busy first, so that all of them work.
            let helper = helpers
                .iter()
                .filter(|helper| helper.size == size && helper.is_free(now))
                .filter(|helper| attempt.only.is_none_or(|only| only == helper.key))
                .min_by_key(|helper| (helper.timeouts, helper.requests.len()))?;
            if attempt.distrustful {
                attempt.only = Some(helper.key);
            }
            let only = attempt.only;
            let is_asked = |piece: u32| {
                helpers
                    .iter()
                    .filter(|helper| helper.size == size)
                    .filter(|helper| only.is_none_or(|only| only == helper.key))
                    .any(|helper| helper.is_asked(piece))
            };
            let piece = (0..)
                .zip(&attempt.blocks)
                .find(|(piece, block)| block.is_none() && !is_asked(*piece))
                .map(|(piece, _)| piece)?;
            Some((helper.key, piece))
        })
    }

    /// A block that somebody is asked for in vain, and a host that leaves nothing unanswered.
    fn next_hedge(&mut self, now: Instant) -> Option<(PeerKey, u32)> {
        let requests = || self.helpers.iter().flat_map(|helper| &helper.requests);
        if requests()
            .filter(|request| request.hedge == Hedge::Is)
            .count()
            >= MOST_HEDGES
        {
            return None;
        }
        let overdue = |request: &Request| self.is_overdue(request, now);
        let (first, piece, key) = self.helpers.iter().find_map(|first| {
            let attempt = self
                .attempts
                .iter()
                .find(|attempt| attempt.size == first.size)?;
            // Whoever is alone to be believed is alone to be asked.
            if attempt.only.is_some() {
                return None;
            }
            let missing = |piece: u32| matches!(attempt.blocks.get(piece as usize), Some(None));
            let request = first.requests.iter().find(|request| {
                request.hedge == Hedge::None && missing(request.piece) && overdue(request)
            })?;
            let other = self
                .helpers
                .iter()
                .filter(|helper| helper.size == first.size && helper.host != first.host)
                .filter(|helper| helper.is_free(now) && !helper.requests.iter().any(overdue))
                .min_by_key(|helper| (helper.timeouts, helper.requests.len()))?;
            Some((first.key, request.piece, other.key))
        })?;
        let first = self.helpers.iter_mut().find(|helper| helper.key == first)?;
        let request = first
            .requests
            .iter_mut()
            .find(|request| request.piece == piece)?;
        request.hedge = Hedge::Has;
        Some((key, piece))
    }

    fn is_overdue(&self, request: &Request, now: Instant) -> bool {
        self.answer_time
            .is_overdue(request.asked, self.hedge_after, now)
    }

    /// Who leaves requests unanswered, as far as is known.
    pub(crate) fn silent(&self, now: Instant) -> impl Iterator<Item = PeerKey> {
        let overdue = move |request: &Request| self.is_overdue(request, now);
        let silent =
            move |helper: &&Helper| helper.timeouts > 0 || helper.requests.iter().any(overdue);
        self.helpers.iter().filter(silent).map(|helper| helper.key)
    }

    /// A peer will not send a block.
    pub(crate) fn reject(&mut self, key: PeerKey, piece: u32, now: Instant) {
        if let Some(helper) = self.helpers.iter_mut().find(|helper| helper.key == key) {
            let before = helper.requests.len();
            helper.requests.retain(|request| request.piece != piece);
            if helper.requests.len() < before {
                helper.not_before = now + AFTER_REJECT;
                self.trust_another(key);
            }
        }
    }

    /// Gives up requests that took too long.
    pub(crate) fn tick(&mut self, now: Instant) {
        let mut slow = Vec::new();
        let timeout = self.timeout;
        for helper in &mut self.helpers {
            let before = helper.requests.len();
            helper
                .requests
                .retain(|request| request.asked + timeout > now);
            if helper.requests.len() < before {
                helper.timeouts += 1;
                helper.not_before = now + AFTER_TIMEOUT * helper.timeouts.min(15);
                slow.push(helper.key);
            }
        }
        for key in slow {
            self.trust_another(key);
        }
    }

    /// A peer that was alone to be believed does not answer: believe another one.
    fn trust_another(&mut self, key: PeerKey) {
        for attempt in &mut self.attempts {
            if attempt.only == Some(key) {
                attempt.start_over();
            }
        }
    }

    /// A block. One that was not asked for, or does not fit the size its sender claimed, is
    /// dropped.
    pub(crate) fn data(
        &mut self,
        key: PeerKey,
        piece: u32,
        total_size: u32,
        payload: Vec<u8>,
        now: Instant,
    ) -> Progress {
        let Some(helper) = self.helpers.iter_mut().find(|helper| helper.key == key) else {
            return Progress::Going;
        };
        let asked = helper.requests.iter().position(|r| r.piece == piece);
        let asked = asked.map(|place| helper.requests.remove(place).asked);
        if let Some(asked) = asked {
            self.answer_time.add(now.saturating_duration_since(asked));
        }
        let Some(attempt) = self
            .attempts
            .iter_mut()
            .find(|attempt| attempt.size == helper.size)
        else {
            return Progress::Going;
        };
        if asked.is_none()
            || total_size != attempt.size
            || payload.len() != block_len(attempt.size, piece)
            || attempt.only.is_some_and(|only| only != key)
        {
            return Progress::Going;
        }
        match attempt.blocks.get_mut(piece as usize) {
            Some(block) if block.is_none() => *block = Some((key, payload)),
            _ => return Progress::Going,
        }
        attempt.left -= 1;
        if attempt.left > 0 {
            return Progress::Going;
        }
        let whole: Vec<u8> = attempt
            .blocks
            .iter()
            .flatten()
            .flat_map(|(_, bytes)| bytes.iter().copied())
            .collect();
        if InfoHashV2::of_info(&whole) == self.hash {
            return Progress::Complete(whole);
        }
        let one_sender = attempt
            .blocks
            .iter()
            .flatten()
            .all(|(sender, _)| *sender == key);
        attempt.start_over();
        attempt.distrustful = true;
        if one_sender {
            self.forget(key);
            return Progress::Liar(key);
        }
        Progress::Going
    }
}

impl Helper {
    /// It may be asked for one more block.
    fn is_free(&self, now: Instant) -> bool {
        self.not_before <= now && self.requests.len() < PER_PEER
    }

    fn is_asked(&self, piece: u32) -> bool {
        self.requests.iter().any(|request| request.piece == piece)
    }
}

impl Attempt {
    fn start_over(&mut self) {
        self.blocks.fill(None);
        self.left = self.blocks.len();
        self.only = None;
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
mod tests {
    use super::*;
    use crate::keys::Keys;

    const LEN: usize = METADATA_PIECE_LEN as usize;

    struct Fixture {
        metadata: Metadata,
        truth: Vec<u8>,
        peers: Vec<PeerKey>,
        now: Instant,
    }

    impl Fixture {
        /// Metadata of three blocks, the last one short, and peers that claim these sizes.
        fn new(sizes: &[usize]) -> Self {
            let truth: Vec<u8> = (0..2 * LEN + 100).map(|n| (n % 251) as u8).collect();
            let hash = InfoHashV2::of_info(&truth);
            let mut metadata = Metadata::new(
                hash,
                4 << 20,
                Duration::from_secs(4),
                Duration::from_secs(1),
            );
            let mut keys = Keys::default();
            let torrent = keys.torrent();
            let now = Instant::now();
            let peers: Vec<_> = sizes.iter().map(|_| keys.peer(torrent)).collect();
            for (n, (peer, size)) in (1..).zip(peers.iter().zip(sizes)) {
                metadata.offer(*peer, IpAddr::from([192, 0, 2, n]), *size as u32, now);
            }
            Self {
                metadata,
                truth,
                peers,
                now,
            }
        }

        fn ask_all(&mut self) -> Vec<(PeerKey, u32)> {
            std::iter::from_fn(|| self.metadata.ask(self.now)).collect()
        }

        fn answer(&mut self, peer: PeerKey, piece: u32, lie: bool) -> Progress {
            let first = piece as usize * LEN;
            let end = (first + LEN).min(self.truth.len());
            let mut payload = self.truth[first..end].to_vec();
            payload[0] ^= u8::from(lie);
            let total = self.truth.len() as u32;
            self.metadata.data(peer, piece, total, payload, self.now)
        }
    }

    const SIZE: usize = 2 * LEN + 100;

    #[test]
    fn each_peer_is_asked_for_two_blocks_and_each_block_once() {
        let mut f = Fixture::new(&[SIZE, SIZE]);
        let asked = f.ask_all();
        let mut pieces: Vec<_> = asked.iter().map(|(_, piece)| *piece).collect();
        pieces.sort_unstable();
        assert_eq!(pieces, [0, 1, 2]);
        assert!(f.peers.iter().all(|peer| {
            (1..=2).contains(&asked.iter().filter(|(asked, _)| asked == peer).count())
        }));
        let mut last = Progress::Going;
        for (peer, piece) in asked {
            assert_eq!(last, Progress::Going);
            last = f.answer(peer, piece, false);
        }
        assert_eq!(last, Progress::Complete(f.truth));
    }

    #[test]
    fn sizes_beyond_the_limit_are_ignored_and_false_ones_do_not_hinder() {
        for size in [0, (4 << 20) + 1, u32::MAX as usize] {
            assert!(Fixture::new(&[size]).ask_all().is_empty(), "{size}");
        }
        let mut f = Fixture::new(&[4 << 20, 1, SIZE]);
        let asked = f.ask_all();
        let honest = f.peers[2];
        let pieces = |asked: &[(PeerKey, u32)]| {
            asked
                .iter()
                .filter(|(peer, _)| *peer == honest)
                .map(|(_, piece)| *piece)
                .collect::<Vec<_>>()
        };
        assert_eq!(pieces(&asked), [0, 1]);
        f.answer(honest, 0, false);
        f.answer(honest, 1, false);
        let asked = f.ask_all();
        assert_eq!(pieces(&asked), [2]);
        assert!(matches!(f.answer(honest, 2, false), Progress::Complete(_)));
        // A liar that had sent its one block is found alone.
        let liar = f.peers[1];
        assert_eq!(
            f.metadata.data(liar, 0, 1, vec![0], f.now),
            Progress::Liar(liar)
        );
    }

    #[test]
    fn after_a_false_whole_one_peer_at_a_time_is_believed() {
        let mut f = Fixture::new(&[SIZE, SIZE, SIZE]);
        let liar = f.peers[1];
        let mut liars = Vec::new();
        for _ in 0..100 {
            for (peer, piece) in f.ask_all() {
                match f.answer(peer, piece, peer == liar) {
                    Progress::Going => {}
                    Progress::Liar(peer) => liars.push(peer),
                    Progress::Complete(info) => {
                        assert_eq!(info, f.truth);
                        assert!(liars.iter().all(|found| *found == liar));
                        return;
                    }
                }
            }
        }
        panic!("never complete");
    }

    #[test]
    fn answers_nobody_asked_for_or_of_the_wrong_length_are_dropped() {
        let mut f = Fixture::new(&[SIZE]);
        let peer = f.peers[0];
        assert_eq!(f.answer(peer, 0, true), Progress::Going);
        f.ask_all();
        let short = f
            .metadata
            .data(peer, 0, SIZE as u32, vec![0; LEN - 1], f.now);
        assert_eq!(short, Progress::Going);
        let resized = f
            .metadata
            .data(peer, 1, SIZE as u32 + 1, vec![0; LEN], f.now);
        assert_eq!(resized, Progress::Going);
        // Both are asked again.
        assert_eq!(f.ask_all(), [(peer, 0), (peer, 1)]);
    }

    #[test]
    fn what_is_overdue_is_asked_of_one_other_host_and_the_first_answer_counts() {
        let mut f = Fixture::new(&[100]);
        f.truth.truncate(100);
        f.metadata.hash = InfoHashV2::of_info(&f.truth);
        let silent = f.peers[0];
        assert_eq!(f.ask_all(), [(silent, 0)]);
        let mut keys = Keys::default();
        let torrent = keys.torrent();
        let more: Vec<_> = (0..4).map(|_| keys.peer(torrent)).collect();
        // Another connection of the same host, and two more hosts.
        for (key, n) in more[1..].iter().zip([1, 2, 3]) {
            let host = IpAddr::from([192, 0, 2, n]);
            f.metadata.offer(*key, host, 100, f.now);
        }
        f.now += Duration::from_millis(900);
        assert!(f.ask_all().is_empty());
        f.now += Duration::from_millis(100);
        assert_eq!(f.ask_all(), [(more[2], 0)]);
        assert_eq!(f.metadata.silent(f.now).collect::<Vec<_>>(), [silent]);
        f.now += Duration::from_secs(2);
        assert!(f.ask_all().is_empty(), "asked a third time");
        // The silent one's time is over, the other one's is not.
        f.now += Duration::from_secs(1);
        f.metadata.tick(f.now);
        assert!(f.ask_all().is_empty());
        let answer = f.answer(more[2], 0, false);
        assert_eq!(answer, Progress::Complete(f.truth.clone()));
    }

    #[test]
    fn a_late_answer_to_a_request_asked_twice_does_no_harm() {
        let mut f = Fixture::new(&[SIZE, SIZE]);
        let (slow, quick) = (f.peers[0], f.peers[1]);
        assert_eq!(f.ask_all(), [(slow, 0), (quick, 1), (slow, 2)]);
        f.answer(quick, 1, false);
        f.now += Duration::from_secs(1);
        assert_eq!(f.ask_all(), [(quick, 0), (quick, 2)]);
        f.answer(quick, 0, false);
        assert_eq!(f.answer(slow, 0, true), Progress::Going);
        let answer = f.answer(slow, 2, false);
        assert_eq!(answer, Progress::Complete(f.truth.clone()));
        assert_eq!(f.answer(quick, 2, false), Progress::Going);
    }

    #[test]
    fn silent_and_unwilling_peers_are_left_alone_for_a_while() {
        let mut f = Fixture::new(&[SIZE]);
        let peer = f.peers[0];
        f.ask_all();
        f.now += Duration::from_secs(4);
        f.metadata.tick(f.now);
        assert!(f.ask_all().is_empty());
        f.now += Duration::from_secs(4);
        assert_eq!(f.ask_all().len(), 2);
        f.metadata.reject(peer, 0, f.now);
        assert!(f.ask_all().is_empty());
        f.now += Duration::from_secs(61);
        assert_eq!(f.ask_all().len(), 1);
        f.metadata.forget(peer);
        assert!(f.metadata.attempts.is_empty());
    }
}
