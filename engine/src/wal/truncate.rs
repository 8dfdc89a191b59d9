//! Making the log shorter: at the front by moving the floor, at the back by starting a segment that links to the cut.

use std::{io, sync::Arc};

use bytes::Bytes;
use tracing::debug;

use crate::{
    codec::{
        BLOCK_BYTES, Batch, FIRST_FRAME_OFFSET, Frame, FrameKind, Identity, Mark, NO_CLAIM, Position, START_BODY_BYTES,
        Start, encode_batch_body, frame_bytes,
    },
    env::{Dir, Env, File, interruptible, write_all_at},
    plant::{Plants, planted},
    segment::{Scanner, Segment, Window, restate},
};

use super::{
    Lsn, TruncateError, Wal,
    commit::{Operation, Want, Worker},
    error::{AppendError, Failure, ReadError},
    jobs::{Job, create},
    log::{Access, Log, Member, Spare, State},
    open::{encode_filler, encode_mark},
    producer::{Tail, Watermark, segment_bytes_for},
};

impl<E: Env> Wal<E> {
    /// Releases the records below `lsn`: once this returns they are gone for readers and after every crash, and segments
    /// that hold nothing else are recycled. `lsn` may be anything from the oldest LSN to the next one.
    ///
    /// Returns the oldest LSN. The space comes back in whole segments, and only when no reader holds them.
    ///
    /// # Errors
    /// [`TruncateError`].
    pub async fn truncate_front(&self, lsn: Lsn) -> Result<Lsn, TruncateError> {
        let log = &self.log;
        let sequence = {
            let state = log.lock();
            state.check_range(lsn)?;
            state.accepted().sequence
        };
        // What is kept must be there after a crash: a floor above the end would look like a lost beginning.
        if !planted!(log.options.plants, WalFloorBeforeSync) {
            log.wait(Want::Durable(sequence)).await.map_err(TruncateError::Poisoned)?;
        }
        let sequence = log.accept_floor(lsn).await?;
        self.finish_floor(Floor { lsn: lsn.0, sequence }).await.map_err(TruncateError::Indeterminate)
    }

    /// Waits until a floor mark is durable, and then releases what lies below it. Returns the oldest LSN.
    ///
    /// # Errors
    /// The failure that poisoned the log: whether the floor took effect is unknown until it is reopened.
    pub(crate) async fn finish_floor(&self, floor: Floor) -> Result<Lsn, Arc<Failure>> {
        let log = &self.log;
        if !planted!(log.options.plants, WalRecycleBeforeFloor) {
            log.wait(Want::Durable(floor.sequence)).await?;
        }
        let mut state = log.lock();
        state.floor_lsn = state.floor_lsn.max(floor.lsn);
        state.release();
        state.wake_keeper = true;
        let first = state.floor_lsn;
        log.rouse(state);
        Ok(Lsn(first))
    }

    /// Removes the records from `lsn` on, durably; the next record gets this LSN. `lsn` may be anything from the oldest LSN
    /// to the next one. Appends wait meanwhile. A [`Tail`](super::Tail) that delivered a removed record is told so.
    ///
    /// # Errors
    /// [`TruncateError`]; after [`Indeterminate`](TruncateError::Indeterminate) the records are there or not, all or none.
    pub async fn truncate_back(&self, lsn: Lsn) -> Result<(), TruncateError> {
        let log = &self.log;
        {
            let mut state = log.lock();
            state.check_range(lsn)?;
            if state.access != Access::Shared {
                return Err(TruncateError::Busy);
            }
            state.access = Access::Truncating;
        }
        let mut exclusive = Exclusive { log, held: true };
        log.settle().await.map_err(TruncateError::Poisoned)?;
        let cut = log.find_cut(lsn).await?;
        // Room for the carried items, the marks, and some records more.
        let carried = cut.carried.as_ref().map_or(0, |carried| frame_bytes(carried.len() as u64));
        let needed = segment_bytes_for(carried + 3 * BLOCK_BYTES);
        let worker = loop {
            log.wait(Want::Spare(needed)).await.map_err(|failure| log.no_room(failure))?;
            log.settle().await.map_err(TruncateError::Poisoned)?;
            if let Some(worker) = log.begin_truncate(lsn, &cut, needed) {
                break worker;
            }
        };
        // From here on the job ends the truncation, whoever polls it.
        exclusive.held = false;
        log.drive(Operation::Write, worker).await.map_err(TruncateError::Indeterminate)
    }
}

