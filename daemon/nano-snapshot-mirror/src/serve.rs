//! What both servers share: connections that are bounded in number and in idleness, streams of
//! events, answers in JSON, and an end.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use futures_util::stream::{self, Stream};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;

use crate::report::{Report, Watching};

/// Connections to one server at a time; more wait in the kernel.
const CONNECTIONS: usize = 64;

/// A connection on which nothing moves for so long is closed. Streams of events move every second.
const IDLE: Duration = Duration::from_secs(60);

/// How long answers that are under way at the end may take.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(1);

/// A listener with a bounded number of connections.
pub(crate) struct Bounded<L> {
    inner: L,
    places: Arc<Semaphore>,
}

impl<L> Bounded<L> {
    pub(crate) fn new(inner: L) -> Self {
        Self {
            inner,
            places: Arc::new(Semaphore::new(CONNECTIONS)),
        }
    }
}

impl<L: Listener> Listener for Bounded<L> {
    type Io = Patient<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The semaphore is never closed; without a place a connection would only be counted less.
        let place = self.places.clone().acquire_owned().await.ok();
        let (inner, addr) = self.inner.accept().await;
        let io = Patient {
            inner,
            idle: Box::pin(sleep(IDLE)),
            alike: Some(0),
            _place: place,
        };
        (io, addr)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

/// How connections of HTTP/2 begin, and none of HTTP/1 does (RFC 9113, 3.4).
const HTTP2: &[u8] = b"PRI ";

/// A connection that ends when nothing moves on it, or when it is to be one of HTTP/2: `axum` would
/// speak that as soon as anything in the program is built with it, and nothing here is meant for
/// many requests at once.
pub(crate) struct Patient<T> {
    inner: T,
    idle: Pin<Box<Sleep>>,
    /// Of the bytes that came, so many are as HTTP/2 begins; `None` once one is not.
    alike: Option<usize>,
    _place: Option<OwnedSemaphorePermit>,
}

impl<T> Patient<T> {
    pub(crate) const fn get_ref(&self) -> &T {
        &self.inner
    }

    /// Whether what came with these bytes is HTTP/2.
    fn is_http2(&mut self, came: &[u8]) -> bool {
        for byte in came {
            let Some(alike) = self.alike else {
                return false;
            };
            self.alike = (HTTP2.get(alike) == Some(byte)).then_some(alike + 1);
            if self.alike == Some(HTTP2.len()) {
                return true;
            }
        }
        false
    }

    fn moved(&mut self) {
        self.idle.as_mut().reset(Instant::now() + IDLE);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Patient<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if read.is_ready() {
            self.moved();
            if self.is_http2(buf.filled().get(before..).unwrap_or_default()) {
                return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
            }
            return read;
        }
        // Somebody always reads, to hear of the end.
        match self.idle.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Patient<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        if written.is_ready() {
            self.moved();
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

/// A stream of reports, as `make` writes them: one at once, then every new one, but not more often than
/// every `pause`, until the client goes or the mirror ends.
pub(crate) fn events<F>(
    watching: Watching,
    stop: CancellationToken,
    pause: Duration,
    make: impl Fn(Arc<Report>) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = Event> + Send + 'static,
{
    Sse::new(reports(watching, stop, pause, make))
        .keep_alive(KeepAlive::default())
        .into_response()
}

fn reports<F: Future<Output = Event> + Send>(
    watching: Watching,
    stop: CancellationToken,
    pause: Duration,
    make: impl Fn(Arc<Report>) -> F + Send + 'static,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let begin = (watching, stop, make, true);
    stream::unfold(begin, move |(mut watching, stop, make, first)| async move {
        let report = if first {
            watching.report()
        } else {
            let next = async {
                sleep(pause).await;
                watching.next().await
            };
            tokio::select! {
                () = stop.cancelled() => return None,
                report = next => report?,
            }
        };
        let event = make(report).await;
        Some((Ok(event), (watching, stop, make, false)))
    })
}

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => bytes_as("application/json", status, bytes),
        // Our types have text keys only, so this does not happen.
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// An answer that says what is wrong.
pub(crate) fn refuse(status: StatusCode, text: &str) -> Response {
    let body = serde_json::json!({ "error": text }).to_string();
    bytes_as("application/json", status, body.into_bytes())
}

/// An answer of one kind of content.
pub(crate) fn bytes_as(kind: &'static str, status: StatusCode, bytes: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
