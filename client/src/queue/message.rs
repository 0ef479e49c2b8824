//! A message, and what can be said of it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use millstream_protocol::frame::delivery::{Receipt, Verb};
use millstream_protocol::{Offset, PartitionId, Record, Timestamp};
use tokio::sync::oneshot;

use super::link::{Link, gone};
use super::millis;
use crate::error::Result;

/// A message that was delivered: the receiver's own until it says something final of it, or its lease ends. Cheap to clone.
///
/// What is said goes out at once, not only when the answer is waited for. A message of which nothing is said comes again when
/// its lease ends.
#[derive(Clone)]
pub struct Message {
    inner: Arc<Inner>,
}

struct Inner {
    link: Link,
    delivered: Delivered,
}

/// What became of what was said of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It is done, durably. An ack that is said again is `Done` again while the server remembers it (65,536 a partition, until
    /// its restart).
    Done,
    /// An ack of a message that is settled already: by an earlier delivery's ack, or by this very one, which was said again
    /// and is not remembered. Success; it can tell that the work was done twice.
    AlreadySettled,
}

/// All that a delivery carries.
#[derive(Debug, Clone)]
pub(super) struct Delivered {
    pub receipt: Receipt,
    pub receives: u16,
    pub first_ms: u64,
    pub append_time: Timestamp,
    pub record: Record,
}

impl Message {
    pub(super) fn new(link: Link, delivered: Delivered) -> Self {
        Self { inner: Arc::new(Inner { link, delivered }) }
    }

    /// The record: key, headers, timestamp of its producer, value. Its parts share memory with the messages it came with.
    pub fn record(&self) -> &Record {
        &self.inner.delivered.record
    }

    /// The partition of the queue's stream.
    pub fn partition(&self) -> PartitionId {
        PartitionId(self.inner.delivered.receipt.partition)
    }

    /// Its offset there.
    pub fn offset(&self) -> Offset {
        Offset(self.inner.delivered.receipt.offset)
    }

    /// When it was appended, by the server's clock.
    pub fn append_time(&self) -> Timestamp {
        self.inner.delivered.append_time
    }

    /// Its deliveries with this one, less those released: 1 at first.
    pub fn receive_count(&self) -> u16 {
        self.inner.delivered.receives
    }

    /// When it was delivered first.
    pub fn first_received(&self) -> Timestamp {
        Timestamp(i64::try_from(self.inner.delivered.first_ms).unwrap_or(i64::MAX))
    }

    /// How often it came back from the dead letters.
    pub fn redriven(&self) -> u16 {
        self.inner.delivered.receipt.redriven
    }

    /// A number that rises with each delivery of the queue and partition, over restarts too: what a store can fence by, so
    /// that a receiver whose lease ended without its knowing writes nothing over a later one's work.
    pub fn fencing_token(&self) -> u64 {
        self.inner.delivered.receipt.fence
    }

    /// Names this delivery: with it any client can say something of it ([`Queue::ack`](super::Queue::ack)).
    pub fn receipt(&self) -> Receipt {
        self.inner.delivered.receipt
    }

    /// Done, for ever. Right even after its lease has ended, as long as no later delivery has begun. The answer says that it
    /// is durable; a message that is settled already is success, told as [`Said::AlreadySettled`].
    ///
    /// # Errors
    /// [`ReceiptExpired`](crate::Code::ReceiptExpired): it will be, or was, worked on again;
    /// [`OutOfGroupOrder`](crate::Code::OutOfGroupOrder): an earlier one of its FIFO group is not settled.
    pub fn ack(&self) -> Settling {
        self.say(Verb::Ack)
    }

    /// Failed: it comes again after the queue's backoff, or goes to the dead letters if this was its last delivery.
    ///
    /// # Errors
    /// [`ReceiptExpired`](crate::Code::ReceiptExpired): its lease has ended.
    pub fn nack(&self, error: impl Into<String>) -> Settling {
        self.say(Verb::Nack { delay_ms: None, error: error.into() })
    }

    /// The same, and it comes again after `delay`: up to 12 hours.
    ///
    /// # Errors
    /// As [`nack`](Self::nack); [`VisibilityOutOfRange`](crate::Code::VisibilityOutOfRange).
    pub fn nack_after(&self, delay: Duration, error: impl Into<String>) -> Settling {
        self.say(Verb::Nack { delay_ms: Some(millis(delay)), error: error.into() })
    }

    /// Not tried: back at once, in its place, uncounted.
    ///
    /// # Errors
    /// As [`nack`](Self::nack).
    pub fn release(&self) -> Settling {
        self.say(Verb::Release)
    }

    /// Its lease ends `visibility` from now; in a FIFO queue that of its whole run. 12 hours in all.
    ///
    /// # Errors
    /// As [`nack_after`](Self::nack_after).
    pub fn extend(&self, visibility: Duration) -> Settling {
        self.say(Verb::Extend { visibility_ms: millis(visibility) })
    }

    /// Hopeless: to the dead letters now.
    ///
    /// # Errors
    /// As [`nack`](Self::nack); [`NoDeadLetter`](crate::Code::NoDeadLetter).
    pub fn reject(&self, error: impl Into<String>) -> Settling {
        self.say(Verb::Reject { error: error.into() })
    }

    fn say(&self, verb: Verb) -> Settling {
        self.inner.link.say(self.receipt(), verb)
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.delivered.fmt(f)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.link.let_go(&self.delivered.receipt);
    }
}

/// The answer to what was said of a message. It was sent whether this is waited for or not; waiting tells what became of it.
#[must_use = "whether it holds is known only when this is waited for"]
#[derive(Debug)]
pub struct Settling(pub(super) oneshot::Receiver<Result<Said>>);

impl Settling {
    /// Does not wait: what was said is sent, and what becomes of it is not looked at.
    pub fn detach(self) {}
}

impl Future for Settling {
    type Output = Result<Said>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Said>> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or_else(|_| Err(gone())))
    }
}
