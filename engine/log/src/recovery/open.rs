//! Opens a partition's segments: reads the medium, judges the tail, cuts and quarantines, and only then says where the
//! log ends.
//!
//! Order (a failed sync is not cured by a restart, and what a plain kill left dirty may never have been synced):
//! `fdatasync` the active segment, drop its pages from the cache, read and verify, cut and sync, `fdatasync` once
//! more; only then may the high watermark be published.

use std::path::Path;
use std::sync::Arc;

use millstream_protocol::{Offset, Timestamp};

use super::scan::Scan;
use super::tail::{Judgement, Role, judge};
use super::{generations, quarantine};
use crate::error::{Context, LogError};
use crate::index;
use crate::segment::{Extent, Identity, PREAMBLE_BYTES, Preamble, Segment, parse_file_name};
use crate::storage::{Access, Storage, read_exact_at};

/// An index file larger than this is not one of ours.
const INDEX_BYTES_MAX: u64 = 64 << 20;

/// Where things are and how they are made.
pub(crate) struct Place<'a> {
    pub storage: &'a dyn Storage,
    pub dir: &'a Path,
    pub quarantine: &'a Path,
    pub identity: Identity,
    pub index_interval: u64,
}

/// What opening did that an operator should know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Bytes read and verified.
    pub bytes_read: u64,
    /// Bytes cut off as a torn tail (kept in quarantine).
    pub bytes_cut: u64,
    /// Files moved into quarantine.
    pub files_quarantined: usize,
    /// Damaged ranges found.
    pub holes: usize,
}

/// Opens all segments of a partition; at least one comes back, the last is the active one. `start` is where a
/// partition without a segment begins.
pub(crate) fn open_segments(place: &Place<'_>, start: Offset) -> Result<(Vec<Arc<Segment>>, Recovered), LogError> {
    let mut recovered = Recovered::default();
    let mut names = list_segments(place, &mut recovered)?;
    let last = match names.pop() {
        None => None,
        Some(name) => match open_active(place, name, &names, &mut recovered)? {
            // A crash between creation and preamble: the one before is the active one again.
            None => match names.pop() {
                None => None,
                Some(name) => open_active(place, name, &names, &mut recovered)?,
            },
            opened => opened,
        },
    };
    let Some(last) = last else {
        return Ok((vec![create_segment(place, start)?], recovered));
    };
    let mut segments = Vec::with_capacity(names.len() + 1);
    for (index, name) in names.iter().enumerate() {
        let next_base = names.get(index + 1).map_or(last.base(), |next| next.0);
        if let Some(segment) = open_sealed(place, *name, next_base, &mut recovered)? {
            segments.push(segment);
        }
    }
    let is_compacted = last.generation() > 0;
    segments.push(last);
    if is_compacted {
        // The active segment behind it is gone. Nothing is appended to one that says it is clean.
        let end = segments.last().expect("just pushed").extent().end;
        segments.push(create_segment(place, end)?);
    }
    Ok((segments, recovered))
}

/// Makes an empty segment whose name and preamble are durable when it returns.
pub(crate) fn create_segment(place: &Place<'_>, base: Offset) -> Result<Arc<Segment>, LogError> {
    let path = place.dir.join(crate::segment::file_name(base, 0));
    let file = place.storage.create(&path).context("create", &path)?;
    let preamble = Preamble { identity: place.identity, base, generation: 0 }.encode();
    if let Err(error) = file.write_all_at(&[std::io::IoSlice::new(&preamble)], 0) {
        // Most likely the disk is full: make the name free for the next try.
        let _ = place.storage.remove_file(&path);
        return Err(LogError::io("write", &path, error));
    }
    file.sync_data().context("sync", &path)?;
    place.storage.sync_dir(place.dir).context("sync", place.dir)?;
    Ok(Arc::new(Segment::new(base, 0, path, file, Extent::empty(base, place.index_interval))))
}

/// The segments' names by base, one generation of each; everything unknown goes into quarantine.
fn list_segments(place: &Place<'_>, recovered: &mut Recovered) -> Result<Vec<(Offset, u32)>, LogError> {
    let mut names: Vec<(Offset, u32)> = Vec::new();
    for entry in place.storage.list(place.dir).context("list", place.dir)? {
        let is_file = |ending: &str| !entry.is_dir && entry.name.ends_with(ending);
        let is_unfinished = !entry.is_dir && crate::compaction::is_unfinished(&entry.name);
        let is_state = entry.is_dir && entry.name == "state";
        let known = is_state || is_file(".index") || is_file(".snapshot") || is_unfinished;
        match parse_file_name(&entry.name) {
            Some(name) if !entry.is_dir => names.push(name),
            _ if known => {}
            _ => set_aside(place, &entry.name, recovered)?,
        }
    }
    names.sort_unstable();
    generations::newest_whole(place, &names, recovered)
}

pub(super) fn set_aside(place: &Place<'_>, name: &str, recovered: &mut Recovered) -> Result<(), LogError> {
    let label = label(place.identity, name);
    let kept = quarantine::keep_entry(place.storage, place.quarantine, &label, &place.dir.join(name))?;
    tracing::warn!(stream = %place.identity.stream, partition = %place.identity.partition, file = name,
        kept = %kept.display(), "a file recovery does not understand was moved into quarantine");
    recovered.files_quarantined += 1;
    Ok(())
}

fn label(identity: Identity, name: &str) -> String {
    format!("{}-{}-{}-{name}", identity.stream, identity.partition, identity.incarnation)
}

