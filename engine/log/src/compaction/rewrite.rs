//! One segment's next generation: the batches it keeps, written into a temporary file that is synced and then renamed.
//!
//! A segment of which nothing goes is read and not written, unless it is to get its time cleaned. A segment that does not
//! read is left as it is: what is damaged is evidence, and what is intact in it stays readable.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use millstream_protocol::batch::{BatchView, RecordRef, Thinned, join_empty, thin};
use millstream_protocol::{Incarnation, Offset, Timestamp};

use super::stored::{Batches, Unreadable};
use crate::error::{Context, LogError};
use crate::producers::{Producers, Sequenced};
use crate::segment::{Cleaned, Extent, PREAMBLE_BYTES, Preamble, Segment, file_name, parse_file_name};
use crate::storage::{Access, Storage, StorageFile};

/// Bytes written at once.
const WRITE_BYTES: usize = 1 << 20;

/// Where a segment is rewritten, and to what.
pub(super) struct Rewrite<'a> {
    pub storage: &'a dyn Storage,
    pub dir: &'a Path,
    pub index_interval: u64,
    pub old: &'a Segment,
    pub preamble: Preamble,
    /// When it was first cleaned, if it is clean now.
    pub cleaned: Option<Timestamp>,
    /// Whether it is written even if nothing goes: it has become clean.
    pub is_forced: bool,
}

/// What a rewrite gave.
pub(super) enum Rewritten {
    /// Nothing goes.
    Unchanged,
    /// A file under its temporary name, synced.
    Written(Box<Written>),
    /// The segment does not read, and why.
    Unreadable(String),
    /// It was to stop.
    Stopped,
}

/// The next generation, still under its temporary name.
pub(super) struct Written {
    temporary: PathBuf,
    path: PathBuf,
    preamble: Preamble,
    extent: Extent,
    /// What it says of producers.
    pub producers: Producers,
    /// What its preamble says.
    pub cleaned: Option<Cleaned>,
    /// Records that went.
    pub removed: u64,
}

/// Whether a name is that of a segment that a rewrite did not finish.
pub(crate) fn is_unfinished(name: &str) -> bool {
    name.strip_suffix(".tmp").and_then(parse_file_name).is_some()
}

