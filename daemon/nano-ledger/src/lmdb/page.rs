//! One page of a tree, parsed without trusting any number in it.

use crate::bytes::{u16_at, u32_at, u64_at};
use crate::lmdb::meta::PAGE_HEADER;

const FLAG_BRANCH: u16 = 0x01;
const FLAG_LEAF: u16 = 0x02;
const FLAG_OVERFLOW: u16 = 0x04;
/// Flags of LMDB's memory state that may remain on disk and have no meaning there: dirty, loose, keep.
const FLAGS_IGNORED: u16 = 0x10 | 0x4000 | 0x8000;

const NODE_HEADER: usize = 8;
const NODE_OVERFLOW: u16 = 0x01;
const NODE_TABLE: u16 = 0x02;

/// A contradiction to the format in the pages of a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageFault {
    /// A pointer is outside of the file or points to a meta page.
    #[error("a pointer to page {page}, outside 2..{pages}")]
    OutOfFile {
        /// The page pointed to.
        page: u64,
        /// Pages of the file.
        pages: u64,
    },
    /// The header names another page.
    #[error("page {page} calls itself {found}")]
    Number {
        /// Where the page lies.
        page: u64,
        /// The number in its header.
        found: u64,
    },
    /// The page is of another kind than its level in the tree requires.
    #[error("page {page} has flags {flags:#06x}, expected {expected:#06x}")]
    Kind {
        /// The page.
        page: u64,
        /// Its flags.
        flags: u16,
        /// The flags of the kind expected.
        expected: u16,
    },
    /// The header's bounds of the node list are impossible, or the page is empty.
    #[error("page {page} has impossible bounds {lower}..{upper}")]
    Bounds {
        /// The page.
        page: u64,
        /// End of the list of node offsets.
        lower: u16,
        /// Start of the nodes.
        upper: u16,
    },
    /// A node does not fit its page.
    #[error("node {node} of page {page} leaves the page")]
    Node {
        /// The page.
        page: u64,
        /// The node's position in it.
        node: usize,
    },
    /// A node is of a kind that is not allowed here: duplicates, or a table below the top tree.
    #[error("node {node} of page {page} has unexpected flags {flags:#06x}")]
    NodeKind {
        /// The page.
        page: u64,
        /// The node's position in it.
        node: usize,
        /// Its flags.
        flags: u16,
    },
    /// Keys do not rise.
    #[error("the key of node {node} of page {page} is out of order")]
    Order {
        /// The page.
        page: u64,
        /// The node's position in it.
        node: usize,
    },
    /// A run of overflow pages is shorter than its value.
    #[error("{found} overflow pages at page {page}, too few for a value of {len} bytes")]
    Overflow {
        /// The first page of the run.
        page: u64,
        /// Pages the run claims.
        found: u32,
        /// Bytes of the value.
        len: u32,
    },
    /// A value is longer than any a ledger has.
    #[error("a value of {len} bytes at page {page}, more than any ledger record")]
    ValueLength {
        /// The first page of the value.
        page: u64,
        /// Its bytes.
        len: u32,
    },
    /// More pages were visited than the root of the tree counts: a loop, or a wrong count.
    #[error("the tree has more than the {expected} pages of its root's count")]
    TooManyPages {
        /// Pages the root counts.
        expected: u64,
    },
    /// The walk ended with another number of entries or pages than the root counts.
    #[error("the tree has {found} {what}, its root counts {expected}")]
    Count {
        /// `entries`, `leaf pages` or `branch pages`.
        what: &'static str,
        /// The number in the root.
        expected: u64,
        /// The number found.
        found: u64,
    },
    /// The root of a tree is impossible.
    #[error("a tree of depth {depth} with root {root:?}")]
    Root {
        /// Its levels.
        depth: u16,
        /// Its root page.
        root: Option<u64>,
    },
}

/// The kind of a page, given by its level in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PageKind {
    Branch,
    Leaf,
}

/// A page whose header has been checked.
#[derive(Clone, Copy)]
pub(crate) struct Page<'a> {
    bytes: &'a [u8],
    number: u64,
    len: usize,
}

/// The value of a leaf node.
pub(crate) enum NodeValue<'a> {
    /// Stored in the page.
    Inline { bytes: &'a [u8], is_table: bool },
    /// Stored in a run of overflow pages from `page`.
    Overflow { page: u64, len: u32 },
}

