//! The store without futures, on the real machine.
//!
//! ```
//! use engine::txn::{blocking::Store, options::{Options, Sync, TxOptions}, storage::Direction};
//!
//! let folder = tempfile::tempdir()?;
//! let (store, _) = Store::open(folder.path().join("store"), Options { sync: Sync::Instant, ..Options::default() })?;
//! let accounts = store.create_table("accounts")?;
//! store.put(&accounts, b"alice", b"100")?;
//!
//! let mut retry_of = None;
//! loop {
//!     let mut tx = store.begin(TxOptions { retry_of, ..TxOptions::default() })?;
//!     retry_of = Some(tx.retry()); // so that it gets older, should it lose
//!     tx.put(&accounts, b"alice", b"70")?;
//!     tx.put(&accounts, b"bob", b"30")?;
//!     match tx.commit() {
//!         Err(error) if error.is_retryable() => continue,
//!         committed => break committed?, // all of it or nothing, also after a power cut
//!     };
//! };
//!
//! let mut tx = store.begin(TxOptions::default())?;
//! let mut scan = tx.scan(&accounts, .., Direction::Forward)?;
//! let mut found = Vec::new();
//! while let Some((key, value)) = scan.next()? {
//!     found.push((key.to_vec(), value.to_vec()));
//! }
//! assert_eq!(found, [(b"alice".to_vec(), b"70".to_vec()), (b"bob".to_vec(), b"30".to_vec())]);
//! drop(scan);
//! drop(tx);
//! store.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::{ops::RangeBounds, path::Path, sync::Arc};

use crate::{
    env::{OsEnv, block_on},
    wal::{self, Lsn},
};

use super::{
    BackupError, BackupReport, CheckReport, CheckpointReport, Commit, Explanation, ImportError, ImportReport,
    LoadError, LoadReport, RecoveryReport, Retry, Stats, Table, Tell,
    catalog::TableInfo,
    error::{CheckpointError, CommitError, OpenError, SyncError, TableError, TxError},
    ids::{Csn, Epoch, TxnId},
    options::{Options, TableOptions, TxOptions},
    storage::{Direction, Value},
};

/// A handle of an open store; each call blocks the thread as [`super::Store`]'s futures would. Clones are the same store.
#[derive(Clone)]
pub struct Store(super::Store<OsEnv>);

impl Store {
    /// As [`super::Store::open`].
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<(Store, RecoveryReport), OpenError> {
        block_on(super::Store::open(OsEnv, path.as_ref(), options)).map(|(store, report)| (Store(store), report))
    }

    /// As [`super::Store::verify`].
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn verify(
        path: impl AsRef<Path>,
        options: Options,
        deliver: impl FnMut(&TableInfo, &[u8], &[u8]) + Send,
    ) -> Result<RecoveryReport, OpenError> {
        block_on(<super::Store<OsEnv>>::verify(OsEnv, path.as_ref(), options, deliver))
    }

    /// As [`super::Store::check`].
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn check(path: impl AsRef<Path>, options: Options) -> Result<CheckReport, OpenError> {
        block_on(<super::Store<OsEnv>>::check(OsEnv, path.as_ref(), options))
    }

    /// As [`super::Store::create_table`].
    ///
    /// # Errors
    /// [`TableError`].
    pub fn create_table(&self, name: &str) -> Result<Table, TableError> {
        block_on(self.0.create_table(name))
    }

    /// As [`super::Store::create_table_with`].
    ///
    /// # Errors
    /// [`TableError`].
    pub fn create_table_with(&self, name: &str, options: TableOptions) -> Result<Table, TableError> {
        block_on(self.0.create_table_with(name, options))
    }

    /// As [`super::Store::drop_table`].
    ///
    /// # Errors
    /// [`TableError`].
    pub fn drop_table(&self, name: &str) -> Result<(), TableError> {
        block_on(self.0.drop_table(name))
    }

    /// As [`super::Store::table`].
    ///
    /// # Errors
    /// [`TxError::UnknownTable`].
    pub fn table(&self, name: &str) -> Result<Table, TxError> {
        self.0.table(name)
    }

    /// As [`super::Store::tables`].
    #[must_use]
    pub fn tables(&self) -> Vec<Arc<TableInfo>> {
        self.0.tables()
    }

    /// As [`super::Store::begin`].
    ///
    /// # Errors
    /// [`TxError::Closed`], [`TxError::Poisoned`].
    pub fn begin(&self, options: TxOptions) -> Result<Tx, TxError> {
        self.0.begin(options).map(Tx)
    }

