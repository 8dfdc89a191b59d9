//! One error enum per operation; each says what to do next.

use std::{io, path::PathBuf, sync::Arc};

use thiserror::Error;

use crate::failure::Failure;

use super::{commit::Stuck, load::LoadError, options::OptionsError};

/// Why a log couldn't be opened. Nothing that an earlier process left was changed, unless [`OpenError::Io`] says so.
#[derive(Debug, Error)]
pub enum OpenError {
    /// An option is out of range. Remedy: correct it.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// Another handle or process has the log open. Remedy: close it there.
    #[error("{} is locked by another handle or process; close it there", path.display())]
    Locked {
        /// The data directory.
        path: PathBuf,
    },
    /// What is there can't be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The log's directory has files of a log and no manifest that says which of them count. Remedy: restore the manifest, or
    /// move the files away to begin anew.
    #[error("{dir} has no manifest, but {files:?}; restore the manifest, or move the files away to begin anew")]
    NoManifest {
        /// The log's directory.
        dir: String,
        /// Files of a log in it; the first ten.
        files: Vec<String>,
    },
    /// There is no log, but a snapshot of the data in RDB format; a new log would begin empty and hide it. Remedy: move it away, or
    /// say with [`Options::ignore_rdb`](super::options::Options::ignore_rdb) that it doesn't count.
    #[error(
        "{file} holds data, and there is no log; move it away, or set the option `ignore_rdb` to begin empty beside it"
    )]
    OtherData {
        /// The snapshot.
        file: String,
    },
    /// The machine failed. Remedy: as the source says (permissions, space, a failing disk), then try again: nothing was lost.
    #[error("{operation} {what}: {source}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// The directory or file.
        what: String,
        /// The machine's error.
        source: io::Error,
    },
    /// The same, in an operation on a file of the log. Remedy: the same.
    #[error("{} of {} failed: {}; try again", .0.operation, .0.file, .0.message)]
    Failed(Failure),
}

impl OpenError {
    pub(super) fn io(operation: &'static str, what: impl Into<String>) -> impl FnOnce(io::Error) -> OpenError {
        move |source| OpenError::Io { operation, what: what.into(), source }
    }

    /// Whether the machine failed, so that trying again is right.
    #[must_use]
    pub fn is_io(&self) -> bool {
        matches!(self, OpenError::Io { .. } | OpenError::Failed(_) | OpenError::Load(LoadError::Io { .. }))
    }
}

/// Why a command was not appended, or a wait ended too early.
#[derive(Clone, Debug, Error)]
pub enum LogError {
    /// The log is closed. Not appended.
    #[error("the log is closed")]
    Closed,
    /// A [`Writer`](super::Writer) exists, which alone may append. Not appended.
    #[error("a writer exists, which alone may append; drop it first")]
    WriterExists,
    /// A command without arguments. Not appended.
    #[error("a command has at least a name")]
    Empty,
    /// The position was never given.
    #[error("byte {position} was not appended yet; the log ends at {end}")]
    NotAppended {
        /// The position.
        position: u64,
        /// The end of the log.
        end: u64,
    },
    /// What was waited for is not durable yet. Nothing is lost: it stays in its place and may become durable at any moment. Remedy: wait
    /// again, or go on without knowing.
    #[error("byte {position} is not durable yet, only {durable} is; it may come: wait again")]
    TimedOut {
        /// What was waited for.
        position: u64,
        /// How far the log was durable then.
        durable: u64,
    },
    /// The machine had no task to give for a timer; nothing was waited for. Remedy: try again, or wait without a bound.
    #[error("{} of {} failed: {}; try again, or wait without a bound", .0.operation, .0.file, .0.message)]
    NoTimer(Arc<Failure>),
    /// A write failed, and is tried again every second; until it succeeds nothing is accepted. An append was not appended. What was
    /// accepted before stays in memory, in its place, and will be written. Remedy: make room on the disk, or wait.
    #[error("writing to the log fails, and is tried again every second: {0}")]
    Stalled(Arc<Failure>),
    /// The log was switched on, and its first base could not be written: nothing of it is durable, and what is appended is collected
    /// for the next attempt. Remedy: rewrite it, as [`CommandLog::rewrite_is_due`](super::CommandLog::rewrite_is_due) says; after
    /// ten attempts it is poisoned.
    #[error("the log was switched on and has no base yet; rewrite it")]
    NoBase,
    /// The log works no more. An append was not appended; what was waited for may be in the log or not. Remedy: open it again.
    #[error("{0}")]
    Poisoned(Arc<Failure>),
}

impl From<Stuck> for LogError {
    fn from(stuck: Stuck) -> LogError {
        match stuck {
            Stuck::Poisoned(failure) => LogError::Poisoned(failure),
            Stuck::Stalled(failure) => LogError::Stalled(failure),
            Stuck::NoBase => LogError::NoBase,
        }
    }
}

/// Why a rewrite did not happen. The log is as it was.
#[derive(Clone, Debug, Error)]
pub enum RewriteError {
    /// Another one is under way. Remedy: wait for its end.
    #[error("a rewrite is under way")]
    Running,
    /// The log accepts nothing.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The machine failed. Remedy: make room on the disk, then try again.
    #[error("{} of {} failed: {}; the log is as it was", .0.operation, .0.file, .0.message)]
    Failed(Failure),
    /// The log was closed before the rewrite had ended.
    #[error("the log was closed")]
    Closed,
}
