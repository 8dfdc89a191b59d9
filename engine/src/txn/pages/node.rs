//! One page of a tree: built once and whole from sorted cells, searched and iterated in place.
//!
//! [`Node::decode`] is total, and checks everything that the rest relies on: whatever it accepts can be searched and iterated without a
//! panic. The prefix that all keys begin with stands once; the next four bytes of each key (its head) stand side by side, so that a
//! search counts the smaller ones in a pass without branches, and compares only the few equal ones.

use std::fmt;

use thiserror::Error;

use super::format::{
    CHILD_REF_BYTES, ChildRef, HEAD_BYTES, Header, INDEX_BYTES, OFFSET_BYTES, PAGE_HEADER_BYTES, PageKind, RUN_BYTES,
    Run, VALUE_IN_RUN, array, checksum, get_u16, get_u32, inner_cell_at, leaf_cell_at, pad, page_at, put,
};
use crate::txn::ids::{Csn, PageNo, TableId};

/// A page that is not what it should be. The tree above it can't be read there: restore a backup, or check the whole store to see what
/// else is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("page {}:{}: {what} (at byte {offset})", page.chunk, page.index)]
pub struct PageError {
    /// Which page was asked for.
    pub page: PageNo,
    /// Where in the page, in bytes.
    pub offset: usize,
    /// What is wrong with it.
    pub what: Flaw,
}

/// What is wrong with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It is shorter or longer than a page.
    Length,
    /// It doesn't have the checksum that it states.
    Checksum,
    /// It is not the one that its parent names: an older or a newer one of the same place.
    Parent,
    /// It says that it belongs elsewhere.
    Number,
    /// No commit ever had its CSN.
    Csn,
    /// It is neither a leaf nor an inner page.
    Kind,
    /// Its level doesn't fit its kind, or its parent.
    Level,
    /// It belongs to another table than its parent.
    Table,
    /// It has too few cells, or more than fit.
    Count,
    /// Its prefix doesn't fit.
    Prefix,
    /// The bytes that it says it uses are not those of its cells.
    Used,
    /// A cell doesn't stand where the one before it ends.
    Offset,
    /// A cell doesn't fit, or what is in it can't be.
    Cell,
    /// A head is not the beginning of its key.
    Head,
    /// Keys are not in order.
    Order,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Flaw::Length => "not a whole page",
            Flaw::Checksum => "wrong checksum",
            Flaw::Parent => "not the page that its parent names",
            Flaw::Number => "it belongs elsewhere",
            Flaw::Csn => "impossible commit number",
            Flaw::Kind => "not a page of a tree",
            Flaw::Level => "wrong level",
            Flaw::Table => "it belongs to another table",
            Flaw::Count => "impossible number of cells",
            Flaw::Prefix => "the prefix doesn't fit",
            Flaw::Used => "wrong number of used bytes",
            Flaw::Offset => "a cell isn't where it should be",
            Flaw::Cell => "impossible cell",
            Flaw::Head => "a head doesn't fit its key",
            Flaw::Order => "keys out of order",
        })
    }
}

/// The same in both kinds of cells.
const SUFFIX_BYTES_AT: usize = leaf_cell_at::SUFFIX_BYTES;
const _: () = assert!(SUFFIX_BYTES_AT == inner_cell_at::SUFFIX_BYTES);

/// A value as a leaf holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored<'a> {
    /// It stands in the leaf.
    Inline(&'a [u8]),
    /// It stands in pages of its own, which whoever needs it reads.
    Run(Run),
}

/// A checked page in memory: its body and what the header says of it. With the counts of an `Arc` it fills 8 KiB.
#[derive(Clone, PartialEq, Eq)]
pub struct Node<const B: usize> {
    body: [u8; B],
    table: TableId,
    count: u16,
    prefix_bytes: u16,
    used_bytes: u16,
    level: u8,
}

