//! Hash requests that are asked a second time.

use super::*;

#[test]
fn leaves_are_asked_of_another_host_and_the_first_answer_counts() {
    for late in [false, true] {
        let (mut d, honest, _) = false_piece(Link::V2);
        let (first, request) = d.hash_requests[0];
        // Another connection of the same host is no help.
        let beside = SocketAddr::new(addr(if first == honest { 1 } else { 2 }).ip(), 7_000);
        let twin = d.seed_at(beside, 9, Link::V2, true, 2);
        d.wait(1);
        assert_eq!(d.hash_requests.len(), 2);
        let (other, again) = d.hash_requests[1];
        assert!(other != first && other != twin && again == request);
        d.wait(2);
        assert_eq!(d.hash_requests.len(), 2, "asked a third time");
        let hashes = d.truth.hashes_for(&request).unwrap();
        let order = if late { [other, first] } else { [first, other] };
        for (n, peer) in order.into_iter().enumerate() {
            let hashes = hashes.clone();
            d.event(peer, PeerEvent::Hashes { request, hashes });
            assert_eq!(
                (d.banned.len(), d.proven),
                (1, 2),
                "after {} answers",
                n + 1
            );
        }
        assert_eq!(d.banned[0].0, addr(2));
    }
}

#[test]
fn the_other_peer_is_counted_on_when_one_fails() {
    for second_first in [false, true] {
        let (mut d, ..) = false_piece(Link::V2);
        d.seed(3, Link::V2, true, 2);
        d.wait(1);
        let [(first, request), (second, _)] = d.hash_requests[..] else {
            panic!("{:?}", d.hash_requests);
        };
        let order = if second_first {
            [second, first]
        } else {
            [first, second]
        };
        d.event(order[0], PeerEvent::HashReject(request));
        assert_eq!(d.hash_requests.len(), 2, "a third one was asked meanwhile");
        d.event(order[1], PeerEvent::HashReject(request));
        assert_eq!(d.hash_requests.len(), 3);
        let third = d.hash_requests[2].0;
        assert!(third != first && third != second);
        let hashes = d.truth.hashes_for(&request).unwrap();
        d.event(third, PeerEvent::Hashes { request, hashes });
        assert_eq!(d.banned.len(), 1);
    }
}

/// A download of so many pieces whose layer is not known.
fn without_layers(pieces: u64) -> Direct {
    let truth = SyntheticTorrent::new(1, &[pieces * BLOCK]).unwrap();
    let content = truth.content(false, |_| false);
    Direct::with_content(Config::default(), truth, content, &[])
}

#[test]
fn a_chunk_is_asked_of_one_other_host_and_not_of_a_third() {
    let mut d = without_layers(2);
    let first = d.seed(1, Link::V2, true, 2);
    let beside = SocketAddr::new(addr(1).ip(), 7_000);
    d.seed_at(beside, 9, Link::V2, true, 2);
    let (peer, request) = d.hash_requests[0];
    assert_eq!((peer, d.hash_requests.len()), (first, 1));
    d.wait(1);
    assert_eq!(d.hash_requests.len(), 1, "the same host was asked");
    let second = d.seed(2, Link::V2, true, 2);
    assert_eq!(d.hash_requests[1..], [(second, request)]);
    let third = d.seed(3, Link::V2, true, 2);
    d.wait(2);
    assert_eq!(d.hash_requests.len(), 2, "asked a third time");
    d.event(first, PeerEvent::HashReject(request));
    assert_eq!(d.hash_requests.len(), 2, "a third one was asked meanwhile");
    d.event(second, PeerEvent::HashReject(request));
    assert_eq!(d.hash_requests[2..], [(third, request)]);
}

#[test]
fn there_are_few_second_requests_at_a_time() {
    let mut d = without_layers(40 * 512);
    let silent: BTreeSet<_> = (1..9).map(|n| d.seed(n, Link::V2, true, 2)).collect();
    assert_eq!(d.hash_requests.len(), 16);
    let quick: BTreeSet<_> = (11..21).map(|n| d.seed(n, Link::V2, true, 2)).collect();
    let before = d.hash_requests.len();
    assert_eq!(before, 36);
    // The quick ones answer everything, and are asked for what else there is.
    for n in 16..40 {
        let (peer, request) = d.hash_requests[n];
        assert!(quick.contains(&peer));
        let hashes = d.truth.hashes_for(&request).unwrap();
        d.event(peer, PeerEvent::Hashes { request, hashes });
    }
    assert_eq!(d.hash_requests.len(), 40);
    d.wait(1);
    assert_eq!(d.hash_requests.len(), 48);
    d.wait(1);
    let again: Vec<_> = d.hash_requests[40..].to_vec();
    assert_eq!(again.len(), 8);
    let first: BTreeSet<_> = d.hash_requests[..16].iter().map(|(_, r)| r.index).collect();
    for (peer, request) in again {
        assert!(!silent.contains(&peer) && first.contains(&request.index));
        let hashes = d.truth.hashes_for(&request).unwrap();
        d.event(peer, PeerEvent::Hashes { request, hashes });
    }
    assert_eq!(d.hash_requests.len(), 56);
}
