//! What the bare machine does with files: grouped synced writes, and reads of what the page cache holds.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use memmap2::Mmap;

/// Appends `block` to a new file `count` times, each time with its own `fdatasync`; the time of each.
///
/// # Errors
/// What the file system says.
pub fn synced_appends(path: &Path, block: &[u8], count: usize) -> io::Result<Vec<Duration>> {
    let mut file = File::create(path)?;
    let append = |_| {
        let start = Instant::now();
        file.write_all(block)?;
        file.sync_data()?;
        Ok(start.elapsed())
    };
    (0..count).map(append).collect()
}

/// Writes a file of `length` bytes, repeating `block`. Its pages stay in the cache.
///
/// # Errors
/// What the file system says.
pub fn fill(path: &Path, block: &[u8], length: u64) -> io::Result<()> {
    File::create(path)?;
    overwrite(path, block, length)?.sync_data()
}

/// Writes `length` bytes from a file's beginning, repeating `block`; makes it where it is not there.
///
/// # Errors
/// What the file system says.
pub fn overwrite(path: &Path, block: &[u8], length: u64) -> io::Result<File> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    let mut position = 0;
    while position < length {
        let take = (length - position).min(block.len() as u64);
        file.write_all_at(&block[..take as usize], position)?;
        position += take;
    }
    Ok(file)
}

/// A file mapped into memory, as the ceiling of reads: no call, no copy.
///
/// Not how the product reads: a bad sector under a map kills the process.
///
/// # Errors
/// What the file system says.
#[allow(unsafe_code, reason = "a map is unsound if the file is cut while it lives: the benches' files are their own")]
pub fn map(path: &Path) -> io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: the file was made by this process, in a directory of its own, and is not changed while it is mapped.
    unsafe { Mmap::map(&file) }
}

/// Reads a file from its beginning with `pread` into page-aligned buffers, which are used again once nobody holds them.
#[derive(Debug)]
pub struct AlignedReader {
    file: File,
    position: u64,
    chunk: usize,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// Part of a buffer that goes back when it is dropped.
#[derive(Debug)]
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

const PAGE: usize = 4 << 10;

impl AlignedReader {
    /// Chunks of `chunk` bytes.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(path: &Path, chunk: usize) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, position: 0, chunk, free: Arc::default() })
    }

    /// The next chunk; `None` at the end.
    ///
    /// # Errors
    /// What the file system says.
    #[allow(clippy::should_implement_trait, reason = "an iterator of results says less")]
    pub fn next(&mut self) -> io::Result<Option<Bytes>> {
        let free = self.free.lock().ok().and_then(|mut free| free.pop());
        let mut memory = free.unwrap_or_else(|| vec![0; self.chunk + PAGE]);
        let start = memory.as_ptr().align_offset(PAGE).min(PAGE);
        let length = self.file.read_at(&mut memory[start..start + self.chunk], self.position)?;
        self.position += length as u64;
        let buffer = Aligned { memory, start, length, free: Arc::clone(&self.free) };
        Ok((length > 0).then(|| Bytes::from_owner(buffer)))
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        if let Ok(mut free) = self.free.lock() {
            free.push(std::mem::take(&mut self.memory));
        }
    }
}

/// CRC-32 of a file read with `pread` into one page-aligned buffer of `chunk` bytes.
///
/// # Errors
/// What the file system says.
pub fn crc_by_pread(path: &Path, chunk: usize) -> io::Result<u32> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    // Where the buffer begins within a page halves or doubles the speed of the kernel's copy on some machines.
    let mut memory = vec![0; chunk + PAGE];
    let start = memory.as_ptr().align_offset(PAGE).min(PAGE);
    let buffer = &mut memory[start..start + chunk];
    let mut hasher = crc32fast::Hasher::new();
    let mut position = 0;
    while position < length {
        let take = chunk.min((length - position) as usize);
        file.read_exact_at(&mut buffer[..take], position)?;
        hasher.update(&buffer[..take]);
        position += take as u64;
    }
    Ok(hasher.finalize())
}

/// CRC-32 of a mapped file.
///
/// # Errors
/// What the file system says.
pub fn crc_by_map(path: &Path) -> io::Result<u32> {
    Ok(crc32fast::hash(&map(path)?))
}
