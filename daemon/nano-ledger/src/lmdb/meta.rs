//! The two meta pages at the start of an LMDB file, and the tree roots they hold.
//!
//! Layout after `MDB_page`, `MDB_meta` and `MDB_db` of LMDB's `mdb.c` as a 64-bit little-endian
//! machine writes them, which is every machine a Nano node runs on today.

use crate::bytes::{u16_at, u32_at, u64_at};

/// Bytes of the header of every page.
pub(crate) const PAGE_HEADER: usize = 16;
/// Bytes of the part of a meta page that is read: the page header and the record after it.
pub(crate) const META_LEN: usize = PAGE_HEADER + 136;
/// Bytes of a tree root, in meta pages and as the value of a named table.
pub(crate) const TREE_LEN: usize = 48;
/// Page sizes a meta page may name. LMDB itself takes the operating system's, up to 32 KiB.
pub(crate) const PAGE_SIZES: std::ops::RangeInclusive<u32> = 512..=65536;
/// The most levels a tree may have: LMDB's own cursor stack.
pub(crate) const MAX_DEPTH: u16 = 32;

const MAGIC: u32 = 0xBEEF_C0DE;
const DATA_VERSION: u32 = 1;
const FLAG_META_PAGE: u16 = 0x08;
/// Page number that stands for "no page".
const NO_PAGE: u64 = u64::MAX;

/// Why a meta page is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetaFault {
    /// The file ends inside the page.
    #[error("the file is too short for an LMDB meta page")]
    Short,
    /// The magic number is missing: not an LMDB file, or one of a 32-bit machine.
    #[error("the LMDB magic number 0xbeefc0de is missing")]
    Magic,
    /// The magic number is there in the other byte order.
    #[error("it was written by a machine of the other byte order")]
    ByteOrder,
    /// LMDB's data format has another version than 1.
    #[error("LMDB data format version {found}, expected 1")]
    Version {
        /// The version found.
        found: u32,
    },
    /// The page header does not mark a meta page of this number.
    #[error("the header of meta page {expected} names page {number} with flags {flags:#06x}")]
    Header {
        /// The number this page must have, 0 or 1.
        expected: u64,
        /// The number it has.
        number: u64,
        /// Its flags; a meta page has 0x0008.
        flags: u16,
    },
    /// The page size is no power of two from 512 to 65536.
    #[error("page size {found} is no power of two from 512 to 65536")]
    PageSize {
        /// The size found.
        found: u32,
    },
    /// The last page lies before the meta pages' end or so far out that its offset overflows.
    #[error("last page {found} is impossible")]
    LastPage {
        /// The page number found.
        found: u64,
    },
    /// A root lies outside the pages given out, or root and depth contradict each other.
    #[error("the {tree} tree has depth {depth} and root page {root}, of {last_page} pages")]
    Root {
        /// `free` or `main`.
        tree: &'static str,
        /// Its levels.
        depth: u16,
        /// Its root page.
        root: u64,
        /// The last page given out.
        last_page: u64,
    },
}

/// The root of a tree: LMDB's `MDB_db`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tree {
    pub(crate) flags: u16,
    pub(crate) depth: u16,
    pub(crate) branch_pages: u64,
    pub(crate) leaf_pages: u64,
    pub(crate) overflow_pages: u64,
    pub(crate) entries: u64,
    pub(crate) root: Option<u64>,
}

impl Tree {
    /// Reads a root from its 48 bytes; `None` when there are not that many.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            flags: u16_at(bytes, 4)?,
            depth: u16_at(bytes, 6)?,
            branch_pages: u64_at(bytes, 8)?,
            leaf_pages: u64_at(bytes, 16)?,
            overflow_pages: u64_at(bytes, 24)?,
            entries: u64_at(bytes, 32)?,
            root: u64_at(bytes, 40).map(|root| (root != NO_PAGE).then_some(root))?,
        })
    }

    /// Whether root and depth agree and the root is a page after the meta pages up to `last_page`.
    pub(crate) fn is_plausible(&self, last_page: u64) -> bool {
        match self.root {
            None => self.depth == 0,
            Some(root) => (1..=MAX_DEPTH).contains(&self.depth) && (2..=last_page).contains(&root),
        }
    }

    /// Number of entries the root claims.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// LMDB's database flags; 0 for all tables of a Nano ledger.
    pub fn flags(&self) -> u16 {
        self.flags
    }

    /// Pages of the tree: branch, leaf and overflow pages.
    pub fn pages(&self) -> u64 {
        self.branch_pages
            .saturating_add(self.leaf_pages)
            .saturating_add(self.overflow_pages)
    }
}

