//! A consumer's background task: opens the stream, reads and verifies batches, opens it again where it stood.
//!
//! Before a frame's body is read its length is taken out of the prefetch budget; the frame gives it back when the
//! application has taken its last batch. While there is no room nothing is read, and QUIC's flow control holds the
//! server.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millstream_protocol::batch::{BatchError, BatchHeader, BatchView};
use millstream_protocol::frame::consume::{BATCHES_PREFIX_BYTES, BatchesPrefix};
use millstream_protocol::frame::control::{ConsumeEvent, ConsumeMode, ConsumeOpen, ConsumeOpened, Message};
use millstream_protocol::frame::{FrameHeader, Kind, Refusal};
use millstream_protocol::limits::FRAME_BYTES_MAX;
use millstream_protocol::{Code, Offset, PartitionId, StreamId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::batch::ConsumedBatch;
use super::position::{Place, Positions, Wanted};
use crate::backoff::Backoff;
use crate::client::Client;
use crate::connection::Opening;
use crate::error::{Error, Gap, Result};
use crate::frame_io::{FrameReader, StreamError};

/// Items between the fetcher and the application. What matters is their bytes; this bounds events.
pub(super) const ITEMS_MAX: usize = 1_024;

/// What the fetcher tells the consumer.
#[derive(Debug)]
pub(super) enum Item {
    Frame(Frame),
    Gap(Gap, Error),
    /// A partition has failed for good.
    Failed(Error),
    /// The consumer has; nothing follows.
    Final(Error),
}

/// The wanted batches of one frame.
#[derive(Debug)]
pub(super) struct Frame {
    pub partition: PartitionId,
    pub high_watermark: Offset,
    pub batches: VecDeque<ConsumedBatch>,
    /// Goes back to the budget with the frame.
    room: Arc<OwnedSemaphorePermit>,
}

impl Frame {
    fn new(prefix: &BatchesPrefix, room: Arc<OwnedSemaphorePermit>) -> Self {
        let BatchesPrefix { partition, high_watermark, .. } = *prefix;
        Self { partition, high_watermark, batches: VecDeque::new(), room }
    }
}

/// What became of one batch that came.
enum Verified {
    Wanted(ConsumedBatch),
    /// All of it is below the position, or beyond the end.
    Known,
    Damaged(Gap, Error),
}

/// The stream as it was found when the consumer was built.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub client: Client,
    pub name: String,
    pub id: StreamId,
    pub server_id: u64,
    pub mode: ConsumeMode,
}

pub(super) struct Fetcher {
    pub source: Source,
    pub positions: Positions,
    pub budget: Budget,
    pub reconnect_timeout: Duration,
    pub items: mpsc::Sender<Item>,
    /// Where a batch did not verify: twice at the same place is no accident of the way.
    pub unverified: Option<(PartitionId, Offset)>,
}

/// Bytes that may be read ahead of the application.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    bytes: u32,
    room: Arc<Semaphore>,
}

impl Budget {
    pub fn new(bytes: u32) -> Self {
        let bytes = bytes.max(1);
        Self { bytes, room: Arc::new(Semaphore::new(bytes as usize)) }
    }

    /// Waits for room. A frame above the whole budget takes all of it.
    async fn reserve(&self, bytes: u32) -> OwnedSemaphorePermit {
        let wanted = bytes.min(self.bytes);
        Arc::clone(&self.room).acquire_many_owned(wanted).await.expect("the semaphore is never closed")
    }
}

const _: () = assert!(FRAME_BYTES_MAX < u32::MAX as usize, "a frame's length is a number of permits");

