//! Reads every torrent of libtorrent's parser tests and compares the outcome with what
//! libtorrent's tests assert about it: `tests/data/catalogue.json`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;
use std::path::PathBuf;

use bittorrent_protocol::bencode::{BencodeError, FlawKind, Limits};
use bittorrent_protocol::metainfo::{
    Inconsistency, InfoError, LayerError, Metainfo, MetainfoError, PathError, TreeError, V1Error,
};
use bittorrent_protocol::{LayoutError, MerkleHash};
use serde_json::Value;

fn data(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/data", name]
        .iter()
        .collect()
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(data("torrents").join(name)).unwrap()
}

fn catalogue() -> Vec<Value> {
    let text = std::fs::read_to_string(data("catalogue.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_default()
}

/// Malformed torrents, each with the error that names its defect.
fn is_expected(file: &str, error: &MetainfoError) -> bool {
    use InfoError as I;
    use MetainfoError as M;
    match file {
        // v1 only, and malformed: never `V1Only`.
        "duplicate_files2" => {
            matches!(
                error,
                M::Info(I::V1(V1Error::Paths(PathError::TooManyEqual)))
            )
        }
        "invalid_info" => matches!(error, M::MissingInfo),
        "invalid_name" | "no_name" => matches!(error, M::Info(I::MissingName)),
        "invalid_path_list" => matches!(error, M::Info(I::V1(V1Error::Path { index: 0 }))),
        "invalid_symlink" => matches!(error, M::Info(I::V1(V1Error::Path { index: 1 }))),
        "missing_path_list" => matches!(error, M::Info(I::V1(V1Error::MissingPath { .. }))),
        "invalid_piece_len" | "missing_piece_len" => {
            matches!(error, M::Info(I::PieceLength { found: None }))
        }
        "negative_piece_len" => {
            matches!(
                error,
                M::Info(I::PieceLength {
                    found: Some(-16384)
                })
            )
        }
        "negative_file_size" | "negative_size" => {
            matches!(error, M::Info(I::V1(V1Error::Length { .. })))
        }
        "zero" | "zero2" => matches!(error, M::Info(I::V1(V1Error::Empty))),
        // v2 and hybrids.
        "v2_bad_file_alignment" => matches!(
            error,
            M::Info(I::Inconsistent(Inconsistency::Offset { .. }))
        ),
        "v2_deep_recursion" => matches!(error, M::Bencode(BencodeError::TooDeep { .. })),
        "v2_empty_filename" => {
            matches!(error, M::Info(I::FileTree(TreeError::EmptyName { path })) if path.is_empty())
        }
        "v2_invalid_file" => matches!(
            error,
            M::Info(I::FileTree(TreeError::NotADictionary { path })) if path == "test64K/length"
        ),
        "v2_invalid_piece_layer_size" => matches!(
            error,
            M::Layer {
                source: LayerError::Count {
                    found: 32,
                    expected: 16
                },
                ..
            }
        ),
        "v2_large_file" => matches!(
            error,
            M::Info(I::FileTree(TreeError::Length { path })) if path == "test1MB"
        ),
        "v2_large_offset" => matches!(
            error,
            M::Info(I::Layout(LayoutError::TooManyPieces { .. }) | I::FileTree(_))
        ),
        "v2_mismatching_metadata" => matches!(
            error,
            M::Info(I::Inconsistent(Inconsistency::Path { v1, v2 }))
                if v1 == "test1MB" && v2 == "/est1MB"
        ),
        "v2_non_multiple_piece_layer" | "v2_piece_layer_invalid_file_hash" => {
            matches!(error, M::MalformedLayers)
        }
        "v2_overlong_integer" => matches!(
            error,
            M::Info(I::Flawed {
                kind: FlawKind::LeadingZero,
                ..
            })
        ),
        "v2_unknown_piece_layer_entry" => matches!(error, M::UnknownLayer { .. }),
        _ => false,
    }
}

/// Paths that libtorrent 2.0.15 gives the files, pad files left out. The catalogue lists only the
/// first few files of each torrent.
fn expected_paths(row: &Value) -> Vec<&str> {
    let paths = row["paths_2_0_15"].as_array().unwrap();
    let paths = paths.iter().map(|path| path.as_str().unwrap());
    paths.filter(|path| !path.contains("/.pad/")).collect()
}

#[test]
fn every_torrent_has_the_outcome_in_the_catalogue() {
    let catalogue = catalogue();
    let mut seen = BTreeSet::new();
    for row in &catalogue {
        let file = text(row, "file");
        assert!(seen.insert(file.to_owned()), "{file} is listed twice");
        let bytes = read(file);
        assert_eq!(bytes.len() as u64, row["bytes"].as_u64().unwrap(), "{file}");
        let stem = file.strip_suffix(".torrent").unwrap();
        let result = Metainfo::parse(&bytes, &Limits::TORRENT);
        match (text(row, "expect"), text(row, "version"), result) {
            ("ok", "v1", Err(MetainfoError::Info(InfoError::V1Only { name, hash }))) => {
                assert_eq!(hash.to_string(), text(row, "info_sha1"), "{file}");
                assert_eq!(name, text(&row["parsed_by_2_0_8"], "name"), "{file}");
            }
            ("ok", "v2" | "hybrid", Ok(metainfo)) => check_parsed(row, &metainfo),
            ("error", _, Err(error)) => assert!(is_expected(stem, &error), "{file}: {error:?}"),
            (_, _, result) => panic!("{file}: {result:?}"),
        }
    }
    let present: BTreeSet<String> = std::fs::read_dir(data("torrents"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(seen, present);
}

fn check_parsed(row: &Value, metainfo: &Metainfo) {
    let file = text(row, "file");
    let parsed = &row["parsed_by_2_0_8"];
    let info = metainfo.info();
    let hashes = info.hashes();
    assert_eq!(hashes.v2.to_string(), text(row, "info_sha256"), "{file}");
    assert_eq!(hashes.v2.to_string(), text(parsed, "v2"), "{file}");
    assert_eq!(
        hashes.v1.map(|v1| v1.to_string()).as_deref(),
        parsed["v1"].as_str(),
        "{file}"
    );
    assert_eq!(info.name(), text(parsed, "name"), "{file}");
    assert_eq!(
        u64::from(info.piece_length().bytes()),
        row["piece_length"].as_u64().unwrap(),
        "{file}"
    );
    assert_eq!(
        u64::from(info.layout().piece_count()),
        parsed["num_pieces"].as_u64().unwrap(),
        "{file}"
    );
    assert_eq!(info.files().len(), info.layout().files().len(), "{file}");

    let paths: Vec<String> = info
        .files()
        .iter()
        .map(|f| {
            let path = f.path().join("/");
            if info.is_single_file() {
                path
            } else {
                format!("{}/{path}", info.name())
            }
        })
        .collect();
    let expected = expected_paths(row);
    assert_eq!(paths.get(..expected.len()).unwrap(), expected, "{file}");
    for listed in parsed["first_files"].as_array().unwrap() {
        const PAD: u64 = 1;
        const EXECUTABLE: u64 = 4;
        let flags = listed["flags"].as_u64().unwrap();
        if flags & PAD != 0 {
            continue;
        }
        let at = paths.iter().position(|path| path == text(listed, "path"));
        let found = &info.files()[at.unwrap()];
        assert_eq!(found.length(), listed["size"].as_u64().unwrap(), "{file}");
        assert_eq!(found.is_executable(), flags & EXECUTABLE != 0, "{file}");
    }

    // Only one torrent lacks layers, and what is there proved right.
    let missing = metainfo.missing_layers().count();
    let expected = match file {
        "v2_incomplete_piece_layer.torrent" => 1,
        _ => 0,
    };
    assert_eq!(missing, expected, "{file}");
    for piece in info.layout().piece_indices() {
        let of = info.layout().file_of(piece);
        let known = info.layout().file(of).pieces() == 1 || metainfo.layer(of).is_some();
        assert_eq!(metainfo.piece_hash(piece).is_some(), known, "{file}");
    }

    // What we write again is the same torrent.
    let again = Metainfo::parse(&metainfo.encode(), &Limits::TORRENT).unwrap();
    assert_eq!(&again, metainfo, "{file}");
}

#[test]
fn tail_padding_may_be_missing() {
    let short = Metainfo::parse(&read("v2_hybrid-missing-tailpad.torrent"), &Limits::TORRENT);
    let padded = Metainfo::parse(&read("v2_hybrid.torrent"), &Limits::TORRENT);
    for (metainfo, tail) in [(short.unwrap(), false), (padded.unwrap(), true)] {
        let info = metainfo.info();
        let last = info.layout().piece_indices().next_back().unwrap();
        let full = info.piece_length().bytes();
        let size = info.v1_piece_size(last).unwrap();
        assert_eq!(size == full, tail);
        assert_eq!(size == info.layout().piece_size(last), !tail);
        let first = info.layout().piece(0).unwrap();
        assert_eq!(info.v1_piece_size(first), Some(full));
    }
}

#[test]
fn a_changed_piece_layer_is_refused() {
    let bytes = read("v2_only.torrent");
    // The file ends with the last piece hash and the ends of two dictionaries.
    let mut changed = bytes;
    let at = changed.len() - 3;
    changed[at] ^= 1;
    let error = Metainfo::parse(&changed, &Limits::TORRENT).unwrap_err();
    assert!(
        matches!(
            error,
            MetainfoError::Layer {
                source: LayerError::Root { .. },
                ..
            }
        ),
        "{error:?}"
    );
    // A zero hash is refused before anything is folded.
    let end = changed.len() - 2;
    changed[end - 32..end].copy_from_slice(MerkleHash::ZERO.as_bytes());
    let error = Metainfo::parse(&changed, &Limits::TORRENT).unwrap_err();
    assert!(
        matches!(
            error,
            MetainfoError::Layer {
                source: LayerError::Zero { index: 15 },
                ..
            }
        ),
        "{error:?}"
    );
}
