//! The log of a data directory: its lanes, and the partitions on them. For the broker, and for whoever embeds it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_protocol::{Epoch, ProducerId, QueueId, StreamId};
use parking_lot::Mutex;

use crate::checkpoint::{self, Checkpoint, Checkpoints};
use crate::clock::{Clock, SystemClock};
use crate::data_dir::{DataDir, InternalLog, parse_partition_dir_name, parse_stream_dir_name, partition_dir_name};
use crate::disk_space::DiskSpace;
use crate::error::{Context, LogError};
use crate::fences::Fences;
use crate::lane::flush::{FlushThread, Flusher};
use crate::lane::journal::LocalJournal;
use crate::lane::ring::Ring;
use crate::lane::step::Lane;
use crate::lane::thread::{LaneHandle, LaneSender};
use crate::partition::{Opening, Partition, PartitionConfig};
use crate::read::BufferPool;
use crate::recovery::{in_parallel, quarantine, replay};
use crate::segment::{Identity, Kind, state_incarnation};
use crate::state_log::events::EventLog;
use crate::state_log::{Machine, StateLog};
use crate::storage::{FileStorage, Storage};

/// Settings of a log; each has a default that works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Writer threads; 1 to 64. Default: the number of cores, at most 4. More than cores loses.
    pub lanes: usize,
    /// Bytes of log for each index entry (24 bytes of memory); 4 KiB to 16 MiB, default 256 KiB.
    pub index_interval_bytes: u64,
    /// Size at which a state log's segment rolls; default 4 MiB.
    pub state_segment_bytes: u64,
    /// Most bytes that a crash leaves to be replayed or read, in all: those not yet synced into their segments
    /// (`written` streams included), and those no index covers; 64 KiB to 16 GiB, default 128 MiB a lane. A lane's journal
    /// files hold half of its share each.
    pub unsynced_bytes: u64,
    /// Records are refused with `disk full` while the file system has fewer free bytes; 0: until a write fails. Default
    /// (`None`): a twentieth of the file system, at most 1 GiB.
    pub min_free_bytes: Option<u64>,
    /// Bytes of events after which a state log is snapshotted; default 1 MiB. Bounds what a start replays.
    pub snapshot_interval_bytes: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let lanes = cores.min(4);
        Self {
            lanes,
            unsynced_bytes: lanes as u64 * (128 << 20),
            min_free_bytes: None,
            index_interval_bytes: 256 << 10,
            state_segment_bytes: 4 << 20,
            snapshot_interval_bytes: 1 << 20,
        }
    }
}

/// What a log works with.
#[derive(Clone)]
pub struct Environment {
    /// Where the files are.
    pub storage: Arc<dyn Storage>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who does the lanes' and the background's work.
    pub drive: Drive,
}

/// Who does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Drive {
    /// Threads of the log's own.
    #[default]
    Threads,
    /// Whoever calls [`Log::step`] and [`Log::tick`], and waiting calls themselves: for simulators.
    Caller,
}

impl Drive {
    /// Threads that work on many files at once.
    fn threads(self) -> usize {
        match self {
            Drive::Threads => 16,
            Drive::Caller => 1,
        }
    }
}

impl Environment {
    /// The machine's file system, clock and threads.
    ///
    /// # Errors
    /// [`LogError::TooFewDescriptors`].
    pub fn of_the_machine() -> Result<Self, LogError> {
        let storage = Arc::new(FileStorage::new()?);
        Ok(Self { storage, clock: Arc::new(SystemClock::default()), drive: Drive::Threads })
    }
}

/// What the partitions of a log share.
pub(crate) struct Shared {
    pub storage: Arc<dyn Storage>,
    pub clock: Arc<dyn Clock>,
    pub config: LogConfig,
    pub pool: Arc<BufferPool>,
    pub quarantine: PathBuf,
    pub flusher: Arc<Flusher>,
    pub space: Arc<DiskSpace>,
    pub fences: Fences,
}

