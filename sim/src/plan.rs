//! Everything that a run follows: a seed draws a plan, a scenario file is one.

use std::collections::BTreeMap;

use engine::txn::{Visibility, options::Sync};

use crate::{damage::Damage, disk::Keep, fault::Fault, start::StartFile, workload::Op};

/// A plan. What it leaves open (scheduling, latency, drawn survivals) follows from its seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where every stream begins.
    pub seed: u64,
    /// What is under test.
    pub subject: String,
    /// Options of the engine.
    pub engine: EngineOptions,
    /// The machine.
    pub machine: MachinePlan,
    /// What is in the data directory before the first open.
    pub files: Vec<StartFile>,
    /// Lives, one after the other.
    pub lives: Vec<Life>,
    /// The state after a power cut at worst is recovered at one in this many acknowledgements; 0 never.
    pub image_checks: u32,
    /// Damages that are tried, on copies, at the end of each life.
    pub damage_checks: u32,
    /// Nothing goes wrong: no fault, no crash, no look at what a crash would leave.
    pub no_faults: bool,
}

/// Options of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Length of a segment.
    pub segment_bytes: u64,
    /// Bytes that may wait in memory.
    pub buffer_bytes: u64,
    /// The largest record.
    pub max_record_bytes: u64,
    /// Microseconds after which a quiet log is marked.
    pub idle_us: u64,
    /// A commit may be one synced write.
    pub synced_writes: bool,
    /// Records larger than a page of the buffer are split over pages.
    pub split_large: bool,
    /// Those of a command log.
    pub commands: CommandOptions,
    /// Those of a store.
    pub txn: TxnOptions,
}

/// Options of a store of transactions; its logs have those above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxnOptions {
    /// How many logs a new store has.
    pub logs: u16,
    /// What a commit waits for.
    pub sync: Sync,
    /// Microseconds between two syncs.
    pub sync_period_us: u64,
    /// Commits that make the next one due.
    pub sync_threshold: u64,
    /// From when on others see a commit; `None` as the sync type has it.
    pub visibility: Option<Visibility>,
    /// The bound on memory.
    pub cache_bytes: u64,
    /// Bytes of versions that make a checkpoint due.
    pub dirty_bytes: u64,
    /// Microseconds after which one is due.
    pub checkpoint_period_us: u64,
    /// A close makes one.
    pub checkpoint_at_close: bool,
    /// Length of a chunk file.
    pub chunk_bytes: u64,
    /// What is written between two syncs of a chunk.
    pub piece_bytes: u64,
    /// Values that are longer are logged in pieces of this length.
    pub lob_bytes: u64,
    /// Pages of 512 bytes instead of 8192.
    pub small_pages: bool,
}

impl Default for TxnOptions {
    fn default() -> TxnOptions {
        TxnOptions {
            logs: 2,
            sync: Sync::Instant,
            sync_period_us: 5_000,
            sync_threshold: 100,
            visibility: None,
            cache_bytes: 256 << 10,
            dirty_bytes: 64 << 10,
            checkpoint_period_us: 3_600_000_000,
            checkpoint_at_close: true,
            chunk_bytes: 32 << 10,
            piece_bytes: 4 << 10,
            lob_bytes: 64 << 10,
            small_pages: true,
        }
    }
}

/// Options of a command log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandOptions {
    /// When what was written is synced.
    pub policy: Policy,
    /// Pages of the ring.
    pub ring_pages: usize,
    /// Bytes of a page.
    pub ring_page_bytes: usize,
    /// The second is noted where it changes.
    pub timestamps: bool,
    /// Batches have checksums. Without them only kills are survived: a power cut may leave what reads well and was never given.
    pub checksums: bool,
    /// Policies count as `no` while a rewrite runs.
    pub no_sync_on_rewrite: bool,
    /// What a rewrite replaces stays, as history.
    pub keep_history: bool,
    /// Every file is read by a task of its own while it is loaded, however short it is.
    pub load_ahead: bool,
    /// Bytes of a base after which it is synced while it is written.
    pub rewrite_sync_bytes: u64,
}

impl Default for CommandOptions {
    fn default() -> CommandOptions {
        CommandOptions {
            policy: Policy::EverySecond,
            ring_pages: 3,
            ring_page_bytes: 64 << 10,
            timestamps: false,
            checksums: true,
            no_sync_on_rewrite: false,
            keep_history: false,
            load_ahead: false,
            rewrite_sync_bytes: 4 << 20,
        }
    }
}

/// When what was written to a command log is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// `always`
    Always,
    /// `everysec`
    EverySecond,
    /// `no`
    No,
}

