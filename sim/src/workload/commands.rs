//! Plans for a command log: `aof`, and `rewrite`, which is the same with many rewrites.

use crate::{
    fault::Fault,
    plan::{CommandOptions, CrashKind, End, EngineOptions, Life, MachinePlan, Plan, Policy},
    prng::Prng,
};

use super::{Class, Op, calm, draw_crash, draw_rates, weighted};

/// Draws the plan of a seed.
pub(super) fn draw(seed: u64, subject: &str, no_faults: bool) -> Plan {
    let prng = Prng::new(seed).fork(subject);
    let mut options = prng.fork("options");
    let (policy, _) = *options.pick(&Policy::ALL);
    let commands = CommandOptions {
        policy,
        ring_pages: *options.pick(&[2, 3, 8]),
        ring_page_bytes: *options.pick(&[16, 200, 1 << 10, 64 << 10]),
        timestamps: options.chance(1, 4),
        checksums: !prng.fork("plain").chance(1, 8),
        no_sync_on_rewrite: prng.fork("held back").chance(1, 6),
        keep_history: prng.fork("history").chance(1, 8),
        load_ahead: prng.fork("ahead").chance(1, 3),
        rewrite_sync_bytes: *prng.fork("base syncs").pick(&[64, 4 << 20, 4 << 20]),
    };
    let engine = EngineOptions { split_large: options.chance(1, 3), commands, ..EngineOptions::default() };
    let sector_bytes = *options.pick(&[512, 512, 4096]);
    let latency_us = *options.pick(&[(1, 1), (1, 50), (20, 400)]);
    let image_checks = *options.pick(&[1, 1, 3, 0]);

    let mut swarm = prng.fork("swarm");
    let (mut rates, lying) = draw_rates(&mut swarm, Fault::ALL.into_iter());
    let mut weights = vec![(4, Kind::Append)];
    let rewrites = if subject == "rewrite" { 4 } else { 1 };
    for (weight, kind) in [
        (6, Kind::Append),
        (3, Kind::Batch),
        (1, Kind::Rejected),
        (2, Kind::Abandon),
        (2, Kind::Sync),
        (2, Kind::Wait),
        (2, Kind::Pause),
        (1, Kind::Write),
        (rewrites, Kind::Rewrite),
    ] {
        let (on, times) = (swarm.chance(2, 3), 1 + swarm.below(3));
        if on || subject == "rewrite" && kind == Kind::Rewrite {
            weights.push((weight * times, kind));
        }
    }
    if prng.fork("switch").chance(1, 4) {
        weights.push((2, Kind::Switch));
    }
    let mut classes = vec![(1, Class::Written)];
    for (class, _) in Class::ALL {
        classes.push((swarm.below(4), class));
    }
    let mut capacity_bytes = 0;
    let mut space = prng.fork("space");
    if space.chance(1, 12) && !lying {
        capacity_bytes = *space.pick(&[16 << 10, 32 << 10, 64 << 10]);
        rates.remove(&Fault::Enospc);
    }
    let lives = (0..1 + prng.fork("lives").below(4))
        .map(|number| draw_life(&prng.fork_nth("life", number), &weights, &classes))
        .collect();
    let mut plan = Plan {
        seed,
        subject: subject.into(),
        engine,
        machine: MachinePlan { sector_bytes, capacity_bytes, latency_us, rates },
        files: Vec::new(),
        lives,
        image_checks,
        damage_checks: 0,
        no_faults,
    };
    if !commands.checksums {
        // Plain commands prove nothing about what a disk kept.
        plan.image_checks = 0;
        plan.machine.capacity_bytes = 0;
        for fault in [Fault::EioSync, Fault::EioDirSync, Fault::LyingSync, Fault::Enospc] {
            plan.machine.rates.remove(&fault);
        }
        let opening = plan.lives.iter_mut().flat_map(|life| &mut life.opening);
        opening.for_each(|crash| crash.kind = CrashKind::Kill);
        for life in &mut plan.lives {
            if let End::Crash(crash) = &mut life.end {
                crash.kind = CrashKind::Kill;
            }
        }
    }
    if no_faults {
        calm(&mut plan);
    }
    plan
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Append,
    Batch,
    Rejected,
    Abandon,
    Sync,
    Wait,
    Pause,
    Write,
    Rewrite,
    Switch,
}

fn draw_life(prng: &Prng, weights: &[(u64, Kind)], classes: &[(u64, Class)]) -> Life {
    let mut shape = prng.fork("shape");
    let clients = *shape.pick(&[1, 1, 2, 4]);
    let ops = 4 + shape.below(20);
    let mut clients: Vec<Vec<Op>> = vec![Vec::new(); clients];
    let mut draws = prng.fork("operations");
    for _ in 0..ops {
        let client = draws.below(clients.len() as u64) as usize;
        let op = draw_op(&mut draws, weights, classes);
        clients[client].push(op);
    }
    let mut crashes = prng.fork("crashes");
    let opening = if crashes.chance(1, 4) { 1 + crashes.below(2) } else { 0 };
    let opening = (0..opening).map(|_| draw_crash(&mut crashes, 20, 4)).collect();
    let end = match crashes.below(8) {
        0 => End::Close,
        _ => End::Crash(draw_crash(&mut crashes, 8 + 3 * ops, 4)),
    };
    Life { clients, opening, end, ..Life::default() }
}

fn draw_op(prng: &mut Prng, weights: &[(u64, Kind)], classes: &[(u64, Class)]) -> Op {
    let class = weighted(prng, classes, Class::Written);
    let bytes = match prng.below(16) {
        0 => prng.below(4),
        1..=12 => 8 + prng.below(100),
        13 | 14 => 100 + prng.below(2000),
        _ => prng.below(80 << 10),
    };
    match weighted(prng, weights, Kind::Append) {
        Kind::Append => Op::Append { bytes, class },
        Kind::Batch => Op::Batch { count: 1 + prng.below(5), bytes: 8 + bytes.min(700), class },
        Kind::Rejected => Op::BatchEmpty,
        Kind::Abandon => Op::Abandon { bytes: bytes.max(8), class },
        Kind::Sync => Op::Sync,
        Kind::Wait => Op::Wait,
        Kind::Pause => Op::Pause { us: *prng.pick(&[100, 2_000, 1_500_000, 3_000_000]) },
        Kind::Write => Op::Write { count: 1 + prng.below(20), bytes: bytes.clamp(8, 700) },
        Kind::Rewrite => *prng.pick(&[Op::Rewrite, Op::RewriteWait, Op::RewriteSoon]),
        Kind::Switch => Op::Switch,
    }
}
