use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use super::*;
use crate::{
    env::{OsEnv, block_on},
    faulty::{Faulty, Syncs},
    txn::{
        ids::TxnId,
        redo::{EpochRecord, Stamp, encode_part},
    },
    wal::TailKind,
};

fn epoch() -> Epoch {
    Epoch::new(1).unwrap()
}

fn csn(number: u64) -> Csn {
    Csn::from_bits(Csn::first(epoch()).to_bits() + number - 1).unwrap()
}

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 64 << 10,
        buffer_bytes: 16 << 10,
        idle: Duration::from_secs(1),
        max_txn_bytes: 1 << 20,
        recovery: RecoveryMode::default(),
        create: true,
        plants: Plants::default(),
    }
}

async fn open<E: Env>(env: &E, store: &Path, logs: u8) -> (Logs<E>, Writers<E>) {
    let examined = examine(env, store, logs, &options(), &mut |_, _, _| {}).await;
    let examined = examined.into_iter().map(Result::unwrap).collect();
    let (logs, writers, _) = Logs::open(env, examined, Plants::default()).await.unwrap();
    (logs, writers)
}

/// What each log delivers, decoded to what tells records apart.
fn delivered(store: &Path, logs: u8) -> Vec<Vec<String>> {
    let mut found = vec![Vec::new(); usize::from(logs)];
    let mut deliver = |log, lsn: Lsn, bytes: InWindow<'_>| {
        let text = match Record::decode(&bytes).unwrap() {
            Record::Part(part) => format!("part {}", part.stamp.csn),
            Record::Mark(mark) => format!("mark {} {}", mark.log, mark.durable),
            Record::Epoch(record) => format!("epoch {} {}", record.log, record.epoch.get()),
            Record::Checkpoint(record) => format!("checkpoint {} {}", record.log, record.csn),
            Record::Lob(lob) => format!("lob {}", lob.piece),
        };
        found[usize::from(log)].push((lsn, text));
    };
    let examined = block_on(examine(&OsEnv, store, logs, &options(), &mut deliver));
    let firsts: Vec<_> = examined.into_iter().map(|log| log.unwrap().report().first).collect();
    let counted = found.into_iter().zip(firsts);
    counted
        .map(|(log, first)| log.into_iter().filter(|(lsn, _)| *lsn >= first).map(|(_, text)| text).collect())
        .collect()
}

fn part(csn: Csn, participants: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_part(&mut bytes, [crate::txn::redo::Op::Drop { id: crate::txn::ids::TableId(1) }]).unwrap();
    let txn = TxnId::first(epoch());
    Stamp { participants, csn, txn, durable: Csn::default() }.put(&mut bytes).unwrap();
    bytes
}

/// Accepts a commit with a part in each of `participants`.
async fn commit<E: Env>(logs: &Logs<E>, writers: &mut Writers<E>, csn: Csn, participants: &[usize]) {
    let record = part(csn, participants.iter().map(|log| 1 << log).sum());
    'again: loop {
        for log in participants {
            if let Err(lacking) = writers.room(*log, record.len()) {
                logs.make_way(lacking).await.unwrap();
                continue 'again;
            }
        }
        for log in participants {
            writers.append(*log, &record);
        }
        return;
    }
}

fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_capture_covers_every_part_of_every_log() {
    for count in [1, 2, 3, 5] {
        let folder = tempfile::tempdir().unwrap();
        block_on(async {
            let (logs, mut writers) = open(&OsEnv, folder.path(), count).await;
            let mut expected = vec![Vec::new(); usize::from(count)];
            for number in 1..=400_u64 {
                let all: Vec<usize> =
                    (0..usize::from(count)).filter(|log| number >> log & 1 == 1 || *log == 0).collect();
                commit(&logs, &mut writers, csn(number), &all).await;
                all.iter().for_each(|log| expected[*log].push(format!("part {}", csn(number))));
                if number % 7 == 0 {
                    let next: Vec<Lsn> = (0..usize::from(count)).map(|log| writers.next(log)).collect();
                    let capture = writers.capture(csn(number));
                    assert_eq!(capture.next.to_vec(), next);
                    let reached: Vec<u64> = capture.next.iter().map(|lsn| lsn.0 - 1).collect();
                    assert_eq!(reached, expected.iter().map(|log| log.len() as u64).collect::<Vec<_>>());
                    logs.wait(&capture).await.unwrap();
                    assert_eq!(logs.durable(), csn(number));
                    logs.wait(&capture).await.unwrap();
                }
            }
            let before = logs.durable();
            let older = Capture { csn: csn(1), next: (0..count).map(|_| Lsn(1)).collect() };
            logs.wait(&older).await.unwrap();
            assert_eq!(logs.durable(), before, "it never goes back");
            logs.close(writers, epoch(), csn(400)).await.unwrap();
            assert_eq!(logs.durable(), csn(400));
            if count > 1 {
                expected
                    .iter_mut()
                    .enumerate()
                    .for_each(|(log, records)| records.push(format!("mark {log} {}", csn(400))));
            }
            assert_eq!(delivered(folder.path(), count), expected);
        });
    }
}

#[test]
fn every_log_syncs_at_once_and_a_dropped_wait_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Faulty::new();
    let (logs, mut writers) = block_on(open(&machine, folder.path(), 3));
    block_on(commit(&logs, &mut writers, csn(1), &[0, 1, 2]));
    machine.let_syncs(Syncs::Hang);
    let capture = writers.capture(csn(1));
    {
        let mut dropped = pin!(logs.wait(&capture));
        assert!(poll(dropped.as_mut()).is_pending());
        // (One after the other would be one for ever.)
        while machine.hanging() < 3 {
            std::thread::yield_now();
        }
    }
    // Those who come later go on with what it began; the writer goes on meanwhile.
    block_on(commit(&logs, &mut writers, csn(2), &[1]));
    let later = writers.capture(csn(2));
    let (mut first, mut second) = (Box::pin(logs.wait(&capture)), Box::pin(logs.wait(&later)));
    assert!(poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
    assert_eq!(logs.durable(), Csn::default());
    machine.let_syncs(Syncs::Work);
    // Together: either may lead the other.
    let mut left = vec![first, second];
    block_on(poll_fn(|context| {
        left.retain_mut(|wait| match wait.as_mut().poll(context) {
            Poll::Pending => true,
            Poll::Ready(waited) => {
                waited.unwrap();
                false
            }
        });
        if left.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }));
    assert_eq!(logs.durable(), csn(2));
    block_on(logs.close(writers, epoch(), csn(2))).unwrap();
}

#[test]
fn without_its_tasks_a_wait_takes_longer_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let (logs, mut writers) = open(&OsEnv, folder.path(), 3).await;
        assert_eq!(logs.shared.services.running(), 2, "who waits sees to the first one");
        logs.shared.services.stop().await;
        assert_eq!(logs.shared.services.running(), 0);
        commit(&logs, &mut writers, csn(1), &[0, 1, 2]).await;
        let capture = writers.capture(csn(1));
        logs.wait(&capture).await.unwrap();
        assert_eq!(logs.durable(), csn(1));
        logs.close(writers, epoch(), csn(1)).await.unwrap();
    });
}

#[test]
fn no_task_outlives_the_logs() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        // Closed, and dropped: no task holds a directory, which would be locked still.
        for closes in [true, false, true] {
            let (logs, mut writers) = open(&OsEnv, folder.path(), 4).await;
            let commits = logs.clone();
            commit(&commits, &mut writers, csn(1), &[0, 1, 2, 3]).await;
            logs.wait(&writers.capture(csn(1))).await.unwrap();
            if closes {
                logs.close(writers, epoch(), csn(1)).await.unwrap();
                assert_eq!(commits.shared.services.running(), 0);
            }
        }
        let (logs, _writers) = open(&OsEnv, folder.path(), 1).await;
        assert_eq!(logs.shared.services.running(), 0, "one log needs no task");
    });
}

