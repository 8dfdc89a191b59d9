//! Which chunk files there are, and which pages of each are in use: the pages that say so, and bits in memory. Pure.

use super::{
    Tree,
    format::{CHILD_REF_BYTES, ChildRef, Header, PAGE_HEADER_BYTES, PageKind, array, get_u32, get_u64, page_at, put},
    node::{Flaw, PageError, unseal},
    root::{decode_tree, encode_tree},
};
use crate::txn::ids::{Csn, PageNo, TableId};

/// Offset of each field of a directory page's body, in bytes; FORMAT.md is held against this table.
pub(super) mod directory_at {
    pub(crate) const NEXT: usize = 0;
    pub(crate) const ENTRIES: usize = 16;
}

/// Offset of each field of a directory entry, in bytes.
pub(super) mod chunk_entry_at {
    pub(crate) const CHUNK: usize = 0;
    pub(crate) const PAGES: usize = 4;
    pub(crate) const LIVE: usize = 8;
    pub(crate) const BITMAP_CRC: usize = 12;
    pub(crate) const BITMAP: usize = 16;
    pub(crate) const ZERO: usize = 24;
    pub(crate) const END: usize = 32;
}

/// A chunk file, as the directory has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkEntry {
    /// Its number.
    pub chunk: u32,
    /// Its length in pages, the header included.
    pub pages: u32,
    /// How many of them are in use, the header included.
    pub live: u32,
    /// The page that says which.
    pub bitmap: ChildRef,
}

/// How many entries a directory page has room for.
#[must_use]
pub const fn entries_per_page<const B: usize>() -> usize {
    (B - directory_at::ENTRIES) / chunk_entry_at::END
}

/// How many pages of a chunk a bitmap page can tell of.
#[must_use]
pub const fn bitmap_pages<const B: usize>() -> u32 {
    (B * 8) as u32
}

type Sealed = ([u8; PAGE_HEADER_BYTES], Vec<u8>, ChildRef);

fn seal(page: PageNo, csn: Csn, kind: PageKind, (count, table, used): (usize, u32, usize), body: Vec<u8>) -> Sealed {
    let header = Header {
        kind: kind as u8,
        level: 0,
        count: count as u16,
        csn,
        page: page.to_bits(),
        table: TableId(table),
        prefix_bytes: 0,
        used_bytes: used as u16,
    };
    let (header, crc) = header.seal(&body);
    (header, body, ChildRef { page, crc, runs_below: false })
}

/// Checks what directory and bitmap pages have in common: a kind, and nothing of a tree.
fn open<'a, const B: usize>(
    bytes: &'a [u8],
    child: &ChildRef,
    kind: PageKind,
) -> Result<(Header, &'a [u8; B]), PageError> {
    let flaw = |offset, what| Err(PageError { page: child.page, offset, what });
    let (header, body) = unseal(bytes, child)?;
    match &header {
        _ if header.kind != kind as u8 => flaw(page_at::KIND, Flaw::Kind),
        Header { level: 1.., .. } => flaw(page_at::LEVEL, Flaw::Level),
        Header { prefix_bytes: 1.., .. } => flaw(page_at::PREFIX_BYTES, Flaw::Prefix),
        _ if body.get(usize::from(header.used_bytes)..).is_none_or(|rest| rest.iter().any(|byte| *byte != 0)) => {
            flaw(page_at::USED_BYTES, Flaw::Used)
        }
        _ => Ok((header, body)),
    }
}

