//! The storage of a store's tables on a disk that loses power at every call: what is found is the last published state or the one
//! being published, whole, and work goes on from it. Where a call fails instead, what is refused and what is unknown is told apart.

use std::{collections::BTreeMap, future::Future, ops::Bound, path::Path, sync::Arc, task::Poll, time::Duration};

use engine::{
    env::Env,
    txn::{
        catalog::{Catalog, TableInfo, TableKind},
        ids::{Csn, Epoch, TableId},
        pages::Pages,
        storage::{
            Birth, Blocks, Changes, Cursor, Direction, Memory, Point, PublishError, State, Storage, StorageError,
            StorageOptions,
        },
    },
};
use madsim::runtime::Runtime;
use sim::{
    disk::{Disk, DiskOptions, Keep},
    env::{Machine, MachineOptions, SimEnv, run_still},
    fault::Fault,
    prng::Prng,
};

type Small = Pages<SimEnv, 480>;
type Rows = BTreeMap<Vec<u8>, Vec<u8>>;
type Batch = BTreeMap<Vec<u8>, Option<Vec<u8>>>;
type Model = BTreeMap<TableId, Rows>;

const STATES: u64 = 7;

/// Changes of one table, as a storage takes them.
struct Sorted(Vec<(Vec<u8>, Option<Vec<u8>>)>, usize);

impl Changes for Sorted {
    fn current(&self) -> Option<(&[u8], Option<&[u8]>)> {
        self.0.get(self.1).map(|(key, value)| (key.as_slice(), value.as_deref()))
    }

    fn advance(&mut self) {
        self.1 += 1;
    }
}

/// What happens at a state: some rows come, some go, one table in all is dropped, and one comes later.
fn batches(state: u64) -> BTreeMap<TableId, Batch> {
    let mut prng = Prng::new(7).fork_nth("batch", state);
    let mut batches = BTreeMap::new();
    for table in catalog(state).tables() {
        let mut batch = Batch::new();
        for _ in 0..prng.below(60) {
            let key = format!("key-{:04}", prng.below(120)).into_bytes();
            let bytes = if prng.chance(1, 12) { prng.below(1500) } else { prng.below(60) };
            let value = (!prng.chance(1, 3)).then(|| vec![prng.below(256) as u8; bytes as usize]);
            batch.insert(key, value);
        }
        batches.insert(table.id, batch);
    }
    batches
}

fn catalog(state: u64) -> Catalog {
    let mut catalog = Catalog::new();
    for id in 1..=3 {
        let name = format!("table {id}").as_str().into();
        let created = Csn::first(Epoch::FIRST);
        let table = TableInfo { id: TableId(id), name, kind: TableKind::Rows, log: 0, meta: 0, created };
        if id < 3 || state >= 4 {
            catalog.create(table).expect("a new name");
        }
    }
    if state >= 3 {
        catalog.remove(TableId(1));
    }
    catalog
}

/// The rows at a state.
fn model(state: u64) -> Model {
    let mut model = Model::new();
    for at in 1..=state {
        let catalog = catalog(at);
        model.retain(|table, _| catalog.table(*table).is_some());
        for (table, batch) in batches(at) {
            let rows = model.entry(table).or_default();
            for (key, value) in batch {
                match value {
                    Some(value) => rows.insert(key, value),
                    None => rows.remove(&key),
                };
            }
        }
    }
    model
}

fn point(state: u64) -> Point {
    let csn = |number| Csn::from_bits((1 << 40) | number).expect("it is of epoch 1");
    Point { csn: csn(state), next_csn: csn(state + 1), epoch: Epoch::FIRST }
}

fn options() -> StorageOptions {
    let blocks = Blocks::new(&Memory::new(32 << 10));
    StorageOptions { chunk_bytes: 24 << 9, piece_bytes: 2 << 10, ..StorageOptions::new(blocks) }
}

async fn examine(env: &SimEnv) -> Result<<Small as Storage<SimEnv>>::Examined, StorageError> {
    let dir = env.dir(Path::new("/store"), false).await.expect("it is there");
    Small::examine(env, &dir, &options()).await
}

async fn create(env: &SimEnv) -> Result<Small, StorageError> {
    Small::create(examine(env).await?, Birth { uuid: [3; 16], logs: 1 }).await
}

async fn open(env: &SimEnv, stated: u64) -> Result<Small, StorageError> {
    let storage = Small::load(examine(env).await?).await?;
    storage.establish(stated).await?;
    Ok(storage)
}

async fn publish(storage: &Small, state: u64) -> Result<(), PublishError> {
    let mut draft = storage.draft(point(state))?;
    for (table, batch) in batches(state) {
        storage.merge(&mut draft, table, &mut Sorted(batch.into_iter().collect(), 0)).await?;
    }
    storage.publish(draft, Arc::new(catalog(state))).await.map(drop)
}

