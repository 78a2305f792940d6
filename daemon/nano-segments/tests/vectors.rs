//! Files made of two public ledgers of the development network by another implementation, byte for byte in both directions.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::PathBuf;

use bittorrent_protocol::merkle;
use nano_segments::coder::{Below, CoderError, Decoder, Encoder, Num, Tree};
use nano_segments::{
    Block, Dictionary, Head, Key, Keys, Piece, Proofs, Runs, Segment, depths, pieces, seal,
};

fn vector(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors")
        .join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

struct Files {
    body: Vec<u8>,
    proofs: Vec<u8>,
}

impl Files {
    fn of(name: &str) -> Self {
        Self {
            body: vector(&format!("{name}.blocks")),
            proofs: vector(&format!("{name}.proofs")),
        }
    }

    fn read(&self, dictionary: &Keys) -> (Segment, Proofs) {
        let genesis = Head::read(&self.body).unwrap().genesis;
        let segment =
            Segment::read(&self.body, self.proofs.len() as u64, genesis, dictionary).unwrap();
        let proofs = Proofs::read(&self.proofs, segment.runs().blocks().len()).unwrap();
        (segment, proofs)
    }

    fn assert_written(&self, (segment, proofs): &(Segment, Proofs)) {
        assert!(segment.write() == self.body, "another body");
        assert!(proofs.write() == self.proofs, "other proofs");
    }
}

fn dictionary_of(segments: &[&Segment]) -> Keys {
    let mut keys = Keys::default();
    for segment in segments {
        keys.extend(segment.keys());
    }
    keys
}

#[test]
fn the_coder_writes_and_reads_the_vectors() {
    let vectors: serde_json::Value = serde_json::from_slice(&vector("coder.json")).unwrap();
    for one in vectors.as_array().unwrap() {
        let name = one["name"].as_str().unwrap();
        let values: Vec<u128> = one["values"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_str().unwrap().parse().unwrap())
            .collect();
        let bytes = data_encoding::HEXLOWER
            .decode(one["bytes"].as_str().unwrap().as_bytes())
            .unwrap();
        let parameter = one["parameter"].as_u64().unwrap_or(0);
        let (written, read) = match one["model"].as_str().unwrap() {
            "Tree" => with(
                &values,
                &bytes,
                Tree::new(parameter as u32),
                |model, to, value| model.put(to, value as u32),
                |model, from| model.get(from).map(u128::from),
            ),
            "Num" => with(&values, &bytes, Num::default(), Num::put, Num::get),
            "Below" => with(
                &values,
                &bytes,
                Below::new(parameter),
                |model, to, value| model.put(to, value as u64),
                |model, from| model.get(from).map(u128::from),
            ),
            other => panic!("unknown model {other}"),
        };
        assert_eq!(written, bytes, "{name}");
        assert_eq!(read, Ok(values), "{name}");
    }
}

type Read = Result<Vec<u128>, CoderError>;

fn with<M: Clone>(
    values: &[u128],
    bytes: &[u8],
    model: M,
    put: impl Fn(&mut M, &mut Encoder, u128),
    get: impl Fn(&mut M, &mut Decoder<'_>) -> Result<u128, CoderError>,
) -> (Vec<u8>, Read) {
    let (mut writing, mut reading) = (model.clone(), model);
    let mut to = Encoder::default();
    for &value in values {
        put(&mut writing, &mut to, value);
    }
    let read = || {
        let mut from = Decoder::new(bytes)?;
        let read = values
            .iter()
            .map(|_| get(&mut reading, &mut from))
            .collect::<Read>()?;
        from.finish()?;
        Ok(read)
    };
    (to.finish(), { read }())
}

#[test]
fn bodies_and_proofs_are_read_and_written() {
    for name in ["base", "tail", "tail-a", "tail-b"] {
        let files = Files::of(name);
        files.assert_written(&files.read(&Keys::default()));
    }
}

#[test]
fn counts_are_those_of_the_ledgers() {
    for (name, from, to, blocks) in [("base", 0, 5338, 5338), ("tail", 5338, 5926, 588)] {
        let (segment, _) = Files::of(name).read(&Keys::default());
        assert_eq!((segment.from(), segment.to()), (from, to), "{name}");
        assert_eq!(segment.runs().blocks().len(), blocks, "{name}");
    }
}

#[test]
fn numbering_keys_makes_the_same_segment_again() {
    for name in ["base", "tail", "tail-a", "tail-b"] {
        let (segment, _) = Files::of(name).read(&Keys::default());
        let (runs, places) = segment.keyed(&Keys::default());
        let (again, order) =
            Segment::number(segment.genesis(), segment.from(), &runs, &Keys::default()).unwrap();
        assert_eq!(again, segment, "{name}");
        assert_eq!(
            order, places,
            "{name}: keys of tails have the order of numbers"
        );
    }
}

#[test]
fn two_tails_are_sealed_into_the_segment_of_both() {
    let base = Files::of("base").read(&Keys::default()).0;
    let dictionary = dictionary_of(&[&base]);
    let tails = ["tail-a", "tail-b"].map(|name| Files::of(name).read(&Keys::default()));
    let sealed = seal(&tails, &dictionary).unwrap();
    let files = Files::of("sealed");
    files.assert_written(&sealed);
    assert_eq!(files.read(&dictionary), sealed);
    // With an empty dictionary they are the tail of both.
    Files::of("tail").assert_written(&seal(&tails, &Keys::default()).unwrap());
}

#[test]
fn the_base_is_split_by_depth_and_account() {
    let pieces_of = (0..5)
        .map(|piece| Files::of(&format!("piece{piece}")))
        .collect::<Vec<_>>();
    let mut dictionary = Keys::default();
    let mut read = Vec::new();
    for files in &pieces_of {
        let piece = files.read(&dictionary);
        files.assert_written(&piece);
        dictionary.extend(piece.0.keys());
        read.push(piece);
    }
    // The whole difference, of the base and the tail, with the proofs in the same order.
    let whole = ["base", "tail"].map(|name| Files::of(name).read(&Keys::default()));
    let (whole, proofs) = seal(&whole, &Keys::default()).unwrap();
    let (runs, places) = whole.keyed(&Keys::default());
    let mut dictionary = Keys::default();
    let mut from = 0;
    for (
        Piece {
            runs: piece,
            indices,
        },
        expected,
    ) in pieces(&runs, 5).unwrap().into_iter().zip(&read)
    {
        let (segment, order) = Segment::number(whole.genesis(), from, &piece, &dictionary).unwrap();
        let mut ordered = Proofs::default();
        for index in order {
            let place = places[indices[index as usize] as usize] as usize;
            let (work, signature) = proofs.get(place).unwrap();
            ordered.push(work, *signature);
        }
        from = segment.to();
        dictionary.extend(segment.keys());
        assert!(
            (segment, ordered) == *expected,
            "another piece before {from}"
        );
    }
    assert_eq!(
        dictionary.len(),
        dictionary_of(&read.iter().map(|(piece, _)| piece).collect::<Vec<_>>()).len()
    );
}

#[test]
fn a_block_is_deeper_than_what_it_depends_on() {
    let (base, _) = Files::of("base").read(&Keys::default());
    let runs: Runs<Key> = base.keyed(&Keys::default()).0;
    let depths = depths(&runs).unwrap();
    let first = runs
        .blocks()
        .iter()
        .zip(&depths)
        .filter(|(_, depth)| **depth == 1);
    let (epochs, others) = first
        .map(|(block, _)| block)
        .partition::<Vec<&Block<Key>>, _>(|block| matches!(block, Block::Epoch1 | Block::Epoch2));
    assert_eq!(others.len(), 1, "the genesis block");
    assert_eq!(epochs.len(), 5, "accounts that an upgrade opened");
    for run in runs.iter() {
        for (offset, block) in run.blocks.iter().enumerate() {
            let index = run.start + offset;
            if offset > 0 {
                assert!(depths[index] > depths[index - 1]);
            }
            if let Some(nano_segments::Source::Send { account, height }) = Block::source(block) {
                assert!(depths[index] > depths[runs.index(account, height).unwrap()]);
            }
        }
    }
}

#[test]
fn roots_are_those_of_the_vectors() {
    let roots: serde_json::Value = serde_json::from_slice(&vector("roots.json")).unwrap();
    for (name, root) in roots["pieces_roots"].as_object().unwrap() {
        assert_eq!(pieces_root(&vector(name)), root.as_str().unwrap(), "{name}");
    }
}

fn pieces_root(bytes: &[u8]) -> String {
    let mut leaves = Vec::new();
    merkle::extend_leaves(&mut leaves, bytes);
    merkle::file_root_from_leaves(&leaves).to_string()
}
