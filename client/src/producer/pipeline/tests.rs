//! The pipeline by example. `model` and `plain_model` hold it against a server.

use std::sync::Arc;
use std::time::Duration;

use millstream_protocol::batch::{BatchBuilder, BatchView, Codec};
use millstream_protocol::frame::Refusal;
use millstream_protocol::frame::produce::{Duplicate, Stored};
use millstream_protocol::limits::PRODUCER_BATCHES_MAX;
use millstream_protocol::{Offset, Record, Timestamp};

use super::*;
use crate::producer::delivery::Ticket;

/// Not idempotent.
pub(super) const PLAIN: (ProducerId, u32) = (ProducerId(0), 0);
const NUMBERED: (ProducerId, u32) = (ProducerId(7), 0);

/// A batch with so many records, each with its number as the value, encoded under `numbers`.
pub(super) fn batch_of(partition: u32, serial: u64, records: &[Record], numbers: Numbers) -> Batch {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.producer(numbers.producer, numbers.epoch, numbers.base);
    records.iter().for_each(|record| builder.push(record).expect("a legal record"));
    Batch {
        partition: PartitionId(partition),
        record_count: builder.record_count(),
        bytes: builder.finish().expect("it has records"),
        buffered: 8,
        ticket: Arc::new(Ticket::new(PartitionId(partition))),
        opened: Instant::now(),
        serial,
        encoded: numbers,
        base: numbers.base,
        known: Vec::new(),
        sends: 0,
        in_doubt: false,
        is_cut_copy: false,
        was_unknown: false,
        last_error: None,
    }
}

/// A batch of one record.
pub(super) fn batch(partition: u32, number: u64) -> Batch {
    batch_of(partition, number, &[Record::new(number.to_string())], Numbers::default())
}

/// Its records' numbers.
fn numbers(bytes: &Bytes) -> Vec<u64> {
    let records = BatchView::parse(bytes).expect("a batch").records().expect("not compressed");
    let value = |record: Record| record.value.expect("a value");
    records.map(|record| String::from_utf8_lossy(&value(record.expect("whole"))).parse().expect("a number")).collect()
}

pub(super) fn number(bytes: &Bytes) -> u64 {
    numbers(bytes)[0]
}

/// Epoch and base sequence.
fn header(bytes: &Bytes) -> (u32, u64) {
    let view = BatchView::parse(bytes).expect("a batch");
    (view.header().producer_epoch, view.header().base_sequence)
}

pub(super) fn send(pipeline: &mut Pipeline, now: Instant) -> Option<Outgoing> {
    match pipeline.next(now) {
        Next::Send(outgoing) => Some(outgoing),
        _ => None,
    }
}

fn send_all(pipeline: &mut Pipeline) -> Vec<Outgoing> {
    std::iter::from_fn(|| send(pipeline, Instant::now())).collect()
}

fn ack(pipeline: &mut Pipeline, correlation: u64, answer: Answer) -> Option<Finished> {
    pipeline.ack(correlation, answer, Instant::now()).expect("in order").finished
}

pub(super) fn stored() -> Answer {
    Answer::Stored(Stored { base_offset: Offset(0), append_time: Timestamp(0) })
}

pub(super) fn refused(code: Code) -> Answer {
    Answer::Refused(Refusal::new(code, "no"))
}

pub(super) fn lost() -> Error {
    Error::lost("gone", "test")
}

/// Asserts that a bump is asked for, and answers it.
fn bump(pipeline: &mut Pipeline, next: Option<u64>) -> Vec<Finished> {
    let Next::Bump(id, epoch) = pipeline.next(Instant::now()) else { panic!("no bump is asked for") };
    assert_eq!(id, NUMBERED.0);
    pipeline.bumped(epoch + 1, &[NextSequence { partition: 0, next }])
}

