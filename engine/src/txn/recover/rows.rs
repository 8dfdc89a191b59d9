//! Rows that the logs have changed, in order of their keys, each with its newest version alone: nobody reads anything older than the end.

use crate::txn::{ids::Csn, overlay::head};

use super::stretch::Row;

/// The commit that changes a row which it, or a later one, has changed before.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Twice(pub(super) Csn);

/// Where a row stands, and the first bytes of its key in which keys differ: these decide most comparisons without a look at it.
struct Place {
    head: u64,
    run: u32,
    at: u32,
}

/// Tells where the newest version of each row stands, by key: its run and its place there. The rows of all runs are in the order of commits;
/// those of a run may be in order of keys instead, with each key there once: what is in order already takes little.
pub(super) fn newest(runs: &[&[Row]], mut tell: impl FnMut(usize, usize)) -> Result<(), Twice> {
    let mut places = places(runs);
    // (Of rows with one key the newer one stays behind the older.)
    places.sort_by(|a, b| a.head.cmp(&b.head).then_with(|| at(runs, a).key.bytes().cmp(at(runs, b).key.bytes())));
    for (nth, place) in places.iter().enumerate() {
        if let Some(next) = places.get(nth + 1).filter(|next| next.head == place.head) {
            let (row, newer) = (at(runs, place), at(runs, next));
            if newer.key.bytes() == row.key.bytes() {
                if newer.csn <= row.csn {
                    return Err(Twice(newer.csn));
                }
                continue;
            }
        }
        tell(place.run as usize, place.at as usize);
    }
    Ok(())
}

fn at<'a>(runs: &[&'a [Row]], place: &Place) -> &'a Row {
    &runs[place.run as usize][place.at as usize]
}

fn places(runs: &[&[Row]]) -> Vec<Place> {
    let mut keys = runs.iter().copied().flatten().map(|row| row.key.bytes());
    let first = keys.next().unwrap_or_default();
    let shared =
        keys.fold(first.len(), |shared, key| first[..shared].iter().zip(key).take_while(|(a, b)| a == b).count());
    let mut places = Vec::with_capacity(runs.iter().map(|run| run.len()).sum());
    for (run, rows) in (0..).zip(runs) {
        places.extend((0..).zip(*rows).map(|(at, row)| Place { head: head(row.key.bytes(), shared), run, at }));
    }
    places
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, mem};

    use proptest::prelude::*;

    use super::*;
    use crate::txn::{ids::Epoch, overlay::Key, recover::stretch::ValueAt};

    fn csn(number: u64) -> Csn {
        Csn::from_bits(Csn::first(Epoch::FIRST).to_bits() + number).unwrap()
    }

    fn row(key: &[u8], number: u64) -> Row {
        let value = ValueAt::In { window: number as u32, at: 0, bytes: 1 };
        Row { key: Key::new(key), csn: csn(number), value }
    }

    fn in_order(mut runs: Vec<Vec<Row>>) -> Result<Vec<Row>, Twice> {
        let mut order = Vec::new();
        newest(&runs.iter().map(Vec::as_slice).collect::<Vec<_>>(), |run, at| order.push((run, at)))?;
        Ok(order.into_iter().map(|(run, at)| mem::take(&mut runs[run][at])).collect())
    }

    proptest! {
        /// Keys of all lengths, with and without what they share; runs as commits have left them, and sorted ones.
        #[test]
        fn each_row_is_told_once_with_its_newest_version_by_key(
            shared in prop::collection::vec(any::<u8>(), 0..30),
            keys in prop::collection::vec(prop::collection::vec(0..3_u8, 0..12), 0..60),
            ends in prop::collection::vec(0..60_usize, 0..4),
            sorted: bool,
        ) {
            let mut expected = BTreeMap::new();
            let mut runs = vec![Vec::new()];
            for (number, key) in (0..).zip(keys) {
                if ends.contains(&(number as usize)) {
                    runs.push(Vec::new());
                }
                let key = [&shared[..], &key].concat();
                runs.last_mut().unwrap().push(row(&key, number));
                expected.insert(key, number);
            }
            if sorted {
                for run in &mut runs {
                    *run = in_order(vec![mem::take(run)]).unwrap();
                    prop_assert!(run.is_sorted_by(|a, b| a.key.bytes() < b.key.bytes()));
                }
            }
            let told = in_order(runs).unwrap();
            let told: Vec<_> = told.iter().map(|row| (row.key.bytes().to_vec(), row.csn, row.value.clone())).collect();
            let expected: Vec<_> = expected
                .into_iter()
                .map(|(key, number)| (key.clone(), csn(number), row(&key, number).value))
                .collect();
            prop_assert_eq!(told, expected);
        }
    }

    #[test]
    fn a_commit_that_changes_a_row_twice_is_refused() {
        let twice = vec![vec![row(b"a", 1), row(b"b", 2)], vec![row(b"a", 3), row(b"b", 2)]];
        assert_eq!(in_order(twice).err(), Some(Twice(csn(2))));
    }
}
