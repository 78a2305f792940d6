//! Which file of a torrent is the ledger.

use bittorrent_protocol::metainfo::{File, Info};

use crate::layout::LEDGER;

/// Returns the path of the file of a torrent that is the ledger or its archive: the only file, or in a directory the
/// only one named `data.ldb`, or else the only one with the suffix of a ledger or an archive. Others, such as a
/// README, are ignored.
///
/// Returns `None` if no file, or more than one, is a candidate. The components of the path are safe file names by
/// construction.
pub fn ledger_file(info: &Info) -> Option<&[String]> {
    if info.is_single_file() {
        return Some(info.files().first()?.path());
    }
    let paths = || info.files().iter().map(File::path);
    let ends = |path: &[String], end: &str| path.last().is_some_and(|name| name.ends_with(end));
    let mut ledgers = paths().filter(|path| path.last().is_some_and(|name| name == LEDGER));
    if let Some(ledger) = ledgers.next() {
        return ledgers.next().is_none().then_some(ledger);
    }
    let suffixes = [".ldb", ".7z", ".zst"];
    let mut others = paths().filter(|path| suffixes.iter().any(|end| ends(path, end)));
    let other = others.next()?;
    others.next().is_none().then_some(other)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bittorrent_protocol::PieceLength;
    use bittorrent_protocol::metainfo::{HashedContent, MetainfoBuilder};

    use super::*;
    use crate::snapshot_dir::SnapshotDir;

    #[test]
    fn a_directory_with_one_ledger_in_it_is_understood() {
        let content = || HashedContent {
            length: 1,
            root: Some(bittorrent_protocol::MerkleHash::from_bytes([1; 32])),
            layer: Vec::new(),
            v1_pieces: Vec::new(),
            executable: false,
        };
        for (files, found) in [
            (&["README", "data.ldb"][..], Some("data.ldb")),
            (&["Nano/data.ldb", "Nano/peers.ldb"], Some("Nano/data.ldb")),
            (&["README", "Nano_64.7z"], Some("Nano_64.7z")),
            (&["README", "data.tar.zst"], Some("data.tar.zst")),
            (&["README", "ledger.ldb"], Some("ledger.ldb")),
            (&["a/data.ldb", "b/data.ldb"], None),
            (&["a.7z", "b.7z"], None),
            (&["README", "LICENSE"], None),
        ] {
            let builder = MetainfoBuilder::new("daily", PieceLength::MIN);
            let meta = files.iter().fold(builder, |builder, path| {
                let path = path.split('/').map(str::to_owned).collect();
                builder.file(path, content())
            });
            let meta = meta.build().unwrap();
            let ledger = ledger_file(meta.info()).map(|path| path.join("/"));
            assert_eq!(ledger.as_deref(), found, "{files:?}");
            let plain = found.filter(|found| found.ends_with(".ldb"));
            let path = plain.map(|path| Path::new("d/content/daily").join(path));
            let dir = SnapshotDir::at("d");
            assert_eq!(dir.plain_ledger(meta.info()), path, "{files:?}");
        }
    }
}
