//! Opens a partition's segments: reads the medium, judges the tail, cuts and quarantines, and only then says where the
//! log ends.
//!
//! Only what no index covers is read: the end of the active segment. Order (a failed sync is not cured by a restart, and
//! what a plain kill left dirty may never have been synced): `fdatasync` the active segment, drop its pages from the
//! cache, read and verify, cut and sync, `fdatasync` once more; only then may the high watermark be published. A segment
//! that ends where its index and its partition's mark say has nothing to be read.

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use millstream_protocol::{Offset, Timestamp};

use super::scan::Scan;
use super::tail::{Judgement, Role, judge};
use super::{generations, quarantine, tables};
use crate::error::{Context, LogError};
use crate::index::{self, Wanted};
use crate::producers::Producers;
use crate::segment::{self, Extent, Hole, Identity, Kind, PREAMBLE_BYTES, Preamble, Segment, parse_file_name};
use crate::storage::{Access, Storage, StorageFile, read_exact_at};
use crate::tables::{Tables, checkpoint};

/// Where things are and how they are made.
pub(crate) struct Place<'a> {
    pub storage: &'a dyn Storage,
    pub dir: &'a Path,
    pub quarantine: &'a Path,
    pub identity: Identity,
    pub index_interval: u64,
    /// Without any segment it is lost, not new.
    pub must_exist: bool,
    /// Whether segments have gone for which a checkpoint of the tables was written.
    pub has_tables: bool,
}

/// What opening did that an operator should know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Bytes read and verified.
    pub bytes_read: u64,
    /// Bytes cut off as a torn tail (kept in quarantine).
    pub bytes_cut: u64,
    /// Files moved into quarantine.
    pub files_quarantined: usize,
    /// Damaged ranges found.
    pub holes: usize,
    /// Damaged segment preambles written again: the batches behind them said whose they are.
    pub preambles_restored: usize,
}

impl Recovered {
    /// Whether anything was found that a clean stop does not leave.
    pub fn is_clean(&self) -> bool {
        self.bytes_cut == 0 && self.files_quarantined == 0 && self.holes == 0 && self.preambles_restored == 0
    }

    /// Adds up.
    pub fn add(&mut self, other: &Recovered) {
        self.bytes_read += other.bytes_read;
        self.bytes_cut += other.bytes_cut;
        self.files_quarantined += other.files_quarantined;
        self.holes += other.holes;
        self.preambles_restored += other.preambles_restored;
    }
}

/// What an opened partition is made of.
pub(crate) struct Opened {
    /// At least one; the last is the active one.
    pub segments: Vec<Arc<Segment>>,
    /// What is known of its producers; of its dedup ids, what the checkpoint says.
    pub tables: Tables,
    /// Where the checkpoint of the tables ends.
    pub tables_from: Offset,
    pub recovered: Recovered,
}

