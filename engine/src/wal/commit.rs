//! Group commit: who writes, who syncs, who prepares, who waits.
//!
//! A pure state machine under the log's mutex ([`Log::step`], [`Log::complete`]). At most one write, one sync and one
//! preparation are in flight; a sync publishes what was written when it *began*. The first waiter of a cohort leads: it
//! takes all pages, closes the cohort, writes, syncs, and wakes the cohort as a whole; then the designated leader of the
//! next cohort is woken. The operation in flight belongs to the log: when its driver is dropped, another waiter polls it
//! on, since doing it again could land old bytes over newer ones. After a failed write or sync the log is poisoned: nothing
//! that was not durable is ever acknowledged before a reopen. A failed preparation poisons nothing: whoever needed it gets
//! the error, and nothing was accepted.

use std::{mem, sync::Arc};

use tracing::{debug, warn};

use crate::{
    env::Env,
    gate::Gate,
    plant::planted,
    segment::{Segment, restate},
    worker::{self, Driver, Owner},
};

use super::{
    error::Failure,
    jobs::{Done, Job, PrepareJob, Prepared, SyncJob, Task, WriteJob, Written},
    log::{Log, Spare, State},
    producer::Watermark,
};

pub(super) type Worker<E> = worker::Worker<Job<E>>;
pub(super) type Slot<E> = worker::Slot<Job<E>>;

/// The operations that may be in flight, one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Write,
    Sync,
    Prepare,
}

impl Operation {
    const ALL: [Operation; 3] = [Operation::Write, Operation::Sync, Operation::Prepare];
}

/// Between closing a cohort and starting its sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pre {
    None,
    /// The sync belongs to this waiter, whose write comes first.
    Waiter(u64),
    /// The finished cohort is being woken; nobody may lead before that, which keeps cohorts whole.
    Hold,
}

/// What a waiter wants.
#[derive(Clone, Copy, Debug)]
pub(super) enum Want {
    /// That more than this many pages have come back from the machine.
    Drained(u64),
    /// A spare with so many prepared bytes.
    Spare(u64),
    /// That nothing is left to prepare.
    Prepared,
    /// That a truncation has ended.
    Access,
    /// The frame with this sequence number is with the operating system.
    Written(u64),
    /// The frame with this sequence number survives a power cut.
    Durable(u64),
    /// The same, for the record with this LSN, which was accepted with this sequence number or an earlier one.
    DurableLsn { lsn: u64, sequence: u64 },
}

enum Step<E: Env> {
    Done(Result<(), Arc<Failure>>),
    Drive(Operation, Worker<E>),
    Wait(Place, u64),
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Cohort(u64),
    Leader,
    Space,
}

impl<E: Env> Log<E> {
    /// Waits until `want` holds, doing whatever work is at hand.
    ///
    /// # Errors
    /// The failure that poisoned the log, unless `want` held before it; or that of the preparation that was wanted.
    pub(super) async fn wait(&self, want: Want) -> Result<(), Arc<Failure>> {
        let waiter = {
            let mut state = self.lock();
            state.next_waiter += 1;
            Waiter { log: self, id: state.next_waiter }
        };
        loop {
            match self.step(waiter.id, want) {
                Step::Done(result) => return result,
                Step::Drive(operation, worker) => {
                    let result = self.drive(operation, worker).await;
                    // What failed in a preparation concerns only those who need it.
                    if operation != Operation::Prepare || matches!(want, Want::Spare(_) | Want::Prepared) {
                        result?;
                    }
                }
                Step::Wait(place, seen) => self.gate(place).wait(seen).await,
            }
        }
    }

    /// Polls an operation that has just begun to its end.
    pub(super) async fn drive(&self, operation: Operation, worker: Worker<E>) -> Result<(), Arc<Failure>> {
        Driver::new(self, operation, worker).await
    }

    fn gate(&self, place: Place) -> &Gate {
        match place {
            Place::Cohort(epoch) => &self.gates.cohort[(epoch % 2) as usize],
            Place::Leader => &self.gates.leader,
            Place::Space => &self.gates.space,
        }
    }

