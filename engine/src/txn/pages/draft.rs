//! A state being written: new pages go to places that nobody needs, in pieces, and nothing leads to them yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IoSlice,
    sync::Arc,
};

use super::{
    Draft, FileOf, Shared, Tree,
    chunk::{Chunk, ChunkHeader, corrupt_page, name_of},
    directory::{encode_bitmap, encode_directory, entries_per_page},
    format::{ChildRef, PAGE_HEADER_BYTES, Run},
    merge::Merge,
    node::{Node, Stored},
    page_bytes,
    root::encode_tree,
    run_pages,
    space::{DraftSpace, NoPage, Space, entries},
    state::{InMemory, PagesState, Reader, Stop},
};
use crate::{
    env::{Dir, Env, interruptible},
    plant::planted,
    txn::{
        catalog::{self, Catalog},
        ids::{PageNo, TableId},
        storage::{Changes, Point, StorageError},
    },
};

/// The catalog's number among tables.
pub(super) const CATALOG: TableId = TableId(0);

/// Pages side by side that are written in one call.
const WRITE_PAGES: usize = 64;

/// A draft of [`Pages`](super::Pages).
pub struct PagesDraft<E: Env, const B: usize> {
    pub(super) shared: Arc<Shared<E, B>>,
    pub(super) to: Point,
    pub(super) base: PagesState<E, B>,
    /// Trees that are not the base's.
    trees: BTreeMap<TableId, Tree>,
    catalog_tree: Tree,
    reader: Reader<FileOf<E>, B>,
    work: Work<B>,
    /// Files that this draft has made.
    made: BTreeSet<u32>,
    /// Files with writes that are not durable.
    unsynced: BTreeSet<u32>,
    /// A write that was begun: should the draft be dropped, it may yet take effect.
    flight: Option<(PageNo, u32)>,
    /// Something failed or was interrupted: what there is of it makes no state.
    broken: bool,
}

/// What a merge needs of a draft: places, and somewhere to leave pages until they are written.
struct Work<const B: usize> {
    space: DraftSpace<B>,
    pending: BTreeMap<PageNo, Piece<B>>,
    pending_bytes: u64,
}

/// What becomes pages side by side.
enum Piece<const B: usize> {
    Node([u8; PAGE_HEADER_BYTES], Arc<Node<B>>),
    Bytes(Vec<u8>),
}

/// The tables of a finished draft, and where they stand.
pub(super) struct Finished<E: Env, const B: usize> {
    pub(super) catalog_tree: Tree,
    pub(super) trees: Vec<(TableId, ChildRef)>,
    pub(super) reader: Reader<FileOf<E>, B>,
    pub(super) space: Space,
    pub(super) directory: Tree,
    pub(super) directory_pages: Vec<PageNo>,
}

impl<const B: usize> Work<B> {
    fn add(&mut self, page: PageNo, piece: Piece<B>) {
        self.pending_bytes += match &piece {
            Piece::Node(..) => page_bytes::<B>(),
            Piece::Bytes(bytes) => bytes.len() as u64,
        };
        self.pending.insert(page, piece);
    }
}

impl<const B: usize> Draft<B> for Work<B> {
    type Error = Stop<B>;

    fn allocate(&mut self, pages: u32) -> Result<PageNo, Stop<B>> {
        self.space.allocate(pages).map_err(|none| Stop::Failed(no_page(none)))
    }

    fn write(&mut self, page: PageNo, header: [u8; PAGE_HEADER_BYTES], node: Arc<Node<B>>) {
        self.add(page, Piece::Node(header, node));
    }

    fn write_run(&mut self, run: &Run, value: &[u8]) {
        let mut bytes = value.to_vec();
        bytes.resize((run_pages::<B>(run.bytes) * page_bytes::<B>()) as usize, 0);
        self.add(run.page, Piece::Bytes(bytes));
    }
}

fn no_page(none: NoPage) -> StorageError {
    let (kind, message) = match none {
        NoPage::TooLarge => (std::io::ErrorKind::FileTooLarge, "a value takes more pages than a chunk file can have"),
        NoPage::NoChunk => (std::io::ErrorKind::StorageFull, "no chunk file has a number any more"),
    };
    let message = message.to_owned();
    StorageError::Io { operation: "find room", file: "chunk files".to_owned(), kind, message }
}

