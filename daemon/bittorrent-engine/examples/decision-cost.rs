//! Measures what the engine's decisions cost for each block, without network and disk.
//!
//! `cargo run --release -p bittorrent-engine --example decision-cost`
//!
//! One engine downloads from peers that answer every request at once; a share of the peers are seeds,
//! the rest have random halves. Folding the leaves of a piece is part of the cost, hashing content
//! is not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bittorrent_engine::{
    Command, Config, Connected, Content, Direction, Engine, Link, Output, PeerEvent, PeerKey,
    Verdict,
};
use bittorrent_protocol::metainfo::PieceLayer;
use bittorrent_protocol::wire::ExtendedHandshake;
use bittorrent_protocol::{
    BlockSet, InfoHashV2, InfoHashes, Layout, MerkleHash, PeerId, PieceLength, merkle,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
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
            run(blocks, piece_blocks, seeds, others)?;
        }
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn clock() -> Instant {
    Instant::now()
}

fn run(
    blocks: u64,
    piece_blocks: u64,
    seeds: usize,
    others: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let piece_length = PieceLength::new(piece_blocks * 16_384)?;
    // Every block has the same content: the tree is as deep as any.
    let leaf = merkle::leaf(b"block");
    let piece = merkle::fold(&vec![leaf; piece_blocks as usize], 0, piece_length.layer());
    let hashes = vec![piece; (blocks / piece_blocks) as usize];
    let root = merkle::file_root_from_layer(&hashes, piece_length);
    let layout = Arc::new(Layout::new(piece_length, [(blocks * 16_384, Some(root))])?);
    let file = layout.file_index(0).ok_or("no file")?;
    let layer = PieceLayer::new(layout.file(file), piece_length, hashes)?;

    let start = clock();
    let mut now = start;
    let mut engine = Engine::new(Config::default(), [7; 32]);
    let hashes = InfoHashes {
        v2: InfoHashV2::of_info(b""),
        v1: None,
    };
    let torrent = engine.add_torrent(hashes, now);
    let content = Content {
        layout: Arc::clone(&layout),
        layers: vec![Some(Arc::new(layer))],
        verified: BlockSet::new(&layout),
        leaves: Vec::new(),
        reuse: false,
    };
    engine.set_content(torrent, content, now)?;
    let bytes = layout.piece_count().div_ceil(8) as usize;
    for n in 0..seeds + others {
        let connected = Connected {
            addr: SocketAddr::from(([10, 0, 0, n as u8], 6881)),
            direction: Direction::Outgoing,
            peer_id: PeerId::from_bytes([n as u8; 20]),
            fast: true,
            extended: true,
            link: Link::V2,
            local: true,
        };
        let peer = engine.handle_connected(torrent, connected, now)?;
        let reqq = ExtendedHandshake {
            reqq: Some(500),
            ..ExtendedHandshake::default()
        };
        engine.handle_event(peer, PeerEvent::Extensions(reqq), now)?;
        let has = if n < seeds {
            PeerEvent::HaveAll
        } else {
            let byte = |i: usize| (i.wrapping_mul(n + 1).wrapping_mul(0x9e37_79b9) >> 13) as u8;
            let mut bits: Vec<u8> = (0..bytes).map(byte).collect();
            if n + 1 == seeds + others && seeds == 0 {
                bits.fill(u8::MAX);
            }
            let spare = bytes as u32 * 8 - layout.piece_count();
            if let Some(last) = bits.last_mut() {
                *last = *last >> spare << spare;
            }
            PeerEvent::Bitfield(bits)
        };
        engine.handle_event(peer, has, now)?;
        engine.handle_event(peer, PeerEvent::Unchoke, now)?;
    }
    let mut requests: Vec<(PeerKey, bittorrent_protocol::BlockIndex)> = Vec::new();
    let mut received = 0_u64;
    let mut complete = false;
    while !complete {
        while let Some(output) = engine.poll_output() {
            match output {
                Output::Send {
                    peer,
                    command: Command::Request(blocks),
                } => requests.extend(blocks.into_iter().map(|block| (peer, block))),
                Output::Complete { .. } => complete = true,
                _ => {}
            }
        }
        if requests.is_empty() && !complete {
            now += Duration::from_millis(500);
            engine.handle_timeout(now);
        }
        for (n, (peer, block)) in std::mem::take(&mut requests).into_iter().enumerate() {
            received += 1;
            if engine.handle_block(peer, block, leaf, now) == Verdict::Write {
                engine.handle_written(torrent, block, Ok(()), now);
            }
            // As a session does: outputs are taken every few blocks.
            if n % 16 == 15 {
                now += Duration::from_micros(500);
                engine.handle_timeout(now);
                while let Some(output) = engine.poll_output() {
                    match output {
                        Output::Send {
                            peer,
                            command: Command::Request(blocks),
                        } => requests.extend(blocks.into_iter().map(|block| (peer, block))),
                        Output::Complete { .. } => complete = true,
                        _ => {}
                    }
                }
            }
        }
    }
    let took = clock().duration_since(start);
    let _: MerkleHash = leaf;
    println!(
        "{:>8} MiB {:>9} {seeds:>6} {:>6} {:>12} {:>9.2}{}",
        blocks / 64,
        layout.piece_count(),
        seeds + others,
        took.as_nanos() / u128::from(blocks),
        took.as_secs_f64(),
        if received > blocks {
            format!("  {} twice", received - blocks)
        } else {
            String::new()
        },
    );
    Ok(())
}
