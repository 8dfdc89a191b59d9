//! One table's committed versions, in key order, in memory: what is newer than its pages.
//!
//! - A read at a CSN gives the newest version that is as old, or that the key was removed by then, or nothing: what is below decides.
//!   It is right at every live snapshot, at what is visible, and above; what nobody can read any more is let go at the next change
//!   of its key.
//! - One at a time installs, in the order of CSNs. Readers wait for that at most, and most reads of a key that has no version for
//!   nothing at all. Once it is frozen it never changes, and nobody waits for anything.
//! - Nothing here fails for its content, and the same changes give the same structure in every run.
//!
//! It is let go as a whole. A version stays until its key changes again, and a key that was removed stays: it hides what is below.

mod filter;
mod tree;

mod keys;

mod chain;
mod values;

mod arena;
mod piece;

use std::ops::{Bound, Range};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};

pub(crate) use self::chain::Key;
use self::filter::{Filling, Filter};
pub(crate) use self::keys::head;
use self::piece::BLOCK_BYTES;
use self::tree::{Run, Tree};
pub(crate) use self::values::{Moved, ValuePlace, ValueRef, Values};
use super::blocks::Blocks;
use super::ids::Csn;
pub(crate) use super::storage::{Direction, KeyRange};
use crate::sync::RwLock;

/// Bytes of a version that somebody has read.
pub(crate) type Value = Arc<[u8]>;

/// Entries that a batch looks at for each that it may take, before it gives the lock back.
const LOOKED_AT: usize = 4;

/// A batch of so many looks at the entries of a node together before it takes them.
const AHEAD: usize = 32;

/// Who may read what: a version that none of these reads, and none that begins later, is of no use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Live<'a> {
    /// CSNs of the live snapshots, ascending.
    pub(crate) snapshots: &'a [Csn],
    /// At which a snapshot would begin now; it never falls.
    pub(crate) visible: Csn,
}

impl Live<'_> {
    /// Whether a live snapshot is in [from, to).
    fn any_in(&self, from: Csn, to: Csn) -> bool {
        let first = self.snapshots.partition_point(|snapshot| *snapshot < from);
        self.snapshots.get(first).is_some_and(|snapshot| *snapshot < to)
    }
}

/// What an overlay knows of a key at a CSN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Value(Value),
    /// There is no such key, whatever is below.
    Removed,
    /// What is below decides.
    Nothing,
}

/// A version that was not installed, and nothing was changed. Either is a mistake of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the table's versions are frozen")]
    Frozen,
    #[error("the table has a newer version")]
    NotNewer,
}

/// A piece of a scan: keys with their versions at its CSN, in its direction. A key that was removed is among them.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Keys, each with its value behind it unless that is shared.
    bytes: Vec<u8>,
    entries: Vec<Taken>,
    /// The last key that was looked at, if there may be others behind it.
    last: Option<Vec<u8>>,
}

/// Where an entry of a batch stands.
#[derive(Debug)]
struct Taken {
    key: Range<usize>,
    value: TakenValue,
}

#[derive(Debug)]
enum TakenValue {
    Removed,
    /// Behind its key: where it ends.
    Here(usize),
    Shared(Value),
}

impl Batch {
    /// Nothing is in it, and nothing is behind it.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
        self.last = None;
    }

    fn take(&mut self, key: &[u8], value: Option<ValueRef<'_>>) {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let key = begin..self.bytes.len();
        let value = match value {
            None => TakenValue::Removed,
            Some(ValueRef::Shared(value)) => TakenValue::Shared(Value::clone(value)),
            Some(ValueRef::Bytes(value)) => {
                self.bytes.extend_from_slice(value);
                TakenValue::Here(self.bytes.len())
            }
        };
        self.entries.push(Taken { key, value });
    }

    /// What it has, in order.
    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        (0..self.entries.len()).filter_map(|nth| self.nth(nth))
    }

    /// One of them by its number.
    #[inline]
    pub(crate) fn nth(&self, nth: usize) -> Option<(&[u8], Option<&[u8]>)> {
        let Taken { key, value } = self.entries.get(nth)?;
        let value = match value {
            TakenValue::Removed => None,
            TakenValue::Here(end) => Some(self.bytes.get(key.end..*end)?),
            TakenValue::Shared(value) => Some(&**value),
        };
        Some((self.bytes.get(key.clone())?, value))
    }

    /// What is left of the range behind this batch, even if the batch is empty; none at the end.
    pub(crate) fn rest<'a>(&'a self, range: KeyRange<'a>, direction: Direction) -> Option<KeyRange<'a>> {
        let last = Bound::Excluded(self.last.as_deref()?);
        Some(match direction {
            Direction::Forward => (last, range.1),
            Direction::Backward => (range.0, last),
        })
    }
}

/// What is written under the lock.
#[derive(Debug, Default)]
struct Growing {
    tree: Tree,
    filling: Filling,
}

