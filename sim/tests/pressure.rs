//! Commits wait while memory is full of versions, or are refused, and memory stays bounded: on a slow disk, a full one, and one
//! on which no checkpoint can be made any more.

use std::{future::Future, path::Path, task::Poll, time::Duration};

use engine::{
    env::Env,
    plant::{Plant, Plants},
    txn::{
        Store, Table,
        error::{CheckpointError, CommitError},
        options::{Options, Sync},
        pages::Pages,
    },
};
use madsim::runtime::Runtime;
use sim::{
    disk::{Disk, DiskOptions},
    env::{Machine, MachineOptions, SimEnv},
    fault::Fault,
    prng::Prng,
};

type Db = Store<SimEnv, Pages<SimEnv, 480>>;

const STORE: &str = "/store";
/// Of a value, in bytes.
const VALUE: usize = 500;

fn options(sync: Sync) -> Options {
    Options {
        sync,
        sync_period: Duration::from_secs(3600),
        cache_bytes: 256 << 10,
        dirty_bytes: 16 << 10,
        max_value_bytes: 16 << 10,
        chunk_bytes: 24 << 9,
        log_segment_bytes: 1 << 20,
        checkpoint_at_close: false,
        ..Options::default()
    }
}

fn machine(latency_us: (u64, u64)) -> Machine {
    let mut disk = Disk::new(DiskOptions::default());
    disk.make_dir(Path::new(STORE));
    Machine::on(disk, MachineOptions { latency_us, ..MachineOptions::default() }, &Prng::new(3))
}

async fn open(machine: &Machine, options: Options) -> (Db, Table) {
    let (store, _) = Db::open(machine.env(), Path::new(STORE), options).await.expect("the disk works");
    let table = match store.table("t") {
        Ok(table) => table,
        Err(_) => store.create_table("t").await.expect("a new name"),
    };
    (store, table)
}

/// From here on no chunk grows.
fn fill_disk(machine: &Machine) {
    machine.with_disk(|disk| disk.set_capacity(disk_used(disk)));
}

fn disk_used(disk: &Disk) -> u64 {
    ["/store", "/store/log-0"]
        .into_iter()
        .filter_map(|path| disk.dir_at(Path::new(path)))
        .map(|dir| disk.files(dir).map(|(_, bytes)| bytes).sum::<u64>())
        .sum()
}

/// Puts keys from `from` on until one is refused; which one, and why.
async fn put_until_refused(store: &Db, table: &Table, from: u32) -> (u32, CommitError) {
    for number in from..from + 1000 {
        if let Err(error) = store.put(table, &number.to_be_bytes(), &[number as u8; VALUE]).await {
            return (number, error);
        }
    }
    panic!("memory is not bounded");
}

async fn has(store: &Db, table: &Table, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let found = store.get(table, &number.to_be_bytes()).await.expect("the disk works");
        assert!(found.is_some_and(|value| *value == [number as u8; VALUE]), "{number}");
    }
}

#[test]
fn a_full_disk_refuses_commits_until_there_is_room() {
    let machine = machine((1, 20));
    Runtime::new().block_on(async {
        let (store, table) = open(&machine, options(Sync::NoSync)).await;
        store.put(&table, b"first", b"").await.expect("there is room");
        store.checkpoint().await.expect("there is room");
        fill_disk(&machine);
        let (refused, why) = put_until_refused(&store, &table, 0).await;
        assert!(matches!(why, CommitError::Stalled(_)), "{why}");
        assert!(!why.is_retryable());
        // Twice `dirty_bytes`, and what one commit adds: its block counts as a whole.
        assert!((32..=66).contains(&refused), "{refused} commits");
        let committed = store.committed();
        for _ in 0..10 {
            let again = store.put(&table, &refused.to_be_bytes(), b"").await;
            assert!(matches!(again, Err(CommitError::Stalled(_))), "{again:?}");
            // A while later another attempt is made, and fails.
            machine.env().sleep(Duration::from_secs(2)).await;
        }
        assert_eq!(store.committed(), committed, "what is refused is not committed");
        has(&store, &table, 0..refused).await;
        machine.with_disk(|disk| disk.set_capacity(1 << 30));
        // Nobody has to say so: the next one that is late enough waits for a checkpoint, and goes on. (A log may tell once more what it
        // met before.)
        let mut refusals = 0;
        while let Err(error) = store.put(&table, &refused.to_be_bytes(), &[refused as u8; VALUE]).await {
            refusals += 1;
            assert!(refusals < 3, "there is room again: {error}");
            machine.env().sleep(Duration::from_secs(2)).await;
        }
        has(&store, &table, 0..refused + 1).await;
        store.close().await.expect("the disk works");
        let (store, table) = open(&machine, options(Sync::NoSync)).await;
        has(&store, &table, 0..refused + 1).await;
        store.close().await.expect("the disk works");
    });
}

