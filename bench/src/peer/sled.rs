//! sled: a log-structured B-tree. Durable is a flush after each put; buffered its default, a flush every 500 ms.

use std::path::Path;

use sled::{Batch, Db};

use super::{Call, Load, Peer, Reader, Safety, Settings};
use crate::{Result, keys::Key};

/// How many rows a batch of a load has.
const LOADED_AT_ONCE: usize = 1000;

pub struct Sled {
    database: Db,
    safety: Safety,
}

impl Sled {
    pub fn open(path: &Path, settings: Settings) -> Result<Sled> {
        let flushes = (settings.safety == Safety::Buffered).then_some(500);
        let config = sled::Config::new().path(path.join("sled")).cache_capacity(settings.cache_bytes);
        Ok(Sled { database: config.flush_every_ms(flushes).open()?, safety: settings.safety })
    }
}

impl Peer for Sled {
    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        self.database.insert(key, value)?;
        if self.safety == Safety::Durable {
            self.database.flush()?;
        }
        Ok(())
    }

    fn load(&self, rows: &mut Load<'_>, _sorted: bool) -> Result<()> {
        let mut rows = rows.peekable();
        while rows.peek().is_some() {
            let mut batch = Batch::default();
            for (key, value) in rows.by_ref().take(LOADED_AT_ONCE) {
                batch.insert(&key, value);
            }
            self.database.apply_batch(batch)?;
        }
        self.sync()
    }

    fn sync(&self) -> Result<()> {
        self.database.flush()?;
        Ok(())
    }

    fn reader(&self, _call: Call) -> Result<Reader<'_>> {
        Ok(Box::new(|keys| {
            let mut found = 0;
            for key in keys {
                found += u64::from(self.database.get(key)?.is_some());
            }
            Ok(found)
        }))
    }

    fn scan(&self) -> Result<u64> {
        let mut rows = 0;
        for row in self.database.iter() {
            std::hint::black_box(row?.1[0]);
            rows += 1;
        }
        Ok(rows)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.sync()
    }
}