/// One valid meta page: the start of one state of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    pub(crate) page_size: u32,
    pub(crate) map_size: u64,
    pub(crate) free: Tree,
    pub(crate) main: Tree,
    pub(crate) last_page: u64,
    pub(crate) txn: u64,
}

impl Meta {
    /// Reads meta page `number` (0 or 1) from the first [`META_LEN`] bytes of the page.
    pub(crate) fn parse(bytes: &[u8], number: u64) -> Result<Self, MetaFault> {
        let record = bytes.get(PAGE_HEADER..META_LEN).ok_or(MetaFault::Short)?;
        let short = || MetaFault::Short;
        match u32_at(record, 0).ok_or_else(short)? {
            MAGIC => {}
            magic if magic.swap_bytes() == MAGIC => return Err(MetaFault::ByteOrder),
            _ => return Err(MetaFault::Magic),
        }
        let version = u32_at(record, 4).ok_or_else(short)?;
        if version != DATA_VERSION {
            return Err(MetaFault::Version { found: version });
        }
        let found = u64_at(bytes, 0).ok_or_else(short)?;
        let flags = u16_at(bytes, 10).ok_or_else(short)?;
        if found != number || flags & FLAG_META_PAGE == 0 {
            return Err(MetaFault::Header {
                expected: number,
                number: found,
                flags,
            });
        }
        // The page size lives in a field of the free tree's root that has no other use.
        let page_size = u32_at(record, 24).ok_or_else(short)?;
        if !page_size.is_power_of_two() || !PAGE_SIZES.contains(&page_size) {
            return Err(MetaFault::PageSize { found: page_size });
        }
        let meta = Self {
            page_size,
            map_size: u64_at(record, 16).ok_or_else(short)?,
            free: Tree::parse(record.get(24..72).unwrap_or_default()).ok_or_else(short)?,
            main: Tree::parse(record.get(72..120).unwrap_or_default()).ok_or_else(short)?,
            last_page: u64_at(record, 120).ok_or_else(short)?,
            txn: u64_at(record, 128).ok_or_else(short)?,
        };
        if meta.last_page < 1 || meta.used_len_checked().is_none() {
            return Err(MetaFault::LastPage {
                found: meta.last_page,
            });
        }
        for (name, tree) in [("free", &meta.free), ("main", &meta.main)] {
            if !tree.is_plausible(meta.last_page) {
                return Err(MetaFault::Root {
                    tree: name,
                    depth: tree.depth,
                    root: tree.root.unwrap_or(NO_PAGE),
                    last_page: meta.last_page,
                });
            }
        }
        Ok(meta)
    }

    fn used_len_checked(&self) -> Option<u64> {
        // File offsets are signed.
        self.last_page
            .checked_add(1)?
            .checked_mul(u64::from(self.page_size))
            .filter(|len| i64::try_from(*len).is_ok())
    }

    /// Bytes from the start of the file to the end of the last page LMDB has given out.
    pub fn used_len(&self) -> u64 {
        // `parse` refuses a meta page for which this is `None`.
        self.used_len_checked().unwrap_or(u64::MAX)
    }

    /// Bytes per page.
    pub fn page_size(&self) -> u32 {
        self.page_size
    }

    /// Bytes of address space the writer's environment reserves.
    pub fn map_size(&self) -> u64 {
        self.map_size
    }

    /// Number of the transaction that wrote this state.
    pub fn txn(&self) -> u64 {
        self.txn
    }
}
