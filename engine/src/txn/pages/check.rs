//! A look at all that the newest root leads to: every page against who names it, and the bitmaps against what is named.

use std::{collections::BTreeMap, io, sync::Arc};

use super::{
    CATALOG, Tree,
    chunk::{CHUNK_HEADER_BYTES, ChunkFlaw, ChunkHeader, name_of},
    directory::{Bitmap, ChunkEntry, bitmap_pages, decode_bitmap, decode_directory},
    format::{ChildRef, Run, page_at},
    node::{Flaw, Node, PageError, Stored},
    open::PagesExamined,
    page_bytes,
    root::{Root, decode_tree, file_of, root_at},
    run_pages,
};
use crate::{
    env::{Dir, Env, File, OpenMode, interruptible, read_at_most},
    txn::{
        catalog::{self, Catalog},
        check::{CheckReport, Wrong},
        ids::{PageNo, TableId},
    },
};

/// Pages between two moments at which others run.
const PAGES_AT_A_TIME: u64 = 64;

/// A walk over everything.
struct Check<'a, E: Env, const B: usize> {
    env: &'a E,
    dir: &'a E::Dir,
    root: &'a Root,
    report: &'a mut CheckReport,
    /// What was opened; `None` if it can't be.
    files: BTreeMap<u32, Option<Looked<<E::Dir as Dir>::File>>>,
    /// Something that leads to pages couldn't be read: what is named there isn't known.
    blind: bool,
}

/// A chunk file.
struct Looked<F> {
    file: Arc<F>,
    /// Its length.
    pages: u32,
    /// Those that anything names.
    named: Bitmap,
}

/// A page that is to be looked at.
struct Step {
    child: ChildRef,
    /// What its level must be, unless it is a tree's root.
    level: Option<u8>,
    /// Its keys are not below this, and below that.
    from: Option<Vec<u8>>,
    to: Option<Vec<u8>>,
}

impl<E: Env> PagesExamined<E> {
    /// Looks at all that the newest root leads to.
    pub(super) async fn check<const B: usize>(&self, report: &mut CheckReport) {
        let newest = self.copies.iter().flatten().max_by_key(|root| root.meta.sequence);
        let Some(root) = newest else { return };
        for other in self.copies.iter().flatten().filter(|other| other.meta.uuid != root.meta.uuid) {
            report.damage(file_of(other.meta.sequence), root_at::UUID as u64, Wrong::OtherStore);
        }
        let file = file_of(root.meta.sequence);
        if u64::from(root.page_bytes) != page_bytes::<B>() {
            let what = Wrong::Root(format!("pages of {} bytes, and not of {}", root.page_bytes, page_bytes::<B>()));
            return report.damage(file, root_at::PAGE_BYTES as u64, what);
        }
        if root.chunk_pages > bitmap_pages::<B>() {
            let what = Wrong::Root("chunk_pages can't be this".to_owned());
            return report.damage(file, root_at::CHUNK_PAGES as u64, what);
        }
        let (env, dir) = (&self.env, &self.dir);
        let mut check = Check::<E, B> { env, dir, root, report, files: BTreeMap::new(), blind: false };
        let chunks = check.directory().await;
        for table in check.catalog().await {
            check.tree(table.0, table.1, &mut Vec::new()).await;
        }
        let Some(chunks) = chunks else { return };
        check.compare(&chunks);
        let leftovers = self.chunks.iter().filter(|number| !chunks.iter().any(|(entry, _)| entry.chunk == **number));
        report.leftovers = leftovers.map(|number| name_of(*number)).collect();
    }
}

