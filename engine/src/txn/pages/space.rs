//! Where pages may be written: never where a state that somebody may still need has one.
//!
//! A page is free for a draft if it is
//! - (a) not in use at the newest root,
//! - (b) in no older state that lives, and
//! - (c) the newest root was released: before, a root that only the disk has might still be needed.
//!
//! A file grows only from the length that the newest root states. Pages that a draft frees are free for a later one.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{
    Tree,
    directory::{Bitmap, ChunkEntry, bitmap_pages, entries_per_page},
    format::ChildRef,
};
use crate::txn::ids::PageNo;

/// Which pages a root has, by chunk.
pub(super) type Space = BTreeMap<u32, ChunkSpace>;

/// A chunk file at one root.
#[derive(Clone, Debug)]
pub(super) struct ChunkSpace {
    /// Its length.
    pub(super) pages: u32,
    /// Which of them are in use.
    pub(super) live: Arc<Bitmap>,
    /// Where that is written.
    pub(super) bitmap: ChildRef,
}

/// What of a chunk file must not be relied on until the store is opened again.
#[derive(Clone, Debug, Default)]
pub(super) struct Unsure {
    /// A write to these may yet take effect.
    pub(super) pages: Bitmap,
}

/// Why there is no page to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPage {
    /// A value takes more pages than a chunk file can have.
    TooLarge,
    /// No chunk file has a number any more.
    NoChunk,
}

/// The space of a draft.
#[derive(Debug)]
pub(super) struct DraftSpace<const B: usize> {
    chunk_pages: u32,
    /// The number of the next chunk file, whoever makes it.
    next_chunk: Arc<AtomicU32>,
    chunks: BTreeMap<u32, DraftChunk>,
    /// The newest root's pages of the directory; `None` once they are freed, which is when anything changes.
    old_directory: Option<Vec<PageNo>>,
    directory: Vec<PageNo>,
    /// The planted bug: what is freed is reused at once.
    reuses: bool,
}

#[derive(Debug)]
struct DraftChunk {
    /// What it is at the newest root; `None` of a new one.
    base: Option<ChunkSpace>,
    live: Bitmap,
    /// How many these are.
    used: u32,
    /// Whether they are others than the base's, or its length is.
    touched: bool,
    /// What must not be written: by the rules, or since this draft has.
    blocked: Bitmap,
    pages: u32,
    capacity: u32,
    grows: bool,
    /// There is no single free page before this one.
    from: u32,
    /// There is no room for as many side by side.
    no_room: u32,
    /// Where its bitmap goes, if it has another one.
    bitmap: Option<PageNo>,
    /// Whether the base's bitmap page was freed: it changes.
    changes: bool,
}

