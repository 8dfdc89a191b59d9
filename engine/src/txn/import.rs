//! Another log's records into a store: interrupted at any point, repeated, and the source removed last (L06).
//!
//! How far it has come is a row of the store, written with each record that comes in: whatever survives a crash, the row says which
//! records are in it, and so none comes in twice and none is left out. When all are there, durably, the row says that instead; only then is
//! the first file of the source removed.

use std::{io, path::Path};

use thiserror::Error;

use crate::{
    env::{Dir, EntryKind, Env, interruptible},
    failure::Failure,
    segment::Name,
    wal::{self, Lsn, Wal},
};

use super::{
    Store, Table,
    error::{CheckpointError, CommitError, SyncError, TxError},
    options::{Isolation, TxOptions},
    storage::Storage,
};

/// What the row of progress says once all records are there, durably.
const COMPLETE: u64 = u64::MAX;

/// So many bytes of keys and values go into one transaction, or one record if that is more.
const GROUP_BYTES: usize = 64 << 10;

/// Takes what a record means: a table, a key, and its value or none if it is removed.
pub type Tell<'a> = dyn FnMut(&Table, &[u8], Option<&[u8]>) + 'a;

/// What an import did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportReport {
    /// Records that came in now, not in earlier calls.
    pub records: u64,
}