impl<const B: usize> Node<B> {
    /// Decodes and checks the page that `child` names. The error says what is wrong first.
    pub fn decode(bytes: &[u8], child: &ChildRef) -> Result<Node<B>, PageError> {
        let error = |offset, what| PageError { page: child.page, offset, what };
        let flaw = |offset, what| Err(error(offset, what));
        let Some((head, body)) = bytes.split_first_chunk::<PAGE_HEADER_BYTES>() else { return flaw(0, Flaw::Length) };
        let Ok(body) = <[u8; B]>::try_from(body) else { return flaw(0, Flaw::Length) };
        let stated = get_u32(head, page_at::CRC);
        if stated != checksum(child.page.to_bits(), head, &body) {
            return flaw(page_at::CRC, Flaw::Checksum);
        }
        if stated != child.crc {
            return flaw(page_at::CRC, Flaw::Parent);
        }
        let Some(header) = Header::peek(head) else { return flaw(page_at::CSN, Flaw::Csn) };
        if header.page != child.page.to_bits() {
            return flaw(page_at::PAGE, Flaw::Number);
        }
        let leaf = match header.kind {
            kind if kind == PageKind::Leaf as u8 => true,
            kind if kind == PageKind::Inner as u8 => false,
            _ => return flaw(page_at::KIND, Flaw::Kind),
        };
        if leaf != (header.level == 0) {
            return flaw(page_at::LEVEL, Flaw::Level);
        }
        let Header { level, count, table, prefix_bytes, used_bytes, .. } = header;
        let node = Node { body, table, count, prefix_bytes, used_bytes, level };
        node.check().map_err(|(offset, what)| error(offset, what))?;
        Ok(node)
    }

    /// The header's numbers fit, and so do all cells, without a gap: a page has one form, up to how long its prefix is.
    fn check(&self) -> Result<(), (usize, Flaw)> {
        let used = usize::from(self.used_bytes);
        if self.len() < if self.is_leaf() { 1 } else { 2 } || self.len() * (INDEX_BYTES + self.cell_bytes()) > B {
            return Err((page_at::COUNT, Flaw::Count));
        }
        if usize::from(self.prefix_bytes) > B || self.cells_at() > B {
            return Err((page_at::PREFIX_BYTES, Flaw::Prefix));
        }
        if used > B || used < self.cells_at() {
            return Err((page_at::USED_BYTES, Flaw::Used));
        }
        let mut end = self.cells_at();
        for index in 0..self.len() {
            if self.offset(index) != end {
                return Err((page_at::BODY + self.offsets_at() + index * OFFSET_BYTES, Flaw::Offset));
            }
            let place = page_at::BODY + end;
            end = self.cell_end(end, used).ok_or((place, Flaw::Cell))?;
            // The first child takes whatever is below the second one's separator.
            if !self.is_leaf() && index == 0 && !self.suffix(0).is_empty() {
                return Err((place, Flaw::Cell));
            }
            if self.head(index) != head_of(self.suffix(index)) {
                return Err((page_at::BODY + self.heads_at() + index * HEAD_BYTES, Flaw::Head));
            }
            if index > self.first_key() && self.suffix(index - 1) >= self.suffix(index) {
                return Err((place, Flaw::Order));
            }
        }
        if end == used { Ok(()) } else { Err((page_at::USED_BYTES, Flaw::Used)) }
    }

    /// Where the cell at `at` ends; `None` if it doesn't fit before `limit`, or can't be.
    fn cell_end(&self, at: usize, limit: usize) -> Option<usize> {
        let cell = self.body.get(at..limit)?;
        let fixed = cell.get(..self.cell_bytes())?;
        let suffix_bytes = usize::from(get_u16(fixed, SUFFIX_BYTES_AT));
        let value_bytes = if self.is_leaf() {
            let value = get_u32(fixed, leaf_cell_at::VALUE);
            let value_bytes = (value & !VALUE_IN_RUN) as usize;
            if value & VALUE_IN_RUN != 0 {
                let run = cell.get(fixed.len() + suffix_bytes..)?.first_chunk::<RUN_BYTES>()?;
                Run::decode::<B>(run).filter(|_| value_bytes == RUN_BYTES)?;
            }
            value_bytes
        } else {
            ChildRef::decode(&array::<CHILD_REF_BYTES>(fixed, inner_cell_at::CHILD))?;
            0
        };
        let bytes = fixed.len() + suffix_bytes + value_bytes;
        (bytes <= cell.len()).then_some(at + bytes)
    }

