//! From a plan that fails to a small one that fails for the same reason: delta debugging over everything that a plan holds.
//!
//! A candidate counts if it violates the same invariant with the same expectation, numbers aside (after Zeller's ddmin). What
//! a seed decides by itself (scheduling, what a drawn power cut keeps) shifts with every change, so a candidate may also
//! fail under one of a few other seeds. Lives, clients, operations, crashes, faults, rates, sizes, latencies and what power
//! cuts keep are tried in turn until a whole round brings nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use engine::plant::Plant;
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    campaign::{record_one, run_one},
    disk::{Keep, Kept},
    plan::{At, Crash, CrashKind, Decided, End, EngineOptions, Life, MachinePlan, Plan},
    report::{Outcome, Verdict, Violation},
    scenario::{Expect, Scenario},
    workload::{Class, Op},
};

/// Other seeds that a candidate is tried with.
const OTHER_SEEDS: u64 = 4;

/// A small plan, and how it came about.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The scenario: it replays by itself.
    pub scenario: Scenario,
    /// What it violates.
    pub violation: Violation,
    /// Operations before and after.
    pub operations: (usize, usize),
    /// Runs that were tried.
    pub tried: u64,
    /// Nothing smaller was found; else the time was over.
    pub complete: bool,
}

/// Why there is nothing to shrink.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotShrunk {
    /// It passes.
    #[error(
        "it passes, so there is nothing to shrink; give a seed or a scenario that fails, and --plant if it needs one"
    )]
    Passes,
    /// The simulator itself fails.
    #[error("the simulator could not run it: {0}")]
    Harness(String),
}

