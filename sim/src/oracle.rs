//! What must hold: the history of a run as the simulator knows it, and the checks of `invariant.rs` against it.
//!
//! The truth is kept from outside the engine: what each client issued and was answered. A check returns a [`Violation`]
//! with what was expected and what was found; each check that really ran is counted.

mod recovered;

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use engine::wal::Durability;

use crate::{
    report::Violation,
    runner::virtual_us,
    subject::{NotAppended, NotTruncated, Recovered},
};

/// How firmly a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Accepted, nothing promised.
    Possible,
    /// Acknowledged as written: must survive a process kill.
    Written,
    /// Acknowledged as durable: must survive everything.
    Durable,
    /// Delivered by a recovery: must survive everything from then on.
    Delivered,
}

/// A record whose LSN is known.
#[derive(Clone, Debug)]
struct Known {
    payload: Bytes,
    standing: Standing,
    /// The append that it belongs to.
    append: u64,
    /// When it was known to be there, in virtual microseconds.
    since_us: u64,
}

/// Where an append stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Issued, or its client died, or it was abandoned: it may be in the log or not.
    Open,
    /// Its first LSN is known.
    Placed(u64),
    /// Definitely not in the log.
    Rejected,
    /// A recovery showed that it isn't in the log.
    Gone,
}

/// An append that was issued.
#[derive(Clone, Debug)]
struct Append {
    /// As it was issued.
    issued: Arc<[Bytes]>,
    /// So many of them the back of the log has not lost.
    kept: usize,
    progress: Progress,
    /// While it was unanswered, the back of the log was removed from here on.
    removed_from: u64,
    /// It was removed with the back of the log, and a drive that lies may bring it back, in the place of what came after it.
    may_return: bool,
}

impl Append {
    fn records(&self) -> &[Bytes] {
        &self.issued[..self.kept]
    }
}

/// How the life before a recovery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing: a first open.
    Nothing,
    /// A clean close.
    Close,
    /// A process kill.
    Kill,
    /// A power cut.
    PowerCut,
}

/// The history of one run.
#[derive(Debug, Default)]
pub struct History {
    known: BTreeMap<u64, Known>,
    appends: BTreeMap<u64, Append>,
    next_append: u64,
    checked: Vec<(&'static str, u64)>,
    acknowledged: BTreeMap<&'static str, u64>,
    /// Records below this LSN were acknowledged as released.
    floor: u64,
    /// Records below this LSN were asked to be released.
    releasing: u64,
    /// Records from this LSN on were asked to be removed, and no answer came yet.
    cutting: Option<u64>,
    /// The highest generation seen.
    generation: u64,
    /// The last recovery left something behind, so what follows must not join it.
    left_behind: bool,
    /// Errors on the log's own files seen when the present life began.
    errors_before: u64,
    /// A drive lied about its syncs: durability can't be owed.
    lying: bool,
    /// How old what a crash takes may be, where that is promised.
    window_us: Option<u64>,
    /// When the last life ended, if nothing failed in it.
    ended_us: Option<u64>,
    /// Since when the log is off, if it was switched off and is not on again: what comes then is promised to nobody.
    off_since_us: Option<u64>,
}

type Check = Result<(), Violation>;

fn violation(invariant: &'static str, expected: impl Into<String>, found: impl Into<String>) -> Check {
    Err(Violation { invariant, expected: expected.into(), found: found.into(), last: Vec::new(), life: 0 })
}

impl History {
    /// An empty history; `lying`: the drive may drop what it said to have synced; `window_us`: how old what a crash takes may be.
    #[must_use]
    pub fn new(lying: bool, window_us: Option<u64>) -> History {
        History { lying, window_us, ..History::default() }
    }

    /// A life ends now; `calm`: nothing failed in it.
    pub fn ends(&mut self, calm: bool) {
        self.ended_us = virtual_us().filter(|_| calm);
    }

    /// The log is being switched off.
    pub fn switched_off(&mut self) {
        self.off_since_us = self.off_since_us.or(virtual_us());
    }

    /// The log is on again, in files of its own: errors before do not concern it. What came in between is as old as that.
    pub fn switched_on(&mut self, log_errors: u64) {
        self.count("I18");
        self.errors_before = log_errors;
        let (Some(off), Some(now)) = (self.off_since_us.take(), virtual_us()) else { return };
        for known in self.known.values_mut().filter(|known| known.since_us >= off) {
            known.since_us = now;
        }
    }

    /// An empty history whose first append has the number `next`.
    #[must_use]
    pub fn numbered_from(next: u64) -> History {
        History { next_append: next, ..History::default() }
    }

    /// The number of the next append.
    #[must_use]
    pub fn next_append(&self) -> u64 {
        self.next_append
    }

    /// Whether durability can't be owed.
    #[must_use]
    pub fn lying(&self) -> bool {
        self.lying
    }

    /// How often each invariant was checked.
    #[must_use]
    pub fn checked(&self) -> BTreeMap<&'static str, u64> {
        self.checked.iter().copied().collect()
    }

