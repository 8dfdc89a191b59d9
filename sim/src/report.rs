//! What a run found, for a person and for a machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde_json::{Value, json};

use crate::{
    invariant,
    plan::{Decided, Plan},
    workload,
};

/// The result of one run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// What was under test.
    pub subject: String,
    /// Its options.
    pub drawn: Vec<(&'static str, String)>,
    /// What the oracles said.
    pub verdict: Verdict,
    /// Hash over everything that happened.
    pub trace_hash: u64,
    /// Opens that began a life, the last one included.
    pub lives: u64,
    /// Crashes.
    pub cycles: u64,
    /// Operations that were answered.
    pub operations: u64,
    /// Acknowledged appends by class.
    pub acknowledged: BTreeMap<&'static str, u64>,
    /// Faults and crashes by kind.
    pub fired: BTreeMap<&'static str, u64>,
    /// Faults that were on.
    pub enabled: BTreeSet<&'static str>,
    /// Checks by invariant.
    pub checked: BTreeMap<&'static str, u64>,
    /// Invariants that the plan gave an occasion to check.
    pub applicable: BTreeSet<&'static str>,
    /// How often the place of the planted bug was reached.
    pub reached: BTreeMap<&'static str, u64>,
    /// Records delivered by all opens.
    pub records_recovered: u64,
    /// Records in intact frames that opens left behind.
    pub records_dropped: u64,
    /// Bytes that opens left behind.
    pub bytes_dropped: u64,
    /// What the seed decided, by life.
    pub decided: Vec<Decided>,
}

/// What the oracles said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every check held.
    Pass,
    /// One did not.
    Violation(Violation),
    /// The simulator itself could not go on.
    Harness(String),
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its id.
    pub invariant: &'static str,
    /// What should have been.
    pub expected: String,
    /// What was.
    pub found: String,
    /// The last I/O calls and operations.
    pub last: Vec<String>,
    /// The life that it showed in, from 0.
    pub life: usize,
}

impl Outcome {
    /// The outcome of a plan that the simulator itself could not run.
    #[must_use]
    pub fn harness(plan: &Plan, message: String) -> Outcome {
        Outcome {
            seed: plan.seed,
            subject: plan.subject.clone(),
            drawn: workload::drawn(plan),
            verdict: Verdict::Harness(message),
            trace_hash: 0,
            lives: 0,
            cycles: 0,
            operations: 0,
            acknowledged: BTreeMap::new(),
            fired: BTreeMap::new(),
            enabled: BTreeSet::new(),
            checked: BTreeMap::new(),
            applicable: BTreeSet::new(),
            reached: BTreeMap::new(),
            records_recovered: 0,
            records_dropped: 0,
            bytes_dropped: 0,
            decided: Vec::new(),
        }
    }

    /// Adds another run's numbers; seed, options, hash and verdict stay.
    pub fn merge(&mut self, other: &Outcome) {
        self.lives += other.lives;
        self.cycles += other.cycles;
        self.operations += other.operations;
        self.records_recovered += other.records_recovered;
        self.records_dropped += other.records_dropped;
        self.bytes_dropped += other.bytes_dropped;
        self.enabled.extend(&other.enabled);
        self.applicable.extend(&other.applicable);
        for (mine, theirs) in [
            (&mut self.acknowledged, &other.acknowledged),
            (&mut self.fired, &other.fired),
            (&mut self.checked, &other.checked),
            (&mut self.reached, &other.reached),
        ] {
            for (name, count) in theirs {
                *mine.entry(name).or_default() += count;
            }
        }
    }

    /// Invariants and faults that had an occasion and never took it.
    #[must_use]
    pub fn never(&self) -> Vec<String> {
        let unchecked = self.applicable.iter().filter(|id| self.checked.get(*id).copied().unwrap_or(0) == 0);
        let unfired = self.enabled.iter().filter(|name| self.fired.get(*name).copied().unwrap_or(0) == 0);
        unchecked
            .map(|id| format!("{id} was never checked"))
            .chain(unfired.map(|name| format!("fault {name} never fired")))
            .collect()
    }

    /// For a machine: one object.
    #[must_use]
    pub fn json(&self, replay: &str) -> Value {
        let violation = match &self.verdict {
            Verdict::Violation(violation) => Some(violation),
            Verdict::Pass | Verdict::Harness(_) => None,
        };
        json!({
            "seed": self.seed,
            "subject": self.subject,
            "drawn": self.drawn.iter().cloned().collect::<BTreeMap<_, _>>(),
            "verdict": match &self.verdict { Verdict::Pass => "pass", Verdict::Violation(_) => "violation", Verdict::Harness(_) => "harness" },
            "invariant": violation.map(|violation| violation.invariant),
            "expected": violation.map(|violation| &violation.expected),
            "found": violation.map(|violation| &violation.found),
            "trace_hash": format!("{:016x}", self.trace_hash),
            "lives": self.lives,
            "cycles": self.cycles,
            "operations": self.operations,
            "acknowledged": self.acknowledged,
            "fired": self.fired,
            "checked": self.checked,
            "reached": self.reached,
            "records_recovered": self.records_recovered,
            "records_dropped": self.records_dropped,
            "bytes_dropped": self.bytes_dropped,
            "replay": replay,
        })
    }

