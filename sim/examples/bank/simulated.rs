//! The bank on a simulated machine whose power fails at a drawn call: one store, one life after the other.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};

use engine::{
    plant::Plants,
    txn::{Store, options::Options, pages::Pages},
};
use madsim::{runtime::Runtime, task};
use sim::{
    disk::{Disk, DiskOptions, Keep},
    env::{Machine, MachineOptions, SimEnv},
    prng::Prng,
};

use super::bank::{self, Audit, Bank, CLIENTS, Failure, Transfer};

/// Small pages and logs, so that the little that a bank writes has checkpoints, trees and segments.
type Small = Pages<SimEnv, 480>;

const STORE: &str = "/bank";

/// What happened in all lives.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Power cuts; also how often the bank was audited.
    pub(crate) crashes: u64,
    /// Those of them that came before the store was open.
    pub in_recovery: u64,
    /// Transfers that were acknowledged.
    pub(crate) transfers: u64,
    /// Checkpoints that ended.
    pub(crate) checkpoints: u64,
}

fn options(plants: Plants) -> Options {
    Options {
        cache_bytes: 256 << 10,
        dirty_bytes: 64 << 10,
        max_value_bytes: 16 << 10,
        chunk_bytes: 24 << 9,
        log_segment_bytes: 16 << 10,
        log_buffer_bytes: 16 << 10,
        plants,
        ..bank::options()
    }
}

/// What the clients and the judge share.
#[derive(Default)]
struct Told {
    /// The last transfer of each client that is known to be done.
    acknowledged: BTreeMap<u64, u64>,
    transfers: u64,
    checkpoints: u64,
    opened: bool,
    verdict: Option<Result<(), String>>,
}

/// Runs a bank through so many power cuts; after each the money is counted.
///
/// # Errors
/// What is wrong, and after which power cut.
pub(crate) fn run(seed: u64, crashes: u64, plants: Plants, progress: impl Fn(Counts)) -> Result<Counts, String> {
    let prng = Prng::new(seed);
    let mut disk = Disk::new(DiskOptions::default());
    disk.make_dir(Path::new(STORE));
    let (mut counts, mut acknowledged) = (Counts::default(), BTreeMap::new());
    while counts.crashes < crashes {
        let life = prng.fork_nth("life", counts.crashes);
        let told = live(&mut disk, life, acknowledged, plants.clone());
        counts.crashes += 1;
        counts.in_recovery += u64::from(!told.opened);
        counts.transfers += told.transfers;
        counts.checkpoints += told.checkpoints;
        if let Some(Err(wrong)) = told.verdict {
            return Err(format!("after {} power cuts: {wrong}", counts.crashes - 1));
        }
        acknowledged = told.acknowledged;
        progress(counts);
    }
    Ok(counts)
}

/// One life: recovery, the audit, transfers, and a power cut somewhere in that.
fn live(disk: &mut Disk, prng: Prng, acknowledged: BTreeMap<u64, u64>, plants: Plants) -> Told {
    let machine = Machine::on(disk.fork(), MachineOptions::default(), &prng);
    let mut draws = prng.fork("crash");
    // A short way comes to its end in recovery.
    let way = *draws.pick(&[30, 300, 1000]);
    machine.arm_crash(1 + draws.below(way));
    let told = Arc::new(Mutex::new(Told { acknowledged, ..Told::default() }));
    let (shared, clients, stopped) = (Arc::clone(&told), prng.clone(), machine.clone());
    Runtime::with_seed_and_config(prng.fork("order").next_u64(), madsim::Config::default()).block_on(async move {
        let (crashed, machine) = (stopped.crashed(), stopped);
        let process = task::spawn(async move {
            if let Err(error) = work(machine.env(), clients, &shared, plants).await {
                shared.lock().expect("nobody panicked").verdict = Some(Err(error.to_string()));
                machine.halt();
            }
        });
        crashed.await;
        process.abort();
    });
    machine.power_cut(&Keep::Draw, &mut prng.fork("cut"));
    *disk = machine.fork();
    std::mem::take(&mut *told.lock().expect("nobody panicked"))
}

/// The process: it opens the store, counts the money, and transfers until the machine stops.
async fn work(env: SimEnv, prng: Prng, told: &Arc<Mutex<Told>>, plants: Plants) -> Result<(), Failure> {
    let (store, _) = Store::<SimEnv, Small>::open(env, Path::new(STORE), options(plants)).await?;
    let bank = Bank::open(store).await?;
    let audit: Audit = bank.audit().await?;
    {
        let mut told = told.lock().expect("nobody panicked");
        told.opened = true;
        told.verdict = Some(audit.judge(&told.acknowledged));
        // What was in flight when the power went may be done: that was not known until now.
        told.acknowledged = audit.receipts.clone();
    }
    let mut tasks = Vec::new();
    for client in 0..CLIENTS {
        let done = audit.receipts.get(&client).copied().unwrap_or(0);
        let draws = prng.fork_nth("client", client);
        tasks.push(task::spawn(transfer(bank.clone(), client, done, draws, Arc::clone(told))));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

/// A client. Now and then it asks for a checkpoint, so that the power fails in one.
async fn transfer(
    bank: Bank<SimEnv, Small>,
    client: u64,
    done: u64,
    mut draws: Prng,
    told: Arc<Mutex<Told>>,
) -> Result<(), Failure> {
    for number in done + 1.. {
        bank.transfer(Transfer::drawn(client, number, |below| draws.below(below))).await?;
        {
            let mut told = told.lock().expect("nobody panicked");
            told.acknowledged.insert(client, number);
            told.transfers += 1;
        }
        if draws.chance(1, 30) {
            bank.store().checkpoint().await?;
            told.lock().expect("nobody panicked").checkpoints += 1;
        }
    }
    Ok(())
}
