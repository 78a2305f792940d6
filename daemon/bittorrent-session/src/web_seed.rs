//! Web seeds (BEP 19): file servers that have the torrent's files. To the engine a web seed is a
//! peer that has everything and never chokes, so its blocks are picked, verified and blamed like
//! those of a peer. Requests for adjacent blocks become one request for a range of bytes.

mod url;

use std::collections::{BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::Arc;

use bittorrent_engine::{Command, PeerEvent};
use bittorrent_protocol::metainfo::Info;
use bittorrent_protocol::wire::{ExtendedHandshake, Request};
use bittorrent_protocol::{BlockIndex, FileIndex, merkle};
use bytes::BytesMut;
use hyper::body::Incoming;
use hyper::{Response, StatusCode, header};
use tokio::time::{Instant, sleep_until};

use crate::disk::ReceivedBlock;
use crate::disk::content::StoredContent;
use crate::http::{HttpClient, HttpError, next_chunk};
use crate::link::{Instruction, LinkEnd, PeerBatch, PeerMessage};
pub use url::{InvalidWebSeedUrl, WebSeedUrl};

/// Blocks in one request: 16 MiB. A fast server needs a moment for it, and a slow one is not
/// overloaded.
const MAX_BLOCKS: usize = 1_024;

/// Why a web seed, or a file of it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebSeedError {
    #[error("the request failed")]
    Http(#[source] HttpError),
    #[error("the server does not have file {0}")]
    NotThere(FileIndex),
    #[error("file {file} has {found} bytes on the server, but {expected} in the torrent")]
    OtherFile {
        file: FileIndex,
        expected: u64,
        found: u64,
    },
    #[error("the server does not support byte ranges")]
    NoRanges,
    #[error("the response is shorter than announced")]
    Short,
}

/// What the driver gives to a new web seed.
pub(crate) struct Start {
    pub(crate) link: LinkEnd,
    pub(crate) url: WebSeedUrl,
    /// Files that the server turned out not to have.
    pub(crate) lacks: BTreeSet<FileIndex>,
    pub(crate) http: HttpClient,
    pub(crate) info: Arc<Info>,
    pub(crate) content: Arc<StoredContent>,
}

/// The task ends because it was cancelled or the session ends.
struct Stopped;

struct WebSeed {
    start: Start,
    inbox: Vec<Instruction>,
    /// Blocks that the engine requested and that are not requested from the server yet.
    wanted: VecDeque<BlockIndex>,
    /// Blocks of the current HTTP request that have not arrived and were not cancelled.
    requested: BTreeSet<BlockIndex>,
    messages: Vec<PeerMessage>,
}

/// Serves the engine's requests until it is cancelled or the server fails.
pub(crate) async fn run(start: Start) -> Result<(), WebSeedError> {
    let mut seed = WebSeed {
        start,
        inbox: Vec::new(),
        wanted: VecDeque::new(),
        requested: BTreeSet::new(),
        messages: Vec::new(),
    };
    seed.send_extensions();
    loop {
        if seed.report().await.is_err() {
            return Ok(());
        }
        let Some(run) = seed.next_run() else {
            if seed.wait_for_instructions().await.is_err() {
                return Ok(());
            }
            continue;
        };
        match seed.fetch(&run).await {
            Ok(Ok(())) => {}
            Ok(Err(Stopped)) => return Ok(()),
            Err(error) => {
                // Blocks that arrived before the failure count.
                let _ = seed.report().await;
                return Err(error);
            }
        }
    }
}

/// Adjacent blocks of a file.
struct Run {
    file: FileIndex,
    blocks: Vec<BlockIndex>,
    first: u64,
    last: u64,
}

impl WebSeed {
    /// Sends the engine the messages of a peer that has everything.
    fn send_extensions(&mut self) {
        let layout = self.start.content.layout();
        let extensions = ExtendedHandshake {
            reqq: Some(MAX_BLOCKS as u32),
            client: Some(format!("web seed {}", self.start.url)),
            upload_only: Some(true),
            ..ExtendedHandshake::default()
        };
        let has = if self.start.lacks.is_empty() {
            PeerEvent::HaveAll
        } else {
            let mut bits = vec![0_u8; layout.piece_count().div_ceil(8) as usize];
            for piece in layout.piece_indices() {
                if !self.start.lacks.contains(&layout.file_of(piece))
                    && let Some(byte) = bits.get_mut(piece.as_usize() / 8)
                {
                    *byte |= 0x80 >> (piece.get() % 8);
                }
            }
            PeerEvent::Bitfield(bits)
        };
        let events = [PeerEvent::Extensions(extensions), has, PeerEvent::Unchoke];
        self.messages.extend(events.map(PeerMessage::Event));
    }

    /// Sends the messages to the driver.
    async fn report(&mut self) -> Result<(), Stopped> {
        if self.messages.is_empty() {
            return Ok(());
        }
        let batches = self.start.link.context.batches.clone();
        let slot = self.while_applying(batches.reserve()).await?;
        slot.map_err(|_| Stopped)?.send(PeerBatch {
            peer: self.start.link.key,
            messages: std::mem::take(&mut self.messages),
        });
        Ok(())
    }

    /// Waits for `work` and applies instructions meanwhile.
    async fn while_applying<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Stopped> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                () = self.start.link.cancel.cancelled() => return Err(Stopped),
                () = self.start.link.instructions.changed() => self.apply_instructions(),
                done = &mut work => return Ok(done),
            }
        }
    }

    /// Waits for instructions and applies them.
    async fn wait_for_instructions(&mut self) -> Result<(), Stopped> {
        tokio::select! {
            biased;
            () = self.start.link.cancel.cancelled() => Err(Stopped),
            () = self.start.link.instructions.changed() => {
                self.apply_instructions();
                Ok(())
            }
        }
    }

    fn apply_instructions(&mut self) {
        let mut inbox = std::mem::take(&mut self.inbox);
        self.start.link.instructions.take_all(&mut inbox);
        for instruction in inbox.drain(..) {
            match instruction {
                Instruction::Send(Command::Request(blocks)) => self.wanted.extend(blocks),
                Instruction::Send(Command::Cancel(blocks)) => self.cancel(&blocks),
                Instruction::Limit(throttles) => self.start.link.throttles = *throttles,
                // Other instructions mean nothing to a file server.
                Instruction::Send(_) | Instruction::Info(_) | Instruction::Attach(_) => {}
            }
        }
        self.inbox = inbox;
    }

    fn cancel(&mut self, blocks: &[BlockIndex]) {
        for block in blocks {
            let waiting = self.wanted.iter().position(|wanted| wanted == block);
            let waiting = waiting.and_then(|at| self.wanted.remove(at)).is_some();
            if waiting || self.requested.remove(block) {
                let request = Request::for_block(self.start.content.layout(), *block);
                self.messages
                    .push(PeerMessage::Event(PeerEvent::Reject(request)));
            }
        }
    }

    /// Takes the blocks of the next request.
    fn next_run(&mut self) -> Option<Run> {
        let layout = self.start.content.layout();
        let locate = |block: BlockIndex| {
            let first = layout.offset_in_file(block.piece()) + u64::from(block.begin());
            let end = first + u64::from(layout.block_size(block));
            (layout.file_of(block.piece()), first, end)
        };
        let (file, first, mut end) = locate(*self.wanted.front()?);
        let mut blocks = Vec::new();
        while let Some(block) = self.wanted.front().copied() {
            let (of, from, to) = locate(block);
            if blocks.len() >= MAX_BLOCKS || (!blocks.is_empty() && (of, from) != (file, end)) {
                break;
            }
            end = to;
            blocks.push(block);
            self.wanted.pop_front();
        }
        Some(Run {
            file,
            blocks,
            first,
            last: end - 1,
        })
    }

    /// Requests a run of blocks and reports them as they arrive. Ends early when all of them are
    /// cancelled.
    async fn fetch(&mut self, run: &Run) -> Result<Result<(), Stopped>, WebSeedError> {
        self.requested = run.blocks.iter().copied().collect();
        let (http, info) = (self.start.http.clone(), self.start.info.clone());
        let url = self.start.url.of_file(&info, run.file);
        let url = url.ok_or(WebSeedError::NotThere(run.file))?;
        let answer = http.get(&url, Some((run.first, run.last)));
        let answer = match self.while_applying(answer).await {
            Ok(answer) => answer,
            Err(stopped) => return Ok(Err(stopped)),
        };
        let mut body = self.check(run, answer)?.into_body();
        let mut buffer = BytesMut::new();
        for (at, block) in run.blocks.iter().enumerate() {
            if self.requested.is_empty() {
                break;
            }
            let size = self.start.content.layout().block_size(*block);
            while buffer.len() < size as usize {
                if self.turn().await.is_err() {
                    return Ok(Err(Stopped));
                }
                let chunk = match self.while_applying(next_chunk(&mut body)).await {
                    Ok(chunk) => chunk.map_err(WebSeedError::Http)?,
                    Err(stopped) => return Ok(Err(stopped)),
                };
                let Some(chunk) = chunk else {
                    // A server may send less of a range than was requested (RFC 9110, 15.3.7).
                    return if at == 0 {
                        Err(WebSeedError::Short)
                    } else {
                        self.request_again(&run.blocks[at..]);
                        Ok(Ok(()))
                    };
                };
                self.start.link.throttles.download.settle(chunk.len());
                buffer.extend_from_slice(&chunk);
            }
            let data = buffer.split_to(size as usize).freeze();
            if !self.requested.remove(block) {
                continue;
            }
            let permits = self.start.link.context.write_permits.clone();
            let permit = match self.while_applying(permits.acquire_many_owned(size)).await {
                Ok(Ok(permit)) => permit,
                Ok(Err(_)) | Err(Stopped) => return Ok(Err(Stopped)),
            };
            let leaf = merkle::leaf(&data);
            let received = ReceivedBlock {
                block: *block,
                data,
                permit,
            };
            self.messages.push(PeerMessage::Block(received, leaf));
            if self.report().await.is_err() {
                return Ok(Err(Stopped));
            }
        }
        Ok(Ok(()))
    }

    /// Puts the blocks that a response left out in front of those still to be requested.
    fn request_again(&mut self, blocks: &[BlockIndex]) {
        for block in blocks.iter().rev() {
            if self.requested.remove(block) {
                self.wanted.push_front(*block);
            }
        }
    }

    /// Waits for the next turn under the rate limit.
    async fn turn(&mut self) -> Result<(), Stopped> {
        while self.start.link.throttles.download.is_limited()
            && self.start.link.throttles.download.allowance(Instant::now()) == 0
        {
            let Some(next) = self.start.link.throttles.next_turn() else {
                break;
            };
            self.while_applying(sleep_until(next)).await?;
            self.start.link.throttles.wake(Instant::now());
        }
        Ok(())
    }

    /// Checks that a response is the requested range of the right file.
    fn check(
        &self,
        run: &Run,
        answer: Result<Response<Incoming>, HttpError>,
    ) -> Result<Response<Incoming>, WebSeedError> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(HttpError::Status(
                StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::RANGE_NOT_SATISFIABLE,
                _,
            )) => return Err(WebSeedError::NotThere(run.file)),
            Err(error) => return Err(WebSeedError::Http(error)),
        };
        let expected = self.start.info.file(run.file).length();
        let header = |name| answer.headers().get(name)?.to_str().ok();
        let found = match answer.status() {
            StatusCode::PARTIAL_CONTENT => {
                let (first, total) = header(header::CONTENT_RANGE)
                    .and_then(content_range)
                    .ok_or(WebSeedError::NoRanges)?;
                if first != run.first {
                    return Err(WebSeedError::NoRanges);
                }
                total.unwrap_or(expected)
            }
            // The whole file: usable only if its start was requested.
            _ if run.first == 0 => header(header::CONTENT_LENGTH)
                .and_then(|length| length.parse().ok())
                .ok_or(WebSeedError::NoRanges)?,
            _ => return Err(WebSeedError::NoRanges),
        };
        if found != expected {
            return Err(WebSeedError::OtherFile {
                file: run.file,
                expected,
                found,
            });
        }
        Ok(answer)
    }
}

/// Returns the first byte and the length of the file from `bytes FIRST-LAST/LENGTH`; the length may
/// be `*`.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    Some((first.parse().ok()?, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_say_where_they_start_and_how_long_the_whole_is() {
        for (value, expected) in [
            ("bytes 0-99/1000", Some((0, Some(1000)))),
            ("bytes 5-9/*", Some((5, None))),
            ("bytes */1000", None),
            ("items 0-1/2", None),
            ("bytes 0-1", None),
            ("bytes -1-1/2", None),
            ("", None),
        ] {
            assert_eq!(content_range(value), expected, "{value}");
        }
    }
}
