//! A server in this process, and the program as a user runs it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Output, Stdio};

use millstream_client::{Client, Record, Start, StreamConfig};
use millstream_server::{Server, ServerConfig};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A running server, with a runtime of its own.
pub struct TestServer {
    pub runtime: Runtime,
    pub client: Client,
    server: Option<Server>,
    dir: TempDir,
}

impl TestServer {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let config = ServerConfig {
            data_dir: dir.path().join("data"),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            http: None,
            ..ServerConfig::default()
        };
        let server = runtime.block_on(Server::start(config)).expect("it starts");
        let (address, pin) = (server.address().to_string(), server.fingerprint().to_owned());
        let client = runtime.block_on(Client::connect(address, pin)).expect("it answers");
        Self { runtime, client, server: Some(server), dir }
    }

    /// The program, told where the server is.
    pub fn bench(&self, line: &str) -> Command {
        let mut command = bench(line);
        command.arg("--data-dir").arg(self.dir.path().join("data"));
        command
    }

    pub fn streams(&self) -> Vec<String> {
        let streams = self.runtime.block_on(self.client.list_streams()).expect("listed");
        streams.into_iter().map(|stream| stream.name).collect()
    }

    /// The records of a stream of one partition.
    pub fn read(&self, stream: &str) -> Vec<Record> {
        self.runtime.block_on(async {
            let consumer = self.client.consumer(stream).start(Start::Earliest).bounded().build().await;
            let (mut consumer, mut records) = (consumer.expect("opened"), Vec::new());
            while let Some(record) = consumer.next().await {
                records.push(record.expect("readable").record);
            }
            records
        })
    }

    /// Makes a stream of one partition with these records.
    pub fn write(&self, stream: &str, records: Vec<Record>) {
        self.runtime.block_on(async {
            self.client.create_stream(stream, 1, StreamConfig::default()).await.expect("made");
            let producer = self.client.producer(stream).build().await.expect("a producer");
            for record in records {
                drop(producer.enqueue(record).await.expect("taken"));
            }
            producer.close().await.expect("stored");
        });
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            // A test that fails says more than a stop that does.
            let _ = self.runtime.block_on(server.stop());
        }
    }
}

/// The program with these arguments, and an environment that names no other server.
pub fn bench(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream-bench"));
    command.args(line.split_whitespace()).stdin(Stdio::null());
    for name in ["MILLSTREAM_SERVER", "MILLSTREAM_FINGERPRINT", "MILLSTREAM_DATA_DIR"] {
        command.env_remove(name);
    }
    command
}

/// What it printed, after it succeeded.
pub fn json(command: &mut Command) -> Value {
    let output = command.arg("--json").output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one object")
}

/// Runs it; it has to fail with that code. What it said.
pub fn refused(command: &mut Command, exit: i32) -> String {
    let Output { status, stderr, .. } = command.output().expect("it runs");
    let said = text(&stderr);
    assert_eq!(status.code(), Some(exit), "{command:?}: {said}");
    said
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The meter of that name.
pub fn meter<'a>(run: &'a Value, name: &str) -> &'a Value {
    let meters = run["meters"].as_array().expect("meters");
    meters.iter().find(|meter| meter["name"] == name).unwrap_or_else(|| panic!("no meter {name} in {run}"))
}
