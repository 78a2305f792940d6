//! What the picker costs at the sizes of ledgers: for each block from its request to its proof, and
//! for a peer that comes and goes. Folding the leaves of pieces is part of it, hashing content is not.
//!
//! `cargo bench -p bittorrent-engine`; with `-- --test` each runs once.

#![allow(
    clippy::unwrap_used,
    reason = "a bench that cannot begin must not go on"
)]

mod harness;

use std::hint::black_box;
use std::time::{Duration, Instant};

use bittorrent_engine::PeerEvent;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use harness::{Download, Shape};

/// Blocks in 100 GB.
const CONTENT: u64 = 100_000_000_000 / 16_384;
/// Blocks that are handled at a time.
const RUN: u64 = 1_024;

#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn clock() -> Instant {
    Instant::now()
}

/// Name, blocks and blocks in a piece. As many 16 KiB pieces as a torrent may have are 32 GiB.
const SHAPES: [(&str, u64, u64); 4] = [
    ("100GB-4MiB", CONTENT, 256),
    ("100GB-1MiB", CONTENT, 64),
    ("100GB-64KiB", CONTENT, 4),
    ("32GiB-16KiB", 1 << 21, 1),
];

/// 1,024 blocks are picked, arrive and are written.
fn blocks(c: &mut Criterion) {
    let mut group = c.benchmark_group("blocks");
    group.throughput(Throughput::Elements(RUN));
    for (name, blocks, piece_blocks) in SHAPES {
        let shape = Shape::new(blocks, piece_blocks);
        for (peers, seeds, others) in [("1-peer", 1, 0), ("50-peers", 5, 45)] {
            let fresh = || {
                let mut download = Download::among(&shape, seeds, others, clock());
                // Past the beginning, where windows still grow.
                download.run(16 * RUN);
                download
            };
            let mut state = None;
            group.bench_function(format!("{name}/{peers}"), |b| {
                b.iter_custom(|runs| {
                    let mut took = Duration::ZERO;
                    for _ in 0..runs {
                        let download = state.get_or_insert_with(fresh);
                        let start = clock();
                        download.run(RUN);
                        took += clock().duration_since(start);
                        if download.received + 2 * RUN > blocks {
                            state = None;
                        }
                    }
                    took
                });
            });
        }
    }
    group.finish();
}

/// A peer with a random half of the pieces comes and goes while 50 others are there.
fn bitfield(c: &mut Criterion) {
    let mut group = c.benchmark_group("peer-with-half");
    for (name, blocks, piece_blocks) in SHAPES {
        let shape = Shape::new(blocks, piece_blocks);
        let bits = shape.half(50);
        let mut download = Download::among(&shape, 5, 45, clock());
        download.drain();
        let mut number = 50;
        group.bench_function(name, |b| {
            b.iter(|| {
                // Another address each time: those that left are remembered.
                number += 1;
                let peer = download.connect(number);
                download.event(peer, PeerEvent::Bitfield(black_box(bits.clone())));
                download.disconnect(peer);
                while download.engine.poll_output().is_some() {}
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = blocks, bitfield
}
criterion_main!(benches);
