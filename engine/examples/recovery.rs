//! How long the open of a store takes that was killed with a million commits in its logs and no checkpoint:
//! `cargo run --release -p engine --example recovery [COMMITS [LOGS]]`. Each repeat opens a copy of what the killed process left.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "it measures the clock, and decides nothing by it"
)]

use std::{
    error::Error,
    fs, io,
    path::Path,
    process::{Command, exit},
    time::{Duration, Instant},
};

use engine::{
    env::{OsEnv, block_on},
    txn::{Store, options::Options},
};

const REPEATS: usize = 5;
const CHILD: &str = "SEAWALL_RECOVERY_STORE";

/// As servers have one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn options(logs: u16) -> Options {
    Options {
        logs,
        cache_bytes: 8 << 30,
        dirty_bytes: 2 << 30,
        checkpoint_after_recovery: false,
        checkpoint_at_close: false,
        ..Options::default()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let commits: u64 = words.next().map_or(Ok(1_000_000), |word| word.parse())?;
    let logs: u16 = words.next().map_or(Ok(1), |word| word.parse())?;
    if let Some(path) = std::env::var_os(CHILD) {
        return fill(Path::new(&path), commits, logs);
    }
    let folder = tempfile::tempdir_in(std::env::current_dir()?)?;
    let killed = folder.path().join("killed");
    let status = Command::new(std::env::current_exe()?)
        .args([commits.to_string(), logs.to_string()])
        .env(CHILD, &killed)
        .status()?;
    if !status.success() {
        return Err("the store could not be made".into());
    }
    let mut times = Vec::new();
    for repeat in 0..REPEATS {
        let path = folder.path().join(repeat.to_string());
        copy(&killed, &path)?;
        times.push(block_on(open(&path, commits, logs))?);
        fs::remove_dir_all(&path)?;
    }
    times.sort_unstable();
    let (median, least, most) = (times[REPEATS / 2], times[0], times[REPEATS - 1]);
    println!("{commits} commits, {logs} logs: {median:.3?} to the first read (least {least:.3?}, most {most:.3?})");
    Ok(())
}

fn key(number: u64) -> [u8; 16] {
    // Spread over all keys, and each of them once.
    let spread = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut key = [b'k'; 16];
    key[..8].copy_from_slice(&spread.to_be_bytes());
    key
}

/// Makes a store, and leaves it as a kill would.
fn fill(path: &Path, commits: u64, logs: u16) -> Result<(), Box<dyn Error>> {
    block_on(async {
        let (store, _) = <Store<OsEnv>>::open(OsEnv, path, options(logs)).await?;
        let mut tables = Vec::new();
        for number in 0..logs {
            tables.push(store.create_table(&format!("t{number}")).await?);
        }
        for number in 0..commits {
            let table = &tables[(number % u64::from(logs)) as usize];
            store.put(table, &key(number), &[b'v'; 100]).await?;
        }
        store.sync().await?;
        exit(0)
    })
}

async fn open(path: &Path, commits: u64, logs: u16) -> Result<Duration, Box<dyn Error>> {
    let began = Instant::now();
    let (store, report) = <Store<OsEnv>>::open(OsEnv, path, options(logs)).await?;
    let last = (commits - 1) % u64::from(logs);
    let read = store.get(&store.table(&format!("t{last}"))?, &key(commits - 1)).await?;
    let took = began.elapsed();
    if read.is_none() || report.replayed < commits {
        return Err(format!("replayed {} of {commits} commits", report.replayed).into());
    }
    Ok(took)
}

/// Copies a directory of files and directories of files.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
