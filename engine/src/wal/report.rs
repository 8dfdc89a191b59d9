//! What recovery found, and what it left behind: nothing is dropped silently.

use crate::codec::Position;

use super::Lsn;

/// How the log ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TailKind {
    /// There was no log.
    New,
    /// It was closed.
    Clean,
    /// A crash left undecodable bytes behind the last record; they were not acknowledged as durable by anything found.
    Torn,
    /// It is damaged, and was [cut](super::RecoveryMode::PointInTime) where the damage begins.
    Damaged,
    /// Nothing recognisable behind the last record. Whether something stood there can't be known.
    End,
}

/// Bytes that recovery left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The file.
    pub file: String,
    /// Offset in bytes from where on nothing of it counts.
    pub offset: u64,
    /// How many bytes from there to the end of the last thing that looks like a frame. Files are longer than the log, so
    /// what follows that says nothing.
    pub bytes: u64,
    /// Intact frames among them.
    pub frames: u64,
    /// Records in these frames.
    pub records: u64,
    /// Why.
    pub why: DropReason,
}

/// Why bytes don't count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// Behind the last valid frame.
    Tail,
    /// A segment that was prepared but whose start never arrived.
    NeverStarted,
    /// A segment behind the place where a damaged log was cut; set aside under another name.
    SetAside,
}

/// The report of one open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The oldest LSN.
    pub first: Lsn,
    /// The next LSN: the log holds `first..next`.
    pub next: Lsn,
    /// How the log ended.
    pub tail: TailKind,
    /// From this LSN on nothing stated the records to be durable: a crash could have taken some before recovery made the
    /// rest durable. Equal to `next` if everything was proven.
    pub unproven_from: Lsn,
    /// Segments that hold the records, before open added its own.
    pub segments: u64,
    /// What was left behind.
    pub dropped: Vec<Dropped>,
    /// Records that were written anew into the segment that open created, because nothing proved them, or to keep it small.
    pub carried: u64,
    /// Generation of the segment that open created.
    pub generation: u64,
    /// The place up to which something stated the log to be durable.
    pub evidence: Option<Position>,
    /// Names in the directory that are not the log's; they are never touched.
    pub foreign: u64,
    /// Files named as segments that no copy of an identity could be read from, and that nothing refers to; left alone.
    pub unreadable: u64,
}

impl RecoveryReport {
    /// How many records the log holds.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.next.0 - self.first.0
    }
}
