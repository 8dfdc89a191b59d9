//! Values of versions: small ones in places of common pieces of memory, by size, so that neither takes an allocation of its own nor goes
//! by itself; the place of one that is let go is the next one's of its size (slab allocation, Bonwick 1994). Large ones are shared with
//! whoever has written them.

use super::Value;
use super::chain::heap_bytes;

/// Bytes of a piece.
pub(super) const PIECE_BYTES: usize = 64 << 10;
/// Sizes of places are multiples of it.
const UNIT_BYTES: usize = 8;
/// There are so many sizes from each power of two to the next: a place is at most an eighth larger than its value, and a unit.
const STEP_BITS: u32 = 3;
/// The largest value that is in a piece.
const SMALL_BYTES: usize = 2 << 10;
const SIZES: usize = (size(SMALL_BYTES).0) + 1;

/// Where a value stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ValuePlace {
    piece: u32,
    at: u32,
    bytes: u16,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The key is removed.
    Removed,
    /// At a place in a piece.
    Small,
    /// `piece` is the number of a value that is shared.
    Shared,
}

/// A key is removed: there is no value.
pub(crate) const NOWHERE: ValuePlace = ValuePlace { piece: 0, at: 0, bytes: 0, kind: Kind::Removed };

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
#[derive(Debug, Default)]
pub(crate) struct Values {
    /// Each has room for [`PIECE_BYTES`], or more, but the first one grows by doubling. The last one is filled.
    pieces: Vec<Vec<u8>>,
    /// Of each size a place that is free, which has the next one in its first bytes; empty before any is.
    free: Vec<ValuePlace>,
    shared: Vec<Option<Value>>,
    free_shared: Vec<u32>,
    /// Of pieces, as far as they are filled, and of shared values.
    bytes: usize,
}

impl Values {
    /// Bytes that it holds. (The room that its last piece has left was never touched, so it is nowhere yet.)
    pub(super) fn bytes(&self) -> usize {
        self.bytes
            + self.pieces.capacity() * size_of::<Vec<u8>>()
            + self.free.capacity() * size_of::<ValuePlace>()
            + self.shared.capacity() * size_of::<Option<Value>>()
            + self.free_shared.capacity() * size_of::<u32>()
    }

    /// Keeps a value, or that there is none.
    #[cfg(test)]
    pub(crate) fn put(&mut self, value: Option<ValueRef<'_>>) -> ValuePlace {
        self.put_in(value, || None)
    }

    /// Keeps a value, or that there is none: with memory for a piece, if one is needed, and `memory` has some.
    pub(crate) fn put_in(
        &mut self,
        value: Option<ValueRef<'_>>,
        memory: impl FnOnce() -> Option<Vec<u8>>,
    ) -> ValuePlace {
        match value {
            None => NOWHERE,
            Some(value) if value.bytes().len() > SMALL_BYTES => self.share(value.to_value()),
            Some(value) => self.copy(value.bytes(), memory),
        }
    }

    fn copy(&mut self, value: &[u8], memory: impl FnOnce() -> Option<Vec<u8>>) -> ValuePlace {
        let (size, room) = size(value.len());
        if let Some(free) = self.free.get(size).copied().filter(|free| *free != NOWHERE) {
            let place = ValuePlace { bytes: value.len() as u16, ..free };
            let bytes = self.room(place, room);
            let next = ValuePlace::of_bytes(bytes);
            bytes[..value.len()].copy_from_slice(value);
            self.free[size] = next;
            return place;
        }
        let fits = |piece: &Vec<u8>| piece.len() + room <= piece.capacity().max(PIECE_BYTES);
        if !self.pieces.last().is_some_and(fits) {
            let fresh = |first: bool| if first { Vec::new() } else { Vec::with_capacity(PIECE_BYTES) };
            let mut piece = memory().unwrap_or_else(|| fresh(self.pieces.is_empty()));
            piece.clear();
            self.pieces.push(piece);
        }
        let number = self.pieces.len() - 1;
        let piece = &mut self.pieces[number];
        let at = piece.len();
        piece.extend_from_slice(value);
        piece.resize(at + room, 0);
        self.bytes += room;
        ValuePlace { piece: number as u32, at: at as u32, bytes: value.len() as u16, kind: Kind::Small }
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
        ValuePlace { piece: number, kind: Kind::Shared, ..NOWHERE }
    }

