//! Values of versions: small ones in places of common pieces of memory, by size, so that neither takes an allocation of its own nor goes
//! by itself; the place of one that is let go is the next one's of its size (slab allocation, Bonwick 1994). Large ones are shared with
//! whoever has written them.

use std::fmt;

use bytemuck::{Pod, Zeroable};

use super::Value;
use super::chain::heap_bytes;
use super::piece::{BLOCK_BYTES, block_of};
use crate::txn::blocks::{Block, Blocks};
use crate::txn::pages::BODY_BYTES;

/// Sizes of places are multiples of it.
const UNIT_BYTES: usize = 8;
/// There are so many sizes from each power of two to the next: a place is at most an eighth larger than its value, and a unit.
const STEP_BITS: u32 = 3;
/// The largest value that is in a piece.
const SMALL_BYTES: usize = 2 << 10;
const SIZES: usize = (size(SMALL_BYTES).0) + 1;

/// Where a value stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct ValuePlace {
    piece: u32,
    /// In units, in its piece; or what it is instead.
    at: u16,
    bytes: u16,
}

/// The key is removed.
const REMOVED: u16 = u16::MAX;
/// `piece` is the number of a value that is shared.
const SHARED: u16 = REMOVED - 1;

/// A key is removed: there is no value.
pub(crate) const NOWHERE: ValuePlace = ValuePlace { piece: 0, at: REMOVED, bytes: 0 };

impl ValuePlace {
    fn at(self) -> usize {
        usize::from(self.at) * UNIT_BYTES
    }
}

impl Default for ValuePlace {
    fn default() -> ValuePlace {
        NOWHERE
    }
}

/// A value to be read, or to be kept.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ValueRef<'a> {
    Bytes(&'a [u8]),
    Shared(&'a Value),
}

impl<'a> ValueRef<'a> {
    pub(crate) fn bytes(self) -> &'a [u8] {
        match self {
            ValueRef::Bytes(bytes) => bytes,
            ValueRef::Shared(value) => value,
        }
    }

    pub(crate) fn to_value(self) -> Value {
        match self {
            ValueRef::Bytes(bytes) => bytes.into(),
            ValueRef::Shared(value) => Value::clone(value),
        }
    }
}

/// Places of values.
#[derive(Default)]
pub(crate) struct Values {
    /// Those that are no blocks are among `own`. The last one is filled.
    pieces: Vec<Option<Block>>,
    /// So far.
    filled: usize,
    /// Pieces of other memory by their numbers, which ascend: the first one, which grows by doubling, and what was there already.
    own: Vec<(u32, Vec<u8>)>,
    /// Of each size a place that is free, which has the next one in its first bytes; empty before any is.
    free: Vec<ValuePlace>,
    shared: Vec<Option<Value>>,
    free_shared: Vec<u32>,
    /// Of shared values, and of pieces of other memory: what was there already whole, the first one as far as it is filled.
    bytes: usize,
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pieces, {} shared values", self.pieces.len(), self.shared.len())
    }
}

impl Values {
    /// Beyond it no place begins in a piece.
    pub(crate) const LARGEST_PIECE_BYTES: usize = SHARED as usize * UNIT_BYTES;

    /// Whether a value of so many bytes stands in a piece.
    pub(crate) fn is_in_piece(bytes: usize) -> bool {
        bytes <= SMALL_BYTES
    }

    /// Bytes that it holds beside blocks. (Room that the first piece has left was never touched, so it is nowhere yet.)
    pub(super) fn bytes_beside_blocks(&self) -> usize {
        self.bytes
            + self.pieces.capacity() * size_of::<Option<Block>>()
            + self.own.capacity() * size_of::<(u32, Vec<u8>)>()
            + self.free.capacity() * size_of::<ValuePlace>()
            + self.shared.capacity() * size_of::<Option<Value>>()
            + self.free_shared.capacity() * size_of::<u32>()
    }

    pub(super) fn bytes_in_blocks(&self) -> usize {
        (self.pieces.len() - self.own.len()) * BLOCK_BYTES
    }

