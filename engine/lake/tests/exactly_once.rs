//! Exactly once, whatever happens. A lake over three partitions is killed at each of its durable steps, before and after
//! the step takes effect, then started again on what survived. After each kill a stranger reads the files: no checkpoint is
//! ahead of them. After the restart each offset is there once, as a row or as a rejected record, with its value.

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use common::{Dies, Machine, TIMEOUT, World, eventually, range_of, rows};
use millstream_protocol::frame::control::LakeFormat;
use serde_json::Value;

/// Three partitions with rows, with what is no row, and with nothing but that.
fn world() -> World {
    let world = World::new(3);
    for n in 0..40 {
        world.append(0, &[&format!(r#"{{"n":{n},"a":{}}}"#, n % 3), &format!(r#"{{"n":{n},"late":"x{n}"}}"#)]);
        world.append(1, &[&format!(r#"{{"n":{}.5}}"#, n), "not json", "[1]"]);
    }
    world.append(2, &["17", "null"]);
    world
}

const EXPECTED: [u64; 3] = [80, 120, 2];

/// Each offset that is in a file or an error file, and how often.
fn landed(world: &World, format: LakeFormat) -> BTreeMap<(u32, u64), u32> {
    let mut landed = BTreeMap::new();
    let mut note = |partition: u32, offset: u64| *landed.entry((partition, offset)).or_default() += 1;
    let errors = world.error_lines();
    for line in &errors {
        assert!(line["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
        note(line["partition"].as_u64().expect("a partition") as u32, line["offset"].as_u64().expect("an offset"));
    }
    match format {
        LakeFormat::Parquet => rows(world).iter().for_each(|row| note(row.partition.0, row.offset.0)),
        LakeFormat::Ndjson => {
            // A line's offset is its place in the range, past those that are rejected: what `world` makes is known.
            for file in world.files("ndjson") {
                let (partition, first, last) = range_of(&file);
                let rejected = |offset: &u64| partition == 2 || (partition == 1 && !offset.is_multiple_of(3));
                let text = std::fs::read_to_string(&file).expect("a file");
                let offsets: Vec<u64> = (first..=last).filter(|offset| !rejected(offset)).collect();
                assert_eq!(offsets.len(), text.lines().count(), "{}", file.display());
                offsets.into_iter().for_each(|offset| note(partition, offset));
            }
        }
    }
    landed
}

fn assert_complete(world: &World, format: LakeFormat, what: &str) {
    let landed = landed(world, format);
    for (partition, end) in EXPECTED.iter().enumerate() {
        for offset in 0..*end {
            assert_eq!(
                landed.get(&(partition as u32, offset)),
                Some(&1),
                "{what}: partition {partition}, offset {offset}"
            );
        }
    }
    assert_eq!(landed.len() as u64, EXPECTED.iter().sum::<u64>(), "{what}: nothing else is there");
}

fn bytes_by_name(world: &World, format: LakeFormat) -> BTreeMap<PathBuf, Vec<u8>> {
    let extension = if format == LakeFormat::Parquet { "parquet" } else { "ndjson" };
    let files = world.files(extension).into_iter();
    files.map(|file| (file.clone(), std::fs::read(&file).expect("a file"))).collect()
}

async fn kill_at(step: usize, dies: Dies, format: LakeFormat) -> bool {
    let what = format!("{format:?}, killed {dies:?} step {step}");
    let mut world = world();
    let machine = Machine::dying(step, dies);
    let sink = world.start(world.config(format), &machine, &[]);
    let finished = tokio::select! {
        result = sink.flush(TIMEOUT) => result.is_ok(),
        () = eventually("the machine dies", || machine.is_dead()) => false,
    };
    let before_kill = sink.status();
    drop(sink);
    // What a stranger finds after the kill.
    let files = bytes_by_name(&world, format);
    let there = landed(&world, format);
    for partition in &before_kill.partitions {
        for offset in 0..partition.landed_end {
            assert_eq!(there.get(&(partition.partition, offset)), Some(&1), "{what}: the checkpoint is ahead");
        }
    }
    // The next start.
    let machine = Machine::immortal();
    let sink = world.start(world.config(format), &machine, &[]);
    sink.flush(TIMEOUT).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_complete(&world, format, &what);
    let status = sink.status();
    assert_eq!((status.rows, status.rejected, status.error.as_str()), (120, 82, ""), "{what}");
    assert_eq!(status.files as usize, bytes_by_name(&world, format).len(), "{what}");
    for (file, bytes) in files {
        assert_eq!(std::fs::read(&file).expect("it stays"), bytes, "{what}: {} is as it was", file.display());
    }
    sink.stop().await;
    finished
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_step_loses_nothing_and_repeats_nothing() {
    for format in [LakeFormat::Parquet, LakeFormat::Ndjson] {
        for dies in [Dies::Before, Dies::After] {
            let mut step = 0;
            while !kill_at(step, dies, format).await {
                step += 1;
            }
            // 3 first states, the owner, 3 intents, 3 manifest entries, 2 data and 2 error files, 3 checkpoints.
            assert_eq!(step, 17, "each step was tried");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redo_has_the_range_of_the_intent_though_more_has_come() {
    let mut world = world();
    // Three first states and the owner come before the first intent.
    let machine = Machine::dying(4, Dies::After);
    let sink = world.start(world.config(LakeFormat::Parquet), &machine, &[]);
    let _ = sink.flush(Duration::from_millis(10)).await;
    eventually("the machine dies", || machine.is_dead()).await;
    sink.stop().await;
    for partition in 0..3 {
        world.append(partition, &[r#"{"n":1000}"#]);
    }
    let sink = world.start(world.config(LakeFormat::Parquet), &Machine::immortal(), &[]);
    sink.flush(TIMEOUT).await.expect("it lands");
    let ranges: Vec<_> = world.files("parquet").iter().map(|file| range_of(file)).collect();
    let redone =
        ranges.iter().filter(|(partition, first, last)| *first == 0 && last + 1 == EXPECTED[*partition as usize]);
    assert!(redone.count() >= 1 || ranges.contains(&(2, 2, 2)), "{ranges:?}");
    assert_eq!(rows(&world).len(), 123);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lake_goes_on_behind_what_landed_and_holds_retention_there() {
    let mut world = world();
    let machine = Machine::immortal();
    let sink = world.start(world.config(LakeFormat::Parquet), &machine, &[]);
    sink.flush(TIMEOUT).await.expect("it lands");
    assert_eq!(world.disks[1].lock().holds.get("lake/7"), Some(&120));
    sink.stop().await;
    world.append(0, &[r#"{"n":1}"#]);
    let sink = world.start(world.config(LakeFormat::Parquet), &machine, &[]);
    assert_eq!(sink.status().partitions[0].landed_end, 80, "known from the first moment");
    sink.flush(TIMEOUT).await.expect("it lands");
    let ranges: Vec<_> = world.files("parquet").iter().map(|file| range_of(file)).collect();
    // What lies behind the last row of partition 1 is in its error file.
    assert_eq!(ranges, [(0, 0, 79), (0, 80, 80), (1, 0, 117)]);
    sink.remove().await.expect("it is forgotten");
    assert!(world.disks.iter().all(|disk| disk.lock().state.is_empty() && disk.lock().holds.is_empty()));
    assert_eq!(world.files("parquet").len(), 3, "files stay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_one_flush_share_one_schema() {
    let mut world = world();
    let sink = world.start(world.config(LakeFormat::Parquet), &Machine::immortal(), &[]);
    sink.flush(TIMEOUT).await.expect("it lands");
    let columns: Vec<_> = world
        .files("parquet")
        .iter()
        .map(|file| millstream_lake::reader::parquet_summary(file).expect("a footer").columns)
        .collect();
    assert_eq!(columns.len(), 2);
    assert_eq!(columns[0], columns[1]);
    assert!(columns[0].contains(&"late".to_owned()) && columns[0].contains(&"_offset".to_owned()));
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_roll_by_age_and_by_size_without_being_asked() {
    let mut world = World::new(2);
    let mut config = world.config(LakeFormat::Ndjson);
    (config.roll_age_ms, config.max_age_ms) = (100, 100);
    config.roll_bytes = 1 << 20;
    let sources = world.sources(&Machine::immortal());
    let pad = "x".repeat(10_000);
    let sink = millstream_lake::Sink::start(
        common::LAKE,
        config,
        "rides",
        common::as_sources(sources.clone()),
        world.settings(),
    )
    .expect("a legal lake");
    sources[0].append(&[millstream_protocol::Record::new(r#"{"n":1}"#)]);
    eventually("the first file rolls by age", || world.files("ndjson").len() == 1).await;
    for _ in 0..30 {
        let records = vec![millstream_protocol::Record::new(format!(r#"{{"pad":"{pad}"}}"#)); 10];
        sources[1].append(&records);
    }
    eventually("all has landed", || sink.status().partitions.iter().all(|p| p.landed_end == p.high_watermark)).await;
    let sizes: Vec<u64> = world.files("ndjson").iter().map(|file| file.metadata().expect("a file").len()).collect();
    assert!(sizes.len() >= 4 && sizes.iter().all(|size| *size < (1 << 20) + 200_000), "{sizes:?}");
    assert_eq!(sink.status().oldest_waiting_ms, 0);
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gaps_are_written_down_and_do_not_stop_the_lake() {
    let mut world = world();
    let machine = Machine::immortal();
    let sink = world.start(world.config(LakeFormat::Parquet), &machine, &[]);
    sink.flush(TIMEOUT).await.expect("it lands");
    sink.stop().await;
    for n in 0..10 {
        world.append(0, &[&format!(r#"{{"n":{n}}}"#), r#"{"n":null}"#]);
    }
    // Retention was let past the lake, and later records were damaged.
    world.disks[0].lock().log_start = 85;
    world.disks[0].lock().damaged = Some(90..94);
    let sink = world.start(world.config(LakeFormat::Parquet), &machine, &[]);
    sink.flush(TIMEOUT).await.expect("it lands");
    let gaps: Vec<(u64, u64)> = world
        .error_lines()
        .iter()
        .filter(|line| line.get("value_base64").is_none() && line["partition"] == 0)
        .map(|line| (line["offset"].as_u64().expect("first"), line["last_offset"].as_u64().expect("last")))
        .collect();
    assert_eq!(gaps, [(80, 84), (90, 93)]);
    assert_eq!((sink.lost(), sink.status().rows), (9, 120 + 11));
    assert_eq!(rows(&world).iter().filter(|row| row.offset.0 >= 80 && row.partition.0 == 0).count(), 11);
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_lake_begins_at_the_log_start_without_a_gap() {
    let mut world = world();
    // In the middle of a batch.
    world.disks[0].lock().log_start = 71;
    let sink = world.start(world.config(LakeFormat::Parquet), &Machine::immortal(), &[]);
    sink.flush(TIMEOUT).await.expect("it lands");
    assert_eq!(sink.lost(), 0);
    assert_eq!(rows(&world).iter().filter(|row| row.partition.0 == 0).count(), 9);
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_lost_what_has_landed_stops_the_lake() {
    let mut world = world();
    let sink = world.start(world.config(LakeFormat::Parquet), &Machine::immortal(), &[]);
    sink.flush(TIMEOUT).await.expect("it lands");
    sink.stop().await;
    let state = world.disks[0].lock().state.clone();
    world.disks[0] = Default::default();
    world.disks[0].lock().state = state;
    let sink = world.start(world.config(LakeFormat::Parquet), &Machine::immortal(), &[]);
    let error = sink.flush(TIMEOUT).await.expect_err("it has stopped");
    assert_eq!(error.code(), millstream_protocol::Code::LogTruncated);
    assert!(sink.status().error.contains("partition 0 ends at 0"), "{}", sink.status().error);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_records_keep_their_bytes() {
    let mut world = World::new(1);
    world.append(0, &["{\"a\":1", "", r#"{"a":1} "#, "{\"s\":\"\\ud800\"}"]);
    let sink = world.start(world.config(LakeFormat::Parquet), &Machine::immortal(), &[]);
    sink.flush(TIMEOUT).await.expect("it lands");
    let lines = world.error_lines();
    let shown: Vec<(u64, &str)> = lines
        .iter()
        .map(|line| (line["offset"].as_u64().expect("offset"), line["value_base64"].as_str().expect("value")))
        .collect();
    assert_eq!(shown, [(0, "eyJhIjox"), (1, ""), (3, "eyJzIjoiXHVkODAwIn0=")]);
    assert_eq!(lines[0]["stream"], "rides");
    assert_eq!(lines[0]["key_base64"], "azA=");
    assert_eq!(lines[0]["timestamp"], Value::from(1_700_000_000_123_i64));
    assert!(lines[0]["reason"].as_str().expect("a reason").contains("not JSON"));
    sink.stop().await;
}

/// A batch of three records whose checksums hold and whose second record is malformed.
fn malformed_batch() -> Vec<u8> {
    use millstream_protocol::batch::{BatchBuilder, Codec, HEADER_BYTES};
    let mut builder = BatchBuilder::new(Codec::None);
    for _ in 0..3 {
        builder.push(&millstream_protocol::Record::new(r#"{"n":1}"#)).expect("a legal record");
    }
    let mut batch = builder.finish().expect("a batch").to_vec();
    // A record here is its length, then its attributes.
    let record_bytes = (batch.len() - HEADER_BYTES) / 3;
    batch[HEADER_BYTES + record_bytes + 1] = 0xff;
    batch[92..96].fill(0);
    let mut crc = u32::MAX;
    for byte in &batch[40..] {
        crc = (0..8)
            .fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 });
    }
    batch[92..96].copy_from_slice(&(!crc).to_le_bytes());
    batch
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_of_a_batch_does_not_decode_goes_to_the_errors_with_the_batch() {
    let mut world = World::new(1);
    let batch = malformed_batch();
    common::append_batch(&world.disks[0], common::incarnation(millstream_protocol::PartitionId(0)), batch, 3);
    world.append(0, &[r#"{"n":2}"#]);
    let sink = world.start(world.config(LakeFormat::Parquet), &Machine::immortal(), &[]);
    sink.flush(TIMEOUT).await.expect("it lands");
    assert_eq!(rows(&world).iter().map(|row| row.offset.0).collect::<Vec<_>>(), [0, 3]);
    assert_eq!((sink.status().rows, sink.status().rejected), (2, 2));
    let lines = world.error_lines();
    assert_eq!((&lines[0]["offset"], &lines[0]["last_offset"]), (&Value::from(1), &Value::from(2)));
    assert!(
        lines[0]["batch_base64"].is_string() && lines[0]["reason"].as_str().is_some_and(|why| why.contains("record 1"))
    );
    sink.stop().await;
}
