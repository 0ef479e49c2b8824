//! Lakes with directories: each record where it belongs, once, whatever is killed; few files open; drift between files.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use common::{Dies, LAKE, Machine, TIMEOUT, World, as_sources, eventually, range_of};
use millstream_lake::{Sink, reader};
use millstream_protocol::Code;
use millstream_protocol::frame::control::{LakeColumns, LakeCompression, LakeConfig, LakeFormat};
use serde_json::{Value, json};

fn by_k(world: &World) -> LakeConfig {
    LakeConfig { layout: "k={k}".into(), ..world.config(LakeFormat::Parquet) }
}

/// Records of directories that take turns, some late, some that are no JSON.
fn append_some(world: &World, from: u64, count: u64) {
    for n in from..from + count {
        let k = if n % 7 == 0 { 99 } else { n / 10 };
        world.append(0, &[&format!(r#"{{"n":{n},"k":{k}}}"#)]);
        if n % 5 == 0 {
            world.append(0, &["{broken"]);
        }
    }
}

/// By offset of partition 0: in which directory it lies, `errors` among them. Each once.
fn landed(world: &World) -> BTreeMap<u64, String> {
    let mut landed = BTreeMap::new();
    let mut note = |offset: u64, directory: &str| {
        let before = landed.insert(offset, directory.to_owned());
        assert_eq!(before, None, "offset {offset} is there twice, now in {directory}");
    };
    for (name, path) in world.objects() {
        let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
        if !name.ends_with(".parquet") {
            continue;
        }
        let (_, first, last) = range_of(&path);
        let rows: Vec<_> = reader::read_rows(&path).expect("a Parquet file").map(|row| row.expect("a row")).collect();
        assert_eq!((rows[0].offset.0, rows[rows.len() - 1].offset.0), (first, last), "{name}");
        for row in rows {
            assert_eq!(directory, format!("k={}", row.fields["k"]), "{name}");
            note(row.offset.0, directory);
        }
    }
    for line in world.error_lines() {
        note(line["offset"].as_u64().expect("an offset"), "errors");
    }
    landed
}

fn assert_complete(world: &World, what: &str) {
    let end = world.disks[0].lock().end();
    let landed = landed(world);
    assert_eq!(landed.len() as u64, end, "{what}");
    assert!(landed.keys().copied().eq(0..end), "{what}");
}

async fn audited(sink: &Sink, what: &str) {
    let audit = sink.audit(TIMEOUT).await.expect("audited");
    assert!(audit.complete, "{what}: {:?}", audit.named);
}

/// Two flushes with records between them, killed at a step; then started again.
async fn kill_at(step: usize, dies: Dies) -> bool {
    let what = format!("killed {dies:?} step {step}");
    let mut world = World::new(1);
    append_some(&world, 0, 30);
    let machine = Machine::dying(step, dies);
    let sink = world.start(by_k(&world), &machine, &[]);
    let mut finished = true;
    for round in 0..2 {
        finished &= tokio::select! {
            result = sink.flush(TIMEOUT) => result.is_ok(),
            () = eventually("the machine dies", || machine.is_dead()) => false,
        };
        if !finished {
            break;
        }
        append_some(&world, 30 + round * 10, 10);
    }
    let floor = sink.status().partitions[0].landed_end;
    drop(sink);
    let there = landed(&world);
    assert!((0..floor).all(|offset| there.contains_key(&offset)), "{what}: the checkpoint is ahead");
    append_some(&world, 100, 5);
    let sink = world.start(by_k(&world), &Machine::immortal(), &[]);
    sink.flush(TIMEOUT).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_complete(&world, &what);
    audited(&sink, &what).await;
    sink.stop().await;
    finished
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_step_leaves_each_record_once_in_its_directory() {
    for dies in [Dies::Before, Dies::After] {
        let mut step = 0;
        while !kill_at(step, dies).await {
            step += 1;
        }
        assert!(step > 14, "each step was tried: {step}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounded_number_of_files_is_open_and_nothing_is_lost_for_it() {
    let mut world = World::new(1);
    let config = LakeConfig { open_files: 4, ..by_k(&world) };
    let sources = world.sources(&Machine::immortal());
    let sink = Sink::start(LAKE, config, "rides", as_sources(sources.clone()), world.settings()).expect("a legal lake");
    for n in 0..400_u64 {
        let value = format!(r#"{{"n":{n},"k":{}}}"#, n % 40);
        sources[0].append(&[millstream_protocol::Record::new(value)]);
        if n % 50 == 0 {
            // Files that were not written to for longest make room and land without being asked.
            eventually("it is read", || sink.status().partitions[0].read_end == n + 1).await;
            assert!(sink.status().open_files <= 4, "{}", sink.status().open_files);
        }
    }
    eventually("it is read", || sink.status().partitions[0].read_end == 400).await;
    assert!(sink.status().files > 0, "some had to make room");
    // What has landed above the floor is known: a restart reads from the floor and lands none of it again.
    sink.stop().await;
    let sink = world.start(LakeConfig { open_files: 4, ..by_k(&world) }, &Machine::immortal(), &[]);
    sink.flush(TIMEOUT).await.expect("it lands");
    assert_complete(&world, "after the restart");
    assert_eq!(sink.status().rows, 400);
    audited(&sink, "after the restart").await;
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_share_the_open_files_and_none_goes_short_of_its_part() {
    let mut world = World::new(2);
    let sources = world.sources(&Machine::immortal());
    let append = |partition: usize, n: u64, k: u64| {
        sources[partition].append(&[millstream_protocol::Record::new(format!(r#"{{"n":{n},"k":{k}}}"#))]);
    };
    let config = LakeConfig { open_files: 8, ..by_k(&world) };
    let sink = Sink::start(LAKE, config, "rides", as_sources(sources.clone()), world.settings()).expect("a legal lake");
    // One has as many directories as there may be files, in turn: while the other has none, no file is closed for room.
    (0..160).for_each(|n| append(0, n, n % 8));
    eventually("it is read", || sink.status().partitions[0].read_end == 160).await;
    assert_eq!((sink.status().open_files, sink.status().files), (8, 0));
    // The other has its part at once, and the first gives way when it opens one more.
    (0..160).for_each(|n| append(1, n, n % 4));
    eventually("it is read", || sink.status().partitions[1].read_end == 160).await;
    assert_eq!((sink.status().open_files, sink.status().files), (12, 0));
    append(0, 160, 8);
    eventually("two have landed", || sink.status().files == 2).await;
    eventually("it is read", || sink.status().partitions[0].read_end == 161).await;
    assert_eq!(sink.status().open_files, 11);
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_reads_from_the_floor_and_skips_what_landed_above_it() {
    let mut world = World::new(1);
    let sources = world.sources(&Machine::immortal());
    let append = |k: u64, n: u64| {
        sources[0].append(&[millstream_protocol::Record::new(format!(r#"{{"n":{n},"k":{k}}}"#))]);
    };
    // Directory 1 is full again and again; directory 0 has one record and holds the floor.
    let config = LakeConfig { roll_rows: 1_000, ..by_k(&world) };
    let sink = Sink::start(LAKE, config, "rides", as_sources(sources.clone()), world.settings()).expect("a legal lake");
    append(0, 0);
    (1..=3_500).for_each(|n| append(1, n));
    eventually("three files are full", || sink.status().files == 3).await;
    assert_eq!(sink.status().partitions[0].landed_end, 0, "the floor");
    drop(sink);
    let config = LakeConfig { roll_rows: 1_000, ..by_k(&world) };
    let sink = world.start(config, &Machine::immortal(), &[]);
    assert_eq!(sink.status().files, 3);
    sink.flush(TIMEOUT).await.expect("it lands");
    assert_complete(&world, "after the restart");
    assert_eq!((sink.status().files, sink.status().rows), (5, 3_501));
    audited(&sink, "after the restart").await;
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_file_is_waited_for_and_a_stop_lands_what_was_read() {
    let mut world = World::new(1);
    append_some(&world, 0, 10);
    let config = LakeConfig { roll_age_ms: 100, max_age_ms: 3_600_000, ..by_k(&world) };
    let sink = world.start(config, &Machine::immortal(), &[]);
    eventually("it is read", || sink.status().open_rows == 12).await;
    let waited = sink.flush(Duration::ZERO).await;
    assert!(waited.is_err() || sink.status().files > 0);
    sink.stop().await;
    assert_complete(&world, "after the stop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_with_one_past_meet_before_either_has_put_what_the_other_does_not_know() {
    let mut world = World::new(1);
    append_some(&world, 0, 10);
    let sink = world.start(by_k(&world), &Machine::immortal(), &[]);
    sink.flush(TIMEOUT).await.expect("it lands");
    sink.stop().await;
    // A copy of the data directory; then the two go different ways.
    let copy = std::sync::Arc::new(parking_lot::Mutex::new(world.disks[0].lock().copy()));
    append_some(&world, 10, 10);
    let first = world.start(by_k(&world), &Machine::immortal(), &[]);
    first.flush(TIMEOUT).await.expect("it lands");
    let before = world.objects();
    let own = std::mem::replace(&mut world.disks[0], copy);
    append_some(&world, 50, 20);
    let second = world.start(by_k(&world), &Machine::immortal(), &[]);
    let error = second.flush(TIMEOUT).await.expect_err("it is fenced");
    assert_eq!(error.code(), Code::IllegalLake);
    let text = error.to_string();
    assert!(text.contains("fenced") && text.contains("entry 1 was written by process"), "{text}");
    assert!(second.status().error.contains("Stop one of the two servers"));
    second.stop().await;
    assert_eq!(world.objects(), before, "it put nothing");
    world.disks[0] = own;
    append_some(&world, 30, 3);
    first.flush(TIMEOUT).await.expect("the first goes on");
    assert_complete(&world, "the first one's");
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drift_begins_the_next_file_and_conflicts_go_to_rest() {
    let mut world = World::new(1);
    let pad = "x".repeat(50_000);
    // More than a file gathers before its columns are settled.
    for n in 0..100 {
        world.append(0, &[&format!(r#"{{"n":{n},"pad":"{pad}"}}"#)]);
    }
    world.append(
        0,
        &[r#"{"n":"conflict"}"#, r#"{"n":100,"new":true}"#, r#"{"n":0.5}"#, r#"{"n":102,"deep":{"x":[1]}}"#],
    );
    let sink = world.start(world.config(LakeFormat::Parquet), &Machine::immortal(), &[]);
    sink.flush(TIMEOUT).await.expect("it lands");
    let files = world.files("parquet");
    assert_eq!(files.iter().map(|file| range_of(file).2).collect::<Vec<_>>(), [100, 103]);
    let rows = |file: &Path| -> Vec<reader::LandedRow> {
        reader::read_rows(file).expect("a Parquet file").map(|row| row.expect("a row")).collect()
    };
    let first = rows(&files[0]);
    assert_eq!(first[100].fields.get("n"), None);
    assert_eq!(first[100].fields["_rest"], json!(r#"{"n":"conflict"}"#));
    let second: Vec<Value> = rows(&files[1]).into_iter().map(|row| Value::Object(row.fields)).collect();
    let expected = [json!({"n": 100.0, "new": true}), json!({"n": 0.5}), json!({"n": 102.0, "deep": {"x": [1]}})];
    assert_eq!(second, expected);
    assert_eq!(sink.status().rejected, 0);
    audited(&sink, "after drift").await;
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_compression_is_read_back() {
    let parquet = [LakeCompression::None, LakeCompression::Zstd, LakeCompression::Snappy, LakeCompression::Lz4];
    for compression in parquet {
        let mut world = World::new(1);
        append_some(&world, 0, 20);
        let sink = world.start(LakeConfig { compression, ..by_k(&world) }, &Machine::immortal(), &[]);
        sink.flush(TIMEOUT).await.expect("it lands");
        assert_complete(&world, &format!("{compression:?}"));
        sink.stop().await;
    }
    for (compression, ending) in [
        (LakeCompression::None, ".ndjson"),
        (LakeCompression::Zstd, ".ndjson.zst"),
        (LakeCompression::Gzip, ".ndjson.gz"),
    ] {
        let mut world = World::new(1);
        append_some(&world, 0, 20);
        let config = LakeConfig { compression, layout: "k={k}".into(), ..world.config(LakeFormat::Ndjson) };
        let sink = world.start(config, &Machine::immortal(), &[]);
        sink.flush(TIMEOUT).await.expect("it lands");
        let mut numbers = Vec::new();
        for (name, path) in world.objects().into_iter().filter(|(name, _)| !name.starts_with("errors")) {
            assert!(name.ends_with(ending), "{name}");
            for line in lines(&path) {
                assert!(name.starts_with(&format!("k={}/", line["k"])), "{name}");
                numbers.push(line["n"].as_u64().expect("a number"));
            }
        }
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..20), "{compression:?}");
        audited(&sink, ending).await;
        sink.stop().await;
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let bytes = std::fs::read(path).expect("a file");
    let name = path.display().to_string();
    let text = if name.ends_with(".zst") {
        zstd::decode_all(&bytes[..]).expect("zstd")
    } else if name.ends_with(".gz") {
        std::io::read_to_string(flate2::read::GzDecoder::new(&bytes[..])).expect("gzip").into_bytes()
    } else {
        bytes
    };
    serde_json::Deserializer::from_slice(&text).into_iter().map(|line| line.expect("JSON")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_files_keep_records_as_they_are() {
    use millstream_protocol::{PartitionId, Record, Timestamp};
    let mut world = World::new(1);
    let records = [
        Record::new("not json").key("a").timestamp(Timestamp(5)).header("h", "1").header("h", "2"),
        Record::tombstone("a"),
        Record::new(vec![0_u8, 255]),
        Record::new(r#"{"k":7}"#),
    ];
    common::append(&world.disks[0], common::incarnation(PartitionId(0)), &records);
    let config = LakeConfig { columns: LakeColumns::Raw, ..by_k(&world) };
    let sink = world.start(config, &Machine::immortal(), &[]);
    sink.flush(TIMEOUT).await.expect("it lands");
    assert_eq!((sink.status().rows, sink.status().rejected), (4, 0));
    let objects = world.objects();
    let directories: Vec<&str> = objects.keys().filter_map(|name| name.split('/').next()).collect();
    assert_eq!(directories, ["k=7", "k=__HIVE_DEFAULT_PARTITION__"]);
    let path = objects.values().nth(1).expect("a file");
    let columns = reader::parquet_summary(path).expect("a footer").columns;
    assert_eq!(columns, ["_partition", "_offset", "_timestamp", "key", "headers", "value"]);
    let rows: Vec<_> = reader::read_rows(path).expect("a file").map(|row| row.expect("a row")).collect();
    // Arrow writes binary as hexadecimal digits.
    assert_eq!(rows[0].fields["value"], json!("6e6f74206a736f6e"));
    assert_eq!(rows[0].fields["headers"], json!([{"name": "h", "value": "31"}, {"name": "h", "value": "32"}]));
    assert_eq!((rows[1].fields.get("value"), rows[1].fields["key"].clone()), (None, json!("61")));
    assert_eq!(rows[2].fields["value"], json!("00ff"));
    audited(&sink, "raw").await;
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_of_a_large_backlog_makes_one_file_of_it() {
    let mut world = World::new(1);
    let pad = "x".repeat(60_000);
    // More than is read in one go.
    for n in 0..700 {
        world.append(0, &[&format!(r#"{{"n":{n},"pad":"{pad}"}}"#)]);
    }
    let sink = world.start(world.config(LakeFormat::Parquet), &Machine::immortal(), &[]);
    sink.flush(TIMEOUT).await.expect("it lands");
    assert_eq!((sink.status().files, sink.status().rows), (1, 700));
    sink.stop().await;
}
