//! The log without futures, on the real machine.
//!
//! ```
//! use engine::wal::{Durability, Lsn, Options, blocking::Wal};
//!
//! let folder = tempfile::tempdir()?;
//! let (wal, _) = Wal::open(folder.path().join("log"), Options::new())?;
//! wal.append("first", Durability::Buffered)?;
//! let second = wal.append("second", Durability::Sync)?; // makes the first durable as well
//! let all: Vec<_> = wal.records(Lsn(1)).collect::<Result<_, _>>()?;
//! assert_eq!(all[1], (second, "second".into()));
//! wal.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::path::Path;

use bytes::Bytes;

use crate::env::{OsEnv, block_on};

use super::{
    AppendError, Durability, Lsn, OpenError, Options, ReadError, RecoveryReport, SalvageReport, Stats, SyncError,
    TruncateError,
};

/// A handle of an open log; each call blocks the thread as [`super::Wal`]'s futures would.
#[derive(Clone, Debug)]
pub struct Wal(super::Wal<OsEnv>);

impl Wal {
    /// As [`super::Wal::open`].
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<(Wal, RecoveryReport), OpenError> {
        block_on(super::Wal::open(OsEnv, path.as_ref(), options)).map(|(wal, report)| (Wal(wal), report))
    }

    /// As [`super::Wal::verify`].
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn verify(
        path: impl AsRef<Path>,
        options: Options,
        deliver: impl FnMut(Lsn, Bytes) + Send,
    ) -> Result<RecoveryReport, OpenError> {
        block_on(super::Wal::verify(OsEnv, path.as_ref(), options, deliver))
    }

    /// As [`super::Wal::salvage`].
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn salvage(path: impl AsRef<Path>, deliver: impl FnMut(Lsn, Bytes)) -> Result<SalvageReport, OpenError> {
        block_on(super::Wal::salvage(OsEnv, path.as_ref(), deliver))
    }

    /// As [`super::Wal::append`].
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn append(&self, record: impl AsRef<[u8]>, durability: Durability) -> Result<Lsn, AppendError> {
        let record = record.as_ref();
        // Mostly there is room, and then a future is a detour.
        match if durability == Durability::Buffered { self.0.append_now(record) } else { None } {
            Some(lsn) => Ok(lsn),
            None => block_on(self.0.append(record, durability)),
        }
    }

    /// As [`super::Wal::append_batch`].
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn append_batch(&self, records: &[impl AsRef<[u8]>], durability: Durability) -> Result<Lsn, AppendError> {
        block_on(self.0.append_batch(records, durability))
    }

    /// As [`super::Wal::sync`].
    ///
    /// # Errors
    /// [`SyncError`].
    pub fn sync(&self) -> Result<Lsn, SyncError> {
        block_on(self.0.sync())
    }

    /// As [`super::Wal::wait_durable`].
    ///
    /// # Errors
    /// [`SyncError`].
    pub fn wait_durable(&self, lsn: Lsn) -> Result<(), SyncError> {
        block_on(self.0.wait_durable(lsn))
    }

    /// As [`super::Wal::read`].
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(&self, lsn: Lsn) -> Result<Bytes, ReadError> {
        block_on(self.0.read(lsn))
    }

    /// As [`super::Wal::records`], as an iterator. It ends after an error.
    pub fn records(&self, from: Lsn) -> impl Iterator<Item = Result<(Lsn, Bytes), ReadError>> + use<> {
        let mut records = Some(self.0.records(from));
        std::iter::from_fn(move || {
            let open = records.as_mut()?;
            // Mostly the record is at hand, and then a future is a detour.
            if let Some(item) = open.next_now() {
                return Some(Ok(item));
            }
            let item = block_on(open.next()).transpose();
            if !matches!(item, Some(Ok(_))) {
                records = None;
            }
            item
        })
    }

    /// As [`super::Wal::tail`], as an iterator that waits. It ends when the log is closed, and after an error.
    pub fn tail(&self, from: Lsn) -> impl Iterator<Item = Result<(Lsn, Bytes), ReadError>> + use<> {
        let mut tail = Some(self.0.tail(from));
        std::iter::from_fn(move || {
            let item = block_on(tail.as_mut()?.next()).transpose();
            if !matches!(item, Some(Ok(_))) {
                tail = None;
            }
            item
        })
    }

    /// As [`super::Wal::writer`].
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn writer(&self) -> Result<Writer, AppendError> {
        self.0.writer().map(Writer)
    }

    /// As [`super::Wal::truncate_front`].
    ///
    /// # Errors
    /// [`TruncateError`].
    pub fn truncate_front(&self, lsn: Lsn) -> Result<Lsn, TruncateError> {
        block_on(self.0.truncate_front(lsn))
    }

    /// As [`super::Wal::truncate_back`].
    ///
    /// # Errors
    /// [`TruncateError`].
    pub fn truncate_back(&self, lsn: Lsn) -> Result<(), TruncateError> {
        block_on(self.0.truncate_back(lsn))
    }

    /// As [`super::Wal::stats`].
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }

    /// As [`super::Wal::first`].
    #[must_use]
    pub fn first(&self) -> Lsn {
        self.0.first()
    }

    /// As [`super::Wal::next`].
    #[must_use]
    pub fn next(&self) -> Lsn {
        self.0.next()
    }

    /// As [`super::Wal::durable`].
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.0.durable()
    }

    /// As [`super::Wal::close`].
    ///
    /// # Errors
    /// [`SyncError`].
    pub fn close(self) -> Result<(), SyncError> {
        block_on(self.0.close())
    }
}

/// The only appender of a log; see [`super::Writer`].
pub struct Writer(super::Writer<OsEnv>);

impl Writer {
    /// As [`super::Writer::append`].
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn append(&mut self, record: impl AsRef<[u8]>) -> Result<Lsn, AppendError> {
        let record = record.as_ref();
        // Mostly there is room, and then a future is a detour.
        match self.0.append_now(record) {
            Some(lsn) => Ok(lsn),
            None => block_on(self.0.append(record)),
        }
    }

    /// As [`super::Writer::publish`].
    pub fn publish(&mut self) {
        self.0.publish();
    }

    /// As [`super::Writer::sync`].
    ///
    /// # Errors
    /// [`SyncError`].
    pub fn sync(&mut self) -> Result<Lsn, SyncError> {
        block_on(self.0.sync())
    }

    /// As [`super::Writer::next`].
    #[must_use]
    pub fn next(&self) -> Lsn {
        self.0.next()
    }
}
