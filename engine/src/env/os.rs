//! The real machine, on Unix: each future runs its system call at the first poll and is then ready.
//!
//! - A directory is an open descriptor, and every name is resolved relative to it: renaming or replacing the path
//!   while the log is open redirects nothing.
//! - A name is one plain component, and what is opened is a regular file: no link is followed, no pipe is waited for.
//! - A sync that returned reached the device, as far as the platform can say so (`F_FULLFSYNC` on Apple's).
//! - Errors are passed on as the system gave them, with their `raw_os_error`; only refusals of this module have none.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "this is the one place that reaches the file system and the clock"
)]

use std::{
    ffi::OsStr,
    fs,
    future::Future,
    io::{self, IoSlice},
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, fs::FileExt},
    },
    path::{Component, Path},
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    thread,
    time::{Duration, Instant, SystemTime},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags},
    io::Errno,
};

use super::{
    Dir, Entry, EntryKind, Env, File, OpenMode,
    block_on::{block_on, wake_at},
};

/// The real machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsEnv;

/// A directory of the real machine, held open.
#[derive(Clone, Debug)]
pub struct OsDir(Arc<fs::File>);

/// An open regular file of the real machine.
#[derive(Debug)]
pub struct OsFile(fs::File);

/// The exclusive lock (`flock`) on a directory; released when dropped or when the process ends.
#[derive(Debug)]
pub struct OsLock(fs::File);

/// A thread that runs one future. Waiting for it blocks, and so does dropping it.
#[derive(Debug)]
pub struct OsTask(Option<thread::JoinHandle<()>>);

impl Env for OsEnv {
    type Dir = OsDir;
    type Task = OsTask;

    async fn dir(&self, path: &Path, create: bool) -> io::Result<OsDir> {
        match path.components().next_back() {
            Some(Component::Normal(name)) if create => create_dir(parent_of(path), name),
            // The root, `.` and `..` exist, or can't be created.
            _ => open_dir(CWD, path),
        }
        .map(|dir| OsDir(Arc::new(dir)))
    }

    fn wall_ns(&self) -> i64 {
        let saturated = |nanos: u128| i64::try_from(nanos).unwrap_or(i64::MAX);
        match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => saturated(after.as_nanos()),
            Err(before) => -saturated(before.duration().as_nanos()),
        }
    }

    fn monotonic(&self) -> Duration {
        static BEGAN: OnceLock<Instant> = OnceLock::new();
        BEGAN.get_or_init(Instant::now).elapsed()
    }

    /// # Panics
    /// If the system has no randomness to give: an identity that might repeat must never be written.
    fn fill_random(&self, buf: &mut [u8]) {
        fill_from_system(buf).expect("the system's source of randomness works");
    }

    async fn yield_now(&self) {
        // Threads are scheduled by the system; there is nobody to make room for.
    }

    fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) -> io::Result<OsTask> {
        let thread = thread::Builder::new().name(name.into()).spawn(move || block_on(future))?;
        Ok(OsTask(Some(thread)))
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send {
        Sleep(Instant::now().checked_add(duration))
    }
}

/// A sleep that parks the thread of [`block_on`] no longer than to its end; `None` is for ever.
struct Sleep(Option<Instant>);

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        match self.0 {
            Some(end) if Instant::now() >= end => Poll::Ready(()),
            Some(end) => {
                wake_at(end);
                Poll::Pending
            }
            None => Poll::Pending,
        }
    }
}

impl OsTask {
    /// A panic in the task was reported by its thread; nobody here can do more about it.
    fn join(&mut self) {
        if let Some(thread) = self.0.take() {
            drop(thread.join());
        }
    }
}

impl Future for OsTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        self.join();
        Poll::Ready(())
    }
}

impl Drop for OsTask {
    fn drop(&mut self) {
        self.join();
    }
}

/// The directory that holds the last component of `path`.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Opens the directory `name` in `parent`, creating it if it is missing.
fn create_dir(parent: &Path, name: &OsStr) -> io::Result<fs::File> {
    let parent = open_dir(CWD, parent)?;
    let name = Path::new(name);
    let dir = match open_dir(&parent, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o777)) {
                // Someone else was faster: theirs is as good.
                Ok(()) | Err(Errno::EXIST) => open_dir(&parent, name)?,
                Err(error) => return Err(error.into()),
            }
        }
        result => result?,
    };
    // Also when the name was there already: whoever created it may have been killed before this call, and a name that
    // is found is not a durable name.
    parent.sync_all()?;
    Ok(dir)
}

