//! A run of records with one thing wrong: the ledger says which. Without it, it says nothing.

use super::*;

const RULES: Rules = Rules { offsets: true, order: true, key_order: false, run: Some(1) };

fn stamp(producer: u32, sequence: u64) -> Stamp {
    Stamp { run: 1, producer, sequence, intended_ns: 0 }
}

fn place(partition: u32, offset: u64) -> Place<'static> {
    Place { partition, offset, key: None, again: false }
}

/// Two producers, two partitions, a hundred records each, as a good log would give them.
fn good() -> Vec<(Place<'static>, Stamp)> {
    (0..200).map(|n| (place(n % 2, u64::from(n / 2)), stamp((n / 2) % 2, u64::from(n % 2 + n / 4 * 2)))).collect()
}

fn judge(records: impl IntoIterator<Item = (Place<'static>, Found)>) -> Vec<Mismatch> {
    let mut ledger = Ledger::new(RULES);
    for (place, found) in records {
        ledger.saw(place, found);
    }
    ledger.close(1, &HashMap::from([(0, 100), (1, 100)]));
    ledger.mismatches().1.to_vec()
}

fn intact(records: &[(Place<'static>, Stamp)]) -> Vec<(Place<'static>, Found)> {
    records.iter().map(|(place, stamp)| (*place, Found::Intact(*stamp))).collect()
}

#[test]
fn a_good_run_has_no_mismatch() {
    assert_eq!(judge(intact(&good())), []);
}

#[test]
fn a_damaged_record_is_named() {
    let mut records = intact(&good());
    records[50].1 = Found::Damaged(good()[50].1);
    let found = judge(records);
    assert!(matches!(found[0], Mismatch::Damaged { partition: 0, offset: 25, .. }), "{found:?}");
    assert!(found[0].to_string().contains("sequence"), "{}", found[0]);
    assert!(matches!(found[1], Mismatch::Missing { count: 1, .. }), "what is damaged has not come: {found:?}");
}

#[test]
fn a_record_that_comes_twice_is_named() {
    let mut records = good();
    records.push((place(0, 100), records[10].1));
    let found = judge(intact(&records));
    assert!(matches!(found[..], [Mismatch::Duplicate { partition: 0, offset: 100, .. }]), "{found:?}");
}

#[test]
fn a_gap_in_the_offsets_and_in_the_sequences_is_named() {
    let mut records = good();
    let gone = records.remove(120);
    let found = judge(intact(&records));
    assert!(
        matches!(
            found[..],
            [
                Mismatch::Offsets { partition: 0, expected: 60, found: 61 },
                Mismatch::Missing { producer, first, count: 1, sent: 100, .. }
            ] if (producer, first) == (gone.1.producer, gone.1.sequence)
        ),
        "{found:?}"
    );
}

#[test]
fn records_in_the_wrong_order_are_named() {
    let mut records = good();
    let (a, b) = (records[40].1, records[44].1);
    (records[40].1, records[44].1) = (b, a);
    let found = judge(intact(&records));
    assert!(matches!(found[..], [Mismatch::Reordered { partition: 0, offset: 22, .. }]), "{found:?}");
}

#[test]
fn a_foreign_record_among_ours_is_named() {
    let mut records = intact(&good());
    records.push((place(1, 100), Found::Foreign));
    assert_eq!(judge(records), [Mismatch::Foreign { partition: 1, offset: 100 }]);
}

#[test]
fn what_a_queue_says_it_delivers_again_is_no_duplicate() {
    let mut ledger = Ledger::new(Rules { offsets: false, order: false, key_order: true, run: None });
    let at = |offset, again| Place { partition: 0, offset, key: Some(b"k"), again };
    assert_eq!(ledger.saw(at(0, false), Found::Intact(stamp(0, 0))), Verdict::New(stamp(0, 0)));
    ledger.saw(at(1, false), Found::Intact(stamp(0, 1)));
    assert_eq!(ledger.saw(at(0, true), Found::Intact(stamp(0, 0))), Verdict::Again);
    assert_eq!((ledger.again(), ledger.mismatches().0), (1, 0));
    ledger.saw(at(0, false), Found::Intact(stamp(0, 2)));
    assert!(matches!(ledger.mismatches().1, [Mismatch::Reordered { offset: 0, .. }]), "{:?}", ledger.mismatches());
}

#[test]
fn sequences_may_come_in_any_order_and_memory_is_given_back() {
    let mut seen = Seen::default();
    let order = |n: u64| n * 7_919 % 10_000;
    assert!((0..10_000).all(|n| seen.insert(order(n))));
    assert!((0..10_000).all(|n| !seen.insert(n)));
    assert_eq!(seen.missing(10_000), None);
    assert_eq!(seen.missing(10_003), Some((10_000, 3)));
    assert!(seen.words.len() <= 1, "all but the last word is below the floor");
}
