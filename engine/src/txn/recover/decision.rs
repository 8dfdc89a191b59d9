//! The table of an open: what was seen of a store, the first row that matches, and what follows from it.
//!
//! It only judges. Whoever opens reads first: the root copies and which other files there are, then the logs, then (once nothing
//! above row 11 matches) the pages that the chosen root names. Nothing is written before row 16 or row 5 has matched.

use std::collections::BTreeSet;

use crate::{
    txn::{
        ids::{Csn, Epoch},
        redo::MAX_LOGS,
    },
    wal::{OpenError, RecoveryMode, TailKind},
};

use super::{
    chain::{Chain, Contradiction, Why, chain, epochs},
    summary::{Senseless, Summary},
};

/// A root, as its copy states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::txn) struct RootMeta {
    pub(in crate::txn) sequence: u64,
    /// The epoch that it was published in.
    pub(in crate::txn) epoch: Epoch,
    /// The last commit that it holds, or none.
    pub(in crate::txn) csn: Csn,
    /// The commit that was to be given next when it was frozen.
    pub(in crate::txn) next_csn: Csn,
    pub(in crate::txn) logs: u8,
    pub(in crate::txn) uuid: [u8; 16],
}

/// What was seen of everything but the logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::txn) struct Files {
    /// A call to the machine failed.
    pub(in crate::txn) failed: bool,
    /// Something is of a newer major version.
    pub(in crate::txn) newer: bool,
    /// There are root copies, whatever is in them.
    pub(in crate::txn) copies: bool,
    /// Those that can be read.
    pub(in crate::txn) roots: Vec<RootMeta>,
    /// There are chunk files.
    pub(in crate::txn) chunks: bool,
    /// The stores that chunk files named by the root say they are of.
    pub(in crate::txn) chunk_uuids: BTreeSet<[u8; 16]>,
    /// Pages that the chosen root names are damaged or missing; false before they were looked at.
    pub(in crate::txn) damaged: bool,
}

/// What was seen of one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::txn) enum LogSeen {
    Failed,
    Newer,
    /// Segments of two logs are in it.
    OtherLog,
    /// Damaged, by its own evidence.
    Refused,
    Unclean,
    Read(Summary),
}

impl LogSeen {
    /// The planted bug: see [`Summary::forget_releases`].
    pub(in crate::txn) fn forget_releases(&mut self) {
        if let LogSeen::Read(summary) = self {
            summary.forget_releases();
        }
    }

    /// Sorts an error of a log. None: it says nothing about the log (it is in use, or the options are wrong).
    pub(in crate::txn) fn of_error(error: &OpenError) -> Option<LogSeen> {
        match error {
            OpenError::Options(_) | OpenError::Locked { .. } => None,
            OpenError::Io { .. } => Some(LogSeen::Failed),
            OpenError::NewerVersion { .. } => Some(LogSeen::Newer),
            OpenError::OtherLog { .. } => Some(LogSeen::OtherLog),
            OpenError::Unclean { .. } => Some(LogSeen::Unclean),
            OpenError::Corrupt { .. } => Some(LogSeen::Refused),
        }
    }
}

/// The rows, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::txn) enum Row {
    /// 1: a call to the machine failed. To be tried again; nothing is lost.
    Failed = 1,
    /// 2: something is of a newer major version.
    Newer,
    /// 3: files of two stores.
    OtherStore,
    /// 4: a log is damaged. (In point-in-time mode a log is cut instead, and this is what can't be cut.)
    LogRefused,
    /// 5: no store: nothing, or a creation that was interrupted.
    New,
    /// 6: there was a store, and no root of it can be read.
    RootsLost,
    /// 7: pages without a root: a backup that was interrupted.
    IncompleteBackup,
    /// 8: a log is missing, or is none of this store.
    LogMissing,
    /// 9: the newest root that can be read is older than what a log was released for.
    RootReleased,
    /// 10: a log ends before the root's epoch: it is an older copy.
    LogOlder,
    /// 11: pages that the root names are damaged.
    PagesDamaged,
    /// 12: two logs state different ends of an epoch.
    EpochsDiffer,
    /// 13: something was stated to be durable, and is missing. (In point-in-time mode it is reported.)
    StatedMissing,
    /// 14: a record on the chain makes no sense.
    Senseless,
    /// 15: not closed, in the mode that asks for this.
    Unclean,
    /// 16: it opens.
    Opens,
}

