//! Lists in pieces: they grow without a copy of what they hold.

use std::fmt;
use std::ops::{Index, IndexMut};

use bytemuck::Pod;

use super::piece::{BLOCK_BYTES, block_of, elements, elements_mut, room};
use crate::txn::blocks::{Block, Blocks};

/// A list whose elements are found by number. The numbers ascend as the elements came, but some may be missing: a list that was built by
/// itself joins with whole pieces, of which its last one may not be full.
pub(super) struct Arena<T> {
    /// The first piece: it grows by doubling.
    first: Vec<T>,
    /// All others, of which the last one of a list that joined may not be full.
    more: Vec<Block>,
    /// Elements of the last of them.
    last: usize,
    len: usize,
    /// Behind which elements numbers are missing: how many elements are before, and the number of the next one. Ascending.
    gaps: Vec<(usize, u32)>,
}

impl<T> Default for Arena<T> {
    fn default() -> Arena<T> {
        Arena { first: Vec::new(), more: Vec::new(), last: 0, len: 0, gaps: Vec::new() }
    }
}

impl<T> fmt::Debug for Arena<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} elements in {} pieces", self.len, self.more.len() + 1)
    }
}

impl<T: Pod> Arena<T> {
    /// Elements.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes_beside_blocks(&self) -> usize {
        self.first.capacity() * size_of::<T>()
            + self.more.capacity() * size_of::<Block>()
            + self.gaps.capacity() * size_of::<(usize, u32)>()
    }

    pub(super) fn bytes_in_blocks(&self) -> usize {
        self.more.len() * BLOCK_BYTES
    }

    /// Its number. (Memory ends before numbers do: 2^32 of the smallest elements are 100 GiB.)
    pub(super) fn push(&mut self, element: T) -> u32 {
        self.push_in(element, None)
    }

    /// The same with a block of these, if one is needed.
    pub(super) fn push_in(&mut self, element: T, blocks: Option<&Blocks>) -> u32 {
        self.len += 1;
        if self.more.is_empty() && self.first.len() < room::<T>() {
            self.first.push(element);
            return self.first.len() as u32 - 1;
        }
        if self.more.is_empty() || self.last == room::<T>() {
            self.more.push(block_of(blocks));
            self.last = 0;
        }
        self.last += 1;
        let number = self.next() - 1;
        self[number] = element;
        number
    }

    /// The number of the next element.
    fn next(&self) -> u32 {
        let last = if self.more.is_empty() { self.first.len() } else { self.last };
        (self.more.len() * room::<T>() + last) as u32
    }

    /// Takes all elements of another one, behind its own. By how much their numbers grow.
    pub(super) fn join(&mut self, other: Arena<T>) -> u32 {
        debug_assert!(other.gaps.is_empty(), "it was built by itself");
        if other.len == 0 {
            return 0;
        }
        if self.len == 0 {
            *self = other;
            return 0;
        }
        let first = ((self.more.len() + 1) * room::<T>()) as u32;
        if first != self.next() {
            self.gaps.push((self.len, first));
        }
        let mut block = block_of(None);
        elements_mut(&mut block)[..other.first.len()].copy_from_slice(&other.first);
        self.more.push(block);
        self.last = if other.more.is_empty() { other.first.len() } else { other.last };
        self.more.extend(other.more);
        self.len += other.len;
        first
    }

    /// The number of an element by how many are before it.
    pub(super) fn number(&self, nth: usize) -> u32 {
        let gap = self.gaps.partition_point(|(before, _)| *before <= nth).checked_sub(1).map(|gap| self.gaps[gap]);
        gap.map_or(nth as u32, |(before, first)| first + (nth - before) as u32)
    }

    /// What it was in.
    pub(super) fn into_blocks(self) -> impl Iterator<Item = Block> {
        self.more.into_iter()
    }
}

impl<T: Pod> Index<u32> for Arena<T> {
    type Output = T;

    #[inline]
    fn index(&self, at: u32) -> &T {
        let (piece, at) = (at as usize / room::<T>(), at as usize % room::<T>());
        match piece.checked_sub(1) {
            None => &self.first[at],
            Some(piece) => &elements(&self.more[piece])[at],
        }
    }
}

impl<T: Pod> IndexMut<u32> for Arena<T> {
    #[inline]
    fn index_mut(&mut self, at: u32) -> &mut T {
        let (piece, at) = (at as usize / room::<T>(), at as usize % room::<T>());
        match piece.checked_sub(1) {
            None => &mut self.first[at],
            Some(piece) => &mut elements_mut(&mut self.more[piece])[at],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: usize = room::<usize>();

    #[test]
    fn elements_are_found_by_number_and_by_order_whatever_has_joined() {
        let mut all = Arena::default();
        let mut numbers = Vec::new();
        let mut element = 0;
        let mut push = |arena: &mut Arena<usize>| {
            element += 1;
            (element - 1, arena.push(element - 1))
        };
        for (joined, pushed) in [(0, 0), (3, 0), (PIECE, 5), (2 * PIECE + 1, PIECE), (1, 2), (PIECE - 1, 1), (0, 3000)]
        {
            let mut other = Arena::default();
            let mut added: Vec<_> = (0..joined).map(|_| push(&mut other)).collect();
            let moved = all.join(other);
            added.iter_mut().for_each(|(_, number)| *number += moved);
            numbers.extend(added);
            numbers.extend((0..pushed).map(|_| push(&mut all)));
            assert!(all.len() == numbers.len());
        }
        assert!(numbers.iter().enumerate().all(|(nth, (element, number))| *element == nth && all[*number] == nth));
        assert!(numbers.iter().enumerate().all(|(nth, (_, number))| all.number(nth) == *number));
        assert!(!all.gaps.is_empty());
        let blocks = all.bytes_in_blocks() / BLOCK_BYTES;
        assert!(blocks >= numbers.len() / PIECE && all.into_blocks().count() == blocks);
    }
}
