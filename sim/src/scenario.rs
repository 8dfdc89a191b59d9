//! Scenario files: a plan as TOML, with the claim that it makes and the planted bug under which the claim fails.
//!
//! `scenarios/README.md` has the grammar. A file is untrusted: every error names the file and the line and says what to
//! do, and nothing in it can ask for more work or memory than the limits below.

use std::{collections::BTreeMap, fmt, fs, io::Read as _, ops::Range, path::Path, str::FromStr};

use engine::{aof, plant::Plant};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use toml::Spanned;

use crate::{
    disk::Keep,
    fault::Fault,
    invariant,
    plan::{At, CommandOptions, Crash, CrashKind, End, EngineOptions, FaultAt, Life, MachinePlan, Plan, Policy},
    subject::SUBJECTS,
    workload::{Op, draw, suggest},
};

/// Files longer than this are refused unread.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
/// Lives of one scenario.
pub const MAX_LIVES: usize = 100;
/// Clients of one life.
pub const MAX_CLIENTS: usize = 64;
/// Crashes while one life opens, and explicit faults of one life.
pub const MAX_EVENTS: usize = 1_000;
/// Operations in all.
pub const MAX_OPS: usize = 100_000;
/// Payload bytes in all; each record of a batch counts 8 more.
pub const MAX_PAYLOAD_BYTES: u64 = 256 << 20;
/// Microseconds of `pause` in all.
pub const MAX_PAUSE_US: u64 = 10_000_000;

/// Why a file is no scenario.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ScenarioError {
    /// It can't be read.
    #[error("{path}: {message}")]
    Unreadable {
        /// The file.
        path: String,
        /// The machine's words.
        message: String,
    },
    /// It doesn't follow the grammar.
    #[error("{path}:{line}: {message}")]
    Malformed {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong, and what would be right.
        message: String,
    },
}

/// A scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// What it shows, in one sentence.
    pub claim: String,
    /// What runs.
    pub plan: Plan,
    /// What must come out.
    pub expect: Expect,
}

/// What must come out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    /// The invariant that is violated without any plant; none for a pass.
    pub violation: Option<String>,
    /// Whether an open is refused for the damage that the lives do.
    pub refused: Option<bool>,
    /// A planted bug under which it fails.
    pub fails_under: Option<Plant>,
    /// The invariants that may be named then.
    pub fails_with: Vec<String>,
}

