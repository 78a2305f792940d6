//! A Unix socket for commands, which owner and group may use.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;

/// The mode of the socket: owner and group may connect.
const MODE: u32 = 0o660;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

/// The control socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ControlSocketError {
    /// The path is longer than the address of a Unix socket can be.
    #[error("{} is too long for a socket: choose a shorter path with --control", .0.display())]
    TooLong(PathBuf),
    /// The file at the path cannot be inspected.
    #[error("cannot inspect {}", path.display())]
    Inspect {
        /// The path of the socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another file is at the path.
    #[error("{} exists and is not a socket: choose another path with --control", .0.display())]
    NotASocket(PathBuf),
    /// Another process answers at the socket.
    #[error("{program} is already running: another process answers at {}", path.display())]
    InUse {
        /// The name of the program.
        program: &'static str,
        /// The path of the socket.
        path: PathBuf,
    },
    /// The socket of a process that has ended cannot be removed.
    #[error("cannot remove the unused socket {}", path.display())]
    RemoveUnused {
        /// The path of the socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket cannot be created.
    #[error("cannot create a socket")]
    Create(#[source] Errno),
    /// The mode of the socket cannot be set.
    #[error("cannot set the mode of the control socket {}", path.display())]
    Mode {
        /// The path of the socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket cannot be bound to its path.
    #[error("cannot create the control socket {}", path.display())]
    Bind {
        /// The path of the socket.
        path: PathBuf,
        /// Why.
        source: Errno,
    },
    /// The socket does not listen.
    #[error("cannot listen on {}", path.display())]
    Listen {
        /// The path of the socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The inherited socket has no address.
    #[error("the control socket from the service manager has no address")]
    Address(#[source] io::Error),
}

/// A listening control socket.
#[derive(Debug)]
pub struct ControlListener {
    /// The socket.
    pub socket: UnixListener,
    /// The file of the socket.
    pub file: SocketFile,
}

/// The file of a socket. A file that this process created is removed when this is dropped.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    created: Option<FileId>,
}

/// Identifies the file that this process created: another process may have replaced it since.
#[derive(Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl ControlListener {
    /// Creates a socket at `path`. Removes a socket there if no process answers on it. `program` is the subject of the error when one does, such
    /// as "a mirror".
    ///
    /// # Errors
    ///
    /// When the path is in use, or cannot be used.
    pub fn bind(path: &Path, program: &'static str) -> Result<Self, ControlSocketError> {
        remove_unused(path, program)?;
        let owned = || path.to_owned();
        let address =
            SocketAddrUnix::new(path).map_err(|_| ControlSocketError::TooLong(owned()))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(ControlSocketError::Create)?;
        // The mode of a socket before it is bound becomes the mode of its file, so others cannot connect at any moment.
        rustix::fs::fchmod(socket.as_fd(), Mode::from_raw_mode(MODE)).map_err(|error| {
            ControlSocketError::Mode {
                path: owned(),
                source: error.into(),
            }
        })?;
        rustix::net::bind(&socket, &address).map_err(|source| ControlSocketError::Bind {
            path: owned(),
            source,
        })?;
        let created = path
            .symlink_metadata()
            .ok()
            .map(|metadata| FileId::of(&metadata));
        // The umask may have removed permissions.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE)).map_err(
            |source| ControlSocketError::Mode {
                path: owned(),
                source,
            },
        )?;
        let listen = |source| ControlSocketError::Listen {
            path: owned(),
            source,
        };
        rustix::net::listen(&socket, BACKLOG).map_err(|error| listen(error.into()))?;
        Ok(Self {
            socket: UnixListener::from_std(socket.into()).map_err(listen)?,
            file: SocketFile {
                path: owned(),
                created,
            },
        })
    }

    /// Takes over a listening socket of the service manager.
    ///
    /// # Errors
    ///
    /// When the socket cannot be used.
    pub fn inherited(socket: std::os::unix::net::UnixListener) -> Result<Self, ControlSocketError> {
        let address = socket.local_addr().map_err(ControlSocketError::Address)?;
        let path = address
            .as_pathname()
            .map(Path::to_owned)
            .unwrap_or_default();
        let listen = |source| ControlSocketError::Listen {
            path: path.clone(),
            source,
        };
        socket.set_nonblocking(true).map_err(listen)?;
        let socket = UnixListener::from_std(socket).map_err(listen)?;
        Ok(Self {
            socket,
            file: SocketFile {
                path,
                created: None,
            },
        })
    }
}

impl SocketFile {
    /// Returns the path of the socket; empty for a socket without a file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether `path` is this file, also through a link such as `/var/run`.
    pub fn is(&self, path: &Path) -> bool {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        real(&self.path) == real(path)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let file = self.path.symlink_metadata().ok();
        if self.created.is_some() && file.map(|metadata| FileId::of(&metadata)) == self.created {
            // A socket that stays is recognised as unused at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl FileId {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// Removes a socket on which no process listens.
fn remove_unused(path: &Path, program: &'static str) -> Result<(), ControlSocketError> {
    let owned = || path.to_owned();
    match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(ControlSocketError::Inspect {
                path: owned(),
                source,
            });
        }
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ControlSocketError::NotASocket(owned()));
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path)
            .map_err(|source| ControlSocketError::RemoveUnused {
                path: owned(),
                source,
            }),
        _ => Err(ControlSocketError::InUse {
            program,
            path: owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn owner_and_group_may_connect_and_the_file_is_removed_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let first = ControlListener::bind(&path, "a mirror").unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
        let error = ControlListener::bind(&path, "a mirror")
            .unwrap_err()
            .to_string();
        assert!(error.contains("a mirror is already running"), "{error}");
        // Another process's file is not removed.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"").unwrap();
        drop(first);
        assert!(path.exists());
        let error = ControlListener::bind(&path, "a mirror")
            .unwrap_err()
            .to_string();
        assert!(error.contains("not a socket"), "{error}");
        std::fs::remove_file(&path).unwrap();

        let unused = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(unused);
        drop(ControlListener::bind(&path, "a mirror").unwrap());
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_named() {
        let path = Path::new("/tmp").join("x".repeat(200));
        let error = ControlListener::bind(&path, "a mirror")
            .unwrap_err()
            .to_string();
        assert!(error.contains("--control"), "{error}");
    }
}
