//! One file: what the process sees, what the disk holds, and the ordered effects between the two.
//!
//! The live view is always complete; only a crash, a failed sync or an eviction consults the effects. Pages are shared
//! between views, versions and crash images, and copied when one of them changes.

use std::{collections::BTreeSet, sync::Arc};

use super::{draw::Draw, keep::Part, op::prepared};
use crate::prng::Prng;

/// Bytes in a page: the unit of the cache, of eviction, and of what a killed write leaves.
pub const PAGE_BYTES: usize = 4096;

/// `None` is a page of zeros that was never allocated.
pub(super) type Page = Option<Arc<[u8; PAGE_BYTES]>>;

const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// What a sync covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cover {
    /// Data only: not the length.
    Pages,
    /// Data, and the length needed to read it back: not a shrink.
    Data,
    /// Data and length.
    All,
}

/// The content of a file: a length and pages. Bytes of the last page past the length are zero in a live view.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) len: u64,
    pages: Vec<Page>,
}

/// Sectors of one page as one write left them.
#[derive(Clone, Debug)]
struct Version {
    seq: u64,
    page: u32,
    /// Which sectors of the page: bit `n` is sector `n`.
    sectors: u8,
    /// Those of them that were pending already: they may land as a mix with what came before.
    mixed: u8,
    /// Zeros of a shrink; lands with the length that the shrink set, or without it.
    cut: bool,
    content: Page,
}

impl Version {
    /// The whole page was cut off. What is written there later goes to a page of its own, and mixes with nothing before.
    fn gone(&self) -> bool {
        self.cut && self.content.is_none()
    }
}

#[derive(Clone, Copy, Debug)]
struct Resize {
    seq: u64,
    len: u64,
}

/// A file with its pending effects.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    /// The directory it was created in: files of one directory reuse each other's blocks.
    pub(super) home: u32,
    pub(super) live: View,
    pub(super) disk: View,
    /// In the order of the writes.
    versions: Vec<Version>,
    resizes: Vec<Resize>,
    /// For each page, the sectors with pending versions.
    dirty: Vec<u8>,
    /// The live view holds something that is neither pending nor on the disk: a sync failed.
    diverged: bool,
}

impl View {
    pub(super) fn page(&self, index: usize) -> &[u8; PAGE_BYTES] {
        match self.pages.get(index) {
            Some(Some(page)) => page,
            _ => &ZEROS,
        }
    }

    pub(super) fn allocated(&self) -> u64 {
        self.pages.iter().flatten().count() as u64
    }

    fn holds(&self, index: usize) -> bool {
        matches!(self.pages.get(index), Some(Some(_)))
    }

    fn set(&mut self, index: usize, page: Page) {
        if index >= self.pages.len() {
            if page.is_none() {
                return;
            }
            self.pages.resize(index + 1, None);
        }
        self.pages[index] = page;
    }

    fn page_mut(&mut self, index: usize) -> &mut [u8; PAGE_BYTES] {
        if index >= self.pages.len() {
            self.pages.resize(index + 1, None);
        }
        Arc::make_mut(self.pages[index].get_or_insert_with(|| Arc::new(ZEROS)))
    }

    /// Writes into one page; a whole one takes the place of what was there.
    fn put(&mut self, index: usize, start: usize, data: &[u8]) {
        match <&[u8; PAGE_BYTES]>::try_from(data) {
            Ok(page) if prepared(data) || *page == ZEROS => self.set(index, Some(zeros())),
            Ok(page) => self.set(index, Some(Arc::new(*page))),
            Err(_) => self.page_mut(index)[start..start + data.len()].copy_from_slice(data),
        }
    }

