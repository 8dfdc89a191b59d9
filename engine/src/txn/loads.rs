//! Tables that were built and wait for a root: a checkpoint takes them with it.
//!
//! They get a commit of their own, of nothing: so the root that has them is a later one than any that hasn't, and the logs say so. The
//! root shows them first; only when it is published do others see them, since what was written to them before would be found in a log
//! without its table. Until then their names and numbers are set apart.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;

use crate::{env::Env, sync::Mutex};

use super::{
    catalog::{Catalog, TableInfo, TableKind},
    checkpoint::CheckpointReport,
    commit::Pipeline,
    error::CheckpointError,
    ids::{Csn, TableId},
    logs::Lacking,
    shared::{Shared, lock},
    storage::Storage,
    view::View,
};

/// How a load ended: the commit that its table came with.
pub(super) type Outcome = Arc<OnceLock<Result<Csn, CheckpointError>>>;

/// A table that waits for a root.
pub(super) struct Load<B> {
    pub(super) name: Arc<str>,
    pub(super) id: TableId,
    /// `None` once a draft has it.
    pub(super) build: Option<B>,
    /// The commit that it comes with.
    pub(super) csn: Option<Csn>,
    pub(super) outcome: Outcome,
}

/// Those that wait, and those that came.
pub(super) struct Loads<B> {
    waiting: Mutex<Vec<Load<B>>>,
    /// In this life.
    came: ArcSwap<BTreeMap<TableId, Csn>>,
}

impl<B> Default for Loads<B> {
    fn default() -> Loads<B> {
        Loads { waiting: Mutex::default(), came: ArcSwap::default() }
    }
}

impl<B> Loads<B> {
    /// Lets a table go with the next checkpoint.
    pub(super) fn add(&self, load: Load<B>) {
        lock(&self.waiting).push(load);
    }

    /// Those that wait.
    pub(super) fn take(&self) -> Vec<Load<B>> {
        std::mem::take(&mut lock(&self.waiting))
    }

    /// The commit that a table came with, rows and all, if who has this view doesn't see it: none of its rows has a version that says so.
    pub(super) fn came_behind<S>(&self, view: &View<S>, table: TableId) -> Option<Csn> {
        if view.catalog.table(table).is_some() { None } else { self.came.load().get(&table).copied() }
    }
}

impl<B> Load<B> {
    fn info(&self, logs: usize) -> Option<TableInfo> {
        let (id, created) = (self.id, self.csn?);
        let log = (id.0 as usize % logs) as u8;
        Some(TableInfo { id, name: Arc::clone(&self.name), kind: TableKind::Rows, log, meta: 0, created })
    }
}

impl<E: Env, S: Storage<E>> Shared<E, S> {
    /// Gives loads the commit that they come with.
    pub(super) fn date_loads(
        &self,
        pipeline: &mut Pipeline<E>,
        loads: &mut [Load<S::Build>],
    ) -> Result<Result<(), Lacking>, CheckpointError> {
        if loads.iter().all(|load| load.csn.is_some()) {
            return Ok(Ok(()));
        }
        let accepted = self.accept_nothing(pipeline).map_err(|error| CheckpointError::Log(error.to_string()))?;
        Ok(accepted.map(|csn| loads.iter_mut().for_each(|load| load.csn = Some(csn))))
    }

    /// A catalog with these tables.
    pub(super) fn with_loads(&self, catalog: &Arc<Catalog>, loads: &[Load<S::Build>]) -> Arc<Catalog> {
        if loads.is_empty() {
            return Arc::clone(catalog);
        }
        let mut with = Catalog::clone(catalog);
        for info in loads.iter().filter_map(|load| load.info(self.logs.count())) {
            with.create_reserved(info).expect("its name and its number were set apart");
        }
        Arc::new(with)
    }

    /// Lets everybody read a root, and what came with it.
    pub(super) fn expose(&self, state: S::State, loads: &[Load<S::Build>]) {
        let pipeline = (!loads.is_empty()).then(|| self.commit());
        let catalog = pipeline.map(|mut pipeline| {
            let came = loads.iter().filter_map(|load| Some((load.id, load.csn?)));
            let came: BTreeMap<TableId, Csn> =
                self.loads.came.load().iter().map(|(id, csn)| (*id, *csn)).chain(came).collect();
            self.loads.came.store(Arc::new(came));
            pipeline.catalog = self.with_loads(&pipeline.catalog, loads);
            (Arc::clone(&pipeline.catalog), pipeline)
        });
        self.horizon.swap(|view| View {
            catalog: Arc::clone(catalog.as_ref().map_or(&view.catalog, |(catalog, _)| catalog)),
            generations: view.generations.iter().take(1).cloned().collect(),
            volatile: view.volatile.clone(),
            state,
        });
    }

    /// Tells how it ended.
    pub(super) fn settle_loads(&self, loads: Vec<Load<S::Build>>, result: &Result<CheckpointReport, CheckpointError>) {
        for load in loads {
            let known = !matches!(result, Err(CheckpointError::Unknown(_)));
            let published = self.horizon.view().catalog.table(load.id).is_some();
            // (If the root is there after all, a second table of that name could not be opened.)
            if known && !published {
                self.give_up_load(&load.name);
            }
            let csn = load.csn.unwrap_or_default();
            // (Nobody else sets it.)
            let _ = load.outcome.set(result.clone().map(|_| csn));
        }
    }

    /// A name is free again.
    pub(super) fn give_up_load(&self, name: &str) {
        let mut pipeline = self.commit();
        let mut catalog = Catalog::clone(&pipeline.catalog);
        catalog.give_up(name);
        self.set_catalog(&mut pipeline, catalog);
    }
}
