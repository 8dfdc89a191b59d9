//! Stretches of a log: each becomes rows in order of their keys, while the log is still being read.
//!
//! Which commits count is known only when all logs were read. So a stretch is read as if all behind the newest root did, which is nearly
//! always so; where it isn't, it is read once more. Its rows are places in the records, which share the memory that the log was read
//! into, until it is known what counts.

use std::{collections::BTreeMap, mem};

use crate::txn::{
    ids::{Csn, TableId, TxnId},
    overlay::{Key, Value, ValuePlace, ValueRef, Values},
    redo::{LobRef, Op, Part, is_part},
};

use super::{
    chain::Chain,
    lobs::{Pieces, assemble},
    records::{OldWindows, Records},
    rows::{Twice, newest},
};

/// Bytes of a stretch, about: few enough to be sorted in a core's cache.
pub(super) const STRETCH_BYTES: usize = 4 << 20;

/// Values of so many bytes are put into memory that the log was read into: about half a window.
const ENOUGH_BYTES: usize = 128 << 10;

/// A row as a commit has left it.
#[derive(Debug, Default)]
pub(super) struct Row {
    pub(super) key: Key,
    pub(super) csn: Csn,
    pub(super) value: ValueAt,
}

/// Where a value stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum ValueAt {
    /// There is none: the row is gone.
    #[default]
    Nowhere,
    /// In a window of the stretch's records.
    In { window: u32, at: u32, bytes: u32 },
    /// In pieces; which of the stretch's values of that kind it is.
    Pieces(u32),
    /// Among the values of the table.
    Here(ValuePlace),
}

impl Row {
    /// What of a window's memory its value would fill.
    fn bytes_in_piece(&self) -> usize {
        match self.value {
            ValueAt::In { bytes, .. } if Values::is_in_piece(bytes as usize) => bytes as usize,
            _ => 0,
        }
    }
}

/// What a stretch of a log does.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    pub(super) log: usize,
    pub(super) records: Records,
    pub(super) tables: BTreeMap<TableId, Changes>,
    /// Records that create or drop tables.
    pub(super) catalog: Vec<u32>,
    /// Commits that were taken: the first and the last of each epoch.
    spans: Vec<(Csn, Csn)>,
    /// A part can't be read.
    pub(super) unreadable: bool,
    /// The rows are not in order: a commit changes one twice.
    twice: bool,
}

/// What a stretch does to a table.
#[derive(Debug)]
pub(super) struct Changes {
    /// The first commit that does anything.
    pub(super) first: Csn,
    /// By key, each once.
    pub(super) rows: Vec<Row>,
    /// What its rows have been given of [`ValueAt::Here`].
    pub(super) values: Values,
    /// Values in pieces.
    lobs: Vec<(Csn, TxnId, LobRef)>,
}

impl Stretch {
    /// As if all commits behind this one counted.
    pub(super) fn behind(log: usize, after: Csn, records: Records) -> Stretch {
        let mut stretch = Stretch { log, records, ..Stretch::default() };
        let records = mem::take(&mut stretch.records);
        for (nth, (_, record)) in (0..).zip(records.iter()).filter(|(_, (_, record))| is_part(record)) {
            let read = match Part::again(record).filter(|part| part.stamp.csn > after) {
                Some(part) => {
                    stretch.note(part.stamp.csn);
                    let mut taking = Taking::new(&mut stretch, &records, nth, &part);
                    Part::decode_with(record, |op| taking.op(op))
                }
                None => Part::decode_with(record, |_| ()),
            };
            stretch.unreadable |= read.is_err();
        }
        stretch.records = records;
        // (What comes of it then is nothing that counts.)
        stretch.twice = stretch.sort().is_err();
        stretch
    }