/// A directory page: entries in the order of their chunks, as many as fit, and the page with the next ones.
#[must_use]
pub fn encode_directory<const B: usize>(page: PageNo, csn: Csn, next: Tree, entries: &[ChunkEntry]) -> Sealed {
    let mut body = vec![0; B];
    put(&mut body, directory_at::NEXT, encode_tree(next));
    let mut at = directory_at::ENTRIES;
    for entry in entries {
        put(&mut body, at + chunk_entry_at::CHUNK, entry.chunk.to_le_bytes());
        put(&mut body, at + chunk_entry_at::PAGES, entry.pages.to_le_bytes());
        put(&mut body, at + chunk_entry_at::LIVE, entry.live.to_le_bytes());
        put(&mut body, at + chunk_entry_at::BITMAP_CRC, entry.bitmap.crc.to_le_bytes());
        put(&mut body, at + chunk_entry_at::BITMAP, entry.bitmap.page.to_bits().to_le_bytes());
        at += chunk_entry_at::END;
    }
    seal(page, csn, PageKind::Directory, (entries.len(), 0, at), body)
}

/// Reads the directory page that `child` names. It has one entry at least.
///
/// # Errors
/// What is wrong with it first.
pub fn decode_directory<const B: usize>(bytes: &[u8], child: &ChildRef) -> Result<(Tree, Vec<ChunkEntry>), PageError> {
    let error = |offset, what| PageError { page: child.page, offset, what };
    let (header, body) = open::<B>(bytes, child, PageKind::Directory)?;
    let count = usize::from(header.count);
    if !(1..=entries_per_page::<B>()).contains(&count) {
        return Err(error(page_at::COUNT, Flaw::Count));
    }
    if header.table.0 != 0 {
        return Err(error(page_at::TABLE, Flaw::Table));
    }
    if usize::from(header.used_bytes) != directory_at::ENTRIES + count * chunk_entry_at::END {
        return Err(error(page_at::USED_BYTES, Flaw::Used));
    }
    let next: [u8; CHILD_REF_BYTES] = array(body, directory_at::NEXT);
    // (A flag says something of a tree, which this is none of.)
    let next = decode_tree(&next).filter(|next| next.is_none_or(|next| !next.runs_below));
    let next = next.ok_or(error(page_at::BODY + directory_at::NEXT, Flaw::Cell))?;
    let mut entries: Vec<ChunkEntry> = Vec::with_capacity(count);
    for at in (directory_at::ENTRIES..).step_by(chunk_entry_at::END).take(count) {
        let place = page_at::BODY + at;
        let crc = get_u32(body, at + chunk_entry_at::BITMAP_CRC);
        let page = PageNo::from_bits(get_u64(body, at + chunk_entry_at::BITMAP)).ok_or(error(place, Flaw::Cell))?;
        let entry = ChunkEntry {
            chunk: get_u32(body, at + chunk_entry_at::CHUNK),
            pages: get_u32(body, at + chunk_entry_at::PAGES),
            live: get_u32(body, at + chunk_entry_at::LIVE),
            bitmap: ChildRef { page, crc, runs_below: false },
        };
        if entry.chunk == 0 || entry.pages > bitmap_pages::<B>() || !(1..=entry.pages).contains(&entry.live) {
            return Err(error(place, Flaw::Cell));
        }
        if get_u64(body, at + chunk_entry_at::ZERO) != 0 {
            return Err(error(place + chunk_entry_at::ZERO, Flaw::Cell));
        }
        if entries.last().is_some_and(|last| last.chunk >= entry.chunk) {
            return Err(error(place, Flaw::Order));
        }
        entries.push(entry);
    }
    Ok((next, entries))
}

/// A bitmap page.
#[must_use]
pub fn encode_bitmap<const B: usize>(page: PageNo, csn: Csn, chunk: u32, bits: &Bitmap) -> Sealed {
    let mut body: Vec<u8> = bits.words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let used = body.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    body.resize(B, 0);
    seal(page, csn, PageKind::Bitmap, (0, chunk, used), body)
}

