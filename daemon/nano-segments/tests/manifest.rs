//! Manifests: one spelling, tiling, append-only, the cheapest cover, ten years of days.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use nano_segments::manifest::{
    Entry, FileRoot, MAX_LEN, Manifest, ManifestError, TIME_GRAIN, Tier, gaps,
};
use proptest::prelude::*;

type Fault = fn(&mut Manifest);

/// Generations that keep the tails of a sealed range.
const GRACE: usize = 32;

fn root(tier: Tier, from: u64, salt: u8) -> [u8; 32] {
    let mut root = [salt; 32];
    root[..8].copy_from_slice(&from.to_le_bytes());
    root[8] = tier as u8;
    root
}

fn entry(tier: Tier, from: u64, to: u64, as_of: u64) -> Entry {
    let blocks = to - from;
    Entry {
        tier,
        from,
        to,
        as_of,
        keys: blocks / 5,
        blocks: FileRoot {
            length: 13 * blocks + 112,
            root: root(tier, from, 1),
        },
        proofs: FileRoot {
            length: 72 * blocks,
            root: root(tier, from, 2),
        },
    }
}

fn hash(generation: u64) -> [u8; 32] {
    let mut hash = [9; 32];
    hash[..8].copy_from_slice(&generation.to_le_bytes());
    hash
}

/// A manifest of a base in pieces and nothing else.
fn base(blocks: u64, piece: u64) -> Manifest {
    let mut segments = Vec::new();
    let mut from = 0;
    while from < blocks {
        let to = (from + piece).min(blocks);
        segments.push(entry(Tier::Sealed, from, to, 0));
        from = to;
    }
    Manifest {
        network: "live".into(),
        genesis: [0x99; 32],
        generation: 0,
        as_of: TIME_GRAIN,
        previous: None,
        cemented: blocks,
        sealed: blocks,
        accounts: blocks / 4 + 1,
        state: [4; 32],
        segments,
    }
}

/// The next day: a tail, and when enough is there the sealed segment of it.
fn next(old: &Manifest, blocks: u64, seal_at: u64) -> Manifest {
    let mut new = old.clone();
    new.generation += 1;
    new.previous = Some(hash(old.generation));
    new.as_of += 24 * TIME_GRAIN;
    new.cemented += blocks;
    new.accounts += blocks / 10;
    let mut sealed: Vec<Entry> = old.tier(Tier::Sealed).cloned().collect();
    let mut tails: Vec<Entry> = old.tier(Tier::Tail).cloned().collect();
    tails.push(entry(Tier::Tail, old.cemented, new.cemented, new.as_of));
    if new.cemented - new.sealed >= seal_at {
        sealed.push(entry(Tier::Sealed, new.sealed, new.cemented, new.as_of));
        new.sealed = new.cemented;
    }
    let surplus = tails.len().saturating_sub(GRACE);
    let gone = tails
        .iter()
        .take(surplus)
        .take_while(|tail| tail.to <= new.sealed)
        .count();
    tails.drain(..gone);
    sealed.append(&mut tails);
    new.segments = sealed;
    new
}

#[test]
fn there_is_one_spelling() {
    let manifest = next(&next(&base(5000, 2000), 30, 50), 30, 50);
    let text = manifest.write();
    assert_eq!(Manifest::read(text.as_bytes()).unwrap(), manifest);
    let other_spellings = [
        text.replace("format = 1", "format =  1"),
        text.replacen('\n', "\r\n", 1),
        format!("{text}# a comment\n"),
        text.replacen("state = \"0404", "state = \"0x04", 1),
        text.replace("generation = 2", "generation = 0x2"),
        text.replace("[[segment]]", "[[ segment ]]"),
        text.trim_end().to_owned(),
        text.replacen("network", "genesis = \"00\"\nnetwork", 1),
        text.replacen("as-of", "as_of", 1),
        text.replacen("tier = \"sealed\"", "tier = \"other\"", 1),
        text.replacen("99", "9A", 1),
        text.replace("format = 1", "format = 2"),
        " ".repeat(MAX_LEN + 1),
    ];
    for other in other_spellings {
        assert!(
            matches!(
                Manifest::read(other.as_bytes()),
                Err(ManifestError::Spelling { .. })
            ),
            "{}",
            &other[..other.len().min(300)]
        );
    }
}

