//! A partition in memory, a store that can be made to fail, and a machine that can be killed at any durable step.
//!
//! What survives a kill is in [`Disk`] and in the store's directory. A [`Machine`] counts the durable steps (writes of a
//! partition's state, puts of objects); at the chosen one it dies, either just before the step takes effect or just
//! after: from then on nothing it is asked works.
#![allow(dead_code)]

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use event_listener::{Event, EventListener};
use futures::stream::BoxStream;
use millstream_lake::{LakeSettings, Sink, Source, reader};
use millstream_log::{Chunk, Clock, LogError, Stopwatch};
use millstream_protocol::batch::{BatchBuilder, Codec, Stamp, stamp};
use millstream_protocol::frame::control::{LakeCompression, LakeConfig, LakeFormat};
use millstream_protocol::{Epoch, Incarnation, LakeId, Offset, PartitionId, Record, Timestamp};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};
use parking_lot::Mutex;
use serde_json::Value;

pub const LAKE: LakeId = LakeId(7);
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Whether the step at which a machine dies still takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dies {
    Before,
    After,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Machine {
    state: Mutex<Life>,
}

#[derive(Debug, Default)]
struct Life {
    steps: usize,
    plan: Option<(usize, Dies)>,
    dead: bool,
}

impl Machine {
    pub fn immortal() -> Arc<Self> {
        Arc::default()
    }

    pub fn dying(step: usize, dies: Dies) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(Life { plan: Some((step, dies)), ..Life::default() }) })
    }

    pub fn is_dead(&self) -> bool {
        self.state.lock().dead
    }

    pub fn steps(&self) -> usize {
        self.state.lock().steps
    }

    /// Begins a durable step: whether it takes effect, and whether its caller hears of it.
    fn step(&self) -> (bool, bool) {
        let mut life = self.state.lock();
        if life.dead {
            return (false, false);
        }
        let this = life.steps;
        life.steps += 1;
        match life.plan {
            Some((step, dies)) if step == this => {
                life.dead = true;
                (dies == Dies::After, false)
            }
            _ => (true, true),
        }
    }
}

/// A clock in whose time the records were appended just before it was made.
struct TestClock(Stopwatch);

impl Clock for TestClock {
    fn append_time(&self) -> Timestamp {
        Timestamp(APPENDED.0 + self.0.elapsed().as_millis() as i64)
    }
}

/// When all records are appended.
const APPENDED: Timestamp = Timestamp(1_700_000_000_000);

/// What of a partition survives.
#[derive(Debug, Default)]
pub struct Disk {
    batches: BTreeMap<u64, (u64, Bytes)>,
    pub state: HashMap<String, Bytes>,
    pub log_start: u64,
    end: u64,
    /// Damaged: reading in here gives `RecordsLost`.
    pub damaged: Option<Range<u64>>,
    pub holds: HashMap<String, u64>,
}

impl Disk {
    /// The next record's offset.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// A copy, as of a data directory.
    pub fn copy(&self) -> Disk {
        Disk {
            batches: self.batches.clone(),
            state: self.state.clone(),
            log_start: self.log_start,
            end: self.end,
            damaged: self.damaged.clone(),
            holds: self.holds.clone(),
        }
    }
}

/// A partition in memory, on a machine.
pub struct FakeSource {
    pub partition: PartitionId,
    pub disk: Arc<Mutex<Disk>>,
    machine: Arc<Machine>,
    changed: Event,
    epoch: Epoch,
}

impl FakeSource {
    pub fn new(partition: u32, disk: &Arc<Mutex<Disk>>, machine: &Arc<Machine>, epoch: u32) -> Arc<Self> {
        let (disk, machine) = (Arc::clone(disk), Arc::clone(machine));
        Arc::new(Self { partition: PartitionId(partition), disk, machine, changed: Event::new(), epoch: Epoch(epoch) })
    }

    /// Appends one batch.
    pub fn append(&self, records: &[Record]) {
        append(&self.disk, self.incarnation(), records);
        self.changed.notify(usize::MAX);
    }

    fn alive<T>(&self, value: T) -> Result<T, LogError> {
        if self.machine.is_dead() { Err(LogError::Closed) } else { Ok(value) }
    }
}

pub fn incarnation(partition: PartitionId) -> Incarnation {
    Incarnation(0xabc0 + u64::from(partition.0))
}

/// Appends one batch to a disk.
pub fn append(disk: &Mutex<Disk>, incarnation: Incarnation, records: &[Record]) {
    let mut builder = BatchBuilder::new(Codec::Lz4);
    records.iter().for_each(|record| builder.push(record).expect("a legal record"));
    append_batch(disk, incarnation, builder.finish().expect("a batch").to_vec(), records.len() as u64);
}

