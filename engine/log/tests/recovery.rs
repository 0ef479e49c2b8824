//! A log that was not closed: every torn tail is cut and kept, every damaged byte below what was known durable becomes a
//! hole that names its offsets, and the intact rest stays readable.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use millstream_log::{Durability, LogError, PartitionConfig, verify};
use millstream_protocol::Offset;
use support::{Bench, batch, expect_records, read_all};

const ONE_SEGMENT: PartitionConfig = PartitionConfig {
    durability: Durability::Synced,
    segment_bytes: 1 << 20,
    retention: millstream_log::RetentionPolicy { age_ms: None, bytes: None },
    compaction: None,
    dedup_window_ms: 300_000,
};

/// Five batches of ten records, and then a kill; returns where each ends.
fn five_batches(bench: &mut Bench, config: PartitionConfig) -> Vec<u64> {
    let log = bench.open();
    let partition = bench.create(&log, 0, config);
    let ends = (0..5)
        .map(|n| {
            partition.append_wait(batch(n * 10, 10)).unwrap();
            fs::metadata(bench.segments(0).last().unwrap()).unwrap().len()
        })
        .collect();
    bench.kill(log);
    ends
}

fn quarantined(bench: &Bench) -> Vec<u64> {
    let entries = fs::read_dir(bench.dir.path().join("quarantine")).unwrap();
    entries.map(|entry| entry.unwrap().metadata().unwrap().len()).collect()
}

#[test]
fn torn_tail_is_cut_at_every_length_and_kept_in_quarantine() {
    let mut template = Bench::new();
    let ends = five_batches(&mut template, ONE_SEGMENT);
    let whole = fs::read(&template.segments(0)[0]).unwrap();
    // The last batch torn at any byte; a stride over the rest keeps it quick.
    for length in (ends[3]..ends[4]).step_by(7).chain([ends[3] + 1, ends[4] - 1]) {
        let mut bench = Bench::new();
        five_batches(&mut bench, ONE_SEGMENT);
        let path = bench.segments(0)[0].clone();
        fs::write(&path, &whole[..length as usize]).unwrap();
        let log = bench.open();
        let partition = bench.reopen(&log, 0, ONE_SEGMENT);
        assert_eq!(partition.high_watermark(), Offset(40), "length {length}");
        expect_records(&read_all(&partition, Offset(0), 1 << 20).0, 0..40);
        assert_eq!(fs::metadata(&path).unwrap().len(), ends[3], "cut");
        let kept: u64 = quarantined(&bench).iter().sum();
        assert_eq!(kept, length - ends[3], "not one byte is destroyed");
        // The numbers of what was cut are given out again: it was never acknowledged as far as this disk knows.
        assert_eq!(partition.append_wait(batch(40, 3)).unwrap().base_offset, Offset(40));
    }
}

#[test]
fn a_tail_of_zeros_or_garbage_is_a_torn_tail() {
    for tail in [vec![0u8; 5_000], vec![0xa5; 5_000], b"MSTBMSTBMSTB".repeat(300)] {
        let mut bench = Bench::new();
        let ends = five_batches(&mut bench, ONE_SEGMENT);
        let file = fs::OpenOptions::new().write(true).open(&bench.segments(0)[0]).unwrap();
        file.write_all_at(&tail, ends[4]).unwrap();
        let log = bench.open();
        let partition = bench.reopen(&log, 0, ONE_SEGMENT);
        assert_eq!(partition.high_watermark(), Offset(50));
        assert_eq!(quarantined(&bench), [tail.len() as u64]);
    }
}

#[test]
fn damage_below_what_was_known_durable_is_a_hole_and_both_sides_stay_readable() {
    let mut template = Bench::new();
    let ends = five_batches(&mut template, ONE_SEGMENT);
    // The third batch: the fourth's `synced_end` says that it was durable.
    for position in (ends[1]..ends[2]).step_by(11) {
        let mut bench = Bench::new();
        five_batches(&mut bench, ONE_SEGMENT);
        flip(&bench.segments(0)[0], position);
        let log = bench.open();
        let partition = bench.reopen(&log, 0, ONE_SEGMENT);
        let (records, lost) = read_all(&partition, Offset(0), 1 << 20);
        expect_records(&records, (0..20).chain(30..50));
        assert_eq!(lost, [(20, 30)], "position {position}");
        assert_eq!(partition.recovered().holes, 1);
        assert_eq!(partition.append_wait(batch(50, 1)).unwrap().base_offset, Offset(50));
        assert!(quarantined(&bench).is_empty());
    }
}

