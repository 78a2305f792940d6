//! Serves HTTP/1 on a limited number of connections.
//!
//! A server at its limit accepts a new connection and closes the one that has been idle for longest. So connections on which nothing or half a
//! request was sent cannot keep others out.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::response::Response;
use axum::serve::Listener;
use axum::{Extension, Router};
use bittorrent_engine::Host;
use futures_util::future::BoxFuture;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::sync::lock;

/// Connections to one server, at most.
const CONNECTIONS: usize = 64;

/// Connections of one host to one server, at most. This machine has no such limit, because a reverse proxy on it has the connections of many.
const PER_HOST: usize = 16;

/// The time in which a client must send the head of a request, counted from the end of the answer before it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection on which nothing is sent or received for this long is closed, even during an answer. Event streams send more often.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The time that answers have to complete when the server stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves until `stop` is cancelled. Answers that have begun then have one second to complete.
///
/// `describe` returns the host of a connection and what handlers get as its [`ConnectInfo`]. Handlers get the host as an [`Extension`].
pub async fn serve<L, C>(
    mut listener: L,
    router: Router,
    describe: impl Fn(&L::Io, &L::Addr) -> (Host, C),
    stop: CancellationToken,
) where
    L: Listener,
    C: Clone + Send + Sync + 'static,
{
    let limit = Arc::new(ConnectionLimit::default());
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            // Removes ended tasks. A panic was printed when it happened.
            Some(_) = tasks.join_next() => {}
            (io, addr) = listener.accept() => {
                let (host, info) = describe(&io, &addr);
                let slot = limit.enter(host);
                let router = router
                    .clone()
                    .layer(Extension(ConnectInfo(info)))
                    .layer(Extension(host));
                tasks.spawn(answer(io, router, slot, stop.clone()));
            }
        }
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
}

/// Answers the requests of one connection.
async fn answer<T>(io: T, router: Router, slot: Slot, stop: CancellationToken)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = IdleTimeout {
        inner: io,
        idle: Box::pin(sleep(IDLE_TIMEOUT)),
        connection: slot.connection.clone(),
    };
    let service = Answering {
        router: TowerToHyperService::new(router),
        connection: slot.connection.clone(),
    };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    let connection = http.serve_connection(TokioIo::new(io), service);
    tokio::pin!(connection);
    tokio::select! {
        // A client that disconnects or sends an invalid request is not logged.
        _ = connection.as_mut() => return,
        () = slot.connection.close.cancelled() => return,
        () = stop.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(SHUTDOWN_TIMEOUT, connection).await;
}

/// The open connections of one server, which stay below the limits.
#[derive(Debug)]
struct ConnectionLimit {
    open: Mutex<Open>,
    start: Instant,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    connections: BTreeMap<u64, Arc<Connection>>,
}

/// The state of one connection.
#[derive(Debug)]
struct Connection {
    host: Host,
    start: Instant,
    /// Milliseconds from `start` until the last byte was sent, or until it was accepted.
    sent: AtomicU64,
    /// Whether a request is complete and its answer has not begun.
    answering: AtomicBool,
    /// Closes it.
    close: CancellationToken,
}

impl Default for ConnectionLimit {
    fn default() -> Self {
        Self {
            open: Mutex::default(),
            start: Instant::now(),
        }
    }
}

impl ConnectionLimit {
    /// Adds a connection. If its host or the server is at the limit, closes another one: the one to which nothing was sent for longest, and whose
    /// request is not being processed.
    fn enter(self: &Arc<Self>, host: Host) -> Slot {
        let mut open = lock(&self.open);
        let of_host = open.connections.values().filter(|one| one.host == host);
        if host.is_bounded() && of_host.count() >= PER_HOST {
            open.close_one(|one| one.host == host);
        } else if open.connections.len() >= CONNECTIONS {
            open.close_one(|_| true);
        }
        let connection = Arc::new(Connection {
            host,
            start: self.start,
            sent: AtomicU64::new(millis_since(self.start)),
            answering: AtomicBool::new(false),
            close: CancellationToken::new(),
        });
        let number = open.next;
        open.next += 1;
        open.connections.insert(number, connection.clone());
        Slot {
            limit: self.clone(),
            number,
            connection,
        }
    }
}

