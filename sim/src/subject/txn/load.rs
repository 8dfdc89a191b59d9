//! A client loads a table: it is there as a whole or not at all, and it stays once the client was told.

use engine::txn::{
    LoadError,
    error::{CheckpointError, TableError},
    options::TableOptions,
};

use super::{
    most_value_bytes,
    seat::{NAMES, Walk, said},
};
use crate::{
    report::Violation,
    subject::Stepped,
    truth::txn::broken,
    workload::{Level, statement::key_bytes},
};

impl<const B: usize> Walk<'_, B> {
    pub(super) async fn load(&self, table: u64, rows: u64, bytes: u64, back: bool) -> Result<Stepped, Violation> {
        let name = NAMES[table as usize];
        // (Tables that come with one root have one commit's number, and the truth knows transactions by theirs.)
        if self.truth(|truth| truth.loading()).is_some() {
            return Ok(said("not now"));
        }
        let mut loader = match self.store.loader(name, TableOptions::default()) {
            Ok(loader) => loader,
            Err(LoadError::Table(error)) => return self.not_changed(&error, name),
            Err(error) => return self.not_loaded(&error),
        };
        let number = self.truth(|truth| truth.begins(Level::Committed));
        self.truth(|truth| truth.loads(number, name));
        let keys: Vec<u64> = if back { (0..rows).rev().chain(Some(0)).collect() } else { (0..rows).collect() };
        for key in keys.into_iter().map(key_bytes) {
            let value = self.truth(|truth| truth.issue(number, bytes.min(most_value_bytes(&self.around.options))));
            if let Err(error) = loader.add(&key, &value).await {
                self.truth(|truth| truth.gives_up_load());
                return self.not_loaded(&error);
            }
            self.truth(|truth| truth.loads_row(key, value));
        }
        let expected = self.truth(|truth| truth.finishes_load());
        let answer = loader.finish().await;
        self.meet_loaded()?;
        match answer {
            Ok(report) => {
                let csn = report.csn.to_bits();
                self.truth(|truth| truth.load_told(number, csn, expected, report.rows))?;
                Ok(Stepped {
                    answer: format!("{} rows, commit {}", report.rows, report.csn),
                    after: Some("after a load"),
                })
            }
            Err(error) => {
                // Else it is there after all, perhaps.
                let definite = match &error {
                    LoadError::Checkpoint(error) => matches!(error, CheckpointError::Storage(_)),
                    _ => true,
                };
                if definite {
                    if self.truth(|truth| truth.is_accepted(number)) {
                        broken("I21", format!("table {name} was not loaded: {error}"), "it is there")?;
                    }
                    self.truth(|truth| truth.gives_up_load());
                }
                self.not_loaded(&error)
            }
        }
    }

    /// A table that was loaded is there: everybody sees it, perhaps before its client is told.
    pub(super) fn meet_loaded(&self) -> Result<(), Violation> {
        let Some(name) = self.truth(|truth| truth.loading()) else { return Ok(()) };
        let tables = self.store.tables();
        let known = |id: u32| self.truth(|truth| truth.table(&name)) == Some(id);
        match tables.iter().find(|info| *info.name == *name && !known(info.id.0)) {
            Some(info) => self.truth(|truth| truth.loaded(info.id.0, info.created.to_bits())),
            None => Ok(()),
        }
    }

    /// Whether a load may fail like this.
    fn not_loaded(&self, error: &LoadError) -> Result<Stepped, Violation> {
        match error {
            LoadError::Row(error) => self.judge(error, Some(0))?,
            LoadError::Kind | LoadError::Broken | LoadError::Table(TableError::NotRows(_)) => {
                broken("I21", "a load fails only for a reason", error.to_string())?;
            }
            // (A machine that fails, or a log that did.)
            _ => {}
        }
        Ok(said(error.to_string()))
    }
}
