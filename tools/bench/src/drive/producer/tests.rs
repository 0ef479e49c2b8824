//! A producer on a sink that stands still for a while: what was due meanwhile was late, and the histogram must say so.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::clock::RunClock;
use crate::load::keys::Keys;
use crate::load::payload::{Payload, Pool};
use crate::record::{Meter, Window};

/// Takes no record during its stall; acknowledges each at once otherwise.
struct Sink {
    taken: u64,
    stall: Option<(u64, Duration)>,
    fails_at: Option<u64>,
}

impl Sender for Sink {
    type Ticket = Result<u64, Failure>;

    async fn send(&mut self, _: millstream_client::Record) -> Result<Self::Ticket, Failure> {
        self.taken += 1;
        if let Some((_, stall)) = self.stall.filter(|(at, _)| *at == self.taken) {
            tokio::time::sleep(stall).await;
        }
        Ok(match self.fails_at {
            Some(at) if at == self.taken => Err(Failure::data("the sink says no")),
            _ => Ok(RunClock::start().now()),
        })
    }

    async fn idle(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    async fn finish(self) -> Result<Sent, Failure> {
        Ok(Sent { batches: self.taken, ..Sent::default() })
    }

    async fn acked(ticket: Self::Ticket, _: RunClock) -> Result<u64, Failure> {
        ticket
    }
}

async fn send(sink: Sink, rate: Option<f64>, records: u64) -> (Result<Produced, Failure>, Arc<Meter>) {
    let clock = RunClock::start();
    let window = Arc::new(Window::new(clock.now(), u64::MAX));
    let meter = Meter::new("produce", Some("from the intended time"), Arc::clone(&window));
    let shared = Shared {
        run: 1,
        clock,
        window,
        stop: CancellationToken::new(),
        done: CancellationToken::new(),
        room: None,
        unsent: 0.into(),
        is_stamped: true,
        verifies: true,
        fifo: false,
    };
    let pace = match rate {
        Some(rate) => Pace::Open(Schedule::new(rate, 1, 0, clock.now()), Metronome::start()),
        None => Pace::FlatOut,
    };
    let plan = Plan {
        producer: 0,
        values: Values::new(Pool::make(&Payload::Random, 64, 1).expect("made"), 64, 0),
        keys: KeySource::new(Keys::None, 1),
        pace,
        limit: Limit::Counted(records),
        one_at_a_time: false,
        readers: 1,
    };
    (run(sink, plan, meter.probe(), Arc::new(shared)).await, meter)
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_rate_what_was_due_during_a_stall_is_late_from_its_intended_time() {
    let stall = Some((10, Duration::from_millis(400)));
    let (produced, meter) = send(Sink { taken: 0, stall, fails_at: None }, Some(1_000.0), 500).await;
    assert_eq!(produced.expect("all is sent").records, 500);
    let latencies_ns = meter.take().total_ns;
    assert_eq!(latencies_ns.len(), 500);
    // Those due in the stall's first 300 ms waited 100 ms at least; a closed loop would have one late record.
    let late = latencies_ns.count_between(99 * SECOND_NS / 1_000, u64::MAX);
    assert!(late >= 295, "{late} late records");
    assert!(latencies_ns.max() >= 399 * SECOND_NS / 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn flat_out_the_one_record_in_the_stall_is_late() {
    let stall = Some((10, Duration::from_millis(200)));
    let (produced, meter) = send(Sink { taken: 0, stall, fails_at: None }, None, 1_000).await;
    assert_eq!(produced.expect("all is sent").records, 1_000);
    let series = meter.take();
    assert_eq!((series.records, series.bytes), (1_000, 64_000));
    assert!(series.total_ns.max() >= 199 * SECOND_NS / 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_record_ends_the_producer_with_what_was_said() {
    let (produced, _) = send(Sink { taken: 0, stall: None, fails_at: Some(700) }, None, u64::MAX).await;
    assert_eq!(produced.expect_err("refused").text, "the sink says no");
}
