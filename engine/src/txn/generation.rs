//! The committed versions of all tables between two freezes.
//!
//! Commits are installed into the newest generation alone, one at a time. At a freeze it gets a successor, and from then on never
//! changes: it is merged into pages and goes with the last view that holds it.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwap;

use super::{
    blocks::Blocks,
    ids::{Csn, TableId},
    overlay::{Found, KeyRange, Live, Overlay, Refused, ValueRef},
    storage::Memory,
};

/// Bytes of all generations of a store that anybody holds.
#[derive(Debug)]
pub(super) struct Versions {
    bytes: AtomicU64,
    /// What they get memory of, which counts them beside what else is in memory.
    blocks: Arc<Blocks>,
}

impl Versions {
    pub(super) fn new(memory: Arc<Memory>) -> Arc<Versions> {
        let blocks = Blocks::new(&memory);
        Arc::new(Versions { bytes: AtomicU64::new(0), blocks })
    }

    /// What they get memory of.
    pub(super) fn blocks(&self) -> &Arc<Blocks> {
        &self.blocks
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// What counts them beside what else is in memory.
    pub(super) fn memory(&self) -> &Arc<Memory> {
        self.blocks.memory()
    }

    fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Tables that have versions, by number.
type Tables = Vec<(TableId, Arc<Overlay>)>;

/// One generation.
#[derive(Debug)]
pub(super) struct Generation {
    /// Replaced as a whole when a table gets its first version.
    tables: ArcSwap<Tables>,
    bytes: AtomicU64,
    all: Arc<Versions>,
    next: OnceLock<Arc<Generation>>,
}

impl Generation {
    /// An empty one.
    pub(super) fn new(all: Arc<Versions>) -> Arc<Generation> {
        let tables = ArcSwap::default();
        Arc::new(Generation { tables, bytes: AtomicU64::new(0), all, next: OnceLock::new() })
    }

    /// The versions of a table; `None` if there are none.
    pub(super) fn table(&self, table: TableId) -> Option<Arc<Overlay>> {
        let tables = self.tables.load();
        place(&tables, table).ok().map(|place| Arc::clone(&tables[place].1))
    }

    /// Adds a version. One caller at a time, in the order of CSNs; see [`Overlay::install`].
    pub(super) fn install(
        &self,
        table: TableId,
        key: &[u8],
        value: Option<ValueRef<'_>>,
        csn: Csn,
        live: &Live<'_>,
    ) -> Result<(), Refused> {
        let tables = self.tables.load();
        let overlay = match place(&tables, table) {
            Ok(place) => Arc::clone(&tables[place].1),
            Err(_) if self.next.get().is_some() => return Err(Refused::Frozen),
            Err(place) => {
                let overlay = Arc::new(Overlay::default().of_blocks(self.all.blocks()));
                let mut with = Tables::clone(&tables);
                with.insert(place, (table, Arc::clone(&overlay)));
                self.tables.store(Arc::new(with));
                overlay
            }
        };
        let before = overlay.bytes() as u64;
        overlay.install(key, value, csn, live)?;
        let after = overlay.bytes() as u64;
        if after == before {
            return Ok(());
        }
        // (A version that nobody needs may go for a smaller one.)
        if after >= before {
            self.bytes.fetch_add(after - before, Ordering::Relaxed);
            self.all.add(after - before);
        } else {
            self.bytes.fetch_sub(before - after, Ordering::Relaxed);
            self.all.give_back(before - after);
        }
        Ok(())
    }

    /// Takes in the versions of a table that it has none of, before anybody else knows this generation.
    pub(super) fn adopt(&self, table: TableId, overlay: Overlay) {
        let bytes = overlay.bytes() as u64;
        let overlay = Arc::new(overlay.of_blocks(self.all.blocks()));
        let mut with = Tables::clone(&self.tables.load());
        match place(&with, table) {
            Ok(place) => with[place].1 = overlay,
            Err(place) => with.insert(place, (table, overlay)),
        }
        self.tables.store(Arc::new(with));
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.all.add(bytes);
    }

    /// What is known of a key at a CSN that is live.
    pub(super) fn get(&self, table: TableId, key: &[u8], at: Csn) -> Found {
        self.look(table, |overlay| overlay.get(key, at)).unwrap_or(Found::Nothing)
    }

    /// The same without a snapshot: `visible` is asked for while nothing can be let go.
    pub(super) fn get_now(&self, table: TableId, key: &[u8], visible: impl FnOnce() -> Csn) -> Found {
        self.look(table, |overlay| overlay.get_now(key, visible)).unwrap_or(Found::Nothing)
    }

    /// The newest version of a key here and in all later generations, whether it is visible or not.
    pub(super) fn newest_from_here(&self, table: TableId, key: &[u8]) -> Option<Csn> {
        let here = self.look(table, |overlay| overlay.newest(key)).flatten();
        // A later generation has later versions.
        self.next.get().and_then(|next| next.newest_from_here(table, key)).or(here)
    }

    /// Whether a key of a range has a version above a CSN here or in a later generation.
    pub(super) fn changed_from_here(&self, table: TableId, range: KeyRange<'_>, after: Csn) -> bool {
        self.look(table, |overlay| overlay.changed_since(range, after)).unwrap_or(false)
            || self.next.get().is_some_and(|next| next.changed_from_here(table, range, after))
    }

    /// From now on nothing is installed here, but in the generation that is returned. It takes no longer for a large one.
    pub(super) fn freeze(&self) -> Arc<Generation> {
        let next = Arc::clone(self.next.get_or_init(|| Generation::new(Arc::clone(&self.all))));
        self.tables.load().iter().for_each(|(_, overlay)| overlay.freeze());
        next
    }

    /// Its tables, by number. Of a frozen one they don't change any more.
    pub(super) fn tables(&self) -> Arc<Tables> {
        self.tables.load_full()
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn look<T>(&self, table: TableId, look: impl FnOnce(&Overlay) -> T) -> Option<T> {
        let tables = self.tables.load();
        place(&tables, table).ok().map(|place| look(&tables[place].1))
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.all.give_back(self.bytes());
        // A long chain of generations that somebody held is let go one after the other, not one within the other.
        let mut next = self.next.take();
        while let Some(generation) = next {
            next = Arc::into_inner(generation).and_then(|mut generation| generation.next.take());
        }
    }
}

fn place(tables: &Tables, table: TableId) -> Result<usize, usize> {
    tables.binary_search_by_key(&table, |(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::txn::ids::Epoch;

    fn csn(number: u64) -> Csn {
        (1..number).fold(Csn::first(Epoch::FIRST), |csn, _| csn.next().expect("there are many"))
    }

    fn nobody() -> Live<'static> {
        Live { snapshots: &[], visible: Csn::default() }
    }

    fn put(generation: &Generation, table: u32, key: &[u8], at: u64) -> Result<(), Refused> {
        generation.install(TableId(table), key, Some(ValueRef::Bytes(&at.to_le_bytes())), csn(at), &nobody())
    }

    #[test]
    fn a_frozen_one_takes_nothing_and_its_successor_goes_on() {
        let memory = Memory::new(u64::MAX);
        let first = Generation::new(Versions::new(Arc::clone(&memory)));
        put(&first, 3, b"k", 1).expect("it is new");
        put(&first, 1, b"k", 2).expect("it is new");
        let second = first.freeze();
        assert_eq!(put(&first, 3, b"k", 3), Err(Refused::Frozen));
        assert_eq!(put(&first, 2, b"k", 3), Err(Refused::Frozen), "a table that it doesn't have");
        put(&second, 3, b"k", 3).expect("it is new");
        assert_eq!(first.newest_from_here(TableId(3), b"k"), Some(csn(3)));
        assert_eq!(second.newest_from_here(TableId(1), b"k"), None);
        assert_eq!(first.newest_from_here(TableId(1), b"k"), Some(csn(2)));
        let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
        assert!(first.changed_from_here(TableId(3), all, csn(2)) && !first.changed_from_here(TableId(3), all, csn(3)));
        assert!(!first.changed_from_here(TableId(1), all, csn(2)));
        assert_eq!(first.tables().iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn bytes_are_counted_and_given_back() {
        let memory = Memory::new(u64::MAX);
        let first = Generation::new(Versions::new(Arc::clone(&memory)));
        for at in 1..100_u64 {
            put(&first, 1, &at.to_be_bytes(), at).expect("it is new");
        }
        let second = first.freeze();
        put(&second, 1, b"k", 100).expect("it is new");
        assert!(first.bytes() > second.bytes() && second.bytes() > 0);
        assert_eq!(memory.used(), first.bytes() + second.bytes());
        drop(first);
        assert_eq!(memory.used(), second.bytes());
        drop(second);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_long_chain_is_dropped_without_deep_calls() {
        let first = Generation::new(Versions::new(Memory::new(u64::MAX)));
        let mut last = Arc::clone(&first);
        for _ in 0..200_000 {
            last = last.freeze();
        }
        drop(last);
        drop(first);
    }
}
