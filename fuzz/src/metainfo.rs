//! Torrents and magnet links.

use std::collections::HashSet;
use std::str;
use std::sync::Arc;

use bittorrent_protocol::bencode::Limits;
use bittorrent_protocol::magnet::Magnet;
use bittorrent_protocol::merkle::file_root_from_layer;
use bittorrent_protocol::metainfo::{Info, Metainfo, alias_info_hash_without_empty_keys};
use bittorrent_protocol::{InfoHashV1, InfoHashV2};

/// An info dictionary. What is accepted must keep its bytes and hashes, count its files, pieces and
/// hashes alike everywhere, and lead to safe paths only.
pub fn info(data: &[u8]) {
    let _ = alias_info_hash_without_empty_keys(data);
    if let Ok(info) = Info::parse(data, &Limits::TORRENT) {
        assert_eq!(info.raw(), data);
        check_info(&info);
        let metainfo = Metainfo::from_info(Arc::new(info));
        assert_eq!(reread(&metainfo), metainfo);
        check_magnet(&metainfo);
    }
}

/// A `.torrent` file. What is accepted must be the same after it was written, and its piece layers
/// must lead to the roots of their files.
pub fn metainfo(data: &[u8]) {
    let Ok(metainfo) = Metainfo::parse(data, &Limits::TORRENT) else {
        return;
    };
    let info = metainfo.info();
    check_info(info);
    assert_eq!(
        Info::parse(info.raw(), &Limits::TORRENT).as_ref(),
        Ok(&**info)
    );
    assert_eq!(reread(&metainfo), metainfo);
    check_magnet(&metainfo);

    let missing: HashSet<_> = metainfo.missing_layers().collect();
    let layout = info.layout();
    assert_eq!(metainfo.layers().len(), layout.files().len());
    for (number, file) in (0..).zip(layout.files()) {
        let index = layout.file_index(number).expect("a file of the layout");
        let layer = metainfo.layer(index);
        assert_eq!(
            missing.contains(&index),
            layer.is_none() && file.pieces() > 1
        );
        if let Some(layer) = layer {
            assert_eq!(layer.hashes().len(), file.pieces() as usize);
            let root = file_root_from_layer(layer.hashes(), info.piece_length());
            assert_eq!(Some(root), file.root());
        }
        // All pieces of the first files; looking at millions of them takes too long.
        for piece in file.piece_indices().take(64) {
            let known = layer.is_some() || file.pieces() == 1;
            assert_eq!(metainfo.piece_hash(piece).is_some(), known);
        }
    }
}

/// A magnet link. What is accepted must be the same after it was written.
pub fn magnet(data: &[u8]) {
    let Some(magnet) = str::from_utf8(data)
        .ok()
        .and_then(|text| text.parse::<Magnet>().ok())
    else {
        return;
    };
    assert!(magnet.v1.is_some() || magnet.v2.is_some());
    assert_eq!(magnet.hashes().is_some(), magnet.v2.is_some());
    assert_eq!(magnet.to_string().parse().as_ref(), Ok(&magnet), "{magnet}");
}

fn check_info(info: &Info) {
    let hashes = info.hashes();
    assert_eq!(hashes.v2, InfoHashV2::of_info(info.raw()));
    assert!(
        hashes
            .v1
            .is_none_or(|v1| v1 == InfoHashV1::of_info(info.raw()))
    );
    assert_eq!(hashes.v1.is_some(), info.v1_pieces().is_some());

    let layout = info.layout();
    assert_eq!(info.piece_length(), layout.piece_length());
    assert_eq!(info.files().len(), layout.files().len());
    if let Some(pieces) = info.v1_pieces() {
        assert_eq!(pieces.len(), layout.piece_count() as usize);
    }
    check_component(info.name());
    let mut paths = HashSet::new();
    for (file, span) in info.files().iter().zip(layout.files()) {
        assert_eq!(file.length(), span.length());
        assert_eq!(file.root(), span.root());
        assert_eq!(file.root().is_some(), file.length() > 0);
        assert!(!file.path().is_empty());
        file.path()
            .iter()
            .for_each(|component| check_component(component));
        assert!(
            paths.insert(file.path().join("/").to_lowercase()),
            "a path twice"
        );
    }
    for path in &paths {
        for (at, _) in path.match_indices('/') {
            assert!(!paths.contains(&path[..at]), "{path} lies below a file");
        }
    }
    assert!(!info.is_single_file() || info.files().len() == 1);
}

/// A name that is safe to create in a directory on any system.
fn check_component(name: &str) {
    assert!(!matches!(name, "" | "." | ".."), "{name:?}");
    assert!(!name.contains(['/', '\\', '\0']), "{name:?}");
    assert!(!name.chars().any(char::is_control), "{name:?}");
    assert!(name.len() <= 255, "{name:?}");
}

fn reread(metainfo: &Metainfo) -> Metainfo {
    Metainfo::parse(&metainfo.encode(), &Limits::TORRENT).expect("what was written can be read")
}

fn check_magnet(metainfo: &Metainfo) {
    let magnet = metainfo.magnet();
    assert_eq!(magnet.hashes(), Some(metainfo.info().hashes()));
    let text = magnet.to_string();
    if let Ok(read) = text.parse::<Magnet>() {
        assert_eq!(read, magnet);
    }
}
