//! One partition as a lake sees it.

use std::sync::Arc;

use bytes::Bytes;
use event_listener::EventListener;
use millstream_log::{Chunk, LogError, Partition};
use millstream_protocol::{Epoch, Incarnation, Offset, PartitionId};

/// What a lake needs of a partition. Everything that reads or writes a file may block: the lake calls it on a
/// blocking thread.
pub trait Source: Send + Sync {
    /// Its number.
    fn partition(&self) -> PartitionId;
    /// Names this life of it: a file of an earlier stream under the same name is another's.
    fn incarnation(&self) -> Incarnation;
    /// The owner's epoch: the lake is fenced by it.
    fn epoch(&self) -> Epoch;
    /// The first offset still kept.
    fn log_start(&self) -> Offset;
    /// The offset below which records can be read.
    fn high_watermark(&self) -> Offset;
    /// Whole batches, beginning with the one that holds `from`; about `max_bytes` of them, at least one.
    ///
    /// # Errors
    /// [`LogError::OffsetOutOfRange`] and [`LogError::RecordsLost`] are gaps, which a lake skips visibly; it retries
    /// after any other.
    fn read(&self, from: Offset, max_bytes: usize) -> Result<Chunk, LogError>;
    /// Fires when one of the offsets above changes.
    fn listen(&self) -> EventListener;
    /// A value of the partition's durable state.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn state_get(&self, key: &str) -> Result<Option<Bytes>, LogError>;
    /// Sets or removes a value of the partition's state; durable when this returns.
    ///
    /// # Errors
    /// Where it may not be durable.
    fn state_put(&self, key: &str, value: Option<&[u8]>) -> Result<(), LogError>;
    /// Asks retention to keep records from `offset` on.
    fn set_hold(&self, owner: &str, offset: Option<Offset>);
}

impl Source for Arc<Partition> {
    fn partition(&self) -> PartitionId {
        Partition::id(self)
    }
    fn incarnation(&self) -> Incarnation {
        Partition::incarnation(self)
    }
    fn epoch(&self) -> Epoch {
        Partition::epoch(self)
    }
    fn log_start(&self) -> Offset {
        Partition::log_start(self)
    }
    fn high_watermark(&self) -> Offset {
        Partition::high_watermark(self)
    }
    fn read(&self, from: Offset, max_bytes: usize) -> Result<Chunk, LogError> {
        Partition::read(self, from, max_bytes)
    }
    fn listen(&self) -> EventListener {
        Partition::listen(self)
    }
    fn state_get(&self, key: &str) -> Result<Option<Bytes>, LogError> {
        Partition::state_get(self, key)
    }
    fn state_put(&self, key: &str, value: Option<&[u8]>) -> Result<(), LogError> {
        Partition::state_put(self, key, value)
    }
    fn set_hold(&self, owner: &str, offset: Option<Offset>) {
        Partition::set_hold(self, owner, offset);
    }
}
