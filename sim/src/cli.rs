//! Flags, dispatch and exit codes: 0 pass, 1 violation, 2 usage or harness error.

use std::{
    ffi::OsString,
    fs,
    hash::{BuildHasher as _, RandomState},
    io::{self, Write as _},
    ops::Range,
    path::{Path, PathBuf},
    time::Instant,
};

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum, error::ErrorKind};
use engine::plant::Plant;

use crate::{
    campaign,
    damage::REFUSED,
    fault::Fault,
    invariant,
    plan::Plan,
    report::{Outcome, Verdict},
    runner,
    scenario::{Expect, Scenario},
    shrink,
    subject::{SUBJECTS, subject_of},
    workload::{self, suggest},
};

const PASS: u8 = 0;
const VIOLATION: u8 = 1;
const USAGE: u8 = 2;

/// Puts a storage engine through crashes, torn writes and lost syncs, and judges its recovery.
#[derive(Debug, Parser)]
#[command(name = "sim", version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
struct Arguments {
    /// Run one seed, a number below 2^64; without a number a fresh one, printed first
    #[arg(long, value_name = "N", num_args = 0..=1, group = "what")]
    seed: Option<Option<u64>>,
    /// Run all seeds from A up to, but not including, B, on all cores
    #[arg(long, value_name = "A..B", value_parser = seeds, group = "what")]
    seeds: Option<Range<u64>>,
    /// Run one scenario file
    #[arg(long, value_name = "FILE", group = "what")]
    scenario: Option<PathBuf>,
    /// List subjects, faults, invariants and planted bugs
    #[arg(long, group = "what")]
    list: bool,
    /// What is under test [default: what has the planted bug; without one wal]
    #[arg(long, value_name = "NAME", value_parser = subject)]
    subject: Option<String>,
    /// The same options and operations, but nothing goes wrong
    #[arg(long)]
    no_faults: bool,
    /// Plant a bug in the engine; --list shows them
    #[arg(long, value_name = "ID", value_parser = plant)]
    plant: Option<Plant>,
    /// Log to stderr with virtual time, as in --log engine=debug (one run only)
    #[arg(long, value_name = "FILTER", conflicts_with = "seeds")]
    log: Option<String>,
    /// Print one JSON object per run
    #[arg(long)]
    json: bool,
    /// If it fails, make it smaller and write it as a scenario file, as `sim shrink` does (with --seed or --scenario)
    #[arg(long, conflicts_with = "seeds")]
    shrink: bool,
    /// Write the plan of --seed as a scenario file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "scenario", "list"])]
    save: Option<PathBuf>,
    /// The machine to run on: simulated, or the real one, killed with SIGKILL
    #[arg(long, value_enum, default_value_t = Backend::Sim)]
    backend: Backend,
    /// A directory for --backend os; the log goes into new folders below it
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

impl Arguments {
    fn subject(&self) -> &str {
        subject_or(self.subject.as_deref(), self.plant)
    }
}

/// The subject that was named, else the one that reaches the planted bug.
fn subject_or(named: Option<&str>, plant: Option<Plant>) -> &str {
    named.or(plant.map(subject_of)).unwrap_or("wal")
}

const EXAMPLES: &str = "Examples:
  sim --seed 42                                   one run, one screen
  sim --seeds 1..2001                             a campaign
  sim --seeds 1..501 --plant wal-seg-no-dirsync   must fail: the simulator finds the planted bug
  sim shrink --seed 7 --plant wal-dsync-range     a small scenario that fails for the same reason
  sim scenarios                                   every stored scenario, with and without its planted bug
  sim --backend os --dir /tmp/storm --seeds 1..21 the real file system, killed at random moments

Exit codes: 0 pass, 1 violation, 2 usage or harness error";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Backend {
    /// The simulated machine
    Sim,
    /// The real file system, in a child process that is killed
    Os,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run stored scenarios, each without and with the planted bug that it names
    Scenarios {
        /// A file or a folder
        #[arg(default_value = "scenarios")]
        path: PathBuf,
        /// Print one JSON object per run
        #[arg(long)]
        json: bool,
    },
    /// Make a failing seed or scenario smaller, as a scenario file that fails for the same reason
    Shrink {
        /// The seed
        #[arg(long, value_name = "N", conflicts_with = "path", required_unless_present = "path")]
        seed: Option<u64>,
        /// What is under test with that seed [default: what has the planted bug; without one wal]
        #[arg(long, value_name = "NAME", value_parser = subject)]
        subject: Option<String>,
        /// The scenario file
        path: Option<PathBuf>,
        /// The planted bug under which it fails; a scenario file names its own
        #[arg(long, value_name = "ID", value_parser = plant)]
        plant: Option<Plant>,
        /// The file to write; it must not exist
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Stop after so many seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        time: u64,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// The process that --backend os kills
    #[command(hide = true)]
    Child {
        /// Seed of the workload
        seed: u64,
        /// Number of the life
        life: u64,
        /// Number of the first append
        next: u64,
        /// Directory of the log
        dir: PathBuf,
    },
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let usage = || format!("'{text}' is not a range like 1..501");
    let (start, end) = text.split_once("..").ok_or_else(usage)?;
    let range = start.parse().map_err(|_| usage())?..end.parse().map_err(|_| usage())?;
    if range.is_empty() { Err(format!("'{text}' is empty; the end is not included")) } else { Ok(range) }
}

fn subject(text: &str) -> Result<String, String> {
    let names: Vec<&str> = SUBJECTS.iter().map(|(name, _)| *name).collect();
    if names.contains(&text) { Ok(text.into()) } else { Err(format!("there are: {}", names.join(", "))) }
}

fn plant(text: &str) -> Result<Plant, String> {
    Plant::from_name(text).ok_or_else(|| {
        let names: Vec<&str> = Plant::ALL.iter().map(|plant| plant.name()).collect();
        match suggest(text, &names) {
            Some(near) => format!("no planted bug has this id; did you mean '{near}'?"),
            None => "no planted bug has this id; --list shows them".into(),
        }
    })
}

/// Runs the program; returns its exit code.
#[must_use]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let result = if arguments.len() < 2 {
        print(&Arguments::command().render_help().to_string()).map(|()| USAGE)
    } else {
        match Arguments::try_parse_from(arguments) {
            Ok(arguments) => dispatch(&arguments),
            Err(error) => {
                let help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
                // Nowhere to report to if this fails.
                let _ = error.print();
                return if help { PASS } else { USAGE };
            }
        }
    };
    result.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "error: {error}");
        USAGE
    })
}

