//! The simulator is measured by the bugs that it finds: each planted one, within a bounded number of seeds, by name.

use engine::plant::Plant;
use sim::{campaign, report::Verdict, subject::subject_of, workload::draw};

/// Plant, seeds within which it must be found, invariants that may name it.
const BUGS: &[(Plant, u64, &[&str])] = &[
    (Plant::WalSegNoDirsync, 60, &["I1", "I6", "I8", "I9", "I20"]),
    (Plant::WalRotateOldUnsynced, 60, &["I1", "I6", "I9"]),
    (Plant::WalAckInflightSync, 60, &["I1", "I6", "I8", "I9"]),
    (Plant::WalGroupFollowerOk, 60, &["I1", "I6", "I8", "I9", "I20"]),
    (Plant::WalFsyncRetryOk, 60, &["I1", "I6", "I8", "I9"]),
    (Plant::WalAppendAfterPartial, 60, &["I1", "I6", "I8", "I9"]),
    (Plant::WalReuseTornTail, 60, &["I1", "I6", "I9", "I22"]),
    (Plant::EnvLenNotSynced, 60, &["I1", "I6", "I9", "I20"]),
    (Plant::WalTrustOldSync, 60, &["I1", "I6", "I9", "I20"]),
    (Plant::WalExposeUnsynced, 60, &["I1", "I6", "I9"]),
    (Plant::WalRemoveBeforeCut, 60, &["I1", "I5", "I6", "I9", "I20"]),
    (Plant::WalSealBeforeSuccessor, 60, &["I1", "I6", "I9", "I20"]),
    (Plant::WalOrphanIsCorrupt, 600, &["I1", "I4a", "I6", "I9"]),
    (Plant::WalGenerationReuse, 60, &["I1", "I4", "I6", "I9"]),
    (Plant::WalErrorIsEnd, 60, &["I1", "I2", "I6", "I9", "I24"]),
    (Plant::WalPublishPresent, 60, &["I1", "I6", "I9"]),
    (Plant::WalMarkBeforeFiller, 320, &["I1", "I6", "I9", "I25"]),
    (Plant::WalRecycledStale, 60, &["I1", "I2", "I6", "I9", "I26"]),
    (Plant::WalMidlogTreatedAsTail, 60, &["I1", "I4", "I6", "I9"]),
    (Plant::WalContinuePastBadSegment, 60, &["I1", "I2", "I4", "I6", "I9"]),
    (Plant::WalIdleUnmarked, 213, &["I1", "I4", "I6", "I9"]),
    (Plant::WalDsyncRange, 60, &["I1", "I6", "I9"]),
    (Plant::WalCutInPlace, 60, &["I1", "I6", "I9", "I22"]),
    (Plant::WalCreateBeforeSeal, 654, &["I1", "I6", "I9", "I20", "I25"]),
    (Plant::WalLenNotChecksummed, 60, &["I3", "I4", "I4a"]),
    (Plant::WalRecycleBeforeFloor, 87, &["I1", "I2", "I6", "I9"]),
    (Plant::WalTruncateUnsynced, 60, &["I1", "I6", "I8", "I9"]),
];

