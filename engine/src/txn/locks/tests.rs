use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    task::Wake,
};

use super::{super::ids::TxnId, *};

const T: TableId = TableId(7);

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

type Pending = Pin<Box<dyn Future<Output = Result<(), Refusal>>>>;

/// A transaction that a test drives by hand. A future that waits is only polled again once it was woken.
struct Client {
    owner: Arc<Owner>,
    clock: Arc<AtomicU64>,
    woken: Arc<Flag>,
    pending: Option<Pending>,
    got: usize,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Committed,
    Wounded,
    /// By the test.
    Left,
}

impl Client {
    fn new(number: u64, retry_of: Option<Age>) -> Client {
        let id = TxnId::from_bits((1 << 40) + number).expect("one of epoch 1");
        let owner = Owner::new(id, retry_of);
        Client { owner, clock: Arc::default(), woken: Arc::default(), pending: None, got: 0, end: None }
    }

    /// Asks for a row, or with 'T' for the table, until time 1.
    fn ask(&mut self, locks: &Arc<Locks>, want: u8) -> Poll<Result<(), Refusal>> {
        let (locks, owner, clock) = (locks.clone(), self.owner.clone(), self.clock.clone());
        self.pending = Some(Box::pin(async move {
            let now = || Duration::from_secs(clock.load(SeqCst));
            match want {
                b'T' => locks.table(&owner, T, Duration::from_secs(1), now).await,
                row => locks.row(&owner, (T, &[row]), Duration::from_secs(1), now).await,
            }
        }));
        self.poll()
    }

    fn poll(&mut self) -> Poll<Result<(), Refusal>> {
        self.woken.0.store(false, SeqCst);
        let waker = Waker::from(self.woken.clone());
        let answer = self.pending.as_mut().expect("it waits").as_mut().poll(&mut Context::from_waker(&waker));
        if answer.is_ready() {
            self.pending = None;
        }
        answer
    }

    fn is_woken(&self) -> bool {
        self.woken.0.load(SeqCst)
    }

    fn id(&self) -> TxnId {
        self.owner.age().own
    }
}

const GOT: Poll<Result<(), Refusal>> = Poll::Ready(Ok(()));

fn wounded(by: &Client) -> Poll<Result<(), Refusal>> {
    Poll::Ready(Err(Refusal::Wounded { by: by.id() }))
}

fn setup(count: u64) -> (Arc<Locks>, Vec<Client>) {
    (Arc::default(), (1..=count).map(|number| Client::new(number, None)).collect())
}

#[test]
fn a_row_of_another_is_waited_for_and_goes_to_the_oldest_waiter_when_its_owner_ends() {
    // L29: open owner: wait; an owner that has committed: go on. Whether that is a conflict is the snapshot's matter.
    let (locks, mut tx) = setup(4);
    assert_eq!((tx[0].ask(&locks, b'a'), tx[0].ask(&locks, b'a')), (GOT, GOT));
    assert!(tx[3].ask(&locks, b'a').is_pending() && tx[1].ask(&locks, b'a').is_pending());
    assert_eq!(tx[0].owner.begin_commit(), Ok(()));
    assert!(tx[2].ask(&locks, b'a').is_pending() && !tx[1].is_woken());
    locks.end(&tx[0].owner);
    assert!(tx[1].is_woken() && !tx[2].is_woken() && !tx[3].is_woken());
    assert_eq!(tx[1].poll(), GOT);
    locks.end(&tx[1].owner);
    assert!(tx[2].is_woken() && !tx[3].is_woken());
    assert_eq!(locks.while_free(T, b"a", || ()), None);
    locks.end(&tx[2].owner);
    locks.end(&tx[3].owner);
    assert!(tx[3].is_woken());
    assert_eq!((tx[2].poll(), tx[3].poll()), (Poll::Ready(Err(Refusal::Ended)), Poll::Ready(Err(Refusal::Ended))));
    assert!(locks.is_unused());
    assert_eq!(locks.while_free(T, b"a", || 5), Some(5));
    assert_eq!(tx[0].ask(&locks, b'a'), Poll::Ready(Err(Refusal::Ended)));
}

