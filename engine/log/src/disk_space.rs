//! Room on the disk: records are refused while there is little of it, so that what frees it still works.
//!
//! Below the *watermark* records from clients get `disk full`; reads, deletions, commits and whatever else keeps state
//! go on. If other programs take even that, state has a *reserve*: a file of allocated, unused blocks that is cut to
//! nothing when a state log finds no room, and is allocated again once there is enough. Appends resume by themselves.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::storage::{Access, Storage};

/// The watermark where none is set: a twentieth of the file system, at most this.
const WATERMARK_BYTES_MAX: u64 = 1 << 30;
const WATERMARK_SHARE: u64 = 20;
/// The reserve: half the watermark, at most this.
const RESERVE_BYTES_MAX: u64 = 64 << 20;

/// What is known of a data directory's file system.
pub(crate) struct DiskSpace {
    storage: Arc<dyn Storage>,
    root: PathBuf,
    watermark_bytes: Option<u64>,
    is_low: AtomicBool,
    reserve: Mutex<Reserve>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reserve {
    /// Nobody has looked yet.
    Unknown,
    Held,
    Spent,
}

impl DiskSpace {
    /// `watermark_bytes`: refuse records below so many free bytes; 0 never, `None` as the file system's size suggests.
    pub(crate) fn new(storage: Arc<dyn Storage>, root: PathBuf, watermark_bytes: Option<u64>) -> Self {
        let reserve = Mutex::new(Reserve::Unknown);
        Self { storage, root, watermark_bytes, is_low: AtomicBool::new(false), reserve }
    }

    /// Whether records are refused.
    pub(crate) fn is_low(&self) -> bool {
        self.is_low.load(Ordering::Relaxed)
    }

    /// Looks how much room there is.
    pub(crate) fn look(&self) {
        // A system that does not say has room until a write fails.
        let Ok(space) = self.storage.space(&self.root) else { return };
        let watermark = self.watermark_bytes.unwrap_or((space.total / WATERMARK_SHARE).min(WATERMARK_BYTES_MAX));
        let is_low = space.free < watermark;
        if self.is_low.swap(is_low, Ordering::Relaxed) != is_low {
            match is_low {
                true => tracing::warn!(free = space.free, watermark, "the disk is nearly full: records are refused"),
                false => tracing::info!(free = space.free, watermark, "there is room on the disk again"),
            }
        }
        let wanted = (watermark / 2).min(RESERVE_BYTES_MAX);
        let mut reserve = self.reserve.lock();
        if *reserve != Reserve::Held && wanted > 0 && space.free >= watermark + wanted {
            match allocate(&*self.storage, &self.path(), wanted) {
                Ok(()) => *reserve = Reserve::Held,
                Err(error) => tracing::debug!(%error, "no reserve was allocated"),
            }
        }
    }

    /// Gives the reserve up; whether that has freed anything.
    pub(crate) fn release(&self) -> bool {
        let mut reserve = self.reserve.lock();
        if *reserve == Reserve::Spent {
            return false;
        }
        *reserve = Reserve::Spent;
        let cut = self.storage.open(&self.path(), Access::ReadWrite).and_then(|file| {
            let held = file.len()?;
            file.set_len(0)?;
            file.sync_data()?;
            Ok(held)
        });
        match cut {
            Ok(held) if held > 0 => {
                tracing::warn!(bytes = held, "the disk is full: state is written into the reserve");
                true
            }
            _ => false,
        }
    }

    fn path(&self) -> PathBuf {
        self.root.join("reserve")
    }
}

fn allocate(storage: &dyn Storage, path: &Path, bytes: u64) -> io::Result<()> {
    let file = match storage.open(path, Access::ReadWrite) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => storage.create(path)?,
        other => other?,
    };
    if file.len()? == bytes { Ok(()) } else { file.allocate(bytes) }
}