/// Stamps a batch of that many records and appends it.
pub fn append_batch(disk: &Mutex<Disk>, incarnation: Incarnation, mut bytes: Vec<u8>, records: u64) {
    let mut disk = disk.lock();
    let at =
        Stamp { base_offset: Offset(disk.end), append_time: APPENDED, epoch: Epoch(1), synced_end: Offset(disk.end) };
    stamp(&mut bytes, &at, incarnation);
    let (base, end) = (disk.end, disk.end + records);
    disk.batches.insert(base, (end, bytes.into()));
    disk.end = end;
}

impl Source for FakeSource {
    fn partition(&self) -> PartitionId {
        self.partition
    }
    fn incarnation(&self) -> Incarnation {
        incarnation(self.partition)
    }
    fn epoch(&self) -> Epoch {
        self.epoch
    }
    fn log_start(&self) -> Offset {
        Offset(self.disk.lock().log_start)
    }
    fn high_watermark(&self) -> Offset {
        Offset(self.disk.lock().end)
    }
    fn read(&self, from: Offset, max_bytes: usize) -> Result<Chunk, LogError> {
        let disk = self.disk.lock();
        self.alive(())?;
        let (log_start, high_watermark) = (Offset(disk.log_start), Offset(disk.end));
        if from < log_start || from > high_watermark {
            return Err(LogError::OffsetOutOfRange { wanted: from, log_start, high_watermark });
        }
        if let Some(damaged) = disk.damaged.clone().filter(|damaged| damaged.contains(&from.0)) {
            return Err(LogError::RecordsLost { from: Offset(damaged.start), resume: Offset(damaged.end) });
        }
        let stop = disk.damaged.clone().map_or(u64::MAX, |damaged| damaged.start);
        let (mut bytes, mut next) = (Vec::new(), from);
        let behind = disk.batches.iter().filter(|(base, (end, _))| *end > from.0 && (**base < stop || from.0 >= stop));
        for (_, (end, batch)) in behind {
            if !bytes.is_empty() && bytes.len() + batch.len() > max_bytes {
                break;
            }
            bytes.extend_from_slice(batch);
            next = Offset(*end);
        }
        Ok(Chunk { bytes: bytes.into(), next, high_watermark, log_start })
    }
    fn listen(&self) -> EventListener {
        self.changed.listen()
    }
    fn state_get(&self, key: &str) -> Result<Option<Bytes>, LogError> {
        self.alive(self.disk.lock().state.get(key).cloned())
    }
    fn state_put(&self, key: &str, value: Option<&[u8]>) -> Result<(), LogError> {
        let mut disk = self.disk.lock();
        let (effective, answered) = self.machine.step();
        if effective {
            match value {
                Some(value) => drop(disk.state.insert(key.to_owned(), Bytes::copy_from_slice(value))),
                None => drop(disk.state.remove(key)),
            }
        }
        if answered { Ok(()) } else { Err(LogError::Closed) }
    }
    fn set_hold(&self, owner: &str, offset: Option<Offset>) {
        let mut disk = self.disk.lock();
        match offset {
            Some(offset) => drop(disk.holds.insert(owner.to_owned(), offset.0)),
            None => drop(disk.holds.remove(owner)),
        }
    }
}

/// What a store does to one put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails, and nothing is stored.
    Fails,
    /// It is stored, and the answer is an error.
    AnswerLost,
    /// Nothing is stored, and the answer is that it exists: S3's 409.
    Conflict,
}

/// A local directory as a store, on a machine. The puts of each object meet the faults in the order given.
#[derive(Debug)]
pub struct FaultyStore {
    inner: LocalFileSystem,
    machine: Arc<Machine>,
    faults: Vec<Fault>,
    puts: Mutex<HashMap<String, usize>>,
}

impl FaultyStore {
    pub fn new(directory: &Path, machine: &Arc<Machine>, faults: &[Fault]) -> Arc<Self> {
        let inner = LocalFileSystem::new_with_prefix(directory).expect("the directory is there");
        let (machine, faults) = (Arc::clone(machine), faults.to_vec());
        Arc::new(Self { inner, machine, faults, puts: Mutex::default() })
    }

    fn error(text: &str) -> object_store::Error {
        object_store::Error::Generic { store: "faulty", source: text.into() }
    }

    fn alive(&self) -> object_store::Result<()> {
        if self.machine.is_dead() { Err(Self::error("the machine is dead")) } else { Ok(()) }
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a store that fails on command")
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        location: &ObjectPath,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.alive()?;
        let attempt = {
            let mut puts = self.puts.lock();
            let attempts = puts.entry(location.to_string()).or_default();
            *attempts += 1;
            *attempts - 1
        };
        match self.faults.get(attempt) {
            Some(Fault::Fails) => return Err(Self::error("503 Slow Down")),
            Some(Fault::Conflict) => {
                return Err(object_store::Error::AlreadyExists { path: location.to_string(), source: "409".into() });
            }
            Some(Fault::AnswerLost) => {
                self.inner.put_opts(location, payload, options).await?;
                return Err(Self::error("the connection was closed before the answer came"));
            }
            None => {}
        }
        let (effective, answered) = self.machine.step();
        let result =
            if effective { self.inner.put_opts(location, payload, options).await } else { Err(Self::error("killed")) };
        if answered { result } else { Err(Self::error("killed")) }
    }
    async fn put_multipart_opts(
        &self,
        _location: &ObjectPath,
        _options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        panic!("a lake never uses multipart: it has no create-only mode");
    }
    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> object_store::Result<GetResult> {
        self.alive()?;
        self.inner.get_opts(location, options).await
    }
    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<ObjectPath>>,
    ) -> BoxStream<'static, object_store::Result<ObjectPath>> {
        self.inner.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// Partitions that survive, and the directory in which they land.
