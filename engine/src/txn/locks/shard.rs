//! The locks of one shard, under its mutex: who gets one, who gives way, who waits.

use std::{collections::BTreeMap, ops::Bound, sync::Arc, task::Waker};

use super::{
    super::{ids::TableId, undo::Key},
    owner::{Age, Owner, Place, Refusal, Row, State, What, same},
};

/// For every waiter and everybody who stands against it: that one is older, is committing, or is about to give its locks back.
#[derive(Debug, Default)]
pub(super) struct Shard {
    /// Only those that somebody owns or waits for.
    parts: BTreeMap<TableId, Lock>,
    rows: BTreeMap<Row, Lock>,
}

#[derive(Debug, Default)]
struct Lock {
    owner: Option<Arc<Owner>>,
    waiters: BTreeMap<Age, Arc<Owner>>,
}

/// What is left to do once the shard is unlocked.
#[derive(Default)]
pub(super) struct Later {
    pub(super) wake: Vec<Waker>,
    pub(super) doomed: Vec<Arc<Owner>>,
}

impl Shard {
    pub(super) fn arrive(
        &mut self,
        owner: &Arc<Owner>,
        place: &Place,
        waker: &Waker,
        wounds: bool,
        later: &mut Later,
    ) -> Result<bool, Refusal> {
        owner.check()?;
        if self.owns(owner, place) {
            return Ok(true);
        }
        if wounds {
            self.wound(owner, place, later);
        }
        if self.is_ready(owner, &place.what) {
            owner.hold(place)?;
            self.lock(&place.what).owner = Some(owner.clone());
            return Ok(true);
        }
        owner.wait(place, waker)?;
        self.lock(&place.what).waiters.insert(owner.age, owner.clone());
        // An older waiter goes first for what a wound set free.
        self.hand_over(place, later);
        self.hand_over_parts(later);
        Ok(false)
    }

    /// Whether it has the lock, by itself or with the whole table.
    pub(super) fn owns(&self, owner: &Owner, place: &Place) -> bool {
        let by = |lock: Option<&Lock>| lock.and_then(|lock| lock.owner.as_deref()).is_some_and(|one| same(one, owner));
        match &place.what {
            What::Part(table) => by(self.parts.get(table)),
            What::Row(row) => by(self.rows.get(row)) || by(self.parts.get(&row.0)),
        }
    }

    /// Whether nobody owns a row.
    pub(super) fn is_free(&self, row: &Row) -> bool {
        let free = |lock: Option<&Lock>| lock.is_none_or(|lock| !lock.is_owned());
        free(self.rows.get(row)) && free(self.parts.get(&row.0))
    }

    /// Dooms those in the way who are younger and not committing.
    fn wound(&mut self, owner: &Owner, place: &Place, later: &mut Later) {
        match &place.what {
            What::Part(table) => rows_of(&mut self.rows, *table).for_each(|(_, lock)| lock.wound(owner, later)),
            What::Row(row) => self.rows.get_mut(row).into_iter().for_each(|lock| lock.wound(owner, later)),
        }
        let table = place.what.table();
        self.parts.get_mut(&table).into_iter().for_each(|lock| lock.wound(owner, later));
    }

    /// Whether nothing stands against `owner`: neither another owner nor an older waiter, of the place or of what has it or is in it.
    fn is_ready(&self, owner: &Owner, what: &What) -> bool {
        let part = self.parts.get(&what.table());
        let free = |lock: &Lock| lock.is_ready(owner);
        part.is_none_or(free)
            && match what {
                What::Part(table) => self
                    .rows
                    .range(first_of(*table)..)
                    .take_while(|(row, _)| row.0 == *table)
                    .all(|(_, lock)| free(lock)),
                What::Row(row) => self.rows.get(row).is_none_or(free),
            }
    }

    /// Takes one out of a place, as owner or waiter, and lets the next ones in.
    pub(super) fn release(&mut self, owner: &Owner, place: &Place, later: &mut Later) {
        self.remove(owner, place, later);
        self.hand_over_parts(later);
    }

    /// As `release`, but waiters for the whole table are left for `hand_over_parts`, which looks at all its rows.
    pub(super) fn remove(&mut self, owner: &Owner, place: &Place, later: &mut Later) {
        let lock = self.lock(&place.what);
        lock.waiters.remove(&owner.age);
        if lock.owner.as_deref().is_some_and(|one| same(one, owner)) {
            lock.owner = None;
        }
        self.hand_over(place, later);
    }

    /// Gives a row to its oldest waiter, if it may; of a part, all its rows.
    fn hand_over(&mut self, place: &Place, later: &mut Later) {
        match &place.what {
            What::Row(row) => self.hand_over_row(place.shard, row, later),
            What::Part(table) => {
                let waited_for = rows_of(&mut self.rows, *table).filter(|(_, lock)| !lock.waiters.is_empty());
                for row in waited_for.map(|(row, _)| row.clone()).collect::<Vec<_>>() {
                    self.hand_over_row(place.shard, &row, later);
                }
                self.tidy(&place.what);
            }
        }
    }

