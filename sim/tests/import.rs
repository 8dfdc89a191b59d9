//! An import that loses power at every call and is called again: every record comes in once, and the source goes last.

mod store;

use std::{path::Path, sync::Arc, sync::Mutex, time::Duration};

use engine::{
    env::{Dir, Env},
    txn::{Store, Tell},
    wal::{self, Durability, Lsn, Wal},
};
use madsim::runtime::Runtime;
use sim::{
    disk::{Disk, DiskOptions, Keep},
    env::{Machine, MachineOptions, SimEnv, run_still},
    prng::Prng,
};

use store::{Rows, Small, rows, small_options};

const STORE: &str = "/store";
const SOURCE: &str = "/source";
const RECORDS: u64 = 600;

fn log_options() -> wal::Options {
    wal::Options::new().segment_bytes(16 << 10).buffer_bytes(16 << 10)
}

/// A disk with a log of records: 0 to 599, each of which sets one of a few keys, and every seventh of which removes another.
fn source() -> Disk {
    let mut disk = Disk::new(DiskOptions::default());
    disk.make_dir(Path::new(STORE));
    disk.make_dir(Path::new(SOURCE));
    let machine = Arc::new(Machine::on(disk, MachineOptions::default(), &Prng::new(4)));
    let env = machine.env();
    Runtime::new().block_on(async move {
        let (wal, _) = Wal::open(env, Path::new(SOURCE), log_options()).await.expect("an empty directory");
        for number in 0..RECORDS {
            wal.append(number.to_le_bytes(), Durability::Buffered).await.expect("there is room");
        }
        wal.close().await.expect("the disk works");
    });
    machine.fork()
}

fn key(number: u64) -> [u8; 2] {
    [(number % 50) as u8, 1]
}

/// What the first records come to.
fn expected(records: u64) -> Rows {
    let mut rows = Rows::new();
    for number in 0..records {
        rows.insert(("rows".into(), key(number).to_vec()), vec![number as u8; 300]);
        if number % 7 == 0 {
            rows.remove(&("rows".into(), key(number + 3).to_vec()));
        }
        // Who comes in twice is seen.
        let count = rows.entry(("rows".into(), b"count".to_vec())).or_default();
        *count = (number + 1).to_le_bytes().to_vec();
    }
    rows
}

/// Opens the store and imports, until it is cut at the nth call. The machine as it was then, and how the import ended, if it did.
fn run(disk: Disk, nth: u64) -> (Arc<Machine>, Option<u64>) {
    let options_of_machine = MachineOptions { latency_us: (1, 50), ..MachineOptions::default() };
    let machine = Arc::new(Machine::on(disk, options_of_machine, &Prng::new(5)));
    let ended = Arc::new(Mutex::new(None));
    let (env, armed, told) = (machine.env(), Arc::clone(&machine), Arc::clone(&ended));
    Runtime::new().block_on(async move {
        let import = async {
            let opened = Store::<SimEnv, Small>::open(env, Path::new(STORE), small_options()).await;
            let (store, _) = opened.expect("it opens");
            for name in ["rows", "imports"] {
                if store.table(name).is_err() {
                    store.create_table(name).await.expect("a new name");
                }
            }
            let (rows, imports) =
                (store.table("rows").expect("it is there"), store.table("imports").expect("it is there"));
            armed.arm_crash(nth);
            let translate = |_: Lsn, record: &[u8], tell: &mut Tell<'_>| {
                let number = u64::from_le_bytes(record.try_into().map_err(|_| "8 bytes")?);
                tell(&rows, &key(number), Some(&[number as u8; 300]));
                if number % 7 == 0 {
                    tell(&rows, &key(number + 3), None);
                }
                tell(&rows, b"count", Some(&(number + 1).to_le_bytes()));
                Ok(())
            };
            let imported = store.import(Path::new(SOURCE), log_options(), (&imports, b"log"), translate).await;
            *told.lock().expect("nobody panicked") = Some(imported.expect("the disk works").records);
            // Neither its handles nor its tasks do anything after a crash.
            std::mem::forget(store);
        };
        let _ = madsim::time::timeout(Duration::from_secs(1 << 20), import).await;
    });
    let ended = *ended.lock().expect("nobody panicked");
    (machine, ended)
}

fn segments(disk: &Disk) -> usize {
    let env = SimEnv::still(disk.fork());
    let listed = run_still(async {
        let dir = env.dir(Path::new(SOURCE), false).await.expect("it is there");
        dir.list().await.expect("the disk works").len()
    });
    listed.expect("nothing waits")
}

#[test]
fn an_import_that_loses_power_at_any_call_goes_on_when_it_is_repeated() {
    let source = source();
    let whole = segments(&source);
    let (mut partly, mut removing) = (0, 0);
    for nth in 1.. {
        let (machine, ended) = run(source.fork(), nth);
        for (way, keep) in [Keep::None, Keep::All, Keep::Draw].into_iter().enumerate() {
            let cut = Machine::still(machine.fork());
            cut.power_cut(&keep, &mut Prng::new(nth).fork_nth("cut", way as u64));
            let disk = cut.fork();
            let mut found = rows(&disk, STORE, small_options()).expect("the store is whole");
            let progress = found.remove(&("imports".to_owned(), b"log".to_vec()));
            let last = progress.map_or(0, |value| u64::from_le_bytes(value.try_into().expect("8 bytes")));
            assert!(found == expected(last.min(RECORDS)), "cut at call {nth}, with record {last}");
            if last < u64::MAX {
                assert!(ended.is_none() && segments(&disk) >= whole, "the source is whole before");
            }
            partly += u64::from(last > 0 && last < RECORDS);
            removing += u64::from(last == u64::MAX && segments(&disk) > 0);
            let (machine, ended) = run(disk, u64::MAX);
            assert_eq!(ended, Some(RECORDS - last.min(RECORDS)), "what was not there");
            let disk = machine.pessimal();
            assert_eq!(segments(&disk), 0);
            let mut found = rows(&disk, STORE, small_options()).expect("the store is whole");
            found.remove(&("imports".to_owned(), b"log".to_vec()));
            assert!(found == expected(RECORDS));
        }
        if ended.is_some() {
            break;
        }
    }
    assert!(partly > 20 && removing > 2, "{partly} partly there, {removing} with all there and the source in part");
}
