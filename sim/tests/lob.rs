//! A commit with values in pieces that loses power at every call: it is there as a whole or not at all, whatever of its pieces is.

mod store;

use std::{future::Future, path::Path, pin::pin, sync::Arc, sync::Mutex, task::Poll, time::Duration};

use engine::{
    plant::{Plant, Plants},
    txn::{
        Store, Table,
        options::{Options, TxOptions},
    },
};
use madsim::runtime::Runtime;
use sim::{
    disk::{Disk, DiskOptions, Keep},
    env::{Machine, MachineOptions, SimEnv},
    prng::Prng,
};

use store::{Rows, Small, rows, small_options};

type Db = Store<SimEnv, Small>;

const STORE: &str = "/store";

fn options(logs: u16) -> Options {
    Options {
        logs,
        max_value_bytes: 32 << 10,
        lob_bytes: 1 << 10,
        // Pages of 1 KiB: each piece is written by itself, and there is room for few.
        log_buffer_bytes: 4 << 10,
        ..small_options()
    }
}

/// The rows once the nth commit is there: large values and small ones in three tables.
fn model(commits: u8) -> Rows {
    let mut rows = Rows::new();
    for commit in 1..=commits {
        for (name, bytes) in [("a", 9000), ("b", 40), ("c", 3000)] {
            rows.insert((name.into(), b"same".to_vec()), vec![commit; bytes]);
            rows.insert((name.into(), vec![commit]), vec![commit; bytes + 700]);
        }
    }
    rows
}

async fn commit(store: &Db, tables: &[Table], number: u8) {
    let mut tx = store.begin(TxOptions::default()).expect("it is open");
    for ((name, key), value) in model(number).iter().filter(|(_, value)| value[0] == number) {
        let table = tables.iter().find(|table| table.name() == name).expect("there are three");
        tx.put(table, key, value).await.expect("nobody is in the way");
    }
    assert!(tx.commit().await.expect("the disk works").durable);
}

/// Two commits and a checkpoint beside the second one; cut at the nth call. The machine as it was then, what was acknowledged,
/// and whether it was over before.
fn run(nth: u64, logs: u16) -> (Machine, u8, bool) {
    let mut disk = Disk::new(DiskOptions::default());
    disk.make_dir(Path::new(STORE));
    let machine =
        Machine::on(disk, MachineOptions { latency_us: (1, 50), ..MachineOptions::default() }, &Prng::new(nth % 7));
    let told = Arc::new(Mutex::new((0, false)));
    let (env, armed, tell) = (machine.env(), machine.clone(), Arc::clone(&told));
    Runtime::new().block_on(async move {
        let (store, _) = Db::open(env, Path::new(STORE), options(logs)).await.expect("an empty directory");
        let mut tables = Vec::new();
        for name in ["a", "b", "c"] {
            tables.push(store.create_table(name).await.expect("a new name"));
        }
        armed.arm_crash(nth);
        let work = async {
            commit(&store, &tables, 1).await;
            tell.lock().expect("nobody panicked").0 = 1;
            let mut checkpoint = pin!(store.checkpoint());
            let mut second = pin!(commit(&store, &tables, 2));
            let mut checkpointed = false;
            std::future::poll_fn(|context| {
                checkpointed = checkpointed || checkpoint.as_mut().poll(context).is_ready();
                second.as_mut().poll(context)
            })
            .await;
            tell.lock().expect("nobody panicked").0 = 2;
            if !checkpointed {
                checkpoint.await.expect("the disk works");
            }
            *tell.lock().expect("nobody panicked") = (2, true);
        };
        let _ = madsim::time::timeout(Duration::from_secs(1 << 20), work).await;
        // Neither its handles nor its tasks do anything after a crash.
        std::mem::forget(store);
    });
    let (acknowledged, ended) = *told.lock().expect("nobody panicked");
    (machine, acknowledged, ended)
}

