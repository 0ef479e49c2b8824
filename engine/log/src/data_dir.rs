//! The data directory: who may open it, which format it has, how its directories are named.
//!
//! ```text
//! LOCK                       held with flock by the process that has it open
//! FORMAT                     text: "millstream data directory", "format 1", "directory <16 hex>", "crc <8 hex>" of these
//! catalog/00000-<inc>/       the catalog's log (stream 0, partition 0)
//! groups/00001-<inc>/        the groups' log (stream 0, partition 1)
//! streams/<stream>/<partition>-<incarnation>/
//!     <base>.<generation>.log    segments     <base>.<generation>.index   a cache
//!     state/                     the partition's state log: segments and <offset>.snapshot
//! queues/<queue>/<partition>-<incarnation>/    what a queue decided on a partition: segments and <offset>.snapshot
//! journal/<lane>-<number>.journal, <slot>.checkpoint
//! reserve                    allocated and unused: room for state on a full disk
//! quarantine/                what recovery cut off or did not understand: never deleted by us
//! ```
//! Names are made of numbers only: no client's string ever becomes a path.

use std::io;
use std::path::{Path, PathBuf};

use millstream_protocol::{Incarnation, PartitionId, QueueId, StreamId};
use parking_lot::Mutex;

use crate::error::{Context, LogError};
use crate::segment::{Identity, Kind};
use crate::storage::{Access, Storage, read_exact_at, write_atomically};

/// The format this code writes, and the newest it opens.
pub const FORMAT_VERSION: u32 = 1;

const FORMAT_FILE: &str = "FORMAT";
const FORMAT_TITLE: &str = "millstream data directory";
/// Far above what the file has: bounds what is read of a foreign one.
const FORMAT_BYTES_MAX: u64 = 4_096;

/// A state log that is no partition's: the number of its stream is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InternalLog {
    /// Which streams and lakes exist.
    Catalog,
    /// Who is in which consumer group.
    Groups,
}

impl InternalLog {
    /// All of them.
    pub const ALL: [InternalLog; 2] = [InternalLog::Catalog, InternalLog::Groups];

    /// Its partition number.
    pub fn partition(self) -> PartitionId {
        PartitionId(self as u32)
    }

    /// What its directory and reports call it.
    pub fn name(self) -> &'static str {
        match self {
            InternalLog::Catalog => "catalog",
            InternalLog::Groups => "groups",
        }
    }
}

/// A data directory, locked for this process.
pub struct DataDir {
    root: PathBuf,
    id: u64,
    lock: Mutex<Option<Box<dyn Send + Sync>>>,
}

impl DataDir {
    /// Locks the directory, makes it if it is not there, and checks its format. `new_id` names it if it is new.
    ///
    /// # Errors
    /// [`LogError::Locked`], [`LogError::NewerFormat`], [`LogError::NotADataDirectory`], [`LogError::Io`].
    pub fn open(storage: &dyn Storage, root: &Path, new_id: u64) -> Result<Self, LogError> {
        storage.create_dir_all(root).context("create the data directory", root)?;
        let format_path = root.join(FORMAT_FILE);
        let id = match read_format(storage, &format_path)? {
            Some(text) => Some(parse_format(&text, root)?),
            None => None,
        };
        if id.is_none() && !is_ours_or_empty(storage, root)? {
            return Err(LogError::NotADataDirectory { path: root.to_owned() });
        }
        let lock = storage.lock(&root.join("LOCK")).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => LogError::Locked { path: root.to_owned() },
            _ => LogError::io("lock", root, error),
        })?;
        let directory = Self { root: root.to_owned(), id: id.unwrap_or(new_id), lock: Mutex::new(Some(lock)) };
        for path in [directory.streams(), directory.journal(), directory.quarantine()] {
            storage.create_dir_all(&path).context("create", &path)?;
        }
        if id.is_none() {
            sync_parents(storage, root)?;
            let text = format_text(new_id);
            write_atomically(storage, &format_path, text.as_bytes()).context("write", &format_path)?;
        }
        storage.sync_dir(root).context("sync", root)?;
        Ok(directory)
    }

    /// Lets another process open the directory; nothing may be written to it after this.
    pub fn unlock(&self) {
        self.lock.lock().take();
    }

    /// Whether it was unlocked.
    pub fn is_unlocked(&self) -> bool {
        self.lock.lock().is_none()
    }

    /// The directory's random number, made with it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where streams' partitions are.
    pub fn streams(&self) -> PathBuf {
        self.root.join("streams")
    }

    /// Where one stream's partitions are.
    pub fn stream(&self, stream: StreamId) -> PathBuf {
        self.streams().join(format!("{:010}", stream.0))
    }

    /// Where queues' events are.
    pub fn queues(&self) -> PathBuf {
        self.root.join("queues")
    }

    /// Where one queue's events are.
    pub fn queue(&self, queue: QueueId) -> PathBuf {
        self.queues().join(format!("{:010}", queue.0))
    }

    /// Where an internal log is.
    pub fn internal(&self, log: InternalLog) -> PathBuf {
        self.root.join(log.name())
    }

    /// Where a partition's segments are.
    pub fn partition(&self, identity: Identity) -> PathBuf {
        let internal = InternalLog::ALL.into_iter().find(|log| log.partition() == identity.partition);
        let parent = match internal {
            _ if identity.kind == Kind::Queue => self.queue(QueueId(identity.stream.0)),
            Some(log) if identity.stream.0 == 0 => self.internal(log),
            _ => self.stream(identity.stream),
        };
        parent.join(partition_dir_name(identity.partition, identity.incarnation))
    }

    /// Where the lanes' journals and the checkpoints are.
    pub fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    /// Where recovery puts what it cuts or does not understand.
    pub fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }
}

