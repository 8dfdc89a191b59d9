//! A machine for tests: the real one, but for syncs of data, which hang or fail when told to.

use std::{
    future::{Future, poll_fn},
    io,
    path::Path,
    sync::{Arc, Mutex},
    task::{Poll, Waker},
    time::Duration,
};

use crate::env::{Dir, Entry, Env, File, OpenMode, OsDir, OsEnv, OsFile, OsLock, OsTask};

/// How syncs of data end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Syncs {
    Work,
    Hang,
    Fail,
}

/// The real machine, but for its syncs.
#[derive(Clone)]
pub(crate) struct Faulty {
    state: Arc<Mutex<State>>,
}

struct State {
    /// Of directories whose path ends with this, or of all.
    only: Option<&'static str>,
    syncs: Syncs,
    wakers: Vec<Waker>,
    /// How many syncs hang now.
    hanging: u64,
}

#[derive(Clone)]
pub(crate) struct FaultyDir {
    dir: OsDir,
    machine: Faulty,
    chosen: Arc<str>,
}

pub(crate) struct FaultyFile {
    file: OsFile,
    dir: FaultyDir,
}

impl Faulty {
    pub(crate) fn new() -> Faulty {
        let state = State { only: None, syncs: Syncs::Work, wakers: Vec::new(), hanging: 0 };
        Faulty { state: Arc::new(Mutex::new(state)) }
    }

    pub(crate) fn let_syncs(&self, how: Syncs) {
        self.let_syncs_of(None, how);
    }

    /// Of files in directories whose path ends with `only`.
    pub(crate) fn let_syncs_of(&self, only: Option<&'static str>, how: Syncs) {
        let wakers = {
            let mut state = self.state.lock().unwrap();
            (state.only, state.syncs, state.hanging) = (only, how, 0);
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// How many syncs have begun to hang.
    pub(crate) fn hanging(&self) -> u64 {
        self.state.lock().unwrap().hanging
    }
}

impl Env for Faulty {
    type Dir = FaultyDir;
    type Task = OsTask;

    async fn dir(&self, path: &Path, create: bool) -> io::Result<FaultyDir> {
        let chosen = path.to_string_lossy().into();
        Ok(FaultyDir { dir: OsEnv.dir(path, create).await?, machine: self.clone(), chosen })
    }
    fn wall_ns(&self) -> i64 {
        OsEnv.wall_ns()
    }
    fn monotonic(&self) -> Duration {
        OsEnv.monotonic()
    }
    fn fill_random(&self, buf: &mut [u8]) {
        OsEnv.fill_random(buf);
    }
    async fn yield_now(&self) {}
    fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) -> io::Result<OsTask> {
        OsEnv.spawn(name, future)
    }
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send {
        OsEnv.sleep(duration)
    }
}

impl Dir for FaultyDir {
    type File = FaultyFile;
    type Lock = OsLock;

    async fn lock(&self) -> io::Result<OsLock> {
        self.dir.lock().await
    }
    async fn open(&self, name: &str, mode: OpenMode) -> io::Result<FaultyFile> {
        Ok(FaultyFile { file: self.dir.open(name, mode).await?, dir: self.clone() })
    }
    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.dir.rename(from, to).await
    }
    async fn remove(&self, name: &str) -> io::Result<()> {
        self.dir.remove(name).await
    }
    async fn list(&self) -> io::Result<Vec<Entry>> {
        self.dir.list().await
    }
    async fn sync(&self) -> io::Result<()> {
        self.dir.sync().await
    }
}

impl File for FaultyFile {
    async fn len(&self) -> io::Result<u64> {
        self.file.len().await
    }
    async fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset).await
    }
    async fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(buf, offset).await
    }
    async fn write_synced(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_synced(buf, offset).await
    }
    async fn sync_data(&self) -> io::Result<()> {
        let mut counted = false;
        poll_fn(|context| {
            let mut state = self.dir.machine.state.lock().unwrap();
            let meant = state.only.is_none_or(|only| self.dir.chosen.ends_with(only));
            match state.syncs {
                Syncs::Fail if meant => Poll::Ready(Err(io::Error::other("the disk fails"))),
                Syncs::Hang if meant => {
                    state.hanging += u64::from(!std::mem::replace(&mut counted, true));
                    state.wakers.push(context.waker().clone());
                    Poll::Pending
                }
                _ => Poll::Ready(Ok(())),
            }
        })
        .await?;
        self.file.sync_data().await
    }
    async fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all().await
    }
    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len).await
    }
    #[cfg(feature = "plants")]
    async fn sync_pages(&self) -> io::Result<()> {
        self.file.sync_pages().await
    }
}
