//! What became of a record: one shared ticket per batch, and a small handle per record.
//!
//! A batch is acknowledged as a whole, so its records share one allocation; a handle is a pointer, an index and the
//! time of the enqueue. Only handles that are being awaited register a waker. Records that the server has from elsewhere
//! (dedup ids) have outcomes of their own, before the others; those have the offsets that follow from their number among
//! the rest.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use millstream_protocol::frame::produce::Duplicate;
use millstream_protocol::{Epoch, Offset, PartitionId, Timestamp};
use parking_lot::Mutex;

use crate::error::{Error, Result};

/// Where a record is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The partition.
    pub partition: PartitionId,
    /// The record's offset.
    pub offset: Offset,
    /// The server's time of append.
    pub append_time: Timestamp,
    /// The partition's epoch as the client knew it when it connected: that of the record, or a later one if it was stored
    /// before. (offset + 1, epoch) is a position to consume from that finds out whether the log lost its tail since.
    pub epoch: Epoch,
    /// The record was not stored: its dedup id was known, and this is the place of the first record of that id. A batch
    /// that was sent twice and stored once is no duplicate.
    pub duplicate: bool,
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

    /// When the record was put into the buffer; with the receipt's latency, when it was acknowledged.
    pub fn enqueued_at(&self) -> Instant {
        self.enqueued
    }
}

