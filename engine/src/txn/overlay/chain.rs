//! Keys, each with its versions, newest first; a version goes as soon as nobody can read it. An entry keeps its number and its place
//! in memory for as long as the table's overlay lives.

use super::arena::Arena;
use super::stock::Stock;
use super::values::{NOWHERE, ValuePlace, ValueRef, Values};
use super::{Csn, Live};

/// No entry, version or node.
pub(super) const NONE: u32 = u32::MAX;
/// Bytes of a key that stand in its entry.
const INLINE_BYTES: usize = 22;

/// What an allocation of so many bytes takes, about: a header, and rounded up.
pub(super) fn heap_bytes(bytes: usize) -> usize {
    (bytes + size_of::<usize>()).next_multiple_of(16).max(32)
}

/// A key, where its entry stands if it is short.
#[derive(Clone, Debug)]
pub(crate) struct Key(Bytes);

#[derive(Clone, Debug)]
enum Bytes {
    Inline(u8, [u8; INLINE_BYTES]),
    Boxed(Box<[u8]>),
}

impl Default for Key {
    fn default() -> Key {
        Key(Bytes::Inline(0, [0; INLINE_BYTES]))
    }
}

impl Key {
    pub(crate) fn new(key: &[u8]) -> Key {
        let mut bytes = [0; INLINE_BYTES];
        match bytes.get_mut(..key.len()) {
            Some(place) => {
                place.copy_from_slice(key);
                Key(Bytes::Inline(key.len() as u8, bytes))
            }
            None => Key(Bytes::Boxed(key.into())),
        }
    }

    fn heap_bytes(&self) -> usize {
        match &self.0 {
            Bytes::Inline(..) => 0,
            Bytes::Boxed(key) => heap_bytes(key.len()),
        }
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Inline(len, bytes) => &bytes[..usize::from(*len)],
            Bytes::Boxed(key) => key,
        }
    }
}

#[derive(Debug)]
struct Version {
    csn: Csn,
    value: ValuePlace,
    older: u32,
}

#[derive(Debug)]
pub(super) struct Entry {
    key: Key,
    newest: Version,
}

impl Entry {
    /// One that means nothing.
    pub(super) fn blank() -> Entry {
        Entry { key: Key::default(), newest: Version { csn: Csn::default(), value: NOWHERE, older: NONE } }
    }
}

/// All entries of a table, in the order in which they came.
#[derive(Debug)]
pub(super) struct Chains {
    entries: Arena<Entry>,
    /// All versions but the newest ones, and free places.
    versions: Arena<Version>,
    /// A list through `older`.
    free: u32,
    values: Values,
    /// Of long keys.
    bytes: usize,
}

impl Default for Chains {
    fn default() -> Chains {
        Chains::of(Values::default())
    }
}

impl Chains {
    /// Without entries, but with the values of some.
    pub(super) fn of(values: Values) -> Chains {
        Chains { entries: Arena::default(), versions: Arena::default(), free: NONE, values, bytes: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.entries.bytes() + self.versions.bytes() + self.values.bytes()
    }

    #[inline]
    pub(super) fn key(&self, entry: u32) -> &[u8] {
        self.entries[entry].key.bytes()
    }

    /// Entries and their values lie anywhere: one look at each, of which none waits for another, before they are gone through.
    pub(super) fn touch(&self, entries: &[u32]) {
        let newest = |entry: &u32| &self.entries[*entry].newest;
        std::hint::black_box(entries.iter().fold(0, |all, entry| all ^ newest(entry).csn.to_bits()));
        let first = |entry| self.values.get(newest(entry).value).and_then(|value| value.bytes().first());
        std::hint::black_box(entries.iter().filter_map(first).fold(0, |all, byte| all ^ byte));
    }

    pub(super) fn newest(&self, entry: u32) -> Csn {
        self.entries[entry].newest.csn
    }

    /// The newest version at a CSN, if there is one as old: its value, or that the key is removed.
    #[inline]
    pub(super) fn at(&self, entry: u32, at: Csn) -> Option<Option<ValueRef<'_>>> {
        let mut version = &self.entries[entry].newest;
        while version.csn > at {
            if version.older == NONE {
                return None;
            }
            version = &self.versions[version.older];
        }
        Some(self.values.get(version.value))
    }

