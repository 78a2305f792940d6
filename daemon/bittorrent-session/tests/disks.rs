//! Disks that fail, and files that are not in memory.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use bittorrent_store::{Identity, Io, IoFile, OpenMode, RealIo, TorrentStore};
use common::{Sample, addr, session, wait_for, wait_seeding};

/// The real disk until it is full, or no longer keeps what it was given.
#[derive(Debug, Default)]
struct Limits {
    room: AtomicI64,
    forgets: AtomicBool,
}

#[derive(Debug)]
struct LimitedIo(Arc<Limits>);

#[derive(Debug)]
struct LimitedFile(Arc<dyn IoFile>, Arc<Limits>);

impl Io for LimitedIo {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn IoFile>> {
        let file = RealIo.open(path, mode)?;
        Ok(Arc::new(LimitedFile(file, self.0.clone())))
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        RealIo.create_dir_all(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealIo.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        RealIo.remove_file(path)
    }
    fn unseal(&self, path: &Path) -> io::Result<()> {
        RealIo.unseal(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealIo.sync_dir(path)
    }
}

impl AsFd for LimitedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl IoFile for LimitedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn write_all_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.1.room.fetch_sub(bytes as i64, Ordering::Relaxed) < bytes as i64 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.write_all_at(slices, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        if self.1.forgets.load(Ordering::Relaxed) {
            return Err(io::Error::other("the disk forgets"));
        }
        self.0.sync_data()
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }
    fn identity(&self) -> io::Result<Identity> {
        self.0.identity()
    }
    fn forget_cached(&self, offset: u64, length: u64) -> io::Result<()> {
        self.0.forget_cached(offset, length)
    }
    fn seal(&self) -> io::Result<()> {
        self.0.seal()
    }
}

/// Everything an error and its sources say.
fn chain(mut error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    while let Some(source) = error.source() {
        text += ": ";
        text += &source.to_string();
        error = source;
    }
    text
}

async fn ends_with(limits: Arc<Limits>, expected: &str) {
    let sample = Sample::file("limited", 8 << 20, 64 * 1024, false);
    let dir = tempfile::tempdir().unwrap();
    let (seed, leech) = (session().await, session().await);
    let full = sample.full_store(&dir.path().join("seed"));
    seed.add_store(full).await.unwrap();
    let io = Arc::new(LimitedIo(limits.clone()));
    let store = TorrentStore::create(&dir.path().join("leech"), &sample.meta, io).unwrap();
    limits.room.fetch_add(3 << 20, Ordering::Relaxed);
    let torrent = leech.add_store(Arc::new(store)).await.unwrap();
    torrent.add_peers(&[addr(&seed)]).await;
    let status = wait_for(&torrent, "stopped", |status| status.phase.error().is_some()).await;
    let said = chain(&**status.phase.error().unwrap());
    assert!(said.contains(expected), "{said}");
    // It parts with its peers and does not come back to them.
    assert!(torrent.peers().await.is_empty());
    let report = leech.shutdown().await;
    assert_eq!(report.failures.len(), 1);
    seed.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_torrent_and_is_named() {
    let limits = Limits {
        room: AtomicI64::new(1 << 20),
        ..Limits::default()
    };
    ends_with(Arc::new(limits), "no storage space").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_forgets_stops_the_torrent_and_is_named() {
    let limits = Limits {
        room: AtomicI64::new(1 << 40),
        ..Limits::default()
    };
    let limits = Arc::new(limits);
    let forgetful = limits.clone();
    let test = ends_with(limits, "the disk forgets");
    // Made while the disk is sound, used when it no longer is.
    let spoil = async {
        while forgetful.room.load(Ordering::Relaxed) <= 1 << 40 {
            tokio::task::yield_now().await;
        }
        forgetful.forgets.store(true, Ordering::Relaxed);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = test => {}
        () = spoil => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_in_memory_is_served_all_the_same() {
    let sample = Sample::file("cold", 12_000_003, 256 * 1024, false);
    let dir = tempfile::tempdir().unwrap();
    let (seed, leech) = (session().await, session().await);
    let full = sample.full_store(&dir.path().join("seed"));
    let file = sample.layout().file_index(0).unwrap();
    let content = std::fs::File::open(full.file_path(file)).unwrap();
    content.sync_all().unwrap();
    // Every other half MiB, so that both ways of serving take turns.
    for part in (0..12_000_003).step_by(1 << 20) {
        let length = std::num::NonZero::new(512 * 1024);
        rustix::fs::fadvise(&content, part, length, rustix::fs::Advice::DontNeed).unwrap();
    }
    seed.add_store(full).await.unwrap();
    let store = sample.empty_store(&dir.path().join("leech"));
    let torrent = leech.add_store(store.clone()).await.unwrap();
    torrent.add_peers(&[addr(&seed)]).await;
    let status = wait_seeding(&torrent).await;
    sample.assert_held_by(&store);
    assert_eq!(status.wasted, 0);
    seed.shutdown().await;
    leech.shutdown().await;
}
