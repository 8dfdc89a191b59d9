//! Ours.

use std::{path::Path, sync::OnceLock, time::Duration};

use engine::{
    env::{OsEnv, block_on},
    txn::{
        Store, Table,
        options::{Options, Sync, TableOptions, TxOptions},
        storage::Direction,
    },
};

use super::{Call, Load, Peer, Reader, Safety, Settings};
use crate::{
    Result,
    keys::{Key, Rows},
};

/// The table.
const NAME: &str = "rows";

/// What a store is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    Logged,
    /// With the sync type `no_sync`: what is not in a checkpoint is lost with the process.
    NotLogged,
}

pub struct Seawall {
    pub store: Store<OsEnv>,
    found: Table,
    loaded: OnceLock<Table>,
}

impl Seawall {
    pub fn table(&self) -> &Table {
        self.loaded.get().unwrap_or(&self.found)
    }

    pub fn open(path: &Path, settings: Settings, purpose: Use) -> Result<Seawall> {
        let sync = match (purpose, settings.safety) {
            (Use::NotLogged, _) => Sync::NoSync,
            (_, Safety::Durable) => Sync::Instant,
            (_, Safety::Buffered) => Sync::Periodic,
        };
        let quarter = settings.cache_bytes / 4;
        let proportions = Options::with_cache(settings.cache_bytes);
        let options = Options {
            sync,
            // Every 500 ms, however many commits there are: nobody else syncs by their number.
            sync_period: Duration::from_millis(500),
            sync_threshold: 1_000_000_000,
            // (No more is allowed: a checkpoint comes by itself at last.)
            dirty_bytes: if settings.stays_in_log { quarter } else { proportions.dirty_bytes },
            // A snapshot that is read right behind a load keeps what a checkpoint has written meanwhile.
            pinned_bytes: 2 * quarter,
            max_value_bytes: 1 << 20,
            checkpoint_after_recovery: !settings.stays_in_log,
            ..proportions
        };
        block_on(async {
            let (store, _) = <Store<OsEnv>>::open(OsEnv, &path.join("store"), options).await?;
            let found = match store.table(NAME) {
                Ok(table) => table,
                Err(_) => store.create_table(NAME).await?,
            };
            Ok(Seawall { store, found, loaded: OnceLock::new() })
        })
    }
}

impl Seawall {
    /// Puts some rows in one transaction.
    pub fn put_all(&self, numbers: impl Iterator<Item = u64>, rows: &Rows) -> Result<()> {
        block_on(async {
            let mut tx = self.store.begin(TxOptions::default())?;
            for number in numbers {
                tx.put(self.table(), &rows.key(number), rows.value(number)).await?;
            }
            tx.commit().await?;
            Ok(())
        })
    }
}

impl Peer for Seawall {
    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        block_on(self.store.put(self.table(), key, value))?;
        Ok(())
    }

    /// Past the logs: the table is built, and takes the empty one's name.
    fn load(&self, rows: &mut Load<'_>, _sorted: bool) -> Result<()> {
        block_on(async {
            self.store.drop_table(NAME).await?;
            let mut loader = self.store.loader(NAME, TableOptions::default())?;
            for (key, value) in rows {
                loader.add(&key, value).await?;
            }
            loader.finish().await?;
            let table = self.store.table(NAME)?;
            self.loaded.set(table).map_err(|_| "it was loaded before".into())
        })
    }

    fn sync(&self) -> Result<()> {
        block_on(self.store.sync())?;
        Ok(())
    }

    fn reader(&self, call: Call) -> Result<Reader<'_>> {
        if call == Call::Many {
            return Ok(Box::new(|keys| {
                let values = block_on(self.store.get_many(self.table(), keys))?;
                Ok(values.iter().flatten().count() as u64)
            }));
        }
        Ok(Box::new(|keys| {
            block_on(async {
                let mut found = 0;
                for key in keys {
                    found += u64::from(self.store.get(self.table(), key).await?.is_some());
                }
                Ok(found)
            })
        }))
    }

    fn scan(&self) -> Result<u64> {
        block_on(async {
            let mut tx = self.store.begin(TxOptions { read_only: true, ..TxOptions::default() })?;
            let mut scan = tx.scan(self.table(), .., Direction::Forward)?;
            let mut rows = 0;
            while let Some((_, value)) = scan.next().await? {
                std::hint::black_box(value[0]);
                rows += 1;
            }
            Ok(rows)
        })
    }

    fn close(self: Box<Self>) -> Result<()> {
        block_on(self.store.close())?;
        Ok(())
    }
}
