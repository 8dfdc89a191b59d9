//! Opening a store: what its files say, then what is made of it.
//!
//! The reading half ends with everything in memory that the store will show, and has changed no byte: whatever speaks against the
//! store is found there. The writing half makes durable what was found, then states in every log that a new epoch begins behind it.
//! A crash in between decides nothing: the next open finds the same.

use std::{io, ops::Bound, path::Path, sync::Arc};

use tracing::info;

use crate::{
    env::{Dir, Env, interruptible},
    failure::Failure,
    plant::planted,
    sync::Mutex,
    wal::{self, Examined, InWindow, Lsn},
};

use super::{
    blocks::Blocks,
    catalog::TableInfo,
    checkpoint::{Checkpoints, Release},
    commit::Pipeline,
    error::{OpenError, TxError},
    generation::{Generation, Versions},
    ids::{Csn, Epoch},
    logs::{self, Logs, LogsError, Writers},
    options::Options,
    progress::Teller,
    recover::{
        chain::{self, Chain},
        decision::{self, Files, Ids, LogSeen, Reported, Row, Verdict, decide},
        indexes::{self, UnusableIndex},
        reading::{Delivered, Reading},
        replay::{NotReplayed, Replayed, replay},
    },
    redo::{EpochRecord, Record},
    scan::Scan,
    shared::Shared,
    storage::{Birth, Direction, Memory, Point, RootCopy, RootMeta, Roots, State, Storage, StorageOptions, Waiting},
    undo::WriteSet,
    view::{Horizon, View, Visibility},
    volatile::Volatile,
};

/// What an open found, and what it made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Whether there was no store.
    pub created: bool,
    /// The life that begins.
    pub epoch: Epoch,
    /// The last commit that the tables on the disk had.
    pub root: Csn,
    /// The last commit that there is: those behind the root came from the logs.
    pub end: Csn,
    /// Commits that were replayed.
    pub replayed: u64,
    /// Parts of commits that don't count: other parts of them, or of commits before them, are missing; or an earlier open has found so.
    pub dropped_parts: u64,
    /// In point-in-time mode: the last commit that was stated to be durable, if it is beyond the end.
    pub missing: Option<Csn>,
    /// Indexes that can't be read.
    pub unusable: Vec<UnusableIndex>,
    /// By log, what its own open found.
    pub logs: Vec<wal::RecoveryReport>,
}

/// A store as it was found.
struct Found<E: Env, S: Storage<E>> {
    env: E,
    options: Options,
    versions: Arc<Versions>,
    waiting: Arc<Waiting>,
    logs: Vec<Examined<E>>,
    ids: Ids,
    /// Bytes of the parts that the logs have.
    logged: u64,
    tables: Tables<E, S>,
}

/// What was found of the tables.
enum Tables<E: Env, S: Storage<E>> {
    /// There are none yet.
    New(S::Examined),
    Found {
        storage: S,
        chain: Chain,
        report: Reported,
        replayed: Replayed,
    },
}

/// Opens a store, or creates it. The lock is held as long as what is returned.
pub(super) async fn open<E: Env, S: Storage<E>>(
    env: E,
    path: &Path,
    options: Options,
) -> Result<(Shared<E, S>, <E::Dir as Dir>::Lock, RecoveryReport), OpenError> {
    options.validate()?;
    let (dir, lock) = locked(&env, path, options.create).await?;
    let (shared, report) = look::<E, S>(env, &dir, path, options).await?.establish().await?;
    info!(path = %path.display(), epoch = report.epoch.get(), root = %report.root, end = %report.end, "opened");
    Ok((shared, lock, report))
}

/// Told of each row: its table, its key, its value.
pub(super) type Deliver<'a> = dyn FnMut(&TableInfo, &[u8], &[u8]) + Send + 'a;

/// What an open would show, row by row, without changing anything.
pub(super) async fn verify<E: Env, S: Storage<E>>(
    env: E,
    path: &Path,
    options: Options,
    deliver: &mut Deliver<'_>,
) -> Result<RecoveryReport, OpenError> {
    let options = Options { create: false, ..options };
    options.validate()?;
    let (dir, _lock) = locked(&env, path, false).await?;
    let found = look::<E, S>(env, &dir, path, options).await?;
    let report = found.report(found.logs.iter().map(|log| log.report().clone()).collect())?;
    let Tables::Found { storage, replayed, .. } = found.tables else { return Err(OpenError::NotFound) };
    let view = Arc::new(View {
        catalog: Arc::clone(&replayed.catalog),
        generations: [replayed.generation].into_iter().collect(),
        volatile: Volatile::default(),
        state: storage.newest(),
    });
    let nothing = WriteSet::default();
    for table in replayed.catalog.tables().filter(|table| table.is_kept()) {
        let all = (Bound::Unbounded, Bound::Unbounded);
        let view = Arc::clone(&view);
        let mut scan = Scan::<E, S>::new(view, report.end, &nothing, None, None, table.id, all, Direction::Forward);
        while let Some((key, value)) = scan.next().await.map_err(unread)? {
            deliver(table, key, value);
        }
    }
    Ok(report)
}