/// A floor mark that was accepted. [`Wal::finish_floor`] makes it count.
#[derive(Debug)]
#[must_use = "nothing is released before the mark is durable"]
pub(crate) struct Floor {
    pub(super) lsn: u64,
    pub(super) sequence: u64,
}

/// Nobody appends while a truncation has the log to itself.
struct Exclusive<'a, E: Env> {
    log: &'a Log<E>,
    held: bool,
}

impl<E: Env> Drop for Exclusive<'_, E> {
    fn drop(&mut self) {
        if self.held {
            self.log.lock().access = Access::Shared;
            self.log.open_all();
        }
    }
}

/// Where the log is cut at its back.
#[derive(Clone)]
struct Cut {
    /// The segment that keeps its beginning, the end of that, and the checksum of the frame before it.
    generation: u64,
    end: u64,
    end_crc: u32,
    /// The kept items of a batch that the cut goes through, as a batch body, and the LSN of the first.
    carried: Option<Bytes>,
    base_lsn: u64,
}

impl<E: Env> Log<E> {
    fn no_room(&self, failure: Arc<Failure>) -> TruncateError {
        let poisoned = self.lock().failure.is_some();
        if poisoned { TruncateError::Poisoned(failure) } else { TruncateError::NoRoom(failure) }
    }

    /// Appends a floor mark. Returns its sequence number.
    async fn accept_floor(&self, lsn: Lsn) -> Result<u64, TruncateError> {
        let mark = Mark::Floor { lsn: lsn.0 };
        loop {
            let lack = {
                let mut state = self.lock();
                if let Some(failure) = &state.failure {
                    return Err(TruncateError::Poisoned(failure.clone()));
                }
                if state.closed {
                    return Err(TruncateError::Closed);
                }
                if state.access == Access::Truncating {
                    return Err(TruncateError::Busy);
                }
                let Some(mut producer) = state.lend() else { return Err(TruncateError::Busy) };
                let made = state.make_room(&mut producer, frame_bytes(mark.body_bytes()), 0);
                if made.is_ok() {
                    producer.encode_mark(mark);
                }
                let sequence = producer.accepted.sequence;
                state.producer = Some(producer);
                match made {
                    Ok(()) => {
                        self.rouse(state);
                        return Ok(sequence);
                    }
                    Err(lack) => lack,
                }
            };
            self.make_way(lack).await.map_err(|error| match error {
                AppendError::NoRoom(failure) => TruncateError::NoRoom(failure),
                AppendError::Poisoned(failure) => TruncateError::Poisoned(failure),
                _ => TruncateError::Closed,
            })?;
        }
    }

    /// Waits until all that was accepted is durable and nothing is in flight; nobody accepts any more.
    async fn settle(&self) -> Result<(), Arc<Failure>> {
        if planted!(self.options.plants, WalTruncateUnsynced) {
            let sequence = self.lock().accepted().sequence;
            return self.wait(Want::Written(sequence)).await;
        }
        loop {
            let sequence = self.lock().accepted().sequence;
            self.wait(Want::Durable(sequence)).await?;
            self.drain().await;
            let seen = {
                let state = self.lock();
                if state.write.is_idle() && state.sync.is_idle() {
                    return Ok(());
                }
                self.gates.space.seq()
            };
            self.gates.space.wait(seen).await;
        }
    }

    /// Finds the frame that holds `lsn`, or the end of the log.
    async fn find_cut(&self, lsn: Lsn) -> Result<Cut, ReadError> {
        let (segment, mut next) = {
            let state = self.lock();
            let below = state.members.partition_point(|member| member.base_lsn <= lsn.0);
            // The last member that begins at or below it; a log has one at least.
            let member = &state.members[below.saturating_sub(1)];
            (member.segment.clone(), member.base_lsn)
        };
        let io = |source| ReadError::Io { file: segment.name().to_string(), source };
        let file = segment.open(&self.dir).await.map_err(io)?;
        let mut scanner = Scanner::new(file, &segment, Window::default()).await.map_err(io)?;
        let (mut at, mut end_crc) = (FIRST_FRAME_OFFSET, 0);
        loop {
            let corrupt = || ReadError::Corrupt { file: segment.name().to_string(), offset: at };
            let cut = |carried, base_lsn| Cut { generation: segment.generation(), end: at, end_crc, carried, base_lsn };
            if next == lsn.0 && at > FIRST_FRAME_OFFSET {
                return Ok(cut(None, next));
            }
            let found = scanner.frame(at).await.map_err(io)?.map_err(|_| corrupt())?;
            let count = match found.header.kind {
                FrameKind::Record => 1,
                FrameKind::Batch => u64::from(Batch::count(scanner.body(&found)).ok_or_else(corrupt)?),
                FrameKind::Start | FrameKind::Seal | FrameKind::Mark | FrameKind::Filler => 0,
            };
            if next + count > lsn.0 {
                let body = scanner.in_window(&found).shared();
                let kept = Batch::new(&body).take((lsn.0 - next) as usize);
                let kept = kept.map(|range| Some(&body[range?])).collect::<Option<Vec<_>>>().ok_or_else(corrupt)?;
                let mut carried = Vec::new();
                encode_batch_body(&mut carried, kept);
                return Ok(cut(Some(carried.into()), next));
            }
            (at, end_crc, next) = (found.end(), found.crc, next + count);
        }
    }

