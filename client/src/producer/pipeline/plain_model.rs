//! The pipeline of a producer that is not idempotent, against a small model of the server: it stores or refuses what comes
//! first, gates a partition after a refusal until the resume flag, and may lose the stream at any time.
//! After each run: every partition's log holds its batches in order; repeats only where the stream was lost; a batch
//! that failed is in no log.

use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;

use super::tests::{PLAIN, batch, lost, number, refused, send, stored};
use super::*;

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
    fn answer(&mut self, refusal: Option<Code>) -> Option<(u64, Answer)> {
        let out = self.arrived.pop_front()?;
        let at = out.partition.0 as usize;
        if out.resume {
            self.gated[at] = false;
        }
        if self.gated[at] {
            return Some((out.correlation, refused(Code::Throttled)));
        }
        match refusal {
            Some(code) => {
                self.gated[at] = true;
                Some((out.correlation, refused(code)))
            }
            None => {
                self.logs[at].push(number(&out.bytes));
                Some((out.correlation, stored()))
            }
        }
    }
}

proptest! {
    #[test]
    fn order_is_kept_through_refusals_and_losses(steps in prop::collection::vec(step(), 0..300)) {
        let mut pipeline = Pipeline::new(3, 6, PLAIN);
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
                    let sent = send(pipeline, now);
                    assert!(sent.as_ref().is_none_or(|out| !out.resend), "nothing is numbered");
                    server.arrived.extend(sent);
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
            if let Some((correlation, answer)) = ack
                && let answered = pipeline.ack(correlation, answer, now).expect("the model answers in order")
                && let Some(finished) = answered.finished
                && finished.result.is_err()
            {
                failed.push(finished.batch.serial);
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