    /// As the chain says; with a planted bug with what the root has, up to this commit. Says how many of those there were.
    pub(super) fn again(mut self, chain: &Chain, twice: Option<Csn>) -> Result<(Stretch, u64), String> {
        let (log, records) = (self.log, mem::take(&mut self.records));
        let (mut stretch, mut again) = (Stretch { log, ..Stretch::default() }, 0);
        for (nth, (_, record)) in (0..).zip(records.iter()) {
            let Some(part) = Part::again(record) else { continue };
            let counts = chain.counts(part.stamp.csn);
            if counts || twice.is_some_and(|root| part.stamp.csn <= root) {
                let mut taking = Taking::new(&mut stretch, &records, nth, &part);
                part.ops().filter(|op| counts || !is_of_catalog(op)).for_each(|op| taking.op(op));
                again += u64::from(!counts);
            }
        }
        stretch.records = records;
        stretch.sort().map_err(|(table, twice)| twice_in(table, &twice))?;
        Ok((stretch, again))
    }

    /// Whether it was read as the chain says; `after` is where it was read from.
    pub(super) fn fits(&self, after: Csn, root: Csn, chain: &Chain) -> bool {
        let whole = |(first, last): &(Csn, Csn)| chain.spans.iter().any(|(from, to)| from <= first && last <= to);
        after <= root && !self.unreadable && !self.twice && self.spans.iter().all(whole)
    }

    /// Copies its values, by key, so that the memory that the log was read into may go: by table why one can't be put together.
    pub(super) fn copy_values(&mut self, pieces: &Pieces, old: &OldWindows) -> Vec<Option<String>> {
        self.tables.values_mut().map(|changes| changes.copy_values(&self.records, pieces, old)).collect()
    }

    fn note(&mut self, csn: Csn) {
        match self.spans.last_mut() {
            Some((first, last)) if first.epoch() == csn.epoch() => (*first, *last) = (csn.min(*first), csn.max(*last)),
            _ => self.spans.push((csn, csn)),
        }
    }

    /// Leaves each row's newest version alone, by key.
    fn sort(&mut self) -> Result<(), (TableId, Twice)> {
        for (table, changes) in &mut self.tables {
            let mut order = Vec::with_capacity(changes.rows.len());
            newest(&[&changes.rows], |_, at| order.push(at)).map_err(|twice| (*table, twice))?;
            let mut rows = mem::take(&mut changes.rows);
            changes.rows = order.into_iter().map(|at| mem::take(&mut rows[at])).collect();
        }
        Ok(())
    }
}

impl Changes {
    /// Copies its values out of the records, and puts those in pieces together; why one can't be.
    fn copy_values(&mut self, records: &Records, pieces: &Pieces, old: &OldWindows) -> Option<String> {
        let (mut lobs, mut wrong) = (Vec::<Option<Value>>::with_capacity(self.lobs.len()), None);
        for (csn, txn, value) in &self.lobs {
            match assemble(pieces, *txn, *value) {
                Ok(value) => lobs.push(Some(value)),
                Err(why) => {
                    lobs.push(None);
                    wrong.get_or_insert_with(|| format!("commit {csn}: {why}"));
                }
            }
        }
        let mut left: usize = self.rows.iter().map(Row::bytes_in_piece).sum();
        for row in &mut self.rows {
            let value = match row.value {
                ValueAt::In { window, at, bytes } => Some(ValueRef::Bytes(records.part(window, at, bytes))),
                ValueAt::Pieces(nth) => lobs[nth as usize].as_ref().map(ValueRef::Shared),
                ValueAt::Nowhere | ValueAt::Here(_) => None,
            };
            // (A window would be too much for few.)
            let many = left >= ENOUGH_BYTES;
            left -= row.bytes_in_piece();
            if value.is_some() {
                let place = self.values.put_over(value, || many.then(|| old.take()).flatten());
                row.value = ValueAt::Here(place);
            }
        }
        wrong
    }
}

