//! Reading records back, by LSN or in order.
//!
//! A reader takes the log's mutex once per window of bytes, not once per record, and hands out slices of the window. It
//! never looks behind what was written when it fetched a window: what it holds is final.

use std::{ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};

use crate::{
    codec::{Batch, FRAME_HEADER_BYTES, Frame, FrameKind, Header},
    env::{Env, read_at_most},
    segment::Segment,
};

use super::{
    Lsn,
    commit::Want,
    error::ReadError,
    log::{Log, Member, State},
};

/// Bytes that a read of one record fetches at once; and of many.
const POINT_BYTES: u64 = 16 * 1024;
const SEQUENTIAL_BYTES: u64 = 256 * 1024;

impl<E: Env> Log<E> {
    /// Reads one record. It need not be durable, but it is with the operating system when this returns.
    pub(super) async fn read(self: &Arc<Self>, lsn: Lsn) -> Result<Bytes, ReadError> {
        let end = lsn.0.saturating_add(1);
        let mut records = Records { window_bytes: POINT_BYTES, ..Records::new(self.clone(), lsn, end) };
        match records.next().await? {
            Some((found, record)) if found == lsn => Ok(record),
            _ => Err(self.lock().not_found(lsn)),
        }
    }
}

impl<E: Env> State<E> {
    fn not_found(&self, lsn: Lsn) -> ReadError {
        ReadError::NotFound { lsn, first: Lsn(self.floor_lsn), next: Lsn(self.accepted().lsn) }
    }

    /// The nearest known place at or before the record, which was written.
    fn place(&self, lsn: u64, window: BytesMut) -> Result<Place<E>, ReadError> {
        // A segment that holds nothing has the same base as its successor: the last one counts.
        let below = self.members.partition_point(|member: &Member<_>| member.base_lsn <= lsn);
        let Some(member) = self.members[..below].last() else { return Err(self.not_found(Lsn(lsn))) };
        let (at_lsn, offset) = member.place(lsn);
        let active = member.segment.generation() == self.written.position.generation;
        Ok(Place {
            segment: member.segment.clone(),
            seed: member.segment.seed(),
            base_lsn: member.base_lsn,
            end: if active { self.written.position.offset.min(member.end) } else { member.end },
            lsn: at_lsn,
            offset,
            window: window.freeze(),
            window_offset: offset,
            held: 0,
        })
    }
}

/// Records in order, from one LSN up to another.
pub struct Records<E: Env> {
    log: Arc<Log<E>>,
    next: u64,
    end: u64,
    window_bytes: u64,
    place: Option<Place<E>>,
    /// What was read to its end last, as far as it was written then: what comes next is not in that.
    left: (u64, u64),
    /// What is left of a batch.
    batch: Option<(Bytes, std::vec::IntoIter<Range<usize>>)>,
}

impl<E: Env> Records<E> {
    /// The records from `from` (or the oldest) up to `end`.
    pub(super) fn new(log: Arc<Log<E>>, from: Lsn, end: u64) -> Records<E> {
        let next = from.0.max(log.lock().floor_lsn);
        Records { log, next, end, window_bytes: SEQUENTIAL_BYTES, place: None, left: (0, 0), batch: None }
    }

    /// The next record with its LSN, or `None` at the end. After an error the same record is tried again.
    ///
    /// # Errors
    /// As [`super::Wal::read`].
    pub async fn next(&mut self) -> Result<Option<(Lsn, Bytes)>, ReadError> {
        if let Some(item) = self.next_now() {
            return Ok(Some(item));
        }
        loop {
            if self.next >= self.end {
                return Ok(None);
            }
            if let Some((body, items)) = &mut self.batch {
                if let Some(range) = items.next() {
                    let record = body.slice(range);
                    return Ok(Some((self.advance(), record)));
                }
                self.batch = None;
            }
            let Some(place) = &mut self.place else {
                self.seek().await?;
                continue;
            };
            match place.step() {
                Step::Record(lsn, record) => {
                    if lsn == self.next {
                        return Ok(Some((self.advance(), record)));
                    }
                }
                Step::Batch(lsn, body, count) => {
                    if self.next < lsn + count {
                        let items = Batch::new(&body).skip((self.next - lsn) as usize).collect::<Option<Vec<_>>>();
                        let Some(items) = items else { return Err(self.corrupt()) };
                        self.batch = Some((body, items.into_iter()));
                    }
                }
                Step::Nothing => {}
                Step::Window => self.fill().await?,
                Step::End => {
                    let read_all = place.lsn >= self.next;
                    self.left = place.reach();
                    self.leave();
                    if !read_all {
                        return Err(self.log.lock().not_found(Lsn(self.next)));
                    }
                }
                Step::Corrupt => return Err(self.corrupt()),
            }
        }
    }

    /// The next record, if it is a frame of its own and lies in the window.
    pub(super) fn next_now(&mut self) -> Option<(Lsn, Bytes)> {
        let place = self.place.as_mut().filter(|place| place.lsn == self.next && self.batch.is_none())?;
        if self.next >= self.end {
            return None;
        }
        let record = place.record()?;
        Some((self.advance(), record))
    }

    fn advance(&mut self) -> Lsn {
        self.next += 1;
        Lsn(self.next - 1)
    }

    /// Forgets the place, so that the next try begins anew.
    fn leave(&mut self) -> Option<Place<E>> {
        self.batch = None;
        self.place.take()
    }

