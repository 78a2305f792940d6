//! How a verification runs: sorting on disk, progress, stopping, sampling.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[test]
fn sorting_on_disk_finds_the_same() {
    let (dir, path) = edited(|edit| {
        let (key, _) = edit.rows("pending").swap_remove(7);
        edit.delete("pending", &key);
        edit.flip("blocks", 1 + 144, 1, inner_state);
    });
    let report = |memory| {
        let options = VerifyOptions {
            memory,
            scratch: Some(dir.path()),
            ..VerifyOptions::default()
        };
        verify(&path, Level::L3, &options).unwrap()
    };
    assert_eq!(report(100_000), report(256 << 20));
    assert_eq!(report(0), report(256 << 20));
    // The lock file and the ledger.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn the_caller_sees_progress_and_can_stop_anywhere() {
    let (_dir, path) = edited(|_| ());
    let stages = Mutex::new(Vec::new());
    let tell = |progress: StageProgress| {
        assert!(
            progress.total == 0 || progress.done <= progress.total,
            "{progress:?}"
        );
        let mut stages = stages.lock().unwrap();
        if stages.last() != Some(&progress.stage) {
            stages.push(progress.stage);
        }
    };
    let options = VerifyOptions {
        progress: Some(&tell),
        ..VerifyOptions::default()
    };
    verify(&path, Level::L3, &options).unwrap();
    let seen = stages.into_inner().unwrap();
    assert_eq!(
        seen,
        [
            "accounts",
            "receivables",
            "blocks",
            "chains",
            "receivables",
            "matching"
        ]
    );
    for stage in seen {
        let stop = AtomicBool::new(false);
        let tell = |progress: StageProgress| {
            if progress.stage == stage {
                stop.store(true, Ordering::Relaxed);
            }
        };
        let options = VerifyOptions {
            progress: Some(&tell),
            cancel: Some(&stop),
            ..VerifyOptions::default()
        };
        let error = verify(&path, Level::L3, &options).unwrap_err();
        assert!(
            matches!(error, VerifyError::Cancelled),
            "{stage}: {error:?}"
        );
    }
}

#[test]
fn the_same_seed_takes_the_same_sample() {
    let (_dir, path) = edited(|edit| {
        for (key, mut row) in edit.rows("blocks") {
            if inner_state(&row) && key[0] < 8 {
                row[150] ^= 1;
                edit.put("blocks", &key, &row);
            }
        }
    });
    let report = |seed| {
        let options = VerifyOptions {
            sample: Sample {
                seed,
                accounts: 20,
                depth: 4,
            },
            ..VerifyOptions::default()
        };
        verify(&path, Level::L2, &options).unwrap()
    };
    assert_eq!(report(Some(1)), report(Some(1)));
    assert_ne!(report(Some(1)), report(Some(2)));
    assert_ne!(report(None), report(None));
}
