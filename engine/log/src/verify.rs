//! Checks every batch of a data directory that no process has open, and says what it found. Changes nothing.
//!
//! What should be there is known from the segments' order, the log starts, and the checkpoint's marks; what the journals
//! still hold is not missing: the next start puts it back.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use millstream_protocol::batch::BatchView;
use millstream_protocol::{Incarnation, Offset, PartitionId, QueueId, StreamId};

use crate::checkpoint;
use crate::data_dir::{InternalLog, parse_partition_dir_name, parse_stream_dir_name};
use crate::error::{Context, LogError};
use crate::log::{Log, LogConfig};
use crate::partition::{accepted_losses, log_start};
use crate::recovery::replay;
use crate::recovery::scan::{Scan, Step};
use crate::segment::{Identity, Kind, PREAMBLE_BYTES, Preamble, parse_file_name};
use crate::state_log::table::StateTable;
use crate::state_log::{Machine, snapshot};
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
    /// Whether an operator has accepted the loss.
    pub is_accepted: bool,
}

/// What one partition holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionReport {
    /// The stream; 0 is an internal log, by its partition: [`InternalLog`].
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
    let dir = crate::data_dir::DataDir::open(&storage, root, 0)?;
    let checkpoint = checkpoint::load(&storage, &dir.journal())?.checkpoint;
    let waiting = replay::waiting(&storage, &dir.journal(), &checkpoint)?;
    let verifier = Verifier { storage, marks: checkpoint.marks, waiting };
    for log in InternalLog::ALL {
        verifier.partitions(&dir.internal(log), StreamId(0), Kind::State, report)?;
    }
    for entry in verifier.storage.list(&dir.streams()).context("list", &dir.streams())? {
        if let Some(stream) = parse_stream_dir_name(&entry.name) {
            verifier.partitions(&dir.stream(stream), stream, Kind::Records, report)?;
        }
    }
    let queues = match verifier.storage.list(&dir.queues()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        other => other.context("list", &dir.queues())?,
    };
    for entry in queues {
        if let Some(queue) = parse_stream_dir_name(&entry.name) {
            verifier.partitions(&dir.queue(QueueId(queue.0)), queue, Kind::Queue, report)?;
        }
    }
    Ok(())
}

/// Records an operator's word that damage is to be passed over: reads then skip it, and `verify` counts it as accepted.
/// No process may have the directory open.
///
/// # Errors
/// As [`verify`]; those of opening the partition.
pub fn accept_losses(root: &Path, losses: &[(Identity, Offset, Offset)]) -> Result<(), LogError> {
    let log = Log::open(root, LogConfig::default(), 0)?;
    for (identity, from, resume) in losses {
        log.open_partition_offline(*identity)?.accept_loss(*from, *resume)?;
    }
    log.close();
    Ok(())
}

struct Verifier {
    storage: FileStorage,
    /// Below these offsets everything was on the disk.
    marks: HashMap<Incarnation, Offset>,
    /// Up to these offsets the journals hold what the next start puts back.
    waiting: HashMap<Incarnation, Offset>,
}

impl Verifier {
    fn partitions(
        &self,
        dir: &Path,
        stream: StreamId,
        kind: Kind,
        report: &mut dyn FnMut(PartitionReport),
    ) -> Result<(), LogError> {
        let entries = match self.storage.list(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.context("list", dir)?,
        };
        for entry in entries {
            let Some((partition, incarnation)) = parse_partition_dir_name(&entry.name) else { continue };
            let identity = Identity { stream, partition, incarnation, kind };
            let path = dir.join(&entry.name);
            let state = path.join("state");
            let has_state = kind == Kind::Records && state.is_dir();
            let table = if has_state { self.table(&state, identity.state())? } else { StateTable::default() };
            report(self.partition(&path, identity, &table)?);
            if has_state {
                report(self.partition(&state, identity.state(), &StateTable::default())?);
            }
        }
        Ok(())
    }

