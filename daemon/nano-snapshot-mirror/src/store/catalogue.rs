//! What a data directory holds, and which of it may go.

mod heal;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use bittorrent_protocol::bencode::Limits;
use bittorrent_protocol::metainfo::{File, Info, Metainfo};
use bittorrent_protocol::{BLOCK_LEN, InfoHashV2};
use bittorrent_store::{Condition, Inspection, Io, RealIo, TorrentStore};
use ledger_archive::LedgerFormat;
use tracing::{info, warn};

use crate::config::{self, Size};
use crate::kit::clock;
use crate::service::scrub;
use crate::store::data_dir::{DataDir, DirLock, StoreLock, write_atomically};
use crate::store::ledger_record::LedgerRecord;
use crate::store::pins;
use crate::store::space;

pub(crate) use heal::{clear_place, give_up, heal, is_passing, unlock};

/// A whole snapshot, open and held against removal.
pub(crate) struct Generation {
    pub(crate) id: InfoHashV2,
    pub(crate) store: Arc<TorrentStore>,
    pub(crate) dir: PathBuf,
    pub(crate) lock: DirLock,
}

/// What is at one place in `snapshots/`.
pub(crate) enum Entry {
    /// A whole snapshot. Whether its ledger may be used, the policy says.
    Whole(Generation),
    /// One that was whole until blocks of it were found damaged, which are to be fetched again.
    Mending(Generation),
    /// A snapshot in which faults were found: an archive may be refused before it is whole.
    Refused(Vec<String>),
    /// Part of a snapshot.
    Partial,
    /// Some process writes to it.
    Busy,
    /// It cannot be opened; the error says why. [`heal()`] repairs it.
    Damaged(anyhow::Error),
    /// It cannot be opened at this moment, for a reason that is not in the snapshot: see [`is_passing`].
    Unavailable(anyhow::Error),
}

/// The disk as it is.
pub(crate) fn io() -> Arc<dyn Io> {
    Arc::new(RealIo)
}

/// Opens the snapshot `id`. `None` when there is nothing. Nothing is repaired.
pub(crate) fn look(data: &DataDir, id: InfoHashV2) -> Option<Entry> {
    let dir = data.snapshot(id);
    if dir.symlink_metadata().is_err() {
        return None;
    }
    Some(open(data, id, dir).unwrap_or_else(|error| {
        if is_passing(&error) {
            Entry::Unavailable(error)
        } else {
            Entry::Damaged(error)
        }
    }))
}

/// [`look`], but a snapshot that is damaged is repaired first, unless another process uses it.
pub(crate) fn look_and_heal(data: &DataDir, id: InfoHashV2) -> Option<Entry> {
    let found = look(data, id)?;
    let Entry::Damaged(why) = found else {
        return Some(found);
    };
    match repair(data, id, &why) {
        Ok(true) => look(data, id),
        Ok(false) => Some(Entry::Damaged(why)),
        Err(error) => Some(Entry::Damaged(error.context(why))),
    }
}

/// Returns `false` when another process uses the snapshot.
fn repair(data: &DataDir, id: InfoHashV2, why: &anyhow::Error) -> Result<bool> {
    let _lock = data.lock()?;
    if clear_place(data, id)? {
        return Ok(true);
    }
    unlock(&data.snapshot(id));
    let Some(own) = data.own_snapshot(id)? else {
        return Ok(false);
    };
    heal(data, id, why, &own)?;
    Ok(true)
}

