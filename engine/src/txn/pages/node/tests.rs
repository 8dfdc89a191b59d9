use proptest::prelude::*;

use super::{super::format::put, *};
use crate::txn::ids::Epoch;

const PAGE: PageNo = PageNo { chunk: 1, index: 2 };
const SMALL: usize = 96;

fn csn() -> Csn {
    Csn::first(Epoch::new(1).expect("there is one"))
}

fn bytes<const B: usize>(node: &Node<B>) -> (Vec<u8>, ChildRef) {
    let (header, crc) = node.seal(PAGE, csn());
    ([&header[..], node.body()].concat(), ChildRef { page: PAGE, crc, runs_below: false })
}

/// Makes the checksum of any bytes right.
fn forge(bytes: &mut [u8]) -> ChildRef {
    let (header, body) = bytes.split_first_chunk_mut::<PAGE_HEADER_BYTES>().expect("a header");
    let crc = checksum(PAGE.to_bits(), header, body);
    put(header, page_at::CRC, crc.to_le_bytes());
    ChildRef { page: PAGE, crc, runs_below: false }
}

fn leaf() -> Node<SMALL> {
    let mut cells = Cells::new(0);
    cells.push(b"key", b"v", false);
    cells.push(b"key-a", b"", false);
    cells.push(b"key-bcdef", &Run { page: PageNo { chunk: 1, index: 9 }, bytes: 600, crc: 0xAABB }.encode(), true);
    cells.build(TableId(5))
}

fn inner() -> Node<SMALL> {
    let mut cells = Cells::new(1);
    for (index, key) in [&b"left"[..], b"m", b"mz"].into_iter().enumerate() {
        let page = PageNo { chunk: 1, index: 3 + index as u32 };
        cells.push(key, &ChildRef { page, crc: 7, runs_below: index == 1 }.encode(), index == 1);
    }
    assert!(cells.runs_below());
    cells.build(TableId(5))
}

fn hex(bytes: &[u8]) -> String {
    bytes.chunks(16).map(|row| row.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n").collect()
}

#[test]
fn the_bytes_of_a_small_leaf() {
    let (found, _) = bytes(&leaf());
    assert_eq!(hex(&found), GOLDEN_LEAF);
}

#[test]
fn the_bytes_of_a_small_inner_page() {
    let (found, _) = bytes(&inner());
    assert_eq!(hex(&found), GOLDEN_INNER);
}

const GOLDEN_LEAF: &str = "\
    cb6f70c8010003000100000000010000\n\
    02000000010000000500000003004700\n\
    6b657900000000000000612d6463622d\n\
    18001f00270000000000010000007602\n\
    00000000002d610600140000802d6263\n\
    64656609000000010000005802000000\n\
    000000bbaa0000000000000000000000\n\
    00000000000000000000000000000000\n\
";
const GOLDEN_INNER: &str = "\
    4ea40698020103000100000000010000\n\
    02000000010000000500000001004f00\n\
    6d00000000000000000000000000007a\n\
    18002a003c0000000000030000000100\n\
    00000700000000000000000004000000\n\
    01000000070000000100000001000500\n\
    00000100000007000000000000007a00\n\
    00000000000000000000000000000000\n\
";

#[test]
fn a_page_in_memory_is_not_larger_than_on_the_disk() {
    assert!(size_of::<Node<{ super::super::BODY_BYTES }>>() + 2 * size_of::<usize>() <= 8192);
}

#[test]
fn every_flipped_bit_is_refused() {
    for (bytes, child) in [bytes(&leaf()), bytes(&inner())] {
        assert!(Node::<SMALL>::decode(&bytes, &child).is_ok());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = Node::<SMALL>::decode(&damaged, &child).expect_err("a flipped bit");
            assert_eq!((error.page, error.what), (PAGE, Flaw::Checksum));
        }
    }
}

#[test]
fn a_page_passes_only_at_its_place_and_for_its_parent() {
    let (bytes, child) = bytes(&leaf());
    let decode = |child: &ChildRef| Node::<SMALL>::decode(&bytes, child).map_err(|error| error.what);
    let elsewhere = ChildRef { page: PageNo { chunk: 1, index: 3 }, ..child };
    assert_eq!(decode(&elsewhere), Err(Flaw::Checksum));
    assert_eq!(decode(&ChildRef { crc: child.crc ^ 1, ..child }), Err(Flaw::Parent));
    let short = Node::<SMALL>::decode(&bytes[1..], &child).map_err(|error| error.what);
    assert_eq!(short, Err(Flaw::Length));
}

