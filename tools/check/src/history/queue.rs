//! What receivers of queues, and who looks after the queues, did and saw.
//!
//! ```text
//! {"t":9,"proc":4,"e":{"queue":{"queue":0,"receiver":17,"did":{"settle":{"verb":"ack","of":[{"part":0,"offset":7,"fence":12}]}}}}}
//! ```
//! A *receiver* here is one life: whoever has lost its connection goes on under another number. It pulls (each call is told
//! with its answer) or has messages pushed (it gives credit before anything else).
//! Invariants
//! - One process records what its receivers do, in the order in which they do it, and writes a line out before it acts on
//!   it: nothing was settled by a receiver that is not on record, also if it was killed.
//! - An invocation's time is not after the moment it was sent, an answer's not before the moment it came (`history`).
//! - A delivery says nothing about its deadline: a client learns it late, so it would only be a bound from above, and the
//!   visibility tells that one too.
//!
//! Not here: what of it is wrong (`queue`).

use serde::{Deserialize, Serialize};

use super::Place;
use crate::value::ValueId;

/// Something of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfQueue {
    /// Which queue; numbered as the harness likes. One that is deleted and made again has another number.
    pub queue: u32,
    /// Which receiver; 0: somebody who is none.
    pub receiver: u64,
    /// What.
    #[serde(rename = "did")]
    pub what: InQueue,
}

/// In which order a queue delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// In any.
    Unordered,
    /// Within a message group in the order of offsets, one run at a time.
    Fifo,
}

/// When a queue gives up on a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterLimit {
    /// The dead-letter stream.
    pub stream: u32,
    /// Delivered so often and no more.
    pub max_receives: u32,
}

/// How long a `nack` without a delay waits: `min × factor^(n−1)`, at most `max`, a tenth more or less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// After the first delivery, in milliseconds; 0: at once, always.
    pub min_ms: u64,
    /// At most, in milliseconds.
    pub max_ms: u64,
    /// From one delivery to the next, in hundredths: 200 doubles it.
    pub factor_percent: u32,
}

/// What a queue promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// How long a delivery is exclusive, in milliseconds, unless the receive says otherwise.
    pub visibility_ms: u64,
    /// How long after its append a message is held back, in milliseconds, unless it says so itself.
    pub delay_ms: u64,
    /// How long a receiver's leases outlast its connection, in milliseconds; none: until their deadline.
    pub disconnect_grace_ms: Option<u64>,
    /// How long a nack without a delay waits.
    pub retry: Retry,
    /// None: it never gives up.
    pub dead_letter: Option<DeadLetterLimit>,
    /// In which order it delivers.
    pub order: Order,
    /// How many of a group one receive may take.
    pub group_batch: u32,
    /// It has a filter: [`InQueue::Verdicts`] tell what it should say.
    pub filtered: bool,
    /// The stream is kept by interest alone: what this queue has not settled stays.
    pub interest: bool,
}

impl Default for Settings {
    /// What a queue has that nothing was said about.
    fn default() -> Self {
        Self {
            visibility_ms: 30_000,
            delay_ms: 0,
            disconnect_grace_ms: Some(5_000),
            retry: Retry { min_ms: 1_000, max_ms: 300_000, factor_percent: 200 },
            dead_letter: None,
            order: Order::Unordered,
            group_batch: 1,
            filtered: false,
            interest: false,
        }
    }
}

/// One message, delivered once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The partition it came from.
    #[serde(rename = "part")]
    pub partition: u32,
    /// Its offset there.
    pub offset: u64,
    /// What it is; none: the payload was not whole.
    pub value: Option<ValueId>,
    /// Its receive count, from 1.
    #[serde(rename = "n")]
    pub receives: u32,
    /// The fencing number.
    pub fence: u64,
    /// Its message group, numbered or hashed as the harness likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u64>,
    /// How often it was redriven.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub redriven: u32,
}

// By reference, as serde calls it.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Which delivery is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The message's partition.
    #[serde(rename = "part")]
    pub partition: u32,
    /// Its offset there.
    pub offset: u64,
    /// The delivery's fencing number.
    pub fence: u64,
}

/// What a receiver asks for with a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Done, for ever.
    Ack,
    /// Failed, again later.
    Nack {
        /// After so many milliseconds; none: as the queue's retry says.
        delay_ms: Option<u64>,
    },
    /// Not tried.
    Release,
    /// Hopeless.
    Reject,
    /// The deadline is from now on so far away.
    Extend {
        /// Milliseconds.
        by_ms: u64,
    },
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is done, durably.
    Ok,
    /// There is nothing to do: the message is settled already; by this very word, perhaps, if the server was away meanwhile.
    AlreadySettled,
    /// It surely did not happen, unless the server was away meanwhile: a client that says it again hears that its first word
    /// has made the receipt void.
    Refused {
        /// The error's number.
        code: u16,
    },
    /// It may have happened, or may still.
    Unknown {
        /// The error's number.
        code: u16,
    },
}

/// Why a message was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It was delivered as often as it may be.
    MaxReceives,
    /// A receiver said so.
    Rejected,
    /// A FIFO queue, and it has no key.
    NoGroup,
    /// Its time had come.
    Expired,
    /// The filter could not be evaluated.
    FilterError,
}

