//! What a log has done since it was opened, as plain numbers.

/// Counts of one open log, from its open on. Cheap to take; compare two to see what happened in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Records accepted.
    pub appends: u64,
    /// Payload bytes of these records (a record of a batch counts 8 bytes more).
    pub bytes: u64,
    /// Writes that were given to the operating system; each takes all that is buffered.
    pub writes: u64,
    /// Bytes written, with headers and padding.
    pub written_bytes: u64,
    /// Syncs of segments, those of rotations included, and synced writes.
    pub syncs: u64,
    /// How many syncs made how many frames durable at once: entry `i` counts groups of `2^i` to `2^(i+1) - 1` frames.
    pub groups: [u64; Stats::GROUPS],
    /// Times that an append waited for room in the buffer or for a prepared segment.
    pub waits: u64,
    /// Times that the log went on in the next segment.
    pub rotations: u64,
    /// Segments that were created and filled with zeros.
    pub prepared: u64,
    /// Released segments that became spares again.
    pub recycled: u64,
    /// Marks written because the log was idle.
    pub idle_marks: u64,
    /// 1 if open found a log to recover, 0 if it created one.
    pub recoveries: u64,
    /// Records that this recovery delivered.
    pub recovered: u64,
}

impl Stats {
    /// Sizes of groups that are told apart.
    pub const GROUPS: usize = 16;

    /// Counts a sync that made `frames` durable.
    pub(super) fn group(&mut self, frames: u64) {
        if let Some(size) = frames.checked_ilog2() {
            self.groups[(size as usize).min(Stats::GROUPS - 1)] += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_counted_by_powers_of_two() {
        let mut stats = Stats::default();
        [0, 1, 2, 3, 4, 1 << 40].into_iter().for_each(|frames| stats.group(frames));
        assert_eq!(stats.groups[..4], [1, 2, 1, 0]);
        assert_eq!(stats.groups[Stats::GROUPS - 1], 1);
    }
}