/// The same for those of the command log, with the subject that shows them.
const COMMAND_BUGS: &[(&str, Plant, u64, &[&str])] = &[
    ("aof", Plant::AofRingFullDrops, 60, &["I1", "I6", "I9", "I16", "I19"]),
    ("aof", Plant::AofRingSlotFreedEarly, 60, &["I19"]),
    ("aof", Plant::AofEverysecIdleTail, 160, &["I16"]),
    ("aof", Plant::AofMultiTruncInside, 120, &["I1", "I5", "I6", "I7"]),
    ("aof", Plant::AofSyncPublishesPresent, 120, &["I1", "I6", "I9"]),
    ("aof", Plant::AofSyncErrorIgnored, 60, &["I1", "I6", "I8", "I9"]),
    ("aof", Plant::AofSkipFailedWrite, 60, &["I19"]),
    ("aof", Plant::AofTrustOldSync, 60, &["I1", "I6", "I9"]),
    ("aof", Plant::AofNamesUnsynced, 60, &["I1", "I6", "I9", "I20"]),
    ("aof", Plant::AofManifestTrusted, 120, &["I1", "I6", "I9"]),
    ("aof", Plant::AofNoChecksums, 60, &["I1", "I3", "I5", "I6", "I9", "I20"]),
    ("aof", Plant::AofManifestUnsynced, 60, &["I1", "I6", "I9", "I20"]),
    ("aof", Plant::AofFlushResets, 60, &["I1", "I1a", "I6", "I9", "I19"]),
    ("aof", Plant::AofUnitUnmarked, 120, &["I1"]),
    ("aof", Plant::AofAppendBehindTail, 60, &["I1", "I6", "I9"]),
    ("aof", Plant::AofSyncErrorForgiven, 60, &["I1", "I8", "I9"]),
    ("aof", Plant::AofReaderEndsLoad, 60, &["I1", "I1a", "I6", "I9"]),
    ("rewrite", Plant::AofSumsIgnored, 60, &["I1", "I3", "I4", "I5", "I6", "I9", "I20"]),
    ("rewrite", Plant::AofHeldBackDurable, 60, &["I1", "I6", "I9"]),
    ("rewrite", Plant::RewriteRenameNoDirsync, 60, &["I1", "I6", "I9", "I20"]),
    ("rewrite", Plant::RewriteNewincrOldUnsynced, 60, &["I1", "I6", "I9", "I20"]),
    ("rewrite", Plant::RewriteManifestInplace, 60, &["I1", "I6", "I9", "I20"]),
    ("rewrite", Plant::RewriteBaseUnsynced, 60, &["I1", "I6", "I9", "I20"]),
    ("rewrite", Plant::RewriteSelectForgotten, 240, &["I19"]),
    ("rewrite", Plant::RewriteBaseSyncIgnored, 2000, &["I1", "I6", "I9", "I20"]),
    ("rewrite", Plant::RewriteAheadTrusted, 240, &["I1", "I6", "I9", "I20"]),
    ("rewrite", Plant::RewriteHistoryFirst, 60, &["I1", "I6", "I9", "I20"]),
    ("txn", Plant::CkptPublishEarly, 60, &["I1", "I6", "I9", "I11", "I14", "I20"]),
    ("txn", Plant::CkptReleaseEarly, 60, &["I1", "I6", "I9", "I11", "I14", "I20"]),
    ("txn", Plant::CkptReleaseAll, 60, &["I1", "I6", "I9", "I11", "I14", "I20"]),
    ("txn", Plant::CkptReuseEarly, 120, &["I1", "I5", "I6", "I9", "I12", "I20", "I24"]),
    ("txn", Plant::CkptLoadUnsynced, 60, &["I1", "I6", "I9", "I11", "I14", "I20"]),
    ("txn", Plant::CkptReuseUnreleased, 1570, &["I4a"]),
    ("txn", Plant::CkptFallbackBlind, 120, &["I4", "I4a", "I12", "I13", "I14"]),
    ("txn", Plant::CkptChildUnchecked, 480, &["I4", "I12", "I13", "I14"]),
    ("txn", Plant::CkptCopyTrusted, 240, &["I1", "I6", "I9", "I11", "I14", "I20"]),
    ("txn", Plant::CkptAheadOfWal, 120, &["I10", "I27"]),
    ("txn", Plant::TxnMultishardNomarker, 60, &["I12", "I14"]),
    ("txn", Plant::TxnAckOwnParts, 240, &["I1", "I6", "I9", "I11", "I14", "I20"]),
    ("txn", Plant::TxnServiceForgottenLog, 240, &["I1", "I6", "I9", "I11", "I14", "I20"]),
    ("txn", Plant::TxnEpochForgotten, 60, &["I1", "I6", "I9", "I15", "I20"]),
    ("txn", Plant::TxnSavepointForward, 60, &["I12"]),
    ("txn", Plant::TxnPeriodUnbounded, 240, &["I16"]),
    ("txn", Plant::CkptReleaseLob, 240, &["I1", "I6", "I9", "I11", "I14", "I20"]),
    ("txn", Plant::TxnLobBehind, 1000, &["I1", "I6", "I9", "I14", "I20"]),
    ("txn", Plant::TxnLostUpdate, 60, &["I3", "I12", "I15", "I27"]),
    ("txn", Plant::TxnPhantom, 600, &["I27", "I28"]),
    ("txn", Plant::TxnWriteSkew, 960, &["I27", "I28"]),
    ("txn", Plant::TxnUnrepeatable, 480, &["I27"]),
    ("txn", Plant::TxnVisibleEarly, 60, &["I9", "I14"]),
    ("txn", Plant::TxnDropOneLog, 60, &["I1", "I13", "I20"]),
    ("txn", Plant::TxnReleasedIsMissing, 60, &["I1", "I6", "I9", "I14", "I20"]),
    ("txn", Plant::TxnReplayTwice, 60, &["I20", "I26"]),
    ("txn", Plant::TxnUndoLeavesInserts, 60, &["I12"]),
    ("txn", Plant::TxnIndexNotDerived, 60, &["I12", "I13", "I27"]),
    ("txn", Plant::TxnDeadlock, 120, &["I20"]),
    ("txn", Plant::BackupUnpinned, 120, &["I11"]),
    ("txn", Plant::BackupRootFirst, 60, &["I11"]),
    ("txn", Plant::UpstreamL22Rows, 360, &["I12", "I14"]),
    ("txn", Plant::UpstreamL22LastId, 240, &["I12", "I14"]),
    ("txn", Plant::UpstreamL25LastSegment, 60, &["I1", "I6", "I8", "I9", "I14", "I20"]),
];

