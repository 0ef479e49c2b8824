//! The consumer: an async stream of records.
//!
//! ```text
//! server pushes ─► fetcher task: check, trim, hold to the byte budget ─► Consumer: decode ─► application
//! ```

mod fetcher;
mod position;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use futures::future::poll_fn;
use millstream_protocol::batch::{BatchView, Records};
use millstream_protocol::{Code, Epoch, Offset, PartitionId, Record, Timestamp};
use tokio::sync::{Semaphore, mpsc};

pub use position::Start;

use crate::client::Client;
use crate::error::{Error, Gap, Result};
use fetcher::{Fetched, Fetcher};
use position::Positions;

/// How a consumer is made: `client.consumer("rides").start(Start::Earliest).follow().build().await?`.
#[derive(Clone)]
pub struct ConsumerBuilder {
    client: Client,
    stream: String,
    start: Start,
    bounded: bool,
    partitions: Option<Vec<PartitionId>>,
    prefetch_bytes: u32,
    reconnect_timeout: Duration,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client, stream: String) -> Self {
        Self {
            client,
            stream,
            start: Start::Earliest,
            bounded: false,
            partitions: None,
            prefetch_bytes: 8 << 20,
            reconnect_timeout: Duration::from_secs(120),
        }
    }

    /// Where to begin; default at the earliest record kept.
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Ends at the high watermark that each partition has when the consumer is made.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.bounded = true;
        self
    }

    /// Waits for more, for ever: the default.
    #[must_use]
    pub fn follow(mut self) -> Self {
        self.bounded = false;
        self
    }

    /// Only these partitions; default all.
    #[must_use]
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = PartitionId>) -> Self {
        self.partitions = Some(partitions.into_iter().collect());
        self
    }

    /// Bytes of batches that may wait for the application; default 8 MiB. Beyond it the server is slowed down.
    #[must_use]
    pub fn prefetch_bytes(mut self, bytes: u32) -> Self {
        self.prefetch_bytes = bytes.max(1);
        self
    }

    /// How long a lost connection is tried again; default 120 s.
    #[must_use]
    pub fn reconnect_timeout(mut self, timeout: Duration) -> Self {
        self.reconnect_timeout = timeout;
        self
    }

    /// Makes the consumer.
    ///
    /// # Errors
    /// [`Code::UnknownStream`], [`Code::UnknownPartition`]; [`Code::OffsetOutOfRange`] above the end; the connection's.
    pub async fn build(self) -> Result<Consumer> {
        let info = self.client.describe_stream(&self.stream).await?;
        let count = info.partitions.len() as u32;
        let mut partitions = self.partitions.unwrap_or_else(|| (0..count).map(PartitionId).collect());
        partitions.sort_unstable();
        partitions.dedup();
        if let Some(unknown) = partitions.iter().find(|partition| partition.0 >= count) {
            let text = format!("stream '{}' has no partition {unknown}: it has {count}, counted from 0", self.stream);
            return Err(Error::local(Code::UnknownPartition, text));
        }
        let (out, incoming) = mpsc::unbounded_channel();
        let mut fetcher = Fetcher {
            client: self.client,
            info,
            positions: Positions::new(self.start, self.bounded, partitions),
            prefetch: Arc::new(Semaphore::new(self.prefetch_bytes as usize)),
            prefetch_bytes: self.prefetch_bytes,
            reconnect_timeout: self.reconnect_timeout,
            out,
        };
        let frames = fetcher.open().await?;
        tokio::spawn(fetcher.run(frames));
        Ok(Consumer { incoming, current: None, pending: VecDeque::new() })
    }
}

/// A record, and where it stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// The partition.
    pub partition: PartitionId,
    /// Its offset there.
    pub offset: Offset,
    /// The partition's epoch when it was appended.
    pub epoch: Epoch,
    /// The server's time of append.
    pub append_time: Timestamp,
    /// The record.
    pub record: Record,
}

/// A batch whose checksums hold, undecoded: for who wants speed more than records.
#[derive(Debug, Clone)]
pub struct ConsumedBatch {
    /// The partition.
    pub partition: PartitionId,
    /// The batch; it may begin below `first` and reach beyond `end`.
    pub view: BatchView,
    /// The first offset of it that was asked for.
    pub first: Offset,
    /// The offset after the last one that was asked for.
    pub end: Offset,
}

/// Reads a stream's records: in order within each partition, the partitions in turn.
///
/// An error item with a [`gap`](Error::gap) tells of records that are missing (damaged, or deleted before they were
/// read); reading goes on behind them. After any other error nothing more comes from that
/// partition ([`Code::LogTruncated`], [`Code::StreamDeleted`]) or at all.
pub struct Consumer {
    incoming: mpsc::UnboundedReceiver<Result<Fetched>>,
    current: Option<Decoding>,
    pending: VecDeque<Error>,
}

struct Decoding {
    fetched: Fetched,
    records: Records,
}

impl Consumer {
    /// The next record; `None` when a bounded consumer has everything.
    ///
    /// # Errors
    /// See the type. Cancelling the call loses nothing.
    pub async fn next(&mut self) -> Option<Result<ConsumedRecord>> {
        poll_fn(|context| self.poll_record(context)).await
    }

    /// The next batch, undecoded; what [`next`](Self::next) has begun is skipped.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn next_batch(&mut self) -> Option<Result<ConsumedBatch>> {
        self.current = None;
        if let Some(error) = self.pending.pop_front() {
            return Some(Err(error));
        }
        let fetched = self.incoming.recv().await?;
        Some(fetched.map(|fetched| ConsumedBatch {
            partition: fetched.partition,
            view: fetched.view.clone(),
            first: fetched.first,
            end: fetched.end,
        }))
    }

    fn poll_record(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<ConsumedRecord>>> {
        loop {
            if let Some(error) = self.pending.pop_front() {
                return Poll::Ready(Some(Err(error)));
            }
            if let Some(decoding) = &mut self.current {
                match decoding.next() {
                    Some(item) => return Poll::Ready(Some(item)),
                    None => self.current = None,
                }
            }
            match self.incoming.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(error))) => self.pending.push_back(error),
                Poll::Ready(Some(Ok(fetched))) => match fetched.view.records() {
                    Ok(records) => self.current = Some(Decoding { fetched, records }),
                    Err(error) => self.pending.push_back(undecodable(&fetched, &error.to_string())),
                },
            }
        }
    }
}

impl Decoding {
    fn next(&mut self) -> Option<Result<ConsumedRecord>> {
        loop {
            let (offset, record) = match self.records.next_with_offset()? {
                Ok(found) => found,
                Err(error) => return Some(Err(undecodable(&self.fetched, &error.to_string()))),
            };
            if offset >= self.fetched.end {
                return None;
            }
            if offset >= self.fetched.first {
                let header = self.fetched.view.header();
                return Some(Ok(ConsumedRecord {
                    partition: self.fetched.partition,
                    offset,
                    epoch: header.epoch,
                    append_time: header.append_time,
                    record,
                }));
            }
        }
    }
}

/// A producer wrote a batch whose checksum holds and whose records do not decode.
fn undecodable(fetched: &Fetched, reason: &str) -> Error {
    let (partition, first, end) = (fetched.partition, fetched.first, fetched.end);
    let text =
        format!("records {first}..{end} of partition {partition} do not decode, their producer is at fault: {reason}");
    let gap = Gap { partition, from: first, resume: end };
    Error::of_gap(gap, Code::RecordsLost, text)
}

impl Stream for Consumer {
    type Item = Result<ConsumedRecord>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_record(context)
    }
}