    /// Copies the sectors of `mask` out of `from`.
    fn land(&mut self, index: usize, mask: u8, from: &Page, sector_bytes: usize) {
        if mask == full(sector_bytes) {
            self.set(index, from.clone());
            return;
        }
        let source: &[u8; PAGE_BYTES] = from.as_deref().unwrap_or(&ZEROS);
        let page = self.page_mut(index);
        for range in sectors(mask, sector_bytes) {
            page[range.clone()].copy_from_slice(&source[range]);
        }
    }

    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let length = (buf.len() as u64).min(self.len.saturating_sub(offset)) as usize;
        for (index, start, range) in pieces(offset, length) {
            buf[range.clone()].copy_from_slice(&self.page(index)[start..start + range.len()]);
        }
        length
    }

    /// How many bytes from `offset` on lie in pages that are known to be zeros, up to the end.
    pub(super) fn known_zeros(&self, offset: u64) -> u64 {
        let zeros = zeros();
        let known = |page: &Page| page.as_ref().is_none_or(|page| Arc::ptr_eq(page, &zeros));
        let first = (offset / PAGE_BYTES as u64) as usize;
        let behind = self.pages.get(first..).unwrap_or_default();
        let end = match behind.iter().position(|page| !known(page)) {
            Some(pages) => ((first + pages) * PAGE_BYTES) as u64,
            None => self.len,
        };
        end.min(self.len).saturating_sub(offset)
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        for (index, start, range) in pieces(offset, data.len()) {
            self.put(index, start, &data[range]);
        }
        self.len = self.len.max(offset + data.len() as u64);
    }

    /// Sets the length and drops what lies past it.
    pub(super) fn cut(&mut self, len: u64) {
        self.len = len;
        self.pages.truncate(len.div_ceil(PAGE_BYTES as u64) as usize);
        let tail = (len % PAGE_BYTES as u64) as usize;
        if tail != 0 && self.holds((len / PAGE_BYTES as u64) as usize) {
            let index = (len / PAGE_BYTES as u64) as usize;
            // Look before copying a shared page.
            if self.page(index)[tail..] != ZEROS[tail..] {
                self.page_mut(index)[tail..].fill(0);
            }
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        self.read(0, &mut bytes);
        bytes
    }

    /// Whether both consist of the same pages: then they hold the same bytes, without a look at one of them.
    pub(super) fn shares_all(&self, other: &View) -> bool {
        let shared = |(one, two): (&Page, &Page)| one.as_ref().map(Arc::as_ptr) == two.as_ref().map(Arc::as_ptr);
        self.len == other.len
            && self.pages.len() == other.pages.len()
            && self.pages.iter().zip(&other.pages).all(shared)
    }

    pub(super) fn same(&self, other: &View) -> bool {
        self.len == other.len
            && (0..self.pages.len().max(other.pages.len())).all(|index| {
                let (one, two) = (self.page(index), other.page(index));
                std::ptr::eq(one, two) || one == two
            })
    }
}

impl Inode {
    pub(super) fn empty(home: u32) -> Inode {
        Inode { home, ..Inode::default() }
    }

    /// A file whose content is durable already.
    pub(super) fn durable(home: u32, content: &[u8]) -> Inode {
        let mut disk = View::default();
        disk.write(0, content);
        Inode { live: disk.clone(), disk, ..Inode::empty(home) }
    }

    /// Whether a crash now would change nothing.
    pub(super) fn settled(&self) -> bool {
        self.versions.is_empty() && self.resizes.is_empty() && !self.diverged
    }

    pub(super) fn diverged(&self) -> bool {
        self.diverged
    }

    /// How many pages a write would have to allocate.
    pub(super) fn missing(&self, offset: u64, length: usize) -> u64 {
        pieces(offset, length).filter(|(index, ..)| !self.live.holds(*index)).count() as u64
    }

    pub(super) fn write(&mut self, seq: u64, offset: u64, data: &[u8], sector_bytes: usize) {
        for (index, start, range) in pieces(offset, data.len()) {
            let end = start + range.len();
            self.live.put(index, start, &data[range]);
            let sectors = covering(start, end, sector_bytes);
            self.push(seq, index, sectors, false);
        }
        let end = offset + data.len() as u64;
        if end > self.live.len {
            self.live.len = end;
            self.resizes.push(Resize { seq, len: end });
        }
    }

    pub(super) fn set_len(&mut self, seq: u64, len: u64, sector_bytes: usize) {
        let old = self.live.len;
        if len == old {
            return;
        }
        if len < old {
            self.live.cut(len);
            // Piece by piece, as a write of zeros over what is cut would go.
            for (index, start, range) in pieces(len, (old - len) as usize) {
                let end = start + range.len();
                let pending = self.dirty.get(index).is_some_and(|&dirty| dirty != 0);
                if self.disk.holds(index) || pending {
                    self.push(seq, index, covering(start, end, sector_bytes), true);
                }
            }
        }
        self.live.len = len;
        self.resizes.push(Resize { seq, len });
    }

