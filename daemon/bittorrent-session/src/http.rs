//! Requests to HTTP servers: trackers and web seeds.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{HttpConnector, HttpInfo};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

/// How long a TCP connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a server may take to begin its answer, or to go on with it.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a connection that carries nothing is kept for the next request.
const KEPT_IDLE: Duration = Duration::from_secs(30);

/// Redirections followed for one request.
const MOST_REDIRECTIONS: usize = 5;

/// A request led to nothing.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The server was not reached, or broke off.
    #[error("no answer from {0}")]
    Request(String, #[source] hyper_util::client::legacy::Error),
    /// The answer broke off.
    #[error("the answer broke off")]
    Body(#[source] hyper::Error),
    /// The server was too slow.
    #[error("no answer in {} s", ANSWER_TIMEOUT.as_secs())]
    Slow,
    /// It answered with a failure, perhaps with the time to wait before the next try.
    #[error("the server answers {0}")]
    Status(StatusCode, Option<Duration>),
    /// The answer is longer than it may be.
    #[error("an answer of more than {0} bytes")]
    TooLong(usize),
    /// It sends us elsewhere, and there is nothing to be had, or not safely.
    #[error("the server sends us to {0:?}, which is not followed")]
    Redirection(String),
}

/// A client that is made when it is used first: reading the certificate authorities of the system
/// takes a while.
#[derive(Debug)]
pub(crate) struct LazyHttp {
    agent: String,
    client: OnceLock<HttpClient>,
}

impl LazyHttp {
    /// Is going to call itself `agent`.
    pub(crate) const fn new(agent: String) -> Self {
        Self {
            agent,
            client: OnceLock::new(),
        }
    }

    pub(crate) fn client(&self) -> HttpClient {
        self.client
            .get_or_init(|| HttpClient::new(&self.agent))
            .clone()
    }
}

/// Makes requests. Clones share their connections. Trusts the certificate authorities of the system,
/// follows a few redirections, never from https to http.
#[derive(Debug, Clone)]
pub struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    agent: HeaderValue,
}

