//! Bodies over the pages of a store's tables.

use std::{
    collections::{BTreeMap, btree_map},
    ops::Bound,
};

use arbitrary::{Arbitrary, Unstructured};
use engine::txn::{
    catalog,
    ids::{Csn, Epoch, PageNo, TableId},
    pages::{
        Changes, Draft, Source,
        chunk::{CHUNK_HEADER_BYTES, ChunkHeader},
        cursor::{Cursor, Direction, get},
        directory::{ChunkEntry, bitmap_pages, decode_bitmap, decode_directory, encode_bitmap, encode_directory},
        format::{ChildRef, Header, PAGE_HEADER_BYTES, Run, checksum},
        key_limit,
        merge::merge as merged,
        node::{Node, NodeRef, PageError, Stored},
        root::{ROOT_BYTES, Root},
    },
};

/// Small pages: a few keys make a deep tree, and a few bytes reach every field.
const B: usize = 480;
const PAGE: PageNo = PageNo { chunk: 1, index: 1 };

/// A root copy of hostile bytes, as they are and with a right checksum; and the same bytes as a table's entry, whose first byte says how
/// long its key is. Each decodes or is refused, and has one form.
pub fn root(data: &[u8]) {
    let mut bytes = [0; ROOT_BYTES];
    let length = data.len().min(ROOT_BYTES);
    bytes[..length].copy_from_slice(&data[..length]);
    assert!(Root::decode(data).is_err() || data.len() >= ROOT_BYTES);
    for sealed in [false, true] {
        if sealed {
            let crc = crc32fast::hash(&bytes[..120]);
            bytes[120..124].copy_from_slice(&crc.to_le_bytes());
        }
        if let Ok(root) = Root::decode(&bytes) {
            assert_eq!(root.encode(), bytes);
        }
    }
    let Some((first, rest)) = data.split_first() else { return };
    let (key, value) = rest.split_at(rest.len().min(usize::from(*first % 8)));
    if let Ok((table, tree)) = catalog::decode(key, value) {
        let (again, entry) = catalog::encode(&table, tree);
        assert_eq!((&again[..], &entry[..]), (key, value));
    }
}

/// What stands in a chunk file besides trees: its header, directory pages and bitmaps, of hostile bytes with right checksums. Each decodes
/// or is refused, and has one form.
pub fn chunk(data: &[u8]) {
    let mut header = [0; CHUNK_HEADER_BYTES];
    let length = data.len().min(header.len());
    header[..length].copy_from_slice(&data[..length]);
    for sealed in [false, true] {
        if sealed {
            let crc = crc32fast::hash(&header[..36]);
            header[36..].copy_from_slice(&crc.to_le_bytes());
        }
        if let Ok(read) = ChunkHeader::decode(&header) {
            assert_eq!(read.encode(), header);
        }
    }
    let (bytes, child) = sealed_page(data);
    let csn = Header::peek(&bytes).map(|header| header.csn).unwrap_or_default();
    if let Ok((next, entries)) = decode_directory::<B>(&bytes, &child) {
        let (header, body, again) = encode_directory::<B>(PAGE, csn, next, &entries);
        assert_eq!(([&header[..], &body].concat(), again), (bytes.to_vec(), child));
    }
    let chunk = u32::from_le_bytes([bytes[24], bytes[25], bytes[26], bytes[27]]);
    let live = bytes[PAGE_HEADER_BYTES..].iter().map(|byte| byte.count_ones()).sum();
    let entry = ChunkEntry { chunk, pages: bitmap_pages::<B>(), live, bitmap: child };
    if let Ok(bits) = decode_bitmap::<B>(&bytes, &entry) {
        assert_eq!(bits.count(), live);
        let (header, body, again) = encode_bitmap::<B>(PAGE, csn, chunk, &bits);
        assert_eq!(([&header[..], &body].concat(), again), (bytes.to_vec(), child));
    }
}

/// A page of these bytes at its place, with a right checksum, and who names it.
fn sealed_page(data: &[u8]) -> ([u8; PAGE_HEADER_BYTES + B], ChildRef) {
    let mut bytes = [0; PAGE_HEADER_BYTES + B];
    let length = data.len().min(bytes.len());
    bytes[..length].copy_from_slice(&data[..length]);
    bytes[16..24].copy_from_slice(&PAGE.to_bits().to_le_bytes());
    let (header, body) = bytes.split_first_chunk::<PAGE_HEADER_BYTES>().expect("it is longer");
    let crc = checksum(PAGE.to_bits(), header, body);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    (bytes, ChildRef { page: PAGE, crc, runs_below: false })
}

