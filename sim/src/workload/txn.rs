//! Plans for the store of transactions.

use engine::txn::{Visibility, options::Sync};

use crate::{
    fault::Fault,
    plan::{End, EngineOptions, Life, MachinePlan, Plan, TxnOptions},
    prng::Prng,
};

use super::{
    Class, Level, Misuse, Op, Step, Which, calm, draw_crash, draw_rates,
    statement::{INDEX, LOADED, MEMORY},
    weighted,
};

/// A quarter of the cache, which is as small as can be.
const LARGEST_VALUE: u64 = 64 << 10;

/// Draws the plan of a seed.
pub(super) fn draw(seed: u64, no_faults: bool) -> Plan {
    let prng = Prng::new(seed).fork("txn");
    let engine = draw_options(&prng);
    let mut machine = prng.fork("machine");
    let sector_bytes = *machine.pick(&[512, 512, 4096]);
    let latency_us = *machine.pick(&[(1, 1), (1, 50), (20, 400)]);
    let image_checks = *machine.pick(&[1, 1, 3, 0]);

    let mut swarm = prng.fork("swarm");
    let (rates, _) = draw_rates(&mut swarm, Fault::ALL.into_iter());
    let mut weights = vec![(4, Kind::Append)];
    for (weight, kind) in [
        (6, Kind::Append),
        (3, Kind::Batch),
        (1, Kind::Rejected),
        (2, Kind::Abandon),
        (2, Kind::Sync),
        (2, Kind::Wait),
        (2, Kind::Read),
        (1, Kind::Scan),
        (2, Kind::Pause),
        (1, Kind::Write),
        (1, Kind::Front),
        (1, Kind::Back),
        (3, Kind::Checkpoint),
    ] {
        let (on, times) = (swarm.chance(2, 3), 1 + swarm.below(3));
        if on {
            weights.push((weight * times, kind));
        }
    }
    let mut classes = vec![(1, Class::Written)];
    for (class, _) in Class::ALL {
        classes.push((swarm.below(4), class));
    }
    let lives = 1 + prng.fork("lives").below(4);
    let habits = Habits::draw(&mut prng.fork("habits"));
    let lives = (0..lives)
        .map(|number| {
            let prng = prng.fork_nth("life", number);
            let mut life = draw_life(&prng, &weights, &classes);
            habits.give_steps(&mut life, &mut prng.fork("steps"));
            give_load(&mut life, &mut prng.fork("load"));
            life
        })
        .collect();
    let mut plan = Plan {
        seed,
        subject: "txn".into(),
        engine,
        machine: MachinePlan { sector_bytes, capacity_bytes: 0, latency_us, rates },
        files: Vec::new(),
        lives,
        image_checks,
        damage_checks: 0,
        no_faults,
    };
    if no_faults {
        calm(&mut plan);
    }
    plan
}

fn draw_options(prng: &Prng) -> EngineOptions {
    let mut options = prng.fork("options");
    let sync =
        *options.pick(&[Sync::Instant, Sync::Instant, Sync::Instant, Sync::Periodic, Sync::Periodic, Sync::NoSync]);
    let visibility = *options.pick(&[None, None, Some(Visibility::Committed), Some(Visibility::Durable)]);
    let small_pages = !options.chance(1, 4);
    let page_bytes = if small_pages { 512 } else { 8192 };
    let txn = TxnOptions {
        logs: *options.pick(&[1, 2, 2, 3, 4]),
        sync,
        sync_period_us: *options.pick(&[1_000, 5_000, 50_000, 500_000]),
        sync_threshold: *options.pick(&[1, 3, 100]),
        // Nothing becomes durable by itself, so nothing would be seen.
        visibility: visibility.filter(|_| sync != Sync::NoSync),
        cache_bytes: 4 * LARGEST_VALUE,
        dirty_bytes: *options.pick(&[16 << 10, 32 << 10, 64 << 10]),
        checkpoint_period_us: *options.pick(&[1_000_000, 3_600_000_000]),
        checkpoint_at_close: options.chance(1, 2),
        chunk_bytes: page_bytes * *options.pick(&[16, 32, 64]),
        piece_bytes: *options.pick(&[4 << 10, 16 << 10]),
        lob_bytes: *prng.fork("lobs").pick(&[1 << 10, 1 << 10, 4 << 10, 64 << 10]),
        small_pages,
    };
    EngineOptions {
        segment_bytes: *options.pick(&[16 << 10, 16 << 10, 32 << 10, 64 << 10]),
        buffer_bytes: *options.pick(&[4 << 10, 16 << 10, 1 << 20]),
        max_record_bytes: LARGEST_VALUE,
        idle_us: *options.pick(&[1_000, 5_000, 1_000_000]),
        txn,
        ..EngineOptions::default()
    }
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
    Front,
    Back,
    Checkpoint,
}