/// Too rare for a bounded search: a stored scenario shows each of them instead.
const BY_SCENARIO: &[Plant] = &[
    Plant::WalOverlappingSyncs,
    Plant::WalSparesOutOfOrder,
    Plant::WalFloorBeforeSync,
    Plant::WalTruncateWithoutWitness,
    Plant::AofSecondReadTrusted,
    Plant::AofOnePagePerTick,
    Plant::AofIgnoreRdb,
    Plant::AofUpgradeRemovesFirst,
    Plant::AofEnableDurable,
    Plant::AofEnableUnsynced,
    Plant::RewriteMarksAgain,
    Plant::TxnPruneLive,
    Plant::TxnEpochBeforeEstablish,
    Plant::CkptLoadNameless,
];

/// Shown by a test: in a recovery mode that the simulator doesn't use, at a first switching on, or as a bound of what is in memory.
const BY_TEST: &[Plant] = &[
    Plant::WalAbsoluteTolerates,
    Plant::AofEnableNamesFirst,
    Plant::TxnPendingUnbounded,
    Plant::TxnMemoryUnbounded,
    Plant::CkptBlockLost,
    Plant::TxnCopyDeaf,
];

/// A log that is closed and opened again is enough: the stale start of a recycled spare passes, or the chain's order is wrong.
/// And a ring may be full on a good day, and something come in while a page is written.
/// A backup is looked at as a power cut would leave it, and isolation needs no crash.
const NEEDS_NO_FAULT: &[Plant] = &[
    Plant::WalRecycledStale,
    Plant::WalSparesOutOfOrder,
    Plant::AofRingFullDrops,
    Plant::AofFlushResets,
    Plant::AofReaderEndsLoad,
    Plant::CkptAheadOfWal,
    Plant::CkptPublishEarly,
    Plant::CkptReleaseAll,
    Plant::CkptReuseEarly,
    Plant::CkptReleaseLob,
    Plant::TxnEpochForgotten,
    Plant::TxnSavepointForward,
    Plant::TxnLostUpdate,
    Plant::TxnPhantom,
    Plant::TxnWriteSkew,
    Plant::TxnUnrepeatable,
    Plant::TxnVisibleEarly,
    Plant::TxnPruneLive,
    Plant::TxnMultishardNomarker,
    Plant::TxnDropOneLog,
    Plant::TxnReleasedIsMissing,
    Plant::TxnReplayTwice,
    Plant::TxnUndoLeavesInserts,
    Plant::TxnIndexNotDerived,
    Plant::TxnDeadlock,
    Plant::BackupUnpinned,
    Plant::BackupRootFirst,
];

