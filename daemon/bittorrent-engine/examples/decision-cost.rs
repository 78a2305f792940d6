//! Measures what the engine's decisions cost for each block, without network and disk.
//!
//! `cargo run --release -p bittorrent-engine --example decision-cost`
//!
//! One engine downloads from peers that answer every request at once; a share of the peers are seeds,
//! the rest have random halves. Folding the leaves of a piece is part of the cost, hashing content
//! is not. Then, on Linux, what an engine takes of memory in the middle of 100 GB from 50 peers.

#![allow(
    clippy::unwrap_used,
    reason = "what the benches share with this is not made to fail"
)]

#[path = "../benches/harness/mod.rs"]
#[expect(dead_code, reason = "benches use more of it")]
mod harness;

use std::time::Instant;

use harness::{Download, Shape};

fn main() {
    memory();
    println!(
        "{:>12} {:>9} {:>6} {:>6} {:>12} {:>9}",
        "content", "pieces", "seeds", "peers", "ns/block", "seconds"
    );
    for (blocks, piece_blocks) in [
        (131_072, 1),
        (131_072, 64),
        (131_072, 256),
        (1_966_080, 256),
    ] {
        for (seeds, others) in [(1, 0), (5, 45), (0, 50)] {
            run(blocks, piece_blocks, seeds, others);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn clock() -> Instant {
    Instant::now()
}

fn run(blocks: u64, piece_blocks: u64, seeds: usize, others: usize) {
    let shape = Shape::new(blocks, piece_blocks);
    let start = clock();
    let mut download = Download::among(&shape, seeds, others, start);
    while !download.complete {
        download.run(blocks);
    }
    let took = clock().duration_since(start);
    println!(
        "{:>8} MiB {:>9} {seeds:>6} {:>6} {:>12} {:>9.2}{}",
        blocks / 64,
        shape.layout.piece_count(),
        seeds + others,
        took.as_nanos() / u128::from(blocks),
        took.as_secs_f64(),
        match download.received - blocks {
            0 => String::new(),
            twice => format!("  {twice} twice"),
        },
    );
}

/// Resident bytes of this process, where the system tells.
fn resident() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4_096)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the argument says which size a child measures"
)]
/// In a process of its own for each size, so that none finds what another one gave back.
fn memory() {
    const CONTENT: u64 = 100_000_000_000 / 16_384;
    let Some(piece_blocks) = std::env::args().nth(1) else {
        let this = std::env::current_exe().unwrap();
        for piece_blocks in ["256", "64", "4"] {
            let mut child = std::process::Command::new(&this);
            child.arg(piece_blocks).status().unwrap();
        }
        return;
    };
    let shape = Shape::new(CONTENT, piece_blocks.parse().unwrap());
    if let Some(before) = resident() {
        let mut download = Download::among(&shape, 5, 45, clock());
        // Far enough for every peer to have its requests out.
        download.run(200_000);
        let after = resident().unwrap_or(before);
        println!(
            "100 GB in {} pieces, 50 peers: {:.1} MiB",
            shape.layout.piece_count(),
            after.saturating_sub(before) as f64 / 1_048_576.0
        );
    }
    std::process::exit(0);
}
