//! Torrents that we make are torrents that we read, whatever their files are called and however
//! long they are; and nothing that we read is dangerous.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, HashSet};

use bittorrent_protocol::bencode::{self, Encoder, Limits};
use bittorrent_protocol::merkle;
use bittorrent_protocol::metainfo::{HashedContent, Info, Metainfo, MetainfoBuilder, v1_pads_tail};
use bittorrent_protocol::{BLOCK_LEN, InfoHashV1, InfoHashV2, MerkleHash, PieceLength, PieceSha1};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use sha1::{Digest as _, Sha1};

fn content(seed: u8, length: usize) -> Vec<u8> {
    (0..length)
        .map(|k| (k.wrapping_mul(31) >> 3) as u8 ^ seed)
        .collect()
}

fn sha1(bytes: &[u8]) -> PieceSha1 {
    PieceSha1::from_bytes(Sha1::digest(bytes).into())
}

/// Hashes a file as a producer does.
fn hashed(content: &[u8], piece_length: PieceLength, pads_tail: bool) -> HashedContent {
    let leaves: Vec<MerkleHash> = content
        .chunks(BLOCK_LEN as usize)
        .map(merkle::leaf)
        .collect();
    let piece = piece_length.bytes() as usize;
    HashedContent {
        length: content.len() as u64,
        root: (!content.is_empty()).then(|| merkle::file_root_from_leaves(&leaves)),
        layer: merkle::piece_layer_from_leaves(&leaves, piece_length),
        v1_pieces: content
            .chunks(piece)
            .map(|chunk| {
                let mut chunk = chunk.to_vec();
                if pads_tail {
                    chunk.resize(piece, 0);
                }
                sha1(&chunk)
            })
            .collect(),
        executable: content.len() % 2 == 1,
    }
}

fn piece_length() -> impl Strategy<Value = PieceLength> {
    (0u32..3).prop_map(|shift| PieceLength::new(16384 << shift).unwrap())
}

/// Lengths around the sizes of blocks and pieces.
fn length(piece_length: PieceLength) -> impl Strategy<Value = usize> {
    let piece = piece_length.bytes() as usize;
    prop::sample::select(vec![
        0,
        1,
        16383,
        16384,
        16385,
        piece - 1,
        piece,
        piece + 1,
        2 * piece - 1,
        2 * piece,
        2 * piece + 1,
        3 * piece + 20_000,
    ])
}

type Files = BTreeMap<Vec<String>, usize>;

fn files() -> impl Strategy<Value = (PieceLength, Files)> {
    piece_length().prop_flat_map(|piece_length| {
        let path = vec("[a-c][a-c. ]{0,2}[a-cé]", 1..4);
        let files = btree_map(path, length(piece_length), 1..12)
            // A file cannot stand where another path needs a directory, and a reader renames files
            // that differ in case only: there are none among these.
            .prop_filter("a file is a directory", |files| {
                let paths: Vec<_> = files.keys().collect();
                paths.windows(2).all(|two| !two[1].starts_with(two[0]))
            })
            .prop_filter("no content", |files| {
                files.values().any(|length| *length > 0)
            });
        (Just(piece_length), files)
    })
}

/// Every byte that the v1 pieces cover, as the list of files says.
fn v1_stream(info: &Info, contents: &BTreeMap<Vec<String>, Vec<u8>>) -> Vec<u8> {
    let decoded = bencode::decode(info.raw(), &Limits::TORRENT).unwrap();
    let dict = decoded.root.as_dict().unwrap();
    let Some(files) = dict.get("files") else {
        return contents.values().flatten().copied().collect();
    };
    let mut stream = Vec::new();
    for file in files.as_list().unwrap() {
        let file = file.as_dict().unwrap();
        let length = file.int("length").unwrap() as usize;
        if file.bytes("attr").unwrap_or_default().contains(&b'p') {
            assert!(length < info.piece_length().bytes() as usize);
            stream.resize(stream.len() + length, 0);
            continue;
        }
        let path = file.get("path").unwrap().as_list().unwrap().iter();
        let path: Vec<String> = path
            .map(|name| String::from_utf8(name.as_bytes().unwrap().to_vec()).unwrap())
            .collect();
        assert_eq!(contents[&path].len(), length);
        stream.extend_from_slice(&contents[&path]);
    }
    stream
}

fn check_hybrid(info: &Info, contents: &BTreeMap<Vec<String>, Vec<u8>>) {
    let stream = v1_stream(info, contents);
    let expected: Vec<PieceSha1> = stream
        .chunks(info.piece_length().bytes() as usize)
        .map(sha1)
        .collect();
    assert_eq!(info.v1_pieces().unwrap(), expected);
    let sizes = info.layout().piece_indices();
    let covered: u64 = sizes
        .map(|piece| u64::from(info.v1_piece_size(piece).unwrap()))
        .sum();
    assert_eq!(covered, stream.len() as u64);
    assert_eq!(
        info.hashes().v1,
        Some(InfoHashV1::of_info(info.raw())),
        "the v1 hash is of the same bytes"
    );
    assert_ne!(info.aria2_alias(), None);
    assert_ne!(info.aria2_alias(), info.hashes().v1);
}

