//! The same over S3 as others understand it: moto (<https://github.com/getmoto/moto>), a server in Python.
//!
//! Where it is not installed, the test says so and passes. It is looked for in `MILLSTREAM_MOTO` (the path of `moto_server`) and
//! in `PATH`.

mod bucket;
mod common;

use std::io::Write;
use std::process::Stdio;

use bucket::{Feed, client};
use bytes::Bytes;
use common::{Machine, TIMEOUT};
use futures::TryStreamExt;
use millstream_protocol::frame::control::LakeFormat;
use object_store::aws::AmazonS3;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// moto, and where it listens. It is killed with this.
struct Moto {
    address: String,
    _process: Child,
}

impl Moto {
    /// Starts it on a port that is free; `None`: it is not installed.
    async fn start() -> Option<Moto> {
        let program = std::env::var_os("MILLSTREAM_MOTO").unwrap_or_else(|| "moto_server".into());
        let mut command = Command::new(&program);
        command.args(["-H", "127.0.0.1", "-p", "0"]).kill_on_drop(true);
        let mut process = match command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn() {
            Ok(process) => process,
            Err(error) => {
                // Not by `eprintln!`, which is heard of failing tests only.
                let program = program.display();
                let text =
                    format!("SKIPPED: {program} does not start ({error}): pip install 'moto[s3]' flask flask-cors");
                writeln!(std::io::stderr(), "{text}").expect("a place to say so");
                return None;
            }
        };
        let mut lines = BufReader::new(process.stderr.take().expect("it is piped")).lines();
        let address = tokio::time::timeout(TIMEOUT, async {
            while let Some(line) = lines.next_line().await.expect("it is read") {
                if let Some((_, address)) = line.split_once("Running on http://") {
                    return address.trim().to_owned();
                }
            }
            panic!("moto ended before it listened");
        });
        let address = address.await.expect("moto starts");
        // Read on, so that it never waits for us.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Some(Moto { address, _process: process })
    }

    async fn make_bucket(&self, bucket: &str) {
        let mut connection = TcpStream::connect(&self.address).await.expect("it listens");
        let request = format!(
            "PUT /{bucket} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=any/20240101/us-east-1/s3/aws4_request\r\n\r\n",
            self.address
        );
        connection.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

async fn objects(client: &AmazonS3) -> Vec<(String, Bytes)> {
    let listed: Vec<_> = client.list(None).try_collect().await.expect("listed");
    let mut objects = Vec::new();
    for meta in listed {
        let body = client.get(&meta.location).await.expect("it is there").bytes().await.expect("it is whole");
        objects.push((meta.location.to_string(), body));
    }
    objects
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lake_lands_every_record_once_over_another_server() {
    let Some(moto) = Moto::start().await else { return };
    for (bucket, format) in [("parquet", LakeFormat::Parquet), ("ndjson", LakeFormat::Ndjson)] {
        moto.make_bucket(bucket).await;
        let client = client(&format!("http://{}", moto.address), ["any", "thing"], bucket, TIMEOUT, 2);
        let mut feed = Feed::new(3);
        for _ in 0..3 {
            (0..3).for_each(|partition| feed.append(partition, 100));
            let sink = feed.start(&client, format, &Machine::immortal());
            sink.flush(TIMEOUT).await.expect("it lands");
            assert_eq!(sink.status().error, "");
            sink.stop().await;
        }
        let objects = objects(&client).await;
        assert!(objects.len() > 18, "an owner, nine files, nine error files: {}", objects.len());
        feed.assert_complete("moto", &objects, format);
    }
}
