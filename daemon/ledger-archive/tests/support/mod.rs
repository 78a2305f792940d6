//! What the tests of archives share.
#![allow(dead_code, reason = "every test program uses a part of it")]

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use ledger_archive::{ExtractError, ExtractOptions, ExtractReport, Refusal};
use tempfile::TempDir;

/// Allowed for ledgers unless a test says otherwise.
pub(crate) const LIMIT: u64 = 64 << 20;

/// Bytes that compress somewhat, the same for the same seed.
pub(crate) fn ledger(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let number = (state >> 20).to_le_bytes();
        // Half of it varies.
        bytes.extend_from_slice(&number[..4]);
        bytes.extend_from_slice(&[0, 1, 2, 3]);
    }
    bytes.truncate(len);
    bytes
}

/// A tar file, entry by entry.
#[derive(Clone, Default)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// An entry with any name and type.
    pub(crate) fn entry(mut self, kind: u8, name: &[u8], content: &[u8]) -> Self {
        let header = header(kind, name, content.len() as u64);
        self.0.extend_from_slice(header.as_bytes());
        self.content(content)
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(b'0', name.as_bytes(), content)
    }

    pub(crate) fn header(mut self, header: &tar::Header) -> Self {
        self.0.extend_from_slice(header.as_bytes());
        self
    }

    /// Content, filled up to a block.
    pub(crate) fn content(mut self, content: &[u8]) -> Self {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// A pax header with these attributes.
    pub(crate) fn pax(self, kind: u8, attributes: &[(&str, &str)]) -> Self {
        let mut content = String::new();
        for (key, value) in attributes {
            let rest = format!(" {key}={value}\n");
            let mut len = rest.len() + 1;
            while len != rest.len() + len.to_string().len() {
                len += 1;
            }
            content += &format!("{len}{rest}");
        }
        self.entry(kind, b"pax", content.as_bytes())
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub(crate) fn header(kind: u8, name: &[u8], size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    for (slot, byte) in header.as_old_mut().name.iter_mut().zip(name) {
        *slot = *byte;
    }
    header.as_old_mut().linkflag = [kind];
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    header
}

/// One frame with a checksum.
pub(crate) fn frame(content: &[u8]) -> Vec<u8> {
    let mut compressor = zstd::bulk::Compressor::new(1).unwrap();
    compressor.include_checksum(true).unwrap();
    compressor.compress(content).unwrap()
}

/// Frames of so many bytes each.
pub(crate) fn frames(content: &[u8], len: usize) -> Vec<u8> {
    content.chunks(len).flat_map(frame).collect()
}

/// A directory with an archive, and a target that must survive every refusal.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) archive: PathBuf,
    pub(crate) target: PathBuf,
}

pub(crate) const OLD: &[u8] = b"the ledger of yesterday";

impl Bench {
    pub(crate) fn new(archive: &[u8]) -> Self {
        Self::within(&std::env::temp_dir(), archive)
    }

    /// Where syncing costs nothing, for thousands of extractions.
    pub(crate) fn in_memory(archive: &[u8]) -> Self {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() {
            Self::within(memory, archive)
        } else {
            Self::new(archive)
        }
    }

    fn within(parent: &Path, archive: &[u8]) -> Self {
        let dir = tempfile::tempdir_in(parent).unwrap();
        let bench = Self {
            archive: dir.path().join("archive"),
            target: dir.path().join("data.ldb"),
            dir,
        };
        fs::write(&bench.archive, archive).unwrap();
        fs::write(&bench.target, OLD).unwrap();
        bench
    }

    pub(crate) fn beside(&self, suffix: &str) -> PathBuf {
        beside(&self.target, suffix)
    }

    /// The names in the directory.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Extracts and installs.
    pub(crate) fn extract(&self, options: ExtractOptions) -> Result<ExtractReport, ExtractError> {
        let going = |_| ControlFlow::Continue(());
        let extracted = ledger_archive::extract_file(&self.archive, &self.target, options, going)?;
        assert_eq!(fs::read(&self.target).unwrap(), OLD, "installed too early");
        extracted.install()
    }

    /// Extracts what must be extracted to `ledger`.
    pub(crate) fn succeeds(&self, options: ExtractOptions, ledger: &[u8]) -> ExtractReport {
        let report = self.extract(options).unwrap();
        assert!(fs::read(&self.target).unwrap() == ledger, "another ledger");
        assert_eq!(self.names(), ["archive", "data.ldb"]);
        assert_eq!(report.ledger_bytes, ledger.len() as u64);
        report
    }

    /// Extracts what must be refused, which must leave nothing behind.
    pub(crate) fn refused(&self, options: ExtractOptions) -> Refusal {
        let refusal = match self.extract(options) {
            Err(ExtractError::Refused { refusal }) => refusal,
            other => panic!("not refused: {other:?}"),
        };
        self.untouched();
        refusal
    }

    pub(crate) fn untouched(&self) {
        assert_eq!(fs::read(&self.target).unwrap(), OLD);
        assert_eq!(self.names(), ["archive", "data.ldb"]);
    }
}

pub(crate) fn beside(target: &Path, suffix: &str) -> PathBuf {
    let mut path = target.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

pub(crate) fn options() -> ExtractOptions {
    ExtractOptions::new(LIMIT)
}
