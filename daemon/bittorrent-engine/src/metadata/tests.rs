use super::*;
use crate::api::keys::Keys;

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
            metadata.offer(*peer, Host::of([192, 0, 2, n].into()), *size as u32);
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

    fn answer(&mut self, peer: PeerKey, piece: u32, lie: bool) -> MetadataProgress {
        let first = piece as usize * LEN;
        let end = (first + LEN).min(self.truth.len());
        let mut payload = self.truth[first..end].to_vec();
        payload[0] ^= u8::from(lie);
        let total = self.truth.len() as u32;
        self.metadata.data(peer, piece, total, payload, self.now)
    }
}

const SIZE: usize = 2 * LEN + 100;

fn host(n: u8) -> Host {
    Host::of([192, 0, 2, n].into())
}

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
    let mut last = MetadataProgress::Going;
    for (peer, piece) in asked {
        assert_eq!(last, MetadataProgress::Going);
        last = f.answer(peer, piece, false);
    }
    assert_eq!(last, MetadataProgress::Complete(f.truth));
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
    assert!(matches!(
        f.answer(honest, 2, false),
        MetadataProgress::Complete(_)
    ));
    // A liar that had sent its one block is found alone.
    let liar = f.peers[1];
    assert_eq!(
        f.metadata.data(liar, 0, 1, vec![0], f.now),
        MetadataProgress::Liar(liar)
    );
}

