//! The real file system: `std::fs`, and `rustix` for vectored writes and cache advice.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Advice, FlockOperation};

use super::{Access, Entry, Storage, StorageFile};

/// The most slices of one `pwritev` (Linux's `IOV_MAX`).
const SLICES_MAX: usize = 1024;

/// The machine's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileStorage;

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
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Arc::new(file))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        let file = OpenOptions::new().read(true).write(access == Access::ReadWrite).open(path)?;
        Ok(Arc::new(file))
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

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(file))
    }
}

impl StorageFile for File {
    fn len(&self) -> io::Result<u64> {
        self.metadata().map(|metadata| metadata.len())
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match FileExt::read_at(self, &mut buffer[done..], position + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_all_at(&self, slices: &[IoSlice<'_>], mut position: u64) -> io::Result<()> {
        for group in slices.chunks(SLICES_MAX) {
            let length: usize = group.iter().map(|slice| slice.len()).sum();
            let mut written = loop {
                match rustix::io::pwritev(self, group, position) {
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
                self.write_all_at_plain(&slice[skip..], position)?;
                position += (slice.len() - skip) as u64;
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        File::set_len(self, length)
    }

    fn evict(&self, position: u64) -> io::Result<()> {
        rustix::fs::fadvise(self, position, None, Advice::DontNeed).map_err(io::Error::from)
    }
}

/// `FileExt::write_all_at` under a name of its own: the trait's method hides it.
trait PlainWrite {
    fn write_all_at_plain(&self, bytes: &[u8], position: u64) -> io::Result<()>;
}

impl PlainWrite for File {
    fn write_all_at_plain(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_slices_are_written_in_order_at_their_position() {
        let directory = tempfile::tempdir().unwrap();
        let file = FileStorage.create(&directory.path().join("f")).unwrap();
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
        let first = FileStorage.lock(&path).unwrap();
        assert_eq!(FileStorage.lock(&path).err().map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
        drop(first);
        assert!(FileStorage.lock(&path).is_ok());
    }
}
