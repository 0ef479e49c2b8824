//! The pipeline against a small model of the server: it stores or refuses what comes first, gates a partition after
//! a refusal until the resume flag, and may lose the stream at any time.
//! After each run: every partition's log holds its batches in order; repeats only where the stream was lost; a batch
//! that failed is in no log.

use std::time::Duration;

use millstream_protocol::{Offset, Timestamp};
use proptest::prelude::*;

use super::*;

fn batch(partition: u32, number: u64) -> Batch {
    Batch {
        partition: PartitionId(partition),
        bytes: Bytes::copy_from_slice(&number.to_le_bytes()),
        record_count: 1,
        buffered: 8,
        ticket: Arc::new(Ticket::new(PartitionId(partition))),
        opened: Instant::now(),
        sequence: number,
        sends: 0,
        in_doubt: false,
        last_error: None,
    }
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

fn send(pipeline: &mut Pipeline, now: Instant) -> Option<Outgoing> {
    match pipeline.next(now) {
        Next::Send(outgoing) => Some(outgoing),
        Next::Wait(_) => None,
    }
}

fn stored(correlation: u64) -> ProduceAck {
    ProduceAck {
        correlation,
        result: Ok(Produced::Stored(Stored { base_offset: Offset(0), append_time: Timestamp(0) })),
    }
}

fn refused(correlation: u64, code: Code) -> ProduceAck {
    ProduceAck { correlation, result: Err(Refusal::new(code, "no")) }
}

fn lost() -> Error {
    Error::lost("gone", "test")
}

#[test]
fn after_a_retryable_refusal_all_is_sent_again_in_order_with_one_resume_flag() {
    let (mut pipeline, now) = (Pipeline::new(2, 8), Instant::now());
    (0..3).for_each(|n| pipeline.push(batch(0, n)));
    pipeline.push(batch(1, 9));
    let sent: Vec<_> = std::iter::from_fn(|| send(&mut pipeline, now)).collect();
    assert_eq!(sent.iter().map(|out| number(&out.bytes)).collect::<Vec<_>>(), [0, 9, 1, 2], "partitions take turns");
    assert!(sent.iter().all(|out| !out.resume));

    let of = |n: u64| sent.iter().find(|out| number(&out.bytes) == n).expect("sent").correlation;
    assert!(pipeline.ack(refused(of(0), Code::DiskFull), now).expect("in order").is_none());
    pipeline.push(batch(0, 3));
    assert!(send(&mut pipeline, now).is_none(), "two are not answered yet");
    // Whatever the code of those behind, they were not tried.
    assert!(pipeline.ack(refused(of(1), Code::Throttled), now).expect("in order").is_none());
    assert!(pipeline.ack(refused(of(2), Code::CorruptBatch), now).expect("in order").is_none());
    assert!(pipeline.ack(stored(of(9)), now).expect("in order").is_some(), "other partitions go on");

    let Next::Wait(Some(until)) = pipeline.next(now) else { panic!("the partition is held") };
    assert!(until > now);
    let again: Vec<_> = std::iter::from_fn(|| send(&mut pipeline, until)).collect();
    assert_eq!(again.iter().map(|out| number(&out.bytes)).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(again.iter().map(|out| out.resume).collect::<Vec<_>>(), [true, false, false, false]);
    assert_eq!((pipeline.counts().sent, pipeline.counts().resent), (8, 3));
}

#[test]
fn a_definite_refusal_fails_its_own_batch_and_the_rest_goes_on_at_once() {
    let (mut pipeline, now) = (Pipeline::new(1, 8), Instant::now());
    (0..2).for_each(|n| pipeline.push(batch(0, n)));
    let sent: Vec<_> = std::iter::from_fn(|| send(&mut pipeline, now)).collect();
    let finished = pipeline.ack(refused(sent[0].correlation, Code::CorruptBatch), now).expect("in order");
    let finished = finished.expect("it is through");
    assert_eq!((finished.batch.sequence, finished.result.expect_err("refused").code()), (0, Code::CorruptBatch));
    assert!(pipeline.ack(refused(sent[1].correlation, Code::Throttled), now).expect("in order").is_none());
    let again = send(&mut pipeline, now).expect("no backoff");
    assert_eq!((number(&again.bytes), again.resume), (1, true));
}

#[test]
fn depth_bounds_what_is_in_flight_and_readiness_what_is_packed_ahead() {
    let (mut pipeline, now) = (Pipeline::new(1, 2), Instant::now());
    for n in 0..READY_BATCHES as u64 {
        assert!(pipeline.wants_more());
        pipeline.push(batch(0, n));
    }
    assert!(!pipeline.wants_more());
    assert_eq!(std::iter::from_fn(|| send(&mut pipeline, now)).count(), 2);
    assert!(!pipeline.wants_more(), "the depth is used up");
    pipeline.ack(stored(1), now).expect("in order");
    assert!(pipeline.wants_more());
}

#[test]
fn acks_out_of_order_or_of_nothing_are_the_servers_fault() {
    let (mut pipeline, now) = (Pipeline::new(1, 8), Instant::now());
    (0..2).for_each(|n| pipeline.push(batch(0, n)));
    while send(&mut pipeline, now).is_some() {}
    assert_eq!(pipeline.ack(stored(77), now).expect_err("no such batch").code(), Code::ProtocolViolation);
    assert_eq!(pipeline.ack(stored(2), now).expect_err("1 comes first").code(), Code::ProtocolViolation);
    pipeline.lost(&lost());
    assert_eq!(std::iter::from_fn(|| send(&mut pipeline, now)).count(), 2, "nothing was lost by it");
}

#[test]
fn old_batches_expire_where_they_wait_and_are_reported_where_they_fly() {
    let (mut pipeline, now) = (Pipeline::new(1, 1), Instant::now());
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

#[derive(Debug, Clone, Copy)]
enum Step {
    Push(u32),
    Send,
    Store,
    RefuseRetryable,
    RefuseForGood,
    Lose,
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..3_u32).prop_map(Step::Push),
        6 => Just(Step::Send),
        5 => Just(Step::Store),
        1 => Just(Step::RefuseRetryable),
        1 => Just(Step::RefuseForGood),
        1 => Just(Step::Lose),
        1 => Just(Step::Wait),
    ]
}

/// One produce stream's other end.
#[derive(Default)]
struct Server {
    arrived: VecDeque<Outgoing>,
    gated: [bool; 3],
    logs: [Vec<u64>; 3],
}

impl Server {
    fn answer(&mut self, refusal: Option<Code>) -> Option<ProduceAck> {
        let out = self.arrived.pop_front()?;
        let at = out.partition.0 as usize;
        if out.resume {
            self.gated[at] = false;
        }
        if self.gated[at] {
            return Some(refused(out.correlation, Code::Throttled));
        }
        match refusal {
            Some(code) => {
                self.gated[at] = true;
                Some(refused(out.correlation, code))
            }
            None => {
                self.logs[at].push(number(&out.bytes));
                Some(stored(out.correlation))
            }
        }
    }
}

proptest! {
    #[test]
    fn order_is_kept_through_refusals_and_losses(steps in prop::collection::vec(step(), 0..300)) {
        let mut pipeline = Pipeline::new(3, 6);
        let mut server = Server::default();
        let mut now = Instant::now();
        let mut pushed = [const { Vec::new() }; 3];
        let (mut failed, mut count, mut losses) = (Vec::new(), 0, 0);
        let mut run = |step: Step, pipeline: &mut Pipeline, server: &mut Server| {
            let ack = match step {
                Step::Push(partition) => {
                    pipeline.push(batch(partition, count));
                    pushed[partition as usize].push(count);
                    count += 1;
                    None
                }
                Step::Send => {
                    server.arrived.extend(send(pipeline, now));
                    None
                }
                Step::Store => server.answer(None),
                Step::RefuseRetryable => server.answer(Some(Code::DiskFull)),
                Step::RefuseForGood => server.answer(Some(Code::CorruptBatch)),
                Step::Lose => {
                    // Part of what arrived is stored, and nobody hears of it.
                    let _ = server.answer(None);
                    (server.arrived, server.gated, losses) = (VecDeque::new(), [false; 3], losses + 1);
                    pipeline.lost(&lost());
                    None
                }
                Step::Wait => {
                    now += Duration::from_secs(3);
                    None
                }
            };
            if let Some(finished) = ack.and_then(|ack| pipeline.ack(ack, now).expect("the model answers in order"))
                && finished.result.is_err()
            {
                failed.push(finished.batch.sequence);
            }
            assert!(pipeline.in_flight() <= 6);
        };
        for step in steps {
            run(step, &mut pipeline, &mut server);
        }
        for _ in 0..2_000 {
            [Step::Wait, Step::Send, Step::Store].into_iter().for_each(|step| run(step, &mut pipeline, &mut server));
        }
        prop_assert_eq!(pipeline.in_flight(), 0);
        for (partition, log) in server.logs.iter().enumerate() {
            let mut first_times = Vec::new();
            for number in log {
                if !first_times.contains(number) {
                    first_times.push(*number);
                }
            }
            let wanted: Vec<u64> = pushed[partition].iter().copied().filter(|n| first_times.contains(n)).collect();
            prop_assert_eq!(&first_times, &wanted, "first copies are in order");
            let missing = pushed[partition].iter().filter(|n| !first_times.contains(n));
            prop_assert!(missing.clone().all(|n| failed.contains(n)), "only what failed is missing");
            prop_assert!(log.len() == first_times.len() || losses > 0, "repeats come from losses only");
        }
    }
}
