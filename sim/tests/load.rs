//! A load that loses power at every call: there is all of the table or none of it, and the rest of the store is whole.

mod store;

use std::{path::Path, sync::Arc, sync::Mutex, time::Duration};

use engine::{
    env::{Dir, Env},
    txn::{
        Store,
        options::{Options, TableOptions},
    },
};
use madsim::runtime::Runtime;
use sim::{
    disk::{Disk, DiskOptions, Keep},
    env::{Machine, MachineOptions, SimEnv},
    prng::Prng,
};

use store::{Rows, Small, rows, small_options};

const STORE: &str = "/store";

fn options() -> Options {
    Options { checkpoint_piece_bytes: 4 << 10, ..small_options() }
}

/// The order in which rows come: some ascend, the rest is shuffled, and one comes twice.
fn stream() -> Vec<(Vec<u8>, Vec<u8>)> {
    let row = |number: u64| (number.to_be_bytes().to_vec(), vec![number as u8; (number % 200) as usize]);
    let shuffled = (0..400).map(|number| row(300 + (number * 167) % 400));
    (0..300).map(row).chain(shuffled).chain([(vec![7; 3], vec![7; 3000]), (vec![7; 3], vec![8; 3000])]).collect()
}

/// Runs a load that is cut at the nth call. The machine as it was then, and whether it was over before.
fn run(nth: u64) -> (Arc<Machine>, bool) {
    let mut disk = Disk::new(DiskOptions::default());
    disk.make_dir(Path::new(STORE));
    let options_of_machine = MachineOptions { latency_us: (1, 50), ..MachineOptions::default() };
    let machine = Arc::new(Machine::on(disk, options_of_machine, &Prng::new(5)));
    let ended = Arc::new(Mutex::new(false));
    let (env, armed, told) = (machine.env(), Arc::clone(&machine), Arc::clone(&ended));
    Runtime::new().block_on(async move {
        let (store, _) =
            Store::<SimEnv, Small>::open(env, Path::new(STORE), options()).await.expect("an empty directory");
        let table = store.create_table("a").await.expect("a new name");
        for number in 0..20_u8 {
            store.put(&table, &[number], &[number; 90]).await.expect("there is room");
        }
        armed.arm_crash(nth);
        let load = async {
            let mut loader = store.loader("loaded", TableOptions::default()).expect("a new name");
            for (number, (key, value)) in stream().into_iter().enumerate() {
                loader.add(&key, &value).await.expect("the disk works");
                if number == 350 {
                    store.checkpoint().await.expect("the disk works");
                }
            }
            loader.finish().await.expect("the disk works");
            *told.lock().expect("nobody panicked") = true;
        };
        let _ = madsim::time::timeout(Duration::from_secs(1 << 20), load).await;
        // Neither its handles nor its tasks do anything after a crash.
        std::mem::forget(store);
    });
    let ended = *ended.lock().expect("nobody panicked");
    (machine, ended)
}

/// The chunk files of the store after an open, and a checkpoint behind it.
fn chunks_after_an_open(disk: &Disk) -> usize {
    let machine = Arc::new(Machine::on(disk.fork(), MachineOptions::default(), &Prng::new(6)));
    let env = machine.env();
    Runtime::new().block_on(async move {
        let opened = Store::<SimEnv, Small>::open(env.clone(), Path::new(STORE), options()).await;
        let (store, _) = opened.expect("it opens");
        let table = store.table("a").expect("it is there");
        store.put(&table, b"key", b"value").await.expect("there is room");
        store.checkpoint().await.expect("the disk works");
        store.close().await.expect("the disk works");
        let dir = env.dir(Path::new(STORE), false).await.expect("it is there");
        let entries = dir.list().await.expect("the disk works");
        entries.iter().filter(|entry| entry.name.to_string_lossy().starts_with("chunk-")).count()
    })
}

#[test]
fn a_power_cut_at_any_call_leaves_all_of_a_loaded_table_or_none() {
    let others: Rows = (0..20_u8).map(|number| (("a".into(), vec![number]), vec![number; 90])).collect();
    let loaded = stream().into_iter().map(|(key, value)| (("loaded".into(), key), value));
    let with: Rows = others.clone().into_iter().chain(loaded).collect();
    let (mut before, mut after, mut least, mut most) = (0, 0, usize::MAX, 0);
    for nth in 1.. {
        let (machine, ended) = run(nth);
        let ways = [Keep::None, Keep::All, Keep::Draw];
        for (way, keep) in ways.into_iter().enumerate() {
            let cut = Machine::still(machine.fork());
            cut.power_cut(&keep, &mut Prng::new(nth).fork_nth("cut", way as u64));
            let disk = cut.fork();
            let found = rows(&disk, STORE, options()).expect("the store is whole");
            if found == others {
                assert!(!ended, "a load that has ended is there");
                before += 1;
                if nth % 8 == 0 {
                    // Nothing of it stays on the disk.
                    least = least.min(chunks_after_an_open(&disk));
                    most = most.max(chunks_after_an_open(&disk));
                }
            } else {
                assert!(found == with, "cut at call {nth}: {} rows", found.len());
                after += 1;
            }
        }
        if ended {
            break;
        }
    }
    assert!(before > 200 && after > 20, "{before} without it, {after} with it");
    assert!(least > 0 && most <= 2, "{least} to {most} chunk files for 21 rows");
}
