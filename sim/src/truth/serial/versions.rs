//! The versions of every key in the order of commits, and which of them a statement may have seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Bound, RangeBounds},
};

use engine::txn::options::Isolation;

use super::{Anomaly, Committed, Key, Read, ValueId, Violation, words::Words};

/// By table and key.
pub(super) struct Versions<'a> {
    history: &'a [Committed],
    tables: BTreeMap<u32, BTreeMap<&'a Key, Vec<Version>>>,
    by_number: BTreeMap<u64, usize>,
}

/// What a transaction left behind of a key.
struct Version {
    csn: u64,
    by: usize,
    value: Option<ValueId>,
}

/// What follows from a statement for one key.
pub(super) struct Seen<'a> {
    /// The place of the statement.
    pub(super) read: usize,
    pub(super) key: &'a Key,
    /// Who wrote what it found, or at least something that was there by then.
    pub(super) written: Option<usize>,
    /// Who is the first to have replaced it.
    pub(super) replaced: Option<usize>,
}

/// A key that a statement read, and what it may have seen: 0 is nothing, before the first version, 1 the first version.
struct Look<'a> {
    read: usize,
    key: &'a Key,
    versions: &'a [Version],
    may: Vec<usize>,
}

/// Commit numbers that a snapshot may have, half open.
type Span = (u64, u64);

impl<'a> Versions<'a> {
    pub(super) fn of(history: &'a [Committed]) -> Result<Versions<'a>, Violation> {
        let mut all = Versions { history, tables: BTreeMap::new(), by_number: BTreeMap::new() };
        let mut commits: Vec<usize> = (0..history.len()).collect();
        commits.sort_by_key(|of| history[*of].csn);
        let mut last = None;
        for by in commits {
            let one = &history[by];
            let csn = (!one.writes.is_empty()).then_some(one.csn);
            let other = all
                .by_number
                .insert(one.number, by)
                .or(last.filter(|_| csn.is_some() && csn == last.map(|last: usize| history[last].csn)));
            if let Some(other) = other {
                return Err(Words(history).pair(Anomaly::NumberTwice, other, by));
            }
            last = if csn.is_some() { Some(by) } else { last };
            // The last write of a key is what stays of it.
            let left: BTreeMap<&Key, Option<ValueId>> = one.writes.iter().map(|(key, value)| (key, *value)).collect();
            for (key, value) in left {
                let versions = all.tables.entry(key.0).or_default().entry(key).or_default();
                versions.push(Version { csn: one.csn, by, value });
            }
        }
        Ok(all)
    }

    /// Who writes a key, and who does next.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&'a Key, usize, usize)> {
        let keys = self.tables.values().flatten();
        keys.flat_map(|(key, versions)| versions.windows(2).map(|pair| (*key, pair[0].by, pair[1].by)))
    }