    fn partition(&self, dir: &Path, identity: Identity, table: &StateTable) -> Result<PartitionReport, LogError> {
        let list = self.storage.list(dir).context("list", dir)?;
        let mut segments: Vec<(Offset, u32)> = list.iter().filter_map(|entry| parse_file_name(&entry.name)).collect();
        segments.sort_unstable();
        // Of two generations the newer one counts; a start falls back on the older one only if that is damaged.
        segments.reverse();
        segments.dedup_by_key(|(base, _)| *base);
        segments.reverse();
        let first = segments.first().map_or(Offset::ZERO, |first| first.0);
        let start = match identity.kind {
            Kind::Records => log_start(table).min(first),
            Kind::State | Kind::Queue => first,
        };
        let mut found = PartitionReport {
            stream: identity.stream,
            partition: identity.partition,
            incarnation: identity.incarnation,
            is_state: identity.kind != Kind::Records,
            segments: 0,
            batches: 0,
            records: 0,
            bytes: 0,
            offsets: (start, start),
            damage: Vec::new(),
        };
        let mut last = dir.to_owned();
        for (index, (base, generation)) in segments.iter().copied().enumerate() {
            let next_base = segments.get(index + 1).map(|next| next.0);
            last = dir.join(crate::segment::file_name(base, generation));
            let file = self.storage.open(&last, Access::Read).context("open", &last)?;
            verify_segment(&file, &last, Preamble { identity, base, generation }, next_base, &mut found)?;
        }
        self.judge_end(identity, &last, &mut found);
        for damage in &mut found.damage {
            let resume = damage.resume.unwrap_or(damage.from);
            damage.is_accepted = accepted_losses(table).any(|(from, to)| from <= damage.from && resume <= to);
        }
        // What lies below the log start is not missed.
        let start = log_start(table);
        found.damage.retain(|damage| damage.from >= start || damage.resume.is_none_or(|resume| resume > start));
        Ok(found)
    }

    /// The end of the log against what is known to have been there.
    fn judge_end(&self, identity: Identity, last: &Path, found: &mut PartitionReport) {
        let end = found.offsets.1;
        if self.waiting.get(&identity.incarnation).is_some_and(|waiting| *waiting >= end) {
            // The next start puts it back, whatever the segment holds there now.
            found.damage.retain(|damage| damage.resume.is_some());
            return;
        }
        let mark = self.marks.get(&identity.incarnation).copied().unwrap_or_default();
        if end >= mark {
            return;
        }
        let torn = found.damage.pop_if(|damage| damage.resume.is_none());
        let (file, position, reason) = match torn {
            Some(torn) => (torn.file, torn.position, torn.reason),
            None => (last.display().to_string(), 0, "the end of the log is missing".to_owned()),
        };
        let reason = format!("{reason}; these records were on the disk");
        found.damage.push(Damage { file, position, from: end, resume: Some(mark), reason, is_accepted: false });
        found.offsets.1 = mark;
    }

    /// What a partition's state log holds, as far as it can be read.
    fn table(&self, dir: &Path, identity: Identity) -> Result<StateTable, LogError> {
        let (mut table, mut next) = (StateTable::default(), Offset::ZERO);
        for (offset, bytes) in snapshot::load(&self.storage, dir, identity.incarnation)? {
            if let Ok(snapshot) = StateTable::decode_snapshot(&bytes) {
                (table, next) = (snapshot, offset);
                break;
            }
        }
        let list = self.storage.list(dir).context("list", dir)?;
        for name in list.iter().map(|entry| &entry.name).filter(|name| parse_file_name(name).is_some()) {
            let path = dir.join(name);
            let file = self.storage.open(&path, Access::Read).context("open", &path)?;
            let length = file.len().context("read", &path)?;
            let mut scan = Scan::new(&*file, identity.incarnation, PREAMBLE_BYTES.min(length), length);
            while let Step::Batch { position, header } = scan.next().context("read", &path)? {
                let bytes = read_exact_at(&*file, position, header.batch_len()).context("read", &path)?;
                let mut bytes = bytes::Bytes::from(bytes);
                let batch = BatchView::split_stored(&mut bytes, identity.incarnation)?;
                let mut records = batch.records()?;
                while let Some(record) = records.next_with_offset() {
                    let (offset, record) = record?;
                    let event = StateTable::decode_event(record.value.as_deref().unwrap_or_default());
                    if let (true, Ok(event)) = (offset >= next, event) {
                        table.apply(&event);
                    }
                }
            }
        }
        Ok(table)
    }
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
            is_accepted: false,
        });
        found.offsets.1 = preamble.base;
    }
    let head = read_exact_at(&**file, 0, PREAMBLE_BYTES.min(length) as usize).context("read", path)?;
    if !preamble.matches(&head) {
        let reason = "the preamble is damaged, or another file's".to_owned();
        // Its batches say for themselves whose they are: the next start writes it again.
        found.damage.push(Damage {
            file: name.clone(),
            position: 0,
            from: preamble.base,
            resume: Some(preamble.base),
            reason,
            is_accepted: false,
        });
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
        found.damage.push(Damage { file: name.clone(), position, from: expected, resume, reason, is_accepted: false });
        if let Some(resume) = resume {
            found.offsets.1 = resume;
        }
    }
}
