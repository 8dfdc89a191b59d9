//! Scenario files: a plan as TOML, with the claim that it makes and the planted bug under which the claim fails.
//!
//! `scenarios/README.md` has the grammar. A file is untrusted: every error names the file and the line and says what to
//! do, and nothing in it can ask for more work or memory than the limits below.

use std::{fmt, fs, io::Read as _, path::Path, str::FromStr};

use engine::plant::Plant;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    disk::Keep,
    fault::Fault,
    invariant,
    plan::{At, Crash, CrashKind, End, EngineOptions, FaultAt, Life, MachinePlan, Plan},
    workload::{Op, draw, suggest},
};

/// Files longer than this are refused unread.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
/// The most lives, clients and operations of one scenario.
pub const MAX_LIVES: usize = 100;
/// Clients of one life.
pub const MAX_CLIENTS: usize = 64;
/// Operations in all.
pub const MAX_OPS: usize = 100_000;
/// Payload bytes in all.
pub const MAX_PAYLOAD_BYTES: u64 = 256 << 20;

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
        let file: FileText = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            malformed(line, with_suggestion(error.message()))
        })?;
        file.scenario().map_err(|(needle, message)| {
            let line = needle.and_then(|needle| text.find(&needle)).map_or(1, |at| line_of(text, at));
            malformed(line, message)
        })
    }

    /// The scenario as a file that parses back to it.
    #[must_use]
    pub fn to_toml(&self) -> String {
        // A plan has no value that TOML lacks.
        toml::to_string(&FileText::from_scenario(self)).unwrap_or_default()
    }
}

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

/// The file as TOML sees it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    version: u32,
    claim: String,
    #[serde(default = "wal")]
    subject: String,
    #[serde(default)]
    seed: u64,
    #[serde(default = "one")]
    image_checks: u32,
    #[serde(default)]
    engine: EngineText,
    #[serde(default)]
    machine: MachineText,
    #[serde(default, rename = "life", skip_serializing_if = "Vec::is_empty")]
    lives: Vec<LifeText>,
    #[serde(default)]
    expect: ExpectText,
}

fn wal() -> String {
    "wal".into()
}

