//! Compaction against a model that is slow and obviously right: a Vec of all records ever appended, by offset.
//! Operations: append keyed records, tombstones and a few without a key, let time pass, compact, close and open again, read
//! from anywhere. After each: what is read is what was appended, at its offset; the latest value of each key is there; a
//! tombstone goes late enough, and nothing of its key comes back; what is gone stays gone; the active segment has all.
//! Then the same through crashes at each step, damage, a full disk, and readers that hold what goes.
//! More by one variable: `MILLSTREAM_SEEDS=2000`.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use millstream_log::storage::{Access, Entry, FileStorage, Storage, StorageFile};
use millstream_log::{
    Compacted, CompactionPolicy, Drive, Durability, Environment, Log, LogConfig, LogError, Partition, PartitionConfig,
    RetentionPolicy, verify,
};
use millstream_protocol::batch::{BatchBuilder, BatchView, Codec};
use millstream_protocol::{Epoch, Offset, Record};
use parking_lot::Mutex;
use support::{Bench, Fault, ManualClock, copy_dir, identity};

const DELETE_RETENTION_MS: u64 = 1_000;

const CONFIG: PartitionConfig = PartitionConfig {
    // What is appended is not what is tested; a roll and a compaction sync all the same.
    durability: Durability::Written,
    segment_bytes: 2 << 10,
    retention: RetentionPolicy { age_ms: None, bytes: None },
    compaction: Some(CompactionPolicy {
        delete_retention_ms: DELETE_RETENTION_MS,
        min_lag_ms: 0,
        key_map_bytes: 1 << 20,
    }),
    dedup_window_ms: 300_000,
};

fn with_policy(change: impl FnOnce(&mut CompactionPolicy)) -> PartitionConfig {
    let mut policy = CONFIG.compaction.unwrap();
    change(&mut policy);
    PartitionConfig { compaction: Some(policy), ..CONFIG }
}

/// Numbers from a seed: splitmix64.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

fn batch(codec: Codec, records: &[Record]) -> BatchView {
    let mut builder = BatchBuilder::new(codec);
    records.iter().for_each(|record| builder.push(record).unwrap());
    BatchView::parse(&builder.finish().unwrap()).unwrap()
}

fn value(key: &str, n: u64) -> Record {
    Record::new(format!("value {n} of {key}, padded to some length")).key(key.to_owned()).header("n", n.to_string())
}

/// All records from `from` on, by offset. Batches must follow each other without a gap, and hold `from`.
fn read_from(partition: &Partition, from: Offset, bytes_max: usize) -> BTreeMap<u64, Record> {
    let (mut found, mut next) = (BTreeMap::new(), from);
    while next < partition.high_watermark() {
        let mut chunk = partition.read(next, bytes_max).unwrap();
        assert!(chunk.next > next, "a read makes progress");
        let mut expected = None;
        while !chunk.bytes.is_empty() {
            let view = BatchView::split_stored(&mut chunk.bytes, partition.incarnation()).unwrap();
            let header = view.header();
            match expected {
                None => assert!(header.base_offset <= next && next < header.end_offset()),
                Some(expected) => assert_eq!(header.base_offset, expected),
            }
            expected = Some(header.end_offset());
            let mut records = view.records().unwrap();
            while let Some(record) = records.next_with_offset() {
                let (offset, record) = record.unwrap();
                if offset >= from {
                    assert!(found.insert(offset.0, record).is_none(), "{offset} came twice");
                }
            }
        }
        assert_eq!(expected, Some(chunk.next));
        next = chunk.next;
    }
    found
}

fn partition_dir(root: &Path) -> PathBuf {
    let name = format!("{:05}-{}", 0, identity(0).incarnation);
    root.join("streams/0000000001").join(name)
}

fn names(root: &Path, ending: &str) -> Vec<String> {
    let entries = fs::read_dir(partition_dir(root)).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.ends_with(ending));
    names.sort();
    names
}

