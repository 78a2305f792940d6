//! Small file systems in memory, which only root may mount.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) const MIB: u64 = 1 << 20;

/// A file system in memory; unmounted when dropped.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, said loudly, where we may not mount one.
    pub(crate) fn mount(place: PathBuf, options: &str) -> Option<Self> {
        fs::create_dir_all(&place).unwrap();
        if mount(&["-t", "tmpfs", "-o", options, "tmpfs"], &place) {
            return Some(Self(place));
        }
        eprintln!("SKIPPED: a tmpfs cannot be mounted here; run this test as root");
        None
    }

    /// Changes its size.
    pub(crate) fn remount(&self, options: &str) {
        assert!(mount(&["-o", &format!("remount,{options}")], &self.0));
    }

    pub(crate) fn free(&self) -> u64 {
        let found = rustix::fs::statvfs(&self.0).unwrap();
        found.f_bavail * found.f_frsize
    }

    /// Writes a file that leaves only so many bytes free.
    pub(crate) fn fill(&self, leave: u64) {
        let mut ballast = fs::File::create(self.ballast()).unwrap();
        while self.free() > leave {
            let some = (self.free() - leave).min(MIB) as usize;
            ballast.write_all(&vec![1; some]).unwrap();
        }
    }

    pub(crate) fn empty(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    pub(crate) fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, as a process that failed may still be there.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn mount(options: &[&str], place: &Path) -> bool {
    let mounted = Command::new("mount").args(options).arg(place).output();
    mounted.is_ok_and(|output| output.status.success())
}
