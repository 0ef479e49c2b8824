//! A partition: an ordered log of batches in segments, its watermarks, and what is known of its health.
//!
//! Its tail belongs to one lane; everything else here may be called from any thread. Published state only moves one
//! way: the high watermark and the log start rise, a poisoned partition stays read-only for this process's life.
//!
//! Not here: stamping and group commit (`lane`), where the log ends after a crash (`recovery`), which segments go
//! (`retention`), which records (`compaction`).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use crossbeam_channel::{Sender, bounded};
use event_listener::{Event, EventListener};
use millstream_protocol::{Epoch, Incarnation, Offset, PartitionId, ProducerId, StreamId, Timestamp};
use parking_lot::{Mutex, RwLock};

use crate::compaction::{CompactionPolicy, Compactor};
use crate::error::{Context, LogError};
use crate::lane::admission::Overlay;
use crate::lane::thread::LaneSender;
use crate::lane::{Append, AppendSink, Appended, Command};
use crate::log::Shared;
use crate::new_batch::NewBatch;
use crate::producers::Producers;
use crate::read::{Chunk, Cursors, Found, find_time, read_segment};
use crate::recent::{self, Recent};
use crate::recovery::open::{Opened, Place, Recovered, create_segment, newest_append_time, open_segments};
use crate::recovery::tables::add_dedup_ids;
use crate::retention::{Reason, RetentionPolicy, SegmentFacts, is_roll_due, plan_retention, trusts_age};
use crate::segment::{BatchPlace, Extent, Identity, Kind, PREAMBLE_BYTES, Segment};
use crate::state_log::StateLog;
use crate::state_log::table::{StateTable, TableEvent};
use crate::tables::{Tables, checkpoint};

/// The key under which a partition's log start is kept in its state log.
const LOG_START_KEY: &str = "log-start";

/// The keys under which its accepted losses are kept: this, then the first offset lost. Values are the next intact one.
pub(crate) const ACCEPTED_LOSS_KEYS: &str = "accepted-loss/";

/// What an ack means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Synced to the disk before the ack.
    #[default]
    Synced,
    /// In the page cache before the ack.
    Written,
}

/// A partition's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionConfig {
    /// What an ack means.
    pub durability: Durability,
    /// A segment is sealed before it would grow beyond this many bytes (a larger batch has one for itself).
    pub segment_bytes: u64,
    /// What is kept.
    pub retention: RetentionPolicy,
    /// Whether of each key only the latest record is kept, and how.
    pub compaction: Option<CompactionPolicy>,
    /// How long a dedup id is remembered, in milliseconds from its first append.
    pub dedup_window_ms: u64,
}

impl Default for PartitionConfig {
    /// Synced, segments of 256 MiB, everything kept, dedup ids for five minutes.
    fn default() -> Self {
        Self {
            durability: Durability::Synced,
            segment_bytes: 256 << 20,
            retention: RetentionPolicy::default(),
            compaction: None,
            dedup_window_ms: 5 * 60 * 1_000,
        }
    }
}

/// What is known of a partition that is opened: which epoch is stamped into what is appended from now on, and whether it
/// must have a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// It is being made.
    New(Epoch),
    /// It was made before: its first segment was durable then.
    Before(Epoch),
    /// The catalog: one epoch above the newest found.
    Catalog,
}

impl Opening {
    fn epoch(self) -> Option<Epoch> {
        match self {
            Opening::New(epoch) | Opening::Before(epoch) => Some(epoch),
            Opening::Catalog => None,
        }
    }
}

/// What goes into a segment's index beside its extent.
pub(crate) enum Summary {
    /// No index is to be written.
    NotDue,
    /// The segment was sealed meanwhile, and its index written then.
    Sealed,
    /// What is known of its producers.
    Of(Producers),
}

/// Is told that a partition has changed: its high watermark, its log start or its health.
pub trait Watch: Send + Sync {
    /// Called on the thread that changed it, a lane's as a rule: do not block.
    fn changed(&self);
}

/// Where appends go: touched by the partition's lane only.
pub(crate) struct Tail {
    pub segment: Arc<Segment>,
    pub position: u64,
    pub next_offset: Offset,
    pub last_append_time: Timestamp,
    pub epoch: Epoch,
    pub poison: Option<Arc<str>>,
}

