//! Operations by name on a [`ForgetfulDisk`].

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use super::file::ForgetfulFile;
use super::{Directory, EntryChange, ForgetfulDisk, Node, Operation, Regular};
use crate::disk::io::{Io, IoFile, OpenMode};

impl Io for ForgetfulDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn IoFile>> {
        let mut disk = self.disk();
        disk.powered()?;
        let node = match (disk.find(path), mode) {
            (Err(error), OpenMode::Create | OpenMode::Replace)
                if error.kind() == ErrorKind::NotFound =>
            {
                disk.change(Operation::Open, path)?;
                if disk.room == Some(0) {
                    return Err(ErrorKind::StorageFull.into());
                }
                let (above, name) = disk.split(path)?;
                disk.clock += 1;
                let file = Regular::new(Vec::new(), disk.clock)?;
                let node = disk.add(Node::Regular(file));
                disk.enter(above, EntryChange::Set(name, node))?;
                node
            }
            (found, OpenMode::Replace) => {
                let node = found?;
                disk.change(Operation::Open, path)?;
                disk.set_length(node, 0)?;
                node
            }
            (found, _) => found?,
        };
        let file = disk.regular(node)?;
        if mode != OpenMode::Read && file.read_only {
            return Err(ErrorKind::PermissionDenied.into());
        }
        Ok(Arc::new(ForgetfulFile {
            disk: self.clone(),
            node,
            path: path.to_owned(),
            seen: file.seen.clone(),
            writable: mode != OpenMode::Read,
        }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.powered()?;
        let missing: Vec<&Path> = path
            .ancestors()
            .take_while(|above| disk.find(above).is_err())
            .collect();
        for above in missing.into_iter().rev() {
            disk.change(Operation::Open, above)?;
            let (parent, name) = disk.split(above)?;
            let node = disk.add(Node::Directory(Directory::default()));
            disk.enter(parent, EntryChange::Set(name, node))?;
        }
        let node = disk.find(path)?;
        disk.directory(node).map(|_| ())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.change(Operation::Rename, from)?;
        let node = disk.find(from)?;
        let (above, name) = disk.split(from)?;
        let (new_above, new_name) = disk.split(to)?;
        if above == new_above {
            return disk.enter(above, EntryChange::Rename(name, new_name, node));
        }
        disk.enter(new_above, EntryChange::Set(new_name, node))?;
        disk.enter(above, EntryChange::Remove(name))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let found = disk.find(path)?;
        disk.regular(found)?;
        disk.change(Operation::Write, path)?;
        let (above, name) = disk.split(path)?;
        disk.enter(above, EntryChange::Remove(name))
    }

    fn unseal(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.change(Operation::Write, path)?;
        let node = disk.find(path)?;
        disk.regular_mut(node)?.read_only = false;
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.change(Operation::SyncDirectory, path)?;
        let node = disk.find(path)?;
        match disk.nodes.get_mut(&node) {
            Some(Node::Directory(directory)) => {
                for change in std::mem::take(&mut directory.pending) {
                    change.apply(&mut directory.durable);
                }
                Ok(())
            }
            _ => Err(ErrorKind::NotADirectory.into()),
        }
    }
}