impl<E: Env, const B: usize> PagesDraft<E, B> {
    pub(super) fn new(shared: &Arc<Shared<E, B>>, to: Point, base: PagesState<E, B>, space: DraftSpace<B>) -> Self {
        PagesDraft {
            shared: Arc::clone(shared),
            to,
            trees: BTreeMap::new(),
            catalog_tree: base.0.catalog_tree,
            reader: base.0.reader.clone(),
            work: Work { space, pending: BTreeMap::new(), pending_bytes: 0 },
            made: BTreeSet::new(),
            unsynced: BTreeSet::new(),
            flight: None,
            broken: false,
            base,
        }
    }

    /// The number of the next chunk file.
    /// A defect, for a test: pages that are in use, and that nothing will name.
    #[cfg(test)]
    pub(super) fn lose(&mut self, pages: u32) -> PageNo {
        self.work.space.allocate(pages).expect("there are chunks")
    }

    pub(super) fn next_chunk(&self) -> u32 {
        self.work.space.next_chunk
    }

    /// Files that were made and that this space doesn't name.
    pub(super) fn useless(&self, space: &Space) -> Vec<u32> {
        self.made.iter().copied().filter(|number| !space.contains_key(number)).collect()
    }

    /// A write that may yet take effect.
    pub(super) fn flight(&self) -> Option<(PageNo, u32)> {
        self.flight
    }

    fn tree(&self, table: TableId) -> Tree {
        self.trees.get(&table).copied().unwrap_or_else(|| self.base.0.tree(table))
    }

    /// Merges changes into a table's tree.
    pub(super) async fn merge<C: Changes + Send>(
        &mut self,
        table: TableId,
        changes: &mut C,
    ) -> Result<(), StorageError> {
        self.begin()?;
        let tree = self.merge_tree(table, self.tree(table), changes).await?;
        self.trees.insert(table, tree);
        self.broken = false;
        Ok(())
    }

    /// From here on it is of no use until this is taken back.
    fn begin(&mut self) -> Result<(), StorageError> {
        if std::mem::replace(&mut self.broken, true) { Err(StorageError::Broken) } else { Ok(()) }
    }

    async fn merge_tree<C: Changes + Send>(
        &mut self,
        table: TableId,
        tree: Tree,
        changes: &mut C,
    ) -> Result<Tree, StorageError> {
        let mut merge = Merge::<B>::new(tree, table, self.to.csn);
        let mut held = None;
        let merged = loop {
            let source = InMemory { reader: &self.reader, table, held: &held };
            match merge.step(&source, changes, &mut self.work) {
                Ok(Some(merged)) => break merged,
                Ok(None) if self.work.pending_bytes < self.shared.piece_bytes => {}
                Ok(None) => {
                    self.write_out().await?;
                    self.sync_chunks().await?;
                    self.shared.env.yield_now().await;
                }
                Err(Stop::Missing(child)) => held = Some((child, self.reader.load(&child).await?)),
                Err(Stop::Failed(error)) => return Err(error),
            }
        };
        for replaced in &merged.replaced {
            self.free(replaced.page, replaced.pages)?;
        }
        // What a later merge of this draft reads is on the disk.
        self.write_out().await?;
        Ok(merged.root)
    }

    /// Frees pages. That they were in use is checked: else a tree and the bitmaps contradict each other.
    fn free(&mut self, page: PageNo, pages: u32) -> Result<(), StorageError> {
        if self.work.space.free(page, pages) {
            return Ok(());
        }
        let offset = u64::from(page.index) * page_bytes::<B>();
        let what = "a page of a tree is not in use, says the bitmap".to_owned();
        Err(StorageError::Corrupt { file: name_of(page.chunk), offset, what })
    }

