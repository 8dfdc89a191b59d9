//! A state as it is read: its trees, the chunk files that they stand in, and the cache above them.

use std::{fmt, ops::Bound, sync::Arc};

use smallvec::SmallVec;

use super::{
    FileOf, Source, Tree, below,
    cache::{Cache, Held},
    chunk::{Chunk, corrupt_page, name_of},
    cursor::Cursor as Walk,
    format::{ChildRef, Run, page_at},
    node::{Flaw, Node, NodeRef, PageError, Stored},
    page_bytes, run_pages,
    space::Space,
};
use crate::{
    env::{Env, File},
    txn::{
        catalog::Catalog,
        ids::{PageNo, TableId},
        storage::{Cursor, Direction, KeyRange, Lookup, RootMeta, State, StorageError, Value},
    },
};

/// Why a walk stopped.
pub(super) enum Stop<const B: usize> {
    /// This page is not in memory.
    Missing(ChildRef),
    /// It can't go on.
    Failed(StorageError),
}

impl<const B: usize> From<PageError> for Stop<B> {
    fn from(error: PageError) -> Stop<B> {
        Stop::Failed(corrupt_page::<B>(error))
    }
}

/// Chunk files with the cache above them.
#[derive(Debug)]
pub(super) struct Reader<F: File, const B: usize> {
    pub(super) cache: Arc<Cache<B>>,
    /// By number, with the pages that may be asked for.
    chunks: Vec<(u32, u32, Arc<Chunk<F, B>>)>,
}

impl<F: File, const B: usize> Clone for Reader<F, B> {
    fn clone(&self) -> Reader<F, B> {
        Reader { cache: Arc::clone(&self.cache), chunks: self.chunks.clone() }
    }
}

impl<F: File, const B: usize> Reader<F, B> {
    pub(super) fn new(cache: &Arc<Cache<B>>) -> Reader<F, B> {
        Reader { cache: Arc::clone(cache), chunks: Vec::new() }
    }

    /// Adds a chunk file, or says how many pages of it may be asked for.
    pub(super) fn add(&mut self, chunk: &Arc<Chunk<F, B>>, pages: u32) {
        let at = self.chunks.partition_point(|(number, _, _)| *number < chunk.number);
        match self.chunks.get_mut(at) {
            Some((number, limit, _)) if *number == chunk.number => *limit = pages,
            _ => self.chunks.insert(at, (chunk.number, pages, Arc::clone(chunk))),
        }
    }

    pub(super) fn chunk(&self, number: u32) -> Option<&Arc<Chunk<F, B>>> {
        self.find(number).map(|(_, _, chunk)| chunk)
    }

    fn find(&self, number: u32) -> Option<&(u32, u32, Arc<Chunk<F, B>>)> {
        // Mostly their numbers follow each other.
        let guess = self.chunks.first().map_or(0, |(first, _, _)| number.wrapping_sub(*first) as usize);
        let guess = self.chunks.get(guess).filter(|found| found.0 == number);
        guess.or_else(|| {
            let at = self.chunks.binary_search_by_key(&number, |(number, _, _)| *number).ok()?;
            self.chunks.get(at)
        })
    }

    /// Only those of this space, with its lengths.
    pub(super) fn limit(&mut self, space: &Space) {
        self.chunks.retain_mut(|(number, pages, _)| {
            let found = space.get(number);
            *pages = found.map_or(0, |chunk| chunk.pages);
            found.is_some()
        });
    }

    /// The file of so many pages, from this one on.
    fn file_of(&self, page: PageNo, pages: u64) -> Result<&Arc<Chunk<F, B>>, StorageError> {
        let found = self.find(page.chunk);
        let found = found.filter(|(_, limit, _)| u64::from(page.index) + pages <= u64::from(*limit));
        found.map(|(_, _, chunk)| chunk).ok_or_else(|| StorageError::Corrupt {
            file: name_of(page.chunk),
            offset: u64::from(page.index) * page_bytes::<B>(),
            what: "there is no such page, and another one names it".to_owned(),
        })
    }

    /// A page in memory.
    pub(super) fn look(&self, page: PageNo) -> Option<Held<B>> {
        self.find(page.chunk)?.2.frames.look(page.index)
    }

    /// Asks for the place where a page would be in memory.
    fn warm(&self, page: PageNo) {
        if let Some((_, _, chunk)) = self.find(page.chunk) {
            chunk.frames.warm(page.index);
        }
    }

