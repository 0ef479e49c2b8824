//! A disk that fails: nothing failed is acknowledged or seen, a failed sync is never retried, one partition's failure is
//! not another's, and a full disk is not a failure.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod support;

use std::sync::Arc;

use millstream_log::{AppendSink, Appended, LogError, PartitionConfig};
use millstream_protocol::{Code, Offset};
use support::{Answers, Bench, Fault, batch, expect_records, read_all};

#[test]
fn a_failed_sync_poisons_its_partition_alone_until_a_restart() {
    let mut bench = Bench::new();
    let log = bench.open();
    let sick = bench.create(&log, 0, PartitionConfig::default());
    // Partition 2 shares the lane of partition 0.
    let well = bench.create(&log, 2, PartitionConfig::default());
    sick.append_wait(batch(0, 5)).unwrap();
    bench.storage.arm(Fault::Sync, "/00000-");
    let error = sick.append_wait(batch(5, 5)).unwrap_err();
    assert_eq!(error.code(), Code::DurabilityUnknown);
    assert_eq!(sick.high_watermark(), Offset(5), "nobody sees what may not be on disk");
    // The disk is well again, and a second sync would say OK: it proves nothing.
    assert_eq!(sick.append_wait(batch(5, 5)).unwrap_err().code(), Code::ReadOnly);
    assert!(sick.is_read_only());
    expect_records(&read_all(&sick, Offset(0), 1 << 20).0, 0..5);
    assert_eq!(well.append_wait(batch(0, 5)).unwrap().base_offset, Offset(0));
    drop((sick, well, log));
    let log = bench.open();
    let partition = bench.reopen(&log, 0, PartitionConfig::default());
    // This medium held the bytes after all: they are served again only because a sync has succeeded since.
    expect_records(&read_all(&partition, Offset(0), 1 << 20).0, 0..10);
    partition.append_wait(batch(10, 1)).unwrap();
}

#[test]
fn a_failed_write_poisons_and_what_it_left_is_cut_at_the_restart() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, PartitionConfig::default());
    partition.append_wait(batch(0, 5)).unwrap();
    bench.storage.arm(Fault::Write, "/00000-");
    assert_eq!(partition.append_wait(batch(5, 5)).unwrap_err().code(), Code::DurabilityUnknown);
    drop((partition, log));
    let log = bench.open();
    let partition = bench.reopen(&log, 0, PartitionConfig::default());
    assert_eq!(partition.high_watermark(), Offset(5));
    assert!(partition.recovered().bytes_cut > 0);
}

#[test]
fn a_full_disk_refuses_and_appends_resume_by_themselves_under_the_same_offsets() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, PartitionConfig::default());
    partition.append_wait(batch(0, 5)).unwrap();
    let before = std::fs::metadata(&bench.segments(0)[0]).unwrap().len();
    bench.storage.arm(Fault::NoRoom, "/00000-");
    let error = partition.append_wait(batch(99, 5)).unwrap_err();
    assert_eq!(error.code(), Code::DiskFull);
    assert!(error.code().is_retryable());
    assert_eq!(std::fs::metadata(&bench.segments(0)[0]).unwrap().len(), before, "cut off again");
    assert_eq!(partition.append_wait(batch(5, 5)).unwrap().base_offset, Offset(5));
    expect_records(&read_all(&partition, Offset(0), 1 << 20).0, 0..10);
}

#[test]
fn what_was_refused_for_want_of_room_does_not_come_back_from_the_journal() {
    let mut bench = Bench::new();
    let log = bench.open_stepped();
    // On one lane: two partitions in a pass go through its journal.
    let partitions = [0, 2].map(|n| bench.create(&log, n, PartitionConfig::default()));
    let answers = Arc::new(Answers::default());
    let sink: Arc<dyn AppendSink> = answers.clone();
    let run = |first: u64| {
        partitions.iter().for_each(|partition| partition.append(batch(first, 5), first, &sink).unwrap());
        log.step();
        std::mem::take(&mut *answers.0.lock())
    };
    assert!(run(0).iter().all(|(_, result)| result.is_ok()));
    // The frame is whole but for its end mark; the segments have no room either.
    bench.storage.arm(Fault::NoRoomAtTheEnd, ".journal");
    bench.storage.arm(Fault::NoRoom, "/00000-");
    bench.storage.arm(Fault::NoRoom, "/00002-");
    assert!(run(99).iter().all(|(_, result)| matches!(result, Err(LogError::DiskFull))));
    drop(partitions);
    bench.kill(log);
    let log = bench.open();
    for n in [0, 2] {
        let partition = bench.reopen(&log, n, PartitionConfig::default());
        expect_records(&read_all(&partition, Offset(0), 1 << 20).0, 0..5);
    }
    assert_eq!(log.replayed().torn_bytes, 0);
}

