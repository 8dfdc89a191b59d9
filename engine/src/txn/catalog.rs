//! Which tables there are at one CSN: names, numbers, kinds, logs. Pure: what stands on the disk is [`encode`]d here, each table's
//! entry by itself, and [`decode`]d from any bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use thiserror::Error;

use super::{
    ids::{Csn, TableId},
    pages::format::{CHILD_REF_BYTES, array, get_u32, get_u64, put},
    redo::{MAX_LOGS, MAX_NAME_BYTES},
};

/// Offset of each field of a table's entry, in bytes; FORMAT.md is held against this table.
pub(super) mod entry_at {
    pub(crate) const TREE: usize = 0;
    pub(crate) const CREATED: usize = 16;
    pub(crate) const META: usize = 24;
    pub(crate) const OF: usize = 32;
    pub(crate) const KIND: usize = 36;
    pub(crate) const LOG: usize = 37;
    pub(crate) const NAME_BYTES: usize = 38;
    pub(crate) const DERIVE_BYTES: usize = 39;
    pub(crate) const NAMES: usize = 40;
}

/// Bytes of an entry's key: the table's number, the highest byte first.
pub const ENTRY_KEY_BYTES: usize = 4;

/// What a table holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TableKind {
    /// Rows that are logged.
    #[default]
    Rows,
    /// Rows that are never logged, and in memory alone: empty after an open.
    Memory,
    /// What is derived from another table's rows; never logged.
    Index {
        /// The other table: an older one, so of a lower number.
        of: TableId,
        /// The function's name, 1 to 255 bytes.
        derive: Arc<str>,
    },
}

/// [`TableInfo::meta`] of an index that doesn't follow its rows.
const NOT_KEPT: u64 = 1;

/// What is fixed of a table while it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// Its number; not 0.
    pub id: TableId,
    /// Its name, 1 to 255 bytes.
    pub name: Arc<str>,
    /// What it holds.
    pub kind: TableKind,
    /// The log that its rows are written to, from 0; below 16.
    pub log: u8,
    /// The version of its metadata. Of an index: 1 if it doesn't follow its rows.
    pub meta: u64,
    /// The commit that created it; not none.
    pub created: Csn,
}

impl TableInfo {
    /// Whether it follows its rows, if it is an index.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        !matches!((&self.kind, self.meta), (TableKind::Index { .. }, NOT_KEPT))
    }
}

/// Why a table can't be added. Remedy: another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CatalogError {
    /// There is a table of this name.
    #[error("there is a table of this name")]
    NameTaken,
    /// An index is derived from it.
    #[error("an index is derived from it")]
    Indexed,
    /// There is, or was, a table of this number.
    #[error("there is, or was, a table of this number")]
    NumberTaken,
    /// A number, a name or a log is out of its range, or an index is of a table that there isn't.
    #[error("{0} is out of range")]
    Range(&'static str),
}

/// The tables at one CSN. An edit makes another catalog; the entries are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    next: TableId,
    tables: BTreeMap<TableId, Arc<TableInfo>>,
    names: BTreeMap<Arc<str>, TableId>,
    /// Indexes, each behind the table that it is of.
    indexes: BTreeSet<(TableId, TableId)>,
    /// Names of tables that are still to come. Known in memory alone.
    reserved: BTreeSet<Arc<str>>,
}

impl Default for Catalog {
    fn default() -> Catalog {
        Catalog::new()
    }
}

impl Catalog {
    /// No tables, and there never were any. Number 0 is that of the catalog itself.
    #[must_use]
    pub fn new() -> Catalog {
        Catalog {
            next: TableId(1),
            tables: BTreeMap::new(),
            names: BTreeMap::new(),
            indexes: BTreeSet::new(),
            reserved: BTreeSet::new(),
        }
    }

    /// Adds a table; from now on newer ones get higher numbers.
    ///
    /// # Errors
    /// Nothing is changed then.
    pub fn create(&mut self, table: TableInfo) -> Result<Arc<TableInfo>, CatalogError> {
        if table.id < self.next {
            return Err(CatalogError::NumberTaken);
        }
        let next = TableId(table.id.0.checked_add(1).ok_or(CatalogError::Range("id"))?);
        if let TableKind::Index { of, .. } = table.kind
            && self.table(of).is_none_or(|rows| rows.kind != TableKind::Rows)
        {
            return Err(CatalogError::Range("of"));
        }
        let table = self.admit(table)?;
        self.next = next;
        Ok(table)
    }

