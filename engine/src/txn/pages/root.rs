//! A root copy: all tables at one CSN, named by a few fields in a file of its own.
//!
//! Root `q` stands in the file `root-<q mod 2>`: the one that is written is never the one that is in use. A file's first content is
//! written under another name and renamed, so an interrupted creation leaves no copy. Pure: who writes it, and when, is elsewhere.

use thiserror::Error;

use super::{
    Tree,
    format::{CHILD_REF_BYTES, ChildRef, array, get_u16, get_u32, get_u64, put},
};
use crate::txn::{
    ids::{Csn, Epoch, TableId},
    redo::MAX_LOGS,
    storage::{Point, RootMeta},
};

/// Offset of each field, in bytes; FORMAT.md is held against this table.
pub(super) mod root_at {
    pub(crate) const MAGIC: usize = 0;
    pub(crate) const MAJOR: usize = 8;
    pub(crate) const MINOR: usize = 10;
    pub(crate) const PAGE_BYTES: usize = 12;
    pub(crate) const UUID: usize = 16;
    pub(crate) const SEQUENCE: usize = 32;
    pub(crate) const EPOCH: usize = 40;
    pub(crate) const CSN: usize = 48;
    pub(crate) const NEXT_CSN: usize = 56;
    pub(crate) const NEXT_TABLE: usize = 64;
    pub(crate) const NEXT_CHUNK: usize = 68;
    pub(crate) const LOGS: usize = 72;
    pub(crate) const FLAGS: usize = 74;
    pub(crate) const CHUNK_PAGES: usize = 76;
    pub(crate) const CATALOG: usize = 80;
    pub(crate) const DIRECTORY: usize = 96;
    pub(crate) const WALL_NS: usize = 112;
    pub(crate) const CRC: usize = 120;
    pub(crate) const END: usize = 124;
}

/// Length of a root copy, in bytes; zero behind the last field.
pub const ROOT_BYTES: usize = 4096;
/// The first bytes of a root copy.
pub const ROOT_MAGIC: [u8; 8] = *b"seawtxn\0";
/// The version of root copies and chunk files.
pub const MAJOR: u16 = 1;
/// Minor version: none adds anything yet.
pub const MINOR: u16 = 0;
/// A chunk file has room for so many pages at least.
pub const LEAST_CHUNK_PAGES: u32 = 16;

/// The files of both copies.
pub const ROOT_FILES: [&str; 2] = ["root-0", "root-1"];

/// A root copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// What everybody may know of it.
    pub meta: RootMeta,
    /// Bytes of a page.
    pub page_bytes: u32,
    /// The number of the next chunk file.
    pub next_chunk: u32,
    /// Pages that a chunk file has room for.
    pub chunk_pages: u32,
    /// The tree of tables.
    pub catalog: Tree,
    /// The first page of the directory; `None` while there is no chunk file.
    pub directory: Option<ChildRef>,
}

/// Why bytes are no root copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RootFlaw {
    /// A newer version wrote it.
    #[error("a newer version")]
    Newer,
    /// A field can't be what it is.
    #[error("{field} of the root copy can't be this")]
    Field {
        /// Where, in bytes.
        offset: usize,
        /// The field, by its name in FORMAT.md.
        field: &'static str,
    },
}

/// Which of the two copies a root has.
#[must_use]
pub const fn slot_of(sequence: u64) -> usize {
    (sequence % 2) as usize
}

/// The file that a root's copy stands in.
#[must_use]
pub const fn file_of(sequence: u64) -> &'static str {
    ROOT_FILES[slot_of(sequence)]
}