impl Open {
    fn close_one(&mut self, which: impl Fn(&Connection) -> bool) {
        let idlest = self
            .connections
            .iter()
            .filter(|(_, one)| which(one))
            .min_by_key(|(_, one)| {
                let answering = one.answering.load(Ordering::Relaxed);
                (answering, one.sent.load(Ordering::Relaxed))
            })
            .map(|(number, _)| *number);
        if let Some(closed) = idlest.and_then(|number| self.connections.remove(&number)) {
            closed.close.cancel();
        }
    }
}

fn millis_since(start: Instant) -> u64 {
    // 584 million years.
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The entry of a connection, which is removed when this is dropped.
struct Slot {
    limit: Arc<ConnectionLimit>,
    number: u64,
    connection: Arc<Connection>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.limit.open).connections.remove(&self.number);
    }
}

/// The router. Records while it processes a request.
struct Answering {
    router: TowerToHyperService<Router>,
    connection: Arc<Connection>,
}

impl Service<Request<Incoming>> for Answering {
    type Response = Response;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (answer, connection) = (self.router.call(request), self.connection.clone());
        Box::pin(async move {
            connection.answering.store(true, Ordering::Relaxed);
            let answer = answer.await;
            connection.answering.store(false, Ordering::Relaxed);
            answer
        })
    }
}

/// A stream that fails when nothing is sent or received for [`IDLE_TIMEOUT`], and that records when something was sent.
struct IdleTimeout<T> {
    inner: T,
    idle: Pin<Box<Sleep>>,
    connection: Arc<Connection>,
}

impl<T> IdleTimeout<T> {
    fn reset(&mut self) {
        self.idle.as_mut().reset(Instant::now() + IDLE_TIMEOUT);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for IdleTimeout<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if read.is_ready() {
            self.reset();
            return read;
        }
        // hyper always reads, to notice the end of the connection.
        match self.idle.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for IdleTimeout<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        if written.is_ready() {
            self.reset();
            let now = millis_since(self.connection.start);
            self.connection.sent.store(now, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(n: u8) -> Host {
        Host::of([192, 0, 2, n].into())
    }

    fn local() -> Host {
        Host::of([127, 0, 0, 1].into())
    }

    fn closed(slots: &[Slot]) -> Vec<usize> {
        let is_closed = |slot: &Slot| slot.connection.close.is_cancelled();
        (0..slots.len()).filter(|n| is_closed(&slots[*n])).collect()
    }

    /// Enters a connection that was sent something last `sent` milliseconds after the start.
    fn enter(limit: &Arc<ConnectionLimit>, host: Host, sent: u64) -> Slot {
        let slot = limit.enter(host);
        slot.connection.sent.store(sent, Ordering::Relaxed);
        slot
    }

    #[tokio::test]
    async fn a_full_server_closes_the_connection_that_is_idle_for_longest() {
        let limit = Arc::new(ConnectionLimit::default());
        let mut slots: Vec<_> = (0..CONNECTIONS as u64)
            .map(|sent| enter(&limit, local(), sent))
            .collect();
        assert_eq!(closed(&slots), [0; 0]);
        // Data is sent to the first; the request of the second is being processed.
        let first = &slots[0].connection;
        first.sent.store(CONNECTIONS as u64, Ordering::Relaxed);
        let second = &slots[1].connection;
        second.answering.store(true, Ordering::Relaxed);
        slots.push(enter(&limit, host(1), 1_000));
        assert_eq!(closed(&slots), [2]);
        drop(slots.remove(10));
        slots.push(enter(&limit, host(1), 1_000));
        assert_eq!(closed(&slots), [2], "there was a free slot");
        assert_eq!(limit.open.lock().unwrap().connections.len(), CONNECTIONS);
    }

    #[tokio::test]
    async fn a_host_with_too_many_connections_loses_its_own() {
        let limit = Arc::new(ConnectionLimit::default());
        let mut slots = vec![enter(&limit, host(1), 0)];
        slots.extend((0..=PER_HOST as u64).map(|sent| enter(&limit, host(2), 1 + sent)));
        assert_eq!(closed(&slots), [1]);
    }
}