    /// As [`super::Store::put`].
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn put(&self, table: &Table, key: &[u8], value: &[u8]) -> Result<Commit, CommitError> {
        block_on(self.0.put(table, key, value))
    }

    /// As [`super::Store::delete`].
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn delete(&self, table: &Table, key: &[u8]) -> Result<Commit, CommitError> {
        block_on(self.0.delete(table, key))
    }

    /// As [`super::Store::get`].
    ///
    /// # Errors
    /// [`TxError`].
    pub fn get(&self, table: &Table, key: &[u8]) -> Result<Option<Value>, TxError> {
        block_on(self.0.get(table, key))
    }

    /// As [`super::Store::get_many`].
    ///
    /// # Errors
    /// [`TxError`].
    pub fn get_many<K: AsRef<[u8]>>(&self, table: &Table, keys: &[K]) -> Result<Vec<Option<Value>>, TxError> {
        block_on(self.0.get_many(table, keys))
    }

    /// As [`super::Store::sync`].
    ///
    /// # Errors
    /// [`SyncError`].
    pub fn sync(&self) -> Result<Csn, SyncError> {
        block_on(self.0.sync())
    }

    /// As [`super::Store::wait_durable`].
    ///
    /// # Errors
    /// [`SyncError`].
    pub fn wait_durable(&self, csn: Csn) -> Result<(), SyncError> {
        block_on(self.0.wait_durable(csn))
    }

    /// As [`super::Store::epoch`].
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.0.epoch()
    }

    /// As [`super::Store::committed`].
    #[must_use]
    pub fn committed(&self) -> Csn {
        self.0.committed()
    }

    /// As [`super::Store::durable`].
    #[must_use]
    pub fn durable(&self) -> Csn {
        self.0.durable()
    }

    /// As [`super::Store::visible`].
    #[must_use]
    pub fn visible(&self) -> Csn {
        self.0.visible()
    }

    /// As [`super::Store::stats`].
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }

    /// As [`super::Store::explain`].
    #[must_use]
    pub fn explain(&self) -> Explanation {
        self.0.explain()
    }

    /// As [`super::Store::checkpoint`].
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn checkpoint(&self) -> Result<CheckpointReport, CheckpointError> {
        block_on(self.0.checkpoint())
    }

    /// As [`super::Store::backup`].
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn backup(&self, to: impl AsRef<Path>) -> Result<BackupReport, BackupError> {
        block_on(self.0.backup(to.as_ref()))
    }

    /// As [`super::Store::loader`].
    ///
    /// ```
    /// # use engine::txn::{blocking::Store, options::{Options, TableOptions}};
    /// # let folder = tempfile::tempdir()?;
    /// let (store, _) = Store::open(folder.path(), Options::default())?;
    /// let mut loader = store.loader("numbers", TableOptions::default())?;
    /// for number in 0..1000_u32 {
    ///     loader.add(&number.to_be_bytes(), b"a number")?;
    /// }
    /// assert_eq!(loader.finish()?.rows, 1000);
    /// # store.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn loader(&self, name: &str, options: TableOptions) -> Result<Loader, LoadError> {
        self.0.loader(name, options).map(Loader)
    }

    /// As [`super::Store::import`].
    ///
    /// # Errors
    /// [`ImportError`].
    pub fn import(
        &self,
        source: impl AsRef<Path>,
        options: wal::Options,
        progress: (&Table, &[u8]),
        translate: impl FnMut(Lsn, &[u8], &mut Tell<'_>) -> Result<(), String> + Send,
    ) -> Result<ImportReport, ImportError> {
        block_on(self.0.import(source.as_ref(), options, progress, translate))
    }

    /// As [`super::Store::close`].
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn close(self) -> Result<(), CheckpointError> {
        block_on(self.0.close())
    }
}

/// A transaction; see [`super::Tx`]. Dropped, it aborts.
pub struct Tx(super::Tx<OsEnv>);

impl Tx {
    /// As [`super::Tx::id`].
    #[must_use]
    pub fn id(&self) -> TxnId {
        self.0.id()
    }

    /// As [`super::Tx::retry`].
    #[must_use]
    pub fn retry(&self) -> Retry {
        self.0.retry()
    }

    /// As [`super::Tx::snapshot`].
    #[must_use]
    pub fn snapshot(&self) -> Option<Csn> {
        self.0.snapshot()
    }

