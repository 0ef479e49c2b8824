//! A log on a temporary directory, on a disk that fails when told to, with a clock that stands where it is put.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use millstream_log::storage::{Access, Entry, FileStorage, Storage, StorageFile};
use millstream_log::{
    AppendSink, Appended, Clock, Drive, Environment, Identity, Kind, Log, LogConfig, LogError, Partition,
    PartitionConfig,
};
use millstream_protocol::batch::{BatchBuilder, BatchView, Codec};
use millstream_protocol::{Epoch, Incarnation, Offset, PartitionId, Record, StreamId, Timestamp};
use parking_lot::Mutex;

/// A call that is about to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `sync_data` gives EIO.
    Sync,
    /// A write gives ENOSPC after writing half.
    NoRoom,
    /// A write gives ENOSPC after writing all but the last byte.
    NoRoomAtTheEnd,
    /// A write gives EIO after writing half.
    Write,
}

/// Fails the next call of a kind on files whose path contains a text; everything else is the real file system.
pub struct FaultyStorage {
    files: FileStorage,
    armed: Arc<Mutex<Vec<(Fault, String)>>>,
    /// Syncs of files so far, by path.
    pub syncs: Arc<Mutex<Vec<PathBuf>>>,
}

impl Default for FaultyStorage {
    /// Few descriptors: files are closed and opened all the time.
    fn default() -> Self {
        Self { files: FileStorage::with_open_max(3), armed: Arc::default(), syncs: Arc::default() }
    }
}

impl FaultyStorage {
    pub fn arm(&self, fault: Fault, path_contains: &str) {
        self.armed.lock().push((fault, path_contains.to_owned()));
    }

    pub fn disarm(&self) {
        self.armed.lock().clear();
    }

    fn wrap(&self, path: &Path, file: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        Arc::new(FaultyFile { path: path.to_owned(), file, armed: self.armed.clone(), syncs: self.syncs.clone() })
    }
}

struct FaultyFile {
    path: PathBuf,
    file: Arc<dyn StorageFile>,
    armed: Arc<Mutex<Vec<(Fault, String)>>>,
    syncs: Arc<Mutex<Vec<PathBuf>>>,
}

impl FaultyFile {
    fn take(&self, fault: Fault) -> bool {
        let mut armed = self.armed.lock();
        let path = self.path.to_string_lossy();
        let found = armed.iter().position(|(kind, text)| *kind == fault && path.contains(text.as_str()));
        found.map(|index| armed.remove(index)).is_some()
    }
}

impl StorageFile for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buffer, position)
    }
    fn write_all_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        for (fault, code) in [(Fault::NoRoom, 28), (Fault::NoRoomAtTheEnd, 28), (Fault::Write, 5)] {
            if self.take(fault) {
                let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                let length = if fault == Fault::NoRoomAtTheEnd { all.len() - 1 } else { all.len() / 2 };
                self.file.write_all_at(&[IoSlice::new(&all[..length])], position)?;
                return Err(io::Error::from_raw_os_error(code));
            }
        }
        self.file.write_all_at(slices, position)
    }
    fn sync_data(&self) -> io::Result<()> {
        if self.take(Fault::Sync) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.syncs.lock().push(self.path.clone());
        self.file.sync_data()
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }
    fn allocate(&self, length: u64) -> io::Result<()> {
        self.file.allocate(length)
    }
    fn evict(&self, position: u64) -> io::Result<()> {
        self.file.evict(position)
    }
}

impl Storage for FaultyStorage {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.files.create_dir_all(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.files.list(path)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        self.files.create(path).map(|file| self.wrap(path, file))
    }
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        self.files.open(path, access).map(|file| self.wrap(path, file))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.files.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.files.remove_dir_all(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.files.sync_dir(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.files.lock(path)
    }
}

/// Keeps the answers to appends, in the order in which they came.
#[derive(Default)]
pub struct Answers(pub Mutex<Vec<(u64, Result<Appended, LogError>)>>);

impl AppendSink for Answers {
    fn complete(&self, results: Vec<(u64, Result<Appended, LogError>)>) {
        self.0.lock().extend(results);
    }
}

/// A clock that stands where it is put.
#[derive(Default)]
pub struct ManualClock(pub AtomicI64);

impl Clock for ManualClock {
    fn append_time(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

/// A data directory that can be closed and opened again.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub storage: Arc<FaultyStorage>,
    pub clock: Arc<ManualClock>,
    pub config: LogConfig,
    pub epoch: u32,
}

impl Bench {
    pub fn new() -> Self {
        let clock = ManualClock::default();
        clock.0.store(1_000, Ordering::Relaxed);
        Self {
            dir: tempfile::tempdir().unwrap(),
            storage: Arc::default(),
            clock: Arc::new(clock),
            config: LogConfig { lanes: 2, index_interval_bytes: 4 << 10, ..LogConfig::default() },
            epoch: 0,
        }
    }