impl Future for Delivery {
    type Output = Result<Receipt>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let delivery = self.get_mut();
        let placed = std::task::ready!(delivery.ticket.poll(context, &mut delivery.waiting, delivery.index));
        Poll::Ready(placed.map(|placed| Receipt {
            partition: delivery.ticket.partition,
            offset: placed.offset,
            append_time: placed.append_time,
            epoch: placed.epoch,
            duplicate: placed.duplicate,
            latency: placed.at.saturating_duration_since(delivery.enqueued),
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

/// What the server said of a batch, or of what is left of it without duplicates.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acked {
    pub base_offset: Offset,
    pub append_time: Timestamp,
    pub epoch: Epoch,
    pub at: Instant,
}

/// Where a record is.
#[derive(Debug, Clone, Copy)]
struct Placed {
    offset: Offset,
    append_time: Timestamp,
    epoch: Epoch,
    duplicate: bool,
    at: Instant,
}

/// One batch's outcome, and who waits for it.
#[derive(Debug)]
pub(super) struct Ticket {
    partition: PartitionId,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Records with an outcome of their own, by index, rising.
    known: Vec<(u32, Placed)>,
    /// What became of the others; `Ok(None)`: there are none.
    outcome: Option<Result<Option<Acked>>>,
    wakers: Vec<Option<Waker>>,
}

impl Ticket {
    pub fn new(partition: PartitionId) -> Self {
        Self { partition, state: Mutex::default() }
    }

    /// These records are in the log already: they have their outcome. Indices as enqueued.
    pub fn know(&self, duplicates: &[Duplicate], epoch: Epoch, at: Instant) {
        let mut state = self.state.lock();
        state.known.extend(duplicates.iter().map(|&Duplicate { index, offset, append_time }| {
            (index, Placed { offset, append_time, epoch, duplicate: true, at })
        }));
        state.known.sort_unstable_by_key(|(index, _)| *index);
        // Those that go on waiting stay registered.
        let wakers = state.wakers.clone();
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// All but the known records have this outcome; `Ok(None)`: there are no others. The first outcome stands.
    pub fn complete(&self, outcome: Result<Option<Acked>>) {
        let mut state = self.state.lock();
        if state.outcome.is_some() {
            return;
        }
        state.outcome = Some(outcome);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// Resolves when every record has its outcome.
    pub async fn wait(&self) {
        let mut slot = None;
        std::future::poll_fn(|context| {
            let mut state = self.state.lock();
            if state.outcome.is_none() { state.register(context, &mut slot) } else { Poll::Ready(()) }
        })
        .await;
    }

    fn poll(&self, context: &mut Context<'_>, slot: &mut Option<usize>, index: u32) -> Poll<Result<Placed>> {
        let mut state = self.state.lock();
        match state.of(index) {
            Some(outcome) => {
                if let Some(waker) = slot.take().and_then(|at| state.wakers.get_mut(at)) {
                    *waker = None;
                }
                Poll::Ready(outcome)
            }
            None => state.register(context, slot).map(|()| unreachable!("a registration is pending")),
        }
    }

    fn forget(&self, slot: usize) {
        if let Some(waker) = self.state.lock().wakers.get_mut(slot) {
            *waker = None;
        }
    }
}

impl State {
    /// The outcome of the record that was enqueued under that index.
    fn of(&self, index: u32) -> Option<Result<Placed>> {
        let before = match self.known.binary_search_by_key(&index, |(known, _)| *known) {
            Ok(at) => return Some(Ok(self.known[at].1)),
            Err(before) => before,
        };
        Some(match self.outcome.as_ref()? {
            Ok(Some(Acked { base_offset, append_time, epoch, at })) => Ok(Placed {
                offset: Offset(base_offset.0 + u64::from(index) - before as u64),
                append_time: *append_time,
                epoch: *epoch,
                duplicate: false,
                at: *at,
            }),
            Ok(None) => Err(Error::protocol(format_args!("record {index} of a batch has no outcome"))),
            Err(error) => Err(error.clone()),
        })
    }

    fn register(&mut self, context: &mut Context<'_>, slot: &mut Option<usize>) -> Poll<()> {
        let at = *slot.get_or_insert_with(|| {
            self.wakers.push(None);
            self.wakers.len() - 1
        });
        match &mut self.wakers[at] {
            Some(waker) => waker.clone_from(context.waker()),
            empty => *empty = Some(context.waker().clone()),
        }
        Poll::Pending
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
        ticket.complete(Ok(Some(acked)));
        let receipt = first.now_or_never().expect("it is done").expect("it was stored");
        assert_eq!((receipt.offset, receipt.partition, receipt.epoch), (Offset(40), PartitionId(3), Epoch(2)));
        assert_eq!(receipt.latency, Duration::from_millis(10));
        let receipt = second.now_or_never().expect("it is done").expect("it was stored");
        assert_eq!((receipt.offset, receipt.latency), (Offset(41), Duration::from_millis(8)));
    }
    #[test]
    fn known_records_resolve_first_and_the_others_share_the_offsets_without_them() {
        let start = Instant::now();
        let ticket = Arc::new(Ticket::new(PartitionId(3)));
        let mut records: Vec<_> = (0..5).map(|index| Delivery::new(Arc::clone(&ticket), index, start)).collect();
        assert!(records.iter_mut().all(|record| record.now_or_never().is_none()));
        let known = |index, offset| Duplicate { index, offset: Offset(offset), append_time: Timestamp(1) };
        ticket.know(&[known(3, 7)], Epoch(2), start);
        ticket.know(&[known(1, 9)], Epoch(2), start);
        let resolved: Vec<_> = records.iter_mut().map(FutureExt::now_or_never).collect();
        let resolved: Vec<Option<u64>> =
            resolved.into_iter().map(|receipt| receipt.map(|receipt| receipt.expect("known").offset.0)).collect();
        assert_eq!(resolved, [None, Some(9), None, Some(7), None]);
        let acked = Acked { base_offset: Offset(40), append_time: Timestamp(7), epoch: Epoch(2), at: start };
        ticket.complete(Ok(Some(acked)));
        let rest = [0, 2, 4].map(|index| Delivery::new(Arc::clone(&ticket), index, start).now_or_never());
        let rest = rest.map(|receipt| receipt.expect("done").expect("stored"));
        assert_eq!(rest.map(|receipt| (receipt.offset.0, receipt.duplicate)), [(40, false), (41, false), (42, false)]);
        let known = Delivery::new(ticket, 1, start).now_or_never().expect("done").expect("known");
        assert_eq!((known.offset.0, known.duplicate), (9, true));
    }
}
