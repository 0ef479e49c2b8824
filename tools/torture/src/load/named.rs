//! Producers of one name, one after the other: each is replaced by the next while it still sends, gets `fenced`, and has
//! nothing stored from then on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millstream_check::history::{Clock, Recorder, What};
use millstream_check::seeded::Seeded;
use millstream_check::value::{self, ValueId};
use millstream_client::{Client, Code, Error, LocalServer, Outcome, Producer, Record};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::books::Books;
use super::ledger::Ledger;
use super::{PATIENCE, connect, outcome, patiently};
use crate::failure::Failure;

const NAME: &str = "the-one";
const KEYS: u64 = 512;
const BURST_MAX: u64 = 32;
const WINDOW: usize = 512;
const PAUSE_US_MAX: u64 = 4_000;
/// How long one has the name.
const REIGN_MS: std::ops::RangeInclusive<u64> = 300..=2_500;

pub struct Worker {
    pub server: LocalServer,
    pub stream: u32,
    pub name: String,
    pub slot: u32,
    /// The first one's number; the others count on from it.
    pub number: u32,
    pub history: std::path::PathBuf,
    pub clock: Clock,
    pub seeded: Seeded,
    pub stop: watch::Receiver<bool>,
    pub books: Arc<Books>,
}

/// One that has the name, or had it.
struct Bearer {
    number: u32,
    stream: u32,
    producer: Producer,
    ledger: Ledger,
    seeded: Seeded,
    /// A next one is being made: from here on `fenced` is right.
    challenged: Arc<AtomicBool>,
    /// The next one has the name: `fenced` must come.
    replaced: watch::Receiver<bool>,
    stop: watch::Receiver<bool>,
    books: Arc<Books>,
}

impl Worker {
    pub async fn run(mut self) -> Result<(), Failure> {
        let mut bearers = JoinSet::new();
        let mut number = self.number;
        let mut before: Option<(u32, Arc<AtomicBool>, watch::Sender<bool>)> = None;
        while !*self.stop.borrow() {
            // Two connections, as two processes have them.
            let client = connect(&self.server, self.slot).await?;
            if let Some((_, challenged, _)) = &before {
                challenged.store(true, Ordering::Release);
            }
            let producer = build(&client, &self.name, &mut self.seeded).await?;
            let mut recorder = Recorder::create(&self.history, number, self.clock)?;
            recorder.record(What::Once { producer: number });
            if let Some((older, _, replaced)) = before.take() {
                recorder.record(What::Replaced { producer: older, by: number });
                replaced.send_replace(true);
            }
            let (replaced, is_replaced) = watch::channel(false);
            let challenged = Arc::new(AtomicBool::new(false));
            let bearer = Bearer {
                number,
                stream: self.stream,
                producer,
                ledger: Ledger::new(recorder, self.stream, Arc::clone(&self.books)),
                seeded: self.seeded.fork(u64::from(number)),
                challenged: Arc::clone(&challenged),
                replaced: is_replaced,
                stop: self.stop.clone(),
                books: Arc::clone(&self.books),
            };
            bearers.spawn(bearer.run());
            before = Some((number, challenged, replaced));
            number += 1;
            let reign = Duration::from_millis(self.seeded.of(REIGN_MS));
            tokio::select! {
                _ = self.stop.wait_for(|stop| *stop) => {}
                () = tokio::time::sleep(reign) => {}
            }
            while let Some(ended) = bearers.try_join_next() {
                outcome(ended)?;
            }
        }
        while let Some(ended) = bearers.join_next().await {
            outcome(ended)?;
        }
        Ok(())
    }
}

async fn build(client: &Client, stream: &str, seeded: &mut Seeded) -> Result<Producer, Failure> {
    let (batch_bytes, linger_ms) = (1 << seeded.of(10..=16), seeded.of(0..=1) * 5);
    let attempt = || {
        client
            .producer(stream)
            .name(NAME)
            .batch_bytes(batch_bytes)
            .linger(Duration::from_millis(linger_ms))
            .delivery_timeout(2 * PATIENCE)
            .build()
    };
    patiently("a named producer cannot be built", attempt).await
}

impl Bearer {
    async fn run(mut self) -> Result<(), Failure> {
        let (mut sent, mut replaced_since) = (0, None);
        loop {
            let is_replaced = *self.replaced.borrow();
            if *self.stop.borrow() && !is_replaced {
                let _ = self.producer.flush().await;
                self.ledger.settle(0).await;
                self.ledger.write(self.producer.stats().batches_resent)?;
                break;
            }
            if is_replaced {
                let since: &mut Instant = replaced_since.get_or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE {
                    let number = self.number;
                    let text = format!("producer p{number} was replaced {PATIENCE:?} ago and still may send");
                    return Err(Failure::run(text));
                }
            }
            let burst = sent..sent + self.seeded.of(1..=BURST_MAX);
            let records = burst.clone().map(|counter| record(ValueId::new(self.number, counter)));
            let sending = self.ledger.send(&self.producer, records).await;
            sent = burst.end;
            self.ledger.settle(WINDOW).await;
            let is_challenged = self.challenged.load(Ordering::Acquire);
            // What was in flight when it was fenced may be stored, and says so; the next sending names the fence.
            let in_doubt = |error: &&Error| is_challenged && error.outcome() == Outcome::Indefinite;
            let failed = self.ledger.error().filter(|error| !in_doubt(error)).cloned();
            let ended = sending.err().or(failed);
            if let Some(error) = ended {
                // With its end all that it had open has its outcome.
                self.ledger.settle(0).await;
                self.ledger.write(self.producer.stats().batches_resent)?;
                if error.code() == Code::Fenced && is_challenged {
                    self.books.fenced.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                let (number, stream) = (self.number, self.stream);
                return Err(Failure::run(format!("producer p{number} of stream {stream} ended: {error}")));
            }
            self.ledger.write(self.producer.stats().batches_resent)?;
            tokio::time::sleep(Duration::from_micros(self.seeded.of(0..=PAUSE_US_MAX))).await;
        }
        self.books.resent.fetch_add(self.producer.stats().batches_resent, Ordering::Relaxed);
        self.ledger.recorder.finish()?;
        Ok(())
    }
}

fn record(value: ValueId) -> (ValueId, Record) {
    let mut of = Seeded::new(value.0);
    let key = of.of(0..=KEYS - 1).to_le_bytes();
    (value, Record::new(value::encode(value, of.of(0..=400) as usize)).key(key.to_vec()))
}
