//! A process that dies at each call on the disk, one after the other, while an idempotent producer and one with dedup ids
//! append, the log is cut, state is written and all is closed. Whatever was sent is then sent again: it must get the offset
//! it has, and everything must be there once and in order.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::path::Path;
use std::sync::Arc;

use millstream_log::{
    Drive, Durability, Environment, Identity, Kind, Log, LogConfig, LogError, NewBatch, Partition, PartitionConfig,
    RetentionPolicy, SystemClock,
};
use millstream_protocol::batch::{BatchBuilder, BatchView, Codec};
use millstream_protocol::{Epoch, Incarnation, Offset, PartitionId, ProducerId, Record, StreamId};
use millstream_sim::{Nature, SimDisk};

const BATCHES: u64 = 24;
const RECORDS: u64 = 2;

fn config(durability: Durability) -> PartitionConfig {
    PartitionConfig {
        durability,
        segment_bytes: 900,
        retention: RetentionPolicy { age_ms: None, bytes: None },
        compaction: None,
        dedup_window_ms: 60 * 60 * 1_000,
    }
}

fn identity(partition: u32) -> Identity {
    let incarnation = Incarnation(0xfeed_0000 + u64::from(partition));
    Identity { stream: StreamId(1), partition: PartitionId(partition), incarnation, kind: Kind::Records }
}

fn open(disk: &SimDisk) -> Result<Log, LogError> {
    let config = LogConfig { lanes: 1, index_interval_bytes: 200, unsynced_bytes: 64 << 10, ..LogConfig::default() };
    let environment =
        Environment { storage: Arc::new(disk.clone()), clock: Arc::new(SystemClock::default()), drive: Drive::Caller };
    Log::open_in(environment, Path::new("/data"), config, 7)
}

/// The n-th batch: of the producer in partition 0, with dedup ids in partition 1. Either way record n lies at offset n.
fn batch(partition: usize, n: u64) -> NewBatch {
    let mut builder = BatchBuilder::new(Codec::None);
    if partition == 0 {
        builder.producer(ProducerId(9), 0, n * RECORDS);
    }
    for at in n * RECORDS..(n + 1) * RECORDS {
        let record = Record::new(format!("record {at}"));
        let record = if partition == 1 { record.header("ms-dedup-id", format!("id {at}")) } else { record };
        builder.push(&record).unwrap();
    }
    NewBatch::with_dedup_ids(BatchView::parse(&builder.finish().unwrap()).unwrap()).unwrap()
}

/// Where a batch lies, by what the log says to it.
fn stored(result: Result<millstream_log::Appended, LogError>) -> Result<u64, LogError> {
    match result {
        Ok(appended) => Ok(appended.base_offset.0),
        Err(LogError::Duplicates(known)) if known.len() as u64 == RECORDS => Ok(known[0].offset.0),
        Err(error) => Err(error),
    }
}

/// Works until it is done or dies; how many batches were tried.
fn work(disk: &SimDisk, durability: Durability) -> u64 {
    let mut tried = 0;
    let mut live = || -> Result<(), LogError> {
        let log = open(disk)?;
        let partitions = (0..2)
            .map(|n| log.create_partition(identity(n), config(durability), Epoch(1)))
            .collect::<Result<Vec<Arc<Partition>>, LogError>>()?;
        for n in 0..BATCHES {
            tried = n + 1;
            for (index, partition) in partitions.iter().enumerate() {
                assert_eq!(stored(partition.append_wait(batch(index, n)))?, n * RECORDS);
            }
            if n % 8 == 7 {
                partitions.iter().try_for_each(|partition| {
                    partition.delete_before(Offset(partition.high_watermark().0 - 3)).map(|_| ())
                })?;
                log.tick(true);
            }
        }
        partitions.iter().for_each(|partition| partition.close());
        log.close();
        Ok(())
    };
    // An error is the death.
    let _ = live();
    tried
}

fn check(disk: &SimDisk, durability: Durability, tried: u64, what: &str) {
    let log = open(disk).unwrap();
    for index in 0..2 {
        let config = config(durability);
        let partition = match log.open_partition(identity(index), config, Epoch(2)) {
            // It died before the partition was durable: nothing was acknowledged.
            Err(LogError::PartitionMissing { .. }) => log.create_partition(identity(index), config, Epoch(2)).unwrap(),
            other => other.unwrap(),
        };
        for n in 0..tried {
            let sent = stored(partition.append_wait(batch(index as usize, n).resent()));
            assert_eq!(
                sent.unwrap_or_else(|error| panic!("{what}: {error}")),
                n * RECORDS,
                "{what}, partition {index}"
            );
        }
        assert_eq!(partition.high_watermark().0, tried * RECORDS, "{what}, partition {index}");
        let mut next = partition.log_start();
        while next < partition.high_watermark() {
            let mut chunk = partition.read(next, 1 << 20).unwrap();
            while !chunk.bytes.is_empty() {
                let view = BatchView::split_stored(&mut chunk.bytes, partition.incarnation()).unwrap();
                let mut records = view.records().unwrap();
                while let Some(record) = records.next_with_offset() {
                    let (offset, record) = record.unwrap();
                    assert_eq!(record.value.unwrap(), format!("record {offset}"), "{what}, partition {index}");
                }
            }
            next = chunk.next;
        }
    }
}

fn die_at_each_call(durability: Durability, end: fn(&SimDisk), step: usize) {
    let whole = SimDisk::new(1, Nature::default());
    assert_eq!(work(&whole, durability), BATCHES);
    let calls = whole.calls();
    assert!(calls > 300, "there are many places to die at: {calls}");
    for call in (1..calls).step_by(step) {
        let disk = SimDisk::new(call, Nature::default());
        disk.die_at(Some(call));
        let tried = work(&disk, durability);
        disk.die_at(None);
        end(&disk);
        check(&disk, durability, tried, &format!("killed at call {call}"));
    }
}

#[test]
fn killed_at_any_call_a_producer_that_sends_again_stores_everything_once() {
    die_at_each_call(Durability::Synced, SimDisk::kill, 1);
    die_at_each_call(Durability::Written, SimDisk::kill, 2);
}

#[test]
fn with_the_power_lost_at_any_call_a_producer_that_sends_again_stores_everything_once() {
    die_at_each_call(Durability::Synced, SimDisk::power_loss, 1);
}
