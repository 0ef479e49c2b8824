//! Bugs put in on purpose: a storage that does not do what the log asks of it. To the disk that is the same as a log that
//! does not ask.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use millstream_log::storage::{Access, Entry, Space, Storage, StorageFile};
use parking_lot::Mutex;

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A directory is never synced: segments made by a roll lose their names in a power loss, and with them every
    /// acknowledged record they hold.
    NoDirectorySync,
    /// High watermarks move and waiters are answered when the sync has been asked for, not when it is done: it happens with
    /// the next call. A crash in between takes back what was acknowledged and read.
    WatermarkBeforeSync,
    /// A failed `fdatasync` is taken for a good one: what it did not write is acknowledged.
    FailedSyncIgnored,
}

/// The storage of a log that has the bug.
pub(crate) fn with_bug(storage: Arc<dyn Storage>, bug: Option<Bug>) -> Arc<dyn Storage> {
    match bug {
        None => storage,
        Some(bug) => Arc::new(Lying { storage, bug, late: Arc::default() }),
    }
}

type Late = Arc<Mutex<Vec<Arc<dyn StorageFile>>>>;

struct Lying {
    storage: Arc<dyn Storage>,
    bug: Bug,
    /// Syncs that have been answered and not been done.
    late: Late,
}

struct LyingFile {
    file: Arc<dyn StorageFile>,
    bug: Bug,
    late: Late,
}

fn catch_up(late: &Late) {
    for file in std::mem::take(&mut *late.lock()) {
        let _ = file.sync_data();
    }
}

impl Lying {
    fn wrap(&self, file: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        Arc::new(LyingFile { file, bug: self.bug, late: self.late.clone() })
    }
}

impl Storage for Lying {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.storage.create_dir_all(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.storage.list(path)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        catch_up(&self.late);
        self.storage.create(path).map(|file| self.wrap(file))
    }
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        self.storage.open(path, access).map(|file| self.wrap(file))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        catch_up(&self.late);
        self.storage.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.storage.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.storage.remove_dir_all(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        match self.bug {
            Bug::NoDirectorySync => Ok(()),
            _ => self.storage.sync_dir(path),
        }
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        self.storage.space(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.storage.lock(path)
    }
}

impl StorageFile for LyingFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buffer, position)
    }
    fn write_all_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        catch_up(&self.late);
        self.file.write_all_at(slices, position)
    }
    fn sync_data(&self) -> io::Result<()> {
        match self.bug {
            Bug::NoDirectorySync => self.file.sync_data(),
            Bug::FailedSyncIgnored => self.file.sync_data().or(Ok(())),
            Bug::WatermarkBeforeSync => {
                catch_up(&self.late);
                self.late.lock().push(self.file.clone());
                Ok(())
            }
        }
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }
    fn allocate(&self, length: u64) -> io::Result<()> {
        self.file.allocate(length)
    }
    fn evict(&self, position: u64) -> io::Result<()> {
        self.file.evict(position)
    }
}
