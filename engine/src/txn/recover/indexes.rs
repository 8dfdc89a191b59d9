//! Indexes of a store that is opened: derived from what the logs have changed in the rows.
//!
//! Only the end counts, since nobody reads anything older: a row's entries are taken out by the value that the newest root has, and
//! put in by the one that was replayed. An index that the root doesn't have, or that was not kept up, is derived from all rows. It
//! changes no byte, and what is damaged makes one index unusable, not the store.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use tracing::warn;

use crate::{
    env::Env,
    txn::{
        catalog::{Catalog, TableInfo, TableKind},
        error::TxError,
        generation::Generation,
        ids::{Csn, TableId},
        index::{Derive, Entries, Functions, changes, derive_into},
        overlay::{Batch, Live, ValueRef},
        scan::Scan,
        storage::{Cursor, Direction, State, Storage, StorageError},
        undo::{After, WriteSet},
        view::View,
        volatile::Volatile,
    },
};

use super::replay::Replayed;

/// Rows that are looked at together.
const BATCH: usize = 256;

/// An index that can't be read, since it doesn't follow its rows. Remedy: as the reason says, then reopen the store; or drop it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnusableIndex {
    /// Its name.
    pub name: String,
    /// Why.
    pub why: String,
}

/// Brings all indexes up to the end of what was replayed.
///
/// # Errors
/// `Io`: nothing was lost.
pub(in crate::txn) async fn follow<E: Env, S: Storage<E>>(
    state: &S::State,
    replayed: &mut Replayed,
    end: Csn,
    functions: &Functions,
) -> Result<Vec<UnusableIndex>, StorageError> {
    let mut catalog = Catalog::clone(&replayed.catalog);
    let mut unusable = Vec::new();
    let generation = &replayed.generation;
    for index in replayed.catalog.tables() {
        let TableKind::Index { of, derive } = &index.kind else { continue };
        let derived = match functions.get(derive) {
            Some(derive) if index.is_kept() && state.catalog().table(index.id).is_some() => {
                of_changed_rows::<E, S>(state, generation, end, *of, derive).await
            }
            Some(derive) => of_all_rows::<E, S>(state, replayed, end, (index, *of), derive).await,
            None => Err(Why::Unusable(format!("there is no function '{derive}'"))),
        };
        let live = Live { snapshots: &[], visible: end };
        match derived {
            Ok(entries) => {
                for (key, after) in entries {
                    let installed =
                        generation.install(index.id, &key, after.as_ref().map(ValueRef::Shared), end, &live);
                    installed.expect("the logs have nothing of it, and each key is there once");
                }
                catalog.set_kept(index.id, true);
            }
            Err(Why::Retry(error)) => return Err(error),
            Err(Why::Unusable(why)) => {
                warn!(index = %index.name, why, "an index can't be read");
                catalog.set_kept(index.id, false);
                unusable.push(UnusableIndex { name: index.name.to_string(), why });
            }
        }
    }
    replayed.catalog = Arc::new(catalog);
    Ok(unusable)
}

enum Why {
    Retry(StorageError),
    Unusable(String),
}

impl From<StorageError> for Why {
    fn from(error: StorageError) -> Why {
        match error {
            StorageError::Io { .. } => Why::Retry(error),
            other => Why::Unusable(other.to_string()),
        }
    }
}

impl From<TxError> for Why {
    fn from(error: TxError) -> Why {
        match error {
            TxError::Storage(error) => error.into(),
            other => Why::Unusable(other.to_string()),
        }
    }
}

type Changed = BTreeMap<Vec<u8>, After>;

async fn of_changed_rows<E: Env, S: Storage<E>>(
    state: &S::State,
    generation: &Generation,
    end: Csn,
    of: TableId,
    derive: &Derive,
) -> Result<Changed, Why> {
    let mut changed = Changed::new();
    let Some(rows) = generation.table(of) else { return Ok(changed) };
    let all = (Bound::Unbounded, Bound::Unbounded);
    let mut batch = Batch::default();
    rows.batch(all, end, Direction::Forward, BATCH, &mut batch);
    loop {
        for (key, new) in (0..).map_while(|nth| batch.nth(nth)) {
            let old = state.get(of, key).await?;
            for (key, after) in changes(derive, key, old.as_deref(), new) {
                check::<E, S>(&key)?;
                // (Should two rows have had one entry.)
                match after {
                    None => drop(changed.entry(key).or_default()),
                    Some(_) => drop(changed.insert(key, after)),
                }
            }
        }
        let Some(rest) = batch.rest(all, Direction::Forward) else { return Ok(changed) };
        let mut next = Batch::default();
        rows.batch(rest, end, Direction::Forward, BATCH, &mut next);
        batch = next;
    }
}

async fn of_all_rows<E: Env, S: Storage<E>>(
    state: &S::State,
    replayed: &Replayed,
    end: Csn,
    (index, of): (&TableInfo, TableId),
    derive: &Derive,
) -> Result<Changed, Why> {
    let mut changed = Changed::new();
    let all = (Bound::Unbounded, Bound::Unbounded);
    // What it has of the time when it was kept up.
    let mut stale = state.cursor(index.id, all, Direction::Forward);
    while stale.advance().await? {
        changed.extend(stale.current().map(|(key, _)| (key.to_vec(), None)));
    }
    let view = View {
        catalog: Arc::clone(&replayed.catalog),
        generations: [Arc::clone(&replayed.generation)].into_iter().collect(),
        volatile: Volatile::default(),
        state: state.clone(),
    };
    let nothing = WriteSet::default();
    let mut rows = Scan::<E, S>::new(Arc::new(view), end, &nothing, None, None, of, all, Direction::Forward);
    let mut entries = Entries::new();
    while let Some((key, value)) = rows.next().await? {
        derive_into(&mut entries, derive, key, value);
    }
    entries.keys().try_for_each(|key| check::<E, S>(key))?;
    changed.extend(entries.into_iter().map(|(key, value)| (key, Some(value))));
    Ok(changed)
}

/// A function that was changed may tell what pages can't hold.
fn check<E: Env, S: Storage<E>>(key: &[u8]) -> Result<(), Why> {
    let (bytes, limit) = (key.len() as u64, S::KEY_LIMIT_BYTES as u64);
    if bytes > limit { Err(TxError::KeyTooLarge { bytes, limit }.into()) } else { Ok(()) }
}
