//! The task that sends a producer's batches, settles them by their acks, and sends again what must be.
//!
//! Invariants
//! - A partition's batches are written in order, and settled in order. After one is refused, nothing later of its
//!   partition is written until all that were in flight have been answered; the first one then carries the resume flag,
//!   without which the server takes none.
//! - A retry repeats the same bytes.
//! - What was sent on a lost connection is sent again, first and in order, on the next one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millstream_protocol::frame::control::StreamInfo;
use millstream_protocol::frame::produce::{OpenProduce, PRODUCE_PREFIX_BYTES, ProduceAck, ProducePrefix, decode_acks};
use millstream_protocol::frame::{FLAG_RESUME, FrameHeader, Kind, Refusal};
use millstream_protocol::{Code, Epoch, PartitionId, StreamId};
use quinn::SendStream;
use tokio::sync::mpsc;

use super::Shared;
use super::batch::{Outcome, Receipt};
use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::frame_io::{FrameReader, StreamError, write_frame};

/// A batch on its way.
struct Batch {
    seq: u64,
    bytes: Bytes,
    records: u32,
    outcome: Arc<Outcome>,
    since: Instant,
    buffered_bytes: usize,
    /// The correlation it was last written under, while no answer has come.
    in_flight: Option<u64>,
    was_sent: bool,
}

#[derive(Default)]
struct Lane {
    /// In order; what is in flight comes first.
    batches: VecDeque<Batch>,
    in_flight: usize,
    /// A batch was refused: write nothing until all in flight are answered.
    halted: bool,
    /// The next batch must carry the resume flag.
    resume: bool,
    retry_at: Option<Instant>,
    backoff: Backoff,
    last_refusal: Option<Refusal>,
}

impl Lane {
    fn may_write(&self, now: Instant) -> bool {
        !self.halted && self.retry_at.is_none_or(|at| now >= at)
    }
}

/// What the reader of acks says.
enum Heard {
    Acks(Vec<ProduceAck>),
    Ended(Error),
}

/// One produce stream.
struct Open {
    send: SendStream,
    heard: mpsc::UnboundedReceiver<Heard>,
    reader: tokio::task::JoinHandle<()>,
    depth: usize,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

pub(super) struct Sender {
    client: Client,
    shared: Arc<Shared>,
    info: StreamInfo,
    depth: u32,
    delivery_timeout: Duration,
    lanes: Vec<Lane>,
    by_correlation: HashMap<u64, usize>,
    next_correlation: u64,
    /// Where the next round over the partitions begins.
    turn: usize,
}

impl Sender {
    pub(super) fn new(
        client: Client,
        shared: Arc<Shared>,
        info: StreamInfo,
        depth: u32,
        delivery_timeout: Duration,
    ) -> Self {
        let lanes = info.partitions.iter().map(|_| Lane::default()).collect();
        Self {
            client,
            shared,
            info,
            depth,
            delivery_timeout,
            lanes,
            by_correlation: HashMap::new(),
            next_correlation: 1,
            turn: 0,
        }
    }

