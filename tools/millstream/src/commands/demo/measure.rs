//! The demo's figures: how fast records are sent, acknowledged and read back. What is measured is compared too.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use millstream_client::{Client, Start};
use millstream_protocol::Record;
use millstream_protocol::frame::control::StreamConfig;
use serde::Serialize;

use super::sample::Flight;
use super::{Problem, differs};
use crate::commands::produce::acks::Acks;
use crate::output::per_second;

const STREAM: &str = "flights-load";
/// What may wait for its ack under load: enough to keep the disk busy. More would only wait longer.
const BUFFER_BYTES: usize = 8 << 20;
/// How long records are sent one at a time, and how many at most.
const SINGLE_TIME: Duration = Duration::from_secs(1);
const SINGLE_RECORDS: usize = 2_000;

/// Records moved, and how long that took.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Rate {
    pub records: u64,
    pub bytes: u64,
    pub seconds: f64,
    pub records_per_second: f64,
    pub bytes_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack_p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack_p99_ms: Option<f64>,
}

/// All figures.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Rates {
    /// As fast as it goes.
    pub produce: Rate,
    /// The same records read back.
    pub consume: Rate,
    /// One record at a time: each waits for its ack before the next is sent.
    pub one_at_a_time: Rate,
}

/// What is in a stream, whatever the order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Content {
    records: u64,
    bytes: u64,
    /// The sum of the values' CRCs.
    crc_sum: u64,
}

impl Content {
    fn add(&mut self, record: &Record) {
        self.records += 1;
        self.bytes += record.size() as u64;
        self.crc_sum += u64::from(crc32fast::hash(record.value.as_deref().unwrap_or_default()));
    }
}

/// Measures in a stream of its own, which is deleted at the end.
pub async fn rates(client: &Client, flights: &[Flight], time: Duration) -> Result<Rates, Problem> {
    client.create_stream(STREAM, 4, StreamConfig::default()).await?;
    let mut sent = Content::default();
    let produce = produce(client, flights, time, &mut sent).await?;
    let one_at_a_time = one_at_a_time(client, flights, &mut sent).await?;
    let consume = consume(client, sent).await?;
    client.delete_stream(STREAM).await?;
    Ok(Rates { produce, consume, one_at_a_time })
}

async fn produce(client: &Client, flights: &[Flight], time: Duration, sent: &mut Content) -> Result<Rate, Problem> {
    let producer = client.producer(STREAM).buffer_bytes(BUFFER_BYTES).build().await?;
    let mut acks = Acks::start();
    let started = Instant::now();
    while started.elapsed() < time && !acks.has_failed() {
        for flight in flights {
            let record = Record::new(flight.line.clone()).key(flight.carrier.clone());
            sent.add(&record);
            let bytes = record.size() as u64;
            acks.push(producer.enqueue(record).await?, bytes);
        }
    }
    producer.flush().await?;
    let acked = acks.finish().await;
    let elapsed = started.elapsed();
    producer.close().await?;
    if let Some(error) = acked.error {
        return Err(error.into());
    }
    Ok(rate(acked.records, acked.bytes, elapsed, Some(&acked.latency_us)))
}

async fn one_at_a_time(client: &Client, flights: &[Flight], sent: &mut Content) -> Result<Rate, Problem> {
    let producer = client.producer(STREAM).linger(Duration::ZERO).build().await?;
    let mut latency_us = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are legal");
    let (mut records, mut bytes) = (0, 0);
    let started = Instant::now();
    for flight in flights.iter().take(SINGLE_RECORDS) {
        if started.elapsed() > SINGLE_TIME {
            break;
        }
        let record = Record::new(flight.line.clone()).key(flight.carrier.clone());
        sent.add(&record);
        (records, bytes) = (records + 1, bytes + record.size() as u64);
        let since = Instant::now();
        producer.send(record).await?;
        latency_us.saturating_record(u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    let elapsed = started.elapsed();
    producer.close().await?;
    Ok(rate(records, bytes, elapsed, Some(&latency_us)))
}

async fn consume(client: &Client, sent: Content) -> Result<Rate, Problem> {
    let started = Instant::now();
    let mut consumer = client.consumer(STREAM).start(Start::Earliest).bounded().build().await?;
    let mut got = Content::default();
    while let Some(record) = consumer.next().await {
        got.add(&record?.record);
    }
    let elapsed = started.elapsed();
    if got != sent {
        return Err(differs(format!("under load {sent:?} were acknowledged, and {got:?} came back")));
    }
    Ok(rate(got.records, got.bytes, elapsed, None))
}

fn rate(records: u64, bytes: u64, elapsed: Duration, latency_us: Option<&Histogram<u64>>) -> Rate {
    let ms = |quantile: f64| latency_us.map(|us| us.value_at_quantile(quantile) as f64 / 1e3);
    Rate {
        records,
        bytes,
        seconds: elapsed.as_secs_f64(),
        records_per_second: per_second(records, elapsed),
        bytes_per_second: per_second(bytes, elapsed),
        ack_p50_ms: ms(0.5),
        ack_p99_ms: ms(0.99),
    }
}