#[test]
fn damage_that_comes_while_the_log_is_open_is_named_by_the_read_that_meets_it() {
    let mut bench = Bench::new();
    let log = bench.open();
    let partition = bench.create(&log, 0, ONE_SEGMENT);
    let ends: Vec<u64> = (0..5)
        .map(|n| {
            partition.append_wait(batch(n * 10, 10)).unwrap();
            fs::metadata(&bench.segments(0)[0]).unwrap().len()
        })
        .collect();
    flip(&bench.segments(0)[0], ends[1] + 20);
    let (records, lost) = read_all(&partition, Offset(0), 1 << 20);
    expect_records(&records, (0..20).chain(30..50));
    assert_eq!(lost, [(20, 30)]);
}

#[test]
fn sealed_segments_are_opened_by_their_index_and_read_where_it_is_damaged() {
    let config = PartitionConfig { segment_bytes: 700, ..ONE_SEGMENT };
    let mut bench = Bench::new();
    five_batches(&mut bench, config);
    let segments = bench.segments(0);
    assert!(segments.len() >= 3);
    // One index gone, one damaged; one sealed segment with a flipped byte in its only batch and no index.
    let (first, second) = (&segments[0], &segments[1]);
    fs::remove_file(first.with_extension("index")).unwrap();
    flip(&second.with_extension("index"), 40);
    let log = bench.open();
    let partition = bench.reopen(&log, 0, config);
    expect_records(&read_all(&partition, Offset(0), 1 << 20).0, 0..50);
    assert!(first.with_extension("index").exists(), "made again");
    drop((partition, log));

    flip(second, 64 + 150);
    fs::remove_file(second.with_extension("index")).unwrap();
    let log = bench.open();
    let partition = bench.reopen(&log, 0, config);
    let (records, lost) = read_all(&partition, Offset(0), 1 << 20);
    assert_eq!(lost.len(), 1);
    let (from, resume) = lost[0];
    expect_records(&records, (0..from).chain(resume..50));
    drop((partition, log));
    let mut damage = Vec::new();
    verify(bench.dir.path(), &mut |report| damage.extend(report.damage)).unwrap();
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert_eq!(damage[0].from, Offset(from), "verify names the same offsets");
}

#[test]
fn a_segment_whose_preamble_was_never_written_is_set_aside() {
    let mut bench = Bench::new();
    five_batches(&mut bench, ONE_SEGMENT);
    let dir = bench.segments(0)[0].parent().unwrap().to_owned();
    fs::write(dir.join("00000000000000000050.00000000.log"), b"").unwrap();
    fs::write(dir.join("leftover.tmp"), b"half").unwrap();
    let log = bench.open();
    let partition = bench.reopen(&log, 0, ONE_SEGMENT);
    expect_records(&read_all(&partition, Offset(0), 1 << 20).0, 0..50);
    assert_eq!(partition.recovered().files_quarantined, 2);
    assert_eq!(partition.append_wait(batch(50, 1)).unwrap().base_offset, Offset(50));
}

#[test]
fn a_segment_of_another_partition_is_not_served() {
    let mut bench = Bench::new();
    five_batches(&mut bench, ONE_SEGMENT);
    let log = bench.open();
    bench.create(&log, 1, ONE_SEGMENT);
    drop(log);
    fs::copy(&bench.segments(0)[0], &bench.segments(1)[0]).unwrap();
    let log = bench.open();
    let partition = bench.reopen(&log, 1, ONE_SEGMENT);
    assert_eq!(partition.high_watermark(), Offset(0));
    assert_eq!(partition.recovered().files_quarantined, 1);
}

#[test]
fn a_missing_partition_is_an_error_and_not_an_empty_log() {
    let mut bench = Bench::new();
    five_batches(&mut bench, ONE_SEGMENT);
    fs::remove_dir_all(bench.segments(0)[0].parent().unwrap()).unwrap();
    let log = bench.open();
    let error = log.open_partition(support::identity(0), ONE_SEGMENT, millstream_protocol::Epoch(9)).unwrap_err();
    assert!(matches!(error, LogError::PartitionMissing { .. }), "{error}");
}

fn flip(path: &Path, position: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, position).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], position).unwrap();
}
