//! The log as its handles share it: the state under one mutex.
//!
//! The mutex is held for short critical sections and never across an await. Frames are accepted in [`super::producer`];
//! everything that waits or talks to the machine is in [`super::commit`], and what it does there in [`super::jobs`].

use std::{collections::VecDeque, sync::Arc};

use crate::{
    codec::{BLOCK_BYTES, FIRST_FRAME_OFFSET},
    env::{Dir, Env},
    gate::Gate,
    plant::{Plants, planted},
    ring::Ring,
    segment::Segment,
    sync::{Mutex, MutexGuard},
};

use super::{
    commit::{Operation, Pre, Slot, Want},
    error::{AppendError, Failure},
    options::Options,
    producer::{Lack, Placement, Producer, Tail, Watermark},
    recover::INDEX_BYTES,
    stats::Stats,
};

/// What all handles of one log share.
pub(super) struct Log<E: Env> {
    pub(super) env: E,
    pub(super) dir: E::Dir,
    pub(super) options: Options,
    pub(super) gates: Gates,
    state: Mutex<State<E>>,
}

/// Where waiters sleep; see [`super::commit`].
#[derive(Default)]
pub(super) struct Gates {
    /// Those whose cohort is running, and those of the next one, by the parity of the epoch.
    pub(super) cohort: [Gate; 2],
    /// The designated leader of the next cohort.
    pub(super) leader: Gate,
    /// Those who wait for a write, for room or for a spare.
    pub(super) space: Gate,
    /// Those who read on as the log grows, and do none of its work.
    pub(super) progress: Gate,
    /// The keeper.
    pub(super) keeper: Gate,
}

/// A segment whose records can be read.
pub(super) struct Member<D: Dir> {
    pub(super) base_lsn: u64,
    pub(super) segment: Arc<Segment<D>>,
    /// End of what counts in it; without a bound while it is the last one.
    pub(super) end: u64,
    /// Places to begin reading from: (LSN, offset), ascending.
    pub(super) index: Vec<(u64, u64)>,
}

impl<D: Dir> Member<D> {
    /// A segment of `length` bytes that is about to be filled.
    pub(super) fn new(base_lsn: u64, segment: Arc<Segment<D>>, length: u64) -> Member<D> {
        Member { base_lsn, segment, end: u64::MAX, index: Vec::with_capacity((length / INDEX_BYTES) as usize + 1) }
    }

    /// The nearest known place at or before a record: the LSN there, and the offset.
    pub(super) fn place(&self, lsn: u64) -> (u64, u64) {
        let entry = self.index.partition_point(|(first, _)| *first <= lsn).checked_sub(1);
        entry.map_or((self.base_lsn, FIRST_FRAME_OFFSET), |entry| self.index[entry])
    }

    /// Notes that a frame which begins at `offset` holds `lsn`, if the last place is far enough away.
    pub(super) fn note(&mut self, lsn: u64, offset: u64) {
        if offset >= self.index.last().map_or(FIRST_FRAME_OFFSET, |(_, last)| *last) + INDEX_BYTES {
            self.index.push((lsn, offset));
        }
    }
}

/// A segment that is prepared and not started.
pub(super) struct Spare<D: Dir> {
    pub(super) segment: Arc<Segment<D>>,
    /// Bytes of its file that were written and synced.
    pub(super) length: u64,
}

/// Who may append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Every handle.
    Shared,
    /// One [`Writer`](super::Writer), which may hold the producer or leave it here.
    Writer,
    /// Nobody, until a truncation has ended.
    Truncating,
}

