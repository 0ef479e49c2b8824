//! What goes in and out of a queue.

use bytes::Bytes;
use millstream_log::LogError;
use millstream_protocol::batch::BatchView;
use millstream_protocol::{Code, Incarnation, PartitionId, QueueId, Record, Timestamp};

use super::ledger::Tally;
use super::machine::{Counts, Delivery, Receipt, Refusal, Standing};
pub use crate::catalog::{RedriveCounts, RedriveStatus, RedriveTo};

/// Where a receiver's messages go.
pub trait Outlet: Send + Sync {
    /// Called on a queue's thread: do not block.
    fn deliver(&self, delivered: Delivered);

    /// A pull is answered: so many messages came for it; whether a limit of messages in flight held some back.
    fn pulled(&self, number: u64, messages: u32, at_limit: bool) {
        let _ = (number, messages, at_limit);
    }

    /// Whether it can take messages now. Who says no says [`ready`](super::QueueReceiver::ready) when it can again.
    fn has_room(&self) -> bool {
        true
    }

    /// The queue is no more, or the broker closes: nothing comes after this.
    fn ended(&self);
}

/// What a receiver wants.
pub struct Receiving {
    /// Who it is, over connections.
    pub key: u128,
    /// Where its messages go.
    pub outlet: std::sync::Arc<dyn Outlet>,
    /// How many messages it may have unsettled; 0: none come by themselves.
    pub window: u32,
    /// How long each is its own, in milliseconds; `None`: as the queue says.
    pub visibility_ms: Option<u64>,
    /// The partitions and fences of deliveries that it still has, if it comes back: others never reached it, and are
    /// released. `None`: it has all.
    pub held: Option<Vec<(u32, u64)>>,
}

/// What a receiver asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulling {
    /// Names it in the answer.
    pub number: u64,
    /// Messages at most.
    pub most: u32,
    /// How long each is its own, in milliseconds; `None`: as the receiver says.
    pub visibility_ms: Option<u64>,
    /// Names the attempt: the same again, while its messages are out, gets the same.
    pub attempt: u128,
}

/// Messages of one partition on their way to one receiver.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// The queue.
    pub queue: QueueId,
    /// The partition.
    pub partition: PartitionId,
    /// Seeds the checksums of its batches.
    pub incarnation: Incarnation,
    /// The pull that it is for; `None`: it comes by the receiver's window.
    pub pull: Option<u64>,
    /// The deliveries, in the order they are to be handled in.
    pub deliveries: Vec<Delivery>,
    /// The stored batches that hold their records, and others between them.
    pub batches: Vec<BatchView>,
}

/// What a receiver says of one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verb {
    /// The queue that the receipt is of.
    pub queue: QueueId,
    /// The message's partition.
    pub partition: u32,
    /// The delivery.
    pub receipt: Receipt,
    /// What it says.
    pub act: Act,
}

/// What can be said of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Done, for ever.
    Ack,
    /// Failed; again after a delay in milliseconds, or the queue's backoff.
    Nack {
        /// The delay, up to 12 hours.
        delay_ms: Option<u64>,
        /// Why.
        error: String,
    },
    /// Not tried: back at once, in its place, uncounted.
    Release,
    /// More time.
    Extend {
        /// From now on, in milliseconds.
        visibility_ms: u64,
    },
    /// Hopeless: to the dead letters.
    Reject {
        /// Why.
        error: String,
    },
}

/// What became of a verb. It is durable when it is answered.
#[derive(Debug, Clone)]
pub enum VerbResult {
    /// It holds.
    Done,
    /// It does not.
    Refused(Refusal),
    /// The receipt is another queue's.
    Foreign,
    /// The queue was deleted.
    QueueDeleted,
    /// It could not be stored.
    Failed(LogError),
}

impl VerbResult {
    /// Its number for clients; `None` if it holds.
    pub fn code(&self) -> Option<Code> {
        match self {
            VerbResult::Done => None,
            VerbResult::Refused(Refusal::ReceiptExpired) => Some(Code::ReceiptExpired),
            VerbResult::Refused(Refusal::AlreadySettled) => Some(Code::AlreadySettled),
            VerbResult::Refused(Refusal::OutOfGroupOrder) => Some(Code::OutOfGroupOrder),
            VerbResult::Refused(Refusal::VisibilityOutOfRange) => Some(Code::VisibilityOutOfRange),
            VerbResult::Refused(Refusal::NoDeadLetter) => Some(Code::NoDeadLetter),
            VerbResult::Foreign => Some(Code::ReceiptForeign),
            VerbResult::QueueDeleted => Some(Code::QueueDeleted),
            VerbResult::Failed(error) => Some(error.code()),
        }
    }
}

/// How a queue stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueState {
    /// Receivers that are connected.
    pub receivers: u32,
    /// By partition.
    pub partitions: Vec<PartState>,
}

/// How a queue stands on one partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PartState {
    /// The partition.
    pub partition: u32,
    /// Messages it has looked at, by state.
    pub counts: Counts,
    /// Records it has not looked at yet.
    pub not_looked_at: u64,
    /// What became of messages, since it was made.
    pub tally: Tally,
    /// All below is settled.
    pub floor: u64,
    /// The partition's high watermark.
    pub end: u64,
    /// When the oldest unsettled record was appended, Unix ms.
    pub oldest_ms: Option<i64>,
    /// What it keeps in memory, in entries.
    pub entries: u64,
    /// Records on which the filter failed since the server's start: they do not match.
    pub filter_errors: u64,
    /// Why it stands still here.
    pub error: Option<String>,
}

/// An unsettled message as an operator sees it: no lease, nothing changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peeked {
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: u64,
    /// Where it stands.
    pub standing: Standing,
    /// Its deliveries, less those released.
    pub receives: u16,
    /// How often it was redriven.
    pub redriven: u16,
    /// Its first delivery, Unix ms; 0: there was none.
    pub first_ms: u64,
    /// When it was appended.
    pub append_time: Timestamp,
    /// The record, as produced.
    pub record: Record,
}

/// Which parked messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParkedAt {
    /// The one at that offset.
    Offset(u64),
    /// All of the group with that key.
    Group(Bytes),
}

/// What becomes of a parked message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpark {
    /// It is tried again from the first.
    Retry,
    /// It goes to the dead letters, and its group goes on.
    Skip,
}

/// What is to be redriven.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RedriveOptions {
    /// Which of the queue's letters, in CEL over the letter with its `ms-dl-` headers (`headers["ms-dl-reason"] ==
    /// "rejected"`); empty: all.
    pub filter: String,
    /// How many messages at most, from 1; `None`: all.
    pub limit: Option<u64>,
    /// How many a second at most, 1 to 1 million; `None`: as fast as it goes.
    pub rate_per_s: Option<u32>,
    /// Where they go.
    pub to: RedriveTo,
}

/// How a redrive stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedriveState {
    /// Its number.
    pub id: u64,
    /// What was asked for.
    pub options: RedriveOptions,
    /// When it began, Unix ms.
    pub began_ms: i64,
    /// Whether it goes on.
    pub status: RedriveStatus,
    /// How far it has come.
    pub counts: RedriveCounts,
    /// Records of the dead-letter stream that it has not looked at yet.
    pub left: u64,
    /// Why it does not go on just now; it tries again by itself.
    pub error: Option<String>,
}
