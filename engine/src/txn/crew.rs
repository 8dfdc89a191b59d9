//! Work in units that anybody may do: the caller and tasks beside it take them from one queue.
//!
//! What comes of a unit has the unit's place, so nothing depends on who did which, or when; and the caller needs no task to get to the
//! end.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, PoisonError},
};

use crate::{
    env::Env,
    sync::{Mutex, MutexGuard},
};

/// What tasks are called.
const NAME: &str = "seawall txn recovery";

struct Queue<U, T, W> {
    places: Mutex<Places<U, T>>,
    work: W,
}

struct Places<U, T> {
    /// Units that nobody does yet, with their places.
    units: VecDeque<(usize, U)>,
    /// What came of them, by place.
    done: Vec<Option<T>>,
    finished: usize,
    /// Tasks that look for units.
    helpers: usize,
}

impl<U, T, W: Fn(U) -> T> Queue<U, T, W> {
    fn new(units: Vec<U>, work: W) -> Queue<U, T, W> {
        let mut places = Places { units: VecDeque::new(), done: Vec::new(), finished: 0, helpers: 0 };
        units.into_iter().for_each(|unit| places.push(unit));
        Queue { places: Mutex::new(places), work }
    }

    fn places(&self) -> MutexGuard<'_, Places<U, T>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the next unit; false if there is none.
    fn step(&self) -> bool {
        let next = self.places().units.pop_front();
        next.map(|unit| self.make(unit)).is_some()
    }

    fn make(&self, (place, unit): (usize, U)) {
        let made = (self.work)(unit);
        let mut places = self.places();
        places.done[place] = Some(made);
        places.finished += 1;
    }

    /// What a task does: it goes when there is nothing left, and in that moment is none of those that whoever adds a unit counts on.
    fn help(&self) {
        loop {
            let mut places = self.places();
            let Some(unit) = places.units.pop_front() else {
                places.helpers -= 1;
                return;
            };
            drop(places);
            self.make(unit);
        }
    }
}

impl<U: Send + 'static, T: Send + 'static, W: Fn(U) -> T + Send + Sync + 'static> Queue<U, T, W> {
    /// One more task, unless there is none to be had: then the others do it.
    fn hire<E: Env>(self: &Arc<Self>, env: &E) -> Option<E::Task> {
        self.places().helpers += 1;
        let queue = Arc::clone(self);
        let helper = env.spawn(NAME, async move { queue.help() }).ok();
        if helper.is_none() {
            self.places().helpers -= 1;
        }
        helper
    }
}

impl<U, T> Places<U, T> {
    fn push(&mut self, unit: U) {
        self.units.push_back((self.done.len(), unit));
        self.done.push(None);
    }
}

/// Does `work` on each unit, with so many tasks beside the caller; what comes of them, in the order of the units. `told` is called by the
/// caller alone, after each unit that it does, with how many are done, whoever did them.
///
/// # Errors
/// `Other`: a task panicked.
pub(super) async fn each<E, U, T>(
    env: &E,
    workers: u16,
    units: Vec<U>,
    work: impl Fn(U) -> T + Send + Sync + 'static,
    told: impl FnMut(usize),
) -> io::Result<Vec<T>>
where
    E: Env,
    U: Send + 'static,
    T: Send + 'static,
{
    let mut all = Vec::with_capacity(units.len());
    in_order(env, workers, units, work, told, |made| all.push(made)).await?;
    Ok(all)
}

/// The same, but the caller takes what comes of the units while others are still done, in their order.
///
/// # Errors
/// `Other`: a task panicked. What came before was taken.
pub(super) async fn in_order<E, U, T>(
    env: &E,
    workers: u16,
    units: Vec<U>,
    work: impl Fn(U) -> T + Send + Sync + 'static,
    mut told: impl FnMut(usize),
    mut take: impl FnMut(T),
) -> io::Result<()>
where
    E: Env,
    U: Send + 'static,
    T: Send + 'static,
{
    let count = units.len();
    let queue = Arc::new(Queue::new(units, work));
    let helpers: Vec<E::Task> = (1..count).take(usize::from(workers)).map_while(|_| queue.hire(env)).collect();
    let mut taken = 0;
    let mut take_next = || {
        let made = queue.places().done.get_mut(taken).and_then(Option::take);
        taken += usize::from(made.is_some());
        made.map(&mut take).is_some()
    };
    while queue.step() {
        told(queue.places().finished);
        while take_next() {}
        env.yield_now().await;
    }
    for helper in helpers {
        helper.await;
    }
    told(count);
    while take_next() {}
    if taken == count { Ok(()) } else { Err(io::Error::other("a thread panicked")) }
}

