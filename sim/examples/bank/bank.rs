//! The application: accounts in two tables, which two logs keep, and transfers between them. It knows nothing of disks or crashes.

use std::{collections::BTreeMap, error::Error, str};

use engine::{
    env::Env,
    txn::{
        Store, Table, Tx,
        error::{CommitError, TxError},
        options::{Options, Sync, TxOptions},
        storage::{Direction, Storage},
    },
};

/// How many accounts there are.
pub(crate) const ACCOUNTS: u64 = 20;
/// What is in each at first.
pub(crate) const OPENING: u64 = 100;
/// How many clients transfer at the same time.
pub(crate) const CLIENTS: u64 = 4;

/// An error that ends the example, with what to do about it in its text.
pub(crate) type Failure = Box<dyn Error + Send + std::marker::Sync>;

/// A bank on an open store.
#[derive(Clone)]
pub(crate) struct Bank<E: Env, S: Storage<E>> {
    store: Store<E, S>,
    accounts: [Table; 2],
    receipts: Table,
}

/// An order to move money.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    /// Whose it is: each client has one in flight.
    pub(crate) client: u64,
    /// From 1, without gaps for each client: what its receipt says once this is done.
    pub(crate) number: u64,
    /// An account, below [`ACCOUNTS`].
    pub(crate) from: u64,
    /// Another one.
    pub(crate) to: u64,
    /// How much.
    pub(crate) amount: u64,
}

impl Transfer {
    /// Of any amount between any two accounts; `below` draws a number below another.
    pub(crate) fn drawn(client: u64, number: u64, mut below: impl FnMut(u64) -> u64) -> Transfer {
        let from = below(ACCOUNTS);
        let to = (from + 1 + below(ACCOUNTS - 1)) % ACCOUNTS;
        Transfer { client, number, from, to, amount: 1 + below(OPENING / 2) }
    }
}

/// What a bank owns at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Audit {
    /// All the money.
    pub(crate) total: u64,
    /// How many transfers of each client are done.
    pub(crate) receipts: BTreeMap<u64, u64>,
}

/// What the store promises: a commit that was acknowledged is durable, and the tables stand in two logs.
pub(crate) fn options() -> Options {
    Options { sync: Sync::Instant, logs: 2, ..Options::default() }
}

/// The key of an account or a client: its number, so that they are in order.
fn key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// The number that a row holds; 0 where there is no row.
fn number(row: Option<&[u8]>) -> u64 {
    row.map_or(0, |text| {
        str::from_utf8(text).ok().and_then(|text| text.parse().ok()).expect("only this bank writes rows")
    })
}

impl<E: Env, S: Storage<E>> Bank<E, S> {
    /// The bank in this store. The first time it is founded: a crash in between leaves tables, but never a part of the money.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn open(store: Store<E, S>) -> Result<Bank<E, S>, Failure> {
        let mut tables = Vec::new();
        for name in ["even", "odd", "receipts"] {
            tables.push(match store.table(name) {
                Ok(table) => table,
                Err(_) => store.create_table(name).await?,
            });
        }
        let [even, odd, receipts] = tables.try_into().expect("three names");
        let bank = Bank { store, accounts: [even, odd], receipts };
        if bank.audit().await?.total == 0 {
            let mut tx = bank.store.begin(TxOptions::default())?;
            for account in 0..ACCOUNTS {
                tx.put(bank.account(account), &key(account), OPENING.to_string().as_bytes()).await?;
            }
            tx.commit().await?;
        }
        Ok(bank)
    }

    fn account(&self, account: u64) -> &Table {
        &self.accounts[(account % 2) as usize]
    }

    /// Moves the money where there is enough of it, and writes the client's receipt in any case. When this is `Ok` both are durable.
    ///
    /// # Errors
    /// What the store says; never that somebody else was faster: then it begins again.
    pub(crate) async fn transfer(&self, transfer: Transfer) -> Result<(), CommitError> {
        let mut retry = None;
        loop {
            let mut tx = self.store.begin(TxOptions { retry_of: retry, ..TxOptions::default() })?;
            // Whoever tries again is older than who comes new, so that it gets its turn.
            retry = Some(tx.retry());
            let ended = match self.book(&mut tx, transfer).await {
                Ok(()) => tx.commit().await.map(|_| ()),
                Err(error) => Err(error.into()),
            };
            match ended {
                Err(error) if error.is_retryable() => {}
                ended => return ended,
            }
        }
    }

    async fn book(&self, tx: &mut Tx<E, S>, transfer: Transfer) -> Result<(), TxError> {
        let Transfer { client, number: done, from, to, amount } = transfer;
        let payer = number(tx.get(self.account(from), &key(from)).await?.as_deref());
        let payee = number(tx.get(self.account(to), &key(to)).await?.as_deref());
        if payer >= amount {
            tx.put(self.account(from), &key(from), (payer - amount).to_string().as_bytes()).await?;
            tx.put(self.account(to), &key(to), (payee + amount).to_string().as_bytes()).await?;
        }
        tx.put(&self.receipts, &key(client), done.to_string().as_bytes()).await
    }

    /// All the money and all receipts, at one moment.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn audit(&self) -> Result<Audit, TxError> {
        let mut audit = Audit::default();
        let mut tx = self.store.begin(TxOptions { read_only: true, ..TxOptions::default() })?;
        for table in &self.accounts {
            let mut scan = tx.scan(table, .., Direction::Forward)?;
            while let Some((_, balance)) = scan.next().await? {
                audit.total += number(Some(balance));
            }
        }
        let mut scan = tx.scan(&self.receipts, .., Direction::Forward)?;
        while let Some((client, done)) = scan.next().await? {
            let client = client.try_into().map(u64::from_be_bytes).expect("only this bank writes rows");
            audit.receipts.insert(client, number(Some(done)));
        }
        Ok(audit)
    }

    /// The store below.
    pub(crate) fn store(&self) -> &Store<E, S> {
        &self.store
    }
}

impl Audit {
    /// What is wrong after a crash, where `acknowledged` is what each client was told last and `before` what was there before: money
    /// came or went, or a transfer that was acknowledged is gone, or one is there that nobody ordered.
    ///
    /// # Errors
    /// It, in words.
    pub(crate) fn judge(&self, acknowledged: &BTreeMap<u64, u64>) -> Result<(), String> {
        if self.total != ACCOUNTS * OPENING {
            return Err(format!("there is {} in all accounts, not {}", self.total, ACCOUNTS * OPENING));
        }
        for client in 0..CLIENTS {
            let told = acknowledged.get(&client).copied().unwrap_or(0);
            let done = self.receipts.get(&client).copied().unwrap_or(0);
            if !(told..=told + 1).contains(&done) {
                return Err(format!("client {client} was told of {told} transfers, and {done} are done"));
            }
        }
        Ok(())
    }
}
