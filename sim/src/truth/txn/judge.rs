//! What an open delivered, and what a disk holds, against the truth.

use std::{collections::BTreeSet, ops::Bound};

use bytes::Bytes;
use engine::txn::options::Isolation;

use super::{
    Before, C, Check, Found, Key, Kind, Level, Read, Standing, Stored, Table, Transaction, Truth, broken, load::Moment,
    virtual_us, words, writer,
};
use crate::truth::serial::{self, Committed, ValueId};

impl Truth {
    /// A life ends now; `calm`: nothing failed in it.
    pub fn ends(&mut self, calm: bool) {
        self.ended_us = virtual_us().filter(|_| calm);
    }

    /// The disk was damaged: from now on what is found counts.
    pub fn damaged(&mut self) {
        self.trusting = true;
    }

    /// An open delivered this; it is the truth from now on.
    pub fn recovered(&mut self, stored: &Stored, before: Before) -> Check {
        let (end, ended_us) = (stored.end, self.ended_us.take());
        if self.trusting {
            // (A drive that lies may take an epoch back.)
            (self.newest_id, self.newest_csn) = (0, 0);
            self.gives_up_load();
            self.replace(stored);
        } else {
            self.count("I14");
            let owed = if before == Before::Close { self.newest_acknowledged() } else { self.durable };
            if end < self.delivered.max(owed) {
                let invariant = if end < self.delivered { "I6" } else { "I14" };
                let expected = format!("all commits up to {} survive {before:?}", C(self.delivered.max(owed)));
                return broken(invariant, expected, format!("those up to {}", C(end)));
            }
            self.no_older_loss(end, ended_us)?;
            self.settles_load(stored)?;
            self.holds(stored, "the open")?;
            self.count("I26");
            let (root, replayed) = (stored.root, stored.replayed);
            if root > end || root >> 40 == end >> 40 && replayed != end - root {
                let expected = format!("from root {} to {} are {} commits", C(root), C(end), end.saturating_sub(root));
                return broken("I26", expected, format!("{replayed} replayed"));
            }
            self.rows.cut(end);
        }
        let fits = if self.trusting { Ok(()) } else { self.fits_an_order(end) };
        for transaction in self.transactions.values_mut() {
            match transaction.standing {
                Standing::Open | Standing::Committing => transaction.standing = Standing::Aborted,
                Standing::Accepted(csn) if csn > end => transaction.standing = Standing::Lost,
                _ => {}
            }
        }
        (self.delivered, self.durable, self.visible) = (end, end, end);
        (self.durable_then, self.events_then) = (end, self.events);
        self.waiting.clear();
        fits
    }

    /// What those that are there were told fits an order of them.
    fn fits_an_order(&mut self, end: u64) -> Check {
        self.count("I28");
        let (mut history, mut gone) = (Vec::new(), BTreeSet::new());
        for (number, one) in &self.transactions {
            match one.standing {
                Standing::Accepted(csn) if csn <= end => history.push(self.committed(*number, csn, one)),
                _ => drop(gone.insert(*number)),
            }
        }
        match serial::check(&history, &gone) {
            Ok(_) => Ok(()),
            Err(anomaly) => broken("I28", "transactions fit an order", anomaly.to_string()),
        }
    }

    fn committed(&self, number: u64, csn: u64, one: &Transaction) -> Committed {
        // (What is in memory alone begins anew in every life.)
        let lasts = |table: u32| self.rows.tables.get(&table).is_none_or(|table| table.kind == Kind::Rows);
        let id = |value: &Bytes| {
            let (transaction, statement) = writer(value).unwrap_or_default();
            ValueId { transaction, statement }
        };
        let read = |read: &Read| match read {
            Read::Get { key, found } => serial::Read::Get { key: key.clone(), found: found.as_ref().map(id) },
            Read::Range { table, from, to, found } => serial::Read::Range {
                table: *table,
                from: Bound::Included(from.clone()),
                to: Bound::Excluded(to.clone()),
                found: found.iter().map(|(key, value)| (key.clone(), id(value))).collect(),
            },
        };
        let of = |read: &&Read| match read {
            Read::Get { key, .. } => lasts(key.0),
            Read::Range { table, .. } => lasts(*table),
        };
        let writes = one.writes.iter().filter(|(key, _)| lasts(key.0));
        Committed {
            number,
            csn,
            isolation: match one.level {
                Level::Committed => Isolation::ReadCommitted,
                Level::Snapshot | Level::ReadOnly => Isolation::Snapshot,
                Level::Serializable => Isolation::Serializable,
            },
            reads: one.reads.iter().filter(of).map(read).collect(),
            writes: writes.map(|(key, value)| (key.clone(), value.as_ref().map(id))).collect(),
            began: one.began,
            acknowledged: one.acknowledged,
        }
    }