impl Source {
    /// Opens a consume stream at the positions.
    pub async fn open(&self, positions: &mut Positions) -> Result<FrameReader> {
        let connection = self.client.connection().await?;
        let info = self.client.describe_over(&connection, &self.name).await?;
        let same = |place: &Place| {
            let partition = info.partitions.get(place.partition.0 as usize);
            partition.is_some_and(|partition| partition.incarnation == place.incarnation.0)
        };
        if self.id != StreamId(info.id) || self.server_id != connection.server_id() || !positions.all().all(same) {
            let text = format!(
                "the stream {:?} was deleted and another one of that name is there now: build a new consumer for it",
                self.name
            );
            return Err(Error::local(Code::StreamDeleted, text));
        }
        let open = ConsumeOpen { stream: self.id.0, partitions: positions.starts(), mode: self.mode };
        let (mut send, reader, answer) = connection
            .open_stream(Opening {
                kind: Kind::OpenConsume,
                body: &open.encode(),
                answer: Kind::OpenConsumeOk,
                within: self.client.config().request_timeout,
            })
            .await?;
        // Nothing more is sent; an error means that the stream has ended, and then reading says why.
        let _ = send.finish();
        positions.opened(&ConsumeOpened::decode(&answer)?.positions)?;
        Ok(reader)
    }
}

/// How a consume stream ended.
enum End {
    /// Everything asked for has come.
    Done,
    /// Nobody wants more.
    Dropped,
    Lost(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        End::Lost(error)
    }
}

impl From<StreamError> for End {
    fn from(error: StreamError) -> Self {
        End::Lost(error.into())
    }
}

impl Fetcher {
    /// Runs until everything has come, nobody wants more, or an error that no retry can help.
    pub async fn run(mut self, reader: FrameReader) {
        let mut backoff = Backoff::default();
        let mut reader = Ok(reader);
        let mut failing_since = None;
        loop {
            let ended = match reader {
                Ok(stream) => Err(self.read(stream, &mut failing_since, &mut backoff).await),
                Err(error) => Ok(error),
            };
            let error = match ended {
                Err(End::Done | End::Dropped) => return,
                Err(End::Lost(error)) | Ok(error) => error,
            };
            let since = *failing_since.get_or_insert_with(Instant::now);
            if !error.is_retryable() || since.elapsed() >= self.reconnect_timeout {
                // Nobody to tell is as good as told.
                let _ = self.items.send(Item::Final(error)).await;
                return;
            }
            tracing::debug!(stream = self.source.name, %error, "a consume stream ended; it will be opened again");
            tokio::time::sleep(backoff.next(error.retry_after())).await;
            reader = self.source.open(&mut self.positions).await;
        }
    }

    async fn read(&mut self, mut reader: FrameReader, failing: &mut Option<Instant>, backoff: &mut Backoff) -> End {
        loop {
            match self.read_frame(&mut reader).await {
                Ok(()) if self.positions.is_done() => return End::Done,
                Ok(()) => {
                    *failing = None;
                    backoff.reset();
                }
                Err(end) => return end,
            }
        }
    }

    async fn read_frame(&mut self, reader: &mut FrameReader) -> Result<(), End> {
        let header = reader.header().await?.ok_or(StreamError::Cut)?;
        match header.kind {
            Kind::Batches => {
                let room = self.budget.reserve(header.body_len).await;
                let body = reader.body(&header).await?;
                self.take_batches(body, room).await
            }
            Kind::ConsumeEvent => {
                let event = ConsumeEvent::decode(&reader.body(&header).await?).map_err(Error::from)?;
                self.take_event(event).await
            }
            Kind::Error => {
                let refusal = Refusal::decode(&reader.body(&header).await?).map_err(Error::from)?;
                Err(End::Lost(refusal.into()))
            }
            _ => Err(End::Lost(unexpected(&header))),
        }
    }

