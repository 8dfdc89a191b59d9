//! A model check with loom: every interleaving of threads that append, end rounds and drain through the real ring and state
//! machine, on a file that is only memory. The file takes each byte once, in order; what stands in it at the end is every command, once,
//! those of each thread in their order.

use std::sync::Arc;

use loom::thread;

use crate::{
    gate::Gate,
    memory::{Memory, MemoryFile},
};

use super::{
    CommandLog,
    files::Names,
    job::Target,
    keeper::Keeper,
    log::{Log, Opened},
    manifest::{Entry, FileKind, Manifest},
    options::{Fsync, Options},
    resp::{Parser, Reading},
};

/// A log with two small pages.
fn log(append_fsync: Fsync, ring_page_bytes: usize, split_large: bool) -> CommandLog<Memory> {
    let options =
        Options { append_fsync, ring_pages: 2, ring_page_bytes, split_large, checksums: false, ..Options::default() };
    let file = MemoryFile::default();
    let kind = FileKind::Increment;
    let target = Target::end_of(&Entry { name: "increment".into(), seq: 1, kind, synced: None, salt: None }, file, 0);
    let manifest = Manifest::default();
    let opened = Opened { lock: (), target, manifest, collecting: None, earlier_bytes: 0, reference_bytes: 0 };
    let log = Arc::new(Log::new(Memory, Memory, Names { name: "log".into() }, options, opened));
    let keeper = Arc::new(Keeper::spawn(&log).expect("nothing runs"));
    CommandLog { log, keeper }
}

/// What a thread does.
#[derive(Clone, Copy)]
enum Step {
    /// Appends a command of about so many bytes.
    Append(usize),
    /// Ends a round.
    Round,
    /// What the keeper and the syncer do at a tick.
    Tick,
}

async fn run(log: &CommandLog<Memory>, thread: u8, steps: &[Step]) {
    for (number, step) in (0..).zip(steps) {
        match step {
            Step::Append(bytes) => {
                let command = [vec![b'a' + thread], vec![b'0' + number; *bytes]];
                log.append(0, &command).await.expect("appended");
            }
            Step::Round => log.round().await.expect("a round"),
            Step::Tick => {
                log.log.write_now().await;
                log.log.sync_now().await;
            }
        }
    }
}

/// Whether the file holds the commands of both threads, each in its order, and nothing else.
fn holds(log: &CommandLog<Memory>, threads: [&[Step]; 2]) {
    loom::future::block_on(async { log.sync().await.expect("durable") });
    let bytes = log.log.lock().target.file.bytes.lock().expect("the bytes").clone();
    let mut left = threads.map(|steps| {
        (0..).zip(steps).filter_map(|(number, step)| match step {
            Step::Append(bytes) => Some(vec![b'0' + number; *bytes]),
            Step::Round | Step::Tick => None,
        })
    });
    let (mut at, mut parser) = (0, Parser::new(Reading::Strict));
    while at < bytes.len() {
        let found = parser.next(&bytes[at..]).expect("a command");
        let command: Vec<&[u8]> = parser.command(&bytes[at..at + found.bytes]).collect();
        if command[0] == b"SELECT" {
            at += found.bytes;
            continue;
        }
        let thread = usize::from(command[0][0] - b'a');
        assert_eq!(left[thread].next().as_deref(), Some(command[1]));
        at += found.bytes;
    }
    assert!(left.iter_mut().all(|left| left.next().is_none()), "a command is missing");
    assert_eq!(log.durable(), log.end());
}

fn explore(policy: Fsync, page_bytes: usize, split: bool, one: &'static [Step], two: &'static [Step]) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(move || {
        let log = log(policy, page_bytes, split);
        let other = log.clone();
        let thread = thread::spawn(move || {
            loom::future::block_on(run(&other, 1, two));
            std::mem::forget(other);
        });
        loom::future::block_on(run(&log, 0, one));
        thread.join().expect("it has ended");
        holds(&log, [one, two]);
        // Nothing runs that could be stopped.
        std::mem::forget(log);
    });
}

#[test]
fn a_full_ring_loses_nothing_whichever_way_large_commands_go() {
    for split in [false, true] {
        // Pages that hold one small command each, and one that is larger than a page.
        explore(
            Fsync::No,
            24,
            split,
            &[Step::Append(4), Step::Append(40), Step::Append(4)],
            &[Step::Append(4), Step::Round],
        );
    }
}

#[test]
fn a_tick_and_the_appender_take_turns() {
    for split in [false, true] {
        explore(
            Fsync::EverySecond,
            24,
            split,
            &[Step::Append(4), Step::Append(30), Step::Append(4), Step::Round],
            &[Step::Tick, Step::Tick],
        );
    }
}

#[test]
fn rounds_under_always_share_their_syncs() {
    explore(
        Fsync::Always,
        64,
        false,
        &[Step::Append(4), Step::Round, Step::Append(4), Step::Round],
        &[Step::Append(4), Step::Round],
    );
}

/// The gate is what lets a waiter sleep; a forgotten opening would hang the check.
#[test]
fn a_gate_is_part_of_the_model() {
    loom::model(|| {
        let gate = Arc::new(Gate::default());
        let (seen, other) = (gate.seq(), gate.clone());
        let thread = thread::spawn(move || other.open());
        loom::future::block_on(gate.wait(seen));
        thread.join().expect("it has ended");
    });
}
