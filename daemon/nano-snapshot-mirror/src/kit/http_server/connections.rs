//! Serves HTTP/1 to a bounded number of connections.
//!
//! A full server makes room for every new connection: it closes the one that has been idle for
//! longest. So connections that are held open, with nothing or half a request sent, cannot keep
//! others out.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::response::Response;
use axum::serve::Listener;
use axum::{Extension, Router};
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

/// Connections to one server.
const CONNECTIONS: usize = 64;

/// Connections of one host to one server. This machine is not bounded, as a reverse proxy on it
/// asks for many.
const PER_HOST: usize = 16;

/// How long a client may take to send the head of a request, counted from the end of the answer
/// before it.
const HEAD: Duration = Duration::from_secs(30);

/// A connection on which no byte moves for this long is closed, also in the middle of an answer.
/// Event streams send something more often.
const IDLE: Duration = Duration::from_secs(60);

/// How long answers that are being sent when the server stops may still take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Where a request comes from: an IPv4 address, an IPv6 network of 64 bits, or `None` for this
/// machine and for Unix sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Host(pub(super) Option<IpAddr>);

impl Host {
    /// A client on this machine.
    pub(crate) const LOCAL: Self = Self(None);

    /// The host that an address belongs to.
    pub(crate) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            ip if ip.is_loopback() => Self::LOCAL,
            IpAddr::V4(ip) => Self(Some(ip.into())),
            IpAddr::V6(ip) => {
                let network = Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64));
                Self(Some(network.into()))
            }
        }
    }
}

/// Answers requests until `stop`, then finishes what is being answered within [`LAST_WORDS`].
///
/// `describe` says from which host a connection comes, and what handlers get as its
/// [`ConnectInfo`].
pub(crate) async fn serve<L, C>(
    mut listener: L,
    router: Router,
    describe: impl Fn(&L::Io, &L::Addr) -> (Host, C),
    stop: CancellationToken,
) where
    L: Listener,
    C: Clone + Send + Sync + 'static,
{
    let table = Arc::new(Table::default());
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            // Ended ones are taken out as they end. A panic was printed when it happened.
            Some(_) = tasks.join_next() => {}
            (io, addr) = listener.accept() => {
                let (host, info) = describe(&io, &addr);
                let place = table.enter(host);
                let router = router
                    .clone()
                    .layer(Extension(ConnectInfo(info)))
                    .layer(Extension(host));
                tasks.spawn(answer(io, router, place, stop.clone()));
            }
        }
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
}

/// Answers the requests of one connection.
async fn answer<T>(io: T, router: Router, place: Place, stop: CancellationToken)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = Watched {
        inner: io,
        idle: Box::pin(sleep(IDLE)),
        connection: place.connection.clone(),
    };
    let service = Answering {
        router: TowerToHyperService::new(router),
        connection: place.connection.clone(),
    };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let connection = http.serve_connection(TokioIo::new(io), service);
    tokio::pin!(connection);
    tokio::select! {
        // A client that breaks off or sends nonsense is not worth a message.
        _ = connection.as_mut() => return,
        () = place.connection.close.cancelled() => return,
        () = stop.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(LAST_WORDS, connection).await;
}

/// The open connections of one server.
#[derive(Debug)]
struct Table {
    open: Mutex<Open>,
    start: Instant,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    connections: BTreeMap<u64, Arc<Connection>>,
}

/// What is known of one connection.
#[derive(Debug)]
struct Connection {
    host: Host,
    start: Instant,
    /// Milliseconds from `start` until the last byte was sent, or until it was accepted.
    sent: AtomicU64,
    /// A request is complete and its answer has not begun.
    answering: AtomicBool,
    /// Closes it.
    close: CancellationToken,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            open: Mutex::default(),
            start: Instant::now(),
        }
    }
}

impl Table {
    /// Enters a connection. Where its host has too many, or the server is full, another one is
    /// closed: the one that was sent nothing for longest, and whose request is not being worked on.
    fn enter(self: &Arc<Self>, host: Host) -> Place {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let of_host = open.connections.values().filter(|one| one.host == host);
        if host != Host::LOCAL && of_host.count() >= PER_HOST {
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
        Place {
            table: self.clone(),
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

/// A connection's place in the table, until it is dropped.
struct Place {
    table: Arc<Table>,
    number: u64,
    connection: Arc<Connection>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let open = self.table.open.lock();
        let mut open = open.unwrap_or_else(PoisonError::into_inner);
        open.connections.remove(&self.number);
    }
}

/// The router, with a note of when it works on a request.
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

/// A stream that ends with an error when no byte moves on it for [`IDLE`], and that notes when
/// something was sent.
struct Watched<T> {
    inner: T,
    idle: Pin<Box<Sleep>>,
    connection: Arc<Connection>,
}

impl<T> Watched<T> {
    fn moved(&mut self) {
        self.idle.as_mut().reset(Instant::now() + IDLE);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if read.is_ready() {
            self.moved();
            return read;
        }
        // hyper reads all the time, to notice the end of the connection.
        match self.idle.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        if written.is_ready() {
            self.moved();
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

    fn closed(places: &[Place]) -> Vec<usize> {
        let is_closed = |place: &Place| place.connection.close.is_cancelled();
        (0..places.len())
            .filter(|n| is_closed(&places[*n]))
            .collect()
    }

    #[test]
    fn a_host_is_an_ipv4_address_or_an_ipv6_network() {
        let of = |ip: &str| Host::of(ip.parse().unwrap());
        assert_eq!(of("127.3.3.3"), Host::LOCAL);
        assert_eq!(of("::ffff:127.0.0.1"), Host::LOCAL);
        assert_eq!(of("::1"), Host::LOCAL);
        assert_eq!(of("::ffff:192.0.2.1"), host(1));
        assert_ne!(host(1), host(2));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    }

    /// Enters a connection that was sent something last `sent` milliseconds after the start.
    fn enter(table: &Arc<Table>, host: Host, sent: u64) -> Place {
        let place = table.enter(host);
        place.connection.sent.store(sent, Ordering::Relaxed);
        place
    }

    #[tokio::test]
    async fn a_full_server_closes_the_connection_that_is_idle_for_longest() {
        let table = Arc::new(Table::default());
        let mut places: Vec<_> = (0..CONNECTIONS as u64)
            .map(|sent| enter(&table, Host::LOCAL, sent))
            .collect();
        assert_eq!(closed(&places), [0; 0]);
        // The first is sent something, the second one's request is being worked on.
        let first = &places[0].connection;
        first.sent.store(CONNECTIONS as u64, Ordering::Relaxed);
        let second = &places[1].connection;
        second.answering.store(true, Ordering::Relaxed);
        places.push(enter(&table, host(1), 1_000));
        assert_eq!(closed(&places), [2]);
        drop(places.remove(10));
        places.push(enter(&table, host(1), 1_000));
        assert_eq!(closed(&places), [2], "there was a place");
        assert_eq!(table.open.lock().unwrap().connections.len(), CONNECTIONS);
    }

    #[tokio::test]
    async fn a_host_with_too_many_connections_loses_its_own() {
        let table = Arc::new(Table::default());
        let mut places = vec![enter(&table, host(1), 0)];
        places.extend((0..=PER_HOST as u64).map(|sent| enter(&table, host(2), 1 + sent)));
        assert_eq!(closed(&places), [1]);
    }
}
