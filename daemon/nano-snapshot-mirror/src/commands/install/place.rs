//! The data directory of a node: its `data.ldb`, the backup beside it, and the lock that keeps the node from
//! starting.
//!
//! A crash or a power failure may follow any single system call here. At each moment `data.ldb` is either the
//! complete old ledger or the complete new one. The older backup is deleted only when the next backup takes its name:
//!
//! | step | `data.ldb` | `data.ldb.backup` |
//! |---|---|---|
//! | | old | older |
//! | a hard link `data.ldb.old` to the old ledger | old | older |
//! | that link renamed to the backup's name | old | old |
//! | the new ledger renamed to `data.ldb` | new | old |
//!
//! A file system without hard links (exFAT, CIFS) renames `data.ldb` to `data.ldb.backup` and then the new ledger to
//! `data.ldb`. Between the two renames there is a backup and no ledger.
//!
//! A rollback is one exchange of two names (`RENAME_EXCHANGE`). Where the file system does not support it, it is
//! three renames by way of `data.ldb.rollback`. Opening the directory completes or undoes what an interrupted run
//! left.

use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use file_kit::Temporary;
use file_kit::fs::sync_dir;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use tracing::{info, warn};

use super::node_lock::{NodeLock, who_has_open};

/// The file name of a node's ledger.
pub(crate) use snapshot_store::layout::LEDGER;

/// The mode of an installed ledger if there was no ledger before: the one a node would set.
const NODE_MODE: u32 = 0o600;

/// The mode of an extracted ledger if there was no ledger before. It is world-readable, as another user may read it.
const EXTRACTED_MODE: u32 = 0o644;

/// The data directory of a stopped node. The node cannot start until this is dropped.
#[derive(Debug)]
pub(crate) struct LedgerPlace {
    /// The path of the ledger. If `data.ldb` in the directory is a symbolic link, this is its target.
    ledger: PathBuf,
    dir: Metadata,
    /// The mode of the new ledger if there was no ledger before.
    mode: u32,
    /// `None` in a directory that no node has used: it has neither a ledger nor a lock file.
    _lock: Option<NodeLock>,
}

/// What happens to the ledger that is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Old {
    /// The old ledger becomes the backup and replaces an older one.
    Backup,
    /// The old ledger is deleted, because it can be fetched again.
    Discard,
}

impl LedgerPlace {
    /// Opens the data directory of a node.
    pub(super) fn of_node(to: &Path) -> Result<Self> {
        let dir = to
            .metadata()
            .with_context(|| format!("cannot access the node's directory {}", to.display()))?;
        if !dir.is_dir() {
            bail!(
                "{} is not a directory: name the one with the node's {LEDGER}",
                to.display()
            );
        }
        check_owner(to, &dir)?;
        let (name, ledger) = find(to)?;
        let lock = NodeLock::take(&name, &dir)?;
        Self::opened(ledger, dir, NODE_MODE, Some(lock))
    }

    /// Opens a data directory of this program, where `--extract` writes a ledger that a node may use.
    pub(crate) fn of_data_dir(root: &Path) -> Result<Self> {
        Self::check_unused(root)?;
        let dir = root
            .metadata()
            .with_context(|| format!("cannot access {}", root.display()))?;
        let (name, ledger) = find(root)?;
        if let Ok(old) = ledger.metadata() {
            check_owner(&ledger, &old)?;
        }
        let is_used = ledger.exists() || beside(&name, "-lock").exists();
        let lock = is_used.then(|| NodeLock::take(&name, &dir)).transpose()?;
        Self::opened(ledger, dir, EXTRACTED_MODE, lock)
    }

    /// Fails if a node has the ledger in a data directory open. Call it before a long download.
    pub(crate) fn check_unused(root: &Path) -> Result<()> {
        let ledger = root.join(LEDGER);
        if let Some(holder) = who_has_open(&ledger) {
            bail!(
                "{holder} has {} open, so --extract cannot replace it: stop the node first, or fetch \
                 into another --data-dir and run `nano-snapshot-mirror install --to {}` when the node \
                 is stopped",
                ledger.display(),
                root.display()
            );
        }
        Ok(())
    }

    fn opened(ledger: PathBuf, dir: Metadata, mode: u32, lock: Option<NodeLock>) -> Result<Self> {
        let place = Self {
            ledger,
            dir,
            mode,
            _lock: lock,
        };
        place.settle()?;
        Ok(place)
    }

    pub(crate) fn ledger(&self) -> &Path {
        &self.ledger
    }

    pub(crate) fn backup(&self) -> PathBuf {
        beside(&self.ledger, ".backup")
    }

    pub(crate) fn parent(&self) -> &Path {
        self.ledger.parent().unwrap_or(Path::new("/"))
    }

