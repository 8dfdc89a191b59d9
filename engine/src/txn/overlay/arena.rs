//! Lists in pieces: they grow without a copy of what they hold.

use std::ops::{Index, IndexMut};

/// Elements of a piece.
pub(super) const PIECE: usize = 256;

/// A list whose elements are found by number. The numbers ascend as the elements came, but some may be missing: a list that was built by
/// itself joins with whole pieces, of which its last one may not be full.
#[derive(Debug)]
pub(super) struct Arena<T> {
    /// The first one alone grows by doubling.
    pieces: Vec<Vec<T>>,
    len: usize,
    bytes: usize,
    /// Behind which elements numbers are missing: how many elements are before, and the number of the next one. Ascending.
    gaps: Vec<(usize, u32)>,
}

impl<T> Default for Arena<T> {
    fn default() -> Arena<T> {
        Arena { pieces: Vec::new(), len: 0, bytes: 0, gaps: Vec::new() }
    }
}

impl<T> Arena<T> {
    /// Elements.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.pieces.capacity() * size_of::<Vec<T>>() + self.gaps.capacity() * size_of::<(usize, u32)>()
    }

    /// Its number. (Memory ends before numbers do: 2^32 of the smallest elements are 128 GiB.)
    pub(super) fn push(&mut self, element: T) -> u32 {
        self.push_in(element, || None)
    }

    /// The same with memory for a piece, if one is needed, and `memory` has some.
    pub(super) fn push_in(&mut self, element: T, memory: impl FnOnce() -> Option<Vec<T>>) -> u32 {
        if self.pieces.last().is_none_or(|last| last.len() == PIECE) {
            let more = || memory().unwrap_or_else(|| Vec::with_capacity(PIECE));
            self.pieces.push(if self.len == 0 { Vec::new() } else { more() });
            self.bytes += self.pieces.last().map_or(0, Vec::capacity) * size_of::<T>();
        }
        if let Some(piece) = self.pieces.last_mut() {
            let before = piece.capacity();
            piece.push(element);
            self.bytes += (piece.capacity() - before) * size_of::<T>();
        }
        self.len += 1;
        self.next() - 1
    }

    /// The number of the next element.
    fn next(&self) -> u32 {
        let before = self.pieces.len().saturating_sub(1) * PIECE;
        (before + self.pieces.last().map_or(0, Vec::len)) as u32
    }

    /// Takes all elements of another one, behind its own. By how much their numbers grow.
    pub(super) fn join(&mut self, other: Arena<T>) -> u32 {
        debug_assert!(other.gaps.is_empty(), "it was built by itself");
        if other.len == 0 {
            return 0;
        }
        let first = (self.pieces.len() * PIECE) as u32;
        if first != self.next() {
            self.gaps.push((self.len, first));
        }
        self.pieces.extend(other.pieces);
        self.len += other.len;
        self.bytes += other.bytes;
        first
    }

    /// The number of an element by how many are before it.
    pub(super) fn number(&self, nth: usize) -> u32 {
        let gap = self.gaps.partition_point(|(before, _)| *before <= nth).checked_sub(1).map(|gap| self.gaps[gap]);
        gap.map_or(nth as u32, |(before, first)| first + (nth - before) as u32)
    }

    /// All of them, in the order of their numbers.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flatten()
    }

    /// Whether bytes are as they are counted.
    #[cfg(test)]
    pub(super) fn recount(&self) -> bool {
        let capacity: usize = self.pieces.iter().map(Vec::capacity).sum();
        self.bytes == capacity * size_of::<T>() && self.len == self.iter().count()
    }
}

impl<T> Index<u32> for Arena<T> {
    type Output = T;

    #[inline]
    fn index(&self, at: u32) -> &T {
        &self.pieces[at as usize / PIECE][at as usize % PIECE]
    }
}

impl<T> IndexMut<u32> for Arena<T> {
    #[inline]
    fn index_mut(&mut self, at: u32) -> &mut T {
        &mut self.pieces[at as usize / PIECE][at as usize % PIECE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_by_number_and_by_order_whatever_has_joined() {
        let mut all = Arena::default();
        let mut numbers = Vec::new();
        let mut element = 0;
        let mut push = |arena: &mut Arena<usize>| {
            element += 1;
            (element - 1, arena.push(element - 1))
        };
        for (joined, pushed) in [(0, 0), (3, 0), (PIECE, 5), (2 * PIECE + 1, PIECE), (1, 2), (PIECE - 1, 1), (0, 700)] {
            let mut other = Arena::default();
            let mut added: Vec<_> = (0..joined).map(|_| push(&mut other)).collect();
            let moved = all.join(other);
            added.iter_mut().for_each(|(_, number)| *number += moved);
            numbers.extend(added);
            numbers.extend((0..pushed).map(|_| push(&mut all)));
            assert!(all.recount() && all.len() == numbers.len());
        }
        assert!(numbers.iter().enumerate().all(|(nth, (element, number))| *element == nth && all[*number] == nth));
        assert!(numbers.iter().enumerate().all(|(nth, (_, number))| all.number(nth) == *number));
        assert!(all.iter().copied().eq(0..numbers.len()));
        assert!(!all.gaps.is_empty());
    }
}
