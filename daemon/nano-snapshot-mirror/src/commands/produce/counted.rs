//! Reading with progress.

use std::fs::File;
use std::io::{self, Read};

use tokio_util::sync::CancellationToken;

use crate::progress::Meter;

/// A reader that counts the bytes to be packed and fails when cancelled.
pub(super) struct Counted<'a> {
    inner: File,
    done: u64,
    meter: Meter,
    stop: &'a CancellationToken,
}

impl<'a> Counted<'a> {
    pub(super) fn new(inner: File, meter: Meter, stop: &'a CancellationToken) -> Self {
        Self {
            inner,
            done: 0,
            meter,
            stop,
        }
    }
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        let read = self.inner.read(buffer)?;
        self.done += read as u64;
        self.meter.set(self.done, None);
        Ok(read)
    }
}
