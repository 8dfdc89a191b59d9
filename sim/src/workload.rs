//! Operations, as text both ways, and the generator that draws a plan from a seed.
//!
//! The generator is swarm-weighted: each seed switches a random part of the operations and faults on, with random
//! weights, so that rare combinations are not drowned by the average.

mod commands;
pub mod statement;
mod txn;

use std::{collections::BTreeMap, fmt, str::FromStr};

use crate::{
    disk::Keep,
    fault::Fault,
    plan::{At, CommandOptions, Crash, CrashKind, End, EngineOptions, Life, MachinePlan, Plan},
    prng::Prng,
};
pub use statement::{Level, Misuse, Step};

/// When an append is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Durable.
    Sync,
    /// With the operating system.
    Written,
    /// In memory.
    Buffered,
}

impl Class {
    const ALL: [(Class, &'static str); 3] =
        [(Class::Sync, "sync"), (Class::Written, "written"), (Class::Buffered, "buffered")];
}

/// Which of a client's own records is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The first.
    First,
    /// The last.
    Last,
    /// A drawn one.
    Random,
}

/// An operation of a client. [`fmt::Display`] and [`FromStr`] are each other's inverse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// `append BYTES CLASS`
    Append {
        /// Payload bytes.
        bytes: u64,
        /// Class.
        class: Class,
    },
    /// `batch COUNTxBYTES CLASS`
    Batch {
        /// Records.
        count: u64,
        /// Payload bytes of each.
        bytes: u64,
        /// Class.
        class: Class,
    },
    /// `append-too-large`: must be rejected.
    AppendTooLarge,
    /// `batch-empty`: must be rejected.
    BatchEmpty,
    /// `abandon BYTES CLASS`: an append whose caller goes away after a few polls.
    Abandon {
        /// Payload bytes.
        bytes: u64,
        /// Class.
        class: Class,
    },
    /// `sync`
    Sync,
    /// `wait`: until the client's last record is durable.
    Wait,
    /// `read first|last|random`
    Read(Which),
    /// `scan`
    Scan,
    /// `write COUNTxBYTES`: buffered, through the front end for one appender.
    Write {
        /// Records.
        count: u64,
        /// Payload bytes of each.
        bytes: u64,
    },
    /// `follow`: everything durable, as a reader that follows the log sees it.
    Follow,
    /// `truncate-front KEEP`: releases all but the last so many records.
    TruncateFront {
        /// Records that stay.
        keep: u64,
    },
    /// `truncate-back CUT`: removes the last so many records. For lives with one client.
    TruncateBack {
        /// Records that go.
        cut: u64,
    },
    /// `rewrite`: begins one, where the subject has it.
    Rewrite,
    /// `rewrite wait`: the same, and waits for its end.
    RewriteWait,
    /// `rewrite soon`: asks for one, and begins it when it is due.
    RewriteSoon,
    /// `switch`: switches the log off and on again, for the data that is in memory, where the subject has that.
    Switch,
    /// `pause MICROSECONDS`
    Pause {
        /// Engine microseconds.
        us: u64,
    },
    /// `tx STEP`, for a store.
    Txn(Step),
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Class::ALL.iter().find(|(class, _)| class == self).map_or("", |(_, name)| name))
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Append { bytes, class } => write!(f, "append {bytes} {class}"),
            Op::Batch { count, bytes, class } => write!(f, "batch {count}x{bytes} {class}"),
            Op::AppendTooLarge => f.write_str("append-too-large"),
            Op::BatchEmpty => f.write_str("batch-empty"),
            Op::Abandon { bytes, class } => write!(f, "abandon {bytes} {class}"),
            Op::Sync => f.write_str("sync"),
            Op::Wait => f.write_str("wait"),
            Op::Read(Which::First) => f.write_str("read first"),
            Op::Read(Which::Last) => f.write_str("read last"),
            Op::Read(Which::Random) => f.write_str("read random"),
            Op::Scan => f.write_str("scan"),
            Op::Write { count, bytes } => write!(f, "write {count}x{bytes}"),
            Op::Follow => f.write_str("follow"),
            Op::TruncateFront { keep } => write!(f, "truncate-front {keep}"),
            Op::TruncateBack { cut } => write!(f, "truncate-back {cut}"),
            Op::Rewrite => f.write_str("rewrite"),
            Op::RewriteWait => f.write_str("rewrite wait"),
            Op::RewriteSoon => f.write_str("rewrite soon"),
            Op::Switch => f.write_str("switch"),
            Op::Pause { us } => write!(f, "pause {us}"),
            Op::Txn(step) => write!(f, "tx {step}"),
        }
    }
}

