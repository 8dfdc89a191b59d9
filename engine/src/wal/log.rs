//! The log as its handles share it: the state under one mutex, and the side that gives LSNs and encodes frames.
//!
//! The mutex is held for short critical sections and never across an await. Everything that waits or talks to the machine
//! is in [`super::commit`].

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard},
};

use crate::{
    codec::{
        BLOCK_BYTES, FIRST_FRAME_OFFSET, Frame, FrameKind, Header, MARK_BODY_BYTES, MarkKind, Position,
        SEAL_BODY_BYTES, START_BODY_BYTES, Seal, Start, frame_bytes,
    },
    env::{Dir, Env},
    gate::Gate,
    segment::Segment,
};

use super::{
    commit::{Operation, Pre, Slot},
    error::Failure,
    open::{encode_filler, encode_mark, filler_bytes, successor_identity},
    options::Options,
    recover::{FIRST_LSN, INDEX_BYTES},
};

/// Frames are collected into pages of about this size; a larger frame has a page of its own.
const PAGE_BYTES: usize = 64 * 1024;
/// Emptied pages kept for reuse.
const POOL_PAGES: usize = 8;
/// Room that is always left for the seal.
const SEAL_BYTES: u64 = frame_bytes(SEAL_BODY_BYTES);
/// Length of a mark's frame, without the filler before it.
const MARK_BYTES: u64 = frame_bytes(MARK_BODY_BYTES);

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
    /// Those who wait for a write.
    pub(super) space: Gate,
}

/// How far something reaches: every frame before it is included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watermark {
    /// The next LSN.
    pub(super) lsn: u64,
    /// Frames accepted since open; unlike the LSN it counts marks too.
    pub(super) sequence: u64,
    pub(super) position: Position,
}

/// A segment whose records can be read.
pub(super) struct Member<D: Dir> {
    pub(super) base_lsn: u64,
    pub(super) segment: Arc<Segment<D>>,
    /// Places to begin reading from: (LSN, offset), ascending.
    pub(super) index: Vec<(u64, u64)>,
}

/// Where the next frame goes.
pub(super) struct Tail<D: Dir> {
    pub(super) segment: Arc<Segment<D>>,
    pub(super) base_lsn: u64,
    pub(super) offset: u64,
    /// Checksum of the last frame.
    pub(super) crc: u32,
    /// Nothing but its start was put into the segment.
    pub(super) fresh: bool,
}

/// Frames on their way to one place of one segment.
pub(super) struct Page<D: Dir> {
    pub(super) segment: Arc<Segment<D>>,
    pub(super) offset: u64,
    /// The start of a new segment. It is encoded in front of `bytes` when it is written, since it states that its
    /// predecessor is durable, which only then is true.
    pub(super) start: Option<Opening>,
    pub(super) bytes: Vec<u8>,
}

/// How a segment begins that a rotation opens.
pub(super) struct Opening {
    pub(super) start: Start,
    /// Where its predecessor ends.
    pub(super) before: Watermark,
}

pub(super) struct State<E: Env> {
    pub(super) tail: Tail<E::Dir>,
    /// The segment after the tail's; planned, and prepared by the next write.
    pub(super) successor: Arc<Segment<E::Dir>>,
    pub(super) members: Vec<Member<E::Dir>>,
    pages: VecDeque<Page<E::Dir>>,
    pool: Vec<Vec<u8>>,
    /// Bytes of frames that were accepted and not written yet.
    buffered_bytes: u64,
    pub(super) accepted: Watermark,
    pub(super) written: Watermark,
    pub(super) durable: Watermark,
    /// The segment that `written` lies in.
    pub(super) written_segment: Arc<Segment<E::Dir>>,
    pub(super) write: Slot,
    pub(super) sync: Slot,
    /// The write in flight rotates, and so syncs.
    pub(super) rotating: bool,
    pub(super) epoch: u64,
    /// What the running cohort waits for.
    pub(super) cohort_sequence: u64,
    pub(super) leader: Option<u64>,
    pub(super) pre: Pre,
    pub(super) failure: Option<Arc<Failure>>,
    pub(super) closed: bool,
    pub(super) next_waiter: u64,
    /// Released by close; else with the last handle.
    pub(super) lock: Option<<E::Dir as Dir>::Lock>,
}

