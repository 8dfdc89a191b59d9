//! How long a rewrite stops the thread that executes commands, by the number of keys: `cargo run --release -p engine --example pause`.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "it measures the clock, and decides nothing by it"
)]

use std::{
    fs::File,
    os::unix::fs::FileExt,
    process::{Command, exit},
    time::{Duration, Instant},
};

use engine::{
    aof::{
        CommandLog,
        options::{Fsync, Options},
    },
    env::{OsEnv, block_on},
    keyspace::Keyspace,
};

/// Before a rewrite; there are as many during one of 4 M keys.
const ROUNDS: usize = 250_000;

/// Every so many slow allocations mimalloc sweeps all pages of a thread: that is a pause of 1 to 4 ms where there are 4 M keys, whether
/// or not the log is rewritten. It reads this when it starts.
const NO_SWEEPS: (&str, &str) = ("MIMALLOC_GENERIC_COLLECT", "1000000000");

/// As servers have one: a thread that frees what another has allocated doesn't stop that one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long this thread has waited for a core, in all: what else the machine does is no pause of ours. Zero where it isn't known.
struct Waits(Option<File>);

impl Waits {
    fn new() -> Waits {
        Waits(File::open("/proc/thread-self/schedstat").ok())
    }

    fn so_far(&self) -> Duration {
        let mut line = [0; 64];
        let read = self.0.as_ref().map_or(0, |file| file.read_at(&mut line, 0).unwrap_or(0));
        let waited = str::from_utf8(&line[..read]).ok().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        Duration::from_nanos(waited.unwrap_or(0))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if std::env::var_os(NO_SWEEPS.0).is_none() {
        let again = Command::new(std::env::current_exe()?).env(NO_SWEEPS.0, NO_SWEEPS.1).status()?;
        exit(again.code().unwrap_or(1));
    }
    // As redis-server does: a page of 2 MiB that has to be filled with zeros is a pause of its own.
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        eprintln!("huge pages stay on: {error}");
    }
    println!(
        "{:>10} {:>10} {:>11} {:>11} {:>14} {:>14} {:>9} {:>9} {:>9}  each * of the snapshot, each - of the longest round doubles 1 us",
        "keys",
        "snapshot",
        "p99 before",
        "p99 during",
        "longest before",
        "longest during",
        "and waits",
        "rounds",
        "rewrite"
    );
    let waits = Waits::new();
    for keys in [1_000_u64, 10_000, 100_000, 1_000_000, 4_000_000] {
        let folder = tempfile::tempdir_in(std::env::current_dir()?)?;
        let mut data = Keyspace::new();
        let value = [b'v'; 100];
        for number in 0..keys {
            data.load(&[b"SET", format!("key:{number:09}").as_bytes(), &value])?;
        }
        let options = Options { append_fsync: Fsync::No, ..Options::default() };
        block_on(async {
            let (log, _) = CommandLog::open(OsEnv, folder.path(), options, &mut Keyspace::new()).await?;
            let mut number = 0_u64;
            // A round of one command: executed, appended, written.
            let mut round = async |data: &mut Keyspace, log: &CommandLog<OsEnv>| {
                let (waited, began) = (waits.so_far(), Instant::now());
                number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let key = format!("key:{:09}", (number >> 33) % keys);
                let command: [&[u8]; 3] = [b"SET", key.as_bytes(), &value];
                data.load(&command)?;
                log.append(0, &command).await?;
                log.round().await?;
                let took = began.elapsed();
                let waited = waits.so_far().saturating_sub(waited);
                Ok::<_, Box<dyn std::error::Error>>((took.saturating_sub(waited), took))
            };
            let mut before = Vec::new();
            for _ in 0..ROUNDS {
                before.push(round(&mut data, &log).await?);
            }
            let mut during = Vec::new();
            let began = Instant::now();
            log.schedule_rewrite();
            while !log.rewrite_is_due() {
                during.push(round(&mut data, &log).await?);
            }
            let mut snapshot = Duration::ZERO;
            let rewrite = log
                .rewrite(|| {
                    let began = Instant::now();
                    let taken = data.snapshot();
                    snapshot = began.elapsed();
                    taken
                })
                .await?;
            while !rewrite.is_done() {
                during.push(round(&mut data, &log).await?);
            }
            rewrite.done().await?;
            let took = began.elapsed();
            before.sort_unstable();
            during.sort_unstable();
            let part = |times: &[(Duration, Duration)], of_1000: usize| {
                times.get(times.len() * of_1000 / 1000).copied().unwrap_or_default().0
            };
            let (rounds, longest) = (during.len(), during.last().copied().unwrap_or_default().0);
            let with_waits = during.iter().map(|(_, took)| *took).max().unwrap_or_default();
            let doublings = |time: Duration| time.as_micros().checked_ilog2().map_or(0, |log| log as usize + 1);
            println!(
                "{keys:>10} {snapshot:>10.1?} {:>11.1?} {:>11.1?} {:>14.1?} {longest:>14.1?} {with_waits:>9.1?} {rounds:>9} {took:>9.0?}  {}{}",
                part(&before, 990),
                part(&during, 990),
                before.last().copied().unwrap_or_default().0,
                "*".repeat(doublings(snapshot)),
                "-".repeat(doublings(longest).saturating_sub(doublings(snapshot))),
            );
            log.close().await?;
            Ok::<(), Box<dyn std::error::Error>>(())
        })?;
    }
    Ok(())
}
