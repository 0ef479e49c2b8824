//! Cuts records out of a stored batch that follow one another, as a queue delivers them. Pure.
//!
//! What is cut out is a batch of its own that says the same of its records: offsets, timestamps, sequences, append time,
//! epoch. Record bytes are copied as they lie, never encoded anew: a dense batch's records do not name their offsets, so the
//! base moves; a sparse one's do, so the base stays and the batch spans more than it holds. Both checksums are the server's.
//!
//! Proof: `tests/cut.rs`.

use bytes::Bytes;

use super::header::{BatchHeader, HEADER_BYTES};
use super::sparse::seal;
use super::{BatchError, BatchView, Codec};
use crate::{Incarnation, Offset};

/// A batch, decoded once, to be cut often.
#[derive(Debug, Clone)]
pub struct Cutter {
    batch: BatchView,
    body: Bytes,
    /// Where each record begins in the body, and behind the last one its end.
    starts: Vec<u32>,
    /// The offset of each record from the base; empty where it is the record's index.
    deltas: Vec<u32>,
}

impl Cutter {
    /// Decompresses a batch and finds its records.
    ///
    /// # Errors
    /// [`BatchError`]: it does not decode.
    pub fn new(batch: &BatchView) -> Result<Self, BatchError> {
        let header = batch.header();
        let mut records = batch.records()?;
        let mut starts = Vec::with_capacity(header.record_count as usize + 1);
        let mut deltas = Vec::with_capacity(if header.sparse { header.record_count as usize } else { 0 });
        starts.push(0);
        while let Some(record) = records.next_ref() {
            let delta = record?.offset_delta;
            if header.sparse {
                deltas.push(delta);
            }
            starts.push(records.position() as u32);
        }
        Ok(Self { batch: batch.clone(), body: records.body().clone(), starts, deltas })
    }

    /// The batch as it was.
    pub fn batch(&self) -> &BatchView {
        &self.batch
    }

    /// Bytes it holds beside the batch: of what was decompressed, and of where its records lie.
    pub fn bytes_beside(&self) -> usize {
        let body = if self.batch.header().codec == Codec::None { 0 } else { self.body.len() };
        body + 4 * (self.starts.len() + self.deltas.len())
    }

    /// A batch with the records at the `count` offsets from `first` on; `None` if none lies there. All of them: the batch as
    /// it is stored.
    pub fn cut(&self, first: Offset, count: u32, incarnation: Incarnation) -> Option<Bytes> {
        let header = self.batch.header();
        let base = header.base_offset.0;
        let from = first.0.max(base) - base;
        let to = first.0.saturating_add(u64::from(count)).min(header.end_offset().0).saturating_sub(base);
        let index = |delta: u64| match header.sparse {
            true => self.deltas.partition_point(|at| u64::from(*at) < delta),
            false => delta as usize,
        };
        let (from, to) = (index(from), index(to));
        if from >= to {
            return None;
        }
        let records = self.starts.len() - 1;
        if (from, to) == (0, records) {
            return Some(self.batch.bytes().clone());
        }
        let body = &self.body[self.starts[from] as usize..self.starts[to] as usize];
        let mut part = BatchHeader {
            codec: Codec::None,
            uncompressed_len: body.len() as u32,
            record_count: (to - from) as u32,
            ..header.clone()
        };
        if !header.sparse {
            part.base_offset = Offset(base + from as u64);
            part.base_sequence = header.base_sequence.wrapping_add(from as u64);
            part.last_offset_delta = part.record_count - 1;
        }
        let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
        out.resize(HEADER_BYTES, 0);
        out.extend_from_slice(body);
        Some(seal(&part, out, incarnation))
    }
}
