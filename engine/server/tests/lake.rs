//! Lakes through the server: added over the wire, landed, flushed, gone on with after a restart, removed.

mod support;

use std::path::{Path, PathBuf};

use millstream_protocol::Code;
use millstream_protocol::frame::control::{
    LakeCompression, LakeConfig, LakeFormat, LakeStatus, Message, Request, Response, StreamConfig, StreamInfo,
};
use support::{Client, Rig, batch, get, until};

fn lake(name: &str, directory: &Path) -> LakeConfig {
    LakeConfig {
        format: LakeFormat::Ndjson,
        compression: LakeCompression::None,
        // Far beyond the test: only a flush lands.
        roll_age_ms: 3_600_000,
        ..LakeConfig::new(name, "rides", format!("file://{}", directory.display()))
    }
}

async fn produce(client: &Client, stream: &StreamInfo, from: u32, count: u32) {
    let mut producer = client.producer(16).await;
    for n in from..from + count {
        let record = format!("{{\"ride\":{n}}}");
        producer.store(stream, n % 2, &batch(&[&record])).await.expect("stored");
    }
}

async fn flush(client: &mut Client, name: &str) -> LakeStatus {
    match client.request(&Request::FlushLake { name: name.into(), timeout_ms: 15_000 }).await {
        Ok(Response::LakeStatus(status)) => status,
        other => panic!("{other:?}"),
    }
}

/// The lines of all data files, sorted.
fn landed(directory: &Path) -> Vec<String> {
    let files = std::fs::read_dir(directory).expect("there").map(|entry| entry.expect("an entry").path());
    let data: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|ending| ending == "ndjson")).collect();
    let texts = data.iter().map(|path| std::fs::read_to_string(path).expect("text"));
    let mut lines: Vec<String> = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    lines.sort();
    lines
}

fn rides(count: u32) -> Vec<String> {
    let mut rides: Vec<String> = (0..count).map(|n| format!("{{\"ride\":{n}}}")).collect();
    rides.sort();
    rides
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_produced_before_a_flush_has_landed_after_it_and_once_over_a_restart() {
    let target = tempfile::tempdir().expect("a directory");
    let rig = Rig::start().await;
    let mut client = rig.connect().await;
    let stream = client.create("rides", 2, StreamConfig::default()).await;
    produce(&client, &stream, 0, 10).await;
    let config = lake("lake", target.path());
    let added = client.request(&Request::CreateLake { config: config.clone() }).await;
    assert_eq!(added, Ok(Response::Lake(config.clone())));
    produce(&client, &stream, 10, 10).await;
    let status = flush(&mut client, "lake").await;
    assert_eq!((status.rows, status.rejected, status.error.as_str()), (20, 0, ""));
    assert_eq!(landed(target.path()), rides(20));
    assert_eq!(client.request(&Request::ListLakes).await, Ok(Response::Lakes(vec![config])));
    assert!(get(&rig.server, "/metrics").await.1.contains("millstream_lake_lag_records{lake=\"lake\"} 0"));

    produce(&client, &stream, 20, 5).await;
    let rig = rig.restart().await;
    let mut client = rig.connect().await;
    produce(&client, &stream, 25, 5).await;
    flush(&mut client, "lake").await;
    assert_eq!(landed(target.path()), rides(30), "neither lost nor repeated");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_kept_while_a_lake_lands_it_and_a_removed_lake_leaves_its_files() {
    let target = tempfile::tempdir().expect("a directory");
    let rig = Rig::start().await;
    let mut client = rig.connect().await;
    let stream = client.create("rides", 2, StreamConfig::default()).await;
    client.request(&Request::CreateLake { config: lake("lake", target.path()) }).await.expect("added");
    produce(&client, &stream, 0, 4).await;
    flush(&mut client, "lake").await;
    assert_eq!(client.refused(&Request::CreateLake { config: lake("lake", target.path()) }).await, Code::LakeExists);
    assert_eq!(client.refused(&Request::DeleteStream { name: "rides".into() }).await, Code::StreamInUse);
    client.request(&Request::RemoveLake { name: "lake".into() }).await.expect("removed");
    assert_eq!(client.refused(&Request::LakeStatus { name: "lake".into() }).await, Code::UnknownLake);
    assert_eq!(landed(target.path()), rides(4));
    client.request(&Request::DeleteStream { name: "rides".into() }).await.expect("deleted");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lake_that_cannot_be_written_is_refused_and_leaves_nothing_in_the_catalog() {
    let target = tempfile::tempdir().expect("a directory");
    let file = target.path().join("file");
    std::fs::write(&file, "not a directory").expect("written");
    let rig = Rig::start().await;
    let mut client = rig.connect().await;
    client.create("rides", 2, StreamConfig::default()).await;
    assert_eq!(client.refused(&Request::CreateLake { config: lake("lake", &file) }).await, Code::IllegalLake);
    let url = "ftp://example.org/x".to_owned();
    let foreign = LakeConfig { url, ..lake("lake", target.path()) };
    assert_eq!(client.refused(&Request::CreateLake { config: foreign }).await, Code::IllegalLake);
    assert_eq!(client.request(&Request::ListLakes).await, Ok(Response::Lakes(Vec::new())));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_flush_keeps_no_other_request_waiting_and_ends_when_its_lake_is_removed() {
    let target = tempfile::tempdir().expect("a directory");
    let rig = Rig::start().await;
    let mut client = rig.connect().await;
    let stream = client.create("rides", 2, StreamConfig::default()).await;
    client.request(&Request::CreateLake { config: lake("lake", target.path()) }).await.expect("added");
    // The store goes away under the lake, which may make its directory again meanwhile: a flush cannot end.
    until(async || {
        let _ = std::fs::remove_dir_all(target.path());
        std::fs::write(target.path(), "in the way").ok()
    })
    .await;
    produce(&client, &stream, 0, 4).await;
    let waiting = client.ask(&Request::FlushLake { name: "lake".into(), timeout_ms: 60_000 }).await;
    let described = client.ask(&Request::DescribeStream { name: "rides".into() }).await;
    let (header, _) = client.control.next().await.expect("answered");
    assert_eq!(header.correlation, described, "it overtakes the flush");
    let removed = client.ask(&Request::RemoveLake { name: "lake".into() }).await;
    let mut answers = std::collections::BTreeMap::new();
    for _ in 0..2 {
        let (header, body) = client.control.next().await.expect("answered");
        answers.insert(header.correlation, body);
    }
    assert_eq!(Response::decode(&answers[&removed]), Ok(Response::Done));
    assert!(answers.contains_key(&waiting));
    // In the way of the directory's own removal.
    std::fs::remove_file(target.path()).expect("removed");
    rig.stop().await;
}