/// One partition, open.
pub struct Partition {
    shared: Arc<Shared>,
    identity: Identity,
    dir: PathBuf,
    config: PartitionConfig,
    epoch: Epoch,
    lane: LaneSender,
    pub(crate) tail: Mutex<Tail>,
    /// In order; the last one is active.
    segments: RwLock<Vec<Arc<Segment>>>,
    epochs: RwLock<Vec<(Epoch, Offset)>>,
    log_start: AtomicU64,
    high_watermark: AtomicU64,
    /// The offset below which all is known durable: never above the high watermark, below it on `written` partitions.
    synced_end: AtomicU64,
    bytes: AtomicU64,
    /// Who has written into it, and under which dedup ids, as far as that is durable. Locked for a moment: behind the tail,
    /// before a segment's extent.
    pub(crate) tables: Mutex<Tables>,
    poison: Mutex<Option<Arc<str>>>,
    read_only: AtomicBool,
    deleted: AtomicBool,
    changed: Event,
    watches: RwLock<Vec<Weak<dyn Watch>>>,
    cursors: Cursors,
    pub(crate) recent: Recent,
    holds: Mutex<HashMap<String, Offset>>,
    state: Mutex<Option<Arc<StateLog<StateTable>>>>,
    /// One retention run or log-start move at a time.
    pub(crate) trimming: Mutex<()>,
    compactor: Compactor,
    recovered: Recovered,
    /// The clock, and the newest record's append time, when it was opened.
    opened: (Timestamp, Timestamp),
}

impl Partition {
    /// Opens the partition in `dir`, which exists; begins an empty one there if it may have no segment.
    pub(crate) fn open(
        shared: &Arc<Shared>,
        lane: LaneSender,
        dir: PathBuf,
        identity: Identity,
        config: PartitionConfig,
        opening: Opening,
    ) -> Result<Arc<Self>, LogError> {
        let state_dir = dir.join("state");
        let has_state = identity.kind == Kind::Records
            && shared.storage.list(&dir).context("list", &dir)?.iter().any(|e| e.is_dir && e.name == "state");
        let state = match has_state {
            true => Some(open_state(shared, &lane, state_dir, identity, opening.epoch())?),
            false => None,
        };
        let stored_start = state.as_ref().map_or(Offset::ZERO, |state| state.read(log_start));

        let place = Place {
            storage: &*shared.storage,
            dir: &dir,
            quarantine: &shared.quarantine,
            identity,
            index_interval: shared.config.index_interval_bytes,
            must_exist: identity.kind == Kind::Records && matches!(opening, Opening::Before(_)),
            has_tables: state.as_ref().is_some_and(|state| state.read(checkpoint::were_written)),
        };
        let known = shared.flusher.mark(identity.incarnation).unwrap_or_default();
        let Opened { segments, mut tables, tables_from, mut recovered } = open_segments(&place, stored_start, known)?;
        if !recovered.is_clean() || recovered.bytes_read > 0 {
            tracing::info!(stream = %identity.stream, partition = %identity.partition, kind = ?identity.kind, ?recovered,
                "recovered");
        }
        if let Some(state) = &state {
            recovered.add(state.recovered());
        }
        let active = segments.last().expect("at least one segment").clone();
        let (end, position) = (active.extent().end, active.extent().end_position);
        let epochs = merge_epochs(&segments);
        let epoch = opening.epoch().unwrap_or_else(|| Epoch(epochs.last().map_or(1, |(last, _)| last.0 + 1)));
        // Records' log start is stored before a segment goes: one that is missing without it is a loss. A state log's is
        // its oldest segment; what it may forget is its snapshots' business.
        let log_start = match identity.kind {
            Kind::Records => stored_start,
            Kind::State | Kind::Queue => segments[0].base(),
        };
        shared.flusher.set_mark(identity.incarnation, end);
        let bytes = segments.iter().map(|segment| segment.extent().end_position).sum();
        let newest = newest_append_time(&segments);
        if identity.kind == Kind::Records {
            let window = (shared.clock.append_time().max(newest), config.dedup_window_ms);
            add_dedup_ids(&segments, identity.incarnation, tables_from, window, &mut tables)?;
        }
        let tail = Tail { position, next_offset: end, last_append_time: newest, epoch, poison: None, segment: active };
        Ok(Arc::new(Self {
            shared: shared.clone(),
            identity,
            dir,
            config,
            epoch,
            lane,
            tail: Mutex::new(tail),
            segments: RwLock::new(segments),
            epochs: RwLock::new(epochs),
            log_start: AtomicU64::new(log_start.0),
            high_watermark: AtomicU64::new(end.0),
            synced_end: AtomicU64::new(end.0),
            bytes: AtomicU64::new(bytes),
            tables: Mutex::new(tables),
            poison: Mutex::new(None),
            read_only: AtomicBool::new(false),
            deleted: AtomicBool::new(false),
            changed: Event::new(),
            watches: RwLock::default(),
            cursors: Cursors::default(),
            recent: Recent::default(),
            holds: Mutex::new(HashMap::new()),
            state: Mutex::new(state),
            trimming: Mutex::new(()),
            compactor: Compactor::default(),
            recovered,
            opened: (shared.clock.append_time(), newest),
        }))
    }

