//! How much memory a store takes for a table that is much larger than its cache.

use std::time::{Duration, Instant};

use engine::{env::block_on, txn::options::TxOptions};

use crate::{
    Result,
    child::{Figures, Task, figure},
    device::resident_bytes,
    keys::{Rows, VALUE_BYTES},
    peer::{Call, Peer, Safety, Seawall, Settings, Use},
};

/// How many rows a transaction writes: what is not committed yet is beside the bound.
const AT_ONCE: u64 = 500;

pub fn bound(task: &Task) -> Result<Figures> {
    let sizes = task.sizes;
    let rows = Rows::new(sizes.bounded_bytes / (16 + VALUE_BYTES as u64));
    let (base, _) = resident_bytes()?;
    let settings = Settings { safety: Safety::Buffered, cache_bytes: sizes.bound_bytes, stays_in_log: false };
    let seawall = Seawall::open(&task.folder, settings, Use::Logged)?;
    let (store, table) = (&seawall.store, seawall.table());
    let most = |name| -> Result<_> { Ok(figure(name, (resident_bytes()?.1 - base) as f64 / sizes.bound_bytes as f64)) };

    let put = |places: std::ops::Range<u64>| seawall.put_all(places.map(|place| rows.shuffled(place)), &rows);
    let began = Instant::now();
    for first in (0..rows.count()).step_by(AT_ONCE as usize) {
        put(first..(first + AT_ONCE).min(rows.count()))?;
    }
    let written = rows.count() as f64 / began.elapsed().as_secs_f64();
    let after_writes = most("after writes")?;

    // Reads and writes of random rows, beside a snapshot that sees none of them, until it is too old: that is how it is bounded.
    let mut snapshot = store.begin(TxOptions { read_only: true, ..TxOptions::default() })?;
    if let Err(error) = block_on(snapshot.get(table, &rows.key(0))) {
        eprintln!("the long snapshot ended at once: {error}");
    }
    let time = Duration::from_secs_f64(sizes.seconds);
    let mut reader = seawall.reader(Call::One)?;
    let (mut done, mut place) = (0, 0);
    let began = Instant::now();
    while began.elapsed() < time {
        let keys: Vec<_> = (0..AT_ONCE).map(|more| rows.key(rows.shuffled(place * 7 + more))).collect();
        reader(&keys)?;
        put(place..place + AT_ONCE / 10)?;
        place += AT_ONCE;
        done += AT_ONCE + AT_ONCE / 10;
    }
    let mixed = done as f64 / began.elapsed().as_secs_f64();
    drop(reader);
    drop(snapshot);
    let after_reads = most("memory/cache")?;
    Box::new(seawall).close()?;
    Ok(Figures::from([after_writes, after_reads, figure("writes/s", written), figure("reads and writes/s", mixed)]))
}
