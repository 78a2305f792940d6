//! The routes of the control socket; `docs/openapi.json` describes them.

use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Request as HttpRequest, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::response::sse::Event;
use axum::routing::{MethodFilter, MethodRouter, on};
use axum::{Extension, Router};
use bittorrent_protocol::InfoHashV2;
use serde::Deserialize;
use service_kit::control_socket::ControlListener;
use service_kit::http_server::{EventStreams, Host, events, json, refuse, serve};
use snapshot_pointer::MainlineDht;
use snapshot_store::DataDir;
use tokio::net::UnixStream;
use tokio::net::unix::SocketAddr;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Denied, Reply, Request, dht};
use crate::observe::report::ReportWatch;
use crate::text::Causes;

/// The longest body of a request, in bytes.
const MAX_BODY: usize = 16 * 1024;

/// The least time between two events of a stream. Changes within it become one event.
const PAUSE: Duration = Duration::from_millis(100);

/// The state that the handlers of the control socket share.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) watching: ReportWatch,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) data: DataDir,
    pub(crate) dht: Arc<MainlineDht>,
    pub(crate) stop: CancellationToken,
    pub(crate) streams: EventStreams,
}

/// One route.
struct Route {
    method: MethodFilter,
    path: &'static str,
    handler: fn(MethodFilter) -> MethodRouter<Arc<Api>>,
}

/// All routes.
const ROUTES: [Route; 13] = [
    Route::get("/status", |method| on(method, get_status)),
    Route::get("/events", |method| on(method, get_events)),
    Route::get("/peers", |method| on(method, get_peers)),
    Route::get("/snapshots", |method| on(method, get_snapshots)),
    Route::get("/pointers", |method| on(method, get_pointers)),
    Route::post("/refresh", |method| on(method, post_refresh)),
    Route::post("/reload", |method| on(method, post_reload)),
    Route::post("/snapshots", |method| on(method, post_snapshots)),
    Route::post("/snapshots/{snapshot}/scrub", |method| {
        on(method, post_scrub)
    }),
    Route::post("/snapshots/{snapshot}/pin", |method| on(method, post_pin)),
    Route::post("/snapshots/{snapshot}/unpin", |method| {
        on(method, post_unpin)
    }),
    Route::get("/dht/item", |method| on(method, dht::get_item)),
    Route::post("/dht/item", |method| on(method, dht::post_item)),
];

impl Route {
    const fn get(path: &'static str, handler: fn(MethodFilter) -> MethodRouter<Arc<Api>>) -> Self {
        Self {
            method: MethodFilter::GET,
            path,
            handler,
        }
    }

    const fn post(path: &'static str, handler: fn(MethodFilter) -> MethodRouter<Arc<Api>>) -> Self {
        Self {
            method: MethodFilter::POST,
            path,
            handler,
        }
    }
}

impl Api {
    /// Serves requests until the mirror stops.
    pub(crate) async fn serve(self, listener: ControlListener) {
        let ControlListener { socket, file } = listener;
        let stop = self.stop.clone();
        let router = self.router(Gate::of(file.path()));
        let describe = |stream: &UnixStream, _: &SocketAddr| {
            (Host::of(Ipv4Addr::LOCALHOST.into()), Caller::of(stream))
        };
        serve(socket, router, describe, stop).await;
    }

    fn router(self, gate: Gate) -> Router {
        let mut router = Router::new();
        for route in ROUTES {
            router = router.route(route.path, (route.handler)(route.method));
        }
        router
            .method_not_allowed_fallback(async || {
                refuse(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "this resource needs another method",
                )
            })
            .fallback(async || refuse(StatusCode::NOT_FOUND, "no such resource"))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .layer(middleware::from_fn_with_state(gate, Gate::pass))
            .with_state(Arc::new(self))
    }