/// Opens the segment that was growing. `None` if its preamble was never written; the file is then in quarantine.
fn open_active(
    place: &Place<'_>,
    (base, generation): (Offset, u32),
    before: &[(Offset, u32)],
    recovered: &mut Recovered,
) -> Result<Option<Arc<Segment>>, LogError> {
    let name = crate::segment::file_name(base, generation);
    let path = place.dir.join(&name);
    let file = place.storage.open(&path, Access::ReadWrite).context("open", &path)?;
    file.sync_data().context("sync", &path)?;
    file.evict(0).context("evict", &path)?;
    let length = file.len().context("read", &path)?;
    let preamble = Preamble { identity: place.identity, base, generation };
    let head = read_exact_at(&*file, 0, PREAMBLE_BYTES.min(length) as usize).context("read", &path)?;
    if !preamble.matches(&head) {
        set_aside(place, &name, recovered)?;
        if length > PREAMBLE_BYTES || before.is_empty() && base > Offset::ZERO {
            tracing::error!(file = %path.display(), bytes = length,
                "a segment's preamble is damaged: its records are in quarantine and not served");
            recovered.holes += 1;
        }
        return Ok(None);
    }
    let scan = Scan::new(&*file, place.identity.incarnation, PREAMBLE_BYTES, length);
    let empty = Extent::empty(base, place.index_interval);
    let Judgement { extent, cut } = judge(scan, empty, Role::Active, Offset::ZERO).context("read", &path)?;
    recovered.bytes_read += length;
    recovered.holes += extent.holes.len();
    if let Some(cut) = cut.filter(|cut| *cut < length) {
        let label = label(place.identity, &format!("{name}.{cut}.cut"));
        let kept = quarantine::keep_bytes(place.storage, place.quarantine, &label, &*file, cut, length)?;
        file.set_len(cut).context("cut", &path)?;
        recovered.bytes_cut += length - cut;
        tracing::warn!(stream = %place.identity.stream, partition = %place.identity.partition, end = %extent.end,
            bytes = length - cut, kept = %kept.display(), "a torn tail was cut");
    }
    file.sync_data().context("sync", &path)?;
    report_holes(place.identity, &extent);
    Ok(Some(Arc::new(Segment::new(base, generation, path, file, extent))))
}

/// Opens a sealed segment: by its index if that is whole, by reading it otherwise. `None` if nothing of it is usable.
fn open_sealed(
    place: &Place<'_>,
    (base, generation): (Offset, u32),
    next_base: Offset,
    recovered: &mut Recovered,
) -> Result<Option<Arc<Segment>>, LogError> {
    let name = crate::segment::file_name(base, generation);
    let path = place.dir.join(&name);
    let file = place.storage.open(&path, Access::Read).context("open", &path)?;
    let length = file.len().context("read", &path)?;
    let incarnation = place.identity.incarnation;
    let head = read_exact_at(&*file, 0, PREAMBLE_BYTES.min(length) as usize).context("read", &path)?;
    if !(Preamble { identity: place.identity, base, generation }).matches(&head) {
        tracing::error!(file = %path.display(), from = %base, resume = %next_base,
            "a sealed segment's preamble is damaged: its records are in quarantine and not served");
        set_aside(place, &name, recovered)?;
        recovered.holes += 1;
        return Ok(None);
    }
    let index_path = path.with_extension("index");
    let cached = read_index(place, &index_path)
        .and_then(|bytes| index::decode(&bytes, incarnation, base, generation, length, place.index_interval))
        .filter(|extent| extent.end == next_base);
    let extent = match cached {
        Some(extent) => extent,
        None => {
            let scan = Scan::new(&*file, incarnation, PREAMBLE_BYTES, length);
            let empty = Extent::empty(base, place.index_interval);
            let judged = judge(scan, empty, Role::Sealed(next_base), Offset::ZERO).context("read", &path)?;
            recovered.bytes_read += length;
            recovered.holes += judged.extent.holes.len();
            report_holes(place.identity, &judged.extent);
            if judged.extent.holes.is_empty() {
                write_index(place.storage, &index_path, &judged.extent, incarnation, base, generation);
            }
            judged.extent
        }
    };
    Ok(Some(Arc::new(Segment::new(base, generation, path, file, extent))))
}

fn report_holes(identity: Identity, extent: &Extent) {
    for hole in &extent.holes {
        tracing::error!(stream = %identity.stream, partition = %identity.partition, from = %hole.from,
            resume = %hole.resume, "stored records are damaged; the rest stays readable");
    }
}

fn read_index(place: &Place<'_>, path: &Path) -> Option<Vec<u8>> {
    let file = place.storage.open(path, Access::Read).ok()?;
    let length = file.len().ok().filter(|length| *length <= INDEX_BYTES_MAX)?;
    read_exact_at(&*file, 0, length as usize).ok()
}

/// Writes a sealed segment's index. It is a cache: a failure costs time at the next start and nothing else.
pub(crate) fn write_index(
    storage: &dyn Storage,
    path: &Path,
    extent: &Extent,
    incarnation: millstream_protocol::Incarnation,
    base: Offset,
    generation: u32,
) {
    let bytes = index::encode(extent, incarnation, base, generation);
    let written = match storage.remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => storage.create(path).and_then(|file| file.write_all_at(&[std::io::IoSlice::new(&bytes)], 0)),
    };
    if let Err(error) = written {
        tracing::warn!(file = %path.display(), %error, "an index was not written: the next start reads the segment");
    }
}

/// The append time of a partition's newest batch.
pub(crate) fn newest_append_time(segments: &[Arc<Segment>]) -> Timestamp {
    segments.iter().map(|segment| segment.extent().last_append_time).max().unwrap_or_default()
}
