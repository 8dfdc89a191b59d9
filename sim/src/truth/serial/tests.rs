//! Forged histories: each anomaly is found by its name, and what isolation allows is not. Executions of a model are clean.

use std::{collections::BTreeMap, ops::RangeBounds};

use proptest::prelude::*;

use super::*;

const ALL: [Isolation; 3] = [Isolation::ReadCommitted, Isolation::Snapshot, Isolation::Serializable];

/// Transaction and CSN `number`, at a time with all others.
fn t(number: u64, isolation: Isolation) -> Committed {
    Committed { number, csn: number, isolation, reads: vec![], writes: vec![], began: 0, acknowledged: None }
}

fn key(name: &str) -> Key {
    (1, name.as_bytes().to_vec())
}

fn value(transaction: u64) -> ValueId {
    ValueId { transaction, statement: 0 }
}

impl Committed {
    /// `from`: whose value it finds; 0: nothing.
    fn gets(mut self, name: &str, from: u64) -> Committed {
        self.reads.push(Read::Get { key: key(name), found: (from > 0).then(|| value(from)) });
        self
    }

    /// Of all keys of the table.
    fn scans(mut self, found: &[(&str, u64)]) -> Committed {
        let found = found.iter().map(|(name, from)| (key(name).1, value(*from))).collect();
        self.reads.push(Read::Range { table: 1, from: Bound::Unbounded, to: Bound::Unbounded, found });
        self
    }

    fn puts(mut self, name: &str) -> Committed {
        self.writes.push((key(name), Some(value(self.number))));
        self
    }

    fn deletes(mut self, name: &str) -> Committed {
        self.writes.push((key(name), None));
        self
    }

    fn between(mut self, began: u64, acknowledged: u64) -> Committed {
        (self.began, self.acknowledged) = (began, Some(acknowledged));
        self
    }
}

fn found(history: &[Committed]) -> Option<Anomaly> {
    check(history, &BTreeSet::from([66])).err().map(|violation| violation.anomaly)
}

/// What is found if all of them have the isolation; none, a snapshot, serializable.
fn by_isolation(history: impl Fn(Isolation) -> Vec<Committed>) -> [Option<Anomaly>; 3] {
    ALL.map(|isolation| found(&history(isolation)))
}