impl HttpClient {
    /// A client that calls itself `agent`. Reads the certificate authorities of the system.
    pub fn new(agent: &str) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            // The provider has cipher suites for both versions.
            .expect("ring speaks TLS 1.2 and 1.3");
        let tls = match tls.clone().with_native_roots() {
            Ok(tls) => tls.with_no_client_auth(),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "no certificate authorities found: no https server will be trusted; \
                     set SSL_CERT_FILE to a bundle of them"
                );
                tls.with_root_certificates(RootCertStore::empty())
                    .with_no_client_auth()
            }
        };
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEPT_IDLE)
            .pool_max_idle_per_host(2)
            .build(connector);
        let agent = HeaderValue::from_str(agent)
            .unwrap_or_else(|_| HeaderValue::from_static(env!("CARGO_PKG_NAME")));
        Self { client, agent }
    }

    /// Asks for a resource, or for a range of its bytes, both ends included. Answers other than
    /// success are errors.
    pub(crate) async fn get(
        &self,
        url: &Uri,
        range: Option<(u64, u64)>,
    ) -> Result<Response<Incoming>, HttpError> {
        let mut headers = HeaderMap::new();
        if let Some((first, last)) = range
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={first}-{last}"))
        {
            headers.insert(header::RANGE, range);
        }
        self.get_with(url, &headers).await
    }

    /// Asks for a resource with more headers, such as conditions, which go wherever we are sent.
    ///
    /// # Errors
    ///
    /// Answers other than success are [`HttpError::Status`], the one that nothing has changed among
    /// them.
    pub async fn get_with(
        &self,
        url: &Uri,
        headers: &HeaderMap,
    ) -> Result<Response<Incoming>, HttpError> {
        let mut url = url.clone();
        for _ in 0..=MOST_REDIRECTIONS {
            // Libraries log where they connect to.
            let mut request = Request::get(without_user(&url))
                .header(header::USER_AGENT, &self.agent)
                .body(Empty::new())
                .map_err(|_| HttpError::Redirection(server(&url)))?;
            request.headers_mut().extend(headers.clone());
            let answer = timeout(ANSWER_TIMEOUT, self.client.request(request))
                .await
                .map_err(|_| HttpError::Slow)?
                .map_err(|error| HttpError::Request(server(&url), error))?;
            let status = answer.status();
            if status.is_success() {
                return Ok(answer);
            }
            let location = answer.headers().get(header::LOCATION);
            let Some(location) = location.filter(|_| status.is_redirection()) else {
                return Err(HttpError::Status(status, retry_after(&answer)));
            };
            let location = String::from_utf8_lossy(location.as_bytes());
            url = follow(&url, &location)
                .ok_or_else(|| HttpError::Redirection(start_of(&location)))?;
        }
        Err(HttpError::Redirection(server(&url)))
    }

    /// Asks for a resource of at most so many bytes; says who answered, where that is known.
    pub(crate) async fn get_whole(
        &self,
        url: &Uri,
        most: usize,
    ) -> Result<(Vec<u8>, Option<SocketAddr>), HttpError> {
        let answer = self.get(url, None).await?;
        let server = answer.extensions().get::<HttpInfo>();
        let server = server.map(HttpInfo::remote_addr);
        let mut body = answer.into_body();
        let mut bytes = Vec::new();
        while let Some(chunk) = next_chunk(&mut body).await? {
            if bytes.len() + chunk.len() > most {
                return Err(HttpError::TooLong(most));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok((bytes, server))
    }
}

/// The next bytes of an answer; `None` at its end.
///
/// # Errors
///
/// [`HttpError::Slow`] and [`HttpError::Body`].
pub async fn next_chunk(body: &mut Incoming) -> Result<Option<Bytes>, HttpError> {
    loop {
        let frame = timeout(ANSWER_TIMEOUT, body.frame())
            .await
            .map_err(|_| HttpError::Slow)?;
        let Some(frame) = frame else {
            return Ok(None);
        };
        // Trailers say nothing we want to know.
        if let Ok(data) = frame.map_err(HttpError::Body)?.into_data() {
            return Ok(Some(data));
        }
    }
}

/// Which server a URL is at: the rest may be a secret.
fn server(url: &Uri) -> String {
    public(url, |path| path == "/")
}

/// As much of a `Location` as may be shown: the server.
fn start_of(location: &str) -> String {
    match location.parse::<Uri>() {
        Ok(url) if url.host().is_some() => server(&url),
        // A path or a query of its own may be a secret as well.
        _ => HIDDEN.to_owned(),
    }
}

/// The same URL without user and password, which are no part of a request's target (RFC 9110, 4.2.4).
fn without_user(url: &Uri) -> Uri {
    let stripped = || {
        let (_, host) = url.authority()?.as_str().rsplit_once('@')?;
        let mut parts = url.clone().into_parts();
        parts.authority = Some(host.parse().ok()?);
        Uri::from_parts(parts).ok()
    };
    stripped().unwrap_or_else(|| url.clone())
}

/// A URL of a web server. It is shown without user, password and query, which may be secrets.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HttpUrl(Uri);

/// A text that is not the URL of a web server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not a URL of a web server: expected http://HOST/PATH or https://HOST/PATH")]
pub struct InvalidHttpUrl;

impl std::str::FromStr for HttpUrl {
    type Err = InvalidHttpUrl;

    fn from_str(text: &str) -> Result<Self, InvalidHttpUrl> {
        let uri: Option<Uri> = text.parse().ok();
        uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")))
            .filter(|uri| uri.host().is_some_and(|host| !host.is_empty()))
            .map(Self)
            .ok_or(InvalidHttpUrl)
    }
}

impl HttpUrl {
    /// All of it, secrets included, to make a request.
    pub fn uri(&self) -> &Uri {
        &self.0
    }
}

impl std::fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&public(&self.0, |_| true))
    }
}

impl std::fmt::Debug for HttpUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HttpUrl({self})")
    }
}

/// Stands for what is not shown of a URL.
const HIDDEN: &str = "…(hidden)";

