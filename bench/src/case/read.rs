//! Reads of a table that is in memory.

use std::{
    sync::Barrier,
    time::{Duration, Instant},
};

use crate::{
    Result,
    child::{Figures, Task, figure},
    device::thread_time,
    keys::{Key, Rows},
    peer::{Call, Safety},
};

/// How many keys a reader is given at a time.
const AT_ONCE: u64 = 500;

pub fn get(task: &Task, threads: u64, call: Call) -> Result<Figures> {
    let rows = Rows::new(task.sizes.keys);
    let peer = task.open(Safety::Buffered)?;
    let visited = peer.scan()?;
    expect_all(visited, task.sizes.keys)?;
    let time = Duration::from_secs_f64(task.sizes.seconds);
    let start = Barrier::new(threads as usize);
    let rates: Vec<(f64, f64)> = std::thread::scope(|scope| {
        let (peer, rows, start) = (&peer, &rows, &start);
        let one = |thread: u64| {
            // Keys are made beforehand; more of them than any cache of the processor holds.
            let count = rows.count().min(2_000_000) / AT_ONCE * AT_ONCE;
            let first = thread * (rows.count() / threads);
            let keys: Vec<Key> = (first..first + count).map(|place| rows.key(rows.shuffled(place))).collect();
            let mut reader = peer.reader(call);
            start.wait();
            let (mut read, mut found) = (0, 0);
            let (began, busy) = (Instant::now(), thread_time());
            for keys in keys.chunks(AT_ONCE as usize).cycle() {
                found += reader.as_mut().map_err(|error| error.to_string())?(keys)?;
                read += keys.len() as u64;
                if began.elapsed() >= time {
                    break;
                }
            }
            let (elapsed, busy) = (began.elapsed(), thread_time() - busy);
            expect_all(found, read)?;
            Ok((read as f64 / elapsed.as_secs_f64(), busy.as_nanos() as f64 / read as f64))
        };
        let all: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
        all.into_iter().map(|thread| thread.join().map_err(|_| "a thread panicked")?).collect::<Result<_>>()
    })?;
    let (rate, busy) = rates.iter().fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    Ok(Figures::from([figure("reads/s/thread", rate / threads as f64), figure("CPU ns", busy / threads as f64)]))
}

pub fn scan(task: &Task) -> Result<Figures> {
    let peer = task.open(Safety::Buffered)?;
    expect_all(peer.scan()?, task.sizes.keys)?;
    let time = Duration::from_secs_f64(task.sizes.seconds);
    let mut visited = 0;
    let (began, busy) = (Instant::now(), thread_time());
    while visited == 0 || began.elapsed() < time {
        visited += peer.scan()?;
    }
    let (elapsed, busy) = (began.elapsed(), thread_time() - busy);
    Ok(Figures::from([
        figure("rows/s", visited as f64 / elapsed.as_secs_f64()),
        figure("CPU ns", busy.as_nanos() as f64 / visited as f64),
    ]))
}

/// A figure of a table that isn't there would be a good one.
pub fn expect_all(found: u64, expected: u64) -> Result {
    if found == expected { Ok(()) } else { Err(format!("{found} rows are there, not {expected}").into()) }
}