    fn wait_for_space(&self) -> Step<E> {
        Step::Wait(Place::Space, self.gates.space.seq())
    }

    /// The next thing that this waiter does.
    fn step(&self, me: u64, want: Want) -> Step<E> {
        let mut state = self.lock();
        let state = &mut *state;
        if state.holds(want, self.options.segment_length()) {
            return Step::Done(Ok(()));
        }
        if let Some(failure) = &state.failure {
            return Step::Done(Err(failure.clone()));
        }
        for operation in Operation::ALL {
            if let Some(worker) = state.slot(operation).adopt() {
                return Step::Drive(operation, worker);
            }
        }
        // A rotation syncs the segment that it leaves. Two syncs of one file never overlap: where one fails, the other may
        // succeed without what the failed one dropped.
        let overlap = planted!(self.options.plants, WalOverlappingSyncs);
        let no_sync = state.sync.is_idle();
        let sync_idle = no_sync && (!state.rotating || overlap);
        let write_idle = state.write.is_idle() && (no_sync || !state.write_rotates() || overlap);
        let sequence = match want {
            Want::Spare(length) => return self.step_prepare(state, length),
            Want::Prepared => return self.step_prepare(state, state.spare_wanted(self.options.segment_length())),
            Want::Access => return self.wait_for_space(),
            Want::Drained(_) | Want::Written(_) => {
                return match write_idle.then(|| self.begin_write(state, false)).flatten() {
                    Some(worker) => Step::Drive(Operation::Write, worker),
                    None => self.wait_for_space(),
                };
            }
            Want::Durable(sequence) | Want::DurableLsn { sequence, .. } => sequence,
        };
        if state.pre == Pre::Waiter(me) && sync_idle {
            state.pre = Pre::None;
            if let Some(worker) = self.begin_sync(state) {
                return Step::Drive(Operation::Sync, worker);
            }
        }
        if state.leader.is_none_or(|leader| leader == me) && sync_idle && state.pre == Pre::None {
            if state.written.sequence >= sequence {
                state.close_cohort(state.written.sequence);
                if let Some(worker) = self.begin_sync(state) {
                    return Step::Drive(Operation::Sync, worker);
                }
            }
            if write_idle && let Some(worker) = self.begin_write(state, true) {
                state.pre = Pre::Waiter(me);
                return Step::Drive(Operation::Write, worker);
            }
        }
        if state.leader == Some(me) {
            return Step::Wait(Place::Leader, self.gates.leader.seq());
        }
        let running = !sync_idle || state.pre != Pre::None;
        if running && sequence <= state.cohort_sequence {
            return Step::Wait(Place::Cohort(state.epoch), self.gate(Place::Cohort(state.epoch)).seq());
        }
        if state.leader.is_none() {
            state.leader = Some(me);
            return Step::Wait(Place::Leader, self.gates.leader.seq());
        }
        Step::Wait(Place::Cohort(state.epoch + 1), self.gate(Place::Cohort(state.epoch + 1)).seq())
    }

    fn step_prepare(&self, state: &mut State<E>, length: u64) -> Step<E> {
        if !state.prepare.is_idle() {
            return self.wait_for_space();
        }
        match self.begin_prepare(state, length) {
            Some(worker) => Step::Drive(Operation::Prepare, worker),
            // A reader holds what is left; it stays until the next occasion.
            None => Step::Done(Ok(())),
        }
    }