/// A page of hostile bytes whose checksum and number are right: it decodes to something that can be searched and iterated, or is
/// refused. What is accepted, sealed again, is the same page up to its commit number.
pub fn page(data: &[u8]) {
    let (bytes, child) = sealed_page(data);
    let Ok(node) = Node::<B>::decode(&bytes, &child) else { return };
    for index in 0..node.len() {
        let key = [node.prefix(), node.suffix(index)].concat();
        if node.is_leaf() {
            assert_eq!(node.find(&key), Ok(index));
            let _ = node.value(index);
        } else {
            assert!(index == 0 || node.child_of(&key) == index);
            let _ = node.child(index);
        }
    }
    for probe in data.chunks(7) {
        if node.is_leaf() {
            assert!(node.find(probe).unwrap_or_else(|place| place) <= node.len());
        } else {
            assert!(node.child_of(probe) < node.len());
        }
    }
    let (header, crc) = node.seal(PAGE, Csn::default());
    let again = [&header[..], node.body()].concat();
    assert_eq!(Node::decode(&again, &ChildRef { crc, ..child }), Ok(node));
}

/// Batches of changes merged one after the other: a cursor both ways and look-ups find what a map holds, in the last tree and in the
/// one before.
pub fn merge(data: &[u8]) {
    let Ok(batches) = Vec::<Vec<Drawn>>::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let (mut pages, mut root, mut map) = (Pages::default(), None, BTreeMap::new());
    let csn = Csn::first(Epoch::LAST);
    for batch in batches.iter().take(8) {
        let batch: Batch = batch.iter().take(200).map(Drawn::change).collect();
        let (old, old_map) = (root, map.clone());
        let before = Pages(pages.0.clone(), BTreeMap::new(), 0);
        let changed = merged(root, (TableId(1), csn), &before, &mut Sorted::new(&batch), &mut pages);
        root = changed.expect("no page is damaged").root;
        for (key, value) in batch {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        check(&pages, root, &map);
        check(&pages, old, &old_map);
    }
}

fn check(pages: &Pages, root: Option<ChildRef>, map: &BTreeMap<Vec<u8>, Vec<u8>>) {
    let mut found: Vec<_> = map.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    assert_eq!(pages.read(root, Direction::Forward), found);
    found.reverse();
    assert_eq!(pages.read(root, Direction::Backward), found);
    for (key, value) in map {
        let hit = get::<B, _>(pages, root.as_ref(), key).expect("no page is damaged").expect("it is there");
        assert_eq!(pages.value(hit.value()), value);
    }
}

/// A change: a key that is one of few or of many, long or short, and a value of some length, or none.
#[derive(Arbitrary, Debug)]
struct Drawn {
    byte: u8,
    repeat: u8,
    number: u16,
    value: Option<u16>,
}

impl Drawn {
    fn change(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let mut key = vec![self.byte; usize::from(self.repeat) % (key_limit::<B>() - 1)];
        key.extend(self.number.to_be_bytes());
        (key, self.value.map(|bytes| vec![self.repeat; usize::from(bytes) % 1300]))
    }
}

type Batch = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

struct Sorted<'a> {
    rest: btree_map::Iter<'a, Vec<u8>, Option<Vec<u8>>>,
    current: Option<(&'a [u8], Option<&'a [u8]>)>,
}

impl<'a> Sorted<'a> {
    fn new(batch: &'a Batch) -> Sorted<'a> {
        let mut sorted = Sorted { rest: batch.iter(), current: None };
        sorted.advance();
        sorted
    }
}

impl Changes for Sorted<'_> {
    fn current(&self) -> Option<(&[u8], Option<&[u8]>)> {
        self.current
    }

    fn advance(&mut self) {
        self.current = self.rest.next().map(|(key, value)| (key.as_slice(), value.as_deref()));
    }
}

/// Pages as bytes, values in runs, and how many pages are taken.
#[derive(Default)]
struct Pages(BTreeMap<PageNo, Vec<u8>>, BTreeMap<PageNo, Vec<u8>>, u32);

impl Source<B> for Pages {
    type Error = PageError;

    fn page(&self, child: &ChildRef) -> Result<NodeRef<B>, PageError> {
        Ok(NodeRef::new(Node::decode(&self.0[&child.page], child)?))
    }
}

impl Draft<B> for Pages {
    type Error = PageError;

    fn allocate(&mut self, pages: u32) -> Result<PageNo, PageError> {
        self.2 += pages;
        Ok(PageNo { chunk: 1, index: self.2 - pages + 1 })
    }

    fn write(&mut self, page: PageNo, header: [u8; PAGE_HEADER_BYTES], node: NodeRef<B>) {
        assert!(self.0.insert(page, [&header[..], node.body()].concat()).is_none(), "a page is written once");
    }

    fn write_run(&mut self, run: &Run, value: &[u8]) {
        assert!(self.1.insert(run.page, value.to_vec()).is_none(), "a run is written once");
    }
}

impl Pages {
    fn value<'a>(&'a self, stored: Stored<'a>) -> &'a [u8] {
        match stored {
            Stored::Inline(value) => value,
            Stored::Run(run) => &self.1[&run.page],
        }
    }

    fn read(&self, root: Option<ChildRef>, direction: Direction) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut cursor = Cursor::<B>::new(root, Bound::Unbounded, Bound::Unbounded, direction);
        let mut found = Vec::new();
        while let Some((key, value)) = cursor.next(self).expect("no page is damaged") {
            found.push((key.to_vec(), self.value(value).to_vec()));
        }
        found
    }
}