/// A URL for logs and people: names, passwords and queries are often secrets, and so are paths but for
/// those that `plain` knows.
pub(crate) fn public(url: &Uri, plain: impl Fn(&str) -> bool) -> String {
    let scheme = url.scheme_str().unwrap_or_default();
    let host = url.host().unwrap_or_default();
    let port = url.port_u16();
    let port = port.map_or(String::new(), |port| format!(":{port}"));
    let start = format!("{scheme}://{host}{port}");
    let user = url
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'));
    let secret = user || url.query().is_some();
    match url.path() {
        path if plain(path) && !secret => format!("{start}{path}"),
        path if plain(path) => format!("{start}{path}{HIDDEN}"),
        _ => format!("{start}/{HIDDEN}"),
    }
}

/// Where a redirection leads. Never away from https, and to nothing but another server or
/// another place on the same one.
fn follow(from: &Uri, location: &str) -> Option<Uri> {
    let to: Uri = if location.starts_with('/') && !location.starts_with("//") {
        let mut parts = from.clone().into_parts();
        parts.path_and_query = Some(location.parse().ok()?);
        Uri::from_parts(parts).ok()?
    } else {
        location.parse().ok()?
    };
    let secure = to.scheme_str() == Some("https");
    let plain = to.scheme_str() == Some("http") && from.scheme_str() != Some("https");
    (to.host().is_some() && (secure || plain)).then_some(to)
}

/// The seconds to wait, where the server names any.
fn retry_after(answer: &Response<Incoming>) -> Option<Duration> {
    let value = answer.headers().get(header::RETRY_AFTER)?;
    value.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_is_not_shown() {
        let announce = |path: &str| matches!(path, "/" | "/announce");
        for (url, shown) in [
            ("http://a", "http://a/"),
            ("https://a.b:8/announce", "https://a.b:8/announce"),
            (
                "udp://[2001:db8::1]:6/announce",
                "udp://[2001:db8::1]:6/announce",
            ),
            ("http://a/0123abc/announce", "http://a/…(hidden)"),
            ("http://a/announce?passkey=x", "http://a/announce…(hidden)"),
            ("http://me:pw@a/", "http://a/…(hidden)"),
            ("http://me:pw@a/x", "http://a/…(hidden)"),
        ] {
            assert_eq!(public(&url.parse().unwrap(), announce), shown, "{url}");
        }
    }

    #[test]
    fn a_url_is_shown_and_requested_without_its_secrets() {
        let url: HttpUrl = "http://me:pw@a:8/x.7z?sig=s".parse().unwrap();
        for shown in [format!("{url}"), format!("{url:?}")] {
            assert!(!shown.contains("pw") && !shown.contains("sig"), "{shown}");
            assert!(shown.contains("http://a:8/x.7z"), "{shown}");
        }
        assert_eq!(without_user(url.uri()), "http://a:8/x.7z?sig=s");
        for text in ["ftp://a/b", "a/b", "http:///b", ""] {
            assert_eq!(text.parse::<HttpUrl>(), Err(InvalidHttpUrl), "{text}");
        }
    }

    #[test]
    fn a_location_shows_no_more_than_its_server() {
        for (location, shown) in [
            ("?token=SECRET", "…(hidden)"),
            ("SECRET/x", "…(hidden)"),
            ("ftp://me:SECRET@h/SECRET", "ftp://h/…(hidden)"),
            ("http://h:1/SECRET?SECRET", "http://h:1/…(hidden)"),
        ] {
            assert_eq!(start_of(location), shown, "{location}");
        }
    }

    #[test]
    fn redirections_lead_to_servers_and_not_out_of_tls() {
        for (from, location, to) in [
            ("http://a/b?c", "/d?e", Some("http://a/d?e")),
            ("http://a/b", "http://c:1/d", Some("http://c:1/d")),
            ("http://a/b", "https://a/b", Some("https://a/b")),
            ("https://a:1/b", "/c", Some("https://a:1/c")),
            ("https://a/b", "http://a/b", None),
            ("http://a/b", "//c/d", None),
            ("http://a/b", "c", None),
            ("http://a/b", "file:///etc/passwd", None),
            ("http://a/b", "ftp://c/d", None),
            ("http://a/b", "", None),
        ] {
            let found = follow(&from.parse().unwrap(), location);
            assert_eq!(found, to.map(|to| to.parse().unwrap()), "{location}");
        }
    }
}
