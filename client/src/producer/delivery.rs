//! What became of a record: one shared ticket per batch, and a small handle per record.
//!
//! A batch is acknowledged as a whole, so its records share one allocation; a handle is a pointer, an index and the
//! time of the enqueue. Only handles that are being awaited register a waker.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use millstream_protocol::{Epoch, Offset, PartitionId, Timestamp};
use parking_lot::Mutex;

use crate::error::Result;

/// Where a record is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The partition.
    pub partition: PartitionId,
    /// The record's offset.
    pub offset: Offset,
    /// The server's time of append.
    pub append_time: Timestamp,
    /// The partition's epoch as the client knew it when it connected: (offset + 1, epoch) is a position to consume
    /// from that finds out whether the log lost its tail since.
    pub epoch: Epoch,
    /// From the enqueue to the arrival of the acknowledgement, whenever the delivery was looked at.
    pub latency: Duration,
}

/// Resolves when the record's batch is acknowledged or given up. Dropping it does not take the record back.
#[derive(Debug)]
#[must_use = "a delivery tells whether the record was stored; drop it explicitly if `flush` is enough"]
pub struct Delivery {
    ticket: Arc<Ticket>,
    index: u32,
    enqueued: Instant,
    waiting: Option<usize>,
}

impl Delivery {
    pub(super) fn new(ticket: Arc<Ticket>, index: u32, enqueued: Instant) -> Self {
        Self { ticket, index, enqueued, waiting: None }
    }

    /// The partition that the record goes to.
    pub fn partition(&self) -> PartitionId {
        self.ticket.partition
    }
}

impl Future for Delivery {
    type Output = Result<Receipt>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let delivery = self.get_mut();
        let acked = std::task::ready!(delivery.ticket.poll(context, &mut delivery.waiting));
        Poll::Ready(acked.map(|acked| Receipt {
            partition: delivery.ticket.partition,
            offset: Offset(acked.base_offset.0 + u64::from(delivery.index)),
            append_time: acked.append_time,
            epoch: acked.epoch,
            latency: acked.at.saturating_duration_since(delivery.enqueued),
        }))
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(slot) = self.waiting {
            self.ticket.forget(slot);
        }
    }
}

/// What the server said of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acked {
    pub base_offset: Offset,
    pub append_time: Timestamp,
    pub epoch: Epoch,
    pub at: Instant,
}

/// One batch's outcome, and who waits for it.
#[derive(Debug)]
pub(super) struct Ticket {
    partition: PartitionId,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Pending { wakers: Vec<Option<Waker>> },
    Done(Result<Acked>),
}

impl Ticket {
    pub fn new(partition: PartitionId) -> Self {
        Self { partition, state: Mutex::new(State::Pending { wakers: Vec::new() }) }
    }

    /// The first outcome stands.
    pub fn complete(&self, outcome: Result<Acked>) {
        let mut state = self.state.lock();
        let State::Pending { wakers } = &mut *state else { return };
        let wakers = std::mem::take(wakers);
        *state = State::Done(outcome);
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// Resolves with the outcome.
    pub async fn wait(&self) -> Result<Acked> {
        let mut slot = None;
        std::future::poll_fn(|context| self.poll(context, &mut slot)).await
    }

    fn poll(&self, context: &mut Context<'_>, slot: &mut Option<usize>) -> Poll<Result<Acked>> {
        match &mut *self.state.lock() {
            State::Done(outcome) => {
                *slot = None;
                Poll::Ready(outcome.clone())
            }
            State::Pending { wakers } => {
                let at = *slot.get_or_insert_with(|| {
                    wakers.push(None);
                    wakers.len() - 1
                });
                match &mut wakers[at] {
                    Some(waker) => waker.clone_from(context.waker()),
                    empty => *empty = Some(context.waker().clone()),
                }
                Poll::Pending
            }
        }
    }

    fn forget(&self, slot: usize) {
        if let State::Pending { wakers } = &mut *self.state.lock() {
            wakers[slot] = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn every_record_of_a_batch_gets_its_own_offset_and_latency() {
        let start = Instant::now();
        let ticket = Arc::new(Ticket::new(PartitionId(3)));
        let mut first = Delivery::new(Arc::clone(&ticket), 0, start);
        let second = Delivery::new(Arc::clone(&ticket), 1, start + Duration::from_millis(2));
        assert!((&mut first).now_or_never().is_none());
        let at = start + Duration::from_millis(10);
        let acked = Acked { base_offset: Offset(40), append_time: Timestamp(7), epoch: Epoch(2), at };
        ticket.complete(Ok(acked));
        let receipt = first.now_or_never().expect("it is done").expect("it was stored");
        assert_eq!((receipt.offset, receipt.partition, receipt.epoch), (Offset(40), PartitionId(3), Epoch(2)));
        assert_eq!(receipt.latency, Duration::from_millis(10));
        let receipt = second.now_or_never().expect("it is done").expect("it was stored");
        assert_eq!((receipt.offset, receipt.latency), (Offset(41), Duration::from_millis(8)));
    }
}
