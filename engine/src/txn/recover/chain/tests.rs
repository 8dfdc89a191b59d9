use proptest::prelude::*;

use super::*;
use crate::{
    txn::{
        ids::{TableId, TxnId},
        recover::summary::{Collector, Sense, Senseless},
        redo::{Checkpoint, EpochRecord, Lob, Mark, Op, Record, Stamp, encode_part},
    },
    wal::{RecoveryReport, TailKind},
};

pub(in crate::txn::recover) fn epoch(number: u64) -> Epoch {
    Epoch::new(number).unwrap()
}

/// A commit of an epoch; number 0 is the one before all.
pub(in crate::txn::recover) fn csn(of: u64, number: u64) -> Csn {
    if number == 0 { Csn::default() } else { Csn::from_bits(Csn::first(epoch(of)).to_bits() + number - 1).unwrap() }
}

/// A record of a log, before it has bytes.
#[derive(Clone, Copy, Debug)]
pub(in crate::txn::recover) enum Rec {
    Part { csn: Csn, participants: u16, txn: u64, durable: Csn },
    Piece { txn: u64 },
    Epoch { epoch: Epoch, prev_end: Csn },
    Checkpoint { csn: Csn, sequence: u64, epoch: Epoch, release: u64 },
    Mark { epoch: Epoch, durable: Csn },
}

pub(in crate::txn::recover) fn part(csn: Csn, participants: u16) -> Rec {
    Rec::Part { csn, participants, txn: 1, durable: Csn::default() }
}

impl Rec {
    pub(in crate::txn::recover) fn bytes(self, log: u8, logs: u8) -> Vec<u8> {
        let txn = |number| TxnId::from_bits(TxnId::first(epoch(1)).to_bits() + number).unwrap();
        let uuid = [7; 16];
        let mut bytes = Vec::new();
        let record = match self {
            Rec::Part { csn, participants, txn: number, durable } => {
                encode_part(&mut bytes, [Op::Drop { id: TableId(1) }]).unwrap();
                Stamp { participants, csn, txn: txn(number), durable }.put(&mut bytes).unwrap();
                return bytes;
            }
            Rec::Piece { txn: number } => Record::Lob(Lob { piece: 0, txn: txn(number), previous: None, data: b"x" }),
            Rec::Epoch { epoch, prev_end } => {
                Record::Epoch(EpochRecord { log, logs, epoch, prev_end, uuid, wall_ns: 0 })
            }
            Rec::Checkpoint { csn, sequence, epoch, release } => {
                Record::Checkpoint(Checkpoint { log, logs, epoch, sequence, csn, release: Lsn(release), uuid })
            }
            Rec::Mark { epoch, durable } => Record::Mark(Mark { log, epoch, durable }),
        };
        record.encode(&mut bytes).unwrap();
        bytes
    }
}

pub(in crate::txn::recover) fn report(first: u64, next: u64, tail: TailKind) -> RecoveryReport {
    RecoveryReport {
        first: Lsn(first),
        next: Lsn(next),
        tail,
        unproven_from: Lsn(next),
        segments: 1,
        dropped: Vec::new(),
        carried: 0,
        generation: 1,
        evidence: None,
        foreign: 0,
        unreadable: 0,
    }
}

/// A log with these records from LSN 1, of which those below `first` were released.
pub(in crate::txn::recover) fn summary(log: u8, logs: u8, first: u64, records: &[Rec]) -> Summary {
    let mut collector = Collector::new(log);
    for (lsn, record) in (1..).map(Lsn).zip(records) {
        collector.take(lsn, &record.bytes(log, logs));
    }
    collector.finish(&report(first, records.len() as u64 + 1, TailKind::Clean))
}

fn reckon(root: Csn, next: Csn, logs: &[Summary]) -> Result<Chain, Contradiction> {
    let logs: Vec<&Summary> = logs.iter().collect();
    chain(root, next, &epochs(&logs).unwrap(), &logs)
}

// --- Summaries

