//! A segment: batches back to back in one file, `{base_offset:020}.{generation:08}.log`.
//!
//! ```text
//!  at  size  preamble field
//!   0     8  magic "MSTRMSEG"
//!   8     4  format version (1)
//!  12     4  kind: 0 records, 1 state
//!  16     8  stream id
//!  24     4  partition id
//!  28     4  generation: 0 as appended, +1 by each compaction
//!  32     8  incarnation id
//!  40     8  base offset
//!  48     8  time cleaned: Unix ms of the first compaction that mapped all its keys; 0: dirty
//!  56     4  tombstones left by it; 0 while dirty
//!  60     4  CRC-32 of bytes 0..60
//!  64        batches
//! ```
//! The preamble says whose it is; a batch knows its own length. A segment is *active* (the last one, growing),
//! *sealed* (never changes again) or *gone* (unlinked; readers that hold it read on).
//!
//! Invariants
//! - Batches span offsets without gaps, in every generation: compaction leaves empty batches. Checked in [`Extent::add`],
//!   again by recovery.
//! - What readers see ([`Segment::extent`]) was written completely before it is noted.
//!
//! Not here: when to roll (`lane`), what to delete (`retention`), what to rewrite (`compaction`), what is torn
//! (`recovery::tail`).

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use millstream_protocol::batch::header::FLAG_CONTROL_HEADERS;
use millstream_protocol::batch::{BatchHeader, HEADER_BYTES};
use millstream_protocol::{Epoch, Incarnation, Offset, PartitionId, ProducerId, QueueId, StreamId, Timestamp};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use crate::index::{self, Index};
use crate::producers::{Producers, Sequenced};
use crate::storage::{Storage, StorageFile};

/// The preamble's length: where the first batch begins.
pub const PREAMBLE_BYTES: u64 = 64;

const MAGIC: &[u8; 8] = b"MSTRMSEG";
const VERSION: u32 = 1;

/// What a partition's batches are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Kind {
    /// Records of a stream.
    Records = 0,
    /// Events of a state log.
    State = 1,
    /// Events of a queue on a partition. The identity's stream is the queue's number then.
    Queue = 2,
}

impl Kind {
    /// The kind of that number.
    pub(crate) fn from_number(number: u32) -> Option<Kind> {
        [Kind::Records, Kind::State, Kind::Queue].into_iter().find(|kind| *kind as u32 == number)
    }
}

/// Names one life of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The stream.
    pub stream: StreamId,
    /// The partition.
    pub partition: PartitionId,
    /// Random at creation; seeds every checksum.
    pub incarnation: Incarnation,
    /// Records or state.
    pub kind: Kind,
}

impl Identity {
    /// The identity of the state log beside this partition: its bytes must not pass for records.
    pub fn state(self) -> Self {
        Self { incarnation: state_incarnation(self.incarnation), kind: Kind::State, ..self }
    }

    /// The identity of a queue's events on this partition: of another life of the partition they are others.
    pub fn queue(self, queue: QueueId) -> Self {
        const MARK: u64 = u64::from_le_bytes(*b"MS-QUEUE");
        let incarnation = Incarnation(self.incarnation.0 ^ MARK ^ queue.0.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        Self { stream: StreamId(queue.0), partition: self.partition, incarnation, kind: Kind::Queue }
    }
}

/// The incarnation of a partition's state log; of that, the partition's again.
pub(crate) fn state_incarnation(incarnation: Incarnation) -> Incarnation {
    const MARK: u64 = u64::from_le_bytes(*b"MS-STATE");
    Incarnation(incarnation.0 ^ MARK)
}

/// What a segment's first 64 bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preamble {
    /// Whose it is.
    pub identity: Identity,
    /// The first offset it may hold.
    pub base: Offset,
    /// How often it was compacted.
    pub generation: u32,
}

/// What compaction has noted in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleaned {
    /// When it was first cleaned; not 0.
    pub at: Timestamp,
    /// How many tombstones it still holds.
    pub tombstones: u32,
}

impl Preamble {
    /// The preamble's bytes, of a segment that is dirty.
    pub fn encode(&self) -> [u8; PREAMBLE_BYTES as usize] {
        self.encode_cleaned(None)
    }

