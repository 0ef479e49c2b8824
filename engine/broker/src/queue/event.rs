//! What happens to a queue's messages in one partition, as it is stored.

use rkyv::{Archive, Deserialize, Serialize};

/// What one pass decided, in order: one record of the queue's state log.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    /// The queue epoch it was decided under; one of an older epoch than the ledger's means nothing any more.
    pub epoch: u32,
    /// What happened.
    pub events: Vec<Event>,
}

/// What happened. The layout is fixed: a new one is a new type under a new version byte.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// All below that offset was held against the filter.
    Judged {
        /// The offset.
        below: u64,
    },
    /// Messages that were never delivered before were, with fences that follow one another.
    Delivered {
        /// The first one's fence.
        fence: u64,
        /// When, Unix ms.
        at_ms: u64,
        /// Runs of offsets: where it begins, how many.
        runs: Vec<(u64, u32)>,
    },
    /// All that is known of an unsettled message, in the place of what was known.
    Marked {
        /// Its offset.
        offset: u64,
        /// What is known.
        mark: Mark,
    },
    /// A message is on its way to the dead letters: from here on that way is gone to its end, whatever becomes of the queue.
    Dying(Dying),
    /// It lies there.
    Moved {
        /// The partition of the dead-letter stream.
        target: u32,
        /// The sequence there.
        sequence: u64,
    },
    /// Messages are settled.
    Settled {
        /// How.
        how: How,
        /// Runs of offsets: where it begins, how many.
        runs: Vec<(u64, u64)>,
    },
    /// A message that was dead is back (redrive): its record lies in the dead-letter stream. A letter brings its message back
    /// once, ever: of one that did before nothing comes.
    Adopted {
        /// Its offset.
        offset: u64,
        /// Where its record lies now.
        adopted: Adopted,
    },
    /// The queue begins anew: all below `floor` is settled, nothing above is.
    Reset {
        /// The new queue epoch.
        epoch: u32,
        /// The offset.
        floor: u64,
        /// All that was not settled is counted as purged, not as forgotten.
        is_purge: bool,
    },
    /// The log lost its tail (only that of a `written` stream can): nothing is known from there on.
    Cut {
        /// The log's end.
        end: u64,
    },
}

/// How a message was settled.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// A receiver acknowledged it.
    Acked,
    /// The filter does not match it.
    Filtered,
    /// It lies in the dead-letter stream.
    Dead,
    /// Its time had passed before it could be delivered.
    Expired,
    /// Retention deleted it before it was settled.
    Retention,
    /// Compaction removed it.
    Removed,
    /// An operator accepted that it is lost.
    Lost,
    /// It was purged.
    Purged,
}

/// What is known of an unsettled message beyond "delivered once, in that run".
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// The fence of its last delivery; 0: never delivered.
    pub fence: u64,
    /// Not to be delivered before, Unix ms; 0: at once.
    pub due_ms: u64,
    /// Its first delivery, Unix ms; 0: never delivered.
    pub first_ms: u64,
    /// Deliveries, less those released.
    pub receives: u16,
    /// Deliveries released.
    pub releases: u16,
    /// Its last delivery's receipt is void: it was nacked or released.
    pub is_void: bool,
    /// It stands still, and its group with it, until an operator says what is to be done.
    pub is_parked: bool,
}

/// Why a message died.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its last delivery ended without an ack.
    MaxReceives,
    /// A receiver rejected it.
    Rejected,
    /// It has no key, and the queue is FIFO.
    NoGroup,
    /// Its time passed, and the queue wants to see those.
    Expired,
    /// The filter failed on it, and the queue wants to see those.
    FilterError,
}

/// A message's way to the dead-letter stream: an idempotent produce, so that it arrives once. Sequences have no gaps, so
/// one that was given is used.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Dying {
    /// The message's offset.
    pub offset: u64,
    /// The queue epoch in which it died.
    pub epoch: u32,
    /// Its deliveries.
    pub receives: u16,
    /// Its first delivery, Unix ms; 0: there was none.
    pub first_ms: u64,
    /// Where its record lies, if it was redriven.
    pub adopted: Option<Adopted>,
    /// The partition of the dead-letter stream.
    pub target: u32,
    /// The sequence there of the queue's internal producer.
    pub sequence: u64,
    /// Why.
    pub reason: Reason,
    /// What the receiver said, cut to 256 bytes.
    pub error: String,
}

/// Where a redriven message's record lies: a dead letter.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adopted {
    /// How often the message was redriven.
    pub redriven: u16,
    /// The dead-letter partition's incarnation.
    pub incarnation: u64,
    /// The offset there.
    pub at: u64,
    /// The number of its group, so that a FIFO queue need not read the letter again after a restart; 0 where messages are
    /// unordered.
    pub group: u64,
}
