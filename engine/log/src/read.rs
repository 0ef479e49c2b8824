//! Ranges of the log as [`Bytes`]: the one place that meets a cold page. Every call may block on the disk.
//!
//! `pread` into pooled, page-aligned buffers: one copy out of the page cache, none after it. Maps would save that copy
//! and cost the process its life at the first bad sector. A buffer begins at the same place within a page as the range in
//! its file, because a copy between places that differ runs at a third to a half of the speed on some processors.
//!
//! A batch is found through the index, or through the place where the last read ended. Headers are checked on the way
//! (their lengths are trusted); bodies once in the life of a process, so that what rotted at rest is named here, and each
//! time by the consumer.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use millstream_protocol::batch::header::{check_body_crc, check_header_crc};
use millstream_protocol::batch::{BatchHeader, HEADER_BYTES};
use millstream_protocol::{Incarnation, Offset};
use parking_lot::Mutex;

use crate::recovery::scan::Scan;
use crate::segment::{PREAMBLE_BYTES, Segment};

const PAGE_BYTES: usize = 4_096;
/// Buffers up to this size are kept for the next read.
const POOLED_BYTES: usize = (1 << 20) + (256 << 10);
/// Buffers below this size are not worth pooling.
const SMALL_BYTES: usize = 64 << 10;
/// How many buffers wait in the pool at most.
const POOLED_COUNT_MAX: usize = 8;
/// How many readers' places are remembered for each partition.
const CURSORS_MAX: usize = 64;

/// A run of whole batches as stored.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The batches, back to back; the first one holds the offset asked for. Empty at the high watermark.
    pub bytes: Bytes,
    /// The offset after the last batch.
    pub next: Offset,
    /// The partition's high watermark when this was read.
    pub high_watermark: Offset,
    /// The partition's log start when this was read.
    pub log_start: Offset,
}

/// What a read of one segment gave.
#[derive(Debug)]
pub(crate) enum Found {
    /// Batches, and the offset and position behind the last.
    Batches { bytes: Bytes, next: Offset, position: u64 },
    /// The wanted offset is damaged; the next intact one, if this segment has one.
    Damaged { resume: Option<Offset> },
}

/// Reads from the batch that holds `from` on, about `bytes_max` bytes but at least one batch, below `end`.
pub(crate) fn read_segment(
    pool: &Arc<BufferPool>,
    segment: &Segment,
    incarnation: Incarnation,
    from: Offset,
    end: Offset,
    bytes_max: usize,
    cursor: Option<u64>,
) -> io::Result<Found> {
    let (mut position, limit) = {
        let extent = segment.extent();
        if let Some(hole) = extent.holes.iter().find(|hole| hole.from <= from && from < hole.resume) {
            return Ok(Found::Damaged { resume: Some(hole.resume) });
        }
        let indexed = extent.index.at_or_below(from).map_or(PREAMBLE_BYTES, |entry| entry.position);
        let behind_holes =
            extent.holes.iter().filter(|hole| hole.resume <= from).map(|hole| hole.resume_position).max();
        let next_hole = extent.holes.iter().find(|hole| hole.from > from).map(|hole| hole.position);
        let position = cursor.unwrap_or(indexed).max(behind_holes.unwrap_or(0));
        (position, next_hole.unwrap_or(extent.end_position))
    };
    let mut want = bytes_max.max(HEADER_BYTES);
    let mut held: Option<Buffer> = None;
    loop {
        let length = want.min((limit - position) as usize);
        let buffer = match held.take() {
            Some(buffer) => buffer,
            None => pool.read(segment, position, length)?,
        };
        let mut walk = walk(&buffer, incarnation, from, end);
        if let Walk::Batches { start, stop, .. } = walk {
            let (first, last) = (position + start as u64, position + stop as u64);
            if !segment.is_checked(first, last) {
                walk = check_bodies(&buffer, start, stop);
                if let Walk::Batches { stop, .. } = walk {
                    segment.note_checked(first, position + stop as u64);
                }
            }
        }
        match walk {
            Walk::Batches { start, stop, next } => {
                let bytes = Bytes::from_owner(buffer).slice(start..stop);
                return Ok(Found::Batches { bytes, next, position: position + stop as u64 });
            }
            Walk::Incomplete { skip, need } if position + skip as u64 + (need as u64) <= limit && need > 0 => {
                // The wanted batch is a little longer than what was asked for, as a rule: only its rest is read.
                match buffer.grown(segment, position, skip + need)? {
                    Some(grown) => held = Some(grown),
                    None => {
                        position += skip as u64;
                        want = need.max(bytes_max);
                    }
                }
            }
            Walk::Incomplete { skip, .. } | Walk::Bad { skip } => {
                // The search reads the file: what can be brought there is brought there.
                let _ = segment.write_deferred();
                let mut scan = Scan::new(&**segment.file(), incarnation, position + skip as u64, limit);
                match scan.resync(from)? {
                    // What is damaged lies before the wanted batch: read on behind it.
                    Some(header) if header.base_offset <= from => position = scan.position(),
                    found => return Ok(Found::Damaged { resume: found.map(|header| header.base_offset) }),
                }
            }
        }
    }
}

