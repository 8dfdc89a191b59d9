//! The sections `[engine]` and `[machine]`.

use std::collections::BTreeMap;

use engine::aof;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{Wrong, life::fault, placeless, txn::TxnText};
use crate::{
    plan::{CommandOptions, EngineOptions, MachinePlan, Policy},
    subject::txn,
};

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EngineText {
    #[serde(skip_serializing_if = "Option::is_none")]
    segment_bytes: Option<Spanned<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    buffer_bytes: Option<Spanned<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_record_bytes: Option<Spanned<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_us: Option<Spanned<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    synced_writes: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    split_large: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    appendfsync: Option<Spanned<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ring_pages: Option<Spanned<usize>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ring_page_bytes: Option<Spanned<usize>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamps: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checksums: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    no_appendfsync_on_rewrite: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disable_auto_gc: Option<bool>,
    load_ahead: Option<bool>,
    rewrite_sync_bytes: Option<Spanned<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    txn: Option<Spanned<TxnText>>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MachineText {
    #[serde(skip_serializing_if = "Option::is_none")]
    sector_bytes: Option<Spanned<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capacity_bytes: Option<Spanned<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_us: Option<Spanned<(u64, u64)>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    rates: BTreeMap<String, Spanned<String>>,
}
impl EngineText {
    pub(super) fn from_options(subject: &str, engine: &EngineOptions) -> EngineText {
        let split_large = Some(engine.split_large);
        if matches!(subject, "wal" | "txn") {
            let of_logs = EngineText {
                segment_bytes: Some(placeless(engine.segment_bytes)),
                buffer_bytes: Some(placeless(engine.buffer_bytes)),
                max_record_bytes: Some(placeless(engine.max_record_bytes)),
                idle_us: Some(placeless(engine.idle_us)),
                ..EngineText::default()
            };
            return if subject == "txn" {
                EngineText { txn: Some(placeless(TxnText::from_options(&engine.txn))), ..of_logs }
            } else {
                EngineText { synced_writes: Some(engine.synced_writes), split_large, ..of_logs }
            };
        }
        EngineText {
            appendfsync: Some(placeless(engine.commands.policy.to_string())),
            ring_pages: Some(placeless(engine.commands.ring_pages)),
            ring_page_bytes: Some(placeless(engine.commands.ring_page_bytes)),
            timestamps: Some(engine.commands.timestamps),
            checksums: Some(engine.commands.checksums),
            no_appendfsync_on_rewrite: Some(engine.commands.no_sync_on_rewrite),
            disable_auto_gc: Some(engine.commands.keep_history),
            load_ahead: Some(engine.commands.load_ahead),
            rewrite_sync_bytes: Some(placeless(engine.commands.rewrite_sync_bytes)),
            split_large,
            ..EngineText::default()
        }
    }

    fn change_commands(&self, commands: &mut CommandOptions) -> Result<(), Wrong> {
        if let Some(name) = &self.appendfsync {
            let policy = Policy::ALL.iter().find(|(_, known)| known == name.get_ref());
            let wrong = || Wrong::new(name, format!("appendfsync is '{}'; use always, everysec or no", name.get_ref()));
            commands.policy = policy.ok_or_else(wrong)?.0;
        }
        if let Some(pages) = &self.ring_pages {
            commands.ring_pages = *pages.get_ref();
        }
        if let Some(bytes) = &self.ring_page_bytes {
            commands.ring_page_bytes = *bytes.get_ref();
        }
        commands.timestamps = self.timestamps.unwrap_or(commands.timestamps);
        commands.checksums = self.checksums.unwrap_or(commands.checksums);
        commands.no_sync_on_rewrite = self.no_appendfsync_on_rewrite.unwrap_or(commands.no_sync_on_rewrite);
        commands.keep_history = self.disable_auto_gc.unwrap_or(commands.keep_history);
        commands.load_ahead = self.load_ahead.unwrap_or(commands.load_ahead);
        if let Some(bytes) = &self.rewrite_sync_bytes {
            commands.rewrite_sync_bytes = *bytes.get_ref();
        }
        let options = aof::options::Options {
            ring_pages: commands.ring_pages,
            ring_page_bytes: commands.ring_page_bytes,
            rewrite_sync_bytes: commands.rewrite_sync_bytes,
            ..aof::options::Options::default()
        };
        let place = |option| match option {
            "ring_pages" => self.ring_pages.as_ref().map(Spanned::span),
            "ring_page_bytes" => self.ring_page_bytes.as_ref().map(Spanned::span),
            _ => self.rewrite_sync_bytes.as_ref().map(Spanned::span),
        };
        options
            .validate()
            .map_err(|error| Wrong::new(&Spanned::new(place(error.option).unwrap_or_default(), ()), error.to_string()))
    }

    pub(super) fn change(&self, engine: &mut EngineOptions) -> Result<(), Wrong> {
        let values = [
            ("segment_bytes", &self.segment_bytes, &mut engine.segment_bytes),
            ("buffer_bytes", &self.buffer_bytes, &mut engine.buffer_bytes),
            ("max_record_bytes", &self.max_record_bytes, &mut engine.max_record_bytes),
            ("idle_us", &self.idle_us, &mut engine.idle_us),
        ];
        self.change_commands(&mut engine.commands)?;
        let txn = self.txn.as_ref();
        txn.map_or(Ok(()), |text| text.get_ref().change(&mut engine.txn))?;
        let mut given = BTreeMap::new();
        for (name, value, option) in values {
            if let Some(value) = value {
                *option = *value.get_ref();
                given.insert(name, value);
            }
        }
        // What is legal is the engine's to say.
        let options = engine::wal::Options::new()
            .segment_bytes(engine.segment_bytes)
            .buffer_bytes(engine.buffer_bytes)
            .max_record_bytes(engine.max_record_bytes)
            .idle(std::time::Duration::from_micros(engine.idle_us));
        if let Some(synced_writes) = self.synced_writes {
            engine.synced_writes = synced_writes;
        }
        if let Some(split_large) = self.split_large {
            engine.split_large = split_large;
        }
        if let Some(text) = txn {
            txn::validate(engine).map_err(|error| Wrong::new(text, error.to_string()))?;
        }
        options.validate().map_err(|error| {
            match given.get(if error.option == "idle" { "idle_us" } else { error.option }) {
                Some(value) => Wrong::new(value, error.to_string()),
                None => Wrong::new(&placeless(()), error.to_string()),
            }
        })
    }
}

impl MachineText {
    pub(super) fn from_plan(machine: &MachinePlan) -> MachineText {
        MachineText {
            sector_bytes: Some(placeless(machine.sector_bytes)),
            capacity_bytes: Some(placeless(machine.capacity_bytes)),
            latency_us: Some(placeless(machine.latency_us)),
            rates: (machine.rates.iter())
                .map(|(fault, calls)| (fault.name().into(), placeless(format!("1/{calls}"))))
                .collect(),
        }
    }

    pub(super) fn change(&self, machine: &mut MachinePlan) -> Result<(), Wrong> {
        if let Some(value) = &self.sector_bytes {
            machine.sector_bytes = *value.get_ref();
            if !matches!(machine.sector_bytes, 512 | 4096) {
                return Err(Wrong::new(value, format!("sector_bytes is {}; use 512 or 4096", machine.sector_bytes)));
            }
        }
        if let Some(value) = &self.capacity_bytes {
            machine.capacity_bytes = *value.get_ref();
        }
        if let Some(value) = &self.latency_us {
            machine.latency_us = *value.get_ref();
            let (least, greatest) = machine.latency_us;
            if least > greatest || greatest > 1_000_000 {
                return Err(Wrong::new(value, "latency_us is [least, greatest], at most 1000000"));
            }
        }
        for (name, rate) in &self.rates {
            let calls = rate.get_ref().strip_prefix("1/").and_then(|calls| calls.parse().ok());
            let Some(calls) = calls.filter(|calls| *calls > 0) else {
                return Err(Wrong::new(rate, format!("rate '{}' is not like 1/64", rate.get_ref())));
            };
            machine.rates.insert(fault(name).map_err(|message| Wrong::new(rate, message))?, calls);
        }
        Ok(())
    }
}
