//! What a reader reads, and who reads what: views, the horizon of live snapshots, and with it what may be collected.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::{ArcSwap, Guard};
use smallvec::SmallVec;

use crate::sync::{Mutex, MutexGuard};

use super::{
    catalog::Catalog,
    generation::Generation,
    ids::{Csn, TableId},
    overlay::{Found, Live, Overlay},
    storage::{Lookup, State, StorageError, Value},
    volatile::Volatile,
};

/// No commit's, but a CSN that each is below.
const ABOVE_ALL: Csn = Csn::from_bits(u64::MAX).expect("each of its parts is the largest");

/// Everything that there is to read: versions above a state of the tables' storage.
#[derive(Debug)]
pub(super) struct View<S> {
    /// The tables that there are for what begins now.
    pub(super) catalog: Arc<Catalog>,
    /// Newest first; all but the first are frozen.
    pub(super) generations: SmallVec<[Arc<Generation>; 2]>,
    /// The Memory tables, of which nothing is elsewhere.
    pub(super) volatile: Volatile,
    /// What is below them.
    pub(super) state: S,
}

impl<S: State> View<S> {
    /// A key's value at a live CSN, unless the disk has to be asked.
    pub(super) fn get(&self, table: TableId, key: &[u8], at: Csn) -> Lookup {
        self.look(table, key, |overlay| overlay.get(key, at), |generation| generation.get(table, key, at))
    }

    /// The same for who has no snapshot: the newest that is visible at some moment of the call. (Each generation is asked at what
    /// is visible then. Should that have risen in between, the version that an older one gives was visible, and the newest, at a
    /// moment between the two.)
    pub(super) fn get_now(&self, table: TableId, key: &[u8], visible: impl Fn() -> Csn) -> Lookup {
        self.look(
            table,
            key,
            |overlay| overlay.get_now(key, &visible),
            |generation| generation.get_now(table, key, &visible),
        )
    }

    /// What [`View::get`] gives for each of some keys. The storage is asked for all at once that no generation knows.
    pub(super) fn get_many(&self, table: TableId, keys: &[&[u8]], at: Csn) -> Vec<Lookup> {
        let above = |key: &&[u8]| {
            self.above(table, |overlay| overlay.get(key, at), |generation| generation.get(table, key, at))
        };
        self.many(table, keys, above)
    }

    /// What [`View::get_now`] gives for each of some keys, each at a moment of its own.
    pub(super) fn get_many_now(&self, table: TableId, keys: &[&[u8]], visible: impl Fn() -> Csn) -> Vec<Lookup> {
        let above = |key: &&[u8]| {
            let look = |generation: &Generation| generation.get_now(table, key, &visible);
            self.above(table, |overlay| overlay.get_now(key, &visible), look)
        };
        self.many(table, keys, above)
    }

    /// The newest value that is committed, visible or not. Nobody may write the key meanwhile.
    pub(super) fn get_newest(&self, table: TableId, key: &[u8]) -> Lookup {
        self.get(table, key, ABOVE_ALL)
    }

    /// What the storage has, where [`View::get`] found that the disk has to be asked.
    ///
    /// # Errors
    /// `Io`, `Corrupt`.
    pub(super) async fn read(&self, table: TableId, key: &[u8]) -> Result<Option<Value>, StorageError> {
        self.state.get(table, key).await
    }

    /// What [`View::get_many`] found, with what the disk had to be asked for.
    ///
    /// # Errors
    /// `Io`, `Corrupt`.
    pub(super) async fn read_missing(
        &self,
        table: TableId,
        keys: &[&[u8]],
        found: Vec<Lookup>,
    ) -> Result<Vec<Option<Value>>, StorageError> {
        let mut values = Vec::with_capacity(found.len());
        for (key, found) in keys.iter().zip(found) {
            values.push(match found {
                Lookup::Found(value) => Some(value),
                Lookup::Absent => None,
                Lookup::NotInMemory => self.read(table, key).await?,
            });
        }
        Ok(values)
    }

    fn look(
        &self,
        table: TableId,
        key: &[u8],
        volatile: impl Fn(&Overlay) -> Found,
        look: impl Fn(&Generation) -> Found,
    ) -> Lookup {
        self.above(table, volatile, look).unwrap_or_else(|| self.state.get_now(table, key))
    }

