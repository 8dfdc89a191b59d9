//! A backup: a store of its own in another directory, with everything that was committed before it was asked for, while the store
//! goes on.
//!
//! It is a copy of the rows of one state, which a checkpoint has just made: that state is held, and so is not overwritten. The tables come
//! first, then the logs, which say that they belong to them. So a backup that was interrupted has no logs, or not all, and is refused
//! by an open; it is never found empty or half full.

use std::{io, path::Path, sync::Arc};

use thiserror::Error;

use crate::{
    env::{Dir, Env, interruptible},
    failure::Failure,
    plant::planted,
    sync::Mutex,
    wal::Lsn,
};

use super::{
    blocks::Blocks,
    error::CheckpointError,
    ids::{Csn, TableId},
    logs::{self, Logs, LogsError},
    redo::{Checkpoint, EpochRecord, Record},
    shared::Shared,
    storage::{
        Birth, Changes, Cursor, Direction, Memory, Point, PublishError, State, Storage, StorageError, StorageOptions,
    },
};

/// Rows are copied so many bytes at a time.
const BATCH_BYTES: usize = 256 << 10;
/// Of memory for the pages of the copy, in bytes.
const COPY_CACHE_BYTES: u64 = 4 << 20;

/// What a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// The last commit that it has.
    pub csn: Csn,
    /// Its tables, and their rows in all.
    pub tables: u64,
    /// Their rows in all.
    pub rows: u64,
}

/// Why there is no backup. The store itself goes on; what is in the target directory is refused by an open, and may be removed.
#[derive(Clone, Debug, Error)]
pub enum BackupError {
    /// Something is in the target directory. Remedy: another one.
    #[error("the target directory is not empty")]
    TargetNotEmpty,
    /// The machine said no. Remedy: as it says, then again, into another directory.
    #[error("{0}")]
    Io(Failure),
    /// A backup begins with a checkpoint, and there is none.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The rows can't be read, or the copies not written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// All epochs are used. Remedy: copy the rows into a new store.
    #[error("all epochs are used")]
    EpochsExhausted,
}

/// Rows on their way.
#[derive(Default)]
struct Batch {
    rows: Vec<(Vec<u8>, Vec<u8>)>,
    bytes: usize,
    next: usize,
}

impl Changes for Batch {
    fn current(&self) -> Option<(&[u8], Option<&[u8]>)> {
        self.rows.get(self.next).map(|(key, value)| (key.as_slice(), Some(value.as_slice())))
    }

    fn advance(&mut self) {
        self.next += 1;
    }
}

impl<E: Env, S: Storage<E>> Shared<E, S> {
    /// Copies the store.
    pub(super) async fn backup(&self, to: &Path) -> Result<BackupReport, BackupError> {
        let failed = |operation| move |error: io::Error| BackupError::Io(Failure::new(operation, to.display(), &error));
        let dir = interruptible(|| self.env.dir(to, true)).await.map_err(failed("create"))?;
        let _lock = interruptible(|| dir.lock()).await.map_err(failed("lock"))?;
        if !interruptible(|| dir.list()).await.map_err(failed("list"))?.is_empty() {
            return Err(BackupError::TargetNotEmpty);
        }
        self.checkpoint().await?;
        // Held until the end: its pages are not overwritten meanwhile.
        let state = self.storage.newest();
        let epoch = self.epoch.next().ok_or(BackupError::EpochsExhausted)?;
        let csn = state.meta().point.csn;
        let point = Point { csn, next_csn: Csn::first(epoch), epoch };
        let mut uuid = [0; 16];
        self.env.fill_random(&mut uuid);

        let options = StorageOptions {
            blocks: Blocks::new(&Memory::new(COPY_CACHE_BYTES)),
            chunk_bytes: self.options.chunk_bytes,
            piece_bytes: self.options.checkpoint_piece_bytes,
            // (It is written by whoever asks for it, who may not be able to sleep.)
            waiting: None,
            #[cfg(feature = "plants")]
            plants: self.options.plants(),
        };
        let birth = Birth { uuid, logs: state.meta().logs };
        let storage = S::create(S::examine(&self.env, &dir, &options).await?, birth).await?;
        let logs_first = planted!(self.options.plants(), BackupRootFirst);
        if logs_first {
            self.create_logs(to, &storage.newest(), uuid).await?;
        }
        let mut draft = storage.draft(point)?;
        let mut rows = 0;
        for table in state.catalog().tables() {
            let unpinned = planted!(self.options.plants(), BackupUnpinned).then(|| self.storage.newest());
            let state = unpinned.as_ref().unwrap_or(&state);
            rows += self.copy_table(state, table.id, &storage, &mut draft).await?;
        }
        let published = storage.publish(draft, Arc::clone(state.catalog())).await;
        let copy = published.map_err(|error| match error {
            PublishError::Not(error) | PublishError::Unknown(error) => error,
        })?;
        if !logs_first {
            self.create_logs(to, &copy, uuid).await?;
        }
        interruptible(|| dir.sync()).await.map_err(failed("sync"))?;
        Ok(BackupReport { csn, tables: state.catalog().tables().count() as u64, rows })
    }

    async fn copy_table(
        &self,
        state: &S::State,
        table: TableId,
        storage: &S,
        draft: &mut S::Draft,
    ) -> Result<u64, StorageError> {
        let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
        let mut cursor = state.cursor(table, all, Direction::Forward);
        let mut rows = 0;
        loop {
            let mut batch = Batch::default();
            while batch.bytes < BATCH_BYTES && cursor.advance().await? {
                if let Some((key, value)) = cursor.current() {
                    batch.bytes += key.len() + value.len();
                    batch.rows.push((key.to_vec(), value.to_vec()));
                }
            }
            if batch.rows.is_empty() {
                return Ok(rows);
            }
            rows += batch.rows.len() as u64;
            storage.merge(draft, table, &mut batch).await?;
            self.env.yield_now().await;
        }
    }

    /// The logs of the copy: each says of which store it is, and that nothing before this root is needed.
    async fn create_logs(&self, to: &Path, copy: &S::State, uuid: [u8; 16]) -> Result<(), BackupError> {
        let meta = *copy.meta();
        let (count, Point { csn, epoch, .. }) = (meta.logs as u8, meta.point);
        let failed = |error: String| BackupError::Io(Failure::new("create", "a log", &io::Error::other(error)));
        let mut options = self.options.log();
        options.create = true;
        let mut examined = Vec::new();
        for log in logs::examine(&self.env, to, count, &options, &mut |_, _, _| ()).await {
            examined.push(log.map_err(|error| failed(error.to_string()))?);
        }
        let opened = Logs::open(&self.env, examined, self.options.plants()).await;
        let (logs, writers, _) = opened.map_err(|error| failed(error.to_string()))?;
        let writers = Mutex::new(writers);
        let wall_ns = self.env.wall_ns();
        let begins = |log| Record::Epoch(EpochRecord { log, logs: count, epoch, prev_end: csn, uuid, wall_ns });
        let sequence = meta.sequence;
        let rests =
            |log| Record::Checkpoint(Checkpoint { log, logs: count, epoch, sequence, csn, release: Lsn(1), uuid });
        let failed = |error: LogsError| failed(error.to_string());
        logs.tell_all(&writers, rests).await.map_err(failed)?;
        logs.tell_all(&writers, begins).await.map_err(failed)?;
        let writers = writers.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        logs.close(writers, epoch, csn).await.map_err(failed)
    }
}
