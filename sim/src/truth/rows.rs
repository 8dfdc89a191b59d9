//! What the tables hold at each commit: a model by commit numbers.

use std::collections::BTreeMap;

use bytes::Bytes;

/// A table's number, and the key in it.
pub type Key = (u32, Vec<u8>);

/// What a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Rows.
    Rows,
    /// Rows that no open finds.
    Memory,
    /// What [`entry`] makes of another table's rows.
    Index(u32),
}

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
    /// The commit that created it.
    pub created: u64,
    /// The one that dropped it.
    pub dropped: Option<u64>,
}

/// The entry of a row in the index: the value's first byte below the row's key, with the head of the value.
#[must_use]
pub fn entry(key: &[u8], value: &[u8]) -> (Vec<u8>, Bytes) {
    let head = value.first().copied().unwrap_or(0) % 8;
    ([&[b'0' + head], key].concat(), Bytes::copy_from_slice(&value[..value.len().min(8)]))
}

/// Tables and their rows, each with all its versions of this timeline.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) tables: BTreeMap<u32, Table>,
    versions: BTreeMap<Key, BTreeMap<u64, Option<Bytes>>>,
}

impl Rows {
    /// A commit wrote a key; what is of a table that is dropped is left out.
    pub(super) fn install(&mut self, csn: u64, key: &Key, value: Option<&Bytes>) -> bool {
        let there = self.tables.get(&key.0).is_some_and(|table| table.dropped.is_none());
        if there {
            self.versions.entry(key.clone()).or_default().insert(csn, value.cloned());
        }
        there
    }

    /// The commits that wrote a key, above one and below another.
    pub(super) fn between(&self, key: &Key, above: u64, below: u64) -> Option<u64> {
        if above.saturating_add(1) >= below {
            return None;
        }
        self.versions.get(key)?.range(above + 1..below).next_back().map(|(csn, _)| *csn)
    }

    /// The value of a row at a commit.
    pub(super) fn get(&self, key: &Key, at: u64) -> Option<&Bytes> {
        self.versions.get(key)?.range(..=at).next_back()?.1.as_ref()
    }

    /// The rows of a table at a commit; of an index what follows from those of its table.
    pub(super) fn table(&self, table: u32, at: u64) -> BTreeMap<Vec<u8>, Bytes> {
        let Some(info) = self.tables.get(&table) else { return BTreeMap::new() };
        let there = info.created <= at && info.dropped.is_none_or(|dropped| dropped > at);
        match info.kind {
            _ if !there => BTreeMap::new(),
            Kind::Index(of) => self.table(of, at).iter().map(|(key, value)| entry(key, value)).collect(),
            Kind::Rows | Kind::Memory => self
                .versions
                .range((table, Vec::new())..(table + 1, Vec::new()))
                .filter_map(|((_, key), versions)| {
                    let value = versions.range(..=at).next_back()?.1.clone()?;
                    Some((key.clone(), value))
                })
                .collect(),
        }
    }

    /// What an open finds that ends with this commit.
    pub(super) fn durable(&self, at: u64) -> BTreeMap<Key, Bytes> {
        let tables = self.tables.iter().filter(|(_, info)| info.kind != Kind::Memory).map(|(table, _)| *table);
        tables
            .flat_map(|table| self.table(table, at).into_iter().map(move |(key, value)| ((table, key), value)))
            .collect()
    }

    /// The commits of a range that changed anything.
    pub(super) fn changes(&self, table: u32, above: u64, to: u64) -> Vec<u64> {
        if above >= to {
            return Vec::new();
        }
        let of = self.tables.get(&table).map_or(table, |info| match info.kind {
            Kind::Index(of) => of,
            Kind::Rows | Kind::Memory => table,
        });
        let versions = self.versions.range((of, Vec::new())..(of + 1, Vec::new()));
        let mut all: Vec<u64> =
            versions.flat_map(|(_, versions)| versions.range(above + 1..=to)).map(|(csn, _)| *csn).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// A crash took what came after this commit, and what was in memory alone.
    pub(super) fn cut(&mut self, end: u64) {
        let Rows { tables, versions } = self;
        tables.retain(|_, table| table.created <= end);
        for table in tables.values_mut() {
            table.dropped = table.dropped.filter(|dropped| *dropped <= end);
        }
        let lives = |table: u32| tables.get(&table).is_some_and(|table| table.kind != Kind::Memory);
        versions.retain(|(table, _), versions| {
            versions.retain(|csn, _| *csn <= end);
            lives(*table) && !versions.is_empty()
        });
    }

    /// What was found counts, whatever was known.
    pub(super) fn replace(&mut self, end: u64, tables: BTreeMap<u32, Table>, rows: &BTreeMap<Key, Bytes>) {
        *self = Rows { tables, versions: BTreeMap::new() };
        for (key, value) in rows {
            self.versions.entry(key.clone()).or_default().insert(end, Some(value.clone()));
        }
    }
}