fn open(data: &DataDir, id: InfoHashV2, dir: PathBuf) -> Result<Entry> {
    // Alone, because taking up a partial snapshot writes to it. Where others have it and let us
    // read, it is whole.
    let owned = data.own_snapshot(id)?;
    let alone = owned.is_some();
    let Some(lock) = owned.map_or_else(|| data.share_snapshot(id), |lock| Ok(Some(lock)))? else {
        return Ok(Entry::Busy);
    };
    refuse_discarded(&dir)?;
    if let Some(record) = LedgerRecord::load(&dir).filter(|record| !record.is_sound()) {
        return Ok(Entry::Refused(record.faults));
    }
    // Looking does not touch what a fetch will take up.
    if !is_created(&dir) {
        return Ok(Entry::Partial);
    }
    let was_whole = scrub::found_damage(&dir);
    let looks_whole = match inspect(&dir)?.condition {
        Condition::Sealed | Condition::Changed { .. } => true,
        Condition::Partial { .. } | Condition::NoRecord => false,
    };
    if !was_whole && !looks_whole {
        return Ok(Entry::Partial);
    }
    let store = if alone {
        take_up(&dir)?
    } else {
        // Whoever has it may be mending it: only looked at.
        match open_sealed(&dir)? {
            Some(store) => store,
            None => return Ok(Entry::Partial),
        }
    };
    let whole = store.is_complete();
    if !whole && !was_whole {
        return Ok(Entry::Partial);
    }
    lock.share()?;
    let generation = Generation {
        id,
        store: Arc::new(store),
        dir,
        lock,
    };
    Ok(if whole {
        Entry::Whole(generation)
    } else {
        Entry::Mending(generation)
    })
}

/// Whether a snapshot's directory got as far as having its metadata: before that there is nothing
/// to lose in it. What stands there may be damaged.
pub(crate) fn is_created(dir: &Path) -> bool {
    dir.join(METADATA).symlink_metadata().is_ok()
}

const METADATA: &str = "snapshot.torrent";

/// Bytes of the snapshot in `dir` that were verified at the last checkpoint, at most `length`; `None` when nothing
/// is known of it, or it is whole.
pub(crate) fn claimed(dir: &Path, length: u64) -> Option<u64> {
    let blocks = bittorrent_store::claimed_blocks(dir, &RealIo).ok()??;
    Some(blocks.saturating_mul(u64::from(BLOCK_LEN)).min(length))
}

/// Opens the store in `dir` if it is whole and sealed, without writing anything.
pub(crate) fn open_sealed(dir: &Path) -> Result<Option<TorrentStore>> {
    heal::check_kinds(dir)?;
    TorrentStore::open_sealed_expecting(dir, named(dir), io()).with_context(|| cannot_open(dir))
}

/// What the directory of a snapshot claims to hold. Nothing is written, and no content is read.
pub(crate) fn inspect(dir: &Path) -> Result<Inspection> {
    heal::check_kinds(dir)?;
    TorrentStore::inspect(dir, named(dir), &*io()).with_context(|| cannot_open(dir))
}

/// Whether the snapshot in `dir` is whole, or was before blocks of it were found damaged, a file was
/// changed, or the record of progress was lost.
pub(crate) fn was_whole(dir: &Path) -> Result<bool> {
    let Inspection {
        metainfo,
        condition,
    } = inspect(dir)?;
    Ok(match condition {
        Condition::Sealed | Condition::Changed { .. } => true,
        Condition::Partial { .. } => scrub::found_damage(dir),
        Condition::NoRecord => scrub::found_damage(dir) || is_sealed(dir, metainfo.info()),
    })
}

/// The snapshot that a directory is named for. What is read there must be that one: a `snapshot.torrent`
/// with one wrong bit may still be a torrent. `None` for directories under construction, and for copies
/// that a person named.
fn named(dir: &Path) -> Option<InfoHashV2> {
    dir.file_name()?.to_str()?.parse().ok()
}

fn cannot_open(dir: &Path) -> String {
    format!("cannot open the snapshot in {}", dir.display())
}

/// Opens the store in `dir`. Where the record of what is good was lost, a mark is left that
/// everything has to be read again; [`was_read`] takes it away.
pub(crate) fn take_up(dir: &Path) -> Result<TorrentStore> {
    refuse_discarded(dir)?;
    heal::check_kinds(dir)?;
    let (store, recovery) =
        TorrentStore::open_expecting(dir, named(dir), io()).with_context(|| cannot_open(dir))?;
    if recovery.claims_lost {
        warn!(
            dir = %dir.display(),
            "the record of verified blocks is lost, or a file was changed: all content has to be \
             read again"
        );
        note_unread(dir)?;
    } else if recovery.blocks_rehashed > 0 || recovery.blocks_dropped > 0 {
        info!(
            dir = %dir.display(), rehashed = recovery.blocks_rehashed,
            dropped = recovery.blocks_dropped, "took up what was not yet durable"
        );
    }
    Ok(store)
}

/// Everything in `dir` has to be read, and compared with its hashes.
pub(crate) fn note_unread(dir: &Path) -> Result<()> {
    write_atomically(&unread(dir), b"")
}

