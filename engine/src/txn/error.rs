//! One error enum per operation; each says whether anything happened, and what to do next.

use std::{sync::Arc, time::Duration};

use thiserror::Error;

use crate::{
    failure::Failure,
    wal::{self, OptionsError},
};

use super::{
    ids::{Csn, TxnId},
    storage::StorageError,
};

/// Another transaction was there first. Remedy: begin again, with [`retry_of`](super::options::TxOptions::retry_of) this one.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Conflict {
    /// A row that this transaction would write was written since its snapshot.
    #[error("commit {newer} wrote the row since")]
    WriteWrite {
        /// The commit that did.
        newer: Csn,
    },
    /// An older transaction took a row that this one held.
    #[error("the older transaction {by} took its locks")]
    Wounded {
        /// That one.
        by: TxnId,
    },
    /// What a serializable transaction read has changed since.
    #[error("what it read in table {table} has changed since")]
    Read {
        /// The table's name, or its number if it was dropped.
        table: String,
    },
}

/// Why a statement of a transaction failed. Nothing of it took effect; where it says so, the transaction has ended.
#[derive(Clone, Debug, Error)]
pub enum TxError {
    /// There is no such table, or no longer. Remedy: create it, or look it up anew.
    #[error("there is no table '{0}'")]
    UnknownTable(String),
    /// The transaction has committed or aborted. Remedy: begin another.
    #[error("the transaction has ended")]
    Ended,
    /// It was begun as a read-only one. Remedy: begin one that may write.
    #[error("the transaction is read-only")]
    ReadOnly,
    /// Remedy: a shorter key.
    #[error("a key has {bytes} bytes, and may have {limit}")]
    KeyTooLarge {
        /// Its length, in bytes.
        bytes: u64,
        /// The longest that there can be, in bytes.
        limit: u64,
    },
    /// Remedy: raise `max_value_bytes`, or split it.
    #[error("a value has {bytes} bytes, and may have {limit}")]
    ValueTooLarge {
        /// Its length, in bytes.
        bytes: u64,
        /// `max_value_bytes`.
        limit: u64,
    },
    /// Remedy: raise `max_txn_bytes`, or use several transactions. What it wrote so far stays.
    #[error("the transaction would write {bytes} bytes, and may write {limit}")]
    TooLarge {
        /// All that it would have written, in bytes.
        bytes: u64,
        /// `max_txn_bytes`.
        limit: u64,
    },
    /// Remedy: set it first.
    #[error("there is no savepoint '{0}'")]
    UnknownSavepoint(String),
    /// An index is written by writing the rows that it is derived from.
    #[error("table '{0}' is an index, which is derived from rows")]
    IndexIsDerived(String),
    /// The index doesn't follow its rows: the store was opened without its function, or couldn't read what it is derived from; the
    /// [report](super::RecoveryReport::unusable) says which. Remedy: mend that and reopen the store, and it is derived anew; or drop it.
    #[error(
        "index '{0}' doesn't follow its rows, see the report of the open; drop it, or mend that and reopen the store"
    )]
    IndexUnusable(String),
    /// Another transaction was there first; this one has ended.
    #[error("conflict: {0}; begin again")]
    Conflict(#[from] Conflict),
    /// Another transaction held the row for too long. What this one holds is still held. Remedy: try again, or abort.
    #[error("the row was not free for {0:?}")]
    Timeout(Duration),
    /// What its snapshot held back took too much memory; it has ended. Remedy: begin again, and read faster.
    #[error("its snapshot is too old")]
    SnapshotTooOld,
    /// The disk didn't give what was asked for.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The store failed before. Remedy: reopen it.
    #[error("refused, since an earlier {0}")]
    Poisoned(Arc<Failure>),
    /// The store was closed. Remedy: open it.
    #[error("the store is closed")]
    Closed,
}

impl TxError {
    /// Whether the same transaction, begun again, may succeed without anything being mended.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, TxError::Conflict(_))
    }
}

