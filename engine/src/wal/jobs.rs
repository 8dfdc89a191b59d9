//! What is asked of the machine while the log is open: one write, one sync, one preparation at a time. A job owns all that
//! it works on, so that it can be polled on by whoever waits when its driver goes away.

use std::{collections::VecDeque, io, sync::Arc};

use tracing::{debug, trace};

use crate::{
    codec::{FIRST_FRAME_OFFSET, Frame, FrameKind, Identity, NO_CLAIM},
    env::{Dir, Env, File, OpenMode, interruptible, write_all_at},
    plant::{Plants, planted},
    ring::Filled,
    segment::{Segment, replace_identity, sync_new, sync_written, write_zeros},
    worker,
};

use super::{
    error::Failure,
    log::Spare,
    producer::{Opening, Placement, Watermark},
    truncate::{TruncateJob, Truncated},
};

/// A job.
pub(super) enum Job<E: Env> {
    Write(WriteJob<E>),
    Sync(SyncJob<E>),
    Prepare(PrepareJob<E>),
    Truncate(TruncateJob<E>),
}

/// How a job ended.
pub(super) enum Done<E: Env> {
    Written(Written<E>),
    Synced { upto: Watermark, result: Result<(), Failure> },
    Prepared(Prepared<E::Dir>),
    Truncated(Truncated<E::Dir>),
}

impl<E: Env> worker::Job for Job<E> {
    type Done = Done<E>;

    async fn run(self) -> Done<E> {
        match self {
            Job::Write(job) => Done::Written(job.run().await),
            Job::Sync(job) => Done::Synced { upto: job.upto, result: job.run().await },
            Job::Prepare(job) => Done::Prepared(job.run().await),
            Job::Truncate(job) => Done::Truncated(job.run().await),
        }
    }
}

/// One write: the pages in order, with the rotations among them.
pub(super) struct WriteJob<E: Env> {
    pub(super) env: E,
    pub(super) plants: Plants,
    pub(super) pages: VecDeque<Filled<Placement<E::Dir>>>,
    /// The segment that was written last.
    pub(super) current: Arc<Segment<E::Dir>>,
    pub(super) upto: Watermark,
    /// The one page is to be durable when it is written.
    pub(super) synced_write: bool,
}

pub(super) struct Written<E: Env> {
    pub(super) pages: VecDeque<Filled<Placement<E::Dir>>>,
    pub(super) upto: Watermark,
    /// Everything up to here was synced on the way.
    pub(super) synced: Option<Watermark>,
    pub(super) syncs: u64,
    pub(super) bytes: u64,
    pub(super) result: Result<(), Failure>,
}

impl<E: Env> WriteJob<E> {
    async fn run(mut self) -> Written<E> {
        let mut written =
            Written { pages: VecDeque::new(), upto: self.upto, synced: None, syncs: 0, bytes: 0, result: Ok(()) };
        written.result = self.write(&mut written).await;
        written.pages = self.pages;
        written
    }

    async fn write(&mut self, written: &mut Written<E>) -> Result<(), Failure> {
        for Filled { tag: page, bytes, .. } in &mut self.pages {
            let name = || page.segment.name();
            if let Some(Opening { start, before }) = &mut page.opening {
                // Nothing of a segment is written before all of its predecessor is durable.
                if !planted!(self.plants, WalRotateOldUnsynced)
                    && !planted!(self.plants, UpstreamL25LastSegment)
                    && let Some(file) = self.current.file()
                {
                    let synced = interruptible(|| sync_written(file, &self.plants)).await;
                    synced.map_err(|error| Failure::new("sync", self.current.name(), &error))?;
                    written.syncs += 1;
                }
                written.synced = Some(*before);
                debug!(file = %name(), base_lsn = start.base_lsn, "rotated");
                start.wall_ns = self.env.wall_ns();
                let mut frame = Vec::new();
                let seed = page.segment.seed();
                Frame::encode(&mut frame, seed, FIRST_FRAME_OFFSET, FrameKind::Start, 0, NO_CLAIM, |out| {
                    start.encode(out);
                });
                bytes[..frame.len()].copy_from_slice(&frame);
                self.current = page.segment.clone();
            }
            let Some(file) = page.segment.file() else {
                return Err(Failure::new("write", name(), &io::Error::other("its file isn't open")));
            };
            let result = if self.synced_write {
                interruptible(|| file.write_synced(bytes, page.offset)).await
            } else {
                write_all_at(file, bytes, page.offset).await
            };
            result.map_err(|error| Failure::new("write", name(), &error))?;
            written.bytes += bytes.len() as u64;
        }
        if self.synced_write {
            written.synced = Some(self.upto);
            written.syncs += 1;
        }
        Ok(())
    }
}

/// One sync of the segment that was written last. A rotation has synced every earlier one.
pub(super) struct SyncJob<E: Env> {
    pub(super) segment: Arc<Segment<E::Dir>>,
    pub(super) upto: Watermark,
    pub(super) plants: Plants,
}