    /// The newest commit that a page on the disk has, and the last one that would be there after a power cut.
    pub fn pages(&mut self, newest: u64, end: u64) -> Check {
        if self.trusting {
            return Ok(());
        }
        self.count("I10");
        if newest > end {
            let expected = format!("pages of commits up to {}, where the logs end", C(end));
            return broken("I10", expected, format!("a page of commit {}", C(newest)));
        }
        Ok(())
    }

    fn replace(&mut self, stored: &Stored) {
        let kind = |name: &str| {
            self.rows.tables.values().find(|table| table.name == name).map_or(Kind::Rows, |table| table.kind)
        };
        let tables = stored.tables.iter().flatten().map(|(id, Found { name, .. })| {
            let kind = self.rows.tables.get(id).map_or_else(|| kind(name), |table| table.kind);
            (*id, Table { name: name.clone(), kind, created: 0, dropped: None })
        });
        let tables = tables.collect();
        self.rows.replace(stored.end, tables, &stored.rows);
    }

    /// What a clean close owes: everything that its clients were told.
    fn newest_acknowledged(&self) -> u64 {
        let acknowledged = self.transactions.values().filter(|one| one.acknowledged.is_some());
        let commits =
            acknowledged.filter_map(|one| if let Standing::Accepted(csn) = one.standing { Some(csn) } else { None });
        commits.fold(self.durable, u64::max)
    }

    /// What a crash took is not older than it may be.
    fn no_older_loss(&mut self, end: u64, ended_us: Option<u64>) -> Check {
        let Some((window, ended)) = self.window_us.zip(ended_us) else { return Ok(()) };
        self.count("I16");
        for (number, one) in &self.transactions {
            if let Standing::Accepted(csn) = one.standing
                && csn > end
                && one.acknowledged.is_some()
                && one.accepted_us + window < ended
            {
                let expected = format!("commit {}, {} us old, survives", C(csn), ended - one.accepted_us);
                return broken("I16", expected, format!("transaction {number} is gone, the end is {}", C(end)));
            }
        }
        Ok(())
    }

    /// What a power cut would leave right now, after something was acknowledged. `failed`: a log has failed in this life.
    pub fn pessimal(&mut self, image: Result<&Stored, &String>, failed: bool, after: &str) -> Check {
        if self.trusting || self.transactions.is_empty() && self.delivered == 0 {
            return Ok(());
        }
        let invariant = if failed { "I8" } else { "I9" };
        self.count(invariant);
        let owed = self.durable.max(self.delivered);
        let expected = || format!("{after}: all commits up to {} survive a power cut now", C(owed));
        match image {
            Err(refused) if owed > 0 => broken(invariant, expected(), format!("refused: {refused}")),
            Err(_) => Ok(()),
            Ok(stored) if stored.end < owed => broken(invariant, expected(), format!("those up to {}", C(stored.end))),
            Ok(stored) => self.holds(stored, after),
        }
    }

    /// What power cuts would have left at calls of checkpoints since the last time.
    pub fn within_checkpoints(&mut self, images: &[Result<Stored, String>]) -> Check {
        let owed = std::mem::replace(&mut self.durable_then, self.durable).max(self.delivered);
        let moment = Moment::Before(std::mem::replace(&mut self.events_then, self.events));
        if self.trusting {
            return Ok(());
        }
        for image in images {
            self.count("I11");
            let expected = format!("at a call of a checkpoint: all commits up to {} survive a power cut", C(owed));
            match image {
                Err(refused) if owed > 0 => return broken("I11", expected, format!("refused: {refused}")),
                Err(_) => {}
                Ok(stored) if stored.end < owed => {
                    return broken("I11", expected, format!("those up to {}", C(stored.end)));
                }
                Ok(stored) => self.held(stored, "at a call of a checkpoint", moment)?,
            }
        }
        Ok(())
    }

