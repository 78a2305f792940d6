//! `--from-url`: a ledger or an archive of one from a web server.
//!
//! What was received stays in `downloads/` with what the server said of it, and the next attempt or run
//! asks for the rest, on the condition that it is still the same (RFC 9110, 13.1.5 "If-Range"). What is not
//! what it should be is noticed by its first bytes and by its length.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use bittorrent_session::{HttpClient, HttpError, HttpUrl, next_chunk};
use file_kit::json_file;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use ledger_archive::LedgerFormat;
use serde::{Deserialize, Serialize};
use snapshot_store::{DataDir, StreamName, space};
use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::memory::Resource;
use crate::progress::{ProgressDisplay, WorkKind};
use crate::text::Bytes;

/// Attempts in a row that bring nothing before it is given up.
const TRIES: u32 = 5;

/// Pause after the first of them; doubled each time.
const PAUSE: Duration = Duration::from_secs(1);

/// Bytes from one sync to the next: what an interruption may lose of a download.
const SYNC_EVERY: u64 = 32 << 20;

/// What is known of the part that is here.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Part {
    resource: Resource,
    /// Bytes of it that are on disk. What a file has behind them is not believed: after a power
    /// failure it may be anything.
    synced: u64,
}

/// Something that was downloaded.
pub(super) struct Downloaded {
    pub(super) path: PathBuf,
    pub(super) format: LedgerFormat,
    pub(super) resource: Resource,
    /// What the server calls it.
    pub(super) name: String,
    note: PathBuf,
}

impl Downloaded {
    /// It was made use of.
    pub(super) fn forget(self) {
        // What cannot be removed is found not to be whole next time.
        let _ = fs::remove_file(&self.note);
        let _ = fs::remove_file(&self.path);
    }
}

/// How a download ended.
pub(super) enum Fetched {
    /// It is what it was when a snapshot was made of it.
    Unchanged,
    Whole(Downloaded),
    /// We were asked to stop.
    Stopped,
}

/// Gets what is at `url`, unless it is still what is `known`.
pub(super) async fn fetch(
    url: &HttpUrl,
    known: Option<&Resource>,
    data: &DataDir,
    stream: &StreamName,
    display: &ProgressDisplay,
    stop: &CancellationToken,
) -> Result<Fetched> {
    let dir = data.downloads();
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let agent = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
    let download = Download {
        url,
        known,
        client: block_in_place(|| HttpClient::new(agent)),
        part: dir.join(format!("{}.part", stream.as_str())),
        note: dir.join(format!("{}.json", stream.as_str())),
        display,
        stop,
    };
    download.run().await
}

struct Download<'a> {
    url: &'a HttpUrl,
    known: Option<&'a Resource>,
    client: HttpClient,
    part: PathBuf,
    note: PathBuf,
    display: &'a ProgressDisplay,
    stop: &'a CancellationToken,
}