#[test]
fn a_commit_of_one_log_waits_for_earlier_ones_of_others() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Faulty::new();
    let (logs, mut writers) = block_on(open(&machine, folder.path(), 2));
    block_on(commit(&logs, &mut writers, csn(1), &[1]));
    block_on(commit(&logs, &mut writers, csn(2), &[0]));
    machine.let_syncs_of(Some("log-1"), Syncs::Hang);
    let capture = writers.capture(csn(2));
    let mut wait = pin!(logs.wait(&capture));
    assert!(poll(wait.as_mut()).is_pending());
    assert_eq!((logs.wal(0).durable(), logs.wal(1).durable()), (Lsn(2), Lsn(1)));
    assert_eq!(logs.durable(), Csn::default(), "all its parts are durable, and it doesn't count");
    machine.let_syncs(Syncs::Work);
    block_on(wait).unwrap();
    assert_eq!(logs.durable(), csn(2));
}

#[test]
fn one_log_that_fails_poisons_all() {
    for failing in [Some("log-0"), Some("log-2"), None] {
        let folder = tempfile::tempdir().unwrap();
        let machine = Faulty::new();
        let (logs, mut writers) = block_on(open(&machine, folder.path(), 3));
        block_on(async {
            commit(&logs, &mut writers, csn(1), &[0, 2]).await;
            let before = writers.capture(csn(1));
            logs.wait(&before).await.unwrap();
            commit(&logs, &mut writers, csn(2), &[0, 1, 2]).await;
            let capture = writers.capture(csn(2));
            machine.let_syncs_of(failing, Syncs::Fail);
            let failure = logs.wait(&capture).await.unwrap_err();
            assert_eq!(failure.message, "the disk fails");
            machine.let_syncs(Syncs::Work);
            // Everybody is told the same, for ever, and of every log.
            for _ in 0..2 {
                assert!(Arc::ptr_eq(&logs.wait(&capture).await.unwrap_err(), &failure));
                for log in 0..3 {
                    let refused = logs.make_way(writers.room(log, 10).unwrap_err()).await;
                    assert!(matches!(refused, Err(AppendError::Poisoned(told)) if Arc::ptr_eq(&told, &failure)));
                }
            }
            assert!(logs.failure().is_some());
            // What was durable is.
            logs.wait(&before).await.unwrap();
            assert_eq!(logs.durable(), csn(1));
            assert!(matches!(logs.close(writers, epoch(), csn(2)).await, Err(LogsError::Failed(_))));
            // Closed all the same.
            assert_eq!(examine(&OsEnv, folder.path(), 3, &options(), &mut |_, _, _| {}).await.len(), 3);
        });
        let found = delivered(folder.path(), 3);
        assert!(found[0].starts_with(&[format!("part {}", csn(1))]));
    }
}

#[test]
fn room_that_is_lacking_in_one_log_is_given_back_in_all() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Faulty::new();
    block_on(async {
        let (logs, mut writers) = open(&machine, folder.path(), 2).await;
        // Log 1 has no page left, and log 0 many.
        let lacking = loop {
            writers.room(0, 100).unwrap();
            match writers.room(1, 3000) {
                Ok(()) => writers.append(1, &part(csn(1), 0b10)[..]),
                Err(lacking) => break lacking,
            };
        };
        let refused = logs.make_way(Lacking { log: 0, lack: writers.room(0, 2 << 20 | 1).unwrap_err().lack }).await;
        assert!(matches!(refused, Err(AppendError::TooLarge { .. })));
        // Whoever waits for log 0 need not wait for the writer.
        logs.wal(0).sync().await.unwrap();
        logs.make_way(lacking).await.unwrap();
        writers.room(0, 100).unwrap();
        writers.room(1, 3000).unwrap();
        assert!(matches!(logs.wal(0).sync().await, Ok(Lsn(1))));
    });
}