    /// For a person: one screen. `cycles_per_second` is measured outside, since nothing in a run may read a clock.
    #[must_use]
    pub fn text(&self, cycles_per_second: u64, replay: &str) -> String {
        let mut out = String::new();
        let pairs: Vec<String> = self.drawn.iter().map(|(name, value)| format!("{name}={value}")).collect();
        line(&mut out, "options", &pairs);
        out.push_str(&self.numbers(cycles_per_second));
        // Writing to a string cannot fail.
        let _ = writeln!(out, "trace hash: {:016x}", self.trace_hash);
        match &self.verdict {
            Verdict::Pass => out.push_str("verdict: PASS\n"),
            Verdict::Harness(message) => {
                let _ = write!(out, "replay: {replay}\nverdict: HARNESS ERROR: {message}\n");
            }
            Verdict::Violation(violation) => {
                let last: Vec<&String> = violation.last.iter().rev().take(LAST_LINES).collect();
                let _ = writeln!(out, "last calls and operations before it, in life {}:", violation.life);
                for text in last.into_iter().rev() {
                    let _ = writeln!(out, "  {text}");
                }
                let _ = write!(
                    out,
                    "expected: {}\nfound:    {}\nreplay: {replay}\nverdict: VIOLATION of {}\n",
                    violation.expected, violation.found, violation.invariant
                );
            }
        }
        out
    }

    /// The numbers of a run or a campaign.
    #[must_use]
    pub fn numbers(&self, cycles_per_second: u64) -> String {
        let mut out = String::new();
        let counts = |map: &BTreeMap<&'static str, u64>| -> Vec<String> {
            map.iter().map(|(name, count)| format!("{name} {count}")).collect()
        };
        // In the order of the rules: I9 stands before I15.
        let checked = invariant::ALL.iter().filter_map(|rule| Some((rule.id, self.checked.get(rule.id)?)));
        let checked = checked.map(|(id, count)| format!("{id} {count}")).collect();
        let rows = [
            (
                "ran",
                vec![
                    format!("{} lives", self.lives),
                    format!("{} crashes", self.cycles),
                    format!("{} operations", self.operations),
                    format!("{cycles_per_second} cycles/s"),
                ],
            ),
            ("acknowledged", counts(&self.acknowledged)),
            ("fired", counts(&self.fired)),
            (
                "recovered",
                vec![
                    format!("{} records", self.records_recovered),
                    format!("dropped {} records", self.records_dropped),
                    format!("{} bytes", self.bytes_dropped),
                ],
            ),
            ("checked", checked),
        ];
        for (name, values) in rows {
            line(&mut out, name, &values);
        }
        if !self.reached.is_empty() {
            line(&mut out, "plant reached", &counts(&self.reached));
        }
        out
    }
}

/// Lines of history that a violation shows.
const LAST_LINES: usize = 16;
/// Width of a report.
const COLUMNS: usize = 100;

