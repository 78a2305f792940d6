//! More blocks for an existing ledger, as a node adds them.

use std::ops::Bound;

use heed::RwTxn;

use super::SyntheticError;
use super::rows::{self, AccountRow, Block, Id};
use super::store::{Db, Store, commit, failed_to, put};
use crate::blocks::schema;
use crate::bytes::array_at;
use crate::random::Random;

/// Key and value.
type OwnedRow = (Vec<u8>, Vec<u8>);

/// Adds blocks to a ledger, transaction by transaction.
pub(super) struct Day<'s> {
    store: &'s Store,
    random: Random,
    second: u64,
}

impl<'s> Day<'s> {
    /// Continues from the ledger's state, from which the invented content follows.
    pub(super) fn begin(store: &'s Store) -> Result<Self, SyntheticError> {
        let txn = store.begin()?;
        let blocks = store
            .blocks
            .len(&txn)
            .map_err(failed_to("count the blocks"))?;
        let mut day = Self {
            store,
            random: Random::new(blocks),
            second: 0,
        };
        // Random accounts differ between ledgers; so shall their days.
        let (start, row) = day.random_account(&txn)?;
        let salt = u64::from_be_bytes(array_at(&start, 8).unwrap_or_default());
        day.random = Random::new(salt ^ blocks);
        day.second = row.second;
        Ok(day)
    }

    /// Adds `count` blocks in one transaction.
    pub(super) fn commit_blocks(&mut self, count: u64) -> Result<(), SyntheticError> {
        let mut txn = self.store.begin()?;
        for _ in 0..count {
            self.second += 1;
            if self.random.one_in(2) {
                self.send(&mut txn)?;
            } else {
                self.receive(&mut txn)?;
            }
        }
        // A sample every five minutes.
        if self.second % 300 < count {
            let (key, value) = rows::online_weight(self.second, schema::SUPPLY / 3);
            put(self.store.online_weight, &mut txn, &key, &value)?;
        }
        commit(txn)
    }

    /// A random account sends to another, or changes nothing but its head when it owns nothing.
    fn send(&mut self, txn: &mut RwTxn<'_>) -> Result<(), SyntheticError> {
        let (key, row) = self.random_account(txn)?;
        let amount = u128::from(self.random.next()).min(row.balance);
        let receiver = if self.random.one_in(5) {
            self.random.id()
        } else {
            self.random_account(txn)?.0
        };
        let balance = row.balance - amount;
        let hash = self.append(txn, key, Some(&row), balance, receiver, true)?;
        if amount > 0 {
            let send = rows::pending_key(&receiver, &hash);
            put(self.store.pending, txn, &send, &rows::pending(&key, amount))?;
        }
        Ok(())
    }

    /// A random send is received, opening its account if need be.
    fn receive(&mut self, txn: &mut RwTxn<'_>) -> Result<(), SyntheticError> {
        let key: [u8; 64] = {
            let mut start = [0; 64];
            self.random.fill(&mut start);
            match self.at_or_after(txn, self.store.pending, &start)? {
                Some((key, _)) => {
                    array_at(&key, 0).ok_or(SyntheticError::Row { table: "pending" })?
                }
                None => return self.send(txn),
            }
        };
        let row = self.get(txn, self.store.pending, &key)?;
        let pending = row.as_deref().and_then(schema::parse_pending);
        let pending = pending.ok_or(SyntheticError::Row { table: "pending" })?;
        let account: Id = array_at(&key, 0).unwrap_or_default();
        let send: Id = array_at(&key, 32).unwrap_or_default();
        self.store
            .pending
            .delete(txn, &key)
            .map_err(failed_to("delete a row"))?;
        let row = self.account(txn, &account)?;
        let balance = row.as_ref().map_or(0, |row| row.balance) + pending.amount;
        self.append(txn, account, row.as_ref(), balance, send, false)?;
        Ok(())
    }

