//! Over IPv6 loopback.

use std::net::Ipv6Addr;

use bittorrent_session::SessionConfig;
use interop_harness::Libtorrent;
use serde_json::json;

use super::{World, address, completed, config, whole};

fn ours() -> SessionConfig {
    SessionConfig {
        listen: vec![(Ipv6Addr::LOCALHOST, 0).into()],
        ..config()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn we_download_from_libtorrent() {
    for release in Libtorrent::ALL {
        let world = World::new(release, false);
        let (seed, _) = world.seed("[::1]:0", &json!({}));
        let (session, torrent) = world.fetch(ours()).await;
        torrent.add_peers(&[seed.address()]).await;
        whole(&torrent).await;
        world.assert_ours();
        session.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn libtorrent_downloads_from_us() {
    for release in Libtorrent::ALL {
        let world = World::new(release, false);
        let (session, _torrent) = world.serve(ours()).await;
        let (mut leech, id, place) = world.leech("[::1]:0", &json!({}));
        leech.connect(id, address(&session));
        completed(leech, id).await;
        world.assert_same(&place.join("content"));
        session.shutdown().await;
    }
}
