//! New pages on their way into chunk files: they go to places that nobody needs, in pieces, and nothing leads to them yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IoSlice,
    sync::Arc,
    time::Duration,
};

use super::{
    Draft, FileOf, Names, Shared, Tree,
    chunk::{Chunk, ChunkHeader, name_of},
    format::{PAGE_HEADER_BYTES, Run},
    merge::Merge,
    node::{NewNode, NodeRef},
    page_bytes, run_pages,
    space::{DraftSpace, NoPage, Space},
    state::{InMemory, Reader, Stop},
};
use crate::{
    env::Env,
    plant::planted,
    txn::{
        blocks::{Blocks, Unplaced},
        ids::{PageNo, TableId},
        storage::{Changes, StorageError},
    },
};

/// Pages side by side that are written in one call.
const WRITE_PAGES: usize = 64;

/// Pieces are so many times smaller while somebody waits for a sync.
const SMALLER: u64 = 8;
/// Then the pause behind a piece is so many times as long as somebody waited for a sync last. (What others bring: docs/performance.md.)
const PAUSES: u32 = 3;
/// At most: one sync that was slow says little of the next.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// So many pieces are written before they are made durable, and so many while others wait for syncs: who waits behind that waits longest.
const BEHIND_PIECES: u64 = 8;
const BEHIND_PIECES_OF_OTHERS: u64 = 128;

/// Places for new pages, and what becomes of these until they are durable.
pub(super) struct Writing<E: Env, const B: usize> {
    shared: Arc<Shared<E, B>>,
    pub(super) reader: Reader<FileOf<E>, B>,
    pub(super) work: Work<B>,
    /// Files that were made.
    made: BTreeSet<u32>,
    /// How many syncs of the directory had failed when it began.
    failed_syncs: u64,
    /// Files with writes that are not durable.
    unsynced: BTreeSet<u32>,
    /// A write that was begun: should its future be dropped, it may yet take effect.
    flight: Option<(PageNo, u32)>,
    /// What was written that the disk was not asked to begin with.
    dirty: Vec<(PageNo, u32)>,
    /// Bytes that were written since the last sync.
    behind_bytes: u64,
    /// Who else used the disk at the last piece.
    others: Others,
}

/// Those who wait for syncs of something else, as of the last piece.
#[derive(Default)]
struct Others {
    /// How often somebody had.
    served: u64,
    /// How long that took, if somebody did meanwhile or still does.
    waited: Option<Duration>,
}

/// What a merge needs: places, and somewhere to leave pages until they are written.
pub(super) struct Work<const B: usize> {
    pub(super) space: DraftSpace<B>,
    blocks: Arc<Blocks<B>>,
    pending: BTreeMap<PageNo, Piece<B>>,
    pending_bytes: u64,
}

/// What becomes pages side by side.
pub(super) enum Piece<const B: usize> {
    Node([u8; PAGE_HEADER_BYTES], Unplaced<B>),
    Bytes(Vec<u8>),
}

/// What of the pages that are written is kept in memory, and when they become durable.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// All of them; each piece by itself.
    Pieces,
    /// Inner pages, if there is room; at the end. Leaves would push out what others read, and take new memory, which a machine can be
    /// slower with than with the disk.
    Whole,
}

