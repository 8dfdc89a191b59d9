//! Memory stays within its bound, whoever needs it: pages, versions that a long snapshot keeps, a load. And all of it is somewhere: what
//! counts as a whole are its parts.

use std::{ops::Range, path::Path, time::Duration};

use engine::{
    env::Env,
    plant::{Plant, Plants},
    txn::{
        Stats, Store, Table,
        options::{Options, Sync, TableOptions, TxOptions},
        pages::Pages,
    },
};
use madsim::runtime::Runtime;
use sim::{
    disk::{Disk, DiskOptions},
    env::{Machine, MachineOptions, SimEnv},
    prng::Prng,
};

/// Pages of the usual size: versions take the same blocks.
type Db = Store<SimEnv, Pages<SimEnv>>;

const STORE: &str = "/store";
const CACHE: u64 = 4 << 20;
const ROWS: u64 = 40_000;
/// Rows of a transaction.
const AT_ONCE: u64 = 200;
/// Bytes of a value that is too long for a leaf, and how many of them a transaction writes.
const LARGE: usize = 4000;
const LARGE_AT_ONCE: u64 = 10;

fn key(number: u64) -> [u8; 8] {
    (number % ROWS).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()
}

/// Whether it is kept to; what else is in memory has the last eighth.
fn within_bound(stats: &Stats) -> Result<(), String> {
    let bound = CACHE - CACHE / 8;
    match stats.memory_bytes {
        bytes if bytes <= bound => Ok(()),
        bytes => Err(format!("{bytes} bytes of {bound}")),
    }
}

/// Whether nothing is on its way or lost, once nobody does anything.
async fn parts_are_the_whole(machine: &Machine, store: &Db) -> Result<(), String> {
    store.checkpoint().await.expect("the disk works");
    machine.env().sleep(Duration::from_secs(5)).await;
    let stats = store.stats();
    let parts = stats.ready_bytes + stats.storage.cached_bytes + stats.generation_bytes;
    match stats.memory_bytes == parts {
        true => Ok(()),
        false => Err(format!("{} bytes of {parts} that are anywhere", stats.memory_bytes)),
    }
}

async fn put(store: &Db, table: &Table, from: u64) {
    put_many(store, table, from..from + AT_ONCE, 100).await;
}

async fn put_many(store: &Db, table: &Table, numbers: Range<u64>, bytes: usize) {
    let mut tx = store.begin(TxOptions::default()).expect("it is open");
    for number in numbers {
        tx.put(table, &key(number), &vec![number as u8; bytes]).await.expect("nobody else writes");
    }
    tx.commit().await.expect("the disk works");
}

fn run(plant: Option<Plant>) -> Result<(), String> {
    let mut disk = Disk::new(DiskOptions::default());
    disk.make_dir(Path::new(STORE));
    let machine = Machine::on(disk, MachineOptions::default(), &Prng::new(3));
    let plants = plant.map_or_else(Plants::default, Plants::only);
    let options = Options { sync: Sync::NoSync, checkpoint_at_close: false, plants, ..Options::with_cache(CACHE) };
    Runtime::new().block_on(async {
        let (store, _) = Db::open(machine.env(), Path::new(STORE), options).await.expect("the disk works");
        let table = store.create_table("t").await.expect("a new name");
        for from in (0..ROWS).step_by(AT_ONCE as usize) {
            put(&store, &table, from).await;
            within_bound(&store.stats())?;
        }
        parts_are_the_whole(&machine, &store).await?;

        // Large values are in no block, and no page is missed: pages go for them all the same.
        for from in (0..ROWS / 20).step_by(LARGE_AT_ONCE as usize) {
            put_many(&store, &table, from..from + LARGE_AT_ONCE, LARGE).await;
            within_bound(&store.stats())?;
        }
        parts_are_the_whole(&machine, &store).await?;
        for from in (0..ROWS / 20).step_by(AT_ONCE as usize) {
            put(&store, &table, from).await;
        }
        parts_are_the_whole(&machine, &store).await?;

        // Pages go for what the snapshot keeps, and come again while others go.
        let mut snapshot = store.begin(TxOptions { read_only: true, ..TxOptions::default() }).expect("it is open");
        snapshot.get(&table, &key(0)).await.expect("the disk works");
        let (before, mut pinned) = (store.stats().storage.evictions, 0);
        for from in (0..ROWS / 4).step_by(AT_ONCE as usize) {
            put(&store, &table, from * 7).await;
            for number in from..from + AT_ONCE {
                assert!(store.get(&table, &key(number * 3)).await.expect("the disk works").is_some());
            }
            within_bound(&store.stats())?;
            pinned = pinned.max(store.stats().pinned_bytes);
        }
        assert!(pinned > CACHE / 8, "{pinned} bytes were kept");
        assert!(store.stats().storage.evictions > before, "pages had to go");
        drop(snapshot);
        parts_are_the_whole(&machine, &store).await?;

        let mut loader = store.loader("loaded", TableOptions::default()).expect("a new name");
        for number in 0..ROWS {
            loader.add(&key(number), &[number as u8; 100]).await.expect("the disk works");
        }
        loader.finish().await.expect("the disk works");
        parts_are_the_whole(&machine, &store).await?;
        within_bound(&store.stats())?;
        let loaded = store.table("loaded").expect("it is there");
        for number in 0..ROWS {
            assert!(store.get(&loaded, &key(number)).await.expect("the disk works").is_some());
        }
        within_bound(&store.stats())?;
        store.close().await.expect("the disk works");
        Ok(())
    })
}

#[test]
fn all_together_stays_within_its_bound_and_is_somewhere() {
    assert_eq!(run(None), Ok(()));
}

#[test]
fn a_bound_that_nobody_keeps_and_a_block_that_is_lost_are_seen() {
    for (plant, seen) in [(Plant::TxnMemoryUnbounded, "bytes of 3670016"), (Plant::CkptBlockLost, "that are anywhere")]
    {
        let found = run(Some(plant)).expect_err(plant.name());
        assert!(found.contains(seen), "{}: {found}", plant.name());
    }
}
