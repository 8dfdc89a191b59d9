//! The log shrinks because the tables catch up: freeze, wait until that is durable, merge, publish, release.
//!
//! Writers meet nothing of it but the swap to a new generation. Until its root is published nothing of a checkpoint can be found
//! after a crash, and the logs still have everything; from then on they may let go, which is gone on with wherever it was
//! interrupted. A checkpoint that fails leaves its frozen generation to the next one.
//!
//! One task makes all checkpoints; who wants one asks it.

mod pressure;

use std::{sync::Arc, time::Duration};

use tracing::{debug, warn};

use crate::{env::Env, plant::planted, sync::Mutex, wal::Lsn};

use pressure::{RETRY, is_final};

use super::{
    error::CheckpointError,
    ids::Csn,
    loads::Load,
    logged::Logged,
    logs::LogsError,
    redo::Checkpoint,
    shared::{Shared, lock},
    storage::{Changes, Point, PublishError, State, Storage},
    view::View,
};

/// Between pieces of Memory tables that are copied: about as long as one takes.
const COPY_PAUSE: Duration = Duration::from_micros(100);

/// How far checkpoints have come.
#[derive(Debug)]
pub(super) struct Checkpoints {
    inner: Mutex<Inner>,
    /// Bytes that commits have logged since the last freeze, as this life knows it.
    pub(super) logged: Logged,
}

#[derive(Debug)]
struct Inner {
    /// How many were asked for, and how many of these there were.
    asked: u64,
    done: u64,
    /// How the last one ended.
    last: Result<CheckpointReport, CheckpointError>,
    /// When it did.
    at: Duration,
    /// How many published a root, how many failed, and how many keys were changed.
    counts: (u64, u64, u64),
    /// What no log needs to hold any more, since a root is published that has it.
    release: Option<Release>,
}

/// Where logs may begin.
#[derive(Clone, Debug)]
pub(super) struct Release {
    /// The root that has all before.
    pub(super) sequence: u64,
    pub(super) csn: Csn,
    /// The first record of each log that is still needed.
    pub(super) below: Vec<Lsn>,
}

/// What a checkpoint did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointReport {
    /// The last commit that the root has.
    pub csn: Csn,
    /// The root's number.
    pub sequence: u64,
    /// Keys that were written or removed.
    pub changes: u64,
}

impl Checkpoints {
    /// Of a store whose newest root is this; `release` is what the last life didn't come to. One is due if `asked`.
    pub(super) fn new(now: Duration, csn: Csn, sequence: u64, release: Option<Release>, asked: bool) -> Checkpoints {
        let last = Ok(CheckpointReport { csn, sequence, changes: 0 });
        let inner = Inner { asked: u64::from(asked), done: 0, last, at: now, counts: (0, 0, 0), release };
        Checkpoints { inner: Mutex::new(inner), logged: Logged::default() }
    }

    /// How many published a root, how many failed, and how many keys were changed.
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        lock(&self.inner).counts
    }
}

impl<E: Env, S: Storage<E>> Shared<E, S> {
    /// Has a checkpoint made of all that is committed now.
    pub(super) async fn checkpoint(&self) -> Result<CheckpointReport, CheckpointError> {
        let mine = {
            let mut inner = lock(&self.checkpoints.inner);
            inner.asked += 1;
            inner.asked
        };
        self.gates.checkpointer.open();
        loop {
            let seen = self.gates.checkpointed.seq();
            {
                let inner = lock(&self.checkpoints.inner);
                if inner.done >= mine {
                    return inner.last.clone();
                }
            }
            if self.stops() {
                return Err(CheckpointError::Closed);
            }
            self.gates.checkpointed.wait(seen).await;
        }
    }

    /// The task's part: makes one if it is due or was asked for.
    pub(super) async fn make_due_checkpoint(&self) {
        let asked = lock(&self.checkpoints.inner).asked;
        if !self.checkpoint_is_due(asked) {
            return;
        }
        let poisoned = lock(&self.checkpoints.inner).last.clone().err().filter(is_final);
        let result = match poisoned {
            Some(error) => Err(error),
            None => self.make_checkpoint().await,
        };
        if let Err(error) = &result {
            warn!(%error, "no checkpoint");
        }
        {
            let mut inner = lock(&self.checkpoints.inner);
            (inner.done, inner.at) = (asked, self.env.monotonic());
            inner.counts.1 += u64::from(result.is_err());
            inner.last = result;
        }
        self.gates.checkpointed.open();
    }

