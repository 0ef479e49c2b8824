//! `produce`: records as fast as they are taken, or one at a time; each ack is waited for.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use millstream_client::{Client, Code, Delivery, Error, Record, StreamConfig};
use tokio::sync::mpsc;

use crate::payload::Payload;
use crate::report::{Latency, Report};
use crate::{Failure, Produce};

/// Deliveries handed to the counter at once.
const HAND_OVER_RECORDS: usize = 512;

type Sent = Vec<(Instant, Delivery)>;

/// Runs it.
pub async fn run(client: &Client, command: &Produce) -> Result<Report, Failure> {
    match client.describe_stream(&command.stream).await {
        Err(error) if error.code() == Code::UnknownStream => {
            client.create_stream(&command.stream, command.partitions, StreamConfig::default()).await?;
        }
        other => drop(other?),
    }
    let mut builder = client.producer(&command.stream).compression(command.compression.into());
    if let Some(bytes) = command.batch_bytes {
        builder = builder.batch_bytes(bytes.as_usize());
    }
    if let Some(batches) = command.in_flight {
        builder = builder.max_in_flight(batches);
    }
    match command.linger_ms {
        Some(ms) => builder = builder.linger(Duration::from_millis(ms)),
        // A lone record has nobody to wait for.
        None if command.one_at_a_time => builder = builder.linger(Duration::ZERO),
        None => {}
    }
    let producer = builder.build().await?;
    let mut payload = Payload::new(command.record_size.as_usize());
    let (records_max, time) = (command.until.records(), command.until.time());

    let (sender, receiver) = mpsc::unbounded_channel();
    let counter = tokio::spawn(count(receiver));
    let mut pending: Sent = Vec::with_capacity(HAND_OVER_RECORDS);
    let started = Instant::now();
    let mut sent = 0;
    while sent < records_max && started.elapsed() < time && !counter.is_finished() {
        let record = Record::new(payload.next());
        let since = Instant::now();
        let delivery = producer.enqueue(record).await?;
        sent += 1;
        pending.push((since, delivery));
        if command.one_at_a_time {
            producer.flush().await?;
        }
        if pending.len() >= HAND_OVER_RECORDS || command.one_at_a_time {
            // A counter that has ended has an error to tell below.
            let _ = sender.send(std::mem::take(&mut pending));
        }
    }
    let _ = sender.send(pending);
    drop(sender);
    producer.flush().await?;
    let latency_us = counter.await.expect("the counter does not panic")?;
    let elapsed = started.elapsed();

    let stats = producer.stats();
    producer.close().await?;
    if command.delete {
        client.delete_stream(&command.stream).await?;
    }
    let bytes = sent * command.record_size.bytes();
    let mut report = Report::new("produce", &command.stream, sent, bytes, elapsed);
    report.batches = Some(stats.batches_acked);
    report.batches_resent = Some(stats.batches_resent);
    report.latency = Some(Latency::from(&latency_us));
    Ok(report)
}

/// Waits for each ack, beside the sending.
async fn count(mut receiver: mpsc::UnboundedReceiver<Sent>) -> Result<Histogram<u64>, Error> {
    let mut latency_us = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are legal");
    while let Some(sent) = receiver.recv().await {
        for (since, delivery) in sent {
            delivery.await?;
            latency_us.saturating_record(u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
    }
    Ok(latency_us)
}