    /// Appends a batch that a client sent: parsed, with a zero stamp (the caller has checked both), and with the keys of its
    /// dedup ids if it is flagged. Never blocks: `sink` gets the result, under `token`, on a lane's thread.
    ///
    /// A batch of a producer with an id that was stored before is stored once: its sender gets the first one's offset.
    ///
    /// # Errors
    /// At once, and then `sink` is not called: [`LogError::ReadOnly`], [`LogError::DiskFull`], [`LogError::Throttled`],
    /// [`LogError::Closed`], [`LogError::Deleted`]. Through `sink`: also [`LogError::DurabilityUnknown`];
    /// [`LogError::ProducerFenced`], [`LogError::OutOfOrderSequence`], [`LogError::UnknownProducer`];
    /// [`LogError::Duplicates`], [`LogError::TwinDedupId`], [`LogError::DedupWindowFull`].
    pub fn append(
        self: &Arc<Self>,
        batch: impl Into<NewBatch>,
        token: u64,
        sink: &Arc<dyn AppendSink>,
    ) -> Result<(), LogError> {
        if self.deleted.load(Ordering::Acquire) {
            return Err(LogError::Deleted);
        }
        if let Some(reason) = self.read_only_reason() {
            return Err(self.read_only_error(reason));
        }
        if self.identity.kind == Kind::Records && self.shared.space.is_low() {
            return Err(LogError::DiskFull);
        }
        self.lane.append(Append { partition: self.clone(), batch: batch.into(), token, sink: sink.clone() })
    }