/// The state that a storage has, after a look at all of it.
async fn state_of(storage: &Small) -> u64 {
    let state = storage.newest();
    let number = state.meta().point.csn.to_bits() & 0xFF;
    assert_eq!(state.catalog().tables().count(), if number == 0 { 0 } else { catalog(number).tables().count() });
    let model = model(number);
    for table in (1..=3).map(TableId) {
        let mut rows = Rows::new();
        let mut cursor = state.cursor(table, (Bound::Unbounded, Bound::Unbounded), Direction::Backward);
        while cursor.advance().await.expect("every page is whole") {
            let (key, value) = cursor.current().expect("it is at a key");
            rows.insert(key.to_vec(), value.to_vec());
        }
        assert_eq!(rows, model.get(&table).cloned().unwrap_or_default(), "table {table:?} at state {number}");
    }
    number
}

fn disk() -> Disk {
    let mut disk = Disk::new(DiskOptions::default());
    disk.make_dir(Path::new("/store"));
    disk
}

/// The disk once `act` has crashed at its nth call and the power is gone, in several ways; none once it is over before.
fn cuts(before: &Disk, nth: u64, act: impl AsyncFn(SimEnv, &dyn Fn())) -> Option<Vec<Disk>> {
    let machine = Machine::still(before.fork());
    let arm = || machine.arm_crash(nth);
    if run_still(act(machine.env(), &arm)).is_some() {
        return None;
    }
    let ways = [Keep::None, Keep::All].into_iter().chain(std::iter::repeat_n(Keep::Draw, 4));
    let after = ways.zip(0..).map(|(keep, way)| {
        let copy = Machine::still(machine.fork());
        copy.power_cut(&keep, &mut Prng::new(nth).fork_nth("cut", way));
        copy.fork()
    });
    Some(after.collect())
}

/// The disk after `act`, with what is pending.
fn done(before: &Disk, act: impl AsyncFn(SimEnv)) -> Disk {
    let env = SimEnv::still(before.fork());
    run_still(act(env.clone())).expect("nothing waits");
    env.disk()
}

fn whole(disk: &Disk) -> u64 {
    let env = SimEnv::still(disk.fork());
    run_still(async { state_of(&open(&env, 0).await.expect("it opens")).await }).expect("nothing waits")
}

#[test]
fn a_power_cut_at_any_call_of_a_publish_leaves_the_one_state_or_the_other() {
    let mut disk = done(&disk(), async |env| drop(create(&env).await.expect("the disk works")));
    let (mut crashes, mut newer) = (0, 0);
    for state in 1..=STATES {
        let act = async |env: SimEnv, arm: &dyn Fn()| {
            let storage = open(&env, 0).await.expect("it opens");
            // What the state before freed is written again.
            storage.released(&storage.newest()).await;
            arm();
            publish(&storage, state).await.expect("the disk works");
        };
        for nth in 1.. {
            let Some(cut) = cuts(&disk, nth, act) else { break };
            for after in cut {
                let found = whole(&after);
                assert!(found == state || found == state - 1, "state {found} of {state} at call {nth}");
                crashes += 1;
                newer += u64::from(found == state);
                // Work goes on from there, and once more after it.
                let next = done(&after, async |env| {
                    let storage = open(&env, 0).await.expect("it opens");
                    for next in found + 1..=found + 2 {
                        storage.released(&storage.newest()).await;
                        publish(&storage, next).await.expect("the disk works");
                    }
                });
                assert_eq!(whole(&next.pessimal()), found + 2);
            }
        }
        disk = done(&disk, async |env| act(env, &|| {}).await);
        // What publish has promised needs no luck.
        disk = disk.pessimal();
        assert_eq!(whole(&disk), state);
    }
    assert!(crashes > 500 && newer > 20, "{crashes} crashes, {newer} with the newer state");
}

#[test]
fn what_an_open_found_after_a_kill_outlives_a_power_cut() {
    let mut disk = done(&disk(), async |env| drop(create(&env).await.expect("the disk works")));
    let mut newer = 0;
    for state in 1..=STATES {
        let act = async |env: SimEnv| {
            let storage = open(&env, 0).await.expect("it opens");
            storage.released(&storage.newest()).await;
            publish(&storage, state).await.expect("the disk works");
        };
        for nth in 1.. {
            let machine = Machine::still(disk.fork());
            machine.arm_crash(nth);
            if run_still(act(machine.env())).is_some() {
                break;
            }
            machine.kill(&mut Prng::new(nth));
            // Everything that was written is still to be seen, durable or not.
            let opened = done(&machine.fork(), async |env| drop(open(&env, 0).await.expect("it opens")));
            let found = whole(&opened);
            newer += u64::from(found == state);
            assert_eq!(whole(&opened.pessimal()), found, "killed at call {nth}");
        }
        disk = done(&disk, act).pessimal();
    }
    assert!(newer > 3, "{newer} with the newer state");
}

