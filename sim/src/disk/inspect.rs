//! What oracles look at, and what a test puts in place behind the engine's back.

use std::{ffi::OsStr, path::Path, sync::Arc};

use super::{DirId, Disk, Name, dir, file::Inode};

impl Disk {
    /// The directory at `path`, if it exists.
    #[must_use]
    pub fn dir_at(&self, path: &Path) -> Option<DirId> {
        dir::find(&self.dirs, path)
    }

    /// Creates the directory at `path`, durable at once, or finds it.
    pub fn make_dir(&mut self, path: &Path) -> DirId {
        match self.dir_at(path) {
            Some(dir) => dir,
            None => self.push_dir(dir::normalize(path)),
        }
    }

    /// The names in a directory with the live length of each file, sorted.
    pub fn files(&self, dir: DirId) -> impl Iterator<Item = (&Name, u64)> {
        self.dirs[dir.0 as usize].live.iter().map(|(name, &inode)| (name, self.inode(inode).live.len))
    }

    /// The live content of a file.
    #[must_use]
    pub fn read_file(&self, dir: DirId, name: impl AsRef<OsStr>) -> Option<Vec<u8>> {
        self.find(dir, name.as_ref()).map(|inode| self.inode(inode).live.bytes())
    }

    /// Reads the live content of a file from `offset` on; returns how many bytes there were, or `None` if there is no such
    /// file.
    #[must_use]
    pub fn read_part(&self, dir: DirId, name: impl AsRef<OsStr>, offset: u64, buf: &mut [u8]) -> Option<usize> {
        self.find(dir, name.as_ref()).map(|inode| self.inode(inode).live.read(offset, buf))
    }

    /// The live content of a file from `offset` on.
    #[must_use]
    pub fn read_file_from(&self, dir: DirId, name: impl AsRef<OsStr>, offset: u64) -> Option<Vec<u8>> {
        let view = &self.inode(self.find(dir, name.as_ref())?).live;
        let mut bytes = vec![0; view.len.saturating_sub(offset) as usize];
        view.read(offset, &mut bytes);
        Some(bytes)
    }

    /// Reads the live content of an open file from `offset` on; returns how many bytes there were.
    #[must_use]
    pub fn read_open(&self, file: super::FileId, offset: u64, buf: &mut [u8]) -> usize {
        self.files.get(file.0).map_or(0, |handle| self.inode(handle.inode).live.read(offset, buf))
    }

    /// Whether both directories have the same names with the same live content.
    #[must_use]
    pub fn same_content(&self, dir: DirId, other: &Disk, others: DirId) -> bool {
        let (mine, theirs) = (&self.dirs[dir.0 as usize].live, &other.dirs[others.0 as usize].live);
        mine.len() == theirs.len()
            && mine.iter().zip(theirs).all(|((name, &inode), (their_name, &their_inode))| {
                let (one, two) = (self.inode(inode), other.inode(their_inode));
                name == their_name && (std::ptr::eq(one, two) || one.live.same(&two.live))
            })
    }

    /// Whether any effect is pending, so that a power cut could change something.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.dirs.iter().all(|dir| dir.settled()) && self.inodes.iter().flatten().all(|inode| inode.settled())
    }

    /// Puts a file in place, durable at once, replacing what has that name: for files that the engine does not know.
    pub fn write_foreign(&mut self, dir: DirId, name: impl AsRef<OsStr>, content: &[u8]) {
        let inode = self.push_inode(Inode::durable(dir.0, content));
        let dir = Arc::make_mut(&mut self.dirs[dir.0 as usize]);
        let name: Name = name.as_ref().into();
        dir.live.insert(name.clone(), inode);
        dir.disk.insert(name, inode);
        self.collect();
    }

    /// Damages a file: replaces bytes on the medium and in the cache, as the next reader after an eviction would see it.
    /// Meant for a crash image, where both are the same. Bytes past the end are ignored. Returns how many were replaced,
    /// or `None` if there is no such file.
    pub fn damage(&mut self, dir: DirId, name: impl AsRef<OsStr>, offset: u64, bytes: &[u8]) -> Option<usize> {
        let inode = self.find(dir, name.as_ref())?;
        let inode = self.inode_mut(inode);
        let mut replaced = 0;
        for view in [&mut inode.disk, &mut inode.live] {
            replaced = bytes.len().min(view.len.saturating_sub(offset) as usize);
            if replaced > 0 {
                view.write(offset, &bytes[..replaced]);
            }
        }
        Some(replaced)
    }

    /// The file is gone, name and all, as if it had never been. False if there is no such file.
    pub fn lose(&mut self, dir: DirId, name: impl AsRef<OsStr>) -> bool {
        let directory = Arc::make_mut(&mut self.dirs[dir.0 as usize]);
        let there = directory.live.remove(name.as_ref()).is_some();
        directory.disk.remove(name.as_ref());
        self.collect();
        there
    }

    /// Flips the bits of `mask` in the byte at `offset`: bit rot. False if there is no such byte.
    pub fn flip(&mut self, dir: DirId, name: impl AsRef<OsStr>, offset: u64, mask: u8) -> bool {
        let name = name.as_ref();
        let Some(inode) = self.find(dir, name) else { return false };
        let mut byte = [0];
        self.inode(inode).live.read(offset, &mut byte) == 1
            && self.damage(dir, name, offset, &[byte[0] ^ mask]) == Some(1)
    }

    fn find(&self, dir: DirId, name: &OsStr) -> Option<u32> {
        self.dirs[dir.0 as usize].live.get(name).copied()
    }
}
