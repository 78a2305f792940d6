//! Runs every fuzz target for a bounded time on the stable toolchain: over its corpus, and over
//! inputs that a seeded generator makes from the corpus. What fails prints its input and the seed;
//! `FUZZ_SEED` and `FUZZ_CASES` choose another seed and number of inputs.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::{env, fs};

use fuzz_bodies::{Body, TARGETS};

const SEED: u64 = 0x6e61_6e6f;
const CASES: usize = 1000;
const MAX_INPUT: usize = 1 << 16;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if there is none.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % (bound.max(1) as u64)) as usize
    }

    fn byte(&mut self) -> u8 {
        // Bytes that decoders care for come often.
        const SPECIAL: &[u8] = b"\x00\x01\x7f\x80\xffilde0123456789:-";
        match self.below(3) {
            0 => SPECIAL[self.below(SPECIAL.len())],
            _ => self.next() as u8,
        }
    }
}

fn number_from_environment(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<PathBuf> = fs::read_dir(root().join("corpus").join(target))
        .unwrap_or_else(|error| panic!("the corpus of {target}: {error}"))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let bytes = fs::read(&path).unwrap();
            (path, bytes)
        })
        .collect()
}

/// One to eight changes to an input of the corpus.
fn mutate(random: &mut Random, corpus: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].1.clone();
    for _ in 0..=random.below(8) {
        let at = random.below(input.len() + 1);
        let until = at + random.below((input.len() - at).min(64) + 1);
        match random.below(7) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.byte(),
            2 => input.insert(at, random.byte()),
            3 => drop(input.drain(at..until)),
            4 => input.truncate(at),
            5 => {
                let copy = input[at..until].to_vec();
                input.splice(at..at, copy);
            }
            _ => {
                let other = &corpus[random.below(corpus.len())].1;
                let from = random.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
    input.truncate(MAX_INPUT);
    input
}

fn noise(random: &mut Random) -> Vec<u8> {
    let len = random.below(300);
    (0..len).map(|_| random.byte()).collect()
}

fn run(target: &str, body: Body, input: &[u8], origin: &str) {
    if catch_unwind(AssertUnwindSafe(|| body(input))).is_err() {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("{target} fails on {origin}, {} bytes: {hex}", input.len());
    }
}

fn exercise(target: &str) {
    let (_, body) = *TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let corpus = corpus(target);
    for (path, input) in &corpus {
        run(target, body, input, &path.display().to_string());
    }
    run(target, body, &[], "no input");
    let seed = number_from_environment("FUZZ_SEED", SEED);
    let mut random = Random(seed);
    for case in 0..number_from_environment("FUZZ_CASES", CASES as u64) {
        let input = match case % 8 {
            0 => noise(&mut random),
            _ => mutate(&mut random, &corpus),
        };
        run(
            target,
            body,
            &input,
            &format!("case {case} of FUZZ_SEED={seed}"),
        );
    }
}

macro_rules! bounded {
    ($($target:ident)*) => {
        $(#[test]
        fn $target() {
            exercise(stringify!($target));
        })*

        const BOUNDED: &[&str] = &[$(stringify!($target)),*];
    };
}

bounded! {
    archive
    archive_tar
    bencode
    engine
    extended_handshake
    hash_reply
    info
    ledger
    magnet
    metadata_message
    metainfo
    mse
    pointer_item
    pointer_record
    pointer_standing
    segment_body
    segment_manifest
    segment_proofs
    wire
}

/// The names of the files in a folder, without extension.
fn names(folder: &str) -> BTreeSet<String> {
    fs::read_dir(root().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn every_target_has_a_program_a_corpus_and_a_bounded_test() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("corpus"), targets);
    let bounded: BTreeSet<String> = BOUNDED.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(bounded, targets);
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    for target in &targets {
        assert!(
            manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")),
            "{target}"
        );
        assert!(!corpus(target).is_empty(), "{target}");
    }
}
