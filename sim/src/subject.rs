//! What is under test, behind one trait: the runner and the oracles know no more of a subject than this.

use std::{future::Future, path::Path};

use bytes::Bytes;
use engine::{
    env::Env,
    plant::Plants,
    wal::{AppendError, Dropped, Durability, Lsn, OpenError, Options, ReadError, TailKind, Wal},
};

use crate::plan::EngineOptions;

/// What an open delivered.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Every record with its LSN, in order.
    pub records: Vec<(u64, Bytes)>,
    /// How many records the report claims.
    pub reported: u64,
    /// From this LSN on nothing had proven the records.
    pub unproven_from: u64,
    /// What the report says was left behind.
    pub dropped: Vec<Dropped>,
    /// Generation that the open took.
    pub generation: u64,
    /// Files that held the records before.
    pub segments: u64,
    /// How the log ended.
    pub tail: TailKind,
}

/// Why an open did not deliver.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The machine's fault: trying again is right, and nothing may be lost by it.
    pub io: bool,
    /// The error as a user sees it.
    pub message: String,
}

/// Why an append was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAppended {
    /// It is not in the log, now or later.
    Definite(String),
    /// It may be in the log, at this LSN.
    Indeterminate(u64),
}

/// Why a record was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotRead {
    /// The machine failed, or the log is poisoned; trying again later is right.
    Refused(String),
    /// The subject says that the record isn't there.
    Missing(String),
    /// The subject says that the record is damaged.
    Corrupt(String),
}

/// A log under test.
pub trait Subject<E: Env>: Clone + Send + Sync + Sized + 'static {
    /// Opens it and reads everything back.
    fn open(
        env: E,
        path: &Path,
        options: &EngineOptions,
        plants: Plants,
    ) -> impl Future<Output = Result<(Self, Recovered), Refusal>> + Send;
    /// Appends one record, or several as an atomic batch; returns the first LSN.
    fn append(
        &self,
        records: &[Bytes],
        batch: bool,
        class: Durability,
    ) -> impl Future<Output = Result<u64, NotAppended>> + Send;
    /// Makes everything before the returned LSN durable.
    fn sync(&self) -> impl Future<Output = Result<u64, String>> + Send;
    /// Waits until a record is durable.
    fn wait(&self, lsn: u64) -> impl Future<Output = Result<(), String>> + Send;
    /// Reads a record.
    fn read(&self, lsn: u64) -> impl Future<Output = Result<Bytes, NotRead>> + Send;
    /// Reads all records.
    fn scan(&self) -> impl Future<Output = Result<Vec<(u64, Bytes)>, NotRead>> + Send;
    /// Closes it.
    fn close(self) -> impl Future<Output = Result<(), String>> + Send;
}

impl<E: Env> Subject<E> for Wal<E> {
    async fn open(env: E, path: &Path, options: &EngineOptions, plants: Plants) -> Result<(Self, Recovered), Refusal> {
        let options = Options::new()
            .segment_bytes(options.segment_bytes)
            .buffer_bytes(options.buffer_bytes)
            .max_record_bytes(options.max_record_bytes)
            .plants(plants);
        let (wal, report) = Wal::open(env, path, options)
            .await
            .map_err(|error| Refusal { io: matches!(error, OpenError::Io { .. }), message: error.to_string() })?;
        let records = wal.scan().await.map_err(|error| match error {
            NotRead::Refused(message) => Refusal { io: true, message },
            NotRead::Missing(message) | NotRead::Corrupt(message) => Refusal { io: false, message },
        })?;
        let recovered = Recovered {
            records,
            reported: report.records(),
            unproven_from: report.unproven_from.0,
            dropped: report.dropped,
            generation: report.generation,
            segments: report.segments,
            tail: report.tail,
        };
        Ok((wal, recovered))
    }

    async fn append(&self, records: &[Bytes], batch: bool, class: Durability) -> Result<u64, NotAppended> {
        let result = match records {
            [record] if !batch => self.append(record.clone(), class).await,
            _ => self.append_batch(records, class).await,
        };
        result.map(|lsn| lsn.0).map_err(|error| match error {
            AppendError::Indeterminate { first, .. } => NotAppended::Indeterminate(first.0),
            definite => NotAppended::Definite(definite.to_string()),
        })
    }

    async fn sync(&self) -> Result<u64, String> {
        self.sync().await.map(|lsn| lsn.0).map_err(|error| error.to_string())
    }

    async fn wait(&self, lsn: u64) -> Result<(), String> {
        self.wait_durable(Lsn(lsn)).await.map_err(|error| error.to_string())
    }

    async fn read(&self, lsn: u64) -> Result<Bytes, NotRead> {
        self.read(Lsn(lsn)).await.map_err(not_read)
    }

    async fn scan(&self) -> Result<Vec<(u64, Bytes)>, NotRead> {
        let mut records = self.records(Lsn(1));
        let mut all = Vec::new();
        while let Some((lsn, record)) = records.next().await.map_err(not_read)? {
            all.push((lsn.0, record));
        }
        Ok(all)
    }

    async fn close(self) -> Result<(), String> {
        Wal::close(self).await.map_err(|error| error.to_string())
    }
}

fn not_read(error: ReadError) -> NotRead {
    let message = error.to_string();
    match error {
        ReadError::NotFound { .. } | ReadError::Truncated => NotRead::Missing(message),
        ReadError::Corrupt { .. } => NotRead::Corrupt(message),
        ReadError::Io { .. } | ReadError::Poisoned(_) => NotRead::Refused(message),
    }
}