impl<const B: usize> DraftSpace<B> {
    /// The space of a draft of the state that follows `base`. `older` are those of the other states that live.
    pub(super) fn new<'a>(
        base: &Space,
        older: impl Iterator<Item = &'a Space>,
        released: bool,
        unsure: &BTreeMap<u32, Unsure>,
        old_directory: Vec<PageNo>,
        (chunk_pages, next_chunk): (u32, &Arc<AtomicU32>),
    ) -> DraftSpace<B> {
        let mut chunks: BTreeMap<u32, DraftChunk> = BTreeMap::new();
        for (number, base) in base {
            let mut blocked = Bitmap::clone(&base.live);
            if !released {
                blocked.set(0, base.pages);
            }
            if let Some(unsure) = unsure.get(number) {
                blocked.unite(&unsure.pages);
            }
            let (live, used, pages) = (Bitmap::clone(&base.live), base.live.count(), base.pages);
            let grows = !unsure.contains_key(number);
            let base = Some(base.clone());
            let chunk =
                DraftChunk { base, live, used, blocked, grows, ..DraftChunk::new(pages, chunk_pages.max(pages)) };
            chunks.insert(*number, chunk);
        }
        for (number, space) in older.flatten() {
            if let Some(chunk) = chunks.get_mut(number) {
                chunk.blocked.unite(&space.live);
            }
        }
        let (old_directory, directory) = (Some(old_directory), Vec::new());
        let next_chunk = Arc::clone(next_chunk);
        DraftSpace { chunk_pages, next_chunk, chunks, old_directory, directory, reuses: false }
    }

    /// A space in chunk files of its own.
    pub(super) fn apart(chunk_pages: u32, next_chunk: &Arc<AtomicU32>) -> DraftSpace<B> {
        let none = std::iter::empty();
        DraftSpace::new(&Space::new(), none, true, &BTreeMap::new(), Vec::new(), (chunk_pages, next_chunk))
    }

    /// Takes over the chunk files of a space that has nothing but its own.
    pub(super) fn absorb(&mut self, mut other: DraftSpace<B>) {
        self.chunks.append(&mut other.chunks);
    }

    pub(super) fn reusing(self, reuses: bool) -> DraftSpace<B> {
        DraftSpace { reuses, ..self }
    }

    /// The first of so many free pages side by side; from now on they are in use.
    pub(super) fn allocate(&mut self, pages: u32) -> Result<PageNo, NoPage> {
        for (number, chunk) in &mut self.chunks {
            if let Some(index) = chunk.allocate(pages) {
                return Ok(PageNo { chunk: *number, index });
            }
        }
        let capacity =
            pages.checked_add(1).filter(|capacity| *capacity <= bitmap_pages::<B>()).ok_or(NoPage::TooLarge)?;
        let next = |number: u32| number.checked_add(1);
        let number = self.next_chunk.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let number = number.map_err(|_| NoPage::NoChunk)?;
        let mut chunk = DraftChunk::new(1, capacity.max(self.chunk_pages));
        chunk.live.set(0, 1);
        chunk.blocked.set(0, 1);
        chunk.used = 1;
        let index = chunk.allocate(pages).ok_or(NoPage::TooLarge)?;
        self.chunks.insert(number, chunk);
        Ok(PageNo { chunk: number, index })
    }

    /// Frees pages side by side; false if one of them wasn't in use.
    pub(super) fn free(&mut self, page: PageNo, pages: u32) -> bool {
        let Some(chunk) = self.chunks.get_mut(&page.chunk) else { return false };
        let freed = page.index > 0 && chunk.live.clear(page.index, pages);
        if freed {
            chunk.used -= pages;
            chunk.touched = true;
            if self.reuses {
                chunk.blocked.clear(page.index, pages);
                (chunk.from, chunk.no_room) = (1, u32::MAX);
            }
        }
        freed
    }

    /// How many pages a chunk's file has room for.
    pub(super) fn capacity(&self, chunk: u32) -> u32 {
        self.chunks.get(&chunk).map_or(0, |chunk| chunk.capacity)
    }

    /// Finds places for what says which pages are in use, and lets chunks go that have none. Whether anything is to be written.
    pub(super) fn settle(&mut self) -> Result<bool, NoPage> {
        loop {
            let old = self.chunks.values_mut().find(|chunk| !chunk.changes && (chunk.touched || chunk.is_empty()));
            if let Some(chunk) = old {
                chunk.changes = true;
                let freed = chunk.base.as_ref().map(|base| base.bitmap.page);
                let directory = self.old_directory.take().unwrap_or_default();
                for page in freed.into_iter().chain(directory) {
                    self.free(page, 1);
                }
                continue;
            }
            self.chunks.retain(|_, chunk| !chunk.is_empty() || chunk.bitmap.is_some());
            let homeless = self.chunks.iter().find(|(_, chunk)| chunk.changes && chunk.bitmap.is_none());
            if let Some(number) = homeless.map(|(number, _)| *number) {
                let page = self.allocate(1)?;
                if let Some(chunk) = self.chunks.get_mut(&number) {
                    chunk.bitmap = Some(page);
                }
                continue;
            }
            let changes = self.old_directory.is_none();
            if changes && self.directory.len() * entries_per_page::<B>() < self.chunks.len() {
                let page = self.allocate(1)?;
                self.directory.push(page);
                continue;
            }
            return Ok(changes);
        }
    }

    /// Chunks whose bitmaps are to be written, and where.
    pub(super) fn bitmaps(&self) -> impl Iterator<Item = (u32, PageNo, &Bitmap)> {
        self.chunks.iter().filter_map(|(number, chunk)| Some((*number, chunk.bitmap?, &chunk.live)))
    }

    /// Where the pages of the directory go.
    pub(super) fn directory(&self) -> &[PageNo] {
        &self.directory
    }

    /// The space of the new root, once the bitmaps have their checksums.
    pub(super) fn space(&self, bitmaps: &BTreeMap<u32, ChildRef>) -> Space {
        let space = self.chunks.iter().filter_map(|(number, chunk)| {
            let base = chunk.base.as_ref();
            let bitmap = bitmaps.get(number).copied().or(base.map(|base| base.bitmap))?;
            let live = match base {
                Some(base) if !chunk.touched => Arc::clone(&base.live),
                _ => Arc::new(chunk.live.clone()),
            };
            Some((*number, ChunkSpace { pages: chunk.pages, live, bitmap }))
        });
        space.collect()
    }
}

impl DraftChunk {
    fn new(pages: u32, capacity: u32) -> DraftChunk {
        DraftChunk {
            base: None,
            live: Bitmap::default(),
            used: 0,
            touched: false,
            blocked: Bitmap::default(),
            pages,
            capacity,
            grows: true,
            from: 1,
            no_room: u32::MAX,
            bitmap: None,
            changes: false,
        }
    }

    /// Nothing but the header.
    fn is_empty(&self) -> bool {
        self.used <= 1
    }

    fn allocate(&mut self, pages: u32) -> Option<u32> {
        let index = self.reuse(pages).or_else(|| self.grow(pages))?;
        self.live.set(index, pages);
        self.blocked.set(index, pages);
        self.used += pages;
        self.touched = true;
        Some(index)
    }

    fn reuse(&mut self, pages: u32) -> Option<u32> {
        if pages >= self.no_room {
            return None;
        }
        let found = self.blocked.room(self.from, pages, self.pages);
        match found {
            Some(index) if pages == 1 => self.from = index + 1,
            None => self.no_room = pages,
            Some(_) => {}
        }
        found
    }

    fn grow(&mut self, pages: u32) -> Option<u32> {
        let end = self.pages.checked_add(pages).filter(|end| self.grows && *end <= self.capacity)?;
        Some(std::mem::replace(&mut self.pages, end))
    }
}

/// What the directory says of a root's space.
pub(super) fn entries(space: &Space) -> Vec<ChunkEntry> {
    let entry = |(number, chunk): (&u32, &ChunkSpace)| ChunkEntry {
        chunk: *number,
        pages: chunk.pages,
        live: chunk.live.count(),
        bitmap: chunk.bitmap,
    };
    space.iter().map(entry).collect()
}

/// Whether what the space itself stands in is in use: its bitmaps, and the directory.
pub(super) fn covers(space: &Space, directory: &[PageNo], trees: impl IntoIterator<Item = Tree>) -> bool {
    let bitmaps = space.values().map(|chunk| chunk.bitmap.page);
    let roots = trees.into_iter().flatten().map(|root| root.page);
    let mut all = bitmaps.chain(directory.iter().copied()).chain(roots);
    all.all(|page| page.index > 0 && space.get(&page.chunk).is_some_and(|chunk| chunk.live.has(page.index)))
}
