//! What durable commits wait for before a checkpoint and during one: `cargo run --release -p engine --example checkpoint_beside [DIRECTORY]`.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "it measures the clock, and decides nothing by it"
)]

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use engine::{
    env::{OsEnv, block_on},
    txn::{
        Store, Table,
        error::CommitError,
        options::{Options, Sync, TableOptions, TxOptions},
    },
};

/// Rows of the table, each of 16 + 100 bytes.
const ROWS: u64 = 1_000_000;
/// Rows that change before each checkpoint, one of every so many: so every page is dirty.
const CHANGED: u64 = 10;
const WRITERS: u64 = 2;
const ROUNDS: u64 = 3;
const BEFORE: Duration = Duration::from_secs(8);

fn key(number: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let within = std::env::args().nth(1).map_or_else(std::env::current_dir, |path| Ok(path.into()))?;
    let folder = tempfile::tempdir_in(&within)?;
    let options = Options { sync: Sync::Instant, cache_bytes: 1 << 30, dirty_bytes: 256 << 20, ..Options::default() };
    let (store, _) = block_on(<Store<OsEnv>>::open(OsEnv, folder.path(), options))?;
    let mut loader = store.loader("table", TableOptions::default())?;
    block_on(async {
        for number in 0..ROWS {
            loader.add(&key(number), &[7; 100]).await?;
        }
        loader.finish().await
    })?;
    let table = store.table("table")?;
    println!("{:>6} {:>9} {:>12} {:>12} {:>12}", "", "commits", "p50", "p99", "p99.9");
    for round in 0..ROUNDS {
        block_on(change(&store, &table, round))?;
        let (running, during) = (AtomicBool::new(true), AtomicBool::new(false));
        let write = &|writer: u64| {
            let (mut times, mut number) = ([Vec::new(), Vec::new()], writer);
            while running.load(Ordering::Relaxed) {
                number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let (beside, began) = (during.load(Ordering::Relaxed), Instant::now());
                block_on(store.put(&table, &key((number >> 33) % ROWS), &[writer as u8; 100]))?;
                times[usize::from(beside)].push(began.elapsed());
            }
            Ok::<_, CommitError>(times)
        };
        let (report, took, times) = thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || write(writer))).collect();
            thread::sleep(BEFORE);
            during.store(true, Ordering::Relaxed);
            let began = Instant::now();
            let report = block_on(store.checkpoint());
            let took = began.elapsed();
            running.store(false, Ordering::Relaxed);
            let times: Vec<_> = writers.into_iter().map(|writer| writer.join().expect("it doesn't panic")).collect();
            (report, took, times)
        });
        let times = times.into_iter().collect::<Result<Vec<_>, _>>()?;
        for (which, name) in ["before", "during"].into_iter().enumerate() {
            let mut of: Vec<Duration> = times.iter().flat_map(|times| &times[which]).copied().collect();
            of.sort_unstable();
            let part = |of_1000: usize| of.get(of.len() * of_1000 / 1000).copied().unwrap_or_default();
            println!("{name:>6} {:>9} {:>12.2?} {:>12.2?} {:>12.2?}", of.len(), part(500), part(990), part(999));
        }
        println!("       {} changes in {took:.2?}", report?.changes);
    }
    block_on(store.close())?;
    Ok(())
}

/// Rows all over the table change.
async fn change(store: &Store<OsEnv>, table: &Table, round: u64) -> Result<(), CommitError> {
    for batch in 0..ROWS / CHANGED / 1000 {
        let mut tx = store.begin(TxOptions::default())?;
        for number in batch * 1000..(batch + 1) * 1000 {
            tx.put(table, &key(number * CHANGED + round), &[batch as u8; 100]).await?;
        }
        tx.commit().await?;
    }
    Ok(())
}