impl Rewrite<'_> {
    /// Writes what `keeps` wants of the segment, and syncs it.
    pub(super) fn run(
        &self,
        keeps: &dyn Fn(Offset, &RecordRef<'_>) -> bool,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Rewritten, LogError> {
        let incarnation = self.preamble.identity.incarnation;
        if !self.is_forced {
            match loses_any(self.old, incarnation, keeps, stopped) {
                Ok(true) => {}
                Ok(false) => return Ok(if stopped() { Rewritten::Stopped } else { Rewritten::Unchanged }),
                Err(unreadable) => return self.unreadable(unreadable),
            }
        }
        let path = self.dir.join(file_name(self.preamble.base, self.preamble.generation));
        let temporary = path.with_extension("log.tmp");
        discard(self.storage, &temporary)?;
        let file = self.storage.create(&temporary).context("create", &temporary)?;
        let extent = Extent::empty(self.preamble.base, self.index_interval);
        let producers = Producers::default();
        let mut out = Output { file, incarnation, extent, producers, buffer: Vec::new(), empty: None };
        match self.copy(&mut out, keeps, stopped) {
            Ok(Some((removed, tombstones))) => {
                let cleaned = self.cleaned.map(|at| Cleaned { at, tombstones });
                let preamble = self.preamble.encode_cleaned(cleaned);
                let file = out.file.clone();
                let written = out.finish(&preamble).context("write", &temporary);
                let synced = written.and_then(|extent| file.sync_data().context("sync", &temporary).map(|()| extent));
                let (extent, producers) = synced.inspect_err(|_| drop(discard(self.storage, &temporary)))?;
                let preamble = self.preamble;
                let written = Written { temporary, path, preamble, extent, producers, cleaned, removed };
                Ok(Rewritten::Written(Box::new(written)))
            }
            Ok(None) => discard(self.storage, &temporary).map(|()| Rewritten::Stopped),
            Err(Copying::Read(unreadable)) => {
                discard(self.storage, &temporary)?;
                self.unreadable(unreadable)
            }
            Err(Copying::Write(error)) => {
                // Most likely the disk is full: give the room back. What was found out first is what is told.
                let _ = discard(self.storage, &temporary);
                Err(LogError::io("write", &temporary, error))
            }
        }
    }

    /// Copies what stays. Says how many records went, and how many tombstones stayed; `None` if it was to stop.
    fn copy(
        &self,
        out: &mut Output,
        keeps: &dyn Fn(Offset, &RecordRef<'_>) -> bool,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Option<(u64, u32)>, Copying> {
        let (mut removed, mut tombstones) = (0u64, 0u32);
        let mut batches = Batches::new(self.old, out.incarnation);
        while let Some(batch) = batches.next()? {
            if stopped() {
                return Ok(None);
            }
            let thinned = thin(&batch, out.incarnation, |offset, record| {
                let stays = keeps(offset, record);
                removed += u64::from(!stays);
                if stays && record.key.is_some() && record.value.is_none() {
                    tombstones = tombstones.saturating_add(1);
                }
                stays
            });
            match thinned.map_err(Unreadable::Damaged)? {
                Thinned::Unchanged => out.push(batch)?,
                Thinned::Batches(batches) => {
                    for bytes in &batches {
                        out.push(BatchView::parse(bytes).map_err(Unreadable::Damaged)?)?;
                    }
                }
            }
        }
        Ok(Some((removed, tombstones)))
    }

    fn unreadable(&self, unreadable: Unreadable) -> Result<Rewritten, LogError> {
        unreadable.damage(self.old.path()).map(Rewritten::Unreadable)
    }
}

impl Written {
    /// Gives it its name, durably, and opens it.
    pub(super) fn publish(self, storage: &dyn Storage, dir: &Path) -> Result<Arc<Segment>, LogError> {
        storage.rename(&self.temporary, &self.path).context("rename", &self.temporary)?;
        storage.sync_dir(dir).context("sync", dir)?;
        let file = storage.open(&self.path, Access::Read).context("open", &self.path)?;
        let Preamble { base, generation, .. } = self.preamble;
        Ok(Arc::new(Segment::new(base, generation, self.path, file, self.extent)))
    }

    /// Removes it: it is not wanted any more.
    pub(super) fn discard(self, storage: &dyn Storage) -> Result<(), LogError> {
        discard(storage, &self.temporary)
    }
}

fn discard(storage: &dyn Storage, temporary: &Path) -> Result<(), LogError> {
    match storage.remove_file(temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(LogError::io("delete", temporary, error)),
        _ => Ok(()),
    }
}

/// Whether any record of a segment goes.
fn loses_any(
    segment: &Segment,
    incarnation: Incarnation,
    keeps: &dyn Fn(Offset, &RecordRef<'_>) -> bool,
    stopped: &dyn Fn() -> bool,
) -> Result<bool, Unreadable> {
    let mut batches = Batches::new(segment, incarnation);
    while let Some(batch) = batches.next()? {
        if stopped() {
            return Ok(false);
        }
        let base = batch.header().base_offset;
        let mut records = batch.records()?;
        while let Some(record) = records.next_ref() {
            let record = record?;
            if !keeps(Offset(base.0 + u64::from(record.offset_delta)), &record) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Why a copy ended early.
enum Copying {
    Read(Unreadable),
    Write(std::io::Error),
}

impl From<Unreadable> for Copying {
    fn from(unreadable: Unreadable) -> Self {
        Copying::Read(unreadable)
    }
}

impl From<std::io::Error> for Copying {
    fn from(error: std::io::Error) -> Self {
        Copying::Write(error)
    }
}

/// The file being written.
struct Output {
    file: Arc<dyn StorageFile>,
    incarnation: Incarnation,
    /// What was pushed, written or not.
    extent: Extent,
    producers: Producers,
    buffer: Vec<u8>,
    /// An empty batch that may be joined with the next one.
    empty: Option<BatchView>,
}

impl Output {
    fn push(&mut self, batch: BatchView) -> std::io::Result<()> {
        let is_empty = batch.header().record_count == 0;
        if let Some(before) = self.empty.take() {
            let joined = is_empty.then(|| join_empty(before.header(), batch.header(), self.incarnation)).flatten();
            if let Some(joined) = joined {
                self.empty = Some(BatchView::parse(&joined).expect("it was encoded from two headers that decode"));
                return Ok(());
            }
            self.write(&before)?;
        }
        if is_empty {
            self.empty = Some(batch);
            return Ok(());
        }
        self.write(&batch)
    }

    fn write(&mut self, batch: &BatchView) -> std::io::Result<()> {
        self.extent.note(batch.header(), self.extent.end_position);
        if let Some(batch) = Sequenced::of(batch.header()) {
            self.producers.note(&batch);
        }
        let bytes: &Bytes = batch.bytes();
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let position = self.extent.end_position - self.buffer.len() as u64;
        self.file.write_all_at(&[IoSlice::new(&self.buffer)], position)?;
        self.buffer.clear();
        Ok(())
    }

    /// The preamble last: until then the file is no segment.
    fn finish(mut self, preamble: &[u8; PREAMBLE_BYTES as usize]) -> std::io::Result<(Extent, Producers)> {
        if let Some(empty) = self.empty.take() {
            self.write(&empty)?;
        }
        self.flush()?;
        self.file.write_all_at(&[IoSlice::new(preamble)], 0)?;
        Ok((self.extent, self.producers))
    }
}
