//! Idempotent producers, dedup ids and fences on a real log: what is sent again is stored once and gets the first one's
//! offset, whatever happened in between; what is not known for certain is never taken for new.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millstream_log::{
    AppendSink, Appended, CompactionPolicy, Log, LogError, NewBatch, Partition, PartitionConfig, RetentionPolicy,
};
use millstream_protocol::batch::{BatchBuilder, BatchView, Codec};
use millstream_protocol::frame::produce::Duplicate;
use millstream_protocol::limits::{DEDUP_IDS_MAX, PRODUCERS_MAX};
use millstream_protocol::{Code, Offset, ProducerId, Record, Timestamp};
use support::{Answers, Bench, Fault, batch, read_all};

const P: u64 = 41;
const SMALL: PartitionConfig = PartitionConfig {
    durability: millstream_log::Durability::Synced,
    segment_bytes: 1_500,
    retention: RetentionPolicy { age_ms: None, bytes: None },
    compaction: None,
    dedup_window_ms: 10_000,
};
const NAMED: u64 = 1 << 63;

/// Records `{producer}:{sequence}` of a producer's epoch.
fn of_epoch(producer: u64, epoch: u32, base: u64, count: u64) -> NewBatch {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.producer(ProducerId(producer), epoch, base);
    for n in base..base + count {
        builder.push(&Record::new(format!("{producer}:{n}")).key(format!("key {}", n % 7))).unwrap();
    }
    BatchView::parse(&builder.finish().unwrap()).unwrap().into()
}

fn of(producer: u64, base: u64, count: u64) -> NewBatch {
    of_epoch(producer, 0, base, count)
}

/// Records with dedup ids (`None`: without), of a producer if its id is not 0.
fn with_ids(producer: u64, base: u64, ids: &[Option<u64>]) -> NewBatch {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.producer(ProducerId(producer), 0, base);
    for (index, id) in ids.iter().enumerate() {
        let record = Record::new(format!("value {index}")).key("same");
        let record = match id {
            Some(id) => record.header("ms-dedup-id", format!("id {id}")),
            None => record,
        };
        builder.push(&record).unwrap();
    }
    NewBatch::with_dedup_ids(BatchView::parse(&builder.finish().unwrap()).unwrap()).unwrap()
}

fn offset(result: Result<Appended, LogError>) -> u64 {
    result.unwrap().base_offset.0
}

/// Index and offset of each duplicate.
fn duplicates(result: Result<Appended, LogError>) -> Vec<(u32, u64)> {
    match result {
        Err(LogError::Duplicates(found)) => {
            found.iter().map(|Duplicate { index, offset, .. }| (*index, offset.0)).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn values(partition: &Partition) -> Vec<String> {
    let (records, lost) = read_all(partition, partition.log_start(), 1 << 20);
    assert!(lost.is_empty());
    records.into_iter().map(|(_, value)| String::from_utf8(value.to_vec()).unwrap()).collect()
}

fn expect_sequences(partition: &Partition, producer: u64, sequences: std::ops::Range<u64>) {
    let expected: Vec<String> = sequences.map(|n| format!("{producer}:{n}")).collect();
    assert_eq!(values(partition), expected);
}

/// Hands all batches to the lane, which carries them out as one pass.
fn in_one_pass(log: &Log, partition: &Arc<Partition>, batches: Vec<NewBatch>) -> Vec<Result<Appended, LogError>> {
    let answers = Arc::new(Answers::default());
    let sink: Arc<dyn AppendSink> = answers.clone();
    let count = batches.len();
    for (token, batch) in batches.into_iter().enumerate() {
        partition.append(batch, token as u64, &sink).unwrap();
    }
    log.step();
    let answers = std::mem::take(&mut *answers.0.lock());
    assert!(answers.iter().map(|(token, _)| *token).eq(0..count as u64), "answers keep the order of appends");
    answers.into_iter().map(|(_, result)| result).collect()
}

// Sequences ----------------------------------------------------------------------------------------------------------

#[test]
fn a_batch_sent_again_is_stored_once_and_gets_the_first_ones_offset_and_time() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, PartitionConfig::default());
    partition.append_wait(batch(0, 3)).unwrap();
    let first = partition.append_wait(of(P, 0, 5)).unwrap();
    bench.clock.0.fetch_add(500, Ordering::Relaxed);
    assert_eq!(offset(partition.append_wait(of(P, 5, 2))), 8);
    assert_eq!(partition.append_wait(of(P, 0, 5).resent()).unwrap(), first);
    assert_eq!(offset(partition.append_wait(of(P, 5, 2).resent())), 8);
    assert_eq!(partition.high_watermark(), Offset(10));
    assert_eq!(partition.next_sequence(ProducerId(P)), Some(7));
    assert_eq!(partition.next_sequence(ProducerId(P + 1)), Some(0));
}

#[test]
fn what_does_not_follow_is_refused_with_what_would() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, PartitionConfig::default());
    let unknown = partition.append_wait(of(P, 3, 1)).unwrap_err();
    assert_eq!(unknown.code(), Code::UnknownProducer, "its first batches may have been forgotten");
    partition.append_wait(of(P, 0, 5)).unwrap();
    let error = partition.append_wait(of(P, 6, 1)).unwrap_err();
    assert!(matches!(error, LogError::OutOfOrderSequence { expected: 5, found: 6, .. }), "{error}");
    let error = partition.append_wait(of(P, 3, 4)).unwrap_err();
    assert_eq!(error.code(), Code::UnknownProducer, "a part of it is stored: {error}");
    assert_eq!(offset(partition.append_wait(of(P, 5, 1))), 5);
}

