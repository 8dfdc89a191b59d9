//! The logs of a store as one: room in several at once, one wait for all of them, one failure for all.
//!
//! Who appends has [`Writers`], under the commit mutex: so the order of records in each log is the order of commits. Who waits has
//! [`Logs`], and waits outside of it, for a [`Capture`] of all logs. A commit counts once all parts of all commits up to it are
//! durable, whichever logs they stand in; [`Logs::durable`] moves by captures alone, so nothing is kept per commit.
//!
//! After a failed write or sync of any log all of them refuse work. What was not durable then may be there after a reopen, or not.

mod service;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use smallvec::SmallVec;
use thiserror::Error;

use crate::{
    env::Env,
    plant::{Plants, planted},
    sync::Mutex,
    wal::{
        AppendError, Examined, Failure, Floor, InWindow, Lack, Large, Lsn, OpenError, Options, RecoveryMode,
        RecoveryReport, SyncError, Wal, Writer,
    },
};

use self::service::Services;
use super::{
    ids::{Csn, Epoch},
    redo::{Checkpoint, MAX_PIECE_BYTES, Mark, Record, RedoError},
};

/// What a store asks of each of its logs.
#[derive(Clone, Debug)]
pub(super) struct LogOptions {
    /// As [`Options::segment_bytes`].
    pub(super) segment_bytes: u64,
    /// As [`Options::buffer_bytes`].
    pub(super) buffer_bytes: u64,
    /// As [`Options::idle`].
    pub(super) idle: Duration,
    /// The longest part, in bytes.
    pub(super) max_txn_bytes: u64,
    pub(super) recovery: RecoveryMode,
    pub(super) create: bool,
    pub(super) plants: Plants,
}

impl LogOptions {
    pub(super) fn to_wal(&self) -> Options {
        let mut options = Options::new()
            .segment_bytes(self.segment_bytes)
            .buffer_bytes(self.buffer_bytes)
            .idle(self.idle)
            .max_record_bytes(self.max_txn_bytes + MAX_PIECE_BYTES)
            .recovery(self.recovery)
            .create(self.create)
            .large(Large::Appendix)
            .synced_writes(false);
        options.plants = self.plants.clone();
        options
    }
}

/// The directory of a log.
pub(super) fn log_path(store: &Path, log: u8) -> PathBuf {
    store.join(format!("log-{log}"))
}

