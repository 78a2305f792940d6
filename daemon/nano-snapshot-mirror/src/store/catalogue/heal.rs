//! Repairs the directory of a snapshot that cannot be opened.
//!
//! What is damaged is moved to `set-aside/` in the data directory, under the name of the snapshot and
//! of the part. What is good stays: content is read again and compared with its hashes before anything
//! is downloaded. `set-aside/` is bounded: see [`crate::store::set_aside`].

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Error, Result};
use bittorrent_protocol::InfoHashV2;
use bittorrent_protocol::metainfo::Info;
use rustix::io::Errno;
use tracing::warn;

use super::{METADATA, read_info, take_up};
use crate::store::data_dir::{DataDir, DirLock, sync_dir};
use crate::store::set_aside::set_aside;

/// The files that lie directly in the directory of a snapshot.
const FILES: [&str; 10] = [
    METADATA,
    "progress",
    "journal.0",
    "journal.1",
    "cloned",
    "scrub.json",
    "ledger.json",
    "pinned",
    "unread",
    "discarded",
];

/// The directories that lie in it.
const DIRECTORIES: [&str; 2] = ["content", "leaves"];

/// Whether an error says nothing about the snapshot, but about the machine at this moment: no room, no
/// descriptors, no memory, a file system that became read-only. Trying again later is the remedy.
pub(crate) fn is_passing(error: &Error) -> bool {
    crate::store::space::is_lacking(error)
        || error.chain().any(|cause| {
            let of_io = cause.downcast_ref().and_then(Errno::from_io_error);
            let errno = of_io.or_else(|| cause.downcast_ref::<Errno>().copied());
            matches!(
                errno,
                Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN | Errno::ROFS)
            )
        })
}

/// Fails if a part of the directory of a snapshot is something else than it must be, as a link or a
/// directory in the place of a file. Parts that are missing are no failure here.
pub(super) fn check_kinds(dir: &Path) -> Result<()> {
    let wrong = |name: &str, is_right: fn(&Metadata) -> bool| {
        let path = dir.join(name);
        match path.symlink_metadata() {
            Ok(found) => (!is_right(&found)).then_some(path),
            Err(_) => None,
        }
    };
    let files = FILES.iter().find_map(|name| wrong(name, Metadata::is_file));
    let directories = || {
        // A link to a directory works.
        let is_right = |found: &Metadata| found.is_dir() || found.is_symlink();
        DIRECTORIES.iter().find_map(|name| wrong(name, is_right))
    };
    if let Some(path) = files.or_else(directories) {
        anyhow::bail!(
            "{} is damaged: it is neither missing nor the kind of file it must be",
            path.display()
        );
    }
    Ok(())
}

/// Moves whatever stands in the place of a snapshot's directory and is none. Returns whether there was
/// such a thing.
///
/// # Errors
///
/// When it cannot be moved.
pub(crate) fn clear_place(data: &DataDir, id: InfoHashV2) -> Result<bool> {
    let dir = data.snapshot(id);
    let Ok(found) = dir.symlink_metadata() else {
        return Ok(false);
    };
    // A link to a directory works.
    let leads_to_dir = || match fs::metadata(&dir) {
        Ok(found) => found.is_dir(),
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    };
    if found.is_dir() || (found.is_symlink() && leads_to_dir()) {
        return Ok(false);
    }
    let to = set_aside(data, &dir, &id.to_string())?;
    warn!(
        snapshot = %id, moved_to = %to.display(),
        "{} is no directory: moved it away, the snapshot will be fetched again", dir.display()
    );
    Ok(true)
}

/// Repairs the directory of a snapshot that could not be opened for the reason `why`, so that a fetch
/// can go on with it. `_own` proves that no other process uses it. If nothing else helps, all of it is
/// moved away.
///
/// # Errors
///
/// When something cannot be moved: then the file system needs a person.
pub(crate) fn heal(data: &DataDir, id: InfoHashV2, why: &Error, _own: &DirLock) -> Result<()> {
    let dir = data.snapshot(id);
    warn!(snapshot = %id, "cannot open the snapshot, repairing it: {why:#}");
    let repair = Repair {
        data,
        id,
        dir: &dir,
    };
    repair.parts()?;
    // Without its torrent it begins again from the hash, with what is there of its content.
    if super::is_created(&dir)
        && let Err(error) = take_up(&dir)
    {
        if is_passing(&error) {
            return Err(error);
        }
        repair.everything(&error)?;
    }
    Ok(())
}

