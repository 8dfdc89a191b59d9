//! The simulator is measured by the bugs that it finds: each planted one, within a bounded number of seeds, by name.

use engine::plant::Plant;
use sim::{campaign, report::Verdict, workload::draw};

/// Plant, seeds within which it must be found, invariants that may name it.
const BUGS: &[(Plant, u64, &[&str])] = &[
    (Plant::WalSegNoDirsync, 20, &["I1", "I6", "I8", "I9", "I15", "I20"]),
    (Plant::WalRotateOldUnsynced, 40, &["I1", "I2", "I6", "I8", "I9", "I20"]),
    (Plant::WalAckInflightSync, 100, &["I8", "I9"]),
    (Plant::WalGroupFollowerOk, 60, &["I1", "I6", "I8", "I20", "I21"]),
    (Plant::WalFsyncRetryOk, 200, &["I1", "I6", "I8"]),
    (Plant::WalAppendAfterPartial, 100, &["I1", "I7", "I8"]),
    (Plant::WalReuseTornTail, 100, &["I1", "I6", "I7", "I9", "I15", "I20", "I22"]),
    (Plant::EnvLenNotSynced, 20, &["I1", "I6", "I7", "I8", "I9"]),
    (Plant::WalTrustOldSync, 100, &["I1", "I6", "I9", "I20", "I25"]),
    (Plant::WalExposeUnsynced, 40, &["I1", "I6", "I9", "I20", "I25"]),
    (Plant::WalRemoveBeforeCut, 100, &["I1", "I5", "I6", "I7", "I20"]),
    (Plant::WalSealBeforeSuccessor, 200, &["I1", "I4", "I8", "I20"]),
    (Plant::WalOrphanIsCorrupt, 500, &["I1", "I20"]),
    (Plant::WalGenerationReuse, 20, &["I1", "I6", "I8", "I9", "I15", "I20"]),
    (Plant::WalErrorIsEnd, 300, &["I1", "I6", "I9", "I20", "I24"]),
    (Plant::WalPublishPresent, 100, &["I1", "I8", "I9"]),
    (Plant::WalMarkBeforeFiller, 1500, &["I1", "I6", "I9", "I20", "I25"]),
];

/// Too rare for a bounded search: a stored regression shows each of them instead.
const BY_SCENARIO: &[Plant] = &[Plant::WalOverlappingSyncs];

#[test]
fn each_planted_bug_is_found_within_its_seeds_and_named() {
    for (plant, within, named) in BUGS {
        let found = campaign::run(1..within + 1, Some(*plant), |seed| draw(seed, "wal", false), |_| {});
        let reached = found.total.as_ref().and_then(|total| total.reached.get(plant.name()).copied());
        assert!(reached.unwrap_or(0) > 0, "{} was never reached", plant.name());
        let first =
            found.failures.first().unwrap_or_else(|| panic!("{} was not found within {within} seeds", plant.name()));
        match &first.verdict {
            Verdict::Violation(violation) => {
                assert!(named.contains(&violation.invariant), "{} seed {}: {violation:?}", plant.name(), first.seed);
            }
            other => panic!("{} seed {}: {other:?}", plant.name(), first.seed),
        }
    }
}

#[test]
fn every_planted_bug_is_searched_or_has_a_scenario() {
    for plant in Plant::ALL {
        let searched = BUGS.iter().any(|(bug, ..)| bug == plant);
        assert_ne!(searched, BY_SCENARIO.contains(plant), "{}", plant.name());
    }
}

#[test]
fn without_faults_no_planted_bug_shows() {
    for plant in Plant::ALL {
        let calm = campaign::run(1..501, Some(*plant), |seed| draw(seed, "wal", true), |_| {});
        assert_eq!((calm.runs, calm.failed), (500, 0), "{}: {:?}", plant.name(), calm.failures.first());
    }
}

#[test]
fn without_a_plant_no_seed_fails_and_nothing_stays_unchecked() {
    let storm = campaign::run(1..2001, None, |seed| draw(seed, "wal", false), |_| {});
    assert_eq!((storm.runs, storm.failed), (2000, 0), "{:?}", storm.failures.first());
    assert_eq!(storm.total.map(|total| total.never()), Some(Vec::new()));
}
