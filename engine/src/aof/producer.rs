//! The side that encodes commands: one page, and what the increment has seen so far.
//!
//! While a command fits the page nothing else is looked at: no mutex, no allocation. What needs more goes through
//! [`Producer::make_room`], under the log's mutex.

use crate::{
    plant::{Plants, planted},
    ring::Ring,
};

use super::{
    resp::{self, Digits},
    sums::LINE_BYTES,
};

/// What a filled page of the ring means.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    /// How far the log reaches with it, in bytes since open.
    pub(super) upto: u64,
    /// What it begins with.
    pub(super) head: Head,
    /// A batch ends with it.
    pub(super) ends: bool,
}

/// What the bytes of a page begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// The line of a batch that ends with the page; to be filled in.
    Batch,
    /// The line of a batch that goes on in the next pages: bytes behind the line, and their CRC-32.
    Large(u32, u32),
    /// Nothing of the kind.
    Plain,
    /// There are no bytes: a new increment begins here.
    Switch,
}

/// Something to append: a command, or several that are executed as one.
#[derive(Debug)]
pub(super) struct Record<'a, A> {
    /// The database that it is executed in.
    pub(super) database: u32,
    pub(super) commands: &'a [&'a [A]],
    /// They are loaded all or not at all.
    pub(super) unit: bool,
    /// The second since the Unix epoch to note, where that is wanted.
    pub(super) second: Option<i64>,
}

/// A large record on its way into pages. It was accepted as a whole.
struct Rest {
    bytes: Vec<u8>,
    /// How much of it is in pages.
    done: usize,
    head: Head,
}

/// All pages are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// Accepts commands, one after the other.
pub(super) struct Producer {
    /// The page being filled; without capacity if there is none.
    page: Vec<u8>,
    /// How much may be put into it.
    page_bytes: usize,
    /// The page is a buffer of its own for one large record.
    appendix: bool,
    rest: Option<Rest>,
    /// Bytes accepted since open.
    pub(super) accepted: u64,
    pub(super) commands: u64,
    /// The database that a reader of the increment would have selected here; `None` when the log was opened, as in Redis, and behind a
    /// switch, which may fail and leave the old increment where it was.
    database: Option<u32>,
    /// The second that was noted last.
    second: Option<i64>,
    /// Batches begin with a line for their checksum.
    sums: bool,
}

const MULTI: &[&[u8]] = &[b"MULTI"];
const EXEC: &[&[u8]] = &[b"EXEC"];

impl Producer {
    /// At the end of an increment.
    pub(super) fn new(sums: bool) -> Producer {
        Producer {
            page: Vec::new(),
            page_bytes: 0,
            appendix: false,
            rest: None,
            accepted: 0,
            commands: 0,
            database: None,
            second: None,
            sums,
        }
    }

    /// Appends a record if the page has room for it.
    #[inline]
    pub(super) fn append<A: AsRef<[u8]>>(&mut self, record: &Record<'_, A>) -> bool {
        let bytes = self.encoded_bytes(record);
        let fits = self.page.len().max(self.line_bytes()) + bytes <= self.page_bytes;
        if fits {
            self.encode(record, bytes);
        }
        fits
    }

    /// Bytes that a record would take here.
    pub(super) fn encoded_bytes<A: AsRef<[u8]>>(&self, record: &Record<'_, A>) -> usize {
        let mut bytes = record.commands.iter().map(|command| resp::encoded_bytes(command)).sum::<usize>();
        if record.second != self.second && record.second.is_some() {
            bytes += record.second.map_or(0, resp::timestamp_bytes);
        }
        if Some(record.database) != self.database {
            bytes += resp::encoded_bytes(&[b"SELECT".as_slice(), Digits::of(record.database).as_ref()]);
        }
        if record.unit {
            bytes += resp::encoded_bytes(MULTI) + resp::encoded_bytes(EXEC);
        }
        bytes
    }

    fn encode<A: AsRef<[u8]>>(&mut self, record: &Record<'_, A>, bytes: usize) {
        if self.page.is_empty() {
            self.page.resize(self.line_bytes(), 0);
            self.accepted += self.line_bytes() as u64;
        }
        let before = self.page.len();
        if let Some(second) = record.second.filter(|second| Some(*second) != self.second) {
            resp::encode_timestamp(&mut self.page, second);
            self.second = Some(second);
        }
        if Some(record.database) != self.database {
            resp::encode(&mut self.page, &[b"SELECT".as_slice(), Digits::of(record.database).as_ref()]);
            self.database = Some(record.database);
        }
        let unit = record.unit;
        if unit {
            resp::encode(&mut self.page, MULTI);
        }
        let mut at = self.page.len();
        self.page.resize(before + bytes - if unit { resp::encoded_bytes(EXEC) } else { 0 }, 0);
        for command in record.commands {
            at += resp::encode_into(&mut self.page[at..], command);
        }
        if unit {
            resp::encode(&mut self.page, EXEC);
        }
        debug_assert_eq!(self.page.len() - before, bytes);
        self.accepted += bytes as u64;
        self.commands += record.commands.len() as u64;
    }