    /// Runs until the producer is dropped, or its stream is gone for good.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        let end = loop {
            let error = match self.open().await {
                Ok(mut open) => {
                    backoff.reset();
                    self.serve(&mut open).await
                }
                Err(error) => error,
            };
            self.forget_flights();
            if !may_reconnect(&error) {
                break error;
            }
            tracing::debug!(%error, "the produce stream ended: trying again");
            self.expire(Instant::now(), &error);
            self.idle(backoff.next(error.retry_after()), &error).await;
        };
        self.shared.closed.lock().get_or_insert_with(|| end.clone());
        for index in 0..self.lanes.len() {
            while let Some(batch) = self.lanes[index].batches.pop_front() {
                self.settle(batch, Err(end.clone()));
            }
        }
        self.shared.end(&end);
    }

    /// Opens a produce stream, over a new connection if need be.
    async fn open(&mut self) -> Result<Open> {
        let connection = self.client.connection().await?;
        let info = self.client.describe_stream(&self.info.name).await?;
        if info.id != self.info.id {
            let text = format!("stream '{}' was deleted and made again: make a new producer", self.info.name);
            return Err(Error::local(Code::StreamDeleted, text));
        }
        self.info = info;
        let (mut send, recv) = connection.quic().open_bi().await.map_err(StreamError::from)?;
        let mut reader = FrameReader::new(recv);
        write_frame(&mut send, Kind::OpenProduce, 0, &OpenProduce { depth: self.depth }.encode()).await?;
        let answer = reader.answer(Kind::OpenProduceOk, "the answer to the opening").await?;
        let depth = OpenProduce::decode(&answer)?.depth.max(1) as usize;
        let (hear, heard) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read_acks(reader, hear));
        Ok(Open { send, heard, reader, depth })
    }

    /// Sends and settles until the stream ends; returns why.
    async fn serve(&mut self, open: &mut Open) -> Error {
        let shared = self.shared.clone();
        loop {
            while let Ok(heard) = open.heard.try_recv() {
                if let Err(error) = self.hear(heard) {
                    return error;
                }
            }
            let now = Instant::now();
            if let Err(error) = self.write_due(open, now).await {
                return error;
            }
            let deadline = self.next_deadline();
            tokio::select! {
                heard = open.heard.recv() => {
                    let heard = heard.unwrap_or_else(|| Heard::Ended(StreamError::Cut.into()));
                    if let Err(error) = self.hear(heard) {
                        return error;
                    }
                }
                () = shared.work.notified() => {}
                () = sleep_until(deadline) => {
                    let timed_out = Error::timed_out("the server did not take the batch in time: it may be stored");
                    self.expire(Instant::now(), &timed_out);
                }
            }
        }
    }

    /// Writes what is due, a batch of each partition in turn, while the depth lasts.
    async fn write_due(&mut self, open: &mut Open, now: Instant) -> Result<()> {
        let count = self.lanes.len();
        loop {
            let mut written = false;
            for step in 0..count {
                if self.by_correlation.len() >= open.depth {
                    return Ok(());
                }
                let index = (self.turn + step) % count;
                if !self.lanes[index].may_write(now) || !self.fill(index, now) {
                    continue;
                }
                self.write_next(open, index).await?;
                written = true;
                // Acks that came meanwhile make room.
                while let Ok(heard) = open.heard.try_recv() {
                    self.hear(heard)?;
                }
            }
            self.turn = (self.turn + 1) % count;
            if !written {
                return Ok(());
            }
        }
    }

    /// Makes sure that a partition has a batch to be written, if one is due.
    fn fill(&mut self, index: usize, now: Instant) -> bool {
        let lane = &mut self.lanes[index];
        if lane.batches.len() > lane.in_flight {
            return true;
        }
        let Some(gathered) = self.shared.accumulator.lock().take_due(PartitionId(index as u32), now) else {
            return false;
        };
        let records = gathered.builder.record_count();
        let bytes = gathered.builder.finish().expect("a batch that is due has a record");
        lane.batches.push_back(Batch {
            seq: gathered.seq,
            bytes,
            records,
            outcome: gathered.outcome,
            since: gathered.since,
            buffered_bytes: gathered.bytes,
            in_flight: None,
            was_sent: false,
        });
        true
    }

    async fn write_next(&mut self, open: &mut Open, index: usize) -> Result<()> {
        let correlation = self.next_correlation;
        self.next_correlation += 1;
        let lane = &mut self.lanes[index];
        let batch = &mut lane.batches[lane.in_flight];
        let prefix = ProducePrefix {
            stream: StreamId(self.info.id),
            partition: PartitionId(index as u32),
            epoch: Epoch(self.info.partitions[index].epoch),
        };
        let mut header = FrameHeader::new(Kind::Produce, correlation, PRODUCE_PREFIX_BYTES + batch.bytes.len());
        if std::mem::take(&mut lane.resume) {
            header.flags |= FLAG_RESUME;
        }
        let head = [&header.encode()[..], &prefix.encode()].concat();
        let counters = &self.shared.counters;
        counters.batches_sent.fetch_add(1, Ordering::Relaxed);
        counters.bytes.fetch_add(batch.bytes.len() as u64, Ordering::Relaxed);
        if std::mem::replace(&mut batch.was_sent, true) {
            counters.batches_resent.fetch_add(1, Ordering::Relaxed);
        }
        batch.in_flight = Some(correlation);
        let bytes = batch.bytes.clone();
        lane.in_flight += 1;
        self.by_correlation.insert(correlation, index);
        open.send.write_all_chunks(&mut [head.into(), bytes]).await.map_err(StreamError::from)?;
        Ok(())
    }

    fn hear(&mut self, heard: Heard) -> Result<()> {
        match heard {
            Heard::Ended(error) => Err(error),
            Heard::Acks(acks) => acks.into_iter().try_for_each(|ack| self.take_ack(ack)),
        }
    }

    fn take_ack(&mut self, ack: ProduceAck) -> Result<()> {
        let broken = |what: &str| Error::protocol(what);
        let index = self.by_correlation.remove(&ack.correlation).ok_or_else(|| broken("an ack of nothing sent"))?;
        let (partition, epoch) = (PartitionId(index as u32), Epoch(self.info.partitions[index].epoch));
        let lane = &mut self.lanes[index];
        let at = lane.batches.iter().position(|batch| batch.in_flight == Some(ack.correlation));
        let at = at.ok_or_else(|| broken("an ack of a batch that was not in flight"))?;
        match ack.result {
            Ok(stored) => {
                if at != 0 {
                    return Err(broken("acks out of order"));
                }
                lane.in_flight -= 1;
                lane.backoff.reset();
                let batch = lane.batches.pop_front().expect("it was found");
                let receipt = Receipt { partition, offset: stored.base_offset, append_time: stored.append_time, epoch };
                self.settle(batch, Ok(receipt));
            }
            Err(refusal) => {
                let first = !lane.halted;
                lane.halted = true;
                lane.in_flight -= 1;
                lane.batches[at].in_flight = None;
                // What was in flight behind a refused batch stays behind it: those still in flight come before it in
                // the queue only until their own answers, which are refusals too, arrive.
                if first && !refusal.code.is_retryable() {
                    let batch = lane.batches.remove(at).expect("it was found");
                    self.settle(batch, Err(refusal.into()));
                } else if first {
                    let asked = Duration::from_millis(u64::from(refusal.retry_after_ms));
                    lane.retry_at = Some(Instant::now() + lane.backoff.next(Some(asked)));
                    lane.last_refusal = Some(refusal);
                }
            }
        }
        let lane = &mut self.lanes[index];
        if lane.halted && lane.batches.iter().all(|batch| batch.in_flight.is_none()) {
            lane.halted = false;
            lane.resume = true;
            lane.in_flight = 0;
        }
        Ok(())
    }

    fn settle(&self, batch: Batch, result: Result<Receipt>) {
        let counters = &self.shared.counters;
        match &result {
            Ok(_) => {
                counters.batches_acked.fetch_add(1, Ordering::Relaxed);
                counters.records_acked.fetch_add(u64::from(batch.records), Ordering::Relaxed);
            }
            Err(error) => {
                counters.batches_failed.fetch_add(1, Ordering::Relaxed);
                self.shared.failure.lock().get_or_insert_with(|| error.clone());
            }
        }
        batch.outcome.settle(result);
        self.shared.accumulator.lock().settled(batch.seq, batch.buffered_bytes);
        self.shared.room.notify_waiters();
        self.shared.settled.notify_waiters();
    }

    /// Gives up batches that were tried for too long and have no answer under way.
    fn expire(&mut self, now: Instant, why: &Error) {
        for index in 0..self.lanes.len() {
            loop {
                let lane = &mut self.lanes[index];
                let timeout = self.delivery_timeout;
                let expired = |batch: &Batch| batch.in_flight.is_none() && now >= batch.since + timeout;
                if lane.halted || !lane.batches.get(lane.in_flight).is_some_and(expired) {
                    break;
                }
                let batch = lane.batches.remove(lane.in_flight).expect("it was found");
                let error = lane.last_refusal.clone().map_or_else(|| why.clone(), Error::from);
                self.settle(batch, Err(error));
            }
        }
    }

    /// The connection is gone: nothing is in flight any more.
    fn forget_flights(&mut self) {
        self.by_correlation.clear();
        for lane in &mut self.lanes {
            lane.batches.iter_mut().for_each(|batch| batch.in_flight = None);
            lane.in_flight = 0;
            lane.halted = false;
            // A new stream has no failure to resume from.
            lane.resume = false;
        }
    }

    /// Waits between two connections, giving up meanwhile what has been tried for too long.
    async fn idle(&mut self, pause: Duration, why: &Error) {
        let now = Instant::now();
        tokio::time::sleep(pause).await;
        // Records that wait in the accumulator grow old as well.
        for index in 0..self.lanes.len() {
            let lane = &self.lanes[index];
            let due = self.shared.accumulator.lock().is_due(PartitionId(index as u32), now);
            if lane.batches.is_empty() && due {
                self.fill(index, now);
            }
        }
        self.expire(Instant::now(), why);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let now = Instant::now();
        let accumulator = self.shared.accumulator.lock();
        let deadline = |(index, lane): (usize, &Lane)| {
            let retry_at = lane.retry_at.filter(|at| *at > now);
            if lane.halted {
                // The answers under way will wake us.
                return None;
            }
            match lane.batches.get(lane.in_flight) {
                Some(first) => {
                    let expiry = first.since + self.delivery_timeout;
                    Some(retry_at.map_or(expiry, |at| at.min(expiry)))
                }
                // With the depth used up nothing that lingers can leave: an ack will wake us.
                None if self.by_correlation.len() >= self.depth as usize => None,
                None => {
                    let lingered = accumulator.deadline(PartitionId(index as u32))?;
                    Some(retry_at.map_or(lingered, |at| at.max(lingered)))
                }
            }
        };
        self.lanes.iter().enumerate().filter_map(deadline).min()
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Whether another connection may help.
fn may_reconnect(error: &Error) -> bool {
    error.is_unreachable()
        || (error.is_retryable() && !error.is_wrong_fingerprint())
        || matches!(error.code(), Code::ConnectionLost | Code::ShuttingDown)
}

async fn read_acks(mut reader: FrameReader, hear: mpsc::UnboundedSender<Heard>) {
    loop {
        let heard = match reader.frame().await {
            Ok(Some((header, body))) if header.kind == Kind::Error => {
                Heard::Ended(Refusal::decode(&body).map_or_else(Error::from, Error::from))
            }
            Ok(Some((header, body))) => header
                .expect(Kind::ProduceAcks, "acks")
                .and_then(|()| decode_acks(&body))
                .map_or_else(|error| Heard::Ended(error.into()), Heard::Acks),
            Ok(None) => Heard::Ended(Error::lost("the server ended the produce stream", StreamError::Cut)),
            Err(error) => Heard::Ended(error.into()),
        };
        let ended = matches!(heard, Heard::Ended(_));
        if hear.send(heard).is_err() || ended {
            return;
        }
    }
}
