//! The bytes of pages and chunk files, exactly as FORMAT.md draws them: offsets, and the pieces of a fixed size.

use crate::txn::ids::{Csn, PageNo, TableId};

/// Offset of each field of a page's header, in bytes; FORMAT.md is held against this table.
pub(super) mod page_at {
    pub(crate) const CRC: usize = 0;
    pub(crate) const KIND: usize = 4;
    pub(crate) const LEVEL: usize = 5;
    pub(crate) const COUNT: usize = 6;
    pub(crate) const CSN: usize = 8;
    pub(crate) const PAGE: usize = 16;
    pub(crate) const TABLE: usize = 24;
    pub(crate) const PREFIX_BYTES: usize = 28;
    pub(crate) const USED_BYTES: usize = 30;
    pub(crate) const BODY: usize = 32;
}

/// Offset of each field of a child ref, in bytes.
pub(super) mod child_at {
    pub(crate) const PAGE: usize = 0;
    pub(crate) const CRC: usize = 8;
    pub(crate) const FLAGS: usize = 12;
    pub(crate) const END: usize = 16;
}

/// Offset of each field of a cell of a leaf, in bytes; the value, or its run, follows the suffix.
pub(super) mod leaf_cell_at {
    pub(crate) const SUFFIX_BYTES: usize = 0;
    pub(crate) const VALUE: usize = 2;
    pub(crate) const SUFFIX: usize = 6;
}

/// Offset of each field of a cell of an inner page, in bytes.
pub(super) mod inner_cell_at {
    pub(crate) const SUFFIX_BYTES: usize = 0;
    pub(crate) const CHILD: usize = 2;
    pub(crate) const SUFFIX: usize = 18;
}

/// Offset of each field of a run, in bytes.
pub(super) mod run_at {
    pub(crate) const PAGE: usize = 0;
    pub(crate) const BYTES: usize = 8;
    pub(crate) const CRC: usize = 16;
    pub(crate) const END: usize = 20;
}

/// Offset of each field of a chunk file's header, in bytes.
pub(super) mod chunk_at {
    pub(crate) const MAGIC: usize = 0;
    pub(crate) const MAJOR: usize = 8;
    pub(crate) const MINOR: usize = 10;
    pub(crate) const PAGE_BYTES: usize = 12;
    pub(crate) const UUID: usize = 16;
    pub(crate) const CHUNK: usize = 32;
    pub(crate) const CRC: usize = 36;
    pub(crate) const END: usize = 40;
}

/// Length of a page's header, in bytes.
pub const PAGE_HEADER_BYTES: usize = page_at::BODY;
/// Length of a child ref, in bytes.
pub const CHILD_REF_BYTES: usize = child_at::END;
/// Length of a run as it stands in a leaf, in bytes.
pub const RUN_BYTES: usize = run_at::END;
/// The first bytes of a chunk file.
pub const CHUNK_MAGIC: [u8; 8] = *b"seawchk\0";
/// Bytes of the longest key in pages of 8 KiB.
pub const KEY_LIMIT_BYTES: usize = 1000;
/// Bytes that a cell takes outside of the cells: its head and its offset.
pub(super) const INDEX_BYTES: usize = HEAD_BYTES + OFFSET_BYTES;
/// Bytes of a key behind the prefix that are repeated in front, for the search.
pub(super) const HEAD_BYTES: usize = 4;
/// Bytes of a cell's offset.
pub(super) const OFFSET_BYTES: usize = 2;
/// Set in a leaf cell's `value` where a run stands instead of the value.
pub(super) const VALUE_IN_RUN: u32 = 1 << 31;
/// Set in a child ref where values below it stand in runs.
const RUNS_BELOW: u32 = 1;

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PageKind {
    /// Keys with their values.
    Leaf = 1,
    /// Separators with the pages below.
    Inner = 2,
    /// Which chunks there are.
    Directory = 3,
    /// Which pages of a chunk are in use.
    Bitmap = 4,
}

impl PageKind {
    /// All kinds, in the order of their codes.
    pub const ALL: [PageKind; 4] = [PageKind::Leaf, PageKind::Inner, PageKind::Directory, PageKind::Bitmap];
}