    /// Completes or undoes the changes of an interrupted run.
    fn settle(&self) -> Result<()> {
        let (ledger, backup) = (&self.ledger, self.backup());
        let aside = beside(ledger, ".rollback");
        if is_there(&aside) {
            let back_to = match (is_there(ledger), is_there(&backup)) {
                (true, false) => &backup,
                (false, _) => ledger,
                (true, true) if is_same_file(ledger, &backup) => ledger,
                (true, true) => bail!(
                    "{}, {} and {} are three ledgers: a node made one after a rollback was \
                     interrupted; move away the one that you do not need",
                    ledger.display(),
                    backup.display(),
                    aside.display()
                ),
            };
            rename(&aside, back_to)?;
            info!("completed an interrupted rollback: {}", back_to.display());
        }
        // Two names of one file are no backup: the node would write to both.
        for name in [beside(ledger, ".old"), backup] {
            if is_same_file(ledger, &name) {
                remove(&name)?;
            }
        }
        for path in Temporary::remove_leftovers(ledger) {
            info!("removed {}, left by an interrupted run", path.display());
        }
        Ok(sync_dir(self.parent())?)
    }

    /// Removes the files of an interrupted extraction to this ledger. A failure is only logged, as the files just use
    /// space.
    pub(crate) fn clear_extraction(&self) {
        if let Err(error) = ledger_archive::remove_leftovers(&self.ledger) {
            warn!("{:#}", anyhow::Error::from(error));
        }
    }

    /// Gives `new` the owner, group and mode of the ledger that it replaces, or else those that a node would set.
    /// Syncs the file.
    pub(crate) fn hand_over(&self, new: &File, path: &Path) -> Result<()> {
        self.hand_over_owner(new, path)?;
        self.hand_over_mode(new, path)
    }

    /// Sets the owner and group only.
    pub(crate) fn hand_over_owner(&self, new: &File, path: &Path) -> Result<()> {
        let failed = || cannot_hand_over(path);
        let old = self.old(new);
        let owner = match &old {
            Some(old) if !self.is_left_by_root(old) => old,
            // Without an old ledger whose owner to take, only root can set another owner.
            None if !rustix::process::geteuid().is_root() => return Ok(()),
            _ => &self.dir,
        };
        let own = new.metadata().with_context(failed)?;
        if (own.uid(), own.gid()) != (owner.uid(), owner.gid()) {
            fchown(new, Some(owner.uid()), Some(owner.gid())).with_context(failed)?;
        }
        Ok(())
    }

    /// Sets the mode only, and syncs the file.
    pub(crate) fn hand_over_mode(&self, new: &File, path: &Path) -> Result<()> {
        let failed = || cannot_hand_over(path);
        let mode = self
            .old(new)
            .map_or(self.mode, |old| old.permissions().mode() & 0o777);
        new.set_permissions(Permissions::from_mode(mode))
            .with_context(failed)?;
        new.sync_all().with_context(failed)
    }

    /// Returns the metadata of the old ledger. An interrupted run may already have made it the backup.
    fn old(&self, new: &File) -> Option<Metadata> {
        let new = new.metadata().ok();
        let is_new = |old: &Metadata| {
            new.as_ref()
                .is_some_and(|new| (new.dev(), new.ino()) == (old.dev(), old.ino()))
        };
        [self.ledger.clone(), self.backup()]
            .iter()
            .filter_map(|path| path.metadata().ok())
            .find(|old| !is_new(old))
    }

    /// Returns whether root owns a file in a directory of another user. The node could not write to such a file.
    fn is_left_by_root(&self, file: &Metadata) -> bool {
        file.uid() == 0 && self.dir.uid() != 0
    }

    /// Replaces the ledger. `put` renames the new ledger to the path that it gets. The caller has synced the new
    /// ledger.
    pub(crate) fn replace(&self, old: Old, put: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let kept = match old {
            Old::Backup if is_there(&self.ledger) => self.back_up()?,
            _ => Kept::InPlace,
        };
        if let Err(error) = put(&self.ledger) {
            let backup = self.backup();
            match kept {
                Kept::Renamed => rename(&backup, &self.ledger)?,
                Kept::TwoNames => remove(&backup)?,
                Kept::InPlace => {}
            }
            return Err(error);
        }
        Ok(sync_dir(self.parent())?)
    }