#[test]
fn each_planted_bug_is_found_within_its_seeds_and_named() {
    let wal = BUGS.iter().map(|(plant, within, named)| ("wal", plant, within, named));
    let mut wrong = Vec::new();
    for (subject, plant, within, named) in wal.chain(COMMAND_BUGS.iter().map(|(a, b, c, d)| (*a, b, c, d))) {
        assert_eq!(subject_of(*plant), subject, "{}", plant.name());
        let found = campaign::run(1..within + 1, Some(*plant), |seed| draw(seed, subject, false), |_| {});
        let reached = found.total.as_ref().and_then(|total| total.reached.get(plant.name()).copied()).unwrap_or(0);
        let name = plant.name();
        match found.failures.first().map(|first| (first.seed, &first.verdict)) {
            None => wrong.push(format!("{name} was reached {reached} times, and not found within {within} seeds")),
            Some((_, Verdict::Violation(violation))) if named.contains(&violation.invariant) => {}
            Some((seed, verdict)) => wrong.push(format!("{name} seed {seed}: {verdict:?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_planted_bug_is_searched_or_has_a_scenario() {
    for plant in Plant::ALL {
        let searched =
            BUGS.iter().any(|(bug, ..)| bug == plant) || COMMAND_BUGS.iter().any(|(_, bug, ..)| bug == plant);
        let shown = [searched, BY_SCENARIO.contains(plant), BY_TEST.contains(plant)];
        assert_eq!(shown.iter().filter(|shown| **shown).count(), 1, "{}", plant.name());
    }
}

#[test]
fn without_faults_no_planted_bug_shows() {
    for plant in Plant::ALL.iter().filter(|plant| !NEEDS_NO_FAULT.contains(plant)) {
        let subjects: &[&str] = match subject_of(*plant) {
            "aof" | "rewrite" => &["aof", "rewrite"],
            "txn" => &["txn"],
            _ => &["wal"],
        };
        for subject in subjects {
            let calm = campaign::run(1..501, Some(*plant), |seed| draw(seed, subject, true), |_| {});
            assert_eq!((calm.runs, calm.failed), (500, 0), "{}: {:?}", plant.name(), calm.failures.first());
        }
    }
}

#[test]
fn without_a_plant_no_seed_fails_and_nothing_stays_unchecked() {
    for subject in ["wal", "aof", "rewrite", "txn"] {
        let storm = campaign::run(1..2001, None, |seed| draw(seed, subject, false), |_| {});
        assert_eq!((storm.runs, storm.failed), (2000, 0), "{:?}", storm.failures.first());
        let Some(total) = storm.total else { panic!("{subject}: nothing ran") };
        assert_eq!(total.never(), Vec::<String>::new(), "{subject}");
        assert!(subject == "wal" || total.checked.get("I16").is_some_and(|count| *count > 10), "{:?}", total.checked);
    }
}

/// The absolute mode refuses a log that was not closed; the planted bug opens it.
#[test]
fn the_absolute_mode_is_held_by_its_planted_bug() {
    use engine::{
        env::{OsEnv, block_on},
        plant::Plants,
        wal::{Durability, OpenError, Options, RecoveryMode, Wal},
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let (wal, _) = block_on(Wal::open(OsEnv, &path, Options::new())).unwrap();
    block_on(wal.append("one", Durability::Sync)).unwrap();
    drop(wal);
    let absolute = Options::new().recovery(RecoveryMode::Absolute);
    let refused = block_on(Wal::open(OsEnv, &path, absolute.clone()));
    assert!(matches!(refused, Err(OpenError::Unclean { .. })), "{refused:?}");
    let planted = absolute.plants(Plants::only(Plant::WalAbsoluteTolerates));
    assert!(block_on(Wal::open(OsEnv, &path, planted)).is_ok(), "the bug shows");
}