    /// Begins the job that cuts; `None` if the spare is gone meanwhile.
    fn begin_truncate(&self, lsn: Lsn, cut: &Cut, needed: u64) -> Option<Worker<E>> {
        let state = &mut *self.lock();
        if !state.has_spare(needed) || !state.write.is_idle() {
            return None;
        }
        let spare = state.spares.pop_front()?;
        let witness = match state.spares.pop_front() {
            Some(second) => Witness::Restate(second),
            None => {
                let slot = state.take_slot();
                Witness::Create(Segment::new(slot, state.next_identity(&self.options, None), &self.options.plants))
            }
        };
        state.write.begin(Job::Truncate(TruncateJob {
            env: self.env.clone(),
            dir: self.dir.clone(),
            plants: self.options.plants.clone(),
            floor_lsn: state.floor_lsn,
            next_lsn: lsn.0,
            cut: cut.clone(),
            spare,
            witness,
        }))
    }
}

/// The file that states the cut beside the new segment, so that losing that is noticed.
enum Witness<D: Dir> {
    Restate(Spare<D>),
    Create(Segment<D>),
}

/// Starts a segment behind the cut.
pub(super) struct TruncateJob<E: Env> {
    env: E,
    dir: E::Dir,
    plants: Plants,
    floor_lsn: u64,
    next_lsn: u64,
    cut: Cut,
    spare: Spare<E::Dir>,
    witness: Witness<E::Dir>,
}

/// What a cut leaves.
pub(super) struct Truncated<D: Dir> {
    next_lsn: u64,
    base_lsn: u64,
    /// The segment that keeps its beginning, and the end of that.
    generation: u64,
    cut_end: u64,
    /// The new segment and where it ends.
    spare: Spare<D>,
    end: u64,
    crc: u32,
    witness: Option<Spare<D>>,
    pub(super) result: Result<(), Failure>,
}

impl<E: Env> TruncateJob<E> {
    pub(super) async fn run(self) -> Truncated<E::Dir> {
        let TruncateJob { env, dir, plants, floor_lsn, next_lsn, cut, spare, witness } = self;
        let mut truncated = Truncated {
            next_lsn,
            base_lsn: cut.base_lsn,
            generation: cut.generation,
            cut_end: cut.end,
            spare,
            end: 0,
            crc: 0,
            witness: None,
            result: Ok(()),
        };
        let segment = &truncated.spare.segment;
        let seed = segment.seed();
        let mut carried = Vec::new();
        let first = FIRST_FRAME_OFFSET + frame_bytes(START_BODY_BYTES);
        let mut crcs = crc32fast::Hasher::new();
        if let Some(body) = &cut.carried {
            let crc = Frame::encode(&mut carried, seed, first, FrameKind::Batch, 0, NO_CLAIM, |out| {
                out.extend_from_slice(body);
            });
            crcs.update(&crc.to_le_bytes());
        }
        let predecessor = Position { generation: cut.generation, offset: cut.end };
        let start = Start {
            base_lsn: cut.base_lsn,
            predecessor,
            predecessor_crc: cut.end_crc,
            durable: predecessor,
            carried_frames: u32::from(cut.carried.is_some()),
            carried_crc: crcs.finalize(),
            floor_lsn,
            wall_ns: env.wall_ns(),
            ..Start::default()
        };
        let mut bytes = Vec::new();
        Frame::encode(&mut bytes, seed, FIRST_FRAME_OFFSET, FrameKind::Start, 0, NO_CLAIM, |out| start.encode(out));
        bytes.extend_from_slice(&carried);
        let ordinal = (next_lsn - cut.base_lsn) as u32;
        let filled_from = FIRST_FRAME_OFFSET + bytes.len() as u64;
        encode_filler(&mut bytes, seed, ordinal, filled_from, None);
        let at = FIRST_FRAME_OFFSET + bytes.len() as u64;
        let mut mark = Vec::new();
        truncated.crc = encode_mark(&mut mark, seed, ordinal, at, Some(at), Mark::Synced);
        truncated.end = at + mark.len() as u64;
        let written = async {
            let file = segment.file().ok_or_else(|| io::Error::other("its file isn't open"))?;
            write_all_at(file, &bytes, FIRST_FRAME_OFFSET).await?;
            interruptible(|| file.sync_data()).await?;
            write_all_at(file, &mark, at).await?;
            interruptible(|| file.sync_data()).await
        };
        truncated.result = written.await.map_err(|error| Failure::new("truncate", segment.name(), &error));
        if truncated.result.is_ok() {
            debug!(file = %segment.name(), next_lsn, cut_generation = cut.generation, cut_end = cut.end, "truncated");
            let durable = segment.position(truncated.end);
            match witness.state(&dir, durable, &plants).await {
                Ok(spare) => truncated.witness = Some(spare),
                Err(failure) => truncated.result = Err(failure),
            }
        }
        truncated
    }
}

