//! Look-ups and puts over a DHT of `mainline` nodes on the loopback interface, some of them hostile.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(unreachable_pub, reason = "a test binary has no outside")]

mod hostile;

use std::net::SocketAddr;
use std::sync::Mutex;

use bittorrent_protocol::{InfoHashV2, SwarmHash};
use hostile::{Answer, HostileNode};
use snapshot_pointer::loopback::LoopbackDht;
use snapshot_pointer::publish::{
    NoSeq, Publication, PublishError, Seen, next_seq, put_and_read_back,
};
use snapshot_pointer::{
    Dht, LookupError, LookupResult, MainlineDht, NodeSettings, Pointer, PutError, Role, Seq,
    SignedItem, SigningKey, StartError,
};

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32])
}

fn seq(n: i64) -> Seq {
    Seq::new(n).unwrap()
}

fn signed(salt: &str, n: i64, byte: u8) -> SignedItem {
    let pointer = Pointer {
        snapshot: InfoHashV2::from_bytes([byte; 32]),
        seq: seq(n),
    };
    SignedItem::sign_pointer(&key(1), &salt.parse().unwrap(), pointer).unwrap()
}

fn answer(item: &SignedItem) -> Answer {
    Answer {
        key: *item.authority().as_bytes(),
        seq: item.seq().get(),
        signature: *item.signature(),
        value: item.value().to_vec(),
    }
}

async fn client(network: &LoopbackDht) -> MainlineDht {
    MainlineDht::start(network.client_settings()).await.unwrap()
}

async fn get(dht: &MainlineDht, like: &SignedItem) -> LookupResult {
    dht.get_item(like.authority(), like.salt(), &mut |_| {})
        .await
        .unwrap()
}

#[tokio::test]
async fn what_one_client_puts_another_finds() {
    let network = LoopbackDht::start(5).await.unwrap();
    let (producer, mirror) = (client(&network).await, client(&network).await);
    // With and without salt, which differ in what is signed and asked.
    for salt in ["daily", ""] {
        let item = signed(salt, 1, 0xaa);
        let before = get(&mirror, &item).await;
        assert_eq!(before.best, None);
        assert!(before.settled);
        assert_eq!(before.counts.empty, 5);

        let stored = producer.put_item(&item).await.unwrap();
        assert_eq!(stored.nodes, 5);
        assert_eq!(stored.before.best, None);

        let early = Mutex::new(Vec::new());
        let found = mirror
            .get_item(item.authority(), item.salt(), &mut |item| {
                early.lock().unwrap().push(item.clone());
            })
            .await
            .unwrap();
        assert_eq!(found.best.as_ref(), Some(&item));
        assert!(found.settled && found.conflicts.is_empty());
        assert_eq!((found.counts.valid, found.counts.invalid), (5, 0));
        assert_eq!(early.into_inner().unwrap(), [item]);
    }
}

#[tokio::test]
async fn a_greater_or_contradicting_item_is_never_written_over() {
    let network = LoopbackDht::start(4).await.unwrap();
    let (a, b) = (client(&network).await, client(&network).await);
    let item = signed("daily", 5, 0xaa);
    a.put_item(&item).await.unwrap();

    assert!(matches!(
        b.put_item(&signed("daily", 4, 0xbb)).await,
        Err(PutError::Superseded { there, ours }) if there == seq(5) && ours == seq(4)
    ));
    assert!(matches!(
        b.put_item(&signed("daily", 5, 0xbb)).await,
        Err(PutError::Conflict { other, .. }) if *other == item
    ));
    assert_eq!(get(&a, &item).await.best.as_ref(), Some(&item));
    // The same again refreshes it.
    assert_eq!(b.put_item(&item).await.unwrap().nodes, 4);
    let newer = signed("daily", 6, 0xbb);
    assert_eq!(b.put_item(&newer).await.unwrap().before.best, Some(item));
    assert_eq!(get(&a, &newer).await.best, Some(newer));
}