    fn push(&mut self, seq: u64, index: usize, sectors: u8, cut: bool) {
        if index >= self.dirty.len() {
            self.dirty.resize(index + 1, 0);
        }
        let mut mixed = sectors & self.dirty[index];
        self.dirty[index] |= sectors;
        if mixed != 0
            && (self.versions.iter().rev()).find(|version| version.page == index as u32).is_some_and(Version::gone)
        {
            mixed = 0;
        }
        let content = self.live.pages.get(index).cloned().flatten();
        self.versions.push(Version { seq, page: index as u32, sectors, mixed, cut, content });
    }

    /// A sync that began when `upto` was the newest effect has completed.
    pub(super) fn sync(&mut self, upto: u64, cover: Cover, sector_bytes: usize) {
        let covered = self.resizes.partition_point(|resize| resize.seq <= upto);
        let last = covered.checked_sub(1).map(|index| self.resizes[index]);
        // Zeros of a shrink are durable with the shrink: a data sync that doesn't owe the shrink leaves both pending.
        let lengths = match (cover, last) {
            (Cover::All, _) | (Cover::Data, None) => true,
            (Cover::Data, Some(last)) => last.len >= self.disk.len,
            (Cover::Pages, _) => false,
        };
        self.land_data(upto, lengths, sector_bytes);
        if let Some(last) = last {
            if lengths {
                if last.len < self.disk.len {
                    self.disk.cut(last.len);
                }
                self.disk.len = last.len;
                self.resizes.drain(..covered);
            } else if cover == Cover::Data {
                // Only the lengths in between are gone for good: they would cut off what was just made durable.
                self.resizes.drain(..covered - 1);
            }
        }
        self.after_landing();
    }

    /// A synced write of this range has completed, the newest effect: its sectors are durable, with the length that they
    /// need, and nothing else is.
    pub(super) fn sync_range(&mut self, offset: u64, length: usize, sector_bytes: usize) {
        let mut versions = std::mem::take(&mut self.versions);
        for (index, start, range) in pieces(offset, length) {
            let sectors = covering(start, start + range.len(), sector_bytes);
            for version in versions.iter_mut().filter(|version| version.page as usize == index) {
                self.disk.land(index, version.sectors & sectors, &version.content, sector_bytes);
                version.sectors &= !sectors;
            }
        }
        versions.retain(|version| version.sectors != 0);
        self.versions = versions;
        if let Some(last) = self.resizes.last().copied()
            && last.len >= self.disk.len
        {
            self.disk.len = last.len;
            self.resizes.clear();
        }
        self.after_landing();
    }

    fn land_data(&mut self, upto: u64, with_cuts: bool, sector_bytes: usize) {
        let covered = self.versions.partition_point(|version| version.seq <= upto);
        let has_cuts = !with_cuts && self.versions[..covered].iter().any(|version| version.cut);
        let mut left = Vec::new();
        for index in 0..covered {
            let mut version = self.versions[index].clone();
            if has_cuts && version.cut {
                // Zeros that were overwritten since are superseded; the others wait for their length.
                for later in &self.versions[index + 1..covered] {
                    if later.page == version.page && !later.cut {
                        version.sectors &= !later.sectors;
                    }
                }
                if version.sectors != 0 {
                    left.push(version);
                }
                continue;
            }
            self.disk.land(version.page as usize, version.sectors, &version.content, sector_bytes);
        }
        self.versions.splice(..covered, left);
    }

    /// Pending sectors anew. What was written while the sync ran may mix with what the sync wrote: `mixed` stays set.
    fn after_landing(&mut self) {
        self.dirty.fill(0);
        for version in &self.versions {
            self.dirty[version.page as usize] |= version.sectors;
        }
    }

    /// A sync that began when `upto` was the newest effect has failed: what it covered may or may not have reached the
    /// disk, and nobody will write it again.
    pub(super) fn fail_sync(&mut self, upto: u64, sector_bytes: usize, prng: &mut Prng) {
        let covered = self.versions.partition_point(|version| version.seq <= upto);
        let later = self.versions.split_off(covered);
        let mut draw = Draw::odds(prng, 128);
        self.land_drawn(0, None, sector_bytes, &mut draw);
        self.versions = later;
        let covered = self.resizes.partition_point(|resize| resize.seq <= upto);
        if covered > 0 {
            // The length goes its own way: on the disk, still to be written by the next sync, or forgotten.
            let last = self.resizes[covered - 1];
            match prng.below(3) {
                0 => {
                    if last.len < self.disk.len {
                        self.disk.cut(last.len);
                    }
                    self.disk.len = last.len;
                    self.resizes.drain(..covered);
                }
                1 => {}
                _ => {
                    self.resizes.drain(..covered);
                }
            }
        }
        self.diverged = true;
        self.after_landing();
    }