fn draw_life(prng: &Prng, weights: &[(u64, Kind)], classes: &[(u64, Class)]) -> Life {
    let mut shape = prng.fork("shape");
    let clients = *shape.pick(&[1, 2, 3, 4]);
    let ops = 4 + shape.below(24);
    let mut clients: Vec<Vec<Op>> = vec![Vec::new(); clients];
    let mut draws = prng.fork("operations");
    for _ in 0..ops {
        let client = draws.below(clients.len() as u64) as usize;
        let op = match draw_op(&mut draws, weights, classes) {
            // Which record an LSN names is only clear to one client at a time.
            Op::TruncateBack { .. } if clients.len() > 1 => Op::Sync,
            op => op,
        };
        clients[client].push(op);
    }
    let mut crashes = prng.fork("crashes");
    let opening = if crashes.chance(1, 4) { 1 + crashes.below(2) } else { 0 };
    let opening = (0..opening).map(|_| draw_crash(&mut crashes, 160, 4)).collect();
    let end = match crashes.below(8) {
        0 => End::Close,
        _ => End::Crash(draw_crash(&mut crashes, 20 + 12 * ops, 5)),
    };
    Life { clients, opening, end, ..Life::default() }
}

/// What clients of this seed do with transactions.
struct Habits {
    /// One in so many clients has none; 0: nobody has any.
    others: u64,
    /// Keys of each table that are used.
    keys: u64,
    /// Weights of what a transaction does: puts, deletions, reads of a key, of a range, savepoints, ways back, pauses.
    within: [u64; 7],
    /// Weights of how it ends: commit, submit, abandon, abort, leave.
    ends: [u64; 5],
    /// And of what comes between transactions: single writes, checkpoints, syncs, backups, the catalog, wrong uses, pauses.
    between: [u64; 7],
    /// Weights of levels.
    levels: [u64; 4],
}

impl Habits {
    fn draw(prng: &mut Prng) -> Habits {
        let mut some = |weights: &[u64]| -> Vec<u64> { weights.iter().map(|weight| weight * prng.below(4)).collect() };
        let (within, ends) = (some(&[4, 2, 2, 2, 1, 1, 1]), some(&[3, 2, 1, 1, 1]));
        let (between, levels) = (some(&[3, 2, 1, 1, 2, 1, 2]), some(&[1, 2, 2, 1]));
        Habits {
            others: *prng.pick(&[0, 2, 3, 4]),
            keys: *prng.pick(&[2, 3, 6, 24]),
            within: within.try_into().unwrap_or_default(),
            ends: ends.try_into().unwrap_or_default(),
            between: between.try_into().unwrap_or_default(),
            levels: levels.try_into().unwrap_or_default(),
        }
    }