/// Checks a torrent that was made from these contents.
fn check(metainfo: &Metainfo, contents: &BTreeMap<Vec<String>, Vec<u8>>, hybrid: bool) {
    let info = metainfo.info();
    let layout = info.layout();
    let again = Metainfo::parse(&metainfo.encode(), &Limits::TORRENT).unwrap();
    assert_eq!(&again, metainfo);
    assert_eq!(info.hashes().v2, InfoHashV2::of_info(info.raw()));
    assert_eq!(metainfo.missing_layers().count(), 0);

    assert_eq!(info.files().len(), contents.len());
    for (file, (path, content)) in info.files().iter().zip(contents) {
        assert_eq!(file.path(), path);
        assert_eq!(file.length(), content.len() as u64);
        assert_eq!(file.root().is_some(), !content.is_empty());
        assert_eq!(file.is_executable(), content.len() % 2 == 1);
    }
    for piece in layout.piece_indices() {
        let content = contents.values().nth(layout.file_of(piece).as_usize());
        let start = layout.offset_in_file(piece) as usize;
        let bytes = &content.unwrap()[start..start + layout.piece_size(piece) as usize];
        let leaves: Vec<MerkleHash> = bytes.chunks(BLOCK_LEN as usize).map(merkle::leaf).collect();
        assert_eq!(
            metainfo.piece_hash(piece),
            Some(merkle::piece_hash(&leaves, layout, piece))
        );
    }
    if hybrid {
        check_hybrid(info, contents);
    } else {
        assert_eq!(info.hashes().v1, None);
        assert_eq!(info.v1_pieces(), None);
        assert_eq!(info.aria2_alias(), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn directories_round_trip((piece_length, files) in files(), hybrid: bool, private: bool) {
        let contents: BTreeMap<_, _> = (0u8..)
            .zip(&files)
            .map(|(seed, (path, length))| (path.clone(), content(seed, *length)))
            .collect();
        let mut builder = MetainfoBuilder::new("dir", piece_length)
            .hybrid(hybrid)
            .private(private)
            .snapshot(*b"{}");
        builder.unhashed.trackers = vec![
            vec!["udp://a.example:1/announce".into(), "http://b.example/announce".into()],
            vec!["http://c.example/announce".into()],
        ];
        builder.unhashed.web_seeds = vec!["http://d.example/dir/".into()];
        builder.unhashed.nodes = vec![("router.example".into(), 6881), ("2001:db8::1".into(), 1)];
        builder.unhashed.comment = Some("of no meaning".into());
        builder.unhashed.created_by = Some("a test".into());
        builder.unhashed.creation_date = Some(-1);
        for (path, content) in contents.iter().rev() {
            let hashed = hashed(content, piece_length, v1_pads_tail(files.len()));
            builder = builder.file(path.clone(), hashed);
        }
        let metainfo = builder.clone().build().unwrap();
        check(&metainfo, &contents, hybrid);
        prop_assert_eq!(metainfo.info().is_private(), private);
        prop_assert_eq!(metainfo.info().snapshot(), Some(&b"{}"[..]));
        let lone_file = files.len() == 1 && files.keys().all(|path| path.len() == 1);
        prop_assert_eq!(metainfo.info().is_single_file(), lone_file && !hybrid);
        // Made again, it is the same to the byte.
        prop_assert_eq!(builder.build().unwrap().encode(), metainfo.encode());
    }

    #[test]
    fn single_files_round_trip(
        (piece_length, length) in piece_length().prop_flat_map(|p| (Just(p), length(p))),
        hybrid: bool,
    ) {
        prop_assume!(length > 0);
        let contents = BTreeMap::from([(vec!["data.ldb".to_owned()], content(7, length))]);
        let bytes = contents.values().next().unwrap();
        let metainfo = MetainfoBuilder::new("data.ldb", piece_length)
            .hybrid(hybrid)
            .single_file(hashed(bytes, piece_length, v1_pads_tail(1)))
            .build()
            .unwrap();
        check(&metainfo, &contents, hybrid);
        prop_assert!(metainfo.info().is_single_file());
    }

    #[test]
    fn layers_can_come_one_by_one((piece_length, files) in files()) {
        let mut builder = MetainfoBuilder::new("dir", piece_length);
        for (path, length) in &files {
            // Files of the same length are the same file here, and share one layer.
            let hashed = hashed(&content(0, *length), piece_length, true);
            builder = builder.file(path.clone(), hashed);
        }
        let whole = builder.build().unwrap();
        let mut partial = Metainfo::from_info(whole.info().clone());
        let long = files.values().filter(|length| **length > piece_length.bytes() as usize);
        prop_assert_eq!(partial.missing_layers().count(), long.count());
        for file in partial.missing_layers().collect::<Vec<_>>() {
            let encoded = Metainfo::parse(&partial.encode(), &Limits::TORRENT).unwrap();
            for known in partial.layers().iter().flatten() {
                // Once a layer is known to a reader, it is known for every file with its root.
                prop_assert!(encoded.layers().iter().flatten().any(|layer| layer == known));
            }
            partial.set_layer(file, whole.layer(file).unwrap().clone()).unwrap();
        }
        // Hints around the info dictionary are all that differs.
        prop_assert_eq!(partial.layers(), whole.layers());
    }
}

/// A file tree with the given raw paths, as far as they make one.
#[derive(Debug, Default)]
struct RawTree(BTreeMap<Vec<u8>, RawTree>);

impl RawTree {
    fn insert(&mut self, path: &[Vec<u8>]) {
        if let Some((first, rest)) = path.split_first() {
            self.0.entry(first.clone()).or_default().insert(rest);
        }
    }

    fn encode(&self, encoder: &mut Encoder) {
        encoder.dict(|dict| {
            for (name, below) in &self.0 {
                let entry = dict.key(name);
                if below.0.is_empty() {
                    entry.dict(|leaf| {
                        leaf.key("").dict(|leaf| {
                            leaf.int("length", 1);
                            leaf.bytes("pieces root", [7; 32]);
                        });
                    });
                } else {
                    below.encode(entry);
                }
            }
        });
    }
}

fn info_with(tree: &RawTree, name: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.dict(|info| {
        tree.encode(info.key("file tree"));
        info.int("meta version", 2);
        info.bytes("name", name);
        info.int("piece length", 16384);
    });
    encoder.finish()
}

/// Names that do harm, or would where case or separators mean something else.
fn hostile_name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(prop::sample::select(b"./\\aA1\0\n\xff".to_vec()), 1..5),
        vec(any::<u8>(), 1..6),
        "[aA]{1,2}(\\.1)?(\\.[tT])?".prop_map(String::into_bytes),
        prop::sample::select(vec![b"..".to_vec(), b".".to_vec(), b"../..".to_vec()]),
        (200usize..300).prop_map(|len| vec![b'n'; len]),
    ]
}

