//! Reads a tar file as its bytes arrive and returns the content of its ledger.
//!
//! Other entries are checked and skipped; only the ledger's content leaves this module.
//! Formats: POSIX ustar and pax, GNU with long names and sizes in binary, and the older ones.

use tar::{Header, PaxExtensions};

use crate::error::Refusal;
use crate::name::{EntryName, Names};

const BLOCK: usize = 512;
/// Longest pax header or long name.
const MAX_EXTENSION: u64 = 1 << 16;
/// Bytes of everything that is not the ledger: readmes, headers, padding.
pub(crate) const MAX_OTHERS: u64 = 64 << 20;

/// A part of the tar file that the caller handles.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TarPart<'a> {
    /// The ledger begins, and has this many bytes.
    Begins(u64),
    /// More of it.
    Content(&'a [u8]),
}

#[derive(Debug)]
enum TarState {
    /// Within a header; `filled` bytes of it were read.
    Header { filled: usize },
    /// Within an extension header's data.
    Extension { kind: Kind, left: usize },
    /// Within the ledger.
    Ledger { left: u64 },
    /// Within content or padding that is skipped.
    Skip { left: u64 },
    /// After the first of the two blocks of zeros that end a tar file; `behind` bytes after it were read.
    End { behind: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// GNU's `L`: the name of the next entry.
    LongName,
    /// pax' `x`: attributes of the next entry.
    Local,
    /// pax' `g`: attributes of all entries to come.
    Global,
}

/// The attributes of the next entry from its extension headers.
#[derive(Debug, Default)]
struct PendingEntry {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
    seen: bool,
}

/// Reads a tar file incrementally.
#[derive(Debug)]
pub(crate) struct TarReader {
    state: TarState,
    block: [u8; BLOCK],
    extension: Vec<u8>,
    next: PendingEntry,
    names: Names,
    /// Bytes of the tar file consumed.
    at: u64,
    /// Bytes of them that are not the ledger's.
    others: u64,
    ledger: Option<u64>,
    limit: u64,
}

impl TarReader {
    /// Starts reading a tar file. A ledger of more than `limit` bytes is refused.
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            state: TarState::Header { filled: 0 },
            block: [0; BLOCK],
            extension: Vec::new(),
            next: PendingEntry::default(),
            names: Names::default(),
            at: 0,
            others: 0,
            ledger: None,
            limit,
        }
    }

    /// Resumes after the first `done` bytes of a ledger of `len` bytes. `names` are the names up to it. Positions in
    /// error messages then count from the first byte of the ledger.
    pub(crate) fn within_ledger(names: Names, len: u64, done: u64, limit: u64) -> Self {
        let mut reader = Self::new(limit);
        reader.names = names;
        reader.at = done;
        reader.ledger = Some(len);
        reader.state = match len.saturating_sub(done) {
            0 => after_data(len),
            left => TarState::Ledger { left },
        };
        reader
    }

    /// The names admitted so far.
    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// Whether the next byte is the ledger's, or the first behind it.
    pub(crate) fn in_ledger(&self) -> bool {
        matches!(self.state, TarState::Ledger { .. })
    }

    /// Consumes bytes from `input` until there is a part to return or none are left.
    pub(crate) fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
    ) -> Result<Option<TarPart<'a>>, Refusal> {
        loop {
            // Steps that need no bytes.
            match self.state {
                TarState::Ledger { left: 0 } => {
                    self.state = after_data(self.ledger.unwrap_or_default());
                }
                TarState::Skip { left: 0 } => self.state = TarState::Header { filled: 0 },
                TarState::Extension { kind, left: 0 } => {
                    self.take_extension(kind)?;
                    let padding = padding(self.extension.len() as u64);
                    self.state = TarState::Skip { left: padding };
                }
                _ if input.is_empty() => return Ok(None),
                TarState::Ledger { left } => {
                    let content = split(input, usize::try_from(left).unwrap_or(usize::MAX));
                    self.at += content.len() as u64;
                    let left = left - content.len() as u64;
                    self.state = TarState::Ledger { left };
                    return Ok(Some(TarPart::Content(content)));
                }
                TarState::Header { filled } => {
                    let part = self.other(input, BLOCK - filled)?;
                    let filled = fill(&mut self.block, filled, part);
                    self.state = TarState::Header { filled };
                    if filled == BLOCK
                        && let Some(begins) = self.take_header()?
                    {
                        return Ok(Some(begins));
                    }
                }
                TarState::Extension { kind, left } => {
                    let part = self.other(input, left)?;
                    self.extension.extend_from_slice(part);
                    let left = left - part.len();
                    self.state = TarState::Extension { kind, left };
                }
                TarState::Skip { left } => {
                    let part = self.other(input, usize::try_from(left).unwrap_or(usize::MAX))?;
                    let left = left - part.len() as u64;
                    self.state = TarState::Skip { left };
                }
                TarState::End { behind } => {
                    let part = self.other(input, usize::MAX)?;
                    if let Some(found) = part.iter().position(|&byte| byte != 0) {
                        return Err(Refusal::TarTrailing {
                            at: self.at - (part.len() - found) as u64,
                        });
                    }
                    let behind = behind + part.len() as u64;
                    self.state = TarState::End { behind };
                }
            }
        }
    }

    /// Checks that the tar file is complete. Called at the end of the archive of `archive_len` bytes.
    pub(crate) fn finish(&self, archive_len: u64) -> Result<(), Refusal> {
        match self.state {
            TarState::End { behind } if behind >= BLOCK as u64 => match self.ledger {
                Some(_) => Ok(()),
                None => Err(Refusal::NoLedger),
            },
            _ => Err(Refusal::Truncated { at: archive_len }),
        }
    }

    /// Up to `want` bytes that are not the ledger's.
    fn other<'a>(&mut self, input: &mut &'a [u8], want: usize) -> Result<&'a [u8], Refusal> {
        let part = split(input, want);
        self.at += part.len() as u64;
        self.count_others(part.len() as u64)?;
        Ok(part)
    }

    fn count_others(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.others = self.others.saturating_add(bytes);
        if self.others > MAX_OTHERS {
            return Err(Refusal::OthersTooLarge { limit: MAX_OTHERS });
        }
        Ok(())
    }

    /// Checks the header in `block` and enters the state for the entry it describes.
    fn take_header(&mut self) -> Result<Option<TarPart<'static>>, Refusal> {
        let at = self.at - BLOCK as u64;
        if self.block == [0; BLOCK] {
            if self.next.seen {
                return Err(Refusal::TarExtension {
                    at,
                    detail: "it describes no entry",
                });
            }
            self.state = TarState::End { behind: 0 };
            return Ok(None);
        }
        let header = Header::from_byte_slice(&self.block).clone();
        let size = sound(&header).ok_or(Refusal::TarHeader { at })?;
        let kind = match header.as_old().linkflag {
            [b'L'] => Kind::LongName,
            [b'x'] => Kind::Local,
            [b'g'] => Kind::Global,
            [kind] => return self.take_entry(&header, kind, size),
        };
        if size > MAX_EXTENSION {
            return Err(Refusal::TarExtension {
                at,
                detail: "it is too long",
            });
        }
        self.extension.clear();
        self.state = TarState::Extension {
            kind,
            left: size as usize,
        };
        Ok(None)
    }

    fn take_entry(
        &mut self,
        header: &Header,
        kind: u8,
        size: u64,
    ) -> Result<Option<TarPart<'static>>, Refusal> {
        let at = self.at - BLOCK as u64;
        let next = std::mem::take(&mut self.next);
        let path = match next.name {
            Some(name) => name,
            None => header.path_bytes().into_owned(),
        };
        let size = next.size.unwrap_or(size);
        let name = || EntryName::new(&path);
        let directory = match kind {
            _ if next.sparse => return Err(Refusal::Sparse { name: name() }),
            // Before POSIX a directory was a file with a slash behind its name.
            b'0' | 0 => path.ends_with(b"/"),
            b'5' => true,
            b'1' | b'2' | b'K' => return Err(Refusal::Link { name: name() }),
            b'3' | b'4' | b'6' => return Err(Refusal::Device { name: name() }),
            b'S' => return Err(Refusal::Sparse { name: name() }),
            _ => return Err(Refusal::UnknownEntry { name: name() }),
        };
        let ledger = self.names.admit(&path)?;
        if directory && size > 0 {
            return Err(Refusal::TarHeader { at });
        }
        if !ledger || directory {
            let left = size
                .checked_add(padding(size))
                .filter(|left| self.others.saturating_add(*left) <= MAX_OTHERS)
                .ok_or(Refusal::OthersTooLarge { limit: MAX_OTHERS })?;
            self.state = TarState::Skip { left };
            return Ok(None);
        }
        if self.ledger.is_some() {
            return Err(Refusal::TwoLedgers { name: name() });
        }
        if size > self.limit {
            return Err(Refusal::TooLarge {
                declared: size,
                limit: self.limit,
            });
        }
        self.ledger = Some(size);
        self.state = TarState::Ledger { left: size };
        Ok(Some(TarPart::Begins(size)))
    }

    /// Parses the extension header in `extension`.
    fn take_extension(&mut self, kind: Kind) -> Result<(), Refusal> {
        let at = self.at;
        let refuse = |detail| Refusal::TarExtension { at, detail };
        if kind != Kind::Global {
            self.next.seen = true;
        }
        if kind == Kind::LongName {
            let name = self.extension.strip_suffix(b"\0");
            let name = name.unwrap_or(&self.extension).to_vec();
            return match self.next.name.replace(name) {
                None => Ok(()),
                Some(_) => Err(refuse("it names an entry that has a name")),
            };
        }
        // The iterator takes an empty line for the end.
        let lines: &[u8] = &self.extension;
        if !lines.is_empty() && !lines.ends_with(b"\n")
            || lines.starts_with(b"\n")
            || lines.windows(2).any(|pair| pair == b"\n\n")
        {
            return Err(refuse("it is malformed"));
        }
        for attribute in PaxExtensions::new(lines) {
            let attribute = attribute.map_err(|_| refuse("it is malformed"))?;
            let (key, value) = (attribute.key_bytes(), attribute.value_bytes());
            match key {
                b"path" | b"size" | b"linkpath" if kind == Kind::Global => {
                    return Err(refuse("it is for all entries to come"));
                }
                b"path" if self.next.name.is_some() => {
                    return Err(refuse("it names an entry that has a name"));
                }
                b"path" => self.next.name = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value)
                        .ok()
                        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
                        .and_then(|digits| digits.parse().ok())
                        .ok_or_else(|| refuse("its size is no number"))?;
                    if self.next.size.replace(size).is_some() {
                        return Err(refuse("it gives two sizes"));
                    }
                }
                key if key.starts_with(b"GNU.sparse.") => self.next.sparse = true,
                _ => {}
            }
        }
        Ok(())
    }
}

