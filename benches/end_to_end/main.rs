//! The whole path over QUIC against the raw pipe, in turn, as ratios:
//! `cargo bench -p millstream-benches --bench end_to_end [-- --json]`.
//!
//! | row | product | ceiling |
//! | --- | --- | --- |
//! | durable produce | 1 KiB records through the client into a `synced` stream, until the last receipt | the same batches as bytes over quinn into one file, grouped writes, one `fdatasync` each |
//! | written produce | the same into a `written` stream: acknowledged from the page cache | the same without `fdatasync` |
//! | fetch | what was produced, from the page cache to the client, every record decoded | the same number of bytes out of a mapped file |
//! | round trip | one 1 KiB record in flight, p50 | 1 KiB in flight, p50 |
//!
//! The synced rows wait for the disk, and so do both sides of them: near or above 1 they say that the product hides its
//! work behind the disk, not that it has none. What the work costs shows in the written row.
//!
//! Both have the same transport, runtimes, batch size and bytes in flight, and write to the same disk.

mod product;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use millstream_benches::pipe::{Ack, Pipe};
use millstream_benches::quic::{DATAGRAM_BYTES_MAX, Error};
use millstream_benches::ratio::{Better, Row, Spread, json, table};
use millstream_benches::settings::Settings;
use millstream_benches::{disk, memory};
use millstream_client::Durability;
use product::Product;

/// A record's value.
const RECORD_BYTES: usize = 1 << 10;
/// A batch, on both sides.
const BATCH_BYTES: usize = 256 << 10;
/// Batches sent and not yet acknowledged: 8 MiB.
const DEPTH: usize = 32;
const ROUND_TRIPS: usize = 500;

fn main() -> Result<(), Error> {
    let settings = Settings::read(env!("CARGO_TARGET_TMPDIR"), 5, 256);
    let dir = tempfile::tempdir_in(&settings.directory)?;
    let rows = run(&settings, dir.path())?;
    let title = format!(
        "{} rounds of {} MiB, batches of {} KiB, datagrams up to {DATAGRAM_BYTES_MAX} bytes; median [min..max]; 1.00 is the ceiling",
        settings.rounds,
        settings.bytes >> 20,
        BATCH_BYTES >> 10,
    );
    println!("{}", if settings.json { json(&title, &rows) } else { table(&title, &rows) });
    Ok(())
}

fn run(settings: &Settings, dir: &Path) -> Result<Vec<Row>, Error> {
    let cached = dir.join("cached");
    disk::fill(&cached, &memory::noise(1 << 20), settings.bytes)?;
    let pipe = Pipe::start(dir, &cached)?;
    let product = Product::start(&dir.join("data"), BATCH_BYTES, BATCH_BYTES * DEPTH)?;
    let value = Bytes::from(memory::noise(RECORD_BYTES));
    let batch = Bytes::from(memory::noise(BATCH_BYTES));
    let records = settings.bytes / RECORD_BYTES as u64;

    let mut one = Row::new("durable produce, 1 partition / raw pipe", "MB/s", Better::Higher, Some(0.6));
    let mut four = Row::new("durable produce, 4 partitions / raw pipe", "MB/s", Better::Higher, Some(0.6));
    let mut written = Row::new("written produce / raw pipe without sync", "MB/s", Better::Higher, None);
    let mut fetch = Row::new("fetch / raw quinn stream", "MB/s", Better::Higher, Some(0.6));
    let mut trip = Row::new("durable round trip / raw pipe", "µs", Better::Lower, None);
    let rate = |elapsed: Duration| settings.bytes as f64 / 1e6 / elapsed.as_secs_f64();
    let raw_produce =
        |ack| Ok::<_, Error>(rate(pipe.produce(&batch, settings.bytes as usize / BATCH_BYTES, DEPTH, ack)?));
    let produce = |stream, partitions, durability| {
        Ok::<_, Error>(rate(product.produce(stream, partitions, durability, &value, records)?))
    };

    // A round that nobody counts: paths find their datagram size, windows grow, the disk's pages are touched.
    raw_produce(Ack::Synced)?;
    pipe.fetch()?;
    produce("warm-up", 1, Durability::Synced)?;
    product.fetch("warm-up", records)?;
    product.remove("warm-up")?;
    for _ in 0..settings.rounds {
        one.round(|| raw_produce(Ack::Synced), || produce("one", 1, Durability::Synced))?;
        fetch.round(|| Ok::<_, Error>(rate(pipe.fetch()?)), || Ok(rate(product.fetch("one", records)?)))?;
        product.remove("one")?;
        four.round(|| raw_produce(Ack::Synced), || produce("four", 4, Durability::Synced))?;
        product.remove("four")?;
        written.round(|| raw_produce(Ack::Written), || produce("written", 1, Durability::Written))?;
        product.remove("written")?;
        trip.round(
            || Ok::<_, Error>(median_us(&pipe.round_trips(&value, ROUND_TRIPS)?)),
            || Ok(median_us(&product.round_trips("trips", &value, ROUND_TRIPS)?)),
        )?;
        product.remove("trips")?;
    }
    let (mtu, lost) = pipe.path();
    if !settings.json {
        println!("the pipe's path settled at datagrams of {mtu} bytes; its client lost {lost} packets");
    }
    product.stop()?;
    Ok(vec![one, four, written, fetch, trip])
}

fn median_us(times: &[Duration]) -> f64 {
    Spread::of(times.iter().map(|time| time.as_secs_f64() * 1e6)).median
}
