//! What a serializable transaction read, and whether a commit since its snapshot changed any of it.
//!
//! Nothing that was read is left out, whatever the limit: above it many keys are remembered as one range that has them all. That may
//! find a conflict where there is none, never the other way round.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use super::{
    ids::{Csn, TableId},
    undo::Key,
};

/// The read set of one transaction: what it read of committed data. Its own writes don't belong here.
#[derive(Debug)]
pub(super) struct ReadSet {
    tables: BTreeMap<TableId, Reads>,
    entries: usize,
    limit: usize,
}

#[derive(Debug, Default)]
struct Reads {
    keys: BTreeSet<Key>,
    ranges: Vec<Range>,
}

type Range = (Bound<Key>, Bound<Key>);

/// Says what changed. A table that was dropped changed.
pub(super) trait Changed {
    /// Whether a key has a version, or a removal, above `after`.
    fn key(&self, table: TableId, key: &[u8], after: Csn) -> bool;

    /// Whether any key of a range has.
    fn range(&self, table: TableId, range: (Bound<&[u8]>, Bound<&[u8]>), after: Csn) -> bool;
}

impl ReadSet {
    /// One that holds up to `limit` keys and ranges, or one range per table.
    pub(super) fn new(limit: usize) -> ReadSet {
        ReadSet { tables: BTreeMap::new(), entries: 0, limit }
    }

    /// A key was read, whether it was there or not.
    pub(super) fn key(&mut self, table: TableId, key: &[u8]) {
        if self.tables.entry(table).or_default().keys.insert(Key::from_slice(key)) {
            self.entries += 1;
            self.keep_limit();
        }
    }

    /// A range was read, absent keys included: as far as a scan was consumed. A scan states it anew as it goes on: a range that meets the
    /// last one of its table extends it.
    pub(super) fn range(&mut self, table: TableId, range: (Bound<&[u8]>, Bound<&[u8]>)) {
        let ranges = &mut self.tables.entry(table).or_default().ranges;
        match ranges.last_mut() {
            Some(last) if meet(last, range) => widen(last, range),
            _ => {
                ranges.push((range.0.map(Key::from), range.1.map(Key::from)));
                self.entries += 1;
                self.keep_limit();
            }
        }
    }

    /// Whether nothing that was read changed above `after`; else a table in which something did.
    pub(super) fn validate(&self, after: Csn, changed: &impl Changed) -> Result<(), TableId> {
        for (table, reads) in &self.tables {
            let key = reads.keys.iter().any(|key| changed.key(*table, key, after));
            if key || reads.ranges.iter().any(|range| changed.range(*table, borrowed(range), after)) {
                return Err(*table);
            }
        }
        Ok(())
    }

    /// Above the limit the table with the most entries is left with one range.
    fn keep_limit(&mut self) {
        if self.entries <= self.limit {
            return;
        }
        if let Some(reads) = self.tables.values_mut().max_by_key(|reads| reads.entries()) {
            self.entries -= reads.entries();
            reads.unite();
            self.entries += reads.entries();
        }
    }
}

impl Reads {
    fn entries(&self) -> usize {
        self.keys.len() + self.ranges.len()
    }

    /// One range from the lowest to the highest entry.
    fn unite(&mut self) {
        let keys = self.keys.first().zip(self.keys.last());
        let all = keys.map(|(first, last)| (Bound::Included(first.clone()), Bound::Included(last.clone())));
        let mut all = all.into_iter().chain(self.ranges.drain(..));
        if let Some(mut one) = all.next() {
            all.for_each(|other| widen(&mut one, borrowed(&other)));
            self.ranges = vec![one];
        }
        self.keys.clear();
    }
}

fn borrowed(range: &Range) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (range.0.as_ref().map(|key| &key[..]), range.1.as_ref().map(|key| &key[..]))
}

/// Whether two ranges have a key or a border in common, so that no key lies between them.
fn meet(one: &Range, two: (Bound<&[u8]>, Bound<&[u8]>)) -> bool {
    let touches = |end: Bound<&[u8]>, start: Bound<&[u8]>| match (end, start) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => true,
        (Bound::Excluded(end), Bound::Excluded(start)) => end > start,
        (Bound::Included(end) | Bound::Excluded(end), Bound::Included(start) | Bound::Excluded(start)) => end >= start,
    };
    let one = borrowed(one);
    touches(one.1, two.0) && touches(two.1, one.0)
}

/// The least range that has both.
fn widen(one: &mut Range, two: (Bound<&[u8]>, Bound<&[u8]>)) {
    let (start, end) = borrowed(one);
    let earlier = match (two.0, start) {
        (_, Bound::Unbounded) => false,
        (Bound::Unbounded, _) => true,
        (a, b) => side(a).cmp(side(b)).then(opens(a).cmp(&opens(b))) == Ordering::Less,
    };
    let later = match (two.1, end) {
        (_, Bound::Unbounded) => false,
        (Bound::Unbounded, _) => true,
        (a, b) => side(a).cmp(side(b)).then(opens(b).cmp(&opens(a))) == Ordering::Greater,
    };
    if earlier {
        one.0 = two.0.map(Key::from);
    }
    if later {
        one.1 = two.1.map(Key::from);
    }
}

fn side(bound: Bound<&[u8]>) -> &[u8] {
    match bound {
        Bound::Included(key) | Bound::Excluded(key) => key,
        Bound::Unbounded => &[],
    }
}

