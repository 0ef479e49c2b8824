//! The product's side: a server and a client of it in this process, each on its own runtime, as two programs would be.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millstream_benches::pipe::runtime;
use millstream_benches::quic::Error;
use millstream_client::{Client, Durability, Producer, Record, Start, StreamConfig};
use millstream_server::{Server, ServerConfig};
use tokio::runtime::Runtime;

/// A running server and a client.
pub struct Product {
    client: Client,
    batch_bytes: usize,
    bytes_in_flight: usize,
    client_runtime: Runtime,
    server: Server,
    server_runtime: Runtime,
}

impl Product {
    /// Starts both, with defaults but for the ports and what the ceiling is given too.
    pub fn start(data_dir: &Path, batch_bytes: usize, bytes_in_flight: usize) -> Result<Self, Error> {
        let (server_runtime, client_runtime) = (runtime("server")?, runtime("client")?);
        let config = ServerConfig {
            data_dir: data_dir.into(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            http: None,
            ..ServerConfig::default()
        };
        let server = server_runtime.block_on(Server::start(config))?;
        let address = server.address().to_string();
        let client = client_runtime.block_on(Client::connect(&address, server.fingerprint()))?;
        Ok(Self { client, batch_bytes, bytes_in_flight, client_runtime, server, server_runtime })
    }

    async fn producer(
        &self,
        stream: &str,
        partitions: u32,
        durability: Durability,
        linger: Duration,
    ) -> Result<Producer, Error> {
        let config = StreamConfig { durability, ..StreamConfig::default() };
        self.client.create_stream(stream, partitions, config).await?;
        let producer = self
            .client
            .producer(stream)
            .batch_bytes(self.batch_bytes)
            .buffer_bytes(self.bytes_in_flight)
            .max_in_flight((self.bytes_in_flight / self.batch_bytes) as u32)
            .linger(linger)
            .build()
            .await?;
        Ok(producer)
    }

    /// Makes a stream and sends it `records` of that value; the time until the last is acknowledged.
    pub fn produce(
        &self,
        stream: &str,
        partitions: u32,
        durability: Durability,
        value: &Bytes,
        records: u64,
    ) -> Result<Duration, Error> {
        self.client_runtime.block_on(async {
            let producer = self.producer(stream, partitions, durability, Duration::from_millis(5)).await?;
            let start = Instant::now();
            for _ in 0..records {
                // What fails is told again by `flush`, and the count below proves it.
                drop(producer.enqueue(Record::new(value.clone())).await?);
            }
            producer.flush().await?;
            let elapsed = start.elapsed();
            producer.close().await?;
            let stored: u64 =
                self.client.describe_stream(stream).await?.partitions.iter().map(|p| p.high_watermark).sum();
            if stored == records {
                Ok(elapsed)
            } else {
                Err(format!("{stored} of {records} records are stored").into())
            }
        })
    }

    /// Sends records one by one, each after the receipt of the one before; the time of each.
    pub fn round_trips(&self, stream: &str, value: &Bytes, count: usize) -> Result<Vec<Duration>, Error> {
        self.client_runtime.block_on(async {
            let producer = self.producer(stream, 1, Durability::Synced, Duration::ZERO).await?;
            let mut times = Vec::with_capacity(count);
            for _ in 0..count {
                let start = Instant::now();
                producer.send(Record::new(value.clone())).await?;
                times.push(start.elapsed());
            }
            producer.close().await?;
            Ok(times)
        })
    }

    /// Consumes a stream from its beginning to its end; the time it takes.
    pub fn fetch(&self, stream: &str, records: u64) -> Result<Duration, Error> {
        self.client_runtime.block_on(async {
            let start = Instant::now();
            let mut consumer = self.client.consumer(stream).start(Start::Earliest).bounded().build().await?;
            let mut found = 0;
            while let Some(consumed) = consumer.next().await {
                consumed?;
                found += 1;
            }
            let elapsed = start.elapsed();
            if found == records { Ok(elapsed) } else { Err(format!("{found} of {records} records came").into()) }
        })
    }

    /// Deletes a stream with its files.
    pub fn remove(&self, stream: &str) -> Result<(), Error> {
        Ok(self.client_runtime.block_on(self.client.delete_stream(stream))?)
    }

    /// Stops both.
    pub fn stop(self) -> Result<(), Error> {
        let Self { client, client_runtime, server, server_runtime, .. } = self;
        client_runtime.block_on(client.close());
        Ok(server_runtime.block_on(server.stop())?)
    }
}
