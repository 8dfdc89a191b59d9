//! The log as its handles share it: the state under one mutex, and who writes, who syncs, who waits.
//!
//! At most one write and one sync are in flight; a sync publishes what was written when it began. What is in flight belongs to
//! the log (see [`crate::worker`]). The mutex is held for short critical sections, never across an await.

use std::{
    collections::VecDeque,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tracing::{debug, warn};

use crate::{
    env::{Dir, Env},
    failure::Failure,
    gate::Gate,
    plant::{Plants, planted},
    ring::{Filled, Ring},
    sync::{Mutex, MutexGuard},
    worker,
};

use super::{
    error::LogError,
    files::Names,
    job::{Done, Job, Switched, SyncJob, Target, WriteJob, Written},
    manifest::{Entry, Manifest},
    options::{Fsync, Options},
    producer::{Head, Page, Producer},
    rewrite::Rewriting,
};

type Worker<E> = worker::Worker<Job<E>>;
type Slot<E> = worker::Slot<Job<E>>;

/// Pages of the ring, and bytes of each.
pub(super) const PAGES: usize = 3;
pub(super) const PAGE_BYTES: usize = 64 << 10;
/// `everysec`: the least time between the beginnings of two syncs.
pub(super) const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// `everysec`: how long a write waits for a sync that is under way. (Redis waits two seconds; ours stays below.)
pub(super) const POSTPONE: Duration = Duration::from_millis(1900);
/// How long after a write that failed it is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// What all handles of one log share.
pub(super) struct Log<E: Env> {
    pub(super) env: E,
    pub(super) dir: E::Dir,
    pub(super) names: Arc<Names>,
    pub(super) options: Options,
    pub(super) plants: Plants,
    pub(super) gates: Gates,
    state: Mutex<State<E>>,
}

/// Where waiters sleep.
#[derive(Default)]
pub(super) struct Gates {
    /// Those who wait for a write or for room.
    pub(super) space: Gate,
    /// Those for whom a sync is under way, and those of the next one, by the parity of the epoch.
    pub(super) cohort: [Gate; 2],
    /// The one who leads next.
    pub(super) leader: Gate,
    pub(super) keeper: Gate,
    pub(super) syncer: Gate,
}

/// A write that failed and will be tried again.
#[derive(Clone)]
pub(super) struct Trouble {
    pub(super) failure: Arc<Failure>,
    pub(super) since: Duration,
}

pub(super) struct State<E: Env> {
    /// Here unless a writer holds it.
    pub(super) producer: Option<Producer>,
    /// A writer exists.
    pub(super) has_writer: bool,
    pub(super) ring: Ring<Page>,
    pub(super) split: bool,
    /// Positions are bytes since open. All that is accepted, but for what is in a writer's page.
    pub(super) published: u64,
    pub(super) written: u64,
    pub(super) durable: u64,
    /// How far the present increment is known to be durable, in bytes: the end of a batch.
    pub(super) durable_whole: u64,
    pub(super) target: Target<E>,
    pub(super) manifest: Manifest,
    /// The log is being switched on: no manifest names this increment before there is a base that it goes with.
    pub(super) collecting: Option<Entry>,
    /// Pages of a write that failed.
    left: VecDeque<Filled<Page>>,
    write: Slot<E>,
    sync: Slot<E>,
    /// The write in flight may switch to a new increment, and so sync.
    switching: bool,
    /// Who syncs for all who wait for that, and who does so next. The next one is woken last, when those of the finished cohort are
    /// awake and append again: that keeps cohorts whole.
    leader: Option<u64>,
    next: Option<u64>,
    epoch: u64,
    /// What the running cohort waits for; the leader has closed it; and it is its sync that is under way.
    cohort_upto: u64,
    cohort_closed: bool,
    leader_syncs: bool,
    next_waiter: u64,
    pub(super) failure: Option<Arc<Failure>>,
    pub(super) trouble: Option<Trouble>,
    /// Since when a write waits for the sync under way.
    pub(super) postponed: Option<Duration>,
    /// When the last sync began.
    pub(super) synced_at: Duration,
    /// The syncer has something to do.
    pub(super) sync_wanted: bool,
    pub(super) keeper_rests: bool,
    pub(super) stops: bool,
    pub(super) closed: bool,
    pub(super) rewriting: Option<Rewriting>,
    /// Bytes of the base and of all increments but the present one; and what the log had after the last rewrite.
    pub(super) earlier_bytes: u64,
    pub(super) reference_bytes: u64,
    /// Rewrites that failed in a row, and when the last one did.
    pub(super) failures: u32,
    pub(super) failed_at: Duration,
    pub(super) stats: Stats,
    pub(super) lock: Option<<E::Dir as Dir>::Lock>,
}

/// What a log has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Commands accepted.
    pub commands: u64,
    /// Their bytes, with what was added to them.
    pub bytes: u64,
    /// Writes begun.
    pub writes: u64,
    /// Syncs begun, switches to new increments included.
    pub syncs: u64,
    /// How often an append waited for room.
    pub waits: u64,
    /// `everysec`: writes that did not wait any longer for a sync under way.
    pub delayed: u64,
    /// Writes that failed and were left to be tried again.
    pub stalls: u64,
    /// Rewrites that were completed.
    pub rewrites: u64,
}

