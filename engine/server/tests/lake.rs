//! Lakes through the server: previewed, added over the wire, landed, flushed, audited, altered, gone on with after a restart,
//! removed.

mod support;

use std::path::{Path, PathBuf};

use millstream_protocol::Code;
use millstream_protocol::frame::control::{
    LakeAudit, LakeColumns, LakeCompression, LakeConfig, LakeFormat, LakePreview, LakeRetry, LakeStatus, Message,
    Request, Response, StreamConfig, StreamInfo,
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

async fn produce(client: &Client, stream: &StreamInfo, from: u64, count: u64) {
    let mut producer = client.producer(16).await;
    for n in from..from + count {
        let record = format!("{{\"ride\":{n}}}");
        producer.store(stream, (n % 2) as u32, &batch(&[&record])).await.expect("stored");
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
    let metrics = get(&rig.server, "/metrics").await.1;
    for line in ["lag_records{lake=\"lake\"} 0", "rows_total{lake=\"lake\"} 20", "lost_total{lake=\"lake\"} 0"] {
        assert!(metrics.contains(&format!("millstream_lake_{line}\n")), "{line}: {metrics}");
    }
    let names = ["bytes_total", "rejected_records", "open_rows", "open_files", "newest_landed_timestamp_seconds"];
    for name in names.into_iter().chain(["last_error_timestamp_seconds", "failing", "oldest_waiting_seconds"]) {
        assert!(metrics.contains(&format!("millstream_lake_{name}{{lake=\"lake\"}} ")), "{name}: {metrics}");
    }

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
async fn a_preview_shows_columns_and_paths_and_writes_nothing() {
    let target = tempfile::tempdir().expect("a directory");
    let place = target.path().join("not-there-yet");
    let rig = Rig::start().await;
    let mut client = rig.connect().await;
    let stream = client.create("rides", 2, StreamConfig::default()).await;
    produce(&client, &stream, 0, 10).await;
    let by_ride = |layout: &str| {
        let (format, compression) = (LakeFormat::Parquet, LakeCompression::Zstd);
        LakeConfig { format, compression, layout: layout.into(), ..lake("lake", &place) }
    };
    let preview: LakePreview =
        match client.request(&Request::PreviewLake { config: by_ride("ride={ride}"), records: 4 }).await {
            Ok(Response::LakePreview(preview)) => preview,
            other => panic!("{other:?}"),
        };
    assert_eq!((preview.records, preview.rejected, preview.reason.as_str()), (4, 0, ""));
    assert!(preview.columns.iter().any(|column| column.name == "ride" && column.kind == "int64"), "{preview:?}");
    assert!(preview.paths.iter().all(|path| path.starts_with("ride=")) && !preview.paths.is_empty(), "{preview:?}");
    assert_eq!(preview.directories, 4);
    // A field that no record has is told before anything is written, and nothing is added.
    let misspelt = by_ride("ride={rdie}");
    let preview = Request::PreviewLake { config: misspelt.clone(), records: 4 };
    assert_eq!(client.refused(&preview).await, Code::IllegalLake);
    let refusal = client.request(&Request::CreateLake { config: misspelt }).await.expect_err("refused");
    assert!(refusal.code == Code::IllegalLake && refusal.text.contains("rdie"), "{refusal:?}");
    assert_eq!(client.request(&Request::ListLakes).await, Ok(Response::Lakes(Vec::new())));
    assert!(!place.exists());
    rig.stop().await;
}

/// A schema file's text with one column.
fn schema(kind: &str) -> String {
    format!("{{\"columns\":[{{\"name\":\"ride\",\"type\":\"{kind}\"}}]}}")
}

async fn status(client: &mut Client, name: &str) -> LakeStatus {
    match client.request(&Request::LakeStatus { name: name.into() }).await {
        Ok(Response::LakeStatus(status)) => status,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_declared_schema_rejects_lands_once_the_schema_is_loosened_and_it_stays_so_over_a_restart() {
    let target = tempfile::tempdir().expect("a directory");
    let rig = Rig::start().await;
    let mut client = rig.connect().await;
    let stream = client.create("rides", 2, StreamConfig::default()).await;
    let config = LakeConfig {
        format: LakeFormat::Parquet,
        compression: LakeCompression::Zstd,
        columns: LakeColumns::Declared(schema("int32")),
        ..lake("lake", target.path())
    };
    client.request(&Request::CreateLake { config: config.clone() }).await.expect("added");
    produce(&client, &stream, 0, 4).await;
    // Beyond 32 bits.
    produce(&client, &stream, 3_000_000_000, 1).await;
    let landed = flush(&mut client, "lake").await;
    assert_eq!((landed.rows, landed.rejected), (4, 1));
    let listed = LakeConfig { columns: LakeColumns::Declared(String::new()), ..config.clone() };
    assert_eq!(client.request(&Request::ListLakes).await, Ok(Response::Lakes(vec![listed])), "without the schema");

    let alter = |schema: String| Request::AlterLake { name: "lake".into(), schema };
    assert_eq!(client.refused(&alter(schema("string"))).await, Code::IllegalLake);
    assert_eq!(client.refused(&alter("{".into())).await, Code::IllegalLake);
    assert_eq!(status(&mut client, "lake").await.config, config, "a refused schema changes nothing");
    let loosened = LakeConfig { columns: LakeColumns::Declared(schema("int64")), ..config };
    for _ in 0..2 {
        assert_eq!(client.request(&alter(schema("int64"))).await, Ok(Response::Lake(loosened.clone())));
    }
    let retry = Request::RetryLakeErrors { name: "lake".into(), timeout_ms: 15_000 };
    let retried = client.request(&retry).await;
    assert_eq!(retried, Ok(Response::LakeRetry(LakeRetry { landed: 1, rejected: 0 })));

    let rig = rig.restart().await;
    let mut client = rig.connect().await;
    produce(&client, &stream, 3_000_000_001, 1).await;
    let landed = flush(&mut client, "lake").await;
    assert_eq!((landed.rows, landed.rejected, &landed.config), (6, 0, &loosened));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_declared_schema_can_be_altered() {
    let target = tempfile::tempdir().expect("a directory");
    let rig = Rig::start().await;
    let mut client = rig.connect().await;
    client.create("rides", 2, StreamConfig::default()).await;
    client.request(&Request::CreateLake { config: lake("lake", target.path()) }).await.expect("added");
    let alter = Request::AlterLake { name: "lake".into(), schema: schema("int64") };
    assert_eq!(client.refused(&alter).await, Code::IllegalLake);
    assert_eq!(status(&mut client, "lake").await.config, lake("lake", target.path()));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_says_complete_until_a_file_is_gone() {
    let target = tempfile::tempdir().expect("a directory");
    let rig = Rig::start().await;
    let mut client = rig.connect().await;
    let stream = client.create("rides", 2, StreamConfig::default()).await;
    client.request(&Request::CreateLake { config: lake("lake", target.path()) }).await.expect("added");
    produce(&client, &stream, 0, 20).await;
    flush(&mut client, "lake").await;
    let audit = Request::AuditLake { name: "lake".into(), timeout_ms: 15_000 };
    let found: LakeAudit = match client.request(&audit).await {
        Ok(Response::LakeAudit(audit)) => audit,
        other => panic!("{other:?}"),
    };
    assert_eq!((found.complete, found.rows, found.findings, found.files), (true, 20, 0, 2), "{found:?}");
    let gone = std::fs::read_dir(target.path()).expect("there").map(|entry| entry.expect("an entry").path());
    let gone = gone.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "ndjson"));
    std::fs::remove_file(gone.expect("a file")).expect("removed");
    match client.request(&audit).await {
        Ok(Response::LakeAudit(found)) => assert!(!found.complete && found.findings > 0, "{found:?}"),
        other => panic!("{other:?}"),
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_lake_keeps_no_other_request_waiting_and_ends_when_the_lake_is_removed() {
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
    let (name, timeout_ms) = (|| "lake".to_owned(), 60_000);
    let flush = client.ask(&Request::FlushLake { name: name(), timeout_ms }).await;
    // Whether these wait for the store or say that it is not there: they must not be in the way.
    let audit = client.ask(&Request::AuditLake { name: name(), timeout_ms }).await;
    let retry = client.ask(&Request::RetryLakeErrors { name: name(), timeout_ms }).await;
    let described = client.ask(&Request::DescribeStream { name: "rides".into() }).await;
    let mut answers = std::collections::BTreeMap::new();
    while !answers.contains_key(&described) {
        let (header, body) = client.control.next().await.expect("answered");
        answers.insert(header.correlation, body);
    }
    assert!(!answers.contains_key(&flush), "it is overtaken");
    let removed = client.ask(&Request::RemoveLake { name: name() }).await;
    while answers.len() < 5 {
        let (header, body) = client.control.next().await.expect("answered");
        answers.insert(header.correlation, body);
    }
    assert_eq!(Response::decode(&answers[&removed]), Ok(Response::Done));
    assert!([flush, audit, retry].iter().all(|waiting| answers.contains_key(waiting)));
    // In the way of the directory's own removal.
    std::fs::remove_file(target.path()).expect("removed");
    rig.stop().await;
}