impl Op {
    /// Whether the subject has it.
    #[must_use]
    pub fn is_for(&self, subject: &str) -> bool {
        let (wal, txn) = (subject == "wal", subject == "txn");
        match self {
            Op::Follow => wal,
            Op::Txn(_) => txn,
            Op::TruncateFront { .. } | Op::TruncateBack { .. } | Op::AppendTooLarge => wal || txn,
            Op::Read(_) | Op::Scan => wal || txn,
            Op::Switch => !wal && !txn,
            Op::Rewrite | Op::RewriteWait | Op::RewriteSoon => !wal,
            _ => true,
        }
    }
}

/// Words that an operation begins with, for suggestions.
pub const OP_WORDS: [&str; 17] = [
    "append",
    "batch",
    "append-too-large",
    "batch-empty",
    "abandon",
    "write",
    "sync",
    "wait",
    "read",
    "scan",
    "follow",
    "truncate-front",
    "truncate-back",
    "rewrite",
    "switch",
    "pause",
    "tx",
];

impl FromStr for Op {
    type Err = String;

    fn from_str(text: &str) -> Result<Op, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let class = |word: &str| {
            let found = Class::ALL.iter().find(|(_, name)| *name == word).map(|(class, _)| *class);
            found.ok_or_else(|| format!("'{word}' is no durability class; use sync, written or buffered"))
        };
        let number = |word: &str| word.parse::<u64>().map_err(|_| format!("'{word}' is not a number of bytes"));
        let sizes = |size: &str| {
            let (count, bytes) =
                size.split_once('x').ok_or_else(|| format!("'{size}' is not COUNTxBYTES, as in 3x50"))?;
            Ok::<_, String>((number(count)?, number(bytes)?))
        };
        match words.as_slice() {
            ["append", bytes, word] => Ok(Op::Append { bytes: number(bytes)?, class: class(word)? }),
            ["batch", size, word] => {
                let (count, bytes) = sizes(size)?;
                Ok(Op::Batch { count, bytes, class: class(word)? })
            }
            ["write", size] => sizes(size).map(|(count, bytes)| Op::Write { count, bytes }),
            ["follow"] => Ok(Op::Follow),
            ["truncate-front", keep] => Ok(Op::TruncateFront { keep: number(keep)? }),
            ["truncate-back", cut] => Ok(Op::TruncateBack { cut: number(cut)? }),
            ["append-too-large"] => Ok(Op::AppendTooLarge),
            ["batch-empty"] => Ok(Op::BatchEmpty),
            ["abandon", bytes, word] => Ok(Op::Abandon { bytes: number(bytes)?, class: class(word)? }),
            ["sync"] => Ok(Op::Sync),
            ["wait"] => Ok(Op::Wait),
            ["read", "first"] => Ok(Op::Read(Which::First)),
            ["read", "last"] => Ok(Op::Read(Which::Last)),
            ["read", "random"] => Ok(Op::Read(Which::Random)),
            ["scan"] => Ok(Op::Scan),
            ["rewrite"] => Ok(Op::Rewrite),
            ["rewrite", "wait"] => Ok(Op::RewriteWait),
            ["rewrite", "soon"] => Ok(Op::RewriteSoon),
            ["switch"] => Ok(Op::Switch),
            ["pause", us] => Ok(Op::Pause { us: number(us)? }),
            ["tx", ..] => text.trim().trim_start_matches("tx").parse().map(Op::Txn),
            [] => Err("an operation is empty".into()),
            [word, ..] => Err(match suggest(word, &OP_WORDS) {
                Some(near) if near == *word => format!("'{text}' has the wrong arguments for '{word}'"),
                Some(near) => format!("'{word}' is no operation; did you mean '{near}'?"),
                None => format!("'{word}' is no operation; there are: {}", OP_WORDS.join(", ")),
            }),
        }
    }
}