#[tokio::test]
async fn of_two_producers_at_once_only_one_is_stored() {
    let network = LoopbackDht::start(4).await.unwrap();
    let dht = client(&network).await;
    dht.put_item(&signed("daily", 1, 1)).await.unwrap();
    let (x, y) = (signed("daily", 2, 0xaa), signed("daily", 2, 0xbb));
    // On one node, where the second waits for the first and then sees its item.
    let (first, second) = tokio::join!(dht.put_item(&x), dht.put_item(&y));
    assert!(first.is_ok());
    assert!(
        matches!(second, Err(PutError::Conflict { .. })),
        "{second:?}"
    );
    let found = get(&dht, &x).await;
    assert_eq!((found.best, found.conflicts), (Some(x), vec![]));
}

#[tokio::test]
async fn a_majority_that_is_behind_does_not_stop_a_new_item() {
    let current = LoopbackDht::start(2).await.unwrap();
    let behind = LoopbackDht::start(4).await.unwrap();
    let empty = LoopbackDht::start(2).await.unwrap();
    let put = async |network, item| client(network).await.put_item(&item).await.unwrap();
    put(&current, signed("daily", 2, 2)).await;
    put(&behind, signed("daily", 1, 1)).await;

    let mut settings = current.client_settings();
    settings.bootstrap.extend(behind.bootstrap());
    settings.bootstrap.extend(empty.bootstrap());
    let producer = MainlineDht::start(settings).await.unwrap();
    let newest = signed("daily", 3, 3);
    let stored = producer.put_item(&newest).await.unwrap();
    assert_eq!(stored.before.seq(), Some(seq(2)));
    assert_eq!(stored.nodes, 8);
    let found = get(&producer, &newest).await;
    assert_eq!((found.best, found.counts.valid), (Some(newest), 8));
}

#[tokio::test]
async fn hostile_answers_do_not_move_the_result() {
    let network = LoopbackDht::start(4).await.unwrap();
    let good = signed("daily", 5, 0xaa);
    client(&network).await.put_item(&good).await.unwrap();

    let forged_newer = Answer {
        seq: 9,
        ..answer(&good)
    };
    let forged_value = Answer {
        value: vec![0xbb; 32],
        ..answer(&good)
    };
    let of_another_key = {
        let pointer = Pointer {
            snapshot: InfoHashV2::from_bytes([0xbb; 32]),
            seq: seq(9),
        };
        answer(&SignedItem::sign_pointer(&key(2), good.salt(), pointer).unwrap())
    };
    let of_another_salt = answer(&signed("hourly", 9, 0xbb));
    // Well signed, but no such number exists (BEP 44 counts from 0; `mainline` lets it pass).
    let negative = {
        let key = mainline::SigningKey::from_bytes(&[1; 32]);
        let item = mainline::MutableItem::new(key, good.value(), -1, Some(b"daily"));
        Answer {
            seq: -1,
            signature: *item.signature(),
            ..answer(&good)
        }
    };
    for forged in [
        forged_newer,
        forged_value,
        of_another_key,
        of_another_salt,
        negative,
    ] {
        let (found, hostile) = ask_with_hostile(&network, &good, forged.clone()).await;
        assert!(hostile > 0, "{forged:?} was never asked");
        assert_eq!(found.best.as_ref(), Some(&good), "{forged:?}");
        assert!(found.conflicts.is_empty());
        assert_eq!((found.counts.valid, found.counts.invalid), (4, 1));
    }

    // Correctly signed, but old: a node that was away.
    let (found, _) = ask_with_hostile(&network, &good, answer(&signed("daily", 4, 0xbb))).await;
    assert_eq!(found.best.as_ref(), Some(&good));
    assert!(found.conflicts.is_empty());
    assert_eq!(found.counts.valid, 5);

    // Correctly signed, and contradicting: the authority itself is at fault.
    let other = signed("daily", 5, 0xbb);
    let (found, _) = ask_with_hostile(&network, &good, answer(&other)).await;
    let mut values = [found.best.unwrap(), found.conflicts[0].clone()];
    values.sort_by_key(|item| item.value().to_vec());
    assert_eq!(values, [good.clone(), other]);
    assert_eq!(found.conflicts.len(), 1);
}