/// The offsets of the sealed segments whose newest generation has a time cleaned.
fn clean_ranges(root: &Path) -> Vec<std::ops::Range<u64>> {
    let newest: BTreeMap<u64, String> =
        names(root, ".log").into_iter().map(|name| (name[..20].parse().unwrap(), name)).collect();
    let ends = newest.keys().skip(1);
    let sealed = newest.iter().zip(ends);
    let clean = sealed.filter(|((_, name), _)| fs::read(partition_dir(root).join(name)).unwrap()[48..56] != [0; 8]);
    clean.map(|((base, _), end)| *base..*end).collect()
}

/// Where the active segment begins.
fn active_base(root: &Path) -> u64 {
    names(root, ".log").last().unwrap()[..20].parse().unwrap()
}

/// All that was ever appended.
#[derive(Default)]
struct Model {
    records: Vec<Record>,
    /// When the first run after each append was: its segment was not cleaned before.
    first_run: Vec<Option<i64>>,
    /// When the last run was.
    last_run: i64,
    gone: BTreeSet<u64>,
}

impl Model {
    fn append(&mut self, partition: &Arc<Partition>, codec: Codec, records: Vec<Record>) {
        let appended = partition.append_wait(batch(codec, &records)).unwrap();
        assert_eq!(appended.base_offset.0, self.records.len() as u64, "offsets are never given twice");
        self.first_run.resize(self.records.len() + records.len(), None);
        self.records.extend(records);
    }

    fn ran(&mut self, now: i64) {
        self.last_run = now;
        self.first_run.iter_mut().for_each(|run| *run = run.or(Some(now)));
    }

    /// Where the first tombstone is.
    fn tombstone(&self) -> u64 {
        self.records.iter().position(|record| record.value.is_none()).unwrap() as u64
    }

    fn latest(&self) -> HashMap<Bytes, u64> {
        let keyed = (0..).zip(&self.records).filter_map(|(offset, record)| Some((record.key.clone()?, offset)));
        keyed.collect()
    }

    /// Checks what is stored, and notes what is gone.
    fn check(&mut self, partition: &Partition, root: &Path) {
        assert_eq!(partition.high_watermark().0, self.records.len() as u64);
        let found = read_from(partition, Offset(0), 1 << 10);
        self.check_found(&found, 0);
        let latest = self.latest();
        for (key, offset) in &latest {
            let record = &self.records[*offset as usize];
            if found.contains_key(offset) {
                continue;
            }
            assert!(record.value.is_none(), "the latest value of {key:?}, at {offset}, is gone");
            let cleaned = self.first_run[*offset as usize].unwrap_or_else(|| panic!("{offset}: nothing was compacted"));
            assert!(self.last_run >= cleaned + DELETE_RETENTION_MS as i64, "the tombstone at {offset} went early");
            let of_key = found.iter().find(|(_, record)| record.key.as_ref() == Some(key));
            assert_eq!(of_key, None, "the tombstone of {key:?} is gone and an older value is not");
        }
        for (offset, record) in (0..).zip(&self.records) {
            let is_there = found.contains_key(&offset);
            assert!(is_there || offset < active_base(root), "{offset}: the active segment was touched");
            assert!(is_there || record.key.is_some(), "{offset} has no key and is gone");
        }
        // What is clean was cleaned by all that is: nothing in it is superseded by anything in it.
        let clean = clean_ranges(root);
        let in_clean = |offset: &u64| clean.iter().any(|range| range.contains(offset));
        let mut clean_latest = HashMap::new();
        for (offset, record) in found.iter().filter(|(offset, record)| in_clean(offset) && record.key.is_some()) {
            let before = clean_latest.insert(record.key.clone(), *offset);
            assert_eq!(before, None, "{offset} supersedes it, and both are in segments that say they are clean");
        }
        self.gone = (0..self.records.len() as u64).filter(|offset| !found.contains_key(offset)).collect();
    }

    /// What was read from `from` on is what was appended, and nothing that was gone.
    fn check_found(&self, found: &BTreeMap<u64, Record>, from: u64) {
        for (offset, record) in found {
            assert!(*offset >= from);
            assert_eq!(record, &self.records[*offset as usize], "at {offset}");
            assert!(!self.gone.contains(offset), "{offset} has come back");
        }
    }
}