    fn checkpoint_is_due(&self, asked: u64) -> bool {
        let inner = lock(&self.checkpoints.inner);
        let since = self.env.monotonic().saturating_sub(inner.at);
        let late = since >= self.options.checkpoint_period;
        // What stood against one that failed may be gone.
        let again = inner.last.as_ref().map_or_else(|error| !is_final(error) && since >= RETRY, |_| true);
        let many = again && self.version_bytes() >= self.options.dirty_bytes;
        let much = again && self.checkpoints.logged.is_at_least(self.options.checkpoint_log_bytes);
        asked > inner.done || many || much || late
    }

    async fn make_checkpoint(&self) -> Result<CheckpointReport, CheckpointError> {
        let mut loads = self.loads.take();
        let result = self.make_checkpoint_with(&mut loads).await;
        self.settle_loads(loads, &result);
        result
    }

    async fn make_checkpoint_with(&self, loads: &mut [Load<S::Build>]) -> Result<CheckpointReport, CheckpointError> {
        // (The planted bug: pages of the older root would wait for it.)
        let owed = lock(&self.checkpoints.inner).release.is_some();
        if !(owed && planted!(self.options.plants(), CkptReuseUnreleased)) {
            self.release().await?;
        }
        self.tidy_memory_tables().await;
        let Some(frozen) = self.freeze(loads).await? else {
            let meta = *self.storage.newest().meta();
            return Ok(CheckpointReport { csn: meta.point.csn, sequence: meta.sequence, changes: 0 });
        };
        let Frozen { to, view, capture, below } = frozen;
        if self.is_logged() && !planted!(self.options.plants(), CkptAheadOfWal) {
            // Before the first page is written: what is in pages survives.
            self.logs.wait(&capture).await.map_err(|failure| CheckpointError::Log(failure.to_string()))?;
            self.became_durable(to.csn);
        }
        let mut draft = self.storage.draft(to)?;
        let mut changes = 0;
        // The oldest first; there are several where a checkpoint failed.
        for generation in view.generations.iter().skip(1).rev() {
            for (table, overlay) in generation.tables().iter() {
                if let (Some(tree), true) = (overlay.frozen(), view.catalog.table(*table).is_some()) {
                    let mut listed = Listed::new(tree.entries(to.csn));
                    self.storage.merge(&mut draft, *table, &mut listed).await?;
                    changes += listed.taken;
                }
            }
        }
        for build in loads.iter_mut().filter_map(|load| load.build.take()) {
            self.storage.adopt(&mut draft, build)?;
        }
        if planted!(self.options.plants(), CkptReleaseEarly) {
            let sequence = self.storage.newest().meta().sequence + 1;
            lock(&self.checkpoints.inner).release = Some(Release { sequence, csn: to.csn, below: below.clone() });
            self.release().await?;
        }
        let catalog = self.with_loads(&view.catalog, loads);
        let published = self.storage.publish(draft, catalog).await;
        let state = published.map_err(|error| match error {
            PublishError::Not(error) => CheckpointError::Storage(error),
            PublishError::Unknown(error) => CheckpointError::Unknown(error),
        })?;
        let sequence = state.meta().sequence;
        let all = planted!(self.options.plants(), CkptReleaseAll);
        let now = if all { self.commit().capture(to.csn) } else { None };
        let below = now.map_or(below, |now| now.next.to_vec());
        {
            let mut inner = lock(&self.checkpoints.inner);
            inner.release = Some(Release { sequence, csn: to.csn, below });
            (inner.counts.0, inner.counts.2) = (inner.counts.0 + 1, inner.counts.2 + changes);
        }
        if !self.is_logged() {
            self.became_durable(to.csn);
        }
        self.expose(state, loads);
        drop(view);
        self.bound_pinned();
        self.gates.checkpointed.open();
        debug!(csn = %to.csn, sequence, changes, "checkpoint");
        self.release().await?;
        Ok(CheckpointReport { csn: to.csn, sequence, changes })
    }

    /// Takes out of Memory tables what is removed for everybody, where that is much. It is broken off while memory is short, and goes on
    /// with the next checkpoint.
    async fn tidy_memory_tables(&self) {
        let is_short = || self.version_bytes() >= self.options.dirty_bytes / 2 * 3;
        while self.copy_volatile() && !is_short() {
            // (To let go of a mutex would not do: who waits for it takes longer to wake than this one to take it again.)
            self.env.sleep(COPY_PAUSE).await;
        }
        self.place_copies();
    }

