//! The sections `[[file]]`: what is in the data directory before the first open.

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{
    Wrong,
    life::{Total, ops, text_of},
    placeless,
};
use crate::{
    runner::TAKEN,
    start::{MAX_FILES, StartFile},
    workload::{Class, Op},
};

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileText {
    name: Spanned<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    snapshot: Option<Spanned<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    commands: Option<Spanned<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cut: Option<u32>,
}

/// All of them.
pub(super) fn files(texts: &[Spanned<FileText>], subject: &str, total: &mut Total) -> Result<Vec<StartFile>, Wrong> {
    let mut files: Vec<StartFile> = Vec::new();
    for text in texts {
        if matches!(subject, "wal" | "txn") {
            return Err(Wrong::new(text, "files to begin with are for command logs: subject aof or rewrite"));
        }
        if files.len() == MAX_FILES {
            return Err(Wrong::new(text, format!("{} files, at most {MAX_FILES}", texts.len())));
        }
        let file = text.get_ref().file(total)?;
        if files.iter().any(|other| other.name == file.name) {
            return Err(Wrong::new(&text.get_ref().name, format!("a second file '{}'", file.name)));
        }
        if file.snapshot.is_empty() && file.commands.is_empty() {
            return Err(Wrong::new(text, "a file has a snapshot, commands, or both: snapshot = \"append 100 sync\""));
        }
        files.push(file);
    }
    Ok(files)
}

impl FileText {
    fn file(&self, total: &mut Total) -> Result<StartFile, Wrong> {
        let name = self.name.get_ref();
        if matches!(name.as_str(), "" | "." | "..") || name.contains(['/', '\0']) || TAKEN.contains(&name.as_str()) {
            let message = format!("'{name}' is no name for a file in the data directory, or taken; try appendonly.aof");
            return Err(Wrong::new(&self.name, message));
        }
        let mut appends = |text: &Option<Spanned<String>>| match text {
            Some(text) => appends(text, total),
            None => Ok(Vec::new()),
        };
        Ok(StartFile {
            name: name.clone(),
            snapshot: appends(&self.snapshot)?,
            commands: appends(&self.commands)?,
            cut: self.cut.unwrap_or(0).into(),
        })
    }

    pub(super) fn from_file(file: &StartFile) -> FileText {
        let text = |ops: &[Op]| (!ops.is_empty()).then(|| placeless(text_of(ops)));
        FileText {
            name: placeless(file.name.clone()),
            snapshot: text(&file.snapshot),
            commands: text(&file.commands),
            cut: u32::try_from(file.cut).ok().filter(|cut| *cut > 0),
        }
    }
}

/// What is whole in a file was acknowledged as durable.
fn appends(text: &Spanned<String>, total: &mut Total) -> Result<Vec<Op>, Wrong> {
    let all = ops(text, total)?;
    let fits = |op: &&Op| {
        matches!(op, Op::Append { class: Class::Sync, .. } | Op::Batch { class: Class::Sync, count: 1.., .. })
    };
    match all.iter().find(|op| !fits(op)) {
        Some(op) => {
            let message =
                format!("'{op}' doesn't say what a file holds: use 'append BYTES sync' and 'batch NxBYTES sync'");
            Err(Wrong { part: op.to_string(), ..Wrong::new(text, message) })
        }
        None => Ok(all),
    }
}