/// The nearest of `words`, if it is near enough to be meant.
#[must_use]
pub fn suggest<'a>(word: &str, words: &[&'a str]) -> Option<&'a str> {
    let distance = |other: &str| {
        let other: Vec<char> = other.chars().collect();
        let mut row: Vec<usize> = (0..=other.len()).collect();
        for (i, mine) in word.chars().take(64).enumerate() {
            let mut diagonal = row[0];
            row[0] = i + 1;
            for (j, theirs) in other.iter().enumerate() {
                let substitution = diagonal + usize::from(mine != *theirs);
                diagonal = row[j + 1];
                row[j + 1] = substitution.min(row[j] + 1).min(row[j + 1] + 1);
            }
        }
        row[other.len()]
    };
    let nearest = words.iter().map(|other| (distance(other), *other)).min()?;
    (nearest.0 <= 1 + word.len() / 3).then_some(nearest.1)
}

/// Draws the plan of a seed. A planted bug has no part in it, and `no_faults` changes nothing but what goes wrong.
#[must_use]
pub fn draw(seed: u64, subject: &str, no_faults: bool) -> Plan {
    if subject == "txn" {
        return txn::draw(seed, no_faults);
    }
    if subject != "wal" {
        return commands::draw(seed, subject, no_faults);
    }
    let prng = Prng::new(seed).fork("plan");
    let mut options = prng.fork("options");
    let segment_bytes = *options.pick(&[16 << 10, 16 << 10, 20 << 10, 32 << 10, 1 << 20]);
    let buffer_bytes = *options.pick(&[4 << 10, 16 << 10, 1 << 20]);
    let idle_us = *options.pick(&[1_000, 5_000, 1_000_000]);
    let synced_writes = options.chance(1, 4);
    let split_large = prng.fork("large").chance(1, 4);
    let engine = EngineOptions {
        segment_bytes,
        buffer_bytes,
        max_record_bytes: 1 << 20,
        idle_us,
        synced_writes,
        split_large,
        ..EngineOptions::default()
    };
    let sector_bytes = *options.pick(&[512, 512, 512, 4096]);
    let latency_us = *options.pick(&[(1, 1), (1, 50), (1, 50), (20, 400)]);
    let image_checks = *options.pick(&[1, 1, 3, 0]);

    let mut swarm = prng.fork("swarm");
    // (Slow syncs came after seeds were on record.)
    let (mut rates, lying) = draw_rates(&mut swarm, Fault::ALL.into_iter().filter(|fault| *fault != Fault::SlowSync));
    let weights = Weights::draw(&mut swarm);
    let mut space = prng.fork("space");
    let mut capacity_bytes = 0;
    if space.chance(1, 8) && !lying {
        // A disk that is really full: it stays so until something is removed.
        capacity_bytes = *space.pick(&[48 << 10, 64 << 10, 96 << 10, 192 << 10]);
        rates.remove(&Fault::Enospc);
    }
    let mut lives = Vec::new();
    for number in 0..1 + prng.fork("lives").below(4) {
        lives.push(draw_life(&prng.fork_nth("life", number), &weights, segment_bytes));
    }
    let mut plan = Plan {
        seed,
        subject: subject.into(),
        engine,
        machine: MachinePlan { sector_bytes, capacity_bytes, latency_us, rates },
        files: Vec::new(),
        lives,
        image_checks,
        damage_checks: *prng.fork("damage").pick(&[0, 0, 1, 4]),
        no_faults,
    };
    if no_faults {
        calm(&mut plan);
    }
    plan
}

