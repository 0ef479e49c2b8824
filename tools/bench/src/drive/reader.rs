//! A consumer: takes batches as they come, and holds each record against what was sent.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use millstream_client::ConsumedBatch;

use super::subscription::{Read, Subscription, take};
use super::{Item, Reader, Shared};
use crate::failure::Failure;
use crate::record::Probe;
use crate::stamp::STAMP_HEADER;
use crate::verify::Place;

/// Runs it until all is read, or it is told.
pub async fn run<R: Reader>(
    mut reader: R,
    subscription: Arc<Subscription>,
    mut probe: Probe,
    shared: Arc<Shared>,
) -> Result<(), Failure> {
    loop {
        let item = tokio::select! {
            biased;
            () = shared.done.cancelled() => break,
            () = subscription.complete.cancelled() => break,
            item = reader.next() => item,
        };
        match item {
            None => break,
            Some(Err(failure)) => return Err(failure),
            Some(Ok(Item::Batch(batch))) => {
                let records = take_batch(&batch, &subscription, &mut probe, &shared)?;
                if let Some(room) = &shared.room {
                    room.add_permits(records as usize);
                }
                subscription.did(records);
            }
            Some(Ok(Item::Moved)) => {
                if subscription.done() > 0 {
                    subscription.has_moved.store(true, Ordering::Relaxed);
                    subscription.look(|ledger| ledger.moved());
                }
            }
        }
    }
    reader.close().await
}

fn take_batch(
    batch: &ConsumedBatch,
    subscription: &Subscription,
    probe: &mut Probe,
    shared: &Shared,
) -> Result<u64, Failure> {
    let at = shared.clock.now();
    let again = subscription.has_moved.load(Ordering::Relaxed);
    let base = batch.view.header().base_offset.0;
    let partition = batch.partition.0;
    let damaged = |error: millstream_protocol::batch::BatchError| {
        Failure::data(format!("partition {partition}, offset {base}: a batch does not decode: {error}"))
    };
    let mut records = batch.view.records().map_err(damaged)?;
    let (mut counted, mut bytes) = (0, 0);
    subscription.look(|ledger| {
        while let Some(record) = records.next_ref() {
            let record = record.map_err(damaged)?;
            let offset = base + u64::from(record.offset_delta);
            if offset < batch.first.0 || offset >= batch.end.0 {
                continue;
            }
            let value = record.value.unwrap_or_default();
            let stamp = record.headers().find(|(name, _)| *name == STAMP_HEADER).and_then(|(_, value)| value);
            let place = Place { partition, offset, key: None, again };
            let read = Read { place, value, stamp, timestamp: record.timestamp.0 };
            let taken = take(ledger, &read, shared);
            counted += u64::from(taken.counts);
            bytes += value.len() as u64;
            if let Some(intended_ns) = taken.intended_ns {
                probe.latency(at, intended_ns);
            }
        }
        Ok::<(), Failure>(())
    })?;
    probe.count(at, counted, bytes);
    Ok(counted)
}