fn open_dir(base: impl AsFd, path: &Path) -> io::Result<fs::File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(base, path, flags, Mode::empty())?.into())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn fill_from_system(mut buf: &mut [u8]) -> io::Result<()> {
    use rustix::rand::{GetRandomFlags, getrandom};
    while !buf.is_empty() {
        match getrandom(&mut *buf, GetRandomFlags::empty()) {
            Ok(count) => buf = &mut buf[count..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn fill_from_system(buf: &mut [u8]) -> io::Result<()> {
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, buf)
}

impl Dir for OsDir {
    type File = OsFile;
    type Lock = OsLock;

    /// On file systems that emulate `flock` by byte-range locks (NFS) this fails, since a directory can't be opened
    /// for writing; a log does not belong there.
    async fn lock(&self) -> io::Result<OsLock> {
        // A descriptor of its own: `flock` belongs to the open file description, so that a second handle in this
        // process is refused just as one in another process.
        let dir = open_dir(&self.0, Path::new("."))?;
        dir.try_lock()?;
        Ok(OsLock(dir))
    }

    async fn open(&self, name: &str, mode: OpenMode) -> io::Result<OsFile> {
        let access = match mode {
            OpenMode::Read => OFlags::RDONLY,
            OpenMode::Write => OFlags::RDWR,
            OpenMode::CreateNew => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
        };
        // Without NONBLOCK, opening a pipe would wait for its other end; a regular file doesn't notice it.
        let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file: fs::File = match rustix::fs::openat(&self.0, plain(name)?, flags, Mode::from_raw_mode(0o666)) {
            Ok(file) => file.into(),
            // A link (MLINK on FreeBSD), a directory, a socket.
            Err(Errno::LOOP | Errno::MLINK | Errno::ISDIR | Errno::NXIO) => return Err(not_regular(name)),
            Err(error) => return Err(error.into()),
        };
        if file.metadata()?.is_file() { Ok(OsFile(file)) } else { Err(not_regular(name)) }
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, plain(from)?, &self.0, plain(to)?)?)
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, plain(name)?, AtFlags::empty())?)
    }

    async fn list(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let stat = match rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // Removed since the directory was read.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            let (kind, len) = if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                (EntryKind::File, u64::try_from(stat.st_size).unwrap_or(0))
            } else {
                (EntryKind::Other, 0)
            };
            entries.push(Entry { name: name.to_owned(), kind, len });
        }
        entries.sort_unstable_by(|left, right| left.name.cmp(&right.name));
        Ok(entries)
    }

    async fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

/// A name that stays inside its directory.
fn plain(name: &str) -> io::Result<&str> {
    if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) {
        let message = format!("{name:?} is not a plain file name");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(name)
}

fn not_regular(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not a regular file"))
}

impl Drop for OsLock {
    fn drop(&mut self) {
        // Closing is not enough: a child that was just forked, and has yet to exec, shares the lock until then. Should
        // this fail, the close that follows still releases it.
        let _ = self.0.unlock();
    }
}