impl<E: Env, const B: usize> Check<'_, E, B> {
    fn page_error(&mut self, error: &PageError) {
        self.blind = true;
        let offset = u64::from(error.page.index) * page_bytes::<B>();
        self.report.damage(name_of(error.page.chunk), offset, Wrong::Page(error.what));
    }

    fn of_page(&mut self, page: PageNo, what: Wrong) {
        self.report.damage(name_of(page.chunk), u64::from(page.index) * page_bytes::<B>(), what);
    }

    fn of_root(&mut self, offset: usize, what: Wrong) {
        self.report.damage(file_of(self.root.meta.sequence), offset as u64, what);
    }

    /// The directory with its bitmaps, as far as they can be read; `None` if not all chunks are known.
    async fn directory(&mut self) -> Option<Vec<(ChunkEntry, Option<Bitmap>)>> {
        let (mut chunks, mut next, mut last) = (Vec::new(), self.root.directory, 0);
        while let Some(child) = next {
            let bytes = self.page(&child).await?;
            let (behind, entries) = match decode_directory::<B>(&bytes, &child) {
                Ok(read) => read,
                Err(error) => {
                    self.page_error(&error);
                    return None;
                }
            };
            for entry in entries {
                // (Ascending: so a chain of pages ends.)
                if entry.chunk <= last || entry.chunk >= self.root.next_chunk {
                    let what = format!("chunk {} of the directory is out of order", entry.chunk);
                    self.of_page(child.page, Wrong::Entry(what));
                    return None;
                }
                last = entry.chunk;
                if let Some(length) = self.file(entry.chunk).await.map(|(_, pages)| pages)
                    && length < entry.pages
                {
                    let offset = u64::from(length) * page_bytes::<B>();
                    self.report.damage(name_of(entry.chunk), offset, Wrong::Short);
                }
                let bits = match self.page(&entry.bitmap).await.map(|bytes| decode_bitmap::<B>(&bytes, &entry)) {
                    Some(Err(error)) => {
                        self.page_error(&error);
                        None
                    }
                    read => read.and_then(Result::ok),
                };
                chunks.push((entry, bits));
            }
            next = behind;
        }
        Some(chunks)
    }

    /// The trees of all tables that can be found.
    async fn catalog(&mut self) -> Vec<(TableId, Tree)> {
        let mut entries = Vec::new();
        self.tree(CATALOG, self.root.catalog, &mut entries).await;
        let (mut tables, mut trees) = (Vec::new(), Vec::new());
        for (page, key, value) in entries {
            let read = catalog::decode(&key, &value).map_err(|flaw| flaw.to_string());
            let read = read.and_then(|(table, tree)| {
                let tree = decode_tree(&tree).ok_or_else(|| "a table's tree can't be this".to_owned())?;
                Ok((table, tree))
            });
            match read {
                Ok((table, tree)) => {
                    trees.push((table.id, tree));
                    tables.push(table);
                }
                Err(flaw) => {
                    self.blind = true;
                    self.of_page(page, Wrong::Entry(flaw));
                }
            }
        }
        if let Err(flaw) = Catalog::assemble(self.root.meta.next_table, tables)
            && !self.blind
        {
            self.of_root(root_at::CATALOG, Wrong::Entry(flaw.to_string()));
        }
        trees
    }

    /// All pages of a tree. Of the catalog's the rows are put into `entries`, with the page that they stand in.
    async fn tree(&mut self, table: TableId, tree: Tree, entries: &mut Vec<(PageNo, Vec<u8>, Vec<u8>)>) {
        let first = |child| Step { child, level: None, from: None, to: None };
        let mut rest: Vec<Step> = tree.map(first).into_iter().collect();
        while let Some(Step { child, level, from, to }) = rest.pop() {
            let Some(bytes) = self.page(&child).await else { continue };
            let node = match Node::<B>::decode(&bytes, &child) {
                Ok(node) => node,
                Err(error) => {
                    self.page_error(&error);
                    continue;
                }
            };
            let flaw = |offset, what| PageError { page: child.page, offset, what };
            if level.is_some_and(|level| level != node.level()) {
                self.page_error(&flaw(page_at::LEVEL, Flaw::Level));
                continue;
            }
            if node.table() != table {
                self.page_error(&flaw(page_at::TABLE, Flaw::Table));
                continue;
            }
            let key = |index: usize| [node.prefix(), node.suffix(index)].concat();
            let own = usize::from(!node.is_leaf());
            let below = from.as_ref().is_some_and(|from| key(own) < *from);
            if below || to.as_ref().is_some_and(|to| key(node.len() - 1) >= *to) {
                self.of_page(child.page, Wrong::Range);
            }
            let mut runs = false;
            if node.is_leaf() {
                self.report.rows += if table == CATALOG { 0 } else { node.len() as u64 };
                for index in 0..node.len() {
                    let value = match node.value(index) {
                        Stored::Inline(value) => Some(value.to_vec()).filter(|_| table == CATALOG),
                        Stored::Run(run) => {
                            runs = true;
                            self.run(&run).await
                        }
                    };
                    if let Some(value) = value.filter(|_| table == CATALOG) {
                        entries.push((child.page, key(index), value));
                    }
                }
            } else {
                // The first one is looked at first.
                for index in (0..node.len()).rev() {
                    let below = node.child(index);
                    runs |= below.runs_below;
                    let from = if index == 0 { from.clone() } else { Some(key(index)) };
                    let to = if index + 1 == node.len() { to.clone() } else { Some(key(index + 1)) };
                    rest.push(Step { child: below, level: node.level().checked_sub(1), from, to });
                }
            }
            if runs && !child.runs_below {
                self.of_page(child.page, Wrong::Runs);
            }
        }
    }

    /// The bytes of a page that something names, if there are any, and nothing else names it.
    async fn page(&mut self, child: &ChildRef) -> Option<Vec<u8>> {
        self.bytes(child.page, 1, page_bytes::<B>()).await
    }

    /// The value that a run names; what is behind it in its last page is zero.
    async fn run(&mut self, run: &Run) -> Option<Vec<u8>> {
        let pages = run_pages::<B>(run.bytes);
        let mut bytes = self.bytes(run.page, pages, pages * page_bytes::<B>()).await?;
        let behind = bytes.split_off(bytes.len().min(run.bytes as usize));
        if bytes.len() as u64 != run.bytes || crc32fast::hash(&bytes) != run.crc {
            self.blind = true;
            self.of_page(run.page, Wrong::Value);
            return None;
        }
        if behind.iter().any(|byte| *byte != 0) {
            self.of_page(run.page, Wrong::Remainder);
        }
        Some(bytes)
    }

    /// So many bytes of pages side by side that something names. `None`, and it is reported, if they can't be had.
    async fn bytes(&mut self, page: PageNo, pages: u64, bytes: u64) -> Option<Vec<u8>> {
        let found = self.file(page.chunk).await;
        let Some((file, length)) = found else {
            self.blind = true;
            return None;
        };
        if page.index == 0 || u64::from(page.index) + pages > u64::from(length) {
            self.blind = true;
            self.of_page(page, Wrong::Beyond);
            return None;
        }
        let named = self.files.get_mut(&page.chunk).and_then(Option::as_mut).map(|looked| &mut looked.named)?;
        let range = page.index..page.index + pages as u32;
        if range.clone().any(|index| named.has(index)) {
            self.of_page(page, Wrong::Twice);
            return None;
        }
        named.set(page.index, pages as u32);
        if self.report.pages / PAGES_AT_A_TIME != (self.report.pages + pages) / PAGES_AT_A_TIME {
            self.env.yield_now().await;
        }
        self.report.pages += pages;
        let mut buffer = vec![0; bytes as usize];
        match read_at_most(&*file, &mut buffer, u64::from(page.index) * page_bytes::<B>()).await {
            Ok(read) => {
                buffer.truncate(read);
                Some(buffer)
            }
            Err(error) => {
                self.blind = true;
                self.of_page(page, Wrong::Unreadable(error.to_string()));
                None
            }
        }
    }

    /// A chunk file and its length in pages. What is wrong with it is reported once.
    async fn file(&mut self, number: u32) -> Option<(Arc<<E::Dir as Dir>::File>, u32)> {
        if !self.files.contains_key(&number) {
            let opened = self.open(number).await;
            self.files.insert(number, opened);
        }
        let looked = self.files.get(&number)?.as_ref()?;
        Some((Arc::clone(&looked.file), looked.pages))
    }

    async fn open(&mut self, number: u32) -> Option<Looked<<E::Dir as Dir>::File>> {
        let name = name_of(number);
        let mut head = vec![0; page_bytes::<B>() as usize];
        let opened: io::Result<_> = async {
            let file = interruptible(|| self.dir.open(&name, OpenMode::Read)).await?;
            let length = interruptible(|| file.len()).await?;
            let read = read_at_most(&file, &mut head, 0).await?;
            Ok((file, length, read))
        }
        .await;
        let (file, length, read) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let missing = error.kind() == io::ErrorKind::NotFound;
                let what = if missing { Wrong::Missing } else { Wrong::Unreadable(error.to_string()) };
                self.report.damage(name, 0, what);
                return None;
            }
        };
        let expected = ChunkHeader { page_bytes: self.root.page_bytes, uuid: self.root.meta.uuid, chunk: number };
        match ChunkHeader::decode(&head[..read]) {
            Ok(found) if found == expected => {}
            Ok(found) if found.uuid != expected.uuid => self.report.damage(&*name, 0, Wrong::OtherStore),
            Ok(_) => self.report.damage(&*name, 0, Wrong::Header("it is another chunk's".to_owned())),
            Err(ChunkFlaw::Newer) => self.report.damage(&*name, 0, Wrong::Newer),
            Err(ChunkFlaw::Field { offset, field }) => {
                self.report.damage(&*name, offset as u64, Wrong::Header(format!("{field} can't be this")));
            }
        }
        if head[..read].iter().skip(CHUNK_HEADER_BYTES).any(|byte| *byte != 0) {
            self.report.damage(name, CHUNK_HEADER_BYTES as u64, Wrong::Remainder);
        }
        let mut named = Bitmap::default();
        named.set(0, 1);
        let pages = u32::try_from(length / page_bytes::<B>()).unwrap_or(u32::MAX);
        Some(Looked { file: Arc::new(file), pages, named })
    }

    /// Which pages are in use, and which are named.
    fn compare(&mut self, chunks: &[(ChunkEntry, Option<Bitmap>)]) {
        for (entry, bits) in chunks {
            let named = self.files.get(&entry.chunk).and_then(Option::as_ref).map(|looked| looked.named.clone());
            let (Some(bits), Some(named)) = (bits, named) else { continue };
            self.differ(entry.chunk, &named, bits, Wrong::NotInUse);
            // What isn't known to be named may be.
            if !self.blind {
                self.differ(entry.chunk, bits, &named, Wrong::Lost);
            }
        }
        let known = |number: &u32| chunks.iter().any(|(entry, _)| entry.chunk == *number);
        let strangers: Vec<u32> = self.files.keys().copied().filter(|number| !known(number)).collect();
        for number in strangers {
            self.report.damage(
                name_of(number),
                0,
                Wrong::Entry("a page names it, and the directory doesn't".to_owned()),
            );
        }
    }

    /// Reports the pages that only the first of both has; those side by side as one.
    fn differ(&mut self, chunk: u32, one: &Bitmap, other: &Bitmap, what: fn(u32) -> Wrong) {
        let (mut index, end) = (0, one.end());
        while index < end {
            let count = (index..end).take_while(|bit| one.has(*bit) && !other.has(*bit)).count() as u32;
            if count > 0 {
                self.of_page(PageNo { chunk, index }, what(count));
            }
            index += count.max(1);
        }
    }
}