#[test]
fn after_a_false_whole_each_host_is_taken_at_its_own_word() {
    let mut f = Fixture::new(&[SIZE, SIZE, SIZE]);
    let liar = f.peers[1];
    let mut liars = Vec::new();
    for _ in 0..100 {
        for (peer, piece) in f.ask_all() {
            match f.answer(peer, piece, peer == liar) {
                MetadataProgress::Going => {}
                MetadataProgress::Liar(peer) => liars.push(peer),
                MetadataProgress::Complete(info) => {
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
    assert_eq!(f.answer(peer, 0, true), MetadataProgress::Going);
    f.ask_all();
    let short = f
        .metadata
        .data(peer, 0, SIZE as u32, vec![0; LEN - 1], f.now);
    assert_eq!(short, MetadataProgress::Going);
    let resized = f
        .metadata
        .data(peer, 1, SIZE as u32 + 1, vec![0; LEN], f.now);
    assert_eq!(resized, MetadataProgress::Going);
    // No answers: its host is left alone for a while, then both are asked again.
    assert!(f.ask_all().is_empty());
    f.now += Duration::from_secs(9);
    assert_eq!(f.ask_all(), [(peer, 0), (peer, 1)]);
}

#[test]
fn what_is_overdue_is_asked_of_other_hosts_and_the_first_answer_counts() {
    let mut f = Fixture::new(&[100]);
    f.truth.truncate(100);
    f.metadata.hash = InfoHashV2::of_info(&f.truth);
    let silent = f.peers[0];
    assert_eq!(f.ask_all(), [(silent, 0)]);
    let mut keys = Keys::default();
    let torrent = keys.torrent();
    let more: Vec<_> = (0..10).map(|_| keys.peer(torrent)).collect();
    // Another connection of the same host, and eight more hosts.
    for (key, n) in more[1..].iter().zip(1..) {
        f.metadata.offer(*key, host(n), 100);
    }
    let mut asked = Vec::new();
    for _ in 0..4 {
        f.now += Duration::from_millis(900);
        assert!(f.ask_all().is_empty());
        f.now += Duration::from_millis(100);
        asked.push(
            f.ask_all()
                .into_iter()
                .map(|(peer, _)| peer)
                .collect::<Vec<_>>(),
        );
        if asked.len() == 1 {
            assert_eq!(f.metadata.silent(f.now).collect::<Vec<_>>(), [silent]);
        }
    }
    // Twice as many each time, of those that were not asked.
    assert_eq!(asked[..3], [&more[2..3], &more[3..5], &more[5..9]]);
    assert_eq!(asked[3], more[9..10]);
    let answer = f.answer(more[4], 0, false);
    assert_eq!(answer, MetadataProgress::Complete(f.truth.clone()));
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
    assert_eq!(f.answer(slow, 0, true), MetadataProgress::Going);
    let answer = f.answer(slow, 2, false);
    assert_eq!(answer, MetadataProgress::Complete(f.truth.clone()));
    assert_eq!(f.answer(quick, 2, false), MetadataProgress::Going);
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

/// A peer of a host that claims a size.
fn join(f: &mut Fixture, keys: &mut Keys, n: u8, size: usize) -> PeerKey {
    let torrent = keys.torrent();
    let peer = keys.peer(torrent);
    f.metadata.offer(peer, host(n), size as u32);
    peer
}

/// Lets time pass in steps of half a second, in which `answer` is given what is asked. Returns how long it took
/// until the dictionary was complete.
fn run(
    f: &mut Fixture,
    most: Duration,
    mut answer: impl FnMut(&mut Fixture, PeerKey, u32, Instant) -> MetadataProgress,
) -> Option<Duration> {
    let start = f.now;
    let mut open: Vec<(PeerKey, u32, Instant)> = Vec::new();
    while f.now < start + most {
        let asked = f.ask_all();
        open.extend(asked.into_iter().map(|(peer, piece)| (peer, piece, f.now)));
        for (peer, piece, asked) in open.clone() {
            match answer(f, peer, piece, asked) {
                MetadataProgress::Complete(_) => return Some(f.now - start),
                MetadataProgress::Liar(liar) => open.retain(|(peer, ..)| *peer != liar),
                MetadataProgress::Going => {}
            }
        }
        f.now += Duration::from_millis(500);
        let now = f.now;
        open.retain(|(.., asked)| *asked + Duration::from_secs(4) > now);
        f.metadata.tick(f.now);
    }
    None
}

#[test]
fn hosts_that_claim_many_sizes_and_answer_nothing_give_way() {
    // Liars first, and the honest peer last.
    for (hosts, each) in [(2, 3), (2, 50), (25, 4), (100, 1)] {
        for size in [SIZE, 4 << 20] {
            let mut f = Fixture::new(&[]);
            let mut keys = Keys::default();
            for n in 0..hosts * each {
                let lie = if size == SIZE {
                    1_000 + n
                } else {
                    (4 << 20) - 2 - n
                };
                join(&mut f, &mut keys, (n / each) as u8 + 10, lie);
            }
            f.truth.resize(size, 7);
            f.metadata.hash = InfoHashV2::of_info(&f.truth);
            f.ask_all();
            let honest = join(&mut f, &mut keys, 1, size);
            let took = run(&mut f, Duration::from_secs(600), |f, peer, piece, _| {
                if peer == honest {
                    f.answer(peer, piece, false)
                } else {
                    MetadataProgress::Going
                }
            });
            let blocks = size.div_ceil(LEN) as u64;
            // Two blocks a step, and one time-out for every six hosts with sizes as great.
            let rounds = if size == SIZE {
                0
            } else {
                hosts as u64 / 6 + 1
            };
            let most =
                Duration::from_millis(500 * blocks / 2) + Duration::from_secs(5 * rounds + 2);
            assert!(
                took.is_some_and(|took| took <= most),
                "{hosts}x{each} {size}: {took:?}"
            );
        }
    }
}

#[test]
fn hosts_that_answer_late_and_falsely_delay_little() {
    let delay = Duration::from_millis(3_500);
    for (liars, silent) in [(1, false), (8, false), (40, false), (60, true)] {
        for size in [100, SIZE] {
            let mut f = Fixture::new(&[]);
            f.truth.resize(size, 7);
            f.metadata.hash = InfoHashV2::of_info(&f.truth);
            let mut keys = Keys::default();
            for n in 0..liars {
                join(&mut f, &mut keys, n + 10, size);
            }
            f.ask_all();
            let honest = join(&mut f, &mut keys, 1, size);
            let took = run(&mut f, Duration::from_secs(600), |f, peer, piece, asked| {
                if peer == honest {
                    f.answer(peer, piece, false)
                } else if !silent && asked + delay <= f.now {
                    f.answer(peer, piece, true)
                } else {
                    MetadataProgress::Going
                }
            });
            let most = Duration::from_secs(if silent { 20 } else { 12 });
            assert!(
                took.is_some_and(|took| took <= most),
                "{liars} {silent} {size}: {took:?}"
            );
        }
    }
}

#[test]
fn what_attempts_collect_is_bounded() {
    let size = 4 << 20;
    let mut f = Fixture::new(&[]);
    let mut keys = Keys::default();
    for n in 0..40 {
        // All of them give blocks, half of them of one size.
        join(
            &mut f,
            &mut keys,
            n,
            if n % 2 == 0 {
                size
            } else {
                size - usize::from(n)
            },
        );
    }
    let mut most = 0;
    run(&mut f, Duration::from_secs(40), |f, peer, piece, _| {
        let helper = f.metadata.helpers.iter().find(|helper| helper.key == peer);
        let size = helper.map_or(0, |helper| helper.size);
        let payload = vec![1; block_len(size, piece)];
        let progress = f.metadata.data(peer, piece, size, payload, f.now);
        let held = |whole: &Collection| {
            whole
                .blocks
                .iter()
                .flatten()
                .map(|(_, bytes)| bytes.len())
                .sum::<usize>()
        };
        let bytes = f
            .metadata
            .attempts
            .iter()
            .map(|attempt| match &attempt.mode {
                CollectMode::Together(whole, _) => held(whole),
                CollectMode::Apart(wholes) => wholes.iter().map(|(_, whole)| held(whole)).sum(),
            });
        most = most.max(bytes.sum::<usize>());
        progress
    });
    assert!(most <= (MOST_BYTES + MOST_BYTES_APART) as usize, "{most}");
}
