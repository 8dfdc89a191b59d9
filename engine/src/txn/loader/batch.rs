//! Rows in memory, in the order in which they came, until they are sorted.

use crate::txn::storage::Changes;

/// How many times larger a large batch gets when it is full.
const GROWTH: usize = 8;

/// Rows, and what they stand in.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    rows: Vec<Row>,
    /// What all keys that ever came begin with; none before the first.
    prefix: Option<Vec<u8>>,
    /// Whether each key is above the one before.
    ascends: bool,
    /// The row that is taken next.
    next: usize,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    /// What of the key is behind the prefix, as much as fits.
    head: u64,
    at: u32,
    key_bytes: u16,
    value_bytes: u32,
}

/// The first bytes of a key behind a prefix, so that they compare as the keys do, unless they are equal.
pub(super) fn head_of(key: &[u8], prefix_bytes: usize) -> u64 {
    let rest = key.get(prefix_bytes..).unwrap_or_default();
    if let Some(head) = rest.first_chunk() {
        return u64::from_be_bytes(*head);
    }
    let mut head = [0; 8];
    head[..rest.len()].copy_from_slice(rest);
    u64::from_be_bytes(head)
}

impl Batch {
    /// What it takes, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        (self.bytes.len() + self.rows.len() * size_of::<Row>()) as u64
    }

    /// What it has of memory, in bytes.
    pub(super) fn held_bytes(&self) -> u64 {
        (self.bytes.capacity() + self.rows.capacity() * size_of::<Row>()) as u64
    }

    /// What it would take with another row, in bytes.
    pub(super) fn bytes_with(&self, key: &[u8], value: &[u8]) -> u64 {
        self.bytes() + (key.len() + value.len() + size_of::<Row>()) as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether each row is above the one before.
    pub(super) fn ascends(&self) -> bool {
        self.ascends
    }

    /// It may come to so many bytes: it moves less often on the way there than by doubling.
    pub(super) fn make_room(&mut self, most: u64, key: &[u8], value: &[u8]) {
        let bytes = self.bytes.len();
        if bytes + key.len() + value.len() > self.bytes.capacity() {
            self.bytes.reserve_exact((GROWTH * bytes).min(most as usize).saturating_sub(bytes));
        }
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows.len() as u64
    }

    /// Of all keys that ever came, how many bytes they have in common.
    pub(super) fn prefix_bytes(&self) -> usize {
        self.prefix.as_ref().map_or(0, Vec::len)
    }

    /// Adds a row. Their bytes are less than 2^32, and of a key less than 2^16.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) {
        self.ascends = self.last().is_none_or(|last| self.ascends && last < key);
        let prefix = self.prefix.get_or_insert_with(|| key.to_vec());
        if !key.starts_with(prefix) {
            prefix.truncate(prefix.iter().zip(key).take_while(|(a, b)| a == b).count());
        }
        self.put(key, value);
    }

    /// Adds a row that is above all others.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) {
        let at = self.bytes.len() as u32;
        self.rows.push(Row { head: 0, at, key_bytes: key.len() as u16, value_bytes: value.len() as u32 });
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
    }

    fn key(&self, row: &Row) -> &[u8] {
        self.bytes.get(row.at as usize..).and_then(|rest| rest.get(..row.key_bytes.into())).unwrap_or_default()
    }

    fn value(&self, row: &Row) -> &[u8] {
        let rest = self.bytes.get(row.at as usize + usize::from(row.key_bytes)..);
        rest.and_then(|rest| rest.get(..row.value_bytes as usize)).unwrap_or_default()
    }

    /// Sorts the rows by key; of those with the same one the last that came stays.
    pub(super) fn sort(&mut self) {
        self.next = 0;
        if self.ascends {
            return;
        }
        let (mut rows, prefix_bytes) = (std::mem::take(&mut self.rows), self.prefix_bytes());
        for row in &mut rows {
            row.head = head_of(self.key(row), prefix_bytes);
        }
        rows.sort_unstable_by(|a, b| {
            a.head.cmp(&b.head).then_with(|| self.key(a).cmp(self.key(b))).then_with(|| b.at.cmp(&a.at))
        });
        rows.dedup_by(|a, b| a.head == b.head && self.key(a) == self.key(b));
        (self.rows, self.ascends) = (rows, true);
    }

    /// The first key.
    pub(super) fn first(&self) -> Option<&[u8]> {
        self.rows.first().map(|row| self.key(row))
    }

    /// The last key.
    pub(super) fn last(&self) -> Option<&[u8]> {
        self.rows.last().map(|row| self.key(row))
    }

    /// Lets the rows go, and keeps what they stood in.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.rows.clear();
        self.next = 0;
    }
}

impl Changes for Batch {
    fn current(&self) -> Option<(&[u8], Option<&[u8]>)> {
        self.rows.get(self.next).map(|row| (self.key(row), Some(self.value(row))))
    }

    fn advance(&mut self) {
        self.next += 1;
    }
}