    /// Some of a life's clients have transactions instead of what was drawn for them.
    fn give_steps(&self, life: &mut Life, prng: &mut Prng) {
        for client in &mut life.clients {
            if self.others == 0 || prng.chance(1, self.others) {
                continue;
            }
            client.clear();
            if prng.chance(1, 6) {
                // What is read meanwhile, and copied, finds its pages replaced.
                for _ in 0..2 + prng.below(8) {
                    client.push(Op::Txn(self.draw_put(prng)));
                    client.push(Op::Txn(Step::Checkpoint { wait: true }));
                }
                continue;
            }
            if prng.chance(1, 4) {
                client.push(Op::Txn(Step::Create(INDEX)));
            }
            for _ in 0..1 + prng.below(5) {
                self.draw_transaction(prng, client);
                if prng.chance(1, 2) {
                    client.push(self.draw_between(prng));
                }
            }
        }
    }

    fn draw_transaction(&self, prng: &mut Prng, steps: &mut Vec<Op>) {
        let levels = [Level::Committed, Level::Snapshot, Level::Serializable, Level::ReadOnly];
        steps.push(Op::Txn(Step::Begin(choose(prng, &self.levels, &levels).unwrap_or(Level::Snapshot))));
        for _ in 0..1 + prng.below(8) {
            let place = choose(prng, &self.within, &[0, 1, 2, 3, 4, 5, 6]).unwrap_or(0);
            let (table, key) = (draw_table(prng), prng.below(self.keys));
            steps.push(match place {
                0 => Op::Txn(self.draw_put(prng)),
                1 => Op::Txn(Step::Delete { table: table.min(MEMORY), key }),
                2 => Op::Txn(Step::Get { table, key }),
                3 if prng.chance(1, 4) => Op::Txn(Step::Prefix { table, tens: prng.below(3) }),
                3 => {
                    let from = prng.below(self.keys);
                    let to = from + prng.below(self.keys + 1);
                    Op::Txn(Step::Scan { table, from, to, back: prng.chance(1, 3) })
                }
                4 => Op::Txn(Step::Save(prng.below(3))),
                5 => Op::Txn(Step::Undo(prng.below(3))),
                _ => draw_pause(prng),
            });
        }
        let ends = [Step::Commit, Step::Submit, Step::Abandon, Step::Abort, Step::Leave];
        steps.push(Op::Txn(choose(prng, &self.ends, &ends).unwrap_or(Step::Commit)));
    }

    fn draw_put(&self, prng: &mut Prng) -> Step {
        let bytes = match prng.below(16) {
            0..=9 => 8 + prng.below(100),
            10..=13 => 100 + prng.below(1500),
            _ => prng.below(12 << 10),
        };
        Step::Put { table: draw_table(prng).min(MEMORY), key: prng.below(self.keys), bytes }
    }

    fn draw_between(&self, prng: &mut Prng) -> Op {
        let place = choose(prng, &self.between, &[0, 1, 2, 3, 4, 5, 6]).unwrap_or(0);
        Op::Txn(match place {
            0 if prng.chance(1, 4) => Step::Delete { table: draw_table(prng).min(MEMORY), key: prng.below(self.keys) },
            0 => self.draw_put(prng),
            1 => Step::Checkpoint { wait: prng.chance(1, 2) },
            2 => Step::Sync,
            3 => Step::Backup,
            4 if prng.chance(1, 3) => Step::Drop(prng.below(LOADED)),
            4 => Step::Create(*prng.pick(&[0, 1, 2, MEMORY, MEMORY, INDEX, INDEX])),
            5 => Step::Bad(prng.pick(&Misuse::ALL).0),
            _ => return draw_pause(prng),
        })
    }
}

