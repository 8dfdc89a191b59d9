//! What is found in a directory, and what is made of it: the newest root that can be read, checked down to the catalog, without a write.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Control, Pages, Shared, Tree,
    cache::Cache,
    chunk::{Chunk, ChunkHeader, corrupt_page, name_of, number_of},
    cursor::Direction,
    directory::{bitmap_pages, decode_bitmap, decode_directory},
    draft::CATALOG,
    format::ChildRef,
    page_bytes,
    root::{LEAST_CHUNK_PAGES, ROOT_BYTES, ROOT_FILES, Root, RootFlaw, decode_tree, file_of, root_at},
    space::{ChunkSpace, Space, covers},
    state::{PagesCursor, PagesState, Reader, RootState},
};
use crate::{
    env::{Dir, Env, interruptible},
    txn::{
        catalog::{self, Catalog},
        ids::PageNo,
        storage::{
            Birth, Cursor, RootCopy, Roots, StorageError, StorageOptions,
            files::{prepare, put_in_place, read_whole},
        },
    },
};

/// Chunk files are never longer, in bytes.
const CHUNK_LIMIT_BYTES: u64 = 256 << 20;

/// What [`Pages`] found.
#[derive(Debug)]
pub struct PagesExamined<E: Env> {
    pub(super) env: E,
    pub(super) dir: E::Dir,
    options: StorageOptions,
    pub(super) roots: Roots,
    pub(super) copies: [Option<Root>; 2],
    /// The numbers of all chunk files.
    pub(super) chunks: Vec<u32>,
}

impl<E: Env> PagesExamined<E> {
    pub(super) async fn new(env: &E, dir: &E::Dir, options: &StorageOptions) -> Result<Self, StorageError> {
        let listed = interruptible(|| dir.list()).await;
        let listed = listed.map_err(|error| StorageError::io("list", "the directory", &error))?;
        let chunks: Vec<u32> = listed.iter().filter_map(|entry| number_of(entry.name.to_str()?)).collect();
        let mut copies = [None; 2];
        let mut roots = Roots { copies: Vec::new(), has_chunks: !chunks.is_empty() };
        for (name, found) in ROOT_FILES.into_iter().zip(&mut copies) {
            let copy = match read_whole(dir, name, ROOT_BYTES as u64).await?.map(|bytes| decode_at(name, &bytes)) {
                None => RootCopy::Absent,
                Some(Err(RootFlaw::Newer)) => RootCopy::Newer,
                Some(Err(RootFlaw::Field { offset, field })) => {
                    RootCopy::Unreadable { offset: offset as u64, what: format!("{field} can't be this") }
                }
                Some(Ok(root)) => {
                    *found = Some(root);
                    RootCopy::Root(root.meta)
                }
            };
            roots.copies.push((name, copy));
        }
        Ok(PagesExamined { env: env.clone(), dir: dir.clone(), options: options.clone(), roots, copies, chunks })
    }

    pub(super) async fn load<const B: usize>(self) -> Result<Pages<E, B>, StorageError> {
        let newer = self.roots.copies.iter().find(|(_, copy)| *copy == RootCopy::Newer);
        if let Some((name, _)) = newer {
            return Err(StorageError::NewerVersion { file: (*name).to_owned() });
        }
        let found = self.copies.iter().flatten().max_by_key(|root| root.meta.sequence);
        let root = *found.ok_or(StorageError::NoRoot)?;
        if let Some(other) = self.copies.iter().flatten().find(|other| other.meta.uuid != root.meta.uuid) {
            return Err(StorageError::OtherStore { file: file_of(other.meta.sequence).to_owned() });
        }
        let ours = page_bytes::<B>() as u32;
        if root.page_bytes != ours {
            return Err(StorageError::PageBytes { store: root.page_bytes, ours });
        }
        if root.chunk_pages > bitmap_pages::<B>() {
            let (file, offset) = (file_of(root.meta.sequence).to_owned(), root_at::CHUNK_PAGES as u64);
            return Err(StorageError::Corrupt { file, offset, what: "chunk_pages can't be this".to_owned() });
        }
        let cache = Cache::new(&self.options);
        let loading = Loading { dir: &self.dir, root: &root, reader: Reader::new(&cache), lengths: BTreeMap::new() };
        let state = loading.finish::<E>().await?;
        let orphans = self.chunks.iter().filter(|number| **number < root.next_chunk);
        let orphans = orphans.copied().filter(|number| !state.0.space.contains_key(number)).collect();
        let useless = self.chunks.iter().copied().filter(|number| *number >= root.next_chunk).collect();
        let exists = self.roots.copies.iter().map(|(_, copy)| *copy != RootCopy::Absent);
        let mut control = Control::new(state);
        control.exists = exists.collect();
        control.doomed = vec![(root.meta.sequence, orphans)];
        control.useless = useless;
        Ok(self.shared(cache, &root, control))
    }

