//! The single producer: appends into a page of its own, without a lock.

use crate::{
    codec::{Mark, frame_bytes},
    env::Env,
};

use super::{
    AppendError, Lsn, SyncError, Wal,
    log::{Access, State},
    producer::{Lack, Producer},
    truncate::Floor,
};

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
    /// Room is held in the page that is with the log.
    in_place: bool,
}

impl<E: Env> Writer<E> {
    pub(super) fn new(wal: Wal<E>) -> Writer<E> {
        Writer { wal, producer: None, in_place: false }
    }

    /// Appends one record, acknowledged as [`Durability::Buffered`](super::Durability::Buffered): it is in memory. Waits only while all pages are full.
    ///
    /// # Errors
    /// [`AppendError`]; each is definite: not appended.
    pub async fn append(&mut self, record: impl AsRef<[u8]>) -> Result<Lsn, AppendError> {
        let record = record.as_ref();
        loop {
            if let Some(lsn) = self.append_now(record) {
                return Ok(lsn);
            }
            match self.room(record.len() as u64) {
                Ok(()) => return Ok(self.append_ready(record)),
                Err(lack) => self.wal.log.make_way(lack).await?,
            }
        }
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

    /// Sees that [`Writer::append_ready`] takes a record of up to `bytes`. The room is held until it does, or until what the writer
    /// has is published: no mark and no sync of others takes it. So room in several logs can be held at once.
    /// (Others may wait for that if the page was [shared](Writer::share): nothing should be waited for in between.)
    ///
    /// # Errors
    /// What is missing; nothing was appended. [`Wal::make_way`] waits for it, and then room is to be asked for again.
    pub(crate) fn room(&mut self, bytes: u64) -> Result<(), Lack> {
        self.wal.check_size(bytes).map_err(Lack::Never)?;
        let frame = frame_bytes(bytes);
        match &self.producer {
            Some(producer) if producer.fits(frame, 1) => Ok(()),
            _ => self.with_log(|state, producer| state.make_room(producer, frame, 1)),
        }
    }

    /// Appends a record for which there is [room](Writer::room). It can't fail.
    ///
    /// # Panics
    /// If no room is held for a record of this length: the caller has a defect.
    pub(crate) fn append_ready(&mut self, record: &[u8]) -> Lsn {
        const HELD: &str = "room is held for the record";
        if self.producer.is_some() {
            return self.append_now(record).expect(HELD);
        }
        let mut state = self.wal.log.lock();
        let frame = frame_bytes(record.len() as u64);
        let held = std::mem::take(&mut self.in_place);
        let producer = state.producer.as_mut().filter(|producer| held && producer.fits(frame, 1)).expect(HELD);
        let lsn = producer.accepted.lsn;
        producer.encode_record(record);
        self.wal.log.left(state);
        Lsn(lsn)
    }

    /// Appends a floor mark, and shares it: [`Wal::finish_floor`] then releases the records below `lsn`, or below the first one that
    /// is not durable yet.
    ///
    /// # Errors
    /// As [`Writer::room`].
    pub(crate) fn floor(&mut self, lsn: Lsn) -> Result<Floor, Lack> {
        let floor = self.with_log(|state, producer| {
            // What is kept must be there after a crash: a floor above the end would look like a lost beginning.
            let lsn = lsn.0.min(state.durable.lsn);
            let mark = Mark::Floor { lsn };
            state.make_room(producer, frame_bytes(mark.body_bytes()), 0)?;
            producer.encode_mark(mark);
            Ok(Floor { lsn, sequence: producer.accepted.sequence })
        })?;
        self.share();
        Ok(floor)
    }

    /// Lets the next record begin a segment, of full length; nothing if it does so anyway.
    ///
    /// # Errors
    /// As [`Writer::room`].
    pub(crate) fn rotate(&mut self) -> Result<(), Lack> {
        let length = self.wal.log.options.segment_length();
        self.with_log(|state, producer| if producer.begins_segment() { Ok(()) } else { state.rotate(producer, length) })
    }

    /// Hands over what was appended, so that others can read and sync it.
    pub fn publish(&mut self) {
        if let Some(producer) = self.producer.take() {
            let mut state = self.wal.log.lock();
            state.producer = Some(producer);
            self.wal.log.left(state);
        } else if std::mem::take(&mut self.in_place) {
            self.wal.log.left(self.wal.log.lock());
        }
    }

    /// As [`Writer::publish`], and whoever waits for what was handed over need not wait for the next time, even if more is appended
    /// meanwhile: until it was taken to be written the page stays with the log, and records go into it there. For a writer whose
    /// every record is waited for; it costs a mutex, and shares a page.
    pub(crate) fn share(&mut self) {
        let mut state = self.wal.log.lock();
        if let Some(producer) = self.producer.take() {
            state.producer = Some(producer);
        }
        self.in_place = false;
        state.promised = state.producer.as_ref().is_some_and(Producer::holds_back);
        self.wal.log.left(state);
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

    /// Lets `work` use the producer under the log's mutex. Where that lacks something the producer stays with the log, so that the
    /// page can be written, too.
    fn with_log<T>(
        &mut self,
        work: impl FnOnce(&mut State<E>, &mut Producer<E::Dir>) -> Result<T, Lack>,
    ) -> Result<T, Lack> {
        let mut state = self.wal.log.lock();
        if let Some(failure) = &state.failure {
            return Err(Lack::Never(AppendError::Poisoned(failure.clone())));
        }
        if state.closed {
            return Err(Lack::Never(AppendError::Closed));
        }
        let taken = self.producer.take().or_else(|| state.producer.take());
        // A log that is not closed or poisoned keeps the producer for its one writer.
        let Some(mut producer) = taken else { return Err(Lack::Never(AppendError::Closed)) };
        let worked = work(&mut state, &mut producer);
        let takes = worked.is_ok() && !state.promised;
        self.in_place = worked.is_ok() && state.promised;
        state.held = self.in_place;
        *if takes { &mut self.producer } else { &mut state.producer } = Some(producer);
        match worked {
            Ok(done) => {
                self.wal.log.rouse(state);
                Ok(done)
            }
            Err(lack) => {
                state.stats.waits += 1;
                Err(lack)
            }
        }
    }
}

impl<E: Env> Drop for Writer<E> {
    fn drop(&mut self) {
        self.publish();
        self.wal.log.lock().access = Access::Shared;
    }
}
