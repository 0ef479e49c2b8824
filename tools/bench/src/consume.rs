//! `consume`: a stream from its beginning to its end as of now, records decoded or batches only checked.

use std::time::Instant;

use millstream_client::{Client, Start};

use crate::report::Report;
use crate::{Consume, Failure};

/// Runs it.
pub async fn run(client: &Client, command: &Consume) -> Result<Report, Failure> {
    let (records_max, time) = (command.until.records(), command.until.time());
    let started = Instant::now();
    let mut consumer = client.consumer(&command.stream).start(Start::Earliest).bounded().build().await?;
    let (mut records, mut bytes, mut batches) = (0, 0, 0);
    let goes_on = |records: u64| records < records_max && started.elapsed() < time;
    if command.batches {
        while goes_on(records)
            && let Some(batch) = consumer.next_batch().await
        {
            let batch = batch?;
            let header = batch.view.header();
            records += u64::from(header.record_count);
            bytes += u64::from(header.uncompressed_len);
            batches += 1;
        }
    } else {
        while goes_on(records)
            && let Some(record) = consumer.next().await
        {
            records += 1;
            bytes += record?.record.size() as u64;
        }
    }
    let mut report = Report::new("consume", &command.stream, records, bytes, started.elapsed());
    report.batches = command.batches.then_some(batches);
    Ok(report)
}
