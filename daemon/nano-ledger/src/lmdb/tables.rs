//! The named tables of a ledger file: listing, walking and looking up their rows.

use crate::lmdb::error::LedgerError;
use crate::lmdb::file::LedgerFile;
use crate::lmdb::meta::{TREE_LEN, Tree};
use crate::lmdb::page::{NodeValue, Page, PageFault, PageKind};
use crate::lmdb::walk::{Entries, KeyOrder, Value};

/// More tables than any store version has; an LMDB file with more is something else.
const MAX_TABLES: usize = 64;

/// A named database of a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name, such as `accounts`.
    pub name: String,
    /// Its root.
    pub tree: Tree,
}

/// The table called `name`.
pub(crate) fn find<'a>(tables: &'a [Table], name: &str) -> Option<&'a Table> {
    tables.iter().find(|table| table.name == name)
}

impl LedgerFile {
    /// The named tables, in order of their names.
    ///
    /// # Errors
    ///
    /// [`LedgerError::NotALedger`] when the top tree holds other things than tables.
    pub fn tables(&self) -> Result<Vec<Table>, LedgerError> {
        let not_ours = |detail: &str| LedgerError::NotALedger {
            path: self.path().to_owned(),
            detail: format!("it is an LMDB file, but {detail}"),
        };
        if self.meta().main.flags != 0 {
            return Err(not_ours("its top tree is not a list of tables"));
        }
        let mut tables = Vec::new();
        let mut entries = Entries::new(
            self,
            "the list of tables",
            self.meta().main,
            KeyOrder::Bytes,
        );
        while let Some((name, value)) = entries.next_raw()? {
            if tables.len() == MAX_TABLES {
                return Err(not_ours("it has too many tables"));
            }
            let Value::Table(root) = value else {
                return Err(not_ours("it holds data outside of tables"));
            };
            let tree = Tree::parse(root)
                .filter(|_| root.len() == TREE_LEN)
                .ok_or_else(|| not_ours("a table has no root"))?;
            tables.push(Table {
                name: String::from_utf8_lossy(name).into_owned(),
                tree,
            });
        }
        Ok(tables)
    }

    /// Walks all entries of a table in the order of their keys.
    pub fn entries<'a>(&'a self, table: &'a Table) -> Entries<'a> {
        Entries::new(self, &table.name, table.tree, KeyOrder::Bytes)
    }

    /// Walks the list of free pages.
    pub(crate) fn free_entries(&self) -> Entries<'_> {
        Entries::new(
            self,
            "the list of free pages",
            self.meta().free,
            KeyOrder::Integer,
        )
    }

    /// The value of `key` in `table`, if it is there and not longer than a page.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Damaged`] when the pages on the way contradict the format.
    pub fn get(&self, table: &Table, key: &[u8]) -> Result<Option<Vec<u8>>, LedgerError> {
        let damaged = |fault| self.damaged(&table.name, fault);
        let Some(mut number) = table.tree.root else {
            return Ok(None);
        };
        let mut buffer = Vec::new();
        if !table.tree.is_plausible(self.meta().last_page) {
            let (depth, root) = (table.tree.depth, table.tree.root);
            return Err(damaged(PageFault::Root { depth, root }));
        }
        for _ in 1..table.tree.depth {
            self.read_page(&table.name, number, &mut buffer)?;
            let page = Page::new(&buffer, number, PageKind::Branch).map_err(damaged)?;
            // The last child whose separator is not above the key; the first has none.
            let mut low = 0;
            let mut high = page.len();
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                if page.key(middle).map_err(damaged)? <= key {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            number = page.child(low).map_err(damaged)?;
        }
        self.read_page(&table.name, number, &mut buffer)?;
        let page = Page::new(&buffer, number, PageKind::Leaf).map_err(damaged)?;
        for node in 0..page.len() {
            if page.key(node).map_err(damaged)? == key {
                return match page.value(node).map_err(damaged)? {
                    NodeValue::Inline { bytes, .. } => Ok(Some(bytes.to_vec())),
                    NodeValue::Overflow { page, len } => {
                        Err(damaged(PageFault::ValueLength { page, len }))
                    }
                };
            }
        }
        Ok(None)
    }
}