#[test]
fn a_newer_epoch_goes_on_where_the_older_one_stopped_and_shuts_it_out() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, PartitionConfig::default());
    partition.append_wait(of(P, 0, 5)).unwrap();
    assert_eq!(offset(partition.append_wait(of_epoch(P, 1, 0, 5).resent())), 0, "stored under the older epoch");
    partition.append_wait(of_epoch(P, 1, 5, 1)).unwrap();
    for base in [0, 5, 6] {
        assert_eq!(partition.append_wait(of(P, base, 5)).unwrap_err().code(), Code::Fenced);
    }
    partition.append_wait(of_epoch(P, 1, 6, 1)).unwrap();
    expect_sequences(&partition, P, 0..7);
}

#[test]
fn duplicates_in_one_pass_wait_for_the_first_one_and_answers_keep_their_order() {
    let mut bench = Bench::new();
    let log = bench.open_stepped();
    let partition = bench.create(&log, 0, PartitionConfig::default());
    in_one_pass(&log, &partition, vec![of(P, 0, 2)]);
    let batches = vec![
        of(P, 2, 3),
        of(P, 0, 2).resent(),
        of(P + 1, 0, 1),
        of(P, 2, 3).resent(),
        of(P, 5, 1),
        of(P + 1, 0, 1).resent(),
        batch(0, 1).into(),
    ];
    let offsets: Vec<u64> = in_one_pass(&log, &partition, batches).into_iter().map(offset).collect();
    assert_eq!(offsets, [2, 0, 5, 2, 6, 5, 7]);
    assert_eq!(partition.high_watermark(), Offset(8));
}

#[test]
fn behind_a_refusal_nothing_of_the_same_source_is_stored_in_that_pass() {
    let mut bench = Bench::new();
    let log = bench.open_stepped();
    let partition = bench.create(&log, 0, PartitionConfig::default());
    let results = in_one_pass(&log, &partition, vec![of(P, 0, 2), of(P, 3, 2), of(P, 2, 1), of(P + 1, 0, 1)]);
    assert_eq!(offset(results[0].clone()), 0);
    assert!(matches!(results[1], Err(LogError::OutOfOrderSequence { expected: 2, found: 3, .. })));
    assert!(matches!(results[2], Err(LogError::Behind)) && matches!(results[3], Err(LogError::Behind)));
    expect_sequences(&partition, P, 0..2);
}