/// Reads the bitmap page that a directory entry names.
///
/// # Errors
/// What is wrong with it first: so it fits the entry.
pub fn decode_bitmap<const B: usize>(bytes: &[u8], entry: &ChunkEntry) -> Result<Bitmap, PageError> {
    let error = |offset, what| PageError { page: entry.bitmap.page, offset, what };
    let (header, body) = open::<B>(bytes, &entry.bitmap, PageKind::Bitmap)?;
    if header.count != 0 {
        return Err(error(page_at::COUNT, Flaw::Count));
    }
    if header.table.0 != entry.chunk {
        return Err(error(page_at::TABLE, Flaw::Table));
    }
    let used = usize::from(header.used_bytes);
    if used == 0 || body[used - 1] == 0 {
        return Err(error(page_at::USED_BYTES, Flaw::Used));
    }
    let bits = Bitmap::of_bytes(&body[..used]);
    // The header is in use, and nothing beyond the file's end.
    let end = bits.end();
    if !bits.has(0) || end > entry.pages || bits.count() != entry.live {
        return Err(error(page_at::BODY, Flaw::Count));
    }
    Ok(bits)
}

/// A bit per page; those that it has no room for are not set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bitmap {
    words: Vec<u64>,
}

impl Bitmap {
    fn of_bytes(bytes: &[u8]) -> Bitmap {
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        Bitmap { words: bytes.chunks(8).map(word).collect() }
    }

    /// Whether a bit is set.
    #[must_use]
    pub fn has(&self, bit: u32) -> bool {
        self.words.get(bit as usize / 64).is_some_and(|word| word >> (bit % 64) & 1 != 0)
    }

    /// How many are set.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// One more than the last bit that is set.
    pub(super) fn end(&self) -> u32 {
        let last = self.words.iter().rposition(|word| *word != 0);
        last.map_or(0, |at| at as u32 * 64 + 64 - self.words[at].leading_zeros())
    }

    /// Sets bits side by side.
    pub(super) fn set(&mut self, from: u32, count: u32) {
        let words = (from + count).div_ceil(64) as usize;
        if self.words.len() < words {
            self.words.resize(words, 0);
        }
        for bit in from..from + count {
            self.words[bit as usize / 64] |= 1 << (bit % 64);
        }
    }

    /// Clears bits side by side; false if one of them wasn't set, and then nothing is changed.
    pub(super) fn clear(&mut self, from: u32, count: u32) -> bool {
        let to = from.checked_add(count).filter(|to| *to <= self.end());
        let Some(to) = to.filter(|to| (from..*to).all(|bit| self.has(bit))) else { return false };
        for bit in from..to {
            self.words[bit as usize / 64] &= !(1 << (bit % 64));
        }
        true
    }