    /// Takes all pages and begins to write them; `None` if there are none. With `commit` it closes the cohort.
    fn begin_write(&self, state: &mut State<E>, commit: bool) -> Option<Worker<E>> {
        state.publish_page();
        if state.ring.is_empty() {
            state.page_wanted |= state.held || state.producer.is_none();
            return None;
        }
        state.rotating = state.ring.waiting().any(|page| page.opening.is_some());
        let pages = state.ring.take();
        let (first, last) = (&pages.front()?.tag, &pages.back()?.tag);
        let (upto, segment) = (last.upto, last.segment.clone());
        // A synced write covers its own range only: nothing before it may be undurable, not even the first pages of a record that
        // it ends, which count for no record yet.
        let proven = state.durable.position == first.segment.position(first.offset);
        let careless = planted!(self.options.plants, WalDsyncRange);
        let synced_write = commit
            && (self.options.writes_synced() || careless)
            && pages.len() == 1
            && !state.rotating
            && (proven || careless);
        state.stats.writes += 1;
        if commit {
            state.close_cohort(upto.sequence);
        }
        let job = WriteJob {
            env: self.env.clone(),
            plants: self.options.plants.clone(),
            pages,
            current: mem::replace(&mut state.written_segment, segment),
            upto,
            synced_write,
        };
        state.write.begin(Job::Write(job))
    }

    /// Begins to sync what is written now.
    fn begin_sync(&self, state: &mut State<E>) -> Option<Worker<E>> {
        let upto = state.written;
        if planted!(self.options.plants, WalAckInflightSync) {
            state.durable = upto;
        }
        let segment = state.segment_of(upto.position.generation)?;
        state.stats.syncs += 1;
        state.sync.begin(Job::Sync(SyncJob { segment, upto, plants: self.options.plants.clone() }))
    }

    /// Begins the preparation that is needed most; `None` if there is none.
    fn begin_prepare(&self, state: &mut State<E>, length: u64) -> Option<Worker<E>> {
        // A spare of full length costs no more syncs than a part of one; none at all is for who only needs its identity.
        let length = if length == 0 { 0 } else { length.max(self.options.segment_length()) };
        let task = state.next_task(&self.options, length)?;
        state.prepare.begin(Job::Prepare(PrepareJob {
            dir: self.dir.clone(),
            plants: self.options.plants.clone(),
            task,
            length,
        }))
    }

    /// A write ended. Also says whether the cohort ended with it.
    fn written(&self, state: &mut State<E>, written: Written<E>) -> (Result<(), Arc<Failure>>, bool) {
        let Written { pages, upto, synced, syncs, bytes, result } = written;
        state.ring.give_back(pages);
        state.stats.syncs += syncs;
        state.stats.written_bytes += bytes;
        if result.is_ok() {
            state.publish(Operation::Write, upto);
        }
        if let Some(synced) = synced {
            state.publish(Operation::Sync, synced);
        }
        match result {
            Err(failure) => (Err(self.failed(state, Operation::Write, upto, failure)), true),
            Ok(()) => (Ok(()), synced.is_some_and(|synced| synced.sequence == upto.sequence)),
        }
    }

    /// A failed operation poisons the log. (The planted bugs do what real systems did instead.)
    fn failed(&self, state: &mut State<E>, operation: Operation, upto: Watermark, failure: Failure) -> Arc<Failure> {
        let plants = &self.options.plants;
        if planted!(plants, WalGroupFollowerOk) {
            state.publish(Operation::Write, upto);
            state.publish(Operation::Sync, upto);
            return Arc::new(failure);
        }
        if operation == Operation::Sync && planted!(plants, WalFsyncRetryOk) {
            return Arc::new(failure);
        }
        if operation == Operation::Write && planted!(plants, WalAppendAfterPartial) {
            state.publish(Operation::Write, upto);
            return Arc::new(failure);
        }
        state.fail(failure)
    }

    /// Somebody who led or had promised a sync left without it: all look again.
    pub(super) fn open_all(&self) {
        self.gates.cohort.iter().for_each(Gate::open);
        self.gates.space.open();
        self.gates.leader.open();
        self.gates.progress.open();
        self.gates.keeper.open();
    }

    /// States the end of a quiet or closed log in the identity of the next spare, so that even the loss of the whole last
    /// segment is noticed. The log is durable without it, so a failure costs only this.
    pub(super) async fn state_end(&self) {
        let (spare, durable) = {
            let state = self.lock();
            (state.spares.front().map(|spare| spare.segment.clone()), state.durable.position)
        };
        let Some(spare) = spare else { return };
        if let Err(error) = restate(&spare, durable).await {
            warn!(file = %spare.name(), %error, "could not state the end of the log");
        }
    }