impl<D: Dir> Witness<D> {
    async fn state(self, dir: &D, durable: Position, plants: &Plants) -> Result<Spare<D>, Failure> {
        match self {
            Witness::Restate(spare) if planted!(plants, WalTruncateWithoutWitness) => Ok(spare),
            Witness::Restate(spare) => match restate(&spare.segment, durable).await {
                Ok(()) => Ok(spare),
                Err(error) => Err(Failure::new("write", spare.segment.name(), &error)),
            },
            Witness::Create(planned) => {
                let stated = if planted!(plants, WalTruncateWithoutWitness) { Position::default() } else { durable };
                let identity = Identity { durable: stated, ..planned.identity.clone() };
                create(dir, Segment::new(planned.slot, identity, plants), plants).await
            }
        }
    }
}

impl<E: Env> State<E> {
    fn check_range(&self, lsn: Lsn) -> Result<(), TruncateError> {
        if let Some(failure) = &self.failure {
            return Err(TruncateError::Poisoned(failure.clone()));
        }
        if self.closed {
            return Err(TruncateError::Closed);
        }
        let (first, next) = (Lsn(self.floor_lsn), Lsn(self.accepted().lsn));
        if (first..=next).contains(&lsn) { Ok(()) } else { Err(TruncateError::OutOfRange { lsn, first, next }) }
    }

    /// Gives up the segments that lie wholly below the floor. The one behind them is durable: else it could be lost, and
    /// the log with it.
    pub(super) fn release(&mut self) {
        let released = self.members.iter().skip(1).take_while(|member| {
            member.base_lsn <= self.floor_lsn && member.segment.generation() <= self.durable.position.generation
        });
        let released = released.count();
        self.released.extend(self.members.drain(..released).map(|member| member.segment));
    }

    /// Takes in a cut. Returns whether it failed.
    pub(super) fn truncated(&mut self, truncated: Truncated<E::Dir>) -> Result<(), Failure> {
        let Truncated { next_lsn, base_lsn, generation, cut_end, spare, end, crc, witness, result } = truncated;
        self.access = Access::Shared;
        self.wake_keeper = true;
        result?;
        let kept = self.members.iter().position(|member| member.segment.generation() == generation);
        let cut = self.members.drain(kept.map_or(0, |kept| kept + 1)..);
        self.released.extend(cut.map(|member| member.segment));
        if let Some(member) = self.members.last_mut() {
            member.end = cut_end;
            member.index.retain(|(_, offset)| *offset < cut_end);
        }
        let Spare { segment, length } = spare;
        self.members.push(Member::new(base_lsn, segment.clone(), length));
        let reached =
            Watermark { lsn: next_lsn, sequence: self.published.sequence + 1, position: segment.position(end) };
        (self.published, self.written, self.durable) = (reached, reached, reached);
        self.written_segment = segment.clone();
        self.tail_length = length;
        if let Some(producer) = &mut self.producer {
            producer.go_on(Tail { segment, base_lsn, offset: end, length, crc }, reached);
        }
        self.marked_sequence = reached.sequence;
        self.cuts += 1;
        if let Some(witness) = witness {
            self.put_spare(witness);
        }
        self.stats.rotations += 1;
        Ok(())
    }
}
