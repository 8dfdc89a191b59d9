//! What is in the tables, and whether it belongs together: every transaction is there as a whole or not at all.

use std::{collections::BTreeMap, ops::RangeInclusive};

use bytes::Bytes;
use engine::txn::{RecoveryReport, catalog::TableInfo, ids::TableId};

use super::seat::{DONE, NAMES};
use crate::{
    subject::Recovered,
    truth::txn::{Found, Stored},
};

pub(super) const META: &str = "meta";
pub(super) const RECEIPTS: &str = "receipts";
pub(super) const ROWS: [&str; 3] = ["t0", "t1", "t2"];
/// Keys of the table of counters: the oldest LSN, and the one that the next record gets. 1 where there is none.
pub(super) const FIRST: &[u8] = b"first";
pub(super) const NEXT: &[u8] = b"next";

/// A number, as all keys but those of the counters and all values but those of the rows are.
pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

/// The rows of all tables.
#[derive(Default)]
pub(super) struct Content {
    counters: BTreeMap<Vec<u8>, u64>,
    /// By the first LSN of a transaction, how many records it appended.
    receipts: BTreeMap<u64, u64>,
    /// By LSN, the table that it was found in.
    rows: BTreeMap<u64, (usize, Bytes)>,
    /// What is no row of this subject.
    stray: Option<String>,
    /// What transactions of clients have left.
    stored: Stored,
}

/// Whether transactions of clients use a table of this name.
pub(super) fn is_of_clients(name: &str) -> bool {
    NAMES.contains(&name) || name == DONE
}

impl Content {
    /// There is a table.
    pub(super) fn there(&mut self, table: &TableInfo) {
        let TableInfo { id, name, created, .. } = table;
        if is_of_clients(name) {
            let found = Found { name: name.to_string(), created: created.to_bits() };
            self.stored.tables.get_or_insert_default().insert(id.0, found);
        }
    }

    pub(super) fn take(&mut self, id: TableId, table: &str, key: &[u8], value: &[u8]) {
        if is_of_clients(table) {
            self.stored.rows.insert((id.0, key.to_vec()), Bytes::copy_from_slice(value));
            return;
        }
        let row = ROWS.iter().position(|name| *name == table);
        let taken = match (row, number(key)) {
            (Some(place), Some(lsn)) => self.rows.insert(lsn, (place, Bytes::copy_from_slice(value))).is_none(),
            (None, Some(first)) if table == RECEIPTS => {
                number(value).is_some_and(|count| self.receipts.insert(first, count).is_none())
            }
            (None, _) if table == META => {
                number(value).is_some_and(|number| self.counters.insert(key.to_vec(), number).is_none())
            }
            _ => false,
        };
        if !taken {
            self.stray = Some(format!("{table} has a row {} that makes no sense", key.escape_ascii()));
        }
    }

    fn counter(&self, key: &[u8]) -> u64 {
        self.counters.get(key).copied().unwrap_or(1)
    }

    /// What doesn't belong together.
    pub(super) fn flaw(&self) -> Option<String> {
        if self.stray.is_some() {
            return self.stray.clone();
        }
        let (first, next) = (self.counter(FIRST), self.counter(NEXT));
        let counters = format!("the counters say {first}..{next}");
        if !self.rows.keys().copied().eq(first..next) {
            return Some(format!("{counters}, there are the rows {}", ranges(self.rows.keys().copied())));
        }
        if let Some((lsn, (place, _))) = self.rows.iter().find(|(lsn, (place, _))| **lsn % 3 != *place as u64) {
            return Some(format!("row {lsn} is in {}", ROWS[*place]));
        }
        // Receipts one behind the other, from the one that the first row belongs to.
        let mut at = self.receipts.keys().next().copied().unwrap_or(next);
        let begins = if first == next { at == next } else { at <= first };
        for (place, (from, count)) in self.receipts.iter().enumerate() {
            if *from != at || place == 0 && from + count <= first {
                return Some(format!("{counters}, there is a receipt of {count} from {from} on"));
            }
            at += count;
        }
        (!begins || at != next)
            .then(|| format!("{counters}, the receipts reach from {:?} to {at}", self.receipts.keys().next()))
    }

