//! The store of transactions as a subject: a log of records is what one table's counter and the rows of three others make together.
//!
//! A record is a row. Its LSN is allocated by the transaction that appends it: it reads the next one, puts the records under their
//! LSNs in tables that have logs of their own, a receipt that says how many there are, and what is next now. So clients meet in locks and
//! conflicts, every commit takes part in several logs, and whatever is there of a transaction in part shows (`txn/content.rs`).

mod care;
mod content;
mod damages;
mod files;
mod load;
mod seat;

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    ops::Bound,
    path::Path,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use engine::{
    env::Env,
    plant::Plants,
    txn::{
        Store, Table, Tx, Visibility,
        error::{CommitError, OpenError, TableError, TxError},
        ids::Csn,
        index::Functions,
        options::{Isolation, Options, Sync, TxOptions},
        pages::Pages,
        storage::{Direction, StorageError},
    },
    wal::{self, Durability},
};

pub use self::seat::Seat;
use self::{
    content::{Content, FIRST, META, NEXT, RECEIPTS, ROWS, number},
    seat::DERIVE,
};
use super::{NotAppended, NotRead, NotTruncated, Recovered, Refusal, Subject, UNREAD};
use crate::{plan::EngineOptions, truth::txn::entry};

/// Pages of 512 bytes, so that some tens of rows make a deep tree.
pub const SMALL_PAGE: usize = 480;
/// Pages as users have them.
pub const USUAL_PAGE: usize = engine::txn::pages::BODY_BYTES;

type Transaction<E, const B: usize> = Tx<E, Pages<E, B>>;

/// An open store, with pages of `B` bytes and a header.
pub struct Txn<E: Env, const B: usize> {
    store: Store<E, Pages<E, B>>,
    tables: Arc<Tables>,
    logged: bool,
    known: Arc<Mutex<Known>>,
}

impl<E: Env, const B: usize> Clone for Txn<E, B> {
    fn clone(&self) -> Self {
        let Txn { store, tables, logged, known } = self;
        Txn { store: store.clone(), tables: tables.clone(), logged: *logged, known: known.clone() }
    }
}

struct Tables {
    meta: Table,
    receipts: Table,
    rows: [Table; 3],
}

/// What was told to clients in this life.
#[derive(Default)]
struct Known {
    /// What was there when it was opened ends before this LSN.
    recovered: u64,
    next: u64,
    /// By the first LSN of each append: behind its last one, and its commit.
    commits: BTreeMap<u64, (u64, Csn)>,
}

/// What a transaction is to do.
enum Work<'a> {
    Append(&'a [Bytes]),
    /// Deletes the records below; what is the first then.
    Front(u64),
    /// Deletes the records from here on.
    Back(u64),
}

/// How a transaction of the subject ended well.
struct Committed {
    lsn: u64,
    durable: bool,
}

enum Failed {
    Definite(String),
    Indeterminate(u64, String),
}

impl<E: Env, const B: usize> Txn<E, B> {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does it in a transaction, over and over until nobody is in its way.
    async fn transact(&self, work: &Work<'_>, class: Durability) -> Result<Committed, Failed> {
        let definite = |error: CommitError| Failed::Definite(error.to_string());
        let mut retry_of = None;
        loop {
            let isolation = match work {
                Work::Append(records) if mark(records).is_multiple_of(4) => Isolation::Serializable,
                _ => Isolation::Snapshot,
            };
            let options = TxOptions { isolation, retry_of, ..TxOptions::default() };
            let mut tx = self.store.begin(options).map_err(|error| definite(error.into()))?;
            retry_of = Some(tx.retry());
            match self.attempt(&mut tx, work, class).await {
                Err(Attempt::Failed(error)) if error.is_retryable() => {}
                Err(Attempt::Failed(error)) => return Err(definite(error)),
                Err(Attempt::Unknown(lsn, error)) => return Err(Failed::Indeterminate(lsn, error.to_string())),
                Ok(committed) => return Ok(committed),
            }
        }
    }

