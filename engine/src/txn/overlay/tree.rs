//! A table's entries in key order: a B+tree whose nodes stand in lists and name each other by number.
//!
//! An entry is never taken out, so that separators are numbers of entries as well.
//!
//! Every node knows a CSN that none of its entries exceeds. It may be more than the largest: a split leaves it to both halves.

use std::cmp::Ordering;
use std::ops::Bound;

use bytemuck::{Pod, Zeroable};
use smallvec::SmallVec;

use super::arena::Arena;
use super::chain::{Chains, Key, NONE};
use super::keys::{FAN, Keys};
use super::values::{ValuePlace, ValueRef, Values};
use super::{Csn, Direction, KeyRange, Live, Refused};
use crate::prefetch::prefetch;
use crate::txn::blocks::{Block, Blocks};

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Leaf {
    keys: Keys,
    max: Csn,
    previous: u32,
    next: u32,
}

impl Leaf {
    /// One without keys, and none beside it.
    fn blank() -> Leaf {
        Leaf { keys: Keys::new(0), max: Csn::default(), previous: NONE, next: NONE }
    }
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Inner {
    /// Separators: each the first key that was right of it.
    keys: Keys,
    max: Csn,
    /// One more than there may be, so that nothing is left between two nodes.
    children: [u32; CHILDREN],
}

impl Inner {
    /// The child where a key is, or would be.
    fn child(&self, chains: &Chains, key: &[u8]) -> usize {
        self.keys.find(chains, key).map_or_else(|at| at, |at| at + 1)
    }

    fn insert(&mut self, at: usize, entry: u32, key: &[u8], child: u32) {
        let len = self.keys.len();
        self.keys.insert(at, entry, key);
        self.children.copy_within(at + 1..=len, at + 2);
        self.children[at + 1] = child;
    }
}

const CHILDREN: usize = FAN + 2;

/// Before an entry, or behind the last one (then the leaf is [`NONE`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    leaf: u32,
    at: usize,
}

/// Inner nodes on the way down, each with the child that was taken.
type Path = SmallVec<[(u32, usize); 8]>;

#[derive(Debug, Default)]
pub(crate) struct Tree {
    chains: Chains,
    /// The leftmost is number 0: a split makes a new right half.
    leaves: Arena<Leaf>,
    inners: Arena<Inner>,
    root: u32,
    /// Inner nodes above a leaf.
    height: usize,
    /// The rightmost leaf.
    last: u32,
    newest: Csn,
}

impl Tree {
    /// With the values of what is going to join.
    pub(super) fn of(values: Values) -> Tree {
        Tree { chains: Chains::of(values), ..Tree::default() }
    }

    /// Keys that it has versions of.
    pub(super) fn len(&self) -> usize {
        self.chains.len()
    }

    /// Bytes of blocks.
    pub(super) fn bytes_in_blocks(&self) -> usize {
        self.chains.bytes_in_blocks() + self.leaves.bytes_in_blocks() + self.inners.bytes_in_blocks()
    }

    /// Bytes of all else.
    pub(super) fn bytes_beside_blocks(&self) -> usize {
        self.chains.bytes_beside_blocks() + self.leaves.bytes_beside_blocks() + self.inners.bytes_beside_blocks()
    }

    /// A key by the order in which keys came.
    pub(super) fn nth(&self, nth: usize) -> &[u8] {
        self.chains.nth(nth)
    }

    /// The highest CSN of all versions that were installed.
    pub(super) fn newest_of_all(&self) -> Csn {
        self.newest
    }

    /// Adds a version, which is newer than those of its key, with memory of `blocks` where more is needed. Says whether the key is new.
    pub(super) fn install(
        &mut self,
        key: &[u8],
        value: Option<ValueRef<'_>>,
        csn: Csn,
        live: &Live<'_>,
        blocks: Option<&Blocks>,
    ) -> Result<bool, Refused> {
        if self.leaves.len() == 0 {
            self.leaves.push(Leaf { max: csn, ..Leaf::blank() });
        }
        let (path, leaf, found) = self.descend(key, csn);
        match found {
            Ok(at) => {
                let entry = self.leaves[leaf].keys.entries[at];
                if csn <= self.chains.newest(entry) {
                    return Err(Refused::NotNewer);
                }
                self.chains.renew(entry, csn, value, live, blocks);
            }
            Err(at) => {
                let entry = self.chains.push(key, csn, value, blocks);
                self.place(path, leaf, at, entry, key, blocks);
            }
        }
        let leaf = &mut self.leaves[leaf];
        leaf.max = leaf.max.max(csn);
        self.newest = self.newest.max(csn);
        Ok(found.is_err())
    }

