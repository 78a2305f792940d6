//! Measures one transfer between two processes.
//!
//! ```text
//! transfer make  --dir STORE --bytes N [--piece-length N] [--hybrid]
//! transfer seed  --dir STORE --listen ADDR
//! transfer fetch --dir STORE --hash V2HEX --peer ADDR
//! ```
//!
//! `make` fills a new store with noise. `seed` serves a store until its standard input ends.
//! `fetch` starts with nothing but the hash. Both print one JSON object a line; times are in
//! seconds since the start of the process, processor times are those of the whole process.

use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bittorrent_protocol::metainfo::Metainfo;
use bittorrent_protocol::{InfoHashV2, InfoHashes, PieceLength};
use bittorrent_session::{Session, SessionConfig};
use bittorrent_store::create::{Cut, Draft, Shape};
use bittorrent_store::{RealIo, TorrentStore};

type Error = Box<dyn std::error::Error>;

/// How often a fetch looks at its progress; what its times are exact to.
const LOOK: Duration = Duration::from_millis(2);

fn main() -> Result<(), Error> {
    let start = Instant::now();
    let mut args = std::env::args().skip(1);
    let task = args.next().unwrap_or_default();
    let mut options = Options::default();
    while let Some(name) = args.next() {
        let mut value = || args.next().ok_or(format!("{name} needs a value"));
        match name.as_str() {
            "--dir" => options.dir = Some(value()?.into()),
            "--listen" => options.listen = Some(value()?.parse()?),
            "--peer" => options.peers.push(value()?.parse()?),
            "--hash" => options.hash = Some(value()?.parse()?),
            "--bytes" => options.bytes = value()?.parse()?,
            "--piece-length" => options.piece_length = PieceLength::new(value()?.parse()?)?,
            "--hybrid" => options.hybrid = true,
            _ => return Err(format!("unknown option {name}").into()),
        }
    }
    let runtime = tokio::runtime::Runtime::new()?;
    match task.as_str() {
        "make" => make(&options),
        "seed" => runtime.block_on(seed(&options)),
        "fetch" => runtime.block_on(fetch(&options, start)),
        _ => Err("one of make, seed and fetch is to be done".into()),
    }
}

struct Options {
    dir: Option<PathBuf>,
    listen: Option<SocketAddr>,
    peers: Vec<SocketAddr>,
    hash: Option<InfoHashV2>,
    bytes: u64,
    piece_length: PieceLength,
    hybrid: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dir: None,
            listen: None,
            peers: Vec::new(),
            hash: None,
            bytes: 1 << 30,
            // 1 MiB.
            piece_length: PieceLength::new(1 << 20).unwrap_or(PieceLength::DEFAULT),
            hybrid: false,
        }
    }
}

impl Options {
    fn dir(&self) -> Result<&PathBuf, Error> {
        self.dir.as_ref().ok_or("--dir is missing".into())
    }

    fn config(&self) -> SessionConfig {
        SessionConfig {
            listen: vec![self.listen.unwrap_or(([127, 0, 0, 1], 0).into())],
            ..SessionConfig::default()
        }
    }
}

/// Incompressible bytes that differ from block to block.
struct Noise(u64);

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        for eight in buffer.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            eight.copy_from_slice(self.0.to_le_bytes().split_at(eight.len()).0);
        }
        Ok(buffer.len())
    }
}

fn make(options: &Options) -> Result<(), Error> {
    let cut = Cut {
        piece_length: options.piece_length,
        hybrid: options.hybrid,
    };
    let io = Arc::new(RealIo);
    let mut draft = Draft::begin(options.dir()?, "noise", Shape::SingleFile, cut, io)?;
    let mut content = Noise(0x9e37_79b9_7f4a_7c15).take(options.bytes);
    draft.add_file(&[], &mut content, &mut |_| true)?;
    let store = draft.finish(|builder| builder)?;
    println!(r#"{{"made":"{}"}}"#, store.info().hashes().v2);
    Ok(())
}

async fn seed(options: &Options) -> Result<(), Error> {
    let (store, _) = TorrentStore::open(options.dir()?, Arc::new(RealIo))?;
    let session = Session::start(options.config()).await?;
    let torrent = session.add_store(Arc::new(store)).await?;
    println!(
        r#"{{"hash":"{}","listening":"{}"}}"#,
        torrent.id().v2,
        session.local_addrs()[0]
    );
    // Not tokio's: its thread would wait for input when the runtime is to end.
    let (told, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = told.send(());
    });
    let _ = end.await;
    // Its last account is exact.
    torrent.remove().await;
    let uploaded = torrent.status().uploaded_payload;
    session.shutdown().await;
    println!(r#"{{"uploaded":{uploaded},{}}}"#, usage()?);
    Ok(())
}

async fn fetch(options: &Options, start: Instant) -> Result<(), Error> {
    let v2 = options.hash.ok_or("--hash is missing")?;
    let session = Session::start(options.config()).await?;
    let torrent = session.add_magnet(InfoHashes { v2, v1: None }).await?;
    torrent.add_peers(&options.peers).await;
    let info = torrent.info().await.ok_or("no metadata")?;
    let metadata = start.elapsed();
    let metainfo = Metainfo::from_info(info);
    let store = TorrentStore::create(options.dir()?, &metainfo, Arc::new(RealIo))?;
    let store = Arc::new(store);
    torrent.attach(store.clone()).await?;
    let total = store.total_blocks();
    let mut first = None;
    let mut look = tokio::time::interval(LOOK);
    let last = loop {
        look.tick().await;
        let verified = store.verified_blocks();
        if verified > 0 {
            first.get_or_insert_with(|| start.elapsed());
        }
        if verified == total {
            break start.elapsed();
        }
        if let Some(error) = torrent.status().phase.error() {
            return Err(format!("stopped: {error}").into());
        }
    };
    let first = first.unwrap_or(last);
    let bytes = store.layout().content_length();
    println!(
        r#"{{"metadata":{:.3},"first_piece":{:.3},"last_piece":{:.3},"bytes":{bytes},"bytes_per_second":{:.0},{}}}"#,
        metadata.as_secs_f64(),
        first.as_secs_f64(),
        last.as_secs_f64(),
        bytes as f64 / (last.saturating_sub(first)).as_secs_f64().max(1e-3),
        usage()?
    );
    torrent
        .subscribe()
        .wait_for(|status| status.phase.is_seeding())
        .await?;
    println!(r#"{{"durable":{:.3}}}"#, start.elapsed().as_secs_f64());
    session.shutdown().await;
    Ok(())
}

/// Processor seconds and memory of this process as members of a JSON object.
fn usage() -> Result<String, Error> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name in parentheses may have spaces in it.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kib = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
    };
    Ok(format!(
        r#""user":{:.2},"system":{:.2},"rss_kib":{},"peak_rss_kib":{}"#,
        // Linux counts in hundredths whatever the kernel's own tick is.
        ticks(11).unwrap_or(0.0) / 100.0,
        ticks(12).unwrap_or(0.0) / 100.0,
        kib("VmRSS:").unwrap_or(0),
        kib("VmHWM:").unwrap_or(0),
    ))
}
