//! Peers that reject what they are asked for.

use bittorrent_protocol::wire::Request;

use super::*;

fn reject_all(d: &mut Direct, peer: PeerKey) -> usize {
    let mut rejected = 0;
    while let Some(block) = d.asked(peer).first().copied() {
        d.asked.entry(peer).or_default().remove(&block);
        let request = Request::for_block(&d.truth.layout, block);
        d.event(peer, PeerEvent::Reject(request));
        rejected += 1;
    }
    rejected
}

#[test]
fn a_peer_that_rejects_everything_is_asked_less_and_less() {
    let mut d = Direct::new(Config::default(), 4, 4_000);
    let bad = d.seed(1, Link::V2, true, 500);
    d.event(bad, PeerEvent::Unchoke);
    let first = reject_all(&mut d, bad);
    assert!((32..=100).contains(&first), "{first}");
    let mut later = 0;
    for _ in 0..120 {
        d.wait(1);
        later += reject_all(&mut d, bad);
    }
    assert!((1..=8).contains(&later), "{later} in two minutes");
    // Others are asked for all of it meanwhile.
    let good = d.seed(2, Link::V2, true, 500);
    d.event(good, PeerEvent::Unchoke);
    for block in d.asked(good) {
        assert_eq!(d.deliver(good, block, false), BlockVerdict::Write);
    }
    assert!(d.asked(good).len() > 64);
    // One block that it sends makes up for all it rejected.
    let single = std::iter::repeat_with(|| {
        d.wait(1);
        d.asked(bad).first().copied()
    })
    .take(120)
    .flatten()
    .next()
    .expect("it is tried again");
    d.deliver(bad, single, false);
    d.wait(1);
    assert!(!d.asked(bad).is_empty());
    let before = d.asked(bad).len();
    d.deliver_all(bad, false);
    assert!(d.asked(bad).len() > before, "its window grows again");
}

#[test]
fn rejects_of_a_peer_that_chokes_cost_it_nothing() {
    let mut d = Direct::new(Config::default(), 4, 4_000);
    let peer = d.seed(1, Link::V2, true, 500);
    for _ in 0..10 {
        d.event(peer, PeerEvent::Unchoke);
        assert!(d.asked(peer).len() >= 64);
        d.event(peer, PeerEvent::Choke);
        reject_all(&mut d, peer);
    }
}
