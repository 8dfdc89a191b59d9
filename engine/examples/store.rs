//! A walk through the store, without futures: tables, a transfer that others get in the way of, a scan, savepoints, what is durable when,
//! a backup, a look at the files. `cargo run -p engine --example store [-- DIR]`; without a directory it uses one of its own.

use std::{error::Error, path::PathBuf, thread};

use engine::txn::{
    Table,
    blocking::{Store, Tx},
    error::{CommitError, TxError},
    options::{Isolation, Options, Sync, TxOptions},
    storage::Direction,
};

const ACCOUNTS: u32 = 5;
const THREADS: u32 = 4;
const TRANSFERS: u32 = 50;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = std::env::args().nth(1).map_or_else(|| folder.path().join("store"), PathBuf::from);
    let options = Options { sync: Sync::Instant, logs: 2, ..Options::default() };
    let (store, report) = Store::open(&path, options.clone())?;
    println!("opened: life {}, {} commits replayed", report.epoch.get(), report.replayed);
    println!("\nwhat it promises:\n{}", store.explain());

    // A table is looked up by its name once; the handle stays good.
    let accounts = match store.table("accounts") {
        Err(TxError::UnknownTable(_)) => store.create_table("accounts")?,
        found => found?,
    };
    for number in 0..ACCOUNTS {
        store.put(&accounts, &key(number), &100_u64.to_le_bytes())?; // a transaction of its own
    }

    // Money moves, from many threads at once. Whoever loses a conflict begins again, and is older then.
    thread::scope(|scope| {
        let (store, accounts) = (&store, &accounts);
        let begin = |thread| scope.spawn(move || move_money(store, accounts, thread));
        let movers: Vec<_> = (0..THREADS).map(begin).collect();
        movers.into_iter().try_for_each(|mover| mover.join().expect("it doesn't panic"))
    })?;

    // One transaction sees one moment, whatever goes on.
    let mut tx = store.begin(TxOptions { read_only: true, ..TxOptions::default() })?;
    let (mut sum, mut scan) = (0, tx.prefix(&accounts, b"account ", Direction::Forward)?);
    while let Some((key, value)) = scan.next()? {
        let balance = number(value);
        println!("{}: {balance}", key.escape_ascii());
        sum += balance;
    }
    assert_eq!(sum, 100 * u64::from(ACCOUNTS), "none is lost, none is made");
    drop(scan);
    drop(tx);

    // Back to a savepoint: what came before it stays.
    let mut tx = store.begin(TxOptions::default())?;
    tx.put(&accounts, b"note", b"kept")?;
    tx.savepoint("before the mistake")?;
    tx.put(&accounts, b"note", b"a mistake")?;
    tx.rollback_to("before the mistake")?;
    let commit = tx.commit()?;
    println!("commit {}, durable: {}", commit.csn, commit.durable);

    let stats = store.stats();
    let conflicts = stats.write_conflicts + stats.wounded + stats.read_conflicts;
    let syncs: u64 = stats.logs.iter().map(|log| log.syncs).sum();
    println!("{} commits, {conflicts} conflicts, {} waits for rows, {syncs} syncs", stats.commits, stats.lock_waits);

    if path.starts_with(folder.path()) {
        let copy = folder.path().join("copy");
        let backup = store.backup(&copy)?; // while others go on
        assert!(Store::check(&copy, options.clone())?.is_clean());
        println!("the backup has {} rows of {} tables", backup.rows, backup.tables);
    }
    store.close()?;
    let report = Store::check(&path, options)?;
    println!(
        "looked at {} pages and {} records of logs: nothing is wrong: {}",
        report.pages,
        report.records,
        report.is_clean()
    );
    Ok(())
}

fn key(account: u32) -> Vec<u8> {
    format!("account {account}").into_bytes()
}

fn number(value: &[u8]) -> u64 {
    value.try_into().map_or(0, u64::from_le_bytes)
}

fn move_money(store: &Store, accounts: &Table, thread: u32) -> Result<(), CommitError> {
    for nth in 0..TRANSFERS {
        let (from, to) = ((thread + nth) % ACCOUNTS, (thread * 3 + nth * 7 + 1) % ACCOUNTS);
        let mut retry_of = None;
        loop {
            let options = TxOptions { isolation: Isolation::Serializable, retry_of, ..TxOptions::default() };
            let mut tx = store.begin(options)?;
            retry_of = Some(tx.retry());
            let moved = transfer(&mut tx, accounts, (from, to), u64::from(nth % 9 + 1)).map_err(CommitError::from);
            match moved.and_then(|()| tx.commit()) {
                Ok(_) => break, // durable, all of it
                Err(error) if error.is_retryable() => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn transfer(tx: &mut Tx, accounts: &Table, (from, to): (u32, u32), amount: u64) -> Result<(), TxError> {
    let mut balance = |account| Ok::<_, TxError>(tx.get(accounts, &key(account))?.map_or(0, |value| number(&value)));
    let (has, other) = (balance(from)?, balance(to)?);
    if from == to || has < amount {
        return Ok(());
    }
    tx.put(accounts, &key(from), &(has - amount).to_le_bytes())?;
    tx.put(accounts, &key(to), &(other + amount).to_le_bytes())
}