#[test]
fn a_full_disk_in_a_pipelined_run_stores_nothing_twice_and_nothing_ahead() {
    let mut bench = Bench::new();
    let log = bench.open_stepped();
    let partition = bench.create(&log, 0, PartitionConfig::default());
    in_one_pass(&log, &partition, vec![of(P, 0, 2), with_ids(0, 0, &[Some(1)])]);
    bench.storage.arm(Fault::NoRoom, "/00000-");
    let run = || {
        vec![
            of(P, 2, 2),
            of(P, 0, 2).resent(),
            with_ids(0, 0, &[Some(2)]),
            with_ids(0, 0, &[Some(1)]),
            with_ids(0, 0, &[Some(2)]),
            of(P, 4, 2),
        ]
    };
    let results = in_one_pass(&log, &partition, run());
    assert!(matches!(results[0], Err(LogError::DiskFull)));
    assert_eq!(offset(results[1].clone()), 0, "that one is stored, whatever becomes of the others");
    assert!(matches!(results[2], Err(LogError::DiskFull)));
    assert_eq!(duplicates(results[3].clone()), [(0, 2)]);
    assert!(matches!(results[4], Err(LogError::DiskFull)), "its first one is not stored");
    assert!(matches!(results[5], Err(LogError::DiskFull)));
    assert_eq!((partition.high_watermark(), partition.next_sequence(ProducerId(P))), (Offset(3), Some(2)));
    // A refusal that rested on what was not stored after all is no verdict.
    bench.storage.arm(Fault::NoRoom, "/00000-");
    let results = in_one_pass(&log, &partition, vec![of(P, 2, 2), of(P, 7, 2)]);
    assert!(matches!(results[0], Err(LogError::DiskFull)) && matches!(results[1], Err(LogError::Behind)));

    let results = in_one_pass(&log, &partition, run());
    assert_eq!((offset(results[0].clone()), offset(results[1].clone())), (3, 0));
    assert_eq!((offset(results[2].clone()), duplicates(results[4].clone())), (5, vec![(0, 5)]));
    assert_eq!(offset(results[5].clone()), 6);
    assert_eq!(partition.high_watermark(), Offset(8));
}

#[test]
fn after_a_restart_clean_or_not_what_is_sent_again_is_known() {
    for is_killed in [false, true] {
        for config in [PartitionConfig::default(), SMALL] {
            let mut bench = Bench::new();
            let log = bench.open();
            let partition = bench.create(&log, 0, config);
            let offsets: Vec<u64> = (0..40).map(|n| offset(partition.append_wait(of(P, 3 * n, 3)))).collect();
            drop(partition);
            if is_killed {
                bench.kill(log)
            } else {
                drop(log)
            }
            let log = bench.open();
            let partition = bench.reopen(&log, 0, config);
            assert!(partition.recovered().is_clean());
            assert_eq!(partition.next_sequence(ProducerId(P)), Some(120));
            for (n, first) in (0..40).zip(offsets) {
                assert_eq!(offset(partition.append_wait(of(P, 3 * n, 3).resent())), first);
            }
            assert_eq!(offset(partition.append_wait(of(P, 120, 1))), 120);
            expect_sequences(&partition, P, 0..121);
        }
    }
}

#[test]
fn more_batches_than_one_producer_is_remembered_by_are_not_taken_for_new() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, SMALL);
    for n in 0..300 {
        partition.append_wait(of(P, n, 1)).unwrap();
    }
    let check = |partition: &Arc<Partition>| {
        assert_eq!(partition.append_wait(of(P, 43, 1).resent()).unwrap_err().code(), Code::UnknownProducer);
        assert_eq!(offset(partition.append_wait(of(P, 44, 1).resent())), 44);
    };
    check(&partition);
    drop(partition);
    bench.kill(log);
    let log = bench.open();
    check(&bench.reopen(&log, 0, SMALL));
}

