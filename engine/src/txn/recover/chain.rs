//! Which commits behind a root count: the chain of those that follow each other without a gap, with all their parts there.
//!
//! A crash may take any suffix of each log by itself. So a commit counts if all of its parts are there, and all commits before it
//! count. Where an epoch was opened, the chain goes on with its first commit, since that open found just this to be the end;
//! whatever the older epoch has beyond is dead, and stays so, without anything having to erase it.
//!
//! It is reckoned by runs: as many commits at once as stand in the same logs.

use std::collections::BTreeMap;

use crate::{
    txn::ids::{Csn, Epoch},
    wal::Lsn,
};

use super::summary::{Run, Summary};

/// The chain behind a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::txn) struct Chain {
    /// The last commit that counts: N.
    pub(in crate::txn) end: Csn,
    /// The commits that are to be replayed, from the first to the last of each stretch, ascending.
    pub(in crate::txn) spans: Vec<(Csn, Csn)>,
    /// By log: what of it counts.
    pub(in crate::txn) logs: Vec<Portion>,
    /// Parts that don't count, by log, and in the order of their records.
    pub(in crate::txn) dropped: Vec<Dropped>,
}

/// What of a log counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::txn) struct Portion {
    /// Parts to be replayed.
    pub(in crate::txn) parts: u64,
    /// The first record that is needed once the root is durable: the log may be released below it.
    pub(in crate::txn) keep: Lsn,
}

/// Parts that don't count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::txn) struct Dropped {
    pub(in crate::txn) log: u8,
    /// The first of them, and its record.
    pub(in crate::txn) csn: Csn,
    pub(in crate::txn) lsn: Lsn,
    pub(in crate::txn) parts: u64,
    pub(in crate::txn) why: Why,
}

/// Why parts don't count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::txn) enum Why {
    /// An earlier open has ended their epoch before them.
    Dead,
    /// They are beyond N: a part of theirs, or of a commit before them, is missing.
    Beyond,
}

/// Something on the chain that no run of the program writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::txn) struct Contradiction {
    pub(in crate::txn) log: u8,
    pub(in crate::txn) csn: Csn,
    pub(in crate::txn) what: &'static str,
}

/// Where each epoch found the one before it to end.
///
/// # Errors
/// An epoch for which two records state different ends.
pub(in crate::txn) fn epochs(logs: &[&Summary]) -> Result<BTreeMap<Epoch, Csn>, Epoch> {
    let mut ends = BTreeMap::new();
    for (_, record) in logs.iter().flat_map(|log| &log.epochs) {
        if *ends.entry(record.epoch).or_insert(record.prev_end) != record.prev_end {
            return Err(record.epoch);
        }
    }
    Ok(ends)
}

/// Reckons the chain behind a root that holds everything up to `root`, and after which `next` was the commit to be given.
///
/// # Errors
/// [`Contradiction`].
pub(in crate::txn) fn chain(
    root: Csn,
    next: Csn,
    epochs: &BTreeMap<Epoch, Csn>,
    logs: &[&Summary],
) -> Result<Chain, Contradiction> {
    let spans = Walk::new(epochs, logs).spans(root, next)?;
    let end = spans.last().map_or(root, |(_, last)| *last);
    let mut dropped = Vec::new();
    let portions = logs.iter().map(|log| portion(log, root, &spans, end, &mut dropped));
    Ok(Chain { end, logs: portions.collect(), spans, dropped })
}

impl Chain {
    /// Whether a commit is to be replayed.
    pub(in crate::txn) fn counts(&self, csn: Csn) -> bool {
        holds(&self.spans, csn)
    }

    /// The planted bug: what an earlier open has ended counts after all if each of its logs has gone on to later commits.
    pub(in crate::txn) fn take_by_last_id(&mut self, logs: &[&Summary]) {
        let ends: Vec<u64> = logs.iter().map(|log| log.runs.last().map_or(0, Run::end)).collect();
        for dead in self.dropped.iter().filter(|dropped| dropped.why == Why::Dead) {
            let runs = logs[usize::from(dead.log)].runs.iter();
            let parts = runs.flat_map(|run| (run.csn..run.end()).map(|csn| (csn, run.participants)));
            for (csn, of) in parts.skip_while(|(csn, _)| *csn < dead.csn.to_bits()).take(dead.parts as usize) {
                let later = ends.iter().enumerate().all(|(log, end)| of & 1 << log == 0 || *end > csn);
                if let Some(csn) = Csn::from_bits(csn).filter(|_| later && of.count_ones() > 1) {
                    self.spans.push((csn, csn));
                }
            }
        }
        self.spans.sort_unstable();
        self.spans.dedup();
    }
}

