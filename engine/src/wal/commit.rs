//! Group commit: who writes, who syncs, who waits.
//!
//! A pure state machine under the log's mutex ([`Log::step`], [`Log::complete`]). At most one write and one sync are in
//! flight; a sync publishes what was written when it *began*. The first waiter of a cohort leads: it takes all pages,
//! closes the cohort, writes, syncs, and wakes the cohort as a whole; then the designated leader of the next cohort is
//! woken. The operation in flight belongs to the log: when its driver is dropped, another waiter polls it on, since doing
//! it again could land old bytes over newer ones. After a failed write or sync the log is poisoned: nothing that was not
//! durable is ever acknowledged before a reopen.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tracing::{debug, trace, warn};

use crate::{
    codec::{FIRST_FRAME_OFFSET, Frame, FrameKind, NO_CLAIM},
    env::{Env, File, interruptible, write_all_at},
    gate::Gate,
    plant::{Plants, planted},
    segment::{Segment, restate},
};

use super::{
    error::Failure,
    log::{Log, Opening, Page, State, Watermark},
};

/// The two operations that may be in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Write,
    Sync,
}

/// An operation in flight; it owns what it works on.
type InFlight = Pin<Box<dyn Future<Output = Done> + Send>>;

/// Whether an operation is in flight, and who polls it.
pub(super) enum Slot {
    Idle,
    Driven,
    /// Its driver was dropped; the next waiter polls it on.
    Orphan(InFlight),
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

/// How an operation ended.
pub(super) struct Done {
    upto: Watermark,
    /// Rotation synced everything up to here.
    synced: Option<Watermark>,
    pages: Vec<Vec<u8>>,
    result: Result<(), Failure>,
}

/// What a waiter wants.
#[derive(Clone, Copy, Debug)]
pub(super) enum Want {
    /// Room in the buffer for a body of this many bytes.
    Space(u64),
    /// The frame with this sequence number is with the operating system.
    Written(u64),
    /// The frame with this sequence number survives a power cut.
    Durable(u64),
    /// The same, for the record with this LSN, which was accepted with this sequence number or an earlier one.
    DurableLsn { lsn: u64, sequence: u64 },
}

enum Step {
    Done(Result<(), Arc<Failure>>),
    Drive(Operation, InFlight),
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
    /// The failure that poisoned the log, unless `want` held before it.
    pub(super) async fn wait(self: &Arc<Self>, want: Want) -> Result<(), Arc<Failure>> {
        let waiter = {
            let mut state = self.lock();
            state.next_waiter += 1;
            Waiter { log: self, id: state.next_waiter }
        };
        loop {
            match self.step(waiter.id, want) {
                Step::Done(result) => return result,
                Step::Drive(operation, in_flight) => {
                    Driver { log: self, operation, in_flight: Some(in_flight) }.await?;
                }
                Step::Wait(place, seen) => self.gate(place).wait(seen).await,
            }
        }
    }

    fn gate(&self, place: Place) -> &Gate {
        match place {
            Place::Cohort(epoch) => &self.gates.cohort[(epoch % 2) as usize],
            Place::Leader => &self.gates.leader,
            Place::Space => &self.gates.space,
        }
    }