    fn corrupt(&mut self) -> ReadError {
        match self.leave() {
            Some(place) => ReadError::Corrupt { file: place.segment.name().to_string(), offset: place.offset },
            None => self.log.lock().not_found(Lsn(self.next)),
        }
    }

    /// Goes to the record `next`, once it was written.
    async fn seek(&mut self) -> Result<(), ReadError> {
        let unwritten = {
            let state = self.log.lock();
            let accepted = state.accepted();
            if !(state.floor_lsn..accepted.lsn).contains(&self.next) {
                return Err(state.not_found(Lsn(self.next)));
            }
            (self.next >= state.written.lsn).then_some(accepted.sequence)
        };
        if let Some(sequence) = unwritten {
            self.log.wait(Want::Written(sequence)).await?;
        }
        let place = self.log.lock().place(self.next, BytesMut::new())?;
        if place.offset >= place.end || place.reach() == self.left {
            return Err(ReadError::Corrupt { file: place.segment.name().to_string(), offset: place.offset });
        }
        self.place = Some(place);
        Ok(())
    }

    /// Fetches the bytes from the next frame on.
    async fn fill(&mut self) -> Result<(), ReadError> {
        let Some(mut place) = self.leave() else { return Ok(()) };
        let wanted = place.wanted().max(self.window_bytes).min(place.end - place.offset) as usize;
        // The buffer is used again if nobody holds a record of it any more.
        let mut window = place.window.try_into_mut().unwrap_or_default();
        window.resize(wanted.max(window.len()), 0);
        let io = |source| ReadError::Io { file: place.segment.name().to_string(), source };
        let file = place.segment.open(&self.log.dir).await.map_err(io)?;
        place.held = read_at_most(file, &mut window[..wanted], place.offset).await.map_err(io)?;
        place.window_offset = place.offset;
        place.window = window.freeze();
        let short = place.held < wanted;
        self.place = Some(place);
        // Everything up to `end` was written, so the file has it.
        if short { Err(self.corrupt()) } else { Ok(()) }
    }
}

/// A place in a segment, with the bytes around it.
struct Place<E: Env> {
    segment: Arc<Segment<E::Dir>>,
    seed: u32,
    base_lsn: u64,
    /// Nothing from here on is looked at.
    end: u64,
    lsn: u64,
    offset: u64,
    window: Bytes,
    window_offset: u64,
    /// Bytes of the window that were read.
    held: usize,
}

enum Step {
    Record(u64, Bytes),
    /// First LSN, body, records.
    Batch(u64, Bytes, u64),
    /// A frame without records.
    Nothing,
    /// The frame is not in the window as a whole.
    Window,
    /// The segment ends here.
    End,
    Corrupt,
}

impl<E: Env> Place<E> {
    /// Decodes the frame at `offset` and goes behind it, if it is a record and in the window; else nothing happens.
    fn record(&mut self) -> Option<Bytes> {
        let at = (self.offset - self.window_offset) as usize;
        let held = self.window.get(at..self.held)?;
        let frame = Frame::decode(held, self.seed, self.offset).ok()?;
        let expected = frame.header.kind == FrameKind::Record
            && u64::from(frame.header.ordinal) == self.lsn - self.base_lsn
            && self.offset < self.end;
        let body = at + FRAME_HEADER_BYTES as usize..at + FRAME_HEADER_BYTES as usize + frame.body.len();
        expected.then(|| {
            self.lsn += 1;
            self.offset += frame.header.frame_bytes();
            self.window.slice(body)
        })
    }

    /// Decodes the frame at `offset` and goes behind it.
    fn step(&mut self) -> Step {
        if self.offset >= self.end {
            return Step::End;
        }
        let at = (self.offset - self.window_offset) as usize;
        let held = &self.window[at.min(self.held)..self.held];
        let frame = match Frame::decode(held, self.segment.seed(), self.offset) {
            Ok(frame) => frame,
            Err(_) if self.wanted() > held.len() as u64 => return Step::Window,
            Err(_) => return Step::Corrupt,
        };
        if u64::from(frame.header.ordinal) != self.lsn - self.base_lsn {
            return Step::Corrupt;
        }
        let body = at + FRAME_HEADER_BYTES as usize..at + FRAME_HEADER_BYTES as usize + frame.body.len();
        let lsn = self.lsn;
        let step = match frame.header.kind {
            FrameKind::Record => {
                self.lsn += 1;
                Step::Record(lsn, self.window.slice(body))
            }
            FrameKind::Batch => {
                let Some(count) = Batch::count(frame.body) else { return Step::Corrupt };
                self.lsn += u64::from(count);
                Step::Batch(lsn, self.window.slice(body), u64::from(count))
            }
            FrameKind::Start | FrameKind::Seal | FrameKind::Mark | FrameKind::Filler => Step::Nothing,
        };
        self.offset += frame.header.frame_bytes();
        step
    }

    /// The generation, and how much of the segment is looked at.
    fn reach(&self) -> (u64, u64) {
        (self.segment.generation(), self.end)
    }

    /// Bytes that the frame at `offset` takes, as far as they are known: at least a header's.
    fn wanted(&self) -> u64 {
        let at = (self.offset - self.window_offset) as usize;
        let held = self.window.get(at..self.held).unwrap_or_default();
        let header = Header::peek(held, self.segment.seed(), self.offset);
        header.map_or(FRAME_HEADER_BYTES, |header| header.frame_bytes()).min(self.end - self.offset)
    }
}