    /// Frees all pages of a tree.
    async fn drop_tree(&mut self, table: TableId, root: ChildRef) -> Result<(), StorageError> {
        let mut rest: Vec<(ChildRef, Option<Arc<Node<B>>>)> = vec![(root, None)];
        while let Some((child, above)) = rest.pop() {
            let node = self.reader.page(table, &child).await?;
            above.map_or(Ok(()), |above| super::below(&node, &child, &above)).map_err(corrupt_page::<B>)?;
            self.free(child.page, 1)?;
            for index in 0..node.len() {
                if node.is_leaf() {
                    if let Stored::Run(run) = node.value(index) {
                        self.free(run.page, run_pages::<B>(run.bytes) as u32)?;
                    }
                    continue;
                }
                let child = node.child(index);
                if node.level() == 1 && !child.runs_below {
                    self.free(child.page, 1)?;
                } else {
                    rest.push((child, Some(Arc::clone(&node))));
                }
            }
        }
        Ok(())
    }

    /// Writes what is pending, in the order of places.
    async fn write_out(&mut self) -> Result<(), StorageError> {
        self.work.pending_bytes = 0;
        let mut pieces = std::mem::take(&mut self.work.pending).into_iter().peekable();
        while let Some((first, piece)) = pieces.next() {
            let chunk = self.chunk(first.chunk).await?;
            let mut group = vec![piece];
            let mut end = first.index + group[0].pages();
            while group.len() < WRITE_PAGES
                && let Some((_, piece)) = pieces.next_if(|(page, _)| page.chunk == first.chunk && page.index == end)
            {
                end += piece.pages();
                group.push(piece);
            }
            let mut slices: Vec<IoSlice<'_>> = group.iter().flat_map(Piece::slices).collect();
            self.flight = Some((first, end - first.index));
            let written = chunk.write(first.index, &mut slices).await;
            self.flight = None;
            self.unsynced.insert(first.chunk);
            self.trust(first.chunk, written)?;
            let mut index = first.index;
            for piece in group {
                let pages = piece.pages();
                if let Piece::Node(_, node) = piece {
                    self.reader.cache.put(&chunk.frames, index, node);
                }
                index += pages;
            }
        }
        Ok(())
    }

    /// A file to write to.
    async fn chunk(&mut self, number: u32) -> Result<Arc<Chunk<FileOf<E>, B>>, StorageError> {
        let capacity = self.work.space.capacity(number);
        if let Some(chunk) = self.reader.chunk(number).map(Arc::clone) {
            // What it has grown by may be asked for.
            self.reader.add(&chunk, capacity);
            return Ok(chunk);
        }
        let Shared { dir, cache, uuid, .. } = &*self.shared;
        let header = ChunkHeader { page_bytes: page_bytes::<B>() as u32, uuid: *uuid, chunk: number };
        self.made.insert(number);
        let chunk = Arc::new(Chunk::create(dir, header, capacity, &cache.memory).await?);
        cache.add(&chunk.frames);
        self.reader.add(&chunk, capacity);
        Ok(chunk)
    }

    /// After a failed write or sync a file doesn't grow any more: how long it is, is unknown.
    fn trust(&self, chunk: u32, done: Result<(), StorageError>) -> Result<(), StorageError> {
        if done.is_err() {
            self.shared.lock().unsure.entry(chunk).or_default();
        }
        done
    }

    async fn sync_chunks(&mut self) -> Result<(), StorageError> {
        while let Some(number) = self.unsynced.first().copied() {
            if let Some(chunk) = self.reader.chunk(number) {
                self.trust(number, chunk.sync().await)?;
            }
            self.unsynced.remove(&number);
        }
        Ok(())
    }

    /// All of it durable, with these tables. Nothing leads to it yet.
    pub(super) async fn finish(&mut self, catalog: &Catalog) -> Result<Finished<E, B>, StorageError> {
        self.begin()?;
        self.drop_others(catalog).await?;
        let entries = self.changed_entries(catalog);
        self.catalog_tree = self.merge_tree(CATALOG, self.catalog_tree, &mut Entries(&entries)).await?;
        let finished = self.write_space().await?;
        self.write_out().await?;
        if !planted!(self.shared.plants, CkptPublishEarly) {
            self.sync_chunks().await?;
        }
        if !self.made.is_empty() {
            let synced = interruptible(|| self.shared.dir.sync()).await;
            synced.map_err(|error| StorageError::io("sync", "the directory", &error))?;
        }
        Ok(finished)
    }

