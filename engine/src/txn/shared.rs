//! A store as its handles share it.

use std::sync::{
    Arc, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use crate::{
    env::Env,
    failure::Failure,
    gate::Gate,
    sync::{Mutex, MutexGuard},
};

use super::{
    checkpoint::Checkpoints,
    commit::Pipeline,
    durability::Passes,
    error::TxError,
    generation::Versions,
    ids::{Epoch, TxnId},
    loads::Loads,
    locks::Locks,
    logs::Logs,
    options::Options,
    stats::Counts,
    storage::{Storage, Waiting},
    view::Horizon,
};

/// What all handles of a store share. Order of mutexes, never reversed and none held across an await: commit > horizon > a shard of
/// the locks > one transaction's locks > an overlay > a log's, or the cache's clock > the free blocks'.
pub(super) struct Shared<E: Env, S: Storage<E>> {
    pub(super) env: E,
    pub(super) options: Options,
    pub(super) storage: S,
    pub(super) versions: Arc<Versions>,
    /// Those who wait until commits are durable.
    pub(super) waiting: Arc<Waiting>,
    pub(super) uuid: [u8; 16],
    pub(super) epoch: Epoch,
    pub(super) horizon: Horizon<S::State>,
    pub(super) locks: Locks,
    pub(super) logs: Logs<E>,
    /// The commit mutex.
    pub(super) commit: Mutex<Pipeline<E>>,
    pub(super) passes: Passes,
    pub(super) checkpoints: Checkpoints,
    pub(super) loads: Loads<S::Build>,
    pub(super) gates: Gates,
    pub(super) counts: Counts,
    next_txn: AtomicU64,
    closed: AtomicBool,
    /// The tasks are to end.
    stops: AtomicBool,
}

/// Where waiters sleep.
#[derive(Debug, Default)]
pub(super) struct Gates {
    /// The keeper: something may be due.
    pub(super) keeper: Gate,
    /// The checkpointer: one may be due.
    pub(super) checkpointer: Gate,
    /// Those who wait for the end of a checkpoint, or for what it gives back.
    pub(super) checkpointed: Gate,
    /// Those who wait until more is durable.
    pub(super) durable: Gate,
}

impl<E: Env, S: Storage<E>> Shared<E, S> {
    #[expect(clippy::too_many_arguments, reason = "each is a part of a store, put together in one place")]
    pub(super) fn new(
        env: E,
        options: Options,
        storage: S,
        (versions, waiting): (Arc<Versions>, Arc<Waiting>),
        (uuid, epoch): ([u8; 16], Epoch),
        horizon: Horizon<S::State>,
        logs: Logs<E>,
        pipeline: Pipeline<E>,
        checkpoints: Checkpoints,
    ) -> Shared<E, S> {
        let (passes, locks) = (Passes::new(env.monotonic()), Locks::planted(options.plants()));
        Shared {
            env,
            options,
            storage,
            versions,
            waiting,
            uuid,
            epoch,
            horizon,
            locks,
            logs,
            commit: Mutex::new(pipeline),
            passes,
            checkpoints,
            loads: Loads::default(),
            gates: Gates::default(),
            counts: Counts::default(),
            next_txn: AtomicU64::new(TxnId::first(epoch).to_bits()),
            closed: AtomicBool::new(false),
            stops: AtomicBool::new(false),
        }
    }

    /// The commit mutex. If a thread panicked under it, the store is poisoned as after any other failure.
    pub(super) fn commit(&self) -> MutexGuard<'_, Pipeline<E>> {
        self.commit.lock().unwrap_or_else(|poisoned| {
            let error = std::io::Error::other("a thread panicked");
            self.logs.poison(Arc::new(Failure::new("update", "the store's memory", &error)));
            poisoned.into_inner()
        })
    }

    /// A number for a transaction.
    pub(super) fn next_txn(&self) -> Result<TxnId, TxError> {
        let bits = self.next_txn.fetch_add(1, Ordering::Relaxed);
        // (2^40 of them are more than a life has.)
        TxnId::from_bits(bits).filter(|id| id.epoch() == Some(self.epoch)).ok_or(TxError::Closed)
    }

    /// Whether there is work to be taken.
    pub(super) fn alive(&self) -> Result<(), TxError> {
        if let Some(failure) = self.logs.failure() {
            return Err(TxError::Poisoned(failure));
        }
        // (What is left of a store whose handles are gone can read no more and write no more: nobody makes it durable.)
        if self.is_closed() || self.stops() { Err(TxError::Closed) } else { Ok(()) }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Refuses work from now on; false if it did so already.
    pub(super) fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }

    /// The tasks are to end.
    pub(super) fn stop(&self) {
        self.stops.store(true, Ordering::Release);
        let Gates { keeper, checkpointer, checkpointed, durable } = &self.gates;
        [keeper, checkpointer, checkpointed, durable].into_iter().for_each(Gate::open);
        self.versions.blocks().wake();
    }

    pub(super) fn stops(&self) -> bool {
        self.stops.load(Ordering::Acquire)
    }
}

/// What is done under one of these mutexes can't leave a thing half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
