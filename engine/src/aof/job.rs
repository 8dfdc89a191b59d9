//! What is asked of the machine while a log is open: one write and one sync at a time. A job owns all that it works on.

use std::{collections::VecDeque, io::IoSlice, sync::Arc};

use tracing::{debug, trace};

use crate::{
    env::{Dir, Env, File, interruptible, write_all_vectored_at},
    failure::Failure,
    plant::{Plants, planted},
    ring::Filled,
    worker,
};

use super::{
    files::{self, Names, Room},
    manifest::{Entry, Manifest},
    producer::{Head, Page},
    sums,
};

/// So many pages are written by one call.
const MOST_AT_ONCE: usize = 8;

/// A job.
#[allow(clippy::large_enum_variant, reason = "it is moved once per write; large only with planted bugs")]
pub(super) enum Job<E: Env> {
    Write(WriteJob<E>),
    Sync(SyncJob<E>),
}

/// How a job ended.
#[expect(clippy::large_enum_variant, reason = "it is moved once per write; a box would be an allocation each time")]
pub(super) enum Done<E: Env> {
    Written(Written<E>),
    Synced { job: SyncJob<E>, result: Result<(), Failure> },
}

impl<E: Env> worker::Job for Job<E> {
    type Done = Done<E>;

    async fn run(self) -> Done<E> {
        match self {
            Job::Write(job) => Done::Written(job.run().await),
            Job::Sync(job) => {
                let result = job.run().await;
                Done::Synced { job, result }
            }
        }
    }
}

/// Where the next byte goes.
pub(super) struct Target<E: Env> {
    pub(super) file: Arc<<E::Dir as Dir>::File>,
    pub(super) name: Arc<str>,
    /// In bytes.
    pub(super) offset: u64,
    /// Where the last batch ends that is whole, in bytes.
    pub(super) whole: u64,
    /// For the checksums of its batches, where they have some.
    pub(super) salt: Option<u32>,
    pub(super) room: Room,
}

impl<E: Env> Target<E> {
    /// The end of an increment that is whole and has so many bytes.
    pub(super) fn end_of(entry: &Entry, file: <E::Dir as Dir>::File, bytes: u64) -> Target<E> {
        let (name, room) = (entry.name.as_str().into(), Room::To(bytes));
        Target { file: Arc::new(file), name, offset: bytes, whole: bytes, salt: entry.salt, room }
    }

    /// Nothing is appended to it any more.
    pub(super) async fn give_back_room(&self) {
        self.room.give_back(&*self.file, self.offset).await;
    }
}

impl<E: Env> Clone for Target<E> {
    fn clone(&self) -> Self {
        Target {
            file: self.file.clone(),
            name: self.name.clone(),
            offset: self.offset,
            whole: self.whole,
            salt: self.salt,
            room: self.room,
        }
    }
}

/// One write: the pages in order, and the switch to a new increment where one of them says so.
pub(super) struct WriteJob<E: Env> {
    pub(super) dir: E::Dir,
    pub(super) names: Arc<Names>,
    pub(super) plants: Plants,
    pub(super) manifest: Manifest,
    pub(super) target: Target<E>,
    pub(super) pages: VecDeque<Filled<Page>>,
    /// How far the log reaches before them.
    pub(super) written: u64,
    /// How far the present increment is known to be durable: the end of a batch.
    pub(super) durable: u64,
    /// For a new increment.
    pub(super) salt: Option<u32>,
    /// The log is being switched on: this is the increment that is collected.
    pub(super) collecting: Option<Entry>,
    /// The old increment was synced ahead of the switch.
    pub(super) ahead: bool,
}

/// A switch to a new increment.
pub(super) struct Switched {
    /// It names the new increment and the length of the old one.
    pub(super) manifest: Manifest,
    /// Bytes of the old one.
    pub(super) bytes: u64,
    /// While the log is being switched on no manifest names the new one either.
    pub(super) collecting: Option<Entry>,
}

/// How a write ended.
pub(super) struct Written<E: Env> {
    /// Pages that are done with.
    pub(super) done: VecDeque<Filled<Page>>,
    /// Pages that are not.
    pub(super) left: VecDeque<Filled<Page>>,
    pub(super) target: Target<E>,
    /// How far the log is written.
    pub(super) upto: u64,
    /// The new increment, or why there is none.
    pub(super) switched: Option<Result<Switched, Failure>>,
    /// How far the log is durable, if the switch synced it.
    pub(super) synced: Option<u64>,
    pub(super) result: Result<(), NotWritten>,
}

/// Why a write failed.
pub(super) struct NotWritten {
    pub(super) failure: Failure,
    /// Trying again is wrong: what is durable is unknown.
    pub(super) fatal: bool,
}

