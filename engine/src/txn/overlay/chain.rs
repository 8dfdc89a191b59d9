//! Keys, each with its versions, newest first; a version goes as soon as nobody can read it. An entry keeps its number and its place
//! in memory for as long as the table's overlay lives.

use bytemuck::{Pod, Zeroable};

use super::arena::Arena;
use super::values::{NOWHERE, ValuePlace, ValueRef, Values};
use super::{Csn, Live};
use crate::txn::blocks::{Block, Blocks};

/// No entry, version or node.
pub(super) const NONE: u32 = u32::MAX;
/// Bytes of a key that stand in its entry.
const INLINE_BYTES: usize = 26;

/// What an allocation of so many bytes takes, about: a header, and rounded up.
pub(super) fn heap_bytes(bytes: usize) -> usize {
    (bytes + size_of::<usize>()).next_multiple_of(16).max(32)
}

/// A key on its way into an entry, without an allocation if it is short.
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

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Inline(len, bytes) => &bytes[..usize::from(*len)],
            Bytes::Boxed(key) => key,
        }
    }
}

/// Where so many versions of a key are needed, or more, they are not looked at for each that comes.
const MANY: u32 = 8;

/// A version that is not its key's newest one.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Version {
    csn: Csn,
    value: ValuePlace,
    older: u32,
    /// Of the newest of these: so many more come before all are looked at again. Else they would be for each commit to a key that many
    /// write before any of it is visible.
    put_off: u32,
}

/// A key with its newest version.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Entry {
    csn: Csn,
    value: ValuePlace,
    older: u32,
    key_bytes: u16,
    /// The key, or, if it is longer, where among the values it stands.
    key: [u8; INLINE_BYTES],
}

impl Entry {
    /// Where a long key stands.
    #[inline]
    fn long_key(&self) -> Option<ValuePlace> {
        let place = || bytemuck::pod_read_unaligned(&self.key[..size_of::<ValuePlace>()]);
        (usize::from(self.key_bytes) > INLINE_BYTES).then(place)
    }

    fn put_long_key(&mut self, place: ValuePlace) {
        self.key[..size_of::<ValuePlace>()].copy_from_slice(bytemuck::bytes_of(&place));
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
    /// Of versions, and long keys.
    values: Values,
}

impl Default for Chains {
    fn default() -> Chains {
        Chains::of(Values::default())
    }
}

impl Chains {
    /// Without entries, but with the values of some.
    pub(super) fn of(values: Values) -> Chains {
        Chains { entries: Arena::default(), versions: Arena::default(), free: NONE, values }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes_beside_blocks(&self) -> usize {
        self.entries.bytes_beside_blocks() + self.versions.bytes_beside_blocks() + self.values.bytes_beside_blocks()
    }

    pub(super) fn bytes_in_blocks(&self) -> usize {
        self.entries.bytes_in_blocks() + self.versions.bytes_in_blocks() + self.values.bytes_in_blocks()
    }

    #[inline]
    pub(super) fn key(&self, entry: u32) -> &[u8] {
        let entry = &self.entries[entry];
        match entry.long_key() {
            None => &entry.key[..usize::from(entry.key_bytes)],
            Some(place) => self.values.get(place).map(ValueRef::bytes).unwrap_or_default(),
        }
    }

    /// Entries and their values lie anywhere: one look at each, of which none waits for another, before they are gone through.
    pub(super) fn touch(&self, entries: &[u32]) {
        let newest = |entry: &u32| &self.entries[*entry];
        std::hint::black_box(entries.iter().fold(0, |all, entry| all ^ newest(entry).csn.to_bits()));
        let first = |entry| self.values.get(newest(entry).value).and_then(|value| value.bytes().first());
        std::hint::black_box(entries.iter().filter_map(first).fold(0, |all, byte| all ^ byte));
    }

    pub(super) fn newest(&self, entry: u32) -> Csn {
        self.entries[entry].csn
    }

    /// The newest version at a CSN, if there is one as old: its value, or that the key is removed.
    #[inline]
    pub(super) fn at(&self, entry: u32, at: Csn) -> Option<Option<ValueRef<'_>>> {
        let Entry { csn, value, mut older, .. } = self.entries[entry];
        if csn <= at {
            return Some(self.values.get(value));
        }
        while older != NONE {
            let version = &self.versions[older];
            if version.csn <= at {
                return Some(self.values.get(version.value));
            }
            older = version.older;
        }
        None
    }

    /// Whether nobody can find a value of the key any more.
    pub(super) fn is_removed(&self, entry: u32, live: &Live<'_>) -> bool {
        let newest = &self.entries[entry];
        let older = live.snapshots.first().is_some_and(|oldest| *oldest < newest.csn);
        newest.value == NOWHERE && newest.csn <= live.visible && !older
    }

    /// All versions of an entry, the newest first.
    pub(super) fn versions(&self, entry: u32) -> impl Iterator<Item = (Csn, Option<ValueRef<'_>>)> {
        let version = |at: u32| (at != NONE).then(|| &self.versions[at]);
        let Entry { csn, value, older, .. } = self.entries[entry];
        let older = std::iter::successors(version(older), move |above| version(above.older));
        std::iter::once((csn, value))
            .chain(older.map(|version| (version.csn, version.value)))
            .map(|(csn, value)| (csn, self.values.get(value)))
    }