/// One table's committed versions.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    filter: Filter,
    /// Empty once it is frozen.
    growing: RwLock<Growing>,
    frozen: OnceLock<Tree>,
    bytes: AtomicUsize,
    /// Those of them that are in no block.
    others: AtomicUsize,
    /// Where more memory comes from, and goes in the end; it counts all of it.
    blocks: Option<Arc<Blocks>>,
}

impl Overlay {
    /// One at a time counts.
    fn count(&self, tree: &Tree, filling: &Filling) {
        let others = tree.bytes_beside_blocks() + filling.bytes();
        self.bytes.store(tree.bytes_in_blocks() + others, Ordering::Relaxed);
        let before = self.others.load(Ordering::Relaxed);
        if before == others {
            return;
        }
        self.others.store(others, Ordering::Relaxed);
        if let Some(blocks) = &self.blocks {
            blocks.memory().add(others.saturating_sub(before) as u64);
            blocks.memory().give_back(before.saturating_sub(others) as u64);
            blocks.shrink();
        }
    }

    /// It gets its memory of these, and gives it back to them.
    pub(crate) fn of_blocks(mut self, blocks: &Arc<Blocks>) -> Overlay {
        let (bytes, others) = (*self.bytes.get_mut(), *self.others.get_mut());
        blocks.memory().add(others as u64);
        blocks.adopt(((bytes - others) / BLOCK_BYTES) as u64);
        self.blocks = Some(Arc::clone(blocks));
        self
    }

    /// Adds a version, and lets those go that nobody needs. `csn` is not below any that was installed, and above those of this key. It
    /// must not be visible before this has returned.
    pub(crate) fn install(
        &self,
        key: &[u8],
        value: Option<ValueRef<'_>>,
        csn: Csn,
        live: &Live<'_>,
    ) -> Result<(), Refused> {
        let mut growing = self.growing.write().unwrap_or_else(PoisonError::into_inner);
        if csn < growing.tree.newest_of_all() {
            return Err(Refused::NotNewer);
        }
        self.install_in(&mut growing, key, value, csn, live)
    }

    /// The same in any order of keys: above the versions of this key is enough.
    fn install_in(
        &self,
        growing: &mut Growing,
        key: &[u8],
        value: Option<ValueRef<'_>>,
        csn: Csn,
        live: &Live<'_>,
    ) -> Result<(), Refused> {
        if self.frozen.get().is_some() {
            return Err(Refused::Frozen);
        }
        let Growing { tree, filling } = growing;
        let hash = filter::hash(key);
        // (It comes while the tree is gone through.)
        self.filter.warm(hash);
        if tree.install(key, value, csn, live, self.blocks.as_deref())? {
            self.filter.add(filling, hash, |nth| filter::hash(tree.nth(nth)));
        }
        self.count(tree, filling);
        Ok(())
    }

    /// What is known of a key at a CSN, of which it must be certain that it is live: visible, or a snapshot's.
    pub(crate) fn get(&self, key: &[u8], at: Csn) -> Found {
        self.get_now(key, || at)
    }

    /// The same for who has no snapshot: the CSN is asked for while nothing can be let go. (Asked for before, its version might be
    /// gone by now: two newer ones are installed, the first one is visible, and no snapshot is live.)
    pub(crate) fn get_now(&self, key: &[u8], visible: impl FnOnce() -> Csn) -> Found {
        let found = self.look(key, |tree| Some(tree.get(key, visible())?.map(ValueRef::to_value)));
        found.map_or(Found::Nothing, |value| value.map_or(Found::Removed, Found::Value))
    }

    /// The CSN of a key's newest version, whether it is visible or not.
    pub(crate) fn newest(&self, key: &[u8]) -> Option<Csn> {
        self.look(key, |tree| tree.newest(key))
    }

    /// Whether a key of a range has a version above a CSN, whether it is visible or not.
    pub(crate) fn changed_since(&self, range: KeyRange<'_>, after: Csn) -> bool {
        self.read(|tree| tree.changed_since(range, after))
    }

    /// The first entries of a range in a direction, at a live CSN: at most `limit`, and fewer where many keys have only newer versions.
    /// [`Batch::rest`] says where the next one begins.
    pub(crate) fn batch(&self, range: KeyRange<'_>, at: Csn, direction: Direction, limit: usize, out: &mut Batch) {
        out.clear();
        let limit = limit.max(1);
        self.read(|tree| {
            let mut walk = tree.walk(range, direction, limit >= AHEAD).enumerate().peekable();
            while let Some((looked_at, entry)) = walk.next() {
                if let Some(value) = entry.at(at) {
                    out.take(entry.key(), value);
                }
                if out.entries.len() == limit || looked_at + 1 >= LOOKED_AT.saturating_mul(limit) {
                    out.last = walk.peek().map(|_| entry.key().to_vec());
                    return;
                }
            }
        });
    }