/// Opens all segments of a partition. `start` is where a partition without a segment begins; `known` is the offset below
/// which all was durable, as far as checkpoint and journal say.
pub(crate) fn open_segments(place: &Place<'_>, start: Offset, known: Offset) -> Result<Opened, LogError> {
    let mut recovered = Recovered::default();
    let Listed { segments: mut names, tables } = list_segments(place, &mut recovered)?;
    if names.is_empty() && place.must_exist && known == Offset::ZERO {
        let Identity { stream, partition, .. } = place.identity;
        return Err(LogError::PartitionMissing { stream, partition });
    }
    let mut last = None;
    while last.is_none() {
        let Some(name) = names.pop() else { break };
        // `None`: a crash between creation and preamble. The one before is the active one again.
        last = open_active(place, name, !names.is_empty(), known, &mut recovered)?;
    }
    let last_end = last.as_ref().map_or(Offset::ZERO, |(last, _)| last.extent().end);
    let mut tables = tables::load(place, tables, last_end.max(start).max(known), &mut recovered)?;
    let tables_from = tables.end();
    let mut segments = Vec::with_capacity(names.len() + 2);
    if let Some((last, producers)) = last {
        for (index, name) in names.iter().enumerate() {
            let next_base = names.get(index + 1).map_or(last.base(), |next| next.0);
            let wanted = if next_base <= tables_from { Wanted::Extent } else { Wanted::All };
            if let Some((segment, producers)) = open_sealed(place, *name, next_base, wanted, &mut recovered)? {
                tables.fold(&producers, next_base);
                segments.push(segment);
            }
        }
        tables.fold(&producers, last_end);
        segments.push(last);
    }
    let end = segments.last().map_or(Offset::ZERO, |last: &Arc<Segment>| last.extent().end);
    let next = start.max(known);
    if end < known && start < known {
        // Offsets are never given out twice: what is missing stays a hole behind the last segment.
        tracing::error!(stream = %place.identity.stream, partition = %place.identity.partition,
            from = %end.max(start), resume = %known, "records that were durable are missing at the end of the log");
        recovered.holes += 1;
    }
    if let (true, Some(parent)) = (segments.is_empty(), place.dir.parent()) {
        // A directory without a segment may have been left by a process that died before its name was durable.
        place.storage.sync_dir(parent).context("sync", parent)?;
    }
    // Below its log start a `written` stream may have lost its tail, too. What was compacted never grows again.
    if segments.last().is_none_or(|last| end < next || last.generation() > 0) {
        segments.push(create_segment(place, next.max(end))?);
    }
    // Below the oldest segment lies what no checkpoint that is left knows: some of it went with something to remember, or
    // it is lost.
    let oldest = segments[0].base();
    if place.identity.kind == Kind::Records && oldest > tables_from && (place.has_tables || oldest > start) {
        tracing::error!(stream = %place.identity.stream, partition = %place.identity.partition, from = %tables_from,
            to = %oldest, "what these records said of their producers is lost: a batch sent again may be refused as unknown");
        tables.producers.forget_earlier();
    }
    tables.fold(&Producers::default(), segments.last().map_or(oldest, |last| last.extent().end));
    Ok(Opened { segments, tables, tables_from, recovered })
}

/// Makes an empty segment whose name and preamble are durable when it returns.
pub(crate) fn create_segment(place: &Place<'_>, base: Offset) -> Result<Arc<Segment>, LogError> {
    let path = place.dir.join(segment::file_name(base, 0));
    let file = place.storage.create(&path).context("create", &path)?;
    let preamble = Preamble { identity: place.identity, base, generation: 0 }.encode();
    if let Err(error) = file.write_all_at(&[IoSlice::new(&preamble)], 0) {
        // Most likely the disk is full: make the name free for the next try.
        let _ = place.storage.remove_file(&path);
        return Err(LogError::io("write", &path, error));
    }
    file.sync_data().context("sync", &path)?;
    place.storage.sync_dir(place.dir).context("sync", place.dir)?;
    Ok(Arc::new(Segment::new(base, 0, path, file, Extent::empty(base, place.index_interval))))
}

/// What is in a partition's directory.
struct Listed {
    /// The segments' names by base, one generation of each.
    segments: Vec<(Offset, u32)>,
    /// The offsets of the tables' checkpoints.
    tables: Vec<Offset>,
}

/// Lists a partition's directory; everything unknown goes into quarantine.
fn list_segments(place: &Place<'_>, recovered: &mut Recovered) -> Result<Listed, LogError> {
    let mut names: Vec<(Offset, u32)> = Vec::new();
    let mut tables = Vec::new();
    let mut indexes = Vec::new();
    for entry in place.storage.list(place.dir).context("list", place.dir)? {
        let is_file = |ending: &str| !entry.is_dir && entry.name.ends_with(ending);
        let is_records = place.identity.kind == Kind::Records && !entry.is_dir;
        if let (true, Some(offset)) = (is_records, checkpoint::parse_file_name(&entry.name)) {
            tables.push(offset);
            continue;
        }
        if !entry.is_dir && checkpoint::is_unfinished(&entry.name) {
            // A snapshot or checkpoint that was cut short before it had its name: it was never part of the log.
            let path = place.dir.join(&entry.name);
            place.storage.remove_file(&path).context("delete", &path)?;
            continue;
        }
        let is_unfinished = !entry.is_dir && crate::compaction::is_unfinished(&entry.name);
        let known = (entry.is_dir && entry.name == "state") || is_file(".snapshot") || is_unfinished;
        match parse_file_name(&entry.name) {
            Some(name) if !entry.is_dir => names.push(name),
            _ if known => {}
            _ if !entry.is_dir && is_index(&entry.name) => indexes.push(entry.name),
            _ => set_aside(place, &entry.name, recovered)?,
        }
    }
    names.sort_unstable();
    // An index is a cache: one that was left half made, or whose segment is gone, is nobody's.
    for index in indexes {
        let owner = index.strip_suffix(".index").and_then(|name| parse_file_name(&format!("{name}.log")));
        if !owner.is_some_and(|owner| names.contains(&owner)) {
            let path = place.dir.join(index);
            place.storage.remove_file(&path).context("delete", &path)?;
        }
    }
    Ok(Listed { segments: generations::newest_whole(place, &names, recovered)?, tables })
}