    async fn attempt(
        &self,
        tx: &mut Transaction<E, B>,
        work: &Work<'_>,
        class: Durability,
    ) -> Result<Committed, Attempt> {
        let lsn = match work {
            Work::Append(records) => self.append_in(tx, records).await?,
            Work::Front(lsn) => self.front_in(tx, *lsn).await?,
            Work::Back(lsn) => self.back_in(tx, *lsn).await?,
        };
        let accepted = |csn: Csn| match work {
            Work::Append(records) => {
                let (mut known, end) = (self.known(), lsn + records.len() as u64);
                known.next = known.next.max(end);
                known.commits.insert(lsn, (end, csn));
            }
            Work::Front(_) => {}
            Work::Back(_) => {
                let mut known = self.known();
                known.commits.split_off(&lsn);
                known.commits.values_mut().for_each(|(end, _)| *end = lsn.min(*end));
                (known.next, known.recovered) = (lsn, known.recovered.min(lsn));
            }
        };
        let unknown = |error: CommitError| match error {
            error @ CommitError::Indeterminate { .. } => Attempt::Unknown(lsn, error),
            error => Attempt::Failed(error),
        };
        let durable = match class {
            Durability::Written => {
                let commit = tx.commit().await;
                if let Ok(csn) = commit.as_ref().map(|commit| commit.csn).or_else(|error| match error {
                    CommitError::Indeterminate { csn, .. } => Ok(*csn),
                    _ => Err(()),
                }) {
                    accepted(csn);
                }
                commit.map_err(unknown)?.durable
            }
            Durability::Sync | Durability::Buffered => {
                let ticket = tx.submit().await?;
                accepted(ticket.csn());
                let waits = class == Durability::Sync && self.logged;
                if waits {
                    ticket.durable().await.map_err(unknown)?;
                }
                waits
            }
        };
        Ok(Committed { lsn, durable })
    }

    /// Returns the first LSN of what it appends.
    async fn append_in(&self, tx: &mut Transaction<E, B>, records: &[Bytes]) -> Result<u64, CommitError> {
        let Tables { meta, receipts, .. } = &*self.tables;
        let next = counter(tx, meta, NEXT).await?;
        if (mark(records) + next).is_multiple_of(3) {
            tx.savepoint("before")?;
            self.rubbish(tx, next).await?;
            tx.rollback_to("before")?;
        }
        for (lsn, record) in (next..).zip(records) {
            tx.put(self.rows(lsn), &lsn.to_be_bytes(), record).await?;
        }
        let count = records.len() as u64;
        tx.put(receipts, &next.to_be_bytes(), &count.to_be_bytes()).await?;
        tx.put(meta, NEXT, &(next + count).to_be_bytes()).await?;
        Ok(next)
    }

    /// Deletes what is in front of `lsn`; returns the first LSN that is there then.
    async fn front_in(&self, tx: &mut Transaction<E, B>, lsn: u64) -> Result<u64, CommitError> {
        let Tables { meta, receipts, .. } = &*self.tables;
        let (first, next) = (counter(tx, meta, FIRST).await?, counter(tx, meta, NEXT).await?);
        let lsn = lsn.clamp(first, next);
        for (from, count) in self.receipts_in(tx, ..lsn).await? {
            if from + count <= lsn {
                tx.delete(receipts, &from.to_be_bytes()).await?;
            }
        }
        for lsn in first..lsn {
            tx.delete(self.rows(lsn), &lsn.to_be_bytes()).await?;
        }
        tx.put(meta, FIRST, &lsn.to_be_bytes()).await?;
        Ok(lsn)
    }

    /// Deletes the records from `lsn` on; returns it.
    async fn back_in(&self, tx: &mut Transaction<E, B>, lsn: u64) -> Result<u64, CommitError> {
        let Tables { meta, receipts, .. } = &*self.tables;
        let (first, next) = (counter(tx, meta, FIRST).await?, counter(tx, meta, NEXT).await?);
        let lsn = lsn.clamp(first, next);
        for (from, count) in self.receipts_in(tx, ..).await? {
            let key = from.to_be_bytes();
            if from >= lsn || lsn == first {
                tx.delete(receipts, &key).await?;
            } else if from + count > lsn {
                tx.put(receipts, &key, &(lsn - from).to_be_bytes()).await?;
            }
        }
        for lsn in lsn..next {
            tx.delete(self.rows(lsn), &lsn.to_be_bytes()).await?;
        }
        tx.put(meta, NEXT, &lsn.to_be_bytes()).await?;
        Ok(lsn)
    }

    async fn receipts_in(
        &self,
        tx: &mut Transaction<E, B>,
        range: impl std::ops::RangeBounds<u64>,
    ) -> Result<Vec<(u64, u64)>, CommitError> {
        let end = range.end_bound().map(|end| end.to_be_bytes());
        let end = end.as_ref().map(|end| end.as_slice());
        let mut scan = tx.scan(&self.tables.receipts, (Bound::Unbounded, end), Direction::Forward)?;
        let mut found = Vec::new();
        while let Some((key, value)) = scan.next().await? {
            found.push((number(key).unwrap_or(0), number(value).unwrap_or(0)));
        }
        Ok(found)
    }

