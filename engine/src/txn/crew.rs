//! Work in units that anybody may do: the caller and tasks beside it take them from one queue.
//!
//! What comes of a unit has the unit's place, so nothing depends on who did which, or when; and the caller needs no task to get to the
//! end.

use std::{
    io, iter,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{env::Env, sync::Mutex};

struct Queue<U, T, W> {
    units: Mutex<iter::Enumerate<std::vec::IntoIter<U>>>,
    done: Mutex<Vec<Option<T>>>,
    finished: AtomicUsize,
    work: W,
}

impl<U, T, W: Fn(U) -> T> Queue<U, T, W> {
    /// Does the next unit; false if there is none.
    fn step(&self) -> bool {
        let next = self.units.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some((place, unit)) = next else { return false };
        let made = (self.work)(unit);
        self.done.lock().unwrap_or_else(PoisonError::into_inner)[place] = Some(made);
        self.finished.fetch_add(1, Ordering::AcqRel);
        true
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
    mut told: impl FnMut(usize),
) -> io::Result<Vec<T>>
where
    E: Env,
    U: Send + 'static,
    T: Send + 'static,
{
    let count = units.len();
    let queue = Arc::new(Queue {
        units: Mutex::new(units.into_iter().enumerate()),
        done: Mutex::new(iter::repeat_with(|| None).take(count).collect()),
        finished: AtomicUsize::new(0),
        work,
    });
    let helper = |_| {
        let queue = Arc::clone(&queue);
        // (Without it the others do it.)
        env.spawn("seawall txn recovery", async move { while queue.step() {} }).ok()
    };
    let helpers: Vec<E::Task> = (1..count).take(usize::from(workers)).map_while(helper).collect();
    while queue.step() {
        told(queue.finished.load(Ordering::Acquire));
        env.yield_now().await;
    }
    for helper in helpers {
        helper.await;
    }
    told(count);
    let mut done = queue.done.lock().unwrap_or_else(PoisonError::into_inner);
    let all: Option<Vec<T>> = done.drain(..).collect();
    all.ok_or_else(|| io::Error::other("a thread panicked"))
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, sync::atomic::AtomicBool};

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
}
