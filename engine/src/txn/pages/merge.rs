//! Sorted changes merged into a tree, copy on write: the result is a new tree, and nothing of an old page changes.
//!
//! The old tree is walked in order. A subtree without changes is kept whole; the pages above and around changes are opened, and their
//! cells, with the changes, stream into new pages level by level. No page but the root is left with less than a quarter of it in plain
//! cells ([`Cells`] says what that is): new pages are cut full; the last two before a subtree that is kept share their cells; where there
//! is but one, and too small, the next subtree is opened instead of kept, or at the right end the last page to the left is.
//!
//! [`Merge::step`] does a bounded piece. An error of the source leaves it as it was, so that a page can be loaded in between; an error of
//! the draft ends it, and the draft with it.

use std::mem;

use super::{
    Changes, Draft, Source, below,
    format::{ChildRef, INDEX_BYTES, RUN_BYTES, Run, leaf_cell_at},
    key_limit,
    node::{Cells, Flaw, NodeRef, PageError, Stored, separator},
    run_pages,
};
use crate::txn::ids::{Csn, PageNo, TableId};

/// Cells that one step takes at most; it ends behind a value in pages of its own.
const STEP_CELLS: usize = 1024;

/// Pages side by side that a merge replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Replaced {
    /// The first one.
    pub page: PageNo,
    /// How many.
    pub pages: u32,
}

/// What a merge came to.
#[derive(Debug, PartialEq, Eq)]
pub struct Merged {
    /// The new tree; `None` if it is empty.
    pub root: Option<ChildRef>,
    /// What of the old tree is not part of the new one, each page once.
    pub replaced: Vec<Replaced>,
}

/// A merge under way.
#[derive(Debug)]
pub struct Merge<const B: usize> {
    table: TableId,
    csn: Csn,
    /// The old tree, until it is opened.
    root: Option<ChildRef>,
    /// Inner pages of the old tree from the root down, with what of each is still to be walked.
    path: Vec<Opened<B>>,
    /// The leaf at hand.
    leaf: Option<Leaf<B>>,
    /// What becomes new pages, leaves first.
    levels: Vec<Level<B>>,
    /// The level that is finished next, once the old tree is walked.
    finishing: Option<usize>,
    /// The last page that was read, for errors.
    read: PageNo,
    replaced: Vec<Replaced>,
}

/// An inner page whose children are walked.
#[derive(Debug)]
struct Opened<const B: usize> {
    node: NodeRef<B>,
    next: usize,
    /// Its own separator, which is its first child's.
    from: Vec<u8>,
    /// The first key behind it.
    to: Option<Vec<u8>>,
}

/// A leaf, or the place of one in an empty tree, whose cells meet the changes.
#[derive(Debug)]
struct Leaf<const B: usize> {
    node: Option<NodeRef<B>>,
    next: usize,
    from: Vec<u8>,
    to: Option<Vec<u8>>,
    key: Vec<u8>,
}

/// Cells of one page to be, and the separator in front of it.
#[derive(Debug)]
struct Group<const B: usize> {
    from: Vec<u8>,
    cells: Cells<B>,
}

/// The end of one level of the new tree.
#[derive(Debug)]
struct Level<const B: usize> {
    /// A page that is full. It waits, for the one behind it may need some of its cells.
    held: Option<Group<B>>,
    open: Group<B>,
}

impl<const B: usize> Group<B> {
    fn new(level: usize) -> Group<B> {
        // A tree is never that high: a page has two children or more.
        Group { from: Vec::new(), cells: Cells::new(u8::try_from(level).unwrap_or(u8::MAX)) }
    }
}

impl<const B: usize> Level<B> {
    fn new(level: usize) -> Level<B> {
        Level { held: None, open: Group::new(level) }
    }

    fn is_empty(&self) -> bool {
        self.held.is_none() && self.open.cells.is_empty()
    }

    /// Too few cells for a page, and none before them to share with.
    fn is_short(&self) -> bool {
        self.held.is_none() && !self.open.cells.is_empty() && self.open.cells.plain_bytes() < least::<B>()
    }
}