    /// The preamble's bytes.
    pub fn encode_cleaned(&self, cleaned: Option<Cleaned>) -> [u8; PREAMBLE_BYTES as usize] {
        let mut out = [0; PREAMBLE_BYTES as usize];
        out[0..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&(self.identity.kind as u32).to_le_bytes());
        out[16..24].copy_from_slice(&self.identity.stream.0.to_le_bytes());
        out[24..28].copy_from_slice(&self.identity.partition.0.to_le_bytes());
        out[28..32].copy_from_slice(&self.generation.to_le_bytes());
        out[32..40].copy_from_slice(&self.identity.incarnation.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.base.0.to_le_bytes());
        if let Some(Cleaned { at, tombstones }) = cleaned {
            assert!(at.0 != 0 && self.generation > 0, "only compaction cleans, and zero stands for dirty");
            out[48..56].copy_from_slice(&at.0.to_le_bytes());
            out[56..60].copy_from_slice(&tombstones.to_le_bytes());
        }
        let crc = crc32fast::hash(&out[..60]);
        out[60..64].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Whether `bytes` begin with this preamble, whatever they say of cleaning. A mismatch is damage, or a file in the
    /// wrong place.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        self.read_cleaned(bytes).is_some()
    }

    /// What `bytes` say of cleaning; `None` if they do not begin with this preamble.
    pub fn read_cleaned(&self, bytes: &[u8]) -> Option<Option<Cleaned>> {
        let bytes = bytes.get(..PREAMBLE_BYTES as usize)?;
        let at = Timestamp(i64::from_le_bytes(*bytes[48..].first_chunk()?));
        let tombstones = u32::from_le_bytes(*bytes[56..].first_chunk()?);
        let cleaned = (at.0 != 0 && self.generation > 0).then_some(Cleaned { at, tombstones });
        (bytes == self.encode_cleaned(cleaned)).then_some(cleaned)
    }
}

/// A segment file's name.
pub fn file_name(base: Offset, generation: u32) -> String {
    format!("{:020}.{generation:08}.log", base.0)
}

/// Reads a segment file's name back.
pub fn parse_file_name(name: &str) -> Option<(Offset, u32)> {
    let (base, generation) = name.strip_suffix(".log")?.split_once('.')?;
    let parsed = (Offset(base.parse().ok()?), generation.parse().ok()?);
    (file_name(parsed.0, parsed.1) == name).then_some(parsed)
}

/// A range of offsets whose bytes are damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    /// The first offset lost.
    pub from: Offset,
    /// The first offset behind it that is intact.
    pub resume: Offset,
    /// Where the damage begins in the file.
    pub position: u64,
    /// Where `resume` lies in the file.
    pub resume_position: u64,
}

/// Where the batches of a segment lie whose records have headers on which the server acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flagged {
    /// The first one's base offset.
    pub first: Offset,
    /// The last one's.
    pub last: Offset,
    /// The last one's append time.
    pub last_time: Timestamp,
}

/// How far a segment reaches, and how to find things in it.
#[derive(Debug, Clone)]
pub struct Extent {
    /// The offset after the last batch.
    pub end: Offset,
    /// The position after the last batch.
    pub end_position: u64,
    /// The append time of the last batch; the epoch's beginning where there is none.
    pub last_append_time: Timestamp,
    /// The greatest `synced_end` of any batch.
    pub synced_end: Offset,
    /// Where each epoch begins.
    pub epochs: Vec<(Epoch, Offset)>,
    /// Where its flagged batches lie, if it has any.
    pub flagged: Option<Flagged>,
    /// Offset and time to position.
    pub index: Index,
    /// Damaged ranges, rising.
    pub holes: Vec<Hole>,
}

impl Extent {
    /// An empty segment's.
    pub fn empty(base: Offset, index_interval: u64) -> Self {
        Self {
            end: base,
            end_position: PREAMBLE_BYTES,
            last_append_time: Timestamp(0),
            synced_end: Offset::ZERO,
            epochs: Vec::new(),
            flagged: None,
            index: Index::new(index_interval),
            holes: Vec::new(),
        }
    }

