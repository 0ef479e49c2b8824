//! Puts what the lanes' journals hold back into the segments, before any partition is opened.
//!
//! Every whole frame of the newest journal id, above what the checkpoint covers, is written over whatever its segments
//! hold, in order, and the segments are synced; what a frame speaks of and is no more (a deleted stream, a segment below
//! the log start) is skipped. A replay may happen any number of times. A bad frame below the sequence known durable is
//! damage: it is reported and the frames behind it count; above it, it is where a crash cut the journal short.

use std::collections::{BTreeMap, HashMap};
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_protocol::{Incarnation, Offset};
use parking_lot::Mutex;

use super::quarantine;
use crate::checkpoint::Checkpoint;
use crate::data_dir::DataDir;
use crate::error::{Context, LogError};
use crate::lane::ring::{
    self, END_BYTES, ENTRY_BYTES, Entry, FILE_HEADER_BYTES, FRAME_HEADER_BYTES, FRAME_MAGIC, decode_file_header,
    decode_frame_header, decode_table, encode_end,
};
use crate::segment::{self, Kind};
use crate::storage::{Access, Storage, StorageFile, read_exact_at};

/// What a replay did.
#[derive(Default)]
pub(crate) struct Replayed {
    pub frames: usize,
    pub bytes: u64,
    /// Bytes of journal read.
    pub bytes_read: u64,
    /// Frames that were durable once and are damaged.
    pub damaged: usize,
    /// Bytes behind the last whole frame that are no frame: torn, or damaged since.
    pub torn_bytes: u64,
    /// The newest journal id found anywhere.
    pub newest_id: u64,
    /// How far each partition is durable now.
    pub marks: HashMap<Incarnation, Offset>,
    /// The journal files: history, once a checkpoint with a new id is durable.
    pub files: Vec<PathBuf>,
    /// The places of those bytes: file, from, to.
    torn: Vec<(Arc<dyn StorageFile>, PathBuf, u64, u64)>,
}

/// A whole frame: where its body begins, and what is in it.
struct Frame {
    file: Arc<dyn StorageFile>,
    body: u64,
    entries: Vec<Entry>,
}

/// Replays the journals in `dir`.
pub(crate) fn replay(
    storage: &dyn Storage,
    data: &DataDir,
    dir: &Path,
    checkpoint: &Checkpoint,
    threads: usize,
) -> Result<Replayed, LogError> {
    let (frames, mut replayed) = find_frames(storage, dir, checkpoint, Access::ReadWrite)?;
    write_back(storage, data, &frames, threads, &mut replayed)?;
    for (file, path, from, to) in std::mem::take(&mut replayed.torn) {
        if from < to {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let label = format!("{name}.{from}.cut");
            quarantine::keep_bytes(storage, &data.quarantine(), &label, &*file, from, to)?;
        }
    }
    Ok(replayed)
}

/// How far each partition reaches in frames that the next start will replay. Changes nothing.
pub(crate) fn waiting(
    storage: &dyn Storage,
    dir: &Path,
    checkpoint: &Checkpoint,
) -> Result<HashMap<Incarnation, Offset>, LogError> {
    let (frames, _) = find_frames(storage, dir, checkpoint, Access::Read)?;
    let mut ends: HashMap<Incarnation, Offset> = HashMap::new();
    for entry in frames.values().flat_map(|frame| &frame.entries) {
        let end = ends.entry(entry.identity.incarnation).or_default();
        *end = (*end).max(entry.end);
    }
    Ok(ends)
}

type Frames = BTreeMap<(u32, u64), Frame>;

/// The whole frames that count, in order.
fn find_frames(
    storage: &dyn Storage,
    dir: &Path,
    checkpoint: &Checkpoint,
    access: Access,
) -> Result<(Frames, Replayed), LogError> {
    let mut replayed = Replayed { newest_id: checkpoint.journal_id, ..Replayed::default() };
    let mut files = Vec::new();
    for entry in storage.list(dir).context("list", dir)? {
        let Some((lane, _)) = ring::parse_file_name(&entry.name) else { continue };
        let path = dir.join(&entry.name);
        let file = storage.open(&path, access).context("open", &path)?;
        if access == Access::ReadWrite {
            // The medium counts, not the page cache: see `open`.
            file.sync_data().context("sync", &path)?;
            file.evict(0).context("evict", &path)?;
        }
        let length = file.len().context("read", &path)?;
        let head = read_exact_at(&*file, 0, 32.min(length) as usize).context("read", &path)?;
        replayed.files.push(path.clone());
        match decode_file_header(&head).filter(|(of, _)| *of == lane) {
            Some((_, id)) => {
                replayed.newest_id = replayed.newest_id.max(id);
                files.push((lane, id, path, file, length));
            }
            None => {
                tracing::error!(file = %path.display(), length,
                    "a journal file's header is not whole: either it was just being made, or its frames are lost");
                replayed.damaged += 1;
            }
        }
    }
    let newest = replayed.newest_id;
    let covered: HashMap<u32, u64> = match checkpoint.journal_id == newest {
        true => checkpoint.covered.iter().copied().collect(),
        false => HashMap::new(),
    };
    let mut frames = Frames::new();
    for (lane, id, path, file, length) in files.into_iter().filter(|(_, id, ..)| *id == newest) {
        let above = covered.get(&lane).copied().unwrap_or(0);
        scan(&file, &path, id, length, lane, above, &mut frames, &mut replayed)?;
    }
    Ok((frames, replayed))
}

