//! Takes records out of a stored batch, as compaction does. Pure.
//!
//! What comes out says the same of everything that stays: base offset, offsets spanned, producer, epoch and sequence of
//! each record, append time, partition epoch, `synced_end`, flags and first timestamp (what the records' timestamps are
//! told against) are the batch's; each record keeps its bytes, its offset and its timestamp. `max timestamp` is that of
//! what stays. Both checksums are the server's from now on.
//!
//! Invariants
//! - The batches that come out span the offsets, and with them the sequences, of the batch that went in: no gap, no
//!   overlap. A batch of which nothing stays comes out empty.
//! - Records of two batches never share one. The other way round happens: with an offset to each record a batch may grow
//!   beyond the limit although records are gone, and is then cut in two.
//! - Empty neighbours may become one ([`join_empty`]), if that one says the same of every offset and sequence.
//!
//! Not here: which records stay (`compaction` in the log). Proof: `tests/sparse.rs`.

use std::ops::RangeInclusive;

use bytes::Bytes;
use crc32fast::Hasher;

use super::header::{BatchHeader, HEADER_BYTES, Stamp, set_body_crc, stamp};
use super::record::{self, RecordRef};
use super::{BatchError, BatchView, Codec, Records};
use crate::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, BATCH_UNCOMPRESSED_BYTES_MAX};
use crate::{Incarnation, Offset};

/// A header and a body that may stand uncompressed.
const PART_BYTES_MAX: usize = if BATCH_BYTES_MAX < HEADER_BYTES + BATCH_UNCOMPRESSED_BYTES_MAX {
    BATCH_BYTES_MAX
} else {
    HEADER_BYTES + BATCH_UNCOMPRESSED_BYTES_MAX
};

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thinned {
    /// Every record stays: it is as it was.
    Unchanged,
    /// What takes its place, stamped: one batch, or a few where one would be too large.
    Batches(Vec<Bytes>),
}