    fn back_up(&self) -> Result<Kept> {
        let backup = self.backup();
        let second = beside(&self.ledger, ".old");
        let kept = match fs::hard_link(&self.ledger, &second) {
            Ok(()) => {
                if let Err(error) = rename(&second, &backup) {
                    remove(&second)?;
                    return Err(error);
                }
                Kept::TwoNames
            }
            Err(error) if has_no_links(&error) => {
                rename(&self.ledger, &backup)?;
                Kept::Renamed
            }
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "cannot hard-link {} as {}",
                        self.ledger.display(),
                        second.display()
                    )
                });
            }
        };
        // The backup's name must be durable before the ledger's name refers to the new file.
        sync_dir(self.parent())?;
        Ok(kept)
    }

    /// Exchanges the ledger and the backup. The backup must exist.
    pub(super) fn exchange(&self) -> Result<()> {
        let (ledger, backup) = (&self.ledger, self.backup());
        if !is_there(ledger) {
            rename(&backup, ledger)?;
            return Ok(sync_dir(self.parent())?);
        }
        match rustix::fs::renameat_with(CWD, &backup, CWD, ledger, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(sync_dir(self.parent())?),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => self.exchange_by_renames(),
            Err(error) => Err(error).with_context(|| {
                format!(
                    "cannot exchange {} and {}",
                    backup.display(),
                    ledger.display()
                )
            }),
        }
    }

    fn exchange_by_renames(&self) -> Result<()> {
        let (ledger, backup) = (&self.ledger, self.backup());
        let aside = beside(ledger, ".rollback");
        rename(&backup, &aside)?;
        sync_dir(self.parent())?;
        let moved = match fs::hard_link(ledger, &backup) {
            Err(error) if has_no_links(&error) => rename(ledger, &backup),
            linked => linked.with_context(|| {
                format!(
                    "cannot hard-link {} as {}",
                    ledger.display(),
                    backup.display()
                )
            }),
        };
        if let Err(error) = moved {
            rename(&aside, &backup)?;
            return Err(error);
        }
        sync_dir(self.parent())?;
        rename(&aside, ledger)?;
        Ok(sync_dir(self.parent())?)
    }

    /// Changes the backup's owner to that of the directory if root owns it.
    pub(super) fn hand_over_backup(&self) -> Result<()> {
        let backup = self.backup();
        let failed = || cannot_hand_over(&backup);
        let file = open_alone(&backup)?;
        if self.is_left_by_root(&file.metadata().with_context(failed)?) {
            fchown(&file, Some(self.dir.uid()), Some(self.dir.gid())).with_context(failed)?;
        }
        Ok(())
    }
}

/// Where the old ledger is while the new one is put in place.
enum Kept {
    /// There was no ledger, or it is not kept.
    InPlace,
    /// The old ledger has both names: `data.ldb` and the backup's.
    TwoNames,
    /// The old ledger has the backup's name only.
    Renamed,
}

/// Returns the path of `data.ldb` in `dir`, where the lock file is, and the target if that path is a symbolic link.
fn find(dir: &Path) -> Result<(PathBuf, PathBuf)> {
    let name = dir.join(LEDGER);
    let ledger = match name.symlink_metadata() {
        Ok(metadata) if metadata.is_symlink() => fs::canonicalize(&name).with_context(|| {
            format!(
                "the target of the symbolic link {} does not exist",
                name.display()
            )
        })?,
        Ok(metadata) if !metadata.is_file() => bail!("{} is not a regular file", name.display()),
        _ => name.clone(),
    };
    Ok((name, ledger))
}

fn check_owner(path: &Path, metadata: &Metadata) -> Result<()> {
    let user = rustix::process::geteuid();
    if !user.is_root() && user.as_raw() != metadata.uid() {
        bail!(
            "{} belongs to user {}, and this is user {}: run this as that user or as root, or the \
             node could not open its ledger",
            path.display(),
            metadata.uid(),
            user.as_raw()
        );
    }
    Ok(())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.to_owned().into_os_string();
    path.push(suffix);
    path.into()
}

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Returns whether both paths are names of the same file.
pub(super) fn is_same_file(one: &Path, other: &Path) -> bool {
    match (one.symlink_metadata(), other.symlink_metadata()) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// Returns whether creating a hard link failed because the file system has none. `EPERM` can have other causes, but those
/// also make the rename fail.
fn has_no_links(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS))
}

/// Opens a file whose owner is about to change to the node's. The owner of the directory could have replaced the
/// file, so root refuses symbolic links and files with more than one hard link.
pub(crate) fn open_alone(path: &Path) -> Result<File> {
    let failed = || cannot_hand_over(path);
    let file = File::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .with_context(failed)?;
    if file.metadata().with_context(failed)?.nlink() > 1 {
        bail!("{}: it has another hard link", failed());
    }
    Ok(file)
}

fn cannot_hand_over(path: &Path) -> String {
    format!("cannot hand {} over to the node", path.display())
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to)
        .with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}
