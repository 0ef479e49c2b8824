//! Snapshots of a state log: `{offset:020}.snapshot`, the state below that offset.
//!
//! ```text
//!  at  size  field
//!   0     8  magic "MSTRSNAP"
//!   8     4  format version (1)
//!  12     4  CRC-32 of the whole file with this field as zero
//!  16     8  incarnation id of the state log
//!  24     8  offset
//!  32     8  length of what follows
//!  40        the machine's bytes
//! ```
//! Written whole or not at all (temporary file, sync, rename, sync of the directory). Two are kept: if the newest is
//! damaged, the one before and the events since do as well. Events below the older one may then go.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_protocol::{Incarnation, Offset};

use crate::error::{Context, LogError};
use crate::partition::Partition;
use crate::storage::{Access, Storage, read_exact_at, write_atomically};

const MAGIC: &[u8; 8] = b"MSTRSNAP";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 40;
const CRC: usize = 12;
/// What is larger is not read: a machine's state is bounded far below this.
const SNAPSHOT_BYTES_MAX: u64 = 1 << 30;
const KEPT: usize = 2;

/// The whole snapshots in a state log's directory, newest first.
pub(crate) fn load(
    storage: &dyn Storage,
    dir: &Path,
    incarnation: Incarnation,
) -> Result<Vec<(Offset, Vec<u8>)>, LogError> {
    let mut whole = Vec::new();
    for (offset, path) in list(storage, dir)?.into_iter().rev() {
        let file = storage.open(&path, Access::Read).context("open", &path)?;
        let length = file.len().context("read", &path)?;
        if length > SNAPSHOT_BYTES_MAX {
            tracing::error!(file = %path.display(), length, "a snapshot of impossible length is not used");
            continue;
        }
        let bytes = read_exact_at(&*file, 0, length as usize).context("read", &path)?;
        match decode(&bytes, incarnation, offset) {
            Some(state) => whole.push((offset, state)),
            None => tracing::error!(file = %path.display(), "a damaged snapshot is not used"),
        }
    }
    Ok(whole)
}

/// Writes a snapshot, forgets all but the newest two, and the events below the older of those.
pub(super) fn store(partition: &Arc<Partition>, offset: Offset, state: &[u8]) -> Result<(), LogError> {
    let storage = &*partition.shared().storage;
    let path = partition.dir().join(format!("{:020}.snapshot", offset.0));
    write_atomically(storage, &path, &encode(state, partition.incarnation(), offset)).context("write", &path)?;
    let snapshots = list(storage, partition.dir())?;
    let surplus = snapshots.len().saturating_sub(KEPT);
    for (_, old) in &snapshots[..surplus] {
        storage.remove_file(old).context("delete", old)?;
    }
    match snapshots.get(snapshots.len().saturating_sub(KEPT)) {
        Some((older, _)) if snapshots.len() >= KEPT => partition.delete_before(*older).map(|_| ()),
        _ => Ok(()),
    }
}

fn list(storage: &dyn Storage, dir: &Path) -> Result<Vec<(Offset, PathBuf)>, LogError> {
    let entries = storage.list(dir).context("list", dir)?;
    let offset = |name: &str| name.strip_suffix(".snapshot")?.parse().ok().map(Offset);
    let mut snapshots: Vec<(Offset, PathBuf)> =
        entries.iter().filter_map(|entry| Some((offset(&entry.name)?, dir.join(&entry.name)))).collect();
    snapshots.sort();
    Ok(snapshots)
}

fn encode(state: &[u8], incarnation: Incarnation, offset: Offset) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + state.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&incarnation.0.to_le_bytes());
    out.extend_from_slice(&offset.0.to_le_bytes());
    out.extend_from_slice(&(state.len() as u64).to_le_bytes());
    out.extend_from_slice(state);
    let crc = crc32fast::hash(&out);
    out[CRC..CRC + 4].copy_from_slice(&crc.to_le_bytes());
    out
}

/// A snapshot has one encoding: it is whole if encoding its state again gives the same bytes.
fn decode(bytes: &[u8], incarnation: Incarnation, offset: Offset) -> Option<Vec<u8>> {
    let state = bytes.get(HEADER_BYTES..)?;
    (encode(state, incarnation, offset) == bytes).then(|| state.to_vec())
}
