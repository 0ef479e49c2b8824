//! A producer's background task: packs batches, writes them, reads the answers, connects again.
//!
//! ```text
//! accumulator ─► pack (checksum, compress) ─► pipeline ─► write ─► produce stream
//!                                                 ▲                      │
//!                                                 └───── read (acks) ◄───┘
//! ```
//! The three loops run in one task beside one that expires what is too old; whichever loop of a produce stream ends
//! first ends that stream, and the pipeline takes back what was in flight. Where the pipeline asks for a higher epoch of
//! the producer, the writing loop gets it, over the same connection; a stream that is lost meanwhile begins with that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use millstream_protocol::batch::Codec;
use millstream_protocol::frame::produce::{
    Duplicate, OpenProduce, PRODUCE_PREFIX_BYTES, ProduceAck, ProducePrefix, Produced, decode_acks,
};
use millstream_protocol::frame::{FLAG_RESEND, FLAG_RESUME, FRAME_HEADER_BYTES, FrameHeader, Kind, Refusal};
use millstream_protocol::{Code, Epoch, PartitionId, ProducerId};
use quinn::{SendStream, VarInt};

use super::accumulator::Closed;
use super::pipeline::{Answer, Answered, Batch, Next, Numbers, Outgoing, is_final, without};
use super::shared::Shared;
use crate::backoff::Backoff;
use crate::connection::{Connection, Opening};
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
        error = write(shared, &connection, send) => Err(error),
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
                let numbers = shared.pipeline.lock().numbers(closed.partition);
                let batch = finish(closed, shared.settings.codec, numbers).await;
                shared.pipeline.lock().push(batch);
                shared.write.notify_one();
            }
            Err(deadline) => wait(deadline, shared.pack.notified()).await,
        }
    }
}

/// Checksum and compression. The latter takes milliseconds for a large batch, so not on an async thread.
async fn finish(closed: Closed, codec: Codec, numbers: Numbers) -> Batch {
    let Closed { partition, mut builder, ticket, opened, serial, .. } = closed;
    builder.producer(numbers.producer, numbers.epoch, numbers.base);
    let (record_count, buffered) = (builder.record_count(), builder.len());
    let finished = match codec {
        Codec::None => builder.finish(),
        _ => aside(move || builder.finish()).await,
    };
    let bytes = finished.expect("a closed batch has a record, and `push` has checked each");
    Batch {
        partition,
        bytes,
        record_count,
        buffered,
        ticket,
        opened,
        serial,
        encoded: numbers,
        base: numbers.base,
        known: Vec::new(),
        sends: 0,
        in_doubt: false,
        is_cut_copy: false,
        was_unknown: false,
        last_error: None,
    }
}

/// Runs what takes milliseconds where it holds up no async thread.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down: this task will not be polled again.
        Err(_) => std::future::pending().await,
    }
}

async fn write(shared: &Shared, connection: &Connection, send: SendStream) -> Error {
    let mut stream = WholeFrames { stream: send, within_frame: false };
    let mut bumps = Bumps::default();
    loop {
        let next = shared.pipeline.lock().next(Instant::now());
        let done = match next {
            Next::Send(outgoing) => {
                shared.pack.notify_one();
                stream.write(shared, outgoing).await.map_err(Error::from)
            }
            Next::Bump(id, epoch) => bumps.bump(shared, connection, (id, epoch)).await,
            Next::Wait(until) => {
                wait(until, shared.write.notified()).await;
                Ok(())
            }
        };
        if let Err(error) = done {
            return error;
        }
    }
}

/// Raises the producer's epoch: again and again with longer waits, should that not help.
#[derive(Default)]
struct Bumps {
    backoff: Backoff,
    acked: Option<u64>,
}