    /// Adds keys above all others. Nothing is installed in between, and nothing is read before [`settle`](Tree::settle).
    pub(super) fn join(&mut self, run: Run) {
        let Run { chains, leaves, newest } = run;
        let count = leaves.len() as u32;
        let (empty, left) = (self.leaves.len() == 0, self.last);
        let (entries, first) = (self.chains.join(chains), self.leaves.join(leaves));
        self.newest = self.newest.max(newest);
        for number in first..first + count {
            let leaf = &mut self.leaves[number];
            leaf.keys.moved(entries);
            leaf.previous = if number > first { number - 1 } else { left };
            leaf.next = if number + 1 < first + count { number + 1 } else { NONE };
            let (separator, max) = (leaf.keys.entries[0], leaf.max);
            if empty && number == first {
                leaf.previous = NONE;
                self.root = number;
            } else {
                self.leaves[self.last].next = number;
                let mut path = self.rightmost();
                self.raise(&mut path, separator, number, max, None);
            }
            self.last = number;
        }
    }

    /// To the last leaf.
    fn rightmost(&self) -> Path {
        let (mut path, mut node) = (Path::new(), self.root);
        for _ in 0..self.height {
            let inner = &self.inners[node];
            path.push((node, inner.keys.len()));
            node = inner.children[inner.keys.len()];
        }
        path
    }

    /// All has joined: every node gets to know what its entries have.
    pub(super) fn settle(&mut self) {
        if self.leaves.len() > 0 {
            self.settle_below(self.root, self.height);
        }
    }

    fn settle_below(&mut self, node: u32, height: usize) -> Csn {
        let Some(below) = height.checked_sub(1) else { return self.leaves[node].max };
        let children = self.inners[node].children;
        let count = self.inners[node].keys.len() + 1;
        let max = children[..count].iter().map(|child| self.settle_below(*child, below)).max();
        self.inners[node].max = max.unwrap_or_default();
        max.unwrap_or_default()
    }

    /// To where a key is or would be; what is on the way has it from now on.
    fn descend(&mut self, key: &[u8], csn: Csn) -> (Path, u32, Result<usize, usize>) {
        // Ascending keys need no search.
        let behind = self.leaves[self.last].keys.used().last().is_some_and(|last| self.chains.key(*last) < key);
        let (mut path, mut node) = (Path::new(), self.root);
        for _ in 0..self.height {
            let inner = &mut self.inners[node];
            inner.max = inner.max.max(csn);
            let child = if behind { inner.keys.len() } else { inner.child(&self.chains, key) };
            path.push((node, child));
            node = inner.children[child];
        }
        let Leaf { keys, next, .. } = &self.leaves[node];
        // (A new key is written into most of it, and what is behind its keys as well.)
        keys.warm();
        prefetch(next);
        let found = if behind { Err(keys.len()) } else { keys.find(&self.chains, key) };
        (path, node, found)
    }

    /// Keys between which all of the node lie at which a path ends.
    fn fences(&self, path: &[(u32, usize)]) -> (Option<u32>, Option<u32>) {
        let low = path.iter().rev().find(|(_, child)| *child > 0);
        let high = path.iter().rev().find(|(node, child)| *child < self.inners[*node].keys.len());
        let low = low.map(|(node, child)| self.inners[*node].keys.entries[child - 1]);
        (low, high.map(|(node, child)| self.inners[*node].keys.entries[*child]))
    }