    /// Whether nobody can find a value of the key any more.
    pub(super) fn is_removed(&self, entry: u32, live: &Live<'_>) -> bool {
        let newest = &self.entries[entry].newest;
        let older = live.snapshots.first().is_some_and(|oldest| *oldest < newest.csn);
        newest.value == NOWHERE && newest.csn <= live.visible && !older
    }

    /// All versions of an entry, the newest first.
    pub(super) fn versions(&self, entry: u32) -> impl Iterator<Item = (Csn, Option<ValueRef<'_>>)> {
        let older = |version: &&Version| (version.older != NONE).then(|| &self.versions[version.older]);
        std::iter::successors(Some(&self.entries[entry].newest), older)
            .map(|version| (version.csn, self.values.get(version.value)))
    }

    /// A key that has none yet gets its first version.
    pub(super) fn push(&mut self, key: Key, csn: Csn, value: Option<ValueRef<'_>>, stock: Option<&Stock>) -> u32 {
        let value = self.values.put_in(value, || stock?.values());
        self.push_placed(key, csn, value, stock)
    }

    /// The same with a value that is there already.
    pub(super) fn push_placed(&mut self, key: Key, csn: Csn, value: ValuePlace, stock: Option<&Stock>) -> u32 {
        self.bytes += key.heap_bytes();
        self.entries.push_in(Entry { key, newest: Version { csn, value, older: NONE } }, || stock?.entries())
    }

    /// Takes the entries of another one, which has each key's one version and no values. By how much their numbers grow.
    pub(super) fn join(&mut self, other: Chains) -> u32 {
        debug_assert!(other.versions.len() == 0, "each has one version");
        self.bytes += other.bytes;
        self.entries.join(other.entries)
    }

    /// The key of the entry that came after so many.
    pub(super) fn nth(&self, nth: usize) -> &[u8] {
        self.key(self.entries.number(nth))
    }

    /// A newer version. Those below that nobody can read any more go: version q below p, when p is visible and no live snapshot is in
    /// [q, p). That p alone is visible would not do: a snapshot older than p may be live. Nor would it do that no snapshot is live: one
    /// that begins now is at `visible`, which may be before p.
    pub(super) fn renew(
        &mut self,
        entry: u32,
        csn: Csn,
        value: Option<ValueRef<'_>>,
        live: &Live<'_>,
        stock: Option<&Stock>,
    ) {
        let value = self.values.put_in(value, || stock?.values());
        let old = std::mem::replace(&mut self.entries[entry].newest, Version { csn, value, older: NONE });
        let (mut above, mut next) = (old.csn, old.older);
        let mut last_kept = self.keep(old);
        self.entries[entry].newest.older = last_kept;
        while next != NONE {
            let (this, below) = (next, &self.versions[next]);
            next = below.older;
            let needed = above > live.visible || live.any_in(below.csn, above);
            above = below.csn;
            if needed {
                self.versions[last_kept].older = this;
                last_kept = this;
            } else {
                self.let_go(this);
            }
        }
        self.versions[last_kept].older = NONE;
    }

    fn keep(&mut self, version: Version) -> u32 {
        match self.free {
            NONE => self.versions.push(version),
            place => {
                self.free = self.versions[place].older;
                self.versions[place] = version;
                place
            }
        }
    }

    fn let_go(&mut self, place: u32) {
        self.values.let_go(self.versions[place].value);
        self.versions[place] = Version { csn: Csn::default(), value: NOWHERE, older: self.free };
        self.free = place;
    }

    /// Versions of an entry.
    #[cfg(test)]
    pub(super) fn length(&self, entry: u32) -> usize {
        let there = |at: u32| (at != NONE).then_some(at);
        let newest = there(self.entries[entry].newest.older);
        1 + std::iter::successors(newest, |at| there(self.versions[*at].older)).count()
    }

    /// Bytes of entries, values and long keys, counted anew.
    #[cfg(test)]
    pub(super) fn recount(&self) -> bool {
        let keys: usize = self.entries.iter().map(|entry| entry.key.heap_bytes()).sum();
        self.bytes == keys && self.entries.recount() && self.values.recount()
    }
}
