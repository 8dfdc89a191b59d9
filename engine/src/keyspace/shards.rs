//! The keys of a database: a hash table in many small parts, and the parts in groups, so that the whole of it can be kept as it is
//! at one moment for the price of a pointer per group. Whoever changes a part that a snapshot holds copies the group and the part
//! first, and only pointers in them.
//!
//! Parts are split one at a time as keys come in (linear hashing, Litwin 1980), so no insertion pays for all. A part is a list in the
//! order of the hashes: where a hash stands in it is known but for a few places (interpolation search, Peterson 1957), and there is
//! little room that is not used. The hash is the same in every run, and so is every order that follows from it.

use std::sync::Arc;

use foldhash::fast::FixedState;
use smallvec::SmallVec;

use super::{Entry, EntryRef, Text, Value, ValueRef};

/// Keys of a part, on average.
const PART_KEYS: usize = 32;
/// Parts of a group.
const GROUP_PARTS: usize = 256;
/// Keys whose places are looked for at a time.
const FETCHED: usize = 32;
/// Bytes of a string's key and value that are joined without an allocation of their own.
const JOINED_BYTES: usize = 256;

/// A key with what it holds. The hash stands with it, so that a part is split without a look at its keys.
#[derive(Clone, Debug)]
pub(super) struct Item {
    hash: u64,
    held: Held,
}

#[derive(Clone, Debug)]
enum Held {
    /// A string that never expires, as most are: the length of the key (4 bytes), the key and the value in one piece.
    Text(Arc<[u8]>),
    Entry(Arc<Keyed>),
}

#[derive(Clone, Debug)]
struct Keyed {
    key: Box<[u8]>,
    entry: Entry,
}

impl Item {
    /// A string that never expires.
    pub(super) fn text(key: &[u8], value: &[u8]) -> Item {
        Item::hashed_text(hash(key), key, value)
    }

    fn hashed_text(hash: u64, key: &[u8], value: &[u8]) -> Item {
        let mut joined = SmallVec::<[u8; JOINED_BYTES]>::new();
        // (No argument of a command is longer.)
        joined.extend_from_slice(&(key.len() as u32).to_le_bytes());
        joined.extend_from_slice(key);
        joined.extend_from_slice(value);
        Item { hash, held: Held::Text(Arc::from(&joined[..])) }
    }

    fn new(hash: u64, key: &[u8], entry: Entry) -> Item {
        match entry {
            Entry { value: Value::String(value), expires_ms: None } => Item::hashed_text(hash, key, &value),
            entry => Item { hash, held: Held::Entry(Arc::new(Keyed { key: key.into(), entry })) },
        }
    }

    fn parts(&self) -> (&[u8], EntryRef<'_>) {
        match &self.held {
            Held::Text(joined) => {
                let (key, value) = split(joined);
                (key, EntryRef { value: ValueRef::String(value), expires_ms: None })
            }
            Held::Entry(keyed) => (&keyed.key, keyed.entry.as_ref()),
        }
    }

    fn is(&self, hash: u64, key: &[u8]) -> bool {
        self.hash == hash && self.parts().0 == key
    }

    /// A byte of what it holds.
    fn touch(&self) -> u8 {
        match &self.held {
            Held::Text(joined) => {
                joined.first().copied().unwrap_or_default() ^ joined.last().copied().unwrap_or_default()
            }
            Held::Entry(keyed) => keyed.key.first().copied().unwrap_or_default(),
        }
    }

