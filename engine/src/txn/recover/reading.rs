//! The logs as they are read: what each holds, and its changes in stretches, which others make rows of meanwhile.

use std::{io, mem};

use crate::{
    env::Env,
    txn::{crew::Ahead, ids::Csn, redo},
    wal::{InWindow, Lsn, RecoveryReport},
};

use super::{
    lobs::Pieces,
    records::Records,
    stretch::{STRETCH_BYTES, Stretch},
    summary::{Collector, Summary},
};

/// Logs that are being read.
pub(in crate::txn) struct Reading<E: Env> {
    logs: Vec<(Delivered, Records)>,
    /// Bytes of the last records, which are no stretch yet.
    last_bytes: usize,
    /// The last commit of the newest root.
    after: Csn,
    ahead: Ahead<E, (usize, Csn, Records), Stretch>,
}

/// What a log has delivered.
pub(in crate::txn) struct Delivered {
    collector: Collector,
    pub(super) stretches: Vec<Stretch>,
    /// Records that are pieces of values: whoever names them may stand in another stretch.
    pub(super) pieces: Pieces,
    /// Those of the others behind which its stretches were read.
    pub(super) after: Csn,
    bytes: u64,
    by_row: bool,
}

impl<E: Env> Reading<E> {
    /// Of so many logs, behind a root, with so many tasks beside the caller. `by_row`: the planted bug.
    pub(in crate::txn) fn new(env: &E, workers: u16, logs: u8, after: Csn, by_row: bool) -> Reading<E> {
        let delivered = |log| Delivered {
            collector: Collector::new(log).by_row(by_row),
            stretches: Vec::new(),
            pieces: Pieces::new(),
            after,
            bytes: 0,
            by_row,
        };
        let logs = (0..logs).map(|log| (delivered(log), Records::default())).collect();
        let ahead = Ahead::new(env, workers, |(log, after, records)| Stretch::behind(log, after, records));
        Reading { logs, last_bytes: 0, after, ahead }
    }

    /// Takes a log's next record. One log is read after the other.
    pub(in crate::txn) fn take(&mut self, log: u8, lsn: Lsn, record: &InWindow<'_>) {
        let (delivered, last) = &mut self.logs[usize::from(log)];
        delivered.collector.glance(lsn, record);
        delivered.bytes += record.len() as u64;
        if redo::is_piece(record) {
            return delivered.pieces.push((lsn, record.shared()));
        }
        if last.is_empty() {
            self.last_bytes = 0;
        }
        self.last_bytes += record.len();
        last.push(lsn, record);
        if self.last_bytes >= STRETCH_BYTES {
            let room = Records::with_room(last.len() + last.len() / 8);
            self.ahead.push((usize::from(log), self.after, mem::replace(last, room)));
        }
    }

    /// All of them are read.
    ///
    /// # Errors
    /// `Other`: a task panicked.
    pub(in crate::txn) async fn finish(self) -> io::Result<Vec<Delivered>> {
        let (mut logs, mut last) = (Vec::new(), Vec::new());
        for (log, (delivered, records)) in self.logs.into_iter().enumerate() {
            logs.push(delivered);
            if !records.is_empty() {
                last.push((log, self.after, records));
            }
        }
        for stretch in self.ahead.finish(last).await? {
            logs[stretch.log].stretches.push(stretch);
        }
        Ok(logs)
    }
}

impl Delivered {
    /// What it holds, as far as the log's verdict says that it counts.
    pub(in crate::txn) fn summary(&mut self, log: u8, report: &RecoveryReport) -> Summary {
        let mut collector = mem::replace(&mut self.collector, Collector::new(log).by_row(self.by_row));
        if self.stretches.iter().any(|stretch| stretch.unreadable) {
            // What is wrong with a part is seen where all of it is read.
            collector = mem::replace(&mut self.collector, Collector::new(log));
            let others = self.stretches.iter().flat_map(|stretch| stretch.records.iter());
            let pieces = self.pieces.iter().map(|(lsn, record)| (*lsn, &record[..]));
            let mut records: Vec<(Lsn, &[u8])> = others.chain(pieces).collect();
            records.sort_by_key(|(lsn, _)| *lsn);
            records.into_iter().for_each(|(lsn, record)| collector.take(lsn, record));
        }
        // What is below the log's floor may be there, or not: nothing may depend on it.
        self.pieces.retain(|(lsn, _)| *lsn >= report.first);
        collector.finish(report)
    }

    /// Bytes of all of it.
    pub(in crate::txn) fn bytes(&self) -> u64 {
        self.bytes
    }
}
