//! The keys of a database: a hash table in many small parts, and the parts in groups, so that the whole of it can be kept as it is
//! at one moment for the price of a pointer per group. Whoever changes a part that a snapshot holds copies the group and the part
//! first, and only pointers in them.
//!
//! Parts are split one at a time as keys come in (linear hashing, Litwin 1980), so no insertion pays for all. The hash is the same
//! in every run, and so is every order that follows from it.

use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use super::Entry;

/// Keys of a part, on average.
const PART_KEYS: usize = 64;
/// Parts of a group.
const GROUP_PARTS: usize = 256;

/// A short key lies in its table itself.
type Key = SmallVec<[u8; 16]>;

#[derive(Clone, Debug)]
struct Item {
    key: Key,
    entry: Arc<Entry>,
}

type Part = Arc<HashTable<Item>>;

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

    /// A part that may be changed; its group is copied if a snapshot holds it.
    fn get_mut(&mut self, at: usize) -> Option<&mut Part> {
        Arc::make_mut(self.groups.get_mut(at / GROUP_PARTS)?).get_mut(at % GROUP_PARTS)
    }

    fn set(&mut self, at: usize, part: HashTable<Item>) {
        if at == self.len {
            if at.is_multiple_of(GROUP_PARTS) {
                self.groups.push(Arc::default());
            }
            if let Some(group) = self.groups.last_mut() {
                Arc::make_mut(group).push(Arc::new(part));
                self.len += 1;
            }
        } else if let Some(place) = self.get_mut(at) {
            *place = Arc::new(part);
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

fn hash(key: &[u8]) -> u64 {
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

    pub(super) fn get(&self, key: &[u8]) -> Option<&Entry> {
        let hash = hash(key);
        let part = self.parts.get(self.part(hash))?;
        part.find(hash, |item| *item.key == *key).map(|item| &*item.entry)
    }

    pub(super) fn get_mut(&mut self, key: &[u8]) -> Option<&mut Entry> {
        let hash = hash(key);
        let at = self.part(hash);
        // A part that stays as it is need not be copied.
        self.parts.get(at)?.find(hash, |item| *item.key == *key)?;
        let item = Arc::make_mut(self.parts.get_mut(at)?).find_mut(hash, |item| *item.key == *key)?;
        Some(Arc::make_mut(&mut item.entry))
    }

    pub(super) fn contains_key(&self, key: &[u8]) -> bool {
        self.get(key).is_some()
    }

    /// Puts an entry in place of the one that the key has, if it has one.
    pub(super) fn insert(&mut self, key: &[u8], entry: Entry) {
        let hash = hash(key);
        if self.parts.len == 0 {
            self.parts.set(0, HashTable::new());
        }
        let at = self.part(hash);
        let Some(part) = self.parts.get_mut(at).map(Arc::make_mut) else { return };
        match part.entry(hash, |item| *item.key == *key, |item| self::hash(&item.key)) {
            hashbrown::hash_table::Entry::Occupied(mut there) => there.get_mut().entry = Arc::new(entry),
            hashbrown::hash_table::Entry::Vacant(place) => {
                place.insert(Item { key: Key::from_slice(key), entry: Arc::new(entry) });
                self.len += 1;
                if self.len > self.parts.len * PART_KEYS {
                    self.split();
                }
            }
        }
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        let hash = hash(key);
        let at = self.part(hash);
        self.parts.get(at)?.find(hash, |item| *item.key == *key)?;
        let found = Arc::make_mut(self.parts.get_mut(at)?).find_entry(hash, |item| *item.key == *key).ok()?;
        let (item, _) = found.remove();
        self.len -= 1;
        Some(Arc::unwrap_or_clone(item.entry))
    }

    /// Makes two of the next part in turn.
    fn split(&mut self) {
        let old = self.parts.len - self.round;
        let Some(items) = self.parts.get_mut(old).map(|part| Arc::unwrap_or_clone(std::mem::take(part))) else {
            return;
        };
        let half = || HashTable::with_capacity(items.len() * 5 / 8);
        let (mut stay, mut go) = (half(), half());
        let new = self.parts.len;
        self.parts.set(new, HashTable::new());
        for item in items {
            let hash = hash(&item.key);
            let part = if self.part(hash) == old { &mut stay } else { &mut go };
            part.insert_unique(hash, item, |item| self::hash(&item.key));
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

    /// The keys of one part; `None` behind the last one.
    pub(super) fn part_at(&self, at: usize) -> Option<impl Iterator<Item = (&[u8], &Entry)>> {
        Some(self.parts.get(at)?.iter().map(|item| (&*item.key, &*item.entry)))
    }

    /// All keys, in the order of their bytes.
    pub(super) fn sorted(&self) -> impl Iterator<Item = (&[u8], &Entry)> {
        let mut items: Vec<&Item> = self.parts.items().collect();
        items.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        items.into_iter().map(|item| (&*item.key, &*item.entry))
    }
}

impl PartialEq for Shards {
    fn eq(&self, other: &Shards) -> bool {
        let same = |item: &Item| other.get(&item.key) == Some(&*item.entry);
        self.len == other.len && self.parts.items().all(same)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::keyspace::Value;

    fn entry(number: u32) -> Entry {
        Entry { value: Value::String(number.to_string().into_bytes()), expires_ms: None }
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
                prop_assert!(shards.sorted().eq(model.iter().map(|(key, entry)| (key.as_slice(), entry))));
                prop_assert!(model.iter().all(|(key, entry)| shards.get(key) == Some(entry)));
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