    pub(super) async fn create<const B: usize>(self, birth: Birth) -> Result<Pages<E, B>, StorageError> {
        let most = bitmap_pages::<B>().min((CHUNK_LIMIT_BYTES / page_bytes::<B>()) as u32);
        let chunk_pages = u32::try_from(self.options.chunk_bytes / page_bytes::<B>()).unwrap_or(u32::MAX);
        let catalog = Arc::new(Catalog::new());
        let meta = birth.root(&catalog, self.env.wall_ns());
        let root = Root {
            meta,
            page_bytes: page_bytes::<B>() as u32,
            next_chunk: 1,
            chunk_pages: chunk_pages.clamp(LEAST_CHUNK_PAGES, most),
            catalog: None,
            directory: None,
        };
        prepare(&self.dir, &root.encode()).await?;
        put_in_place(&self.dir, file_of(0)).await?;
        let cache = Cache::new(&self.options);
        let state = PagesState(Arc::new(RootState {
            meta,
            catalog,
            catalog_tree: None,
            trees: Vec::new(),
            reader: Reader::new(&cache),
            space: Space::new(),
            directory: None,
            directory_pages: Vec::new(),
        }));
        let mut control = Control::new(state);
        control.exists = vec![true, false];
        control.highest = Some(0);
        Ok(self.shared(cache, &root, control))
    }

    fn shared<const B: usize>(self, cache: Arc<Cache<B>>, root: &Root, control: Control<E, B>) -> Pages<E, B> {
        Pages(Arc::new(Shared {
            env: self.env,
            dir: self.dir,
            cache,
            uuid: root.meta.uuid,
            chunk_pages: root.chunk_pages,
            piece_bytes: self.options.piece_bytes.max(page_bytes::<B>()),
            waiting: self.options.waiting.clone(),
            plants: self.options.plants(),
            next_chunk: Arc::new(root.next_chunk.into()),
            control: control.into(),
        }))
    }
}

/// A copy at its place: one that belongs into the other file is none.
fn decode_at(name: &str, bytes: &[u8]) -> Result<Root, RootFlaw> {
    let root = Root::decode(bytes)?;
    let misplaced = RootFlaw::Field { offset: root_at::SEQUENCE, field: "sequence" };
    if file_of(root.meta.sequence) == name { Ok(root) } else { Err(misplaced) }
}

/// A root on the way to a state.
struct Loading<'a, D: Dir, const B: usize> {
    dir: &'a D,
    root: &'a Root,
    reader: Reader<D::File, B>,
    /// Of open files, in bytes.
    lengths: BTreeMap<u32, u64>,
}

