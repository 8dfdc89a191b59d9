//! The machine of the model checks: one kind of file, which is only memory.

use std::{future::Future, io, path::Path, time::Duration};

use crate::{
    env::{Dir, Entry, Env, File, OpenMode},
    sync::Mutex,
};

/// A machine without anything but one kind of file.
#[derive(Clone)]
pub(crate) struct Memory;

/// A file that takes each byte once, in order.
#[derive(Default)]
pub(crate) struct MemoryFile {
    pub(crate) bytes: Mutex<Vec<u8>>,
}

impl Env for Memory {
    type Dir = Memory;
    type Task = std::future::Ready<()>;

    async fn dir(&self, _: &Path, _: bool) -> io::Result<Memory> {
        Ok(Memory)
    }
    fn wall_ns(&self) -> i64 {
        0
    }
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
    fn fill_random(&self, buf: &mut [u8]) {
        buf.fill(1);
    }
    async fn yield_now(&self) {}
    fn spawn(&self, _: &'static str, _: impl Future<Output = ()> + Send + 'static) -> io::Result<Self::Task> {
        Ok(std::future::ready(()))
    }
    async fn sleep(&self, _: Duration) {}
}

impl Dir for Memory {
    type File = MemoryFile;
    type Lock = ();

    async fn lock(&self) -> io::Result<()> {
        Ok(())
    }
    async fn open(&self, _: &str, _: OpenMode) -> io::Result<MemoryFile> {
        Ok(MemoryFile::default())
    }
    async fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Ok(())
    }
    async fn remove(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
    async fn list(&self) -> io::Result<Vec<Entry>> {
        Ok(Vec::new())
    }
    async fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl File for MemoryFile {
    async fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }
    async fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Ok(0)
    }
    async fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let mut bytes = self.bytes.lock().unwrap();
        assert_eq!(bytes.len() as u64, offset, "in order, each byte once");
        bytes.extend_from_slice(buf);
        Ok(buf.len())
    }
    async fn write_synced(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(buf, offset).await.map(drop)
    }
    async fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    async fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }
    async fn set_len(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
    #[cfg(feature = "plants")]
    async fn sync_pages(&self) -> io::Result<()> {
        Ok(())
    }
}