/// To stdout. A reader that went away, as `head` does, has what it wanted: the verdict and the exit code stay.
fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

fn usage(message: &str) -> io::Result<u8> {
    writeln!(io::stderr(), "error: {message}\nrun with --help for all flags")?;
    Ok(USAGE)
}

fn dispatch(arguments: &Arguments) -> io::Result<u8> {
    match &arguments.command {
        Some(Command::Scenarios { path, json }) => return scenarios(path, *json),
        Some(Command::Shrink { seed, subject, path, plant, out, time, json }) => {
            let seed = seed.map(|seed| (seed, subject_or(subject.as_deref(), *plant)));
            return shrink_command(seed, path.as_deref(), *plant, out.as_deref(), *time, *json);
        }
        Some(Command::Child { seed, life, next, dir }) => return crate::osrun::child(*seed, *life, *next, dir),
        None => {}
    }
    if arguments.list {
        return list();
    }
    if let Some(filter) = &arguments.log
        && let Err(error) = log(filter)
    {
        return usage(&format!("--log {filter}: {error}"));
    }
    if arguments.backend == Backend::Os {
        if arguments.subject() != "wal" {
            return usage("--backend os has the subject wal alone");
        }
        let Some(dir) = &arguments.dir else { return usage("--backend os needs --dir DIR") };
        let range = match (&arguments.seeds, arguments.seed) {
            (Some(range), _) => range.clone(),
            (None, Some(Some(seed))) if seed < u64::MAX => seed..seed + 1,
            _ => return usage("--backend os needs --seeds A..B or --seed N"),
        };
        if arguments.plant.is_some() || arguments.no_faults || arguments.save.is_some() {
            return usage(
                "--backend os runs the engine as it is and follows no plan: no --plant, --no-faults or --save",
            );
        }
        return crate::osrun::campaign(range, dir, arguments.json);
    }
    if arguments.dir.is_some() {
        return usage("--dir is for --backend os");
    }
    if let Some(range) = &arguments.seeds {
        return seeds_run(arguments, range.clone());
    }
    if let Some(path) = &arguments.scenario {
        let mut scenario = match Scenario::read(path) {
            Ok(scenario) => scenario,
            Err(error) => return usage(&error.to_string()),
        };
        if arguments.no_faults {
            workload::calm(&mut scenario.plan);
        }
        return one(arguments, &scenario.plan, &format!("--scenario {}", path.display()));
    }
    let Some(seed) = arguments.seed else {
        return usage("nothing to run: use --seed, --seeds, --scenario or scenarios");
    };
    let seed = seed.unwrap_or_else(fresh_seed);
    let plan = workload::draw(seed, arguments.subject(), arguments.no_faults);
    if let Some(path) = &arguments.save {
        let scenario =
            Scenario { claim: format!("what seed {seed} drew"), plan: plan.clone(), expect: Expect::default() };
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| named(path, &error))?;
        file.write_all(scenario.to_toml().as_bytes()).map_err(|error| named(path, &error))?;
    }
    if !arguments.json {
        print(&format!("seed: {seed}\n"))?;
    }
    one(arguments, &plan, &format!("--seed {seed}"))
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// A seed that nobody chose. It is printed, so what follows can be replayed.
#[expect(clippy::disallowed_methods, reason = "the one place that nobody's seed decides")]
fn fresh_seed() -> u64 {
    RandomState::new().hash_one(0)
}