impl<E: Env> Log<E> {
    #[expect(clippy::too_many_arguments, reason = "called once, by open, with what it has just built")]
    pub(super) fn new(
        env: E,
        dir: E::Dir,
        lock: <E::Dir as Dir>::Lock,
        options: Options,
        members: Vec<Member<E::Dir>>,
        tail: Tail<E::Dir>,
        durable: Watermark,
        successor: Arc<Segment<E::Dir>>,
    ) -> Log<E> {
        let state = State {
            written_segment: tail.segment.clone(),
            tail,
            successor,
            members,
            pages: VecDeque::new(),
            pool: Vec::new(),
            buffered_bytes: 0,
            accepted: durable,
            written: durable,
            durable,
            write: Slot::Idle,
            sync: Slot::Idle,
            rotating: false,
            epoch: 0,
            cohort_sequence: 0,
            leader: None,
            pre: Pre::None,
            failure: None,
            closed: false,
            next_waiter: 0,
            lock: Some(lock),
        };
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
}

impl<E: Env> State<E> {
    /// Whether a frame with this body may be accepted now. A full buffer takes one only when it is empty.
    pub(super) fn has_room(&self, body_bytes: u64, limit: u64) -> bool {
        self.buffered_bytes == 0 || self.buffered_bytes + frame_bytes(body_bytes) <= limit
    }

    /// Gives LSNs to `count` records and encodes their frame behind the tail.
    pub(super) fn accept(
        &mut self,
        options: &Options,
        kind: FrameKind,
        count: u64,
        body_bytes: u64,
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        self.make_room(options, frame_bytes(body_bytes), count);
        let lsn = self.accepted.lsn;
        let offset = self.tail.offset;
        if let Some(member) = self.members.last_mut()
            && member.index.last().is_none_or(|(_, last)| offset >= last + INDEX_BYTES)
        {
            member.index.push((lsn, offset));
        }
        let undurable = Header::undurable_at(offset, self.durable_offset());
        let (seed, ordinal) = (self.tail.segment.identity.seed(), self.ordinal());
        let page = self.page(frame_bytes(body_bytes) as usize);
        let crc = Frame::encode(&mut page.bytes, seed, offset, kind, ordinal, undurable, body);
        self.advance(crc, frame_bytes(body_bytes), count);
    }

    /// Brings the tail to a block boundary, with room for a mark behind it.
    pub(super) fn accept_filler(&mut self, options: &Options) {
        self.make_room(options, filler_bytes(self.tail.offset) + MARK_BYTES, 0);
        let (offset, ordinal, durable) = (self.tail.offset, self.ordinal(), self.durable_offset());
        let segment = self.tail.segment.clone();
        let page = self.page(2 * BLOCK_BYTES as usize);
        if let Some(crc) = encode_filler(&mut page.bytes, &segment.identity, ordinal, offset, durable) {
            self.advance(crc, filler_bytes(offset), 0);
        }
    }

    /// Appends a mark. It states what is durable now, so everything before it should be.
    pub(super) fn accept_mark(&mut self, kind: MarkKind) {
        let (offset, ordinal, durable) = (self.tail.offset, self.ordinal(), self.durable_offset());
        let segment = self.tail.segment.clone();
        let page = self.page(MARK_BYTES as usize);
        let crc = encode_mark(&mut page.bytes, &segment.identity, ordinal, offset, durable, kind);
        self.advance(crc, MARK_BYTES, 0);
    }

    fn advance(&mut self, crc: u32, bytes: u64, count: u64) {
        self.tail.crc = crc;
        self.tail.offset += bytes;
        self.tail.fresh = false;
        self.buffered_bytes += bytes;
        self.accepted = Watermark {
            lsn: self.accepted.lsn + count,
            sequence: self.accepted.sequence + 1,
            position: self.tail.segment.position(self.tail.offset),
        };
    }

    /// Rotates if `bytes` and a seal don't fit any more. A segment that holds nothing yet takes any frame.
    fn make_room(&mut self, options: &Options, bytes: u64, count: u64) {
        let full = self.tail.offset + bytes + SEAL_BYTES > options.segment_length();
        let ordinals = self.accepted.lsn - self.tail.base_lsn + count > u64::from(u32::MAX);
        if (full && !self.tail.fresh) || ordinals {
            self.rotate(options);
        }
    }

