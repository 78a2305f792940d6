//! The tables of a ledger, open for writing.

use std::path::Path;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, RwTxn, WithoutTls};

use super::SyntheticError;
use crate::lmdb::env;

/// Map size of a node's default configuration.
const MAP_SIZE: usize = 256 << 30;

pub(super) type Db = Database<'static, Bytes, Bytes>;

/// An environment with the tables of store version 24.
pub(super) struct Store {
    env: Env<WithoutTls>,
    pub(super) accounts: Db,
    pub(super) blocks: Db,
    pub(super) heights: Db,
    pub(super) meta: Db,
    pub(super) online_weight: Db,
    pub(super) pending: Db,
    pub(super) weights: Db,
}

pub(super) fn failed_to(action: &'static str) -> impl FnOnce(heed::Error) -> SyntheticError {
    move |source| SyntheticError::Lmdb { action, source }
}

impl Store {
    /// Opens the environment at `path`, or makes it, and opens its tables, or makes them.
    pub(super) fn open(path: &Path) -> Result<Self, SyntheticError> {
        let env = env::open_for_generating(path, MAP_SIZE).map_err(failed_to("open the ledger"))?;
        let txn = env.write_txn().map_err(failed_to("begin a transaction"))?;
        let tables = env
            .create_databases_and_commit(txn, |opener, txn| {
                let mut table = |name| opener.create_database::<Bytes, Bytes>(txn, Some(name));
                // Empty in what is generated, but there.
                for name in ["final_votes", "peers", "pruned"] {
                    table(name)?;
                }
                let tables = [
                    table("accounts")?,
                    table("blocks")?,
                    table("confirmation_height")?,
                    table("meta")?,
                    table("online_weight")?,
                    table("pending")?,
                    table("rep_weights")?,
                ];
                Ok(CommitOrAbort::<_, ()>::Commit(tables))
            })
            .map_err(failed_to("open the tables"))?;
        let [
            accounts,
            blocks,
            heights,
            meta,
            online_weight,
            pending,
            weights,
        ] = tables.unwrap_commit();
        Ok(Self {
            env,
            accounts,
            blocks,
            heights,
            meta,
            online_weight,
            pending,
            weights,
        })
    }

    pub(super) fn begin(&self) -> Result<RwTxn<'_>, SyntheticError> {
        self.env
            .write_txn()
            .map_err(failed_to("begin a transaction"))
    }

    pub(super) fn sync(&self) -> Result<(), SyntheticError> {
        self.env.force_sync().map_err(failed_to("sync the ledger"))
    }
}

pub(super) fn put(
    db: Db,
    txn: &mut RwTxn<'_>,
    key: &[u8],
    value: &[u8],
) -> Result<(), SyntheticError> {
    db.put(txn, key, value).map_err(failed_to("write a row"))
}

pub(super) fn commit(txn: RwTxn<'_>) -> Result<(), SyntheticError> {
    txn.commit().map_err(failed_to("commit"))
}