impl<D: Dir, const B: usize> Loading<'_, D, B> {
    async fn finish<E: Env<Dir = D>>(mut self) -> Result<PagesState<E, B>, StorageError> {
        let (space, directory_pages) = self.space().await?;
        self.reader.limit(&space);
        let Root { meta, catalog: catalog_tree, directory, .. } = *self.root;
        let state = |catalog, trees, reader, space, directory_pages| {
            PagesState(Arc::new(RootState {
                meta,
                catalog,
                catalog_tree,
                trees,
                reader,
                space,
                directory,
                directory_pages,
            }))
        };
        let bare = state(Arc::default(), Vec::new(), self.reader.clone(), Space::new(), Vec::new());
        let (catalog, trees) = self.catalog(bare).await?;
        let roots = trees.iter().map(|(_, root)| Some(*root)).chain([catalog_tree]);
        if !covers(&space, &directory_pages, roots) {
            let what = "pages that the root needs are not in use, say the bitmaps";
            return Err(self.corrupt(root_at::DIRECTORY, what));
        }
        Ok(state(Arc::new(catalog), trees, self.reader, space, directory_pages))
    }

    fn corrupt(&self, offset: usize, what: &str) -> StorageError {
        let file = file_of(self.root.meta.sequence).to_owned();
        StorageError::Corrupt { file, offset: offset as u64, what: what.to_owned() }
    }

    /// The directory, and the bitmaps of its chunks.
    async fn space(&mut self) -> Result<(Space, Vec<PageNo>), StorageError> {
        let (mut space, mut pages, mut next) = (Space::new(), Vec::new(), self.root.directory);
        let mut last = 0;
        while let Some(child) = next {
            let bytes = self.read(&child).await?;
            let (behind, entries) = decode_directory::<B>(&bytes, &child).map_err(corrupt_page::<B>)?;
            for entry in entries {
                // (Ascending: so a chain of pages ends.)
                if entry.chunk <= last || entry.chunk >= self.root.next_chunk {
                    return Err(self.corrupt(root_at::DIRECTORY, "chunks in the directory are out of order"));
                }
                last = entry.chunk;
                self.open(entry.chunk).await?;
                let length = self.lengths.get(&entry.chunk).copied().unwrap_or_default();
                if length < u64::from(entry.pages) * page_bytes::<B>() {
                    let (file, what) = (name_of(entry.chunk), "the file is shorter than it was".to_owned());
                    return Err(StorageError::Corrupt { file, offset: length, what });
                }
                let bytes = self.read(&entry.bitmap).await?;
                let live = decode_bitmap::<B>(&bytes, &entry).map_err(corrupt_page::<B>)?;
                let chunk = ChunkSpace { pages: entry.pages, live: Arc::new(live), bitmap: entry.bitmap };
                space.insert(entry.chunk, chunk);
            }
            pages.push(child.page);
            next = behind;
        }
        Ok((space, pages))
    }

    /// The bytes of a page that is none of a tree.
    async fn read(&mut self, child: &ChildRef) -> Result<Vec<u8>, StorageError> {
        let chunk = self.open(child.page.chunk).await?;
        chunk.read(child.page.index, page_bytes::<B>()).await
    }

    async fn open(&mut self, number: u32) -> Result<Arc<Chunk<D::File, B>>, StorageError> {
        if let Some(chunk) = self.reader.chunk(number) {
            return Ok(Arc::clone(chunk));
        }
        let header = ChunkHeader { page_bytes: page_bytes::<B>() as u32, uuid: self.root.meta.uuid, chunk: number };
        let blocks = &self.reader.cache.blocks;
        let (chunk, length) = Chunk::open(self.dir, header, self.root.chunk_pages, blocks).await?;
        let chunk = Arc::new(chunk);
        self.reader.cache.add(&chunk.frames);
        self.reader.add(&chunk, 0);
        self.lengths.insert(number, length);
        Ok(chunk)
    }

    /// All entries of the catalog.
    async fn catalog<E: Env<Dir = D>>(
        &self,
        bare: PagesState<E, B>,
    ) -> Result<(Catalog, Vec<(crate::txn::ids::TableId, ChildRef)>), StorageError> {
        let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
        let mut cursor = PagesCursor::new(bare, CATALOG, self.root.catalog, all, Direction::Forward);
        let (mut tables, mut trees) = (Vec::new(), Vec::new());
        while cursor.advance().await? {
            let Some((key, value)) = cursor.current() else { break };
            let damaged = |what: String| self.corrupt(root_at::CATALOG, &what);
            let (table, tree) = catalog::decode(key, value).map_err(|flaw| damaged(flaw.to_string()))?;
            let tree: Tree = decode_tree(&tree).ok_or_else(|| damaged("a table's tree can't be this".to_owned()))?;
            trees.extend(tree.map(|root| (table.id, root)));
            tables.push(table);
        }
        let catalog = Catalog::assemble(self.root.meta.next_table, tables);
        let catalog = catalog.map_err(|flaw| self.corrupt(root_at::CATALOG, &flaw.to_string()))?;
        Ok((catalog, trees))
    }
}
