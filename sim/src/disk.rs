//! The simulated disk: every state that a correct kernel and disk could leave is reachable, and no other.
//!
//! The profile is `posix`, the most adversarial one. Its promises, which `tests/litmus.rs` checks state by state:
//! - A write is seen by this process at once, and is *pending* until a sync covers it. At a power cut each pending sector
//!   survives or vanishes by itself, whole; a sector that was written again while pending may land as any byte mix.
//! - The length is pending independently of the data: a length that survives without its data shows zeros, or bytes of
//!   files that were removed from the same directory.
//! - Names are pending until the directory is synced, each by itself; a rename is atomic. `sync_all` of a file says
//!   nothing about its name.
//! - A sync covers what existed when it **began**. A failed one drops what it covered: each sector may or may not have
//!   reached the disk, the cache keeps the new bytes until it evicts them, and each handle reports the error once.
//! - A shrink is an ordered version of zeros: once a later length survives, the bytes that were cut are gone.
//! - A process kill keeps the cache. Of a write in flight it keeps nothing, all, or a prefix that ends at a page boundary.
//!
//! The disk knows neither time nor tasks. Operations have two steps, so that a crash can come between them: they are
//! owned by the disk from [`Disk::begin`] on, and take effect at [`Disk::complete`]. A clone shares all pages.

mod crash;
mod dir;
mod draw;
mod file;
mod image;
mod inspect;
mod keep;
mod op;
mod table;

use std::{ffi::OsStr, io, path::Path, sync::Arc};

use bytes::Bytes;
use engine::env::{Entry, OpenMode};

pub(crate) use self::op::{owned, prepared, zeros};
pub use self::{
    crash::CutReport,
    dir::Name,
    file::PAGE_BYTES,
    image::{Image, ImageFile},
    keep::{Keep, Kept},
    op::{Done, Inject, Op},
};
use self::{
    dir::Directory,
    draw::Draw,
    file::{Cover, Inode},
    table::Table,
};
use crate::prng::Prng;

/// `EIO`: what a failed device reports. It has no [`io::ErrorKind`] of its own.
const EIO: i32 = 5;
/// `EBADF`: a handle that doesn't allow the call.
const EBADF: i32 = 9;

/// What a disk is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskOptions {
    /// The unit that lands whole: 512 or 4096.
    pub sector_bytes: u32,
    /// How much file content fits, in bytes, counted in pages.
    pub capacity: u64,
}

impl Default for DiskOptions {
    fn default() -> Self {
        DiskOptions { sector_bytes: 512, capacity: 1 << 30 }
    }
}

/// A disk with directories and files. Cloning it is how a crash image is taken; see also [`Disk::fork`].
#[derive(Clone, Debug)]
pub struct Disk {
    options: DiskOptions,
    /// The number of the newest effect.
    seq: u64,
    /// Nothing up to here is pending.
    settled_seq: u64,
    dirs: Vec<Arc<Directory>>,
    inodes: Vec<Option<Arc<Inode>>>,
    files: Table<Handle>,
    locks: Vec<DirId>,
    ops: Table<Flight>,
    next_id: u64,
    used_pages: u64,
}

/// A directory of one disk. Directories are never removed, so it stays valid, also in clones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirId(u32);

/// An open file of the present process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId(u64);

/// An operation in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpId(u64);

#[derive(Clone, Debug)]
struct Handle {
    inode: u32,
    writable: bool,
    /// A sync of this file failed since the handle was opened and it has not heard of it yet.
    error: bool,
    /// The owner is done with it, but an operation on it is still in flight.
    closing: bool,
}

#[derive(Clone, Debug)]
struct Flight {
    op: Op,
    inject: Inject,
    /// The newest effect when it began: what a sync covers.
    upto: u64,
}

impl Disk {
    /// An empty disk with a root directory.
    ///
    /// # Panics
    /// If the sector is neither 512 nor 4096 bytes.
    #[must_use]
    pub fn new(options: DiskOptions) -> Disk {
        assert!(matches!(options.sector_bytes, 512 | 4096), "a sector has 512 or 4096 bytes");
        Disk {
            options,
            seq: 0,
            settled_seq: 0,
            dirs: vec![Arc::new(Directory::default())],
            inodes: Vec::new(),
            files: Table::default(),
            locks: Vec::new(),
            ops: Table::default(),
            next_id: 0,
            used_pages: 0,
        }
    }

    /// A copy that shares all content, with its operations in flight.
    #[must_use]
    pub fn fork(&self) -> Disk {
        self.clone()
    }

    /// Accepts an operation. It belongs to the disk from now on.
    pub fn begin(&mut self, op: Op, inject: Inject) -> OpId {
        self.next_id += 1;
        self.ops.insert(self.next_id, Flight { op, inject, upto: self.seq });
        OpId(self.next_id)
    }

