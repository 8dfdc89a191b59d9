//! A cursor over an immutable tree, in both directions within bounds, and the look-up of one key. Both lend slices of pages.
//!
//! A source's error leaves a cursor where it was, so `next` can be called again once the page is there.

use std::ops::Bound;

pub use super::super::storage::Direction;
use super::{
    Source, descend,
    format::ChildRef,
    node::{Cell, Node, NodeRef, Stored},
};

/// A value where it stands: it keeps its page.
#[derive(Clone, Debug)]
pub struct Hit<const B: usize> {
    leaf: NodeRef<B>,
    index: usize,
}

impl<const B: usize> Hit<B> {
    /// The value, or where it stands.
    #[must_use]
    pub fn value(&self) -> Stored<'_> {
        self.leaf.value(self.index)
    }
}

/// Looks one key up. It keeps no state: after an error of the source it is called again.
pub fn get<const B: usize, S: Source<B>>(
    source: &S,
    root: Option<&ChildRef>,
    key: &[u8],
) -> Result<Option<Hit<B>>, S::Error> {
    let Some(root) = root else { return Ok(None) };
    let mut node = source.page(root)?;
    while !node.is_leaf() {
        node = descend(source, &node, node.child_of(key))?;
    }
    Ok(node.find(key).ok().map(|index| Hit { leaf: node, index }))
}

/// A walk over the keys within bounds.
#[derive(Debug)]
pub struct Cursor<const B: usize> {
    root: Option<ChildRef>,
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
    direction: Direction,
    /// Inner pages from the root down, each with the child that is walked.
    path: Vec<(NodeRef<B>, usize)>,
    /// The leaf that is walked, and the cells of it that are still to come.
    leaf: Option<(NodeRef<B>, usize, usize)>,
    /// Whether the first leaf was reached. Before, the bound says which way down; after it, the edge.
    sought: bool,
    /// The cell that `next` gave.
    at: Cell,
    key: Vec<u8>,
}

impl<const B: usize> Cursor<B> {
    /// A cursor in front of the first key, in its direction, within these bounds.
    #[must_use]
    pub fn new(root: Option<ChildRef>, from: Bound<&[u8]>, to: Bound<&[u8]>, direction: Direction) -> Cursor<B> {
        let (from, to) = (from.map(<[u8]>::to_vec), to.map(<[u8]>::to_vec));
        Cursor {
            root,
            from,
            to,
            direction,
            path: Vec::new(),
            leaf: None,
            sought: false,
            at: Cell::default(),
            key: Vec::new(),
        }
    }

    /// The next key with its value; `None` at the end. After an error of the source it goes on with the same key.
    pub fn next<S: Source<B>>(&mut self, source: &S) -> Result<Option<(&[u8], Stored<'_>)>, S::Error> {
        while self.leaf.as_ref().is_none_or(|(_, from, to)| from >= to) {
            if !self.next_leaf(source)? {
                return Ok(None);
            }
        }
        self.next_in_leaf();
        Ok(self.current())
    }

    /// The next key's value, if it stands in the leaf that the walk is at; else nothing has changed.
    #[inline]
    pub(super) fn next_in_leaf(&mut self) -> Option<Stored<'_>> {
        let (leaf, from, to) = self.leaf.as_mut().filter(|(_, from, to)| from < to)?;
        let index = match self.direction {
            Direction::Forward => {
                *from += 1;
                *from - 1
            }
            Direction::Backward => {
                *to -= 1;
                *to
            }
        };
        self.at = leaf.cell(index);
        self.key.truncate(leaf.prefix().len());
        self.key.extend_from_slice(leaf.suffix_in(self.at));
        Some(leaf.value_in(self.at))
    }

    /// What [`next`](Cursor::next) gave; after an error of it, or before it was called, nothing that means anything.
    #[inline(always)]
    pub(super) fn current(&self) -> Option<(&[u8], Stored<'_>)> {
        let (leaf, _, _) = self.leaf.as_ref()?;
        Some((&self.key, leaf.value_in(self.at)))
    }

    /// Goes to the next leaf that may hold something; `false` if there is none.
    fn next_leaf<S: Source<B>>(&mut self, source: &S) -> Result<bool, S::Error> {
        let Some(root) = self.root else { return Ok(false) };
        if self.leaf.is_some() && !self.leave() {
            self.root = None;
            return Ok(false);
        }
        loop {
            let node = match self.path.last() {
                None => source.page(&root)?,
                Some((parent, index)) => descend(source, parent, *index)?,
            };
            if node.is_leaf() {
                self.enter(node);
                return Ok(true);
            }
            let index = self.way_down(&node);
            self.path.push((node, index));
        }
    }

    /// From the end of a leaf to the path of the next one; `false` if there is none within the bounds.
    fn leave(&mut self) -> bool {
        // Where a leaf goes on beyond the bound, the others do.
        let beyond = self.leaf.take().is_none_or(|(leaf, from, to)| match self.direction {
            Direction::Forward => to < leaf.len(),
            Direction::Backward => from > 0,
        });
        while let Some((node, index)) = self.path.last_mut().filter(|_| !beyond) {
            match self.direction {
                Direction::Forward if *index + 1 < node.len() => {
                    *index += 1;
                    return true;
                }
                Direction::Backward if *index > 0 => {
                    *index -= 1;
                    return true;
                }
                _ => self.path.pop(),
            };
        }
        false
    }

    /// Below which child the walk goes on.
    fn way_down(&self, node: &Node<B>) -> usize {
        let (bound, edge) = match self.direction {
            Direction::Forward => (&self.from, 0),
            Direction::Backward => (&self.to, node.len() - 1),
        };
        match bound {
            Bound::Included(key) | Bound::Excluded(key) if !self.sought => node.child_of(key),
            _ => edge,
        }
    }

    /// Takes a leaf: which of its cells are within the bounds, and the prefix of their keys.
    fn enter(&mut self, leaf: NodeRef<B>) {
        let from = match &self.from {
            Bound::Unbounded => 0,
            Bound::Included(key) => leaf.find(key).unwrap_or_else(|place| place),
            Bound::Excluded(key) => leaf.find(key).map_or_else(|place| place, |index| index + 1),
        };
        let to = match &self.to {
            Bound::Unbounded => leaf.len(),
            Bound::Included(key) => leaf.find(key).map_or_else(|place| place, |index| index + 1),
            Bound::Excluded(key) => leaf.find(key).unwrap_or_else(|place| place),
        };
        self.sought = true;
        self.key.clear();
        self.key.extend_from_slice(leaf.prefix());
        self.leaf = Some((leaf, from, to));
    }
}