#[test]
fn a_younger_owner_gives_way_at_once_unless_it_is_committing() {
    let (locks, mut tx) = setup(4);
    assert_eq!((tx[2].ask(&locks, b'a'), tx[2].ask(&locks, b'b')), (GOT, GOT));
    assert!(tx[3].ask(&locks, b'b').is_pending());
    assert_eq!(tx[0].ask(&locks, b'a'), GOT);
    assert!(tx[3].is_woken(), "the other locks of a wounded one are free as well, though it sleeps");
    assert_eq!(tx[3].poll(), GOT);
    let found = Refusal::Wounded { by: tx[0].id() };
    assert_eq!((tx[2].owner.check(), tx[2].owner.begin_commit()), (Err(found), Err(found)));
    assert_eq!(tx[2].ask(&locks, b'c'), wounded(&tx[0]));
    assert_eq!(tx[3].owner.begin_commit(), Ok(()));
    assert!(tx[0].ask(&locks, b'b').is_pending());
    locks.end(&tx[3].owner);
    assert_eq!(tx[0].poll(), GOT);
}

#[test]
fn one_that_waits_is_woken_when_it_is_wounded() {
    let (locks, mut tx) = setup(3);
    assert_eq!((tx[1].ask(&locks, b'a'), tx[2].ask(&locks, b'b')), (GOT, GOT));
    assert!(tx[2].ask(&locks, b'a').is_pending());
    assert_eq!(tx[0].ask(&locks, b'b'), GOT);
    assert!(tx[2].is_woken());
    assert_eq!(tx[2].poll(), wounded(&tx[0]));
}

#[test]
fn a_retry_is_as_old_as_its_first_attempt() {
    let (locks, mut tx) = setup(2);
    assert_eq!(tx[1].ask(&locks, b'a'), GOT);
    tx.push(Client::new(3, Some(tx[0].owner.age())));
    let mut again = Client::new(4, Some(tx[2].owner.age()));
    assert_eq!(again.ask(&locks, b'a'), GOT);
    assert_eq!(tx[1].owner.check(), Err(Refusal::Wounded { by: again.id() }));
}

#[test]
fn a_deadline_ends_a_wait_unless_the_lock_was_handed_over() {
    let (locks, mut tx) = setup(3);
    assert_eq!(tx[0].ask(&locks, b'a'), GOT);
    assert!(tx[1].ask(&locks, b'a').is_pending() && tx[2].ask(&locks, b'a').is_pending());
    assert_eq!(locks.wake_overdue(Duration::ZERO), Some(Duration::from_secs(1)));
    assert!(!tx[1].is_woken() && !tx[2].is_woken());
    assert_eq!(locks.wake_overdue(Duration::from_secs(1)), None);
    assert!(tx[1].is_woken() && tx[2].is_woken());
    tx[1].clock.store(1, SeqCst);
    assert_eq!(tx[1].poll(), Poll::Ready(Err(Refusal::Timeout)));
    assert_eq!(tx[1].owner.check(), Ok(()));
    tx[2].clock.store(1, SeqCst);
    locks.end(&tx[0].owner);
    assert_eq!(tx[2].poll(), GOT);
    assert_eq!(tx[1].ask(&locks, b'b'), GOT);
    tx.iter().for_each(|one| locks.end(&one.owner));
    assert!(locks.is_unused());
}

#[test]
fn a_lock_handed_to_a_dropped_waiter_goes_on_to_the_next() {
    let (locks, mut tx) = setup(3);
    assert_eq!(tx[0].ask(&locks, b'a'), GOT);
    assert!(tx[1].ask(&locks, b'a').is_pending() && tx[2].ask(&locks, b'a').is_pending());
    locks.end(&tx[0].owner);
    assert!(tx[1].is_woken() && !tx[2].is_woken());
    tx[1].pending = None;
    assert!(tx[2].is_woken());
    assert_eq!(tx[2].poll(), GOT);
    assert!(tx[1].owner.lock().held.is_empty());
}

#[test]
fn a_table_is_waited_for_and_then_holds_against_all_its_rows() {
    let (locks, mut tx) = setup(4);
    assert_eq!((tx[0].ask(&locks, b'a'), tx[3].ask(&locks, b'b')), (GOT, GOT));
    assert!(tx[1].ask(&locks, b'T').is_pending());
    // A free row of a table that an older one waits for is not taken before it, lest that one wait for ever.
    let part = |row: u8| locks.shard_of(&(T, Key::from_slice(&[row])));
    let near = (0..=255).find(|row| part(*row) == part(b'a') && *row != b'a').expect("a row of the same shard");
    assert!(tx[2].ask(&locks, near).is_pending());
    locks.end(&tx[0].owner);
    assert_eq!(tx[1].poll(), GOT);
    assert_eq!(tx[3].owner.check(), Err(Refusal::Wounded { by: tx[1].id() }));
    assert_eq!((tx[1].ask(&locks, b'z'), locks.while_free(T, b"q", || ())), (GOT, None));
    assert!(!tx[2].is_woken());
    locks.end(&tx[1].owner);
    assert_eq!(tx[2].poll(), GOT);
    locks.end(&tx[2].owner);
    assert!(locks.is_unused());
}

