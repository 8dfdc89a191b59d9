//! What must hold: the history of a run as the simulator knows it, and the checks of `invariant.rs` against it.
//!
//! The truth is kept from outside the engine: what each client issued and was answered. A check returns a [`Violation`]
//! with what was expected and what was found; each check that really ran is counted.

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

    /// The recovery of the pessimal image right after an acknowledgement must hold every record that was acknowledged.
    pub fn pessimal(&mut self, image: &Result<Recovered, String>, log_errors: u64, after: &str) -> Check {
        if self.lying {
            return Ok(());
        }
        // After a log error in this life an acknowledgement without durability breaks the rule about errors first.
        let invariant = if log_errors > self.errors_before { "I8" } else { "I9" };
        self.count("I9");
        let (releasing, cutting) = (self.releasing, self.cutting.unwrap_or(u64::MAX));
        let durable = self.known.range(..cutting).filter(|(_, known)| known.standing >= Standing::Durable);
        match image {
            Err(refused) => match durable.last() {
                Some((lsn, _)) => violation(
                    invariant,
                    format!("{after}: LSN {lsn} survives a power cut now"),
                    format!("refused: {refused}"),
                ),
                None => Ok(()),
            },
            Ok(recovered) => {
                whole(recovered)?;
                let owed = recovered.first.max(1)..;
                for (lsn, known) in durable.filter(|(lsn, _)| owed.contains(lsn) || **lsn >= releasing) {
                    let found = recovered.record(*lsn);
                    if found.is_none_or(|(_, payload)| *payload != known.payload) {
                        let expected = format!("{after}: LSN {lsn} survives a power cut now");
                        return violation(invariant, expected, describe(recovered, *lsn));
                    }
                }
                Ok(())
            }
        }
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

    /// An open was refused with `message`, though the machine showed no error. If anything is owed, it is lost.
    pub fn refused(&mut self, message: &str) -> Check {
        self.count("I20");
        let owed = self.known.iter().rev().find(|(_, known)| known.standing >= Standing::Durable);
        match owed {
            _ if self.lying => Ok(()),
            Some((lsn, _)) => violation(
                "I1",
                format!("LSN {lsn} was acknowledged Sync or delivered, and is there"),
                format!("open refused (I20): {message}"),
            ),
            None => violation("I20", "an undamaged log opens", message),
        }
    }

    /// A recovery delivered `recovered`: compares with all that was issued, then takes it as the truth.
    pub fn recovered(&mut self, recovered: &Recovered, before: Before, log_errors: u64) -> Check {
        let next = recovered.next();
        whole(recovered)?;
        self.no_holes(recovered)?;
        if let Some(cut) = self.cutting.take()
            && next == cut
        {
            // It took effect before the crash; else it did not, and nothing of it is seen.
            self.remove_from(cut);
        }
        self.nothing_lost(recovered, next, before, log_errors)?;
        self.nothing_invented(recovered)?;
        self.batches_whole(next)?;
        self.count("I15");
        if let Some(generation) = recovered.generation {
            if generation <= self.generation && !self.lying {
                let expected = format!("a generation above {}", self.generation);
                return violation("I15", expected, format!("generation {generation}"));
            }
            self.generation = generation;
        }
        self.count("I26");
        if recovered.reported != recovered.records.len() as u64 || recovered.unproven_from > next {
            let expected = format!("{} records reported, unproven from {next} or before", recovered.records.len());
            let found = format!("{} reported, unproven from {}", recovered.reported, recovered.unproven_from);
            return violation("I26", expected, found);
        }
        self.left_behind = !recovered.dropped.is_empty();
        self.errors_before = log_errors;
        for append in self.appends.values_mut() {
            let survived = matches!(append.progress, Progress::Placed(first) if first < next);
            if !survived && append.progress != Progress::Rejected {
                append.progress = Progress::Gone;
            }
        }
        self.known.retain(|lsn, _| *lsn < next);
        for known in self.known.values_mut() {
            known.standing = Standing::Delivered;
        }
        Ok(())
    }

    fn no_holes(&mut self, recovered: &Recovered) -> Check {
        self.count("I2");
        let (floor, releasing) = (self.floor(), self.releasing.max(1));
        if !self.lying && !(floor..=releasing).contains(&recovered.first) {
            let expected = format!("an oldest LSN in {floor}..={releasing}");
            return violation("I2", expected, format!("LSN {}", recovered.first));
        }
        for ((lsn, _), expected) in recovered.records.iter().zip(recovered.first..) {
            if *lsn != expected {
                return violation("I2", format!("LSN {expected} next"), format!("LSN {lsn}"));
            }
        }
        Ok(())
    }

    fn nothing_lost(&mut self, recovered: &Recovered, next: u64, before: Before, log_errors: u64) -> Check {
        self.count("I1");
        if before == Before::Kill {
            self.count("I1a");
        }
        let delivered = self.known.values().any(|known| known.standing == Standing::Delivered);
        if delivered {
            self.count("I6");
            self.count("I7");
        }
        let window = self.window_us.zip(self.ended_us.take()).filter(|_| !self.lying);
        let off = self.off_since_us.take();
        let due = |known: &Known| {
            let on = off.is_none_or(|off| known.since_us < off);
            on && window.is_some_and(|(window, ended)| known.since_us + window < ended)
        };
        if self.known.values().any(|known| known.standing < Standing::Durable && due(known)) {
            self.count("I16");
        }
        for (lsn, known) in self.known.range(next..) {
            if due(known) && known.standing < Standing::Durable {
                let expected =
                    format!("LSN {lsn}, {} us old, survives", known.since_us.abs_diff(window.map_or(0, |(_, at)| at)));
                return violation("I16", expected, describe(recovered, *lsn));
            }
            let invariant = match (known.standing, before) {
                (Standing::Delivered, _) if !self.lying => "I6",
                (Standing::Durable, _) if !self.lying => {
                    if self.left_behind {
                        "I7"
                    } else {
                        "I1"
                    }
                }
                (_, Before::Close) if !self.lying => "I1",
                // After a failed sync the cache may forget what it was given.
                (Standing::Written, Before::Kill) if self.failed(log_errors) => continue,
                (Standing::Written | Standing::Durable | Standing::Delivered, Before::Kill) => "I1a",
                _ => continue,
            };
            let expected = format!("LSN {lsn} ({:?}) survives {before:?}", known.standing);
            return violation(invariant, expected, describe(recovered, *lsn));
        }
        Ok(())
    }

    fn nothing_invented(&mut self, recovered: &Recovered) -> Check {
        self.count("I3");
        self.count("I21");
        // Unanswered appends, by their first record: where they landed is seen only now.
        for (lsn, payload) in &recovered.records {
            if let Some(known) = self.known.get(lsn)
                && known.payload == *payload
            {
                continue;
            }
            let conflict = self.known.get(lsn).filter(|known| known.standing >= Standing::Durable);
            let mut states: Vec<(u64, Progress)> = Vec::new();
            for (id, append) in &self.appends {
                let Some(at) = append.records().iter().position(|record| record == payload) else { continue };
                // Short records look alike: an unanswered append fits only where all of its records do.
                let first = lsn.saturating_sub(at as u64).max(1);
                let there = (first..).map_while(|lsn| recovered.record(lsn).map(|(_, payload)| payload));
                // What was removed with the back of the log is not accepted again behind it.
                if append.progress == Progress::Open && append.removed_from <= *lsn {
                    continue;
                }
                if append.progress != Progress::Open || append.records().iter().zip(there).all(|(one, two)| one == two)
                {
                    states.push((*id, append.progress));
                }
            }
            states.sort_by_key(|(_, progress)| *progress != Progress::Open);
            match (conflict, states.first()) {
                (Some(known), Some((id, Progress::Open))) if self.appends[id].may_return => {
                    let (displaced, returned) = (known.append, *id);
                    if let Some(append) = self.appends.get_mut(&displaced) {
                        append.progress = Progress::Gone;
                    }
                    self.place_found(returned, *lsn, payload)?;
                }
                (Some(known), Some((id, _))) => {
                    return violation(
                        "I15",
                        format!("LSN {lsn} names append {}", known.append),
                        format!("append {id}"),
                    );
                }
                (Some(known), None) => {
                    return violation("I3", format!("LSN {lsn} holds append {}", known.append), summary(payload));
                }
                (None, Some((id, Progress::Open))) => self.place_found(*id, *lsn, payload)?,
                (None, Some((id, Progress::Rejected))) => {
                    return violation(
                        "I21",
                        format!("append {id}, reported as failed, is nowhere"),
                        format!("found at LSN {lsn}"),
                    );
                }
                (None, Some((id, progress))) => {
                    let expected = format!("LSN {lsn} holds what was appended there");
                    return violation("I3", expected, format!("append {id}, which was {progress:?}"));
                }
                (None, None) => {
                    return violation("I3", format!("LSN {lsn} holds what a client appended"), summary(payload));
                }
            }
        }
        Ok(())
    }

    /// An append that was not answered was found: `payload` is one of its records.
    fn place_found(&mut self, append: u64, lsn: u64, payload: &Bytes) -> Check {
        let at = self.appends[&append].records().iter().position(|record| record == payload).unwrap_or(0) as u64;
        self.place(append, lsn.saturating_sub(at).max(1), Standing::Possible)
    }

    /// A recovery of a damaged copy: every record that differs from what the undamaged one delivers, or goes beyond it, was
    /// appended by a client.
    pub fn delivers_only_issued(&mut self, damaged: &Recovered, undamaged: &Recovered) -> Check {
        self.count("I3");
        let differs = |(lsn, record): &&(u64, Bytes)| undamaged.record(*lsn).is_none_or(|(_, sound)| sound != record);
        for (lsn, record) in damaged.records.iter().filter(differs) {
            // By its number, or, if it is too short for one, by what it is.
            let number = record.first_chunk().map(|head| u64::from_le_bytes(*head) >> 16);
            let issued = match number.and_then(|number| self.appends.get(&number)) {
                Some(append) => append.issued.iter().any(|payload| payload == record),
                None => self.appends.values().any(|append| append.issued.iter().any(|payload| payload == record)),
            };
            if !issued {
                let expected = format!("on a damaged copy LSN {lsn} holds what a client appended");
                return violation("I3", expected, summary(record));
            }
        }
        Ok(())
    }

    fn batches_whole(&mut self, next: u64) -> Check {
        for (id, append) in &self.appends {
            if let Progress::Placed(first) = append.progress
                && first < next
                && next < first + append.kept as u64
            {
                let expected = format!("append {id} at {first}, a batch of {}, whole or not at all", append.kept);
                return violation("I1", expected, format!("the log ends before LSN {next}"));
            }
        }
        Ok(())
    }
}

/// What a subject found in several places belongs together.
fn whole(recovered: &Recovered) -> Check {
    match &recovered.flaw {
        None => Ok(()),
        Some(flaw) => violation("I12", "each transaction is there as a whole, or not at all", flaw),
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

fn describe(recovered: &Recovered, lsn: u64) -> String {
    match recovered.record(lsn) {
        Some((found, payload)) => format!("at its place LSN {found}, {}", summary(payload)),
        None => format!("only {} records, the log ended {}", recovered.records.len(), recovered.tail),
    }
}
