//! SQLite with its write-ahead log. Durable is `synchronous=FULL`, buffered `OFF`.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
};

use rusqlite::{Connection, OptionalExtension};

use super::{Call, Load, Peer, Reader, Safety, Settings};
use crate::{Result, keys::Key};

const PUT: &str = "INSERT OR REPLACE INTO rows (key, value) VALUES (?1, ?2)";
const GET: &str = "SELECT value FROM rows WHERE key = ?1";

pub struct Sqlite {
    path: PathBuf,
    settings: Settings,
    /// SQLite has one writer at a time; waiting here is cheaper than trying again.
    writer: Mutex<Connection>,
}

impl Sqlite {
    pub fn open(path: &Path, settings: Settings) -> Result<Sqlite> {
        let path = path.join("rows.sqlite");
        let writer = connect(&path, settings)?;
        writer.execute_batch("CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")?;
        Ok(Sqlite { path, settings, writer: Mutex::new(writer) })
    }

    fn writer(&self) -> Result<std::sync::MutexGuard<'_, Connection>> {
        self.writer.lock().map_err(|_| "a writer panicked".into())
    }
}

fn connect(path: &Path, settings: Settings) -> Result<Connection> {
    let connection = Connection::open(path)?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(format!("journal_mode is {mode}").into());
    }
    let synchronous = if settings.safety == Safety::Durable { "FULL" } else { "OFF" };
    connection.pragma_update(None, "synchronous", synchronous)?;
    // Negative: in KiB.
    connection.pragma_update(None, "cache_size", -i64::try_from(settings.cache_bytes / 1024)?)?;
    connection.pragma_update(None, "mmap_size", i64::try_from(settings.cache_bytes)?)?;
    if settings.stays_in_log {
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    }
    Ok(connection)
}

impl Peer for Sqlite {
    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        self.writer()?.prepare_cached(PUT)?.execute((key.as_slice(), value))?;
        Ok(())
    }

    fn load(&self, rows: &mut Load<'_>, _sorted: bool) -> Result<()> {
        let mut writer = self.writer()?;
        let transaction = writer.transaction()?;
        let mut put = transaction.prepare_cached(PUT)?;
        for (key, value) in rows {
            put.execute((key.as_slice(), value))?;
        }
        drop(put);
        transaction.commit()?;
        drop(writer);
        self.sync()
    }

    /// A checkpoint of its log syncs log and tables, if `synchronous` is not `OFF`; a commit syncs the log then.
    fn sync(&self) -> Result<()> {
        let writer = self.writer()?;
        writer.pragma_update(None, "synchronous", "FULL")?;
        if self.settings.stays_in_log {
            writer.pragma_update(None, "user_version", 1)?;
        } else {
            writer.query_row("PRAGMA wal_checkpoint(FULL)", (), |_| Ok(()))?;
        }
        if self.settings.safety == Safety::Buffered {
            writer.pragma_update(None, "synchronous", "OFF")?;
        }
        Ok(())
    }

    fn reader(&self, _call: Call) -> Result<Reader<'_>> {
        let connection = connect(&self.path, self.settings)?;
        Ok(Box::new(move |keys| {
            let moment = connection.unchecked_transaction()?;
            let mut get = connection.prepare_cached(GET)?;
            let mut found = 0;
            for key in keys {
                let first = get.query_row([key.as_slice()], |row| Ok(row.get_ref(0)?.as_blob()?[0])).optional()?;
                found += u64::from(std::hint::black_box(first).is_some());
            }
            moment.finish()?;
            Ok(found)
        }))
    }

    fn scan(&self) -> Result<u64> {
        let connection = connect(&self.path, self.settings)?;
        let mut all = connection.prepare("SELECT key, value FROM rows ORDER BY key")?;
        let mut found = all.query(())?;
        let mut rows = 0;
        while let Some(row) = found.next()? {
            std::hint::black_box(row.get_ref(1)?.as_blob()?[0]);
            rows += 1;
        }
        Ok(rows)
    }

    fn close(self: Box<Self>) -> Result<()> {
        let writer = self.writer.into_inner().map_err(|_| "a writer panicked")?;
        writer.close().map_err(|(_, error)| error.into())
    }
}
