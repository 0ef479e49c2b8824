//! A producer's side of the engine: a batch under way for each partition, so many appended and not answered.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use millstream_broker::Stream;
use millstream_client::{Codec, Record, partition_of_key};
use millstream_log::{AppendSink, Appended, LogError, Partition};
use millstream_protocol::ProducerId;
use millstream_protocol::batch::{BatchBuilder, BatchView};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::clock::RunClock;
use crate::drive::{Sender, Sent};
use crate::failure::Failure;
use crate::load::Load;

/// As the client has them.
const BATCH_BYTES: u64 = 256 << 10;
const IN_FLIGHT: u32 = 64;

/// Appends to all partitions of a stream.
pub struct EngineSender {
    partitions: Vec<Side>,
    sticky: usize,
    batch_bytes: usize,
    codec: Codec,
    producer: ProducerId,
    room: Arc<Semaphore>,
    in_flight: u32,
    sink: Arc<Waiting>,
    appends: Arc<dyn AppendSink>,
    next_token: u64,
    sent: Sent,
}

struct Side {
    partition: Arc<Partition>,
    batch: BatchBuilder,
    fate: Arc<Fate>,
    sequence: u64,
}

/// What becomes of a batch; its records share it.
#[derive(Debug, Default)]
pub struct Fate {
    outcome: OnceLock<Result<Instant, Failure>>,
    told: Notify,
}

/// Batches that are not answered.
#[derive(Default)]
struct Waiting(Mutex<std::collections::HashMap<u64, (Arc<Fate>, OwnedSemaphorePermit)>>);

impl AppendSink for Waiting {
    fn complete(&self, results: Vec<(u64, Result<Appended, LogError>)>) {
        let at = Instant::now();
        for (token, result) in results {
            let found = self.0.lock().remove(&token);
            if let Some((fate, _room)) = found {
                fate.tell(result.map(|_| at).map_err(Failure::from));
            }
        }
    }
}

impl Fate {
    fn tell(&self, outcome: Result<Instant, Failure>) {
        // A batch is answered once.
        let _ = self.outcome.set(outcome);
        self.told.notify_waiters();
    }

    async fn wait(&self) -> Result<Instant, Failure> {
        loop {
            let told = self.told.notified();
            if let Some(outcome) = self.outcome.get() {
                return outcome.clone();
            }
            told.await;
        }
    }
}

impl EngineSender {
    /// A sender with a producer's number, so that batches are stored once as the network's are.
    pub fn new(stream: &Stream, producer: ProducerId, load: &Load) -> Result<Self, Failure> {
        let codec = load.compression.into();
        let sides = stream.partitions().iter().map(|partition| {
            let partition = partition.clone()?;
            Ok::<_, LogError>(Side { partition, batch: BatchBuilder::new(codec), fate: Arc::default(), sequence: 0 })
        });
        let partitions: Vec<Side> = sides.collect::<Result<_, _>>()?;
        let in_flight = load.in_flight.unwrap_or(IN_FLIGHT);
        let sink = Arc::<Waiting>::default();
        Ok(Self {
            sticky: producer.0 as usize % partitions.len(),
            partitions,
            batch_bytes: usize::try_from(load.batch_size.unwrap_or(BATCH_BYTES)).unwrap_or(usize::MAX),
            codec,
            producer,
            room: Arc::new(Semaphore::new(in_flight as usize)),
            in_flight,
            appends: sink.clone(),
            sink,
            next_token: 0,
            sent: Sent::default(),
        })
    }

    async fn append(&mut self, at: usize) -> Result<(), Failure> {
        let room = Arc::clone(&self.room).acquire_owned().await.expect("the room is never closed");
        let side = &mut self.partitions[at];
        let mut batch = std::mem::replace(&mut side.batch, BatchBuilder::new(self.codec));
        let fate = std::mem::take(&mut side.fate);
        batch.producer(self.producer, 0, side.sequence);
        side.sequence += u64::from(batch.record_count());
        let wrong = |error: &dyn std::fmt::Display| Failure::data(format!("a batch of our own is refused: {error}"));
        let bytes = batch.finish().map_err(|error| wrong(&error))?;
        self.sent.batches += 1;
        self.sent.batch_bytes += bytes.len() as u64;
        let view = BatchView::parse(&bytes).map_err(|error| wrong(&error))?;
        self.next_token += 1;
        self.sink.0.lock().insert(self.next_token, (Arc::clone(&fate), room));
        if let Err(error) = side.partition.append(view, self.next_token, &self.appends) {
            self.sink.0.lock().remove(&self.next_token);
            fate.tell(Err(error.clone().into()));
            return Err(error.into());
        }
        if at == self.sticky {
            self.sticky = (self.sticky + 1) % self.partitions.len();
        }
        Ok(())
    }
}

impl Sender for EngineSender {
    type Ticket = Arc<Fate>;

    async fn send(&mut self, mut record: Record) -> Result<Arc<Fate>, Failure> {
        if record.timestamp.0 == 0 {
            record.timestamp = millstream_client::Timestamp(1);
        }
        let at = match &record.key {
            Some(key) => partition_of_key(key, self.partitions.len() as u32).0 as usize,
            None => self.sticky,
        };
        let side = &mut self.partitions[at];
        side.batch.push(&record).map_err(|error| Failure::usage(format!("a record is refused: {error}")))?;
        let fate = Arc::clone(&side.fate);
        if side.batch.len() >= self.batch_bytes {
            self.append(at).await?;
            tokio::task::yield_now().await;
        }
        Ok(fate)
    }

    async fn idle(&mut self) -> Result<(), Failure> {
        for at in 0..self.partitions.len() {
            if !self.partitions[at].batch.is_empty() {
                self.append(at).await?;
            }
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Sent, Failure> {
        self.idle().await?;
        // All permits are there when all is answered.
        let _all = self.room.acquire_many(self.in_flight).await.expect("the room is never closed");
        Ok(self.sent)
    }

    async fn acked(fate: Arc<Fate>, clock: RunClock) -> Result<u64, Failure> {
        fate.wait().await.map(|at| clock.at(at))
    }
}