    /// The header of this page at its place, and its checksum.
    #[must_use]
    pub fn seal(&self, page: PageNo, csn: Csn) -> ([u8; PAGE_HEADER_BYTES], u32) {
        let &Node { table, count, prefix_bytes, used_bytes, level, .. } = self;
        let kind = if self.is_leaf() { PageKind::Leaf } else { PageKind::Inner } as u8;
        Header { kind, level, count, csn, page: page.to_bits(), table, prefix_bytes, used_bytes }.seal(&self.body)
    }

    /// Its bytes behind the header.
    #[must_use]
    pub fn body(&self) -> &[u8; B] {
        &self.body
    }

    /// Whose it is.
    #[must_use]
    pub fn table(&self) -> TableId {
        self.table
    }

    /// 0 at leaves.
    #[must_use]
    pub fn level(&self) -> u8 {
        self.level
    }

    /// Whether it holds keys with values.
    #[must_use]
    pub fn is_leaf(&self) -> bool {
        self.level == 0
    }

    /// How many cells; at least one.
    #[expect(clippy::len_without_is_empty, reason = "no page is empty")]
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Bytes of the body that mean something.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        usize::from(self.used_bytes)
    }

    /// What every key of it begins with, except for the separator of an inner page's first child.
    #[must_use]
    pub fn prefix(&self) -> &[u8] {
        &self.body[..usize::from(self.prefix_bytes)]
    }

    /// A cell's key behind the prefix. Empty for the first child of an inner page, whose separator is its parent's.
    #[must_use]
    pub fn suffix(&self, index: usize) -> &[u8] {
        let at = self.offset(index);
        let bytes = usize::from(get_u16(&self.body, at + SUFFIX_BYTES_AT));
        &self.body[at + self.cell_bytes()..][..bytes]
    }

    /// A leaf's value.
    ///
    /// # Panics
    /// If this is not a leaf, or has no such cell.
    #[must_use]
    pub fn value(&self, index: usize) -> Stored<'_> {
        let (bytes, in_run) = self.raw_value(index);
        let run = bytes.first_chunk().filter(|_| in_run).and_then(Run::decode::<B>);
        run.map_or(Stored::Inline(bytes), Stored::Run)
    }

    /// What stands in a leaf's cell, and whether it is a run.
    pub(super) fn raw_value(&self, index: usize) -> (&[u8], bool) {
        assert!(self.is_leaf(), "an inner page has no values");
        let at = self.offset(index);
        let value = get_u32(&self.body, at + leaf_cell_at::VALUE);
        let from = at + self.cell_bytes() + usize::from(get_u16(&self.body, at + SUFFIX_BYTES_AT));
        (&self.body[from..][..(value & !VALUE_IN_RUN) as usize], value & VALUE_IN_RUN != 0)
    }

    /// A page below an inner one.
    ///
    /// # Panics
    /// If this is a leaf, or has no such cell.
    #[must_use]
    pub fn child(&self, index: usize) -> ChildRef {
        assert!(!self.is_leaf(), "a leaf has no pages below it");
        let bytes = array(&self.body, self.offset(index) + inner_cell_at::CHILD);
        ChildRef::decode(&bytes).expect("it was decoded before")
    }

    /// Where a leaf has this key; else where it would stand.
    pub fn find(&self, key: &[u8]) -> Result<usize, usize> {
        self.search(key, 0)
    }

    /// Below which child of an inner page this key is: the last one whose separator is not above it.
    #[must_use]
    pub fn child_of(&self, key: &[u8]) -> usize {
        match self.search(key, self.first_key()) {
            Ok(index) => index,
            Err(index) => index.max(1) - 1,
        }
    }

    /// The place of `key` among the cells from `from` on.
    fn search(&self, key: &[u8], from: usize) -> Result<usize, usize> {
        let prefix = self.prefix();
        let rest = match key.strip_prefix(prefix) {
            Some(rest) => rest,
            None if key < prefix => return Err(from),
            None => return Err(self.len()),
        };
        let probe = head_of(rest);
        let heads = self.heads();
        // Halve without a branch while it saves cache lines, then count.
        let (mut low, mut span) = (from, self.len() - from);
        while span > 64 {
            let half = span / 2;
            low += if head_in(heads, low + half - 1) < probe { half } else { 0 };
            span -= half;
        }
        low += count_below(&heads[low * HEAD_BYTES..(low + span) * HEAD_BYTES], probe);
        // Of equal heads there are few, unless keys differ only behind them.
        let (mut high, mut step) = (low, 1);
        while high < self.len() && head_in(heads, high) == probe {
            high += step;
            step *= 2;
        }
        self.compare_equal(rest, probe, low, high.min(self.len()))
    }

    /// Binary search by suffix among the cells `low..high`; those of another head lie behind those of this one.
    fn compare_equal(&self, rest: &[u8], probe: u32, mut low: usize, mut high: usize) -> Result<usize, usize> {
        while low < high {
            let middle = low + (high - low) / 2;
            if self.head(middle) != probe {
                high = middle;
                continue;
            }
            match self.suffix(middle).cmp(rest) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// The first cell that has a key of its own.
    fn first_key(&self) -> usize {
        usize::from(!self.is_leaf())
    }

    /// Bytes of a cell in front of its suffix.
    fn cell_bytes(&self) -> usize {
        cell_bytes(self.level)
    }

    fn heads_at(&self) -> usize {
        pad(usize::from(self.prefix_bytes))
    }

    fn offsets_at(&self) -> usize {
        self.heads_at() + self.len() * HEAD_BYTES
    }

    fn cells_at(&self) -> usize {
        self.offsets_at() + pad(self.len() * OFFSET_BYTES)
    }

    fn heads(&self) -> &[u8] {
        &self.body[self.heads_at()..self.offsets_at()]
    }

    fn head(&self, index: usize) -> u32 {
        head_in(self.heads(), index)
    }

    fn offset(&self, index: usize) -> usize {
        usize::from(get_u16(&self.body, self.offsets_at() + index * OFFSET_BYTES))
    }
}

impl<const B: usize> fmt::Debug for Node<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node(level {}, {} cells, {} bytes)", self.level, self.count, self.used_bytes)
    }
}

