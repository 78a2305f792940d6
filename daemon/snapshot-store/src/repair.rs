//! Repairs the directory of a snapshot that cannot be opened.
//!
//! Damaged parts are moved to `set-aside/`, under the name of the snapshot and of the part. Good parts stay: content
//! is read again and compared with its hashes before anything is downloaded.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use bittorrent_protocol::InfoHashV2;
use bittorrent_protocol::metainfo::Info;
use file_kit::FileError;
use file_kit::fs::sync_dir;
use tracing::warn;

use crate::data_dir::{DataDir, DirLock};
use crate::error::{Result, SnapshotStoreError, is_temporary, with_causes};
use crate::layout::{self, SNAPSHOT_DIRECTORIES, SNAPSHOT_FILES};
use crate::snapshot_dir::SnapshotDir;

/// Fails if a part of a snapshot's directory is not the kind of file it must be, for example a link or a directory
/// instead of a file. Parts may be missing.
pub(crate) fn check_kinds(dir: &SnapshotDir) -> Result<()> {
    let wrong = |name: &str, is_right: fn(&Metadata) -> bool| {
        let path = dir.path().join(name);
        match path.symlink_metadata() {
            Ok(found) => (!is_right(&found)).then_some(path),
            Err(_) => None,
        }
    };
    let files = SNAPSHOT_FILES
        .iter()
        .find_map(|name| wrong(name, Metadata::is_file));
    let directories = || {
        // A link to a directory works.
        let is_right = |found: &Metadata| found.is_dir() || found.is_symlink();
        SNAPSHOT_DIRECTORIES
            .iter()
            .find_map(|name| wrong(name, is_right))
    };
    if let Some(path) = files.or_else(directories) {
        return Err(SnapshotStoreError::WrongKind { path });
    }
    Ok(())
}

/// Moves away what is at the path of a snapshot's directory and is not a directory. Returns whether there was such a
/// thing.
///
/// # Errors
///
/// When it cannot be moved.
pub fn clear_path(data: &DataDir, id: InfoHashV2) -> Result<bool> {
    let dir = data.snapshot(id);
    let Ok(found) = dir.path().symlink_metadata() else {
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
    let to = data.set_aside(dir.path(), &id.to_string())?;
    warn!(
        snapshot = %id, moved_to = %to.display(),
        "{} is not a directory: moved it away, the snapshot will be downloaded again", dir.display()
    );
    Ok(true)
}

/// Repairs the directory of a snapshot that could not be opened for the reason `why`, so that a download can resume.
/// `_own` proves that no other process uses it. If nothing else helps, all of it is moved away.
///
/// # Errors
///
/// When something cannot be moved: then a person has to look at the file system.
pub fn repair(data: &DataDir, id: InfoHashV2, why: &str, _own: &DirLock) -> Result<()> {
    let dir = data.snapshot(id);
    warn!(snapshot = %id, "cannot open the snapshot, repairing it: {why}");
    let repair = Repair {
        data,
        id,
        dir: &dir,
    };
    repair.parts()?;
    // Without its torrent the download starts from the hash, and reuses the content that is there.
    if dir.is_created()
        && let Err(error) = dir.open()
    {
        if is_temporary(&error) {
            return Err(error);
        }
        repair.everything(&with_causes(&error))?;
    }
    Ok(())
}

/// Moves all of a snapshot's directory away, as the last remedy. `_own` proves that no other process uses it.
///
/// # Errors
///
/// When it cannot be moved.
pub fn set_aside_all(data: &DataDir, id: InfoHashV2, why: &str, _own: &DirLock) -> Result<()> {
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
    dir: &'a SnapshotDir,
}

impl Repair<'_> {
    fn parts(&self) -> Result<()> {
        for name in SNAPSHOT_FILES {
            self.file(&self.dir.path().join(name))?;
        }
        for name in SNAPSHOT_DIRECTORIES {
            self.directory(&self.dir.path().join(name))?;
        }
        let torrent = self.dir.metadata_path();
        if torrent.symlink_metadata().is_err() {
            return Ok(());
        }
        match self.dir.read_info() {
            Ok(info) => self.content(&info),
            Err(error) if is_temporary(&error) => Err(error),
            Err(error) => self.move_away(&torrent, &with_causes(&error)),
        }
    }

    fn everything(&self, why: &str) -> Result<()> {
        allow_owner(self.dir);
        self.move_away(self.dir.path(), why)
    }

    /// Makes every content file one that can be opened: an empty one where there is none. What is missing in it is
    /// downloaded.
    fn content(&self, info: &Info) -> Result<()> {
        let mut root = self.dir.path().join(layout::CONTENT);
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
            create_dir(above)?;
            if path.symlink_metadata().is_err() {
                if let Err(source) = fs::File::create(&path) {
                    return Err(SnapshotStoreError::CreateFile { path, source });
                }
                sync_dir(above)?;
            }
        }
        let leaves = self.dir.path().join(layout::LEAVES);
        create_dir(&leaves)?;
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
            return self.move_away(path, "it is not a regular file");
        }
        let opened = fs::File::open(path).or_else(|error| {
            if error.kind() == io::ErrorKind::PermissionDenied {
                let mode = found.permissions().mode() | 0o400;
                fs::set_permissions(path, Permissions::from_mode(mode))?;
                return fs::File::open(path);
            }
            Err(error)
        });
        match opened {
            Ok(_) => Ok(()),
            Err(source) if is_temporary(&source) => Err(FileError::Read {
                path: path.to_owned(),
                source,
            }
            .into()),
            Err(error) => self.move_away(path, &error.to_string()),
        }
    }

    /// Leaves a directory, and a link to one; moves away anything else.
    fn directory(&self, path: &Path) -> Result<()> {
        if path.symlink_metadata().is_err() {
            return Ok(());
        }
        allow_owner(path);
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => Ok(()),
            _ => self.move_away(path, "it is not a directory"),
        }
    }

    fn move_away(&self, path: &Path, why: &str) -> Result<()> {
        let name = match path.strip_prefix(self.dir.path()) {
            Ok(part) if part.as_os_str().is_empty() => self.id.to_string(),
            Ok(part) => format!(
                "{}.{}",
                self.id,
                part.display().to_string().replace('/', "_")
            ),
            Err(_) => self.id.to_string(),
        };
        let to = self.data.set_aside(path, &name)?;
        warn!(
            snapshot = %self.id, moved_to = %to.display(),
            "moved {} away, it will be created again: {why}", path.display()
        );
        Ok(())
    }
}

fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|source| SnapshotStoreError::CreateDir {
        path: path.to_owned(),
        source,
    })
}

/// Gives the owner of a directory back the permissions to read and change it. If that fails, the operation that
/// needs them fails.
pub fn allow_owner(path: impl AsRef<Path>) {
    let path = path.as_ref();
    if let Ok(found) = fs::metadata(path)
        && found.is_dir()
        && found.permissions().mode() & 0o700 != 0o700
    {
        let mode = found.permissions().mode() | 0o700;
        let _ = fs::set_permissions(path, Permissions::from_mode(mode));
    }
}
