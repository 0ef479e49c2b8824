//! The checkpoint: what is known durable, written down apart from the log itself.
//!
//! ```text
//! journal/<slot>.checkpoint                 two, written in turn; the one with the greater count is the newer
//!  at  size  field
//!   0     8  magic "MSTRCKPT"
//!   8     4  format version (1)
//!  12     4  CRC-32 of the whole file with this field as zero
//!  16     8  count: +1 for each checkpoint of the directory
//!  24     8  journal id of the start that wrote it
//!  32     4  lane count, c             36  4  mark count, m
//!  40        c × (lane 4, zero 4, sequence 8): frames up to it need no replay
//!            m × (incarnation 8, offset 8): records below it were on the disk
//! ```
//! A *mark* tells rot from a torn tail: what is missing or damaged below it was durable once. Marks only rise, so those
//! of both files count. A frame is replayed if it bears the newest journal id and lies above its lane's sequence.
//! Without a checkpoint nothing is lost: more is read and replayed, and less is known for certain.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use millstream_protocol::{Incarnation, Offset};

use crate::error::{Context, LogError};
use crate::little_endian::{u32_at, u64_at};
use crate::storage::{Access, Storage, read_exact_at, write_atomically};

const MAGIC: &[u8; 8] = b"MSTRCKPT";
const VERSION: u32 = 1;
const CRC: usize = 12;
const HEADER_BYTES: usize = 40;
const ENTRY_BYTES: usize = 16;
const SLOTS: u64 = 2;
/// More than a million partitions are not marked; a larger file is not ours.
const FILE_BYTES_MAX: u64 = 32 << 20;

/// What a checkpoint says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub journal_id: u64,
    /// Lane and the sequence up to which no frame need be replayed.
    pub covered: Vec<(u32, u64)>,
    pub marks: HashMap<Incarnation, Offset>,
}

/// The two files.
pub(crate) struct Checkpoints {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    count: u64,
    journal_id: u64,
}

/// What was found at a start.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The newest whole checkpoint, with the marks of both.
    pub checkpoint: Checkpoint,
    pub count: u64,
    /// Files that were not whole.
    pub damaged: usize,
}

/// Reads what an earlier process has left.
pub(crate) fn load(storage: &dyn Storage, dir: &std::path::Path) -> Result<Found, LogError> {
    let mut found = Found::default();
    for slot in 0..SLOTS {
        let path = dir.join(file_name(slot));
        let file = match storage.open(&path, Access::Read) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.context("open", &path)?,
        };
        let length = file.len().context("read", &path)?;
        let bytes = match length <= FILE_BYTES_MAX {
            true => read_exact_at(&*file, 0, length as usize).context("read", &path)?,
            false => Vec::new(),
        };
        let Some((count, checkpoint)) = decode(&bytes) else {
            tracing::warn!(file = %path.display(), "a damaged checkpoint is not used");
            found.damaged += 1;
            continue;
        };
        for (incarnation, end) in &checkpoint.marks {
            let mark = found.checkpoint.marks.entry(*incarnation).or_default();
            *mark = (*mark).max(*end);
        }
        if count > found.count {
            found.count = count;
            found.checkpoint.journal_id = checkpoint.journal_id;
            found.checkpoint.covered = checkpoint.covered;
        }
    }
    Ok(found)
}

impl Checkpoints {
    /// Goes on behind the checkpoint of that count.
    pub(crate) fn new(storage: Arc<dyn Storage>, dir: PathBuf, count: u64, journal_id: u64) -> Self {
        Self { storage, dir, count, journal_id }
    }

    /// The journal id of this start.
    pub(crate) fn journal_id(&self) -> u64 {
        self.journal_id
    }

    /// Writes a checkpoint over the older of the two; it is durable when this returns.
    pub(crate) fn write(&mut self, checkpoint: &Checkpoint) -> Result<(), LogError> {
        let count = self.count + 1;
        let path = self.dir.join(file_name(count % SLOTS));
        write_atomically(&*self.storage, &path, &encode(count, checkpoint)).context("write", &path)?;
        self.count = count;
        Ok(())
    }
}

