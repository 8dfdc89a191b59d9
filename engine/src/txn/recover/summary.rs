//! What one log holds, without its contents: small enough to reckon with, whatever the log's length.

use std::collections::BTreeMap;

use crate::{
    txn::{
        ids::{Csn, Epoch, TxnId},
        redo::{Checkpoint, EpochRecord, Part, Record, RecordKind, RedoError, Stamp},
    },
    wal::{Lsn, RecoveryReport, TailKind},
};

/// Parts whose commits follow each other, in records that do so, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::txn) struct Run {
    /// The first one's commit, as bits: those of the others follow, and are of the same epoch.
    pub(in crate::txn) csn: u64,
    /// The first one's record.
    pub(in crate::txn) lsn: u64,
    pub(in crate::txn) count: u64,
    /// Of each of them.
    pub(in crate::txn) participants: u16,
}

impl Run {
    /// The commit behind the last one, as bits.
    pub(super) fn end(&self) -> u64 {
        self.csn + self.count
    }

    /// What is left without the first `count`, which it has.
    pub(super) fn without(self, count: u64) -> Run {
        Run { csn: self.csn + count, lsn: self.lsn + count, count: self.count - count, ..self }
    }
}

/// A record that makes no sense where it stands, though its frame is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::txn) struct Senseless {
    pub(in crate::txn) lsn: Lsn,
    /// The commit that it is a part of, as far as that can be told. Else it may be anything.
    pub(in crate::txn) csn: Option<Csn>,
    pub(in crate::txn) why: Sense,
}

/// Why a record makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::txn) enum Sense {
    /// It can't be read.
    Unreadable(RedoError),
    /// It says that it was written to another log.
    OtherLog,
    /// A part of a commit that doesn't come after the one before it.
    OutOfOrder,
}

/// What one log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::txn) struct Summary {
    /// The log, from 0.
    pub(in crate::txn) log: u8,
    /// The oldest record, and the one after the last.
    pub(in crate::txn) first: Lsn,
    pub(in crate::txn) next: Lsn,
    /// How it ended.
    pub(in crate::txn) tail: TailKind,
    /// All parts, in order.
    pub(in crate::txn) runs: Vec<Run>,
    /// Parts of commits that have large values here: the commit, and the first piece's record.
    pub(in crate::txn) lobs: Vec<(Csn, Lsn)>,
    pub(in crate::txn) epochs: Vec<(Lsn, EpochRecord)>,
    pub(in crate::txn) checkpoints: Vec<(Lsn, Checkpoint)>,
    pub(in crate::txn) senseless: Vec<Senseless>,
    /// The last commit that anything here states to be durable.
    pub(in crate::txn) stated: Csn,
    /// The last epoch that anything here is of.
    pub(in crate::txn) epoch: Option<Epoch>,
    /// Whether there is, or was, anything but the epochs that a creation writes.
    pub(in crate::txn) used: bool,
}

impl Summary {
    /// The last commit below which this log was released: an older root can't be completed from it. None if it wasn't.
    pub(in crate::txn) fn released(&self) -> Csn {
        let done = self.checkpoints.iter().filter(|(_, checkpoint)| checkpoint.release <= self.first);
        done.map(|(_, checkpoint)| checkpoint.csn).max().unwrap_or_default()
    }

    /// The planted bug: nobody looks what it was released for.
    pub(in crate::txn) fn forget_releases(&mut self) {
        self.checkpoints.iter_mut().for_each(|(_, checkpoint)| checkpoint.release = Lsn(u64::MAX));
    }

    /// What it says which store it is of.
    pub(super) fn uuids(&self) -> impl Iterator<Item = [u8; 16]> {
        let epochs = self.epochs.iter().map(|(_, record)| record.uuid);
        epochs.chain(self.checkpoints.iter().map(|(_, record)| record.uuid))
    }
}

/// Makes a summary of the records that a log delivers.
#[derive(Debug)]
pub(in crate::txn) struct Collector {
    summary: Summary,
    /// The first pieces of values whose part did not come yet.
    pieces: BTreeMap<TxnId, Lsn>,
    /// The planted bug: a commit has a part per row.
    by_row: bool,
}

impl Collector {
    pub(in crate::txn) fn new(log: u8) -> Collector {
        let summary = Summary {
            log,
            first: Lsn(1),
            next: Lsn(1),
            tail: TailKind::New,
            runs: Vec::new(),
            lobs: Vec::new(),
            epochs: Vec::new(),
            checkpoints: Vec::new(),
            senseless: Vec::new(),
            stated: Csn::default(),
            epoch: None,
            used: false,
        };
        Collector { summary, pieces: BTreeMap::new(), by_row: false }
    }