impl Policy {
    /// All of them, with their names.
    pub const ALL: [(Policy, &'static str); 3] =
        [(Policy::Always, "always"), (Policy::EverySecond, "everysec"), (Policy::No, "no")];
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(Policy::ALL.iter().find(|(policy, _)| policy == self).map_or("", |(_, name)| name))
    }
}

impl EngineOptions {
    /// The same for a machine on which nothing runs in the background.
    #[must_use]
    pub fn still(&self) -> EngineOptions {
        EngineOptions { commands: CommandOptions { load_ahead: false, ..self.commands }, ..self.clone() }
    }
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            segment_bytes: 16 << 10,
            buffer_bytes: 64 << 10,
            max_record_bytes: 1 << 20,
            idle_us: 1_000_000,
            synced_writes: false,
            split_large: false,
            commands: CommandOptions::default(),
            txn: TxnOptions::default(),
        }
    }
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachinePlan {
    /// 512 or 4096.
    pub sector_bytes: u32,
    /// Bytes of content that fit on the disk; 0 is unlimited.
    pub capacity_bytes: u64,
    /// Least and greatest latency of a call in microseconds.
    pub latency_us: (u64, u64),
    /// Faults that are on: one in how many calls.
    pub rates: BTreeMap<Fault, u32>,
}

impl Default for MachinePlan {
    fn default() -> MachinePlan {
        MachinePlan { sector_bytes: 512, capacity_bytes: 0, latency_us: (1, 50), rates: BTreeMap::new() }
    }
}

/// From an open to an end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// The operations of each client, in order; clients run concurrently.
    pub clients: Vec<Vec<Op>>,
    /// Crashes during the recovery that begins this life, one per attempt.
    pub opening: Vec<Crash>,
    /// Faults at given calls of that recovery, counted from its first attempt on.
    pub opening_faults: Vec<FaultAt>,
    /// Faults at given calls of this life, counted from the end of its recovery on.
    pub faults: Vec<FaultAt>,
    /// How it ends.
    pub end: End,
    /// What happens to the disk then, for good.
    pub damage: Vec<Damage>,
}

/// What the seed decided in one life, as far as a plan can say it instead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decided {
    /// Faults that struck while it opened.
    pub opening_faults: Vec<FaultAt>,
    /// Faults that struck afterwards.
    pub faults: Vec<FaultAt>,
    /// What drawn power cuts kept: of those while it opened, by their place in [`Life::opening`].
    pub opening_kept: BTreeMap<usize, Keep>,
    /// And at its end.
    pub kept: Option<Keep>,
}

/// A fault at the first call from number `io` on that it applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultAt {
    /// Number of the call, from 1.
    pub io: u64,
    /// The fault.
    pub fault: Fault,
}

/// How a life ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// All clients finish, then the log is closed.
    #[default]
    Close,
    /// A crash.
    Crash(Crash),
}

/// A crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crash {
    /// Of what.
    pub kind: CrashKind,
    /// When.
    pub at: At,
    /// What a power cut keeps of what was not synced.
    pub keep: Keep,
}

/// What crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashKind {
    /// The process; the machine goes on.
    Kill,
    /// The machine.
    PowerCut,
}

/// When a crash comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// At this I/O call, from 1; if there are fewer, when the clients have finished.
    Io(u64),
    /// When the clients have finished.
    Done,
}

impl Plan {
    /// Under `everysec`, how old what a power cut takes may be, in microseconds: a second, and twice what a sync takes (one under
    /// way, and its own), with some room for the calls around them. Under `periodic` it is one and a half periods instead of the second.
    #[must_use]
    pub fn loss_window_us(&self) -> Option<u64> {
        let EngineOptions { commands, txn, .. } = &self.engine;
        let within_us = match self.subject.as_str() {
            "wal" => None,
            "txn" => (txn.sync == Sync::Periodic).then_some(txn.sync_period_us * 3 / 2),
            _ => {
                let everysec = commands.policy == Policy::EverySecond && !commands.no_sync_on_rewrite;
                everysec.then_some(1_000_000)
            }
        }?;
        let given = self.lives.iter().flat_map(|life| life.opening_faults.iter().chain(&life.faults));
        let slow = self.machine.rates.contains_key(&Fault::SlowSync)
            || given.into_iter().any(|at| at.fault == Fault::SlowSync);
        let sync_us = self.machine.latency_us.1 + if slow { Fault::SLOWEST_SYNC_US } else { 0 };
        Some(within_us + 2 * sync_us + 100 * self.machine.latency_us.1 + 10_000)
    }

    /// Whether a sync may lie somewhere: durability can't be owed then.
    #[must_use]
    pub fn lies(&self) -> bool {
        let given = self
            .lives
            .iter()
            .flat_map(|life| life.opening_faults.iter().chain(&life.faults))
            .any(|at| at.fault == Fault::LyingSync);
        given || self.machine.rates.contains_key(&Fault::LyingSync)
    }
}
