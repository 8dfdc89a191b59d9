//! Commits as another engine logs, syncs and recovers them: each of its faults shows where a power cut comes at the right call, and the
//! store has none of them at any.

use std::path::Path;

use engine::plant::Plant;
use sim::{
    campaign,
    disk::Keep,
    plan::{At, Crash, CrashKind, End},
    report::Verdict,
    scenario::Scenario,
};

/// Runs a scenario with its first life cut at each of so many calls, with several draws of what is kept. Returns how many of these
/// the model of the other engine fails.
fn cut_everywhere(name: &str, plant: Plant, calls: u64) -> usize {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/smoke").join(name);
    let scenario = Scenario::read(&path).unwrap();
    let mut failed = 0;
    for (io, seed) in (1..=calls).flat_map(|io| (1..=6).map(move |seed| (io, seed))) {
        let mut plan = scenario.plan.clone();
        plan.seed = seed;
        plan.lives[0].end = End::Crash(Crash { kind: CrashKind::PowerCut, at: At::Io(io), keep: Keep::Draw });
        let ours = campaign::run_here(&plan, None).verdict;
        assert_eq!(ours, Verdict::Pass, "{name}, seed {seed}, cut at call {io}");
        failed += usize::from(campaign::run_here(&plan, Some(plant)).verdict != Verdict::Pass);
    }
    failed
}

#[test]
fn a_transaction_of_rows_in_one_log_is_whole_wherever_it_is_cut() {
    let failed = cut_everywhere("l22_a_transaction_of_five_rows_is_one_record.toml", Plant::UpstreamL22Rows, 30);
    assert!(failed > 0);
}

#[test]
fn a_transaction_of_rows_in_two_logs_is_whole_wherever_it_is_cut() {
    let failed = cut_everywhere("l22_one_row_in_each_log_is_no_transaction.toml", Plant::UpstreamL22Rows, 30);
    assert!(failed > 0);
}

#[test]
fn a_transaction_that_was_cut_off_in_one_log_never_comes_back_in_the_other() {
    let file = "l22_a_later_number_is_no_proof_of_an_earlier_one.toml";
    assert!(cut_everywhere(file, Plant::UpstreamL22LastId, 70) > 0);
}

#[test]
fn what_is_acknowledged_while_a_checkpoint_begins_is_there_wherever_it_is_cut() {
    let file = "l25_a_capture_names_the_files_that_hold_the_records.toml";
    assert!(cut_everywhere(file, Plant::UpstreamL25LastSegment, 60) > 0);
}