/// Units that all are done in the same way.
type Alike<U, T> = Queue<U, T, fn(U) -> T>;

/// Units that come one by one: tasks begin with them while others are still to come.
pub(super) struct Ahead<E: Env, U, T> {
    env: E,
    workers: usize,
    queue: Arc<Alike<U, T>>,
    helpers: Vec<E::Task>,
}

impl<E: Env, U: Send + 'static, T: Send + 'static> Ahead<E, U, T> {
    /// With so many tasks at a time.
    pub(super) fn new(env: &E, workers: u16, work: fn(U) -> T) -> Ahead<E, U, T> {
        let queue = Arc::new(Queue::new(Vec::new(), work));
        Ahead { env: env.clone(), workers: usize::from(workers), queue, helpers: Vec::new() }
    }

    /// One more: a task comes for it, if there are not as many as there may be.
    pub(super) fn push(&mut self, unit: U) {
        let mut places = self.queue.places();
        places.push(unit);
        let enough = places.helpers == self.workers;
        drop(places);
        if !enough {
            self.helpers.extend(self.queue.hire(&self.env));
        }
    }

    /// The caller does what nobody has begun, and these last ones by itself; what comes of all units, in their order.
    ///
    /// # Errors
    /// `Other`: a task panicked.
    pub(super) async fn finish(self, last: Vec<U>) -> io::Result<Vec<T>> {
        last.into_iter().for_each(|unit| self.queue.places().push(unit));
        while self.queue.step() {}
        for helper in self.helpers {
            helper.await;
        }
        let all: Option<Vec<T>> = self.queue.places().done.drain(..).collect();
        all.ok_or_else(|| io::Error::other("a thread panicked"))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        sync::atomic::{AtomicBool, Ordering},
    };

    use super::*;
    use crate::env::{OsEnv, block_on};

    #[test]
    fn what_comes_of_units_is_in_their_order_whoever_did_them() {
        for workers in [0, 1, 4] {
            for count in [0_usize, 1, 2, 1000] {
                let mut told = Vec::new();
                let squares = each(&OsEnv, workers, (0..count).collect(), |unit| unit * unit, |done| told.push(done));
                let squares = block_on(squares).unwrap();
                assert_eq!(squares, (0..count).map(|unit| unit * unit).collect::<Vec<_>>());
                assert!(told.is_sorted() && told.last() == Some(&count));
            }
        }
    }

    #[test]
    fn a_panic_of_a_task_is_an_error() {
        thread_local!(static IS_CALLER: Cell<bool> = const { Cell::new(false) });
        IS_CALLER.set(true);
        let panics = AtomicBool::new(false);
        let only_here = move |()| {
            if !IS_CALLER.get() {
                panics.store(true, Ordering::SeqCst);
                panic!("on purpose");
            }
            // (The caller leaves something for the task.)
            while !panics.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        };
        let failed = block_on(each(&OsEnv, 1, vec![(); 10], only_here, |_| ()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::Other);
    }

    #[test]
    fn units_that_come_one_by_one_are_in_their_order_too() {
        for workers in [0, 1, 4] {
            let mut ahead = Ahead::new(&OsEnv, workers, |unit: usize| unit * unit);
            (0..1000).for_each(|unit| ahead.push(unit));
            let squares = block_on(ahead.finish(vec![1000, 1001])).unwrap();
            assert_eq!(squares, (0..1002).map(|unit| unit * unit).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_comes_of_units_is_taken_in_their_order() {
        for workers in [0, 1, 4] {
            let mut taken = Vec::new();
            let units = (0..1000_usize).collect();
            block_on(in_order(&OsEnv, workers, units, |unit| unit, |_| (), |made| taken.push(made))).unwrap();
            assert_eq!(taken, (0..1000).collect::<Vec<_>>());
        }
    }
}