pub(super) struct State<E: Env> {
    /// Here unless a writer holds it.
    pub(super) producer: Option<Producer<E::Dir>>,
    /// The writer holds room in the producer's page, which is here all the same: nobody else may touch it.
    pub(super) held: bool,
    /// Others may wait for what is in the producer's page: it stays here until it was handed over.
    pub(super) promised: bool,
    /// Somebody waits for what is in a page that the writer has.
    pub(super) page_wanted: bool,
    pub(super) access: Access,
    pub(super) ring: Ring<Placement<E::Dir>>,
    /// What the ring has seen: all that is accepted, but for what is in a writer's page.
    pub(super) published: Watermark,
    pub(super) written: Watermark,
    pub(super) durable: Watermark,
    /// The segment that `written` lies in.
    pub(super) written_segment: Arc<Segment<E::Dir>>,
    pub(super) members: Vec<Member<E::Dir>>,
    /// Prepared bytes of the last member.
    pub(super) tail_length: u64,
    /// Records below this LSN are released.
    pub(super) floor_lsn: u64,
    /// Counts truncations of the back, so that a reader notices one.
    pub(super) cuts: u64,
    /// Prepared segments, in the order of their generations.
    pub(super) spares: VecDeque<Spare<E::Dir>>,
    /// The first spare is away, to be filled further: those behind it wait, since generations ascend along the log.
    pub(super) extending: bool,
    /// Segments that hold nothing any more, to be recycled or removed once no reader holds them.
    pub(super) released: Vec<Arc<Segment<E::Dir>>>,
    pub(super) next_slot: u64,
    pub(super) next_generation: u64,
    pub(super) next_number: u64,
    pub(super) write: Slot<E>,
    pub(super) sync: Slot<E>,
    pub(super) prepare: Slot<E>,
    /// The write in flight rotates, and so syncs.
    pub(super) rotating: bool,
    pub(super) epoch: u64,
    /// What the running cohort waits for.
    pub(super) cohort_sequence: u64,
    pub(super) leader: Option<u64>,
    pub(super) pre: Pre,
    pub(super) failure: Option<Arc<Failure>>,
    pub(super) closed: bool,
    /// The sequence number right behind the last mark: nothing was accepted since, if it is still the next one.
    pub(super) marked_sequence: u64,
    /// The keeper rests until something is accepted.
    pub(super) keeper_rests: bool,
    /// The keeper has something to do; its gate is to be opened after the mutex is released.
    pub(super) wake_keeper: bool,
    /// The last handle is gone, or the log is closed.
    pub(super) keeper_stops: bool,
    pub(super) next_waiter: u64,
    pub(super) stats: Stats,
    /// Large frames go into pages.
    pub(super) split: bool,
    plants: Plants,
    /// Released by close; else with the last handle.
    pub(super) lock: Option<<E::Dir as Dir>::Lock>,
}

/// What open hands over.
pub(super) struct Opened<E: Env> {
    pub(super) lock: <E::Dir as Dir>::Lock,
    pub(super) members: Vec<Member<E::Dir>>,
    pub(super) tail: Tail<E::Dir>,
    pub(super) durable: Watermark,
    pub(super) floor_lsn: u64,
    pub(super) spares: VecDeque<Spare<E::Dir>>,
    pub(super) next_slot: u64,
    pub(super) stats: Stats,
}

impl<E: Env> Log<E> {
    pub(super) fn new(env: E, dir: E::Dir, options: Options, opened: Opened<E>) -> Log<E> {
        let Opened { lock, members, tail, durable, floor_lsn, spares, next_slot, stats } = opened;
        let newest = spares.back().map_or(&tail.segment, |spare| &spare.segment).identity.clone();
        let (pages, page_bytes) = options.ring();
        let slot = Slot::new;
        let mut state = State {
            written_segment: tail.segment.clone(),
            tail_length: tail.length,
            producer: Some(Producer::new(tail, durable)),
            held: false,
            promised: false,
            page_wanted: false,
            access: Access::Shared,
            ring: Ring::new(pages, page_bytes),
            published: durable,
            written: durable,
            durable,
            members,
            floor_lsn,
            cuts: 0,
            next_generation: newest.generation + 1,
            next_number: newest.number + 1,
            spares,
            extending: false,
            released: Vec::new(),
            next_slot,
            write: slot(),
            sync: slot(),
            prepare: slot(),
            rotating: false,
            epoch: 0,
            cohort_sequence: 0,
            leader: None,
            pre: Pre::None,
            failure: None,
            closed: false,
            marked_sequence: durable.sequence,
            keeper_rests: false,
            wake_keeper: false,
            keeper_stops: false,
            next_waiter: 0,
            stats,
            split: options.splits(),
            plants: options.plants.clone(),
            lock: Some(lock),
        };
        state.release();
        Log { env, dir, options, gates: Gates::default(), state: Mutex::new(state) }
    }