fn replay(arguments: &Arguments, what: &str) -> String {
    let mut command = format!("cargo run -p sim -- {what}");
    // A scenario file names its own.
    if arguments.subject() != "wal" && arguments.scenario.is_none() {
        command.push_str(" --subject ");
        command.push_str(arguments.subject());
    }
    if arguments.no_faults {
        command.push_str(" --no-faults");
    }
    if let Some(plant) = arguments.plant {
        command.push_str(" --plant ");
        command.push_str(plant.name());
    }
    command
}

fn one(arguments: &Arguments, plan: &Plan, what: &str) -> io::Result<u8> {
    let replay = replay(arguments, what);
    let clock = stopwatch();
    let outcome = campaign::run_one(plan, arguments.plant);
    if arguments.json {
        print(&format!("{}\n", outcome.json(&replay)))?;
    } else {
        print(&outcome.text(per_second(outcome.cycles, clock), &replay))?;
    }
    if arguments.shrink && matches!(outcome.verdict, Verdict::Violation(_)) {
        shrink_to(plan, arguments.plant, None, SHRINK_SECONDS, arguments.json)?;
    }
    Ok(code(&outcome.verdict))
}

/// How long --shrink takes at most.
const SHRINK_SECONDS: u64 = 60;

fn shrink_command(
    seed: Option<(u64, &str)>,
    path: Option<&Path>,
    plant: Option<Plant>,
    out: Option<&Path>,
    time: u64,
    json: bool,
) -> io::Result<u8> {
    let (plan, plant) = match (seed, path) {
        (Some((seed, subject)), _) => (workload::draw(seed, subject, false), plant),
        (None, Some(path)) => match Scenario::read(path) {
            Ok(scenario) => (scenario.plan, plant.or(scenario.expect.fails_under)),
            Err(error) => return usage(&error.to_string()),
        },
        (None, None) => return usage("nothing to shrink: use --seed N or a scenario file"),
    };
    shrink_to(&plan, plant, out, time, json)
}

/// Shrinks and writes the result, to a file that did not exist.
fn shrink_to(plan: &Plan, plant: Option<Plant>, out: Option<&Path>, seconds: u64, json: bool) -> io::Result<u8> {
    let name = match plant {
        Some(plant) => format!("shrunk-{}-{}.toml", plan.seed, plant.name()),
        None => format!("shrunk-{}.toml", plan.seed),
    };
    let path = out.map_or_else(|| PathBuf::from(name), Path::to_owned);
    if path.exists() {
        return usage(&format!("{} exists; choose another with --out", path.display()));
    }
    let clock = stopwatch();
    let shrunk = match shrink::shrink(plan, plant, || clock.elapsed().as_secs() < seconds) {
        Ok(shrunk) => shrunk,
        Err(error) => return usage(&error.to_string()),
    };
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).open(&path).map_err(|error| named(&path, &error))?;
    file.write_all(shrunk.scenario.to_toml().as_bytes()).map_err(|error| named(&path, &error))?;
    let (before, after) = shrunk.operations;
    let plant = plant.map_or_else(String::new, |plant| format!(" --plant {}", plant.name()));
    let replay = format!("cargo run -p sim -- --scenario {}{plant}", path.display());
    if json {
        let line = serde_json::json!({
            "file": path.display().to_string(),
            "invariant": shrunk.violation.invariant,
            "operations_before": before,
            "operations_after": after,
            "tried": shrunk.tried,
            "complete": shrunk.complete,
            "replay": replay,
        });
        print(&format!("{line}\n"))?;
    } else {
        let end = if shrunk.complete { "nothing smaller was found" } else { "the time was over; --time gives more" };
        print(&format!(
            "shrunk: {before} to {after} operations in {} runs; {end}\nexpected: {}\nfound:    {}\nwritten: {}\nreplay: {replay}\n",
            shrunk.tried,
            shrunk.violation.expected,
            shrunk.violation.found,
            path.display(),
        ))?;
    }
    Ok(PASS)
}