impl Scenario {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ScenarioError`], with the line.
    pub fn read(path: &Path) -> Result<Scenario, ScenarioError> {
        let name = path.display().to_string();
        let unreadable = |message: String| ScenarioError::Unreadable { path: name.clone(), message };
        let file = fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| unreadable(error.to_string()))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(unreadable(format!("larger than {MAX_FILE_BYTES} bytes, which no scenario needs")));
        }
        let text = String::from_utf8(bytes).map_err(|_| unreadable("not UTF-8 text".into()))?;
        Scenario::parse(&text, &name)
    }

    /// Parses the text of the file `path`.
    ///
    /// # Errors
    /// [`ScenarioError`], with the line.
    pub fn parse(text: &str, path: &str) -> Result<Scenario, ScenarioError> {
        let malformed = |line: usize, message: String| ScenarioError::Malformed { path: path.into(), line, message };
        if text.trim().is_empty() {
            return Err(malformed(1, "the file is empty; scenarios/README.md has the grammar".into()));
        }
        let syntax = |error: toml::de::Error| {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            malformed(line, with_suggestion(error.message()))
        };
        // The version decides which keys there are, so it is judged before them.
        let VersionText { version } = toml::from_str(text).map_err(syntax)?;
        if *version.get_ref() != VERSION {
            let message = format!("version {} is unknown; this program reads version {VERSION}", version.get_ref());
            return Err(malformed(line_of(text, version.span().start), message));
        }
        let file: FileText = toml::from_str(text).map_err(syntax)?;
        file.scenario().map_err(|wrong| malformed(wrong.line(text), wrong.message))
    }

    /// The scenario as a file that parses back to it.
    #[must_use]
    pub fn to_toml(&self) -> String {
        // A plan has no value that TOML lacks.
        toml::to_string(&FileText::from_scenario(self)).unwrap_or_default()
    }
}

/// The version of the grammar.
const VERSION: i64 = 1;

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// serde lists the fields that it knows; the nearest one is what was meant.
fn with_suggestion(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match quoted.split_first() {
        Some((unknown, known)) if message.starts_with("unknown field") => match suggest(unknown, known) {
            Some(near) => format!("unknown key '{unknown}'; did you mean '{near}'?"),
            None => format!("unknown key '{unknown}'; there are: {}", known.join(", ")),
        },
        _ => message.lines().next().unwrap_or(message).to_owned(),
    }
}

/// What every version of the file has.
#[derive(Debug, Deserialize)]
struct VersionText {
    version: Spanned<i64>,
}

/// The file as TOML sees it. What is read further keeps its place in the file, for errors.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    version: i64,
    claim: Spanned<String>,
    #[serde(default = "wal")]
    subject: Spanned<String>,
    #[serde(default)]
    seed: u64,
    #[serde(default = "one")]
    image_checks: u32,
    #[serde(default)]
    damage_checks: u32,
    #[serde(default)]
    engine: EngineText,
    #[serde(default)]
    machine: MachineText,
    #[serde(default, rename = "life", skip_serializing_if = "Vec::is_empty")]
    lives: Vec<Spanned<LifeText>>,
    #[serde(default = "nothing")]
    expect: Spanned<ExpectText>,
}

fn wal() -> Spanned<String> {
    placeless("wal".into())
}

fn nothing() -> Spanned<ExpectText> {
    placeless(ExpectText::default())
}

/// A value that stands in no file: a default, or one that is being written.
fn placeless<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

fn one() -> u32 {
    1
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct EngineText {
    #[serde(skip_serializing_if = "Option::is_none")]
    segment_bytes: Option<Spanned<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    buffer_bytes: Option<Spanned<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_record_bytes: Option<Spanned<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_us: Option<Spanned<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    synced_writes: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    split_large: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    appendfsync: Option<Spanned<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ring_pages: Option<Spanned<usize>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ring_page_bytes: Option<Spanned<usize>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamps: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checksums: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    no_appendfsync_on_rewrite: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disable_auto_gc: Option<bool>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct MachineText {
    #[serde(skip_serializing_if = "Option::is_none")]
    sector_bytes: Option<Spanned<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capacity_bytes: Option<Spanned<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_us: Option<Spanned<(u64, u64)>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    rates: BTreeMap<String, Spanned<String>>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct LifeText {
    #[serde(default)]
    clients: Vec<Spanned<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    opening: Vec<Spanned<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    opening_faults: Vec<Spanned<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    faults: Vec<Spanned<String>>,
    end: Spanned<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    damage: Vec<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ExpectText {
    #[serde(skip_serializing_if = "Option::is_none")]
    violation: Option<Spanned<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fails_under: Option<Spanned<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    fails_with: Vec<Spanned<String>>,
}

/// What is wrong with a value, and where it stands.
#[derive(Debug)]
struct Wrong {
    place: Range<usize>,
    /// The part of the value that is wrong: a string over several lines has more than one place.
    part: String,
    message: String,
}

impl Wrong {
    fn new<T>(value: &Spanned<T>, message: impl Into<String>) -> Wrong {
        Wrong { place: value.span(), part: String::new(), message: message.into() }
    }

    fn line(&self, text: &str) -> usize {
        let part = text.get(self.place.clone()).and_then(|value| value.find(&self.part)).unwrap_or(0);
        line_of(text, self.place.start + part)
    }
}

impl FileText {
    fn scenario(self) -> Result<Scenario, Wrong> {
        if self.claim.get_ref().trim().is_empty() {
            return Err(Wrong::new(&self.claim, "the claim is empty; say in one sentence what the scenario shows"));
        }
        let subjects: Vec<&str> = SUBJECTS.iter().map(|(name, _)| *name).collect();
        if !subjects.contains(&self.subject.get_ref().as_str()) {
            let message =
                format!("subject '{}' is unknown; there are: {}", self.subject.get_ref(), subjects.join(", "));
            return Err(Wrong::new(&self.subject, message));
        }
        if let Some(life) = self.lives.get(MAX_LIVES) {
            return Err(Wrong::new(life, format!("{} lives, at most {MAX_LIVES}", self.lives.len())));
        }
        let subject = self.subject.get_ref().clone();
        let mut plan = draw(self.seed, &subject, false);
        if !self.lives.is_empty() {
            plan.engine = EngineOptions::default();
            plan.machine = MachinePlan::default();
            let mut total = Total::default();
            plan.lives = self.lives.iter().map(|life| life.get_ref().life(&mut total)).collect::<Result<_, _>>()?;
        }
        for (life, text) in plan.lives.iter().zip(&self.lives) {
            for (ops, client) in life.clients.iter().zip(&text.get_ref().clients) {
                if let Some(op) = ops.iter().find(|op| !op.is_for(&subject)) {
                    return Err(Wrong::new(client, format!("'{op}' is no operation of subject '{subject}'")));
                }
            }
        }
        self.engine.change(&mut plan.engine)?;
        self.machine.change(&mut plan.machine)?;
        plan.image_checks = self.image_checks;
        plan.damage_checks = self.damage_checks;
        Ok(Scenario { claim: self.claim.into_inner(), plan, expect: self.expect.get_ref().expect(&self.expect)? })
    }

    fn from_scenario(scenario: &Scenario) -> FileText {
        let Plan { seed, subject, engine, machine, lives, image_checks, damage_checks, .. } = &scenario.plan;
        FileText {
            version: VERSION,
            claim: placeless(scenario.claim.clone()),
            subject: placeless(subject.clone()),
            seed: *seed,
            image_checks: *image_checks,
            damage_checks: *damage_checks,
            engine: EngineText::from_options(subject, engine),
            machine: MachineText {
                sector_bytes: Some(placeless(machine.sector_bytes)),
                capacity_bytes: Some(placeless(machine.capacity_bytes)),
                latency_us: Some(placeless(machine.latency_us)),
                rates: (machine.rates.iter())
                    .map(|(fault, calls)| (fault.name().into(), placeless(format!("1/{calls}"))))
                    .collect(),
            },
            lives: lives.iter().map(|life| placeless(LifeText::from_life(life))).collect(),
            expect: placeless(ExpectText {
                violation: scenario.expect.violation.clone().map(placeless),
                refused: scenario.expect.refused,
                fails_under: scenario.expect.fails_under.map(|plant| placeless(plant.name().into())),
                fails_with: scenario.expect.fails_with.iter().cloned().map(placeless).collect(),
            }),
        }
    }
}

impl EngineText {
    fn from_options(subject: &str, engine: &EngineOptions) -> EngineText {
        let split_large = Some(engine.split_large);
        if subject == "wal" {
            return EngineText {
                segment_bytes: Some(placeless(engine.segment_bytes)),
                buffer_bytes: Some(placeless(engine.buffer_bytes)),
                max_record_bytes: Some(placeless(engine.max_record_bytes)),
                idle_us: Some(placeless(engine.idle_us)),
                synced_writes: Some(engine.synced_writes),
                split_large,
                ..EngineText::default()
            };
        }
        EngineText {
            appendfsync: Some(placeless(engine.commands.policy.to_string())),
            ring_pages: Some(placeless(engine.commands.ring_pages)),
            ring_page_bytes: Some(placeless(engine.commands.ring_page_bytes)),
            timestamps: Some(engine.commands.timestamps),
            checksums: Some(engine.commands.checksums),
            no_appendfsync_on_rewrite: Some(engine.commands.no_sync_on_rewrite),
            disable_auto_gc: Some(engine.commands.keep_history),
            split_large,
            ..EngineText::default()
        }
    }

    fn change_commands(&self, commands: &mut CommandOptions) -> Result<(), Wrong> {
        if let Some(name) = &self.appendfsync {
            let policy = Policy::ALL.iter().find(|(_, known)| known == name.get_ref());
            let wrong = || Wrong::new(name, format!("appendfsync is '{}'; use always, everysec or no", name.get_ref()));
            commands.policy = policy.ok_or_else(wrong)?.0;
        }
        if let Some(pages) = &self.ring_pages {
            commands.ring_pages = *pages.get_ref();
        }
        if let Some(bytes) = &self.ring_page_bytes {
            commands.ring_page_bytes = *bytes.get_ref();
        }
        commands.timestamps = self.timestamps.unwrap_or(commands.timestamps);
        commands.checksums = self.checksums.unwrap_or(commands.checksums);
        commands.no_sync_on_rewrite = self.no_appendfsync_on_rewrite.unwrap_or(commands.no_sync_on_rewrite);
        commands.keep_history = self.disable_auto_gc.unwrap_or(commands.keep_history);
        let options = aof::options::Options {
            ring_pages: commands.ring_pages,
            ring_page_bytes: commands.ring_page_bytes,
            ..aof::options::Options::default()
        };
        options.validate().map_err(|error| {
            let place = if error.option == "ring_pages" { &self.ring_pages } else { &self.ring_page_bytes };
            match place {
                Some(value) => Wrong::new(value, error.to_string()),
                None => Wrong::new(&placeless(()), error.to_string()),
            }
        })
    }

    fn change(&self, engine: &mut EngineOptions) -> Result<(), Wrong> {
        let values = [
            ("segment_bytes", &self.segment_bytes, &mut engine.segment_bytes),
            ("buffer_bytes", &self.buffer_bytes, &mut engine.buffer_bytes),
            ("max_record_bytes", &self.max_record_bytes, &mut engine.max_record_bytes),
            ("idle_us", &self.idle_us, &mut engine.idle_us),
        ];
        self.change_commands(&mut engine.commands)?;
        let mut given = BTreeMap::new();
        for (name, value, option) in values {
            if let Some(value) = value {
                *option = *value.get_ref();
                given.insert(name, value);
            }
        }
        // What is legal is the engine's to say.
        let options = engine::wal::Options::new()
            .segment_bytes(engine.segment_bytes)
            .buffer_bytes(engine.buffer_bytes)
            .max_record_bytes(engine.max_record_bytes)
            .idle(std::time::Duration::from_micros(engine.idle_us));
        if let Some(synced_writes) = self.synced_writes {
            engine.synced_writes = synced_writes;
        }
        if let Some(split_large) = self.split_large {
            engine.split_large = split_large;
        }
        options.validate().map_err(|error| {
            match given.get(if error.option == "idle" { "idle_us" } else { error.option }) {
                Some(value) => Wrong::new(value, error.to_string()),
                None => Wrong::new(&placeless(()), error.to_string()),
            }
        })
    }
}

impl MachineText {
    fn change(&self, machine: &mut MachinePlan) -> Result<(), Wrong> {
        if let Some(value) = &self.sector_bytes {
            machine.sector_bytes = *value.get_ref();
            if !matches!(machine.sector_bytes, 512 | 4096) {
                return Err(Wrong::new(value, format!("sector_bytes is {}; use 512 or 4096", machine.sector_bytes)));
            }
        }
        if let Some(value) = &self.capacity_bytes {
            machine.capacity_bytes = *value.get_ref();
        }
        if let Some(value) = &self.latency_us {
            machine.latency_us = *value.get_ref();
            let (least, greatest) = machine.latency_us;
            if least > greatest || greatest > 1_000_000 {
                return Err(Wrong::new(value, "latency_us is [least, greatest], at most 1000000"));
            }
        }
        for (name, rate) in &self.rates {
            let calls = rate.get_ref().strip_prefix("1/").and_then(|calls| calls.parse().ok());
            let Some(calls) = calls.filter(|calls| *calls > 0) else {
                return Err(Wrong::new(rate, format!("rate '{}' is not like 1/64", rate.get_ref())));
            };
            machine.rates.insert(fault(name).map_err(|message| Wrong::new(rate, message))?, calls);
        }
        Ok(())
    }
}

fn fault(name: &str) -> Result<Fault, String> {
    Fault::from_name(name).ok_or_else(|| {
        let names = Fault::ALL.map(Fault::name);
        let hint = suggest(name, &names)
            .map_or_else(|| format!("there are: {}", names.join(", ")), |near| format!("did you mean '{near}'?"));
        format!("fault '{name}' is unknown; {hint}")
    })
}

/// What all operations read so far ask for.
#[derive(Default)]
struct Total {
    operations: usize,
    bytes: u64,
    pause_us: u64,
}

impl Total {
    fn add(&mut self, op: &Op) -> Result<(), String> {
        self.operations += 1;
        let bytes = match op {
            Op::Append { bytes, .. } | Op::Abandon { bytes, .. } => *bytes,
            Op::Batch { count, bytes, .. } | Op::Write { count, bytes } => {
                count.saturating_mul(bytes.saturating_add(8))
            }
            _ => 0,
        };
        self.bytes = self.bytes.saturating_add(bytes);
        if let Op::Pause { us } = op {
            self.pause_us = self.pause_us.saturating_add(*us);
        }
        if self.operations > MAX_OPS || self.bytes > MAX_PAYLOAD_BYTES || self.pause_us > MAX_PAUSE_US {
            return Err(format!(
                "'{op}' is too much: at most {MAX_OPS} operations, {MAX_PAYLOAD_BYTES} payload bytes and \
                 {MAX_PAUSE_US} microseconds of pause in all"
            ));
        }
        Ok(())
    }
}

impl LifeText {
    fn life(&self, total: &mut Total) -> Result<Life, Wrong> {
        for (name, list, most) in [
            ("clients", &self.clients, MAX_CLIENTS),
            ("opening", &self.opening, MAX_EVENTS),
            ("opening_faults", &self.opening_faults, MAX_EVENTS),
            ("faults", &self.faults, MAX_EVENTS),
            ("damage", &self.damage, MAX_EVENTS),
        ] {
            if let Some(first_beyond) = list.get(most) {
                return Err(Wrong::new(first_beyond, format!("{} {name}, at most {most}", list.len())));
            }
        }
        let mut client = |client: &Spanned<String>| -> Result<Vec<Op>, Wrong> {
            let texts = client.get_ref().split(';').map(str::trim).filter(|text| !text.is_empty());
            let mut op = |text: &str| -> Result<Op, Wrong> {
                let op = text.parse().and_then(|op| total.add(&op).map(|()| op));
                op.map_err(|message| Wrong { part: text.to_owned(), ..Wrong::new(client, message) })
            };
            texts.map(&mut op).collect()
        };
        let crash =
            |text: &Spanned<String>| text.get_ref().parse().map_err(|message: String| Wrong::new(text, message));
        let damage =
            |text: &Spanned<String>| text.get_ref().parse().map_err(|message: String| Wrong::new(text, message));
        let life = Life {
            clients: self.clients.iter().map(&mut client).collect::<Result<_, _>>()?,
            opening: self.opening.iter().map(crash).collect::<Result<_, _>>()?,
            opening_faults: self.opening_faults.iter().map(fault_at).collect::<Result<_, _>>()?,
            faults: self.faults.iter().map(fault_at).collect::<Result<_, _>>()?,
            end: if self.end.get_ref() == "close" { End::Close } else { End::Crash(crash(&self.end)?) },
            damage: self.damage.iter().map(damage).collect::<Result<_, _>>()?,
        };
        let cuts = |ops: &Vec<Op>| ops.iter().any(|op| matches!(op, Op::TruncateBack { .. }));
        if let Some(at) = life.clients.iter().position(cuts)
            && life.clients.len() > 1
        {
            let message = "truncate-back is for lives with one client: which record an LSN names must be clear";
            return Err(Wrong::new(&self.clients[at], message));
        }
        Ok(life)
    }

    fn from_life(life: &Life) -> LifeText {
        let client = |ops: &Vec<Op>| ops.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let fault = |at: &FaultAt| format!("{} at io {}", at.fault.name(), at.io);
        LifeText {
            clients: life.clients.iter().map(client).map(placeless).collect(),
            opening: life.opening.iter().map(ToString::to_string).map(placeless).collect(),
            opening_faults: life.opening_faults.iter().map(fault).map(placeless).collect(),
            faults: life.faults.iter().map(fault).map(placeless).collect(),
            end: placeless(match &life.end {
                End::Close => "close".into(),
                End::Crash(crash) => crash.to_string(),
            }),
            damage: life.damage.iter().map(ToString::to_string).map(placeless).collect(),
        }
    }
}

fn fault_at(text: &Spanned<String>) -> Result<FaultAt, Wrong> {
    let wrong = |message: String| Wrong::new(text, message);
    let words = text.get_ref().split_once(" at io ");
    let (name, io) = words
        .and_then(|(name, io)| Some((name.trim(), call(io)?)))
        .ok_or_else(|| wrong(format!("'{}' is not like 'eio-sync at io 12'", text.get_ref())))?;
    Ok(FaultAt { io, fault: fault(name).map_err(wrong)? })
}

/// The number of an I/O call; they count from 1.
fn call(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|io| *io > 0)
}

impl ExpectText {
    fn expect(&self, whole: &Spanned<ExpectText>) -> Result<Expect, Wrong> {
        for id in self.violation.iter().chain(&self.fails_with) {
            let known: Vec<&str> = invariant::ALL.iter().map(|invariant| invariant.id).collect();
            if !known.contains(&id.get_ref().as_str()) {
                let message = format!("invariant '{}' is unknown; there are: {}", id.get_ref(), known.join(", "));
                return Err(Wrong::new(id, message));
            }
        }
        let plant = |name: &Spanned<String>| {
            Plant::from_name(name.get_ref()).ok_or_else(|| {
                let names: Vec<&str> = Plant::ALL.iter().map(|plant| plant.name()).collect();
                let hint = suggest(name.get_ref(), &names)
                    .map_or_else(|| "--list shows all".into(), |near| format!("did you mean '{near}'?"));
                Wrong::new(name, format!("planted bug '{}' is unknown; {hint}", name.get_ref()))
            })
        };
        let fails_under = self.fails_under.as_ref().map(plant).transpose()?;
        if fails_under.is_some() == self.fails_with.is_empty() {
            return Err(Wrong::new(whole, "fails_under and fails_with stand together or not at all"));
        }
        Ok(Expect {
            violation: self.violation.as_ref().map(|id| id.get_ref().clone()),
            refused: self.refused,
            fails_under,
            fails_with: self.fails_with.iter().map(|id| id.get_ref().clone()).collect(),
        })
    }
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            CrashKind::Kill => "kill at ",
            CrashKind::PowerCut => "power cut at ",
        })?;
        match self.at {
            At::Io(io) => write!(f, "io {io}")?,
            At::Done => f.write_str("end")?,
        }
        match &self.keep {
            _ if self.kind == CrashKind::Kill => Ok(()),
            keep => write!(f, " keep {keep}"),
        }
    }
}

impl FromStr for Crash {
    type Err = String;

    fn from_str(text: &str) -> Result<Crash, String> {
        let usage = || format!("'{text}' is not like 'kill at io 12' or 'power cut at end keep none'");
        let (kind, rest) = match (text.strip_prefix("kill at "), text.strip_prefix("power cut at ")) {
            (Some(rest), _) => (CrashKind::Kill, rest),
            (_, Some(rest)) => (CrashKind::PowerCut, rest),
            _ => return Err(usage()),
        };
        let (at, keep) = rest.split_once(" keep ").unwrap_or((rest, "draw"));
        let at = match at.trim().strip_prefix("io ") {
            Some(io) => At::Io(call(io).ok_or_else(usage)?),
            None if at.trim() == "end" => At::Done,
            None => return Err(usage()),
        };
        let keep = keep.parse()?;
        if kind == CrashKind::Kill && keep != Keep::Draw {
            return Err(format!("'{text}': a kill keeps everything; only a power cut has a choice"));
        }
        Ok(Crash { kind, at, keep })
    }
}

#[cfg(test)]
mod tests;