    /// A page, in memory or not.
    pub(super) async fn load(&self, child: &ChildRef) -> Result<NodeRef<B>, StorageError> {
        let chunk = self.file_of(child.page, 1)?;
        let node = self.cache.load(chunk, child).await?;
        node.touch();
        Ok(node)
    }

    /// A value in pages of its own.
    pub(super) async fn run(&self, run: &Run) -> Result<Arc<[u8]>, StorageError> {
        self.file_of(run.page, run_pages::<B>(run.bytes))?.read_run(run).await
    }

    /// A look-up in memory; `None` if the disk has to be asked.
    fn get_now(&self, table: TableId, root: &ChildRef, key: &[u8]) -> Option<Lookup> {
        let (mut held, mut last, mut pages) = (self.look(root.page)?, root.page.index, 1);
        loop {
            let node = held.as_ref()?;
            node.touch();
            if node.is_leaf() {
                self.cache.hit(last, pages);
                return found_in(node, table, key);
            }
            let child = node.child(node.child_of(key));
            let next = self.look(child.page)?;
            next.as_ref()?.warm();
            below(next.as_ref()?, &child, node).ok()?;
            (held, last, pages) = (next, child.page.index, pages + 1);
        }
    }

    /// Look-ups in memory, some side by side: while one waits for the memory of a page, of a child's name or of its place, the others
    /// ask for theirs.
    fn get_many_now(&self, table: TableId, root: &ChildRef, keys: &[&[u8]], found: &mut Vec<Lookup>) {
        for keys in keys.chunks(ABREAST) {
            let mut abreast: SmallVec<[Descent<'_, B>; ABREAST]> =
                keys.iter().map(|key| Descent::new(key, root.page, self.look(root.page))).collect();
            while abreast.iter_mut().fold(false, |deeper, descent| descent.choose(table) | deeper) {
                abreast.iter_mut().for_each(|descent| descent.turn(self));
                abreast.iter_mut().for_each(|descent| descent.enter(self));
            }
            for descent in &abreast {
                descent.arrived().inspect(|leaf| leaf.warm_cell(descent.key));
            }
            found.extend(abreast.iter().map(|descent| descent.end(self, table).unwrap_or(Lookup::NotInMemory)));
        }
    }

    /// A look-up.
    async fn get(&self, table: TableId, root: &ChildRef, key: &[u8]) -> Result<Option<Value>, StorageError> {
        let mut node = self.page(table, root).await?;
        while !node.is_leaf() {
            let child = node.child(node.child_of(key));
            let next = self.load(&child).await?;
            below(&next, &child, &node).map_err(corrupt_page::<B>)?;
            node = next;
        }
        let Ok(index) = node.find(key) else { return Ok(None) };
        if let Stored::Run(run) = node.value(index) {
            return Ok(Some(self.run(&run).await?.into()));
        }
        let (from, bytes, _) = node.value_at(index);
        Ok(Some(Value::of_page(&node, from, bytes)))
    }

    /// A page of a table's tree.
    pub(super) async fn page(&self, table: TableId, child: &ChildRef) -> Result<NodeRef<B>, StorageError> {
        let node = self.load(child).await?;
        of_table(&node, child, table).map_err(corrupt_page::<B>)?;
        Ok(node)
    }
}

/// Keys that are looked up side by side. A thread has eight cheap looks at a time (see `arc_swap`); one is at the view, and one is
/// let go only when the next one is there.
const ABREAST: usize = 6;

/// A look-up on its way from the root to a leaf.
struct Descent<'k, const B: usize> {
    key: &'k [u8],
    /// Where it is, if that is in memory.
    held: Option<Held<B>>,
    page: PageNo,
    /// Of how many pages it has come.
    pages: u64,
    /// Which level the page must have, by its parent.
    level: Option<u8>,
    /// Below which child it goes on.
    child: Option<usize>,
}