/// Where a dead letter comes from, by its own account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The queue that gave it up.
    pub queue: u32,
    /// Its stream and partition.
    pub at: Place,
    /// Its offset there.
    pub offset: u64,
}

/// A record of a dead-letter stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The partition of the dead-letter stream.
    #[serde(rename = "part")]
    pub partition: u32,
    /// Its offset there.
    pub offset: u64,
    /// What it is; none: the payload was not whole.
    pub value: Option<ValueId>,
    /// None: the headers do not say.
    pub origin: Option<Origin>,
    /// How often it was delivered; none: the headers do not say.
    pub receives: Option<u32>,
    /// None: the headers do not say.
    pub reason: Option<Reason>,
}

/// What was done or seen of a queue. What carries `invoked_ns` is recorded when its answer is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InQueue {
    /// The queue is there.
    Created {
        /// The stream it reads.
        stream: u32,
        /// Where it begins in each partition.
        starts: Vec<u64>,
        /// What it promises.
        settings: Settings,
    },
    /// Other settings apply, or may (the answer is unknown).
    Changed {
        /// All of them.
        settings: Settings,
        /// When it was asked for.
        invoked_ns: u64,
    },
    /// It is deleted, or may be.
    Deleted {
        /// When it was asked for.
        invoked_ns: u64,
    },
    /// What the reference says of values. Of values that are in neither list nothing is known. Where a filter is changed
    /// in a run, only those are listed on which both agree.
    Verdicts {
        /// These match.
        matching: Vec<ValueId>,
        /// These do not.
        other: Vec<ValueId>,
    },
    /// The receiver is there: it asks for nothing before that.
    Opened,
    /// The receiver gives credit: it has messages pushed. Recorded before it is sent.
    Credit {
        /// So many may be unsettled.
        messages: u32,
        /// So many bytes; none: more than the messages can need.
        bytes: Option<u64>,
    },
    /// An answer to a receive came, or pushed messages. Those of one group in one event are one run.
    Received {
        /// The queue's stream.
        stream: u32,
        /// When the receive was sent; of pushed ones, when their stream was opened. No delivery was made before it.
        invoked_ns: u64,
        /// The visibility that the receive asked for, in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        visibility_ms: Option<u64>,
        /// None: nothing came in time.
        deliveries: Vec<Delivery>,
    },
    /// A receive has no answer: there may be deliveries that nobody saw.
    Unanswered {
        /// When it was sent.
        invoked_ns: u64,
    },
    /// The receiver closed its connection, lost it, or was killed; recorded when the server knows it too, so that nothing is
    /// delivered to it any more. There may be deliveries that nobody saw.
    Gone {
        /// Up to then it surely had it.
        since_ns: u64,
    },
    /// Receipts are about to be used.
    Settle {
        /// For what.
        verb: Verb,
        /// Which.
        of: Vec<Receipt>,
    },
    /// What became of that; an event for each different answer.
    Settled {
        /// For what.
        verb: Verb,
        /// Which.
        of: Vec<Receipt>,
        /// When it was sent.
        invoked_ns: u64,
        /// What became of them.
        answer: Answer,
    },
    /// Everything below these offsets is settled.
    Purged {
        /// By partition; where the answer is unknown, the highest they may be.
        below: Vec<u64>,
        /// When it was asked for.
        invoked_ns: u64,
        /// What became of it.
        answer: Answer,
    },
    /// Everything below these offsets is settled, everything else is not, whatever was before.
    Sought {
        /// By partition; where the answer is unknown, what was asked for.
        to: Vec<u64>,
        /// When it was asked for.
        invoked_ns: u64,
        /// What became of it.
        answer: Answer,
    },
    /// Nothing is delivered from now on.
    Paused {
        /// When it was asked for.
        invoked_ns: u64,
    },
    /// It is delivered again.
    Resumed {
        /// When it was asked for.
        invoked_ns: u64,
    },
    /// Records of the queue's dead-letter stream were read; they may come from other queues.
    DeadLetters {
        /// As they came.
        records: Vec<DeadLetter>,
    },
    /// All of the dead-letter stream was read, from its beginning to where it ended at that time, and is on record.
    DeadLettersEnd {
        /// When the end was asked for.
        invoked_ns: u64,
    },
    /// Dead letters went back to the queue; recorded when the task had finished.
    Redriven {
        /// When it was asked for.
        invoked_ns: u64,
        /// All that were there when it was asked for, not only some.
        all: bool,
        /// What became of it.
        answer: Answer,
    },
    /// An answer to how far a queue is.
    Floor {
        /// In which partition.
        at: Place,
        /// Everything below it is settled.
        floor: u64,
        /// When it was asked for.
        invoked_ns: u64,
    },
    /// An answer to what is in the queue. The last one is the final state: nobody does anything with the queue any more.
    State {
        /// When it was asked for.
        invoked_ns: u64,
        /// Messages that can be received,
        available: u64,
        /// that somebody has,
        in_flight: u64,
        /// that wait for their time,
        delayed: u64,
        /// that are on their way to the dead-letter stream,
        dying: u64,
        /// and records that the queue has not looked at.
        unread: u64,
        /// Messages that went to the dead-letter stream.
        dead: u64,
    },
}