/// Whether everything in `dir` has to be read again before anything of it is fetched.
pub(crate) fn must_be_read(dir: &Path) -> bool {
    unread(dir).exists()
}

/// Everything in `dir` was read and compared with its hashes.
pub(crate) fn was_read(dir: &Path) -> Result<()> {
    match std::fs::remove_file(unread(dir)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", unread(dir).display()))
        }
        _ => Ok(()),
    }
}

fn unread(dir: &Path) -> PathBuf {
    dir.join("unread")
}

/// The .torrent file of the snapshot in `dir`: its info dictionary and piece layers.
pub(crate) fn metadata(dir: &Path) -> PathBuf {
    dir.join(METADATA)
}

/// Whether the content in `dir` is being given back to the disk while it is extracted: it is not what
/// was published any longer.
pub(crate) fn is_discarded(dir: &Path) -> bool {
    dir.join(DISCARDED).exists()
}

/// From here on the content in `dir` may have holes.
pub(crate) fn note_discarded(dir: &Path) -> Result<()> {
    write_atomically(&dir.join(DISCARDED), b"")
}

const DISCARDED: &str = "discarded";

fn refuse_discarded(dir: &Path) -> Result<()> {
    if is_discarded(dir) {
        bail!(
            "the archive in {0} is partly discarded: finish with --once --extract \
             --discard-archive, or remove {0} to fetch it anew",
            dir.display()
        );
    }
    Ok(())
}

/// The torrent of the snapshot in `dir`.
pub(crate) fn read_metainfo(dir: &Path) -> Result<Metainfo> {
    Ok(read_torrent(dir)?.1)
}

/// The bytes of the .torrent file of the snapshot in `dir`, and what they say. A torrent with another
/// info-hash than the directory is named for is an error.
pub(crate) fn read_torrent(dir: &Path) -> Result<(Vec<u8>, Metainfo)> {
    use std::io::Read as _;
    let path = metadata(dir);
    let failed = || format!("cannot read {}", path.display());
    // Whatever stands there, no more than a torrent may have comes into memory.
    let most = Limits::TORRENT.max_len as u64 + 1;
    let mut raw = Vec::new();
    let file = std::fs::File::open(&path).with_context(failed)?;
    file.take(most).read_to_end(&mut raw).with_context(failed)?;
    let metainfo = Metainfo::parse(&raw, &Limits::TORRENT)
        .with_context(|| format!("{} is damaged", path.display()))?;
    let found = metainfo.info().hashes().v2;
    if let Some(expected) = named(dir).filter(|expected| *expected != found) {
        bail!(
            "{} is damaged: its info-hash is {found}, not {expected}",
            path.display()
        );
    }
    Ok((raw, metainfo))
}

/// What the snapshot in `dir` is.
pub(crate) fn read_info(dir: &Path) -> Result<Info> {
    Ok(read_metainfo(dir)?.info().as_ref().clone())
}

/// Whether the content may no longer be written, which is the last thing done to whole content. Only a
/// hint: there are file systems without permissions; see [`inspect`].
fn is_sealed(dir: &Path, info: &Info) -> bool {
    let mut content = dir.join("content");
    if !info.is_single_file() {
        content.push(info.name());
    }
    info.files()
        .iter()
        .filter(|file| file.length() > 0)
        .all(|file| {
            // The components of a file's path are safe names by construction.
            let path = file
                .path()
                .iter()
                .fold(content.clone(), |path, part| path.join(part));
            path.metadata()
                .is_ok_and(|metadata| metadata.permissions().mode() & 0o222 == 0)
        })
}

/// The file of a snapshot that has the ledger, and the form it has by its first bytes. Its name
/// decides where these say nothing: what calls itself a ledger has to be one. `None` for
/// everything that is mirrored without being understood.
pub(crate) fn content(dir: &Path, info: &Info) -> Option<(LedgerFormat, PathBuf)> {
    let path = ledger_path(dir, info)?;
    let name = ledger_file(info)?.last();
    let format = if name.is_some_and(|name| name.ends_with(".ldb")) {
        LedgerFormat::Plain
    } else {
        ledger_archive::detect(&path).ok()?
    };
    Some((format, path))
}

