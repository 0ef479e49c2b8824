//! Rebuilds a partition's tables at a start: the newest checkpoint that the log bears out, then what the log says since.

use std::sync::Arc;

use bytes::Bytes;
use millstream_protocol::batch::header::FLAG_CONTROL_HEADERS;
use millstream_protocol::batch::{BatchHeader, BatchView};
use millstream_protocol::{Incarnation, Offset, Timestamp};

use super::open::{Place, Recovered, set_aside};
use super::scan::{Scan, Step};
use crate::dedup::{DedupKey, DedupTable, First, is_within};
use crate::error::{Context, LogError};
use crate::producers::Producers;
use crate::segment::{PREAMBLE_BYTES, Segment};
use crate::storage::{Access, read_exact_at};
use crate::tables::checkpoint::file_name;
use crate::tables::{Tables, decode};

/// What is larger is no checkpoint: both tables are bounded far below this.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Loads the newest whole checkpoint that is not ahead of a log that ends at `end`; what is damaged or ahead goes into
/// quarantine, so that it cannot be taken for a checkpoint of what is appended next.
pub(super) fn load(
    place: &Place<'_>,
    mut offsets: Vec<Offset>,
    end: Offset,
    recovered: &mut Recovered,
) -> Result<Tables, LogError> {
    offsets.sort_unstable();
    while let Some(offset) = offsets.pop() {
        let reason = match read(place, offset)? {
            Some(_) if offset > end => "it is ahead of the log, whose end is lost",
            Some((producers, dedup)) => return Ok(Tables::begin(Some((offset, producers, dedup)))),
            None => "it is damaged",
        };
        tracing::error!(stream = %place.identity.stream, partition = %place.identity.partition, %offset, reason,
            "what was written down of producers and dedup ids is not used");
        set_aside(place, &file_name(offset), recovered)?;
    }
    Ok(Tables::begin(None))
}

/// `None` if it is not whole. One that cannot be read now is an error: nobody is to be forgotten for that.
fn read(place: &Place<'_>, offset: Offset) -> Result<Option<(Producers, DedupTable)>, LogError> {
    let path = place.dir.join(file_name(offset));
    let file = place.storage.open(&path, Access::Read).context("open", &path)?;
    let length = file.len().context("read", &path)?;
    if length > FILE_BYTES_MAX {
        return Ok(None);
    }
    let bytes = read_exact_at(&*file, 0, length as usize).context("read", &path)?;
    Ok(decode(&bytes, place.identity.incarnation, offset))
}

/// Adds the dedup ids that the log holds from `from` on, as far as they are within the window at `now`. Damaged batches are
/// passed over: their records are lost, and reported elsewhere.
pub(crate) fn add_dedup_ids(
    segments: &[Arc<Segment>],
    incarnation: Incarnation,
    from: Offset,
    window: (Timestamp, u64),
    tables: &mut Tables,
) -> Result<(), LogError> {
    let (now, window_ms) = window;
    tables.dedup.expire(now, window_ms);
    for segment in segments {
        let (last, position, end_position) = {
            let extent = segment.extent();
            let Some(flagged) = extent.flagged.filter(|f| f.last >= from && is_within(f.last_time, now, window_ms))
            else {
                continue;
            };
            let oldest = Timestamp(now.0.saturating_sub_unsigned(window_ms).saturating_add(1));
            let places = [extent.index.at_or_below(flagged.first.max(from)), extent.index.before(oldest)];
            let position = places.iter().flatten().map(|entry| entry.position).max().unwrap_or(PREAMBLE_BYTES);
            (flagged.last, position, extent.end_position)
        };
        let mut scan = Scan::new(&**segment.file(), incarnation, position, end_position);
        loop {
            match scan.next().context("read", segment.path())? {
                Step::Batch { header, .. } if header.base_offset > last => break,
                Step::Batch { position, header } => {
                    let is_wanted = header.flags & FLAG_CONTROL_HEADERS != 0
                        && header.base_offset >= from
                        && is_within(header.append_time, now, window_ms);
                    if is_wanted {
                        add_batch(segment, position, &header, tables).context("read", segment.path())?;
                    }
                }
                Step::End => break,
                Step::Bad { .. } => {
                    if scan.resync(Offset::ZERO).context("read", segment.path())?.is_none() {
                        break;
                    }
                }
            }
        }
    }
    Ok(())
}

fn add_batch(segment: &Segment, position: u64, header: &BatchHeader, tables: &mut Tables) -> std::io::Result<()> {
    let bytes = Bytes::from(read_exact_at(&**segment.file(), position, header.batch_len())?);
    let Ok(mut records) = BatchView::parse(&bytes).and_then(|batch| batch.records()) else { return Ok(()) };
    while let Some(Ok(record)) = records.next_ref() {
        if let Some(id) = record.dedup_id() {
            let offset = Offset(header.base_offset.0 + u64::from(record.offset_delta));
            tables.add_id(DedupKey::of(record.key, id), First { offset, append_time: header.append_time });
        }
    }
    Ok(())
}