    /// One that is put together, of so many keys at most, with the values that they have.
    pub(crate) fn ascending(keys: usize, values: Values) -> Ascending {
        let (filter, mut growing) = (Filter::default(), Growing { tree: Tree::of(values), ..Growing::default() });
        filter.reserve(&mut growing.filling, keys);
        Ascending { filter, growing }
    }

    /// From now on nothing is installed. It takes no longer for a large one.
    pub(crate) fn freeze(&self) {
        let mut growing = self.growing.write().unwrap_or_else(PoisonError::into_inner);
        self.frozen.get_or_init(|| std::mem::take(&mut growing.tree));
    }

    /// Copies keys behind `behind` into another one, which has none of them, until so many versions are copied. Keys that are removed
    /// for everybody are left out as if they had never been there, so nothing may be below. The last key, if there are others behind it.
    pub(crate) fn copy_some(
        &self,
        behind: Option<&[u8]>,
        limit: usize,
        live: &Live<'_>,
        other: &Overlay,
    ) -> Option<Vec<u8>> {
        let from = behind.map_or(Bound::Unbounded, Bound::Excluded);
        self.read(|tree| {
            let mut walk = tree.walk((from, Bound::Unbounded), Direction::Forward, limit >= AHEAD);
            let mut growing = other.growing.write().unwrap_or_else(PoisonError::into_inner);
            let (mut last, mut versions, mut done) = (None, Vec::new(), 0);
            while done < limit.max(1)
                && let Some(entry) = walk.next()
            {
                versions.extend(tree.versions(&entry, live));
                done += versions.len().max(1);
                while let Some((csn, value)) = versions.pop() {
                    let copied = other.install_in(&mut growing, entry.key(), value, csn, live);
                    copied.expect("the other is not frozen, and has no version of this key that is newer");
                }
                last = Some(entry);
            }
            walk.next().and(last).map(|entry| entry.key().to_vec())
        })
    }

    /// All of it, to be read without a lock; `None` if it isn't frozen.
    pub(crate) fn frozen(&self) -> Option<&Tree> {
        self.frozen.get()
    }

    /// Keys that it has versions of.
    pub(crate) fn len(&self) -> usize {
        self.read(Tree::len)
    }

    /// Bytes that it holds: of keys, versions and their values, nodes and the filter, with the room that they have to grow.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn look<T>(&self, key: &[u8], look: impl FnOnce(&Tree) -> Option<T>) -> Option<T> {
        if self.filter.may_hold(filter::hash(key)) { self.read(look) } else { None }
    }

    fn read<T>(&self, read: impl FnOnce(&Tree) -> T) -> T {
        if let Some(tree) = self.frozen.get() {
            return read(tree);
        }
        let growing = self.growing.read().unwrap_or_else(PoisonError::into_inner);
        // It may have been frozen since.
        read(self.frozen.get().unwrap_or(&growing.tree))
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let Some(blocks) = &self.blocks else { return };
        blocks.memory().give_back(*self.others.get_mut() as u64);
        let growing = self.growing.get_mut().unwrap_or_else(PoisonError::into_inner);
        let trees = [std::mem::take(&mut growing.tree), self.frozen.take().unwrap_or_default()];
        blocks.give_all(trees.into_iter().flat_map(Tree::into_blocks));
    }
}

/// A range of a table's keys, each with one version: built by itself, so that several may be built at once.
#[derive(Debug, Default)]
pub(crate) struct Fragment {
    run: Run,
    hashes: Vec<u64>,
}

impl Fragment {
    /// Of keys that ascend, each with where its value stands among those of the whole. CSNs may come in any order.
    pub(crate) fn of(rows: impl IntoIterator<Item = (Key, ValuePlace, Csn)>) -> Fragment {
        let mut fragment = Fragment::default();
        for (key, value, csn) in rows {
            fragment.hashes.push(filter::hash(key.bytes()));
            fragment.run.push(key, value, csn);
        }
        fragment
    }
}

/// An overlay that is put together of ranges of its keys, in their order.
#[derive(Debug)]
pub(crate) struct Ascending {
    filter: Filter,
    growing: Growing,
}

impl Ascending {
    /// Adds keys above those before them.
    pub(crate) fn join(&mut self, fragment: Fragment) {
        let Growing { tree, filling } = &mut self.growing;
        tree.join(fragment.run);
        for hash in fragment.hashes {
            self.filter.add(filling, hash, |nth| filter::hash(tree.nth(nth)));
        }
    }

    /// It goes on as any other, with CSNs that are not below those that it has.
    pub(crate) fn finish(self) -> Overlay {
        let Ascending { filter, mut growing } = self;
        growing.tree.settle();
        let mut overlay = Overlay::default();
        overlay.count(&growing.tree, &growing.filling);
        (overlay.filter, overlay.growing) = (filter, RwLock::new(growing));
        overlay
    }
}

#[cfg(test)]
mod tests;
