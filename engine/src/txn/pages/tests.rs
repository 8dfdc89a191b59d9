//! Trees against an ordered map: what is merged is what is read, old trees stay, and no page is lost or counted twice.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use proptest::prelude::*;

use super::{
    cursor::{Cursor, Direction, get},
    format::{ChildRef, PAGE_HEADER_BYTES, Run},
    merge::{Merge, Merged, least},
    node::{Node, NodeRef, PageError, Stored},
    *,
};
use crate::txn::ids::{Csn, Epoch, TableId};

/// Pages as bytes. The first read of each fails, as that of a cache would.
#[derive(Default)]
struct Disk {
    pages: BTreeMap<PageNo, Vec<u8>>,
    runs: BTreeMap<PageNo, Vec<u8>>,
    next: u32,
    asked: RefCell<BTreeSet<PageNo>>,
}

#[derive(Debug)]
enum Failure {
    Missing,
    Page(PageError),
}

impl From<PageError> for Failure {
    fn from(error: PageError) -> Failure {
        Failure::Page(error)
    }
}

impl<const B: usize> Source<B> for Disk {
    type Error = Failure;

    fn page(&self, child: &ChildRef) -> Result<NodeRef<B>, Failure> {
        if self.asked.borrow_mut().insert(child.page) {
            return Err(Failure::Missing);
        }
        Ok(NodeRef::new(Node::decode(&self.pages[&child.page], child)?))
    }
}

impl<const B: usize> Draft<B> for Disk {
    type Error = Failure;

    fn allocate(&mut self, pages: u32) -> Result<PageNo, Failure> {
        self.next += pages;
        Ok(PageNo { chunk: 1, index: self.next - pages + 1 })
    }

    fn write(&mut self, page: PageNo, header: [u8; PAGE_HEADER_BYTES], node: NodeRef<B>) {
        assert!(self.pages.insert(page, [&header[..], node.body()].concat()).is_none(), "a page is written once");
    }

    fn write_run(&mut self, run: &Run, value: &[u8]) {
        assert!(self.runs.insert(run.page, value.to_vec()).is_none());
    }
}

/// Calls again whenever a page was missing.
fn again<T>(mut call: impl FnMut() -> Result<T, Failure>) -> T {
    loop {
        match call() {
            Ok(done) => return done,
            Err(Failure::Missing) => {}
            Err(Failure::Page(error)) => panic!("{error}"),
        }
    }
}

type Map = BTreeMap<Vec<u8>, Vec<u8>>;
type Batch = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

struct Sorted<'a>(
    std::iter::Peekable<std::collections::btree_map::Iter<'a, Vec<u8>, Option<Vec<u8>>>>,
    Option<(&'a [u8], Option<&'a [u8]>)>,
);

impl<'a> Sorted<'a> {
    fn new(batch: &'a Batch) -> Sorted<'a> {
        let mut sorted = Sorted(batch.iter().peekable(), None);
        sorted.advance();
        sorted
    }
}

impl Changes for Sorted<'_> {
    fn current(&self) -> Option<(&[u8], Option<&[u8]>)> {
        self.1
    }

    fn advance(&mut self) {
        self.1 = self.0.next().map(|(key, value)| (key.as_slice(), value.as_deref()));
    }
}

fn value_of(disk: &Disk, stored: Stored<'_>) -> Vec<u8> {
    match stored {
        Stored::Inline(value) => value.to_vec(),
        Stored::Run(run) => {
            let value = &disk.runs[&run.page];
            assert_eq!((value.len() as u64, crc32fast::hash(value)), (run.bytes, run.crc));
            value.clone()
        }
    }
}

fn read<const B: usize>(
    disk: &Disk,
    root: Option<ChildRef>,
    bounds: [Bound<&[u8]>; 2],
    direction: Direction,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut cursor = Cursor::<B>::new(root, bounds[0], bounds[1], direction);
    let mut found = Vec::new();
    while let Some(pair) = again(|| {
        let next = cursor.next(disk)?;
        Ok(next.map(|(key, value)| (key.to_vec(), value_of(disk, value))))
    }) {
        found.push(pair);
    }
    found
}

