use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use engine::env::block_on;
use madsim::runtime::{Handle, Runtime};

use super::*;
use crate::{
    disk::{DiskOptions, Keep},
    fault::{Fault, FaultRates},
    prng::Prng,
};

/// Runs in a runtime of its own OS thread, as the runner does: hash-map order is deterministic only there.
#[allow(clippy::disallowed_methods, reason = "one thread per seed")]
fn simulate<T: Send + 'static, F: Future<Output = T>>(seed: u64, body: impl FnOnce() -> F + Send + 'static) -> T {
    let run = move || Runtime::with_seed_and_config(seed, madsim::Config::default()).block_on(body());
    std::thread::spawn(run).join().expect("the simulated body passes")
}

fn machine(seed: u64, rates: FaultRates) -> Machine {
    let machine = Machine::new(MachineOptions { rates, ..MachineOptions::default() }, &Prng::new(seed));
    machine.with_disk(|disk| disk.make_dir(Path::new("/log")));
    machine
}

async fn new_file(env: &SimEnv, name: &str) -> io::Result<SimFile> {
    env.dir(Path::new("/log"), false).await?.open(name, OpenMode::CreateNew).await
}

fn content(machine: &Machine, name: &str) -> Option<Vec<u8>> {
    machine.with_disk(|disk| disk.read_file(disk.dir_at(Path::new("/log"))?, name))
}

/// Some traffic with concurrent tasks and many faults.
async fn storm(machine: Machine) -> u64 {
    let env = machine.env();
    let mut tasks = Vec::new();
    for client in 0..4_u64 {
        let env = env.clone();
        tasks.push(madsim::task::spawn(async move {
            let Ok(file) = new_file(&env, &format!("file-{client}")).await else { return };
            for step in 0..20 {
                let mut buf = [client as u8; 700];
                let _ = file.write_at(&buf, step * 500).await;
                let _ = file.read_at(&mut buf, step * 300).await;
                let _ = file.sync_data().await;
                env.yield_now().await;
            }
        }));
    }
    for task in tasks {
        task.await.expect("no task panics");
    }
    machine.trace_hash()
}

#[test]
fn one_seed_has_one_trace_hash() {
    let rates = FaultRates::calm().with(Fault::Eintr, 7).with(Fault::EioSync, 9).with(Fault::ShortWrite, 5);
    let run = |seed| simulate(seed, move || storm(machine(seed, rates)));
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_call_takes_virtual_time() {
    simulate(1, || async {
        let machine = machine(1, FaultRates::calm());
        let env = machine.env();
        let before = env.wall_ns();
        new_file(&env, "a").await.unwrap();
        let took = env.wall_ns() - before;
        // Two calls of 1 to 20 microseconds, and what the scheduler adds.
        assert!((2_000..41_000).contains(&took), "{took}");
    });
}

#[test]
fn dropping_a_started_write_does_not_cancel_it() {
    simulate(1, || async {
        let machine = machine(1, FaultRates::calm());
        let file = new_file(&machine.env(), "a").await.unwrap();
        {
            let write = std::pin::pin!(file.write_at(b"kept", 0));
            assert!(futures_poll(write).is_none());
        }
        // Not even closing the file does.
        drop(file);
        assert_eq!(content(&machine, "a").unwrap(), b"");
        madsim::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(content(&machine, "a").unwrap(), b"kept");
    });
}

#[test]
fn a_call_that_was_never_polled_does_not_happen() {
    simulate(1, || async {
        let machine = machine(1, FaultRates::calm());
        let file = new_file(&machine.env(), "a").await.unwrap();
        drop(file.write_at(b"never", 0));
        madsim::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(content(&machine, "a").unwrap(), b"");
    });
}

#[test]
fn an_abandoned_lock_is_not_held() {
    simulate(1, || async {
        let machine = machine(1, FaultRates::calm());
        let dir = machine.env().dir(Path::new("/log"), false).await.unwrap();
        {
            let lock = std::pin::pin!(dir.lock());
            assert!(futures_poll(lock).is_none());
        }
        madsim::time::sleep(Duration::from_millis(100)).await;
        dir.lock().await.expect("nobody holds it");
    });
}

#[test]
fn an_armed_crash_halts_the_machine_and_wakes_the_waiter() {
    for seed in 0..40 {
        simulate(seed, move || async move {
            let machine = machine(seed, FaultRates::calm());
            let node = Handle::current().create_node().build();
            let (env, done) = (machine.env(), Arc::new(Mutex::new(0)));
            let progress = done.clone();
            machine.arm_crash(6);
            node.spawn(async move {
                let file = new_file(&env, "a").await.unwrap(); // calls 1 and 2
                for step in 0..100 {
                    file.write_at(b"x", step).await.unwrap();
                    *progress.lock().unwrap() += 1;
                }
            });
            machine.crashed().await;
            // Call 6 is the fourth write: it was begun and never answered.
            assert_eq!((machine.io_count(), *done.lock().unwrap()), (6, 3));
            Handle::current().kill(node.id());
            madsim::task::yield_now().await;
            machine.kill(&mut Prng::new(seed));
            assert!((3..=4).contains(&content(&machine, "a").unwrap().len()));
            assert!(machine.last_calls().last().unwrap().ends_with("in flight"));

            // The next process finds the file, without the lock or the handles of the last one.
            let dir = machine.env().dir(Path::new("/log"), false).await.unwrap();
            dir.lock().await.unwrap();
            assert_eq!(dir.list().await.unwrap().len(), 1);
        });
    }
}

#[test]
fn handles_of_a_killed_process_are_inert() {
    simulate(1, || async {
        let machine = machine(1, FaultRates::calm());
        let old = machine.env();
        let file = new_file(&old, "a").await.unwrap();
        let old_lock = old.dir(Path::new("/log"), false).await.unwrap().lock().await.unwrap();
        machine.kill(&mut Prng::new(1));
        let new = machine.env().dir(Path::new("/log"), false).await.unwrap();
        let _lock = new.lock().await.expect("the kill released it");
        drop((old_lock, file.write_at(b"ghost", 0)));
        let ghost = madsim::time::timeout(Duration::from_secs(9), file.write_at(b"ghost", 0)).await;
        assert!(ghost.is_err(), "it never ends");
        assert_eq!(content(&machine, "a").unwrap(), b"");
        let second = new.lock().await.map(drop);
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::WouldBlock, "the old lock's drop released nothing");
    });
}

