//! The background of a log: the keeper looks at the clock, the syncer syncs. They are two, so that a slow sync stops nobody.
//!
//! The keeper asks for a sync once a second (`everysec`), also when nothing comes in any more; writes what was postponed for too
//! long; tries again what failed; and polls on what lost its driver. A rewrite that is due asks for syncs ahead of its switch.

use std::{
    io,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tracing::warn;

use crate::{env::Env, gate::race, plant::planted, sync::Mutex};

use super::{
    commit::Want,
    log::{Log, POSTPONE, RETRY, SYNC_INTERVAL},
    options::Fsync,
};

/// The tasks, as the handles of a log hold them: they stop with the last handle.
pub(super) struct Keeper<E: Env> {
    log: Arc<Log<E>>,
    tasks: Mutex<Vec<E::Task>>,
    /// The last rewrite's.
    rewrite: Mutex<Option<E::Task>>,
}

impl<E: Env> Keeper<E> {
    pub(super) fn spawn(log: &Arc<Log<E>>) -> io::Result<Keeper<E>> {
        let keeper = Keeper { log: log.clone(), tasks: Mutex::new(Vec::new()), rewrite: Mutex::new(None) };
        keeper.add(log.env.spawn("seawall aof keeper", keep(log.clone()))?);
        // Under `always` rounds sync, and there is never much that isn't.
        if log.options.append_fsync != Fsync::Always {
            keeper.add(log.env.spawn("seawall aof syncer", sync(log.clone()))?);
        }
        Ok(keeper)
    }

    fn add(&self, task: E::Task) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }

    /// The task of a rewrite, which is to have ended before the log is closed. The one before has done all it had to do.
    pub(super) fn keep_rewrite(&self, task: E::Task) {
        let before = self.rewrite.lock().unwrap_or_else(PoisonError::into_inner).replace(task);
        drop(before);
    }

    /// Stops the tasks and waits for their end: nothing of the log runs any more.
    pub(super) async fn stop(&self) {
        for task in self.ask_to_stop() {
            task.await;
        }
    }

    fn ask_to_stop(&self) -> Vec<E::Task> {
        self.log.lock().stops = true;
        self.log.open_all();
        let rewrite = self.rewrite.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.extend(rewrite);
        tasks
    }
}

impl<E: Env> Drop for Keeper<E> {
    fn drop(&mut self) {
        // On the real machine this waits until what was accepted is durable, as far as the machine lets it.
        drop(self.ask_to_stop());
    }
}

enum Duty {
    Stop,
    Drain,
    /// Write what there is.
    Write,
    /// Everything up to here is to be synced: write what is left, and wake the syncer.
    Sync(u64),
    Sleep(Duration),
    Rest,
}

/// Runs until the last handle is gone or the log is closed.
async fn keep<E: Env>(log: Arc<Log<E>>) {
    loop {
        let seen = log.gates.keeper.seq();
        match duty(&log) {
            Duty::Stop => break,
            Duty::Drain => log.drain().await,
            Duty::Write => log.write_now().await,
            Duty::Sync(upto) => {
                // (A writer's own page is not seen before its round ends.)
                let idle_tail = planted!(log.plants, AofEverysecIdleTail) && log.lock().written >= upto;
                if !idle_tail {
                    let written = if planted!(log.plants, AofOnePagePerTick) {
                        log.write_now().await;
                        true
                    } else {
                        log.wait(Want::Written(upto)).await.is_ok()
                    };
                    let mut state = log.lock();
                    state.sync_wanted = written;
                    drop(state);
                    log.gates.syncer.open();
                }
                let mut state = log.lock();
                state.synced_at = log.env.monotonic();
                drop(state);
            }
            Duty::Sleep(time) => {
                race(log.gates.keeper.wait(seen), log.env.sleep(time)).await;
            }
            Duty::Rest => log.gates.keeper.wait(seen).await,
        }
    }
    if !log.lock().closed {
        farewell(&log).await;
    }
}

fn duty<E: Env>(log: &Log<E>) -> Duty {
    let now = log.env.monotonic();
    let mut state = log.lock();
    let accepted = state.accepted();
    if state.stops {
        return Duty::Stop;
    }
    if state.failure.is_some() {
        return Duty::Rest;
    }
    if state.has_orphan() {
        return Duty::Drain;
    }
    let until = |since: Duration, interval: Duration| (since + interval).saturating_sub(now);
    if let Some(trouble) = &state.trouble {
        return match until(trouble.since, RETRY) {
            Duration::ZERO => Duty::Write,
            left => Duty::Sleep(left),
        };
    }
    let mut sleep = None;
    if let Some(since) = state.postponed {
        let waits = state.postpones(log.options.append_fsync);
        let left = if waits { until(since, POSTPONE) } else { Duration::ZERO };
        if left.is_zero() {
            state.stats.delayed += u64::from(state.syncs());
            return Duty::Write;
        }
        sleep = Some(left);
    }
    if log.options.append_fsync == Fsync::EverySecond && accepted > state.durable {
        let held_back = state.holds_syncs_back(&log.options);
        // While one is under way the next second begins anew, as in Redis.
        match until(state.synced_at, SYNC_INTERVAL) {
            Duration::ZERO if state.syncs() || held_back => {
                state.synced_at = now;
                sleep = Some(sleep.map_or(SYNC_INTERVAL, |sleep| sleep.min(SYNC_INTERVAL)));
            }
            Duration::ZERO => return Duty::Sync(accepted),
            left => sleep = Some(sleep.map_or(left, |sleep| sleep.min(left))),
        }
    }
    match sleep {
        Some(time) => Duty::Sleep(time),
        None => {
            // Under the other policies what comes in is no business of the keeper's; whatever else is opens its gate.
            state.keeper_rests = log.options.append_fsync == Fsync::EverySecond;
            Duty::Rest
        }
    }
}

/// Syncs whenever it is asked to.
async fn sync<E: Env>(log: Arc<Log<E>>) {
    loop {
        let seen = log.gates.syncer.seq();
        let wanted = {
            let mut state = log.lock();
            if state.stops {
                return;
            }
            std::mem::take(&mut state.sync_wanted)
        };
        if wanted {
            log.sync_now().await;
        } else {
            log.gates.syncer.wait(seen).await;
        }
    }
}

/// The last handle is gone without a close: what it left in memory is not lost by that.
async fn farewell<E: Env>(log: &Log<E>) {
    let accepted = log.lock().accepted();
    if let Err(error) = log.wait(Want::Durable(accepted)).await {
        warn!(?error, "dropped without a close, and what was buffered could not be made durable");
    }
    log.drain().await;
    drop(log.lock().lock.take());
}