    /// What was found is what there was at its last commit: nothing else, and nothing in part.
    pub fn holds(&mut self, stored: &Stored, what: &str) -> Check {
        self.held(stored, what, Moment::Now)
    }

    /// The same where a file is damaged.
    pub fn holds_damaged(&mut self, stored: &Stored, what: &str) -> Check {
        self.held(stored, what, Moment::Damaged)
    }

    fn held(&mut self, stored: &Stored, what: &str, moment: Moment) -> Check {
        if self.trusting {
            return Ok(());
        }
        for invariant in ["I12", "I13", "I14", "I21"] {
            self.count(invariant);
        }
        let end = stored.end;
        for (id, table) in &self.rows.tables {
            let there = table.created <= end && table.dropped.is_none_or(|dropped| dropped > end);
            if self.may_lack(*id, stored, moment) {
                continue;
            }
            if stored.tables.as_ref().is_some_and(|tables| there != tables.contains_key(id)) {
                let words = |there| if there { "is there" } else { "is not there" };
                let expected = format!("{what}: at {} table {id}, {}, {}", C(end), table.name, words(there));
                return broken("I13", expected, words(!there));
            }
        }
        let loaded = self.half_loaded(stored, what)?;
        let expected = self.rows.durable(end);
        let found = &stored.rows;
        let others = expected.keys().chain(found.keys()).filter(|key| Some(key.0) != loaded);
        let others = others.filter(|key| !self.may_lack(key.0, stored, moment));
        let mut wrong = others.filter(|key| expected.get(*key) != found.get(*key));
        match wrong.next() {
            None => Ok(()),
            Some(key) => {
                let (expected, found) = (expected.get(key), found.get(key));
                let at =
                    format!("{what}: at {} {} of table {} is {}", C(end), key.1.escape_ascii(), key.0, words(expected));
                broken(self.blame(key, expected, found, stored), at, words(found))
            }
        }
    }

    /// Which rule a wrong row breaks.
    fn blame(&self, key: &Key, expected: Option<&Bytes>, found: Option<&Bytes>, stored: &Stored) -> &'static str {
        let of = |value: Option<&Bytes>| value.and_then(|value| self.transactions.get(&writer(value)?.0));
        match of(found).map(|one| one.standing) {
            Some(Standing::Failed) => return "I21",
            Some(Standing::Aborted | Standing::Lost | Standing::Open | Standing::Committing) => return "I12",
            Some(Standing::Accepted(csn)) if csn > stored.end => return "I14",
            Some(Standing::Accepted(_)) | None => {}
        }
        // A transaction that is missing here, and there elsewhere.
        let Some(one) = of(expected) else { return "I13" };
        let others = one.result().into_iter().filter(|(other, _)| *other != key);
        let there =
            others.into_iter().any(|(other, value)| value.is_some() && stored.rows.get(other) == value.as_ref());
        if there { "I12" } else { "I14" }
    }

    /// A backup begins, that must have all commits up to `least`: its directory.
    pub fn backs_up(&mut self, least: u64) -> String {
        self.made += 1;
        let path = format!("/backup-{}", self.made);
        self.backups.insert(path.clone(), least);
        path
    }

    /// Backups that were interrupted.
    #[must_use]
    pub fn interrupted(&self) -> Vec<String> {
        self.backups.keys().cloned().collect()
    }

    /// What is in a backup's directory, if anything, and whether it is said to be one. One that was interrupted is refused, or all of it is
    /// there.
    pub fn backed_up(&mut self, path: &str, told: Option<u64>, found: Result<Option<&Stored>, &String>) -> Check {
        let least = self.backups.remove(path).unwrap_or(0);
        if self.trusting {
            return Ok(());
        }
        self.count("I11");
        let expected = format!("the backup in {path} has the commits up to {}", C(told.unwrap_or(least)));
        match found {
            Err(_) | Ok(None) if told.is_none() => Ok(()),
            Err(refused) => broken("I11", expected, format!("refused: {refused}")),
            Ok(None) => broken("I11", expected, "nothing"),
            Ok(Some(stored)) if stored.end < least || told.is_some_and(|told| told != stored.end) => {
                broken("I11", expected, format!("those up to {}", C(stored.end)))
            }
            Ok(Some(stored)) => {
                self.holds(stored, path).map_err(|violation| crate::report::Violation { invariant: "I11", ..violation })
            }
        }
    }
}