impl<'a> Page<'a> {
    /// Checks the header of page `number`; `bytes` is the whole page.
    pub(crate) fn new(bytes: &'a [u8], number: u64, kind: PageKind) -> Result<Self, PageFault> {
        let expected = match kind {
            PageKind::Branch => FLAG_BRANCH,
            PageKind::Leaf => FLAG_LEAF,
        };
        let flags = header(bytes, number)?;
        if flags & !FLAGS_IGNORED != expected {
            return Err(PageFault::Kind {
                page: number,
                flags,
                expected,
            });
        }
        let lower = u16_at(bytes, 12).unwrap_or(0);
        let upper = u16_at(bytes, 14).unwrap_or(0);
        let list = usize::from(lower).checked_sub(PAGE_HEADER);
        match list {
            Some(list)
                if list > 0
                    && list % 2 == 0
                    && lower <= upper
                    && usize::from(upper) <= bytes.len() =>
            {
                Ok(Self {
                    bytes,
                    number,
                    len: list / 2,
                })
            }
            _ => Err(PageFault::Bounds {
                page: number,
                lower,
                upper,
            }),
        }
    }

    /// Nodes of the page, at least one.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn node(&self, node: usize) -> Result<&'a [u8], PageFault> {
        let outside = || PageFault::Node {
            page: self.number,
            node,
        };
        if node >= self.len {
            return Err(outside());
        }
        let offset = u16_at(self.bytes, PAGE_HEADER + 2 * node).ok_or_else(outside)?;
        if usize::from(offset) < PAGE_HEADER + 2 * self.len {
            return Err(outside());
        }
        self.bytes
            .get(usize::from(offset)..)
            .filter(|b| b.len() >= NODE_HEADER)
            .ok_or_else(outside)
    }

    /// The key of a node. That of the first node of a branch page means nothing.
    pub(crate) fn key(&self, node: usize) -> Result<&'a [u8], PageFault> {
        let outside = || PageFault::Node {
            page: self.number,
            node,
        };
        let bytes = self.node(node)?;
        let len = usize::from(u16_at(bytes, 6).ok_or_else(outside)?);
        bytes
            .get(NODE_HEADER..NODE_HEADER + len)
            .ok_or_else(outside)
    }

    /// The page a branch node points to.
    pub(crate) fn child(&self, node: usize) -> Result<u64, PageFault> {
        let bytes = self.node(node)?;
        let outside = || PageFault::Node {
            page: self.number,
            node,
        };
        let low = u32_at(bytes, 0).ok_or_else(outside)?;
        let high = u16_at(bytes, 4).ok_or_else(outside)?;
        Ok(u64::from(low) | u64::from(high) << 32)
    }

    /// The value of a leaf node.
    pub(crate) fn value(&self, node: usize) -> Result<NodeValue<'a>, PageFault> {
        let bytes = self.node(node)?;
        let outside = || PageFault::Node {
            page: self.number,
            node,
        };
        let len = u32_at(bytes, 0).ok_or_else(outside)?;
        let flags = u16_at(bytes, 4).ok_or_else(outside)?;
        let start = NODE_HEADER + self.key(node)?.len();
        let data = bytes.get(start..).ok_or_else(outside)?;
        match flags {
            0 | NODE_TABLE => {
                let len = usize::try_from(len).map_err(|_| outside())?;
                let bytes = data.get(..len).ok_or_else(outside)?;
                Ok(NodeValue::Inline {
                    bytes,
                    is_table: flags == NODE_TABLE,
                })
            }
            NODE_OVERFLOW => {
                let page = u64_at(data, 0).ok_or_else(outside)?;
                Ok(NodeValue::Overflow { page, len })
            }
            // Duplicates (0x04) among them: no table of a ledger has any.
            _ => Err(PageFault::NodeKind {
                page: self.number,
                node,
                flags,
            }),
        }
    }
}

fn header(bytes: &[u8], number: u64) -> Result<u16, PageFault> {
    // A page shorter than its header cannot be read from a file (see `PAGE_SIZES`); were it, 0 fits
    // no page that may be pointed to.
    let found = u64_at(bytes, 0).unwrap_or(0);
    if found != number {
        return Err(PageFault::Number {
            page: number,
            found,
        });
    }
    Ok(u16_at(bytes, 10).unwrap_or(0))
}

/// Pages of the overflow run whose first page starts with `bytes`.
pub(crate) fn overflow_run(bytes: &[u8], number: u64) -> Result<u32, PageFault> {
    let flags = header(bytes, number)?;
    if flags & !FLAGS_IGNORED != FLAG_OVERFLOW {
        return Err(PageFault::Kind {
            page: number,
            flags,
            expected: FLAG_OVERFLOW,
        });
    }
    Ok(u32_at(bytes, 12).unwrap_or(0))
}