impl Row {
    pub(in crate::txn) const ALL: [Row; 16] = [
        Row::Failed,
        Row::Newer,
        Row::OtherStore,
        Row::LogRefused,
        Row::New,
        Row::RootsLost,
        Row::IncompleteBackup,
        Row::LogMissing,
        Row::RootReleased,
        Row::LogOlder,
        Row::PagesDamaged,
        Row::EpochsDiffer,
        Row::StatedMissing,
        Row::Senseless,
        Row::Unclean,
        Row::Opens,
    ];
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::txn) enum Verdict {
    /// The row says what; the log and the commit where, as far as that is known.
    Refuse { row: Row, log: Option<u8>, csn: Option<Csn>, what: &'static str },
    /// A store is to be created, or its creation to be gone on with.
    Create(Ids),
    /// At this root, and what follows it.
    Open { root: RootMeta, chain: Chain, ids: Ids, report: Reported },
}

/// What must be above, or the same as, everything that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::txn) struct Ids {
    /// The store; none where nothing says so.
    pub(in crate::txn) uuid: Option<[u8; 16]>,
    /// The epoch that begins; none if all are used.
    pub(in crate::txn) epoch: Option<Epoch>,
    /// The lowest sequence for the next root; none if all are used.
    pub(in crate::txn) sequence: Option<u64>,
}

/// What an open says beside the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::txn) struct Reported {
    /// A log states that the root was durable, so its copy need not be written again.
    pub(in crate::txn) root_stated: bool,
    /// In point-in-time mode: what was stated to be durable, if it is beyond the end.
    pub(in crate::txn) missing: Option<Csn>,
}

/// Judges a store.
pub(in crate::txn) fn decide(files: &Files, logs: &[LogSeen], mode: RecoveryMode) -> Verdict {
    let judged = Judged::new(files, logs, mode);
    let Some((row, found)) = Row::ALL.into_iter().find_map(|row| Some((row, judged.matches(row)?))) else {
        return Verdict::Refuse { row: Row::RootsLost, log: None, csn: None, what: "no root can be read" };
    };
    match (row, judged.behind) {
        (Row::New, _) => Verdict::Create(judged.ids),
        (Row::Opens, Some(Behind { root, chain: Ok(chain), stated, .. })) => {
            let missing = (chain.end < stated).then_some(stated);
            let root_stated = judged.summaries.iter().flat_map(|log| &log.checkpoints);
            let root_stated = root_stated.into_iter().any(|(_, checkpoint)| checkpoint.sequence == root.sequence);
            Verdict::Open { root, chain, ids: judged.ids, report: Reported { root_stated, missing } }
        }
        (row, _) => Verdict::Refuse { row, log: found.log, csn: found.csn, what: found.what },
    }
}

/// Why a row matches.
struct Found {
    log: Option<u8>,
    csn: Option<Csn>,
    what: &'static str,
}

/// What was seen, with what can be reckoned from it.
struct Judged<'a> {
    files: &'a Files,
    logs: &'a [LogSeen],
    summaries: Vec<&'a Summary>,
    mode: RecoveryMode,
    ids: Ids,
    /// Where there is a root that can be read, and all of its logs.
    behind: Option<Behind>,
}

/// The newest root that can be read, and what is behind it.
struct Behind {
    root: RootMeta,
    /// The first epoch whose end is stated differently.
    differ: Option<Epoch>,
    chain: Result<Chain, Contradiction>,
    /// The last commit that anything states to be durable.
    stated: Csn,
}

impl Behind {
    fn of(root: RootMeta, logs: &[&Summary]) -> Behind {
        let (ends, differ) = match epochs(logs) {
            Ok(ends) => (ends, None),
            Err(epoch) => (Default::default(), Some(epoch)),
        };
        let stated = logs.iter().map(|log| log.stated).max().unwrap_or_default();
        Behind { root, differ, chain: chain(root.csn, root.next_csn, &ends, logs), stated }
    }
}