#[test]
fn a_summary_is_short_and_leaves_out_what_was_released() {
    let (of, none) = (epoch(1), Csn::default());
    let mut records = vec![Rec::Epoch { epoch: of, prev_end: none }, Rec::Piece { txn: 9 }];
    records.extend((1..=5).map(|number| part(csn(1, number), 1)));
    records.push(Rec::Part { csn: csn(1, 6), participants: 1, txn: 9, durable: csn(1, 3) });
    records.push(part(csn(1, 8), 1));
    records.push(part(csn(1, 9), 3));
    records.push(Rec::Checkpoint { csn: csn(1, 4), sequence: 1, epoch: of, release: 7 });
    records.push(Rec::Mark { epoch: epoch(2), durable: csn(1, 5) });
    let whole = summary(0, 2, 1, &records);
    let run = |csn: Csn, lsn, count, participants| Run { csn: csn.to_bits(), lsn, count, participants };
    let [gap, other] = [run(csn(1, 8), 9, 1, 1), run(csn(1, 9), 10, 1, 3)];
    assert_eq!(whole.runs, [run(csn(1, 1), 3, 6, 1), gap, other]);
    assert_eq!(
        (whole.lobs.as_slice(), whole.stated, whole.epoch),
        (&[(csn(1, 6), Lsn(2))][..], csn(1, 5), Some(epoch(2)))
    );
    assert_eq!((whole.epochs.len(), whole.released(), whole.used), (1, none, true));

    let released = summary(0, 2, 6, &records);
    assert_eq!(released.runs, [run(csn(1, 4), 6, 3, 1), gap, other]);
    assert!(released.lobs.is_empty() && released.epochs.is_empty());
    assert_eq!(released.released(), none, "the floor is not there yet");
    assert_eq!(summary(0, 2, 7, &records).released(), csn(1, 4));
    assert_eq!(summary(0, 2, 10, &records).runs, [other]);
}

#[test]
fn what_a_creation_writes_is_no_use() {
    let created = [Rec::Epoch { epoch: epoch(1), prev_end: Csn::default() }];
    assert!(!summary(0, 1, 1, &[]).used && !summary(0, 1, 1, &created).used);
    assert!(summary(0, 1, 2, &created).used, "something was released");
    assert!(summary(0, 1, 1, &[created[0], Rec::Mark { epoch: epoch(1), durable: Csn::default() }]).used);
}

#[test]
fn what_makes_no_sense_is_kept_in_mind() {
    let mut collector = Collector::new(0);
    let good = part(csn(1, 5), 1).bytes(0, 2);
    collector.take(Lsn(1), &good);
    collector.take(Lsn(2), &part(csn(1, 4), 1).bytes(0, 2));
    collector.take(Lsn(3), &Rec::Mark { epoch: epoch(1), durable: Csn::default() }.bytes(1, 2));
    let mut cut = part(csn(1, 7), 1).bytes(0, 2);
    cut.pop();
    collector.take(Lsn(4), &cut);
    collector.take(Lsn(5), b"what?");
    let summary = collector.finish(&report(1, 6, TailKind::End));
    let told: Vec<_> = summary.senseless.iter().map(|record| (record.lsn.0, record.csn)).collect();
    assert_eq!(told, [(2, None), (3, None), (4, Some(csn(1, 7))), (5, None)]);
    assert_eq!((summary.senseless[0].why, summary.senseless[1].why), (Sense::OutOfOrder, Sense::OtherLog));
    assert_eq!(summary.runs.len(), 1);
}

// --- Chains

/// Each commit by itself, as the design's text has it.
fn by_the_text(root: Csn, next: Csn, logs: &[Summary]) -> Vec<Csn> {
    let part_in = |log: &Summary, csn: Csn| {
        let run = log.runs.iter().find(|run| run.csn <= csn.to_bits() && csn.to_bits() < run.end())?;
        Some(run.participants)
    };
    let (mut x, mut next, mut replayed) = (root, Some(next), Vec::new());
    loop {
        let ended = logs.iter().flat_map(|log| &log.epochs).filter(|(_, record)| record.prev_end == x);
        let highest = ended.map(|(_, record)| Csn::first(record.epoch)).max();
        let y = match (highest, next) {
            (Some(first), Some(next)) if first > next => first,
            (Some(first), None) => first,
            (_, Some(next)) => next,
            (None, None) => return replayed,
        };
        let Some(participants) = logs.iter().find_map(|log| part_in(log, y)) else { return replayed };
        let all = logs.iter().filter(|log| participants & bit(log.log) != 0);
        if !all.clone().all(|log| part_in(log, y).is_some()) {
            return replayed;
        }
        replayed.push(y);
        (x, next) = (y, y.next());
    }
}

fn expand(chain: &Chain) -> Vec<Csn> {
    let mut all = Vec::new();
    for (first, last) in &chain.spans {
        all.extend((first.to_bits()..=last.to_bits()).map(|bits| Csn::from_bits(bits).unwrap()));
    }
    all
}

