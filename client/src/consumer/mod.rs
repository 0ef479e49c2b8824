//! Receiving records: from a position, verified, without silent gaps.
//!
//! - `position` (pure): how far it is, what of a batch is wanted, where a bounded delivery ends.
//! - `source`: the stream, opened at positions and read under a budget. `intake` (pure): what came, verified.
//! - `fetcher`: the background task that reads ahead of the application. `shelf` (pure): what is to be handed out.
//! - `batch`: what is handed out. `builder`: the settings.
//!
//! Groups (`crate::group`) use all of it but the fetcher: their partitions change while they read.

mod batch;
mod builder;
mod fetcher;
pub(crate) mod intake;
pub(crate) mod position;
pub(crate) mod shelf;
pub(crate) mod source;

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::Stream;
use millstream_protocol::{Offset, PartitionId};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::error::{Error, Result};
use intake::Item;
use position::Place;
use shelf::{Reached, Shelf};

pub use batch::{ConsumedBatch, ConsumedRecord, ConsumedRecords};
pub use builder::ConsumerBuilder;
pub use position::{Position, Start};

/// Reads a stream's partitions. Made by [`Client::consumer`](crate::Client::consumer).
///
/// Records of a partition come in order; partitions are interleaved as they come. Every batch is verified against its
/// checksums and the partition it must be of. A lost connection is made again behind the last batch that came; no
/// record comes twice.
///
/// # Errors as items
/// An item may be an error, and what follows depends on it:
/// - [`Error::gap`](crate::Error::gap) is some: records are missing (damaged, or deleted before they came); delivery
///   **goes on** behind them.
/// - [`Error::partition`](crate::Error::partition) is some, without a gap: that partition's delivery has ended
///   ([`Code::LogTruncated`](crate::Code::LogTruncated), [`Code::StreamDeleted`](crate::Code::StreamDeleted), …);
///   the others go on.
/// - Neither: the consumer has ended.
///
/// A loop that stops at the first error is always safe.
///
/// # Example
/// ```no_run
/// # async fn example(client: millstream_client::Client) -> millstream_client::Result<()> {
/// use millstream_client::{PartitionId, Start};
///
/// let mut consumer = client.consumer("rides").start(Start::Latest).partitions([PartitionId(0)]).follow().build().await?;
/// while let Some(item) = consumer.next().await {
///     match item {
///         Ok(record) => println!("{} {:?}", record.offset, record.record.value),
///         Err(error) if error.gap().is_some() => eprintln!("{error}"),
///         Err(error) => return Err(error),
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Consumer {
    items: mpsc::Receiver<Item>,
    shelf: Shelf,
    partitions: Vec<Progress>,
    ended: bool,
    task: AbortHandle,
}

/// How far the application is in one partition.
#[derive(Debug)]
struct Progress {
    place: Place,
    high_watermark: Option<Offset>,
}

impl Consumer {
    fn new(items: mpsc::Receiver<Item>, places: Vec<Place>, task: AbortHandle) -> Self {
        let progress = |place| Progress { place, high_watermark: None };
        let partitions = places.into_iter().map(progress).collect();
        Self { items, shelf: Shelf::default(), partitions, ended: false, task }
    }

    /// The next record, or `None` at the end of a bounded consumer. Waits for it.
    ///
    /// # Errors
    /// See [the type](Self#errors-as-items).
    ///
    /// # Cancel safety
    /// A call that is dropped before it resolves has taken nothing.
    pub async fn next(&mut self) -> Option<Result<ConsumedRecord>> {
        std::future::poll_fn(|context| self.poll_record(context)).await
    }

    /// The next batch, or `None` at the end of a bounded consumer. Waits for it. Costs nothing per record: they are
    /// decoded when [`ConsumedBatch::records`] is called. After some calls of [`next`](Self::next) it gives what
    /// is left of their batch.
    ///
    /// # Errors
    /// See [the type](Self#errors-as-items).
    ///
    /// # Cancel safety
    /// A call that is dropped before it resolves has taken nothing.
    pub async fn next_batch(&mut self) -> Option<Result<ConsumedBatch>> {
        std::future::poll_fn(|context| self.poll_batch(context)).await
    }

    /// Where the application is in each partition: behind the last record or batch it took. Give them to
    /// [`ConsumerBuilder::positions`] to go on from there.
    pub fn positions(&self) -> Vec<Position> {
        self.partitions.iter().map(|progress| progress.place.position()).collect()
    }

    /// The partition's high watermark when the last batch that the application took was sent; `None` before.
    pub fn high_watermark(&self, partition: PartitionId) -> Option<Offset> {
        let index = index(&self.partitions, partition)?;
        self.partitions[index].high_watermark
    }

    fn poll_record(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<ConsumedRecord>>> {
        loop {
            let partitions = &mut self.partitions;
            if let Some(record) = self.shelf.record(|reached| took(partitions, reached)) {
                return Poll::Ready(Some(record));
            }
            if let Some(ended) = ready!(self.poll_frame(context)) {
                return Poll::Ready(ended.map(Err));
            }
        }
    }

    fn poll_batch(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<ConsumedBatch>>> {
        loop {
            let partitions = &mut self.partitions;
            if let Some(batch) = self.shelf.batch(|reached| took(partitions, reached)) {
                return Poll::Ready(Some(Ok(batch)));
            }
            if let Some(ended) = ready!(self.poll_frame(context)) {
                return Poll::Ready(ended.map(Err));
            }
        }
    }

    /// Puts the next frame on the shelf. Ready with `Some` where there is none but an error, or the end.
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Option<Error>>> {
        if self.ended {
            return Poll::Ready(Some(None));
        }
        let error = match ready!(self.items.poll_recv(context)) {
            Some(Item::Frame(frame)) => {
                let high_watermark = frame.high_watermark;
                if let Some(progress) = progress(&mut self.partitions, frame.partition) {
                    progress.high_watermark = Some(high_watermark);
                }
                self.shelf.put(frame);
                return Poll::Ready(None);
            }
            Some(Item::Gap(gap, error)) => {
                if let Some(progress) = progress(&mut self.partitions, gap.partition) {
                    progress.place.skipped(gap.resume);
                }
                error
            }
            Some(Item::Failed(error)) => error,
            Some(Item::Final(error)) => {
                self.ended = true;
                error
            }
            None => {
                self.ended = true;
                return Poll::Ready(Some(None));
            }
        };
        Poll::Ready(Some(Some(error)))
    }
}

fn took(partitions: &mut [Progress], reached: Reached) {
    if let Some(progress) = progress(partitions, reached.partition) {
        progress.place.delivered(reached.next, reached.epoch);
    }
}

fn progress(partitions: &mut [Progress], partition: PartitionId) -> Option<&mut Progress> {
    let index = index(partitions, partition)?;
    Some(&mut partitions[index])
}

fn index(partitions: &[Progress], partition: PartitionId) -> Option<usize> {
    // All of a stream's partitions: the number is the index.
    let at = partition.0 as usize;
    if partitions.get(at).is_some_and(|progress| progress.place.partition == partition) {
        return Some(at);
    }
    partitions.binary_search_by_key(&partition, |progress| progress.place.partition).ok()
}

impl Stream for Consumer {
    type Item = Result<ConsumedRecord>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_record(context)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
