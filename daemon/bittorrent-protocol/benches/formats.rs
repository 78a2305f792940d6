//! Bencode and the wire codec, at the sizes of a ledger of 100 GB.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "the macros of criterion make undocumented items; a failed unwrap is a broken bench"
)]

use std::hint::black_box;

use bittorrent_protocol::bencode::{Limits, decode};
use bittorrent_protocol::merkle::{self, HashRequest};
use bittorrent_protocol::metainfo::{HashedContent, Metainfo, MetainfoBuilder};
use bittorrent_protocol::wire::{HashList, Header, MAX_MESSAGE_LEN, Message, Request, Step};
use bittorrent_protocol::{BLOCK_LEN, MerkleHash, PieceLength};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn torrent_of_100_gb() -> Metainfo {
    let length = 100_000_000_000_u64;
    let piece_length = PieceLength::DEFAULT;
    let pieces = length.div_ceil(piece_length.bytes().into()) as u32;
    let layer: Vec<_> = (0..pieces)
        .map(|n| merkle::leaf(&n.to_le_bytes()))
        .collect();
    MetainfoBuilder::new("data.ldb", piece_length)
        .single_file(HashedContent {
            length,
            root: Some(merkle::file_root_from_layer(&layer, piece_length)),
            layer,
            ..HashedContent::default()
        })
        .build()
        .unwrap()
}

fn bencode(c: &mut Criterion) {
    let torrent = torrent_of_100_gb();
    let encoded = torrent.encode();
    let mut group = c.benchmark_group("torrent of 100 GB in pieces of 4 MiB");
    group.throughput(Throughput::Bytes(encoded.len() as u64));
    group.bench_function("bencode decode", |b| {
        b.iter(|| decode(black_box(&encoded), &Limits::TORRENT).unwrap());
    });
    group.bench_function("parse and prove", |b| {
        b.iter(|| Metainfo::parse(black_box(&encoded), &Limits::TORRENT).unwrap());
    });
    group.bench_function("encode", |b| b.iter(|| black_box(&torrent).encode()));
    group.finish();
}

/// Decodes all messages of a stream; returns how many.
fn decode_all(mut stream: &[u8]) -> usize {
    let mut count = 0;
    while !stream.is_empty() {
        match Message::decode(stream, MAX_MESSAGE_LEN).unwrap() {
            Step::Message { message, consumed } => {
                black_box(message);
                stream = stream.split_at(consumed).1;
                count += 1;
            }
            Step::Need(more) => panic!("{more} bytes are missing"),
        }
    }
    count
}

fn wire(c: &mut Criterion) {
    const REQUESTS: u32 = 1000;
    let requests: Vec<_> = (0..REQUESTS)
        .map(|n| Request {
            index: n / 256,
            begin: n % 256 * BLOCK_LEN,
            length: BLOCK_LEN,
        })
        .collect();
    let mut stream = Vec::new();
    for request in &requests {
        Message::Request(*request).encode(&mut stream);
    }
    let mut group = c.benchmark_group("1000 requests");
    group.throughput(Throughput::Elements(REQUESTS.into()));
    group.bench_function("encode", |b| {
        let mut out = Vec::with_capacity(stream.len());
        b.iter(|| {
            out.clear();
            for request in &requests {
                Message::Request(*request).encode(&mut out);
            }
            black_box(&out);
        });
    });
    group.bench_function("decode", |b| b.iter(|| decode_all(black_box(&stream))));
    group.finish();

    let data = vec![7; BLOCK_LEN as usize];
    let mut blocks = Vec::new();
    for request in requests.iter().take(64) {
        let Request { index, begin, .. } = *request;
        Message::Piece {
            index,
            begin,
            data: &data,
        }
        .encode(&mut blocks);
    }
    let mut group = c.benchmark_group("64 piece messages of 16 KiB");
    group.throughput(Throughput::Elements(64));
    group.bench_function("headers", |b| {
        b.iter(|| {
            let mut stream = black_box(&blocks[..]);
            while let Ok(Header::Piece { payload, .. }) = Header::peek(stream, MAX_MESSAGE_LEN) {
                stream = stream.split_at(13 + payload as usize).1;
            }
            assert!(stream.is_empty());
        });
    });
    group.bench_function("decode", |b| b.iter(|| decode_all(black_box(&blocks))));
    group.finish();

    let hashes: Vec<MerkleHash> = (0..8192_u32)
        .map(|n| merkle::leaf(&n.to_le_bytes()))
        .collect();
    let request = HashRequest {
        root: merkle::pad(1),
        base: 0,
        index: 0,
        count: 8192,
        proof_layers: 0,
    };
    let message = Message::Hashes(request, HashList::from(&hashes[..]));
    let mut encoded = Vec::new();
    message.encode(&mut encoded);
    let mut group = c.benchmark_group("hashes message of 8192 hashes");
    group.throughput(Throughput::Elements(8192));
    group.bench_function("encode", |b| {
        let mut out = Vec::with_capacity(encoded.len());
        b.iter(|| {
            out.clear();
            message.encode(&mut out);
            black_box(&out);
        });
    });
    group.bench_function("decode", |b| {
        b.iter(
            || match Message::decode(black_box(&encoded), MAX_MESSAGE_LEN).unwrap() {
                Step::Message {
                    message: Message::Hashes(_, hashes),
                    ..
                } => hashes.to_vec(),
                other => panic!("{other:?}"),
            },
        );
    });
    group.finish();
}

criterion_group!(benches, bencode, wire);
criterion_main!(benches);
