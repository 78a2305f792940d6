//! Lanes against one message after the other.
#![allow(
    missing_docs,
    reason = "the macros of criterion make undocumented items"
)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sha_lanes::{Sha1, sha256_many, sha256_parents};
use sha2::Digest as _;

/// Stays in a cache.
const CONTENT: usize = 48 * (16 << 10);

fn content() -> Vec<u8> {
    (0..CONTENT).map(|n| ((n * n) >> 7) as u8).collect()
}

fn leaves(c: &mut Criterion) {
    let content = content();
    let blocks: Vec<&[u8]> = content.chunks(16 << 10).collect();
    let mut group = c.benchmark_group("sha256 of 48 blocks of 16 KiB");
    group.throughput(Throughput::Bytes(CONTENT as u64));
    group.bench_function("one by one", |b| {
        b.iter(|| {
            for block in &blocks {
                black_box(sha2::Sha256::digest(block));
            }
        });
    });
    group.bench_function("lanes", |b| {
        let mut digests = [[0; 32]; 48];
        b.iter(|| {
            sha256_many(&blocks, &mut digests);
            black_box(&digests);
        });
    });
    group.finish();
}

fn parents(c: &mut Criterion) {
    let nodes = [[7; 32]; 1024];
    let mut group = c.benchmark_group("sha256 of 512 pairs of nodes");
    group.throughput(Throughput::Elements(512));
    group.bench_function("one by one", |b| {
        b.iter(|| {
            for pair in black_box(&nodes).as_chunks::<2>().0 {
                black_box(sha2::Sha256::digest(pair.as_flattened()));
            }
        });
    });
    group.bench_function("lanes", |b| {
        b.iter(|| {
            let mut nodes = *black_box(&nodes);
            black_box(sha256_parents(&mut nodes));
        });
    });
    group.finish();
}

fn pieces(c: &mut Criterion) {
    let content = content();
    let pieces: Vec<_> = content
        .chunks(CONTENT / Sha1::LANES)
        .map(|piece| piece.as_chunks().0)
        .collect();
    let mut group = c.benchmark_group("sha1 of 3 pieces of 256 KiB");
    group.throughput(Throughput::Bytes(CONTENT as u64));
    group.bench_function("one by one", |b| {
        b.iter(|| {
            for piece in &pieces {
                black_box(sha1::Sha1::digest(piece.as_flattened()));
            }
        });
    });
    group.bench_function("lanes", |b| {
        b.iter(|| {
            let mut hashes = [Sha1::default(); Sha1::LANES];
            Sha1::update_many(&mut hashes, &pieces);
            black_box(hashes.map(|hash| hash.finish(&[])));
        });
    });
    group.finish();
}

criterion_group!(benches, leaves, parents, pieces);
criterion_main!(benches);