    pub(super) fn into_records(self) -> Vec<(u64, Bytes)> {
        self.rows.into_iter().map(|(lsn, (_, record))| (lsn, record)).collect()
    }

    pub(super) fn recovered(mut self, report: &RecoveryReport) -> Recovered {
        let Stored { root, end, replayed, .. } = &mut self.stored;
        (*root, *end, *replayed) = (report.root.to_bits(), report.end.to_bits(), report.replayed);
        let contradicts = report.root > report.end || (report.end == report.root) != (report.replayed == 0);
        let flaw = self.flaw().or_else(|| {
            contradicts.then(|| format!("{} commits replayed from {} to {}", report.replayed, report.root, report.end))
        });
        let tail = if report.replayed > 0 { "with the logs" } else { "with the tables" };
        Recovered { flaw, generation: Some(report.epoch.get()), tail, ..self.nothing() }
    }

    /// The same, where nothing was opened.
    pub(super) fn nothing(mut self) -> Recovered {
        let stored = Some(std::mem::take(&mut self.stored));
        let first = self.counter(FIRST);
        let records = self.into_records();
        Recovered {
            first,
            reported: records.len() as u64,
            unproven_from: first + records.len() as u64,
            records,
            dropped: Vec::new(),
            generation: None,
            segments: 0,
            tail: "before it began",
            flaw: None,
            stored,
        }
    }
}

/// Numbers, as few words as possible.
fn ranges(numbers: impl Iterator<Item = u64>) -> String {
    let mut ranges: Vec<RangeInclusive<u64>> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some(last) if *last.end() + 1 == number => *last = *last.start()..=number,
            _ => ranges.push(number..=number),
        }
    }
    format!("{ranges:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(first: u64, next: u64, receipts: &[(u64, u64)], rows: impl Iterator<Item = u64>) -> Content {
        let mut content = Content::default();
        content.take(TableId(1), META, FIRST, &first.to_be_bytes());
        content.take(TableId(1), META, NEXT, &next.to_be_bytes());
        for (from, count) in receipts {
            content.take(TableId(1), RECEIPTS, &from.to_be_bytes(), &count.to_be_bytes());
        }
        for lsn in rows {
            content.take(TableId(1), ROWS[(lsn % 3) as usize], &lsn.to_be_bytes(), b"record");
        }
        content
    }

    #[test]
    fn what_belongs_together_has_no_flaw_and_everything_else_has_one() {
        assert_eq!(Content::default().flaw(), None);
        assert_eq!(content(1, 6, &[(1, 2), (3, 3)], 1..6).flaw(), None);
        assert_eq!(content(2, 6, &[(1, 2), (3, 3)], 2..6).flaw(), None);
        assert_eq!(content(6, 6, &[], 6..6).flaw(), None);
        for wrong in [
            content(1, 6, &[(1, 2), (3, 3)], 1..5),
            content(1, 6, &[(1, 2), (3, 3)], 1..7),
            content(1, 6, &[(1, 2)], 1..6),
            content(1, 6, &[(3, 3)], 1..6),
            content(1, 6, &[(1, 2), (4, 2)], 1..6),
            content(3, 6, &[(1, 2), (3, 3)], 3..6),
            content(6, 6, &[(1, 5)], 6..6),
            content(1, 7, &[(1, 2), (3, 3)], 1..6),
        ] {
            assert!(wrong.flaw().is_some());
        }
        let mut misplaced = content(1, 2, &[(1, 1)], 1..1);
        misplaced.take(TableId(1), ROWS[0], &1_u64.to_be_bytes(), b"record");
        assert!(misplaced.flaw().is_some_and(|flaw| flaw.contains("t0")));
    }
}
