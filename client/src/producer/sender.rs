//! A producer's background task: packs batches, writes them, reads the answers, connects again.
//!
//! ```text
//! accumulator ─► pack (checksum, compress) ─► pipeline ─► write ─► produce stream
//!                                                 ▲                      │
//!                                                 └───── read (acks) ◄───┘
//! ```
//! The three loops run in one task beside one that expires what is too old; whichever loop of a produce stream ends
//! first ends that stream, and the pipeline takes back what was in flight.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use millstream_protocol::batch::Codec;
use millstream_protocol::frame::produce::{OpenProduce, PRODUCE_PREFIX_BYTES, ProducePrefix, decode_acks};
use millstream_protocol::frame::{FLAG_RESUME, FRAME_HEADER_BYTES, FrameHeader, Kind, Refusal};
use millstream_protocol::{Code, Epoch, PartitionId};
use quinn::{SendStream, VarInt};

use super::accumulator::Closed;
use super::pipeline::{Batch, Next, Outgoing, is_final};
use super::shared::Shared;
use crate::backoff::Backoff;
use crate::connection::Opening;
use crate::error::{Error, Result};
use crate::frame_io::{FrameReader, StreamError};

/// How often a batch that is overdue in flight is looked at until its stream has ended.
const OVERDUE_CHECK: Duration = Duration::from_millis(20);

/// Runs until the producer is dropped, closed or dead; then everything without an outcome gets one.
pub(super) async fn run(shared: Arc<Shared>) {
    let error = tokio::select! {
        error = Box::pin(sessions(&shared)) => error,
        never = pack(&shared) => never,
        never = expire(&shared) => never,
        () = shared.end.notified() => Error::local(
            Code::ConnectionLost,
            "the producer was dropped before this record was acknowledged: close or flush it first",
        ),
    };
    shared.die(&error);
}

/// One produce stream after the other, until an error that no retry can help.
async fn sessions(shared: &Shared) -> Error {
    let mut backoff = Backoff::default();
    loop {
        let error = match session(shared, &mut backoff).await {
            Err(error) => error,
            Ok(never) => match never {},
        };
        if !error.is_retryable() {
            return error;
        }
        tracing::debug!(stream = shared.target.name, %error, "a produce stream ended; it will be opened again");
        shared.pipeline.lock().lost(&error);
        shared.expire(Instant::now());
        shared.pack.notify_one();
        tokio::time::sleep(backoff.next(error.retry_after())).await;
    }
}

/// One produce stream, from its opening to the error that ends it.
async fn session(shared: &Shared, backoff: &mut Backoff) -> Result<std::convert::Infallible> {
    let connection = shared.client.connection().await?;
    let info = shared.client.describe_over(&connection, &shared.target.name).await?;
    shared.target.check_same(&info, connection.server_id())?;
    let asked = OpenProduce { depth: shared.settings.depth };
    let (send, reader, answer) = connection
        .open_stream(Opening {
            kind: Kind::OpenProduce,
            body: &asked.encode(),
            answer: Kind::OpenProduceOk,
            within: shared.client.config().request_timeout,
        })
        .await?;
    let granted = OpenProduce::decode(&answer)?;
    let epochs = info.partitions.iter().map(|info| (PartitionId(info.partition), Epoch(info.epoch)));
    shared.pipeline.lock().opened(granted.depth.min(asked.depth), epochs);
    shared.pack.notify_one();
    tokio::select! {
        error = write(shared, send) => Err(error),
        error = read(shared, reader, backoff) => Err(error),
        () = shared.reset.notified() => Err(Error::timed_out("the server did not answer a batch within the delivery timeout")),
    }
}

/// Turns closed batches into bytes, as far ahead as the pipeline wants them.
async fn pack(shared: &Shared) -> Error {
    loop {
        let step = {
            let pipeline = shared.pipeline.lock();
            let mut books = shared.books.lock();
            if pipeline.wants_more() {
                books.accumulator.close_due(Instant::now());
                books.accumulator.take().ok_or_else(|| books.accumulator.next_deadline())
            } else {
                Err(None)
            }
        };
        match step {
            Ok(closed) => {
                let batch = finish(closed, shared.settings.codec).await;
                shared.pipeline.lock().push(batch);
                shared.write.notify_one();
            }
            Err(deadline) => wait(deadline, shared.pack.notified()).await,
        }
    }
}