    /// The cache forgets its clean pages; true if a reader can tell.
    pub(super) fn evict(&mut self) -> bool {
        let mut changed = false;
        for index in 0..self.live.len.div_ceil(PAGE_BYTES as u64) as usize {
            if self.dirty.get(index).is_none_or(|&dirty| dirty == 0) && self.live.page(index) != self.disk.page(index) {
                let page = self.disk.pages.get(index).cloned().flatten();
                self.live.set(index, page);
                changed = true;
            }
        }
        let len = self.live.len;
        self.live.cut(len);
        changed
    }

    /// A power cut: the disk holds a legal subset of what was pending, and the live view is what the disk holds.
    pub(super) fn crash(&mut self, stale: Option<&View>, sector_bytes: usize, draw: &mut Draw<'_>) {
        let chosen = draw.prefix(self.resizes.iter().map(|resize| resize.seq));
        let mut shrunk = 0;
        if let Some(resize) = chosen.checked_sub(1).map(|index| self.resizes[index]) {
            self.disk.len = resize.len;
            shrunk = resize.seq;
        }
        self.land_drawn(shrunk, stale, sector_bytes, draw);
        self.reset();
    }

    /// Keeps only what the disk holds.
    pub(super) fn reset(&mut self) {
        let len = self.disk.len;
        self.disk.cut(len);
        self.live = self.disk.clone();
        self.versions.clear();
        self.resizes.clear();
        self.dirty.clear();
        self.diverged = false;
    }

    /// Everything that is pending lands.
    pub(super) fn land_all(&mut self, sector_bytes: usize) {
        self.sync(u64::MAX, Cover::All, sector_bytes);
        self.reset();
    }

    /// What is kept of the pending effects lands, newest content first or not at all. Bytes that a kept shrink cut off stay
    /// gone.
    pub(super) fn land_part(&mut self, part: &Part<'_>, sector_bytes: usize) {
        let mut shrunk = 0;
        if let Some(resize) = self.resizes.last().filter(|_| part.keeps_length()) {
            self.disk.len = resize.len;
            shrunk = resize.seq;
        }
        let per_page = (PAGE_BYTES / sector_bytes) as u64;
        for version in std::mem::take(&mut self.versions) {
            let first = u64::from(version.page) * per_page;
            let forced = version.cut && version.seq <= shrunk;
            let landing = (0..per_page).filter(|sector| forced || part.keeps(first + sector));
            let mask = version.sectors & landing.fold(0, |mask, sector| mask | 1 << sector);
            if mask != 0 {
                self.disk.land(version.page as usize, mask, &version.content, sector_bytes);
            }
        }
        self.reset();
    }

    /// Which pending sectors have their newest content in `survived`, as numbers from the beginning of the file, and whether
    /// a pending length is that of `survived`.
    pub(super) fn kept(&self, survived: &Inode, sector_bytes: usize) -> (BTreeSet<u64>, bool) {
        let per_page = PAGE_BYTES / sector_bytes;
        let pending = self.versions.iter().flat_map(|version| {
            let sectors = (0..per_page).filter(|sector| version.sectors >> sector & 1 == 1);
            sectors.map(|sector| (version.page as usize, sector))
        });
        let landed = pending.filter(|(page, sector)| {
            // Behind the length that survived nobody can tell.
            let held = (survived.disk.len as usize).saturating_sub(page * PAGE_BYTES).min((sector + 1) * sector_bytes);
            let bytes = (sector * sector_bytes).min(held)..held;
            self.live.page(*page)[bytes.clone()] == survived.disk.page(*page)[bytes]
        });
        let sectors = landed.map(|(page, sector)| (page * per_page + sector) as u64).collect();
        (sectors, !self.resizes.is_empty() && self.live.len == survived.disk.len)
    }

