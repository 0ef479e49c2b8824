//! Legal runs of a model are good; spoilt in one place of what was observed, they are not.

mod support;

use std::collections::{HashMap, HashSet};

use millstream_check::history::queue::{Answer, DeadLetter, Delivery as QueueDelivery, Receipt as QueueReceipt, Verb};
use millstream_check::history::{CommitOutcome, Event, InGroup, InQueue, OfGroup, OfQueue, Place, What};
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
    fn a_legal_run_of_a_group_is_good((seed, steps) in runs()) {
        let verdict = judge(&support::group::run(seed, steps));
        prop_assert!(verdict.is_good(), "{verdict}\n{:#?}", verdict.violations());
    }

    #[test]
    fn a_legal_run_of_a_queue_is_good((seed, steps) in runs()) {
        let verdict = judge(&support::queue::run(seed, steps));
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

/// Spoils legal runs, as many as `count` for each mutation; the checkers may miss one in a hundred.
#[track_caller]
fn expect_noticed<M: Copy + std::fmt::Debug, S>(
    mutations: impl IntoIterator<Item = M>,
    count: usize,
    run: impl Fn(u64, usize) -> Vec<Event>,
    spoil: impl Fn(&mut Vec<Event>, M, &mut Seeded) -> Option<S>,
) {
    let mut runner = TestRunner::deterministic();
    for mutation in mutations {
        let (mut spoilt, mut missed) = (0, Vec::new());
        while spoilt < count {
            let (seed, steps) = runs().new_tree(&mut runner).expect("runs can be made").current();
            let mut events = run(seed, steps);
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

/// Values of which no second copy is legal.
fn sent_once(events: &[Event]) -> HashSet<ValueId> {
    let exact = |event: &Event| match event.what {
        What::Once { producer } => Some(producer),
        _ => None,
    };
    let exact: HashSet<u32> = events.iter().filter_map(exact).collect();
    let once = |event: &Event| match &event.what {
        What::Invoke { values, .. } => {
            values.iter().copied().filter(|value| exact.contains(&value.producer())).collect()
        }
        What::Ok { values, resends: 0, .. } | What::Info { values, resends: 0, .. } => values.clone(),
        _ => Vec::new(),
    };
    events.iter().flat_map(once).collect()
}

#[test]
fn a_spoilt_run_is_noticed_in_99_of_100_cases() {
    expect_noticed(MUTATIONS, 500, support::run, |events, mutation, seeded| spoil(events, mutation, seeded));
}

#[derive(Debug, Clone, Copy)]
enum GroupMutation {
    /// Nobody got a record.
    Unseen,
    /// A commit that was refused is taken.
    StaleCommit,
    /// An answer says less than what was known.
    Back,
    /// Another member is told the same.
    TwoOwners,
    /// A member begins a record too early.
    TooEarly,
}

const GROUP_MUTATIONS: [GroupMutation; 5] = [
    GroupMutation::Unseen,
    GroupMutation::StaleCommit,
    GroupMutation::Back,
    GroupMutation::TwoOwners,
    GroupMutation::TooEarly,
];

/// Spoils one thing that a group observed; `None` if there is nothing of the kind.
fn spoil_group(events: &mut Vec<Event>, mutation: GroupMutation, seeded: &mut Seeded) -> Option<()> {
    match mutation {
        GroupMutation::Unseen => {
            let mut times: HashMap<(Place, u64), u32> = HashMap::new();
            for (at, records) in events.iter_mut().filter_map(delivered) {
                records.iter().for_each(|(offset, _)| *times.entry((at, *offset)).or_default() += 1);
            }
            let once = |(at, offset): &(Place, u64)| times[&(*at, *offset)] == 1;
            let all = events
                .iter_mut()
                .filter_map(delivered)
                .flat_map(|(at, records)| records.iter().map(move |(offset, _)| (at, *offset)).collect::<Vec<_>>());
            let (at, offset) = chosen(seeded, all.filter(once))?;
            let of = events.iter_mut().filter_map(delivered).filter(|(place, _)| *place == at);
            of.for_each(|(_, records)| records.retain(|(other, _)| *other != offset));
        }
        GroupMutation::StaleCommit => {
            let outcomes = events.iter_mut().filter_map(|event| match in_group(event)? {
                InGroup::CommitDone { outcome, .. } if matches!(outcome, CommitOutcome::Refused { .. }) => {
                    Some(outcome)
                }
                _ => None,
            });
            *chosen(seeded, outcomes)? = CommitOutcome::Ok;
        }
        GroupMutation::Back => {
            let by = seeded.of(1..=3);
            let mut known: HashMap<Place, u64> = HashMap::new();
            let mut lowered = Vec::new();
            for (index, event) in events.iter_mut().enumerate() {
                match in_group(event) {
                    Some(InGroup::CommitDone { at, offset, outcome: CommitOutcome::Ok, .. }) => {
                        let known = known.entry(*at).or_default();
                        *known = (*known).max(*offset);
                    }
                    Some(InGroup::Committed { at, .. }) => {
                        lowered.extend(known.get(at).filter(|known| **known >= by).map(|known| (index, known - by)));
                    }
                    _ => {}
                }
            }
            let (index, less) = chosen(seeded, lowered.into_iter())?;
            if let Some(InGroup::Committed { offset, .. }) = in_group(&mut events[index]) {
                *offset = Some(less);
            }
        }
        GroupMutation::TwoOwners => {
            let told = |(index, event): (usize, &mut Event)| match in_group(event)? {
                InGroup::Assigned { .. } => Some(index),
                _ => None,
            };
            let index = chosen(seeded, events.iter_mut().enumerate().filter_map(told))?;
            let mut other = events[index].clone();
            if let What::Group(OfGroup { member, .. }) = &mut other.what {
                *member += 1_000;
            }
            events.push(other);
        }
        GroupMutation::TooEarly => {
            let values: HashMap<(Place, u64), Option<ValueId>> = events
                .iter_mut()
                .filter_map(delivered)
                .flat_map(|(at, records)| {
                    records.iter().map(move |(offset, v)| ((at, *offset), *v)).collect::<Vec<_>>()
                })
                .collect();
            // Behind a commit that was taken under an older epoch.
            let mut taken: HashMap<Place, (u64, u32)> = HashMap::new();
            let mut begun: HashSet<(Place, u32)> = HashSet::new();
            let mut early = Vec::new();
            for (index, event) in events.iter_mut().enumerate() {
                match in_group(event) {
                    Some(InGroup::CommitDone { at, offset, epoch, outcome: CommitOutcome::Ok, .. }) => {
                        taken.insert(*at, (*offset, *epoch));
                    }
                    Some(InGroup::Delivered { at, epoch, records }) if begun.insert((*at, *epoch)) => {
                        let first = records[0].0;
                        let at_commit = taken.get(at).is_some_and(|(offset, older)| *offset == first && older < epoch);
                        early.extend((at_commit && first > 0).then_some(index));
                    }
                    _ => {}
                }
            }
            let index = chosen(seeded, early.into_iter())?;
            let (at, records) = delivered(&mut events[index])?;
            let before = records[0].0 - 1;
            records.insert(0, (before, values[&(at, before)]));
        }
    }
    Some(())
}

fn in_group(event: &mut Event) -> Option<&mut InGroup> {
    match &mut event.what {
        What::Group(of) => Some(&mut of.what),
        _ => None,
    }
}

/// Offset and value of each record that was delivered.
type Records = Vec<(u64, Option<ValueId>)>;

fn delivered(event: &mut Event) -> Option<(Place, &mut Records)> {
    match in_group(event)? {
        InGroup::Delivered { at, records, .. } => Some((*at, records)),
        _ => None,
    }
}

#[test]
fn a_spoilt_run_of_a_group_is_noticed_in_99_of_100_cases() {
    expect_noticed(GROUP_MUTATIONS, 300, support::group::run, spoil_group);
}

#[derive(Debug, Clone, Copy)]
enum QueueMutation {
    /// The ack of a message was never said: it is lost.
    Unsaid,
    /// A message comes again after its ack.
    Ghost,
    /// Another receiver gets a message that somebody has.
    DoubleLease,
    /// A receipt that was refused is taken.
    StaleReceipt,
    /// A delivery has a higher number than it should.
    Count,
    /// A dead letter is not there.
    NoLetter,
    /// A dead letter stands twice.
    TwoLetters,
    /// A message is sent when its delivery had come already: it was not to come so early.
    Early,
    /// The floor is above a message before that is settled.
    Floor,
}

const QUEUE_MUTATIONS: [QueueMutation; 9] = [
    QueueMutation::Unsaid,
    QueueMutation::Ghost,
    QueueMutation::DoubleLease,
    QueueMutation::StaleReceipt,
    QueueMutation::Count,
    QueueMutation::NoLetter,
    QueueMutation::TwoLetters,
    QueueMutation::Early,
    QueueMutation::Floor,
];

/// Spoils one thing that was observed of a queue; `None` if there is nothing of the kind.
fn spoil_queue(events: &mut Vec<Event>, mutation: QueueMutation, seeded: &mut Seeded) -> Option<()> {
    match mutation {
        QueueMutation::Unsaid => {
            let acked = acks(events).into_iter().map(|(_, receipt)| receipt.offset);
            let offset = chosen(seeded, acked)?;
            events.retain(|event| match in_queue_ref(event) {
                Some(InQueue::Settle { of, .. } | InQueue::Settled { of, .. }) => of[0].offset != offset,
                _ => true,
            });
        }
        QueueMutation::Ghost => {
            let (index, receipt) = chosen(seeded, acks(events).into_iter())?;
            let receives = receives_of(events, receipt.fence)?;
            let at_ns = events[index].at_ns + 1;
            deliver_once_more(events, at_ns, receipt.offset, receives + 1);
        }
        QueueMutation::DoubleLease => {
            let held = events.iter().filter_map(|event| match in_queue_ref(event)? {
                InQueue::Received { deliveries, .. } => Some((event.at_ns, *deliveries.first()?)),
                _ => None,
            });
            let held: Vec<_> = held.collect();
            let said = |fence: u64| {
                let mut of = events.iter().filter(|event| match in_queue_ref(event) {
                    Some(InQueue::Settle { of, .. }) => of[0].fence == fence,
                    _ => false,
                });
                of.next().map_or(u64::MAX, |event| event.at_ns)
            };
            // It has it for long enough that nobody else can have it meanwhile.
            let kept = held.iter().filter(|(at_ns, delivery)| said(delivery.fence) > at_ns + 100_000_000);
            let (at_ns, delivery) = *chosen(seeded, kept)?;
            deliver_once_more(events, at_ns + 50_000_000, delivery.offset, delivery.receives + 1);
        }
        QueueMutation::StaleReceipt => {
            let answers = events.iter_mut().filter_map(|event| match in_queue(event)? {
                // What else comes a little after the deadline may have come in time.
                InQueue::Settled { verb: Verb::Ack, answer, .. } if matches!(answer, Answer::Refused { .. }) => {
                    Some(answer)
                }
                _ => None,
            });
            *chosen(seeded, answers)? = Answer::Ok;
        }
        QueueMutation::Count => {
            let deliveries = events.iter_mut().filter_map(|event| match in_queue(event)? {
                InQueue::Received { deliveries, .. } => deliveries.first_mut(),
                _ => None,
            });
            chosen(seeded, deliveries)?.receives += 1;
        }
        QueueMutation::NoLetter => {
            let records = letters(events)?;
            (!records.is_empty()).then(|| records.remove(seeded.index(records.len())))?;
        }
        QueueMutation::TwoLetters => {
            let records = letters(events)?;
            let again = chosen(seeded, records.clone().into_iter())?;
            let offset = records.len() as u64;
            records.push(DeadLetter { offset, ..again });
        }
        QueueMutation::Early => {
            let delayed: HashSet<ValueId> = events
                .iter()
                .filter_map(|event| match &event.what {
                    What::Delayed { values, .. } => Some(values[0]),
                    _ => None,
                })
                .collect();
            let sent: HashMap<ValueId, u64> = events
                .iter()
                .filter_map(|event| match &event.what {
                    What::Invoke { values, .. } if delayed.contains(&values[0]) => Some((values[0], event.at_ns)),
                    _ => None,
                })
                .collect();
            let firsts = events.iter_mut().filter_map(|event| {
                let first = match in_queue(event)? {
                    InQueue::Received { deliveries, .. } if deliveries.len() == 1 => deliveries[0],
                    _ => None?,
                };
                let sent_ns = sent.get(&first.value?)?;
                (first.receives == 1).then_some((event, *sent_ns))
            });
            let (event, sent_ns) = chosen(seeded, firsts)?;
            event.at_ns = sent_ns + 100_000_000;
            if let Some(InQueue::Received { invoked_ns, .. }) = in_queue(event) {
                *invoked_ns = sent_ns + 1;
            }
        }
        QueueMutation::Floor => {
            let (_, receipt) = chosen(seeded, acks(events).into_iter())?;
            let first = events.iter().position(|event| match in_queue_ref(event) {
                Some(InQueue::Received { deliveries, .. }) => deliveries.iter().any(|d| d.offset == receipt.offset),
                _ => false,
            })?;
            // Before anybody has it.
            let at_ns = events[first].at_ns - 1;
            let floor = InQueue::Floor { at: QUEUES_PLACE, floor: receipt.offset + 1, invoked_ns: at_ns - 1 };
            events.push(of_queue(at_ns, floor));
        }
    }
    Some(())
}

const QUEUES_PLACE: Place = Place { stream: 0, partition: 0 };

fn of_queue(at_ns: u64, what: InQueue) -> Event {
    Event { at_ns, process: 77, what: What::Queue(OfQueue { queue: 0, receiver: 777, what }) }
}

fn in_queue(event: &mut Event) -> Option<&mut InQueue> {
    match &mut event.what {
        What::Queue(of) => Some(&mut of.what),
        _ => None,
    }
}

fn in_queue_ref(event: &Event) -> Option<&InQueue> {
    match &event.what {
        What::Queue(of) => Some(&of.what),
        _ => None,
    }
}

/// Acks that were taken: where, and of what.
fn acks(events: &[Event]) -> Vec<(usize, QueueReceipt)> {
    let ack = |(index, event)| match in_queue_ref(event)? {
        InQueue::Settled { verb: Verb::Ack, of, answer: Answer::Ok, .. } => Some((index, of[0])),
        _ => None,
    };
    events.iter().enumerate().filter_map(ack).collect()
}

fn receives_of(events: &[Event], fence: u64) -> Option<u32> {
    events.iter().find_map(|event| match in_queue_ref(event)? {
        InQueue::Received { deliveries, .. } => {
            deliveries.iter().find(|delivery| delivery.fence == fence).map(|delivery| delivery.receives)
        }
        _ => None,
    })
}

/// With a number that comes behind all others.
fn deliver_once_more(events: &mut Vec<Event>, at_ns: u64, offset: u64, receives: u32) {
    let like = |event: &Event| match in_queue_ref(event)? {
        InQueue::Received { deliveries, .. } => deliveries.iter().find(|delivery| delivery.offset == offset).copied(),
        _ => None,
    };
    let delivery = events.iter().find_map(like).expect("it was delivered before");
    let deliveries = vec![QueueDelivery { receives, fence: 1 << 40, ..delivery }];
    let received = InQueue::Received { stream: 0, invoked_ns: at_ns - 1, visibility_ms: None, deliveries };
    events.push(of_queue(at_ns, received));
}

fn letters(events: &mut [Event]) -> Option<&mut Vec<DeadLetter>> {
    events.iter_mut().find_map(|event| match in_queue(event)? {
        InQueue::DeadLetters { records } => Some(records),
        _ => None,
    })
}

#[test]
fn a_spoilt_run_of_a_queue_is_noticed_in_99_of_100_cases() {
    expect_noticed(QUEUE_MUTATIONS, 300, support::queue::run, spoil_queue);
}

#[test]
fn the_same_seed_makes_the_same_run() {
    assert_eq!(support::run(7, 300), support::run(7, 300));
    assert_ne!(support::run(7, 300), support::run(8, 300));
}
