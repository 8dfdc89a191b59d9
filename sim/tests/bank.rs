//! The money of the example's bank is conserved through power cuts, and is not where a defect is planted.

#[path = "../examples/bank/bank.rs"]
mod bank;
#[path = "../examples/bank/simulated.rs"]
mod simulated;

use engine::plant::{Plant, Plants};

#[test]
fn money_is_conserved_through_power_cuts() {
    for seed in 1..=3 {
        let counts = simulated::run(seed, 300, Plants::default(), |_| {}).expect("nothing is lost");
        assert!(counts.in_recovery > 30 && counts.transfers > 3000 && counts.checkpoints > 50, "{counts:?}");
        assert_eq!(counts.crashes, 300);
    }
}

#[test]
fn a_bank_on_a_defective_store_loses_money_or_transfers() {
    for (plant, expected) in [
        // One log's half of a transfer is taken for the whole.
        (Plant::TxnMultishardNomarker, "in all accounts, not 2000"),
        (Plant::TxnLostUpdate, "in all accounts, not 2000"),
        // These lose transfers, or the store sees by itself that something is missing.
        (Plant::TxnAckOwnParts, ""),
        (Plant::CkptReleaseEarly, ""),
    ] {
        let wrong = simulated::run(42, 1000, Plants::only(plant), |_| {}).expect_err(plant.name());
        assert!(wrong.contains(expected), "{}: {wrong}", plant.name());
    }
}
