//! Reading bencode.

use super::{BencodeError, Decoded, Dict, Flaw, FlawKind, Limits, Node, Value};

/// The greatest depth, whatever [`Limits::max_depth`] is, so that dropping a value is safe on any
/// stack.
const DEEPEST: usize = 256;

/// What to make of an integer that does not fit into an `i64`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Overflow {
    Refuse,
    Saturate,
}

/// Reads one value from the start of the input; bytes that follow it are not looked at.
pub fn decode<'a>(input: &'a [u8], limits: &Limits) -> Result<Decoded<'a>, BencodeError> {
    decode_with(input, limits, Overflow::Refuse)
}

/// Like [`decode`], but an integer outside the range of `i64` becomes the nearest one inside. For values that the reader bounds
/// anyway, such as a tracker's interval.
pub fn decode_saturating<'a>(
    input: &'a [u8],
    limits: &Limits,
) -> Result<Decoded<'a>, BencodeError> {
    decode_with(input, limits, Overflow::Saturate)
}

fn decode_with<'a>(
    input: &'a [u8],
    limits: &Limits,
    overflow: Overflow,
) -> Result<Decoded<'a>, BencodeError> {
    if input.len() > limits.max_len {
        return Err(BencodeError::TooLong {
            len: input.len(),
            max: limits.max_len,
        });
    }
    let mut decoder = Decoder {
        input,
        at: 0,
        tokens: 0,
        max_tokens: limits.max_tokens,
        overflow,
        flaws: Vec::new(),
    };
    let root = decoder.value(limits.max_depth.min(DEEPEST))?;
    Ok(Decoded {
        root,
        flaws: decoder.flaws,
        consumed: decoder.at,
    })
}

/// A list or dictionary whose end has not been read yet.
struct Open<'a> {
    start: usize,
    inside: Inside<'a>,
}

enum Inside<'a> {
    List(Vec<Node<'a>>),
    /// The entries, and the key of the next value.
    Dict(Vec<(&'a [u8], Node<'a>)>, &'a [u8]),
}

struct Decoder<'a> {
    input: &'a [u8],
    at: usize,
    tokens: usize,
    max_tokens: usize,
    overflow: Overflow,
    flaws: Vec<Flaw>,
}

impl<'a> Decoder<'a> {
    fn peek(&self) -> Result<u8, BencodeError> {
        self.input
            .get(self.at)
            .copied()
            .ok_or(BencodeError::UnexpectedEnd { offset: self.at })
    }

    fn count_token(&mut self) -> Result<(), BencodeError> {
        if self.tokens >= self.max_tokens {
            return Err(BencodeError::TooManyTokens {
                offset: self.at,
                max: self.max_tokens,
            });
        }
        self.tokens += 1;
        Ok(())
    }

    fn flaw(&mut self, kind: FlawKind, offset: usize) {
        if self.flaws.len() < Decoded::MAX_FLAWS {
            self.flaws.push(Flaw { kind, offset });
        }
    }

