//! `install`: puts a verified ledger into the data directory of a stopped node.
//!
//! The first step takes LMDB's lock. It fails if a node runs, and no node can start until the end. The new ledger is
//! written under a temporary name, compared with the published hashes, verified and synced. Then it replaces the old
//! ledger, which becomes the backup; [`place`] describes the order.

pub(crate) mod node_lock;
pub(crate) mod place;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use file_kit::Temporary;
use ledger_archive::{Extracted, LedgerFormat};
use node_lock::who_has_open;
use place::{LEDGER, LedgerPlace, Old, is_same_file, open_alone};
use service_kit::output::outln;
use service_kit::signals::Signals;
use snapshot_store::{DataDir, DirLock, SnapshotDir, SnapshotInfo, StreamName, space};
use tracing::{info, warn};

use crate::cli::InstallArgs;
use crate::commands::outcome::Outcome;
use crate::config::Config;
use crate::ledger::extract::{self, Method};
use crate::ledger::policy::{LedgerPolicy, Verdict, refuse_replacement};
use crate::ledger::published::{CHUNK, Damaged, Published, read_chunk};
use crate::ledger::unpack::{self, Unpack, Unpacked};
use crate::progress::{ProgressDisplay, WorkKind};

/// Installs a ledger, or rolls back.
pub(crate) fn run(
    args: &InstallArgs,
    config: &Config,
    display: &ProgressDisplay,
    signals: &Signals,
) -> Result<Outcome> {
    let place = LedgerPlace::of_node(&args.to)?;
    if args.rollback {
        roll_back(&place, config)?;
        return Ok(Outcome::Done);
    }
    let origin = Origin::find(args, config)?;
    let installation = Installation {
        place,
        policy: LedgerPolicy::from(&config.verify),
        allow_older: args.allow_older,
        display,
        signals,
    };
    installation.run(&origin)
}

/// The source of the new ledger.
struct Origin {
    path: PathBuf,
    /// The snapshot that has the ledger: plain, or in an archive.
    snapshot: Option<Snapshot>,
}

struct Snapshot {
    id: bittorrent_protocol::InfoHashV2,
    dir: SnapshotDir,
    data: DataDir,
    info: bittorrent_protocol::metainfo::Info,
    published: Published,
    format: LedgerFormat,
    /// The shared lock that keeps the snapshot from being removed.
    _in_use: DirLock,
}

impl Origin {
    fn find(args: &InstallArgs, config: &Config) -> Result<Self> {
        if let Some(path) = &args.ledger {
            return Ok(Self {
                path: path.clone(),
                snapshot: None,
            });
        }
        let data = DataDir::existing(config.data_dir.as_deref())?;
        let stream = StreamName::of_salt(args.salt.salt.as_bytes());
        if let Some(id) = data.current_of(&stream)? {
            let in_use = data
                .share_snapshot(id)?
                .with_context(|| format!("another process is writing snapshot {id}"))?;
            let dir = data.snapshot(id);
            let info = dir.read_info()?;
            // Copying the ledger detects changes made since.
            if !dir.was_whole()? {
                bail!("snapshot {id} is not whole: fetch it with --once first");
            }
            let Some((format, path)) = dir.content(&info) else {
                bail!("snapshot {id} is {}, which is not a ledger", info.name());
            };
            return Ok(Self {
                path,
                snapshot: Some(Snapshot {
                    id,
                    published: Published::read(&dir, id)?,
                    dir,
                    data,
                    info,
                    format,
                    _in_use: in_use,
                }),
            });
        }
        let extracted = data.ledger();
        if extracted.is_file() {
            return Ok(Self {
                path: extracted,
                snapshot: None,
            });
        }
        bail!(
            "{} has neither a current snapshot of {} nor a {LEDGER}: fetch one with --once, or \
             name a ledger",
            data.root().display(),
            stream.as_str()
        )
    }

    fn archive(&self) -> Option<&Snapshot> {
        self.snapshot
            .as_ref()
            .filter(|snapshot| snapshot.format != LedgerFormat::Plain)
    }

    fn published(&self) -> Option<&Published> {
        self.snapshot.as_ref().map(|snapshot| &snapshot.published)
    }

    /// Adds to an error how to repair damaged content of a snapshot.
    fn with_remedy(&self, error: anyhow::Error) -> anyhow::Error {
        match (&self.snapshot, Damaged::of(&error)) {
            (Some(snapshot), Some(damaged)) => anyhow!(
                "snapshot {} is not installed, and the node's ledger is unchanged: {damaged}; run \
                 `nano-snapshot-mirror verify --data-dir {}` to find all damage, then fetch the \
                 damaged blocks again with --once or a mirror",
                snapshot.id,
                snapshot.data.root().display()
            ),
            _ => error,
        }
    }
}