impl<'k, const B: usize> Descent<'k, B> {
    fn new(key: &'k [u8], root: PageNo, held: Option<Held<B>>) -> Descent<'k, B> {
        Descent { key, held, page: root, pages: 1, level: None, child: None }
    }

    /// The page that it has come to, of which nothing is known yet.
    fn arrived(&self) -> Option<&Node<B>> {
        self.held.as_ref()?.as_deref()
    }

    /// The same if it is what its parent says. (It isn't looked at when it is found: that would wait for its memory.)
    fn node(&self, table: TableId) -> Option<&NodeRef<B>> {
        let node = self.held.as_ref()?.as_ref()?;
        (node.table() == table && self.level.is_none_or(|level| level == node.level())).then_some(node)
    }

    /// Finds the child, and asks for its name; false where the way ends.
    fn choose(&mut self, table: TableId) -> bool {
        let inner = self.node(table).filter(|node| !node.is_leaf());
        let child = inner.map(|node| {
            node.touch();
            let child = node.child_of(self.key);
            node.warm_at(child);
            (child, node.level() - 1)
        });
        self.child = child.map(|(child, _)| child);
        self.level = child.map_or(self.level, |(_, level)| Some(level));
        child.is_some()
    }

    /// Reads the child's name, and asks for its place.
    fn turn<F: File>(&mut self, reader: &Reader<F, B>) {
        let Some((child, node)) = self.child.zip(self.arrived()) else { return };
        (self.page, self.pages) = (node.child(child).page, self.pages + 1);
        reader.warm(self.page);
    }

    /// Goes to it, and asks for what a search begins with.
    fn enter<F: File>(&mut self, reader: &Reader<F, B>) {
        if self.child.is_some() {
            self.held = reader.look(self.page);
            self.arrived().inspect(|node| node.warm());
        }
    }

    /// What the leaf says; `None` if the disk has to be asked.
    fn end<F: File>(&self, reader: &Reader<F, B>, table: TableId) -> Option<Lookup> {
        let leaf = self.node(table).filter(|node| node.is_leaf())?;
        leaf.touch();
        reader.cache.hit(self.page.index, self.pages);
        found_in(leaf, table, self.key)
    }
}

/// What a leaf says of a key; `None` if the disk has to be asked.
#[inline]
fn found_in<const B: usize>(leaf: &NodeRef<B>, table: TableId, key: &[u8]) -> Option<Lookup> {
    let Ok(index) = leaf.find(key) else { return Some(Lookup::Absent) };
    let (from, bytes, in_run) = leaf.value_at(index);
    if in_run || leaf.table() != table {
        return None;
    }
    Some(Lookup::Found(Value::of_page(leaf, from, bytes)))
}

fn of_table<const B: usize>(node: &Node<B>, child: &ChildRef, table: TableId) -> Result<(), PageError> {
    let error = PageError { page: child.page, offset: page_at::TABLE, what: Flaw::Table };
    if node.table() == table { Ok(()) } else { Err(error) }
}

/// Pages of one table that are in memory, and one that is held for whoever asks next.
pub(super) struct InMemory<'a, F: File, const B: usize> {
    pub(super) reader: &'a Reader<F, B>,
    pub(super) table: TableId,
    pub(super) held: &'a Option<(ChildRef, NodeRef<B>)>,
}

impl<F: File, const B: usize> Source<B> for InMemory<'_, F, B> {
    type Error = Stop<B>;

    fn page(&self, child: &ChildRef) -> Result<NodeRef<B>, Stop<B>> {
        let held = self.held.as_ref().filter(|(held, _)| held == child).map(|(_, node)| NodeRef::clone(node));
        let found = || {
            let node = self.reader.look(child.page).and_then(arc_swap::Guard::into_inner)?;
            self.reader.cache.hit(child.page.index, 1);
            Some(node)
        };
        let node = held.or_else(found).ok_or(Stop::Missing(*child))?;
        of_table(&node, child, self.table)?;
        node.touch();
        Ok(node)
    }
}

/// A state of [`Pages`](super::Pages).
pub struct PagesState<E: Env, const B: usize>(pub(super) Arc<RootState<E, B>>);

pub(super) struct RootState<E: Env, const B: usize> {
    pub(super) meta: RootMeta,
    pub(super) catalog: Arc<Catalog>,
    /// The tree of tables.
    pub(super) catalog_tree: Tree,
    /// Those of tables that are not empty, by number.
    pub(super) trees: Vec<(TableId, ChildRef)>,
    pub(super) reader: Reader<FileOf<E>, B>,
    pub(super) space: Space,
    pub(super) directory: Tree,
    pub(super) directory_pages: Vec<PageNo>,
}

impl<E: Env, const B: usize> Clone for PagesState<E, B> {
    fn clone(&self) -> Self {
        PagesState(Arc::clone(&self.0))
    }
}

impl<E: Env, const B: usize> fmt::Debug for PagesState<E, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "root {} at {}", self.0.meta.sequence, self.0.meta.point.csn)
    }
}

