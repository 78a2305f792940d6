//! Makes a torrent of a file or directory and says its hash, the root of its first file and how long it
//! took, or copies it into a generation on the way.
//!
//! ```text
//! hash PATH [PIECE-LENGTH-IN-KIB] [hybrid] [GENERATION-DIRECTORY]
//! ```
#![expect(clippy::print_stdout, reason = "this is what the example is for")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bittorrent_protocol::PieceLength;
use bittorrent_store::RealIo;
use bittorrent_store::create::{Cut, copy_path, hash_path};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = PathBuf::from(arguments.next().ok_or("which path?")?);
    let mut cut = Cut {
        piece_length: PieceLength::DEFAULT,
        hybrid: false,
    };
    let mut copy = None;
    for argument in arguments {
        match argument.parse::<u64>() {
            Ok(kib) => cut.piece_length = PieceLength::new(kib << 10)?,
            Err(_) if argument == "hybrid" => cut.hybrid = true,
            Err(_) => copy = Some(PathBuf::from(argument)),
        }
    }
    let started = Instant::now();
    let info = match copy.as_deref().map(Path::new) {
        None => hash_path(&path, cut, &mut |_| true)?.info().clone(),
        Some(dir) => copy_path(&path, dir, cut, Arc::new(RealIo), &mut |_| true)?.info(),
    };
    let seconds = started.elapsed().as_secs_f64();
    let mib = info.layout().content_length() as f64 / f64::from(1 << 20);
    let first = info.layout().files().iter().find_map(|file| file.root());
    println!(
        "{} {} {seconds:.3} s, {:.0} MiB/s",
        info.hashes().v2,
        first.map_or("-".to_owned(), |root| root.to_string()),
        mib / seconds
    );
    Ok(())
}
