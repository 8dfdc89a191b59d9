//! What is under test, behind one trait: the runner and the oracles know no more of a subject than this.

use std::{future::Future, path::Path, time::Duration};

use bytes::Bytes;
use engine::{
    env::Env,
    plant::{Plant, Plants},
    wal::{
        AppendError, Dropped, Durability, Large, Lsn, OpenError, Options, ReadError, RecoveryReport, TailKind,
        TruncateError, Wal,
    },
};

use crate::{
    damage,
    disk::{Disk, Op},
    env::{Machine, SimEnv},
    evidence::{self, Chain},
    image,
    plan::EngineOptions,
    prng::Prng,
    report::Violation,
    truth::txn::{Stored, Truth, TruthRef},
    workload::Step,
};

pub mod commands;
pub mod stream;
pub mod txn;

/// What may be under test.
pub const SUBJECTS: [(&str, &str); 4] = [
    ("wal", "the write-ahead log"),
    ("aof", "the command log"),
    ("rewrite", "the command log, rewritten often"),
    ("txn", "the store of transactions, with checkpoints for rewrites"),
];

/// The subject under which a planted bug is reached, of those in [`SUBJECTS`].
#[must_use]
pub fn subject_of(plant: Plant) -> &'static str {
    match plant {
        // (They show where a rewrite collects.)
        Plant::AofSumsIgnored | Plant::AofHeldBackDurable => "rewrite",
        _ => match plant.name().split('-').next() {
            Some("aof") => "aof",
            Some("rewrite") => "rewrite",
            Some("txn" | "ckpt" | "backup" | "upstream") => "txn",
            _ => "wal",
        },
    }
}

/// A log in a simulation holds about as many records, or fewer.
const USUAL_RECORDS: usize = 64;

/// How a refusal begins where an open succeeded, and then not all of it could be read.
pub const UNREAD: &str = "opened, but ";

/// What an open delivered.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The oldest LSN.
    pub first: u64,
    /// Every record with its LSN, in order.
    pub records: Vec<(u64, Bytes)>,
    /// How many records the report claims.
    pub reported: u64,
    /// From this LSN on nothing had proven the records.
    pub unproven_from: u64,
    /// What the report says was left behind.
    pub dropped: Vec<Dropped>,
    /// Generation that the open took, where there are such.
    pub generation: Option<u64>,
    /// Files that held the records before.
    pub segments: u64,
    /// How the log ended, for people.
    pub tail: &'static str,
    /// What of it does not belong together.
    pub flaw: Option<String>,
    /// What transactions of clients have left, where the subject has such.
    pub stored: Option<Stored>,
}

impl Recovered {
    /// The LSN after the last record.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    /// The record `lsn`, at its place.
    #[must_use]
    pub fn record(&self, lsn: u64) -> Option<&(u64, Bytes)> {
        self.records.get(usize::try_from(lsn.checked_sub(self.first)?).ok()?)
    }
}

/// Why an open did not deliver.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The machine's fault: trying again is right, and nothing may be lost by it.
    pub io: bool,
    /// The error as a user sees it.
    pub message: String,
}

