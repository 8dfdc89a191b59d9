//! Group commit: who writes, who syncs, who waits.
//!
//! At most one write and one sync are in flight; a sync publishes what was written when it began. What is in flight belongs to
//! the log (see [`crate::worker`]). Whoever waits does whatever work is at hand.

use std::{mem, sync::Arc};

use tracing::{debug, warn};

use crate::{
    env::Env,
    failure::Failure,
    gate::Gate,
    plant::planted,
    worker::{Driver, Owner},
};

use super::{
    job::{Done, Job, Switched, SyncJob, WriteJob, Written},
    log::{Log, Slot, State, Trouble, Worker},
    manifest::Manifest,
    options::Fsync,
    producer::Head,
};

/// What a waiter wants.
#[derive(Clone, Copy, Debug)]
pub(super) enum Want {
    /// That more than this many pages have come back from the machine.
    Drained(u64),
    /// That everything up to here is with the operating system.
    Written(u64),
    /// That everything up to here survives a power cut.
    Durable(u64),
}

/// Why a wait ended without what was wanted.
#[derive(Clone, Debug)]
pub(super) enum Stuck {
    /// The log works no more.
    Poisoned(Arc<Failure>),
    /// Writes fail, and are tried again.
    Stalled(Arc<Failure>),
    /// The log was switched on, and has no base yet.
    NoBase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Write,
    Sync,
}

enum Step<E: Env> {
    Done(Result<(), Stuck>),
    Drive(Operation, Worker<E>),
    Space(u64),
    Cohort(usize, u64),
    Leader(u64),
}

impl<E: Env> Log<E> {
    /// Waits until `want` holds, doing whatever work is at hand.
    pub(super) async fn wait(&self, want: Want) -> Result<(), Stuck> {
        let waiter = {
            let mut state = self.lock();
            state.next_waiter += 1;
            Waiter { log: self, id: state.next_waiter }
        };
        loop {
            match self.step(waiter.id, want) {
                Step::Done(result) => return result,
                Step::Drive(operation, worker) => self.drive(operation, worker).await,
                Step::Space(seen) => self.gates.space.wait(seen).await,
                Step::Cohort(parity, seen) => self.gates.cohort[parity].wait(seen).await,
                Step::Leader(seen) => self.gates.leader.wait(seen).await,
            }
        }
    }

    async fn drive(&self, operation: Operation, worker: Worker<E>) {
        Driver::new(self, operation, worker).await;
    }