#[test]
fn a_forgotten_producer_that_sends_again_is_told_that_nobody_knows() {
    let mut bench = Bench::new();
    let log = bench.open_stepped();
    let partition = bench.create(&log, 0, PartitionConfig::default());
    let last = PRODUCERS_MAX as u64 + 1;
    let all = (1..=last).map(|id| of(id, 0, 1)).collect();
    assert!(in_one_pass(&log, &partition, all).iter().all(Result::is_ok));
    drop(partition);
    drop(log);
    let log = bench.open();
    let partition = bench.reopen(&log, 0, PartitionConfig::default());
    assert_eq!(partition.next_sequence(ProducerId(1)), None, "it was idle longest");
    assert_eq!(partition.append_wait(of(1, 0, 1).resent()).unwrap_err().code(), Code::UnknownProducer);
    assert_eq!(partition.append_wait(of(1, 1, 1)).unwrap_err().code(), Code::UnknownProducer);
    assert_eq!(offset(partition.append_wait(of(2, 0, 1).resent())), 1);
    assert_eq!(offset(partition.append_wait(of(last + 1, 0, 1).resent())), last, "it cannot have been here");
}

// What cuts the log --------------------------------------------------------------------------------------------------

/// Producers that write 60 batches into small segments; those below offset 40 are then deleted.
fn cut(bench: &mut Bench) -> (Log, Arc<Partition>) {
    let log = bench.open();
    let partition = bench.create(&log, 0, SMALL);
    for n in 0..20 {
        partition.append_wait(of(P + 1, n, 1)).unwrap();
    }
    for n in 0..40 {
        partition.append_wait(of(P, n, 1)).unwrap();
    }
    partition.delete_before(Offset(40)).unwrap();
    assert!(bench.segments(0)[0].to_string_lossy().contains("00000000000000000"), "segments are named by offset");
    (log, partition)
}

fn expect_known(partition: &Arc<Partition>) {
    assert_eq!(offset(partition.append_wait(of(P + 1, 3, 1).resent())), 3, "deleted, and known all the same");
    assert_eq!(offset(partition.append_wait(of(P, 39, 1).resent())), 59);
    assert_eq!(partition.append_wait(of(P + 1, 22, 1)).unwrap_err().code(), Code::OutOfOrderSequence);
    assert_eq!(offset(partition.append_wait(of(P + 9, 0, 1).resent())), partition.high_watermark().0 - 1);
}

#[test]
fn what_retention_has_deleted_is_known_over_restarts() {
    let mut bench = Bench::new();
    let (log, partition) = cut(&mut bench);
    assert_eq!(bench.files(0, "tables").len(), 1);
    drop(partition);
    bench.kill(log);
    let log = bench.open();
    let partition = bench.reopen(&log, 0, SMALL);
    assert!(partition.recovered().is_clean());
    expect_known(&partition);
    // Two checkpoints are kept, however often the log is cut.
    for n in 40..100 {
        partition.append_wait(of(P, n, 1)).unwrap();
        partition.delete_before(partition.high_watermark()).unwrap();
    }
    assert_eq!(bench.files(0, "tables").len(), 2);
    partition.close();
    drop((partition, log));
    let log = bench.open();
    let partition = bench.reopen(&log, 0, SMALL);
    assert_eq!(offset(partition.append_wait(of(P + 1, 3, 1).resent())), 3);
    assert_eq!(partition.next_sequence(ProducerId(P)), Some(100));
}

#[test]
fn without_any_checkpoint_that_is_whole_nothing_is_taken_for_new() {
    for damage in ["flipped", "removed"] {
        let mut bench = Bench::new();
        let (log, partition) = cut(&mut bench);
        drop(partition);
        bench.kill(log);
        for file in bench.files(0, "tables") {
            match damage {
                "flipped" => flip(&file, 30),
                _ => std::fs::remove_file(file).unwrap(),
            }
        }
        let log = bench.open();
        let partition = bench.reopen(&log, 0, SMALL);
        assert_eq!(partition.recovered().files_quarantined, usize::from(damage == "flipped"));
        assert_eq!(values(&partition).len(), 20, "no record is lost by it");
        assert_eq!(offset(partition.append_wait(of(P, 39, 1).resent())), 59, "what the log still says is known");
        assert_eq!(partition.append_wait(of(P + 1, 3, 1).resent()).unwrap_err().code(), Code::UnknownProducer);
        let resent = partition.append_wait(of(P + 5, 0, 1).resent()).unwrap_err();
        assert_eq!(resent.code(), Code::UnknownProducer, "it may have been stored");
        partition.append_wait(of(P + 5, 0, 1)).unwrap();
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_log_that_was_cut_before_any_producer_came_has_forgotten_nobody() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, SMALL);
    for n in 0..40 {
        partition.append_wait(batch(n, 1)).unwrap();
    }
    partition.delete_before(Offset(40)).unwrap();
    assert!(bench.files(0, "tables").is_empty(), "without producers there is nothing to be kept");
    drop((partition, log));
    let log = bench.open();
    let partition = bench.reopen(&log, 0, SMALL);
    assert_eq!(offset(partition.append_wait(of(P, 0, 1).resent())), 40);
}