fn unread(error: TxError) -> OpenError {
    match error {
        TxError::Storage(error) => OpenError::Storage(error),
        other => OpenError::Corrupt(other.to_string()),
    }
}

/// The directory of a store, and its lock.
pub(super) async fn locked<E: Env>(
    env: &E,
    path: &Path,
    create: bool,
) -> Result<(E::Dir, <E::Dir as Dir>::Lock), OpenError> {
    let opened = interruptible(|| env.dir(path, create)).await;
    let dir = opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound if !create => OpenError::NotFound,
        _ => OpenError::Io(Failure::new("open", path.display(), &error)),
    })?;
    let lock = interruptible(|| dir.lock()).await.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked,
        _ => OpenError::Io(Failure::new("lock", path.display(), &error)),
    })?;
    Ok((dir, lock))
}

/// What an open would report.
pub(super) async fn foresee<E: Env, S: Storage<E>>(
    env: E,
    dir: &E::Dir,
    path: &Path,
    options: Options,
) -> Result<RecoveryReport, OpenError> {
    let found = look::<E, S>(env, dir, path, options).await?;
    found.report(found.logs.iter().map(|log| log.report().clone()).collect())
}

/// What is told to the tables' storage.
pub(super) fn storage_options(options: &Options, blocks: Arc<Blocks>) -> StorageOptions {
    StorageOptions {
        chunk_bytes: options.chunk_bytes,
        piece_bytes: options.checkpoint_piece_bytes,
        #[cfg(feature = "plants")]
        plants: options.plants(),
        ..StorageOptions::new(blocks)
    }
}

/// The reading half.
async fn look<E: Env, S: Storage<E>>(
    env: E,
    dir: &E::Dir,
    path: &Path,
    options: Options,
) -> Result<Found<E, S>, OpenError> {
    let (versions, waiting) = (Versions::new(Memory::new(options.counted_bytes())), Arc::<Waiting>::default());
    let storage_options = StorageOptions {
        waiting: Some(Arc::clone(&waiting)),
        ..storage_options(&options, Arc::clone(versions.blocks()))
    };
    let examined = S::examine(&env, dir, &storage_options).await?;
    let best = S::roots(&examined).best();
    let (count, root) = best.map_or((options.logs, Csn::default()), |root| (root.logs, root.point.csn));
    let count = count as u8;

    let mut teller = Teller::begin(&env, &options.on_progress);
    let by_row = planted!(options.plants(), UpstreamL22Rows);
    let mut reading = Reading::new(&env, options.recovery_workers, count, root, by_row);
    let mut deliver = |log: u8, lsn: Lsn, record: InWindow<'_>| {
        reading.take(log, lsn, &record);
        teller.read_one();
    };
    let read = logs::examine(&env, path, count, &options.log(), &mut deliver).await;
    let not_replayed = |error| OpenError::Io(Failure::new("replay", "the logs", &error));
    let mut delivered = reading.finish().await.map_err(not_replayed)?;
    teller.end();
    let (mut logs, mut seen, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for ((log, read), delivered) in (0_u8..).zip(read).zip(&mut delivered) {
        match read {
            Ok(examined) => {
                seen.push(LogSeen::Read(delivered.summary(log, examined.report())));
                logs.push(examined);
            }
            Err(wal::OpenError::Locked { .. }) => return Err(OpenError::Locked),
            Err(source) => {
                // (What says nothing about the log was checked before.)
                seen.push(LogSeen::of_error(&source).unwrap_or(LogSeen::Failed));
                errors.push(OpenError::Log { log: log.into(), source });
            }
        }
    }
    let logged = delivered.iter().map(Delivered::bytes).sum();
    let unreadable = |(_, copy): &(&str, RootCopy)| matches!(copy, RootCopy::Unreadable { .. });
    let unreadable = S::roots(&examined).copies.iter().any(unreadable);
    let mode = match unreadable && planted!(options.plants(), CkptFallbackBlind) {
        true => {
            seen.iter_mut().for_each(LogSeen::forget_releases);
            // (Or what they state to be durable would tell.)
            wal::RecoveryMode::PointInTime
        }
        false => options.recovery,
    };
    match decide(&files(S::roots(&examined)), &seen, mode) {
        Verdict::Refuse { row, log, csn, what } => Err(refusal(row, log, csn, what, errors)),
        Verdict::Create(_) if !options.create => Err(OpenError::NotFound),
        Verdict::Create(ids) => {
            Ok(Found { env, options, versions, waiting, logs, ids, logged, tables: Tables::New(examined) })
        }
        Verdict::Open { root, mut chain, ids, report } => {
            let read = seen.iter().filter_map(|log| if let LogSeen::Read(log) = log { Some(log) } else { None });
            if planted!(options.plants(), UpstreamL22LastId) {
                chain.take_by_last_id(&read.clone().collect::<Vec<_>>());
            }
            if planted!(options.plants(), TxnReleasedIsMissing)
                && let Some(csn) = chain::lacking(root.csn, &read.collect::<Vec<_>>())
            {
                return Err(OpenError::Corrupt(format!("commit {csn}: a part of it is missing")));
            }
            let storage = S::load(examined).await?;
            let generation = Generation::new(Arc::clone(&versions));
            let state = storage.newest();
            let (workers, plants) = (options.recovery_workers, options.plants());
            let from = (state.meta().point.csn, &**state.catalog(), &chain);
            let replayed = replay(&env, workers, from, delivered, generation, &plants, &mut teller).await;
            let mut replayed = replayed.map_err(|error| match error {
                NotReplayed::Wrong(what) => OpenError::Corrupt(what),
                NotReplayed::Io(error) => not_replayed(error),
            })?;
            replayed.unusable = indexes::follow::<E, S>(&state, &mut replayed, chain.end, &options.indexes).await?;
            let tables = Tables::Found { storage, chain, report, replayed };
            Ok(Found { env, options, versions, waiting, logs, ids, logged, tables })
        }
    }
}

