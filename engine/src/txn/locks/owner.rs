//! A transaction as the locks see it: how old it is, whether it may go on, what it holds and where it waits.
//!
//! What it holds and waits for is noted under its own mutex and only while it is active, and the one that ends or dooms it takes the notes:
//! so each lock that it ever took is given back once, by somebody, whether or not it is ever called again.

use std::{
    mem,
    sync::{Arc, PoisonError},
    task::{Poll, Waker},
};

use crate::sync::{Mutex, MutexGuard};

use super::super::{
    ids::{TableId, TxnId},
    undo::Key,
};

/// Who waits for whom: a smaller one is older. The first attempt's number, so that a transaction that is tried again gets older
/// instead of losing again; then its own, so that there are no two of an age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::txn) struct Age {
    first: TxnId,
    pub(super) own: TxnId,
}

/// Why a lock was not given, or a commit not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::txn) enum Refusal {
    /// An older transaction took the locks. Begin again, as a retry of this one.
    #[error("wounded by the older transaction {by}")]
    Wounded {
        /// The older one.
        by: TxnId,
    },
    /// The deadline has passed. What was held is still held: ask again, or give up.
    #[error("the lock was not free before its deadline")]
    Timeout,
    /// It is committing or has ended. Begin another.
    #[error("the transaction takes no more locks")]
    Ended,
}

/// A transaction as the locks see it.
#[derive(Debug)]
pub(in crate::txn) struct Owner {
    pub(super) age: Age,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) state: State,
    /// Each once; empty as soon as it is doomed or has ended.
    pub(super) held: Vec<Place>,
    pub(super) wait: Wait,
}

/// `Active -> Committing -> Ended`, or `Active -> Doomed -> Ended`, or `Active -> Ended`. There is no way back from `Committing`: an
/// older waiter would then wait for one that it should have doomed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Active,
    Committing,
    Doomed { by: TxnId },
    Ended,
}

#[derive(Debug)]
pub(super) enum Wait {
    No,
    /// It is in the queue of this place.
    Queued(Place, Waker),
    Granted,
}

/// A lock, with the shard that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) shard: usize,
    pub(super) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// All rows of a table that are in the shard.
    Part(TableId),
    Row(Row),
}

pub(super) type Row = (TableId, Key);

impl Owner {
    /// A transaction that has begun; as old as the one that it tries again.
    pub(in crate::txn) fn new(id: TxnId, retry_of: Option<Age>) -> Arc<Owner> {
        let age = Age { first: retry_of.map_or(id, |age| age.first), own: id };
        let inner = Inner { state: State::Active, held: Vec::new(), wait: Wait::No };
        Arc::new(Owner { age, inner: Mutex::new(inner) })
    }

    /// To be passed on to a retry.
    pub(in crate::txn) fn age(&self) -> Age {
        self.age
    }

    /// Whether it may go on; every call of a transaction asks first.
    pub(in crate::txn) fn check(&self) -> Result<(), Refusal> {
        self.lock().check()
    }

    /// From here it can't be doomed, and takes no more locks. It stays so until [`Locks::end`].
    pub(in crate::txn) fn begin_commit(&self) -> Result<(), Refusal> {
        let mut inner = self.lock();
        inner.check()?;
        inner.state = State::Committing;
        Ok(())
    }

    /// Whether its locks are to be had: it is doomed or has ended.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self.lock().state, State::Doomed { .. } | State::Ended)
    }

    /// Takes note of a lock, unless it may not go on.
    pub(super) fn hold(&self, place: &Place) -> Result<(), Refusal> {
        let mut inner = self.lock();
        inner.check()?;
        inner.held.push(place.clone());
        Ok(())
    }

    /// Takes note of a lock that it waits for; `None` if it doesn't any more.
    pub(super) fn grant(&self, place: &Place) -> Option<Waker> {
        let mut inner = self.lock();
        if inner.state != State::Active || !matches!(&inner.wait, Wait::Queued(queued, _) if queued == place) {
            return None;
        }
        inner.held.push(place.clone());
        match mem::replace(&mut inner.wait, Wait::Granted) {
            Wait::Queued(_, waker) => Some(waker),
            Wait::No | Wait::Granted => None,
        }
    }

    pub(super) fn wait(&self, place: &Place, waker: &Waker) -> Result<(), Refusal> {
        let mut inner = self.lock();
        inner.check()?;
        inner.wait = Wait::Queued(place.clone(), waker.clone());
        Ok(())
    }

    /// What became of its wait; a pending one wakes `waker` from now on.
    pub(super) fn answer(&self, waker: &Waker) -> Poll<Result<(), Refusal>> {
        let mut inner = self.lock();
        inner.check()?;
        match &mut inner.wait {
            Wait::Queued(_, there) => {
                there.clone_from(waker);
                Poll::Pending
            }
            Wait::Granted | Wait::No => Poll::Ready(Ok(())),
        }
    }

    /// Where it waits.
    pub(super) fn queued_at(&self) -> Option<Place> {
        match &self.lock().wait {
            Wait::Queued(place, _) => Some(place.clone()),
            Wait::No | Wait::Granted => None,
        }
    }

    /// Nobody may poison it: a panic elsewhere leaves it whole.
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    pub(super) fn check(&self) -> Result<(), Refusal> {
        match self.state {
            State::Active => Ok(()),
            State::Doomed { by } => Err(Refusal::Wounded { by }),
            State::Committing | State::Ended => Err(Refusal::Ended),
        }
    }
}

impl What {
    pub(super) fn table(&self) -> TableId {
        match self {
            What::Part(table) | What::Row((table, _)) => *table,
        }
    }
}

pub(super) fn same(one: &Owner, two: &Owner) -> bool {
    std::ptr::eq(one, two)
}
