//! Carries a run out on one partition. One at a time; blocks on the disk.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millstream_protocol::batch::{BatchView, RecordRef};
use millstream_protocol::{Offset, Timestamp};
use parking_lot::Mutex;

use super::keys::KeyMap;
use super::rewrite::{Rewrite, Rewritten, is_unfinished};
use super::stored::{Batches, Unreadable};
use super::{CompactionFacts, CompactionPolicy, plan_compaction};
use crate::error::{Context, LogError};
use crate::partition::Partition;
use crate::segment::{Cleaned, Kind, PREAMBLE_BYTES, Preamble, Segment, parse_file_name};
use crate::storage::{Storage, read_exact_at};

/// What a run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compacted {
    /// Segments rewritten, counted once for each time.
    pub segments: u64,
    /// Records that went.
    pub records_removed: u64,
    /// Bytes of disk that became free.
    pub bytes_freed: u64,
}

/// What a partition knows of its compaction between runs.
#[derive(Default)]
pub(crate) struct Compactor {
    stop: AtomicBool,
    /// Held by the one run in hand.
    memory: Mutex<Memory>,
}

/// Names a file of a segment.
type Name = (Offset, u32);

#[derive(Default)]
struct Memory {
    /// Whether what earlier runs and crashes left in the directory is gone.
    is_swept: bool,
    /// A sync or rename failed: nothing more is unlinked in this process's life.
    failed: Option<LogError>,
    /// What the preambles say.
    cleaned: HashMap<Name, Option<Cleaned>>,
    /// Segments that were found not to read.
    unreadable: HashSet<Name>,
}

impl Compactor {
    /// Lets no further run begin, and returns when the one in hand has let go: within a batch's work.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        drop(self.memory.lock());
    }
}

impl Partition {
    /// Compacts what is worth it, if the settings say so. Goes on until all is done that was dirty when it began, which may
    /// take as long as reading and writing the partition; a close or a deletion ends it early. Waits for no reader. Blocks.
    ///
    /// # Errors
    /// [`LogError::Io`]. After a failed sync or rename every later call gives that error, until a restart.
    pub fn run_compaction(self: &Arc<Self>) -> Result<Compacted, LogError> {
        let Some(policy) = self.config().compaction.filter(|_| self.identity().kind == Kind::Records) else {
            return Ok(Compacted::default());
        };
        let mut memory = self.compactor().memory.lock();
        if let Some(error) = &memory.failed {
            return Err(error.clone());
        }
        let now = self.shared().clock.append_time();
        let mut run = Run { partition: self, policy, now, memory: &mut memory, done: Compacted::default() };
        if run.is_stopped() {
            return Ok(run.done);
        }
        let result = run.run();
        let done = run.done;
        if let Err(error) = result {
            // What is left lying is looked for again.
            memory.is_swept = false;
            return if self.is_deleted() { Ok(done) } else { Err(error) };
        }
        if done.segments > 0 {
            tracing::info!(stream = %self.stream(), partition = %self.id(), segments = done.segments,
                records_removed = done.records_removed, bytes_freed = done.bytes_freed, "segments compacted");
        }
        Ok(done)
    }
}

struct Run<'a> {
    partition: &'a Arc<Partition>,
    policy: CompactionPolicy,
    now: Timestamp,
    memory: &'a mut Memory,
    done: Compacted,
}

/// The keys that fit, and what they stand for.
struct Round {
    keys: KeyMap,
    /// Segments all of whose records have been mapped, in this round or those before it: clean once this one is over.
    clean: HashSet<Offset>,
    /// Segments whose tombstones go if they are in the map.
    expiring: HashSet<Offset>,
    /// Where the first dirty segment goes on in the next round.
    resume: Option<Offset>,
    /// Where the next round begins: nothing from there on is rewritten in this one.
    until: Offset,
}