#[test]
fn a_checkpoint_ahead_of_the_log_is_set_aside() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, SMALL);
    for n in 0..40 {
        partition.append_wait(of(P, n, 1)).unwrap();
    }
    partition.delete_before(Offset(1)).unwrap();
    partition.delete_before(Offset(30)).unwrap();
    let (tables, segments) = (bench.files(0, "tables"), bench.segments(0));
    assert_eq!(tables.len(), 1);
    drop(partition);
    bench.kill(log);
    // As after a loss that nothing marks: the end of the log and its index are gone, and so are the marks.
    let dir = bench.dir.path().to_owned();
    let last = bench.segments(0).pop().unwrap();
    assert_eq!(bench.segments(0).len(), segments.len());
    let length = std::fs::metadata(&last).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&last).unwrap().set_len(length - 10).unwrap();
    let _ = std::fs::remove_file(last.with_extension("index"));
    for entry in std::fs::read_dir(dir.join("journal")).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let log = bench.open();
    let partition = bench.reopen(&log, 0, SMALL);
    assert_eq!(partition.high_watermark(), Offset(39));
    assert!(bench.files(0, "tables").is_empty() && partition.recovered().files_quarantined == 1);
    assert_eq!(partition.next_sequence(ProducerId(P)), Some(39), "what is lost is not remembered");
    assert_eq!(offset(partition.append_wait(of(P, 39, 1).resent())), 39);
}

#[test]
fn what_a_written_partition_has_is_synced_before_a_checkpoint_says_that_it_is_there() {
    let mut bench = Bench::new();
    // Without threads nobody else syncs.
    let log = bench.open_stepped();
    let config = PartitionConfig { durability: millstream_log::Durability::Written, ..SMALL };
    let partition = bench.create(&log, 0, config);
    for n in 0..40 {
        partition.append_wait(of(P, n, 1)).unwrap();
    }
    let active = bench.segments(0).pop().unwrap();
    bench.storage.syncs.lock().clear();
    partition.delete_before(Offset(30)).unwrap();
    let syncs = bench.storage.syncs.lock().clone();
    let segment = syncs.iter().position(|path| *path == active).expect("the end of the log is synced");
    let tables =
        syncs.iter().position(|path| path.ends_with("00000000000000000040.tmp")).expect("so is the checkpoint");
    assert!(segment < tables, "{syncs:?}");
    // If that sync fails nothing says that they are there.
    for n in 40..60 {
        partition.append_wait(of(P, n, 1)).unwrap();
    }
    let active = bench.segments(0).pop().unwrap();
    bench.storage.arm(Fault::Sync, active.file_name().unwrap().to_str().unwrap());
    assert!(partition.delete_before(partition.high_watermark()).is_err());
    assert!(partition.is_read_only());
    assert_eq!(bench.files(0, "tables").len(), 1);
}

#[test]
fn a_disk_without_room_for_the_checkpoint_keeps_the_segments() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, SMALL);
    for n in 0..40 {
        partition.append_wait(of(P, n, 1)).unwrap();
    }
    let segments = bench.segments(0).len();
    bench.storage.arm(Fault::NoRoom, "0000000040.tmp");
    assert!(partition.delete_before(Offset(40)).is_err());
    assert_eq!(bench.segments(0).len(), segments);
    assert!(bench.files(0, "tables").is_empty());
    partition.delete_before(Offset(40)).unwrap();
    assert!(bench.segments(0).len() < segments);
    assert_eq!(bench.files(0, "tables").len(), 1);
    assert!(bench.files(0, "tmp").is_empty(), "what was not finished is removed");
}

