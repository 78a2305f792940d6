//! Server-sent events: streams of a value's changes, of which a server has a limited number.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use bittorrent_engine::Host;
use futures_util::stream::{self, Stream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::answers::refuse;
use crate::sync::lock;

/// Event streams of one server, at most. The other connections remain for short answers.
const STREAMS: usize = 32;

/// Event streams of one host, at most. This machine has no such limit.
const STREAMS_PER_HOST: usize = 8;

/// Seconds after which a client whose event stream was refused may try again.
const RETRY_AFTER: &str = "30";

/// The number of event streams of one server. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct EventStreams(Arc<Mutex<BTreeMap<Host, usize>>>);

/// One event stream, counted until it is dropped.
struct Counted {
    streams: EventStreams,
    host: Host,
}

impl EventStreams {
    /// Counts one more stream; `None` at the limit.
    fn enter(&self, host: Host) -> Option<Counted> {
        let mut by_host = lock(&self.0);
        let all: usize = by_host.values().sum();
        let of_host = by_host.get(&host).copied().unwrap_or(0);
        if all >= STREAMS || (host.is_bounded() && of_host >= STREAMS_PER_HOST) {
            return None;
        }
        by_host.insert(host, of_host + 1);
        let streams = self.clone();
        Some(Counted { streams, host })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut by_host = lock(&self.streams.0);
        if let Some(count) = by_host.get_mut(&self.host) {
            *count -= 1;
            if *count == 0 {
                by_host.remove(&self.host);
            }
        }
    }
}

/// A value that changes.
pub trait Updates: Send + 'static {
    /// The value.
    type Value: Send;

    /// Returns the present value.
    fn current(&self) -> Self::Value;

    /// Waits for a value that differs from the last one returned; `None` when there are no more.
    fn next(&mut self) -> impl Future<Output = Option<Self::Value>> + Send;
}

/// Answers with a stream of events. `make` converts the present value and then each new one to an event. At least `pause` passes between two events.
/// The stream ends with the connection, when `stop` is cancelled, or after the last value. At the limit of streams the answer is 503.
pub fn events<U, F>(
    streams: &EventStreams,
    host: Host,
    updates: U,
    stop: CancellationToken,
    pause: Duration,
    make: impl Fn(U::Value) -> F + Send + 'static,
) -> Response
where
    U: Updates,
    F: Future<Output = Event> + Send + 'static,
{
    let Some(counted) = streams.enter(host) else {
        let text = "too many event streams are open; try again later, or ask for single reports";
        let mut response = refuse(StatusCode::SERVICE_UNAVAILABLE, text);
        let later = HeaderValue::from_static(RETRY_AFTER);
        response.headers_mut().insert(header::RETRY_AFTER, later);
        return response;
    };
    Sse::new(stream_of(counted, updates, stop, pause, make))
        .keep_alive(KeepAlive::default())
        .into_response()
}

fn stream_of<U: Updates, F: Future<Output = Event> + Send>(
    counted: Counted,
    updates: U,
    stop: CancellationToken,
    pause: Duration,
    make: impl Fn(U::Value) -> F + Send + 'static,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let begin = (counted, updates, stop, make, true);
    stream::unfold(begin, move |state| async move {
        let (counted, mut updates, stop, make, first) = state;
        let value = if first {
            updates.current()
        } else {
            let next = async {
                sleep(pause).await;
                updates.next().await
            };
            tokio::select! {
                () = stop.cancelled() => return None,
                value = next => value?,
            }
        };
        let event = make(value).await;
        Some((Ok(event), (counted, updates, stop, make, false)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_streams_is_limited_in_all_and_for_one_host() {
        let streams = EventStreams::default();
        let host = |n: u8| Host::of([192, 0, 2, n].into());
        let enter = |host, times: usize| -> Vec<Counted> {
            (0..times).filter_map(|_| streams.enter(host)).collect()
        };
        let first = enter(host(1), 20);
        assert_eq!(first.len(), STREAMS_PER_HOST);
        let local = enter(Host::of([127, 0, 0, 1].into()), 100);
        assert_eq!(local.len(), STREAMS - STREAMS_PER_HOST);
        assert!(streams.enter(host(2)).is_none());
        drop(first);
        assert!(streams.enter(host(2)).is_some());
        drop(local);
        assert!(streams.0.lock().unwrap().is_empty());
    }
}
