//! Jobs of a queue, beside the same records produced and consumed as a stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use millstream_benches::memory;
use millstream_benches::quic::{DATAGRAM_BYTES_MAX, Error};
use millstream_benches::ratio::{Better, Row};
use millstream_client::{Client, Durability, PartitionId, QueueConfig, QueueStart, Settling, Start};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::Plan;
use crate::outcome::Outcome;
use crate::product::{Product, Sending, producer, send_all, share};

const PRODUCERS: usize = 2;
const CONSUMERS: usize = 4;
const PARTITIONS: u32 = 4;
/// The client's defaults.
const SENDING: Sending = Sending { batch_bytes: 256 << 10, depth: 64, linger: Duration::from_millis(5) };
/// Jobs that a consumer may have in hand.
const WINDOW: u32 = 4_096;
const STREAM: &str = "jobs";
const QUEUE: &str = "work";

/// Jobs a second against records a second.
pub fn queue(plan: &Plan<'_>) -> Result<Vec<Outcome>, Error> {
    let records: u64 = plan.amount(400_000, 60_000);
    let product = Product::start(&plan.dir.join("queue"), DATAGRAM_BYTES_MAX)?;
    let jobs = Jobs::new(&product, records, 1 << 10)?;
    let rate = |took: Duration| records as f64 / took.as_secs_f64();
    jobs.stream()?;
    jobs.queue()?;
    let mut row = Row::new("queue", "jobs/s", Better::Higher, Some(0.5));
    for _ in 0..plan.rounds {
        row.round(|| Ok::<_, Error>(rate(jobs.stream()?)), || Ok(rate(jobs.queue()?)))?;
    }
    let outcome = Outcome::new("queue", DATAGRAM_BYTES_MAX, &row)
        .note("producers", PRODUCERS)
        .note("consumers", CONSUMERS)
        .note("partitions", PARTITIONS);
    Ok(vec![outcome])
}

/// Two who send and four who take, each over a connection of his own.
pub struct Jobs<'a> {
    product: &'a Product,
    clients: Vec<Client>,
    value: Bytes,
    records: u64,
}

impl<'a> Jobs<'a> {
    /// So many jobs of that size.
    pub fn new(product: &'a Product, records: u64, record_bytes: usize) -> Result<Self, Error> {
        let mut clients = Vec::new();
        for _ in 0..PRODUCERS + CONSUMERS {
            clients.push(product.runtime.block_on(product.connect())?);
        }
        Ok(Self { product, clients, value: Bytes::from(memory::noise(record_bytes)), records })
    }

    /// The time until each is done: acknowledged by whoever worked on it.
    pub fn queue(&self) -> Result<Duration, Error> {
        self.run(true)
    }

    /// The same records produced and consumed.
    pub fn stream(&self) -> Result<Duration, Error> {
        self.run(false)
    }

    fn run(&self, as_queue: bool) -> Result<Duration, Error> {
        let Self { product, clients, value, records } = self;
        product.create(STREAM, PARTITIONS, Durability::Synced)?;
        let took = product.runtime.block_on(exchange(product, clients, value, *records, as_queue))?;
        product.remove(STREAM)?;
        Ok(took)
    }
}

/// The time until all are sent, and all have been consumed, or acknowledged by whoever worked on them.
async fn exchange(
    product: &Product,
    clients: &[Client],
    value: &Bytes,
    records: u64,
    as_queue: bool,
) -> Result<Duration, Error> {
    if as_queue {
        product.client.create_queue(QUEUE, STREAM, QueueConfig::default(), QueueStart::Earliest).await?;
    }
    let done = Arc::new(AtomicU64::new(0));
    let (sending, receiving) = clients.split_at(PRODUCERS);
    let mut producers = Vec::new();
    for client in sending {
        producers.push(producer(client, STREAM, SENDING).await?);
    }
    let mut running = JoinSet::new();
    for (index, client) in receiving.iter().enumerate() {
        let done = Arc::clone(&done);
        if as_queue {
            let messages = client.queue(QUEUE).messages().window(WINDOW).open().await?;
            running.spawn(work(messages, done, records));
        } else {
            let partition = PartitionId(index as u32);
            let consumer = client.consumer(STREAM).start(Start::Earliest).partitions([partition]).build().await?;
            running.spawn(consume(consumer, done, records));
        }
    }
    let start = Instant::now();
    for (index, producer) in producers.into_iter().enumerate() {
        running.spawn(send_all(producer, Bytes::copy_from_slice(value), share(records, PRODUCERS, index)));
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    let took = start.elapsed();
    if as_queue {
        let counts = product.client.describe_queue(QUEUE).await?.total;
        if counts.available + counts.in_flight > 0 || done.load(Ordering::Relaxed) != records {
            return Err(format!("not all of {records} jobs were done once: {counts:?}").into());
        }
        product.client.delete_queue(QUEUE).await?;
    }
    Ok(took)
}

/// How often one who waits looks whether the others have done the rest.
const LOOK: Duration = Duration::from_millis(1);

async fn consume(mut consumer: millstream_client::Consumer, done: Arc<AtomicU64>, all: u64) -> Result<(), Error> {
    while done.load(Ordering::Relaxed) < all {
        let Ok(next) = tokio::time::timeout(LOOK, consumer.next()).await else { continue };
        std::hint::black_box(next.ok_or("a consumer that follows has ended")??.record.value);
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn work(mut messages: millstream_client::Messages, done: Arc<AtomicU64>, all: u64) -> Result<(), Error> {
    let (settling, settled) = mpsc::unbounded_channel();
    let answers = tokio::spawn(answers(settled, Arc::clone(&done)));
    while done.load(Ordering::Relaxed) < all && !answers.is_finished() {
        let Ok(next) = tokio::time::timeout(LOOK, messages.next()).await else { continue };
        let message = next.ok_or("a queue's messages have ended")??;
        settling.send(message.ack())?;
    }
    drop(settling);
    answers.await??;
    Ok(messages.close().await?)
}

/// A job is done when its ack is durable.
async fn answers(mut settled: mpsc::UnboundedReceiver<Settling>, done: Arc<AtomicU64>) -> Result<(), Error> {
    while let Some(answer) = settled.recv().await {
        answer.await?;
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
