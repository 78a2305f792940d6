//! Tests of the rules for info dictionaries and torrent files, one at a time. The files of `tests/data` cover what other implementations refuse; these
//! are the other rules. Above 600 lines: it is one table.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use bittorrent_protocol::bencode::{BencodeError, DictEncoder, Encoder, FlawKind, Limits};
use bittorrent_protocol::metainfo::{
    Inconsistency, Info, InfoError, MAX_FILE_LEN, Metainfo, MetainfoError, TreeError, V1Error,
};
use bittorrent_protocol::{LayoutError, MerkleHash};

const PIECE: i64 = 16384;
const ROOT: [u8; 32] = [7; 32];

/// A file as an info dictionary describes it.
#[derive(Clone)]
struct TestFile {
    path: Vec<&'static str>,
    length: i64,
    root: Option<Vec<u8>>,
    attr: &'static str,
}

fn file(path: &'static str, length: i64) -> TestFile {
    TestFile {
        path: path.split('/').collect(),
        length,
        root: (length > 0).then(|| ROOT.to_vec()),
        attr: "",
    }
}

fn pad(length: i64) -> TestFile {
    TestFile {
        attr: "p",
        ..file(".pad/0", length)
    }
}

/// An info dictionary whose parts can be changed one by one.
#[derive(Clone)]
struct TestInfo {
    tree: Option<Vec<TestFile>>,
    version: Option<i64>,
    name: Option<&'static str>,
    piece_length: Option<i64>,
    /// The v1 half.
    length: Option<i64>,
    files: Option<Vec<TestFile>>,
    pieces: Option<usize>,
}

impl TestInfo {
    fn v2(tree: &[TestFile]) -> Self {
        Self {
            tree: Some(tree.to_vec()),
            version: Some(2),
            name: Some("name"),
            piece_length: Some(PIECE),
            length: None,
            files: None,
            pieces: None,
        }
    }

