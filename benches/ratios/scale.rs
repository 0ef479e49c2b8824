//! Many partitions and many connections, against few: the product is its own ceiling.

use std::cell::Cell;
use std::time::Duration;

use bytes::Bytes;
use millstream_benches::memory;
use millstream_benches::pipe::{Ack, Pipe};
use millstream_benches::quic::{DATAGRAM_BYTES_MAX, Error};
use millstream_benches::ratio::{Better, Row};
use millstream_client::{Client, Durability};
use tokio::task::JoinSet;

use crate::Plan;
use crate::child::{Limits, Running};
use crate::outcome::Outcome;
use crate::product::{Product, Sending};

const MANY: usize = 1_000;
const FEW: usize = 4;
/// A load of many partitions has small batches: as large as Kafka's by default.
const BATCH_BYTES: usize = 16 << 10;
/// Who has a connection of his own gathers as much as he likes.
const BATCH_BYTES_OF_CONNECTIONS: usize = 64 << 10;
const RECORD_BYTES: usize = 1 << 10;
/// Batches without an ack, of all producers.
const IN_FLIGHT: usize = 2_000;
/// The memory a server may take for 1,000 connections.
const MEMORY_MIB: f64 = 1_024.0;
const STREAM: &str = "scale";

/// 1,000 partitions against 1. Records have no keys: a producer fills a batch, and goes on with the next partition.
pub fn partitions(plan: &Plan<'_>) -> Result<Vec<Outcome>, Error> {
    let bytes: u64 = plan.amount(512 << 20, 64 << 20);
    let product = Product::start(&plan.dir.join("partitions"), DATAGRAM_BYTES_MAX)?;
    let value = Bytes::from(memory::noise(RECORD_BYTES));
    let sending = Sending { batch_bytes: BATCH_BYTES, depth: IN_FLIGHT / FEW, linger: Duration::from_millis(5) };
    let row = few_and_many("partitions", plan.rounds, |is_many| {
        product.create(STREAM, if is_many { MANY as u32 } else { 1 }, Durability::Synced)?;
        let records = bytes / RECORD_BYTES as u64;
        let clients = std::slice::from_ref(&product.client);
        let took = product.produce(STREAM, clients, FEW, &value, records, sending)?;
        product.remove(STREAM)?;
        Ok(bytes as f64 / 1e6 / took.as_secs_f64())
    })?;
    Ok(vec![Outcome::new("partitions", DATAGRAM_BYTES_MAX, &row).note("batch_bytes", BATCH_BYTES)])
}

/// 1,000 connections against 4, a producer on each.
pub fn connections(plan: &Plan<'_>) -> Result<Vec<Outcome>, Error> {
    let bytes: u64 = plan.amount(512 << 20, 128 << 20);
    let many = MANY.min(plan.open_files_max.saturating_sub(100) as usize);
    let product = Product::start_with(&plan.dir.join("connections"), DATAGRAM_BYTES_MAX, Limits::RAISED)?;
    let value = Bytes::from(memory::noise(RECORD_BYTES));
    let few = connect(&product, FEW)?;
    let all = connect(&product, many)?;
    let memory_mib = Cell::new(0.0_f64);
    let row = few_and_many("connections", plan.rounds, |is_many| {
        let clients = if is_many { &all } else { &few };
        let depth = (IN_FLIGHT / clients.len()).max(1);
        let sending = Sending { batch_bytes: BATCH_BYTES_OF_CONNECTIONS, depth, linger: Duration::from_millis(5) };
        product.create(STREAM, FEW as u32, Durability::Synced)?;
        let took = product.produce(STREAM, clients, clients.len(), &value, bytes / RECORD_BYTES as u64, sending)?;
        memory_mib.set(memory_mib.get().max(product.server.memory()? as f64 / (1 << 20) as f64));
        product.remove(STREAM)?;
        Ok(bytes as f64 / 1e6 / took.as_secs_f64())
    })?;
    let memory_mib = memory_mib.into_inner();
    if memory_mib > MEMORY_MIB {
        return Err(format!("the server took {memory_mib:.0} MiB for {many} connections, above 1 GiB").into());
    }
    let mut outcome = Outcome::new("connections", DATAGRAM_BYTES_MAX, &row)
        .note("connections", many)
        .note("batch_bytes", BATCH_BYTES_OF_CONNECTIONS)
        .note("server_memory_mib", memory_mib)
        .note("raised", Limits::RAISED.to_string());
    drop((few, all, product));
    if !plan.quick {
        outcome = outcome.note("pipe_ratio", pipe_connections(plan, many, bytes)?);
    }
    Ok(vec![outcome])
}

/// What QUIC itself takes for so many: the pipe's own ratio, with as much in flight.
fn pipe_connections(plan: &Plan<'_>, many: usize, bytes: u64) -> Result<f64, Error> {
    let server = Running::pipe(plan.dir, plan.dir, DATAGRAM_BYTES_MAX, Limits::RAISED)?;
    let connect = |connections| Pipe::connect_many(server.address, &server.certificate(), connections);
    let (few, all) = (connect(FEW)?, connect(many)?);
    let batch = Bytes::from(memory::noise(BATCH_BYTES_OF_CONNECTIONS));
    let row = few_and_many("connections", plan.rounds, |is_many| {
        let (pipe, streams) = if is_many { (&all, many) } else { (&few, FEW) };
        let count = bytes as usize / batch.len() / streams;
        let took = pipe.produce(&batch, streams, count, (IN_FLIGHT / streams).max(1), Ack::Synced)?;
        Ok((batch.len() * count * streams) as f64 / 1e6 / took.as_secs_f64())
    })?;
    Ok(row.quotient().median)
}

/// Rounds of the same load over few and over many, in turn; one before that nobody counts.
fn few_and_many(name: &'static str, rounds: usize, run: impl Fn(bool) -> Result<f64, Error>) -> Result<Row, Error> {
    let mut row = Row::new(name, "MB/s", Better::Higher, Some(0.8));
    run(false)?;
    run(true)?;
    for _ in 0..rounds {
        row.round(|| run(false), || run(true))?;
    }
    Ok(row)
}

/// So many connections, some at a time: a server lets no more than some hundred shake hands at once.
pub fn connect(product: &Product, count: usize) -> Result<Vec<Client>, Error> {
    const AT_ONCE: usize = 32;
    product.runtime.block_on(async {
        let mut clients = Vec::with_capacity(count);
        while clients.len() < count {
            let mut connecting = JoinSet::new();
            for _ in 0..AT_ONCE.min(count - clients.len()) {
                let (address, identity) = (product.server.address.to_string(), product.server.identity.clone());
                connecting.spawn(async move { Client::connect(address, identity.as_str()).await });
            }
            while let Some(connected) = connecting.join_next().await {
                clients.push(connected??);
            }
        }
        Ok(clients)
    })
}