impl<'a> Judged<'a> {
    fn new(files: &'a Files, logs: &'a [LogSeen], mode: RecoveryMode) -> Judged<'a> {
        let summaries: Vec<&Summary> =
            logs.iter().filter_map(|log| if let LogSeen::Read(summary) = log { Some(summary) } else { None }).collect();
        let root = files.roots.iter().max_by_key(|root| root.sequence).copied();
        let whole = |root: &RootMeta| summaries.len() == logs.len() && logs.len() == usize::from(root.logs);
        let behind = root.filter(whole).map(|root| Behind::of(root, &summaries));
        let ids = ids(root, &files.roots, &summaries);
        Judged { files, logs, summaries, mode, ids, behind }
    }

    /// The table: what each row asks for.
    fn matches(&self, row: Row) -> Option<Found> {
        let files = self.files;
        let used = self.logs.iter().any(|log| match log {
            LogSeen::Read(summary) => summary.used,
            LogSeen::Unclean => true,
            LogSeen::Failed | LogSeen::Newer | LogSeen::OtherLog | LogSeen::Refused => false,
        });
        match row {
            Row::Failed if files.failed => found("a call to the machine failed"),
            Row::Failed => self.log(|log| *log == LogSeen::Failed, "it could not be read"),
            Row::Newer if files.newer => found("a root copy or a chunk is of a newer version"),
            Row::Newer => self.log(|log| *log == LogSeen::Newer, "it is of a newer version"),
            Row::OtherStore => self.other_store(),
            Row::LogRefused => self.log(|log| *log == LogSeen::Refused, "it is damaged"),
            Row::New if !files.copies && !files.chunks && !used => found("there is no store"),
            Row::RootsLost if !files.copies && used => found("the logs are of a store whose roots are gone"),
            Row::RootsLost if files.copies && files.roots.is_empty() => found("no root copy can be read"),
            Row::IncompleteBackup if !files.copies && files.chunks => {
                found("pages without a root: a backup that did not end")
            }
            Row::LogMissing => self.log_missing(),
            Row::RootReleased => self.behind_log(
                |root, log| root.csn < log.released(),
                "it was released for a newer root than the one that can be read",
            ),
            Row::LogOlder => self
                .behind_log(|root, log| Some(root.epoch) > log.epoch, "it ends before the root's epoch: an older copy"),
            Row::PagesDamaged if files.damaged => found("pages that the root names are damaged or missing"),
            Row::EpochsDiffer if self.behind.as_ref()?.differ.is_some() => {
                found("two logs state different ends of an epoch")
            }
            Row::StatedMissing if self.mode != RecoveryMode::PointInTime => {
                let behind = self.behind.as_ref()?;
                let end = behind.chain.as_ref().ok()?.end;
                let what = "it was stated to be durable, and is missing";
                (end < behind.stated).then_some(Found { log: None, csn: Some(behind.stated), what })
            }
            Row::Senseless => self.senseless(),
            Row::Unclean => self.unclean(),
            Row::Opens if self.behind.is_some() => found("it opens"),
            Row::New
            | Row::RootsLost
            | Row::IncompleteBackup
            | Row::PagesDamaged
            | Row::EpochsDiffer
            | Row::StatedMissing
            | Row::Opens => None,
        }
    }

    /// The first log of which something is so.
    fn log(&self, is: impl Fn(&LogSeen) -> bool, what: &'static str) -> Option<Found> {
        let log = self.logs.iter().position(is)?;
        Some(Found { log: Some(log as u8), csn: None, what })
    }

    /// The same, of logs beside the root.
    fn behind_log(&self, is: impl Fn(&RootMeta, &Summary) -> bool, what: &'static str) -> Option<Found> {
        let root = &self.behind.as_ref()?.root;
        self.log(|log| matches!(log, LogSeen::Read(summary) if is(root, summary)), what)
    }

    fn other_store(&self) -> Option<Found> {
        let mut uuids = self.files.chunk_uuids.clone();
        uuids.extend(self.files.roots.iter().map(|root| root.uuid));
        if uuids.len() > 1 {
            return found("root copies and chunks are of different stores");
        }
        let two = self.log(|log| *log == LogSeen::OtherLog, "it holds segments of two logs");
        two.or_else(|| {
            let mut differs = |summary: &Summary| {
                uuids.extend(summary.uuids());
                uuids.len() > 1
            };
            let log = self.summaries.iter().find(|summary| differs(summary))?.log;
            Some(Found { log: Some(log), csn: None, what: "it is of another store" })
        })
    }

    fn log_missing(&self) -> Option<Found> {
        let known = |log: &LogSeen| !matches!(log, LogSeen::Read(summary) if summary.uuids().next().is_none());
        let root = self.files.roots.iter().max_by_key(|root| root.sequence)?;
        let missing = self.log(|log| !known(log), "it is missing, or none of this store");
        // (A log that nobody has looked at is as good as missing, and one too many is a log of another store.)
        let fewer = self.logs.len() != usize::from(root.logs.min(MAX_LOGS));
        missing.or(if fewer { found("the root states another number of logs") } else { None })
    }

    fn senseless(&self) -> Option<Found> {
        let behind = self.behind.as_ref()?;
        let anywhere = |record: &Senseless| record.csn.is_none();
        let miscounts = |log: &Summary| {
            let epochs = log.epochs.iter().map(|(_, record)| record.logs);
            let mut logs = epochs.chain(log.checkpoints.iter().map(|(_, record)| record.logs));
            logs.any(|logs| logs != behind.root.logs)
        };
        for log in &self.summaries {
            if log.senseless.iter().any(anywhere) {
                return Some(Found { log: Some(log.log), csn: None, what: "a record makes no sense" });
            }
            if miscounts(log) {
                return Some(Found { log: Some(log.log), csn: None, what: "it states another number of logs" });
            }
        }
        let Contradiction { log, csn, what } = *behind.chain.as_ref().err()?;
        Some(Found { log: Some(log), csn: Some(csn), what })
    }

    fn unclean(&self) -> Option<Found> {
        let strict = self.mode == RecoveryMode::Absolute;
        let unclean = |log: &LogSeen| match log {
            LogSeen::Read(summary) => strict && summary.tail != TailKind::Clean,
            LogSeen::Unclean => true,
            LogSeen::Failed | LogSeen::Newer | LogSeen::OtherLog | LogSeen::Refused => false,
        };
        let chain = self.behind.as_ref().and_then(|behind| behind.chain.as_ref().ok());
        let beyond = chain.and_then(|chain| chain.dropped.iter().find(|dropped| strict && dropped.why == Why::Beyond));
        let beyond = beyond.map(|dropped| Found {
            log: Some(dropped.log),
            csn: Some(dropped.csn),
            what: "it holds a part of a commit that is not whole",
        });
        self.log(unclean, "it was not closed").or(beyond)
    }
}

