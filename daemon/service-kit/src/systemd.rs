//! The service manager: sockets that it opened, and notifications to it. Without one, nothing here has an effect.
//!
//! sd_listen_fds(3), sd_notify(3), systemd.socket(5).

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, getsockname, sockopt};
use sd_notify::NotifyState;
use tracing::{debug, info};

/// The shortest time between two status lines.
const STATUS_INTERVAL: Duration = Duration::from_secs(2);

/// The time limit for one step of a start. Each step extends the start timeout of the service manager.
const STEP_LIMIT: Duration = Duration::from_secs(5 * 60);

/// The names of the sockets that a service accepts from the service manager, as `FileDescriptorName=` of the socket units sets them.
#[derive(Debug, Clone, Copy)]
pub struct SocketNames {
    /// Names of TCP sockets. Several sockets may have the same name.
    pub tcp: &'static [&'static str],
    /// Names of Unix stream sockets, each for one socket.
    pub unix: &'static [&'static str],
}

/// The service manager opened sockets that the service cannot use.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The variables that describe the sockets are malformed.
    #[error("the service manager's LISTEN_FDS and LISTEN_FDNAMES do not make sense")]
    Environment(#[source] io::Error),
    /// A socket has a name that the service does not know.
    #[error(
        "the service manager handed over a socket named {name:?}: set FileDescriptorName= of its .socket unit to {}",
        list(known)
    )]
    Unknown {
        /// The name of the socket.
        name: String,
        /// The names that the service knows.
        known: Vec<&'static str>,
    },
    /// Two Unix sockets have the same name.
    #[error("the service manager handed over two sockets named {name}; one is enough")]
    Duplicate {
        /// The name of both.
        name: &'static str,
    },
    /// A socket is of the wrong kind, or does not listen.
    #[error("the socket {name} from the service manager must be {wanted}, with Accept=no")]
    Unsuitable {
        /// The name of the socket.
        name: &'static str,
        /// The kind that the service needs.
        wanted: &'static str,
    },
}