impl Run<'_> {
    fn run(&mut self) -> Result<(), LogError> {
        self.sweep()?;
        loop {
            let before = self.done.segments;
            self.run_plan()?;
            // Tombstones for which there was no room are over still.
            if self.done.segments == before || self.is_stopped() {
                return Ok(());
            }
        }
    }

    fn run_plan(&mut self) -> Result<(), LogError> {
        let sealed = self.partition.sealed();
        let facts = sealed.iter().map(|segment| self.facts(segment)).collect::<Result<Vec<_>, _>>()?;
        let names: HashSet<Name> = sealed.iter().map(name).collect();
        self.memory.cleaned.retain(|name, _| names.contains(name));
        self.memory.unreadable.retain(|name| names.contains(name));
        let plan = plan_compaction(self.now, &facts, &self.policy);
        if plan.is_empty() {
            return Ok(());
        }
        // By base: generations change under this run's own hands, and retention may take segments away.
        let base = |index: &usize| sealed[*index].base();
        // A lake that has decided on a file's records builds that file from the log, if need be again.
        let hold = self.partition.least_hold().unwrap_or(Offset(u64::MAX));
        let end = facts[plan.eligible - 1].end.min(hold);
        let mut dirty: VecDeque<Offset> = plan.dirty.iter().map(base).collect();
        let mut expiring: Vec<Offset> = plan.expiring.iter().map(base).collect();
        let mut resume = None;
        loop {
            let round = self.map(&mut dirty, std::mem::take(&mut expiring), resume)?;
            self.rewrite(&round, end)?;
            resume = round.resume;
            if dirty.is_empty() || self.is_stopped() {
                return Ok(());
            }
        }
    }

    /// Maps the keys of tombstones that are over, then those of dirty segments, as many as fit. What is mapped whole, or
    /// cannot be, leaves `dirty`.
    fn map(
        &mut self,
        dirty: &mut VecDeque<Offset>,
        expiring: Vec<Offset>,
        mut resume: Option<Offset>,
    ) -> Result<Round, LogError> {
        let sealed = self.partition.sealed();
        let find = |base: Offset| sealed.iter().find(|segment| segment.base() == base);
        let mut keys = KeyMap::new(self.policy.key_map_bytes);
        for segment in expiring.iter().filter_map(|base| find(*base)) {
            // Those for which there is no room are planned again.
            self.note_keys(segment, Offset::ZERO, &mut keys, Wanted::Tombstones)?;
        }
        let mut clean = HashSet::new();
        while let Some(base) = dirty.front().copied() {
            let from = resume.take().unwrap_or(base);
            if let Some(segment) = find(base) {
                match self.note_keys(segment, from, &mut keys, Wanted::All)? {
                    Mapped::All => drop(clean.insert(base)),
                    Mapped::Unreadable => {}
                    // Nothing is rewritten any more.
                    Mapped::Stopped => break,
                    Mapped::UpTo(at) => {
                        // Between two segments is better: this one is then rewritten once, in the next round.
                        let (resume, until) =
                            if clean.is_empty() { (Some(at), segment.extent().end) } else { (None, base) };
                        return Ok(Round { keys, clean, expiring: expiring.into_iter().collect(), resume, until });
                    }
                }
            }
            dirty.pop_front();
        }
        let until = Offset(u64::MAX);
        Ok(Round { keys, clean, expiring: expiring.into_iter().collect(), resume: None, until })
    }

    /// Notes the keys of a segment's records from `from` on.
    fn note_keys(
        &mut self,
        segment: &Arc<Segment>,
        from: Offset,
        keys: &mut KeyMap,
        wanted: Wanted,
    ) -> Result<Mapped, LogError> {
        let mut batches = Batches::new(segment, self.partition.incarnation());
        loop {
            if self.is_stopped() {
                return Ok(Mapped::Stopped);
            }
            let full = match batches.next() {
                Ok(None) => return Ok(Mapped::All),
                Ok(Some(batch)) if batch.header().end_offset() <= from => continue,
                Ok(Some(batch)) => note_batch(&batch, from, keys, wanted),
                Err(unreadable) => Err(unreadable),
            };
            match full {
                Ok(None) => {}
                Ok(Some(at)) => return Ok(Mapped::UpTo(at)),
                Err(unreadable) => {
                    self.leave_alone(segment, &unreadable.damage(segment.path())?);
                    return Ok(Mapped::Unreadable);
                }
            }
        }
    }

    /// Rewrites what the map concerns below `end`, oldest first.
    fn rewrite(&mut self, round: &Round, end: Offset) -> Result<(), LogError> {
        let mut damaged_below = false;
        for segment in self.partition.sealed() {
            let base = segment.base();
            let is_concerned = round.keys.may_concern(base) || round.clean.contains(&base);
            if self.is_stopped() || base >= round.until || segment.extent().end > end || !is_concerned {
                continue;
            }
            if self.facts(&segment)?.is_damaged {
                damaged_below = true;
                continue;
            }
            self.rewrite_segment(&segment, round, &mut damaged_below)?;
        }
        Ok(())
    }

    fn rewrite_segment(&mut self, old: &Arc<Segment>, round: &Round, damaged_below: &mut bool) -> Result<(), LogError> {
        let partition = self.partition;
        let storage = &*partition.shared().storage;
        let was_cleaned = self.cleaned(old)?.map(|cleaned| cleaned.at);
        let is_forced = was_cleaned.is_none() && round.clean.contains(&old.base());
        let is_over = !*damaged_below && round.expiring.contains(&old.base());
        let rewrite = Rewrite {
            storage,
            dir: partition.dir(),
            index_interval: partition.shared().config.index_interval_bytes,
            old,
            preamble: Preamble {
                identity: partition.identity(),
                base: old.base(),
                generation: old.generation().checked_add(1).expect("a segment is not rewritten 2^32 times"),
            },
            // Zero stands for dirty.
            cleaned: was_cleaned.or(is_forced.then_some(Timestamp(self.now.0.max(1)))),
            is_forced,
        };
        let keeps =
            |offset, record: &RecordRef<'_>| round.keys.keeps(offset, record.key, record.value.is_none(), is_over);
        let mut written = match self.fatal_sync(rewrite.run(&keeps, &|| self.is_stopped()))? {
            Rewritten::Written(written) => written,
            Rewritten::Unchanged | Rewritten::Stopped => return Ok(()),
            Rewritten::Unreadable(reason) => {
                self.leave_alone(old, &reason);
                *damaged_below = true;
                return Ok(());
            }
        };
        // What goes may be the first record of a dedup id.
        partition.keep_dedup_ids(old.extent().end)?;
        let (removed, cleaned, producers) = (written.removed, written.cleaned, std::mem::take(&mut written.producers));
        let mut written = Some(written);
        let publish = || written.take().expect("asked once").publish(storage, partition.dir());
        let published = partition.replace_sealed(old, publish);
        let Some(new) = self.fatal(published)? else {
            // Retention was faster.
            return written.map_or(Ok(()), |written| written.discard(storage));
        };
        self.memory.cleaned.insert(name(&new), cleaned);
        let incarnation = partition.incarnation();
        new.write_index(storage, incarnation, &new.extent(), &producers);
        self.unlink(storage, &old.index_path())?;
        self.unlink(storage, old.path())?;
        self.fatal(storage.sync_dir(partition.dir()).context("sync", partition.dir()))?;
        let (before, after) = (old.extent().end_position, new.extent().end_position);
        self.done.segments += 1;
        self.done.records_removed += removed;
        self.done.bytes_freed += before.saturating_sub(after);
        Ok(())
    }

    /// Removes what rewrites that did not finish and unlinks that were not durable have left: recovery unlinks nothing, but
    /// it has found the newer generation whole, or it would not be the one that is open.
    fn sweep(&mut self) -> Result<(), LogError> {
        if self.memory.is_swept {
            return Ok(());
        }
        let (storage, dir) = (&*self.partition.shared().storage, self.partition.dir());
        let served: HashMap<Offset, u32> = self.partition.sealed().iter().map(name).collect();
        let mut is_clean = true;
        for entry in storage.list(dir).context("list", dir)? {
            let log_name = entry.name.strip_suffix(".index").map(|stem| format!("{stem}.log"));
            let parsed = parse_file_name(log_name.as_deref().unwrap_or(&entry.name));
            let is_older = parsed.is_some_and(|(base, generation)| served.get(&base).is_some_and(|g| generation < *g));
            if !entry.is_dir && (is_older || is_unfinished(&entry.name)) {
                self.unlink(storage, &dir.join(&entry.name))?;
                is_clean = false;
            }
        }
        if !is_clean {
            self.fatal(storage.sync_dir(dir).context("sync", dir))?;
        }
        self.memory.is_swept = true;
        Ok(())
    }

    fn unlink(&self, storage: &dyn Storage, path: &Path) -> Result<(), LogError> {
        match storage.remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(LogError::io("delete", path, error)),
            _ => Ok(()),
        }
    }

    fn facts(&mut self, segment: &Arc<Segment>) -> Result<CompactionFacts, LogError> {
        let cleaned = self.cleaned(segment)?;
        let extent = segment.extent();
        Ok(CompactionFacts {
            end: extent.end,
            bytes: extent.end_position,
            last_append_time: extent.last_append_time,
            cleaned: cleaned.map(|cleaned| cleaned.at),
            has_tombstones: cleaned.is_some_and(|cleaned| cleaned.tombstones > 0),
            is_damaged: !extent.holes.is_empty() || self.memory.unreadable.contains(&name(segment)),
        })
    }

    /// What a segment's preamble says of its cleaning.
    fn cleaned(&mut self, segment: &Arc<Segment>) -> Result<Option<Cleaned>, LogError> {
        let name = name(segment);
        if let Some(cleaned) = self.memory.cleaned.get(&name) {
            return Ok(*cleaned);
        }
        let head = read_exact_at(&**segment.file(), 0, PREAMBLE_BYTES as usize).context("read", segment.path())?;
        let preamble = Preamble { identity: self.partition.identity(), base: name.0, generation: name.1 };
        let cleaned = preamble.read_cleaned(&head).unwrap_or_else(|| {
            // It was whole when it was opened.
            self.memory.unreadable.insert(name);
            None
        });
        self.memory.cleaned.insert(name, cleaned);
        Ok(cleaned)
    }

    fn leave_alone(&mut self, segment: &Arc<Segment>, reason: &str) {
        tracing::error!(file = %segment.path().display(), reason,
            "a segment does not read and is not compacted; `millstream verify` says more");
        self.memory.unreadable.insert(name(segment));
    }

    /// Remembers an error after which nothing is known of what is durable.
    fn fatal<T>(&mut self, result: Result<T, LogError>) -> Result<T, LogError> {
        if let Err(error) = &result
            && !self.partition.is_deleted()
        {
            self.memory.failed = Some(error.clone());
        }
        result
    }

    /// The same, but for a disk that is full: then nothing was begun that could be half done.
    fn fatal_sync<T>(&mut self, result: Result<T, LogError>) -> Result<T, LogError> {
        match result {
            Err(LogError::Io { act: "sync", .. }) => self.fatal(result),
            _ => result,
        }
    }

    fn is_stopped(&self) -> bool {
        self.partition.compactor().stop.load(Ordering::Acquire)
            || self.partition.is_deleted()
            || self.partition.is_read_only()
    }
}

/// Whose keys are mapped.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    All,
    /// In half of the room.
    Tombstones,
}

/// What came of mapping a segment.
enum Mapped {
    All,
    /// There was no room for the key of the record at this offset.
    UpTo(Offset),
    Unreadable,
    Stopped,
}

/// Notes the keys of a batch's records from `from` on; the offset at which there was no room.
fn note_batch(
    batch: &BatchView,
    from: Offset,
    keys: &mut KeyMap,
    wanted: Wanted,
) -> Result<Option<Offset>, Unreadable> {
    let base = batch.header().base_offset;
    let mut records = batch.records()?;
    while let Some(record) = records.next_ref() {
        let record = record?;
        let at = Offset(base.0 + u64::from(record.offset_delta));
        let Some(key) = record.key.filter(|_| at >= from) else { continue };
        let has_room = match wanted {
            Wanted::All => keys.note(key, at),
            Wanted::Tombstones => record.value.is_some() || keys.note_in_half(key, at),
        };
        if !has_room {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

fn name(segment: &Arc<Segment>) -> Name {
    (segment.base(), segment.generation())
}