/// Whether the key at the border is not of the range.
fn opens(bound: Bound<&[u8]>) -> bool {
    matches!(bound, Bound::Excluded(_))
}

#[cfg(test)]
mod tests {
    use std::ops::{Bound::*, RangeBounds};

    use proptest::prelude::*;

    use super::*;

    const T: TableId = TableId(1);

    /// Keys that changed, each at a CSN.
    struct Versions(Vec<(TableId, Vec<u8>, Csn)>);

    impl Changed for Versions {
        fn key(&self, table: TableId, key: &[u8], after: Csn) -> bool {
            self.range(table, (Included(key), Included(key)), after)
        }
        fn range(&self, table: TableId, range: (Bound<&[u8]>, Bound<&[u8]>), after: Csn) -> bool {
            self.0
                .iter()
                .any(|(of, key, csn)| *of == table && *csn > after && RangeBounds::<[u8]>::contains(&range, &key[..]))
        }
    }

    fn csn(number: u64) -> Csn {
        Csn::from_bits((1 << 40) + number).expect("one of epoch 1")
    }

    fn conflicts(reads: &ReadSet, key: &[u8]) -> bool {
        reads.validate(csn(5), &Versions(vec![(T, key.to_vec(), csn(6))])).is_err()
    }

    #[test]
    fn what_was_read_and_changed_since_is_a_conflict() {
        let mut reads = ReadSet::new(16);
        reads.key(T, b"a");
        reads.range(T, (Excluded(b"k"), Included(b"m")));
        for (key, found) in
            [(&b"a"[..], true), (b"b", false), (b"k", false), (b"ka", true), (b"m", true), (b"ma", false)]
        {
            assert_eq!(conflicts(&reads, key), found, "{key:?}");
        }
        let at = |table, number| reads.validate(csn(5), &Versions(vec![(table, b"a".to_vec(), csn(number))]));
        assert_eq!((at(T, 5), at(T, 6), at(TableId(2), 6)), (Ok(()), Err(T), Ok(())));
    }

    #[test]
    fn a_scan_is_one_range_as_far_as_it_went_in_either_direction() {
        let mut reads = ReadSet::new(16);
        for key in [b"b", b"d", b"f"] {
            reads.range(T, (Included(b"a"), Included(key)));
        }
        assert_eq!(reads.entries, 1);
        assert!(conflicts(&reads, b"f") && !conflicts(&reads, b"fa"));
        for key in [b"x", b"v", b"t"] {
            reads.range(T, (Included(key), Unbounded));
        }
        assert_eq!(reads.entries, 2);
        assert!(conflicts(&reads, b"t") && conflicts(&reads, b"zz") && !conflicts(&reads, b"s"));
        // Behind the last key, up to it: nothing lies between.
        reads.range(T, (Included(b"s"), Excluded(b"t")));
        assert_eq!(reads.entries, 2);
        // A border of which neither has the key stays open.
        let mut reads = ReadSet::new(16);
        reads.range(T, (Included(b"a"), Excluded(b"c")));
        reads.range(T, (Excluded(b"c"), Included(b"e")));
        assert!(!conflicts(&reads, b"c") && conflicts(&reads, b"b") && conflicts(&reads, b"d"));
    }

    #[test]
    fn above_the_limit_the_table_with_the_most_entries_has_one_range() {
        let mut reads = ReadSet::new(4);
        reads.key(TableId(2), b"z");
        for key in [b"c", b"e", b"g"] {
            reads.key(T, key);
        }
        assert!(!conflicts(&reads, b"d"));
        reads.key(TableId(2), b"y");
        assert_eq!(reads.entries, 3);
        assert!(conflicts(&reads, b"d") && !conflicts(&reads, b"b") && !conflicts(&reads, b"ga"));
        assert_eq!(reads.tables[&TableId(2)].keys.len(), 2);
    }

    fn bound(kind: u8, key: &[u8]) -> Bound<&[u8]> {
        match kind {
            0 => Unbounded,
            1 => Included(key),
            _ => Excluded(key),
        }
    }

    proptest! {
        #[test]
        fn a_read_is_never_forgotten_and_below_the_limit_nothing_is_invented(
            steps in prop::collection::vec((any::<bool>(), 0..2_u32, 0..40_u8, 0..6_u8, 0..3_u8, 0..3_u8), 0..40),
            changed in 0..50_u8, of in 0..2_u32, limit in 2..60_usize,
        ) {
            let (mut reads, mut read) = (ReadSet::new(limit), false);
            let count = steps.len();
            for (single, table, from, length, start, end) in steps {
                let (from, to) = ([from], [from + length]);
                if single {
                    reads.key(TableId(table), &from);
                    read |= table == of && from == [changed];
                } else {
                    // An empty range is one whose borders may not meet.
                    let range = (bound(start, &from[..]), bound(end.min(if length == 0 { 1 } else { 2 }), &to[..]));
                    reads.range(TableId(table), range);
                    read |= table == of && RangeBounds::<[u8]>::contains(&range, &[changed][..]);
                }
                prop_assert!(reads.entries <= limit);
                prop_assert_eq!(reads.entries, reads.tables.values().map(Reads::entries).sum::<usize>());
            }
            let found = reads.validate(csn(5), &Versions(vec![(TableId(of), vec![changed], csn(6))])).is_err();
            prop_assert!(found || !read);
            prop_assert!(count > limit || found == read);
        }
    }
}