    /// Polls what is in flight without a driver to its end, whatever it is: nothing may touch the files after close.
    pub(super) async fn drain(&self) {
        loop {
            let orphan = {
                let mut state = self.lock();
                let adopted =
                    Operation::ALL.map(|operation| state.slot(operation).adopt().map(|worker| (operation, worker)));
                adopted.into_iter().flatten().collect::<Vec<_>>()
            };
            if orphan.is_empty() {
                return;
            }
            for (operation, worker) in orphan {
                // The log is closing; a failure was or will be reported by the wait that needs the result.
                drop(self.drive(operation, worker).await);
            }
        }
    }

    /// Whether an operation has lost its driver.
    pub(super) fn has_orphan(state: &State<E>) -> bool {
        [&state.write, &state.sync, &state.prepare].into_iter().any(Slot::is_orphan)
    }
}

impl<E: Env> State<E> {
    fn holds(&self, want: Want, segment_length: u64) -> bool {
        match want {
            Want::Drained(seen) => self.failure.is_none() && self.ring.drained() > seen,
            Want::Spare(length) => self.failure.is_none() && self.has_spare(length),
            Want::Prepared => self.failure.is_none() && !self.wants_preparation(segment_length),
            Want::Access => self.failure.is_none() && self.access != super::log::Access::Truncating,
            Want::Written(sequence) => self.written.sequence >= sequence,
            Want::Durable(sequence) => self.durable.sequence >= sequence,
            Want::DurableLsn { lsn, .. } => self.durable.lsn > lsn,
        }
    }

    fn close_cohort(&mut self, sequence: u64) {
        self.leader = None;
        self.epoch += 1;
        self.cohort_sequence = sequence;
    }

    fn publish(&mut self, operation: Operation, upto: Watermark) {
        let watermark = match operation {
            Operation::Write => &mut self.written,
            Operation::Sync => &mut self.durable,
            Operation::Prepare => return,
        };
        if upto.sequence > watermark.sequence {
            let frames = upto.sequence - watermark.sequence;
            *watermark = upto;
            if operation == Operation::Sync {
                self.stats.group(frames);
                if let Some(producer) = &mut self.producer {
                    producer.durable = upto.position;
                }
            }
        }
    }

    /// The preparation that is needed most.
    fn next_task(&mut self, options: &super::options::Options, length: u64) -> Option<Task<E::Dir>> {
        let enough = self.has_spare(length);
        if !enough
            && !self.extending
            && let Some(spare) = self.spares.pop_front()
        {
            self.extending = true;
            return Some(Task::Extend(spare));
        }
        let free = self.released.iter().position(|segment| Arc::strong_count(segment) == 1);
        let released = free.and_then(|index| Arc::into_inner(self.released.remove(index)));
        match released {
            Some(old) if self.spares.len() >= MAX_SPARES => Some(Task::Remove(old)),
            Some(old) => {
                let identity = self.next_identity(options, Some(old.seed()));
                Some(Task::Recycle { old, identity })
            }
            None if enough => None,
            None => {
                let slot = self.take_slot();
                Some(Task::Create(Segment::new(slot, self.next_identity(options, None), &options.plants)))
            }
        }
    }

    /// A file name that was never used.
    pub(super) fn take_slot(&mut self) -> u64 {
        self.next_slot += 1;
        self.next_slot - 1
    }

    /// The identity of the next spare: above all others, and with another seed than the one it replaces.
    pub(super) fn next_identity(
        &mut self,
        options: &super::options::Options,
        replaced: Option<u32>,
    ) -> crate::codec::Identity {
        let newest = self.spares.back().map_or(&self.written_segment, |spare| &spare.segment);
        let mut identity = crate::codec::Identity {
            number: self.next_number,
            generation: self.next_generation,
            segment_blocks: Self::segment_blocks(options.segment_length()),
            durable: self.durable.position,
            ..newest.identity.clone()
        };
        while Some(identity.seed()) == replaced {
            identity.generation += 1;
        }
        self.next_number += 1;
        self.next_generation = identity.generation + 1;
        identity
    }

