//! The section `[engine.txn]`: options of a store of transactions. What is not given is as in [`TxnOptions::default`].

use engine::txn::Visibility;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{Wrong, placeless};
use crate::plan::TxnOptions;

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TxnText {
    #[serde(skip_serializing_if = "Option::is_none")]
    logs: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sync: Option<Spanned<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sync_period_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sync_threshold: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    visibility: Option<Spanned<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dirty_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint_period_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint_at_close: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    piece_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lob_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    small_pages: Option<bool>,
}

/// From when on others see a commit, by name.
const VISIBILITIES: [(Option<Visibility>, &str); 3] =
    [(None, "usual"), (Some(Visibility::Committed), "committed"), (Some(Visibility::Durable), "durable")];

impl TxnText {
    pub(super) fn from_options(txn: &TxnOptions) -> TxnText {
        let TxnOptions { logs, sync, sync_period_us, sync_threshold, visibility, .. } = *txn;
        let TxnOptions { cache_bytes, dirty_bytes, checkpoint_period_us, checkpoint_at_close, .. } = *txn;
        let TxnOptions { chunk_bytes, piece_bytes, lob_bytes, small_pages, .. } = *txn;
        let named = VISIBILITIES.iter().find(|(other, _)| *other == visibility).map(|(_, name)| (*name).to_owned());
        TxnText {
            logs: Some(logs),
            sync: Some(placeless(sync.to_string())),
            sync_period_us: Some(sync_period_us),
            sync_threshold: Some(sync_threshold),
            visibility: named.map(placeless),
            cache_bytes: Some(cache_bytes),
            dirty_bytes: Some(dirty_bytes),
            checkpoint_period_us: Some(checkpoint_period_us),
            checkpoint_at_close: Some(checkpoint_at_close),
            chunk_bytes: Some(chunk_bytes),
            piece_bytes: Some(piece_bytes),
            lob_bytes: Some(lob_bytes),
            small_pages: Some(small_pages),
        }
    }

    pub(super) fn change(&self, txn: &mut TxnOptions) -> Result<(), Wrong> {
        if let Some(name) = &self.sync {
            txn.sync = name.get_ref().parse().map_err(|error| Wrong::new(name, format!("sync: {error}")))?;
        }
        if let Some(name) = &self.visibility {
            let found = VISIBILITIES.iter().find(|(_, known)| known == name.get_ref());
            let wrong =
                || Wrong::new(name, format!("visibility is '{}'; use usual, committed or durable", name.get_ref()));
            txn.visibility = found.ok_or_else(wrong)?.0;
        }
        txn.logs = self.logs.unwrap_or(txn.logs);
        txn.sync_period_us = self.sync_period_us.unwrap_or(txn.sync_period_us);
        txn.sync_threshold = self.sync_threshold.unwrap_or(txn.sync_threshold);
        txn.cache_bytes = self.cache_bytes.unwrap_or(txn.cache_bytes);
        txn.dirty_bytes = self.dirty_bytes.unwrap_or(txn.dirty_bytes);
        txn.checkpoint_period_us = self.checkpoint_period_us.unwrap_or(txn.checkpoint_period_us);
        txn.checkpoint_at_close = self.checkpoint_at_close.unwrap_or(txn.checkpoint_at_close);
        txn.chunk_bytes = self.chunk_bytes.unwrap_or(txn.chunk_bytes);
        txn.piece_bytes = self.piece_bytes.unwrap_or(txn.piece_bytes);
        txn.lob_bytes = self.lob_bytes.unwrap_or(txn.lob_bytes);
        txn.small_pages = self.small_pages.unwrap_or(txn.small_pages);
        Ok(())
    }
}
