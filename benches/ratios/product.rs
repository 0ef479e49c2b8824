//! The product's side: a server process, and what clients of it do.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millstream_benches::pace::Ticks;
use millstream_benches::pipe::runtime;
use millstream_benches::quic::Error;
use millstream_client::{Client, Durability, Producer, Record, Start, StreamConfig};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::child::{Limits, Running};

/// How a producer sends.
#[derive(Debug, Clone, Copy)]
pub struct Sending {
    pub batch_bytes: usize,
    /// Batches of one producer without an ack.
    pub depth: usize,
    pub linger: Duration,
}

/// A running server and the runtime of its clients.
pub struct Product {
    pub client: Client,
    pub runtime: Runtime,
    pub server: Running,
}

impl Product {
    /// Starts both on an empty or an older directory.
    pub fn start(data_dir: &Path, datagram: u16) -> Result<Self, Error> {
        Self::start_with(data_dir, datagram, Limits::default())
    }

    /// The same with other limits than a server's own.
    pub fn start_with(data_dir: &Path, datagram: u16, limits: Limits) -> Result<Self, Error> {
        let server = Running::product(data_dir, datagram, limits)?;
        let runtime = runtime("client")?;
        let client = runtime.block_on(connect(&server))?;
        Ok(Self { client, runtime, server })
    }

    /// A further connection.
    pub async fn connect(&self) -> Result<Client, Error> {
        connect(&self.server).await
    }

    /// Makes a stream.
    pub fn create(&self, stream: &str, partitions: u32, durability: Durability) -> Result<(), Error> {
        let config = StreamConfig { durability, ..StreamConfig::default() };
        self.runtime.block_on(self.client.create_stream(stream, partitions, config))?;
        Ok(())
    }

    /// Deletes a stream with its files.
    pub fn remove(&self, stream: &str) -> Result<(), Error> {
        Ok(self.runtime.block_on(self.client.delete_stream(stream))?)
    }

    /// Producers send `records` of that value in all, each over a connection of `clients`, in turn; the time until the last is
    /// acknowledged.
    pub fn produce(
        &self,
        stream: &str,
        clients: &[Client],
        producers: usize,
        value: &Bytes,
        records: u64,
        sending: Sending,
    ) -> Result<Duration, Error> {
        self.runtime.block_on(async {
            let mut ready = Vec::new();
            for index in 0..producers {
                ready.push(producer(&clients[index % clients.len()], stream, sending).await?);
            }
            let start = Instant::now();
            let mut running = JoinSet::new();
            for (index, producer) in ready.into_iter().enumerate() {
                let part = share(records, producers, index);
                // A copy of his own: producers are not to meet at one counter of references.
                running.spawn(send_all(producer, Bytes::copy_from_slice(value), part));
            }
            while let Some(ended) = running.join_next().await {
                ended??;
            }
            let elapsed = start.elapsed();
            let stored: u64 =
                self.client.describe_stream(stream).await?.partitions.iter().map(|p| p.high_watermark).sum();
            if stored == records {
                Ok(elapsed)
            } else {
                Err(format!("{stored} of {records} records are stored").into())
            }
        })
    }

    /// Consumes a stream from its beginning to its end, batch by batch, and decodes each record; the time it takes.
    pub fn fetch(&self, stream: &str, records: u64) -> Result<Duration, Error> {
        self.runtime.block_on(async {
            let start = Instant::now();
            let mut consumer = self.client.consumer(stream).start(Start::Earliest).bounded().build().await?;
            let mut found = 0;
            while let Some(batch) = consumer.next_batch().await {
                for consumed in batch?.records()? {
                    std::hint::black_box(consumed?.record.value);
                    found += 1;
                }
            }
            let elapsed = start.elapsed();
            if found == records { Ok(elapsed) } else { Err(format!("{found} of {records} records came").into()) }
        })
    }

    /// Sends records one by one, each after the receipt of the one before; the time of each.
    pub fn round_trips(&self, stream: &str, value: &Bytes, count: usize) -> Result<Vec<Duration>, Error> {
        self.runtime.block_on(async {
            let producer = producer(&self.client, stream, ALONE).await?;
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

    /// Sends a record at each tick, and consumes them over another connection; the time from when each was due until its
    /// consumer has it.
    pub fn tail(&self, stream: &str, value: &Bytes, count: usize, mut ticks: Ticks) -> Result<Vec<Duration>, Error> {
        self.runtime.block_on(async {
            let producer = producer(&self.client, stream, ALONE).await?;
            let reader = self.connect().await?;
            let mut consumer = reader.consumer(stream).start(Start::Latest).follow().build().await?;
            let (due, mut consuming) = tokio::sync::mpsc::unbounded_channel();
            let value = value.clone();
            let sending = tokio::spawn(async move {
                while let Some(tick) = ticks.next().await {
                    due.send(tick)?;
                    drop(producer.enqueue(Record::new(value.clone())).await?);
                }
                Ok::<_, Error>(producer.close().await?)
            });
            let mut times = Vec::with_capacity(count);
            while let Some(tick) = consuming.recv().await {
                let record = consumer.next().await.ok_or("a consumer that follows has ended")??;
                times.push(tick.elapsed());
                if record.offset.0 + 1 < times.len() as u64 {
                    return Err("a record came twice".into());
                }
            }
            sending.await??;
            drop(consumer);
            reader.close().await;
            Ok(times)
        })
    }
}

const ALONE: Sending = Sending { batch_bytes: 256 << 10, depth: 64, linger: Duration::ZERO };

async fn connect(server: &Running) -> Result<Client, Error> {
    Ok(Client::connect(server.address.to_string(), server.identity.as_str()).await?)
}

/// A producer with those settings.
pub async fn producer(client: &Client, stream: &str, sending: Sending) -> Result<Producer, Error> {
    let Sending { batch_bytes, depth, linger } = sending;
    Ok(client
        .producer(stream)
        .batch_bytes(batch_bytes)
        .buffer_bytes(batch_bytes * depth)
        .max_in_flight(depth as u32)
        .linger(linger)
        .build()
        .await?)
}

/// Sends `records` of that value and waits until they are stored.
pub async fn send_all(producer: Producer, value: Bytes, records: u64) -> Result<(), Error> {
    let records = (0..records).map(|_| Record::new(value.clone()));
    // What fails is told again by `close`.
    drop(producer.enqueue_all(records).await);
    Ok(producer.close().await?)
}

/// The part of the `index`th of so many.
pub fn share(records: u64, parts: usize, index: usize) -> u64 {
    records / parts as u64 + u64::from((index as u64) < records % parts as u64)
}
