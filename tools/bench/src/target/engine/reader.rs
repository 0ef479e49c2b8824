//! A consumer's side of the engine: reads partitions one after the other, and waits for what comes when it has all.

use std::collections::VecDeque;
use std::sync::Arc;

use millstream_client::ConsumedBatch;
use millstream_log::{Partition, Watch};
use millstream_protocol::Offset;
use millstream_protocol::batch::BatchView;
use tokio::sync::Notify;

use crate::drive::{Item, Reader};
use crate::failure::Failure;
use crate::target::From;

/// As the server reads.
const READ_BYTES: usize = 1 << 20;

/// Reads some partitions.
pub struct EngineReader {
    places: Vec<Place>,
    ready: VecDeque<ConsumedBatch>,
    changed: Arc<Changed>,
    /// The partitions hold it weakly.
    _watch: Arc<dyn Watch>,
}

struct Place {
    partition: Arc<Partition>,
    next: Offset,
    /// Where a bounded reader ends.
    end: Option<Offset>,
}

#[derive(Default)]
struct Changed(Notify);

impl Watch for Changed {
    fn changed(&self) {
        self.0.notify_one();
    }
}

impl EngineReader {
    /// From there on.
    pub fn new(partitions: Vec<Arc<Partition>>, from: From) -> Self {
        let changed = Arc::<Changed>::default();
        let watch: Arc<dyn Watch> = changed.clone();
        let place = |partition: Arc<Partition>| {
            partition.watch(&watch);
            let end = partition.high_watermark();
            let next = if from == From::Now { end } else { partition.log_start() };
            Place { next, end: (from == From::Whole).then_some(end), partition }
        };
        let places = partitions.into_iter().map(place).collect();
        Self { places, ready: VecDeque::new(), changed, _watch: watch }
    }

    /// Reads once in each partition that has more; whether any had.
    fn read(&mut self) -> Result<(), Failure> {
        for place in &mut self.places {
            let end = place.end.unwrap_or_else(|| place.partition.high_watermark());
            if place.next >= end {
                continue;
            }
            let mut chunk = place.partition.read(place.next, READ_BYTES)?;
            while !chunk.bytes.is_empty() {
                let view =
                    BatchView::split_stored(&mut chunk.bytes, place.partition.incarnation()).map_err(|error| {
                        let (partition, next) = (place.partition.id(), place.next);
                        Failure::data(format!("partition {partition}, offset {next}: a batch is damaged: {error}"))
                    })?;
                let header = view.header();
                let last = header.base_offset.0 + u64::from(header.last_offset_delta);
                let (first, batch_end) = (place.next, Offset(last + 1).min(end));
                if batch_end > first {
                    self.ready.push_back(ConsumedBatch {
                        partition: place.partition.id(),
                        view,
                        first,
                        end: batch_end,
                    });
                    place.next = batch_end;
                }
            }
        }
        Ok(())
    }

    fn is_at_its_end(&self) -> bool {
        self.places.iter().all(|place| place.end.is_some_and(|end| place.next >= end))
    }
}

impl Reader for EngineReader {
    async fn next(&mut self) -> Option<Result<Item, Failure>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Some(Ok(Item::Batch(batch)));
            }
            if self.is_at_its_end() {
                return None;
            }
            if let Err(failure) = tokio::task::block_in_place(|| self.read()) {
                return Some(Err(failure));
            }
            if self.ready.is_empty() && !self.is_at_its_end() {
                // A change between the look and this is kept for it.
                self.changed.0.notified().await;
            }
        }
    }

    async fn close(self) -> Result<(), Failure> {
        Ok(())
    }
}
