//! A chunk file: pages side by side, the first of which is a header, and values that take whole pages.
//!
//! Reads are of any page that a root names; the bytes are checked by whoever knows what should stand there. A file is opened for
//! reading alone until the storage is established, so that whoever only looks changes nothing.

use std::{
    io::{self, IoSlice},
    sync::{Arc, OnceLock},
};

use super::{
    cache::Frames,
    format::{CHUNK_MAGIC, ChildRef, Run, array, chunk_at, get_u16, get_u32, page_at, put},
    node::{Node, PageError},
    page_bytes,
    root::{MAJOR, MINOR},
};
use crate::{
    env::{Dir, File, OpenMode, interruptible, read_at_most, write_all_vectored_at},
    plant::{Plants, planted},
    txn::{blocks::Blocks, storage::StorageError},
};

/// Length of a chunk file's header, in bytes; the rest of its page is zero.
pub const CHUNK_HEADER_BYTES: usize = chunk_at::END;

/// What a chunk file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Bytes of a page.
    pub page_bytes: u32,
    /// The store.
    pub uuid: [u8; 16],
    /// Its number.
    pub chunk: u32,
}

/// Why bytes are no chunk header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkFlaw {
    /// A newer version wrote it.
    Newer,
    /// It is too short, or a field can't be what it is.
    Field {
        /// Where, in bytes.
        offset: usize,
        /// The field, by its name in FORMAT.md.
        field: &'static str,
    },
}

impl ChunkHeader {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; CHUNK_HEADER_BYTES] {
        let mut bytes = [0; CHUNK_HEADER_BYTES];
        put(&mut bytes, chunk_at::MAGIC, CHUNK_MAGIC);
        put(&mut bytes, chunk_at::MAJOR, MAJOR.to_le_bytes());
        put(&mut bytes, chunk_at::MINOR, MINOR.to_le_bytes());
        put(&mut bytes, chunk_at::PAGE_BYTES, self.page_bytes.to_le_bytes());
        put(&mut bytes, chunk_at::UUID, self.uuid);
        put(&mut bytes, chunk_at::CHUNK, self.chunk.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..chunk_at::CRC]);
        put(&mut bytes, chunk_at::CRC, crc.to_le_bytes());
        bytes
    }

    /// Reads one, at the beginning of `bytes`. A header has one form: what is read is what [`encode`](ChunkHeader::encode) gives.
    ///
    /// # Errors
    /// The first field that can't be; what a newer version wrote whole is `Newer`.
    pub fn decode(bytes: &[u8]) -> Result<ChunkHeader, ChunkFlaw> {
        let bad = |offset, field| Err(ChunkFlaw::Field { offset, field });
        let Some(bytes) = bytes.first_chunk::<CHUNK_HEADER_BYTES>() else { return bad(bytes.len(), "the length") };
        let header = ChunkHeader {
            page_bytes: get_u32(bytes, chunk_at::PAGE_BYTES),
            uuid: array(bytes, chunk_at::UUID),
            chunk: get_u32(bytes, chunk_at::CHUNK),
        };
        match (get_u16(bytes, chunk_at::MAJOR), get_u16(bytes, chunk_at::MINOR)) {
            _ if bytes[..chunk_at::MAJOR] != CHUNK_MAGIC => bad(chunk_at::MAGIC, "magic"),
            _ if get_u32(bytes, chunk_at::CRC) != crc32fast::hash(&bytes[..chunk_at::CRC]) => bad(chunk_at::CRC, "crc"),
            (major, _) if major > MAJOR => Err(ChunkFlaw::Newer),
            version if version != (MAJOR, MINOR) => bad(chunk_at::MAJOR, "major"),
            _ if header.page_bytes == 0 => bad(chunk_at::PAGE_BYTES, "page_bytes"),
            _ if header.chunk == 0 => bad(chunk_at::CHUNK, "chunk"),
            _ => Ok(header),
        }
    }
}

/// The name of a chunk file.
#[must_use]
pub fn name_of(chunk: u32) -> String {
    format!("chunk-{chunk:08}.pages")
}

/// The number of the chunk file of this name; `None` if it is none's.
#[must_use]
pub fn number_of(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("chunk-")?.strip_suffix(".pages")?;
    let number = digits.parse().ok().filter(|number| *number > 0)?;
    (name_of(number) == name).then_some(number)
}