impl Bumps {
    async fn bump(&mut self, shared: &Shared, connection: &Connection, producer: (ProducerId, u32)) -> Result<()> {
        let acked = Some(shared.stats().batches_acked);
        if self.acked == acked {
            tokio::time::sleep(self.backoff.next(None)).await;
        } else {
            (self.acked, self.backoff) = (acked, Backoff::default());
        }
        let bumped = shared.client.bump_producer(connection, producer, shared.target.id).await;
        let (epoch, next) = bumped.map_err(|error| fenced(shared, error))?;
        if epoch <= producer.1 {
            return Err(Error::protocol(format_args!("the epoch {} was raised to {epoch}", producer.1)));
        }
        tracing::debug!(stream = shared.target.name, epoch, "the producer's epoch was raised");
        let unknown = shared.pipeline.lock().bumped(epoch, &next);
        shared.take(unknown.into_iter().map(Answered::from).collect());
        shared.pack.notify_one();
        Ok(())
    }
}

/// Who else may raise the epoch of a producer is a newer one of its name.
fn fenced(shared: &Shared, error: Error) -> Error {
    if error.code() != Code::Fenced {
        return error;
    }
    let text = match &shared.settings.name {
        Some(name) => format!(
            "a newer producer of the name {name:?} has taken over: this one sends nothing more; give each producer that \
             runs at the same time a name of its own"
        ),
        None => format!("the server has fenced this producer, it sends nothing more: build a new one ({error})"),
    };
    Error::local_from(Code::Fenced, text, error)
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
        if let Err(error) = take_acks(shared, &body).await {
            return error;
        }
        backoff.reset();
    }
}

async fn take_acks(shared: &Shared, body: &Bytes) -> Result<()> {
    let mut answers = Vec::new();
    for ProduceAck { correlation, result } in decode_acks(body)? {
        let answer = match result {
            Ok(Produced::Stored(stored)) => Answer::Stored(stored),
            Ok(Produced::Duplicates(duplicates)) => cut(shared, correlation, duplicates).await?,
            Err(refusal) => Answer::Refused(refusal),
        };
        answers.push((correlation, answer));
    }
    let now = Instant::now();
    let mut all = Vec::with_capacity(answers.len());
    let mut result = Ok(());
    {
        let mut pipeline = shared.pipeline.lock();
        for (correlation, answer) in answers {
            match pipeline.ack(correlation, answer, now) {
                Ok(answered) => all.push(answered),
                Err(error) => result = Err(error),
            }
        }
    }
    let finished = all.iter().filter_map(|answered| answered.finished.as_ref());
    let end = finished.filter_map(|batch| batch.result.as_ref().err()).find(|error| is_final(error)).cloned();
    shared.take(all);
    shared.pack.notify_one();
    shared.write.notify_one();
    result.and(end.map_or(Ok(()), Err))
}

/// Takes the named records out of a batch in flight, for the rest to be sent again.
async fn cut(shared: &Shared, correlation: u64, duplicates: Vec<Duplicate>) -> Result<Answer> {
    let Some((bytes, count)) = shared.pipeline.lock().sent(correlation) else {
        return Err(Error::protocol(format_args!("duplicates of batch {correlation}, which is not in flight")));
    };
    let rising = duplicates.windows(2).all(|pair| pair[0].index < pair[1].index);
    if !rising || duplicates.last().is_none_or(|last| last.index >= count) {
        return Err(Error::protocol(format_args!("duplicates that are not records of batch {correlation}")));
    }
    let codec = shared.settings.codec;
    if duplicates.len() == count as usize {
        return Ok(Answer::Duplicates { duplicates, rest: None });
    }
    let (rest, duplicates) = aside(move || (without(&bytes, &duplicates, codec), duplicates)).await;
    let rest = rest.map_err(|error| Error::local_from(Code::Internal, "a batch of ours cannot be read", error))?;
    Ok(Answer::Duplicates { duplicates, rest })
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
        let Outgoing { correlation, partition, epoch, resume, resend, bytes } = outgoing;
        let mut header = FrameHeader::new(Kind::Produce, correlation, PRODUCE_PREFIX_BYTES + bytes.len());
        header.flags = if resume { FLAG_RESUME } else { 0 } | if resend { FLAG_RESEND } else { 0 };
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
