//! The sections `[[life]]`: operations, faults, crashes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{MAX_CLIENTS, MAX_EVENTS, MAX_OPS, MAX_PAUSE_US, MAX_PAYLOAD_BYTES, Wrong, placeless};
use crate::{
    disk::Keep,
    fault::Fault,
    plan::{At, Crash, CrashKind, End, FaultAt, Life},
    workload::{Op, Step, suggest},
};

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LifeText {
    #[serde(default)]
    pub(super) clients: Vec<Spanned<String>>,
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

/// What all operations read so far ask for.
#[derive(Default)]
pub(super) struct Total {
    operations: usize,
    bytes: u64,
    pause_us: u64,
}

impl Total {
    pub(super) fn add(&mut self, op: &Op) -> Result<(), String> {
        self.operations += 1;
        let bytes = match op {
            Op::Append { bytes, .. } | Op::Abandon { bytes, .. } => *bytes,
            Op::Batch { count, bytes, .. } | Op::Write { count, bytes } => {
                count.saturating_mul(bytes.saturating_add(8))
            }
            Op::Txn(Step::Put { bytes, .. }) => *bytes,
            Op::Txn(Step::Load { rows, bytes, .. }) => rows.saturating_mul(bytes.saturating_add(8)),
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
    pub(super) fn life(&self, total: &mut Total) -> Result<Life, Wrong> {
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
        let crash =
            |text: &Spanned<String>| text.get_ref().parse().map_err(|message: String| Wrong::new(text, message));
        let damage =
            |text: &Spanned<String>| text.get_ref().parse().map_err(|message: String| Wrong::new(text, message));
        let life = Life {
            clients: self.clients.iter().map(|client| ops(client, total)).collect::<Result<_, _>>()?,
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

    pub(super) fn from_life(life: &Life) -> LifeText {
        let fault = |at: &FaultAt| format!("{} at io {}", at.fault.name(), at.io);
        LifeText {
            clients: life.clients.iter().map(|ops| placeless(text_of(ops))).collect(),
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

/// Operations, which stand behind each other with `;`.
pub(super) fn ops(all: &Spanned<String>, total: &mut Total) -> Result<Vec<Op>, Wrong> {
    let texts = all.get_ref().split(';').map(str::trim).filter(|text| !text.is_empty());
    let mut op = |text: &str| -> Result<Op, Wrong> {
        let op = text.parse().and_then(|op| total.add(&op).map(|()| op));
        op.map_err(|message| Wrong { part: text.to_owned(), ..Wrong::new(all, message) })
    };
    texts.map(&mut op).collect()
}

pub(super) fn text_of(ops: &[Op]) -> String {
    ops.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
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
pub(super) fn fault(name: &str) -> Result<Fault, String> {
    Fault::from_name(name).ok_or_else(|| {
        let names = Fault::ALL.map(Fault::name);
        let hint = suggest(name, &names)
            .map_or_else(|| format!("there are: {}", names.join(", ")), |near| format!("did you mean '{near}'?"));
        format!("fault '{name}' is unknown; {hint}")
    })
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
