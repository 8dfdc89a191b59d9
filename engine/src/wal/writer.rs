//! The single producer: appends into a page of its own, without a lock.

use crate::{codec::frame_bytes, env::Env};

use super::{AppendError, Lsn, SyncError, Wal, log::Access, producer::Producer};

/// The only appender of a log, for one thread that appends as fast as memory allows: a record goes into a page that only
/// the writer sees, and a mutex is taken once per page of 64 KiB. While it exists, appends through [`Wal`] are refused;
/// reading, waiting and syncing go on, but see only what the writer has handed over: with [`Writer::publish`],
/// [`Writer::sync`], when a page is full, or when it is dropped.
///
/// ```
/// use engine::{env::{OsEnv, block_on}, wal::{Options, Wal}};
///
/// let folder = tempfile::tempdir()?;
/// block_on(async {
///     let (wal, _) = Wal::open(OsEnv, &folder.path().join("log"), Options::new()).await?;
///     let mut writer = wal.writer()?;
///     for number in 0..1000_u32 {
///         writer.append(number.to_le_bytes()).await?;
///     }
///     assert_eq!(writer.sync().await?, wal.next());
///     drop(writer);
///     wal.close().await?;
///     Ok::<(), Box<dyn std::error::Error>>(())
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Writer<E: Env> {
    wal: Wal<E>,
    /// Here while the page may hold something that was not handed over; else with the log, which may need it for a mark.
    producer: Option<Producer<E::Dir>>,
}

impl<E: Env> Writer<E> {
    pub(super) fn new(wal: Wal<E>) -> Writer<E> {
        Writer { wal, producer: None }
    }

    /// Appends one record, acknowledged as [`Durability::Buffered`](super::Durability::Buffered): it is in memory. Waits only while all pages are full.
    ///
    /// # Errors
    /// [`AppendError`]; each is definite: not appended.
    pub async fn append(&mut self, record: impl AsRef<[u8]>) -> Result<Lsn, AppendError> {
        let record = record.as_ref();
        if let Some(lsn) = self.append_now(record) {
            return Ok(lsn);
        }
        let body_bytes = record.len() as u64;
        self.wal.check_size(body_bytes)?;
        let producer = self.make_room(frame_bytes(body_bytes)).await?;
        let lsn = producer.accepted.lsn;
        producer.encode_record(record);
        Ok(Lsn(lsn))
    }

    /// Appends if the page has room; then nothing else is looked at.
    pub(super) fn append_now(&mut self, record: &[u8]) -> Option<Lsn> {
        let producer = self.producer.as_mut()?;
        let fits =
            producer.fits(frame_bytes(record.len() as u64), 1) && self.wal.check_size(record.len() as u64).is_ok();
        fits.then(|| {
            let lsn = producer.accepted.lsn;
            producer.encode_record(record);
            Lsn(lsn)
        })
    }

    /// Hands over what was appended, so that others can read and sync it.
    pub fn publish(&mut self) {
        if let Some(producer) = self.producer.take() {
            self.wal.log.give(producer);
        }
    }

    /// Makes everything appended so far durable. Returns the next LSN: all before it are.
    ///
    /// # Errors
    /// [`SyncError`].
    pub async fn sync(&mut self) -> Result<Lsn, SyncError> {
        self.publish();
        self.wal.sync().await
    }

    /// The LSN that the next record will get.
    #[must_use]
    pub fn next(&self) -> Lsn {
        self.producer.as_ref().map_or_else(|| self.wal.next(), |producer| Lsn(producer.accepted.lsn))
    }

    async fn make_room(&mut self, bytes: u64) -> Result<&mut Producer<E::Dir>, AppendError> {
        loop {
            let (lack, drained) = {
                let mut state = self.wal.log.lock();
                if let Some(failure) = &state.failure {
                    return Err(AppendError::Poisoned(failure.clone()));
                }
                if state.closed {
                    return Err(AppendError::Closed);
                }
                let taken = self.producer.take().or_else(|| state.producer.take());
                // A log that is not closed or poisoned keeps the producer for its one writer.
                let Some(mut producer) = taken else { return Err(AppendError::Closed) };
                let made = state.make_room(&mut producer, bytes, 1);
                match made {
                    Ok(()) => {
                        self.wal.log.rouse(state);
                        return Ok(self.producer.insert(producer));
                    }
                    Err(lack) => {
                        state.stats.waits += 1;
                        let drained = state.ring.drained();
                        // With the log, so that the page can be written too.
                        state.producer = Some(producer);
                        (lack, drained)
                    }
                }
            };
            self.wal.log.make_way(lack, drained).await?;
        }
    }
}

impl<E: Env> Drop for Writer<E> {
    fn drop(&mut self) {
        self.publish();
        self.wal.log.lock().access = Access::Shared;
    }
}
