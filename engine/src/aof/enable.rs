//! Switching a log on at run time, for data that is already in memory.
//!
//! Until the first base is complete, commands are collected in a file that no manifest names, and nothing of them is durable; a crash
//! leaves the log as it was before, or none. As in Redis, which calls this state `WAIT_REWRITE`.

use std::{path::Path, sync::Arc, time::Duration};

use tracing::info;

use crate::{
    env::{Dir, Env, File, interruptible},
    failure::Failure,
    plant::planted,
};

use super::{
    commit::Want,
    error::{OpenError, RewriteError},
    files::{self, Names, TEMPORARY_BASE},
    job::Target,
    load::{self, LoadError},
    log::{Log, Opened, State},
    manifest::{Entry, Manifest},
    open::{self, Opening},
    options::Options,
    rewrite::Rewriting,
};

/// Attempts to write the first base, and the time between them.
const ATTEMPTS: u32 = 10;
pub(super) const ATTEMPTS_APART: Duration = Duration::from_secs(1);

/// A log that collects; its first rewrite is under way.
pub(super) async fn enable<E: Env>(env: E, path: &Path, options: Options) -> Result<Log<E>, OpenError> {
    options.validate()?;
    let (_, lock) = open::lock(&env, path).await?;
    let names = Names { name: options.append_filename.clone() };
    let opening = Opening { env: &env, options: &options, names: &names, plants: options.plants() };
    let dir = opening.create_dir(&path.join(&options.append_dirname)).await?;
    let listed = open::list(&dir, &options.append_dirname).await?;
    let manifest = match load::read_manifest(&dir, &names.manifest()).await {
        Ok(manifest) => manifest,
        Err(LoadError::Nothing { .. }) => {
            opening.may_begin(&listed, opening.unfinished(&dir).await.as_ref())?;
            Manifest::default()
        }
        Err(error) => return Err(error.into()),
    };
    // (Nothing is removed: the manifest found may be in the cache alone, and the one on the disk name what this one has replaced.)
    let increment = opening.next_increment(&manifest);
    let file = opening.create(&dir, &names.temporary_increment()).await?;
    let target = Target::end_of(&increment, file, 0);
    let opened = Opened { lock, target, manifest, collecting: Some(increment), earlier_bytes: 0, reference_bytes: 0 };
    let log = Log::new(env, dir, names, options, opened);
    log.lock().rewriting = Some(Rewriting::first());
    Ok(log)
}

impl<E: Env> State<E> {
    /// A rewrite has failed; the log is given up if it was the last attempt to switch it on.
    pub(super) fn gives_up(&mut self) {
        if self.collecting.is_some() && self.failures >= ATTEMPTS {
            let error = std::io::Error::other("ten attempts to write its first base failed");
            self.fail(Failure::new("switch on", "the log", &error));
        }
    }
}

impl<E: Env> Log<E> {
    /// The first base of the log is complete: it and the increment that was collected become the log.
    pub(super) async fn switch_on(
        &self,
        increment: Entry,
        bytes: u64,
        salt: Option<u32>,
    ) -> Result<Manifest, RewriteError> {
        let accepted = self.lock().accepted();
        self.wait(Want::Written(accepted)).await.map_err(|stuck| RewriteError::Log(stuck.into()))?;
        let (file, upto, whole, mut manifest) = {
            let state = self.lock();
            (Arc::clone(&state.target.file), state.written, state.target.whole, state.manifest.clone())
        };
        if !planted!(self.plants, AofEnableUnsynced) {
            let synced = interruptible(|| file.sync_all()).await;
            synced.map_err(|error| self.poisoned(Failure::new("sync", &increment.name, &error)))?;
        }
        let base = Entry { synced: Some(bytes), salt, ..self.names.next_base(&manifest) };
        let names = [base.name.clone(), increment.name.clone()];
        manifest.replaced_by(base, Some(increment));
        // Durable before the files have their names: where no log was before, it tells them from one that has lost its manifest.
        let first = self.names.first_manifest();
        let [base, increment] = &names;
        let renamed = async {
            files::write_manifest(&self.dir, &first, &manifest, &self.plants).await?;
            if !planted!(self.plants, AofEnableNamesFirst) {
                files::sync_names(&self.dir).await?;
            }
            self.rename(TEMPORARY_BASE, base).await?;
            self.rename(&self.names.temporary_increment(), increment).await
        };
        renamed.await.map_err(RewriteError::Failed)?;
        let put = files::put_manifest(&self.dir, &self.names, &first, &self.plants).await;
        put.map_err(|error| self.not_replaced(error))?;
        {
            let mut state = self.lock();
            state.collecting = None;
            state.has_base(&manifest, bytes);
            (state.durable, state.durable_whole) = (upto, whole);
            state.synced_at = self.env.monotonic();
        }
        info!("switched on");
        Ok(manifest)
    }

    fn poisoned(&self, failure: Failure) -> RewriteError {
        self.not_replaced(files::NotReplaced { failure, unknown: true })
    }

    /// The log was closed before it was on: what was collected counts for nothing.
    pub(super) async fn forget_collected(&self) {
        if self.lock().collecting.is_some() {
            let _ = self.dir.remove(&self.names.temporary_increment()).await;
        }
    }
}