fn random_record(numbers: &mut Numbers) -> Record {
    let key = format!("key-{}", numbers.below(14).min(numbers.below(14)));
    match numbers.below(20) {
        0 => Record::new("without a key"),
        1..5 => Record::tombstone(key),
        5 => Record::new("").key(key),
        n => value(&key, n * numbers.below(1 << 40)),
    }
}

fn run_model(seed: u64) {
    let mut numbers = Numbers(seed);
    let config = with_policy(|policy| {
        policy.key_map_bytes = [1, 400, 1_200, 1 << 20][numbers.below(4) as usize];
        policy.min_lag_ms = [0, 0, 300][numbers.below(3) as usize];
    });
    let mut bench = Bench::new();
    let mut model = Model::default();
    let mut log = bench.open();
    let mut partition = bench.create(&log, 0, config);
    for _ in 0..60 {
        let codec = [Codec::None, Codec::Lz4, Codec::Zstd][numbers.below(3) as usize];
        match numbers.below(10) {
            0..6 => {
                for _ in 0..numbers.below(8) {
                    let records = (0..=numbers.below(4)).map(|_| random_record(&mut numbers)).collect();
                    model.append(&partition, codec, records);
                }
            }
            6 => drop(bench.clock.0.fetch_add(numbers.below(900) as i64, Ordering::Relaxed)),
            7 | 8 => {
                let held = partition.read(Offset(0), 4 << 10).unwrap();
                let position = Offset(numbers.below(model.records.len() as u64 + 1));
                let begun =
                    (position < partition.high_watermark()).then(|| partition.read(position, 300).unwrap().next);
                partition.run_compaction().unwrap();
                model.ran(bench.clock.0.load(Ordering::Relaxed));
                assert_eq!(partition.run_compaction().unwrap(), Compacted::default(), "a second run finds nothing");
                // What a reader holds is as it was; where it goes on is found in the new generation.
                let mut bytes = held.bytes;
                while !bytes.is_empty() {
                    BatchView::split_stored(&mut bytes, partition.incarnation()).unwrap();
                }
                if let Some(next) = begun {
                    model.check_found(&read_from(&partition, next, 300), next.0);
                }
            }
            _ => {
                if numbers.below(2) == 0 {
                    partition.close();
                }
                drop((partition, log));
                log = bench.open();
                partition = bench.reopen(&log, 0, config);
                assert_eq!(partition.recovered().files_quarantined, 0);
            }
        }
        model.check(&partition, bench.dir.path());
        let from = numbers.below(model.records.len() as u64 + 1);
        let found = read_from(&partition, Offset(from), 1 + numbers.below(3_000) as usize);
        model.check_found(&found, from);
        let from_start = (from..model.records.len() as u64).filter(|offset| !model.gone.contains(offset));
        assert!(found.keys().copied().eq(from_start), "from {from} on");
        let size: u64 = bench.segments(0).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
        assert_eq!(partition.size_bytes(), size);
    }
    partition.close();
    drop((partition, log));
    verify(bench.dir.path(), &mut |report| assert_eq!(report.damage, vec![])).unwrap();
}

#[test]
fn compaction_agrees_with_its_model() {
    let seeds = std::env::var("MILLSTREAM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    for seed in 0..seeds {
        let run = std::panic::catch_unwind(|| run_model(seed));
        assert!(run.is_ok(), "seed {seed}");
    }
}

/// 200 records over 10 keys, and two keys that are deleted, several segments, none of them compacted yet.
fn filled(bench: &mut Bench, config: PartitionConfig) -> (Log, Arc<Partition>, Model) {
    let log = bench.open();
    let partition = bench.create(&log, 0, config);
    let mut model = Model::default();
    model.append(&partition, Codec::None, vec![value("once", 0), value("twice", 0)]);
    for n in 0..100 {
        let records = (0..2).map(|m| value(&format!("key-{}", (2 * n + m) % 10), n)).collect();
        model.append(&partition, Codec::None, records);
        if n == 30 {
            model.append(
                &partition,
                Codec::None,
                vec![
                    Record::tombstone("once"),
                    Record::tombstone("key-3"),
                    Record::tombstone("twice"),
                    value("next-to-it-1", 0),
                    value("next-to-it-2", 0),
                ],
            );
        }
    }
    (log, partition, model)
}

