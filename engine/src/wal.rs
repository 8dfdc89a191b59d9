//! The write-ahead log: segments as one sequence of records.
//!
//! # Durability
//! | class | acknowledged when | process kill | power cut |
//! |---|---|---|---|
//! | [`Durability::Sync`] | a sync that began after the write has ended | kept | kept |
//! | [`Durability::Written`] | the operating system has it | kept | may be lost, with everything after it |
//! | [`Durability::Buffered`] | it is in memory | may be lost | may be lost |
//!
//! What survives is always a prefix of what was appended, in order, without holes; a batch is there as a whole or not at
//! all. What [`Wal::open`] has delivered once stays. After a failed write or sync the log is *poisoned*: it refuses work
//! until it is reopened, and no later sync turns bytes that were not durable into acknowledged ones.
//!
//! # Two ways in
//! [`Wal`] is the async API and works on any [`Env`]; no runtime is needed. On the real machine its futures do their system
//! calls when they are polled, so an executor should give it a thread on which blocking is allowed. [`blocking::Wal`] is
//! the same without futures. Handles are cheap to clone; appends from many threads share their syncs (group commit).

pub mod blocking;
mod commit;
mod decision;
mod error;
mod log;
mod open;
mod options;
mod read;
mod recover;
mod report;
mod survey;

use std::{fmt, path::Path, sync::Arc};

use bytes::Bytes;

use crate::{
    codec::{FrameKind, MarkKind, encode_batch_body},
    env::Env,
};

use commit::Want;
use log::Log;

pub use error::{AppendError, Failure, OpenError, ReadError, SyncError};
pub use options::{Options, OptionsError};
pub use read::Records;
pub use report::{DropReason, Dropped, RecoveryReport, TailKind};

/// Position of a record in the log; counted from 1, without gaps, and never reused for another record that was
/// acknowledged as durable or delivered by recovery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// When an append is acknowledged; see the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// In memory.
    Buffered,
    /// With the operating system.
    Written,
    /// Surviving a power cut.
    Sync,
}

/// A handle of an open log.
///
/// ```
/// use engine::{env::{OsEnv, block_on}, wal::{Durability, Lsn, Options, Wal}};
///
/// async fn demo(path: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
///     let (wal, report) = Wal::open(OsEnv, path, Options::new()).await?;
///     assert_eq!(report.records(), 0);
///     let lsn = wal.append("hello".into(), Durability::Sync).await?;
///     assert_eq!(lsn, Lsn(1));
///     assert_eq!(wal.read(lsn).await?, "hello");
///     wal.close().await?;
///     Ok(())
/// }
///
/// let folder = tempfile::tempdir()?;
/// block_on(demo(&folder.path().join("log")))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Wal<E: Env> {
    log: Arc<Log<E>>,
}

impl<E: Env> Clone for Wal<E> {
    fn clone(&self) -> Wal<E> {
        Wal { log: self.log.clone() }
    }
}

impl<E: Env> Wal<E> {
    /// Opens the log in the directory `path`, or creates it, and recovers what an earlier process left.
    ///
    /// The directory belongs to the log and is locked while a handle is open; names that are not the log's are ignored.
    /// Everything that the report calls recovered is durable when this returns.
    ///
    /// # Errors
    /// [`OpenError`]. [`Corrupt`](OpenError::Corrupt), [`NewerVersion`](OpenError::NewerVersion),
    /// [`OtherLog`](OpenError::OtherLog) and [`Locked`](OpenError::Locked) change no byte of the directory. After
    /// [`Io`](OpenError::Io) nothing is lost, and open may be tried again.
    pub async fn open(env: E, path: &Path, options: Options) -> Result<(Wal<E>, RecoveryReport), OpenError> {
        let (log, report) = open::open(env, path, options).await?;
        Ok((Wal { log: Arc::new(log) }, report))
    }

    /// Appends one record and waits as `durability` says. Returns its LSN.
    ///
    /// A record that was accepted stays in the log even if this future is dropped.
    ///
    /// # Errors
    /// [`AppendError`]; all but [`Indeterminate`](AppendError::Indeterminate) are definite: not appended.
    pub async fn append(&self, record: Bytes, durability: Durability) -> Result<Lsn, AppendError> {
        let body_bytes = record.len() as u64;
        self.check_size(body_bytes)?;
        let encode = |out: &mut Vec<u8>| out.extend_from_slice(&record);
        self.accept(FrameKind::Record, 1, body_bytes, encode, durability).await
    }

    /// Appends several records, all or none of which survive a crash. Returns the LSN of the first; the others follow it.
    ///
    /// # Errors
    /// As [`Wal::append`]; a batch counts against `max_record_bytes` with 8 bytes more per record.
    pub async fn append_batch(&self, records: &[Bytes], durability: Durability) -> Result<Lsn, AppendError> {
        if records.is_empty() {
            return Err(AppendError::EmptyBatch);
        }
        let body_bytes = records.iter().map(|record| record.len() as u64 + 8).sum();
        self.check_size(body_bytes)?;
        let encode = |out: &mut Vec<u8>| encode_batch_body(out, records.iter().map(|record| &record[..]));
        self.accept(FrameKind::Batch, records.len() as u64, body_bytes, encode, durability).await
    }

