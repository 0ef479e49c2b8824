//! The in-process API: the catalog's shell. Calls that change something block on the disk.
//!
//! Order of a creation: directories, durably; then the catalog's event; then the stream is served. Cut short before the
//! event, the directories are nobody's and go into quarantine at the next start. A deletion is the other way round: the
//! event; then the files; then the event that they are gone, so that files that come back are deleted again.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millstream_log::{Identity, InternalLog, Kind, Log, LogConfig, LogError, Partition, StateLog, Stopwatch};
use millstream_protocol::frame::control::{CreateMode, LakeConfig, NextSequence, StreamConfig};
use millstream_protocol::limits::PARTITIONS_MAX;
use millstream_protocol::{Incarnation, LakeId, PartitionId, ProducerId, StreamId};
use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::catalog::{Catalog, Input, LakeEntry, StreamEntry};
use crate::error::BrokerError;
use crate::group::{GroupShell, Groups};
use crate::producer::Producers;
use crate::queue::QueueShell;
use crate::recovery::Recovery;
use crate::stream::{Stream, partition_config};

/// Settings of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerConfig {
    /// The data directory; made if it is not there.
    pub data_dir: PathBuf,
    /// The log's settings.
    pub log: LogConfig,
    /// Whether a producer may make a missing stream; default yes.
    pub auto_create_streams: bool,
    /// How long the offsets of a group stay after its last member went and its last commit, whichever is later; `None`: for
    /// ever. Default 7 days.
    pub offsets_retention: Option<Duration>,
}

impl BrokerConfig {
    /// The defaults on that data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            log: LogConfig::default(),
            auto_create_streams: true,
            offsets_retention: Some(Duration::from_secs(7 * 24 * 60 * 60)),
        }
    }
}

/// A lake as the catalog knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lake {
    /// Its number.
    pub id: LakeId,
    /// Its settings.
    pub config: LakeConfig,
}

impl From<&LakeEntry> for Lake {
    fn from(entry: &LakeEntry) -> Self {
        Self { id: entry.id, config: entry.config.clone() }
    }
}

/// An open data directory with its streams.
pub struct Broker {
    config: BrokerConfig,
    log: Log,
    catalog: StateLog<Catalog>,
    groups: GroupShell,
    queues: QueueShell,
    recovery: Recovery,
    producers: Producers,
    streams: RwLock<Streams>,
    /// One change at a time: directories and events must agree.
    changing: Mutex<()>,
}

#[derive(Default)]
struct Streams {
    by_name: BTreeMap<String, Arc<Stream>>,
    by_id: HashMap<StreamId, Arc<Stream>>,
}

impl Streams {
    fn insert(&mut self, stream: Arc<Stream>) {
        self.by_id.insert(stream.id, stream.clone());
        self.by_name.insert(stream.name.clone(), stream);
    }
}

