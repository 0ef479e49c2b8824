//! A sparse index: offset → position, append time → position. A cache, never the truth.
//!
//! In memory for every segment, and beside it as `{base}.{generation}.index`, so that a start need not read what it
//! covers: of a sealed segment all, of the active one what was synced when it was written. It is written only after
//! the segment's sync. One that is missing or fails its checksum is built anew from the log.
//!
//! ```text
//!  at  size  field
//!   0     8  magic "MSTRIDX1"
//!   8     8  incarnation id        16  8  base offset          24  4  generation
//!  28     4  entry count           32  8  end position         40  8  end offset
//!  48     8  last append time      56  8  greatest synced_end  64  4  epoch count
//!  68     4  CRC-32 of the whole file with this field as zero
//!  72        entries: u64 offset, u64 position, i64 append time
//!            epochs:  u32 epoch, u64 first offset
//! ```

use std::io::{self, IoSlice};
use std::path::Path;

use millstream_protocol::{Epoch, Incarnation, Offset, Timestamp};

use crate::little_endian::{u32_at, u64_at};
use crate::segment::Extent;
use crate::storage::{Access, Storage, read_exact_at};

const MAGIC: &[u8; 8] = b"MSTRIDX1";
const HEADER_BYTES: usize = 72;
const ENTRY_BYTES: usize = 24;
const EPOCH_BYTES: usize = 12;
const CRC: usize = 68;

/// One batch's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// Its base offset.
    pub offset: Offset,
    /// Its position in the file.
    pub position: u64,
    /// Its append time.
    pub append_time: Timestamp,
}

/// The places of some batches, at least one in each `interval` bytes that holds any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    interval: u64,
    entries: Vec<IndexEntry>,
}

impl Index {
    /// An empty index.
    pub fn new(interval: u64) -> Self {
        Self { interval, entries: Vec::new() }
    }

    /// Notes the batch at `position` if the last entry is far enough behind.
    pub fn note(&mut self, offset: Offset, position: u64, append_time: Timestamp) {
        if self.entries.last().is_none_or(|last| position - last.position >= self.interval) {
            self.entries.push(IndexEntry { offset, position, append_time });
        }
    }

    /// The last entry at or below `offset`.
    pub fn at_or_below(&self, offset: Offset) -> Option<IndexEntry> {
        let after = self.entries.partition_point(|entry| entry.offset <= offset);
        after.checked_sub(1).map(|index| self.entries[index])
    }

    /// The last entry appended before `time`: the first batch at or after it is not before this one.
    pub fn before(&self, time: Timestamp) -> Option<IndexEntry> {
        let after = self.entries.partition_point(|entry| entry.append_time < time);
        after.checked_sub(1).map(|index| self.entries[index])
    }
}

