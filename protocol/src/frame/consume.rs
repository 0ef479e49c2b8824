//! What precedes the batches of a Batches frame.
//!
//! ```text
//! u32 partition · u32 zero · u64 high watermark · u64 log start · batches as stored, back to back
//! ```
//! The batches are whole and of one partition; the first may begin below the position asked for (a batch is
//! never cut: the client skips to its position).

use super::{Fields, FrameError};
use crate::{Offset, PartitionId};

/// The prefix's length.
pub const BATCHES_PREFIX_BYTES: usize = 24;

/// Where the batches that follow come from, and how far the partition reached when they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchesPrefix {
    /// The partition.
    pub partition: PartitionId,
    /// The offset below which records have reached the stream's durability.
    pub high_watermark: Offset,
    /// The first offset still kept.
    pub log_start: Offset,
}

impl BatchesPrefix {
    /// The prefix's bytes.
    pub fn encode(&self) -> [u8; BATCHES_PREFIX_BYTES] {
        let mut out = [0; BATCHES_PREFIX_BYTES];
        out[0..4].copy_from_slice(&self.partition.0.to_le_bytes());
        out[8..16].copy_from_slice(&self.high_watermark.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.log_start.0.to_le_bytes());
        out
    }

    /// Decodes the front of a Batches frame's body.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Fields::new("batches", body);
        let partition = PartitionId(fields.u32()?);
        match fields.u32()? {
            0 => {}
            value => return Err(FrameError::Unknown { what: "batches field", value: value.into() }),
        }
        Ok(Self { partition, high_watermark: Offset(fields.u64()?), log_start: Offset(fields.u64()?) })
    }
}
