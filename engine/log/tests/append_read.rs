//! What is appended is read: same bytes, same order, offsets counting records; in every chunk size, over segment ends,
//! from several threads.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod support;

use std::sync::Arc;

use millstream_log::{AppendSink, Appended, Durability, LogError, PartitionConfig};
use millstream_protocol::{Epoch, Offset, Timestamp};
use support::{Bench, batch, expect_records, large, read_all};

const SMALL_SEGMENTS: PartitionConfig = PartitionConfig {
    durability: Durability::Synced,
    segment_bytes: 8 << 10,
    retention: millstream_log::RetentionPolicy { age_ms: None, bytes: None },
    compaction: None,
    dedup_window_ms: 300_000,
};

#[test]
fn records_come_back_in_order_whatever_the_chunk_size_and_over_segment_ends() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, SMALL_SEGMENTS);
    let mut next = 0;
    for count in (1..=40).cycle().take(200) {
        let appended = partition.append_wait(batch(next, count)).unwrap();
        assert_eq!(appended.base_offset, Offset(next));
        next += count;
    }
    assert!(bench.segments(0).len() > 5, "it rolled");
    assert_eq!(partition.high_watermark(), Offset(next));
    for bytes_max in [1, 100, 5_000, 1 << 20] {
        for from in [0, 1, 777, next - 1] {
            let (records, lost) = read_all(&partition, Offset(from), bytes_max);
            expect_records(&records, from..next);
            assert!(lost.is_empty());
        }
    }
    let chunk = partition.read(Offset(next), 1_000).unwrap();
    assert!(chunk.bytes.is_empty());
    let beyond = partition.read(Offset(next + 1), 1_000);
    assert!(matches!(beyond, Err(LogError::OffsetOutOfRange { .. })));
}

#[test]
fn who_waits_at_the_end_reads_what_was_just_appended_from_memory_as_from_the_file() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, SMALL_SEGMENTS);
    partition.append_wait(batch(0, 3)).unwrap();
    assert!(partition.read_recent(Offset(0), 1 << 20).is_none(), "nobody waited");
    let mut next = 3;
    for count in (1..=40).cycle().take(200) {
        let listening = partition.listen();
        partition.append_wait(batch(next, count)).unwrap();
        drop(listening);
        for from in [next, next + count - 1] {
            let (recent, stored) =
                (partition.read_recent(Offset(from), 1 << 20), partition.read(Offset(from), 1 << 20));
            let (recent, stored) = (recent.expect("somebody waited"), stored.unwrap());
            assert_eq!((&recent.bytes, recent.next), (&stored.bytes, stored.next));
            assert_eq!((recent.high_watermark, recent.log_start), (stored.high_watermark, stored.log_start));
        }
        next += count;
    }
    assert!(bench.segments(0).len() > 5, "it rolled");
    assert!(partition.read_recent(Offset(next), 1 << 20).is_none(), "nothing lies at the end");
    assert!(partition.read_recent(Offset(0), 1 << 20).is_none(), "what is old is not kept");

    // What is large is not kept, nor is anything older that would be found in its place.
    partition.append_wait(large(100_000)).unwrap();
    assert!(partition.read_recent(Offset(next), 1 << 20).is_none());
    assert!(partition.read_recent(Offset(next - 1), 1 << 20).is_none());
    partition.append_wait(batch(next + 1, 1)).unwrap();
    assert!(partition.read_recent(Offset(next + 1), 1 << 20).is_some(), "a wait is worth some groups");
    partition.delete_before(Offset(next + 2)).unwrap();
    assert!(partition.read_recent(Offset(next + 1), 1 << 20).is_none(), "it is gone");
    for n in 2..20 {
        partition.append_wait(batch(next + n, 1)).unwrap();
    }
    assert!(partition.read_recent(Offset(next + 19), 1 << 20).is_none(), "nobody has waited for long");
}

#[test]
fn a_batch_larger_than_a_segment_and_than_a_read_is_whole() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, SMALL_SEGMENTS);
    for bytes in [10, 100_000, 3_000_000, 20] {
        partition.append_wait(large(bytes)).unwrap();
    }
    let (records, _) = read_all(&partition, Offset(0), 1_000);
    assert_eq!(records.iter().map(|(_, value)| value.len()).collect::<Vec<_>>(), [10, 100_000, 3_000_000, 20]);
}