#[test]
fn a_power_cut_at_any_call_leaves_a_commit_with_large_values_or_nothing_of_it() {
    for logs in [1, 2] {
        let (mut cuts, mut ahead) = (0, 0);
        for nth in 1.. {
            let (machine, acknowledged, ended) = run(nth, logs);
            for (way, keep) in [Keep::None, Keep::All, Keep::Draw, Keep::Draw].into_iter().enumerate() {
                let cut = Machine::still(machine.fork());
                cut.power_cut(&keep, &mut Prng::new(nth).fork_nth("cut", way as u64));
                let found = rows(&cut.fork(), STORE, options(logs))
                    .unwrap_or_else(|error| panic!("cut at call {nth}: {error}"));
                let there = (0..=2).find(|commits| found == model(*commits));
                let there = there
                    .unwrap_or_else(|| panic!("cut at call {nth}: {} rows that don't belong together", found.len()));
                assert!(there >= acknowledged, "cut at call {nth}: {there} of {acknowledged} commits");
                (cuts, ahead) = (cuts + 1, ahead + u32::from(there > acknowledged));
            }
            if ended {
                break;
            }
        }
        assert!(cuts > 200 && ahead >= 3, "{cuts} cuts, {ahead} with a commit that was not acknowledged");
    }
}

/// Stops a commit among its pieces, makes a checkpoint, and lets it go on: whether the store opens after a power cut.
fn opens_after_a_checkpoint_among_pieces(plants: Plants) -> bool {
    let mut disk = Disk::new(DiskOptions::default());
    disk.make_dir(Path::new(STORE));
    let machine = Machine::on(disk, MachineOptions::default(), &Prng::new(1));
    let env = machine.env();
    Runtime::new().block_on(async move {
        // Nobody waits for room: who isn't polled should hold up nobody.
        let roomy = Options { log_buffer_bytes: 64 << 10, log_segment_bytes: 64 << 10, ..options(1) };
        let options = Options { plants, ..roomy };
        let (store, _) = Db::open(env, Path::new(STORE), options).await.expect("an empty directory");
        let mut tables = Vec::new();
        for name in ["a", "b", "c"] {
            tables.push(store.create_table(name).await.expect("a new name"));
        }
        commit(&store, &tables, 1).await;
        let mut second = Box::pin(commit(&store, &tables, 2));
        for _ in 0..3 {
            let ended = std::future::poll_fn(|context| Poll::Ready(second.as_mut().poll(context).is_ready())).await;
            assert!(!ended, "others come in between two pieces");
        }
        store.checkpoint().await.expect("the disk works");
        second.await;
        std::mem::forget(store);
    });
    let found = rows(&machine.pessimal(), STORE, options(1));
    assert!(found.as_ref().map_or(true, |found| *found == model(2)));
    found.is_ok()
}

#[test]
fn a_log_is_not_released_beyond_the_pieces_of_an_open_transaction() {
    assert!(opens_after_a_checkpoint_among_pieces(Plants::default()));
    assert!(!opens_after_a_checkpoint_among_pieces(Plants::only(Plant::CkptReleaseLob)), "the bug shows");
}

#[test]
fn a_commit_that_is_dropped_among_its_pieces_leaves_nothing() {
    let mut disk = Disk::new(DiskOptions::default());
    disk.make_dir(Path::new(STORE));
    let machine = Machine::on(disk, MachineOptions::default(), &Prng::new(1));
    let env = machine.env();
    Runtime::new().block_on(async move {
        let (store, _) = Db::open(env, Path::new(STORE), options(1)).await.expect("an empty directory");
        let table = store.create_table("a").await.expect("a new name");
        let before = store.committed();
        let mut put = Box::pin(store.put(&table, b"dropped", &[1; 20_000]));
        for _ in 0..3 {
            let ended = std::future::poll_fn(|context| Poll::Ready(put.as_mut().poll(context).is_ready())).await;
            assert!(!ended, "others come in between two pieces");
        }
        drop(put);
        assert_eq!(store.committed(), before);
        // Its row is free, and nothing holds the log back.
        store.put(&table, b"dropped", b"again").await.expect("nobody has it");
        store.checkpoint().await.expect("the disk works");
        store.close().await.expect("the disk works");
    });
    let log: u64 = machine.with_disk(|disk| {
        let log = disk.dir_at(Path::new("/store/log-0")).expect("it is there");
        disk.files(log).map(|(_, bytes)| bytes).sum()
    });
    assert!(log < 100_000, "{log} bytes");
    let expected = Rows::from([(("a".to_owned(), b"dropped".to_vec()), b"again".to_vec())]);
    assert!(rows(&machine.pessimal(), STORE, options(1)).expect("it opens") == expected);
}
