//! RC4, as the handshake uses it: without its first bytes.

use std::fmt;

/// The first bytes of the key stream, which are discarded because they leak information on the key.
const DISCARDED: usize = 1_024;

/// A key stream.
#[derive(Clone)]
pub struct Rc4 {
    state: [u8; 256],
    i: u8,
    j: u8,
}

impl Rc4 {
    /// The key stream behind the bytes that are thrown away.
    pub(super) fn new(key: &[u8; 20]) -> Self {
        let mut stream = Self::from_key(key);
        let mut discarded = [0; DISCARDED];
        stream.apply(&mut discarded);
        stream
    }

    fn from_key(key: &[u8]) -> Self {
        let mut state = [0; 256];
        for (at, byte) in (0..=u8::MAX).zip(&mut state) {
            *byte = at;
        }
        let mut j = 0_u8;
        for (i, key) in (0..=u8::MAX).zip(key.iter().cycle()) {
            j = j.wrapping_add(state[usize::from(i)]).wrapping_add(*key);
            state.swap(usize::from(i), usize::from(j));
        }
        Self { state, i: 0, j: 0 }
    }

    /// Encrypts or decrypts the next bytes of a stream.
    pub fn apply(&mut self, bytes: &mut [u8]) {
        let Self { state, i, j } = self;
        for byte in bytes {
            *i = i.wrapping_add(1);
            let a = state[usize::from(*i)];
            *j = j.wrapping_add(a);
            let b = state[usize::from(*j)];
            state[usize::from(*i)] = b;
            state[usize::from(*j)] = a;
            *byte ^= state[usize::from(a.wrapping_add(b))];
        }
    }
}

impl fmt::Debug for Rc4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rc4")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6229, "Test Vectors", at offsets 0 and 1024 of each key.
    #[test]
    fn key_streams_are_those_of_the_specification() {
        let long: Vec<u8> = (1..=16).collect();
        for (key, at_0, at_1024) in [
            (
                &long[..5],
                "b2396305f03dc027ccc3524a0a1118a8",
                "30abbcc7c20b01609f23ee2d5f6bb7df",
            ),
            (
                &long[..16],
                "9ac7cc9a609d1ef7b2932899cde41b97",
                "bdf0324e6083dcc6d3cedd3ca8c53c16",
            ),
        ] {
            let mut bytes = [0; 1_040];
            let mut stream = Rc4::from_key(key);
            // However it is cut.
            let (first, rest) = bytes.split_at_mut(7);
            stream.apply(first);
            stream.apply(rest);
            let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
            assert_eq!(hex(&bytes[..16]), at_0);
            assert_eq!(hex(&bytes[1_024..]), at_1024);
        }
    }

    #[test]
    fn the_first_bytes_are_thrown_away() {
        let key = [7; 20];
        let mut whole = [0; DISCARDED + 16];
        Rc4::from_key(&key).apply(&mut whole);
        let mut bytes = [0; 16];
        Rc4::new(&key).apply(&mut bytes);
        assert_eq!(bytes, whole[DISCARDED..]);
    }
}