fn one() -> u32 {
    1
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct EngineText {
    #[serde(skip_serializing_if = "Option::is_none")]
    segment_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    buffer_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_record_bytes: Option<u64>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct MachineText {
    #[serde(skip_serializing_if = "Option::is_none")]
    sector_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capacity_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_us: Option<(u64, u64)>,
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    rates: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct LifeText {
    #[serde(default)]
    clients: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    opening: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    faults: Vec<String>,
    end: String,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ExpectText {
    #[serde(skip_serializing_if = "Option::is_none")]
    violation: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fails_under: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    fails_with: Vec<String>,
}

/// What is wrong, and a text to find its line by.
type Wrong = (Option<String>, String);

impl FileText {
    fn scenario(self) -> Result<Scenario, Wrong> {
        let wrong = |needle: &str, message: String| Err((Some(needle.to_owned()), message));
        if self.version != 1 {
            return wrong("version", format!("version {} is unknown; this program reads version 1", self.version));
        }
        if self.subject != "wal" {
            return wrong("subject", format!("subject '{}' is unknown; there is: wal", self.subject));
        }
        if self.lives.len() > MAX_LIVES {
            return wrong("[[life]]", format!("{} lives, at most {MAX_LIVES}", self.lives.len()));
        }
        let drawn = draw(self.seed, &self.subject, false);
        let seeded = self.lives.is_empty();
        let base = if seeded { drawn.engine.clone() } else { EngineOptions::default() };
        let engine = EngineOptions {
            segment_bytes: self.engine.segment_bytes.unwrap_or(base.segment_bytes),
            buffer_bytes: self.engine.buffer_bytes.unwrap_or(base.buffer_bytes),
            max_record_bytes: self.engine.max_record_bytes.unwrap_or(base.max_record_bytes),
        };
        let options = engine::wal::Options::new()
            .segment_bytes(engine.segment_bytes)
            .buffer_bytes(engine.buffer_bytes)
            .max_record_bytes(engine.max_record_bytes);
        if let Err(error) = options.validate() {
            return wrong(error.option, error.to_string());
        }
        let machine = self.machine.plan(if seeded { drawn.machine } else { MachinePlan::default() })?;
        let lives: Vec<Life> =
            if seeded { drawn.lives } else { self.lives.iter().map(LifeText::life).collect::<Result<_, _>>()? };
        let ops = lives.iter().flat_map(|life| &life.clients).flatten();
        let bytes = ops.clone().map(|op| match op {
            Op::Append { bytes, .. } | Op::Abandon { bytes, .. } => *bytes,
            Op::Batch { count, bytes, .. } => count.saturating_mul(bytes.saturating_add(8)),
            _ => 0,
        });
        let bytes = bytes.fold(0_u64, u64::saturating_add);
        if ops.count() > MAX_OPS || bytes > MAX_PAYLOAD_BYTES {
            let message = format!("at most {MAX_OPS} operations with {MAX_PAYLOAD_BYTES} payload bytes in all");
            return wrong("clients", message);
        }
        let expect = self.expect.expect()?;
        let plan = Plan {
            seed: self.seed,
            subject: self.subject,
            engine,
            machine,
            lives,
            image_checks: self.image_checks,
            no_faults: false,
        };
        Ok(Scenario { claim: self.claim, plan, expect })
    }

    fn from_scenario(scenario: &Scenario) -> FileText {
        let Plan { seed, subject, engine, machine, lives, image_checks, .. } = &scenario.plan;
        FileText {
            version: 1,
            claim: scenario.claim.clone(),
            subject: subject.clone(),
            seed: *seed,
            image_checks: *image_checks,
            engine: EngineText {
                segment_bytes: Some(engine.segment_bytes),
                buffer_bytes: Some(engine.buffer_bytes),
                max_record_bytes: Some(engine.max_record_bytes),
            },
            machine: MachineText {
                sector_bytes: Some(machine.sector_bytes),
                capacity_bytes: Some(machine.capacity_bytes),
                latency_us: Some(machine.latency_us),
                rates: machine.rates.iter().map(|(fault, n)| (fault.name().into(), format!("1/{n}"))).collect(),
            },
            lives: lives.iter().map(LifeText::from_life).collect(),
            expect: ExpectText {
                violation: scenario.expect.violation.clone(),
                fails_under: scenario.expect.fails_under.map(|plant| plant.name().into()),
                fails_with: scenario.expect.fails_with.clone(),
            },
        }
    }
}

impl MachineText {
    fn plan(&self, base: MachinePlan) -> Result<MachinePlan, Wrong> {
        let mut plan = base;
        if let Some(bytes) = self.sector_bytes {
            if bytes != 512 && bytes != 4096 {
                return Err((Some("sector_bytes".into()), format!("sector_bytes is {bytes}; use 512 or 4096")));
            }
            plan.sector_bytes = bytes;
        }
        plan.capacity_bytes = self.capacity_bytes.unwrap_or(plan.capacity_bytes);
        if let Some((least, greatest)) = self.latency_us {
            if least > greatest || greatest > 1_000_000 {
                let message = "latency_us is [least, greatest], at most 1000000".into();
                return Err((Some("latency_us".into()), message));
            }
            plan.latency_us = (least, greatest);
        }
        for (name, rate) in &self.rates {
            let calls = rate.strip_prefix("1/").and_then(|calls| calls.parse().ok()).filter(|calls| *calls > 0);
            let calls = calls.ok_or_else(|| (Some(name.clone()), format!("rate '{rate}' is not like 1/64")))?;
            plan.rates.insert(fault(name)?, calls);
        }
        Ok(plan)
    }
}

fn fault(name: &str) -> Result<Fault, Wrong> {
    Fault::from_name(name).ok_or_else(|| {
        let names = Fault::ALL.map(Fault::name);
        let hint = suggest(name, &names)
            .map_or_else(|| format!("there are: {}", names.join(", ")), |near| format!("did you mean '{near}'?"));
        (Some(name.to_owned()), format!("fault '{name}' is unknown; {hint}"))
    })
}

impl LifeText {
    fn life(&self) -> Result<Life, Wrong> {
        if self.clients.len() > MAX_CLIENTS {
            return Err((Some("clients".into()), format!("{} clients, at most {MAX_CLIENTS}", self.clients.len())));
        }
        let ops = |client: &String| -> Result<Vec<Op>, Wrong> {
            let texts = client.split(';').map(str::trim).filter(|text| !text.is_empty());
            texts.map(|text| text.parse().map_err(at(text))).collect()
        };
        Ok(Life {
            clients: self.clients.iter().map(ops).collect::<Result<_, _>>()?,
            opening: self.opening.iter().map(|text| text.parse().map_err(at(text))).collect::<Result<_, _>>()?,
            faults: self.faults.iter().map(|text| fault_at(text)).collect::<Result<_, _>>()?,
            end: match self.end.as_str() {
                "close" => End::Close,
                text => End::Crash(text.parse().map_err(at(text))?),
            },
        })
    }

    fn from_life(life: &Life) -> LifeText {
        let client = |ops: &Vec<Op>| ops.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        LifeText {
            clients: life.clients.iter().map(client).collect(),
            opening: life.opening.iter().map(ToString::to_string).collect(),
            faults: life.faults.iter().map(|at| format!("{} at io {}", at.fault.name(), at.io)).collect(),
            end: match &life.end {
                End::Close => "close".into(),
                End::Crash(crash) => crash.to_string(),
            },
        }
    }
}

/// An error whose line is found by `text`.
fn at(text: &str) -> impl FnOnce(String) -> Wrong {
    let text = text.to_owned();
    move |message| (Some(text), message)
}

fn fault_at(text: &str) -> Result<FaultAt, Wrong> {
    let (name, io) = text
        .split_once(" at io ")
        .and_then(|(name, io)| Some((name.trim(), io.trim().parse().ok()?)))
        .ok_or_else(|| (Some(text.to_owned()), format!("'{text}' is not like 'eio-sync at io 12'")))?;
    Ok(FaultAt { io, fault: fault(name)? })
}

impl ExpectText {
    fn expect(self) -> Result<Expect, Wrong> {
        for id in self.violation.iter().chain(&self.fails_with) {
            if !invariant::ALL.iter().any(|invariant| invariant.id == id) {
                return Err((Some(id.clone()), format!("invariant '{id}' is unknown; --list shows all")));
            }
        }
        let plant = |name: &String| {
            Plant::from_name(name).ok_or_else(|| {
                let names: Vec<&str> = Plant::ALL.iter().map(|plant| plant.name()).collect();
                let hint = suggest(name, &names)
                    .map_or_else(|| "--list shows all".into(), |near| format!("did you mean '{near}'?"));
                (Some(name.clone()), format!("planted bug '{name}' is unknown; {hint}"))
            })
        };
        let fails_under = self.fails_under.as_ref().map(plant).transpose()?;
        if fails_under.is_some() == self.fails_with.is_empty() {
            return Err((Some("[expect]".into()), "fails_under and fails_with stand together or not at all".into()));
        }
        Ok(Expect { violation: self.violation, fails_under, fails_with: self.fails_with })
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
            Keep::Draw => f.write_str(" keep draw"),
            Keep::All => f.write_str(" keep all"),
            Keep::None => f.write_str(" keep none"),
            Keep::Only(names) => write!(f, " keep only {}", names.join(", ")),
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
            Some(io) => At::Io(io.trim().parse().map_err(|_| usage())?),
            None if at.trim() == "end" => At::Done,
            None => return Err(usage()),
        };
        let keep = match keep.trim() {
            "draw" => Keep::Draw,
            "all" => Keep::All,
            "none" => Keep::None,
            other => match other.strip_prefix("only ") {
                Some(names) => Keep::Only(names.split(',').map(|name| name.trim().to_owned()).collect()),
                None => return Err(format!("'{other}' is not draw, all, none or 'only FILE, …'")),
            },
        };
        let keep = if kind == CrashKind::Kill { Keep::Draw } else { keep };
        Ok(Crash { kind, at, keep })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_drawn_plan_reads_back_as_a_file(seed: u64) {
            let plan = draw(seed >> 1, "wal", false);
            let scenario = Scenario { claim: "a \"claim\"".into(), plan, expect: Expect::default() };
            let text = scenario.to_toml();
            prop_assert_eq!(Scenario::parse(&text, "file"), Ok(scenario));
        }

        #[test]
        fn any_text_is_a_scenario_or_an_error(text: String) {
            let _ = Scenario::parse(&text, "file");
        }
    }

    fn error(text: &str) -> String {
        Scenario::parse(text, "file").expect_err("malformed").to_string()
    }

    #[test]
    fn errors_name_the_line_and_suggest() {
        let head = "version = 1\nclaim = \"c\"\n";
        assert!(error("").contains("empty"));
        assert!(error("version = 2\nclaim = \"c\"").starts_with("file:1: version 2"));
        assert!(error(&format!("{head}subjct = \"wal\"")).contains("did you mean 'subject'"));
        let life = |clients: &str, end: &str| format!("{head}[[life]]\nclients = [\"{clients}\"]\nend = \"{end}\"\n");
        assert_eq!(
            error(&life("sync; apend 1 sync", "close")),
            "file:4: 'apend' is no operation; did you mean 'append'?"
        );
        assert!(error(&life("sync", "kil at io 3")).starts_with("file:5: 'kil at io 3' is not like"));
        assert!(
            error(&format!("{head}[engine]\nsegment_bytes = 5\n")).starts_with("file:4: option segment_bytes is 5")
        );
        assert!(error(&format!("{head}[machine]\nrates = {{ eintrr = \"1/2\" }}\n")).contains("did you mean 'eintr'"));
        assert!(
            error(&format!("{head}[expect]\nfails_under = \"wal-seg-no-dirsink\"\nfails_with = [\"I1\"]\n"))
                .contains("did you mean 'wal-seg-no-dirsync'")
        );
        let huge = life("batch 9999999999x99999999999 sync", "close");
        assert!(error(&huge).contains("at most"));
    }
}
