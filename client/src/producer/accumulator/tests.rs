//! The accumulator by example, and against the promise that no record is lost, repeated or reordered.

use millstream_protocol::Timestamp;
use millstream_protocol::batch::BatchView;
use proptest::prelude::*;

use super::*;

const LINGER: Duration = Duration::from_millis(5);

fn accumulator(partitions: u32, batch_bytes_target: usize) -> Accumulator {
    Accumulator::new(Settings { codec: Codec::None, batch_bytes_target, linger: LINGER }, partitions, 0)
}

fn values(closed: Closed) -> Vec<Vec<u8>> {
    let bytes = closed.builder.finish().expect("a closed batch has records");
    let view = BatchView::parse(&bytes).expect("our own batch");
    let records = view.records().expect("it is not compressed");
    records.map(|record| record.expect("our own record").value.expect("a value").to_vec()).collect()
}

fn drain(accumulator: &mut Accumulator) -> Vec<(u32, Vec<Vec<u8>>)> {
    std::iter::from_fn(|| accumulator.take()).map(|closed| (closed.partition.0, values(closed))).collect()
}

#[test]
fn a_batch_is_closed_when_the_next_record_would_exceed_the_target() {
    let (mut accumulator, now) = (accumulator(1, 600), Instant::now());
    for fill in 0..3_u8 {
        accumulator.push(&Record::new(vec![fill; 200]), now).expect("a legal record");
    }
    assert_eq!(drain(&mut accumulator), [(0, vec![vec![0; 200], vec![1; 200]])]);
    accumulator.close_all();
    assert_eq!(drain(&mut accumulator), [(0, vec![vec![2; 200]])]);
}

#[test]
fn a_record_above_the_target_has_a_batch_of_its_own() {
    let (mut accumulator, now) = (accumulator(1, 300), Instant::now());
    accumulator.push(&Record::new("small"), now).expect("a legal record");
    let pushed = accumulator.push(&Record::new(vec![7; 5_000]), now).expect("a legal record");
    assert!(pushed.closed && pushed.opened);
    assert_eq!(drain(&mut accumulator), [(0, vec![b"small".to_vec()]), (0, vec![vec![7; 5_000]])]);
}

#[test]
fn linger_counts_from_the_first_record() {
    let (mut accumulator, start) = (accumulator(1, 10_000), Instant::now());
    accumulator.push(&Record::new("a"), start).expect("a legal record");
    accumulator.push(&Record::new("b"), start + LINGER / 2).expect("a legal record");
    assert_eq!(accumulator.next_deadline(), Some(start + LINGER));
    accumulator.close_due(start + LINGER - Duration::from_nanos(1));
    assert!(accumulator.take().is_none());
    accumulator.close_due(start + LINGER);
    assert_eq!(drain(&mut accumulator), [(0, vec![b"a".to_vec(), b"b".to_vec()])]);
    assert_eq!(accumulator.next_deadline(), None);
}

#[test]
fn a_refused_record_leaves_no_trace() {
    let (mut accumulator, now) = (accumulator(1, 10_000), Instant::now());
    let illegal = Record::new("x").key(vec![0; 5_000]);
    assert!(accumulator.push(&illegal, now).is_err());
    assert_eq!(accumulator.next_deadline(), None, "no empty batch is opened");
    accumulator.push(&Record::new("a"), now).expect("a legal record");
    assert!(accumulator.push(&illegal, now).is_err());
    accumulator.push(&Record::new("b"), now).expect("a legal record");
    accumulator.close_all();
    assert_eq!(drain(&mut accumulator), [(0, vec![b"a".to_vec(), b"b".to_vec()])]);
}

#[test]
fn timestamps_too_far_apart_for_one_batch_get_two() {
    let (mut accumulator, now) = (accumulator(1, 10_000), Instant::now());
    for timestamp in [i64::MIN, i64::MAX] {
        accumulator.push(&Record::new("x").timestamp(Timestamp(timestamp)), now).expect("a legal record");
    }
    accumulator.close_all();
    assert_eq!(drain(&mut accumulator).len(), 2);
}

#[test]
fn what_is_too_old_is_taken_out_open_or_closed() {
    let (mut accumulator, start) = (accumulator(3, 10_000), Instant::now());
    accumulator.push(&Record::new("old, closed"), start).expect("a legal record");
    accumulator.close_all();
    accumulator.push(&Record::new("old, open"), start).expect("a legal record");
    accumulator.close_due(start);
    // Records without keys have moved on only with a closed batch: a key of another partition is needed.
    let other =
        (0..).map(|n: u32| n.to_string()).find(|key| accumulator.partitioner.pick(Some(key.as_bytes()), None).0 == 2);
    let young = Record::new("young").key(other.expect("some key"));
    accumulator.push(&young, start + LINGER).expect("a legal record");
    let expired: Vec<_> = accumulator.expire(start).into_iter().flat_map(values).collect();
    assert_eq!(expired, [b"old, closed".to_vec(), b"old, open".to_vec()]);
    accumulator.close_all();
    assert_eq!(drain(&mut accumulator), [(2, vec![b"young".to_vec()])]);
}

#[derive(Debug, Clone)]
enum Step {
    Push { key: Option<u8>, length: usize },
    Wait(u64),
    Take,
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (prop::option::of(0..6_u8), 0..400_usize).prop_map(|(key, length)| Step::Push { key, length }),
        1 => (0..8_u64).prop_map(Step::Wait),
        1 => Just(Step::Take),
        1 => Just(Step::Flush),
    ]
}

proptest! {
    #[test]
    fn no_record_is_lost_repeated_or_reordered(steps in prop::collection::vec(step(), 0..200)) {
        let mut accumulator = accumulator(4, 1_000);
        let (mut now, mut number, mut buffered) = (Instant::now(), 0_u64, 0);
        let (mut pushed, mut taken) = (vec![Vec::new(); 4], vec![Vec::new(); 4]);
        let mut take = |closed: Closed, buffered: &mut usize| {
            *buffered -= closed.builder.len();
            taken[closed.partition.0 as usize].extend(values(closed));
        };
        for step in steps {
            match step {
                Step::Push { key, length } => {
                    let mut value = number.to_le_bytes().to_vec();
                    value.resize(8 + length, 0);
                    number += 1;
                    let record = Record { key: key.map(|key| vec![key].into()), ..Record::new(value.clone()) };
                    let at = accumulator.push(&record, now).expect("a legal record");
                    buffered += at.bytes;
                    let delivery = super::super::delivery::Delivery::new(accumulator.ticket(&at), at.index, now);
                    pushed[delivery.partition().0 as usize].push(value);
                }
                Step::Wait(ms) => {
                    now += Duration::from_millis(ms);
                    accumulator.close_due(now);
                    prop_assert!(accumulator.next_deadline().is_none_or(|deadline| deadline > now));
                }
                Step::Take => if let Some(closed) = accumulator.take() { take(closed, &mut buffered) },
                Step::Flush => accumulator.close_all(),
            }
        }
        accumulator.close_all();
        while let Some(closed) = accumulator.take() {
            take(closed, &mut buffered);
        }
        prop_assert_eq!(buffered, 0, "what is counted in is counted out");
        prop_assert_eq!(pushed, taken);
    }
}
