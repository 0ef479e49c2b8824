//! What a start had to do, for the log and for whoever asks.

use std::sync::Arc;
use std::time::Duration;

use millstream_log::{LogError, Partition, Recovered, Replay};
use millstream_protocol::PartitionId;
use millstream_protocol::frame::control::{PartitionRecovery, RecoveryInfo};

/// Partitions that are named; more are counted.
const NAMED_MAX: usize = 256;

/// What opening a data directory had to do.
#[derive(Debug, Clone, Default)]
pub struct Recovery {
    /// What the lanes' journals gave back.
    pub replay: Replay,
    /// All partitions together, the internal logs included.
    pub total: Recovered,
    /// Partitions opened.
    pub partitions: u64,
    /// Partitions that could not be opened.
    pub offline: u64,
    /// Partitions that needed something, or are offline.
    pub needed: u64,
    /// The first of those.
    pub named: Vec<PartitionRecovery>,
    /// How long it took.
    pub took: Duration,
}

impl Recovery {
    pub(crate) fn note(&mut self, stream: &str, id: PartitionId, opened: &Result<Arc<Partition>, LogError>) {
        let (found, error) = match opened {
            Ok(partition) => (*partition.recovered(), String::new()),
            Err(error) => {
                tracing::error!(stream, partition = %id, %error, "a partition is offline");
                self.offline += 1;
                (Recovered::default(), error.to_string())
            }
        };
        self.partitions += 1;
        self.total.add(&found);
        if error.is_empty() && found.is_clean() && found.bytes_read == 0 {
            return;
        }
        self.needed += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push(PartitionRecovery {
                stream: stream.to_owned(),
                partition: id.0,
                bytes_read: found.bytes_read,
                bytes_cut: found.bytes_cut,
                files_quarantined: found.files_quarantined as u64,
                holes: found.holes as u64,
                preambles_restored: found.preambles_restored as u64,
                error,
            });
        }
    }

    pub(crate) fn report(&mut self, took: Duration) {
        self.took = took;
        let Self { replay, total, partitions, offline, needed, .. } = self;
        tracing::info!(
            partitions,
            offline,
            needed,
            took_ms = took.as_millis() as u64,
            bytes_read = total.bytes_read,
            frames_replayed = replay.frames,
            bytes_replayed = replay.bytes,
            bytes_cut = total.bytes_cut + replay.torn_bytes,
            files_quarantined = total.files_quarantined,
            holes = total.holes,
            "data directory open"
        );
    }

    /// The same, for a client.
    pub fn info(&self) -> RecoveryInfo {
        RecoveryInfo {
            took_ms: self.took.as_millis() as u64,
            partitions: self.partitions,
            offline: self.offline,
            needed: self.needed,
            bytes_read: self.total.bytes_read + self.replay.bytes_read,
            frames_replayed: self.replay.frames as u64,
            bytes_replayed: self.replay.bytes,
            journal_damage: self.replay.damaged as u64,
            bytes_cut: self.total.bytes_cut + self.replay.torn_bytes,
            files_quarantined: self.total.files_quarantined as u64,
            holes: self.total.holes as u64,
            preambles_restored: self.total.preambles_restored as u64,
            named: self.named.clone(),
        }
    }
}