/// A page as another one names it. The checksum makes it *this* content: an older one at the same place doesn't pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChildRef {
    /// Where it is.
    pub page: PageNo,
    /// Its checksum, as its own header states it.
    pub crc: u32,
    /// Whether values of leaves below it stand in runs.
    pub runs_below: bool,
}

impl ChildRef {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; CHILD_REF_BYTES] {
        let mut bytes = [0; CHILD_REF_BYTES];
        put(&mut bytes, child_at::PAGE, self.page.to_bits().to_le_bytes());
        put(&mut bytes, child_at::CRC, self.crc.to_le_bytes());
        put(&mut bytes, child_at::FLAGS, (if self.runs_below { RUNS_BELOW } else { 0 }).to_le_bytes());
        bytes
    }

    /// Reads one, or `None` if no page can stand there or a flag is unknown. The zeros of an empty tree are no child ref.
    #[inline]
    #[must_use]
    pub fn decode(bytes: &[u8; CHILD_REF_BYTES]) -> Option<ChildRef> {
        let flags = get_u32(bytes, child_at::FLAGS);
        let page = PageNo::from_bits(get_u64(bytes, child_at::PAGE))?;
        (flags <= RUNS_BELOW).then(|| ChildRef { page, crc: get_u32(bytes, child_at::CRC), runs_below: flags != 0 })
    }
}

/// A value that stands in whole pages of its own, side by side in one chunk, without headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first of its pages.
    pub page: PageNo,
    /// Bytes of the value.
    pub bytes: u64,
    /// CRC-32 of the value.
    pub crc: u32,
}

impl Run {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; RUN_BYTES] {
        let mut bytes = [0; RUN_BYTES];
        put(&mut bytes, run_at::PAGE, self.page.to_bits().to_le_bytes());
        put(&mut bytes, run_at::BYTES, self.bytes.to_le_bytes());
        put(&mut bytes, run_at::CRC, self.crc.to_le_bytes());
        bytes
    }

    /// Reads one, or `None` if it doesn't fit into a chunk of pages with `B` bytes behind their headers.
    #[must_use]
    pub fn decode<const B: usize>(bytes: &[u8; RUN_BYTES]) -> Option<Run> {
        let page = PageNo::from_bits(get_u64(bytes, run_at::PAGE))?;
        let run = Run { page, bytes: get_u64(bytes, run_at::BYTES), crc: get_u32(bytes, run_at::CRC) };
        let fits = super::run_pages::<B>(run.bytes) <= u64::from(u32::MAX - page.index);
        (run.bytes > 0 && fits).then_some(run)
    }
}

/// A page's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The code of a [`PageKind`].
    pub kind: u8,
    /// 0 at leaves, one more than that of the pages below at inner ones.
    pub level: u8,
    /// How many cells.
    pub count: u16,
    /// The commit up to which the checkpoint that wrote it goes.
    pub csn: Csn,
    /// Where it belongs.
    pub page: u64,
    /// Whose it is.
    pub table: TableId,
    /// Bytes that all keys begin with.
    pub prefix_bytes: u16,
    /// Bytes of the body that mean something.
    pub used_bytes: u16,
}

impl Header {
    /// The header of a page with this body, and the checksum that it states.
    #[must_use]
    pub fn seal(&self, body: &[u8]) -> ([u8; PAGE_HEADER_BYTES], u32) {
        let mut bytes = [0; PAGE_HEADER_BYTES];
        bytes[page_at::KIND] = self.kind;
        bytes[page_at::LEVEL] = self.level;
        put(&mut bytes, page_at::COUNT, self.count.to_le_bytes());
        put(&mut bytes, page_at::CSN, self.csn.to_bits().to_le_bytes());
        put(&mut bytes, page_at::PAGE, self.page.to_le_bytes());
        put(&mut bytes, page_at::TABLE, self.table.0.to_le_bytes());
        put(&mut bytes, page_at::PREFIX_BYTES, self.prefix_bytes.to_le_bytes());
        put(&mut bytes, page_at::USED_BYTES, self.used_bytes.to_le_bytes());
        let crc = checksum(self.page, &bytes, body);
        put(&mut bytes, page_at::CRC, crc.to_le_bytes());
        (bytes, crc)
    }