    /// For each pending sector draws how far along its versions it got. With `shrunk`, zeros of shrinks up to that
    /// effect are forced: bytes that were cut never come back under a length that is later than the cut.
    fn land_drawn(&mut self, shrunk: u64, stale: Option<&View>, sector_bytes: usize, draw: &mut Draw<'_>) {
        // (page, sector, position in the order of writes), packed so that sorting groups the versions of a sector.
        let mut order: Vec<u64> = Vec::with_capacity(self.versions.len() * 2);
        for (position, version) in self.versions.iter().enumerate() {
            let mut bits = version.sectors;
            while bits != 0 {
                let sector = u64::from(bits.trailing_zeros());
                order.push(u64::from(version.page) << 35 | sector << 32 | position as u64);
                bits &= bits - 1;
            }
        }
        order.sort_unstable();
        let versions = std::mem::take(&mut self.versions);
        let mut fresh_page = (u64::MAX, false);
        for group in order.chunk_by(|one, two| one >> 32 == two >> 32) {
            let page = group[0] >> 35;
            if fresh_page.0 != page {
                fresh_page = (page, !self.disk.holds(page as usize));
            }
            let start = (group[0] >> 32 & 7) as usize * sector_bytes;
            let mask = 1 << (group[0] >> 32 & 7);
            let nth = |index: usize| &versions[(group[index] & 0xffff_ffff) as usize];
            let forced = (0..group.len()).rev().find(|&index| nth(index).cut && nth(index).seq <= shrunk);
            let first = forced.map_or(0, |index| index + 1);
            if let Some(index) = forced {
                self.disk.land(page as usize, mask, &nth(index).content, sector_bytes);
            }
            let landed = draw.prefix((first..group.len()).map(|index| nth(index).seq));
            if landed == 0 {
                draw.report.lost += 1;
                if forced.is_none()
                    && fresh_page.1
                    && let Some(stale) = stale
                    && stale.holds(page as usize)
                    && draw.prng.chance(1, 2)
                {
                    draw.report.stale += 1;
                    self.disk.land(page as usize, mask, &stale.pages[page as usize], sector_bytes);
                }
                continue;
            }
            draw.report.kept += 1;
            let last = first + landed - 1;
            // The base takes part if the first version came while it was still being written (by a sync, or by a cut).
            let cut_off = (first..=last).rev().find(|&index| nth(index).gone());
            let oldest = cut_off.map_or(first, |index| (index + 1).min(last));
            let with_base = cut_off.is_none() && nth(first).mixed & mask != 0;
            let mixes = (last > oldest || with_base) && draw.mixes();
            if !mixes {
                self.disk.land(page as usize, mask, &nth(last).content, sector_bytes);
                continue;
            }
            draw.report.mixed += 1;
            let mut mix = [0; PAGE_BYTES];
            let range = start..start + sector_bytes;
            let base = if with_base { self.disk.page(page as usize) } else { bytes(&nth(oldest).content) };
            mix[range.clone()].copy_from_slice(&base[range.clone()]);
            for index in oldest..=last {
                draw.mix(&mut mix[range.clone()], &bytes(&nth(index).content)[range.clone()]);
            }
            self.disk.page_mut(page as usize)[range.clone()].copy_from_slice(&mix[range]);
        }
    }
}

/// An allocated page of zeros: what prepares a file shares one.
fn zeros() -> Arc<[u8; PAGE_BYTES]> {
    thread_local! {
        static PAGE: Arc<[u8; PAGE_BYTES]> = Arc::new(ZEROS);
    }
    PAGE.with(Arc::clone)
}

fn bytes(page: &Page) -> &[u8; PAGE_BYTES] {
    page.as_deref().unwrap_or(&ZEROS)
}

const fn full(sector_bytes: usize) -> u8 {
    // 1 to 8 sectors per page.
    (0xff_u16 >> (8 - PAGE_BYTES / sector_bytes)) as u8
}

/// The sectors that `start..end` of a page touches.
fn covering(start: usize, end: usize, sector_bytes: usize) -> u8 {
    let (first, last) = (start / sector_bytes, end.div_ceil(sector_bytes));
    ((1_u16 << last) - (1_u16 << first)) as u8
}

/// The byte ranges of a mask, neighbours joined.
fn sectors(mut mask: u8, sector_bytes: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let first = mask.trailing_zeros();
        let count = (mask >> first).trailing_ones();
        mask &= !(((1_u16 << (first + count)) - (1_u16 << first)) as u8);
        Some(first as usize * sector_bytes..(first + count) as usize * sector_bytes)
    })
}

/// Splits a byte range at page boundaries: the page, where in it the piece starts, and which bytes of the buffer.
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let at = offset + done as u64;
        let start = (at % PAGE_BYTES as u64) as usize;
        let range = done..length.min(done + PAGE_BYTES - start);
        done = range.end;
        Some(((at / PAGE_BYTES as u64) as usize, start, range))
    })
}
