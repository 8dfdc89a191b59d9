//! Runs the cases: everybody once, then everybody again.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IsTerminal,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    Result, Sizes,
    case::{CASES, Case},
    child::{self, Figures, Step, Task},
    device,
};

pub struct Plan {
    pub sizes: Sizes,
    pub repeats: u32,
    /// Texts of which a case's name has one; all cases if there are none.
    pub only: Vec<String>,
    /// All if there are none.
    pub peers: Vec<String>,
    pub dir: PathBuf,
    pub patience: Duration,
}

/// What was measured: by case and contestant, its figures in each repeat; `None` where it failed.
#[derive(Default)]
pub struct Outcome {
    pub measured: BTreeMap<(&'static str, &'static str), Vec<Option<Figures>>>,
    pub failed: u64,
    /// Whether somebody did not wait for the rest.
    pub interrupted: bool,
    /// How busy the machine was, before and after.
    pub load: (String, String),
}

impl Plan {
    fn has(&self, case: &Case) -> bool {
        self.only.is_empty() || self.only.iter().any(|text| case.name.contains(text.as_str()))
    }

    fn invites(&self, name: &str) -> bool {
        name == "raw" || self.peers.is_empty() || self.peers.iter().any(|peer| peer == name)
    }
}

/// Runs it all. The files that it makes are gone when it ends, also when it is interrupted.
pub fn run(plan: &Plan) -> Result<Outcome> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))?;
    let folder = tempfile::Builder::new()
        .prefix("seawall-bench-")
        .tempdir_in(&plan.dir)
        .map_err(|error| format!("no folder in {}: {error}; choose another with --dir", plan.dir.display()))?;
    if device::is_in_memory(folder.path())? {
        eprintln!("warning: {} is in memory, where a sync costs nothing; choose a disk with --dir", plan.dir.display());
    }
    if device::flushes(folder.path()).is_none() {
        eprintln!("warning: nobody counts the flushes of {}; nothing says who is durable", plan.dir.display());
    }
    let mut runner = Runner { plan, folder: folder.path(), interrupted: &interrupted, loaded: BTreeSet::new() };
    let mut outcome = Outcome { load: (device::load(), String::new()), ..Outcome::default() };
    for (at, case) in CASES.iter().enumerate().filter(|(_, case)| plan.has(case)) {
        runner.case(case, &mut outcome);
        if outcome.interrupted {
            break;
        }
        if !CASES[at + 1..].iter().any(|later| later.reads_table && plan.has(later)) {
            runner.forget_tables()?;
        }
    }
    runner.progress("");
    outcome.load.1 = device::load();
    folder.close()?;
    Ok(outcome)
}

struct Runner<'a> {
    plan: &'a Plan,
    folder: &'a Path,
    interrupted: &'a AtomicBool,
    /// Whose table is there.
    loaded: BTreeSet<&'static str>,
}

impl Runner<'_> {
    fn case(&mut self, case: &'static Case, outcome: &mut Outcome) {
        for repeat in 0..self.plan.repeats {
            let mut names: Vec<_> = case.contestants().filter(|name| self.plan.invites(name)).collect();
            // What somebody leaves the disk to do is not always the same one's loss.
            let first = repeat as usize % names.len().max(1);
            names.rotate_left(first);
            for name in names {
                self.progress(&format!("{}: {name}, repeat {} of {}", case.name, repeat + 1, self.plan.repeats));
                let measured = self.measure(case, name);
                if self.interrupted.load(Ordering::Relaxed) {
                    outcome.interrupted = true;
                    return;
                }
                if let Err(error) = &measured {
                    eprintln!("\n{}: {name} failed: {error}", case.name);
                    outcome.failed += 1;
                }
                outcome.measured.entry((case.name, name)).or_default().push(measured.ok());
            }
        }
    }

    /// Says what goes on, in a line that the next one replaces.
    fn progress(&self, what: &str) {
        if std::io::stderr().is_terminal() {
            eprint!("\r{what:<60}\r");
        }
    }

    fn measure(&mut self, case: &Case, name: &'static str) -> Result<Figures> {
        let sizes = self.plan.sizes;
        let task = |step, folder: &Path| Task {
            case: case.name.to_owned(),
            peer: name.to_owned(),
            step,
            folder: folder.to_owned(),
            sizes,
        };
        let run = |task: Task| {
            device::settle(self.folder);
            child::run(&task, self.interrupted, self.plan.patience)
        };
        if case.reads_table {
            let table = self.tables().join(name);
            if !self.loaded.contains(name) {
                // (What a failed load left is in the way of the next.)
                remove(&table)?;
                std::fs::create_dir_all(&table)?;
                run(task(Step::Prepare, &table))?;
                self.loaded.insert(name);
            }
            return run(task(Step::Measure, &table));
        }
        let empty = self.folder.join("empty");
        std::fs::create_dir(&empty)?;
        let crashed = if case.crashes() { run(task(Step::Crash, &empty)).map(drop) } else { Ok(()) };
        let measured = crashed.and_then(|()| run(task(Step::Measure, &empty)));
        remove(&empty)?;
        measured
    }

    fn tables(&self) -> PathBuf {
        self.folder.join("tables")
    }

    fn forget_tables(&mut self) -> Result {
        self.loaded.clear();
        remove(&self.tables())
    }
}

fn remove(folder: &Path) -> Result {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    Ok(())
}