/// The offset of the first batch appended at or after `time` in a segment that has one.
pub(crate) fn find_time(
    segment: &Segment,
    incarnation: Incarnation,
    time: millstream_protocol::Timestamp,
) -> io::Result<Option<Offset>> {
    let (mut position, limit) = {
        let extent = segment.extent();
        (extent.index.before(time).map_or(PREAMBLE_BYTES, |entry| entry.position), extent.end_position)
    };
    while position < limit {
        let mut head = [0; HEADER_BYTES];
        if segment.read_at(&mut head, position)? < HEADER_BYTES {
            return Ok(None);
        }
        let header = match check_header_crc(&head, incarnation).and_then(|()| BatchHeader::decode(&head)) {
            Ok(header) => header,
            Err(_) => {
                let _ = segment.write_deferred();
                let mut scan = Scan::new(&**segment.file(), incarnation, position, limit);
                match scan.resync(Offset::ZERO)? {
                    None => return Ok(None),
                    Some(header) => {
                        position = scan.position();
                        header
                    }
                }
            }
        };
        if header.append_time >= time {
            return Ok(Some(header.base_offset));
        }
        position += header.batch_len() as u64;
    }
    Ok(None)
}

enum Walk {
    /// `start..stop` of the buffer are whole batches from the wanted one on.
    Batches { start: usize, stop: usize, next: Offset },
    /// The buffer ends inside the wanted batch, or before it; `skip` bytes of it lie before, `need` are needed.
    Incomplete { skip: usize, need: usize },
    /// What lies at `skip` is not a batch.
    Bad { skip: usize },
}

/// Checks the bodies of whole batches; ends before the first that is damaged.
fn check_bodies(buffer: &[u8], start: usize, stop: usize) -> Walk {
    let (mut at, mut found) = (start, None);
    while at < stop {
        let header = BatchHeader::decode(&buffer[at..]).expect("its checksum holds");
        let length = header.batch_len();
        if check_body_crc(&buffer[at..at + length]).is_err() {
            break;
        }
        at += length;
        found = Some(header.end_offset());
    }
    match found {
        Some(next) => Walk::Batches { start, stop: at, next },
        None => Walk::Bad { skip: start },
    }
}