    /// Acknowledgements by class.
    #[must_use]
    pub fn acknowledged(&self) -> &BTreeMap<&'static str, u64> {
        &self.acknowledged
    }

    /// Counts a check that ran.
    pub fn count(&mut self, invariant: &'static str) {
        // They are few and counted often. One id is mostly one literal: its address tells it apart.
        let same = |(id, _): &(&'static str, u64)| std::ptr::eq(*id, invariant);
        let place = self.checked.iter().position(same);
        match place.or_else(|| self.checked.iter().position(|(id, _)| *id == invariant)) {
            Some(place) => self.checked[place].1 += 1,
            None => self.checked.push((invariant, 1)),
        }
    }

    /// The content of a record: unique if it has room for a number, and never the same twice in a row.
    pub fn issue(&mut self, sizes: &[u64]) -> (u64, Arc<[Bytes]>) {
        let append = self.next_append;
        self.next_append += 1;
        let issued: Arc<[Bytes]> =
            sizes.iter().enumerate().map(|(at, size)| payload(append, at as u64, *size)).collect();
        self.appends.insert(
            append,
            Append {
                issued: issued.clone(),
                kept: issued.len(),
                progress: Progress::Open,
                removed_from: u64::MAX,
                may_return: false,
            },
        );
        (append, issued)
    }

    /// An append was answered. `issued_errors` and `errors` are the log errors when it was issued and now.
    pub fn answered(
        &mut self,
        append: u64,
        class: Durability,
        answer: &Result<u64, NotAppended>,
        issued_errors: u64,
    ) -> Check {
        let standing = match class {
            Durability::Buffered => Standing::Possible,
            Durability::Written => Standing::Written,
            Durability::Sync => Standing::Durable,
        };
        match answer {
            Ok(first) => {
                let name = match class {
                    Durability::Buffered => "buffered",
                    Durability::Written => "written",
                    Durability::Sync => "sync",
                };
                *self.acknowledged.entry(name).or_default() += 1;
                if class == Durability::Sync {
                    self.count("I8");
                    if issued_errors > self.errors_before && !self.lying {
                        let found = format!("LSN {first}, issued after the error, acknowledged Sync");
                        return violation("I8", "no Sync acknowledgement after a failed write or sync", found);
                    }
                }
                self.place(append, *first, standing)
            }
            Err(NotAppended::Indeterminate(first)) => self.place(append, *first, Standing::Possible),
            Err(NotAppended::Definite(_)) => {
                if let Some(append) = self.appends.get_mut(&append) {
                    append.progress = Progress::Rejected;
                }
                Ok(())
            }
        }
    }

    /// The LSN of an append is known.
    fn place(&mut self, append: u64, first: u64, standing: Standing) -> Check {
        let Some(entry) = self.appends.get_mut(&append) else { return Ok(()) };
        entry.progress = Progress::Placed(first);
        let (issued, kept, returns) = (entry.issued.clone(), entry.kept, entry.may_return);
        self.count("I15");
        let since_us = virtual_us().unwrap_or(0);
        for (lsn, payload) in (first..).zip(&issued[..kept]) {
            if let Some(old) = self.known.get(&lsn)
                && old.append != append
                && old.standing >= Standing::Durable
                && !returns
            {
                let found = format!("given again to append {append}");
                return violation(
                    "I15",
                    format!("LSN {lsn} names the record of append {} for ever", old.append),
                    found,
                );
            }
            self.known.insert(lsn, Known { payload: payload.clone(), standing, append, since_us });
        }
        Ok(())
    }

    /// Records below this LSN were acknowledged as released.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.floor.max(1)
    }

    /// The records below `lsn` are asked to be released: they may go from now on.
    pub fn releasing(&mut self, lsn: u64) {
        self.releasing = self.releasing.max(lsn);
    }

    /// The records below `first` were acknowledged as released.
    pub fn released(&mut self, first: u64) -> Check {
        self.count("I2");
        if first > self.releasing {
            let expected = format!("nothing released from LSN {} on", self.releasing);
            return violation("I2", expected, format!("the oldest LSN is {first}"));
        }
        self.floor = self.floor.max(first);
        self.synced(first);
        Ok(())
    }

    /// The records from `lsn` on are asked to be removed. Returns an earlier cut whose outcome is unknown.
    pub fn cutting(&mut self, lsn: u64) -> Option<u64> {
        self.cutting.replace(lsn)
    }

    /// The answer to that. What was kept was made durable on the way. `before` is what [`History::cutting`] returned.
    pub fn cut(&mut self, lsn: u64, before: Option<u64>, answer: &Result<(), NotTruncated>) {
        match answer {
            Ok(()) => {
                self.cutting = None;
                self.remove_from(lsn);
                self.synced(lsn);
            }
            Err(NotTruncated::Definite(_)) => self.cutting = before,
            // The next recovery shows it.
            Err(NotTruncated::Indeterminate(_)) => {}
        }
    }

    fn remove_from(&mut self, lsn: u64) {
        for (_, known) in self.known.split_off(&lsn) {
            // Of a batch that was cut through the first records stay.
            if let Some(append) = self.appends.get_mut(&known.append)
                && let Progress::Placed(first) = append.progress
            {
                if self.lying {
                    // Even a truncation that was acknowledged may be lost.
                    (append.progress, append.may_return) = (Progress::Open, true);
                    continue;
                }
                append.kept = append.kept.min(lsn.saturating_sub(first) as usize);
                if append.kept == 0 {
                    append.progress = Progress::Gone;
                }
            }
        }
        // What was accepted without an answer was removed, or never there.
        let honest = !self.lying;
        for append in self.appends.values_mut().filter(|append| honest && append.progress == Progress::Open) {
            append.removed_from = append.removed_from.min(lsn);
        }
    }

    /// Whether a reader may find nothing at `lsn`.
    #[must_use]
    pub fn may_be_gone(&self, lsn: u64) -> bool {
        lsn < self.releasing || self.cutting.is_some_and(|cut| lsn >= cut)
    }

    /// Everything before `next` was said to be durable. After a log error in this life that may only be what was durable
    /// before it, so the caller must look at the image.
    pub fn synced(&mut self, next: u64) {
        self.count("I8");
        for known in self.known.range_mut(..next).map(|(_, known)| known) {
            known.standing = known.standing.max(Standing::Durable);
        }
    }

    /// Whether a log error was seen in this life.
    #[must_use]
    pub fn failed(&self, log_errors: u64) -> bool {
        log_errors > self.errors_before
    }

    /// What a client read must be what was appended.
    pub fn read(&mut self, lsn: u64, payload: &Bytes) -> Check {
        match self.known.get(&lsn) {
            Some(known) if known.payload != *payload => {
                violation("I3", format!("LSN {lsn} reads as append {}", known.append), summary(payload))
            }
            _ => Ok(()),
        }
    }

    /// What a client scanned must be consecutive and known, or still unanswered.
    pub fn scanned(&mut self, records: &[(u64, Bytes)]) -> Check {
        self.count("I2");
        let from = records.first().map_or(1, |(lsn, _)| *lsn);
        if from > self.releasing.max(1) {
            return violation(
                "I2",
                format!("a scan from LSN {} or before", self.releasing.max(1)),
                format!("LSN {from}"),
            );
        }
        for ((lsn, payload), expected) in records.iter().zip(from..) {
            if *lsn != expected {
                return violation("I2", format!("LSN {expected} next"), format!("LSN {lsn}"));
            }
            self.read(*lsn, payload)?;
        }
        Ok(())
    }

    /// What a reader that follows the log was given is consecutive and known, and no crash may take it back.
    pub fn followed(&mut self, records: &[(u64, Bytes)]) -> Check {
        self.scanned(records)?;
        if let Some((last, _)) = records.last() {
            self.synced(last + 1);
        }
        Ok(())
    }
}