    /// Adds the batch that lies at `position`.
    pub fn note(&mut self, header: &BatchHeader, position: u64) {
        self.add(&BatchPlace {
            offset: header.base_offset,
            end: header.end_offset(),
            position,
            length: header.batch_len() as u64,
            append_time: header.append_time,
            epoch: header.epoch,
            synced_end: header.synced_end,
            producer: header.producer_id,
            producer_epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            is_flagged: header.flags & FLAG_CONTROL_HEADERS != 0,
        });
    }

    /// Adds a batch whose header need not be decoded for it.
    pub(crate) fn add(&mut self, batch: &BatchPlace) {
        assert!(batch.offset >= self.end, "offsets rise: {} after {}", batch.offset, self.end);
        assert!(batch.position >= self.end_position, "batches do not overlap");
        self.index.note(batch.offset, batch.position, batch.append_time);
        if self.epochs.last().is_none_or(|(last, _)| *last < batch.epoch) {
            self.epochs.push((batch.epoch, batch.offset));
        }
        if batch.is_flagged {
            let first = self.flagged.map_or(batch.offset, |flagged| flagged.first);
            self.flagged = Some(Flagged { first, last: batch.offset, last_time: batch.append_time });
        }
        self.end = batch.end;
        self.end_position = batch.position + batch.length;
        self.last_append_time = batch.append_time;
        self.synced_end = self.synced_end.max(batch.synced_end);
    }
}

/// Where a batch lies, and what it was stamped with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchPlace {
    pub offset: Offset,
    /// The offset after its last record.
    pub end: Offset,
    /// Its position in the file.
    pub position: u64,
    /// Its bytes.
    pub length: u64,
    pub append_time: Timestamp,
    pub epoch: Epoch,
    pub synced_end: Offset,
    /// 0: without a producer.
    pub producer: ProducerId,
    pub producer_epoch: u32,
    pub base_sequence: u64,
    /// Whether its records have headers on which the server acts.
    pub is_flagged: bool,
}

impl BatchPlace {
    /// What it says of its producer.
    pub(crate) fn sequenced(&self) -> Option<Sequenced> {
        (self.producer.0 != 0).then(|| Sequenced {
            producer: self.producer,
            epoch: self.producer_epoch,
            base_sequence: self.base_sequence,
            count: self.offset.records_until(self.end) as u32,
            base_offset: self.offset,
            append_time: self.append_time,
        })
    }
}

/// A batch with its stamped header: the producer's bytes are shared, never copied.
#[derive(Debug, Clone)]
pub(crate) struct StampedBatch {
    pub header: [u8; HEADER_BYTES],
    /// The whole batch as it came; its first [`HEADER_BYTES`] are replaced by `header`.
    pub batch: Bytes,
}

impl StampedBatch {
    /// Its bytes, in order.
    pub(crate) fn slices(&self) -> [IoSlice<'_>; 2] {
        [IoSlice::new(&self.header), IoSlice::new(&self.batch[HEADER_BYTES..])]
    }
}

/// Batches that are durable in a journal and not yet in the file: its end.
#[derive(Debug, Default)]
struct Deferred {
    /// Position and batch, back to back.
    batches: VecDeque<(u64, StampedBatch)>,
}

/// One segment, open.
pub struct Segment {
    base: Offset,
    generation: u32,
    path: PathBuf,
    file: Arc<dyn StorageFile>,
    extent: RwLock<Extent>,
    deferred: Mutex<Deferred>,
    /// One writer of deferred batches at a time.
    writing: Mutex<()>,
    /// From here on each body was checked by this process: when it was appended, or by recovery.
    checked_from: u64,
    /// Up to here, too: by reads, from the front on.
    checked_to: AtomicU64,
    /// How far the index beside it reaches; nothing is written any more once this is [`NO_INDEX`].
    indexed: Mutex<u64>,
}

/// The segment is going: an index written now would be left behind.
const NO_INDEX: u64 = u64::MAX;

impl Segment {
    /// A segment whose file is open and whose extent is known.
    pub fn new(base: Offset, generation: u32, path: PathBuf, file: Arc<dyn StorageFile>, extent: Extent) -> Self {
        Self {
            base,
            generation,
            path,
            file,
            extent: RwLock::new(extent),
            deferred: Mutex::default(),
            writing: Mutex::default(),
            checked_from: PREAMBLE_BYTES,
            checked_to: AtomicU64::new(PREAMBLE_BYTES),
            indexed: Mutex::new(0),
        }
    }

