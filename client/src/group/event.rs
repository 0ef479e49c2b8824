//! What a group's consumer hands out, and how partitions of several streams are named.

use std::sync::Arc;

use millstream_protocol::{Epoch, Offset, PartitionId, Record, Timestamp};

use crate::consumer::{ConsumedBatch, ConsumedRecord};
use crate::error::Result;

/// A partition of a stream, by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamedPartition {
    /// The stream.
    pub stream: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
}

impl std::fmt::Display for NamedPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.stream, self.partition)
    }
}

/// How far a consumer is in one partition: what it would commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPosition {
    /// The stream.
    pub stream: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// The next offset wanted.
    pub next: Offset,
    /// The epoch of the batch before it, if known: finds out whether the log lost its tail since.
    pub epoch: Option<Epoch>,
}

impl GroupPosition {
    /// The partition's name.
    pub fn name(&self) -> NamedPartition {
        NamedPartition { stream: Arc::clone(&self.stream), partition: self.partition }
    }
}

/// One record with where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRecord {
    /// The stream.
    pub stream: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// Its offset.
    pub offset: Offset,
    /// Its batch's epoch: (offset + 1, epoch) is the position behind it.
    pub epoch: Epoch,
    /// The server's time of append.
    pub append_time: Timestamp,
    /// The record. Its parts share the memory of its batch: keep many of few batches, or copy.
    pub record: Record,
}

impl GroupRecord {
    pub(super) fn new(stream: Arc<str>, found: ConsumedRecord) -> Self {
        let ConsumedRecord { partition, offset, epoch, append_time, record } = found;
        Self { stream, partition, offset, epoch, append_time, record }
    }

    /// The position behind it: what to commit when it is processed.
    pub fn position(&self) -> GroupPosition {
        let (stream, partition) = (Arc::clone(&self.stream), self.partition);
        GroupPosition { stream, partition, next: self.offset.next(), epoch: Some(self.epoch) }
    }
}

/// One batch with its stream.
#[derive(Debug, Clone)]
pub struct GroupBatch {
    /// The stream.
    pub stream: Arc<str>,
    /// The batch, and what of it is this consumer's.
    pub batch: ConsumedBatch,
}

impl GroupBatch {
    /// The position behind it: what to commit when it is processed.
    pub fn position(&self) -> GroupPosition {
        let (stream, partition) = (Arc::clone(&self.stream), self.batch.partition);
        GroupPosition { stream, partition, next: self.batch.end, epoch: Some(self.batch.view.header().epoch) }
    }
}

/// What a group's consumer has to say. See [`GroupConsumer`](crate::GroupConsumer).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum GroupEvent {
    /// A record; from [`next`](crate::GroupConsumer::next).
    Record(GroupRecord),
    /// A batch; from [`next_batch`](crate::GroupConsumer::next_batch).
    Batch(GroupBatch),
    /// These partitions are this consumer's from now on; their records follow.
    Assigned(Vec<NamedPartition>),
    /// These partitions go to other members. Nothing more of them comes. Finish what is in hand, and commit it; the next
    /// call for an event lets go of them.
    Revoking(Vec<NamedPartition>),
    /// These partitions are gone, without notice: the session ended, or another member took over. Nothing of them can be
    /// committed any more, and others may be working on them already.
    Lost(Vec<NamedPartition>),
}

/// What became of one commit.
#[derive(Debug, Clone)]
#[must_use = "a commit of one partition may fail while others succeed"]
pub struct CommitOutcome {
    /// What was to be committed.
    pub position: GroupPosition,
    /// Durable; or why it is not.
    ///
    /// # Errors
    /// [`Code::StaleEpoch`](crate::Code::StaleEpoch): the partition is not held any more;
    /// [`Code::CommitPastEnd`](crate::Code::CommitPastEnd).
    pub result: Result<()>,
}