/// For cycles/s, which only people read.
#[expect(clippy::disallowed_methods, reason = "measured outside of runs")]
fn stopwatch() -> Instant {
    Instant::now()
}

fn per_second(cycles: u64, clock: Instant) -> u64 {
    u64::try_from(u128::from(cycles) * 1_000_000_000 / clock.elapsed().as_nanos().max(1)).unwrap_or(u64::MAX)
}

fn code(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Pass => PASS,
        Verdict::Violation(_) => VIOLATION,
        Verdict::Harness(_) => USAGE,
    }
}

fn seeds_run(arguments: &Arguments, range: Range<u64>) -> io::Result<u8> {
    let clock = stopwatch();
    let mut broken = Ok(());
    let campaign = campaign::run(
        range,
        arguments.plant,
        |seed| workload::draw(seed, arguments.subject(), arguments.no_faults),
        |outcome| {
            if arguments.json && broken.is_ok() {
                let replay = replay(arguments, &format!("--seed {}", outcome.seed));
                broken = print(&format!("{}\n", outcome.json(&replay)));
            }
        },
    );
    broken?;
    let Some(total) = &campaign.total else { return Ok(USAGE) };
    let mut never = total.never();
    if let Some(plant) = arguments.plant.filter(|plant| total.reached.get(plant.name()).copied().unwrap_or(0) == 0) {
        never.push(format!("planted bug {} was never reached; its subject is {}", plant.name(), subject_of(plant)));
    }
    let exit = match (campaign.failed - campaign.harness, campaign.harness) {
        (0, 0) if never.is_empty() => PASS,
        (0, _) => USAGE,
        _ => VIOLATION,
    };
    if arguments.json {
        for line in never {
            writeln!(io::stderr(), "{line}")?;
        }
        return Ok(exit);
    }
    print(&format!("seeds: {} run, {} failed\n", campaign.runs, campaign.failed))?;
    print(&total.numbers(per_second(total.cycles, clock)))?;
    for outcome in &campaign.failures {
        let what = match &outcome.verdict {
            Verdict::Violation(violation) => {
                format!("{}: expected {}; found {}", violation.invariant, violation.expected, violation.found)
            }
            Verdict::Harness(message) => format!("harness error: {message}"),
            Verdict::Pass => String::new(),
        };
        let replay = replay(arguments, &format!("--seed {}", outcome.seed));
        print(&format!("seed {}: {what}\n  replay: {replay}\n", outcome.seed))?;
    }
    if exit != VIOLATION {
        for line in &never {
            print(&format!("{line}\n"))?;
        }
    }
    print(match exit {
        PASS => "verdict: PASS\n",
        VIOLATION => "verdict: VIOLATION\n",
        _ => "verdict: HARNESS ERROR: the campaign proves less than it seems\n",
    })?;
    Ok(exit)
}

fn list() -> io::Result<u8> {
    let mut out = String::from("subjects\n");
    for (name, about) in SUBJECTS {
        out.push_str(&format!("  {name:<8} {about}\n"));
    }
    out.push_str("faults\n");
    let mut row = |name: &str, about: &str| out.push_str(&format!("  {name:<26} {about}\n"));
    row("kill", "the process dies; the page cache stays");
    row("power-cut", "the machine dies; a legal part of what was not synced stays");
    row("crash-in-recovery", "either of them while the log is being opened");
    Fault::ALL.iter().for_each(|fault| row(fault.name(), fault.about()));
    out.push_str("invariants\n");
    invariant::ALL.iter().for_each(|invariant| out.push_str(&format!("  {:<4} {}\n", invariant.id, invariant.about)));
    out.push_str("planted bugs, with the subject that reaches them\n");
    for plant in Plant::ALL {
        out.push_str(&format!("  {:<26} {:<8} {}\n", plant.name(), subject_of(*plant), plant.about()));
    }
    print(&out)?;
    Ok(PASS)
}

