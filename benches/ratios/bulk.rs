//! Bytes in bulk: durable produce, produce into the page cache, fetch of a cached backlog.

use std::time::Duration;

use bytes::Bytes;
use millstream_benches::pipe::{Ack, Pipe, Read};
use millstream_benches::quic::Error;
use millstream_benches::ratio::{Better, Row};
use millstream_benches::{disk, memory};
use millstream_client::Durability;

use crate::Plan;
use crate::child::{Limits, Running};
use crate::outcome::{Outcome, seconds_per_gib};
use crate::product::{Product, Sending};

const PRODUCERS: usize = 4;
const PARTITIONS: u32 = 4;
const BATCH_BYTES: usize = 1 << 20;
/// Batches of one producer without an ack: 32 MiB in all.
const DEPTH: usize = 8;
const SENDING: Sending = Sending { batch_bytes: BATCH_BYTES, depth: DEPTH, linger: Duration::from_millis(5) };

/// A load of produce.
pub struct Load {
    record_bytes: usize,
    durability: Durability,
    aim: Option<f64>,
}

pub const ONE_KIB: Load = Load { record_bytes: 1 << 10, durability: Durability::Synced, aim: Some(0.9) };
pub const HUNDRED_BYTES: Load = Load { record_bytes: 100, durability: Durability::Synced, aim: Some(0.8) };
pub const WRITTEN: Load = Load { record_bytes: 1 << 10, durability: Durability::Written, aim: None };

fn rate(bytes: u64, elapsed: Duration) -> f64 {
    bytes as f64 / 1e6 / elapsed.as_secs_f64()
}

/// Both sides with one size of datagrams.
struct Sides {
    product: Product,
    pipe: Pipe,
    pipe_server: Running,
}

impl Sides {
    fn start(plan: &Plan<'_>, name: &str, datagram: u16, cached_bytes: u64) -> Result<Self, Error> {
        let cached = plan.dir.join("cached");
        disk::fill(&cached, &memory::noise(1 << 20), cached_bytes)?;
        let pipe_server = Running::pipe(plan.dir, &cached, datagram, Limits::default())?;
        let pipe = Pipe::connect(pipe_server.address, &pipe_server.certificate())?;
        let product = Product::start(&plan.dir.join(format!("{name}-{datagram}")), datagram)?;
        Ok(Self { product, pipe, pipe_server })
    }

    fn end(self, outcome: Outcome, datagram: u16) -> Result<Outcome, Error> {
        let (mtu, lost) = self.pipe.path();
        if mtu + 100 < datagram {
            return Err(format!("the pipe's path carries datagrams of {mtu} bytes, asked for were {datagram}").into());
        }
        Ok(outcome.note("pipe_lost_packets", lost))
    }
}

/// Durable or written produce.
pub fn produce(name: &'static str, plan: &Plan<'_>, load: &Load) -> Result<Vec<Outcome>, Error> {
    let one = |datagram: &u16| produce_over(name, plan, load, *datagram);
    plan.datagrams.iter().map(one).collect()
}

