//! Merkle trees, from one leaf to the layer of a file of 100 GB.
#![allow(
    missing_docs,
    reason = "the macros of criterion make undocumented items"
)]

use std::hint::black_box;

use bittorrent_protocol::merkle::{self, fold};
use bittorrent_protocol::{BLOCK_LEN, MerkleHash, PieceLength};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn hashes(count: u32) -> Vec<MerkleHash> {
    (0..count).map(|n| merkle::leaf(&n.to_le_bytes())).collect()
}

fn leaves(c: &mut Criterion) {
    let piece: Vec<u8> = (0..64 * BLOCK_LEN).map(|n| (n / 5) as u8).collect();
    let blocks: Vec<&[u8]> = piece.chunks(BLOCK_LEN as usize).collect();
    let mut group = c.benchmark_group("leaves");
    group.throughput(Throughput::Bytes(BLOCK_LEN.into()));
    group.bench_function("1 of 16 KiB", |b| {
        b.iter(|| merkle::leaf(black_box(blocks[0])));
    });
    group.throughput(Throughput::Bytes(u64::from(BLOCK_LEN) * 2));
    group.bench_function("2 of 16 KiB", |b| {
        b.iter(|| merkle::leaves(black_box(&blocks[..2])));
    });
    group.throughput(Throughput::Bytes(piece.len() as u64));
    group.bench_function("64 of a piece of 1 MiB", |b| {
        b.iter(|| merkle::leaves(black_box(&blocks)));
    });
    group.finish();
}

fn folding(c: &mut Criterion) {
    let mut group = c.benchmark_group("fold");
    for (count, what) in [
        (64, "64 leaves of a piece of 1 MiB"),
        (256, "256 leaves of a piece of 4 MiB"),
        (512, "512 hashes"),
    ] {
        let hashes = hashes(count);
        group.throughput(Throughput::Elements(count.into()));
        group.bench_function(what, |b| {
            b.iter(|| fold(black_box(&hashes), 0, merkle::tree_height(count.into())));
        });
    }
    let layer = hashes(23_842);
    group.throughput(Throughput::Elements(layer.len() as u64));
    group.bench_function("23842 pieces of 4 MiB of 100 GB", |b| {
        b.iter(|| merkle::file_root_from_layer(black_box(&layer), PieceLength::DEFAULT));
    });
    group.finish();
}

criterion_group!(benches, leaves, folding);
criterion_main!(benches);