    fn since(&self, start: usize) -> &'a [u8] {
        // `at` only grows, and never past the end: every step takes bytes that were seen.
        self.input.get(start..self.at).unwrap_or_default()
    }

    fn value(&mut self, max_depth: usize) -> Result<Node<'a>, BencodeError> {
        let mut open: Vec<Open<'a>> = Vec::new();
        loop {
            // Read one value, or step into or out of a list or dictionary.
            let start = self.at;
            let first = self.peek()?;
            let node = match (first, open.last()) {
                (b'e', Some(_)) => {
                    self.at += 1;
                    // Just seen to be there.
                    let Some(Open { start, inside }) = open.pop() else {
                        return Err(BencodeError::UnexpectedEnd { offset: start });
                    };
                    let value = match inside {
                        Inside::List(list) => Value::List(list),
                        Inside::Dict(entries, _) => Value::Dict(Dict(entries)),
                    };
                    Node {
                        value,
                        raw: self.since(start),
                    }
                }
                (b'l' | b'd', _) => {
                    self.count_token()?;
                    if open.len() >= max_depth {
                        return Err(BencodeError::TooDeep {
                            offset: start,
                            max: max_depth,
                        });
                    }
                    self.at += 1;
                    let inside = match first {
                        b'l' => Inside::List(Vec::new()),
                        _ => Inside::Dict(Vec::new(), &[]),
                    };
                    open.push(Open { start, inside });
                    self.key(&mut open)?;
                    continue;
                }
                (b'i', _) => {
                    self.count_token()?;
                    let int = self.int()?;
                    Node {
                        value: Value::Int(int),
                        raw: self.since(start),
                    }
                }
                (b'0'..=b'9', _) => {
                    self.count_token()?;
                    let bytes = self.bytes()?;
                    Node {
                        value: Value::Bytes(bytes),
                        raw: self.since(start),
                    }
                }
                (byte, _) => {
                    return Err(BencodeError::UnexpectedByte {
                        offset: start,
                        byte,
                        expected: "a value",
                    });
                }
            };
            match open.last_mut() {
                None => return Ok(node),
                Some(Open {
                    inside: Inside::List(list),
                    ..
                }) => list.push(node),
                Some(Open {
                    inside: Inside::Dict(entries, key),
                    ..
                }) => entries.push((key, node)),
            }
            self.key(&mut open)?;
        }
    }

    /// Inside a dictionary that does not end here, reads the next key.
    fn key(&mut self, open: &mut [Open<'a>]) -> Result<(), BencodeError> {
        let Some(Open {
            inside: Inside::Dict(entries, key),
            ..
        }) = open.last_mut()
        else {
            return Ok(());
        };
        let offset = self.at;
        match self.peek()? {
            b'e' => return Ok(()),
            b'0'..=b'9' => {}
            byte => {
                return Err(BencodeError::UnexpectedByte {
                    offset,
                    byte,
                    expected: "a dictionary key",
                });
            }
        }
        self.count_token()?;
        let found = self.bytes()?;
        match entries.last().map(|(last, _)| (*last).cmp(found)) {
            Some(std::cmp::Ordering::Greater) => self.flaw(FlawKind::UnsortedKey, offset),
            Some(std::cmp::Ordering::Equal) => self.flaw(FlawKind::RepeatedKey, offset),
            _ => {}
        }
        *key = found;
        // A value must follow, not the end of the dictionary.
        match self.peek()? {
            b'e' => Err(BencodeError::UnexpectedByte {
                offset: self.at,
                byte: b'e',
                expected: "a value",
            }),
            _ => Ok(()),
        }
    }

    /// Reads digits up to a mark, and the mark.
    fn digits(&mut self, mark: u8) -> Result<&'a [u8], BencodeError> {
        let start = self.at;
        while self.peek()?.is_ascii_digit() {
            self.at += 1;
        }
        let digits = self.since(start);
        let byte = self.peek()?;
        if digits.is_empty() || byte != mark {
            return Err(BencodeError::UnexpectedByte {
                offset: self.at,
                byte,
                expected: "a digit or the end of a number",
            });
        }
        self.at += 1;
        if digits.len() > 1 && digits.first() == Some(&b'0') {
            self.flaw(FlawKind::LeadingZero, start);
        }
        Ok(digits)
    }

    fn int(&mut self) -> Result<i64, BencodeError> {
        let start = self.at;
        self.at += 1;
        let negative = self.peek()? == b'-';
        if negative {
            self.at += 1;
        }
        let digits = self.digits(b'e')?;
        if negative && digits == b"0" {
            self.flaw(FlawKind::LeadingZero, start);
        }
        // Counted downwards, since the lowest `i64` has no positive counterpart.
        let exact = digits
            .iter()
            .try_fold(0i64, |sum, digit| {
                sum.checked_mul(10)?.checked_sub(i64::from(digit - b'0'))
            })
            .and_then(|sum| {
                if negative {
                    Some(sum)
                } else {
                    sum.checked_neg()
                }
            });
        match (exact, self.overflow) {
            (Some(int), _) => Ok(int),
            (None, Overflow::Refuse) => Err(BencodeError::IntegerOverflow { offset: start }),
            (None, Overflow::Saturate) if negative => Ok(i64::MIN),
            (None, Overflow::Saturate) => Ok(i64::MAX),
        }
    }

    fn bytes(&mut self) -> Result<&'a [u8], BencodeError> {
        let start = self.at;
        let digits = self.digits(b':')?;
        let end = digits
            .iter()
            .try_fold(0usize, |sum, digit| {
                sum.checked_mul(10)?.checked_add(usize::from(digit - b'0'))
            })
            .and_then(|len| self.at.checked_add(len));
        let found = end.and_then(|end| self.input.get(self.at..end));
        let bytes = found.ok_or(BencodeError::StringPastEnd { offset: start })?;
        self.at += bytes.len();
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &str) -> Result<Decoded<'_>, BencodeError> {
        decode(input.as_bytes(), &Limits::MESSAGE)
    }

    #[test]
    fn integers() {
        for (text, int) in [
            ("i0e", 0),
            ("i7e", 7),
            ("i-1e", -1),
            ("i9223372036854775807e", i64::MAX),
            ("i-9223372036854775808e", i64::MIN),
        ] {
            let decoded = read(text).unwrap();
            assert_eq!(decoded.root.as_int(), Some(int), "{text}");
            assert!(decoded.flaws.is_empty(), "{text}");
            assert_eq!(decoded.consumed, text.len());
        }
        for bad in [
            "i9223372036854775808e",
            "i-9223372036854775809e",
            "i99999999999999999999999e",
        ] {
            assert_eq!(read(bad), Err(BencodeError::IntegerOverflow { offset: 0 }));
            let nearest = if bad.contains('-') {
                i64::MIN
            } else {
                i64::MAX
            };
            let decoded = decode_saturating(bad.as_bytes(), &Limits::MESSAGE).unwrap();
            assert_eq!(decoded.root.as_int(), Some(nearest), "{bad}");
        }
        for bad in [
            "ie", "i-e", "i+1e", "i 1e", "i1 e", "i--1e", "i1.0e", "i0x1e",
        ] {
            assert!(
                matches!(read(bad), Err(BencodeError::UnexpectedByte { .. })),
                "{bad}"
            );
        }
    }

    #[test]
    fn flaws_are_told_with_their_place() {
        use FlawKind::{LeadingZero, RepeatedKey, UnsortedKey};
        for (text, kind, offset) in [
            ("i07e", LeadingZero, 1),
            ("i00e", LeadingZero, 1),
            ("i-0e", LeadingZero, 0),
            ("i-07e", LeadingZero, 2),
            ("03:abc", LeadingZero, 0),
            ("d1:bi1e1:ai2ee", UnsortedKey, 7),
            ("d1:ai1e1:ai2ee", RepeatedKey, 7),
            ("ld2:bci1e1:bi2eee", UnsortedKey, 9),
        ] {
            let decoded = read(text).unwrap();
            assert_eq!(decoded.flaws, [Flaw { kind, offset }], "{text}");
        }
        let many = format!("l{}e", "i00e".repeat(100));
        assert_eq!(read(&many).unwrap().flaws.len(), Decoded::MAX_FLAWS);
    }

    #[test]
    fn values_know_their_bytes() {
        let text = "d4:infod1:ai1ee4:listl3:abcleee tail";
        let decoded = read(text).unwrap();
        assert_eq!(&text[decoded.consumed..], " tail");
        let dict = decoded.root.as_dict().unwrap();
        assert_eq!(dict.get("info").unwrap().raw(), b"d1:ai1ee");
        let list = dict.get("list").unwrap();
        assert_eq!(list.raw(), b"l3:abclee");
        assert_eq!(list.as_list().unwrap()[0].raw(), b"3:abc");
        assert_eq!(dict.get("absent"), None);
    }

    #[test]
    fn broken_input_is_told_with_its_place() {
        for (text, offset) in [
            ("", 0),
            ("i1", 2),
            ("l", 1),
            ("d", 1),
            ("d1:a", 4),
            ("d1:ai1e", 7),
            ("3", 1),
        ] {
            assert_eq!(
                read(text),
                Err(BencodeError::UnexpectedEnd { offset }),
                "{text}"
            );
        }
        for text in [
            "3:ab",
            "99999999999999999999999:a",
            "18446744073709551615:a",
        ] {
            assert_eq!(
                read(text),
                Err(BencodeError::StringPastEnd { offset: 0 }),
                "{text}"
            );
        }
        for (text, offset) in [
            ("e", 0),
            ("x", 0),
            ("di1ei2ee", 1),
            ("d1:ae", 4),
            ("-1:a", 0),
        ] {
            match read(text) {
                Err(BencodeError::UnexpectedByte { offset: at, .. }) => assert_eq!(at, offset),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn limits_hold_exactly() {
        let limits = Limits {
            max_depth: 3,
            max_tokens: 5,
            max_len: 12,
        };
        assert!(decode(b"llleee", &limits).is_ok());
        assert_eq!(
            decode(b"lllleeee", &limits),
            Err(BencodeError::TooDeep { offset: 3, max: 3 })
        );
        assert!(decode(b"d0:0:1:a0:e", &limits).is_ok());
        assert_eq!(
            decode(b"l0:0:0:0:0:e", &limits),
            Err(BencodeError::TooManyTokens { offset: 9, max: 5 })
        );
        assert!(decode(b"i1eTAIL56789", &limits).is_ok());
        assert!(matches!(
            decode(b"i1eTAIL567890", &limits),
            Err(BencodeError::TooLong { len: 13, max: 12 })
        ));
    }

    #[test]
    fn the_deepest_allowed_value_can_be_dropped_and_a_deeper_one_is_refused() {
        let limits = Limits {
            max_depth: usize::MAX,
            max_tokens: usize::MAX,
            max_len: usize::MAX,
        };
        let nested = |depth: usize| "l".repeat(depth) + &"e".repeat(depth);
        assert!(decode(nested(DEEPEST).as_bytes(), &limits).is_ok());
        assert!(decode(nested(1_000_000).as_bytes(), &limits).is_err());
    }
}