fn is_index(name: &str) -> bool {
    let stem = name.strip_suffix(".index").or_else(|| name.strip_suffix(".index.tmp"));
    stem.is_some_and(|stem| parse_file_name(&format!("{stem}.log")).is_some())
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

/// A segment, and what it says of producers.
type Summarised = (Arc<Segment>, Producers);

/// Opens the segment that was growing. `None` if its preamble was never written; the file is then in quarantine.
fn open_active(
    place: &Place<'_>,
    (base, generation): (Offset, u32),
    has_earlier: bool,
    known: Offset,
    recovered: &mut Recovered,
) -> Result<Option<Summarised>, LogError> {
    let name = segment::file_name(base, generation);
    let path = place.dir.join(&name);
    let incarnation = place.identity.incarnation;
    let file = place.storage.open(&path, Access::ReadWrite).context("open", &path)?;
    let mut length = file.len().context("read", &path)?;
    let whose = (incarnation, base, generation);
    let indexed = index::read(place.storage, &path.with_extension("index"), whose, place.index_interval, Wanted::All);
    // What the index covers was synced before it was written.
    let known = known.max(indexed.as_ref().map_or(Offset::ZERO, |(extent, _)| extent.end));
    let covered = indexed.filter(|(extent, _)| extent.end_position <= length);
    let is_whole = covered.as_ref().is_some_and(|(extent, _)| extent.end_position == length && extent.end >= known);
    let from = covered.as_ref().map_or(0, |(extent, _)| extent.end_position);
    if !is_whole {
        file.sync_data().context("sync", &path)?;
        file.evict(from).context("evict", &path)?;
        // Its name may be as new as its bytes.
        place.storage.sync_dir(place.dir).context("sync", place.dir)?;
        length = file.len().context("read", &path)?;
    }
    if !check_preamble(place, &path, &*file, (base, generation), recovered)? {
        if place.identity.kind != Kind::Records && length > PREAMBLE_BYTES {
            // Events follow only on a preamble that was synced: a state must not begin anew for want of one.
            let reason = "nothing of its segment is whole".to_owned();
            return Err(LogError::StateDamaged { path, reason });
        }
        set_aside(place, &name, recovered)?;
        if length > PREAMBLE_BYTES || known > base || !has_earlier && base > Offset::ZERO {
            tracing::error!(file = %path.display(), bytes = length,
                "a segment's preamble is damaged: its records are in quarantine and not served");
            recovered.holes += 1;
        }
        return Ok(None);
    }
    let segment =
        |extent| Arc::new(Segment::new(base, generation, path.clone(), file.clone(), extent).with_index(from));
    let (before, mut producers) =
        covered.unwrap_or_else(|| (Extent::empty(base, place.index_interval), Producers::default()));
    if is_whole {
        return Ok(Some((segment(before), producers)));
    }
    let from = from.max(PREAMBLE_BYTES);
    let scan = Scan::new(&*file, incarnation, from, length);
    let judged = judge(scan, before, &mut producers, Role::Active, known);
    let Judgement { mut extent, cut } = judged.context("read", &path)?;
    recovered.bytes_read += length - from.min(length);
    if let Some(cut) = cut.filter(|cut| *cut < length) {
        let label = label(place.identity, &format!("{name}.{cut}.cut"));
        let kept = quarantine::keep_bytes(place.storage, place.quarantine, &label, &*file, cut, length)?;
        file.set_len(cut).context("cut", &path)?;
        recovered.bytes_cut += length - cut;
        tracing::warn!(stream = %place.identity.stream, partition = %place.identity.partition, end = %extent.end,
            bytes = length - cut, kept = %kept.display(), "a torn tail was cut");
    }
    file.sync_data().context("sync", &path)?;
    if extent.end < known {
        let (position, resume_position) = (extent.end_position, extent.end_position);
        extent.holes.push(Hole { from: extent.end, resume: known, position, resume_position });
        extent.end = known;
    }
    recovered.holes += extent.holes.len();
    report_holes(place.identity, &extent);
    let segment = segment(extent);
    // What was read and synced need not be read again at the next start.
    segment.write_index(place.storage, incarnation, &segment.extent(), &producers);
    Ok(Some((segment, producers)))
}

/// Whether the file is the segment that its name says. A damaged preamble is written again where a batch behind it,
/// whose checksum is seeded with the partition's incarnation, says the same.
fn check_preamble(
    place: &Place<'_>,
    path: &Path,
    file: &dyn StorageFile,
    (base, generation): (Offset, u32),
    recovered: &mut Recovered,
) -> Result<bool, LogError> {
    let preamble = Preamble { identity: place.identity, base, generation };
    let length = file.len().context("read", path)?;
    let head = read_exact_at(file, 0, PREAMBLE_BYTES.min(length) as usize).context("read", path)?;
    if preamble.matches(&head) {
        return Ok(true);
    }
    let mut scan = Scan::new(file, place.identity.incarnation, PREAMBLE_BYTES - 1, length);
    let first = if length > PREAMBLE_BYTES { scan.resync(Offset::ZERO).context("read", path)? } else { None };
    if first.is_none_or(|first| first.base_offset < base) {
        return Ok(false);
    }
    file.write_all_at(&[IoSlice::new(&preamble.encode())], 0).context("write", path)?;
    file.sync_data().context("sync", path)?;
    tracing::error!(file = %path.display(), "a segment's damaged preamble was written again");
    recovered.preambles_restored += 1;
    Ok(true)
}

/// Opens a sealed segment: by its index if what is wanted of that is whole, by reading it otherwise. `None` if nothing of it
/// is usable.
fn open_sealed(
    place: &Place<'_>,
    (base, generation): (Offset, u32),
    next_base: Offset,
    wanted: Wanted,
    recovered: &mut Recovered,
) -> Result<Option<Summarised>, LogError> {
    let name = segment::file_name(base, generation);
    let path = place.dir.join(&name);
    let file = place.storage.open(&path, Access::ReadWrite).context("open", &path)?;
    let length = file.len().context("read", &path)?;
    let incarnation = place.identity.incarnation;
    if !check_preamble(place, &path, &*file, (base, generation), recovered)? {
        tracing::error!(file = %path.display(), from = %base, resume = %next_base,
            "a sealed segment's preamble is damaged: its records are in quarantine and not served");
        set_aside(place, &name, recovered)?;
        recovered.holes += 1;
        return Ok(None);
    }
    let whose = (incarnation, base, generation);
    let cached = index::read(place.storage, &path.with_extension("index"), whose, place.index_interval, wanted);
    let cached = cached.filter(|(extent, _)| extent.end == next_base && extent.end_position == length);
    if let Some((extent, producers)) = cached {
        let segment = Segment::new(base, generation, path, file, extent).with_index(length);
        return Ok(Some((Arc::new(segment), producers)));
    }
    let scan = Scan::new(&*file, incarnation, PREAMBLE_BYTES, length);
    let (empty, mut producers) = (Extent::empty(base, place.index_interval), Producers::default());
    let judged = judge(scan, empty, &mut producers, Role::Sealed(next_base), Offset::ZERO);
    let extent = judged.context("read", &path)?.extent;
    recovered.bytes_read += length;
    recovered.holes += extent.holes.len();
    report_holes(place.identity, &extent);
    let segment = Arc::new(Segment::new(base, generation, path, file, extent));
    segment.write_index(place.storage, incarnation, &segment.extent(), &producers);
    Ok(Some((segment, producers)))
}

fn report_holes(identity: Identity, extent: &Extent) {
    for hole in &extent.holes {
        tracing::error!(stream = %identity.stream, partition = %identity.partition, from = %hole.from,
            resume = %hole.resume, "stored records are damaged; the rest stays readable");
    }
}

/// The append time of a partition's newest batch.
pub(crate) fn newest_append_time(segments: &[Arc<Segment>]) -> Timestamp {
    segments.iter().map(|segment| segment.extent().last_append_time).max().unwrap_or_default()
}
