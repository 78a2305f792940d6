//! Reads the primitive values of 7z headers.

use crate::error::Refusal;

/// Most files, streams and folders.
pub(super) const MAX_COUNT: u64 = 1 << 12;
const SHORT: &str = "it ends early";

pub(super) fn damaged(detail: &'static str) -> Refusal {
    Refusal::SevenZHeader { detail }
}

/// A cursor over the bytes of a header.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Refusal> {
        self.array().map(|[byte]| byte).ok_or(damaged(SHORT))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Refusal> {
        self.array().map(u32::from_le_bytes).ok_or(damaged(SHORT))
    }

    pub(super) fn bytes(&mut self, len: u64) -> Result<&'a [u8], Refusal> {
        let (bytes, rest) = usize::try_from(len)
            .ok()
            .and_then(|len| self.0.split_at_checked(len))
            .ok_or(damaged(SHORT))?;
        self.0 = rest;
        Ok(bytes)
    }

    /// Reads a number. The leading ones of its first byte count the bytes that follow.
    pub(super) fn number(&mut self) -> Result<u64, Refusal> {
        let first = self.byte()?;
        let more = first.leading_ones();
        let mut number = 0;
        for at in 0..more {
            number |= u64::from(self.byte()?) << (8 * at);
        }
        // The rest of the first byte is highest.
        if more < 7 {
            number |= u64::from(first & (0x7F >> more)) << (8 * more);
        }
        Ok(number)
    }

    /// Reads a count of entries. Each entry takes at least one bit of the header.
    pub(super) fn count(&mut self) -> Result<usize, Refusal> {
        match self.number()? {
            count @ 0..=MAX_COUNT => Ok(count as usize),
            _ => Err(Refusal::TooManyEntries),
        }
    }

    pub(super) fn expect(&mut self, id: u8, detail: &'static str) -> Result<(), Refusal> {
        if self.byte()? == id {
            Ok(())
        } else {
            Err(damaged(detail))
        }
    }

    /// Returns whether the next byte is `id`, and consumes it if so.
    pub(super) fn found(&mut self, id: u8) -> bool {
        match self.0 {
            [first, rest @ ..] if *first == id => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    pub(super) fn bits(&mut self, count: usize) -> Result<Vec<bool>, Refusal> {
        let bytes = self.bytes(count.div_ceil(8) as u64)?;
        let bits = bytes
            .iter()
            .flat_map(|byte| (0..8).map(move |bit| byte & (0x80 >> bit) != 0));
        Ok(bits.take(count).collect())
    }

    /// Reads a list of flags. It has a short form in which all are set.
    pub(super) fn all_or_bits(&mut self, count: usize) -> Result<Vec<bool>, Refusal> {
        match self.byte()? {
            0 => self.bits(count),
            _ => Ok(vec![true; count]),
        }
    }

    pub(super) fn checksums(&mut self, count: usize) -> Result<Vec<Option<u32>>, Refusal> {
        let defined = self.all_or_bits(count)?;
        defined
            .into_iter()
            .map(|defined| defined.then(|| self.u32()).transpose())
            .collect()
    }

    /// Reads a name in UTF-16 that ends with a zero.
    pub(super) fn name(&mut self) -> Result<Vec<u8>, Refusal> {
        let mut units = Vec::new();
        loop {
            let unit = self.array().map(u16::from_le_bytes).ok_or(damaged(SHORT))?;
            if unit == 0 {
                break;
            }
            units.push(unit);
        }
        let name = String::from_utf16(&units).map_err(|_| damaged("a name is not UTF-16"))?;
        Ok(name.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_7_zip_writes_them() {
        for (bytes, number) in [
            (&[0x00][..], 0),
            (&[0x7F], 0x7F),
            (&[0x80, 0x80], 0x80),
            (&[0xBF, 0xFF], 0x3FFF),
            (&[0xC0, 0x34, 0x12], 0x1234),
            (&[0xC1, 0x34, 0x12], 0x1_1234),
            (&[0xFE, 1, 2, 3, 4, 5, 6, 7], 0x07_0605_0403_0201),
            (&[0xFF, 1, 2, 3, 4, 5, 6, 7, 8], 0x0807_0605_0403_0201),
        ] {
            let mut reader = Reader(bytes);
            assert_eq!(reader.number().unwrap(), number, "{bytes:x?}");
            assert!(reader.0.is_empty(), "{bytes:x?}");
            let short = &bytes[..bytes.len() - 1];
            assert!(Reader(short).number().is_err(), "{short:x?}");
        }
    }
}
