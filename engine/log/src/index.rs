//! A sparse index: offset → position, append time → position. A cache, never the truth.
//!
//! In memory for every segment, and beside it as `{base}.{generation}.index`, so that a start need not read what it
//! covers: of a sealed segment all, of the active one what was synced when it was written. It is written only after
//! the segment's sync. One that is missing or fails its checksum is built anew from the log.
//!
//! ```text
//!  at  size  field
//!   0     8  magic "MSTRIDX2"
//!   8     8  incarnation id        16  8  base offset          24  4  generation
//!  28     4  entry count           32  8  end position         40  8  end offset
//!  48     8  last append time      56  8  greatest synced_end  64  4  epoch count
//!  68     4  CRC-32 of all but the producers' part, with this field as zero
//!  72     8  first flagged offset  80     8  last one              88  8  its append time (first > last: none)
//!  96     4  length of the producers' part                        100  4  its CRC-32
//! 104        entries: u64 offset, u64 position, i64 append time
//!            epochs:  u32 epoch, u64 first offset
//!            producers: the segment's summary, see `producers`; no bytes if there are none
//! ```
//! The producers' part has its own checksum because of most segments it is never read: a checkpoint knows more.

use std::io::{self, IoSlice};
use std::path::Path;

use millstream_protocol::{Epoch, Incarnation, Offset, Timestamp};

use crate::little_endian::{u32_at, u64_at};
use crate::producers::Producers;
use crate::segment::{Extent, Flagged};
use crate::storage::{Access, Storage, read_exact_at};

const MAGIC: &[u8; 8] = b"MSTRIDX2";
const HEADER_BYTES: usize = 104;
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

/// Whose index it is: incarnation, base offset and generation.
pub(crate) type Whose = (Incarnation, Offset, u32);

/// The index file's bytes.
pub(crate) fn encode(extent: &Extent, producers: &Producers, whose: Whose) -> Vec<u8> {
    let (incarnation, base, generation) = whose;
    let entries = &extent.index.entries;
    let mut summary = Vec::new();
    if !producers.is_blank() {
        producers.encode(&mut summary);
    }
    let length = HEADER_BYTES + entries.len() * ENTRY_BYTES + extent.epochs.len() * EPOCH_BYTES + summary.len();
    let none = Flagged { first: Offset(u64::MAX), last: Offset::ZERO, last_time: Timestamp(0) };
    let flagged = extent.flagged.unwrap_or(none);
    let mut out = Vec::with_capacity(length);
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
    out.extend_from_slice(&flagged.first.0.to_le_bytes());
    out.extend_from_slice(&flagged.last.0.to_le_bytes());
    out.extend_from_slice(&flagged.last_time.0.to_le_bytes());
    out.extend_from_slice(&(summary.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&summary).to_le_bytes());
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
    out.extend_from_slice(&summary);
    out
}

/// An index file larger than this is not one of ours.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// The index of a segment that reaches further is synced: without it a start would have to read all that.
const SYNC_FROM_BYTES: u64 = 4 << 20;
/// A file up to this is read at once, whatever is wanted of it.
const READ_WHOLE_BYTES: u64 = 64 << 10;

/// Writes an index file whole or not at all, in place of the one that is there.
///
/// # Errors
/// The system's.
pub(crate) fn write(
    storage: &dyn Storage,
    path: &Path,
    extent: &Extent,
    producers: &Producers,
    whose: Whose,
) -> io::Result<()> {
    let temporary = path.with_extension("index.tmp");
    match storage.remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = storage.create(&temporary)?;
    file.write_all_at(&[IoSlice::new(&encode(extent, producers, whose))], 0)?;
    if extent.end_position >= SYNC_FROM_BYTES {
        file.sync_data()?;
    }
    storage.rename(&temporary, path)
}

/// What of an index is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All.
    All,
    /// All but the producers.
    Extent,
}

/// Reads a segment's index file; `None` if there is none or what is wanted of it is not whole. Without the producers they
/// are blank.
pub(crate) fn read(
    storage: &dyn Storage,
    path: &Path,
    whose: Whose,
    interval: u64,
    wanted: Wanted,
) -> Option<(Extent, Producers)> {
    let file = storage.open(path, Access::Read).ok()?;
    let length = file.len().ok().filter(|length| *length <= FILE_BYTES_MAX)?;
    let read = match wanted {
        Wanted::Extent if length > READ_WHOLE_BYTES => {
            let head = read_exact_at(&*file, 0, HEADER_BYTES).ok()?;
            length.checked_sub(u32_at(&head, 96)?.into())?
        }
        _ => length,
    };
    decode(&read_exact_at(&*file, 0, read as usize).ok()?, whose, interval, wanted)
}