    fn place(&mut self, mut path: Path, leaf: u32, at: usize, entry: u32, key: &[u8], blocks: Option<&Blocks>) {
        let left = &mut self.leaves[leaf];
        if left.keys.len() < FAN {
            return left.keys.insert(at, entry, key);
        }
        let (low, high) = self.fences(&path);
        let left = &mut self.leaves[leaf];
        // Full leaves where keys ascend.
        let middle = if leaf == self.last && at == FAN { FAN } else { FAN / 2 };
        let mut keys = left.keys.split(middle);
        if at < middle {
            left.keys.insert(at, entry, key)
        } else {
            keys.insert(at - middle, entry, key)
        };
        let separator = keys.entries[0];
        left.keys.fence(&self.chains, low, Some(separator));
        keys.fence(&self.chains, Some(separator), high);
        // (The new entry may be in either half.)
        let max = left.max.max(self.chains.newest(entry));
        let next = left.next;
        let right = self.leaves.push_in(Leaf { keys, max, previous: leaf, next }, blocks);
        self.leaves[leaf].next = right;
        if next == NONE {
            self.last = right;
        } else {
            self.leaves[next].previous = right;
        }
        self.raise(&mut path, separator, right, max, blocks);
    }

    /// A node was split: its right half gets its place above.
    fn raise(&mut self, path: &mut Path, mut separator: u32, mut right: u32, max: Csn, blocks: Option<&Blocks>) {
        while let Some((node, child)) = path.pop() {
            let left = &mut self.inners[node];
            let key = self.chains.key(separator);
            if left.keys.len() < FAN {
                return left.insert(child, separator, key, right);
            }
            let (low, high) = self.fences(path);
            let left = &mut self.inners[node];
            let middle = if child == FAN { FAN - 1 } else { FAN / 2 };
            let up = left.keys.entries[middle];
            let mut half = Inner { keys: left.keys.split(middle + 1), max: left.max, children: [NONE; CHILDREN] };
            left.keys.cut(middle);
            half.children[..FAN - middle].copy_from_slice(&left.children[middle + 1..=FAN]);
            if child <= middle {
                left.insert(child, separator, key, right);
            } else {
                half.insert(child - middle - 1, separator, key, right);
            }
            left.keys.fence(&self.chains, low, Some(up));
            half.keys.fence(&self.chains, Some(up), high);
            (separator, right) = (up, self.inners.push_in(half, blocks));
        }
        let mut root = Inner { keys: Keys::new(0), max: max.max(self.newest), children: [NONE; CHILDREN] };
        root.children[0] = self.root;
        root.insert(0, separator, self.chains.key(separator), right);
        self.root = self.inners.push_in(root, blocks);
        self.height += 1;
    }

    fn leaf_of(&self, key: &[u8]) -> u32 {
        (0..self.height).fold(self.root, |node, _| {
            let inner = &self.inners[node];
            inner.children[inner.child(&self.chains, key)]
        })
    }

    fn find(&self, key: &[u8]) -> Option<u32> {
        if self.leaves.len() == 0 {
            return None;
        }
        let keys = &self.leaves[self.leaf_of(key)].keys;
        keys.find(&self.chains, key).ok().map(|at| keys.entries[at])
    }

