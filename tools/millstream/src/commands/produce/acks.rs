//! What became of each record: counted as the answers come, with the time each took and the first error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use hdrhistogram::Histogram;
use millstream_client::{Delivery, Error};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

/// Deliveries handed over at once: waking the counter for each would cost more than counting.
const HAND_OVER_RECORDS: usize = 512;

/// What became of all records.
#[derive(Debug)]
pub struct Acked {
    /// Acknowledged: they are stored, or an earlier one of their dedup id is.
    pub records: u64,
    /// Those of which an earlier one is.
    pub duplicates: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// From the enqueuing to the answer.
    pub latency_us: Histogram<u64>,
    /// The first error.
    pub error: Option<Error>,
}

struct Pending {
    delivery: Delivery,
    bytes: u64,
    since: Instant,
}

/// Waits for the answers, beside the sending.
pub struct Acks {
    pending: Vec<Pending>,
    handed_over: mpsc::UnboundedSender<Vec<Pending>>,
    shared: Arc<Shared>,
    counter: JoinHandle<Acked>,
    /// An error of the sending itself.
    refused: Option<Error>,
}

#[derive(Default)]
struct Shared {
    records: AtomicU64,
    has_failed: AtomicBool,
    failed: Notify,
}

impl Acks {
    /// Begins counting. Not bounded by itself: the producer's buffer bounds what waits for an answer.
    pub fn start() -> Self {
        let (handed_over, batches) = mpsc::unbounded_channel();
        let shared = Arc::<Shared>::default();
        let counter = tokio::spawn(count(batches, Arc::clone(&shared)));
        Self { pending: Vec::new(), handed_over, shared, counter, refused: None }
    }

    /// Adds a record that was enqueued just now.
    pub fn push(&mut self, delivery: Delivery, bytes: u64) {
        self.pending.push(Pending { delivery, bytes, since: Instant::now() });
        if self.pending.len() >= HAND_OVER_RECORDS {
            self.hand_over();
        }
    }

    /// Notes that the sending itself failed.
    pub fn fail(&mut self, error: Error) {
        self.hand_over();
        self.refused.get_or_insert(error);
    }

    /// Lets all records added so far be counted: before the sender waits for something else.
    pub fn hand_over(&mut self) {
        if !self.pending.is_empty() {
            // The counter ends only when this sender is gone.
            let _ = self.handed_over.send(std::mem::take(&mut self.pending));
        }
    }

    /// How many are stored so far.
    pub fn records(&self) -> u64 {
        self.shared.records.load(Ordering::Relaxed)
    }

    /// Whether any failed so far.
    pub fn has_failed(&self) -> bool {
        self.shared.has_failed.load(Ordering::Acquire)
    }

    /// Resolves when one has failed.
    pub async fn failed(&self) {
        while !self.has_failed() {
            self.shared.failed.notified().await;
        }
    }

    /// Waits for all answers.
    pub async fn finish(mut self) -> Acked {
        self.hand_over();
        drop(self.handed_over);
        let mut acked = self.counter.await.expect("the counter does not panic");
        acked.error = acked.error.or(self.refused);
        acked
    }
}

async fn count(mut batches: mpsc::UnboundedReceiver<Vec<Pending>>, shared: Arc<Shared>) -> Acked {
    let latency_us = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are legal");
    let mut acked = Acked { records: 0, duplicates: 0, bytes: 0, latency_us, error: None };
    while let Some(batch) = batches.recv().await {
        for Pending { delivery, bytes, since } in batch {
            match delivery.await {
                Ok(receipt) => {
                    acked.records += 1;
                    acked.duplicates += u64::from(receipt.duplicate);
                    acked.bytes += bytes;
                    let us = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
                    acked.latency_us.saturating_record(us);
                    shared.records.store(acked.records, Ordering::Relaxed);
                }
                Err(error) => {
                    acked.error.get_or_insert(error);
                    shared.has_failed.store(true, Ordering::Release);
                    // One permit is kept, so that a failure between two waits is not missed.
                    shared.failed.notify_one();
                }
            }
        }
    }
    acked
}
