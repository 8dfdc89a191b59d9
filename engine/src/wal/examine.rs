//! An open in two halves: what stands there, and what open makes of it. Nothing is written in between, so whoever opens several
//! logs as one may still refuse them all.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use tracing::info;

use crate::{
    env::{Dir, Env, interruptible},
    segment::InWindow,
};

use super::{
    Lsn, Wal,
    error::OpenError,
    keeper::Keeper,
    log::Log,
    open::{establish, report},
    options::Options,
    recover::{Deliver, Findings, USUAL_FRAMES, Use, examine},
    report::{RecoveryReport, TailKind},
    survey::Survey,
};

/// A log that was read and is still as it was. It is locked until this is dropped, or the log that is opened from it closed.
pub(crate) struct Examined<E: Env> {
    env: E,
    path: PathBuf,
    options: Options,
    report: RecoveryReport,
    /// `None` where there is no directory.
    found: Option<Found<E::Dir>>,
}

/// A directory that is locked, and what is in it.
struct Found<D: Dir> {
    dir: D,
    lock: D::Lock,
    findings: Findings<D>,
}

impl<E: Env> Wal<E> {
    /// The reading half of [`Wal::open`]: takes the lock, and finds out what an open with these options would deliver. Changes no
    /// byte; a missing directory is a new log.
    ///
    /// `deliver` is told of every record on the way, in order, before the verdict is known: those below the
    /// [report](Examined::report)'s `first` don't count, and none does if this fails.
    ///
    /// # Errors
    /// As [`Wal::open`].
    pub(crate) async fn examine(
        env: E,
        path: &Path,
        options: Options,
        deliver: &mut Deliver<'_>,
    ) -> Result<Examined<E>, OpenError> {
        options.validate()?;
        match interruptible(|| env.dir(path, false)).await {
            Ok(dir) => Examined::of(env, path, options, dir, Some(deliver)).await,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let report = report(&Survey::<E::Dir>::nothing().into_new(Vec::new()), 1);
                Ok(Examined { env, path: path.to_owned(), options, report, found: None })
            }
            Err(error) => Err(OpenError::io("open directory", path.display())(error)),
        }
    }
}

impl<E: Env> Examined<E> {
    /// What was found. The records from `first` on are those that [`Examined::open`] makes durable.
    pub(crate) fn report(&self) -> &RecoveryReport {
        &self.report
    }

    /// The writing half: opens, or creates, the log.
    ///
    /// # Errors
    /// [`OpenError::Io`]; nothing is lost, and all of it may be tried again.
    pub(crate) async fn open(self) -> Result<(Wal<E>, RecoveryReport), OpenError> {
        let Examined { env, path, options, report, found } = self;
        if report.tail == TailKind::New && !options.creates() {
            let source = io::ErrorKind::NotFound.into();
            return Err(OpenError::Io { operation: "open", what: path.display().to_string(), source });
        }
        let Found { dir, lock, findings } = match found {
            Some(found) => found,
            None => {
                let dir = directory(&env, &path, true).await?;
                Found::look(&env, &path, &options, dir, None).await?
            }
        };
        let (opened, report) = establish(&env, &dir, lock, &options, findings).await?;
        info!(
            path = %path.display(),
            first = report.first.0,
            next = report.next.0,
            tail = ?report.tail,
            unproven_from = report.unproven_from.0,
            carried = report.carried,
            generation = report.generation,
            "opened"
        );
        let log = Arc::new(Log::new(env, dir, options, opened));
        let keeper = Keeper::spawn(&log).map_err(OpenError::io("start", "the log's background task"))?;
        Ok((Wal { log, keeper: Arc::new(keeper) }, report))
    }

    async fn of<'a>(
        env: E,
        path: &Path,
        options: Options,
        dir: E::Dir,
        deliver: Option<&'a mut Deliver<'a>>,
    ) -> Result<Examined<E>, OpenError> {
        let found = Found::look(&env, path, &options, dir, deliver).await?;
        let report = report(&found.findings, found.findings.max_generation + 1);
        Ok(Examined { env, path: path.to_owned(), options, report, found: Some(found) })
    }
}

impl<D: Dir> Found<D> {
    async fn look<'a, E: Env<Dir = D>>(
        env: &E,
        path: &Path,
        options: &Options,
        dir: D,
        deliver: Option<&'a mut Deliver<'a>>,
    ) -> Result<Found<D>, OpenError> {
        let lock = lock(&dir, path).await?;
        let findings = examine(env, &dir, options, Use { carry: true, deliver }).await?;
        Ok(Found { dir, lock, findings })
    }
}

/// Both halves at once; only the directory may be made before the first is done.
pub(super) async fn open<E: Env>(env: E, path: &Path, options: Options) -> Result<(Wal<E>, RecoveryReport), OpenError> {
    options.validate()?;
    let dir = directory(&env, path, options.creates()).await?;
    Examined::of(env, path, options, dir, None).await?.open().await
}

/// What an open would deliver and report, without writing anything.
pub(super) async fn verify<E: Env>(
    env: E,
    path: &Path,
    options: Options,
    deliver: &mut (dyn FnMut(Lsn, Bytes) + Send),
) -> Result<RecoveryReport, OpenError> {
    options.validate()?;
    let dir = directory(&env, path, false).await?;
    let _lock = lock(&dir, path).await?;
    let mut records = Vec::with_capacity(USUAL_FRAMES);
    let mut keep = |lsn, record: InWindow<'_>| records.push((lsn, record.shared()));
    let examined = examine(&env, &dir, &options, Use { carry: false, deliver: Some(&mut keep) }).await?;
    let report = report(&examined, examined.max_generation + 1);
    for (lsn, record) in records.into_iter().filter(|(lsn, _)| (report.first..report.next).contains(lsn)) {
        deliver(lsn, record);
    }
    Ok(report)
}

async fn directory<E: Env>(env: &E, path: &Path, create: bool) -> Result<E::Dir, OpenError> {
    interruptible(|| env.dir(path, create)).await.map_err(OpenError::io("open directory", path.display()))
}

pub(super) async fn lock<D: Dir>(dir: &D, path: &Path) -> Result<D::Lock, OpenError> {
    interruptible(|| dir.lock()).await.map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked { path: path.to_owned() },
        _ => OpenError::Io { operation: "lock", what: path.display().to_string(), source },
    })
}