    /// Bytes of the line that a batch begins with.
    fn line_bytes(&self) -> usize {
        if self.sums { LINE_BYTES } else { 0 }
    }

    /// Forgets what is in the page. (For a planted bug.)
    pub(super) fn forget(&mut self) {
        if self.sums {
            self.page.truncate(LINE_BYTES);
        }
    }

    /// Bytes that were accepted and that the ring hasn't.
    pub(super) fn held(&self) -> u64 {
        (self.page.len() + self.rest.as_ref().map_or(0, |rest| rest.bytes.len() - rest.done)) as u64
    }

    /// Sees that the page has room for `bytes`.
    pub(super) fn make_room(&mut self, ring: &mut Ring<Page>, bytes: usize, split: bool) -> Result<(), Full> {
        self.hand_over(ring, split)?;
        if bytes > ring.page_bytes() {
            if !ring.has_room_for(bytes as u64) {
                return Err(Full);
            }
            let bytes = bytes + self.line_bytes();
            (self.page, self.page_bytes, self.appendix) = (Vec::with_capacity(bytes), bytes, true);
        } else {
            self.page = ring.empty_page().ok_or(Full)?;
            self.page_bytes = ring.page_bytes() + self.line_bytes();
        }
        Ok(())
    }

    /// Puts what was accepted into the ring.
    pub(super) fn hand_over(&mut self, ring: &mut Ring<Page>, split: bool) -> Result<(), Full> {
        if self.appendix && split && !self.page.is_empty() {
            let bytes = std::mem::take(&mut self.page);
            let data = &bytes[self.line_bytes()..];
            let head = if self.sums { Head::Large(data.len() as u32, crc32fast::hash(data)) } else { Head::Plain };
            self.rest = Some(Rest { bytes, done: 0, head });
            (self.appendix, self.page_bytes) = (false, 0);
        }
        self.split(ring)?;
        if !self.page.is_empty() {
            if !ring.has_room() {
                return Err(Full);
            }
            let head = if self.sums { Head::Batch } else { Head::Plain };
            ring.append(Page { upto: self.accepted, head, ends: true }, std::mem::take(&mut self.page), self.appendix);
        } else if self.page.capacity() > 0 && !self.appendix {
            ring.put_back(std::mem::take(&mut self.page));
        } else {
            self.page = Vec::new();
        }
        (self.page_bytes, self.appendix) = (0, false);
        Ok(())
    }

    /// Puts a large record into pages, as many as there are.
    fn split(&mut self, ring: &mut Ring<Page>) -> Result<(), Full> {
        while let Some(rest) = &mut self.rest {
            if !ring.has_room() {
                return Err(Full);
            }
            let mut page = ring.empty_page().ok_or(Full)?;
            // The line of a batch stays in one piece.
            let least = if rest.done == 0 && self.sums { LINE_BYTES } else { 0 };
            let piece = &rest.bytes[rest.done..rest.bytes.len().min(rest.done + ring.page_bytes().max(least))];
            page.extend_from_slice(piece);
            rest.done += piece.len();
            let head = std::mem::replace(&mut rest.head, Head::Plain);
            let left = rest.bytes.len() - rest.done;
            ring.append(Page { upto: self.accepted - left as u64, head, ends: left == 0 }, page, false);
            if left == 0 {
                self.rest = None;
            }
        }
        Ok(())
    }

