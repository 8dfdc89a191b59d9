//! What a recovery delivers, or why it refuses, beside all that was issued and owed.

use bytes::Bytes;

use crate::subject::Recovered;

use super::{Before, Check, History, Known, Progress, Standing, summary, violation};

impl History {
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

fn describe(recovered: &Recovered, lsn: u64) -> String {
    match recovered.record(lsn) {
        Some((found, payload)) => format!("at its place LSN {found}, {}", summary(payload)),
        None => format!("only {} records, the log ended {}", recovered.records.len(), recovered.tail),
    }
}
