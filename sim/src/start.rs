//! What is in the data directory before the first open: files of an older program, made of records as clients append them.
//!
//! A file begins with a snapshot in RDB format, if it has one; behind it stand commands. Whoever wrote it had acknowledged what is
//! whole in it, so a log that goes on from it owes that.

use bytes::Bytes;

use crate::{
    subject::{commands::LIST, stream},
    workload::Op,
};

/// Files of one plan.
pub const MAX_FILES: usize = 16;

/// A file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartFile {
    /// Its name in the data directory.
    pub name: String,
    /// Appends whose records it holds as a snapshot.
    pub snapshot: Vec<Op>,
    /// Appends whose records it holds as commands, behind that.
    pub commands: Vec<Op>,
    /// So many bytes of their end are missing.
    pub cut: u64,
}

impl StartFile {
    /// It holds data, and none of it as commands: whether it counts is not the log's to say.
    #[must_use]
    pub fn is_snapshot(&self) -> bool {
        !self.snapshot.is_empty() && self.commands.is_empty()
    }

    /// The sizes of the records of each append, in order.
    pub fn appends(&self) -> impl Iterator<Item = Vec<u64>> {
        self.snapshot.iter().chain(&self.commands).map(|op| match op {
            Op::Append { bytes, .. } => vec![*bytes],
            Op::Batch { count, bytes, .. } => vec![*bytes; *count as usize],
            _ => Vec::new(),
        })
    }

    /// Its bytes, with these records, and how many of the appends are whole in it.
    #[must_use]
    pub fn content(&self, appends: &[&[Bytes]]) -> (Vec<u8>, usize) {
        let (first, behind) = appends.split_at(self.snapshot.len().min(appends.len()));
        let mut bytes = if first.is_empty() { Vec::new() } else { snapshot(&first.concat()) };
        let begins = bytes.len();
        let mut ends = vec![begins; first.len()];
        for records in behind {
            let unit: Vec<[&[u8]; 3]> = records.iter().map(|record| [b"RPUSH".as_slice(), LIST, record]).collect();
            bytes.extend_from_slice(&stream::encoded(&unit.iter().map(<[&[u8]; 3]>::as_slice).collect::<Vec<_>>()));
            ends.push(bytes.len());
        }
        bytes.truncate(bytes.len().saturating_sub(self.cut as usize).max(begins));
        let whole = ends.partition_point(|end| *end <= bytes.len());
        (bytes, whole)
    }
}

/// A snapshot of a list with these elements, without a checksum.
fn snapshot(records: &[Bytes]) -> Vec<u8> {
    // Database 0; a list of plain nodes.
    let mut bytes = b"REDIS0010\xfe\x00\x12".to_vec();
    string(&mut bytes, LIST);
    length(&mut bytes, records.len());
    for record in records {
        length(&mut bytes, 1);
        string(&mut bytes, record);
    }
    bytes.extend_from_slice(b"\xff\0\0\0\0\0\0\0\0");
    bytes
}

fn length(bytes: &mut Vec<u8>, length: usize) {
    bytes.push(0x80);
    bytes.extend_from_slice(&(length as u32).to_be_bytes());
}

fn string(bytes: &mut Vec<u8>, text: &[u8]) {
    length(bytes, text.len());
    bytes.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use engine::{
        aof::{CommandLog, options::Options},
        keyspace::{Keyspace, ValueRef},
    };

    use super::*;
    use crate::{
        disk::{Disk, DiskOptions},
        env::{SimEnv, run_still},
        workload::Class,
    };

    /// Wherever it is cut, so many appends are whole in it as the engine finds there.
    #[test]
    fn what_is_whole_in_a_file_is_what_a_log_finds_in_it() {
        let append = |bytes| Op::Append { bytes, class: Class::Sync };
        let commands = vec![append(3), Op::Batch { count: 2, bytes: 10, class: Class::Sync }, append(0)];
        let records: Vec<Vec<Bytes>> = [&[5][..], &[3], &[10, 10], &[0]]
            .map(|sizes| sizes.iter().map(|size| vec![b'x'; *size].into()).collect())
            .into();
        let appends: Vec<&[Bytes]> = records.iter().map(Vec::as_slice).collect();
        for cut in 0..180 {
            let (name, snapshot) = ("appendonly.aof".to_owned(), vec![append(5)]);
            let file = StartFile { name, snapshot, commands: commands.clone(), cut };
            let (bytes, whole) = file.content(&appends);
            let mut disk = Disk::new(DiskOptions::default());
            let dir = disk.make_dir("/log".as_ref());
            disk.write_foreign(dir, "appendonly.aof", &bytes);
            let mut keys = Keyspace::new();
            let opened = run_still(async {
                CommandLog::open(SimEnv::still(disk), "/log".as_ref(), Options::default(), &mut keys).await.map(drop)
            });
            opened.expect("nothing waits").expect("it opens");
            let found = match keys.databases()[0].get(LIST).map(|entry| entry.value) {
                Some(ValueRef::List(list)) => list.len(),
                _ => 0,
            };
            assert_eq!(found, appends[..whole].iter().map(|records| records.len()).sum::<usize>(), "cut {cut}");
        }
    }
}