#[test]
fn write_skew_is_one_of_serializable_transactions_alone() {
    let skew = |all| vec![t(1, all).gets("x", 0).gets("y", 0).puts("x"), t(2, all).gets("x", 0).gets("y", 0).puts("y")];
    assert_eq!(by_isolation(skew), [None, None, Some(Anomaly::WriteSkew)]);
    // One of a snapshot beside it may be the cause.
    let mixed = |one, two| vec![t(1, one).gets("y", 0).puts("x"), t(2, two).gets("x", 0).puts("y")];
    assert_eq!(found(&mixed(Isolation::Serializable, Isolation::Snapshot)), None);
    assert_eq!(found(&mixed(Isolation::Snapshot, Isolation::Serializable)), None);
    let violation = check(&skew(Isolation::Serializable), &BTreeSet::new()).expect_err("a cycle");
    insta::assert_snapshot!(violation.to_string().replace("; ", ";\n"), @r#"
    write skew: T1 (Serializable, CSN 1) (statement 1 of its reads) gets 1/"y" finds nothing, before T2 (Serializable, CSN 2) puts it;
    T2 (Serializable, CSN 2) (statement 0 of its reads) gets 1/"x" finds nothing, before T1 (Serializable, CSN 1) puts it
    "#);
}

#[test]
fn a_key_that_was_missing_from_a_range_is_a_phantom() {
    let phantom =
        |all| vec![t(1, all).puts("a"), t(2, all).scans(&[("a", 1)]).puts("b"), t(3, all).scans(&[("a", 1)]).puts("c")];
    assert_eq!(by_isolation(phantom), [None, None, Some(Anomaly::Phantom)]);
    // Of a scan only what it consumed counts.
    let consumed = |to: &str| {
        let mut history = phantom(Isolation::Serializable);
        let until = Bound::Included(to.as_bytes().to_vec());
        history[1].reads[0] =
            Read::Range { table: 1, from: Bound::Unbounded, to: until, found: vec![(b"a".to_vec(), value(1))] };
        found(&history)
    };
    assert_eq!((consumed("b"), consumed("c")), (None, Some(Anomaly::Phantom)));
}

#[test]
fn nobody_sees_two_others_in_two_orders() {
    let fork = |all| {
        vec![
            t(1, all).puts("x"),
            t(2, all).puts("y"),
            t(3, all).gets("x", 1).gets("y", 0),
            t(4, all).gets("x", 0).gets("y", 2),
        ]
    };
    assert_eq!(by_isolation(fork), [None, Some(Anomaly::LongFork), Some(Anomaly::LongFork)]);
    let scans = |all| {
        vec![t(1, all).puts("x"), t(2, all).puts("y"), t(3, all).scans(&[("x", 1)]), t(4, all).scans(&[("y", 2)])]
    };
    assert_eq!(by_isolation(scans), [None, Some(Anomaly::LongFork), Some(Anomaly::LongFork)]);
    let agree =
        |all| vec![t(1, all).puts("x"), t(2, all).puts("y"), t(3, all).scans(&[("x", 1)]), t(4, all).scans(&[])];
    assert_eq!(by_isolation(agree), [None; 3]);
}

#[test]
fn an_update_is_lost_where_what_it_replaces_was_not_read() {
    let lost = |all| vec![t(1, all).puts("x"), t(2, all).gets("x", 1).puts("x"), t(3, all).gets("x", 1).puts("x")];
    assert_eq!(by_isolation(lost), [None, Some(Anomaly::LostUpdate), Some(Anomaly::LostUpdate)]);
    let removed =
        |all| vec![t(1, all).puts("x"), t(2, all).gets("x", 1).deletes("x"), t(3, all).gets("x", 1).puts("x")];
    assert_eq!(by_isolation(removed), [None, Some(Anomaly::LostUpdate), Some(Anomaly::LostUpdate)]);
    let created = |all| vec![t(1, all).gets("x", 0).puts("x"), t(2, all).gets("x", 0).puts("x")];
    assert_eq!(by_isolation(created), [None, Some(Anomaly::LostUpdate), Some(Anomaly::LostUpdate)]);
    let in_turn = |all| vec![t(1, all).puts("x"), t(2, all).gets("x", 1).puts("x"), t(3, all).gets("x", 2).puts("x")];
    assert_eq!(by_isolation(in_turn), [None; 3]);
}

#[test]
fn of_a_transaction_all_or_nothing_is_seen() {
    let skew = |all| vec![t(1, all).puts("x").puts("y"), t(2, all).gets("x", 0).gets("y", 1)];
    assert_eq!(by_isolation(skew), [None, Some(Anomaly::ReadSkew), Some(Anomaly::ReadSkew)]);
    let scan = |all| vec![t(1, all).puts("x").puts("y"), t(2, all).scans(&[("y", 1)])];
    assert_eq!(by_isolation(scan), [None, Some(Anomaly::ReadSkew), Some(Anomaly::ReadSkew)]);
    // Across a third one.
    let chain = |all| vec![t(1, all).puts("x"), t(2, all).gets("x", 1).puts("y"), t(3, all).gets("y", 2).gets("x", 0)];
    assert_eq!(by_isolation(chain), [None, Some(Anomaly::ReadSkew), Some(Anomaly::ReadSkew)]);
    let whole = |all| vec![t(1, all).puts("x").puts("y"), t(2, all).gets("x", 1).gets("y", 1)];
    assert_eq!(by_isolation(whole), [None; 3]);
}

#[test]
fn what_did_not_commit_is_read_by_nobody() {
    for (from, words) in [(66, "T66 did not commit"), (9, "nobody knows of a commit of T9")] {
        for isolation in ALL {
            for reader in [t(1, isolation).gets("x", from), t(1, isolation).scans(&[("x", from)])] {
                let violation = check(&[reader], &BTreeSet::from([66])).expect_err("an aborted read");
                assert_eq!(violation.anomaly, Anomaly::AbortedRead);
                assert!(violation.to_string().contains(words), "{violation}");
            }
        }
    }
}

#[test]
fn only_what_a_transaction_leaves_behind_is_read_by_others() {
    let between = |name: &str| Read::Get { key: key(name), found: Some(ValueId { transaction: 1, statement: 7 }) };
    for isolation in ALL {
        let mut writer = t(1, isolation).puts("x");
        writer.writes.insert(0, (key("x"), Some(ValueId { transaction: 1, statement: 7 })));
        let mut reader = t(2, isolation);
        reader.reads.push(between("x"));
        assert_eq!(found(&[writer.clone(), reader.clone()]), Some(Anomaly::IntermediateRead));
        assert_eq!(found(&[writer.clone(), t(2, isolation).gets("x", 1)]), None);
        // A value of another key is none of this one.
        assert_eq!(found(&[writer.clone(), t(2, isolation).gets("y", 1)]), Some(Anomaly::IntermediateRead));
        // Its own it may see, even if a savepoint took it back.
        writer.reads.extend([between("x"), between("z")]);
        let own = vec![(b"x".to_vec(), value(1)), (b"z".to_vec(), ValueId { transaction: 1, statement: 8 })];
        writer.reads.push(Read::Range { table: 1, from: Bound::Unbounded, to: Bound::Unbounded, found: own });
        assert_eq!(found(&[writer]), None);
    }
}

#[test]
fn what_was_acknowledged_is_seen_by_whoever_begins_then() {
    let late = |began| move |all| vec![t(1, all).puts("x").between(1, 5), t(2, all).gets("x", 0).between(began, 9)];
    assert_eq!(by_isolation(late(6)), [None, Some(Anomaly::RealTime), Some(Anomaly::RealTime)]);
    assert_eq!(by_isolation(late(5)), [None; 3]);
    // Over one that neither of them has to do with.
    let over = |all| {
        vec![t(1, all).puts("x").between(1, 2), t(2, all).puts("y").between(3, 4), t(3, all).gets("x", 0).between(5, 6)]
    };
    assert_eq!(by_isolation(over), [None, Some(Anomaly::RealTime), Some(Anomaly::RealTime)]);
    // What is read was not written later.
    let early = |all| vec![t(1, all).gets("x", 2).between(1, 2), t(2, all).puts("x").between(3, 4)];
    assert_eq!(by_isolation(early), [Some(Anomaly::RealTime); 3]);
}

#[test]
fn two_that_read_each_other_are_no_order() {
    let flow = |all| vec![t(1, all).gets("y", 2).puts("x"), t(2, all).gets("x", 1).puts("y")];
    assert_eq!(by_isolation(flow), [Some(Anomaly::CircularFlow); 3]);
}

#[test]
fn numbers_are_given_once() {
    let mut twice = [t(1, Isolation::Snapshot).puts("x"), t(2, Isolation::Snapshot).puts("y")];
    twice[1].csn = 1;
    assert_eq!(found(&twice), Some(Anomaly::NumberTwice));
    twice[1].writes.clear();
    assert_eq!(found(&twice), None);
    (twice[1].number, twice[1].csn) = (1, 2);
    assert_eq!(found(&twice), Some(Anomaly::NumberTwice));
}

#[test]
fn nothing_is_what_was_there_before_or_behind_a_removal_as_the_rest_has_it() {
    let s = Isolation::Serializable;
    let base = || {
        vec![
            t(1, s).puts("x").puts("y"),
            t(2, s).deletes("x"),
            t(3, s).puts("x"),
            t(4, s).puts("y"),
            t(7, s).gets("x", 3).puts("z"),
        ]
    };
    let with = |reader: Committed| {
        let mut history = base();
        history.push(reader);
        found(&history)
    };
    // Behind the removal, since y is there: so before x comes back, which is before y is replaced.
    assert_eq!(with(t(5, s).gets("x", 0).gets("y", 1)), None);
    assert_eq!(with(t(5, s).gets("x", 0).gets("y", 0)), None);
    // No snapshot has this, but an order: x came back last.
    assert_eq!(with(t(5, s).gets("x", 0).gets("y", 4)), None);
    assert_eq!(with(t(5, s).gets("x", 0).gets("z", 7)), Some(Anomaly::ReadSkew));
    // Either may be: it follows only that it was before x came back.
    let (history, alone) = (base(), t(5, s).gets("x", 0));
    let versions = Versions::of(&history).expect("sound");
    let seen = |floor| {
        let seen = versions.seen_by(&alone, floor, &BTreeSet::new()).expect("sound").pop();
        seen.map(|seen| (seen.written, seen.replaced))
    };
    assert_eq!(seen(0), Some((None, Some(2))));
    // What was acknowledged says which.
    assert_eq!(seen(2), Some((Some(1), Some(2))));
    // Its own removal says nothing of what others did.
    assert_eq!(with(t(5, s).gets("x", 0).gets("y", 4).deletes("x")), None);
}

#[test]
fn what_was_looked_at_is_counted() {
    let history = [t(1, Isolation::Snapshot).puts("x"), t(2, Isolation::Serializable).gets("x", 1).puts("x")];
    // The one of a snapshot has two events; of both, one comes before the other for two reasons.
    assert_eq!(check(&history, &BTreeSet::new()), Ok(Counts { transactions: 2, edges: 2, cycles: 3 }));
    assert_eq!(check(&[], &BTreeSet::new()), Ok(Counts::default()));
}

/// A drawn transaction of the model.
#[derive(Clone, Debug)]
struct Program {
    isolation: Isolation,
    /// So many commits it doesn't see that have been by the time it commits.
    lag: u64,
    acknowledged: bool,
    statements: Vec<(u8, u8, u8)>,
}

fn programs(lag: u64) -> impl Strategy<Value = Vec<Program>> {
    let statement = (0..7_u8, 0..5_u8, 0..5_u8);
    let program = (0..3_usize, 0..=lag, any::<bool>(), prop::collection::vec(statement, 0..7));
    let program = program.prop_map(|(isolation, lag, acknowledged, statements)| Program {
        isolation: ALL[isolation],
        lag,
        acknowledged,
        statements,
    });
    prop::collection::vec(program, 0..24)
}

/// Executes them one by one in the order of their commits, each from the state that it sees. Returns who committed, and who had to give way.
fn execute(programs: &[Program], validate: bool) -> (Vec<Committed>, BTreeSet<u64>) {
    // What every commit left of the keys, from none on; and what it wrote.
    let mut states: Vec<BTreeMap<Key, ValueId>> = vec![BTreeMap::new()];
    let mut written: Vec<BTreeMap<Key, Option<ValueId>>> = vec![BTreeMap::new()];
    let (mut history, mut aborted) = (vec![], BTreeSet::new());
    for (number, program) in (1..).zip(programs) {
        let csn = states.len() as u64;
        let snapshot = (csn - 1).saturating_sub(program.lag);
        let mut one = Committed { csn, began: 10 * snapshot + 5, ..t(number, program.isolation) };
        let mut own: BTreeMap<Key, Option<ValueId>> = BTreeMap::new();
        for (statement, (kind, a, b)) in (0..).zip(&program.statements) {
            // One that reads what is committed sees ever more.
            let sees = match program.isolation {
                Isolation::ReadCommitted => (snapshot + statement).min(csn - 1),
                _ => snapshot,
            };
            let sees = &states[sees as usize];
            let (low, high) = (vec![*a.min(b)], vec![*a.max(b)]);
            let at = |key: &Key| own.get(key).copied().unwrap_or(sees.get(key).copied());
            let key = (1, vec![*a]);
            match kind {
                0 | 1 => one.reads.push(Read::Get { found: at(&key), key }),
                2 | 3 => {
                    let keys = (low[0]..=high[0]).map(|byte| (1, vec![byte]));
                    let found = keys.filter_map(|key| Some((key.1.clone(), at(&key)?))).collect();
                    one.reads.push(Read::Range {
                        table: 1,
                        from: Bound::Included(low),
                        to: Bound::Included(high),
                        found,
                    });
                }
                4 | 5 => {
                    let value = Some(ValueId { transaction: number, statement });
                    own.insert(key.clone(), value);
                    one.writes.push((key, value));
                }
                _ => {
                    own.insert(key.clone(), None);
                    one.writes.push((key, None));
                }
            }
        }
        if own.is_empty() {
            let last = if program.isolation == Isolation::ReadCommitted { csn - 1 } else { snapshot };
            one.acknowledged = program.acknowledged.then_some(10 * last + 7);
            history.push(one);
            continue;
        }
        let changed = |key: &Key| written[snapshot as usize + 1..].iter().any(|writes| writes.contains_key(key));
        let read = |key: &Key| {
            one.reads.iter().any(|read| match read {
                Read::Get { key: read, .. } => read == key,
                Read::Range { from, to, .. } => (from.clone(), to.clone()).contains(&key.1),
            })
        };
        let mut keys = (0..5).map(|byte| (1, vec![byte]));
        let conflict = keys.any(|key| match program.isolation {
            Isolation::ReadCommitted => false,
            Isolation::Snapshot => own.contains_key(&key) && changed(&key),
            Isolation::Serializable => (own.contains_key(&key) || validate && read(&key)) && changed(&key),
        });
        if conflict {
            aborted.insert(number);
            continue;
        }
        let mut state = states[states.len() - 1].clone();
        for (key, value) in &own {
            match value {
                Some(value) => state.insert(key.clone(), *value),
                None => state.remove(key),
            };
        }
        states.push(state);
        written.push(own);
        one.acknowledged = program.acknowledged.then_some(10 * csn + 1);
        history.push(one);
    }
    (history, aborted)
}

proptest! {
    #[test]
    fn what_runs_one_after_another_is_clean(programs in programs(0)) {
        let (history, aborted) = execute(&programs, true);
        prop_assert_eq!(aborted.len(), 0);
        if let Err(violation) = check(&history, &aborted) {
            prop_assert!(false, "{}", violation);
        }
    }

    #[test]
    fn what_runs_at_a_time_as_its_isolation_has_it_is_clean(programs in programs(4), turn in 0..24_usize) {
        let (mut history, aborted) = execute(&programs, true);
        let counts = check(&history, &aborted);
        if let Err(violation) = &counts {
            prop_assert!(false, "{}", violation);
        }
        let turn = turn.min(history.len());
        history.rotate_left(turn);
        prop_assert_eq!(check(&history, &aborted), counts);
    }

    /// Without validation, and without removals, since a read of nothing may then be of several versions.
    #[test]
    fn there_is_a_cycle_where_no_order_gives_what_was_read(programs in programs(3)) {
        let mut programs: Vec<Program> = programs.into_iter().take(5).collect();
        for program in &mut programs {
            program.isolation = Isolation::Serializable;
            program.statements.retain(|(kind, ..)| *kind < 6);
        }
        let (history, aborted) = execute(&programs, false);
        let found = check(&history, &aborted);
        prop_assert_eq!(found.is_ok(), in_some_order(&history, &mut vec![], &BTreeMap::new()), "{:?}", found);
    }
}

/// Whether the rest can follow on what is `done`, in an order that keeps real time and that of commits to a key, and reads what it read.
fn in_some_order(history: &[Committed], done: &mut Vec<usize>, state: &BTreeMap<Key, ValueId>) -> bool {
    let rest: Vec<usize> = (0..history.len()).filter(|of| !done.contains(of)).collect();
    let writes = |one: &Committed, key: &Key| one.writes.iter().any(|(other, _)| other == key);
    rest.is_empty()
        || rest.iter().any(|of| {
            let one = &history[*of];
            let mut others = rest.iter().map(|other| &history[*other]);
            let late = others.any(|other| {
                let earlier = other.csn < one.csn && one.writes.iter().any(|(key, _)| writes(other, key));
                earlier || other.acknowledged.is_some_and(|end| end < one.began)
            });
            if late || !one.reads.iter().all(|read| reads(one, read, state)) {
                return false;
            }
            let mut state = state.clone();
            state.extend(one.writes.iter().filter_map(|(key, value)| Some((key.clone(), (*value)?))));
            done.push(*of);
            let fits = in_some_order(history, done, &state);
            done.pop();
            fits
        })
}

/// Whether a statement finds in `state` what it found, but for its own.
fn reads(one: &Committed, read: &Read, state: &BTreeMap<Key, ValueId>) -> bool {
    let same = |key: &Key, found: Option<ValueId>| {
        found.is_some_and(|value| value.transaction == one.number) || state.get(key).copied() == found
    };
    match read {
        Read::Get { key, found } => same(key, *found),
        Read::Range { from, to, found, .. } => (0..5).map(|byte| (1, vec![byte])).all(|key: Key| {
            let value = found.iter().find(|(other, _)| *other == key.1).map(|(_, value)| *value);
            !(from.clone(), to.clone()).contains(&key.1) || same(&key, value)
        }),
    }
}
