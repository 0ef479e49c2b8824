//! A stream that is open: its settings and its partitions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millstream_log::{CompactionPolicy, Durability, LogError, Partition, PartitionConfig, RetentionPolicy};
use millstream_protocol::frame::control::{
    Cleanup, Durability as WireDurability, PartitionInfo, PartitionState, StreamConfig, StreamInfo, StreamSummary,
};
use millstream_protocol::{Incarnation, PartitionId, StreamId, Timestamp};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::BrokerError;

/// One stream, open. A partition whose log could not be opened keeps its error; the others work.
#[derive(Debug)]
pub struct Stream {
    /// Its number.
    pub id: StreamId,
    /// Its name.
    pub name: String,
    /// Its settings.
    pub config: StreamConfig,
    /// When it was made.
    pub created: Timestamp,
    incarnations: Vec<Incarnation>,
    partitions: Vec<Result<Arc<Partition>, LogError>>,
    deleted: AtomicBool,
    /// For writing while records go by interest, for reading by who becomes interested in them, or in earlier ones.
    interest: RwLock<()>,
}

impl Stream {
    pub(crate) fn new(
        id: StreamId,
        name: String,
        config: StreamConfig,
        created: Timestamp,
        incarnations: Vec<Incarnation>,
        partitions: Vec<Result<Arc<Partition>, LogError>>,
    ) -> Self {
        Self {
            id,
            name,
            config,
            created,
            incarnations,
            partitions,
            deleted: AtomicBool::new(false),
            interest: RwLock::default(),
        }
    }

    /// Nothing goes by interest as long as this is held: what was looked up meanwhile is kept until the one who is to keep it
    /// is known. Blocks while a partition's records go. Of several streams: in the order of their numbers.
    pub(crate) fn keep_all(&self) -> RwLockReadGuard<'_, ()> {
        self.interest.read()
    }

    /// Nobody becomes interested, or interested in earlier records, as long as this is held. Blocks.
    pub(crate) fn let_go(&self) -> RwLockWriteGuard<'_, ()> {
        self.interest.write()
    }

    /// Its partitions, in order.
    pub fn partitions(&self) -> &[Result<Arc<Partition>, LogError>] {
        &self.partitions
    }

    /// One partition.
    ///
    /// # Errors
    /// [`BrokerError::UnknownPartition`]; [`BrokerError::StreamDeleted`]; the log's, where it could not be opened.
    pub fn partition(&self, id: PartitionId) -> Result<&Arc<Partition>, BrokerError> {
        if self.is_deleted() {
            return Err(BrokerError::StreamDeleted(self.id.0));
        }
        match self.partitions.get(id.0 as usize) {
            Some(Ok(partition)) => Ok(partition),
            Some(Err(error)) => Err(error.clone().into()),
            None => Err(BrokerError::UnknownPartition {
                stream: self.name.clone(),
                partition: id,
                count: self.partitions.len(),
            }),
        }
    }

    /// The partition of that incarnation.
    ///
    /// # Errors
    /// [`LogError::Deleted`] if it has none; the log's, where it could not be opened.
    pub(crate) fn by_incarnation(&self, incarnation: Incarnation) -> Result<&Arc<Partition>, LogError> {
        let at = self.incarnations.iter().position(|one| *one == incarnation).ok_or(LogError::Deleted)?;
        self.partitions[at].as_ref().map_err(Clone::clone)
    }

    /// Whether it was deleted since it was looked up.
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    pub(crate) fn mark_deleted(&self) {
        self.deleted.store(true, Ordering::Release);
        self.online().for_each(|partition| partition.mark_deleted());
    }

    pub(crate) fn online(&self) -> impl Iterator<Item = &Arc<Partition>> {
        self.partitions.iter().flatten()
    }

    /// What a client needs to know of it.
    pub fn info(&self) -> StreamInfo {
        let partitions = self.partitions.iter().zip(&self.incarnations).enumerate();
        let partitions = partitions.map(|(index, (partition, incarnation))| match partition {
            Ok(partition) => PartitionInfo {
                partition: index as u32,
                incarnation: incarnation.0,
                epoch: partition.epoch().0,
                owner: String::new(),
                log_start: partition.log_start().0,
                high_watermark: partition.high_watermark().0,
                bytes: partition.size_bytes(),
                state: if partition.is_read_only() { PartitionState::ReadOnly } else { PartitionState::Online },
            },
            Err(_) => PartitionInfo {
                partition: index as u32,
                incarnation: incarnation.0,
                epoch: 0,
                owner: String::new(),
                log_start: 0,
                high_watermark: 0,
                bytes: 0,
                state: PartitionState::Offline,
            },
        });
        StreamInfo {
            id: self.id.0,
            name: self.name.clone(),
            config: self.config.clone(),
            created_ms: self.created.0,
            partitions: partitions.collect(),
        }
    }

    /// The stream in a list.
    pub fn summary(&self) -> StreamSummary {
        StreamSummary {
            id: self.id.0,
            name: self.name.clone(),
            partitions: self.partitions.len() as u32,
            durability: self.config.durability,
            records: self.online().map(|p| p.log_start().records_until(p.high_watermark())).sum(),
            bytes: self.online().map(|p| p.size_bytes()).sum(),
        }
    }
}

/// A stream's settings as the log needs them.
pub(crate) fn partition_config(config: &StreamConfig) -> PartitionConfig {
    PartitionConfig {
        durability: match config.durability {
            WireDurability::Synced => Durability::Synced,
            WireDurability::Written => Durability::Written,
        },
        segment_bytes: config.segment_bytes,
        retention: RetentionPolicy { age_ms: config.retention_ms, bytes: config.retention_bytes },
        compaction: match config.cleanup {
            Cleanup::Delete => None,
            Cleanup::Compact(compaction) => Some(CompactionPolicy {
                delete_retention_ms: compaction.delete_retention_ms,
                min_lag_ms: compaction.min_compaction_lag_ms,
                ..CompactionPolicy::default()
            }),
        },
        dedup_window_ms: u64::from(config.dedup_window_ms),
    }
}
