//! The single producer: appends into a page of its own, without a lock.

use crate::env::Env;

use super::{
    CommandLog, LogError, Position, Rewrite, RewriteError,
    commit::Want,
    producer::{Producer, Record},
    rewrite::Snapshot,
};

/// The only appender of a log, for the one thread that executes commands: a command goes into a page that only the writer sees,
/// and a mutex is taken once per page and per round. While it exists, appends through [`CommandLog`] are refused; what the writer
/// appended is seen by others at the end of its round, when a page is full, or when the writer is dropped.
///
/// ```
/// use engine::{aof::{CommandLog, options::Options}, env::{OsEnv, block_on}, keyspace::Keyspace};
///
/// let folder = tempfile::tempdir()?;
/// block_on(async {
///     let mut keys = Keyspace::new();
///     let (log, _) = CommandLog::open(OsEnv, folder.path(), Options::default(), &mut keys).await?;
///     let mut writer = log.writer()?;
///     for number in 0..1000 {
///         let command = ["SET".to_owned(), format!("key {number}"), "value".to_owned()];
///         writer.append(0, &command).await?;
///     }
///     writer.round().await?;
///     drop(writer);
///     log.close().await?;
///     Ok::<(), Box<dyn std::error::Error>>(())
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Writer<E: Env> {
    log: CommandLog<E>,
    /// Here while the page may hold something that was not handed over; else with the log.
    producer: Option<Producer>,
}

impl<E: Env> Writer<E> {
    pub(super) fn new(log: CommandLog<E>) -> Writer<E> {
        Writer { log, producer: None }
    }

    /// As [`CommandLog::append`].
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn append(&mut self, database: u32, command: &[impl AsRef<[u8]>]) -> Result<Position, LogError> {
        self.append_unit(database, &[command]).await
    }

    /// As [`CommandLog::append_unit`].
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn append_unit<A: AsRef<[u8]>>(
        &mut self,
        database: u32,
        commands: &[&[A]],
    ) -> Result<Position, LogError> {
        let record = self.log.record(database, commands)?;
        match self.append_now(&record) {
            Some(position) => Ok(position),
            None => self.append_slowly(&record).await,
        }
    }

    /// Appends a command if there is room for it at once, as there nearly always is; needs no executor.
    ///
    /// # Errors
    /// [`LogError::Empty`].
    pub fn try_append(&mut self, database: u32, command: &[impl AsRef<[u8]>]) -> Result<Option<Position>, LogError> {
        let commands = [command];
        let record = self.log.record(database, &commands)?;
        Ok(self.append_now(&record))
    }

    fn append_now<A: AsRef<[u8]>>(&mut self, record: &Record<'_, A>) -> Option<Position> {
        let producer = self.producer.as_mut()?;
        producer.append(record).then_some(Position(producer.accepted))
    }

    async fn append_slowly<A: AsRef<[u8]>>(&mut self, record: &Record<'_, A>) -> Result<Position, LogError> {
        loop {
            let drained = {
                let mut guard = self.log.log.lock();
                let state = &mut *guard;
                state.accepts()?;
                let Some(mut producer) = self.producer.take().or_else(|| state.producer.take()) else {
                    return Err(LogError::Closed);
                };
                let bytes = producer.encoded_bytes(record);
                let made = producer.make_room(&mut state.ring, bytes, state.split);
                state.published = state.published.max(producer.accepted - producer.held());
                if made.is_ok() && producer.append(record) {
                    let position = Position(producer.accepted);
                    self.producer = Some(producer);
                    self.log.log.rouse(guard);
                    return Ok(position);
                }
                // What it holds is not this writer's alone: whoever waits for it must find it.
                state.producer = Some(producer);
                state.stats.waits += 1;
                state.ring.drained()
            };
            self.log.log.wait(Want::Drained(drained)).await?;
        }
    }

    /// As [`CommandLog::round`].
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn round(&mut self) -> Result<(), LogError> {
        self.give();
        self.log.round().await
    }

    /// As [`CommandLog::rewrite`].
    ///
    /// # Errors
    /// [`RewriteError`].
    pub async fn rewrite<S: Snapshot>(&mut self, snapshot: impl FnOnce() -> S) -> Result<Rewrite<E>, RewriteError> {
        self.give();
        self.log.begin_rewrite(snapshot).await
    }

    /// Gives the producer to the log, which may need it; the next append takes it back.
    fn give(&mut self) {
        if let Some(producer) = self.producer.take() {
            let mut state = self.log.log.lock();
            state.stats.commands = producer.commands;
            state.producer = Some(producer);
            self.log.log.rouse(state);
        }
    }
}

impl<E: Env> Drop for Writer<E> {
    fn drop(&mut self) {
        self.give();
        self.log.log.lock().has_writer = false;
    }
}