/// Two recoveries of the same state must deliver the same.
pub fn same(invariant: &'static str, what: &str, one: &Recovered, two: &Recovered) -> Check {
    let rows = |recovered: &Recovered| recovered.stored.as_ref().map(|stored| stored.rows.clone()).unwrap_or_default();
    let (one, two) = ((&one.records, rows(one)), (&two.records, rows(two)));
    if one == two {
        return Ok(());
    }
    if let Some((table, key)) = one.1.keys().chain(two.1.keys()).find(|key| one.1.get(*key) != two.1.get(*key)) {
        let expected = format!("{what} delivers the same {} rows", one.1.len());
        return violation(invariant, expected, format!("another {} of table {table}", key.escape_ascii()));
    }
    let (one, two) = (one.0, two.0);
    let at = one.iter().zip(two).position(|(one, two)| one != two).unwrap_or_else(|| one.len().min(two.len()));
    violation(
        invariant,
        format!("{what} delivers the same {} records", one.len()),
        format!("{} records, different from LSN {} on", two.len(), at + 1),
    )
}

/// A check that is only a condition; it becomes text only where it doesn't hold.
pub fn ensure(holds: bool, invariant: &'static str, expected: impl fmt::Display, found: impl fmt::Display) -> Check {
    if holds { Ok(()) } else { violation(invariant, expected.to_string(), found.to_string()) }
}

fn payload(append: u64, at: u64, size: u64) -> Bytes {
    let mut out = vec![0; size as usize];
    let mut fill = (append ^ at << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut word = append << 16 | at;
    let mut chunks = out.chunks_exact_mut(8);
    for chunk in &mut chunks {
        chunk.copy_from_slice(&word.to_le_bytes());
        fill = fill.wrapping_mul(0xD134_2543_DE82_EF95).wrapping_add(1);
        word = fill;
    }
    let rest = chunks.into_remainder();
    rest.copy_from_slice(&word.to_le_bytes()[..rest.len()]);
    Bytes::from(out)
}

fn summary(payload: &Bytes) -> String {
    let head: String = payload.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{} bytes beginning {head}", payload.len())
}