    /// Adds a spare: generations ascend along the log, whichever was ready first.
    pub(super) fn put_spare(&mut self, spare: Spare<E::Dir>) {
        let at = self.spares.partition_point(|other| other.segment.generation() < spare.segment.generation());
        self.spares.insert(at, spare);
    }

    /// A preparation ended.
    fn prepared(&mut self, prepared: Prepared<E::Dir>) -> Result<(), Arc<Failure>> {
        let Prepared { spare, recycled, removed, result } = prepared;
        self.extending = false;
        self.stats.recycled += u64::from(recycled);
        self.stats.prepared += u64::from(!recycled && !removed && result.is_ok());
        if let Some(spare) = spare {
            self.put_spare(spare);
        }
        result.map_err(|failure| {
            warn!(%failure, "a segment could not be prepared");
            Arc::new(failure)
        })
    }
}

/// Spares that are kept: one to rotate into, and one that was released meanwhile.
pub(super) const MAX_SPARES: usize = 2;

impl<E: Env> Owner for Log<E> {
    type Job = Job<E>;
    type Operation = Operation;
    type Told = Result<(), Arc<Failure>>;

    fn complete(&self, operation: Operation, worker: Worker<E>, done: Done<E>) -> Result<(), Arc<Failure>> {
        let mut state = self.lock();
        *state.slot(operation) = Slot::Idle(Some(worker));
        let epoch = state.epoch;
        // Whoever had promised the cohort's sync may have waited for a rotation.
        let rotated = operation == Operation::Write && mem::take(&mut state.rotating);
        let (result, cohort_ends) = match done {
            Done::Prepared(prepared) => (state.prepared(prepared), false),
            Done::Written(written) => self.written(&mut state, written),
            Done::Truncated(truncated) => {
                let result = state.truncated(truncated);
                (result.map_err(|failure| state.fail(failure)), false)
            }
            Done::Synced { upto, result } => {
                let result = match result {
                    Err(failure) => Err(self.failed(&mut state, Operation::Sync, upto, failure)),
                    Ok(()) => {
                        let present = planted!(self.options.plants, WalPublishPresent);
                        let upto = if present { state.written } else { upto };
                        state.publish(Operation::Sync, upto);
                        Ok(())
                    }
                };
                (result, true)
            }
        };
        if cohort_ends {
            state.pre = Pre::Hold;
        }
        let wake_keeper = mem::take(&mut state.wake_keeper);
        drop(state);
        self.gates.space.open();
        self.gates.progress.open();
        if wake_keeper {
            self.gates.keeper.open();
        }
        if operation == Operation::Prepare {
            return result;
        }
        if cohort_ends || rotated {
            self.gate(Place::Cohort(epoch)).open();
        }
        if cohort_ends {
            self.lock().pre = Pre::None;
        }
        if result.is_err() {
            self.gate(Place::Cohort(epoch + 1)).open();
        }
        self.gates.leader.open();
        result
    }

    fn orphan(&self, operation: Operation, worker: Worker<E>) {
        {
            let mut state = self.lock();
            *state.slot(operation) = Slot::Orphan(worker);
            if std::thread::panicking() {
                let failure = std::io::Error::other("it panicked");
                state.fail(Failure::new("update", "the log", &failure));
            }
        }
        debug!(?operation, "handed over");
        self.open_all();
    }
}

/// A waiter that may hold the lead, or have promised a sync; it gives both back when it goes.
struct Waiter<'a, E: Env> {
    log: &'a Log<E>,
    id: u64,
}

impl<E: Env> Drop for Waiter<'_, E> {
    fn drop(&mut self) {
        let mut state = self.log.lock();
        let led = state.leader == Some(self.id);
        let promised = state.pre == Pre::Waiter(self.id);
        if led {
            state.leader = None;
        }
        if promised {
            state.pre = Pre::None;
        }
        drop(state);
        if led || promised {
            self.log.open_all();
        }
    }
}