    /// What follows from all that a transaction read. `floor`: what its snapshot has at least.
    pub(super) fn seen_by(
        &'a self,
        reader: &'a Committed,
        floor: u64,
        aborted: &BTreeSet<u64>,
    ) -> Result<Vec<Seen<'a>>, Violation> {
        let mut looks = self.looks(reader, aborted)?;
        if reader.isolation != Isolation::ReadCommitted {
            keep_what_one_snapshot_fits(&mut looks, reader, floor);
        }
        let seen = looks.iter().filter_map(|Look { read, key, versions, may }| {
            let (first, last) = (*may.first()?, *may.last()?);
            let other = |by: &usize| self.history[*by].number != reader.number;
            let written = first.checked_sub(1).map(|at| versions[at].by).filter(other);
            let replaced = versions.get(last).map(|version| version.by).filter(other);
            Some(Seen { read: *read, key, written, replaced })
        });
        Ok(seen.collect())
    }

    fn looks(&'a self, reader: &'a Committed, aborted: &BTreeSet<u64>) -> Result<Vec<Look<'a>>, Violation> {
        let mut looks = Vec::new();
        for (read, statement) in reader.reads.iter().enumerate() {
            match statement {
                Read::Get { key, found } => looks.extend(self.look(reader, read, key, *found, aborted)?),
                Read::Range { table, from, to, found } => {
                    let range = (from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice));
                    let range: (Bound<&[u8]>, Bound<&[u8]>) = range;
                    let mut found: BTreeMap<&[u8], ValueId> =
                        found.iter().map(|(key, value)| (&key[..], *value)).collect();
                    let keys = self.tables.get(table).into_iter().flat_map(BTreeMap::keys);
                    for key in keys {
                        let value = found.remove(&key.1[..]);
                        if value.is_some() || RangeBounds::<[u8]>::contains(&range, &key.1[..]) {
                            looks.extend(self.look(reader, read, key, value, aborted)?);
                        }
                    }
                    // Nobody left anything behind of these keys. (Its own values a savepoint may have taken back.)
                    if let Some((key, value)) = found.into_iter().find(|(_, value)| value.transaction != reader.number)
                    {
                        return Err(self.never_left(reader, read, &(*table, key.to_vec()), value, aborted));
                    }
                }
            }
        }
        Ok(looks)
    }

    /// `None`: it found what the reader itself did, or no one ever wrote the key.
    fn look(
        &'a self,
        reader: &Committed,
        read: usize,
        key: &'a Key,
        found: Option<ValueId>,
        aborted: &BTreeSet<u64>,
    ) -> Result<Option<Look<'a>>, Violation> {
        let versions = self.tables.get(&key.0).and_then(|keys| keys.get(key)).map_or(&[][..], Vec::as_slice);
        let own = match found {
            Some(value) => value.transaction == reader.number,
            None => reader.writes.iter().any(|(of, value)| of == key && value.is_none()),
        };
        if own {
            return Ok(None);
        }
        let held = |version: usize| version.checked_sub(1).and_then(|at| versions[at].value);
        let may: Vec<usize> = (0..=versions.len()).filter(|version| held(*version) == found).collect();
        match found {
            Some(value) if may.is_empty() => Err(self.never_left(reader, read, key, value, aborted)),
            _ => Ok(Some(Look { read, key, versions, may })),
        }
    }

    /// Of a value that no transaction left behind.
    fn never_left(
        &self,
        reader: &Committed,
        read: usize,
        key: &Key,
        value: ValueId,
        aborted: &BTreeSet<u64>,
    ) -> Violation {
        let writer = value.transaction;
        let (anomaly, what) = match self.by_number.get(&writer) {
            Some(_) => (Anomaly::IntermediateRead, format!("T{writer} did not leave that behind")),
            None if aborted.contains(&writer) => (Anomaly::AbortedRead, format!("T{writer} did not commit")),
            None => (Anomaly::AbortedRead, format!("nobody knows of a commit of T{writer}")),
        };
        let steps = vec![format!("{}, but {what}", Words(self.history).finds(reader, read, key))];
        Violation { anomaly, steps }
    }
}

/// All statements of a transaction see one snapshot: what fits none that all of them fit was not what they saw. If there is no such
/// snapshot, everything stays, and what is wrong shows as a cycle.
fn keep_what_one_snapshot_fits(looks: &mut [Look<'_>], reader: &Committed, floor: u64) {
    let end = if reader.writes.is_empty() { u64::MAX } else { reader.csn };
    let mut fit: Vec<Span> = vec![(floor, end)];
    for look in &*looks {
        let spans: Vec<Span> = look.may.iter().map(|version| span(look.versions, *version)).collect();
        fit = fit.iter().flat_map(|one| spans.iter().filter_map(|two| overlap(*one, *two))).collect();
    }
    if !fit.is_empty() {
        for Look { versions, may, .. } in looks {
            may.retain(|version| fit.iter().any(|fit| overlap(*fit, span(versions, *version)).is_some()));
        }
    }
}

/// The snapshots in which a version is what a key holds.
fn span(versions: &[Version], version: usize) -> Span {
    let from = version.checked_sub(1).map_or(0, |at| versions[at].csn);
    (from, versions.get(version).map_or(u64::MAX, |next| next.csn))
}

fn overlap(one: Span, two: Span) -> Option<Span> {
    let (from, to) = (one.0.max(two.0), one.1.min(two.1));
    (from < to).then_some((from, to))
}