fn produce_over(name: &'static str, plan: &Plan<'_>, load: &Load, datagram: u16) -> Result<Outcome, Error> {
    let bytes: u64 = plan.amount(512 << 20, 128 << 20);
    let sides = Sides::start(plan, name, datagram, 1 << 20)?;
    let Sides { product, pipe, pipe_server } = &sides;
    let value = Bytes::from(memory::noise(load.record_bytes));
    let batch = Bytes::from(memory::noise(BATCH_BYTES));
    let records = bytes / load.record_bytes as u64;
    let ack = if load.durability == Durability::Synced { Ack::Synced } else { Ack::Written };
    let (mut product_cpu, mut pipe_cpu) = (Vec::new(), Vec::new());
    let mut raw = || {
        let before = pipe_server.cpu()?;
        let took = pipe.produce(&batch, PRODUCERS, bytes as usize / BATCH_BYTES / PRODUCERS, DEPTH, ack)?;
        pipe_cpu.push(pipe_server.cpu()? - before);
        Ok::<_, Error>(rate(bytes, took))
    };
    let mut ours = || {
        let (took, cpu) = stored(product, load.durability, &value, records)?;
        product_cpu.push(cpu);
        Ok::<_, Error>(rate(records * load.record_bytes as u64, took))
    };
    // A round that nobody counts: paths find their datagram size, windows grow, the disk's pages are touched.
    raw()?;
    ours()?;
    let mut row = Row::new(name, "MB/s", Better::Higher, load.aim);
    for _ in 0..plan.rounds {
        row.round(&mut raw, &mut ours)?;
    }
    let outcome = Outcome::new(name, datagram, &row)
        .note("server_cpu_seconds_per_gib", seconds_per_gib(&product_cpu[1..], bytes))
        .note("ceiling_server_cpu_seconds_per_gib", seconds_per_gib(&pipe_cpu[1..], bytes));
    sides.end(outcome, datagram)
}

/// The time that it takes to produce records of that value into a new stream, and the server's processor time.
pub fn stored(
    product: &Product,
    durability: Durability,
    value: &Bytes,
    records: u64,
) -> Result<(Duration, Duration), Error> {
    product.create("bulk", PARTITIONS, durability)?;
    let before = product.server.cpu()?;
    let clients = std::slice::from_ref(&product.client);
    let took = product.produce("bulk", clients, PRODUCERS, value, records, SENDING)?;
    let cpu = product.server.cpu()? - before;
    product.remove("bulk")?;
    Ok((took, cpu))
}

/// Fetch of a cached backlog.
pub fn fetch(plan: &Plan<'_>) -> Result<Vec<Outcome>, Error> {
    plan.datagrams.iter().map(|datagram| fetch_over(plan, *datagram)).collect()
}

fn fetch_over(plan: &Plan<'_>, datagram: u16) -> Result<Outcome, Error> {
    let bytes: u64 = plan.amount(512 << 20, 64 << 20);
    let sides = Sides::start(plan, "fetch", datagram, bytes)?;
    let Sides { product, pipe, pipe_server } = &sides;
    let value = Bytes::from(memory::noise(1 << 10));
    let records = bytes / value.len() as u64;
    product.create("backlog", PARTITIONS, Durability::Synced)?;
    product.produce("backlog", std::slice::from_ref(&product.client), PRODUCERS, &value, records, SENDING)?;
    let (mut product_cpu, mut pipe_cpu) = (Vec::new(), Vec::new());
    let mut by_map = Vec::new();
    let mut raw = || {
        let before = pipe_server.cpu()?;
        let pread = rate(bytes, pipe.fetch(Read::Pread)?);
        pipe_cpu.push(pipe_server.cpu()? - before);
        by_map.push(rate(bytes, pipe.fetch(Read::Mapped)?));
        Ok::<_, Error>(pread)
    };
    let mut ours = || {
        let before = product.server.cpu()?;
        let took = product.fetch("backlog", records)?;
        product_cpu.push(product.server.cpu()? - before);
        Ok::<_, Error>(rate(bytes, took))
    };
    raw()?;
    ours()?;
    let mut row = Row::new("fetch", "MB/s", Better::Higher, Some(0.9));
    for _ in 0..plan.rounds {
        row.round(&mut raw, &mut ours)?;
    }
    let by_map = millstream_benches::ratio::Spread::of(by_map[1..].iter().copied()).median;
    let outcome = Outcome::new("fetch", datagram, &row)
        .note("mapped", by_map)
        .note("server_cpu_seconds_per_gib", seconds_per_gib(&product_cpu[1..], bytes))
        .note("ceiling_server_cpu_seconds_per_gib", seconds_per_gib(&pipe_cpu[1..], bytes));
    sides.end(outcome, datagram)
}
