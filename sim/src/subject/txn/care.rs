//! Steps of a client that are of no transaction: checkpoints, backups, and uses that must fail.

use std::{
    future::{Future as _, poll_fn},
    path::Path,
    pin::pin,
    task::Poll,
};

use engine::txn::{
    BackupError,
    error::{CommitError, TxError},
    options::{Isolation, TxOptions},
};

use super::{
    Txn,
    seat::{NAMES, Walk},
};
use crate::{
    env::{SimEnv, run_still},
    report::Violation,
    subject::{Stepped, Subject as _},
    truth::txn::{broken, lock},
    workload::{Misuse, statement::INDEX},
};

/// Longer than any key may be.
const LONG: usize = 4096;

impl<const B: usize> Walk<'_, B> {
    pub(super) async fn checkpoint(&self, wait: bool) -> Result<Stepped, Violation> {
        let mut checkpoint = pin!(self.store.checkpoint());
        let made = match wait {
            true => Poll::Ready(checkpoint.await),
            // Asked for once, it is made, whoever waits.
            false => poll_fn(|context| Poll::Ready(checkpoint.as_mut().poll(context))).await,
        };
        Ok(match made {
            Poll::Ready(Ok(report)) => {
                lock(&self.around.truth).durable(report.csn.to_bits());
                Stepped { answer: format!("up to {}", report.csn), after: Some("after a checkpoint") }
            }
            Poll::Ready(Err(error)) => Stepped { answer: error.to_string(), after: None },
            Poll::Pending => Stepped { answer: "asked for".into(), after: None },
        })
    }

    /// What is acknowledged as a backup opens after a power cut, as a store of its own.
    pub(super) async fn backup(&self) -> Result<Stepped, Violation> {
        let least = self.store.committed().to_bits();
        let path = lock(&self.around.truth).backs_up(least);
        match self.store.backup(Path::new(&path)).await {
            Ok(report) => {
                let env = SimEnv::still(self.around.machine.pessimal());
                env.machine().behave();
                let (options, plants) = (self.around.options.still(), self.around.reading.clone());
                let opened = run_still(Txn::<SimEnv, B>::open(env, Path::new(&path), &options, plants));
                let opened = opened.map(|opened| opened.map(|(_, recovered)| recovered.stored.unwrap_or_default()));
                let opened =
                    opened.unwrap_or_else(|| Err(crate::subject::Refusal { io: false, message: "it waits".into() }));
                let opened = opened.map_err(|refusal| refusal.message);
                let told = Some(report.csn.to_bits());
                lock(&self.around.truth).backed_up(&path, told, opened.as_ref().map(Some))?;
                Ok(Stepped { answer: format!("{path} up to {}", report.csn), after: None })
            }
            Err(BackupError::TargetNotEmpty) => {
                broken("I11", format!("{path} is empty"), "it is not").map(|()| Stepped::default())
            }
            Err(error) => Ok(Stepped { answer: error.to_string(), after: None }),
        }
    }

    /// It fails with the error that says why.
    pub(super) async fn misuse(&self, misuse: Misuse) -> Result<Stepped, Violation> {
        let error = match self.misused(misuse).await {
            Ok(Some(error)) => error,
            Ok(None) => return Ok(Stepped { answer: "not now".into(), after: None }),
            Err(()) => {
                return broken("I21", format!("{misuse:?} is refused"), "it was not").map(|()| Stepped::default());
            }
        };
        let right = match misuse {
            Misuse::Value => matches!(error, TxError::ValueTooLarge { .. }),
            Misuse::Key => matches!(error, TxError::KeyTooLarge { .. }),
            Misuse::Table => matches!(error, TxError::UnknownTable(_)),
            Misuse::Savepoint => matches!(error, TxError::UnknownSavepoint(_)),
            Misuse::Ended => matches!(error, TxError::Ended),
            Misuse::ReadOnly => matches!(error, TxError::ReadOnly),
            Misuse::Index => matches!(error, TxError::IndexIsDerived(_)),
        };
        if !right && !matches!(error, TxError::Poisoned(_)) {
            broken("I21", format!("{misuse:?} is refused as that"), error.to_string())?;
        }
        Ok(Stepped { answer: error.to_string(), after: None })
    }

    /// The error of a wrong use; none if there is no occasion, and `Err` if it works.
    async fn misused(&self, misuse: Misuse) -> Result<Option<TxError>, ()> {
        let name = if misuse == Misuse::Index { NAMES[INDEX as usize] } else { NAMES[1] };
        let Ok(table) = self.store.table(name) else { return Ok(None) };
        let (isolation, read_only) = (Isolation::Snapshot, misuse == Misuse::ReadOnly);
        let options = TxOptions { isolation, read_only, retry_of: None };
        let mut tx = match self.store.begin(options) {
            Ok(tx) => tx,
            Err(error) => return Ok(Some(error)),
        };
        let refused = match misuse {
            Misuse::Value => {
                let value = vec![0; super::most_value_bytes(&self.around.options) as usize + 1];
                match self.store.put(&table, b"k00", &value).await {
                    Err(CommitError::Not(error)) => Err(error),
                    Err(_) => return Ok(None),
                    Ok(_) => Ok(()),
                }
            }
            Misuse::Key => tx.put(&table, &[b'k'; LONG], b"").await,
            Misuse::Table => self.store.table("nobody's").map(drop),
            Misuse::Savepoint => tx.rollback_to("never set"),
            Misuse::Ended => {
                tx.abort();
                tx.put(&table, b"k00", b"").await
            }
            Misuse::ReadOnly | Misuse::Index => tx.put(&table, b"k00", b"").await,
        };
        refused.err().map(Some).ok_or(())
    }
}