/// An open chunk file, and those of its pages that are in memory.
#[derive(Debug)]
pub(super) struct Chunk<F: File, const B: usize> {
    pub(super) number: u32,
    pub(super) frames: Arc<Frames<B>>,
    file: F,
    /// If the other one is for reading alone.
    writer: OnceLock<F>,
}

impl<F: File, const B: usize> Chunk<F, B> {
    /// Opens a file that a root may name, and checks its header. Its length in bytes comes with it.
    pub(super) async fn open<D: Dir<File = F>>(
        dir: &D,
        header: ChunkHeader,
        least_capacity: u32,
        blocks: &Arc<Blocks<B>>,
    ) -> Result<(Chunk<F, B>, u64), StorageError> {
        let name = name_of(header.chunk);
        let corrupt = |offset: usize, what: &str| {
            Err(StorageError::Corrupt { file: name.clone(), offset: offset as u64, what: what.to_owned() })
        };
        let file = match interruptible(|| dir.open(&name, OpenMode::Read)).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return corrupt(0, "there is no such file"),
            opened => opened.map_err(|error| StorageError::io("open", &*name, &error))?,
        };
        let mut bytes = [0; CHUNK_HEADER_BYTES];
        let failed = |error: io::Error| StorageError::io("read", &*name, &error);
        let read = read_at_most(&file, &mut bytes, 0).await.map_err(failed)?;
        let length = interruptible(|| file.len()).await.map_err(failed)?;
        match ChunkHeader::decode(&bytes[..read]) {
            Err(ChunkFlaw::Newer) => return Err(StorageError::NewerVersion { file: name }),
            Err(ChunkFlaw::Field { offset, field }) => return corrupt(offset, &format!("{field} can't be this")),
            Ok(found) if found.uuid != header.uuid => return Err(StorageError::OtherStore { file: name }),
            Ok(found) if found != header => return corrupt(chunk_at::PAGE_BYTES, "it is another chunk's header"),
            Ok(_) => {}
        }
        let pages = u32::try_from(length / page_bytes::<B>()).unwrap_or(u32::MAX);
        let capacity = pages.min(super::directory::bitmap_pages::<B>()).max(least_capacity);
        let frames = Frames::new(capacity, blocks);
        Ok((Chunk { number: header.chunk, frames, file, writer: OnceLock::new() }, length))
    }

    /// A new file, with its header; nothing of it is durable yet.
    pub(super) async fn create<D: Dir<File = F>>(
        dir: &D,
        header: ChunkHeader,
        capacity: u32,
        blocks: &Arc<Blocks<B>>,
    ) -> Result<Chunk<F, B>, StorageError> {
        let name = name_of(header.chunk);
        let opened = interruptible(|| dir.open(&name, OpenMode::CreateNew)).await;
        let file = opened.map_err(|error| StorageError::io("create", &*name, &error))?;
        let frames = Frames::new(capacity, blocks);
        let chunk = Chunk { number: header.chunk, frames, file, writer: OnceLock::new() };
        let mut page = header.encode().to_vec();
        page.resize(page_bytes::<B>() as usize, 0);
        chunk.write(0, &mut [IoSlice::new(&page)]).await?;
        Ok(chunk)
    }

    /// From here on it can be written. What is beyond these pages is cut, durably: a length that is found is not a durable one.
    pub(super) async fn establish<D: Dir<File = F>>(&self, dir: &D, pages: u32) -> Result<(), StorageError> {
        let name = name_of(self.number);
        let failed = |operation| {
            let name = name.clone();
            move |error: io::Error| StorageError::io(operation, name, &error)
        };
        let file = interruptible(|| dir.open(&name, OpenMode::Write)).await.map_err(failed("open"))?;
        let length = u64::from(pages) * page_bytes::<B>();
        if interruptible(|| file.len()).await.map_err(failed("read"))? > length {
            interruptible(|| file.set_len(length)).await.map_err(failed("cut"))?;
            interruptible(|| file.sync_all()).await.map_err(failed("sync"))?;
        }
        // (If it was established before, that handle does as well.)
        let _ = self.writer.set(file);
        Ok(())
    }

    fn file(&self) -> &F {
        self.writer.get().unwrap_or(&self.file)
    }

    /// The page that `child` names, checked. After an error the node is none.
    pub(super) async fn read_page(
        &self,
        child: &ChildRef,
        node: &mut Node<B>,
        plants: &Plants,
    ) -> Result<(), StorageError> {
        let bytes = self.read(child.page.index, page_bytes::<B>()).await?;
        let stated = bytes.get(page_at::CRC..).and_then(|rest| rest.first_chunk()).map(|crc| u32::from_le_bytes(*crc));
        let child = match stated {
            Some(crc) if crc != child.crc && planted!(plants, CkptChildUnchecked) => ChildRef { crc, ..*child },
            _ => *child,
        };
        node.decode_into(&bytes, &child).map_err(corrupt_page::<B>)
    }

    /// A value in pages of its own, checked. The caller has made sure that the file is that long.
    pub(super) async fn read_run(&self, run: &Run) -> Result<Arc<[u8]>, StorageError> {
        let bytes = self.read(run.page.index, run.bytes).await?;
        if bytes.len() as u64 == run.bytes && crc32fast::hash(&bytes) == run.crc {
            return Ok(bytes.into());
        }
        let offset = u64::from(run.page.index) * page_bytes::<B>();
        Err(StorageError::Corrupt { file: name_of(self.number), offset, what: "wrong checksum of a value".to_owned() })
    }

    /// So many bytes from a page on, or as many as there are.
    pub(super) async fn read(&self, page: u32, bytes: u64) -> Result<Vec<u8>, StorageError> {
        let mut buffer = vec![0; bytes as usize];
        let offset = u64::from(page) * page_bytes::<B>();
        let read = read_at_most(self.file(), &mut buffer, offset).await;
        buffer.truncate(read.map_err(|error| StorageError::io("read", name_of(self.number), &error))?);
        Ok(buffer)
    }

    /// Writes whole pages from `page` on.
    pub(super) async fn write(&self, page: u32, bytes: &mut [IoSlice<'_>]) -> Result<(), StorageError> {
        let offset = u64::from(page) * page_bytes::<B>();
        let (_, written) = write_all_vectored_at(self.file(), bytes, offset).await;
        written.map_err(|error| StorageError::io("write", name_of(self.number), &error))
    }

    /// Asks the machine to begin with these pages; see [`File::begin_write_back`].
    pub(super) fn begin_write_back(&self, page: u32, pages: u32) {
        let bytes = |pages: u32| u64::from(pages) * page_bytes::<B>();
        self.file().begin_write_back(bytes(page), bytes(pages));
    }

    /// Makes durable what was written.
    pub(super) async fn sync(&self) -> Result<(), StorageError> {
        let synced = interruptible(|| self.file().sync_data()).await;
        synced.map_err(|error| StorageError::io("sync", name_of(self.number), &error))
    }
}

