//! Writing canonical bencode.

use std::ops::Range;

/// Appends values to a buffer. The output is canonical as long as dictionary keys are written in
/// order, which debug builds check.
#[derive(Debug, Default)]
pub struct Encoder {
    out: Vec<u8>,
}

impl Encoder {
    /// Starts with nothing.
    pub const fn new() -> Self {
        Self { out: Vec::new() }
    }

    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }

    /// Writes a number.
    pub fn int(&mut self, int: i64) {
        self.number(b'i', int.unsigned_abs(), int < 0);
        self.out.push(b'e');
    }

    /// Writes a length or offset as a number.
    pub fn uint(&mut self, int: u64) {
        self.number(b'i', int, false);
        self.out.push(b'e');
    }

    /// Writes a byte string.
    pub fn bytes(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.length(bytes.len());
        self.out.extend_from_slice(bytes);
    }

    /// Writes a list; `items` writes its values.
    pub fn list(&mut self, items: impl FnOnce(&mut Self)) {
        self.out.push(b'l');
        items(self);
        self.out.push(b'e');
    }

    /// Writes a dictionary; `entries` writes its entries, sorted by key.
    pub fn dict(&mut self, entries: impl FnOnce(&mut DictEncoder<'_>)) {
        self.out.push(b'd');
        entries(&mut DictEncoder {
            encoder: self,
            last_key: None,
        });
        self.out.push(b'e');
    }

    /// Writes a value that is bencoded already.
    pub fn raw(&mut self, encoded: &[u8]) {
        self.out.extend_from_slice(encoded);
    }

    fn length(&mut self, length: usize) {
        self.out.extend_from_slice(length.to_string().as_bytes());
        self.out.push(b':');
    }

    fn number(&mut self, mark: u8, magnitude: u64, negative: bool) {
        self.out.push(mark);
        if negative {
            self.out.push(b'-');
        }
        self.out.extend_from_slice(magnitude.to_string().as_bytes());
    }
}

/// Writes the entries of a dictionary.
#[derive(Debug)]
pub struct DictEncoder<'e> {
    encoder: &'e mut Encoder,
    /// The position of the last key in the output.
    last_key: Option<Range<usize>>,
}

impl DictEncoder<'_> {
    /// Writes a key; the one value that belongs to it must be written next.
    pub fn key(&mut self, key: impl AsRef<[u8]>) -> &mut Encoder {
        let key = key.as_ref();
        debug_assert!(
            self.last_key
                .take()
                .is_none_or(|last| self.encoder.out[last] < *key),
            "dictionary key {key:?} is out of order"
        );
        self.encoder.bytes(key);
        let end = self.encoder.out.len();
        self.last_key = Some(end - key.len()..end);
        self.encoder
    }

    /// Writes an entry with a number.
    pub fn int(&mut self, key: impl AsRef<[u8]>, int: i64) {
        self.key(key).int(int);
    }

    /// Writes an entry with a byte string.
    pub fn bytes(&mut self, key: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) {
        self.key(key).bytes(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_bep_3_shows() {
        let mut encoder = Encoder::new();
        encoder.dict(|dict| {
            dict.bytes("cow", "moo");
            dict.int("debt", i64::MIN);
            dict.key("spam").list(|list| {
                list.bytes("a");
                list.int(0);
                list.uint(u64::MAX);
                list.raw(b"le");
            });
            dict.key("void").dict(|_| {});
        });
        assert_eq!(
            encoder.finish(),
            b"d3:cow3:moo4:debti-9223372036854775808e4:spaml1:ai0ei18446744073709551615elee4:voiddee"
        );
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "out of order")]
    fn keys_out_of_order_are_a_bug() {
        Encoder::new().dict(|dict| {
            dict.int("b", 1);
            dict.int("a", 1);
        });
    }
}
