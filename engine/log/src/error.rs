//! What can go wrong in the log: who is to blame, and what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_protocol::batch::BatchError;
use millstream_protocol::frame::produce::Duplicate;
use millstream_protocol::limits::DEDUP_IDS_MAX;
use millstream_protocol::{Code, Offset, PartitionId, ProducerId, StreamId};

use crate::storage::descriptors::is_out_of_descriptors;

/// An error of the log. Its `Display` says what happened, with the values, then what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The system refused a call on a file.
    #[error("cannot {act} {}: {source}", path.display())]
    Io {
        /// The act, as an infinitive.
        act: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// Another process has the data directory open.
    #[error("the data directory {} is in use by another process: stop it, or choose another with --data-dir", path.display())]
    Locked {
        /// The data directory.
        path: PathBuf,
    },
    /// A newer version wrote the data directory.
    #[error("the data directory {} has format {found}, this program knows up to {known}: use a newer program", path.display())]
    NewerFormat {
        /// The data directory.
        path: PathBuf,
        /// Its format version.
        found: u32,
        /// The newest this code can open.
        known: u32,
    },
    /// The directory has files in it that are not the log's.
    #[error("{} is not empty and not a Millstream data directory: choose an empty or new directory", path.display())]
    NotADataDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// A partition's directory is gone.
    #[error(
        "the directory of stream {stream}, partition {partition} is missing: restore it from a backup, or delete the stream"
    )]
    PartitionMissing {
        /// The stream.
        stream: StreamId,
        /// The partition.
        partition: PartitionId,
    },
    /// A state log or snapshot does not decode.
    #[error("{} is damaged: {reason}: restore it from a backup", path.display())]
    StateDamaged {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The partition takes no appends since the disk failed under it.
    #[error("stream {stream}, partition {partition} is read-only since {reason}: check the disk, then restart")]
    ReadOnly {
        /// The stream.
        stream: StreamId,
        /// The partition.
        partition: PartitionId,
        /// What happened then.
        reason: Arc<str>,
    },
    /// The disk failed under these appends.
    #[error("the disk failed under the append ({reason}): it may or may not be stored; look after the restart")]
    DurabilityUnknown {
        /// What happened.
        reason: Arc<str>,
    },
    /// There was no room for the batch; nothing of it is stored.
    #[error("disk full: free space or shorten the retention, then retry")]
    DiskFull,
    /// Too many appends wait on the lane.
    #[error("{waiting} appends wait for the disk: retry in a moment")]
    Throttled {
        /// The limit that was met.
        waiting: usize,
    },
    /// The process may open too few files.
    #[error("this process may open {limit} files and needs {need}: raise the limit (ulimit -n), then start again")]
    TooFewDescriptors {
        /// What is allowed.
        limit: u64,
        /// What is needed.
        need: u64,
    },
    /// No descriptor was free for a file.
    #[error("too many files are open: retry in a moment, or raise the limit (ulimit -n)")]
    OutOfDescriptors,
    /// An earlier append of the same source failed.
    #[error("an earlier batch of this partition was refused: send it again before this one")]
    Behind,
    /// The log is being closed.
    #[error("the log is being closed: retry after the restart")]
    Closed,
    /// The partition was deleted.
    #[error("the stream was deleted: look it up again by name")]
    Deleted,
    /// A position outside the log.
    #[error(
        "offset {wanted} is outside the log, which holds {log_start}..{high_watermark}: start at earliest, latest or an offset in between"
    )]
    OffsetOutOfRange {
        /// The offset asked for.
        wanted: Offset,
        /// The first offset still kept.
        log_start: Offset,
        /// The offset after the last one.
        high_watermark: Offset,
    },
    /// Stored records are damaged.
    #[error(
        "records {from}..{resume} are damaged and lost: `millstream verify` says more; reading goes on at {resume}"
    )]
    RecordsLost {
        /// The first offset lost.
        from: Offset,
        /// Where the intact rest begins.
        resume: Offset,
    },
    /// A batch the log was given cannot be stored.
    #[error("the batch cannot be stored: {0}")]
    Batch(#[from] BatchError),
    /// Offsets of a partition are used up.
    #[error("the partition's offsets are used up")]
    OffsetsExhausted,
    /// The batch's producer has a newer epoch, or its name was taken over. Nothing is stored.
    #[error(
        "producer {producer} of epoch {epoch} was fenced by a newer one: end this producer, or open it anew under another name"
    )]
    ProducerFenced {
        /// The producer.
        producer: ProducerId,
        /// The epoch in the batch.
        epoch: u32,
    },
    /// Batches of the producer before this one are missing. Nothing is stored.
    #[error(
        "producer {producer} sent sequence {found} where {expected} is next: send what is missing first, or ask for a new epoch"
    )]
    OutOfOrderSequence {
        /// The producer.
        producer: ProducerId,
        /// The sequence that is stored next.
        expected: u64,
        /// The one in the batch.
        found: u64,
    },
    /// The partition does not remember the producer, or not as far back as the batch: whether that was stored before is
    /// not known. This time nothing is stored.
    #[error(
        "producer {producer} is not remembered as far back as sequence {sequence}: whether the batch was stored is not known; read the partition to find out, then send on under a new epoch"
    )]
    UnknownProducer {
        /// The producer.
        producer: ProducerId,
        /// The sequence in the batch.
        sequence: u64,
    },
    /// The partition remembers as many dedup ids as it may. Nothing is stored.
    #[error(
        "the partition remembers {DEDUP_IDS_MAX} dedup ids, its limit: retry when older ones have left the window, or shorten it"
    )]
    DedupWindowFull,
    /// Records of the batch have dedup ids that are known: these, by rising index. Nothing is stored. If they are all of
    /// the batch's records it is a success: the next batch of its producer follows on from it.
    #[error("{} record(s) of the batch have dedup ids that are known: drop them, send the rest again", .0.len())]
    Duplicates(Arc<[Duplicate]>),
    /// Two records of one batch have the same key and dedup id, which is new. Nothing is stored.
    #[error("record {index} of the batch has the dedup id of one before it: send them in two batches")]
    TwinDedupId {
        /// The second one's index.
        index: u32,
    },
}

