//! Announces to trackers, which return addresses of peers (BEP 3, BEP 15).

mod udp;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use bittorrent_engine::{Scope, Source};
use bittorrent_protocol::tracker::{
    Announce, AnnounceEvent, Announced, Crypto, ResponseError, query,
};
use bittorrent_protocol::tracker::{ReplyError, decode_response};
use bittorrent_protocol::{PeerId, SwarmHash};
use hyper::Uri;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::error::Causes;
use crate::handle::TorrentHandle;
use crate::http::{FullResponse, HttpClient, HttpError, public};
use crate::status::TorrentStatus;
use crate::transport::handshake::EncryptionPolicy;

/// Shortest interval, whatever the tracker requests.
const MIN_INTERVAL: Duration = Duration::from_secs(60);

/// Longest interval, whatever the tracker requests.
const MAX_INTERVAL: Duration = Duration::from_secs(3600);

/// Interval if the tracker requests none.
const USUAL_INTERVAL: Duration = Duration::from_secs(1800);

/// Pause after the first failure; it doubles with each further one.
const FIRST_RETRY: Duration = Duration::from_secs(15);

/// Time limit for the last announces.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Peers that are requested.
const WANTED_PEERS: u16 = 80;

/// Longest response over HTTP, in bytes.
const MAX_RESPONSE: usize = 256 * 1024;

/// The URL of a tracker: `http:`, `https:` or `udp:`. Displayed without parts that may be a
/// passkey.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TrackerUrl(Uri);

/// The text is not the URL of a tracker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a tracker URL: expected http://…, https://… or udp://HOST:PORT")]
pub struct InvalidTrackerUrl;

impl FromStr for TrackerUrl {
    type Err = InvalidTrackerUrl;

    fn from_str(text: &str) -> Result<Self, InvalidTrackerUrl> {
        let uri: Uri = text.parse().map_err(|_| InvalidTrackerUrl)?;
        let usable = match uri.scheme_str() {
            Some("http" | "https") => true,
            Some("udp") => uri.port_u16().is_some_and(|port| port != 0),
            _ => false,
        };
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        if usable && has_host {
            Ok(Self(uri))
        } else {
            Err(InvalidTrackerUrl)
        }
    }
}

impl TrackerUrl {
    /// Returns the whole URL, with its secrets.
    pub fn reveal(&self) -> String {
        self.0.to_string()
    }
}

impl fmt::Display for TrackerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&public(&self.0, |path| matches!(path, "/" | "/announce")))
    }
}

impl fmt::Debug for TrackerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrackerUrl({self})")
    }
}