    fn entry(&self) -> EntryRef<'_> {
        self.parts().1
    }

    /// How many hold what it holds.
    fn holders(&self) -> usize {
        match &self.held {
            Held::Text(joined) => Arc::strong_count(joined),
            Held::Entry(keyed) => Arc::strong_count(keyed),
        }
    }

    fn entry_mut(&mut self) -> &mut Entry {
        if let Held::Text(joined) = &self.held {
            let (key, value) = split(joined);
            let entry = Entry { value: Value::String(Text::from(value)), expires_ms: None };
            self.held = Held::Entry(Arc::new(Keyed { key: key.into(), entry }));
        }
        match &mut self.held {
            Held::Entry(keyed) => &mut Arc::make_mut(keyed).entry,
            Held::Text(_) => unreachable!("it was made an entry"),
        }
    }

    fn into_entry(self) -> Entry {
        match self.held {
            Held::Text(joined) => Entry { value: Value::String(Text::from(split(&joined).1)), expires_ms: None },
            Held::Entry(keyed) => Arc::unwrap_or_clone(keyed).entry,
        }
    }
}

/// Key and value of a piece that [`Item::text`] has joined.
fn split(joined: &[u8]) -> (&[u8], &[u8]) {
    match joined.split_first_chunk() {
        Some((length, rest)) => rest.split_at(u32::from_le_bytes(*length) as usize),
        None => (joined, joined),
    }
}

type Part = Arc<Vec<Item>>;

/// About where a hash stands in a list of so many.
fn guess(hash: u64, len: usize) -> usize {
    (((hash >> 32) * len as u64) >> 32) as usize
}

/// Where a hash stands in a part, or would: behind all that are less.
fn place(part: &[Item], hash: u64) -> usize {
    let mut at = guess(hash, part.len());
    while at > 0 && part[at - 1].hash >= hash {
        at -= 1;
    }
    while part.get(at).is_some_and(|item| item.hash < hash) {
        at += 1;
    }
    at
}

/// Where a key stands in a part; if it isn't there, where it would.
fn find(part: &[Item], hash: u64, key: &[u8]) -> Result<usize, usize> {
    let first = place(part, hash);
    let same = part[first..].iter().take_while(|item| item.hash == hash).position(|item| item.is(hash, key));
    same.map(|more| first + more).ok_or(first)
}

/// A list that may be changed: copied if somebody else holds it. A copy counts one holder more for each of its items, which lie
/// anywhere; so there is one look at each count first, of which none waits for another.
fn own<T: Clone>(list: &mut Arc<Vec<T>>, holders: impl Fn(&T) -> usize) -> &mut Vec<T> {
    // (A look at the count takes no lock on it; `make_mut` decides.)
    if Arc::strong_count(list) > 1 {
        std::hint::black_box(list.iter().fold(0, |all, item| all ^ holders(item)));
    }
    Arc::make_mut(list)
}

/// All parts, by number.
#[derive(Clone, Debug, Default)]
struct Parts {
    groups: Vec<Arc<Vec<Part>>>,
    len: usize,
}

impl Parts {
    fn get(&self, at: usize) -> Option<&Part> {
        self.groups.get(at / GROUP_PARTS)?.get(at % GROUP_PARTS)
    }

    /// A part that may be changed; it is copied if a snapshot holds it, and so is its group.
    fn get_mut(&mut self, at: usize) -> Option<&mut Vec<Item>> {
        let group = own(self.groups.get_mut(at / GROUP_PARTS)?, Arc::strong_count);
        Some(own(group.get_mut(at % GROUP_PARTS)?, Item::holders))
    }

    /// Nobody needs what these parts, all of one group, hold.
    fn release(&mut self, group: usize) {
        if let Some(group) = self.groups.get_mut(group) {
            *group = Arc::default();
        }
    }

    fn set(&mut self, at: usize, part: Vec<Item>) {
        if at == self.len {
            if at.is_multiple_of(GROUP_PARTS) {
                self.groups.push(Arc::default());
            }
            if let Some(group) = self.groups.last_mut() {
                Arc::make_mut(group).push(Arc::new(part));
                self.len += 1;
            }
        } else if let Some(place) = self.get_mut(at) {
            *place = part;
        }
    }

    fn items(&self) -> impl Iterator<Item = &Item> {
        self.groups.iter().flat_map(|group| group.iter()).flat_map(|part| part.iter())
    }
}

