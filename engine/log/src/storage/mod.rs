//! What the log needs of a file system, and what it may rely on.
//!
//! Contract
//! - Data is durable only once `sync_data` of *that* file has returned `Ok`; a name (created, renamed, removed) only
//!   once `sync_dir` of *its* directory has. Nothing else orders or persists anything.
//! - After a failed `sync_data` nothing is known of what was unsynced, for ever: a later `Ok` proves nothing, and a
//!   read may show bytes that the medium does not hold until `evict`.
//! - A write that fails may have written any part of its bytes.
//!
//! [`FileStorage`] is the real one. Another is a simulator's business: all of the log's I/O goes through here.

pub(crate) mod descriptors;
mod file;

use std::io;
use std::path::Path;
use std::sync::Arc;

pub use file::FileStorage;

/// A directory entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name; names that are not UTF-8 are shown with replacement characters (the log writes none).
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// Room in a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What may still be written.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// Whether a file may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads only.
    Read,
    /// Reads and writes.
    ReadWrite,
}

/// A file system. Every call may block.
pub trait Storage: Send + Sync + 'static {
    /// Creates a directory and its missing parents; an existing one is fine.
    ///
    /// # Errors
    /// The system's.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Lists a directory, sorted by name.
    ///
    /// # Errors
    /// The system's; `NotFound` if there is none.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;

    /// Creates a file that must not exist, for reading and writing.
    ///
    /// # Errors
    /// The system's; `AlreadyExists`.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>>;

    /// Opens a file that exists.
    ///
    /// # Errors
    /// The system's; `NotFound`.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn StorageFile>>;

    /// Renames a file or directory; an existing file at `to` is replaced.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// The system's.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory and what is in it.
    ///
    /// # Errors
    /// The system's.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Makes a directory's entries durable.
    ///
    /// # Errors
    /// The system's.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// How much room the file system of `path` has.
    ///
    /// # Errors
    /// The system's; `Unsupported` where it does not say.
    fn space(&self, path: &Path) -> io::Result<Space> {
        let _ = path;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Takes an exclusive lock, held until the guard is dropped or the process dies.
    ///
    /// # Errors
    /// `WouldBlock` if another holds it; else the system's.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
}

/// An open file. Positions are given with each call, so it may be shared.
pub trait StorageFile: Send + Sync {
    /// Its length in bytes.
    ///
    /// # Errors
    /// The system's.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    ///
    /// # Errors
    /// The system's.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|length| length == 0)
    }

    /// Reads at `position`; fewer bytes than asked only at the end of the file.
    ///
    /// # Errors
    /// The system's.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;

    /// Writes all the slices, one behind the other, from `position` on.
    ///
    /// # Errors
    /// The system's; part of the bytes may have been written.
    fn write_all_at(&self, slices: &[io::IoSlice<'_>], position: u64) -> io::Result<()>;

    /// Makes the data, and the length, durable.
    ///
    /// # Errors
    /// The system's; see the contract above.
    fn sync_data(&self) -> io::Result<()>;

    /// Cuts or extends the file.
    ///
    /// # Errors
    /// The system's.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Makes the file `length` bytes long, with room for all of them.
    ///
    /// # Errors
    /// The system's; the file may then have any length up to that.
    fn allocate(&self, length: u64) -> io::Result<()>;

    /// Drops clean pages from `position` on from the cache, so that the next read meets the medium. Advice: a system
    /// without it does nothing.
    ///
    /// # Errors
    /// The system's.
    fn evict(&self, position: u64) -> io::Result<()>;
}

/// Reads exactly `length` bytes at `position`.
///
/// # Errors
/// The system's; `UnexpectedEof` if the file ends before.
pub fn read_exact_at(file: &dyn StorageFile, position: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; length];
    match file.read_at(&mut buffer, position)? {
        read if read == length => Ok(buffer),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Writes a small file so that it is there whole or not at all: temporary file, sync, rename, sync of the directory.
///
/// # Errors
/// The system's.
pub fn write_atomically(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let temporary = path.with_extension("tmp");
    match storage.remove_file(&temporary) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let file = storage.create(&temporary)?;
    file.write_all_at(&[io::IoSlice::new(bytes)], 0)?;
    file.sync_data()?;
    drop(file);
    storage.rename(&temporary, path)?;
    storage.sync_dir(directory)
}