impl From<Refusal> for String {
    fn from(refusal: Refusal) -> String {
        refusal.message
    }
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

/// Why a truncation was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotTruncated {
    /// Nothing was changed.
    Definite(String),
    /// It took effect or not.
    Indeterminate(String),
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
    /// What an open would deliver, without writing anything; on any machine.
    fn peek(
        env: impl Env,
        path: &Path,
        options: &EngineOptions,
        plants: Plants,
    ) -> impl Future<Output = Result<Recovered, Refusal>> + Send;
    /// Appends one record, or several as an atomic batch; returns the first LSN, and how safe it is.
    fn append(
        &self,
        records: &[Bytes],
        batch: bool,
        class: Durability,
    ) -> impl Future<Output = Result<(u64, Durability), NotAppended>> + Send;
    /// Makes everything before the returned LSN durable.
    fn sync(&self) -> impl Future<Output = Result<u64, String>> + Send;
    /// Waits until a record is durable.
    fn wait(&self, lsn: u64) -> impl Future<Output = Result<(), String>> + Send;
    /// Reads a record.
    fn read(&self, lsn: u64) -> impl Future<Output = Result<Bytes, NotRead>> + Send;
    /// Reads all records.
    fn scan(&self) -> impl Future<Output = Result<Vec<(u64, Bytes)>, NotRead>> + Send;
    /// The LSN that the next record gets.
    fn next(&self) -> u64;
    /// The LSN before which everything is durable, where the subject says so.
    fn durable(&self) -> Option<u64> {
        None
    }
    /// Releases the records below `lsn`; returns the oldest LSN.
    fn truncate_front(&self, lsn: u64) -> impl Future<Output = Result<u64, NotTruncated>> + Send;
    /// Removes the records from `lsn` on.
    fn truncate_back(&self, lsn: u64) -> impl Future<Output = Result<(), NotTruncated>> + Send;
    /// What a reader that follows the log sees now, from `from` on, without waiting.
    fn follow(&self, from: u64) -> impl Future<Output = Result<Vec<(u64, Bytes)>, NotRead>> + Send;
    /// Appends records through the front end for one appender, and hands them over; returns the first LSN.
    fn write(&self, records: &[Bytes]) -> impl Future<Output = Result<u64, NotAppended>> + Send;
    /// Rewrites it, and waits for the end of that if asked.
    fn rewrite(&self, wait: bool) -> impl Future<Output = Result<(), String>> + Send;
    /// Asks for a rewrite, and begins it when it is due.
    fn rewrite_soon(&self) -> impl Future<Output = Result<(), String>> + Send;
    /// Switches it off and on again, for the data that is in memory.
    fn switch(&self) -> impl Future<Output = Result<(), String>> + Send;
    /// Closes it.
    fn close(self) -> impl Future<Output = Result<(), String>> + Send;
}

/// What a client's step needs beside the subject.
#[derive(Clone)]
pub struct Surroundings {
    /// What everybody was told.
    pub truth: TruthRef,
    /// The machine.
    pub machine: Machine,
    /// Options of the engine.
    pub options: EngineOptions,
    /// What oracles read with.
    pub reading: Plants,
}

/// How a step was answered.
#[derive(Debug, Default)]
pub struct Stepped {
    /// In words.
    pub answer: String,
    /// What was acknowledged, if that is to be looked for on the disk.
    pub after: Option<&'static str>,
}

/// What was before, for who judges a damage.
pub struct Past<'a> {
    /// The disk as it was when the last life began.
    pub earlier: Option<&'a Disk>,
    /// What clients were told.
    pub truth: &'a TruthRef,
}

/// What oracles know of a subject's files, and of its clients' transactions.
pub trait Inspect {
    /// What a client has open.
    type Seat: Default + Send + 'static;
    /// Takes a step of a transaction, and holds its answer against the truth.
    ///
    /// # Errors
    /// A violation.
    fn step(
        &self,
        seat: &mut Self::Seat,
        step: Step,
        around: &Surroundings,
    ) -> impl Future<Output = Result<Stepped, Violation>> + Send;
    /// The newest commit that a page of a table on this disk states; `None` where there is no such rule.
    fn newest_page(_disk: &Disk) -> Option<u64> {
        None
    }
    /// It was opened: tells the truth which tables there are.
    fn introduce(&self, truth: &mut Truth) {
        let _ = truth;
    }
    /// Older contents of its files are of interest.
    const LOOKS_BACK: bool = false;
    /// Whether a call is one of a checkpoint, or of what follows one. Images of the disk are taken at some of these.
    fn of_checkpoint(disk: &Disk, op: &Op) -> bool {
        let _ = (disk, op);
        false
    }
    /// Damage to its files is to be noticed.
    const NOTICES_DAMAGE: bool;
    /// Whether a failure of this call is one after which nothing may be acknowledged.
    fn concerns_the_log(disk: &Disk, op: &Op) -> bool;
    /// Whether both disks hold the same files of it, with the same bytes.
    fn same_files(one: &Disk, two: &Disk) -> bool;
    /// Calls that an open may need.
    fn open_bound(image: &Disk, recovered: &Recovered) -> u64;
    /// After an open: nothing there but what belongs to it, and foreign files as they were.
    ///
    /// # Errors
    /// A violation of I22.
    fn clean_directory(disk: &Disk, recovered: &Recovered, foreign: (&str, &[u8])) -> Result<(), Violation>;
    /// What the report says was left behind is so. Nothing to look at where it says nothing beside what the delivery shows.
    ///
    /// # Errors
    /// A violation of I26.
    fn report_is_true(_image: &Disk, _recovered: &Recovered) -> Result<(), Violation> {
        Ok(())
    }
    /// After a clean close the loss of its end is noticed. Nothing to look at where the format has nothing that proves an end (Redis's).
    ///
    /// # Errors
    /// A violation of I4.
    fn closed_end_is_proven(
        _pessimal: &Disk,
        _recover: impl FnOnce(&Disk) -> Result<Recovered, String>,
    ) -> Result<(), Violation> {
        Ok(())
    }
    /// Damages a copy and opens it: a refusal changes nothing, and damage that must be noticed is. What was checked.
    ///
    /// # Errors
    /// A violation of I25 or I4.
    fn damage_is_refused(
        image: &Disk,
        past: &Past<'_>,
        draws: &mut Prng,
        recover: impl Fn(SimEnv) -> Result<Recovered, String>,
    ) -> Result<Vec<&'static str>, Violation>;
    /// The LSN up to which the files alone prove the log; `None` if they prove nothing.
    fn proven_next(pessimal: &Disk) -> Option<u64>;
    /// It was opened, and nothing was appended: where in its files that will stand.
    fn opened(&self, disk: &Disk) {
        let _ = disk;
    }
    /// Holds its files against what it told: all of them, or, unless `whole`, what is new in them. Whether there was anything to check.
    ///
    /// # Errors
    /// A violation of I19.
    fn in_place(&self, disk: &Disk, whole: bool) -> Result<bool, Violation> {
        let _ = (disk, whole);
        Ok(false)
    }
}

