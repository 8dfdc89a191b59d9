//! redb: a copy-on-write B-tree. Buffered is `Durability::None`.

use std::path::Path;

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Call, Load, Peer, Reader, Safety, Settings};
use crate::{Result, keys::Key};

const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");

pub struct Redb {
    database: Database,
    durability: Durability,
}

impl Redb {
    pub fn open(path: &Path, settings: Settings) -> Result<Redb> {
        let bytes = usize::try_from(settings.cache_bytes)?;
        let database = Database::builder().set_cache_size(bytes).create(path.join("rows.redb"))?;
        let durability = match settings.safety {
            Safety::Durable => Durability::Immediate,
            Safety::Buffered => Durability::None,
        };
        let redb = Redb { database, durability };
        redb.write(Durability::Immediate, |_| Ok(()))?;
        Ok(redb)
    }

    fn write(
        &self,
        durability: Durability,
        change: impl FnOnce(&mut redb::Table<'_, &'static [u8], &'static [u8]>) -> Result<()>,
    ) -> Result<()> {
        let mut write = self.database.begin_write()?;
        write.set_durability(durability)?;
        change(&mut write.open_table(ROWS)?)?;
        write.commit()?;
        Ok(())
    }
}

impl Peer for Redb {
    fn put(&self, key: &Key, value: &[u8]) -> Result<()> {
        self.write(self.durability, |table| {
            table.insert(key.as_slice(), value)?;
            Ok(())
        })
    }

    fn load(&self, rows: &mut Load<'_>, _sorted: bool) -> Result<()> {
        self.write(Durability::Immediate, |table| {
            for (key, value) in rows {
                table.insert(key.as_slice(), value)?;
            }
            Ok(())
        })
    }

    fn sync(&self) -> Result<()> {
        self.write(Durability::Immediate, |_| Ok(()))
    }

    fn reader(&self, _call: Call) -> Result<Reader<'_>> {
        let table = self.database.begin_read()?.open_table(ROWS)?;
        Ok(Box::new(move |keys| {
            let mut found = 0;
            for key in keys {
                found += u64::from(table.get(key.as_slice())?.is_some());
            }
            Ok(found)
        }))
    }

    fn scan(&self) -> Result<u64> {
        let table = self.database.begin_read()?.open_table(ROWS)?;
        let mut rows = 0;
        for row in table.iter()? {
            std::hint::black_box(row?.1.value()[0]);
            rows += 1;
        }
        Ok(rows)
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