/// What every chain must agree with, whatever the logs hold.
fn check_chain(root: Csn, logs: &[Summary], chain: &Chain, replayed: &[Csn]) {
    assert_eq!(expand(chain), replayed);
    assert_eq!(chain.end, replayed.last().copied().unwrap_or(root));
    for (log, portion) in logs.iter().zip(&chain.logs) {
        let parts = log.runs.iter().flat_map(|run| (0..run.count).map(|at| (run.lsn + at, run.csn + at)));
        let parts: Vec<_> = parts.map(|(lsn, bits)| (Lsn(lsn), Csn::from_bits(bits).unwrap())).collect();
        let live: Vec<_> = parts.iter().filter(|(_, csn)| replayed.contains(csn)).collect();
        assert_eq!(portion.parts, live.len() as u64);
        parts.iter().for_each(|(_, csn)| assert_eq!(chain.counts(*csn), replayed.contains(csn)));
        let dead = parts.iter().filter(|(_, csn)| *csn > root && !replayed.contains(csn));
        let (beyond, dead): (Vec<&(Lsn, Csn)>, Vec<_>) = dead.partition(|(_, csn)| *csn > chain.end);
        for (why, expected) in [(Why::Beyond, beyond), (Why::Dead, dead)] {
            let told = chain.dropped.iter().filter(|dropped| (dropped.log, dropped.why) == (log.log, why));
            assert_eq!(told.clone().map(|dropped| dropped.parts).sum::<u64>(), expected.len() as u64);
            let first = told.map(|dropped| (dropped.lsn, dropped.csn)).next();
            assert_eq!(first, expected.first().copied().copied());
        }
        let epochs = log.epochs.iter().filter(|(_, record)| record.prev_end >= root).map(|(lsn, _)| *lsn);
        let pieces = log.lobs.iter().filter(|(csn, _)| replayed.contains(csn)).map(|(_, lsn)| *lsn);
        let needed = live.iter().map(|(lsn, _)| *lsn).chain(epochs).chain(pieces).min();
        assert_eq!(portion.keep, needed.unwrap_or(log.next));
    }
}

#[test]
fn chains_by_hand() {
    let first = csn(1, 1);
    let none = Csn::default();
    // c2 has a part in a log that lost it: what follows doesn't count, either.
    let logs = [summary(0, 2, 1, &[part(csn(1, 1), 1), part(csn(1, 2), 3), part(csn(1, 3), 1)]), summary(1, 2, 1, &[])];
    let chain = reckon(none, first, &logs).unwrap();
    check_chain(none, &logs, &chain, &[csn(1, 1)]);
    let beyond = Dropped { log: 0, csn: csn(1, 2), lsn: Lsn(2), parts: 2, why: Why::Beyond };
    assert_eq!(chain.dropped, [beyond]);

    // The same after an open: epoch 2 goes on where 1 was found to end, over the dead parts.
    let reopened = |log: u8, rest: &[Rec]| {
        let head: &[Rec] = if log == 0 { &[part(csn(1, 1), 1), part(csn(1, 2), 3), part(csn(1, 3), 1)] } else { &[] };
        let opened = Rec::Epoch { epoch: epoch(2), prev_end: csn(1, 1) };
        summary(log, 2, 1, &[head, &[opened], rest].concat())
    };
    let logs = [reopened(0, &[part(csn(2, 1), 3)]), reopened(1, &[part(csn(2, 1), 3), part(csn(2, 2), 2)])];
    let chain = reckon(none, first, &logs).unwrap();
    check_chain(none, &logs, &chain, &[csn(1, 1), csn(2, 1), csn(2, 2)]);
    assert_eq!(chain.dropped, [Dropped { why: Why::Dead, ..beyond }]);
    // A root in epoch 2 doesn't look at epoch 1 any more.
    let chain = reckon(csn(2, 1), csn(2, 2), &logs).unwrap();
    check_chain(csn(2, 1), &logs, &chain, &[csn(2, 2)]);

    // An epoch that was used and found empty gives way to the next one.
    let opened = |of| Rec::Epoch { epoch: epoch(of), prev_end: csn(1, 1) };
    let logs = [summary(0, 1, 1, &[part(csn(1, 1), 1), opened(2), opened(3), part(csn(3, 1), 1)])];
    check_chain(none, &logs, &reckon(none, first, &logs).unwrap(), &[csn(1, 1), csn(3, 1)]);

    // Nothing at all.
    let logs = [summary(0, 1, 1, &[])];
    check_chain(none, &logs, &reckon(none, first, &logs).unwrap(), &[]);
}

