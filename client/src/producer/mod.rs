//! The producer: records in, receipts out.
//!
//! ```text
//! enqueue ─► accumulator (by partition) ─► sender task: encode, compress, write ─► QUIC
//!    ▲ waits while the buffer is full          ▲ acks: settle, resend in order, give up
//! ```

mod accumulator;
mod batch;
pub(crate) mod partitioner;
mod sender;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use millstream_protocol::batch::{BatchError, Codec};
use millstream_protocol::limits::{BATCH_BYTES_MAX, PRODUCE_DEPTH_MAX};
use millstream_protocol::{Code, Record, Timestamp};
use parking_lot::Mutex;
use tokio::sync::Notify;

pub use batch::{Delivery, Receipt};

use crate::client::Client;
use crate::clock::WallClock;
use crate::error::{Error, Result};
use accumulator::{Accumulator, Limits, Offered};

/// How a producer is made: `client.producer("rides").linger(…).build().await?`.
#[derive(Clone)]
pub struct ProducerBuilder {
    client: Client,
    stream: String,
    limits: Limits,
    depth: u32,
    delivery_timeout: Duration,
}

impl ProducerBuilder {
    pub(crate) fn new(client: Client, stream: String) -> Self {
        let limits = Limits {
            codec: Codec::None,
            batch_bytes: 256 << 10,
            linger: Duration::from_millis(5),
            buffer_bytes: 32 << 20,
        };
        let delivery_timeout = Duration::from_secs(120);
        Self { client, stream, limits, depth: 64, delivery_timeout }
    }

    /// How batches are compressed; default not at all: packing costs as much CPU as sending, and pays where network or disk
    /// are dear. For JSON there, [`Codec::Zstd`].
    #[must_use]
    pub fn compression(mut self, codec: Codec) -> Self {
        self.limits.codec = codec;
        self
    }

    /// A batch leaves when it has about this many bytes; 1 KiB to 8 MiB, default 256 KiB.
    #[must_use]
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.limits.batch_bytes = bytes.clamp(1 << 10, BATCH_BYTES_MAX);
        self
    }

    /// A batch leaves when its first record has waited this long; default 5 ms, 0: at once.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.limits.linger = linger;
        self
    }

    /// Bytes of records that may wait for their receipts; above it [`Producer::enqueue`] waits. Default 32 MiB.
    #[must_use]
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.limits.buffer_bytes = bytes.max(1);
        self
    }

    /// Batches in flight at once; 1 to 4,096, default 64; the server may grant less.
    #[must_use]
    pub fn max_in_flight(mut self, batches: u32) -> Self {
        self.depth = batches.clamp(1, PRODUCE_DEPTH_MAX);
        self
    }

    /// How long a batch is tried before its records fail; default 120 s.
    #[must_use]
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.delivery_timeout = timeout;
        self
    }

    /// Makes the producer.
    ///
    /// # Errors
    /// [`Code::UnknownStream`], [`Code::IllegalName`]; the connection's.
    pub async fn build(self) -> Result<Producer> {
        let info = self.client.describe_stream(&self.stream).await?;
        let shared = Arc::new(Shared {
            stream: self.stream,
            accumulator: Mutex::new(Accumulator::new(info.partitions.len() as u32, self.limits)),
            record_bytes_max: info.config.record_bytes_max as usize,
            work: Notify::new(),
            room: Notify::new(),
            settled: Notify::new(),
            failure: Mutex::new(None),
            closed: Mutex::new(None),
            counters: Counters::default(),
            clock: Mutex::new(WallClock::new(Instant::now())),
        });
        let sender = sender::Sender::new(self.client.clone(), shared.clone(), info, self.depth, self.delivery_timeout);
        let task = tokio::spawn(sender.run());
        Ok(Producer { shared, task })
    }
}

/// What the producer's callers and its sender task share.
pub(crate) struct Shared {
    stream: String,
    accumulator: Mutex<Accumulator>,
    record_bytes_max: usize,
    /// For the sender: look at the accumulator.
    work: Notify,
    /// For callers: the buffer may have room.
    room: Notify,
    /// For flushes: a batch is settled.
    settled: Notify,
    /// The first failure since the last flush.
    failure: Mutex<Option<Error>>,
    /// Why nothing more is taken.
    closed: Mutex<Option<Error>>,
    counters: Counters,
    clock: Mutex<WallClock>,
}

#[derive(Default)]
struct Counters {
    records: AtomicU64,
    records_acked: AtomicU64,
    bytes: AtomicU64,
    batches_sent: AtomicU64,
    batches_resent: AtomicU64,
    batches_acked: AtomicU64,
    batches_failed: AtomicU64,
}