#[test]
fn of_each_key_the_latest_is_left_whatever_fits_into_the_map() {
    let mut left = Vec::new();
    for key_map_bytes in [1, 100, 300, 700, 1 << 20] {
        let mut bench = Bench::new();
        let (_log, partition, mut model) =
            filled(&mut bench, with_policy(|policy| policy.key_map_bytes = key_map_bytes));
        let before = partition.size_bytes();
        let done = partition.run_compaction().unwrap();
        model.ran(1_000);
        model.check(&partition, bench.dir.path());
        let sealed = active_base(bench.dir.path());
        let mut latest = HashMap::new();
        for (offset, record) in (0..sealed).zip(&model.records) {
            latest.insert(record.key.clone(), offset);
        }
        let expected: BTreeSet<u64> = latest.into_values().collect();
        let found: BTreeSet<u64> =
            read_from(&partition, Offset(0), 1 << 20).into_keys().filter(|at| *at < sealed).collect();
        assert_eq!(found, expected, "with {key_map_bytes} bytes");
        assert_eq!(done.records_removed, sealed - expected.len() as u64);
        assert_eq!(before - partition.size_bytes(), done.bytes_freed);
        assert!(partition.size_bytes() < before / 2, "{before} before, {} after", partition.size_bytes());
        left.push(found);
    }
    assert!(left.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn single_records_leave_no_header_each() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, PartitionConfig { segment_bytes: 64 << 10, ..CONFIG });
    let mut model = Model::default();
    (0..1_000).for_each(|n| model.append(&partition, Codec::None, vec![value("one", n)]));
    partition.run_compaction().unwrap();
    model.ran(1_000);
    model.check(&partition, bench.dir.path());
    let sealed = bench.segments(0).into_iter().rev().skip(1);
    let sizes: Vec<u64> = sealed.map(|path| fs::metadata(path).unwrap().len()).collect();
    assert!(!sizes.is_empty() && sizes.iter().all(|size| *size < 600), "{sizes:?}");
}

#[test]
fn a_tombstone_outlives_rewrites_by_its_own_clock_and_then_goes_without_an_append() {
    let mut bench = Bench::new();
    let (_log, partition, mut model) = filled(&mut bench, CONFIG);
    let tombstone = model.tombstone();
    let is_there = |partition: &Partition| read_from(partition, Offset(0), 1 << 20).contains_key(&tombstone);
    partition.run_compaction().unwrap();
    model.ran(1_000);
    // Rewritten every now and then because its neighbours go: that does not give it more time.
    for (now, neighbour) in [(1_400, "next-to-it-1"), (1_999, "next-to-it-2")] {
        bench.clock.0.store(now, Ordering::Relaxed);
        model.append(&partition, Codec::None, vec![value(neighbour, 1)]);
        (0..200).for_each(|n| model.append(&partition, Codec::None, vec![value(&format!("key-{}", n % 10), n)]));
        assert!(partition.run_compaction().unwrap().segments > 0);
        assert!(is_there(&partition), "at {now}");
    }
    bench.clock.0.store(2_000, Ordering::Relaxed);
    assert_eq!(partition.run_compaction().unwrap().records_removed, 2, "nothing else had changed");
    model.ran(2_000);
    assert!(!is_there(&partition));
    model.check(&partition, bench.dir.path());
    assert_eq!(partition.run_compaction().unwrap(), Compacted::default());
}

#[test]
fn nothing_younger_than_the_lag_goes() {
    let mut bench = Bench::new();
    let (_log, partition, _) = filled(&mut bench, with_policy(|policy| policy.min_lag_ms = 500));
    bench.clock.0.store(1_499, Ordering::Relaxed);
    assert_eq!(partition.run_compaction().unwrap(), Compacted::default());
    bench.clock.0.store(1_500, Ordering::Relaxed);
    assert!(partition.run_compaction().unwrap().segments > 0);
    let mut other = Bench::new();
    let (_log, partition, _) = filled(&mut other, PartitionConfig { compaction: None, ..CONFIG });
    assert_eq!(partition.run_compaction().unwrap(), Compacted::default(), "and nothing that was not asked for");
}