/// The least plain size of the cells of a page that is not the root, in bytes.
#[must_use]
pub const fn least<const B: usize>() -> usize {
    B / 4
}

/// Whether a value stands in pages of its own: no cell is larger than a quarter of a page.
#[must_use]
pub const fn is_run<const B: usize>(key_bytes: usize, value_bytes: usize) -> bool {
    INDEX_BYTES + leaf_cell_at::SUFFIX + key_bytes + value_bytes > B / 4
}

impl<const B: usize> Merge<B> {
    /// A merge into this tree of a table. New pages carry `csn`.
    #[must_use]
    pub fn new(root: Option<ChildRef>, table: TableId, csn: Csn) -> Merge<B> {
        Merge {
            table,
            csn,
            root,
            path: Vec::new(),
            // An empty tree is one empty leaf.
            leaf: root.is_none().then(|| Leaf { node: None, next: 0, from: Vec::new(), to: None, key: Vec::new() }),
            levels: vec![Level::new(0)],
            finishing: None,
            read: PageNo { chunk: 0, index: 0 },
            replaced: Vec::new(),
        }
    }

    /// Adds a row behind all others to a tree that begins empty. What is added in this way is all that there is: `step` is then called
    /// without changes.
    pub fn append<D: Draft<B>>(&mut self, key: &[u8], value: &[u8], draft: &mut D) -> Result<(), D::Error>
    where
        D::Error: From<PageError>,
    {
        self.leaf = None;
        self.push_row(&[], key, value, draft).map(drop)
    }

    /// Does a piece of it; `Some` once it is done, and then it must not be called again.
    ///
    /// # Panics
    /// If a key is longer than [`key_limit`]: they are checked when they come in.
    pub fn step<S, D>(
        &mut self,
        source: &S,
        changes: &mut impl Changes,
        draft: &mut D,
    ) -> Result<Option<Merged>, S::Error>
    where
        S: Source<B>,
        D: Draft<B, Error = S::Error>,
    {
        if let Some(level) = self.finishing {
            return self.finish(level, source, draft);
        }
        if self.leaf.is_some() {
            self.merge_leaf(changes, draft)?;
        } else if let Some(root) = self.root {
            if changes.current().is_none() {
                return Ok(Some(Merged { root: self.root, replaced: Vec::new() }));
            }
            let node = source.page(&root)?;
            self.root = None;
            self.open(&root, node, Vec::new(), None);
        } else if let Some(opened) = self.path.last() {
            if opened.next == opened.node.len() {
                self.path.pop();
            } else {
                self.visit(source, changes, draft)?;
            }
        } else {
            self.finishing = Some(0);
        }
        Ok(None)
    }

    /// The next child of the page at hand: kept, if it has no changes and what is in front of it makes good pages; else opened.
    fn visit<S, D>(&mut self, source: &S, changes: &impl Changes, draft: &mut D) -> Result<(), S::Error>
    where
        S: Source<B>,
        D: Draft<B, Error = S::Error>,
    {
        let Some(opened) = self.path.last() else { return Ok(()) };
        let (parent, index) = (NodeRef::clone(&opened.node), opened.next);
        let key = |index: usize| [parent.prefix(), parent.suffix(index)].concat();
        let from = if index == 0 { opened.from.clone() } else { key(index) };
        let to = if index + 1 < parent.len() { Some(key(index + 1)) } else { opened.to.clone() };
        let child = parent.child(index);
        let level = usize::from(parent.level()) - 1;
        if !has_change(changes, to.as_deref()) && self.flush(level, draft)? {
            self.push(level + 1, &from, &from, &child.encode(), child.runs_below, draft)?;
            self.went_on();
        } else {
            let node = source.page(&child)?;
            below(&node, &child, &parent)?;
            self.went_on();
            self.open(&child, node, from, to);
        }
        Ok(())
    }

    fn went_on(&mut self) {
        if let Some(opened) = self.path.last_mut() {
            opened.next += 1;
        }
    }