fn file_name(slot: u64) -> String {
    format!("{slot}.checkpoint")
}

fn encode(count: u64, checkpoint: &Checkpoint) -> Vec<u8> {
    let entries = checkpoint.covered.len() + checkpoint.marks.len();
    let mut out = Vec::with_capacity(HEADER_BYTES + entries * ENTRY_BYTES);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&checkpoint.journal_id.to_le_bytes());
    out.extend_from_slice(&(checkpoint.covered.len() as u32).to_le_bytes());
    out.extend_from_slice(&(checkpoint.marks.len() as u32).to_le_bytes());
    for (lane, sequence) in &checkpoint.covered {
        out.extend_from_slice(&u64::from(*lane).to_le_bytes());
        out.extend_from_slice(&sequence.to_le_bytes());
    }
    let mut marks: Vec<_> = checkpoint.marks.iter().collect();
    marks.sort_unstable_by_key(|(incarnation, _)| incarnation.0);
    for (incarnation, end) in marks {
        out.extend_from_slice(&incarnation.0.to_le_bytes());
        out.extend_from_slice(&end.0.to_le_bytes());
    }
    let crc = crc32fast::hash(&out);
    out[CRC..CRC + 4].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode(bytes: &[u8]) -> Option<(u64, Checkpoint)> {
    let (u32_at, u64_at) = (|at| u32_at(bytes, at), |at| u64_at(bytes, at));
    let (covered, marks) = (u32_at(32)? as usize, u32_at(36)? as usize);
    if &bytes[..8] != MAGIC || u32_at(8)? != VERSION || bytes.len() != HEADER_BYTES + (covered + marks) * ENTRY_BYTES {
        return None;
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..CRC]);
    hasher.update(&[0; 4]);
    hasher.update(&bytes[CRC + 4..]);
    if u32_at(CRC)? != hasher.finalize() {
        return None;
    }
    let pair = |index: usize| {
        let at = HEADER_BYTES + index * ENTRY_BYTES;
        Some((u64_at(at)?, u64_at(at + 8)?))
    };
    let lanes =
        (0..covered).map(|index| pair(index).and_then(|(lane, sequence)| Some((lane.try_into().ok()?, sequence))));
    let known = (covered..covered + marks).map(|index| pair(index).map(|(inc, end)| (Incarnation(inc), Offset(end))));
    let checkpoint = Checkpoint {
        journal_id: u64_at(24)?,
        covered: lanes.collect::<Option<_>>()?,
        marks: known.collect::<Option<_>>()?,
    };
    Some((u64_at(16)?, checkpoint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::FileStorage;

    fn checkpoint(end: u64) -> Checkpoint {
        let marks = HashMap::from([(Incarnation(7), Offset(end)), (Incarnation(8), Offset(3))]);
        Checkpoint { journal_id: 5, covered: vec![(0, end), (1, 0)], marks }
    }

    #[test]
    fn a_checkpoint_comes_back_and_any_flipped_bit_or_cut_is_noticed() {
        let bytes = encode(9, &checkpoint(40));
        assert_eq!(decode(&bytes), Some((9, checkpoint(40))));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped), None, "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert_eq!(decode(&bytes[..length]), None, "length {length}");
        }
    }

    #[test]
    fn the_newer_of_two_counts_and_a_damaged_one_leaves_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(FileStorage::with_open_max(8));
        let mut files = Checkpoints::new(storage.clone(), dir.path().to_owned(), 0, 5);
        for end in [10, 20, 30] {
            files.write(&checkpoint(end)).unwrap();
        }
        let found = load(&*storage, dir.path()).unwrap();
        assert_eq!((found.count, found.damaged, found.checkpoint), (3, 0, checkpoint(30)));
        std::fs::write(dir.path().join(file_name(1)), b"half").unwrap();
        let found = load(&*storage, dir.path()).unwrap();
        assert_eq!((found.count, found.damaged, found.checkpoint), (2, 1, checkpoint(20)));
    }
}