impl<E: Env> SyncJob<E> {
    async fn run(&self) -> Result<(), Failure> {
        let result = match self.segment.file() {
            Some(file) => interruptible(|| sync_written(file, &self.plants)).await,
            None => Err(io::Error::other("its file isn't open")),
        };
        trace!(slot = self.segment.slot, lsn = self.upto.lsn, ok = result.is_ok(), "sync");
        result.map_err(|error| Failure::new("sync", self.segment.name(), &error))
    }
}

/// Makes a segment ready to be started, or takes one away.
pub(super) struct PrepareJob<E: Env> {
    pub(super) dir: E::Dir,
    pub(super) plants: Plants,
    pub(super) task: Task<E::Dir>,
    /// Prepared bytes that are wanted.
    pub(super) length: u64,
}

/// What a preparation does.
pub(super) enum Task<D: Dir> {
    /// Creates a file.
    Create(Segment<D>),
    /// Gives a released file a new identity.
    Recycle { old: Segment<D>, identity: Identity },
    /// Fills a spare further with zeros.
    Extend(Spare<D>),
    /// Removes a released file.
    Remove(Segment<D>),
}

pub(super) struct Prepared<D: Dir> {
    /// The spare, ready or as far as it got.
    pub(super) spare: Option<Spare<D>>,
    pub(super) recycled: bool,
    pub(super) removed: bool,
    pub(super) result: Result<(), Failure>,
}

impl<E: Env> PrepareJob<E> {
    async fn run(self) -> Prepared<E::Dir> {
        let PrepareJob { dir, plants, task, length } = self;
        let recycled = matches!(task, Task::Recycle { .. });
        let removed = matches!(task, Task::Remove(_));
        let spare = match task {
            Task::Create(segment) => create(&dir, segment, &plants).await.map(Some),
            Task::Recycle { old, identity } => recycle(&dir, old, identity, &plants).await.map(Some),
            Task::Extend(spare) => Ok(Some(spare)),
            Task::Remove(segment) => remove(&dir, &segment).await.map(|()| None),
        };
        let (spare, result) = match spare {
            Ok(Some(spare)) if spare.length < length => extend(&dir, spare, length, &plants).await,
            Ok(spare) => (spare, Ok(())),
            Err(failure) => (None, Err(failure)),
        };
        Prepared { recycled: recycled && spare.is_some(), removed, spare, result }
    }
}

/// Creates the file of a spare, with nothing in it but its identity. What fails leaves a file that the next open removes.
pub(super) async fn create<D: Dir>(dir: &D, segment: Segment<D>, plants: &Plants) -> Result<Spare<D>, Failure> {
    let head = segment.identity.head();
    match segment.create(dir, &head, head.len() as u64, plants).await {
        Ok(()) => Ok(Spare { segment: Arc::new(segment), length: head.len() as u64 }),
        Err(error) => {
            segment.discard(dir).await;
            Err(Failure::new("create", segment.name(), &error))
        }
    }
}

/// Gives a file that holds nothing any more a new identity. Its content stays, and never passes under the new one. Only for
/// files that were part of the log: their names are durable. Of what else open finds in the directory that isn't known, even
/// if the directory is synced again: a sync of it may have failed before.
async fn recycle<D: Dir>(dir: &D, old: Segment<D>, identity: Identity, plants: &Plants) -> Result<Spare<D>, Failure> {
    let segment = Segment::new(old.slot, identity, plants);
    let name = segment.name().text();
    let replaced = async {
        let file = interruptible(|| dir.open(&name, OpenMode::Write)).await?;
        let length = interruptible(|| file.len()).await?;
        replace_identity(&file, &segment.identity).await?;
        segment.attach(file);
        io::Result::Ok(length)
    };
    match replaced.await {
        Ok(length) => {
            debug!(file = name, generation = segment.generation(), "recycled");
            Ok(Spare { segment: Arc::new(segment), length })
        }
        // Which identity it has is unknown now, and nothing needs it: the next open removes it.
        Err(error) => Err(Failure::new("recycle", name, &error)),
    }
}

/// Fills a spare with zeros up to `length`. Where only the zeros fail, the spare stays as long as it was; where the sync
/// fails, nobody knows what it holds, so it goes.
async fn extend<D: Dir>(
    dir: &D,
    spare: Spare<D>,
    length: u64,
    plants: &Plants,
) -> (Option<Spare<D>>, Result<(), Failure>) {
    let failure = |error| Failure::new("extend", spare.segment.name(), &error);
    let Some(file) = spare.segment.file() else {
        return (None, Err(failure(io::Error::other("its file isn't open"))));
    };
    if let Err(error) = write_zeros(file, spare.length, length).await {
        let result = Err(failure(error));
        return (Some(spare), result);
    }
    if let Err(error) = interruptible(|| sync_new(file, plants)).await {
        spare.segment.discard(dir).await;
        return (None, Err(failure(error)));
    }
    (Some(Spare { length, ..spare }), Ok(()))
}

async fn remove<D: Dir>(dir: &D, segment: &Segment<D>) -> Result<(), Failure> {
    let name = segment.name().text();
    let removed = interruptible(|| dir.remove(&name)).await;
    removed.map_err(|error| Failure::new("remove", name, &error))
}
