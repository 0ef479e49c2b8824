//! Writes what the outbox holds: deliveries as runs, each with the records that it is of.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use millstream_broker::queue::{Act, Delivered, Delivery, QueueHandle, QueueReceiver, Verb};
use millstream_protocol::batch::{BatchError, BatchView, Cutter};
use millstream_protocol::frame::delivery::{DeliveredRun, Deliveries, Received, encode_results};
use millstream_protocol::frame::{FRAME_HEADER_BYTES, FrameHeader, Kind, Refusal};
use millstream_protocol::{Code, Offset, PartitionId};
use quinn::SendStream;
use tokio::sync::mpsc::UnboundedReceiver;

use super::outbox::{Out, Outbox};
use crate::frame_io::{End, write_frame};
use crate::session::{Session, patient_write};
use crate::shared::shutting_down;

/// A frame is begun anew above this.
const FRAME_BYTES_TARGET: usize = 256 << 10;
/// Decoded batches are kept while they take no more beside the stored bytes.
const DECODED_BYTES_MAX: usize = 2 << 20;
const DECODED_MAX: usize = 8;

pub(super) struct Writer<'a> {
    session: &'a Session,
    handle: &'a QueueHandle,
    outbox: Option<Arc<Outbox>>,
    outgoing: UnboundedReceiver<Out>,
    receiver: Option<Arc<QueueReceiver>>,
    decoded: Decoded,
}

/// Batches that were cut from lately.
#[derive(Default)]
struct Decoded(VecDeque<(PartitionId, Cutter)>);

/// One run and its batch.
struct Part {
    run: DeliveredRun,
    batch: Bytes,
}

impl<'a> Writer<'a> {
    pub fn new(
        session: &'a Session,
        handle: &'a QueueHandle,
        outbox: &Arc<Outbox>,
        outgoing: UnboundedReceiver<Out>,
        receiver: Arc<QueueReceiver>,
    ) -> Self {
        let (outbox, receiver) = (Some(Arc::clone(outbox)), Some(receiver));
        Self { session, handle, outbox, outgoing, receiver, decoded: Decoded::default() }
    }

    /// Writes until the queue ends, or the peer is gone.
    pub async fn run(&mut self, send: &mut SendStream) -> Result<(), End> {
        while let Some(out) = self.outgoing.recv().await {
            self.write(out, send).await?;
        }
        Ok(())
    }

    /// Nothing is delivered any more.
    pub fn leave(&mut self) {
        (self.receiver, self.outbox) = (None, None);
        self.decoded = Decoded::default();
    }

    /// Answers what was said before the end, and gives back what was not written.
    pub async fn answer_rest(&mut self, send: &mut SendStream) -> Result<(), End> {
        // The queue's thread lets go of the outbox, and whoever answers verbs, too: then the channel ends.
        while let Some(out) = self.outgoing.recv().await {
            if let Out::Results { .. } = &out {
                self.write(out, send).await?;
            } else if let Out::Delivered { delivered, .. } = out {
                self.release(&delivered, &delivered.deliveries);
            }
        }
        Ok(())
    }

    async fn write(&mut self, out: Out, send: &mut SendStream) -> Result<(), End> {
        match out {
            Out::Delivered { delivered, bytes, _room } => {
                let written = self.deliver(delivered, send).await;
                let has_room_again = self.outbox.as_ref().is_some_and(|outbox| outbox.written(bytes));
                if let Some(receiver) = self.receiver.as_ref().filter(|_| has_room_again) {
                    receiver.ready();
                }
                written
            }
            Out::Results { correlation, codes } => {
                codes.iter().flatten().for_each(|code| self.session.shared.metrics.error(*code));
                write_frame(send, Kind::QueueResults, correlation, &encode_results(codes)).await
            }
            Out::Pulled { number, at_limit } => {
                let messages =
                    self.outbox.as_ref().and_then(|outbox| outbox.end_pull(number)).map_or(0, |p| p.messages);
                write_frame(send, Kind::Received, number, &Received { messages, at_limit }.encode()).await
            }
            Out::Ended if self.session.shared.stopping.is_cancelled() => Err(End::Refused(shutting_down())),
            Out::Ended => {
                let text = format!("the queue '{}' was deleted: nothing more comes", self.handle.entry.name);
                Err(End::Refused(Refusal::new(Code::QueueDeleted, text)))
            }
        }
    }

