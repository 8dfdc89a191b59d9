//! A bounded wait for durability, on a real disk whose syncs hang or fail when told to.

use std::{
    future::{Future, poll_fn},
    io,
    path::Path,
    sync::{Arc, Mutex},
    task::{Poll, Waker},
    time::Duration,
};

use engine::{
    aof::{
        CommandLog, LogError, Position,
        options::{Fsync, Options},
    },
    env::{Dir, Entry, Env, File, OpenMode, OsDir, OsEnv, OsFile, OsLock, OsTask, block_on},
    keyspace::Keyspace,
};

/// How syncs of data end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Syncs {
    Work,
    Hang,
    Fail,
}

/// The real machine, but for its syncs.
#[derive(Clone)]
struct Machine(Arc<Mutex<(Syncs, Vec<Waker>)>>);

#[derive(Clone)]
struct MachineDir(OsDir, Machine);

struct MachineFile(OsFile, Machine);

impl Machine {
    fn new() -> Machine {
        Machine(Arc::new(Mutex::new((Syncs::Work, Vec::new()))))
    }

    fn let_syncs(&self, how: Syncs) {
        let wakers = {
            let mut state = self.0.lock().unwrap();
            state.0 = how;
            std::mem::take(&mut state.1)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Env for Machine {
    type Dir = MachineDir;
    type Task = OsTask;

    async fn dir(&self, path: &Path, create: bool) -> io::Result<MachineDir> {
        Ok(MachineDir(OsEnv.dir(path, create).await?, self.clone()))
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

impl Dir for MachineDir {
    type File = MachineFile;
    type Lock = OsLock;

    async fn lock(&self) -> io::Result<OsLock> {
        self.0.lock().await
    }
    async fn open(&self, name: &str, mode: OpenMode) -> io::Result<MachineFile> {
        Ok(MachineFile(self.0.open(name, mode).await?, self.1.clone()))
    }
    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to).await
    }
    async fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name).await
    }
    async fn list(&self) -> io::Result<Vec<Entry>> {
        self.0.list().await
    }
    async fn sync(&self) -> io::Result<()> {
        self.0.sync().await
    }
}

impl File for MachineFile {
    async fn len(&self) -> io::Result<u64> {
        self.0.len().await
    }
    async fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset).await
    }
    async fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(buf, offset).await
    }
    async fn write_synced(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_synced(buf, offset).await
    }
    async fn sync_data(&self) -> io::Result<()> {
        poll_fn(|context| {
            let mut state = self.1.0.lock().unwrap();
            match state.0 {
                Syncs::Work => Poll::Ready(Ok(())),
                Syncs::Fail => Poll::Ready(Err(io::Error::other("the disk fails"))),
                Syncs::Hang => {
                    state.1.push(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await?;
        self.0.sync_data().await
    }
    async fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all().await
    }
    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len).await
    }
    #[cfg(feature = "plants")]
    async fn sync_pages(&self) -> io::Result<()> {
        self.0.sync_pages().await
    }
}

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(20);

async fn open(machine: &Machine, path: &Path, append_fsync: Fsync) -> CommandLog<Machine> {
    let options = Options { append_fsync, ..Options::default() };
    CommandLog::open(machine.clone(), path, options, &mut Keyspace::new()).await.unwrap().0
}

#[test]
fn a_wait_that_times_out_loses_nothing_and_may_be_repeated() {
    for policy in [Fsync::Always, Fsync::EverySecond, Fsync::No] {
        let folder = tempfile::tempdir().unwrap();
        let machine = Machine::new();
        block_on(async {
            let log = open(&machine, folder.path(), policy).await;
            let first = log.append(0, &["INCR", "n"]).await.unwrap();
            log.wait_durable_for(first, LONG).await.unwrap();
            assert_eq!(log.durable(), first);

            machine.let_syncs(Syncs::Hang);
            let second = log.append(0, &["INCR", "n"]).await.unwrap();
            for _ in 0..3 {
                let began = OsEnv.monotonic();
                let late = log.wait_durable_for(second, SHORT).await;
                let told = (second.0, first.0);
                assert!(
                    matches!(late, Err(LogError::TimedOut { position, durable }) if (position, durable) == told),
                    "{policy:?}: {late:?}"
                );
                assert!(OsEnv.monotonic() - began >= SHORT && log.durable() == first);
            }
            // What is durable needs no time at all.
            log.wait_durable_for(first, Duration::ZERO).await.unwrap();
            let beyond = log.wait_durable_for(Position(second.0 + 1), SHORT).await;
            assert!(matches!(beyond, Err(LogError::NotAppended { .. })), "{beyond:?}");

            machine.let_syncs(Syncs::Work);
            log.wait_durable_for(second, LONG).await.unwrap();
            assert_eq!(log.durable(), second);
            log.close().await.unwrap();
        });
    }
}

#[test]
fn a_bounded_wait_works_on_another_executor() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::new();
    let executor = tokio::runtime::Builder::new_current_thread().build().unwrap();
    executor.block_on(async {
        let log = open(&machine, folder.path(), Fsync::No).await;
        machine.let_syncs(Syncs::Hang);
        let position = log.append(0, &["INCR", "n"]).await.unwrap();
        assert!(matches!(log.wait_durable_for(position, SHORT).await, Err(LogError::TimedOut { .. })));
        machine.let_syncs(Syncs::Work);
        log.wait_durable_for(position, LONG).await.unwrap();
        log.close().await.unwrap();
    });
}

#[test]
fn a_bounded_wait_fails_with_the_poison() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::new();
    block_on(async {
        let log = open(&machine, folder.path(), Fsync::No).await;
        let durable = log.append(0, &["INCR", "n"]).await.unwrap();
        log.wait_durable_for(durable, LONG).await.unwrap();
        machine.let_syncs(Syncs::Hang);
        let position = log.append(0, &["INCR", "n"]).await.unwrap();
        assert!(matches!(log.wait_durable_for(position, SHORT).await, Err(LogError::TimedOut { .. })));
        machine.let_syncs(Syncs::Fail);
        for _ in 0..2 {
            let poisoned = log.wait_durable_for(position, LONG).await;
            assert!(matches!(poisoned, Err(LogError::Poisoned(_))), "{poisoned:?}");
            machine.let_syncs(Syncs::Work); // a later sync proves nothing about the first
        }
        log.wait_durable_for(durable, LONG).await.unwrap();
    });
}
