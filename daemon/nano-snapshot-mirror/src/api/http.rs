//! The read-only HTTP server: status page, metrics, health, magnet links and torrent files. Listens on this machine alone by default.

mod metrics;
mod page;
mod torrents;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::Response;
use axum::response::sse::Event;
use axum::routing::{MethodRouter, get};
use axum::{Extension, Router};
use bittorrent_session::MapCell;
use service_kit::http_server::{
    self, EventStreams, Host, Hosts, bytes_as, events, json, refuse, serve,
};
use snapshot_store::DataDir;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::observe::report::{Report, ReportWatch, TorrentState};
use file_kit::recorded_time::unix_seconds;
use page::Scene;

/// A mirror whose last report is older than this counts as hung.
const ALIVE: Duration = Duration::from_secs(60);

/// The time between two updates of one page.
const REDRAW: Duration = Duration::from_secs(2);

/// The most piece maps on one page, and the time limit for one.
const MAPS: usize = 4;
const MAP_PATIENCE: Duration = Duration::from_millis(500);

/// The routes; `docs/openapi-http.json` describes them.
fn routes() -> [(&'static str, MethodRouter<Arc<Site>>); 11] {
    [
        ("/", get(get_page)),
        ("/events", get(get_events)),
        ("/status.json", get(get_status)),
        ("/metrics", get(get_metrics)),
        ("/healthz", get(get_healthz)),
        ("/readyz", get(get_readyz)),
        ("/latest.magnet", get(torrents::first_magnet)),
        ("/latest.torrent", get(torrents::first_torrent)),
        ("/{stream}/latest.magnet", get(torrents::magnet)),
        ("/{stream}/latest.torrent", get(torrents::torrent)),
        ("/torrents/{file}", get(torrents::by_hash)),
    ]
}

/// The state that the HTTP handlers share.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) watching: ReportWatch,
    pub(crate) data: DataDir,
    pub(crate) stop: CancellationToken,
    pub(crate) streams: EventStreams,
}

impl Site {
    /// Serves until the mirror stops.
    pub(crate) async fn serve(self, listener: TcpListener, hosts: Hosts) -> Result<()> {
        let stop = self.stop.clone();
        listener
            .set_nonblocking(true)
            .context("cannot use the HTTP socket")?;
        let listener =
            tokio::net::TcpListener::from_std(listener).context("cannot use the HTTP socket")?;
        let describe = |_: &TcpStream, addr: &SocketAddr| (Host::of(addr.ip()), ());
        serve(listener, self.router(hosts), describe, stop).await;
        Ok(())
    }

    fn router(self, hosts: Hosts) -> Router {
        routes()
            .into_iter()
            .fold(Router::new(), |router, (path, answers)| {
                router.route(path, answers)
            })
            .fallback(async || refuse(StatusCode::NOT_FOUND, "no such resource"))
            .layer(middleware::from_fn_with_state(
                Arc::new(hosts),
                http_server::pass,
            ))
            .with_state(Arc::new(self))
    }

    /// Renders the middle of the page, or with a nonce the whole page. The nonce permits its script.
    async fn draw(&self, nonce: Option<&str>) -> String {
        let report = self.watching.report();
        let maps = self.maps(&report).await;
        let scene = Scene {
            report: &report,
            rates: &self.watching.rates(),
            peers: &self.watching.peers(),
            maps: &maps,
        };
        match nonce {
            Some(nonce) => page::page(&scene, nonce),
            None => page::middle(&scene),
        }
    }

    async fn maps(&self, report: &Report) -> Vec<(String, Vec<MapCell>)> {
        let mut maps = Vec::new();
        let drawn = |state| matches!(state, TorrentState::Fetching | TorrentState::Seeding);
        let torrents = report
            .torrents
            .iter()
            .filter(|torrent| drawn(torrent.state));
        for torrent in torrents.take(MAPS) {
            let Some(handle) = self.watching.torrent(&torrent.snapshot) else {
                continue;
            };
            if let Ok(Some(map)) = timeout(MAP_PATIENCE, handle.piece_map()).await {
                maps.push((torrent.snapshot.clone(), map));
            }
        }
        maps
    }
}

async fn get_page(State(site): State<Arc<Site>>) -> Response {
    let mut random = [0; 16];
    if let Err(error) = getrandom::fill(&mut random) {
        warn!(%error, "cannot get random bytes for a page");
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "no randomness");
    }
    let nonce = data_encoding::HEXLOWER.encode(&random);
    let html = site.draw(Some(&nonce)).await;
    let mut response = bytes_as(
        "text/html; charset=utf-8",
        StatusCode::OK,
        html.into_bytes(),
    );
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; \
         script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    // Hexadecimal digits are legal in a header.
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

async fn get_events(State(site): State<Arc<Site>>, Extension(host): Extension<Host>) -> Response {
    let (watching, stop) = (site.watching.clone(), site.stop.clone());
    let streams = site.streams.clone();
    events(&streams, host, watching, stop, REDRAW, move |_| {
        let site = site.clone();
        async move { Event::default().event("page").data(site.draw(None).await) }
    })
}

async fn get_status(State(site): State<Arc<Site>>) -> Response {
    json(StatusCode::OK, &*site.watching.report())
}

async fn get_metrics(State(site): State<Arc<Site>>) -> Response {
    let text = metrics::render(&site.watching.report());
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    bytes_as(kind, StatusCode::OK, text.into_bytes())
}

/// Answers 200 while the mirror's loop makes progress, and 503 when it hangs and should be restarted.
async fn get_healthz(State(site): State<Arc<Site>>) -> Response {
    let report = site.watching.report();
    let silent = unix_seconds(SystemTime::now()).saturating_sub(report.now);
    // A start may take a long time.
    if silent > ALIVE.as_secs() && report.phase != crate::observe::report::ServicePhase::Starting {
        let text = format!("the main loop has made no progress for {silent} s");
        return refuse(StatusCode::SERVICE_UNAVAILABLE, &text);
    }
    bytes_as(
        "text/plain; charset=utf-8",
        StatusCode::OK,
        b"ok\n".to_vec(),
    )
}

/// Answers 200 when the mirror is ready, and else 503 with the reasons.
async fn get_readyz(State(site): State<Arc<Site>>) -> Response {
    let report = site.watching.report();
    let answer = serde_json::json!({
        "ready": report.ready,
        "phase": report.phase,
        "reasons": report.reasons(),
    });
    let status = if report.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    json(status, &answer)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_description_has_what_the_router_has() {
        let text = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/openapi-http.json"
        ));
        let description: serde_json::Value = serde_json::from_str(text).unwrap();
        let paths = description["paths"].as_object().unwrap();
        let described: BTreeSet<&str> = paths.keys().map(String::as_str).collect();
        assert_eq!(described, BTreeSet::from(routes().map(|(path, _)| path)));
        for (path, methods) in paths {
            let methods: Vec<_> = methods.as_object().unwrap().keys().collect();
            assert_eq!(methods, ["get"], "{path}");
        }
    }
}