#[test]
fn a_power_cut_with_keep_none_leaves_what_was_synced() {
    simulate(1, || async {
        let machine = machine(1, FaultRates::calm());
        let env = machine.env();
        let dir = env.dir(Path::new("/log"), false).await.unwrap();
        let file = new_file(&env, "a").await.unwrap();
        file.write_at(b"synced", 0).await.unwrap();
        file.sync_data().await.unwrap();
        dir.sync().await.unwrap();
        file.write_at(b"lost", 6).await.unwrap();
        new_file(&env, "b").await.unwrap();
        machine.power_cut(&Keep::None, &mut Prng::new(1));
        assert_eq!(content(&machine, "a").unwrap(), b"synced");
        assert_eq!(content(&machine, "b"), None);
    });
}

#[test]
fn every_fault_fires_and_is_counted() {
    let rates =
        Fault::ALL.into_iter().fold(FaultRates::calm(), |rates, fault| rates.with(fault, 20)).with(Fault::Evict, 1);
    let fired = simulate(3, move || async move {
        let machine = machine(3, rates);
        storm(machine.clone()).await;
        for _ in 0..100 {
            if let Ok(dir) = machine.env().dir(Path::new("/log"), false).await {
                let _ = dir.sync().await;
            }
        }
        machine.behave();
        let calm = machine.fired();
        let file =
            machine.env().dir(Path::new("/log"), false).await.unwrap().open("file-0", OpenMode::Write).await.unwrap();
        file.sync_all().await.expect("a machine that behaves has no faults");
        assert_eq!(machine.fired(), calm);
        calm
    });
    for (fault, count) in fired.iter() {
        assert!(count > 0, "{} never fired", fault.name());
    }
}

#[test]
fn an_explicit_fault_strikes_the_call_it_names() {
    simulate(1, || async {
        let machine = machine(1, FaultRates::calm());
        let file = new_file(&machine.env(), "a").await.unwrap();
        machine.set_faults_at(vec![(Fault::EioSync, 2)]);
        file.sync_all().await.unwrap();
        assert!(file.sync_all().await.is_err());
        file.sync_all().await.unwrap();
        assert_eq!(machine.fired().count(Fault::EioSync), 1);
    });
}

