//! The harness itself: two libtorrent sessions move a file between them, for every release.
//! When this fails, fix the harness before believing an interop test.

use std::fs;
use std::time::Duration;

use interop_harness::{Libtorrent, LibtorrentPeer, TorrentKind};

#[test]
fn one_session_downloads_what_another_seeds() {
    for release in Libtorrent::ALL {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(&from).unwrap();
        fs::create_dir_all(&to).unwrap();
        let content: Vec<u8> = (0..300_000_u32).map(|n| (n * 7 + (n >> 8)) as u8).collect();
        fs::write(from.join("f"), &content).unwrap();

        let mut seed = LibtorrentPeer::start(release);
        let torrent = dir.path().join("f.torrent");
        seed.make(&from.join("f"), &torrent, 32_768, TorrentKind::V2)
            .unwrap();
        seed.seed(&torrent, &from);

        let mut leech = LibtorrentPeer::start(release);
        let id = leech.download(&torrent, &to);
        leech.connect(id, seed.address());
        leech.wait_complete(id, Duration::from_secs(30));
        assert_eq!(fs::read(to.join("f")).unwrap(), content, "{release:?}");
    }
}