#[test]
fn what_compaction_has_removed_is_known_over_restarts() {
    let compaction = Some(CompactionPolicy { delete_retention_ms: 0, min_lag_ms: 0, ..CompactionPolicy::default() });
    let config = PartitionConfig { compaction, ..SMALL };
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, config);
    for n in 0..60 {
        partition.append_wait(of(P, 2 * n, 2)).unwrap();
        partition.append_wait(with_ids(0, 0, &[Some(n)])).unwrap();
    }
    assert!(partition.run_compaction().unwrap().records_removed > 50);
    let check = |partition: &Arc<Partition>| {
        for n in 0..60 {
            assert_eq!(offset(partition.append_wait(of(P, 2 * n, 2).resent())), 3 * n);
            assert_eq!(duplicates(partition.append_wait(with_ids(0, 0, &[Some(n)]))), [(0, 3 * n + 2)]);
        }
        assert_eq!(partition.next_sequence(ProducerId(P)), Some(120));
    };
    check(&partition);
    drop(partition);
    bench.kill(log);
    // By its indexes first, then from the segments themselves.
    for _ in 0..2 {
        let log = bench.open();
        let partition = bench.reopen(&log, 0, config);
        check(&partition);
        drop((partition, log));
        bench.files(0, "index").iter().for_each(|file| std::fs::remove_file(file).unwrap());
    }
}

// Fences -------------------------------------------------------------------------------------------------------------

#[test]
fn once_a_fence_is_up_nothing_of_an_older_epoch_is_stored_any_more() {
    let mut bench = Bench::new();
    let log = bench.open();
    // On both lanes.
    let partitions: Vec<Arc<Partition>> = (0..2).map(|n| bench.create(&log, n, PartitionConfig::default())).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for partition in &partitions {
            scope.spawn(|| {
                let mut next = 0;
                while !stop.load(Ordering::Relaxed) {
                    match partition.append_wait(of(P, next, 1)) {
                        Ok(_) => next += 1,
                        Err(error) => {
                            assert_eq!(error.code(), Code::Fenced);
                            return;
                        }
                    }
                }
            });
        }
        while partitions.iter().any(|partition| partition.high_watermark() < Offset(20)) {
            std::thread::yield_now();
        }
        log.fence_producer(ProducerId(P), 1).unwrap();
        let ends: Vec<Offset> = partitions.iter().map(|partition| partition.high_watermark()).collect();
        for (partition, end) in partitions.iter().zip(ends) {
            let next = partition.next_sequence(ProducerId(P)).unwrap();
            assert_eq!(next, end.0);
            assert_eq!(partition.append_wait(of(P, next, 1)).unwrap_err().code(), Code::Fenced);
            assert_eq!(offset(partition.append_wait(of_epoch(P, 1, next, 1))), end.0);
            assert_eq!(partition.high_watermark(), end.next(), "nothing was stored in between");
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_named_producer_is_shut_out_by_the_next_of_its_name() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, PartitionConfig::default());
    let (old, new) = (NAMED | 5, NAMED | 6);
    assert_eq!(partition.append_wait(of(old, 0, 1)).unwrap_err().code(), Code::Fenced, "nobody knows it");
    log.set_named_producers([ProducerId(old)]);
    partition.append_wait(of(old, 0, 1)).unwrap();
    log.name_producer(ProducerId(new), Some(ProducerId(old))).unwrap();
    assert_eq!(partition.append_wait(of(old, 1, 1)).unwrap_err().code(), Code::Fenced);
    assert_eq!(partition.append_wait(of(old, 0, 1).resent()).unwrap_err().code(), Code::Fenced);
    partition.append_wait(of(new, 0, 1)).unwrap();
    log.fence_producer(ProducerId(new), u32::MAX).unwrap();
    assert_eq!(partition.append_wait(of_epoch(new, u32::MAX, 1, 1)).unwrap_err().code(), Code::Fenced);
}

