//! Transactions over the log: named ordered tables, versions in memory above immutable pages, redo in one or several logs.
//!
//! [`Store`] is what a user opens. What a commit promises is the sync type ([`options::Sync`]):
//!
//! | sync | a commit returns | a process kill loses | a power cut loses |
//! |---|---|---|---|
//! | `instant` | when it is durable | nothing | nothing |
//! | `periodic` | at once, or when the next sync is overdue | what was not handed to the system yet | what was committed within one and a half periods, and the time of a sync, at most |
//! | `no_sync` | at once | what was committed since the last checkpoint | the same |
//!
//! Whatever is lost is an end of the order of commits: each commit is there as a whole or not at all, and none without those before it.
//! What others read before it is durable (see [`Visibility`]) a power cut may take back, together with all that was made of it.
//!
//! `docs/transactions.md` has the design, and what of it is built.

use std::{path::Path, sync::Arc};

use crate::env::{Dir, Env};

pub mod blocking;

mod backup;
mod check;

mod import;
mod loader;

mod keeper;

mod open;

mod scan;
mod table;
mod transaction;

mod checkpoint;
mod loads;

mod commit;
mod durability;
mod lob;
mod logged;
mod shared;

mod explain;
mod stats;

pub mod error;
pub mod options;

mod recover;

mod crew;

pub mod progress;

mod logs;

mod validate;

mod locks;

mod undo;

mod blocks;
mod generation;
mod overlay;
mod view;
mod volatile;

pub mod storage;

pub mod memory;

pub mod pages;

pub mod index;

pub mod catalog;

pub mod redo;

pub mod ids;

pub use backup::{BackupError, BackupReport};
pub use check::{CheckReport, Finding, Wrong};
pub use checkpoint::CheckpointReport;
pub use explain::{Explanation, Loss};
pub use import::{ImportError, ImportReport, Tell};
pub use loader::{LoadError, LoadReport, Loader};
pub use open::RecoveryReport;
pub use recover::indexes::UnusableIndex;
pub use scan::Scan;
pub use stats::{Stats, StorageStats};
pub use table::Table;
pub use transaction::{Commit, Retry, Ticket, Tx};
pub use view::Visibility;

use catalog::{CatalogError, TableInfo, TableKind};
use commit::{Candidate, Rejected, Writes};
use error::{CheckpointError, CommitError, OpenError, SyncError, TableError, TxError};
use ids::Csn;
use index::Entries;
use keeper::Keeper;
use logs::LogsError;
use options::{Isolation, Options, TableOptions, TxOptions};
use pages::Pages;
use shared::{Shared, lock};
use storage::{Storage, Value};

/// A handle of an open store. Clones are the same store.
///
/// ```
/// use engine::{env::{OsEnv, block_on}, txn::{Store, options::{Options, Sync, TxOptions}}};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("store");
/// let options = Options { sync: Sync::Instant, ..Options::default() };
/// block_on(async {
///     let (store, _) = <Store<OsEnv>>::open(OsEnv, &path, options.clone()).await?;
///     let accounts = store.create_table("accounts").await?;
///     let mut tx = store.begin(TxOptions::default())?;
///     tx.put(&accounts, b"alice", b"70").await?;
///     tx.put(&accounts, b"bob", b"30").await?;
///     assert!(tx.commit().await?.durable);
///     store.close().await?;
///
///     let (store, report) = <Store<OsEnv>>::open(OsEnv, &path, options).await?;
///     assert!(!report.created);
///     let accounts = store.table("accounts")?;
///     assert_eq!(store.get(&accounts, b"bob").await?.as_deref(), Some(&b"30"[..]));
///     store.close().await?;
///     Ok::<(), Box<dyn std::error::Error>>(())
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Store<E: Env, S: Storage<E> = Pages<E>> {
    shared: Arc<Shared<E, S>>,
    keeper: Arc<Keeper<E, S>>,
    lock: Arc<crate::sync::Mutex<Option<<E::Dir as Dir>::Lock>>>,
}

