//! Sorted cells on their way into a page: how large they are, and the page that they make.

use super::{
    super::format::{HEAD_BYTES, INDEX_BYTES, OFFSET_BYTES, VALUE_IN_RUN, inner_cell_at, leaf_cell_at, pad, put},
    Node, Touched, cell_bytes, head_of,
};
use crate::txn::ids::TableId;

fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The shortest key above `left` that is not above `right`.
pub(in crate::txn::pages) fn separator<'a>(left: &[u8], right: &'a [u8]) -> &'a [u8] {
    &right[..right.len().min(common(left, right) + 1)]
}

/// Sorted cells on their way into a page.
///
/// Two sizes are told: the *encoded* one, which must not exceed a page, and the *plain* one, without a prefix in common, which says how
/// well a page is filled. Encoded, a cell more may cost much more than itself, for it may end the prefix; plain it can't. So plain sizes
/// bound what splitting and joining can do, and encoded <= plain + 5.
#[derive(Clone, Debug)]
pub struct Cells<const B: usize> {
    level: u8,
    bytes: Vec<u8>,
    cells: Vec<Cell>,
    /// Of keys, without the first of an inner page: it is not stored.
    key_bytes: usize,
    value_bytes: usize,
    prefix_bytes: usize,
    plain: usize,
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    at: usize,
    key_bytes: usize,
    value_bytes: usize,
    in_run: bool,
}