#[test]
fn a_still_machine_is_ready_at_once_and_can_be_crashed() {
    let env = SimEnv::still(Disk::new(DiskOptions::default()));
    let work = async |env: &SimEnv| {
        let dir = env.dir(Path::new("d"), true).await?;
        let file = dir.open("a", OpenMode::CreateNew).await?;
        file.write_at(b"abc", 0).await?;
        env.yield_now().await;
        file.len().await
    };
    assert_eq!(block_on(work(&env)).unwrap(), 3);
    assert_eq!(env.io_count(), 5);
    for nth in 1..=5 {
        let env = SimEnv::still(Disk::new(DiskOptions::default()));
        env.machine().arm_crash(nth);
        assert!(run_still(work(&env)).is_none(), "call {nth}");
        assert_eq!(env.io_count(), nth);
        env.machine().kill(&mut Prng::new(nth));
        let left = env.disk();
        let dir = left.dir_at(Path::new("d"));
        assert!(nth > 1 || dir.is_none_or(|dir| left.files(dir).count() == 0));
    }
}

#[test]
fn two_recoveries_of_one_line_of_images_draw_different_bytes() {
    let bytes = |env: &SimEnv| {
        let mut buf = [0; 8];
        env.fill_random(&mut buf);
        buf
    };
    let env = SimEnv::still(Disk::new(DiskOptions::default()));
    assert_eq!(bytes(&env), bytes(&SimEnv::still(env.disk())), "the same image draws the same");
    block_on(env.dir(Path::new("d"), true)).unwrap();
    assert_ne!(bytes(&SimEnv::still(Disk::new(DiskOptions::default()))), bytes(&SimEnv::still(env.disk())));
}

/// Polls once, outside of any task's waker.
fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

#[test]
fn what_an_image_knows_of_zeros_changes_no_recovery() {
    use engine::wal::{Durability, Options, Wal};

    let path = Path::new("/log");
    let options = || Options::new().segment_bytes(64 << 10);
    let mut disk = Disk::new(DiskOptions::default());
    disk.make_dir(path);
    let env = SimEnv::still(disk);
    run_still(async {
        let (wal, _) = Wal::open(env.clone(), path, options()).await.expect("an empty directory");
        for number in 0..150_u64 {
            let record: Vec<u8> = (0..100).map(|at| (number + at) as u8 | 1).collect();
            // What nothing proves is left behind, what something proves is missed.
            let durability = if number < 40 { Durability::Sync } else { Durability::Written };
            wal.append(record, durability).await.expect("a sound machine");
        }
    })
    .expect("nobody is waited for");
    let mut sound = env.disk();
    sound.power_cut(&Keep::All, &mut Prng::new(0));
    let dir = sound.dir_at(path).expect("the log's directory");
    let (name, length) = sound.files(dir).max_by_key(|(_, length)| *length).expect("the log's file");
    let name = name.clone();
    let (mut refused, mut left_behind) = (0, 0);
    for seed in 0..200 {
        let mut draws = Prng::new(seed);
        let mut damaged = sound.fork();
        for _ in 0..1 + draws.below(3) {
            // Whole pages and parts of them: frames stand behind zeros that are known and behind some that are not.
            let offset = 8192 + draws.below(length - 8192) / 4 * 4;
            let offset = if draws.chance(1, 2) { offset / 4096 * 4096 } else { offset };
            damaged.damage(dir, &name, offset, &vec![0; 1 + draws.below(12_000) as usize]);
        }
        let (mut read, mut known) = (Vec::new(), Vec::new());
        let still = SimEnv::still(damaged.fork());
        let report = run_still(Wal::verify(still, path, options(), |lsn, record| read.push((lsn, record))));
        let image = ImageEnv::new(damaged.image());
        let other = run_still(Wal::verify(image, path, options(), |lsn, record| known.push((lsn, record))));
        let (report, other) = (report.expect("a still machine"), other.expect("a still machine"));
        match (&report, &other) {
            (Ok(report), Ok(other)) => {
                left_behind += u64::from(report.dropped.iter().any(|dropped| dropped.frames > 0));
                assert_eq!(report, other, "seed {seed}");
            }
            (Err(error), Err(other)) => {
                refused += 1;
                assert_eq!(error.to_string(), other.to_string(), "seed {seed}");
            }
            _ => panic!("seed {seed}: {report:?} or {other:?}"),
        }
        assert_eq!(read, known, "seed {seed}");
    }
    assert!(refused > 20 && left_behind > 20, "{refused} {left_behind}");
}