/// The index file's bytes.
pub fn encode(extent: &Extent, incarnation: Incarnation, base: Offset, generation: u32) -> Vec<u8> {
    let entries = &extent.index.entries;
    let mut out = Vec::with_capacity(HEADER_BYTES + entries.len() * ENTRY_BYTES + extent.epochs.len() * EPOCH_BYTES);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&incarnation.0.to_le_bytes());
    out.extend_from_slice(&base.0.to_le_bytes());
    out.extend_from_slice(&generation.to_le_bytes());
    out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    out.extend_from_slice(&extent.end_position.to_le_bytes());
    out.extend_from_slice(&extent.end.0.to_le_bytes());
    out.extend_from_slice(&extent.last_append_time.0.to_le_bytes());
    out.extend_from_slice(&extent.synced_end.0.to_le_bytes());
    out.extend_from_slice(&(extent.epochs.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for entry in entries {
        out.extend_from_slice(&entry.offset.0.to_le_bytes());
        out.extend_from_slice(&entry.position.to_le_bytes());
        out.extend_from_slice(&entry.append_time.0.to_le_bytes());
    }
    for (epoch, offset) in &extent.epochs {
        out.extend_from_slice(&epoch.0.to_le_bytes());
        out.extend_from_slice(&offset.0.to_le_bytes());
    }
    let crc = crc32fast::hash(&out);
    out[CRC..CRC + 4].copy_from_slice(&crc.to_le_bytes());
    out
}

/// An index file larger than this is not one of ours.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// The index of a segment that reaches further is synced: without it a start would have to read all that.
const SYNC_FROM_BYTES: u64 = 4 << 20;

/// Writes an index file whole or not at all, in place of the one that is there.
///
/// # Errors
/// The system's.
pub fn write(
    storage: &dyn Storage,
    path: &Path,
    extent: &Extent,
    incarnation: Incarnation,
    base: Offset,
    generation: u32,
) -> io::Result<()> {
    let temporary = path.with_extension("index.tmp");
    match storage.remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = storage.create(&temporary)?;
    file.write_all_at(&[IoSlice::new(&encode(extent, incarnation, base, generation))], 0)?;
    if extent.end_position >= SYNC_FROM_BYTES {
        file.sync_data()?;
    }
    storage.rename(&temporary, path)
}

/// Reads a segment's index file; `None` if there is none or it is not whole.
pub fn read(
    storage: &dyn Storage,
    path: &Path,
    incarnation: Incarnation,
    base: Offset,
    generation: u32,
    interval: u64,
) -> Option<Extent> {
    let file = storage.open(path, Access::Read).ok()?;
    let length = file.len().ok().filter(|length| *length <= FILE_BYTES_MAX)?;
    let bytes = read_exact_at(&*file, 0, length as usize).ok()?;
    decode(&bytes, incarnation, base, generation, interval)
}

/// Reads an index file back; `None` if it is damaged or another segment's.
pub fn decode(bytes: &[u8], incarnation: Incarnation, base: Offset, generation: u32, interval: u64) -> Option<Extent> {
    let (u32_at, u64_at) = (|at| u32_at(bytes, at), |at| u64_at(bytes, at));
    if bytes.len() < HEADER_BYTES || &bytes[..8] != MAGIC {
        return None;
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..CRC]);
    hasher.update(&[0; 4]);
    hasher.update(&bytes[CRC + 4..]);
    if u32_at(CRC)? != hasher.finalize()
        || u64_at(8)? != incarnation.0
        || u64_at(16)? != base.0
        || u32_at(24)? != generation
    {
        return None;
    }
    let (entry_count, epoch_count) = (u32_at(28)? as usize, u32_at(64)? as usize);
    let length = HEADER_BYTES + entry_count.checked_mul(ENTRY_BYTES)? + epoch_count.checked_mul(EPOCH_BYTES)?;
    if bytes.len() != length {
        return None;
    }
    let (entries, epochs) = bytes[HEADER_BYTES..].split_at(entry_count * ENTRY_BYTES);
    let number = |bytes: &[u8], at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().expect("chunks are whole"));
    let entries = entries.chunks_exact(ENTRY_BYTES).map(|entry| IndexEntry {
        offset: Offset(number(entry, 0)),
        position: number(entry, 8),
        append_time: Timestamp(number(entry, 16) as i64),
    });
    let epochs = epochs.chunks_exact(EPOCH_BYTES).map(|entry| {
        let epoch = u32::from_le_bytes(*entry.first_chunk().expect("chunks are whole"));
        (Epoch(epoch), Offset(number(entry, 4)))
    });
    Some(Extent {
        end: Offset(u64_at(40)?),
        end_position: u64_at(32)?,
        last_append_time: Timestamp(u64_at(48)? as i64),
        synced_end: Offset(u64_at(56)?),
        epochs: epochs.collect(),
        index: Index { interval, entries: entries.collect() },
        holes: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::BatchPlace;

    fn extent() -> Extent {
        let mut extent = Extent::empty(Offset(100), 1_000);
        let mut position = extent.end_position;
        for i in 0..50u64 {
            let (offset, time) = (Offset(100 + 10 * i), Timestamp(5_000 + 3 * i as i64));
            let epoch = Epoch(if i < 20 { 1 } else { 4 });
            extent.add(&BatchPlace {
                offset,
                end: Offset(offset.0 + 10),
                position,
                length: 300,
                append_time: time,
                epoch,
                synced_end: Offset(offset.0 - 7),
            });
            position += 300;
        }
        extent
    }

    #[test]
    fn an_entry_at_or_below_is_never_far_away() {
        let extent = extent();
        assert_eq!(extent.index.at_or_below(Offset(99)), None);
        for offset in 100..600u64 {
            let entry = extent.index.at_or_below(Offset(offset)).unwrap();
            assert!(entry.offset.0 <= offset);
            let batch = (offset - 100) / 10;
            assert!(64 + batch * 300 - entry.position <= 1_000);
        }
        assert_eq!(extent.index.before(Timestamp(5_000)), None);
        assert!(extent.index.before(Timestamp(5_100)).unwrap().append_time < Timestamp(5_100));
    }

    #[test]
    fn the_file_comes_back_and_any_flipped_bit_or_cut_is_noticed() {
        let extent = extent();
        let bytes = encode(&extent, Incarnation(9), Offset(100), 0);
        let back = decode(&bytes, Incarnation(9), Offset(100), 0, 1_000).unwrap();
        assert_eq!((back.end, back.index, back.epochs), (extent.end, extent.index.clone(), extent.epochs.clone()));
        assert_eq!(back.end_position, extent.end_position);
        assert_eq!(back.synced_end, extent.synced_end);
        let read = |bytes: &[u8]| decode(bytes, Incarnation(9), Offset(100), 0, 1_000);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&flipped).is_none(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_none());
        }
        assert!(decode(&bytes, Incarnation(8), Offset(100), 0, 1_000).is_none());
        assert!(decode(&bytes, Incarnation(9), Offset(100), 1, 1_000).is_none());
    }
}