#[test]
fn a_segment_that_cannot_be_begun_for_want_of_room_lets_the_old_one_go_on() {
    let config = PartitionConfig { segment_bytes: 1_000, ..PartitionConfig::default() };
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, config);
    partition.append_wait(batch(0, 20)).unwrap();
    bench.storage.arm(Fault::NoRoom, "00000000000000000020.00000000.log");
    partition.append_wait(batch(20, 20)).unwrap();
    partition.append_wait(batch(40, 20)).unwrap();
    expect_records(&read_all(&partition, Offset(0), 1 << 20).0, 0..60);
    assert_eq!(bench.segments(0).len(), 2);
}

#[test]
fn a_state_that_could_not_be_stored_is_undone_when_the_disk_is_full_and_ends_the_partition_when_it_failed() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, PartitionConfig::default());
    partition.state_put("lake/1", Some(b"one")).unwrap();
    // State is tried once more: another may have given the reserve up meanwhile.
    (0..2).for_each(|_| bench.storage.arm(Fault::NoRoom, "/state/"));
    assert!(matches!(partition.state_put("lake/1", Some(b"two")), Err(LogError::DiskFull)));
    assert_eq!(partition.state_get("lake/1").unwrap().unwrap(), "one");
    partition.state_put("lake/1", Some(b"three")).unwrap();
    bench.storage.arm(Fault::Sync, "/state/");
    assert_eq!(partition.state_put("lake/1", Some(b"four")).unwrap_err().code(), Code::DurabilityUnknown);
    assert!(partition.is_read_only(), "a partition whose state can't be kept takes nothing more");
}

/// A source that pipelines: behind a failure it lets nothing more be stored.
#[derive(Default)]
struct Pipelining(parking_lot::Mutex<Vec<(u64, Result<u64, Code>)>>);

impl AppendSink for Pipelining {
    fn complete(&self, results: Vec<(u64, Result<Appended, LogError>)>) {
        let results = results.into_iter();
        self.0.lock().extend(
            results.map(|(token, result)| (token, result.map(|stored| stored.base_offset.0).map_err(|e| e.code()))),
        );
    }

    fn admits(&self, _: u64) -> bool {
        self.0.lock().iter().all(|(_, result)| result.is_ok())
    }
}

#[test]
fn nothing_pipelined_behind_a_refused_batch_is_stored_ahead_of_it() {
    // Segments of a few batches: a failure then also comes in the middle of a step, where a segment ends.
    let config = PartitionConfig { segment_bytes: 2_000, ..PartitionConfig::default() };
    let mut cut_short = 0;
    for fail_after in 0..6 {
        let mut bench = Bench::new();
        let log = bench.open();
        let partition = bench.create(&log, 0, config);
        let source = Arc::new(Pipelining::default());
        let sink: Arc<dyn AppendSink> = source.clone();
        for token in 0..fail_after {
            partition.append(batch(token * 10, 10), token, &sink).unwrap();
        }
        bench.storage.arm(Fault::NoRoom, "/00000-");
        for token in fail_after..40 {
            partition.append(batch(token * 10, 10), token, &sink).unwrap();
        }
        log.close();
        let results = source.0.lock();
        assert_eq!(results.len(), 40);
        let stored = results.iter().take_while(|(_, result)| result.is_ok()).count() as u64;
        // The fault may have met the beginning of a segment instead: then the old one goes on, and nothing fails.
        cut_short += u64::from(stored < 40);
        assert!(results[stored as usize..].iter().all(|(_, result)| result.is_err()));
        assert!(results.iter().enumerate().all(|(index, (token, _))| index as u64 == *token), "answered in order");
        expect_records(&read_all(&partition, Offset(0), 1 << 20).0, 0..stored * 10);
    }
    assert!(cut_short > 0, "some appends failed");
}