impl<const B: usize> Cells<B> {
    /// None yet, for a page of this level.
    #[must_use]
    pub fn new(level: u8) -> Cells<B> {
        Cells { level, bytes: Vec::new(), cells: Vec::new(), key_bytes: 0, value_bytes: 0, prefix_bytes: 0, plain: 0 }
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Their size without a prefix in common, in bytes.
    #[must_use]
    pub fn plain_bytes(&self) -> usize {
        self.plain
    }

    /// The size of one cell without a prefix, in bytes.
    #[must_use]
    pub fn plain_cell_bytes(&self, index: usize) -> usize {
        let cell = &self.cells[index];
        self.plain_size(cell.key_bytes, cell.value_bytes)
    }

    fn plain_size(&self, key_bytes: usize, value_bytes: usize) -> usize {
        INDEX_BYTES
            + if self.level == 0 { leaf_cell_at::SUFFIX + value_bytes } else { inner_cell_at::SUFFIX }
            + key_bytes
    }

    /// Whether a page holds these and one more, behind them.
    #[must_use]
    pub fn has_room(&self, key: &[u8], value_bytes: usize) -> bool {
        let (key_bytes, value_bytes) = (self.key_bytes + self.stored(key), self.value_bytes + value_bytes);
        self.size(self.len() + 1, self.prefix_with(key), key_bytes, value_bytes) <= B
    }

    fn size(&self, count: usize, prefix: usize, key_bytes: usize, value_bytes: usize) -> usize {
        let first = usize::from(self.level > 0);
        let suffixes = key_bytes - count.saturating_sub(first) * prefix;
        let values = if self.level == 0 { value_bytes } else { 0 };
        let index = count * HEAD_BYTES + pad(count * OFFSET_BYTES);
        pad(prefix) + index + count * cell_bytes(self.level) + suffixes + values
    }

    /// How much of another key at the end is stored.
    fn stored(&self, key: &[u8]) -> usize {
        if self.level > 0 && self.is_empty() { 0 } else { key.len() }
    }

    /// The prefix with another key at the end.
    fn prefix_with(&self, key: &[u8]) -> usize {
        let first = usize::from(self.level > 0);
        match self.len() {
            count if count < first => 0,
            count if count == first => key.len(),
            _ => common(self.key(first), key),
        }
    }

    /// Adds a cell behind the others: a leaf's value (or the bytes of its run), an inner page's child ref. The first key of an inner
    /// page is kept here, but not stored.
    ///
    /// # Panics
    /// In debug builds, if it is not above the last one.
    pub fn push(&mut self, key: &[u8], value: &[u8], in_run: bool) {
        debug_assert!(self.last_key().is_none_or(|last| last < key), "keys ascend");
        self.prefix_bytes = self.prefix_with(key);
        self.key_bytes += self.stored(key);
        self.value_bytes += value.len();
        self.plain += self.plain_size(key.len(), value.len());
        let at = self.bytes.len();
        self.cells.push(Cell { at, key_bytes: key.len(), value_bytes: value.len(), in_run });
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
    }

    /// Removes the last one.
    pub(in crate::txn::pages) fn pop(&mut self) {
        let Some(cell) = self.cells.pop() else { return };
        self.plain -= self.plain_size(cell.key_bytes, cell.value_bytes);
        self.value_bytes -= cell.value_bytes;
        self.key_bytes -= if self.level > 0 && self.is_empty() { 0 } else { cell.key_bytes };
        self.bytes.truncate(cell.at);
        let first = usize::from(self.level > 0);
        let last = self.len().max(1) - 1;
        self.prefix_bytes = if self.len() > first { common(self.key(first), self.key(last)) } else { 0 };
    }

    /// The key of a cell.
    #[must_use]
    pub fn key(&self, index: usize) -> &[u8] {
        let cell = &self.cells[index];
        &self.bytes[cell.at..][..cell.key_bytes]
    }

    /// What stands in a cell, and whether it is a run.
    #[must_use]
    pub fn value(&self, index: usize) -> (&[u8], bool) {
        let cell = &self.cells[index];
        (&self.bytes[cell.at + cell.key_bytes..][..cell.value_bytes], cell.in_run)
    }

    /// The last key.
    #[must_use]
    pub fn last_key(&self) -> Option<&[u8]> {
        self.len().checked_sub(1).map(|last| self.key(last))
    }

    /// Whether values stand in runs, here or below.
    #[must_use]
    pub fn runs_below(&self) -> bool {
        self.cells.iter().any(|cell| cell.in_run)
    }

    /// The page of these cells, as a node of its own.
    #[cfg(test)]
    pub(in crate::txn::pages) fn build(&self, table: TableId) -> Node<B> {
        let mut node = Node::blank();
        self.build_into(table, &mut node);
        node
    }

    /// Makes a node the page of these cells, whatever it was before.
    ///
    /// # Panics
    /// If they don't fit, or there are fewer than a page has: one in a leaf, two above.
    pub fn build_into(&self, table: TableId, node: &mut Node<B>) {
        let first = usize::from(self.level > 0);
        assert!(self.len() > first, "a page of too few cells");
        let used = self.size(self.len(), self.prefix_bytes, self.key_bytes, self.value_bytes);
        assert!(used <= B, "cells that don't fit");
        // All of these are at most B, which fits into 16 bits by the assertion in the format.
        node.table = table;
        node.count = self.len() as u16;
        node.prefix_bytes = self.prefix_bytes as u16;
        node.used_bytes = used as u16;
        node.level = self.level;
        node.touched = Touched::default();
        let (heads_at, offsets_at, mut at) = (node.heads_at(), node.offsets_at(), node.cells_at());
        let body = &mut node.body;
        // (Between its parts as well: nothing of what it was gets into a file.)
        body.fill(0);
        body[..self.prefix_bytes].copy_from_slice(&self.key(first)[..self.prefix_bytes]);
        for index in 0..self.len() {
            let suffix = if index < first { &[] } else { &self.key(index)[self.prefix_bytes..] };
            let (value, in_run) = self.value(index);
            put(body, heads_at + index * HEAD_BYTES, head_of(suffix).to_le_bytes());
            put(body, offsets_at + index * OFFSET_BYTES, (at as u16).to_le_bytes());
            let mut add = |bytes: &[u8]| {
                body[at..at + bytes.len()].copy_from_slice(bytes);
                at += bytes.len();
            };
            add(&(suffix.len() as u16).to_le_bytes());
            if self.level == 0 {
                add(&(value.len() as u32 | if in_run { VALUE_IN_RUN } else { 0 }).to_le_bytes());
                add(suffix);
                add(value);
            } else {
                add(value);
                add(suffix);
            }
        }
    }
}