fn assert_safe(info: &Info) {
    let mut folded: HashSet<String> = HashSet::new();
    for name in info
        .files()
        .iter()
        .flat_map(|f| f.path())
        .map(String::as_str)
        .chain([info.name()])
    {
        assert!(!["", ".", ".."].contains(&name), "{name:?}");
        assert!(!name.contains(['/', '\\', '\0']), "{name:?}");
        assert!(!name.chars().any(char::is_control), "{name:?}");
        assert!(name.len() <= 255, "{name:?}");
    }
    for file in info.files() {
        assert!(!file.path().is_empty());
        assert!(
            folded.insert(file.path().join("/").to_lowercase()),
            "{file:?}"
        );
    }
    for file in info.files() {
        for depth in 1..file.path().len() {
            let above = file.path()[..depth].join("/").to_lowercase();
            assert!(!folded.contains(&above), "{file:?} is below a file");
        }
    }
}

proptest! {
    #[test]
    fn no_name_is_dangerous(paths in vec(vec(hostile_name(), 1..4), 1..20), name in hostile_name()) {
        let mut tree = RawTree::default();
        for path in &paths {
            tree.insert(path);
        }
        let info = Info::parse(&info_with(&tree, &name), &Limits::TORRENT).unwrap();
        assert_safe(&info);
    }

    #[test]
    fn mutated_torrents_do_not_panic_and_are_safe(
        file in prop::sample::select(small_torrents()),
        edits in vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..4),
    ) {
        let mut bytes = file;
        for (at, byte, kind) in edits {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        if let Ok(metainfo) = &Metainfo::parse(&bytes, &Limits::TORRENT) {
            assert_safe(metainfo.info());
            prop_assert_eq!(metainfo.info().hashes().v2, InfoHashV2::of_info(metainfo.info().raw()));
            let again = Metainfo::parse(&metainfo.encode(), &Limits::TORRENT).unwrap();
            prop_assert_eq!(&again, metainfo);
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_torrent(bytes in vec(any::<u8>(), 0..300)) {
        prop_assert!(Metainfo::parse(&bytes, &Limits::TORRENT).is_err());
        prop_assert!(Info::parse(&bytes, &Limits::TORRENT).is_err());
    }
}

/// The torrents of the test data with less than 2 KiB.
fn small_torrents() -> Vec<Vec<u8>> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/torrents");
    let mut paths: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let all = paths.iter().map(|path| std::fs::read(path).unwrap());
    all.filter(|bytes| bytes.len() < 2048).collect()
}