#[test]
fn what_no_run_writes_is_a_contradiction() {
    let refused = |logs: &[Summary]| reckon(Csn::default(), csn(1, 1), logs).unwrap_err();
    let one = part(csn(1, 1), 1);
    let other = refused(&[summary(0, 2, 1, &[one]), summary(1, 2, 1, &[part(csn(1, 1), 3)])]);
    assert_eq!((other.log, other.csn), (1, csn(1, 1)));
    let stranger = refused(&[summary(0, 2, 1, &[part(csn(1, 1), 2)]), summary(1, 2, 1, &[])]);
    assert_eq!(stranger.log, 0);
    let beyond = refused(&[summary(0, 2, 1, &[part(csn(1, 1), 5)]), summary(1, 2, 1, &[])]);
    assert_eq!(beyond.log, 0);

    // A part that can't be read is one if its commit would count with it, and else as dead as others.
    let unreadable = |log: u8, number| {
        let mut log = summary(log, 2, 1, &[]);
        let why = Sense::OutOfOrder;
        log.senseless.push(Senseless { lsn: Lsn(1), csn: Some(csn(1, number)), why });
        log
    };
    assert_eq!(refused(&[summary(0, 2, 1, &[one, part(csn(1, 2), 3)]), unreadable(1, 2)]).csn, csn(1, 2));
    assert_eq!(refused(&[summary(0, 2, 1, &[one]), unreadable(1, 2)]).csn, csn(1, 2));
    let fine = [summary(0, 2, 1, &[one, part(csn(1, 3), 3)]), unreadable(1, 3)];
    check_chain(Csn::default(), &fine, &reckon(Csn::default(), csn(1, 1), &fine).unwrap(), &[csn(1, 1)]);
    let long: Vec<_> = (1..=9).map(|number| part(csn(1, number), 1)).collect();
    let before = [summary(0, 2, 1, &long), unreadable(1, 7)];
    assert_eq!(refused(&before).csn, csn(1, 7), "also in the middle of a run");
    assert_eq!(reckon(csn(1, 7), csn(1, 8), &before).unwrap().end, csn(1, 9), "below the root it doesn't matter");
}

/// A store in memory, that knows its true history.
struct Store {
    logs: Vec<(Vec<Rec>, usize, usize)>,
    /// What was committed, in the timeline that still counts.
    history: Vec<(Csn, u16)>,
    root: (Csn, Csn),
    epoch: Epoch,
    next: Csn,
}

impl Store {
    fn new(logs: usize) -> Store {
        let first = Rec::Epoch { epoch: epoch(1), prev_end: Csn::default() };
        let next = csn(1, 1);
        Store {
            logs: vec![(vec![first], 1, 0); logs],
            history: Vec::new(),
            root: (Csn::default(), next),
            epoch: epoch(1),
            next,
        }
    }

    fn step(&mut self, (what, choice): (u8, u16)) {
        let count = self.logs.len();
        match what % 8 {
            0..=3 => {
                let participants = match choice & ((1 << count) - 1) {
                    0 => 1,
                    some => some,
                };
                let record = part(self.next, participants);
                let chosen = |log: &usize| participants & (1 << log) != 0;
                (0..count).filter(chosen).for_each(|log| self.logs[log].0.push(record));
                self.history.push((self.next, participants));
                self.next = self.next.next().unwrap();
            }
            4 => {
                let (records, durable, _) = &mut self.logs[usize::from(choice) % count];
                *durable = records.len();
            }
            5 => self.checkpoint(choice),
            _ => self.crash(choice),
        }
    }

    /// Publishes a root, and releases some logs.
    fn checkpoint(&mut self, choice: u16) {
        let c = self.history.last().map_or(self.root.0, |(csn, _)| *csn);
        self.root = (c, self.next);
        for (log, (records, durable, floor)) in self.logs.iter_mut().enumerate() {
            let needed = |record: &Rec| matches!(record, Rec::Epoch { prev_end, .. } if *prev_end >= c);
            let below = records.iter().position(needed).unwrap_or(records.len());
            if choice & (1 << log) != 0 {
                *floor = (*floor).max(below);
            }
            *durable = records.len();
        }
    }

