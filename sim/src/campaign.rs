//! Many runs: on all cores, merged in the order of their seeds.

use std::{
    collections::BTreeMap,
    io::IsTerminal as _,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use engine::plant::Plant;
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    plan::Plan,
    report::{Outcome, Verdict},
    runner,
};

/// What a campaign found.
#[derive(Debug)]
pub struct Campaign {
    /// How many seeds ran.
    pub runs: u64,
    /// All numbers, added up.
    pub total: Option<Outcome>,
    /// Runs that did not pass, in the order of their seeds: the first few whole.
    pub failures: Vec<Outcome>,
    /// How many did not pass.
    pub failed: u64,
    /// How many of them were the simulator's own fault.
    pub harness: u64,
}

/// How many failures are kept whole.
const KEPT: usize = 10;

/// Runs one plan on a thread of its own, so that nothing of an earlier run is left in it.
#[must_use]
pub fn run_one(plan: &Plan, plant: Option<Plant>) -> Outcome {
    apart(plan, || run_here(plan, plant))
}

/// The same, and what drawn power cuts kept is part of the outcome.
#[must_use]
pub fn record_one(plan: &Plan, plant: Option<Plant>) -> Outcome {
    apart(plan, || caught(plan, || runner::record(plan, plant)))
}

fn apart(plan: &Plan, run: impl FnOnce() -> Outcome + Send) -> Outcome {
    thread::scope(|scope| {
        let ended = scope.spawn(run).join();
        ended.unwrap_or_else(|_| Outcome::harness(plan, "its thread ended without an outcome".into()))
    })
}

/// Runs one plan on this thread, which may have run others: half of the time of a short run is its thread. The keys of the
/// standard hash maps are the thread's, and differ from run to run then; `tests/determinism.rs` holds that nothing depends
/// on their order.
#[must_use]
pub fn run_here(plan: &Plan, plant: Option<Plant>) -> Outcome {
    caught(plan, || runner::run(plan, plant))
}

fn caught(plan: &Plan, run: impl FnOnce() -> Outcome) -> Outcome {
    // What a panic leaves half done is dropped with the run.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Outcome::harness(plan, format!("panicked: {}", words.unwrap_or_default()))
    })
}

/// Runs the plans of `seeds`; `each` sees every outcome in the order of the seeds.
pub fn run(
    seeds: Range<u64>,
    plant: Option<Plant>,
    plan: impl Fn(u64) -> Plan + Sync,
    mut each: impl FnMut(&Outcome),
) -> Campaign {
    let mut campaign = Campaign { runs: 0, total: None, failures: Vec::new(), failed: 0, harness: 0 };
    let bar = if std::io::stderr().is_terminal() {
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left {msg}");
        ProgressBar::new(seeds.end.saturating_sub(seeds.start))
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    } else {
        ProgressBar::hidden()
    };
    let next = AtomicU64::new(seeds.start);
    let (sender, receiver) = mpsc::sync_channel::<(u64, Outcome)>(1024);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            let (sender, next, plan, end) = (sender.clone(), &next, &plan, seeds.end);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || sender.send((seed, run_here(&plan(seed), plant))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut waiting = BTreeMap::new();
        let mut expected = seeds.start;
        for (seed, outcome) in receiver {
            waiting.insert(seed, outcome);
            while let Some(outcome) = waiting.remove(&expected) {
                expected += 1;
                bar.inc(1);
                each(&outcome);
                campaign.take(outcome);
                if campaign.failed > 0 {
                    bar.set_message(format!("({} failed)", campaign.failed));
                }
            }
        }
    });
    bar.finish_and_clear();
    campaign
}

impl Campaign {
    fn take(&mut self, outcome: Outcome) {
        self.runs += 1;
        match &mut self.total {
            None => self.total = Some(outcome.clone()),
            Some(total) => total.merge(&outcome),
        }
        if outcome.verdict != Verdict::Pass {
            self.failed += 1;
            self.harness += u64::from(matches!(outcome.verdict, Verdict::Harness(_)));
            if self.failures.len() < KEPT {
                self.failures.push(outcome);
            }
        }
    }
}
