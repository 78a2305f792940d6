//! Sending: short messages first, then requested blocks, and the reads from disk that blocks need.

use std::io;

use bytes::Buf as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::upload::Progress;
use super::{Peer, PeerError};
use crate::disk::{Read, ReadAnswer, ReadReply};
use crate::error::Causes;
use crate::link::PeerMessage;

/// Up to this many bytes of short messages need no turn under a rate limit, but are charged. A full
/// queue of requests fits.
pub(super) const MAX_URGENT: usize = 32 << 10;

/// Payload bytes after which the driver is informed, at the latest.
const UPLOAD_REPORT: u64 = 1 << 20;

impl Peer {
    /// Sends queued data: short messages first, then blocks.
    pub(super) fn send(&mut self) -> Result<(), PeerError> {
        match self.stream.flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            result => result.map_err(PeerError::Socket)?,
        }
        loop {
            if !self.throttles.upload.is_waiting() {
                self.serve_long_answers();
            }
            if !self.uploads.is_mid_block() && !self.flush().map_err(PeerError::Socket)? {
                return Ok(());
            }
            let limited = self.throttles.upload.is_limited() && self.uploads.is_sendable();
            let mut most = usize::MAX;
            if limited {
                most = self.throttles.upload.allowance(Instant::now());
                if most == 0 {
                    return Ok(());
                }
            }
            if !self.outbox.is_empty() {
                // Short messages follow the block that is partly sent. Otherwise a busy connection
                // would delay them until nothing is left to upload.
                most = most.min(self.uploads.left_of_block());
            }
            let progress = self
                .uploads
                .serve(&mut self.stream, self.content.as_ref(), most)
                .map_err(PeerError::Socket)?;
            if limited {
                self.throttles.upload.settle(self.uploads.take_sent());
            }
            if self.uploads.unreported() > 0 {
                self.last_sent = Instant::now();
                if self.uploads.unreported() >= UPLOAD_REPORT {
                    self.report_upload();
                }
            }
            if progress == Progress::Cold {
                self.request_read();
            }
            // Messages that waited for the end of a block can be sent now.
            let again = !self.outbox.is_empty() && !self.uploads.is_mid_block();
            if !again {
                return Ok(());
            }
        }
    }

    /// Sends short messages. Returns whether all are sent.
    fn flush(&mut self) -> io::Result<bool> {
        let throttle = &mut self.throttles.upload;
        while !self.outbox.is_empty() {
            // Requests and similar messages are short and must not wait behind content.
            let patient = throttle.is_limited() && self.outbox.len() > MAX_URGENT;
            let bytes = if patient {
                let most = throttle.allowance(Instant::now());
                self.outbox.get(..most).unwrap_or(&self.outbox)
            } else {
                &self.outbox
            };
            if bytes.is_empty() {
                return Ok(false);
            }
            let written = self.stream.try_send(bytes);
            if throttle.is_limited() {
                let sent = *written.as_ref().unwrap_or(&0);
                if patient {
                    throttle.settle(sent);
                } else {
                    throttle.charge(sent, Instant::now());
                }
            }
            match written {
                Ok(sent) => {
                    self.outbox.advance(sent);
                    self.last_sent = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    pub(super) fn report_upload(&mut self) {
        let bytes = self.uploads.take_unreported();
        if bytes > 0 {
            self.messages.push(PeerMessage::Uploaded(bytes));
        }
    }

    /// Requests permits for the memory of the next read.
    pub(super) fn request_read(&mut self) {
        if self.read_request.is_some() {
            return;
        }
        let hashes = self.services.next_hash_read(self.outbox.len());
        self.read_request = hashes.or_else(|| {
            let content = self.content.as_ref()?;
            self.uploads.next_read(content)
        });
    }

    pub(super) fn start_read(&mut self, permit: OwnedSemaphorePermit) {
        let Some(content) = &self.content else {
            return;
        };
        let read = match self.services.start_hash_read() {
            Some(request) => Read::Hashes(request),
            None => Read::Ranges(self.uploads.start_read(&permit)),
        };
        if matches!(&read, Read::Ranges(ranges) if ranges.is_empty()) {
            return;
        }
        let (store, reply) = (content.store().clone(), self.answer_to.clone());
        self.context.readers.submit(store, read, permit, reply);
        self.request_read();
    }

    pub(super) fn take_answer(
        &mut self,
        ReadReply { answer, permit }: ReadReply,
    ) -> Result<(), PeerError> {
        match answer {
            ReadAnswer::Ranges(result) => {
                if let Err(unread) = self.uploads.finish_read(result, permit) {
                    if unread.torn {
                        return Err(PeerError::Torn(unread.error));
                    }
                    tracing::error!(
                        peer = %self.addr,
                        error = %Causes(&unread.error),
                        "cannot read blocks to serve them"
                    );
                    for request in unread.lost {
                        self.reject(request);
                    }
                }
            }
            ReadAnswer::Hashes(request, result) => self.send_hashes(request, result),
        }
        self.request_read();
        Ok(())
    }
}