    /// Opens the log, one epoch on.
    pub fn open(&mut self) -> Log {
        self.open_driven(Drive::Threads)
    }

    /// The same, by whoever says when its lanes work: the appends that wait then are one pass.
    pub fn open_stepped(&mut self) -> Log {
        self.open_driven(Drive::Caller)
    }

    fn open_driven(&mut self, drive: Drive) -> Log {
        self.epoch += 1;
        let environment = Environment { storage: self.storage.clone(), clock: self.clock.clone(), drive };
        Log::open_in(environment, self.dir.path(), self.config.clone(), 7).unwrap()
    }

    pub fn create(&self, log: &Log, partition: u32, config: PartitionConfig) -> Arc<Partition> {
        log.create_partition(identity(partition), config, Epoch(self.epoch)).unwrap()
    }

    pub fn reopen(&self, log: &Log, partition: u32, config: PartitionConfig) -> Arc<Partition> {
        log.open_partition(identity(partition), config, Epoch(self.epoch)).unwrap()
    }

    /// Ends the process as a kill does: what comes next finds the files as they are now, not as a clean stop leaves them.
    pub fn kill(&mut self, log: Log) {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(self.dir.path(), copy.path());
        drop(log);
        self.dir = copy;
    }

    /// The partition's segment files, in order.
    pub fn segments(&self, partition: u32) -> Vec<PathBuf> {
        self.files(partition, "log")
    }

    /// The partition's files whose names end so, in order.
    pub fn files(&self, partition: u32, ending: &str) -> Vec<PathBuf> {
        let name = format!("{partition:05}-{}", identity(partition).incarnation);
        let dir = self.dir.path().join("streams/0000000001").join(name);
        let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == ending))
            .collect();
        files.sort();
        files
    }
}

pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_dir(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

pub fn identity(partition: u32) -> Identity {
    Identity {
        stream: StreamId(1),
        partition: PartitionId(partition),
        incarnation: Incarnation(0xabc0 + u64::from(partition)),
        kind: Kind::Records,
    }
}

/// A batch of records `{first}`, `{first + 1}`, …
pub fn batch(first: u64, count: u64) -> BatchView {
    let mut builder = BatchBuilder::new(Codec::None);
    for n in first..first + count {
        builder.push(&Record::new(format!("record {n}, padded to some length"))).unwrap();
    }
    BatchView::parse(&builder.finish().unwrap()).unwrap()
}

/// One record of that many bytes.
pub fn large(bytes: usize) -> BatchView {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(&Record::new(vec![7u8; bytes])).unwrap();
    BatchView::parse(&builder.finish().unwrap()).unwrap()
}

/// Offsets and values.
pub type Records = Vec<(u64, Bytes)>;
/// Ranges of offsets.
pub type Lost = Vec<(u64, u64)>;

/// Reads everything from `from` on in chunks of about `bytes_max`; lost ranges are collected beside.
pub fn read_all(partition: &Partition, from: Offset, bytes_max: usize) -> (Records, Lost) {
    let (mut records, mut lost) = (Vec::new(), Vec::new());
    let mut next = from;
    while next < partition.high_watermark() {
        match partition.read(next, bytes_max) {
            Ok(mut chunk) => {
                assert!(chunk.next > next, "a read makes progress");
                while !chunk.bytes.is_empty() {
                    let view = BatchView::split_stored(&mut chunk.bytes, partition.incarnation()).unwrap();
                    let mut decoded = view.records().unwrap();
                    while let Some(record) = decoded.next_with_offset() {
                        let (offset, record) = record.unwrap();
                        if offset >= next {
                            records.push((offset.0, record.value.unwrap()));
                        }
                    }
                }
                next = chunk.next;
            }
            Err(LogError::RecordsLost { from, resume }) => {
                assert_eq!(from, next);
                lost.push((from.0, resume.0));
                next = resume;
            }
            Err(error) => panic!("{error}"),
        }
    }
    (records, lost)
}

pub fn expect_records(records: &[(u64, Bytes)], offsets: impl Iterator<Item = u64>) {
    let expected: Vec<(u64, Bytes)> =
        offsets.map(|n| (n, Bytes::from(format!("record {n}, padded to some length")))).collect();
    assert_eq!(records.len(), expected.len());
    assert_eq!(records, expected);
}