/// Why an import has not come to its end. What came in stays; the source is whole, unless all of it came in.
#[derive(Debug, Error)]
pub enum ImportError {
    /// The source can't be opened. Remedy: that of the error; where it isn't found, the right path.
    #[error("the source: {0}")]
    Source(#[from] wal::OpenError),
    /// A record of the source can't be read. Remedy: that of the error.
    #[error("the source: {0}")]
    Read(#[from] wal::ReadError),
    /// The source begins behind the record that is to come next: it was truncated, or is another log. Remedy: another row of progress, if
    /// it is to be imported all the same.
    #[error("the next record is {next}, and the source begins at {first}")]
    Gap {
        /// The record that comes next.
        next: Lsn,
        /// The source's first one.
        first: Lsn,
    },
    /// What a record means is unknown to the caller's function. Remedy: a function that knows it, then the import again.
    #[error("record {lsn}: {what}")]
    Record {
        /// The record.
        lsn: Lsn,
        /// What the function said.
        what: String,
    },
    /// The row of progress holds something else. Remedy: another key for it.
    #[error("the row of progress holds {0} bytes that no import has written")]
    Progress(usize),
    /// A record was not committed. Remedy: that of the error, then the import again.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// What came in was not made durable. Remedy: that of the error, then the import again.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// The same where nothing is logged.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The source can't be closed or removed. Remedy: as it says, then the import again: it removes what is left.
    #[error("{0}")]
    Io(Failure),
}

impl From<TxError> for ImportError {
    fn from(error: TxError) -> ImportError {
        ImportError::Commit(error.into())
    }
}

type Write = (Table, Vec<u8>, Option<Vec<u8>>);

impl<E: Env, S: Storage<E>> Store<E, S> {
    /// Imports the log in the directory `source`, and removes it: what `translate` tells of each record is committed, in the order of the
    /// log, a record in one transaction and a few of them in the same. Interrupted anywhere, by a crash or an error or because its future was dropped, it goes on when it is called
    /// again; called again after its end it does nothing.
    ///
    /// `progress` is the row that says how far it has come, in a table of rows and of nobody else: 8 bytes, the last record's LSN,
    /// little-endian. Each log that is imported needs a row of its own. The log must not grow any more; its files go, its directory stays.
    ///
    /// ```
    /// # use engine::{env::{OsEnv, block_on}, txn::{Store, options::Options}, wal::{self, Durability, Wal}};
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, source) = (folder.path().join("store"), folder.path().join("log"));
    /// # block_on(async {
    /// let (wal, _) = Wal::open(OsEnv, &source, wal::Options::new()).await?;
    /// wal.append("color=red", Durability::Sync).await?;
    /// wal.close().await?;
    ///
    /// let (store, _) = <Store<OsEnv>>::open(OsEnv, &path, Options::default()).await?;
    /// let (pairs, imports) = (store.create_table("pairs").await?, store.create_table("imports").await?);
    /// let report = store
    ///     .import(&source, wal::Options::new(), (&imports, b"log"), |_, record, tell| {
    ///         let split = record.iter().position(|byte| *byte == b'=').ok_or("no '='")?;
    ///         tell(&pairs, &record[..split], Some(&record[split + 1..]));
    ///         Ok(())
    ///     })
    ///     .await?;
    /// assert_eq!(report.records, 1);
    /// assert_eq!(store.get(&pairs, b"color").await?.as_deref(), Some(&b"red"[..]));
    /// # store.close().await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ImportError`].
    pub async fn import(
        &self,
        source: &Path,
        options: wal::Options,
        progress: (&Table, &[u8]),
        mut translate: impl FnMut(Lsn, &[u8], &mut Tell<'_>) -> Result<(), String> + Send,
    ) -> Result<ImportReport, ImportError> {
        let mut records = 0;
        if self.shared.is_logged() {
            // What an interrupted call has left may be committed, and not yet visible.
            self.sync().await?;
        }
        let last = self.imported(progress).await?;
        if last != COMPLETE {
            let (wal, report) = Wal::open(self.shared.env.clone(), source, options.create(false)).await?;
            let next = Lsn(last + 1);
            if report.first > next {
                return Err(ImportError::Gap { next, first: report.first });
            }
            let mut rest = wal.records(next);
            let (mut group, mut bytes) = (Vec::new(), 0);
            while let Some((lsn, record)) = rest.next().await? {
                let mut tell = |table: &Table, key: &[u8], value: Option<&[u8]>| {
                    bytes += key.len() + value.map_or(0, <[u8]>::len);
                    group.push((table.clone(), key.to_vec(), value.map(<[u8]>::to_vec)));
                };
                translate(lsn, &record, &mut tell).map_err(|what| ImportError::Record { lsn, what })?;
                records += 1;
                if bytes >= GROUP_BYTES {
                    self.import_group(progress, lsn.0, &group).await?;
                    (group, bytes) = (Vec::new(), 0);
                }
            }
            drop(rest);
            // No commit survives without those before it, so this one says that all are there.
            self.import_group(progress, COMPLETE, &group).await?;
            self.make_durable().await?;
            let failed = |error| ImportError::Io(Failure::new("close", source.display(), &io::Error::other(error)));
            wal.close().await.map_err(failed)?;
        }
        self.remove_source(source).await?;
        Ok(ImportReport { records })
    }

    /// The last record that came in, or 0.
    async fn imported(&self, (table, key): (&Table, &[u8])) -> Result<u64, ImportError> {
        match self.get(table, key).await? {
            None => Ok(0),
            Some(value) => {
                let bytes = (*value).try_into().map_err(|_| ImportError::Progress(value.len()))?;
                Ok(u64::from_le_bytes(bytes))
            }
        }
    }

    /// What some records mean, and the word that they are there, in one transaction.
    async fn import_group(
        &self,
        (table, key): (&Table, &[u8]),
        last: u64,
        writes: &[Write],
    ) -> Result<(), ImportError> {
        let mut retry_of = None;
        loop {
            let options = TxOptions { isolation: Isolation::ReadCommitted, retry_of, ..TxOptions::default() };
            let mut tx = self.begin(options)?;
            let written = async {
                for (table, key, value) in writes {
                    match value {
                        Some(value) => tx.put(table, key, value).await?,
                        None => tx.delete(table, key).await?,
                    }
                }
                tx.put(table, key, &last.to_le_bytes()).await?;
                tx.commit().await.map(drop)
            };
            match written.await {
                // Somebody else has such a row.
                Err(error) if error.is_retryable() => retry_of = Some(tx.retry()),
                result => return Ok(result?),
            }
        }
    }

    async fn make_durable(&self) -> Result<(), ImportError> {
        if self.shared.is_logged() {
            self.sync().await?;
        } else {
            self.checkpoint().await?;
        }
        Ok(())
    }

    /// Removes the files of a log.
    async fn remove_source(&self, source: &Path) -> Result<(), ImportError> {
        let failed =
            |operation| move |error: io::Error| ImportError::Io(Failure::new(operation, source.display(), &error));
        let dir = match interruptible(|| self.shared.env.dir(source, false)).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(failed("open"))?,
        };
        let _lock = interruptible(|| dir.lock()).await.map_err(failed("lock"))?;
        for entry in interruptible(|| dir.list()).await.map_err(failed("list"))? {
            let name = entry.name.to_str().filter(|name| entry.kind == EntryKind::File && Name::parse(name).is_some());
            if let Some(name) = name {
                interruptible(|| dir.remove(name)).await.map_err(failed("remove a file of"))?;
            }
        }
        interruptible(|| dir.sync()).await.map_err(failed("sync"))
    }
}
