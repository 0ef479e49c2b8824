//! A small log, damaged in every place: each byte flipped, each file cut at each length, each file removed.
//!
//! Whatever is damaged, it is noticed (an error, a report, a typed hole) or it was a cache and is made again; nothing
//! panics; every record outside the damaged batch is served as it was; no offset is given out twice. After a clean stop
//! without exception. After a kill the last group commit that nothing marks as durable is excepted (a torn write and rot
//! look alike there): what remains of it is cut, kept in quarantine and reported.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_log::storage::{Access, Storage};
use millstream_log::{
    Drive, Environment, Identity, Kind, Log, LogConfig, LogError, NewBatch, Partition, PartitionConfig, Recovered,
    SystemClock,
};
use millstream_protocol::batch::{BatchBuilder, BatchHeader, BatchView, Codec};
use millstream_protocol::{Epoch, Incarnation, Offset, PartitionId, ProducerId, Record, StreamId};
use millstream_sim::{Nature, SimDisk};

const ROOT: &str = "/data";
const BATCH: u64 = 3;
const PRODUCER: ProducerId = ProducerId(5);
/// Below lies a whole segment of partition 0, which goes.
const DELETED: u64 = 14;

fn config() -> LogConfig {
    LogConfig { lanes: 1, index_interval_bytes: 200, unsynced_bytes: 64 << 10, ..LogConfig::default() }
}

const PARTITION: PartitionConfig = PartitionConfig {
    durability: millstream_log::Durability::Synced,
    segment_bytes: 900,
    retention: millstream_log::RetentionPolicy { age_ms: None, bytes: None },
    compaction: None,
    dedup_window_ms: 300_000,
};

fn identity(partition: u32) -> Identity {
    let incarnation = Incarnation(0xfeed_0000 + u64::from(partition));
    Identity { stream: StreamId(1), partition: PartitionId(partition), incarnation, kind: Kind::Records }
}

fn open(disk: &SimDisk) -> Result<Log, LogError> {
    let environment =
        Environment { storage: Arc::new(disk.clone()), clock: Arc::new(SystemClock::default()), drive: Drive::Caller };
    Log::open_in(environment, Path::new(ROOT), config(), 7)
}

/// Its records have dedup ids, and its producer is the only one of its partition: what is known of it is in files, too.
fn batch(first: u64) -> NewBatch {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.producer(PRODUCER, 0, first);
    for n in first..first + BATCH {
        builder.push(&Record::new(format!("record {n}")).header("ms-dedup-id", format!("{n}"))).unwrap();
    }
    NewBatch::with_dedup_ids(BatchView::parse(&builder.finish().unwrap()).unwrap()).unwrap()
}

/// Two partitions of several segments, with state, written side by side so that the journal has its share.
fn write(disk: &SimDisk) -> Log {
    let log = open(disk).unwrap();
    let partitions: Vec<Arc<Partition>> =
        (0..2).map(|n| log.create_partition(identity(n), PARTITION, Epoch(1)).unwrap()).collect();
    let sink: Arc<dyn millstream_log::AppendSink> = Arc::new(Nobody);
    for n in 0..14 {
        partitions.iter().for_each(|partition| partition.append(batch(n * BATCH), 0, &sink).unwrap());
        log.step();
        if n == 12 {
            partitions[0].state_put("lake/1", Some(b"landed up to 12")).unwrap();
            partitions[0].delete_before(Offset(DELETED)).unwrap();
            // A tenth of a second without appends: everything so far is marked as durable.
            log.tick(true);
        }
    }
    log
}

struct Nobody;

impl millstream_log::AppendSink for Nobody {
    fn complete(&self, results: Vec<(u64, Result<millstream_log::Appended, LogError>)>) {
        assert!(results.iter().all(|(_, result)| result.is_ok()));
    }
}

/// A disk after a clean stop, and one after a kill.
fn stopped(clean: bool) -> SimDisk {
    let disk = SimDisk::new(1, Nature::default());
    let log = write(&disk);
    if clean {
        log.close();
    } else {
        disk.die_at(Some(0));
    }
    drop(log);
    disk.kill();
    disk
}

/// What one partition gives.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
struct Given {
    records: BTreeMap<u64, Vec<u8>>,
    lost: Vec<(u64, u64)>,
    end: u64,
    start: u64,
    state: Option<Vec<u8>>,
    /// What is known of its producer.
    next_sequence: Option<u64>,
}

/// What a start gives and says.
#[derive(Debug, Default)]
struct Seen {
    partitions: Vec<Option<Given>>,
    reports: Recovered,
    journal_damage: usize,
    errors: Vec<String>,
}