/// Makes `plan` smaller as long as `time_left` says so.
///
/// # Errors
/// [`NotShrunk`].
pub fn shrink(plan: &Plan, plant: Option<Plant>, time_left: impl Fn() -> bool) -> Result<Shrunk, NotShrunk> {
    let outcome = record_one(plan, plant);
    let violation = match &outcome.verdict {
        Verdict::Pass => return Err(NotShrunk::Passes),
        Verdict::Harness(message) => return Err(NotShrunk::Harness(message.clone())),
        Verdict::Violation(violation) => violation.clone(),
    };
    let bar = ProgressBar::new_spinner().with_style(
        ProgressStyle::with_template("{spinner} {elapsed} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut search =
        Search { best: plan.clone(), plant, reason: reason(&violation), violation, tried: 1, time_left, bar };
    // Nothing after the life that failed matters.
    let mut cut = search.best.clone();
    cut.lives.truncate(search.violation.life + 1);
    search.consider(cut);
    search.explicit(&outcome);
    let mut complete = false;
    while (search.time_left)() && !complete {
        let before = search.best.clone();
        search.round();
        complete = search.best == before && (search.time_left)();
    }
    search.bar.finish_and_clear();
    let Search { best, violation, tried, .. } = search;
    let operations = (count(plan), count(&best));
    Ok(Shrunk { scenario: scenario(best, plant, &violation), violation, operations, tried, complete })
}

/// The plan as a scenario that says what it shows.
fn scenario(plan: Plan, plant: Option<Plant>, violation: &Violation) -> Scenario {
    let claim = format!("{} is violated: {}", violation.invariant, violation.expected);
    let expect = match plant {
        Some(plant) => {
            let fails_with = vec![violation.invariant.to_owned()];
            Expect { fails_under: Some(plant), fails_with, ..Expect::default() }
        }
        None => Expect { violation: Some(violation.invariant.to_owned()), ..Expect::default() },
    };
    Scenario { claim, plan, expect }
}

/// Operations of a plan.
#[must_use]
pub fn count(plan: &Plan) -> usize {
    plan.lives.iter().flat_map(|life| &life.clients).map(Vec::len).sum()
}

/// What was expected, numbers aside.
fn reason(violation: &Violation) -> (&'static str, String) {
    let words = violation.expected.split(|letter: char| letter.is_ascii_digit()).collect::<String>();
    // Which durability a record had, and which file it was in, is a detail.
    let words: Vec<&str> = words.split_whitespace().filter(|word| word.chars().all(char::is_alphabetic)).collect();
    (violation.invariant, words.join(" "))
}

struct Search<F> {
    best: Plan,
    plant: Option<Plant>,
    reason: (&'static str, String),
    violation: Violation,
    tried: u64,
    time_left: F,
    bar: ProgressBar,
}

impl<F: Fn() -> bool> Search<F> {
    /// Takes a candidate if it fails for the same reason.
    fn consider(&mut self, candidate: Plan) -> bool {
        if candidate == self.best || candidate.lives.is_empty() {
            return false;
        }
        for other in 0..=OTHER_SEEDS {
            if !(self.time_left)() {
                return false;
            }
            let seed = if other == 0 { candidate.seed } else { other };
            let candidate = Plan { seed, ..candidate.clone() };
            self.tried += 1;
            if let Verdict::Violation(violation) = run_one(&candidate, self.plant).verdict
                && reason(&violation) == self.reason
                && self.plant.is_none_or(|_| run_one(&candidate, None).verdict == Verdict::Pass)
            {
                (self.best, self.violation) = (candidate, violation);
                self.bar.set_message(format!("{} operations, {} runs", count(&self.best), self.tried));
                return true;
            }
        }
        false
    }

    /// Considers the best plan with a change.
    fn change(&mut self, change: impl FnOnce(&mut Plan)) -> bool {
        let mut candidate = self.best.clone();
        change(&mut candidate);
        self.consider(candidate)
    }

    /// What the seed decided, said by the plan: faults at the calls that they struck instead of rates, and the sectors that
    /// power cuts kept instead of a draw. A part of it is better than nothing.
    fn explicit(&mut self, outcome: &Outcome) {
        let faults = |plan: &mut Plan| {
            plan.machine.rates = BTreeMap::new();
            for (life, decided) in plan.lives.iter_mut().zip(&outcome.decided) {
                life.opening_faults.extend(&decided.opening_faults);
                life.faults.extend(&decided.faults);
            }
        };
        let kept = |life: &mut Life, decided: &Decided| {
            if let (End::Crash(crash), Some(keep)) = (&mut life.end, &decided.kept) {
                crash.keep = keep.clone();
            }
            for (attempt, keep) in &decided.opening_kept {
                if let Some(crash) = life.opening.get_mut(*attempt) {
                    crash.keep = keep.clone();
                }
            }
        };
        let all_kept = |plan: &mut Plan| {
            plan.lives.iter_mut().zip(&outcome.decided).for_each(|(life, decided)| kept(life, decided))
        };
        if self.change(|plan| {
            faults(plan);
            all_kept(plan);
        }) {
            return;
        }
        self.change(faults);
        if !self.change(all_kept) {
            for (index, decided) in outcome.decided.iter().enumerate().take(self.best.lives.len()) {
                self.change(|plan| kept(&mut plan.lives[index], decided));
            }
        }
    }

    fn round(&mut self) {
        for life in (0..self.best.lives.len()).rev() {
            if self.best.lives.len() > 1 {
                self.change(|plan| drop(plan.lives.remove(life)));
            }
        }
        for life in 0..self.best.lives.len() {
            self.list(|plan| &mut plan.lives[life].clients);
            for client in 0..self.best.lives[life].clients.len() {
                self.list(|plan| &mut plan.lives[life].clients[client]);
            }
            self.list(|plan| &mut plan.lives[life].opening);
            self.list(|plan| &mut plan.lives[life].opening_faults);
            self.list(|plan| &mut plan.lives[life].faults);
            self.list(|plan| &mut plan.lives[life].damage);
        }
        for fault in self.best.machine.rates.keys().copied().collect::<Vec<_>>() {
            self.change(|plan| plan.machine.rates.retain(|other, _| *other != fault));
        }
        self.change(|plan| plan.damage_checks = 0);
        self.change(|plan| plan.image_checks = 0);
        self.change(|plan| plan.image_checks = 1);
        self.change(|plan| plan.machine = MachinePlan { rates: plan.machine.rates.clone(), ..MachinePlan::default() });
        self.change(|plan| plan.machine.latency_us = (1, 1));
        self.change(|plan| plan.engine = EngineOptions::default());
        self.crashes();
        self.operations();
    }

    /// Removes runs of entries of a list, long ones first.
    fn list<T>(&mut self, list: impl Fn(&mut Plan) -> &mut Vec<T>) {
        let mut length = list(&mut self.best).len();
        while length > 0 {
            let mut at = 0;
            while at < list(&mut self.best).len() {
                let end = (at + length).min(list(&mut self.best).len());
                if !self.change(|plan| drop(list(plan).drain(at..end))) {
                    at += length;
                }
            }
            length /= 2;
        }
    }

    fn crashes(&mut self) {
        for life in 0..self.best.lives.len() {
            if matches!(self.best.lives[life].end, End::Crash(_)) {
                self.change(|plan| plan.lives[life].end = End::Close);
            }
            for place in 0..=self.best.lives[life].opening.len() {
                let get = move |plan: &mut Plan| -> Option<Crash> {
                    let life = plan.lives.get(life)?;
                    match (&life.end, place.checked_sub(1)) {
                        (End::Crash(crash), None) => Some(crash.clone()),
                        (_, Some(place)) => life.opening.get(place).cloned(),
                        (End::Close, None) => None,
                    }
                };
                let set = move |plan: &mut Plan, crash: Crash| match place.checked_sub(1) {
                    None => plan.lives[life].end = End::Crash(crash),
                    Some(place) => plan.lives[life].opening[place] = crash,
                };
                let Some(crash) = get(&mut self.best) else { continue };
                if crash.kind == CrashKind::PowerCut && !matches!(crash.keep, Keep::None | Keep::All) {
                    let files = ["wal-00000001.seg", "wal-00000002.seg", "wal-00000003.seg"];
                    let file = |file: &&str| Kept::File((*file).to_owned());
                    let only = files.iter().map(file).chain([Kept::Dir]).map(|kept| Keep::Only(vec![kept]));
                    for keep in [Keep::None, Keep::All].into_iter().chain(only) {
                        if self.change(|plan| set(plan, Crash { keep, ..crash.clone() })) {
                            break;
                        }
                    }
                }
                while let Some(Crash { keep: Keep::Only(kept), .. }) = get(&mut self.best)
                    && fewer(&kept)
                        .into_iter()
                        .any(|fewer| self.change(|plan| set(plan, Crash { keep: Keep::Only(fewer), ..crash.clone() })))
                {
                }
                let Some(crash) = get(&mut self.best) else { continue };
                self.change(|plan| set(plan, Crash { at: At::Done, ..crash.clone() }));
                while let Some(Crash { at: At::Io(io), .. }) = get(&mut self.best)
                    && [io / 2, io * 7 / 8, io - 1]
                        .into_iter()
                        .filter(|less| (1..io).contains(less))
                        .any(|less| self.change(|plan| set(plan, Crash { at: At::Io(less), ..crash.clone() })))
                {
                }
            }
        }
    }

    fn operations(&mut self) {
        for life in 0..self.best.lives.len() {
            for client in 0..self.best.lives[life].clients.len() {
                for index in 0..self.best.lives[life].clients[client].len() {
                    for simpler in simpler(self.best.lives[life].clients[client][index]) {
                        self.change(|plan| plan.lives[life].clients[client][index] = simpler);
                    }
                }
            }
        }
    }
}

/// Less to keep, or the same in fewer words.
fn fewer(kept: &[Kept]) -> Vec<Vec<Kept>> {
    let mut candidates = Vec::new();
    for (index, one) in kept.iter().enumerate() {
        let mut with = |changed: Option<Kept>| {
            let mut candidate = kept.to_vec();
            candidate.splice(index..=index, changed);
            candidates.push(candidate);
        };
        if kept.len() > 1 {
            with(None);
        }
        if let Kept::Sectors { file, sectors, length } = one {
            with(Some(Kept::File(file.clone())));
            let half = sectors.iter().nth(sectors.len() / 2).copied().filter(|_| sectors.len() > 1);
            let (before, after): (BTreeSet<u64>, _) =
                sectors.iter().partition(|sector| half.is_none_or(|half| **sector < half));
            for sectors in [before, after].into_iter().filter(|_| half.is_some()) {
                with(Some(Kept::Sectors { file: file.clone(), sectors, length: *length }));
            }
            if *length {
                with(Some(Kept::Sectors { file: file.clone(), sectors: sectors.clone(), length: false }));
            }
        }
    }
    candidates
}

/// Simpler operations that may do.
fn simpler(op: Op) -> Vec<Op> {
    let sizes = |bytes: u64| [1, 100, bytes / 2].into_iter().filter(move |less| *less < bytes);
    match op {
        Op::Append { bytes, class } => sizes(bytes).map(|bytes| Op::Append { bytes, class }).collect(),
        Op::Batch { count, bytes, class } => {
            vec![Op::Append { bytes, class }, Op::Batch { count: count.min(2), bytes: bytes.min(100), class }]
        }
        Op::Abandon { bytes, class } => {
            vec![Op::Append { bytes, class: Class::Buffered }, Op::Abandon { bytes: bytes.min(100), class }]
        }
        Op::Write { count, bytes } => vec![
            Op::Append { bytes, class: Class::Buffered },
            Op::Write { count: count / 2, bytes },
            Op::Write { count, bytes: bytes.min(100) },
        ],
        Op::Pause { us } => [1, us / 2].into_iter().filter(|less| *less < us).map(|us| Op::Pause { us }).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{campaign, workload::draw};

    fn first_failure(plant: Plant) -> Plan {
        let found = campaign::run(1..301, Some(plant), |seed| draw(seed, "wal", false), |_| {});
        draw(found.failures.first().expect("a planted bug that is easy to find").seed, "wal", false)
    }

    #[test]
    fn what_is_shrunk_is_small_and_fails_again_from_its_text() {
        for plant in [Plant::WalSegNoDirsync, Plant::WalExposeUnsynced, Plant::WalDsyncRange] {
            let plan = first_failure(plant);
            let budget = std::cell::Cell::new(600_u64);
            let left = || {
                budget.set(budget.get().saturating_sub(1));
                budget.get() > 0
            };
            let shrunk = shrink(&plan, Some(plant), left).expect("it fails");
            assert!(shrunk.operations.1 <= 15, "{}: {:?}", plant.name(), shrunk.operations);
            let again = Scenario::parse(&shrunk.scenario.to_toml(), "shrunk").expect("it parses");
            assert_eq!(again.plan, shrunk.scenario.plan);
            match run_one(&again.plan, Some(plant)).verdict {
                Verdict::Violation(violation) => assert_eq!(reason(&violation), reason(&shrunk.violation)),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_passes_is_not_shrunk() {
        let plan = draw(1, "wal", true);
        assert_eq!(shrink(&plan, None, || true).err(), Some(NotShrunk::Passes));
    }
}