/// The reading half of an open, of each log: locks them, and changes no byte. `deliver` is told of the records as by
/// [`Wal::examine`]: what a log's report doesn't count doesn't count.
pub(super) async fn examine<E: Env>(
    env: &E,
    store: &Path,
    logs: u8,
    options: &LogOptions,
    deliver: &mut (dyn FnMut(u8, Lsn, InWindow<'_>) + Send),
) -> Vec<Result<Examined<E>, OpenError>> {
    let mut examined = Vec::with_capacity(usize::from(logs));
    for log in 0..logs {
        let mut deliver = |lsn, record: InWindow<'_>| deliver(log, lsn, record);
        examined.push(Wal::examine(env.clone(), &log_path(store, log), options.to_wal(), &mut deliver).await);
    }
    examined
}

/// Why something was not appended to the logs, or not made durable.
#[derive(Debug, Error)]
pub(super) enum LogsError {
    /// Definite: not appended. [`AppendError::NoRoom`] may be tried again; after [`AppendError::Poisoned`] the store is to be reopened.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A log failed: what was not durable is unknown until the store is reopened.
    #[error(transparent)]
    Failed(#[from] Arc<Failure>),
    /// A record can't be written: a defect of the caller.
    #[error(transparent)]
    Record(#[from] RedoError),
}

/// What one log lacks; [`Logs::make_way`] waits for it.
#[derive(Debug)]
pub(super) struct Lacking {
    log: usize,
    lack: Lack,
}

/// How far all logs reach with a commit: waiting for it is waiting for all parts of all commits up to that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Capture {
    /// The last commit whose parts are covered.
    pub(super) csn: Csn,
    /// The next LSN of every log.
    pub(super) next: SmallVec<[Lsn; 4]>,
}

/// All logs, for whoever waits.
pub(super) struct Logs<E: Env> {
    shared: Arc<Shared<E>>,
}

struct Shared<E: Env> {
    services: Services<E>,
    wals: Vec<Wal<E>>,
    /// The last commit that is durable, as bits.
    durable: AtomicU64,
    /// The one that the last marks state.
    marked: AtomicU64,
    failure: OnceLock<Arc<Failure>>,
    plants: Plants,
}

impl<E: Env> Clone for Logs<E> {
    fn clone(&self) -> Logs<E> {
        Logs { shared: self.shared.clone() }
    }
}

/// All logs, for the one who appends.
pub(super) struct Writers<E: Env> {
    logs: Logs<E>,
    writers: Vec<Writer<E>>,
}

impl<E: Env> Logs<E> {
    /// The writing half of an open: every log makes durable what it has delivered. Where one fails the others are as after a crash.
    ///
    /// # Errors
    /// [`OpenError::Io`]; nothing is lost.
    pub(super) async fn open(
        env: &E,
        examined: Vec<Examined<E>>,
        plants: Plants,
    ) -> Result<(Logs<E>, Writers<E>, Vec<RecoveryReport>), OpenError> {
        let (mut wals, mut writers, mut reports) = (Vec::new(), Vec::new(), Vec::new());
        for log in examined {
            let (wal, report) = log.open().await?;
            let writer = wal.writer().map_err(|error| OpenError::io("open", "a log")(io::Error::other(error)))?;
            wals.push(wal);
            writers.push(writer);
            reports.push(report);
        }
        let services = Services::spawn(env, &wals).map_err(OpenError::io("start", "a task that syncs a log"))?;
        let (durable, marked, failure) = Default::default();
        let shared = Shared { services, wals, durable, marked, failure, plants };
        let logs = Logs { shared: Arc::new(shared) };
        Ok((logs.clone(), Writers { logs, writers }, reports))
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.shared.wals.len()
    }

    /// One log, to read from.
    pub(super) fn wal(&self, log: usize) -> &Wal<E> {
        &self.shared.wals[log]
    }

    /// All parts of all commits up to this one are durable.
    pub(super) fn durable(&self) -> Csn {
        Csn::from_bits(self.shared.durable.load(Ordering::Acquire)).unwrap_or_default()
    }

    /// States that all commits up to this one are durable, as recovery does.
    pub(super) fn found_durable(&self, csn: Csn) {
        self.shared.durable.fetch_max(csn.to_bits(), Ordering::AcqRel);
    }

    /// What made the logs stop working.
    pub(super) fn failure(&self) -> Option<Arc<Failure>> {
        self.shared.failure.get().cloned()
    }

    /// Makes all logs refuse work from now on. Returns what did so first.
    pub(super) fn poison(&self, failure: Arc<Failure>) -> Arc<Failure> {
        self.shared.failure.get_or_init(|| failure).clone()
    }

    /// Waits until what an append lacked is there. Then room is to be asked for again, in every log.
    ///
    /// # Errors
    /// [`AppendError`]; it is definite.
    pub(super) async fn make_way(&self, lacking: Lacking) -> Result<(), AppendError> {
        let made = self.shared.wals[lacking.log].make_way(lacking.lack).await;
        made.map_err(|error| match error {
            AppendError::Poisoned(failure) => AppendError::Poisoned(self.poison(failure)),
            definite => definite,
        })
    }

    /// Waits until a capture is durable, syncing whichever logs need it, at once. May be dropped at any time.
    ///
    /// # Errors
    /// What failed first in any log; all of them refuse work then.
    pub(super) async fn wait(&self, capture: &Capture) -> Result<(), Arc<Failure>> {
        // (Of records that are no commit's the positions alone tell.)
        if capture.csn != Csn::default() && capture.csn <= self.durable() {
            return Ok(());
        }
        let logs = capture.next.iter().copied().enumerate();
        let lagging: SmallVec<[_; 4]> = logs.filter(|(log, next)| self.wal(*log).durable() < *next).collect();
        for (log, next) in lagging.iter().skip(1) {
            self.shared.services.ask(*log, *next);
        }
        let waited = self.wait_each(&lagging).await;
        // A log that failed where nobody waited for it fails all of them.
        let failed = self.shared.wals.iter().find_map(Wal::failure);
        waited.and(failed.map_or(Ok(()), Err)).map_err(|failure| self.poison(failure))?;
        self.found_durable(capture.csn);
        Ok(())
    }

    /// Waits log by log, and does for each what its task has not begun.
    async fn wait_each(&self, lagging: &[(usize, Lsn)]) -> Result<(), Arc<Failure>> {
        for (nth, (log, next)) in lagging.iter().enumerate() {
            if nth > 0 && planted!(self.shared.plants, TxnServiceForgottenLog) {
                continue;
            }
            wait_below(self.wal(*log), *next).await?;
        }
        Ok(())
    }

    /// Appends a record to every log, with room held in all of them before the first, and makes it durable.
    ///
    /// # Errors
    /// [`LogsError`].
    pub(super) async fn tell_all<C: AsMut<Writers<E>>>(
        &self,
        commit: &Mutex<C>,
        record: impl Fn(u8) -> Record<'static>,
    ) -> Result<(), LogsError> {
        let mut records = Vec::new();
        for log in (0_u8..).take(self.count()) {
            let mut bytes = Vec::new();
            record(log).encode(&mut bytes)?;
            records.push(bytes);
        }
        let append = |writers: &mut Writers<E>| {
            for (log, record) in records.iter().enumerate() {
                writers.room(log, record.len())?;
            }
            for (log, record) in records.iter().enumerate() {
                writers.append(log, record);
            }
            // (It says nothing of commits that others accepted meanwhile.)
            Ok(writers.capture(Csn::default()))
        };
        let capture = self.until_there_is_room(commit, append).await?;
        Ok(self.wait(&capture).await?)
    }

    /// States in every log how far all of them are durable, if there are several and they don't know yet: for a log that is quiet
    /// or about to be closed. Returns whether it had to.
    ///
    /// # Errors
    /// [`LogsError`].
    pub(super) async fn mark<C: AsMut<Writers<E>>>(&self, commit: &Mutex<C>, epoch: Epoch) -> Result<bool, LogsError> {
        let durable = self.durable();
        if self.count() == 1 || self.shared.marked.load(Ordering::Acquire) >= durable.to_bits() {
            return Ok(false);
        }
        self.tell_all(commit, |log| Record::Mark(Mark { log, epoch, durable })).await?;
        self.shared.marked.fetch_max(durable.to_bits(), Ordering::AcqRel);
        Ok(true)
    }

    /// Releases a log below a record, for a root is durable that makes the rest unnecessary: first the checkpoint's record is made
    /// durable, then the floor moves. Returns the log's oldest record. Repeated, it goes on where it was interrupted.
    ///
    /// # Errors
    /// [`LogsError`].
    pub(super) async fn release<C: AsMut<Writers<E>>>(
        &self,
        commit: &Mutex<C>,
        record: &Checkpoint,
    ) -> Result<Lsn, LogsError> {
        let log = usize::from(record.log);
        let mut bytes = Vec::new();
        Record::Checkpoint(*record).encode(&mut bytes)?;
        let append = |writers: &mut Writers<E>| {
            writers.room(log, bytes.len())?;
            writers.append(log, &bytes);
            Ok(writers.capture(Csn::default()).next[log])
        };
        let next = self.until_there_is_room(commit, append).await?;
        wait_below(self.wal(log), next).await.map_err(|failure| self.poison(failure))?;
        let floor = self.until_there_is_room(commit, |writers| writers.floor(log, record.release)).await?;
        Ok(self.wal(log).finish_floor(floor).await.map_err(|failure| self.poison(failure))?)
    }

    /// Makes all commits up to `last` durable, says so in every log, and closes them. The logs are closed, and their directories
    /// free, whatever fails.
    ///
    /// # Errors
    /// [`LogsError`]: what failed first.
    pub(super) async fn close(&self, mut writers: Writers<E>, epoch: Epoch, last: Csn) -> Result<(), LogsError> {
        let capture = writers.capture(last);
        let commit = Mutex::new(writers);
        let mut result = match self.wait(&capture).await {
            Ok(()) => self.mark(&commit, epoch).await.map(drop),
            Err(failure) => Err(failure.into()),
        };
        drop(commit);
        self.shared.services.stop().await;
        for wal in &self.shared.wals {
            let closed = wal.clone().close().await;
            if let Err(SyncError::Poisoned(failure)) = closed
                && result.is_ok()
            {
                result = Err(self.poison(failure).into());
            }
        }
        result
    }

    /// Lets `work` use the writers, under the commit mutex, until nothing is lacking.
    async fn until_there_is_room<C: AsMut<Writers<E>>, T>(
        &self,
        commit: &Mutex<C>,
        work: impl Fn(&mut Writers<E>) -> Result<T, Lacking>,
    ) -> Result<T, AppendError> {
        loop {
            let worked = {
                let mut commit = commit.lock().unwrap_or_else(|poisoned| {
                    let error = io::Error::other("a thread panicked");
                    self.poison(Arc::new(Failure::new("update", "the store's memory", &error)));
                    poisoned.into_inner()
                });
                work(commit.as_mut())
            };
            match worked {
                Ok(done) => return Ok(done),
                Err(lacking) => self.make_way(lacking).await?,
            }
        }
    }
}

impl<E: Env> AsMut<Writers<E>> for Writers<E> {
    fn as_mut(&mut self) -> &mut Writers<E> {
        self
    }
}

impl<E: Env> Writers<E> {
    /// Sees that a log takes a record of `bytes`. It is held, beside what is held in other logs, until it was appended: nothing
    /// may be waited for in between.
    ///
    /// # Errors
    /// What is lacking; nothing is held any more in any log.
    pub(super) fn room(&mut self, log: usize, bytes: usize) -> Result<(), Lacking> {
        let lack = match self.logs.shared.failure.get() {
            Some(failure) => Lack::Never(AppendError::Poisoned(failure.clone())),
            None => match self.writers[log].room(bytes as u64) {
                Ok(()) => return Ok(()),
                Err(lack) => lack,
            },
        };
        Err(self.give_up(log, lack))
    }

    /// Appends a record for which there is [room](Writers::room). It can't fail.
    ///
    /// # Panics
    /// If there is none: the caller has a defect.
    pub(super) fn append(&mut self, log: usize, record: &[u8]) -> Lsn {
        self.writers[log].append_ready(record)
    }

    /// The LSN that a log's next record gets.
    pub(super) fn next(&self, log: usize) -> Lsn {
        self.writers[log].next()
    }

    /// Names how far all logs reach, which is as far as `last`, and hands over what was appended so that it can be waited for.
    pub(super) fn capture(&mut self, last: Csn) -> Capture {
        self.writers.iter_mut().for_each(Writer::share);
        Capture { csn: last, next: self.writers.iter().map(Writer::next).collect() }
    }

    /// Lets the next record of every log begin a segment.
    ///
    /// # Errors
    /// What is lacking. Once it is there, only what was not done is done.
    pub(super) fn rotate(&mut self) -> Result<(), Lacking> {
        for log in 0..self.writers.len() {
            self.writers[log].rotate().map_err(|lack| self.give_up(log, lack))?;
        }
        Ok(())
    }

    fn floor(&mut self, log: usize, lsn: Lsn) -> Result<Floor, Lacking> {
        self.writers[log].floor(lsn).map_err(|lack| self.give_up(log, lack))
    }

    /// Gives back what was held: whoever needs it waits now, and others may wait for the pages.
    fn give_up(&mut self, log: usize, lack: Lack) -> Lacking {
        self.give_back();
        Lacking { log, lack }
    }

    /// The room that was held is not needed after all.
    pub(super) fn give_back(&mut self) {
        self.writers.iter_mut().for_each(Writer::publish);
    }
}

/// Waits until all records of a log below `next` are durable.
async fn wait_below<E: Env>(wal: &Wal<E>, next: Lsn) -> Result<(), Arc<Failure>> {
    wal.wait_durable(Lsn(next.0.saturating_sub(1))).await.map_err(|error| match error {
        SyncError::Poisoned(failure) => failure,
        other => Arc::new(Failure::new("sync", "a log", &io::Error::other(other))),
    })
}

#[cfg(test)]
mod tests;