    /// What must never be seen: rows behind the end, twice, a row that is gone, a counter that is wrong.
    async fn rubbish(&self, tx: &mut Transaction<E, B>, next: u64) -> Result<(), CommitError> {
        let last = next.saturating_sub(1).max(1);
        for (at, lsn) in (0_u64..).zip([next, next + 9, last, next + 9, last, next + 12]) {
            tx.put(self.rows(lsn), &lsn.to_be_bytes(), &at.to_be_bytes()).await?;
        }
        tx.delete(self.rows(last), &last.to_be_bytes()).await?;
        tx.put(&self.tables.meta, NEXT, &0_u64.to_be_bytes()).await?;
        tx.delete(&self.tables.receipts, &last.to_be_bytes()).await.map_err(CommitError::from)
    }

    /// A transaction that comes to nothing.
    async fn in_vain(&self, records: &[Bytes]) {
        let Ok(mut tx) = self.store.begin(TxOptions::default()) else { return };
        let Ok(next) = counter(&mut tx, &self.tables.meta, NEXT).await else { return };
        // Whether all of it was written or not, nothing of it counts.
        let _ = self.rubbish(&mut tx, next).await;
        if mark(records).is_multiple_of(2) {
            tx.abort();
        }
    }

    fn rows(&self, lsn: u64) -> &Table {
        &self.tables.rows[(lsn % 3) as usize]
    }

    /// The commit that appended a record, if that was in this life.
    fn commit_of(&self, lsn: u64) -> Option<Csn> {
        let known = self.known();
        known.commits.range(..=lsn).next_back().filter(|(_, (end, _))| lsn < *end).map(|(_, (_, csn))| *csn)
    }

    /// Everything, as one snapshot shows it.
    async fn content(&self) -> Result<Content, TxError> {
        let Tables { meta, receipts, rows } = &*self.tables;
        let tables = [meta, receipts].into_iter().chain(rows).cloned().collect();
        content_of(&self.store, tables).await
    }

    /// The front of the log was cut, or its back, and no crash takes that back.
    async fn cut(&self, work: Work<'_>) -> Result<u64, NotTruncated> {
        if !self.logged {
            return Err(NotTruncated::Definite("nothing is durable before a checkpoint".into()));
        }
        match self.transact(&work, Durability::Sync).await {
            Ok(Committed { lsn, .. }) => Ok(lsn),
            Err(Failed::Definite(why)) => Err(NotTruncated::Definite(why)),
            Err(Failed::Indeterminate(_, why)) => Err(NotTruncated::Indeterminate(why)),
        }
    }
}

/// How an attempt failed: not at all, or nobody knows.
enum Attempt {
    Failed(CommitError),
    Unknown(u64, CommitError),
}

impl From<CommitError> for Attempt {
    fn from(error: CommitError) -> Attempt {
        Attempt::Failed(error)
    }
}

/// Follows from the records, so that the same are always appended in the same way.
fn mark(records: &[Bytes]) -> u64 {
    records.iter().map(|record| record.len() as u64).sum()
}

async fn counter<E: Env, const B: usize>(
    tx: &mut Transaction<E, B>,
    meta: &Table,
    key: &[u8],
) -> Result<u64, CommitError> {
    let value = tx.get(meta, key).await?;
    Ok(value.and_then(|value| number(&value)).unwrap_or(1))
}

/// Everything in these tables, as one snapshot shows it.
async fn content_of<E: Env, const B: usize>(
    store: &Store<E, Pages<E, B>>,
    tables: Vec<Table>,
) -> Result<Content, TxError> {
    let mut tx = store.begin(TxOptions { read_only: true, ..TxOptions::default() })?;
    let mut content = Content::default();
    for table in tables {
        let mut scan = tx.scan(&table, (Bound::Unbounded, Bound::Unbounded), Direction::Forward)?;
        while let Some((key, value)) = scan.next().await? {
            content.take(table.id(), table.name(), key, value);
        }
    }
    Ok(content)
}

/// The longest value that a client may write.
fn most_value_bytes(engine: &EngineOptions) -> u64 {
    engine.max_record_bytes.min(engine.txn.cache_bytes / 4)
}