/// An open data directory. Dropping it ends the lanes after what they have in hand, and releases the lock.
pub struct Log {
    shared: Arc<Shared>,
    lanes: Mutex<Vec<LaneHandle>>,
    senders: Vec<LaneSender>,
    flushing: Mutex<Option<FlushThread>>,
    dir: DataDir,
    replayed: Replay,
    threads: usize,
}

/// What the lanes' journals gave back at a start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replay {
    /// Frames replayed.
    pub frames: usize,
    /// Bytes of batches written back into their segments.
    pub bytes: u64,
    /// Bytes of journal read.
    pub bytes_read: u64,
    /// Journal frames and checkpoints that are damaged.
    pub damaged: usize,
    /// Bytes of journal behind the last whole frame that may have been one; they are in quarantine.
    pub torn_bytes: u64,
}

impl Log {
    /// Opens a data directory on the machine's file system, and makes it if it is not there. `new_id` names a new one.
    ///
    /// # Errors
    /// [`LogError::TooFewDescriptors`], [`LogError::Locked`], [`LogError::NewerFormat`], [`LogError::NotADataDirectory`], [`LogError::Io`].
    pub fn open(root: &Path, config: LogConfig, new_id: u64) -> Result<Self, LogError> {
        Self::open_in(Environment::of_the_machine()?, root, config, new_id)
    }