    /// Reads the header in front of `bytes`, unchecked; `None` if they are too short or no commit ever had its CSN.
    #[must_use]
    pub fn peek(bytes: &[u8]) -> Option<Header> {
        let bytes = bytes.get(..PAGE_HEADER_BYTES)?;
        Some(Header {
            kind: bytes[page_at::KIND],
            level: bytes[page_at::LEVEL],
            count: get_u16(bytes, page_at::COUNT),
            csn: Csn::from_bits(get_u64(bytes, page_at::CSN))?,
            page: get_u64(bytes, page_at::PAGE),
            table: TableId(get_u32(bytes, page_at::TABLE)),
            prefix_bytes: get_u16(bytes, page_at::PREFIX_BYTES),
            used_bytes: get_u16(bytes, page_at::USED_BYTES),
        })
    }
}

/// The checksum of a page: over its number, then everything behind the checksum itself. So a page that was written elsewhere doesn't
/// pass, whatever its header says.
#[must_use]
pub fn checksum(page: u64, header: &[u8; PAGE_HEADER_BYTES], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&page.to_le_bytes());
    crc.update(&header[page_at::KIND..]);
    crc.update(body);
    crc.finalize()
}

/// The next multiple of 4.
#[inline]
pub(super) const fn pad(bytes: usize) -> usize {
    bytes.next_multiple_of(4)
}

#[inline]
pub(in crate::txn) fn put<const N: usize>(bytes: &mut [u8], at: usize, field: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&field);
}

/// Little-endian fields at fixed offsets; inlined into the searches, also in other crates. Every caller has checked the length of `bytes` before.
#[inline]
pub(in crate::txn) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[inline]
pub(in crate::txn) fn get_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

#[inline]
pub(in crate::txn) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

#[inline]
pub(in crate::txn) fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::format_test::{FORMAT, check};

    #[test]
    fn every_field_stands_where_the_document_says() {
        let source = include_str!("format.rs");
        check("### Page header", source, "page_at", None);
        check("### Child ref", source, "child_at", Some(CHILD_REF_BYTES));
        check("### Leaf cell", source, "leaf_cell_at", None);
        check("### Inner cell", source, "inner_cell_at", None);
        check("### Run", source, "run_at", Some(RUN_BYTES));
        check("### Chunk header", source, "chunk_at", Some(chunk_at::END));
    }

    #[test]
    fn kinds_and_limits_are_those_of_the_document() {
        for kind in PageKind::ALL {
            let row = format!("| {} | {} | ", kind as u8, format!("{kind:?}").to_lowercase());
            assert!(FORMAT.contains(&row), "{row}");
        }
        assert!(FORMAT.contains("`magic` is `seawchk` and a zero byte"));
        assert_eq!(CHUNK_MAGIC, *b"seawchk\0");
        assert!(FORMAT.contains(&format!("A key has at most {KEY_LIMIT_BYTES} bytes")));
        let inline = super::super::BODY_BYTES / 4;
        assert!(FORMAT.contains(&format!("above {inline} bytes")), "{inline}");
    }

    #[test]
    fn pieces_come_back_or_are_none() {
        let page = PageNo { chunk: 2, index: 3 };
        for runs_below in [false, true] {
            let child = ChildRef { page, crc: 7, runs_below };
            assert_eq!(ChildRef::decode(&child.encode()), Some(child));
        }
        assert_eq!(ChildRef::decode(&[0; CHILD_REF_BYTES]), None);
        let mut unknown = ChildRef { page, crc: 7, runs_below: true }.encode();
        unknown[child_at::FLAGS] = 2;
        assert_eq!(ChildRef::decode(&unknown), None, "a flag that isn't known");
        let run = Run { page, bytes: 512 * 4, crc: 9 };
        assert_eq!(Run::decode::<480>(&run.encode()), Some(run));
        let long = Run { bytes: 512 * u64::from(u32::MAX), ..run };
        assert_eq!(Run::decode::<480>(&long.encode()), None, "it goes beyond the last page of a chunk");
        assert_eq!(Run::decode::<480>(&Run { bytes: 0, ..run }.encode()), None);
    }
}