    /// Whether nothing was ever put here.
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.shared.is_empty()
    }

    /// Keeps a value, or that there is none.
    #[cfg(test)]
    pub(crate) fn put(&mut self, value: Option<ValueRef<'_>>) -> ValuePlace {
        self.put_in(value, None)
    }

    /// Keeps a value, or that there is none: in a block of these, if one is needed.
    pub(crate) fn put_in(&mut self, value: Option<ValueRef<'_>>, blocks: Option<&Blocks>) -> ValuePlace {
        self.put_with(value, || None, blocks)
    }

    /// The same in other memory, if some is needed, and `memory` has some.
    pub(crate) fn put_over(
        &mut self,
        value: Option<ValueRef<'_>>,
        memory: impl FnOnce() -> Option<Vec<u8>>,
    ) -> ValuePlace {
        self.put_with(value, memory, None)
    }

    fn put_with(
        &mut self,
        value: Option<ValueRef<'_>>,
        memory: impl FnOnce() -> Option<Vec<u8>>,
        blocks: Option<&Blocks>,
    ) -> ValuePlace {
        match value {
            None => NOWHERE,
            Some(value) if Values::is_in_piece(value.bytes().len()) => self.copy(value.bytes(), memory, blocks),
            Some(value) => self.share(value.to_value()),
        }
    }

    fn copy(&mut self, value: &[u8], memory: impl FnOnce() -> Option<Vec<u8>>, blocks: Option<&Blocks>) -> ValuePlace {
        let (size, room) = size(value.len());
        if let Some(free) = self.free.get(size).copied().filter(|free| *free != NOWHERE) {
            let place = ValuePlace { bytes: value.len() as u16, ..free };
            let bytes = self.room(place, room);
            let next = bytemuck::pod_read_unaligned(&bytes[..UNIT_BYTES]);
            bytes[..value.len()].copy_from_slice(value);
            self.free[size] = next;
            return place;
        }
        if !self.has_room(room) {
            self.grow(memory(), blocks);
        }
        let (number, at) = (self.pieces.len() - 1, self.filled);
        match &mut self.pieces[number] {
            Some(block) => block.body_mut()[at..][..value.len()].copy_from_slice(value),
            None => {
                let own = self.own.last_mut().map(|(_, own)| own).expect("the last piece is one of these");
                if own.len() < at + room {
                    self.bytes += at + room - own.len();
                    own.resize(at + room, 0);
                }
                own[at..][..value.len()].copy_from_slice(value);
            }
        }
        self.filled += room;
        ValuePlace { piece: number as u32, at: (at / UNIT_BYTES) as u16, bytes: value.len() as u16 }
    }

    /// Whether the last piece has.
    fn has_room(&self, bytes: usize) -> bool {
        let room = match self.pieces.last() {
            None => return false,
            Some(Some(_)) => BODY_BYTES,
            Some(None) => self.own.last().map_or(0, |(_, own)| own.capacity().max(BODY_BYTES)),
        };
        self.filled + bytes <= room && self.filled < Values::LARGEST_PIECE_BYTES
    }

    fn grow(&mut self, memory: Option<Vec<u8>>, blocks: Option<&Blocks>) {
        let number = self.pieces.len() as u32;
        self.filled = 0;
        match memory.or_else(|| (number == 0).then(Vec::new)) {
            Some(mut own) => {
                // (It was written to: all of it is somewhere.)
                own.resize(own.capacity(), 0);
                self.bytes += own.len();
                self.own.push((number, own));
                self.pieces.push(None);
            }
            None => self.pieces.push(Some(block_of(blocks))),
        }
    }

    #[inline]
    fn piece(&self, number: u32) -> &[u8] {
        match &self.pieces[number as usize] {
            Some(block) => block.body(),
            None => &self.own[nth(&self.own, number)].1,
        }
    }

    fn share(&mut self, value: Value) -> ValuePlace {
        self.bytes += shared_bytes(&value);
        let number = match self.free_shared.pop() {
            Some(number) => {
                self.shared[number as usize] = Some(value);
                number
            }
            None => {
                self.shared.push(Some(value));
                self.shared.len() as u32 - 1
            }
        };
        ValuePlace { piece: number, at: SHARED, ..NOWHERE }
    }

    /// The value that was kept there; `None` if there was none.
    #[inline]
    pub(crate) fn get(&self, place: ValuePlace) -> Option<ValueRef<'_>> {
        match place.at {
            REMOVED => None,
            SHARED => self.shared[place.piece as usize].as_ref().map(ValueRef::Shared),
            _ => Some(ValueRef::Bytes(&self.piece(place.piece)[place.at()..][..usize::from(place.bytes)])),
        }
    }

    /// Nobody reads the value of this place any more.
    pub(super) fn let_go(&mut self, place: ValuePlace) {
        match place.at {
            REMOVED => {}
            SHARED => {
                let value = self.shared[place.piece as usize].take();
                self.bytes -= value.as_ref().map_or(0, shared_bytes);
                self.free_shared.push(place.piece);
            }
            _ => {
                let (size, room) = size(place.bytes.into());
                let next = self.free.get(size).copied().unwrap_or_default();
                self.room(place, room)[..UNIT_BYTES].copy_from_slice(bytemuck::bytes_of(&next));
                self.free.resize(SIZES, NOWHERE);
                self.free[size] = place;
            }
        }
    }

    fn room(&mut self, place: ValuePlace, room: usize) -> &mut [u8] {
        let piece = match &mut self.pieces[place.piece as usize] {
            Some(block) => &mut block.body_mut()[..],
            None => {
                let nth = nth(&self.own, place.piece);
                &mut self.own[nth].1
            }
        };
        &mut piece[place.at()..][..room]
    }

    /// Takes what another one has, of which nothing was let go. Its places are moved as is returned.
    pub(crate) fn adopt(&mut self, other: Values) -> Moved {
        debug_assert!(other.free.is_empty() && other.free_shared.is_empty(), "nothing was let go");
        let moved = Moved { pieces: self.pieces.len() as u32, shared: self.shared.len() as u32 };
        self.pieces.extend(other.pieces);
        self.shared.extend(other.shared);
        self.own.extend(other.own.into_iter().map(|(number, own)| (number + moved.pieces, own)));
        if moved.pieces < self.pieces.len() as u32 {
            self.filled = other.filled;
        }
        self.bytes += other.bytes;
        moved
    }

    /// Bytes of pieces and shared values, counted anew.
    #[cfg(test)]
    pub(super) fn recount(&self) -> bool {
        let shared: usize = self.shared.iter().flatten().map(shared_bytes).sum();
        let own: usize = self.own.iter().map(|(_, own)| own.len()).sum();
        self.bytes_in_blocks() == self.pieces.iter().flatten().count() * BLOCK_BYTES && self.bytes == shared + own
    }

    /// What they were in.
    pub(super) fn into_blocks(self) -> impl Iterator<Item = Block> {
        self.pieces.into_iter().flatten()
    }
}