    /// The value that was kept there; `None` if there was none.
    #[inline]
    pub(crate) fn get(&self, place: ValuePlace) -> Option<ValueRef<'_>> {
        match place.kind {
            Kind::Removed => None,
            Kind::Shared => self.shared[place.piece as usize].as_ref().map(ValueRef::Shared),
            Kind::Small => {
                let piece = &self.pieces[place.piece as usize];
                Some(ValueRef::Bytes(&piece[place.at as usize..][..usize::from(place.bytes)]))
            }
        }
    }

    /// Nobody reads the value of this place any more.
    pub(super) fn let_go(&mut self, place: ValuePlace) {
        match place.kind {
            Kind::Removed => {}
            Kind::Shared => {
                let value = self.shared[place.piece as usize].take();
                self.bytes -= value.as_ref().map_or(0, shared_bytes);
                self.free_shared.push(place.piece);
            }
            Kind::Small => {
                let (size, room) = size(place.bytes.into());
                let next = self.free.get(size).copied().unwrap_or_default().to_bytes();
                self.room(place, room)[..next.len()].copy_from_slice(&next);
                self.free.resize(SIZES, NOWHERE);
                self.free[size] = place;
            }
        }
    }

    fn room(&mut self, place: ValuePlace, room: usize) -> &mut [u8] {
        &mut self.pieces[place.piece as usize][place.at as usize..][..room]
    }

    /// Takes what another one has, of which nothing was let go. Its places are moved as is returned.
    pub(crate) fn adopt(&mut self, other: Values) -> Moved {
        debug_assert!(other.free.is_empty() && other.free_shared.is_empty(), "nothing was let go");
        let moved = Moved { pieces: self.pieces.len() as u32, shared: self.shared.len() as u32 };
        self.pieces.extend(other.pieces);
        self.shared.extend(other.shared);
        self.bytes += other.bytes;
        moved
    }

    /// Bytes of pieces and shared values, counted anew.
    #[cfg(test)]
    pub(super) fn recount(&self) -> bool {
        let shared: usize = self.shared.iter().flatten().map(shared_bytes).sum();
        self.bytes == shared + self.pieces.iter().map(Vec::len).sum::<usize>()
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
        match place.kind {
            Kind::Removed => place,
            Kind::Shared => ValuePlace { piece: place.piece + self.shared, ..place },
            Kind::Small => ValuePlace { piece: place.piece + self.pieces, ..place },
        }
    }
}

/// As a place that is free has the next one of its size.
impl ValuePlace {
    fn to_bytes(self) -> [u8; UNIT_BYTES] {
        let free = self.kind == Kind::Small;
        let mut bytes = [0; UNIT_BYTES];
        let (piece, at) = bytes.split_at_mut(UNIT_BYTES / 2);
        piece.copy_from_slice(&self.piece.to_le_bytes());
        at.copy_from_slice(&if free { self.at } else { u32::MAX }.to_le_bytes());
        bytes
    }

    fn of_bytes(bytes: &[u8]) -> ValuePlace {
        let number = |at: usize| {
            bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(u32::MAX, |bytes| u32::from_le_bytes(*bytes))
        };
        match number(UNIT_BYTES / 2) {
            u32::MAX => NOWHERE,
            at => ValuePlace { piece: number(0), at, bytes: 0, kind: Kind::Small },
        }
    }
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
                most = values.bytes();
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
        assert!(values.recount() && values.bytes() <= most + most / 2 + PIECE_BYTES, "{most} {}", values.bytes());
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
            values.put_in(Some(ValueRef::Bytes(value)), || {
                asked += 1;
                memory
            })
        };
        let first = put(&mut values, b"first", Some(vec![1; 300 << 10]));
        let all: Vec<ValuePlace> = (0..250).map(|_| put(&mut values, &[2; 1 << 10], None)).collect();
        assert_eq!(values.bytes, 8 + (250 << 10));
        // (It has more room than a piece has otherwise.)
        let behind = put(&mut values, &[3; SMALL_BYTES], None);
        assert!(all.iter().all(|place| place.piece == 0) && behind.piece == 0);
        assert!((0..100).map(|_| put(&mut values, &[4; 1 << 10], None)).last().is_some_and(|place| place.piece > 0));
        assert_eq!(asked, 2);
        let read = |place| values.get(place).map(ValueRef::bytes);
        assert_eq!(
            (read(first), read(all[249]), read(behind)),
            (Some(&b"first"[..]), Some(&[2; 1 << 10][..]), Some(&[3; SMALL_BYTES][..]))
        );
        assert!(values.recount());
    }
}
