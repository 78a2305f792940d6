//! By a tracker, over HTTP and over UDP.

use bittorrent_session::{Session, TorrentHandle};
use interop_harness::Libtorrent;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::tracker::Tracker;
use super::{World, completed, config, whole};

async fn tracker(http: bool) -> Tracker {
    if http {
        Tracker::http().await
    } else {
        Tracker::udp().await
    }
}

/// Announces our torrent until the token is cancelled.
fn announce(
    session: &Session,
    torrent: &TorrentHandle,
    tracker: &Tracker,
) -> (CancellationToken, tokio::task::JoinHandle<()>) {
    let swarms = vec![torrent.id().v2.truncated()];
    let announcer = session.announcer(tracker.url.parse().unwrap(), torrent, swarms);
    let stop = CancellationToken::new();
    let task = tokio::spawn(announcer.run(stop.clone()));
    (stop, task)
}

async fn we_learn(release: Libtorrent, http: bool) {
    let tracker = tracker(http).await;
    let world = World::new(release, false);
    let (mut seed, id) = world.seed("127.0.0.1:0", &json!({}));
    seed.ask(&json!({"do": "announce", "id": id, "tracker": tracker.url}));
    tracker.heard().await;
    let (session, torrent) = world.fetch(config()).await;
    let (stop, task) = announce(&session, &torrent, &tracker);
    whole(&torrent).await;
    world.assert_ours();
    stop.cancel();
    task.await.unwrap();
    session.shutdown().await;
}

async fn libtorrent_learns(release: Libtorrent, http: bool) {
    let tracker = tracker(http).await;
    let world = World::new(release, false);
    let (session, torrent) = world.serve(config()).await;
    let (stop, task) = announce(&session, &torrent, &tracker);
    tracker.heard().await;
    let (mut leech, id, place) = world.leech("127.0.0.1:0", &json!({}));
    leech.ask(&json!({"do": "announce", "id": id, "tracker": tracker.url}));
    completed(leech, id).await;
    world.assert_same(&place.join("content"));
    stop.cancel();
    task.await.unwrap();
    session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn we_hear_of_libtorrent_over_http() {
    for release in Libtorrent::ALL {
        we_learn(release, true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn we_hear_of_libtorrent_over_udp() {
    for release in Libtorrent::ALL {
        we_learn(release, false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn libtorrent_hears_of_us_over_http() {
    for release in Libtorrent::ALL {
        libtorrent_learns(release, true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn libtorrent_hears_of_us_over_udp() {
    for release in Libtorrent::ALL {
        libtorrent_learns(release, false).await;
    }
}
