//! Open files under a limit: thousands of segments, a few hundred descriptors.
//!
//! A [`HeldFile`] opens its file when it is used and may be closed when it is not; the coldest goes first (the clock
//! algorithm: one bit for each file, set by use, cleared by the hand). A descriptor with unsynced writes is never closed
//! before its sync, because the kernel tells a write-back error only to descriptors that were open at the time: if
//! nothing else can be closed it is synced first, and a sync that fails then is remembered and told to the next
//! `sync_data`.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Access;

/// Errno values that say that no descriptor is left: of the process, of the system.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;
const EIO: i32 = 5;

/// Whether an error only says that too many files are open.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

/// The files that are open, and how many may be.
#[derive(Debug)]
pub(crate) struct Descriptors {
    max: usize,
    open: Mutex<VecDeque<Weak<HeldFile>>>,
}

/// A file that is open when it needs to be.
#[derive(Debug)]
pub(crate) struct HeldFile {
    path: PathBuf,
    access: Access,
    slot: Mutex<Slot>,
    used: AtomicBool,
    all: Arc<Descriptors>,
    /// Itself, for the list of those that are open.
    this: Weak<HeldFile>,
}

#[derive(Debug, Default)]
struct Slot {
    file: Option<Arc<File>>,
    /// Written since the last sync.
    dirty: bool,
    /// A sync before a close has failed.
    failed: bool,
}

impl Descriptors {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, open: Mutex::default() })
    }

    /// Holds a file that has just been opened.
    pub(crate) fn hold(self: &Arc<Self>, path: PathBuf, access: Access, file: File) -> Arc<HeldFile> {
        let slot = Slot { file: Some(Arc::new(file)), ..Slot::default() };
        let held = Arc::new_cyclic(|this| HeldFile {
            path,
            access,
            slot: Mutex::new(slot),
            used: AtomicBool::new(true),
            all: self.clone(),
            this: this.clone(),
        });
        self.enter(Arc::downgrade(&held));
        held
    }

    /// Opens a file, closing others if there are too many.
    pub(crate) fn open(&self, how: &OpenOptions, path: &std::path::Path) -> io::Result<File> {
        match how.open(path) {
            // Others of this process hold more than was kept back for them: give them some of ours.
            Err(error) if is_out_of_descriptors(&error) => {
                self.close_some(self.max / 4 + 1);
                how.open(path)
            }
            other => other,
        }
    }

    fn enter(&self, held: Weak<HeldFile>) {
        let surplus = {
            let mut open = self.open.lock();
            open.push_back(held);
            open.len().saturating_sub(self.max)
        };
        if surplus > 0 {
            self.close_some(surplus);
        }
    }

    /// Closes up to `count` files: the coldest that are clean; if there are none, the coldest after its sync.
    fn close_some(&self, count: usize) {
        let mut closed = 0;
        // Twice round clears every use bit; then only what is in use this moment, or dirty, stays.
        for may_sync in [false, false, true] {
            let round = self.open.lock().len();
            for _ in 0..round {
                if closed >= count {
                    return;
                }
                let Some(next) = self.open.lock().pop_front() else { return };
                let Some(held) = next.upgrade() else { continue };
                if held.close(may_sync) {
                    closed += 1;
                } else {
                    self.open.lock().push_back(next);
                }
            }
        }
    }
}

impl HeldFile {
    /// The file, opened if need be.
    pub(crate) fn file(&self) -> io::Result<Arc<File>> {
        self.take(false)
    }

    /// The same, to be written to.
    pub(crate) fn file_to_write(&self) -> io::Result<Arc<File>> {
        self.take(true)
    }

    fn take(&self, dirty: bool) -> io::Result<Arc<File>> {
        self.used.store(true, Ordering::Relaxed);
        let opened = {
            let mut slot = self.slot.lock();
            slot.dirty |= dirty;
            match &slot.file {
                Some(file) => return Ok(file.clone()),
                None => {
                    let mut how = OpenOptions::new();
                    how.read(true).write(self.access == Access::ReadWrite);
                    let file = Arc::new(self.all.open(&how, &self.path)?);
                    slot.file = Some(file.clone());
                    file
                }
            }
        };
        // Outside the slot's lock: making room closes other files, under theirs.
        self.all.enter(self.this.clone());
        Ok(opened)
    }

    /// Makes what was written durable; a file that has been closed since was synced then.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let file = {
            let mut slot = self.slot.lock();
            if slot.failed {
                return Err(io::Error::from_raw_os_error(EIO));
            }
            match &slot.file {
                None => return Ok(()),
                Some(file) => {
                    let file = file.clone();
                    slot.dirty = false;
                    file
                }
            }
        };
        file.sync_data().inspect_err(|_| self.slot.lock().dirty = true)
    }

    /// Closes the file if it is cold; one with unsynced writes only after a sync, and only if `may_sync`.
    fn close(&self, may_sync: bool) -> bool {
        if self.used.swap(false, Ordering::Relaxed) && !may_sync {
            return false;
        }
        let Some(mut slot) = self.slot.try_lock() else { return false };
        // Whoever has it in hand would keep it open anyway.
        if slot.file.as_ref().is_none_or(|file| Arc::strong_count(file) > 1) || slot.dirty && !may_sync {
            return slot.file.is_none();
        }
        if let (true, Some(file)) = (slot.dirty, &slot.file) {
            slot.failed |= file.sync_data().is_err();
            slot.dirty = false;
        }
        slot.file = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn held(all: &Arc<Descriptors>, dir: &std::path::Path, name: &str) -> Arc<HeldFile> {
        let path = dir.join(name);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        all.hold(path, Access::ReadWrite, file)
    }

    fn open_count(files: &[Arc<HeldFile>]) -> usize {
        files.iter().filter(|file| file.slot.lock().file.is_some()).count()
    }

    #[test]
    fn many_files_work_under_a_few_descriptors_and_nothing_written_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let all = Descriptors::new(8);
        let files: Vec<_> = (0..100).map(|n| held(&all, dir.path(), &n.to_string())).collect();
        for round in 0..3u64 {
            for (n, file) in files.iter().enumerate() {
                let bytes = (n as u64 * 10 + round).to_le_bytes();
                file.file_to_write().unwrap().write_all_at(&bytes, round * 8).unwrap();
                assert!(open_count(&files) <= 9, "{}", open_count(&files));
            }
        }
        for (n, file) in files.iter().enumerate() {
            file.sync().unwrap();
            let mut bytes = [0; 24];
            file.file().unwrap().read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(bytes[16..], (n as u64 * 10 + 2).to_le_bytes());
        }
    }

    #[test]
    fn the_clean_and_cold_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let all = Descriptors::new(3);
        let dirty = held(&all, dir.path(), "dirty");
        dirty.file_to_write().unwrap();
        let cold = held(&all, dir.path(), "cold");
        let others: Vec<_> = (0..2).map(|n| held(&all, dir.path(), &n.to_string())).collect();
        assert!(dirty.slot.lock().file.is_some(), "its sync has not come");
        assert!(cold.slot.lock().file.is_none());
        assert_eq!(open_count(&others), 2);
    }
}