impl Inspect for Wal<SimEnv> {
    type Seat = ();

    async fn step(&self, (): &mut (), _: Step, _: &Surroundings) -> Result<Stepped, Violation> {
        Ok(Stepped::default())
    }

    const NOTICES_DAMAGE: bool = true;

    fn concerns_the_log(disk: &Disk, op: &Op) -> bool {
        image::concerns_the_log(disk, op)
    }

    fn same_files(one: &Disk, two: &Disk) -> bool {
        image::same_directory(one, two)
    }

    fn open_bound(image: &Disk, recovered: &Recovered) -> u64 {
        image::open_bound(image, recovered)
    }

    fn clean_directory(disk: &Disk, recovered: &Recovered, foreign: (&str, &[u8])) -> Result<(), Violation> {
        image::clean_directory(disk, recovered, foreign)
    }

    fn report_is_true(image: &Disk, recovered: &Recovered) -> Result<(), Violation> {
        image::report_is_true(image, recovered)
    }

    fn closed_end_is_proven(
        pessimal: &Disk,
        recover: impl FnOnce(&Disk) -> Result<Recovered, String>,
    ) -> Result<(), Violation> {
        image::closed_end_is_proven(pessimal, recover)
    }

    fn damage_is_refused(
        image: &Disk,
        _: &Past<'_>,
        draws: &mut Prng,
        recover: impl Fn(SimEnv) -> Result<Recovered, String>,
    ) -> Result<Vec<&'static str>, Violation> {
        image::refusals_change_nothing(image, draws, recover)
    }

    fn proven_next(pessimal: &Disk) -> Option<u64> {
        let files = damage::segments(pessimal);
        Some(Chain::read(&files).proven_next(evidence::floor(&files)))
    }
}

impl<E: Env> Subject<E> for Wal<E> {
    async fn open(env: E, path: &Path, options: &EngineOptions, plants: Plants) -> Result<(Self, Recovered), Refusal> {
        let (wal, report) =
            Wal::open(env, path, engine_options(options, plants)).await.map_err(|error| refusal(&error))?;
        let records = wal.scan().await.map_err(|error| match error {
            NotRead::Refused(message) => Refusal { io: true, message },
            NotRead::Missing(message) | NotRead::Corrupt(message) => Refusal { io: false, message },
        })?;
        Ok((wal, delivered(report, records)))
    }

    async fn peek(env: impl Env, path: &Path, options: &EngineOptions, plants: Plants) -> Result<Recovered, Refusal> {
        let mut records = Vec::with_capacity(USUAL_RECORDS);
        let deliver = |lsn: Lsn, record| records.push((lsn.0, record));
        let report = Wal::verify(env, path, engine_options(options, plants), deliver).await;
        let report = report.map_err(|error| refusal(&error))?;
        Ok(delivered(report, records))
    }