async fn ask_with_hostile(
    network: &LoopbackDht,
    like: &SignedItem,
    answer: Answer,
) -> (LookupResult, u32) {
    let hostile = HostileNode::start(answer);
    let mut settings = network.client_settings();
    settings.bootstrap.push(hostile.address.to_string());
    let dht = MainlineDht::start(settings).await.unwrap();
    let found = get(&dht, like).await;
    (found, hostile.answered())
}

#[tokio::test]
async fn an_item_is_not_put_into_a_contradiction() {
    let network = LoopbackDht::start(3).await.unwrap();
    let ours = signed("daily", 5, 0xaa);
    client(&network).await.put_item(&ours).await.unwrap();
    let hostile = HostileNode::start(answer(&signed("daily", 5, 0xbb)));
    let mut settings = network.client_settings();
    settings.bootstrap.push(hostile.address.to_string());
    let dht = MainlineDht::start(settings).await.unwrap();
    assert!(matches!(
        dht.put_item(&ours).await,
        Err(PutError::Conflict { other, .. }) if other.value() == [0xbb; 32]
    ));
}

#[tokio::test]
async fn peers_that_announce_are_found_once() {
    let network = LoopbackDht::start(4).await.unwrap();
    let (a, b) = (client(&network).await, client(&network).await);
    let swarm = SwarmHash::from_bytes([7; 20]);
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!(a.get_peers(swarm).await.unwrap(), []);
    assert_eq!(a.announce(swarm, 40_001).await.unwrap(), []);
    assert_eq!(b.get_peers(swarm).await.unwrap(), [local(40_001)]);
    // Announcing brings the peers, too.
    assert_eq!(b.announce(swarm, 40_002).await.unwrap(), [local(40_001)]);
    let mut peers = a.get_peers(swarm).await.unwrap();
    peers.sort();
    assert_eq!(peers, [local(40_001), local(40_002)]);
    let elsewhere = SwarmHash::from_bytes([8; 20]);
    assert_eq!(a.get_peers(elsewhere).await.unwrap(), []);
    assert!(matches!(
        a.announce(swarm, 0).await,
        Err(PutError::PortZero)
    ));
}

#[tokio::test]
async fn operations_on_one_target_do_not_disturb_each_other() {
    let network = LoopbackDht::start(4).await.unwrap();
    let (a, b) = (client(&network).await, client(&network).await);
    let swarm = SwarmHash::from_bytes([7; 20]);
    a.announce(swarm, 40_001).await.unwrap();
    let (announced, found, again) = tokio::join!(
        b.announce(swarm, 40_002),
        b.get_peers(swarm),
        b.get_peers(swarm)
    );
    assert_eq!(announced.unwrap().len(), 1);
    assert_eq!(found.unwrap().len(), 2);
    assert_eq!(again.unwrap().len(), 2);
}

#[tokio::test]
async fn publishing_numbers_follow_the_network() {
    let network = LoopbackDht::start(4).await.unwrap();
    let dht = client(&network).await;
    let first = signed("daily", 1, 1);
    let lookup = dht
        .get_item(first.authority(), first.salt(), &mut |_| {})
        .await;
    assert_eq!(Seen::of(&lookup), Seen::Nothing);
    assert_eq!(
        next_seq(Seen::of(&lookup), None, Publication::Following),
        Err(NoSeq::NeverPublished)
    );
    let published = put_and_read_back(&dht, &first).await.unwrap();
    assert_eq!((published.stored, published.read_back), (4, 4));
    // Another machine, which knows nothing but the network.
    let other = client(&network).await;
    let lookup = other
        .get_item(first.authority(), first.salt(), &mut |_| {})
        .await;
    let next = next_seq(Seen::of(&lookup), None, Publication::Following).unwrap();
    assert_eq!(next, seq(2));
    put_and_read_back(&other, &signed("daily", next.get(), 2))
        .await
        .unwrap();
    assert!(matches!(
        put_and_read_back(&dht, &first).await,
        Err(PublishError::Put(PutError::Superseded { .. }))
    ));
}

