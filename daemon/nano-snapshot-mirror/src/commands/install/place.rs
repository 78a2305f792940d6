//! The place of a node's ledger: `data.ldb`, what is beside it, and the lock that keeps nodes out.
//!
//! A crash or a power failure may follow every single system call here. At each moment `data.ldb` is
//! the old ledger or the new one, whole, and the older backup goes only when the next one has its name:
//!
//! | step | `data.ldb` | `data.ldb.backup` |
//! |---|---|---|
//! | | old | older |
//! | a second name for the old ledger, `data.ldb.old` | old | older |
//! | that name renamed to the backup's | old | old |
//! | the new ledger renamed to `data.ldb` | new | old |
//!
//! A file system without hard links (exFAT, CIFS) renames `data.ldb` to `data.ldb.backup`, and then the
//! new ledger to `data.ldb`: between the two there is a backup and no ledger.
//!
//! Rolling back is one exchange of two names (`RENAME_EXCHANGE`), or three renames by way of
//! `data.ldb.rollback` where the file system has none. What an interrupted run left is completed or taken
//! back when the place is opened next.

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

/// What a node calls its ledger.
pub(crate) use snapshot_store::layout::LEDGER;

/// The mode of a ledger that replaces none, as a node would make it.
const NODE_MODE: u32 = 0o600;

/// The mode of an extracted ledger that replaces none: another user may be the one to read it.
const EXTRACTED_MODE: u32 = 0o644;

/// A directory with the ledger of a node that does not run, and cannot start before this is dropped.
#[derive(Debug)]
pub(crate) struct LedgerPlace {
    /// The ledger: in the directory itself, or where a link in it leads.
    ledger: PathBuf,
    dir: Metadata,
    /// Of a ledger that replaces none.
    mode: u32,
    /// `None` in a directory where no node has been: it has neither a ledger nor a lock.
    _lock: Option<NodeLock>,
}

/// What happens to the ledger that is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Old {
    /// It becomes the backup, in place of an older one.
    Backup,
    /// It goes: the same can be made again.
    Discard,
}

impl LedgerPlace {
    /// The directory of a node.
    pub(super) fn of_node(to: &Path) -> Result<Self> {
        let dir = to
            .metadata()
            .with_context(|| format!("cannot look at the node's directory {}", to.display()))?;
        if !dir.is_dir() {
            bail!(
                "{} is no directory: name the one that holds the node's {LEDGER}",
                to.display()
            );
        }
        check_owner(to, &dir)?;
        let (name, ledger) = find(to)?;
        let lock = NodeLock::take(&name, &dir)?;
        Self::opened(ledger, dir, NODE_MODE, Some(lock))
    }

    /// A data directory of this program, in which `--extract` puts a ledger, and a node may use it.
    pub(crate) fn of_data_dir(root: &Path) -> Result<Self> {
        Self::check_unused(root)?;
        let dir = root
            .metadata()
            .with_context(|| format!("cannot look at {}", root.display()))?;
        let (name, ledger) = find(root)?;
        if let Ok(old) = ledger.metadata() {
            check_owner(&ledger, &old)?;
        }
        let is_used = ledger.exists() || beside(&name, "-lock").exists();
        let lock = is_used.then(|| NodeLock::take(&name, &dir)).transpose()?;
        Self::opened(ledger, dir, EXTRACTED_MODE, lock)
    }

    /// Fails if a node has the ledger in a data directory open. Ask before a long download.
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

    /// Completes or takes back what an interrupted run left.
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
        Temporary::remove_leftovers(ledger);
        Ok(sync_dir(self.parent())?)
    }

    /// Removes what an interrupted extraction of an archive to this place left. What cannot be removed
    /// only takes room.
    pub(crate) fn clear_extraction(&self) {
        if let Err(error) = ledger_archive::remove_leftovers(&self.ledger) {
            warn!("{:#}", anyhow::Error::from(error));
        }
    }

    /// Gives `new` the owner, group and mode of the ledger that it is to replace, or those that a node
    /// would have given it, and syncs it.
    pub(crate) fn hand_over(&self, new: &File, path: &Path) -> Result<()> {
        self.hand_over_owner(new, path)?;
        self.hand_over_mode(new, path)
    }

    /// The owner and group only.
    pub(crate) fn hand_over_owner(&self, new: &File, path: &Path) -> Result<()> {
        let failed = || cannot_hand_over(path);
        let old = self.old(new);
        let owner = match &old {
            Some(old) if !self.is_left_by_root(old) => old,
            // Only root can give away what replaces nothing.
            None if !rustix::process::geteuid().is_root() => return Ok(()),
            _ => &self.dir,
        };
        let own = new.metadata().with_context(failed)?;
        if (own.uid(), own.gid()) != (owner.uid(), owner.gid()) {
            fchown(new, Some(owner.uid()), Some(owner.gid())).with_context(failed)?;
        }
        Ok(())
    }

    /// The mode only, and syncs.
    pub(crate) fn hand_over_mode(&self, new: &File, path: &Path) -> Result<()> {
        let failed = || cannot_hand_over(path);
        let mode = self
            .old(new)
            .map_or(self.mode, |old| old.permissions().mode() & 0o777);
        new.set_permissions(Permissions::from_mode(mode))
            .with_context(failed)?;
        new.sync_all().with_context(failed)
    }

    /// The ledger that `new` replaces, or that it replaced: an interrupted run may have made it the backup.
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

    /// Whether root left a file in the directory of another user: a mistake not to be repeated.
    fn is_left_by_root(&self, file: &Metadata) -> bool {
        file.uid() == 0 && self.dir.uid() != 0
    }

    /// Puts a ledger in the place of the one that is there: `put` gives it its name, in one rename. The
    /// new ledger is synced before.
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
                        "cannot give {} a second name, {}",
                        self.ledger.display(),
                        second.display()
                    )
                });
            }
        };
        // Before the ledger's name leads elsewhere, the backup's has to lead here.
        sync_dir(self.parent())?;
        Ok(kept)
    }

    /// Exchanges the ledger and the backup, which is there.
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
                    "cannot give {} the name {}",
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

    /// Gives the backup to the node's owner where root left it.
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

/// How the old ledger was kept.
enum Kept {
    /// There is none, or it is not kept.
    InPlace,
    /// It is the ledger and the backup.
    TwoNames,
    /// It is the backup only.
    Renamed,
}

/// The ledger's name in `dir`, by which a node finds its lock, and where a link of that name leads.
fn find(dir: &Path) -> Result<(PathBuf, PathBuf)> {
    let name = dir.join(LEDGER);
    let ledger = match name.symlink_metadata() {
        Ok(metadata) if metadata.is_symlink() => fs::canonicalize(&name)
            .with_context(|| format!("the link {} leads nowhere", name.display()))?,
        Ok(metadata) if !metadata.is_file() => bail!("{} is no file", name.display()),
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

/// Whether both are names of one file.
pub(super) fn is_same_file(one: &Path, other: &Path) -> bool {
    match (one.symlink_metadata(), other.symlink_metadata()) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// Whether a link failed because the file system has no links. `EPERM` may have other reasons, which
/// then keep the file from being renamed, too.
fn has_no_links(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS))
}

/// Opens a file that is to be given to the node. Root must not give away what the directory's owner has
/// put in its place: nothing that leads elsewhere, or has another name.
pub(crate) fn open_alone(path: &Path) -> Result<File> {
    let failed = || cannot_hand_over(path);
    let file = File::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .with_context(failed)?;
    if file.metadata().with_context(failed)?.nlink() > 1 {
        bail!("{}: it has another name", failed());
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
