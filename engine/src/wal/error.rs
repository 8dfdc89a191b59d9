//! One error enum per operation; each says who is to blame and what to do next.

use std::{fmt::Display, io, path::PathBuf, sync::Arc};

use thiserror::Error;

pub use crate::failure::Failure;

use super::{Lsn, options::OptionsError};

/// Why a log couldn't be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// An option is out of range. Remedy: correct it.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// Another handle or process has the log open. Remedy: close it there.
    #[error("{} is locked by another handle or process; close it there", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The machine failed. Remedy: as the source says (permissions, space, a failing disk), then retry: nothing was lost.
    #[error("{operation} {what}: {source}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// The directory or file.
        what: String,
        /// The machine's error.
        source: io::Error,
    },
    /// A segment of a newer format. Remedy: use the program that wrote it, or a newer one. Nothing was changed.
    #[error("{file} has format {major}.{minor}, newer than this program reads; use a newer program")]
    NewerVersion {
        /// The file.
        file: String,
        /// Its major version.
        major: u16,
        /// Its minor version.
        minor: u16,
    },
    /// Segments of two logs in one directory. Remedy: move the files of one of them away. Nothing was changed.
    #[error("{file} belongs to another log than {other}; move the files of one of them away")]
    OtherLog {
        /// One file.
        file: String,
        /// A file of another log.
        other: String,
    },
    /// The log was not closed, and [`RecoveryMode::Absolute`](super::RecoveryMode::Absolute) was asked for. Remedy: open it
    /// in another mode. Nothing was changed.
    #[error("{file} was not closed: at byte {offset} the log ends without a mark; open it in another recovery mode")]
    Unclean {
        /// The file that the log ends in.
        file: String,
        /// Offset in bytes of its end.
        offset: u64,
    },
    /// The log is damaged below what it states to be durable. Remedy: restore from a copy. Nothing was changed.
    #[error("{file} is corrupt at byte {offset}: {what}; nothing was changed, restore it from a copy")]
    Corrupt {
        /// The file, as far as known.
        file: String,
        /// Offset in bytes of the first thing that is wrong.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
}

impl From<Failure> for OpenError {
    fn from(Failure { operation, file, kind, message }: Failure) -> OpenError {
        OpenError::Io { operation, what: file, source: io::Error::new(kind, message) }
    }
}

impl OpenError {
    /// `what` becomes text only when there is an error: this stands beside every call of an open.
    pub(crate) fn io(operation: &'static str, what: impl Display) -> impl FnOnce(io::Error) -> OpenError {
        move |source| OpenError::Io { operation, what: what.to_string(), source }
    }
}

/// Why an append gave no acknowledgement.
#[derive(Clone, Debug, Error)]
pub enum AppendError {
    /// Definite: not appended, now or later. Remedy: split it, or raise `max_record_bytes`.
    #[error("the payload is {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Payload bytes in all.
        bytes: u64,
        /// `max_record_bytes`.
        limit: u64,
    },
    /// Definite: a batch without records says nothing.
    #[error("a batch needs at least one record")]
    EmptyBatch,
    /// Definite: the log was closed. Remedy: open it again.
    #[error("the log is closed")]
    Closed,
    /// Definite: a [`Writer`](super::Writer) has the log to itself. Remedy: append through it, or drop it.
    #[error("a writer has the log to itself; append through it")]
    WriterExists,
    /// Definite: there is no room for it, and none could be prepared. Nothing was written, and the log goes on.
    /// Remedy: as the failure says (free space on the disk), then append again.
    #[error("not appended, since there is no room for it: {} of {} failed: {}", .0.operation, .0.file, .0.message)]
    NoRoom(Arc<Failure>),
    /// Definite: refused, since the log failed before. Remedy: reopen.
    #[error("refused, since an earlier {0}")]
    Poisoned(Arc<Failure>),
    /// Indeterminate: accepted, then the log failed. After a reopen the records are there or not, all or none.
    /// Remedy: reopen, and read.
    #[error("LSN {first} was accepted, but {failure}")]
    Indeterminate {
        /// LSN of the first record.
        first: Lsn,
        /// What failed.
        failure: Arc<Failure>,
    },
}

/// Why a wait for durability failed.
#[derive(Clone, Debug, Error)]
pub enum SyncError {
    /// The log failed: what was not durable before is unknown until it is reopened.
    #[error(transparent)]
    Poisoned(#[from] Arc<Failure>),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// A [`Writer`](super::Writer) has the log to itself. Remedy: drop it first.
    #[error("a writer has the log to itself; drop it first")]
    WriterExists,
    /// No such record yet.
    #[error("LSN {lsn} was not appended yet, next is {next}")]
    NotAppended {
        /// The one that was asked for.
        lsn: Lsn,
        /// The next that will be given.
        next: Lsn,
    },
}

/// Why a record couldn't be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// What was delivered from here on was truncated meanwhile. Remedy: take it back, and read again from this LSN.
    #[error("the log was truncated; what was delivered before may be gone or replaced, read again")]
    Truncated,
    /// Outside the log.
    #[error("LSN {lsn} is outside the log, which holds {first}..{next}")]
    NotFound {
        /// The one that was asked for.
        lsn: Lsn,
        /// The oldest.
        first: Lsn,
        /// The next that will be given.
        next: Lsn,
    },
    /// What was written reads differently. Remedy: restore from a copy.
    #[error("{file} is corrupt at byte {offset}")]
    Corrupt {
        /// The file.
        file: String,
        /// Offset in bytes.
        offset: u64,
    },
    /// The machine failed. Remedy: retry.
    #[error("reading {file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// The machine's error.
        source: io::Error,
    },
    /// The record never left memory, and the log failed. Remedy: reopen.
    #[error(transparent)]
    Poisoned(#[from] Arc<Failure>),
}

/// Why a truncation did not happen.
#[derive(Debug, Error)]
pub enum TruncateError {
    /// The LSN is not in the range that can be truncated to. Nothing was changed.
    #[error("LSN {lsn} is outside {first}..={next}")]
    OutOfRange {
        /// The one that was asked for.
        lsn: Lsn,
        /// The oldest LSN of the log.
        first: Lsn,
        /// The next that will be given.
        next: Lsn,
    },
    /// Another truncation is under way, or a [`Writer`](super::Writer) has the log to itself. Remedy: try again after it.
    #[error("a truncation is under way, or a writer has the log to itself; try again after it")]
    Busy,
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// There is no room for the segment that a truncation needs. Nothing was changed. Remedy: free space, then retry.
    #[error("no room: {} of {} failed: {}", .0.operation, .0.file, .0.message)]
    NoRoom(Arc<Failure>),
    /// What has to be kept could not be read. Nothing was changed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Refused, or given up, since the log failed before anything was changed. Remedy: reopen.
    #[error("not truncated, since {0}")]
    Poisoned(Arc<Failure>),
    /// The truncation itself failed: whether it took effect is unknown until the log is reopened. Remedy: reopen.
    #[error("truncated or not, since {0}")]
    Indeterminate(Arc<Failure>),
}
