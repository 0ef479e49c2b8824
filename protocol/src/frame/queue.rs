//! Queues: their settings, as control messages and the catalog have them; how they stand; what opens a queue stream.
#![allow(missing_docs, reason = "rkyv derives undocumented resolver types; every item written here is documented")]

use rkyv::{Archive, Deserialize, Serialize};

/// What happens to a FIFO group when one of its messages would die.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum OnDead {
    /// It goes to the dead letters, and the group goes on.
    #[default]
    Skip,
    /// It stands still, and its group with it, until an operator decides.
    Park,
}

/// How messages are ordered.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum QueueOrdering {
    /// Each by itself.
    #[default]
    Unordered,
    /// One delivery of a message group (the records of one key) at a time, strictly in order. A record without a key goes to
    /// the dead letters; those that a redrive brings back are one group together.
    Fifo {
        /// How many of a group one receive may take, in order; 1 to 100.
        group_batch: u16,
        /// What happens when a message would die.
        on_dead: OnDead,
    },
}

/// Where a queue begins.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum QueueStart {
    /// At the first record kept.
    Earliest,
    /// At the first record stored after it was made.
    #[default]
    Latest,
    /// At the first record appended at or after this time, Unix ms.
    Time(i64),
    /// At this offset in each partition.
    Offset(u64),
}

/// How long a message waits that was nacked without a delay.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QueueBackoff {
    /// After its first delivery, in milliseconds; 0: not at all.
    pub min_ms: u64,
    /// At most, in milliseconds; up to 12 hours.
    pub max_ms: u64,
    /// How many times longer after each further delivery, in hundredths; 100 to 1,000.
    pub factor_percent: u32,
}

impl Default for QueueBackoff {
    /// 1 s, doubled each time, up to 5 minutes.
    fn default() -> Self {
        Self { min_ms: 1_000, max_ms: 5 * 60 * 1_000, factor_percent: 200 }
    }
}

/// A queue's settings.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct QueueConfig {
    /// Which messages it holds, in CEL; empty: all.
    pub filter: String,
    /// How messages are ordered.
    pub ordering: QueueOrdering,
    /// How long a receiver has a message for itself, in milliseconds; 0 to 12 hours.
    pub visibility_ms: u64,
    /// A message is delivered so many times, 1 to 1,000, and then goes to the dead letters. `None`: it is delivered until it
    /// is acknowledged.
    pub max_receives: Option<u16>,
    /// The stream that dead messages go to.
    pub dead_letter: Option<String>,
    /// How long after its append a message is delivered, in milliseconds; 0 to 15 minutes. A record's own delay replaces it.
    pub delay_ms: u64,
    /// How long a message waits after a nack that names no delay.
    pub backoff: QueueBackoff,
    /// How long a receiver whose connection was lost keeps what it has, in milliseconds; `None`: until its deadlines.
    pub disconnect_grace_ms: Option<u64>,
    /// How long after its append a message may be delivered, in milliseconds; `None`: as long as it is kept.
    pub ttl_ms: Option<u64>,
    /// Messages whose time passed go to the dead letters.
    pub keeps_expired: bool,
    /// Messages that are out at one time, over all receivers; 1 to 10 million.
    pub in_flight_max: u32,
    /// Messages that one receiver has at one time; 1 to 1 million.
    pub receiver_in_flight_max: u32,
}

impl Default for QueueConfig {
    /// All messages, unordered, 30 s visibility, never dead, no delay; a million out, 10,000 with one receiver.
    fn default() -> Self {
        Self {
            filter: String::new(),
            ordering: QueueOrdering::Unordered,
            visibility_ms: 30_000,
            max_receives: None,
            dead_letter: None,
            delay_ms: 0,
            backoff: QueueBackoff::default(),
            disconnect_grace_ms: Some(5_000),
            ttl_ms: None,
            keeps_expired: false,
            in_flight_max: 1_000_000,
            receiver_in_flight_max: 10_000,
        }
    }
}

/// A delivery that a receiver which comes back still has in its hands.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldDelivery {
    /// The partition.
    pub partition: u32,
    /// The delivery's fence.
    pub fence: u64,
}

/// Opens a queue stream: a receiver of messages.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct QueueOpen {
    /// The queue's name.
    pub queue: String,
    /// The receiver, random: one that comes back within the queue's grace keeps what it has.
    pub receiver: u128,
    /// Messages that it may have unsettled; those come by themselves. 0: only those that it asks for.
    pub window: u32,
    /// How long each is its own, in milliseconds; `None`: as the queue says.
    pub visibility_ms: Option<u64>,
    /// What it still has, if it comes back: the rest never reached it, and is given back uncounted. `None`: it has all.
    pub held: Option<Vec<HeldDelivery>>,
}

/// Answers a [`QueueOpen`].
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct QueueOpened {
    /// The queue's number.
    pub queue: u64,
    /// Its stream's name.
    pub stream: String,
    /// How long each message is the receiver's own, in milliseconds.
    pub visibility_ms: u64,
    /// Messages that it may have unsettled, as granted.
    pub window: u32,
    /// Messages of one key come in order, and are to be settled in order.
    pub is_fifo: bool,
}