impl Seen {
    fn is_noticed(&self) -> bool {
        !self.errors.is_empty()
            || !self.reports.is_clean()
            || self.journal_damage > 0
            || self.partitions.iter().flatten().any(|given| !given.lost.is_empty())
    }
}

fn look(disk: &SimDisk) -> Seen {
    let mut seen = Seen::default();
    let log = match open(disk) {
        Ok(log) => log,
        Err(error) => {
            seen.errors.push(error.to_string());
            return seen;
        }
    };
    seen.journal_damage = log.replayed().damaged + log.replayed().torn_bytes as usize;
    for n in 0..2 {
        seen.partitions.push(match log.open_partition(identity(n), PARTITION, Epoch(2)) {
            Ok(partition) => {
                seen.reports.add(partition.recovered());
                Some(give(&partition))
            }
            Err(error) => {
                seen.errors.push(error.to_string());
                None
            }
        });
    }
    seen
}

fn give(partition: &Partition) -> Given {
    let (start, end) = (partition.log_start().0, partition.high_watermark().0);
    let state = partition.state_get("lake/1").unwrap().map(|bytes| bytes.to_vec());
    let next_sequence = partition.next_sequence(PRODUCER);
    let mut given = Given { end, start, state, next_sequence, ..Given::default() };
    let mut next = start;
    while next < end {
        match partition.read(Offset(next), 1 << 20) {
            Ok(mut chunk) => {
                while !chunk.bytes.is_empty() {
                    let view =
                        BatchView::split_stored(&mut chunk.bytes, partition.incarnation()).expect("never wrong bytes");
                    let mut records = view.records().unwrap();
                    while let Some(record) = records.next_with_offset() {
                        let (offset, record) = record.unwrap();
                        if offset.0 >= next {
                            given.records.insert(offset.0, record.value.unwrap().to_vec());
                        }
                    }
                }
                assert!(chunk.next.0 > next);
                next = chunk.next.0;
            }
            Err(LogError::RecordsLost { from, resume }) => {
                given.lost.push((from.0, resume.0));
                next = resume.0.max(next + 1);
            }
            Err(error) => panic!("{error}"),
        }
    }
    given
}

/// Where a file's batches lie: position, end position, first offset, end offset; and the partition whose records they are.
type Layout = (Option<u32>, Vec<(u64, u64, u64, u64)>);

fn layout(disk: &SimDisk, path: &Path) -> Layout {
    let text = path.to_string_lossy();
    let partition = (0..2).find(|n| text.contains(&format!("/{n:05}-")) && !text.contains("/state/"));
    if !text.ends_with(".log") || partition.is_none() {
        return (None, Vec::new());
    }
    let file = disk.open(path, Access::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    let (mut at, mut batches) = (64, Vec::new());
    while at < bytes.len() {
        let header = BatchHeader::decode(&bytes[at..]).unwrap();
        let end = at + header.batch_len();
        batches.push((at as u64, end as u64, header.base_offset.0, header.end_offset().0));
        at = end;
    }
    (partition, batches)
}

/// Holds what is given after damage against what was given before. `hurt`: the offsets that the damage may have taken,
/// with the partition; `unmarked`: so many offsets at each end that nothing marks as durable.
fn judge(what: &str, before: &[Given], seen: &Seen, hurt: Option<(u32, u64, u64)>, unmarked: u64) {
    if seen.partitions.is_empty() {
        return; // Refused as a whole, with an error: nothing is lost.
    }
    for (n, (before, after)) in before.iter().zip(&seen.partitions).enumerate() {
        let Some(after) = after else { continue }; // Offline, with an error.
        let may_go = |offset: u64| {
            hurt.is_some_and(|(partition, from, to)| partition == n as u32 && (from..to).contains(&offset))
                || offset + unmarked >= before.end
        };
        for (offset, value) in &before.records {
            match after.records.get(offset) {
                Some(found) => assert_eq!(found, value, "{what}: partition {n}, offset {offset}"),
                None => {
                    assert!(may_go(*offset), "{what}: partition {n}, offset {offset} is gone: {seen:?}");
                    assert!(seen.is_noticed(), "{what}: partition {n}, offset {offset} is gone and nobody says so");
                }
            }
        }
        // Never more than is there; less only where records are lost, too, or it is said.
        assert!(after.next_sequence <= before.next_sequence, "{what}: partition {n}: {seen:?}");
        if after.next_sequence < before.next_sequence {
            let lost = before.next_sequence.unwrap_or(0) - after.next_sequence.unwrap_or(0);
            assert!(
                seen.is_noticed() || lost <= unmarked,
                "{what}: partition {n}: what is known of its producer is gone"
            );
        }
        assert!(after.records.keys().all(|offset| before.records.contains_key(offset)), "{what}: nothing new appears");
        assert!(
            after.end + unmarked >= before.end,
            "{what}: partition {n}: offsets would be given out twice: {seen:?}"
        );
        assert_eq!((after.start, &after.state), (before.start, &before.state), "{what}: partition {n}: its state");
    }
}

fn before(disk: &SimDisk) -> Vec<Given> {
    let seen = look(&disk.fork());
    assert!(!seen.is_noticed(), "an undamaged log reports nothing: {seen:?}");
    let given: Vec<Given> = seen.partitions.into_iter().map(Option::unwrap).collect();
    assert_eq!(given[0].records.len() as u64, 14 * BATCH - DELETED);
    assert!(given.iter().all(|given| given.next_sequence == Some(14 * BATCH)));
    assert_eq!(given[1].records.len() as u64, 14 * BATCH);
    given
}

fn files(disk: &SimDisk) -> Vec<(PathBuf, u64, Layout)> {
    let files = disk.files(Path::new(ROOT)).into_iter();
    let files: Vec<_> = files.map(|(path, length)| (path.clone(), length, layout(disk, &path))).collect();
    assert!(files.len() >= 12, "segments, indexes, state, checkpoints: {files:?}");
    assert!(files.iter().any(|(path, ..)| path.extension().is_some_and(|ending| ending == "tables")));
    files
}

/// Runs `work` for every item, on two threads.
fn each<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    let (one, two) = items.split_at(items.len() / 2);
    std::thread::scope(|scope| {
        scope.spawn(|| one.iter().for_each(&work));
        two.iter().for_each(&work);
    });
}