/// What open hands over.
pub(super) struct Opened<E: Env> {
    pub(super) lock: <E::Dir as Dir>::Lock,
    pub(super) target: Target<E>,
    pub(super) manifest: Manifest,
    pub(super) collecting: Option<Entry>,
    pub(super) earlier_bytes: u64,
    pub(super) reference_bytes: u64,
}

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
enum Operation {
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
    pub(super) fn new(env: E, dir: E::Dir, names: Names, options: Options, opened: Opened<E>) -> Log<E> {
        let plants = options.plants();
        let Opened { lock, target, manifest, collecting, earlier_bytes, reference_bytes } = opened;
        let now = env.monotonic();
        let state = State {
            producer: Some(Producer::new(options.sums(&plants))),
            has_writer: false,
            ring: Ring::new(options.ring_pages, options.ring_page_bytes),
            split: options.split_large,
            published: 0,
            written: 0,
            durable: 0,
            durable_whole: target.whole,
            target,
            manifest,
            collecting,
            left: VecDeque::new(),
            write: Slot::new(),
            sync: Slot::new(),
            switching: false,
            leader: None,
            next: None,
            epoch: 0,
            cohort_upto: 0,
            cohort_closed: false,
            leader_syncs: false,
            next_waiter: 0,
            failure: None,
            trouble: None,
            postponed: None,
            synced_at: now,
            sync_wanted: false,
            keeper_rests: false,
            stops: false,
            closed: false,
            rewriting: None,
            earlier_bytes,
            reference_bytes,
            failures: 0,
            failed_at: now,
            stats: Stats::default(),
            lock: Some(lock),
        };
        Log { env, dir, names: Arc::new(names), options, plants, gates: Gates::default(), state: Mutex::new(state) }
    }

