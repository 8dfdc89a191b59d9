//! Everything the engine asks of the machine, with what survives a crash and what doesn't.
//!
//! The engine opens no file, reads no clock and draws no randomness except through these traits.
//! [`OsEnv`] is the real machine; the simulator brings another one and puts a storm into it. Both pass one
//! conformance suite.
//!
//! # Two kinds of crash
//! A **process kill** keeps everything that was given to the operating system. A **power cut** keeps only what a
//! completed sync covers; whatever was not covered may survive *or* vanish, each piece by itself, in any order.
//!
//! # Common to all methods
//! - Dropping a future does not cancel an operation that was polled once: it may still happen, at any later moment.
//! - Any call may fail with [`std::io::ErrorKind::Interrupted`]; the caller retries (the engine does so with a bound).
//! - A future borrows its arguments only to read them at the first poll, or to fill them at the last one.

mod block_on;
mod os;
mod retry;

use std::{
    ffi::OsString,
    future::Future,
    io::{self, IoSlice},
    path::Path,
    time::Duration,
};

pub use block_on::block_on;
pub use os::{OsDir, OsEnv, OsFile, OsLock, OsTask};
pub(crate) use retry::{interruptible, read_at_most, write_all_at, write_all_vectored_at};

/// A machine: a file system, a wall clock and a source of randomness.
pub trait Env: Clone + Send + Sync + 'static {
    /// A directory of this machine.
    type Dir: Dir;
    /// A task that was spawned: ready when it has ended. Dropped early, it waits for the end where the machine can wait
    /// (a thread is joined), and else lets the task go on.
    type Task: Future<Output = ()> + Send + 'static;

    /// Opens the directory `path`; with `create`, creates its last component if it is missing and syncs the parent,
    /// so that the directory itself survives a power cut once this returns.
    ///
    /// # Errors
    /// `NotFound` (without `create`, or if the parent is missing), `NotADirectory`, `PermissionDenied`, or what the machine says.
    fn dir(&self, path: &Path, create: bool) -> impl Future<Output = io::Result<Self::Dir>> + Send;

    /// Nanoseconds since the Unix epoch. May jump either way: it is stored for people to read, never compared.
    fn wall_ns(&self) -> i64;

    /// Time since some moment in the past, on a clock that never jumps: the one that [`Env::sleep`] goes by.
    fn monotonic(&self) -> Duration;

    /// Fills `buf` with random bytes (seeded in the simulator).
    fn fill_random(&self, buf: &mut [u8]);

    /// Lets others run. Long scans call it; in the simulator it is a scheduling and crash point.
    fn yield_now(&self) -> impl Future<Output = ()> + Send;

    /// Runs `future` in the background, until it ends or the process dies. `name` is for people.
    ///
    /// # Errors
    /// What the machine says when it has no more threads to give.
    fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) -> io::Result<Self::Task>;

    /// Ready when at least `duration` has passed on a clock that never jumps. To be awaited only in a future that
    /// [`Env::spawn`] runs: other executors need not know how to wake it.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send;
}

/// How [`Dir::open`] opens a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading only.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A file that must not exist yet, for reading and writing; its name is durable only after [`Dir::sync`].
    CreateNew,
}

/// What a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// Anything else: a directory, a link, a socket.
    Other,
}

/// One entry of a directory listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name, as the machine has it; it need not be UTF-8.
    pub name: OsString,
    /// What it is.
    pub kind: EntryKind,
    /// Length in bytes (0 for anything but a file).
    pub len: u64,
}

/// A directory. Handles are cheap to clone and name the same directory.
pub trait Dir: Clone + Send + Sync + 'static {
    /// A file in it.
    type File: File;
    /// Holds the exclusive lock until dropped, or until the process dies.
    type Lock: Send + Sync + 'static;

    /// Takes the exclusive lock on the directory. Changes no byte in it.
    ///
    /// # Errors
    /// `WouldBlock` if another handle, here or in another process, holds it.
    fn lock(&self) -> impl Future<Output = io::Result<Self::Lock>> + Send;

    /// Opens a file by name. A file that is created is empty; neither its name nor its content is durable yet.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists` (`CreateNew`), `PermissionDenied`, `StorageFull`, or what the machine says.
    fn open(&self, name: &str, mode: OpenMode) -> impl Future<Output = io::Result<Self::File>> + Send;

    /// Renames `from` to `to`, replacing `to` if it exists. Atomic: a crash leaves the old or the new state of both names.
    /// Which one is decided only by [`Dir::sync`]. Says nothing about the file's content.
    fn rename(&self, from: &str, to: &str) -> impl Future<Output = io::Result<()>> + Send;

    /// Removes the name. Open handles stay readable. After a power cut the file may be back until [`Dir::sync`] was done.
    fn remove(&self, name: &str) -> impl Future<Output = io::Result<()>> + Send;

    /// All entries, sorted by name, without `.` and `..`. A name that is listed is not therefore durable.
    fn list(&self) -> impl Future<Output = io::Result<Vec<Entry>>> + Send;

    /// Makes every create, rename and remove that completed before this call durable. Files' contents are not covered.
    fn sync(&self) -> impl Future<Output = io::Result<()>> + Send;
}

