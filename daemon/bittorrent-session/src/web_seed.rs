//! Web seeds (BEP 19): a file server that has the torrent's files. To the engine it is a peer that
//! has everything and never chokes; so its blocks are chosen, verified and blamed like those of
//! any peer. Requests for blocks side by side become one request for a range of bytes.

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

/// Blocks in one request: 16 MiB, so that it takes a fast server a moment and a slow one is not
/// given more than it can do.
const MOST_BLOCKS: usize = 1_024;

/// A web seed gives nothing, or nothing of a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebSeedError {
    #[error("the request failed")]
    Http(#[source] HttpError),
    #[error("file {0} is not there")]
    NotThere(FileIndex),
    #[error("file {file} has {found} bytes there, and {expected} in the torrent")]
    OtherFile {
        file: FileIndex,
        expected: u64,
        found: u64,
    },
    #[error("the server gives no ranges of bytes")]
    NoRanges,
    #[error("the answer ends before its end")]
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

/// The work stops: it was cancelled, or the session ends.
struct Stopped;

struct WebSeed {
    start: Start,
    inbox: Vec<Instruction>,
    /// Blocks wanted and not asked for yet.
    wanted: VecDeque<BlockIndex>,
    /// Blocks of the present request that are still to come and still wanted.
    asked: BTreeSet<BlockIndex>,
    messages: Vec<PeerMessage>,
}

/// Serves the engine's requests until it is cancelled or the server fails.
pub(crate) async fn run(start: Start) -> Result<(), WebSeedError> {
    let mut seed = WebSeed {
        start,
        inbox: Vec::new(),
        wanted: VecDeque::new(),
        asked: BTreeSet::new(),
        messages: Vec::new(),
    };
    seed.send_extensions();
    loop {
        if seed.report().await.is_err() {
            return Ok(());
        }
        let Some(run) = seed.next_run() else {
            if seed.obey().await.is_err() {
                return Ok(());
            }
            continue;
        };
        match seed.fetch(&run).await {
            Ok(Ok(())) => {}
            Ok(Err(Stopped)) => return Ok(()),
            Err(error) => {
                // What came before counts.
                let _ = seed.report().await;
                return Err(error);
            }
        }
    }
}

/// Blocks that lie side by side in a file.
struct Run {
    file: FileIndex,
    blocks: Vec<BlockIndex>,
    first: u64,
    last: u64,
}

impl WebSeed {
    /// Tells the engine what it is.
    fn send_extensions(&mut self) {
        let layout = self.start.content.layout();
        let extensions = ExtendedHandshake {
            reqq: Some(MOST_BLOCKS as u32),
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

    /// Hands the messages to the driver.
    async fn report(&mut self) -> Result<(), Stopped> {
        if self.messages.is_empty() {
            return Ok(());
        }
        let batches = self.start.link.context.batches.clone();
        let place = self.while_obeying(batches.reserve()).await?;
        place.map_err(|_| Stopped)?.send(PeerBatch {
            peer: self.start.link.key,
            messages: std::mem::take(&mut self.messages),
        });
        Ok(())
    }

    /// Waits for something, following instructions meanwhile.
    async fn while_obeying<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Stopped> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                () = self.start.link.cancel.cancelled() => return Err(Stopped),
                () = self.start.link.instructions.changed() => self.follow_all(),
                done = &mut work => return Ok(done),
            }
        }
    }

    /// Waits for instructions and follows them.
    async fn obey(&mut self) -> Result<(), Stopped> {
        tokio::select! {
            biased;
            () = self.start.link.cancel.cancelled() => Err(Stopped),
            () = self.start.link.instructions.changed() => {
                self.follow_all();
                Ok(())
            }
        }
    }

    fn follow_all(&mut self) {
        let mut inbox = std::mem::take(&mut self.inbox);
        self.start.link.instructions.take_all(&mut inbox);
        for instruction in inbox.drain(..) {
            match instruction {
                Instruction::Send(Command::Request(blocks)) => self.wanted.extend(blocks),
                Instruction::Send(Command::Cancel(blocks)) => self.cancel(&blocks),
                Instruction::Limit(throttles) => self.start.link.throttles = *throttles,
                // A file server has no use for anything else we could tell it.
                Instruction::Send(_) | Instruction::Info(_) | Instruction::Attach(_) => {}
            }
        }
        self.inbox = inbox;
    }

    fn cancel(&mut self, blocks: &[BlockIndex]) {
        for block in blocks {
            let waiting = self.wanted.iter().position(|wanted| wanted == block);
            let waiting = waiting.and_then(|at| self.wanted.remove(at)).is_some();
            if waiting || self.asked.remove(block) {
                let request = Request::for_block(self.start.content.layout(), *block);
                self.messages
                    .push(PeerMessage::Event(PeerEvent::Reject(request)));
            }
        }
    }

    /// Takes the blocks of the next request.
    fn next_run(&mut self) -> Option<Run> {
        let layout = self.start.content.layout();
        let place = |block: BlockIndex| {
            let first = layout.offset_in_file(block.piece()) + u64::from(block.begin());
            let end = first + u64::from(layout.block_size(block));
            (layout.file_of(block.piece()), first, end)
        };
        let (file, first, mut end) = place(*self.wanted.front()?);
        let mut blocks = Vec::new();
        while let Some(block) = self.wanted.front().copied() {
            let (of, from, to) = place(block);
            if blocks.len() >= MOST_BLOCKS || (!blocks.is_empty() && (of, from) != (file, end)) {
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

    /// Asks for a run of blocks and reports them as they arrive. Ends early when none of them is
    /// wanted any more.
    async fn fetch(&mut self, run: &Run) -> Result<Result<(), Stopped>, WebSeedError> {
        self.asked = run.blocks.iter().copied().collect();
        let (http, info) = (self.start.http.clone(), self.start.info.clone());
        let url = self.start.url.of_file(&info, run.file);
        let url = url.ok_or(WebSeedError::NotThere(run.file))?;
        let answer = http.get(&url, Some((run.first, run.last)));
        let answer = match self.while_obeying(answer).await {
            Ok(answer) => answer,
            Err(stopped) => return Ok(Err(stopped)),
        };
        let mut body = self.check(run, answer)?.into_body();
        let mut buffer = BytesMut::new();
        for (at, block) in run.blocks.iter().enumerate() {
            if self.asked.is_empty() {
                break;
            }
            let size = self.start.content.layout().block_size(*block);
            while buffer.len() < size as usize {
                if self.turn().await.is_err() {
                    return Ok(Err(Stopped));
                }
                let chunk = match self.while_obeying(next_chunk(&mut body)).await {
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
            if !self.asked.remove(block) {
                continue;
            }
            let permits = self.start.link.context.write_permits.clone();
            let permit = match self.while_obeying(permits.acquire_many_owned(size)).await {
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

    /// Puts the blocks that an answer left out in front of those still to be requested.
    fn request_again(&mut self, blocks: &[BlockIndex]) {
        for block in blocks.iter().rev() {
            if self.asked.remove(block) {
                self.wanted.push_front(*block);
            }
        }
    }

    /// Waits until more may come.
    async fn turn(&mut self) -> Result<(), Stopped> {
        while self.start.link.throttles.download.is_limited()
            && self.start.link.throttles.download.allowance(Instant::now()) == 0
        {
            let Some(next) = self.start.link.throttles.next_turn() else {
                break;
            };
            self.while_obeying(sleep_until(next)).await?;
            self.start.link.throttles.wake(Instant::now());
        }
        Ok(())
    }

    /// Whether an answer is the range that was asked for, of the file that was meant.
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
            // The whole file instead: of use only where we want its start.
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

/// First byte and length of the whole, from `bytes FIRST-LAST/LENGTH`; the length may be `*`.
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
