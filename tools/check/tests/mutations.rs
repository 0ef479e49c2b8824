//! Legal runs of a model are good; spoilt in one place of what was observed, they are not.

mod support;

use std::collections::{HashMap, HashSet};

use millstream_check::history::{Event, Place, What};
use millstream_check::log::{LogHistory, Rules};
use millstream_check::seeded::Seeded;
use millstream_check::value::ValueId;
use millstream_check::verdict::Verdict;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

fn judge(events: &[Event]) -> Verdict {
    let mut log = LogHistory::default();
    events.iter().cloned().for_each(|event| log.push(event));
    log.judge(Rules::default())
}

fn runs() -> impl Strategy<Value = (u64, usize)> {
    (any::<u64>(), 20_usize..400)
}

proptest! {
    #[test]
    fn a_legal_run_is_good((seed, steps) in runs()) {
        let verdict = judge(&support::run(seed, steps));
        prop_assert!(verdict.is_good(), "{verdict}\n{:#?}", verdict.violations());
    }

    #[test]
    fn the_order_of_the_files_does_not_matter((seed, steps) in runs()) {
        let mut events = support::run(seed, steps);
        let before = judge(&events);
        // Stable: the events of one process stay in their order.
        events.sort_by_key(|event| std::cmp::Reverse(event.process));
        let after = judge(&events);
        prop_assert_eq!((after.is_good(), after.counts()), (true, before.counts()));
    }
}

#[derive(Debug, Clone, Copy)]
enum Mutation {
    /// A record of the last read is not there.
    Drop,
    /// A record stands once more, at the end.
    Duplicate,
    /// Two records of one answer change places.
    Swap,
    /// A consumer's or asker's answer goes back.
    MoveBack,
}

const MUTATIONS: [Mutation; 4] = [Mutation::Drop, Mutation::Duplicate, Mutation::Swap, Mutation::MoveBack];

/// Spoils one thing that was observed; `None` if there is nothing of the kind.
fn spoil(events: &mut [Event], mutation: Mutation, seeded: &mut Seeded) -> Option<()> {
    match mutation {
        Mutation::Drop => {
            let records = chosen(seeded, events.iter_mut().filter_map(last_read).filter(|read| !read.is_empty()))?;
            records.remove(seeded.index(records.len()));
        }
        Mutation::Duplicate => {
            // Of one that may stand twice, a further copy may be legal.
            let once = sent_once(events);
            let records = chosen(seeded, events.iter_mut().filter_map(last_read).filter(|read| !read.is_empty()))?;
            let all: Vec<_> = records.iter().filter_map(|(_, value)| value.filter(|v| once.contains(v))).collect();
            let again = chosen(seeded, all.into_iter())?;
            records.push((records.last()?.0 + 1, Some(again)));
        }
        Mutation::Swap => {
            let records = chosen(seeded, events.iter_mut().filter_map(any_read).filter(|read| read.len() > 1))?;
            let one = seeded.index(records.len());
            let other = records.iter().position(|(_, value)| *value != records[one].1)?;
            (records[one].1, records[other].1) = (records[other].1, records[one].1);
        }
        Mutation::MoveBack => {
            let by = seeded.of(1..=3);
            let known = known_before(events);
            let goes_back = |(index, event): &(usize, &mut Event)| match &event.what {
                What::Fetch { records, .. } => records[0].0 >= by,
                What::Tail { .. } => known[*index] >= by,
                _ => false,
            };
            let (index, event) = chosen(seeded, events.iter_mut().enumerate().filter(goes_back))?;
            match &mut event.what {
                What::Fetch { records, .. } => records.iter_mut().for_each(|(offset, _)| *offset -= by),
                // Below what an answer before it said: a step back that nobody could know of is none.
                What::Tail { high_watermark, .. } => *high_watermark = known[index] - by,
                _ => unreachable!("only these go back"),
            }
        }
    }
    Some(())
}

/// For each event: up to where its partition was known to reach by the events before it.
fn known_before(events: &[Event]) -> Vec<u64> {
    let mut ends: HashMap<Place, u64> = HashMap::new();
    let known = |event: &Event| {
        let (at, end) = match event.what {
            What::Ok { at, base_offset, ref values, .. } => (at, base_offset + values.len() as u64),
            What::Fetch { at, high_watermark, .. } | What::Tail { at, high_watermark, .. } => (at, high_watermark),
            _ => return 0,
        };
        let known = ends.entry(at).or_default();
        let before = *known;
        *known = before.max(end);
        before
    };
    events.iter().map(known).collect()
}

fn chosen<T>(seeded: &mut Seeded, from: impl Iterator<Item = T>) -> Option<T> {
    let mut all: Vec<T> = from.collect();
    (!all.is_empty()).then(|| all.swap_remove(seeded.index(all.len())))
}

fn last_read(event: &mut Event) -> Option<&mut Vec<(u64, Option<ValueId>)>> {
    match &mut event.what {
        What::Final { records, .. } => Some(records),
        _ => None,
    }
}

fn any_read(event: &mut Event) -> Option<&mut Vec<(u64, Option<ValueId>)>> {
    match &mut event.what {
        What::Final { records, .. } | What::Fetch { records, .. } => Some(records),
        _ => None,
    }
}

fn sent_once(events: &[Event]) -> HashSet<ValueId> {
    let once = |event: &Event| match &event.what {
        What::Ok { values, resends: 0, .. } | What::Info { values, resends: 0, .. } => values.clone(),
        _ => Vec::new(),
    };
    events.iter().flat_map(once).collect()
}

#[test]
fn a_spoilt_run_is_noticed_in_99_of_100_cases() {
    let mut runner = TestRunner::deterministic();
    for mutation in MUTATIONS {
        let (mut spoilt, mut missed) = (0, Vec::new());
        while spoilt < 500 {
            let (seed, steps) = runs().new_tree(&mut runner).expect("runs can be made").current();
            let mut events = support::run(seed, steps);
            if spoil(&mut events, mutation, &mut Seeded::new(seed)).is_some() {
                spoilt += 1;
                if judge(&events).is_good() {
                    missed.push((seed, steps));
                }
            }
        }
        assert!(missed.len() * 100 <= spoilt, "{mutation:?}: {} of {spoilt} were missed: {missed:?}", missed.len());
    }
}

#[test]
fn the_same_seed_makes_the_same_run() {
    assert_eq!(support::run(7, 300), support::run(7, 300));
    assert_ne!(support::run(7, 300), support::run(8, 300));
}
