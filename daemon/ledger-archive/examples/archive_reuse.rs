//! How much of a day's archive is found again in the archive of the day before, by frame size, and
//! how fast packing and extracting are.
//!
//! ```text
//! cargo run --release -p ledger-archive --example archive_reuse -- [MiB of ledger] [blocks of the day]
//! cargo run --release -p ledger-archive --example archive_reuse -- OLD NEW
//! ```
//!
//! The ledger is invented unless two are named. A leaf is 16 KiB at a multiple of 16 KiB; one counts as found when the
//! old file has it anywhere.

use std::collections::HashSet;
use std::error::Error;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ledger_archive::{ExtractOptions, PackOptions, extract_file, pack_file};
use nano_ledger::synthetic;

const MIB: f64 = 1048576.0;

fn main() -> Result<(), Box<dyn Error>> {
    let named: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if let [old, new] = &named[..]
        && old.is_file()
    {
        return compare(old, new);
    }
    let mut arguments = std::env::args().skip(1);
    let mib: u64 = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let blocks: u64 = match arguments.next() {
        Some(text) => text.parse()?,
        // What a quiet day brings to the live ledger, by its size.
        None => (mib << 20) * 10_000 / 121_000_000_000 + 1,
    };
    let dir = tempfile::tempdir()?;
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let target_len = mib << 20;
    synthetic::create(
        &old,
        &synthetic::Options {
            seed: 1,
            target_len,
        },
    )?;
    // Wear it in: a fresh ledger is more orderly than a used one.
    for _ in 0..3 {
        synthetic::add_day(&old, blocks, 1)?;
    }
    fs::copy(&old, &new)?;
    synthetic::add_day(&new, blocks, 1)?;
    println!("a day of {blocks} blocks");
    compare(&old, &new)
}

/// Prints a line for each layout.
fn compare(old: &Path, new: &Path) -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let len = fs::metadata(new)?.len();
    println!("ledger of {:.1} MiB", len as f64 / MIB);
    println!("| layout | size | of plain | new leaves | to transfer | pack | extract |");
    println!("|---|---|---|---|---|---|---|");
    row("plain", old, new, len, None)?;
    let (old_archive, new_archive) = (dir.path().join("old.zst"), dir.path().join("new.zst"));
    for kib in [64, 128, 256, 1024, 4096] {
        let options = PackOptions::default().with_frame_bytes(kib << 10)?;
        pack_file(old, File::create(&old_archive)?, &options)?;
        let begin = Instant::now();
        pack_file(new, File::create(&new_archive)?, &options)?;
        let packing = begin.elapsed().as_secs_f64();
        let target = dir.path().join("data.ldb");
        let begin = Instant::now();
        let going = |_| ControlFlow::Continue(());
        extract_file(&new_archive, &target, ExtractOptions::new(u64::MAX), going)?.install()?;
        let extracting = begin.elapsed().as_secs_f64();
        let speeds = (len as f64 / MIB / packing, len as f64 / MIB / extracting);
        let name = format!("frames of {kib} KiB");
        row(&name, &old_archive, &new_archive, len, Some(speeds))?;
    }
    Ok(())
}

fn row(
    name: &str,
    old: &Path,
    new: &Path,
    plain: u64,
    speeds: Option<(f64, f64)>,
) -> Result<(), Box<dyn Error>> {
    let held: HashSet<u64> = leaves(old)?.into_iter().collect();
    let all = leaves(new)?;
    let fresh = all.iter().filter(|leaf| !held.contains(leaf)).count();
    let size = fs::metadata(new)?.len();
    let speeds = speeds.map_or("| ".to_owned(), |(pack, extract)| {
        format!("{pack:.0} MiB/s | {extract:.0} MiB/s")
    });
    println!(
        "| {name} | {:.1} MiB | {:.1} % | {:.1} % | {:.2} MiB | {speeds} |",
        size as f64 / MIB,
        100.0 * size as f64 / plain as f64,
        100.0 * fresh as f64 / all.len() as f64,
        fresh as f64 * 16.0 / 1024.0,
    );
    Ok(())
}

fn leaves(path: &Path) -> io::Result<Vec<u64>> {
    let mut file = File::open(path)?;
    let mut leaves = Vec::new();
    let mut leaf = Vec::new();
    loop {
        leaf.clear();
        (&mut file).take(16 << 10).read_to_end(&mut leaf)?;
        if leaf.is_empty() {
            return Ok(leaves);
        }
        let mut hasher = DefaultHasher::new();
        hasher.write(&leaf);
        leaves.push(hasher.finish());
    }
}
