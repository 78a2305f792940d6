//! BEP 44 between libtorrent's DHT nodes and our client: what one side puts the other reads, to the
//! byte, and both agree on sequence numbers.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::Ipv4Addr;

use bittorrent_protocol::InfoHashV2;
use interop_harness::{Libtorrent, LibtorrentPeer};
use serde_json::{Value, json};
use snapshot_pointer::{
    Authority, Dht as _, LookupResult, MainlineDht, NodeSettings, Pointer, PutError, Salt, Seq,
    SignedItem, SigningKey,
};

const SEED: [u8; 32] = [7; 32];

/// A DHT of libtorrent nodes and a client of ours that joined it. Our own nodes cannot answer
/// libtorrent's queries (its transaction ids are 2 bytes long), so every server is libtorrent's.
async fn network(release: Libtorrent) -> (LibtorrentPeer, MainlineDht) {
    let mut ring = LibtorrentPeer::start(release);
    let answer = ring.ask(&json!({"do": "dht_ring", "count": 8}));
    assert_eq!(answer["waiting"], 0, "the ring did not form: {answer}");
    let client = MainlineDht::start(NodeSettings {
        port: 0,
        bind_address: Ipv4Addr::LOCALHOST,
        bootstrap: vec![answer["nodes"][0].as_str().unwrap().to_owned()],
        ..NodeSettings::default()
    })
    .await
    .unwrap();
    assert!(client.bootstrapped().await);
    (ring, client)
}

fn authority() -> Authority {
    SigningKey::from_seed(&SEED).authority()
}

fn pointer(fill: u8, seq: i64) -> Pointer {
    Pointer {
        snapshot: InfoHashV2::from_bytes([fill; 32]),
        seq: Seq::new(seq).unwrap(),
    }
}

fn item(salt: &Salt, pointer: Pointer) -> SignedItem {
    SignedItem::sign_pointer(&SigningKey::from_seed(&SEED), salt, pointer).unwrap()
}

async fn look_up(client: &MainlineDht, salt: &Salt) -> LookupResult {
    client
        .get_item(&authority(), salt, &mut |_| {})
        .await
        .unwrap()
}

fn libtorrent_get(ring: &mut LibtorrentPeer, salt: &Salt) -> Value {
    ring.ask(&json!({
        "do": "dht_get", "public": authority().to_string(), "salt": salt.to_hex(),
    }))["item"]
        .clone()
}

/// What we put libtorrent reads; a lower number, and another value at the same one, never reach
/// the network.
async fn ours_to_libtorrent(release: Libtorrent, salt: Salt) {
    let (mut ring, client) = network(release).await;
    client
        .put_item(&item(&salt, pointer(0xa5, 41)))
        .await
        .unwrap();
    let lower = item(&salt, pointer(0x11, 40));
    assert!(matches!(
        client.put_item(&lower).await,
        Err(PutError::Superseded { .. })
    ));
    let other = item(&salt, pointer(0x22, 41));
    assert!(matches!(
        client.put_item(&other).await,
        Err(PutError::Conflict { .. })
    ));
    let read = libtorrent_get(&mut ring, &salt);
    assert_eq!(read["value"], "a5".repeat(32), "{read}");
    assert_eq!(read["seq"], 41);
}

/// What libtorrent puts we read; we continue its sequence and it continues ours.
async fn libtorrent_to_ours(release: Libtorrent) {
    let (mut ring, client) = network(release).await;
    let salt = Salt::new(b"daily").unwrap();
    let mut put = |fill: &str| {
        // libtorrent itself signs one more than the highest number it finds.
        ring.ask(&json!({
            "do": "dht_put", "seed": "07".repeat(32), "public": authority().to_string(),
            "salt": salt.to_hex(), "value": fill.repeat(32),
        }))["seq"]
            .clone()
    };
    assert_eq!(put("c3"), 1);
    let found = look_up(&client, &salt)
        .await
        .best
        .unwrap()
        .pointer()
        .unwrap();
    assert_eq!(found.snapshot.to_string(), "c3".repeat(32));
    assert_eq!(found.seq.get(), 1);
    client
        .put_item(&item(&salt, pointer(0xe5, 2)))
        .await
        .unwrap();
    assert_eq!(put("f6"), 3);
    let found = look_up(&client, &salt)
        .await
        .best
        .unwrap()
        .pointer()
        .unwrap();
    assert_eq!(found, pointer(0xf6, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn libtorrent_2_0_11_reads_what_we_put_without_salt() {
    ours_to_libtorrent(Libtorrent::V2_0_11, Salt::new(b"").unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn libtorrent_2_0_15_reads_what_we_put_with_salt() {
    ours_to_libtorrent(Libtorrent::V2_0_15, Salt::new(b"daily").unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn we_read_what_libtorrent_2_0_11_puts() {
    libtorrent_to_ours(Libtorrent::V2_0_11).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn we_read_what_libtorrent_2_0_15_puts() {
    libtorrent_to_ours(Libtorrent::V2_0_15).await;
}