fn roll_back(place: &LedgerPlace, config: &Config) -> Result<()> {
    let backup = place.backup();
    if !backup.exists() {
        bail!(
            "there is no backup at {}: install makes one when it replaces a ledger",
            backup.display()
        );
    }
    // Takes milliseconds and only checks that the file is a ledger. The backup was in use before.
    let policy = LedgerPolicy {
        level: nano_ledger::Level::L0,
        store_versions: config.verify.store_versions.clone(),
    };
    let stop = tokio_util::sync::CancellationToken::new();
    let record = policy.verify(&backup, None, &ProgressDisplay::new(), &stop)?;
    if let Verdict::Refused(reasons) = policy.judge_record(record.as_ref()) {
        bail!("the backup is not a sound ledger: {}", reasons.join("; "));
    }
    place.hand_over_backup()?;
    place.exchange()?;
    outln!("{}", place.ledger().display());
    info!(
        "rolled back: {} is the backup now; the same command again undoes this",
        backup.display()
    );
    Ok(())
}

struct Installation<'a> {
    place: LedgerPlace,
    policy: LedgerPolicy,
    allow_older: bool,
    display: &'a ProgressDisplay,
    signals: &'a Signals,
}

/// The result of comparing two ledgers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compared {
    Same,
    Different,
    Interrupted,
}