    /// The next thing that this waiter does.
    fn step(&self, me: u64, want: Want) -> Step<E> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let holds = match want {
            Want::Drained(seen) => state.ring.drained() > seen,
            Want::Written(upto) => state.written >= upto,
            Want::Durable(upto) => state.durable >= upto,
        };
        if holds {
            return Step::Done(Ok(()));
        }
        if let Some(failure) = &state.failure {
            return Step::Done(Err(Stuck::Poisoned(failure.clone())));
        }
        if let Some(worker) = state.write.adopt() {
            return Step::Drive(Operation::Write, worker);
        }
        if let Some(worker) = state.sync.adopt() {
            return Step::Drive(Operation::Sync, worker);
        }
        if let Some(trouble) = &state.trouble {
            return Step::Done(Err(Stuck::Stalled(trouble.failure.clone())));
        }
        let space = || Step::Space(self.gates.space.seq());
        if state.collecting.is_some() && matches!(want, Want::Durable(_)) {
            // Nothing is, before a manifest names it.
            if planted!(self.plants, AofEnableDurable) {
                return Step::Done(Ok(()));
            }
            return if state.rewriting.is_some() { space() } else { Step::Done(Err(Stuck::NoBase)) };
        }
        if let Want::Durable(upto) = want
            && state.written >= upto
            && state.holds_syncs_back(&self.options)
            && planted!(self.plants, AofHeldBackDurable)
        {
            return Step::Done(Ok(()));
        }
        let can_write = state.can_write();
        let upto = match want {
            Want::Drained(_) | Want::Written(_) => {
                return match can_write.then(|| self.begin_write(state)).flatten() {
                    Some(worker) => Step::Drive(Operation::Write, worker),
                    None => space(),
                };
            }
            Want::Durable(upto) => upto,
        };
        if state.leader.is_none() && state.next.is_none_or(|next| next == me) {
            (state.leader, state.next, state.cohort_closed) = (Some(me), None, false);
        }
        if state.leader == Some(me) {
            if state.written < upto {
                return match can_write.then(|| self.begin_write(state)).flatten() {
                    Some(worker) => {
                        state.close_cohort(state.published);
                        Step::Drive(Operation::Write, worker)
                    }
                    None => space(),
                };
            }
            return match self.begin_sync(state) {
                Some(worker) => {
                    state.close_cohort(state.written);
                    state.leader_syncs = true;
                    Step::Drive(Operation::Sync, worker)
                }
                None => space(),
            };
        }
        let cohort = |epoch: u64| {
            let parity = (epoch % 2) as usize;
            Step::Cohort(parity, self.gates.cohort[parity].seq())
        };
        if state.leader.is_some() && state.cohort_closed && upto <= state.cohort_upto {
            return cohort(state.epoch);
        }
        if state.next.is_none_or(|next| next == me) {
            state.next = Some(me);
            return Step::Leader(self.gates.leader.seq());
        }
        cohort(state.epoch + 1)
    }

    /// Takes all pages and begins to write them; `None` if there are none.
    fn begin_write(&self, state: &mut State<E>) -> Option<Worker<E>> {
        state.publish_page();
        let mut pages = mem::take(&mut state.left);
        if pages.is_empty() {
            if state.ring.is_empty() {
                return None;
            }
            pages = state.ring.take();
        }
        if pages.len() > 1 && planted!(self.plants, AofOnePagePerTick) {
            state.left = pages.split_off(1);
        }
        state.postponed = None;
        state.switching = pages.iter().any(|page| page.tag.head == Head::Switch);
        state.stats.writes += 1;
        state.stats.syncs += u64::from(state.switching);
        let job = WriteJob {
            dir: self.dir.clone(),
            names: self.names.clone(),
            plants: self.plants.clone(),
            manifest: if state.switching { state.manifest.clone() } else { Manifest::default() },
            collecting: if state.switching { state.collecting.clone() } else { None },
            ahead: state.ahead > 0,
            target: state.target.clone(),
            pages,
            written: state.written,
            durable: state.durable_whole,
            salt: if state.switching { self.names.salt(&self.env, self.options.sums(&self.plants)) } else { None },
        };
        state.write.begin(Job::Write(job))
    }

    /// Begins to sync what is written now, unless a sync is under way.
    fn begin_sync(&self, state: &mut State<E>) -> Option<Worker<E>> {
        if !state.sync.is_idle() || state.switching || state.collecting.is_some() {
            return None;
        }
        state.stats.syncs += 1;
        state.synced_at = self.env.monotonic();
        state.sync.begin(Job::Sync(SyncJob { target: state.target.clone(), upto: state.written }))
    }

    /// A write ended.
    fn written(&self, state: &mut State<E>, written: Written<E>) {
        let Written { done, mut left, target, upto, switched, synced, result } = written;
        state.switching = false;
        state.ring.give_back(done);
        if let Some(producer) = &mut state.producer
            && producer.held() > 0
            && planted!(self.plants, AofFlushResets)
        {
            producer.forget();
        }
        left.append(&mut state.left);
        state.left = left;
        state.written = upto;
        if let Some(synced) = synced {
            state.durable = state.durable.max(synced);
        }
        if let Some(switched) = switched {
            match switched {
                Ok(Switched { manifest, bytes, collecting }) => {
                    state.manifest = manifest;
                    state.collecting = collecting;
                    state.earlier_bytes += bytes;
                    state.durable_whole = 0;
                    state.switched(Ok(state.earlier_bytes));
                }
                Err(failure) => state.switched(Err(failure)),
            }
        }
        state.target = target;
        match result {
            Ok(()) => {
                if state.trouble.take().is_some() {
                    debug!("writes succeed again");
                }
            }
            Err(error) if error.fatal || self.options.append_fsync == Fsync::Always => {
                state.fail(error.failure);
            }
            Err(error) => {
                warn!(failure = %error.failure, "will be tried again");
                state.stats.stalls += 1;
                // The planted bugs give the pages away: in their place comes what follows, or a hole.
                let skips = planted!(self.plants, AofSkipFailedWrite);
                if skips || planted!(self.plants, AofRingSlotFreedEarly) {
                    let lost = mem::take(&mut state.left);
                    if lost.iter().any(|page| page.tag.head == Head::Switch) {
                        state.switched(Err(error.failure));
                    }
                    if skips {
                        state.target.offset += lost.iter().map(|page| page.bytes.len() as u64).sum::<u64>();
                    }
                    state.written = lost.back().map_or(state.written, |page| page.tag.upto);
                    state.ring.give_back(lost);
                    return;
                }
                state.trouble = Some(Trouble { failure: Arc::new(error.failure), since: self.env.monotonic() });
            }
        }
    }

    /// Polls what is in flight without a driver to its end: nothing may touch the files after close.
    pub(super) async fn drain(&self) {
        loop {
            let orphan = {
                let mut state = self.lock();
                let write = state.write.adopt().map(|worker| (Operation::Write, worker));
                write.or_else(|| state.sync.adopt().map(|worker| (Operation::Sync, worker)))
            };
            let Some((operation, worker)) = orphan else { return };
            self.drive(operation, worker).await;
        }
    }

    /// The keeper's part: writes what there is, also what failed before. One attempt.
    pub(super) async fn write_now(&self) {
        let seen = self.gates.space.seq();
        let worker = {
            let mut state = self.lock();
            if state.failure.is_some() {
                return;
            }
            if !state.can_write() {
                None
            } else {
                match self.begin_write(&mut state) {
                    Some(worker) => Some(worker),
                    // There is nothing to write any more.
                    None => {
                        state.postponed = None;
                        return;
                    }
                }
            }
        };
        match worker {
            Some(worker) => self.drive(Operation::Write, worker).await,
            None => self.gates.space.wait(seen).await,
        }
    }

    /// Whether the faithful model of B1 loses a command here: upstream waits once while a sync runs, tries once more, and looks away.
    pub(super) fn drops_when_full(&self, state: &State<E>) -> bool {
        state.syncs() && planted!(self.plants, AofRingFullDrops)
    }

    /// The syncer's part: begins a sync of what is written, and sees it through.
    pub(super) async fn sync_now(&self) {
        let worker = {
            let mut state = self.lock();
            if state.failure.is_some() || state.durable >= state.written { None } else { self.begin_sync(&mut state) }
        };
        if let Some(worker) = worker {
            self.drive(Operation::Sync, worker).await;
        }
    }
}