fn found(what: &'static str) -> Option<Found> {
    Some(Found { log: None, csn: None, what })
}

/// What comes after everything that was ever stated.
fn ids(root: Option<RootMeta>, roots: &[RootMeta], logs: &[&Summary]) -> Ids {
    let stated = logs.iter().flat_map(|log| &log.checkpoints).map(|(_, checkpoint)| checkpoint.sequence);
    let highest = stated.chain(roots.iter().map(|root| root.sequence)).max();
    let next = highest.map_or(Some(0), |sequence| sequence.checked_add(1));
    // The copy of the root in use is never the one that is written.
    let in_use = root.is_some_and(|root| next.is_some_and(|next| root.sequence % 2 == next % 2));
    let sequence = if in_use { next.and_then(|next| next.checked_add(1)) } else { next };
    let epoch = logs.iter().filter_map(|log| log.epoch).chain(roots.iter().map(|root| root.epoch)).max();
    // (A creation that was interrupted may have come to any of the logs.)
    let newest = logs.iter().find_map(|log| log.epochs.last()).map(|(_, record)| record.uuid);
    Ids { uuid: root.map(|root| root.uuid).or(newest), epoch: epoch.map_or(Epoch::new(1), Epoch::next), sequence }
}

#[cfg(test)]
mod tests;
