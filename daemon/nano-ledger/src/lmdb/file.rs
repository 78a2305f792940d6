//! A ledger file, read page by page with positioned reads.
//!
//! Nothing here maps the file: a damaged disk or a file cut short while being read is an error, not
//! a signal, and a hostile file can at worst be refused. Memory is bounded by one page per tree
//! level. Time is bounded by the page counts in the tree roots, which are compared with the length of the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::bytes::array_at;
use crate::lmdb::error::LedgerError;
use crate::lmdb::meta::{META_LEN, Meta, MetaFault, PAGE_SIZES};
use crate::lmdb::page::PageFault;

/// A ledger file opened for reading.
///
/// It has the state of the newer valid meta page at the time of opening. Use it on files that are not written to
/// (copies, snapshots). Beside a running node, pages may change between two reads.
#[derive(Debug)]
pub struct LedgerFile {
    file: File,
    path: PathBuf,
    len: u64,
    metas: [Result<Meta, MetaFault>; 2],
    meta: Meta,
    pages: u64,
    /// Reads so far.
    #[cfg(test)]
    pub(crate) reads: std::sync::atomic::AtomicU64,
}

impl LedgerFile {
    /// Opens the file at `path` and reads its meta pages.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Open`] and [`LedgerError::Read`] are the system's; [`LedgerError::NotALedger`]
    /// when neither meta page is valid.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let open = |source| LedgerError::Open {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(open)?;
        let metadata = file.metadata().map_err(open)?;
        if !metadata.is_file() {
            let detail = if metadata.is_dir() {
                "it is a directory; the ledger is the file data.ldb in a node's directory"
            } else {
                "it is not a regular file"
            };
            return Err(LedgerError::NotALedger {
                path: path.to_owned(),
                detail: detail.into(),
            });
        }
        Self::from_file(file, path)
    }

    /// Reads the meta pages of an open regular file; `path` only names it in errors.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn from_file(file: File, path: &Path) -> Result<Self, LedgerError> {
        let len = file
            .metadata()
            .map_err(|source| LedgerError::Open {
                path: path.to_owned(),
                source,
            })?
            .len();
        let metas = read_metas(&file, path, len)?;
        let meta = match &metas {
            // As LMDB: the newer one, the first on a tie.
            [Ok(first), Ok(second)] if second.txn > first.txn => *second,
            [Ok(first), _] => *first,
            [Err(_), Ok(second)] => *second,
            [Err(fault), Err(_)] => {
                let detail = if len == 0 {
                    "the file is empty".into()
                } else {
                    describe(&file, fault)
                };
                return Err(LedgerError::NotALedger {
                    path: path.to_owned(),
                    detail,
                });
            }
        };
        let pages = (meta.last_page + 1).min(len / u64::from(meta.page_size));
        Ok(Self {
            file,
            path: path.to_owned(),
            len,
            metas,
            meta,
            pages,
            #[cfg(test)]
            reads: std::sync::atomic::AtomicU64::new(0),
        })
    }

    /// The path it was opened at.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file.
    pub fn file_len(&self) -> u64 {
        self.len
    }

    /// The meta page in use: the newer valid one.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Both meta pages as found.
    pub fn metas(&self) -> &[Result<Meta, MetaFault>; 2] {
        &self.metas
    }

    /// Whole pages that are both given out and inside the file.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// Reads page `number` into `buffer`.
    pub(crate) fn read_page(
        &self,
        tree: &str,
        number: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<(), LedgerError> {
        if !(2..self.pages).contains(&number) {
            let fault = PageFault::OutOfFile {
                page: number,
                pages: self.pages,
            };
            return Err(self.damaged(tree, fault));
        }
        // At most 64 KiB, by `PAGE_SIZES`.
        buffer.resize(self.meta.page_size as usize, 0);
        self.read_at(number * u64::from(self.meta.page_size), buffer)
    }

    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), LedgerError> {
        #[cfg(test)]
        self.reads
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|source| LedgerError::Read {
                path: self.path.clone(),
                offset,
                source,
            })
    }

    /// As [`read_at`](Self::read_at), with the system's own error.
    pub(crate) fn read_raw(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    /// Asks the system to start reading `pages`, which will be wanted in this order.
    pub(crate) fn will_need(&self, pages: impl Iterator<Item = u64>) {
        let size = u64::from(self.meta.page_size);
        let mut run: Option<(u64, u64)> = None;
        let flush = |(start, count): (u64, u64)| {
            // Advice only: a refusal costs nothing but speed.
            let _ = rustix::fs::fadvise(
                &self.file,
                start * size,
                std::num::NonZeroU64::new(count * size),
                rustix::fs::Advice::WillNeed,
            );
        };
        for page in pages.filter(|page| (2..self.pages).contains(page)) {
            run = match run {
                Some((start, count)) if start + count == page => Some((start, count + 1)),
                other => {
                    other.map(flush);
                    Some((page, 1))
                }
            };
        }
        run.map(flush);
    }

    pub(crate) fn damaged(&self, tree: &str, fault: PageFault) -> LedgerError {
        LedgerError::Damaged {
            path: self.path.clone(),
            tree: tree.to_owned(),
            source: fault,
        }
    }
}

/// Reads both meta pages. The second lies one page after the first, whose size only they know.
fn read_metas(
    file: &File,
    path: &Path,
    len: u64,
) -> Result<[Result<Meta, MetaFault>; 2], LedgerError> {
    let read = |offset: u64, number: u64| -> Result<Result<Meta, MetaFault>, LedgerError> {
        let mut bytes = [0; META_LEN];
        if len < offset + META_LEN as u64 {
            return Ok(Err(MetaFault::Short));
        }
        match file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(Meta::parse(&bytes, number)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Err(MetaFault::Short)),
            Err(source) => Err(LedgerError::Read {
                path: path.to_owned(),
                offset,
                source,
            }),
        }
    };
    let first = read(0, 0)?;
    if let Ok(meta) = &first {
        let second = read(u64::from(meta.page_size), 1)?;
        return Ok([first, second]);
    }
    // Without the first page the second is looked for at every possible size.
    let mut size = *PAGE_SIZES.start();
    while PAGE_SIZES.contains(&size) {
        if let Ok(meta) = read(u64::from(size), 1)?
            && meta.page_size == size
        {
            return Ok([first, Ok(meta)]);
        }
        size *= 2;
    }
    Ok([first, Err(MetaFault::Magic)])
}

/// Describes a file without meta pages, for an error message.
fn describe(file: &File, fault: &MetaFault) -> String {
    let mut start = [0; 16];
    let found = file.read_at(&mut start, 0).unwrap_or(0);
    let kind = match start.get(..found).unwrap_or_default() {
        [b'7', b'z', 0xBC, 0xAF, ..] => "a 7z archive",
        [0x28, 0xB5, 0x2F, 0xFD, ..] => "a zstd archive",
        [0xFD, b'7', b'z', b'X', b'Z', ..] => "an xz archive",
        [0x1F, 0x8B, ..] => "a gzip archive",
        start if array_at(start, 0) == Some(*b"d8:announce") => "a torrent",
        _ => return fault.to_string(),
    };
    format!("it is {kind}")
}
