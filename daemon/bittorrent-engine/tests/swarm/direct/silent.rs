//! Peers that are asked for blocks and send none.

use super::*;

#[test]
fn peers_that_never_answered_are_given_up_sooner_than_others() {
    for answers in [false, true] {
        let mut d = Direct::new(Config::default(), 4, 64);
        let peer = d.seed(1, Link::V2, true, 500);
        d.event(peer, PeerEvent::Unchoke);
        assert_eq!(d.asked(peer).len(), 64);
        if answers {
            let first = d.asked(peer)[0];
            assert_eq!(d.deliver(peer, first, false), BlockVerdict::Write);
        }
        d.wait(4);
        assert!(d.asked(peer).len() >= 63);
        d.wait(6);
        // A single request shows whether it answers after all.
        assert_eq!(d.asked(peer).len() > 1, answers);
        d.wait(12);
        assert_eq!(d.asked(peer).len(), 1);
    }
}
