//! An open file of a [`ForgetfulDisk`].

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use super::change::{Change, Dice, survivors};
use super::{ForgetfulDisk, Operation};
use crate::disk::io::{Identity, IoFile, next_content, read_full};

#[derive(Debug)]
pub(super) struct ForgetfulFile {
    pub(super) disk: ForgetfulDisk,
    pub(super) node: u64,
    pub(super) path: PathBuf,
    pub(super) seen: Arc<File>,
    pub(super) writable: bool,
}

impl ForgetfulFile {
    fn sync(&self) -> io::Result<()> {
        self.disk.run_hook(Operation::Sync, &self.path);
        let mut disk = self.disk.disk();
        let outcome = disk.change(Operation::Sync, &self.path);
        if disk.powered().is_err() && outcome.is_err() {
            return outcome;
        }
        // As good as random, and the same each time.
        let mut dice = Dice::new(disk.changes);
        let file = disk.regular_mut(self.node)?;
        let pending = std::mem::take(&mut file.pending);
        if outcome.is_ok() {
            pending
                .iter()
                .for_each(|change| change.apply(&mut file.durable));
        } else {
            survivors(&pending, &mut file.durable, &mut dice);
        }
        outcome
    }
}

impl AsFd for ForgetfulFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.seen.as_fd()
    }
}

impl IoFile for ForgetfulFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let disk = self.disk.disk();
        disk.powered()?;
        let end = offset + buffer.len() as u64;
        let hurt = disk
            .scratches
            .iter()
            .any(|(path, bytes)| *path == self.path && bytes.start < end && offset < bytes.end);
        if hurt {
            return Err(io::Error::other("the disk cannot read this"));
        }
        drop(disk);
        self.seen.read_at(buffer, offset)
    }

    fn write_all_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut bytes = Vec::new();
        slices
            .iter()
            .for_each(|slice| bytes.extend_from_slice(slice));
        if bytes.is_empty() {
            return Ok(());
        }
        self.disk.run_hook(Operation::Write, &self.path);
        let mut disk = self.disk.disk();
        if !self.writable {
            return Err(ErrorKind::PermissionDenied.into());
        }
        disk.powered()?;
        let mut outcome = disk.change(Operation::Write, &self.path);
        if outcome.is_err() {
            let half = Dice::new(disk.changes).below(bytes.len() as u64);
            bytes.truncate(half as usize);
        } else if let Some(room) = disk.room {
            let fits = room.min(bytes.len() as u64);
            disk.room = Some(room - fits);
            if fits < bytes.len() as u64 {
                bytes.truncate(fits as usize);
                outcome = Err(ErrorKind::StorageFull.into());
            }
        }
        disk.written += bytes.len() as u64;
        disk.clock += 1;
        let now = disk.clock;
        let file = disk.regular_mut(self.node)?;
        file.seen.write_all_at(&bytes, offset)?;
        file.modified = now;
        file.pending.push(Change::Write(offset, bytes));
        outcome
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn forget_cached(&self, _offset: u64, _length: u64) -> io::Result<()> {
        let disk = self.disk.disk();
        disk.powered()?;
        let file = disk.regular(self.node)?;
        let mut bytes = file.durable.clone();
        file.pending
            .iter()
            .for_each(|change| change.apply(&mut bytes));
        self.seen.set_len(bytes.len() as u64)?;
        self.seen.write_all_at(&bytes, 0)
    }

    fn next_content(&self, offset: u64) -> io::Result<Option<u64>> {
        self.disk.disk().powered()?;
        next_content(self.seen.as_fd(), offset)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut disk = self.disk.disk();
        if !self.writable {
            return Err(ErrorKind::PermissionDenied.into());
        }
        disk.change(Operation::Write, &self.path)?;
        disk.set_length(self.node, length)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.disk.disk().powered()?;
        Ok(self.seen.metadata()?.blocks() * 512)
    }

    fn reflink_from(&self, source: &dyn IoFile) -> io::Result<()> {
        if !self.disk.disk().reflinks {
            return Err(ErrorKind::Unsupported.into());
        }
        let length = source.identity()?.length;
        let mut bytes = vec![0; length as usize];
        let read = read_full(source, &mut bytes, 0)?;
        bytes.truncate(read);
        self.write_all_at(&mut [IoSlice::new(&bytes)], 0)
    }

    fn identity(&self) -> io::Result<Identity> {
        let disk = self.disk.disk();
        disk.powered()?;
        Ok(Identity {
            length: self.seen.metadata()?.len(),
            modified: disk.regular(self.node)?.modified,
            inode: self.node,
        })
    }

    fn seal(&self, _executable: bool) -> io::Result<()> {
        self.sync()?;
        let mut disk = self.disk.disk();
        let file = disk.regular_mut(self.node)?;
        file.read_only = true;
        file.durable_modified = file.modified;
        Ok(())
    }
}
