//! The recovery rules that a run checks, by id.

use std::collections::BTreeSet;

use engine::txn::options::Sync;

use crate::{
    fault::Fault,
    plan::{CrashKind, End, Plan},
    workload::{Op, Step},
};

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invariant {
    /// Its id.
    pub id: &'static str,
    /// What it says, in one sentence.
    pub about: &'static str,
}

macro_rules! invariants {
    ($($id:literal $about:literal;)*) => {
        /// Those that the subjects are held against.
        pub const ALL: &[Invariant] = &[$(Invariant { id: $id, about: $about }),*];
    };
}

invariants! {
    "I1" "a crash leaves a prefix of what was issued, with all that was acknowledged Sync, ending between batches";
    "I1a" "after a process kill the prefix also holds all that was acknowledged Written";
    "I2" "recovered LSNs are consecutive, from the first one on";
    "I3" "every delivered record was issued, with this LSN and this content";
    "I4" "damage to what an intact statement calls durable is refused, or everything is delivered all the same";
    "I4a" "damage that touches nothing that is stated to be durable doesn't keep the log from opening";
    "I5" "an interrupted recovery, or a second one, delivers the same";
    "I6" "what recovery delivered survives every later crash";
    "I7" "what was acknowledged after a recovery survives together with what that recovery delivered";
    "I8" "after a failed write or sync nothing is acknowledged Sync that was not durable before";
    "I9" "at the moment of an acknowledgement the record survives a power cut at its worst";
    "I10" "no page is on the disk that has what the logs don't have there";
    "I11" "at every call of a checkpoint the disk holds a moment with all that was durable; so does a backup, or it is refused";
    "I12" "a transaction is there as a whole or not at all, in all tables and logs; what was taken back is nowhere";
    "I13" "after a crash every key has the last value that was committed to it, and tables are those of that moment";
    "I14" "recovered commits are a beginning of their order, with all that was acknowledged as durable";
    "I15" "an LSN that was durable or delivered never names another record; generations only grow";
    "I16" "under everysec what a crash takes is no older than a second and the syncs under way";
    "I17" "loading gives a prefix of the executed commands, each once, and no part of a unit";
    "I18" "a rewrite loses nothing, wherever it is cut off: its manifest names only what is durable";
    "I19" "the log's files hold what it accepted, byte for byte, each unit where its position says";
    "I20" "an undamaged log opens, in bounded steps, and serves again once faults end";
    "I21" "what was reported as definitely failed is nowhere, now and later";
    "I22" "after open the directory holds the live files, a bounded spare, and foreign files untouched";
    "I23" "jumps of the wall clock change nothing";
    "I24" "short, interrupted and failed reads are retried or reported, never taken for the end";
    "I25" "a refused open changes no byte";
    "I26" "the recovery report says what was recovered and what was left behind, where and how much";
    "I27" "what a transaction reads and writes over is what its isolation lets it see, its own writes first";
    "I28" "what committed transactions were told fits an order of them, as far as their isolation says so";
}

fn kills_or_cuts(plan: &Plan) -> bool {
    plan.lives.iter().any(|life| matches!(life.end, End::Crash(_)))
}

/// The rules that `plan` gives an occasion to check.
#[must_use]
pub fn applicable(plan: &Plan) -> BTreeSet<&'static str> {
    let kills = plan.lives.iter().any(|life| matches!(&life.end, End::Crash(crash) if crash.kind == CrashKind::Kill));
    let commands = matches!(plan.subject.as_str(), "aof" | "rewrite");
    let ops = || plan.lives.iter().flat_map(|life| &life.clients).flatten();
    ALL.iter()
        .map(|invariant| invariant.id)
        .filter(|id| match *id {
            "I16" => false,
            "I12" => plan.subject == "txn",
            "I13" | "I14" | "I27" | "I28" => ops().any(|op| matches!(op, Op::Txn(_))),
            "I10" => {
                plan.subject == "txn" && kills_or_cuts(plan) && plan.engine.txn.sync != Sync::NoSync && !plan.lies()
            }
            "I11" => ops().any(|op| matches!(op, Op::Txn(Step::Backup))),
            "I17" | "I19" => commands,
            "I18" => ops().any(|op| matches!(op, Op::Rewrite | Op::RewriteWait | Op::RewriteSoon | Op::Switch)),
            "I1a" => kills,
            "I4a" => plan.damage_checks > 0 && !plan.lies(),
            "I4" | "I5" | "I6" | "I7" | "I8" | "I22" | "I25" | "I9" => !plan.no_faults,
            "I23" => plan.machine.rates.contains_key(&Fault::WallJump),
            "I24" => [Fault::Eintr, Fault::EioRead, Fault::ShortRead]
                .iter()
                .any(|fault| plan.machine.rates.contains_key(fault)),
            _ => true,
        })
        .collect()
}