    async fn take_batches(&mut self, body: Bytes, room: OwnedSemaphorePermit) -> Result<(), End> {
        let prefix = BatchesPrefix::decode(&body).map_err(Error::from)?;
        let mut frame = Frame::new(&prefix, Arc::new(room));
        let mut rest = body.slice(BATCHES_PREFIX_BYTES..);
        while !rest.is_empty() {
            match self.verify(prefix.partition, &mut rest) {
                Ok(Verified::Wanted(batch)) => frame.batches.push_back(batch),
                Ok(Verified::Known) => {}
                Ok(Verified::Damaged(gap, error)) => {
                    let follows = Frame::new(&prefix, Arc::clone(&frame.room));
                    self.tell_frame(std::mem::replace(&mut frame, follows)).await?;
                    self.tell(Item::Gap(gap, error)).await?;
                }
                // What did verify is delivered, whatever follows it.
                Err(error) => {
                    self.tell_frame(frame).await?;
                    return Err(End::Lost(error));
                }
            }
        }
        self.tell_frame(frame).await
    }

    /// Takes the first batch off `rest`.
    fn verify(&mut self, partition: PartitionId, rest: &mut Bytes) -> Result<Verified> {
        let incarnation = self.positions.incarnation(partition)?;
        let at = self.positions.next(partition)?;
        let error = match BatchView::split_stored(rest, incarnation) {
            Ok(view) => {
                let wanted = self.positions.accept(partition, view.header())?;
                return Ok(wanted.map_or(Verified::Known, |wanted| {
                    let Wanted { from, until } = wanted;
                    Verified::Wanted(ConsumedBatch { partition, view, first: from, end: until })
                }));
            }
            Err(error) => error,
        };
        // The first time at a place it may have happened on the way: it is fetched once more.
        if self.unverified.replace((partition, at)) != Some((partition, at)) {
            let text = format!("a batch of partition {partition} at or behind offset {at} does not verify: {error}");
            return Err(Error::lost(text, error));
        }
        match (&error, BatchHeader::decode(rest)) {
            // The header holds, so that it is known which records are lost and where the next batch begins.
            (BatchError::BodyChecksum { .. }, Ok(header)) => {
                let _ = rest.split_to(header.batch_len());
                Ok(self.positions.accept(partition, &header)?.map_or(Verified::Known, |lost| {
                    let gap = Gap { partition, from: lost.from, resume: lost.until };
                    let text = format!(
                        "records {}..{} of partition {partition} are damaged: {error}; delivery goes on behind them, run \
                         `millstream verify` on the server's data directory",
                        gap.from, gap.resume
                    );
                    Verified::Damaged(gap, Error::of_gap(gap, Code::RecordsLost, text))
                }))
            }
            _ => {
                let text = format!(
                    "what the server sent for partition {partition} at or behind offset {at} is not a batch of it: {error}; \
                     run `millstream verify` on the server's data directory"
                );
                Err(Error::local_from(Code::CorruptBatch, text, error))
            }
        }
    }

    async fn take_event(&mut self, event: ConsumeEvent) -> Result<(), End> {
        match event {
            ConsumeEvent::End { partition, .. } => {
                self.positions.end(PartitionId(partition))?;
                Ok(())
            }
            ConsumeEvent::Gap { partition, from, resume, code, text } => {
                match self.positions.gap(PartitionId(partition), Offset(from), Offset(resume))? {
                    Some(gap) => self.tell(Item::Gap(gap, Error::of_gap(gap, Code::from_number(code), text))).await,
                    None => Ok(()),
                }
            }
            ConsumeEvent::Failed { partition, code, text } => {
                let partition = PartitionId(partition);
                if self.positions.end(partition)? {
                    self.tell(Item::Failed(Error::of_partition(partition, Code::from_number(code), text))).await?;
                }
                Ok(())
            }
            _ => Err(End::Lost(Error::protocol("an event that this client does not know"))),
        }
    }

    async fn tell_frame(&self, frame: Frame) -> Result<(), End> {
        if frame.batches.is_empty() { Ok(()) } else { self.tell(Item::Frame(frame)).await }
    }

    async fn tell(&self, item: Item) -> Result<(), End> {
        self.items.send(item).await.map_err(|_| End::Dropped)
    }
}

fn unexpected(header: &FrameHeader) -> Error {
    Error::protocol(format_args!("a frame of kind {:?} on a consume stream", header.kind))
}