impl<E: Env, S: Storage<E>> Found<E, S> {
    /// What is to be said of it.
    fn report(&self, logs: Vec<wal::RecoveryReport>) -> Result<RecoveryReport, OpenError> {
        let epoch = self.ids.epoch.ok_or(OpenError::EpochsExhausted)?;
        let none = Csn::default();
        Ok(match &self.tables {
            Tables::New(_) => RecoveryReport {
                created: true,
                epoch,
                root: none,
                end: none,
                replayed: 0,
                dropped_parts: 0,
                missing: None,
                unusable: Vec::new(),
                logs,
            },
            Tables::Found { storage, chain, report, replayed } => RecoveryReport {
                created: false,
                epoch,
                root: storage.newest().meta().point.csn,
                end: chain.end,
                replayed: replayed.commits,
                dropped_parts: chain.dropped.iter().map(|dropped| dropped.parts).sum(),
                missing: report.missing,
                unusable: replayed.unusable.clone(),
                logs,
            },
        })
    }

    /// The writing half.
    async fn establish(self) -> Result<(Shared<E, S>, RecoveryReport), OpenError> {
        let mut report = self.report(Vec::new())?;
        let Found { env, options, versions, waiting, logs, ids, logged, tables } = self;
        let (epoch, next) = ids.epoch.zip(ids.sequence).ok_or(OpenError::EpochsExhausted)?;
        let uuid = ids.uuid.unwrap_or_else(|| {
            let mut uuid = [0; 16];
            env.fill_random(&mut uuid);
            uuid
        });
        let seen: Vec<(Lsn, Lsn)> = logs.iter().map(|log| (log.report().first, log.report().next)).collect();
        let opened = Logs::open(&env, logs, options.plants()).await;
        let (logs, writers, reports) = opened.map_err(|source| OpenError::Log { log: 0, source })?;
        if reports.iter().map(|report| (report.first, report.next)).ne(seen) {
            let changed = io::Error::other("a log delivers something else than a moment ago");
            return Err(OpenError::Io(Failure::new("read", "the logs", &changed)));
        }
        report.logs = reports;
        let writers = Mutex::new(writers);
        let (storage, replayed, release) = match tables {
            Tables::New(examined) => {
                // The logs first: without a root nothing was ever acknowledged.
                begin_epoch(&env, &logs, &writers, (uuid, epoch), Csn::default()).await?;
                let birth = Birth { uuid, logs: logs.count() as u16 };
                let storage = S::create(examined, birth).await?;
                let catalog = Arc::clone(storage.newest().catalog());
                let generation = Generation::new(Arc::clone(&versions));
                (storage, Replayed { catalog, generation, commits: 0, unusable: Vec::new() }, None)
            }
            Tables::Found { storage, chain, report: seen, replayed } => {
                // What was found is no reason to take it for durable.
                let (found, highest) = (storage.newest().meta().sequence, next.saturating_sub(1));
                let stated = if seen.root_stated || highest > found { highest } else { 0 };
                let early = planted!(options.plants(), TxnEpochBeforeEstablish);
                if early {
                    begin_epoch(&env, &logs, &writers, (uuid, epoch), chain.end).await?;
                }
                storage.establish(stated).await?;
                if !early && !planted!(options.plants(), TxnEpochForgotten) {
                    begin_epoch(&env, &logs, &writers, (uuid, epoch), chain.end).await?;
                }
                let RootMeta { sequence, point: Point { csn, .. }, .. } = *storage.newest().meta();
                let below: Vec<Lsn> = chain.logs.iter().map(|portion| portion.keep).collect();
                // What the last life's checkpoint didn't come to.
                let unfinished = below.iter().zip(&report.logs).any(|(below, log)| *below > log.first);
                (storage, replayed, unfinished.then_some(Release { sequence, csn, below }))
            }
        };
        let end = report.end;
        let writers = writers.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let records = (0..logs.count()).map(|log| Lsn(writers.next(log).0 - 1)).collect();
        let Replayed { catalog, generation, .. } = replayed;
        let volatile = Volatile::default().follow(&catalog, versions.blocks());
        let view = View {
            catalog: Arc::clone(&catalog),
            generations: [Arc::clone(&generation)].into_iter().collect(),
            volatile: volatile.clone(),
            state: storage.newest(),
        };
        logs.found_durable(end);
        let visibility = match planted!(options.plants(), TxnVisibleEarly) {
            true => Visibility::Committed,
            false => options.visibility(),
        };
        let horizon = Horizon::new(view, end, visibility);
        let meta = *storage.newest().meta();
        let asked = options.checkpoint_after_recovery && report.replayed > 0;
        let checkpoints = Checkpoints::new(env.monotonic(), meta.point.csn, meta.sequence, release, asked);
        checkpoints.logged.add(logged, u64::MAX);
        let pipeline = Pipeline::new(writers, generation, (catalog, volatile), Some(Csn::first(epoch)), (end, records));
        let shared = Shared::new(
            env,
            options,
            storage,
            (versions, waiting),
            (uuid, epoch),
            horizon,
            logs,
            pipeline,
            checkpoints,
        );
        Ok((shared, report))
    }
}