fn flip_each(clean: bool) {
    let disk = stopped(clean);
    let before = before(&disk);
    let unmarked = if clean { 0 } else { BATCH };
    let mut places = Vec::new();
    for (path, length, layout) in files(&disk) {
        places.extend((0..length).map(|position| (path.clone(), position, layout.clone())));
    }
    each(&places, |(path, position, (partition, batches))| {
        let fork = disk.fork();
        assert!(fork.flip(path, *position, 1 << (position % 8)));
        let seen = look(&fork);
        // In a preamble no batch is hurt.
        let batch = batches.iter().find(|(from, to, ..)| (*from..*to).contains(position));
        let hurt = partition.zip(batch).map(|(partition, batch)| (partition, batch.2, batch.3));
        let what = format!("byte {position} of {} flipped", path.display());
        judge(&what, &before, &seen, hurt, unmarked);
        if let (Some((partition, from, to)), true) = (hurt, clean) {
            // The hole names exactly the offsets of the damaged batch that are still kept.
            let (given, kept) =
                (seen.partitions[partition as usize].as_ref().unwrap(), before[partition as usize].start);
            let lost: Vec<(u64, u64)> = if to > kept { vec![(from.max(kept), to)] } else { Vec::new() };
            assert_eq!(given.lost, lost, "{what}");
        }
    });
}

#[test]
fn every_flipped_byte_is_noticed_after_a_clean_stop() {
    flip_each(true);
}

#[test]
fn every_flipped_byte_is_noticed_after_a_kill_but_for_the_last_unmarked_commit() {
    flip_each(false);
}

fn cut_each(clean: bool) {
    let disk = stopped(clean);
    let before = before(&disk);
    let unmarked = if clean { 0 } else { BATCH };
    let mut places = Vec::new();
    for (path, length, layout) in files(&disk) {
        places.extend((0..length).map(|length| (path.clone(), length, layout.clone())));
    }
    each(&places, |(path, length, (partition, batches))| {
        let fork = disk.fork();
        fork.cut(path, *length);
        let seen = look(&fork);
        let (first, last) = (batches.first().map_or(0, |b| b.2), batches.last().map_or(0, |b| b.3));
        let kept = batches.iter().filter(|(_, end, ..)| end <= length).map(|b| b.3).max();
        let hurt =
            partition.map(|partition| (partition, if *length < 64 { first } else { kept.unwrap_or(first) }, last));
        judge(&format!("{} cut at {length}", path.display()), &before, &seen, hurt, unmarked);
    });
}

#[test]
fn every_cut_is_noticed_after_a_clean_stop() {
    cut_each(true);
}

#[test]
fn every_cut_is_noticed_after_a_kill_but_for_the_last_unmarked_commit() {
    cut_each(false);
}

#[test]
fn every_removed_file_is_noticed_after_a_clean_stop() {
    let disk = stopped(true);
    let before = before(&disk);
    for (path, _, (partition, batches)) in files(&disk) {
        let fork = disk.fork();
        fork.remove_file(&path).unwrap();
        let seen = look(&fork);
        let hurt = partition.map(|n| (n, batches.first().map_or(0, |b| b.2), batches.last().map_or(0, |b| b.3)));
        judge(&format!("{} removed", path.display()), &before, &seen, hurt, 0);
    }
}