    /// The version of a key at a CSN: that it is removed is one.
    pub(super) fn get(&self, key: &[u8], at: Csn) -> Option<Option<ValueRef<'_>>> {
        self.chains.at(self.find(key)?, at)
    }

    /// The CSN of a key's newest version.
    pub(super) fn newest(&self, key: &[u8]) -> Option<Csn> {
        Some(self.chains.newest(self.find(key)?))
    }

    /// Before the first key of a range, and behind its last; the same if there is none.
    fn ends(&self, range: KeyRange<'_>) -> (Place, Place) {
        let end = Place { leaf: NONE, at: 0 };
        if self.leaves.len() == 0 || is_empty(range) {
            return (end, end);
        }
        let place = |key: &[u8], behind: bool| {
            let leaf = self.leaf_of(key);
            let at = self.leaves[leaf].keys.find(&self.chains, key).map_or_else(|at| at, |at| at + usize::from(behind));
            self.settled(Place { leaf, at })
        };
        let first = match range.0 {
            Bound::Unbounded => Place { leaf: 0, at: 0 },
            Bound::Included(key) => place(key, false),
            Bound::Excluded(key) => place(key, true),
        };
        let last = match range.1 {
            Bound::Unbounded => end,
            Bound::Included(key) => place(key, true),
            Bound::Excluded(key) => place(key, false),
        };
        (first, last)
    }

    /// Behind the last key of a leaf is before the first of the next one.
    fn settled(&self, place: Place) -> Place {
        match self.leaves[place.leaf].keys.len() {
            len if place.at < len => place,
            _ => Place { leaf: self.leaves[place.leaf].next, at: 0 },
        }
    }

    /// All entries of a range, each once. For who takes many, `ahead` looks at those of a node together.
    pub(super) fn walk(&self, range: KeyRange<'_>, direction: Direction, ahead: bool) -> Walk<'_> {
        let (first, last) = self.ends(range);
        Walk { tree: self, first, last, direction, ahead: ahead.then_some(NONE) }
    }

    /// Whether a key of a range has a version above a CSN.
    pub(super) fn changed_since(&self, range: KeyRange<'_>, after: Csn) -> bool {
        self.newest > after
            && !is_empty(range)
            && self.leaves.len() > 0
            && self.changed(self.root, self.height, range, after)
    }

    fn changed(&self, node: u32, height: usize, range: KeyRange<'_>, after: Csn) -> bool {
        let Some(below) = height.checked_sub(1) else {
            let leaf = &self.leaves[node];
            let mut entries = leaf.keys.used().iter();
            return leaf.max > after
                && entries.any(|entry| self.chains.newest(*entry) > after && holds(range, self.chains.key(*entry)));
        };
        let inner = &self.inners[node];
        if inner.max <= after {
            return false;
        }
        let child = |bound: Bound<&[u8]>, open: usize| match bound {
            Bound::Included(key) | Bound::Excluded(key) => inner.child(&self.chains, key),
            Bound::Unbounded => open,
        };
        let (first, last) = (child(range.0, 0), child(range.1, inner.keys.len()));
        (first..=last).any(|at| {
            let from = if at == first { range.0 } else { Bound::Unbounded };
            let to = if at == last { range.1 } else { Bound::Unbounded };
            self.changed(inner.children[at], below, (from, to), after)
        })
    }

    /// All keys that have a version at a CSN, ascending, each with it: none if it is removed.
    pub(crate) fn entries(&self, at: Csn) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.walk((Bound::Unbounded, Bound::Unbounded), Direction::Forward, true)
            .filter_map(move |entry| Some((entry.key(), entry.at(at)?.map(ValueRef::bytes))))
    }

    /// All versions of a key, the newest first; none if it is removed for everybody.
    pub(super) fn versions(
        &self,
        stop: &Stop<'_>,
        live: &Live<'_>,
    ) -> impl Iterator<Item = (Csn, Option<ValueRef<'_>>)> {
        let there = !self.chains.is_removed(stop.entry, live);
        there.then(|| self.chains.versions(stop.entry)).into_iter().flatten()
    }

    /// What it was in.
    pub(super) fn into_blocks(self) -> impl Iterator<Item = Block> {
        self.leaves.into_blocks().chain(self.inners.into_blocks()).chain(self.chains.into_blocks())
    }

    #[cfg(test)]
    pub(super) fn chain_length(&self, key: &[u8]) -> usize {
        self.find(key).map_or(0, |entry| self.chains.length(entry))
    }

    /// Whether the nodes are as they promise, and bytes are as they are counted.
    #[cfg(test)]
    pub(super) fn is_sound(&self) -> bool {
        let walked: Vec<_> = self.walk((Bound::Unbounded, Bound::Unbounded), Direction::Forward, false).collect();
        walked.is_sorted_by(|a, b| a.key() < b.key())
            && walked.len() == self.len()
            && walked.iter().all(|entry| self.find(entry.key()) == Some(entry.entry))
            && (self.leaves.len() == 0 || self.max(self.root, self.height).is_some())
            && self.chains.recount()
    }

    /// The largest CSN of a node; `None` if a node below states less.
    #[cfg(test)]
    fn max(&self, node: u32, height: usize) -> Option<Csn> {
        let (stated, max) = if height == 0 {
            let leaf = &self.leaves[node];
            (leaf.max, leaf.keys.used().iter().map(|entry| self.chains.newest(*entry)).max())
        } else {
            let inner = &self.inners[node];
            let children = &inner.children[..=inner.keys.len()];
            let below: Option<Vec<Csn>> = children.iter().map(|child| self.max(*child, height - 1)).collect();
            (inner.max, below?.into_iter().max())
        };
        max.filter(|max| *max <= stated)
    }
}

