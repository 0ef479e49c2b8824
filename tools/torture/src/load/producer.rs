//! A producer that sends in bursts and records what became of every record.
//!
//! A slot has one producer after the other, each with numbers of its own, so that an unknown outcome is never mixed up
//! with a later send. Times err to the safe side: an invocation's is taken before the burst, an answer's is the time
//! behind the enqueue plus the receipt's latency.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures::FutureExt;
use millstream_check::history::{Place, Recorder, What};
use millstream_check::seeded::Seeded;
use millstream_check::value::{self, ValueId};
use millstream_client::{Client, Delivery, Error, Outcome, Producer, Receipt, Record};
use tokio::sync::watch;

use super::patiently;
use super::plan::Plan;
use crate::failure::Failure;

pub struct Worker {
    pub client: Client,
    pub stream: u32,
    pub name: String,
    pub slot: u32,
    /// How many slots there are: what the numbers of a slot's producers are apart.
    pub slots: u32,
    pub seeded: Seeded,
    pub recorder: Recorder,
    pub stop: watch::Receiver<bool>,
    pub acked: Arc<watch::Sender<u64>>,
}

/// A record without an outcome.
struct Pending {
    value: ValueId,
    at: Place,
    entered_ns: u64,
    /// Batches that its producer had sent again before.
    resent_before: u64,
    delivery: Delivery,
}

/// Records with an outcome, not written yet: those of one partition together.
#[derive(Default)]
struct Settled {
    acked: BTreeMap<Place, Vec<Acked>>,
    given_up: BTreeMap<(Place, u16, bool), Vec<(ValueId, u64)>>,
}

/// Acknowledged one offset after the other.
struct Acked {
    base_offset: u64,
    values: Vec<ValueId>,
    resent_before: u64,
    at_ns: u64,
}

impl Worker {
    pub async fn run(mut self) -> Result<(), Failure> {
        let mut number = self.slot + 1;
        while !*self.stop.borrow() {
            let plan = Plan::choose(&mut self.seeded);
            let producer = self.build(&plan).await?;
            self.live(&plan, producer, number).await?;
            number += self.slots;
        }
        self.recorder.finish()?;
        Ok(())
    }

    async fn build(&self, plan: &Plan) -> Result<Producer, Failure> {
        let attempt = || {
            self.client
                .producer(&self.name)
                .batch_bytes(plan.batch_bytes)
                .linger(plan.linger)
                .max_in_flight(plan.in_flight)
                .compression(plan.codec)
                .delivery_timeout(plan.delivery_timeout)
                .build()
        };
        patiently("a producer cannot be built", attempt).await
    }

    /// One producer's life.
    async fn live(&mut self, plan: &Plan, producer: Producer, number: u32) -> Result<(), Failure> {
        let mut pending = VecDeque::new();
        let mut sent = 0;
        while sent < plan.life && !*self.stop.borrow() {
            let burst = self.seeded.of(1..=plan.burst);
            self.send(plan, &producer, number, sent..sent + burst, &mut pending).await?;
            sent += burst;
            let mut settled = Settled::default();
            while pending.len() > plan.window {
                settled.wait(&mut pending).await;
            }
            settled.take_ready(&mut pending);
            self.write(settled, producer.stats().batches_resent);
            let pause = std::time::Duration::from_micros(self.seeded.of(0..=plan.pause_us));
            tokio::time::sleep(pause).await;
        }
        let mut settled = Settled::default();
        let stopped = *self.stop.borrow();
        if plan.crashes && !stopped {
            // What it still sends again before it is gone.
            let resent = producer.stats().batches_resent + 1;
            drop(producer);
            settled.wait_for_all(&mut pending).await;
            self.write(settled, resent);
        } else {
            // A failure is in its record's outcome.
            let _ = producer.flush().await;
            settled.wait_for_all(&mut pending).await;
            self.write(settled, producer.stats().batches_resent);
        }
        Ok(())
    }