/// Where the file of a snapshot that has the ledger, or its archive, is or would be.
pub(crate) fn ledger_path(dir: &Path, info: &Info) -> Option<PathBuf> {
    let mut path = dir.join("content");
    if !info.is_single_file() {
        path.push(info.name());
    }
    path.extend(ledger_file(info)?);
    Some(path)
}

/// Which file of a torrent has the ledger: the only one, or in a directory the only one called `data.ldb`, or
/// else the only one with the suffix of a ledger or an archive; others, such as a README, stand beside it.
/// Its path has safe components by construction.
pub(crate) fn ledger_file(info: &Info) -> Option<&[String]> {
    if info.is_single_file() {
        return Some(info.files().first()?.path());
    }
    let paths = || info.files().iter().map(File::path);
    let ends = |path: &[String], end: &str| path.last().is_some_and(|name| name.ends_with(end));
    let mut ledgers = paths().filter(|path| path.last().is_some_and(|name| name == "data.ldb"));
    if let Some(ledger) = ledgers.next() {
        return ledgers.next().is_none().then_some(ledger);
    }
    let suffixes = [".ldb", ".7z", ".zst"];
    let mut others = paths().filter(|path| suffixes.iter().any(|end| ends(path, end)));
    let other = others.next()?;
    others.next().is_none().then_some(other)
}

/// Where the file of a snapshot is that consists of one.
pub(crate) fn only_file(dir: &Path, info: &Info) -> Option<PathBuf> {
    if !info.is_single_file() {
        return None;
    }
    // The components of a file's path are safe names by construction.
    let file = info.files().first()?.path().first()?;
    Some(dir.join("content").join(file))
}

/// Where the ledger is in the snapshot in `dir`, if it is a plain one.
pub(crate) fn plain_ledger(dir: &Path, info: &Info) -> Option<PathBuf> {
    match content(dir, info)? {
        (LedgerFormat::Plain, path) => Some(path),
        _ => None,
    }
}

/// What retention needs to know of a snapshot's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) id: InfoHashV2,
    pub(crate) state: State,
    /// When it came.
    pub(crate) since: SystemTime,
    /// Bytes that it takes on disk, as if it shared none with others.
    pub(crate) size: u64,
    /// Somebody wants it kept.
    pub(crate) pinned: bool,
}

impl Held {
    pub(crate) fn new(data: &DataDir, id: InfoHashV2, state: State) -> Self {
        let dir = data.snapshot(id);
        Self {
            id,
            state,
            since: came(&dir),
            size: space::occupied(&dir),
            pinned: pins::is_pinned(&dir),
        }
    }
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retention {
    /// Whole snapshots of a stream, the current one included: 1 keeps nothing else.
    pub(crate) generations: u32,
    /// Bytes on disk of all snapshots together; `None` for no limit.
    pub(crate) size: Option<u64>,
}

impl Retention {
    /// Only what has to be kept, as when room is needed.
    pub(crate) const LEAST: Self = Self {
        generations: 1,
        size: None,
    };
}

impl From<&config::Retention> for Retention {
    fn from(keys: &config::Retention) -> Self {
        Self {
            generations: keys.generations.get(),
            size: keys.size.value().map(Size::get),
        }
    }
}

/// What a directory is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// A whole snapshot.
    Whole,
    /// Part of one, or one that is no sound ledger.
    Remnant,
    /// In use by another process, or not to be read at this moment.
    Untouchable,
}

impl From<&Entry> for State {
    fn from(entry: &Entry) -> Self {
        match entry {
            Entry::Whole(_) | Entry::Mending(_) => Self::Whole,
            Entry::Refused(_) | Entry::Partial | Entry::Damaged(_) => Self::Remnant,
            Entry::Busy | Entry::Unavailable(_) => Self::Untouchable,
        }
    }
}