fn walk(buffer: &[u8], incarnation: Incarnation, from: Offset, end: Offset) -> Walk {
    let mut at = 0;
    let mut found: Option<(usize, Offset)> = None;
    loop {
        let done = |found: Option<(usize, Offset)>, other: Walk| match found {
            Some((start, next)) => Walk::Batches { start, stop: at, next },
            None => other,
        };
        let rest = &buffer[at..];
        if rest.len() < HEADER_BYTES {
            return done(found, Walk::Incomplete { skip: at, need: HEADER_BYTES });
        }
        let header = match check_header_crc(rest, incarnation).and_then(|()| BatchHeader::decode(rest)) {
            Ok(header) => header,
            Err(_) => return done(found, Walk::Bad { skip: at }),
        };
        if header.base_offset >= end || (found.is_none() && header.base_offset > from) {
            return done(found, Walk::Bad { skip: at });
        }
        let length = header.batch_len();
        if header.end_offset() <= from {
            if length > rest.len() {
                return Walk::Incomplete { skip: at + length, need: HEADER_BYTES };
            }
        } else if length > rest.len() {
            return done(found, Walk::Incomplete { skip: at, need: length });
        } else {
            let start = found.map_or(at, |(start, _)| start);
            found = Some((start, header.end_offset()));
        }
        at += length;
    }
}

/// Where sequential readers stopped, so that the next read need not go through the index.
#[derive(Debug, Default)]
pub(crate) struct Cursors(Mutex<VecDeque<Cursor>>);

/// A place in one generation of one segment: in another one the same offset lies elsewhere.
#[derive(Debug)]
struct Cursor {
    offset: Offset,
    segment: (Offset, u32),
    position: u64,
}

impl Cursors {
    /// The position of `offset` in that segment, if a read ended there.
    pub(crate) fn take(&self, offset: Offset, segment: &Segment) -> Option<u64> {
        let segment = (segment.base(), segment.generation());
        let mut places = self.0.lock();
        let index = places.iter().position(|cursor| cursor.offset == offset && cursor.segment == segment)?;
        places.remove(index).map(|cursor| cursor.position)
    }

    /// Remembers where a read ended.
    pub(crate) fn note(&self, offset: Offset, segment: &Segment, position: u64) {
        let mut places = self.0.lock();
        if places.len() == CURSORS_MAX {
            places.pop_front();
        }
        places.push_back(Cursor { offset, segment: (segment.base(), segment.generation()), position });
    }
}

/// Buffers that wait for the next read.
#[derive(Debug, Default)]
pub(crate) struct BufferPool(Mutex<Vec<Vec<u8>>>);

impl BufferPool {
    fn read(self: &Arc<Self>, segment: &Segment, position: u64, length: usize) -> io::Result<Buffer> {
        let pooled = (SMALL_BYTES..=POOLED_BYTES).contains(&length);
        let memory = match pooled.then(|| self.0.lock().pop()).flatten() {
            Some(memory) => memory,
            None => vec![0; if pooled { POOLED_BYTES } else { length } + 2 * PAGE_BYTES],
        };
        // At the file's place within a page, so that the kernel copies whole pages to whole pages.
        let page = memory.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
        let start = page + (position % PAGE_BYTES as u64) as usize;
        let pool = if pooled { Arc::downgrade(self) } else { Weak::new() };
        // Where the memory happens to lie must not decide how often the file is read: the same reads give the same calls.
        let room_end = memory.len() - PAGE_BYTES + page;
        let mut buffer = Buffer { memory, start, length, room_end, pool };
        let read = segment.read_at(&mut buffer.memory[start..start + length], position)?;
        buffer.length = read;
        Ok(buffer)
    }
}

impl Buffer {
    /// The same with more of the file behind it, up to `length` in all; `None` if there is no room.
    fn grown(mut self, segment: &Segment, position: u64, length: usize) -> io::Result<Option<Self>> {
        let (have, end) = (self.start + self.length, self.start + length);
        if end > self.room_end {
            return Ok(None);
        }
        let read = segment.read_at(&mut self.memory[have..end], position + self.length as u64)?;
        self.length += read;
        Ok(Some(self))
    }
}

/// A buffer, aligned as the file is, that goes back to its pool.
struct Buffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
    /// How far it may grow.
    room_end: usize,
    pool: Weak<BufferPool>,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_ref()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            let mut free = pool.0.lock();
            if free.len() < POOLED_COUNT_MAX {
                free.push(std::mem::take(&mut self.memory));
            }
        }
    }
}
