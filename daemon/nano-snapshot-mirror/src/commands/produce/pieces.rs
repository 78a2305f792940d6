//! Checks the piece length against the size of the content. The info dictionary has a hash of every piece, and peers
//! only transfer info dictionaries up to a maximum size.

use anyhow::{Result, bail};
use bittorrent_protocol::{MAX_INFO_LEN, PieceLength};

use crate::text::{Bytes, Count};

/// The bytes of a v1 piece hash (BEP 3), which a hybrid info dictionary has for every piece. The v2 piece hashes are
/// not part of the info dictionary (BEP 52, "piece layers").
const PIECE_HASH: u64 = 20;

/// An upper bound for the rest of an info dictionary: names, the file tree, and the ledger's properties.
const REST: u64 = 64 << 10;

/// Refuses a piece length that divides content of `length` bytes into too many pieces. The error names the smallest
/// length that works.
pub(super) fn refuse_too_short(piece_length: PieceLength, length: u64) -> Result<()> {
    if fits(piece_length, length) {
        return Ok(());
    }
    let pieces = length.div_ceil(piece_length.bytes().into());
    let smallest = lengths().find(|longer| fits(*longer, length));
    bail!(
        "--piece-length {} cuts {} into {} pieces, and no mirror could fetch the info dictionary with their \
         hashes: peers are asked for {} of it at most; {}",
        Bytes(piece_length.bytes().into()),
        Bytes(length),
        Count(pieces),
        Bytes(MAX_INFO_LEN.into()),
        match smallest {
            Some(smallest) => format!(
                "the smallest that fits is --piece-length {}KiB",
                smallest.bytes() >> 10
            ),
            None => "no piece length fits".to_owned(),
        }
    )
}

fn fits(piece_length: PieceLength, length: u64) -> bool {
    let pieces = length.div_ceil(piece_length.bytes().into());
    pieces.saturating_mul(PIECE_HASH).saturating_add(REST) <= u64::from(MAX_INFO_LEN)
}

/// Returns all piece lengths, shortest first.
fn lengths() -> impl Iterator<Item = PieceLength> {
    (0..u32::BITS).filter_map(|bits| PieceLength::new(1 << bits).ok())
}

#[cfg(test)]
mod tests {
    use bittorrent_store::create::{Cut, Draft, Shape};

    use snapshot_store::SnapshotDir;

    use super::*;

    #[test]
    fn a_piece_length_that_nobody_could_fetch_is_refused() {
        let refused = |piece_length, length| {
            let piece_length = PieceLength::new(piece_length).unwrap();
            refuse_too_short(piece_length, length).map_err(|error| error.to_string())
        };
        refused(16 << 10, 3 << 30).unwrap();
        let error = refused(16 << 10, 3_700_000_000).unwrap_err();
        for part in [
            "16.0 KiB",
            "225,831 pieces",
            "4.00 MiB",
            "--piece-length 32KiB",
        ] {
            assert!(error.contains(part), "no {part:?} in {error}");
        }
        // The size of a ledger of the live network.
        refused(4 << 20, 121 << 30).unwrap();
        let error = refused(512 << 10, 121 << 30).unwrap_err();
        assert!(error.contains("--piece-length 1024KiB"), "{error}");
        refused(1 << 20, 121 << 30).unwrap();
        let error = refused(1 << 28, u64::MAX).unwrap_err();
        assert!(error.contains("no piece length fits"), "{error}");
    }

    #[test]
    fn the_rest_of_an_info_dictionary_is_shorter_than_assumed() {
        let temp = tempfile::tempdir().unwrap();
        let cut = Cut {
            piece_length: PieceLength::MIN,
            hybrid: true,
        };
        let name = "n".repeat(200);
        let io = SnapshotDir::io();
        let mut draft = Draft::begin(temp.path(), &name, Shape::SingleFile, cut, io).unwrap();
        let pieces = 100;
        let content = vec![1; pieces * PieceLength::MIN.bytes() as usize];
        draft
            .add_file(&[], &mut &content[..], &mut |_| true)
            .unwrap();
        let store = draft
            .finish(|torrent| torrent.snapshot(vec![b'x'; 1000]))
            .unwrap();
        let length = store.info().raw().len() as u64;
        assert!(length >= PIECE_HASH * pieces as u64);
        assert!(length < PIECE_HASH * pieces as u64 + REST / 8, "{length}");
    }
}