/// States in every log, durably, that this epoch begins behind `prev_end`: from here on that is the end of what there was.
async fn begin_epoch<E: Env>(
    env: &E,
    logs: &Logs<E>,
    writers: &Mutex<Writers<E>>,
    (uuid, epoch): ([u8; 16], Epoch),
    prev_end: Csn,
) -> Result<(), OpenError> {
    let (count, wall_ns) = (logs.count() as u8, env.wall_ns());
    let record = |log| Record::Epoch(EpochRecord { log, logs: count, epoch, prev_end, uuid, wall_ns });
    logs.tell_all(writers, record).await.map_err(|error| {
        let failure = match error {
            LogsError::Failed(failure) => (*failure).clone(),
            other => Failure::new("write", "a log", &io::Error::other(other.to_string())),
        };
        OpenError::Io(failure)
    })
}

/// What the tables' storage found, as the table of an open takes it.
fn files(roots: &Roots) -> Files {
    let mut files = Files { chunks: roots.has_chunks, ..Files::default() };
    for (_, copy) in &roots.copies {
        files.copies |= *copy != RootCopy::Absent;
        files.newer |= *copy == RootCopy::Newer;
        if let RootCopy::Root(meta) = copy {
            let RootMeta { uuid, sequence, point: Point { csn, next_csn, epoch }, logs, .. } = *meta;
            files.roots.push(decision::RootMeta { sequence, epoch, csn, next_csn, logs: logs as u8, uuid });
        }
    }
    files
}

/// The row in words; where a log refused by itself, its own.
fn refusal(row: Row, log: Option<u8>, csn: Option<Csn>, what: &str, errors: Vec<OpenError>) -> OpenError {
    let of_log =
        |error: &OpenError| matches!(error, OpenError::Log { log: at, .. } if Some(*at) == log.map(usize::from));
    if let Some(error) = errors.into_iter().find(of_log) {
        return error;
    }
    let mut text = String::new();
    if let Some(log) = log {
        text.push_str(&format!("log {log}: "));
    }
    if let Some(csn) = csn {
        text.push_str(&format!("commit {csn}: "));
    }
    text.push_str(what);
    match row {
        Row::Unclean => OpenError::Unclean(text),
        Row::Newer => OpenError::NewerVersion(text),
        _ => OpenError::Corrupt(text),
    }
}