/// Where a page's error is in its file.
pub(super) fn corrupt_page<const B: usize>(error: PageError) -> StorageError {
    let offset = u64::from(error.page.index) * page_bytes::<B>() + error.offset as u64;
    StorageError::Corrupt { file: name_of(error.page.chunk), offset, what: error.what.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_numbers() {
        for (number, name) in [(1, "chunk-00000001.pages"), (u32::MAX, "chunk-4294967295.pages")] {
            assert_eq!((name_of(number).as_str(), number_of(name)), (name, Some(number)));
        }
        for name in ["chunk-1.pages", "chunk-00000000.pages", "chunk-+0000001.pages", "chunk-000000001.pages", "root-0"]
        {
            assert_eq!(number_of(name), None, "{name}");
        }
    }

    #[test]
    fn a_header_comes_back_and_has_one_form() {
        let header = ChunkHeader { page_bytes: 8192, uuid: [9; 16], chunk: 7 };
        let bytes = header.encode();
        assert_eq!(ChunkHeader::decode(&bytes), Ok(header));
        for at in 0..CHUNK_HEADER_BYTES {
            let mut other = bytes;
            other[at] ^= 1;
            assert!(ChunkHeader::decode(&other).is_err() && ChunkHeader::decode(&bytes[..at]).is_err());
            let crc = crc32fast::hash(&other[..chunk_at::CRC]);
            put(&mut other, chunk_at::CRC, crc.to_le_bytes());
            if let Ok(read) = ChunkHeader::decode(&other) {
                assert_eq!(read.encode(), other, "byte {at}");
            }
        }
        let mut newer = bytes;
        newer[chunk_at::MAJOR] = 2;
        let crc = crc32fast::hash(&newer[..chunk_at::CRC]);
        put(&mut newer, chunk_at::CRC, crc.to_le_bytes());
        assert_eq!(ChunkHeader::decode(&newer), Err(ChunkFlaw::Newer));
    }
}