    fn hand_over_row(&mut self, shard: usize, row: &Row, later: &mut Later) {
        let place = Place { shard, what: What::Row(row.clone()) };
        while let Some(first) = self.rows.get(row).and_then(Lock::first) {
            if !self.is_ready(&first, &place.what) {
                break;
            }
            self.lock(&place.what).hand_over(&place, first, later);
        }
        self.tidy(&place.what);
    }

    /// Gives each part to its oldest waiter, if it may.
    pub(super) fn hand_over_parts(&mut self, later: &mut Later) {
        for table in self.parts.keys().copied().collect::<Vec<_>>() {
            let what = What::Part(table);
            while let Some(first) = self.parts.get(&table).and_then(Lock::first) {
                let Some(place) = first.queued_at() else {
                    // It is gone, and whoever ends it comes by for the rows that wait behind it.
                    self.lock(&what).waiters.remove(&first.age);
                    continue;
                };
                if !self.is_ready(&first, &what) {
                    break;
                }
                self.lock(&what).hand_over(&place, first, later);
            }
            self.tidy(&what);
        }
    }

    fn lock(&mut self, what: &What) -> &mut Lock {
        match what {
            What::Part(table) => self.parts.entry(*table).or_default(),
            What::Row(row) => self.rows.entry(row.clone()).or_default(),
        }
    }

    /// A lock that nobody has or wants is not kept.
    fn tidy(&mut self, what: &What) {
        let unused = |lock: &Lock| lock.owner.is_none() && lock.waiters.is_empty();
        match what {
            What::Part(table) => {
                if self.parts.get(table).is_some_and(unused) {
                    self.parts.remove(table);
                }
            }
            What::Row(row) => {
                if self.rows.get(row).is_some_and(unused) {
                    self.rows.remove(row);
                }
            }
        }
    }
}

impl Lock {
    fn is_owned(&self) -> bool {
        self.owner.as_ref().is_some_and(|owner| !owner.is_gone())
    }

    fn is_ready(&self, who: &Owner) -> bool {
        let others = self.owner.as_deref().is_some_and(|owner| !same(owner, who) && !owner.is_gone());
        !others && self.waiters.first_key_value().is_none_or(|(age, _)| *age >= who.age)
    }

    fn first(&self) -> Option<Arc<Owner>> {
        self.waiters.first_key_value().map(|(_, owner)| owner.clone())
    }

    fn wound(&mut self, by: &Owner, later: &mut Later) {
        let Some(owner) = self.owner.as_ref().filter(|owner| owner.age > by.age) else { return };
        let mut inner = owner.lock();
        if inner.state == State::Active {
            inner.state = State::Doomed { by: by.age.own };
            later.doomed.push(owner.clone());
        }
    }

    /// To the first waiter, unless it waits no more.
    fn hand_over(&mut self, place: &Place, first: Arc<Owner>, later: &mut Later) {
        self.waiters.remove(&first.age);
        if let Some(waker) = first.grant(place) {
            later.wake.push(waker);
            self.owner = Some(first);
        }
    }
}

fn first_of(table: TableId) -> Row {
    (table, Key::new())
}

fn rows_of(rows: &mut BTreeMap<Row, Lock>, table: TableId) -> impl Iterator<Item = (&Row, &mut Lock)> {
    rows.range_mut((Bound::Included(first_of(table)), Bound::Unbounded)).take_while(move |(row, _)| row.0 == table)
}

/// What tests look at.
#[cfg(test)]
impl Shard {
    pub(super) fn is_unused(&self) -> bool {
        self.parts.is_empty() && self.rows.is_empty()
    }

    /// Each lock with its owner and waiters.
    pub(super) fn describe(&self) -> String {
        let lock = |lock: &Lock| {
            let owner = lock.owner.as_ref().map(|owner| owner.age());
            format!("{owner:?} {:?};", lock.waiters.keys())
        };
        let parts = self.parts.iter().map(|(table, one)| format!("{table:?} {}", lock(one)));
        parts.chain(self.rows.iter().map(|(row, one)| format!("{row:?} {}", lock(one)))).collect()
    }

    /// Others who own the place, or what has it or is in it.
    pub(super) fn others(&self, owner: &Owner, what: &What) -> Vec<Arc<Owner>> {
        let owners = self.near(what).filter_map(|lock| lock.owner.clone());
        owners.filter(|other| !same(other, owner) && !other.is_gone()).collect()
    }

    /// All that a waiter waits for.
    pub(super) fn in_the_way(&self, owner: &Owner, what: &What) -> Vec<Arc<Owner>> {
        let older =
            self.near(what).flat_map(|lock| lock.waiters.range(..owner.age()).map(|(_, waiter)| waiter.clone()));
        self.others(owner, what).into_iter().chain(older).collect()
    }

    fn near(&self, what: &What) -> impl Iterator<Item = &Lock> {
        let (table, row) = (
            what.table(),
            match what {
                What::Part(_) => None,
                What::Row(row) => Some(row.clone()),
            },
        );
        let rows =
            self.rows.iter().filter(move |(one, _)| one.0 == table && row.as_ref().is_none_or(|row| *row == **one));
        self.parts.get(&table).into_iter().chain(rows.map(|(_, lock)| lock))
    }
}
