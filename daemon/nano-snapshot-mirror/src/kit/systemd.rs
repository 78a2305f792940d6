//! The service manager: the sockets it hands over, and what it wants to hear. Without one, nothing of
//! this happens and everything works the same.
//!
//! sd_listen_fds(3), sd_notify(3), systemd.socket(5).

use std::net::TcpListener;
use std::os::fd::{AsFd, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::net::{AddressFamily, SocketType, getsockname, sockopt};
use sd_notify::NotifyState;
use tracing::{debug, info};

/// Time between two status lines, unless something else is said.
const STATUS_EVERY: Duration = Duration::from_secs(2);

/// How long one step of a start may take beyond the manager's own patience.
const STEP: Duration = Duration::from_secs(5 * 60);

/// Sockets that listen already. Connections that came while nobody ran wait in them.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    /// `peer`: where peers connect; as many as there are.
    pub(crate) peer: Vec<TcpListener>,
    /// `http`: the status page and metrics.
    pub(crate) http: Vec<TcpListener>,
    /// `control`: commands.
    pub(crate) control: Option<UnixListener>,
}

impl Inherited {
    /// Takes what the service manager hands over; nothing when called again.
    pub(crate) fn take() -> Result<Self> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        let mut inherited = Self::default();
        if TAKEN.swap(true, Ordering::Relaxed) {
            return Ok(inherited);
        }
        let named = sd_notify::listen_fds_with_names()
            .context("the service manager's LISTEN_FDS and LISTEN_FDNAMES do not make sense")?;
        for (number, name) in named {
            // SAFETY: LISTEN_PID says that this descriptor was opened for this process to own. It is
            // taken once only, as `TAKEN` sees to, and nothing else here uses numbers.
            #[expect(unsafe_code, reason = "a descriptor comes as a number")]
            let socket = unsafe { OwnedFd::from_raw_fd(number) };
            inherited.add(&name, socket)?;
        }
        Ok(inherited)
    }

    fn add(&mut self, name: &str, socket: OwnedFd) -> Result<()> {
        match name {
            "peer" | "http" => {
                let tcp = [AddressFamily::INET, AddressFamily::INET6];
                check(
                    &socket,
                    name,
                    &tcp,
                    "a listening TCP socket (ListenStream=PORT)",
                )?;
                let listener = TcpListener::from(socket);
                info!(
                    name,
                    address = listener.local_addr().ok().map(tracing::field::display),
                    "socket from the service manager"
                );
                let place = if name == "peer" {
                    &mut self.peer
                } else {
                    &mut self.http
                };
                place.push(listener);
            }
            "control" => {
                let kind = "a listening Unix stream socket (ListenStream=/PATH)";
                check(&socket, name, &[AddressFamily::UNIX], kind)?;
                if self.control.replace(UnixListener::from(socket)).is_some() {
                    bail!(
                        "the service manager handed over two sockets named control; one is enough"
                    );
                }
                info!(name, "socket from the service manager");
            }
            other => bail!(
                "the service manager handed over a socket named {other:?}: set FileDescriptorName= \
                 of its .socket unit to peer, http or control"
            ),
        }
        Ok(())
    }
}

/// Fails unless `socket` listens in one of `families`.
fn check(socket: &impl AsFd, name: &str, families: &[AddressFamily], wanted: &str) -> Result<()> {
    let family = getsockname(socket).map(|address| address.address_family());
    let fits = family.is_ok_and(|family| families.contains(&family))
        && sockopt::socket_type(socket) == Ok(SocketType::STREAM)
        && sockopt::socket_acceptconn(socket) == Ok(true);
    if !fits {
        bail!("the socket {name} from the service manager must be {wanted}, with Accept=no");
    }
    Ok(())
}

/// What the service manager is told. Best effort: a manager that does not listen keeps nobody from
/// mirroring.
#[derive(Debug, Default)]
pub(crate) struct Manager {
    told: Option<(String, Instant)>,
}

impl Manager {
    /// A step of the start begins: it may take its time.
    pub(crate) fn starting(&mut self, step: &str) {
        let usec = u32::try_from(STEP.as_micros()).unwrap_or(u32::MAX);
        self.tell(&[
            NotifyState::ExtendTimeoutUsec(usec),
            NotifyState::Status(step),
        ]);
    }

    /// The store is loaded and all sockets are answered.
    pub(crate) fn ready(&mut self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// What goes on, in one line; not every change of it is told.
    pub(crate) fn status(&mut self, line: &str) {
        let now = Instant::now();
        let due = self.told.as_ref().is_none_or(|(told, at)| {
            told != line && now.saturating_duration_since(*at) >= STATUS_EVERY
        });
        if due {
            self.told = Some((line.to_owned(), now));
            self.tell(&[NotifyState::Status(line)]);
        }
    }

    /// The configuration is being read again; [`Self::ready`] ends it.
    pub(crate) fn reloading(&mut self) {
        // Which clock there is does not change while we run.
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.tell(&[NotifyState::Reloading, now]);
        }
    }

    /// The end has begun.
    pub(crate) fn stopping(&mut self) {
        self.tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    #[expect(clippy::unused_self, reason = "who may tell is who has the manager")]
    fn tell(&self, states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states) {
            debug!(%error, "the service manager does not listen");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpStream, UdpSocket};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn added(name: &str, socket: impl Into<OwnedFd>) -> Result<Inherited> {
        let mut inherited = Inherited::default();
        inherited.add(name, socket.into())?;
        Ok(inherited)
    }

    #[test]
    fn sockets_go_by_their_names() {
        let tcp = || TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(added("peer", tcp()).unwrap().peer.len(), 1);
        assert_eq!(added("http", tcp()).unwrap().http.len(), 1);
        let dir = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(dir.path().join("s")).unwrap();
        assert!(added("control", unix).unwrap().control.is_some());
    }

    #[test]
    fn what_does_not_fit_is_named_with_what_to_write() {
        let refused = |name: &str, socket: OwnedFd, part: &str| {
            let error = added(name, socket).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        let tcp = || TcpListener::bind("127.0.0.1:0").unwrap();
        refused("unknown", tcp().into(), "FileDescriptorName=");
        refused("control", tcp().into(), "ListenStream=/PATH");
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        refused("peer", udp.into(), "ListenStream=PORT");
        let listener = tcp();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        refused("http", stream.into(), "Accept=no");
        refused("peer", UnixStream::pair().unwrap().0.into(), "TCP");
    }
}