    /// Changes how much file content fits, in bytes.
    pub fn set_capacity(&mut self, capacity: u64) {
        self.options.capacity = capacity;
    }

    /// Whether it could ever be full.
    #[must_use]
    pub const fn bounded(&self) -> bool {
        self.options.capacity < u64::MAX / 2
    }

    /// A number that grows with every operation, in this disk and in what is forked from it later.
    #[must_use]
    pub const fn age(&self) -> u64 {
        self.next_id
    }

    /// Begins and completes an operation that no fault strikes.
    ///
    /// # Errors
    /// What the operation returns.
    pub fn run(&mut self, op: Op) -> io::Result<Done> {
        let id = self.begin(op, Inject::Nothing);
        self.complete(id, &mut [])
    }

    /// Lets an operation take effect. `buf` is what a read fills.
    ///
    /// # Errors
    /// What the operation returns; `NotFound` if it is no longer in flight.
    pub fn complete(&mut self, id: OpId, buf: &mut [u8]) -> io::Result<Done> {
        let Some(flight) = self.ops.remove(id.0) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let closing = flight.op.file().filter(|file| self.files.get(file.0).is_some_and(|handle| handle.closing));
        let result = self.take_effect(flight, buf);
        if let Some(file) = closing {
            self.close(file);
        }
        result
    }

    fn take_effect(&mut self, Flight { op, inject, upto }: Flight, buf: &mut [u8]) -> io::Result<Done> {
        let failure = match inject {
            Inject::Nothing => None,
            Inject::Interrupted => return Err(io::ErrorKind::Interrupted.into()),
            Inject::Lies => return Ok(Done::Unit),
            Inject::Fails { full, seed } => {
                let error = if full { io::ErrorKind::StorageFull.into() } else { io::Error::from_raw_os_error(EIO) };
                Some((error, seed))
            }
        };
        match op {
            Op::SyncData { file } => self.sync(file, upto, Cover::Data, failure),
            Op::SyncAll { file } => self.sync(file, upto, Cover::All, failure),
            Op::SyncPages { file } => self.sync(file, upto, Cover::Pages, failure),
            Op::SyncDir { dir } => self.sync_dir(dir, upto, failure),
            Op::Write { file, offset, mut data } => {
                if let Some((error, seed)) = failure {
                    data.truncate(Prng::new(seed).below(data.len() as u64 + 1) as usize);
                    if !data.is_empty() {
                        self.write(file, offset, &data)?;
                    }
                    return Err(error);
                }
                self.write(file, offset, &data)
            }
            Op::WriteSynced { file, offset, data } => self.write_synced(file, offset, data, failure),
            op => match failure {
                Some((error, _)) => Err(error),
                None => self.plain(op, buf),
            },
        }
    }

    /// Closes a file, once no operation on it is in flight; unknown ids are ignored.
    pub fn close(&mut self, file: FileId) {
        if self.ops.values().any(|flight| flight.op.file() == Some(file)) {
            if let Some(handle) = self.files.get_mut(file.0) {
                handle.closing = true;
            }
        } else if let Some(handle) = self.files.remove(file.0) {
            // Mostly the file has a name still, and there is nothing to look for.
            if !self.dirs.iter().any(|dir| dir.names().any(|inode| inode == handle.inode)) {
                self.collect();
            }
        }
    }

    /// Releases the lock on a directory.
    pub fn unlock(&mut self, dir: DirId) {
        self.locks.retain(|&locked| locked != dir);
    }

    /// The cache forgets the clean pages of a file; true if a reader can tell.
    pub fn evict(&mut self, file: FileId) -> bool {
        match self.files.get(file.0) {
            // Look before copying a shared file.
            Some(handle) if self.inode(handle.inode).diverged() => {
                let inode = handle.inode;
                self.inode_mut(inode).evict()
            }
            _ => false,
        }
    }

    /// Whether the cache of a file may hold something that the disk doesn't, and that nobody will write.
    #[must_use]
    pub fn evictable(&self, file: FileId) -> bool {
        self.files.get(file.0).is_some_and(|handle| self.inode(handle.inode).diverged())
    }

    /// The name under which the process sees an open file; `None` if it was removed.
    #[must_use]
    pub fn name_of(&self, file: FileId) -> Option<Name> {
        let inode = self.files.get(file.0)?.inode;
        // A rename stays in its directory.
        let names = &self.dirs[self.inode(inode).home as usize].live;
        names.iter().find(|(_, named)| **named == inode).map(|(name, _)| name.clone())
    }

    /// The directory of an open file, if it has a name.
    #[must_use]
    pub fn dir_of(&self, file: FileId) -> Option<DirId> {
        let inode = self.files.get(file.0)?.inode;
        let of = self.dirs.iter().position(|dir| dir.live.values().any(|named| *named == inode))?;
        u32::try_from(of).ok().map(DirId)
    }