    /// Appends a batch and waits until the durability holds: for who embeds the log.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn append_wait(self: &Arc<Self>, batch: impl Into<NewBatch>) -> Result<Appended, LogError> {
        let (sink, wait) = WaitSink::pair();
        self.append(batch, 0, &sink)?;
        drop(sink);
        self.before_wait();
        wait.recv().unwrap_or(Err(LogError::Closed))
    }

    /// Reads whole batches as stored, beginning with the one that holds `from`: about `bytes_max` bytes, at least one
    /// batch, only below the high watermark; empty at the high watermark. Blocks on the disk.
    ///
    /// # Errors
    /// [`LogError::OffsetOutOfRange`], [`LogError::RecordsLost`], [`LogError::Deleted`], [`LogError::Io`].
    pub fn read(&self, from: Offset, bytes_max: usize) -> Result<Chunk, LogError> {
        match self.read_at(from, bytes_max) {
            // At the end of the log there is nothing to go on with yet: there a loss stays an error.
            Err(LogError::RecordsLost { from: lost, resume }) => match self.accepted_resume(lost) {
                Some(accepted) if accepted > from && accepted < self.high_watermark() => self.read(accepted, bytes_max),
                _ => Err(LogError::RecordsLost { from: lost, resume }),
            },
            other => other,
        }
    }

    /// The same where it is known without the disk: what has just been appended, while somebody
    /// [listens](Self::listen). Never blocks. `None` says nothing but that [`read`](Self::read) must be asked.
    pub fn read_recent(&self, from: Offset, bytes_max: usize) -> Option<Chunk> {
        // The start first, as below.
        let log_start = self.log_start();
        if self.deleted.load(Ordering::Acquire) || from < log_start {
            return None;
        }
        let high_watermark = self.high_watermark();
        let recent::Found { bytes, next, segment, position } = self.recent.find(from, high_watermark, bytes_max)?;
        self.cursors.take(from, &segment);
        self.cursors.note(next, &segment, position);
        Some(Chunk { bytes, next, high_watermark, log_start })
    }

    fn read_at(&self, from: Offset, bytes_max: usize) -> Result<Chunk, LogError> {
        if self.deleted.load(Ordering::Acquire) {
            return Err(LogError::Deleted);
        }
        // The start first: it only rises, so what is in range now was in range of this start.
        let log_start = self.log_start();
        let high_watermark = self.high_watermark();
        if from < log_start || from > high_watermark {
            return Err(LogError::OffsetOutOfRange { wanted: from, log_start, high_watermark });
        }
        let chunk = |bytes, next| Chunk { bytes, next, high_watermark, log_start };
        if from == high_watermark {
            return Ok(chunk(Bytes::new(), from));
        }
        let (segment, next_base) = {
            let segments = self.segments.read();
            let after = segments.partition_point(|segment| segment.base() <= from);
            let next_base = segments.get(after).map(|segment| segment.base());
            match after.checked_sub(1) {
                None => return Err(self.lost_or_gone(from, next_base)),
                Some(index) => (segments[index].clone(), next_base),
            }
        };
        if segment.extent().end <= from {
            return Err(self.lost_or_gone(from, next_base));
        }
        let cursor = self.cursors.take(from, &segment);
        let incarnation = self.identity.incarnation;
        let found = read_segment(&self.shared.pool, &segment, incarnation, from, high_watermark, bytes_max, cursor);
        if found.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            // Closed, and since then deleted by retention or superseded by compaction: look it up again.
            let is_current = self.segments.read().iter().any(|current| Arc::ptr_eq(current, &segment));
            if !is_current {
                return self.read_at(from, bytes_max);
            }
        }
        match found.context("read", segment.path())? {
            Found::Batches { bytes, next, position } => {
                self.cursors.note(next, &segment, position);
                Ok(chunk(bytes, next))
            }
            Found::Damaged { resume } => Err(self.lost_or_gone(from, resume.or(next_base))),
        }
    }

    /// Nothing intact at `from`: retention overtook the reader, or it is damage.
    fn lost_or_gone(&self, from: Offset, resume: Option<Offset>) -> LogError {
        let (log_start, high_watermark) = (self.log_start(), self.high_watermark());
        if from < log_start {
            return LogError::OffsetOutOfRange { wanted: from, log_start, high_watermark };
        }
        LogError::RecordsLost { from, resume: resume.unwrap_or(high_watermark).min(high_watermark) }
    }

    /// The offset of the first record appended at or after `time`; the high watermark if there is none. Blocks.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn offset_for_time(&self, time: Timestamp) -> Result<Offset, LogError> {
        let segments = self.segments.read().clone();
        for segment in segments {
            let candidate = {
                let extent = segment.extent();
                extent.end > segment.base() && extent.last_append_time >= time
            };
            if candidate
                && let Some(offset) =
                    find_time(&segment, self.identity.incarnation, time).context("read", segment.path())?
            {
                return Ok(offset.clamp(self.log_start(), self.high_watermark().max(self.log_start())));
            }
        }
        Ok(self.high_watermark())
    }

    /// The offset after the last record of `epoch` and the epochs before it. A reader that stands above the end of the
    /// epoch it read last has seen records that the log has lost since.
    pub fn epoch_end(&self, epoch: Epoch) -> Offset {
        let epochs = self.epochs.read();
        let later = epochs.partition_point(|(known, _)| *known <= epoch);
        epochs.get(later).map_or_else(|| self.high_watermark(), |(_, first)| *first)
    }

    /// Takes a loss for granted, durably: reads pass over `from..resume` where they named it before. Blocks.
    ///
    /// # Errors
    /// As [`state_put`](Self::state_put).
    pub fn accept_loss(self: &Arc<Self>, from: Offset, resume: Offset) -> Result<(), LogError> {
        let key = format!("{ACCEPTED_LOSS_KEYS}{:020}", from.0);
        self.state_put(&key, Some(&resume.0.to_le_bytes()))?;
        tracing::warn!(stream = %self.identity.stream, partition = %self.identity.partition, %from, %resume,
            "a loss of records was accepted");
        Ok(())
    }

    /// Where reading goes on behind an accepted loss that `lost` lies in.
    fn accepted_resume(&self, lost: Offset) -> Option<Offset> {
        let state = self.state.lock().clone()?;
        state.read(|table| accepted_losses(table).find(|(from, resume)| *from <= lost && lost < *resume).map(|l| l.1))
    }

    /// The sequence that the partition stores next of a producer; `None` if it knows no batch of it and may have forgotten
    /// some. What is in a lane's hands is not counted: ask behind [`Log::fence_producer`](crate::Log::fence_producer).
    pub fn next_sequence(&self, producer: ProducerId) -> Option<u64> {
        let producers = &self.tables.lock().producers;
        match producers.standing(producer) {
            Some(standing) => Some(standing.next),
            None => (!producers.may_have_forgotten(producer)).then_some(0),
        }
    }

    /// Fires when the high watermark, the log start or the health changes. Listen, look again, then wait.
    pub fn listen(&self) -> EventListener {
        self.recent.want();
        self.changed.listen()
    }

    /// Has `watch` told of what [`listen`](Self::listen) fires for, until it is dropped.
    pub fn watch(&self, watch: &Arc<dyn Watch>) {
        let mut watches = self.watches.write();
        watches.retain(|watch| watch.strong_count() > 0);
        watches.push(Arc::downgrade(watch));
    }

    fn notify(&self) {
        self.changed.notify(usize::MAX);
        self.watches.read().iter().filter_map(Weak::upgrade).for_each(|watch| watch.changed());
    }

    /// Forgets the records below `offset` (at most the high watermark), durably; whole segments are deleted. Returns the
    /// new log start. Blocks.
    ///
    /// # Errors
    /// [`LogError::OffsetOutOfRange`] above the high watermark; [`LogError::Io`], [`LogError::ReadOnly`].
    pub fn delete_before(self: &Arc<Self>, offset: Offset) -> Result<Offset, LogError> {
        let _one = self.trimming.lock();
        let (log_start, high_watermark) = (self.log_start(), self.high_watermark());
        if offset > high_watermark {
            return Err(LogError::OffsetOutOfRange { wanted: offset, log_start, high_watermark });
        }
        self.raise_log_start(offset)?;
        self.trim(Timestamp(i64::MIN), RetentionPolicy::default(), None)?;
        Ok(self.log_start())
    }

    /// Deletes what the retention settings let go, and, where `consumed` is given, whole segments below it: the offset that
    /// all who are interested in the records are past, durably. Holds are asked here. Blocks.
    ///
    /// # Errors
    /// [`LogError::Io`], [`LogError::ReadOnly`].
    pub fn run_retention(self: &Arc<Self>, consumed: Option<Offset>) -> Result<(), LogError> {
        let _one = self.trimming.lock();
        if self.deleted.load(Ordering::Acquire) {
            return Ok(());
        }
        let now = self.shared.clock.append_time();
        self.tables.lock().dedup.expire(now, self.config.dedup_window_ms);
        let mut policy = self.config.retention;
        if policy.age_ms.is_some() && !trusts_age(self.opened.0, self.opened.1, now) {
            tracing::debug!(stream = %self.identity.stream, partition = %self.identity.partition,
                "the clock was far ahead of the newest record at the start: nothing is deleted by its age for an hour");
            policy.age_ms = None;
        }
        // Never above a hold: a segment that could not go must not be rolled for nothing.
        let consumed = consumed.map(|consumed| self.least_hold().map_or(consumed, |hold| hold.min(consumed)));
        let active = self.active();
        let (is_empty, facts) = {
            let extent = active.extent();
            (extent.end == active.base(), facts(&extent))
        };
        if !is_empty && is_roll_due(now, facts, policy, consumed) {
            self.lane.send(Command::Roll(self.clone()))?;
            self.lane.barrier()?;
        }
        self.trim(now, policy, consumed)
    }

    fn trim(
        self: &Arc<Self>,
        now: Timestamp,
        policy: RetentionPolicy,
        consumed: Option<Offset>,
    ) -> Result<(), LogError> {
        let (facts, active_bytes) = self.facts();
        let hold = self.least_hold();
        let plan = plan_retention(now, &facts, active_bytes, policy, self.log_start(), hold, consumed);
        let Some(last) = plan.len().checked_sub(1) else { return Ok(()) };
        if plan.contains(&Reason::Overtaken) {
            tracing::warn!(stream = %self.identity.stream, partition = %self.identity.partition, hold = ?hold,
                log_start = %facts[last].end, "retention has overtaken a lake: its missing records are counted as lost");
        }
        self.keep_tables(facts[last].end)?;
        // The log start first, durably: an unlinked file may come back, and the log start wins over it.
        self.raise_log_start(facts[last].end)?;
        let gone: Vec<Arc<Segment>> = self.segments.write().drain(..plan.len()).collect();
        for segment in &gone {
            self.bytes.fetch_sub(segment.extent().end_position, Ordering::AcqRel);
            segment.remove_index(&*self.shared.storage).context("delete", &segment.index_path())?;
            self.shared.storage.remove_file(segment.path()).context("delete", segment.path())?;
        }
        self.shared.storage.sync_dir(&self.dir).context("sync", &self.dir)?;
        tracing::info!(stream = %self.identity.stream, partition = %self.identity.partition, segments = gone.len(),
            log_start = %self.log_start(), reason = ?plan[last], "segments deleted");
        Ok(())
    }

    /// The segment that grows.
    pub(crate) fn active(&self) -> Arc<Segment> {
        self.segments.read().last().expect("at least one segment").clone()
    }

    /// The sealed segments, in order.
    pub(crate) fn sealed(&self) -> Vec<Arc<Segment>> {
        let segments = self.segments.read();
        segments[..segments.len() - 1].to_vec()
    }

    /// Puts a sealed segment's next generation in its place, once `publish` has made that durable under its name. `None`,
    /// and nothing is published, if retention has taken the old one meanwhile. Readers that hold the old one read on.
    pub(crate) fn replace_sealed(
        &self,
        old: &Arc<Segment>,
        publish: impl FnOnce() -> Result<Arc<Segment>, LogError>,
    ) -> Result<Option<Arc<Segment>>, LogError> {
        let _one = self.trimming.lock();
        let place = |segments: &[Arc<Segment>]| segments.iter().position(|segment| Arc::ptr_eq(segment, old));
        if place(&self.segments.read()).is_none() {
            return Ok(None);
        }
        let new = publish()?;
        let (before, after) = (old.extent().end_position, new.extent().end_position);
        assert_eq!(
            (new.base(), new.extent().end),
            (old.base(), old.extent().end),
            "a generation spans the same offsets"
        );
        {
            let mut segments = self.segments.write();
            let index = place(&segments).expect("segments go only under the lock held here");
            segments[index] = new.clone();
        }
        self.bytes.fetch_add(after, Ordering::AcqRel);
        self.bytes.fetch_sub(before, Ordering::AcqRel);
        Ok(Some(new))
    }

    fn facts(&self) -> (Vec<SegmentFacts>, u64) {
        let segments = self.segments.read();
        let (active, sealed) = segments.split_last().expect("at least one segment");
        let sealed = sealed.iter().map(|segment| facts(&segment.extent())).collect();
        (sealed, active.extent().end_position)
    }

    fn raise_log_start(self: &Arc<Self>, offset: Offset) -> Result<(), LogError> {
        if offset <= self.log_start() {
            return Ok(());
        }
        // A state log's start is its oldest segment; what it may forget is its snapshots' business.
        if self.identity.kind == Kind::Records {
            self.state_put(LOG_START_KEY, Some(&offset.0.to_le_bytes()))?;
        }
        self.log_start.fetch_max(offset.0, Ordering::AcqRel);
        self.notify();
        Ok(())
    }

    /// A value of the partition's state log.
    ///
    /// # Errors
    /// None today; it is where a state log that can't be read would say so.
    pub fn state_get(&self, key: &str) -> Result<Option<Bytes>, LogError> {
        let state = self.state.lock().clone();
        Ok(state.and_then(|state| state.read(|table| table.get(key))))
    }

    /// Sets, or with `None` removes, a value of the partition's state log. Durable when it returns; blocks.
    ///
    /// # Errors
    /// [`LogError::ReadOnly`], [`LogError::DurabilityUnknown`], [`LogError::DiskFull`], [`LogError::Io`].
    pub fn state_put(self: &Arc<Self>, key: &str, value: Option<&[u8]>) -> Result<(), LogError> {
        self.state_update(|_| Ok(vec![StateTable::event(key, value)]))
    }

    /// Lets `decide` look at the partition's state log and propose changes; they are durable when it returns. Decisions
    /// are made one after the other, each on what those before it have left; many may be in flight. Blocks.
    ///
    /// # Errors
    /// `decide`'s own; those of [`state_put`](Self::state_put).
    pub fn state_update<E: From<LogError>>(
        self: &Arc<Self>,
        decide: impl Fn(&StateTable) -> Result<Vec<TableEvent>, E>,
    ) -> Result<(), E> {
        let state = {
            let mut slot = self.state.lock();
            match &*slot {
                Some(state) => state.clone(),
                None => {
                    let dir = self.dir.join("state");
                    self.shared.storage.create_dir_all(&dir).context("create", &dir)?;
                    self.shared.storage.sync_dir(&self.dir).context("sync", &self.dir)?;
                    let state = open_state(&self.shared, &self.lane, dir, self.identity, Some(self.epoch))?;
                    slot.insert(state).clone()
                }
            }
        };
        let result = state.update(decide);
        if let Some(error @ (LogError::DurabilityUnknown { .. } | LogError::ReadOnly { .. })) = state.failure() {
            // Its state can't be kept any more: the partition goes with its state log.
            self.poison(format!("its state log failed: {error}").into());
        }
        result
    }

    /// Looks at the partition's state log; what it saw is durable when it returns. Blocks while changes are in flight.
    ///
    /// # Errors
    /// The one that ended the state log.
    pub fn state_read<R>(&self, look: impl Fn(&StateTable) -> R) -> Result<R, LogError> {
        let state = self.state.lock().clone();
        match state {
            None => Ok(look(&StateTable::default())),
            Some(state) => {
                let seen = state.read_durable(look);
                seen.ok_or_else(|| state.failure().unwrap_or(LogError::Closed))
            }
        }
    }

    /// Keeps records from `offset` on for `owner` against retention; `None` lets go.
    pub fn set_hold(&self, owner: &str, offset: Option<Offset>) {
        let mut holds = self.holds.lock();
        match offset {
            Some(offset) => drop(holds.insert(owner.to_owned(), offset)),
            None => drop(holds.remove(owner)),
        }
    }

    /// From where on an owner keeps the records, if it does.
    pub fn hold(&self, owner: &str) -> Option<Offset> {
        self.holds.lock().get(owner).copied()
    }

    /// The least offset that an owner still wants.
    pub(crate) fn least_hold(&self) -> Option<Offset> {
        self.holds.lock().values().min().copied()
    }

    /// The stream.
    pub fn stream(&self) -> StreamId {
        self.identity.stream
    }

    /// The partition's number.
    pub fn id(&self) -> PartitionId {
        self.identity.partition
    }

    /// What seeds the checksums of its batches.
    pub fn incarnation(&self) -> Incarnation {
        self.identity.incarnation
    }

    /// The epoch stamped into batches since it was opened.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The first offset still kept.
    pub fn log_start(&self) -> Offset {
        Offset(self.log_start.load(Ordering::Acquire))
    }

    /// The offset below which records have reached the stream's durability: what readers see.
    pub fn high_watermark(&self) -> Offset {
        Offset(self.high_watermark.load(Ordering::Acquire))
    }

    /// Bytes of its segments.
    pub fn size_bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Its settings.
    pub fn config(&self) -> &PartitionConfig {
        &self.config
    }

    /// What opening it had to do.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// Whether the disk has failed under it: it takes no appends until a restart.
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }

    /// Why it is read-only.
    pub fn read_only_reason(&self) -> Option<Arc<str>> {
        if self.is_read_only() { self.poison.lock().clone() } else { None }
    }

    /// Takes it out of service: its stream was deleted.
    pub fn mark_deleted(&self) {
        self.deleted.store(true, Ordering::Release);
        self.recent.clear();
        self.notify();
        self.compactor.stop();
    }

    /// Whether its stream was deleted.
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Snapshots its state, so that the next start need not replay it, and ends a compaction in hand;
    /// writes down what is known of producers and dedup ids if that saves the next start work. Blocks; call it before
    /// the log is closed.
    pub fn close(&self) {
        self.compactor.stop();
        self.write_last_checkpoint();
        let state = self.state.lock().clone();
        if let Some(state) = state {
            state.close();
        }
    }

    pub(crate) fn compactor(&self) -> &Compactor {
        &self.compactor
    }

    pub(crate) fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Between handing an append over and waiting for its answer.
    pub(crate) fn before_wait(&self) {
        self.lane.before_wait();
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.config.durability == Durability::Synced
    }

    pub(crate) fn read_only_error(&self, reason: Arc<str>) -> LogError {
        LogError::ReadOnly { stream: self.identity.stream, partition: self.identity.partition, reason }
    }

    /// Makes it read-only for this process's life.
    pub(crate) fn poison(&self, reason: Arc<str>) {
        {
            let mut poison = self.poison.lock();
            if poison.is_some() {
                return;
            }
            tracing::error!(stream = %self.identity.stream, partition = %self.identity.partition, %reason,
                "the partition is read-only until a restart has verified it");
            *poison = Some(reason);
        }
        self.read_only.store(true, Ordering::Release);
        self.notify();
    }

    /// Lets readers see up to `end`.
    pub(crate) fn publish(&self, end: Offset, bytes: u64, epoch: Epoch, first: Offset) {
        if self.epochs.read().last().is_none_or(|(last, _)| *last < epoch) {
            self.epochs.write().push((epoch, first));
        }
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        let before = self.high_watermark.swap(end.0, Ordering::AcqRel);
        assert!(before < end.0, "a high watermark rises: {before} to {end}");
        self.notify();
    }

    /// The offset below which all is known durable.
    pub(crate) fn synced_end(&self) -> Offset {
        Offset(self.synced_end.load(Ordering::Acquire))
    }

    /// Notes that all below `end` is durable.
    pub(crate) fn note_synced(&self, end: Offset) {
        self.synced_end.fetch_max(end.0, Ordering::AcqRel);
    }

    /// Notes a group that has become durable: where its batches lie, and what they say of producers and dedup ids.
    pub(crate) fn note_durable(&self, segment: &Segment, places: &[BatchPlace], overlay: &Overlay, end: Offset) {
        let mut tables = (self.identity.kind == Kind::Records).then(|| self.tables.lock());
        segment.note(|extent| places.iter().for_each(|place| extent.add(place)));
        if let Some(tables) = &mut tables {
            overlay.settle(tables, places, end);
        }
    }

    /// How far the segment that grows reaches and, of the same moment, its summary if an index `is_due`.
    pub(crate) fn covered(
        &self,
        segment: &Segment,
        is_due: impl FnOnce(&Extent, &Producers) -> bool,
    ) -> (Extent, Summary) {
        let tables = self.tables.lock();
        let extent = segment.extent().clone();
        let summary = match self.identity.kind {
            _ if !is_due(&extent, &tables.producers) => Summary::NotDue,
            Kind::State | Kind::Queue => Summary::Of(Producers::default()),
            Kind::Records if tables.end() != extent.end => Summary::Sealed,
            Kind::Records => Summary::Of(tables.producers.since(segment.base())),
        };
        (extent, summary)
    }

    /// Writes a segment's index as of an extent that has been synced.
    pub(crate) fn write_index(&self, segment: &Segment, extent: &Extent, producers: &Producers) {
        segment.write_index(&*self.shared.storage, self.identity.incarnation, extent, producers);
    }

    /// Whose segments these are.
    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// Seals the active segment and begins the next one at the tail. Called by the lane, with nothing in flight.
    pub(crate) fn roll(&self, tail: &mut Tail) -> Result<(), LogError> {
        let old = tail.segment.clone();
        old.write_deferred().context("write", old.path())?;
        old.file().sync_data().context("sync", old.path())?;
        self.note_synced(tail.next_offset);
        self.shared.flusher.forget(&old);
        let place = Place {
            storage: &*self.shared.storage,
            dir: &self.dir,
            quarantine: &self.shared.quarantine,
            identity: self.identity,
            index_interval: self.shared.config.index_interval_bytes,
            must_exist: true,
            has_tables: false,
        };
        let next = create_segment(&place, tail.next_offset)?;
        if let (extent, Summary::Of(producers)) = self.covered(&old, |_, _| true) {
            self.write_index(&old, &extent, &producers);
        }
        self.segments.write().push(next.clone());
        self.bytes.fetch_add(PREAMBLE_BYTES, Ordering::AcqRel);
        tail.segment = next;
        tail.position = PREAMBLE_BYTES;
        Ok(())
    }
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partition")
            .field("identity", &self.identity)
            .field("log_start", &self.log_start())
            .field("high_watermark", &self.high_watermark())
            .finish_non_exhaustive()
    }
}

