//! Commits of one put each.

use std::time::{Duration, Instant};

use crate::{
    Result,
    child::{Figures, Task, figure},
    device,
    keys::Rows,
    peer::Safety,
    raw,
};

/// The part of a case's time that passes before the clock starts: files are made ready meanwhile.
const WARM_UP: f64 = 0.2;

pub fn durable(task: &Task, threads: u64) -> Result<Figures> {
    let rows = Rows::new(1 << 32);
    if task.peer == "raw" {
        if threads == 1 {
            let raw = raw::Synced::new(&task.folder)?;
            return hammer(task, threads, |number| raw.commit(number, rows.value(number)));
        }
        let raw = raw::Group::new(&task.folder)?;
        return hammer(task, threads, |number| raw.commit(rows.value(number)));
    }
    let peer = task.open(Safety::Durable)?;
    let figures = hammer(task, threads, |number| {
        let number = rows.shuffled(number);
        peer.put(&rows.key(number), rows.value(number))
    })?;
    peer.close()?;
    Ok(figures)
}

/// All threads commit until time is over.
fn hammer(task: &Task, threads: u64, commit: impl Fn(u64) -> Result + Sync) -> Result<Figures> {
    let time = Duration::from_secs_f64(task.sizes.seconds);
    let (began, mut warm) = (Instant::now(), 0);
    while began.elapsed() < time.mul_f64(WARM_UP) {
        commit(warm)?;
        warm += 1;
    }
    let before = device::flushes(&task.folder);
    let began = Instant::now();
    let latencies: Vec<Vec<Duration>> = std::thread::scope(|scope| {
        let one = |thread| {
            let mut latencies = Vec::new();
            let mut last = began;
            while last - began < time {
                commit(warm + thread + latencies.len() as u64 * threads)?;
                let now = Instant::now();
                latencies.push(now - last);
                last = now;
            }
            Ok(latencies)
        };
        let all: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
        all.into_iter().map(|thread| thread.join().map_err(|_| "a thread panicked")?).collect::<Result<_>>()
    })?;
    let elapsed = began.elapsed();
    let flushes = device::flushes(&task.folder);
    let mut latencies = latencies.concat();
    let mut figures = Figures::from([
        figure("commits/s", latencies.len() as f64 / elapsed.as_secs_f64()),
        figure("p50 µs", percentile(&mut latencies, 0.50)),
        figure("p99 µs", percentile(&mut latencies, 0.99)),
    ]);
    if let (Some(before), Some(after)) = (before, flushes) {
        figures.extend([figure("flushes/commit", (after - before) as f64 / latencies.len() as f64)]);
    }
    Ok(figures)
}

pub fn buffered(task: &Task) -> Result<Figures> {
    let rows = Rows::new(task.sizes.keys);
    if task.peer == "raw" {
        let mut raw = raw::Buffered::new(&task.folder)?;
        return sprint(task, |number| raw.commit(number, rows.value(number)));
    }
    let peer = task.open(Safety::Buffered)?;
    let figures = sprint(task, |number| {
        let number = rows.shuffled(number);
        peer.put(&rows.key(number), rows.value(number))
    })?;
    peer.close()?;
    Ok(figures)
}

/// Commits until time is over or all rows are there, with a look at the clock now and then.
fn sprint(task: &Task, mut commit: impl FnMut(u64) -> Result) -> Result<Figures> {
    let time = Duration::from_secs_f64(task.sizes.seconds);
    let mut done = 0;
    let (began, busy) = (Instant::now(), device::thread_time());
    while done < task.sizes.keys && began.elapsed() < time {
        for _ in 0..64.min(task.sizes.keys - done) {
            commit(done)?;
            done += 1;
        }
    }
    let (elapsed, busy) = (began.elapsed(), device::thread_time() - busy);
    Ok(Figures::from([
        figure("commits/s", done as f64 / elapsed.as_secs_f64()),
        figure("commits", done as f64),
        figure("CPU ns", busy.as_nanos() as f64 / done as f64),
    ]))
}

/// In microseconds; 0 of nothing.
pub fn percentile(latencies: &mut [Duration], part: f64) -> f64 {
    latencies.sort_unstable();
    let at = (latencies.len() as f64 * part) as usize;
    latencies.get(at.min(latencies.len().saturating_sub(1))).map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
}