    /// What is known of a key above the storage; `None` if that has to be asked.
    fn above(
        &self,
        table: TableId,
        volatile: impl Fn(&Overlay) -> Found,
        look: impl Fn(&Generation) -> Found,
    ) -> Option<Lookup> {
        if let Some(overlay) = self.volatile.table(table) {
            return Some(match volatile(overlay) {
                Found::Value(value) => Lookup::Found(value.into()),
                Found::Removed | Found::Nothing => Lookup::Absent,
            });
        }
        for generation in &self.generations {
            match look(generation) {
                Found::Value(value) => return Some(Lookup::Found(value.into())),
                Found::Removed => return Some(Lookup::Absent),
                Found::Nothing => {}
            }
        }
        None
    }

    fn many(&self, table: TableId, keys: &[&[u8]], above: impl Fn(&&[u8]) -> Option<Lookup>) -> Vec<Lookup> {
        let known: Vec<Option<Lookup>> = keys.iter().map(above).collect();
        let unknown: Vec<&[u8]> =
            keys.iter().zip(&known).filter(|(_, known)| known.is_none()).map(|(key, _)| *key).collect();
        let mut found = Vec::with_capacity(unknown.len());
        self.state.get_many_now(table, &unknown, &mut found);
        if unknown.len() == keys.len() {
            return found;
        }
        let mut found = found.into_iter();
        // (A storage that answers too little is asked again, one by one.)
        known.into_iter().map(|known| known.or_else(|| found.next()).unwrap_or(Lookup::NotInMemory)).collect()
    }

    /// A key's newest version, visible or not, also if it came after this view was made; of a Memory table the present view is asked.
    pub(super) fn newest(&self, table: TableId, key: &[u8]) -> Option<Csn> {
        if let Some(overlay) = self.volatile.table(table) {
            return overlay.newest(key);
        }
        self.oldest().and_then(|generation| generation.newest_from_here(table, key))
    }

    /// Whether a key of a range has one above `after`.
    pub(super) fn changed_since(&self, table: TableId, range: super::overlay::KeyRange<'_>, after: Csn) -> bool {
        if let Some(overlay) = self.volatile.table(table) {
            return overlay.changed_since(range, after);
        }
        self.oldest().is_some_and(|generation| generation.changed_from_here(table, range, after))
    }

    fn oldest(&self) -> Option<&Arc<Generation>> {
        self.generations.last()
    }
}

/// From when on others see what is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// As soon as it is committed; a power cut may take it back, together with everything that was made of it.
    Committed,
    /// When a power cut can't take it back any more.
    Durable,
}

/// The present view, and the snapshots that are in use.
#[derive(Debug)]
pub(super) struct Horizon<S> {
    /// Replaced under the mutex, looked at without it.
    view: ArcSwap<View<S>>,
    inner: Mutex<Inner<S>>,
    visibility: Visibility,
    committed: AtomicU64,
    durable: AtomicU64,
}

#[derive(Debug)]
struct Inner<S> {
    /// The views of live snapshots are kept alive here, so that they can be let go when they hold too much.
    snapshots: BTreeMap<(Csn, u64), Option<Arc<View<S>>>>,
    next: u64,
}

/// A moment that somebody reads at. To be given back with [`Horizon::end`].
#[derive(Debug)]
pub(super) struct Snapshot<S> {
    number: u64,
    /// The last commit that it sees.
    pub(super) csn: Csn,
    view: Weak<View<S>>,
}

impl<S> Clone for Snapshot<S> {
    fn clone(&self) -> Self {
        Snapshot { number: self.number, csn: self.csn, view: self.view.clone() }
    }
}

impl<S> Snapshot<S> {
    /// What it reads; `None` if it held too much for too long.
    pub(super) fn view(&self) -> Option<Arc<View<S>>> {
        self.view.upgrade()
    }
}

impl<S> Horizon<S> {
    /// At a moment when everything up to `csn` is durable.
    pub(super) fn new(view: View<S>, csn: Csn, visibility: Visibility) -> Horizon<S> {
        let inner = Inner { snapshots: BTreeMap::new(), next: 0 };
        Horizon {
            view: ArcSwap::from_pointee(view),
            inner: Mutex::new(inner),
            visibility,
            committed: AtomicU64::new(csn.to_bits()),
            durable: AtomicU64::new(csn.to_bits()),
        }
    }

    /// Begins a snapshot of what is visible.
    pub(super) fn begin(&self) -> Snapshot<S> {
        let mut inner = self.lock();
        let (number, csn, view) = (inner.next, self.visible(), self.view());
        inner.next += 1;
        let snapshot = Snapshot { number, csn, view: Arc::downgrade(&view) };
        inner.snapshots.insert((csn, number), Some(view));
        snapshot
    }

