//! A client for the control socket of a running mirror.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use bittorrent_protocol::Printable;
use serde::de::DeserializeOwned;

/// The time limit for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 16 << 20;

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    method: &'static str,
    path: String,
    body: String,
}

impl Ask {
    /// Creates a GET request.
    pub(crate) fn get(path: String) -> Self {
        Self {
            method: "GET",
            path,
            body: String::new(),
        }
    }

    /// Creates a POST request with a JSON body.
    pub(crate) fn post(path: &str, body: &serde_json::Value) -> Self {
        Self {
            method: "POST",
            path: path.to_owned(),
            body: body.to_string(),
        }
    }
}

/// Returns whether a mirror listens on the socket.
pub(crate) fn listens(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

/// Sends a GET request for `path`. Returns `None` when no mirror listens on the socket.
pub(crate) fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<Option<T>> {
    ask(socket, &Ask::get(path.to_owned()), PATIENCE)
}

/// Sends a GET request to the HTTP address of a mirror. Returns `None` when nothing listens there.
pub(crate) fn get_over_tcp<T: DeserializeOwned>(
    address: SocketAddr,
    path: &str,
) -> Result<Option<T>> {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, PATIENCE) else {
        return Ok(None);
    };
    let asked = || format!("cannot ask the mirror at {address}");
    stream
        .set_read_timeout(Some(PATIENCE))
        .with_context(asked)?;
    stream
        .set_write_timeout(Some(PATIENCE))
        .with_context(asked)?;
    let answer = exchange(&mut stream, &Ask::get(path.to_owned())).with_context(asked)?;
    parse(&answer).map(Some)
}

/// Sends a request and waits at most `patience` for the answer. Returns `None` when no mirror listens on the socket.
pub(crate) fn ask<T: DeserializeOwned>(
    socket: &Path,
    ask: &Ask,
    patience: Duration,
) -> Result<Option<T>> {
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(error) => {
            let asked = || format!("cannot ask the mirror at {}", socket.display());
            return Err(error).with_context(asked);
        }
    };
    let silent = || format!("no answer from the mirror at {}", socket.display());
    stream
        .set_read_timeout(Some(patience))
        .with_context(silent)?;
    stream
        .set_write_timeout(Some(PATIENCE))
        .with_context(silent)?;
    let answer = exchange(&mut stream, ask).with_context(silent)?;
    parse(&answer).map(Some)
}

fn parse<T: DeserializeOwned>(answer: &[u8]) -> Result<T> {
    serde_json::from_slice(body(answer)?)
        .context("cannot parse the answer: the mirror may run another version of this program")
}

fn exchange(stream: &mut (impl Read + Write), ask: &Ask) -> std::io::Result<Vec<u8>> {
    // HTTP/1.0: the answer comes in one piece and ends with the connection.
    let request = format!(
        "{} {} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{}",
        ask.method,
        ask.path,
        ask.body.len(),
        ask.body
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok(answer)
}

/// Returns the reason of a refusal: the field `error` of the JSON, or else the whole body.
fn reason(body: &[u8]) -> String {
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let text = json.get("error").and_then(serde_json::Value::as_str);
    text.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned)
}

/// Returns the body of an answer with status 200.
fn body(answer: &[u8]) -> Result<&[u8]> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.ok_or_else(|| anyhow!("the answer of the mirror has incomplete headers"))?;
    let (head, body) = answer.split_at(end);
    let status = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    if status != b"200" {
        bail!("the mirror refused: {}", Printable(reason(&body[4..])));
    }
    Ok(&body[4..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let good = b"HTTP/1.0 200 OK\r\ncontent-type: x\r\n\r\n{}";
        assert_eq!(body(good).unwrap(), b"{}");
        let bad = body(b"HTTP/1.1 403 Forbidden\r\n\r\nno").unwrap_err();
        assert!(bad.to_string().contains("refused: no"));
        let bad = body(b"HTTP/1.1 403 Forbidden\r\n\r\n{\"error\":\"n\\u001b\"}").unwrap_err();
        assert!(bad.to_string().contains("refused: n\u{fffd}"), "{bad}");
        for cut in 0..good.len() - 2 {
            // Any input is an answer or an error, never a panic.
            let _ = body(&good[..cut]);
        }
    }

    #[test]
    fn nobody_there_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        assert!(get::<()>(&path, "/status").unwrap().is_none());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(get::<()>(&path, "/status").unwrap().is_none());
    }
}