fn open_state(
    shared: &Arc<Shared>,
    lane: &LaneSender,
    dir: PathBuf,
    identity: Identity,
    epoch: Option<Epoch>,
) -> Result<Arc<StateLog<StateTable>>, LogError> {
    let config = PartitionConfig { segment_bytes: shared.config.state_segment_bytes, ..PartitionConfig::default() };
    let opening = epoch.map_or(Opening::Catalog, Opening::New);
    let partition = Partition::open(shared, lane.clone(), dir, identity.state(), config, opening)?;
    StateLog::open(partition).map(Arc::new)
}

impl Partition {
    /// Opens a log of events that goes with this partition: on its lane, under its epoch.
    pub(crate) fn open_beside(&self, dir: PathBuf, identity: Identity) -> Result<Arc<Partition>, LogError> {
        let segment_bytes = self.shared.config.state_segment_bytes;
        let config = PartitionConfig { segment_bytes, ..PartitionConfig::default() };
        Partition::open(&self.shared, self.lane.clone(), dir, identity, config, Opening::New(self.epoch))
    }
}

/// The log start that a partition's state holds.
pub(crate) fn log_start(table: &StateTable) -> Offset {
    let stored = table.get(LOG_START_KEY).as_deref().and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    Offset(stored.unwrap_or(0))
}

