//! Scenario files: a plan as TOML, with the claim that it makes and the planted bug under which the claim fails.
//!
//! `scenarios/README.md` has the grammar. A file is untrusted: every error names the file and the line and says what to
//! do, and nothing in it can ask for more work or memory than the limits below.

use std::{fs, io::Read as _, ops::Range, path::Path};

use engine::plant::Plant;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use toml::Spanned;

use self::{
    files::FileText,
    life::{LifeText, Total},
    options::{EngineText, MachineText},
};
use crate::{
    invariant,
    plan::{EngineOptions, MachinePlan, Plan},
    subject::SUBJECTS,
    workload::{draw, suggest},
};

mod files;
mod life;
mod options;
mod txn;

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
pub const MAX_PAUSE_US: u64 = 600_000_000;

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
        let file: PlanText = toml::from_str(text).map_err(syntax)?;
        file.scenario().map_err(|wrong| malformed(wrong.line(text), wrong.message))
    }

    /// The scenario as a file that parses back to it.
    #[must_use]
    pub fn to_toml(&self) -> String {
        // A plan has no value that TOML lacks.
        toml::to_string(&PlanText::from_scenario(self)).unwrap_or_default()
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
struct PlanText {
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
    #[serde(default, rename = "file", skip_serializing_if = "Vec::is_empty")]
    files: Vec<Spanned<FileText>>,
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

impl PlanText {
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
        let mut total = Total::default();
        plan.files = files::files(&self.files, &subject, &mut total)?;
        if !self.lives.is_empty() {
            plan.engine = EngineOptions::default();
            plan.machine = MachinePlan::default();
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

    fn from_scenario(scenario: &Scenario) -> PlanText {
        let Plan { seed, subject, engine, machine, files, lives, image_checks, damage_checks, .. } = &scenario.plan;
        PlanText {
            version: VERSION,
            claim: placeless(scenario.claim.clone()),
            subject: placeless(subject.clone()),
            seed: *seed,
            image_checks: *image_checks,
            damage_checks: *damage_checks,
            engine: EngineText::from_options(subject, engine),
            machine: MachineText::from_plan(machine),
            files: files.iter().map(|file| placeless(FileText::from_file(file))).collect(),
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
#[cfg(test)]
mod tests;