/// The real file system, and a copy of the directory after each change of a name: what a crash there leaves.
struct CopyingStorage {
    files: FileStorage,
    root: PathBuf,
    copies: Mutex<Vec<tempfile::TempDir>>,
    is_copying: AtomicBool,
}

impl CopyingStorage {
    fn copy(&self) {
        if self.is_copying.load(Ordering::Relaxed) {
            let copy = tempfile::tempdir().unwrap();
            copy_dir(&self.root, copy.path());
            self.copies.lock().push(copy);
        }
    }
}

impl Storage for CopyingStorage {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.files.create_dir_all(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.files.list(path)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        self.files.create(path).inspect(|_| self.copy())
    }
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        self.files.open(path, access)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        // Before it: the temporary file is written whole.
        self.copy();
        self.files.rename(from, to).inspect(|()| self.copy())
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.files.remove_file(path).inspect(|()| self.copy())
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

/// Ten segments are enough for every step; small ones would be hundreds.
const LARGER: PartitionConfig = PartitionConfig { segment_bytes: 8 << 10, ..CONFIG };

/// Opens a directory as it is, and returns its partition.
fn open_at(root: &Path, clock: &Arc<ManualClock>, epoch: u32) -> (Log, Arc<Partition>) {
    let config = LogConfig { lanes: 1, index_interval_bytes: 4 << 10, ..LogConfig::default() };
    let environment = Environment { clock: clock.clone(), ..Environment::of_the_machine().unwrap() };
    let log = Log::open_in(environment, root, config, 7).unwrap();
    let partition = log.open_partition(identity(0), LARGER, Epoch(epoch)).unwrap();
    (log, partition)
}

#[test]
fn a_crash_at_any_step_leaves_one_generation_served_and_nothing_comes_back() {
    let mut bench = Bench::new();
    let (log, partition, mut model) = filled(&mut bench, LARGER);
    partition.run_compaction().unwrap();
    model.ran(1_000);
    (0..200).for_each(|n| model.append(&partition, Codec::Lz4, vec![value(&format!("key-{}", n % 10), 1_000 + n)]));
    drop((partition, log));

    // The second compaction, of clean and dirty segments and with tombstones that are over, cut at each step.
    let before = bench.dir;
    let clock = bench.clock;
    clock.0.store(5_000, Ordering::Relaxed);
    let root = tempfile::tempdir().unwrap();
    copy_dir(before.path(), root.path());
    let storage = Arc::new(CopyingStorage {
        files: FileStorage::with_open_max(8),
        root: root.path().to_owned(),
        copies: Mutex::default(),
        is_copying: AtomicBool::new(false),
    });
    let config = LogConfig { lanes: 1, index_interval_bytes: 4 << 10, ..LogConfig::default() };
    let environment = Environment { storage: storage.clone(), clock: clock.clone(), drive: Drive::Threads };
    let log = Log::open_in(environment, root.path(), config, 7).unwrap();
    let partition = log.open_partition(identity(0), LARGER, Epoch(9)).unwrap();
    model.check(&partition, root.path());
    storage.is_copying.store(true, Ordering::Relaxed);
    assert!(partition.run_compaction().unwrap().segments > 5);
    storage.is_copying.store(false, Ordering::Relaxed);
    drop((partition, log));
    let copies = std::mem::take(&mut *storage.copies.lock());
    assert!(copies.len() > 40, "{}", copies.len());

    let gone_before = model.gone.clone();
    model.ran(5_000);
    let mut gone_last = 0;
    for (step, copy) in copies.iter().enumerate() {
        // As it is; without any index; with every file that was ever unlinked back, as after an unlink that was not durable.
        for variant in (0..3).filter(|variant| *variant == 0 || step % 3 == *variant) {
            let at = tempfile::tempdir().unwrap();
            copy_dir(copy.path(), at.path());
            match variant {
                0 => {}
                1 => names(at.path(), ".index")
                    .iter()
                    .for_each(|n| fs::remove_file(partition_dir(at.path()).join(n)).unwrap()),
                _ => {
                    for name in names(before.path(), ".log") {
                        if name[..20].parse::<u64>().unwrap() < active_base(before.path()) {
                            fs::copy(partition_dir(before.path()).join(&name), partition_dir(at.path()).join(&name))
                                .unwrap();
                        }
                    }
                }
            }
            let (log, partition) = open_at(at.path(), &clock, 10);
            model.gone = gone_before.clone();
            model.check(&partition, at.path());
            assert_eq!(partition.recovered().files_quarantined, 0, "step {step}, variant {variant}");
            assert_eq!((partition.recovered().bytes_cut, partition.recovered().holes), (0, 0));
            let gone = model.gone.len();
            if variant == 0 {
                assert!(gone >= gone_last, "step {step}: what a step removed is back in the next");
                gone_last = gone;
            }
            // The next run finishes what was cut, and cleans up what it left.
            partition.run_compaction().unwrap();
            model.check(&partition, at.path());
            assert_eq!(names(at.path(), ".tmp"), Vec::<String>::new());
            let logs = names(at.path(), ".log");
            assert!(logs.windows(2).all(|pair| pair[0][..20] != pair[1][..20]), "{logs:?}");
            assert_eq!(partition.run_compaction().unwrap(), Compacted::default());
            model.append(&partition, Codec::None, vec![value("later", 1)]);
            model.check(&partition, at.path());
            model.records.pop();
            model.first_run.pop();
            partition.close();
            drop((partition, log));
            verify(at.path(), &mut |report| assert_eq!(report.damage, vec![])).unwrap();
        }
    }
}

#[test]
fn a_newer_generation_that_is_damaged_goes_into_quarantine_if_the_older_one_is_there() {
    let mut bench = Bench::new();
    let (log, partition, mut model) = filled(&mut bench, CONFIG);
    let old = bench.segments(0)[0].clone();
    let kept = fs::read(&old).unwrap();
    partition.run_compaction().unwrap();
    model.ran(1_000);
    drop((partition, log));
    let new = bench.segments(0)[0].clone();
    assert!(new.to_string_lossy().ends_with(".00000001.log") && !old.exists());
    let mut bytes = fs::read(&new).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&new, bytes).unwrap();
    fs::write(&old, kept).unwrap();
    let log = bench.open();
    let partition = bench.reopen(&log, 0, CONFIG);
    assert_eq!((partition.recovered().files_quarantined, partition.recovered().holes), (1, 0));
    assert!(old.exists() && !new.exists());
    model.check(&partition, bench.dir.path());
    drop((partition, log));
    // Without the older one: a hole, as in any sealed segment; the rest of it is read.
    let new = bench.segments(0)[1].clone();
    let mut bytes = fs::read(&new).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&new, bytes).unwrap();
    fs::remove_file(new.with_extension("index")).unwrap();
    let log = bench.open();
    let partition = bench.reopen(&log, 0, CONFIG);
    assert_eq!((partition.recovered().files_quarantined, partition.recovered().holes), (0, 1));
}

