//! A producer that dies again and again, forgets what was acknowledged, and sends its last window once more: its records
//! have dedup ids, so each stands once.
//!
//! It never gives a record up but by dying: what it repeats is then still in the order in which it was sent first.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millstream_check::history::Recorder;
use millstream_check::seeded::Seeded;
use millstream_check::value::{self, ValueId};
use millstream_client::{LocalServer, Producer, Record};
use tokio::sync::watch;

use super::books::Books;
use super::ledger::Ledger;
use super::{PATIENCE, connect, patiently};
use crate::failure::Failure;

/// More than there are partitions, and few enough for each to have many records.
const KEYS: u64 = 512;
/// Records that are sent again though they were acknowledged.
const BACK_MAX: u64 = 300;
const BURST_MAX: u64 = 64;
const WINDOW: usize = 1_024;
/// Records that one life sends anew.
const LIFE: std::ops::RangeInclusive<u64> = 200..=4_000;
const PAUSE_US_MAX: u64 = 3_000;

pub struct Worker {
    pub server: LocalServer,
    pub stream: u32,
    pub name: String,
    pub slot: u32,
    /// Its records' number, for all of its lives.
    pub number: u32,
    pub dedup: Dedup,
    pub seeded: Seeded,
    pub recorder: Recorder,
    pub stop: watch::Receiver<bool>,
    pub books: Arc<Books>,
}

/// Whether records have dedup ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dedup {
    ByValue,
    /// A canary: what is sent again stands twice then.
    No,
}

impl Worker {
    pub async fn run(mut self) -> Result<(), Failure> {
        let mut ledger = Ledger::new(self.recorder, self.stream, Arc::clone(&self.books));
        ledger.stands_once(self.number);
        let (mut from, mut sent) = (0, 0);
        loop {
            let producer = build(&self.server, self.slot, &self.name, self.dedup, &mut self.seeded).await?;
            let end = sent + self.seeded.of(LIFE);
            if from < sent {
                self.books.repeated.fetch_add(1, Ordering::Relaxed);
            }
            let mut next = from;
            while next < end && (next < sent || !*self.stop.borrow()) {
                let burst = next..end.min(next + self.seeded.of(1..=BURST_MAX));
                let number = self.number;
                let records = burst.clone().map(|counter| record(ValueId::new(number, counter), self.dedup));
                let sending = ledger.send(&producer, records).await;
                sending
                    .map_err(|error| Failure::run(format!("producer p{number} cannot go on at #{next}: {error}")))?;
                next = burst.end;
                ledger.settle(WINDOW).await;
                ledger.write(producer.stats().batches_resent)?;
                tokio::time::sleep(Duration::from_micros(self.seeded.of(0..=PAUSE_US_MAX))).await;
            }
            sent = sent.max(next);
            if *self.stop.borrow() {
                let _ = producer.flush().await;
                ledger.settle(0).await;
                self.books.resent.fetch_add(producer.stats().batches_resent, Ordering::Relaxed);
                ledger.write(producer.stats().batches_resent)?;
                break;
            }
            let resent = producer.stats().batches_resent;
            drop(producer);
            ledger.settle(0).await;
            self.books.resent.fetch_add(resent, Ordering::Relaxed);
            ledger.write(resent + 1)?;
            let first_open = ledger.take_given_up().first().map_or(sent, |value| value.counter());
            from = first_open.saturating_sub(self.seeded.of(0..=BACK_MAX));
        }
        ledger.recorder.finish()?;
        Ok(())
    }
}

/// Over a connection of its own, as a process that starts.
async fn build(
    server: &LocalServer,
    slot: u32,
    stream: &str,
    dedup: Dedup,
    seeded: &mut Seeded,
) -> Result<Producer, Failure> {
    let (batch_bytes, linger_ms) = (1 << seeded.of(10..=17), seeded.of(0..=1) * 5);
    let client = connect(server, slot).await?;
    let attempt = || {
        client
            .producer(stream)
            .batch_bytes(batch_bytes)
            .linger(Duration::from_millis(linger_ms))
            .delivery_timeout(2 * PATIENCE)
            .idempotent(dedup == Dedup::ByValue)
            .build()
    };
    patiently("a producer cannot be built", attempt).await
}

/// Always the same of one value.
fn record(value: ValueId, dedup: Dedup) -> (ValueId, Record) {
    let mut of = Seeded::new(value.0);
    let key = of.of(0..=KEYS - 1).to_le_bytes();
    let record = Record::new(value::encode(value, of.of(0..=400) as usize)).key(key.to_vec());
    match dedup {
        Dedup::ByValue => (value, record.dedup_id(value.0.to_le_bytes().to_vec())),
        Dedup::No => (value, record),
    }
}