/// Which of these faults are on, and how often they strike; and whether syncs lie, and nothing else goes wrong.
fn draw_rates(swarm: &mut Prng, faults: impl Iterator<Item = Fault>) -> (BTreeMap<Fault, u32>, bool) {
    let lying = swarm.chance(1, 32);
    let mut rates = BTreeMap::new();
    for fault in faults {
        let (on, rate) = (swarm.chance(1, 3), *swarm.pick(&[16, 32, 64, 128]));
        // Syncs are rarer than calls.
        let rate = if fault == Fault::SlowSync { rate / 8 } else { rate };
        if on && fault != Fault::LyingSync && !lying {
            rates.insert(fault, rate);
        }
    }
    if lying {
        rates.insert(Fault::LyingSync, *swarm.pick(&[1, 4, 16]));
    }
    (rates, lying)
}

/// Takes everything that goes wrong out of a plan.
pub fn calm(plan: &mut Plan) {
    plan.no_faults = true;
    plan.machine.rates.clear();
    plan.machine.capacity_bytes = 0;
    plan.image_checks = 0;
    plan.damage_checks = 0;
    for life in &mut plan.lives {
        life.opening.clear();
        life.faults.clear();
        life.damage.clear();
        life.end = End::Close;
    }
}

/// How likely each kind of operation is in this seed.
struct Weights {
    ops: Vec<(u64, Kind)>,
    classes: Vec<(u64, Class)>,
    big: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    Append,
    Batch,
    Rejected,
    Abandon,
    Sync,
    Wait,
    Read,
    Scan,
    Pause,
    Write,
    Follow,
    Front,
    Back,
}

impl Weights {
    fn draw(swarm: &mut Prng) -> Weights {
        let kinds = [
            (6, Kind::Append),
            (3, Kind::Batch),
            (1, Kind::Rejected),
            (2, Kind::Abandon),
            (2, Kind::Sync),
            (2, Kind::Wait),
            (2, Kind::Read),
            (1, Kind::Scan),
            (1, Kind::Pause),
            (1, Kind::Write),
            (1, Kind::Follow),
            (1, Kind::Front),
            (1, Kind::Back),
        ];
        let mut ops = vec![(4, Kind::Append)];
        for (weight, kind) in kinds {
            let (on, times) = (swarm.chance(2, 3), 1 + swarm.below(3));
            if on {
                ops.push((weight * times, kind));
            }
        }
        let mut classes = vec![(1, Class::Sync)];
        for (class, _) in Class::ALL {
            classes.push((swarm.below(4), class));
        }
        Weights { ops, classes, big: swarm.chance(1, 4) }
    }
}

fn weighted<T: Copy>(prng: &mut Prng, choices: &[(u64, T)], fallback: T) -> T {
    let mut at = prng.below(choices.iter().map(|(weight, _)| weight).sum::<u64>().max(1));
    for (weight, choice) in choices {
        if at < *weight {
            return *choice;
        }
        at -= weight;
    }
    fallback
}

