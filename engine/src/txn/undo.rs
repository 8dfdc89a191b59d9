//! What one transaction wrote, and its way back: to a savepoint, or to the start.
//!
//! A change takes effect here at once, for its own transaction alone: nothing is shared before the commit. So the way back to the start
//! is to drop everything. Changes behind a savepoint are also chained, each with what this transaction saw under the key before: a
//! rollback takes them from the last to the first, a commit takes what is left, once per key, in the order of tables and keys. A value
//! is captured when the change is made.

use std::{
    collections::BTreeMap,
    ops::{Bound, RangeBounds},
    sync::Arc,
};

use smallvec::SmallVec;

use crate::plant::{Plants, planted};

use super::ids::TableId;

/// A key; a short one needs no allocation.
pub(super) type Key = SmallVec<[u8; 24]>;

/// What a key is set to; `None` removes it.
pub(super) type After = Option<Arc<[u8]>>;

/// The write set of one transaction.
#[derive(Debug, Default)]
pub(super) struct WriteSet {
    tables: BTreeMap<TableId, BTreeMap<Key, After>>,
    /// Changes since the first savepoint, the last one last; empty without a savepoint, since nothing can go back there then.
    chain: Vec<Undo>,
    /// Each with the length of the chain when it was set; the lengths ascend.
    savepoints: Vec<(Box<str>, usize)>,
    write_bytes: usize,
    undo_bytes: usize,
    plants: Plants,
}

/// One change, the other way round.
#[derive(Debug)]
struct Undo {
    table: TableId,
    key: Key,
    /// `None`: this transaction had not written the key.
    before: Option<After>,
}

/// There is no savepoint of this name, or none any more. Set it first.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no savepoint of this name")]
pub(super) struct UnknownSavepoint;

impl WriteSet {
    pub(super) fn new(plants: Plants) -> WriteSet {
        WriteSet { plants, ..WriteSet::default() }
    }

    /// Sets or removes a key.
    pub(super) fn write(&mut self, table: TableId, key: &[u8], after: After) {
        let writes = self.tables.entry(table).or_default();
        self.write_bytes += after_bytes(&after);
        let before = match writes.get_mut(key) {
            Some(now) => {
                self.write_bytes -= after_bytes(now);
                Some(std::mem::replace(now, after))
            }
            None => {
                self.write_bytes += key.len();
                writes.insert(Key::from_slice(key), after);
                None
            }
        };
        if !self.savepoints.is_empty() {
            let undo = Undo { table, key: Key::from_slice(key), before };
            self.undo_bytes += undo.bytes();
            self.chain.push(undo);
        }
    }

    /// What this transaction did to a key: a value or its removal; `None` if it did nothing.
    pub(super) fn get(&self, table: TableId, key: &[u8]) -> Option<&After> {
        self.tables.get(&table)?.get(key)
    }

    /// Sets a savepoint here; one of this name moves.
    pub(super) fn savepoint(&mut self, name: &str) {
        self.savepoints.retain(|(there, _)| **there != *name);
        self.savepoints.push((name.into(), self.chain.len()));
        // Nobody can go back behind the first one any more.
        let first = self.savepoints[0].1;
        for undo in self.chain.drain(..first) {
            self.undo_bytes -= undo.bytes();
        }
        self.savepoints.iter_mut().for_each(|(_, length)| *length -= first);
    }

    /// Takes back what was written since a savepoint, last first, and removes it and all that were set after it.
    pub(super) fn rollback_to(&mut self, name: &str) -> Result<(), UnknownSavepoint> {
        let place = self.savepoints.iter().position(|(there, _)| **there == *name).ok_or(UnknownSavepoint)?;
        let length = self.savepoints[place].1;
        if planted!(self.plants, TxnSavepointForward) {
            self.chain[length..].reverse();
        }
        while self.chain.len() > length {
            self.undo_last();
        }
        self.savepoints.truncate(place);
        // What is left of the chain belongs to the savepoints that are left: without one it is empty, since the first stands at its start.
        debug_assert!(!self.savepoints.is_empty() || self.chain.is_empty());
        Ok(())
    }

    /// Takes everything back.
    pub(super) fn rollback(&mut self) {
        *self = WriteSet::default();
    }

    /// What a commit writes: tables in order, with one change per key, in order. Whoever commits leaves out the tables that were
    /// dropped meanwhile.
    pub(super) fn tables(&self) -> impl Iterator<Item = (TableId, impl Iterator<Item = (&[u8], &After)>)> {
        self.tables.iter().map(|(table, writes)| (*table, writes.iter().map(|(key, after)| (&key[..], after))))
    }

