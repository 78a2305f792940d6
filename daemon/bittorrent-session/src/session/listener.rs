//! Listening sockets, and the tasks that accept from them.

mod slots;

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bittorrent_protocol::SwarmHash;
use bittorrent_protocol::mse::HiddenSwarm;
use bittorrent_protocol::wire::Opening;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::driver::SessionCommand;
use crate::error::Causes;
use crate::error::SessionError;
use crate::transport::handshake::{
    self, Acceptance, HandshakeConfig, HandshakeError, SwarmDirectory,
};
use slots::Slot;
pub(crate) use slots::Slots;

/// Pause after a failed accept, most often for want of file descriptors. The connection waits in the
/// kernel's queue until others have closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Binds the configured addresses and takes over sockets that are bound already.
pub(crate) fn bind_all(
    addrs: &[SocketAddr],
    bound: Vec<std::net::TcpListener>,
) -> Result<Vec<TcpListener>, SessionError> {
    let mut listeners = Vec::new();
    for socket in bound {
        let listener = socket
            .set_nonblocking(true)
            .and_then(|()| TcpListener::from_std(socket));
        listeners.push(listener.map_err(SessionError::Inherit)?);
    }
    let inherited: Vec<SocketAddr> = listeners
        .iter()
        .filter_map(|listener| listener.local_addr().ok())
        .collect();
    let mut seen = HashSet::new();
    for addr in addrs {
        if !seen.insert(*addr) {
            continue;
        }
        // If the list or a bound socket has the same port on IPv4, the IPv6 socket must not take
        // IPv4 too.
        let twin = addrs
            .iter()
            .chain(&inherited)
            .any(|other| other.is_ipv4() && other.port() == addr.port());
        let listener = match bind(*addr, twin) {
            // On a host without IPv6, a listener for both families listens on IPv4.
            Err(error)
                if is_without_ipv6(&error) && addr.is_ipv6() && addr.ip().is_unspecified() =>
            {
                if twin {
                    continue;
                }
                bind((Ipv4Addr::UNSPECIFIED, addr.port()).into(), false)
            }
            result => result,
        };
        listeners.push(listener.map_err(|source| SessionError::Bind {
            addr: *addr,
            source,
        })?);
    }
    Ok(listeners)
}

fn is_without_ipv6(error: &io::Error) -> bool {
    let code = error
        .raw_os_error()
        .map(rustix::io::Errno::from_raw_os_error);
    matches!(
        code,
        Some(rustix::io::Errno::AFNOSUPPORT | rustix::io::Errno::ADDRNOTAVAIL)
    )
}

fn bind(addr: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(only_v6 || !addr.ip().is_unspecified())?;
    }
    // Connections of the previous process may still be closing. A port that the kernel chooses needs no such exception, and
    // with it the kernel may choose one that another socket has bound and not yet listens at.
    socket.set_reuse_address(addr.port() != 0)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(256)?;
    TcpListener::from_std(socket.into())
}

/// Whether connections are accepted, or wait in the kernel for this process or for a successor with
/// the same socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AcceptState {
    Paused,
    Accepting,
    Stopped,
}

/// Accepts connections while the state is `Accepting`. Each handshake has a task and a slot.
/// Handshakes that have begun continue after `Stopped`; cancelling ends them too.
pub(crate) async fn accept(
    listener: TcpListener,
    handshake_config: Arc<HandshakeConfig>,
    slots: Arc<Slots>,
    commands: mpsc::Sender<SessionCommand>,
    mut accept_state: watch::Receiver<AcceptState>,
    cancel: CancellationToken,
) {
    let mut handshakes = JoinSet::new();
    let mut failing = false;
    tokio::select! {
        biased;
        () = cancel.cancelled() => return,
        () = until(&mut accept_state, |accept_state| accept_state != AcceptState::Paused) => {}
    }
    loop {
        let accepted = tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            () = until(&mut accept_state, |accept_state| accept_state == AcceptState::Stopped) => break,
            Some(ended) = handshakes.join_next(), if !handshakes.is_empty() => {
                report_panic(ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, addr)) => {
                failing = false;
                let (handshake_config, commands) = (handshake_config.clone(), commands.clone());
                let addr = handshake::canonical(addr);
                let (slot, displaced) = slots.begin(addr.ip());
                let key = slot.key();
                let handshake = async move {
                    if let Err(error) =
                        introduce(&handshake_config, stream, addr, &commands, &slot).await
                    {
                        // Any host can send anything to an open port.
                        tracing::debug!(error = %Causes(&error), "incoming handshake failed");
                    }
                };
                let span = tracing::debug_span!("incoming", %addr);
                slots.started(key, handshakes.spawn(handshake.instrument(span)));
                if displaced {
                    // The displaced connection keeps its descriptor until its task is dropped.
                    tokio::task::yield_now().await;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(error = %Causes(&error), "cannot accept connections; retrying");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    loop {
        tokio::select! {
            biased;
            ended = handshakes.join_next() => match ended {
                Some(ended) => report_panic(ended),
                None => break,
            },
            () = cancel.cancelled() => {
                handshakes.shutdown().await;
                break;
            }
        }
    }
}

/// Waits until the state is as wanted, or the session is dropped.
async fn until(
    accept_state: &mut watch::Receiver<AcceptState>,
    wanted: impl Fn(AcceptState) -> bool,
) {
    let _ = accept_state
        .wait_for(|accept_state| wanted(*accept_state))
        .await;
}

fn report_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a handshake panicked; its connection is closed");
    }
}

async fn introduce(
    handshake_config: &HandshakeConfig,
    stream: tokio::net::TcpStream,
    addr: SocketAddr,
    commands: &mpsc::Sender<SessionCommand>,
    slot: &Slot,
) -> Result<(), HandshakeError> {
    let door = DriverDirectory {
        addr,
        commands,
        slot,
    };
    let (torrent, established) = handshake::answer(handshake_config, stream, addr, &door).await?;
    // Fails only at the end of the session.
    let _ = commands
        .send(SessionCommand::Incoming(torrent, Box::new(established)))
        .await;
    Ok(())
}

/// Asks the driver about a peer that has connected.
struct DriverDirectory<'a> {
    addr: SocketAddr,
    commands: &'a mpsc::Sender<SessionCommand>,
    slot: &'a Slot,
}

impl SwarmDirectory for DriverDirectory<'_> {
    fn may_encrypt(&self) -> bool {
        self.slot.may_encrypt(self.addr.ip())
    }

    async fn find(&self, name: HiddenSwarm) -> Option<SwarmHash> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(SessionCommand::FindSwarm { name, reply })
            .await
            .ok()?;
        let found = answer.await.ok().flatten()?;
        self.slot.named();
        Some(found)
    }

    async fn accept(&self, opening: Opening) -> Option<Acceptance> {
        let (reply, answer) = oneshot::channel();
        let command = SessionCommand::AcceptPeer {
            swarm: opening.swarm,
            v2_offered: opening.reserved.v2,
            addr: self.addr,
            reply,
        };
        self.commands.send(command).await.ok()?;
        let acceptance = answer.await.ok().flatten()?;
        self.slot.named();
        Some(acceptance)
    }
}
