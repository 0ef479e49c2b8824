//! A producer that sends in bursts and records what became of every record.
//!
//! A slot has one producer after the other, each with numbers of its own, so that an unknown outcome is never mixed up
//! with a later send.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millstream_check::history::Recorder;
use millstream_check::seeded::Seeded;
use millstream_check::value::{self, ValueId};
use millstream_client::{Client, Producer, Record};
use tokio::sync::watch;

use super::books::Books;
use super::ledger::Ledger;
use super::plan::Plan;
use super::{Mix, patiently};
use crate::failure::Failure;

pub struct Worker {
    pub client: Client,
    pub stream: u32,
    pub name: String,
    pub slot: u32,
    /// How many slots there are: what the numbers of a slot's producers are apart.
    pub slots: u32,
    pub mix: Mix,
    pub seeded: Seeded,
    pub recorder: Recorder,
    pub stop: watch::Receiver<bool>,
    pub books: Arc<Books>,
}

impl Worker {
    pub async fn run(self) -> Result<(), Failure> {
        let Self { client, stream, name, slot, slots, mix, mut seeded, recorder, stop, books } = self;
        let mut ledger = Ledger::new(recorder, stream, Arc::clone(&books));
        let mut number = slot + 1;
        while !*stop.borrow() {
            let plan = Plan::choose(&mut seeded, mix);
            if plan.stands_once {
                ledger.stands_once(number);
            }
            let producer = build(&client, &name, &plan).await?;
            live(&plan, producer, number, &mut seeded, &mut ledger, &stop, &books).await?;
            number += slots;
        }
        ledger.recorder.finish()?;
        Ok(())
    }
}

async fn build(client: &Client, stream: &str, plan: &Plan) -> Result<Producer, Failure> {
    let attempt = || {
        client
            .producer(stream)
            .batch_bytes(plan.batch_bytes)
            .linger(plan.linger)
            .max_in_flight(plan.in_flight)
            .compression(plan.codec)
            .delivery_timeout(plan.delivery_timeout)
            .idempotent(plan.idempotent)
            .build()
    };
    patiently("a producer cannot be built", attempt).await
}

/// One producer's life.
async fn live(
    plan: &Plan,
    producer: Producer,
    number: u32,
    seeded: &mut Seeded,
    ledger: &mut Ledger,
    stop: &watch::Receiver<bool>,
    books: &Books,
) -> Result<(), Failure> {
    let mut sent = 0;
    while sent < plan.life && !*stop.borrow() {
        let burst = seeded.of(1..=plan.burst);
        let records = (sent..sent + burst).map(|counter| {
            let value = ValueId::new(number, counter);
            let mut record = Record::new(value::encode(value, plan.padding(seeded)));
            record.key = plan.key(seeded).map(Into::into);
            (value, record)
        });
        // No error of a server that is away ends a producer.
        let sending = ledger.send(&producer, records).await;
        sending.map_err(|error| Failure::run(format!("producer p{number} cannot go on after #{sent}: {error}")))?;
        sent += burst;
        ledger.settle(plan.window).await;
        ledger.write(producer.stats().batches_resent)?;
        tokio::time::sleep(Duration::from_micros(seeded.of(0..=plan.pause_us))).await;
    }
    if plan.crashes && !*stop.borrow() {
        // What it still sends again before it is gone.
        let resent = producer.stats().batches_resent + 1;
        drop(producer);
        ledger.settle(0).await;
        books.resent.fetch_add(resent - 1, Ordering::Relaxed);
        return ledger.write(resent);
    }
    // A failure is in its record's outcome.
    let _ = producer.flush().await;
    ledger.settle(0).await;
    let resent = producer.stats().batches_resent;
    books.resent.fetch_add(resent, Ordering::Relaxed);
    ledger.write(resent)
}
