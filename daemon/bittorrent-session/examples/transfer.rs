//! Measures one transfer between two processes.
//!
//! ```text
//! transfer make  --dir STORE (--file FILE | --bytes N [--sparse]) [--piece-length N] [--hybrid]
//! transfer seed  --dir STORE... --listen ADDR
//! transfer fetch --dir STORE (--hash V2HEX | --torrent FILE) --peer ADDR... [--seconds N]
//!                [--reuse STORE... [--in-place]]
//! ```
//!
//! `make` fills a new store with a copy of a file, or with noise; with `--sparse` with a hole of
//! whole pieces, which costs neither space nor hashing, however long it is. `seed` serves stores
//! until its standard input ends. `fetch` starts with nothing but the hash, or with a torrent file
//! and its piece layers, and leaves off after so many seconds, whole or not. It looks for blocks in
//! the stores to reuse, anywhere in them or only in the same places. All print one JSON object a line; times are in
//! seconds since the start of the process, which `began` gives since 1970; processor times are those
//! of the whole process.

mod usage;

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bittorrent_protocol::bencode::Limits;
use bittorrent_protocol::metainfo::{HashedContent, Metainfo, MetainfoBuilder};
use bittorrent_protocol::{BLOCK_LEN, InfoHashV2, InfoHashes, PieceLength, merkle};
use bittorrent_session::{Session, SessionConfig, TorrentHandle};
use bittorrent_store::create::{Cut, Draft, Shape};
use bittorrent_store::{RealIo, ReuseSources, TorrentStore};

use usage::usage;

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
            "--dir" => options.dirs.push(value()?.into()),
            "--listen" => options.listen = Some(value()?.parse()?),
            "--peer" => options.peers.push(value()?.parse()?),
            "--hash" => options.hash = Some(value()?.parse()?),
            "--torrent" => options.torrent = Some(value()?.into()),
            "--seconds" => options.most = Duration::try_from_secs_f64(value()?.parse()?)?,
            "--bytes" => options.bytes = value()?.parse()?,
            "--piece-length" => options.piece_length = PieceLength::new(value()?.parse()?)?,
            "--hybrid" => options.hybrid = true,
            "--sparse" => options.sparse = true,
            "--file" => options.file = Some(value()?.into()),
            "--reuse" => options.reuse.push(value()?.into()),
            "--in-place" => options.in_place = true,
            _ => return Err(format!("unknown option {name}").into()),
        }
    }
    let runtime = tokio::runtime::Runtime::new()?;
    match task.as_str() {
        "make" if options.sparse => make_sparse(&options),
        "make" => make(&options),
        "seed" => runtime.block_on(seed(&options)),
        "fetch" => runtime.block_on(fetch(&options, start)),
        _ => Err("one of make, seed and fetch is to be done".into()),
    }
}

struct Options {
    dirs: Vec<PathBuf>,
    listen: Option<SocketAddr>,
    peers: Vec<SocketAddr>,
    hash: Option<InfoHashV2>,
    torrent: Option<PathBuf>,
    most: Duration,
    bytes: u64,
    piece_length: PieceLength,
    hybrid: bool,
    sparse: bool,
    file: Option<PathBuf>,
    reuse: Vec<PathBuf>,
    in_place: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dirs: Vec::new(),
            listen: None,
            peers: Vec::new(),
            hash: None,
            torrent: None,
            most: Duration::MAX,
            bytes: 1 << 30,
            // 1 MiB.
            piece_length: PieceLength::new(1 << 20).unwrap_or(PieceLength::DEFAULT),
            hybrid: false,
            sparse: false,
            file: None,
            reuse: Vec::new(),
            in_place: false,
        }
    }
}

