//! A Memory table is copied without what was removed of it while others write: the copy that takes its place has what they wrote.

use std::{
    cell::Cell,
    collections::BTreeMap,
    future::{Future, poll_fn},
    ops::Bound,
    path::Path,
    pin::pin,
    task::Poll,
};

use engine::{
    env::Env,
    plant::{Plant, Plants},
    txn::{
        Store, Table,
        catalog::TableKind,
        options::{Options, Sync, TableOptions, TxOptions},
        pages::Pages,
        storage::Direction,
    },
};
use madsim::runtime::Runtime;
use sim::{
    disk::{Disk, DiskOptions},
    env::{Machine, MachineOptions, SimEnv},
    prng::Prng,
};

type Db = Store<SimEnv, Pages<SimEnv, 480>>;
type Rows = BTreeMap<u64, u64>;

const STORE: &str = "/store";
/// Many pieces of a copy.
const ROWS: u64 = 3000;
const ROUNDS: u64 = 8;

async fn rows(db: &Db, table: &Table) -> Rows {
    let mut tx = db.begin(TxOptions { read_only: true, ..TxOptions::default() }).expect("it is open");
    let mut scan = tx.scan(table, (Bound::Unbounded, Bound::Unbounded), Direction::Forward).expect("it begins");
    let mut rows = Rows::new();
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
    while let Some((key, value)) = scan.next().await.expect("it is in memory") {
        rows.insert(number(key), number(value));
    }
    rows
}

/// Polls both in turns until both are done.
async fn both(one: impl Future, two: impl Future) {
    let (mut one, mut two) = (pin!(one), pin!(two));
    let (mut first, mut second) = (false, false);
    poll_fn(|context| {
        first = first || one.as_mut().poll(context).is_ready();
        second = second || two.as_mut().poll(context).is_ready();
        if first && second { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// How often something was written while a checkpoint ran; an error if a row is not as it was written.
fn run(seed: u64, plants: &Plants) -> Result<u64, String> {
    let mut disk = Disk::new(DiskOptions::default());
    disk.make_dir(Path::new(STORE));
    let machine = Machine::on(disk, MachineOptions::default(), &Prng::new(seed));
    let options = Options { sync: Sync::NoSync, plants: plants.clone(), ..Options::default() };
    Runtime::with_seed_and_config(seed, madsim::Config::default()).block_on(async {
        let (db, _) = Db::open(machine.env(), Path::new(STORE), options).await.expect("the disk works");
        let kind = TableOptions { kind: TableKind::Memory };
        let table = db.create_table_with("volatile", kind).await.expect("a new name");
        let put = async |written: &mut Rows, key: u64, value: u64| {
            db.put(&table, &key.to_be_bytes(), &value.to_be_bytes()).await.expect("it is in memory");
            written.insert(key, value);
        };
        let delete = async |written: &mut Rows, key: u64| {
            db.delete(&table, &key.to_be_bytes()).await.expect("it is in memory");
            written.remove(&key);
        };
        let (mut written, mut draws, between) = (Rows::new(), Prng::new(seed), Cell::new(0));
        for round in 0..ROUNDS {
            for key in 0..ROWS {
                put(&mut written, key, round).await;
            }
            for key in 0..ROWS {
                if draws.below(3) > 0 {
                    delete(&mut written, key).await;
                }
            }
            let runs = Cell::new(true);
            let checkpoint = async {
                db.checkpoint().await.expect("the disk works");
                runs.set(false);
            };
            let writer = async {
                for number in 0..60 {
                    let key = draws.below(ROWS);
                    match draws.below(2) {
                        0 => delete(&mut written, key).await,
                        _ => put(&mut written, key, 1000 * (round + 1) + number).await,
                    }
                    between.set(between.get() + u64::from(runs.get()));
                    machine.env().yield_now().await;
                }
            };
            both(checkpoint, writer).await;
            if rows(&db, &table).await != written {
                return Err(format!("round {round}: a row is not as it was written"));
            }
        }
        db.close().await.expect("the disk works");
        Ok(between.get())
    })
}

#[test]
fn a_copy_of_a_memory_table_has_what_was_written_meanwhile() {
    for seed in 1..6 {
        let between = run(seed, &Plants::default()).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert!(between > ROUNDS, "seed {seed}: {between} writes between pieces are none to speak of");
    }
}

#[test]
fn a_copy_that_does_not_follow_is_seen() {
    let plants = Plants::only(Plant::TxnCopyDeaf);
    let found = run(1, &plants).expect_err("the planted bug shows");
    assert!(found.contains("not as it was written") && plants.reached() > 0, "{found}");
}
