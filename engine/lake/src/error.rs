//! What can go wrong with a lake: who is to blame, and what to do.

use std::time::Duration;

use millstream_log::LogError;
use millstream_protocol::frame::Refusal;
use millstream_protocol::{Code, Offset, PartitionId};

/// An error of a lake. Its `Display` says what happened, with the values, then what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LakeError {
    /// The URL does not say where to land.
    #[error("the lake's URL {url:?} cannot be used: {reason}")]
    IllegalUrl {
        /// The URL as given.
        url: String,
        /// What is wrong, and what is right.
        reason: String,
    },
    /// A setting outside its range.
    #[error("{what} is {value}, allowed are {min} to {max}")]
    IllegalSetting {
        /// The setting.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The smallest legal value.
        min: u64,
        /// The largest legal value.
        max: u64,
    },
    /// A layout, schema or combination of settings that cannot be.
    #[error("{0}")]
    IllegalConfig(String),
    /// The place exists but a lake cannot be written there.
    #[error("the lake {url} cannot be written: {reason}")]
    Unwritable {
        /// The lake's URL.
        url: String,
        /// Why.
        reason: String,
    },
    /// The store does not answer, or refuses for now.
    #[error("the lake's store {url} is not available: {reason}")]
    Unavailable {
        /// The lake's URL.
        url: String,
        /// Why.
        reason: String,
    },
    /// The place of a file is taken by an object that this lake did not put.
    #[error(
        "the object {object} is not this lake's ({reason}): another lake writes there, or an earlier one did; \
         give each lake a directory of its own. This lake has stopped and overwrites nothing"
    )]
    Foreign {
        /// The object's path in the store.
        object: String,
        /// What it holds instead.
        reason: String,
    },
    /// Another writer with the same past has gone on.
    #[error(
        "the lake is fenced at {object}: {reason}. Stop one of the two servers; this lake has stopped and put nothing that \
         the other one did not"
    )]
    Fenced {
        /// The manifest entry at which they met.
        object: String,
        /// Who has it.
        reason: String,
    },
    /// The log ends below what has landed: it lost records that are in files.
    #[error(
        "partition {partition} ends at {high_watermark}, but the lake has landed up to {landed_end}: the log lost its \
         tail. Records that take these offsets again would not land; remove the lake, and add it with a new directory"
    )]
    LogTruncated {
        /// The partition.
        partition: PartitionId,
        /// The log's end.
        high_watermark: Offset,
        /// The lake's position.
        landed_end: Offset,
    },
    /// What the lake wrote into a partition's state does not decode, or belongs to another partition.
    #[error("the lake's state in partition {partition} cannot be used: {reason}")]
    State {
        /// The partition.
        partition: PartitionId,
        /// Why.
        reason: String,
    },
    /// The time of a flush was up.
    #[error("not all had landed after {:.1} s: {progress}", waited.as_secs_f64())]
    TimedOut {
        /// How long the flush waited.
        waited: Duration,
        /// How far the lake is.
        progress: String,
    },
    /// The log could not be read or its state not written.
    #[error("{0}")]
    Log(#[from] LogError),
    /// The lake is being stopped.
    #[error("the lake is being stopped: retry after the restart")]
    Stopped,
    /// A bug: the lake has stopped rather than land something wrong.
    #[error("the lake has stopped because of a bug: {0}")]
    Bug(String),
}

impl LakeError {
    /// The error's number for clients.
    pub fn code(&self) -> Code {
        match self {
            LakeError::IllegalUrl { .. }
            | LakeError::IllegalSetting { .. }
            | LakeError::IllegalConfig(_)
            | LakeError::Fenced { .. }
            | LakeError::Unwritable { .. }
            | LakeError::Foreign { .. } => Code::IllegalLake,
            LakeError::Unavailable { .. } => Code::LakeUnavailable,
            LakeError::LogTruncated { .. } => Code::LogTruncated,
            LakeError::TimedOut { .. } => Code::TimedOut,
            LakeError::Log(error) => error.code(),
            LakeError::Stopped => Code::ShuttingDown,
            LakeError::State { .. } | LakeError::Bug(_) => Code::Internal,
        }
    }

    /// The error as a client sees it.
    pub fn refusal(&self) -> Refusal {
        Refusal::new(self.code(), self.to_string())
    }
}
