//! Reading ahead: one future reads and parses a file of commands while another executes what it found, batch by batch.

use std::{
    collections::VecDeque,
    io,
    ops::Range,
    sync::{Arc, PoisonError},
};

use smallvec::SmallVec;

use crate::{
    env::File,
    gate::Gate,
    sync::{Mutex, MutexGuard},
};

use super::check::{Check, Checked, Role, Walk};

/// Commands of a batch, at most.
const BATCH_COMMANDS: usize = 1024;
/// Bytes of a batch's arguments, about; a larger command has a batch of its own.
const BATCH_BYTES: usize = 64 << 10;
/// So many batches are read before the first of them is executed. The reader goes on when half of them are.
const BATCHES: usize = if cfg!(feature = "loom") { 2 } else { 8 };

/// What stands in a file, in order.
#[derive(Debug)]
pub(super) struct Batch<P> {
    items: Vec<Item>,
    prepared: Vec<P>,
    /// The arguments of all commands that were not prepared, and where each is.
    bytes: Vec<u8>,
    places: Vec<Range<usize>>,
}

#[derive(Clone, Copy, Debug)]
enum Item {
    /// So many commands that were prepared.
    Prepared(usize),
    /// A command that stands at this byte of the file, with so many arguments.
    Command(u64, usize),
    /// What is no command, or one that begins or ends a unit.
    Role(Role),
}

/// An item with what belongs to it.
pub(super) enum Found<'a, P> {
    /// Commands that were prepared.
    Prepared(&'a mut dyn Iterator<Item = P>),
    /// A command that stands at this byte of the file.
    Command(u64, &'a [&'a [u8]]),
    /// What begins or ends a unit.
    Role(Role),
}

/// How a command is prepared, if it can be.
type Prepare<P> = fn(&[&[u8]]) -> Option<P>;
/// Arguments of a command; it takes many for an allocation.
type Arguments<'a> = SmallVec<[&'a [u8]; 8]>;

impl<P> Batch<P> {
    const fn new() -> Batch<P> {
        Batch { items: Vec::new(), prepared: Vec::new(), bytes: Vec::new(), places: Vec::new() }
    }

    fn is_full(&self) -> bool {
        self.items.len() + self.prepared.len() >= BATCH_COMMANDS || self.bytes.len() >= BATCH_BYTES
    }

    fn push_prepared(&mut self, command: P) {
        self.prepared.push(command);
        match self.items.last_mut() {
            Some(Item::Prepared(count)) => *count += 1,
            _ => self.items.push(Item::Prepared(1)),
        }
    }

    fn push(&mut self, at: u64, arguments: &[&[u8]]) {
        self.items.push(Item::Command(at, arguments.len()));
        for argument in arguments {
            let begins = self.bytes.len();
            self.bytes.extend_from_slice(argument);
            self.places.push(begins..self.bytes.len());
        }
    }