    /// The state. If a thread panicked while it held the mutex, the log is poisoned like after any other failure.
    pub(super) fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(|poisoned| {
            let mut state = poisoned.into_inner();
            let error = std::io::Error::other("a thread panicked");
            state.fail(Failure::new("update", "the log's memory", &error));
            state
        })
    }

    /// Ends a critical section in which something was accepted: the keeper learns of it if it has to.
    pub(super) fn rouse(&self, mut state: MutexGuard<'_, State<E>>) {
        let wake = mem::take(&mut state.keeper_rests);
        drop(state);
        if wake {
            self.gates.keeper.open();
        }
    }

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
        Driver { log: self, operation, worker: Some(worker) }.await;
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
        self.begin_write_of(state, usize::MAX)
    }

    fn begin_write_of(&self, state: &mut State<E>, most: usize) -> Option<Worker<E>> {
        state.publish_page();
        let mut pages = mem::take(&mut state.left);
        if pages.is_empty() {
            if state.ring.is_empty() {
                return None;
            }
            pages = state.ring.take();
        }
        if pages.len() > most {
            state.left = pages.split_off(most);
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

    /// Takes in how an operation ended.
    fn complete(&self, operation: Operation, worker: Worker<E>, done: Done<E>) {
        let mut state = self.lock();
        *state.slot(operation) = Slot::Idle(worker);
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

    /// A driver was dropped: its operation waits for the next one. If it panicked it can't go on.
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

    pub(super) fn open_all(&self) {
        let Gates { space, cohort: [one, other], leader, keeper, syncer } = &self.gates;
        [space, one, other, leader, keeper, syncer].into_iter().for_each(Gate::open);
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
        self.write_pages(usize::MAX).await;
    }

    /// The same for so many pages at most.
    pub(super) async fn write_pages(&self, most: usize) {
        let seen = self.gates.space.seq();
        let worker = {
            let mut state = self.lock();
            if state.failure.is_some() {
                return;
            }
            if !state.can_write() {
                None
            } else {
                match self.begin_write_of(&mut state, most) {
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

impl<E: Env> State<E> {
    /// Whether a command may come in now.
    pub(super) fn accepts(&self) -> Result<(), LogError> {
        if let Some(failure) = &self.failure {
            return Err(LogError::Poisoned(failure.clone()));
        }
        if self.closed {
            return Err(LogError::Closed);
        }
        match &self.trouble {
            Some(trouble) => Err(LogError::Stalled(trouble.failure.clone())),
            None => Ok(()),
        }
    }

    /// Everything accepted, but for what is in a writer's page.
    pub(super) fn accepted(&self) -> u64 {
        self.producer.as_ref().map_or(self.published, |producer| producer.accepted)
    }

    /// Whether a write may begin. Where it would switch to a new increment, and so sync the old one, no other sync may be under
    /// way: where one of two syncs of a file fails, the other may succeed without what the failed one dropped.
    fn can_write(&self) -> bool {
        self.write.is_idle() && (self.sync.is_idle() || !self.write_switches())
    }

    /// Whether the next write switches to a new increment.
    fn write_switches(&self) -> bool {
        self.left.iter().map(|page| &page.tag).chain(self.ring.waiting()).any(|page| page.head == Head::Switch)
    }

    /// Whether a round may end before what it appended is written, because a sync stands in its way.
    pub(super) fn postpones(&self, policy: Fsync) -> bool {
        let syncs = policy == Fsync::EverySecond && self.syncs() || self.switches();
        syncs && self.failure.is_none() && self.trouble.is_none()
    }

    /// Whether policies count as `no` for now: while a rewrite runs, by option, and until a log that was switched on has a base.
    pub(super) fn holds_syncs_back(&self, options: &Options) -> bool {
        options.no_append_fsync_on_rewrite && self.rewriting.is_some() || self.collecting.is_some()
    }

    /// Those who come from now on wait for the next cohort.
    fn close_cohort(&mut self, upto: u64) {
        self.cohort_upto = upto;
        if !mem::replace(&mut self.cohort_closed, true) {
            self.epoch += 1;
        }
    }

    /// Whether a switch to a new increment is under way, or the next thing that its rewrite does.
    pub(super) fn switches(&self) -> bool {
        self.switching || self.rewriting.is_some() && self.write_switches()
    }

    /// Hands the producer's page to the ring, if there is room, so that the next write takes it too.
    pub(super) fn publish_page(&mut self) {
        if let Some(mut producer) = self.producer.take() {
            // Without room what the ring holds is written first.
            let _ = self.hand_over(&mut producer);
            self.producer = Some(producer);
        }
    }

    /// Takes in what a producer has accepted.
    pub(super) fn hand_over(&mut self, producer: &mut Producer) -> Result<(), super::producer::Full> {
        let result = producer.hand_over(&mut self.ring, self.split);
        self.published = producer.accepted - producer.held();
        (self.stats.commands, self.stats.bytes) = (producer.commands, producer.accepted);
        result
    }

    fn slot(&mut self, operation: Operation) -> &mut Slot<E> {
        match operation {
            Operation::Write => &mut self.write,
            Operation::Sync => &mut self.sync,
        }
    }

    /// Whether a sync is under way.
    pub(super) fn syncs(&self) -> bool {
        !self.sync.is_idle()
    }

    pub(super) fn has_orphan(&self) -> bool {
        self.write.is_orphan() || self.sync.is_orphan()
    }

    /// Bytes of the log: base and increments.
    pub(super) fn bytes(&self) -> u64 {
        self.earlier_bytes + self.target.offset
    }

    /// Poisons the log.
    pub(super) fn fail(&mut self, failure: Failure) -> Arc<Failure> {
        let failure = self.failure.get_or_insert_with(|| {
            tracing::error!(%failure, "poisoned");
            Arc::new(failure)
        });
        failure.clone()
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

/// Polls an operation; hands it back to the log when dropped before its end.
struct Driver<'a, E: Env> {
    log: &'a Log<E>,
    operation: Operation,
    worker: Option<Worker<E>>,
}

impl<E: Env> Future for Driver<'_, E> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(worker) = &mut this.worker else { return Poll::Ready(()) };
        let Poll::Ready(done) = worker.poll(context) else { return Poll::Pending };
        if let Some(worker) = this.worker.take() {
            this.log.complete(this.operation, worker, done);
        }
        Poll::Ready(())
    }
}

impl<E: Env> Drop for Driver<'_, E> {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            self.log.orphan(self.operation, worker);
        }
    }
}
