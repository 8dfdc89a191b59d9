//! fjall: a log-structured tree behind a journal. Durable is a sync of the journal's data after each put; buffered its default,
//! which hands each put to the operating system.

use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{Call, Load, Peer, Reader, Safety, Settings};
use crate::{Result, keys::Key};

/// How many rows a batch of a load has.
const LOADED_AT_ONCE: usize = 10_000;
/// Rows in memory that are not written into tables yet, where they are to stay in the journal: more than a recovery has.
const LOGGED_BYTES: u64 = 4 << 30;

pub struct Fjall {
    database: Database,
    rows: Keyspace,
    safety: Safety,
}

impl Fjall {
    pub fn open(path: &Path, settings: Settings) -> Result<Fjall> {
        let mut database = Database::builder(path.join("fjall")).cache_size(settings.cache_bytes);
        let mut rows = KeyspaceCreateOptions::default();
        if settings.stays_in_log {
            database = database.max_journaling_size(8 * LOGGED_BYTES);
            rows = rows.max_memtable_size(LOGGED_BYTES);
        }
        let database = database.open()?;
        let rows = database.keyspace("rows", || rows)?;
        Ok(Fjall { database, rows, safety: settings.safety })
    }
}

impl Peer for Fjall {
    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        self.rows.insert(key, value)?;
        if self.safety == Safety::Durable {
            self.database.persist(PersistMode::SyncData)?;
        }
        Ok(())
    }

    /// Sorted rows are written as tables directly.
    fn load(&self, rows: &mut Load<'_>, sorted: bool) -> Result<()> {
        if sorted {
            let mut ingestion = self.rows.start_ingestion()?;
            for (key, value) in rows {
                ingestion.write(key, value)?;
            }
            ingestion.finish()?;
        } else {
            let mut rows = rows.peekable();
            while rows.peek().is_some() {
                let mut batch = self.database.batch();
                for (key, value) in rows.by_ref().take(LOADED_AT_ONCE) {
                    batch.insert(&self.rows, key, value);
                }
                batch.commit()?;
            }
        }
        self.sync()
    }

    fn sync(&self) -> Result<()> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }

    fn reader(&self, _call: Call) -> Result<Reader<'_>> {
        Ok(Box::new(|keys| {
            let mut found = 0;
            for key in keys {
                found += u64::from(self.rows.get(key)?.is_some());
            }
            Ok(found)
        }))
    }

    fn scan(&self) -> Result<u64> {
        let mut rows = 0;
        for row in self.rows.iter() {
            std::hint::black_box(row.value()?[0]);
            rows += 1;
        }
        Ok(rows)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.sync()
    }
}
