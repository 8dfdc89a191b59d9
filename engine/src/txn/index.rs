//! Index tables: what a function of the application makes of another table's rows.
//!
//! Entries are writes of the transaction that writes the row, so an index is right at every snapshot, and goes back to a savepoint with
//! its rows. Whoever writes a row has its lock, and so its entries. They are not logged: a checkpoint publishes them as it does rows,
//! and an open derives anew what is behind the newest root.

use std::{collections::BTreeMap, fmt, ops::Bound, sync::Arc};

use crate::env::Env;

use super::{
    Store,
    catalog::{TableInfo, TableKind},
    commit::Accepted,
    error::{CommitError, TableError, TxError},
    ids::TableId,
    not_changed,
    options::{Isolation, TxOptions},
    scan::Scan,
    shared::Shared,
    storage::{Direction, Lookup, Storage, Value},
    table::Table,
    transaction::Tx,
    undo::{After, WriteSet},
};

/// Tells the entries of a row: it is given the row's key and value, and calls its last argument with each entry's key and value. Of two
/// with one key the last counts.
pub type Derive = dyn Fn(&[u8], &[u8], &mut dyn FnMut(&[u8], &[u8])) + Send + Sync;

/// The functions that indexes are derived by, each with its name. A store keeps the name alone: so under one name there must be one
/// function as long as there are indexes by it, and for one row it must always tell the same.
///
/// Entries of two rows should have different keys; one that ends with the row's key sees to that. Of two that have one key either may be
/// there, and neither once one of the rows is gone.
///
/// ```
/// use engine::txn::index::Functions;
///
/// let by_city = |key: &[u8], city: &[u8], tell: &mut dyn FnMut(&[u8], &[u8])| tell(&[city, b"/", key].concat(), b"");
/// let functions = Functions::default().with("by city", by_city);
/// assert_eq!(format!("{functions:?}"), r#"{"by city"}"#);
/// ```
#[derive(Clone, Default)]
pub struct Functions(BTreeMap<Arc<str>, Arc<Derive>>);

impl Functions {
    /// The same with another one; one that had its name is replaced.
    #[must_use]
    pub fn with(
        mut self,
        name: &str,
        derive: impl Fn(&[u8], &[u8], &mut dyn FnMut(&[u8], &[u8])) + Send + Sync + 'static,
    ) -> Functions {
        self.0.insert(name.into(), Arc::new(derive));
        self
    }