    /// Lets a new increment begin here.
    pub(super) fn switch(&mut self, ring: &mut Ring<Page>, split: bool, plants: &Plants) -> Result<(), Full> {
        self.hand_over(ring, split)?;
        if !ring.has_room() {
            return Err(Full);
        }
        ring.append(Page { upto: self.accepted, head: Head::Switch, ends: true }, Vec::new(), true);
        self.database = if planted!(plants, RewriteSelectForgotten) { Some(0) } else { None };
        self.second = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A producer and its ring in front of a file that is only memory. Nobody drains but who asks for it.
    struct Front {
        producer: Producer,
        ring: Ring<Page>,
        split: bool,
        /// The file without the lines of batches, and its length with them.
        file: Vec<u8>,
        length: u64,
    }

    impl Front {
        fn new(pages: usize, page_bytes: usize, split: bool, sums: bool) -> Front {
            Front {
                producer: Producer::new(sums),
                ring: Ring::new(pages, page_bytes),
                split,
                file: Vec::new(),
                length: 0,
            }
        }

        /// Behind a command that selected database 0, so that a record takes as many bytes as its commands.
        fn selected(pages: usize, page_bytes: usize, split: bool, sums: bool) -> Front {
            let mut front = Front::new(pages, page_bytes, split, sums);
            front.producer.database = Some(0);
            front
        }

        /// What an append does under the log's mutex; false if it has to wait for a drain.
        fn try_append<A: AsRef<[u8]>>(&mut self, record: &Record<'_, A>) -> bool {
            let Front { producer, ring, split, .. } = self;
            producer.append(record)
                || producer.make_room(ring, producer.encoded_bytes(record), *split).is_ok() && producer.append(record)
        }

        /// A command of `bytes` bytes in all.
        fn put(&mut self, bytes: usize, letter: u8) -> bool {
            let command = command_of(bytes, letter);
            self.try_append(&Record { database: 0, commands: &[&[command]], unit: false, second: None })
        }

        /// Writes the pages that are full.
        fn drain(&mut self) {
            let taken = self.ring.take();
            for page in &taken {
                self.length += page.bytes.len() as u64;
                assert_eq!(page.tag.upto, self.length, "a page knows how far the log reaches with it");
                let line = if page.tag.head == Head::Plain { 0 } else { LINE_BYTES };
                self.file.extend_from_slice(&page.bytes[line..]);
            }
            self.ring.give_back(taken);
        }

        /// Writes everything.
        fn finish(&mut self) {
            while self.producer.hand_over(&mut self.ring, self.split).is_err() {
                self.drain();
            }
            self.drain();
        }

        /// Lengths of what is full, with the lines of batches, oldest first.
        fn full(&mut self) -> Vec<usize> {
            let taken = self.ring.take();
            let lengths = taken.iter().map(|page| page.bytes.len()).collect();
            self.ring.give_back(taken);
            lengths
        }
    }

    /// The one argument of a command that takes `bytes` bytes in all. (Of 20 there is none.)
    fn command_of(bytes: usize, letter: u8) -> Vec<u8> {
        let argument = (0..bytes).find(|length| resp::encoded_bytes(&[vec![letter; *length]]) == bytes);
        vec![letter; argument.expect("there is a command of so many bytes")]
    }

    /// Where a record of L bytes goes, on a page of 40 with P bytes used; with checksums each page has their line besides.
    #[test]
    fn a_record_goes_where_the_table_says() {
        enum Goes {
            /// Into the page (Success).
            Here,
            /// The page is full, and it goes into the next one (Fail, then Success).
            Next,
            /// The page is full, and it has a buffer of its own (Appendix), or is split over pages.
            Beside,
        }
        use Goes::{Beside, Here, Next};
        const C: usize = 40;
        for (used, bytes, goes) in [
            (0, C - 1, Here),
            (0, C, Here),
            (10, C - 11, Here),
            (10, C - 10, Here),
            (10, C - 9, Next),
            (10, C, Next),
            (C - 10, 10, Here),
            (C - 10, 11, Next),
            (C - 1, 10, Next),
            (C, 10, Next),
            (0, C + 1, Beside),
            (10, C + 1, Beside),
            (C, C + 1, Beside),
            (10, 10 * C, Beside),
        ] {
            for (split, sums) in [(false, false), (false, true), (true, false), (true, true)] {
                let case = format!("P {used}, L {bytes}, split {split}, checksums {sums}");
                let mut front = Front::selected(20, C, split, sums);
                let line = front.producer.line_bytes();
                let mut expected = Vec::new();
                if used > 0 {
                    assert!(front.put(used, b'p'), "{case}");
                    resp::encode(&mut expected, &[command_of(used, b'p')]);
                }
                let before: Vec<usize> = (used > 0).then_some(line + used).into_iter().collect();
                assert!(front.put(bytes, b'l'), "{case}");
                resp::encode(&mut expected, &[command_of(bytes, b'l')]);
                match goes {
                    Here => {
                        assert_eq!(
                            (front.producer.held(), front.ring.is_empty()),
                            ((line + used + bytes) as u64, true)
                        );
                    }
                    Next | Beside => {
                        assert_eq!(front.producer.held(), (line + bytes) as u64, "{case}");
                        assert_eq!(front.producer.appendix, matches!(goes, Beside), "{case}");
                        // (Looking at them gives them back, so this front has no use any more.)
                        let mut looked = Front::selected(20, C, split, sums);
                        assert!((used == 0 || looked.put(used, b'p')) && looked.put(bytes, b'l'));
                        assert_eq!(looked.full(), before, "{case}");
                        assert!(looked.put(10, b's'));
                        let own = looked.full();
                        if matches!(goes, Beside) && split {
                            assert_eq!(own.iter().sum::<usize>(), line + bytes, "{case}");
                            assert!(own.iter().all(|piece| *piece <= C), "{case}: {own:?}");
                            assert_eq!(own.len(), (line + bytes).div_ceil(C), "{case}");
                        } else if matches!(goes, Beside) || bytes + 10 > C {
                            assert_eq!(own, [line + bytes], "{case}");
                        } else {
                            assert_eq!(own, [0; 0], "{case}: there was room for one more");
                        }
                    }
                }
                assert!(front.put(10, b's'), "{case}: a page takes commands again");
                resp::encode(&mut expected, &[command_of(10, b's')]);
                front.finish();
                assert_eq!(front.file, expected, "{case}");
                assert_eq!(front.producer.held(), 0);
            }
        }
    }

    /// Upstream's example: body, next page, two beside it; the file has them in the order of the appends, and then goes on.
    #[test]
    fn the_file_has_large_and_small_in_the_order_of_their_appends() {
        for (split, sums) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut front = Front::selected(3, 24, split, sums);
            let mut expected = Vec::new();
            for (bytes, letter) in [(13, b'a'), (16, b'd'), (60, b'j'), (11, b's'), (25, b't'), (24, b'u'), (11, b'v')]
            {
                // All the ring at most once, and a large record that was split, page by page.
                for _ in 0..4 {
                    if front.put(bytes, letter) {
                        break;
                    }
                    front.drain();
                }
                resp::encode(&mut expected, &[command_of(bytes, letter)]);
            }
            front.finish();
            assert_eq!(front.file, expected, "split {split}, checksums {sums}");
        }
    }