#[test]
fn many_threads_append_and_each_finds_its_records_where_it_was_told() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partitions: Vec<_> = (0..3).map(|p| bench.create(&log, p, SMALL_SEGMENTS)).collect();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let partitions = &partitions;
            scope.spawn(move || {
                for n in 0..100u64 {
                    let partition = &partitions[(n % 3) as usize];
                    let id = thread * 1_000 + n;
                    let offset = partition.append_wait(batch(id, 1)).unwrap().base_offset;
                    let mut chunk = partition.read(offset, 1).unwrap();
                    let view =
                        millstream_protocol::batch::BatchView::split_stored(&mut chunk.bytes, partition.incarnation())
                            .unwrap();
                    let record = view.records().unwrap().next().unwrap().unwrap();
                    assert_eq!(record.value.unwrap(), format!("record {id}, padded to some length"));
                }
            });
        }
    });
    assert_eq!(partitions.iter().map(|p| p.high_watermark().0).sum::<u64>(), 400);
}

#[test]
fn an_ack_means_synced_and_written_only_where_asked_by_name() {
    let mut bench = Bench::new();
    let log = bench.open();
    let synced = bench.create(&log, 0, PartitionConfig::default());
    let written =
        bench.create(&log, 1, PartitionConfig { durability: Durability::Written, ..PartitionConfig::default() });
    bench.storage.syncs.lock().clear();
    synced.append_wait(batch(0, 1)).unwrap();
    assert_eq!(bench.storage.syncs.lock().len(), 1, "synced before the ack");
    written.append_wait(batch(0, 1)).unwrap();
    assert_eq!(bench.storage.syncs.lock().len(), 1, "written: acked from the page cache");
    assert_eq!(written.high_watermark(), Offset(1));
}

#[test]
fn append_times_never_go_back_and_find_their_offsets() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, SMALL_SEGMENTS);
    let set = |ms| bench.clock.0.store(ms, std::sync::atomic::Ordering::Relaxed);
    for n in 0..300u64 {
        set(10_000 + 10 * n as i64);
        partition.append_wait(batch(n, 1)).unwrap();
    }
    set(5);
    assert_eq!(partition.append_wait(batch(300, 1)).unwrap().append_time, Timestamp(12_990));
    for (time, offset) in [(0, 0), (10_000, 0), (10_001, 1), (11_995, 200), (12_990, 299), (12_991, 301)] {
        assert_eq!(partition.offset_for_time(Timestamp(time)).unwrap(), Offset(offset), "time {time}");
    }
}

#[test]
fn epochs_rise_over_starts_and_say_where_each_ended() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, SMALL_SEGMENTS);
    partition.append_wait(batch(0, 10)).unwrap();
    drop((partition, log));
    let log = bench.open();
    let partition = bench.reopen(&log, 0, SMALL_SEGMENTS);
    assert_eq!(partition.epoch_end(Epoch(1)), Offset(10), "no later epoch yet: the end");
    partition.append_wait(batch(10, 5)).unwrap();
    assert_eq!(partition.epoch_end(Epoch(1)), Offset(10));
    assert_eq!(partition.epoch_end(Epoch(2)), Offset(15));
    drop((partition, log));
    let log = bench.open();
    let partition = bench.reopen(&log, 0, SMALL_SEGMENTS);
    assert_eq!(partition.epoch_end(Epoch(1)), Offset(10), "rebuilt from the headers");
}

#[test]
fn a_closed_log_refuses_appends_after_answering_all_it_took() {
    struct Count(parking_lot::Mutex<Vec<u64>>);
    impl AppendSink for Count {
        fn complete(&self, results: Vec<(u64, Result<Appended, LogError>)>) {
            self.0.lock().extend(results.into_iter().map(|(token, result)| {
                result.unwrap();
                token
            }));
        }
    }
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, PartitionConfig::default());
    let count = Arc::new(Count(parking_lot::Mutex::new(Vec::new())));
    let sink: Arc<dyn AppendSink> = count.clone();
    for token in 0..500 {
        partition.append(batch(token, 1), token, &sink).unwrap();
    }
    log.close();
    assert_eq!(*count.0.lock(), (0..500).collect::<Vec<_>>(), "each once, in order");
    assert!(matches!(partition.append(batch(0, 1), 0, &sink), Err(LogError::Closed)));
    let (records, _) = read_all(&partition, Offset(0), 1 << 20);
    expect_records(&records, 0..500);
}