    /// The same, where the index beside it reaches up to this position, and nobody has looked at what lies before.
    pub fn with_index(mut self, position: u64) -> Self {
        self.checked_from = position.max(PREAMBLE_BYTES);
        *self.indexed.lock() = position;
        self
    }

    /// Whether this process has checked every body in a range. What rots after that is the consumer's to notice.
    pub fn is_checked(&self, from: u64, to: u64) -> bool {
        let checked_to = self.checked_to.load(Ordering::Relaxed);
        to <= checked_to || from >= self.checked_from || checked_to >= self.checked_from
    }

    /// Notes that every body in a range has been checked.
    pub fn note_checked(&self, from: u64, to: u64) {
        if from <= self.checked_to.load(Ordering::Relaxed) {
            self.checked_to.fetch_max(to, Ordering::Relaxed);
        }
    }

    /// The first offset it may hold.
    pub fn base(&self) -> Offset {
        self.base
    }

    /// How often it was compacted.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the index beside it.
    pub fn index_path(&self) -> PathBuf {
        self.path.with_extension("index")
    }

    /// How far the index beside it reaches.
    pub fn indexed(&self) -> u64 {
        *self.indexed.lock()
    }

    /// Writes the index beside it, as of an extent all of which has been synced, and of the producers seen in it. It is a
    /// cache: a failure costs time at the next start and nothing else. An extent with holes has none: they must be found
    /// again.
    pub(crate) fn write_index(
        &self,
        storage: &dyn Storage,
        incarnation: Incarnation,
        extent: &Extent,
        producers: &Producers,
    ) {
        let mut indexed = self.indexed.lock();
        if *indexed >= extent.end_position || !extent.holes.is_empty() {
            return;
        }
        let whose = (incarnation, self.base, self.generation);
        match index::write(storage, &self.index_path(), extent, producers, whose) {
            Ok(()) => *indexed = extent.end_position,
            Err(error) => tracing::warn!(file = %self.index_path().display(), %error,
                "an index was not written: the next start reads the segment"),
        }
    }

    /// Removes its index, and lets none be written again.
    ///
    /// # Errors
    /// The system's.
    pub fn remove_index(&self, storage: &dyn Storage) -> std::io::Result<()> {
        *self.indexed.lock() = NO_INDEX;
        match storage.remove_file(&self.index_path()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The file.
    pub fn file(&self) -> &Arc<dyn StorageFile> {
        &self.file
    }

    /// Keeps batches in memory that lie at `position` once [`write_deferred`](Self::write_deferred) has brought them there.
    pub(crate) fn defer(&self, mut position: u64, batches: Vec<StampedBatch>) {
        let mut deferred = self.deferred.lock();
        for batch in batches {
            let length = batch.batch.len() as u64;
            deferred.batches.push_back((position, batch));
            position += length;
        }
    }

    /// Writes the deferred batches to the file.
    ///
    /// # Errors
    /// The system's; readers then find them where they were.
    pub(crate) fn write_deferred(&self) -> io::Result<()> {
        let _one = self.writing.lock();
        let batches: Vec<(u64, StampedBatch)> = self.deferred.lock().batches.iter().cloned().collect();
        let Some((position, _)) = batches.first() else { return Ok(()) };
        let slices: Vec<IoSlice<'_>> = batches.iter().flat_map(|(_, batch)| batch.slices()).collect();
        self.file.write_all_at(&slices, *position)?;
        // They are in the file now: only then do they leave the memory.
        self.deferred.lock().batches.drain(..batches.len());
        Ok(())
    }

    /// Reads at `position`, from the file and from what is deferred; fewer bytes than asked only at the end.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let in_file = {
            let deferred = self.deferred.lock();
            let first = deferred.batches.front().map_or(u64::MAX, |(first, _)| *first);
            let end = position + buffer.len() as u64;
            if first < end {
                let from = deferred.batches.partition_point(|(at, batch)| at + batch.batch.len() as u64 <= position);
                let mut filled = position;
                for (at, batch) in deferred.batches.range(from..).take_while(|(at, _)| *at < end) {
                    let mut at = *at;
                    for slice in batch.slices() {
                        filled = filled.max(copy_part(buffer, position, &slice, at));
                        at += slice.len() as u64;
                    }
                }
                if first <= position {
                    return Ok((filled - position) as usize);
                }
                let below = (first - position) as usize;
                // What lies before was in the file before the lock was let go.
                Some((below, (filled - position) as usize))
            } else {
                None
            }
        };
        match in_file {
            None => self.file.read_at(buffer, position),
            Some((below, total)) => match self.file.read_at(&mut buffer[..below], position)? {
                read if read == below => Ok(total),
                read => Ok(read),
            },
        }
    }