/// Takes those records out of a stored batch that `keep` does not want; it is asked once for each, in order.
///
/// # Errors
/// The batch does not decode. [`BatchError::OutOfRange`] if a record alone is above the limits, which no batch within
/// them holds.
pub fn thin(
    batch: &BatchView,
    incarnation: Incarnation,
    mut keep: impl FnMut(Offset, &RecordRef<'_>) -> bool,
) -> Result<Thinned, BatchError> {
    let header = batch.header();
    let records = batch.records()?;
    let mut kept = Vec::with_capacity(header.record_count as usize);
    let mut walk = records.clone();
    while let Some(record) = walk.next_ref() {
        let record = record?;
        if keep(at(header, record.offset_delta), &record) {
            kept.push(record.offset_delta);
        }
    }
    if kept.len() == header.record_count as usize {
        return Ok(Thinned::Unchanged);
    }
    let mut batches = Vec::with_capacity(1);
    encode(header, &records, 0..=header.last_offset_delta, &kept, incarnation, &mut batches)?;
    Ok(Thinned::Batches(batches))
}

/// An empty batch that says of the offsets, sequences and times of two neighbours what they say; `None` if one batch cannot.
pub fn join_empty(first: &BatchHeader, second: &BatchHeader, incarnation: Incarnation) -> Option<Bytes> {
    let is_empty = |header: &BatchHeader| header.sparse && header.record_count == 0;
    let spanned = u64::from(first.last_offset_delta) + 1;
    let last_offset_delta = u32::try_from(spanned + u64::from(second.last_offset_delta)).ok()?;
    let follows = first.end_offset() == second.base_offset;
    // Without idempotence a sequence says nothing.
    let same_producer = first.producer_id == second.producer_id
        && first.producer_epoch == second.producer_epoch
        && (first.producer_id.0 == 0 || first.base_sequence.checked_add(spanned) == Some(second.base_sequence));
    let alike = first.epoch == second.epoch && first.flags == second.flags;
    if !(is_empty(first) && is_empty(second) && follows && same_producer && alike)
        || last_offset_delta >= BATCH_RECORDS_MAX
    {
        return None;
    }
    let joined = BatchHeader {
        uncompressed_len: 0,
        codec: Codec::None,
        last_offset_delta,
        // As if it had been appended with the second: times do not go back, and nothing is in it to be found too late.
        append_time: second.append_time,
        synced_end: first.synced_end.max(second.synced_end),
        max_timestamp: first.max_timestamp.max(second.max_timestamp),
        ..first.clone()
    };
    Some(seal(&joined, vec![0; HEADER_BYTES], incarnation))
}

/// Encodes the part of a batch that spans `span`, with the records at `kept`; in two halves if it would be too large.
fn encode(
    header: &BatchHeader,
    records: &Records,
    span: RangeInclusive<u32>,
    kept: &[u32],
    incarnation: Incarnation,
    batches: &mut Vec<Bytes>,
) -> Result<(), BatchError> {
    let first = *span.start();
    let mut part = BatchHeader {
        sparse: true,
        base_offset: at(header, first),
        base_sequence: header.base_sequence.wrapping_add(u64::from(first)),
        last_offset_delta: span.end() - first,
        record_count: kept.len() as u32,
        max_timestamp: header.first_timestamp,
        ..header.clone()
    };
    let mut out = vec![0; HEADER_BYTES];
    let (mut walk, mut wanted) = (records.clone(), kept.iter().peekable());
    while let Some(next) = wanted.peek().copied() {
        let Some(record) = walk.next_ref() else { break };
        let record = record?;
        if record.offset_delta != *next {
            continue;
        }
        let is_first = *next == kept[0];
        record::encode_sparse(&record, header.first_timestamp, record.offset_delta - first, &mut out)?;
        part.max_timestamp = if is_first { record.timestamp } else { part.max_timestamp.max(record.timestamp) };
        wanted.next();
        if out.len() > PART_BYTES_MAX {
            break;
        }
    }
    if wanted.peek().is_none() && out.len() <= PART_BYTES_MAX {
        part.uncompressed_len = (out.len() - HEADER_BYTES) as u32;
        let packed = header.codec.compress(&out[HEADER_BYTES..]);
        part.codec = if packed.is_some() { header.codec } else { Codec::None };
        if let Some(packed) = packed {
            out.truncate(HEADER_BYTES);
            out.extend_from_slice(&packed);
        }
        batches.push(seal(&part, out, incarnation));
        return Ok(());
    }
    let half = kept.len() / 2;
    if half == 0 {
        let (value, max) = (out.len() as u64, PART_BYTES_MAX as u64);
        return Err(BatchError::OutOfRange { what: "batch length", value, min: 0, max });
    }
    encode(header, records, first..=kept[half] - 1, &kept[..half], incarnation, batches)?;
    encode(header, records, kept[half]..=*span.end(), &kept[half..], incarnation, batches)
}

/// Writes the header and both checksums in front of the body that stands in `out`.
pub(super) fn seal(header: &BatchHeader, mut out: Vec<u8>, incarnation: Incarnation) -> Bytes {
    let header = BatchHeader { body_len: (out.len() - HEADER_BYTES) as u32, ..header.clone() };
    let mut encoded = header.encode_unstamped();
    let mut body = Hasher::new();
    body.update(&out[HEADER_BYTES..]);
    set_body_crc(&mut encoded, &body);
    header.mark_sparse(&mut encoded);
    let BatchHeader { base_offset, append_time, epoch, synced_end, .. } = header;
    stamp(&mut encoded, &Stamp { base_offset, append_time, epoch, synced_end }, incarnation);
    out[..HEADER_BYTES].copy_from_slice(&encoded);
    out.into()
}

fn at(header: &BatchHeader, delta: u32) -> Offset {
    Offset(header.base_offset.0 + u64::from(delta))
}