    fn plain(&mut self, op: Op, buf: &mut [u8]) -> io::Result<Done> {
        match op {
            Op::Dir { path, create } => self.open_dir(&path, create).map(Done::Dir),
            Op::Lock { dir } => {
                if self.locks.contains(&dir) {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                self.locks.push(dir);
                Ok(Done::Unit)
            }
            Op::Open { dir, name, mode } => self.open(dir, name, mode).map(Done::File),
            Op::Rename { dir, from, to } => {
                let inode = self.existing(dir, &from)?;
                if self.is_dir(dir, &to) {
                    return Err(io::ErrorKind::IsADirectory.into());
                }
                if from != to {
                    let seq = self.next_seq();
                    if self.dir_mut(dir).rename(seq, from, to, inode) {
                        self.collect();
                    }
                }
                Ok(Done::Unit)
            }
            Op::Remove { dir, name } => {
                self.existing(dir, &name)?;
                let seq = self.next_seq();
                self.dir_mut(dir).remove(seq, name);
                self.collect();
                Ok(Done::Unit)
            }
            Op::List { dir } => Ok(Done::Entries(self.list(dir))),
            Op::Len { file } => {
                let inode = self.handle(file)?.inode;
                Ok(Done::Count(self.inode(inode).live.len))
            }
            Op::Read { file, offset, length } => {
                let inode = self.handle(file)?.inode;
                let length = buf.len().min(length as usize);
                Ok(Done::Count(self.inode(inode).live.read(offset, &mut buf[..length]) as u64))
            }
            Op::SetLen { file, len } => {
                let (inode, sector_bytes) = (self.writable(file)?, self.options.sector_bytes as usize);
                let before = self.inode(inode).live.allocated();
                let seq = self.next_seq();
                self.inode_mut(inode).set_len(seq, len, sector_bytes);
                self.used_pages -= before - self.inode(inode).live.allocated();
                Ok(Done::Unit)
            }
            Op::Write { .. }
            | Op::WriteSynced { .. }
            | Op::SyncData { .. }
            | Op::SyncAll { .. }
            | Op::SyncPages { .. }
            | Op::SyncDir { .. } => {
                unreachable!("take_effect handles writes and syncs, which fail in their own ways")
            }
        }
    }

    fn open_dir(&mut self, path: &Path, create: bool) -> io::Result<DirId> {
        if let Some(dir) = self.dir_at(path) {
            return Ok(dir);
        }
        let path = dir::normalize(path);
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let Some(parent) = self.dir_at(Path::new(parent)) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if self.dirs[parent.0 as usize].live.contains_key(OsStr::new(name)) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        if !create {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(self.push_dir(path))
    }

    fn open(&mut self, dir: DirId, name: Name, mode: OpenMode) -> io::Result<FileId> {
        let inode = match mode {
            OpenMode::Read | OpenMode::Write => self.existing(dir, &name)?,
            OpenMode::CreateNew => {
                if self.dirs[dir.0 as usize].live.contains_key(&name) || self.is_dir(dir, &name) {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                let inode = self.push_inode(Inode::empty(dir.0));
                let seq = self.next_seq();
                self.dir_mut(dir).add(seq, name, inode);
                inode
            }
        };
        self.next_id += 1;
        self.files
            .insert(self.next_id, Handle { inode, writable: mode != OpenMode::Read, error: false, closing: false });
        Ok(FileId(self.next_id))
    }

    fn list(&self, dir: DirId) -> Vec<Entry> {
        dir::entries(&self.dirs, dir, self.files(dir))
    }

    fn write(&mut self, file: FileId, offset: u64, data: &[u8]) -> io::Result<Done> {
        let (inode, sector_bytes) = (self.writable(file)?, self.options.sector_bytes as usize);
        if data.is_empty() {
            return Ok(Done::Count(0));
        }
        let mut length = data.len();
        let free = (self.options.capacity / PAGE_BYTES as u64).saturating_sub(self.used_pages);
        while self.inode(inode).missing(offset, length) > free {
            // Drop the last page of the write: what fits is a short write, the rest is the caller's next error.
            let end = offset + length as u64 - 1;
            length = length.saturating_sub((end % PAGE_BYTES as u64) as usize + 1);
        }
        if length == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.used_pages += self.inode(inode).missing(offset, length);
        let seq = self.next_seq();
        self.inode_mut(inode).write(seq, offset, &data[..length], sector_bytes);
        Ok(Done::Count(length as u64))
    }

    /// A failed one may have written a prefix, and drops what it should have made durable like a failed sync.
    fn write_synced(
        &mut self,
        file: FileId,
        offset: u64,
        mut data: Bytes,
        failure: Option<(io::Error, u64)>,
    ) -> io::Result<Done> {
        if let Some((_, seed)) = &failure {
            data.truncate(Prng::new(*seed).below(data.len() as u64 + 1) as usize);
        }
        let Done::Count(written) = self.write(file, offset, &data)? else { return Ok(Done::Unit) };
        if failure.is_some() {
            return self.sync(file, self.seq, Cover::Data, failure);
        }
        if written < data.len() as u64 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let (inode, sector_bytes) = (self.writable(file)?, self.options.sector_bytes as usize);
        self.inode_mut(inode).sync_range(offset, data.len(), sector_bytes);
        Ok(Done::Unit)
    }

    fn sync(&mut self, file: FileId, upto: u64, cover: Cover, failure: Option<(io::Error, u64)>) -> io::Result<Done> {
        let sector_bytes = self.options.sector_bytes as usize;
        let handle = self.files.get_mut(file.0).ok_or_else(bad_handle)?;
        let (inode, reported) = (handle.inode, std::mem::take(&mut handle.error));
        if let Some((error, seed)) = failure {
            self.inode_mut(inode).fail_sync(upto, sector_bytes, &mut Prng::new(seed));
            for (id, other) in self.files.iter_mut() {
                other.error |= other.inode == inode && id != file.0;
            }
            return Err(error);
        }
        if !self.inode(inode).settled() {
            self.inode_mut(inode).sync(upto, cover, sector_bytes);
        }
        // What other handles' failed sync dropped stays dropped; this handle hears of it once.
        if reported { Err(io::Error::from_raw_os_error(EIO)) } else { Ok(Done::Unit) }
    }

    fn sync_dir(&mut self, dir: DirId, upto: u64, failure: Option<(io::Error, u64)>) -> io::Result<Done> {
        let directory = self.dir_mut(dir);
        let Some((error, seed)) = failure else {
            if directory.sync(upto) {
                self.collect();
            }
            return Ok(Done::Unit);
        };
        let mut prng = Prng::new(seed);
        directory.fail_sync(upto, &mut Draw::odds(&mut prng, 128));
        self.collect();
        Err(error)
    }

    /// Frees files that no legal state and no handle can reach; their bytes may show up in later files.
    fn collect(&mut self) {
        let mut reachable = vec![false; self.inodes.len()];
        for dir in &self.dirs {
            dir.names().for_each(|inode| reachable[inode as usize] = true);
        }
        self.files.values().for_each(|handle| reachable[handle.inode as usize] = true);
        for (slot, reachable) in self.inodes.iter_mut().zip(reachable) {
            if !reachable && let Some(inode) = slot.take() {
                self.used_pages -= inode.live.allocated().min(self.used_pages);
                if inode.live.allocated() > 0 {
                    Arc::make_mut(&mut self.dirs[inode.home as usize]).recycle(inode.live.clone());
                }
            }
        }
    }

    fn existing(&self, dir: DirId, name: &Name) -> io::Result<u32> {
        if self.is_dir(dir, name) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let inode = self.dirs[dir.0 as usize].live.get(name).copied();
        inode.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn is_dir(&self, dir: DirId, name: &Name) -> bool {
        let parent = &self.dirs[dir.0 as usize].path;
        self.dirs.len() > 1
            && self.dirs.iter().any(|child| dir::child_of(&child.path, parent).is_some_and(|own| **name == *own))
    }

    fn handle(&self, file: FileId) -> io::Result<&Handle> {
        self.files.get(file.0).ok_or_else(bad_handle)
    }

    fn writable(&self, file: FileId) -> io::Result<u32> {
        let handle = self.handle(file)?;
        if handle.writable { Ok(handle.inode) } else { Err(bad_handle()) }
    }

    fn inode(&self, inode: u32) -> &Inode {
        self.inodes[inode as usize].as_ref().expect("a named or open inode is in the table")
    }

    fn inode_mut(&mut self, inode: u32) -> &mut Inode {
        Arc::make_mut(self.inodes[inode as usize].as_mut().expect("a named or open inode is in the table"))
    }

    fn dir_mut(&mut self, dir: DirId) -> &mut Directory {
        Arc::make_mut(&mut self.dirs[dir.0 as usize])
    }

    fn push_inode(&mut self, inode: Inode) -> u32 {
        self.used_pages += inode.live.allocated();
        let slot = match self.inodes.iter().position(Option::is_none) {
            Some(slot) => slot,
            None => {
                self.inodes.push(None);
                self.inodes.len() - 1
            }
        };
        self.inodes[slot] = Some(Arc::new(inode));
        slot as u32
    }

    fn push_dir(&mut self, path: Arc<str>) -> DirId {
        self.dirs.push(Arc::new(Directory::at(path)));
        DirId(self.dirs.len() as u32 - 1)
    }

    fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }
}

fn bad_handle() -> io::Error {
    io::Error::from_raw_os_error(EBADF)
}

#[cfg(test)]
mod tests;