    /// Sends a request to the main loop of the mirror and waits for its answer.
    async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Request) -> Result<T, Box<Response>> {
        let (reply, answer) = oneshot::channel();
        let ending = || {
            let text = "the mirror is stopping";
            Box::new(refuse(StatusCode::SERVICE_UNAVAILABLE, text))
        };
        let sent = self.requests.send(make(reply)).await;
        sent.map_err(|_| ending())?;
        match answer.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(Denied::Unknown(text))) => Err(Box::new(refuse(StatusCode::NOT_FOUND, &text))),
            Ok(Err(Denied::Unfit(text))) => Err(Box::new(refuse(StatusCode::CONFLICT, &text))),
            Err(_) => Err(ending()),
        }
    }
}

async fn get_status(State(api): State<Arc<Api>>) -> Response {
    json(StatusCode::OK, &*api.watching.report())
}

async fn get_events(State(api): State<Arc<Api>>, Extension(host): Extension<Host>) -> Response {
    let (watching, stop) = (api.watching.clone(), api.stop.clone());
    events(&api.streams, host, watching, stop, PAUSE, |report| {
        // Our types have text keys only, so this does not fail.
        let json = serde_json::to_string(&*report).unwrap_or_default();
        std::future::ready(Event::default().event("report").data(json))
    })
}

async fn get_peers(State(api): State<Arc<Api>>) -> Response {
    json(StatusCode::OK, &api.watching.peers())
}

async fn get_snapshots(State(api): State<Arc<Api>>) -> Response {
    let data = api.data.clone();
    match tokio::task::spawn_blocking(move || snapshot_store::inventory::snapshots(&data)).await {
        Ok(Ok(snapshots)) => json(StatusCode::OK, &snapshots),
        Ok(Err(error)) => refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            &Causes(&error).to_string(),
        ),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

async fn get_pointers(State(api): State<Arc<Api>>) -> Response {
    json(StatusCode::OK, &api.watching.report().streams)
}

async fn post_refresh(State(api): State<Arc<Api>>) -> Response {
    match api.ask(Request::Refresh).await {
        Ok(()) => json(StatusCode::ACCEPTED, &serde_json::json!({})),
        Err(refused) => *refused,
    }
}

async fn post_reload(State(api): State<Arc<Api>>) -> Response {
    match api.ask(Request::Reload).await {
        Ok(reloaded) => json(StatusCode::OK, &reloaded),
        Err(refused) => *refused,
    }
}

/// The body of `POST /snapshots`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddSnapshot {
    snapshot: String,
}

async fn post_snapshots(State(api): State<Arc<Api>>, body: Bytes) -> Response {
    let wanted: AddSnapshot = match serde_json::from_slice(&body) {
        Ok(wanted) => wanted,
        Err(error) => {
            let text = format!("the body must be {{\"snapshot\": \"<v2 info-hash>\"}}: {error}");
            return refuse(StatusCode::BAD_REQUEST, &text);
        }
    };
    let id = match named(&wanted.snapshot) {
        Ok(id) => id,
        Err(refused) => return *refused,
    };
    match api.ask(|reply| Request::AddSnapshot(id, reply)).await {
        Ok(added) => json(StatusCode::OK, &added),
        Err(refused) => *refused,
    }
}

/// Parses the snapshot in a path.
fn named(text: &str) -> Result<InfoHashV2, Box<Response>> {
    text.parse().map_err(|_| {
        let text = "a snapshot is named by the 64 hexadecimal digits of its v2 info-hash";
        Box::new(refuse(StatusCode::BAD_REQUEST, text))
    })
}

async fn post_scrub(State(api): State<Arc<Api>>, Path(snapshot): Path<String>) -> Response {
    let id = match named(&snapshot) {
        Ok(id) => id,
        Err(refused) => return *refused,
    };
    match api.ask(|reply| Request::Scrub(id, reply)).await {
        Ok(()) => json(StatusCode::ACCEPTED, &serde_json::json!({})),
        Err(refused) => *refused,
    }
}

async fn post_pin(State(api): State<Arc<Api>>, Path(snapshot): Path<String>) -> Response {
    pin(&api, &snapshot, true).await
}