impl<E: Env> WriteJob<E> {
    async fn run(mut self) -> Written<E> {
        let mut written = Written {
            done: VecDeque::new(),
            left: VecDeque::new(),
            target: self.target.clone(),
            upto: self.written,
            switched: None,
            synced: None,
            result: Ok(()),
        };
        // Taken whole: in a calm run the queue goes back as it came, and nothing is allocated.
        let mut count = 0;
        let mut pages = std::mem::take(&mut self.pages);
        while count < pages.len() && written.result.is_ok() {
            let ended = if pages[count].tag.head == Head::Switch {
                written.result = switch(&mut self, &mut written).await;
                usize::from(written.result.is_ok())
            } else {
                self.write_run(&mut pages, count, &mut written).await
            };
            for page in pages.range(count..count + ended) {
                written.target.offset += page.bytes.len() as u64;
                if page.tag.ends {
                    written.target.whole = written.target.offset;
                }
                written.upto = page.tag.upto;
            }
            count += ended;
        }
        written.left = pages.split_off(count);
        written.done = pages;
        if written.result.is_err() {
            // So that no part of a command stays behind, should the process end now. If this fails too, the next open
            // finds a torn tail, which is no worse.
            let Target { file, offset, .. } = &written.target;
            let _ = interruptible(|| file.set_len(*offset)).await;
        }
        written
    }

    /// Writes the pages from number `first` on, up to a switch, as one. Returns how many of them are written.
    async fn write_run(&self, pages: &mut VecDeque<Filled<Page>>, first: usize, written: &mut Written<E>) -> usize {
        let Target { file, name, offset, salt, room, .. } = &mut written.target;
        let (salt, mut end, mut many) = (salt.unwrap_or_default(), *offset, 0);
        for page in pages.range_mut(first..).take(MOST_AT_ONCE).take_while(|page| page.tag.head != Head::Switch) {
            match page.tag.head {
                Head::Batch => sums::seal(&mut page.bytes, salt, end, self.durable),
                Head::Large(bytes, crc) => sums::seal_part(&mut page.bytes, salt, end, self.durable, (bytes, crc)),
                Head::Plain | Head::Switch => {}
            }
            end += page.bytes.len() as u64;
            many += 1;
        }
        room.keep(&**file, *offset, end).await;
        let pages = pages.range(first..first + many);
        let mut bytes = [IoSlice::new(&[]); MOST_AT_ONCE];
        bytes.iter_mut().zip(pages.clone()).for_each(|(bytes, page)| *bytes = IoSlice::new(&page.bytes));
        let (mut done, result) = write_all_vectored_at(&**file, &mut bytes[..many], *offset).await;
        written.result =
            result.map_err(|error| NotWritten { failure: Failure::new("write", name, &error), fatal: false });
        let whole = |page: &&Filled<Page>| match done.checked_sub(page.bytes.len()) {
            Some(left) => {
                done = left;
                true
            }
            None => false,
        };
        pages.take_while(whole).count()
    }
}

/// Goes on in a new increment. The old one is durable before the manifest names another, and that before the first byte.
async fn switch<E: Env>(job: &mut WriteJob<E>, written: &mut Written<E>) -> Result<(), NotWritten> {
    if let Some(entry) = job.collecting.take() {
        collect_anew(job, written, Entry { salt: job.salt, ..entry }).await;
        return Ok(());
    }
    let old = &written.target;
    old.give_back_room().await;
    let trusted = job.ahead && planted!(job.plants, RewriteAheadTrusted);
    if !trusted && !planted!(job.plants, RewriteNewincrOldUnsynced) {
        let synced = interruptible(|| old.file.sync_data()).await;
        synced.map_err(|error| NotWritten { failure: Failure::new("sync", &old.name, &error), fatal: true })?;
        written.synced = Some(written.upto);
    }
    let entry = Entry { salt: job.salt, ..job.names.next_increment(&job.manifest) };
    let file = match files::create(&job.dir, &entry.name).await {
        Ok(file) => file,
        // Then everything goes on where it was; only the rewrite has failed.
        Err(failure) => {
            written.switched = Some(Err(failure));
            return Ok(());
        }
    };
    let mut manifest = job.manifest.clone();
    manifest.summed = true;
    if let Some(old) = manifest.increments.last_mut() {
        old.synced = Some(written.target.offset);
    }
    manifest.increments.push(entry.clone());
    if let Err(error) = files::replace_manifest(&job.dir, &job.names, &manifest, &job.plants).await {
        if error.unknown {
            return Err(NotWritten { failure: error.failure, fatal: true });
        }
        let _ = job.dir.remove(&entry.name).await;
        written.switched = Some(Err(error.failure));
        return Ok(());
    }
    debug!(file = %entry.name, "switched");
    written.switched = Some(Ok(Switched { manifest, bytes: written.target.offset, collecting: None }));
    written.target = Target::end_of(&entry, file, 0);
    job.durable = 0;
    Ok(())
}

/// The log is being switched on, and its first base is begun again: what was collected for the one before is in the new one.
async fn collect_anew<E: Env>(job: &mut WriteJob<E>, written: &mut Written<E>, entry: Entry) {
    let created = files::create(&job.dir, &job.names.temporary_increment()).await;
    written.switched = Some(created.map(|file| {
        written.target = Target::end_of(&entry, file, 0);
        job.durable = 0;
        Switched { manifest: job.manifest.clone(), bytes: 0, collecting: Some(entry) }
    }));
}

/// One sync of the present increment; a switch has synced every earlier one.
pub(super) struct SyncJob<E: Env> {
    pub(super) target: Target<E>,
    pub(super) upto: u64,
}

impl<E: Env> SyncJob<E> {
    async fn run(&self) -> Result<(), Failure> {
        let result = interruptible(|| self.target.file.sync_data()).await;
        trace!(file = %self.target.name, upto = self.upto, ok = result.is_ok(), "sync");
        result.map_err(|error| Failure::new("sync", &self.target.name, &error))
    }
}