/// Checksum and compression. The latter takes milliseconds for a large batch, so not on an async thread.
async fn finish(closed: Closed, codec: Codec) -> Batch {
    let Closed { partition, builder, ticket, opened, sequence } = closed;
    let (record_count, buffered) = (builder.record_count(), builder.len());
    let finished = match codec {
        Codec::None => builder.finish(),
        _ => match tokio::task::spawn_blocking(move || builder.finish()).await {
            Ok(finished) => finished,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down: this task will not be polled again.
            Err(_) => std::future::pending().await,
        },
    };
    let bytes = finished.expect("a closed batch has a record, and `push` has checked each");
    Batch {
        partition,
        bytes,
        record_count,
        buffered,
        ticket,
        opened,
        sequence,
        sends: 0,
        in_doubt: false,
        last_error: None,
    }
}

async fn write(shared: &Shared, send: SendStream) -> Error {
    let mut stream = WholeFrames { stream: send, within_frame: false };
    loop {
        let next = shared.pipeline.lock().next(Instant::now());
        match next {
            Next::Send(outgoing) => {
                shared.pack.notify_one();
                if let Err(error) = stream.write(shared, outgoing).await {
                    return error.into();
                }
            }
            Next::Wait(until) => wait(until, shared.write.notified()).await,
        }
    }
}

async fn read(shared: &Shared, mut reader: FrameReader, backoff: &mut Backoff) -> Error {
    loop {
        let body = match reader.frame().await {
            Ok(Some((header, body))) if header.kind == Kind::Error => {
                return Refusal::decode(&body).map_or_else(Error::from, Error::from);
            }
            Ok(Some((header, body))) => match header.expect(Kind::ProduceAcks, "acks") {
                Ok(()) => body,
                Err(error) => return error.into(),
            },
            Ok(None) => return StreamError::Cut.into(),
            Err(error) => return error.into(),
        };
        if let Err(error) = take_acks(shared, &body) {
            return error;
        }
        backoff.reset();
    }
}

fn take_acks(shared: &Shared, body: &Bytes) -> Result<()> {
    let acks = decode_acks(body)?;
    let now = Instant::now();
    let mut finished = Vec::with_capacity(acks.len());
    let mut result = Ok(());
    {
        let mut pipeline = shared.pipeline.lock();
        for ack in acks {
            match pipeline.ack(ack, now) {
                Ok(batch) => finished.extend(batch),
                Err(error) => result = Err(error),
            }
        }
    }
    let end = finished.iter().find_map(|batch| batch.result.as_ref().err().filter(|error| is_final(error)).cloned());
    shared.finish(finished);
    shared.pack.notify_one();
    shared.write.notify_one();
    result.and(end.map_or(Ok(()), Err))
}

/// Gives up what is older than the delivery timeout, for as long as the producer lives.
async fn expire(shared: &Shared) -> Error {
    loop {
        let now = Instant::now();
        // What is enqueued from now on is not older than now.
        let next = shared.books.lock().oldest().unwrap_or(now) + shared.settings.delivery_timeout;
        if next > now {
            tokio::time::sleep_until(next.into()).await;
        } else if shared.expire(now) {
            shared.reset.notify_one();
            tokio::time::sleep(OVERDUE_CHECK).await;
        } else {
            shared.pack.notify_one();
            tokio::task::yield_now().await;
        }
    }
}

async fn wait(until: Option<Instant>, woken: impl Future<Output = ()>) {
    match until {
        None => woken.await,
        Some(until) => tokio::select! {
            () = woken => {}
            () = tokio::time::sleep_until(until.into()) => {}
        },
    }
}

/// A stream that is reset when it is dropped within a frame: its regular end there would look like a broken
/// protocol, and cost all that share the connection.
struct WholeFrames {
    stream: SendStream,
    within_frame: bool,
}

impl WholeFrames {
    async fn write(&mut self, shared: &Shared, outgoing: Outgoing) -> Result<(), StreamError> {
        let Outgoing { correlation, partition, epoch, resume, bytes } = outgoing;
        let mut header = FrameHeader::new(Kind::Produce, correlation, PRODUCE_PREFIX_BYTES + bytes.len());
        header.flags = if resume { FLAG_RESUME } else { 0 };
        let prefix = ProducePrefix { stream: shared.target.id, partition, epoch };
        let mut head = BytesMut::with_capacity(FRAME_HEADER_BYTES + PRODUCE_PREFIX_BYTES);
        head.put_slice(&header.encode());
        head.put_slice(&prefix.encode());
        self.within_frame = true;
        self.stream.write_all_chunks(&mut [head.freeze(), bytes]).await?;
        self.within_frame = false;
        Ok(())
    }
}

impl Drop for WholeFrames {
    fn drop(&mut self) {
        if self.within_frame {
            // An error means that it has ended already.
            let _ = self.stream.reset(VarInt::from_u32(u32::from(Code::ConnectionLost.number())));
        }
    }
}