/// The pages of a tree, its height, and whether every page but the root is filled.
fn reachable<const B: usize>(disk: &Disk, root: Option<ChildRef>) -> (BTreeSet<u32>, usize) {
    let mut found = BTreeSet::new();
    let mut height = 0;
    let mut rest: Vec<(ChildRef, bool)> = root.map(|root| (root, true)).into_iter().collect();
    while let Some((child, is_root)) = rest.pop() {
        let node: NodeRef<B> = again(|| disk.page(&child));
        height = height.max(usize::from(node.level()) + 1);
        assert!(found.insert(child.page.index), "a page is in a tree once");
        let mut plain = 0;
        let mut runs = false;
        for index in 0..node.len() {
            let key = node.prefix().len() + node.suffix(index).len();
            if node.is_leaf() {
                plain += 12 + key + node.raw_value(index).0.len();
                if let Stored::Run(run) = node.value(index) {
                    runs = true;
                    for page in 0..run_pages::<B>(run.bytes) as u32 {
                        assert!(found.insert(run.page.index + page));
                    }
                }
            } else {
                // The first separator is kept only by the page above; the longest that it can be counts.
                plain += 24 + if index == 0 { key_limit::<B>() } else { key };
                runs |= node.child(index).runs_below;
                rest.push((node.child(index), false));
            }
        }
        assert_eq!(runs, child.runs_below);
        assert!(is_root || plain >= least::<B>(), "{node:?} has {plain} bytes in plain");
    }
    (found, height)
}

fn range(map: &Map, bounds: [Bound<&[u8]>; 2]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let within = |key: &[u8]| {
        let from = match bounds[0] {
            Bound::Included(from) => key >= from,
            Bound::Excluded(from) => key > from,
            Bound::Unbounded => true,
        };
        let to = match bounds[1] {
            Bound::Included(to) => key <= to,
            Bound::Excluded(to) => key < to,
            Bound::Unbounded => true,
        };
        from && to
    };
    map.iter().filter(|(key, _)| within(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn check<const B: usize>(disk: &Disk, root: Option<ChildRef>, map: &Map, probes: &[(Vec<u8>, u8)]) {
    let all = [Bound::Unbounded; 2];
    let mut pairs = range(map, all);
    assert_eq!(read::<B>(disk, root, all, Direction::Forward), pairs);
    pairs.reverse();
    assert_eq!(read::<B>(disk, root, all, Direction::Backward), pairs);
    for pair in probes.windows(2) {
        let bound = |(key, kind): &'_ (Vec<u8>, u8)| match kind % 3 {
            0 => Bound::Included(key.clone()),
            1 => Bound::Excluded(key.clone()),
            _ => Bound::Unbounded,
        };
        let bounds = [bound(&pair[0]), bound(&pair[1])];
        let bounds = [bounds[0].as_ref().map(Vec::as_slice), bounds[1].as_ref().map(Vec::as_slice)];
        let mut pairs = range(map, bounds);
        assert_eq!(read::<B>(disk, root, bounds, Direction::Forward), pairs);
        pairs.reverse();
        assert_eq!(read::<B>(disk, root, bounds, Direction::Backward), pairs);
        let found = again(|| get::<B, _>(disk, root.as_ref(), &pair[0].0));
        assert_eq!(found.map(|hit| value_of(disk, hit.value())).as_ref(), map.get(&pair[0].0));
    }
    for (key, value) in map {
        let found = again(|| get::<B, _>(disk, root.as_ref(), key)).expect("it is there");
        assert_eq!(&value_of(disk, found.value()), value);
    }
}

fn apply<const B: usize>(disk: &mut Disk, root: Option<ChildRef>, batch: &Batch) -> Merged {
    let csn = Csn::first(Epoch::new(1).expect("there is one"));
    let mut merge = Merge::<B>::new(root, TableId(7), csn);
    let mut changes = Sorted::new(batch);
    // The source is another one than the draft, of the old tree's pages only.
    let old = Disk { pages: disk.pages.clone(), ..Disk::default() };
    loop {
        let runs = disk.runs.len();
        let merged = again(|| merge.step(&old, &mut changes, disk));
        assert!(disk.runs.len() <= runs + 1, "values in pages of their own come one by one");
        if let Some(merged) = merged {
            return merged;
        }
    }
}

/// Batches one after the other, with all that must hold after each.
fn run<const B: usize>(batches: &[Batch], probes: &[(Vec<u8>, u8)]) -> usize {
    let (mut disk, mut root, mut map) = (Disk::default(), None, Map::new());
    let mut replaced = BTreeSet::new();
    let mut highest = 0;
    for batch in batches {
        let (before, old, old_map) = (disk.pages.clone(), root, map.clone());
        let merged = apply::<B>(&mut disk, root, batch);
        root = merged.root;
        for gone in &merged.replaced {
            for page in gone.page.index..gone.page.index + gone.pages {
                assert!(replaced.insert(page), "page {page} is replaced twice");
            }
        }
        for (key, value) in batch {
            match value {
                Some(value) => map.insert(key.clone(), value.clone()),
                None => map.remove(key),
            };
        }
        check::<B>(&disk, root, &map, probes);
        assert_eq!(root.is_none(), map.is_empty());
        assert!(before.iter().all(|(page, bytes)| disk.pages[page] == *bytes), "an old page changed");
        check::<B>(&disk, old, &old_map, &[]);
        let (live, height) = reachable::<B>(&disk, root);
        assert!(live.is_disjoint(&replaced), "a page that is replaced is in the tree");
        assert_eq!(live.len() + replaced.len(), disk.next as usize, "a page is lost");
        // A page above the leaves has two children at least, and mostly many more.
        assert!(height <= live.len().checked_ilog2().map_or(0, |log| log as usize + 1));
        highest = highest.max(height);
    }
    highest
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => (0..400_u32).prop_map(|number| format!("key-{number:05}").into_bytes()),
        // Long prefixes that end at once, and keys that begin each other.
        2 => (0..3_u8, 0..59_usize).prop_map(|(byte, length)| vec![byte; length]),
        1 => proptest::collection::vec(any::<u8>(), 0..12),
    ]
}

fn value() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![
        3 => Just(None),
        6 => (any::<u8>(), 0..30_usize).prop_map(|(byte, length)| Some(vec![byte; length])),
        1 => (any::<u8>(), 30..1500_usize).prop_map(|(byte, length)| Some(vec![byte; length])),
    ]
}