/// Why an attempt ended early.
enum Broken {
    /// Another one may bring more.
    Again(anyhow::Error),
    Fatal(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Broken {
    fn from(error: E) -> Self {
        Self::Fatal(error.into())
    }
}

impl Download<'_> {
    async fn run(&self) -> Result<Fetched> {
        let links = self.part.metadata().map_or(0, |metadata| metadata.nlink());
        if links > 1 {
            // A snapshot was made of it, and the run ended before it was forgotten. It must not change.
            self.start_over()?;
        }
        let mut tries = 0;
        let mut pause = PAUSE;
        let synced = || self.noted().map_or(0, |part| part.synced);
        let mut most = synced();
        loop {
            let attempt = tokio::select! {
                () = self.stop.cancelled() => return Ok(Fetched::Stopped),
                attempt = self.attempt() => attempt,
            };
            let error = match attempt {
                Ok(fetched) => return Ok(fetched),
                Err(Broken::Fatal(error)) => return Err(error),
                Err(Broken::Again(error)) => error,
            };
            // More than ever: a server that says something else each time is given up.
            if synced() > most {
                most = synced();
                tries = 0;
                pause = PAUSE;
            }
            tries += 1;
            if tries == TRIES {
                return Err(error.context(format!(
                    "{} is not downloaded; what is here is kept for the next run",
                    self.url
                )));
            }
            warn!("trying again in {} s: {error:#}", pause.as_secs());
            tokio::select! {
                () = self.stop.cancelled() => return Ok(Fetched::Stopped),
                () = tokio::time::sleep(pause) => {}
            }
            pause *= 2;
        }
    }

    /// What of it is here, if the rest of it can be asked for.
    fn noted(&self) -> Option<Part> {
        let mut part = json_file::read_or_default::<Option<Part>>(&self.note)?;
        let there = self.part.metadata().map_or(0, |metadata| metadata.len());
        part.synced = part.synced.min(there);
        (part.resource.is_at(self.url) && self.validator(&part.resource).is_some()).then_some(part)
    }

    fn has_query(&self) -> bool {
        self.url.uri().query().is_some()
    }

    /// What the server can be asked by whether something is still the same: a strong entity tag, or else a
    /// date (RFC 9110, 8.8). Not a date where the URL has a query, which may name one of several files and is
    /// not kept, because it may be a secret.
    fn validator<'r>(&self, resource: &'r Resource) -> Option<&'r str> {
        validator(resource, self.has_query())
    }

    /// Makes what is here durable, and notes it.
    fn keep(&self, file: &File, resource: &Resource, synced: u64) -> Result<()> {
        block_in_place(|| {
            file.sync_data()
                .with_context(|| format!("cannot sync {}", self.part.display()))?;
            let part = Part {
                resource: resource.clone(),
                synced,
            };
            Ok(json_file::write(&self.note, &part)?)
        })
    }

    async fn attempt(&self) -> Result<Fetched, Broken> {
        let noted = self.noted().filter(|part| part.synced > 0);
        let mut headers = HeaderMap::new();
        // At least a byte, so that the server says whether it is the same even when all is here.
        let from = noted.as_ref().map_or(0, |part| {
            part.synced.min(part.resource.length.saturating_sub(1))
        });
        let noted = noted.map(|part| part.resource);
        if let Some(noted) = &noted {
            set(&mut headers, header::RANGE, &format!("bytes={from}-"));
            set(
                &mut headers,
                header::IF_RANGE,
                self.validator(noted).unwrap_or_default(),
            );
        } else if let Some(known) = self.known {
            if let Some(etag) = &known.etag {
                set(&mut headers, header::IF_NONE_MATCH, etag);
            }
            if !self.has_query()
                && let Some(modified) = &known.last_modified
            {
                set(&mut headers, header::IF_MODIFIED_SINCE, modified);
            }
        }
        let answer = match self.client.get_with(self.url.uri(), &headers).await {
            Ok(answer) => answer,
            Err(HttpError::Status(StatusCode::NOT_MODIFIED, _)) if self.known.is_some() => {
                return Ok(Fetched::Unchanged);
            }
            Err(error) => return Err(judged(error)),
        };
        match (answer.status(), noted) {
            (StatusCode::PARTIAL_CONTENT, Some(noted)) => {
                let range = text(&answer, header::CONTENT_RANGE).unwrap_or_default();
                if range != format!("bytes {from}-{}/{}", noted.length - 1, noted.length) {
                    self.start_over()?;
                    return Err(Broken::Again(anyhow!(
                        "the server gives bytes {range:?} where others were asked for"
                    )));
                }
                info!(here_bytes = from, "going on where the last download ended");
                self.receive(answer, noted, from).await
            }
            (StatusCode::OK, _) => {
                let resource = self.described(&answer)?;
                // Servers that know no conditions.
                if self.validator(&resource).is_some() && self.known == Some(&resource) {
                    return Ok(Fetched::Unchanged);
                }
                self.start_over()?;
                self.receive(answer, resource, 0).await
            }
            (status, _) => Err(Broken::Fatal(anyhow!(
                "{} answers {status} where {} was asked for",
                self.url,
                if from > 0 { "the rest" } else { "all of it" },
            ))),
        }
    }

    /// Forgets what is here. The note goes first: it must not be about something else.
    fn start_over(&self) -> Result<()> {
        for path in [&self.note, &self.part] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn described(&self, answer: &Response<Incoming>) -> Result<Resource> {
        let length = text(answer, header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let Some(length) = length else {
            bail!(
                "{} sends no Content-Length, without which a broken download could not be \
                 recognised",
                self.url
            );
        };
        Ok(Resource {
            url: self.url.to_string(),
            etag: text(answer, header::ETAG),
            last_modified: text(answer, header::LAST_MODIFIED),
            length,
        })
    }

    /// Writes the answer from byte `from` on.
    async fn receive(
        &self,
        answer: Response<Incoming>,
        resource: Resource,
        from: u64,
    ) -> Result<Fetched, Broken> {
        let dir = self.part.parent().unwrap_or(Path::new("/"));
        space::ensure(dir, resource.length - from, "the download")?;
        let failed = || format!("cannot write {}", self.part.display());
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&self.part)
            .with_context(failed)?;
        file.set_len(from).with_context(failed)?;
        file.seek(SeekFrom::Start(from)).with_context(failed)?;
        let mut done = from;
        let mut kept = from;
        let mut format = None;
        let mut meter = self.display.start(WorkKind::Download, resource.length);
        let mut body = answer.into_body();
        loop {
            let chunk = match next_chunk(&mut body).await {
                Ok(chunk) => chunk,
                Err(error) => {
                    self.keep(&file, &resource, done)?;
                    return Err(judged(error));
                }
            };
            if let Some(chunk) = &chunk {
                done += chunk.len() as u64;
                if done > resource.length {
                    return Err(Broken::Fatal(anyhow!(
                        "{} sends more than the {} bytes it says",
                        self.url,
                        resource.length
                    )));
                }
                block_in_place(|| file.write_all(chunk)).with_context(failed)?;
                meter.set(done, None);
            }
            if format.is_none() && (done >= LedgerFormat::HEADER_LEN as u64 || chunk.is_none()) {
                let Ok(known) = ledger_archive::detect(&self.part) else {
                    // It would be refused for ever.
                    self.start_over()?;
                    return Err(Broken::Fatal(anyhow!(
                        "what is at {} is neither a ledger nor a tar.zst nor a 7z archive",
                        self.url
                    )));
                };
                format = Some(known);
            }
            if chunk.is_none() {
                break;
            }
            if done - kept >= SYNC_EVERY {
                self.keep(&file, &resource, done)?;
                kept = done;
            }
        }
        self.keep(&file, &resource, done)?;
        if done < resource.length {
            return Err(Broken::Again(anyhow!(
                "{} broke off after {} of {}",
                self.url,
                Bytes(done),
                Bytes(resource.length)
            )));
        }
        drop(meter);
        info!(
            format = format.map(tracing::field::debug),
            "downloaded {}",
            Bytes(resource.length)
        );
        Ok(Fetched::Whole(Downloaded {
            path: self.part.clone(),
            format: format.context("an empty file has no format")?,
            resource,
            name: name_of(self.url),
            note: self.note.clone(),
        }))
    }
}