    /// The next thing that this waiter does.
    fn step(self: &Arc<Self>, me: u64, want: Want) -> Step {
        let mut state = self.lock();
        let state = &mut *state;
        if state.holds(want, self.options.buffer_limit()) {
            return Step::Done(Ok(()));
        }
        if let Some(failure) = &state.failure {
            return Step::Done(Err(failure.clone()));
        }
        for operation in [Operation::Write, Operation::Sync] {
            let slot = state.slot(operation);
            if let Slot::Orphan(_) = slot
                && let Slot::Orphan(in_flight) = std::mem::replace(slot, Slot::Driven)
            {
                return Step::Drive(operation, in_flight);
            }
        }
        // A rotation syncs the segment that it leaves. Two syncs of one file never overlap: where one fails, the other may
        // succeed without what the failed one dropped.
        let overlap = planted!(self.options.plants, WalOverlappingSyncs);
        let no_sync = matches!(state.sync, Slot::Idle);
        let sync_idle = no_sync && (!state.rotating || overlap);
        let write_idle = matches!(state.write, Slot::Idle) && (no_sync || !state.pages_rotate() || overlap);
        let sequence = match want {
            Want::Space(_) | Want::Written(_) => {
                return if write_idle {
                    Step::Drive(Operation::Write, self.begin_write(state))
                } else {
                    Step::Wait(Place::Space, self.gates.space.seq())
                };
            }
            Want::Durable(sequence) | Want::DurableLsn { sequence, .. } => sequence,
        };
        if state.pre == Pre::Waiter(me) && sync_idle {
            state.pre = Pre::None;
            return Step::Drive(Operation::Sync, self.begin_sync(state));
        }
        if state.leader.is_none_or(|leader| leader == me) && sync_idle && state.pre == Pre::None {
            if state.written.sequence >= sequence {
                state.close_cohort(state.written.sequence);
                return Step::Drive(Operation::Sync, self.begin_sync(state));
            }
            if write_idle {
                state.close_cohort(state.accepted.sequence);
                state.pre = Pre::Waiter(me);
                return Step::Drive(Operation::Write, self.begin_write(state));
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

    /// Takes all pages and begins to write them.
    fn begin_write(self: &Arc<Self>, state: &mut State<E>) -> InFlight {
        state.write = Slot::Driven;
        state.rotating = state.pages_rotate();
        let job = WriteJob {
            env: self.env.clone(),
            dir: self.dir.clone(),
            plants: self.options.plants.clone(),
            pages: state.take_pages(),
            current: state.written_segment.clone(),
            successor: state.successor.clone(),
            upto: state.accepted,
        };
        state.written_segment = state.tail.segment.clone();
        Box::pin(job.run())
    }

    /// Begins to sync what is written now. A rotation has synced every earlier segment.
    fn begin_sync(self: &Arc<Self>, state: &mut State<E>) -> InFlight {
        state.sync = Slot::Driven;
        let upto = state.written;
        let segment = state.segment_of(upto.position.generation);
        if planted!(self.options.plants, WalAckInflightSync) {
            state.durable = upto;
        }
        let plants = self.options.plants.clone();
        Box::pin(async move {
            let result = match segment.as_ref().and_then(|segment| segment.file()) {
                Some(file) => interruptible(|| sync_file(file, &plants)).await,
                None => Err(std::io::Error::other("its file isn't open")),
            };
            let name = segment.map_or_else(|| "a segment".into(), |segment| segment.name());
            trace!(file = name, lsn = upto.lsn, ok = result.is_ok(), "sync");
            let result = result.map_err(|error| Failure::new("sync", name, &error));
            Done { upto, synced: None, pages: Vec::new(), result }
        })
    }

    /// Takes in how an operation ended. Returns the error if it failed.
    fn complete(&self, operation: Operation, done: Done) -> Result<(), Arc<Failure>> {
        let (epoch, rotated, result) = {
            let mut state = self.lock();
            *state.slot(operation) = Slot::Idle;
            let rotated = operation == Operation::Write && std::mem::take(&mut state.rotating);
            state.recycle(done.pages);
            if let Some(synced) = done.synced
                && synced.sequence > state.durable.sequence
            {
                state.durable = synced;
            }
            let result = match done.result {
                Err(failure) => Err(self.failed(&mut state, operation, done.upto, failure)),
                Ok(()) => {
                    let present = operation == Operation::Sync && planted!(self.options.plants, WalPublishPresent);
                    let upto = if present { state.written } else { done.upto };
                    state.publish(operation, upto);
                    Ok(())
                }
            };
            if operation == Operation::Sync {
                state.pre = Pre::Hold;
            }
            (state.epoch, rotated, result)
        };
        self.gates.space.open();
        let cohort_ends = operation == Operation::Sync || result.is_err();
        // Whoever had promised the cohort's sync may have waited for a rotation.
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

    /// A failed operation poisons the log. (The planted bugs do what real systems did instead.)
    fn failed(&self, state: &mut State<E>, operation: Operation, upto: Watermark, failure: Failure) -> Arc<Failure> {
        let plants = &self.options.plants;
        if planted!(plants, WalGroupFollowerOk) {
            state.publish(Operation::Write, upto);
            state.publish(Operation::Sync, upto);
            return Arc::new(failure);
        }
        if (operation == Operation::Sync && planted!(plants, WalFsyncRetryOk))
            || (operation == Operation::Write && planted!(plants, WalAppendAfterPartial))
        {
            return Arc::new(failure);
        }
        state.fail(failure)
    }

    /// A driver was dropped: its operation waits for the next one. If it panicked it can't go on.
    fn orphan(&self, operation: Operation, in_flight: InFlight) {
        {
            let mut state = self.lock();
            *state.slot(operation) = Slot::Orphan(in_flight);
            if std::thread::panicking() {
                let failure = std::io::Error::other("it panicked");
                state.fail(Failure::new("update", "the log".into(), &failure));
            }
        }
        debug!(?operation, "handed over");
        self.open_all();
    }

    /// Somebody who led or had promised a sync left without it: all look again.
    fn open_all(&self) {
        self.gates.cohort.iter().for_each(Gate::open);
        self.gates.space.open();
        self.gates.leader.open();
    }

    /// States the end of a log that is being closed in the next segment's identity, so that even the loss of the whole
    /// last segment is noticed. The log is durable without it, so a failure costs only this.
    pub(super) async fn state_end(&self) {
        let (successor, durable) = {
            let state = self.lock();
            (state.successor.clone(), state.durable.position)
        };
        if let Err(error) = restate(&successor, durable).await {
            warn!(file = successor.name(), %error, "could not state the end of the log");
        }
    }

    /// Polls what is in flight without a driver to its end, whatever it is: nothing may touch the files after close.
    pub(super) async fn drain(self: &Arc<Self>) {
        loop {
            let orphan = {
                let mut state = self.lock();
                [Operation::Write, Operation::Sync].into_iter().find_map(|operation| {
                    match std::mem::replace(state.slot(operation), Slot::Driven) {
                        Slot::Orphan(in_flight) => Some((operation, in_flight)),
                        other => {
                            *state.slot(operation) = other;
                            None
                        }
                    }
                })
            };
            let Some((operation, in_flight)) = orphan else { return };
            // The log is closing; a failure was or will be reported by the wait that needs the result.
            drop(Driver { log: self, operation, in_flight: Some(in_flight) }.await);
        }
    }
}

impl<E: Env> State<E> {
    fn holds(&self, want: Want, buffer_limit: u64) -> bool {
        match want {
            Want::Space(body_bytes) => self.failure.is_none() && self.has_room(body_bytes, buffer_limit),
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
        };
        if upto.sequence > watermark.sequence {
            *watermark = upto;
        }
    }

    fn segment_of(&self, generation: u64) -> Option<Arc<Segment<E::Dir>>> {
        self.members
            .iter()
            .rev()
            .map(|member| &member.segment)
            .find(|segment| segment.generation() == generation)
            .cloned()
    }
}

async fn sync_file<F: File>(file: &F, plants: &Plants) -> std::io::Result<()> {
    #[cfg(feature = "plants")]
    if planted!(plants, EnvLenNotSynced) {
        return file.sync_pages().await;
    }
    let _: &Plants = plants;
    file.sync_data().await
}

/// One write: the pages in order, with the rotations among them.
struct WriteJob<E: Env> {
    env: E,
    dir: E::Dir,
    plants: Plants,
    pages: VecDeque<Page<E::Dir>>,
    /// The segment that was written last.
    current: Arc<Segment<E::Dir>>,
    /// The segment to have ready after this write.
    successor: Arc<Segment<E::Dir>>,
    upto: Watermark,
}

impl<E: Env> WriteJob<E> {
    async fn run(mut self) -> Done {
        let mut synced = None;
        let result = self.write(&mut synced).await;
        let pages = self.pages.into_iter().map(|page| page.bytes).collect();
        Done { upto: self.upto, synced, pages, result }
    }

    async fn write(&mut self, synced: &mut Option<Watermark>) -> Result<(), Failure> {
        // A seal names its successor, so the successor's name is durable before any seal is written.
        let late = planted!(self.plants, WalSealBeforeSuccessor);
        if !late {
            for page in &self.pages {
                self.prepare(&page.segment).await?;
            }
            self.prepare(&self.successor).await?;
        }
        for page in &mut self.pages {
            if let Some(Opening { start, before }) = &mut page.start {
                // Nothing of a segment is written before all of its predecessor is durable.
                if !planted!(self.plants, WalRotateOldUnsynced)
                    && let Some(file) = self.current.file()
                {
                    interruptible(|| file.sync_data())
                        .await
                        .map_err(|error| Failure::new("sync", self.current.name(), &error))?;
                }
                *synced = Some(*before);
                debug!(file = page.segment.name(), base_lsn = start.base_lsn, "rotated");
                start.wall_ns = self.env.wall_ns();
                let mut frame = Vec::new();
                let seed = page.segment.identity.seed();
                Frame::encode(&mut frame, seed, FIRST_FRAME_OFFSET, FrameKind::Start, 0, NO_CLAIM, |out| {
                    start.encode(out);
                });
                page.bytes[..frame.len()].copy_from_slice(&frame);
                self.current = page.segment.clone();
            }
            if late && page.segment.file().is_none() {
                let head = page.segment.identity.head();
                page.segment
                    .create(&self.dir, &head, &self.plants)
                    .await
                    .map_err(|error| Failure::new("create", page.segment.name(), &error))?;
            }
            let Some(file) = page.segment.file() else {
                return Err(Failure::new("write", page.segment.name(), &std::io::Error::other("its file isn't open")));
            };
            write_all_at(file, &page.bytes, page.offset)
                .await
                .map_err(|error| Failure::new("write", page.segment.name(), &error))?;
        }
        Ok(())
    }

    /// Creates the file of a planned segment.
    async fn prepare(&self, segment: &Segment<E::Dir>) -> Result<(), Failure> {
        if segment.file().is_some() {
            return Ok(());
        }
        let created = segment.create(&self.dir, &segment.identity.head(), &self.plants).await;
        created.map_err(|error| Failure::new("create", segment.name(), &error))
    }
}

/// A waiter that may hold the lead, or have promised a sync; it gives both back when it goes.
struct Waiter<'a, E: Env> {
    log: &'a Arc<Log<E>>,
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

/// Polls an operation; hands it back to the log when dropped before its end.
struct Driver<'a, E: Env> {
    log: &'a Arc<Log<E>>,
    operation: Operation,
    in_flight: Option<InFlight>,
}

impl<E: Env> Future for Driver<'_, E> {
    type Output = Result<(), Arc<Failure>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(in_flight) = &mut this.in_flight else { return Poll::Ready(Ok(())) };
        let Poll::Ready(done) = in_flight.as_mut().poll(context) else { return Poll::Pending };
        this.in_flight = None;
        Poll::Ready(this.log.complete(this.operation, done))
    }
}

impl<E: Env> Drop for Driver<'_, E> {
    fn drop(&mut self) {
        if let Some(in_flight) = self.in_flight.take() {
            self.log.orphan(self.operation, in_flight);
        }
    }
}
