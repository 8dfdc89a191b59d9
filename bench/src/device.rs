//! What the system says of the disk and of this process.
//!
//! **Flushes** are those that the disk of a folder got (`/sys/dev/block/*/stat`, column 16): what makes written data survive a power cut, if
//! the disk obeys. The count includes the flushes of everybody on that disk, and those of the file system's own journal; the raw loop's
//! count, in the same run, shows how many these are. Flushes of several threads at once may be merged into one, so that only a
//! case of one thread can be judged. A disk without a volatile cache gets none, nor has every file system one disk: then there is no
//! count, and no judgement.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::Result;

const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;

/// Whether files of a folder are in memory only.
pub fn is_in_memory(path: &Path) -> Result<bool> {
    let kind = rustix::fs::statfs(path)?.f_type;
    Ok([TMPFS, RAMFS].contains(&kind))
}

/// How long a disk has to do nothing to count as quiet, and how long that is waited for.
const QUIET: Duration = Duration::from_millis(200);
const MOST_PATIENCE: Duration = Duration::from_secs(10);

/// Waits until the disk has nothing to do any more: what was written is on it, and the room of removed files is given back, which can
/// take longer than the removal and would be the loss of who is measured next.
pub fn settle(folder: &Path) {
    // (Without it the measurement is only less fair.)
    fs::File::open(folder).ok().and_then(|folder| rustix::fs::syncfs(folder).ok());
    let began = Instant::now();
    let mut last = done(folder);
    while last.is_some() && began.elapsed() < MOST_PATIENCE {
        std::thread::sleep(QUIET);
        let now = done(folder);
        if now == last {
            break;
        }
        last = now;
    }
}

/// How many flushes the disk of this folder has had; `None` if nobody counts them.
pub fn flushes(folder: &Path) -> Option<u64> {
    let disk = disk(folder)?;
    if fs::read_to_string(disk.join("queue/write_cache")).ok()?.trim() != "write back" {
        return None;
    }
    counts(&disk)?.get(15).copied()
}

/// What the disk of this folder has written, given back and flushed, and what it is doing, in calls.
fn done(folder: &Path) -> Option<[u64; 4]> {
    let counts = counts(&disk(folder)?)?;
    let of = |column: usize| counts.get(column).copied().unwrap_or(0);
    Some([of(4), of(8), of(11), of(15)])
}

fn counts(disk: &Path) -> Option<Vec<u64>> {
    let text = fs::read_to_string(disk.join("stat")).ok()?;
    text.split_whitespace().map(|count| count.parse().ok()).collect()
}

/// What the system has to say of the whole disk that this folder is on: it counts flushes for nothing smaller.
fn disk(folder: &Path) -> Option<PathBuf> {
    let device = fs::metadata(folder).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let at = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    if at.join("partition").exists() { at.parent().map(Path::to_owned) } else { Some(at) }
}

/// The memory that this process has now, and the most that it had, in bytes.
pub fn resident_bytes() -> Result<(u64, u64)> {
    let status = fs::read_to_string("/proc/self/status")?;
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| format!("/proc/self/status has no {name}"))
    };
    Ok((of("VmRSS:")?, of("VmHWM:")?))
}

/// How long this thread has had a processor: what others take from it is not in it, except for what they take of the caches.
pub fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// How busy the machine is: the averages of one, five and fifteen minutes.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