#[test]
fn where_no_checkpoint_can_be_made_any_more_commits_are_refused_until_a_reopen() {
    let mut poisoned = 0;
    for (nth, fault) in (1..80).flat_map(|nth| [(nth, Fault::EioSync), (nth, Fault::EioDirSync)]) {
        let machine = machine((1, 20));
        Runtime::new().block_on(async {
            let (store, table) = open(&machine, options(Sync::Periodic)).await;
            for key in [b"first", b"other"] {
                // So that both root copies are there.
                store.checkpoint().await.expect("the disk works");
                store.put(&table, key, b"").await.expect("there is room");
            }
            store.sync().await.expect("the disk works");
            machine.set_faults_at(vec![(fault, nth)]);
            let failed = store.checkpoint().await;
            machine.set_faults_at(Vec::new());
            if !matches!(failed, Err(CheckpointError::Unknown(_))) {
                drop(store);
                return;
            }
            poisoned += 1;
            let (refused, why) = put_until_refused(&store, &table, 0).await;
            assert!(matches!(why, CommitError::Stalled(_)), "{why}");
            assert!((32..=66).contains(&refused), "{refused} commits");
            // That doesn't change, and the store is asked for it no more often than somebody asks.
            let again = store.put(&table, b"again", b"").await;
            assert!(matches!(again, Err(CommitError::Stalled(_))), "{again:?}");
            assert!(matches!(store.checkpoint().await, Err(CheckpointError::Unknown(_))));
            has(&store, &table, 0..refused).await;
            store.sync().await.expect("the log works");
            store.close().await.expect("no checkpoint is asked for");
            let (store, table) = open(&machine, options(Sync::Periodic)).await;
            has(&store, &table, 0..refused).await;
            assert!(store.get(&table, b"again").await.expect("the disk works").is_none());
            store.put(&table, b"again", b"").await.expect("it was reopened");
            store.close().await.expect("the disk works");
        });
    }
    assert!(poisoned > 0, "no sync was that of a root copy");
}

#[test]
fn who_goes_away_while_waiting_has_committed_nothing() {
    // A call takes half a second: memory is full long before a checkpoint is made.
    let machine = machine((400_000, 600_000));
    Runtime::new().block_on(async {
        let (store, table) = open(&machine, options(Sync::NoSync)).await;
        let mut number = 0_u32;
        let (mut waiting, committed) = loop {
            let committed = store.committed();
            let (store, table) = (store.clone(), table.clone());
            let mut put =
                Box::pin(async move { store.put(&table, &number.to_be_bytes(), &[number as u8; VALUE]).await });
            let polled = std::future::poll_fn(|context| Poll::Ready(put.as_mut().poll(context))).await;
            match polled {
                Poll::Ready(done) => drop(done.expect("there is room")),
                Poll::Pending => break (put, committed),
            }
            number += 1;
        };
        assert!((32..=66).contains(&number), "{number} commits");
        let polled = std::future::poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_pending())).await;
        assert!(polled, "nothing has changed");
        drop(waiting);
        let key = number.to_be_bytes();
        // Others that wait go on once there is a checkpoint.
        store.put(&table, b"waits", b"").await.expect("it waited");
        assert_eq!(Some(store.committed()), committed.next(), "the one that went away is none of the commits");
        assert!(store.get(&table, &key).await.expect("the disk works").is_none());
        has(&store, &table, 0..number).await;
        store.close().await.expect("the disk works");
    });
}

/// How many commits were not durable after each, until memory was full.
fn pending(plants: Plants) -> Vec<u64> {
    let machine = machine((1, 20));
    Runtime::new().block_on(async {
        let limits = Options { pending_transaction_limit: 5, sync_threshold: 1 << 20, ..options(Sync::Periodic) };
        let (store, table) = open(&machine, Options { plants, ..limits }).await;
        store.checkpoint().await.expect("there is room");
        fill_disk(&machine);
        let mut pending = Vec::new();
        loop {
            let put = store.put(&table, &(pending.len() as u32).to_be_bytes(), &[0; VALUE]).await;
            match put {
                Ok(_) => pending.push(store.committed().to_bits() - store.durable().to_bits()),
                Err(CommitError::Stalled(_)) => return pending,
                Err(other) => panic!("{other}"),
            }
        }
    })
}

#[test]
fn while_memory_is_tight_few_commits_are_pending() {
    // It is tight from 24 KiB of versions on, which are more than 30 rows and fewer than 38.
    let most = |pending: &[u64]| pending.iter().copied().max().unwrap_or(0);
    let held = pending(Plants::default());
    assert!(most(&held[..30]) > 5 && (1..=5).contains(&most(&held[38..])), "{held:?}");
    let planted = pending(Plants::only(Plant::TxnPendingUnbounded));
    assert!(most(&planted[38..]) > 5, "the bug shows: {planted:?}");
}
