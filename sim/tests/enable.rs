//! A log is switched on for data in memory, for the first time; wherever that is interrupted, the next open finds all of the data or
//! none of it, and is never refused.

use std::{path::Path, time::Duration};

use engine::{
    aof::{CommandLog, LogError, Phase, options::Options},
    env::Env,
    keyspace::{Keyspace, ValueRef},
    plant::{Plant, Plants},
};
use madsim::runtime::{Handle, Runtime};
use sim::{
    disk::{Disk, DiskOptions, Keep},
    env::{Machine, MachineOptions, SimEnv, run_still},
    fault::{Fault, FaultRates},
    prng::Prng,
};

const DATA: &str = "/data";
const BEFORE: i64 = 100;
const MEANWHILE: i64 = 20;

/// Switches a log on and goes on meanwhile, up to the call with this number. What a power cut leaves, and whether it came to the end.
fn enable(crash: u64, seed: u64, keep: Keep, plants: Plants) -> (Disk, bool) {
    let run = move || {
        Runtime::with_seed_and_config(seed, madsim::Config::default()).block_on(async move {
            let machine = Machine::new(MachineOptions::default(), &Prng::new(seed));
            machine.with_disk(|disk| disk.make_dir(Path::new(DATA)));
            machine.arm_crash(crash);
            let node = Handle::current().create_node().build();
            let env = machine.env();
            let work = node.spawn(async move {
                let mut keys = Keyspace::new();
                let incr: [&[u8]; 2] = [b"INCR", b"n"];
                (0..BEFORE).for_each(|_| drop(keys.load(&incr)));
                let options = Options { plants, ..Options::default() };
                let enabled = CommandLog::enable(env, Path::new(DATA), options, || keys.snapshot()).await;
                let (log, first) = enabled.expect("nothing fails");
                for _ in 0..MEANWHILE {
                    log.append(0, &incr).await.expect("it is collected");
                    log.round().await.expect("it is written");
                }
                log.sync().await.expect("the log is on");
                assert!(first.done().await.is_ok());
            });
            let crashed = machine.crashed();
            let ended = madsim::task::spawn(async move { drop(work.await) });
            // Whichever comes first.
            let (mut crashed, mut ended) = (std::pin::pin!(crashed), std::pin::pin!(ended));
            let done = std::future::poll_fn(|context| {
                if crashed.as_mut().poll(context).is_ready() {
                    return std::task::Poll::Ready(false);
                }
                ended.as_mut().poll(context).map(|_| true)
            })
            .await;
            machine.halt();
            Handle::current().kill(node.id());
            madsim::task::yield_now().await;
            machine.power_cut(&keep, &mut Prng::new(seed));
            (machine.with_disk(|disk| disk.fork()), done)
        })
    };
    std::thread::spawn(run).join().expect("it runs")
}

/// What the next open finds.
fn open(disk: &Disk) -> Result<i64, String> {
    let env = SimEnv::still(disk.fork());
    let opened = run_still(async {
        let mut keys = Keyspace::new();
        let opened = CommandLog::open(env.clone(), Path::new(DATA), Options::default(), &mut keys).await;
        opened.map_err(|error| error.to_string())?;
        match keys.databases()[0].get(b"n").map(|entry| entry.value) {
            Some(ValueRef::String(text)) => Ok(String::from_utf8_lossy(text).parse().unwrap_or(-1)),
            _ => Ok(0),
        }
    });
    opened.expect("nothing waits")
}

/// Interrupts it at each of its calls. How many crashes there were, and the opens that found what they may not.
fn storm(plants: &Plants) -> (u64, Vec<String>) {
    let (mut crashes, mut wrong) = (0, Vec::new());
    let mut finished = false;
    for call in 1.. {
        let drawn = std::iter::repeat_n(Keep::Draw, 14);
        for (seed, keep) in (0..).zip([Keep::All, Keep::None].into_iter().chain(drawn)) {
            let (left, done) = enable(call, call * 16 + seed, keep, plants.clone());
            finished |= done;
            crashes += u64::from(!done);
            let found = open(&left);
            let all = BEFORE..=BEFORE + MEANWHILE;
            let right = match &found {
                Ok(number) => all.contains(number) || *number == 0 && !done,
                Err(_) => false,
            };
            if !right || done && found != Ok(BEFORE + MEANWHILE) {
                wrong.push(format!("call {call}, done {done}: {found:?}"));
            }
        }
        if finished {
            return (crashes, wrong);
        }
    }
    unreachable!("it ends");
}

#[test]
fn an_interrupted_switch_leaves_all_or_nothing() {
    assert_eq!(open(&Disk::new(DiskOptions::default()).fork()), Ok(0));
    let (crashes, wrong) = storm(&Plants::default());
    assert!(crashes > 200, "{crashes}");
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn its_planted_bug_shows() {
    let (_, wrong) = storm(&Plants::only(Plant::AofEnableNamesFirst));
    assert!(wrong.iter().any(|text| text.contains("manifest")), "{wrong:?}");
}

/// No sync succeeds, so no base is ever complete: nothing is acknowledged, and after ten attempts the log works no more.
#[test]
fn ten_attempts_are_made_a_second_apart() {
    let run = || {
        Runtime::with_seed_and_config(1, madsim::Config::default()).block_on(async {
            let rates = FaultRates::calm().with(Fault::EioSync, 1);
            let options = MachineOptions { rates, ..MachineOptions::default() };
            let machine = Machine::new(options, &Prng::new(1));
            machine.with_disk(|disk| disk.make_dir(Path::new(DATA)));
            let env = machine.env();
            let mut keys = Keyspace::new();
            keys.load(&[b"SET", b"key", b"value"]).expect("a command");
            let enabled =
                CommandLog::enable(env.clone(), Path::new(DATA), Options::default(), || keys.snapshot()).await;
            let (log, mut attempt) = enabled.expect("nothing is synced for that");
            for number in 1..=10 {
                attempt.done().await.expect_err("its base can't be synced");
                assert!(!log.rewrite_is_due(), "not at once");
                env.sleep(Duration::from_secs(1)).await;
                if number == 10 {
                    break;
                }
                assert_eq!(log.phase(), Phase::WaitRewrite);
                let synced = log.sync().await;
                assert!(matches!(synced, Err(LogError::NoBase)) || number == 1, "{number}: {synced:?}");
                assert!(log.rewrite_is_due());
                log.append(0, &["INCR", "n"]).await.expect("it is collected");
                keys.load(&[b"INCR", b"n"]).expect("a command");
                attempt = log.rewrite(|| keys.snapshot()).await.expect("an attempt");
            }
            assert!(matches!(log.append(0, &["INCR", "n"]).await, Err(LogError::Poisoned(_))));
            assert!(log.close().await.is_err());
            machine.behave();
            // There was no log before, and there is none now.
            assert_eq!(open(&machine.with_disk(|disk| disk.fork())), Ok(0));
        });
    };
    std::thread::spawn(run).join().expect("it runs");
}