// Dedup ids ----------------------------------------------------------------------------------------------------------

#[test]
fn records_with_known_ids_are_named_and_the_rest_is_sent_under_the_same_sequence() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, PartitionConfig::default());
    assert_eq!(offset(partition.append_wait(with_ids(P, 0, &[Some(1), None, Some(2)]))), 0);
    // All are known: acknowledged, and the next batch fits behind it although nothing is stored.
    let all = partition.append_wait(with_ids(P + 1, 0, &[Some(2), Some(1)]));
    assert_eq!(all.as_ref().unwrap_err().code(), Code::Duplicates);
    assert_eq!(duplicates(all), [(0, 2), (1, 0)]);
    assert_eq!(partition.next_sequence(ProducerId(P + 1)), Some(0));
    assert_eq!(offset(partition.append_wait(of(P + 1, 2, 3))), 3);
    // The same again, and behind what is stored.
    assert_eq!(duplicates(partition.append_wait(with_ids(P + 1, 0, &[Some(2), Some(1)]).resent())), [(0, 2), (1, 0)]);
    assert_eq!(offset(partition.append_wait(of(P + 1, 5, 1))), 6);
    // Some are known: refused with their places, the sequence unused.
    assert_eq!(duplicates(partition.append_wait(with_ids(P, 3, &[Some(3), Some(1), None]))), [(1, 0)]);
    assert_eq!(offset(partition.append_wait(with_ids(P, 3, &[Some(3), None]))), 7);
    // Without a producer it goes by the ids alone.
    assert_eq!(duplicates(partition.append_wait(with_ids(0, 0, &[Some(3)]))), [(0, 7)]);
    assert_eq!(partition.high_watermark(), Offset(9));
}

#[test]
fn an_id_twice_in_a_batch_is_refused_unless_the_first_is_known() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, PartitionConfig::default());
    let error = partition.append_wait(with_ids(0, 0, &[Some(1), Some(2), Some(1)])).unwrap_err();
    assert!(matches!(error, LogError::TwinDedupId { index: 2 }), "{error}");
    assert_eq!(error.code(), Code::IllegalRecord);
    partition.append_wait(with_ids(0, 0, &[Some(1)])).unwrap();
    assert_eq!(duplicates(partition.append_wait(with_ids(0, 0, &[Some(1), Some(2), Some(1)]))), [(0, 0), (2, 0)]);
}

#[test]
fn ids_in_one_pass_are_known_to_the_batches_behind_them() {
    let mut bench = Bench::new();
    let log = bench.open_stepped();
    let partition = bench.create(&log, 0, PartitionConfig::default());
    let batches = vec![
        with_ids(P, 0, &[Some(1), Some(2)]),
        with_ids(P, 2, &[Some(2)]),
        of(P, 3, 1),
        with_ids(P, 4, &[Some(5), Some(1)]),
        of(P, 4, 1),
    ];
    let results = in_one_pass(&log, &partition, batches);
    assert_eq!(offset(results[0].clone()), 0);
    assert_eq!(duplicates(results[1].clone()), [(0, 1)]);
    assert_eq!(offset(results[2].clone()), 2, "it follows what was passed over");
    assert_eq!(duplicates(results[3].clone()), [(1, 0)]);
    assert!(matches!(results[4], Err(LogError::Behind)));
    assert_eq!(partition.next_sequence(ProducerId(P)), Some(4));
}

#[test]
fn what_was_passed_over_is_forgotten_by_a_restart_and_then_noticed() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, PartitionConfig::default());
    partition.append_wait(with_ids(P, 0, &[Some(1)])).unwrap();
    duplicates(partition.append_wait(with_ids(P, 1, &[Some(1)])));
    drop((partition, log));
    let log = bench.open();
    let partition = bench.reopen(&log, 0, PartitionConfig::default());
    let error = partition.append_wait(of(P, 2, 1)).unwrap_err();
    assert!(matches!(error, LogError::OutOfOrderSequence { expected: 1, found: 2, .. }), "{error}");
    partition.append_wait(of_epoch(P, 1, 1, 1)).unwrap();
}