/// Keys in order, each with its one version, as leaves: what a tree takes as a whole.
#[derive(Debug, Default)]
pub(super) struct Run {
    chains: Chains,
    leaves: Arena<Leaf>,
    newest: Csn,
}

impl Run {
    /// Adds a key above those before it, with where its value stands in the tree that it is for.
    pub(super) fn push(&mut self, key: Key, value: ValuePlace, csn: Csn) {
        let entry = self.chains.push_placed(key.bytes(), csn, value, None);
        let key = self.chains.key(entry);
        debug_assert!(entry == 0 || self.chains.key(entry - 1) < key, "keys ascend");
        let mut last = self.leaves.len() as u32;
        if entry.is_multiple_of(FAN as u32) {
            // Between what is known here: in a tree there may be anything before the first leaf.
            if let Some(left) = last.checked_sub(1).filter(|left| *left > 0) {
                let keys = &mut self.leaves[left].keys;
                keys.fence(&self.chains, Some(keys.entries[0]), Some(entry));
            }
            self.leaves.push(Leaf { max: csn, ..Leaf::blank() });
        } else {
            last -= 1;
        }
        let leaf = &mut self.leaves[last];
        leaf.max = leaf.max.max(csn);
        leaf.keys.insert(leaf.keys.len(), entry, key);
        self.newest = self.newest.max(csn);
    }
}

fn is_empty(range: KeyRange<'_>) -> bool {
    match range {
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from >= to,
        _ => false,
    }
}

fn holds(range: KeyRange<'_>, key: &[u8]) -> bool {
    let from = match range.0 {
        Bound::Included(from) => from.cmp(key) != Ordering::Greater,
        Bound::Excluded(from) => from.cmp(key) == Ordering::Less,
        Bound::Unbounded => true,
    };
    from && match range.1 {
        Bound::Included(to) => to.cmp(key) != Ordering::Less,
        Bound::Excluded(to) => to.cmp(key) == Ordering::Greater,
        Bound::Unbounded => true,
    }
}

/// An entry on a walk.
#[derive(Clone, Copy)]
pub(super) struct Stop<'a> {
    tree: &'a Tree,
    entry: u32,
}

impl<'a> Stop<'a> {
    pub(super) fn key(self) -> &'a [u8] {
        self.tree.chains.key(self.entry)
    }

    pub(super) fn at(self, at: Csn) -> Option<Option<ValueRef<'a>>> {
        self.tree.chains.at(self.entry, at)
    }
}

pub(super) struct Walk<'a> {
    tree: &'a Tree,
    first: Place,
    last: Place,
    direction: Direction,
    /// The leaf whose entries were looked at together, if that is done.
    ahead: Option<u32>,
}

impl<'a> Iterator for Walk<'a> {
    type Item = Stop<'a>;

    fn next(&mut self) -> Option<Stop<'a>> {
        if self.first == self.last {
            return None;
        }
        let tree = self.tree;
        let Place { leaf, at } = match self.direction {
            Direction::Forward => {
                let here = self.first;
                self.first = tree.settled(Place { at: here.at + 1, ..here });
                here
            }
            Direction::Backward => {
                if let Some(at) = self.last.at.checked_sub(1) {
                    self.last.at = at;
                } else {
                    let leaf = if self.last.leaf == NONE { tree.last } else { tree.leaves[self.last.leaf].previous };
                    self.last = Place { leaf, at: tree.leaves[leaf].keys.len() - 1 };
                }
                self.last
            }
        };
        let keys = &tree.leaves[leaf].keys;
        if self.ahead.is_some_and(|ahead| ahead != leaf) {
            self.ahead = Some(leaf);
            tree.chains.touch(keys.used());
        }
        Some(Stop { tree, entry: keys.entries[at] })
    }
}
