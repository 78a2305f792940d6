//! Compares files byte by byte.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// Bytes compared at a time: one block of a torrent, so that blocks can be counted.
const BLOCK: usize = bittorrent_protocol::BLOCK_LEN as usize;

/// Fails unless both files have the same bytes. Returns their length.
pub(crate) fn same(left: &Path, right: &Path) -> Result<u64> {
    let difference = compare(left, right)?;
    if let Some(offset) = difference.first {
        bail!(
            "{} and {} differ from byte {offset}",
            left.display(),
            right.display()
        );
    }
    Ok(difference.length)
}

/// The differences of two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Difference {
    /// The length of the longer file in bytes.
    pub(crate) length: u64,
    /// The bytes of the longer file in blocks that differ.
    pub(crate) changed: u64,
    /// The offset of the first byte that differs.
    pub(crate) first: Option<u64>,
}

/// Compares two files block by block at the same offsets.
pub(crate) fn compare(left: &Path, right: &Path) -> Result<Difference> {
    let mut files = [open(left)?, open(right)?];
    let mut difference = Difference {
        length: 0,
        changed: 0,
        first: None,
    };
    let (mut a, mut b) = (vec![0; BLOCK], vec![0; BLOCK]);
    loop {
        let [in_a, in_b] = &mut files;
        let a = fill(in_a, &mut a).with_context(|| format!("cannot read {}", left.display()))?;
        let b = fill(in_b, &mut b).with_context(|| format!("cannot read {}", right.display()))?;
        let longer = a.len().max(b.len()) as u64;
        if longer == 0 {
            return Ok(difference);
        }
        if a != b {
            let equal = a.iter().zip(b).take_while(|(a, b)| a == b).count() as u64;
            difference.first.get_or_insert(difference.length + equal);
            difference.changed += longer;
        }
        difference.length += longer;
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}

/// Fills the buffer, or reads up to the end of the file.
fn fill<'a>(file: &mut File, buffer: &'a mut [u8]) -> std::io::Result<&'a [u8]> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(&buffer[..filled])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found_and_counted() {
        let temp = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = temp.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let bytes = vec![7; 3 * BLOCK + 5];
        let original = write("original", &bytes);
        assert_eq!(
            same(&original, &write("copy", &bytes)).unwrap(),
            bytes.len() as u64
        );

        let mut changed = bytes.clone();
        changed[BLOCK + 1] = 8;
        let difference = compare(&original, &write("changed", &changed)).unwrap();
        assert_eq!(difference.first, Some(BLOCK as u64 + 1));
        assert_eq!(
            (difference.changed, difference.length),
            (BLOCK as u64, bytes.len() as u64)
        );

        let shorter = write("shorter", &bytes[..bytes.len() - 1]);
        assert_eq!(
            compare(&original, &shorter).unwrap().first,
            Some(bytes.len() as u64 - 1)
        );
        assert!(same(&shorter, &original).is_err());
    }
}