    /// Frees the trees of tables that are not in the catalog.
    async fn drop_others(&mut self, catalog: &Catalog) -> Result<(), StorageError> {
        let bases = self.base.0.trees.iter().map(|(table, _)| *table);
        let all: BTreeSet<TableId> = bases.chain(self.trees.keys().copied()).collect();
        for table in all.into_iter().filter(|table| catalog.table(*table).is_none()) {
            if let Some(root) = self.tree(table) {
                self.drop_tree(table, root).await?;
            }
            self.trees.insert(table, None);
        }
        Ok(())
    }

    /// Entries of the catalog that are not those of the base.
    fn changed_entries(&self, catalog: &Catalog) -> Vec<([u8; catalog::ENTRY_KEY_BYTES], Option<Vec<u8>>)> {
        let base = &self.base.0;
        let ids: BTreeSet<TableId> = base.catalog.tables().chain(catalog.tables()).map(|table| table.id).collect();
        let mut changed = Vec::new();
        for id in ids {
            let before = base.catalog.table(id).map(|table| catalog::encode(table, encode_tree(base.tree(id))));
            let after = catalog.table(id).map(|table| catalog::encode(table, encode_tree(self.tree(id))));
            if before != after {
                changed.push((id.0.to_be_bytes(), after.map(|(_, value)| value)));
            }
        }
        changed
    }

    /// What says which pages are in use, pending.
    async fn write_space(&mut self) -> Result<Finished<E, B>, StorageError> {
        let changes = self.work.space.settle().map_err(no_page)?;
        let csn = self.to.csn;
        let (mut bitmaps, mut sealed) = (BTreeMap::new(), Vec::new());
        for (number, page, bits) in self.work.space.bitmaps() {
            let (header, body, child) = encode_bitmap::<B>(page, csn, number, bits);
            sealed.push((page, [&header[..], &body].concat()));
            bitmaps.insert(number, child);
        }
        let space = self.work.space.space(&bitmaps);
        let base = &self.base.0;
        let (mut directory, mut directory_pages) = (base.directory, base.directory_pages.clone());
        if changes {
            directory = None;
            directory_pages = self.work.space.directory().to_vec();
            let entries = entries(&space);
            let parts: Vec<_> = directory_pages.iter().zip(entries.chunks(entries_per_page::<B>())).collect();
            for (page, entries) in parts.into_iter().rev() {
                let (header, body, child) = encode_directory::<B>(*page, csn, directory, entries);
                sealed.push((*page, [&header[..], &body].concat()));
                directory = Some(child);
            }
        }
        sealed.into_iter().for_each(|(page, bytes)| self.work.add(page, Piece::Bytes(bytes)));
        // Each file of the space is open before the state is made of them.
        self.write_out().await?;
        let mut reader = self.reader.clone();
        reader.limit(&space);
        let old = self.base.0.trees.iter().map(|(table, root)| (*table, Some(*root)));
        let trees: BTreeMap<TableId, Tree> =
            old.chain(self.trees.iter().map(|(table, tree)| (*table, *tree))).collect();
        let trees = trees.into_iter().filter_map(|(table, tree)| Some((table, tree?))).collect();
        let catalog_tree = self.catalog_tree;
        Ok(Finished { catalog_tree, trees, reader, space, directory, directory_pages })
    }
}

impl<E: Env, const B: usize> Drop for PagesDraft<E, B> {
    fn drop(&mut self) {
        self.shared.end(self);
    }
}

impl<const B: usize> Piece<B> {
    fn pages(&self) -> u32 {
        match self {
            Piece::Node(..) => 1,
            Piece::Bytes(bytes) => (bytes.len() as u64 / page_bytes::<B>()) as u32,
        }
    }

    fn slices(&self) -> Vec<IoSlice<'_>> {
        match self {
            Piece::Node(header, node) => vec![IoSlice::new(header), IoSlice::new(node.body())],
            Piece::Bytes(bytes) => vec![IoSlice::new(bytes)],
        }
    }
}

/// Entries of the catalog as changes.
struct Entries<'a>(&'a [([u8; catalog::ENTRY_KEY_BYTES], Option<Vec<u8>>)]);

impl Changes for Entries<'_> {
    fn current(&self) -> Option<(&[u8], Option<&[u8]>)> {
        self.0.first().map(|(key, value)| (&key[..], value.as_deref()))
    }

    fn advance(&mut self) {
        self.0 = self.0.get(1..).unwrap_or_default();
    }
}
