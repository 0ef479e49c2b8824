//! What a batch's records wait for: one result for all of them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use millstream_protocol::{Epoch, Offset, PartitionId, Timestamp};
use parking_lot::Mutex;

use crate::error::{Error, Result};

/// Where and when a record was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The partition.
    pub partition: PartitionId,
    /// The record's offset.
    pub offset: Offset,
    /// The server's time of append.
    pub append_time: Timestamp,
    /// The partition's epoch then.
    pub epoch: Epoch,
}

/// What became of a batch; shared by its records' deliveries.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The first record's receipt.
    result: Option<Result<Receipt>>,
    wakers: Vec<Waker>,
}

impl Outcome {
    /// Says what became of the batch, to all who wait.
    pub(crate) fn settle(&self, result: Result<Receipt>) {
        let wakers = {
            let mut state = self.state.lock();
            debug_assert!(state.result.is_none(), "a batch is settled once");
            state.result = Some(result);
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A record on its way: resolves once the stream's durability holds for it, or it has failed.
#[derive(Debug)]
#[must_use = "a delivery tells whether the record is stored"]
pub struct Delivery {
    outcome: Arc<Outcome>,
    /// The record's place in its batch.
    index: u32,
    /// The slot of this delivery's waker, once it waits.
    slot: Option<usize>,
}

impl Delivery {
    pub(crate) fn new(outcome: Arc<Outcome>, index: u32) -> Self {
        Self { outcome, index, slot: None }
    }
}

impl Future for Delivery {
    type Output = Result<Receipt>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut state = this.outcome.state.lock();
        if let Some(result) = &state.result {
            let index = u64::from(this.index);
            return Poll::Ready(
                result.clone().map(|first| Receipt { offset: Offset(first.offset.0 + index), ..first }),
            );
        }
        match this.slot.and_then(|slot| state.wakers.get_mut(slot)) {
            Some(waker) => waker.clone_from(context.waker()),
            None => {
                this.slot = Some(state.wakers.len());
                state.wakers.push(context.waker().clone());
            }
        }
        Poll::Pending
    }
}

/// Fails a batch whose sender is gone.
pub(crate) fn closed() -> Error {
    Error::lost(
        "the producer was dropped before the record was acknowledged: it may be stored",
        "the producer was dropped",
    )
}
