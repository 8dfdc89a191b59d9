//! A backup that loses power at every call: what is in the target is all of it or is refused, never less, and the store itself has everything.

mod store;

use std::{path::Path, sync::Arc, sync::Mutex, time::Duration};

use engine::txn::Store;
use madsim::runtime::Runtime;
use sim::{
    disk::{Disk, DiskOptions, Keep},
    env::{Machine, MachineOptions, SimEnv, run_still},
    prng::Prng,
};

use store::{Rows, Small, rows, small_options};

const STORE: &str = "/store";
const COPY: &str = "/copy";

/// What is wrong with the store at `path`, beyond what a crash leaves.
fn damage(disk: &Disk, path: &str) -> Option<String> {
    let env = SimEnv::still(disk.fork());
    let checked = run_still(Store::<SimEnv, Small>::check(env, Path::new(path), small_options()));
    let report = checked.expect("nothing waits").expect("there is a store");
    (!report.is_sound()).then(|| format!("{report:?}"))
}

/// Runs a backup that is cut at the nth call. The machine as it was then, and whether it was over before.
fn run(nth: u64) -> (Arc<Machine>, bool) {
    let mut disk = Disk::new(DiskOptions::default());
    disk.make_dir(Path::new(STORE));
    let options_of_machine = MachineOptions { latency_us: (1, 50), ..MachineOptions::default() };
    let machine = Arc::new(Machine::on(disk, options_of_machine, &Prng::new(5)));
    let ended = Arc::new(Mutex::new(false));
    let (env, armed, told) = (machine.env(), Arc::clone(&machine), Arc::clone(&ended));
    Runtime::new().block_on(async move {
        let (store, _) =
            Store::<SimEnv, Small>::open(env, Path::new(STORE), small_options()).await.expect("an empty directory");
        for name in ["a", "b", "c"] {
            let table = store.create_table(name).await.expect("a new name");
            for number in 0..40_u8 {
                store.put(&table, &[number], &vec![number; usize::from(number) * 9]).await.expect("there is room");
            }
        }
        armed.arm_crash(nth);
        let backup = async {
            store.backup(Path::new(COPY)).await.expect("the disk works");
            *told.lock().expect("nobody panicked") = true;
        };
        let _ = madsim::time::timeout(Duration::from_secs(1 << 20), backup).await;
        // Neither its handles nor its tasks do anything after a crash.
        std::mem::forget(store);
    });
    let ended = *ended.lock().expect("nobody panicked");
    (machine, ended)
}

#[test]
fn a_power_cut_at_any_call_leaves_all_of_a_backup_or_none() {
    let mut expected = Rows::new();
    for name in ["a", "b", "c"] {
        for number in 0..40_u8 {
            expected.insert((name.into(), vec![number]), vec![number; usize::from(number) * 9]);
        }
    }
    let (mut refused, mut whole) = (0, 0);
    for nth in 1.. {
        let (machine, ended) = run(nth);
        let ways = [Keep::None, Keep::All, Keep::Draw, Keep::Draw];
        for (way, keep) in ways.into_iter().enumerate() {
            let cut = Machine::still(machine.fork());
            cut.power_cut(&keep, &mut Prng::new(nth).fork_nth("cut", way as u64));
            let disk = cut.fork();
            assert!(
                rows(&disk, STORE, small_options()).expect("the store is whole") == expected,
                "the store after a cut at call {nth}"
            );
            assert_eq!(damage(&disk, STORE), None, "the store after a cut at call {nth}");
            match rows(&disk, COPY, small_options()) {
                Ok(found) => {
                    assert_eq!(damage(&disk, COPY), None, "cut at call {nth}");
                    assert!(found == expected, "cut at call {nth}: {} rows", found.len());
                    whole += 1;
                }
                Err(error) => {
                    assert!(!ended, "a backup that has ended opens: {error}");
                    refused += 1;
                }
            }
        }
        if ended {
            break;
        }
    }
    assert!(refused > 200 && whole >= 4, "{refused} refused, {whole} whole");
}
