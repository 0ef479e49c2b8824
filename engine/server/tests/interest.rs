//! Retention by interest over real QUIC: the disk is freed once a queue has worked through a stream and a lake has landed it,
//! and not before.

mod support;

use std::path::Path;
use std::time::Duration;

use millstream_client::{Client, Code, QueueConfig, QueueStart, Record, StreamConfig};
use millstream_protocol::frame::control::{Compaction, LakeConfig, LakeFormat};
use millstream_server::Server;
use support::{Rig, soon, until};

const RECORDS: u64 = 40;
const RECORD_BYTES: u64 = 100 << 10;
/// What may stay: an active segment that is not large enough to be rolled.
const LEFT_MAX: u64 = 1 << 20;

async fn client(server: &Server) -> Client {
    soon(Client::connect(server.address().to_string(), server.fingerprint())).await.expect("connected")
}

/// The bytes of all segments of records and state below a directory.
fn on_disk(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).expect("there").map(|entry| entry.expect("an entry").path());
    let sizes = entries.map(|path| match path.is_dir() {
        true => on_disk(&path),
        // A segment may go between the listing and the look.
        false if path.extension().is_some_and(|ending| ending == "log") => {
            path.metadata().map_or(0, |found| found.len())
        }
        false => 0,
    });
    sizes.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_is_freed_once_a_queue_and_a_lake_are_past_the_records() {
    let target = tempfile::tempdir().expect("a directory");
    let rig = Rig::start_with(|config| config.retention_interval = Duration::from_millis(100)).await;
    let client = client(&rig.server).await;
    let config = StreamConfig { segment_bytes: 1 << 20, ..StreamConfig::by_interest() };
    let info = client.create_stream("jobs", 1, config).await.expect("made");
    assert!(info.config.interest && info.config.retention_ms.is_none(), "{info:?}");
    client.create_queue("work", "jobs", QueueConfig::default(), QueueStart::Earliest).await.expect("made");
    let lake = LakeConfig {
        format: LakeFormat::Ndjson,
        // Far beyond the test: only a flush lands.
        roll_age_ms: 3_600_000,
        ..LakeConfig::new("lake", "jobs", format!("file://{}", target.path().display()))
    };
    client.create_lake(lake).await.expect("added");

    let producer = client.producer("jobs").build().await.expect("a producer");
    for n in 0..RECORDS {
        // Letters that do not compress: the stream's bytes are what counts here.
        let noise: String = (0..RECORD_BYTES).map(|i| char::from(b'a' + (n * 31 + i * i * 7) as u8 % 26)).collect();
        producer.send(Record::new(format!("{{\"n\":{n},\"noise\":\"{noise}\"}}"))).await.expect("stored");
    }
    producer.close().await.expect("closed");
    let streams = rig.dir.path().join("streams");
    assert!(on_disk(&streams) > RECORDS * RECORD_BYTES);

    let queue = client.queue("work");
    let mut done = 0;
    while done < RECORDS {
        for message in soon(queue.receive(10, Duration::from_secs(15))).await.expect("received") {
            message.ack().await.expect("durable");
            done += 1;
        }
    }
    let stream = || async { client.describe_stream("jobs").await.expect("described") };
    assert_eq!(stream().await.partitions[0].log_start, 0, "the lake has landed nothing");
    assert!(on_disk(&streams) > RECORDS * RECORD_BYTES);

    client.flush_lake("lake", Duration::from_secs(15)).await.expect("landed");
    until(|| async { (on_disk(&streams) <= LEFT_MAX).then_some(()) }).await;
    let partition = stream().await.partitions[0].clone();
    assert!(partition.log_start >= 30 && partition.high_watermark == RECORDS, "{partition:?}");
    let state = client.describe_queue("work").await.expect("described");
    assert_eq!((state.total.acked, state.total.expired_by_retention), (RECORDS, 0), "{state:?}");

    // It stays so, and what comes next is there.
    let rig = rig.restart().await;
    let client = self::client(&rig.server).await;
    let producer = client.producer("jobs").build().await.expect("a producer");
    producer.send(Record::new("next")).await.expect("stored");
    let next = soon(client.queue("work").receive(1, Duration::from_secs(15))).await.expect("received");
    assert_eq!(next.len(), 1);
    let after = client.describe_stream("jobs").await.expect("described").partitions[0].log_start;
    assert!(after >= partition.log_start, "{after}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_stream_is_not_deleted_after_consumption() {
    let rig = Rig::start().await;
    let client = client(&rig.server).await;
    let config = StreamConfig { interest: true, ..StreamConfig::compacted(Compaction::default()) };
    let error = client.create_stream("latest", 1, config).await.expect_err("refused");
    assert_eq!(error.code(), Code::IllegalSetting);
    assert!(error.to_string().contains("interest"), "{error}");
    rig.stop().await;
}
