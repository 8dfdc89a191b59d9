//! The bank on a real disk, in a process that is killed with SIGKILL at a drawn moment.
#![expect(clippy::disallowed_methods, reason = "a real process lives in real time")]

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use engine::{
    env::{OsEnv, block_on},
    txn::{Store, pages::Pages},
};
use sim::prng::Prng;

use super::bank::{self, Bank, CLIENTS, Failure, Transfer};

type OsBank = Bank<OsEnv, Pages<OsEnv>>;

/// A process lives this long at most once it transfers, in milliseconds.
const LIFE_MS: u64 = 120;
/// What the child says when the bank is open.
const READY: &str = "ready";

async fn open(dir: &Path) -> Result<OsBank, Failure> {
    let (store, _) = Store::open(OsEnv, &dir.join("store"), bank::options()).await?;
    Bank::open(store).await
}

/// Kills a process of the bank so many times; after each the money is counted. How many transfers were acknowledged in all.
///
/// # Errors
/// What was found to be wrong, and after which kill.
pub(crate) fn run(dir: &Path, kills: u64, seed: u64, progress: impl Fn(u64)) -> Result<u64, Failure> {
    let mut draws = Prng::new(seed);
    let (mut acknowledged, mut transfers) = (BTreeMap::new(), 0);
    for kill in 0..kills {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("work").arg(dir).arg("--seed").arg(draws.next_u64().to_string());
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let ready = lines.next().transpose()?;
        if ready.as_deref() != Some(READY) {
            let status = child.wait()?;
            return Err(format!("after kill {kill}: the bank didn't open ({status})").into());
        }
        let reader = thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<_>>());
        thread::sleep(Duration::from_millis(draws.below(LIFE_MS)));
        child.kill()?;
        child.wait()?;
        // A line that was written before the kill is read; one that was cut is not a line.
        for line in reader.join().expect("it only reads") {
            let (client, number) = line.split_once(' ').ok_or("the child says what a bank doesn't")?;
            acknowledged.insert(client.parse()?, number.parse()?);
            transfers += 1;
        }
        let audit = block_on(async {
            let bank = open(dir).await?;
            Ok::<_, Failure>(bank.audit().await?)
        })?;
        audit.judge(&acknowledged).map_err(|wrong| format!("after kill {kill}: {wrong}"))?;
        acknowledged = audit.receipts;
        progress(kill + 1);
    }
    Ok(transfers)
}

/// The process that is killed: it says on standard output what is done.
///
/// # Errors
/// What the store says.
pub(crate) fn work(dir: &Path, seed: u64) -> Result<(), Failure> {
    let bank = block_on(open(dir))?;
    let audit = block_on(bank.audit())?;
    println!("{READY}");
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (bank, done) = (&bank, audit.receipts.get(&client).copied().unwrap_or(0));
                let mut draws = Prng::new(seed).fork_nth("client", client);
                scope.spawn(move || {
                    for number in done + 1.. {
                        block_on(bank.transfer(Transfer::drawn(client, number, |below| draws.below(below))))?;
                        // One write: a line is there whole or not at all.
                        std::io::stdout().write_all(format!("{client} {number}\n").as_bytes())?;
                        if draws.chance(1, 100) {
                            block_on(bank.store().checkpoint())?;
                        }
                    }
                    Ok::<_, Failure>(())
                })
            })
            .collect();
        clients.into_iter().try_for_each(|client| client.join().expect("a client doesn't panic"))
    })
}