    /// The changes to keys of a range, in order from either end; of none if its start is above its end.
    pub(super) fn range<'a>(
        &'a self,
        table: TableId,
        range: (Bound<&[u8]>, Bound<&[u8]>),
    ) -> impl DoubleEndedIterator<Item = (&'a [u8], &'a After)> + use<'a> {
        let writes = self.tables.get(&table).filter(|_| !is_backward(range));
        writes
            .map(|writes| writes.range::<[u8], _>((range.start_bound().cloned(), range.end_bound().cloned())))
            .into_iter()
            .flatten()
            .map(|(key, after)| (&key[..], after))
    }

    /// Whether a commit has nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Bytes of all keys and values, those that are only kept for a rollback included.
    pub(super) fn bytes(&self) -> usize {
        self.write_bytes + self.undo_bytes
    }

    /// Rows that it changes.
    pub(super) fn len(&self) -> usize {
        self.tables.values().map(BTreeMap::len).sum()
    }

    fn undo_last(&mut self) {
        let Some(undo) = self.chain.pop() else { return };
        self.undo_bytes -= undo.bytes();
        if undo.before.is_none() && planted!(self.plants, TxnUndoLeavesInserts) {
            return;
        }
        let Some(writes) = self.tables.get_mut(&undo.table) else { return };
        if let Some(before) = &undo.before {
            self.write_bytes += after_bytes(before);
        } else {
            self.write_bytes -= undo.key.len();
        }
        let now = match undo.before {
            Some(before) => writes.insert(undo.key, before),
            None => writes.remove(&undo.key),
        };
        self.write_bytes -= now.as_ref().map_or(0, after_bytes);
        if writes.is_empty() {
            self.tables.remove(&undo.table);
        }
    }
}

impl Undo {
    fn bytes(&self) -> usize {
        self.key.len() + self.before.as_ref().map_or(0, after_bytes)
    }
}

fn after_bytes(after: &After) -> usize {
    after.as_ref().map_or(0, |value| value.len())
}

