//! Magnet links that we write are links that we read.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use bittorrent_protocol::magnet::{Magnet, PeerAddr};
use bittorrent_protocol::{InfoHashV1, InfoHashV2};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

fn texts() -> impl Strategy<Value = Vec<String>> {
    // A set, since equal ones are written once.
    btree_set(".{1,12}", 0..4).prop_map(|set| set.into_iter().collect())
}

fn peer() -> impl Strategy<Value = PeerAddr> {
    let host = prop_oneof![
        any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
        any::<std::net::Ipv6Addr>().prop_map(|ip| ip.to_string()),
        "[a-z0-9][a-z0-9.-]{0,20}",
    ];
    (host, 1u16..).prop_map(|(host, port)| PeerAddr { host, port })
}

fn magnet() -> impl Strategy<Value = Magnet> {
    let hashes = (any::<[u8; 20]>(), any::<[u8; 32]>(), 0u8..3);
    let name = proptest::option::of(".{1,20}");
    (hashes, name, texts(), texts(), vec(peer(), 0..4)).prop_map(
        |((v1, v2, kind), name, trackers, web_seeds, peers)| Magnet {
            v1: (kind != 0).then(|| InfoHashV1::from_bytes(v1)),
            v2: (kind != 1).then(|| InfoHashV2::from_bytes(v2)),
            name,
            trackers,
            web_seeds,
            peers,
        },
    )
}

proptest! {
    #[test]
    fn links_round_trip(magnet in magnet()) {
        let text = magnet.to_string();
        prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{}", text);
        prop_assert_eq!(text.parse(), Ok(magnet));
    }

    #[test]
    fn arbitrary_text_does_not_panic(text in ".{0,60}", query in "[xt.=&%urn:bih12AZa-f]{0,80}") {
        let _ = text.parse::<Magnet>();
        let _ = format!("magnet:?{text}").parse::<Magnet>();
        let _ = format!("magnet:?xt=urn:{query}").parse::<Magnet>();
    }
}
