//! Reading records back, by LSN or in order.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    codec::{Batch, FIRST_FRAME_OFFSET, FrameKind},
    env::{Env, File, interruptible},
    segment::{Found, Scanner, Segment},
};

use super::{
    Lsn,
    commit::Want,
    error::ReadError,
    log::{Log, Member},
    recover::FIRST_LSN,
};

/// Bytes that a read of one record fetches at once; of many, the scanner's own window.
const POINT_BYTES: u64 = 16 * 1024;
const SEQUENTIAL_BYTES: u64 = 256 * 1024;

/// Where to begin to look for a record.
struct Place<E: Env> {
    segment: Arc<Segment<E::Dir>>,
    lsn: u64,
    offset: u64,
}

impl<E: Env> Log<E> {
    /// Reads one record. It need not be durable, but it is with the operating system when this returns.
    pub(super) async fn read(self: &Arc<Self>, lsn: Lsn) -> Result<Bytes, ReadError> {
        self.prepare_read(lsn).await?;
        let mut cursor = Cursor { log: self.clone(), next: lsn.0, segment: None, window_bytes: POINT_BYTES };
        cursor.frame().await?.into_iter().next().ok_or_else(|| self.not_found(lsn))
    }

    /// Makes sure that the record was written, so that the files hold it.
    async fn prepare_read(self: &Arc<Self>, lsn: Lsn) -> Result<(), ReadError> {
        let (next, written, sequence) = {
            let state = self.lock();
            (state.accepted.lsn, state.written.lsn, state.accepted.sequence)
        };
        if !(FIRST_LSN..next).contains(&lsn.0) {
            return Err(self.not_found(lsn));
        }
        if lsn.0 >= written {
            self.wait(Want::Written(sequence)).await?;
        }
        Ok(())
    }

    fn not_found(&self, lsn: Lsn) -> ReadError {
        ReadError::NotFound { lsn, first: Lsn(FIRST_LSN), next: Lsn(self.lock().accepted.lsn) }
    }

    /// The nearest known place at or before the record.
    fn place(&self, lsn: u64) -> Option<Place<E>> {
        let state = self.lock();
        // A segment that holds nothing has the same base as its successor: the last one counts.
        let member = &state.members[..state.members.partition_point(|member: &Member<_>| member.base_lsn <= lsn)];
        let member = member.last()?;
        let entry = member.index.partition_point(|(first, _)| *first <= lsn).checked_sub(1);
        let (lsn, offset) = entry.map_or((member.base_lsn, FIRST_FRAME_OFFSET), |entry| member.index[entry]);
        Some(Place { segment: member.segment.clone(), lsn, offset })
    }
}

/// Records in order, from one LSN up to what was appended when the iteration began.
pub struct Records<E: Env> {
    cursor: Cursor<E>,
    end: u64,
    ready: std::vec::IntoIter<Bytes>,
    ready_lsn: u64,
}

impl<E: Env> Records<E> {
    pub(super) fn new(log: Arc<Log<E>>, from: Lsn) -> Records<E> {
        let end = log.lock().accepted.lsn;
        let next = from.0.max(FIRST_LSN);
        let cursor = Cursor { log, next, segment: None, window_bytes: SEQUENTIAL_BYTES };
        Records { cursor, end, ready: Vec::new().into_iter(), ready_lsn: next }
    }

    /// The next record with its LSN, or `None` at the end. After an error the same record is tried again.
    ///
    /// # Errors
    /// As [`super::Wal::read`].
    pub async fn next(&mut self) -> Result<Option<(Lsn, Bytes)>, ReadError> {
        loop {
            if self.ready_lsn >= self.end {
                return Ok(None);
            }
            if let Some(record) = self.ready.next() {
                let lsn = Lsn(self.ready_lsn);
                self.ready_lsn += 1;
                return Ok(Some((lsn, record)));
            }
            self.cursor.log.prepare_read(Lsn(self.ready_lsn)).await?;
            self.cursor.next = self.ready_lsn;
            self.ready = self.cursor.frame().await?.into_iter();
        }
    }
}

/// Goes from frame to frame.
struct Cursor<E: Env> {
    log: Arc<Log<E>>,
    next: u64,
    segment: Option<Reader<E>>,
    window_bytes: u64,
}

/// A place in a segment, with the bytes around it.
struct Reader<E: Env> {
    place: Place<E>,
    window: Vec<u8>,
    window_offset: u64,
}

impl<E: Env> Cursor<E> {
    /// The records of the frame that holds `next`, from `next` on.
    async fn frame(&mut self) -> Result<Vec<Bytes>, ReadError> {
        // The window of an earlier call is used again if it ended right before the frame that is wanted now.
        let reader = match self.segment.take() {
            Some(reader) if reader.place.lsn == self.next => reader,
            _ => {
                let not_found = || self.log.not_found(Lsn(self.next));
                let place = self.log.place(self.next).ok_or_else(not_found)?;
                Reader { place, window: Vec::new(), window_offset: 0 }
            }
        };
        let Reader { mut place, window, window_offset } = reader;
        let segment = place.segment.clone();
        let io = |source| ReadError::Io { file: segment.name(), source };
        let file = segment.open(&self.log.dir).await.map_err(io)?;
        let length = interruptible(|| file.len()).await.map_err(io)?;
        let mut scanner = Scanner::bounded(file, segment.identity.seed(), length, self.window_bytes);
        scanner.resume(window, window_offset);
        loop {
            // Everything up to `next` was written, so a frame must stand here; only a rotation leads elsewhere.
            let corrupt = || ReadError::Corrupt { file: segment.name(), offset: place.offset };
            let found = scanner.frame(place.offset).await.map_err(io)?.map_err(|_| corrupt())?;
            let records = records(&scanner, &found, self.next.saturating_sub(place.lsn)).ok_or_else(corrupt)?;
            let count = records.total;
            place.offset = found.end();
            place.lsn += count;
            if place.lsn > self.next {
                let more = self.log.place(place.lsn).is_some_and(|next| Arc::ptr_eq(&next.segment, &segment));
                let (window, window_offset) = scanner.into_window();
                self.segment = more.then_some(Reader { place, window, window_offset });
                return Ok(records.wanted);
            }
        }
    }
}

struct FrameRecords {
    wanted: Vec<Bytes>,
    total: u64,
}

/// The records of one frame without the first `skip`; `None` if a batch is malformed.
fn records<F: File>(scanner: &Scanner<'_, F>, found: &Found, skip: u64) -> Option<FrameRecords> {
    match found.header.kind {
        FrameKind::Record if skip == 0 => Some(FrameRecords { wanted: vec![scanner.body_owned(found)], total: 1 }),
        FrameKind::Record => Some(FrameRecords { wanted: Vec::new(), total: 1 }),
        FrameKind::Batch => {
            let total = u64::from(Batch::count(scanner.body(found))?);
            if skip >= total {
                return Some(FrameRecords { wanted: Vec::new(), total });
            }
            let body = scanner.body_owned(found);
            let items = Batch::new(&body).skip(skip as usize);
            let wanted = items.map(|range| Some(body.slice(range?))).collect::<Option<Vec<_>>>()?;
            Some(FrameRecords { wanted, total })
        }
        FrameKind::Start | FrameKind::Seal | FrameKind::Mark | FrameKind::Filler => {
            Some(FrameRecords { wanted: Vec::new(), total: 0 })
        }
    }
}
