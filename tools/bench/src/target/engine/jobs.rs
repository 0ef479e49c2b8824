//! A worker's side of the engine: a queue's receiver, whose messages come through a channel.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use millstream_broker::queue::{
    Act, Delivered, Delivery, Outlet, QueueHandle, QueueReceiver, Receiving, Verb, VerbResult,
};
use tokio::sync::{mpsc, oneshot};

use crate::drive::{Job, Jobs};
use crate::failure::Failure;
use crate::stamp::STAMP_HEADER;

/// A receiver of a queue.
pub struct EngineJobs {
    queue: QueueHandle,
    _receiver: QueueReceiver,
    delivered: mpsc::UnboundedReceiver<Delivered>,
    ready: VecDeque<(Job, (u32, Delivery))>,
}

/// Bounded by the window.
struct ToChannel(mpsc::UnboundedSender<Delivered>);

impl Outlet for ToChannel {
    fn deliver(&self, delivered: Delivered) {
        // Who has gone needs nothing.
        let _ = self.0.send(delivered);
    }

    fn ended(&self) {}
}

impl EngineJobs {
    /// Begins to receive.
    pub fn open(queue: QueueHandle, window: u32) -> Result<Self, Failure> {
        let (send, delivered) = mpsc::unbounded_channel();
        let key = u128::from(std::process::id()) << 64 | number();
        let outlet = Arc::new(ToChannel(send));
        let receiver = queue.receive(Receiving { key, outlet, window, visibility_ms: None, held: None })?;
        Ok(Self { queue, _receiver: receiver, delivered, ready: VecDeque::new() })
    }

    fn unpack(&mut self, delivered: Delivered) -> Result<(), Failure> {
        let partition = delivered.partition.0;
        let damaged = |error: millstream_protocol::batch::BatchError| {
            Failure::data(format!("a message of partition {partition} does not decode: {error}"))
        };
        let mut wanted: HashMap<u64, Option<Job>> =
            delivered.deliveries.iter().map(|delivery| (delivery.receipt.offset, None)).collect();
        for batch in &delivered.batches {
            let mut records = batch.records().map_err(damaged)?;
            while let Some(record) = records.next_with_offset() {
                let (offset, record) = record.map_err(damaged)?;
                let Some(slot) = wanted.get_mut(&offset.0) else { continue };
                let stamp = record.headers.iter().find(|header| header.name == STAMP_HEADER);
                *slot = Some(Job {
                    stamp: stamp.and_then(|header| header.value.clone()),
                    value: record.value.unwrap_or_default(),
                    key: record.key,
                    timestamp: record.timestamp.0,
                    partition,
                    offset: offset.0,
                    receives: 1,
                });
            }
        }
        for delivery in delivered.deliveries {
            let offset = delivery.receipt.offset;
            let job = wanted.get_mut(&offset).and_then(Option::take).ok_or_else(|| {
                Failure::data(format!("the message at partition {partition}, offset {offset} came without its record"))
            })?;
            self.ready.push_back((Job { receives: delivery.receives, ..job }, (partition, delivery)));
        }
        Ok(())
    }
}

/// Names a receiver among those of this process.
fn number() -> u128 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    u128::from(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}

impl Jobs for EngineJobs {
    type Handle = (u32, Delivery);
    type Answer = oneshot::Receiver<Option<VerbResult>>;

    async fn next(&mut self) -> Option<Result<(Job, Self::Handle), Failure>> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(Ok(ready));
            }
            let delivered = self.delivered.recv().await?;
            if let Err(failure) = self.unpack(delivered) {
                return Some(Err(failure));
            }
        }
    }

    fn ack(&mut self, (partition, delivery): Self::Handle) -> Self::Answer {
        let (send, answer) = oneshot::channel();
        let verb = Verb { queue: self.queue.id(), partition, receipt: delivery.receipt, act: Act::Ack };
        self.queue.say(vec![verb], move |mut results| drop(send.send(results.pop())));
        answer
    }

    async fn settled(answer: Self::Answer) -> Result<(), Failure> {
        match answer.await {
            Ok(Some(VerbResult::Done)) => Ok(()),
            Ok(Some(other)) => Err(Failure::data(format!("an ack was refused: {other:?}"))),
            Ok(None) | Err(_) => Err(Failure::data("an ack has no answer")),
        }
    }

    async fn close(self) -> Result<(), Failure> {
        Ok(())
    }
}