    /// The same on any storage and clock.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_in(environment: Environment, root: &Path, config: LogConfig, new_id: u64) -> Result<Self, LogError> {
        let Environment { storage, clock, drive } = environment;
        let dir = DataDir::open(&*storage, root, new_id)?;
        let (flusher, replayed) = recover_journals(&storage, &dir, &config, drive.threads())?;
        let journal_id = flusher.journal_id();
        let lane_count = config.lanes.clamp(1, 64);
        let file_bytes = config.unsynced_bytes / lane_count as u64 / 2;
        let lane = |index: usize| {
            let ring = Ring::new(storage.clone(), dir.journal(), index as u32, journal_id, file_bytes);
            Lane::new(Box::new(LocalJournal::new(index, flusher.clone(), ring)))
        };
        let space = Arc::new(DiskSpace::new(storage.clone(), dir.root().to_owned(), config.min_free_bytes));
        space.look();
        let lanes = (0..lane_count).map(|index| match drive {
            Drive::Threads => LaneHandle::start(index, lane(index)),
            Drive::Caller => Ok(LaneHandle::stepped(lane(index))),
        });
        let lanes: Vec<LaneHandle> = lanes.collect::<Result<_, _>>().context("start a lane for", root)?;
        let flushing = match drive {
            Drive::Threads => {
                Some(FlushThread::start(flusher.clone(), space.clone()).context("start the flushing for", root)?)
            }
            Drive::Caller => None,
        };
        let senders = lanes.iter().map(LaneHandle::sender).collect();
        let quarantine = dir.quarantine();
        let shared = Shared {
            storage,
            clock,
            config,
            pool: Arc::default(),
            quarantine,
            flusher,
            space,
            fences: Fences::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            lanes: Mutex::new(lanes),
            senders,
            flushing: Mutex::new(flushing),
            dir,
            replayed,
            threads: drive.threads(),
        })
    }

    /// What the journals gave back when the log was opened.
    pub fn replayed(&self) -> Replay {
        self.replayed
    }

    /// Carries out what waits on the lanes, where the caller drives them.
    pub fn step(&self) {
        self.senders.iter().for_each(LaneSender::before_wait);
    }

    /// Does the background's work, where the caller drives it: flushes what is due or, when `idle`, everything, and then
    /// writes the marks.
    pub fn tick(&self, idle: bool) {
        self.shared.space.look();
        self.shared.flusher.tick(idle);
        if idle {
            self.shared.flusher.write_marks();
        }
    }

    /// The directory's random number, made with it.
    pub fn id(&self) -> u64 {
        self.dir.id()
    }

    /// The data directory.
    pub fn root(&self) -> &Path {
        self.dir.root()
    }

    /// What tells the time that appends are stamped with, Unix ms.
    pub fn wall_clock(&self) -> impl Fn() -> i64 + Clone + Send + use<> {
        let clock = self.shared.clock.clone();
        move || clock.append_time().0
    }

    /// The time appends are stamped with.
    pub fn now(&self) -> millstream_protocol::Timestamp {
        self.shared.clock.append_time()
    }

    /// Fences a producer's older epochs: once it returns no batch of `id` with an epoch below `below_epoch` is stored any more,
    /// in no partition; they get [`LogError::ProducerFenced`]. `u32::MAX` fences the id for ever. Waits for what the lanes
    /// have in hand; blocks. Kept in memory, for the process's life.
    ///
    /// # Errors
    /// [`LogError::Closed`].
    pub fn fence_producer(&self, id: ProducerId, below_epoch: u32) -> Result<(), LogError> {
        self.shared.fences.raise(id, below_epoch);
        self.barrier()
    }

    /// Says which ids of named producers (bit 63 is set) are current: at a start, before anything is served. Any other id of
    /// that kind is fenced.
    pub fn set_named_producers(&self, current: impl IntoIterator<Item = ProducerId>) {
        self.shared.fences.set_named(current);
    }

    /// Makes `new` the current id of a name and fences `old`, the one before, for ever: once it returns no batch of `old` is
    /// stored any more. Waits for what the lanes have in hand, if there is an old one; blocks.
    ///
    /// # Errors
    /// [`LogError::Closed`].
    pub fn name_producer(&self, new: ProducerId, old: Option<ProducerId>) -> Result<(), LogError> {
        self.shared.fences.name(new, old);
        if old.is_some() { self.barrier() } else { Ok(()) }
    }

    /// Waits until the lanes have carried out all that was handed to them.
    fn barrier(&self) -> Result<(), LogError> {
        let waiting: Vec<_> = self.senders.iter().map(LaneSender::begin_barrier).collect::<Result<_, _>>()?;
        waiting.into_iter().zip(&self.senders).try_for_each(|(wait, sender)| sender.end_barrier(&wait))
    }

    /// Opens an internal state log, one epoch above the newest it holds. `incarnation` names a new one.
    ///
    /// # Errors
    /// [`LogError::Io`], [`LogError::StateDamaged`].
    pub fn open_internal<M: Machine>(
        &self,
        log: InternalLog,
        incarnation: millstream_protocol::Incarnation,
    ) -> Result<StateLog<M>, LogError> {
        let root = self.dir.internal(log);
        let storage = &*self.shared.storage;
        storage.create_dir_all(&root).context("create", &root)?;
        storage.sync_dir(self.dir.root()).context("sync", self.dir.root())?;
        let mut found = storage.list(&root).context("list", &root)?.into_iter().filter(|entry| entry.is_dir);
        let parsed =
            found.find_map(|entry| parse_partition_dir_name(&entry.name).filter(|(id, _)| *id == log.partition()));
        let (partition, incarnation) = parsed.unwrap_or((log.partition(), incarnation));
        let identity = Identity { stream: StreamId(0), partition, incarnation, kind: Kind::State };
        let dir = root.join(partition_dir_name(partition, incarnation));
        storage.create_dir_all(&dir).context("create", &dir)?;
        storage.sync_dir(&root).context("sync", &root)?;
        let config =
            PartitionConfig { segment_bytes: self.shared.config.state_segment_bytes, ..PartitionConfig::default() };
        StateLog::open(Partition::open(&self.shared, self.lane(identity), dir, identity, config, Opening::Catalog)?)
    }

    /// Makes a partition: its directory and first segment are durable when it returns.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn create_partition(
        &self,
        identity: Identity,
        config: PartitionConfig,
        epoch: Epoch,
    ) -> Result<Arc<Partition>, LogError> {
        let stream_dir = self.dir.stream(identity.stream);
        let dir = stream_dir.join(partition_dir_name(identity.partition, identity.incarnation));
        let storage = &*self.shared.storage;
        storage.create_dir_all(&dir).context("create", &dir)?;
        let partition = Partition::open(&self.shared, self.lane(identity), dir, identity, config, Opening::New(epoch))?;
        storage.sync_dir(&stream_dir).context("sync", &stream_dir)?;
        storage.sync_dir(&self.dir.streams()).context("sync", &self.dir.streams())?;
        Ok(partition)
    }

    /// Opens a partition that was made before.
    ///
    /// # Errors
    /// [`LogError::PartitionMissing`], [`LogError::StateDamaged`], [`LogError::Io`].
    pub fn open_partition(
        &self,
        identity: Identity,
        config: PartitionConfig,
        epoch: Epoch,
    ) -> Result<Arc<Partition>, LogError> {
        let dir = self.dir.partition(identity);
        match self.shared.storage.list(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(LogError::PartitionMissing { stream: identity.stream, partition: identity.partition })
            }
            other => {
                other.context("list", &dir)?;
                Partition::open(&self.shared, self.lane(identity), dir, identity, config, Opening::Before(epoch))
            }
        }
    }

    /// Opens a partition that no server serves, to change its state: nothing is appended to it.
    pub(crate) fn open_partition_offline(&self, identity: Identity) -> Result<Arc<Partition>, LogError> {
        let (dir, lane) = (self.dir.partition(identity), self.lane(identity));
        Partition::open(&self.shared, lane, dir, identity, PartitionConfig::default(), Opening::Catalog)
    }

    /// Opens many partitions at once, on several threads.
    pub fn open_partitions(
        &self,
        wanted: &[(Identity, PartitionConfig)],
        epoch: Epoch,
    ) -> Vec<Result<Arc<Partition>, LogError>> {
        in_parallel(self.threads, wanted, |(identity, config)| self.open_partition(*identity, *config, epoch))
    }

    /// Forgets what is known of a partition that is gone.
    fn forget(&self, entry: &str) {
        if let Some((_, incarnation)) = parse_partition_dir_name(entry) {
            self.shared.flusher.forget_partition(incarnation);
            self.shared.flusher.forget_partition(state_incarnation(incarnation));
        }
    }

    /// Deletes the directory of a stream whose partitions are out of service. Repeating it is harmless.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn delete_stream(&self, stream: StreamId) -> Result<(), LogError> {
        // What a lane has in hand is written before the files go.
        self.senders.iter().try_for_each(LaneSender::barrier)?;
        let dir = self.dir.stream(stream);
        for entry in self.shared.storage.list(&dir).unwrap_or_default() {
            self.forget(&entry.name);
        }
        match self.shared.storage.remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(LogError::io("delete", &dir, error));
            }
            _ => {}
        }
        self.shared.storage.sync_dir(&self.dir.streams()).context("sync", &self.dir.streams())
    }

    /// Opens the events of a queue on a partition, and rebuilds their machine; begins them if there are none. They are stored by
    /// the partition's lane, under its epoch.
    ///
    /// # Errors
    /// [`LogError::Io`], [`LogError::StateDamaged`].
    pub fn open_queue<M: Machine>(
        &self,
        partition: &Arc<Partition>,
        queue: QueueId,
    ) -> Result<(EventLog<M>, M), LogError> {
        let identity = partition.identity().queue(queue);
        let storage = &*self.shared.storage;
        let (root, of_queue, dir) = (self.dir.queues(), self.dir.queue(queue), self.dir.partition(identity));
        storage.create_dir_all(&dir).context("create", &dir)?;
        for (child, parent) in [(&of_queue, &root), (&dir, &of_queue)] {
            storage.sync_dir(parent).context("sync", child)?;
        }
        storage.sync_dir(self.dir.root()).context("sync", &root)?;
        EventLog::open(partition.open_beside(dir, identity)?)
    }

    /// Deletes all that a queue has stored, once nothing appends to it any more. Repeating it is harmless.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn delete_queue(&self, queue: QueueId) -> Result<(), LogError> {
        self.senders.iter().try_for_each(LaneSender::barrier)?;
        let dir = self.dir.queue(queue);
        for entry in self.shared.storage.list(&dir).unwrap_or_default() {
            if let Some((_, incarnation)) = parse_partition_dir_name(&entry.name) {
                self.shared.flusher.forget_partition(incarnation);
            }
        }
        match self.shared.storage.remove_dir_all(&dir) {
            Ok(()) => self.shared.storage.sync_dir(&self.dir.queues()).context("sync", &self.dir.queues()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(LogError::io("delete", &dir, error)),
        }
    }

    /// The queues that have stored something.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn stored_queues(&self) -> Result<Vec<QueueId>, LogError> {
        let queues = self.dir.queues();
        match self.shared.storage.list(&queues) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            other => {
                let names = other.context("list", &queues)?;
                Ok(names
                    .iter()
                    .filter_map(|entry| parse_stream_dir_name(&entry.name))
                    .map(|id| QueueId(id.0))
                    .collect())
            }
        }
    }

    /// Moves stream directories that nothing knows into quarantine, and returns how many. They are what a creation that
    /// was cut short leaves.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn quarantine_unknown(&self, is_known: impl Fn(StreamId) -> bool) -> Result<usize, LogError> {
        let (storage, streams) = (&*self.shared.storage, self.dir.streams());
        let mut moved = 0;
        for entry in storage.list(&streams).context("list", &streams)? {
            if !parse_stream_dir_name(&entry.name).is_some_and(&is_known) {
                let label = format!("stream-{}", entry.name);
                let kept =
                    quarantine::keep_entry(storage, &self.shared.quarantine, &label, &streams.join(&entry.name))?;
                tracing::warn!(directory = entry.name, kept = %kept.display(),
                    "a directory that no stream owns was moved into quarantine");
                moved += 1;
            }
        }
        Ok(moved)
    }

    /// Ends the lanes after all that was handed to them, and releases the directory's lock. Appends then give
    /// [`LogError::Closed`]; reads go on.
    pub fn close(&self) {
        self.lanes.lock().clear();
        if self.flushing.lock().take().is_some() || !self.dir.is_unlocked() {
            self.shared.flusher.close();
        }
        self.dir.unlock();
    }

    fn lane(&self, identity: Identity) -> LaneSender {
        let index = (identity.stream.0.wrapping_add(u64::from(identity.partition.0))) % self.senders.len() as u64;
        self.senders[index as usize].clone()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.close();
    }
}

