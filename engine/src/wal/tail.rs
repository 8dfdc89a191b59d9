//! Reading on as the log grows.

use std::sync::Arc;

use bytes::Bytes;

use crate::env::Env;

use super::{Lsn, ReadError, Records, log::Log};

/// Records in order, from one LSN on, waiting for those to come. It delivers what is durable; nothing that a crash could
/// take back, unless [asked for](Tail::unproven). It does none of the log's work: somebody else appends and syncs.
///
/// ```
/// use engine::{env::{OsEnv, block_on}, wal::{Durability, Lsn, Options, Wal}};
///
/// let folder = tempfile::tempdir()?;
/// block_on(async {
///     let (wal, _) = Wal::open(OsEnv, &folder.path().join("log"), Options::new()).await?;
///     let mut tail = wal.tail(Lsn(1));
///     wal.append("one", Durability::Sync).await?;
///     assert_eq!(tail.next().await?, Some((Lsn(1), "one".into())));
///     wal.close().await?;
///     assert_eq!(tail.next().await?, None);
///     Ok::<(), Box<dyn std::error::Error>>(())
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Tail<E: Env> {
    log: Arc<Log<E>>,
    next: u64,
    records: Option<Records<E>>,
    unproven: bool,
    cuts: u64,
}

impl<E: Env> Tail<E> {
    pub(super) fn new(log: Arc<Log<E>>, from: Lsn) -> Tail<E> {
        let (floor, cuts) = {
            let state = log.lock();
            (state.floor_lsn, state.cuts)
        };
        Tail { log, next: from.0.max(floor), records: None, unproven: false, cuts }
    }

    /// Delivers records as soon as the operating system has them: a power cut may take them back.
    #[must_use]
    pub fn unproven(mut self) -> Tail<E> {
        self.unproven = true;
        self
    }

    /// The next record with its LSN, once it is there; `None` when the log was closed. May be dropped and called again.
    ///
    /// # Errors
    /// As [`super::Wal::read`], and [`ReadError::Truncated`] if the log was cut behind what was delivered, or released
    /// before it.
    pub async fn next(&mut self) -> Result<Option<(Lsn, Bytes)>, ReadError> {
        loop {
            if let Some(records) = &mut self.records {
                if let Some((lsn, record)) = records.next().await? {
                    self.next = lsn.0 + 1;
                    return Ok(Some((lsn, record)));
                }
                self.records = None;
            }
            let (ready, seen) = {
                let state = self.log.lock();
                let ready = if self.unproven { state.written.lsn } else { state.durable.lsn };
                if state.cuts != self.cuts && self.next > ready || self.next < state.floor_lsn {
                    return Err(ReadError::Truncated);
                }
                if ready <= self.next {
                    if let Some(failure) = &state.failure {
                        return Err(ReadError::Poisoned(failure.clone()));
                    }
                    if state.closed {
                        return Ok(None);
                    }
                }
                (ready, self.log.gates.progress.seq())
            };
            if ready > self.next {
                self.records = Some(Records::new(self.log.clone(), Lsn(self.next), ready));
            } else {
                self.log.gates.progress.wait(seen).await;
            }
        }
    }
}