/// A part on its way into a stretch.
struct Taking<'a> {
    tables: &'a mut BTreeMap<TableId, Changes>,
    catalog: &'a mut Vec<u32>,
    log: usize,
    records: &'a Records,
    record: u32,
    csn: Csn,
    txn: TxnId,
    table: Option<TableId>,
}

impl<'a> Taking<'a> {
    fn new(stretch: &'a mut Stretch, records: &'a Records, record: u32, part: &Part<'_>) -> Taking<'a> {
        let Stretch { tables, catalog, log, .. } = stretch;
        let (csn, txn) = (part.stamp.csn, part.stamp.txn);
        Taking { tables, catalog, log: *log, records, record, csn, txn, table: None }
    }

    fn op(&mut self, op: Op<'_>) {
        if is_of_catalog(&op) {
            // The catalog is in the first log.
            if self.log == 0 && self.catalog.last() != Some(&self.record) {
                self.catalog.push(self.record);
            }
            return;
        }
        if let Op::Table { id, .. } = op {
            let new = || Changes { first: self.csn, rows: Vec::new(), values: Values::default(), lobs: Vec::new() };
            self.tables.entry(id).or_insert_with(new);
            self.table = Some(id);
        }
        let Some(changes) = self.table.and_then(|table| self.tables.get_mut(&table)) else { return };
        let (key, value) = match op {
            Op::Put { key, value } => {
                let (window, at) = self.records.place(self.record, value);
                (key, Some(ValueAt::In { window, at, bytes: value.len() as u32 }))
            }
            Op::Delete { key } => (key, None),
            Op::PutLob { key, value } => {
                changes.lobs.push((self.csn, self.txn, value));
                (key, Some(ValueAt::Pieces(changes.lobs.len() as u32 - 1)))
            }
            Op::Table { .. } | Op::Create { .. } | Op::Drop { .. } => return,
        };
        changes.rows.push(Row { key: Key::new(key), csn: self.csn, value: value.unwrap_or_default() });
    }
}

fn is_of_catalog(op: &Op<'_>) -> bool {
    matches!(op, Op::Create { .. } | Op::Drop { .. })
}

pub(super) fn twice_in(table: TableId, Twice(csn): &Twice) -> String {
    format!("commit {csn}, table {}: the table has a newer version", table.0)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::txn::{
        ids::Epoch,
        redo::{Stamp, encode_part},
    };
    use crate::wal::Lsn;

    const TABLE: TableId = TableId(7);

    fn csn(number: u64) -> Csn {
        Csn::from_bits(Csn::first(Epoch::FIRST).to_bits() + number).expect("there are many")
    }

    /// The commit of a number, with a put of a key.
    fn part(number: u64, key: &[u8], value: &[u8]) -> (Lsn, Bytes) {
        let mut record = Vec::new();
        encode_part(&mut record, [Op::Table { id: TABLE, meta: 0 }, Op::Put { key, value }]).expect("it fits");
        let txn = TxnId::from_bits(TxnId::first(Epoch::FIRST).to_bits() + number).expect("there are many");
        let stamp = Stamp { participants: 1, csn: csn(number), txn, durable: Csn::default() };
        stamp.put(&mut record).expect("it is a part");
        (Lsn(number + 1), record.into())
    }

    /// Commits from number 0 on, each with a put of a key; the value is the number.
    fn records(keys: &[&[u8]]) -> Vec<(Lsn, Bytes)> {
        (0..).zip(keys).map(|(number, key)| part(number, key, &[number as u8])).collect()
    }

    fn taken(records: &[(Lsn, Bytes)]) -> Records {
        let mut taken = Records::default();
        records.iter().for_each(|(lsn, record)| taken.push(*lsn, &record.into()));
        taken
    }

    fn chain(first: u64, last: u64) -> Chain {
        Chain { end: csn(last), spans: vec![(csn(first), csn(last))], logs: Vec::new(), dropped: Vec::new() }
    }

    fn rows(stretch: &Stretch) -> Vec<(&[u8], &[u8])> {
        let value = |row: &Row| match row.value {
            ValueAt::In { window, at, bytes } => stretch.records.part(window, at, bytes),
            ValueAt::Nowhere | ValueAt::Pieces(_) | ValueAt::Here(_) => &[],
        };
        stretch.tables[&TABLE].rows.iter().map(|row| (row.key.bytes(), value(row))).collect()
    }

    #[test]
    fn a_stretch_that_was_read_ahead_is_what_the_chain_says_or_is_read_again() {
        let all: [&[u8]; 4] = [b"b", b"a", b"b", b"a"];
        let root = csn(0);
        let ahead = |records: Vec<(Lsn, Bytes)>| Stretch::behind(0, root, taken(&records));
        let stretch = ahead(records(&all));
        assert!(stretch.fits(root, root, &chain(1, 3)));
        assert_eq!(rows(&stretch), [(&b"a"[..], &[3][..]), (b"b", &[2])]);
        // The last one doesn't count: what it has replaced is the newest again.
        assert!(!stretch.fits(root, root, &chain(1, 2)));
        let (again, more) = stretch.again(&chain(1, 2), None).expect("all is in order");
        assert_eq!((rows(&again), more), (vec![(&b"a"[..], &[1][..]), (b"b", &[2])], 0));
        // An older root.
        let stretch = ahead(records(&all)[..2].to_vec());
        assert!(!stretch.fits(root, Csn::default(), &chain(0, 1)));
        let (again, _) = stretch.again(&chain(0, 1), None).expect("all is in order");
        assert_eq!(rows(&again), [(&b"a"[..], &[1][..]), (b"b", &[0])]);
    }

    #[test]
    fn what_is_not_as_written_never_fits() {
        let (root, everything) = (Csn::default(), chain(0, 1));
        let mut unreadable = records(&[b"a", b"b"]);
        unreadable[1].1 = unreadable[1].1.slice(..unreadable[1].1.len() - 1);
        let stretch = Stretch::behind(0, root, taken(&unreadable));
        assert!(stretch.unreadable && !stretch.fits(root, root, &everything));
        let mut twice = records(&[b"a", b"a"]);
        twice[1].1 = twice[0].1.clone();
        let stretch = Stretch::behind(0, root, taken(&twice));
        assert!(!stretch.unreadable && !stretch.fits(root, root, &everything));
        assert!(stretch.again(&everything, None).is_err());
    }

    #[test]
    fn values_are_copied_into_memory_that_records_have_left() {
        let mut old = OldWindows::default();
        // (In the test each record is a window of its own. The last one is too large to be filled with values.)
        let large = Values::LARGEST_PIECE_BYTES;
        let cases = [(200, 900, false), (100, 900, true), (200, 900, true), (3, 70_000, false), (1, large, false)];
        for (rows, length, read) in cases {
            let leaves = !read && length < large;
            let value = |number: usize| vec![number as u8; length + number % 9];
            let records: Vec<_> =
                (0..rows).map(|number| part(number, &[number as u8], &value(number as usize))).collect();
            let mut stretch = Stretch::behind(0, Csn::default(), taken(&records));
            assert_eq!(stretch.copy_values(&Pieces::new(), &old), [None]);
            let changes = stretch.tables.remove(&TABLE).expect("it has rows");
            let kept = read.then_some(records);
            old = OldWindows::default();
            stretch.records.leave_to(&old);
            // What somebody else reads stays his.
            assert_eq!(old.take().is_some(), leaves);
            assert!(kept.is_none_or(|records| records.iter().all(|(_, record)| record.is_unique())));
            assert_eq!(changes.rows.len(), rows as usize);
            for (number, row) in changes.rows.iter().enumerate() {
                let ValueAt::Here(place) = row.value else { panic!("{:?}", row.value) };
                assert_eq!(changes.values.get(place).map(ValueRef::bytes), Some(&value(number)[..]));
            }
        }
    }
}