impl<E: Env, const B: usize> RootState<E, B> {
    pub(super) fn tree(&self, table: TableId) -> Tree {
        let at = self.trees.binary_search_by_key(&table, |(table, _)| *table).ok()?;
        self.trees.get(at).map(|(_, root)| *root)
    }
}

impl<E: Env, const B: usize> State for PagesState<E, B> {
    type Cursor = PagesCursor<E, B>;

    fn meta(&self) -> &RootMeta {
        &self.0.meta
    }

    fn catalog(&self) -> &Arc<Catalog> {
        &self.0.catalog
    }

    fn get_now(&self, table: TableId, key: &[u8]) -> Lookup {
        let Some(root) = self.0.tree(table) else { return Lookup::Absent };
        self.0.reader.get_now(table, &root, key).unwrap_or(Lookup::NotInMemory)
    }

    fn get_many_now(&self, table: TableId, keys: &[&[u8]], found: &mut Vec<Lookup>) {
        match self.0.tree(table) {
            Some(root) => self.0.reader.get_many_now(table, &root, keys, found),
            None => found.extend(keys.iter().map(|_| Lookup::Absent)),
        }
    }

    async fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Value>, StorageError> {
        let Some(root) = self.0.tree(table) else { return Ok(None) };
        self.0.reader.get(table, &root, key).await
    }

    fn cursor(&self, table: TableId, range: KeyRange<'_>, direction: Direction) -> PagesCursor<E, B> {
        PagesCursor::new(self.clone(), table, self.0.tree(table), range, direction)
    }
}

/// A cursor of a [`PagesState`].
pub struct PagesCursor<E: Env, const B: usize> {
    state: PagesState<E, B>,
    table: TableId,
    walk: Walk<B>,
    value: At,
}

/// Where the value is that the cursor is at.
enum At {
    /// It is at none.
    Nothing,
    /// In the leaf.
    Leaf,
    /// On the disk, still.
    Run(Run),
    /// It was read.
    Read(Arc<[u8]>),
}

impl<E: Env, const B: usize> PagesCursor<E, B> {
    pub(super) fn new(
        state: PagesState<E, B>,
        table: TableId,
        tree: Tree,
        (from, to): (Bound<&[u8]>, Bound<&[u8]>),
        direction: Direction,
    ) -> PagesCursor<E, B> {
        PagesCursor { state, table, walk: Walk::new(tree, from, to, direction), value: At::Nothing }
    }

    /// The next key, with its value in the leaf or on the disk; false at the end.
    async fn step(&mut self) -> Result<bool, StorageError> {
        let reader = &self.state.0.reader;
        let mut held = None;
        loop {
            let missing = match self.walk.next(&InMemory { reader, table: self.table, held: &held }) {
                Ok(Some((_, Stored::Inline(_)))) => {
                    self.value = At::Leaf;
                    return Ok(true);
                }
                Ok(Some((_, Stored::Run(run)))) => {
                    self.value = At::Run(run);
                    return Ok(true);
                }
                Ok(None) => return Ok(false),
                Err(Stop::Missing(child)) => child,
                Err(Stop::Failed(error)) => return Err(error),
            };
            held = Some((missing, reader.load(&missing).await?));
        }
    }
}

impl<E: Env, const B: usize> Cursor for PagesCursor<E, B> {
    async fn advance(&mut self) -> Result<bool, StorageError> {
        // A value that could not be read is still the next one.
        if !matches!(self.value, At::Run(_)) {
            self.value = At::Nothing;
            if !self.step().await? {
                return Ok(false);
            }
        }
        if let At::Run(run) = self.value {
            self.value = At::Read(self.state.0.reader.run(&run).await?);
        }
        Ok(true)
    }

    #[inline]
    fn advance_now(&mut self) -> bool {
        // (A run is read first, if there is one.)
        let stored = if matches!(self.value, At::Run(_)) { None } else { self.walk.next_in_leaf() };
        self.value = match stored {
            None => return false,
            Some(Stored::Inline(_)) => At::Leaf,
            Some(Stored::Run(run)) => At::Run(run),
        };
        matches!(self.value, At::Leaf)
    }

    #[inline(always)]
    fn current(&self) -> Option<(&[u8], &[u8])> {
        let (key, value) = self.walk.current()?;
        match (&self.value, value) {
            (At::Leaf, Stored::Inline(value)) => Some((key, value)),
            (At::Read(value), Stored::Run(_)) => Some((key, value)),
            _ => None,
        }
    }
}
