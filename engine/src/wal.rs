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
mod examine;
mod jobs;
mod keeper;
mod log;
#[cfg(all(test, feature = "loom"))]
mod model;
mod open;
mod options;
mod producer;
mod read;
mod recover;
mod report;
mod salvage;
mod stats;
mod survey;
mod tail;
#[cfg(test)]
mod tests;
mod truncate;
mod writer;

use std::{fmt, path::Path, sync::Arc};

use bytes::Bytes;
use tracing::warn;

use crate::{
    codec::{FrameKind, Mark, encode_batch_body, frame_bytes},
    env::Env,
};

use commit::Want;
use keeper::Keeper;
use log::{Access, Log};
use producer::Producer;

pub use decision::RecoveryMode;
pub use error::{AppendError, Failure, OpenError, ReadError, SyncError, TruncateError};
pub use options::{Large, Options, OptionsError};
pub use read::Records;
pub use report::{DropReason, Dropped, RecoveryReport, TailKind};
pub use salvage::SalvageReport;
pub use stats::Stats;
pub use tail::Tail;
pub use writer::Writer;

pub(crate) use crate::segment::InWindow;
pub(crate) use examine::Examined;
pub(crate) use producer::Lack;
pub(crate) use truncate::Floor;

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
///     let lsn = wal.append("hello", Durability::Sync).await?;
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
    keeper: Arc<Keeper<E>>,
}

impl<E: Env> Clone for Wal<E> {
    fn clone(&self) -> Wal<E> {
        Wal { log: self.log.clone(), keeper: self.keeper.clone() }
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
        examine::open(env, path, options).await
    }

    /// What [`Wal::open`] with these options would find: its verdict, its report, and every record that it would deliver.
    /// Changes no byte. The records are held in memory until the verdict is known.
    ///
    /// # Errors
    /// As [`Wal::open`].
    pub async fn verify(
        env: E,
        path: &Path,
        options: Options,
        mut deliver: impl FnMut(Lsn, Bytes) + Send,
    ) -> Result<RecoveryReport, OpenError> {
        examine::verify(env, path, options, &mut deliver).await
    }

    /// Appends one record and waits as `durability` says. Returns its LSN.
    ///
    /// A record that was accepted stays in the log even if this future is dropped.
    ///
    /// # Errors
    /// [`AppendError`]; all but [`Indeterminate`](AppendError::Indeterminate) are definite: not appended.
    pub async fn append(&self, record: impl AsRef<[u8]>, durability: Durability) -> Result<Lsn, AppendError> {
        let record = record.as_ref();
        if durability == Durability::Buffered
            && let Some(lsn) = self.append_now(record)
        {
            return Ok(lsn);
        }
        self.accept(1, record.len() as u64, |producer| producer.encode_record(record), durability).await
    }

    /// Appends several records, all or none of which survive a crash. Returns the LSN of the first; the others follow it.
    ///
    /// # Errors
    /// As [`Wal::append`]; a batch counts against `max_record_bytes` with 8 bytes more per record.
    pub async fn append_batch(&self, records: &[impl AsRef<[u8]>], durability: Durability) -> Result<Lsn, AppendError> {
        if records.is_empty() {
            return Err(AppendError::EmptyBatch);
        }
        let body_bytes = records.iter().map(|record| record.as_ref().len() as u64 + 8).sum();
        let count = records.len() as u64;
        let encode = |producer: &mut Producer<E::Dir>| {
            let body = |out: &mut Vec<u8>| encode_batch_body(out, records.iter().map(AsRef::as_ref));
            producer.encode(FrameKind::Batch, count, body_bytes, body);
        };
        self.accept(count, body_bytes, encode, durability).await
    }

    /// A [`Writer`], which alone may append until it is dropped, and does so without a lock.
    ///
    /// # Errors
    /// [`AppendError::WriterExists`], also while the log is truncated at its back; [`AppendError::Closed`].
    pub fn writer(&self) -> Result<Writer<E>, AppendError> {
        let mut state = self.log.lock();
        if state.closed {
            return Err(AppendError::Closed);
        }
        if state.access != Access::Shared {
            return Err(AppendError::WriterExists);
        }
        state.access = Access::Writer;
        drop(state);
        Ok(Writer::new(self.clone()))
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
            (state.accepted().sequence, state.accepted().lsn)
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
            (state.accepted().sequence, state.accepted().lsn)
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

    /// All records from `from` (or the oldest) up to the last one appended when this is called.
    #[must_use]
    pub fn records(&self, from: Lsn) -> Records<E> {
        let end = self.log.lock().accepted().lsn;
        Records::new(self.log.clone(), from, end)
    }

    /// All records from `from` (or the oldest) on, and then those to come, as they become durable.
    #[must_use]
    pub fn tail(&self, from: Lsn) -> Tail<E> {
        Tail::new(self.log.clone(), from)
    }

    /// The oldest LSN: what is below it was truncated.
    #[must_use]
    pub fn first(&self) -> Lsn {
        Lsn(self.log.lock().floor_lsn)
    }

    /// The LSN that the next record will get.
    #[must_use]
    pub fn next(&self) -> Lsn {
        Lsn(self.log.lock().accepted().lsn)
    }

    /// All records before this LSN are durable.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        Lsn(self.log.lock().durable.lsn)
    }