fn options(engine: &EngineOptions, plants: Plants) -> Options {
    let txn = &engine.txn;
    Options {
        logs: txn.logs,
        sync: txn.sync,
        sync_period: Duration::from_micros(txn.sync_period_us),
        sync_threshold: txn.sync_threshold,
        visibility: txn.visibility,
        cache_bytes: txn.cache_bytes,
        dirty_bytes: txn.dirty_bytes,
        checkpoint_period: Duration::from_micros(txn.checkpoint_period_us),
        checkpoint_at_close: txn.checkpoint_at_close,
        chunk_bytes: txn.chunk_bytes,
        checkpoint_piece_bytes: txn.piece_bytes,
        log_segment_bytes: engine.segment_bytes,
        log_buffer_bytes: engine.buffer_bytes,
        log_idle: Duration::from_micros(engine.idle_us),
        max_value_bytes: most_value_bytes(engine),
        indexes: Functions::default().with(DERIVE, |key, value, tell| {
            let (key, value) = entry(key, value);
            tell(&key, &value);
        }),
        max_txn_bytes: 1 << 20,
        lob_bytes: txn.lob_bytes,
        plants,
        ..Options::default()
    }
}

/// What an open with these options would complain of.
///
/// # Errors
/// The option that is out of range.
pub fn validate(engine: &EngineOptions) -> Result<(), wal::OptionsError> {
    options(engine, Plants::default()).validate()
}

fn refusal(error: &OpenError) -> Refusal {
    let io = match error {
        OpenError::Io(_) | OpenError::Storage(StorageError::Io { .. }) => true,
        OpenError::Log { source, .. } => matches!(source, wal::OpenError::Io { .. }),
        _ => false,
    };
    Refusal { io, message: error.to_string() }
}

fn not_read(error: &TxError) -> NotRead {
    match error {
        TxError::Storage(StorageError::Corrupt { .. }) => NotRead::Corrupt(error.to_string()),
        _ => NotRead::Refused(error.to_string()),
    }
}

/// A table, created if a crash was faster than the open before.
async fn table<E: Env, const B: usize>(store: &Store<E, Pages<E, B>>, name: &str) -> Result<Table, TableError> {
    match store.table(name) {
        Ok(table) => Ok(table),
        // (Under `Visibility::Durable` it is seen once it is durable, which is when this returns.)
        Err(_) => store.create_table(name).await,
    }
}

impl<E: Env, const B: usize> Subject<E> for Txn<E, B> {
    async fn open(env: E, path: &Path, engine: &EngineOptions, plants: Plants) -> Result<(Self, Recovered), Refusal> {
        let opened = <Store<E, Pages<E, B>>>::open(env, path, options(engine, plants)).await;
        let (store, report) = opened.map_err(|error| refusal(&error))?;
        // What was found is sound; only the machine can keep it from being read.
        let failed = |error: String| Refusal { io: true, message: error };
        let created = |error: TableError| failed(error.to_string());
        // As it was found, before anything is added to it.
        let mut tables = Vec::new();
        for info in store.tables() {
            tables.push(store.table(&info.name).map_err(|error| failed(error.to_string()))?);
        }
        let mut content = content_of(&store, tables).await.map_err(|error| match not_read(&error) {
            NotRead::Refused(message) => failed(message),
            NotRead::Missing(message) | NotRead::Corrupt(message) => {
                Refusal { io: false, message: format!("{UNREAD}{message}") }
            }
        })?;
        store.tables().iter().for_each(|info| content.there(info));
        let mut rows = Vec::new();
        for name in ROWS {
            rows.push(table(&store, name).await.map_err(created)?);
        }
        let rows = rows.try_into().map_err(|_| failed("three tables".into()))?;
        let meta = table(&store, META).await.map_err(created)?;
        let receipts = table(&store, RECEIPTS).await.map_err(created)?;
        let logged = engine.txn.sync != Sync::NoSync;
        let txn = Txn { store, tables: Arc::new(Tables { meta, receipts, rows }), logged, known: Arc::default() };
        let recovered = content.recovered(&report);
        let next = recovered.next();
        *txn.known() = Known { recovered: next, next, commits: BTreeMap::new() };
        Ok((txn, recovered))
    }

    async fn peek(env: impl Env, path: &Path, engine: &EngineOptions, plants: Plants) -> Result<Recovered, Refusal> {
        peek::<_, B>(env, path, options(engine, plants)).await
    }