impl<const B: usize> Work<B> {
    pub(super) fn add(&mut self, page: PageNo, piece: Piece<B>) {
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

    fn frame(&mut self) -> NewNode<B> {
        self.blocks.take()
    }

    fn write(&mut self, page: PageNo, header: [u8; PAGE_HEADER_BYTES], node: NodeRef<B>) {
        let node = Unplaced::new(node, &self.blocks);
        self.add(page, Piece::Node(header, node));
    }

    fn write_run(&mut self, run: &Run, value: &[u8]) {
        let mut bytes = value.to_vec();
        bytes.resize((run_pages::<B>(run.bytes) * page_bytes::<B>()) as usize, 0);
        self.add(run.page, Piece::Bytes(bytes));
    }
}

pub(super) fn no_page(none: NoPage) -> StorageError {
    let (kind, message) = match none {
        NoPage::TooLarge => (std::io::ErrorKind::FileTooLarge, "a value takes more pages than a chunk file can have"),
        NoPage::NoChunk => (std::io::ErrorKind::StorageFull, "no chunk file has a number any more"),
    };
    let message = message.to_owned();
    StorageError::Io { operation: "find room", file: "chunk files".to_owned(), kind, message }
}

impl<E: Env, const B: usize> Writing<E, B> {
    pub(super) fn new(shared: &Arc<Shared<E, B>>, reader: Reader<FileOf<E>, B>, space: DraftSpace<B>) -> Self {
        let blocks = Arc::clone(&reader.cache.blocks);
        Writing {
            shared: Arc::clone(shared),
            reader,
            work: Work { space, blocks, pending: BTreeMap::new(), pending_bytes: 0 },
            made: BTreeSet::new(),
            failed_syncs: shared.lock().names.failed,
            unsynced: BTreeSet::new(),
            flight: None,
            dirty: Vec::new(),
            behind_bytes: 0,
            others: Others::default(),
        }
    }

    /// Whether it has made files.
    pub(super) fn has_made(&self) -> bool {
        !self.made.is_empty()
    }

    /// Fails if files that it has made may have lost their names while others synced the directory.
    pub(super) fn has_its_names(&self) -> Result<(), StorageError> {
        let Names { failed, syncing } = self.shared.lock().names;
        if self.made.is_empty() || failed == self.failed_syncs && !syncing {
            return Ok(());
        }
        let lost = std::io::Error::other("a sync of it failed since files were made");
        Err(StorageError::io("sync", "the directory", &lost))
    }

    /// Files that it has made; from now on they are the caller's business.
    pub(super) fn take_made(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.made)
    }

    /// Files that were made and that this space doesn't name.
    pub(super) fn useless(&self, space: &Space) -> Vec<u32> {
        self.made.iter().copied().filter(|number| !space.contains_key(number)).collect()
    }

    /// A write that may yet take effect.
    pub(super) fn flight(&self) -> Option<(PageNo, u32)> {
        self.flight
    }

    /// Does a merge into a table's tree; what it replaced is free then. All of it is written.
    pub(super) async fn finish<C: Changes + Send>(
        &mut self,
        table: TableId,
        merge: &mut Merge<B>,
        changes: &mut C,
        pace: Pace,
    ) -> Result<Tree, StorageError> {
        let mut held = None;
        let merged = loop {
            let source = InMemory { reader: &self.reader, table, held: &held };
            match merge.step(&source, changes, &mut self.work) {
                Ok(Some(merged)) => break merged,
                Ok(None) if self.has_piece(pace) => self.write_piece(pace).await?,
                Ok(None) => {}
                Err(Stop::Missing(child)) => held = Some((child, self.reader.load(&child).await?)),
                Err(Stop::Failed(error)) => return Err(error),
            }
        };
        for replaced in &merged.replaced {
            self.free(replaced.page, replaced.pages)?;
        }
        // What a later merge reads is on the disk.
        self.write_out(pace).await?;
        Ok(merged.root)
    }

    /// Frees pages. That they were in use is checked: else a tree and the bitmaps contradict each other.
    pub(super) fn free(&mut self, page: PageNo, pages: u32) -> Result<(), StorageError> {
        if self.work.space.free(page, pages) {
            return Ok(());
        }
        let offset = u64::from(page.index) * page_bytes::<B>();
        let what = "a page of a tree is not in use, says the bitmap".to_owned();
        Err(StorageError::Corrupt { file: name_of(page.chunk), offset, what })
    }