    /// Begins a new generation: what is below it is what this checkpoint is of. `None` if the newest root has it all.
    async fn freeze(&self, loads: &mut [Load<S::Build>]) -> Result<Option<Frozen<S::State>>, CheckpointError> {
        loop {
            let lacking = 'lacking: {
                let mut pipeline = self.commit();
                self.usable()?;
                if let Err(lacking) = self.date_loads(&mut pipeline, loads)? {
                    break 'lacking lacking;
                }
                let csn = self.horizon.committed();
                self.checkpoints.logged.reset();
                if csn <= self.storage.newest().meta().point.csn {
                    return Ok(None);
                }
                match pipeline.as_mut().rotate() {
                    Err(lacking) => lacking,
                    Ok(()) => {
                        let capture = pipeline.as_mut().capture(csn);
                        let mut below = capture.next.to_vec();
                        if !planted!(self.options.plants(), CkptReleaseLob) {
                            // Their commits will be above `csn`.
                            for ((log, _), first) in &pipeline.pieces {
                                let below = &mut below[usize::from(*log)];
                                *below = (*below).min(*first);
                            }
                        }
                        if let Some((prev_end, records)) = &pipeline.epoch_records {
                            // Until a root states a later commit, the epoch is known from its record alone.
                            if *prev_end >= csn {
                                below
                                    .iter_mut()
                                    .zip(records)
                                    .for_each(|(below, record)| *below = (*below).min(*record));
                            } else {
                                pipeline.epoch_records = None;
                            }
                        }
                        let next_csn = pipeline.next.ok_or(CheckpointError::Closed)?;
                        // (One that failed may have left an empty one, which need not be frozen: so they don't pile up.)
                        let empty = pipeline.generation.bytes() == 0;
                        let newest = (!empty).then(|| pipeline.generation.freeze());
                        if let Some(newest) = &newest {
                            pipeline.generation = Arc::clone(newest);
                        }
                        let _old = self.horizon.swap(|view| View {
                            catalog: Arc::clone(&view.catalog),
                            generations: newest.into_iter().chain(view.generations.iter().cloned()).collect(),
                            volatile: pipeline.volatile.clone(),
                            state: view.state.clone(),
                        });
                        // (The view cannot change before the commit mutex is free: the catalog is that of `csn`.)
                        let view = self.horizon.view();
                        let to = Point { csn, next_csn, epoch: self.epoch };
                        return Ok(Some(Frozen { to, view, capture, below }));
                    }
                }
            };
            self.logs.make_way(lacking).await.map_err(|error| CheckpointError::Log(error.to_string()))?;
        }
    }

    /// Lets the logs go of what the newest root has.
    async fn release(&self) -> Result<(), CheckpointError> {
        let Some(release) = lock(&self.checkpoints.inner).release.clone() else { return Ok(()) };
        let logs = release.below.len() as u8;
        for (log, below) in (0..).zip(&release.below) {
            let record = Checkpoint {
                log,
                logs,
                epoch: self.epoch,
                sequence: release.sequence,
                csn: release.csn,
                release: *below,
                uuid: self.uuid,
            };
            self.logs.release(&self.commit, &record).await.map_err(failed)?;
        }
        lock(&self.checkpoints.inner).release = None;
        self.storage.released(&self.storage.newest()).await;
        Ok(())
    }

    /// What only snapshots hold is bounded: the oldest of them go. Where somebody still reads what the oldest saw, that ends with him: to
    /// take younger ones away would give nothing back.
    fn bound_pinned(&self) {
        while self.versions.bytes().saturating_sub(self.version_bytes()) > self.options.pinned_bytes {
            if !self.horizon.forget_oldest() {
                return;
            }
        }
    }

    fn usable(&self) -> Result<(), CheckpointError> {
        match self.logs.failure() {
            Some(failure) => Err(CheckpointError::Log(failure.to_string())),
            None => Ok(()),
        }
    }
}

fn failed(error: LogsError) -> CheckpointError {
    CheckpointError::Log(error.to_string())
}

/// What a checkpoint is of.
struct Frozen<S> {
    to: Point,
    view: Arc<View<S>>,
    capture: super::logs::Capture,
    below: Vec<Lsn>,
}

/// Changes one after the other.
struct Listed<'a, I> {
    rest: I,
    current: Option<(&'a [u8], Option<&'a [u8]>)>,
    taken: u64,
}

impl<'a, I: Iterator<Item = (&'a [u8], Option<&'a [u8]>)>> Listed<'a, I> {
    fn new(mut rest: I) -> Listed<'a, I> {
        let current = rest.next();
        Listed { rest, current, taken: 0 }
    }
}

impl<'a, I: Iterator<Item = (&'a [u8], Option<&'a [u8]>)>> Changes for Listed<'a, I> {
    fn current(&self) -> Option<(&[u8], Option<&[u8]>)> {
        self.current
    }

    fn advance(&mut self) {
        self.taken += u64::from(self.current.is_some());
        self.current = self.rest.next();
    }
}