/// The first bytes of a suffix as a number that is ordered as they are.
fn head_of(suffix: &[u8]) -> u32 {
    if let Some(head) = suffix.first_chunk::<HEAD_BYTES>() {
        return u32::from_be_bytes(*head);
    }
    let mut head = [0; HEAD_BYTES];
    head[..suffix.len()].copy_from_slice(suffix);
    u32::from_be_bytes(head)
}

fn head_in(heads: &[u8], index: usize) -> u32 {
    get_u32(heads, index * HEAD_BYTES)
}

fn count_below(heads: &[u8], probe: u32) -> usize {
    let (heads, _) = heads.as_chunks::<HEAD_BYTES>();
    heads.iter().map(|head| u32::from(u32::from_le_bytes(*head) < probe)).sum::<u32>() as usize
}

const fn cell_bytes(level: u8) -> usize {
    if level == 0 { leaf_cell_at::SUFFIX } else { inner_cell_at::SUFFIX }
}

fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The shortest key above `left` that is not above `right`.
pub(super) fn separator<'a>(left: &[u8], right: &'a [u8]) -> &'a [u8] {
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
    pub(super) fn pop(&mut self) {
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

    /// The page of these cells.
    ///
    /// # Panics
    /// If they don't fit, or there are fewer than a page has: one in a leaf, two above.
    #[must_use]
    pub fn build(&self, table: TableId) -> Node<B> {
        let first = usize::from(self.level > 0);
        assert!(self.len() > first, "a page of too few cells");
        let used = self.size(self.len(), self.prefix_bytes, self.key_bytes, self.value_bytes);
        assert!(used <= B, "cells that don't fit");
        // All of these are at most B, which fits into 16 bits by the assertion in the format.
        let mut node = Node {
            body: [0; B],
            table,
            count: self.len() as u16,
            prefix_bytes: self.prefix_bytes as u16,
            used_bytes: used as u16,
            level: self.level,
        };
        let (heads_at, offsets_at, mut at) = (node.heads_at(), node.offsets_at(), node.cells_at());
        let body = &mut node.body;
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
        node
    }
}

#[cfg(test)]
mod tests;