    /// Whether enough is pending to be written: a small piece where somebody waits for a sync, since that goes behind it.
    pub(super) fn has_piece(&self, pace: Pace) -> bool {
        let small = pace == Pace::Pieces && self.others.waited.is_some();
        self.work.pending_bytes >= self.shared.piece_bytes / if small { SMALLER } else { 1 }
    }

    /// Writes what is pending, and lets others go on. A sync of each piece would be a commit of the file system's journal, for which all others
    /// wait; so the disk is only asked to begin, and left to those who wait for some of their syncs. No more comes together than it
    /// writes in a moment.
    pub(super) async fn write_piece(&mut self, pace: Pace) -> Result<(), StorageError> {
        self.write_out(pace).await?;
        if pace == Pace::Pieces {
            self.begin_write_back();
            self.others = self.others();
            let behind = if self.others.waited.is_some() { BEHIND_PIECES_OF_OTHERS } else { BEHIND_PIECES };
            if self.behind_bytes >= behind * self.shared.piece_bytes {
                self.sync().await?;
            }
            if let Some(waited) = self.others.waited {
                self.shared.env.sleep((waited * PAUSES).min(LONGEST_PAUSE)).await;
            }
        }
        self.shared.env.yield_now().await;
        Ok(())
    }

    /// Who waits for syncs now, or did since the last piece.
    fn others(&self) -> Others {
        let Some(waiting) = &self.shared.waiting else { return Others::default() };
        let served = waiting.served();
        let waited = (waiting.any() || served != self.others.served).then(|| waiting.last());
        Others { served, waited }
    }

    /// Writes what is pending, in the order of places.
    pub(super) async fn write_out(&mut self, pace: Pace) -> Result<(), StorageError> {
        self.behind_bytes += std::mem::take(&mut self.work.pending_bytes);
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
            self.dirty.push((first, end - first.index));
            let mut index = first.index;
            for piece in group {
                let pages = piece.pages();
                if let Piece::Node(_, node) = piece {
                    let cache = &self.reader.cache;
                    let inner = || node.page().is_some_and(|node| !node.is_leaf());
                    // (Else it goes back.)
                    if pace == Pace::Pieces || inner() && !cache.blocks.memory().is_beyond() {
                        node.place().into_iter().for_each(|node| cache.put(&chunk.frames, index, node));
                    } else if planted!(self.shared.plants, CkptBlockLost) {
                        std::mem::forget(node);
                    }
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
        let chunk = Arc::new(Chunk::create(dir, header, capacity, &cache.blocks).await?);
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

    /// Makes what was written durable.
    pub(super) async fn sync(&mut self) -> Result<(), StorageError> {
        while let Some(number) = self.unsynced.first().copied() {
            if let Some(chunk) = self.reader.chunk(number) {
                self.trust(number, chunk.sync().await)?;
            }
            self.unsynced.remove(&number);
        }
        self.dirty.clear();
        self.behind_bytes = 0;
        Ok(())
    }

    /// Asks the disk to begin with what was written since the last time.
    pub(super) fn begin_write_back(&mut self) {
        for (first, pages) in std::mem::take(&mut self.dirty) {
            if let Some(chunk) = self.reader.chunk(first.chunk) {
                chunk.begin_write_back(first.index, pages);
            }
        }
    }

    /// Takes over the files of another one, all of which it has made.
    pub(super) fn absorb(&mut self, mut other: Writing<E, B>) {
        for number in &other.made {
            if let Some(chunk) = other.reader.chunk(*number) {
                self.reader.add(chunk, other.work.space.capacity(*number));
            }
        }
        self.made.append(&mut other.made);
        if !planted!(self.shared.plants, CkptLoadUnsynced) {
            self.unsynced.append(&mut other.unsynced);
        }
        self.work.space.absorb(other.work.space);
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
            Piece::Node(header, node) => {
                let body = node.page().map_or(&[][..], |page| page.body());
                vec![IoSlice::new(header), IoSlice::new(body)]
            }
            Piece::Bytes(bytes) => vec![IoSlice::new(bytes)],
        }
    }
}