#[test]
fn segments_tile_the_cut() {
    let good = next(&next(&base(5000, 2000), 30, 1000), 30, 1000);
    assert_eq!(good.check(), Ok(()));
    let faults: [(&str, Fault); 12] = [
        ("a sealed segment is missing", |m| {
            m.segments.remove(1);
        }),
        ("a tail is missing", |m| {
            m.segments.remove(3);
        }),
        ("the last tail is missing", |m| {
            m.segments.pop();
        }),
        ("a segment twice", |m| {
            m.segments.insert(0, m.segments[0].clone());
        }),
        ("out of order", |m| m.segments.swap(0, 1)),
        ("cemented", |m| m.cemented += 1),
        ("sealed", |m| m.sealed -= 1),
        ("above cemented", |m| m.sealed = m.cemented + 1),
        ("zero genesis", |m| m.genesis = [0; 32]),
        ("zero previous", |m| m.previous = Some([0; 32])),
        ("no previous", |m| m.previous = None),
        ("time", |m| m.as_of += 1),
    ];
    for (what, fault) in faults {
        let mut bad = good.clone();
        fault(&mut bad);
        assert!(bad.check().is_err(), "{what}");
        assert!(Manifest::read(bad.write().as_bytes()).is_err(), "{what}");
    }
}

#[test]
fn a_manifest_only_adds() {
    let old = next(&next(&base(5000, 2000), 30, 1000), 30, 1000);
    let good = next(&old, 30, 1000);
    assert_eq!(good.follows(&old, &hash(2)), Ok(()));
    let faults: [(&str, Fault); 11] = [
        ("another network", |m| m.network = "beta".into()),
        ("another genesis", |m| m.genesis = [1; 32]),
        ("the same generation", |m| m.generation -= 1),
        ("an earlier generation", |m| m.generation = 0),
        ("another previous", |m| m.previous = Some([1; 32])),
        ("time goes back", |m| m.as_of = TIME_GRAIN),
        ("cemented goes back", |m| {
            m.segments.truncate(4);
            m.cemented = 5030;
        }),
        ("a sealed root changed", |m| {
            m.segments[0].blocks.root = [0xee; 32];
        }),
        ("a sealed segment in other pieces", |m| {
            let whole = entry(Tier::Sealed, 0, 4000, 0);
            m.segments.splice(0..2, [whole]);
        }),
        ("a tail changed", |m| m.segments[3].proofs.root = [0xee; 32]),
        ("tails in one", |m| {
            let whole = entry(Tier::Tail, 5000, 5060, m.as_of);
            m.segments.splice(3..5, [whole]);
        }),
    ];
    for (what, fault) in faults {
        let mut bad = good.clone();
        fault(&mut bad);
        assert!(
            matches!(
                bad.follows(&old, &hash(2)),
                Err(ManifestError::NotAppendOnly { .. })
            ),
            "{what}"
        );
    }
    // Tails go only when they are sealed.
    let mut sealed = next(&old, 30, 90);
    assert_eq!(sealed.sealed, 5090);
    sealed
        .segments
        .retain(|segment| segment.tier == Tier::Sealed);
    assert_eq!(sealed.check(), Ok(()));
    assert_eq!(sealed.follows(&old, &hash(2)), Ok(()));
    // Who was away for some generations need not know the one before.
    let later = next(&next(&good, 30, 1000), 30, 1000);
    assert_eq!(later.follows(&old, &hash(2)), Ok(()));
}

#[test]
fn the_torrent_has_the_listed_files_and_no_other() {
    let manifest = next(&base(5000, 2000), 30, 1000);
    let files: Vec<(String, FileRoot)> = manifest.segments.iter().flat_map(Entry::files).collect();
    assert_eq!(files[0].0, "sealed/000000000000-000000002000.blocks");
    assert_eq!(files[7].0, "tail/000000005000-000000005030.proofs");
    let check = |files: &[(String, FileRoot)]| {
        manifest.check_files(files.iter().map(|(name, file)| (name.as_str(), *file)))
    };
    assert_eq!(check(&files), Ok(()));
    let differs = |files: &[(String, FileRoot)]| {
        matches!(check(files), Err(ManifestError::FilesDiffer { .. }))
    };
    assert!(differs(&files[1..]));
    let mut more = files.clone();
    more.push(("tail/000000005030-000000005031.blocks".into(), files[0].1));
    assert!(differs(&more));
    let mut twice = files.clone();
    twice.push(files[0].clone());
    assert!(differs(&twice));
    let mut other = files;
    other[2].1.root[0] ^= 1;
    assert!(differs(&other));
}