fn draw_life(prng: &Prng, weights: &Weights, segment_bytes: u64) -> Life {
    let mut shape = prng.fork("shape");
    let clients = match shape.below(4) {
        0 => 1,
        1 => 2,
        2 => 4,
        _ => 1 + shape.below(8),
    };
    let ops = 4 + shape.below(24);
    let mut clients: Vec<Vec<Op>> = vec![Vec::new(); clients as usize];
    let mut draws = prng.fork("operations");
    for _ in 0..ops {
        let client = draws.below(clients.len() as u64) as usize;
        let op = match draw_op(&mut draws, weights, segment_bytes) {
            // Which record an LSN names is only clear to one client at a time.
            Op::TruncateBack { .. } if clients.len() > 1 => Op::Sync,
            op => op,
        };
        clients[client].push(op);
    }
    let mut crashes = prng.fork("crashes");
    let opening = match crashes.below(4) {
        0 => 1 + crashes.below(2),
        _ => 0,
    };
    let opening = (0..opening).map(|_| draw_crash(&mut crashes, 30, 5)).collect();
    let end = match crashes.below(8) {
        0 => End::Close,
        _ => End::Crash(draw_crash(&mut crashes, 12 + 4 * ops, 5)),
    };
    Life { clients, opening, end, ..Life::default() }
}

/// A crash within so many calls, or, one in `done`, when the clients have finished.
fn draw_crash(prng: &mut Prng, calls: u64, done: u64) -> Crash {
    let kind = if prng.chance(1, 3) { CrashKind::Kill } else { CrashKind::PowerCut };
    let at = if prng.chance(1, done) { At::Done } else { At::Io(1 + prng.below(calls)) };
    Crash { kind, at, keep: Keep::Draw }
}

fn draw_op(prng: &mut Prng, weights: &Weights, segment_bytes: u64) -> Op {
    let class = weighted(prng, &weights.classes, Class::Sync);
    let bytes = match prng.below(16) {
        0 => prng.below(4),
        1..=10 => 4 + prng.below(300),
        11..=13 => 300 + prng.below(3000),
        _ if weights.big && prng.chance(1, 3) => segment_bytes.min(64 << 10) + prng.below(8 << 10),
        _ => prng.below(6 << 10),
    };
    match weighted(prng, &weights.ops, Kind::Append) {
        Kind::Append => Op::Append { bytes, class },
        Kind::Batch => Op::Batch { count: 1 + prng.below(6), bytes: 4 + bytes.min(1500), class },
        Kind::Rejected if prng.chance(1, 2) => Op::BatchEmpty,
        Kind::Rejected => Op::AppendTooLarge,
        Kind::Abandon => Op::Abandon { bytes: bytes.max(8), class },
        Kind::Sync => Op::Sync,
        Kind::Wait => Op::Wait,
        Kind::Read => Op::Read(*prng.pick(&[Which::First, Which::Last, Which::Random])),
        Kind::Scan => Op::Scan,
        Kind::Pause if prng.chance(1, 4) => Op::Pause { us: 30_000 },
        Kind::Pause => Op::Pause { us: 1 + prng.below(2000) },
        Kind::Write => Op::Write { count: 1 + prng.below(20), bytes: bytes.clamp(8, 1500) },
        Kind::Follow => Op::Follow,
        Kind::Front => Op::TruncateFront { keep: prng.below(20) },
        Kind::Back => Op::TruncateBack { cut: prng.below(8) },
    }
}