/// An announce failed.
#[derive(Debug, thiserror::Error)]
pub enum TrackerError {
    /// The tracker's name cannot be resolved.
    #[error("cannot resolve the tracker's name")]
    Resolve(#[source] io::Error),
    /// A socket operation failed.
    #[error("cannot communicate with the tracker")]
    Socket(#[source] io::Error),
    /// The tracker did not answer.
    #[error("the tracker did not answer")]
    Silent,
    /// The answer cannot be parsed.
    #[error("the tracker's answer is malformed")]
    Reply(#[source] ReplyError),
    /// The tracker refused, with this reason.
    #[error("the tracker refused: {0}")]
    Refused(String),
    /// The request over HTTP failed.
    #[error("the request failed")]
    Http(#[source] HttpError),
    /// The response over HTTP cannot be parsed.
    #[error("the tracker's response cannot be used")]
    Response(#[source] ResponseError),
    /// The system returned no random bytes.
    #[error("the system returned no random bytes")]
    Random(#[source] io::Error),
}

/// Announces a torrent to a tracker and adds the returned peers.
#[derive(Debug)]
pub struct Announcer {
    pub(crate) url: TrackerUrl,
    pub(crate) http: HttpClient,
    pub(crate) torrent: TorrentHandle,
    /// All names of the torrent; each is announced.
    pub(crate) swarms: Vec<SwarmHash>,
    pub(crate) peer_id: PeerId,
    pub(crate) port: u16,
    pub(crate) encryption: EncryptionPolicy,
}

/// What the tracker knows of one of the torrent's names.
#[derive(Debug, Clone, Copy, Default)]
struct AnnounceState {
    started: bool,
    /// The torrent was incomplete in the last announce.
    missing: bool,
}

impl Announcer {
    /// Announces until `stop` is cancelled, then announces the end. Failures are logged and
    /// retried.
    pub async fn run(self, stop: CancellationToken) {
        let mut states = vec![AnnounceState::default(); self.swarms.len()];
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.announce_forever(&mut states) => {}
        }
        let last_announces = async {
            for (swarm, state) in self.swarms.iter().zip(&states) {
                if state.started {
                    // A tracker that misses this forgets us after a while.
                    let _ = self.announce(*swarm, AnnounceEvent::Stopped).await;
                }
            }
        };
        let _ = timeout(STOP_TIMEOUT, last_announces).await;
    }

    async fn announce_forever(&self, states: &mut [AnnounceState]) {
        let mut failures: u32 = 0;
        loop {
            let mut interval = None;
            for (swarm, state) in self.swarms.iter().zip(&mut *states) {
                let next = self.announce_once(*swarm, state).await;
                interval = interval.max(next);
            }
            let pause = match interval {
                Some(interval) => {
                    failures = 0;
                    interval
                }
                None => {
                    failures += 1;
                    let doublings = (failures - 1).min(10);
                    FIRST_RETRY
                        .saturating_mul(1 << doublings)
                        .min(USUAL_INTERVAL)
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                // Completion is announced at once, if the tracker knows us as incomplete.
                () = self.completed(), if states.iter().any(|state| state.missing) => {}
            }
        }
    }

    /// Waits until the torrent is complete.
    async fn completed(&self) {
        let mut status = self.torrent.subscribe();
        if status
            .wait_for(|status| status.phase.is_seeding())
            .await
            .is_err()
        {
            // The torrent was removed; its owner cancels the announcer.
            std::future::pending::<()>().await;
        }
    }

    /// Announces one of the torrent's names. Returns the pause before the next announce, unless it
    /// failed.
    async fn announce_once(&self, swarm: SwarmHash, state: &mut AnnounceState) -> Option<Duration> {
        let seeding = self.torrent.status().phase.is_seeding();
        let event = match (state.started, state.missing && seeding) {
            (false, _) => AnnounceEvent::Started,
            (true, true) => AnnounceEvent::Completed,
            (true, false) => AnnounceEvent::Regular,
        };
        let (announced, tracker) = match self.announce(swarm, event).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::info!(
                    tracker = %self.url,
                    %swarm,
                    error = %Causes(&error),
                    "announce failed"
                );
                return None;
            }
        };
        *state = AnnounceState {
            started: true,
            missing: !seeding,
        };
        // Addresses of a narrower scope than the tracker's mean something else here.
        let scope = tracker.map_or(Scope::World, |tracker| Scope::of(tracker.ip()));
        let peers = announced.peers;
        tracing::debug!(tracker = %self.url, %swarm, peers = peers.len(), "announced");
        self.torrent
            .add_peers_from(&peers, Source::Tracker, scope)
            .await;
        Some(interval(announced.interval))
    }

    async fn announce(
        &self,
        swarm: SwarmHash,
        event: AnnounceEvent,
    ) -> Result<(Announced, Option<SocketAddr>), TrackerError> {
        let announce = self.message(swarm, event, &self.torrent.status());
        if self.url.0.scheme_str() == Some("udp") {
            let (announced, tracker) = udp::announce(&self.url.0, &announce).await?;
            return Ok((announced, Some(tracker)));
        }
        let url = with_query(&self.url.0, &query(&announce));
        let answer = self
            .http
            .get_full(&url, MAX_RESPONSE)
            .await
            .map_err(TrackerError::Http)?;
        let server = answer.server;
        Ok((interpret(answer)?, server))
    }

    fn message(&self, swarm: SwarmHash, event: AnnounceEvent, status: &TorrentStatus) -> Announce {
        // While the size is unknown, something is missing all the same.
        let left = match status.bytes_total {
            0 => u64::from(!status.phase.is_seeding()),
            total => total.saturating_sub(status.bytes_verified),
        };
        Announce {
            swarm,
            peer_id: self.peer_id,
            port: self.port,
            uploaded: status.uploaded_payload,
            downloaded: status.downloaded_payload,
            left,
            event,
            // The end of the peer id is random.
            key: self
                .peer_id
                .as_bytes()
                .last_chunk()
                .map_or(0, |end| u32::from_be_bytes(*end)),
            want: match event {
                AnnounceEvent::Stopped => 0,
                _ => WANTED_PEERS,
            },
            crypto: match self.encryption {
                EncryptionPolicy::Off => Crypto::None,
                EncryptionPolicy::PreferPlain => Crypto::Supported,
                EncryptionPolicy::Require => Crypto::Required,
            },
        }
    }
}

/// Interprets a response over HTTP. A tracker may refuse with a status of success or of failure;
/// its own reason is more precise than the status.
fn interpret(answer: FullResponse) -> Result<Announced, TrackerError> {
    match (decode_response(&answer.body), answer.failure) {
        (Err(ResponseError::Refused(reason)), _) => Err(TrackerError::Refused(reason)),
        (_, Some(failure)) => Err(TrackerError::Http(failure)),
        (Err(error), None) => Err(TrackerError::Response(error)),
        (Ok(announced), None) => Ok(announced),
    }
}

fn interval(wanted: Duration) -> Duration {
    if wanted.is_zero() {
        USUAL_INTERVAL
    } else {
        wanted.clamp(MIN_INTERVAL, MAX_INTERVAL)
    }
}

/// Returns the URL with more parameters in its query.
fn with_query(url: &Uri, query: &str) -> Uri {
    let path = url.path();
    let path_and_query = match url.query() {
        Some(own) => format!("{path}?{own}&{query}"),
        None => format!("{path}?{query}"),
    };
    let mut parts = url.clone().into_parts();
    // A URL with a percent-encoded query appended parses again.
    parts.path_and_query = path_and_query.parse().ok();
    Uri::from_parts(parts).unwrap_or_else(|_| url.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_what_they_have_to() {
        for (text, good) in [
            ("http://tracker.example/announce", true),
            ("https://tracker.example:444/a?b=c", true),
            ("udp://tracker.example:1337/announce", true),
            ("udp://[::1]:1337", true),
            ("udp://tracker.example/announce", false),
            ("udp://tracker.example:0", false),
            ("ftp://tracker.example", false),
            ("tracker.example:80", false),
            ("http://", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<TrackerUrl>().is_ok(), good, "{text}");
        }
    }

    #[test]
    fn failures_name_their_cause() {
        let answer = |body: &[u8], failure: Option<u16>| {
            let failure = failure.map(|status| {
                HttpError::Status(hyper::StatusCode::from_u16(status).unwrap(), None)
            });
            let whole = FullResponse {
                body: body.to_vec(),
                server: None,
                failure,
            };
            interpret(whole).map_err(|error| Causes(&error).to_string())
        };
        let refusal = b"d14:failure reason20:unregistered torrente";
        let refused = "the tracker refused: unregistered torrent";
        assert_eq!(answer(refusal, None).unwrap_err(), refused);
        assert_eq!(answer(refusal, Some(404)).unwrap_err(), refused);
        assert_eq!(
            answer(b"<html>", Some(401)).unwrap_err(),
            "the request failed: the server responded with 401 Unauthorized"
        );
        let nonsense = answer(b"<html>", None).unwrap_err();
        assert!(
            nonsense.starts_with(
                "the tracker's response cannot be used: the tracker's answer cannot be read: "
            ),
            "{nonsense}"
        );
        assert!(answer(b"d8:intervali60e5:peers0:e", None).is_ok());
    }

    #[test]
    fn queries_join_those_of_the_url() {
        for (url, whole) in [
            ("http://a/b", "http://a/b?c=%41"),
            ("http://a", "http://a/?c=%41"),
            ("http://a:1/b?key=1", "http://a:1/b?key=1&c=%41"),
        ] {
            assert_eq!(with_query(&url.parse().unwrap(), "c=%41"), whole);
        }
    }

    #[test]
    fn intervals_are_reasonable_whatever_the_tracker_says() {
        for (wanted, waited) in [(0, 1800), (1, 60), (60, 60), (900, 900), (86_400, 3600)] {
            assert_eq!(interval(Duration::from_secs(wanted)).as_secs(), waited);
        }
    }
}
