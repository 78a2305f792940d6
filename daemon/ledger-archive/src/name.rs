//! Names of the entries of an archive: untrusted bytes that never become a path.

use std::collections::HashSet;
use std::fmt;

use crate::error::Refusal;

/// Longest name, in bytes.
const MAX_LEN: usize = 4096;
/// Bytes of all names together. An archive of a ledger has a handful of entries.
const MAX_TOTAL: usize = 1 << 16;
/// File name of the ledger.
pub(crate) const LEDGER: &[u8] = b"data.ldb";

/// The name of an archive's entry, for messages: quoted, escaped and cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryName(String);

impl EntryName {
    pub(crate) fn new(name: &[u8]) -> Self {
        const SHOWN: usize = 120;
        let (shown, more) = match name.get(..SHOWN) {
            Some(shown) if name.len() > SHOWN => (shown, "…"),
            _ => (name, ""),
        };
        Self(format!("{:?}{more}", String::from_utf8_lossy(shown)))
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The names seen so far. Each is checked when it is added.
#[derive(Debug, Default, Clone)]
pub(crate) struct Names {
    seen: HashSet<Vec<u8>>,
    total: usize,
}

impl Names {
    /// Checks and adds a name. Returns whether it is that of a ledger (if the entry is a file).
    pub(crate) fn admit(&mut self, name: &[u8]) -> Result<bool, Refusal> {
        let shown = || EntryName::new(name);
        if name.is_empty() || name.len() > MAX_LEN || name.contains(&0) {
            return Err(Refusal::BadName { name: shown() });
        }
        if name.starts_with(b"/") {
            return Err(Refusal::AbsolutePath { name: shown() });
        }
        let mut plain = Vec::with_capacity(name.len());
        let mut last: &[u8] = b"";
        // Archives made on Windows may use a backslash.
        for part in name.split(|&byte| byte == b'/' || byte == b'\\') {
            match part {
                b"" | b"." => {}
                b".." => return Err(Refusal::ParentPath { name: shown() }),
                part => {
                    if !plain.is_empty() {
                        plain.push(b'/');
                    }
                    plain.extend_from_slice(part);
                    last = part;
                }
            }
        }
        let ledger = last == LEDGER;
        if self.seen.contains(&plain) {
            return Err(Refusal::Duplicate { name: shown() });
        }
        self.total += plain.len() + 2;
        if self.total > MAX_TOTAL {
            return Err(Refusal::TooManyEntries);
        }
        self.seen.insert(plain);
        Ok(ledger)
    }

    /// All names, each behind its length in two bytes, little endian: at most 64 KiB.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut names: Vec<_> = self.seen.iter().collect();
        names.sort_unstable();
        let mut out = Vec::with_capacity(self.total);
        for name in names {
            // Admitted names have at most MAX_LEN bytes.
            out.extend_from_slice(&(name.len() as u16).to_le_bytes());
            out.extend_from_slice(name);
        }
        out
    }

    /// Reads the output of [`Names::encode`]. Returns `None` for other bytes.
    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut names = Self::default();
        while let Some((len, rest)) = bytes.split_first_chunk() {
            let (name, rest) = rest.split_at_checked(u16::from_le_bytes(*len).into())?;
            names.total += name.len() + 2;
            names.seen.insert(name.to_vec());
            bytes = rest;
        }
        bytes.is_empty().then_some(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged() {
        let mut names = Names::default();
        for (name, ledger) in [
            ("./", false),
            ("Nano/", false),
            ("Nano/data.ldb", true),
            ("data.ldb", true),
            ("./snapshot/data.ldb", true),
            ("old-data.ldb", false),
            ("data.ldb-lock", false),
            ("...", false),
        ] {
            assert_eq!(names.admit(name.as_bytes()).unwrap(), ledger, "{name}");
        }
        for name in ["Nano//data.ldb", "./Nano/data.ldb/", "Nano\\data.ldb"] {
            let refusal = names.admit(name.as_bytes()).unwrap_err();
            assert!(matches!(refusal, Refusal::Duplicate { .. }), "{name}");
        }
        for name in ["..", "a/../data.ldb", "a\\..\\data.ldb", "a/.."] {
            let refusal = names.admit(name.as_bytes()).unwrap_err();
            assert!(matches!(refusal, Refusal::ParentPath { .. }), "{name}");
        }
        for name in ["/data.ldb", "/"] {
            let refusal = names.admit(name.as_bytes()).unwrap_err();
            assert!(matches!(refusal, Refusal::AbsolutePath { .. }), "{name}");
        }
        for name in ["", "a\0b", &"a".repeat(MAX_LEN + 1)] {
            let refusal = names.admit(name.as_bytes()).unwrap_err();
            assert!(matches!(refusal, Refusal::BadName { .. }), "{name}");
        }
        let again = Names::decode(&names.encode()).unwrap();
        assert_eq!((again.seen, again.total), (names.seen, names.total));
        assert!(Names::decode(&[5, 0, b'a']).is_none());
        assert!(Names::decode(&[0]).is_none());
    }

    #[test]
    fn names_are_bounded_together() {
        let mut names = Names::default();
        let refused = (0..u32::MAX).find_map(|n| names.admit(n.to_string().as_bytes()).err());
        assert!(matches!(refused, Some(Refusal::TooManyEntries)));
        assert!(names.encode().len() <= MAX_TOTAL + MAX_LEN);
    }

    #[test]
    fn messages_show_names_escaped_and_cut() {
        assert_eq!(
            EntryName::new(b"a\n\x1b[31m").to_string(),
            "\"a\\n\\u{1b}[31m\""
        );
        assert!(EntryName::new(&[b'a'; 5000]).to_string().len() < 200);
    }
}