/// One field changed, with the checksum made right: each flaw by its name.
#[test]
fn what_is_wrong_has_a_name() {
    let (good, _) = bytes(&leaf());
    let body = page_at::BODY;
    for (at, byte, what) in [
        (page_at::KIND, 3, Flaw::Kind),
        (page_at::KIND, 2, Flaw::Level),
        (page_at::LEVEL, 1, Flaw::Level),
        (page_at::COUNT, 0, Flaw::Count),
        (page_at::COUNT, 200, Flaw::Count),
        (page_at::COUNT, 2, Flaw::Offset),
        (page_at::CSN + 5, 0, Flaw::Csn),
        (page_at::PAGE, 9, Flaw::Number),
        (page_at::PREFIX_BYTES, 255, Flaw::Prefix),
        (page_at::USED_BYTES, 97, Flaw::Used),
        (page_at::USED_BYTES, 3, Flaw::Used),
        (page_at::USED_BYTES, 90, Flaw::Used),
        (body + 4, 1, Flaw::Head),
        (body + 16, 0, Flaw::Offset),
        (body + 24, 99, Flaw::Cell),
        (body + 24 + 5, 0x80, Flaw::Cell),
    ] {
        let mut bytes = good.clone();
        assert_ne!(bytes[at], byte, "{at}");
        bytes[at] = byte;
        let child = forge(&mut bytes);
        let found = Node::<SMALL>::decode(&bytes, &child).expect_err("it is wrong").what;
        assert_eq!(found, what, "byte {at} is {byte}");
    }
}

/// Everything that a decoded page offers, on any page that decoding accepts.
fn walk<const B: usize>(node: &Node<B>, probes: &[Vec<u8>]) {
    for index in 0..node.len() {
        let key = [node.prefix(), node.suffix(index)].concat();
        if node.is_leaf() {
            let _ = node.value(index);
            assert_eq!(node.find(&key), Ok(index));
        } else {
            let _ = node.child(index);
            assert!(index == 0 || node.child_of(&key) == index);
        }
    }
    for probe in probes {
        if node.is_leaf() {
            assert!(node.find(probe).unwrap_or_else(|place| place) <= node.len());
        } else {
            assert!(node.child_of(probe) < node.len());
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_with_a_right_checksum_decode_or_are_refused(
        base in 0..3_u8,
        edits in proptest::collection::vec((0..SMALL + PAGE_HEADER_BYTES, any::<u8>()), 0..6),
        noise in proptest::collection::vec(any::<u8>(), SMALL + PAGE_HEADER_BYTES),
        probes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..8), 4),
    ) {
        let mut bytes = match base { 0 => bytes(&leaf()).0, 1 => bytes(&inner()).0, _ => noise };
        for (at, byte) in edits {
            bytes[at] = byte;
        }
        if let Some(page) = bytes.get_mut(page_at::PAGE..page_at::TABLE) {
            page.copy_from_slice(&PAGE.to_bits().to_le_bytes());
        }
        let child = forge(&mut bytes);
        if let Ok(node) = Node::<SMALL>::decode(&bytes, &child) {
            walk(&node, &probes);
        }
    }

    /// Few letters and short keys make common prefixes, equal heads and keys that are each other's beginnings.
    #[test]
    fn a_page_finds_what_a_map_does(
        keys in proptest::collection::btree_set(proptest::collection::vec(0..3_u8, 0..9), 2..200),
        probes in proptest::collection::vec(proptest::collection::vec(0..3_u8, 0..9), 50),
        shared in proptest::collection::vec(any::<u8>(), 0..9),
    ) {
        let keys: Vec<Vec<u8>> = keys.into_iter().map(|key| [shared.clone(), key].concat()).collect();
        let (mut leaf, mut inner) = (Cells::<8160>::new(0), Cells::<8160>::new(1));
        for (index, key) in keys.iter().enumerate() {
            prop_assert!(leaf.has_room(key, 2));
            leaf.push(key, &(index as u16).to_le_bytes(), false);
            let page = PageNo { chunk: 1, index: 1 + index as u32 };
            inner.push(key, &ChildRef { page, crc: 0, runs_below: false }.encode(), false);
        }
        // Nothing is left of what the node was.
        for (before, after) in [(&leaf, &inner), (&inner, &leaf)] {
            let (mut node, built) = (before.build(TableId(2)), after.build(TableId(1)));
            after.build_into(TableId(1), &mut node);
            prop_assert_eq!(&node, &built);
            let (bytes, child) = bytes(&built);
            let mut node = before.build(TableId(2));
            node.decode_into(&bytes, &child).expect("what was built is read");
            prop_assert_eq!(&node, &built);
        }
        for node in [leaf.build(TableId(1)), inner.build(TableId(1))] {
            let (bytes, child) = bytes(&node);
            prop_assert_eq!(&Node::decode(&bytes, &child).expect("what was built is read"), &node);
            for probe in &probes {
                let probe = [shared.clone(), probe.clone()].concat();
                for probe in [&probe[..], &probe[..probe.len() / 2]] {
                    let place = keys.binary_search_by(|key| key.as_slice().cmp(probe));
                    if node.is_leaf() {
                        prop_assert_eq!(node.find(probe), place);
                    } else {
                        let below = place.unwrap_or_else(|place| place.max(1) - 1);
                        prop_assert_eq!(node.child_of(probe), below);
                    }
                }
            }
            walk(&node, &probes);
        }
    }

    #[test]
    fn a_separator_is_above_the_left_and_not_above_the_right(
        left in proptest::collection::vec(0..3_u8, 0..6),
        right in proptest::collection::vec(0..3_u8, 0..6),
    ) {
        prop_assume!(left < right);
        let between = separator(&left, &right);
        prop_assert!(left.as_slice() < between && between <= right.as_slice());
    }
}