/// Reads an index file back; `None` if it is damaged or another segment's.
pub(crate) fn decode(bytes: &[u8], whose: Whose, interval: u64, wanted: Wanted) -> Option<(Extent, Producers)> {
    let (incarnation, base, generation) = whose;
    let (u32_at, u64_at) = (|at| u32_at(bytes, at), |at| u64_at(bytes, at));
    if bytes.len() < HEADER_BYTES || &bytes[..8] != MAGIC {
        return None;
    }
    let (entry_count, epoch_count) = (u32_at(28)? as usize, u32_at(64)? as usize);
    let length = HEADER_BYTES
        .checked_add(entry_count.checked_mul(ENTRY_BYTES)?)?
        .checked_add(epoch_count.checked_mul(EPOCH_BYTES)?)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..CRC]);
    hasher.update(&[0; 4]);
    hasher.update(bytes.get(CRC + 4..length)?);
    if u32_at(CRC)? != hasher.finalize()
        || u64_at(8)? != incarnation.0
        || u64_at(16)? != base.0
        || u32_at(24)? != generation
    {
        return None;
    }
    let producers = match wanted {
        Wanted::Extent => Producers::default(),
        Wanted::All => {
            let summary = &bytes[length..];
            if summary.len() != u32_at(96)? as usize || crc32fast::hash(summary) != u32_at(100)? {
                return None;
            }
            if summary.is_empty() { Producers::default() } else { Producers::decode(summary)? }
        }
    };
    let (entries, epochs) = bytes[HEADER_BYTES..length].split_at(entry_count * ENTRY_BYTES);
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
    let flagged =
        Flagged { first: Offset(u64_at(72)?), last: Offset(u64_at(80)?), last_time: Timestamp(u64_at(88)? as i64) };
    let extent = Extent {
        end: Offset(u64_at(40)?),
        end_position: u64_at(32)?,
        last_append_time: Timestamp(u64_at(48)? as i64),
        synced_end: Offset(u64_at(56)?),
        epochs: epochs.collect(),
        flagged: (flagged.first <= flagged.last).then_some(flagged),
        index: Index { interval, entries: entries.collect() },
        holes: Vec::new(),
    };
    Some((extent, producers))
}

#[cfg(test)]
mod tests {
    use millstream_protocol::ProducerId;

    use super::*;
    use crate::segment::BatchPlace;

    const WHOSE: Whose = (Incarnation(9), Offset(100), 0);

    fn extent() -> (Extent, Producers) {
        let mut extent = Extent::empty(Offset(100), 1_000);
        let mut producers = Producers::default();
        let mut position = extent.end_position;
        for i in 0..50u64 {
            let (offset, time) = (Offset(100 + 10 * i), Timestamp(5_000 + 3 * i as i64));
            let epoch = Epoch(if i < 20 { 1 } else { 4 });
            let place = BatchPlace {
                offset,
                end: Offset(offset.0 + 10),
                position,
                length: 300,
                append_time: time,
                epoch,
                synced_end: Offset(offset.0 - 7),
                producer: ProducerId(1 + i % 3),
                producer_epoch: 2,
                base_sequence: i / 3 * 10,
                is_flagged: (10..12).contains(&i),
            };
            extent.add(&place);
            producers.note(&place.sequenced().unwrap());
            position += 300;
        }
        (extent, producers)
    }

    #[test]
    fn an_entry_at_or_below_is_never_far_away() {
        let (extent, _) = extent();
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
        let (extent, producers) = extent();
        let bytes = encode(&extent, &producers, WHOSE);
        let read = |bytes: &[u8]| decode(bytes, WHOSE, 1_000, Wanted::All);
        let (back, found) = read(&bytes).unwrap();
        assert_eq!((back.end, back.index, back.epochs), (extent.end, extent.index.clone(), extent.epochs.clone()));
        assert_eq!(back.end_position, extent.end_position);
        assert_eq!(back.synced_end, extent.synced_end);
        let flagged = Flagged { first: Offset(200), last: Offset(210), last_time: Timestamp(5_033) };
        assert_eq!((back.flagged, extent.flagged), (Some(flagged), Some(flagged)));
        for id in 1..=3 {
            assert_eq!(found.standing(ProducerId(id)), producers.standing(ProducerId(id)));
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&flipped).is_none(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_none());
        }
        assert!(decode(&bytes, (Incarnation(8), Offset(100), 0), 1_000, Wanted::All).is_none());
        assert!(decode(&bytes, (Incarnation(9), Offset(100), 1), 1_000, Wanted::All).is_none());
    }

    #[test]
    fn what_is_known_of_producers_is_not_needed_to_read_the_rest() {
        let (extent, producers) = extent();
        let mut bytes = encode(&extent, &producers, WHOSE);
        *bytes.last_mut().unwrap() ^= 1;
        let (back, found) = decode(&bytes, WHOSE, 1_000, Wanted::Extent).unwrap();
        assert!(back.end == extent.end && found.is_blank());
        let plain = encode(&extent, &Producers::default(), WHOSE);
        assert!(plain.len() < bytes.len(), "without producers there is no such part");
        assert!(decode(&plain, WHOSE, 1_000, Wanted::All).unwrap().1.is_blank());
    }
}
