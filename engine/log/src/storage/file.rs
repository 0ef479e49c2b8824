//! The real file system: `std::fs`, and `rustix` for vectored writes and cache advice. Files are open only while they are
//! used ([`descriptors`](super::descriptors)).

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags, FlockOperation};

use super::descriptors::{Descriptors, HeldFile};
use super::{Access, Entry, Space, Storage, StorageFile};
use crate::error::LogError;

/// The most slices of one `pwritev` (Linux's `IOV_MAX`).
const SLICES_MAX: usize = 1024;

/// Bytes of one `pwritev`, about: larger ones stall now and then for tens of milliseconds while the kernel looks for pages.
const CALL_BYTES: usize = 1 << 20;

/// How many of the slices one call writes.
fn call_length(slices: &[IoSlice<'_>]) -> usize {
    let mut bytes = 0;
    let mut has_room = |slice: &&IoSlice<'_>| {
        let had_room = bytes < CALL_BYTES;
        bytes += slice.len();
        had_room
    };
    slices.iter().take(SLICES_MAX).take_while(|slice| has_room(slice)).count()
}

/// Descriptors left to everything else: sockets, directories, what a lake has open.
const KEPT_BACK: u64 = 64;
/// With fewer than this nothing works.
const LIMIT_MIN: u64 = 128;
/// More open files than this gain nothing.
const OPEN_MAX: u64 = 1 << 16;

/// The machine's file system.
#[derive(Debug, Clone)]
pub struct FileStorage(Arc<Descriptors>);

impl FileStorage {
    /// With as many files open as the process's limit (`ulimit -n`) allows, less 64 for everything else.
    ///
    /// # Errors
    /// [`LogError::TooFewDescriptors`] below 128.
    pub fn new() -> Result<Self, LogError> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        if limit < LIMIT_MIN {
            return Err(LogError::TooFewDescriptors { limit, need: LIMIT_MIN });
        }
        Ok(Self::with_open_max((limit - KEPT_BACK).min(OPEN_MAX) as usize))
    }

    /// With at most so many files open.
    pub fn with_open_max(open_max: usize) -> Self {
        Self(Descriptors::new(open_max))
    }
}

impl Storage for FileStorage {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        // Records are nobody else's business: owner only.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            entries.push(Entry { name, is_dir: entry.file_type()?.is_dir() });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let mut how = OpenOptions::new();
        how.read(true).write(true).create_new(true).mode(0o600);
        let file = self.0.open(&how, path)?;
        Ok(self.0.hold(path.to_owned(), Access::ReadWrite, file))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        let mut how = OpenOptions::new();
        how.read(true).write(access == Access::ReadWrite);
        let file = self.0.open(&how, path)?;
        Ok(self.0.hold(path.to_owned(), access, file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let found = rustix::fs::statvfs(path)?;
        Ok(Space { free: found.f_bavail * found.f_frsize, total: found.f_blocks * found.f_frsize })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(file))
    }
}

impl StorageFile for HeldFile {
    fn len(&self) -> io::Result<u64> {
        self.file()?.metadata().map(|metadata| metadata.len())
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let file = self.file()?;
        let mut done = 0;
        while done < buffer.len() {
            match file.read_at(&mut buffer[done..], position + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_all_at(&self, slices: &[IoSlice<'_>], mut position: u64) -> io::Result<()> {
        let file = self.file_to_write()?;
        let mut rest = slices;
        while !rest.is_empty() {
            let (group, behind) = rest.split_at(call_length(rest));
            rest = behind;
            let length: usize = group.iter().map(|slice| slice.len()).sum();
            let mut written = loop {
                match rustix::io::pwritev(&*file, group, position) {
                    Ok(written) => break written,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            };
            position += written as u64;
            if written == length {
                continue;
            }
            // A short write is rare (a full disk, a signal): finish slice by slice.
            for slice in group {
                let skip = written.min(slice.len());
                written -= skip;
                file.write_all_at(&slice[skip..], position)?;
                position += (slice.len() - skip) as u64;
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file_to_write()?.set_len(length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let file = self.file_to_write()?;
        file.set_len(0)?;
        rustix::fs::fallocate(&*file, FallocateFlags::empty(), 0, length).map_err(io::Error::from)
    }

    fn evict(&self, position: u64) -> io::Result<()> {
        rustix::fs::fadvise(&*self.file()?, position, None, Advice::DontNeed).map_err(io::Error::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_slices_are_written_in_order_at_their_position() {
        let directory = tempfile::tempdir().unwrap();
        let file = FileStorage::with_open_max(8).create(&directory.path().join("f")).unwrap();
        let parts: Vec<Vec<u8>> = (0..3_000u32).map(|i| i.to_le_bytes().to_vec()).collect();
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        file.write_all_at(&slices, 7).unwrap();
        let mut read = vec![0; 12_000];
        assert_eq!(file.read_at(&mut read, 7).unwrap(), 12_000);
        assert_eq!(read, parts.concat());
        assert_eq!(file.read_at(&mut read, 12_000).unwrap(), 7, "fewer only at the end");
    }

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("LOCK");
        let first = FileStorage::with_open_max(8).lock(&path).unwrap();
        assert_eq!(FileStorage::with_open_max(8).lock(&path).err().map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
        drop(first);
        assert!(FileStorage::with_open_max(8).lock(&path).is_ok());
    }
}