#[test]
fn a_damaged_segment_is_left_as_it_is_and_tombstones_above_it_stay() {
    let mut bench = Bench::new();
    let (log, partition, model) = filled(&mut bench, CONFIG);
    drop((partition, log));
    let first = bench.segments(0)[0].clone();
    let mut bytes = fs::read(&first).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&first, &bytes).unwrap();
    // Its index says that it is whole: the run finds out.
    let log = bench.open();
    let partition = bench.reopen(&log, 0, CONFIG);
    assert!(partition.run_compaction().unwrap().segments > 0);
    assert_eq!(fs::read(&first).unwrap(), bytes);
    assert_eq!(partition.run_compaction().unwrap(), Compacted::default());
    bench.clock.0.store(90_000, Ordering::Relaxed);
    assert_eq!(partition.run_compaction().unwrap(), Compacted::default());
    let tombstone = model.tombstone();
    assert!(read_from(&partition, Offset(tombstone), 1 << 20).contains_key(&tombstone));
}

#[test]
fn a_full_disk_is_tried_again_and_a_failed_sync_is_not() {
    let mut bench = Bench::new();
    let (log, partition, mut model) = filled(&mut bench, CONFIG);
    bench.storage.arm(Fault::NoRoom, ".log.tmp");
    let error = partition.run_compaction().unwrap_err();
    assert!(matches!(&error, LogError::Io { act: "write", .. }), "{error}");
    model.check(&partition, bench.dir.path());
    assert_eq!(names(bench.dir.path(), ".tmp"), Vec::<String>::new(), "its room is given back");
    assert_eq!(model.gone.len(), 0);

    bench.storage.arm(Fault::Sync, ".log.tmp");
    for _ in 0..2 {
        let error = partition.run_compaction().unwrap_err();
        assert!(matches!(&error, LogError::Io { act: "sync", .. }), "{error}");
    }
    assert!(!partition.is_read_only(), "nothing of the partition rests on it");
    model.append(&partition, Codec::None, vec![value("key-1", 5)]);
    model.check(&partition, bench.dir.path());
    drop((partition, log));
    let log = bench.open();
    let partition = bench.reopen(&log, 0, CONFIG);
    assert!(partition.run_compaction().unwrap().segments > 0);
    model.ran(1_000);
    model.check(&partition, bench.dir.path());
    partition.close();
    assert_eq!(partition.run_compaction().unwrap(), Compacted::default(), "a closed one is left alone");
}

