//! A lane's journal files: fixed in size, written round and round, so that a pass over many partitions costs one sync.
//!
//! ```text
//! journal/<lane:03>-<number:03>.journal
//!  at  size  header field
//!   0     8  magic "MSTRJRNL"
//!   8     4  format version (1)         12  4  lane
//!  16     8  journal id: new at every start; frames of another id are history
//!  24     4  zero                       28  4  CRC-32 of bytes 0..28
//! 4096       frames, back to back:
//!   0     4  magic "MSJF"                4  4  CRC-32, begun with the journal id, of the rest of header and table
//!   8     8  sequence: +1 for each frame of the lane, never used again under one id
//!  16     8  the sequence known durable when this was written
//!  24     8  body length                32  4  CRC-32 of the body          36  4  entry count
//!  40        table, an entry each: incarnation 8, stream 8, partition 4, kind 4, segment base 8, position 8,
//!            end offset 8, length 8; then the body: the entries' batches as they lie in their segments
//!            end mark behind the last frame, written with it and over by the next one:
//!   0     4  magic "MSJE"                4  4  CRC-32 of journal id and the sequence before it
//! ```
//! Without the mark a torn or damaged last frame could not be told from what an earlier turn has left there.
//!
//! The batches go to their segments later, from memory. The files are used in turn; one is used again only once every
//! segment that its frames speak of has been written and synced (`flush` says so). One whose segments could not
//! be synced is therefore kept until a recovery has replayed it, and another file takes its turn.
//!
//! Not here: when the journal is the cheaper way (`journal`), the replay (`recovery::replay`).

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_protocol::{Incarnation, Offset, PartitionId, StreamId};

use crate::little_endian::{u32_at, u64_at};
use crate::segment::{Identity, Kind};
use crate::storage::{Storage, StorageFile};

/// Where the first frame begins.
pub(crate) const FILE_HEADER_BYTES: u64 = 4_096;
pub(crate) const FRAME_HEADER_BYTES: usize = 40;
pub(crate) const ENTRY_BYTES: usize = 56;
/// Entries of one frame at most: a pass has no more commands.
pub(crate) const ENTRIES_MAX: usize = 1 << 16;
pub(crate) const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"MSJF");
/// Bytes of an end mark.
pub(crate) const END_BYTES: usize = 8;
const FILE_MAGIC: &[u8; 8] = b"MSTRJRNL";
const VERSION: u32 = 1;
/// Two take turns; each one that is kept for a recovery is replaced.
const FILES_MIN: usize = 2;

/// Whose batches lie in a frame, and where they belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub identity: Identity,
    /// The segment's base offset; an active segment's generation is 0.
    pub base: Offset,
    /// Where the batches begin in the segment's file.
    pub position: u64,
    /// The offset after the last record.
    pub end: Offset,
    /// Bytes of the batches.
    pub length: u64,
}

/// What a frame's fixed part says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub sequence: u64,
    pub durable: u64,
    pub body_length: u64,
    pub body_crc: u32,
    pub entry_count: u32,
}