    /// Sets a name and a number apart for a table that comes later, if at all.
    pub(super) fn reserve(&mut self, name: &str) -> Result<TableId, CatalogError> {
        if self.names.contains_key(name) || !self.reserved.insert(name.into()) {
            return Err(CatalogError::NameTaken);
        }
        let id = self.next;
        self.next = TableId(id.0.checked_add(1).ok_or(CatalogError::Range("id"))?);
        Ok(id)
    }

    /// The table doesn't come. Its number is never given again.
    pub(super) fn give_up(&mut self, name: &str) {
        self.reserved.remove(name);
    }

    /// Adds a table under the name and the number that were set apart for it.
    pub(super) fn create_reserved(&mut self, table: TableInfo) -> Result<Arc<TableInfo>, CatalogError> {
        self.give_up(&table.name);
        self.admit(table)
    }

    /// Adds a table that was read, and says nothing of newer ones.
    fn admit(&mut self, table: TableInfo) -> Result<Arc<TableInfo>, CatalogError> {
        check(&table).map_err(CatalogError::Range)?;
        if self.tables.contains_key(&table.id) {
            return Err(CatalogError::NumberTaken);
        }
        if self.names.contains_key(&table.name) || self.reserved.contains(&table.name) {
            return Err(CatalogError::NameTaken);
        }
        let table = Arc::new(table);
        self.names.insert(Arc::clone(&table.name), table.id);
        self.tables.insert(table.id, Arc::clone(&table));
        if let TableKind::Index { of, .. } = table.kind {
            self.indexes.insert((of, table.id));
        }
        Ok(table)
    }

    /// Takes a table out. Its number is never given again. (Its indexes are the caller's business.)
    pub fn remove(&mut self, id: TableId) -> Option<Arc<TableInfo>> {
        let table = self.tables.remove(&id)?;
        self.names.remove(&table.name);
        if let TableKind::Index { of, .. } = table.kind {
            self.indexes.remove(&(of, id));
        }
        Some(table)
    }

    /// The indexes of a table, by number.
    pub fn indexes_of(&self, table: TableId) -> impl Iterator<Item = &Arc<TableInfo>> {
        let range = (table, TableId(0))..=(table, TableId(u32::MAX));
        self.indexes.range(range).filter_map(|(_, index)| self.table(*index))
    }

    /// Whether a table has indexes.
    #[must_use]
    pub fn is_indexed(&self, table: TableId) -> bool {
        !self.indexes.is_empty() && self.indexes_of(table).next().is_some()
    }

    /// Notes whether an index follows its rows.
    pub(super) fn set_kept(&mut self, index: TableId, kept: bool) {
        let Some(table) = self.tables.get_mut(&index).filter(|table| table.is_kept() != kept) else { return };
        *table = Arc::new(TableInfo { meta: if kept { 0 } else { NOT_KEPT }, ..TableInfo::clone(table) });
    }

    /// The number of the next table.
    #[must_use]
    pub fn next(&self) -> TableId {
        self.next
    }

    /// A table by its number.
    #[must_use]
    pub fn table(&self, id: TableId) -> Option<&Arc<TableInfo>> {
        self.tables.get(&id)
    }

    /// A table by its name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Arc<TableInfo>> {
        self.names.get(name).and_then(|id| self.table(*id))
    }

    /// All of them, by number.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<TableInfo>> {
        self.tables.values()
    }

    /// From the entries as they were read: key, value and what [`decode`] made of them.
    ///
    /// # Errors
    /// What is wrong with them as a whole: two tables of a name, or one that is as new as the next.
    pub(super) fn assemble(next: TableId, tables: impl IntoIterator<Item = TableInfo>) -> Result<Catalog, EntryFlaw> {
        let mut catalog = Catalog { next, ..Catalog::new() };
        for table in tables {
            if table.id >= next {
                return Err(EntryFlaw { offset: 0, field: "table" });
            }
            catalog.admit(table).map_err(|_| EntryFlaw { offset: entry_at::NAMES, field: "name" })?;
        }
        Ok(catalog)
    }
}

/// An entry that can't be, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{field} of a table's entry can't be this (at byte {offset} of the entry)")]
pub struct EntryFlaw {
    /// Where in the entry's value, in bytes.
    pub offset: usize,
    /// The field, by its name in FORMAT.md.
    pub field: &'static str,
}

