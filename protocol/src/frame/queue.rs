//! Queues: their settings, as control messages and the catalog have them.
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
    /// One delivery of a message group (the records of one key) at a time, strictly in order.
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