    /// A page holds one command; each append behind the first switches to the next page.
    #[test]
    fn the_nth_switch_needs_a_drain_and_the_one_before_does_not() {
        for pages in [2, 3, 8] {
            for (split, sums) in [(false, false), (true, true)] {
                let mut front = Front::selected(pages, 15, split, sums);
                assert!(front.put(15, 0));
                for switch in 1..pages {
                    assert!(front.put(15, switch as u8), "switch {switch} of {pages} pages");
                }
                for _ in 0..2 {
                    assert!(!front.put(15, b'n'), "switch {pages} of {pages} pages");
                    assert_eq!(front.producer.held(), 0, "what was accepted is in the ring");
                }
                front.drain();
                assert_eq!(front.file.len(), pages * 15);
                assert!(front.put(15, b'n'));
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Commands of one unit: the lengths of their arguments.
        Append(u32, Vec<Vec<usize>>),
        /// A round begins to write what there is.
        Round,
        Drain,
    }

    fn step() -> impl Strategy<Value = Step> {
        let length = prop_oneof![0..12_usize, 0..150_usize];
        let commands = prop::collection::vec(prop::collection::vec(length, 1..4), 1..3);
        prop_oneof![
            4 => (prop_oneof![Just(0), 0..20_u32], commands).prop_map(|(number, unit)| Step::Append(number, unit)),
            1 => Just(Step::Round),
            1 => Just(Step::Drain),
        ]
    }

    proptest! {
        /// Whatever the pages, and wherever large records travel, the file is the commands in their order.
        #[test]
        fn the_file_is_the_commands(
            steps in prop::collection::vec(step(), 0..60),
            pages in 2_usize..6,
            page_bytes in prop_oneof![1_usize..40, 40_usize..200],
            split: bool,
            sums: bool,
        ) {
            let mut front = Front::new(pages, page_bytes, split, sums);
            let (mut expected, mut selected) = (Vec::new(), None);
            for (number, step) in (0_u8..).zip(steps) {
                match step {
                    Step::Append(database, unit) => {
                        let arguments = |lengths: &Vec<usize>| lengths.iter().map(|bytes| vec![number; *bytes]).collect();
                        let commands: Vec<Vec<Vec<u8>>> = unit.iter().map(arguments).collect();
                        if selected.replace(database) != Some(database) {
                            resp::encode(&mut expected, &["SELECT", &database.to_string()]);
                        }
                        let marks = commands.len() > 1;
                        marks.then(|| resp::encode(&mut expected, MULTI));
                        commands.iter().for_each(|command| resp::encode(&mut expected, command));
                        marks.then(|| resp::encode(&mut expected, EXEC));
                        let commands: Vec<&[Vec<u8>]> = commands.iter().map(Vec::as_slice).collect();
                        let record = Record { database, commands: &commands, unit: commands.len() > 1, second: None };
                        let mut drains = 0;
                        while !front.try_append(&record) {
                            front.drain();
                            drains += 1;
                            prop_assert!(drains < 2000, "it never fits");
                        }
                    }
                    Step::Round => {
                        // Without room what the ring holds is written first.
                        let _ = front.producer.hand_over(&mut front.ring, split);
                        front.drain();
                    }
                    Step::Drain => front.drain(),
                }
            }
            front.finish();
            prop_assert_eq!(front.length, front.producer.accepted);
            prop_assert_eq!(front.file, expected);
        }
    }
}