    fn open(&mut self, child: &ChildRef, node: NodeRef<B>, from: Vec<u8>, to: Option<Vec<u8>>) {
        self.replace(child.page, 1);
        self.read = child.page;
        if node.is_leaf() {
            self.leaf = Some(Leaf { node: Some(node), next: 0, from, to, key: Vec::new() });
        } else {
            self.path.push(Opened { node, next: 0, from, to });
        }
    }

    /// Some cells of the leaf at hand and changes, in the order of their keys.
    fn merge_leaf<D: Draft<B>>(&mut self, changes: &mut impl Changes, draft: &mut D) -> Result<(), D::Error>
    where
        D::Error: From<PageError>,
    {
        let Some(mut leaf) = self.leaf.take() else { return Ok(()) };
        for _ in 0..STEP_CELLS {
            let old = leaf.node.as_ref().filter(|node| leaf.next < node.len());
            if let Some(node) = old {
                leaf.key.clear();
                leaf.key.extend_from_slice(node.prefix());
                leaf.key.extend_from_slice(node.suffix(leaf.next));
            }
            let change = changes.current().filter(|(key, _)| leaf.to.as_deref().is_none_or(|to| *key < to));
            let order = match (old, change) {
                (None, None) => return Ok(()),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(_), Some((key, _))) => leaf.key.as_slice().cmp(key),
            };
            if let Some(node) = old.filter(|_| order.is_le()) {
                if order.is_lt() {
                    let (value, in_run) = node.raw_value(leaf.next);
                    self.push(0, &leaf.from, &leaf.key, value, in_run, draft)?;
                } else if let Stored::Run(run) = node.value(leaf.next) {
                    self.replace(run.page, run_pages::<B>(run.bytes) as u32);
                }
                leaf.next += 1;
            }
            if let Some((key, value)) = change.filter(|_| order.is_ge()) {
                let in_run = match value {
                    Some(value) => self.push_row(&leaf.from, key, value, draft)?,
                    None => false,
                };
                changes.advance();
                if in_run {
                    break;
                }
            }
        }
        self.leaf = Some(leaf);
        Ok(())
    }

    /// Adds a row to a leaf. True if its value is too large: then that has pages of its own, which the leaf names.
    fn push_row<D: Draft<B>>(&mut self, from: &[u8], key: &[u8], value: &[u8], draft: &mut D) -> Result<bool, D::Error>
    where
        D::Error: From<PageError>,
    {
        assert!(key.len() <= key_limit::<B>(), "a key that is too long came in");
        let in_run = is_run::<B>(key.len(), value.len());
        if in_run {
            let run = write_run(value, draft)?;
            self.push(0, from, key, &run.encode(), in_run, draft)?;
        } else {
            self.push(0, from, key, value, in_run, draft)?;
        }
        Ok(in_run)
    }

    /// Adds a cell to a level. `from` is the separator of the page that it would begin.
    fn push<D: Draft<B>>(
        &mut self,
        level: usize,
        from: &[u8],
        key: &[u8],
        value: &[u8],
        in_run: bool,
        draft: &mut D,
    ) -> Result<(), D::Error>
    where
        D::Error: From<PageError>,
    {
        while self.levels.len() <= level {
            self.levels.push(Level::new(self.levels.len()));
        }
        let Level { held, open } = &mut self.levels[level];
        let mut full = None;
        match open.cells.last_key() {
            None => open.from = from.to_vec(),
            // Pages can be well-formed each, and yet overlap.
            Some(last) if last >= key => {
                return Err(PageError { page: self.read, offset: 0, what: Flaw::Order }.into());
            }
            Some(_) if open.cells.has_room(key, value.len()) => {}
            Some(last) => {
                let from = if level == 0 { separator(last, key) } else { key }.to_vec();
                let next = Group { from, ..Group::new(level) };
                full = held.replace(mem::replace(open, next));
            }
        }
        open.cells.push(key, value, in_run);
        full.map_or(Ok(()), |full| self.emit(level, full, draft))
    }

    /// Makes pages of what is open up to a level, so that a subtree of that level can follow; `false` if some of it is too little.
    fn flush<D: Draft<B>>(&mut self, level: usize, draft: &mut D) -> Result<bool, D::Error>
    where
        D::Error: From<PageError>,
    {
        for level in 0..=level {
            // A page of one level may be the first cell of the next.
            match self.levels.get(level) {
                None => break,
                Some(at) if at.is_short() => return Ok(false),
                Some(_) => self.settle(level, draft)?,
            }
        }
        Ok(true)
    }

    /// Makes pages of all that a level has.
    fn settle<D: Draft<B>>(&mut self, level: usize, draft: &mut D) -> Result<(), D::Error>
    where
        D::Error: From<PageError>,
    {
        self.balance(level);
        if let Some(held) = self.levels[level].held.take() {
            self.emit(level, held, draft)?;
        }
        let open = mem::replace(&mut self.levels[level].open, Group::new(level));
        if open.cells.is_empty() { Ok(()) } else { self.emit(level, open, draft) }
    }

    /// Where the last group of a level is too small for a page, gives it cells of the one before, or both become one.
    fn balance(&mut self, level: usize) {
        let Level { held, open } = &mut self.levels[level];
        if open.cells.plain_bytes() >= least::<B>() {
            return;
        }
        let Some(mut left) = held.take() else { return };
        let mut fits = true;
        for index in 0..open.cells.len() {
            let (value, in_run) = open.cells.value(index);
            fits = fits && left.cells.has_room(open.cells.key(index), value.len());
            left.cells.push(open.cells.key(index), value, in_run);
        }
        if fits {
            *open = left;
            return;
        }
        // The right one takes what it needs, then as much as leaves the left one the larger, but no more than fits for sure: the left
        // one's cells may be many only because they share a prefix.
        let even = (left.cells.plain_bytes() / 2).min(B / 2);
        let (mut split, mut right) = (left.cells.len(), 0);
        while split > 1 {
            let cell = left.cells.plain_cell_bytes(split - 1);
            if right >= least::<B>() && right + cell > even {
                break;
            }
            (split, right) = (split - 1, right + cell);
        }
        let mut parts = [Group { from: left.from, ..Group::new(level) }, Group::new(level)];
        for index in 0..left.cells.len() {
            let (value, in_run) = left.cells.value(index);
            parts[usize::from(index >= split)].cells.push(left.cells.key(index), value, in_run);
        }
        let (last, first) = (left.cells.key(split - 1), left.cells.key(split));
        parts[1].from = if level == 0 { separator(last, first) } else { first }.to_vec();
        let [left, right] = parts;
        (*held, *open) = (Some(left), right);
    }

    /// Makes a page, and adds it to the level above.
    fn emit<D: Draft<B>>(&mut self, level: usize, group: Group<B>, draft: &mut D) -> Result<(), D::Error>
    where
        D::Error: From<PageError>,
    {
        let child = self.make(&group, draft)?;
        self.push(level + 1, &group.from, &group.from, &child.encode(), child.runs_below, draft)
    }

    fn make<D: Draft<B>>(&self, group: &Group<B>, draft: &mut D) -> Result<ChildRef, D::Error> {
        let page = draft.allocate(1)?;
        let mut node = draft.frame();
        group.cells.build_into(self.table, &mut node);
        let (header, crc) = node.seal(page, self.csn);
        draft.write(page, header, node.shareable());
        Ok(ChildRef { page, crc, runs_below: group.cells.runs_below() })
    }

    /// One level of the right end, once the old tree is walked: the root, if nothing stands above it.
    fn finish<S, D>(&mut self, level: usize, source: &S, draft: &mut D) -> Result<Option<Merged>, S::Error>
    where
        S: Source<B>,
        D: Draft<B, Error = S::Error>,
    {
        self.balance(level);
        let above = self.levels[level + 1..].iter().position(|level| !level.is_empty());
        let at = &self.levels[level];
        if let Some(above) = above.filter(|_| at.is_short()) {
            self.open_left(level, level + 1 + above, source, draft)?;
            return Ok(None);
        }
        if above.is_some() || at.held.is_some() {
            self.settle(level, draft)?;
            self.finishing = Some(level + 1);
            return Ok(None);
        }
        let group = mem::replace(&mut self.levels[level].open, Group::new(level));
        let root = match group.cells.len() {
            0 => None,
            1 if level > 0 => group.cells.value(0).0.first_chunk().and_then(ChildRef::decode),
            _ => Some(self.make(&group, draft)?),
        };
        Ok(Some(Merged { root, replaced: mem::take(&mut self.replaced) }))
    }

    /// Opens the last page to the left that is on the way from level `above` to what a level has too little of. Everything to the left
    /// there is of the old tree: a new page is followed by one, or by what is open.
    fn open_left<S, D>(&mut self, level: usize, above: usize, source: &S, draft: &mut D) -> Result<(), S::Error>
    where
        S: Source<B>,
        D: Draft<B, Error = S::Error>,
    {
        let at = &mut self.levels[above];
        if at.open.cells.is_empty()
            && let Some(held) = at.held.take()
        {
            at.open = held;
        }
        let last = at.open.cells.len() - 1;
        let child = at.open.cells.value(last).0.first_chunk().and_then(ChildRef::decode);
        let child = child.expect("inner levels hold child refs");
        let from = at.open.cells.key(last).to_vec();
        let node = source.page(&child)?;
        if usize::from(node.level()) + 1 != above || node.table() != self.table {
            return Err(PageError { page: child.page, offset: 0, what: Flaw::Level }.into());
        }
        at.open.cells.pop();
        self.replace(child.page, 1);
        self.read = child.page;
        let behind = mem::replace(&mut self.levels[above - 1].open, Group::new(above - 1));
        let mut key = Vec::new();
        for index in 0..node.len() {
            key.clear();
            if node.is_leaf() || index > 0 {
                key.extend_from_slice(node.prefix());
                key.extend_from_slice(node.suffix(index));
            } else {
                key.extend_from_slice(&from);
            }
            if node.is_leaf() {
                let (value, in_run) = node.raw_value(index);
                self.push(above - 1, &from, &key, value, in_run, draft)?;
            } else {
                let child = node.child(index);
                self.push(above - 1, &from, &key, &child.encode(), child.runs_below, draft)?;
            }
        }
        debug_assert!(above - 1 == level || behind.cells.is_empty(), "levels in between are empty");
        for index in 0..behind.cells.len() {
            let (value, in_run) = behind.cells.value(index);
            self.push(above - 1, &behind.from, behind.cells.key(index), value, in_run, draft)?;
        }
        Ok(())
    }

    fn replace(&mut self, page: PageNo, pages: u32) {
        self.replaced.push(Replaced { page, pages });
    }
}

/// Merges all changes into a tree, where every page can be had at once.
pub fn merge<const B: usize, S, D>(
    root: Option<ChildRef>,
    (table, csn): (TableId, Csn),
    source: &S,
    changes: &mut impl Changes,
    draft: &mut D,
) -> Result<Merged, S::Error>
where
    S: Source<B>,
    D: Draft<B, Error = S::Error>,
{
    let mut merge = Merge::new(root, table, csn);
    loop {
        if let Some(merged) = merge.step(source, changes, draft)? {
            return Ok(merged);
        }
    }
}

fn has_change(changes: &impl Changes, to: Option<&[u8]>) -> bool {
    changes.current().is_some_and(|(key, _)| to.is_none_or(|to| key < to))
}

fn write_run<const B: usize, D: Draft<B>>(value: &[u8], draft: &mut D) -> Result<Run, D::Error> {
    let bytes = value.len() as u64;
    let page = draft.allocate(run_pages::<B>(bytes) as u32)?;
    let run = Run { page, bytes, crc: crc32fast::hash(value) };
    draft.write_run(&run, value);
    Ok(run)
}

const _: () = assert!(key_limit::<480>() + RUN_BYTES + INDEX_BYTES + leaf_cell_at::SUFFIX <= 480 / 4);