/// Ranges that an ordered map would panic at.
fn is_backward(range: (Bound<&[u8]>, Bound<&[u8]>)) -> bool {
    use Bound::{Excluded, Included};
    match range {
        (Excluded(start), Excluded(end)) => start >= end,
        (Included(start) | Excluded(start), Included(end) | Excluded(end)) => start > end,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T: TableId = TableId(1);

    fn value(text: &str) -> After {
        Some(text.as_bytes().into())
    }

    /// Runs words: `k=v` puts, `k-` deletes, `:s` sets a savepoint, `<s` goes back to one, `?s` finds it unknown; what a commit writes then.
    fn check(script: &str, expected: &str) {
        let mut set = WriteSet::default();
        for word in script.split_whitespace() {
            if let Some((key, text)) = word.split_once('=') {
                set.write(T, key.as_bytes(), value(text));
            } else if let Some(key) = word.strip_suffix('-') {
                set.write(T, key.as_bytes(), None);
            } else if let Some(name) = word.strip_prefix(':') {
                set.savepoint(name);
            } else if let Some(name) = word.strip_prefix('<') {
                assert_eq!(set.rollback_to(name), Ok(()), "{script}: {word}");
            } else if let Some(name) = word.strip_prefix('?') {
                assert_eq!(set.rollback_to(name), Err(UnknownSavepoint), "{script}: {word}");
            }
        }
        let writes = set.range(T, (Bound::Unbounded, Bound::Unbounded)).map(|(key, after)| {
            let key = String::from_utf8_lossy(key);
            after.as_ref().map_or(format!("{key}-"), |value| format!("{key}={}", String::from_utf8_lossy(value)))
        });
        assert_eq!(writes.collect::<Vec<_>>().join(" "), expected, "{script}");
    }

    #[test]
    fn a_rollback_takes_changes_back_from_the_last_and_a_commit_writes_each_key_once() {
        check("a=1 b=2 a=3", "a=3 b=2"); // L10
        check(":s a=1 <s", ""); // an insert vanishes
        check("a=1 :s a=2 a=3 a- <s", "a=1"); // else the old value returns
        check("a- :s a=2 <s", "a-");
        check("a=1 :s a- b=1 b- c=1 <s d=4", "a=1 d=4");
        check("b=1 a=2 c-", "a=2 b=1 c-");
    }

    #[test]
    fn a_savepoint_goes_with_all_that_were_set_at_or_after_it() {
        check("a=1 :s a=2 :t a=3 <s ?s ?t", "a=1"); // L30: nested
        check("a=1 :s a=2 :t a=3 <t ?t <s", "a=1");
        check(":s :t a=1 <s ?t", ""); // at the same place
        check(":s :t a=1 <t a=2 <s", "");
        check(":s a=1 :s a=2 <s ?s", "a=1"); // a name that exists moves
        check(":s a=1 :t a=2 :s a=3 <s a=4 <t ?s", "a=1");
        check("?s a=1 ?s", "a=1"); // unknown: an error that changes nothing
        check(":s a=1 <s a=2 ?s :s a=3 <s", "a=2"); // and set anew
    }

    #[test]
    fn a_dropped_table_is_left_out_and_the_rest_stays() {
        let mut set = WriteSet::default(); // L31
        let live = TableId(2);
        set.write(T, b"a", value("1"));
        set.savepoint("s");
        set.write(live, b"a", value("2"));
        set.write(T, b"a", None);
        let left = |set: &WriteSet| {
            let writes = set.tables().filter(|(table, _)| *table == live).flat_map(|(_, writes)| writes);
            writes.map(|(key, after)| (key.to_vec(), after.clone())).collect::<Vec<_>>()
        };
        assert_eq!(left(&set), [(b"a".to_vec(), value("2"))]);
        set.rollback_to("s").expect("it is known");
        assert!(left(&set).is_empty() && !set.is_empty());
    }

    #[test]
    fn a_range_that_runs_backward_is_empty() {
        use Bound::{Excluded, Included};
        let mut set = WriteSet::default();
        set.write(T, b"b", value("1"));
        let (b, c) = (&b"b"[..], &b"c"[..]);
        for range in [
            (Included(c), Included(b)),
            (Excluded(b), Excluded(b)),
            (Excluded(b), Included(b)),
            (Included(c), Excluded(b)),
        ] {
            assert_eq!(set.range(T, range).count(), 0, "{range:?}");
        }
        assert_eq!(set.range(T, (Included(b), Included(b))).rev().count(), 1);
    }

    proptest! {
        #[test]
        fn it_is_an_ordered_map_with_a_stack_of_copies(
            steps in prop::collection::vec((0..8_u8, 1..3_u32, 0..12_u8, 0..3_u8, 0..40_usize), 0..200),
        ) {
            type Model = BTreeMap<(TableId, Key), After>;
            let (mut set, mut model) = (WriteSet::default(), Model::new());
            let mut stack: Vec<(String, Model)> = Vec::new();
            for (kind, table, key, name, bytes) in steps {
                let (table, key, name) = (TableId(table), vec![key; usize::from(key) * 3], name.to_string());
                match kind {
                    0..4 => {
                        let after = (kind != 0).then(|| vec![kind; bytes].into());
                        set.write(table, &key, after.clone());
                        model.insert((table, key.as_slice().into()), after);
                    }
                    4 | 5 => {
                        set.savepoint(&name);
                        stack.retain(|(there, _)| *there != name);
                        stack.push((name, model.clone()));
                    }
                    6 => match stack.iter().position(|(there, _)| *there == name) {
                        Some(place) => {
                            prop_assert_eq!(set.rollback_to(&name), Ok(()));
                            model = stack.swap_remove(place).1;
                            stack.truncate(place);
                        }
                        None => prop_assert_eq!(set.rollback_to(&name), Err(UnknownSavepoint)),
                    },
                    _ if bytes == 0 => {
                        set.rollback();
                        (model, stack) = (Model::new(), Vec::new());
                    }
                    _ => {
                        let end = [key.as_slice(), &[0xff]].concat();
                        let (from, to) = (Bound::Excluded(&key[..]), Bound::Included(&end[..]));
                        let backward = set.range(table, (from, to)).rev().map(|(key, after)| (key.into(), after.clone()));
                        let expected = model.iter().rev().filter(|((of, at), _)| *of == table && at[..] > key[..] && at[..] <= end[..]);
                        prop_assert_eq!(backward.collect::<Vec<(Key, After)>>(),
                            expected.map(|((_, key), after)| (key.clone(), after.clone())).collect::<Vec<_>>());
                    }
                }
                let writes = set.tables().flat_map(|(table, writes)| writes.map(move |(key, after)| ((table, key.into()), after.clone())));
                prop_assert!(writes.eq(model.clone()));
                prop_assert!(model.iter().all(|((table, key), after)| set.get(*table, key) == Some(after)));
                prop_assert_eq!(set.is_empty(), model.is_empty());
                let bytes: usize = model.iter().map(|((_, key), after)| key.len() + after_bytes(after)).sum();
                prop_assert_eq!(set.bytes() - set.undo_bytes, bytes);
                prop_assert_eq!(set.undo_bytes, set.chain.iter().map(Undo::bytes).sum::<usize>());
            }
        }
    }
}
