//! The task that takes what the server pushes: checks each batch, drops what is known, and hands the rest on under a byte
//! budget. A lost connection is made again, from the position reached.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_protocol::batch::{BatchError, BatchView};
use millstream_protocol::frame::consume::{BATCHES_PREFIX_BYTES, BatchesPrefix};
use millstream_protocol::frame::control::{ConsumeEvent, ConsumeMode, ConsumeOpen, ConsumeOpened, Message, StreamInfo};
use millstream_protocol::frame::{FrameError, Kind, Refusal};
use millstream_protocol::{Code, Incarnation, Offset, PartitionId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::position::Positions;
use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::{Error, Gap, Result};
use crate::frame_io::{FrameReader, StreamError, write_frame};

/// A batch on its way to the application.
pub(super) struct Fetched {
    pub partition: PartitionId,
    pub view: BatchView,
    /// The offsets of it that are wanted.
    pub first: Offset,
    pub end: Offset,
    /// Given back once it is consumed: makes room for more.
    pub _room: OwnedSemaphorePermit,
}

pub(super) struct Fetcher {
    pub client: Client,
    pub info: StreamInfo,
    pub positions: Positions,
    pub prefetch: Arc<Semaphore>,
    pub prefetch_bytes: u32,
    pub reconnect_timeout: Duration,
    pub out: mpsc::UnboundedSender<Result<Fetched>>,
}

/// Why a consume stream was left.
enum End {
    /// All that was wanted is there, or nobody wants it any more.
    Done,
    /// The connection: another may do.
    Lost(Error),
    /// For good.
    Failed(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        let again = error.is_unreachable() || error.is_retryable() || error.code() == Code::ConnectionLost;
        if again { End::Lost(error) } else { End::Failed(error) }
    }
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> Self {
        End::Failed(error.into())
    }
}

impl Fetcher {
    /// Runs on a stream that was opened, until it is done.
    pub(super) async fn run(mut self, mut frames: FrameReader) {
        loop {
            let lost = match self.receive(&mut frames).await {
                End::Done => return,
                End::Failed(error) => return self.tell(Err(error)),
                End::Lost(error) => error,
            };
            tracing::debug!(error = %lost, "the consume stream was lost: trying again");
            match self.open_again(lost).await {
                Ok(again) => frames = again,
                Err(error) => return self.tell(Err(error)),
            }
        }
    }

    fn tell(&self, item: Result<Fetched>) {
        // The consumer may have been dropped.
        let _ = self.out.send(item);
    }

    /// Opens the consume stream.
    pub(super) async fn open(&mut self) -> Result<FrameReader> {
        let connection = self.client.connection().await?;
        let open = ConsumeOpen { stream: self.info.id, partitions: self.positions.starts(), mode: ConsumeMode::Follow };
        let (mut send, recv) = connection.quic().open_bi().await.map_err(StreamError::from)?;
        write_frame(&mut send, Kind::OpenConsume, 0, &open.encode()).await?;
        // Nothing more is sent on it.
        let _ = send.finish();
        let mut frames = FrameReader::new(recv);
        let answer = frames.answer(Kind::OpenConsumeOk, "the answer to the opening").await?;
        self.positions.opened(&ConsumeOpened::decode(&answer)?);
        Ok(frames)
    }

    async fn open_again(&mut self, mut error: Error) -> Result<FrameReader> {
        let deadline = tokio::time::Instant::now() + self.reconnect_timeout;
        let mut backoff = Backoff::default();
        while tokio::time::Instant::now() < deadline && !self.out.is_closed() {
            tokio::time::sleep(backoff.next(error.retry_after())).await;
            error = match self.open().await {
                Ok(frames) => return Ok(frames),
                Err(again) if matches!(End::from(again.clone()), End::Lost(_)) => again,
                Err(failed) => return Err(failed),
            };
        }
        Err(error)
    }

    async fn receive(&mut self, frames: &mut FrameReader) -> End {
        loop {
            if self.positions.all_done() || self.out.is_closed() {
                // Dropping the stream tells the server to send no more.
                return End::Done;
            }
            let frame = tokio::select! {
                frame = frames.frame() => frame,
                () = self.out.closed() => continue,
            };
            let taken = match frame {
                Ok(Some((header, body))) => match header.kind {
                    Kind::Batches => self.take_batches(body).await,
                    Kind::ConsumeEvent => self.take_event(&body),
                    Kind::Error => {
                        Err(Refusal::decode(&body).map_or_else(End::from, |refusal| Error::from(refusal).into()))
                    }
                    found => Err(FrameError::Unexpected { found, expected: "batches" }.into()),
                },
                Ok(None) => Err(End::Lost(Error::lost("the server ended the consume stream", StreamError::Cut))),
                Err(error) => Err(Error::from(error).into()),
            };
            if let Err(end) = taken {
                return end;
            }
        }
    }

    async fn take_batches(&mut self, body: Bytes) -> std::result::Result<(), End> {
        let prefix = BatchesPrefix::decode(&body)?;
        let mut rest = body.slice(BATCHES_PREFIX_BYTES..);
        let partition = prefix.partition;
        let Some(info) = self.info.partitions.get(partition.0 as usize) else {
            return Err(FrameError::Unknown { what: "partition", value: partition.0.into() }.into());
        };
        let incarnation = Incarnation(info.incarnation);
        while !rest.is_empty() {
            match BatchView::split_stored(&mut rest, incarnation) {
                Ok(view) => {
                    let Some((first, end)) = self.positions.take(partition, view.header()) else { continue };
                    let bytes = u32::try_from(view.bytes().len()).unwrap_or(u32::MAX).min(self.prefetch_bytes);
                    let room = self.prefetch.clone().acquire_many_owned(bytes).await;
                    let room = room.expect("the semaphore is never closed");
                    self.tell(Ok(Fetched { partition, view, first, end, _room: room }));
                }
                Err(BatchError::BodyChecksum { .. }) => self.skip_damaged(partition, &mut rest)?,
                Err(error) => {
                    let text = format!("partition {partition}: what the server sent is not a batch: {error}");
                    return Err(End::Failed(Error::local_from(Code::CorruptBatch, text, error)));
                }
            }
        }
        Ok(())
    }

    /// The header holds and the body does not: these records are lost, and it is known which.
    fn skip_damaged(&mut self, partition: PartitionId, rest: &mut Bytes) -> std::result::Result<(), End> {
        use millstream_protocol::batch::BatchHeader;
        let header = BatchHeader::decode(rest).map_err(|error| {
            End::Failed(Error::local(Code::CorruptBatch, format!("partition {partition}: {error}")))
        })?;
        let _ = rest.split_to(header.batch_len());
        if let Some((first, end)) = self.positions.take(partition, &header) {
            let text = format!("records {first}..{end} of partition {partition} are damaged and lost");
            self.tell(Err(Error::of_gap(Gap { partition, from: first, resume: end }, Code::RecordsLost, text)));
        }
        Ok(())
    }

    fn take_event(&mut self, body: &[u8]) -> std::result::Result<(), End> {
        match ConsumeEvent::decode(body)? {
            ConsumeEvent::Gap { partition, from, resume, code, text } => {
                let gap = Gap { partition: PartitionId(partition), from: Offset(from), resume: Offset(resume) };
                self.positions.skip(gap.partition, gap.resume);
                self.tell(Err(Error::of_gap(gap, Code::from_number(code), text)));
            }
            ConsumeEvent::Failed { partition, code, text } => {
                self.positions.fail(PartitionId(partition));
                self.tell(Err(Error::of_partition(PartitionId(partition), Code::from_number(code), text)));
            }
            // We follow and know our own ends; what a newer server adds may be passed over.
            _ => {}
        }
        Ok(())
    }
}
