//! Records that say which they are, and a look at what of them is in a bucket: each once, as a row or as an error line.
//!
//! Knows of a lake's layout only what its readers know: rows are in `*.parquet` or `*.ndjson`, what is no row in `errors/`, and
//! what is in `_millstream/` is the lake's own.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_lake::{Sink, reader};
use millstream_protocol::frame::control::{LakeConfig, LakeFormat};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use serde_json::Value;

use crate::common::{LAKE, Machine, World, as_sources};

/// A client of S3 that waits so long for an answer, and tries again so often. Its own retries come first, if it has any: an answer that it has lost is then
/// "it exists" to a lake.
pub fn client(
    endpoint: &str,
    [key, secret]: [&str; 2],
    bucket: &str,
    patience: Duration,
    retries: usize,
) -> Arc<AmazonS3> {
    let backoff = BackoffConfig { init_backoff: Duration::from_millis(2), max_backoff: patience, base: 2.0 };
    let retry = RetryConfig { max_retries: retries, backoff, ..RetryConfig::default() };
    let options = ClientOptions::new().with_allow_http(true).with_timeout(patience);
    let client = AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_bucket_name(bucket)
        .with_region("us-east-1")
        .with_access_key_id(key)
        .with_secret_access_key(secret)
        .with_retry(retry)
        .with_client_options(options)
        .build();
    Arc::new(client.expect("a client"))
}

/// Partitions whose records say which they are, and how many there are.
pub struct Feed {
    pub world: World,
    pub ends: Vec<u64>,
}

impl Feed {
    pub fn new(partitions: usize) -> Self {
        Self { world: World::new(partitions), ends: vec![0; partitions] }
    }

    /// Appends a batch of so many records; every seventh is no JSON.
    pub fn append(&mut self, partition: u32, count: u64) {
        let end = &mut self.ends[partition as usize];
        let values = (*end..*end + count).map(|offset| match offset % 7 {
            3 => format!("no JSON at {offset}"),
            _ => format!(r#"{{"n":{},"text":"text {offset}"}}"#, number(partition, offset)),
        });
        let values: Vec<String> = values.collect();
        *end += count;
        self.world.append(partition, &values.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// Starts the lake over that client, on that machine.
    pub fn start(&mut self, client: &Arc<AmazonS3>, format: LakeFormat, machine: &Arc<Machine>) -> Sink {
        let config = LakeConfig { url: "s3://test".into(), ..self.world.config(format) };
        let sources = as_sources(self.world.sources(machine));
        let settings = self.world.settings();
        Sink::start_over(Arc::clone(client) as _, LAKE, config, "rides", sources, settings).expect("a legal lake")
    }

    /// Every record is there once, with its value, and nothing else is.
    pub fn assert_complete(&self, what: &str, objects: &[(String, Bytes)], format: LakeFormat) {
        self.judge(objects, format).unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
    }

    /// What is wrong with what is there, if anything is.
    pub fn judge(&self, objects: &[(String, Bytes)], format: LakeFormat) -> Result<(), String> {
        let mut landed: BTreeMap<(u32, u64), u32> = BTreeMap::new();
        let mut note = |place| *landed.entry(place).or_default() += 1;
        for (key, body) in objects.iter().filter(|(key, _)| !key.starts_with("_millstream/")) {
            if is_error_file(key) {
                error_lines(body).into_iter().for_each(&mut note);
            } else {
                match format {
                    LakeFormat::Parquet => self.parquet_rows(key, body).into_iter().for_each(&mut note),
                    LakeFormat::Ndjson => ndjson_rows(key, body).into_iter().for_each(&mut note),
                }
            }
        }
        for (partition, end) in self.ends.iter().enumerate() {
            for offset in 0..*end {
                let times = landed.remove(&(partition as u32, offset)).unwrap_or_default();
                if times != 1 {
                    return Err(format!("partition {partition}, offset {offset} is there {times} times"));
                }
            }
        }
        if landed.is_empty() { Ok(()) } else { Err(format!("nobody sent {landed:?}")) }
    }

    fn parquet_rows(&self, key: &str, body: &Bytes) -> Vec<(u32, u64)> {
        assert!(key.ends_with(".parquet"), "{key}");
        let file = self.world.directory.path().join("read-back.parquet");
        std::fs::write(&file, body).expect("written");
        let rows = reader::read_rows(&file).expect("a Parquet file").map(|row| {
            let row = row.expect("a row");
            let place = (row.partition.0, row.offset.0);
            assert_eq!(row.fields["n"], number(place.0, place.1), "{key}");
            place
        });
        rows.collect()
    }
}

/// What a record has in it, so that it can be told from all others.
fn number(partition: u32, offset: u64) -> u64 {
    u64::from(partition) * 1_000_000 + offset
}

pub fn is_error_file(key: &str) -> bool {
    key.split('/').rev().skip(1).any(|directory| directory == "errors")
}

fn error_lines(body: &[u8]) -> Vec<(u32, u64)> {
    let lines = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
    let places = lines.map(|line| {
        let line = line.expect("a line of JSON");
        assert!(line.get("last_offset").is_none() && line["reason"].is_string(), "{line}");
        (line["partition"].as_u64().expect("a partition") as u32, line["offset"].as_u64().expect("an offset"))
    });
    places.collect()
}

fn ndjson_rows(key: &str, body: &[u8]) -> Vec<(u32, u64)> {
    assert!(key.ends_with(".ndjson"), "{key}");
    let lines = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
    let numbers = lines.map(|line| line.expect("a line of JSON")["n"].as_u64().expect("a number"));
    numbers.map(|number| ((number / 1_000_000) as u32, number % 1_000_000)).collect()
}