#[test]
fn marks_are_for_several_logs_that_do_not_know_yet() {
    for count in [1, 3] {
        let folder = tempfile::tempdir().unwrap();
        block_on(async {
            let (logs, writers) = open(&OsEnv, folder.path(), count).await;
            let commits = Mutex::new(writers);
            assert!(!logs.mark(&commits, epoch()).await.unwrap(), "nothing is durable");
            let first = |log| EpochRecord {
                log,
                logs: count,
                epoch: epoch(),
                prev_end: Csn::default(),
                uuid: [7; 16],
                wall_ns: 1,
            };
            logs.tell_all(&commits, |log| Record::Epoch(first(log))).await.unwrap();
            logs.found_durable(csn(5));
            assert_eq!(logs.mark(&commits, epoch()).await.unwrap(), count > 1);
            assert!(!logs.mark(&commits, epoch()).await.unwrap(), "they know");
            let writers = commits.into_inner().unwrap();
            logs.close(writers, epoch(), csn(5)).await.unwrap();
        });
        for (log, found) in delivered(folder.path(), count).into_iter().enumerate() {
            let marks = if count > 1 { vec![format!("mark {log} {}", csn(5))] } else { Vec::new() };
            assert_eq!(found, [vec![format!("epoch {log} 1")], marks].concat());
        }
        let examined = block_on(examine(&OsEnv, folder.path(), count, &options(), &mut |_, _, _| {}));
        assert!(examined.into_iter().all(|log| log.unwrap().report().tail == TailKind::Clean));
    }
}

#[test]
fn a_release_states_the_checkpoint_and_then_moves_the_floor() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let (logs, mut writers) = open(&OsEnv, folder.path(), 2).await;
        for number in 1..=10 {
            commit(&logs, &mut writers, csn(number), &[0, 1]).await;
        }
        while let Err(lacking) = writers.rotate() {
            logs.make_way(lacking).await.unwrap();
        }
        let capture = writers.capture(csn(10));
        logs.wait(&capture).await.unwrap();
        commit(&logs, &mut writers, csn(11), &[1]).await;
        let commits = Mutex::new(writers);
        let uuid = [7; 16];
        let record =
            Checkpoint { log: 1, logs: 2, epoch: epoch(), sequence: 1, csn: csn(10), release: capture.next[1], uuid };
        for _ in 0..2 {
            assert_eq!(logs.release(&commits, &record).await.unwrap(), Lsn(11));
        }
        assert_eq!((logs.wal(0).first(), logs.wal(1).first()), (Lsn(1), Lsn(11)));
        drop((logs, commits));
    });
    let found = delivered(folder.path(), 2);
    assert_eq!(found[0].len(), 10);
    let checkpoint = format!("checkpoint 1 {}", csn(10));
    assert_eq!(found[1], [format!("part {}", csn(11)), checkpoint.clone(), checkpoint]);
}

/// Threads commit to several logs through one mutex, and each waits for its own.
#[test]
fn many_wait_and_each_is_told_the_truth() {
    let folder = tempfile::tempdir().unwrap();
    let (logs, writers) = block_on(open(&OsEnv, folder.path(), 3));
    let commits = Mutex::new((writers, 0_u64));
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let (logs, commits, own) = (&logs, &commits, [thread % 3]);
            scope.spawn(move || {
                for round in 0..50 {
                    let capture = {
                        let mut guard = commits.lock().unwrap();
                        let (writers, last) = &mut *guard;
                        *last += 1;
                        let participants: &[usize] = [&[0][..], &[0, 1, 2], &own, &[1, 2]][round % 4];
                        // (Here nobody else needs the mutex to go on.)
                        block_on(commit(logs, writers, csn(*last), participants));
                        writers.capture(csn(*last))
                    };
                    block_on(logs.wait(&capture)).unwrap();
                    assert!(logs.durable() >= capture.csn);
                    (0..3).for_each(|log| assert!(logs.wal(log).durable() >= capture.next[log]));
                }
            });
        }
    });
    let (writers, last) = commits.into_inner().unwrap();
    assert_eq!((last, logs.durable()), (200, csn(200)));
    block_on(logs.close(writers, epoch(), csn(last))).unwrap();
}
