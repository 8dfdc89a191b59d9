//! What a run found, for a person and for a machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde_json::{Value, json};

use crate::{plan::Plan, workload};

/// The result of one run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// What was under test.
    pub subject: String,
    /// Its options.
    pub drawn: Vec<(String, String)>,
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
            ("checked", counts(&self.checked)),
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
const LAST_LINES: usize = 24;
/// Width of a report.
const COLUMNS: usize = 100;

/// `name: value, value, …`, wrapped.
fn line(out: &mut String, name: &str, values: &[String]) {
    let mut column = name.len() + 1;
    out.push_str(name);
    out.push(':');
    for (number, value) in values.iter().enumerate() {
        let separator = if number == 0 { "" } else { "," };
        if column + value.len() + 2 > COLUMNS {
            out.push_str(separator);
            out.push_str("\n   ");
            column = 3;
        } else {
            out.push_str(separator);
            column += separator.len();
        }
        out.push(' ');
        out.push_str(value);
        column += 1 + value.len();
    }
    if values.is_empty() {
        out.push_str(" none");
    }
    out.push('\n');
}
