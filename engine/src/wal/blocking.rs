//! The log without futures, on the real machine.
//!
//! ```
//! use engine::wal::{Durability, Lsn, Options, blocking::Wal};
//!
//! let folder = tempfile::tempdir()?;
//! let (wal, _) = Wal::open(folder.path().join("log"), Options::new())?;
//! wal.append("first".into(), Durability::Buffered)?;
//! let second = wal.append("second".into(), Durability::Sync)?; // makes the first durable as well
//! let all: Vec<_> = wal.records(Lsn(1)).collect::<Result<_, _>>()?;
//! assert_eq!(all[1], (second, "second".into()));
//! wal.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::path::Path;

use bytes::Bytes;

use crate::env::{OsEnv, block_on};

use super::{AppendError, Durability, Lsn, OpenError, Options, ReadError, RecoveryReport, SyncError};

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

    /// As [`super::Wal::append`].
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn append(&self, record: Bytes, durability: Durability) -> Result<Lsn, AppendError> {
        block_on(self.0.append(record, durability))
    }

    /// As [`super::Wal::append_batch`].
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn append_batch(&self, records: &[Bytes], durability: Durability) -> Result<Lsn, AppendError> {
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
            let item = block_on(records.as_mut()?.next()).transpose();
            if !matches!(item, Some(Ok(_))) {
                records = None;
            }
            item
        })
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