fn validator(resource: &Resource, by_tag_only: bool) -> Option<&str> {
    let strong = |tag: &&str| !tag.starts_with("W/");
    let etag = resource.etag.as_deref().filter(strong);
    let date = resource.last_modified.as_deref();
    etag.or(date.filter(|_| !by_tag_only))
}

/// Whether another attempt may end better.
fn judged(error: HttpError) -> Broken {
    match &error {
        HttpError::Status(status, _)
            if status.is_client_error() && *status != StatusCode::TOO_MANY_REQUESTS =>
        {
            Broken::Fatal(error.into())
        }
        HttpError::Redirection(_) | HttpError::TooLong(_) => Broken::Fatal(error.into()),
        _ => Broken::Again(error.into()),
    }
}

/// A header's value. Visible ASCII, as `to_str` has no others.
fn text(answer: &Response<Incoming>, name: HeaderName) -> Option<String> {
    Some(answer.headers().get(name)?.to_str().ok()?.to_owned())
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // Everything here came out of a header, or is a number.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// The last part of a URL's path, as far as it can be a file name anywhere.
fn name_of(url: &HttpUrl) -> String {
    let last = url.uri().path().rsplit('/').next().unwrap_or_default();
    let plain = |c: &char| c.is_ascii_alphanumeric() || ".-_".contains(*c);
    let name: String = last.chars().filter(plain).take(100).collect();
    match name.trim_start_matches('.') {
        "" => "ledger".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_give_file_names() {
        for (url, name) in [
            (
                "http://h/snapshots/Nano_64_2026_04.7z?x=1",
                "Nano_64_2026_04.7z",
            ),
            ("http://h/", "ledger"),
            ("http://h/a/..", "ledger"),
            ("http://h/a/%2e%2e%2fb", "2e2e2fb"),
            ("http://h/.hidden", "hidden"),
        ] {
            assert_eq!(name_of(&url.parse().unwrap()), name, "{url}");
        }
    }

    #[test]
    fn weak_tags_do_not_join_parts() {
        let resource = |etag: Option<&str>, modified: Option<&str>| Resource {
            url: String::new(),
            etag: etag.map(str::to_owned),
            last_modified: modified.map(str::to_owned),
            length: 1,
        };
        for (etag, modified, found, by_tag) in [
            (Some("\"a\""), Some("m"), Some("\"a\""), Some("\"a\"")),
            (Some("W/\"a\""), Some("m"), Some("m"), None),
            (Some("W/\"a\""), None, None, None),
            (None, None, None, None),
        ] {
            let resource = resource(etag, modified);
            assert_eq!(validator(&resource, false), found);
            assert_eq!(validator(&resource, true), by_tag);
        }
    }
}