    fn hybrid(tree: &[TestFile], files: &[TestFile]) -> Self {
        let total: i64 = files.iter().map(|file| file.length).sum();
        Self {
            files: Some(files.to_vec()),
            pieces: Some((total as u64).div_ceil(PIECE as u64) as usize),
            ..Self::v2(tree)
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::new();
        encoder.dict(|info| {
            if let Some(tree) = &self.tree {
                info.key("file tree").dict(|tree_out| {
                    for file in tree {
                        // One directory at most: enough for these tests.
                        match file.path.as_slice() {
                            [name] => leaf(tree_out, name, file),
                            [directory, name] => tree_out
                                .key(directory)
                                .dict(|directory| leaf(directory, name, file)),
                            _ => unreachable!("paths in these tests have one or two names"),
                        }
                    }
                });
            }
            if let Some(files) = &self.files {
                info.key("files").list(|list| {
                    for file in files {
                        list.dict(|entry| {
                            if !file.attr.is_empty() {
                                entry.bytes("attr", file.attr);
                            }
                            entry.int("length", file.length);
                            entry.key("path").list(|path| {
                                file.path.iter().for_each(|name| path.bytes(name));
                            });
                        });
                    }
                });
            }
            if let Some(length) = self.length {
                info.int("length", length);
            }
            if let Some(version) = self.version {
                info.int("meta version", version);
            }
            if let Some(name) = self.name {
                info.bytes("name", name);
            }
            if let Some(piece_length) = self.piece_length {
                info.int("piece length", piece_length);
            }
            if let Some(pieces) = self.pieces {
                info.bytes("pieces", vec![1; pieces * 20]);
            }
        });
        encoder.finish()
    }

    fn parse(&self) -> Result<Info, InfoError> {
        Info::parse(&self.encode(), &Limits::TORRENT)
    }
}

fn leaf(directory: &mut DictEncoder<'_>, name: &str, file: &TestFile) {
    directory.key(name).dict(|entry| {
        entry.key("").dict(|leaf| {
            if !file.attr.is_empty() {
                leaf.bytes("attr", file.attr);
            }
            leaf.int("length", file.length);
            if let Some(root) = &file.root {
                leaf.bytes("pieces root", root);
            }
        });
    });
}

#[test]
fn versions() {
    let good = TestInfo::v2(&[file("a", 1)]);
    assert!(good.parse().is_ok());
    let version = |version| TestInfo {
        version,
        ..good.clone()
    };
    assert_eq!(
        version(Some(3)).parse(),
        Err(InfoError::UnknownVersion(3)),
        "checked before anything that a later version may do otherwise"
    );
    assert_eq!(
        version(Some(-1)).parse(),
        Err(InfoError::UnknownVersion(-1))
    );
    assert_eq!(version(Some(1)).parse(), Err(InfoError::MissingVersion));
    assert_eq!(version(None).parse(), Err(InfoError::MissingVersion));
    let treeless = TestInfo { tree: None, ..good };
    assert_eq!(treeless.parse(), Err(InfoError::MissingFileTree));
}

#[test]
fn names_and_piece_lengths() {
    let good = TestInfo::v2(&[file("a", 1)]);
    let named = |name| TestInfo {
        name,
        ..good.clone()
    };
    assert_eq!(named(None).parse(), Err(InfoError::MissingName));
    for nothing in ["", ".", "..", "/"] {
        let info = named(Some(nothing)).parse().unwrap();
        assert_eq!(info.name(), info.hashes().v2.to_string());
    }
    for found in [
        None,
        Some(0),
        Some(-PIECE),
        Some(PIECE - 1),
        Some(3 * PIECE),
        Some(1 << 29),
        Some(i64::MAX),
    ] {
        let info = TestInfo {
            piece_length: found,
            ..good.clone()
        };
        assert_eq!(info.parse(), Err(InfoError::PieceLength { found }));
    }
}

#[test]
fn files_of_the_tree() {
    let with = |change: fn(&mut TestFile)| {
        let mut changed = file("a", 1);
        change(&mut changed);
        match TestInfo::v2(&[changed, file("b", 1)]).parse() {
            Err(InfoError::FileTree(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let path = || "a".to_owned();
    assert_eq!(
        with(|file| file.attr = "hp"),
        TreeError::PadFile { path: path() }
    );
    assert_eq!(
        with(|file| file.attr = "xl"),
        TreeError::Symlink { path: path() }
    );
    let length = TreeError::Length { path: path() };
    assert_eq!(with(|file| file.length = -1), length);
    assert_eq!(with(|file| file.length = MAX_FILE_LEN as i64 + 1), length);
    assert_eq!(with(|file| file.length = i64::MAX), length);
    let root = TreeError::Root { path: path() };
    assert_eq!(with(|file| file.root = None), root);
    assert_eq!(with(|file| file.root = Some(vec![0; 32])), root);
    assert_eq!(with(|file| file.root = Some(vec![7; 31])), root);
    assert_eq!(with(|file| file.root = Some(vec![7; 33])), root);
    assert_eq!(with(|file| file.length = 0), root, "a root for no content");

    let longest = TestInfo {
        piece_length: Some(1 << 28),
        ..TestInfo::v2(&[file("a", MAX_FILE_LEN as i64)])
    };
    assert_eq!(
        longest.parse().unwrap().layout().content_length(),
        MAX_FILE_LEN
    );
}

#[test]
fn files_that_are_links_or_directories() {
    let error = |tree: &[u8]| {
        let raw = [
            b"d9:file tree",
            tree,
            b"12:meta versioni2e4:name1:n12:piece lengthi16384ee",
        ];
        match Info::parse(&raw.concat(), &Limits::TORRENT) {
            Err(InfoError::FileTree(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let path = || "a".to_owned();
    assert_eq!(
        error(b"d1:ad0:d6:lengthi0e12:symlink pathl1:beeee"),
        TreeError::Symlink { path: path() }
    );
    assert_eq!(
        error(b"d1:ad0:d6:lengthi0ee1:bd0:d6:lengthi0eeeee"),
        TreeError::EmptyName { path: path() },
        "both a file and a directory"
    );
    assert_eq!(
        error(b"d1:ad0:i1eee"),
        TreeError::NotADictionary { path: path() }
    );
}

#[test]
fn links_in_v1_torrents_are_checked_too() {
    let parse = |target: &[u8]| {
        let raw = [
            b"d5:filesld6:lengthi5e4:pathl1:aeed4:attr1:l4:pathl1:be12:symlink path",
            target,
            b"ee4:name1:n12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaae",
        ];
        Info::parse(&raw.concat(), &Limits::TORRENT)
    };
    assert!(matches!(parse(b"l1:ae"), Err(InfoError::V1Only { .. })));
    for target in [&b"li1ee"[..], b"1:a"] {
        assert_eq!(
            parse(target),
            Err(InfoError::V1(V1Error::Path { index: 1 }))
        );
    }
}

#[test]
fn amounts() {
    for none in [&[][..], &[file("a", 0)]] {
        assert_eq!(
            TestInfo::v2(none).parse(),
            Err(InfoError::Layout(LayoutError::Empty))
        );
    }
    let most = i64::from(bittorrent_protocol::MAX_PIECES) * PIECE;
    assert!(TestInfo::v2(&[file("a", most)]).parse().is_ok());
    for many in [&[file("a", most + 1)][..], &[file("a", most), file("b", 1)]] {
        assert!(matches!(
            TestInfo::v2(many).parse(),
            Err(InfoError::Layout(LayoutError::TooManyPieces { .. }))
        ));
    }
}

#[test]
fn the_bytes_must_be_canonical_and_nothing_else() {
    let good = TestInfo::v2(&[file("a", 1)]).encode();
    let mut trailing = good.clone();
    trailing.push(b'\n');
    assert_eq!(
        Info::parse(&trailing, &Limits::TORRENT),
        Err(InfoError::TrailingBytes { len: 1 })
    );
    let replaced = |from: &[u8], to: &[u8]| {
        let at = good.windows(from.len()).position(|w| w == from).unwrap();
        let bytes = [&good[..at], to, &good[at + from.len()..]].concat();
        Info::parse(&bytes, &Limits::TORRENT)
    };
    let flaw = |result: Result<Info, InfoError>| match result {
        Err(InfoError::Flawed { kind, .. }) => kind,
        other => panic!("{other:?}"),
    };
    let name: &[u8] = b"4:name4:name";
    assert_eq!(
        flaw(replaced(name, b"4:name4:name4:name4:eman")),
        FlawKind::RepeatedKey
    );
    assert_eq!(
        flaw(replaced(name, b"4:name4:name4:eman4:name")),
        FlawKind::UnsortedKey
    );
    assert_eq!(flaw(replaced(b"i1e", b"i01e")), FlawKind::LeadingZero);
    assert_eq!(flaw(replaced(b"1:a", b"01:a")), FlawKind::LeadingZero);
    assert_eq!(
        Info::parse(b"le", &Limits::TORRENT),
        Err(InfoError::NotADictionary)
    );
    let tight = Limits {
        max_len: good.len() - 1,
        ..Limits::TORRENT
    };
    assert!(matches!(
        Info::parse(&good, &tight),
        Err(InfoError::Bencode(BencodeError::TooLong { .. }))
    ));
    // Unknown keys are kept: they are hashed.
    let more = replaced(name, b"4:name4:name5:other4:what").unwrap();
    assert!(more.raw().windows(4).any(|w| w == b"what"));
}

#[test]
fn single_file_or_directory() {
    for (tree, single) in [
        (&[file("name", 1)][..], true),
        (&[file("another", 1)], true),
        (&[file("dir/a", 1)], false),
        (&[file("a", 1), file("b", 0)], false),
    ] {
        assert_eq!(TestInfo::v2(tree).parse().unwrap().is_single_file(), single);
    }
    let hybrid = TestInfo {
        length: Some(5),
        pieces: Some(1),
        ..TestInfo::v2(&[file("name", 5)])
    };
    assert!(hybrid.parse().unwrap().is_single_file());
    // With a list of files, a directory of one file is one.
    let directory = TestInfo::hybrid(&[file("a", 5)], &[file("a", 5)]);
    assert!(!directory.parse().unwrap().is_single_file());
}

#[test]
fn hybrids_may_differ_in_what_does_not_matter() {
    let tree = [file("a", 20_000), file("b", 0), file("c", 100)];
    let padding = 2 * PIECE - 20_000;
    for files in [
        // As libtorrent writes it, with and without padding at the end.
        &[
            file("a", 20_000),
            pad(padding),
            file("b", 0),
            file("c", 100),
        ][..],
        &[
            file("a", 20_000),
            pad(padding),
            file("b", 0),
            file("c", 100),
            pad(PIECE - 100),
        ],
        // Padding right before the next file, in two parts; without the empty file.
        &[
            file("a", 20_000),
            file("b", 0),
            pad(padding),
            file("c", 100),
        ],
        &[file("a", 20_000), pad(1), pad(padding - 1), file("c", 100)],
    ] {
        let info = TestInfo::hybrid(&tree, files).parse().unwrap();
        assert!(info.hashes().v1.is_some());
        assert_eq!(info.files().len(), 3, "those of the file tree");
    }
}

#[test]
fn hybrids_that_contradict_themselves() {
    use Inconsistency as C;
    let tree = [file("a", 20_000), file("c", 100)];
    let padding = 2 * PIECE - 20_000;
    let good = [file("a", 20_000), pad(padding), file("c", 100)];
    assert!(TestInfo::hybrid(&tree, &good).parse().is_ok());
    let fault = |info: &TestInfo| match info.parse() {
        Err(InfoError::Inconsistent(fault)) => fault,
        other => panic!("{other:?}"),
    };
    let files = |files: &[TestFile]| fault(&TestInfo::hybrid(&tree, files));
    let [a, p, c] = good.clone();

    assert_eq!(files(&[a.clone(), p.clone()]), C::Files);
    assert_eq!(
        files(&[a.clone(), p.clone(), c.clone(), file("d", 1)]),
        C::Files
    );
    assert!(matches!(
        files(&[file("A", 20_000), p.clone(), c.clone()]),
        C::Path { .. }
    ));
    assert!(matches!(
        files(&[a.clone(), p.clone(), file("c/c", 100)]),
        C::Path { .. }
    ));
    assert!(matches!(
        files(&[file("a", 19_999), p.clone(), c.clone()]),
        C::Length {
            v1: 19_999,
            v2: 20_000,
            ..
        }
    ));
    for wrong in [0, padding - 1, padding + 1, padding + PIECE] {
        assert!(matches!(
            files(&[a.clone(), pad(wrong), c.clone()]),
            C::Offset { v2: 32768, .. }
        ));
    }
    for tail in [1, PIECE - 101, PIECE - 99, 2 * PIECE - 100] {
        assert!(matches!(
            files(&[a.clone(), p.clone(), c.clone(), pad(tail)]),
            C::Tail { .. }
        ));
    }
    let link = TestFile {
        attr: "l",
        ..file("b", 0)
    };
    assert!(matches!(
        files(&[a.clone(), link, p.clone(), c.clone()]),
        C::Symlink { .. }
    ));

    // One half of a half.
    let whole = TestInfo::hybrid(&tree, &good);
    let no_pieces = TestInfo {
        pieces: None,
        ..whole.clone()
    };
    assert_eq!(fault(&no_pieces), C::Half);
    let only_pieces = TestInfo {
        files: None,
        ..whole.clone()
    };
    assert_eq!(fault(&only_pieces), C::Half);

    // A single file beside a directory.
    let single = TestInfo {
        files: None,
        length: Some(20_000),
        pieces: Some(2),
        ..whole.clone()
    };
    assert_eq!(fault(&single), C::Files);
    let other_name = TestInfo {
        length: Some(5),
        pieces: Some(1),
        ..TestInfo::v2(&[file("another", 5)])
    };
    assert!(matches!(fault(&other_name), C::Path { .. }));
}

#[test]
fn malformed_v1_halves() {
    let tree = [file("a", 20_000)];
    let whole = TestInfo::hybrid(&tree, &tree);
    assert!(whole.parse().is_ok());
    for pieces in [0, 1, 3] {
        let info = TestInfo {
            pieces: Some(pieces),
            ..whole.clone()
        };
        assert_eq!(
            info.parse(),
            Err(InfoError::V1(V1Error::Pieces {
                found: pieces * 20,
                expected: 40
            }))
        );
    }
    let both = TestInfo {
        length: Some(20_000),
        ..whole
    };
    assert_eq!(both.parse(), Err(InfoError::V1(V1Error::Shape)));
    // v1 only, but malformed: the error is not the one for v1-only torrents.
    let v1 = TestInfo {
        tree: None,
        version: None,
        files: None,
        length: Some(5),
        pieces: Some(1),
        ..both
    };
    assert!(matches!(v1.parse(), Err(InfoError::V1Only { .. })));
    let shapeless = TestInfo {
        length: None,
        ..v1.clone()
    };
    assert_eq!(shapeless.parse(), Err(InfoError::V1(V1Error::Shape)));
    let too_many = TestInfo {
        pieces: Some(2),
        ..v1
    };
    assert!(matches!(
        too_many.parse(),
        Err(InfoError::V1(V1Error::Pieces { .. }))
    ));
}

/// A torrent file around a good info dictionary.
fn torrent(tree: &[TestFile], more: impl FnOnce(&mut DictEncoder<'_>)) -> Metainfo {
    let mut encoder = Encoder::new();
    encoder.dict(|torrent| {
        torrent.key("info").raw(&TestInfo::v2(tree).encode());
        more(torrent);
    });
    Metainfo::parse(&encoder.finish(), &Limits::TORRENT).unwrap()
}

#[test]
fn hints_are_read_leniently() {
    let directory = [file("a", 1), file("b", 1)];
    let one = torrent(&[file("a", 1)], |torrent| {
        torrent.bytes("url-list", " http://example.com/a file ");
    });
    assert_eq!(one.unhashed.web_seeds, ["http://example.com/a%20file"]);
    let many = torrent(&directory, |torrent| {
        torrent.key("nodes").list(|nodes| {
            for (host, port) in [("router.example", 6881), ("x", 0), ("x", 65536), ("", 1)] {
                nodes.list(|node| {
                    node.bytes(host);
                    node.int(port);
                });
            }
            nodes.int(5);
        });
        torrent.key("url-list").list(|list| {
            for url in ["http://a", "http://a/", "http://b/c/", "", " "] {
                list.bytes(url);
            }
            list.list(|_| {});
        });
    });
    assert_eq!(many.unhashed.nodes, [("router.example".to_owned(), 6881)]);
    assert_eq!(many.unhashed.web_seeds, ["http://a/", "http://b/c/"]);
    assert_eq!(many.unhashed.trackers, Vec::<Vec<String>>::new());

    // Keys in front of `info` in the sorted order.
    let mut encoder = Encoder::new();
    encoder.dict(|torrent| {
        torrent.bytes("announce", "\t udp://unused.example:1");
        torrent.key("announce-list").list(|tiers| {
            for tier in [
                &["http://a ", "http://b"][..],
                &[],
                &["http://a", "http://c"],
            ] {
                tiers.list(|out| tier.iter().for_each(|url| out.bytes(url)));
            }
            tiers.bytes("no tier");
        });
        torrent.key("info").raw(&TestInfo::v2(&directory).encode());
    });
    let tracked = Metainfo::parse(&encoder.finish(), &Limits::TORRENT).unwrap();
    assert_eq!(
        tracked.unhashed.trackers,
        [vec!["http://a", "http://b"], vec!["http://c"]]
    );
    let magnet = tracked.magnet();
    assert_eq!(magnet.trackers, ["http://a", "http://b", "http://c"]);
    assert_eq!(magnet.hashes(), Some(tracked.info().hashes()));
    assert_eq!(magnet.name.as_deref(), Some("name"));
}

#[test]
fn torrent_files_without_a_torrent() {
    for (bytes, error) in [
        (&b"le"[..], MetainfoError::NotADictionary),
        (b"de", MetainfoError::MissingInfo),
        (b"d4:infoi1ee", MetainfoError::MissingInfo),
    ] {
        assert_eq!(Metainfo::parse(bytes, &Limits::TORRENT), Err(error));
    }
    let mut encoder = Encoder::new();
    encoder.dict(|torrent| {
        torrent
            .key("info")
            .raw(&TestInfo::v2(&[file("a", 1)]).encode());
        torrent.bytes("piece layers", "");
    });
    assert_eq!(
        Metainfo::parse(&encoder.finish(), &Limits::TORRENT),
        Err(MetainfoError::MalformedLayers)
    );
}

#[test]
fn a_layer_for_a_file_without_one_is_unknown() {
    let mut encoder = Encoder::new();
    encoder.dict(|torrent| {
        torrent
            .key("info")
            .raw(&TestInfo::v2(&[file("a", PIECE)]).encode());
        torrent.key("piece layers").dict(|layers| {
            layers.bytes(ROOT, ROOT);
        });
    });
    assert_eq!(
        Metainfo::parse(&encoder.finish(), &Limits::TORRENT),
        Err(MetainfoError::UnknownLayer {
            root: MerkleHash::from_bytes(ROOT)
        })
    );
}
