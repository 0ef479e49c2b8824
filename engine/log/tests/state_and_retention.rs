//! State logs survive, stay small, and prefer the snapshot that is whole; retention deletes what it may and nothing else,
//! durably, while readers hold what goes.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use millstream_log::{Durability, LogConfig, LogError, PartitionConfig, RetentionPolicy};
use millstream_protocol::{Offset, Timestamp};
use support::{Bench, batch, expect_records, read_all};

fn state_files(bench: &Bench, extension: &str) -> Vec<PathBuf> {
    let dir = bench.segments(0)[0].parent().unwrap().join("state");
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}

#[test]
fn state_survives_stays_small_and_falls_back_to_the_older_snapshot() {
    let mut bench = Bench::new();
    bench.config = LogConfig { state_segment_bytes: 16 << 10, snapshot_interval_bytes: 8 << 10, ..bench.config };
    let log = bench.open();
    let partition = bench.create(&log, 0, PartitionConfig::default());
    for n in 0..1_000u32 {
        partition.state_put(&format!("key-{}", n % 7), Some(&n.to_le_bytes())).unwrap();
    }
    partition.state_put("gone", Some(b"x")).unwrap();
    partition.state_put("gone", None).unwrap();
    let expect = |partition: &millstream_log::Partition| {
        for key in 0..7u32 {
            let last = (0..1_000).rev().find(|n| n % 7 == key).unwrap();
            let value = partition.state_get(&format!("key-{key}")).unwrap().unwrap();
            assert_eq!(&value[..], last.to_le_bytes());
        }
        assert_eq!(partition.state_get("gone").unwrap(), None);
    };
    expect(&partition);
    assert_eq!(state_files(&bench, "snapshot").len(), 2, "two are kept");
    let bytes: u64 = state_files(&bench, "log").iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(bytes < 64 << 10, "1,000 events would be 200 KB: {bytes} are left");
    drop((partition, log));

    // Killed: the newest snapshot and the events since.
    let log = bench.open();
    expect(&bench.reopen(&log, 0, PartitionConfig::default()));
    drop(log);
    // The newest snapshot damaged: the one before and more events.
    let newest = state_files(&bench, "snapshot").pop().unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&newest, bytes).unwrap();
    let log = bench.open();
    expect(&bench.reopen(&log, 0, PartitionConfig::default()));
    drop(log);
    // Both gone: its events alone would give a wrong state, so none is given.
    state_files(&bench, "snapshot").iter().for_each(|path| fs::remove_file(path).unwrap());
    let log = bench.open();
    let error = log
        .open_partition(support::identity(0), PartitionConfig::default(), millstream_protocol::Epoch(9))
        .unwrap_err();
    assert!(matches!(error, LogError::StateDamaged { .. }), "{error}");
}

#[test]
fn a_snapshot_that_was_cut_short_is_deleted_at_the_start_and_not_kept_in_quarantine() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, PartitionConfig::default());
    partition.state_put("key", Some(b"value")).unwrap();
    drop((partition, log));
    let dir = bench.segments(0)[0].parent().unwrap().to_owned();
    let (cut, foreign) = (dir.join("state/00000000000000000001.tmp"), dir.join("state/notes.tmp"));
    fs::write(&cut, b"MSTRSN").unwrap();
    let log = bench.open();
    let partition = bench.reopen(&log, 0, PartitionConfig::default());
    assert!(!cut.exists() && partition.recovered().is_clean(), "{:?}", partition.recovered());
    assert_eq!(partition.state_get("key").unwrap().as_deref(), Some(&b"value"[..]));
    drop((partition, log));
    fs::write(&foreign, b"whose?").unwrap();
    let log = bench.open();
    let partition = bench.reopen(&log, 0, PartitionConfig::default());
    assert!(!foreign.exists());
    assert_eq!(partition.recovered().files_quarantined, 1, "what is not ours is kept");
}

const SMALL: PartitionConfig = PartitionConfig {
    durability: Durability::Synced,
    segment_bytes: 4 << 10,
    retention: RetentionPolicy { age_ms: Some(1_000), bytes: None },
    compaction: None,
    dedup_window_ms: 300_000,
};

