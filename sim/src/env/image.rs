//! A machine that only reads: oracles recover the image of a disk with it. Every call is ready at once, nothing is drawn,
//! and what would change the image is refused.

use std::{future::Future, io, path::Path, sync::Arc, time::Duration};

use engine::env::{Dir, Entry, Env, File, OpenMode};

use crate::disk::{DirId, Image, ImageFile};

/// The machine on an [`Image`].
#[derive(Clone, Debug)]
pub struct ImageEnv {
    image: Arc<Image>,
}

/// A directory of an [`ImageEnv`].
#[derive(Clone, Debug)]
pub struct ImageDir {
    image: Arc<Image>,
    id: DirId,
}

impl ImageEnv {
    /// The machine on this image.
    #[must_use]
    pub fn new(image: Image) -> ImageEnv {
        ImageEnv { image: Arc::new(image) }
    }
}

impl Env for ImageEnv {
    type Dir = ImageDir;
    type Task = std::future::Ready<()>;

    async fn dir(&self, path: &Path, _: bool) -> io::Result<ImageDir> {
        let id = self.image.dir_at(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(ImageDir { image: self.image.clone(), id })
    }

    fn wall_ns(&self) -> i64 {
        0
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    /// Whoever only reads needs none.
    fn fill_random(&self, buf: &mut [u8]) {
        buf.fill(0);
    }

    async fn yield_now(&self) {}

    /// Nothing runs in the background: the task has ended at once, without having begun.
    fn spawn(&self, _: &'static str, _: impl Future<Output = ()> + Send + 'static) -> io::Result<Self::Task> {
        Ok(std::future::ready(()))
    }

    async fn sleep(&self, _: Duration) {}
}

impl Dir for ImageDir {
    type File = ImageFile;
    /// No process lives on an image: the lock is free.
    type Lock = ();

    async fn lock(&self) -> io::Result<()> {
        Ok(())
    }

    async fn open(&self, name: &str, mode: OpenMode) -> io::Result<ImageFile> {
        match mode {
            OpenMode::Read => self.image.open(self.id, name),
            OpenMode::Write | OpenMode::CreateNew => refused(),
        }
    }

    async fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        refused()
    }

    async fn remove(&self, _: &str) -> io::Result<()> {
        refused()
    }

    async fn list(&self) -> io::Result<Vec<Entry>> {
        Ok(self.image.list(self.id))
    }

    async fn sync(&self) -> io::Result<()> {
        refused()
    }
}

impl File for ImageFile {
    async fn len(&self) -> io::Result<u64> {
        Ok(ImageFile::len(self))
    }

    async fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(self.read(offset, buf))
    }

    /// An image knows which pages nobody has written, or with zeros only. (A machine under test doesn't, so that opens look
    /// behind the end of a log byte by byte.)
    fn known_zeros(&self, offset: u64) -> u64 {
        ImageFile::known_zeros(self, offset)
    }

    async fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        refused()
    }

    async fn write_synced(&self, _: &[u8], _: u64) -> io::Result<()> {
        refused()
    }

    async fn sync_data(&self) -> io::Result<()> {
        refused()
    }

    async fn sync_all(&self) -> io::Result<()> {
        refused()
    }

    async fn set_len(&self, _: u64) -> io::Result<()> {
        refused()
    }

    async fn sync_pages(&self) -> io::Result<()> {
        refused()
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}
