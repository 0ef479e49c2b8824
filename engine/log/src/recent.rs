//! The newest batches of a partition in memory, for who waits at its end.
//!
//! Who has read everything is woken when a group has become durable. What he then reads the lane has just had in hand; without
//! this he would go by way of a thread that may wait for a disk, which takes longer than the read.
//!
//! Only what is small is kept, [`KEPT_BYTES_MAX`] of a partition, and only while somebody waits: each wait pays for the next
//! [`GROUPS_OF_A_WAIT`] groups. All others find what they want in the page cache.
//!
//! Invariants
//! - What is here is durable as its partition promises it: it is put in just before the high watermark rises to its end, and
//!   nothing above that is found.
//! - Batches are neighbours: a gap empties it first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use millstream_protocol::Offset;
use millstream_protocol::batch::HEADER_BYTES;
use parking_lot::Mutex;

use crate::segment::{BatchPlace, Segment, StampedBatch};

/// What is kept of one partition, and the largest group that is.
const KEPT_BYTES_MAX: usize = 16 << 10;
/// For how many groups a wait has them kept: who waits again before has missed none.
const GROUPS_OF_A_WAIT: u32 = 8;

/// The newest batches, if somebody wants them.
#[derive(Default)]
pub(crate) struct Recent {
    wanted: AtomicU32,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    batches: VecDeque<Batch>,
    bytes: usize,
}

struct Batch {
    offset: Offset,
    end: Offset,
    bytes: Bytes,
    segment: Arc<Segment>,
    /// Behind it in the segment's file.
    position: u64,
}

/// Batches that were found, where they lie, and what follows them.
pub(crate) struct Found {
    pub bytes: Bytes,
    pub next: Offset,
    pub segment: Arc<Segment>,
    pub position: u64,
}

/// A group's batches, copied while the journal has the group.
#[derive(Debug)]
pub(crate) struct Copies(Vec<Bytes>);

impl Recent {
    /// Somebody waits.
    pub(crate) fn want(&self) {
        self.wanted.store(GROUPS_OF_A_WAIT, Ordering::Relaxed);
    }

    /// Copies of a group that may be kept, if anybody wants them.
    pub(crate) fn copies(&self, batches: &[StampedBatch]) -> Option<Copies> {
        let wanted = self.wanted.load(Ordering::Relaxed);
        if wanted == 0 {
            return None;
        }
        // A wait that comes in between is worth more than what is subtracted.
        let _ = self.wanted.compare_exchange(wanted, wanted - 1, Ordering::Relaxed, Ordering::Relaxed);
        let bytes: usize = batches.iter().map(|stamped| stamped.batch.len()).sum();
        let copy = |stamped: &StampedBatch| [&stamped.header[..], &stamped.batch[HEADER_BYTES..]].concat().into();
        (bytes <= KEPT_BYTES_MAX).then(|| Copies(batches.iter().map(copy).collect()))
    }

    /// The group has become durable: what was copied of it is kept, and older batches go that there is no more room for.
    pub(crate) fn keep(&self, copies: Option<Copies>, places: &[BatchPlace], segment: &Arc<Segment>) {
        let Some(Copies(copies)) = copies else {
            // What is newer is not here: nobody who waits can use what is.
            return self.clear();
        };
        let mut kept = self.kept.lock();
        if kept.batches.back().is_some_and(|last| places.first().is_none_or(|place| place.offset != last.end)) {
            *kept = Kept::default();
        }
        for (bytes, place) in copies.into_iter().zip(places) {
            kept.bytes += bytes.len();
            kept.batches.push_back(Batch {
                offset: place.offset,
                end: place.end,
                bytes,
                segment: Arc::clone(segment),
                position: place.position + place.length,
            });
        }
        while kept.bytes > KEPT_BYTES_MAX
            && let Some(oldest) = kept.batches.pop_front()
        {
            kept.bytes -= oldest.bytes.len();
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        let mut kept = self.kept.lock();
        if !kept.batches.is_empty() {
            *kept = Kept::default();
        }
    }

    /// The batch that holds `from` and those behind it in the same segment, below the high watermark: at least one, else
    /// about `bytes_max`.
    pub(crate) fn find(&self, from: Offset, high_watermark: Offset, bytes_max: usize) -> Option<Found> {
        let kept = self.kept.lock();
        let holds = |batch: &Batch| batch.offset <= from && from < batch.end && batch.end <= high_watermark;
        let first = kept.batches.iter().position(holds)?;
        let mut last = &kept.batches[first];
        let mut parts = vec![last.bytes.clone()];
        let mut bytes = last.bytes.len();
        for batch in kept.batches.range(first + 1..) {
            bytes += batch.bytes.len();
            let fits = bytes <= bytes_max && batch.end <= high_watermark;
            if !fits || !Arc::ptr_eq(&batch.segment, &last.segment) {
                break;
            }
            parts.push(batch.bytes.clone());
            last = batch;
        }
        let bytes = if parts.len() == 1 { parts.remove(0) } else { parts.concat().into() };
        Some(Found { bytes, next: last.end, segment: Arc::clone(&last.segment), position: last.position })
    }
}