impl Root {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let RootMeta { uuid, sequence, point, next_table, logs, wall_ns } = self.meta;
        let mut bytes = vec![0; ROOT_BYTES];
        put(&mut bytes, root_at::MAGIC, ROOT_MAGIC);
        put(&mut bytes, root_at::MAJOR, MAJOR.to_le_bytes());
        put(&mut bytes, root_at::MINOR, MINOR.to_le_bytes());
        put(&mut bytes, root_at::PAGE_BYTES, self.page_bytes.to_le_bytes());
        put(&mut bytes, root_at::UUID, uuid);
        put(&mut bytes, root_at::SEQUENCE, sequence.to_le_bytes());
        put(&mut bytes, root_at::EPOCH, point.epoch.get().to_le_bytes());
        put(&mut bytes, root_at::CSN, point.csn.to_bits().to_le_bytes());
        put(&mut bytes, root_at::NEXT_CSN, point.next_csn.to_bits().to_le_bytes());
        put(&mut bytes, root_at::NEXT_TABLE, next_table.0.to_le_bytes());
        put(&mut bytes, root_at::NEXT_CHUNK, self.next_chunk.to_le_bytes());
        put(&mut bytes, root_at::LOGS, logs.to_le_bytes());
        put(&mut bytes, root_at::CHUNK_PAGES, self.chunk_pages.to_le_bytes());
        put(&mut bytes, root_at::CATALOG, encode_tree(self.catalog));
        put(&mut bytes, root_at::DIRECTORY, encode_tree(self.directory));
        put(&mut bytes, root_at::WALL_NS, wall_ns.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..root_at::CRC]);
        put(&mut bytes, root_at::CRC, crc.to_le_bytes());
        bytes
    }

    /// Reads one. A copy has one form: what is read is what [`encode`](Root::encode) gives.
    ///
    /// # Errors
    /// The first field that can't be; what a newer version wrote whole is `Newer`.
    pub fn decode(bytes: &[u8]) -> Result<Root, RootFlaw> {
        let bad = |offset, field| RootFlaw::Field { offset, field };
        let Some(bytes) = bytes.first_chunk::<ROOT_BYTES>() else { return Err(bad(bytes.len(), "the length")) };
        if bytes[..root_at::MAJOR] != ROOT_MAGIC {
            return Err(bad(root_at::MAGIC, "magic"));
        }
        if get_u32(bytes, root_at::CRC) != crc32fast::hash(&bytes[..root_at::CRC]) {
            return Err(bad(root_at::CRC, "crc"));
        }
        let version = (get_u16(bytes, root_at::MAJOR), get_u16(bytes, root_at::MINOR));
        if version.0 > MAJOR {
            return Err(RootFlaw::Newer);
        }
        if version != (MAJOR, MINOR) {
            return Err(bad(root_at::MAJOR, "major"));
        }
        let logs = get_u16(bytes, root_at::LOGS);
        if !(1..=u16::from(MAX_LOGS)).contains(&logs) {
            return Err(bad(root_at::LOGS, "logs"));
        }
        if get_u16(bytes, root_at::FLAGS) != 0 {
            return Err(bad(root_at::FLAGS, "flags"));
        }
        if bytes[root_at::END..].iter().any(|byte| *byte != 0) {
            return Err(bad(root_at::END, "what is behind the last field"));
        }
        let epoch = Epoch::new(get_u64(bytes, root_at::EPOCH)).ok_or(bad(root_at::EPOCH, "epoch"))?;
        let csn = Csn::from_bits(get_u64(bytes, root_at::CSN)).ok_or(bad(root_at::CSN, "csn"))?;
        let next_csn = Csn::from_bits(get_u64(bytes, root_at::NEXT_CSN)).filter(|next| *next > csn);
        let point = Point { csn, next_csn: next_csn.ok_or(bad(root_at::NEXT_CSN, "next_csn"))?, epoch };
        let at_least = |at, least, field| Some(get_u32(bytes, at)).filter(|n| *n >= least).ok_or(bad(at, field));
        Ok(Root {
            meta: RootMeta {
                uuid: array(bytes, root_at::UUID),
                sequence: get_u64(bytes, root_at::SEQUENCE),
                point,
                next_table: TableId(at_least(root_at::NEXT_TABLE, 1, "next_table")?),
                logs,
                wall_ns: i64::from_le_bytes(array(bytes, root_at::WALL_NS)),
            },
            page_bytes: at_least(root_at::PAGE_BYTES, 1, "page_bytes")?,
            next_chunk: at_least(root_at::NEXT_CHUNK, 1, "next_chunk")?,
            chunk_pages: at_least(root_at::CHUNK_PAGES, LEAST_CHUNK_PAGES, "chunk_pages")?,
            catalog: decode_tree(&array(bytes, root_at::CATALOG)).ok_or(bad(root_at::CATALOG, "catalog"))?,
            directory: decode_tree(&array(bytes, root_at::DIRECTORY)).ok_or(bad(root_at::DIRECTORY, "directory"))?,
        })
    }
}

/// The root of a tree as it is stored: zeros where the tree is empty.
pub(super) fn encode_tree(tree: Tree) -> [u8; CHILD_REF_BYTES] {
    tree.map_or([0; CHILD_REF_BYTES], |root| root.encode())
}

/// The other way; `None` if the bytes are neither.
pub(super) fn decode_tree(bytes: &[u8; CHILD_REF_BYTES]) -> Option<Tree> {
    if *bytes == [0; CHILD_REF_BYTES] { Some(None) } else { ChildRef::decode(bytes).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        codec::format_test::{FORMAT, check},
        txn::ids::PageNo,
    };

    fn root() -> Root {
        let child = ChildRef { page: PageNo { chunk: 3, index: 9 }, crc: 77, runs_below: true };
        let point = Point { csn: Csn::first(Epoch::FIRST), next_csn: Csn::first(Epoch::LAST), epoch: Epoch::LAST };
        let meta = RootMeta { uuid: [5; 16], sequence: 12, point, next_table: TableId(4), logs: 16, wall_ns: -1 };
        Root { meta, page_bytes: 512, next_chunk: 8, chunk_pages: 16, catalog: Some(child), directory: None }
    }

    #[test]
    fn every_field_stands_where_the_document_says() {
        check("### Root copy", include_str!("root.rs"), "root_at", Some(root_at::END));
        assert!(FORMAT.contains("`magic` is `seawtxn` and a zero byte") && ROOT_MAGIC == *b"seawtxn\0");
        assert!(FORMAT.contains(&format!("A root copy has {ROOT_BYTES} bytes")));
        assert!(FORMAT.contains(&format!("version {MAJOR}.{MINOR} of root copies and chunk files")));
        assert_eq!((file_of(0), file_of(7)), ("root-0", "root-1"));
    }

    #[test]
    fn a_copy_comes_back_and_has_one_form() {
        let bytes = root().encode();
        assert_eq!(Root::decode(&bytes), Ok(root()));
        let reseal = |mut bytes: Vec<u8>| {
            let crc = crc32fast::hash(&bytes[..root_at::CRC]);
            put(&mut bytes, root_at::CRC, crc.to_le_bytes());
            bytes
        };
        for at in (0..root_at::CRC).chain([root_at::END, ROOT_BYTES - 1]) {
            for flip in [1, 0x40, 0x80] {
                let mut other = bytes.clone();
                other[at] ^= flip;
                assert!(Root::decode(&other).is_err(), "byte {at}");
                let other = reseal(other);
                if let Ok(read) = Root::decode(&other) {
                    assert_eq!(read.encode(), other, "byte {at}");
                }
            }
            assert!(Root::decode(&bytes[..at]).is_err());
        }
        let mut newer = bytes;
        newer[root_at::MAJOR] += 1;
        assert_eq!(Root::decode(&reseal(newer)), Err(RootFlaw::Newer));
    }
}
