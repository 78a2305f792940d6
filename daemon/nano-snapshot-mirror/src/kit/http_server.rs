//! What both servers share: bounded connections, bounded streams of events, answers in JSON, and an
//! end.

mod connections;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use serde::Serialize;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub(crate) use connections::{Host, serve};

use crate::observe::report::{Report, ReportWatch};

/// Event streams of one server. The other connections stay free for short answers.
const STREAMS: usize = 32;

/// Event streams of one host. This machine is not bounded.
const STREAMS_PER_HOST: usize = 8;

/// When a client that was refused an event stream may try again, in seconds.
const RETRY_AFTER: &str = "30";

/// Counts the event streams of one server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Streams(Arc<Mutex<BTreeMap<Host, usize>>>);

/// One event stream, counted until it is dropped.
struct Counted {
    streams: Streams,
    host: Host,
}

impl Streams {
    /// Counts one more, unless there are too many.
    fn enter(&self, host: Host) -> Option<Counted> {
        let mut by_host = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = by_host.values().sum();
        let of_host = by_host.get(&host).copied().unwrap_or(0);
        if all >= STREAMS || (host != Host::LOCAL && of_host >= STREAMS_PER_HOST) {
            return None;
        }
        by_host.insert(host, of_host + 1);
        let streams = self.clone();
        Some(Counted { streams, host })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let by_host = self.streams.0.lock();
        let mut by_host = by_host.unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_host.get_mut(&self.host) {
            *count -= 1;
            if *count == 0 {
                by_host.remove(&self.host);
            }
        }
    }
}

/// A stream of reports, as `make` writes them: one at once, then every new one, but not more often than
/// every `pause`, until the client goes or the mirror ends. Answers 503 when there are too many
/// streams.
pub(crate) fn events<F>(
    streams: &Streams,
    host: Host,
    watching: ReportWatch,
    stop: CancellationToken,
    pause: Duration,
    make: impl Fn(Arc<Report>) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = Event> + Send + 'static,
{
    let Some(counted) = streams.enter(host) else {
        let text = "too many event streams are open; try again later, or ask for single reports";
        let mut response = refuse(StatusCode::SERVICE_UNAVAILABLE, text);
        let later = HeaderValue::from_static(RETRY_AFTER);
        response.headers_mut().insert(header::RETRY_AFTER, later);
        return response;
    };
    Sse::new(reports(counted, watching, stop, pause, make))
        .keep_alive(KeepAlive::default())
        .into_response()
}

fn reports<F: Future<Output = Event> + Send>(
    counted: Counted,
    watching: ReportWatch,
    stop: CancellationToken,
    pause: Duration,
    make: impl Fn(Arc<Report>) -> F + Send + 'static,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let begin = (counted, watching, stop, make, true);
    stream::unfold(begin, move |state| async move {
        let (counted, mut watching, stop, make, first) = state;
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
        Some((Ok(event), (counted, watching, stop, make, false)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_streams_are_bounded_over_all_hosts_and_for_one() {
        let streams = Streams::default();
        let host = |n: u8| Host::of([192, 0, 2, n].into());
        let enter = |host, times: usize| -> Vec<Counted> {
            (0..times).filter_map(|_| streams.enter(host)).collect()
        };
        let first = enter(host(1), 20);
        assert_eq!(first.len(), STREAMS_PER_HOST);
        let local = enter(Host::LOCAL, 100);
        assert_eq!(local.len(), STREAMS - STREAMS_PER_HOST);
        assert!(streams.enter(host(2)).is_none());
        drop(first);
        assert!(streams.enter(host(2)).is_some());
        drop(local);
        assert!(streams.0.lock().unwrap().is_empty());
    }
}