/// Finds the whole frames of one file above a sequence.
#[expect(clippy::too_many_arguments, reason = "one call, all different")]
fn scan(
    file: &Arc<dyn StorageFile>,
    path: &Path,
    id: u64,
    length: u64,
    lane: u32,
    above: u64,
    frames: &mut Frames,
    replayed: &mut Replayed,
) -> Result<(), LogError> {
    let bytes = read_exact_at(&**file, 0, length as usize).context("read", path)?;
    replayed.bytes_read += length;
    let (mut at, mut last, mut gap) = (FILE_HEADER_BYTES as usize, 0, false);
    let mut end = None;
    while at < bytes.len() {
        match frame_at(&bytes, at, id).filter(|(sequence, ..)| *sequence > last) {
            Some((sequence, known, entries, frame_length)) => {
                // Within one turn of a file sequences have no gaps.
                if gap && last > 0 && last < known && last + 1 < sequence {
                    tracing::error!(file = %path.display(), after = last, before = sequence,
                        "journal frames that were durable are damaged");
                    replayed.damaged += 1;
                    end = None;
                }
                gap = false;
                last = sequence;
                if sequence > above {
                    let body = (at + FRAME_HEADER_BYTES + entries.len() * ENTRY_BYTES) as u64;
                    frames.insert((lane, sequence), Frame { file: file.clone(), body, entries });
                }
                at += frame_length;
            }
            // Older frames lie behind the newest one: they have lower sequences, so the search passes over them.
            None => {
                gap = true;
                end.get_or_insert((at, last));
                match memchr::memmem::find(&bytes[(at + 1).min(bytes.len())..], &FRAME_MAGIC.to_le_bytes()) {
                    Some(next) => at += 1 + next,
                    None => break,
                }
            }
        }
    }
    let (at, last) = end.unwrap_or((at.min(bytes.len()), last));
    if bytes.get(at..at + END_BYTES) != Some(&encode_end(id, last)[..]) {
        let torn = torn_length(&bytes[at..]);
        replayed.torn_bytes += torn.max(1) as u64;
        replayed.torn.push((file.clone(), path.to_owned(), at as u64, (at + torn) as u64));
        tracing::warn!(file = %path.display(), after = last, "behind its last whole frame a journal has no end mark");
    }
    Ok(())
}

/// How much of what is no frame may be one: as much as its header says, if that looks like one.
fn torn_length(bytes: &[u8]) -> usize {
    const UNKNOWN_BYTES: usize = 1 << 20;
    let stated = decode_frame_header(bytes).map(|header| {
        let table = FRAME_HEADER_BYTES + header.entry_count as usize * ENTRY_BYTES;
        usize::try_from(header.body_length).unwrap_or(usize::MAX).saturating_add(table)
    });
    stated.unwrap_or(UNKNOWN_BYTES).min(bytes.len())
}

/// The whole frame at a place: sequence, known durable, entries, length.
fn frame_at(bytes: &[u8], at: usize, id: u64) -> Option<(u64, u64, Vec<Entry>, usize)> {
    let header = decode_frame_header(&bytes[at..])?;
    let table_end = at.checked_add(FRAME_HEADER_BYTES + header.entry_count as usize * ENTRY_BYTES)?;
    let entries = decode_table(id, &header, bytes.get(at..table_end)?)?;
    let end = table_end.checked_add(usize::try_from(header.body_length).ok()?)?;
    let whole = crc32fast::hash(bytes.get(table_end..end)?) == header.body_crc;
    whole.then_some((header.sequence, header.durable, entries, end - at))
}

/// Batches on their way back into one segment.
struct Share<'a> {
    path: PathBuf,
    /// Journal file, where the batches begin in it, and the entry; in the frames' order.
    parts: Vec<(&'a dyn StorageFile, u64, Entry)>,
}

/// Writes the frames' batches over their segments and syncs those, a segment at a time.
fn write_back(
    storage: &dyn Storage,
    data: &DataDir,
    frames: &Frames,
    threads: usize,
    replayed: &mut Replayed,
) -> Result<(), LogError> {
    let mut shares: BTreeMap<PathBuf, Vec<(&dyn StorageFile, u64, Entry)>> = BTreeMap::new();
    for frame in frames.values() {
        let mut position = frame.body;
        for entry in &frame.entries {
            shares.entry(segment_path(data, entry)).or_default().push((&*frame.file, position, *entry));
            position += entry.length;
        }
    }
    let shares: Vec<Share<'_>> = shares.into_iter().map(|(path, parts)| Share { path, parts }).collect();
    let written = Mutex::new((0, HashMap::new()));
    let done = super::in_parallel(threads, &shares, |share| -> Result<(), LogError> {
        let segment = match storage.open(&share.path, Access::ReadWrite) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.context("open", &share.path)?,
        };
        for (journal, position, entry) in &share.parts {
            let bytes = read_exact_at(*journal, *position, entry.length as usize).context("read", &share.path)?;
            segment.write_all_at(&[IoSlice::new(&bytes)], entry.position).context("write", &share.path)?;
        }
        segment.sync_data().context("sync", &share.path)?;
        let mut written = written.lock();
        for (_, _, entry) in &share.parts {
            written.0 += entry.length;
            let mark: &mut Offset = written.1.entry(entry.identity.incarnation).or_default();
            *mark = (*mark).max(entry.end);
        }
        Ok(())
    });
    done.into_iter().collect::<Result<(), LogError>>()?;
    replayed.frames = frames.len();
    (replayed.bytes, replayed.marks) = written.into_inner();
    Ok(())
}

fn segment_path(data: &DataDir, entry: &Entry) -> PathBuf {
    let identity = entry.identity;
    let dir = match identity.kind {
        // Internal logs are stream 0; any other state lies beside its records, from whose incarnation its own is derived.
        Kind::State if identity.stream.0 != 0 => data.partition(identity.state()).join("state"),
        Kind::Records | Kind::State | Kind::Queue => data.partition(identity),
    };
    dir.join(segment::file_name(entry.base, 0))
}
