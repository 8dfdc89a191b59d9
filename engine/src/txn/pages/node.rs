//! One page of a tree: built once and whole from sorted cells, searched and iterated in place.
//!
//! [`Node::decode`] is total, and checks everything that the rest relies on: whatever it accepts can be searched and iterated without a
//! panic. The prefix that all keys begin with stands once; the next four bytes of each key (its head) stand side by side, so that a
//! search counts the smaller ones in a pass without branches, and compares only the few equal ones.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use thiserror::Error;

mod cells;

pub use cells::Cells;
pub(super) use cells::separator;

use super::format::{
    CHILD_REF_BYTES, ChildRef, HEAD_BYTES, Header, INDEX_BYTES, OFFSET_BYTES, PAGE_HEADER_BYTES, PageKind, RUN_BYTES,
    Run, VALUE_IN_RUN, array, checksum, get_u16, get_u32, inner_cell_at, leaf_cell_at, pad, page_at,
};
use crate::{
    prefetch::prefetch,
    txn::ids::{Csn, PageNo, TableId},
};

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

/// The header and the body of the page that `child` names, of any kind: whole, at its place, and this content of it.
pub(super) fn unseal<'a, const B: usize>(
    bytes: &'a [u8],
    child: &ChildRef,
) -> Result<(Header, &'a [u8; B]), PageError> {
    let flaw = |offset, what| Err(PageError { page: child.page, offset, what });
    let Some((head, body)) = bytes.split_first_chunk::<PAGE_HEADER_BYTES>() else { return flaw(0, Flaw::Length) };
    let Ok(body) = <&[u8; B]>::try_from(body) else { return flaw(0, Flaw::Length) };
    let stated = get_u32(head, page_at::CRC);
    if stated != checksum(child.page.to_bits(), head, body) {
        return flaw(page_at::CRC, Flaw::Checksum);
    }
    if stated != child.crc {
        return flaw(page_at::CRC, Flaw::Parent);
    }
    let Some(header) = Header::peek(head) else { return flaw(page_at::CSN, Flaw::Csn) };
    if header.page == child.page.to_bits() { Ok((header, body)) } else { flaw(page_at::PAGE, Flaw::Number) }
}

/// Bytes that come together from memory.
const LINE_BYTES: usize = 64;

/// What is asked for at once of a page that will be searched: heads and offsets of most leaves.
const WARM_BYTES: usize = 512;

/// Whether a page was looked at since the cache last asked. It is no part of what the page is.
#[derive(Debug, Default)]
struct Touched(AtomicBool);

impl Clone for Touched {
    fn clone(&self) -> Touched {
        Touched::default()
    }
}

impl PartialEq for Touched {
    fn eq(&self, _: &Touched) -> bool {
        true
    }
}

impl Eq for Touched {}

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

/// Where the parts of a leaf's cell stand in the body: one look at its beginning tells all.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cell {
    suffix: u16,
    /// Where the suffix ends.
    value: u16,
    value_bytes: u16,
    in_run: bool,
}

/// A checked page in memory: its body and what the header says of it. With the count of a [`NodeRef`] it fills 8 KiB.
/// The numbers stand in front, beside the count: who searches a page needs one cache line for both.
#[derive(Clone, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Node<const B: usize> {
    table: TableId,
    count: u16,
    prefix_bytes: u16,
    used_bytes: u16,
    level: u8,
    touched: Touched,
    /// So that the body begins where a number of 8 bytes may.
    gap: [u8; 4],
    body: [u8; B],
}

/// A page that many may read.
pub type NodeRef<const B: usize> = triomphe::Arc<Node<B>>;

/// A page that nobody else knows, with whatever was in it.
pub type NewNode<const B: usize> = triomphe::UniqueArc<Node<B>>;

/// A page of 8 KiB takes a whole size class with the count of its [`NodeRef`] and what an allocator adds, and not a byte more.
const _: () = assert!(size_of::<Node<{ super::BODY_BYTES }>>() + 2 * size_of::<usize>() <= 8192);
const _: () = assert!(std::mem::offset_of!(Node<{ super::BODY_BYTES }>, body) % align_of::<u64>() == 0);

impl<const B: usize> Node<B> {
    /// One that becomes a page: [`Cells::build_into`] and [`Node::decode_into`] make one of it.
    #[must_use]
    pub fn blank() -> Node<B> {
        let (table, touched) = (TableId(0), Touched::default());
        Node { table, count: 0, prefix_bytes: 0, used_bytes: 0, level: 0, touched, gap: [0; 4], body: [0; B] }
    }

    /// Decodes and checks the page that `child` names. The error says what is wrong first.
    pub fn decode(bytes: &[u8], child: &ChildRef) -> Result<Node<B>, PageError> {
        let mut node = Node::blank();
        node.decode_into(bytes, child)?;
        Ok(node)
    }