    async fn send(
        &mut self,
        plan: &Plan,
        producer: &Producer,
        number: u32,
        counters: std::ops::Range<u64>,
        pending: &mut VecDeque<Pending>,
    ) -> Result<(), Failure> {
        let invoked_ns = self.recorder.clock().now_ns();
        let resent_before = producer.stats().batches_resent;
        let mut invoked: BTreeMap<Place, Vec<ValueId>> = BTreeMap::new();
        let mut failed = None;
        for counter in counters {
            let value = ValueId::new(number, counter);
            let mut record = Record::new(value::encode(value, plan.padding(&mut self.seeded)));
            record.key = plan.key(&mut self.seeded).map(Into::into);
            match producer.enqueue(record).await {
                Ok(delivery) => {
                    let at = Place { stream: self.stream, partition: delivery.partition().0 };
                    invoked.entry(at).or_default().push(value);
                    let entered_ns = self.recorder.clock().now_ns();
                    pending.push_back(Pending { value, at, entered_ns, resent_before, delivery });
                }
                // Nothing was enqueued, and no error of a server that is away ends a producer.
                Err(error) => {
                    failed = Some(Failure::run(format!("producer p{number} cannot go on at #{counter}: {error}")));
                    break;
                }
            }
        }
        for (at, values) in invoked {
            self.recorder.record_at(invoked_ns, What::Invoke { at, values });
        }
        failed.map_or(Ok(()), Err)
    }

    /// Writes down outcomes. `resent`: batches that the producer has sent again by now.
    fn write(&mut self, settled: Settled, resent: u64) {
        let Settled { acked, given_up } = settled;
        for (at, runs) in acked {
            runs.into_iter().for_each(|run| self.write_acked(at, run, resent));
        }
        for ((at, code, unknown), of) in given_up {
            let earliest = of.iter().map(|(_, resent_before)| *resent_before).min().unwrap_or(resent);
            let values = of.into_iter().map(|(value, _)| value).collect();
            let what = match unknown {
                true => What::Info { at, values, code, resends: since(resent, earliest) },
                false => What::Fail { at, values, code },
            };
            self.recorder.record(what);
        }
    }

    fn write_acked(&mut self, at: Place, acked: Acked, resent: u64) {
        let Acked { base_offset, values, resent_before, at_ns } = acked;
        let count = values.len() as u64;
        let resends = since(resent, resent_before);
        self.recorder.record_at(at_ns, What::Ok { at, base_offset, values, resends });
        self.acked.send_modify(|acked| *acked += count);
    }
}

impl Settled {
    /// Takes what has its outcome by now, as far as it comes first.
    fn take_ready(&mut self, pending: &mut VecDeque<Pending>) {
        while let Some(outcome) = pending.front_mut().and_then(|front| (&mut front.delivery).now_or_never()) {
            self.take(pending.pop_front(), outcome);
        }
    }

    /// Waits for the outcome of the first one.
    async fn wait(&mut self, pending: &mut VecDeque<Pending>) {
        if let Some(front) = pending.front_mut() {
            let outcome = (&mut front.delivery).await;
            self.take(pending.pop_front(), outcome);
        }
    }

    async fn wait_for_all(&mut self, pending: &mut VecDeque<Pending>) {
        while !pending.is_empty() {
            self.wait(pending).await;
        }
    }

    fn take(&mut self, pending: Option<Pending>, outcome: Result<Receipt, Error>) {
        let Some(Pending { value, at, entered_ns, resent_before, .. }) = pending else { return };
        match outcome {
            Ok(receipt) => {
                let latency_ns = u64::try_from(receipt.latency.as_nanos()).unwrap_or(u64::MAX);
                let at_ns = entered_ns.saturating_add(latency_ns);
                self.take_acked(at, value, receipt.offset.0, resent_before, at_ns);
            }
            Err(error) => {
                let unknown = error.outcome() == Outcome::Indefinite;
                let of = self.given_up.entry((at, error.code().number(), unknown)).or_default();
                of.push((value, resent_before));
            }
        }
    }

    fn take_acked(&mut self, at: Place, value: ValueId, offset: u64, resent_before: u64, at_ns: u64) {
        let runs = self.acked.entry(at).or_default();
        let continues = |run: &&mut Acked| {
            run.base_offset + run.values.len() as u64 == offset && run.resent_before == resent_before
        };
        match runs.last_mut().filter(continues) {
            Some(run) => {
                run.values.push(value);
                run.at_ns = run.at_ns.max(at_ns);
            }
            None => runs.push(Acked { base_offset: offset, values: vec![value], resent_before, at_ns }),
        }
    }
}

/// Batches sent again meanwhile: at least as many times as any one of them was.
fn since(now: u64, before: u64) -> u16 {
    u16::try_from(now.saturating_sub(before)).unwrap_or(u16::MAX)
}
