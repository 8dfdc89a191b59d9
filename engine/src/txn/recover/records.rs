//! Records of a log, in the memory that it was read into.

use std::sync::PoisonError;

use bytes::Bytes;

use crate::{
    sync::{Mutex, MutexGuard},
    txn::overlay::Values,
    wal::{InWindow, Lsn},
};

/// Records, in order.
#[derive(Debug, Default)]
pub(super) struct Records {
    windows: Vec<Bytes>,
    places: Vec<RecordAt>,
}

#[derive(Clone, Copy, Debug)]
struct RecordAt {
    lsn: Lsn,
    window: u32,
    begin: u32,
    bytes: u32,
}

impl Records {
    /// Room for so many.
    pub(super) fn with_room(records: usize) -> Records {
        Records { windows: Vec::new(), places: Vec::with_capacity(records) }
    }

    /// Takes the next one. (Windows, and so records, are shorter than 4 GiB.)
    pub(super) fn push(&mut self, lsn: Lsn, record: &InWindow<'_>) {
        let (window, range) = (record.window(), record.range());
        if self.windows.last().is_none_or(|last| last.as_ptr() != window.as_ptr()) {
            self.windows.push(window.clone());
        }
        let window = self.windows.len() as u32 - 1;
        self.places.push(RecordAt { lsn, window, begin: range.start as u32, bytes: range.len() as u32 });
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Lsn, &[u8])> {
        self.places.iter().map(|place| (place.lsn, self.at(place)))
    }

    /// One of them, which keeps its window.
    pub(super) fn nth(&self, nth: u32) -> Bytes {
        let place = &self.places[nth as usize];
        self.windows[place.window as usize].slice_ref(self.at(place))
    }

    /// The window in which a part of a record stands, and where there.
    pub(super) fn place(&self, nth: u32, part: &[u8]) -> (u32, u32) {
        let window = self.places[nth as usize].window;
        (window, (part.as_ptr().addr() - self.windows[window as usize].as_ptr().addr()) as u32)
    }

    /// A part of a record by its place.
    pub(super) fn part(&self, window: u32, at: u32, bytes: u32) -> &[u8] {
        &self.windows[window as usize][at as usize..][..bytes as usize]
    }

    /// They are no more: what they stood in may be used again, as far as nobody else reads there, and values fill it. (A window is as
    /// large as its record, if that is a large one.)
    pub(super) fn leave_to(self, old: &OldWindows) {
        let windows = self.windows.into_iter().filter(Bytes::is_unique).map(Vec::from);
        let can_be_filled = |window: &Vec<u8>| window.capacity() <= Values::LARGEST_PIECE_BYTES;
        old.lock().extend(windows.filter(can_be_filled));
    }

    fn at(&self, place: &RecordAt) -> &[u8] {
        &self.windows[place.window as usize][place.begin as usize..][..place.bytes as usize]
    }
}

/// Memory that a log was read into, and that nobody reads any more. New memory would have to be got from the system, and that takes longer
/// than all that is done with it here.
#[derive(Debug, Default)]
pub(super) struct OldWindows(Mutex<Vec<Vec<u8>>>);

impl OldWindows {
    pub(super) fn take(&self) -> Option<Vec<u8>> {
        self.lock().pop()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