    /// Waits until everything appended so far is durable. Returns the next LSN: all before it are.
    ///
    /// # Errors
    /// [`SyncError`].
    pub async fn sync(&self) -> Result<Lsn, SyncError> {
        let (sequence, lsn) = {
            let state = self.log.lock();
            if state.closed && state.failure.is_none() {
                return Err(SyncError::Closed);
            }
            (state.accepted.sequence, state.accepted.lsn)
        };
        self.log.wait(Want::Durable(sequence)).await?;
        Ok(Lsn(lsn))
    }

    /// Waits until the record `lsn` is durable; syncs if nobody else does.
    ///
    /// # Errors
    /// [`SyncError`]. A record that was durable before a failure is reported as durable.
    pub async fn wait_durable(&self, lsn: Lsn) -> Result<(), SyncError> {
        let (sequence, next) = {
            let state = self.log.lock();
            (state.accepted.sequence, state.accepted.lsn)
        };
        if lsn.0 >= next {
            return Err(SyncError::NotAppended { lsn, next: Lsn(next) });
        }
        Ok(self.log.wait(Want::DurableLsn { lsn: lsn.0, sequence }).await?)
    }

    /// Reads the record `lsn`. It need not be durable: compare with [`Wal::durable`].
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(&self, lsn: Lsn) -> Result<Bytes, ReadError> {
        self.log.read(lsn).await
    }

    /// All records from `from` up to the last one appended when this is called.
    #[must_use]
    pub fn records(&self, from: Lsn) -> Records<E> {
        Records::new(self.log.clone(), from)
    }

    /// The LSN that the next record will get.
    #[must_use]
    pub fn next(&self) -> Lsn {
        Lsn(self.log.lock().accepted.lsn)
    }

    /// All records before this LSN are durable.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        Lsn(self.log.lock().durable.lsn)
    }

    /// Makes everything durable, marks the log as closed, and releases the directory. Other handles refuse work from now on.
    /// Dropping the last handle instead keeps only what the durability classes promise.
    ///
    /// # Errors
    /// [`SyncError`]; the directory is released all the same.
    pub async fn close(self) -> Result<(), SyncError> {
        let sequence = {
            let mut state = self.log.lock();
            if state.closed {
                return Err(SyncError::Closed);
            }
            state.closed = true;
            if state.failure.is_none() {
                state.accept_filler(&self.log.options);
            }
            state.accepted.sequence
        };
        let mut result = self.log.wait(Want::Durable(sequence)).await;
        if result.is_ok() {
            // Nothing is accepted any more, so the mark follows the filler, and everything before it is durable.
            let sequence = {
                let mut state = self.log.lock();
                state.accept_mark(MarkKind::Closed);
                state.accepted.sequence
            };
            result = self.log.wait(Want::Durable(sequence)).await;
        }
        self.log.drain().await;
        if result.is_ok() {
            self.log.state_end().await;
        }
        let lock = self.log.lock().lock.take();
        drop(lock);
        Ok(result?)
    }

    fn check_size(&self, bytes: u64) -> Result<(), AppendError> {
        let limit = self.log.options.record_limit();
        if bytes > limit { Err(AppendError::TooLarge { bytes, limit }) } else { Ok(()) }
    }

    async fn accept(
        &self,
        kind: FrameKind,
        count: u64,
        body_bytes: u64,
        encode: impl FnOnce(&mut Vec<u8>),
        durability: Durability,
    ) -> Result<Lsn, AppendError> {
        let log = &self.log;
        let (first, sequence) = loop {
            {
                let mut state = log.lock();
                if let Some(failure) = &state.failure {
                    return Err(AppendError::Poisoned(failure.clone()));
                }
                if state.closed {
                    return Err(AppendError::Closed);
                }
                if state.has_room(body_bytes, log.options.buffer_limit()) {
                    let first = state.accepted.lsn;
                    state.accept(&log.options, kind, count, body_bytes, encode);
                    break (Lsn(first), state.accepted.sequence);
                }
            }
            log.wait(Want::Space(body_bytes)).await.map_err(AppendError::Poisoned)?;
        };
        let want = match durability {
            Durability::Buffered => return Ok(first),
            Durability::Written => Want::Written(sequence),
            Durability::Sync => Want::Durable(sequence),
        };
        log.wait(want).await.map_err(|failure| AppendError::Indeterminate { first, failure })?;
        Ok(first)
    }
}

impl<E: Env> fmt::Debug for Wal<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.log.lock();
        f.debug_struct("Wal").field("next", &state.accepted.lsn).field("durable", &state.durable.lsn).finish()
    }
}