/// What may go. Kept are the `current` snapshot of each stream, those that are `wanted` or pinned, those
/// that cannot be touched, and of the other whole ones the newest, as many and as large as `keep`
/// allows. Nothing goes while no stream has a current snapshot.
pub(crate) fn superseded(
    held: &[Held],
    current: &[InfoHashV2],
    wanted: &[InfoHashV2],
    keep: Retention,
) -> Vec<InfoHashV2> {
    if current.is_empty() {
        return Vec::new();
    }
    let (mut others, fixed): (Vec<&Held>, Vec<&Held>) = held.iter().partition(|held| {
        !current.contains(&held.id)
            && !wanted.contains(&held.id)
            && !held.pinned
            && held.state != State::Untouchable
    });
    let mut taken: u64 = fixed.iter().map(|held| held.size).sum();
    // The newest whole ones first, remnants last: once one has no room, nothing behind it has.
    others.sort_by_key(|held| (held.state == State::Whole, held.since, held.id));
    let mut going = Vec::new();
    for (place, held) in (1..).zip(others.iter().rev()) {
        taken = taken.saturating_add(held.size);
        let fits = place < keep.generations && keep.size.is_none_or(|most| taken <= most);
        if held.state != State::Whole || !fits || !going.is_empty() {
            going.push(held.id);
        }
    }
    // The oldest first, as what is needed least.
    going.reverse();
    going
}

/// Removes what is superseded in a store where nobody of this process uses anything. What another
/// process uses goes another time.
pub(crate) fn retire(data: &DataDir, wanted: &[InfoHashV2], keep: Retention) -> Result<()> {
    let lock = data.lock()?;
    let mut held = Vec::new();
    for id in data.snapshot_ids()? {
        if let Some(entry) = look(data, id) {
            held.push(Held::new(data, id, State::from(&entry)));
        }
    }
    for id in superseded(&held, &current(data)?, wanted, keep) {
        remove(data, id, &lock)?;
    }
    Ok(())
}

/// The current snapshots of all streams.
pub(crate) fn current(data: &DataDir) -> Result<Vec<InfoHashV2>> {
    let streams = data.streams_with_current()?;
    Ok(streams.into_iter().map(|(_, id)| id).collect())
}