/// The losses that an operator has accepted: from, and where the intact rest begins.
pub(crate) fn accepted_losses(table: &StateTable) -> impl Iterator<Item = (Offset, Offset)> {
    table.below(ACCEPTED_LOSS_KEYS).filter_map(|(key, value)| {
        let from = key.strip_prefix(ACCEPTED_LOSS_KEYS)?.parse().ok()?;
        Some((Offset(from), Offset(u64::from_le_bytes(*value.first_chunk()?))))
    })
}

fn facts(extent: &Extent) -> SegmentFacts {
    SegmentFacts { end: extent.end, bytes: extent.end_position, last_append_time: extent.last_append_time }
}

/// Where each epoch begins, over all segments.
fn merge_epochs(segments: &[Arc<Segment>]) -> Vec<(Epoch, Offset)> {
    let mut epochs: Vec<(Epoch, Offset)> = Vec::new();
    for segment in segments {
        for (epoch, first) in &segment.extent().epochs {
            if epochs.last().is_none_or(|(last, _)| last < epoch) {
                epochs.push((*epoch, *first));
            }
        }
    }
    epochs
}

/// One append's result, for a thread that waits.
pub(crate) struct WaitSink(Sender<Result<Appended, LogError>>);

impl WaitSink {
    /// The sink, and where its one result arrives.
    pub(crate) fn pair() -> (Arc<dyn AppendSink>, crossbeam_channel::Receiver<Result<Appended, LogError>>) {
        let (send, receive) = bounded(1);
        (Arc::new(Self(send)), receive)
    }
}

impl AppendSink for WaitSink {
    fn complete(&self, results: Vec<(u64, Result<Appended, LogError>)>) {
        for (_, result) in results {
            // The one who waited may be gone.
            let _ = self.0.try_send(result);
        }
    }
}