// --- Every interleaving of small scripts, as in docs/models/locks.py.

#[derive(Clone, Copy, Debug)]
enum Act {
    /// The next call, or a poll of one that was woken.
    Step(usize),
    /// The wait is dropped, and asked for anew at the next step.
    Again(usize),
    /// The wait is dropped, and the transaction ends.
    Leave(usize),
    /// The wait's deadline has passed, and the transaction ends unless it has the lock.
    Late(usize),
}

struct World<'a> {
    locks: Arc<Locks>,
    clients: Vec<Client>,
    scripts: &'a [&'a [u8]],
}

impl<'a> World<'a> {
    fn new(shards: usize, scripts: &'a [&'a [u8]], acts: &[Act]) -> World<'a> {
        let clients = (1..).zip(scripts).map(|(number, _)| Client::new(number, None)).collect();
        let mut world = World { locks: Arc::new(Locks::new(shards)), clients, scripts };
        acts.iter().for_each(|act| world.act(*act));
        world
    }

    fn acts(&self, drops: bool) -> Vec<Act> {
        let mut acts = Vec::new();
        for (place, client) in self.clients.iter().enumerate().filter(|(_, client)| client.end.is_none()) {
            if client.pending.is_none() || client.is_woken() {
                acts.push(Act::Step(place));
            }
            if drops && client.pending.is_some() {
                acts.extend([Act::Again(place), Act::Leave(place), Act::Late(place)]);
            }
        }
        acts
    }

    fn act(&mut self, act: Act) {
        let (Act::Step(place) | Act::Again(place) | Act::Leave(place) | Act::Late(place)) = act;
        let (client, script) = (&mut self.clients[place], self.scripts[place]);
        let answer = match act {
            Act::Step(_) if client.pending.is_some() => client.poll(),
            Act::Step(_) if client.got < script.len() => client.ask(&self.locks, script[client.got]),
            Act::Step(_) if client.owner.lock().state == State::Committing => {
                client.end = Some(End::Committed);
                Poll::Pending
            }
            Act::Step(_) => {
                if client.owner.begin_commit().is_err() {
                    client.end = Some(End::Wounded);
                }
                Poll::Pending
            }
            Act::Again(_) => {
                client.pending = None;
                Poll::Pending
            }
            Act::Leave(_) => {
                client.pending = None;
                client.end = Some(End::Left);
                Poll::Pending
            }
            Act::Late(_) => {
                client.clock.store(1, SeqCst);
                let answer = client.poll();
                client.clock.store(0, SeqCst);
                answer
            }
        };
        match answer {
            GOT => client.got += 1,
            Poll::Ready(Err(Refusal::Wounded { .. })) => client.end = Some(End::Wounded),
            Poll::Ready(Err(Refusal::Timeout)) => client.end = Some(End::Left),
            Poll::Ready(Err(Refusal::Ended)) => panic!("it has not ended"),
            Poll::Pending => {}
        }
        if client.end.is_some() {
            self.locks.end(&client.owner);
        }
    }

    /// All that the future depends on.
    fn signature(&self) -> String {
        let mut text = String::new();
        for shard in &self.locks.shards {
            text += &shard.lock().expect("nobody panics").describe();
        }
        for client in &self.clients {
            let inner = client.owner.lock();
            let wait = match &inner.wait {
                Wait::No => "-",
                Wait::Queued(..) => "queued",
                Wait::Granted => "granted",
            };
            let (waits, woken) = (client.pending.is_some(), client.is_woken());
            text += &format!("{:?} {wait} {waits} {woken} {} {:?};", inner.state, client.got, client.end);
        }
        text
    }

    fn check(&self) {
        assert_ne!(self.clients[0].end, Some(End::Wounded), "the oldest was wounded");
        for (client, script) in self.clients.iter().zip(self.scripts) {
            let state = client.owner.lock().state;
            if matches!(state, State::Active | State::Committing) {
                assert!(
                    script[..client.got].iter().all(|want| self.owns(client, *want)),
                    "{state:?} without its locks"
                );
            }
            // One that sleeps has a reason, and only good ones.
            if let (Some(place), false) = (client.owner.queued_at(), client.is_woken()) {
                let shard = self.locks.shards[place.shard].lock().expect("nobody panics");
                let in_the_way = shard.in_the_way(&client.owner, &place.what);
                assert!(!in_the_way.is_empty(), "a lost wake-up");
                let good =
                    |other: &Arc<Owner>| other.age() < client.owner.age() || other.lock().state == State::Committing;
                assert!(in_the_way.iter().all(good), "waits for a younger one");
            } else {
                assert!(client.pending.is_none() || client.is_woken(), "sleeps in no queue");
            }
        }
    }

    fn owns(&self, client: &Client, want: u8) -> bool {
        let row = (T, Key::from_slice(&[want]));
        let rows = self.locks.shard_of(&row);
        let parts = (0..self.locks.shards.len()).map(|shard| Place { shard, what: What::Part(T) });
        let mut places = match want {
            b'T' => parts.collect(),
            _ => vec![Place { shard: rows, what: What::Row(row) }],
        }
        .into_iter();
        places.all(|place| {
            let shard = self.locks.shards[place.shard].lock().expect("nobody panics");
            shard.owns(&client.owner, &place) && shard.others(&client.owner, &place.what).is_empty()
        })
    }
}