/// A table's entry: its key, and its value with the place of its tree.
///
/// # Panics
/// Not for a table that a catalog has taken.
#[must_use]
pub fn encode(table: &TableInfo, tree: [u8; CHILD_REF_BYTES]) -> ([u8; ENTRY_KEY_BYTES], Vec<u8>) {
    let (code, of, derive) = match &table.kind {
        TableKind::Rows => (1, 0, ""),
        TableKind::Memory => (2, 0, ""),
        TableKind::Index { of, derive } => (3, of.0, &**derive),
    };
    let mut value = vec![0; entry_at::NAMES];
    put(&mut value, entry_at::TREE, tree);
    put(&mut value, entry_at::CREATED, table.created.to_bits().to_le_bytes());
    put(&mut value, entry_at::META, table.meta.to_le_bytes());
    put(&mut value, entry_at::OF, of.to_le_bytes());
    value[entry_at::KIND] = code;
    value[entry_at::LOG] = table.log;
    value[entry_at::NAME_BYTES] = name_bytes(&table.name);
    value[entry_at::DERIVE_BYTES] = name_bytes(derive);
    value.extend_from_slice(table.name.as_bytes());
    value.extend_from_slice(derive.as_bytes());
    (table.id.0.to_be_bytes(), value)
}

/// Reads an entry. An entry has one form: what is read is what [`encode`] gives.
///
/// # Errors
/// The first field that can't be.
pub fn decode(key: &[u8], value: &[u8]) -> Result<(TableInfo, [u8; CHILD_REF_BYTES]), EntryFlaw> {
    let flaw = |offset, field| EntryFlaw { offset, field };
    let id = <[u8; ENTRY_KEY_BYTES]>::try_from(key).map_err(|_| flaw(0, "table"))?;
    let names = value.get(entry_at::NAMES..).ok_or(flaw(value.len(), "the fixed part"))?;
    let created = get_u64(value, entry_at::CREATED);
    let created = Csn::from_bits(created).ok_or(flaw(entry_at::CREATED, "created"))?;
    let name_bytes = usize::from(value[entry_at::NAME_BYTES]);
    let derive_bytes = usize::from(value[entry_at::DERIVE_BYTES]);
    if names.len() != name_bytes + derive_bytes {
        return Err(flaw(entry_at::NAME_BYTES, "name_bytes"));
    }
    let (name, derive) = names.split_at(name_bytes);
    let text = |bytes, field| std::str::from_utf8(bytes).map(Arc::from).map_err(|_| flaw(entry_at::NAMES, field));
    let (name, derive) = (text(name, "name")?, text(derive, "derive")?);
    let of = TableId(get_u32(value, entry_at::OF));
    let kind = match value[entry_at::KIND] {
        1 => TableKind::Rows,
        2 => TableKind::Memory,
        3 => TableKind::Index { of, derive },
        _ => return Err(flaw(entry_at::KIND, "kind")),
    };
    if !matches!(kind, TableKind::Index { .. }) && (of.0 != 0 || derive_bytes != 0) {
        return Err(flaw(entry_at::OF, "of"));
    }
    let (log, meta) = (value[entry_at::LOG], get_u64(value, entry_at::META));
    let table = TableInfo { id: TableId(u32::from_be_bytes(id)), name, kind, log, meta, created };
    check(&table).map_err(|field| flaw(entry_at::CREATED, field))?;
    Ok((table, array(value, entry_at::TREE)))
}

/// What no table may have: the field's name.
fn check(table: &TableInfo) -> Result<(), &'static str> {
    let is_name = |name: &str| (1..=MAX_NAME_BYTES).contains(&(name.len() as u64));
    match &table.kind {
        _ if table.id.0 == 0 => Err("table"),
        _ if !is_name(&table.name) => Err("name"),
        _ if table.log >= MAX_LOGS => Err("log"),
        _ if table.created == Csn::default() => Err("created"),
        TableKind::Index { of, .. } if of.0 == 0 || *of >= table.id => Err("of"),
        TableKind::Index { derive, .. } if !is_name(derive) => Err("derive"),
        _ => Ok(()),
    }
}