#[test]
fn after_a_retryable_refusal_all_is_sent_again_in_order_with_one_resume_flag() {
    let (mut pipeline, now) = (Pipeline::new(2, 8, PLAIN), Instant::now());
    (0..3).for_each(|n| pipeline.push(batch(0, n)));
    pipeline.push(batch(1, 9));
    let sent: Vec<_> = std::iter::from_fn(|| send(&mut pipeline, now)).collect();
    assert_eq!(sent.iter().map(|out| number(&out.bytes)).collect::<Vec<_>>(), [0, 9, 1, 2], "partitions take turns");
    assert!(sent.iter().all(|out| !out.resume));

    let of = |n: u64| sent.iter().find(|out| number(&out.bytes) == n).expect("sent").correlation;
    assert!(ack(&mut pipeline, of(0), refused(Code::DiskFull)).is_none());
    pipeline.push(batch(0, 3));
    assert!(send(&mut pipeline, now).is_none(), "two are not answered yet");
    // Whatever the code of those behind, they were not tried.
    assert!(ack(&mut pipeline, of(1), refused(Code::Throttled)).is_none());
    assert!(ack(&mut pipeline, of(2), refused(Code::CorruptBatch)).is_none());
    assert!(ack(&mut pipeline, of(9), stored()).is_some(), "other partitions go on");

    let Next::Wait(Some(until)) = pipeline.next(now) else { panic!("the partition is held") };
    assert!(until > now);
    let again: Vec<_> = std::iter::from_fn(|| send(&mut pipeline, until)).collect();
    assert_eq!(again.iter().map(|out| number(&out.bytes)).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(again.iter().map(|out| out.resume).collect::<Vec<_>>(), [true, false, false, false]);
    assert_eq!((pipeline.counts().sent, pipeline.counts().resent), (8, 3));
}

#[test]
fn a_definite_refusal_fails_its_own_batch_and_the_rest_goes_on_at_once() {
    let (mut pipeline, now) = (Pipeline::new(1, 8, PLAIN), Instant::now());
    (0..2).for_each(|n| pipeline.push(batch(0, n)));
    let sent: Vec<_> = std::iter::from_fn(|| send(&mut pipeline, now)).collect();
    let finished = ack(&mut pipeline, sent[0].correlation, refused(Code::CorruptBatch)).expect("it is through");
    assert_eq!((finished.batch.serial, finished.result.expect_err("refused").code()), (0, Code::CorruptBatch));
    assert!(ack(&mut pipeline, sent[1].correlation, refused(Code::Throttled)).is_none());
    let again = send(&mut pipeline, now).expect("no backoff");
    assert_eq!((number(&again.bytes), again.resume), (1, true));
}

#[test]
fn depth_bounds_what_is_in_flight_and_readiness_what_is_packed_ahead() {
    let (mut pipeline, now) = (Pipeline::new(1, 2, PLAIN), Instant::now());
    for n in 0..READY_BATCHES as u64 {
        assert!(pipeline.wants_more());
        pipeline.push(batch(0, n));
    }
    assert!(!pipeline.wants_more());
    assert_eq!(std::iter::from_fn(|| send(&mut pipeline, now)).count(), 2);
    assert!(!pipeline.wants_more(), "the depth is used up");
    ack(&mut pipeline, 1, stored());
    assert!(pipeline.wants_more());
}

#[test]
fn acks_out_of_order_or_of_nothing_are_the_servers_fault() {
    let (mut pipeline, now) = (Pipeline::new(1, 8, PLAIN), Instant::now());
    (0..2).for_each(|n| pipeline.push(batch(0, n)));
    while send(&mut pipeline, now).is_some() {}
    assert_eq!(pipeline.ack(77, stored(), now).expect_err("no such batch").code(), Code::ProtocolViolation);
    assert_eq!(pipeline.ack(2, stored(), now).expect_err("1 comes first").code(), Code::ProtocolViolation);
    pipeline.lost(&lost());
    assert_eq!(std::iter::from_fn(|| send(&mut pipeline, now)).count(), 2, "nothing was lost by it");
}

#[test]
fn old_batches_expire_where_they_wait_and_are_reported_where_they_fly() {
    let (mut pipeline, now) = (Pipeline::new(1, 1, PLAIN), Instant::now());
    (0..2).for_each(|n| pipeline.push(batch(0, n)));
    assert!(send(&mut pipeline, now).is_some());
    let late = Instant::now() + Duration::from_secs(1);
    let (expired, in_flight) = pipeline.expire(late);
    assert_eq!((expired.len(), in_flight), (1, true));
    pipeline.lost(&lost());
    let (expired, in_flight) = pipeline.expire(late);
    assert_eq!((expired.len(), in_flight), (1, false));
    assert!(expired[0].last_error.is_some() && expired[0].sends == 1);
    assert!(send(&mut pipeline, now).is_none(), "a lane without batches is passed over");
}

#[test]
fn numbers_follow_on_and_a_lost_stream_sends_the_same_ones_again() {
    let mut pipeline = Pipeline::new(1, 8, NUMBERED);
    let three: Vec<Record> = (0..3).map(|n| Record::new(n.to_string())).collect();
    pipeline.push(batch_of(0, 0, &three, pipeline.numbers(PartitionId(0))));
    pipeline.push(batch_of(0, 1, &three, Numbers::default()));
    let sent = send_all(&mut pipeline);
    assert_eq!(sent.iter().map(|out| header(&out.bytes)).collect::<Vec<_>>(), [(0, 0), (0, 3)]);
    assert!(sent.iter().all(|out| !out.resend));
    ack(&mut pipeline, sent[0].correlation, stored());
    pipeline.lost(&lost());
    let again = send_all(&mut pipeline);
    assert_eq!(again.iter().map(|out| (header(&out.bytes), out.resend)).collect::<Vec<_>>(), [((0, 3), true)]);
}

#[test]
fn a_batch_refused_on_the_only_stream_leaves_no_doubt_and_what_follows_moves_up_at_once() {
    let mut pipeline = Pipeline::new(1, 8, NUMBERED);
    (0..3).for_each(|n| pipeline.push(batch(0, n)));
    let sent = send_all(&mut pipeline);
    assert!(ack(&mut pipeline, sent[0].correlation, refused(Code::CorruptBatch)).is_some());
    assert!(ack(&mut pipeline, sent[1].correlation, refused(Code::Throttled)).is_none());
    assert!(matches!(pipeline.next(Instant::now()), Next::Wait(_)), "one is not answered yet");
    assert!(ack(&mut pipeline, sent[2].correlation, refused(Code::Throttled)).is_none());
    let again = send_all(&mut pipeline);
    assert_eq!(
        again.iter().map(|out| (number(&out.bytes), header(&out.bytes))).collect::<Vec<_>>(),
        [(1, (0, 0)), (2, (0, 1))]
    );
}

#[test]
fn a_batch_given_up_in_doubt_costs_a_bump_and_the_server_says_what_it_has() {
    // What is stored keeps its number; what is not follows on from there.
    for (next, expected) in
        [(1, vec![(1, (1, 1)), (2, (1, 2))]), (2, vec![(1, (1, 1)), (2, (1, 2))]), (0, vec![(1, (1, 0)), (2, (1, 1))])]
    {
        let mut pipeline = Pipeline::new(2, 8, NUMBERED);
        let start = Instant::now();
        pipeline.push(batch(0, 0));
        let mut young = batch(0, 1);
        young.opened = start + Duration::from_secs(60);
        pipeline.push(young);
        send_all(&mut pipeline);
        pipeline.lost(&lost());
        pipeline.push(Batch { opened: start + Duration::from_secs(60), ..batch(0, 2) });
        assert_eq!(pipeline.expire(start + Duration::from_secs(1)).0.len(), 1);
        assert!(!pipeline.wants_more(), "nothing is packed meanwhile");
        assert!(bump(&mut pipeline, Some(next)).is_empty());
        let sent = send_all(&mut pipeline);
        assert_eq!(
            sent.iter().map(|out| (number(&out.bytes), header(&out.bytes))).collect::<Vec<_>>(),
            expected,
            "{next}"
        );
        assert_eq!(sent.iter().map(|out| out.resend).collect::<Vec<_>>(), [next == 2, false], "{next}");
    }
}

#[test]
fn a_bump_waits_for_other_partitions_and_is_asked_for_until_it_is_done() {
    let mut pipeline = Pipeline::new(2, 8, NUMBERED);
    pipeline.push(batch(0, 0));
    pipeline.push(batch(1, 1));
    let sent = send_all(&mut pipeline);
    assert!(ack(&mut pipeline, sent[0].correlation, refused(Code::DurabilityUnknown)).is_some());
    pipeline.push(batch(1, 2));
    assert!(matches!(pipeline.next(Instant::now()), Next::Wait(None)), "partition 1 has one in flight");
    ack(&mut pipeline, sent[1].correlation, stored());
    assert!(matches!(pipeline.next(Instant::now()), Next::Bump(..)));
    pipeline.lost(&lost());
    // Partition 1 is not open: it goes on as it was.
    bump(&mut pipeline, Some(1));
    assert_eq!(send_all(&mut pipeline).iter().map(|out| header(&out.bytes)).collect::<Vec<_>>(), [(1, 1)]);
    assert_eq!(pipeline.numbers(PartitionId(0)).base, 1);
}

#[test]
fn a_forgotten_producer_begins_anew_and_says_what_it_cannot_know() {
    // What the server says it has: nothing it remembers, nothing for sure, the batch, and the batch without its place.
    for (next, is_unknown, is_sent) in
        [(None, true, false), (Some(1), false, true), (Some(2), false, true), (Some(2), true, true)]
    {
        let mut pipeline = Pipeline::new(1, 8, NUMBERED);
        (0..2).for_each(|n| pipeline.push(batch(0, n)));
        let sent = send_all(&mut pipeline);
        ack(&mut pipeline, sent[0].correlation, stored());
        pipeline.lost(&lost());
        (2..4).for_each(|n| pipeline.push(batch(0, n)));
        let sent = send_all(&mut pipeline);
        assert!(ack(&mut pipeline, sent[0].correlation, refused(Code::UnknownProducer)).is_none());
        for out in &sent[1..] {
            assert!(ack(&mut pipeline, out.correlation, refused(Code::Throttled)).is_none());
        }
        let mut unknown = bump(&mut pipeline, next);
        let sent = send_all(&mut pipeline);
        let base = next.unwrap_or(0);
        let expected: Vec<_> = match is_sent {
            true => vec![(1, (1, 1)), (2, (1, 2)), (3, (1, 3))],
            false => vec![(2, (1, base)), (3, (1, base + 1))],
        };
        assert_eq!(sent.iter().map(|out| (number(&out.bytes), header(&out.bytes))).collect::<Vec<_>>(), expected);
        assert_eq!(sent[0].resend, next == Some(2), "{next:?}: no other copy can be stored");
        if is_sent {
            let answer = if is_unknown { refused(Code::UnknownProducer) } else { stored() };
            unknown.extend(ack(&mut pipeline, sent[0].correlation, answer));
        }
        let [finished] = unknown.as_slice() else { panic!("{unknown:?}") };
        assert_eq!(finished.batch.serial, 1);
        let error = finished.result.as_ref().err();
        assert_eq!(
            error.map(|error| (error.code(), error.outcome())),
            is_unknown.then_some((Code::UnknownProducer, Outcome::Indefinite))
        );
    }
}

#[test]
fn a_fenced_batch_is_kept_until_a_bump_has_told_who_fenced_it() {
    let mut pipeline = Pipeline::new(1, 8, NUMBERED);
    pipeline.push(batch(0, 0));
    let sent = send_all(&mut pipeline);
    assert!(ack(&mut pipeline, sent[0].correlation, refused(Code::Fenced)).is_none());
    assert!(bump(&mut pipeline, None).is_empty());
    assert_eq!(header(&send_all(&mut pipeline)[0].bytes), (1, 0));
}

#[test]
fn the_rest_of_a_batch_goes_under_its_number_and_what_follows_moves_up() {
    let mut pipeline = Pipeline::new(1, 8, NUMBERED);
    let five: Vec<Record> = (0..5).map(|n| Record::new(n.to_string())).collect();
    pipeline.push(batch_of(0, 0, &five, pipeline.numbers(PartitionId(0))));
    pipeline.push(batch(0, 9));
    let sent = send_all(&mut pipeline);
    let duplicates = |indices: &[u32]| -> Vec<Duplicate> {
        let of = |index: &u32| Duplicate {
            index: *index,
            offset: Offset(100 + u64::from(*index)),
            append_time: Timestamp(0),
        };
        indices.iter().map(of).collect()
    };
    let partly = |pipeline: &mut Pipeline, correlation, named: &[u32]| {
        let (bytes, _) = pipeline.sent(correlation).expect("in flight");
        let rest = without(&bytes, &duplicates(named), Codec::Zstd).expect("our own batch");
        let answer = Answer::Duplicates { duplicates: duplicates(named), rest };
        let answered = pipeline.ack(correlation, answer, Instant::now()).expect("in order");
        let known = answered.known.expect("some are known").duplicates;
        (known.iter().map(|known| known.index).collect::<Vec<_>>(), answered.finished)
    };
    let (known, finished) = partly(&mut pipeline, sent[0].correlation, &[1, 3]);
    assert_eq!((known.as_slice(), finished.is_some()), ([1, 3].as_slice(), false));
    assert!(ack(&mut pipeline, sent[1].correlation, refused(Code::Throttled)).is_none());
    let sent = send_all(&mut pipeline);
    assert_eq!(sent.iter().map(|out| numbers(&out.bytes)).collect::<Vec<_>>(), [vec![0, 2, 4], vec![9]]);
    assert_eq!(sent.iter().map(|out| header(&out.bytes)).collect::<Vec<_>>(), [(0, 0), (0, 3)]);
    assert_eq!(sent.iter().map(|out| out.resume).collect::<Vec<_>>(), [true, false]);
    // Another one, by its index in what was sent: the record that was enqueued third.
    let (known, finished) = partly(&mut pipeline, sent[0].correlation, &[1]);
    assert_eq!((known.as_slice(), finished.is_some()), ([2].as_slice(), false));
    assert!(ack(&mut pipeline, sent[1].correlation, refused(Code::Throttled)).is_none());
    let sent = send_all(&mut pipeline);
    let (known, finished) = partly(&mut pipeline, sent[0].correlation, &[0, 1]);
    assert_eq!(known, [0, 4]);
    assert!(matches!(finished, Some(Finished { result: Ok(None), .. })), "all of it is known");
    assert_eq!(header(&sent[1].bytes), (0, 2), "the next one follows on");
    assert!(ack(&mut pipeline, sent[1].correlation, stored()).is_some());
}

#[test]
fn a_copy_from_before_the_cut_is_fenced_before_the_rest_goes_on() {
    // Where the lost copy was stored whole all the same (its ids had left the window by then), the rest has no place.
    for (next, expected) in [(0, Some((1, 0))), (3, None)] {
        let mut pipeline = Pipeline::new(1, 8, NUMBERED);
        let three: Vec<Record> = (0..3).map(|n| Record::new(n.to_string())).collect();
        pipeline.push(batch_of(0, 0, &three, pipeline.numbers(PartitionId(0))));
        send_all(&mut pipeline);
        pipeline.lost(&lost());
        let sent = send_all(&mut pipeline);
        let duplicates = vec![Duplicate { index: 1, offset: Offset(9), append_time: Timestamp(0) }];
        let rest = without(&sent[0].bytes, &duplicates, Codec::None).expect("our own batch");
        assert!(ack(&mut pipeline, sent[0].correlation, Answer::Duplicates { duplicates, rest }).is_none());
        let unknown = bump(&mut pipeline, Some(next));
        let sent = send_all(&mut pipeline);
        assert_eq!(sent.first().map(|out| header(&out.bytes)), expected, "{next}");
        assert!(sent.iter().all(|out| !out.resend && numbers(&out.bytes) == [0, 2]));
        let codes: Vec<_> = unknown.iter().filter_map(|batch| batch.result.as_ref().err().map(Error::code)).collect();
        assert_eq!(codes, if next == 0 { vec![] } else { vec![Code::UnknownProducer] });
    }
}

#[test]
fn what_a_partition_remembers_bounds_its_batches_in_flight() {
    let count = PRODUCER_BATCHES_MAX as u64;
    for (producer, expected) in [(NUMBERED, count), (PLAIN, count + 9)] {
        let mut pipeline = Pipeline::new(1, 4_096, producer);
        (0..count + 9).for_each(|n| pipeline.push(batch(0, n)));
        assert_eq!(send_all(&mut pipeline).len() as u64, expected);
        ack(&mut pipeline, 1, stored());
        assert_eq!(send_all(&mut pipeline).len() as u64, u64::from(producer == NUMBERED));
    }
}

#[test]
fn a_refusal_that_lies_in_no_batch_leaves_the_fate_of_a_lost_copy_open() {
    for (code, outcome) in [(Code::NotAllowed, Outcome::Indefinite), (Code::RecordTooLarge, Outcome::Definite)] {
        let mut pipeline = Pipeline::new(1, 8, NUMBERED);
        pipeline.push(batch(0, 0));
        send_all(&mut pipeline);
        pipeline.lost(&lost());
        let sent = send_all(&mut pipeline);
        let finished = ack(&mut pipeline, sent[0].correlation, refused(code)).expect("given up");
        assert_eq!(finished.result.expect_err("refused").outcome(), outcome, "{code}");
    }
}
