//! The versions of Memory tables. Nothing is below them: they are never logged or published, and no checkpoint gives them back.
//!
//! So they are in no generation. A table's overlay lives as long as the table, and whoever has a view reads it on after that.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    blocks::Blocks,
    catalog::{Catalog, TableKind},
    ids::{Csn, TableId},
    overlay::{Live, Overlay, Refused, ValueRef},
};

/// All Memory tables of a catalog. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Volatile(Arc<BTreeMap<TableId, Arc<Kept>>>);

/// One of them.
#[derive(Debug)]
struct Kept {
    overlay: Arc<Overlay>,
    /// Removals since it was last tidied.
    removed: AtomicUsize,
    /// What it has its memory of, which counts its bytes as well.
    blocks: Arc<Blocks>,
}

impl Kept {
    fn new(overlay: Overlay, blocks: &Arc<Blocks>) -> Arc<Kept> {
        let overlay = Arc::new(overlay.of_blocks(blocks));
        Arc::new(Kept { overlay, removed: AtomicUsize::new(0), blocks: Arc::clone(blocks) })
    }
}

impl Volatile {
    /// Those of another catalog: what it doesn't have is left out, and what is new is empty.
    pub(super) fn follow(&self, catalog: &Catalog, blocks: &Arc<Blocks>) -> Volatile {
        let tables = catalog.tables().filter(|table| table.kind == TableKind::Memory);
        let kept = |id| self.0.get(id).map_or_else(|| Kept::new(Overlay::default(), blocks), Arc::clone);
        Volatile(Arc::new(tables.map(|table| (table.id, kept(&table.id))).collect()))
    }

    /// The versions of a table; `None` if it is none of these.
    pub(super) fn table(&self, table: TableId) -> Option<&Arc<Overlay>> {
        self.0.get(&table).map(|kept| &kept.overlay)
    }

    /// Adds a version; see [`Overlay::install`]. `None` if it is none of these.
    pub(super) fn install(
        &self,
        table: TableId,
        key: &[u8],
        value: Option<ValueRef<'_>>,
        csn: Csn,
        live: &Live<'_>,
    ) -> Option<Result<(), Refused>> {
        let kept = self.0.get(&table)?;
        let installed = kept.overlay.install(key, value, csn, live);
        kept.removed.fetch_add(usize::from(value.is_none()), Ordering::Relaxed);
        Some(installed)
    }

    /// The same without the keys that are removed for everybody, unless they are few: so a removal costs the same however large its table
    /// is. Nothing may be installed meanwhile, and from then on only in what is returned.
    pub(super) fn tidied(&self, live: &Live<'_>) -> Volatile {
        let many = |kept: &Kept| {
            let removed = kept.removed.load(Ordering::Relaxed);
            removed > 0 && removed >= kept.overlay.len() / 2
        };
        if !self.0.values().any(|kept| many(kept)) {
            return self.clone();
        }
        let tidy = |kept: &Arc<Kept>| {
            if many(kept) { Kept::new(kept.overlay.without_removed(live), &kept.blocks) } else { Arc::clone(kept) }
        };
        Volatile(Arc::new(self.0.iter().map(|(table, kept)| (*table, tidy(kept))).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::txn::{catalog::TableInfo, ids::Epoch, overlay::Found, storage::Memory};

    fn csn(number: u64) -> Csn {
        (1..number).fold(Csn::first(Epoch::FIRST), |csn, _| csn.next().expect("there are many"))
    }

    fn catalog(kinds: &[TableKind]) -> Catalog {
        let mut catalog = Catalog::new();
        for (id, kind) in (1..).zip(kinds) {
            let name = format!("table {id}").as_str().into();
            let info = TableInfo { id: TableId(id), name, kind: kind.clone(), log: 0, meta: 0, created: csn(1) };
            catalog.create(info).expect("a new name");
        }
        catalog
    }

    #[test]
    fn it_has_the_memory_tables_of_its_catalog() {
        let blocks = Blocks::new(&Memory::new(u64::MAX));
        let memory = blocks.memory();
        let nobody = Live { snapshots: &[], visible: csn(9) };
        let mut catalog = catalog(&[TableKind::Rows, TableKind::Memory, TableKind::Memory]);
        let first = Volatile::default().follow(&catalog, &blocks);
        let put = |volatile: &Volatile, table, at| {
            volatile.install(TableId(table), b"k", Some(ValueRef::Bytes(b"v")), csn(at), &nobody)
        };
        assert_eq!((put(&first, 1, 2), put(&first, 2, 2), put(&first, 3, 3)), (None, Some(Ok(())), Some(Ok(()))));
        let both = memory.used();
        catalog.remove(TableId(2));
        let second = first.follow(&catalog, &blocks);
        assert_eq!((put(&second, 2, 4), put(&second, 3, 4)), (None, Some(Ok(()))));
        let overlay = first.table(TableId(2)).expect("who has the view reads on");
        assert_eq!(overlay.newest(b"k"), Some(csn(2)));
        assert!(memory.used() >= both && both > 0);
        drop(first);
        assert!(memory.used() < both && memory.used() > 0);
        drop(second);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn what_is_removed_for_everybody_goes_and_nothing_else() {
        let blocks = Blocks::new(&Memory::new(u64::MAX));
        let memory = blocks.memory();
        let volatile = Volatile::default().follow(&catalog(&[TableKind::Memory]), &blocks);
        let old = [csn(150)];
        let live = Live { snapshots: &old, visible: csn(250) };
        let install = |key: u64, value: Option<&[u8]>, at| {
            volatile
                .install(TableId(1), &key.to_be_bytes(), value.map(ValueRef::Bytes), csn(at), &live)
                .expect("it is one")
                .expect("in order");
        };
        for key in 1..=100 {
            install(key, Some(&key.to_be_bytes()), key);
        }
        assert_eq!(volatile.tidied(&live).table(TableId(1)).map(|overlay| overlay.len()), Some(100), "nothing to do");
        // Of these 49 are older than the snapshot, 100 are visible.
        for at in 101..=190 {
            install(at - 100, None, at);
        }
        let full = memory.used();
        let tidied = volatile.tidied(&live);
        let overlay = tidied.table(TableId(1)).expect("it stays");
        assert_eq!(overlay.len(), 50);
        for key in 1..=100_u64 {
            let found = |at| overlay.get(&key.to_be_bytes(), csn(at));
            let value = Found::Value(key.to_be_bytes().as_slice().into());
            let (then, now) = match key {
                1..=50 => (Found::Nothing, Found::Nothing),
                51..=90 => (value, Found::Removed),
                _ => (value.clone(), value),
            };
            assert_eq!((found(150), found(250)), (then, now), "key {key}");
        }
        drop(volatile);
        assert!(memory.used() < full);
        drop(tidied);
        assert_eq!(memory.used(), 0);
    }
}