    /// The same, whatever the node was before. After an error it is no page.
    pub fn decode_into(&mut self, bytes: &[u8], child: &ChildRef) -> Result<(), PageError> {
        let error = |offset, what| PageError { page: child.page, offset, what };
        let flaw = |offset, what| Err(error(offset, what));
        let (header, body) = unseal::<B>(bytes, child)?;
        let leaf = match header.kind {
            kind if kind == PageKind::Leaf as u8 => true,
            kind if kind == PageKind::Inner as u8 => false,
            _ => return flaw(page_at::KIND, Flaw::Kind),
        };
        if leaf != (header.level == 0) {
            return flaw(page_at::LEVEL, Flaw::Level);
        }
        let Header { level, count, table, prefix_bytes, used_bytes, .. } = header;
        (self.table, self.count, self.prefix_bytes, self.used_bytes) = (table, count, prefix_bytes, used_bytes);
        (self.level, self.touched) = (level, Touched::default());
        self.body.copy_from_slice(body);
        self.check().map_err(|(offset, what)| error(offset, what))
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

    /// The same, for who keeps something else in it than a page.
    pub(in crate::txn) fn body_mut(&mut self) -> &mut [u8; B] {
        &mut self.body
    }

    /// Says that it is of use. What many look at is written once.
    pub(super) fn touch(&self) {
        if !self.touched.0.load(Ordering::Relaxed) {
            self.touched.0.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it was of use since the last time.
    pub(super) fn untouch(&self) -> bool {
        self.touched.0.swap(false, Ordering::Relaxed)
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
        self.value_in(self.cell(index))
    }

    /// What stands in a leaf's cell, and whether it is a run.
    pub(super) fn raw_value(&self, index: usize) -> (&[u8], bool) {
        let (from, bytes, in_run) = self.value_at(index);
        (&self.body[from..][..bytes], in_run)
    }

    /// Where in the body it stands, and how many bytes of it.
    pub(super) fn value_at(&self, index: usize) -> (usize, usize, bool) {
        let Cell { value, value_bytes, in_run, .. } = self.cell(index);
        (usize::from(value), usize::from(value_bytes), in_run)
    }

    /// Where the parts of a leaf's cell stand.
    ///
    /// # Panics
    /// If this is not a leaf, or has no such cell.
    #[inline]
    pub(super) fn cell(&self, index: usize) -> Cell {
        assert!(self.is_leaf(), "an inner page has no values");
        let at = self.offset(index);
        let fixed: [u8; leaf_cell_at::SUFFIX] = array(&self.body, at);
        let (suffix, suffix_bytes) = ((at + leaf_cell_at::SUFFIX) as u16, get_u16(&fixed, SUFFIX_BYTES_AT));
        let value = get_u32(&fixed, leaf_cell_at::VALUE);
        let (value_bytes, in_run) = ((value & !VALUE_IN_RUN) as u16, value & VALUE_IN_RUN != 0);
        Cell { suffix, value: suffix + suffix_bytes, value_bytes, in_run }
    }

    /// The key's rest behind the prefix, in one of its cells.
    pub(super) fn suffix_in(&self, cell: Cell) -> &[u8] {
        &self.body[usize::from(cell.suffix)..usize::from(cell.value)]
    }

    /// The value in one of its cells.
    #[inline(always)]
    pub(super) fn value_in(&self, cell: Cell) -> Stored<'_> {
        let bytes = &self.body[usize::from(cell.value)..][..usize::from(cell.value_bytes)];
        let run = bytes.first_chunk().filter(|_| cell.in_run).and_then(Run::decode::<B>);
        run.map_or(Stored::Inline(bytes), Stored::Run)
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

    /// Asks for what a search begins with.
    pub(super) fn warm(&self) {
        self.body[..WARM_BYTES.min(B)].iter().step_by(LINE_BYTES).for_each(prefetch);
    }

    /// Asks for a cell.
    pub(super) fn warm_at(&self, index: usize) {
        self.body.get(self.offset(index)).into_iter().for_each(prefetch);
    }

    /// The same for the cell in which a key is found, if it is.
    pub(super) fn warm_cell(&self, key: &[u8]) {
        let Some(rest) = key.strip_prefix(self.prefix()) else { return };
        let index = self.first_head(head_of(rest), self.first_key());
        if index < self.len() {
            self.warm_at(index);
        }
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
        let (heads, low) = (self.heads(), self.first_head(probe, from));
        // Of equal heads there are few, unless keys differ only behind them.
        let (mut high, mut step) = (low, 1);
        while high < self.len() && head_in(heads, high) == probe {
            high += step;
            step *= 2;
        }
        self.compare_equal(rest, probe, low, high.min(self.len()))
    }

    /// The first cell from `from` on whose head is not below this one.
    fn first_head(&self, probe: u32, from: usize) -> usize {
        let heads = self.heads();
        // Halve without a branch while it saves cache lines, then count.
        let (mut low, mut span) = (from, self.len() - from);
        while span > 64 {
            let half = span / 2;
            low += if head_in(heads, low + half - 1) < probe { half } else { 0 };
            span -= half;
        }
        low + count_below(&heads[low * HEAD_BYTES..(low + span) * HEAD_BYTES], probe)
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
#[inline]
fn head_of(suffix: &[u8]) -> u32 {
    if let Some(head) = suffix.first_chunk::<HEAD_BYTES>() {
        return u32::from_be_bytes(*head);
    }
    let mut head = [0; HEAD_BYTES];
    head[..suffix.len()].copy_from_slice(suffix);
    u32::from_be_bytes(head)
}

#[inline]
fn head_in(heads: &[u8], index: usize) -> u32 {
    get_u32(heads, index * HEAD_BYTES)
}

#[inline]
fn count_below(heads: &[u8], probe: u32) -> usize {
    let (heads, _) = heads.as_chunks::<HEAD_BYTES>();
    heads.iter().map(|head| u32::from(u32::from_le_bytes(*head) < probe)).sum::<u32>() as usize
}

#[inline]
const fn cell_bytes(level: u8) -> usize {
    if level == 0 { leaf_cell_at::SUFFIX } else { inner_cell_at::SUFFIX }
}

#[cfg(test)]
mod tests;
