//! Checks every batch of a data directory that no process has open, and says what it found. Changes nothing.

use std::path::Path;
use std::sync::Arc;

use millstream_protocol::{Incarnation, Offset, PartitionId, StreamId};

use crate::data_dir::{parse_partition_dir_name, parse_stream_dir_name};
use crate::error::{Context, LogError};
use crate::recovery::scan::{Scan, Step};
use crate::segment::{Identity, Kind, PREAMBLE_BYTES, Preamble, parse_file_name};
use crate::storage::{Access, FileStorage, Storage, read_exact_at};

/// A place that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: String,
    /// Where in the file it begins.
    pub position: u64,
    /// The offset expected there.
    pub from: Offset,
    /// The next intact offset; `None` if the file has none: then `from` may be a torn tail, which the next start cuts.
    pub resume: Option<Offset>,
    /// What is wrong.
    pub reason: String,
}

/// What one partition holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionReport {
    /// The stream; 0 is the catalog.
    pub stream: StreamId,
    /// The partition.
    pub partition: PartitionId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Whether these are the partition's records or its state.
    pub is_state: bool,
    /// Segments read.
    pub segments: u64,
    /// Batches whose checksums hold.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// The first and the next offset.
    pub offsets: (Offset, Offset),
    /// What is wrong, in order.
    pub damage: Vec<Damage>,
}

/// Reads everything in a data directory and reports each partition to `report`. The directory is locked meanwhile.
///
/// # Errors
/// [`LogError::Locked`], [`LogError::NewerFormat`], [`LogError::NotADataDirectory`], [`LogError::Io`]; damage is no error
/// but in the reports.
pub fn verify(root: &Path, report: &mut dyn FnMut(PartitionReport)) -> Result<(), LogError> {
    let storage = FileStorage::new()?;
    if !root.join("FORMAT").exists() {
        return Err(LogError::NotADataDirectory { path: root.to_owned() });
    }
    let _locked = crate::data_dir::DataDir::open(&storage, root, 0)?;
    verify_partitions(&storage, &root.join("catalog"), StreamId(0), Kind::State, report)?;
    let streams = root.join("streams");
    for entry in storage.list(&streams).context("list", &streams)? {
        if let Some(stream) = parse_stream_dir_name(&entry.name) {
            verify_partitions(&storage, &streams.join(&entry.name), stream, Kind::Records, report)?;
        }
    }
    Ok(())
}

fn verify_partitions(
    storage: &FileStorage,
    dir: &Path,
    stream: StreamId,
    kind: Kind,
    report: &mut dyn FnMut(PartitionReport),
) -> Result<(), LogError> {
    let entries = match storage.list(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.context("list", dir)?,
    };
    for entry in entries {
        let Some((partition, incarnation)) = parse_partition_dir_name(&entry.name) else { continue };
        let identity = Identity { stream, partition, incarnation, kind };
        let path = dir.join(&entry.name);
        report(verify_partition(storage, &path, identity)?);
        let state = path.join("state");
        if state.is_dir() {
            report(verify_partition(storage, &state, identity.state())?);
        }
    }
    Ok(())
}

fn verify_partition(storage: &FileStorage, dir: &Path, identity: Identity) -> Result<PartitionReport, LogError> {
    let mut segments: Vec<(Offset, u32)> =
        storage.list(dir).context("list", dir)?.iter().filter_map(|entry| parse_file_name(&entry.name)).collect();
    segments.sort_unstable();
    // Of two generations the newer one counts; a start falls back on the older one only if that is damaged.
    segments.reverse();
    segments.dedup_by_key(|(base, _)| *base);
    segments.reverse();
    let start = segments.first().map_or(Offset::ZERO, |first| first.0);
    let mut found = PartitionReport {
        stream: identity.stream,
        partition: identity.partition,
        incarnation: identity.incarnation,
        is_state: identity.kind == Kind::State,
        segments: 0,
        batches: 0,
        records: 0,
        bytes: 0,
        offsets: (start, start),
        damage: Vec::new(),
    };
    for (index, (base, generation)) in segments.iter().copied().enumerate() {
        let next_base = segments.get(index + 1).map(|next| next.0);
        let name = crate::segment::file_name(base, generation);
        let path = dir.join(&name);
        let file = storage.open(&path, Access::Read).context("open", &path)?;
        verify_segment(&file, &path, Preamble { identity, base, generation }, next_base, &mut found)?;
    }
    Ok(found)
}

fn verify_segment(
    file: &Arc<dyn crate::storage::StorageFile>,
    path: &Path,
    preamble: Preamble,
    next_base: Option<Offset>,
    found: &mut PartitionReport,
) -> Result<(), LogError> {
    let length = file.len().context("read", path)?;
    found.segments += 1;
    found.bytes += length;
    let name = path.display().to_string();
    let expected = found.offsets.1;
    if expected < preamble.base {
        let reason = "the segment before ends early, or one is missing".to_owned();
        found.damage.push(Damage {
            file: name.clone(),
            position: 0,
            from: expected,
            resume: Some(preamble.base),
            reason,
        });
        found.offsets.1 = preamble.base;
    }
    let head = read_exact_at(&**file, 0, PREAMBLE_BYTES.min(length) as usize).context("read", path)?;
    if !preamble.matches(&head) {
        let reason = "the preamble is damaged, or another file's".to_owned();
        found.damage.push(Damage { file: name, position: 0, from: preamble.base, resume: next_base, reason });
        found.offsets.1 = next_base.unwrap_or(preamble.base);
        return Ok(());
    }
    let mut scan = Scan::new(&**file, preamble.identity.incarnation, PREAMBLE_BYTES, length);
    loop {
        let expected = found.offsets.1;
        let (position, reason) = match scan.next().context("read", path)? {
            Step::End => return Ok(()),
            Step::Batch { header, .. } if header.base_offset == expected => {
                found.batches += 1;
                found.records += u64::from(header.record_count);
                found.offsets.1 = header.end_offset();
                continue;
            }
            Step::Batch { position, header } => {
                scan.seek(position);
                (position, format!("a batch of offset {} where {expected} belongs", header.base_offset))
            }
            Step::Bad { position, error } => (position, error.to_string()),
        };
        let resume = scan.resync(expected).context("read", path)?.map(|header| header.base_offset).or(next_base);
        let reason = match resume {
            None => format!("{reason} (at the end of the log: the next start cuts it if it was never synced)"),
            Some(_) => reason,
        };
        found.damage.push(Damage { file: name.clone(), position, from: expected, resume, reason });
        if let Some(resume) = resume {
            found.offsets.1 = resume;
        }
    }
}