    /// A key that has none yet gets its first version.
    pub(super) fn push(&mut self, key: &[u8], csn: Csn, value: Option<ValueRef<'_>>, blocks: Option<&Blocks>) -> u32 {
        let value = self.values.put_in(value, blocks);
        self.push_placed(key, csn, value, blocks)
    }

    /// The same with a value that is there already.
    pub(super) fn push_placed(&mut self, key: &[u8], csn: Csn, value: ValuePlace, blocks: Option<&Blocks>) -> u32 {
        // (A key has some 1000 bytes at most.)
        let mut entry = Entry { csn, value, older: NONE, key_bytes: key.len() as u16, key: [0; INLINE_BYTES] };
        match entry.key.get_mut(..key.len()) {
            Some(place) => place.copy_from_slice(key),
            None => entry.put_long_key(self.values.put_in(Some(ValueRef::Bytes(key)), blocks)),
        }
        self.entries.push_in(entry, blocks)
    }

    /// Takes the entries of another one, which has each key's one version and no values but long keys. By how much their numbers grow.
    pub(super) fn join(&mut self, other: Chains) -> u32 {
        debug_assert!(other.versions.len() == 0, "each has one version");
        let (first, count, long) = (self.entries.len(), other.entries.len(), !other.values.is_empty());
        let by = self.entries.join(other.entries);
        let moved = self.values.adopt(other.values);
        if long {
            for nth in first..first + count {
                let number = self.entries.number(nth);
                let entry = &mut self.entries[number];
                if let Some(place) = entry.long_key() {
                    entry.put_long_key(moved.place(place));
                }
            }
        }
        by
    }

    /// The key of the entry that came after so many.
    pub(super) fn nth(&self, nth: usize) -> &[u8] {
        self.key(self.entries.number(nth))
    }

    /// A newer version. Those below that nobody can read any more go: version q below p, when p is visible and no live snapshot is in
    /// [q, p). That p alone is visible would not do: a snapshot older than p may be live. Nor would it do that no snapshot is live: one
    /// that begins now is at `visible`, which may be before p. Where many were needed the last time, that is put off until there
    /// are half as many more, or nobody needs any of them.
    pub(super) fn renew(
        &mut self,
        entry: u32,
        csn: Csn,
        value: Option<ValueRef<'_>>,
        live: &Live<'_>,
        blocks: Option<&Blocks>,
    ) {
        let value = self.values.put_in(value, blocks);
        let Entry { csn: old_csn, value: old_value, older, .. } = self.entries[entry];
        let nobody = old_csn <= live.visible && live.snapshots.first().is_none_or(|oldest| *oldest >= old_csn);
        let put_off = if older == NONE || nobody { 0 } else { self.versions[older].put_off };
        let old = Version { csn: old_csn, value: old_value, older, put_off: put_off.saturating_sub(1) };
        let first_kept = self.keep(old, blocks);
        let newest = &mut self.entries[entry];
        (newest.csn, newest.value, newest.older) = (csn, value, first_kept);
        if put_off > 0 {
            return;
        }
        let (mut above, mut next) = (old_csn, older);
        let (mut last_kept, mut kept) = (first_kept, 1);
        while next != NONE {
            let (this, below) = (next, &self.versions[next]);
            next = below.older;
            let needed = above > live.visible || live.any_in(below.csn, above);
            above = below.csn;
            if needed {
                self.versions[last_kept].older = this;
                last_kept = this;
                kept += 1;
            } else {
                self.let_go(this);
            }
        }
        self.versions[last_kept].older = NONE;
        self.versions[first_kept].put_off = if kept < MANY { 0 } else { kept / 2 };
    }

    fn keep(&mut self, version: Version, blocks: Option<&Blocks>) -> u32 {
        match self.free {
            NONE => self.versions.push_in(version, blocks),
            place => {
                self.free = self.versions[place].older;
                self.versions[place] = version;
                place
            }
        }
    }

    fn let_go(&mut self, place: u32) {
        self.values.let_go(self.versions[place].value);
        self.versions[place] = Version { csn: Csn::default(), value: NOWHERE, older: self.free, put_off: 0 };
        self.free = place;
    }

    /// Versions of an entry.
    #[cfg(test)]
    pub(super) fn length(&self, entry: u32) -> usize {
        let there = |at: u32| (at != NONE).then_some(at);
        let newest = there(self.entries[entry].older);
        1 + std::iter::successors(newest, |at| there(self.versions[*at].older)).count()
    }

    /// Bytes of values, counted anew.
    #[cfg(test)]
    pub(super) fn recount(&self) -> bool {
        self.values.recount()
    }

    /// What it was in.
    pub(super) fn into_blocks(self) -> impl Iterator<Item = Block> {
        self.entries.into_blocks().chain(self.versions.into_blocks()).chain(self.values.into_blocks())
    }
}