    async fn append(
        &self,
        records: &[Bytes],
        batch: bool,
        class: Durability,
    ) -> Result<(u64, Durability), NotAppended> {
        let result = match records {
            [record] if !batch => self.append(record, class).await,
            _ => self.append_batch(records, class).await,
        };
        result.map(|lsn| (lsn.0, class)).map_err(|error| match error {
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
        let mut all = Vec::with_capacity(USUAL_RECORDS);
        while let Some((lsn, record)) = records.next().await.map_err(not_read)? {
            all.push((lsn.0, record));
        }
        Ok(all)
    }

    fn next(&self) -> u64 {
        Wal::next(self).0
    }

    async fn truncate_front(&self, lsn: u64) -> Result<u64, NotTruncated> {
        Wal::truncate_front(self, Lsn(lsn)).await.map(|lsn| lsn.0).map_err(not_truncated)
    }

    async fn truncate_back(&self, lsn: u64) -> Result<(), NotTruncated> {
        Wal::truncate_back(self, Lsn(lsn)).await.map_err(not_truncated)
    }

    async fn follow(&self, from: u64) -> Result<Vec<(u64, Bytes)>, NotRead> {
        let durable = self.durable().0;
        let mut tail = self.tail(Lsn(from));
        let mut all = Vec::new();
        // What is durable now is delivered without waiting for anybody.
        while self.first().0.max(from) + (all.len() as u64) < durable {
            match tail.next().await.map_err(not_read)? {
                Some((lsn, record)) => all.push((lsn.0, record)),
                None => break,
            }
        }
        Ok(all)
    }

    async fn write(&self, records: &[Bytes]) -> Result<u64, NotAppended> {
        let definite = |error: AppendError| NotAppended::Definite(error.to_string());
        let mut writer = self.writer().map_err(definite)?;
        let mut first = None;
        for record in records {
            match writer.append(record).await {
                Ok(lsn) => first = first.or(Some(lsn.0)),
                // Those before it were accepted.
                Err(error) => return Err(first.map_or_else(|| definite(error), NotAppended::Indeterminate)),
            }
        }
        first.ok_or_else(|| NotAppended::Definite("nothing to write".into()))
    }

    async fn rewrite(&self, _: bool) -> Result<(), String> {
        Err("a write-ahead log is not rewritten".into())
    }

    async fn rewrite_soon(&self) -> Result<(), String> {
        self.rewrite(false).await
    }

    async fn switch(&self) -> Result<(), String> {
        Err("a write-ahead log is not switched on for data in memory".into())
    }

    async fn close(self) -> Result<(), String> {
        Wal::close(self).await.map_err(|error| error.to_string())
    }
}

fn engine_options(options: &EngineOptions, plants: Plants) -> Options {
    Options::new()
        .segment_bytes(options.segment_bytes)
        .buffer_bytes(options.buffer_bytes)
        .max_record_bytes(options.max_record_bytes)
        .idle(Duration::from_micros(options.idle_us))
        .synced_writes(options.synced_writes)
        .large(if options.split_large { Large::Split } else { Large::Appendix })
        .plants(plants)
}

fn refusal(error: &OpenError) -> Refusal {
    Refusal { io: matches!(error, OpenError::Io { .. }), message: error.to_string() }
}

fn delivered(report: RecoveryReport, records: Vec<(u64, Bytes)>) -> Recovered {
    Recovered {
        first: report.first.0,
        reported: report.records(),
        records,
        unproven_from: report.unproven_from.0,
        dropped: report.dropped,
        generation: Some(report.generation),
        segments: report.segments,
        tail: match report.tail {
            TailKind::New => "before it began",
            TailKind::Clean => "clean",
            TailKind::Torn => "torn",
            TailKind::Damaged => "at damage",
            TailKind::End => "where nothing follows",
        },
        flaw: None,
        stored: None,
    }
}

fn not_truncated(error: TruncateError) -> NotTruncated {
    let message = error.to_string();
    match error {
        TruncateError::Indeterminate(_) => NotTruncated::Indeterminate(message),
        _ => NotTruncated::Definite(message),
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