/// `name: value, value, …`, wrapped between words.
fn line(out: &mut String, name: &str, values: &[String]) {
    let text = if values.is_empty() { "none".to_owned() } else { values.join(", ") };
    let mut column = name.len() + 1;
    out.push_str(name);
    out.push(':');
    for word in text.split(' ') {
        if column + 1 + word.len() > COLUMNS {
            out.push_str("\n   ");
            column = 3;
        }
        out.push(' ');
        out.push_str(word);
        column += 1 + word.len();
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;

    /// A run with something in every field.
    fn outcome(verdict: Verdict) -> Outcome {
        Outcome {
            drawn: [("segment_bytes", "16384"), ("clients", "2,1,6"), ("faults", "eintr 1/16, short-read 1/64")]
                .map(|(name, value)| (name, value.to_owned()))
                .to_vec(),
            verdict,
            seed: 17,
            subject: "wal".into(),
            trace_hash: 0xab,
            lives: 3,
            cycles: 2,
            operations: 40,
            acknowledged: BTreeMap::from([("sync", 7), ("written", 2)]),
            fired: BTreeMap::from([("eintr", 4), ("kill", 1), ("power-cut", 1), ("short-read", 0)]),
            enabled: BTreeSet::from(["eintr", "short-read"]),
            checked: BTreeMap::from([("I1", 3), ("I15", 9), ("I1a", 1), ("I9", 7)]),
            applicable: BTreeSet::from(["I1", "I15", "I24", "I9"]),
            reached: BTreeMap::from([("wal-seg-no-dirsync", 5)]),
            records_recovered: 12,
            records_dropped: 1,
            bytes_dropped: 100,
            decided: Vec::new(),
        }
    }

    fn violation(last: usize) -> Verdict {
        Verdict::Violation(Violation {
            invariant: "I9",
            expected: "LSN 4 survives a power cut now".into(),
            found: "only 3 records".into(),
            last: (0..last).map(|number| format!("client 0: append {number} sync: Ok({number})")).collect(),
            life: 1,
        })
    }

    const REPLAY: &str = "cargo run -p sim -- --seed 17 --plant wal-seg-no-dirsync";

    #[test]
    fn a_pass_reads_like_this() {
        insta::assert_snapshot!(outcome(Verdict::Pass).text(1500, REPLAY), @r#"
        options: segment_bytes=16384, clients=2,1,6, faults=eintr 1/16, short-read 1/64
        ran: 3 lives, 2 crashes, 40 operations, 1500 cycles/s
        acknowledged: sync 7, written 2
        fired: eintr 4, kill 1, power-cut 1, short-read 0
        recovered: 12 records, dropped 1 records, 100 bytes
        checked: I1 3, I1a 1, I9 7, I15 9
        plant reached: wal-seg-no-dirsync 5
        trace hash: 00000000000000ab
        verdict: PASS
        "#);
    }

    #[test]
    fn a_violation_reads_like_this() {
        insta::assert_snapshot!(outcome(violation(2)).text(1500, REPLAY), @r#"
        options: segment_bytes=16384, clients=2,1,6, faults=eintr 1/16, short-read 1/64
        ran: 3 lives, 2 crashes, 40 operations, 1500 cycles/s
        acknowledged: sync 7, written 2
        fired: eintr 4, kill 1, power-cut 1, short-read 0
        recovered: 12 records, dropped 1 records, 100 bytes
        checked: I1 3, I1a 1, I9 7, I15 9
        plant reached: wal-seg-no-dirsync 5
        trace hash: 00000000000000ab
        last calls and operations before it, in life 1:
          client 0: append 0 sync: Ok(0)
          client 0: append 1 sync: Ok(1)
        expected: LSN 4 survives a power cut now
        found:    only 3 records
        replay: cargo run -p sim -- --seed 17 --plant wal-seg-no-dirsync
        verdict: VIOLATION of I9
        "#);
    }

    #[test]
    fn a_harness_error_reads_like_this() {
        insta::assert_snapshot!(outcome(Verdict::Harness("a waiter was forgotten".into())).text(1500, REPLAY), @r#"
        options: segment_bytes=16384, clients=2,1,6, faults=eintr 1/16, short-read 1/64
        ran: 3 lives, 2 crashes, 40 operations, 1500 cycles/s
        acknowledged: sync 7, written 2
        fired: eintr 4, kill 1, power-cut 1, short-read 0
        recovered: 12 records, dropped 1 records, 100 bytes
        checked: I1 3, I1a 1, I9 7, I15 9
        plant reached: wal-seg-no-dirsync 5
        trace hash: 00000000000000ab
        replay: cargo run -p sim -- --seed 17 --plant wal-seg-no-dirsync
        verdict: HARNESS ERROR: a waiter was forgotten
        "#);
    }

    #[test]
    fn a_machine_reads_this() {
        insta::assert_snapshot!(outcome(violation(0)).json(REPLAY), @r#"
        {"acknowledged":{"sync":7,"written":2},"bytes_dropped":100,"checked":{"I1":3,"I15":9,"I1a":1,"I9":7},"cycles":2,"drawn":{"clients":"2,1,6","faults":"eintr 1/16, short-read 1/64","segment_bytes":"16384"},"expected":"LSN 4 survives a power cut now","fired":{"eintr":4,"kill":1,"power-cut":1,"short-read":0},"found":"only 3 records","invariant":"I9","lives":3,"operations":40,"reached":{"wal-seg-no-dirsync":5},"records_dropped":1,"records_recovered":12,"replay":"cargo run -p sim -- --seed 17 --plant wal-seg-no-dirsync","seed":17,"subject":"wal","trace_hash":"00000000000000ab","verdict":"violation"}
        "#);
    }

    #[test]
    fn the_fullest_report_fits_one_screen() {
        let mut full = outcome(violation(100));
        for fault in Fault::ALL {
            full.fired.insert(fault.name(), 123_456);
        }
        full.checked = invariant::ALL.iter().map(|rule| (rule.id, 1_234_567)).collect();
        full.drawn = workload::drawn(&workload::draw(1, "wal", false));
        full.drawn.retain(|(name, _)| *name != "faults");
        let rates = Fault::ALL.map(|fault| format!("{} 1/128", fault.name()));
        full.drawn.push(("faults", rates.join(", ")));
        let text = full.text(1_000_000, REPLAY);
        assert!(text.lines().count() <= 40, "{} lines:\n{text}", text.lines().count());
        assert!(text.lines().all(|line| line.len() <= COLUMNS), "{text}");
    }

    #[test]
    fn what_never_happened_is_named() {
        let mut total = outcome(Verdict::Pass);
        assert_eq!(total.never(), ["I24 was never checked", "fault short-read never fired"]);
        let mut other = outcome(Verdict::Pass);
        other.checked = BTreeMap::from([("I24", 1)]);
        other.fired = BTreeMap::from([("short-read", 2), ("eintr", 1)]);
        total.merge(&other);
        assert!(total.never().is_empty());
        assert_eq!((total.lives, total.fired["eintr"], total.checked["I15"]), (6, 5, 9));
    }
}