async fn post_unpin(State(api): State<Arc<Api>>, Path(snapshot): Path<String>) -> Response {
    pin(&api, &snapshot, false).await
}

/// Pins or unpins a snapshot. The pin is a mark on disk, which the main loop checks before each removal.
async fn pin(api: &Api, snapshot: &str, pinned: bool) -> Response {
    let id = match named(snapshot) {
        Ok(id) => id,
        Err(refused) => return *refused,
    };
    let data = api.data.clone();
    match tokio::task::spawn_blocking(move || data.pin(id, pinned)).await {
        Ok(Ok(changed)) => json(StatusCode::OK, &serde_json::json!({ "changed": changed })),
        Ok(Err(error)) => refuse(StatusCode::CONFLICT, &Causes(&error).to_string()),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// The credentials of the client process (SO_PEERCRED).
#[derive(Debug, Clone, Copy)]
struct Caller {
    /// `None` when the kernel did not report them.
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Caller {
    fn of(stream: &UnixStream) -> Self {
        let credentials = stream.peer_cred().ok();
        Self {
            uid: credentials.map(|of| of.uid()),
            gid: credentials.map(|of| of.gid()),
        }
    }
}

/// Decides which clients may send requests that change something.
#[derive(Debug, Clone, Copy)]
struct Gate {
    /// The group of the socket, if any user can connect to it. `None` means that the mode of the socket already restricts its users.
    only: Option<u32>,
}

impl Gate {
    /// Reads the mode of the socket, which the operator chooses for a socket of the service manager. If any user can connect, other users than
    /// those of the group may only read.
    fn of(path: &std::path::Path) -> Self {
        let open = path
            .symlink_metadata()
            .ok()
            .filter(|metadata| metadata.permissions().mode() & 0o002 != 0);
        Self {
            only: open.map(|metadata| metadata.gid()),
        }
    }

    fn allows(self, caller: Caller) -> bool {
        let own = rustix::process::geteuid().as_raw();
        self.only.is_none_or(|group| {
            caller.uid == Some(0) || caller.uid == Some(own) || caller.gid == Some(group)
        })
    }

    async fn pass(
        State(gate): State<Self>,
        ConnectInfo(caller): ConnectInfo<Caller>,
        request: HttpRequest,
        next: Next,
    ) -> Response {
        if request.method() == Method::GET || request.method() == Method::HEAD {
            return next.run(request).await;
        }
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let uid = caller.uid;
        if !gate.allows(caller) {
            warn!(%method, path, uid, "refused a control request");
            let text = "only root, the mirror's own user and the socket's group may do this";
            return refuse(StatusCode::FORBIDDEN, text);
        }
        let response = next.run(request).await;
        info!(%method, path, uid, status = response.status().as_u16(), "answered a control request");
        response
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_description_has_what_the_router_has() {
        let text = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/openapi.json"
        ));
        let description: serde_json::Value = serde_json::from_str(text).unwrap();
        let mut described = BTreeSet::new();
        for (path, methods) in description["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                described.insert((method.to_uppercase(), path.clone()));
            }
        }
        let routed = ROUTES.map(|route| {
            let method = if route.method == MethodFilter::GET {
                "GET"
            } else {
                "POST"
            };
            (method.to_owned(), route.path.to_owned())
        });
        assert_eq!(described, BTreeSet::from(routed));
    }

    #[test]
    fn where_everybody_can_connect_only_some_may_change() {
        let caller = |uid, gid| Caller {
            uid: Some(uid),
            gid: Some(gid),
        };
        let closed = Gate { only: None };
        assert!(closed.allows(caller(4321, 4321)));
        let open = Gate { only: Some(77) };
        assert!(open.allows(caller(0, 0)));
        assert!(open.allows(caller(4321, 77)));
        assert!(open.allows(caller(rustix::process::geteuid().as_raw(), 4321)));
        assert!(!open.allows(caller(4321, 4321)));
        let unknown = Caller {
            uid: None,
            gid: None,
        };
        assert!(!open.allows(unknown));
    }
}
