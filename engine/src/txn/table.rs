//! A table as its users hold it, and what may be done to it: checks that every statement makes.

use std::sync::Arc;

use arc_swap::Guard;

use crate::env::Env;

use super::{
    catalog::{Catalog, TableInfo, TableKind},
    error::TxError,
    ids::TableId,
    shared::Shared,
    storage::{Lookup, Storage, Value},
};

/// A table. It stays the same one whatever happens to its name; once it was dropped, statements on it fail with
/// [`TxError::UnknownTable`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table(pub(super) Arc<TableInfo>);

impl Table {
    /// Its number. Never given to another.
    #[must_use]
    pub fn id(&self) -> TableId {
        self.0.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// It takes writes of its own: an index follows its rows.
    pub(super) fn check_own_writes(&self) -> Result<(), TxError> {
        match self.0.kind {
            TableKind::Index { .. } => Err(TxError::IndexIsDerived(self.name().to_owned())),
            TableKind::Rows | TableKind::Memory => Ok(()),
        }
    }
}

impl<E: Env, S: Storage<E>> Shared<E, S> {
    /// The table is there; an index follows its rows.
    pub(super) fn check_readable(&self, table: &Table) -> Result<(), TxError> {
        readable(&self.horizon.look().catalog, table)
    }

    /// The table is there, and is not an index.
    pub(super) fn check_writable(&self, table: &Table) -> Result<(), TxError> {
        table.check_own_writes()?;
        self.check_readable(table)
    }

    pub(super) fn check_key(&self, key: &[u8]) -> Result<(), TxError> {
        let (bytes, limit) = (key.len() as u64, S::KEY_LIMIT_BYTES as u64);
        if bytes > limit { Err(TxError::KeyTooLarge { bytes, limit }) } else { Ok(()) }
    }

    pub(super) fn check_value(&self, value: &[u8]) -> Result<(), TxError> {
        let (bytes, limit) = (value.len() as u64, self.options.max_value_bytes);
        if bytes > limit { Err(TxError::ValueTooLarge { bytes, limit }) } else { Ok(()) }
    }

    /// The newest visible value of a key.
    pub(super) async fn read_visible(&self, table: &Table, key: &[u8]) -> Result<Option<Value>, TxError> {
        let view = {
            let view = self.horizon.look();
            readable(&view.catalog, table)?;
            match view.get_now(table.id(), key, || self.horizon.visible()) {
                Lookup::Found(value) => return Ok(Some(value)),
                Lookup::Absent => return Ok(None),
                Lookup::NotInMemory => Guard::into_inner(view),
            }
        };
        Ok(view.read(table.id(), key).await?)
    }

    /// The same for each of some keys, each at a moment of its own.
    pub(super) async fn read_many_visible(&self, table: &Table, keys: &[&[u8]]) -> Result<Vec<Option<Value>>, TxError> {
        let view = self.horizon.view();
        readable(&view.catalog, table)?;
        let found = view.get_many_now(table.id(), keys, || self.horizon.visible());
        Ok(view.read_missing(table.id(), keys, found).await?)
    }
}

fn readable(catalog: &Catalog, table: &Table) -> Result<(), TxError> {
    match catalog.table(table.id()) {
        Some(info) => match info.kind {
            TableKind::Index { .. } if !info.is_kept() => Err(TxError::IndexUnusable(table.name().to_owned())),
            _ => Ok(()),
        },
        None => Err(TxError::UnknownTable(table.name().to_owned())),
    }
}