impl File for OsFile {
    async fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    async fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    async fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(buf, offset)
    }

    #[cfg(target_os = "linux")]
    async fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::pwritev(&self.0, bufs, offset)?)
    }

    /// The kernel begins to write what is dirty of a range before it drops what is not (`POSIX_FADV_DONTNEED`); unlike a sync that is no
    /// commit of the file system's journal, and no flush of the disk's cache.
    #[cfg(target_os = "linux")]
    fn begin_write_back(&self, offset: u64, bytes: u64) {
        use rustix::fs::{Advice, fadvise};
        if let Some(bytes) = std::num::NonZeroU64::new(bytes) {
            // (Nothing depends on it.)
            let _ = fadvise(&self.0, offset, Some(bytes), Advice::DontNeed);
        }
    }

    #[cfg(target_os = "linux")]
    async fn reserve(&self, offset: u64, bytes: u64) -> io::Result<bool> {
        use rustix::{
            fs::{FallocateFlags, fallocate},
            io::Errno,
        };
        match fallocate(&self.0, FallocateFlags::KEEP_SIZE, offset, bytes) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// One system call on Linux; elsewhere a write and a sync.
    async fn write_synced(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match write_synced(&self.0, &buf[done..], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    async fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    /// More than was asked for: only the simulator tells the two apart, and here nobody should lose data to a plant.
    #[cfg(feature = "plants")]
    async fn sync_pages(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(target_os = "linux")]
fn write_synced(file: &fs::File, buf: &[u8], offset: u64) -> io::Result<usize> {
    Ok(rustix::io::pwritev2(file, &[io::IoSlice::new(buf)], offset, rustix::io::ReadWriteFlags::DSYNC)?)
}

#[cfg(not(target_os = "linux"))]
fn write_synced(file: &fs::File, buf: &[u8], offset: u64) -> io::Result<usize> {
    let count = file.write_at(buf, offset)?;
    file.sync_data()?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::{future::Future, os::unix::fs::symlink};

    use tempfile::TempDir;

    use super::*;
    use crate::env::block_on;

    fn folder() -> (TempDir, OsDir) {
        let folder = tempfile::tempdir().unwrap();
        let dir = block_on(OsEnv.dir(folder.path(), false)).unwrap();
        (folder, dir)
    }

    #[track_caller]
    fn fails<T>(call: impl Future<Output = io::Result<T>>, kind: io::ErrorKind) -> io::Error {
        match block_on(call) {
            Ok(_) => panic!("expected {kind:?}"),
            Err(error) => {
                assert_eq!(error.kind(), kind, "{error}");
                error
            }
        }
    }

    #[test]
    fn a_directory_is_created_by_its_last_component_only() {
        let (folder, _) = folder();
        let at = |name: &str| folder.path().join(name);
        let missing = fails(OsEnv.dir(&at("a"), false), io::ErrorKind::NotFound);
        assert_eq!(missing.raw_os_error(), Some(Errno::NOENT.raw_os_error()));
        fails(OsEnv.dir(&at("a/b"), true), io::ErrorKind::NotFound);
        assert!(!at("a").exists());
        for path in ["a", "a/", "a/b", "a/b/..", "a/."] {
            block_on(OsEnv.dir(&at(path), true)).unwrap();
        }
        assert!(at("a/b").is_dir());
        fails(OsEnv.dir(&at("c/.."), true), io::ErrorKind::NotFound);
        block_on(OsEnv.dir(Path::new("/"), true)).unwrap();
        block_on(OsEnv.dir(Path::new("."), true)).unwrap();
    }

    #[test]
    fn a_path_that_is_no_directory_is_refused() {
        let (folder, _) = folder();
        let path = folder.path().join("file");
        fs::write(&path, b"x").unwrap();
        for create in [false, true] {
            fails(OsEnv.dir(&path, create), io::ErrorKind::NotADirectory);
            fails(OsEnv.dir(&path.join("below"), create), io::ErrorKind::NotADirectory);
        }
        symlink(folder.path().join("nowhere"), folder.path().join("dangling")).unwrap();
        fails(OsEnv.dir(&folder.path().join("dangling"), true), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_lock_admits_one_handle_and_touches_nothing() {
        let (folder, first) = folder();
        let second = block_on(OsEnv.dir(folder.path(), false)).unwrap();
        let lock = block_on(first.lock()).unwrap();
        fails(second.lock(), io::ErrorKind::WouldBlock);
        fails(first.lock(), io::ErrorKind::WouldBlock);
        assert_eq!(block_on(first.list()).unwrap(), []);
        drop(lock);
        drop(block_on(second.lock()).unwrap());
        block_on(first.lock()).unwrap();
    }

    #[test]
    fn opening_respects_the_mode() {
        let (_folder, dir) = folder();
        fails(dir.open("f", OpenMode::Read), io::ErrorKind::NotFound);
        fails(dir.open("f", OpenMode::Write), io::ErrorKind::NotFound);
        let created = block_on(dir.open("f", OpenMode::CreateNew)).unwrap();
        fails(dir.open("f", OpenMode::CreateNew), io::ErrorKind::AlreadyExists);
        assert_eq!(block_on(created.write_at(b"abc", 2)).unwrap(), 3);

        let reader = block_on(dir.open("f", OpenMode::Read)).unwrap();
        let refused = block_on(reader.write_at(b"x", 0)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::BADF.raw_os_error()));
        let mut buf = [9; 8];
        assert_eq!(block_on(reader.read_at(&mut buf, 0)).unwrap(), 5);
        assert_eq!(&buf[..5], b"\0\0abc");
        assert_eq!(block_on(reader.read_at(&mut buf, 5)).unwrap(), 0);

        let writer = block_on(dir.open("f", OpenMode::Write)).unwrap();
        block_on(writer.set_len(3)).unwrap();
        block_on(writer.set_len(4)).unwrap();
        assert_eq!(block_on(reader.len()).unwrap(), 4);
        assert_eq!(block_on(reader.read_at(&mut buf, 0)).unwrap(), 4);
        assert_eq!(&buf[..4], b"\0\0a\0");
        block_on(writer.sync_data()).unwrap();
        block_on(writer.sync_all()).unwrap();
        #[cfg(feature = "plants")]
        block_on(writer.sync_pages()).unwrap();
        block_on(dir.sync()).unwrap();
    }

    #[test]
    fn only_regular_files_are_opened() {
        let (folder, dir) = folder();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), b"").unwrap();
        fs::create_dir(at("folder")).unwrap();
        symlink(at("file"), at("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let mut odd = vec!["folder", "link", "socket"];
        #[cfg(target_os = "linux")]
        {
            rustix::fs::mknodat(CWD, at("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
            odd.push("pipe");
        }
        for name in odd {
            for mode in [OpenMode::Read, OpenMode::Write] {
                // macOS has another error for a socket; it is refused all the same.
                if cfg!(target_os = "linux") || name != "socket" {
                    let error = fails(dir.open(name, mode), io::ErrorKind::InvalidInput);
                    assert!(error.to_string().contains("not a regular file"), "{error}");
                } else {
                    assert!(block_on(dir.open(name, mode)).is_err());
                }
            }
            fails(dir.open(name, OpenMode::CreateNew), io::ErrorKind::AlreadyExists);
        }
    }

    #[test]
    fn a_name_never_leaves_its_directory() {
        let (_folder, dir) = folder();
        block_on(dir.open("f", OpenMode::CreateNew)).unwrap();
        for name in ["", ".", "..", "../f", "/etc/passwd", "a/b", "f/", "f\0"] {
            for mode in [OpenMode::Read, OpenMode::Write, OpenMode::CreateNew] {
                fails(dir.open(name, mode), io::ErrorKind::InvalidInput);
            }
            fails(dir.rename("f", name), io::ErrorKind::InvalidInput);
            fails(dir.rename(name, "g"), io::ErrorKind::InvalidInput);
            fails(dir.remove(name), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_handle_follows_its_directory_not_its_path() {
        let (folder, _) = folder();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        let dir = block_on(OsEnv.dir(&old, true)).unwrap();
        fs::rename(&old, &new).unwrap();
        fs::create_dir(&old).unwrap();
        block_on(dir.open("f", OpenMode::CreateNew)).unwrap();
        assert!(new.join("f").exists());
        assert!(!old.join("f").exists());
    }

    #[test]
    fn names_are_renamed_removed_and_listed_in_order() {
        let (folder, dir) = folder();
        for (name, len) in [("b", 2), ("a", 1), ("c", 3)] {
            let file = block_on(dir.open(name, OpenMode::CreateNew)).unwrap();
            block_on(file.set_len(len)).unwrap();
        }
        fs::create_dir(folder.path().join("d")).unwrap();
        symlink("a", folder.path().join("e")).unwrap();
        fails(dir.rename("x", "y"), io::ErrorKind::NotFound);
        fails(dir.remove("x"), io::ErrorKind::NotFound);
        let open = block_on(dir.open("b", OpenMode::Read)).unwrap();
        block_on(dir.rename("a", "b")).unwrap();
        block_on(dir.remove("c")).unwrap();
        assert_eq!(block_on(open.len()).unwrap(), 2, "a replaced file stays readable");

        let entry = |name: &str, kind, len| Entry { name: name.into(), kind, len };
        let expected =
            [entry("b", EntryKind::File, 1), entry("d", EntryKind::Other, 0), entry("e", EntryKind::Other, 0)];
        assert_eq!(block_on(dir.list()).unwrap(), expected);
        assert_eq!(block_on(dir.list()).unwrap(), expected, "a listing starts afresh");
    }

    #[test]
    fn clock_and_randomness_are_the_machines() {
        let year_2020 = 1_577_836_800_000_000_000;
        assert!(OsEnv.wall_ns() > year_2020);
        let mut buf = [0; 1024];
        OsEnv.fill_random(&mut buf);
        assert!(buf[992..].iter().any(|&byte| byte != 0), "the whole buffer is filled");
        OsEnv.fill_random(&mut []);
        block_on(OsEnv.yield_now());
    }
}