    async fn deliver(&mut self, delivered: Delivered, send: &mut SendStream) -> Result<(), End> {
        let mut parts = Vec::new();
        let mut bytes = 0;
        for at in runs(&delivered) {
            let run = &delivered.deliveries[at];
            match self.part(&delivered, run) {
                Ok(part) => {
                    let Some(part) = self.admit(&delivered, run, part) else { continue };
                    bytes += part.batch.len();
                    parts.push(part);
                }
                Err(error) => {
                    tracing::error!(queue = self.handle.entry.name, partition = %delivered.partition, %error,
                        offset = run[0].receipt.offset, "a message cannot be decoded: its delivery failed");
                    let error = format!("it cannot be decoded: {error}");
                    self.say(&delivered, run, &Act::Nack { delay_ms: None, error });
                }
            }
            if bytes >= FRAME_BYTES_TARGET {
                self.write_parts(&delivered, std::mem::take(&mut parts), send).await?;
                bytes = 0;
            }
        }
        if parts.is_empty() {
            return Ok(());
        }
        self.write_parts(&delivered, parts, send).await
    }

    /// The records of a run, cut out of their batch.
    fn part(&mut self, delivered: &Delivered, run: &[Delivery]) -> Result<Part, BatchError> {
        let first = &run[0];
        let count = run.len() as u32;
        let cutter = self.decoded.of(delivered, first.receipt.offset)?;
        let cut = cutter.cut(Offset(first.receipt.offset), count, delivered.incarnation);
        let batch = cut.ok_or(BatchError::Truncated { need: 1, have: 0 })?;
        let run = DeliveredRun {
            offset: first.receipt.offset,
            fence: first.receipt.fence,
            first_ms: first.first_ms,
            count,
            receives: first.receives,
            redriven: first.receipt.redriven,
        };
        Ok(Part { run, batch })
    }

    /// Of what answers a receive, only as much as it wants: one message at least, the rest goes back.
    fn admit(&mut self, delivered: &Delivered, run: &[Delivery], part: Part) -> Option<Part> {
        let (Some(number), Some(outbox)) = (delivered.pull, self.outbox.clone()) else { return Some(part) };
        let mut pulled = outbox.pull(number)?;
        let mut part = part;
        let mut count = run.len();
        while count > 0 && part.batch.len() > pulled.bytes_left && !(pulled.messages == 0 && count == 1) {
            // A batch is a little longer than its records: a receive may get one message less, never one too many.
            count = (count * pulled.bytes_left / part.batch.len()).min(count - 1);
            if count == 0 && pulled.messages == 0 {
                count = 1;
            }
            if count > 0 {
                part = self.part(delivered, &run[..count]).ok()?;
            }
        }
        if count < run.len() {
            self.release(delivered, &run[count..]);
        }
        pulled.bytes_left = if count < run.len() { 0 } else { pulled.bytes_left.saturating_sub(part.batch.len()) };
        pulled.messages += count as u32;
        outbox.note_pull(number, pulled);
        (count > 0).then_some(part)
    }

    async fn write_parts(&mut self, delivered: &Delivered, parts: Vec<Part>, send: &mut SendStream) -> Result<(), End> {
        let metrics = &self.session.shared.metrics;
        let (mut batches, mut messages) = (Vec::with_capacity(1 + parts.len()), 0);
        batches.push(Bytes::new());
        let mut runs = Vec::with_capacity(parts.len());
        for Part { run, batch } in parts {
            messages += u64::from(run.count);
            runs.push(run);
            batches.push(batch);
        }
        let epoch = delivered.deliveries[0].receipt.epoch;
        let prefix = Deliveries { partition: delivered.partition, incarnation: delivered.incarnation, epoch, runs };
        let prefix = prefix.encode();
        let length: usize = batches.iter().map(Bytes::len).sum();
        let header = FrameHeader::new(Kind::Deliveries, delivered.pull.unwrap_or(0), prefix.len() + length);
        let mut head = BytesMut::with_capacity(FRAME_HEADER_BYTES + prefix.len());
        head.extend_from_slice(&header.encode());
        head.extend_from_slice(&prefix);
        batches[0] = head.freeze();
        patient_write(send, &mut batches, &self.session.shared.budget).await?;
        metrics.queue_deliveries.add(messages);
        metrics.queue_bytes_delivered.add(length as u64);
        Ok(())
    }

    /// Messages that did not reach the receiver.
    fn release(&self, delivered: &Delivered, deliveries: &[Delivery]) {
        self.say(delivered, deliveries, &Act::Release);
    }

