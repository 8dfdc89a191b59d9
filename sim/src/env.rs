//! The engine's machine, simulated: the disk under it, virtual time between a call and its effect, faults, crashes.
//!
//! - A call is accepted at its first poll and belongs to the machine from then on. It takes effect when its latency is
//!   over, also if its future was dropped in between; only a crash decides otherwise.
//! - One microsecond of the engine is one millisecond of madsim, whose shortest sleep that is.
//! - When the machine [halts](Machine::halt), every call stays pending for ever. Handles of a process that was killed are
//!   inert: what is left of its futures can neither touch the disk nor draw anything.
//! - [`SimEnv::still`] is a machine without time and faults, on which every call is ready at once: oracles open a log on a
//!   crash image with it, inside or outside of a simulation. With [`ImageEnv`] they only read one.

mod call;
mod image;
mod machine;

use std::{
    future::Future,
    io,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use engine::env::{Dir, Entry, Env, File, OpenMode};

use self::call::{Core, Yield};
pub use self::{
    call::run_still,
    image::{ImageDir, ImageEnv},
    machine::{Machine, MachineOptions},
};
use crate::disk::{DirId, Disk, Done, FileId, Op, owned};

/// The machine as one process sees it, from its start until it is killed.
#[derive(Clone, Debug)]
pub struct SimEnv {
    core: Core,
}

/// A directory of a [`SimEnv`].
#[derive(Clone, Debug)]
pub struct SimDir {
    core: Core,
    id: DirId,
}

/// An open file of a [`SimEnv`]; closed when dropped.
#[derive(Debug)]
pub struct SimFile {
    core: Core,
    id: FileId,
}

/// The lock on a directory of a [`SimEnv`]; released when dropped.
#[derive(Debug)]
pub struct SimLock {
    core: Core,
    dir: DirId,
}

impl SimEnv {
    /// A private machine on `disk`, without latency and faults: every future is ready at its first poll. Its random bytes
    /// follow from the disk's [age](Disk::age), so that two recoveries of one line of images differ in them.
    #[must_use]
    pub fn still(disk: Disk) -> SimEnv {
        Machine::still(disk).env()
    }

    /// The machine that this process runs on.
    #[must_use]
    pub fn machine(&self) -> Machine {
        Machine::of(&self.core)
    }

    /// The disk as it is now.
    #[must_use]
    pub fn disk(&self) -> Disk {
        self.machine().fork()
    }

    /// How many calls the machine has accepted.
    #[must_use]
    pub fn io_count(&self) -> u64 {
        self.machine().io_count()
    }
}

/// A task of a [`SimEnv`]; it ends with its process at the latest.
#[derive(Debug)]
pub struct SimTask(Option<madsim::task::JoinHandle<()>>);

impl Future for SimTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Some(task) => Pin::new(task).poll(context).map(drop),
            None => Poll::Ready(()),
        }
    }
}

impl Env for SimEnv {
    type Dir = SimDir;
    type Task = SimTask;

    async fn dir(&self, path: &Path, create: bool) -> io::Result<SimDir> {
        match self.core.call(Op::Dir { path: path.into(), create }, &mut []).await? {
            Done::Dir(id) => Ok(SimDir { core: self.core.clone(), id }),
            other => unexpected(&other),
        }
    }

    fn wall_ns(&self) -> i64 {
        self.core.lock().wall_ns()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.core.lock().now_ns())
    }

    fn fill_random(&self, buf: &mut [u8]) {
        self.core.lock().fill_random(buf);
    }

    fn yield_now(&self) -> impl Future<Output = ()> + Send {
        Yield::new(&self.core)
    }

    /// On a still machine nothing runs in the background: the task has ended at once, without having begun.
    fn spawn(&self, _: &'static str, future: impl Future<Output = ()> + Send + 'static) -> io::Result<SimTask> {
        Ok(SimTask((!self.core.lock().still()).then(|| madsim::task::spawn(future))))
    }

    async fn sleep(&self, duration: Duration) {
        let still = self.core.lock().still();
        if !still {
            // An engine microsecond is a madsim millisecond; shorter sleeps take one.
            let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).clamp(1, LONGEST_SLEEP_US);
            madsim::time::sleep(Duration::from_millis(us)).await;
        }
    }
}

/// An engine hour; no run lasts as long.
const LONGEST_SLEEP_US: u64 = 3_600_000_000;

impl Dir for SimDir {
    type File = SimFile;
    type Lock = SimLock;

    async fn lock(&self) -> io::Result<SimLock> {
        self.core.call(Op::Lock { dir: self.id }, &mut []).await?;
        Ok(SimLock { core: self.core.clone(), dir: self.id })
    }

    async fn open(&self, name: &str, mode: OpenMode) -> io::Result<SimFile> {
        match self.core.call(Op::Open { dir: self.id, name: shared(name), mode }, &mut []).await? {
            Done::File(id) => Ok(SimFile { core: self.core.clone(), id }),
            other => unexpected(&other),
        }
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let op = Op::Rename { dir: self.id, from: shared(from), to: shared(to) };
        self.core.call(op, &mut []).await.map(drop)
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        self.core.call(Op::Remove { dir: self.id, name: shared(name) }, &mut []).await.map(drop)
    }

    async fn list(&self) -> io::Result<Vec<Entry>> {
        match self.core.call(Op::List { dir: self.id }, &mut []).await? {
            Done::Entries(entries) => Ok(entries),
            other => unexpected(&other),
        }
    }

    async fn sync(&self) -> io::Result<()> {
        self.core.call(Op::SyncDir { dir: self.id }, &mut []).await.map(drop)
    }
}

impl File for SimFile {
    async fn len(&self) -> io::Result<u64> {
        self.core.call(Op::Len { file: self.id }, &mut []).await.and_then(count)
    }

    async fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let op = Op::Read { file: self.id, offset, length: buf.len() as u64 };
        self.core.call(op, buf).await.and_then(count).map(|count| count as usize)
    }

    async fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let op = Op::Write { file: self.id, offset, data: owned(buf) };
        self.core.call(op, &mut []).await.and_then(count).map(|count| count as usize)
    }

    async fn write_synced(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let op = Op::WriteSynced { file: self.id, offset, data: owned(buf) };
        self.core.call(op, &mut []).await.map(drop)
    }

    async fn sync_data(&self) -> io::Result<()> {
        self.core.call(Op::SyncData { file: self.id }, &mut []).await.map(drop)
    }

    async fn sync_all(&self) -> io::Result<()> {
        self.core.call(Op::SyncAll { file: self.id }, &mut []).await.map(drop)
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.core.call(Op::SetLen { file: self.id, len }, &mut []).await.map(drop)
    }

    async fn sync_pages(&self) -> io::Result<()> {
        self.core.call(Op::SyncPages { file: self.id }, &mut []).await.map(drop)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.core.release(|disk| disk.close(self.id));
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.core.release(|disk| disk.unlock(self.dir));
    }
}

fn shared(name: &str) -> crate::disk::Name {
    std::ffi::OsStr::new(name).into()
}

fn count(done: Done) -> io::Result<u64> {
    match done {
        Done::Count(count) => Ok(count),
        other => unexpected(&other),
    }
}

/// The disk answers each operation with its own kind of result.
fn unexpected<T>(done: &Done) -> io::Result<T> {
    unreachable!("the disk answered {done:?} to another question")
}

#[cfg(test)]
mod tests;
