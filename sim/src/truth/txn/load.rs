//! Tables that are loaded: from when one is to be published it may be there, as a whole, and it is once its client was told.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{C, Check, Key, Kind, Standing, Stored, Table, Truth, broken, virtual_us};

/// When what was found was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    Now,
    /// Perhaps before this event.
    Before(u64),
    /// Now, but a file is damaged.
    Damaged,
}

/// A load under way.
#[derive(Debug)]
pub(super) struct Loading {
    number: u64,
    name: String,
    rows: BTreeMap<Vec<u8>, Bytes>,
    /// It is to be published.
    finishes: bool,
}

impl Truth {
    /// A load of a table begins, as this transaction.
    pub fn loads(&mut self, number: u64, name: &str) {
        let (name, rows) = (name.to_owned(), BTreeMap::new());
        self.loading = Some(Loading { number, name, rows, finishes: false });
    }

    /// The table that is being loaded, or may be there.
    #[must_use]
    pub fn loading(&self) -> Option<String> {
        self.loading.as_ref().map(|loading| loading.name.clone())
    }

    /// A row of it: of those with one key the last counts.
    pub fn loads_row(&mut self, key: Vec<u8>, value: Bytes) {
        if let Some(loading) = &mut self.loading {
            loading.rows.insert(key, value);
        }
    }

    /// It has all its rows, and is to be published. How many they are.
    pub fn finishes_load(&mut self) -> u64 {
        self.loading.as_mut().map_or(0, |loading| {
            loading.finishes = true;
            loading.rows.len() as u64
        })
    }

    /// There is no such table, and there won't be.
    pub fn gives_up_load(&mut self) {
        if let Some(loading) = self.loading.take() {
            self.ended(loading.number, Standing::Failed);
        }
    }

    /// It is there: everybody sees it, as of this commit.
    pub fn loaded(&mut self, id: u32, csn: u64) -> Check {
        let Some(Loading { number, name, rows, finishes }) = self.loading.take() else { return Ok(()) };
        self.count("I12");
        if !finishes {
            let expected = format!("table {name} is loaded still, and nobody sees it");
            return broken("I12", expected, format!("it is there since {}", C(csn)));
        }
        self.events += 1;
        self.exposed.insert(id, (self.events, number));
        let table = Table { name, kind: Kind::Rows, created: csn, dropped: None };
        self.rows.tables.insert(id, table);
        self.newest_csn = self.newest_csn.max(csn);
        let Some(transaction) = self.transactions.get_mut(&number) else { return Ok(()) };
        for (key, value) in rows {
            let key = (id, key);
            self.rows.install(csn, &key, Some(&value));
            transaction.writes.push((key, Some(value)));
        }
        transaction.standing = Standing::Accepted(csn);
        transaction.accepted_us = virtual_us().unwrap_or(0);
        Ok(())
    }

    /// Whether a transaction sees nothing of a table whatever its snapshot is, since it began before others saw what was loaded. (Once it
    /// has ended it reads what everybody does.)
    pub(super) fn is_blind(&self, number: Option<u64>, table: u32) -> bool {
        let transaction = number.and_then(|number| self.transactions.get(&number));
        let began =
            transaction.filter(|one| one.snapshot.is_some() && one.standing == Standing::Open).map(|one| one.began);
        began.zip(self.exposed.get(&table)).is_some_and(|(began, (exposed, _))| began < *exposed)
    }

    /// Whether a table that was loaded may be missing: the root that it came with is not there. It is before others see it; and until its
    /// client is told, the logs may still have what an older root needs.
    pub(super) fn may_lack(&self, table: u32, stored: &Stored, moment: Moment) -> bool {
        let created = self.rows.tables.get(&table).map_or(0, |table| table.created);
        self.exposed.get(&table).filter(|_| created > stored.root).is_some_and(|(exposed, number)| match moment {
            Moment::Now => false,
            Moment::Before(event) => *exposed > event,
            Moment::Damaged => self.transactions.get(number).is_some_and(|one| one.acknowledged.is_none()),
        })
    }

    /// Whether a damaged store has what it had before the damage.
    #[must_use]
    pub fn has_all(&self, damaged: &Stored, sound: &Stored) -> bool {
        let kept = |((table, _), _): &(&Key, &Bytes)| !self.may_lack(*table, damaged, Moment::Damaged);
        damaged.end == sound.end && damaged.rows.iter().filter(kept).eq(sound.rows.iter().filter(kept))
    }