#[test]
fn age_deletes_whole_segments_the_active_one_included_and_readers_finish() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, SMALL);
    for n in 0..30 {
        partition.append_wait(batch(n * 10, 10)).unwrap();
    }
    let held = partition.read(Offset(0), 1 << 10).unwrap();
    partition.run_retention(None).unwrap();
    assert_eq!(partition.log_start(), Offset(0), "nothing is old yet");
    bench.clock.0.store(3_000, Ordering::Relaxed);
    partition.append_wait(batch(300, 10)).unwrap();
    partition.run_retention(None).unwrap();
    let start = partition.log_start();
    assert!(start > Offset(0) && start <= Offset(300), "{start}");
    assert!(matches!(partition.read(Offset(0), 100), Err(LogError::OffsetOutOfRange { .. })));
    expect_records(&read_all(&partition, start, 1 << 20).0, start.0..310);
    assert!(!held.bytes.is_empty());

    bench.clock.0.store(9_000, Ordering::Relaxed);
    partition.run_retention(None).unwrap();
    assert_eq!(partition.log_start(), Offset(310), "the active one is rolled first");
    assert_eq!(bench.segments(0).len(), 1);
    assert_eq!(partition.append_wait(batch(310, 1)).unwrap().base_offset, Offset(310));
    assert_eq!(partition.offset_for_time(Timestamp(0)).unwrap(), Offset(310));
    drop((partition, log));
    let log = bench.open();
    let partition = bench.reopen(&log, 0, SMALL);
    assert_eq!((partition.log_start(), partition.high_watermark()), (Offset(310), Offset(311)));
}

#[test]
fn a_deleted_segment_that_comes_back_is_not_served() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, SMALL);
    for n in 0..30 {
        partition.append_wait(batch(n * 10, 10)).unwrap();
    }
    let first = bench.segments(0)[0].clone();
    let copy = fs::read(&first).unwrap();
    assert_eq!(partition.delete_before(Offset(155)).unwrap(), Offset(155));
    assert!(!first.exists());
    assert!(matches!(partition.read(Offset(154), 100), Err(LogError::OffsetOutOfRange { .. })));
    expect_records(&read_all(&partition, Offset(155), 1 << 20).0, 155..300);
    assert!(matches!(partition.delete_before(Offset(301)), Err(LogError::OffsetOutOfRange { .. })));
    drop((partition, log));
    // An unlink that was not durable: the log start, which was, wins.
    fs::write(&first, copy).unwrap();
    let log = bench.open();
    let partition = bench.reopen(&log, 0, SMALL);
    assert_eq!(partition.log_start(), Offset(155));
    assert!(matches!(partition.read(Offset(0), 100), Err(LogError::OffsetOutOfRange { .. })));
    partition.run_retention(None).unwrap();
    assert!(!first.exists(), "and is deleted again");
}

#[test]
fn a_hold_keeps_what_its_owner_still_wants() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, SMALL);
    for n in 0..30 {
        partition.append_wait(batch(n * 10, 10)).unwrap();
    }
    partition.set_hold("lake/1", Some(Offset(120)));
    bench.clock.0.store(10_000, Ordering::Relaxed);
    partition.run_retention(None).unwrap();
    assert!(partition.log_start() <= Offset(120), "{}", partition.log_start());
    assert!(partition.log_start() > Offset(0));
    partition.set_hold("lake/1", None);
    partition.run_retention(None).unwrap();
    assert_eq!(partition.log_start(), Offset(300));
}

#[test]
fn what_is_consumed_goes_the_quiet_active_segment_too_and_stays_gone_after_a_crash() {
    let mut bench = Bench::new();
    let kept = PartitionConfig { retention: RetentionPolicy::default(), ..SMALL };
    let log = bench.open();
    let partition = bench.create(&log, 0, kept);
    for n in 0..30 {
        partition.append_wait(batch(n * 10, 10)).unwrap();
    }
    partition.run_retention(None).unwrap();
    partition.run_retention(Some(Offset(0))).unwrap();
    assert_eq!(partition.log_start(), Offset(0), "nobody is past anything");
    partition.run_retention(Some(Offset(150))).unwrap();
    let start = partition.log_start();
    assert!(Offset(0) < start && start <= Offset(150), "{start}");
    expect_records(&read_all(&partition, start, 1 << 20).0, start.0..300);

    let segments = bench.segments(0).len();
    partition.set_hold("lake/1", Some(Offset(299)));
    bench.clock.0.store(60_000, Ordering::Relaxed);
    partition.run_retention(Some(Offset(300))).unwrap();
    assert!(partition.log_start() <= Offset(299), "one record is held");
    assert!(bench.segments(0).len() < segments);
    partition.set_hold("lake/1", None);
    partition.run_retention(Some(Offset(300))).unwrap();
    assert_eq!(partition.log_start(), Offset(300), "the active one is rolled first");
    assert_eq!(bench.segments(0).len(), 1);
    partition.append_wait(batch(300, 1)).unwrap();
    drop((partition, log));
    let log = bench.open();
    let partition = bench.reopen(&log, 0, kept);
    assert_eq!((partition.log_start(), partition.high_watermark()), (Offset(300), Offset(301)));
}
