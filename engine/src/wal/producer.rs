//! The side that gives LSNs and encodes frames: one page and the place where the next frame goes.
//!
//! While a frame fits the page and the segment, nothing else is looked at: no mutex, no allocation. What needs more (a page,
//! a rotation) goes through [`State::make_room`], under the log's mutex.

use std::sync::Arc;

use crate::{
    codec::{
        BLOCK_BYTES, FIRST_FRAME_OFFSET, Frame, FrameKind, Header, Mark, Position, SEAL_BODY_BYTES, START_BODY_BYTES,
        Seal, Start, frame_bytes,
    },
    env::{Dir, Env},
    segment::Segment,
};

use super::{
    error::AppendError,
    log::{Member, State},
    open::{encode_filler, encode_mark, filler_bytes},
};

/// Room that is always left for the seal.
pub(super) const SEAL_BYTES: u64 = frame_bytes(SEAL_BODY_BYTES);
/// Length of a start's frame.
const START_BYTES: u64 = frame_bytes(START_BODY_BYTES);
/// Length of a mark's frame, without the filler before it.
const MARK_BYTES: u64 = frame_bytes(Mark::Synced.body_bytes());

/// Prepared bytes that a segment needs in order to begin with a frame of `bytes`.
pub(super) const fn segment_bytes_for(bytes: u64) -> u64 {
    (FIRST_FRAME_OFFSET + START_BYTES + bytes + SEAL_BYTES).next_multiple_of(BLOCK_BYTES)
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

/// Where the next frame goes.
pub(super) struct Tail<D: Dir> {
    pub(super) segment: Arc<Segment<D>>,
    pub(super) base_lsn: u64,
    pub(super) offset: u64,
    /// Prepared bytes of the segment.
    pub(super) length: u64,
    /// Checksum of the last frame.
    pub(super) crc: u32,
}

/// Frames on their way to one place of one segment.
pub(super) struct Placement<D: Dir> {
    pub(super) segment: Arc<Segment<D>>,
    pub(super) offset: u64,
    /// How far the log reaches with this page.
    pub(super) upto: Watermark,
    /// The start of a new segment. It is encoded when it is written, since it states that its predecessor is durable,
    /// which only then is true.
    pub(super) opening: Option<Opening>,
}

/// How a segment begins that a rotation opens.
pub(super) struct Opening {
    pub(super) start: Start,
    /// Where its predecessor ends.
    pub(super) before: Watermark,
}

/// A large frame on its way into pages. It was accepted as a whole.
struct Rest {
    bytes: Vec<u8>,
    /// How much of it is in pages.
    done: usize,
    /// Offset of its first byte in the segment.
    offset: u64,
    /// How far the log reaches without it.
    before: Watermark,
}

/// What keeps a frame from being accepted. [`Wal::make_way`](super::Wal::make_way) waits until it is there.
#[derive(Clone, Debug)]
pub(crate) enum Lack {
    /// All pages are in use, and so many have come back from the machine.
    Pages(u64),
    /// A spare with so many prepared bytes.
    Spare(u64),
    /// No waiting helps.
    Never(AppendError),
}

/// Accepts frames, one after the other.
pub(super) struct Producer<D: Dir> {
    pub(super) tail: Tail<D>,
    /// The page being filled; without capacity if there is none.
    page: Vec<u8>,
    page_bytes: u64,
    /// The page is a buffer of its own for one large frame.
    appendix: bool,
    /// How far the log reaches without the page.
    page_begins: Watermark,
    opening: Option<Opening>,
    /// What is left of a large frame that goes into pages.
    rest: Option<Rest>,
    pub(super) accepted: Watermark,
    /// How far the log is known to be durable; true, perhaps not the latest.
    pub(super) durable: Position,
    /// Records and their bytes accepted since open.
    pub(super) records: u64,
    pub(super) payload_bytes: u64,
}

impl<D: Dir> Producer<D> {
    pub(super) fn new(tail: Tail<D>, durable: Watermark) -> Producer<D> {
        Producer {
            tail,
            page: Vec::new(),
            page_bytes: 0,
            appendix: false,
            page_begins: durable,
            opening: None,
            rest: None,
            accepted: durable,
            durable: durable.position,
            records: 0,
            payload_bytes: 0,
        }
    }

    /// Whether a frame of `bytes` with `count` records can be encoded right away.
    pub(super) fn fits(&self, bytes: u64, count: u64) -> bool {
        self.page.len() as u64 + bytes <= self.page_bytes && self.segment_fits(bytes, count)
    }

    fn segment_fits(&self, bytes: u64, count: u64) -> bool {
        self.tail.offset + bytes + SEAL_BYTES <= self.tail.length
            && self.accepted.lsn - self.tail.base_lsn + count <= u64::from(u32::MAX)
    }

    /// Encodes a frame into the page, which has room for it.
    pub(super) fn encode(&mut self, kind: FrameKind, count: u64, body_bytes: u64, body: impl FnOnce(&mut Vec<u8>)) {
        let undurable = Header::undurable_at(self.tail.offset, self.durable_offset());
        let (seed, ordinal) = (self.tail.segment.seed(), self.ordinal());
        let crc = Frame::encode(&mut self.page, seed, self.tail.offset, kind, ordinal, undurable, body);
        self.count(count, body_bytes);
        self.advance(crc, frame_bytes(body_bytes), count);
    }

    /// Encodes one record into the page, which has room for it.
    pub(super) fn encode_record(&mut self, record: &[u8]) {
        let undurable = Header::undurable_at(self.tail.offset, self.durable_offset());
        let (seed, ordinal, body_bytes) = (self.tail.segment.seed(), self.ordinal(), record.len() as u64);
        let (page, offset) = (&mut self.page, self.tail.offset);
        let crc = Frame::encode_whole(page, seed, offset, FrameKind::Record, ordinal, undurable, record);
        self.count(1, body_bytes);
        self.advance(crc, frame_bytes(body_bytes), 1);
    }

    fn count(&mut self, records: u64, payload_bytes: u64) {
        if records > 0 {
            self.records += records;
            self.payload_bytes += payload_bytes;
        }
    }

    /// Appends a mark. It states what is durable now, so everything before it should be.
    pub(super) fn encode_mark(&mut self, mark: Mark) {
        let (offset, ordinal, durable) = (self.tail.offset, self.ordinal(), self.durable_offset());
        let crc = encode_mark(&mut self.page, self.tail.segment.seed(), ordinal, offset, durable, mark);
        self.advance(crc, frame_bytes(mark.body_bytes()), 0);
    }

    /// Brings the tail to a block boundary.
    pub(super) fn encode_filler(&mut self) {
        let (offset, ordinal, durable) = (self.tail.offset, self.ordinal(), self.durable_offset());
        if let Some(crc) = encode_filler(&mut self.page, self.tail.segment.seed(), ordinal, offset, durable) {
            self.advance(crc, filler_bytes(offset), 0);
        }
    }

    /// Goes on at another place, once the log was cut. The page is empty.
    pub(super) fn go_on(&mut self, tail: Tail<D>, reached: Watermark) {
        (self.tail, self.accepted, self.durable) = (tail, reached, reached.position);
    }

    /// Bytes that a filler and the mark behind it take at present.
    pub(super) fn mark_bytes(&self) -> u64 {
        filler_bytes(self.tail.offset) + MARK_BYTES
    }

    fn advance(&mut self, crc: u32, bytes: u64, count: u64) {
        self.tail.crc = crc;
        self.tail.offset += bytes;
        self.accepted = Watermark {
            lsn: self.accepted.lsn + count,
            sequence: self.accepted.sequence + 1,
            position: Position { generation: self.accepted.position.generation, offset: self.tail.offset },
        };
    }

    fn ordinal(&self) -> u32 {
        // `segment_fits` is false before it would not fit.
        (self.accepted.lsn - self.tail.base_lsn) as u32
    }

    /// How far the tail's segment is durable; `None` if the watermark lies in an earlier one.
    fn durable_offset(&self) -> Option<u64> {
        (self.durable.generation == self.tail.segment.generation()).then_some(self.durable.offset)
    }

    /// Whether the page holds anything.
    pub(super) fn holds_frames(&self) -> bool {
        !self.page.is_empty()
    }

    /// Whether anything was accepted that the ring has not seen.
    pub(super) fn holds_back(&self) -> bool {
        self.holds_frames() || self.rest.is_some()
    }

    /// Whether no record stands in the segment yet.
    pub(super) fn begins_segment(&self) -> bool {
        self.accepted.lsn == self.tail.base_lsn
    }

    /// Whether the page begins a segment.
    pub(super) fn opens(&self) -> bool {
        self.opening.is_some()
    }
}

impl<E: Env> State<E> {
    /// Makes `producer` able to take a frame of `bytes` with `count` records, rotating if needed. Changes nothing that a
    /// crash could show unless it succeeds.
    pub(super) fn make_room(&mut self, producer: &mut Producer<E::Dir>, bytes: u64, count: u64) -> Result<(), Lack> {
        if !producer.segment_fits(bytes, count) {
            self.rotate(producer, segment_bytes_for(bytes))?;
        }
        if bytes > self.ring.page_bytes() as u64 {
            return self.appendix(producer, bytes);
        }
        self.page(producer, bytes)
    }

    /// Sees that the page has room for `bytes`, which fit a page.
    fn page(&mut self, producer: &mut Producer<E::Dir>, bytes: u64) -> Result<(), Lack> {
        if producer.page.len() as u64 + bytes > producer.page_bytes {
            self.hand_over(producer)?;
            producer.page = self.ring.empty_page().ok_or_else(|| self.lacks_pages())?;
            producer.page_bytes = self.ring.page_bytes() as u64;
            producer.page_begins = producer.accepted;
        }
        Ok(())
    }

    /// Gives `producer` a buffer of its own for one large frame.
    fn appendix(&mut self, producer: &mut Producer<E::Dir>, bytes: u64) -> Result<(), Lack> {
        self.hand_over(producer)?;
        if !self.ring.has_room_for(bytes) {
            return Err(self.lacks_pages());
        }
        producer.page = Vec::with_capacity(bytes as usize);
        producer.page_bytes = bytes;
        producer.appendix = true;
        producer.page_begins = producer.accepted;
        Ok(())
    }

    /// Puts the producer's page into the ring, if it holds anything, and takes in how far the log reaches with it.
    pub(super) fn hand_over(&mut self, producer: &mut Producer<E::Dir>) -> Result<(), Lack> {
        let begins = producer.page_begins;
        if producer.appendix && self.split && producer.holds_frames() {
            self.note(begins);
            let offset = begins.position.offset;
            producer.rest = Some(Rest { bytes: std::mem::take(&mut producer.page), done: 0, offset, before: begins });
            (producer.appendix, producer.page_bytes) = (false, 0);
        }
        self.split(producer)?;
        if producer.holds_frames() {
            if !self.ring.has_room() {
                return Err(self.lacks_pages());
            }
            self.note(begins);
            let placement = Placement {
                segment: producer.tail.segment.clone(),
                offset: begins.position.offset,
                upto: producer.accepted,
                opening: producer.opening.take(),
            };
            self.ring.append(placement, std::mem::take(&mut producer.page), producer.appendix);
        } else if producer.page.capacity() > 0 {
            let page = std::mem::take(&mut producer.page);
            // (An appendix for which nothing came is not a page.)
            if !producer.appendix {
                self.ring.put_back(page);
            }
        }
        producer.page_bytes = 0;
        producer.appendix = false;
        self.promised = false;
        let half = self.tail_length / 2;
        self.wake_keeper |= self.published.position.offset <= half && producer.accepted.position.offset > half;
        self.published = producer.accepted;
        (self.stats.appends, self.stats.bytes) = (producer.records, producer.payload_bytes);
        producer.durable = self.durable.position;
        Ok(())
    }

    /// Remembers where a page begins.
    fn note(&mut self, begins: Watermark) {
        if let Some(member) = self.members.last_mut() {
            member.note(begins.lsn, begins.position.offset);
        }
    }

    /// The caller has just seen that all pages are in use.
    fn lacks_pages(&self) -> Lack {
        Lack::Pages(self.ring.drained())
    }

    /// Puts a large frame into pages, as many as there are; each one ends before the frame but the last.
    fn split(&mut self, producer: &mut Producer<E::Dir>) -> Result<(), Lack> {
        while let Some(rest) = &mut producer.rest {
            if !self.ring.has_room() {
                return Err(self.lacks_pages());
            }
            let mut page = self.ring.empty_page().ok_or_else(|| self.lacks_pages())?;
            let piece = &rest.bytes[rest.done..rest.bytes.len().min(rest.done + self.ring.page_bytes())];
            page.extend_from_slice(piece);
            let offset = rest.offset + rest.done as u64;
            rest.done += piece.len();
            let last = rest.done == rest.bytes.len();
            let upto = if last { producer.accepted } else { rest.before };
            let placement = Placement { segment: producer.tail.segment.clone(), offset, upto, opening: None };
            self.ring.append(placement, page, false);
            if last {
                producer.rest = None;
            }
        }
        Ok(())
    }

    /// Seals the tail's segment and goes on in the next spare. Bytes only: the spare is prepared.
    pub(super) fn rotate(&mut self, producer: &mut Producer<E::Dir>, length: u64) -> Result<(), Lack> {
        if !self.has_spare(length) {
            return Err(Lack::Spare(length));
        }
        self.page(producer, SEAL_BYTES)?;
        // The sealed page goes into the ring and another one begins the new segment: both or nothing.
        let Some(next) = self.ring.has_room().then(|| self.ring.empty_page()).flatten() else {
            return Err(self.lacks_pages());
        };
        let Some(spare) = self.spares.pop_front() else { return Err(Lack::Spare(length)) };
        let segment = spare.segment;
        let seal = Seal { next_lsn: producer.accepted.lsn, successor_generation: segment.generation() };
        producer.encode(FrameKind::Seal, 0, SEAL_BODY_BYTES, |out| seal.encode(out));
        let (before, predecessor_crc) = (producer.accepted, producer.tail.crc);
        if let Some(member) = self.members.last_mut() {
            member.end = before.position.offset;
        }
        self.hand_over(producer)?;
        let start = Start {
            base_lsn: before.lsn,
            predecessor: before.position,
            predecessor_crc,
            // Written only after the predecessor was synced.
            durable: before.position,
            floor_lsn: self.floor_lsn,
            ..Start::default()
        };
        self.begin_segment(producer, segment, spare.length, next, start, before);
        Ok(())
    }

    /// Lets `producer` go on in `segment`, whose first frame `start` is encoded when it is written.
    fn begin_segment(
        &mut self,
        producer: &mut Producer<E::Dir>,
        segment: Arc<Segment<E::Dir>>,
        length: u64,
        mut page: Vec<u8>,
        start: Start,
        before: Watermark,
    ) {
        page.resize(START_BYTES as usize, 0);
        producer.page = page;
        producer.page_bytes = self.ring.page_bytes() as u64;
        self.members.push(Member::new(start.base_lsn, segment.clone(), length));
        self.tail_length = length;
        self.stats.rotations += 1;
        self.wake_keeper = true;
        producer.tail = Tail { base_lsn: start.base_lsn, offset: FIRST_FRAME_OFFSET, length, crc: 0, segment };
        producer.accepted.position = producer.tail.segment.position(FIRST_FRAME_OFFSET);
        producer.page_begins = producer.accepted;
        producer.opening = Some(Opening { start, before });
        producer.advance(0, START_BYTES, 0);
    }
}
