//! Archives of ledgers.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use ledger_archive::{ExtractError, ExtractOptions, extract_file};
use tempfile::TempDir;

/// More is refused, so that an input cannot fill the disk.
const LIMIT: u64 = 1 << 20;
const OLD: &[u8] = b"yesterday";

/// A whole archive, in any layout. What is refused leaves nothing behind and an earlier target as
/// it was; what is extracted has the length reported.
pub fn archive(data: &[u8]) {
    let bench = Bench::new();
    bench.extract(data);
}

/// A tar file, which is compressed first: its own rules are behind checksums otherwise. The first byte
/// chooses the frames; however they are cut, the outcome must be the same.
pub fn archive_tar(data: &[u8]) {
    let Some((&choice, tar)) = data.split_first() else {
        return;
    };
    let bench = Bench::new();
    let cut = (usize::from(choice) + 1) * 37;
    let whole = bench.extract(&frames(tar, usize::MAX));
    let parts = bench.extract(&frames(tar, cut));
    assert_eq!(whole, parts);
    if let Some(ledger) = whole {
        let mut at = tar.windows(ledger.len().max(1));
        assert!(
            ledger.is_empty() || at.any(|window| window == ledger),
            "the ledger is not what the tar file contains"
        );
    }
}

fn frames(content: &[u8], len: usize) -> Vec<u8> {
    let mut frames: Vec<u8> = content
        .chunks(len)
        .flat_map(|part| zstd::bulk::compress(part, 1).expect("memory for a frame"))
        .collect();
    if frames.is_empty() {
        frames = zstd::bulk::compress(&[], 1).expect("memory for a frame");
    }
    frames
}

struct Bench {
    dir: TempDir,
    target: PathBuf,
}

impl Bench {
    fn new() -> Self {
        // Syncing costs nothing there.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let dir = dir.expect("a temporary directory");
        let target = dir.path().join("data.ldb");
        Self { dir, target }
    }

    /// The ledger, or `None` if the archive was refused.
    fn extract(&self, archive: &[u8]) -> Option<Vec<u8>> {
        let path = self.dir.path().join("archive");
        fs::write(&path, archive).expect("a temporary file");
        fs::write(&self.target, OLD).expect("a temporary file");
        let options = ExtractOptions::new(LIMIT)
            .with_max_dictionary_bytes(LIMIT)
            .with_checkpoint_bytes(1000);
        let going = |_| ControlFlow::Continue(());
        let ledger = match extract_file(&path, &self.target, options, going) {
            Ok(extracted) => {
                assert_eq!(self.read(), OLD);
                let report = extracted.install().expect("a rename");
                let ledger = self.read();
                assert_eq!(report.ledger_bytes, ledger.len() as u64);
                assert!(report.ledger_bytes <= LIMIT);
                Some(ledger)
            }
            Err(ExtractError::Refused { .. }) => {
                assert_eq!(self.read(), OLD);
                None
            }
            Err(error) => panic!("this machine failed: {error:?}"),
        };
        let left = fs::read_dir(self.dir.path()).expect("a temporary directory");
        assert_eq!(left.count(), 2, "something is left behind");
        ledger
    }

    fn read(&self) -> Vec<u8> {
        fs::read(&self.target).expect("the target")
    }
}