#[test]
fn readers_and_appends_go_on_while_segments_are_swapped() {
    let mut bench = Bench::new();
    let (_log, partition, mut model) = filled(&mut bench, CONFIG);
    let all = Arc::new(model.records.clone());
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|seed| {
            let (partition, all, done) = (partition.clone(), all.clone(), done.clone());
            std::thread::spawn(move || {
                let (mut numbers, mut rounds) = (Numbers(seed), 0);
                while !done.load(Ordering::Relaxed) || rounds == 0 {
                    let from = numbers.below(all.len() as u64);
                    for (offset, record) in read_from(&partition, Offset(from), 1 + numbers.below(2_000) as usize) {
                        assert!(all.get(offset as usize).is_none_or(|appended| *appended == record));
                    }
                    rounds += 1;
                }
            })
        })
        .collect();
    for n in 0..30 {
        for m in 0..20 {
            model.append(&partition, Codec::None, vec![value(&format!("key-{}", m % 10), n)]);
        }
        partition.run_compaction().unwrap();
        model.ran(1_000);
    }
    done.store(true, Ordering::Relaxed);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    model.check(&partition, bench.dir.path());
}

#[test]
fn an_older_value_that_damage_brought_back_goes_before_its_tombstone() {
    let mut bench = Bench::new();
    // One key at a time.
    let config = with_policy(|policy| policy.key_map_bytes = 1);
    let (log, partition, mut model) = filled(&mut bench, config);
    let old = bench.segments(0)[0].clone();
    let kept = fs::read(&old).unwrap();
    partition.run_compaction().unwrap();
    model.ran(1_000);
    drop((partition, log));
    let new = bench.segments(0)[0].clone();
    let mut bytes = fs::read(&new).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&new, bytes).unwrap();
    fs::write(&old, kept).unwrap();
    let log = bench.open();
    let partition = bench.reopen(&log, 0, config);
    assert!(read_from(&partition, Offset(0), 1 << 20).contains_key(&0), "the value is read again");
    bench.clock.0.store(9_000, Ordering::Relaxed);
    partition.run_compaction().unwrap();
    model.ran(9_000);
    let found = read_from(&partition, Offset(0), 1 << 20);
    assert!(!found.values().any(|record| matches!(record.key.as_deref(), Some(b"once" | b"twice"))));
    model.check(&partition, bench.dir.path());
}