/// The options of a plan, for people.
#[must_use]
pub fn drawn(plan: &Plan) -> Vec<(&'static str, String)> {
    let operations: usize = plan.lives.iter().flat_map(|life| &life.clients).map(Vec::len).sum();
    let clients: Vec<String> = plan.lives.iter().map(|life| life.clients.len().to_string()).collect();
    let rates: Vec<String> =
        plan.machine.rates.iter().map(|(fault, calls)| format!("{} 1/{calls}", fault.name())).collect();
    let CommandOptions {
        policy,
        ring_pages,
        ring_page_bytes,
        timestamps,
        checksums,
        no_sync_on_rewrite,
        keep_history,
        load_ahead,
        rewrite_sync_bytes,
    } = plan.engine.commands;
    let txn = plan.engine.txn;
    let of_logs = [
        ("segment_bytes", plan.engine.segment_bytes.to_string()),
        ("buffer_bytes", plan.engine.buffer_bytes.to_string()),
        ("idle_us", plan.engine.idle_us.to_string()),
    ];
    let mut drawn = if plan.subject == "wal" {
        let mut drawn = of_logs.to_vec();
        drawn.push(("synced_writes", plan.engine.synced_writes.to_string()));
        drawn
    } else if plan.subject == "txn" {
        let mut drawn = of_logs.to_vec();
        drawn.extend([
            ("logs", txn.logs.to_string()),
            ("sync", txn.sync.to_string()),
            ("sync_period_us", txn.sync_period_us.to_string()),
            ("sync_threshold", txn.sync_threshold.to_string()),
            (
                "visibility",
                txn.visibility.map_or("usual".into(), |visibility| format!("{visibility:?}").to_lowercase()),
            ),
            ("dirty_bytes", txn.dirty_bytes.to_string()),
            ("lob_bytes", txn.lob_bytes.to_string()),
            ("chunk_bytes", txn.chunk_bytes.to_string()),
            ("checkpoint_period_us", txn.checkpoint_period_us.to_string()),
            ("checkpoint_at_close", txn.checkpoint_at_close.to_string()),
            ("page_bytes", if txn.small_pages { "512" } else { "8192" }.into()),
        ]);
        drawn
    } else {
        vec![
            ("appendfsync", policy.to_string()),
            ("ring_pages", ring_pages.to_string()),
            ("ring_page_bytes", ring_page_bytes.to_string()),
            ("timestamps", timestamps.to_string()),
            ("checksums", checksums.to_string()),
            ("no_appendfsync_on_rewrite", no_sync_on_rewrite.to_string()),
            ("disable_auto_gc", keep_history.to_string()),
            ("load_ahead", load_ahead.to_string()),
            ("rewrite_sync_bytes", rewrite_sync_bytes.to_string()),
        ]
    };
    drawn.extend([
        ("split_large", plan.engine.split_large.to_string()),
        ("sector_bytes", plan.machine.sector_bytes.to_string()),
        (
            "capacity_bytes",
            match plan.machine.capacity_bytes {
                0 => "unlimited".into(),
                bytes => bytes.to_string(),
            },
        ),
        ("latency_us", format!("{}..={}", plan.machine.latency_us.0, plan.machine.latency_us.1)),
        ("lives", plan.lives.len().to_string()),
        ("clients", clients.join(",")),
        ("planned_operations", operations.to_string()),
        ("image_checks", if plan.image_checks == 0 { "off".into() } else { format!("1/{}", plan.image_checks) }),
        ("damage_checks", plan.damage_checks.to_string()),
        ("faults", if rates.is_empty() { "none".into() } else { rates.join(", ") }),
    ]);
    drawn
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn drawn_operations_read_back(seed: u64) {
            let plan = draw(seed, "wal", false);
            for op in plan.lives.iter().flat_map(|life| &life.clients).flatten() {
                prop_assert_eq!(op.to_string().parse::<Op>(), Ok(*op));
            }
        }

        #[test]
        fn any_text_is_an_operation_or_an_error(text: String) {
            let _ = text.parse::<Op>();
        }
    }

    #[test]
    fn without_faults_the_operations_are_the_same() {
        for seed in 0..50 {
            let (storm, calm) = (draw(seed, "wal", false), draw(seed, "wal", true));
            let ops = |plan: &Plan| plan.lives.iter().map(|life| life.clients.clone()).collect::<Vec<_>>();
            assert_eq!(ops(&storm), ops(&calm));
            assert_eq!(storm.engine, calm.engine);
        }
    }

    #[test]
    fn a_misspelt_operation_is_suggested() {
        assert!("apend 5 sync".parse::<Op>().is_err_and(|error| error.contains("did you mean 'append'")));
        assert!("append x sync".parse::<Op>().is_err_and(|error| error.contains("'x'")));
        assert!("append 5 durable".parse::<Op>().is_err_and(|error| error.contains("durability class")));
    }
}