/// All states that scripts reach, and the ends of the transactions in those that are final.
fn explore(shards: usize, scripts: &[&[u8]], drops: bool) -> (usize, BTreeSet<Vec<End>>) {
    let (mut seen, mut open, mut ends) = (BTreeSet::new(), vec![Vec::new()], BTreeSet::new());
    while let Some(acts) = open.pop() {
        let world = World::new(shards, scripts, &acts);
        let next = world.acts(drops);
        if next.is_empty() {
            let all = world.clients.iter().map(|client| client.end);
            ends.insert(all.collect::<Option<Vec<_>>>().unwrap_or_else(|| panic!("a deadlock: {scripts:?} {acts:?}")));
            assert!(world.locks.is_unused(), "left behind: {scripts:?} {acts:?}");
            continue;
        }
        assert!(
            next.iter().any(|act| matches!(act, Act::Step(_))),
            "a deadlock unless somebody gives up: {scripts:?} {acts:?}"
        );
        for act in next {
            let acts = [&acts[..], &[act]].concat();
            let world = World::new(shards, scripts, &acts);
            if seen.insert(world.signature()) {
                world.check();
                open.push(acts);
            }
        }
    }
    (seen.len(), ends)
}

fn triples<'a>(scripts: &'a [&'a [u8]]) -> impl Iterator<Item = [&'a [u8]; 3]> {
    scripts.iter().flat_map(move |a| scripts.iter().flat_map(move |b| scripts.iter().map(move |c| [*a, *b, *c])))
}

#[test]
fn three_transactions_with_two_of_three_rows_never_deadlock_and_the_oldest_commits() {
    let scripts: [&[u8]; 6] = [b"ab", b"ba", b"ac", b"ca", b"bc", b"cb"];
    let mut states = 0;
    for scripts in triples(&scripts) {
        let (one, ends) = explore(1, &scripts, false);
        assert!(ends.iter().all(|ends| ends[0] == End::Committed), "{scripts:?}");
        assert_eq!(explore(SHARDS, &scripts, false), (one, ends), "shards decide something: {scripts:?}");
        states += one;
    }
    println!("{states} states, with any number of shards");
}

#[test]
fn waiters_that_are_dropped_or_late_harm_nobody() {
    let scripts: [&[u8]; 2] = [b"ab", b"ba"];
    let (mut states, mut all) = (0, BTreeMap::new());
    for scripts in triples(&scripts) {
        let (one, ends) = explore(2, &scripts, true);
        states += one;
        ends.into_iter().for_each(|ends| *all.entry(ends).or_insert(0) += 1);
    }
    println!("{states} states, ends: {all:?}");
    assert!(all.keys().all(|ends| ends[0] != End::Wounded));
}

#[test]
fn tables_and_rows_together_never_deadlock() {
    let scripts: [&[u8]; 4] = [b"T", b"aT", b"ab", b"ba"];
    let mut states = 0;
    for scripts in triples(&scripts) {
        for shards in [1, 2] {
            let (one, ends) = explore(shards, &scripts, false);
            assert!(ends.iter().all(|ends| ends[0] == End::Committed), "{scripts:?}");
            states += one;
        }
        if scripts.iter().any(|script| *script == b"T") {
            states += explore(1, &scripts, true).0;
        }
    }
    println!("{states} states");
}
