//! How long one record takes: until its ack, and until a consumer has it.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use millstream_benches::pace::Ticks;
use millstream_benches::pipe::Pipe;
use millstream_benches::quic::{DATAGRAM_BYTES_MAX, Error};
use millstream_benches::ratio::{Better, Row};
use millstream_benches::{disk, memory};
use millstream_client::Durability;

use crate::Plan;
use crate::child::{Limits, Running};
use crate::outcome::Outcome;
use crate::product::Product;

const PER_SECOND: u32 = 1_000;
const STREAM: &str = "latency";

/// Both sides.
struct Sides {
    product: Product,
    pipe: Pipe,
    _pipe_server: Running,
    value: Bytes,
}

impl Sides {
    fn start(dir: &Path, name: &str) -> Result<Self, Error> {
        let cached = dir.join("cached");
        disk::fill(&cached, &memory::noise(1 << 10), 1 << 10)?;
        let pipe_server = Running::pipe(dir, &cached, DATAGRAM_BYTES_MAX, Limits::default())?;
        let pipe = Pipe::connect(pipe_server.address, &pipe_server.certificate())?;
        let product = Product::start(&dir.join(name), DATAGRAM_BYTES_MAX)?;
        product.create(STREAM, 1, Durability::Synced)?;
        Ok(Self { product, pipe, _pipe_server: pipe_server, value: Bytes::from(memory::noise(1 << 10)) })
    }
}

fn quantile_us(mut times: Vec<Duration>, quantile: f64) -> f64 {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    times[(last as f64 * quantile).round() as usize].as_secs_f64() * 1e6
}

/// Acks with one in flight.
pub fn ack(plan: &Plan<'_>) -> Result<Vec<Outcome>, Error> {
    let count = plan.amount(2_000, 500);
    let Sides { product, pipe, _pipe_server, value } = Sides::start(plan.dir, "ack")?;
    let raw = || Ok::<_, Error>(quantile_us(pipe.round_trips(&value, count)?, 0.5));
    let ours = || Ok::<_, Error>(quantile_us(product.round_trips(STREAM, &value, count)?, 0.5));
    raw()?;
    ours()?;
    let mut row = Row::new("ack", "µs", Better::Lower, Some(1.2));
    for _ in 0..plan.rounds {
        row.round(raw, ours)?;
    }
    Ok(vec![Outcome::new("ack", DATAGRAM_BYTES_MAX, &row)])
}

/// From when a record was due until its consumer has it.
pub fn tail(plan: &Plan<'_>) -> Result<Vec<Outcome>, Error> {
    let count = plan.amount(5_000, 1_000);
    let Sides { product, pipe, _pipe_server, value } = Sides::start(plan.dir, "tail")?;
    let (mut p50, mut ceiling_p50) = (Vec::new(), Vec::new());
    let mut raw = || {
        let times = pipe.paced_round_trips(&value, Ticks::start(PER_SECOND, count))?;
        ceiling_p50.push(quantile_us(times.clone(), 0.5));
        Ok::<_, Error>(quantile_us(times, 0.99))
    };
    let mut ours = || {
        let times = product.tail(STREAM, &value, count, Ticks::start(PER_SECOND, count))?;
        p50.push(quantile_us(times.clone(), 0.5));
        Ok::<_, Error>(quantile_us(times, 0.99))
    };
    let mut row = Row::new("tail", "µs", Better::Lower, Some(1.3));
    for _ in 0..plan.rounds {
        row.round(&mut raw, &mut ours)?;
    }
    let median = |figures: Vec<f64>| millstream_benches::ratio::Spread::of(figures).median;
    let outcome = Outcome::new("tail", DATAGRAM_BYTES_MAX, &row)
        .note("p50_us", median(p50))
        .note("ceiling_p50_us", median(ceiling_p50));
    Ok(vec![outcome])
}