impl<E: Env, S: Storage<E>> Clone for Store<E, S> {
    fn clone(&self) -> Self {
        Store { shared: Arc::clone(&self.shared), keeper: Arc::clone(&self.keeper), lock: Arc::clone(&self.lock) }
    }
}

impl<E: Env, S: Storage<E>> Store<E, S> {
    /// Opens the store in a directory, or creates it. What is there then is durable.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(env: E, path: &Path, options: Options) -> Result<(Store<E, S>, RecoveryReport), OpenError> {
        let (shared, lock, report) = open::open(env, path, options).await?;
        let shared = Arc::new(shared);
        let keeper = Keeper::spawn(&shared);
        let keeper = keeper
            .map_err(|error| OpenError::Io(crate::failure::Failure::new("start", "the store's background", &error)))?;
        let lock = Arc::new(crate::sync::Mutex::new(Some(lock)));
        Ok((Store { shared, keeper: Arc::new(keeper), lock }, report))
    }

    /// What [`Store::open`] with these options would show: delivers each row of each table, by table and key. Changes no byte.
    ///
    /// # Errors
    /// As [`Store::open`]; [`OpenError::NotFound`] where there is no store, whatever `create` says.
    pub async fn verify(
        env: E,
        path: &Path,
        options: Options,
        mut deliver: impl FnMut(&TableInfo, &[u8], &[u8]) + Send,
    ) -> Result<RecoveryReport, OpenError> {
        open::verify::<E, S>(env, path, options, &mut deliver).await
    }

    /// Looks at everything: both root copies, every page that the newest root leads to against who names it, which pages are in use
    /// against which are named, the chunk files' headers, every record of every log, and what an open would say. Changes no byte, and
    /// reports all that is wrong, not just the first. It takes as long as reading all of the store.
    ///
    /// ```
    /// # use engine::{env::{OsEnv, block_on}, txn::{Store, options::Options}};
    /// # let folder = tempfile::tempdir()?;
    /// # block_on(async {
    /// let (store, _) = <Store<OsEnv>>::open(OsEnv, folder.path(), Options::default()).await?;
    /// store.close().await?;
    /// let report = <Store<OsEnv>>::check(OsEnv, folder.path(), Options::default()).await?;
    /// assert!(report.is_clean());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// What makes a look impossible: [`OpenError::Options`], [`OpenError::NotFound`], [`OpenError::Locked`], [`OpenError::Io`].
    /// Why an open would be refused otherwise is [part of the report](CheckReport::refused).
    pub async fn check(env: E, path: &Path, options: Options) -> Result<CheckReport, OpenError> {
        check::check::<E, S>(env, path, options).await
    }

    /// Creates a table of rows.
    ///
    /// # Errors
    /// [`TableError`].
    pub async fn create_table(&self, name: &str) -> Result<Table, TableError> {
        self.create_table_with(name, TableOptions::default()).await
    }

    /// Creates a table of any kind. What is committed to one of [`TableKind::Memory`] survives no crash, and no close.
    ///
    /// An index is derived by a function of [`Options::indexes`] from the rows that there are, then with each commit that writes them;
    /// who writes them waits until it is there. All its entries must fit into memory. A snapshot that is older than an index sees none
    /// of it.
    ///
    /// ```
    /// # use engine::{env::{OsEnv, block_on}, txn::{Store, catalog::TableKind, options::{Options, TableOptions}}};
    /// use engine::txn::index::Functions;
    ///
    /// let by_city = |key: &[u8], city: &[u8], tell: &mut dyn FnMut(&[u8], &[u8])| tell(&[city, b"/", key].concat(), b"");
    /// let options = Options { indexes: Functions::default().with("by city", by_city), ..Options::default() };
    /// # let folder = tempfile::tempdir()?;
    /// # block_on(async {
    /// let (store, _) = <Store<OsEnv>>::open(OsEnv, folder.path(), options).await?;
    /// let people = store.create_table("people").await?;
    /// store.put(&people, b"ann", b"Oslo").await?;
    /// let kind = TableKind::Index { of: people.id(), derive: "by city".into() };
    /// let by_city = store.create_table_with("people by city", TableOptions { kind }).await?;
    /// store.put(&people, b"bea", b"Bern").await?;
    /// assert!(store.get(&by_city, b"Oslo/ann").await?.is_some() && store.get(&by_city, b"Bern/bea").await?.is_some());
    /// # store.close().await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`TableError`].
    pub async fn create_table_with(&self, name: &str, options: TableOptions) -> Result<Table, TableError> {
        if !(1..=redo::MAX_NAME_BYTES).contains(&(name.len() as u64)) {
            return Err(TableError::Name(name.len()));
        }
        match &options.kind {
            TableKind::Index { of, derive } => self.create_index(name, &options.kind, *of, derive).await?,
            kind => self.change_catalog(Writes::Create(name, kind, &Entries::new()), name).await?,
        }
        self.table(name).map_err(|error| TableError::Commit(error.into()))
    }

    /// Drops a table with all its rows. Transactions that have begun read it on; what they write to it is left out.
    ///
    /// # Errors
    /// [`TableError`].
    pub async fn drop_table(&self, name: &str) -> Result<(), TableError> {
        let table = self.table(name).map_err(|_| TableError::Unknown(name.to_owned()))?;
        let dropped = self.change_catalog(Writes::Drop(table.id()), name).await;
        dropped.map_err(|error| match error {
            TableError::HasIndex(_) => {
                let catalog = Arc::clone(&self.shared.horizon.view().catalog);
                let index = catalog.indexes_of(table.id()).next().map(|index| index.name.to_string());
                TableError::HasIndex(index.unwrap_or_default())
            }
            error => error,
        })
    }

    async fn change_catalog(&self, writes: Writes<'_>, name: &str) -> Result<(), TableError> {
        let txn = self.shared.next_txn().map_err(CommitError::Not)?;
        let candidate = Candidate { txn, writes, owner: None, reads: None };
        let accepted = self.shared.accept(&candidate).await.map_err(|rejected| not_changed(rejected, name))?;
        self.shared.settle(&accepted).await?;
        Ok(())
    }

    /// A table by its name.
    ///
    /// # Errors
    /// [`TxError::UnknownTable`].
    pub fn table(&self, name: &str) -> Result<Table, TxError> {
        let view = self.shared.horizon.view();
        let table = view.catalog.named(name).cloned().map(Table);
        table.ok_or_else(|| TxError::UnknownTable(name.to_owned()))
    }

    /// All tables, by number.
    #[must_use]
    pub fn tables(&self) -> Vec<Arc<TableInfo>> {
        self.shared.horizon.view().catalog.tables().cloned().collect()
    }

    /// Begins a transaction. Never waits.
    ///
    /// # Errors
    /// [`TxError::Closed`], [`TxError::Poisoned`].
    pub fn begin(&self, options: TxOptions) -> Result<Tx<E, S>, TxError> {
        Tx::begin(Arc::clone(&self.shared), options)
    }

    /// Sets a key, as a transaction of its own.
    ///
    /// # Errors
    /// [`CommitError`].
    pub async fn put(&self, table: &Table, key: &[u8], value: &[u8]) -> Result<Commit, CommitError> {
        self.shared.check_value(value)?;
        self.write(table, key, Some(value)).await
    }

    /// Removes a key, as a transaction of its own; nothing happens if there is none.
    ///
    /// # Errors
    /// [`CommitError`].
    pub async fn delete(&self, table: &Table, key: &[u8]) -> Result<Commit, CommitError> {
        self.write(table, key, None).await
    }

    async fn write(&self, table: &Table, key: &[u8], after: Option<&[u8]>) -> Result<Commit, CommitError> {
        let shared = &self.shared;
        table.check_own_writes()?;
        shared.check_key(key)?;
        if after.is_some_and(|value| shared.is_large(value)) {
            return self.write_locked(table, key, after).await;
        }
        let txn = shared.next_txn()?;
        let writes = Writes::One(table, key, after);
        match shared.accept(&Candidate { txn, writes, owner: None, reads: None }).await {
            Ok(accepted) => Ok(Commit { csn: accepted.csn, durable: shared.settle(&accepted).await? }),
            Err(Rejected::Never(error)) => Err(error),
            Err(Rejected::RowTaken | Rejected::Catalog(_)) => self.write_locked(table, key, after).await,
        }
    }

    /// Writes a row under its lock: somebody had it, or the row's indexes change with it.
    async fn write_locked(&self, table: &Table, key: &[u8], after: Option<&[u8]>) -> Result<Commit, CommitError> {
        let mut retry_of = None;
        loop {
            let options = TxOptions { isolation: Isolation::ReadCommitted, retry_of, ..TxOptions::default() };
            let mut tx = self.begin(options)?;
            let written = match after {
                Some(value) => tx.put(table, key, value).await,
                None => tx.delete(table, key).await,
            };
            let committed = match written {
                Ok(()) => tx.commit().await,
                Err(error) => Err(error.into()),
            };
            match committed {
                // An older one took the row meanwhile.
                Err(error) if error.is_retryable() => retry_of = Some(tx.retry()),
                result => return result,
            }
        }
    }

    /// The newest visible value of a key.
    ///
    /// # Errors
    /// [`TxError`].
    pub async fn get(&self, table: &Table, key: &[u8]) -> Result<Option<Value>, TxError> {
        self.shared.alive()?;
        self.shared.read_visible(table, key).await
    }

    /// The newest visible value of each of some keys, in their order. Of a table that is larger than the processor's caches some
    /// hundred keys in a call are read in about two fifths of the time of as many calls of [`Store::get`], since their pages are waited for
    /// side by side (group prefetching: Chen, Ailamaki, Gibbons, Mowry, ICDE 2004). What has to come from the
    /// disk is read one after the other. Each key is read at a moment of its own; [`Tx::get_many`] reads all at one.
    ///
    /// # Errors
    /// [`TxError`].
    pub async fn get_many<K: AsRef<[u8]>>(&self, table: &Table, keys: &[K]) -> Result<Vec<Option<Value>>, TxError> {
        self.shared.alive()?;
        let keys: Vec<&[u8]> = keys.iter().map(AsRef::as_ref).collect();
        self.shared.read_many_visible(table, &keys).await
    }

    /// Makes everything committed so far durable; the last commit of it.
    ///
    /// # Errors
    /// [`SyncError`].
    pub async fn sync(&self) -> Result<Csn, SyncError> {
        self.shared.sync().await
    }

    /// Waits until a commit is durable.
    ///
    /// # Errors
    /// [`SyncError`].
    pub async fn wait_durable(&self, csn: Csn) -> Result<(), SyncError> {
        self.shared.wait_durable(csn).await
    }

    /// The life of the store that this is.
    #[must_use]
    pub fn epoch(&self) -> ids::Epoch {
        self.shared.epoch
    }

    /// The last commit.
    #[must_use]
    pub fn committed(&self) -> Csn {
        self.shared.horizon.committed()
    }

    /// The last commit that survives a power cut, and all before it do.
    #[must_use]
    pub fn durable(&self) -> Csn {
        self.shared.horizon.durable()
    }

    /// The last commit that is seen by what begins now.
    #[must_use]
    pub fn visible(&self) -> Csn {
        self.shared.horizon.visible()
    }

    /// What it promises: what a commit waits for, what a crash takes at most, what others see before that.
    #[must_use]
    pub fn explain(&self) -> Explanation {
        self.shared.explain()
    }

    /// What it has done since it was opened, and what it holds. Takes no time to speak of.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Puts everything committed so far into tables on the disk, and lets the logs go of it. Others go on meanwhile.
    ///
    /// # Errors
    /// [`CheckpointError`]; the logs hold everything all the same.
    pub async fn checkpoint(&self) -> Result<CheckpointReport, CheckpointError> {
        self.shared.checkpoint().await
    }

    /// Copies the store into an empty directory (its last component is created), where it opens as a store of its own, with all that
    /// was committed before this was called. Others go on meanwhile. Interrupted or failed, what is there is refused by an open.
    ///
    /// # Errors
    /// [`BackupError`].
    pub async fn backup(&self, to: &Path) -> Result<BackupReport, BackupError> {
        self.shared.backup(to).await
    }

    /// Begins to build a table from rows in any order, fastest in ascending order, which is there as a whole once
    /// [`finish`](Loader::finish) returns, and not at all before. Nothing of it goes through the logs, and others go on meanwhile; its
    /// name is taken. Only [`TableKind::Rows`] can be loaded.
    ///
    /// ```
    /// # use engine::{env::{OsEnv, block_on}, txn::{Store, options::{Options, TableOptions}}};
    /// # let folder = tempfile::tempdir()?;
    /// # block_on(async {
    /// let (store, _) = <Store<OsEnv>>::open(OsEnv, folder.path(), Options::default()).await?;
    /// let mut loader = store.loader("numbers", TableOptions::default())?;
    /// for number in 0..1000_u32 {
    ///     loader.add(&number.to_be_bytes(), b"a number").await?;
    /// }
    /// assert_eq!(loader.finish().await?.rows, 1000);
    /// let numbers = store.table("numbers")?;
    /// assert!(store.get(&numbers, &7_u32.to_be_bytes()).await?.is_some());
    /// # store.close().await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn loader(&self, name: &str, options: TableOptions) -> Result<Loader<E, S>, LoadError> {
        Loader::new(&self.shared, name, &options)
    }

    /// Closes the store: makes everything durable, with a checkpoint if [`Options::checkpoint_at_close`] says so or nothing is
    /// logged, and releases the directory, whatever fails. Other handles refuse work from now on, and transactions that are open can't commit.
    ///
    /// # Errors
    /// [`CheckpointError`]: what was not durable before may be lost by a power cut.
    pub async fn close(self) -> Result<(), CheckpointError> {
        let shared = &self.shared;
        if shared.is_closed() {
            return Err(CheckpointError::Closed);
        }
        let mut result = Ok(());
        if shared.options.checkpoint_at_close || !shared.is_logged() {
            result = shared.checkpoint().await.map(drop);
        }
        if !shared.close() {
            return Err(CheckpointError::Closed);
        }
        self.keeper.stop().await;
        // What is not logged is durable by that checkpoint, or not at all: no log may state it.
        let last = if shared.is_logged() { shared.horizon.committed() } else { shared.horizon.durable() };
        let epoch = shared.epoch;
        let writers = shared.commit().take_writers();
        if let Some(writers) = writers {
            let closed = shared.logs.close(writers, epoch, last).await;
            let failed = |error: LogsError| CheckpointError::Log(error.to_string());
            result = result.and(closed.map_err(failed));
        }
        drop(lock(&self.lock).take());
        result
    }
}

/// Why the catalog was not changed; `name` is that of the table in question.
fn not_changed(rejected: Rejected, name: &str) -> TableError {
    let name = name.to_owned();
    match rejected {
        Rejected::Never(error) => TableError::Commit(error),
        Rejected::Catalog(CatalogError::NameTaken) => TableError::Exists(name),
        Rejected::Catalog(CatalogError::Indexed) => TableError::HasIndex(name),
        Rejected::Catalog(CatalogError::Range("id")) => TableError::TooMany,
        Rejected::Catalog(_) | Rejected::RowTaken => TableError::Unknown(name),
    }
}