    async fn append(&self, records: &[Bytes], _: bool, class: Durability) -> Result<(u64, Durability), NotAppended> {
        if records.is_empty() {
            return Err(NotAppended::Definite("nothing to append".into()));
        }
        if mark(records).is_multiple_of(5) {
            self.in_vain(records).await;
        }
        match self.transact(&Work::Append(records), class).await {
            Ok(Committed { lsn, durable: true }) => Ok((lsn, Durability::Sync)),
            Ok(Committed { lsn, durable: false }) => Ok((lsn, Durability::Buffered)),
            Err(Failed::Definite(why)) => Err(NotAppended::Definite(why)),
            Err(Failed::Indeterminate(lsn, _)) => Err(NotAppended::Indeterminate(lsn)),
        }
    }

    async fn sync(&self) -> Result<u64, String> {
        let next = self.next();
        self.store.sync().await.map_err(|error| error.to_string())?;
        Ok(next)
    }

    async fn wait(&self, lsn: u64) -> Result<(), String> {
        match self.commit_of(lsn) {
            Some(csn) => self.store.wait_durable(csn).await.map_err(|error| error.to_string()),
            // It was there when the store was opened.
            None if lsn < self.known().recovered => Ok(()),
            // It was taken back: that, and all before it, is to be durable.
            None => self.store.wait_durable(self.store.committed()).await.map_err(|error| error.to_string()),
        }
    }

    async fn read(&self, lsn: u64) -> Result<Bytes, NotRead> {
        if let Some(csn) = self.commit_of(lsn)
            && csn > self.store.visible()
        {
            self.store.wait_durable(csn).await.map_err(|error| NotRead::Refused(error.to_string()))?;
        }
        let value = self.store.get(self.rows(lsn), &lsn.to_be_bytes()).await;
        match value.map_err(|error| not_read(&error))? {
            Some(value) => Ok(Bytes::copy_from_slice(&value)),
            None => Err(NotRead::Missing("no such row".into())),
        }
    }

    async fn scan(&self) -> Result<Vec<(u64, Bytes)>, NotRead> {
        let content = self.content().await.map_err(|error| not_read(&error))?;
        match content.flaw() {
            None => Ok(content.into_records()),
            Some(flaw) => Err(NotRead::Corrupt(flaw)),
        }
    }

    fn next(&self) -> u64 {
        self.known().next
    }

    fn durable(&self) -> Option<u64> {
        let (durable, known) = (self.store.durable(), self.known());
        let ends = known.commits.values().filter(|(_, csn)| *csn <= durable).map(|(end, _)| *end);
        Some(ends.fold(known.recovered, u64::max))
    }

    async fn truncate_front(&self, lsn: u64) -> Result<u64, NotTruncated> {
        self.cut(Work::Front(lsn)).await
    }

    async fn truncate_back(&self, lsn: u64) -> Result<(), NotTruncated> {
        self.cut(Work::Back(lsn)).await.map(drop)
    }

    async fn follow(&self, _: u64) -> Result<Vec<(u64, Bytes)>, NotRead> {
        Err(NotRead::Refused("a store is not followed".into()))
    }

    /// All of them in one transaction, without waiting for it.
    async fn write(&self, records: &[Bytes]) -> Result<u64, NotAppended> {
        self.append(records, true, Durability::Buffered).await.map(|(lsn, _)| lsn)
    }

    /// A checkpoint.
    async fn rewrite(&self, wait: bool) -> Result<(), String> {
        let mut checkpoint = pin!(self.store.checkpoint());
        if wait {
            return checkpoint.await.map(drop).map_err(|error| error.to_string());
        }
        // Asked for once, it is made, whoever waits.
        let asked = poll_fn(|context| Poll::Ready(checkpoint.as_mut().poll(context))).await;
        match asked {
            Poll::Ready(Err(error)) => Err(error.to_string()),
            Poll::Ready(Ok(_)) | Poll::Pending => Ok(()),
        }
    }

    /// One checkpoint, and another behind it.
    async fn rewrite_soon(&self) -> Result<(), String> {
        Subject::rewrite(self, false).await?;
        Subject::rewrite(self, true).await
    }

    async fn switch(&self) -> Result<(), String> {
        Err("a store is not switched off".into())
    }

    async fn close(self) -> Result<(), String> {
        self.store.close().await.map_err(|error| error.to_string())
    }
}

async fn peek<E: Env, const B: usize>(env: E, path: &Path, options: Options) -> Result<Recovered, Refusal> {
    let mut content = Content::default();
    let verified = <Store<E, Pages<E, B>>>::verify(env, path, options, |table, key, value| {
        content.take(table.id, &table.name, key, value);
    });
    match verified.await {
        Ok(report) => Ok(content.recovered(&report)),
        Err(OpenError::NotFound) => Ok(content.nothing()),
        Err(error) => Err(refusal(&error)),
    }
}
