//! Magnet links and .torrent files of the snapshots.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bittorrent_protocol::InfoHashV2;
use service_kit::http_server::{bytes_as, refuse};

use super::Site;
use crate::observe::report::StreamReport;

pub(super) async fn first_magnet(State(site): State<Arc<Site>>) -> Response {
    let report = site.watching.report();
    give_magnet(&site, report.streams.first()).await
}

pub(super) async fn first_torrent(State(site): State<Arc<Site>>) -> Response {
    let report = site.watching.report();
    give_current(&site, report.streams.first()).await
}

/// A name in a path. A name that is not UTF-8 matches nothing.
type Name = Result<Path<String>, PathRejection>;

pub(super) async fn magnet(State(site): State<Arc<Site>>, name: Name) -> Response {
    let Ok(Path(name)) = name else {
        return none();
    };
    let report = site.watching.report();
    give_magnet(&site, report.streams.iter().find(|one| one.name == name)).await
}

pub(super) async fn torrent(State(site): State<Arc<Site>>, name: Name) -> Response {
    let Ok(Path(name)) = name else {
        return none();
    };
    let report = site.watching.report();
    give_current(&site, report.streams.iter().find(|one| one.name == name)).await
}

pub(super) async fn by_hash(State(site): State<Arc<Site>>, name: Name) -> Response {
    let hash = |Path(file): &Path<String>| file.strip_suffix(".torrent")?.parse().ok();
    let id = name.as_ref().ok().and_then(hash);
    match id {
        Some(id) => give_torrent(&site, id).await,
        None => refuse(
            StatusCode::NOT_FOUND,
            "a torrent is named by its v2 info-hash: /torrents/<64 hexadecimal digits>.torrent",
        ),
    }
}

/// Answers with a magnet link to the current snapshot, or else to the desired one, whose hash is enough for a link. Never links to a refused
/// snapshot.
async fn give_magnet(site: &Site, stream: Option<&StreamReport>) -> Response {
    let Some(id) = stream.and_then(to_give) else {
        return none();
    };
    let dir = site.data.snapshot(id);
    let info = tokio::task::spawn_blocking(move || dir.read_info().ok());
    let mut link = format!("magnet:?xt=urn:btmh:1220{id}");
    if let Ok(Some(info)) = info.await {
        // Writing to a String cannot fail.
        if let Some(v1) = info.hashes().v1 {
            let _ = write!(link, "&xt=urn:btih:{v1}");
        }
        let _ = write!(link, "&dn={}", Encoded(info.name()));
    }
    link.push('\n');
    let kind = "text/plain; charset=utf-8";
    bytes_as(kind, StatusCode::OK, link.into_bytes())
}

/// Returns the snapshot of a stream to link to.
fn to_give(stream: &StreamReport) -> Option<InfoHashV2> {
    let wanted = stream.desired.as_ref().filter(|_| !stream.refused);
    stream.current.as_ref().or(wanted)?.parse().ok()
}

async fn give_current(site: &Site, stream: Option<&StreamReport>) -> Response {
    let current = stream.and_then(|stream| stream.current.as_ref());
    match current.and_then(|id| id.parse().ok()) {
        Some(id) => give_torrent(site, id).await,
        None => none(),
    }
}

fn none() -> Response {
    let text = "no such stream, or the stream has no snapshot yet";
    refuse(StatusCode::NOT_FOUND, text)
}

async fn give_torrent(site: &Site, id: InfoHashV2) -> Response {
    let dir = site.data.snapshot(id);
    let read = tokio::task::spawn_blocking(move || dir.read_torrent());
    let Ok(Ok((bytes, _))) = read.await else {
        return refuse(StatusCode::NOT_FOUND, "that snapshot is not stored here");
    };
    let mut response = bytes_as("application/x-bittorrent", StatusCode::OK, bytes);
    let name = format!("attachment; filename=\"{id}.torrent\"");
    // Hexadecimal digits are legal in a header.
    if let Ok(name) = HeaderValue::from_str(&name) {
        response
            .headers_mut()
            .insert(header::CONTENT_DISPOSITION, name);
    }
    response
}

/// Formats a name percent-encoded for a link.
struct Encoded<'a>(&'a str);

impl std::fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_snapshot_is_not_passed_on() {
        use crate::observe::report::testing::{NEW, OLD, report};

        let mut stream = report().streams.remove(0);
        let given = |stream: &StreamReport| to_give(stream).map(|id| id.to_string());
        assert_eq!(given(&stream).as_deref(), Some(OLD));
        stream.current = None;
        assert_eq!(given(&stream).as_deref(), Some(NEW));
        stream.refused = true;
        assert_eq!(given(&stream), None);
    }

    #[test]
    fn names_in_links() {
        assert_eq!(Encoded("data.ldb").to_string(), "data.ldb");
        assert_eq!(Encoded("a b&c=ü").to_string(), "a%20b%26c%3D%C3%BC");
    }
}