#[tokio::test]
async fn a_dead_network_is_an_error_and_not_an_empty_one() {
    let mut network = LoopbackDht::start(2).await.unwrap();
    let settings = network.client_settings();
    network.stop_oldest(2).await;
    let dht = MainlineDht::start(settings).await.unwrap();
    let item = signed("daily", 1, 1);
    let lookup = dht
        .get_item(item.authority(), item.salt(), &mut |_| {})
        .await;
    let Err(LookupError::NoAnswer { counts }) = &lookup else {
        panic!("{lookup:?}");
    };
    assert_eq!((counts.queried, counts.timeouts), (2, 2));
    assert_eq!(Seen::of(&lookup), Seen::Unknown);
    assert!(matches!(
        dht.put_item(&item).await,
        Err(PutError::Lookup { .. })
    ));
    assert!(!dht.bootstrapped().await);
    assert_eq!(dht.contacts().await, []);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for bootstrap in ["127.0.0.1:1", "nowhere.invalid:1"] {
        let settings = NodeSettings {
            port,
            bind_address: std::net::Ipv4Addr::LOCALHOST,
            bootstrap: vec![bootstrap.to_owned()],
            ..NodeSettings::default()
        };
        assert!(matches!(
            MainlineDht::start(settings).await,
            Err(StartError::Bind { address, .. }) if address.port() == port
        ));
    }
}

#[tokio::test]
async fn a_node_without_names_waits_and_contacts_of_the_last_run_replace_them() {
    let network = LoopbackDht::start(3).await.unwrap();
    let item = signed("daily", 1, 0xaa);
    let contacts = {
        let dht = client(&network).await;
        dht.put_item(&item).await.unwrap();
        assert!(dht.bootstrapped().await);
        dht.contacts().await
    };
    assert_eq!(contacts.len(), 3);

    let nameless = NodeSettings {
        bootstrap: vec!["nowhere.invalid:6881".to_owned()],
        ..network.client_settings()
    };
    let alone = MainlineDht::start(nameless.clone()).await.unwrap();
    assert!(alone.status().await.is_none());
    assert!(matches!(
        alone
            .get_item(item.authority(), item.salt(), &mut |_| {})
            .await,
        Err(LookupError::NotRunning {
            source: StartError::NoBootstrap
        })
    ));

    let dht = MainlineDht::start(NodeSettings {
        contacts,
        ..nameless
    })
    .await
    .unwrap();
    assert_eq!(get(&dht, &item).await.best, Some(item));
}

#[tokio::test]
async fn a_server_keeps_items_for_others() {
    let mut network = LoopbackDht::start(1).await.unwrap();
    let server = MainlineDht::start(NodeSettings {
        role: Role::Server,
        ..network.client_settings()
    })
    .await
    .unwrap();
    assert!(server.bootstrapped().await);
    let status = server.status().await.unwrap();
    assert!(status.server);
    assert_eq!(status.nodes, 1);

    let item = signed("daily", 1, 0xaa);
    let mut settings = network.client_settings();
    settings.bootstrap.push(status.local_addr.to_string());
    let producer = MainlineDht::start(settings).await.unwrap();
    assert_eq!(producer.put_item(&item).await.unwrap().nodes, 2);
    network.stop_oldest(1).await;
    assert_eq!(get(&producer, &item).await.best, Some(item));
}
