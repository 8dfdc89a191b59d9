//! The versions of Memory tables. Nothing is below them: they are never logged or published, and no checkpoint gives them back.
//!
//! So they are in no generation. A table's overlay lives as long as the table, and whoever has a view reads it on after that.
//!
//! A key that was removed stays in an overlay. Where they are many, all else is copied, in pieces between which others commit, and what is
//! committed meanwhile goes into both. Once the copy is complete it takes the overlay's place. Others may add keys faster than they are
//! copied: so the pieces are as many as twice the keys at the beginning take, and the last one has all that is left.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    blocks::Blocks,
    catalog::{Catalog, TableKind},
    ids::{Csn, TableId},
    overlay::{Live, Overlay, Refused, ValueRef},
};
use crate::{
    plant::{Plants, planted},
    sync::{Mutex, MutexGuard},
};

/// All Memory tables of a catalog. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Volatile(Arc<BTreeMap<TableId, Arc<Kept>>>);

/// One of them.
#[derive(Debug)]
struct Kept {
    overlay: Arc<Overlay>,
    /// Removals since its overlay began.
    removed: AtomicUsize,
    /// What takes its place. (Whoever holds the commit mutex is alone with it.)
    copying: Mutex<Option<Copying>>,
    /// What it has its memory of, which counts its bytes as well.
    blocks: Arc<Blocks>,
}

/// An overlay without what is removed for everybody.
#[derive(Debug)]
struct Copying {
    to: Overlay,
    /// Removals since it began.
    removed: usize,
    /// Keys that are still copied in pieces.
    keys_left: usize,
    reached: Reached,
}

/// How much of a table a copy has.
#[derive(Debug)]
enum Reached {
    Nothing,
    /// All up to this key.
    Key(Vec<u8>),
    All,
}

impl Copying {
    fn has(&self, key: &[u8]) -> bool {
        match &self.reached {
            Reached::Nothing => false,
            Reached::Key(last) => key <= last.as_slice(),
            Reached::All => true,
        }
    }

    fn is_complete(&self) -> bool {
        matches!(self.reached, Reached::All)
    }
}

impl Kept {
    fn new(overlay: Overlay, removed: usize, blocks: &Arc<Blocks>) -> Arc<Kept> {
        let (overlay, blocks) = (Arc::new(overlay), Arc::clone(blocks));
        Arc::new(Kept { overlay, removed: removed.into(), copying: Mutex::default(), blocks })
    }

    /// Each change is a single assignment, so a poisoned mutex is taken as it is.
    fn copying(&self) -> MutexGuard<'_, Option<Copying>> {
        self.copying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is removed is worth a copy of what is not: so a removal costs the same however large its table is.
    fn has_much_removed(&self) -> bool {
        let removed = self.removed.load(Ordering::Relaxed);
        removed > 0 && removed >= self.overlay.len() / 2
    }

    /// False if there is nothing to copy.
    fn copy_some(&self, keys: usize, live: &Live<'_>) -> bool {
        let mut copying = self.copying();
        if copying.is_none() && !self.has_much_removed() {
            return false;
        }
        let copying = copying.get_or_insert_with(|| Copying {
            to: Overlay::default().of_blocks(&self.blocks),
            removed: 0,
            keys_left: 2 * self.overlay.len(),
            reached: Reached::Nothing,
        });
        let behind = match &copying.reached {
            Reached::Nothing => None,
            Reached::Key(last) => Some(&last[..]),
            Reached::All => return false,
        };
        let limit = if copying.keys_left == 0 { usize::MAX } else { keys };
        copying.keys_left = copying.keys_left.saturating_sub(keys);
        copying.reached = self.overlay.copy_some(behind, limit, live, &copying.to).map_or(Reached::All, Reached::Key);
        true
    }
}

