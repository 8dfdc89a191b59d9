//! Tasks that sync logs beside the one who waits: where a machine's calls return only when they are done, the syncs of several logs
//! would else run one after the other.
//!
//! They only add parallelism. Whoever waits does so log by log, whether a task is there or not, and goes on with what it has begun: so a
//! task that is late, has ended, or never runs costs time alone. Nobody waits for one but who stops it.

use std::{
    io, mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::{
    env::Env,
    gate::Gate,
    sync::Mutex,
    wal::{Lsn, Wal},
};

use super::wait_below;

/// The tasks, as the handles of logs hold them: they end with the last of these. The first log has none: who waits begins with the first
/// one that lags, and sees to that itself.
pub(super) struct Services<E: Env> {
    /// Of the second log and those behind it.
    wanted: Vec<Arc<Wanted>>,
    tasks: Mutex<Vec<E::Task>>,
}

/// What is wanted of one task.
#[derive(Default)]
struct Wanted {
    /// All records of the log below this LSN are to be durable.
    below: AtomicU64,
    stops: AtomicBool,
    gate: Gate,
}

impl<E: Env> Services<E> {
    /// A task for each of these logs but the first.
    pub(super) fn spawn(env: &E, wals: &[Wal<E>]) -> io::Result<Services<E>> {
        let mut services = Services { wanted: Vec::new(), tasks: Mutex::new(Vec::new()) };
        for wal in wals.iter().skip(1) {
            let wanted = Arc::new(Wanted::default());
            services.wanted.push(Arc::clone(&wanted));
            let task = env.spawn("seawall log sync", serve(wal.clone(), wanted))?;
            services.tasks().push(task);
        }
        Ok(services)
    }

    /// Asks for what the caller is going to wait for.
    pub(super) fn ask(&self, log: usize, below: Lsn) {
        let Some(wanted) = log.checked_sub(1).and_then(|nth| self.wanted.get(nth)) else { return };
        if wanted.below.fetch_max(below.0, Ordering::AcqRel) < below.0 {
            wanted.gate.open();
        }
    }

    /// Stops the tasks and waits for their end. Later waits go on without them.
    pub(super) async fn stop(&self) {
        for task in self.ask_to_stop() {
            task.await;
        }
    }

    /// Tasks that have not ended.
    #[cfg(test)]
    pub(super) fn running(&self) -> usize {
        self.wanted.iter().filter(|wanted| Arc::strong_count(wanted) > 1).count()
    }

    fn ask_to_stop(&self) -> Vec<E::Task> {
        for wanted in &self.wanted {
            wanted.stops.store(true, Ordering::Release);
            wanted.gate.open();
        }
        mem::take(&mut *self.tasks())
    }

    fn tasks(&self) -> crate::sync::MutexGuard<'_, Vec<E::Task>> {
        self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<E: Env> Drop for Services<E> {
    fn drop(&mut self) {
        drop(self.ask_to_stop());
    }
}

async fn serve<E: Env>(wal: Wal<E>, wanted: Arc<Wanted>) {
    loop {
        let seen = wanted.gate.seq();
        if wanted.stops.load(Ordering::Acquire) {
            return;
        }
        let below = Lsn(wanted.below.load(Ordering::Acquire));
        if wal.durable() < below {
            // Whoever asked waits for it, too, and is told.
            drop(wait_below(&wal, below).await);
        }
        // (After a failure as well: it is not tried again before there is more to do.)
        wanted.gate.wait(seen).await;
    }
}