/// How many messages of a queue are in which state now, and what became of the others since it was made.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueCounts {
    /// May be delivered now.
    pub available: u64,
    /// Delivered, neither settled nor back.
    pub in_flight: u64,
    /// Held back until a time.
    pub delayed: u64,
    /// On their way to the dead letters.
    pub dying: u64,
    /// Standing still with their group until an operator decides.
    pub parked: u64,
    /// Records that the queue has not looked at yet.
    pub waiting: u64,
    /// Acknowledged.
    pub acked: u64,
    /// Not matched by the filter.
    pub filtered: u64,
    /// Moved to the dead letters.
    pub dead: u64,
    /// Their time passed before they could be delivered.
    pub expired: u64,
    /// Deleted by retention before they were settled.
    pub expired_by_retention: u64,
    /// Removed by compaction.
    pub removed: u64,
    /// Lost to damage that an operator accepted.
    pub lost: u64,
    /// Purged.
    pub purged: u64,
    /// Records on which the filter failed since the server's start: they do not match.
    pub filter_errors: u64,
    /// Entries kept in memory and snapshots.
    pub entries: u64,
}

/// How a queue stands on one partition.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct QueuePartition {
    /// The partition.
    pub partition: u32,
    /// Its messages.
    pub counts: QueueCounts,
    /// All below is settled.
    pub floor: u64,
    /// The partition's high watermark.
    pub end: u64,
    /// When the oldest unsettled record was appended, Unix ms; `None`: there is none.
    pub oldest_ms: Option<i64>,
    /// Why it stands still here; empty while it does not.
    pub error: String,
}

/// One queue.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct QueueInfo {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its stream's name.
    pub stream: String,
    /// Its settings.
    pub config: QueueConfig,
    /// Raised by each purge and seek.
    pub epoch: u32,
    /// Nothing is delivered.
    pub is_paused: bool,
    /// When it was made, Unix ms.
    pub created_ms: i64,
    /// The offsets from which on its filter and delay hold, by partition.
    pub rule_from: Vec<u64>,
    /// Receivers that are connected.
    pub receivers: u32,
    /// Over all partitions.
    pub total: QueueCounts,
    /// The age of its oldest unsettled record, in milliseconds; 0 if there is none.
    pub oldest_age_ms: u64,
    /// How it stands on each partition, the first 2,000.
    pub partitions: Vec<QueuePartition>,
}

/// One queue in a list.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct QueueSummary {
    /// Its name.
    pub name: String,
    /// Its stream's name.
    pub stream: String,
    /// How messages are ordered.
    pub ordering: QueueOrdering,
    /// Nothing is delivered.
    pub is_paused: bool,
    /// The stream that dead messages go to.
    pub dead_letter: Option<String>,
}

/// Where a message stands.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// The queue has not looked at it yet.
    Waiting,
    /// It may be delivered now.
    Available,
    /// Held back until this time, Unix ms.
    Delayed(u64),
    /// Delivered, neither settled nor back.
    InFlight,
    /// On its way to the dead letters.
    Dying,
    /// It stands still, and its group with it, until an operator decides.
    Parked,
}

/// A record's header, as shown.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct PeekedHeader {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Option<Vec<u8>>,
}

/// An unsettled message as an operator sees it.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct PeekedMessage {
    /// The partition.
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
    /// When it was appended, Unix ms.
    pub append_ms: i64,
    /// Its producer's timestamp, Unix ms.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its headers.
    pub headers: Vec<PeekedHeader>,
    /// Its value.
    pub value: Option<Vec<u8>>,
}

/// Dead messages that are to come back.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
pub struct RedriveOptions {
    /// Which, in CEL over the letter with its `ms-dl-` headers; empty: all of the queue.
    pub filter: String,
    /// How many at most, from 1; `None`: all.
    pub limit: Option<u64>,
    /// How many a second at most, 1 to 1 million; `None`: as fast as it goes.
    pub rate_per_s: Option<u32>,
    /// The stream that copies of them go to; `None`: back to the queue, to it alone, by reference.
    pub to: Option<String>,
}

/// Whether a redrive goes on.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RedriveStatus {
    /// It does.
    Running,
    /// All is looked at, or the limit reached.
    Done,
    /// An operator ended it.
    Cancelled,
}

/// How a redrive stands.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct RedriveInfo {
    /// Its number.
    pub id: u64,
    /// What was asked for.
    pub options: RedriveOptions,
    /// When it began, Unix ms.
    pub began_ms: i64,
    /// Whether it goes on.
    pub status: RedriveStatus,
    /// Records of the dead-letter stream that it has looked at.
    pub looked_at: u64,
    /// Messages that came back.
    pub redriven: u64,
    /// Letters that it passed over: of other queues, not matched, or back already.
    pub skipped: u64,
    /// Letters that cannot be read or on which the filter failed.
    pub failed: u64,
    /// Records of the dead-letter stream that it has not looked at yet.
    pub left: u64,
    /// Why it does not go on just now; it tries again by itself. Empty while it does.
    pub error: String,
}
