//! An info dictionary that is longer than what is fetched from peers: the mirror says so.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::sync::Arc;

use bittorrent_protocol::{MAX_INFO_LEN, PieceLength};
use bittorrent_store::TorrentStore;
use bittorrent_store::create::{Cut, Draft, Shape};
use common::{Running, World};

/// A snapshot with `length` bytes said of it in its info dictionary.
fn snapshot(world: &World, length: usize) -> TorrentStore {
    let cut = Cut {
        piece_length: PieceLength::MIN,
        hybrid: true,
    };
    let dir = world.path("seed");
    let io = Arc::new(bittorrent_store::RealIo);
    let mut draft = Draft::begin(&dir, "data.ldb", Shape::SingleFile, cut, io).unwrap();
    draft
        .add_file(&[], &mut &[7_u8; 20_000][..], &mut |_| true)
        .unwrap();
    draft
        .finish(|torrent| torrent.snapshot(vec![b'x'; length]))
        .unwrap()
}

#[test]
fn metadata_that_is_too_long_is_a_problem_that_is_said() {
    let world = World::new();
    let store = snapshot(&world, MAX_INFO_LEN as usize);
    let id = store.info().hashes().v2;
    let (_session, address) = world.seed(store);
    world.put(1, id);
    let mut mirror = world.mirror("m");
    let mut mirror = Running::start(mirror.args(["--seed-peer", &address.to_string()]));
    let problem = || {
        let status = world.status("m");
        let problems = status["mirror"]["problems"].as_array()?.clone();
        problems
            .into_iter()
            .find(|problem| problem["code"] == "metadata-too-long")
    };
    mirror.until("the problem", || problem().is_some());
    let text = problem().unwrap()["text"].as_str().unwrap().to_owned();
    for part in [&id.to_string(), "at most 4,194,304", "--piece-length"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    let warned = |stderr: &str| stderr.matches("WARN a peer offers").count();
    let stderr = mirror.stderr_path();
    mirror.until("the warning", || {
        warned(&std::fs::read_to_string(&stderr).unwrap()) > 0
    });
    let said = mirror.stop().succeeded();
    assert_eq!(warned(&said.stderr), 1, "{}", said.stderr);
}
