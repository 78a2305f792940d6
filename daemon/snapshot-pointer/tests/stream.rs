//! Following streams over a DHT on the loopback interface: decisions, memory, items that outlive
//! their producers, rotation.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(unreachable_pub, reason = "a test binary has no outside")]

mod hostile;

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bittorrent_protocol::InfoHashV2;
use hostile::{Answer, HostileNode};
use snapshot_pointer::loopback::LoopbackDht;
use snapshot_pointer::publish::{keep, put_and_read_back};
use snapshot_pointer::{
    Decision, Dht, Follower, ItemKind, MainlineDht, NodeSettings, Pointer, Poll, PutError,
    REPUBLISH_INTERVAL, Record, RecordError, RecordStore, Refusal, Salt, Seq, SignedItem,
    SigningKey, StreamPolicy, Succession, UnusableCopy, carried_item,
};

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32])
}

fn salt() -> Salt {
    "daily".parse().unwrap()
}

fn signed(by: u8, seq: i64, byte: u8) -> SignedItem {
    let pointer = Pointer {
        snapshot: snapshot(byte),
        seq: Seq::new(seq).unwrap(),
    };
    SignedItem::sign_pointer(&key(by), &salt(), pointer).unwrap()
}

fn snapshot(byte: u8) -> InfoHashV2 {
    InfoHashV2::from_bytes([byte; 32])
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

/// A mirror with its own memory.
struct Mirror {
    follower: Follower,
    records: RecordStore,
    dir: tempfile::TempDir,
}

impl Mirror {
    fn new(authorities: &[u8], threshold: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let records = RecordStore::open(dir.path()).unwrap();
        let authorities = authorities.iter().map(|n| key(*n).authority()).collect();
        let policy = StreamPolicy::new(authorities, threshold, salt(), None).unwrap();
        Self {
            follower: Follower::new(policy, records.clone()),
            records,
            dir,
        }
    }

    async fn poll(&self, dht: &MainlineDht, now: u64) -> Poll {
        self.follower.poll(dht, at(now), &|_| {}).await.unwrap()
    }

    fn decide_from_records(&self) -> (Decision, Vec<Record>) {
        self.follower.decide_from_records().unwrap()
    }
}

fn followed(decision: &Decision) -> Option<InfoHashV2> {
    match decision {
        Decision::Follow(choice) => Some(choice.snapshot),
        Decision::Undecided(_) => None,
    }
}

async fn client(network: &LoopbackDht) -> MainlineDht {
    MainlineDht::start(network.client_settings()).await.unwrap()
}

#[tokio::test]
async fn a_mirror_follows_what_the_producer_publishes() {
    let network = LoopbackDht::start(4).await.unwrap();
    let (producer, dht) = (client(&network).await, client(&network).await);
    let mirror = Mirror::new(&[1], 1);
    let nothing = mirror.poll(&dht, 0).await;
    assert_eq!(followed(&nothing.decision), None);
    assert!(nothing.authorities[0].lookup.is_ok());

    put_and_read_back(&producer, &signed(1, 1, 0xaa))
        .await
        .unwrap();
    let early = Mutex::new(Vec::new());
    let poll = mirror
        .follower
        .poll(&dht, at(10), &|item| {
            early.lock().unwrap().push(item.seq().get());
        })
        .await
        .unwrap();
    assert_eq!(followed(&poll.decision), Some(snapshot(0xaa)));
    assert!(poll.authorities[0].lookup.as_ref().unwrap().newer);
    assert_eq!(early.into_inner().unwrap(), [1]);

    let early = Mutex::new(Vec::new());
    let again = mirror
        .follower
        .poll(&dht, at(20), &|item| {
            early.lock().unwrap().push(item.seq().get());
        })
        .await
        .unwrap();
    assert!(!again.authorities[0].lookup.as_ref().unwrap().newer);
    assert!(
        early.into_inner().unwrap().is_empty(),
        "nothing new to tell"
    );

    put_and_read_back(&producer, &signed(1, 2, 0xbb))
        .await
        .unwrap();
    let Decision::Follow(choice) = mirror.poll(&dht, 30).await.decision else {
        panic!("undecided");
    };
    assert_eq!((choice.snapshot, choice.since), (snapshot(0xbb), at(30)));
    // And it remembers, without any network.
    assert_eq!(mirror.decide_from_records().0, Decision::Follow(choice));
}

#[tokio::test]
async fn a_network_that_fell_back_does_not_move_a_mirror_back() {
    let mirror = Mirror::new(&[1], 1);
    let (old, new) = (
        LoopbackDht::start(3).await.unwrap(),
        LoopbackDht::start(3).await.unwrap(),
    );
    let (on_old, on_new) = (client(&old).await, client(&new).await);
    on_old.put_item(&signed(1, 4, 0xaa)).await.unwrap();
    on_new.put_item(&signed(1, 5, 0xbb)).await.unwrap();
    mirror.poll(&on_new, 0).await;
    let poll = mirror.poll(&on_old, 10).await;
    assert_eq!(followed(&poll.decision), Some(snapshot(0xbb)));
    let refused = &poll.authorities[0].lookup.as_ref().unwrap().refused;
    assert!(matches!(refused[..], [(_, Refusal::LowerSeq { .. })]));
    // And brings the network forward instead.
    let again = mirror
        .follower
        .republish(&on_old, at(7200), REPUBLISH_INTERVAL)
        .await
        .unwrap();
    assert!(again[0].result.is_ok());
    assert_eq!(
        followed(&Mirror::new(&[1], 1).poll(&on_old, 7201).await.decision),
        Some(snapshot(0xbb))
    );
}

#[tokio::test]
async fn two_of_three_decide() {
    let network = LoopbackDht::start(4).await.unwrap();
    let dht = client(&network).await;
    let mirror = Mirror::new(&[1, 2, 3], 2);
    dht.put_item(&signed(1, 50, 0xaa)).await.unwrap();
    assert_eq!(followed(&mirror.poll(&dht, 0).await.decision), None);
    dht.put_item(&signed(3, 1, 0xaa)).await.unwrap();
    assert_eq!(
        followed(&mirror.poll(&dht, 1).await.decision),
        Some(snapshot(0xaa))
    );
    // One moves on; then, with another, two.
    dht.put_item(&signed(2, 9, 0xbb)).await.unwrap();
    assert_eq!(
        followed(&mirror.poll(&dht, 2).await.decision),
        Some(snapshot(0xaa))
    );
    dht.put_item(&signed(3, 2, 0xbb)).await.unwrap();
    assert_eq!(
        followed(&mirror.poll(&dht, 3).await.decision),
        Some(snapshot(0xbb))
    );
}

#[tokio::test]
async fn equivocation_is_kept_and_nothing_is_followed_until_it_ends() {
    let network = LoopbackDht::start(3).await.unwrap();
    let producer = client(&network).await;
    producer.put_item(&signed(1, 5, 0xaa)).await.unwrap();
    let other = signed(1, 5, 0xbb);
    let (hostile, dht) = beside_hostile(&network, &other).await;

    let mirror = Mirror::new(&[1], 1);
    let poll = mirror.poll(&dht, 0).await;
    assert!(hostile.answered() > 0);
    assert!(matches!(
        &poll.decision,
        Decision::Undecided(tally) if tally.contested == 1
    ));
    let refused = &poll.authorities[0].lookup.as_ref().unwrap().refused;
    assert_eq!(refused.len(), 2);
    // The proof is on disk, and is not destroyed by putting one of the two.
    assert_eq!(
        mirror.decide_from_records().1[0].state().evidence().len(),
        2
    );
    assert!(
        mirror
            .follower
            .republish(&dht, at(7200), REPUBLISH_INTERVAL)
            .await
            .unwrap()
            .is_empty()
    );

    producer.put_item(&signed(1, 6, 0xcc)).await.unwrap();
    let poll = mirror.poll(&dht, 10).await;
    assert_eq!(followed(&poll.decision), Some(snapshot(0xcc)));
    assert_eq!(poll.authorities[0].record.state().evidence().len(), 2);

    // The same against an item that is held: its vote is suspended, and it is not put, either.
    let (_hostile, dht) = beside_hostile(&network, &signed(1, 6, 0xdd)).await;
    let poll = mirror.poll(&dht, 20).await;
    assert_eq!(followed(&poll.decision), None);
    let state = poll.authorities[0].record.state();
    assert_eq!(state.accepted(), Some(&signed(1, 6, 0xcc)));
    assert_eq!(state.evidence().len(), 4);
    let put = mirror
        .follower
        .republish(&dht, at(7200), REPUBLISH_INTERVAL)
        .await
        .unwrap();
    assert!(put.is_empty());
}

/// A node of the network's, which also asks one that has `item`.
async fn beside_hostile(network: &LoopbackDht, item: &SignedItem) -> (HostileNode, MainlineDht) {
    let hostile = HostileNode::start(Answer {
        key: *item.authority().as_bytes(),
        seq: item.seq().get(),
        signature: *item.signature(),
        value: item.value().to_vec(),
    });
    let mut settings = network.client_settings();
    settings.bootstrap.push(hostile.address.to_string());
    let dht = MainlineDht::start(settings).await.unwrap();
    (hostile, dht)
}

#[tokio::test]
async fn a_pointer_outlives_its_producer_and_the_nodes_that_stored_it() {
    let mut old = LoopbackDht::start(4).await.unwrap();
    let new = LoopbackDht::start(4).await.unwrap();
    {
        let producer = client(&old).await;
        put_and_read_back(&producer, &signed(1, 1, 0xaa))
            .await
            .unwrap();
    }
    let mut settings = old.client_settings();
    settings.bootstrap.extend(new.bootstrap());
    let dht = MainlineDht::start(settings).await.unwrap();
    let mirror = Mirror::new(&[1], 1);
    mirror.poll(&dht, 0).await;
    old.stop_oldest(4).await;

    let newcomer = client(&new).await;
    let fresh = Mirror::new(&[1], 1);
    let lost = fresh.poll(&newcomer, 2).await;
    assert!(lost.authorities[0].lookup.is_ok());
    assert_eq!(followed(&lost.decision), None, "no node has it any more");

    let republished = mirror
        .follower
        .republish(&dht, at(2) + REPUBLISH_INTERVAL, REPUBLISH_INTERVAL)
        .await
        .unwrap();
    assert_eq!(republished[0].result.as_ref().unwrap().nodes, 4);
    let found = fresh.poll(&newcomer, 3).await;
    assert_eq!(followed(&found.decision), Some(snapshot(0xaa)));
}

#[tokio::test]
async fn items_are_put_again_when_due_and_never_over_newer_ones() {
    let network = LoopbackDht::start(3).await.unwrap();
    let (producer, dht) = (client(&network).await, client(&network).await);
    let mirror = Mirror::new(&[1], 1);
    let republish = async |now| {
        mirror
            .follower
            .republish(&dht, at(now), REPUBLISH_INTERVAL)
            .await
            .unwrap()
    };
    assert!(republish(0).await.is_empty(), "nothing is held");
    producer.put_item(&signed(1, 1, 0xaa)).await.unwrap();
    mirror.poll(&dht, 0).await;
    assert_eq!(republish(0).await.len(), 1);
    assert!(republish(1799).await.is_empty());
    assert_eq!(republish(1800).await.len(), 1);
    // At a start all of them are, however lately they were.
    let all = mirror.follower.republish(&dht, at(1801), Duration::ZERO);
    assert_eq!(all.await.unwrap().len(), 1);

    // The producer moved on unseen: nothing is overwritten, and it is not tried again and again.
    mirror.poll(&dht, 7100).await;
    producer.put_item(&signed(1, 2, 0xbb)).await.unwrap();
    let refused = republish(7200).await;
    assert!(matches!(
        refused[0].result,
        Err(PutError::Superseded { .. })
    ));
    assert_eq!(
        followed(&mirror.poll(&dht, 7200).await.decision),
        Some(snapshot(0xbb))
    );
    // It was put since the last look-up that did not show it, so it is not due at once.
    assert!(republish(7200).await.is_empty());
}

#[tokio::test]
async fn without_a_network_what_is_known_decides() {
    let mut network = LoopbackDht::start(2).await.unwrap();
    let dht = client(&network).await;
    let mirror = Mirror::new(&[1], 1);
    dht.put_item(&signed(1, 1, 0xaa)).await.unwrap();
    mirror.poll(&dht, 0).await;
    network.stop_oldest(2).await;
    let poll = mirror.poll(&dht, 10).await;
    assert!(poll.authorities[0].lookup.is_err());
    assert_eq!(followed(&poll.decision), Some(snapshot(0xaa)));
}

#[tokio::test]
async fn a_copied_record_carries_an_item_and_never_an_older_one() {
    let (from, to) = (Mirror::new(&[1], 1), Mirror::new(&[1], 1));
    let path = from.records.path(&key(1).authority(), &salt());
    assert!(matches!(
        carried_item(&path),
        Err(UnusableCopy::Read { .. })
    ));
    let carry = async |item: SignedItem| {
        keep(&from.records, &item, ItemKind::Pointer, at(0)).unwrap();
        let carried = carried_item(&path).unwrap();
        assert_eq!(carried, item);
        to.follower.take(&[carried], at(1)).await.unwrap();
        let (decision, records) = to.decide_from_records();
        (followed(&decision), records[0].clone())
    };
    let (now, record) = carry(signed(1, 2, 0xbb)).await;
    assert_eq!(now, Some(snapshot(0xbb)));
    assert_eq!(record.first_seen(), Some(at(1)));

    to.follower
        .take(&[signed(1, 1, 0xaa)], at(2))
        .await
        .unwrap();
    to.follower
        .take(&[signed(2, 9, 0xcc)], at(2))
        .await
        .unwrap();
    assert_eq!(to.decide_from_records().1, [record]);
    let (now, _) = carry(signed(1, 3, 0xdd)).await;
    assert_eq!(now, Some(snapshot(0xdd)));
    // The same number for something else is what it is, wherever it came from.
    to.follower
        .take(&[signed(1, 3, 0xee)], at(3))
        .await
        .unwrap();
    assert_eq!(followed(&to.decide_from_records().0), None);
}

#[test]
fn what_is_no_copy_of_a_record_carries_nothing() {
    let mirror = Mirror::new(&[1], 1);
    keep(
        &mirror.records,
        &signed(1, 1, 0xaa),
        ItemKind::Pointer,
        at(0),
    )
    .unwrap();
    let path = mirror.records.path(&key(1).authority(), &salt());
    let good = std::fs::read_to_string(&path).unwrap();
    let forged = good.replace("\"seq\": 1", "\"seq\": 2");
    assert_ne!(good, forged);
    for bad in ["", "{}", &good[1..], &forged, &good.repeat(200)] {
        std::fs::write(&path, bad).unwrap();
        let error = carried_item(&path).unwrap_err();
        assert!(matches!(error, UnusableCopy::Damaged { .. }), "{error}");
    }
    let held = good.find("\"held\"").unwrap();
    let after = good.find("\"first_seen\"").unwrap();
    let empty = format!("{}\"held\": null, {}", &good[..held], &good[after..]);
    std::fs::write(&path, empty).unwrap();
    assert!(matches!(
        carried_item(&path),
        Err(UnusableCopy::Empty { .. })
    ));
}

#[tokio::test]
async fn a_damaged_record_stops_the_mirror_instead_of_resetting_it() {
    let network = LoopbackDht::start(2).await.unwrap();
    let dht = client(&network).await;
    let mirror = Mirror::new(&[1], 1);
    keep(
        &mirror.records,
        &signed(1, 9, 0xaa),
        ItemKind::Pointer,
        at(0),
    )
    .unwrap();
    dht.put_item(&signed(1, 3, 0xbb)).await.unwrap();
    let path = mirror.records.path(&key(1).authority(), &salt());
    assert!(path.starts_with(mirror.dir.path()));
    std::fs::write(&path, b"{").unwrap();
    assert!(matches!(
        mirror.follower.poll(&dht, at(1), &|_| {}).await,
        Err(RecordError::Damaged { .. })
    ));
    assert_eq!(std::fs::read(&path).unwrap(), b"{");
}

#[tokio::test]
async fn a_successor_is_found_and_kept_alive() {
    let network = LoopbackDht::start(3).await.unwrap();
    let (producer, dht) = (client(&network).await, client(&network).await);
    let mirror = Mirror::new(&[1, 2], 1);
    assert_eq!(mirror.follower.successions(&dht, at(0)).await.unwrap(), []);

    let item = Succession::sign(&key(1), &key(7), &salt(), Seq::FIRST).unwrap();
    put_and_read_back(&producer, &item).await.unwrap();
    let expected = [Succession {
        old: key(1).authority(),
        new: key(7).authority(),
    }];
    assert_eq!(
        mirror.follower.successions(&dht, at(1)).await.unwrap(),
        expected
    );
    // The old key may be gone for good, so mirrors keep its last word alive, too.
    let republished = mirror
        .follower
        .republish(&dht, at(2), REPUBLISH_INTERVAL)
        .await
        .unwrap();
    assert_eq!(republished.len(), 1);
    assert_eq!(republished[0].item, item);
    assert!(republished[0].result.is_ok());

    // It named two successors at once: neither is given out.
    let other = Succession::sign(&key(1), &key(8), &salt(), Seq::FIRST).unwrap();
    let (_hostile, contested) = beside_hostile(&network, &other).await;
    let second = Mirror::new(&[1], 1);
    keep_succession(&second, &item);
    assert_eq!(
        second
            .follower
            .successions(&contested, at(2))
            .await
            .unwrap(),
        []
    );

    let alone = MainlineDht::start(NodeSettings {
        bootstrap: vec!["nowhere.invalid:1".to_owned()],
        ..network.client_settings()
    })
    .await
    .unwrap();
    assert_eq!(
        mirror.follower.successions(&alone, at(3)).await.unwrap(),
        expected
    );
}

fn keep_succession(mirror: &Mirror, item: &SignedItem) {
    mirror
        .records
        .update(
            item.authority(),
            item.salt(),
            ItemKind::Succession,
            |record| record.take(std::slice::from_ref(item), at(0)),
        )
        .unwrap();
}
