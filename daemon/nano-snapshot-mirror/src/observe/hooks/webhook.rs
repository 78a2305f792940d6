//! Posts an event as JSON to a webhook. Supports plain HTTP only, for a service on this machine or in this network. For HTTPS, use a command with curl.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::Webhook;

/// The most bytes of a response to read. Only the status line is used.
const HEAD: u64 = 4096;

/// Posts the facts once.
///
/// # Errors
///
/// When there is no answer in time, or its status is not 2xx.
pub(super) async fn post(
    webhook: &Webhook,
    facts: &Map<String, Value>,
    limit: Duration,
    stop: &CancellationToken,
) -> Result<()> {
    let posted = tokio::select! {
        () = stop.cancelled() => bail!("the mirror is stopping"),
        posted = timeout(limit, exchange(webhook, facts)) => posted,
    };
    let status = posted.with_context(|| format!("{webhook} did not answer within {limit:?}"))??;
    if !(200..300).contains(&status) {
        bail!("{webhook} answered {status}");
    }
    Ok(())
}

async fn exchange(webhook: &Webhook, facts: &Map<String, Value>) -> Result<u16> {
    let host = webhook.host().trim_start_matches('[').trim_end_matches(']');
    let mut stream = TcpStream::connect((host, webhook.port()))
        .await
        .with_context(|| format!("cannot connect to {webhook}"))?;
    let body = serde_json::to_string(facts).context("cannot write JSON")?;
    let request = format!(
        "POST {} HTTP/1.1\r\nHost: {}:{}\r\nUser-Agent: nano-snapshot-mirror/{}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        webhook.path(),
        webhook.host(),
        webhook.port(),
        env!("CARGO_PKG_VERSION"),
        body.len()
    );
    let sent = stream.write_all(request.as_bytes()).await;
    sent.with_context(|| format!("cannot post to {webhook}"))?;
    let mut answer = Vec::new();
    let read = stream.take(HEAD).read_to_end(&mut answer).await;
    read.with_context(|| format!("no answer from {webhook}"))?;
    status(&answer).with_context(|| format!("the answer of {webhook} is not HTTP"))
}

/// Parses the status of an answer.
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

    /// Starts a server that answers once. Returns its address and the request it will have received.
    async fn serve(answer: &'static str) -> (Webhook, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut received = vec![0; 4096];
            let mut length = 0;
            while !received[..length].ends_with(b"}") {
                length += stream.read(&mut received[length..]).await.unwrap();
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&received[..length]).into_owned()
        });
        (format!("http://{address}/hook").parse().unwrap(), served)
    }

    #[tokio::test]
    async fn only_good_answers_are_good() {
        let facts: Map<String, Value> =
            [("event".to_owned(), "ready".into())].into_iter().collect();
        let (limit, stop) = (Duration::from_secs(60), CancellationToken::new());
        let (hook, served) = serve("HTTP/1.1 200 OK\r\n\r\n").await;
        post(&hook, &facts, limit, &stop).await.unwrap();
        let received = served.await.unwrap();
        assert!(
            received.starts_with("POST /hook HTTP/1.1\r\n"),
            "{received}"
        );
        assert!(
            received.ends_with("\r\n\r\n{\"event\":\"ready\"}"),
            "{received}"
        );
        let (hook, _served) = serve("HTTP/1.1 503 Busy\r\n\r\n").await;
        let error = post(&hook, &facts, limit, &stop)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("answered 503"), "{error}");
        let closed: Webhook = "http://127.0.0.1:1/".parse().unwrap();
        assert!(post(&closed, &facts, limit, &stop).await.is_err());
    }
}
