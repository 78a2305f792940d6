//! What the index of held blocks costs at the size of a ledger: time and memory to build it, time to look
//! blocks up in it.
//!
//! `cargo run --release --example reuse-index -- [DIRECTORY [GIGABYTES [GENERATIONS]]]`: makes generations
//! with leaf hashes and no content, of which a tenth differs from one to the next.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bittorrent_protocol::metainfo::{HashedContent, Metainfo, MetainfoBuilder};
use bittorrent_protocol::{BLOCK_LEN, MerkleHash, PieceLength, merkle};
use bittorrent_store::testing::Dice;
use bittorrent_store::{RealIo, ReuseSources, StoreError, TorrentStore};

const PIECES_LOOKED_UP: usize = 200;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn random(dice: &mut Dice) -> MerkleHash {
    let mut bytes = [0; MerkleHash::LEN];
    for some in bytes.chunks_mut(8) {
        some.copy_from_slice(&dice.below(u64::MAX).to_le_bytes());
    }
    MerkleHash::from_bytes(bytes)
}

fn generation(dir: &Path, leaves: &[MerkleHash]) -> Outcome<(TorrentStore, Metainfo)> {
    let piece_length = PieceLength::DEFAULT;
    let metainfo = MetainfoBuilder::new("data.ldb", piece_length)
        .single_file(HashedContent {
            length: leaves.len() as u64 * u64::from(BLOCK_LEN),
            root: Some(merkle::file_root_from_leaves(leaves)),
            layer: merkle::piece_layer_from_leaves(leaves, piece_length),
            ..HashedContent::default()
        })
        .build()?;
    let store = TorrentStore::create(dir, &metainfo, Arc::new(RealIo))?;
    let pieces = leaves.chunks(piece_length.blocks() as usize);
    for (piece, leaves) in store.layout().piece_indices().zip(pieces) {
        store.mark_verified(piece, 0, leaves)?;
    }
    store.finish()?;
    Ok((store, metainfo))
}

/// Resident memory of this process in MiB: now, and at most since the last call.
fn memory() -> Outcome<(u64, u64)> {
    let status = fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next());
        kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
    };
    let found = (field("VmRSS:"), field("VmHWM:"));
    fs::write("/proc/self/clear_refs", "5")?;
    Ok(found)
}

/// Milliseconds for a piece, on average.
fn look_up(
    store: &TorrentStore,
    sources: &ReuseSources,
    batches: &[Vec<MerkleHash>],
) -> Result<f64, StoreError> {
    let started = Instant::now();
    for (piece, leaves) in store.layout().piece_indices().zip(batches) {
        sources.reuse_blocks(store, piece, Some(leaves))?;
    }
    Ok(started.elapsed().as_secs_f64() * 1000.0 / batches.len() as f64)
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments
        .next()
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = dir.join(format!("reuse-index-{}", std::process::id()));
    let gigabytes: u64 = arguments.next().map_or(Ok(121), |text| text.parse())?;
    let count: usize = arguments.next().map_or(Ok(1), |text| text.parse())?;

    let mut dice = Dice::new(1);
    let blocks = (gigabytes * 1_000_000_000 / u64::from(BLOCK_LEN)) as usize;
    let mut leaves: Vec<_> = (0..blocks).map(|_| random(&mut dice)).collect();
    let mut generations = Vec::new();
    let mut meta = None;
    let per_piece = PieceLength::DEFAULT.blocks() as usize;
    let mut moved = Vec::new();
    for number in 0..count {
        let (store, metainfo) = generation(&dir.join(number.to_string()), &leaves)?;
        generations.push(Arc::new(store));
        meta = Some(metainfo);
        // Blocks of pieces far from where they are looked for.
        moved = leaves
            .rchunks_exact(per_piece)
            .take(PIECES_LOOKED_UP)
            .map(<[MerkleHash]>::to_vec)
            .collect();
        for leaf in &mut leaves {
            if dice.below(10) == 0 {
                *leaf = random(&mut dice);
            }
        }
    }
    drop(leaves);
    let fresh: Vec<Vec<_>> = (0..PIECES_LOOKED_UP)
        .map(|_| (0..per_piece).map(|_| random(&mut dice)).collect())
        .collect();
    let meta = meta.ok_or("no generation")?;
    let target = TorrentStore::create(&dir.join("target"), &meta, Arc::new(RealIo))?;
    generations.reverse();

    memory()?;
    let (before, _) = memory()?;
    let started = Instant::now();
    let plain = ReuseSources::new(generations.clone());
    let scratch = dir.join("scratch");
    let sources = ReuseSources::new(generations).with_index(&scratch, &RealIo, &|| true)?;
    let took = started.elapsed();
    let (after, peak) = memory()?;
    let bytes = fs::metadata(scratch.join("leaf-index"))?.len();
    println!(
        "{count} × {gigabytes} GB, {blocks} blocks each: built in {:.1} s, {} MB on disk, \
         memory +{} MiB at most, +{} MiB afterwards",
        took.as_secs_f64(),
        bytes / 1_000_000,
        peak.saturating_sub(before),
        after.saturating_sub(before),
    );
    let without = look_up(&target, &plain, &fresh)?;
    println!(
        "a piece of {per_piece} blocks: {:.2} ms to find none of them, {:.2} ms to find all of them \
         elsewhere and read them there; {without:.2} ms without the index",
        look_up(&target, &sources, &fresh)?,
        look_up(&target, &sources, &moved)?,
    );
    fs::remove_dir_all(&dir)?;
    Ok(())
}