impl Broker {
    /// Opens a data directory: recovers the catalog and every partition. A partition that can't be opened is reported and
    /// stays offline; the rest is served.
    ///
    /// # Errors
    /// [`LogError::Locked`], [`LogError::NewerFormat`], [`LogError::NotADataDirectory`], [`LogError::StateDamaged`] (the
    /// catalog or the groups), [`LogError::Io`].
    pub fn open(config: BrokerConfig) -> Result<Arc<Self>, BrokerError> {
        let started = Stopwatch::start();
        let log = Log::open(&config.data_dir, config.log.clone(), random())?;
        let catalog: StateLog<Catalog> = log.open_internal(InternalLog::Catalog, Incarnation(random()))?;
        let groups: StateLog<Groups> = log.open_internal(InternalLog::Groups, Incarnation(random()))?;
        // One durable write gives this start its number: every partition's epoch.
        let now = log.now();
        catalog.update(|catalog| catalog.step(Input::Start { now }))?;
        for id in catalog.read(|catalog| catalog.leaving().collect::<Vec<_>>()) {
            log.delete_stream(id)?;
            catalog.update(|catalog| catalog.step(Input::StreamFilesRemoved { id }))?;
        }
        let entries: Vec<(String, StreamEntry)> =
            catalog.read(|catalog| catalog.streams().map(|(name, stream)| (name.to_owned(), stream.clone())).collect());
        log.quarantine_unknown(|id| entries.iter().any(|(_, stream)| stream.id == id))?;
        let wanted: Vec<_> = entries
            .iter()
            .flat_map(|(_, entry)| {
                let config = partition_config(&entry.config);
                identities(entry.id, &entry.incarnations).map(move |identity| (identity, config))
            })
            .collect();
        let mut opened = log.open_partitions(&wanted, catalog.epoch()).into_iter();
        let mut streams = Streams::default();
        let mut recovery = Recovery { replay: log.replayed(), total: *catalog.recovered(), ..Recovery::default() };
        for (name, entry) in entries {
            let partitions: Vec<_> = opened.by_ref().take(entry.incarnations.len()).collect();
            for (index, partition) in partitions.iter().enumerate() {
                recovery.note(&name, PartitionId(index as u32), partition);
            }
            let stream = Stream::new(entry.id, name, entry.config, entry.created, entry.incarnations, partitions);
            streams.insert(Arc::new(stream));
        }
        recovery.total.add(groups.recovered());
        recovery.report(started.elapsed());
        let (streams, groups) = (RwLock::new(streams), GroupShell::new(groups));
        let producers = Producers::open(&log, &catalog);
        let changing = Mutex::new(());
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
        let queues = QueueShell::start(threads, log.wall_clock());
        let broker = Arc::new(Self { config, log, catalog, groups, queues, recovery, producers, streams, changing });
        broker.queues.know(&broker);
        broker.tell_groups_of_all_streams();
        broker.recover_offsets();
        broker.open_queues()?;
        Ok(broker)
    }

    pub(crate) fn config(&self) -> &BrokerConfig {
        &self.config
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    pub(crate) fn catalog(&self) -> &StateLog<Catalog> {
        &self.catalog
    }

    pub(crate) fn queues(&self) -> &QueueShell {
        &self.queues
    }

    /// One change at a time.
    pub(crate) fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock()
    }

    pub(crate) fn groups(&self) -> &GroupShell {
        &self.groups
    }

    /// What the start had to do.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// The data directory's random number, made with it.
    pub fn server_id(&self) -> u64 {
        self.log.id()
    }