    pub(in crate::txn) fn by_row(self, by_row: bool) -> Collector {
        Collector { by_row, ..self }
    }

    /// Takes the next record, if somebody else sees whether the ops of a part can be read: if not, the summary is none.
    pub(in crate::txn) fn glance(&mut self, lsn: Lsn, bytes: &[u8]) {
        match Part::again(bytes) {
            Some(part) => self.take_part(lsn, &part.stamp),
            None => self.take(lsn, bytes),
        }
    }

    /// Takes the next record.
    pub(in crate::txn) fn take(&mut self, lsn: Lsn, bytes: &[u8]) {
        let summary = &mut self.summary;
        let record = match Record::decode(bytes) {
            Ok(record) => record,
            Err(error) => {
                summary.used = true;
                summary.senseless.push(Senseless { lsn, csn: csn_of_part(bytes), why: Sense::Unreadable(error) });
                return;
            }
        };
        let log = match &record {
            Record::Part(_) | Record::Lob(_) => summary.log,
            Record::Epoch(record) => record.log,
            Record::Checkpoint(record) => record.log,
            Record::Mark(record) => record.log,
        };
        if log != summary.log {
            summary.used = true;
            summary.senseless.push(Senseless { lsn, csn: None, why: Sense::OtherLog });
            return;
        }
        summary.used |= record.kind() != RecordKind::Epoch;
        let (epoch, stated) = match record {
            Record::Part(part) => return self.take_part(lsn, &part.stamp),
            Record::Lob(lob) => {
                self.pieces.entry(lob.txn).or_insert(lsn);
                (lob.txn.epoch(), Csn::default())
            }
            Record::Epoch(record) => {
                summary.epochs.push((lsn, record));
                (Some(record.epoch), record.prev_end)
            }
            Record::Checkpoint(record) => {
                summary.checkpoints.push((lsn, record));
                (Some(record.epoch), record.csn)
            }
            Record::Mark(mark) => (Some(mark.epoch), mark.durable),
        };
        self.state(epoch, stated);
    }

    fn take_part(&mut self, lsn: Lsn, stamp: &Stamp) {
        let summary = &mut self.summary;
        summary.used = true;
        let csn = stamp.csn;
        let goes_on = self.by_row && summary.runs.last().is_some_and(|run| run.end() == csn.to_bits() + 1);
        if !summary.push(lsn, csn, stamp.participants) && !goes_on {
            summary.senseless.push(Senseless { lsn, csn: None, why: Sense::OutOfOrder });
        }
        if let Some(first) = self.pieces.remove(&stamp.txn) {
            summary.lobs.push((csn, first));
        }
        self.state(csn.epoch(), stamp.durable);
    }

    /// What a record states was true when it was written, and stays so when the record is released.
    fn state(&mut self, epoch: Option<Epoch>, durable: Csn) {
        self.summary.epoch = self.summary.epoch.max(epoch);
        self.summary.stated = self.summary.stated.max(durable);
    }

    /// The summary, without what the log's verdict says doesn't count.
    pub(in crate::txn) fn finish(self, report: &RecoveryReport) -> Summary {
        let mut summary = self.summary;
        let first = report.first;
        (summary.first, summary.next, summary.tail) = (first, report.next, report.tail);
        summary.used |= first > Lsn(1);
        let released = |run: &Run| first.0.saturating_sub(run.lsn).min(run.count);
        let kept = summary.runs.iter().map(|run| run.without(released(run))).filter(|run| run.count > 0);
        summary.runs = kept.collect();
        summary.lobs.retain(|(_, lsn)| *lsn >= first);
        summary.epochs.retain(|(lsn, _)| *lsn >= first);
        summary.checkpoints.retain(|(lsn, _)| *lsn >= first);
        summary.senseless.retain(|record| record.lsn >= first);
        summary
    }
}

impl Summary {
    /// Adds a part; false if it is not of a later commit than the one before.
    pub(super) fn push(&mut self, lsn: Lsn, csn: Csn, participants: u16) -> bool {
        let csn = csn.to_bits();
        match self.runs.last_mut() {
            Some(run) if csn < run.end() => return false,
            Some(run) if (csn, lsn.0, participants) == (run.end(), run.lsn + run.count, run.participants) => {
                run.count += 1;
            }
            _ => self.runs.push(Run { csn, lsn: lsn.0, count: 1, participants }),
        }
        true
    }
}

/// The commit that an unreadable part says it is of.
fn csn_of_part(bytes: &[u8]) -> Option<Csn> {
    let csn = bytes.get(8..16)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))?;
    let is_part = bytes[0] == RecordKind::Part as u8;
    Csn::from_bits(csn).filter(|csn| is_part && *csn != Csn::default())
}
