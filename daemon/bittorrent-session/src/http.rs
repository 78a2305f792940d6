//! The HTTP client for servers outside: trackers and web seeds.

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use flate2::read::MultiGzDecoder;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{HttpConnector, HttpInfo};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use percent_encoding::percent_decode_str;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;
use url::Url;

use crate::error::Causes;

/// Time limit for a TCP connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit for the start of a response, and for each further part.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Time for which an idle connection is kept for the next request.
const KEPT_IDLE: Duration = Duration::from_secs(30);

/// Redirections that are followed for one request.
const MAX_REDIRECTIONS: usize = 5;

/// A request failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The server could not be reached, or closed the connection.
    #[error("cannot get a response from {0}")]
    Request(String, #[source] hyper_util::client::legacy::Error),
    /// The response was interrupted.
    #[error("the response was interrupted")]
    Body(#[source] hyper::Error),
    /// The server was too slow.
    #[error("no response in {} s", ANSWER_TIMEOUT.as_secs())]
    Slow,
    /// The status is a failure, perhaps with the time to wait before the next request.
    #[error("the server responded with {0}")]
    Status(StatusCode, Option<Duration>),
    /// The response is longer than allowed.
    #[error("the response has more than {0} bytes")]
    TooLong(usize),
    /// The response starts like gzip (RFC 1952) but cannot be decompressed.
    #[error("cannot decompress the response")]
    Gzip(#[source] std::io::Error),
    /// A redirection is not followed: it is unsafe, or one too many.
    #[error("the server redirects to {0:?}, which is not followed")]
    Redirection(String),
}

/// A client that is created when it is first used: reading the system's certificate authorities
/// takes a while.
#[derive(Debug)]
pub(crate) struct LazyHttpClient {
    agent: String,
    client: OnceLock<HttpClient>,
}

impl LazyHttpClient {
    /// Creates a client that will identify itself as `agent`.
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

/// A client. Clones share their connections. It trusts the system's certificate authorities and
/// follows a few redirections, never from https to http.
#[derive(Debug, Clone)]
pub struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    agent: HeaderValue,
}

impl HttpClient {
    /// Creates a client that identifies itself as `agent`. Reads the system's certificate
    /// authorities.
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
                    error = %Causes(&error),
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

    /// Requests a resource, or a range of its bytes, both ends included. Other statuses than
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

    /// Requests a resource with further headers, such as conditions. Redirections receive them too.
    ///
    /// # Errors
    ///
    /// Statuses other than success are [`HttpError::Status`], including 304 Not Modified.
    pub async fn get_with(
        &self,
        url: &Uri,
        headers: &HeaderMap,
    ) -> Result<Response<Incoming>, HttpError> {
        let answer = self.final_answer(url, headers).await?;
        match answer.status() {
            status if status.is_success() => Ok(answer),
            status => Err(HttpError::Status(status, retry_after(&answer))),
        }
    }

    /// Follows redirections to the first response that is none, whatever its status. The user name
    /// and password of `url` are sent as basic credentials (RFC 7617) to its own server only; those
    /// in a redirection are not used.
    async fn final_answer(
        &self,
        url: &Uri,
        headers: &HeaderMap,
    ) -> Result<Response<Incoming>, HttpError> {
        let credentials = credentials(url);
        let mut at = url.clone();
        for _ in 0..=MAX_REDIRECTIONS {
            // Libraries log the URLs to which they connect.
            let mut request = Request::get(without_user(&at))
                .header(header::USER_AGENT, &self.agent)
                .body(Empty::new())
                .map_err(|_| HttpError::Redirection(server(&at)))?;
            request.headers_mut().extend(headers.clone());
            if let Some(credentials) = credentials.clone().filter(|_| is_same_server(url, &at)) {
                request
                    .headers_mut()
                    .insert(header::AUTHORIZATION, credentials);
            }
            let answer = timeout(ANSWER_TIMEOUT, self.client.request(request))
                .await
                .map_err(|_| HttpError::Slow)?
                .map_err(|error| HttpError::Request(server(&at), error))?;
            let location = answer.headers().get(header::LOCATION);
            let Some(location) = location.filter(|_| answer.status().is_redirection()) else {
                return Ok(answer);
            };
            let location = String::from_utf8_lossy(location.as_bytes());
            at = follow(&at, &location)
                .ok_or_else(|| HttpError::Redirection(start_of(&location)))?;
        }
        Err(HttpError::Redirection(server(&at)))
    }

    /// Requests a resource of at most `most` bytes, after decompression if the server sends gzip. The body of a failure is returned
    /// too: trackers give their reason in it.
    pub(crate) async fn get_full(&self, url: &Uri, most: usize) -> Result<FullResponse, HttpError> {
        let answer = self.final_answer(url, &HeaderMap::new()).await?;
        let server = answer.extensions().get::<HttpInfo>();
        let server = server.map(HttpInfo::remote_addr);
        let failure = match answer.status() {
            status if status.is_success() => None,
            status => Some(HttpError::Status(status, retry_after(&answer))),
        };
        let mut body = answer.into_body();
        let mut bytes = Vec::new();
        while let Some(chunk) = next_chunk(&mut body).await? {
            if bytes.len() + chunk.len() > most {
                return Err(HttpError::TooLong(most));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(FullResponse {
            body: decompressed(bytes, most)?,
            server,
            failure,
        })
    }
}

/// A complete response.
#[derive(Debug)]
pub(crate) struct FullResponse {
    pub(crate) body: Vec<u8>,
    /// The address of the server, if it is known.
    pub(crate) server: Option<SocketAddr>,
    /// The status, if it is a failure.
    pub(crate) failure: Option<HttpError>,
}

/// First bytes of a gzip file (RFC 1952, 2.3.1).
const GZIP: [u8; 3] = [0x1f, 0x8b, 8];

/// Decompresses gzip. Some servers send it unrequested and without `Content-Encoding`; no other
/// response that is read here starts like it.
fn decompressed(body: Vec<u8>, most: usize) -> Result<Vec<u8>, HttpError> {
    if !body.starts_with(&GZIP) {
        return Ok(body);
    }
    let mut whole = Vec::new();
    MultiGzDecoder::new(&*body)
        .take(most as u64 + 1)
        .read_to_end(&mut whole)
        .map_err(HttpError::Gzip)?;
    if whole.len() > most {
        return Err(HttpError::TooLong(most));
    }
    Ok(whole)
}

/// Returns basic credentials from the user name and password of a URL, which are percent-encoded
/// there (RFC 3986, 3.2.1).
fn credentials(url: &Uri) -> Option<HeaderValue> {
    let (user_info, _) = url.authority()?.as_str().rsplit_once('@')?;
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    let plain: Vec<u8> = percent_decode_str(user)
        .chain([b':'])
        .chain(percent_decode_str(password))
        .collect();
    let mut value = HeaderValue::from_str(&format!("Basic {}", BASE64.encode(&plain))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn is_same_server(a: &Uri, b: &Uri) -> bool {
    let port = |url: &Uri| match (url.port_u16(), url.scheme_str()) {
        (None, Some("https")) => 443,
        (None, _) => 80,
        (Some(port), _) => port,
    };
    (a.scheme(), a.host(), port(a)) == (b.scheme(), b.host(), port(b))
}

/// Returns the next bytes of a response; `None` at its end.
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
        // Trailers are not used.
        if let Ok(data) = frame.map_err(HttpError::Body)?.into_data() {
            return Ok(Some(data));
        }
    }
}

/// Returns the server part of a URL: the rest may be a secret.
fn server(url: &Uri) -> String {
    public(url, |path| path == "/")
}

/// Returns what may be shown of a `Location`: the server.
fn start_of(location: &str) -> String {
    match location.parse::<Uri>() {
        Ok(url) if url.host().is_some() => server(&url),
        // A path or a query of its own may be a secret as well.
        _ => HIDDEN.to_owned(),
    }
}

/// Returns the URL without user and password, which are not part of a request's target (RFC 9110,
/// 4.2.4).
fn without_user(url: &Uri) -> Uri {
    let stripped = || {
        let (_, host) = url.authority()?.as_str().rsplit_once('@')?;
        let mut parts = url.clone().into_parts();
        parts.authority = Some(host.parse().ok()?);
        Uri::from_parts(parts).ok()
    };
    stripped().unwrap_or_else(|| url.clone())
}

/// The URL of a web server. Displayed without user, password and query, which may be secrets.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HttpUrl(Uri);

/// The text is not the URL of a web server.
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
    /// Returns the whole URL, with its secrets, to make a request.
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

/// Replaces the parts of a URL that are not shown.
const HIDDEN: &str = "…(hidden)";

/// Formats a URL for logs and people. User names, passwords and queries are often secrets, and so
/// are paths, except those that `plain` accepts.
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

/// Returns the URL of a redirection, which may be relative to the requested URL (RFC 9110, 10.2.2).
/// Returns `None` if it is not an HTTP URL, leads from https to http, or is the same URL again.
fn follow(from: &Uri, location: &str) -> Option<Uri> {
    let base = Url::parse(&from.to_string()).ok()?;
    let mut to = base.join(location).ok()?;
    to.set_fragment(None);
    let is_safe = match to.scheme() {
        "https" => true,
        "http" => base.scheme() == "http",
        _ => false,
    };
    if !is_safe || to == base || !to.has_host() {
        return None;
    }
    // These fail only for URLs without a host.
    let _ = to.set_username("");
    let _ = to.set_password(None);
    to.as_str().parse().ok()
}

/// Returns the time to wait, if the server sent one.
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
    fn credentials_are_those_of_the_url_and_for_its_server_only() {
        for (url, credentials_in_base64) in [
            ("http://a/", None),
            // The example of RFC 7617, 2.
            (
                "http://Aladdin:open%20sesame@a/",
                Some("QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            ),
            ("http://me@a/", Some("bWU6")),
            ("http://me:p%3Aw@a:1/", Some("bWU6cDp3")),
        ] {
            let found = credentials(&url.parse().unwrap());
            let expected = credentials_in_base64.map(|text| format!("Basic {text}"));
            assert_eq!(
                found.as_ref().map(|value| value.to_str().unwrap()),
                expected.as_deref(),
                "{url}"
            );
        }
        for (a, b, same) in [
            ("http://me:pw@a/b", "http://a:80/c", true),
            ("https://a", "https://a:443/", true),
            ("http://a", "https://a", false),
            ("http://a", "http://b", false),
            ("http://a:1", "http://a:2", false),
        ] {
            assert_eq!(
                is_same_server(&a.parse().unwrap(), &b.parse().unwrap()),
                same,
                "{a} {b}"
            );
        }
    }

    #[test]
    fn gzip_is_decompressed_within_the_bound() {
        let packed = |content: &[u8]| {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            std::io::Write::write_all(&mut encoder, content).unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(decompressed(b"de".to_vec(), 10).unwrap(), b"de");
        assert_eq!(
            decompressed(packed(b"0123456789"), 10).unwrap(),
            b"0123456789"
        );
        let bomb = packed(&[0; 1 << 20]);
        assert!(matches!(
            decompressed(bomb, 10),
            Err(HttpError::TooLong(10))
        ));
        let mut broken = packed(b"0123456789");
        broken.truncate(15);
        assert!(matches!(decompressed(broken, 10), Err(HttpError::Gzip(_))));
    }

    #[test]
    fn redirections_lead_to_servers_and_not_out_of_tls() {
        for (from, location, to) in [
            ("http://a/b?c", "/d?e", Some("http://a/d?e")),
            ("http://a/b", "http://c:1/d", Some("http://c:1/d")),
            ("http://a/b", "https://a/b", Some("https://a/b")),
            ("https://a:1/b", "/c", Some("https://a:1/c")),
            ("https://a/b", "http://a/b", None),
            ("http://a/b", "//c/d", Some("http://c/d")),
            ("https://a/b", "//c/d", Some("https://c/d")),
            ("http://a/b/c?x", "d", Some("http://a/b/d")),
            ("http://a/b/c", "./d", Some("http://a/b/d")),
            ("http://a/b/c", "../d?e", Some("http://a/d?e")),
            ("http://a/b/c?x", "?y", Some("http://a/b/c?y")),
            ("http://a/b", "c#d", Some("http://a/c")),
            ("http://me:pw@a/b", "c", Some("http://a/c")),
            ("http://a/b", "http://me:pw@c/d", Some("http://c/d")),
            ("http://a/b", "file:///etc/passwd", None),
            ("http://a/b", "ftp://c/d", None),
            ("http://a/b", "data:,x", None),
            ("http://a/b", "http://", None),
            ("http://a/b", "", None),
        ] {
            let found = follow(&from.parse().unwrap(), location);
            assert_eq!(found, to.map(|to| to.parse().unwrap()), "{location}");
        }
    }
}
