//! The log's one background task: it keeps a spare prepared, recycles what was released, writes a mark when the log is
//! idle, and polls on what lost its last driver. It does nothing that an append could not do itself.

use std::{io, sync::Arc};

use tracing::{debug, warn};

use crate::{codec::Mark, env::Env, gate::race, plant::planted, sync::Mutex};

use super::{
    commit::Want,
    error::AppendError,
    log::{Access, Log},
};

/// The task, as the handles of a log hold it: it stops with the last of them.
pub(super) struct Keeper<E: Env> {
    log: Arc<Log<E>>,
    task: Mutex<Option<E::Task>>,
}

impl<E: Env> Keeper<E> {
    pub(super) fn spawn(log: &Arc<Log<E>>) -> io::Result<Keeper<E>> {
        let task = log.env.spawn("seawall keeper", keep(log.clone()))?;
        Ok(Keeper { log: log.clone(), task: Mutex::new(Some(task)) })
    }

    /// Stops the task and waits for its end: nothing of the log runs any more.
    pub(super) async fn stop(&self) {
        if let Some(task) = self.ask_to_stop() {
            task.await;
        }
    }

    fn ask_to_stop(&self) -> Option<E::Task> {
        self.log.lock().keeper_stops = true;
        self.log.gates.keeper.open();
        self.task.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}

impl<E: Env> Drop for Keeper<E> {
    fn drop(&mut self) {
        // On the real machine this waits until what was accepted is durable, as far as the machine lets it.
        drop(self.ask_to_stop());
    }
}

/// What the keeper does next.
enum Duty {
    Stop,
    Drain,
    Prepare,
    /// Marks the end of the log, if nothing is accepted behind this sequence number until the idle time is over.
    Watch(u64),
    Rest,
}

/// Runs until the log is closed or its last handle is gone.
async fn keep<E: Env>(log: Arc<Log<E>>) {
    // Something that could not be prepared is tried again when something has happened, not at once.
    let mut failed_at = None;
    loop {
        let seen = log.gates.keeper.seq();
        match duty(&log, failed_at == Some(seen)) {
            Duty::Stop => return farewell(&log).await,
            Duty::Drain => log.drain().await,
            Duty::Prepare => failed_at = log.wait(Want::Prepared).await.is_err().then_some(seen),
            Duty::Watch(sequence) => {
                let quiet = race(log.gates.keeper.wait(seen), log.env.sleep(log.options.idle_after())).await;
                if quiet {
                    mark_idle(&log, sequence).await;
                }
            }
            Duty::Rest => log.gates.keeper.wait(seen).await,
        }
    }
}

fn duty<E: Env>(log: &Log<E>, tried: bool) -> Duty {
    let mut state = log.lock();
    let accepted = state.accepted().sequence;
    if state.keeper_stops {
        Duty::Stop
    } else if state.failure.is_some() {
        Duty::Rest
    } else if Log::has_orphan(&state) {
        Duty::Drain
    } else if !tried && state.wants_preparation(log.options.segment_length()) {
        Duty::Prepare
    } else if state.marked_sequence != accepted {
        Duty::Watch(accepted)
    } else {
        state.keeper_rests = true;
        Duty::Rest
    }
}

/// The last handle is gone without a close: what it left in memory is not lost by that.
async fn farewell<E: Env>(log: &Log<E>) {
    let sequence = {
        let state = log.lock();
        (!state.closed && state.failure.is_none()).then(|| state.accepted().sequence)
    };
    if let Some(sequence) = sequence
        && let Err(failure) = log.wait(Want::Durable(sequence)).await
    {
        warn!(%failure, "dropped without a close, and what was buffered could not be made durable");
    }
}

async fn mark_idle<E: Env>(log: &Log<E>, sequence: u64) {
    match log.mark(Mark::Synced, Some(sequence)).await {
        Ok(true) => {
            log.state_end().await;
            log.lock().stats.idle_marks += 1;
            debug!("idle, and marked");
        }
        Ok(false) => {}
        Err(error) => debug!(%error, "idle, but could not be marked"),
    }
}

impl<E: Env> Log<E> {
    /// Proves the end of the log: brings it to a block boundary, syncs, and appends a mark that states so, synced as well.
    /// False if something else was accepted meanwhile, or behind the sequence number `after`, so that the log isn't quiet.
    pub(super) async fn mark(&self, mark: Mark, after: Option<u64>) -> Result<bool, AppendError> {
        let Some(filled) = self.accept_mark(after, Part::Filler).await? else { return Ok(false) };
        let indeterminate = |failure| AppendError::Poisoned(failure);
        self.wait(Want::Durable(filled)).await.map_err(indeterminate)?;
        if planted!(self.options.plants, WalIdleUnmarked) {
            self.lock().marked_sequence = filled;
            return Ok(false);
        }
        let Some(marked) = self.accept_mark(Some(filled), Part::Mark(mark)).await? else { return Ok(false) };
        self.wait(Want::Durable(marked)).await.map_err(indeterminate)?;
        self.lock().marked_sequence = marked;
        Ok(true)
    }

    /// Accepts a part of a mark, if nothing was accepted behind `after`. Returns its sequence number.
    async fn accept_mark(&self, after: Option<u64>, part: Part) -> Result<Option<u64>, AppendError> {
        loop {
            let lack = {
                let mut state = self.lock();
                if state.access == Access::Truncating || after.is_some_and(|after| state.accepted().sequence != after) {
                    return Ok(None);
                }
                let Some(mut producer) = state.lend() else { return Ok(None) };
                let bytes = producer.mark_bytes();
                let made = state.make_room(&mut producer, bytes, 0);
                if made.is_ok() {
                    match part {
                        Part::Filler => producer.encode_filler(),
                        Part::Mark(mark) => producer.encode_mark(mark),
                    }
                }
                let sequence = producer.accepted.sequence;
                state.producer = Some(producer);
                match made {
                    Ok(()) => return Ok(Some(sequence)),
                    Err(lack) => lack,
                }
            };
            self.make_way(lack).await?;
        }
    }
}

#[derive(Clone, Copy)]
enum Part {
    Filler,
    Mark(Mark),
}
