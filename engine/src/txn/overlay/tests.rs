//! The overlay against maps.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::ids::Epoch;
use super::*;

fn csn(number: u64) -> Csn {
    match Epoch::new(1).map(Csn::first) {
        Some(first) if number > 0 => Csn::from_bits(first.to_bits() + number - 1).unwrap_or_default(),
        _ => Csn::default(),
    }
}

fn value(number: u64, len: usize) -> Option<Value> {
    (!number.is_multiple_of(5)).then(|| number.to_be_bytes().iter().copied().cycle().take(len).collect())
}

/// Some are shared, some not.
fn given(value: &Option<Value>) -> Option<ValueRef<'_>> {
    value.as_ref().map(|value| if value.len() % 2 == 0 { ValueRef::Shared(value) } else { ValueRef::Bytes(value) })
}

/// Every version that there ever was.
type Model = BTreeMap<Vec<u8>, Vec<(Csn, Option<Value>)>>;

fn expected<'a>(model: &'a Model, key: &[u8], at: Csn) -> Option<&'a Option<Value>> {
    model.get(key)?.iter().rev().find(|(csn, _)| *csn <= at).map(|(_, value)| value)
}

fn found(value: Option<&Option<Value>>) -> Found {
    match value {
        None => Found::Nothing,
        Some(None) => Found::Removed,
        Some(Some(value)) => Found::Value(value.clone()),
    }
}

/// All of a range, batch by batch.
fn scanned(
    overlay: &Overlay,
    range: KeyRange<'_>,
    at: Csn,
    direction: Direction,
    limit: usize,
) -> Vec<(Vec<u8>, Option<Value>)> {
    let (mut all, mut batch, mut from) = (Vec::new(), Batch::default(), Vec::new());
    overlay.batch(range, at, direction, limit, &mut batch);
    loop {
        assert!(batch.iter().count() <= limit);
        all.extend(batch.iter().map(|(key, value)| (key.to_vec(), value.map(Value::from))));
        let Some((left, right)) = batch.rest(range, direction) else { return all };
        let bound = if direction == Direction::Forward { left } else { right };
        if let Bound::Excluded(key) = bound {
            from = key.to_vec();
        }
        let bound = Bound::Excluded(&from[..]);
        let range = if direction == Direction::Forward { (bound, range.1) } else { (range.0, bound) };
        overlay.batch(range, at, direction, limit, &mut batch);
    }
}

fn agrees(overlay: &Overlay, model: &Model, at: Csn, range: KeyRange<'_>, limit: usize) -> Result<(), TestCaseError> {
    let backwards =
        matches!(range, (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) if a > b);
    let both_out = matches!(range, (Bound::Excluded(a), Bound::Excluded(b)) if a == b);
    let mut there: Vec<&Vec<u8>> = Vec::new();
    if !backwards && !both_out {
        there.extend(model.range::<[u8], _>(range).map(|(key, _)| key));
    }
    let mut wanted: Vec<_> =
        there.iter().filter_map(|key| Some(((*key).clone(), expected(model, key, at)?.clone()))).collect();
    prop_assert_eq!(&scanned(overlay, range, at, Direction::Forward, limit), &wanted);
    wanted.reverse();
    prop_assert_eq!(scanned(overlay, range, at, Direction::Backward, limit), wanted);
    let newest = there.iter().filter_map(|key| Some(model.get(*key)?.last()?.0)).max();
    prop_assert_eq!(overlay.changed_since(range, at), newest > Some(at));
    Ok(())
}

/// Keys that share much or little, of all lengths, in order or not.
fn key(kind: u8, number: u16, step: usize) -> Vec<u8> {
    match kind {
        0 => number.to_be_bytes().to_vec(),
        1 => format!("a table's common beginning:{number:05}").into_bytes(),
        2 => format!("{step:09}").into_bytes(),
        3 => vec![0; usize::from(number % 40)],
        4 => [&[b'x'; 8][..], &vec![0; usize::from(number % 20)], &number.to_le_bytes()].concat(),
        _ => (number % 7).to_le_bytes().to_vec(),
    }
}

#[derive(Clone, Debug)]
enum Step {
    Install { kind: u8, number: u16, len: usize, same_csn: bool },
    Visible(u16),
    Begin,
    End(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..6_u8, any::<u16>(), 0..60_usize, any::<bool>())
            .prop_map(|(kind, number, len, same_csn)| Step::Install { kind, number, len, same_csn }),
        3 => any::<u16>().prop_map(Step::Visible),
        2 => Just(Step::Begin),
        1 => any::<u16>().prop_map(Step::End),
    ]
}