impl Installation<'_> {
    fn run(&self, origin: &Origin) -> Result<Outcome> {
        let made = match origin.archive() {
            Some(snapshot) => self.install_archive(snapshot),
            None => self.install_ledger(origin),
        };
        match made.map_err(|error| origin.with_remedy(error))? {
            Made::Put => self.installed(origin),
            Made::There => {
                info!("this ledger is installed already: nothing was changed");
            }
            Made::Interrupted => return Ok(Outcome::Interrupted),
        }
        self.place.clear_extraction();
        outln!("{}", self.place.ledger().display());
        Ok(Outcome::Done)
    }

    fn installed(&self, origin: &Origin) {
        if origin.snapshot.is_none() {
            warn!(
                "{} is not a snapshot of the data directory, so there were no hashes to compare it \
                 with: damage that --verify-level does not check for stays undetected (l3 reads every \
                 block)",
                origin.path.display()
            );
        }
        let backup = self.place.backup();
        if backup.exists() {
            info!(
                "installed; the old ledger is {}: remove it when the node works, or go back with \
                 --rollback",
                backup.display()
            );
        } else {
            info!("installed; there was no ledger before");
        }
    }

    fn install_ledger(&self, origin: &Origin) -> Result<Made> {
        let (path, ledger) = (&origin.path, self.place.ledger());
        if is_same_file(path, ledger) {
            bail!("{} is the node's ledger already", path.display());
        }
        if let Some(writer) = who_has_open(path) {
            bail!(
                "{writer} has {} open and may write to it while it is copied: stop it first",
                path.display()
            );
        }
        // Extracting first would cost hours and disk space for nothing.
        match ledger_archive::detect(path) {
            Ok(LedgerFormat::Plain) => {}
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "{} is not installed, the node's ledger is unchanged",
                        path.display()
                    )
                });
            }
            Ok(LedgerFormat::SevenZ | LedgerFormat::TarZst) => bail!(
                "{} is not installed, the node's ledger is unchanged: it is an archive, and install \
                 takes an archive only as a snapshot: extract it first, and name the data.ldb in it",
                path.display()
            ),
        }
        match self.compare_with_installed(path, origin.published())? {
            Compared::Same => return Ok(Made::There),
            Compared::Interrupted => return Ok(Made::Interrupted),
            Compared::Different => {}
        }
        let Some(made) = self.copy(origin)? else {
            return Ok(Made::Interrupted);
        };
        refuse_replacement(ledger, made.path(), self.allow_older)?;
        self.place.hand_over(made.file(), made.path())?;
        self.place
            .replace(Old::Backup, |ledger| Ok(made.put(ledger)?))?;
        Ok(Made::Put)
    }

    /// Makes a new file from a plain ledger and verifies it. `None` when interrupted.
    fn copy(&self, origin: &Origin) -> Result<Option<Temporary>> {
        let path = &origin.path;
        let size = length(path)?;
        let proceed = || !self.signals.stop.is_cancelled();
        let reflink = extract::by_reflink(path, self.place.ledger())?;
        let (made, method) = if let Some(made) = reflink {
            if let Some(published) = origin.published() {
                let mut meter = self.display.start(WorkKind::VerifyCopy, size);
                // Verifies the copy and not the original, as the node opens the copy.
                let whole = published.compare(made.file(), path, &mut |done| {
                    meter.set(done, None);
                    proceed()
                })?;
                if !whole {
                    return Ok(None);
                }
            }
            (made, Method::Reflink)
        } else {
            space::ensure(self.place.parent(), size, "the node's new ledger")?;
            let mut meter = self.display.start(WorkKind::CopyLedger, size);
            let made =
                extract::by_copy(path, self.place.ledger(), origin.published(), &mut |done| {
                    meter.set(done, None);
                    proceed()
                })?;
            match made {
                Some(made) => (made, Method::Copy),
                None => return Ok(None),
            }
        };
        info!(
            size_bytes = size,
            ?method,
            "the new ledger is beside the node's"
        );
        let claimed = origin
            .snapshot
            .as_ref()
            .and_then(|snapshot| SnapshotInfo::parse(snapshot.info.snapshot()?));
        let found = self.policy.verify(
            made.path(),
            claimed.as_ref(),
            self.display,
            &self.signals.stop,
        )?;
        let Some(record) = found else {
            return Ok(None);
        };
        if let Verdict::Refused(reasons) = self.policy.judge_record(Some(&record)) {
            bail!(
                "{} is not installed, the node's ledger is unchanged: {}",
                path.display(),
                reasons.join("; ")
            );
        }
        Ok(Some(made))
    }

    fn install_archive(&self, snapshot: &Snapshot) -> Result<Made> {
        let Some(archived) = self.unpack(snapshot)? else {
            return Ok(Made::Interrupted);
        };
        let path = archived.path();
        match self.compare_with_installed(&path, None)? {
            Compared::Same => {
                archived.remove()?;
                return Ok(Made::There);
            }
            Compared::Interrupted => return Ok(Made::Interrupted),
            Compared::Different => {}
        }
        if let Err(error) = refuse_replacement(self.place.ledger(), &path, self.allow_older) {
            archived.remove()?;
            return Err(error);
        }
        self.place.hand_over(&open_alone(&path)?, &path)?;
        self.place.replace(Old::Backup, |_| {
            unpack::tell(snapshot.id, &archived.install()?);
            Ok(())
        })?;
        Ok(Made::Put)
    }

    /// Extracts the archive of a snapshot next to the node's ledger and verifies the result. Returns `None` when
    /// interrupted.
    fn unpack(&self, snapshot: &Snapshot) -> Result<Option<Extracted>> {
        let unpack = Unpack {
            id: snapshot.id,
            dir: snapshot.dir.clone(),
            target: self.place.ledger().to_owned(),
            policy: self.policy.clone(),
            display: self.display.clone(),
            stop: self.signals.stop.clone(),
        };
        match unpack.whole(&snapshot.info, false)? {
            Unpacked::Ready(archived) => Ok(Some(*archived)),
            Unpacked::Stopped | Unpacked::NeedsWhole => Ok(None),
        }
    }

    /// Compares the installed ledger with what was `published` where that is known, and otherwise with the new ledger
    /// at `path`. The file at `path` may have been damaged after the installed ledger was made from it. Different
    /// ledgers differ in their first page, so the comparison ends there.
    fn compare_with_installed(
        &self,
        path: &Path,
        published: Option<&Published>,
    ) -> Result<Compared> {
        let ledger = self.place.ledger();
        if is_same_file(path, ledger) {
            return Ok(Compared::Same);
        }
        if !ledger.exists() || length(path)? != length(ledger)? {
            return Ok(Compared::Different);
        }
        let mut meter = self
            .display
            .start(WorkKind::CompareInstalled, length(ledger)?);
        let mut proceed = |done| {
            meter.set(done, None);
            !self.signals.stop.is_cancelled()
        };
        let installed = extract::open(ledger)?;
        let Some(published) = published else {
            return compare(path, ledger, &mut proceed);
        };
        match published.compare(&installed, ledger, &mut proceed) {
            Ok(true) => Ok(Compared::Same),
            Ok(false) => Ok(Compared::Interrupted),
            Err(error) if Damaged::of(&error).is_some() => Ok(Compared::Different),
            Err(error) => Err(error),
        }
    }
}

/// The result of making the new ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    /// The new ledger is installed.
    Put,
    /// The ledger was installed before.
    There,
    Interrupted,
}

fn length(path: &Path) -> Result<u64> {
    let metadata = path
        .metadata()
        .with_context(|| format!("cannot access {}", path.display()))?;
    Ok(metadata.len())
}

/// Compares two files of the same length.
fn compare(one: &Path, other: &Path, proceed: &mut dyn FnMut(u64) -> bool) -> Result<Compared> {
    let (mut left, mut right) = (extract::open(one)?, extract::open(other)?);
    let mut buffers = [vec![0; CHUNK], vec![0; CHUNK]];
    let mut done = 0;
    loop {
        let [left_bytes, right_bytes] = &mut buffers;
        let left_bytes = read_chunk(&mut left, one, left_bytes)?;
        if left_bytes != read_chunk(&mut right, other, right_bytes)? {
            return Ok(Compared::Different);
        }
        if left_bytes.is_empty() {
            return Ok(Compared::Same);
        }
        done += left_bytes.len() as u64;
        if !proceed(done) {
            return Ok(Compared::Interrupted);
        }
    }
}