#[test]
fn ids_are_known_for_the_window_from_their_first_append_over_restarts_and_deletions() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, SMALL);
    partition.append_wait(with_ids(0, 0, &[Some(1)])).unwrap();
    bench.clock.0.fetch_add(6_000, Ordering::Relaxed);
    partition.append_wait(with_ids(0, 0, &[Some(2)])).unwrap();
    assert_eq!(duplicates(partition.append_wait(with_ids(0, 0, &[Some(1)]))), [(0, 0)], "it does not begin anew");
    for n in 0..60 {
        partition.append_wait(batch(n, 1)).unwrap();
    }
    let restart = |bench: &mut Bench, partition: Arc<Partition>, log: Log, is_clean: bool| {
        if is_clean {
            partition.close();
        }
        drop(partition);
        if is_clean {
            drop(log)
        } else {
            bench.kill(log)
        }
        let log = bench.open();
        let partition = bench.reopen(&log, 0, SMALL);
        (log, partition)
    };
    let known = |partition: &Arc<Partition>| {
        assert_eq!(duplicates(partition.append_wait(with_ids(0, 0, &[Some(1), Some(2)]))), [(0, 0), (1, 1)]);
    };
    // From the log; from a clean stop's checkpoint; from the one before a deletion.
    let (log, partition) = restart(&mut bench, partition, log, false);
    known(&partition);
    let (log, partition) = restart(&mut bench, partition, log, true);
    assert_eq!(bench.files(0, "tables").len(), 1);
    known(&partition);
    partition.delete_before(partition.high_watermark()).unwrap();
    let (log, partition) = restart(&mut bench, partition, log, false);
    assert!(partition.log_start() > Offset(2));
    known(&partition);
    bench.clock.0.fetch_add(4_000, Ordering::Relaxed);
    assert_eq!(duplicates(partition.append_wait(with_ids(0, 0, &[Some(1), Some(2)]))), [(1, 1)]);
    assert_eq!(offset(partition.append_wait(with_ids(0, 0, &[Some(1)]))), 62, "its window is over: it is new");
    let (_log, partition) = restart(&mut bench, partition, log, false);
    bench.clock.0.fetch_add(6_000, Ordering::Relaxed);
    assert_eq!(duplicates(partition.append_wait(with_ids(0, 0, &[Some(1), Some(2)]))), [(0, 62)]);
}

#[test]
fn a_full_window_refuses_new_ids_and_forgets_none() {
    let mut bench = Bench::new();
    let log = bench.open();
    let config = PartitionConfig { dedup_window_ms: 10_000, ..PartitionConfig::default() };
    let partition = bench.create(&log, 0, config);
    let per_batch = 16_000u64;
    let batches = DEDUP_IDS_MAX as u64 / per_batch;
    let ids = |n: u64, count: u64| (n * per_batch..n * per_batch + count).map(Some).collect::<Vec<_>>();
    for n in 0..batches {
        partition.append_wait(with_ids(0, 0, &ids(n, per_batch))).unwrap();
    }
    let rest = DEDUP_IDS_MAX as u64 - batches * per_batch;
    let error = partition.append_wait(with_ids(0, 0, &ids(batches, rest + 1))).unwrap_err();
    assert_eq!(error.code(), Code::DedupWindowFull);
    assert!(error.code().is_retryable());
    partition.append_wait(with_ids(0, 0, &ids(batches, rest).into_iter().chain([None]).collect::<Vec<_>>())).unwrap();
    assert_eq!(partition.append_wait(with_ids(0, 0, &[Some(u64::MAX)])).unwrap_err().code(), Code::DedupWindowFull);
    assert_eq!(duplicates(partition.append_wait(with_ids(0, 0, &[Some(0)]))), [(0, 0)]);
    partition.append_wait(batch(0, 1)).unwrap();
    bench.clock.0.fetch_add(10_000, Ordering::Relaxed);
    let again = partition.append_wait(with_ids(0, 0, &[Some(0)])).unwrap();
    assert_eq!(again.append_time, Timestamp(11_000));
}