fn bound(kind: u8, key: &[u8]) -> Bound<&[u8]> {
    match kind % 3 {
        0 => Bound::Included(key),
        1 => Bound::Excluded(key),
        _ => Bound::Unbounded,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_live_reader_reads_what_a_map_of_all_versions_gives(
        steps in prop::collection::vec(step(), 0..1500),
        asked in prop::collection::vec((0..6_u8, any::<u16>(), 0..6_u8, any::<u16>(), any::<u8>(), any::<u8>(), 1..90_usize), 12),
        freeze in any::<bool>(),
    ) {
        let (overlay, mut model) = (Overlay::default(), Model::new());
        let (mut last, mut visible, mut snapshots) = (0_u64, 0_u64, Vec::<Csn>::new());
        for (at, step) in steps.iter().enumerate() {
            let live = Live { snapshots: &snapshots, visible: csn(visible) };
            match *step {
                Step::Install { kind, number, len, same_csn } => {
                    let key = key(kind, number, at);
                    // Several keys of a commit, of which none may be visible yet; and no key twice.
                    let twice = model.get(&key).and_then(|all| all.last()).is_some_and(|(newest, _)| *newest == csn(last));
                    if !same_csn || last == visible || twice {
                        last += 1;
                    }
                    let value = value(last + u64::from(number), len);
                    prop_assert_eq!(overlay.install(&key, given(&value), csn(last), &live), Ok(()));
                    model.entry(key).or_default().push((csn(last), value));
                }
                Step::Visible(some) => visible += u64::from(some) % (last - visible + 1),
                Step::Begin => {
                    snapshots.push(csn(visible));
                    snapshots.sort_unstable();
                }
                Step::End(which) if !snapshots.is_empty() => {
                    snapshots.remove(usize::from(which) % snapshots.len());
                }
                Step::End(_) => {}
            }
        }
        let length = |overlay: &Overlay| overlay.read(Tree::len);
        prop_assert!(overlay.read(Tree::is_sound));
        if freeze {
            overlay.freeze();
            prop_assert_eq!(overlay.install(b"late", None, csn(last + 1), &Live { snapshots: &[], visible: csn(last) }), Err(Refused::Frozen));
        }
        prop_assert_eq!(length(&overlay), model.len());
        for at in snapshots.iter().copied().chain([csn(visible), csn(last)]) {
            for key in model.keys() {
                prop_assert_eq!(overlay.get(key, at), found(expected(&model, key, at)), "{:?} at {}", key, at);
            }
            let all: Vec<_> = model.keys().filter_map(|key| Some((&key[..], expected(&model, key, at)?.as_deref()))).collect();
            prop_assert_eq!(overlay.read(|tree| tree.entries(at).collect::<Vec<_>>() == all), true);
            for (kind, number, other_kind, other, from, to, limit) in &asked {
                let (a, b) = (key(*kind, *number, 7), key(*other_kind, *other, 900));
                agrees(&overlay, &model, at, (bound(*from, &a), bound(*to, &b)), *limit)?;
                for key in [&a, &b] {
                    let newest = model.get(key).and_then(|all| all.last()).map(|(csn, _)| *csn);
                    prop_assert_eq!(overlay.newest(key), newest);
                    prop_assert_eq!(overlay.get(key, at), found(expected(&model, key, at)));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn one_that_is_built_in_order_is_as_any_other(
        keys in prop::collection::btree_map((0..6_u8, any::<u16>()).prop_map(|(kind, number)| key(kind, number, number.into())), 1..500_u64, 0..1500),
        room in 0..3_usize,
        later in prop::collection::vec((0..6_u8, any::<u16>()), 0..300),
        asked in prop::collection::vec((0..6_u8, any::<u16>(), 0..6_u8, any::<u16>(), any::<u8>(), any::<u8>(), 1..90_usize), 12),
    ) {
        let mut model = Model::new();
        // (It may be made for more keys, and for fewer.)
        let (mut values, mut places) = (Values::default(), Vec::new());
        for (key, number) in &keys {
            let value = value(*number, *number as usize % 60);
            places.push(values.put(given(&value)));
            model.insert(key.clone(), vec![(csn(*number), value)]);
        }
        let mut ascending = Overlay::ascending(keys.len() * room / 2, values);
        let mut rows = Vec::new();
        for ((key, number), place) in keys.iter().zip(places) {
            rows.push((Key::new(key), place, csn(*number)));
            if number % 100 == 0 {
                ascending.join(Fragment::of(std::mem::take(&mut rows)));
            }
        }
        ascending.join(Fragment::of(rows));
        let overlay = ascending.finish();
        prop_assert!(overlay.read(Tree::is_sound) && overlay.len() == keys.len());
        for (number, (kind, key_number)) in (500..).zip(later) {
            let (key, value) = (key(kind, key_number, key_number.into()), value(number, 10));
            let live = Live { snapshots: &[], visible: csn(499) };
            prop_assert_eq!(overlay.install(&key, given(&value), csn(number), &live), Ok(()));
            model.entry(key).or_default().push((csn(number), value));
        }
        prop_assert!(overlay.read(Tree::is_sound));
        for (key, versions) in &model {
            let newest = versions.last().map(|(_, value)| value);
            prop_assert_eq!((overlay.get(key, csn(2000)), overlay.newest(key)), (found(newest), versions.last().map(|(csn, _)| *csn)));
        }
        for (kind, number, other_kind, other, from, to, limit) in asked {
            let (low, high) = (key(kind, number, number.into()), key(other_kind, other, other.into()));
            agrees(&overlay, &model, csn(2000), (bound(from, &low), bound(to, &high)), limit)?;
            agrees(&overlay, &model, csn(499), (bound(from, &low), bound(to, &high)), limit)?;
        }
    }
}

#[test]
fn a_hot_key_has_two_versions_without_readers() {
    let overlay = Overlay::default();
    let mut bytes = 0;
    for number in 1..10_000 {
        let live = Live { snapshots: &[], visible: csn(number - 1) };
        assert_eq!(overlay.install(b"hot", Some(ValueRef::Bytes(&[7; 100])), csn(number), &live), Ok(()));
        assert!(overlay.read(|tree| tree.chain_length(b"hot")) <= 2);
        if number == 10 {
            bytes = overlay.bytes();
        }
    }
    assert_eq!(overlay.bytes(), bytes);
}

#[test]
fn a_hot_key_that_is_visible_late_has_half_as_many_versions_more_than_it_needs() {
    let overlay = Overlay::default();
    let length = || overlay.read(|tree| tree.chain_length(b"hot"));
    let install = |number: u64, visible: u64| {
        let live = Live { snapshots: &[], visible: csn(visible) };
        assert_eq!(overlay.install(b"hot", given(&value(number, 9)), csn(number), &live), Ok(()));
    };
    let mut most = 0;
    for number in 1..10_000_u64 {
        install(number, number.saturating_sub(100));
        most = most.max(length());
        let at = number.saturating_sub(50).max(1);
        assert_eq!(overlay.get(b"hot", csn(at)), found(Some(&value(at, 9))));
    }
    assert!((120..=155).contains(&most), "{most}");
    // All is visible: what nobody needs goes with the next.
    install(10_000, 9_999);
    assert_eq!(length(), 2);
    // (If each looked at all, this would be 20,000,000,000 looks.)
    (10_001..210_001).for_each(|number| install(number, 10_000));
    assert_eq!(length(), 200_001);
}

#[test]
fn versions_stay_for_snapshots_and_for_what_is_not_visible_and_then_go() {
    let overlay = Overlay::default();
    let length = || overlay.read(|tree| tree.chain_length(b"k"));
    let install = |number, snapshots: &[Csn], visible| {
        let live = Live { snapshots, visible: csn(visible) };
        overlay.install(b"k", given(&value(number, 9)), csn(number), &live)
    };
    let snapshots = [csn(2), csn(2), csn(5)];
    for number in 1..=9 {
        assert_eq!(install(number, &snapshots, 5), Ok(()));
    }
    // 9 and 8, 7, 6 that may be visible before it; 5 for what is visible and a snapshot; 2 for the others. Then all is visible.
    assert_eq!(length(), 6);
    assert_eq!(install(10, &snapshots, 9), Ok(()));
    assert_eq!(length(), 4);
    assert_eq!(install(11, &[], 10), Ok(()));
    assert_eq!(length(), 2);
    assert_eq!(overlay.get(b"k", csn(10)), Found::Removed);
    // Places of those that went are taken again.
    let bytes = overlay.bytes();
    (12..18).for_each(|number| assert_eq!(install(number, &[], 11), Ok(())));
    assert!(overlay.bytes() <= bytes + 6 * chain::heap_bytes(25), "{bytes} {}", overlay.bytes());
}

#[test]
fn what_is_not_newer_is_refused_and_changes_nothing() {
    let (overlay, live) = (Overlay::default(), Live { snapshots: &[], visible: csn(1) });
    assert_eq!((overlay.bytes(), overlay.newest(b"a")), (0, None));
    assert_eq!(overlay.install(b"a", given(&value(1, 9)), csn(2), &live), Ok(()));
    assert_eq!(overlay.install(b"b", given(&value(1, 9)), csn(2), &live), Ok(()));
    let bytes = overlay.bytes();
    assert_eq!(overlay.install(b"a", None, csn(2), &live), Err(Refused::NotNewer));
    assert_eq!(overlay.install(b"c", None, csn(1), &live), Err(Refused::NotNewer));
    assert_eq!((overlay.newest(b"a"), overlay.newest(b"c"), overlay.bytes()), (Some(csn(2)), None, bytes));
    assert!(overlay.frozen().is_none());
    overlay.freeze();
    overlay.freeze();
    assert_eq!(overlay.frozen().map(|tree| tree.entries(csn(2)).count()), Some(2));
    assert_eq!(overlay.bytes(), bytes);
}

#[test]
fn many_keys_in_any_order_are_sound_and_take_what_is_counted() {
    for step in [1, 7919, 99_999] {
        let (overlay, live) = (Overlay::default(), Live { snapshots: &[], visible: csn(0) });
        for number in 0..100_000_u64 {
            let key = format!("user:{:012}", number * step % 100_000);
            assert_eq!(overlay.install(key.as_bytes(), given(&value(1, 16)), csn(number + 1), &live), Ok(()));
        }
        assert!(overlay.read(|tree| tree.is_sound() && tree.len() == 100_000));
        // An entry is 48 bytes, its value 16; nodes at half to full, and the filter.
        let each = overlay.bytes() / 100_000;
        assert!((64..110).contains(&each), "{each}");
    }
}