impl Volatile {
    /// Those of another catalog: what it doesn't have is left out, and what is new is empty.
    pub(super) fn follow(&self, catalog: &Catalog, blocks: &Arc<Blocks>) -> Volatile {
        let tables = catalog.tables().filter(|table| table.kind == TableKind::Memory);
        let new = || Kept::new(Overlay::default().of_blocks(blocks), 0, blocks);
        let kept = |id| self.0.get(id).map_or_else(new, Arc::clone);
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
        (key, value): (&[u8], Option<ValueRef<'_>>),
        csn: Csn,
        live: &Live<'_>,
        plants: &Plants,
    ) -> Option<Result<(), Refused>> {
        let kept = self.0.get(&table)?;
        let removed = usize::from(value.is_none());
        let installed = kept.overlay.install(key, value, csn, live);
        kept.removed.fetch_add(removed, Ordering::Relaxed);
        let mut copying = kept.copying();
        let copying = copying.as_mut().filter(|copying| copying.has(key) && installed.is_ok());
        let Some(copying) = copying.filter(|_| !planted!(plants, TxnCopyDeaf)) else { return Some(installed) };
        copying.removed += removed;
        Some(copying.to.install(key, value, csn, live))
    }

    /// Copies so many versions of a table of which much is removed; false if there is none, or all copies are complete. It keeps who
    /// commits waiting, so they should be few.
    pub(super) fn copy_some(&self, keys: usize, live: &Live<'_>) -> bool {
        self.0.values().any(|kept| kept.copy_some(keys, live))
    }

    /// The same with copies that are complete in the place of what they are of, in which nothing may be installed any more; `None` if
    /// there are none.
    pub(super) fn tidied(&self) -> Option<Volatile> {
        let is_complete = |kept: &Arc<Kept>| kept.copying().as_ref().is_some_and(Copying::is_complete);
        if !self.0.values().any(is_complete) {
            return None;
        }
        let tidy = |kept: &Arc<Kept>| match kept.copying().take_if(|copying| copying.is_complete()) {
            Some(copying) => Kept::new(copying.to, copying.removed, &kept.blocks),
            None => Arc::clone(kept),
        };
        Some(Volatile(Arc::new(self.0.iter().map(|(table, kept)| (*table, tidy(kept))).collect())))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

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
            let value = Some(ValueRef::Bytes(b"v"));
            volatile.install(TableId(table), (b"k", value), csn(at), &nobody, &Plants::default())
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
            let (key, value) = (key.to_be_bytes(), value.map(ValueRef::Bytes));
            let installed = volatile.install(TableId(1), (&key, value), csn(at), &live, &Plants::default());
            installed.expect("it is one").expect("in order");
        };
        let tidied = || {
            while volatile.copy_some(7, &live) {}
            volatile.tidied()
        };
        for key in 1..=100 {
            install(key, Some(&key.to_be_bytes()), key);
        }
        assert!(tidied().is_none(), "nothing to do");
        // Of these 49 are older than the snapshot, 100 are visible.
        for at in 101..=190 {
            install(at - 100, None, at);
        }
        let full = memory.used();
        let tidied = tidied().expect("it is complete");
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

    /// Writes between the pieces of copies, in any order of keys, with snapshots that come and go, until many copies have taken their
    /// table's place: what is found is what was written. True if it is.
    fn copies_follow(plants: &Plants) -> bool {
        const KEYS: u64 = 40;
        let all: Vec<Csn> = std::iter::successors(Some(csn(1)), |csn| csn.next()).take(20_001).collect();
        let csn = |number: u64| all[number as usize - 1];
        let blocks = Blocks::new(&Memory::new(u64::MAX));
        let mut volatile = Volatile::default().follow(&catalog(&[TableKind::Memory]), &blocks);
        let mut random = 1_u64;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut newest: BTreeMap<u64, u64> = BTreeMap::new();
        let mut last_write = [0; KEYS as usize];
        // Of each snapshot what it reads.
        let mut snapshots: BTreeMap<Csn, BTreeMap<u64, u64>> = BTreeMap::new();
        let (mut copies, mut between) = (0, 0);
        for at in 1..20_000 {
            let visible = csn(at);
            let live: Vec<Csn> = snapshots.keys().copied().collect();
            let live = Live { snapshots: &live, visible };
            match draw(20) {
                0 => {
                    let copied = volatile.copy_some(1 + draw(9) as usize, &live);
                    between += u64::from(copied);
                }
                1 if draw(8) == 0 => {
                    let tidied = volatile.tidied();
                    copies += u64::from(tidied.is_some());
                    volatile = tidied.unwrap_or(volatile);
                }
                2 if snapshots.len() < 4 => drop(snapshots.insert(visible, newest.clone())),
                3 => drop(snapshots.pop_first()),
                _ => {}
            }
            // For a while there are more removals.
            let key = draw(KEYS);
            let value = (draw(10) < 3 + at / 1000 % 2 * 5).then_some(at);
            let bytes = value.map(u64::to_be_bytes);
            let put = (&key.to_be_bytes()[..], bytes.as_ref().map(|value| ValueRef::Bytes(value)));
            let live: Vec<Csn> = snapshots.keys().copied().collect();
            let live = Live { snapshots: &live, visible };
            volatile.install(TableId(1), put, csn(at + 1), &live, plants).expect("it is one").expect("in order");
            match value {
                Some(value) => newest.insert(key, value),
                None => newest.remove(&key),
            };
            last_write[key as usize] = at + 1;
            let overlay = volatile.table(TableId(1)).expect("it stays");
            // What validation asks. (A key that was left out was removed before all of these.)
            for since in snapshots.keys().chain([&visible]) {
                let (low, high) = (draw(KEYS), draw(KEYS));
                let keys = [low.to_be_bytes(), high.to_be_bytes()];
                let range = (Bound::Included(&keys[0][..]), Bound::Included(&keys[1][..]));
                let changed = low <= high
                    && last_write[low as usize..=high as usize].iter().any(|at| *at > 0 && csn(*at) > *since);
                let newer = overlay.newest(&keys[0]).is_some_and(|newest| newest > *since);
                let at = last_write[low as usize];
                if overlay.changed_since(range, *since) != changed || newer != (at > 0 && csn(at) > *since) {
                    return false;
                }
            }
            for (snapshot, rows) in snapshots.iter().chain([(&csn(at + 1), &newest)]) {
                let key = draw(KEYS);
                let wanted = rows.get(&key).map(|value| value.to_be_bytes());
                let found = match overlay.get(&key.to_be_bytes(), *snapshot) {
                    Found::Value(value) => Some(value),
                    Found::Removed | Found::Nothing => None,
                };
                if found.as_deref() != wanted.as_ref().map(|value| &value[..]) {
                    return false;
                }
            }
        }
        assert!(copies > 20 && between > 5 * copies, "{copies} copies in {between} pieces");
        drop(volatile);
        assert_eq!(blocks.memory().used(), 0);
        true
    }

    #[test]
    fn a_copy_has_what_was_written_meanwhile() {
        assert!(copies_follow(&Plants::default()));
        #[cfg(feature = "plants")]
        assert!(!copies_follow(&Plants::only(crate::plant::Plant::TxnCopyDeaf)), "the planted bug shows");
    }

    /// A queue: keys come at the end faster than they are copied, and the first ones go.
    #[test]
    fn a_copy_ends_though_keys_come_faster_than_they_are_copied() {
        let blocks = Blocks::new(&Memory::new(u64::MAX));
        let volatile = Volatile::default().follow(&catalog(&[TableKind::Memory]), &blocks);
        let mut at = Csn::first(Epoch::FIRST);
        let mut write = |key: u64, value: Option<ValueRef<'_>>| {
            at = at.next().expect("there are many");
            let live = Live { snapshots: &[], visible: at };
            let installed = volatile.install(TableId(1), (&key.to_be_bytes(), value), at, &live, &Plants::default());
            installed.expect("it is one").expect("in order");
            at
        };
        let value = Some(ValueRef::Bytes(b"value"));
        for key in 0..1000 {
            write(key, value);
        }
        for key in 0..600 {
            write(key, None);
        }
        let (mut last, mut pieces) = (1000, 0);
        loop {
            for nth in 0..40 {
                write(last + nth, value);
            }
            let visible = write(last + 40, value);
            last += 41;
            if !volatile.copy_some(32, &Live { snapshots: &[], visible }) {
                break;
            }
            pieces += 1;
            assert!(pieces < 100, "it doesn't end");
        }
        let tidied = volatile.tidied().expect("it is complete");
        assert_eq!(tidied.table(TableId(1)).map(|overlay| overlay.len() as u64), Some(last - 600));
    }
}