/// How far places have moved with their pieces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    pieces: u32,
    shared: u32,
}

impl Moved {
    pub(crate) fn place(self, place: ValuePlace) -> ValuePlace {
        match place.at {
            REMOVED => place,
            SHARED => ValuePlace { piece: place.piece + self.shared, ..place },
            _ => ValuePlace { piece: place.piece + self.pieces, ..place },
        }
    }
}

/// Which of the pieces of other memory has this number.
fn nth(own: &[(u32, Vec<u8>)], number: u32) -> usize {
    own.partition_point(|(own, _)| *own < number)
}

/// Bytes of a value that is shared, counted whole, since whoever else holds it lets it go sooner.
fn shared_bytes(value: &Value) -> usize {
    heap_bytes(2 * size_of::<usize>() + value.len())
}

/// The number of the size that a value's place has, and that size in bytes.
const fn size(bytes: usize) -> (usize, usize) {
    let last = if bytes == 0 { 0 } else { (bytes - 1) / UNIT_BYTES };
    let shift = (usize::BITS - (last >> STEP_BITS).leading_zeros()).saturating_sub(1);
    ((shift << STEP_BITS) as usize + (last >> shift), ((last >> shift) + 1) * (UNIT_BYTES << shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_the_least_that_holds_its_values() {
        let mut last = (0, 0);
        for bytes in 0..=SMALL_BYTES {
            let (number, room) = size(bytes);
            assert!(
                number < SIZES && room >= bytes.max(UNIT_BYTES) && room - bytes <= UNIT_BYTES + bytes / 8,
                "{bytes}"
            );
            assert!(
                (number, room) == last
                    || (number == last.0 + usize::from(last.1 > 0) && bytes == last.1 + 1)
                    || last.1 == 0
            );
            assert!(room % UNIT_BYTES == 0);
            last = (number, room);
        }
        assert_eq!(last, (SIZES - 1, SMALL_BYTES));
    }

    #[test]
    fn each_place_keeps_its_value_until_it_is_let_go_and_is_taken_again() {
        let value = |number: usize| vec![number as u8; number * 37 % (SMALL_BYTES + 300)];
        let mut values = Values::default();
        let mut places: Vec<(usize, ValuePlace)> = Vec::new();
        let mut most = 0;
        for round in 0..6 {
            for number in 0..1000 {
                places.push((number, values.put(Some(ValueRef::Bytes(&value(number))))));
            }
            for (number, place) in &places {
                assert_eq!(values.get(*place).map(ValueRef::bytes), Some(&value(*number)[..]));
            }
            assert!(values.recount());
            if round == 0 {
                most = values.bytes_beside_blocks() + values.bytes_in_blocks();
            }
            // Half of them stay, of every size, and not in the order in which they came.
            let mut nth = 0;
            places.retain(|(_, place)| {
                nth += 1;
                let stays = round == 0 && nth % 2 == 0;
                if !stays {
                    values.let_go(*place);
                }
                stays
            });
        }
        assert!(
            values.recount()
                && (values.bytes_beside_blocks() + values.bytes_in_blocks()) <= most + most / 2 + BLOCK_BYTES,
            "{most} {}",
            (values.bytes_beside_blocks() + values.bytes_in_blocks())
        );
    }

    #[test]
    fn none_and_empty_and_shared_ones_are_told_apart() {
        let mut values = Values::default();
        let large: Value = vec![7; SMALL_BYTES + 1].into();
        let (none, empty) = (values.put(None), values.put(Some(ValueRef::Bytes(b""))));
        let shared = values.put(Some(ValueRef::Shared(&large)));
        assert!(values.get(none).is_none());
        assert_eq!(values.get(empty).map(ValueRef::bytes), Some(&b""[..]));
        assert!(values.get(shared).is_some_and(|value| std::sync::Arc::ptr_eq(&value.to_value(), &large)));
        [none, empty, shared].into_iter().for_each(|place| values.let_go(place));
        assert_eq!(std::sync::Arc::strong_count(&large), 1);
        assert_eq!(
            (values.put(Some(ValueRef::Bytes(b"x"))).at, values.put(Some(ValueRef::Shared(&large)))),
            (empty.at, shared)
        );
    }

    #[test]
    fn what_is_adopted_is_found_where_it_has_moved() {
        let (mut all, mut expected) = (Values::default(), Vec::new());
        for run in 0..5_u8 {
            let mut values = Values::default();
            let sizes = [0, 1, 90, SMALL_BYTES, SMALL_BYTES + 9];
            let places: Vec<(Vec<u8>, ValuePlace)> = (0..200)
                .map(|number| vec![run; sizes[number % sizes.len()]])
                .map(|value| (value.clone(), values.put(Some(ValueRef::Bytes(&value)))))
                .collect();
            let moved = all.adopt(values);
            expected.extend(places.into_iter().map(|(value, place)| (value, moved.place(place))));
            assert_eq!(moved.place(NOWHERE), NOWHERE);
            let mine = vec![run; 40];
            let place = all.put(Some(ValueRef::Bytes(&mine)));
            expected.push((mine, place));
        }
        for (value, place) in &expected {
            assert_eq!(all.get(*place).map(ValueRef::bytes), Some(&value[..]));
        }
        assert!(all.recount());
    }

    #[test]
    fn a_piece_is_made_of_memory_that_is_there() {
        let (mut values, mut asked) = (Values::default(), 0);
        let mut put = |values: &mut Values, value: &[u8], memory: Option<Vec<u8>>| {
            values.put_over(Some(ValueRef::Bytes(value)), || {
                asked += 1;
                memory
            })
        };
        let first = put(&mut values, b"first", Some(vec![1; 300 << 10]));
        let all: Vec<ValuePlace> = (0..250).map(|_| put(&mut values, &[2; 1 << 10], None)).collect();
        assert_eq!(values.bytes, 300 << 10, "all of it was there, filled or not");
        // (It has more room than a piece has otherwise.)
        let behind = put(&mut values, &[3; SMALL_BYTES], None);
        assert!(all.iter().all(|place| place.piece == 0) && behind.piece == 0);
        assert!((0..100).map(|_| put(&mut values, &[4; 1 << 10], None)).last().is_some_and(|place| place.piece > 0));
        // (For 51 of them, 7 in a block.)
        assert_eq!(asked, 1 + 8);
        let read = |place| values.get(place).map(ValueRef::bytes);
        assert_eq!(
            (read(first), read(all[249]), read(behind)),
            (Some(&b"first"[..]), Some(&[2; 1 << 10][..]), Some(&[3; SMALL_BYTES][..]))
        );
        assert!(values.recount());
    }
}