    fn say(&self, delivered: &Delivered, deliveries: &[Delivery], act: &Act) {
        let verbs = deliveries.iter().map(|delivery| Verb {
            queue: delivered.queue,
            partition: delivered.partition.0,
            receipt: delivery.receipt,
            act: act.clone(),
        });
        // If it cannot be stored they come back at their deadline.
        self.handle.say(verbs.collect(), |_| {});
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        while let Ok(out) = self.outgoing.try_recv() {
            if let Out::Delivered { delivered, .. } = out {
                self.release(&delivered, &delivered.deliveries);
            }
        }
    }
}

impl Decoded {
    fn of(&mut self, delivered: &Delivered, offset: u64) -> Result<&Cutter, BatchError> {
        let partition = delivered.partition;
        let batch = delivered.batches.iter().find(|batch| holds(batch, offset));
        // The same bytes: what was compacted, or redriven, since has others.
        let is_same =
            |cutter: &Cutter| batch.is_some_and(|batch| batch.bytes().as_ptr() == cutter.batch().bytes().as_ptr());
        if let Some(at) = self.0.iter().position(|(of, cutter)| *of == partition && is_same(cutter)) {
            return Ok(&self.0[at].1);
        }
        let Some(batch) = batch else {
            return Err(BatchError::Truncated { need: 1, have: 0 });
        };
        let cutter = Cutter::new(batch)?;
        self.0.push_back((partition, cutter));
        let beside = |decoded: &VecDeque<(PartitionId, Cutter)>| {
            decoded.iter().map(|(_, cutter)| cutter.bytes_beside()).sum::<usize>()
        };
        while self.0.len() > 1 && (self.0.len() > DECODED_MAX || beside(&self.0) > DECODED_BYTES_MAX) {
            self.0.pop_front();
        }
        Ok(&self.0.back().expect("just put in").1)
    }
}

/// Where deliveries follow one another in all they say, within one batch.
fn runs(delivered: &Delivered) -> Vec<std::ops::Range<usize>> {
    let deliveries = &delivered.deliveries;
    let mut runs = Vec::new();
    let mut start = 0;
    while start < deliveries.len() {
        let offset = deliveries[start].receipt.offset;
        let batch_end = delivered.batches.iter().find(|batch| holds(batch, offset)).map(|b| b.header().end_offset().0);
        let follows = |pair: &[Delivery]| {
            let (one, next) = (&pair[0], &pair[1]);
            next.receipt.offset == one.receipt.offset + 1
                && next.receipt.fence == one.receipt.fence + 1
                && next.receipt.redriven == one.receipt.redriven
                && (next.receives, next.first_ms) == (one.receives, one.first_ms)
                && batch_end.is_some_and(|end| next.receipt.offset < end)
        };
        let end = start + 1 + deliveries[start..].windows(2).take_while(|pair| follows(pair)).count();
        runs.push(start..end);
        start = end;
    }
    runs
}

fn holds(batch: &BatchView, offset: u64) -> bool {
    let header = batch.header();
    (header.base_offset.0..header.end_offset().0).contains(&offset)
}

#[cfg(test)]
mod tests {
    use millstream_broker::queue::Receipt;
    use millstream_protocol::batch::{BatchBuilder, Codec, HEADER_BYTES, Stamp, stamp};
    use millstream_protocol::{Epoch, Incarnation, QueueId, Record, Timestamp};

    use super::*;

    fn batch(base: u64, records: u32) -> BatchView {
        let mut builder = BatchBuilder::new(Codec::None);
        (0..records).for_each(|_| builder.push(&Record::new("x")).expect("a small record"));
        let mut bytes = builder.finish().expect("not empty").to_vec();
        let at = Stamp { base_offset: Offset(base), append_time: Timestamp(1), epoch: Epoch(1), synced_end: Offset(0) };
        stamp(&mut bytes[..HEADER_BYTES], &at, Incarnation(7));
        BatchView::parse(&bytes.into()).expect("just built")
    }

    #[test]
    fn runs_end_where_offsets_fences_counts_or_batches_do() {
        let delivery = |offset, fence, receives| Delivery {
            receipt: Receipt { epoch: 1, offset, redriven: 0, fence },
            receives,
            first_ms: 5,
        };
        let deliveries = vec![
            delivery(0, 10, 1),
            delivery(1, 11, 1),
            delivery(2, 12, 1),
            delivery(3, 14, 1),
            delivery(4, 15, 1),
            delivery(5, 16, 2),
            delivery(7, 17, 2),
        ];
        let delivered = Delivered {
            queue: QueueId(1),
            partition: PartitionId(0),
            incarnation: Incarnation(7),
            pull: None,
            deliveries,
            batches: vec![batch(2, 8), batch(0, 2)],
        };
        assert_eq!(runs(&delivered), [0..2, 2..3, 3..5, 5..6, 6..7]);
    }
}