/// Why a commit was not acknowledged.
#[derive(Clone, Debug, Error)]
pub enum CommitError {
    /// It is not committed, now or later.
    #[error(transparent)]
    Not(#[from] TxError),
    /// It is not committed: a log has no room for it, and none could be made. Remedy: as the failure says, then do it over.
    #[error("not committed: {0}")]
    NoRoom(Arc<Failure>),
    /// It is not committed: memory is full of versions, and no checkpoint can complete. Remedy: as the reason says, then do it over.
    #[error("not committed: memory is full, and no checkpoint completes: {0}")]
    Stalled(String),
    /// It was accepted, then the store failed: after a reopen it is there as a whole, or not at all. Remedy: reopen, and look.
    #[error("commit {csn} was accepted, but {failure}")]
    Indeterminate {
        /// Its number.
        csn: Csn,
        /// What failed.
        failure: Arc<Failure>,
    },
}

impl CommitError {
    /// Whether the same transaction, begun again, may succeed without anything being mended.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, CommitError::Not(error) if error.is_retryable())
    }
}

/// Why a table was not created or dropped.
#[derive(Clone, Debug, Error)]
pub enum TableError {
    /// Remedy: another name.
    #[error("there is a table '{0}'")]
    Exists(String),
    /// Remedy: 1 to 255 bytes.
    #[error("a table's name has 1 to 255 bytes, not {0}")]
    Name(usize),
    /// All numbers for tables are used. Remedy: a new store.
    #[error("all numbers for tables are used")]
    TooMany,
    /// There is no such table, or no longer.
    #[error("there is no table '{0}'")]
    Unknown(String),
    /// An index is derived from it. Remedy: drop that first.
    #[error("index '{0}' is derived from it; drop that first")]
    HasIndex(String),
    /// There is no function of this name among the [options](super::options::Options::indexes). Remedy: open the store with it.
    #[error("there is no function '{0}' to derive an index by")]
    UnknownFunction(String),
    /// An index is to be derived from something else than rows that are logged. Remedy: derive it from those.
    #[error("table '{0}' has no rows that an index can be derived from")]
    NotRows(String),
    /// It is done as a commit, and that failed.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Why a wait for durability failed.
#[derive(Clone, Debug, Error)]
pub enum SyncError {
    /// The store failed: what was not durable before is unknown until it is reopened.
    #[error("an earlier {0}")]
    Poisoned(Arc<Failure>),
    /// No such commit yet.
    #[error("commit {csn} is not there yet, the last is {committed}")]
    NotCommitted {
        /// The one that was asked for.
        csn: Csn,
        /// The last one.
        committed: Csn,
    },
    /// Nothing is logged with [`Sync::NoSync`](super::options::Sync::NoSync). Remedy: a checkpoint.
    #[error("nothing is logged under no_sync; a checkpoint makes it durable")]
    NotLogged,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// Why no checkpoint was made. The logs hold everything all the same.
#[derive(Clone, Debug, Error)]
pub enum CheckpointError {
    /// Nothing was published. Remedy: as it says; the next checkpoint tries again.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Whether the root was published is unknown. Remedy: reopen the store.
    #[error("whether the root was published is unknown: {0}; reopen the store")]
    Unknown(StorageError),
    /// A log failed. Remedy: reopen the store.
    #[error("a log: {0}")]
    Log(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// Why a store couldn't be opened. Nothing was changed, unless it says otherwise.
#[derive(Debug, Error)]
pub enum OpenError {
    /// An option is out of range. Remedy: correct it.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// A log couldn't be opened.
    #[error("log {log}: {source}")]
    Log {
        /// Its number.
        log: usize,
        /// Why.
        source: wal::OpenError,
    },
    /// The tables' storage couldn't be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The machine failed. Remedy: as it says, then retry; nothing was lost.
    #[error("{0}")]
    Io(Failure),
    /// Another handle or process has the store open. Remedy: close it there.
    #[error("the store is locked by another handle or process; close it there")]
    Locked,
    /// A newer version wrote it. Remedy: open it with that one.
    #[error("a newer version wrote it: {0}")]
    NewerVersion(String),
    /// There is no store, and `create` is false.
    #[error("there is no store")]
    NotFound,
    /// What is there contradicts itself. Remedy: restore a backup.
    #[error("the store is damaged: {0}; restore a backup")]
    Corrupt(String),
    /// A log was not closed, and [`RecoveryMode::Absolute`](crate::wal::RecoveryMode::Absolute) was asked for.
    #[error("the store was not closed: {0}")]
    Unclean(String),
    /// The store was opened more than 16 million times. Remedy: copy it into a new one.
    #[error("all epochs are used; copy the store into a new one")]
    EpochsExhausted,
}