    /// Cuts every log somewhere, and opens; perhaps that is interrupted, too.
    fn crash(&mut self, choice: u16) {
        for (log, (records, durable, _)) in self.logs.iter_mut().enumerate() {
            let kept = usize::from(choice >> (3 * log) & 7) * (records.len() - *durable + 1) / 8;
            records.truncate(*durable + kept);
        }
        self.check();
        let whole = |(csn, participants): &(Csn, u16)| {
            let has = |log: &(Vec<Rec>, usize, usize)| {
                log.0.iter().any(|record| matches!(record, Rec::Part { csn: other, .. } if other == csn))
            };
            *csn <= self.root.0
                || (0..self.logs.len()).all(|log| participants & (1 << log) == 0 || has(&self.logs[log]))
        };
        let kept = self.history.iter().take_while(|commit| whole(commit)).count();
        self.history.truncate(kept);
        let prev_end = self.history.last().map_or(self.root.0, |(csn, _)| *csn);
        self.epoch = self.epoch.next().unwrap();
        let interrupted = choice & 0x8000 != 0;
        for (log, (records, durable, _)) in self.logs.iter_mut().enumerate() {
            *durable = records.len();
            if !interrupted || choice & (1 << log) != 0 {
                records.push(Rec::Epoch { epoch: self.epoch, prev_end });
            }
            if !interrupted {
                *durable = records.len();
            }
        }
        if interrupted {
            return self.crash(choice.rotate_left(5) & 0x7FFF);
        }
        self.next = Csn::first(self.epoch);
    }

    /// The chain is what the true history says.
    fn check(&self) {
        let count = self.logs.len();
        let logs = self.logs.iter().enumerate();
        let logs: Vec<_> = logs
            .map(|(log, (records, _, floor))| summary(log as u8, count as u8, *floor as u64 + 1, records))
            .collect();
        let present =
            |csn: Csn, log: usize| logs[log].runs.iter().any(|run| (run.csn..run.end()).contains(&csn.to_bits()));
        let whole = |(csn, participants): &&(Csn, u16)| {
            (0..count).all(|log| participants & (1 << log) == 0 || present(*csn, log))
        };
        let behind = self.history.iter().filter(|(csn, _)| *csn > self.root.0);
        let expected: Vec<_> = behind.take_while(whole).map(|(csn, _)| *csn).collect();
        let chain = reckon(self.root.0, self.root.1, &logs).unwrap();
        check_chain(self.root.0, &logs, &chain, &expected);
        assert_eq!(by_the_text(self.root.0, self.root.1, &logs), expected);
    }
}

proptest! {
    /// Stores that crash, at any moment and while they open, with each log cut by itself.
    #[test]
    fn the_chain_is_the_longest_whole_prefix_of_history(
        logs in 1_usize..=4,
        steps in proptest::collection::vec(any::<(u8, u16)>(), 1..60),
    ) {
        let mut store = Store::new(logs);
        for step in steps {
            store.step(step);
        }
        store.crash(0x0777);
    }

    /// Logs that hold anything: as the text has it, commit by commit.
    #[test]
    fn any_logs_are_reckoned_as_by_the_text(
        count in 1_usize..=3,
        commits in proptest::collection::vec((1_u16..8, 0_u16..8), 21),
        ends in proptest::collection::vec((2_u64..=3, 0_u64..=21), 0..3),
        root in 0_u64..=21,
    ) {
        let all: Vec<Csn> = (1..=3).flat_map(|of| (1..=7).map(move |number| csn(of, number))).collect();
        let at = |place: u64| if place == 0 { Csn::default() } else { all[place as usize - 1] };
        let ends: std::collections::BTreeMap<u64, Csn> =
            ends.into_iter().map(|(of, place)| (of, at(place))).filter(|(of, end)| end.epoch() <= Epoch::new(*of)).collect();
        let logs: Vec<Summary> = (0..count as u8).map(|log| {
            let parts = all.iter().zip(&commits).filter_map(|(csn, (participants, present))| {
                let participants = match participants & ((1 << count) - 1) { 0 => 1, some => some };
                // Most parts are there.
                let there = participants & bit(log) != 0 && (*present > 1 || *present as u8 == log);
                there.then(|| part(*csn, participants))
            });
            let ends = ends.iter().map(|(of, end)| Rec::Epoch { epoch: epoch(*of), prev_end: *end });
            let records: Vec<_> = parts.chain(ends).collect();
            summary(log, count as u8, 1, &records)
        }).collect();
        let root = at(root);
        let next = root.next().unwrap_or(csn(1, 1));
        check_chain(root, &logs, &reckon(root, next, &logs).unwrap(), &by_the_text(root, next, &logs));
    }
}
