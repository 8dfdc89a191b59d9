//! The log as its handles share it: the state under one mutex, which is held for short critical sections, never across an await.

use std::{collections::VecDeque, mem, sync::Arc, time::Duration};

use crate::{
    env::{Dir, Env},
    failure::Failure,
    gate::Gate,
    plant::Plants,
    ring::{Filled, Ring},
    sync::{Mutex, MutexGuard},
    worker,
};

use super::{
    commit::Operation,
    error::LogError,
    files::Names,
    job::{Job, Target},
    manifest::{Entry, Manifest},
    options::{Fsync, Options},
    producer::{Head, Page, Producer},
    rewrite::Rewriting,
};

pub(super) type Worker<E> = worker::Worker<Job<E>>;
pub(super) type Slot<E> = worker::Slot<Job<E>>;

/// Pages of the ring, and bytes of each.
pub(super) const PAGES: usize = 32;
pub(super) const PAGE_BYTES: usize = 64 << 10;
/// `everysec`: the least time between the beginnings of two syncs.
pub(super) const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// `everysec`: how long a write waits for a sync that is under way. (Redis waits two seconds; ours stays below.)
pub(super) const POSTPONE: Duration = Duration::from_millis(1900);
/// A rewrite that is due waits for so many syncs at most. Each leaves what came in meanwhile: on a disk that is faster than the
/// commands two or three are enough, and on another one none would be.
const MOST_AHEAD: u32 = 8;
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
    pub(super) left: VecDeque<Filled<Page>>,
    pub(super) write: Slot<E>,
    pub(super) sync: Slot<E>,
    /// The write in flight may switch to a new increment, and so sync.
    pub(super) switching: bool,
    /// Who syncs for all who wait for that, and who does so next. The next one is woken last, when those of the finished cohort are
    /// awake and append again: that keeps cohorts whole.
    pub(super) leader: Option<u64>,
    pub(super) next: Option<u64>,
    pub(super) epoch: u64,
    /// What the running cohort waits for; the leader has closed it; and it is its sync that is under way.
    pub(super) cohort_upto: u64,
    pub(super) cohort_closed: bool,
    pub(super) leader_syncs: bool,
    pub(super) next_waiter: u64,
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
    /// Somebody asked for a rewrite, and none has begun since.
    pub(super) scheduled: bool,
    /// Syncs that were asked for ahead of the next switch.
    pub(super) ahead: u32,
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
            scheduled: false,
            ahead: 0,
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

    pub(super) fn open_all(&self) {
        let Gates { space, cohort: [one, other], leader, keeper, syncer } = &self.gates;
        [space, one, other, leader, keeper, syncer].into_iter().for_each(Gate::open);
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
    pub(super) fn can_write(&self) -> bool {
        self.write.is_idle() && (self.sync.is_idle() || !self.write_switches())
    }

    /// Whether a switch to a new increment is on its way.
    pub(super) fn has_mark(&self) -> bool {
        self.switching || self.write_switches()
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
    pub(super) fn close_cohort(&mut self, upto: u64) {
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

    pub(super) fn slot(&mut self, operation: Operation) -> &mut Slot<E> {
        match operation {
            Operation::Write => &mut self.write,
            Operation::Sync => &mut self.sync,
        }
    }

    /// Whether the switch of a rewrite that began now would sync little, or all was done for that. Else the syncer is to work ahead,
    /// and the caller wakes it.
    pub(super) fn is_synced_ahead(&mut self, options: &Options) -> bool {
        let half_a_ring = (options.ring_pages * options.ring_page_bytes / 2) as u64;
        if options.append_fsync == Fsync::Always || self.accepted() - self.durable <= half_a_ring {
            return true;
        }
        if self.syncs() || self.sync_wanted {
            return false;
        }
        if self.ahead == MOST_AHEAD {
            return true;
        }
        self.ahead += 1;
        self.sync_wanted = true;
        false
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
