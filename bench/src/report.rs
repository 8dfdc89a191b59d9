//! What came of it: medians with minimum and maximum, and goals.

use serde_json::json;

use crate::{
    case::{CASES, Case},
    child::Figures,
    goal::{Against, GOALS, Goal, Limit},
    peer,
    run::{Outcome, Plan},
};

/// A durable commit of one thread needs a flush of its own; what a burst of others' may hide is left out.
const FLUSHES_PER_COMMIT: f64 = 0.95;

/// Values of all repeats.
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Spread { median, min, max })
    }
}

pub fn print(plan: &Plan, outcome: &Outcome, as_json: bool) {
    let sizes = plan.sizes;
    let (before, after) = &outcome.load;
    if as_json {
        let load = json!({ "before": before, "after": after });
        println!("{}", json!({ "repeats": plan.repeats, "sizes": sizes, "load": load, "failed": outcome.failed }));
    } else {
        let (keys, cache) = (grouped(sizes.keys as f64), sizes.cache_bytes >> 20);
        println!("{keys} keys, cache {cache} MiB, {} repeats; load before {before}, after {after}", plan.repeats);
    }
    for case in CASES {
        let rows = || case.contestants().filter_map(|name| Some((name, outcome.spread(case, name)?)));
        if rows().next().is_none() {
            continue;
        }
        if !as_json {
            println!(
                "\n{}: {}\n{:<12}{:>14}{:>14}{:>14}  {}",
                case.name, case.measures, "", "median", "min", "max", case.figure
            );
        }
        for (name, spread) in rows() {
            let others = outcome.others(case, name);
            let durable = outcome.is_durable(case, name);
            let Spread { median, min, max } = spread;
            if as_json {
                let line = json!({
                    "case": case.name, "peer": name, "figure": case.figure, "median": median, "min": min, "max": max,
                    "others": others, "durable": durable,
                });
                println!("{line}");
            } else {
                let others: Vec<String> =
                    others.iter().map(|(name, value)| format!("{name} {}", short(*value))).collect();
                let verdict = if durable == Some(false) { " NOT DURABLE, not compared" } else { "" };
                let [median, min, max] = [median, min, max].map(short);
                println!("{name:<12}{median:>14}{min:>14}{max:>14}  {}{verdict}", others.join(", "));
            }
        }
    }
    if !as_json {
        println!("\n{:<22}{:<34}{:>10}{:>26}  verdict", "goal", "beside", "median", "(min to max)");
    }
    for goal in GOALS {
        print_goal(outcome, goal, as_json);
    }
}

fn print_goal(outcome: &Outcome, goal: &Goal, as_json: bool) {
    let Some((beside, spread)) = outcome.compare(goal) else { return };
    let Spread { median, min, max } = spread;
    let (met, limit) = match goal.limit {
        Limit::AtLeast(limit) => (median >= limit, format!("at least {}", short(limit))),
        Limit::AtMost(limit) => (median <= limit, format!("at most {}", short(limit))),
    };
    if as_json {
        let line = json!({
            "goal": goal.case, "beside": beside, "median": median, "min": min, "max": max, "limit": limit, "met": met,
        });
        println!("{line}");
    } else {
        let range = format!("({} to {})", short(min), short(max));
        let met = if met { "met" } else { "missed" };
        println!("{:<22}{beside:<34}{:>10}{range:>26}  {limit}: {met}", goal.case, short(median));
    }
}

impl Outcome {
    fn repeats(&self, case: &str, name: &str) -> impl Iterator<Item = Option<&Figures>> {
        let found = self.measured.iter().find(|((of, who), _)| (*of, *who) == (case, name));
        found.into_iter().flat_map(|(_, repeats)| repeats.iter().map(Option::as_ref))
    }

    fn figure(&self, case: &str, name: &str, figure: &str) -> Vec<f64> {
        self.repeats(case, name).filter_map(|figures| figures?.get(figure).copied()).collect()
    }

    fn spread(&self, case: &Case, name: &str) -> Option<Spread> {
        Spread::of(self.figure(case.name, name, case.figure))
    }

    /// The medians of what was measured beside it.
    fn others(&self, case: &Case, name: &str) -> Figures {
        let names = self.repeats(case.name, name).flatten().flat_map(Figures::keys);
        let names: std::collections::BTreeSet<&String> = names.filter(|name| *name != case.figure).collect();
        let median = |figure: &String| Some((figure.clone(), Spread::of(self.figure(case.name, name, figure))?.median));
        names.into_iter().filter_map(median).collect()
    }

    /// Whether each commit had a flush; `None` where nobody can say.
    fn is_durable(&self, case: &Case, name: &str) -> Option<bool> {
        if case.name != "durable-1" {
            return None;
        }
        let flushes = Spread::of(self.figure(case.name, name, "flushes/commit"))?;
        Some(flushes.median >= FLUSHES_PER_COMMIT)
    }

    /// Ours beside what the goal names: the ratio of each repeat. A peer that isn't durable where it should be isn't compared.
    fn compare(&self, goal: &Goal) -> Option<(String, Spread)> {
        let case = CASES.iter().find(|case| case.name == goal.case)?;
        let best = |names: &[&'static str]| {
            let durable = CASES.iter().find(|case| case.name == "durable-1")?;
            let honest = |name: &&&'static str| {
                !case.name.starts_with("durable") || self.is_durable(durable, name) != Some(false)
            };
            let medians = names.iter().filter(honest).filter_map(|name| Some((*name, self.spread(case, name)?.median)));
            medians.max_by(|one, other| one.1.total_cmp(&other.1)).map(|(name, _)| name)
        };
        let (label, other) = match goal.against {
            Against::Nobody => (String::new(), None),
            Against::Raw => ("the raw loop".to_owned(), Some("raw")),
            Against::Best => {
                let name = best(peer::PEERS)?;
                (format!("best peer: {name}"), Some(name))
            }
            Against::BestOf(label, names) => {
                let name = best(names)?;
                (format!("{label}: {name}"), Some(name))
            }
        };
        let ours = self.repeats(case.name, "seawall").map(|figures| figures?.get(case.figure).copied());
        let ratios = match other {
            None => ours.flatten().collect(),
            Some(name) => {
                let theirs = self.repeats(case.name, name).map(|figures| figures?.get(case.figure).copied());
                ours.zip(theirs).filter_map(|(ours, theirs)| Some(ours? / theirs?)).collect()
            }
        };
        Some((label, Spread::of(ratios)?))
    }
}

/// Whole numbers from a hundred on.
fn short(value: f64) -> String {
    if value >= 100.0 { grouped(value) } else { format!("{value:.2}") }
}

/// With a comma between thousands.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        let of = |values: &[f64]| Spread::of(values.to_vec()).map(|spread| (spread.median, spread.min, spread.max));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some((2.0, 1.0, 3.0)));
        assert_eq!(of(&[4.0, 1.0, 2.0, 3.0]), Some((2.5, 1.0, 4.0)));
    }

    #[test]
    fn thousands_are_told_apart() {
        assert_eq!([1.0, 100.0, 1000.0, 1234567.0].map(short), ["1.00", "100", "1,000", "1,234,567"]);
    }
}