    /// An open found it, or it will never be there.
    pub(super) fn settles_load(&mut self, stored: &Stored) -> Check {
        let Some(name) = self.loading() else { return Ok(()) };
        let mut tables = stored.tables.iter().flatten();
        match tables.find(|(id, table)| table.name == name && !self.rows.tables.contains_key(*id)) {
            Some((id, table)) => self.loaded(*id, table.created),
            None => {
                self.gives_up_load();
                Ok(())
            }
        }
    }

    /// The number of the table whose load nobody was told of, if a disk has it. It has it as a whole.
    pub(super) fn half_loaded(&self, stored: &Stored, what: &str) -> Result<Option<u32>, crate::report::Violation> {
        let Some(loading) = self.loading.as_ref().filter(|loading| loading.finishes) else { return Ok(None) };
        let writes = |value: &Bytes| super::writer(value).is_some_and(|(number, _)| number == loading.number);
        let found = stored.rows.iter().find(|(key, value)| !self.rows.tables.contains_key(&key.0) && writes(value));
        let Some(((id, _), _)) = found else { return Ok(None) };
        let rows = stored.rows.range((*id, Vec::new())..(*id + 1, Vec::new()));
        if rows.clone().map(|((_, key), value)| (key, value)).ne(&loading.rows) {
            let expected =
                format!("{what}: all {} rows of table {}, which is loaded", loading.rows.len(), loading.name);
            broken("I12", expected, format!("{} rows, or others", rows.count()))?;
        }
        Ok(Some(*id))
    }

    /// The client of a load was told that it is there, with so many rows.
    pub fn load_told(&mut self, number: u64, csn: u64, expected: u64, rows: u64) -> Check {
        if !self.is_accepted(number) || rows != expected {
            return broken("I13", format!("a table of {expected} rows was loaded"), format!("{rows} are told of"));
        }
        self.durable(csn);
        self.acknowledged(number, csn, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Level;

    const TABLE: u32 = 7;

    /// A load of two rows that is not to be published yet.
    fn loading() -> (Truth, Vec<(Key, Bytes)>) {
        let mut truth = Truth::new(false, None);
        let number = truth.begins(Level::Committed);
        truth.loads(number, "k5");
        let mut rows = Vec::new();
        for key in [b"k00".to_vec(), b"k01".to_vec()] {
            let value = truth.issue(number, 8);
            truth.loads_row(key.clone(), value.clone());
            rows.push(((TABLE, key), value));
        }
        (truth, rows)
    }

    fn stored(root: u64, rows: &[(Key, Bytes)]) -> Stored {
        Stored { root, end: 5, rows: rows.iter().cloned().collect(), ..Stored::default() }
    }

    fn rule(check: Check) -> Result<(), &'static str> {
        check.map_err(|violation| violation.invariant)
    }

    #[test]
    fn a_table_that_is_loaded_is_there_as_a_whole_or_not_at_all() {
        let (mut truth, rows) = loading();
        assert_eq!(rule(truth.holds(&stored(5, &rows), "")), Err("I12"), "nobody has published it");
        assert_eq!(truth.finishes_load(), 2);
        assert_eq!(rule(truth.holds(&stored(5, &rows), "")), Ok(()));
        assert_eq!(rule(truth.holds(&stored(5, &[]), "")), Ok(()));
        assert_eq!(rule(truth.holds(&stored(5, &rows[1..]), "")), Err("I12"));
    }

    #[test]
    fn once_others_have_seen_it_only_an_image_from_before_may_lack_it() {
        let (mut truth, rows) = loading();
        truth.finishes_load();
        assert_eq!(rule(truth.loaded(TABLE, 5)), Ok(()));
        assert_eq!(rule(truth.holds(&stored(5, &rows), "")), Ok(()));
        assert!(truth.holds(&stored(4, &[]), "").is_err());
        assert_eq!(rule(truth.within_checkpoints(&[Ok(stored(4, &[]))])), Ok(()));
        assert!(truth.within_checkpoints(&[Ok(stored(4, &[]))]).is_err(), "it is of after that");
        assert!(truth.within_checkpoints(&[Ok(stored(5, &[]))]).is_err(), "its root has it");
    }
}