/// When the snapshot in `dir` came: its metadata is written once, at the beginning. A time in the future,
/// from a clock that was wrong, is not known: it counts as the oldest.
pub(crate) fn came(dir: &Path) -> SystemTime {
    let metadata = dir.join(METADATA).metadata();
    metadata
        .and_then(|metadata| metadata.modified())
        .ok()
        .filter(|came| clock::is_past(*came, SystemTime::now()))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Removes a superseded snapshot, unless another process uses it: then it goes another time. One that
/// was pinned meanwhile stays.
pub(crate) fn remove(data: &DataDir, id: InfoHashV2, lock: &StoreLock) -> Result<()> {
    if pins::is_pinned(&data.snapshot(id)) {
        return Ok(());
    }
    if data.remove_snapshot(id, lock)? {
        info!(snapshot = %id, "removed: superseded");
    } else {
        info!(snapshot = %id, "superseded, but in use");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_directory_with_one_ledger_in_it_is_understood() {
        use bittorrent_protocol::PieceLength;
        use bittorrent_protocol::metainfo::{HashedContent, MetainfoBuilder};

        let content = || HashedContent {
            length: 1,
            root: Some(bittorrent_protocol::MerkleHash::from_bytes([1; 32])),
            layer: Vec::new(),
            v1_pieces: Vec::new(),
            executable: false,
        };
        for (files, found) in [
            (&["README", "data.ldb"][..], Some("data.ldb")),
            (&["Nano/data.ldb", "Nano/peers.ldb"], Some("Nano/data.ldb")),
            (&["README", "Nano_64.7z"], Some("Nano_64.7z")),
            (&["README", "data.tar.zst"], Some("data.tar.zst")),
            (&["README", "ledger.ldb"], Some("ledger.ldb")),
            (&["a/data.ldb", "b/data.ldb"], None),
            (&["a.7z", "b.7z"], None),
            (&["README", "LICENSE"], None),
        ] {
            let builder = MetainfoBuilder::new("daily", PieceLength::MIN);
            let meta = files.iter().fold(builder, |builder, path| {
                let path = path.split('/').map(str::to_owned).collect();
                builder.file(path, content())
            });
            let meta = meta.build().unwrap();
            let ledger = ledger_file(meta.info()).map(|path| path.join("/"));
            assert_eq!(ledger.as_deref(), found, "{files:?}");
            let content = found.filter(|found| found.ends_with(".ldb"));
            let path = content.map(|path| Path::new("d/content/daily").join(path));
            assert_eq!(plain_ledger(Path::new("d"), meta.info()), path, "{files:?}");
        }
    }

    fn id(byte: u8) -> InfoHashV2 {
        InfoHashV2::from_bytes([byte; 32])
    }

    fn ids(bytes: &[u8]) -> Vec<InfoHashV2> {
        bytes.iter().map(|byte| id(*byte)).collect()
    }

    /// Came in the order of their numbers, and take 10 bytes each.
    fn held(byte: u8, state: State) -> Held {
        Held {
            id: id(byte),
            state,
            since: SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(byte)),
            size: 10,
            pinned: false,
        }
    }

    fn keep_two() -> Retention {
        Retention::from(&config::Retention::default())
    }

    fn whole(bytes: std::ops::RangeInclusive<u8>) -> Vec<Held> {
        bytes.map(|byte| held(byte, State::Whole)).collect()
    }

    #[test]
    fn the_newest_stay_as_many_and_as_large_as_allowed() {
        let keep = |generations, size| Retention { generations, size };
        let two = keep_two();
        // Held are 1 to 5, all whole: current, wanted, what is kept, what goes.
        type Case = (&'static [u8], &'static [u8], Retention, &'static [u8]);
        let cases: [Case; 16] = [
            (&[5], &[], two, &[1, 2, 3]),
            (&[5], &[], keep(1, None), &[1, 2, 3, 4]),
            (&[5], &[], keep(3, None), &[1, 2]),
            (&[5], &[], keep(9, None), &[]),
            (&[5], &[], keep(u32::MAX, None), &[]),
            (&[5, 1], &[], two, &[2, 3]),
            (&[5], &[1], two, &[2, 3]),
            // One that is older is current: the newest of the others stays.
            (&[2], &[], two, &[1, 3, 4]),
            (&[], &[], two, &[]),
            (&[], &[], keep(1, Some(0)), &[]),
            // The current one takes 10 of these.
            (&[5], &[], keep(9, Some(50)), &[]),
            (&[5], &[], keep(9, Some(49)), &[1]),
            (&[5], &[], keep(9, Some(29)), &[1, 2, 3]),
            (&[5], &[], keep(2, Some(50)), &[1, 2, 3]),
            // What has to stay stays, however little is allowed.
            (&[5], &[4], keep(9, Some(0)), &[1, 2, 3]),
            (&[5], &[], Retention::LEAST, &[1, 2, 3, 4]),
        ];
        for (current, wanted, keep, goes) in cases {
            let found = superseded(&whole(1..=5), &ids(current), &ids(wanted), keep);
            assert_eq!(found, ids(goes), "{current:?} {wanted:?} {keep:?}");
        }
    }

    #[test]
    fn what_is_pinned_stays_and_counts_by_its_size_alone() {
        let mut all = whole(1..=5);
        all[1].pinned = true;
        let two = keep_two();
        assert_eq!(superseded(&all, &[id(5)], &[], two), ids(&[1, 3]));
        assert_eq!(
            superseded(&all, &[id(5)], &[], Retention::LEAST),
            ids(&[1, 3, 4])
        );
        let size = |size| Retention {
            generations: 9,
            size: Some(size),
        };
        assert_eq!(superseded(&all, &[id(5)], &[], size(30)), ids(&[1, 3]));
        assert_eq!(superseded(&all, &[id(5)], &[], size(0)), ids(&[1, 3, 4]));
        // Also one that is no whole snapshot.
        all[0] = Held {
            pinned: true,
            ..held(1, State::Remnant)
        };
        assert_eq!(superseded(&all, &[id(5)], &[], two), ids(&[3]));
    }

    #[test]
    fn remnants_go_and_what_a_person_should_see_stays() {
        let mixed = [
            held(1, State::Whole),
            held(2, State::Remnant),
            held(3, State::Untouchable),
            held(4, State::Whole),
            held(5, State::Remnant),
        ];
        let goes = |wanted: &[u8], keep| superseded(&mixed, &[id(4)], &ids(wanted), keep);
        let two = keep_two();
        assert_eq!(goes(&[5], two), ids(&[2]));
        assert_eq!(goes(&[], two), ids(&[2, 5]));
        assert_eq!(goes(&[5], Retention::LEAST), ids(&[2, 1]));
    }
}
