//! A model check with loom: two threads lock two rows in opposite order. The older one commits, the rows have one owner at a time, and no
//! wake-up is lost: a thread that slept on would hang the check.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use loom::thread;

use super::{super::ids::Epoch, *};

const T: TableId = TableId(1);
const NEVER: Duration = Duration::MAX;

fn transaction(number: u64) -> Arc<Owner> {
    let epoch = Epoch::new(1).expect("there is one").get();
    Owner::new(super::super::ids::TxnId::from_bits((epoch << 40) | number).expect("one of epoch 1"), None)
}

/// Takes the rows and commits; false if it was wounded.
async fn run(locks: &Locks, owner: &Arc<Owner>, rows: [&[u8]; 2], inside: &Mutex<u8>) -> bool {
    let mut won = true;
    for row in rows {
        won = won && locks.row(owner, (T, row), NEVER, || Duration::ZERO).await.is_ok();
    }
    won = won && owner.begin_commit().is_ok();
    if won {
        // Both rows are its own until it ends.
        let enter = |from, to| {
            let mut inside = inside.lock().expect("nobody panics");
            assert_eq!(*inside, from);
            *inside = to;
        };
        enter(0, 1);
        enter(1, 0);
    }
    locks.end(owner);
    won
}

fn explore(shards: usize) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    // Of the younger one: wounded, committed.
    let counts: Arc<[AtomicU64; 2]> = Arc::default();
    let ends = counts.clone();
    model.check(move || {
        let shared = Arc::new((Locks::new(shards), Mutex::new(0)));
        let shard_of = |row| shared.0.shard_of(&(T, Key::from_slice(row)));
        assert_eq!(shard_of(b"a") == shard_of(b"b"), shards == 1);
        let (other, younger) = (shared.clone(), transaction(2));
        let thread = thread::spawn(move || loom::future::block_on(run(&other.0, &younger, [b"b", b"a"], &other.1)));
        let older = transaction(1);
        assert!(loom::future::block_on(run(&shared.0, &older, [b"a", b"b"], &shared.1)), "the oldest was wounded");
        let won = thread.join().expect("it has ended");
        ends[usize::from(won)].fetch_add(1, Relaxed);
        assert!(shared.0.is_unused());
    });
    println!("the younger one: wounded, committed: {counts:?}");
    assert!(counts.iter().all(|count| count.load(Relaxed) > 0));
}

#[test]
fn two_rows_in_opposite_order_in_one_shard() {
    explore(1);
}

#[test]
fn two_rows_in_opposite_order_in_two_shards() {
    explore(2);
}