/// The planted bug: the first commit of the root, of its own epoch, of which a part is in some log, and another one nowhere.
pub(in crate::txn) fn lacking(root: Csn, logs: &[&Summary]) -> Option<Csn> {
    let mut parts: BTreeMap<u64, (u16, u16)> = BTreeMap::new();
    for (log, run) in logs.iter().flat_map(|log| log.runs.iter().map(move |run| (log.log, run))) {
        for csn in (run.csn..run.end()).take_while(|csn| *csn <= root.to_bits()) {
            let (there, of) = parts.entry(csn).or_default();
            (*there, *of) = (*there | bit(log), *of | run.participants);
        }
    }
    let lacking = parts.into_iter().filter(|(_, (there, of))| there & of != *of);
    let mut lacking = lacking.filter_map(|(csn, _)| Csn::from_bits(csn));
    lacking.find(|csn| csn.epoch() == root.epoch())
}

/// A walk along all logs at once.
struct Walk<'a> {
    logs: &'a [&'a Summary],
    /// By log, what of its runs is not passed yet.
    rest: Vec<(Run, &'a [Run])>,
    /// The first commit of the last epoch that found this to be the end of the one before.
    jumps: BTreeMap<Csn, Csn>,
    /// Commits, as bits, of parts that can't be read, with the logs that these stand in.
    unreadable: BTreeMap<u64, u16>,
}

/// Which logs hold a commit, and for how many commits that is so.
struct Holders {
    logs: u16,
    participants: u16,
    commits: u64,
}

impl<'a> Walk<'a> {
    fn new(epochs: &BTreeMap<Epoch, Csn>, logs: &'a [&'a Summary]) -> Walk<'a> {
        let mut unreadable = BTreeMap::new();
        for (log, record) in logs.iter().flat_map(|log| log.senseless.iter().map(move |record| (log.log, record))) {
            if let Some(csn) = record.csn {
                *unreadable.entry(csn.to_bits()).or_default() |= bit(log);
            }
        }
        Walk {
            logs,
            rest: logs.iter().map(|log| (NO_RUN, log.runs.as_slice())).collect(),
            // Epochs ascend, so the last one stays.
            jumps: epochs.iter().map(|(epoch, prev_end)| (*prev_end, Csn::first(*epoch))).collect(),
            unreadable,
        }
    }

    fn spans(&mut self, root: Csn, next: Csn) -> Result<Vec<(Csn, Csn)>, Contradiction> {
        let mut spans: Vec<(Csn, Csn)> = Vec::new();
        let (mut end, mut next) = (root, Some(next));
        loop {
            let jump = self.jumps.get(&end).copied();
            let Some(csn) = jump.max(next) else { return Ok(spans) };
            let Some(commits) = self.complete(csn)? else { return Ok(spans) };
            // (All of them are of one epoch, so it is one.)
            end = Csn::from_bits(csn.to_bits() + commits - 1).unwrap_or(csn);
            match spans.last_mut() {
                Some((_, last)) if last.next() == Some(csn) => *last = end,
                _ => spans.push((csn, end)),
            }
            next = end.next();
        }
    }

    /// How many commits from `csn` on are complete, as far as that is the same question; none if this one is not.
    fn complete(&mut self, csn: Csn) -> Result<Option<u64>, Contradiction> {
        let holders = self.holders(csn)?;
        let unreadable = self.unreadable.get(&csn.to_bits()).copied().unwrap_or(0);
        let found = holders.logs | unreadable;
        if unreadable != 0 && holders.participants & !found == 0 {
            let log = unreadable.trailing_zeros() as u8;
            return Err(Contradiction { log, csn, what: "a part of a commit that counts can't be read" });
        }
        if holders.logs == 0 || holders.logs != holders.participants {
            return Ok(None);
        }
        let bits = csn.to_bits();
        let until_jump = self.jumps.range(csn..).next().map(|(end, _)| end.to_bits() - bits + 1);
        let until_unreadable = self.unreadable.range(bits..).next().map(|(other, _)| other - bits);
        Ok(Some([until_jump, until_unreadable].into_iter().flatten().fold(holders.commits, u64::min)))
    }

    fn holders(&mut self, csn: Csn) -> Result<Holders, Contradiction> {
        let bits = csn.to_bits();
        let mut holders = Holders { logs: 0, participants: 0, commits: u64::MAX };
        for (log, (run, rest)) in self.logs.iter().zip(&mut self.rest) {
            while run.end() <= bits {
                let Some((first, others)) = rest.split_first() else { break };
                (*run, *rest) = (*first, others);
            }
            if run.end() <= bits {
                continue;
            }
            if run.csn > bits {
                holders.commits = holders.commits.min(run.csn - bits);
                continue;
            }
            let contradicts = |what| Err(Contradiction { log: log.log, csn, what });
            if run.participants & bit(log.log) == 0 {
                return contradicts("a part stands in a log that it says its commit has none in");
            }
            if u32::from(run.participants).checked_shr(self.logs.len() as u32).is_some_and(|beyond| beyond != 0) {
                return contradicts("a part names a log that the store doesn't have");
            }
            if holders.logs != 0 && run.participants != holders.participants {
                return contradicts("two parts of a commit name different logs");
            }
            holders.logs |= bit(log.log);
            holders.participants = run.participants;
            holders.commits = holders.commits.min(run.end() - bits);
        }
        Ok(holders)
    }
}