/// What a producer has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProducerStats {
    /// Records taken.
    pub records: u64,
    /// Records whose receipts have come.
    pub records_acked: u64,
    /// Bytes of batches sent, repeated ones included.
    pub bytes_sent: u64,
    /// Batches sent, repeated ones included.
    pub batches_sent: u64,
    /// Batches sent again: each may be in the log twice, until producers are idempotent.
    pub batches_resent: u64,
    /// Batches stored.
    pub batches_acked: u64,
    /// Batches given up.
    pub batches_failed: u64,
    /// Bytes of records that wait for their receipts.
    pub buffered_bytes: u64,
}

/// Sends records to one stream. May be used from many tasks at once.
///
/// Within a partition, records are stored in the order in which they were taken, also over retries and lost connections. A
/// batch that is sent again after a lost connection may be stored twice ([`ProducerStats::batches_resent`] counts them).
/// Dropping a producer gives up what has no receipt yet: [`close`](Self::close) it.
pub struct Producer {
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Producer {
    /// Sends one record and waits for its receipt: the stream's durability holds for it (`synced`: it is on disk).
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue), and what the delivery gives.
    pub async fn send(&self, record: Record) -> Result<Receipt> {
        self.enqueue(record).await?.await
    }

    /// Takes a record to be sent; waits while the buffer is full. The delivery resolves with the receipt.
    ///
    /// # Errors
    /// [`Code::RecordTooLarge`], [`Code::IllegalRecord`]: nothing else is affected. What ended the producer, if anything did.
    /// Through the delivery: the server's refusals; [`Code::ConnectionLost`] or the last retryable code when the delivery
    /// timeout is over: the record may be stored.
    pub async fn enqueue(&self, mut record: Record) -> Result<Delivery> {
        let size = record.size();
        if size > self.shared.record_bytes_max {
            let text = format!(
                "record of {size} bytes is above the limit of {} bytes of stream '{}': split it, or raise record_bytes_max",
                self.shared.record_bytes_max, self.shared.stream
            );
            return Err(Error::local(Code::RecordTooLarge, text));
        }
        if record.timestamp == Timestamp(0) {
            record.timestamp = self.shared.clock.lock().at(Instant::now());
        }
        loop {
            // Listen before looking, so that room made in between is not missed.
            let room = self.shared.room.notified();
            match self.offer(&record)? {
                Some(delivery) => return Ok(delivery),
                None => room.await,
            }
        }
    }

    fn offer(&self, record: &Record) -> Result<Option<Delivery>> {
        if let Some(error) = &*self.shared.closed.lock() {
            return Err(error.clone());
        }
        let offered = self.shared.accumulator.lock().offer(record, Instant::now());
        match offered {
            Offered::Taken { delivery, wake } => {
                self.shared.counters.records.fetch_add(1, Ordering::Relaxed);
                if wake {
                    self.shared.work.notify_one();
                }
                Ok(Some(delivery))
            }
            Offered::Full => {
                self.shared.work.notify_one();
                Ok(None)
            }
            Offered::Refused(error) => Err(illegal(error)),
        }
    }

    /// Sends what lingers, and waits until every record taken before has its receipt or has failed.
    ///
    /// # Errors
    /// The first failure of any record since the last flush.
    pub async fn flush(&self) -> Result<()> {
        let mark = self.shared.accumulator.lock().flush();
        self.shared.work.notify_one();
        loop {
            let settled = self.shared.settled.notified();
            if self.shared.accumulator.lock().is_flushed(mark) {
                break;
            }
            settled.await;
        }
        self.shared.failure.lock().take().map_or(Ok(()), Err)
    }

    /// What has been done so far.
    pub fn stats(&self) -> ProducerStats {
        let counters = &self.shared.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ProducerStats {
            records: get(&counters.records),
            records_acked: get(&counters.records_acked),
            bytes_sent: get(&counters.bytes),
            batches_sent: get(&counters.batches_sent),
            batches_resent: get(&counters.batches_resent),
            batches_acked: get(&counters.batches_acked),
            batches_failed: get(&counters.batches_failed),
            buffered_bytes: self.shared.accumulator.lock().buffered_bytes() as u64,
        }
    }

    /// Flushes, and ends the producer.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub async fn close(self) -> Result<()> {
        self.flush().await
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.end(&batch::closed());
    }
}

impl Shared {
    /// Takes nothing more, and fails what has not left.
    fn end(&self, error: &Error) {
        self.closed.lock().get_or_insert_with(|| error.clone());
        let left = {
            let mut accumulator = self.accumulator.lock();
            let left = accumulator.drain();
            left.iter().for_each(|batch| accumulator.settled(batch.seq, batch.bytes));
            left
        };
        for batch in left {
            batch.outcome.settle(Err(error.clone()));
        }
        self.room.notify_waiters();
        self.settled.notify_waiters();
    }
}

fn illegal(error: BatchError) -> Error {
    let code = match error {
        BatchError::RecordLimit { what: "the record", unit: "bytes", .. } => Code::RecordTooLarge,
        _ => Code::IllegalRecord,
    };
    Error::local_from(code, format!("the record cannot be sent: {error}"), error)
}