/// A partition directory's name.
pub fn partition_dir_name(partition: PartitionId, incarnation: Incarnation) -> String {
    format!("{:05}-{incarnation}", partition.0)
}

/// Reads a partition directory's name back.
pub fn parse_partition_dir_name(name: &str) -> Option<(PartitionId, Incarnation)> {
    let (partition, incarnation) = name.split_once('-')?;
    let parsed = (PartitionId(partition.parse().ok()?), Incarnation(u64::from_str_radix(incarnation, 16).ok()?));
    // One partition has one name: "+1-…" or upper case is not ours.
    (partition_dir_name(parsed.0, parsed.1) == name).then_some(parsed)
}

/// Reads a stream directory's name back.
pub fn parse_stream_dir_name(name: &str) -> Option<StreamId> {
    let id: u64 = name.parse().ok()?;
    (format!("{id:010}") == name).then_some(StreamId(id))
}

/// Makes the names of a new directory and of its parents durable. That they exist does not say so: an earlier start may
/// have made them and been killed.
fn sync_parents(storage: &dyn Storage, path: &Path) -> Result<(), LogError> {
    for parent in path.ancestors().skip(1) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match storage.sync_dir(parent) {
            // A directory that may not be read is not one of those we made.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            other => other.context("sync", parent)?,
        }
    }
    Ok(())
}

fn read_format(storage: &dyn Storage, path: &Path) -> Result<Option<String>, LogError> {
    let file = match storage.open(path, Access::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.context("open", path)?,
    };
    let length = file.len().context("read", path)?.min(FORMAT_BYTES_MAX);
    let bytes = read_exact_at(&*file, 0, length as usize).context("read", path)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn parse_format(text: &str, root: &Path) -> Result<u64, LogError> {
    let mut lines = text.lines();
    let not_ours = || LogError::NotADataDirectory { path: root.to_owned() };
    if lines.next() != Some(FORMAT_TITLE) {
        return Err(not_ours());
    }
    let number = |line: Option<&str>, word: &str| line.and_then(|l| l.strip_prefix(word)).map(str::to_owned);
    let found: u32 = number(lines.next(), "format ").and_then(|n| n.parse().ok()).ok_or_else(not_ours)?;
    if found > FORMAT_VERSION {
        return Err(LogError::NewerFormat { path: root.to_owned(), found, known: FORMAT_VERSION });
    }
    let id = number(lines.next(), "directory ").and_then(|n| u64::from_str_radix(&n, 16).ok());
    id.filter(|id| format_text(*id) == text).ok_or_else(|| LogError::StateDamaged {
        path: root.join(FORMAT_FILE),
        reason: "its checksum does not hold".to_owned(),
    })
}

/// What the FORMAT file of a directory says.
fn format_text(id: u64) -> String {
    let text = format!("{FORMAT_TITLE}\nformat {FORMAT_VERSION}\ndirectory {id:016x}\n");
    let crc = crc32fast::hash(text.as_bytes());
    format!("{text}crc {crc:08x}\n")
}

/// A directory without FORMAT may be empty, or have what a first start leaves when it is cut short.
fn is_ours_or_empty(storage: &dyn Storage, root: &Path) -> Result<bool, LogError> {
    let known = ["LOCK", "FORMAT.tmp", "streams", "journal", "quarantine"];
    Ok(storage.list(root).context("list", root)?.iter().all(|entry| known.contains(&entry.name.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::FileStorage;

    #[test]
    fn a_directory_keeps_its_id_and_is_locked_against_a_second_process() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("data");
        let first = DataDir::open(&FileStorage::with_open_max(8), &root, 7).unwrap();
        assert_eq!(first.id(), 7);
        assert!(matches!(DataDir::open(&FileStorage::with_open_max(8), &root, 8), Err(LogError::Locked { .. })));
        drop(first);
        assert_eq!(DataDir::open(&FileStorage::with_open_max(8), &root, 8).unwrap().id(), 7);
    }

    #[test]
    fn newer_formats_and_foreign_directories_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("FORMAT"), "millstream data directory\nformat 2\ndirectory 00\n").unwrap();
        assert!(matches!(
            DataDir::open(&FileStorage::with_open_max(8), temp.path(), 1),
            Err(LogError::NewerFormat { found: 2, known: 1, .. })
        ));
        let foreign = tempfile::tempdir().unwrap();
        std::fs::write(foreign.path().join("thesis.txt"), "dear").unwrap();
        assert!(matches!(
            DataDir::open(&FileStorage::with_open_max(8), foreign.path(), 1),
            Err(LogError::NotADataDirectory { .. })
        ));
        assert_eq!(std::fs::read_dir(foreign.path()).unwrap().count(), 1, "nothing was made in it");
    }

    #[test]
    fn only_names_we_would_write_are_read_back() {
        let name = partition_dir_name(PartitionId(3), Incarnation(0xab));
        assert_eq!(parse_partition_dir_name(&name), Some((PartitionId(3), Incarnation(0xab))));
        for bad in ["3-ab", "00003-00000000000000AB", "+0003-00000000000000ab", "state", ""] {
            assert_eq!(parse_partition_dir_name(bad), None, "{bad:?}");
        }
        assert_eq!(parse_stream_dir_name("0000000012"), Some(StreamId(12)));
        assert_eq!(parse_stream_dir_name("12"), None);
    }
}
