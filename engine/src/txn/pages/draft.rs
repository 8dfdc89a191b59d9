//! A state being written: trees that are not the newest state's, and what says which pages are in use.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    FileOf, PagesBuild, Shared, Tree,
    chunk::corrupt_page,
    directory::{encode_bitmap, encode_directory, entries_per_page},
    format::ChildRef,
    merge::Merge,
    node::{NodeRef, Stored},
    root::encode_tree,
    run_pages,
    space::{DraftSpace, Space, entries},
    state::{PagesState, Reader},
    writing::{Pace, Piece, Writing, no_page},
};
use crate::{
    env::Env,
    plant::planted,
    txn::{
        catalog::{self, Catalog},
        ids::{PageNo, TableId},
        storage::{Changes, Point, StorageError},
    },
};

/// The catalog's number among tables.
pub(super) const CATALOG: TableId = TableId(0);

/// A draft of [`Pages`](super::Pages).
pub struct PagesDraft<E: Env, const B: usize> {
    pub(super) shared: Arc<Shared<E, B>>,
    pub(super) to: Point,
    pub(super) base: PagesState<E, B>,
    /// Trees that are not the base's.
    trees: BTreeMap<TableId, Tree>,
    catalog_tree: Tree,
    pub(super) writing: Writing<E, B>,
    /// Something failed or was interrupted: what there is of it makes no state.
    broken: bool,
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

impl<E: Env, const B: usize> PagesDraft<E, B> {
    pub(super) fn new(shared: &Arc<Shared<E, B>>, to: Point, base: PagesState<E, B>, space: DraftSpace<B>) -> Self {
        PagesDraft {
            shared: Arc::clone(shared),
            to,
            trees: BTreeMap::new(),
            catalog_tree: base.0.catalog_tree,
            writing: Writing::new(shared, base.0.reader.clone(), space),
            broken: false,
            base,
        }
    }

    /// A defect, for a test: pages that are in use, and that nothing will name.
    #[cfg(test)]
    pub(super) fn lose(&mut self, pages: u32) -> PageNo {
        self.writing.work.space.allocate(pages).expect("there are chunks")
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
        self.writing.finish(table, &mut merge, changes, Pace::Pieces).await
    }

    /// Takes a table that was built apart from it.
    pub(super) fn adopt(&mut self, build: PagesBuild<E, B>) -> Result<(), StorageError> {
        let (table, tree, writing) = build.complete()?;
        if self.tree(table).is_some() {
            return Err(StorageError::Broken);
        }
        if !planted!(self.shared.plants, CkptLoadNameless) {
            writing.has_its_names()?;
        }
        self.writing.absorb(writing);
        self.trees.insert(table, tree);
        Ok(())
    }

    /// Frees all pages of a tree.
    async fn drop_tree(&mut self, table: TableId, root: ChildRef) -> Result<(), StorageError> {
        let mut rest: Vec<(ChildRef, Option<NodeRef<B>>)> = vec![(root, None)];
        while let Some((child, above)) = rest.pop() {
            let node = self.writing.reader.page(table, &child).await?;
            above.map_or(Ok(()), |above| super::below(&node, &child, &above)).map_err(corrupt_page::<B>)?;
            self.writing.free(child.page, 1)?;
            for index in 0..node.len() {
                if node.is_leaf() {
                    if let Stored::Run(run) = node.value(index) {
                        self.writing.free(run.page, run_pages::<B>(run.bytes) as u32)?;
                    }
                    continue;
                }
                let child = node.child(index);
                if node.level() == 1 && !child.runs_below {
                    self.writing.free(child.page, 1)?;
                } else {
                    rest.push((child, Some(NodeRef::clone(&node))));
                }
            }
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
        self.writing.write_out(Pace::Pieces).await?;
        if !planted!(self.shared.plants, CkptPublishEarly) {
            self.writing.sync().await?;
        }
        if self.writing.has_made() {
            self.shared.sync_names().await?;
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
        let changes = self.writing.work.space.settle().map_err(no_page)?;
        let csn = self.to.csn;
        let (mut bitmaps, mut sealed) = (BTreeMap::new(), Vec::new());
        for (number, page, bits) in self.writing.work.space.bitmaps() {
            let (header, body, child) = encode_bitmap::<B>(page, csn, number, bits);
            sealed.push((page, [&header[..], &body].concat()));
            bitmaps.insert(number, child);
        }
        let space = self.writing.work.space.space(&bitmaps);
        let base = &self.base.0;
        let (mut directory, mut directory_pages) = (base.directory, base.directory_pages.clone());
        if changes {
            directory = None;
            directory_pages = self.writing.work.space.directory().to_vec();
            let entries = entries(&space);
            let parts: Vec<_> = directory_pages.iter().zip(entries.chunks(entries_per_page::<B>())).collect();
            for (page, entries) in parts.into_iter().rev() {
                let (header, body, child) = encode_directory::<B>(*page, csn, directory, entries);
                sealed.push((*page, [&header[..], &body].concat()));
                directory = Some(child);
            }
        }
        sealed.into_iter().for_each(|(page, bytes)| self.writing.work.add(page, Piece::Bytes(bytes)));
        // Each file of the space is open before the state is made of them.
        self.writing.write_out(Pace::Pieces).await?;
        let mut reader = self.writing.reader.clone();
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