/// A journal file's header.
pub(crate) fn encode_file_header(lane: u32, id: u64) -> [u8; 32] {
    let mut out = [0; 32];
    out[0..8].copy_from_slice(FILE_MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[12..16].copy_from_slice(&lane.to_le_bytes());
    out[16..24].copy_from_slice(&id.to_le_bytes());
    let crc = crc32fast::hash(&out[..28]);
    out[28..32].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The lane and the journal id in a file header; `None` if it is not whole.
pub(crate) fn decode_file_header(bytes: &[u8]) -> Option<(u32, u64)> {
    let (lane, id) = (u32_at(bytes, 12)?, u64_at(bytes, 16)?);
    (bytes.get(..32)? == encode_file_header(lane, id)).then_some((lane, id))
}

/// What lies behind the frame of that sequence, as long as it is the last one.
pub(crate) fn encode_end(id: u64, sequence: u64) -> [u8; END_BYTES] {
    let mut out = [0; END_BYTES];
    out[..4].copy_from_slice(b"MSJE");
    out[4..].copy_from_slice(&frame_crc(id, &sequence.to_le_bytes()).to_le_bytes());
    out
}

/// A frame's header and table.
pub(crate) fn encode_frame(id: u64, header: &FrameHeader, entries: &[Entry], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&FRAME_MAGIC.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&header.sequence.to_le_bytes());
    out.extend_from_slice(&header.durable.to_le_bytes());
    out.extend_from_slice(&header.body_length.to_le_bytes());
    out.extend_from_slice(&header.body_crc.to_le_bytes());
    out.extend_from_slice(&header.entry_count.to_le_bytes());
    for entry in entries {
        out.extend_from_slice(&entry.identity.incarnation.0.to_le_bytes());
        out.extend_from_slice(&entry.identity.stream.0.to_le_bytes());
        out.extend_from_slice(&entry.identity.partition.0.to_le_bytes());
        out.extend_from_slice(&(entry.identity.kind as u32).to_le_bytes());
        out.extend_from_slice(&entry.base.0.to_le_bytes());
        out.extend_from_slice(&entry.position.to_le_bytes());
        out.extend_from_slice(&entry.end.0.to_le_bytes());
        out.extend_from_slice(&entry.length.to_le_bytes());
    }
    let crc = frame_crc(id, &out[8..]);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Reads a frame header; the CRC, which also covers the table, is checked by [`decode_table`].
pub(crate) fn decode_frame_header(bytes: &[u8]) -> Option<FrameHeader> {
    if u32_at(bytes, 0)? != FRAME_MAGIC {
        return None;
    }
    let header = FrameHeader {
        sequence: u64_at(bytes, 8)?,
        durable: u64_at(bytes, 16)?,
        body_length: u64_at(bytes, 24)?,
        body_crc: u32_at(bytes, 32)?,
        entry_count: u32_at(bytes, 36)?,
    };
    (header.entry_count as usize <= ENTRIES_MAX && header.durable < header.sequence).then_some(header)
}

/// The entries of a frame whose header and table are `bytes`; `None` if the CRC does not hold under `id`.
pub(crate) fn decode_table(id: u64, header: &FrameHeader, bytes: &[u8]) -> Option<Vec<Entry>> {
    let length = FRAME_HEADER_BYTES + header.entry_count as usize * ENTRY_BYTES;
    if bytes.len() != length || u32_at(bytes, 4)? != frame_crc(id, &bytes[8..]) {
        return None;
    }
    let entries = bytes[FRAME_HEADER_BYTES..].chunks_exact(ENTRY_BYTES).map(|entry| {
        let kind = Kind::from_number(u32_at(entry, 20)?)?;
        Some(Entry {
            identity: Identity {
                incarnation: Incarnation(u64_at(entry, 0)?),
                stream: StreamId(u64_at(entry, 8)?),
                partition: PartitionId(u32_at(entry, 16)?),
                kind,
            },
            base: Offset(u64_at(entry, 24)?),
            position: u64_at(entry, 32)?,
            end: Offset(u64_at(entry, 40)?),
            length: u64_at(entry, 48)?,
        })
    });
    let entries: Vec<Entry> = entries.collect::<Option<_>>()?;
    let total = entries.iter().try_fold(0u64, |sum, entry| sum.checked_add(entry.length))?;
    (total == header.body_length).then_some(entries)
}

fn frame_crc(id: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&id.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// A journal file's name.
pub(crate) fn file_name(lane: u32, number: u32) -> String {
    format!("{lane:03}-{number:03}.journal")
}

/// Reads a journal file's name back.
pub(crate) fn parse_file_name(name: &str) -> Option<(u32, u32)> {
    let (lane, number) = name.strip_suffix(".journal")?.split_once('-')?;
    let parsed = (lane.parse().ok()?, number.parse().ok()?);
    (file_name(parsed.0, parsed.1) == name).then_some(parsed)
}

/// The journal files of one lane, as it writes them.
pub(crate) struct Ring {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    lane: u32,
    id: u64,
    file_bytes: u64,
    files: Vec<RingFile>,
    current: usize,
    next_sequence: u64,
    durable: u64,
    table: Vec<u8>,
    /// Why nothing is written here any more.
    failed: Option<String>,
}

struct RingFile {
    file: Arc<dyn StorageFile>,
    /// Where the next frame goes.
    position: u64,
    /// The first and the last frame written into it in this turn; none while `first > last`.
    first: u64,
    last: u64,
}

impl RingFile {
    /// Puts the end mark back where a frame was begun, durably.
    fn take_back(&self, id: u64) -> io::Result<()> {
        let last = if self.first <= self.last { self.last } else { 0 };
        self.file.write_all_at(&[IoSlice::new(&encode_end(id, last))], self.position)?;
        self.file.sync_data()
    }
}

/// What of the ring's frames is not yet safe in the segments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Owed {
    /// The oldest sequence that a segment's sync still waits for.
    pub from: Option<u64>,
    /// Frames whose segments could not be synced, and never will be by this process: first and last.
    pub stuck: Vec<(u64, u64)>,
}

impl Owed {
    fn keeps(&self, file: &RingFile) -> bool {
        self.is_stuck(file) || self.from.is_some_and(|from| from <= file.last)
    }

    fn is_stuck(&self, file: &RingFile) -> bool {
        self.stuck.iter().any(|(first, last)| *first <= file.last && file.first <= *last)
    }
}

/// Why a frame was not written.
#[derive(Debug)]
pub(crate) enum RingError {
    /// It is larger than a file, there is no room on the disk, or the ring has failed before: the batches must go to their
    /// segments at once.
    Unusable,
    /// Every file is waiting for its segments' syncs, up to this sequence.
    Full(u64),
    /// Anything may be on disk.
    Failed(String),
}

impl Ring {
    /// A ring of files of `file_bytes`; none is made before it is needed.
    pub(crate) fn new(storage: Arc<dyn Storage>, dir: PathBuf, lane: u32, id: u64, file_bytes: u64) -> Self {
        Self {
            storage,
            dir,
            lane,
            id,
            file_bytes,
            files: Vec::new(),
            current: 0,
            next_sequence: 1,
            durable: 0,
            table: Vec::new(),
            failed: None,
        }
    }

    /// Whether a frame of that many batches' bytes and partitions can be written at all.
    pub(crate) fn can_hold(&self, bytes: u64, entries: usize) -> bool {
        let frame = bytes + (FRAME_HEADER_BYTES + entries * ENTRY_BYTES) as u64;
        self.failed.is_none()
            && entries <= ENTRIES_MAX
            && FILE_HEADER_BYTES + frame + END_BYTES as u64 <= self.file_bytes
    }

    /// Writes a frame and makes it durable; returns its sequence. What is still owed to segments is not written
    /// over; it is asked for only when a file has no room left.
    pub(crate) fn write(
        &mut self,
        entries: &[Entry],
        body: &[IoSlice<'_>],
        owed: impl FnOnce() -> Owed,
    ) -> Result<u64, RingError> {
        let body_length: u64 = entries.iter().map(|entry| entry.length).sum();
        if !self.can_hold(body_length, entries.len()) {
            return Err(RingError::Unusable);
        }
        let frame = body_length + (FRAME_HEADER_BYTES + entries.len() * ENTRY_BYTES) as u64;
        self.make_room(frame, owed)?;
        let mut hasher = crc32fast::Hasher::new();
        body.iter().for_each(|slice| hasher.update(slice));
        let header = FrameHeader {
            sequence: self.next_sequence,
            durable: self.durable,
            body_length,
            body_crc: hasher.finalize(),
            entry_count: entries.len() as u32,
        };
        encode_frame(self.id, &header, entries, &mut self.table);
        let end = encode_end(self.id, header.sequence);
        let mut slices = Vec::with_capacity(body.len() + 2);
        slices.push(IoSlice::new(&self.table));
        slices.extend_from_slice(body);
        slices.push(IoSlice::new(&end));
        let current = &mut self.files[self.current];
        let written = current.file.write_all_at(&slices, current.position);
        if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::StorageFull) {
            // All of the frame may be there but for its end mark. Its batches may be refused now: it must not come back at the
            // next start.
            let undone = current.take_back(self.id);
            return Err(undone.map_or_else(|error| self.fail(&error), |()| RingError::Unusable));
        }
        if let Err(error) = written.and_then(|()| current.file.sync_data()) {
            return Err(self.fail(&error));
        }
        current.position += frame;
        current.last = header.sequence;
        self.next_sequence += 1;
        self.durable = header.sequence;
        Ok(header.sequence)
    }

    fn fail(&mut self, error: &io::Error) -> RingError {
        let reason = format!("cannot write the journal of lane {}: {error}", self.lane);
        self.failed = Some(reason.clone());
        RingError::Failed(reason)
    }

    /// The last sequence written into a file that is not the current one: segments that wait for less hold up the turn.
    pub(crate) fn behind_turn(&self) -> u64 {
        let others = self.files.iter().enumerate().filter(|(index, _)| *index != self.current);
        others.map(|(_, file)| file.last).max().unwrap_or(0)
    }

    /// Sees to it that the current file has room for a frame, turning to another if need be.
    fn make_room(&mut self, frame: u64, owed: impl FnOnce() -> Owed) -> Result<(), RingError> {
        if self.files.get(self.current).is_some_and(|file| file.position + frame + END_BYTES as u64 <= self.file_bytes)
        {
            return Ok(());
        }
        let owed = owed();
        if let Some(index) = self.files.iter().position(|file| !owed.keeps(file)) {
            // What it holds has a lower sequence than what comes: a reader tells them apart by that.
            let file = &mut self.files[index];
            (file.position, file.first) = (FILE_HEADER_BYTES, self.next_sequence);
            self.current = index;
            return Ok(());
        }
        let in_turn = self.files.iter().filter(|file| !owed.is_stuck(file)).map(|file| file.last);
        match (in_turn.clone().count() < FILES_MIN, in_turn.min()) {
            (false, Some(oldest)) => Err(RingError::Full(oldest)),
            _ => self.add_file(),
        }
    }

    /// Begins one more file: its name and header are durable before its first frame is written.
    fn add_file(&mut self) -> Result<(), RingError> {
        let made = create(&*self.storage, &self.dir, self.lane, self.files.len() as u32, self.id);
        match made {
            Ok(file) => {
                let first = self.next_sequence;
                self.files.push(RingFile { file, position: FILE_HEADER_BYTES, first, last: 0 });
                self.current = self.files.len() - 1;
                Ok(())
            }
            // Nothing of the frame has been written: the segments can still be synced themselves.
            Err(error) => {
                tracing::warn!(lane = self.lane, %error, "a journal file was not made: segments are synced one by one");
                Err(RingError::Unusable)
            }
        }
    }
}

fn create(storage: &dyn Storage, dir: &Path, lane: u32, number: u32, id: u64) -> io::Result<Arc<dyn StorageFile>> {
    let path = dir.join(file_name(lane, number));
    let file = storage.create(&path)?;
    let begun = file
        .write_all_at(&[IoSlice::new(&encode_file_header(lane, id))], 0)
        .and_then(|()| file.write_all_at(&[IoSlice::new(&encode_end(id, 0))], FILE_HEADER_BYTES))
        .and_then(|()| file.sync_data())
        .and_then(|()| storage.sync_dir(dir));
    if begun.is_err() {
        // Make the name free for the next try.
        let _ = storage.remove_file(&path);
    }
    begun.map(|()| file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::FileStorage;

    fn entry(partition: u32, length: u64) -> Entry {
        let identity = Identity {
            stream: StreamId(1),
            partition: PartitionId(partition),
            incarnation: Incarnation(70 + u64::from(partition)),
            kind: Kind::Records,
        };
        Entry { identity, base: Offset(5), position: 64, end: Offset(9), length }
    }

    fn ring(dir: &Path, file_bytes: u64) -> Ring {
        Ring::new(Arc::new(FileStorage::with_open_max(8)), dir.to_owned(), 0, 3, file_bytes)
    }

    fn names(dir: &Path) -> usize {
        std::fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn a_frames_table_comes_back_and_any_flipped_bit_is_noticed() {
        let entries = [entry(0, 100), entry(1, 50)];
        let header = FrameHeader { sequence: 8, durable: 7, body_length: 150, body_crc: 1, entry_count: 2 };
        let mut bytes = Vec::new();
        encode_frame(3, &header, &entries, &mut bytes);
        let read = |bytes: &[u8], id| decode_frame_header(bytes).and_then(|header| decode_table(id, &header, bytes));
        assert_eq!(read(&bytes, 3).as_deref(), Some(&entries[..]));
        assert_eq!(read(&bytes, 4), None, "another start's");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&flipped, 3), None, "bit {bit}");
        }
    }

    #[test]
    fn files_take_turns_and_none_is_written_over_that_a_segment_still_waits_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut ring = ring(dir.path(), 8 << 10);
        let body = vec![7; 3_000];
        let mut write = |owed: &Owed| ring.write(&[entry(0, 3_000)], &[IoSlice::new(&body)], || owed.clone());
        let nothing = Owed::default();
        // One frame fits into what the header leaves of a file.
        assert_eq!(write(&nothing).unwrap(), 1);
        assert_eq!(write(&nothing).unwrap(), 2);
        assert_eq!(names(dir.path()), 1, "nothing waits: one file is enough");
        assert_eq!(write(&Owed { from: Some(2), stuck: Vec::new() }).unwrap(), 3);
        assert_eq!(names(dir.path()), 2);
        assert!(matches!(write(&Owed { from: Some(2), stuck: Vec::new() }), Err(RingError::Full(2))));
        assert_eq!(write(&Owed { from: Some(3), stuck: Vec::new() }).unwrap(), 4, "the file of frame 2 is free");
        // Frames that no sync will ever cover: their file is kept, and another takes its turn.
        let stuck = Owed { from: None, stuck: vec![(4, 4)] };
        assert_eq!(write(&stuck).unwrap(), 5);
        let stuck = Owed { from: Some(5), stuck: vec![(4, 4)] };
        assert_eq!(write(&stuck).unwrap(), 6);
        assert_eq!(names(dir.path()), 3);
    }

    #[test]
    fn a_frame_that_no_file_holds_is_not_for_the_ring() {
        let dir = tempfile::tempdir().unwrap();
        let mut ring = ring(dir.path(), 8 << 10);
        assert!(!ring.can_hold(8 << 10, 1));
        let body = vec![7; 8 << 10];
        let written = ring.write(&[entry(0, 8 << 10)], &[IoSlice::new(&body)], Owed::default);
        assert!(matches!(written, Err(RingError::Unusable)));
        assert_eq!(names(dir.path()), 0, "no file before one is needed");
    }
}
