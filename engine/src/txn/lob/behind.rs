//! The planted bug: a part that is written before its pieces, under the numbers that they will have.

use crate::{env::Env, wal::Lsn};

use super::{Lobs, Shared, encode};
use crate::txn::{
    commit::{Pipeline, Writes},
    redo::{Lob, LobRef},
    storage::Storage,
};

impl<E: Env, S: Storage<E>> Lobs<'_, E, S> {
    /// Bytes that a log has to have room for behind the part.
    pub(in crate::txn) fn behind_bytes(&self, log: u8) -> usize {
        self.behind.iter().filter(|(of, _)| *of == log).map(|(_, record)| record.len() + 64).sum()
    }

    /// Writes the pieces, as far as there is room.
    pub(in crate::txn) fn append_behind(&self, pipeline: &mut Pipeline<E>) {
        for (log, record) in &self.behind {
            if pipeline.as_mut().room(usize::from(*log), record.len()).is_ok() {
                pipeline.as_mut().append(usize::from(*log), record);
            }
        }
    }
}

impl<E: Env, S: Storage<E>> Shared<E, S> {
    /// What is to be written behind the parts, if these are the next records.
    pub(in crate::txn) fn predict_lobs<'a>(
        &self,
        pipeline: &mut Pipeline<E>,
        writes: Writes<'a>,
        lobs: &mut Lobs<'a, E, S>,
    ) {
        lobs.behind.clear();
        let catalog = pipeline.catalog.clone();
        for (info, key, value) in self.large(&catalog, writes) {
            let (mut pieces, mut last) = (0, None);
            for data in value.chunks(self.options.lob_bytes as usize) {
                let mut record = Vec::new();
                encode(&mut record, Lob { piece: pieces, txn: lobs.txn, previous: last, data });
                let before = lobs.behind.iter().filter(|(log, _)| *log == info.log).count() as u64;
                last = Some(Lsn(pipeline.as_mut().next(usize::from(info.log)).0 + 1 + before));
                lobs.behind.push((info.log, record));
                pieces += 1;
            }
            let (bytes, crc) = (value.len() as u64, crc32fast::hash(value));
            lobs.refs.insert((info.id, key), LobRef { bytes, crc, pieces, last: last.unwrap_or_default() });
        }
    }
}
