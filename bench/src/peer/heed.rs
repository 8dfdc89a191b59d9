//! LMDB by way of heed: a copy-on-write B-tree in a mapped file. Buffered is `NO_SYNC`. Its cache is the system's.

use std::path::Path;

use heed::{Database, Env, EnvFlags, EnvOpenOptions, PutFlags, types::Bytes};

use super::{Call, Load, Peer, Reader, Safety, Settings};
use crate::{Result, keys::Key};

/// The file may grow so far; address space, nothing more.
const MAP_BYTES: usize = 64 << 30;

pub struct Heed {
    env: Env,
    rows: Database<Bytes, Bytes>,
}

impl Heed {
    #[expect(unsafe_code, reason = "LMDB maps its file; nobody else touches that here")]
    pub fn open(path: &Path, settings: Settings) -> Result<Heed> {
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_BYTES);
        // SAFETY: the folder is this process's own, and it opens it once. NO_SYNC gives up durability, which is asked for.
        let env = unsafe {
            if settings.safety == Safety::Buffered {
                options.flags(EnvFlags::NO_SYNC);
            }
            options.open(path)?
        };
        let mut write = env.write_txn()?;
        let rows = env.create_database(&mut write, None)?;
        write.commit()?;
        Ok(Heed { env, rows })
    }
}

impl Peer for Heed {
    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        let mut write = self.env.write_txn()?;
        self.rows.put(&mut write, key, value)?;
        write.commit()?;
        Ok(())
    }

    fn load(&self, rows: &mut Load<'_>, sorted: bool) -> Result<()> {
        let flags = if sorted { PutFlags::APPEND } else { PutFlags::empty() };
        let mut write = self.env.write_txn()?;
        for (key, value) in rows {
            self.rows.put_with_flags(&mut write, flags, &key, value)?;
        }
        write.commit()?;
        self.sync()
    }

    fn sync(&self) -> Result<()> {
        Ok(self.env.force_sync()?)
    }

    fn reader(&self, _call: Call) -> Result<Reader<'_>> {
        let read = self.env.read_txn()?;
        Ok(Box::new(move |keys| {
            let mut found = 0;
            for key in keys {
                let value = self.rows.get(&read, key)?;
                found += u64::from(std::hint::black_box(value.map(|value| value[0])).is_some());
            }
            Ok(found)
        }))
    }

    fn scan(&self) -> Result<u64> {
        let read = self.env.read_txn()?;
        let mut rows = 0;
        for row in self.rows.iter(&read)? {
            std::hint::black_box(row?.1[0]);
            rows += 1;
        }
        Ok(rows)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.sync()
    }
}