/// Someone who has transactions may load a table, and others use it.
fn give_load(life: &mut Life, prng: &mut Prng) {
    let has_steps = |client: &&mut Vec<Op>| client.iter().any(|op| matches!(op, Op::Txn(_)));
    let mut clients: Vec<&mut Vec<Op>> = life.clients.iter_mut().filter(has_steps).collect();
    if clients.is_empty() || !prng.chance(1, 3) {
        return;
    }
    let table = *prng.pick(&[LOADED, LOADED, LOADED, 0, 2]);
    let (rows, back) = (1 + prng.below(40), prng.chance(1, 2));
    let bytes = *prng.pick(&[8, 60, 300, 1_200, 3_000]);
    let mut steps = vec![Step::Load { table, rows, bytes, back }];
    if table != LOADED || prng.chance(1, 2) {
        steps.insert(0, Step::Drop(table));
    }
    for _ in 0..prng.below(5) {
        let key = prng.below(rows);
        steps.push(match prng.below(4) {
            0 => Step::Put { table, key, bytes: 8 + prng.below(100) },
            1 => Step::Delete { table, key },
            2 => Step::Get { table, key },
            _ => Step::Scan { table, from: key, to: rows, back: prng.chance(1, 3) },
        });
    }
    let (mut of, mut at) = (prng.below(clients.len() as u64) as usize, 0);
    for step in steps {
        let used = matches!(step, Step::Put { .. } | Step::Delete { .. } | Step::Get { .. } | Step::Scan { .. });
        if used && prng.chance(1, 2) {
            (of, at) = (prng.below(clients.len() as u64) as usize, 0);
        }
        let client = &mut clients[of];
        at += prng.below((client.len() - at.min(client.len())) as u64 + 1) as usize;
        at = at.min(client.len());
        client.insert(at, Op::Txn(step));
        at += 1;
    }
}

/// Most of what is done is done to rows.
fn draw_table(prng: &mut Prng) -> u64 {
    *prng.pick(&[0, 0, 0, 1, 1, 2, 2, MEMORY, INDEX])
}

fn draw_pause(prng: &mut Prng) -> Op {
    Op::Pause { us: *prng.pick(&[10, 100, 2_000, 20_000]) }
}

/// One of these by its weight; none if all weigh nothing.
fn choose<T: Copy>(prng: &mut Prng, weights: &[u64], choices: &[T]) -> Option<T> {
    let total: u64 = weights.iter().sum();
    let mut at = prng.below(total.max(1));
    for (weight, choice) in weights.iter().zip(choices) {
        if at < *weight {
            return Some(*choice);
        }
        at -= weight;
    }
    None
}

fn draw_op(prng: &mut Prng, weights: &[(u64, Kind)], classes: &[(u64, Class)]) -> Op {
    let class = weighted(prng, classes, Class::Written);
    let bytes = match prng.below(16) {
        0 => prng.below(4),
        1..=10 => 8 + prng.below(200),
        11..=13 => 200 + prng.below(3000),
        _ => prng.below(12 << 10),
    };
    match weighted(prng, weights, Kind::Append) {
        Kind::Append => Op::Append { bytes, class },
        Kind::Batch => Op::Batch { count: 1 + prng.below(6), bytes: 8 + bytes.min(1500), class },
        Kind::Rejected if prng.chance(1, 2) => Op::BatchEmpty,
        Kind::Rejected => Op::AppendTooLarge,
        Kind::Abandon => Op::Abandon { bytes: bytes.max(8), class },
        Kind::Sync => Op::Sync,
        Kind::Wait => Op::Wait,
        Kind::Read => Op::Read(*prng.pick(&[Which::First, Which::Last, Which::Random])),
        Kind::Scan => Op::Scan,
        Kind::Pause => Op::Pause { us: *prng.pick(&[100, 2_000, 20_000, 1_000_000, 4_000_000]) },
        Kind::Write => Op::Write { count: 1 + prng.below(20), bytes: bytes.clamp(8, 700) },
        Kind::Front => Op::TruncateFront { keep: prng.below(20) },
        Kind::Back => Op::TruncateBack { cut: prng.below(8) },
        Kind::Checkpoint => *prng.pick(&[Op::Rewrite, Op::RewriteWait, Op::RewriteWait, Op::RewriteSoon]),
    }
}