    /// Sets all that another one has.
    pub(super) fn unite(&mut self, other: &Bitmap) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word |= other);
    }

    /// The first of so many clear bits side by side, from `from` on and below `limit`.
    pub(super) fn room(&self, mut from: u32, count: u32, limit: u32) -> Option<u32> {
        while from.checked_add(count).is_some_and(|end| end <= limit) {
            match (from..from + count).rev().find(|bit| self.has(*bit)) {
                None => return Some(from),
                Some(taken) => from = self.next_clear(taken + 1),
            }
        }
        None
    }

    fn next_clear(&self, mut bit: u32) -> u32 {
        while let Some(word) = self.words.get(bit as usize / 64) {
            let free = !word >> (bit % 64);
            if free != 0 {
                return bit + free.trailing_zeros();
            }
            bit = (bit / 64 + 1) * 64;
        }
        bit
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::format_test::{FORMAT, check};

    const B: usize = 480;
    const PAGE: PageNo = PageNo { chunk: 2, index: 5 };

    #[test]
    fn every_field_stands_where_the_document_says() {
        let source = include_str!("directory.rs");
        check("### Directory page", source, "directory_at", None);
        check("### Directory entry", source, "chunk_entry_at", Some(chunk_entry_at::END));
        let per_page = entries_per_page::<{ super::super::BODY_BYTES }>();
        assert!(FORMAT.contains(&format!("At most {per_page} entries")), "{per_page}");
        let pages = bitmap_pages::<{ super::super::BODY_BYTES }>();
        assert!(FORMAT.contains(&format!("at most {pages} pages")), "{pages}");
    }

    fn entry(chunk: u32) -> ChunkEntry {
        let bitmap = ChildRef { page: PAGE, crc: 7, runs_below: false };
        ChunkEntry { chunk, pages: 100, live: 3, bitmap }
    }

    /// The page with these bytes changed, its checksum right again, and the child ref that names it.
    fn changed(page: &[u8], at: usize, flip: u8) -> (Vec<u8>, ChildRef) {
        let mut page = page.to_vec();
        page[at] ^= flip;
        let (head, body) = page.split_first_chunk::<PAGE_HEADER_BYTES>().expect("it is longer");
        let crc = super::super::format::checksum(PAGE.to_bits(), head, body);
        put(&mut page, page_at::CRC, crc.to_le_bytes());
        (page, ChildRef { page: PAGE, crc, runs_below: false })
    }

    #[test]
    fn pages_come_back_and_have_one_form() {
        let entries: Vec<ChunkEntry> = [1, 2, 9].map(entry).into();
        let csn = Csn::default();
        let next = Some(ChildRef { page: PageNo { chunk: 1, index: 2 }, crc: 4, runs_below: false });
        let (header, body, child) = encode_directory::<B>(PAGE, csn, next, &entries);
        let page = [&header[..], &body].concat();
        assert_eq!(decode_directory::<B>(&page, &child), Ok((next, entries)));
        let mut bits = Bitmap::default();
        [0, 1, 77].into_iter().for_each(|bit| bits.set(bit, 1));
        let (header, body, bitmap) = encode_bitmap::<B>(PAGE, csn, 9, &bits);
        let bitmap_page = [&header[..], &body].concat();
        assert_eq!(decode_bitmap::<B>(&bitmap_page, &ChunkEntry { bitmap, ..entry(9) }), Ok(bits.clone()));
        for at in 4..PAGE_HEADER_BYTES + B {
            for flip in [1, 0x80] {
                let (bytes, child) = changed(&page, at, flip);
                if let Ok((next, entries)) = decode_directory::<B>(&bytes, &child) {
                    let csn = Header::peek(&bytes).expect("it was read").csn;
                    let (header, body, _) = encode_directory::<B>(PAGE, csn, next, &entries);
                    assert_eq!([&header[..], &body].concat(), bytes, "byte {at}");
                }
                let (bytes, bitmap) = changed(&bitmap_page, at, flip);
                if let Ok(bits) = decode_bitmap::<B>(&bytes, &ChunkEntry { bitmap, ..entry(9) }) {
                    let csn = Header::peek(&bytes).expect("it was read").csn;
                    let (header, body, _) = encode_bitmap::<B>(PAGE, csn, 9, &bits);
                    assert_eq!([&header[..], &body].concat(), bytes, "byte {at}");
                }
            }
        }
        let (_, _, other) = encode_bitmap::<B>(PAGE, csn, 8, &bits);
        let wrong = decode_bitmap::<B>(&bitmap_page, &ChunkEntry { bitmap: other, ..entry(8) });
        assert_eq!(wrong.map_err(|error| error.what), Err(Flaw::Parent));
    }

    proptest! {
        #[test]
        fn bits_are_those_of_a_set(
            ops in proptest::collection::vec((0..300_u32, 1..9_u32, any::<bool>()), 0..60),
            from in 0..300_u32,
            count in 1..20_u32,
        ) {
            let (mut bits, mut set) = (Bitmap::default(), std::collections::BTreeSet::new());
            for (at, count, add) in ops {
                if add {
                    bits.set(at, count);
                    set.extend(at..at + count);
                } else {
                    let all = (at..at + count).all(|bit| set.contains(&bit));
                    prop_assert_eq!(bits.clear(at, count), all);
                    if all {
                        set.retain(|bit| !(at..at + count).contains(bit));
                    }
                }
            }
            prop_assert_eq!(bits.count() as usize, set.len());
            prop_assert_eq!(bits.end(), set.last().map_or(0, |last| last + 1));
            let room = (from..=310 - count).find(|at| (*at..at + count).all(|bit| !set.contains(&bit)));
            prop_assert_eq!(bits.room(from, count, 310), room);
        }
    }
}