/// Keys and their entries. A clone is a snapshot.
#[derive(Clone, Debug)]
pub(super) struct Shards {
    parts: Parts,
    len: usize,
    /// How many parts there were when the present doubling began.
    round: usize,
}

impl Default for Shards {
    fn default() -> Shards {
        Shards { parts: Parts::default(), len: 0, round: 1 }
    }
}

pub(super) fn hash(key: &[u8]) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = FixedState::with_seed(0x5ea_0a11).build_hasher();
    hasher.write(key);
    hasher.finish()
}

impl Shards {
    /// The part that a hash belongs to: by bits that the table within it doesn't use.
    fn part(&self, hash: u64) -> usize {
        let bits = (hash >> 24) as usize & 0xffff_ffff;
        let part = bits & (2 * self.round - 1);
        if part < self.parts.len { part } else { bits & (self.round - 1) }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<EntryRef<'_>> {
        let hash = hash(key);
        let part = self.parts.get(self.part(hash))?;
        Some(part[find(part, hash, key).ok()?].entry())
    }

    pub(super) fn get_mut(&mut self, key: &[u8]) -> Option<&mut Entry> {
        let hash = hash(key);
        let number = self.part(hash);
        let part = self.parts.get(number)?;
        // A part that stays as it is need not be copied.
        let at = find(part, hash, key).ok()?;
        Some(self.parts.get_mut(number)?[at].entry_mut())
    }

    pub(super) fn contains_key(&self, key: &[u8]) -> bool {
        self.get(key).is_some()
    }

    /// Puts an entry in place of the one that the key has, if it has one.
    pub(super) fn insert(&mut self, key: &[u8], entry: Entry) {
        self.put(Item::new(hash(key), key, entry));
    }

    /// The same for a string that never expires.
    pub(super) fn insert_text(&mut self, key: &[u8], value: &[u8]) {
        self.put(Item::text(key, value));
    }

    /// Puts keys in place, one after the other.
    pub(super) fn put_all(&mut self, mut items: impl Iterator<Item = Item>) {
        loop {
            let near: SmallVec<[Item; FETCHED]> = items.by_ref().take(FETCHED).collect();
            if near.is_empty() {
                return;
            }
            self.fetch(&near);
            near.into_iter().for_each(|item| self.put(item));
        }
    }

    /// Looks where these keys would be, so that the places are near when they are filled: step by step for all of them, because a
    /// processor waits for many places at a time, and each step needs what the one before has found.
    fn fetch(&self, items: &[Item]) {
        let parts: SmallVec<[(u64, &Part); FETCHED]> =
            items.iter().filter_map(|item| Some((item.hash, self.parts.get(self.part(item.hash))?))).collect();
        let near = parts.iter().filter_map(|(hash, part)| part.get(guess(*hash, part.len())));
        std::hint::black_box(near.fold(0, |all, item| all ^ item.hash));
    }

    fn put(&mut self, item: Item) {
        if self.parts.len == 0 {
            self.parts.set(0, Vec::new());
        }
        let number = self.part(item.hash);
        let Some(part) = self.parts.get_mut(number) else { return };
        match find(part, item.hash, item.parts().0) {
            Ok(at) => part[at] = item,
            Err(at) => {
                if part.len() == part.capacity() {
                    // By a quarter: most parts stay as they are for long.
                    part.reserve_exact(4 + part.len() / 4);
                }
                part.insert(at, item);
                self.len += 1;
                if self.len > self.parts.len * PART_KEYS {
                    self.split();
                }
            }
        }
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        let hash = hash(key);
        let number = self.part(hash);
        let part = self.parts.get(number)?;
        let at = find(part, hash, key).ok()?;
        let item = self.parts.get_mut(number)?.remove(at);
        self.len -= 1;
        Some(item.into_entry())
    }

