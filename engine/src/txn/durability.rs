//! When a commit counts as done, and what a power cut may take: the sync types.
//!
//! A *pass* syncs all logs for all commits so far. Under [`Sync::Instant`] each commit waits for what it wrote itself, and the logs'
//! group commit makes one pass of many. Under [`Sync::Periodic`] the keeper makes one per period, and sooner when many commits wait, or
//! much was logged; a commit whose pass is overdue makes it itself. So what a power cut takes was committed within one and a half periods,
//! and within the time that a pass took. Under [`Sync::Instant`] it makes one for commits that nobody waits for.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{env::Env, failure::Failure};

use super::{
    commit::Accepted,
    error::{CommitError, SyncError},
    ids::Csn,
    logged::Logged,
    options::Sync,
    shared::Shared,
    storage::Storage,
};

/// How far passes have come.
#[derive(Debug)]
pub(super) struct Passes {
    /// All commits that were accepted before this moment are durable: microseconds of the environment's clock.
    fresh_from: AtomicU64,
    /// The keeper knows that something is pending.
    watched: AtomicBool,
    /// Since the last pass began.
    logged: Logged,
}

/// So many bytes behind the last pass make the next one due: a crash leaves little that the next open has to write anew, and no sync is long.
const PASS_BYTES: u64 = 4 << 20;

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Passes {
    /// At a moment when nothing is pending.
    pub(super) fn new(now: Duration) -> Passes {
        Passes { fresh_from: AtomicU64::new(micros(now)), watched: AtomicBool::new(false), logged: Logged::default() }
    }

    /// The keeper's, before it looks whether anything is pending: from here on it is to be told.
    pub(super) fn unwatched(&self) {
        self.watched.store(false, Ordering::SeqCst);
    }

    /// Whether the keeper is to be told that something is pending: by the first who asks.
    pub(super) fn tell_keeper(&self) -> bool {
        !self.watched.load(Ordering::SeqCst) && !self.watched.swap(true, Ordering::SeqCst)
    }

    /// Under the commit mutex, before a commit is accepted.
    pub(super) fn nothing_is_pending(&self, now: Duration) {
        self.ended(now);
    }

    /// A pass ended that began at `began`.
    fn ended(&self, began: Duration) {
        self.fresh_from.fetch_max(micros(began), Ordering::AcqRel);
    }

    /// Since when it is possible that something is not durable.
    pub(super) fn fresh_from(&self) -> Duration {
        Duration::from_micros(self.fresh_from.load(Ordering::Acquire))
    }
}

impl<E: Env, S: Storage<E>> Shared<E, S> {
    /// Waits until an accepted commit is as safe as the sync type says. Whether it is durable then.
    pub(super) async fn settle(&self, accepted: &Accepted) -> Result<bool, CommitError> {
        let csn = accepted.csn;
        match self.options.sync {
            Sync::NoSync => Ok(false),
            Sync::Instant => {
                let left = Left(self);
                let waited = self.wait_until_durable(accepted).await;
                std::mem::forget(left);
                waited.map(|()| true)
            }
            Sync::Periodic => {
                self.rouse_keeper();
                let most = self.options.most_unsynced();
                if self.horizon.durable() < csn && self.env.monotonic() > self.passes.fresh_from() + most {
                    self.wait_until_durable(accepted).await?;
                }
                Ok(self.horizon.durable() >= csn)
            }
        }
    }

    /// Waits until an accepted commit is durable; where nothing is logged it takes a checkpoint.
    pub(super) async fn wait_until_durable(&self, accepted: &Accepted) -> Result<(), CommitError> {
        let csn = accepted.csn;
        let (waiter, began) = (self.waiting.enter(), self.env.monotonic());
        let waited = match &accepted.capture {
            _ if self.horizon.durable() >= csn => Ok(()),
            _ if !self.is_logged() => self.checkpoint().await.map(drop).map_err(|error| {
                let error = io::Error::other(error);
                Arc::new(Failure::new("make", "a checkpoint", &error))
            }),
            Some(capture) => self.logs.wait(capture).await.map(|()| {
                self.became_durable(capture.csn);
                waiter.served(self.env.monotonic().saturating_sub(began));
            }),
            None => self.pass().await,
        };
        waited.map_err(|failure| CommitError::Indeterminate { csn, failure })
    }

    /// Makes all commits so far durable.
    pub(super) async fn pass(&self) -> Result<(), Arc<Failure>> {
        let began = self.env.monotonic();
        let waiter = self.waiting.enter();
        let capture = {
            let mut pipeline = self.commit();
            let last = self.horizon.committed();
            self.passes.logged.reset();
            pipeline.capture(last)
        };
        let Some(capture) = capture else {
            // It was closed, and so all of it is durable, or the close has failed.
            return self.logs.failure().map_or(Ok(()), Err);
        };
        self.logs.wait(&capture).await?;
        self.passes.ended(began);
        self.became_durable(capture.csn);
        waiter.served(self.env.monotonic().saturating_sub(began));
        Ok(())
    }

    /// Makes all commits so far durable; the last of them.
    pub(super) async fn sync(&self) -> Result<Csn, SyncError> {
        self.may_wait()?;
        let last = self.horizon.committed();
        if self.horizon.durable() < last {
            self.pass().await.map_err(SyncError::Poisoned)?;
        }
        Ok(last)
    }

    /// Waits until a commit is durable.
    pub(super) async fn wait_durable(&self, csn: Csn) -> Result<(), SyncError> {
        let committed = self.horizon.committed();
        if csn > committed {
            return Err(SyncError::NotCommitted { csn, committed });
        }
        if self.horizon.durable() >= csn {
            return Ok(());
        }
        self.may_wait()?;
        self.pass().await.map_err(SyncError::Poisoned)
    }

    fn may_wait(&self) -> Result<(), SyncError> {
        if !self.is_logged() {
            return Err(SyncError::NotLogged);
        }
        match self.logs.failure() {
            Some(failure) => Err(SyncError::Poisoned(failure)),
            None => Ok(()),
        }
    }

    /// So many bytes were given to a log.
    pub(super) fn logged(&self, bytes: u64) {
        if self.passes.logged.add(bytes, PASS_BYTES) && self.options.sync == Sync::Periodic {
            self.gates.keeper.open();
        }
    }

    /// Commits that are not durable. (They are of this epoch: what recovery found is durable.)
    pub(super) fn pending(&self) -> u64 {
        let before = Csn::first(self.epoch).to_bits() - 1;
        self.horizon.committed().to_bits().saturating_sub(self.horizon.durable().to_bits().max(before))
    }

    /// Whether the keeper's next pass is due, however short ago the last one was.
    pub(super) fn are_many_pending(&self) -> bool {
        self.pending() > self.options.sync_threshold
            || self.options.sync == Sync::Periodic && self.passes.logged.is_at_least(PASS_BYTES)
    }

    /// The keeper sleeps while nothing is pending, and until the next pass while little is.
    pub(super) fn rouse_keeper(&self) {
        let many = self.pending().is_multiple_of(self.options.sync_threshold + 1);
        // (It looks again after each pass.)
        if self.is_logged() && (self.passes.tell_keeper() || many) {
            self.gates.keeper.open();
        }
    }
}

/// A commit that nobody waits for any more: somebody has to make it durable, since others wait for its locks.
struct Left<'a, E: Env, S: Storage<E>>(&'a Shared<E, S>);

impl<E: Env, S: Storage<E>> Drop for Left<'_, E, S> {
    fn drop(&mut self) {
        self.0.rouse_keeper();
    }
}
