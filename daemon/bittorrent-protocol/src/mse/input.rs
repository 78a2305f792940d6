//! What was received and not used yet.

use super::{MAX_PADDING, MseError, Rc4};

#[derive(Debug, Default)]
pub(super) struct Input(Vec<u8>);

impl Input {
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The first bytes, once all of them are there.
    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let first = *self.0.first_chunk::<N>()?;
        self.0.drain(..N);
        Some(first)
    }

    /// The first bytes, decrypted.
    pub(super) fn open<const N: usize>(&mut self, cipher: &mut Rc4) -> Option<[u8; N]> {
        let mut first = self.take::<N>()?;
        cipher.apply(&mut first);
        Some(first)
    }

    /// Drops padding together with the mark that ends it; false while the mark is not there.
    pub(super) fn skip_to(&mut self, mark: &[u8]) -> Result<bool, MseError> {
        let at = self.0.windows(mark.len()).position(|seen| seen == mark);
        match at {
            Some(at) if at <= MAX_PADDING => {
                self.0.drain(..at + mark.len());
                Ok(true)
            }
            None if self.0.len() < MAX_PADDING + mark.len() => Ok(false),
            _ => Err(MseError::Lost),
        }
    }

    /// Whether so many bytes are there.
    pub(super) fn has(&self, len: usize) -> bool {
        self.0.len() >= len
    }

    /// Drops encrypted padding, once all of it is there.
    pub(super) fn skip(&mut self, len: usize, cipher: &mut Rc4) -> bool {
        let whole = self.open_in_place(len, cipher);
        if whole {
            self.0.drain(..len);
        }
        whole
    }

    /// Decrypts the first bytes where they are; false while some are missing.
    pub(super) fn open_in_place(&mut self, len: usize, cipher: &mut Rc4) -> bool {
        let Some(bytes) = self.0.get_mut(..len) else {
            return false;
        };
        cipher.apply(bytes);
        true
    }

    pub(super) fn into_rest(self) -> Vec<u8> {
        self.0
    }
}