/// Replays the journals and begins a new journal id: durable before anything is served.
fn recover_journals(
    storage: &Arc<dyn Storage>,
    dir: &DataDir,
    config: &LogConfig,
    threads: usize,
) -> Result<(Arc<Flusher>, Replay), LogError> {
    let journal = dir.journal();
    let found = checkpoint::load(&**storage, &journal)?;
    let replayed = replay::replay(&**storage, dir, &journal, &found.checkpoint, threads)?;
    let mut marks = found.checkpoint.marks;
    for (incarnation, end) in replayed.marks {
        let mark = marks.entry(incarnation).or_default();
        *mark = (*mark).max(end);
    }
    let journal_id = replayed.newest_id + 1;
    let mut checkpoints = Checkpoints::new(storage.clone(), journal.clone(), found.count, journal_id);
    let begun = checkpoints.write(&Checkpoint { journal_id, covered: Vec::new(), marks: marks.clone() });
    // Their frames are in the segments; under the new id they are history, should the names come back.
    for path in &replayed.files {
        storage.remove_file(path).context("delete", path)?;
    }
    if let Err(error) = begun {
        // No room for the new id: then the old frames must be gone for certain.
        tracing::warn!(%error, "a checkpoint was not written");
        storage.sync_dir(&journal).context("sync", &journal)?;
    }
    let replay = Replay {
        frames: replayed.frames,
        bytes: replayed.bytes,
        bytes_read: replayed.bytes_read,
        damaged: replayed.damaged + found.damaged,
        torn_bytes: replayed.torn_bytes,
    };
    if replay.frames > 0 || replay.damaged > 0 {
        tracing::info!(frames = replay.frames, bytes = replay.bytes, damaged = replay.damaged, "journals replayed");
    }
    Ok((Arc::new(Flusher::new(config.unsynced_bytes, threads, checkpoints, marks)), replay))
}
