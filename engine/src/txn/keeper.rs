//! The background of a store: nothing that a caller could not do itself. One task looks at the clock (passes, deadlines of locks), the
//! other makes checkpoints. A third one, which the first hires once commits are many, gets memory for them.

use std::{io, sync::Arc, time::Duration};

use tracing::warn;

use crate::{env::Env, gate::race, plant::planted};

use super::{
    shared::{Shared, lock},
    storage::Storage,
};

/// How often it is looked whether a checkpoint is due by time (L26).
pub(super) const CHECKPOINT_LOOKS: Duration = Duration::from_secs(3);

/// The tasks, as the handles of a store hold them: they stop with the last handle.
pub(super) struct Keeper<E: Env, S: Storage<E>> {
    shared: Arc<Shared<E, S>>,
    tasks: crate::sync::Mutex<Vec<E::Task>>,
}

impl<E: Env, S: Storage<E>> Keeper<E, S> {
    pub(super) fn spawn(shared: &Arc<Shared<E, S>>) -> io::Result<Keeper<E, S>> {
        let keeper = shared.env.spawn("seawall txn keeper", keep(Arc::clone(shared)))?;
        let checkpointer = shared.env.spawn("seawall txn checkpointer", checkpoint(Arc::clone(shared)));
        let keeper = Keeper { shared: Arc::clone(shared), tasks: crate::sync::Mutex::new(vec![keeper]) };
        lock(&keeper.tasks).push(checkpointer?);
        Ok(keeper)
    }

    /// Stops the tasks and waits for their end.
    pub(super) async fn stop(&self) {
        for task in self.ask_to_stop() {
            task.await;
        }
    }

    fn ask_to_stop(&self) -> Vec<E::Task> {
        self.shared.stop();
        std::mem::take(&mut *lock(&self.tasks))
    }
}

impl<E: Env, S: Storage<E>> Drop for Keeper<E, S> {
    fn drop(&mut self) {
        drop(self.ask_to_stop());
    }
}

/// Makes the passes that nobody else makes in time, and wakes those whose wait for a lock is over.
async fn keep<E: Env, S: Storage<E>>(shared: Arc<Shared<E, S>>) {
    let mut stocker = None;
    loop {
        let seen = shared.gates.keeper.seq();
        if shared.stops() {
            break;
        }
        if stocker.is_none() && shared.versions.blocks().is_busy() {
            let task = shared.env.spawn("seawall txn stocker", restock(Arc::clone(&shared)));
            let task = task.inspect_err(|error| warn!(%error, "commits get their memory by themselves"));
            stocker = Some(task.ok());
        }
        let now = shared.env.monotonic();
        let mut until = shared.locks.wake_overdue(now);
        shared.passes.unwatched();
        let passes = shared.is_logged() && !planted!(shared.options.plants(), TxnPeriodUnbounded);
        if passes && shared.pending() > 0 && shared.logs.failure().is_none() {
            shared.passes.tell_keeper();
            let due = shared.passes.fresh_from() + shared.options.sync_period;
            if now >= due || shared.are_many_pending() {
                if let Err(failure) = shared.pass().await {
                    warn!(%failure, "commits that were not durable are lost, or not");
                }
                continue;
            }
            until = Some(until.map_or(due, |until| until.min(due)));
        }
        if shared.logs.count() > 1 && shared.logs.failure().is_none() {
            // Each log is to say how far all are durable, should nothing come any more.
            let quiet = shared.passes.fresh_from() + shared.options.log_idle;
            let marked = match now >= quiet && shared.pending() == 0 {
                true => shared.logs.mark(&shared.commit, shared.epoch).await.map(drop),
                false => Ok(()),
            };
            if let Err(error) = marked {
                warn!(%error, "the logs were not marked");
            }
            let next = now + shared.options.log_idle;
            until = Some(until.map_or(next, |until| until.min(next)));
        }
        match until {
            Some(until) => {
                let sleep = shared.env.sleep(until.saturating_sub(now).max(Duration::from_micros(1)));
                race(shared.gates.keeper.wait(seen), sleep).await;
            }
            None => shared.gates.keeper.wait(seen).await,
        }
    }
    if let Some(stocker) = stocker.flatten() {
        stocker.await;
    }
}

/// Makes blocks ready ahead of the commits that need them.
async fn restock<E: Env, S: Storage<E>>(shared: Arc<Shared<E, S>>) {
    let blocks = shared.versions.blocks();
    loop {
        let seen = blocks.seq();
        while !shared.stops() && blocks.fill() {
            shared.env.yield_now().await;
        }
        if shared.stops() {
            return;
        }
        blocks.wait(seen).await;
    }
}

/// Makes checkpoints when they are due.
async fn checkpoint<E: Env, S: Storage<E>>(shared: Arc<Shared<E, S>>) {
    loop {
        let seen = shared.gates.checkpointer.seq();
        if shared.stops() {
            return;
        }
        shared.make_due_checkpoint().await;
        race(shared.gates.checkpointer.wait(seen), shared.env.sleep(CHECKPOINT_LOOKS)).await;
    }
}
