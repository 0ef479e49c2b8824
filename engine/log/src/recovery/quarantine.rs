//! Keeps what recovery cuts off or does not understand, under names that say where it came from.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use crate::error::{Context, LogError};
use crate::storage::{Storage, StorageFile};

/// Bytes copied at once.
const COPY_BYTES: usize = 1 << 20;

/// Copies `from..to` of a file into the quarantine and makes the copy durable. Returns its path.
pub(crate) fn keep_bytes(
    storage: &dyn Storage,
    quarantine: &Path,
    label: &str,
    file: &dyn StorageFile,
    from: u64,
    to: u64,
) -> Result<PathBuf, LogError> {
    let (path, copy) = create_unique(storage, quarantine, label)?;
    let mut buffer = vec![0; COPY_BYTES.min((to - from) as usize)];
    let mut position = from;
    while position < to {
        let want = buffer.len().min((to - position) as usize);
        let read = file.read_at(&mut buffer[..want], position).context("read", &path)?;
        if read == 0 {
            break;
        }
        copy.write_all_at(&[IoSlice::new(&buffer[..read])], position - from).context("write", &path)?;
        position += read as u64;
    }
    copy.sync_data().context("sync", &path)?;
    storage.sync_dir(quarantine).context("sync", quarantine)?;
    Ok(path)
}

/// Moves a file or directory into the quarantine. Returns its new path.
pub(crate) fn keep_entry(
    storage: &dyn Storage,
    quarantine: &Path,
    label: &str,
    entry: &Path,
) -> Result<PathBuf, LogError> {
    // The name is claimed by an empty file or, for a directory, made free by its number.
    let taken: Vec<String> =
        storage.list(quarantine).context("list", quarantine)?.into_iter().map(|entry| entry.name).collect();
    let name = (0..).map(|n| numbered(label, n)).find(|name| !taken.contains(name)).expect("numbers do not end");
    let target = quarantine.join(name);
    storage.rename(entry, &target).context("move into quarantine", entry)?;
    if let Some(parent) = entry.parent() {
        storage.sync_dir(parent).context("sync", parent)?;
    }
    storage.sync_dir(quarantine).context("sync", quarantine)?;
    Ok(target)
}

fn create_unique(
    storage: &dyn Storage,
    quarantine: &Path,
    label: &str,
) -> Result<(PathBuf, std::sync::Arc<dyn StorageFile>), LogError> {
    for number in 0.. {
        let path = quarantine.join(numbered(label, number));
        match storage.create(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(LogError::io("create", &path, error)),
        }
    }
    unreachable!("numbers do not end")
}

fn numbered(label: &str, number: u32) -> String {
    if number == 0 { label.to_owned() } else { format!("{label}.{number}") }
}