    /// Makes a stream; it is durable when this returns. In [`CreateMode::Automatic`] one that exists is fine. Blocks.
    ///
    /// # Errors
    /// [`BrokerError::IllegalName`], [`BrokerError::IllegalSetting`], [`BrokerError::StreamExists`],
    /// [`BrokerError::AutoCreateForbidden`]; the log's.
    pub fn create_stream(
        &self,
        name: &str,
        partitions: u32,
        config: StreamConfig,
        mode: CreateMode,
    ) -> Result<Arc<Stream>, BrokerError> {
        let _one = self.changing.lock();
        if mode == CreateMode::Automatic {
            if let Ok(stream) = self.stream(name) {
                return Ok(stream);
            }
            if !self.config.auto_create_streams {
                return Err(BrokerError::AutoCreateForbidden(name.to_owned()));
            }
        }
        // One more than the most is enough to be refused; the allocation stays bounded.
        let count = partitions.min(PARTITIONS_MAX + 1);
        let incarnations: Vec<Incarnation> = (0..count).map(|_| Incarnation(random())).collect();
        let (id, now) = (self.catalog.read(Catalog::next_id), self.log.now());
        let input = Input::CreateStream {
            name: name.to_owned(),
            config: config.clone(),
            incarnations: incarnations.clone(),
            now,
        };
        self.catalog.read(|catalog| catalog.step(input.clone()))?;
        let opened: Result<Vec<Arc<Partition>>, LogError> = identities(id, &incarnations)
            .map(|identity| self.log.create_partition(identity, partition_config(&config), self.catalog.epoch()))
            .collect();
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // Best effort: what stays is nobody's, and the next start moves it into quarantine.
                let _ = self.log.delete_stream(id);
                return Err(error.into());
            }
        };
        self.catalog.update(|catalog| catalog.step(input.clone()))?;
        let partitions = opened.into_iter().map(Ok).collect();
        let stream = Arc::new(Stream::new(id, name.to_owned(), config, now, incarnations, partitions));
        self.streams.write().insert(stream.clone());
        self.tell_groups(&stream.name, stream.id, stream.partitions().len() as u32);
        Ok(stream)
    }

    /// Deletes a stream and its records. Readers get `stream deleted`. Blocks.
    ///
    /// # Errors
    /// [`BrokerError::UnknownStream`], [`BrokerError::StreamInUse`]; the log's.
    pub fn delete_stream(&self, name: &str) -> Result<(), BrokerError> {
        let _one = self.changing.lock();
        self.catalog.update(|catalog| catalog.step(Input::DeleteStream { name: name.to_owned() }))?;
        let stream = {
            let mut streams = self.streams.write();
            let stream = streams.by_name.remove(name).ok_or_else(|| BrokerError::UnknownStream(name.to_owned()))?;
            streams.by_id.remove(&stream.id);
            stream
        };
        stream.mark_deleted();
        self.tell_groups(name, stream.id, 0);
        self.log.delete_stream(stream.id)?;
        self.catalog.update(|catalog| catalog.step(Input::StreamFilesRemoved { id: stream.id }))
    }

    /// The stream of that name.
    ///
    /// # Errors
    /// [`BrokerError::IllegalName`], [`BrokerError::UnknownStream`].
    pub fn stream(&self, name: &str) -> Result<Arc<Stream>, BrokerError> {
        millstream_protocol::names::check_name(name)?;
        self.streams.read().by_name.get(name).cloned().ok_or_else(|| BrokerError::UnknownStream(name.to_owned()))
    }

    /// The stream of that number.
    ///
    /// # Errors
    /// [`BrokerError::StreamDeleted`] if it is no more; [`BrokerError::UnknownStream`] if it never was.
    pub fn stream_by_id(&self, id: StreamId) -> Result<Arc<Stream>, BrokerError> {
        if let Some(stream) = self.streams.read().by_id.get(&id) {
            return Ok(stream.clone());
        }
        match self.catalog.read(|catalog| catalog.was_given(id)) {
            true => Err(BrokerError::StreamDeleted(id.0)),
            false => Err(BrokerError::UnknownStream(format!("number {id}"))),
        }
    }

    /// All streams, by name.
    pub fn streams(&self) -> Vec<Arc<Stream>> {
        self.streams.read().by_name.values().cloned().collect()
    }

    /// Adds a lake to the catalog; whether its store can be written is the caller's to check. Blocks.
    ///
    /// # Errors
    /// [`BrokerError::IllegalName`], [`BrokerError::IllegalSetting`], [`BrokerError::UnknownStream`],
    /// [`BrokerError::LakeExists`]; the log's.
    pub fn create_lake(&self, config: LakeConfig) -> Result<Lake, BrokerError> {
        let _one = self.changing.lock();
        let name = config.name.clone();
        // From when the catalog knows it on, it holds what it has not landed, and until it runs: all.
        let stream = self.stream(&config.stream).ok();
        let _kept = stream.as_ref().map(|stream| stream.keep_all());
        self.catalog.update(|catalog| catalog.step(Input::CreateLake { config: config.clone() }))?;
        self.lake(&name)
    }

    /// Says whether [`create_lake`](Self::create_lake) would take this lake now.
    ///
    /// # Errors
    /// As there.
    pub fn check_lake(&self, config: &LakeConfig) -> Result<(), BrokerError> {
        self.catalog.read(|catalog| catalog.step(Input::CreateLake { config: config.clone() })).map(|_| ())
    }

    /// Gives a lake other settings; whether it may run on under them is the caller's to check. Blocks.
    ///
    /// # Errors
    /// [`BrokerError::UnknownLake`], [`BrokerError::IllegalSetting`]; the log's.
    pub fn alter_lake(&self, config: LakeConfig) -> Result<Lake, BrokerError> {
        let _one = self.changing.lock();
        let name = config.name.clone();
        self.catalog.update(|catalog| catalog.step(Input::AlterLake { config: config.clone() }))?;
        self.lake(&name)
    }

    /// Removes a lake from the catalog; its files stay. Blocks.
    ///
    /// # Errors
    /// [`BrokerError::UnknownLake`]; the log's.
    pub fn remove_lake(&self, name: &str) -> Result<Lake, BrokerError> {
        let _one = self.changing.lock();
        let lake = self.lake(name)?;
        self.catalog.update(|catalog| catalog.step(Input::RemoveLake { name: name.to_owned() }))?;
        Ok(lake)
    }

    /// The lake of that name.
    ///
    /// # Errors
    /// [`BrokerError::UnknownLake`].
    pub fn lake(&self, name: &str) -> Result<Lake, BrokerError> {
        let lake = self.catalog.read(|catalog| catalog.lake(name).map(Lake::from));
        lake.ok_or_else(|| BrokerError::UnknownLake(name.to_owned()))
    }

    /// All lakes, by name.
    pub fn lakes(&self) -> Vec<Lake> {
        self.catalog.read(|catalog| catalog.lakes().map(Lake::from).collect())
    }

    /// A producer's id; its epoch is 0. An earlier producer of that name is fenced: once this returns, nothing more of it is
    /// stored. Blocks.
    ///
    /// # Errors
    /// [`BrokerError::IllegalName`], [`BrokerError::ProducersExhausted`]; the log's.
    pub fn init_producer(&self, name: Option<&str>) -> Result<ProducerId, BrokerError> {
        self.producers.init(&self.log, &self.catalog, name)
    }

    /// Raises a producer's epoch by one: once this returns, nothing under the given epoch or an earlier one is stored any
    /// more. Gives the new epoch, and where the producer goes on in each of the stream's partitions that is open. Blocks.
    ///
    /// # Errors
    /// [`BrokerError::ProducerFenced`], [`BrokerError::UnknownProducer`], [`BrokerError::IllegalSetting`] (the epoch);
    /// those of [`stream_by_id`](Self::stream_by_id); the log's.
    pub fn bump_producer(
        &self,
        id: ProducerId,
        epoch: u32,
        stream: StreamId,
    ) -> Result<(u32, Vec<NextSequence>), BrokerError> {
        let stream = self.stream_by_id(stream)?;
        self.producers.bump(&self.log, &self.catalog, (id, epoch), &stream)
    }

    /// Deletes what the streams' retention settings let go; errors are logged. Blocks.
    pub fn run_retention(&self) {
        self.streams().iter().for_each(|stream| self.retain(stream));
    }

    /// Compacts what is worth it of the streams that ask for it, one partition after the other; errors are logged. Blocks,
    /// perhaps for minutes; [`close`](Self::close) ends it.
    pub fn run_compaction(&self) {
        for stream in self.streams() {
            for partition in stream.online().filter(|partition| !partition.is_read_only()) {
                if let Err(error) = partition.run_compaction() {
                    tracing::warn!(stream = stream.name, partition = %partition.id(), %error, "compaction failed");
                }
            }
        }
    }

    /// Ends the lanes after all that was handed to them, with snapshots of every state, and lets nothing more be appended.
    /// The directory's lock is released. Blocks.
    ///
    /// # Errors
    /// None today.
    pub fn close(&self) -> Result<(), BrokerError> {
        let _one = self.changing.lock();
        self.queues.close();
        for stream in self.streams() {
            stream.online().for_each(|partition| partition.close());
        }
        self.groups.close();
        self.catalog.close();
        self.log.close();
        Ok(())
    }
}

fn identities(stream: StreamId, incarnations: &[Incarnation]) -> impl Iterator<Item = Identity> {
    incarnations.iter().enumerate().map(move |(index, incarnation)| Identity {
        stream,
        partition: PartitionId(index as u32),
        incarnation: *incarnation,
        kind: Kind::Records,
    })
}

/// A random number that no one can guess or repeat.
fn random() -> u64 {
    getrandom::u64().expect("the system gives random numbers")
}