    pub(super) fn get(&self, name: &str) -> Option<&Derive> {
        self.0.get(name).map(|derive| &**derive)
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Entries of an index, by key.
pub(super) type Entries = BTreeMap<Vec<u8>, Arc<[u8]>>;

/// Adds the entries of a row.
pub(super) fn derive_into(entries: &mut Entries, derive: &Derive, key: &[u8], value: &[u8]) {
    derive(key, value, &mut |key, value| drop(entries.insert(key.to_vec(), value.into())));
}

fn entries_of(derive: &Derive, key: &[u8], value: Option<&[u8]>) -> Entries {
    let mut entries = Entries::new();
    if let Some(value) = value {
        derive_into(&mut entries, derive, key, value);
    }
    entries
}

/// What a change of a row changes in an index.
pub(super) fn changes(
    derive: &Derive,
    key: &[u8],
    old: Option<&[u8]>,
    new: Option<&[u8]>,
) -> impl Iterator<Item = (Vec<u8>, After)> + use<> {
    let (mut old, mut new) = (entries_of(derive, key, old), entries_of(derive, key, new));
    new.retain(|key, value| old.remove(key).is_none_or(|old| old != *value));
    let removed = old.into_keys().map(|key| (key, None));
    removed.chain(new.into_iter().map(|(key, value)| (key, Some(value))))
}

impl<E: Env, S: Storage<E>> Shared<E, S> {
    /// How an index is derived, if it is kept up.
    fn derive(&self, index: &TableInfo) -> Option<&Derive> {
        match &index.kind {
            TableKind::Index { derive, .. } if index.is_kept() => self.options.indexes.get(derive),
            _ => None,
        }
    }
}

impl<E: Env, S: Storage<E>> Tx<E, S> {
    /// What a write of a row does to the indexes of its table. The row must be locked: so nobody else changes it, or adds an index to the
    /// table.
    pub(super) async fn derived(
        &self,
        table: TableId,
        key: &[u8],
        new: Option<&[u8]>,
    ) -> Result<Vec<(TableId, Vec<u8>, After)>, TxError> {
        let shared = &self.shared;
        let view = shared.horizon.view();
        if !view.catalog.is_indexed(table) {
            return Ok(Vec::new());
        }
        let old = match self.writes.get(table, key) {
            Some(mine) => mine.clone().map(Value::from),
            None => match view.get_newest(table, key) {
                Lookup::Found(value) => Some(value),
                Lookup::Absent => None,
                Lookup::NotInMemory => view.read(table, key).await?,
            },
        };
        let mut derived = Vec::new();
        for index in view.catalog.indexes_of(table) {
            let Some(derive) = shared.derive(index) else { continue };
            for (key, after) in changes(derive, key, old.as_deref(), new) {
                shared.check_key(&key)?;
                shared.check_value(after.as_deref().unwrap_or_default())?;
                derived.push((index.id, key, after));
            }
        }
        Ok(derived)
    }

    /// Locks a table and commits an index of it, with the entries of all its rows. It has ended then, whatever comes of it.
    async fn create_index(
        &mut self,
        name: &str,
        kind: &TableKind,
        of: &Table,
        derive: &Derive,
    ) -> Result<Accepted, TableError> {
        let never = |error: TxError| TableError::Commit(error.into());
        self.lock_table(of).await.map_err(never)?;
        // Whoever wrote a row without a lock has come to the end of that.
        drop(self.shared.commit());
        let (view, at) = (self.shared.horizon.view(), self.shared.horizon.committed());
        let (nothing, all) = (WriteSet::default(), (Bound::Unbounded, Bound::Unbounded));
        let mut rows = Scan::<E, S>::new(view, at, &nothing, None, None, of.id(), all, Direction::Forward);
        let mut entries = Entries::new();
        while let Some((key, value)) = rows.next().await.map_err(never)? {
            derive_into(&mut entries, derive, key, value);
        }
        for (key, value) in &entries {
            self.shared.check_key(key).and_then(|()| self.shared.check_value(value)).map_err(never)?;
        }
        self.accept_index(name, kind, &entries).await.map_err(|rejected| not_changed(rejected, name))
    }
}

impl<E: Env, S: Storage<E>> Store<E, S> {
    /// Creates an index of rows that there are. Who writes them waits meanwhile.
    pub(super) async fn create_index(
        &self,
        name: &str,
        kind: &TableKind,
        of: TableId,
        derive: &str,
    ) -> Result<(), TableError> {
        let shared = &self.shared;
        let unknown = || TableError::UnknownFunction(derive.to_owned());
        let function = shared.options.indexes.get(derive).ok_or_else(unknown)?;
        let rows = shared.horizon.view().catalog.table(of).cloned().map(Table);
        let rows = rows.ok_or_else(|| TableError::Unknown(format!("number {}", of.0)))?;
        if rows.0.kind != TableKind::Rows {
            return Err(TableError::NotRows(rows.name().to_owned()));
        }
        let mut retry_of = None;
        loop {
            let options = TxOptions { isolation: Isolation::ReadCommitted, retry_of, ..TxOptions::default() };
            let mut tx = self.begin(options).map_err(CommitError::from)?;
            match tx.create_index(name, kind, &rows, function).await {
                Ok(accepted) => {
                    shared.settle(&accepted).await?;
                    return Ok(());
                }
                // Older ones had rows of it, or took them.
                Err(TableError::Commit(error)) if error.is_retryable() => retry_of = Some(tx.retry()),
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_a_row_changes_what_differs() {
        // An entry for each letter of the value, with how often it is there.
        let letters: &Derive = &|key, value, tell| {
            for letter in value {
                let count = value.iter().filter(|other| *other == letter).count() as u8;
                tell(&[&[*letter], key].concat(), &[count]);
            }
        };
        let changed = |old: Option<&[u8]>, new: Option<&[u8]>| -> Vec<(String, Option<u8>)> {
            let changes = changes(letters, b"!", old, new);
            let text = |key| String::from_utf8(key).expect("letters");
            changes.map(|(key, after)| (text(key), after.map(|value| value[0]))).collect()
        };
        assert_eq!(changed(None, None), []);
        assert_eq!(changed(None, Some(b"aba")), [("a!".into(), Some(2)), ("b!".into(), Some(1))]);
        assert_eq!(changed(Some(b"aba"), None), [("a!".into(), None), ("b!".into(), None)]);
        assert_eq!(changed(Some(b"aba"), Some(b"baa")), []);
        let expected = [("b!".into(), None), ("a!".into(), Some(1)), ("d!".into(), Some(1))];
        assert_eq!(changed(Some(b"aabc"), Some(b"acd")), expected);
    }
}
