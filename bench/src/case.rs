//! What is measured.

mod bound;
mod checkpoint;
mod commit;
mod load;
mod read;
mod recover;

use crate::{
    Result,
    child::{Figures, Step, Task},
    peer::{self, Call, Safety, Settings},
};

/// Who takes part in a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// All peers.
    Peers,
    /// And a raw loop.
    PeersAndRaw,
    /// And our store without a log.
    Everybody,
    Ours,
}

/// One measurement. It is made once per repeat and contestant, in an empty folder or in the one that was prepared.
pub struct Case {
    pub name: &'static str,
    /// What is measured, in a line.
    pub measures: &'static str,
    /// The figure that is compared; its name is its unit.
    pub figure: &'static str,
    pub field: Field,
    /// Whether it reads a table that is loaded once for all such cases.
    pub reads_table: bool,
    /// What is done before each measurement, and ends with the process being killed.
    crash: Option<fn(&Task) -> Result<Figures>>,
    measure: fn(&Task) -> Result<Figures>,
}

/// In the order in which they are run.
pub const CASES: &[Case] = &[
    Case {
        name: "durable-1",
        measures: "one thread commits puts one by one, each durable when it returns",
        figure: "commits/s",
        field: Field::PeersAndRaw,
        reads_table: false,
        crash: None,
        measure: |task| commit::durable(task, 1),
    },
    Case {
        name: "durable-32",
        measures: "the same with 32 threads",
        figure: "commits/s",
        field: Field::PeersAndRaw,
        reads_table: false,
        crash: None,
        measure: |task| commit::durable(task, 32),
    },
    Case {
        name: "buffered-1",
        measures: "one thread commits puts one by one, in random order, without a sync; for the time given, or until all keys are there",
        figure: "commits/s",
        field: Field::Everybody,
        reads_table: false,
        crash: None,
        measure: commit::buffered,
    },
    Case {
        name: "get-1",
        measures: "one thread reads random keys of a table that is in memory",
        figure: "reads/s/thread",
        field: Field::Peers,
        reads_table: true,
        crash: None,
        measure: |task| read::get(task, 1, Call::One),
    },
    Case {
        name: "get-2",
        measures: "the same with two threads",
        figure: "reads/s/thread",
        field: Field::Peers,
        reads_table: true,
        crash: None,
        measure: |task| read::get(task, 2, Call::One),
    },
    Case {
        name: "get-many-1",
        measures: "one thread reads random keys of that table, 500 in a call",
        figure: "reads/s/thread",
        field: Field::Ours,
        reads_table: true,
        crash: None,
        measure: |task| read::get(task, 1, Call::Many),
    },
    Case {
        name: "get-many-2",
        measures: "the same with two threads",
        figure: "reads/s/thread",
        field: Field::Ours,
        reads_table: true,
        crash: None,
        measure: |task| read::get(task, 2, Call::Many),
    },
    Case {
        name: "scan",
        measures: "one thread reads all rows of that table in order",
        figure: "rows/s",
        field: Field::Peers,
        reads_table: true,
        crash: None,
        measure: read::scan,
    },
    Case {
        name: "load-sorted",
        measures: "a new table gets all rows in order; durable at its end",
        figure: "rows/s",
        field: Field::Peers,
        reads_table: false,
        crash: None,
        measure: |task| load::load(task, true),
    },
    Case {
        name: "load-random",
        measures: "the same in random order",
        figure: "rows/s",
        field: Field::Peers,
        reads_table: false,
        crash: None,
        measure: |task| load::load(task, false),
    },
    Case {
        name: "recover",
        measures: "a process that made commits of one put each, durable by now, is killed; from open until all rows were read in order",
        figure: "commits/s",
        field: Field::Peers,
        reads_table: false,
        crash: Some(recover::crash),
        measure: recover::recover,
    },
    Case {
        name: "checkpoint-durable",
        measures: "99th percentile of a durable commit during a checkpoint beside that before it, at 70 % load",
        figure: "during/before",
        field: Field::Ours,
        reads_table: false,
        crash: None,
        measure: |task| checkpoint::latency(task, Safety::Durable),
    },
    Case {
        name: "checkpoint-buffered",
        measures: "the same for buffered commits",
        figure: "during/before",
        field: Field::Ours,
        reads_table: false,
        crash: None,
        measure: |task| checkpoint::latency(task, Safety::Buffered),
    },
    Case {
        name: "bound",
        measures: "the most memory that the process had beside its cache, for a table that is many times larger",
        figure: "memory/cache",
        field: Field::Ours,
        reads_table: false,
        crash: None,
        measure: bound::bound,
    },
];

impl Case {
    /// Who takes part, the raw loop first.
    pub fn contestants(&self) -> impl Iterator<Item = &'static str> {
        let takes_part = |name: &&str| match (self.field, *name) {
            (Field::Ours, name) => name == "seawall",
            (Field::Everybody, _) => true,
            (_, name) => name != "no_sync",
        };
        let raw = [Field::PeersAndRaw, Field::Everybody].contains(&self.field).then_some("raw");
        raw.into_iter().chain(peer::NAMES.into_iter().filter(takes_part))
    }

    pub fn crashes(&self) -> bool {
        self.crash.is_some()
    }
}

/// Does what a child was asked for.
pub fn perform(task: &Task) -> Result<Figures> {
    let case = CASES.iter().find(|case| case.name == task.case).ok_or("there is no such case")?;
    match task.step {
        Step::Prepare => load::prepare(task),
        Step::Crash => case.crash.map_or_else(|| Err("nothing to crash".into()), |crash| crash(task)),
        Step::Measure => (case.measure)(task),
    }
}

impl Task {
    /// Opens what the task is about.
    fn open(&self, safety: Safety) -> Result<Box<dyn peer::Peer>> {
        peer::open(&self.peer, &self.folder, self.settings(safety))
    }

    fn settings(&self, safety: Safety) -> Settings {
        Settings { safety, cache_bytes: self.sizes.cache_bytes, stays_in_log: false }
    }
}
