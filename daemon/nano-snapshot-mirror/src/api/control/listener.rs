//! The control socket in the file system.

use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;

/// Owner and group may talk to the mirror, nobody else.
const MODE: u32 = 0o660;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

/// A listening control socket.
#[derive(Debug)]
pub(crate) struct ControlListener {
    pub(crate) socket: UnixListener,
    pub(crate) place: Place,
}

/// Where the socket is. One that we made is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    made: Option<Made>,
}

/// Names the file that we made: a successor may have put its own there.
#[derive(Debug, PartialEq, Eq)]
struct Made {
    device: u64,
    inode: u64,
}

impl ControlListener {
    /// Makes a socket at `path`. What a dead process left there is removed.
    pub(crate) fn bind(path: &Path) -> Result<Self> {
        remove_dead(path)?;
        let address = SocketAddrUnix::new(path).with_context(|| {
            format!(
                "{} is too long for a socket: name a shorter one with --control",
                path.display()
            )
        })?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .context("cannot make a socket")?;
        // The mode of a socket before it is bound is the mode of its file, so that nobody else can
        // connect at any moment.
        rustix::fs::fchmod(socket.as_fd(), Mode::from_raw_mode(MODE))
            .context("cannot set the mode of a socket")?;
        rustix::net::bind(&socket, &address)
            .with_context(|| format!("cannot make the control socket {}", path.display()))?;
        let made = path
            .symlink_metadata()
            .ok()
            .map(|metadata| Made::of(&metadata));
        // The umask may have taken something away.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))
            .with_context(|| format!("cannot set the mode of {}", path.display()))?;
        rustix::net::listen(&socket, BACKLOG)
            .with_context(|| format!("cannot listen on {}", path.display()))?;
        let socket = UnixListener::from_std(socket.into())
            .with_context(|| format!("cannot use {}", path.display()))?;
        let path = path.to_owned();
        Ok(Self {
            socket,
            place: Place { path, made },
        })
    }

    /// Takes over a socket that listens already.
    pub(crate) fn inherited(socket: std::os::unix::net::UnixListener) -> Result<Self> {
        let address = socket
            .local_addr()
            .context("the control socket has no address")?;
        let path = address
            .as_pathname()
            .map(Path::to_owned)
            .unwrap_or_default();
        socket
            .set_nonblocking(true)
            .context("cannot use the control socket")?;
        let socket = UnixListener::from_std(socket).context("cannot use the control socket")?;
        Ok(Self {
            socket,
            place: Place { path, made: None },
        })
    }
}

impl Place {
    /// Whether `path` is this place, also by way of a link such as `/var/run`.
    pub(crate) fn is(&self, path: &Path) -> bool {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        real(&self.path) == real(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let there = self.path.symlink_metadata().ok();
        if self.made.is_some() && there.map(|metadata| Made::of(&metadata)) == self.made {
            // Nothing depends on it: a leftover is recognised.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Made {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// Removes a socket on which nobody listens.
fn remove_dead(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot look at {}", path.display()));
        }
        Ok(metadata) if !metadata.file_type().is_socket() => bail!(
            "{} is there and is no socket: name another place with --control",
            path.display()
        ),
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path)
            .with_context(|| format!("cannot remove the dead socket {}", path.display())),
        _ => bail!(
            "a mirror is running already: somebody answers at {}",
            path.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_for_owner_and_group_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let first = ControlListener::bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
        let error = ControlListener::bind(&path).unwrap_err().to_string();
        assert!(error.contains("running already"), "{error}");
        // Somebody else's file is not ours to remove.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"").unwrap();
        drop(first);
        assert!(path.exists());
        let error = ControlListener::bind(&path).unwrap_err().to_string();
        assert!(error.contains("no socket"), "{error}");
        std::fs::remove_file(&path).unwrap();

        let dead = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(dead);
        drop(ControlListener::bind(&path).unwrap());
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_named() {
        let path = Path::new("/tmp").join("x".repeat(200));
        let error = ControlListener::bind(&path).unwrap_err().to_string();
        assert!(error.contains("--control"), "{error}");
    }
}
