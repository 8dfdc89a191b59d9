//! A look at all of a store: whatever is wrong with its files, and where, not just the first thing. Changes no byte.

use std::{fmt, path::Path};

use crate::{
    env::Env,
    segment,
    wal::{self, InWindow, Lsn, RecoveryMode, TailKind, Wal},
};

use super::{
    RecoveryReport,
    blocks::Blocks,
    error::OpenError,
    logs::log_path,
    open,
    options::Options,
    pages::node::Flaw,
    recover::summary::{Collector, Sense},
    storage::{Memory, RootCopy, Storage},
};

/// What a check found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct CheckReport {
    /// What is wrong, file by file: root copies, then what keeps the tables, then the logs.
    pub findings: Vec<Finding>,
    /// Why an open with the same options would refuse the store.
    pub refused: Option<OpenError>,
    /// What it would report if it doesn't.
    pub recovery: Option<RecoveryReport>,
    /// Pages that were read, and pages of values.
    pub pages: u64,
    /// Rows of all tables at the newest root, entries of indexes among them.
    pub rows: u64,
    /// Records of all logs.
    pub records: u64,
    /// Files that the newest root doesn't need: an interrupted checkpoint has left them, and the next open removes them.
    pub leftovers: Vec<String>,
}

impl CheckReport {
    /// Nothing is wrong, not even what a crash leaves.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty() && self.refused.is_none()
    }

    /// Nothing is wrong but what a crash can leave, and the next open puts right.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.refused.is_none() && self.findings.iter().all(|finding| finding.crash)
    }

    /// Notes something that no crash leaves.
    pub(super) fn damage(&mut self, file: impl Into<String>, offset: u64, what: Wrong) {
        self.findings.push(Finding { file: file.into(), offset, what, crash: false });
    }
}

/// Something that is wrong with a file of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The file, from the store's directory on.
    pub file: String,
    /// Where in it, in bytes: of pages their beginning, of fields the field's; 0 of a log as a whole.
    pub offset: u64,
    /// What.
    pub what: Wrong,
    /// A crash can leave it, and an open puts it right; else it is damage. Remedy for that: restore a backup.
    pub crash: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.file, self.offset, self.what)?;
        if self.crash { write!(f, " (a crash can leave this)") } else { Ok(()) }
    }
}

/// What can be wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Wrong {
    /// A file that is needed isn't there.
    #[error("there is no such file")]
    Missing,
    /// A file is shorter than what names it says.
    #[error("the file is shorter than it was")]
    Short,
    /// The machine doesn't give the bytes.
    #[error("it can't be read: {0}")]
    Unreadable(String),
    /// A newer version wrote it.
    #[error("a newer version wrote it")]
    Newer,
    /// It belongs to another store.
    #[error("it belongs to another store")]
    OtherStore,
    /// A root copy can't be read, or what it says can't be.
    #[error("the root copy: {0}")]
    Root(String),
    /// The header of a chunk file.
    #[error("the header of a chunk file: {0}")]
    Header(String),
    /// A page isn't the one that names it says, or isn't whole.
    #[error("page: {0}")]
    Page(Flaw),
    /// A value in pages of its own has another checksum.
    #[error("wrong checksum of a value")]
    Value,
    /// Bytes that mean nothing are not zero.
    #[error("bytes behind the end are not zero")]
    Remainder,
    /// A page has keys that its parent doesn't have below it.
    #[error("keys outside of what the page above says")]
    Range,
    /// Values in pages of their own stand below it, and the page above doesn't say so.
    #[error("values in pages of their own that the page above doesn't know of")]
    Runs,
    /// An entry of the table of tables, or of the directory.
    #[error("{0}")]
    Entry(String),
    /// A page that two others name, or the header of a file.
    #[error("a page that is named twice")]
    Twice,
    /// Somebody names a page that there isn't.
    #[error("there is no such page, and another one names it")]
    Beyond,
    /// So many pages side by side are needed, and free, say the bitmaps: they would be written over.
    #[error("{0} pages that are needed are not in use, say the bitmaps")]
    NotInUse(u32),
    /// So many pages side by side are in use, say the bitmaps, and nothing names them: space is lost.
    #[error("{0} pages are in use, say the bitmaps, and nothing names them")]
    Lost(u32),
    /// One of both copies of what a log's file says of itself.
    #[error("a copy of the log's identity can't be read")]
    Identity,
    /// What a log's own open says against it.
    #[error("{0}")]
    Log(String),
    /// The end of a log doesn't count.
    #[error("{bytes} bytes behind the end of the log, {records} records among them, don't count")]
    Dropped {
        /// As far as anything looks like a record, in bytes.
        bytes: u64,
        /// Whole records among them.
        records: u64,
    },
    /// Records that no file of a log has any more.
    #[error("records {0} to {1} can't be read")]
    Gap(Lsn, Lsn),
    /// A whole record that makes no sense where it is.
    #[error("record {0} makes no sense: {1}")]
    Record(Lsn, String),
}