    /// How far it reaches.
    pub fn extent(&self) -> RwLockReadGuard<'_, Extent> {
        self.extent.read()
    }

    /// Lets `change` add batches that have been written.
    pub fn note(&self, change: impl FnOnce(&mut Extent)) {
        change(&mut self.extent.write());
    }
}

/// Copies what a slice that lies at `at` has in common with a buffer that begins at `position`; returns where it ends.
fn copy_part(buffer: &mut [u8], position: u64, slice: &[u8], at: u64) -> u64 {
    let from = at.max(position);
    let to = (at + slice.len() as u64).min(position + buffer.len() as u64);
    if from < to {
        let (target, source) = ((from - position) as usize, (from - at) as usize);
        let length = (to - from) as usize;
        buffer[target..target + length].copy_from_slice(&slice[source..source + length]);
    }
    to.max(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_deferred_is_read_as_if_it_were_in_the_file_and_then_is() {
        use crate::storage::FileStorage;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.log");
        let file = FileStorage::with_open_max(8).create(&path).unwrap();
        file.write_all_at(&[IoSlice::new(&[9; 100])], 0).unwrap();
        let segment = Segment::new(Offset(0), 0, path, file, Extent::empty(Offset(0), 1_000));
        let batch = |byte: u8, length: usize| StampedBatch {
            header: [byte; HEADER_BYTES],
            batch: Bytes::from(vec![byte + 1; HEADER_BYTES + length]),
        };
        segment.defer(100, vec![batch(1, 40), batch(3, 0)]);
        segment.defer(100 + 2 * HEADER_BYTES as u64 + 40, vec![batch(5, 7)]);
        let mut expected = vec![9; 100];
        for (byte, length) in [(1, 40), (3, 0), (5, 7)] {
            expected.extend_from_slice(&[byte; HEADER_BYTES]);
            expected.extend(std::iter::repeat_n(byte + 1, length));
        }
        let check = || {
            for from in (0..expected.len() + 3).step_by(7) {
                for length in [1, 50, 113, 600] {
                    let mut buffer = vec![0; length];
                    let read = segment.read_at(&mut buffer, from as u64).unwrap();
                    let want = expected.get(from..).unwrap_or_default();
                    assert_eq!(buffer[..read], want[..length.min(want.len())], "{from}, {length}");
                }
            }
        };
        check();
        segment.write_deferred().unwrap();
        assert_eq!(segment.file().len().unwrap(), expected.len() as u64);
        check();
    }

    #[test]
    fn preambles_and_names_tell_segments_apart() {
        let identity = Identity {
            stream: StreamId(1),
            partition: PartitionId(2),
            incarnation: Incarnation(3),
            kind: Kind::Records,
        };
        let preamble = Preamble { identity, base: Offset(10), generation: 0 };
        let bytes = preamble.encode();
        assert!(preamble.matches(&bytes));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!preamble.matches(&flipped), "bit {bit}");
        }
        assert!(!Preamble { identity: identity.state(), ..preamble }.matches(&bytes));
        assert_eq!(preamble.read_cleaned(&bytes), Some(None));
        let (preamble, cleaned) = (Preamble { generation: 1, ..preamble }, Cleaned { at: Timestamp(5), tombstones: 7 });
        let bytes = preamble.encode_cleaned(Some(cleaned));
        assert_eq!(preamble.read_cleaned(&bytes), Some(Some(cleaned)));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(preamble.read_cleaned(&flipped), None, "bit {bit}");
        }
        assert!(!preamble.matches(&bytes[..63]));
        assert_eq!(parse_file_name(&file_name(Offset(7), 1)), Some((Offset(7), 1)));
        assert_eq!(parse_file_name("7.1.log"), None);
    }
}
