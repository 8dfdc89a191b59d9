//! A map from growing numbers to a few things: open files, operations in flight. A vector beats a tree there, and a copy of
//! it is one allocation; a disk is copied for every image that is judged.

/// Entries in the order of their numbers.
#[derive(Clone, Debug)]
pub(super) struct Table<T>(Vec<(u64, T)>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table(Vec::new())
    }
}

impl<T> Table<T> {
    /// Adds an entry under a number that is not taken.
    pub(super) fn insert(&mut self, number: u64, value: T) {
        if self.0.last().is_none_or(|(last, _)| *last < number) {
            self.0.push((number, value));
        } else {
            let at = self.0.partition_point(|(other, _)| *other < number);
            self.0.insert(at, (number, value));
        }
    }

    pub(super) fn get(&self, number: u64) -> Option<&T> {
        self.0.iter().find(|(other, _)| *other == number).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        self.0.iter_mut().find(|(other, _)| *other == number).map(|(_, value)| value)
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        let at = self.0.iter().position(|(other, _)| *other == number)?;
        Some(self.0.remove(at).1)
    }

    /// Takes out the entry with the lowest number.
    pub(super) fn pop_first(&mut self) -> Option<(u64, T)> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, value)| value)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        self.0.iter_mut().map(|(number, value)| (*number, value))
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
