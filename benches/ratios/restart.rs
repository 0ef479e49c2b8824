//! How long a killed server with much on its disk takes until it acknowledges again.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millstream_benches::memory;
use millstream_benches::quic::{DATAGRAM_BYTES_MAX, Error};
use millstream_client::{Code, Durability, Record};

use crate::Plan;
use crate::outcome::Outcome;
use crate::product::{Product, Sending, producer};

/// What lies on the disk.
pub const BYTES: u64 = 20 << 30;
/// The same of a quick run.
pub const BYTES_QUICK: u64 = 1 << 30;
const BOUND_SECONDS: f64 = 1.0;
const STREAM: &str = "restart";
const PARTITIONS: u32 = 4;
const VALUE_BYTES: usize = 64 << 10;
const SENDING: Sending = Sending { batch_bytes: 1 << 20, depth: 32, linger: Duration::from_millis(5) };
/// Sent before each kill; the kill comes before the last of it is acknowledged.
const LOAD_BYTES: u64 = 256 << 20;

/// Writes records until `bytes` of them are in `dir`, and kills the server under the last.
pub fn prepare(dir: &Path, bytes: u64) -> Result<(), Error> {
    let product = Product::start(dir, DATAGRAM_BYTES_MAX)?;
    let stored = fill(&product, bytes)?;
    eprintln!("{} holds {:.1} GiB of records", dir.display(), stored as f64 / (1u64 << 30) as f64);
    product.server.kill()
}

/// Fills up to `bytes`; says how many there are.
fn fill(product: &Product, bytes: u64) -> Result<u64, Error> {
    match product.create(STREAM, PARTITIONS, Durability::Synced) {
        Err(error) if !is_there(&error) => return Err(error),
        _ => {}
    }
    product.runtime.block_on(async {
        let held: u64 = product.client.describe_stream(STREAM).await?.partitions.iter().map(|p| p.high_watermark).sum();
        let producer = producer(&product.client, STREAM, SENDING).await?;
        let value = Bytes::from(memory::noise(VALUE_BYTES));
        let wanted = bytes / VALUE_BYTES as u64;
        for _ in held..wanted {
            drop(producer.enqueue(Record::new(value.clone())).await?);
        }
        producer.close().await?;
        Ok(held.max(wanted) * VALUE_BYTES as u64)
    })
}

fn is_there(error: &Error) -> bool {
    error.downcast_ref::<millstream_client::Error>().is_some_and(|error| error.code() == Code::StreamExists)
}

/// Starts, measures, puts load on it, kills it; again.
pub fn restart(plan: &Plan<'_>) -> Result<Vec<Outcome>, Error> {
    let own = plan.dir.join("restart");
    let dir = plan.prepared.unwrap_or(&own);
    let bytes = plan.amount(BYTES, BYTES_QUICK);
    let product = Product::start(dir, DATAGRAM_BYTES_MAX)?;
    let stored = fill(&product, bytes)?;
    kill_under_load(product)?;
    let mut seconds = Vec::new();
    for _ in 0..plan.rounds {
        let start = Instant::now();
        let product = Product::start(dir, DATAGRAM_BYTES_MAX)?;
        let value = Bytes::from_static(b"first");
        product.runtime.block_on(async {
            let producer = producer(&product.client, STREAM, Sending { linger: Duration::ZERO, ..SENDING }).await?;
            producer.send(Record::new(value)).await?;
            seconds.push(start.elapsed().as_secs_f64());
            Ok::<_, Error>(producer.close().await?)
        })?;
        kill_under_load(product)?;
    }
    let outcome = Outcome::bounded("restart", DATAGRAM_BYTES_MAX, "s", seconds, BOUND_SECONDS)
        .note("gib_on_disk", stored as f64 / (1u64 << 30) as f64)
        .note("partitions", PARTITIONS);
    Ok(vec![outcome])
}

/// Kills it while records are on their way.
fn kill_under_load(product: Product) -> Result<(), Error> {
    let Product { client, runtime, server } = product;
    let value = Bytes::from(memory::noise(VALUE_BYTES));
    runtime.block_on(async {
        let producer = producer(&client, STREAM, SENDING).await?;
        for _ in 0..LOAD_BYTES / VALUE_BYTES as u64 {
            drop(producer.enqueue(Record::new(value.clone())).await?);
        }
        // What is still on its way is lost with the server, or not: nobody was told.
        server.kill()
    })
}
