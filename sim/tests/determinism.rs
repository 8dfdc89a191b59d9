//! One seed, one trace hash: twice in one process, in two processes, on a thread that ran others before, and whatever bug
//! is planted the draw is the same.

use std::process::Command;

use engine::plant::Plant;
use sim::{
    campaign::{run_here, run_one},
    workload::draw,
};

const SEEDS: [u64; 6] = [1, 7, 42, 410, 979, u64::MAX];

#[test]
fn the_same_seed_gives_the_same_hash_twice_in_one_process() {
    for (seed, subject) in
        SEEDS.into_iter().flat_map(|seed| ["wal", "aof", "rewrite", "txn"].map(|subject| (seed, subject)))
    {
        let plan = draw(seed, subject, false);
        assert_eq!(run_one(&plan, None).trace_hash, run_one(&plan, None).trace_hash, "{subject} seed {seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_hash_in_another_process() {
    for seed in SEEDS {
        let output = Command::new(env!("CARGO_BIN_EXE_sim"))
            .args(["--json", "--seed", &seed.to_string()])
            .output()
            .expect("the simulator runs");
        let text = String::from_utf8(output.stdout).expect("text");
        let here = format!("\"trace_hash\":\"{:016x}\"", run_one(&draw(seed, "wal", false), None).trace_hash);
        assert!(text.contains(&here), "seed {seed}: {text} has not {here}");
    }
}

#[test]
fn the_same_seed_gives_the_same_outcome_on_a_thread_that_ran_others() {
    for (seed, subject) in (1..200).flat_map(|seed| ["wal", "aof", "txn"].map(|subject| (seed, subject))) {
        let plan = draw(seed, subject, false);
        for plant in [None, Some(Plant::WalSegNoDirsync)] {
            let (here, fresh) = (run_here(&plan, plant), run_one(&plan, plant));
            assert_eq!((here.trace_hash, &here.verdict), (fresh.trace_hash, &fresh.verdict), "seed {seed}");
        }
    }
}

#[test]
fn different_seeds_give_different_hashes() {
    let hashes: std::collections::BTreeSet<u64> =
        (0..50).map(|seed| run_one(&draw(seed, "wal", false), None).trace_hash).collect();
    assert_eq!(hashes.len(), 50);
}

#[test]
fn a_planted_bug_that_is_never_reached_changes_nothing() {
    let mut unreached = 0;
    for seed in 1..100 {
        let plan = draw(seed, "wal", false);
        let planted = run_one(&plan, Some(Plant::WalFsyncRetryOk));
        if planted.reached.values().sum::<u64>() == 0 {
            unreached += 1;
            assert_eq!(planted.trace_hash, run_one(&plan, None).trace_hash, "seed {seed}");
        }
    }
    assert!(unreached > 10, "{unreached}");
}
