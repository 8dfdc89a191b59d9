//! What a writer feels of a checkpoint.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use engine::env::block_on;

use super::commit::percentile;
use crate::{
    Result,
    child::{Figures, Task, figure},
    keys::Rows,
    peer::{Peer, Safety, Seawall, Settings, Use},
};

/// What the checkpoint has to write, if the cache allows it.
const DIRTY_BYTES: u64 = 256 << 20;
/// What a row takes of that, in memory.
const ROW_BYTES: u64 = 220;
/// How many rows a transaction writes beforehand.
const AT_ONCE: usize = 500;

pub fn latency(task: &Task, safety: Safety) -> Result<Figures> {
    let rows = Rows::new(task.sizes.keys);
    let settings = Settings { stays_in_log: true, ..task.settings(safety) };
    let seawall = Seawall::open(&task.folder, settings, Use::Logged)?;
    // Half of what would make one due: what is committed meanwhile finds room beside it.
    let dirty = DIRTY_BYTES.min(task.sizes.cache_bytes / 8);
    let count = (dirty / ROW_BYTES).min(rows.count());
    // (By commits: a loader's rows would be no work for a checkpoint.)
    for first in (0..count).step_by(AT_ONCE) {
        seawall.put_all((first..count).take(AT_ONCE).map(|place| rows.shuffled(place)), &rows)?;
    }
    seawall.sync()?;

    let put = |place: u64| {
        let number = rows.shuffled(place);
        seawall.put(&rows.key(number), rows.value(number))
    };
    let time = Duration::from_secs_f64(task.sizes.seconds);
    let mut next = count;
    let full = commits(&mut next, Duration::ZERO, &put, |elapsed| elapsed < time / 2)?;
    let pause = (time / 2).div_f64(full.len() as f64 * 0.7);
    let mut before = commits(&mut next, pause, &put, |elapsed| elapsed < time)?;
    let ended = AtomicBool::new(false);
    let (mut during, report) = std::thread::scope(|scope| {
        let checkpoint = scope.spawn(|| {
            let report = block_on(seawall.store.checkpoint());
            ended.store(true, Ordering::Release);
            report
        });
        let during = commits(&mut next, pause, &put, |_| !ended.load(Ordering::Acquire));
        (during, checkpoint.join())
    });
    let changes = report.map_err(|_| "the checkpoint panicked")??.changes;
    let during = during.as_mut().map_err(|error| error.to_string())?;
    let (p99_before, p99_during) = (percentile(&mut before, 0.99), percentile(during, 0.99));
    Ok(Figures::from([
        figure("during/before", p99_during / p99_before),
        figure("p99 µs before", p99_before),
        figure("p99 µs during", p99_during),
        figure("max µs before", percentile(&mut before, 1.0)),
        figure("max µs during", percentile(during, 1.0)),
        figure("rows written", changes as f64),
        figure("commits during", during.len() as f64),
    ]))
}

/// Commits, one each `pause` as far as they can keep up, while `goes_on` says so of the time since the first. How long each took.
fn commits(
    next: &mut u64,
    pause: Duration,
    put: &impl Fn(u64) -> Result,
    goes_on: impl Fn(Duration) -> bool,
) -> Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    let began = Instant::now();
    let mut due = began;
    loop {
        let mut now = Instant::now();
        while now < due {
            if due - now > Duration::from_micros(200) {
                std::thread::sleep(Duration::from_micros(50));
            } else {
                std::hint::spin_loop();
            }
            now = Instant::now();
        }
        if !goes_on(now - began) {
            return Ok(latencies);
        }
        put(*next)?;
        *next += 1;
        latencies.push(now.elapsed());
        due += pause;
    }
}