impl Options {
    fn dir(&self) -> Result<&PathBuf, Error> {
        self.dirs.first().ok_or("--dir is missing".into())
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
    let mut name = "noise";
    let mut content: Box<dyn Read + Send> =
        Box::new(Noise(0x9e37_79b9_7f4a_7c15).take(options.bytes));
    if let Some(file) = &options.file {
        name = file
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or("--file has no name")?;
        content = Box::new(File::open(file)?);
    }
    let mut draft = Draft::begin(options.dir()?, name, Shape::SingleFile, cut, io)?;
    draft.add_file(&[], &mut content, &mut |_| true)?;
    let store = draft.finish(|builder| builder)?;
    println!(r#"{{"made":"{}"}}"#, store.info().hashes().v2);
    Ok(())
}

/// A store of zeros that is never written: it is marked as verified with the hashes it must have.
fn make_sparse(options: &Options) -> Result<(), Error> {
    let blocks = options.piece_length.blocks();
    let leaves = vec![merkle::leaf(&[0; BLOCK_LEN as usize]); blocks as usize];
    let piece_hash = merkle::fold(&leaves, 0, blocks.ilog2() as u8);
    let piece_bytes = u64::from(options.piece_length.bytes());
    let pieces = options.bytes.div_ceil(piece_bytes);
    let layer = vec![piece_hash; usize::try_from(pieces)?];
    let content = HashedContent {
        length: pieces * piece_bytes,
        root: Some(merkle::file_root_from_layer(&layer, options.piece_length)),
        layer,
        ..HashedContent::default()
    };
    let metainfo = MetainfoBuilder::new("hole", options.piece_length)
        .single_file(content)
        .build()?;
    let store = TorrentStore::create(options.dir()?, &metainfo, Arc::new(RealIo))?;
    for piece in (0..).map_while(|number| store.layout().piece(number)) {
        store.mark_verified(piece, 0, &leaves)?;
        if store.dirty_bytes() > SessionConfig::default().tuning.checkpoint_bytes << 5 {
            store.checkpoint()?;
        }
    }
    store.finish()?;
    println!(r#"{{"made":"{}"}}"#, store.info().hashes().v2);
    Ok(())
}

async fn seed(options: &Options) -> Result<(), Error> {
    let session = Session::start(options.config()).await?;
    let mut torrents = Vec::new();
    for dir in &options.dirs {
        let (store, _) = TorrentStore::open(dir, Arc::new(RealIo))?;
        let torrent = session.add_store(Arc::new(store)).await?;
        println!(
            r#"{{"hash":"{}","listening":"{}"}}"#,
            torrent.id().v2,
            session.local_addrs()[0]
        );
        torrents.push(torrent);
    }
    // Not tokio's: its thread would wait for input when the runtime is to end.
    let (stop, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = stop.send(());
    });
    let _ = end.await;
    let mut uploaded = 0;
    for torrent in torrents {
        // Its last account is exact.
        torrent.remove().await;
        uploaded += torrent.status().uploaded_payload;
    }
    session.shutdown().await;
    println!(r#"{{"uploaded":{uploaded},{}}}"#, usage()?);
    Ok(())
}

/// What is to be looked through.
fn sources(options: &Options) -> Result<ReuseSources, Error> {
    let mut held = Vec::new();
    for dir in &options.reuse {
        let (store, _) = TorrentStore::open(dir, Arc::new(RealIo))?;
        held.push(Arc::new(store));
    }
    let sources = ReuseSources::new(held);
    if options.reuse.is_empty() || options.in_place {
        return Ok(sources);
    }
    let begun = Instant::now();
    let sources = sources.with_index(&options.dir()?.with_extension("index"), &RealIo, &|| true)?;
    println!(r#"{{"indexed":{:.3}}}"#, begun.elapsed().as_secs_f64());
    Ok(sources)
}

/// Adds what is to be fetched, with a place for it.
async fn begin(
    options: &Options,
    session: &Session,
) -> Result<(TorrentHandle, Arc<TorrentStore>), Error> {
    let sources = sources(options)?;
    let place = |metainfo: &Metainfo| {
        let made = sources.create(options.dir()?, metainfo, Arc::new(RealIo));
        let (store, clones) = made?;
        println!(r#"{{"cloned":{}}}"#, clones.bytes);
        Ok::<_, Error>(Arc::new(store))
    };
    if let Some(path) = &options.torrent {
        let metainfo = Metainfo::parse(&std::fs::read(path)?, &Limits::TORRENT)?;
        let store = place(&metainfo)?;
        let torrent = session
            .add_store_reusing(store.clone(), Arc::new(sources))
            .await?;
        torrent.add_peers(&options.peers).await;
        return Ok((torrent, store));
    }
    let v2 = options.hash.ok_or("--hash or --torrent is missing")?;
    let torrent = session.add_magnet(InfoHashes { v2, v1: None }).await?;
    torrent.add_peers(&options.peers).await;
    let info = torrent.info().await.ok_or("no metadata")?;
    let store = place(&Metainfo::from_info(info))?;
    torrent
        .attach_reusing(store.clone(), Arc::new(sources))
        .await?;
    Ok((torrent, store))
}

async fn fetch(options: &Options, start: Instant) -> Result<(), Error> {
    let began = SystemTime::now().duration_since(UNIX_EPOCH)? - start.elapsed();
    let session = Session::start(options.config()).await?;
    let (torrent, store) = begin(options, &session).await?;
    let metadata = start.elapsed();
    let total = store.total_blocks();
    let (mut first, mut verified, mut grown) = (None, 0, metadata);
    let mut longest_pause = Duration::ZERO;
    let mut look = tokio::time::interval(LOOK);
    let last = loop {
        look.tick().await;
        let now = start.elapsed();
        let before = std::mem::replace(&mut verified, store.verified_blocks());
        if verified > before {
            if first.is_some() {
                longest_pause = longest_pause.max(now - grown);
            }
            first.get_or_insert(now);
            grown = now;
        }
        if verified == total || now >= options.most {
            break now;
        }
        if let Some(error) = torrent.status().phase.error() {
            return Err(format!("stopped: {error}").into());
        }
    };
    let first = first.unwrap_or(last);
    let bytes = (verified * u64::from(BLOCK_LEN)).min(store.layout().content_length());
    println!(
        r#"{{"began":{:.3},"metadata":{:.3},"first_piece":{:.3},"last_piece":{:.3},"longest_pause":{:.3},"bytes":{bytes},"bytes_per_second":{:.0},{}}}"#,
        began.as_secs_f64(),
        metadata.as_secs_f64(),
        first.as_secs_f64(),
        last.as_secs_f64(),
        longest_pause.as_secs_f64(),
        bytes as f64 / (last.saturating_sub(first)).as_secs_f64().max(1e-3),
        usage()?
    );
    if verified == total {
        torrent
            .subscribe()
            .wait_for(|status| status.phase.is_seeding())
            .await?;
        let status = torrent.status();
        println!(
            r#"{{"durable":{:.3},"downloaded":{},"wasted":{},"fetched":{},"reused":{},"hashes":{}}}"#,
            start.elapsed().as_secs_f64(),
            status.downloaded_payload,
            status.wasted,
            status.bytes_fetched,
            status.bytes_reused,
            status.hash_bytes,
        );
    }
    session.shutdown().await;
    Ok(())
}
