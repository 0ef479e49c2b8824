//! What happened to groups. The layout is fixed: a new one is a new type under a new version byte. An event carries what was
//! decided, never what `apply` would have to work out by a rule that may change.
#![allow(missing_docs, reason = "rkyv derives undocumented resolver types; every item written here is documented")]

use millstream_protocol::frame::group::StreamPartition;
use rkyv::{Archive, Deserialize, Serialize};

/// What a member said of itself.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct MemberSettings {
    /// Its instance id, if it is static.
    pub instance: Option<String>,
    /// Who it is, for people.
    pub client: String,
    /// The names of the streams it reads, rising.
    pub streams: Vec<String>,
    /// It is dead this long after its last heartbeat, in milliseconds.
    pub session_timeout_ms: u32,
    /// How long it may take to let go of partitions, in milliseconds.
    pub rebalance_timeout_ms: u32,
}

/// A stream and how many partitions it has.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct StreamCount {
    /// Its name.
    pub name: String,
    /// Its number.
    pub id: u64,
    /// How many; 0: it is gone.
    pub partitions: u32,
}

/// Why a member is no more.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It left.
    Left,
    /// Its session ended.
    SessionEnded,
    /// It did not let go of partitions in time.
    RebalanceTimedOut,
}

/// Whom a partition is meant for from now on.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The partition.
    pub at: StreamPartition,
    /// The member; `None`: nobody.
    pub member: Option<u64>,
}

/// Who holds a partition from now on, under the event's epoch.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The partition.
    pub at: StreamPartition,
    /// The member; `None`: nobody.
    pub member: Option<u64>,
}

/// What happened.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A group was made.
    GroupCreated {
        /// Its number.
        id: u64,
        /// Its name.
        name: String,
        /// When, Unix ms.
        at_ms: i64,
    },
    /// A group was deleted; its offsets may still be there.
    GroupDeleted {
        /// Its number.
        id: u64,
    },
    /// A deleted group's offsets are gone.
    GroupRemoved {
        /// Its number.
        id: u64,
    },
    /// A member joined, or said something else of itself than before.
    MemberJoined {
        /// The group.
        group: u64,
        /// The member.
        member: u64,
        /// What it says of itself.
        settings: MemberSettings,
        /// Its streams, as they are.
        streams: Vec<StreamCount>,
        /// The version of a new member's first assignment, and of those that lose something by it.
        version: u32,
    },
    /// A static member came back under a new number: it has what the old one had, which is fenced.
    MemberReplaced {
        /// The group.
        group: u64,
        /// The old number.
        old: u64,
        /// The new one.
        member: u64,
        /// What it says of itself.
        settings: MemberSettings,
        /// Its streams, as they are.
        streams: Vec<StreamCount>,
        /// The version of its first assignment.
        version: u32,
        /// The epoch under which it holds what it takes over.
        epoch: u32,
    },
    /// A member is no more; what it held is free.
    MemberRemoved {
        /// The group.
        group: u64,
        /// The member.
        member: u64,
        /// Why.
        reason: Removal,
        /// When, Unix ms.
        at_ms: i64,
    },
    /// A stream was made again, has another number of partitions, or is gone.
    StreamChanged {
        /// The group.
        group: u64,
        /// The stream as it is now.
        stream: StreamCount,
        /// The version of the assignments that lose something by it.
        version: u32,
    },
    /// Partitions are meant for others, or were given to whom they were meant for.
    Assigned {
        /// The group.
        group: u64,
        /// The version of the assignments that change by it.
        version: u32,
        /// The epoch of the new holds.
        epoch: u32,
        /// Whom partitions are meant for; first.
        targets: Vec<Target>,
        /// Who holds partitions; then.
        holds: Vec<Held>,
    },
}