/// Names of a checked table fit.
fn name_bytes(name: &str) -> u8 {
    u8::try_from(name.len()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{codec::format_test::check as check_format, txn::ids::Epoch};

    fn table(id: u32, name: &str, kind: TableKind) -> TableInfo {
        let created = Csn::first(Epoch::new(3).expect("there is one"));
        TableInfo { id: TableId(id), name: name.into(), kind, log: 2, meta: 1 << 40, created }
    }

    #[test]
    fn every_field_stands_where_the_document_says() {
        check_format("### Table entry", include_str!("catalog.rs"), "entry_at", None);
    }

    #[test]
    fn entries_come_back_and_have_one_form() {
        let index = TableKind::Index { of: TableId(1), derive: "by age".into() };
        for kind in [TableKind::Rows, TableKind::Memory, index] {
            let table = table(7, "people", kind);
            let (key, value) = encode(&table, [9; CHILD_REF_BYTES]);
            assert_eq!(decode(&key, &value), Ok((table, [9; CHILD_REF_BYTES])));
            for at in 0..value.len() {
                assert!(decode(&key, &value[..at]).is_err(), "cut at {at}");
                for flip in [1, 0x80] {
                    let mut other = value.clone();
                    other[at] ^= flip;
                    if let Ok((table, tree)) = decode(&key, &other) {
                        assert_eq!(encode(&table, tree), (key, other), "byte {at}");
                    }
                }
            }
            assert!(decode(&key, &[&value[..], b"x"].concat()).is_err() && decode(&key[1..], &value).is_err());
        }
    }

    #[test]
    fn names_and_numbers_are_taken_once() {
        let mut catalog = Catalog::new();
        catalog.create(table(4, "a", TableKind::Rows)).expect("a new name");
        assert_eq!(catalog.create(table(5, "a", TableKind::Rows)), Err(CatalogError::NameTaken));
        assert_eq!(catalog.create(table(4, "b", TableKind::Rows)), Err(CatalogError::NumberTaken));
        assert_eq!(catalog.create(table(9, "", TableKind::Rows)), Err(CatalogError::Range("name")));
        assert_eq!(catalog.create(table(u32::MAX, "c", TableKind::Rows)), Err(CatalogError::Range("id")));
        assert_eq!((catalog.next(), catalog.named("a").map(|table| table.id)), (TableId(5), Some(TableId(4))));
        assert!(catalog.remove(TableId(4)).is_some() && catalog.named("a").is_none());
        assert_eq!(catalog.create(table(4, "a", TableKind::Rows)), Err(CatalogError::NumberTaken), "it was there once");
        catalog.create(table(6, "a", TableKind::Rows)).expect("the name is free");
    }

    #[test]
    fn an_index_is_of_rows_that_there_are() {
        let index = |of| TableKind::Index { of: TableId(of), derive: "f".into() };
        let of =
            |catalog: &Catalog, table| catalog.indexes_of(TableId(table)).map(|index| index.id.0).collect::<Vec<_>>();
        let mut catalog = Catalog::new();
        catalog.create(table(1, "rows", TableKind::Rows)).expect("a new name");
        catalog.create(table(2, "memory", TableKind::Memory)).expect("a new name");
        catalog.create(table(3, "one", index(1))).expect("there are rows");
        for (id, of) in [(4, 2), (5, 3), (8, 7)] {
            assert_eq!(catalog.create(table(id, "another", index(of))), Err(CatalogError::Range("of")));
        }
        catalog.create(table(4, "two", index(1))).expect("there are rows");
        assert_eq!((of(&catalog, 1), of(&catalog, 2), of(&catalog, 3)), (vec![3, 4], vec![], vec![]));
        catalog.remove(TableId(3));
        assert!(of(&catalog, 1) == [4] && catalog.is_indexed(TableId(1)));
        let before = catalog.clone();
        catalog.set_kept(TableId(4), false);
        assert!(catalog.table(TableId(4)).is_some_and(|index| !index.is_kept()) && before != catalog);
    }

    #[test]
    fn what_was_read_is_a_catalog_or_is_refused() {
        let tables = || ["a", "b"].into_iter().zip(1..).map(|(name, id)| table(id, name, TableKind::Rows));
        let catalog = Catalog::assemble(TableId(3), tables()).expect("they fit");
        assert_eq!(catalog.tables().map(|table| table.id.0).collect::<Vec<_>>(), [1, 2]);
        assert!(Catalog::assemble(TableId(2), tables()).is_err(), "a number that was not given yet");
        assert!(
            Catalog::assemble(TableId(9), tables().chain([table(3, "a", TableKind::Rows)])).is_err(),
            "a name twice"
        );
    }
}