    /// Appends a block to an account, with all rows that follow from it. Returns its hash.
    fn append(
        &mut self,
        txn: &mut RwTxn<'_>,
        key: Id,
        row: Option<&AccountRow>,
        balance: u128,
        link: Id,
        is_send: bool,
    ) -> Result<Id, SyntheticError> {
        let hash = self.random.id();
        let representative = match row {
            Some(row) => row.representative,
            None => self.random_account(txn)?.1.representative,
        };
        let old_balance = row.map_or(0, |row| row.balance);
        let height = row.map_or(0, |row| row.block_count) + 1;
        let previous = row.map_or([0; 32], |row| row.head);
        let block = Block {
            account: key,
            previous,
            representative,
            balance,
            link,
            successor: [0; 32],
            height,
            second: self.second,
            is_send,
        };
        put(
            self.store.blocks,
            txn,
            &hash,
            &block.encode(&mut self.random),
        )?;
        if height > 1 {
            let head = self.get(txn, self.store.blocks, &previous)?;
            let head = head.ok_or(SyntheticError::Row { table: "blocks" })?;
            // Blocks of the older kinds keep theirs elsewhere; let them be.
            if let Some(head) = rows::with_successor(&head, &hash) {
                put(self.store.blocks, txn, &previous, &head)?;
            }
        }
        let row = AccountRow {
            head: hash,
            representative,
            open: row.map_or(hash, |row| row.open),
            balance,
            second: self.second,
            block_count: height,
            epoch: row.map_or(AccountRow::EPOCH_0, |row| row.epoch),
        };
        put(self.store.accounts, txn, &key, &row.encode())?;
        self.move_weight(txn, &representative, old_balance, balance)?;
        // The last block of a few accounts is not cemented yet.
        if !self.random.one_in(50) {
            put(self.store.heights, txn, &key, &rows::height(height, &hash))?;
        }
        Ok(hash)
    }

    /// Replaces `old` by `new` in the weight of a representative.
    fn move_weight(
        &self,
        txn: &mut RwTxn<'_>,
        representative: &Id,
        old: u128,
        new: u128,
    ) -> Result<(), SyntheticError> {
        let weights = self.store.weights;
        let wrong = || SyntheticError::Row {
            table: "rep_weights",
        };
        let weight = match self.get(txn, weights, representative)? {
            Some(row) => schema::parse_weight(&row).ok_or_else(wrong)?,
            None => 0,
        };
        let weight = weight
            .checked_sub(old)
            .and_then(|rest| rest.checked_add(new))
            .ok_or_else(wrong)?;
        if weight == 0 {
            weights
                .delete(txn, representative)
                .map_err(failed_to("delete a row"))?;
            return Ok(());
        }
        put(weights, txn, representative, &weight.to_be_bytes())
    }

    fn random_account(&mut self, txn: &RwTxn<'_>) -> Result<(Id, AccountRow), SyntheticError> {
        let start = self.random.id();
        let (key, row) = self
            .at_or_after(txn, self.store.accounts, &start)?
            .ok_or(SyntheticError::Empty)?;
        let key = array_at(&key, 0).ok_or(SyntheticError::Row { table: "accounts" })?;
        let row = AccountRow::parse(&row).ok_or(SyntheticError::Row { table: "accounts" })?;
        Ok((key, row))
    }

    fn account(&self, txn: &RwTxn<'_>, key: &Id) -> Result<Option<AccountRow>, SyntheticError> {
        let Some(row) = self.get(txn, self.store.accounts, key)? else {
            return Ok(None);
        };
        AccountRow::parse(&row)
            .map(Some)
            .ok_or(SyntheticError::Row { table: "accounts" })
    }

    fn get(&self, txn: &RwTxn<'_>, db: Db, key: &[u8]) -> Result<Option<Vec<u8>>, SyntheticError> {
        Ok(db
            .get(txn, key)
            .map_err(failed_to("read a row"))?
            .map(<[u8]>::to_vec))
    }

    /// The row at or after a key, or the first one behind the end.
    fn at_or_after(
        &self,
        txn: &RwTxn<'_>,
        db: Db,
        start: &[u8],
    ) -> Result<Option<OwnedRow>, SyntheticError> {
        let read = |range: (Bound<&[u8]>, Bound<&[u8]>)| {
            let mut rows = db.range(txn, &range).map_err(failed_to("read a row"))?;
            let row = rows.next().transpose().map_err(failed_to("read a row"))?;
            Ok(row.map(|(key, value)| (key.to_vec(), value.to_vec())))
        };
        match read((Bound::Included(start), Bound::Unbounded))? {
            Some(row) => Ok(Some(row)),
            None => read((Bound::Unbounded, Bound::Unbounded)),
        }
    }
}