const NO_RUN: Run = Run { csn: 0, lsn: 0, count: 0, participants: 0 };

fn bit(log: u8) -> u16 {
    1 << log
}

/// Tells the parts of a log that count from those that don't.
fn portion(log: &Summary, root: Csn, all: &[(Csn, Csn)], end: Csn, dropped: &mut Vec<Dropped>) -> Portion {
    let (mut parts, mut first) = (0, None);
    let mut spans = all.iter().map(|(first, last)| (first.to_bits(), last.to_bits())).peekable();
    // Whether what was dropped last may go on with the next part.
    let mut goes_on = false;
    for run in &log.runs {
        // Up to the root, nothing is told apart.
        let mut run = run.without((root.to_bits() + 1).saturating_sub(run.csn).min(run.count));
        while run.count > 0 {
            while spans.next_if(|(_, last)| *last < run.csn).is_some() {}
            let (live, until) = match spans.peek() {
                Some((from, last)) if *from <= run.csn => (true, last + 1),
                Some((from, _)) => (false, *from),
                None => (false, u64::MAX),
            };
            let count = run.count.min(until - run.csn);
            if live {
                parts += count;
                first.get_or_insert(run.lsn);
                goes_on = false;
            } else {
                let csn = Csn::from_bits(run.csn).unwrap_or_default();
                let why = if csn > end { Why::Beyond } else { Why::Dead };
                match dropped.last_mut() {
                    Some(last) if goes_on && last.why == why => last.parts += count,
                    _ => dropped.push(Dropped { log: log.log, csn, lsn: Lsn(run.lsn), parts: count, why }),
                }
                goes_on = true;
            }
            run = run.without(count);
        }
    }
    let pieces = log.lobs.iter().filter(|(csn, _)| holds(all, *csn)).map(|(_, lsn)| *lsn);
    let epochs = log.epochs.iter().filter(|(_, record)| record.prev_end >= root).map(|(lsn, _)| *lsn);
    let keep = first.map(Lsn).into_iter().chain(pieces).chain(epochs).min().unwrap_or(log.next);
    Portion { parts, keep }
}

fn holds(spans: &[(Csn, Csn)], csn: Csn) -> bool {
    let span = spans.partition_point(|(_, last)| *last < csn);
    spans.get(span).is_some_and(|(first, _)| *first <= csn)
}

#[cfg(test)]
pub(super) mod tests;