impl<E: Env> Owner for Log<E> {
    type Job = Job<E>;
    type Operation = Operation;
    type Told = ();

    fn complete(&self, operation: Operation, worker: Worker<E>, done: Done<E>) {
        let mut state = self.lock();
        *state.slot(operation) = Slot::Idle(Some(worker));
        match done {
            Done::Written(written) => self.written(&mut state, written),
            Done::Synced { job, result } => {
                let SyncJob { target, upto } = job;
                match result {
                    Ok(()) => {
                        let present = planted!(self.plants, AofSyncPublishesPresent);
                        state.durable = state.durable.max(if present { state.written } else { upto });
                        if target.name == state.target.name {
                            state.durable_whole = state.durable_whole.max(target.whole);
                        }
                    }
                    Err(failure) if planted!(self.plants, AofSyncErrorIgnored) => {
                        debug!(%failure, "ignored");
                        state.durable = state.durable.max(upto);
                    }
                    Err(failure) if planted!(self.plants, AofSyncErrorForgiven) => {
                        debug!(%failure, "until one succeeds")
                    }
                    Err(failure) => drop(state.fail(failure)),
                }
            }
        }
        let parity = (state.epoch % 2) as usize;
        // A sync that no leader began (the syncer's) may be what any of them waits for.
        let foreign = operation == Operation::Sync && !mem::take(&mut state.leader_syncs);
        if operation == Operation::Sync && !foreign {
            state.leader = None;
        }
        let keeper = state.postponed.is_some() || state.trouble.is_some() || state.failure.is_some();
        let all = foreign || state.failure.is_some() || state.trouble.is_some();
        drop(state);
        self.gates.space.open();
        if operation == Operation::Sync || all {
            self.gates.cohort[parity].open();
            if all {
                self.gates.cohort[1 - parity].open();
            }
            self.gates.leader.open();
        }
        if keeper {
            self.gates.keeper.open();
        }
    }

    fn orphan(&self, operation: Operation, worker: Worker<E>) {
        {
            let mut state = self.lock();
            *state.slot(operation) = Slot::Orphan(worker);
            if std::thread::panicking() {
                let error = std::io::Error::other("it panicked");
                state.fail(Failure::new("update", "the log", &error));
            }
        }
        self.open_all();
    }
}

/// A waiter that may lead; it gives the lead back when it goes.
struct Waiter<'a, E: Env> {
    log: &'a Log<E>,
    id: u64,
}

impl<E: Env> Drop for Waiter<'_, E> {
    fn drop(&mut self) {
        let led = {
            let mut state = self.log.lock();
            let led = state.leader == Some(self.id);
            if led {
                // Its sync, if it left one behind, ends as nobody's: all look again then.
                (state.leader, state.leader_syncs) = (None, false);
            }
            let next = state.next == Some(self.id);
            if next {
                state.next = None;
            }
            led || next
        };
        if led {
            self.log.gates.cohort.iter().for_each(Gate::open);
            self.log.gates.leader.open();
        }
    }
}
