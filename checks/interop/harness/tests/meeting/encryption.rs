//! Message Stream Encryption.

use bittorrent_session::{Encryption, EncryptionPolicy, RateLimits, SessionConfig};
use interop_harness::Libtorrent;
use serde_json::{Value, json};

use super::{NOTHING, World, address, completed, config, encryption_of, whole};

const FORCED: u8 = 0;
const ENABLED: u8 = 1;
const DISABLED: u8 = 2;

const LEVEL_PLAIN: u8 = 1;
const LEVEL_RC4: u8 = 2;
const LEVEL_BOTH: u8 = 3;

/// Libtorrent's policy in both directions and its levels; ours; and the expected result.
const CASES: [(u8, u8, EncryptionPolicy, Encryption); 7] = [
    (
        DISABLED,
        LEVEL_BOTH,
        EncryptionPolicy::PreferPlain,
        Encryption::None,
    ),
    (ENABLED, LEVEL_BOTH, EncryptionPolicy::Off, Encryption::None),
    (
        ENABLED,
        LEVEL_BOTH,
        EncryptionPolicy::Require,
        Encryption::Rc4,
    ),
    (
        FORCED,
        LEVEL_PLAIN,
        EncryptionPolicy::PreferPlain,
        Encryption::Handshake,
    ),
    (
        FORCED,
        LEVEL_RC4,
        EncryptionPolicy::PreferPlain,
        Encryption::Rc4,
    ),
    (
        FORCED,
        LEVEL_BOTH,
        EncryptionPolicy::PreferPlain,
        Encryption::Handshake,
    ),
    (
        FORCED,
        LEVEL_BOTH,
        EncryptionPolicy::Require,
        Encryption::Rc4,
    ),
];

fn settings(policy: u8, level: u8) -> Value {
    json!({"in_enc_policy": policy, "out_enc_policy": policy, "allowed_enc_level": level})
}

fn ours(encryption: EncryptionPolicy) -> SessionConfig {
    SessionConfig {
        encryption,
        rates: NOTHING,
        ..config()
    }
}

async fn we_dial(release: Libtorrent) {
    for (number, (policy, level, encryption, expected)) in CASES.into_iter().enumerate() {
        let world = World::new(release, number % 2 == 1);
        let (seed, _) = world.seed("127.0.0.1:0", &settings(policy, level));
        let (session, torrent) = world.fetch(ours(encryption)).await;
        torrent.add_peers(&[seed.address()]).await;
        let found = encryption_of(&torrent).await;
        assert_eq!(found, expected, "{policy} {level} {encryption:?}");
        session
            .handle()
            .set_rate_limits(RateLimits::default())
            .await;
        whole(&torrent).await;
        world.assert_ours();
        session.shutdown().await;
    }
}

async fn libtorrent_dials(release: Libtorrent) {
    for (number, (policy, level, encryption, expected)) in CASES.into_iter().enumerate() {
        let world = World::new(release, number % 2 == 0);
        let (session, torrent) = world.serve(ours(encryption)).await;
        let (mut leech, id, place) = world.leech("127.0.0.1:0", &settings(policy, level));
        leech.connect(id, address(&session));
        let found = encryption_of(&torrent).await;
        assert_eq!(found, expected, "{policy} {level} {encryption:?}");
        session
            .handle()
            .set_rate_limits(RateLimits::default())
            .await;
        completed(leech, id).await;
        world.assert_same(&place.join("content"));
        session.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn we_dial_libtorrent_2_0_11() {
    we_dial(Libtorrent::V2_0_11).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn we_dial_libtorrent_2_0_15() {
    we_dial(Libtorrent::V2_0_15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn libtorrent_2_0_11_dials_us() {
    libtorrent_dials(Libtorrent::V2_0_11).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn libtorrent_2_0_15_dials_us() {
    libtorrent_dials(Libtorrent::V2_0_15).await;
}
