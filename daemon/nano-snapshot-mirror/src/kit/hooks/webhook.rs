//! A webhook: what happened, posted as JSON to an address of the operator. Plain HTTP: for a service
//! on this machine or in this network. Whatever needs TLS or a secret is a command with curl.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use axum::http::Uri;
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// What is read of an answer, in bytes: the first line counts.
const HEAD: u64 = 4096;

/// Where to post.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Webhook {
    host: String,
    port: u16,
    path: String,
}

impl FromStr for Webhook {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write http://HOST[:PORT]/PATH; for https use hooks.command with curl";
        let uri: Uri = text.parse().map_err(|_| form.to_owned())?;
        let authority = uri.authority().map(|authority| authority.as_str());
        // A name or password would end up in logs, and is not sent.
        if uri.scheme_str() != Some("http") || authority.is_none_or(|one| one.contains('@')) {
            return Err(form.to_owned());
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            host: uri.host().unwrap_or_default().to_owned(),
            port: uri.port_u16().unwrap_or(80),
            path: path.to_owned(),
        })
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Webhook({self})")
    }
}

/// Without the path, which is often the secret of who may post.
impl fmt::Display for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}/", self.host, self.port)?;
        match &*self.path {
            "/" => Ok(()),
            _ => f.write_str("…(hidden)"),
        }
    }
}

impl Webhook {
    /// All of it.
    pub(crate) fn reveal(&self) -> String {
        format!("http://{}:{}{}", self.host, self.port, self.path)
    }

    /// Posts once. Any answer but 2xx is an error.
    pub(super) async fn post(
        &self,
        facts: &Map<String, Value>,
        limit: Duration,
        stop: &CancellationToken,
    ) -> Result<()> {
        let posted = tokio::select! {
            () = stop.cancelled() => bail!("the mirror is stopping"),
            posted = timeout(limit, self.exchange(facts)) => posted,
        };
        let status =
            posted.with_context(|| format!("{self} did not answer within {limit:?}"))??;
        if !(200..300).contains(&status) {
            bail!("{self} answered {status}");
        }
        Ok(())
    }

    async fn exchange(&self, facts: &Map<String, Value>) -> Result<u16> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let mut stream = TcpStream::connect((host, self.port))
            .await
            .with_context(|| format!("cannot connect to {self}"))?;
        let body = serde_json::to_string(facts).context("cannot write JSON")?;
        let request = format!(
            "POST {} HTTP/1.1\r\nHost: {}:{}\r\nUser-Agent: nano-snapshot-mirror/{}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.path,
            self.host,
            self.port,
            env!("CARGO_PKG_VERSION"),
            body.len()
        );
        let sent = stream.write_all(request.as_bytes()).await;
        sent.with_context(|| format!("cannot post to {self}"))?;
        let mut answer = Vec::new();
        let read = stream.take(HEAD).read_to_end(&mut answer).await;
        read.with_context(|| format!("no answer from {self}"))?;
        status(&answer).with_context(|| format!("{self} does not speak HTTP"))
    }
}

/// The status of an answer.
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let (version, rest) = line.split_once(' ')?;
    let code = rest.split(' ').next()?;
    version.starts_with("HTTP/1.").then_some(())?;
    code.parse().ok()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn addresses() {
        let shown = |text: &str| text.parse::<Webhook>().unwrap().to_string();
        assert_eq!(shown("http://a.b/c?d"), "http://a.b:80/…(hidden)");
        assert_eq!(shown("http://a.b"), "http://a.b:80/");
        let parsed = |text: &str| text.parse::<Webhook>().map(|hook| hook.reveal());
        assert_eq!(parsed("http://a.b/c?d").unwrap(), "http://a.b:80/c?d");
        assert_eq!(parsed("http://[::1]:8080").unwrap(), "http://[::1]:8080/");
        for wrong in [
            "https://a.b/c",
            "a.b/c",
            "http://",
            "http://me:secret@a.b/",
            "ftp://a/",
            "",
        ] {
            assert!(
                parsed(wrong).unwrap_err().contains("hooks.command"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn answers() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\n\r\n"), Some(204));
        assert_eq!(status(b"HTTP/1.0 500\r\n"), Some(500));
        for wrong in [
            &b""[..],
            b"SSH-2.0-x\r\n",
            b"HTTP/1.1\r\n",
            b"HTTP/1.1 abc\r\n",
            b"\xff \xff",
        ] {
            assert_eq!(status(wrong), None);
        }
    }

    /// A server that answers once, and what it was told.
    async fn serve(answer: &'static str) -> (Webhook, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut told = vec![0; 4096];
            let mut length = 0;
            while !told[..length].ends_with(b"}") {
                length += stream.read(&mut told[length..]).await.unwrap();
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&told[..length]).into_owned()
        });
        (format!("http://{address}/hook").parse().unwrap(), served)
    }

    #[tokio::test]
    async fn only_good_answers_are_good() {
        let facts: Map<String, Value> =
            [("event".to_owned(), "ready".into())].into_iter().collect();
        let (limit, stop) = (Duration::from_secs(60), CancellationToken::new());
        let (hook, served) = serve("HTTP/1.1 200 OK\r\n\r\n").await;
        hook.post(&facts, limit, &stop).await.unwrap();
        let told = served.await.unwrap();
        assert!(told.starts_with("POST /hook HTTP/1.1\r\n"), "{told}");
        assert!(told.ends_with("\r\n\r\n{\"event\":\"ready\"}"), "{told}");
        let (hook, _served) = serve("HTTP/1.1 503 Busy\r\n\r\n").await;
        let error = hook
            .post(&facts, limit, &stop)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("answered 503"), "{error}");
        let nobody: Webhook = "http://127.0.0.1:1/".parse().unwrap();
        assert!(nobody.post(&facts, limit, &stop).await.is_err());
    }
}
