//! Writes a partition's tables down before the log that they were built from is cut or thinned out.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use millstream_protocol::Offset;

use crate::error::{Context, LogError};
use crate::partition::Partition;
use crate::segment::Kind;
use crate::storage::{Storage, write_atomically};

/// Checkpoints kept: if the newest is damaged the one before does, as long as the log reaches back to it.
const KEPT: usize = 2;
/// A clean stop writes one if the next start would have to put together so many segments' summaries.
const SEGMENTS_MAX: usize = 4;

/// The key in a partition's state under which it is noted that segments went for which a checkpoint was written.
const WRITTEN_KEY: &str = "tables";

/// Whether a partition's log was ever cut with something to remember.
pub(crate) fn were_written(state: &crate::state_log::table::StateTable) -> bool {
    state.get(WRITTEN_KEY).is_some()
}

/// A checkpoint file's name.
pub(crate) fn file_name(offset: Offset) -> String {
    format!("{:020}.tables", offset.0)
}

/// Reads a checkpoint file's name back.
pub(crate) fn parse_file_name(name: &str) -> Option<Offset> {
    let offset = Offset(name.strip_suffix(".tables")?.parse().ok()?);
    (file_name(offset) == name).then_some(offset)
}

/// Whether a name is that of a checkpoint that was not finished, or of a state log's snapshot: both are written as
/// `{offset:020}.tmp` first.
pub(crate) fn is_unfinished(name: &str) -> bool {
    name.strip_suffix(".tmp").is_some_and(|stem| parse_file_name(&format!("{stem}.tables")).is_some())
}

impl Partition {
    /// Makes sure, before segments go that end at or below `end`, that what they said of producers and dedup ids is kept.
    /// The caller holds the lock of those who cut the log. Blocks.
    pub(crate) fn keep_tables(self: &Arc<Self>, end: Offset) -> Result<(), LogError> {
        if self.identity().kind != Kind::Records {
            return Ok(());
        }
        self.write_checkpoint(|tables| tables.checkpoint < Some(end))?;
        if self.tables.lock().checkpoint.is_some() && self.state_get(WRITTEN_KEY)?.is_none() {
            self.state_put(WRITTEN_KEY, Some(&[1]))?;
        }
        Ok(())
    }

    /// The same for dedup ids, before records below `end` are compacted away. (Of producers compaction leaves what is to be
    /// known, in empty batches.)
    pub(crate) fn keep_dedup_ids(&self, end: Offset) -> Result<(), LogError> {
        let _one = self.trimming.lock();
        self.write_checkpoint(|tables| tables.checkpoint < Some(end) && !tables.dedup.is_empty())
    }

    /// Spares the next start work, at a clean stop.
    pub(crate) fn write_last_checkpoint(&self) {
        if self.identity().kind != Kind::Records || self.is_deleted() || self.is_read_only() {
            return;
        }
        let _one = self.trimming.lock();
        let ends: Vec<Offset> = self.sealed().iter().map(|segment| segment.extent().end).collect();
        let written = self.write_checkpoint(|tables| {
            let since = ends.iter().filter(|end| Some(**end) > tables.checkpoint).count();
            tables.changed && (!tables.dedup.is_empty() || since >= SEGMENTS_MAX)
        });
        if let Err(error) = written {
            tracing::warn!(stream = %self.stream(), partition = %self.id(), %error,
                "what is known of producers was not written: the next start reads it from the log");
        }
    }

    fn write_checkpoint(&self, is_due: impl FnOnce(&super::Tables) -> bool) -> Result<(), LogError> {
        let (offset, bytes) = {
            let tables = self.tables.lock();
            let is_idle = tables.is_blank() && tables.checkpoint.is_none();
            if is_idle || !is_due(&tables) {
                return Ok(());
            }
            (tables.end, tables.encode(self.incarnation()))
        };
        self.sync_below(offset)?;
        let path = self.dir().join(file_name(offset));
        let (storage, space) = (&*self.shared().storage, &self.shared().space);
        let written = match write_atomically(storage, &path, &bytes) {
            // It stands before what frees the disk.
            Err(error) if error.kind() == io::ErrorKind::StorageFull && space.release() => {
                write_atomically(storage, &path, &bytes)
            }
            other => other,
        };
        written.context("write", &path)?;
        {
            let mut tables = self.tables.lock();
            tables.checkpoint = Some(offset);
            tables.changed &= tables.end > offset;
        }
        if let Err(error) = remove_surplus(storage, self.dir()) {
            tracing::warn!(directory = %self.dir().display(), %error, "old checkpoints were not removed");
        }
        Ok(())
    }

    /// Syncs what a `written` partition has below `offset`: tables must not be ahead of the log.
    fn sync_below(&self, offset: Offset) -> Result<(), LogError> {
        if self.synced_end() >= offset {
            return Ok(());
        }
        // Sealed ones were synced when they were sealed.
        let active = self.active();
        active.write_deferred().context("write", active.path())?;
        if let Err(error) = active.file().sync_data() {
            self.poison(format!("cannot sync {}: {error}", active.path().display()).into());
            return Err(LogError::io("sync", active.path(), error));
        }
        self.note_synced(offset);
        self.shared().flusher.set_mark(self.incarnation(), offset);
        Ok(())
    }
}

/// Removes all checkpoints but the newest, and what was not finished.
fn remove_surplus(storage: &dyn Storage, dir: &std::path::Path) -> io::Result<()> {
    let names: Vec<String> = storage.list(dir)?.into_iter().map(|entry| entry.name).collect();
    // Names are sorted, and so are their offsets.
    let whole: Vec<&String> = names.iter().filter(|name| parse_file_name(name).is_some()).collect();
    let surplus = whole[..whole.len().saturating_sub(KEPT)].iter().copied();
    let gone: Vec<PathBuf> =
        surplus.chain(names.iter().filter(|name| is_unfinished(name))).map(|name| dir.join(name)).collect();
    gone.iter().try_for_each(|path| storage.remove_file(path))
}