    /// Hands out what it holds, in order, up to the first error; then it holds nothing.
    pub(super) fn drain<E>(&mut self, mut each: impl FnMut(Found<'_, P>) -> Result<(), E>) -> Result<(), E> {
        let mut prepared = self.prepared.drain(..);
        let mut places = self.places.drain(..);
        for item in self.items.drain(..) {
            match item {
                Item::Prepared(count) => each(Found::Prepared(&mut prepared.by_ref().take(count)))?,
                Item::Role(role) => each(Found::Role(role))?,
                Item::Command(at, count) => {
                    let command: Arguments<'_> = places.by_ref().take(count).map(|place| &self.bytes[place]).collect();
                    each(Found::Command(at, &command))?;
                }
            }
        }
        drop((prepared, places));
        self.bytes.clear();
        Ok(())
    }
}

/// How the end of a file was reached.
pub(super) struct Read {
    pub(super) checked: Checked,
    /// Checksum of the commands.
    pub(super) digest: u32,
}

/// What is between the two futures.
struct Pipe<P> {
    state: Mutex<State<P>>,
    gate: Gate,
}

struct State<P> {
    full: VecDeque<Batch<P>>,
    /// They were executed, and are filled again.
    empty: Vec<Batch<P>>,
    /// The file was read, or can't be.
    read: Option<io::Result<Read>>,
    /// One of the two is gone.
    left: bool,
}

impl<P> Pipe<P> {
    fn lock(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end that reads.
pub(super) struct Reader<P>(Arc<Pipe<P>>);
/// The end that executes.
pub(super) struct Batches<P>(Arc<Pipe<P>>);

/// Two ends. Either may be dropped; the other one is told.
pub(super) fn pipe<P>() -> (Reader<P>, Batches<P>) {
    let state = State { full: VecDeque::new(), empty: Vec::new(), read: None, left: false };
    let pipe = Arc::new(Pipe { state: Mutex::new(state), gate: Gate::default() });
    (Reader(pipe.clone()), Batches(pipe))
}

impl<P> Reader<P> {
    /// Reads these places of a file. With `all`, it waits for nobody: the whole of it is read before any is
    /// executed.
    pub(super) async fn read<F: File>(self, file: F, places: Range<u64>, check: Check, prepare: Prepare<P>, all: bool) {
        let read = self.walk(Walk::within(&file, places, check), prepare, all).await;
        self.0.lock().read = Some(read);
    }

    async fn walk<F: File>(&self, mut walk: Walk<'_, F>, prepare: Prepare<P>, all: bool) -> io::Result<Read> {
        let mut batch = Batch::new();
        let mut unit = false;
        while let Some(role) = walk.next().await? {
            match role {
                Role::Command => {
                    let command: Arguments<'_> = walk.command().collect();
                    match if unit { None } else { prepare(&command) } {
                        Some(prepared) => batch.push_prepared(prepared),
                        None => batch.push(walk.at(), &command),
                    }
                }
                Role::Begins | Role::Executes | Role::Discards => {
                    unit = role == Role::Begins;
                    batch.items.push(Item::Role(role));
                }
                // (A stray one fails, as it did when it was logged.)
                Role::Annotation | Role::Stray => {}
            }
            if batch.is_full() {
                // Whoever left wants to know nothing more.
                batch = self.put(batch, all).await.ok_or(io::ErrorKind::BrokenPipe)?;
            }
        }
        self.put(batch, true).await;
        Ok(Read { digest: walk.digest(), checked: walk.checked() })
    }

    /// Hands a batch over, when there is room for it. Returns one to fill, unless nobody is there any more.
    async fn put(&self, batch: Batch<P>, all: bool) -> Option<Batch<P>> {
        let mut batch = Some(batch);
        let mut room = BATCHES;
        loop {
            let seen = self.0.gate.seq();
            {
                let mut state = self.0.lock();
                if state.left {
                    return None;
                }
                if all || state.full.len() < room {
                    state.full.extend(batch.take());
                    let empty = state.empty.pop().unwrap_or(Batch::new());
                    drop(state);
                    self.0.gate.open();
                    return Some(empty);
                }
            }
            room = BATCHES / 2;
            self.0.gate.wait(seen).await;
        }
    }
}

impl<P> Batches<P> {
    /// The next batch, in exchange for the one before; `None` at what ends the file.
    pub(super) async fn next(&self, mut done: Option<Batch<P>>) -> Option<Batch<P>> {
        loop {
            let seen = self.0.gate.seq();
            {
                let mut state = self.0.lock();
                state.empty.extend(done.take());
                let next = state.full.pop_front();
                if next.is_some() || state.left {
                    let room = state.full.len() < BATCHES / 2;
                    drop(state);
                    if room {
                        self.0.gate.open();
                    }
                    return next;
                }
            }
            self.0.gate.wait(seen).await;
        }
    }

    /// Whether the reader has come to its end; there may be batches left.
    pub(super) fn are_all_read(&self) -> bool {
        self.0.lock().left
    }

    /// How the end was reached.
    ///
    /// # Errors
    /// The machine's, when the file can't be read.
    pub(super) fn read(&self) -> io::Result<Read> {
        self.0.lock().read.take().unwrap_or_else(|| Err(io::Error::other("the task that reads it has died")))
    }
}

impl<P> Drop for Reader<P> {
    fn drop(&mut self) {
        self.0.lock().left = true;
        self.0.gate.open();
    }
}

impl<P> Drop for Batches<P> {
    fn drop(&mut self) {
        self.0.lock().left = true;
        self.0.gate.open();
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn a_batch_hands_out_what_it_took_in_and_can_be_filled_again() {
        let mut batch = Batch::new();
        for round in 0..3 {
            batch.push_prepared(round);
            batch.push_prepared(round + 1);
            batch.push(7, &[b"DEL", b"key"]);
            batch.items.push(Item::Role(Role::Begins));
            let long: Vec<&[u8]> = vec![b"x"; 20];
            batch.push(8, &long);
            batch.push_prepared(9);
            let mut seen = Vec::new();
            let drained = batch.drain(|found| {
                seen.push(match found {
                    Found::Prepared(commands) => format!("{:?}", commands.collect::<Vec<_>>()),
                    Found::Command(at, command) => format!("{at}: {} {:?}", command.len(), command[1]),
                    Found::Role(role) => format!("{role:?}"),
                });
                Ok::<(), ()>(())
            });
            assert_eq!(drained, Ok(()));
            let first = format!("[{round}, {}]", round + 1);
            assert_eq!(seen, [first.as_str(), "7: 2 [107, 101, 121]", "Begins", "8: 20 [120]", "[9]"]);
        }
    }
}

/// Every interleaving of the two ends, with at most three preemptions.
#[cfg(all(test, feature = "loom"))]
mod model {
    use loom::{future::block_on, thread};

    use super::*;

    fn explore(run: impl Fn() + Send + Sync + 'static) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(run);
    }

    async fn hand_over(reader: Reader<usize>, count: usize) {
        for number in 0..count {
            let mut batch = Batch::new();
            batch.push_prepared(number);
            if reader.put(batch, false).await.is_none() {
                return;
            }
        }
    }

    #[test]
    fn everything_arrives_in_order_and_then_the_end() {
        explore(|| {
            let (reader, batches) = pipe();
            let thread = thread::spawn(|| block_on(hand_over(reader, 4)));
            let (mut done, mut seen) = (None, Vec::new());
            while let Some(mut batch) = block_on(batches.next(done)) {
                seen.append(&mut batch.prepared);
                batch.items.clear();
                done = Some(batch);
            }
            assert_eq!(seen, [0, 1, 2, 3]);
            thread.join().expect("it ended");
        });
    }

    #[test]
    fn a_reader_whom_nobody_reads_ends() {
        explore(|| {
            let (reader, batches) = pipe();
            let thread = thread::spawn(|| block_on(hand_over(reader, 4)));
            assert!(block_on(batches.next(None)).is_some());
            drop(batches);
            thread.join().expect("it ended");
        });
    }
}