pub struct World {
    pub directory: tempfile::TempDir,
    pub disks: Vec<Arc<Mutex<Disk>>>,
    starts: u32,
}

impl World {
    pub fn new(partitions: usize) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(directory.path().join("lake")).expect("a directory");
        Self { directory, disks: (0..partitions).map(|_| Arc::default()).collect(), starts: 0 }
    }

    pub fn lake(&self) -> PathBuf {
        self.directory.path().join("lake")
    }

    pub fn settings(&self) -> LakeSettings {
        LakeSettings {
            clock: Arc::new(TestClock(Stopwatch::start())),
            ..LakeSettings::new(self.directory.path().join("spool"))
        }
    }

    pub fn config(&self, format: LakeFormat) -> LakeConfig {
        LakeConfig {
            format,
            compression: if format == LakeFormat::Ndjson { LakeCompression::None } else { LakeCompression::Zstd },
            roll_age_ms: 3_600_000,
            ..LakeConfig::new("landing", "rides", format!("file://{}", self.lake().display()))
        }
    }

    pub fn append(&self, partition: u32, values: &[&str]) {
        let records: Vec<Record> = values
            .iter()
            .map(|value| {
                Record::new(value.to_string()).key(format!("k{partition}")).timestamp(Timestamp(1_700_000_000_123))
            })
            .collect();
        append(&self.disks[partition as usize], incarnation(PartitionId(partition)), &records);
    }

    /// The partitions, opened once more.
    pub fn sources(&mut self, machine: &Arc<Machine>) -> Vec<Arc<FakeSource>> {
        self.starts += 1;
        let numbered = self.disks.iter().enumerate();
        numbered.map(|(partition, disk)| FakeSource::new(partition as u32, disk, machine, self.starts)).collect()
    }

    /// Starts the lake on a machine, with these faults in its store.
    pub fn start(&mut self, config: LakeConfig, machine: &Arc<Machine>, faults: &[Fault]) -> Sink {
        let sources = as_sources(self.sources(machine));
        let store = FaultyStore::new(&self.lake(), machine, faults);
        Sink::start_over(store, LAKE, config, "rides", sources, self.settings()).expect("a legal lake")
    }

    /// All objects of the lake below its directories, by path, the lake's own left out.
    pub fn objects(&self) -> BTreeMap<String, PathBuf> {
        let mut found = BTreeMap::new();
        let mut open = vec![self.lake()];
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(&directory).into_iter().flatten() {
                let path = entry.expect("an entry").path();
                let name = path.strip_prefix(self.lake()).expect("below the lake").display().to_string();
                if path.is_dir() && name != "_millstream" {
                    open.push(path);
                } else if path.is_file() && !name.contains('#') {
                    found.insert(name, path);
                }
            }
        }
        found
    }

    /// The files of the lake, by name, hidden ones and the error files left out.
    pub fn files(&self, extension: &str) -> Vec<PathBuf> {
        list(&self.lake(), extension)
    }

    pub fn error_lines(&self) -> Vec<Value> {
        let files = list(&self.lake().join("errors"), "ndjson");
        let text: String = files.iter().map(|file| std::fs::read_to_string(file).expect("an error file")).collect();
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }
}

pub fn as_sources(sources: Vec<Arc<FakeSource>>) -> Vec<Arc<dyn Source>> {
    sources.into_iter().map(|source| source as Arc<dyn Source>).collect()
}

fn list(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

/// Partition, first and last offset of a file's name.
pub fn range_of(file: &Path) -> (u32, u64, u64) {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).expect("a name");
    let numbers: Vec<u64> = stem.split('-').map(|part| part.parse().expect("a number")).collect();
    (numbers[0] as u32, numbers[1], numbers[2])
}

/// All rows of a lake's Parquet files; checks that each lies in its file's range.
pub fn rows(world: &World) -> Vec<reader::LandedRow> {
    let mut rows = Vec::new();
    for file in world.files("parquet") {
        let (partition, first, last) = range_of(&file);
        for row in reader::read_rows(&file).expect("a Parquet file") {
            let row = row.expect("a row");
            assert_eq!(row.partition.0, partition);
            assert!((first..=last).contains(&row.offset.0), "{} outside {}", row.offset, file.display());
            rows.push(row);
        }
    }
    rows
}

/// Waits until something is true that a running lake brings about.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, patience).await.unwrap_or_else(|_| panic!("never came true: {what}"));
}