/// An open file. All access is positioned; there is no cursor.
#[expect(clippy::len_without_is_empty, reason = "a call to the machine, not a collection")]
pub trait File: Send + Sync + 'static {
    /// Length in bytes, as seen by this process (not necessarily durable).
    fn len(&self) -> impl Future<Output = io::Result<u64>> + Send;

    /// Reads into `buf` from `offset`; returns how many bytes were read. A short read is allowed anywhere; 0 for a
    /// non-empty `buf` only at or past the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> impl Future<Output = io::Result<usize>> + Send;

    /// How many bytes from `offset` on are zeros, as far as the machine knows without reading them: nobody needs to read those.
    /// What was written as zeros most machines take for data like any other.
    fn known_zeros(&self, offset: u64) -> u64 {
        let _ = offset;
        0
    }

    /// Writes from `buf` at `offset`, extending the file if needed; returns how many bytes were taken, at least 1 for a
    /// non-empty `buf`. A process kill keeps what was taken (of a call in flight, any prefix); a power cut may keep any
    /// subset of its sectors, with or without the new length.
    ///
    /// # Errors
    /// `StorageFull`, or what the machine says; some prefix may have been written all the same.
    fn write_at(&self, buf: &[u8], offset: u64) -> impl Future<Output = io::Result<usize>> + Send;

    /// Writes from several buffers, one behind the other, at `offset`; otherwise as [`File::write_at`]. Where the machine has no such
    /// call it takes from the first one alone.
    ///
    /// # Errors
    /// As for [`File::write_at`].
    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> impl Future<Output = io::Result<usize>> + Send {
        async move {
            match bufs.iter().find(|buf| !buf.is_empty()) {
                Some(buf) => self.write_at(buf, offset).await,
                None => Ok(0),
            }
        }
    }

    /// Asks for room for `bytes` from `offset` on, so that writes which extend the file find it there. The length stays; what is not used
    /// is given back by [`File::set_len`]. False where the machine has no such call.
    ///
    /// # Errors
    /// `StorageFull`, or what the machine says; nothing depends on it.
    fn reserve(&self, offset: u64, bytes: u64) -> impl Future<Output = io::Result<bool>> + Send {
        let _ = (offset, bytes);
        async { Ok(false) }
    }

    /// Asks the machine to begin to write a range that was written to the disk, and doesn't wait for it: a later sync has less to do then. It
    /// promises nothing. Does nothing where the machine has no such call.
    fn begin_write_back(&self, offset: u64, bytes: u64) {
        let _ = (offset, bytes);
    }

    /// Writes all of `buf` at `offset` and makes that range durable, with the length needed to read it back. Nothing that
    /// was written before is covered: other bytes of this file stay as undurable as they were.
    ///
    /// # Errors
    /// As for [`File::write_at`] and [`File::sync_data`]: the range is unknown.
    fn write_synced(&self, buf: &[u8], offset: u64) -> impl Future<Output = io::Result<()>> + Send;

    /// Makes every write that completed before this call durable, with the length needed to read it back. Not the name
    /// (see [`Dir::sync`]), nor a shrink.
    ///
    /// # Errors
    /// After an error every byte that was not durable before is unknown for ever: a later sync, here or through another
    /// handle, may report success without having written it, and a page that reads well now may read differently later.
    fn sync_data(&self) -> impl Future<Output = io::Result<()>> + Send;

    /// As [`File::sync_data`], and with it the length, also after a shrink, and all attributes.
    fn sync_all(&self) -> impl Future<Output = io::Result<()>> + Send;

    /// Sets the length: cuts, or extends with zeros. Durable after [`File::sync_all`].
    fn set_len(&self, len: u64) -> impl Future<Output = io::Result<()>> + Send;

    /// Makes the pages durable without the length, as `sync_file_range(2)` does. Only for the planted bug that uses it.
    #[cfg(feature = "plants")]
    fn sync_pages(&self) -> impl Future<Output = io::Result<()>> + Send;
}