/// The size in a header whose checksum is right.
fn sound(header: &Header) -> Option<u64> {
    let mut summed = header.clone();
    summed.set_cksum();
    if header.cksum().ok()? != summed.cksum().ok()? {
        return None;
    }
    let field = &header.as_old().size;
    // A binary number of more than 64 bits, or a negative one.
    if field[0] & 0x80 != 0 && field[..4] != [0x80, 0, 0, 0] {
        return None;
    }
    header.entry_size().ok()
}

/// Bytes that fill the last block of `len` bytes of data.
fn padding(len: u64) -> u64 {
    let block = BLOCK as u64;
    (block - len % block) % block
}

fn after_data(len: u64) -> TarState {
    TarState::Skip { left: padding(len) }
}

/// Takes up to `want` bytes from the front.
fn split<'a>(input: &mut &'a [u8], want: usize) -> &'a [u8] {
    let (part, rest) = input.split_at(want.min(input.len()));
    *input = rest;
    part
}

/// Copies `part` to `block` after its first `filled` bytes. Returns the new number of bytes.
fn fill(block: &mut [u8; BLOCK], filled: usize, part: &[u8]) -> usize {
    let end = filled + part.len();
    if let Some(slot) = block.get_mut(filled..end) {
        slot.copy_from_slice(part);
    }
    end
}
