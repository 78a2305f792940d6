//! `--from-url`: downloads a ledger, or an archive of one, from a web server.
//!
//! An incomplete download stays in `downloads/` with the server's metadata. The next attempt or run requests the rest
//! on the condition that the file is unchanged (RFC 9110, 13.1.5 "If-Range"). A file of an unknown format is detected
//! by its first bytes, a truncated one by its length.

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

/// Consecutive attempts without progress before the download fails.
const TRIES: u32 = 5;

/// The pause after the first failed attempt. It doubles after each further one.
const PAUSE: Duration = Duration::from_secs(1);

/// Bytes between two syncs: the most that an interruption may lose of a download.
const SYNC_EVERY: u64 = 32 << 20;

/// The metadata of a partial download.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Part {
    resource: Resource,
    /// Bytes that are durable on disk. Data in the file after them is discarded, as a power failure may have damaged
    /// it.
    synced: u64,
}

/// A completed download.
pub(super) struct Downloaded {
    pub(super) path: PathBuf,
    pub(super) format: LedgerFormat,
    pub(super) resource: Resource,
    /// The file name from the server's URL.
    pub(super) name: String,
    note: PathBuf,
}

impl Downloaded {
    /// Deletes the download after use.
    pub(super) fn forget(self) {
        // The next run detects a partial file that cannot be removed as incomplete.
        let _ = fs::remove_file(&self.note);
        let _ = fs::remove_file(&self.path);
    }
}

/// The result of a download.
pub(super) enum Fetched {
    /// The file is unchanged since a snapshot was built from it.
    Unchanged,
    Whole(Downloaded),
    /// The download was cancelled.
    Stopped,
}

/// Downloads the file at `url`, unless it is the same as `known`.
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
    /// A further attempt may get more data.
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
            // A snapshot was built from this file with a hard link, and the run ended before the file was deleted.
            // The file is content of a snapshot now and must not change.
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
            // Only more durable bytes than ever reset the counter. Otherwise a server whose answers differ each time
            // would be retried for ever.
            if synced() > most {
                most = synced();
                tries = 0;
                pause = PAUSE;
            }
            tries += 1;
            if tries == TRIES {
                return Err(error.context(format!(
                    "cannot download {}; the partial download is kept for the next run",
                    self.url
                )));
            }
            warn!("retrying in {} s: {error:#}", pause.as_secs());
            tokio::select! {
                () = self.stop.cancelled() => return Ok(Fetched::Stopped),
                () = tokio::time::sleep(pause) => {}
            }
            pause *= 2;
        }
    }

    /// Returns the metadata of the partial download if the rest can be requested.
    fn noted(&self) -> Option<Part> {
        let mut part = json_file::read_or_default::<Option<Part>>(&self.note)?;
        let there = self.part.metadata().map_or(0, |metadata| metadata.len());
        part.synced = part.synced.min(there);
        (part.resource.is_at(self.url) && self.validator(&part.resource).is_some()).then_some(part)
    }

    fn has_query(&self) -> bool {
        self.url.uri().query().is_some()
    }

    /// Returns the validator for a conditional request: a strong entity tag, or else a date (RFC 9110, 8.8). A date
    /// is not used if the URL has a query. The query may select one of several files, and it is not saved because it
    /// may be a secret.
    fn validator<'r>(&self, resource: &'r Resource) -> Option<&'r str> {
        validator(resource, self.has_query())
    }

    /// Syncs the partial download and saves its metadata.
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
        // The range has at least one byte, so that the server confirms the validator even if the download is
        // complete.
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
                        "the server sent bytes {range:?} instead of the requested ones"
                    )));
                }
                info!(here_bytes = from, "resuming the last download");
                self.receive(answer, noted, from).await
            }
            (StatusCode::OK, _) => {
                let resource = self.described(&answer)?;
                // Servers without support for conditional requests.
                if self.validator(&resource).is_some() && self.known == Some(&resource) {
                    return Ok(Fetched::Unchanged);
                }
                self.start_over()?;
                self.receive(answer, resource, 0).await
            }
            (status, _) => Err(Broken::Fatal(anyhow!(
                "{} answered {status} to a request for {}",
                self.url,
                if from > 0 {
                    "the rest"
                } else {
                    "the whole file"
                },
            ))),
        }
    }

    /// Deletes the partial download. The metadata is deleted first, as it must never describe another file.
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
                "{} sends no Content-Length, which is needed to detect a truncated \
                 download",
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

    /// Writes the body of the response, which starts at byte `from`.
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
                        "{} sent more than the announced {} bytes",
                        self.url,
                        resource.length
                    )));
                }
                block_in_place(|| file.write_all(chunk)).with_context(failed)?;
                meter.set(done, None);
            }
            if format.is_none() && (done >= LedgerFormat::HEADER_LEN as u64 || chunk.is_none()) {
                let Ok(known) = ledger_archive::detect(&self.part) else {
                    // Resuming would only fail again.
                    self.start_over()?;
                    return Err(Broken::Fatal(anyhow!(
                        "the file at {} is neither a ledger nor a tar.zst nor a 7z archive",
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
                "the download of {} broke off after {} of {}",
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

/// Classifies an error: whether a further attempt may succeed.
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

/// Returns the value of a header if it is visible ASCII, which is all that `to_str` accepts.
fn text(answer: &Response<Incoming>, name: HeaderName) -> Option<String> {
    Some(answer.headers().get(name)?.to_str().ok()?.to_owned())
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // All strings here are header values or numbers.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Returns the last segment of a URL's path, reduced to characters that every file system allows.
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
