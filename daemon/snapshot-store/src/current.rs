//! `current/`: the current snapshot of each stream.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use bittorrent_protocol::InfoHashV2;
use file_kit::fs::{remove_if_exists, rename, sync_dir};
use tracing::warn;

use crate::data_dir::{DataDir, StoreLock, list};
use crate::error::{Result, SnapshotStoreError};
use crate::layout;

/// The longest text of a file that replaces a link, in bytes: `../snapshots/`, a hash, a line end.
const LONGEST_LINK: u64 = 128;

/// The name of a stream in `current/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamName(String);

impl StreamName {
    /// Returns the name of the stream with this salt: the salt itself if it is plain text that may be a file name,
    /// `default` for the empty salt, and its hexadecimal digits otherwise.
    pub fn of_salt(salt: &[u8]) -> Self {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let hex = || salt.iter().map(|byte| format!("{byte:02x}"));
        Self(match std::str::from_utf8(salt) {
            Ok("") => "default".to_owned(),
            Ok(text) if text.bytes().all(plain) => text.to_owned(),
            _ => format!("salt-{}", hex().collect::<String>()),
        })
    }

    /// Returns the name of a stream that has a section in the configuration, which accepts only names that may be
    /// file names.
    pub fn of_section(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is at a name in `current/`.
enum Link {
    Missing,
    Snapshot(InfoHashV2),
    /// Something that names no snapshot.
    Foreign,
}

impl DataDir {
    /// Returns the path of the link of a stream.
    pub fn current_link(&self, stream: &StreamName) -> PathBuf {
        self.current().join(stream.as_str())
    }

    /// Returns the current snapshot of a stream, if it has one. Anything that is not a link to a snapshot counts as
    /// none: [`Self::switch`] moves it away.
    ///
    /// # Errors
    ///
    /// When the link cannot be read.
    pub fn current_of(&self, stream: &StreamName) -> Result<Option<InfoHashV2>> {
        let path = self.current_link(stream);
        match read_link(&path) {
            Ok(Link::Snapshot(id)) => Ok(Some(id)),
            Ok(Link::Missing | Link::Foreign) => Ok(None),
            Err(source) => Err(SnapshotStoreError::ReadCurrent { path, source }),
        }
    }

    /// Returns all streams that have a current snapshot, sorted by name. Ignores other files in `current/`.
    ///
    /// # Errors
    ///
    /// When `current/` or a link in it cannot be read.
    pub fn streams_with_current(&self) -> Result<Vec<(StreamName, InfoHashV2)>> {
        let mut found = Vec::new();
        for name in self.names_in_current()? {
            let stream = StreamName(name);
            if let Some(id) = self.current_of(&stream)? {
                found.push((stream, id));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Returns the current snapshots of all streams.
    ///
    /// # Errors
    ///
    /// As [`Self::streams_with_current`].
    pub fn current_ids(&self) -> Result<Vec<InfoHashV2>> {
        let streams = self.streams_with_current()?;
        Ok(streams.into_iter().map(|(_, id)| id).collect())
    }

    /// Returns what in `current/` names no snapshot: another program, or a person, put it there.
    ///
    /// # Errors
    ///
    /// When `current/` cannot be listed.
    pub fn foreign_in_current(&self) -> Result<Vec<PathBuf>> {
        let names = self.names_in_current()?.into_iter();
        let paths = names.map(|name| self.current().join(name));
        Ok(paths
            .filter(|path| matches!(read_link(path), Ok(Link::Foreign)))
            .collect())
    }

    fn names_in_current(&self) -> Result<Vec<String>> {
        let mut names = list(&self.current())?;
        names.retain(|name| !name.starts_with('.'));
        Ok(names)
    }

    /// Makes a snapshot the current one of a stream. At every moment, and after a power cut, the link points at the
    /// old or the new one. On a file system without symbolic links, a small file with the same text replaces the link.
    ///
    /// # Errors
    ///
    /// When the link cannot be created, renamed or synced.
    pub fn switch(&self, stream: &StreamName, id: InfoHashV2, _: &StoreLock) -> Result<()> {
        let link = self.current_link(stream);
        // The lock makes us the only user of this name; a leftover is from a crash.
        let fresh = self.current().join(format!(".{}.new", stream.as_str()));
        remove_if_exists(&fresh)?;
        if matches!(read_link(&link), Ok(Link::Foreign)) {
            let to = self.set_aside(&link, &format!("current.{}", stream.as_str()))?;
            warn!(moved_to = %to.display(), "{} names no snapshot: moved it away", link.display());
        }
        let target = Path::new("..").join(layout::SNAPSHOTS).join(id.to_string());
        let linked = symlink(&target, &fresh)
            .or_else(|error| write_link(&target, &fresh).map_err(|_| error));
        if let Err(source) = linked {
            return Err(SnapshotStoreError::CreateLink {
                path: fresh,
                source,
            });
        }
        rename(&fresh, &link)?;
        Ok(sync_dir(&self.current())?)
    }

    /// Removes the link of a stream whose snapshot is about to be removed.
    ///
    /// # Errors
    ///
    /// When the link cannot be removed.
    pub fn clear_current(&self, stream: &StreamName, _: &StoreLock) -> Result<()> {
        remove_if_exists(&self.current_link(stream))?;
        Ok(sync_dir(&self.current())?)
    }
}

fn read_link(path: &Path) -> io::Result<Link> {
    let target = match fs::read_link(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Link::Missing),
        // Not a link, or a file system without links.
        Err(error) => match path.symlink_metadata() {
            Ok(found) if found.is_file() && found.len() <= LONGEST_LINK => {
                PathBuf::from(fs::read_to_string(path).unwrap_or_default().trim_end())
            }
            Ok(found) if !found.is_symlink() => return Ok(Link::Foreign),
            _ => return Err(error),
        },
    };
    let id = target.file_name().and_then(|name| name.to_str());
    let id = id.and_then(|name| name.parse().ok());
    Ok(id.map_or(Link::Foreign, Link::Snapshot))
}

/// Writes a file that replaces a link.
fn write_link(target: &Path, path: &Path) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    writeln!(file, "{}", target.display())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_dir::tests::{data_dir, id};

    fn stream() -> StreamName {
        StreamName::of_salt(b"daily")
    }

    #[test]
    fn salts_make_file_names() {
        let name = |salt: &[u8]| StreamName::of_salt(salt).0;
        assert_eq!(name(b"daily"), "daily");
        assert_eq!(name(b""), "default");
        assert_eq!(name(b"../x"), "salt-2e2e2f78");
        assert_eq!(name(b"a\xff"), "salt-61ff");
    }

    #[test]
    fn switching_replaces_the_link_and_survives_a_leftover() {
        let (_temp, dir) = data_dir();
        assert_eq!(dir.current_of(&stream()).unwrap(), None);
        dir.switch(&stream(), id(1), &dir.lock().unwrap()).unwrap();
        symlink("nowhere", dir.current().join(".daily.new")).unwrap();
        dir.switch(&stream(), id(2), &dir.lock().unwrap()).unwrap();
        assert_eq!(dir.current_of(&stream()).unwrap(), Some(id(2)));
        assert_eq!(dir.streams_with_current().unwrap(), [(stream(), id(2))]);
        let target = fs::read_link(dir.root().join("current/daily")).unwrap();
        assert_eq!(target, Path::new("../snapshots").join(id(2).to_string()));
    }

    #[test]
    fn a_small_file_replaces_a_link_where_there_are_none() {
        let (_temp, dir) = data_dir();
        let path = dir.current().join("daily");
        write_link(&Path::new("../snapshots").join(id(1).to_string()), &path).unwrap();
        assert_eq!(dir.current_of(&stream()).unwrap(), Some(id(1)));
        assert_eq!(dir.streams_with_current().unwrap(), [(stream(), id(1))]);
        dir.switch(&stream(), id(2), &dir.lock().unwrap()).unwrap();
        assert_eq!(dir.current_of(&stream()).unwrap(), Some(id(2)));
        assert!(!dir.set_aside_dir().exists());
    }

    #[test]
    fn foreign_files_in_current_are_left_alone_until_they_block_a_link() {
        let (_temp, dir) = data_dir();
        dir.switch(&stream(), id(1), &dir.lock().unwrap()).unwrap();
        let foreign = |name: &str| dir.current().join(name);
        fs::write(foreign("README"), "hello").unwrap();
        fs::write(foreign("long"), "x".repeat(10_000)).unwrap();
        fs::create_dir(foreign("lost+found")).unwrap();
        symlink("/nowhere", foreign("link")).unwrap();
        assert_eq!(dir.streams_with_current().unwrap(), [(stream(), id(1))]);
        let mut found = dir.foreign_in_current().unwrap();
        found.sort();
        assert_eq!(found, ["README", "link", "long", "lost+found"].map(foreign));
        // At the name of the link.
        for number in 2..6 {
            let path = foreign("daily");
            fs::remove_file(&path).unwrap();
            match number {
                2 => fs::write(&path, "mine").unwrap(),
                3 => fs::create_dir_all(path.join("below")).unwrap(),
                4 => symlink("/nowhere", &path).unwrap(),
                _ => symlink("daily", &path).unwrap(),
            }
            assert_eq!(dir.current_of(&stream()).unwrap(), None);
            dir.switch(&stream(), id(number), &dir.lock().unwrap())
                .unwrap();
            assert_eq!(dir.current_of(&stream()).unwrap(), Some(id(number)));
        }
    }
}