    /// The state. If a thread panicked while it held the mutex, the log is poisoned like after any other failure.
    pub(super) fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(|poisoned| {
            let mut state = poisoned.into_inner();
            state.fail(Failure {
                operation: "update",
                file: "the log's memory".into(),
                kind: std::io::ErrorKind::Other,
                message: "a thread panicked".into(),
            });
            state
        })
    }

    /// Ends a critical section in which a writer left its page here: who waited for that goes on.
    pub(super) fn left(&self, mut state: MutexGuard<'_, State<E>>) {
        state.held = false;
        let wanted = std::mem::take(&mut state.page_wanted);
        self.rouse(state);
        if wanted {
            self.gates.leader.open();
            self.gates.space.open();
        }
    }

    /// Ends a critical section in which something was accepted: the keeper learns of it if it has to.
    pub(super) fn rouse(&self, mut state: MutexGuard<'_, State<E>>) {
        let wake = std::mem::take(&mut state.keeper_rests) | std::mem::take(&mut state.wake_keeper);
        drop(state);
        if wake {
            self.gates.keeper.open();
        }
    }

    /// Waits until what an append lacked is there.
    pub(super) async fn make_way(&self, lack: Lack) -> Result<(), AppendError> {
        match lack {
            Lack::Pages(drained) => self.wait(Want::Drained(drained)).await.map_err(AppendError::Poisoned),
            Lack::Spare(length) => self.wait(Want::Spare(length)).await.map_err(|failure| {
                let poisoned = self.lock().failure.is_some();
                if poisoned { AppendError::Poisoned(failure) } else { AppendError::NoRoom(failure) }
            }),
            Lack::Never(error) => Err(error),
        }
    }
}

impl<E: Env> State<E> {
    /// Everything accepted, but for what is in a writer's page.
    pub(super) fn accepted(&self) -> Watermark {
        self.producer.as_ref().map_or(self.published, |producer| producer.accepted)
    }

    /// Whether the next write will rotate.
    pub(super) fn write_rotates(&self) -> bool {
        self.ring.waiting().any(|placement| placement.opening.is_some())
            || self.producer.as_ref().is_some_and(Producer::opens)
    }

    /// Lets `work` use the producer and the rest at once. It must be here.
    pub(super) fn with_producer<T>(
        &mut self,
        work: impl FnOnce(&mut Self, &mut Producer<E::Dir>) -> Result<T, Option<Lack>>,
    ) -> Result<T, Option<Lack>> {
        let Some(mut producer) = self.producer.take() else { return Err(None) };
        let result = work(self, &mut producer);
        self.producer = Some(producer);
        result
    }

    /// The producer, for whoever may append to the log as it is: `None` while a writer has it, or holds room in it.
    pub(super) fn lend(&mut self) -> Option<Producer<E::Dir>> {
        if self.held { None } else { self.producer.take() }
    }

    /// Hands the producer's page to the ring, if there is room, so that the next write takes it too. Without room what the
    /// ring holds is written first.
    pub(super) fn publish_page(&mut self) {
        if self.held {
            return;
        }
        let _ = self.with_producer(|state, producer| state.hand_over(producer).map_err(Some));
    }

    /// All counts as of now.
    pub(super) fn stats(&self) -> Stats {
        match &self.producer {
            Some(producer) => Stats { appends: producer.records, bytes: producer.payload_bytes, ..self.stats },
            None => self.stats,
        }
    }

    /// Poisons the log. Operations without a driver are never polled again.
    pub(super) fn fail(&mut self, failure: Failure) -> Arc<Failure> {
        let failure = self.failure.get_or_insert_with(|| {
            tracing::error!(%failure, "poisoned");
            Arc::new(failure)
        });
        failure.clone()
    }

    pub(super) fn slot(&mut self, operation: Operation) -> &mut Slot<E> {
        match operation {
            Operation::Write => &mut self.write,
            Operation::Sync => &mut self.sync,
            Operation::Prepare => &mut self.prepare,
        }
    }

    /// Whether the next spare has at least `length` prepared bytes.
    pub(super) fn has_spare(&self, length: u64) -> bool {
        let away = self.extending && !planted!(self.plants, WalSparesOutOfOrder);
        !away && self.spares.front().is_some_and(|spare| spare.length >= length)
    }

    /// Prepared bytes that a spare should have now: any at first, `length` once half of the present segment is used.
    pub(super) fn spare_wanted(&self, length: u64) -> u64 {
        if self.published.position.offset > self.tail_length / 2 { length } else { 0 }
    }

    /// Whether the keeper has a preparation to do: a spare is missing or too short, or something released is left over.
    pub(super) fn wants_preparation(&self, length: u64) -> bool {
        !self.has_spare(self.spare_wanted(length))
            || self.released.iter().any(|segment| Arc::strong_count(segment) == 1)
    }

    pub(super) fn segment_of(&self, generation: u64) -> Option<Arc<Segment<E::Dir>>> {
        let member = self.members.iter().rev().find(|member| member.segment.generation() == generation)?;
        Some(member.segment.clone())
    }

    /// The length of a segment, as its identity has it.
    pub(super) fn segment_blocks(length: u64) -> u32 {
        // Segments are bounded below 4 GiB.
        (length / BLOCK_BYTES) as u32
    }
}
