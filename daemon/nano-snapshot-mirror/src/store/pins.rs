//! `pin` and `unpin`: a mark beside a held snapshot, `pinned`, that keeps it from being removed.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use bittorrent_protocol::InfoHashV2;
use service_kit::output::outln;

use crate::cli::PinArgs;
use crate::config::Config;
use crate::store::catalogue;
use crate::store::data_dir::{DataDir, sync_dir, write_atomically};

/// Whether the snapshot in `dir` is to be kept whatever comes.
pub(crate) fn is_pinned(dir: &Path) -> bool {
    place(dir).exists()
}

/// Pins a held snapshot, or no longer; says whether that changed anything. Durable when it returns.
///
/// # Errors
///
/// When the snapshot is not held, or the mark cannot be written.
pub(crate) fn set(data: &DataDir, id: InfoHashV2, pinned: bool) -> Result<bool> {
    let _lock = data.lock()?;
    let dir = data.snapshot(id);
    if !catalogue::is_created(&dir) {
        bail!("{id} is not held in {}", data.root().display());
    }
    if is_pinned(&dir) == pinned {
        return Ok(false);
    }
    let mark = place(&dir);
    if pinned {
        write_atomically(&mark, b"")?;
    } else {
        match std::fs::remove_file(&mark) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", mark.display()));
            }
            _ => sync_dir(&dir)?,
        }
    }
    Ok(true)
}

/// `pin ID` and `unpin ID`.
pub(crate) fn run(args: &PinArgs, pinned: bool, config: &Config) -> Result<()> {
    let data = DataDir::existing(config.data_dir.as_deref())?;
    let id = find(&data, &args.snapshot)?;
    let changed = set(&data, id, pinned)?;
    let again = if changed { "" } else { " already" };
    let what = if pinned { "pinned" } else { "not pinned" };
    outln!("{id}: {what}{again}");
    Ok(())
}

/// The held snapshot whose hash begins like this.
pub(crate) fn find(data: &DataDir, prefix: &str) -> Result<InfoHashV2> {
    let prefix = prefix.to_ascii_lowercase();
    let mut found: Vec<InfoHashV2> = data
        .snapshot_ids()?
        .into_iter()
        .filter(|id| id.to_string().starts_with(&prefix))
        .collect();
    found.sort();
    match found[..] {
        [] => bail!(
            "no snapshot that begins with {prefix:?} is held in {}; status lists those that are",
            data.root().display()
        ),
        [one] => Ok(one),
        [one, other, ..] => {
            bail!("{prefix:?} may mean {one} or {other}: give more of the hash")
        }
    }
}

fn place(dir: &Path) -> PathBuf {
    dir.join("pinned")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> InfoHashV2 {
        InfoHashV2::from_bytes([byte; 32])
    }

    fn held(bytes: &[u8]) -> (tempfile::TempDir, DataDir) {
        let temp = tempfile::tempdir().unwrap();
        let data = DataDir::create(Some(temp.path())).unwrap();
        for byte in bytes {
            let dir = data.snapshot(id(*byte));
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join("snapshot.torrent"), b"x").unwrap();
        }
        (temp, data)
    }

    #[test]
    fn a_pin_is_set_and_taken_away() {
        let (_temp, data) = held(&[1]);
        let pinned = || is_pinned(&data.snapshot(id(1)));
        assert!(!pinned() && !set(&data, id(1), false).unwrap());
        assert!(set(&data, id(1), true).unwrap() && pinned());
        assert!(!set(&data, id(1), true).unwrap() && pinned());
        assert!(set(&data, id(1), false).unwrap() && !pinned());
        let error = set(&data, id(2), true).unwrap_err().to_string();
        assert!(error.contains("is not held"), "{error}");
    }

    #[test]
    fn a_snapshot_is_named_by_as_much_of_its_hash_as_it_takes() {
        let (_temp, data) = held(&[0x11, 0x12, 0x20]);
        assert_eq!(find(&data, "2").unwrap(), id(0x20));
        assert_eq!(find(&data, "121").unwrap(), id(0x12));
        assert_eq!(find(&data, &id(0x11).to_string()).unwrap(), id(0x11));
        let error = find(&data, "1").unwrap_err().to_string();
        assert!(error.contains("give more of the hash"), "{error}");
        let error = find(&data, "zz").unwrap_err().to_string();
        assert!(error.contains("status lists"), "{error}");
    }
}