    /// Nobody reads at it any more.
    pub(super) fn end(&self, snapshot: &Snapshot<S>) {
        // (What it held may be much, and goes when the mutex is free again.)
        let view = self.lock().snapshots.remove(&(snapshot.csn, snapshot.number));
        drop(view);
    }

    /// How many are in use.
    pub(super) fn snapshots(&self) -> u64 {
        self.lock().snapshots.len() as u64
    }

    /// What is read now.
    pub(super) fn view(&self) -> Arc<View<S>> {
        self.view.load_full()
    }

    /// The same for a short look, that no other thread's look gets in the way of.
    pub(super) fn look(&self) -> Guard<Arc<View<S>>> {
        self.view.load()
    }

    /// Replaces what is read from now on. What was read before is returned: to let go of it may take a while.
    pub(super) fn swap(&self, change: impl FnOnce(&View<S>) -> View<S>) -> Arc<View<S>> {
        let _inner = self.lock();
        let view = Arc::new(change(&self.view.load()));
        self.view.swap(view)
    }

    /// Takes the oldest view away from the snapshots that have it: their next reads fail. False if nothing is let go by that: it stays as long
    /// as somebody reads it, and the present one is everybody's.
    pub(super) fn forget_oldest(&self) -> bool {
        let mut inner = self.lock();
        let oldest = inner.snapshots.values().flatten().next().filter(|view| !Arc::ptr_eq(view, &self.view.load()));
        let Some(oldest) = oldest.map(Arc::clone) else { return false };
        for view in inner.snapshots.values_mut() {
            view.take_if(|view| Arc::ptr_eq(view, &oldest));
        }
        drop(inner);
        Arc::into_inner(oldest).is_some()
    }

    /// Live snapshots, oldest first, each CSN once, put into `snapshots`.
    pub(super) fn live<'a>(&self, snapshots: &'a mut Vec<Csn>) -> Live<'a> {
        snapshots.clear();
        let inner = self.lock();
        // Whatever begins from here on begins at what is visible now, or above.
        let visible = self.visible();
        snapshots.extend(inner.snapshots.keys().map(|(csn, _)| *csn));
        drop(inner);
        snapshots.dedup();
        Live { snapshots, visible }
    }

    /// Everything up to here is committed.
    pub(super) fn committed(&self) -> Csn {
        load(&self.committed)
    }

    /// Everything up to here survives a power cut.
    pub(super) fn durable(&self) -> Csn {
        load(&self.durable)
    }

    /// Everything up to here is seen by what begins now.
    pub(super) fn visible(&self) -> Csn {
        match self.visibility {
            Visibility::Committed => self.committed(),
            Visibility::Durable => self.durable(),
        }
    }

    /// From when on others see a commit.
    pub(super) fn visibility(&self) -> Visibility {
        self.visibility
    }

    /// A commit was installed, the next one in order.
    pub(super) fn commit(&self, csn: Csn) {
        self.committed.store(csn.to_bits(), Ordering::Release);
    }

    /// More has become durable. It never falls.
    pub(super) fn make_durable(&self, csn: Csn) {
        self.durable.fetch_max(csn.to_bits(), Ordering::AcqRel);
    }

    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        // What is done under it can't leave it half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn load(csn: &AtomicU64) -> Csn {
    Csn::from_bits(csn.load(Ordering::Acquire)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::txn::{blocks::Memory, generation::Versions};

    fn view() -> View<()> {
        let versions = Versions::new(Memory::new(1 << 20));
        View {
            catalog: Arc::default(),
            generations: SmallVec::from_iter([Generation::new(versions)]),
            volatile: Volatile::default(),
            state: (),
        }
    }

    #[test]
    fn the_oldest_view_goes_from_all_who_have_it_and_younger_ones_stay_while_it_is_read() {
        let horizon = Horizon::new(view(), Csn::default(), Visibility::Committed);
        let (first, second) = (horizon.begin(), horizon.begin());
        assert!(!horizon.forget_oldest(), "the present one is everybody's");
        assert!(first.view().is_some());
        horizon.swap(|_| view());
        let younger = horizon.begin();
        horizon.swap(|_| view());
        let youngest = horizon.begin();
        let read = second.view().expect("nobody has taken it away");
        assert!(!horizon.forget_oldest(), "it is read");
        drop(read);
        assert!(first.view().is_none() && second.view().is_none());
        assert!(younger.view().is_some() && youngest.view().is_some());
        assert!(horizon.forget_oldest());
        assert!(younger.view().is_none() && youngest.view().is_some());
        assert!(!horizon.forget_oldest());
        assert!(youngest.view().is_some());
        assert_eq!(horizon.snapshots(), 4);
    }
}
