//! Values in pieces: one that is too long for a part stands in its table's log in front of it, in records of its own.
//!
//! They are written when the transaction commits, so one that aborts has cost nothing; one that is refused then, or dropped, leaves
//! pieces that nothing names. Nobody waits until they are durable: where a part survives, all that stands in front of it in its
//! log does, too. A checkpoint that froze before the commit got its number doesn't have it, so until then the transaction's first
//! piece in each log keeps that from being released.

mod behind;

use std::{collections::BTreeMap, sync::Arc};

use crate::{env::Env, plant::planted, wal::Lsn};

use super::{
    catalog::{Catalog, TableInfo},
    commit::{Writes, logged, not_appended},
    error::CommitError,
    ids::{TableId, TxnId},
    redo::{Lob, LobRef, Record},
    shared::Shared,
    storage::Storage,
};

/// The first piece of each transaction that has no number yet, by log.
pub(super) type Pieces = BTreeMap<(u8, TxnId), Lsn>;

/// The values of a transaction that stand in pieces.
pub(super) type Refs<'a> = BTreeMap<(TableId, &'a [u8]), LobRef>;

/// What one transaction has written in pieces. While it lives no log is released beyond them.
pub(super) struct Lobs<'a, E: Env, S: Storage<E>> {
    shared: &'a Shared<E, S>,
    txn: TxnId,
    /// Whether there may be a piece, now or later.
    pub(super) any: bool,
    pub(super) refs: Refs<'a>,
    /// The planted bug: pieces that come after their part.
    pub(super) behind: Vec<(u8, Vec<u8>)>,
}

impl<E: Env, S: Storage<E>> Drop for Lobs<'_, E, S> {
    fn drop(&mut self) {
        if self.any {
            self.shared.commit().pieces.retain(|(_, txn), _| *txn != self.txn);
        }
    }
}

impl<E: Env, S: Storage<E>> Shared<E, S> {
    /// Whether a value is written in pieces, where its table is logged.
    pub(super) fn is_large(&self, value: &[u8]) -> bool {
        self.is_logged() && value.len() as u64 > self.options.lob_bytes
    }

    /// Writes the large values of a transaction. Waits for room.
    pub(super) async fn write_lobs<'a>(
        &'a self,
        txn: TxnId,
        writes: Writes<'a>,
    ) -> Result<Lobs<'a, E, S>, CommitError> {
        let mut lobs = self.no_lobs(txn);
        lobs.any = self.may_be_large(writes);
        if !lobs.any || planted!(self.options.plants(), TxnLobBehind) {
            return Ok(lobs);
        }
        let catalog = Arc::clone(&self.horizon.view().catalog);
        for (info, key, value) in self.large(&catalog, writes) {
            lobs.refs.insert((info.id, key), self.write_lob(txn, info.log, value).await?);
        }
        Ok(lobs)
    }

    /// Of a transaction without large values.
    pub(super) fn no_lobs<'a>(&'a self, txn: TxnId) -> Lobs<'a, E, S> {
        Lobs { shared: self, txn, any: false, refs: Refs::new(), behind: Vec::new() }
    }

    /// Whether a value among them may be large: no look at each.
    fn may_be_large(&self, writes: Writes<'_>) -> bool {
        self.is_logged() && matches!(writes, Writes::Set(set) if set.bytes() as u64 > self.options.lob_bytes)
    }

    /// The large values among the writes to tables that are logged. (A single write of one is done as a transaction.)
    fn large<'c, 'a>(
        &'c self,
        catalog: &'c Catalog,
        writes: Writes<'a>,
    ) -> impl Iterator<Item = (&'c TableInfo, &'a [u8], &'a [u8])> {
        let set = match writes {
            Writes::Set(set) => Some(set),
            Writes::One(..) | Writes::Create(..) | Writes::Drop(_) => None,
        };
        set.into_iter().flat_map(|set| set.tables()).flat_map(move |(table, writes)| {
            let info = logged(catalog, table);
            let large =
                writes.filter_map(|(key, after)| Some((key, after.as_deref().filter(|value| self.is_large(value))?)));
            large.filter_map(move |(key, value)| Some((info?, key, value)))
        })
    }

    async fn write_lob(&self, txn: TxnId, log: u8, value: &[u8]) -> Result<LobRef, CommitError> {
        let (mut record, mut pieces, mut last) = (Vec::new(), 0, None);
        for data in value.chunks(self.options.lob_bytes as usize) {
            if pieces > 0 {
                // Others commit in between.
                self.env.yield_now().await;
            }
            encode(&mut record, Lob { piece: pieces, txn, previous: last, data });
            last = Some(self.append_piece(txn, log, &record).await?);
            pieces += 1;
        }
        Ok(LobRef { bytes: value.len() as u64, crc: crc32fast::hash(value), pieces, last: last.unwrap_or_default() })
    }

    async fn append_piece(&self, txn: TxnId, log: u8, record: &[u8]) -> Result<Lsn, CommitError> {
        loop {
            let lacking = {
                let mut pipeline = self.commit();
                self.alive()?;
                match pipeline.as_mut().room(usize::from(log), record.len()) {
                    Err(lacking) => lacking,
                    Ok(()) => {
                        let lsn = pipeline.as_mut().append(usize::from(log), record);
                        pipeline.pieces.entry((log, txn)).or_insert(lsn);
                        self.logged(record.len() as u64);
                        return Ok(lsn);
                    }
                }
            };
            self.logs.make_way(lacking).await.map_err(not_appended)?;
        }
    }
}

/// Puts a piece in place of what is in `record`.
fn encode(record: &mut Vec<u8>, lob: Lob<'_>) {
    record.clear();
    Record::Lob(lob)
        .encode(record)
        .expect("the options keep pieces within their limits, and each log's numbers begin with 1");
}