/// Names in a sentence: `peer, http or control`.
fn list(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// Listening sockets that the service manager opened. Connections made before the service started wait in them.
#[derive(Debug, Default)]
pub struct InheritedSockets {
    tcp: BTreeMap<&'static str, Vec<TcpListener>>,
    unix: BTreeMap<&'static str, UnixListener>,
}

impl InheritedSockets {
    /// Takes ownership of the sockets of this process. Further calls return none.
    ///
    /// # Errors
    ///
    /// When the service manager handed over a socket that the service cannot use.
    pub fn take(names: &SocketNames) -> Result<Self, SocketError> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        let mut inherited = Self::default();
        if TAKEN.swap(true, Ordering::Relaxed) {
            return Ok(inherited);
        }
        let named = sd_notify::listen_fds_with_names().map_err(SocketError::Environment)?;
        for (number, name) in named {
            // SAFETY: LISTEN_PID says that this descriptor was opened for this process to own. `TAKEN` prevents that it is taken twice, and no
            // other code here uses descriptors by number.
            #[expect(unsafe_code, reason = "a descriptor comes as a number")]
            let socket = unsafe { OwnedFd::from_raw_fd(number) };
            inherited.add(names, &name, socket)?;
        }
        Ok(inherited)
    }

    /// Removes and returns the TCP sockets of a name.
    pub fn take_tcp(&mut self, name: &str) -> Vec<TcpListener> {
        self.tcp.remove(name).unwrap_or_default()
    }

    /// Removes and returns the Unix socket of a name.
    pub fn take_unix(&mut self, name: &str) -> Option<UnixListener> {
        self.unix.remove(name)
    }

    fn add(&mut self, names: &SocketNames, name: &str, socket: OwnedFd) -> Result<(), SocketError> {
        let known = |names: &[&'static str]| names.iter().copied().find(|known| *known == name);
        if let Some(name) = known(names.tcp) {
            let families = [AddressFamily::INET, AddressFamily::INET6];
            let wanted = "a listening TCP socket (ListenStream=PORT)";
            check(&socket, name, &families, wanted)?;
            let listener = TcpListener::from(socket);
            info!(
                name,
                address = listener.local_addr().ok().map(tracing::field::display),
                "inherited a socket from the service manager"
            );
            self.tcp.entry(name).or_default().push(listener);
        } else if let Some(name) = known(names.unix) {
            let wanted = "a listening Unix stream socket (ListenStream=/PATH)";
            check(&socket, name, &[AddressFamily::UNIX], wanted)?;
            if self.unix.insert(name, UnixListener::from(socket)).is_some() {
                return Err(SocketError::Duplicate { name });
            }
            info!(name, "inherited a socket from the service manager");
        } else {
            return Err(SocketError::Unknown {
                name: name.to_owned(),
                known: names.tcp.iter().chain(names.unix).copied().collect(),
            });
        }
        Ok(())
    }
}

/// Fails unless `socket` is a stream socket that listens in one of `families`.
fn check(
    socket: &impl AsFd,
    name: &'static str,
    families: &[AddressFamily],
    wanted: &'static str,
) -> Result<(), SocketError> {
    let family = getsockname(socket).map(|address| address.address_family());
    let fits = family.is_ok_and(|family| families.contains(&family))
        && sockopt::socket_type(socket) == Ok(SocketType::STREAM)
        && sockopt::socket_acceptconn(socket) == Ok(true);
    if fits {
        Ok(())
    } else {
        Err(SocketError::Unsuitable { name, wanted })
    }
}

/// Notifies the service manager. Failures are ignored: a service also works without a manager that listens.
#[derive(Debug, Default)]
pub struct Notifier {
    /// The last status line, and when it was sent.
    status: Option<(String, Instant)>,
}

impl Notifier {
    /// Reports that a step of the start begins, which may take up to five minutes.
    pub fn starting(&mut self, step: &str) {
        let usec = u32::try_from(STEP_LIMIT.as_micros()).unwrap_or(u32::MAX);
        self.notify(&[
            NotifyState::ExtendTimeoutUsec(usec),
            NotifyState::Status(step),
        ]);
    }

    /// Reports that the service has started, or has read its configuration again.
    pub fn ready(&mut self) {
        self.notify(&[NotifyState::Ready]);
    }

    /// Sends a status line, if it differs from the last one and at least two seconds have passed.
    pub fn status(&mut self, line: &str) {
        let now = Instant::now();
        let due = self.status.as_ref().is_none_or(|(last, sent)| {
            last != line && now.saturating_duration_since(*sent) >= STATUS_INTERVAL
        });
        if due {
            self.status = Some((line.to_owned(), now));
            self.notify(&[NotifyState::Status(line)]);
        }
    }

    /// Reports that the service reads its configuration again; [`Self::ready`] ends that.
    pub fn reloading(&mut self) {
        // The clock exists, so this does not fail.
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.notify(&[NotifyState::Reloading, now]);
        }
    }

    /// Reports that the service is stopping.
    pub fn stopping(&mut self) {
        self.notify(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    #[expect(
        clippy::unused_self,
        reason = "only the owner of the notifier may notify"
    )]
    fn notify(&self, states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states) {
            debug!(%error, "cannot notify the service manager");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpStream, UdpSocket};
    use std::os::unix::net::UnixStream;

    use super::*;

    const NAMES: SocketNames = SocketNames {
        tcp: &["peer", "http"],
        unix: &["control"],
    };

    fn added(name: &str, socket: impl Into<OwnedFd>) -> Result<InheritedSockets, SocketError> {
        let mut inherited = InheritedSockets::default();
        inherited.add(&NAMES, name, socket.into())?;
        Ok(inherited)
    }

    #[test]
    fn sockets_go_by_their_names() {
        let tcp = || TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(added("peer", tcp()).unwrap().take_tcp("peer").len(), 1);
        assert_eq!(added("http", tcp()).unwrap().take_tcp("http").len(), 1);
        let dir = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(dir.path().join("s")).unwrap();
        let mut inherited = added("control", unix).unwrap();
        assert!(inherited.take_unix("peer").is_none());
        assert!(inherited.take_unix("control").is_some());
    }

    #[test]
    fn what_does_not_fit_is_named_with_what_to_write() {
        let refused = |name: &str, socket: OwnedFd, part: &str| {
            let error = added(name, socket).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        let tcp = || TcpListener::bind("127.0.0.1:0").unwrap();
        let names = "FileDescriptorName= of its .socket unit to peer, http or control";
        refused("unknown", tcp().into(), names);
        refused("control", tcp().into(), "ListenStream=/PATH");
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        refused("peer", udp.into(), "ListenStream=PORT");
        let listener = tcp();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        refused("http", stream.into(), "Accept=no");
        refused("peer", UnixStream::pair().unwrap().0.into(), "TCP");
    }
}