    /// As [`super::Tx::get`].
    ///
    /// # Errors
    /// [`TxError`].
    pub fn get(&mut self, table: &Table, key: &[u8]) -> Result<Option<Value>, TxError> {
        block_on(self.0.get(table, key))
    }

    /// As [`super::Tx::get_many`].
    ///
    /// # Errors
    /// [`TxError`].
    pub fn get_many<K: AsRef<[u8]>>(&mut self, table: &Table, keys: &[K]) -> Result<Vec<Option<Value>>, TxError> {
        block_on(self.0.get_many(table, keys))
    }

    /// As [`super::Tx::put`].
    ///
    /// # Errors
    /// [`TxError`].
    pub fn put(&mut self, table: &Table, key: &[u8], value: &[u8]) -> Result<(), TxError> {
        block_on(self.0.put(table, key, value))
    }

    /// As [`super::Tx::delete`].
    ///
    /// # Errors
    /// [`TxError`].
    pub fn delete(&mut self, table: &Table, key: &[u8]) -> Result<(), TxError> {
        block_on(self.0.delete(table, key))
    }

    /// As [`super::Tx::lock_table`].
    ///
    /// # Errors
    /// [`TxError`].
    pub fn lock_table(&mut self, table: &Table) -> Result<(), TxError> {
        block_on(self.0.lock_table(table))
    }

    /// As [`super::Tx::scan`].
    ///
    /// # Errors
    /// [`TxError`].
    pub fn scan<'a>(
        &'a mut self,
        table: &Table,
        range: impl RangeBounds<[u8]>,
        direction: Direction,
    ) -> Result<Scan<'a>, TxError> {
        self.0.scan(table, range, direction).map(Scan)
    }

    /// As [`super::Tx::prefix`].
    ///
    /// # Errors
    /// [`TxError`].
    pub fn prefix<'a>(&'a mut self, table: &Table, prefix: &[u8], direction: Direction) -> Result<Scan<'a>, TxError> {
        self.0.prefix(table, prefix, direction).map(Scan)
    }

    /// As [`super::Tx::savepoint`].
    ///
    /// # Errors
    /// [`TxError`].
    pub fn savepoint(&mut self, name: &str) -> Result<(), TxError> {
        self.0.savepoint(name)
    }

    /// As [`super::Tx::rollback_to`].
    ///
    /// # Errors
    /// [`TxError`].
    pub fn rollback_to(&mut self, name: &str) -> Result<(), TxError> {
        self.0.rollback_to(name)
    }

    /// As [`super::Tx::submit`].
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn submit(&mut self) -> Result<Ticket, CommitError> {
        block_on(self.0.submit()).map(Ticket)
    }

    /// As [`super::Tx::commit`].
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn commit(&mut self) -> Result<Commit, CommitError> {
        block_on(self.0.commit())
    }

    /// As [`super::Tx::abort`].
    pub fn abort(&mut self) {
        self.0.abort();
    }
}

/// A table that is built from rows; see [`super::Loader`]. Dropped, it leaves nothing.
pub struct Loader(super::Loader<OsEnv>);

impl Loader {
    /// As [`super::Loader::add`].
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), LoadError> {
        block_on(self.0.add(key, value))
    }

    /// As [`super::Loader::finish`].
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn finish(self) -> Result<LoadReport, LoadError> {
        block_on(self.0.finish())
    }
}

/// A commit that is accepted; see [`super::Ticket`].
pub struct Ticket(super::Ticket<OsEnv>);

impl Ticket {
    /// As [`super::Ticket::csn`].
    #[must_use]
    pub fn csn(&self) -> Csn {
        self.0.csn()
    }

    /// As [`super::Ticket::durable`].
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn durable(&self) -> Result<(), CommitError> {
        block_on(self.0.durable())
    }
}

/// A key with its value.
pub type Row<'a> = (&'a [u8], &'a [u8]);

/// A scan of a table; see [`super::Scan`].
pub struct Scan<'a>(super::Scan<'a, OsEnv, super::Pages<OsEnv>>);

impl Scan<'_> {
    /// As [`super::Scan::next`].
    ///
    /// # Errors
    /// [`TxError`].
    #[expect(
        clippy::should_implement_trait,
        reason = "what it lends ends with the next call, which no iterator's item does"
    )]
    pub fn next(&mut self) -> Result<Option<Row<'_>>, TxError> {
        block_on(self.0.next())
    }
}