    /// What made the log stop working, if it did.
    pub(crate) fn failure(&self) -> Option<Arc<Failure>> {
        self.log.lock().failure.clone()
    }

    /// What the log has done since it was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.log.lock().stats()
    }

    /// Makes everything durable, marks the log as closed, and releases the directory. Other handles refuse work from now on.
    /// Dropping the last handle instead makes durable what it can, in the background, and tells nobody when that fails.
    ///
    /// # Errors
    /// [`SyncError`]; the directory is released all the same. [`SyncError::WriterExists`] closes nothing.
    pub async fn close(self) -> Result<(), SyncError> {
        let log = &self.log;
        {
            let mut state = log.lock();
            if state.closed {
                return Err(SyncError::Closed);
            }
            if state.access == Access::Writer {
                return Err(SyncError::WriterExists);
            }
            state.closed = true;
        }
        self.keeper.stop().await;
        let sequence = log.lock().accepted().sequence;
        let mut result = log.wait(Want::Durable(sequence)).await;
        if result.is_ok() {
            result = match log.mark(Mark::Closed, None).await {
                Err(AppendError::Poisoned(failure)) => Err(failure),
                // The log is durable; only the proof of that finds no room.
                Err(error) => {
                    warn!(%error, "closed without a mark");
                    Ok(())
                }
                Ok(_) => Ok(()),
            };
        }
        if result.is_ok() {
            // Without a spare there is no second witness; the log is durable all the same.
            drop(log.wait(Want::Spare(0)).await);
        }
        log.drain().await;
        if result.is_ok() {
            log.state_end().await;
        }
        log.gates.progress.open();
        let lock = log.lock().lock.take();
        drop(lock);
        Ok(result?)
    }

    /// Appends one record if there is room and nothing stands in the way; [`Wal::append`] finds out what does.
    fn append_now(&self, record: &[u8]) -> Option<Lsn> {
        let bytes = record.len() as u64;
        if bytes > self.log.options.record_limit() {
            return None;
        }
        let mut state = self.log.lock();
        if state.failure.is_some() || state.closed || state.access != Access::Shared {
            return None;
        }
        let producer = state.producer.as_mut().filter(|producer| producer.fits(frame_bytes(bytes), 1))?;
        let lsn = producer.accepted.lsn;
        producer.encode_record(record);
        self.log.rouse(state);
        Some(Lsn(lsn))
    }

    /// Waits until what a [`Writer`] lacked is there, or says why it never will be.
    ///
    /// # Errors
    /// [`AppendError::NoRoom`], [`AppendError::Poisoned`], or what the lack says.
    pub(crate) async fn make_way(&self, lack: Lack) -> Result<(), AppendError> {
        self.log.make_way(lack).await
    }

    fn check_size(&self, bytes: u64) -> Result<(), AppendError> {
        let limit = self.log.options.record_limit();
        if bytes > limit { Err(AppendError::TooLarge { bytes, limit }) } else { Ok(()) }
    }

    /// Accepts one frame and waits as `durability` says.
    async fn accept(
        &self,
        count: u64,
        body_bytes: u64,
        encode: impl Fn(&mut Producer<E::Dir>),
        durability: Durability,
    ) -> Result<Lsn, AppendError> {
        self.check_size(body_bytes)?;
        let log = &self.log;
        let bytes = frame_bytes(body_bytes);
        let (first, sequence) = loop {
            let lack = {
                let mut guard = log.lock();
                let state = &mut *guard;
                if let Some(failure) = &state.failure {
                    return Err(AppendError::Poisoned(failure.clone()));
                }
                if state.closed {
                    return Err(AppendError::Closed);
                }
                let made = match (state.access, &mut state.producer) {
                    (Access::Writer, _) => return Err(AppendError::WriterExists),
                    (Access::Truncating, _) | (_, None) => Err(None),
                    (Access::Shared, Some(producer)) if producer.fits(bytes, count) => Ok(()),
                    (Access::Shared, _) => {
                        state.with_producer(|state, producer| state.make_room(producer, bytes, count).map_err(Some))
                    }
                };
                match (made, &mut state.producer) {
                    (Ok(()), Some(producer)) => {
                        let first = producer.accepted.lsn;
                        encode(producer);
                        let sequence = producer.accepted.sequence;
                        log.rouse(guard);
                        break (Lsn(first), sequence);
                    }
                    (made, _) => {
                        state.stats.waits += 1;
                        made.err().flatten()
                    }
                }
            };
            match lack {
                Some(lack) => log.make_way(lack).await?,
                None => log.wait(Want::Access).await.map_err(AppendError::Poisoned)?,
            }
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
        f.debug_struct("Wal").field("next", &state.accepted().lsn).field("durable", &state.durable.lsn).finish()
    }
}
