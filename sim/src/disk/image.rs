//! A disk as it stood at one moment, to be read: oracles judge what a recovery would make of it.
//!
//! Taking an image copies nothing and changes nothing: it shares the directories and files of the disk, which are copied
//! when the disk goes on.

use std::{io, path::Path, sync::Arc};

use engine::env::Entry;

use super::{
    DirId, Disk,
    dir::{self, Directory, Names},
    file::{Inode, View},
};

/// What a disk held when the image was taken.
#[derive(Clone, Debug)]
pub struct Image {
    dirs: Vec<Arc<Directory>>,
    inodes: Vec<Option<Arc<Inode>>>,
    seen: Seen,
}

/// Which of the two views of a disk an image shows.
#[derive(Clone, Copy, Debug)]
enum Seen {
    /// What the process sees.
    Live,
    /// What completed syncs promise, and nothing else.
    Durable,
}

impl Seen {
    fn view(self, inode: &Inode) -> &View {
        match self {
            Seen::Live => &inode.live,
            Seen::Durable => &inode.disk,
        }
    }

    fn names(self, dir: &Directory) -> &Names {
        match self {
            Seen::Live => &dir.live,
            Seen::Durable => &dir.disk,
        }
    }
}

/// A file of an image. It stays readable without the image.
#[derive(Clone, Debug)]
pub struct ImageFile {
    inode: Arc<Inode>,
    seen: Seen,
}

impl Disk {
    /// The disk as the process sees it.
    #[must_use]
    pub fn image(&self) -> Image {
        self.seen(Seen::Live)
    }

    /// What a power cut now would leave at worst: what [`Disk::pessimal`] holds.
    #[must_use]
    pub fn durable_image(&self) -> Image {
        self.seen(Seen::Durable)
    }

    fn seen(&self, seen: Seen) -> Image {
        Image { dirs: self.dirs.clone(), inodes: self.inodes.clone(), seen }
    }
}

impl Image {
    /// Whether both show the same files with the same bytes for sure: they share every page. Whoever reads them then reads the
    /// same.
    #[must_use]
    pub fn shares_all(&self, other: &Image) -> bool {
        self.dirs.len() == other.dirs.len()
            && self.dirs.iter().zip(&other.dirs).all(|(one, two)| {
                let (names, others) = (self.seen.names(one), other.seen.names(two));
                one.path == two.path
                    && names.len() == others.len()
                    && names.iter().zip(others).all(|((name, &inode), (other_name, &other_inode))| {
                        let (one, two) = (self.view(inode), other.view(other_inode));
                        name == other_name && one.shares_all(two)
                    })
            })
    }

    /// The directory at `path`, if it exists.
    #[must_use]
    pub fn dir_at(&self, path: &Path) -> Option<DirId> {
        dir::find(&self.dirs, path)
    }

    /// All entries of a directory, sorted by name.
    #[must_use]
    pub fn list(&self, dir: DirId) -> Vec<Entry> {
        let files = self.names(dir).iter().map(|(name, &inode)| (name, self.view(inode).len));
        dir::entries(&self.dirs, dir, files)
    }

    /// The file of this name.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn open(&self, dir: DirId, name: &str) -> io::Result<ImageFile> {
        let inode = self.names(dir).get(std::ffi::OsStr::new(name));
        let &inode = inode.ok_or(io::ErrorKind::NotFound)?;
        Ok(ImageFile { inode: self.inode(inode).clone(), seen: self.seen })
    }

    fn inode(&self, inode: u32) -> &Arc<Inode> {
        self.inodes[inode as usize].as_ref().expect("a named inode is in the table")
    }

    fn names(&self, dir: DirId) -> &Names {
        self.seen.names(&self.dirs[dir.0 as usize])
    }

    fn view(&self, inode: u32) -> &View {
        self.seen.view(self.inode(inode))
    }
}

#[expect(clippy::len_without_is_empty, reason = "the length of a file, not a collection")]
impl ImageFile {
    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.seen.view(&self.inode).len
    }

    /// How many bytes from `offset` on are zeros for sure; there may be more.
    #[must_use]
    pub fn known_zeros(&self, offset: u64) -> u64 {
        self.seen.view(&self.inode).known_zeros(offset)
    }

    /// Reads from `offset` on; returns how many bytes there were.
    #[must_use]
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        self.seen.view(&self.inode).read(offset, buf)
    }
}