#[test]
fn ten_years_of_days_are_followed() {
    // Live thresholds and rates.
    for (per_day, days) in [(10_000, 3650), (75_000, 3650), (1_000_000, 400)] {
        let seal_at = 1 << 20;
        let mut manifest = base(205_000_000, 1 << 20);
        let mut away: Vec<Manifest> = Vec::new();
        for _ in 0..days {
            let new = next(&manifest, per_day, seal_at);
            assert_eq!(new.check(), Ok(()));
            assert_eq!(new.follows(&manifest, &hash(manifest.generation)), Ok(()));
            let day = new.cover(manifest.cemented).unwrap();
            assert_eq!(
                day.iter().map(|entry| entry.to - entry.from).sum::<u64>(),
                per_day
            );
            away.push(manifest);
            manifest = new;
        }
        assert!(manifest.write().len() < MAX_LEN / 4);
        for days in [1, 31, 33, 400] {
            let old = &away[away.len() - days];
            assert_eq!(manifest.follows(old, &hash(old.generation)), Ok(()));
            // From a cut whose tails are gone the sealed segment that contains it is needed, so it begins at the cut that it sealed.
            let from = if manifest
                .tier(Tier::Tail)
                .any(|tail| tail.from == old.cemented)
            {
                old.cemented
            } else {
                old.sealed
            };
            let cover = manifest.cover(from).unwrap();
            assert_eq!(
                cover.first().map(|entry| entry.from),
                Some(from),
                "away for {days} days"
            );
        }
        let first = manifest.cover(0).unwrap();
        assert_eq!(
            first.iter().map(|entry| entry.to - entry.from).sum::<u64>(),
            manifest.cemented
        );
    }
}

#[test]
fn gaps_are_what_no_range_covers() {
    assert_eq!(
        gaps([(0, 10), (20, 30), (25, 40)], 50),
        [(10, 20), (40, 50)]
    );
    assert_eq!(gaps([(0, 100)], 50), []);
    assert_eq!(gaps([], 50), [(0, 50)]);
    assert_eq!(gaps([(60, 70)], 50), [(0, 50)]);
    assert_eq!(gaps([], 0), []);
}

/// The cheapest way by trying all.
fn cheapest(segments: &[Entry], from: u64, to: u64) -> Option<u64> {
    if from == to {
        return Some(0);
    }
    let begins = segments.iter().filter(|entry| entry.from == from);
    begins
        .filter_map(|entry| Some(entry.length() + cheapest(segments, entry.to, to)?))
        .min()
}

proptest! {
    #[test]
    fn a_cover_is_the_cheapest(edges in prop::collection::vec((0..12_u64, 1..6_u64, 1..1000_u64), 1..20), from in 0..12_u64) {
        let mut manifest = base(12, 12);
        manifest.segments = edges
            .into_iter()
            .map(|(from, blocks, bytes)| {
                let mut entry = entry(Tier::Tail, from, from + blocks, 0);
                entry.blocks.length = bytes;
                entry
            })
            .collect();
        let cover = manifest.cover(from);
        let length = cover.map(|cover| cover.iter().map(|entry| entry.length()).sum::<u64>());
        prop_assert_eq!(length, cheapest(&manifest.segments, from, manifest.cemented));
    }

    #[test]
    fn any_text_is_read_without_panic(text in ".{0,300}", at in 0..2000_usize, byte in any::<u8>()) {
        let _ = Manifest::read(text.as_bytes());
        let manifest = next(&base(5000, 2000), 30, 1000);
        let mut bytes = manifest.write().into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(other) = Manifest::read(&bytes) {
            prop_assert_eq!(other.write().into_bytes(), bytes);
        }
    }
}
