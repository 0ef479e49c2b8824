//! What members and operators of consumer groups say and are told, inside requests and responses.
//!
//! ```text
//! member                                              server
//! JoinGroup ──────────────────────────────────────►   version 7: stream 42, partitions 0 (epoch 3), 1 (epoch 7)
//! Heartbeat { seen: 7, applied: 7, wait_ms } ─────►   waits; answers at once when the assignment changes
//!                                         ◄────────   version 9: stream 42, partition 1 (epoch 7)
//! finish the work on partition 0, commit it
//! Heartbeat { seen: 9, applied: 9, wait_ms } ─────►   partition 0 is given to whom it was meant for
//! ```
//! An assignment is the whole list of what a member may work on. It is versioned per group; a member confirms with
//! `applied` that it works on nothing else any more, and until then nobody else gets what it lost. Each partition in it has
//! the *assignment epoch* under which this member holds it: commits carry it, and only the holder's are taken.
//!
//! A member's session runs from its last heartbeat's arrival; a heartbeat that waits is not alive while it waits.
#![allow(missing_docs, reason = "rkyv derives undocumented resolver types; every item written here is documented")]

use rkyv::{Archive, Deserialize, Serialize};

/// A member joins, or joins again with the same number (which changes nothing but its settings).
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct GroupJoin {
    /// The group; made if it is not there.
    pub group: String,
    /// Random, chosen by the member; a new one for each life.
    pub member: u64,
    /// Names a static member: the one who joins under it takes over what the one before held, who is fenced.
    pub instance: Option<String>,
    /// The names of the streams it reads; at least one.
    pub streams: Vec<String>,
    /// It is dead this long after its last heartbeat, in milliseconds; 3 s to 30 min.
    pub session_timeout_ms: u32,
    /// How long it may take to let go of partitions, in milliseconds, before it is taken for dead; 1 s to 1 h.
    pub rebalance_timeout_ms: u32,
    /// Who it is, for people.
    pub client: String,
}

/// A member is alive; and what it knows.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct GroupHeartbeat {
    /// The group.
    pub group: String,
    /// The member.
    pub member: u64,
    /// The version of the newest assignment it was told: a newer one is answered at once.
    pub seen: u32,
    /// The version whose list it works on, and on nothing else.
    pub applied: u32,
    /// How long to wait for a newer assignment, in milliseconds; at most a third of its session.
    pub wait_ms: u32,
}

/// A partition of a stream, by number.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamPartition {
    /// The stream's number.
    pub stream: u64,
    /// The partition.
    pub partition: u32,
}

/// A partition that a member holds.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssignedPartition {
    /// Which.
    pub at: StreamPartition,
    /// The assignment epoch: commits to it carry it.
    pub epoch: u32,
}

/// What a member holds.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Rises with every change.
    pub version: u32,
    /// All of it.
    pub partitions: Vec<AssignedPartition>,
}

/// The answer to a join or a heartbeat.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Its assignment, if it is newer than the one it has seen.
    pub assignment: Option<Assignment>,
    /// How often to send a heartbeat, in milliseconds.
    pub heartbeat_interval_ms: u32,
}

/// One partition's offset, committed by its holder.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct OffsetCommit {
    /// Which partition.
    pub at: StreamPartition,
    /// The assignment epoch under which the member holds it; 0 from who is no member (legal while the group has none).
    pub epoch: u32,
    /// The next offset to read.
    pub offset: u64,
    /// Epoch of the batch before it, if known: finds out whether the log lost its tail since.
    pub batch_epoch: Option<u32>,
    /// For the application; at most 256 bytes.
    pub metadata: String,
}

/// What became of one commit.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct CommitResult {
    /// Which partition.
    pub at: StreamPartition,
    /// 0: it is durable. Otherwise the number of the error's code.
    pub code: u16,
    /// What happened; empty if it is durable.
    pub text: String,
}

/// One partition's committed offset.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// Which partition.
    pub at: StreamPartition,
    /// The next offset to read; `None`: nothing is committed.
    pub offset: Option<u64>,
    /// Epoch of the batch before it, as committed.
    pub batch_epoch: Option<u32>,
    /// As committed.
    pub metadata: String,
}

/// Where a reset goes.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetTo {
    /// The log start.
    Earliest,
    /// The high watermark.
    Latest,
    /// This offset; outside of the log it is an error.
    Offset(u64),
    /// The first record appended at or after this time, Unix ms.
    Time(i64),
    /// By so many records from where it is, cut to what the log holds.
    Shift(i64),
}

/// A reset of a group without members.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct GroupReset {
    /// The group; made if it is not there.
    pub group: String,
    /// The stream's name.
    pub stream: String,
    /// Which partitions; empty: all.
    pub partitions: Vec<u32>,
    /// Where to.
    pub to: ResetTo,
    /// Only say where it would go.
    pub dry_run: bool,
}

/// What a group is doing.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum GroupState {
    /// It has no members.
    Empty,
    /// Every partition is with the member that it is meant for.
    Stable,
    /// Some partition is on its way.
    Rebalancing,
}

/// One group in a list.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct GroupSummary {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: GroupState,
    /// How many members it has.
    pub members: u32,
    /// The streams its members read and those it has offsets in, by name.
    pub streams: Vec<String>,
    /// Records below the high watermarks that it has not committed, over all partitions it reads or has offsets in.
    pub lag: u64,
}

/// One member.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    /// Its number.
    pub member: u64,
    /// Its instance id, if it is static.
    pub instance: Option<String>,
    /// Who it is, for people.
    pub client: String,
    /// The streams it reads, by name.
    pub streams: Vec<String>,
    /// How long its session still runs without a heartbeat, in milliseconds.
    pub session_left_ms: u32,
    /// What it holds.
    pub holds: Vec<StreamPartition>,
}

/// How far a group is in one partition.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct GroupPartition {
    /// The stream's name.
    pub stream: String,
    /// Which partition.
    pub at: StreamPartition,
    /// The member that holds it; `None`: nobody.
    pub member: Option<u64>,
    /// The next offset to read; `None`: nothing is committed.
    pub committed: Option<u64>,
    /// When it was committed, Unix ms; 0 without a commit.
    pub committed_ms: i64,
    /// The first offset still kept.
    pub log_start: u64,
    /// The high watermark.
    pub high_watermark: u64,
    /// Records that it has not committed: from the committed offset, or without one from the log start.
    pub lag: u64,
    /// As committed.
    pub metadata: String,
}

/// One group.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: GroupState,
    /// Its assignment version.
    pub version: u32,
    /// Its members.
    pub members: Vec<GroupMember>,
    /// The partitions its members read and those it has offsets in, in order.
    pub partitions: Vec<GroupPartition>,
    /// The sum of the lags.
    pub lag: u64,
}
