//! Makes a file of its own from a stored ledger, for a node to open and write.
//!
//! A reflink uses no extra space and leaves the snapshot intact. On file systems without reflinks the content is
//! copied. A hard link is never used, as the node would write into content that peers download.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use file_kit::Temporary;

use crate::ledger::published::{CHUNK, Published, read_chunk};

/// The mode of a new ledger until it is handed over to the node.
const PRIVATE: u32 = 0o600;

/// How the ledger got to its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// The file shares its blocks with the snapshot until either changes.
    Reflink,
    /// The snapshot's own file was moved, and the snapshot no longer exists.
    Move,
    /// The file is a full copy.
    Copy,
    /// The file was extracted from an archive.
    Unpacked,
}

/// Makes a new file next to `target` as a reflink of `content`. Returns `None` if the file system has no reflinks.
pub(crate) fn by_reflink(content: &Path, target: &Path) -> Result<Option<Temporary>> {
    let source = open(content)?;
    let temporary = Temporary::beside(target, PRIVATE)?;
    match rustix::fs::ioctl_ficlone(temporary.file(), &source) {
        Ok(()) => Ok(Some(temporary)),
        Err(error) => {
            tracing::debug!(%error, "no reflink here");
            Ok(None)
        }
    }
}

/// Makes a new file next to `target` by copying `content`, and compares the bytes with the published hashes.
/// `progress` gets the number of bytes copied so far and returns whether to continue. Returns `None` when it did not.
pub(crate) fn by_copy(
    content: &Path,
    target: &Path,
    published: Option<&Published>,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<Option<Temporary>> {
    let mut source = open(content)?;
    let temporary = Temporary::beside(target, PRIVATE)?;
    let mut comparison = published.map(|published| published.comparison(content));
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    loop {
        let bytes = read_chunk(&mut source, content, &mut buffer)?;
        if bytes.is_empty() {
            break;
        }
        if let Some(comparison) = &mut comparison {
            comparison.add(bytes)?;
        }
        temporary
            .file()
            .write_all(bytes)
            .with_context(|| format!("cannot write {}", temporary.path().display()))?;
        done += bytes.len() as u64;
        if !progress(done) {
            return Ok(None);
        }
    }
    if let Some(comparison) = comparison {
        comparison.finish()?;
    }
    Ok(Some(temporary))
}

/// Opens a file for reading.
pub(crate) fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::path::PathBuf;

    use super::*;

    fn sealed(dir: &Path) -> PathBuf {
        let content = dir.join("content.ldb");
        let bytes: Vec<u8> = (0..3_000_001u32).map(|i| (i * 7 % 251) as u8).collect();
        fs::write(&content, bytes).unwrap();
        fs::set_permissions(&content, fs::Permissions::from_mode(0o444)).unwrap();
        content
    }

    fn only_these(dir: &Path, names: &[&str]) {
        let mut found: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        assert_eq!(found, names);
    }

    #[test]
    fn a_copy_is_equal_and_another_file() {
        let temp = tempfile::tempdir().unwrap();
        let content = sealed(temp.path());
        let target = temp.path().join("data.ldb");
        fs::write(&target, "an old one").unwrap();
        let mut last = 0;
        let made = by_copy(&content, &target, None, &mut |bytes| {
            last = bytes;
            true
        });
        let made = made.unwrap().unwrap();
        assert_eq!(last, 3_000_001);
        assert_eq!(fs::read(&target).unwrap(), b"an old one");
        assert_eq!(fs::read(made.path()).unwrap(), fs::read(&content).unwrap());
        made.put(&target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), fs::read(&content).unwrap());
        let inode = |path: &Path| path.metadata().unwrap().ino();
        assert_ne!(inode(&target), inode(&content));
        only_these(temp.path(), &["content.ldb", "data.ldb"]);
    }

    #[test]
    fn a_stopped_copy_leaves_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let content = sealed(temp.path());
        let target = temp.path().join("data.ldb");
        let made = by_copy(&content, &target, None, &mut |_| false);
        assert!(made.unwrap().is_none());
        only_these(temp.path(), &["content.ldb"]);
    }

    #[test]
    fn a_reflink_is_equal_or_leaves_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let content = sealed(temp.path());
        let target = temp.path().join("data.ldb");
        let made = by_reflink(&content, &target).unwrap();
        if let Some(made) = &made {
            assert_eq!(fs::read(made.path()).unwrap(), fs::read(&content).unwrap());
        } else {
            let wanted = std::env::var_os("REQUIRE_REFLINKS").is_some();
            assert!(!wanted, "no reflinks in {}", temp.path().display());
            // The test harness hides what `eprintln!` writes in a test that passes.
            let text =
                b"a_reflink_is_equal_or_leaves_nothing: equality LEFT OUT, no reflinks in TMPDIR\n";
            std::io::Write::write_all(&mut std::io::stderr(), text).unwrap();
        }
        drop(made);
        only_these(temp.path(), &["content.ldb"]);
    }
}