fn batches(most: usize) -> impl Strategy<Value = Vec<Batch>> {
    proptest::collection::vec(
        prop_oneof![
            3 => proptest::collection::btree_map(key(), value(), 0..most),
            1 => proptest::collection::btree_map(key(), value(), 0..4),
            // A whole range goes.
            1 => (0..400_u32, 0..300_u32).prop_map(|(from, many)| {
                (from..from + many).map(|number| (format!("key-{number:05}").into_bytes(), None)).collect()
            }),
        ],
        1..8,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn small_pages_hold_what_a_map_does(
        batches in batches(150),
        probes in proptest::collection::vec((key(), any::<u8>()), 8),
    ) {
        run::<480>(&batches, &probes);
    }

    #[test]
    fn large_pages_hold_what_a_map_does(
        batches in batches(300),
        probes in proptest::collection::vec((key(), any::<u8>()), 8),
    ) {
        run::<8160>(&batches, &probes);
    }
}

#[test]
fn a_tree_grows_deep_and_becomes_empty_again() {
    let keys = |step: usize| (0..3000).step_by(step).map(|number| format!("{number:032}").into_bytes());
    let put = |step, bytes| keys(step).map(|key| (key, Some(vec![1; bytes]))).collect::<Batch>();
    let remove = |step| keys(step).map(|key| (key, None)).collect::<Batch>();
    let some = (0..3000).step_by(7).map(|number| (format!("{number:032}-").into_bytes(), Some(vec![2; 60]))).collect();
    let highest = run::<480>(&[put(1, 20), remove(3), put(5, 40), some, remove(2), remove(1), put(900, 9)], &[]);
    assert!(highest >= 4, "{highest}");
    // The last batch of removals left the keys with a dash.
    let rest = (0..3000).step_by(7).map(|number| (format!("{number:032}-").into_bytes(), None)).collect();
    run::<480>(&[put(1, 20), remove(1), rest], &[]);
}

#[test]
fn keys_with_long_prefixes_split_where_the_prefix_ends() {
    let long = |byte: u8, last: u32| [vec![byte; 55], last.to_be_bytes().to_vec()].concat();
    let all = |bytes: std::ops::Range<u8>| {
        bytes.flat_map(|byte| (0..60).map(move |last| (long(byte, last), Some(Vec::new())))).collect::<Batch>()
    };
    let one = |byte: u8| Batch::from([(vec![byte], Some(vec![byte; 20]))]);
    run::<480>(&[all(1..3), one(2), all(5..9), one(7), one(8), one(9)], &[]);
}

#[test]
fn a_cursor_of_an_empty_tree_ends_at_once() {
    assert_eq!(read::<480>(&Disk::default(), None, [Bound::Unbounded; 2], Direction::Forward), []);
}