    /// Seals the tail's segment and goes on in its successor. Bytes only: files are made when they are written.
    fn rotate(&mut self, options: &Options) {
        let seal = Seal { next_lsn: self.accepted.lsn, successor_generation: self.successor.generation() };
        let (offset, ordinal, durable) = (self.tail.offset, self.ordinal(), self.durable_offset());
        let seed = self.tail.segment.identity.seed();
        let page = self.page(SEAL_BYTES as usize);
        let undurable = Header::undurable_at(offset, durable);
        let crc =
            Frame::encode(&mut page.bytes, seed, offset, FrameKind::Seal, ordinal, undurable, |out| seal.encode(out));
        self.advance(crc, SEAL_BYTES, 0);

        let planned = Segment::new(
            self.successor.slot + 1,
            successor_identity(&self.successor.identity, options, self.durable.position),
        );
        let segment = mem::replace(&mut self.successor, Arc::new(planned));
        let predecessor = self.tail.segment.position(self.tail.offset);
        let start = Start {
            base_lsn: self.accepted.lsn,
            predecessor,
            predecessor_crc: self.tail.crc,
            // Written only after the predecessor was synced.
            durable: predecessor,
            floor_lsn: FIRST_LSN,
            ..Start::default()
        };
        let mut bytes = self.pool.pop().unwrap_or_default();
        let start_bytes = frame_bytes(START_BODY_BYTES);
        bytes.resize(start_bytes as usize, 0);
        self.pages.push_back(Page {
            segment: segment.clone(),
            offset: FIRST_FRAME_OFFSET,
            start: Some(Opening { start, before: self.accepted }),
            bytes,
        });
        self.members.push(Member { base_lsn: self.accepted.lsn, segment: segment.clone(), index: Vec::new() });
        self.tail = Tail { segment, base_lsn: self.accepted.lsn, offset: FIRST_FRAME_OFFSET, crc: 0, fresh: true };
        self.advance(0, start_bytes, 0);
        self.tail.fresh = true;
    }

    /// The page that the next frame goes into.
    fn page(&mut self, bytes: usize) -> &mut Page<E::Dir> {
        let fits = self.pages.back().is_some_and(|page| {
            Arc::ptr_eq(&page.segment, &self.tail.segment) && page.bytes.len() + bytes <= PAGE_BYTES
        });
        if !fits {
            let bytes = self.pool.pop().unwrap_or_default();
            let (segment, offset) = (self.tail.segment.clone(), self.tail.offset);
            self.pages.push_back(Page { segment, offset, start: None, bytes });
        }
        let last = self.pages.len() - 1;
        &mut self.pages[last]
    }

    fn ordinal(&self) -> u32 {
        // `make_room` rotates before it would not fit.
        (self.accepted.lsn - self.tail.base_lsn) as u32
    }

    /// How far the tail's segment is durable; `None` if the watermark lies in an earlier one.
    fn durable_offset(&self) -> Option<u64> {
        (self.durable.position.generation == self.tail.segment.generation()).then_some(self.durable.position.offset)
    }

    /// Whether the next write will rotate.
    pub(super) fn pages_rotate(&self) -> bool {
        self.pages.iter().any(|page| page.start.is_some())
    }

    /// All pages, for a write.
    pub(super) fn take_pages(&mut self) -> VecDeque<Page<E::Dir>> {
        mem::take(&mut self.pages)
    }

    /// Gives the pages of a write back.
    pub(super) fn recycle(&mut self, pages: Vec<Vec<u8>>) {
        for mut page in pages {
            self.buffered_bytes -= page.len() as u64;
            if self.pool.len() < POOL_PAGES && page.capacity() <= 2 * PAGE_BYTES {
                page.clear();
                self.pool.push(page);
            }
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

    pub(super) fn slot(&mut self, operation: Operation) -> &mut Slot {
        match operation {
            Operation::Write => &mut self.write,
            Operation::Sync => &mut self.sync,
        }
    }
}
