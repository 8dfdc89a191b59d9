//! The calls that a process makes, as values: what it asks for, the fault that strikes it, and what it gets.

use std::path::Path;

use bytes::Bytes;
use engine::env::{Entry, OpenMode};

use super::{DirId, FileId, Name};

/// What the process asks for.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields are the arguments of the calls of engine::env")]
pub enum Op {
    /// Opens a directory; with `create`, creates its last component, durably.
    Dir { path: Box<Path>, create: bool },
    /// Takes the lock on a directory.
    Lock { dir: DirId },
    /// Opens a file.
    Open { dir: DirId, name: Name, mode: OpenMode },
    /// Renames a file.
    Rename { dir: DirId, from: Name, to: Name },
    /// Removes a name.
    Remove { dir: DirId, name: Name },
    /// Lists a directory.
    List { dir: DirId },
    /// Makes the names of a directory durable.
    SyncDir { dir: DirId },
    /// The length of a file.
    Len { file: FileId },
    /// Reads up to `length` bytes into the buffer that [`Disk::complete`](super::Disk::complete) is given.
    Read { file: FileId, offset: u64, length: u64 },
    /// Writes.
    Write { file: FileId, offset: u64, data: Bytes },
    /// Writes all of it, and makes that range durable with the length that it needs; nothing else.
    WriteSynced { file: FileId, offset: u64, data: Bytes },
    /// Makes data durable, with the length that it needs.
    SyncData { file: FileId },
    /// Makes data and length durable.
    SyncAll { file: FileId },
    /// Makes data durable without the length.
    SyncPages { file: FileId },
    /// Sets the length.
    SetLen { file: FileId, len: u64 },
}

impl Op {
    /// The word for it in a report.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Op::Dir { .. } => "dir",
            Op::Lock { .. } => "lock",
            Op::Open { .. } => "open",
            Op::Rename { .. } => "rename",
            Op::Remove { .. } => "remove",
            Op::List { .. } => "list",
            Op::SyncDir { .. } => "sync-dir",
            Op::Len { .. } => "len",
            Op::Read { .. } => "read",
            Op::Write { .. } => "write",
            Op::WriteSynced { .. } => "write-synced",
            Op::SyncData { .. } => "sync-data",
            Op::SyncAll { .. } => "sync-all",
            Op::SyncPages { .. } => "sync-pages",
            Op::SetLen { .. } => "set-len",
        }
    }

    /// The open file that it is about.
    #[must_use]
    pub const fn file(&self) -> Option<FileId> {
        match self {
            Op::Dir { .. } | Op::Lock { .. } | Op::Open { .. } | Op::Rename { .. } => None,
            Op::Remove { .. } | Op::List { .. } | Op::SyncDir { .. } => None,
            Op::Len { file } | Op::SyncData { file } | Op::SyncAll { file } | Op::SyncPages { file } => Some(*file),
            Op::WriteSynced { file, .. } => Some(*file),
            Op::Read { file, .. } | Op::Write { file, .. } | Op::SetLen { file, .. } => Some(*file),
        }
    }
}

/// A fault that strikes one operation, decided when it begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Inject {
    /// None.
    #[default]
    Nothing,
    /// It is interrupted before it did anything.
    Interrupted,
    /// It fails. A write may have written a prefix; a sync drops what it covered. The seed draws the details.
    Fails {
        /// `StorageFull` instead of an I/O error.
        full: bool,
        /// What the details follow from.
        seed: u64,
    },
    /// A sync that reports success and does nothing.
    Lies,
}

/// What an operation returned.
#[derive(Debug)]
pub enum Done {
    /// Nothing but success.
    Unit,
    /// A number of bytes, or a length.
    Count(u64),
    /// An open directory.
    Dir(DirId),
    /// An open file.
    File(FileId),
    /// A listing.
    Entries(Vec<Entry>),
}

/// Zeros to prepare files with.
static ZEROS: [u8; 1 << 15] = [0; 1 << 15];

/// So many zeros.
pub(crate) fn zeros(count: usize) -> Bytes {
    ZEROS.get(..count).map_or_else(|| vec![0; count].into(), Bytes::from_static)
}

/// What a call owns of the caller's buffer. Zeros, which prepare files by the page, are there already.
pub(crate) fn owned(buf: &[u8]) -> Bytes {
    match ZEROS.get(..buf.len()) {
        Some(zeros) if buf.len() >= 1024 && zeros == buf => Bytes::from_static(zeros),
        _ => Bytes::copy_from_slice(buf),
    }
}

/// Whether these are zeros of [`zeros`], or that [`owned`] found to be such: nobody needs to look again.
pub(crate) fn prepared(data: &[u8]) -> bool {
    ZEROS.as_ptr_range().contains(&data.as_ptr())
}