/// Logs to stderr, with the virtual time of the run.
fn log(filter: &str) -> Result<(), String> {
    struct VirtualTime;
    impl tracing_subscriber::fmt::time::FormatTime for VirtualTime {
        fn format_time(&self, writer: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
            match runner::virtual_us() {
                Some(us) => write!(writer, "{us:>8} us"),
                None => write!(writer, "        --"),
            }
        }
    }
    let filter = tracing_subscriber::EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(VirtualTime)
        .with_writer(io::stderr)
        .try_init()
        .map_err(|error| error.to_string())
}

/// Scenario files below a path, sorted.
fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if fs::metadata(path).map_err(|error| named(path, &error))?.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| named(path, &error))? {
        let entry = entry?.path();
        if entry.is_dir() {
            found.extend(files(&entry)?);
        } else if entry.extension().is_some_and(|extension| extension == "toml") {
            found.push(entry);
        }
    }
    found.sort();
    Ok(found)
}

fn scenarios(path: &Path, json: bool) -> io::Result<u8> {
    let files = files(path)?;
    if files.is_empty() {
        return usage(&format!("{}: no scenario files", path.display()));
    }
    let (mut passed, mut failed, mut malformed) = (0, 0, 0);
    let mut exit = PASS;
    for file in &files {
        let scenario = match Scenario::read(file) {
            Ok(scenario) => scenario,
            Err(error) => {
                writeln!(io::stderr(), "error: {error}")?;
                malformed += 1;
                continue;
            }
        };
        let known_limit = file.components().any(|part| part.as_os_str() == "known_limits");
        let label = if known_limit { "known limit: " } else { "" };
        let runs = std::iter::once(None).chain(scenario.expect.fails_under.map(Some));
        let mut wrong = Vec::new();
        for plant in runs {
            let outcome = campaign::run_one(&scenario.plan, plant);
            let replay = match plant {
                Some(plant) => format!("cargo run -p sim -- --scenario {} --plant {}", file.display(), plant.name()),
                None => format!("cargo run -p sim -- --scenario {}", file.display()),
            };
            if json {
                print(&format!("{}\n", outcome.json(&replay)))?;
            }
            if let Some(what) = unexpected(&scenario.expect, plant, &outcome) {
                wrong.push(format!("{what}\n    replay: {replay}"));
                // What the simulator could not judge is not a violation; a violation elsewhere is worth more.
                let harness = matches!(outcome.verdict, Verdict::Harness(_));
                exit = if harness && exit != VIOLATION { USAGE } else { VIOLATION };
            }
        }
        if wrong.is_empty() {
            passed += 1;
        } else {
            failed += 1;
        }
        if !json {
            let verdict = if wrong.is_empty() { "ok  " } else { "FAIL" };
            print(&format!("{verdict} {}: {label}{}\n", file.display(), scenario.claim))?;
            for what in wrong {
                print(&format!("    {what}\n"))?;
            }
        }
    }
    if !json {
        print(&format!("scenarios: {passed} as expected, {failed} not, {malformed} unreadable\n"))?;
    }
    Ok(if exit == PASS && malformed > 0 { USAGE } else { exit })
}

/// What is not as the scenario expects, if anything.
fn unexpected(expect: &Expect, plant: Option<Plant>, outcome: &Outcome) -> Option<String> {
    let found = match &outcome.verdict {
        Verdict::Pass => None,
        Verdict::Violation(violation) => Some(violation.invariant),
        Verdict::Harness(message) => return Some(format!("harness error: {message}")),
    };
    let refused = outcome.fired.contains_key(REFUSED);
    match plant {
        None if found == expect.violation.as_deref() && expect.refused.is_some_and(|wanted| wanted != refused) => {
            Some(format!("expected the open after the damage to be {}", if refused { "allowed" } else { "refused" }))
        }
        None if found == expect.violation.as_deref() => None,
        None => Some(format!(
            "expected {}, found {}: {}",
            expect.violation.as_deref().unwrap_or("a pass"),
            found.unwrap_or("a pass"),
            detail(outcome)
        )),
        Some(_) if found.is_some_and(|found| expect.fails_with.iter().any(|id| id == found)) => None,
        Some(plant) => Some(format!(
            "with {}: expected a violation of {}, found {}: {}",
            plant.name(),
            expect.fails_with.join(" or "),
            found.unwrap_or("a pass"),
            detail(outcome)
        )),
    }
}

fn detail(outcome: &Outcome) -> String {
    match &outcome.verdict {
        Verdict::Violation(violation) => format!("expected {}; found {}", violation.expected, violation.found),
        Verdict::Pass | Verdict::Harness(_) => "nothing was violated".into(),
    }
}