/// Looks at everything.
pub(super) async fn check<E: Env, S: Storage<E>>(
    env: E,
    path: &Path,
    options: Options,
) -> Result<CheckReport, OpenError> {
    let options = Options { create: false, ..options };
    options.validate()?;
    let (dir, _lock) = open::locked(&env, path, false).await?;
    let examined =
        S::examine(&env, &dir, &open::storage_options(&options, Blocks::new(&Memory::new(options.counted_bytes()))))
            .await?;
    let mut report = CheckReport::default();
    let roots = S::roots(&examined);
    for (name, copy) in &roots.copies {
        let (offset, what) = match copy {
            RootCopy::Absent | RootCopy::Root(_) => continue,
            RootCopy::Newer => (0, Wrong::Newer),
            RootCopy::Unreadable { offset, what } => (*offset, Wrong::Root(what.clone())),
        };
        // The copy that is not in use is written in its place.
        let crash = what != Wrong::Newer && roots.best().is_some();
        report.findings.push(Finding { file: (*name).to_owned(), offset, what, crash });
    }
    let logs = roots.best().map_or(options.logs, |root| root.logs) as u8;
    S::check(&examined, &mut report).await;
    drop(examined);
    for log in 0..logs {
        check_log(&env, path, log, &options, &mut report).await?;
    }
    match open::foresee::<E, S>(env, &dir, path, options).await {
        Ok(recovery) => report.recovery = Some(recovery),
        Err(error @ (OpenError::NotFound | OpenError::Locked)) => return Err(error),
        Err(error) => report.refused = Some(error),
    }
    Ok(report)
}

/// Looks at one log: what it says of itself, each of its records.
async fn check_log<E: Env>(
    env: &E,
    path: &Path,
    log: u8,
    options: &Options,
    report: &mut CheckReport,
) -> Result<(), OpenError> {
    // Damage is to be found, whatever an open does about it.
    let wal_options = options.log().to_wal().recovery(RecoveryMode::TolerateTornTail);
    let (path, named) = (log_path(path, log), |file: &str| format!("log-{log}/{file}"));
    let mut collector = Collector::new(log);
    let mut deliver = |lsn, record: InWindow<'_>| collector.take(lsn, &record);
    match Wal::examine(env.clone(), &path, wal_options, &mut deliver).await {
        Ok(examined) => {
            let found = examined.report();
            report.records += found.records();
            for dropped in found.dropped.iter().filter(|dropped| dropped.bytes > 0) {
                let what = Wrong::Dropped { bytes: dropped.bytes, records: dropped.records };
                let crash = found.tail != TailKind::Damaged;
                report.findings.push(Finding { file: named(&dropped.file), offset: dropped.offset, what, crash });
            }
            for senseless in collector.finish(found).senseless {
                report.damage(format!("log-{log}"), 0, Wrong::Record(senseless.lsn, sense(&senseless.why)));
            }
        }
        Err(wal::OpenError::Locked { .. }) => return Err(OpenError::Locked),
        Err(wal::OpenError::Corrupt { file, offset, what }) => {
            report.damage(named(&file), offset, Wrong::Log(what.to_owned()));
            let salvaged = Wal::salvage(env.clone(), &path, |_, _| ()).await;
            for gap in salvaged.into_iter().flat_map(|salvaged| salvaged.gaps) {
                report.damage(format!("log-{log}"), 0, Wrong::Gap(Lsn(gap.start), Lsn(gap.end - 1)));
            }
        }
        Err(other) => report.damage(format!("log-{log}"), 0, Wrong::Log(other.to_string())),
    }
    match segment::unreadable_identities(env, &path).await {
        Ok(unreadable) => {
            for (file, offset) in unreadable {
                // A copy is replaced in its place, one at a time.
                report.findings.push(Finding { file: named(&file), offset, what: Wrong::Identity, crash: true });
            }
        }
        Err(error) => report.damage(format!("log-{log}"), 0, Wrong::Unreadable(error.to_string())),
    }
    Ok(())
}

fn sense(why: &Sense) -> String {
    match why {
        Sense::Unreadable(error) => error.to_string(),
        Sense::OtherLog => "it was written to another log".to_owned(),
        Sense::OutOfOrder => "it is of a commit that doesn't come after the one before it".to_owned(),
    }
}
