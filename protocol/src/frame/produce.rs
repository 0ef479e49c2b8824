//! The produce stream's messages, decoded by hand: they are on the hot path.
//!
//! ```text
//! OpenProduce   u32 depth: batches in flight asked for (answer: granted)
//! Produce       u64 stream id · u32 partition · u32 epoch as known (0: not known) · one batch
//! ProduceAcks   u32 count; for each:
//!               u64 correlation · u8 0 stored, then u64 base offset · i64 append time
//!                                  1 refused, then a refusal
//!                                  2 duplicates, then u32 count; for each:
//!                                    u32 index in the batch · u64 offset · i64 append time of the first one
//! ```
//! Acks come in order per partition only; one frame holds all that one pass of a lane made durable.

use super::{Fields, FrameError, Refusal};
use crate::limits::PRODUCE_DEPTH_MAX;
use crate::{Epoch, Offset, PartitionId, StreamId, Timestamp};

/// What follows the frame header of a Produce frame, before the batch.
pub const PRODUCE_PREFIX_BYTES: usize = 16;

/// Opens a produce stream, and answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenProduce {
    /// Batches in flight: asked for, or granted.
    pub depth: u32,
}

impl OpenProduce {
    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.depth.to_le_bytes().to_vec()
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Fields::new("open produce", body);
        let depth = fields.u32()?;
        fields.finish().map(|()| Self { depth })
    }
}

/// Where a batch goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducePrefix {
    /// The stream, by number: a deleted stream's number is never used again.
    pub stream: StreamId,
    /// The partition.
    pub partition: PartitionId,
    /// The owner's epoch as the client knows it, 0 if it does not.
    pub epoch: Epoch,
}

impl ProducePrefix {
    /// The prefix's bytes.
    pub fn encode(&self) -> [u8; PRODUCE_PREFIX_BYTES] {
        let mut out = [0; PRODUCE_PREFIX_BYTES];
        out[0..8].copy_from_slice(&self.stream.0.to_le_bytes());
        out[8..12].copy_from_slice(&self.partition.0.to_le_bytes());
        out[12..16].copy_from_slice(&self.epoch.0.to_le_bytes());
        out
    }

    /// Decodes the front of a Produce frame's body; the batch is what follows.
    ///
    /// # Errors
    /// [`FrameError::Truncated`].
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Fields::new("produce", body);
        Ok(Self { stream: StreamId(fields.u64()?), partition: PartitionId(fields.u32()?), epoch: Epoch(fields.u32()?) })
    }
}

/// Where a batch was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// The offset of its first record.
    pub base_offset: Offset,
    /// The server's time of append.
    pub append_time: Timestamp,
}

/// A record whose dedup id was known: where the first one of that id is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duplicate {
    /// The record's index in its batch.
    pub index: u32,
    /// The offset of the first one.
    pub offset: Offset,
    /// When that was appended.
    pub append_time: Timestamp,
}

/// What became of a batch that was not refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Produced {
    /// It is stored (perhaps since it was sent before).
    Stored(Stored),
    /// Nothing of it was stored: these records, by rising index, have dedup ids that are known. If they are all of the
    /// batch, it is acknowledged. Otherwise its sequence is unused, and the client sends the rest under it.
    Duplicates(Vec<Duplicate>),
}

/// The answer to one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProduceAck {
    /// The Produce frame's correlation.
    pub correlation: u64,
    /// What became of it.
    pub result: Result<Produced, Refusal>,
}

/// The shortest ack: no duplicates.
const ACK_BYTES_MIN: usize = 8 + 1 + 4;
/// One duplicate.
pub const DUPLICATE_BYTES: usize = 4 + 8 + 8;

/// The body of a ProduceAcks frame.
pub fn encode_acks(acks: &[ProduceAck]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + acks.len() * 25);
    out.extend_from_slice(&(acks.len() as u32).to_le_bytes());
    for ack in acks {
        out.extend_from_slice(&ack.correlation.to_le_bytes());
        match &ack.result {
            Ok(Produced::Duplicates(duplicates)) => {
                out.push(2);
                out.extend_from_slice(&(duplicates.len() as u32).to_le_bytes());
                for duplicate in duplicates {
                    out.extend_from_slice(&duplicate.index.to_le_bytes());
                    out.extend_from_slice(&duplicate.offset.0.to_le_bytes());
                    out.extend_from_slice(&duplicate.append_time.0.to_le_bytes());
                }
            }
            Ok(Produced::Stored(stored)) => {
                out.push(0);
                out.extend_from_slice(&stored.base_offset.0.to_le_bytes());
                out.extend_from_slice(&stored.append_time.0.to_le_bytes());
            }
            Err(refusal) => {
                out.push(1);
                refusal.put(&mut out);
            }
        }
    }
    out
}

fn take_duplicates(fields: &mut Fields<'_>) -> Result<Vec<Duplicate>, FrameError> {
    let count = fields.u32()? as usize;
    let need = count.saturating_mul(DUPLICATE_BYTES);
    if need > fields.remaining() {
        return Err(FrameError::Truncated { what: "duplicates", need, have: fields.remaining() });
    }
    let duplicate = |fields: &mut Fields<'_>| {
        let (index, offset) = (fields.u32()?, Offset(fields.u64()?));
        Ok(Duplicate { index, offset, append_time: Timestamp(fields.u64()? as i64) })
    };
    (0..count).map(|_| duplicate(fields)).collect()
}

/// Decodes the body of a ProduceAcks frame.
///
/// # Errors
/// [`FrameError`]; the count is checked against the body's length before anything is allocated.
pub fn decode_acks(body: &[u8]) -> Result<Vec<ProduceAck>, FrameError> {
    let mut fields = Fields::new("produce acks", body);
    let count = fields.u32()? as usize;
    let need = count.saturating_mul(ACK_BYTES_MIN);
    if need > fields.remaining() {
        return Err(FrameError::Truncated { what: "produce acks", need, have: fields.remaining() });
    }
    // An ack is larger here than on the wire: what is above the depth grows with what really comes.
    let mut acks = Vec::with_capacity(count.min(PRODUCE_DEPTH_MAX as usize));
    for _ in 0..count {
        let correlation = fields.u64()?;
        let result = match fields.u8()? {
            0 => {
                let stored =
                    Stored { base_offset: Offset(fields.u64()?), append_time: Timestamp(fields.u64()? as i64) };
                Ok(Produced::Stored(stored))
            }
            2 => Ok(Produced::Duplicates(take_duplicates(&mut fields)?)),
            1 => Err(Refusal::take(&mut fields)?),
            other => return Err(FrameError::Unknown { what: "ack result", value: other.into() }),
        };
        acks.push(ProduceAck { correlation, result });
    }
    fields.finish().map(|()| acks)
}