/// Moves all of a snapshot's directory away, as the last remedy.
///
/// # Errors
///
/// When it cannot be moved.
pub(crate) fn give_up(data: &DataDir, id: InfoHashV2, why: &Error, _own: &DirLock) -> Result<()> {
    let dir = data.snapshot(id);
    Repair {
        data,
        id,
        dir: &dir,
    }
    .everything(why)
}

struct Repair<'a> {
    data: &'a DataDir,
    id: InfoHashV2,
    dir: &'a Path,
}

impl Repair<'_> {
    fn parts(&self) -> Result<()> {
        for name in FILES {
            self.file(&self.dir.join(name))?;
        }
        for name in DIRECTORIES {
            self.directory(&self.dir.join(name))?;
        }
        let torrent = self.dir.join(METADATA);
        if torrent.symlink_metadata().is_err() {
            return Ok(());
        }
        match read_info(self.dir) {
            Ok(info) => self.content(&info),
            Err(error) if is_passing(&error) => Err(error),
            Err(error) => self.move_away(&torrent, &error),
        }
    }

    fn everything(&self, why: &Error) -> Result<()> {
        open_up(self.dir);
        self.move_away(self.dir, why)
    }

    /// Makes every content file one that can be opened: an empty one where there is none. What is
    /// missing in it is fetched.
    fn content(&self, info: &Info) -> Result<()> {
        let mut root = self.dir.join("content");
        if !info.is_single_file() {
            root.push(info.name());
            self.directory(&root)?;
        }
        for file in info.files() {
            // The components of a file's path are safe names by construction.
            let (mut path, parts) = (root.clone(), file.path());
            for (depth, part) in parts.iter().enumerate() {
                path.push(part);
                if depth + 1 < parts.len() {
                    self.directory(&path)?;
                }
            }
            self.file(&path)?;
            let above = path.parent().unwrap_or(&root);
            fs::create_dir_all(above)
                .with_context(|| format!("cannot make {}", above.display()))?;
            if path.symlink_metadata().is_err() {
                fs::File::create(&path)
                    .with_context(|| format!("cannot make {}", path.display()))?;
                sync_dir(above)?;
            }
        }
        let leaves = self.dir.join("leaves");
        fs::create_dir_all(&leaves).with_context(|| format!("cannot make {}", leaves.display()))?;
        for number in 0..info.files().len() {
            self.file(&leaves.join(number.to_string()))?;
        }
        Ok(())
    }

    /// Leaves a file that can be read, and moves away anything else.
    fn file(&self, path: &Path) -> Result<()> {
        let Ok(found) = path.symlink_metadata() else {
            return Ok(());
        };
        if !found.is_file() {
            return self.move_away(path, &Error::msg("it is no regular file"));
        }
        let opened = fs::File::open(path).or_else(|error| {
            if error.kind() == io::ErrorKind::PermissionDenied {
                let mode = found.permissions().mode() | 0o400;
                fs::set_permissions(path, Permissions::from_mode(mode))?;
                return fs::File::open(path);
            }
            Err(error)
        });
        match opened.map_err(Error::from) {
            Ok(_) => Ok(()),
            Err(error) if is_passing(&error) => Err(error),
            Err(error) => self.move_away(path, &error),
        }
    }

    /// Leaves a directory, and a link to one; moves away anything else.
    fn directory(&self, path: &Path) -> Result<()> {
        if path.symlink_metadata().is_err() {
            return Ok(());
        }
        open_up(path);
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => Ok(()),
            _ => self.move_away(path, &Error::msg("it is no directory")),
        }
    }

    fn move_away(&self, path: &Path, why: &Error) -> Result<()> {
        let name = match path.strip_prefix(self.dir) {
            Ok(part) if part.as_os_str().is_empty() => self.id.to_string(),
            Ok(part) => format!(
                "{}.{}",
                self.id,
                part.display().to_string().replace('/', "_")
            ),
            Err(_) => self.id.to_string(),
        };
        let to = set_aside(self.data, path, &name)?;
        warn!(
            snapshot = %self.id, moved_to = %to.display(),
            "moved {} away, it will be made again: {why:#}", path.display()
        );
        Ok(())
    }
}

/// Lets us, as the owner, look into a directory and change it. Where that fails, what follows says so.
fn open_up(path: &Path) {
    if let Ok(found) = fs::metadata(path)
        && found.is_dir()
        && found.permissions().mode() & 0o700 != 0o700
    {
        let mode = found.permissions().mode() | 0o700;
        let _ = fs::set_permissions(path, Permissions::from_mode(mode));
    }
}

/// Lets us, as the owner, into the directory of a snapshot whose permissions were taken away.
pub(crate) fn unlock(dir: &Path) {
    open_up(dir);
}