    /// Makes two of the next part in turn.
    fn split(&mut self) {
        let old = self.parts.len - self.round;
        let Some(items) = self.parts.get_mut(old).map(std::mem::take) else { return };
        let new = self.parts.len;
        // A part counts from here on, and it is empty so far.
        self.parts.set(new, Vec::new());
        let stays = items.iter().filter(|item| self.part(item.hash) == old).count();
        let (mut stay, mut go) = (Vec::with_capacity(stays), Vec::with_capacity(items.len() - stays));
        for item in items {
            let part = if self.part(item.hash) == old { &mut stay } else { &mut go };
            part.push(item);
        }
        self.parts.set(old, stay);
        self.parts.set(new, go);
        if self.parts.len == 2 * self.round {
            self.round *= 2;
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Shards::default();
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The keys of one part; `None` behind the last one. Those before it are let go, group by group: whoever changes their keys need
    /// not copy them any more.
    pub(super) fn next_part(&mut self, at: usize) -> Option<impl Iterator<Item = (&[u8], EntryRef<'_>)>> {
        if at > 0 && at.is_multiple_of(GROUP_PARTS) {
            self.parts.release(at / GROUP_PARTS - 1);
        }
        let part = self.parts.get(at)?;
        // They lie anywhere: one look at each, of which none waits for another, before they are gone through.
        std::hint::black_box(part.iter().fold(0, |all, item| all ^ item.touch()));
        Some(part.iter().map(Item::parts))
    }

    /// All keys, in the order of their bytes.
    pub(super) fn sorted(&self) -> impl Iterator<Item = (&[u8], EntryRef<'_>)> {
        let mut items: Vec<_> = self.parts.items().map(Item::parts).collect();
        items.sort_unstable_by_key(|(key, _)| *key);
        items.into_iter()
    }
}

impl PartialEq for Shards {
    fn eq(&self, other: &Shards) -> bool {
        let same = |item: &Item| {
            let (key, entry) = item.parts();
            other.get(key) == Some(entry)
        };
        self.len == other.len && self.parts.items().all(same)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Odd ones expire.
    fn entry(number: u32) -> Entry {
        let expires_ms = (number % 2 == 1).then_some(i64::from(number));
        Entry { value: Value::String(number.to_string().into_bytes()), expires_ms }
    }

    proptest! {
        #[test]
        fn it_is_an_ordered_map_and_a_snapshot_of_it_stays(
            steps in prop::collection::vec((any::<u16>(), 0..4_u8, any::<u32>()), 0..3000), keep in 0..3000_usize,
        ) {
            let (mut shards, mut model) = (Shards::default(), BTreeMap::new());
            let mut kept = None;
            for (step, (key, kind, number)) in steps.into_iter().enumerate() {
                if step == keep {
                    kept = Some((shards.clone(), model.clone()));
                }
                let key = format!("key {key}").into_bytes();
                match kind {
                    0 => prop_assert_eq!(shards.remove(&key), model.remove(&key)),
                    1 => {
                        if let Some(there) = shards.get_mut(&key) {
                            *there = entry(number);
                            model.insert(key, entry(number));
                        }
                    }
                    _ => {
                        shards.insert(&key, entry(number));
                        model.insert(key, entry(number));
                    }
                }
                prop_assert_eq!(shards.len(), model.len());
            }
            for (shards, model) in kept.into_iter().chain([(shards, model)]) {
                prop_assert!(shards.sorted().eq(model.iter().map(|(key, entry)| (key.as_slice(), entry.as_ref()))));
                prop_assert!(model.iter().all(|(key, entry)| shards.get(key) == Some(entry.as_ref())));
            }
        }
    }

    #[test]
    fn parts_grow_one_by_one_and_stay_small() {
        let mut shards = Shards::default();
        for number in 0..100_000_u32 {
            shards.insert(format!("key:{number:09}").as_bytes(), entry(number));
        }
        let largest = (0..shards.parts.len).filter_map(|at| Some(shards.parts.get(at)?.len())).max();
        assert!(shards.parts.len >= 100_000 / PART_KEYS && largest < Some(4 * PART_KEYS), "{largest:?}");
        assert!((0..100_000_u32).all(|number| shards.contains_key(format!("key:{number:09}").as_bytes())));
    }
}
