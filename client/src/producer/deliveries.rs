//! The outcomes of records that were enqueued together: a few numbers for each run of neighbours, not a handle for each.

use std::sync::Arc;
use std::time::Instant;

use super::delivery::{Delivery, Receipt, Ticket};
use crate::error::Result;

/// What becomes of each record of an [`enqueue_all`](crate::Producer::enqueue_all). Dropping it takes none of them back.
#[derive(Debug, Default)]
#[must_use = "deliveries tell whether the records were stored; drop them explicitly if `flush` is enough"]
pub struct Deliveries {
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    /// Neighbours in a batch, enqueued at once.
    Taken { ticket: Arc<Ticket>, serial: u64, first: u32, count: u32, enqueued: Instant },
    /// A record that had to wait for room, or was not enqueued.
    One(Result<Delivery>),
}

impl Deliveries {
    /// How many records were given.
    pub fn len(&self) -> usize {
        let count = |part: &Part| if let Part::Taken { count, .. } = part { *count as usize } else { 1 };
        self.parts.iter().map(count).sum()
    }

    /// Whether none was given.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Waits for all of them; each one's outcome, in the order in which they were given. The errors are those of
    /// [`enqueue`](crate::Producer::enqueue) and of its [`Delivery`].
    pub async fn outcomes(self) -> Vec<Result<Receipt>> {
        let mut outcomes = Vec::with_capacity(self.len());
        for part in self.parts {
            match part {
                Part::Taken { ticket, first, count, enqueued, .. } => {
                    for index in first..first + count {
                        outcomes.push(Delivery::new(Arc::clone(&ticket), index, enqueued).await);
                    }
                }
                Part::One(Ok(delivery)) => outcomes.push(delivery.await),
                Part::One(Err(error)) => outcomes.push(Err(error)),
            }
        }
        outcomes
    }

    /// The next record has this index in the batch of that serial.
    pub(super) fn taken(&mut self, serial: u64, index: u32, now: Instant, ticket: impl FnOnce() -> Arc<Ticket>) {
        match self.parts.last_mut() {
            Some(Part::Taken { serial: last, first, count, enqueued, .. })
                if *last == serial && *enqueued == now && *first + *count == index =>
            {
                *count += 1;
            }
            _ => self.parts.push(Part::Taken { ticket: ticket(), serial, first: index, count: 1, enqueued: now }),
        }
    }

    /// The next record has this handle, or was not enqueued.
    pub(super) fn one(&mut self, delivery: Result<Delivery>) {
        self.parts.push(Part::One(delivery));
    }
}
