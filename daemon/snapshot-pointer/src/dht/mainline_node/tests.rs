use super::*;
use crate::dht::loopback::LoopbackDht;
use crate::testing::{authority, item, salt};

#[tokio::test]
async fn a_node_that_died_is_replaced() {
    let network = LoopbackDht::start(3).await.unwrap();
    let dht = MainlineDht::start(network.client_settings()).await.unwrap();
    let before = dht.status().await.unwrap().local_addr;
    // What a call into a node whose thread is gone does.
    let died = dht.with_node(async |_| panic!("the thread is gone")).await;
    assert!(matches!(died, Err(LookupError::Stopped)));
    dht.put_item(&item(1, 1, 0xaa)).await.unwrap();
    let found = dht
        .get_item(&authority(1), &salt(), &mut |_| {})
        .await
        .unwrap();
    assert_eq!(found.best, Some(item(1, 1, 0xaa)));
    assert_ne!(dht.status().await.unwrap().local_addr, before);
}

#[tokio::test]
async fn a_node_starts_from_a_bounded_number_of_addresses() {
    let contact = |n: u16| SocketAddr::from(([192, 0, 2, 1], n));
    let settings = NodeSettings {
        port: 0,
        bind_address: Ipv4Addr::LOCALHOST,
        bootstrap: vec!["127.0.0.1:1".to_owned(), "[::1]:2".to_owned()],
        contacts: (0..50).map(|n| contact(1000 + n / 2)).collect(),
        ..NodeSettings::default()
    };
    let dht = MainlineDht::start(settings).await.unwrap();
    let start = dht.start_nodes().await;
    assert_eq!(start.len(), MAX_START_NODES);
    assert_eq!(SocketAddr::V4(start[0]).to_string(), "127.0.0.1:1");
    assert_eq!(SocketAddr::V4(start[1]), contact(1000));
    assert_eq!(SocketAddr::V4(start[2]), contact(1001), "each once");
}

#[tokio::test]
async fn locks_of_targets_are_forgotten() {
    let network = LoopbackDht::start(1).await.unwrap();
    let dht = MainlineDht::start(network.client_settings()).await.unwrap();
    for n in 0..100 {
        drop(dht.lock_target(SwarmHash::from_bytes([n; 20])).await);
    }
    assert!(dht.targets.lock().unwrap().len() <= 1);
}

#[test]
fn table_of_what_may_be_stored() {
    let found = |items: &[SignedItem], settled| {
        let mut found = LookupResult::default();
        for item in items {
            found.add(item.clone());
        }
        found.settled = settled;
        found
    };
    let ours = item(1, 5, 0xaa);
    let stored = |items: &[SignedItem]| may_store(&ours, &found(items, true));
    assert!(stored(&[]).is_ok());
    assert!(stored(&[item(1, 4, 0xbb)]).is_ok());
    assert!(stored(&[item(1, 4, 0xbb), item(1, 4, 0xcc)]).is_ok());
    assert!(stored(std::slice::from_ref(&ours)).is_ok());
    assert!(matches!(
        stored(&[item(1, 6, 0xaa)]),
        Err(PutError::Superseded { there, .. }) if there.get() == 6
    ));
    for there in [
        vec![item(1, 5, 0xbb)],
        vec![item(1, 5, 0xbb), ours.clone()],
        vec![ours.clone(), item(1, 5, 0xbb)],
    ] {
        assert!(matches!(
            stored(&there),
            Err(PutError::Conflict { other, .. }) if *other == item(1, 5, 0xbb)
        ));
    }
    for items in [vec![], vec![item(1, 4, 0xbb)], vec![ours.clone()]] {
        assert!(matches!(
            may_store(&ours, &found(&items, false)),
            Err(PutError::Unsettled)
        ));
    }
}

#[test]
fn impossible_peer_addresses_are_dropped() {
    for (address, possible) in [
        ("127.0.0.1:1", true),
        ("192.0.2.7:65535", true),
        ("192.0.2.7:0", false),
        ("0.0.0.0:6881", false),
        ("0.1.2.3:6881", false),
        ("224.0.0.1:6881", false),
        ("255.255.255.255:6881", false),
    ] {
        assert_eq!(
            is_reachable(address.parse().unwrap()),
            possible,
            "{address}"
        );
    }
}
