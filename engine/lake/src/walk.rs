//! Walks over a partition's records, once for scanning and once more for building, with the same eyes.
//!
//! What the log cannot give is *skipped visibly*: the visitor is told the range and the reason, and the walk goes on behind
//! it. It never stops for good at damage, and never passes over it in silence.

use std::ops::ControlFlow;

use bytes::Bytes;
use millstream_log::LogError;
use millstream_protocol::batch::{BatchHeader, BatchView, RecordRef};
use millstream_protocol::{Offset, Timestamp};

use crate::Source;

/// How much is read from the log at once.
const CHUNK_BYTES: usize = 1 << 20;

/// What a visitor is shown, in the order of the offsets.
pub enum Item<'a> {
    /// A record.
    Record {
        /// Its offset.
        offset: Offset,
        /// When its batch was appended.
        appended: Timestamp,
        /// The record.
        record: RecordRef<'a>,
    },
    /// A batch whose records cannot be decoded, at least from `first` on. It has `records` of them.
    Broken {
        /// The first offset concerned.
        first: Offset,
        /// The offset after the last one.
        end: Offset,
        /// When it was appended.
        appended: Timestamp,
        /// What is wrong with it.
        reason: String,
        /// The batch as stored.
        batch: Bytes,
    },
    /// Offsets that are not in the log.
    Lost {
        /// The first offset missing.
        first: Offset,
        /// The offset after the last one missing.
        end: Offset,
        /// Why.
        reason: String,
    },
    /// A batch, or a gap, is complete: a file may end here.
    Boundary {
        /// The next offset.
        next: Offset,
    },
}

/// Shows `visit` what lies in `from..end` of one chunk, and returns where the next chunk begins. The visitor may break off at
/// a boundary.
pub fn walk_chunk(
    source: &dyn Source,
    from: Offset,
    end: Offset,
    visit: &mut dyn FnMut(Item<'_>) -> ControlFlow<()>,
) -> Result<Offset, LogError> {
    debug_assert!(from < end);
    let chunk = match source.read(from, CHUNK_BYTES) {
        Ok(chunk) => chunk,
        Err(LogError::RecordsLost { from: lost, resume }) => {
            let reason = format!("records {lost}..{resume} are damaged and lost");
            return Ok(lose(from, resume, end, reason, visit));
        }
        Err(LogError::OffsetOutOfRange { log_start, .. }) if log_start > from => {
            let reason = format!("the log begins at {log_start}: retention or a deletion was faster than the lake");
            return Ok(lose(from, log_start, end, reason, visit));
        }
        Err(error) => return Err(error),
    };
    let mut bytes = chunk.bytes;
    let mut position = from;
    while !bytes.is_empty() && position < end {
        let before = bytes.clone();
        let batch = match BatchView::split_stored(&mut bytes, source.incarnation()) {
            Ok(batch) => batch,
            Err(error) => {
                // The log checks what it reads, so this is a disagreement between two checks; where the batch ends
                // can no longer be trusted, so all of the chunk's rest is skipped.
                let resume = chunk.next.max(position.next());
                return Ok(lose(position, resume, end, format!("a stored batch does not decode: {error}"), visit));
            }
        };
        let batch_end = end_of(batch.header());
        if batch_end <= position {
            continue;
        }
        let base = batch.header().base_offset;
        if base > position {
            let reason = format!("the log holds nothing between {position} and {base}");
            position = lose(position, base, end, reason, visit);
            if position >= end {
                break;
            }
        }
        let stored = before.slice(..batch.bytes().len());
        walk_batch(&batch, &stored, position, end, visit);
        position = batch_end.min(end);
        if visit(Item::Boundary { next: position }).is_break() {
            break;
        }
    }
    // A read that brings nothing on would be repeated for ever: it counts as a failure.
    if position == from {
        Err(LogError::OffsetOutOfRange {
            wanted: from,
            log_start: chunk.log_start,
            high_watermark: chunk.high_watermark,
        })
    } else {
        Ok(position)
    }
}

fn end_of(header: &BatchHeader) -> Offset {
    Offset(header.base_offset.0.saturating_add(u64::from(header.last_offset_delta)).saturating_add(1))
}

fn lose(
    from: Offset,
    resume: Offset,
    end: Offset,
    reason: String,
    visit: &mut dyn FnMut(Item<'_>) -> ControlFlow<()>,
) -> Offset {
    let next = resume.min(end).max(from.next());
    let _ = visit(Item::Lost { first: from, end: next, reason });
    let _ = visit(Item::Boundary { next });
    next
}

/// Shows the records of a batch that lie in `from..end`.
fn walk_batch(
    batch: &BatchView,
    stored: &Bytes,
    from: Offset,
    end: Offset,
    visit: &mut dyn FnMut(Item<'_>) -> ControlFlow<()>,
) {
    let header = batch.header();
    let appended = header.append_time;
    let mut position = header.base_offset.max(from);
    let broken = |position: Offset, reason: String, visit: &mut dyn FnMut(Item<'_>) -> ControlFlow<()>| {
        let end = end_of(header).min(end);
        if position < end {
            let _ = visit(Item::Broken { first: position, end, appended, reason, batch: stored.clone() });
        }
    };
    let mut records = match batch.records() {
        Ok(records) => records,
        Err(error) => return broken(position, error.to_string(), visit),
    };
    while let Some(result) = records.next_ref() {
        match result {
            Ok(record) => {
                let offset = Offset(header.base_offset.0 + u64::from(record.offset_delta));
                if offset >= end {
                    return;
                }
                if offset >= from {
                    let _ = visit(Item::Record { offset, appended, record });
                    position = offset.next();
                }
            }
            Err(error) => return broken(position, error.to_string(), visit),
        }
    }
}
