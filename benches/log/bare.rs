//! The bare system calls: what a program that only writes and reads files would do.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::Error;

/// MB/s of writing `bytes` in blocks to a new file.
pub fn written(path: &Path, block: &[u8], bytes: u64) -> Result<f64, Error> {
    appended(path, block, bytes, |_| Ok(()))
}

/// The same, each block with its own `fdatasync`.
pub fn synced(path: &Path, block: &[u8], bytes: u64) -> Result<f64, Error> {
    appended(path, block, bytes, File::sync_data)
}

fn appended(
    path: &Path,
    block: &[u8],
    bytes: u64,
    after_each: impl Fn(&File) -> std::io::Result<()>,
) -> Result<f64, Error> {
    let file = File::create(path)?;
    crate::settle();
    let start = Instant::now();
    let mut position = 0;
    while position < bytes {
        file.write_all_at(block, position)?;
        after_each(&file)?;
        position += block.len() as u64;
    }
    let rate = position as f64 / 1e6 / start.elapsed().as_secs_f64();
    drop(file);
    std::fs::remove_file(path)?;
    Ok(rate)
}

/// As [`written`], with never more than `unsynced` bytes that a second thread has not synced.
pub fn written_bounded(path: &Path, block: &[u8], bytes: u64, unsynced: u64) -> Result<f64, Error> {
    let file = File::create(path)?;
    let (written, synced, done) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    crate::settle();
    let start = Instant::now();
    let elapsed = std::thread::scope(|scope| -> Result<_, Error> {
        let syncer = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let upto = written.load(Ordering::Acquire);
                if upto - synced.load(Ordering::Acquire) > unsynced / 2 {
                    file.sync_data()?;
                    synced.store(upto, Ordering::Release);
                } else {
                    std::thread::yield_now();
                }
            }
            Ok::<_, std::io::Error>(())
        });
        let mut position = 0;
        while position < bytes {
            while position - synced.load(Ordering::Acquire) > unsynced && !syncer.is_finished() {
                std::thread::yield_now();
            }
            file.write_all_at(block, position)?;
            position += block.len() as u64;
            written.store(position, Ordering::Release);
        }
        let elapsed = start.elapsed();
        done.store(true, Ordering::Release);
        syncer.join().map_err(|_| "the syncing thread panicked")??;
        Ok(elapsed)
    })?;
    let rate = written.into_inner() as f64 / 1e6 / elapsed.as_secs_f64();
    drop(file);
    std::fs::remove_file(path)?;
    Ok(rate)
}

/// MB/s of reading a file in chunks into one page-aligned buffer.
pub fn read(path: &Path, chunk: usize) -> Result<f64, Error> {
    const PAGE: usize = 4 << 10;
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut memory = vec![0; chunk + PAGE];
    let at = memory.as_ptr().align_offset(PAGE).min(PAGE);
    let buffer = &mut memory[at..at + chunk];
    crate::settle();
    let start = Instant::now();
    let mut position = 0;
    while position < length {
        let take = chunk.min((length - position) as usize);
        file.read_exact_at(&mut buffer[..take], position)?;
        std::hint::black_box(&buffer[..take]);
        position += take as u64;
    }
    Ok(length as f64 / 1e6 / start.elapsed().as_secs_f64())
}