impl LogError {
    pub(crate) fn io(act: &'static str, path: &Path, source: io::Error) -> Self {
        if is_out_of_descriptors(&source) {
            return LogError::OutOfDescriptors;
        }
        LogError::Io { act, path: path.to_owned(), source: Arc::new(source) }
    }

    /// The error's number for clients.
    pub fn code(&self) -> Code {
        match self {
            LogError::Io { .. }
            | LogError::NotADataDirectory { .. }
            | LogError::TooFewDescriptors { .. }
            | LogError::OffsetsExhausted => Code::Internal,
            LogError::Locked { .. } | LogError::Throttled { .. } | LogError::OutOfDescriptors | LogError::Behind => {
                Code::Throttled
            }
            LogError::NewerFormat { .. } => Code::Unsupported,
            LogError::PartitionMissing { .. } | LogError::StateDamaged { .. } | LogError::RecordsLost { .. } => {
                Code::RecordsLost
            }
            LogError::ReadOnly { .. } => Code::ReadOnly,
            LogError::DurabilityUnknown { .. } => Code::DurabilityUnknown,
            LogError::DiskFull => Code::DiskFull,
            LogError::Closed => Code::ShuttingDown,
            LogError::Deleted => Code::StreamDeleted,
            LogError::OffsetOutOfRange { .. } => Code::OffsetOutOfRange,
            LogError::Batch(_) => Code::CorruptBatch,
            LogError::ProducerFenced { .. } => Code::Fenced,
            LogError::OutOfOrderSequence { .. } => Code::OutOfOrderSequence,
            LogError::UnknownProducer { .. } => Code::UnknownProducer,
            LogError::DedupWindowFull => Code::DedupWindowFull,
            LogError::Duplicates(_) => Code::Duplicates,
            LogError::TwinDedupId { .. } => Code::IllegalRecord,
        }
    }
}

/// Adds the act and the path to a system's error.
pub(crate) trait Context<T> {
    fn context(self, act: &'static str, path: &Path) -> Result<T, LogError>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, act: &'static str, path: &Path) -> Result<T, LogError> {
        self.map_err(|source| LogError::io(act, path, source))
    }
}