#[test]
fn a_power_cut_within_an_open_leaves_the_same_state() {
    let mut disk = done(&disk(), async |env| drop(create(&env).await.expect("the disk works")));
    for state in 1..=STATES {
        let publish = async |env: SimEnv| {
            let storage = open(&env, 0).await.expect("it opens");
            publish(&storage, state).await.expect("the disk works");
        };
        disk = done(&disk, publish);
        let expected = whole(&disk);
        for nth in 1.. {
            let open = async |env: SimEnv, arm: &dyn Fn()| {
                arm();
                let storage = open(&env, 0).await.expect("it opens");
                storage.released(&storage.newest()).await;
            };
            let Some(cut) = cuts(&disk, nth, open) else { break };
            for after in cut {
                assert_eq!(whole(&after), expected, "cut at call {nth}");
            }
        }
    }
}

#[test]
fn a_power_cut_within_a_creation_leaves_an_empty_store_or_none() {
    for nth in 1.. {
        let act = async |env: SimEnv, arm: &dyn Fn()| {
            arm();
            create(&env).await.expect("the disk works");
        };
        let Some(cut) = cuts(&disk(), nth, act) else { break };
        for after in cut {
            let env = SimEnv::still(after);
            let found = run_still(async {
                let examined = examine(&env).await.expect("the disk works");
                if Small::roots(&examined).best().is_none() {
                    drop(create(&env).await.expect("it is gone on with"));
                }
                state_of(&open(&env, 0).await.expect("it opens")).await
            });
            assert_eq!(found, Some(0), "cut at call {nth}");
        }
    }
}

#[test]
fn a_write_that_was_left_in_the_middle_never_reaches_a_later_state() {
    // A future is dropped at each of its calls; the call may take effect at any time after that, in place of what a later draft wrote.
    let mut interrupted = 0;
    for (nth, seed) in (1..40).flat_map(|nth| (0..4).map(move |seed| (nth, seed))) {
        let prng = Prng::new(nth).fork_nth("seed", seed);
        let machine = Machine::on(disk(), MachineOptions { latency_us: (1, 400), ..MachineOptions::default() }, &prng);
        let env = machine.env();
        interrupted += Runtime::new().block_on(async move {
            let storage = create(&env).await.expect("the disk works");
            publish(&storage, 1).await.expect("the disk works");
            storage.released(&storage.newest()).await;
            let from = env.io_count();
            let mut other = Box::pin(publish(&storage, 3));
            let done = std::future::poll_fn(|context| {
                let ready = other.as_mut().poll(context).is_ready();
                if ready || env.io_count() >= from + nth { Poll::Ready(ready) } else { Poll::Pending }
            });
            let done = done.await;
            drop(other);
            if done || storage.draft(point(2)).is_err() {
                // It is published, or nobody knows.
                return 0;
            }
            publish(&storage, 2).await.expect("the other one was dropped");
            assert_eq!(state_of(&storage).await, 2);
            madsim::time::sleep(Duration::from_secs(1)).await;
            let found = state_of(&open(&env, 0).await.expect("it opens")).await;
            assert_eq!(found, 2, "after a drop at call {nth}");
            1
        });
    }
    assert!(interrupted > 50, "{interrupted}");
}

#[test]
fn a_call_that_fails_abandons_the_draft_or_poisons_the_storage() {
    let (mut refused, mut unknown) = (0, 0);
    for fault in [Fault::EioWrite, Fault::EioSync, Fault::EioDirSync, Fault::Enospc] {
        for nth in 1..80 {
            let prng = Prng::new(nth);
            let machine = Machine::on(disk(), MachineOptions::default(), &prng);
            let env = machine.env();
            let outcome = Runtime::new().block_on(async {
                let storage = create(&env).await.expect("the disk works");
                publish(&storage, 1).await.expect("the disk works");
                storage.released(&storage.newest()).await;
                machine.set_faults_at(vec![(fault, nth)]);
                let outcome = publish(&storage, 2).await;
                machine.set_faults_at(Vec::new());
                match &outcome {
                    Err(PublishError::Unknown(_)) => {
                        assert!(matches!(storage.draft(point(2)), Err(StorageError::Poisoned(_))));
                        assert_eq!(state_of(&storage).await, 1, "it reads on");
                    }
                    Err(PublishError::Not(_)) => {
                        assert_eq!(state_of(&storage).await, 1);
                        publish(&storage, 2).await.expect("another one is as good");
                    }
                    Ok(()) => {}
                }
                outcome
            });
            let found = whole(&machine.pessimal());
            match outcome {
                Err(PublishError::Unknown(_)) => {
                    unknown += 1;
                    assert!(found == 1 || found == 2);
                }
                Err(PublishError::Not(_)) => {
                    refused += 1;
                    assert_eq!(found, 2);
                }
                Ok(()) => assert_eq!(found, 2),
            }
        }
    }
    assert!(refused > 20 && unknown > 2, "{refused} refused, {unknown} unknown");
}
