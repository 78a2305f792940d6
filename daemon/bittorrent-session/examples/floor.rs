//! The lower bound of the cost of a transfer: the least work that moves a file between two processes,
//! hashes it and writes it. No protocol, no decisions; the same buffers and system calls as ours.
//!
//! ```text
//! floor seed  FILE
//! floor fetch FILE --peer ADDR
//! ```
//!
//! Both print one JSON object a line; times are in seconds since the start of the process.

mod usage;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use bittorrent_protocol::{BLOCK_LEN, merkle};
use bittorrent_store::{PAGE, page_aligned};

use usage::usage;

type Error = Box<dyn std::error::Error>;

/// Blocks sent at once, as many as a session sends.
const SENT: usize = 32 * BLOCK_LEN as usize;

/// Blocks received at once.
const RECEIVED: usize = 32 * BLOCK_LEN as usize;

/// Buffers between socket and disk: 16 MiB, as in a session.
const BUFFERS: usize = (16 << 20) / RECEIVED;

fn main() -> Result<(), Error> {
    let start = Instant::now();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["seed", file] => seed(&File::open(file)?),
        ["fetch", file, "--peer", peer] => {
            fetch(File::create(file)?, TcpStream::connect(peer)?, start)
        }
        _ => Err("floor seed FILE | floor fetch FILE --peer ADDR".into()),
    }
}

fn seed(file: &File) -> Result<(), Error> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    println!(r#"{{"listening":"{}"}}"#, listener.local_addr()?);
    let (mut stream, _) = listener.accept()?;
    let mut buffer = vec![0; SENT + PAGE];
    let buffer = page_aligned(&mut buffer);
    let mut at = 0;
    loop {
        let read = file.read_at(buffer, at)?;
        if read == 0 {
            break;
        }
        stream.write_all(buffer.split_at(read).0)?;
        at += read as u64;
    }
    drop(stream);
    std::io::stdin().read_to_end(&mut Vec::new())?;
    println!("{{{}}}", usage()?);
    Ok(())
}

fn fetch(file: File, mut stream: TcpStream, start: Instant) -> Result<(), Error> {
    let (full, to_write) = sync_channel::<(Vec<u8>, usize)>(BUFFERS);
    let (empty, written) = sync_channel(BUFFERS);
    for _ in 0..BUFFERS {
        empty.send(vec![0; RECEIVED + PAGE])?;
    }
    let writer = thread::spawn(move || write(&file, &to_write, &empty));
    let mut first = None;
    for mut memory in written {
        let buffer = page_aligned(&mut memory);
        let buffer_length = buffer.len().min(RECEIVED);
        let mut filled = 0;
        while filled < buffer_length {
            let read = stream.read(buffer.split_at_mut(buffer_length).0.split_at_mut(filled).1)?;
            first.get_or_insert_with(|| start.elapsed());
            if read == 0 {
                break;
            }
            filled += read;
        }
        if filled == 0 {
            break;
        }
        let (blocks, _) = buffer.split_at(filled);
        let blocks: Vec<&[u8]> = blocks.chunks(BLOCK_LEN as usize).collect();
        std::hint::black_box(merkle::leaves(&blocks));
        full.send((memory, filled))?;
    }
    drop(full);
    writer.join().map_err(|_| "the writer panicked")??;
    let last = start.elapsed().as_secs_f64();
    let first = first.unwrap_or_default().as_secs_f64();
    println!(
        r#"{{"first_byte":{first},"last_byte":{last},{}}}"#,
        usage()?
    );
    Ok(())
}

fn write(
    file: &File,
    blocks: &Receiver<(Vec<u8>, usize)>,
    empty: &SyncSender<Vec<u8>>,
) -> std::io::Result<()> {
    let mut at = 0;
    for (mut memory, length) in blocks {
        file.write_all_at(page_aligned(&mut memory).split_at(length).0, at)?;
        at += length as u64;
        // The receiver is gone when nothing more comes.
        let _ = empty.send(memory);
    }
    Ok(())
}
